//! What the running node goes by, beside what the files say: a file that was changed since the start, a value that was set at run time, a
//! file that the node did not read.

use super::broker::{self, Node};
use super::conf::{Conf, Setting, WantedListener, schemas, units};
use super::names::Names;
use super::os::Install;
use super::process::Processes;
use super::sockets::Socket;
use super::{Fact, Where};
use crate::host::rpc::{self, Call, EnvKey, Target};
use crate::host::{Got, Host, Miss};
use eetf::Term;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;

/// The running node beside its configuration files.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Running {
    /// Files that the node read when it started and that are gone, or that are older than the start and that it did not read.
    pub files: Fact<Vec<OtherFile>>,
    /// Settings in which the files and the running node differ, as far as that can be seen.
    pub differences: Fact<Vec<Difference>>,
    /// A file was changed after the start, and either says something else than what runs or could not be compared.
    pub stale: Fact<bool>,
    /// The differences since the start in one line; empty: none is known.
    pub what: String,
}

/// A file of which node and host disagree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct OtherFile {
    pub path: String,
    /// gone: the node read it, and it is not there any more · not-read: it is there, and the node did not read it
    pub state: String,
}

/// One setting.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Difference {
    /// As rabbitmq.conf spells it, else the application and its key (`rabbit.ssl_options`).
    pub key: String,
    /// What the files make of it; null: not shown.
    pub file: Option<String>,
    /// What the node runs with; null: not shown.
    pub running: Option<String>,
    pub at: Option<Where>,
    /// changed-since-start | set-at-run-time
    pub why: String,
}

/// A file that changed this many seconds after the start was not read by it: the VM takes a moment from its start to its files.
const GRACE: i64 = 2;

/// Why a setting differs: see [`Difference::why`].
const SINCE_START: &str = "changed-since-start";

/// Settings of one value each that the broker runs with as they are written, and their keys.
const PLAIN: [(&str, EnvKey); 10] = [
    ("heartbeat", EnvKey::Heartbeat),
    ("handshake_timeout", EnvKey::HandshakeTimeout),
    ("channel_max", EnvKey::ChannelMax),
    ("connection_max", EnvKey::ConnectionMax),
    ("max_message_size", EnvKey::MaxMessageSize),
    ("consumer_timeout", EnvKey::ConsumerTimeout),
    ("collect_statistics_interval", EnvKey::CollectStatisticsInterval),
    ("proxy_protocol", EnvKey::ProxyProtocol),
    ("default_user", EnvKey::DefaultUser),
    ("default_vhost", EnvKey::DefaultVhost),
];

/// Lays node and files beside each other. Null: no broker runs.
pub fn collect(
    host: &dyn Host,
    process: &Processes,
    sockets: &Fact<Vec<Socket>>,
    names: &Names,
    node: &Fact<Option<Node>>,
    conf: &Conf,
    install: &Fact<Option<Install>>,
) -> Fact<Option<Running>> {
    let beam = match &process.beam {
        Fact::Known(Some(beam)) => beam,
        Fact::Known(None) => return Fact::Known(None),
        Fact::Unknown(why) => return Fact::Unknown(why.clone()),
    };
    let changed = changed(conf, beam.started);
    let asked = match node {
        Fact::Known(Some(node)) if node.source == "rpc" => {
            broker::target(beam, sockets, names).map(|target| (node, target)).map_err(|miss| miss.to_string())
        }
        Fact::Known(Some(_)) => Err("the node could not be asked over its distribution port".to_owned()),
        Fact::Known(None) => return Fact::Known(None),
        Fact::Unknown(why) => Err(why.clone()),
    };
    let (node, target) = match asked {
        Ok(asked) => asked,
        // Without the node only dates can be compared.
        Err(why) => {
            let unknown = Running {
                files: Fact::Unknown(why.clone()),
                differences: Fact::Unknown(why),
                stale: changed,
                what: String::new(),
            };
            return Fact::Known(Some(unknown));
        }
    };
    let version = install.known().and_then(Option::as_ref).map(|i| schemas::numbers(&i.version));
    let series = version.map_or((99, 0), |(major, minor, _)| (major, minor));
    Fact::Known(Some(Comparison { host, target, node, conf, started: beam.started, series }.all(changed)))
}

fn changed(conf: &Conf, started: i64) -> Fact<bool> {
    conf.newest_mtime.as_ref().map(|m| *m > started + GRACE)
}

impl Difference {
    /// `heartbeat: 30 in the files, 60 running`
    fn line(&self) -> String {
        match (&self.file, &self.running) {
            (Some(file), Some(running)) => format!("{}: {file} in the files, {running} running", self.key),
            (Some(file), None) => format!("{}: {file} in the files, not set in the running node", self.key),
            _ => self.key.clone(),
        }
    }
}

struct Comparison<'a> {
    host: &'a dyn Host,
    target: Target,
    node: &'a Node,
    conf: &'a Conf,
    /// Seconds since the epoch.
    started: i64,
    /// Of RabbitMQ: major and minor.
    series: (u32, u32),
}

impl Comparison<'_> {
    fn all(&self, changed: Fact<bool>) -> Running {
        let differences = self.here();
        let (differences, stale) = match (differences, changed) {
            (Fact::Known(found), Fact::Known(true)) => self.whole(found),
            (Fact::Known(found), Fact::Known(false)) => {
                let since = found.iter().any(|d| d.why == SINCE_START);
                (Fact::Known(found), Fact::Known(since))
            }
            (Fact::Unknown(why), Fact::Known(changed)) => (Fact::Unknown(why), Fact::Known(changed)),
            (found, Fact::Unknown(why)) => (found, Fact::Unknown(why)),
        };
        let since = differences.known().into_iter().flatten().filter(|d| d.why == SINCE_START);
        let what = since.map(Difference::line).collect::<Vec<_>>().join("; ");
        Running { files: self.files(), differences, stale, what }
    }

    /// A file was changed: the node itself is asked what it would make of the files now. It logs errors of files that it would refuse, so
    /// it is only asked about those that it will take.
    fn whole(&self, mut found: Vec<Difference>) -> (Fact<Vec<Difference>>, Fact<bool>) {
        let answer = match self.conf.boots {
            Fact::Known(true) => self.ask(&Call::Differences(self.conf.files_to_read())),
            _ => Err(Miss::Unavailable { what: "the node".into(), why: "it would not start with these files".into() }),
        };
        let listed = answer.as_ref().ok().and_then(rpc::items).map(<[Term]>::to_vec);
        match listed {
            Some(all) => {
                for difference in all.iter().filter_map(|term| self.told(term)) {
                    if !found.iter().any(|known| known.key == difference.key) {
                        found.push(difference);
                    }
                }
                let stale = found.iter().any(|d| d.why == SINCE_START);
                (Fact::Known(found), Fact::Known(stale))
            }
            // What could not be compared may differ.
            None => (Fact::Known(found), Fact::Known(true)),
        }
    }

    /// `{App, Key, Value, RunningValue}`
    fn told(&self, term: &Term) -> Option<Difference> {
        let [app, key, file, running] = rpc::elements(term) else { return None };
        let (app, key) = (rpc::name(app)?, rpc::name(key)?);
        // The broker makes defaults of the log for any file, and none where there is no file.
        let about_log = || self.settings().keys().any(|k| k.starts_with("log."));
        if key == "log" && rpc::name(running) == Some("none") && !about_log() {
            return None;
        }
        let value = |term: &Term| rpc::text(term).filter(|_| rpc::name(term).is_none());
        let name = written(app, key);
        let at =
            self.settings().iter().find(|(k, _)| **k == name || k.starts_with(&format!("{name}."))).map(|(_, s)| s.at.clone());
        Some(Difference { key: name, file: value(file), running: value(running), at, why: SINCE_START.into() })
    }

    fn settings(&self) -> &BTreeMap<String, Setting> {
        static NONE: BTreeMap<String, Setting> = BTreeMap::new();
        self.conf.settings.known().unwrap_or(&NONE)
    }

    fn ask(&self, call: &Call) -> Got<Term> {
        self.host.call(&self.target, call)
    }

    /// A setting of the node's `rabbit` application; null: not set.
    fn now(&self, key: EnvKey) -> Got<Option<Term>> {
        let answer = self.ask(&Call::RabbitEnv(key))?;
        match rpc::elements(&answer) {
            [ok, value] if rpc::name(ok) == Some("ok") => Ok(Some(value.clone())),
            _ => Ok(None),
        }
    }

    /// What can be compared without the node's help: it costs next to nothing, and sees a file that kept an old date.
    fn here(&self) -> Fact<Vec<Difference>> {
        let (settings, advanced) = match (&self.conf.settings, &self.conf.advanced) {
            (Fact::Known(settings), Fact::Known(advanced)) => (settings, advanced),
            (Fact::Unknown(why), _) | (_, Fact::Unknown(why)) => return Fact::Unknown(why.clone()),
        };
        let own = |key: &str| !advanced.iter().any(|a| a == &format!("rabbit.{key}"));
        let mut found = Vec::new();
        for (name, key) in PLAIN.iter().filter(|(name, _)| own(name)) {
            let Some(setting) = settings.get(*name).filter(|s| !s.value.contains("$(")) else { continue };
            match self.now(*key) {
                Ok(Some(value)) if rpc::brief(&value) != plain(&setting.value) => {
                    found.push(self.difference(name, &setting.value, rpc::brief(&value), Some(setting.at.clone())));
                }
                Ok(_) => {}
                Err(miss) => return miss.into(),
            }
        }
        if own("loopback_users") {
            found.extend(self.loopback_users());
        }
        for (service, key, name) in
            [("amqp", EnvKey::TcpListeners, "listeners.tcp"), ("amqps", EnvKey::SslListeners, "listeners.ssl")]
        {
            found.extend(self.listeners(service, key, name));
        }
        if own("disk_free_limit") {
            found.extend(self.disk(settings));
        }
        if own("vm_memory_high_watermark") {
            found.extend(self.memory(settings));
        }
        Fact::Known(found)
    }

    fn difference(&self, key: &str, file: &str, running: String, at: Option<Where>) -> Difference {
        let edited =
            at.as_ref().and_then(|at| self.host.stat(Path::new(&at.file), true).ok()).map(|m| m.mtime > self.started + GRACE);
        // A setting that was taken out has no place: then any file that changed may have held it.
        let any = || changed(self.conf, self.started) == Fact::Known(true);
        let why = if edited.unwrap_or_else(any) { SINCE_START } else { "set-at-run-time" };
        Difference { key: key.into(), file: Some(file.into()), running: Some(running), at, why: why.into() }
    }

    fn loopback_users(&self) -> Option<Difference> {
        let (file, now) = (self.conf.loopback_users.known()?, self.node.loopback_users.known()?);
        let set = |users: &[String]| users.iter().cloned().collect::<BTreeSet<_>>();
        let shown = |users: &[String]| if users.is_empty() { "none".to_owned() } else { users.join(", ") };
        let differ = set(&file.users) != set(now);
        differ.then(|| self.difference("loopback_users", &shown(&file.users), shown(now), file.at.clone()))
    }

    fn listeners(&self, service: &str, key: EnvKey, name: &str) -> Option<Difference> {
        let wanted: Vec<&WantedListener> = self.conf.listeners.known()?.iter().filter(|l| l.service == service).collect();
        let now = self.now(key).ok()??;
        let now: Vec<(String, i64)> = match &now {
            // Ports below 256 arrive as a string.
            Term::ByteList(list) => list.bytes.iter().map(|b| ("auto".to_owned(), i64::from(*b))).collect(),
            other => rpc::items(other)?.iter().map(listener).collect::<Option<_>>()?,
        };
        // A host name stands for what it resolves to.
        let named = now.iter().any(|(address, _)| address != "auto" && address.parse::<IpAddr>().is_err());
        let place = |(address, port): (String, i64)| (if named { String::new() } else { address }, port);
        let set = |all: &[(String, i64)]| all.iter().cloned().map(place).collect::<BTreeSet<_>>();
        let file: Vec<(String, i64)> = wanted.iter().map(|l| (l.address.clone(), l.port)).collect();
        let shown = |all: &[(String, i64)]| {
            let one =
                |(address, port): &(String, i64)| if address == "auto" { port.to_string() } else { format!("{address}:{port}") };
            if all.is_empty() { "none".to_owned() } else { all.iter().map(one).collect::<Vec<_>>().join(", ") }
        };
        let at = wanted.iter().find_map(|l| l.at.clone());
        (set(&file) != set(&now)).then(|| self.difference(name, &shown(&file), shown(&now), at))
    }

    fn disk(&self, settings: &BTreeMap<String, Setting>) -> Option<Difference> {
        const KEY: &str = "disk_free_limit.absolute";
        let setting = settings.get(KEY)?;
        let (file, now) = (units::bytes(&setting.value, self.series)?, *self.node.disk_free_limit.known()?);
        (file != now).then(|| self.difference(KEY, &setting.value, now.to_string(), Some(setting.at.clone())))
    }

    fn memory(&self, settings: &BTreeMap<String, Setting>) -> Option<Difference> {
        const KEYS: [&str; 2] = ["vm_memory_high_watermark.absolute", "vm_memory_high_watermark.relative"];
        let (key, setting) = KEYS.iter().find_map(|key| Some((*key, settings.get(*key)?)))?;
        let now = self.ask(&Call::MemoryWatermark).ok()?;
        let same = match (key == KEYS[0], rpc::elements(&now)) {
            (true, [_, size]) => {
                let size = rpc::integer(size).or_else(|| units::bytes(&rpc::text(size)?, self.series))?;
                units::bytes(&setting.value, self.series)? == size
            }
            (false, []) => share(&now)? == setting.value.parse::<f64>().ok()?,
            _ => false,
        };
        (!same).then(|| self.difference(key, &setting.value, rpc::brief(&now), Some(setting.at.clone())))
    }

    /// Files of which node and host disagree, a change since the start apart.
    fn files(&self) -> Fact<Vec<OtherFile>> {
        let here = match &self.conf.files {
            Fact::Known(files) => files,
            Fact::Unknown(why) => return Fact::Unknown(why.clone()),
        };
        let state = match self.ask(&Call::ConfigState) {
            Ok(state) => state,
            Err(miss) => return miss.into(),
        };
        let Some(mut read) = rpc::field(&state, "config_files")
            .and_then(rpc::items)
            .map(|all| all.iter().filter_map(rpc::text).collect::<Vec<_>>())
        else {
            // A node without any file keeps no list.
            return Fact::Known(Vec::new());
        };
        read.extend(rpc::field(&state, "config_advanced_file").filter(|f| rpc::name(f).is_none()).and_then(rpc::text));
        let gone = |path: &&String| !self.host.stat(Path::new(path), true).is_ok_and(|_| true);
        let other = |path: &str, state: &str| OtherFile { path: path.into(), state: state.into() };
        let mut others: Vec<OtherFile> = read.iter().filter(gone).map(|path| other(path, "gone")).collect();
        let unread = here.iter().filter(|f| f.used && f.mtime <= self.started && !read.contains(&f.path));
        others.extend(unread.map(|f| other(&f.path, "not-read")));
        Fact::Known(others)
    }
}

/// `5672`, `{"auto", 5672}`, `{"127.0.0.1", 5672}`
fn listener(term: &Term) -> Option<(String, i64)> {
    if let Some(port) = rpc::integer(term) {
        return Some(("auto".to_owned(), port));
    }
    let [address, port, ..] = rpc::elements(term) else { return None };
    Some((rpc::text(address)?, rpc::integer(port)?))
}

fn share(term: &Term) -> Option<f64> {
    match term {
        Term::Float(share) => Some(share.value),
        other => rpc::integer(other).and_then(|i| i32::try_from(i).ok()).map(f64::from),
    }
}

/// A number as the broker reads it: without leading zeros.
fn plain(value: &str) -> String {
    value.parse::<i64>().map_or_else(|_| value.to_owned(), |number| number.to_string())
}

/// A key of the core as rabbitmq.conf spells it, where it is known to.
fn written(app: &str, key: &str) -> String {
    match (app, key) {
        ("rabbit", "tcp_listeners") => "listeners.tcp".into(),
        ("rabbit", "ssl_listeners") => "listeners.ssl".into(),
        ("rabbit", key)
            if PLAIN.iter().any(|(name, _)| *name == key)
                || ["loopback_users", "auth_backends", "auth_mechanisms", "ssl_options", "log"].contains(&key) =>
        {
            key.into()
        }
        ("rabbit", "vm_memory_high_watermark" | "disk_free_limit" | "cluster_partition_handling" | "default_pass") => key.into(),
        ("rabbitmq_mqtt" | "rabbitmq_stomp" | "rabbitmq_stream", "tcp_listeners") => {
            format!("{}.listeners.tcp", app.trim_start_matches("rabbitmq_"))
        }
        ("rabbitmq_mqtt" | "rabbitmq_stomp" | "rabbitmq_stream", "ssl_listeners") => {
            format!("{}.listeners.ssl", app.trim_start_matches("rabbitmq_"))
        }
        (app, key) => format!("{app}.{key}"),
    }
}

//! What is known about the host: plain data, collected through [`crate::host::Host`], judged by rules.
//!
//! Every leaf that may be unknown is a [`Fact`]; inside it `Option` means "looked, and it is not there". In JSON a known fact
//! is its value, an absent one `null`, and an unknown one `{"$unknown": "reason"}`; the rules' input takes these out before a
//! condition sees the tree, so that an unknown can never look like a value.

use crate::host::overlay::Overlay;
use crate::host::rpc::{ConfigFiles, Target};
use crate::host::{Got, Host, Miss};
use serde::{Deserialize, Serialize, Serializer};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// A value that was seen, or the reason why it was not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fact<T> {
    Known(T),
    Unknown(String),
}

impl<T> Fact<T> {
    pub fn known(&self) -> Option<&T> {
        match self {
            Fact::Known(t) => Some(t),
            Fact::Unknown(_) => None,
        }
    }
    pub fn why(&self) -> Option<&str> {
        match self {
            Fact::Known(_) => None,
            Fact::Unknown(w) => Some(w),
        }
    }
    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> Fact<U> {
        match self {
            Fact::Known(t) => Fact::Known(f(t)),
            Fact::Unknown(w) => Fact::Unknown(w),
        }
    }
    /// The same with work that may leave it unknown.
    pub fn and_then<U>(self, f: impl FnOnce(T) -> Fact<U>) -> Fact<U> {
        match self {
            Fact::Known(t) => f(t),
            Fact::Unknown(w) => Fact::Unknown(w),
        }
    }
    pub fn as_ref(&self) -> Fact<&T> {
        match self {
            Fact::Known(t) => Fact::Known(t),
            Fact::Unknown(w) => Fact::Unknown(w.clone()),
        }
    }
}

/// The shape of a group of facts of which nothing is known.
pub trait Blank {
    /// Every leaf unknown, for this reason.
    fn blank(why: &str) -> Self;
}

impl<T> Blank for Fact<T> {
    fn blank(why: &str) -> Self {
        Fact::Unknown(why.to_owned())
    }
}

impl<T> From<Got<T>> for Fact<T> {
    fn from(got: Got<T>) -> Self {
        match got {
            Ok(t) => Fact::Known(t),
            Err(m) => Fact::Unknown(m.to_string()),
        }
    }
}

impl<T> From<Miss> for Fact<T> {
    fn from(m: Miss) -> Self {
        Fact::Unknown(m.to_string())
    }
}

impl<T: Serialize> Serialize for Fact<T> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            Fact::Known(t) => t.serialize(s),
            Fact::Unknown(why) => BTreeMap::from([("$unknown", why)]).serialize(s),
        }
    }
}

#[cfg(test)]
impl<T: schemars::JsonSchema> schemars::JsonSchema for Fact<T> {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        T::schema_name()
    }
    fn json_schema(g: &mut schemars::SchemaGenerator) -> schemars::Schema {
        T::json_schema(g)
    }
    fn inline_schema() -> bool {
        T::inline_schema()
    }
}

/// A place in a file. Lines and columns count from 1.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Where {
    pub file: String,
    pub line: Option<u32>,
    pub column: Option<u32>,
}

pub mod arrival;
pub mod broker;
pub mod clients;
pub mod cluster;
pub mod conf;
pub mod env;
pub mod exposure;
pub mod files;
pub mod firewall;
pub mod listeners;
pub mod log;
pub mod names;
pub mod net;
pub mod os;
pub mod plugins;
pub mod process;
pub mod release;
pub mod resources;
pub mod running;
pub mod service;
pub mod sockets;
pub mod tls;
pub mod unit;

/// Looks at the host. Whatever goes wrong, a collector's crash included, makes facts unknown and never ends the audit.
///
/// What needs a program or the network to answer (systemctl, the packet filter's tools, getent, the broker) runs beside
/// the rest.
pub fn collect(host: &dyn Host) -> Facts {
    let os = guarded(|| os::collect(host));
    let boot_time = os.boot_time.clone();
    std::thread::scope(|scope| {
        let unit = scope.spawn(|| guarded(|| unit::collect(host, &boot_time)));
        let firewall = scope.spawn(|| guarded(|| firewall::collect(host)));
        let net = guarded(|| net::collect(host));
        let install = guarded(|| os::collect_install(host));
        let release = guarded(|| release::collect(host, &os, &install));
        let process = guarded(|| process::collect(host, &boot_time));
        let mut sockets = guarded(|| sockets::collect(host, &process));

        let ask = |env: &env::Env| {
            let names = guarded(|| names::collect(host, env, &process, &net));
            let node = guarded(|| broker::collect(host, &process, &sockets, &names));
            (names, node)
        };
        // systemd takes longest to answer, and its unit seldom sets a variable: what rests on the variables alone is asked for
        // meanwhile as if it set none, and asked for again if it does.
        let without_unit = guarded(|| env::collect(host, &Fact::Known(None)));
        let meanwhile = ask(&without_unit);

        let unit = joined(unit);
        let env = guarded(|| env::collect(host, &unit));
        let (names, node) = if env.vars == without_unit.vars { meanwhile } else { ask(&env) };
        let configuration = || {
            let plugins = guarded(|| plugins::collect(host, &install, &env));
            let conf = guarded(|| conf::collect(host, &install, &env, &plugins, &net));
            (plugins, conf)
        };
        let from_disk = || {
            let started = process.beam.known().and_then(|b| b.as_ref()).map(|b| b.started);
            let unit_since = unit.known().and_then(|u| u.as_ref()).map(|u| u.since);
            let log = guarded(|| log::collect(host, &names.node, started, unit_since));
            let files = guarded(|| files::collect(host, &install, &env, &names, &node));
            let runs = process.beam.as_ref().map(Option::is_some);
            let service = guarded(|| service::collect(host, &unit, &install, &files, &runs));
            (log, files, service, guarded(|| resources::collect(host, &env, &names, &process)))
        };
        let ((plugins, conf), (log, files, service, resources)) = together(configuration, from_disk);

        if let Fact::Known(sockets) = &mut sockets {
            sockets::find_owners(host, &process, sockets, &listeners::ports(&conf.listeners));
        }
        let listeners = guarded(|| listeners::derive(&conf.listeners, &sockets, &node, &net));
        let around = tls::Around { install: &install, names: &names, net: &net, now: os.now };
        let tls = guarded(|| tls::collect(host, &around, &conf, &listeners));
        let running = guarded(|| running::collect(host, &process, &sockets, &names, &node, &conf, &install));
        let firewall = joined(firewall);
        let clients = Vec::new();
        let exposure = Fact::blank("not derived yet");
        let cluster = cluster::Cluster::blank("not derived yet");
        Facts {
            os,
            install,
            release,
            unit,
            service,
            process,
            sockets,
            net,
            names,
            env,
            conf,
            plugins,
            node,
            running,
            firewall,
            log,
            files,
            resources,
            listeners,
            tls,
            clients,
            exposure,
            cluster,
        }
    })
}

/// Where the running broker's node can be asked at this moment; it may have started a second ago.
pub fn broker_target(host: &dyn Host) -> Got<Target> {
    let boot_time = os::collect(host).boot_time;
    let process = process::collect(host, &boot_time);
    let sockets = sockets::collect(host, &process);
    let env = env::collect(host, &unit::collect(host, &boot_time));
    let names = names::collect(host, &env, &process, &net::collect(host));
    match &process.beam {
        Fact::Known(Some(beam)) => broker::target(beam, &sockets, &names),
        Fact::Known(None) => Err(Miss::Absent { what: "a running RabbitMQ".into() }),
        Fact::Unknown(why) => Err(Miss::failed("the broker's process", why)),
    }
}

/// What would come of files that are not written yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forecast {
    /// Why the broker would not boot with them.
    pub verdict: Result<(), String>,
    /// The configuration files that it would read.
    pub files: ConfigFiles,
}

/// Whether the broker would boot with these files in place of those on the host (`None`: removed).
pub fn would_boot(host: &dyn Host, files: &BTreeMap<PathBuf, Option<Vec<u8>>>) -> Forecast {
    let after = Overlay::new(host, files.clone());
    let unit = unit::collect(host, &os::collect(host).boot_time);
    let (install, env) = (os::collect_install(host), env::collect(&after, &unit));
    let conf = conf::check_with(host, &install, &env, &net::collect(host), files.clone());
    let fatal = conf.problems.known().and_then(|problems| problems.iter().find(|p| p.fatal));
    let verdict = match (&conf.boots, fatal) {
        (Fact::Known(false), Some(p)) => Err(format!("{}:{}: {}", p.at.file, p.at.line.unwrap_or(0), p.message)),
        (Fact::Known(false), None) => Err("the broker would not boot with this configuration".into()),
        _ => Ok(()),
    };
    Forecast { verdict, files: conf.files_to_read() }
}

const CRASHED: &str = "this part of rmq-audit crashed; please report it";

/// Runs a collector; a panic becomes unknown facts.
fn guarded<T: Blank>(collector: impl FnOnce() -> T) -> T {
    // What a collector had half done is dropped with it: it owns nothing that others see.
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(collector)).unwrap_or_else(|_| T::blank(CRASHED))
}

/// Runs both at once; neither may panic but for what [`guarded`] catches.
fn together<A: Send, B>(a: impl FnOnce() -> A + Send, b: impl FnOnce() -> B) -> (A, B) {
    std::thread::scope(|scope| {
        let a = scope.spawn(a);
        let b = b();
        (a.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), b)
    })
}

/// The result of a collector's thread.
fn joined<T: Blank>(thread: std::thread::ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|_| T::blank(CRASHED))
}

impl Blank for env::Env {
    fn blank(why: &str) -> Self {
        env::Env {
            file: String::new(),
            present: Fact::blank(why),
            vars: Fact::blank(why),
            vm_flags: Fact::blank(why),
            secret_readable: Fact::blank(why),
            process: Default::default(),
            problems: Fact::blank(why),
        }
    }
}

impl Blank for conf::Conf {
    fn blank(why: &str) -> Self {
        conf::Conf {
            files: Fact::blank(why),
            settings: Fact::blank(why),
            advanced: Fact::blank(why),
            problems: Fact::blank(why),
            boots: Fact::blank(why),
            listeners: Fact::blank(why),
            tls: Fact::blank(why),
            loopback_users: Fact::blank(why),
            default_user: Fact::blank(why),
            passed_over: Fact::blank(why),
            newest_mtime: Fact::blank(why),
        }
    }
}

impl Blank for plugins::Plugins {
    fn blank(why: &str) -> Self {
        plugins::Plugins {
            file: String::new(),
            enabled: Fact::blank(why),
            available: Fact::blank(why),
            missing: Fact::blank(why),
            problem: Fact::blank(why),
            started: Fact::blank(why),
        }
    }
}

impl Blank for log::Log {
    fn blank(why: &str) -> Self {
        log::Log {
            sources: Fact::blank(why),
            events: Fact::blank(why),
            boot_failure: Fact::blank(why),
            refusals: Fact::blank(why),
        }
    }
}

/// Everything that is known about a host. The field names are what rules write.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Facts {
    pub os: os::Os,
    pub install: Fact<Option<os::Install>>,
    /// The installed release: support, Erlang, upgrades; null: none is installed.
    pub release: Fact<Option<release::Release>>,
    pub unit: Fact<Option<unit::Unit>>,
    /// What the unit's files and the host do to the service.
    pub service: service::Service,
    pub process: process::Processes,
    pub sockets: Fact<Vec<sockets::Socket>>,
    pub net: net::Net,
    pub names: names::Names,
    pub env: env::Env,
    pub conf: conf::Conf,
    pub plugins: plugins::Plugins,
    pub node: Fact<Option<broker::Node>>,
    /// Derived: what the running node makes of its configuration, beside the files; null: no broker VM runs.
    pub running: Fact<Option<running::Running>>,
    pub firewall: Fact<firewall::Firewall>,
    pub log: log::Log,
    pub files: files::Files,
    pub resources: resources::Resources,
    /// Derived: what this broker should listen on and whether it does.
    pub listeners: Fact<Vec<listeners::Listener>>,
    /// Certificates, keys and versions of TLS: files, and handshakes with the listeners that are open.
    pub tls: tls::Tls,
    /// Derived: one entry per client that must connect.
    pub clients: Vec<clients::Client>,
    /// Derived: from where the broker's ports can be reached.
    pub exposure: Fact<Vec<exposure::Exposed>>,
    /// Derived: the cluster that this node is in, and the ways of its other nodes to this host.
    pub cluster: cluster::Cluster,
}

//! The effective configuration with the origin of every setting, and what keeps the broker from booting.

pub mod access;
pub(crate) mod advanced;
pub mod broker;
mod check;
mod definitions;
pub mod files;
mod listeners;
pub mod passed_over;
pub mod schemas;
pub mod secrets;
mod settings;
pub mod tls;
mod traps;
pub mod units;

use super::env::Env;
use super::net::Net;
use super::os::Install;
use super::plugins::Plugins;
use super::{Fact, Where};
use crate::formats::schema::Schema;
use crate::host::overlay::Overlay;
use crate::host::rpc::ConfigFiles;
use crate::host::{Host, MAX_CONF};
use access::User;
use advanced::Advanced;
use broker::{Broker, Parser};
use passed_over::PassedOver;
use serde::Serialize;
use settings::Settings;
use std::collections::BTreeMap;
use std::path::PathBuf;
pub use traps::ELSEWHERE;

/// rabbitmq.conf + conf.d + advanced.config (or the classic rabbitmq.config).
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Conf {
    /// Files that the broker reads, in order; later wins.
    pub files: Fact<Vec<ConfFile>>,
    /// Effective settings of the rabbitmq.conf format by key; secret values are struck out.
    pub settings: Fact<BTreeMap<String, Setting>>,
    /// What advanced.config (or the classic rabbitmq.config) sets, as `rabbit.heartbeat`: it wins over the settings.
    pub advanced: Fact<Vec<String>>,
    /// Problems in any of the files.
    pub problems: Fact<Vec<Problem>>,
    /// Would the broker boot with these files? Unknown when the schema of the installed version could not be read.
    pub boots: Fact<bool>,
    /// Listeners of the core and of all plugins that are started, as the broker will open them, from all sources (conf, conf.d,
    /// advanced, environment, default).
    pub listeners: Fact<Vec<WantedListener>>,
    /// Settings of TLS, by block.
    pub tls: Fact<Vec<tls::TlsSettings>>,
    /// Effective loopback_users; the default is ["guest"].
    pub loopback_users: Fact<LoopbackUsers>,
    /// default_user of the files, if set.
    pub default_user: Fact<Option<String>>,
    /// Files with settings that the broker does not read, and what it would do if it did.
    pub passed_over: Fact<Vec<PassedOver>>,
    /// Newest modification time of the files, seconds since the epoch; 0: no file.
    pub newest_mtime: Fact<i64>,
}

/// One configuration file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ConfFile {
    pub path: String,
    /// cuttlefish | erlang | advanced
    pub format: String,
    /// Read by the broker; false: it is there, but the broker passes it over (`why_ignored`).
    pub used: bool,
    pub why_ignored: Option<String>,
    pub mtime: i64,
    pub mode: i64,
    pub uid: i64,
    pub gid: i64,
    /// Can the broker's user read it, by mode bits of the file and its directories?
    pub readable_by_broker: Fact<bool>,
    /// Holds a password or key.
    pub has_secret: bool,
}

/// One effective setting.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Setting {
    pub value: String,
    pub at: Where,
    /// Earlier settings of the same key that this one hides.
    pub overrides: Vec<Where>,
}

/// One problem, in the order of the files. `code` is a stable name: unknown-key | bad-value | syntax | encoding | unreadable | overlap | address-not-local |
/// privileged-port | missing-file | advanced-syntax | plugins-syntax | needs-plugin | ignored-file | duplicate | value-cut-by-hash |
/// quoted-value | encrypted-colon | include-loop | tls-without-certificate | no-effect | definitions-not-json | overridden |
/// size-not-read | size-unit-changed | stray-file
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Problem {
    pub code: String,
    /// The broker does not boot with it.
    pub fatal: bool,
    pub key: Option<String>,
    /// The offending value (never a secret).
    pub value: Option<String>,
    pub message: String,
    /// For unknown-key: the nearest known key; for bad-value: a value that would do.
    pub suggestion: Option<String>,
    /// The setting decides who gets in: without it, or with another value, others may.
    pub guards: bool,
    /// The line as it stands in the file, for the excerpt; secrets struck out.
    pub text: String,
    pub at: Where,
}

impl Problem {
    /// A problem about no key in particular, without an excerpt.
    fn new(code: &str, fatal: bool, message: String, at: Where) -> Problem {
        Problem {
            code: code.to_owned(),
            fatal,
            key: None,
            value: None,
            message,
            suggestion: None,
            guards: false,
            text: String::new(),
            at,
        }
    }
}

/// A listener that the configuration asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct WantedListener {
    /// amqp | amqps | management | mqtt | stomp | stream | web-mqtt | web-stomp | prometheus | web-examples, with `-tls` behind the plugins'
    /// TLS listeners
    pub service: String,
    /// `auto` (all interfaces), or an address
    pub address: String,
    pub port: i64,
    /// The key that sets it (`listeners.tcp.1`); null: the default or the environment.
    pub key: Option<String>,
    pub at: Option<Where>,
    /// default | conf | advanced | env
    pub source: String,
}

/// Users that may log in from this host only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct LoopbackUsers {
    pub users: Vec<String>,
    /// What set it; null: the default.
    pub at: Option<Where>,
    /// Keys that made it so, e.g. `loopback_users.guest`.
    pub keys: Vec<String>,
}

/// Problems of one kind that are told one by one: a file in the wrong format has thousands.
pub const MANY: usize = 100;

/// What the environment sets a variable to, by its name without `RABBITMQ_`. Empty counts as unset, except for the lists of
/// plugins and feature flags.
pub fn variable(env: &Env, name: &str) -> Fact<Option<String>> {
    let vars = match &env.vars {
        Fact::Known(vars) => vars,
        Fact::Unknown(why) => return Fact::Unknown(why.clone()),
    };
    let empty_counts = matches!(name, "ENABLED_PLUGINS" | "FEATURE_FLAGS");
    match vars.get(name).map(|v| &v.value) {
        None => Fact::Known(None),
        Some(Fact::Known(value)) => Fact::Known(Some(value.clone()).filter(|v| empty_counts || !v.is_empty())),
        Some(Fact::Unknown(why)) => Fact::Unknown(format!("RABBITMQ_{name}: {why}")),
    }
}

/// Reads and checks the configuration as the broker would. `boots` rests on these files and enabled_plugins; what else can keep
/// a broker from starting (a port in use, a damaged database) is in other facts.
pub fn collect(host: &dyn Host, install: &Fact<Option<Install>>, env: &Env, plugins: &Plugins, net: &Net) -> Conf {
    let conf = judge(host, Broker::installed(install), None, env, plugins, net).0;
    Conf { passed_over: passed_over::derive(host, install, env, net, &conf), ..conf }
}

/// The same for any broker, and for files that are named instead of searched. Also gives each reason why `boots` is unknown.
pub fn judge(
    host: &dyn Host,
    broker: Broker<'_>,
    named: Option<&files::Paths>,
    env: &Env,
    plugins: &Plugins,
    net: &Net,
) -> (Conf, Vec<String>) {
    let reader = broker.reader(host);
    let found = match named {
        Some(paths) => files::find_at(host, paths, &reader),
        None => files::find(host, env, &reader),
    };
    match found {
        Fact::Known(found) => {
            let user = broker.user(host);
            Collector { host, parser: broker.parser(host), env, plugins, net, user, reader, searched: named.is_none() }
                .conf(found)
        }
        Fact::Unknown(why) => (Conf::unknown(&why), vec![why]),
    }
}

/// The same with some files replaced in memory (`None`: removed), by absolute path: what would be true after a change. A changed
/// enabled_plugins counts too.
pub fn check_with(
    host: &dyn Host,
    install: &Fact<Option<Install>>,
    env: &Env,
    net: &Net,
    replaced: BTreeMap<PathBuf, Option<Vec<u8>>>,
) -> Conf {
    let host = Overlay::new(host, replaced);
    let plugins = super::plugins::collect(&host, install, env);
    judge(&host, Broker::installed(install), None, env, &plugins, net).0
}

impl Conf {
    /// The files that the broker reads, as its own check takes them.
    pub fn files_to_read(&self) -> ConfigFiles {
        let files = self.files.known().map(Vec::as_slice).unwrap_or_default();
        let of = |cuttlefish: bool| {
            let used = files.iter().filter(move |f| f.used && (f.format == "cuttlefish") == cuttlefish);
            used.map(|f| PathBuf::from(&f.path))
        };
        ConfigFiles { files: of(true).collect(), advanced: of(false).next() }
    }

    fn unknown(why: &str) -> Conf {
        let why = || why.to_owned();
        Conf {
            files: Fact::Unknown(why()),
            settings: Fact::Unknown(why()),
            advanced: Fact::Unknown(why()),
            problems: Fact::Unknown(why()),
            boots: Fact::Unknown(why()),
            listeners: Fact::Unknown(why()),
            tls: Fact::Unknown(why()),
            loopback_users: Fact::Unknown(why()),
            default_user: Fact::Unknown(why()),
            passed_over: Fact::Unknown(why()),
            newest_mtime: Fact::Unknown(why()),
        }
    }
}

struct Collector<'a> {
    host: &'a dyn Host,
    parser: Parser<'a>,
    env: &'a Env,
    plugins: &'a Plugins,
    net: &'a Net,
    user: Fact<User>,
    /// Who must be able to read the files themselves.
    reader: Fact<User>,
    /// The files were found where the broker looks for them.
    searched: bool,
}

impl Collector<'_> {
    fn conf(&self, found: Vec<files::Found>) -> (Conf, Vec<String>) {
        let mut problems: Vec<Problem> = found.iter().filter_map(ignored).collect();
        let mut undecided = Vec::new();
        let settings = settings::read(self.host, &found, &self.reader, self.parser.dialect, &mut problems);
        let advanced = advanced::read(self.host, &found, self.parser.erlang, &mut problems);
        if let Fact::Known(set) = settings.as_ref()
            && !set.is_empty()
        {
            match self.parser.schema(self.host) {
                Fact::Known(schema) => {
                    let findings = check::check(&self.context(&schema, &advanced), set);
                    problems.extend(findings.problems);
                    if let Fact::Known(advanced) = advanced.as_ref() {
                        problems.extend(traps::overridden(set, advanced, &schema));
                    }
                    undecided.extend(findings.undecided);
                }
                Fact::Unknown(why) => undecided.push(why),
            }
        }
        if let (Fact::Known(settings), Fact::Known(advanced), Some(version)) = (&settings, &advanced, self.parser.version) {
            let files = definitions::Files { host: self.host, user: &self.user, version };
            let found = files.check(settings, advanced, &mut undecided);
            // That the broker cannot read the file is said by the schemas of later releases as well.
            let said: Vec<_> = problems.iter().filter(|p| p.code == "missing-file").map(|p| p.at.clone()).collect();
            problems.extend(found.into_iter().filter(|p| p.code != "missing-file" || !said.contains(&p.at)));
        }
        if let Some((advanced, at)) = advanced.known().and_then(|a| Some((a, a.encrypted()?))) {
            match advanced.has_passphrase() {
                true => undecided.push(format!("{}: encrypted values are not decrypted here", at.file)),
                false => problems.push(without_passphrase(at)),
            }
        }
        undecided.extend(settings.why().map(str::to_owned));
        undecided.extend(advanced.why().map(str::to_owned));
        self.plugins_problem(&mut problems, &mut undecided);
        self.traps(&settings, &advanced, &mut problems);
        let tls = tls_blocks(&settings, &advanced);
        let (listeners, loopback_users, default_user) = self.derived(&settings, &advanced, &mut problems, &mut undecided);
        let order: Vec<&str> = found.iter().map(|f| f.path.as_str()).collect();
        problems.sort_by_key(|p| (order.iter().position(|f| *f == p.at.file).unwrap_or(order.len()), p.at.line, p.at.column));
        let fatal = problems.iter().any(|p| p.fatal);
        let boots = match (fatal, undecided.is_empty()) {
            (true, _) => Fact::Known(false),
            (false, true) => Fact::Known(true),
            (false, false) => Fact::Unknown(undecided.join("; ")),
        };
        let newest = found.iter().filter(|f| f.ignored.is_none()).map(|f| f.fact.mtime).max().unwrap_or(0);
        let conf = Conf {
            files: Fact::Known(self.files(found, &settings, &advanced)),
            settings: settings.map(|s| s.facts()),
            advanced: advanced.map(|a| traps::keys_of(&a)),
            problems: Fact::Known(problems),
            boots,
            tls: tls.map(|blocks| tls::used_by(blocks, listeners.known().map(Vec::as_slice).unwrap_or_default())),
            listeners,
            loopback_users,
            default_user,
            passed_over: Fact::Unknown("not asked for".into()),
            newest_mtime: Fact::Known(newest),
        };
        (conf, undecided)
    }

    fn context<'s>(&'s self, schema: &'s Schema, advanced: &Fact<Advanced>) -> check::Context<'s> {
        let Parser { cuttlefish, dialect, .. } = &self.parser;
        check::Context {
            host: self.host,
            schema,
            user: &self.user,
            literal_quotes: !dialect.single_quotes,
            process: &self.env.process,
            environment: cuttlefish.map_or(dialect.include, |version| version >= (2, 6)),
            file_values: check::FileValues::of(cuttlefish.unwrap_or((3, 4))),
            started: &self.plugins.started,
            passphrase: advanced.known().is_some_and(Advanced::has_passphrase),
        }
    }

    /// What the broker takes without a word and what does not do what was meant.
    fn traps(&self, settings: &Fact<Settings>, advanced: &Fact<Advanced>, problems: &mut Vec<Problem>) {
        if let (Fact::Known(settings), Fact::Known(advanced), Some((major, minor, _))) = (settings, advanced, self.parser.version)
        {
            problems.extend(traps::sizes(settings, advanced, (major, minor)));
        }
        if self.searched {
            // A directory that cannot be listed keeps the files that count unknown too.
            problems.extend(traps::strays(self.host, self.env, self.parser.dialect).unwrap_or_default());
        }
    }

    /// A broken enabled_plugins stops the boot like a broken configuration.
    fn plugins_problem(&self, problems: &mut Vec<Problem>, undecided: &mut Vec<String>) {
        match &self.plugins.problem {
            Fact::Known(None) => {}
            Fact::Unknown(why) => undecided.push(why.clone()),
            Fact::Known(Some(problem)) => {
                let code = if problem.code == "syntax" { "plugins-syntax" } else { "unreadable" };
                let text = line_of(self.host, &problem.at);
                problems.push(Problem { text, ..Problem::new(code, true, problem.text.clone(), problem.at.clone()) });
            }
        }
    }

    /// Listeners, loopback_users and default_user; the listeners' own problems are added.
    fn derived(
        &self,
        settings: &Fact<Settings>,
        advanced: &Fact<Advanced>,
        problems: &mut Vec<Problem>,
        undecided: &mut Vec<String>,
    ) -> (Fact<Vec<WantedListener>>, Fact<LoopbackUsers>, Fact<Option<String>>) {
        let (settings, advanced) = match (settings, advanced) {
            (Fact::Known(settings), Fact::Known(advanced)) => (settings, advanced),
            (Fact::Unknown(why), _) | (_, Fact::Unknown(why)) => {
                return (Fact::Unknown(why.clone()), Fact::Unknown(why.clone()), Fact::Unknown(why.clone()));
            }
        };
        let started = &self.plugins.started;
        let version = self.parser.version;
        let sources = listeners::Sources { host: self.host, settings, advanced, env: self.env, started, version, net: self.net };
        let all = sources.all();
        match &all {
            Fact::Known(opened) => problems.extend(sources.problems(opened, undecided)),
            Fact::Unknown(why) => undecided.push(why.clone()),
        }
        let all = all.map(|opened| opened.listeners);
        let loopback = listeners::loopback_users(settings, advanced);
        (all, Fact::Known(loopback), Fact::Known(listeners::default_user(settings, advanced)))
    }

    fn files(&self, found: Vec<files::Found>, settings: &Fact<Settings>, advanced: &Fact<Advanced>) -> Vec<ConfFile> {
        let with_secret = settings.known().map(|s| s.with_secret.as_slice()).unwrap_or_default();
        let erlang_secret = advanced.known().is_some_and(|a| a.has_secret);
        let fact = |f: files::Found| {
            let erlang = f.format == files::Format::Erlang && f.ignored.is_none();
            ConfFile { has_secret: with_secret.contains(&f.path) || (erlang && erlang_secret), ..f.fact }
        };
        found.into_iter().map(fact).collect()
    }
}

fn tls_blocks(settings: &Fact<Settings>, advanced: &Fact<Advanced>) -> Fact<Vec<tls::TlsSettings>> {
    match (settings, advanced) {
        (Fact::Known(settings), Fact::Known(advanced)) => Fact::Known(tls::blocks(settings, advanced)),
        (Fact::Unknown(why), _) | (_, Fact::Unknown(why)) => Fact::Unknown(why.clone()),
    }
}

/// The line of a place as it may be shown; empty if it is not to be had.
pub fn line_of(host: &dyn Host, at: &Where) -> String {
    let number = at.line.and_then(|l| usize::try_from(l).ok()).unwrap_or(0);
    let bytes = host.read(at.file.as_ref(), MAX_CONF).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    number.checked_sub(1).and_then(|n| text.lines().nth(n)).map(secrets::any_line).unwrap_or_default()
}

/// An encrypted value that the broker has no passphrase for.
fn without_passphrase(at: Where) -> Problem {
    let message = "the value is encrypted, and no passphrase is configured (config_entry_decoder)";
    Problem::new("encrypted-colon", true, message.to_owned(), at)
}

/// A file that is there, but that the broker passes over.
fn ignored(file: &files::Found) -> Option<Problem> {
    let why = file.ignored.as_ref()?;
    let at = Where { file: file.path.clone(), line: None, column: None };
    Some(Problem::new("ignored-file", false, format!("the broker does not read {}: {why}", file.path), at))
}

#[cfg(test)]
pub(crate) mod tests;

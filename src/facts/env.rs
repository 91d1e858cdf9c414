//! rabbitmq-env.conf (read as text, never sourced) and the unit's environment: what the broker is started with.
use super::unit::Unit;
use super::{Fact, Where};
use crate::formats::env_conf::{Document, Setting, Shell};
use crate::host::{Host, MAX_SMALL_CONF, optional, secrets};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;

/// Where the file is unless the unit says otherwise.
const DEFAULT_FILE: &str = "/etc/rabbitmq/rabbitmq-env.conf";

/// What stands for a value that must not be shown.
const STRUCK_OUT: &str = "(secret)";

/// Variables that the broker itself looks up in its environment, `RABBITMQ_NAME` first, then `NAME` (rabbit_env.erl), without
/// their prefix. Others are none of our business, and a bare name means something only if it is one of these.
const BROKER: &[&str] = &[
    "ADVANCED_CONFIG_FILE",
    "ALLOW_INPUT",
    "CONFIG_FILE",
    "CONFIG_FILES",
    "CONF_ENV_FILE",
    "DBG",
    "DEFAULT_PASS",
    "DEFAULT_USER",
    "DEFAULT_VHOST",
    "DIST_PORT",
    "ENABLED_PLUGINS",
    "ENABLED_PLUGINS_FILE",
    "ERLANG_COOKIE",
    "FEATURE_FLAGS",
    "FEATURE_FLAGS_FILE",
    "KEEP_PID_FILE_ON_EXIT",
    "LOG",
    "LOGS",
    "LOG_BASE",
    "MNESIA_BASE",
    "MNESIA_DIR",
    "MOTD_FILE",
    "NODENAME",
    "NODE_IP_ADDRESS",
    "NODE_PORT",
    "PID_FILE",
    "PLUGINS_DIR",
    "PLUGINS_EXPAND_DIR",
    "PRODUCT_NAME",
    "PRODUCT_VERSION",
    "QUORUM_DIR",
    "STREAM_DIR",
    "USE_LONGNAME",
];
/// Variables of the start script and the command line tools: in both spellings, as shell variables.
const SCRIPTS: &[&str] = &[
    "CTL_DIST_PORT_MAX",
    "CTL_DIST_PORT_MIN",
    "CTL_ERL_ARGS",
    "DISTRIBUTION_BUFFER_SIZE",
    "MAX_NUMBER_OF_ATOMS",
    "MAX_NUMBER_OF_PROCESSES",
    "SCHEDULER_BIND_TYPE",
    "SERVER_ADDITIONAL_ERL_ARGS",
    "SERVER_CODE_PATH",
    "SERVER_START_ARGS",
];
/// The same, with the prefix only: the script overwrites the bare name.
const PREFIXED: &[&str] = &["IGNORE_SIGINT", "SERVER_ERL_ARGS"];
/// Erlang's own: by its bare name, as far as it is exported; `true`: the start script exports it.
const ERLANG: &[(&str, bool)] =
    &[("ERL_EPMD_ADDRESS", true), ("ERL_EPMD_PORT", true), ("ERL_MAX_ETS_TABLES", true), ("ERL_MAX_PORTS", false)];
/// Set anew by the start script, so only the file can give it a value.
const PREFIX: &str = "SYS_PREFIX";
/// An empty value counts as unset, except for these.
const EMPTY_COUNTS: &[&str] = &["ENABLED_PLUGINS", "FEATURE_FLAGS"];

/// The broker's environment variables without their `RABBITMQ_` prefix.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Env {
    /// /etc/rabbitmq/rabbitmq-env.conf, unless RABBITMQ_CONF_ENV_FILE of the unit names another.
    pub file: String,
    /// null: no such file
    pub present: Fact<bool>,
    /// Effective variables by name, e.g. `NODE_PORT`. A variable whose value cannot be read without running a shell is unknown.
    pub vars: Fact<BTreeMap<String, Var>>,
    /// The file sets a password or cookie, and its mode lets every user of this host read it.
    pub secret_readable: Fact<bool>,
    /// Variables that give the Erlang VM flags and limits, as far as they are set.
    pub vm_flags: Fact<Vec<VmFlags>>,
    /// What decides any other variable of the broker's process.
    #[serde(skip)]
    pub process: Process,
    /// What keeps the file from being applied, or the broker from starting: CRLF, `NODE_PORT = 5677`, a failing last command.
    pub problems: Fact<Vec<EnvProblem>>,
}

/// The environment of the broker's process, as far as the unit and the file tell. The rest systemd and the start script give.
#[derive(Debug, Clone, Default)]
pub struct Process(Option<(BTreeMap<String, Var>, Settings)>);

impl Process {
    /// A variable by its whole name; null: it is not set. Ask only where the unit's files say all that the unit gives it
    /// ([`super::unit::tells_environment`]).
    pub fn variable(&self, name: &str) -> Fact<Option<String>> {
        let unknown = || Fact::Unknown(format!("rests on the environment variable {name} of the broker"));
        let Some((unit, file)) = &self.0 else { return unknown() };
        let in_file = file.all.contains_key(name);
        match (Sources { unit, file }).exported(name) {
            Ok(Some(Var { value: Fact::Known(value), .. })) if value != secrets::STRUCK => Fact::Known(Some(value)),
            Ok(None) if !in_file && !given_by_others(name) => Fact::Known(None),
            _ => unknown(),
        }
    }
}

/// Variables that systemd (systemd.exec(5)), the shell, Erlang's start scripts or the broker's own give the process.
fn given_by_others(name: &str) -> bool {
    const EXACTLY: [&str; 21] = [
        "PATH",
        "HOME",
        "USER",
        "LOGNAME",
        "SHELL",
        "LANG",
        "TERM",
        "PWD",
        "OLDPWD",
        "SHLVL",
        "_",
        "IFS",
        "PS1",
        "OPTIND",
        "INVOCATION_ID",
        "NOTIFY_SOCKET",
        "JOURNAL_STREAM",
        "MAINPID",
        "BINDIR",
        "EMU",
        "PROGNAME",
    ];
    const BEGIN: [&str; 10] =
        ["LC_", "SYSTEMD_", "LISTEN_", "MEMORY_PRESSURE_", "WATCHDOG_", "CREDENTIALS_", "ERL_", "ESCRIPT_", "ROOTDIR", "OTP_"];
    let directory = name.ends_with("_DIRECTORY");
    let bare = name.strip_prefix("RABBITMQ_");
    // The start script sets none of these; what else has the prefix it may export.
    let default = matches!(bare, Some("DEFAULT_USER" | "DEFAULT_PASS" | "DEFAULT_VHOST"));
    let of_scripts = bare.is_some_and(|bare| names().any(|used| used == bare)) && !default;
    directory || of_scripts || EXACTLY.contains(&name) || BEGIN.iter().any(|begin| name.starts_with(begin))
}

/// One variable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Var {
    pub value: Fact<String>,
    /// file, or the unit's drop-in; null: from a running process's environment
    pub at: Option<Where>,
}

/// Flags of the Erlang VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct VmFlags {
    /// `SERVER_ADDITIONAL_ERL_ARGS`
    pub name: String,
    pub value: Fact<String>,
    pub at: Option<Where>,
}

/// Variables of the start script that become flags of the VM.
const VM_FLAGS: [&str; 6] = [
    "SERVER_ADDITIONAL_ERL_ARGS",
    "SERVER_ERL_ARGS",
    "MAX_NUMBER_OF_PROCESSES",
    "MAX_NUMBER_OF_ATOMS",
    "DISTRIBUTION_BUFFER_SIZE",
    "SCHEDULER_BIND_TYPE",
];

/// One thing wrong with rabbitmq-env.conf.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct EnvProblem {
    /// blanks-around-equals | crlf | exit | last-command-fails | last-command-may-fail | syntax | value
    pub code: String,
    /// The broker does not start with it.
    pub fatal: bool,
    pub text: String,
    pub at: Where,
}

/// Reads rabbitmq-env.conf and merges it with the unit's environment as the start script and the broker do.
///
/// Strongest first: `RABBITMQ_X` in the file (the assignment changes the exported variable), `RABBITMQ_X` of the unit, `X` in
/// the file, `X` of the unit. A file whose last command may fail makes the values that depend on it unknown.
pub fn collect(host: &dyn Host, unit: &Fact<Option<Unit>>) -> Env {
    let from_unit = unit_vars(unit);
    let none = Settings::default();
    let named = from_unit.known().and_then(|unit| Sources { unit, file: &none }.in_environment("CONF_ENV_FILE", false).ok()?);
    let file = named.and_then(|v| v.value.known().cloned()).unwrap_or_else(|| DEFAULT_FILE.to_owned());
    read(host, from_unit, Some(&file))
}

/// The same with the file that is named, or without one.
pub fn with_file(host: &dyn Host, unit: &Fact<Option<Unit>>, file: Option<&str>) -> Env {
    read(host, unit_vars(unit), file)
}

fn read(host: &dyn Host, from_unit: Fact<BTreeMap<String, Var>>, named: Option<&str>) -> Env {
    let file = named.unwrap_or(DEFAULT_FILE).to_owned();
    let content = named.map_or(Ok(None), |file| optional(host.read(Path::new(file), MAX_SMALL_CONF)));
    let document = content.map(|c| c.map(|bytes| parse(host, &bytes)));
    let process = match (&from_unit, &document) {
        (Fact::Known(unit), Ok(document)) if document.as_ref().is_none_or(|d| d.opaque().is_none()) => {
            let settings = document.as_ref().map(|d| Settings::of(d, &file, false)).unwrap_or_default();
            Process(Some((unit.clone(), settings)))
        }
        _ => Process::default(),
    };
    let vars = match (from_unit, &document) {
        (Fact::Unknown(why), _) => Fact::Unknown(format!("the unit's environment is not known: {why}")),
        (_, Err(miss)) => Fact::Unknown(miss.to_string()),
        (Fact::Known(unit), Ok(document)) => {
            let old = document.as_ref().is_some_and(quotes) && reads_quotes_wrongly(host);
            effective(&unit, document.as_ref(), &file, old)
        }
    };
    let problems = document.as_ref().map(|d| problems(d.as_ref(), &file, vars.known()));
    let secret_readable = match &document {
        Ok(Some(d)) if holds_secret(d) => host.stat(Path::new(&file), true).map(|meta| meta.mode & 0o004 != 0).into(),
        Ok(_) => Fact::Known(false),
        Err(miss) => Fact::Unknown(miss.to_string()),
    };
    let vars: Fact<BTreeMap<String, Var>> =
        vars.map(|vars| vars.into_iter().map(|(name, var)| (name.clone(), strike_out(&name, var))).collect());
    let flag = |name: &&str| {
        let var = vars.known()?.get(*name)?;
        Some(VmFlags { name: (*name).to_owned(), value: var.value.clone(), at: var.at.clone() })
    };
    Env {
        vm_flags: vars.as_ref().map(|_| VM_FLAGS.iter().filter_map(flag).collect()),
        present: Fact::from(document.as_ref().map(Option::is_some).map_err(Clone::clone)),
        vars,
        secret_readable,
        process,
        problems: Fact::from(problems.map_err(Clone::clone)),
        file,
    }
}

fn parse(host: &dyn Host, bytes: &[u8]) -> Document {
    let document = Document::parse(bytes, Shell::Other);
    if !document.depends_on_shell() {
        return document;
    }
    shell(host).map_or(document, |shell| Document::parse(bytes, shell))
}

/// What `/bin/sh` is; where that was not recorded, what the distribution makes it.
fn shell(host: &dyn Host) -> Option<Shell> {
    let program = host.read_link(Path::new("/bin/sh")).ok().and_then(|p| Some(p.file_name()?.to_string_lossy().into_owned()));
    let distribution = || super::os::collect(host).id.known().cloned().flatten();
    match (program.as_deref(), program.is_none().then(distribution).flatten().as_deref()) {
        (Some("dash"), _) | (None, Some("debian" | "ubuntu")) => Some(Shell::Dash),
        (Some("bash"), _) | (None, Some("rhel" | "centos" | "fedora" | "rocky" | "almalinux")) => Some(Shell::Bash),
        _ => None,
    }
}

/// Whether a value holds a single quote.
fn quotes(document: &Document) -> bool {
    document.settings().values().any(|s| matches!(&s.value, Ok(Some(value)) if value.contains('\'')))
}

/// Before 3.9 the broker misreads how a shell prints a single quote, and what it prints next (rabbit_env.erl).
fn reads_quotes_wrongly(host: &dyn Host) -> bool {
    let install = super::os::collect_install(host);
    let version = install.known().and_then(|i| i.as_ref()).map_or((0, 0, 0), |i| super::conf::schemas::numbers(&i.version));
    version < (3, 9, 0)
}

/// The unit's variables by name as spelt; without a unit there are none.
fn unit_vars(unit: &Fact<Option<Unit>>) -> Fact<BTreeMap<String, Var>> {
    let unit = match unit {
        Fact::Known(Some(unit)) => unit,
        Fact::Known(None) => return Fact::Known(BTreeMap::new()),
        Fact::Unknown(why) => return Fact::Unknown(why.clone()),
    };
    // systemd does not say which file an assignment came from.
    let file = if let [one] = &unit.drop_ins[..] { one } else { &unit.name };
    let at = Where { file: file.clone(), line: None, column: None };
    let var = |value: &str| Var { value: Fact::Known(value.to_owned()), at: Some(at.clone()) };
    let pair = |e: &String| e.split_once('=').map(|(name, value)| (name.to_owned(), var(value)));
    unit.environment.as_ref().map(|all| all.iter().filter_map(pair).collect())
}

/// The variables of `Env::vars`.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    [BROKER, SCRIPTS, PREFIXED].concat().into_iter().chain(ERLANG.iter().map(|(name, _)| *name)).chain([PREFIX])
}

/// Every variable that is set, by name without prefix; unknown if the file may set any. `old`: the release is before 3.9, or not
/// known.
pub(crate) fn effective(
    unit: &BTreeMap<String, Var>,
    document: Option<&Document>,
    file: &str,
    old: bool,
) -> Fact<BTreeMap<String, Var>> {
    if let Some(why) = document.and_then(Document::opaque) {
        return Fact::Unknown(format!("{file} {why}"));
    }
    let settings = document.map(|d| Settings::of(d, file, old)).unwrap_or_default();
    let sources = Sources { unit, file: &settings };
    let mut all = BTreeMap::new();
    let mut put = |name: &str, var: Option<Var>| var.map(|var| all.insert(name.to_owned(), var));
    BROKER.iter().for_each(|name| drop(put(name, sources.of_broker(name))));
    SCRIPTS.iter().for_each(|name| drop(put(name, sources.of_scripts(&[&format!("RABBITMQ_{name}"), name]))));
    PREFIXED.iter().for_each(|name| drop(put(name, sources.of_scripts(&[&format!("RABBITMQ_{name}")]))));
    ERLANG.iter().for_each(|(name, by_script)| drop(put(name, sources.of_erlang(name, *by_script))));
    let in_file = settings.all.contains_key(PREFIX);
    put(PREFIX, in_file.then(|| sources.of_erlang(PREFIX, true)).flatten());
    Fact::Known(all)
}

/// What the file does to variables, by name as spelt.
#[derive(Debug, Clone, Default)]
struct Settings {
    file: String,
    all: BTreeMap<String, Setting>,
    /// Whether the broker takes no variables from the file besides what the start script exported, or why that is not known.
    dropped: Option<Result<(), String>>,
}

impl Settings {
    fn of(document: &Document, file: &str, old: bool) -> Settings {
        let values = || document.settings().values().filter_map(|s| s.value.as_ref().ok()?.as_ref());
        let misread = |v: &&String| {
            let strange = document.shell() != Shell::Dash && (!v.is_ascii() || old && v.bytes().any(|b| b.is_ascii_control()));
            strange || old && v.contains('\'')
        };
        let dropped = match document.undecided() {
            Some(why) => Some(Err(why.to_owned())),
            None if document.dropped() => Some(Ok(())),
            None => values().any(|v| misread(&v)).then(|| Err("the broker may misread a value of the file".to_owned())),
        };
        Settings { file: file.to_owned(), all: document.settings().clone(), dropped }
    }
}

/// What a variable is set to; `Err`: that is not known.
type Looked = Result<Option<Var>, Var>;

struct Sources<'a> {
    unit: &'a BTreeMap<String, Var>,
    file: &'a Settings,
}

impl Sources<'_> {
    /// A shell variable after the file, by name as spelt.
    fn in_shell(&self, name: &str) -> Looked {
        let Some(setting) = self.file.all.get(name) else { return Ok(self.unit.get(name).cloned()) };
        let at = Some(Where { file: self.file.file.clone(), line: Some(setting.line), column: None });
        match &setting.value {
            Ok(value) => Ok(value.clone().map(|value| Var { value: Fact::Known(value), at })),
            Err(why) => Err(Var { value: Fact::Unknown(format!("{}: {why}", self.file.file)), at }),
        }
    }

    /// A variable of the environment in which the start script runs the broker, by name as spelt.
    fn exported(&self, name: &str) -> Looked {
        let Some(setting) = self.file.all.get(name) else { return self.in_shell(name) };
        let gone = matches!(setting.value, Ok(None));
        match setting.exported {
            // What the unit gives is in the environment, and stays there with another value.
            _ if self.unit.contains_key(name) && (!gone || setting.exported == Some(false)) => self.in_shell(name),
            Some(true) => self.in_shell(name),
            Some(false) => Ok(None),
            None => Err(self.unknown(setting, "a condition decides whether it is exported")),
        }
    }

    fn unknown(&self, setting: &Setting, why: &str) -> Var {
        let at = Some(Where { file: self.file.file.clone(), line: Some(setting.line), column: None });
        Var { value: Fact::Unknown(format!("{}: {why}", self.file.file)), at }
    }

    /// A variable as the broker finds it: in its environment, `RABBITMQ_NAME` first. Empty is unset.
    fn of_broker(&self, name: &str) -> Option<Var> {
        let found = match &self.file.dropped {
            None => self.in_environment(name, true),
            Some(Ok(())) => self.in_environment(name, false),
            Some(Err(why)) => match (self.in_environment(name, true), self.in_environment(name, false)) {
                (a, b) if same(&a, &b) => a,
                (a, b) => Err(Var {
                    value: Fact::Unknown(format!("{}: {why}", self.file.file)),
                    at: a.or(b).unwrap_or_else(Some).and_then(|v| v.at),
                }),
            },
        };
        found.unwrap_or_else(Some)
    }

    /// As `of_broker`; `read`: the broker has taken from the file what was not set.
    fn in_environment(&self, name: &str, read: bool) -> Looked {
        let prefixed = format!("RABBITMQ_{name}");
        let outer = self.exported(&prefixed)?;
        // The start script keeps a PID file that its caller set.
        let kept = self.unit.get(&prefixed).filter(|v| name == "PID_FILE" && counts(name, v));
        if let Some(kept) = kept {
            return Ok(Some(kept.clone()));
        }
        let from_file = |spelt: &str| if read && self.file.all.contains_key(spelt) { self.in_shell(spelt) } else { Ok(None) };
        let first = match &outer {
            Some(_) => outer.clone(),
            None => from_file(&prefixed)?,
        };
        if let Some(var) = first.filter(|v| counts(name, v)) {
            return Ok(Some(var));
        }
        let bare = match self.exported(name)? {
            None if outer.is_none() => from_file(name)?,
            other => other,
        };
        Ok(bare.filter(|v| counts(name, v)))
    }

    fn of_scripts(&self, spellings: &[&str]) -> Option<Var> {
        for spelling in spellings {
            match self.in_shell(spelling) {
                Ok(Some(var)) if counts("", &var) => return Some(var),
                Ok(_) => {}
                Err(unknown) => return Some(unknown),
            }
        }
        None
    }

    fn of_erlang(&self, name: &str, by_script: bool) -> Option<Var> {
        let found = if by_script { self.in_shell(name) } else { self.exported(name) };
        found.map_or_else(Some, |var| var.filter(|v| counts(name, v)))
    }
}

fn same(a: &Looked, b: &Looked) -> bool {
    let value = |looked: &Looked| looked.as_ref().ok().map(|v| v.as_ref().map(|v| v.value.clone()));
    a.is_ok() && value(a) == value(b)
}

fn counts(name: &str, var: &Var) -> bool {
    EMPTY_COUNTS.contains(&name) || var.value.known().is_none_or(|value| !value.is_empty())
}

/// Whether a variable of this name holds a secret.
fn is_secret(name: &str) -> bool {
    ["PASS", "COOKIE", "SECRET"].iter().any(|s| name.contains(s))
}

/// Whether the file gives a secret variable a value, or hands the cookie to Erlang.
fn holds_secret(document: &Document) -> bool {
    let used = |name: &str| names().any(|used| used == name.strip_prefix("RABBITMQ_").unwrap_or(name));
    let secret = |value: &str, name: &str| !value.is_empty() && (is_secret(name) || without_cookie(value) != value);
    let value = |setting: &Setting| setting.value.clone().ok().flatten();
    document.settings().iter().any(|(name, setting)| used(name) && value(setting).is_some_and(|v| secret(&v, name)))
}

fn strike_out(name: &str, var: Var) -> Var {
    let secret = is_secret(name);
    let value = var.value.map(|value| if secret { STRUCK_OUT.to_owned() } else { without_cookie(&value) });
    Var { value, ..var }
}

/// Erlang's arguments may carry the cookie (`-setcookie VALUE`).
fn without_cookie(value: &str) -> String {
    if !value.contains("-setcookie") {
        return value.to_owned();
    }
    let mut words = Vec::new();
    let mut secret = false;
    for word in value.split_whitespace() {
        words.push(if secret { STRUCK_OUT } else { word });
        secret = word == "-setcookie";
    }
    words.join(" ")
}

/// What is wrong with the file and, as far as they are known, with the values that come of it and the unit.
pub(crate) fn problems(document: Option<&Document>, file: &str, vars: Option<&BTreeMap<String, Var>>) -> Vec<EnvProblem> {
    let place = |line, column| Where { file: file.to_owned(), line: Some(line), column: Some(column) };
    let problem = |p: &crate::formats::env_conf::Problem| EnvProblem {
        code: p.code.to_owned(),
        fatal: p.fatal,
        text: p.text.clone(),
        at: place(p.line, p.column),
    };
    let may_fall_away = document.and_then(Document::undecided).map(|why| EnvProblem {
        code: "last-command-may-fail".to_owned(),
        fatal: false,
        text: why.to_owned(),
        at: Where { file: file.to_owned(), line: line_in(why), column: None },
    });
    let mut all: Vec<_> = document.iter().flat_map(|d| d.problems()).map(problem).chain(may_fall_away).collect();
    for (name, var) in vars.into_iter().flatten() {
        let (Some(value), Some(at)) = (var.value.known(), &var.at) else { continue };
        let port = ["NODE_PORT", "DIST_PORT"].contains(&name.as_str());
        if !(port && !is_integer(value) || name == "NODENAME" && value.ends_with('\r')) {
            continue;
        }
        let here = |p: &&mut EnvProblem| p.code == "crlf" && p.at.file == at.file && p.at.line == at.line;
        match all.iter_mut().find(here) {
            Some(known) => known.fatal = true,
            None => all.push(EnvProblem {
                code: "value".into(),
                fatal: true,
                text: format!("the value of {name} is not a number: the broker does not start"),
                at: at.clone(),
            }),
        }
    }
    all
}

/// The number in `… line 15 …`.
fn line_in(why: &str) -> Option<u32> {
    why.split_once("line ")?.1.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// As Erlang's `list_to_integer/1`.
fn is_integer(text: &str) -> bool {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::Fake;

    fn unit(environment: &[&str]) -> Fact<Option<Unit>> {
        Fact::Known(Some(Unit {
            name: "rabbitmq-server.service".into(),
            load: "loaded".into(),
            enabled: "enabled".into(),
            active: "active".into(),
            sub: "running".into(),
            result: "success".into(),
            exit_status: 0,
            restarts: 0,
            main_pid: 1,
            fragment: None,
            condition_failed: false,
            drop_ins: vec!["/etc/systemd/system/rabbitmq-server.service.d/env.conf".into()],
            needs_reload: false,
            limit_nofile: None,
            environment: Fact::Known(environment.iter().map(|e| (*e).to_owned()).collect()),
            user: "rabbitmq".into(),
            since: 0,
            state: "running".into(),
        }))
    }
    fn env(file: &str, environment: &[&str]) -> Env {
        collect(&Fake::new().file(DEFAULT_FILE, file), &unit(environment))
    }
    fn value(env: &Env, name: &str) -> Option<Fact<String>> {
        env.vars.known().unwrap().get(name).map(|v| v.value.clone())
    }
    fn port(file: &str, environment: &[&str]) -> Option<Fact<String>> {
        value(&env(file, environment), "NODE_PORT")
    }
    fn known(text: &str) -> Option<Fact<String>> {
        Some(Fact::Known(text.to_owned()))
    }

    #[test]
    fn precedence_is_the_brokers() {
        assert_eq!(port("NODE_PORT=5677\n", &[]), known("5677"));
        assert_eq!(port("RABBITMQ_NODE_PORT=5677\n", &[]), known("5677"));
        assert_eq!(port("NODE_PORT=1\nRABBITMQ_NODE_PORT=2\n", &[]), known("2"));
        assert_eq!(port("NODE_PORT=5677\n", &["RABBITMQ_NODE_PORT=5688"]), known("5688"));
        assert_eq!(port("RABBITMQ_NODE_PORT=5677\n", &["RABBITMQ_NODE_PORT=5688"]), known("5677"));
        assert_eq!(port("NODE_PORT=\n", &["NODE_PORT=1"]), None, "the file empties the exported variable");
    }

    #[test]
    fn origins_are_the_file_with_its_line_or_the_drop_in() {
        let env = env("# c\nNODE_PORT=5677\n", &["RABBITMQ_NODENAME=rabbit@h"]);
        let vars = env.vars.known().unwrap();
        let at = |name: &str| vars[name].at.clone().unwrap();
        assert_eq!((at("NODE_PORT").file.as_str(), at("NODE_PORT").line), (DEFAULT_FILE, Some(2)));
        assert!(at("NODENAME").file.ends_with("/env.conf"));
    }

    #[test]
    fn what_is_not_certain_is_unknown() {
        let unclear = port("NODE_PORT=5677\n[ -f /x ] && A=1\n", &[]).unwrap();
        assert!(unclear.why().unwrap().contains("line 2"));
        assert!(env(". /etc/other\n", &[]).vars.why().unwrap().contains("line 1"));
        let env = collect(&Fake::new(), &Fact::Unknown("no systemctl".into()));
        assert!(env.vars.why().unwrap().contains("no systemctl"));
        let env = collect(&Fake::new().denied(DEFAULT_FILE), &Fact::Known(None));
        assert!(
            env.present.why().unwrap().contains("permission denied") && env.vars.why().is_some() && env.problems.why().is_some()
        );
    }

    #[test]
    fn a_missing_file_is_no_problem_and_a_dropped_one_sets_nothing() {
        let env = collect(&Fake::new(), &unit(&["RABBITMQ_CONF_ENV_FILE=/srv/env", "RABBITMQ_NODE_PORT=1"]));
        assert_eq!((env.file.as_str(), env.present.clone()), ("/srv/env", Fact::Known(false)));
        assert_eq!((value(&env, "NODE_PORT"), env.problems.clone()), (known("1"), Fact::Known(vec![])));
        assert_eq!(port("NODE_PORT=1\nfalse && A=1\n", &[]), None);
        assert_eq!(port("export NODE_PORT=1\nfalse && A=1\n", &[]), known("1"), "the start script has exported it by then");
    }

    #[test]
    fn each_kind_of_variable_is_looked_up_its_own_way() {
        let file = "SERVER_ERL_ARGS=+x\nSERVER_START_ARGS=-y\nERL_MAX_PORTS=5\nERL_EPMD_PORT=6\n[ -f /x ] && A=1\n";
        let env = env(file, &["RABBITMQ_PID_FILE=/run/pid", "RABBITMQ_NODE_PORT="]);
        assert_eq!(value(&env, "SERVER_ERL_ARGS"), None, "the start script overwrites it");
        assert_eq!(value(&env, "SERVER_START_ARGS"), known("-y"), "the start script takes it, whatever the last command says");
        assert_eq!((value(&env, "ERL_MAX_PORTS"), value(&env, "ERL_EPMD_PORT")), (None, known("6")), "only one is exported");
        assert_eq!(value(&env, "PID_FILE"), known("/run/pid"));
        assert_eq!(port("NODE_PORT=5677\n", &["RABBITMQ_NODE_PORT="]), None, "set, though empty: the file's is not taken");
    }

    #[test]
    fn values_that_the_broker_refuses_are_problems() {
        let problems = |text: &str, unit: &[&str]| {
            let env = env(text, unit);
            env.problems.known().unwrap().iter().map(|p| (p.code.clone(), p.fatal)).collect::<Vec<_>>()
        };
        assert_eq!(problems("NODE_PORT=5677\r\n", &[]), [("crlf".to_owned(), true)]);
        assert_eq!(problems("NODE_PORT=5677\r\n", &["RABBITMQ_NODE_PORT=1"]), [("crlf".to_owned(), false)]);
        assert_eq!(problems("NODE_PORT=amqp\n", &[]), [("value".to_owned(), true)]);
        assert_eq!(problems("NODE_PORT=+5\nDIST_PORT=25\n", &[]), []);
    }

    #[test]
    fn single_quotes_are_misread_by_old_releases() {
        let file = "NODE_PORT=5677\nLOG=\"it's\"\n";
        assert!(port(file, &[]).unwrap().why().is_some(), "no release is installed");
        let host = Fake::new().file(DEFAULT_FILE, file).dir("/usr/lib/rabbitmq/lib/rabbitmq_server-4.0.5/plugins", 0o755, 0, 0);
        assert_eq!(value(&collect(&host, &unit(&[])), "NODE_PORT"), known("5677"));
    }

    #[test]
    fn a_secret_that_everybody_may_read_is_seen() {
        let of =
            |text: &str, mode: u32| collect(&Fake::new().file_with(DEFAULT_FILE, text, mode, 0, 109), &unit(&[])).secret_readable;
        assert_eq!(of("DEFAULT_PASS=geheim\n", 0o644), Fact::Known(true));
        assert_eq!(of("DEFAULT_PASS=geheim\n", 0o640), Fact::Known(false));
        assert_eq!(of("NODE_PORT=5672\n", 0o644), Fact::Known(false));
    }

    #[test]
    fn a_file_that_may_fall_away_is_a_remark() {
        let may = env("NODE_PORT=5677\n[ -f /x ] && A=1\n", &[]).problems;
        let remarks: Vec<_> = may.known().unwrap().iter().map(|p| (p.code.as_str(), p.fatal, p.at.line)).collect();
        assert_eq!(remarks, [("last-command-may-fail", false, Some(2))]);
    }

    #[test]
    fn secrets_are_struck_out() {
        let text = "DEFAULT_PASS=geheim\nERLANG_COOKIE=geheim\nSERVER_ADDITIONAL_ERL_ARGS=\"+K true -setcookie geheim -x\"\nMY_TOKEN=geheim\n";
        let env = env(text, &[]);
        assert!(!serde_json::to_string(&env).unwrap().contains("geheim"));
        assert_eq!(value(&env, "SERVER_ADDITIONAL_ERL_ARGS"), known("+K true -setcookie (secret) -x"));
    }
}

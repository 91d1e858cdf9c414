//! rabbitmq-env.conf (read as text, never sourced) and the unit's environment: what the broker is started with.
use super::unit::Unit;
use super::{Fact, Where};
use crate::formats::env_conf::Document;
use crate::host::{Host, MAX_SMALL_CONF, optional};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;

/// Where the file is unless the unit says otherwise.
const DEFAULT_FILE: &str = "/etc/rabbitmq/rabbitmq-env.conf";

/// What stands for a value that must not be shown.
const STRUCK_OUT: &str = "(secret)";

/// The variables that the broker and its scripts look at, without their prefix. Others are none of our business, and a
/// bare name means something only if it is one of these.
const USED: &[&str] = &[
    "ADVANCED_CONFIG_FILE",
    "ALLOW_INPUT",
    "BASE",
    "BOOT_MODULE",
    "CONFIG_FILE",
    "CONFIG_FILES",
    "CONF_ENV_FILE",
    "CTL_DIST_PORT_MAX",
    "CTL_DIST_PORT_MIN",
    "CTL_ERL_ARGS",
    "DBG",
    "DEFAULT_PASS",
    "DEFAULT_USER",
    "DEFAULT_VHOST",
    "DISTRIBUTION_BUFFER_SIZE",
    "DIST_PORT",
    "ENABLED_PLUGINS",
    "ENABLED_PLUGINS_FILE",
    "ERLANG_COOKIE",
    "ERL_EPMD_ADDRESS",
    "ERL_EPMD_PORT",
    "ERL_MAX_ETS_TABLES",
    "ERL_MAX_PORTS",
    "FEATURE_FLAGS",
    "FEATURE_FLAGS_FILE",
    "HOME",
    "IGNORE_SIGINT",
    "KEEP_PID_FILE_ON_EXIT",
    "LOG",
    "LOGS",
    "LOG_BASE",
    "MAX_NUMBER_OF_ATOMS",
    "MAX_NUMBER_OF_PROCESSES",
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
    "SCHEDULER_BIND_TYPE",
    "SERVER_ADDITIONAL_ERL_ARGS",
    "SERVER_CODE_PATH",
    "SERVER_ERL_ARGS",
    "SERVER_START_ARGS",
    "STREAM_DIR",
    "SYS_PREFIX",
    "USE_LONGNAME",
];
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
    /// What keeps the file from being applied, or the broker from starting: CRLF, `NODE_PORT = 5677`, a failing last command.
    pub problems: Fact<Vec<EnvProblem>>,
}

/// One variable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Var {
    pub value: Fact<String>,
    /// file, or the unit's drop-in; null: from a running process's environment
    pub at: Option<Where>,
}

/// One thing wrong with rabbitmq-env.conf.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct EnvProblem {
    /// blanks-around-equals | crlf | last-command-fails | last-command-may-fail | syntax | unreadable
    pub code: String,
    /// The broker does not start with it.
    pub fatal: bool,
    pub text: String,
    pub at: Where,
}

/// Reads rabbitmq-env.conf and merges it with the unit's environment as the broker does.
///
/// Strongest first: `RABBITMQ_X` in the file (the assignment changes the exported variable), `RABBITMQ_X` of the unit, `X` in
/// the file, `X` of the unit. A file whose last command may fail makes the values that depend on it unknown.
pub fn collect(host: &dyn Host, unit: &Fact<Option<Unit>>) -> Env {
    let from_unit = unit.as_ref().map(|u| u.as_ref().map(unit_vars).unwrap_or_default());
    let named = from_unit.known().and_then(|vars| effective(vars, &BTreeMap::new(), "CONF_ENV_FILE"));
    let file = named.and_then(|v| v.value.known().cloned()).unwrap_or_else(|| DEFAULT_FILE.to_owned());
    read(host, from_unit, Some(&file))
}

/// The same with the file that is named, or without one.
pub fn with_file(host: &dyn Host, unit: &Fact<Option<Unit>>, file: Option<&str>) -> Env {
    read(host, unit.as_ref().map(|u| u.as_ref().map(unit_vars).unwrap_or_default()), file)
}

fn read(host: &dyn Host, from_unit: Fact<BTreeMap<String, Var>>, named: Option<&str>) -> Env {
    let file = named.unwrap_or(DEFAULT_FILE).to_owned();
    let content = named.map_or(Ok(None), |file| optional(host.read(Path::new(file), MAX_SMALL_CONF)));
    let document = content.map(|c| c.map(|bytes| Document::parse(&bytes)));
    let problems = document.as_ref().map(|d| d.as_ref().map(|d| problems(d, &file)).unwrap_or_default());
    let secret_readable = match &document {
        Ok(Some(d)) if holds_secret(d) => host.stat(Path::new(&file), true).map(|meta| meta.mode & 0o004 != 0).into(),
        Ok(_) => Fact::Known(false),
        Err(miss) => Fact::Unknown(miss.to_string()),
    };
    let from_file = match &document {
        Err(miss) => Fact::Unknown(miss.to_string()),
        Ok(None) => Fact::Known(BTreeMap::new()),
        Ok(Some(d)) => file_vars(d, &file),
    };
    Env {
        present: Fact::from(document.as_ref().map(Option::is_some).map_err(Clone::clone)),
        vars: merge(from_unit, from_file),
        secret_readable,
        problems: Fact::from(problems.map_err(Clone::clone)),
        file,
    }
}

/// The unit's variables by name as spelt.
fn unit_vars(unit: &Unit) -> BTreeMap<String, Var> {
    // systemd does not say which file an assignment came from.
    let file = if let [one] = &unit.drop_ins[..] { one } else { &unit.name };
    let at = Where { file: file.clone(), line: None, column: None };
    let pairs = unit.environment.iter().filter_map(|e| e.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), Var { value: Fact::Known(value.to_owned()), at: Some(at.clone()) })).collect()
}

/// The file's variables by name as spelt; unknown if the file may set anything.
fn file_vars(document: &Document, file: &str) -> Fact<BTreeMap<String, Var>> {
    if let Some(why) = document.opaque() {
        return Fact::Unknown(format!("{file} {why}"));
    }
    if document.dropped() {
        return Fact::Known(BTreeMap::new());
    }
    let vars = document.vars().into_iter().map(|(name, (value, line))| {
        let value = match (value, document.undecided()) {
            (Ok(value), None) => Fact::Known(value),
            (Ok(_), Some(why)) => Fact::Unknown(format!("{file}: {why}")),
            (Err(why), _) => Fact::Unknown(format!("{file}: {why}")),
        };
        (name, Var { value, at: Some(Where { file: file.to_owned(), line: Some(line), column: None }) })
    });
    Fact::Known(vars.collect())
}

fn merge(from_unit: Fact<BTreeMap<String, Var>>, from_file: Fact<BTreeMap<String, Var>>) -> Fact<BTreeMap<String, Var>> {
    let (unit, file) = match (from_unit, from_file) {
        (Fact::Known(unit), Fact::Known(file)) => (unit, file),
        (Fact::Unknown(why), _) => return Fact::Unknown(format!("the unit's environment is not known: {why}")),
        (_, Fact::Unknown(why)) => return Fact::Unknown(why),
    };
    let all = USED.iter().filter_map(|name| effective(&unit, &file, name).map(|v| ((*name).to_owned(), strike_out(name, v))));
    Fact::Known(all.collect())
}

/// The value of one variable; `None`: unset.
fn effective(unit: &BTreeMap<String, Var>, file: &BTreeMap<String, Var>, name: &str) -> Option<Var> {
    let prefixed = format!("RABBITMQ_{name}");
    let spellings = [prefixed.as_str(), name];
    // HOME and the like of the unit are the process's own, not the broker's.
    let spellings = if name == "HOME" { &spellings[..1] } else { &spellings[..] };
    let mut candidates = spellings.iter().filter_map(|s| file.get(*s).or_else(|| unit.get(*s)));
    let counts = |v: &&Var| EMPTY_COUNTS.contains(&name) || v.value.known().is_none_or(|value| !value.is_empty());
    candidates.find(counts).cloned()
}

/// Whether a variable of this name holds a secret.
fn is_secret(name: &str) -> bool {
    ["PASS", "COOKIE", "SECRET"].iter().any(|s| name.contains(s))
}

/// Whether the file gives a secret variable a value, or hands the cookie to Erlang.
fn holds_secret(document: &Document) -> bool {
    let used = |name: &str| USED.contains(&name.strip_prefix("RABBITMQ_").unwrap_or(name));
    let secret = |value: &str, name: &str| !value.is_empty() && (is_secret(name) || without_cookie(value) != value);
    document.vars().iter().any(|(name, (value, _))| used(name) && value.as_ref().is_ok_and(|v| secret(v, name)))
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

fn problems(document: &Document, file: &str) -> Vec<EnvProblem> {
    let place = |line, column| Where { file: file.to_owned(), line: Some(line), column: Some(column) };
    let problem = |p: &crate::formats::env_conf::Problem| EnvProblem {
        code: p.code.to_owned(),
        fatal: p.fatal,
        text: p.text.clone(),
        at: place(p.line, p.column),
    };
    let may_fall_away = document.undecided().map(|why| EnvProblem {
        code: "last-command-may-fail".to_owned(),
        fatal: false,
        text: why.to_owned(),
        at: Where { file: file.to_owned(), line: line_in(why), column: None },
    });
    document.problems().iter().map(problem).chain(may_fall_away).collect()
}

/// The number in `… line 15 …`.
fn line_in(why: &str) -> Option<u32> {
    why.split_once("line ")?.1.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
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
            drop_ins: vec!["/etc/systemd/system/rabbitmq-server.service.d/env.conf".into()],
            needs_reload: false,
            limit_nofile: None,
            environment: environment.iter().map(|e| (*e).to_owned()).collect(),
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
        let may = env("NODE_PORT=5677\n[ -f /x ] && A=1\n", &[]).problems;
        assert_eq!(
            may.known().unwrap().iter().map(|p| (p.code.as_str(), p.fatal, p.at.line)).collect::<Vec<_>>(),
            [("last-command-may-fail", false, Some(2))]
        );
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
        assert_eq!(port("NODE_PORT=1\nfalse\n", &[]), None);
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
    fn secrets_are_struck_out() {
        let text = "DEFAULT_PASS=geheim\nERLANG_COOKIE=geheim\nSERVER_ADDITIONAL_ERL_ARGS=\"+K true -setcookie geheim -x\"\nMY_TOKEN=geheim\n";
        let env = env(text, &[]);
        assert!(!serde_json::to_string(&env).unwrap().contains("geheim"));
        assert_eq!(value(&env, "SERVER_ADDITIONAL_ERL_ARGS"), known("+K true -setcookie (secret) -x"));
    }
}

//! The systemd unit of the broker, as `systemctl show` tells it.
use super::Fact;
use crate::host::{Command, Got, Host, Miss, optional, read_text, secrets};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;

/// `rabbitmq-server.service`. Property names in brackets are systemd's (org.freedesktop.systemd1).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Unit {
    pub name: String,
    /// loaded | not-found | bad-setting | error | masked (LoadState)
    pub load: String,
    /// enabled | disabled | masked | static | … (UnitFileState); empty for a unit without a file
    pub enabled: String,
    /// active | inactive | failed | activating | deactivating | reloading (ActiveState)
    pub active: String,
    /// running | dead | start | auto-restart | … (SubState)
    pub sub: String,
    /// success | exit-code | signal | oom-kill | start-limit-hit | timeout | … (Result)
    pub result: String,
    /// Exit status of the main process (ExecMainStatus).
    pub exit_status: i64,
    /// Automatic restarts since the last manual start (NRestarts).
    pub restarts: i64,
    /// MainPID; 0: none.
    pub main_pid: i64,
    /// The unit's own file (FragmentPath); null: none.
    pub fragment: Option<String>,
    /// A Condition…= or Assert…= kept the last start from being tried (ConditionResult, AssertResult).
    pub condition_failed: bool,
    /// Files that override the unit (DropInPaths).
    pub drop_ins: Vec<String>,
    /// Whether systemd's copy is older than the files (NeedDaemonReload).
    pub needs_reload: bool,
    /// LimitNOFILE; null: infinity.
    pub limit_nofile: Option<i64>,
    /// Environment= of the unit and its drop-ins, `NAME=value`; values of secrets are struck out. Unknown where EnvironmentFile=,
    /// PassEnvironment= or UnsetEnvironment= have a say.
    pub environment: Fact<Vec<String>>,
    /// User=
    pub user: String,
    /// Seconds since the epoch of the last state change (StateChangeTimestamp), 0 if never.
    pub since: i64,
    /// Derived: running | stopped | failed | starting | restart-loop | stopping | masked | not-found
    pub state: String,
}

/// The unit's name in the packages of Debian, upstream and Fedora.
pub const NAME: &str = "rabbitmq-server.service";

const PROPERTIES: [&str; 21] = [
    "LoadState",
    "UnitFileState",
    "ActiveState",
    "SubState",
    "Result",
    "ExecMainStatus",
    "NRestarts",
    "MainPID",
    "FragmentPath",
    "ConditionResult",
    "ConditionTimestampMonotonic",
    "AssertResult",
    "DropInPaths",
    "NeedDaemonReload",
    "LimitNOFILE",
    "Environment",
    "EnvironmentFiles",
    "PassEnvironment",
    "UnsetEnvironment",
    "User",
    "StateChangeTimestampMonotonic",
];

/// Asks systemd. `null` on hosts that run without it, and in a file tree, as long as no unit file there sets an environment.
/// `boot_time`: seconds since the epoch, from [`super::os`].
pub fn collect(host: &dyn Host, boot_time: &Fact<i64>) -> Fact<Option<Unit>> {
    if host.identity().offline {
        return plain_unit_file(host).map(|()| None).into();
    }
    match optional(host.stat(Path::new("/run/systemd/system"), true)) {
        Ok(None) => Fact::Known(None),
        Ok(Some(_)) => show(host, boot_time).map(Some).into(),
        Err(miss) => miss.into(),
    }
}

/// What the unit gives the broker's environment. systemd is asked only where files could say something: that takes longer than all the
/// rest of a check of configuration files.
pub fn environment(host: &dyn Host) -> Fact<Option<Unit>> {
    if !host.identity().offline && sets_nothing(host).is_ok_and(|nothing| nothing) {
        return Fact::Known(None);
    }
    collect(host, &super::os::collect(host).boot_time)
}

/// Where systemd looks for units and their drop-ins (systemd.unit(5)).
pub(super) const DIRS: [&str; 7] = [
    "/etc/systemd/system.control",
    "/run/systemd/system.control",
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];

/// Whether there is a unit, and its files name every variable that it gives the broker: no `EnvironmentFile=`, no `PassEnvironment=`.
pub fn tells_environment(host: &dyn Host) -> bool {
    let elsewhere = |line: &str| ["EnvironmentFile", "PassEnvironment"].iter().any(|name| line.trim_start().starts_with(name));
    unit_texts(host).is_ok_and(|texts| !texts.is_empty() && !texts.iter().flat_map(|text| text.lines()).any(elsewhere))
}

/// The directory that the broker is started in (`WorkingDirectory=`), from the unit's files; null: no unit file, or it does not say.
pub fn working_directory(host: &dyn Host) -> Fact<Option<String>> {
    unit_texts(host).map(|texts| texts.iter().flat_map(|text| text.lines()).filter_map(directory).next_back()).into()
}

fn directory(line: &str) -> Option<String> {
    let value = line.trim().strip_prefix("WorkingDirectory=")?.trim().trim_start_matches('-');
    value.starts_with('/').then(|| value.to_owned())
}

/// The unit file that counts, and after it its drop-ins.
fn unit_texts(host: &dyn Host) -> Got<Vec<String>> {
    let mut texts = Vec::new();
    let offline = host.identity().offline;
    // A file tree has no /run.
    let dirs: Vec<&str> = DIRS.into_iter().filter(|dir| !offline || !dir.starts_with("/run")).collect();
    for dir in &dirs {
        if let Some(text) = optional(read_text(host, format!("{dir}/{NAME}")))? {
            texts.push(text);
            break;
        }
    }
    for dir in dirs.iter().rev() {
        let drop_ins = format!("{dir}/{NAME}.d");
        for name in optional(host.list(Path::new(&drop_ins)))?.unwrap_or_default().iter().filter(|n| n.ends_with(".conf")) {
            texts.extend(optional(read_text(host, format!("{drop_ins}/{name}")))?);
        }
    }
    Ok(texts)
}

/// Whether there is no drop-in and no unit file that speaks of an environment.
fn sets_nothing(host: &dyn Host) -> Got<bool> {
    for dir in DIRS {
        for drop_ins in [format!("{dir}/{NAME}.d"), format!("{dir}/service.d")] {
            if optional(host.stat(Path::new(&drop_ins), true))?.is_some() {
                return Ok(false);
            }
        }
        let text = optional(read_text(host, format!("{dir}/{NAME}")))?.unwrap_or_default();
        if speaks_of_an_environment(&text) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn speaks_of_an_environment(text: &str) -> bool {
    text.lines().any(|l| l.trim_start().starts_with("Environment"))
}

/// Nothing runs in a file tree, but other facts rest on the environment that the unit would give the broker: it must be known to
/// be empty.
fn plain_unit_file(host: &dyn Host) -> Got<()> {
    for dir in ["/etc/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"] {
        let drop_ins = format!("{dir}/{NAME}.d");
        if optional(host.stat(Path::new(&drop_ins), true))?.is_some() {
            return Err(Miss::failed(drop_ins, "drop-ins of a unit are not read in a file tree"));
        }
        let file = format!("{dir}/{NAME}");
        let text = optional(read_text(host, &file))?.unwrap_or_default();
        if speaks_of_an_environment(&text) {
            return Err(Miss::failed(file, "the environment of a unit is not read in a file tree"));
        }
    }
    Ok(())
}

fn show(host: &dyn Host, boot_time: &Fact<i64>) -> Got<Unit> {
    let properties = PROPERTIES.iter().map(|p| (*p).to_owned()).collect();
    let command = Command::UnitShow { unit: NAME.to_owned(), properties };
    let output = host.run(&command)?.ok("systemctl show")?;
    // Monotonic time since boot: the calendar form is localised, and `--timestamp=unix` is newer than Debian 11.
    let boot = boot_time.known().copied().ok_or_else(|| Miss::failed("/proc/stat", boot_time.why().unwrap_or("no boot time")))?;
    parse(&String::from_utf8_lossy(&output), boot)
}

/// `NAME=value` lines of `systemctl show`.
pub(crate) fn parse(text: &str, boot_time: i64) -> Got<Unit> {
    let all: BTreeMap<&str, &str> = text.lines().filter_map(|l| l.split_once('=')).collect();
    let get = |name: &str| all.get(name).copied().unwrap_or("");
    let number = |name: &str| get(name).parse().unwrap_or(0);
    if get("LoadState").is_empty() {
        return Err(Miss::failed("systemctl show", "no LoadState in its answer"));
    }
    let changed: i64 = number("StateChangeTimestampMonotonic");
    let mut unit = Unit {
        name: NAME.to_owned(),
        load: get("LoadState").to_owned(),
        enabled: get("UnitFileState").to_owned(),
        active: get("ActiveState").to_owned(),
        sub: get("SubState").to_owned(),
        result: get("Result").to_owned(),
        exit_status: number("ExecMainStatus"),
        restarts: number("NRestarts"),
        main_pid: number("MainPID"),
        fragment: Some(get("FragmentPath").to_owned()).filter(|path| !path.is_empty()),
        // Before the first try both say no.
        condition_failed: number("ConditionTimestampMonotonic") > 0
            && (get("ConditionResult") == "no" || get("AssertResult") == "no"),
        drop_ins: split_quoted(get("DropInPaths")),
        needs_reload: get("NeedDaemonReload") == "yes",
        limit_nofile: get("LimitNOFILE").parse().ok(),
        environment: match ["EnvironmentFiles", "PassEnvironment", "UnsetEnvironment"].iter().find(|name| !get(name).is_empty()) {
            None => Fact::Known(split_quoted(get("Environment")).iter().map(|v| secrets::strike_assignment(v)).collect()),
            Some(name) => Fact::Unknown(format!("{name} of {NAME} is not read: {}", get(name))),
        },
        user: get("User").to_owned(),
        since: if changed == 0 { 0 } else { boot_time + changed / 1_000_000 },
        state: String::new(),
    };
    unit.state = state(&unit).to_owned();
    Ok(unit)
}

/// A broker that cannot boot is rarely seen as "failed": Restart=on-failure with RestartSec=10 alternates between
/// activating (start) and activating (auto-restart). systemd forgets the last failure's Result when it starts again, but not
/// the number of restarts.
fn state(unit: &Unit) -> &'static str {
    let failing = unit.restarts > 0 && unit.result != "success";
    match (unit.load.as_str(), unit.active.as_str()) {
        ("not-found", _) => "not-found",
        ("masked", active) if active != "active" => "masked",
        (_, "activating") if unit.sub.starts_with("auto-restart") || unit.restarts > 0 => "restart-loop",
        (_, "activating") => "starting",
        (_, "active" | "reloading" | "refreshing") => "running",
        (_, "deactivating") if failing => "restart-loop",
        (_, "deactivating") => "stopping",
        (_, "failed") => "failed",
        _ => "stopped",
    }
}

/// Words as systemd prints lists: separated by blanks, double-quoted with backslashes where they hold blanks.
fn split_quoted(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let (mut quoted, mut inside) = (false, false);
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '"' => (quoted, inside) = (!quoted, true),
            '\\' => word.extend(chars.next()),
            ' ' if !quoted => {
                if inside {
                    words.push(std::mem::take(&mut word));
                }
                inside = false;
            }
            _ => {
                word.push(c);
                inside = true;
            }
        }
    }
    if inside {
        words.push(word);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::super::Blank;
    use super::*;
    use crate::host::{Output, fake::Fake};

    fn unit(changes: &[(&str, &str)]) -> Unit {
        let mut all = BTreeMap::from([
            ("LoadState", "loaded"),
            ("UnitFileState", "enabled"),
            ("ActiveState", "active"),
            ("SubState", "running"),
            ("Result", "success"),
            ("MainPID", "77"),
            ("NRestarts", "0"),
            ("LimitNOFILE", "65536"),
            ("StateChangeTimestampMonotonic", "5500000"),
        ]);
        all.extend(changes.iter().copied());
        let text: String = all.iter().map(|(k, v)| format!("{k}={v}\n")).collect();
        parse(&text, 1000).unwrap()
    }

    #[test]
    fn states_are_derived() {
        let state = |changes: &[(&str, &str)]| unit(changes).state;
        assert_eq!(state(&[]), "running");
        assert_eq!(state(&[("ActiveState", "activating"), ("SubState", "start")]), "starting");
        assert_eq!(state(&[("ActiveState", "activating"), ("SubState", "start"), ("NRestarts", "2")]), "restart-loop");
        let loops = [("ActiveState", "activating"), ("SubState", "auto-restart"), ("Result", "exit-code")];
        assert_eq!(state(&loops), "restart-loop");
        assert_eq!(state(&[("ActiveState", "failed"), ("Result", "exit-code")]), "failed");
        assert_eq!(state(&[("ActiveState", "inactive"), ("SubState", "dead")]), "stopped");
        assert_eq!(state(&[("LoadState", "masked"), ("ActiveState", "inactive")]), "masked");
        assert_eq!(state(&[("LoadState", "not-found"), ("ActiveState", "inactive")]), "not-found");
    }

    #[test]
    fn values_are_parsed_and_secrets_struck_out() {
        let u = unit(&[("Environment", "A=1 \"RABBITMQ_DEFAULT_PASS=s e c\" B=\\\"q"), ("DropInPaths", "/a.conf /b.conf")]);
        assert_eq!(u.environment.known().unwrap(), &["A=1", "RABBITMQ_DEFAULT_PASS=REDACTED", "B=\"q"]);
        let with_file = unit(&[("EnvironmentFiles", "/etc/default/rabbitmq (ignore_errors=yes)")]);
        assert!(with_file.environment.why().unwrap().contains("/etc/default/rabbitmq"));
        assert_eq!(u.drop_ins, ["/a.conf", "/b.conf"]);
        assert_eq!((u.since, u.limit_nofile, u.main_pid), (1005, Some(65536), 77));
        assert_eq!(unit(&[("LimitNOFILE", "infinity")]).limit_nofile, None);
    }

    #[test]
    fn a_file_tree_has_no_unit_unless_its_environment_matters() {
        let identity = crate::host::Identity { uid: 0, now: 0, offline: true, nodename: None };
        let tree = Fake::new().identity(identity).file("/lib/systemd/system/rabbitmq-server.service", "[Service]\nType=notify\n");
        assert!(matches!(collect(&tree, &Fact::blank("x")), Fact::Known(None)));
        let drop_in = tree.file("/etc/systemd/system/rabbitmq-server.service.d/x.conf", "");
        assert!(collect(&drop_in, &Fact::blank("x")).why().is_some());
    }

    #[test]
    fn a_host_without_systemd_has_no_unit_and_a_failing_systemctl_is_unknown() {
        assert!(matches!(collect(&Fake::new(), &Fact::Known(0)), Fact::Known(None)));
        let properties = PROPERTIES.iter().map(|p| (*p).to_owned()).collect();
        let command = Command::UnitShow { unit: NAME.to_owned(), properties };
        let failed = Output { code: Some(1), stdout: vec![], stderr: b"Failed to connect to bus".to_vec() };
        let host = Fake::new().dir("/run/systemd/system", 0o755, 0, 0).command_ends(command, Ok(failed));
        assert!(collect(&host, &Fact::Known(0)).why().is_some_and(|w| w.contains("Failed to connect to bus")));
    }
}

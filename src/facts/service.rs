//! What the unit's files and the host around them do to the service: directives that keep the broker from starting or from its clients,
//! with the file and line that sets them.
use super::files::Files;
use super::os::Install;
use super::unit::{self, Unit};
use super::{Blank, Fact, Where};
use crate::formats::unit_file::Document;
use crate::host::{Got, Host, MAX_FILE, optional, read_text};
use serde::Serialize;
use std::path::Path;

/// The service beside what systemd says of it.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Service {
    /// Directives of the unit and its drop-ins that the broker cannot work with, in the order of the files.
    pub problems: Fact<Vec<ServiceProblem>>,
    /// What systemd could not do before it ran the broker, from the exit statuses 200 to 245 of systemd.exec(5), e.g. `217/USER: …`;
    /// null: it got as far as running it.
    pub failed_step: Fact<Option<String>>,
    /// The directory that the unit starts the broker in is not there; null: it is, or no unit says.
    pub missing_home: Fact<Option<MissingHome>>,
    /// Another program starts and stops the broker: `pacemaker`; null: none was found.
    pub cluster_manager: Fact<Option<String>>,
    /// `erl`, which the start script runs, is on the path of the unit's processes.
    pub erl_present: Fact<bool>,
    /// dpkg's word for the package where it is not plainly installed, e.g. `half-configured`; null: installed, or no dpkg.
    pub package_state: Fact<Option<String>>,
    /// /usr/sbin/policy-rc.d, which keeps packages from starting their services, is there.
    pub policy_rc: Fact<bool>,
}

/// One directive that the broker cannot work with. `code` is a stable name: user-missing | group-missing | type | notify-access |
/// start-timeout | memory-limit | task-limit | file-limit | read-only | inaccessible | private-network | address-deny |
/// address-families | write-execute | exec-missing | pre-failed | condition-failed | requires-missing | workdir-missing | output-missing
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ServiceProblem {
    pub code: String,
    /// `TimeoutStartSec`
    pub directive: String,
    pub value: String,
    pub message: String,
    pub at: Where,
    /// The file is one of the administrator's, in /etc/systemd/system.
    pub editable: bool,
    /// The value that belongs there in a unit of the administrator's own; null: the directive can go.
    pub instead: Option<String>,
    /// A line that is missing below it, e.g. `ReadWritePaths=/var/lib/rabbitmq`; null: the directive itself is wrong.
    pub add: Option<String>,
}

/// A missing working directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct MissingHome {
    pub path: String,
    /// Directories beside it that hold a broker's data.
    pub candidates: Vec<String>,
}

/// Seconds that a start may need; a unit that allows less kills a broker that is on its way up.
const START_SECONDS: u64 = 60;
/// The Erlang VM reserves 1 GiB of address space for its literals and more for its allocators (erts, `+MIscs`), in bytes.
const ADDRESS_SPACE: u64 = 2 * 1024 * 1024 * 1024;
/// A broker without load needs about 100 MB, in bytes.
const MEMORY: u64 = 128 * 1024 * 1024;
/// Threads of the Erlang VM: schedulers, as many dirty ones, ten for files, and the programs that it starts.
const TASKS: u64 = 48;
/// Files that a broker opens before it serves anybody.
const FILES: u64 = 128;

/// Looks at the unit's files and at what they name.
pub fn collect(
    host: &dyn Host,
    unit: &Fact<Option<Unit>>,
    install: &Fact<Option<Install>>,
    files: &Files,
    runs: &Fact<bool>,
) -> Service {
    let unit = match unit {
        Fact::Known(unit) => unit.as_ref(),
        Fact::Unknown(why) => return Service::blank(why),
    };
    let directives = unit.map_or_else(|| Ok(Vec::new()), |unit| directives(host, unit));
    let asked_for_package = runs.known() != Some(&true) && !host.identity().offline;
    Service {
        problems: Fact::from(directives.clone()).and_then(|all| problems(host, unit, &all, install, files)),
        failed_step: Fact::Known(unit.and_then(failed_step)),
        missing_home: Fact::from(directives.and_then(|all| missing_home(host, &all))),
        cluster_manager: cluster_manager(host).into(),
        erl_present: erl_present(host).into(),
        package_state: if asked_for_package { package_state(host).into() } else { Fact::Known(None) },
        policy_rc: if asked_for_package { present(host, "/usr/sbin/policy-rc.d").into() } else { Fact::Known(false) },
    }
}

/// A directive as it counts in the end: what a later file takes back is not among them.
#[derive(Debug, Clone)]
struct Directive {
    /// Its present name.
    name: String,
    /// As the file spells it.
    spelt: String,
    value: String,
    at: Where,
}

impl Directive {
    fn editable(&self) -> bool {
        self.at.file.starts_with("/etc/systemd/system/")
    }
    fn in_drop_in(&self) -> bool {
        self.at.file.contains(".d/")
    }
    fn words(&self) -> impl Iterator<Item = &str> {
        self.value.split_whitespace()
    }
}

/// Directives whose assignments add up; an empty one takes back those before it.
const LISTS: &[&str] = &[
    "ExecStart",
    "ExecStartPre",
    "ExecCondition",
    "ReadWritePaths",
    "ReadOnlyPaths",
    "InaccessiblePaths",
    "TemporaryFileSystem",
    "BindPaths",
    "BindReadOnlyPaths",
    "StateDirectory",
    "LogsDirectory",
    "IPAddressDeny",
    "IPAddressAllow",
    "RestrictAddressFamilies",
    "Requires",
    "BindsTo",
    "Requisite",
];

/// Former names (systemd.exec(5), systemd.resource-control(5)).
const RENAMED: &[(&str, &str)] = &[
    ("ReadWriteDirectories", "ReadWritePaths"),
    ("ReadOnlyDirectories", "ReadOnlyPaths"),
    ("InaccessibleDirectories", "InaccessiblePaths"),
    ("MemoryLimit", "MemoryMax"),
    ("TimeoutSec", "TimeoutStartSec"),
];

/// The unit's file and its drop-ins, in systemd's order.
fn directives(host: &dyn Host, unit: &Unit) -> Got<Vec<Directive>> {
    let mut all: Vec<Directive> = Vec::new();
    for file in unit.fragment.iter().chain(&unit.drop_ins) {
        let Some(bytes) = optional(host.read(Path::new(file), MAX_FILE))? else { continue };
        for a in Document::parse(&bytes).assignments() {
            let name = RENAMED.iter().find(|(old, _)| *old == a.name).map_or(a.name.as_str(), |(_, new)| new).to_owned();
            let condition = name.starts_with("Condition") || name.starts_with("Assert");
            let list = LISTS.contains(&name.as_str()) || condition;
            if !list || a.value.is_empty() {
                all.retain(|d| d.name != name);
            }
            if !a.value.is_empty() {
                let at = Where { file: file.clone(), line: Some(a.line), column: None };
                all.push(Directive { name, spelt: a.name.clone(), value: a.value.clone(), at });
            }
        }
    }
    Ok(all)
}

/// What the problems are found in.
struct Look<'a> {
    host: &'a dyn Host,
    unit: &'a Unit,
    all: &'a [Directive],
    /// The package's own unit file, for the values that belong there.
    packaged: Vec<Directive>,
    found: Vec<ServiceProblem>,
}

fn problems(
    host: &dyn Host,
    unit: Option<&Unit>,
    all: &[Directive],
    install: &Fact<Option<Install>>,
    files: &Files,
) -> Fact<Vec<ServiceProblem>> {
    let Some(unit) = unit else { return Fact::Known(Vec::new()) };
    let mut look = Look { host, unit, all, packaged: packaged(host), found: Vec::new() };
    let jit = install.known().and_then(|i| i.as_ref()?.erlang.known()?.as_ref()?.parse().ok()).is_some_and(|otp: u32| otp >= 24);
    let looked =
        look.accounts().and_then(|()| look.paths(files)).and_then(|()| look.programs()).and_then(|()| look.requirements()).map(
            |()| {
                look.start();
                look.limits();
                look.network();
                look.memory_protection(jit);
            },
        );
    let mut found = look.found;
    let place = |at: &Where| (all.iter().position(|d| d.at == *at), at.line);
    found.sort_by_key(|p| place(&p.at));
    looked.map(|()| found).into()
}

/// The directives of the unit file that the package brought.
fn packaged(host: &dyn Host) -> Vec<Directive> {
    let dirs = ["/usr/lib/systemd/system", "/lib/systemd/system"].map(|dir| format!("{dir}/{}", unit::NAME));
    let text = dirs.iter().find_map(|file| Some((file, host.read(Path::new(file), MAX_FILE).ok()?)));
    let Some((file, bytes)) = text else { return Vec::new() };
    let of = |a: &crate::formats::unit_file::Assignment| Directive {
        name: a.name.clone(),
        spelt: a.name.clone(),
        value: a.value.clone(),
        at: Where { file: file.clone(), line: Some(a.line), column: None },
    };
    Document::parse(&bytes).assignments().map(of).collect()
}

impl Look<'_> {
    fn last(&self, name: &str) -> Option<&Directive> {
        self.all.iter().rfind(|d| d.name == name)
    }

    fn each<'b>(&'b self, name: &'b str) -> impl Iterator<Item = &'b Directive> {
        self.all.iter().filter(move |d| d.name == name)
    }

    fn is(&self, name: &str, values: &[&str]) -> Option<Directive> {
        let directive = self.last(name)?;
        values.contains(&directive.value.to_ascii_lowercase().as_str()).then(|| directive.clone())
    }

    fn put(&mut self, code: &str, directive: &Directive, message: String) {
        self.put_with(code, directive, message, None);
    }

    fn put_with(&mut self, code: &str, directive: &Directive, message: String, add: Option<String>) {
        // A drop-in's directive can go; in a unit of one's own the package's value has to take its place.
        let package = self.packaged.iter().find(|p| p.name == directive.name).map(|p| p.value.clone());
        let instead = package.filter(|_| !directive.in_drop_in() && add.is_none());
        self.found.push(ServiceProblem {
            code: code.to_owned(),
            directive: directive.spelt.clone(),
            value: directive.value.clone(),
            message,
            at: directive.at.clone(),
            editable: directive.editable(),
            instead,
            add,
        });
    }

    /// `User=` and `Group=` of accounts that are not there.
    fn accounts(&mut self) -> Got<()> {
        if self.is("DynamicUser", YES).is_some() {
            return Ok(());
        }
        for (name, file, code, status) in
            [("User", "/etc/passwd", "user-missing", 217), ("Group", "/etc/group", "group-missing", 216)]
        {
            let Some(directive) = self.last(name).cloned() else { continue };
            if directive.value.contains('%') {
                continue;
            }
            if in_database(self.host, file, &directive.value)? {
                self.other_account(name, &directive);
                continue;
            }
            // Other sources of accounts are not asked; systemd's own failure says it as well.
            if self.unit.exit_status == status || files_only(self.host, name)? {
                self.put(
                    code,
                    &directive,
                    format!("{name}={}: there is no such {} on this host", directive.value, name.to_lowercase()),
                );
            }
        }
        Ok(())
    }

    /// An account that is there, but not the one that the package's unit names and its directories belong to.
    fn other_account(&mut self, name: &str, directive: &Directive) {
        let package = self.packaged.iter().find(|p| p.name == name).map(|p| p.value.clone());
        // A number may be the same account.
        let another = |package: &String| *package != directive.value && directive.value.parse::<u32>().is_err();
        if let Some(package) = package.filter(another) {
            let message = format!("{name}={}: data, logs and cookie belong to {package}", directive.value);
            self.put("other-account", directive, message);
        }
    }

    fn start(&mut self) {
        if let Some(directive) = self.is("Type", &["forking", "oneshot", "dbus"]) {
            let message = format!(
                "Type={}: the broker says by sd_notify that it is up, which systemd does not listen for then",
                directive.value
            );
            self.put("type", &directive, message);
        } else if let Some(directive) = self.is("NotifyAccess", &["none"]) {
            self.put("notify-access", &directive, "NotifyAccess=none: systemd does not hear that the broker is up".into());
        }
        if let Some(directive) = self.last("TimeoutStartSec").cloned()
            && let Some(seconds) = seconds(&directive.value).filter(|s| *s > 0 && *s < START_SECONDS)
        {
            let message = format!("{}={}: a broker that is not up after {seconds} s is killed", directive.spelt, directive.value);
            self.put("start-timeout", &directive, message);
        }
        // The main process was never run, and a program before it failed.
        let before = self.unit.result == "exit-code" && self.unit.exit_status == 0 && self.unit.state != "running";
        let first = self.each("ExecStartPre").find(|d| before && d.editable()).cloned();
        if let Some(directive) = first {
            self.put("pre-failed", &directive, format!("{} ended with a failure before the broker was run", directive.value));
        }
        let failed = self.unit.condition_failed && self.unit.state != "running";
        let condition = self.all.iter().find(|d| failed && (d.name.starts_with("Condition") || d.name.starts_with("Assert")));
        if let Some(directive) = condition.cloned() {
            let message = format!("{}={} is not met: systemd passes the start over", directive.name, directive.value);
            self.put("condition-failed", &directive, message);
        }
    }

    fn limits(&mut self) {
        let limits = [
            ("LimitAS", ADDRESS_SPACE, "memory-limit"),
            ("LimitDATA", MEMORY, "memory-limit"),
            ("MemoryMax", MEMORY, "memory-limit"),
            ("TasksMax", TASKS, "task-limit"),
            ("LimitNPROC", TASKS, "task-limit"),
            ("LimitNOFILE", FILES, "file-limit"),
        ];
        for (name, least, code) in limits {
            let Some(directive) = self.last(name).cloned() else { continue };
            // The soft limit stands before the colon.
            let soft = directive.value.split(':').next().unwrap_or_default();
            if size(soft).is_some_and(|n| n < least) {
                self.put(code, &directive, format!("{name}={}: the Erlang VM needs more to start", directive.value));
            }
        }
    }

    fn network(&mut self) {
        if let Some(directive) = self.is("PrivateNetwork", YES) {
            self.put("private-network", &directive, "PrivateNetwork: the broker has no network but a loopback of its own".into());
        }
        let local_only = self.each("IPAddressAllow").flat_map(|d| d.words()).all(|w| w == "localhost" || w.starts_with("127."));
        let denies = self.each("IPAddressDeny").find(|d| d.words().any(|w| w == "any" || w == "0.0.0.0/0")).cloned();
        if let Some(directive) = denies.filter(|_| local_only) {
            let message =
                format!("IPAddressDeny={}: packets of all other hosts are dropped before the broker sees them", directive.value);
            self.put("address-deny", &directive, message);
        }
        let families: Vec<Directive> = self.each("RestrictAddressFamilies").cloned().collect();
        let (allowed, refused): (Vec<_>, Vec<_>) = families.iter().flat_map(|d| d.words()).partition(|w| !w.starts_with('~'));
        let without =
            if refused.is_empty() { !allowed.is_empty() && !allowed.contains(&"AF_INET") } else { refused.contains(&"~AF_INET") };
        if let Some(directive) = families.first().filter(|_| without) {
            self.put("address-families", directive, format!("{}={}: no IPv4 sockets", directive.name, directive.value));
        }
    }

    /// Since Erlang 24 the VM compiles to machine code while it loads modules.
    fn memory_protection(&mut self, jit: bool) {
        if let Some(directive) = self.is("MemoryDenyWriteExecute", YES).filter(|_| jit) {
            let message = "MemoryDenyWriteExecute: the Erlang VM may not make the machine code that it compiles executable";
            self.put("write-execute", &directive, message.into());
        }
    }

    /// Programs and directories that the unit names and that are not there.
    fn programs(&mut self) -> Got<()> {
        let programs: Vec<Directive> = ["ExecStart", "ExecStartPre"].iter().flat_map(|name| self.each(name)).cloned().collect();
        for directive in programs {
            let word = directive.words().next().unwrap_or_default();
            let program = word.trim_start_matches(['@', ':', '+', '!']);
            if program.starts_with('/') && !present(self.host, program)? {
                self.put("exec-missing", &directive, format!("{}={program}: no such program", directive.name));
            }
        }
        for name in ["StandardOutput", "StandardError"] {
            let Some(directive) = self.last(name).cloned() else { continue };
            let file = ["append:", "file:", "truncate:"].iter().find_map(|kind| directive.value.strip_prefix(kind));
            let Some(dir) = file.and_then(|file| Path::new(file).parent()) else { continue };
            if !present(self.host, &dir.to_string_lossy())? {
                self.put("output-missing", &directive, format!("{name}={}: {} is not there", directive.value, dir.display()));
            }
        }
        if let Some(directive) = self.last("WorkingDirectory").filter(|d| d.editable()).cloned()
            && directive.value.starts_with('/')
            && !present(self.host, &directive.value)?
        {
            self.put("workdir-missing", &directive, format!("WorkingDirectory={} is not there", directive.value));
        }
        Ok(())
    }

    /// Units that have to be there for a start and are not.
    fn requirements(&mut self) -> Got<()> {
        let all: Vec<Directive> = ["Requires", "BindsTo", "Requisite"].iter().flat_map(|name| self.each(name)).cloned().collect();
        for directive in all.iter().filter(|d| d.editable()) {
            for name in directive.words().filter(|w| w.ends_with(".service") && !w.contains(['@', '%'])) {
                let mut there = false;
                for dir in unit::DIRS {
                    there |= present(self.host, &format!("{dir}/{name}"))?;
                }
                if !there {
                    self.put("requires-missing", directive, format!("{}={name}: there is no such unit", directive.name));
                }
            }
        }
        Ok(())
    }

    /// Directories of the broker that the unit's own view of the file system does not let it use.
    fn paths(&mut self, files: &Files) -> Got<()> {
        let data = files.data_dirs.known().into_iter().flatten().map(|d| d.path.clone());
        let log = files.log_dir.known().into_iter().flatten().map(|d| d.path.clone());
        let written: Vec<String> = data.take(1).chain(log).collect();
        let read = ["/etc/rabbitmq", "/usr/lib/rabbitmq", "/usr/lib/erlang"].map(str::to_owned);
        let views = self.views();
        let mut closed: Vec<(Directive, View, Vec<String>)> = Vec::new();
        for (path, writes) in written.iter().map(|p| (p, true)).chain(read.iter().map(|p| (p, false))) {
            let over = views.iter().filter(|(prefix, ..)| Path::new(path).starts_with(prefix));
            // The innermost counts; of two on one directory the one that allows more.
            let Some((_, view, directive)) = over.max_by_key(|(prefix, view, _)| (Path::new(prefix).components().count(), *view))
            else {
                continue;
            };
            if !matches!((view, writes), (View::Writable, _) | (View::ReadOnly, false)) {
                match closed.iter_mut().find(|(other, ..)| other.at == directive.at) {
                    Some((.., paths)) => paths.push(path.clone()),
                    None => closed.push((directive.clone(), *view, vec![path.clone()])),
                }
            }
        }
        for (directive, view, paths) in closed {
            let (code, how) = if view == View::ReadOnly { ("read-only", "cannot write") } else { ("inaccessible", "cannot see") };
            let message = format!("{}={}: the broker {how} {}", directive.name, directive.value, paths.join(" and "));
            let strict = directive.name == "ProtectSystem";
            self.put_with(code, &directive, message, strict.then(|| format!("ReadWritePaths={}", paths.join(" "))));
        }
        Ok(())
    }

    /// (directory, what the broker may do below it, what says so)
    fn views(&self) -> Vec<(String, View, Directive)> {
        let mut all = Vec::new();
        if let Some(d) = self.is("ProtectSystem", &["strict"]) {
            all.push(("/".to_owned(), View::ReadOnly, d));
        }
        for (name, view) in [
            ("ReadOnlyPaths", View::ReadOnly),
            ("BindReadOnlyPaths", View::ReadOnly),
            ("InaccessiblePaths", View::Hidden),
            ("TemporaryFileSystem", View::Hidden),
            ("ReadWritePaths", View::Writable),
            ("BindPaths", View::Writable),
        ] {
            for directive in self.each(name) {
                let paths = directive.words().map(|w| w.trim_start_matches(['-', '+']));
                let paths =
                    paths.map(|w| w.split(':').nth(usize::from(name.starts_with("Bind"))).or(w.split(':').next()).unwrap_or(w));
                all.extend(paths.map(|path| (path.to_owned(), view, directive.clone())));
            }
        }
        for (name, base) in [("StateDirectory", "/var/lib"), ("LogsDirectory", "/var/log")] {
            for directive in self.each(name) {
                all.extend(directive.words().map(|w| (format!("{base}/{w}"), View::Writable, directive.clone())));
            }
        }
        all
    }
}

/// What a process may do below a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum View {
    Hidden,
    ReadOnly,
    Writable,
}

const YES: &[&str] = &["yes", "true", "1", "on"];

fn present(host: &dyn Host, path: &str) -> Got<bool> {
    Ok(optional(host.stat(Path::new(path), true))?.is_some())
}

/// Whether a name or number stands in /etc/passwd or /etc/group.
fn in_database(host: &dyn Host, file: &str, name: &str) -> Got<bool> {
    if name.bytes().all(|b| b.is_ascii_digit()) {
        return Ok(true);
    }
    let text = optional(read_text(host, file))?.unwrap_or_default();
    Ok(text.lines().any(|l| l.split(':').next() == Some(name)))
}

/// Whether accounts come from the files alone (nsswitch.conf(5)); `systemd` adds those of running services and of userdb.
fn files_only(host: &dyn Host, kind: &str) -> Got<bool> {
    let database = if kind == "User" { "passwd:" } else { "group:" };
    let text = optional(read_text(host, "/etc/nsswitch.conf"))?.unwrap_or_default();
    let line = text.lines().find_map(|l| l.trim().strip_prefix(database));
    Ok(line
        .unwrap_or("files")
        .split_whitespace()
        .all(|w| matches!(w, "files" | "systemd" | "compat" | "altfiles") || w.starts_with('[')))
}

/// A time span of systemd.time(7) in whole seconds; `None`: without limit, or not understood.
fn seconds(text: &str) -> Option<u64> {
    let mut total = 0.0;
    let mut rest = text.trim();
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let number: f64 = rest[..end].parse().ok()?;
        rest = rest[end..].trim_start();
        let end = rest.find(|c: char| c.is_ascii_digit() || c == ' ').unwrap_or(rest.len());
        let unit = match rest[..end].trim() {
            "" | "s" | "sec" | "second" | "seconds" => 1.0,
            "ms" | "msec" => 0.001,
            "us" | "usec" => 0.000_001,
            "m" | "min" | "minute" | "minutes" => 60.0,
            "h" | "hr" | "hour" | "hours" => 3600.0,
            "d" | "day" | "days" => 86400.0,
            _ => return None,
        };
        total += number * unit;
        rest = rest[end..].trim_start();
    }
    // `0` is no limit, a part of a second is one.
    Some(if total > 0.0 { (total as u64).max(1) } else { 0 })
}

/// A number with a binary suffix, in bytes or pieces; `None`: `infinity`, a percentage, or not understood.
fn size(text: &str) -> Option<u64> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..end].parse().ok()?;
    let shift = match text[end..].trim() {
        "" | "B" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        _ => return None,
    };
    number.checked_mul(1 << shift)
}

/// The exit statuses by which systemd says what it could not do (systemd.exec(5), "Process Exit Codes").
fn failed_step(unit: &Unit) -> Option<String> {
    const STEPS: &[(i64, &str, &str)] = &[
        (200, "CHDIR", "the working directory could not be entered"),
        (202, "FDS", "a file descriptor could not be passed on"),
        (203, "EXEC", "the program could not be run"),
        (204, "MEMORY", "there was no memory"),
        (205, "LIMITS", "a resource limit could not be set"),
        (206, "OOM_ADJUST", "the OOM score could not be set"),
        (208, "STDIN", "standard input could not be set up"),
        (209, "STDOUT", "standard output could not be set up"),
        (214, "SETSCHEDULER", "the scheduler could not be set"),
        (216, "GROUP", "the account of Group= could not be used"),
        (217, "USER", "the account of User= could not be used"),
        (218, "CAPABILITIES", "capabilities could not be set"),
        (219, "CGROUP", "the control group could not be set up"),
        (222, "STDERR", "standard error could not be set up"),
        (225, "NETWORK", "the network namespace could not be set up"),
        (226, "NAMESPACE", "the mount namespace could not be set up: a path that the unit names may be missing"),
        (228, "SECCOMP", "the filter of system calls could not be set up"),
        (230, "PERSONALITY", "the execution domain could not be set"),
        (233, "RUNTIME_DIRECTORY", "the runtime directory could not be made"),
        (235, "CHOWN", "ownership could not be set"),
        (238, "STATE_DIRECTORY", "the state directory could not be made"),
        (240, "LOGS_DIRECTORY", "the logs directory could not be made"),
        (241, "CONFIGURATION_DIRECTORY", "the configuration directory could not be made"),
        (243, "CREDENTIALS", "a credential could not be read"),
    ];
    let failed = unit.state != "running" && unit.result != "success" || unit.state == "restart-loop";
    let step = STEPS.iter().find(|(status, ..)| failed && *status == unit.exit_status)?;
    Some(format!("{}/{}: {}", step.0, step.1, step.2))
}

fn missing_home(host: &dyn Host, all: &[Directive]) -> Got<Option<MissingHome>> {
    let directive = all.iter().rfind(|d| d.name == "WorkingDirectory" && d.value.starts_with('/'));
    let Some(directive) = directive.filter(|d| !d.editable()) else { return Ok(None) };
    let path = Path::new(&directive.value);
    if present(host, &directive.value)? {
        return Ok(None);
    }
    let (Some(parent), Some(name)) = (path.parent(), path.file_name().map(|n| n.to_string_lossy().into_owned())) else {
        return Ok(None);
    };
    let mut candidates = Vec::new();
    for other in optional(host.list(parent))?.unwrap_or_default().iter().filter(|n| n.starts_with(&name)) {
        let other = parent.join(other).display().to_string();
        if present(host, &format!("{other}/mnesia"))? {
            candidates.push(other);
        }
    }
    Ok(Some(MissingHome { path: directive.value.clone(), candidates }))
}

/// A cluster manager with a configuration on this host.
fn cluster_manager(host: &dyn Host) -> Got<Option<String>> {
    for (file, name) in [("/etc/corosync/corosync.conf", "pacemaker"), ("/var/lib/pacemaker/cib/cib.xml", "pacemaker")] {
        if present(host, file)? {
            return Ok(Some(name.to_owned()));
        }
    }
    Ok(None)
}

fn erl_present(host: &dyn Host) -> Got<bool> {
    for dir in ["/usr/local/bin", "/usr/bin", "/bin", "/usr/local/sbin", "/usr/sbin", "/sbin"] {
        if present(host, &format!("{dir}/erl"))? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The third word of the status that dpkg keeps, e.g. `install ok half-configured`, unless it is `installed`.
fn package_state(host: &dyn Host) -> Got<Option<String>> {
    let Some(bytes) = optional(host.read(Path::new("/var/lib/dpkg/status"), MAX_FILE))? else { return Ok(None) };
    let text = String::from_utf8_lossy(&bytes);
    let Some(at) = text.find("Package: rabbitmq-server\n") else { return Ok(None) };
    let paragraph = text[at..].split("\n\n").next().unwrap_or_default();
    let status = paragraph.lines().find_map(|l| l.strip_prefix("Status: "));
    let state = status.and_then(|s| s.split_whitespace().nth(2)).map(str::to_owned);
    Ok(state.filter(|s| !matches!(s.as_str(), "installed" | "config-files" | "not-installed")))
}

impl Blank for Service {
    fn blank(why: &str) -> Self {
        Service {
            problems: Fact::blank(why),
            failed_step: Fact::blank(why),
            missing_home: Fact::blank(why),
            cluster_manager: Fact::blank(why),
            erl_present: Fact::blank(why),
            package_state: Fact::blank(why),
            policy_rc: Fact::blank(why),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::Fake;

    const DROP_IN: &str = "/etc/systemd/system/rabbitmq-server.service.d/local.conf";
    const PACKAGE: &str = "/usr/lib/systemd/system/rabbitmq-server.service";
    const PACKAGED: &str = "[Service]\nType=notify\nTimeoutStartSec=600\nUser=rabbitmq\nGroup=rabbitmq\n\
        WorkingDirectory=/var/lib/rabbitmq\nExecStart=/usr/lib/rabbitmq/bin/rabbitmq-server\n";

    fn host(drop_in: &str) -> Fake {
        Fake::new()
            .file(PACKAGE, PACKAGED)
            .file(DROP_IN, drop_in)
            .file("/etc/passwd", "rabbitmq:x:104:109::/var/lib/rabbitmq:/bin/sh\n")
            .file("/etc/group", "rabbitmq:x:109:\n")
            .file("/usr/lib/rabbitmq/bin/rabbitmq-server", "")
            .dir("/var/lib/rabbitmq", 0o750, 104, 109)
            .dir("/var/log/rabbitmq", 0o750, 104, 109)
    }

    fn look(host: &Fake, more: &str) -> Service {
        let shown = format!(
            "LoadState=loaded\nActiveState=activating\nSubState=auto-restart\nResult=exit-code\nFragmentPath={PACKAGE}\nDropInPaths={DROP_IN}\n{more}"
        );
        let unit = Fact::Known(Some(unit::parse(&shown, 0).unwrap()));
        let mut files = Files::blank("test");
        let dir = |path: &str| super::super::files::Dir {
            path: path.into(),
            purpose: "data".into(),
            mode: 0,
            uid: 0,
            gid: 0,
            writable_by_broker: Fact::Known(true),
            foreign_entries: vec![],
        };
        files.data_dirs = Fact::Known(vec![dir("/var/lib/rabbitmq")]);
        files.log_dir = Fact::Known(Some(dir("/var/log/rabbitmq")));
        let install = super::super::os::Install {
            version: "4.0.5".into(),
            plugin_dirs: vec![],
            erlang: Fact::Known(Some("27".into())),
            uid: Fact::Known(Some(104)),
            gid: Fact::Known(Some(109)),
        };
        collect(host, &unit, &Fact::Known(Some(install)), &files, &Fact::Known(false))
    }

    /// (code, line, what is to be added)
    fn found(drop_in: &str) -> Vec<(String, Option<u32>, Option<String>)> {
        let service = look(&host(drop_in), "ExecMainStatus=1\n");
        service.problems.known().unwrap().iter().map(|p| (p.code.clone(), p.at.line, p.add.clone())).collect()
    }

    #[test]
    fn directives_that_the_broker_cannot_work_with() {
        for (text, code) in [
            ("User=rabbit", "user-missing"),
            ("Group=rabbits", "group-missing"),
            ("Type=forking", "type"),
            ("NotifyAccess=none", "notify-access"),
            ("TimeoutStartSec=1", "start-timeout"),
            ("TimeoutSec=5s", "start-timeout"),
            ("LimitAS=256M", "memory-limit"),
            ("TasksMax=10", "task-limit"),
            ("LimitNOFILE=64:4096", "file-limit"),
            ("ReadOnlyPaths=/var", "read-only"),
            ("InaccessiblePaths=-/var/log", "inaccessible"),
            ("PrivateNetwork=yes", "private-network"),
            ("IPAddressDeny=any", "address-deny"),
            ("RestrictAddressFamilies=AF_UNIX", "address-families"),
            ("MemoryDenyWriteExecute=true", "write-execute"),
            ("ExecStartPre=-/usr/local/bin/gone", ""),
            ("ExecStartPre=+/usr/local/bin/gone", "exec-missing"),
            ("WorkingDirectory=/srv/rabbit", "workdir-missing"),
            ("StandardOutput=append:/srv/log/x", "output-missing"),
            ("Requires=gone.service", "requires-missing"),
        ] {
            let codes: Vec<_> = found(&format!("[Service]\n{text}\n")).into_iter().map(|(code, line, _)| (code, line)).collect();
            let want = if code.is_empty() { vec![] } else { vec![(code.to_owned(), Some(2))] };
            assert_eq!(codes, want, "{text}");
        }
    }

    #[test]
    fn hardening_that_leaves_the_broker_its_directories_is_fine() {
        for text in [
            "ProtectSystem=full\nProtectHome=yes\nPrivateTmp=yes\nNoNewPrivileges=yes",
            "ProtectSystem=strict\nReadWritePaths=/var/lib/rabbitmq /var/log/rabbitmq",
            "ProtectSystem=strict\nStateDirectory=rabbitmq\nLogsDirectory=rabbitmq",
            "IPAddressDeny=any\nIPAddressAllow=localhost 10.0.0.0/8",
            "User=104\nTimeoutStartSec=infinity\nLimitAS=infinity\nTasksMax=80%\nRestrictAddressFamilies=~AF_PACKET",
            "ReadOnlyPaths=/etc",
            "Type=forking\nType=notify",
        ] {
            assert_eq!(found(&format!("[Service]\n{text}\n")), [], "{text}");
        }
        let strict = found("[Service]\nProtectSystem=strict\n");
        let add = "ReadWritePaths=/var/lib/rabbitmq /var/log/rabbitmq";
        assert_eq!(strict, [("read-only".to_owned(), Some(2), Some(add.to_owned()))]);
    }

    #[test]
    fn what_systemd_says_of_a_start() {
        let step = |status: &str| look(&host(""), status).failed_step.known().cloned().flatten();
        assert!(step("ExecMainStatus=217\n").unwrap().starts_with("217/USER"));
        assert_eq!(step("ExecMainStatus=1\n"), None);
        let passed_over = look(&host("[Unit]\nConditionPathExists=/x\n"), "ConditionResult=no\nConditionTimestampMonotonic=5\n");
        assert_eq!(passed_over.problems.known().unwrap()[0].code, "condition-failed");
    }

    #[test]
    fn a_home_that_was_moved_is_found_beside() {
        let moved = Fake::new().file(PACKAGE, PACKAGED).dir("/var/lib/rabbitmq.moved/mnesia", 0o750, 104, 109);
        let home = look(&moved, "").missing_home.known().cloned().flatten().unwrap();
        assert_eq!((home.path.as_str(), home.candidates), ("/var/lib/rabbitmq", vec!["/var/lib/rabbitmq.moved".to_owned()]));
        assert_eq!(look(&host(""), "").missing_home, Fact::Known(None));
    }

    #[test]
    fn the_package_of_a_start_that_failed() {
        let status = "Package: a\nStatus: install ok installed\n\nPackage: rabbitmq-server\nStatus: install ok half-configured\nVersion: 1\n\n";
        let host = host("").file("/var/lib/dpkg/status", status).file("/etc/corosync/corosync.conf", "");
        let service = look(&host, "");
        assert_eq!(service.package_state, Fact::Known(Some("half-configured".into())));
        assert_eq!(service.cluster_manager, Fact::Known(Some("pacemaker".into())));
        assert_eq!((service.erl_present, service.policy_rc), (Fact::Known(false), Fact::Known(false)));
    }

    #[test]
    fn time_spans_and_sizes() {
        let all = ["1", "90s", "1min 30s", "5 min", "500ms", "infinity", "0", "2h"].map(seconds);
        assert_eq!(all, [Some(1), Some(90), Some(90), Some(300), Some(1), None, Some(0), Some(7200)]);
        assert_eq!(["256M", "1024", "infinity", "10%"].map(size), [Some(256 << 20), Some(1024), None, None]);
    }
}

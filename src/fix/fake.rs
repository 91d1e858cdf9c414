//! A small machine in memory for the tests of the engine: files, one unit, a few users, one firewall rule. It can be killed
//! before or after any of its mutations, its disk can be full, and a third hand can edit it.

use super::apply::{Auditor, Event, Snapshot, State, Ui};
use super::world::{Done, FileMeta, FileState, Look, Trouble, UnitNow, World};
use crate::facts::*;
use crate::findings::Finding;
use crate::host::rpc::{ConfigFiles, Mutation};
use crate::policy::{ClientIntent, Intent};
use crate::rules::Tier;
use crate::rules::{FixRequest, Severity, Stage};
use serde_json::json;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

pub const CONF: &str = "/etc/rabbitmq/rabbitmq.conf";
pub const COOKIE: &str = "/var/lib/rabbitmq/.erlang.cookie";
pub const UNIT: &str = "rabbitmq-server.service";

/// What `kill -9` looks like from inside a test.
pub struct Killed;

/// Everything that a run may change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    pub files: BTreeMap<PathBuf, FileState>,
    pub running: bool,
    pub enabled: bool,
    pub users: BTreeSet<String>,
    pub permissions: BTreeSet<String>,
    pub open: bool,
}

pub struct Fake {
    pub machine: RefCell<Machine>,
    /// Not compared: what the tool keeps for itself.
    pub private: RefCell<BTreeMap<PathBuf, Vec<u8>>>,
    pub locked: std::rc::Rc<Cell<bool>>,
    /// Mutations so far; each counts twice: before and after it takes effect.
    pub clock: Cell<usize>,
    pub die_at: Cell<Option<usize>>,
    /// From this mutation on the disk is full for files that are not there yet or grow.
    pub full_from: Cell<Option<usize>>,
    /// The broker does not come up whatever its configuration.
    pub broken: Cell<bool>,
    /// Signal seen from this point on.
    pub signal_at: Cell<Option<usize>>,
    pub pid: Cell<i64>,
    pub said: RefCell<Vec<Event>>,
    /// A rule that passes unless the port is open.
    pub open_is_bad: Cell<bool>,
    /// The broker's own check refuses files that hold this.
    pub abhors: Cell<Option<&'static str>>,
}

pub fn state(text: &str, mode: u32) -> FileState {
    FileState { content: text.as_bytes().to_vec(), meta: FileMeta { mode, uid: 104, gid: 109 } }
}

impl Fake {
    /// A broker that does not boot (unknown key), listens on loopback, whose cookie is open, without the client's user, closed.
    pub fn new() -> Fake {
        let files = BTreeMap::from([
            (PathBuf::from(CONF), state("# ours\nheartbeatt = 30\nlisteners.tcp.1 = 127.0.0.1:5672\n", 0o640)),
            (PathBuf::from(COOKIE), state("SECRETCOOKIE", 0o644)),
        ]);
        let machine = Machine {
            files,
            running: false,
            enabled: false,
            users: BTreeSet::from(["guest".into()]),
            permissions: BTreeSet::new(),
            open: false,
        };
        Fake {
            machine: RefCell::new(machine),
            private: RefCell::default(),
            locked: std::rc::Rc::default(),
            clock: Cell::new(0),
            die_at: Cell::new(None),
            full_from: Cell::new(None),
            broken: Cell::new(false),
            signal_at: Cell::new(None),
            pid: Cell::new(100),
            said: RefCell::default(),
            open_is_bad: Cell::new(false),
            abhors: Cell::new(None),
        }
    }

    pub fn text(&self, path: &str) -> String {
        let machine = self.machine.borrow();
        machine.files.get(Path::new(path)).map(|s| String::from_utf8_lossy(&s.content).into_owned()).unwrap_or_default()
    }

    fn tick(&self) {
        let now = self.clock.get() + 1;
        self.clock.set(now);
        if self.die_at.get() == Some(now) {
            self.die_at.set(None);
            std::panic::resume_unwind(Box::new(Killed));
        }
    }

    fn full(&self) -> bool {
        self.full_from.get().is_some_and(|from| self.clock.get() >= from)
    }

    fn mutate<T>(&self, work: impl FnOnce(&mut Machine) -> Done<T>) -> Done<T> {
        self.tick();
        let result = work(&mut self.machine.borrow_mut());
        self.tick();
        result
    }

    fn boots(&self) -> bool {
        let machine = self.machine.borrow();
        let conf = machine.files.get(Path::new(CONF)).map(|s| String::from_utf8_lossy(&s.content).into_owned());
        let bad = conf.is_some_and(|text| text.lines().any(|line| line.starts_with("heartbeatt")));
        !bad && !self.broken.get() && machine.files[Path::new(COOKIE)].meta.mode & 0o077 == 0
    }
}

impl Look for Fake {
    fn look(&self, path: &Path) -> Done<Option<FileState>> {
        assert_ne!(path, Path::new(COOKIE), "the cookie's content is none of our business");
        Ok(self.machine.borrow().files.get(path).cloned())
    }
    fn meta(&self, path: &Path) -> Done<Option<FileMeta>> {
        Ok(self.machine.borrow().files.get(path).map(|state| state.meta))
    }
}

struct Guard(std::rc::Rc<Cell<bool>>);
impl Drop for Guard {
    fn drop(&mut self) {
        self.0.set(false);
    }
}

impl World for Fake {
    fn broker_takes(&self, files: &ConfigFiles) -> Done<Result<(), String>> {
        let machine = self.machine.borrow();
        for path in &files.files {
            let state = machine.files.get(path).ok_or_else(|| Trouble::refused("the broker's own check", "no such file"))?;
            assert!(state.meta.mode == 0o640 && state.meta.gid == 109, "{}: {:?}", path.display(), state.meta);
            let text = String::from_utf8_lossy(&state.content).into_owned();
            if self.abhors.get().is_some_and(|word| text.contains(word)) {
                return Ok(Err("failed_to_prepare_configuration".into()));
            }
        }
        Ok(Ok(()))
    }

    fn replace(&self, path: &Path, expect: Option<&FileState>, new: Option<&FileState>) -> Done {
        let size = |state: Option<&FileState>| state.map_or(0, |state| state.content.len());
        let full = self.full() && size(new) > size(expect);
        self.mutate(|machine| {
            if machine.files.get(path) != expect {
                return Err(Trouble::ThirdHand { path: path.into() });
            }
            if full {
                return Err(Trouble::failed(path.display().to_string(), "No space left on device"));
            }
            match new {
                Some(state) => machine.files.insert(path.into(), state.clone()),
                None => machine.files.remove(path),
            };
            Ok(())
        })
    }

    fn sweep(&self, _: &Path) -> Done {
        Ok(())
    }

    fn set_meta(&self, path: &Path, expect: FileMeta, new: FileMeta) -> Done {
        self.mutate(|machine| match machine.files.get_mut(path) {
            Some(state) if state.meta == expect => {
                state.meta = new;
                Ok(())
            }
            _ => Err(Trouble::ThirdHand { path: path.into() }),
        })
    }

    fn command(&self, argv: &[String], _: Duration) -> Done {
        let line = argv.join(" ");
        let boots = self.boots();
        let pid = self.pid.get() + 1;
        self.mutate(|machine| {
            match line.trim_end_matches(&format!(" {UNIT}")) {
                "systemctl reset-failed" => {}
                "systemctl --no-block start" if machine.running => {}
                "systemctl --no-block start" | "systemctl --no-block restart" => {
                    machine.running = boots;
                    self.pid.set(pid);
                }
                "systemctl stop" => machine.running = false,
                "systemctl enable" => machine.enabled = true,
                "systemctl disable" => machine.enabled = false,
                "ufw allow" => machine.open = true,
                "ufw delete allow" => machine.open = false,
                other => panic!("unexpected command {other}"),
            }
            Ok(())
        })
    }

    fn broker(&self, mutation: &Mutation) -> Done {
        if !self.machine.borrow().running {
            return Err(Trouble::refused("broker", "does not run"));
        }
        self.mutate(|machine| {
            match mutation {
                Mutation::AddUser { name, password_file } => {
                    assert!(machine.files.contains_key(password_file), "the password file comes first");
                    if !machine.users.insert(name.clone()) {
                        return Err(Trouble::refused("broker", "user_already_exists"));
                    }
                }
                Mutation::DeleteUser { name } => drop(machine.users.remove(name)),
                Mutation::SetPermissions { user, .. } => drop(machine.permissions.insert(user.clone())),
                Mutation::ClearPermissions { user, .. } => drop(machine.permissions.remove(user)),
                other => panic!("unexpected call {other:?}"),
            }
            Ok(())
        })
    }

    fn unit(&self, _: &str) -> Done<UnitNow> {
        let running = self.machine.borrow().running;
        Ok(UnitNow {
            active: if running { "active" } else { "activating" }.into(),
            sub: if running { "running" } else { "auto-restart" }.into(),
            result: if running { "success" } else { "exit-code" }.into(),
            restarts: 0,
            main_pid: if running { self.pid.get() } else { 0 },
            needs_reload: false,
        })
    }

    fn sleep(&self, _: Duration) {}
    fn now(&self) -> i64 {
        1_795_360_000 + self.private.borrow().len() as i64
    }
    fn random(&self, buffer: &mut [u8]) -> Done {
        buffer.iter_mut().enumerate().for_each(|(n, byte)| *byte = (n * 7) as u8);
        Ok(())
    }

    fn write_private(&self, path: &Path, content: &[u8]) -> Done {
        let full = self.full();
        self.tick();
        if full {
            return Err(Trouble::failed(path.display().to_string(), "No space left on device"));
        }
        self.private.borrow_mut().insert(path.into(), content.to_vec());
        self.tick();
        Ok(())
    }
    fn read_private(&self, path: &Path) -> Done<Option<Vec<u8>>> {
        Ok(self.private.borrow().get(path).cloned())
    }
    fn list_private(&self, dir: &Path) -> Done<Vec<String>> {
        let private = self.private.borrow();
        let names = private.keys().filter_map(|path| path.strip_prefix(dir).ok()?.iter().next()?.to_str().map(str::to_string));
        Ok(names.collect::<BTreeSet<_>>().into_iter().collect())
    }
    fn lock(&self) -> Done<Box<dyn std::any::Any>> {
        if self.locked.replace(true) {
            return Err(Trouble::Locked { who: "pid 1".into() });
        }
        Ok(Box::new(Guard(self.locked.clone())))
    }
}

impl Ui for Fake {
    fn say(&self, event: Event) {
        self.said.borrow_mut().push(event);
    }
    fn interrupted(&self) -> Option<i32> {
        (self.signal_at.get()? <= self.clock.get()).then_some(15)
    }
}

/// The client that must connect: user `app`, no password file.
pub fn intent() -> Intent {
    let client = ClientIntent {
        name: "app".into(),
        from: vec!["10.0.0.0/24".into()],
        service: "amqp".into(),
        port: None,
        user: Some("app".into()),
        password_file: None,
        vhost: "/".into(),
        permissions: [".*".into(), ".*".into(), ".*".into()],
        assumed: false,
        ..ClientIntent::default()
    };
    Intent { clients: vec![client], ..Intent::default() }
}

pub fn finding(rule: &str, action: &str, with: serde_json::Value, tier: Tier) -> Finding {
    let with = with.as_object().cloned().unwrap_or_default();
    Finding {
        rule: rule.into(),
        severity: Severity::Error,
        stage: Stage::Config,
        title: rule.into(),
        message: rule.into(),
        root_cause: true,
        caused_by: Vec::new(),
        at: None,
        evidence: Vec::new(),
        fix: None,
        waiver: None,
        help: None,
        request: Some(FixRequest { action: action.into(), with, tier, note: None }),
    }
}

impl Auditor for Fake {
    fn audit(&self) -> Snapshot {
        judge(&self.machine.borrow(), self.open_is_bad.get())
    }
}

/// A few rules, as an audit would judge them.
pub fn judge(machine: &Machine, open_is_bad: bool) -> Snapshot {
    let conf = machine.files.get(Path::new(CONF)).map(|s| String::from_utf8_lossy(&s.content).into_owned()).unwrap_or_default();
    let line = |key: &str| conf.lines().position(|line| line.starts_with(key)).map(|n| n + 1);
    let mut findings = Vec::new();
    let mut verdicts = BTreeMap::new();
    let mut judge = |fails: bool, known: bool, found: Finding| {
        let state = if !known {
            State::Unknown
        } else if fails {
            State::Fail
        } else {
            State::Pass
        };
        verdicts.insert(found.rule.clone(), state);
        if known && fails {
            findings.push(found);
        }
    };
    let (typo, loopback) = (line("heartbeatt"), line("listeners.tcp.1 = 127."));
    let rename = json!({"file": CONF, "line": typo, "to": "heartbeat"});
    judge(typo.is_some(), true, finding("conf-unknown-key", "rename-conf-key", rename, Tier::Restart));
    let listen = json!({"key": "listeners.tcp.1", "value": "0.0.0.0:5672"});
    judge(loopback.is_some(), true, finding("listener-loopback-only", "set-conf", listen, Tier::Restart));
    let open_cookie = machine.files[Path::new(COOKIE)].meta.mode & 0o077 != 0;
    let mode = json!({"path": COOKIE, "mode": "0400"});
    judge(open_cookie, true, finding("cookie-too-open", "file-mode", mode, Tier::Safe));
    judge(!machine.enabled, true, finding("unit-not-enabled", "unit-enable", json!({}), Tier::Safe));
    let mut down = finding("service-not-running", "start-service", json!({}), Tier::Safe);
    down.caused_by = vec!["conf-unknown-key".into()];
    down.root_cause = typo.is_none();
    judge(!machine.running, true, down);
    let user = finding("client-user-missing", "create-user", json!({"client": "app"}), Tier::Ask);
    judge(!machine.users.contains("app"), machine.running, user);
    if open_is_bad {
        judge(machine.users.contains("app"), true, finding("nobody-but-guest", "restart-broker", json!({}), Tier::Manual));
    }
    Snapshot { facts: facts(machine), findings, verdicts }
}
/// Facts of the machine, as far as actions ask for them.
pub fn facts(machine: &Machine) -> Facts {
    fn unknown<T>() -> Fact<T> {
        Fact::Unknown("not looked at".into())
    }
    let at = |line: u32| Where { file: CONF.into(), line: Some(line), column: None };
    let text = machine.files.get(Path::new(CONF)).map(|s| String::from_utf8_lossy(&s.content).into_owned()).unwrap_or_default();
    let mut settings = BTreeMap::new();
    for (number, line) in text.lines().enumerate() {
        if let Some((key, value)) = line.split_once(" = ").filter(|_| !line.starts_with('#')) {
            let setting = conf::Setting { value: value.into(), at: at(number as u32 + 1), overrides: Vec::new() };
            settings.insert(key.to_string(), setting);
        }
    }
    let file = conf::ConfFile {
        path: CONF.into(),
        format: "cuttlefish".into(),
        used: true,
        why_ignored: None,
        mtime: 0,
        mode: 0o640,
        uid: 104,
        gid: 109,
        readable_by_broker: Fact::Known(true),
        has_secret: false,
    };
    let node = broker::Node {
        name: "rabbit@mq1".into(),
        source: "rpc".into(),
        version: unknown(),
        otp: unknown(),
        booted: Fact::Known(true),
        users: Fact::Known(
            machine
                .users
                .iter()
                .map(|name| broker::User {
                    name: name.clone(),
                    tags: Vec::new(),
                    default_password: unknown(),
                    guessable_password: unknown(),
                    has_password: unknown(),
                    loopback_only: unknown(),
                })
                .collect(),
        ),
        permissions: Fact::Known(Vec::new()),
        vhosts: Fact::Known(vec!["/".into()]),
        vhosts_down: unknown(),
        loopback_users: unknown(),
        listeners: unknown(),
        alarms: unknown(),
        drained: unknown(),
        auth_mechanisms: unknown(),
        auth_backends: unknown(),
        anonymous_user: unknown(),
        proxy_protocol: unknown(),
        memory_limit: unknown(),
        disk_free_limit: unknown(),
        disk_free: unknown(),
        config_files: unknown(),
        log_files: unknown(),
        khepri: unknown(),
        running_nodes: unknown(),
        connections: unknown(),
        limits: unknown(),
        connection_limit: unknown(),
        channel_max: unknown(),
        memory_watermark: unknown(),
        reverse_dns: unknown(),
        applications: unknown(),
    };
    let unit = unit::Unit {
        name: UNIT.into(),
        load: "loaded".into(),
        enabled: if machine.enabled { "enabled" } else { "disabled" }.into(),
        active: if machine.running { "active" } else { "activating" }.into(),
        sub: if machine.running { "running" } else { "auto-restart" }.into(),
        result: "success".into(),
        exit_status: 0,
        restarts: 0,
        main_pid: 0,
        fragment: None,
        condition_failed: false,
        drop_ins: Vec::new(),
        needs_reload: false,
        limit_nofile: None,
        environment: Fact::Known(Vec::new()),
        user: "rabbitmq".into(),
        since: 0,
        state: if machine.running { "running" } else { "restart-loop" }.into(),
    };
    let install = os::Install {
        version: "4.0.5".into(),
        plugin_dirs: Vec::new(),
        erlang: unknown(),
        uid: Fact::Known(Some(104)),
        gid: Fact::Known(Some(109)),
    };
    Facts {
        os: os::Os {
            id: unknown(),
            version: unknown(),
            root: true,
            offline: false,
            init: Fact::Known("systemd".into()),
            now: 0,
            boot_time: unknown(),
            cloud: unknown(),
        },
        install: Fact::Known(Some(install)),
        release: unknown(),
        unit: Fact::Known(Some(unit)),
        service: Blank::blank("not looked at"),
        process: process::Processes { beam: unknown(), epmd: unknown(), other_brokers: unknown() },
        sockets: unknown(),
        net: net::Net {
            addresses: unknown(),
            routes: unknown(),
            bindv6only: unknown(),
            ipv6: unknown(),
            rp_filter: unknown(),
            port_range: unknown(),
        },
        names: names::Names {
            hostname: unknown(),
            static_hostname: unknown(),
            node: unknown(),
            node_host: unknown(),
            node_addresses: unknown(),
            node_is_local: unknown(),
            hosts_entry: unknown(),
        },
        env: env::Env {
            file: "/etc/rabbitmq/rabbitmq-env.conf".into(),
            present: unknown(),
            vars: unknown(),
            vm_flags: unknown(),
            secret_readable: unknown(),
            process: Default::default(),
            problems: unknown(),
        },
        conf: conf::Conf {
            files: Fact::Known(vec![file]),
            settings: Fact::Known(settings),
            advanced: unknown(),
            problems: unknown(),
            boots: Fact::Known(!text.lines().any(|line| line.starts_with("heartbeatt"))),
            tls: unknown(),
            listeners: unknown(),
            loopback_users: unknown(),
            default_user: unknown(),
            passed_over: Fact::Known(Vec::new()),
            newest_mtime: unknown(),
        },
        plugins: plugins::Plugins {
            file: "/etc/rabbitmq/enabled_plugins".into(),
            enabled: Fact::Known(Vec::new()),
            available: Fact::Known(vec!["rabbitmq_management".into()]),
            missing: unknown(),
            started: unknown(),
            problem: unknown(),
        },
        node: Fact::Known(machine.running.then_some(node)),
        running: unknown(),
        firewall: unknown(),
        log: log::Log { sources: unknown(), events: unknown(), boot_failure: unknown(), refusals: unknown() },
        files: Blank::blank("not looked at"),
        resources: resources::Resources {
            memory_limit: unknown(),
            broker_files: unknown(),
            large_files: unknown(),
            data_disk: unknown(),
            memory_total: unknown(),
            memory_available: unknown(),
            broker_rss: unknown(),
        },
        listeners: unknown(),
        tls: tls::Tls::blank("not looked at"),
        clients: Vec::new(),
        exposure: Fact::Known(Vec::new()),
        cluster: cluster::Cluster::blank("not derived"),
    }
}

//! What is tried on the hosts.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::client::Client;
use crate::host::{Audit, Host, Until, differences};
use crate::{conf_parity, configuration, env_parity, exec, product, terms_parity, tree};

/// A test for one suite.
pub type Scenario = fn(&'static str) -> Result<()>;

/// Scenarios by name; those that say so run on every suite, the others on the two current ones.
pub const ALL: &[(&str, On, Scenario)] = &[
    ("healthy", On::All, healthy),
    ("four_faults", On::All, four_faults_fixed_and_undone),
    ("kill_recover", On::All, kill_recover),
    ("package", On::All, package),
    ("default_healthy", On::All, default_healthy),
    ("foreseen_listeners", On::All, configuration::foreseen_listeners),
    ("not_applied", On::All, configuration::not_applied),
    ("oracle_refuses", On::All, configuration::oracle_refuses),
    ("traps", On::Current, configuration::traps),
    ("stopped", On::Current, stopped),
    ("ufw_default_deny", On::Current, ufw_default_deny),
    ("not_enabled", On::Current, not_enabled),
    ("no_user", On::Current, no_user),
    ("management_off", On::Current, management_off),
    ("capture", On::Current, capture),
    ("conf_parity", On::All, conf_parity::sample),
    ("env_parity", On::All, env_parity::env_parity),
    ("terms_parity", On::All, terms_parity::terms_parity),
];

/// The suites of a scenario: what differs between releases is tried on all of them, the rest where most hosts are.
#[derive(Clone, Copy, PartialEq)]
pub enum On {
    All,
    Current,
}

impl On {
    pub fn suites(self) -> Vec<&'static str> {
        match self {
            On::All => tree::SUITES.to_vec(),
            On::Current => tree::CURRENT.to_vec(),
        }
    }
}

pub const POLICY: &str = "/etc/rmq-audit/policy.toml";

/// The intent that fits a host with package defaults.
pub const LOCAL_APP: &str = "[[clients]]\nname = \"app\"\nfrom = [\"local\"]\nuser = \"app\"\n";

const ORDERS_PASSWORD: &str = "orders-secret";

fn healthy(suite: &'static str) -> Result<()> {
    let host = Host::boot(suite)?;
    host.client().sees("connected")?;
    host.client().option("--host", &host.net.host6()).sees("connected")?;
    host.client().option("--source", &host.net.other_client()).sees("connected")?;
    host.client().user("guest", "guest").sees("auth-refused")?;
    host.client().option("--vhost", "nowhere").sees("vhost-refused")
}

fn stopped(suite: &'static str) -> Result<()> {
    let host = Host::boot(suite)?;
    host.must("systemctl stop rabbitmq-server")?;
    host.client().sees("refused")
}

fn ufw_default_deny(suite: &'static str) -> Result<()> {
    let host = Host::boot(suite)?;
    host.must("ufw allow 22/tcp && ufw --force enable")?;
    host.client().sees("timeout")
}

/// Running today, gone after the next reboot.
fn not_enabled(suite: &'static str) -> Result<()> {
    let mut host = Host::boot(suite)?;
    host.must("systemctl disable rabbitmq-server")?;
    host.client().sees("connected")?;
    host.reboot(Until::Settled)?;
    host.client().sees("refused")?;
    host.must("systemctl enable rabbitmq-server")?;
    host.reboot(Until::Broker)?;
    host.client().sees("connected")
}

/// No false alarm on a host as installed: with the intent that fits it, and without any.
fn default_healthy(suite: &'static str) -> Result<()> {
    let host = Host::boot(suite)?;
    quiet(&host.audit(&["--format", "json"])?.exits(0)?)?;
    // With the password the login is tried, and nothing stays a guess.
    Orders::app(&host)?;
    host.write(POLICY, &format!("{LOCAL_APP}password_file = \"{}\"\n", Orders::PASSWORD_FILE))?;
    let audit = host.audit(&["--format", "json"])?.exits(0)?;
    quiet(&audit)?;
    audit.says("/verdict/state", "ok")?.says("/changed", false)?;
    Ok(())
}

/// No error, no warning, nothing left open.
pub fn quiet(audit: &Audit) -> Result<()> {
    quiet_but(audit, &[])
}

/// The same with warnings that are true of this host.
pub fn quiet_but(audit: &Audit, warnings: &[&str]) -> Result<()> {
    let true_ones = |rule: &String| warnings.contains(&rule.as_str());
    let mut alarms = audit.rules("warning");
    // This machine itself may not open more files, which its hosts inherit.
    alarms.retain(|rule| rule != "nofile-too-low" && !true_ones(rule));
    alarms.extend(audit.rules("error"));
    ensure!(alarms.is_empty() && audit.at("/counts/unknown") == 0, "{alarms:?}\n{}", audit.output.stdout);
    Ok(())
}

/// An unknown key that keeps the broker from booting, a listener on loopback only, a packet filter without the port, and clients that
/// use guest.
pub fn four_faults(host: &Host) -> Result<()> {
    host.client().user("guest", "guest").sees("auth-refused")?;
    host.write("/etc/rabbitmq/rabbitmq.conf", "listeners.tcp.1 = 127.0.0.1:5672\nheartbeatt = 30\n")?;
    host.must("ufw allow 22/tcp && ufw --force enable")?;
    host.sh("systemctl restart rabbitmq-server")?; // fails: that is the first fault
    Ok(())
}

fn four_faults_fixed_and_undone(suite: &'static str) -> Result<()> {
    let host = Host::boot(suite)?;
    four_faults(&host)?;
    host.client().user("guest", "guest").sees("timeout")?;
    host.audit(&["--format", "json"])?.exits(1)?.says("/verdict/cause", "conf-unknown-key")?.says("/paths/0/sees", "timeout")?;

    let before = host.etc_digest()?;
    let orders = Orders::new(&host)?;
    orders.audit(&["--fix", "--dry-run"])?.exits(1)?.says("/changed", true)?;
    unchanged(&before, &host)?;
    orders.fix()?.exits(0)?.says("/changed", true)?.says("/verdict/state", "ok")?;
    orders.client().sees("connected")?;
    orders.fix()?.exits(0)?.says("/changed", false)?;

    let runs = host.audit(&["runs", "--format", "json"])?.exits(0)?.says("/0/state", "applied")?;
    ensure!(runs.at("/1").is_null(), "the second run changed nothing and is no run: {}", runs.output.stdout);
    host.audit(&["undo"])?.exits(0)?;
    host.audit(&["runs", "--format", "json"])?.exits(0)?.says("/0/state", "undone")?;
    orders.client().sees("timeout")?;
    unchanged(&before, &host)?;
    // The broker with its faults back doesn't boot, so it is asked without them.
    host.must("rm /etc/rabbitmq/rabbitmq.conf; systemctl reset-failed rabbitmq-server; systemctl restart rabbitmq-server")?;
    let users = host.must("rabbitmqctl -q list_users </dev/null")?;
    ensure!(!users.contains("orders"), "the user that the fix made is still there:\n{users}");
    Ok(())
}

/// The repair is killed in the middle of its restart of the broker: `recover` puts everything back.
fn kill_recover(suite: &'static str) -> Result<()> {
    let host = Host::boot(suite)?;
    host.write("/etc/rabbitmq/rabbitmq.conf", "listeners.tcp.1 = 127.0.0.1:5672\n")?;
    host.must("systemctl restart rabbitmq-server")?;
    let (etc, state) = (host.etc_digest()?, host.state()?);
    let line = Orders::new(&host)?.fix_line();
    let pid = host.must(&format!("{line} >/root/fix.log 2>&1 </dev/null & echo $!"))?;
    let kill = format!(
        "for i in $(seq 600); do \
           [ \"$(systemctl is-active rabbitmq-server)\" = active ] || {{ kill -9 {pid}; exit; }}; \
           kill -0 {pid} || {{ echo ended before a restart was seen; cat /root/fix.log; exit 1; }}; sleep 0.05; \
         done; echo no restart was seen; kill -9 {pid}; exit 1",
        pid = pid.trim()
    );
    host.must(&kill)?;

    host.audit(&["recover"])?.exits(0)?;
    unchanged(&etc, &host)?;
    let changes = differences(&state, &host.state()?);
    ensure!(changes.is_empty(), "not as before:\n{}", changes.join("\n"));
    host.client().sees("refused")
}

/// As installed: guest alone. The user that clients need is made, and its password is seen nowhere on the way.
fn no_user(suite: &'static str) -> Result<()> {
    let host = Host::boot(suite)?;
    host.must("rabbitmqctl delete_user app </dev/null")?;
    host.client().user("guest", "guest").sees("auth-refused")?;
    // The broker writes its log with a delay, and the audit rests on it.
    host.must("for n in $(seq 100); do grep -q 'can only connect via localhost' /var/log/rabbitmq/*.log && exit; sleep 0.1; done; exit 1")?;
    host.audit(&["--format", "json"])?
        .exits(1)?
        .says("/verdict/cause", "no-usable-user")?
        .says("/paths/0/sees", "auth-refused")?;

    let (orders, before) = (Orders::new(&host)?, host.etc_digest()?);
    orders.client().sees("auth-refused")?;
    orders.audit(&[])?.exits(1)?.says("/verdict/cause", "client-user-missing")?.says("/paths/0/sees", "auth-refused")?;
    // Written so that the search does not find itself.
    let (head, tail) = ORDERS_PASSWORD.split_at(ORDERS_PASSWORD.len() - 1);
    host.must(&format!(
        "{} >/root/fix.json 2>/root/fix.log </dev/null & pid=$!; \
         while kill -0 $pid 2>/dev/null; do grep -la '{head}[{tail}]' /proc/[0-9]*/cmdline /proc/[0-9]*/environ 2>/dev/null && exit 1; done; \
         wait $pid || {{ code=$?; cat /root/fix.log; exit $code; }}",
        orders.fix_line()
    ))?;
    orders.client().sees("connected")?;
    let leaks = host.sh(&format!("grep -rla '{head}[{tail}]' /root/fix.json /root/fix.log /var/lib/rmq-audit /var/log"))?.stdout;
    ensure!(leaks.is_empty(), "the password is in\n{leaks}");

    host.audit(&["undo"])?.exits(0)?;
    unchanged(&before, &host)?;
    orders.client().sees("auth-refused")
}

/// No fault for those who speak AMQP, and the cause for those who want the HTTP API.
fn management_off(suite: &'static str) -> Result<()> {
    let host = Host::boot(suite)?;
    let (app, before) = (Orders::app(&host)?, host.etc_digest()?);
    let audit = app.audit(&[])?.exits(0)?;
    ensure!(audit.rules("note").contains(&"management-plugin-off".into()), "{}", audit.output.stdout);

    let management = host.client().option("--port", "15672");
    management.sees("refused")?;
    let wanted = ["--service", "management"];
    app.audit(&wanted)?.exits(1)?.says("/verdict/cause", "management-plugin-off")?.says("/paths/0/sees", "refused")?;
    unchanged(&before, &host)
}

/// What is sent with a bug report: enough to reach the same verdict elsewhere, and no secret.
fn capture(suite: &'static str) -> Result<()> {
    let host = Host::boot(suite)?;
    host.must("ufw allow 22/tcp && ufw --force enable")?;
    host.write("/etc/rabbitmq/rabbitmq.conf", "default_user = seed\ndefault_pass = canary-in-conf\n")?;
    host.must("systemctl restart rabbitmq-server")?;
    let app = Orders::app(&host)?;
    let live = app.audit(&[])?.exits(1)?;
    app.run(&["capture", "/root/capture"])?.exits(0)?;

    let secrets = host.must(
        "cat /root/pw; echo canary-in-conf; cat /var/lib/rabbitmq/.erlang.cookie; echo; \
         rabbitmqctl -q export_definitions /tmp/definitions.json </dev/null >&2; \
         grep -o '\"password_hash\":\"[^\"]*' /tmp/definitions.json | cut -d'\"' -f4",
    )?;
    ensure!(secrets.lines().count() >= 5, "two hashes were expected: {secrets}");
    for secret in secrets.lines().filter(|line| !line.is_empty()) {
        // As text, in the hexadecimal of recorded terms, and a hash also as the broker holds it.
        let found = host.sh(&format!(
            "hex() {{ od -An -v -tx1 | tr -d ' \\n'; }}; \
             plain=$(printf %s '{secret}' | hex); raw=$(printf %s '{secret}' | base64 -d 2>/dev/null | hex); \
             [ ${{#raw}} -eq 72 ] || raw=$plain; grep -rlaF -e '{secret}' -e $plain -e $raw /root/capture"
        ))?;
        ensure!(found.stdout.is_empty(), "{secret} is in\n{}", found.stdout);
    }

    let replay = replay(&host, &app)?;
    ensure!(replay["verdict"] == live.at("/verdict"), "live {}, replayed {}", live.at("/verdict"), replay["verdict"]);
    ensure!(replay["paths"] == live.at("/paths"), "live {}\nreplayed {}", live.at("/paths"), replay["paths"]);
    Ok(())
}

/// Installed, run, removed and purged: nothing is left.
fn package(suite: &'static str) -> Result<()> {
    let host = Host::boot(suite)?;
    host.put(&debian_package()?, "/root/rmq-audit.deb")?;
    // apt waits where Debian's daily timer has the lock.
    let apt = |what: &str| host.must(&format!("apt-get -q -y -o DPkg::Lock::Timeout=120 {what}"));
    apt("install /root/rmq-audit.deb")?;
    let version = host.must("rmq-audit --version")?;
    ensure!(version.trim() == concat!("rmq-audit ", env!("CARGO_PKG_VERSION")), "{version}");
    host.must("test -s /usr/share/man/man1/rmq-audit.1.gz && test -s /etc/rmq-audit/policy.toml")?;
    let timer = host.sh("systemctl is-enabled rmq-audit.timer; systemctl is-active rmq-audit.timer")?.stdout;
    ensure!(timer == "disabled\ninactive\n", "the timer is to be off until somebody enables it, but is {timer}");
    let verified = host.sh("systemd-analyze --man=no verify rmq-audit.service rmq-audit.timer 2>&1 | grep rmq-audit")?.stdout;
    ensure!(verified.is_empty(), "{verified}");

    // Findings are an answer: a broker that is down makes the audit exit with 1, and the unit still succeed.
    host.must("systemctl stop rabbitmq-server; systemctl start rmq-audit.service")?;
    host.audit(&["--format", "json"])?.exits(1)?.says("/verdict/cause", "service-not-running")?;
    host.must("systemctl start rabbitmq-server rmq-audit.service")?;
    // Its sandbox blinds nothing: it sees what root sees at a terminal.
    host.must(
        "sed 's/--color never/--format json -o \\/run\\/sandboxed.json/' /usr/lib/systemd/system/rmq-audit.service \
           > /run/systemd/system/sandboxed.service && printf '[Service]\\nReadWritePaths=/run\\n' >> /run/systemd/system/sandboxed.service; \
         systemctl daemon-reload; systemctl start sandboxed.service",
    )?;
    let sandboxed: Value = serde_json::from_str(&host.read("/run/sandboxed.json")?)?;
    let plain: Value = serde_json::from_str(&host.must("rmq-audit --format json")?)?;
    for part in ["verdict", "paths", "counts", "unknown"] {
        ensure!(sandboxed[part] == plain[part], "{part}: as a service\n{}\nas root\n{}", sandboxed[part], plain[part]);
    }
    host.must("systemctl enable --now rmq-audit.timer")?;

    host.must(&format!("rm {}", product::IN_HOST))?; // the lab's own copy
    apt("remove rmq-audit")?;
    host.must("test -s /etc/rmq-audit/policy.toml && ! test -e /usr/bin/rmq-audit")?;
    apt("purge rmq-audit")?;
    host.must("systemctl daemon-reload")?;
    let left = host.sh(
        "find / -xdev -name '*rmq-audit*' -not -path '/root/*' -not -path '/proc/*'; systemctl list-units --all | grep rmq-audit",
    )?;
    ensure!(left.stdout.is_empty(), "left after the purge:\n{}", left.stdout);
    Ok(())
}

/// Built for each caller in a folder of its own: tests run side by side.
fn debian_package() -> Result<std::path::PathBuf> {
    static ONE_AT_A_TIME: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _turn = ONE_AT_A_TIME.lock().map_err(|_| anyhow::anyhow!("building the package panicked"))?;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/lab-package");
    fs::create_dir_all(&folder)?;
    let mut build = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/debian/build"));
    build.arg(&folder).env("OUTPUT_DIR", &folder).env("RMQ_AUDIT_BIN", product::binary()?);
    let said = exec::run(&mut build, b"", Duration::from_secs(120))?.ok()?;
    Ok(said.lines().last().context("packaging/debian/build printed no path")?.into())
}

/// The same capture, judged on this machine.
fn replay(host: &Host, app: &Orders) -> Result<Value> {
    let copy = PathBuf::from(format!("{}.capture", host.root().display()));
    fs::create_dir(&copy)?;
    let archive = host.inside().args(["tar", "-C", "/root/capture", "-cf", "/root/capture.tar", "."]).output()?;
    ensure!(archive.status.success(), "{archive:?}");
    let tar = host.root().join("root/capture.tar").display().to_string();
    let copy = copy.display().to_string();
    exec::check("tar", &["-C", &copy, "-xf", &tar], Duration::from_secs(30))?;
    let mut command = Command::new(product::binary()?);
    command.args(["--capture", &copy, "--format", "json"]).args(app.intent());
    let said = exec::run(&mut command, b"", Duration::from_secs(60))?;
    serde_json::from_str(&said.stdout).with_context(|| said.stderr)
}

pub fn unchanged(etc: &BTreeMap<String, String>, host: &Host) -> Result<()> {
    let changes = differences(etc, &host.etc_digest()?);
    ensure!(changes.is_empty(), "/etc is not as before:\n{}", changes.join("\n"));
    Ok(())
}

/// A client of a host that has to be able to connect from the other machine, with its password in a file.
pub struct Orders<'a> {
    host: &'a Host,
    user: &'static str,
    password: &'static str,
    from: String,
}

impl<'a> Orders<'a> {
    const PASSWORD_FILE: &'static str = "/root/pw";

    /// A user that the broker doesn't have yet.
    pub fn new(host: &'a Host) -> Result<Self> {
        Self::of(host, "orders", ORDERS_PASSWORD)
    }

    /// The user that every host has.
    pub fn app(host: &'a Host) -> Result<Self> {
        Self::of(host, "app", "app-secret")
    }

    fn of(host: &'a Host, user: &'static str, password: &'static str) -> Result<Self> {
        host.install()?;
        host.write(Self::PASSWORD_FILE, &format!("{password}\n"))?;
        host.must(&format!("chmod 600 {}", Self::PASSWORD_FILE))?;
        Ok(Self { host, user, password, from: format!("{}/32", host.net.client()) })
    }

    pub fn client(&self) -> Client<'a> {
        self.host.client().user(self.user, self.password)
    }

    /// The options that say who has to be able to connect.
    pub fn intent(&self) -> [&str; 6] {
        ["--from", &self.from, "--user", self.user, "--password-file", Self::PASSWORD_FILE]
    }

    /// Runs the product with this intent.
    pub fn run(&self, args: &[&str]) -> Result<Audit> {
        self.host.audit(&[args, &self.intent()].concat())
    }

    pub fn audit(&self, args: &[&str]) -> Result<Audit> {
        self.run(&[args, &["--format", "json"]].concat())
    }

    pub fn fix(&self) -> Result<Audit> {
        self.audit(&["--fix", "--yes=restart"])
    }

    /// The repair as a shell's command line.
    fn fix_line(&self) -> String {
        format!("{} --fix --yes=restart --format json {}", product::IN_HOST, self.intent().join(" "))
    }
}

//! One fault the whole way: broken, asked, judged, repaired, asked again, taken back.

use std::collections::BTreeMap;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::fault::{Fault, Probe};
use crate::client::Client;
use crate::host::{Audit, Host, Until, differences};

/// What came of a fault on one suite; written down, so that a run can be gone on with.
#[derive(Serialize, Deserialize, Clone, Default)]
pub struct Line {
    pub id: String,
    pub suite: String,
    pub healthy: bool,
    pub fixable: bool,
    /// What the real client got.
    pub client: String,
    /// What the audit said that it gets.
    pub foretold: String,
    /// The first cause that was named.
    pub cause: String,
    pub cause_right: bool,
    /// Rules of severity error that count, on a healthy host.
    pub errors: Vec<String>,
    /// All rules that fired.
    pub fired: Vec<String>,
    /// done | left: why | failed: how
    pub fix: String,
    pub connects: bool,
    /// exact, or what is left; empty where nothing was changed
    pub undo: String,
    /// What could not be tried at all.
    pub failed: Option<String>,
    pub seconds: u64,
    /// SHA-256 of the program, the script and the expectations.
    pub of: String,
}

impl Line {
    pub fn foretold_right(&self) -> bool {
        self.client == self.foretold
    }

    /// Nothing is missing.
    pub fn whole(&self) -> bool {
        let repaired = !self.fixable || self.connects;
        let exact = self.undo.is_empty() || self.undo == "exact";
        let named = if self.healthy { self.errors.is_empty() } else { self.cause_right };
        self.failed.is_none() && self.foretold_right() && named && repaired && exact
    }
}

/// What the options say of the intent, and the files that they name.
struct Intent(Vec<String>);

const PASSWORD_FILE: &str = "/root/pw";
/// A broker that could not start falls back into its loop of failing starts; that it stops first takes up to its time limit.
const SETTLES: Duration = Duration::from_secs(150);
const APPEARS: Duration = Duration::from_secs(45);

/// Goes as far as it can; what was found stands in the line.
pub fn whole_way(fault: &Fault, suite: &'static str, line: &mut Line) -> Result<()> {
    let packages: Vec<&str> = fault.known.needs_package.iter().flat_map(|names| names.split_whitespace()).collect();
    let mut host = Host::boot_with(suite, &packages)?;
    host.install()?;
    host.net.resolve_names()?;
    host.must(&format!("echo nameserver {} > /etc/resolv.conf", host.net.client()))?;
    host.run_script(&fault.script)?;
    if fault.known.reboot_after_inject {
        host.reboot(Until::Settled)?;
    }
    line.client = symptom(&host, fault)?;
    let (etc, state) = (host.etc_digest()?, running_state(&host)?);

    let seen = audit(&host, fault, fault.client(), &[])?;
    judge(fault, &seen, line);
    if fault.healthy() {
        return Ok(());
    }
    let fix = audit(&host, fault, fault.wanted(), &["--fix", "--yes=restart"])?;
    line.fix = said(&fix);
    if fix.at("/changed") != true {
        let changes = differences(&etc, &host.etc_digest()?);
        ensure!(changes.is_empty(), "nothing was to be changed, but in /etc:\n{}", changes.join("\n"));
        // What the wanted client needs may be there: only another one was refused. What is unsafe stays so without a change.
        line.connects = fault.known.category != "unsafe" && all_well(&host, fault).is_ok();
        return Ok(());
    }
    match all_well(&host, fault) {
        Ok(()) => line.connects = true,
        Err(error) => line.fix = format!("{}, but {error:#}", line.fix),
    }
    if line.connects {
        let again = audit(&host, fault, fault.wanted(), &["--fix", "--yes=restart"])?;
        ensure!(again.at("/changed") == false, "a second run changes something: {}", again.at("/fixes"));
    }
    if fault.known.reboot_after_fix && line.connects {
        host.reboot(Until::Broker)?;
        all_well(&host, fault).context("after a reboot")?;
    }
    line.undo = taken_back(&host, fault, &etc, &state, &line.client)?;
    Ok(())
}

fn audit(host: &Host, fault: &Fault, client: &Probe, more: &[&str]) -> Result<Audit> {
    let Intent(intent) = intent(host, fault, client)?;
    let args: Vec<&str> = more.iter().copied().chain(["--format", "json"]).chain(intent.iter().map(String::as_str)).collect();
    let audit = host.audit_within(&args, Duration::from_secs(400))?;
    ensure!(audit.json.is_some(), "no report: {}\n{}", audit.output.stdout, audit.output.stderr);
    Ok(audit)
}

fn intent(host: &Host, fault: &Fault, client: &Probe) -> Result<Intent> {
    host.write(PASSWORD_FILE, &format!("{}\n", client.password))?;
    host.must(&format!("chmod 600 {PASSWORD_FILE}"))?;
    if let Some(policy) = &fault.intent.policy {
        let (n, file) = (host.net.n, "/root/policy.toml");
        let text = policy.replace("$CLIENT", &host.net.client()).replace("$SUBNET", &format!("10.77.{n}.0/24"));
        host.write(file, &text)?;
        return Ok(Intent(vec!["--policy".into(), file.into()]));
    }
    let from = match (client.host.contains(':'), &client.source) {
        (true, _) => format!("{}/128", host.net.client6()),
        (false, Some(_)) => format!("{}/32", host.net.other_client()),
        (false, None) => format!("{}/32", host.net.client()),
    };
    let (port, service) = (client.port.to_string(), client.service());
    let pairs = [
        ("--from", from.as_str()),
        ("--service", service),
        ("--port", &port),
        ("--user", &client.user),
        ("--password-file", PASSWORD_FILE),
        ("--vhost", &client.vhost),
    ];
    Ok(Intent(pairs.iter().flat_map(|(name, value)| [(*name).to_owned(), (*value).to_owned()]).collect()))
}

fn judge(fault: &Fault, seen: &Audit, line: &mut Line) {
    let text = |pointer: &str| seen.at(pointer).as_str().unwrap_or("-").to_owned();
    line.foretold = text("/paths/0/sees");
    let cause = text("/verdict/cause");
    line.cause = if cause == "-" { text("/findings/0/rule") } else { cause };
    line.cause_right = fault.causes.contains(&line.cause);
    let findings = seen.at("/findings");
    let findings = findings.as_array().map_or(&[][..], Vec::as_slice);
    let rule = |finding: &Value| finding["rule"].as_str().unwrap_or_default().to_owned();
    let counts = |finding: &&Value| finding["severity"] == "error" && finding["root_cause"] == true;
    line.errors = findings.iter().filter(counts).map(rule).collect();
    line.fired = findings.iter().map(rule).collect();
    line.fired.sort();
    line.fired.dedup();
}

/// What a repair run says of itself, in a few words.
fn said(fix: &Audit) -> String {
    let fixes = fix.at("/fixes");
    let fixes = fixes.as_array().map_or(&[][..], Vec::as_slice);
    let of = |state: &str| fixes.iter().filter(|fix| fix["state"] == state).collect::<Vec<_>>();
    let named = |fixes: &[&Value]| fixes.iter().filter_map(|fix| fix["rule"].as_str()).collect::<Vec<_>>().join(", ");
    let (applied, failed, left) = (of("applied"), [of("failed"), of("rolled-back")].concat(), of("left"));
    let why = |fix: Option<&&Value>| fix.and_then(|fix| fix["why"].as_str()).unwrap_or_default().replace('\n', " ");
    match (applied.as_slice(), failed.as_slice()) {
        (_, [_, ..]) => format!("failed ({}): {}", named(&failed), why(failed.first())),
        ([], []) if left.is_empty() => "nothing to repair".into(),
        ([], []) => format!("left ({}): {}", named(&left), why(left.first())),
        (applied, []) => format!("done ({})", named(applied)),
    }
}

/// Empty where the undo could not even be tried.
fn taken_back(
    host: &Host,
    fault: &Fault,
    etc: &BTreeMap<String, String>,
    state: &BTreeMap<String, String>,
    seen: &str,
) -> Result<String> {
    let undo = host.audit_within(&["undo"], Duration::from_secs(400))?;
    if undo.output.code != 0 {
        return Ok(format!("exit code {}: {}{}", undo.output.code, undo.output.stdout, undo.output.stderr));
    }
    let changes = differences(etc, &host.etc_digest()?);
    if !changes.is_empty() {
        return Ok(format!("/etc: {}", changes.join("; ")));
    }
    let deadline = Instant::now() + SETTLES;
    loop {
        let changes = differences(state, &running_state(host)?);
        let again = symptom_now(host, fault)?;
        if changes.is_empty() && again == seen {
            return Ok("exact".into());
        }
        if Instant::now() > deadline {
            let symptom = if again == seen { String::new() } else { format!("the client sees {again}; ") };
            return Ok(format!("{symptom}{}", changes.join("; ")));
        }
        thread::sleep(Duration::from_secs(2));
    }
}

/// The host's state but for what changes by itself: a unit that cannot start is between two attempts or has given up, and the ports of
/// the Erlang VM come and go with them.
fn running_state(host: &Host) -> Result<BTreeMap<String, String>> {
    let mut state = host.state()?;
    if let Some(active) = state.get_mut("unit active")
        && ["activating", "deactivating", "failed", "inactive"].contains(&active.trim())
    {
        *active = "not running".into();
    }
    if let Some(listening) = state.get_mut("listening") {
        // Nodes of rabbitmqctl listen on any port above.
        let passing = |line: &&str| {
            let port = line.rsplit(':').next().and_then(|port| port.trim().parse::<u32>().ok());
            port.is_some_and(|port| port == 4369 || port == 25672 || port >= 32768)
        };
        *listening = listening.lines().filter(|line| !passing(line)).collect::<Vec<_>>().join("\n");
    }
    Ok(state)
}

/// What the client with the symptom sees, once all clients see what the pack says.
fn symptom(host: &Host, fault: &Fault) -> Result<String> {
    let deadline = Instant::now() + APPEARS;
    loop {
        let mut odd = None;
        let mut seen = None;
        for probe in &fault.known.probe {
            let (outcome, detail) = connect(host, probe)?;
            if !expected(probe, &outcome, &detail) {
                odd = Some(format!(
                    "{} on port {} sees {outcome} ({detail}), not {}",
                    probe.kind,
                    probe.port,
                    probe.expect.join(" or ")
                ));
                break;
            }
            if std::ptr::eq(probe, fault.client()) {
                seen = Some(outcome);
            }
        }
        match (odd, seen) {
            (None, Some(seen)) => return Ok(seen),
            (odd, _) if Instant::now() > deadline => bail!("not as the pack says: {}", odd.unwrap_or_default()),
            _ => thread::sleep(Duration::from_secs(1)),
        }
    }
}

fn symptom_now(host: &Host, fault: &Fault) -> Result<String> {
    Ok(connect(host, fault.client())?.0)
}

/// The client on the other machine, placed as the probe says; outcome in CONTRACT's words, and detail.
fn connect(host: &Host, probe: &Probe) -> Result<(String, String)> {
    let to = if probe.host.contains(':') { host.net.host6() } else { host.net.host() };
    let mut client = host.client().user(&probe.user, &probe.password).option("--host", &to);
    client = client.option("--port", &probe.port.to_string()).option("--vhost", &probe.vhost);
    if probe.source.is_some() {
        client = client.option("--source", &host.net.other_client());
    }
    client = options(client, probe);
    for (name, path) in [("--ca", &probe.ca), ("--cert", &probe.cert), ("--key", &probe.key)] {
        if let Some(path) = path {
            client = client.option(name, &host.copy_out(path)?.display().to_string());
        }
    }
    let (outcome, detail) = client.connect()?;
    // That a connection is closed without a word is for the client the same as a reset.
    Ok((if outcome == "closed" { "reset".into() } else { outcome }, detail))
}

fn options<'a>(client: Client<'a>, probe: &Probe) -> Client<'a> {
    let flags = [("--tcp", probe.tcp), ("--http", probe.kind == "http"), ("--tls", probe.kind == "amqps")];
    let client = flags.iter().filter(|(_, on)| *on).fold(client, |client, (name, _)| client.flag(name));
    let client = if probe.mech.as_deref() == Some("ANONYMOUS") { client.flag("--anonymous") } else { client };
    let client = probe.proto.iter().fold(client, |client, version| client.option("--protocol", version));
    probe.amqp_burst.iter().fold(client, |client, n| client.option("--connections", &n.to_string()))
}

/// The pack's words for an outcome are finer than CONTRACT's here, coarser there.
fn expected(probe: &Probe, outcome: &str, detail: &str) -> bool {
    let is = |word: &str| match word {
        "ok" => outcome == "connected",
        "auth-failed" => outcome == "auth-refused",
        "vhost-missing" => outcome == "vhost-refused" && detail.contains("not found"),
        "vhost-denied" | "perm-denied" => outcome == "vhost-refused",
        "blocked" | "timeout-handshake" => outcome == "hangs",
        "protocol" | "other" => outcome == "reset",
        "probe-broken" => outcome != "connected",
        same => outcome == same,
    };
    probe.expect.is_empty() || probe.expect.iter().any(|word| is(word))
}

/// Every client gets what it shall get when all is well; who got through before still does.
fn all_well(host: &Host, fault: &Fault) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let mut wrong = None;
        for (nth, probe) in fault.known.probe.iter().enumerate() {
            let shall = probe.want_fixed.list();
            let counts = std::ptr::eq(probe, fault.wanted()) || !shall.is_empty() || probe.expect.iter().any(|word| word == "ok");
            if probe.after_fix.as_deref() == Some("skip") || !counts {
                continue;
            }
            let (outcome, detail) = connect(host, probe)?;
            let after = Probe {
                expect: if shall.is_empty() { vec!["ok".into()] } else { shall.iter().map(|s| (*s).into()).collect() },
                ..probe.clone()
            };
            if !expected(&after, &outcome, &detail) {
                wrong = Some(format!("client {nth} then sees {outcome}: {detail}"));
            }
        }
        match wrong {
            None => return Ok(()),
            Some(wrong) if Instant::now() > deadline => bail!(wrong),
            Some(_) => thread::sleep(Duration::from_secs(1)),
        }
    }
}

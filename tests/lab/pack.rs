//! A pack of faults from a folder, each the whole way on a host of its own, with one table at the end.

use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use crate::client::Client;
use crate::host::{Audit, Host, Until, differences};
use crate::scenarios::Orders;
use crate::tree;

/// What is known of a fault (`ID.toml`); more may stand there.
#[derive(Deserialize)]
struct Fault {
    versions: Vec<String>,
    #[serde(default)]
    reboot_after_inject: bool,
    needs_package: Option<String>,
    probe: Vec<Probe>,
}

/// What a client does; the first one is the symptom, the others show what still works.
#[derive(Deserialize, Clone)]
struct Probe {
    host: String,
    #[serde(default)]
    source: Option<String>,
    expect: Vec<String>,
}

/// One line of the table.
struct Line {
    id: String,
    suite: &'static str,
    /// What was found at each stage; the stage that failed says how.
    cells: Vec<(&'static str, String)>,
    failed: Option<String>,
    seconds: u64,
}

const STAGES: [&str; 7] = ["client", "audit", "fix", "connects", "undo", "reboot", "undo after reboot"];

/// `[DIR] [ID…] [--suite S] [--jobs N]`
pub fn run(args: &[String]) -> Result<()> {
    let mut suites = vec!["bullseye", "bookworm", "trixie"];
    let (mut dir, mut ids, mut jobs) = (Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/faults"), Vec::new(), 1);
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--suite" => suites = vec![tree::named(args.next().context("--suite needs a name")?)?],
            "--jobs" => jobs = args.next().context("--jobs needs a number")?.parse()?,
            path if path.contains('/') => dir = path.into(),
            id => ids.push(id.to_owned()),
        }
    }
    if ids.is_empty() {
        ids = packet_filter_faults(&dir)?;
    }
    let work: Vec<(String, &'static str)> =
        suites.iter().flat_map(|suite| ids.iter().map(move |id| (id.clone(), *suite))).collect();
    let queue = Mutex::new(work.into_iter());
    let lines = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                loop {
                    let next = queue.lock().ok().and_then(|mut queue| queue.next());
                    let Some((id, suite)) = next else { break };
                    if let Some(line) = attempt(&dir, &id, suite)
                        && let Ok(mut lines) = lines.lock()
                    {
                        println!("{}", line.row());
                        lines.push(line);
                    }
                }
            });
        }
    });
    let mut lines = lines.into_inner().unwrap_or_default();
    lines.sort_by(|a, b| (&a.id, a.suite).cmp(&(&b.id, b.suite)));
    println!("\n| fault | suite | {} | s |\n|---|---|{}---|", STAGES.join(" | "), "---|".repeat(STAGES.len()));
    lines.iter().for_each(|line| println!("{}", line.row()));
    for line in &lines {
        if let Some(why) = &line.failed {
            println!("\n{} on {}: {why}", line.id, line.suite);
        }
    }
    let failed = lines.iter().filter(|line| line.failed.is_some()).count();
    println!("\n{} runs, {failed} not the whole way", lines.len());
    Ok(())
}

fn packet_filter_faults(dir: &Path) -> Result<Vec<String>> {
    let mut ids = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        ids.extend(name.strip_suffix(".toml").filter(|id| id.starts_with("fw-")).map(str::to_owned));
    }
    ids.sort();
    Ok(ids)
}

impl Line {
    fn row(&self) -> String {
        let cell = |stage: &&str| self.cells.iter().find(|(name, _)| name == stage).map_or("", |(_, text)| text);
        let cells: Vec<&str> = STAGES.iter().map(cell).collect();
        format!("| {} | {} | {} | {} |", self.id, self.suite, cells.join(" | "), self.seconds)
    }
}

/// `None`: not a fault of this suite.
fn attempt(dir: &Path, id: &str, suite: &'static str) -> Option<Line> {
    let start = Instant::now();
    let mut line = Line { id: id.to_owned(), suite, cells: Vec::new(), failed: None, seconds: 0 };
    let done = read(dir, id).and_then(|(script, fault)| {
        let release = match suite {
            "bullseye" => "debian11",
            "bookworm" => "debian12",
            _ => "debian13",
        };
        // A package can be had on every suite, whatever the pack was tried on.
        if fault.needs_package.is_none() && !fault.versions.iter().any(|version| version == release) {
            return Ok(false);
        }
        whole_way(&script, &fault, suite, &mut line).map(|()| true)
    });
    line.seconds = start.elapsed().as_secs();
    match done {
        Ok(false) => return None,
        Ok(true) => {}
        Err(error) => {
            line.failed = Some(format!("{error:#}"));
            if let Some(stage) = STAGES.get(line.cells.len()) {
                line.cells.push((stage, "**failed**".to_owned()));
            }
        }
    }
    Some(line)
}

fn read(dir: &Path, id: &str) -> Result<(String, Fault)> {
    let script = fs::read_to_string(dir.join(format!("{id}.sh"))).with_context(|| format!("{id}.sh"))?;
    let fault =
        toml_edit::de::from_str(&fs::read_to_string(dir.join(format!("{id}.toml")))?).with_context(|| format!("{id}.toml"))?;
    Ok((script, fault))
}

fn whole_way(script: &str, fault: &Fault, suite: &'static str, line: &mut Line) -> Result<()> {
    let packages: Vec<&str> = fault.needs_package.iter().map(String::as_str).collect();
    let mut host = Host::boot_with(suite, &packages)?;
    host.install()?;
    host.run_script(script)?;
    if fault.reboot_after_inject {
        host.reboot(Until::Settled)?;
    }
    let seen = symptom(&host, fault).context("after the fault")?;
    line.cells.push(("client", seen.clone()));
    let before = host.etc_digest()?;

    let v6 = fault.probe.first().is_some_and(|probe| probe.host.contains(':'));
    let from = if v6 { format!("{}/128", host.net.client6()) } else { format!("{}/32", host.net.client()) };
    {
        let app = Orders::app(&host)?.from(&from);
        let audit = app.audit(&[])?;
        let text = |pointer: &str| audit.at(pointer).as_str().unwrap_or("-").to_owned();
        line.cells.push(("audit", format!("{}: {}", text("/verdict/cause"), text("/paths/0/sees"))));
        ensure!(text("/paths/0/sees") == seen, "the client saw {seen}\n{}", audit.output.stdout);
        let fix = app.fix()?;
        let changed = fix.at("/changed") == true;
        line.cells.push(("fix", if changed { "done".into() } else { left(&fix) }));
        if !changed {
            if host.etc_digest()? != before {
                bail!("nothing was to be changed, and /etc is another");
            }
            ensure!(fix.output.code != 3 && fix.output.code != 4, "{}\n{}", fix.output.stdout, fix.output.stderr);
            return Ok(());
        }
        all_well(&host, fault).with_context(|| fix.output.stdout.clone())?;
        let again = app.fix()?;
        ensure!(again.at("/changed") == false, "a second run changes something: {}", again.output.stdout);
        line.cells.push(("connects", "yes".into()));
    }
    let fixed = host.etc_digest()?;
    taken_back(&host, fault, &before, &seen)?;
    line.cells.push(("undo", "exact".into()));
    if fixed == before {
        line.cells.push(("reboot", "not claimed".into()));
        return Ok(());
    }
    // Exit code 3 says that something else could not be checked.
    let again = Orders::app(&host)?.from(&from).fix()?;
    ensure!(again.at("/changed") == true, "{}", again.output.stdout);
    host.reboot(Until::Broker)?;
    all_well(&host, fault).context("after the reboot")?;
    line.cells.push(("reboot", "connects".into()));
    taken_back(&host, fault, &before, &seen)?;
    line.cells.push(("undo after reboot", "exact".into()));
    Ok(())
}

/// Why nothing was done.
fn left(fix: &Audit) -> String {
    let fixes = fix.at("/fixes");
    let about =
        |fix: &&serde_json::Value| fix["rule"].as_str().is_some_and(|rule| rule.starts_with("fw-") || rule.contains("port"));
    let why = fixes.as_array().into_iter().flatten().find(about).and_then(|fix| fix["why"].as_str()).unwrap_or("nothing");
    format!("left: {}", why.replace('|', "\\|").replace('\n', " "))
}

fn taken_back(host: &Host, fault: &Fault, before: &std::collections::BTreeMap<String, String>, seen: &str) -> Result<()> {
    host.audit(&["undo"])?.exits(0)?;
    let changes = differences(before, &host.etc_digest()?);
    ensure!(changes.is_empty(), "/etc is not as before:\n{}", changes.join("\n"));
    let rules = host.sh("nft list ruleset; iptables-legacy-save; ip6tables-legacy-save")?.stdout;
    ensure!(!rules.contains("rmq-audit") && !rules.contains("rmq_audit"), "the undo left\n{rules}");
    // A broker that could not start falls back into its loop of failing starts; that it stops first takes up to its time limit.
    let deadline = Instant::now() + Duration::from_secs(150);
    loop {
        match symptom(host, fault) {
            Ok(again) if again == seen => return Ok(()),
            Ok(again) if Instant::now() > deadline => bail!("after the undo the client sees {again}, not {seen}"),
            Err(error) if Instant::now() > deadline => return Err(error.context("after the undo")),
            _ => thread::sleep(Duration::from_secs(1)),
        }
    }
}

/// The client on the other machine, placed as the probe says.
fn client<'a>(host: &'a Host, probe: &Probe) -> Client<'a> {
    let to = if probe.host.contains(':') { host.net.host6() } else { host.net.host() };
    let client = host.client().option("--host", &to);
    if probe.source.is_some() { client.option("--source", &host.net.other_client()) } else { client }
}

/// Asks all probes; gives what the first one saw.
fn symptom(host: &Host, fault: &Fault) -> Result<String> {
    let mut first = None;
    for probe in &fault.probe {
        let (outcome, detail) = client(host, probe).connect()?;
        let named = match outcome.as_str() {
            "connected" => "ok",
            "hangs" => "timeout-handshake",
            other => other,
        };
        ensure!(probe.expect.iter().any(|other| other == named), "{outcome} ({detail}) instead of {}", probe.expect.join(", "));
        first.get_or_insert(outcome);
    }
    first.context("no probe")
}

fn all_well(host: &Host, fault: &Fault) -> Result<()> {
    for probe in &fault.probe {
        client(host, probe).sees("connected")?;
    }
    Ok(())
}

//! The verdict on a configuration against the broker's own parser: `tests/lab/configurations [--suite S] [--count N] [--seed N]`.
//!
//! Every case is a directory laid out as /etc/rabbitmq. The parser of the suite's release (Erlang, cuttlefish, the installed
//! schemas; `oracle.erl`) and the product judge it as the broker's user, in the tree of the suite. They agree when both let the
//! broker boot and read the same settings, or both stop it and blame the same keys or lines. "Unknown" never agrees.

mod cases;
mod judge;
mod layouts;
mod mutations;
mod oracle;
mod paths;
mod values;

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};

use crate::host::Host;
use crate::{product, tree};
use cases::{Case, Source};
use judge::Ours;
use oracle::{Answer, Oracle};

/// What the tests of the lab run: enough to catch what breaks, in half a minute.
const SAMPLE: usize = 300;
const COUNT: usize = 2000;
const SEED: u64 = 1;
/// How many of a kind are shrunk and shown; of the others only those that are brief, in bytes, are shown.
const SHRUNK: usize = 3;
const BRIEF: usize = 300;

/// A sample on one suite.
pub fn sample(suite: &'static str) -> Result<()> {
    let bench = Bench::new(suite, &product::binary()?)?;
    let report = bench.run(SAMPLE, SEED, true)?;
    // What takes Erlang to decide (a call in advanced.config) may be left open, in one of a hundred cases; nothing may be wrong.
    let open = report.differences.iter().flat_map(|(_, all)| all).filter(|d| d.what.contains(judge::UNDECIDED)).count();
    let all: usize = report.differences.iter().map(|(_, all)| all.len()).sum();
    ensure!(all == open && open * 100 <= report.cases, "{}", report.details());
    Ok(())
}

/// `[--suite S] [--count N] [--seed N] [--no-shrink] [--release]`: one table, then every difference. It is an error if there is one.
pub fn run(args: &[String]) -> Result<()> {
    let (mut suites, mut count, mut seed, mut shrink) = (tree::SUITES.to_vec(), COUNT, SEED, true);
    let mut profile = product::Profile::Lab;
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let mut number = || args.next().and_then(|n| n.parse().ok()).with_context(|| format!("{arg} needs a number"));
        match arg.as_str() {
            "--count" => count = number()? as usize,
            "--seed" => seed = number()?,
            "--no-shrink" => shrink = false,
            "--release" => profile = product::Profile::Release,
            "--suite" => suites = vec![tree::named(args.next().context("--suite needs a name")?)?],
            other => bail!("unknown option {other}"),
        }
    }
    let binary = product::build(profile)?;
    let mut reports = Vec::new();
    for suite in suites {
        let report = Bench::new(suite, &binary)?.run(count, seed, shrink)?;
        println!("{}", report.details());
        reports.push(report);
    }
    println!(
        "seed {seed}\n\n| suite | cases | boot | stop | agree | % | lint, ms | erl, ms | times |\n|---|---|---|---|---|---|---|---|---|"
    );
    reports.iter().for_each(|report| println!("{}", report.row()));
    let all: usize = reports.iter().map(Report::count).sum();
    ensure!(all == 0, "{all} differences");
    Ok(())
}

/// A suite's tree with everything that judging needs.
struct Bench {
    suite: &'static str,
    host: Host,
    binary: PathBuf,
}

struct Difference {
    case: Case,
    what: String,
}

struct Report {
    suite: &'static str,
    cases: usize,
    boot: usize,
    /// By kind, so that the like stand together.
    differences: Vec<(String, Vec<Difference>)>,
    lint: Duration,
    erl: Duration,
}

impl Bench {
    fn new(suite: &'static str, binary: &Path) -> Result<Self> {
        let host = Host::mounted(suite, &[&tree::tree(suite)?], None)?;
        let root = host.root();
        oracle::install(&root)?;
        paths::make(&root)?;
        fs::remove_dir_all(root.join("etc/rabbitmq"))?;
        Ok(Self { suite, host, binary: binary.to_owned() })
    }

    fn run(&self, count: usize, seed: u64, shrink: bool) -> Result<Report> {
        let root = self.host.root();
        let mut oracle = Oracle::start(&root)?;
        let cases = Source::new(oracle.mappings()?, seed)?.cases(count);
        for (number, case) in cases.iter().enumerate() {
            case.write(&root.join(judge::place(number).1)).with_context(|| case.name.clone())?;
        }
        let answers = self.both(&mut oracle, cases.len())?;
        eprintln!("{}: {} cases judged, now the differences", self.suite, cases.len());
        let mut differences: BTreeMap<String, Vec<Difference>> = BTreeMap::new();
        for (case, (ours, answer)) in cases.iter().zip(&answers) {
            if let Some(what) = judge::difference(ours, answer) {
                differences.entry(judge::kind(ours, answer)).or_default().push(Difference { case: case.clone(), what });
            }
        }
        if shrink {
            for difference in differences.values_mut().flat_map(|all| all.iter_mut().take(SHRUNK)) {
                self.shrink(&mut oracle, difference)?;
            }
        }
        let (lint, erl) = self.times(&cases, &answers)?;
        let boot = answers.iter().filter(|(_, answer)| answer.phase.is_none()).count();
        Ok(Report { suite: self.suite, cases: cases.len(), boot, differences: differences.into_iter().collect(), lint, erl })
    }

    /// The verdicts on all cases; the two judges work side by side.
    fn both(&self, oracle: &mut Oracle, count: usize) -> Result<Vec<(Ours, Answer)>> {
        thread::scope(|scope| {
            let theirs = scope.spawn(move || (0..count).map(|number| oracle.check(&judge::place(number).0)).collect());
            let ours: Result<Vec<Ours>> = (0..count).map(|number| self.ours(number)).collect();
            let theirs: Result<Vec<Answer>> = theirs.join().map_err(|_| anyhow!("the oracle's thread panicked"))?;
            Ok(ours?.into_iter().zip(theirs?).collect())
        })
    }

    fn ours(&self, number: usize) -> Result<Ours> {
        judge::ours(&self.binary, &self.host.root(), &judge::place(number).0)
    }

    /// Takes files and lines away while the two still differ in the same way.
    fn shrink(&self, oracle: &mut Oracle, difference: &mut Difference) -> Result<()> {
        let scratch = usize::MAX;
        let root = self.host.root();
        let mut look = |case: &Case| -> Result<Option<(String, String)>> {
            let (inside, outside) = judge::place(scratch);
            let dir = root.join(outside);
            let _ = fs::remove_dir_all(&dir);
            case.write(&dir)?;
            let (ours, answer) = (self.ours(scratch)?, oracle.check(&inside)?);
            Ok(judge::difference(&ours, &answer).map(|what| (judge::kind(&ours, &answer), what)))
        };
        let Some((kind, _)) = look(&difference.case)? else { return Ok(()) };
        let deadline = Instant::now() + Duration::from_secs(20);
        'again: while Instant::now() < deadline {
            for smaller in difference.case.smaller() {
                if let Some((same, what)) = look(&smaller)?
                    && same == kind
                {
                    *difference = Difference { case: smaller, what };
                    continue 'again;
                }
            }
            break;
        }
        Ok(())
    }

    /// Medians for one normal file that boots, each judge as a process of its own.
    fn times(&self, cases: &[Case], answers: &[(Ours, Answer)]) -> Result<(Duration, Duration)> {
        let normal =
            |(case, (_, answer)): (&Case, &(Ours, Answer))| case.files[0].bytes.len() * usize::from(answer.phase.is_none());
        let sizes: Vec<usize> = cases.iter().zip(answers).map(normal).collect();
        let Some(number) = (0..sizes.len()).filter(|n| sizes[*n] < 3000).max_by_key(|n| sizes[*n]) else {
            return Ok(Default::default());
        };
        let root = self.host.root();
        let place = judge::place(number).0;
        judge::ours(&self.binary, &root, &place)?;
        let lint = median((0..21).map(|_| timed(&mut judge::command(&self.binary, &root), "")))?;
        // The way of a script: a machine of its own, all schemas read for one directory.
        let erl = median((0..5).map(|_| timed(&mut oracle::command(&root)?, &format!("check {place}\n"))))?;
        Ok((lint, erl))
    }
}

/// How long a program runs with this on its standard input.
fn timed(command: &mut Command, input: &str) -> Result<Duration> {
    let start = Instant::now();
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    // Closed behind the input, or both would wait for each other.
    child.stdin.take().context("no standard input")?.write_all(input.as_bytes())?;
    child.wait_with_output()?;
    Ok(start.elapsed())
}

fn median(times: impl Iterator<Item = Result<Duration>>) -> Result<Duration> {
    let mut times: Vec<Duration> = times.collect::<Result<_>>()?;
    times.sort();
    times.get(times.len() / 2).copied().context("no times")
}

impl Report {
    fn count(&self) -> usize {
        self.differences.iter().map(|(_, all)| all.len()).sum()
    }

    fn row(&self) -> String {
        let agree = self.cases - self.count();
        let percent = 100.0 * agree as f64 / self.cases as f64;
        let (lint, erl) = (self.lint.as_secs_f64() * 1e3, self.erl.as_secs_f64() * 1e3);
        let (suite, cases, boot) = (self.suite, self.cases, self.boot);
        format!(
            "| {suite} | {cases} | {boot} | {} | {agree} | {percent:.2} | {lint:.1} | {erl:.0} | {:.0} |",
            cases - boot,
            erl / lint
        )
    }

    fn details(&self) -> String {
        let mut text = String::new();
        for (kind, all) in &self.differences {
            text += &format!("## {}: {} of {kind}\n", self.suite, all.len());
            for (at, Difference { case, what }) in all.iter().enumerate() {
                let shown = case.show();
                let shown = if at < SHRUNK || shown.len() < BRIEF { &shown } else { "" };
                text += &format!("{}: {what}\n{shown}", case.name);
            }
        }
        text
    }
}

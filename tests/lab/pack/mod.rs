//! Packs of faults: each the whole way on a host of its own, with one table at the end.

mod fault;
mod table;
mod way;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use sha2::{Digest, Sha256};

use crate::{product, tree};
use fault::Fault;
use way::Line;

/// The suites whose faults are known.
const SUITES: [&str; 3] = ["bullseye", "bookworm", "trixie"];

/// What is to be run.
struct Order {
    dir: PathBuf,
    ids: Vec<String>,
    suites: Vec<&'static str>,
    jobs: usize,
    take_over: TakeOver,
    /// The index of what fired is to be added to.
    index: bool,
    /// The report is to be written.
    results: bool,
}

/// Which lines of earlier runs are taken over.
#[derive(Clone, Copy, PartialEq)]
enum TakeOver {
    Nothing,
    SameProgram,
    /// Whatever program it was: for a table after the last few were run again.
    AnyProgram,
}

/// `[DIR] [ID…] [--suite S] [--jobs N] [--again | --kept] [--index] [--results]`
pub fn run(args: &[String]) -> Result<()> {
    let order = order(args)?;
    let product = hash(&[&fs::read(product::binary()?)?]);
    let mut work: Vec<(Fault, &'static str)> = Vec::new();
    for id in &order.ids {
        for suite in &order.suites {
            let fault = fault::read(&order.dir, id)?;
            if fault.on(suite) {
                work.push((fault, suite));
            }
        }
    }
    let queue = Mutex::new(work.into_iter());
    let lines = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..order.jobs {
            scope.spawn(|| {
                while let Some((fault, suite)) = queue.lock().ok().and_then(|mut queue| queue.next()) {
                    let line = attempt(&fault, suite, &product, order.take_over);
                    println!("{}", table::row(&line));
                    if let Ok(mut lines) = lines.lock() {
                        lines.push(line);
                    }
                }
            });
        }
    });
    let mut lines = lines.into_inner().unwrap_or_default();
    lines.sort_by(|a, b| (&a.id, &a.suite).cmp(&(&b.id, &b.suite)));
    println!("{}", table::whole(&lines));
    if order.index {
        table::write_index(&lines)?;
    }
    if order.results {
        table::write_results(&lines)?;
    }
    Ok(())
}

fn order(args: &[String]) -> Result<Order> {
    let (mut suites, mut dir, mut ids) = (SUITES.to_vec(), fault::default_dir(), Vec::new());
    let (mut jobs, mut take_over, mut index, mut results) = (2, TakeOver::SameProgram, false, false);
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--suite" => suites = vec![tree::named(args.next().context("--suite needs a name")?)?],
            "--jobs" => jobs = args.next().context("--jobs needs a number")?.parse()?,
            "--again" => take_over = TakeOver::Nothing,
            "--kept" => take_over = TakeOver::AnyProgram,
            "--index" => index = true,
            "--results" => results = true,
            path if path.contains('/') => dir = path.into(),
            id => ids.push(id.to_owned()),
        }
    }
    if ids.is_empty() {
        ids = fault::ids(&dir)?;
    }
    Ok(Order { dir, ids, suites, jobs, take_over, index, results })
}

fn hash(parts: &[&[u8]]) -> String {
    let mut sum = Sha256::new();
    parts.iter().for_each(|part| sum.update(part));
    sum.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// Runs a fault, or takes over what an earlier run of the same program wrote down.
fn attempt(fault: &Fault, suite: &'static str, product: &str, take_over: TakeOver) -> Line {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("target/lab-faults/{suite}/{}.json", fault.id));
    let of = format!("{product}-{}", hash(&[fault.script.as_bytes()]));
    let kept = fs::read(&file).ok().and_then(|bytes| serde_json::from_slice::<Line>(&bytes).ok());
    let same = |line: &Line| line.of == of && line.failed.is_none();
    let taken = kept.filter(|line| match take_over {
        TakeOver::Nothing => false,
        TakeOver::SameProgram => same(line),
        TakeOver::AnyProgram => true,
    });
    if let Some(mut line) = taken {
        line.cause_right = fault.causes.contains(&line.cause);
        return line;
    }
    let start = Instant::now();
    let mut line = Line {
        id: fault.id.clone(),
        suite: suite.into(),
        healthy: fault.healthy(),
        fixable: fault.known.fixable,
        of,
        ..Line::default()
    };
    if let Err(error) = way::whole_way(fault, suite, &mut line) {
        line.failed = Some(format!("{error:#}"));
    }
    line.seconds = start.elapsed().as_secs();
    if let Err(error) = keep(&file, &line) {
        eprintln!("lab: {error:#}");
    }
    line
}

fn keep(file: &Path, line: &Line) -> Result<()> {
    fs::create_dir_all(file.parent().context("no folder")?)?;
    fs::write(file, serde_json::to_vec_pretty(line)?).with_context(|| file.display().to_string())
}

/// The project's own faults, each on one suite: a test of the product on a real host, with a real client. The others are for the whole pack.
pub fn own() -> Vec<(String, &'static str)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join(fault::OWN);
    let suite = |id: String| {
        let fault = fault::read(&dir, &id).ok().filter(|fault| !fault.known.on_demand)?;
        let on = ["bookworm", "trixie", "bullseye"].into_iter().find(|suite| fault.on(suite))?;
        Some((id, on))
    };
    fault::ids(&dir).unwrap_or_default().into_iter().filter_map(suite).collect()
}

/// Runs one of the project's own faults; an error says what was missing.
pub fn own_fault(id: &str, suite: &'static str) -> Result<()> {
    let fault = fault::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join(fault::OWN), id)?;
    let line = attempt(&fault, suite, "test", TakeOver::Nothing);
    ensure!(line.whole(), "{}\n{}", table::row(&line), line.failed.unwrap_or_default());
    Ok(())
}

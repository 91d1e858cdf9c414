//! The firewall engine against the kernel: rulesets are loaded into network namespaces, real SYNs and ACKs come in from a peer, and
//! what the kernel did is compared with the verdict, and the packets that each rule counted with those foretold.
//!
//! - `cargo test --test parity` compares some twenty thousand verdicts.
//! - `PARITY_VERDICTS=200000` compares so many, over all tests; `PARITY_SEED=N` begins with that ruleset (a failed test prints it).
//! - `PARITY_KEEP_GOING=1` goes on after the first mismatch.
//!
//! Works without root where user namespaces are allowed. A test runs in a process of its own (`parity worker NAME`), because
//! /proc/net belongs to the process.
#![allow(clippy::print_stdout, clippy::print_stderr)]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod bench;
mod check;
mod corpus;
mod iptables;
mod net;
mod nft;
mod packet;
mod ruleset;

use anyhow::{Context, Result, bail};
use fastrand::Rng;
use libtest_mimic::{Arguments, Completion, Failed, Trial};
use net::{Net, Probe};
use nft::Taste;
use std::net::IpAddr;
use std::process::{Command, ExitCode, Stdio};

/// Name, share of the verdicts in percent.
const TRIALS: &[(&str, usize)] = &[
    ("nft_random", 36),
    ("nft_stateful", 4),
    ("iptables_nft_random", 12),
    ("iptables_legacy_random", 16),
    ("iptables_stateful", 4),
    ("established", 10),
    ("reply", 10),
    ("ipv6", 8),
    ("corpus", 0),
];
/// Verdicts of an ordinary run.
const SAMPLE: usize = 20_000;
const SEED: u64 = 20_261_122;
/// Verdicts of sets without stateful matches that may depend on something.
const MOST_DEPENDS: f64 = 0.02;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["worker", name] => worker(name),
        ["bench-read"] => bench::read(),
        ["bench"] => bench::run(std::path::Path::new("/usr/sbin/ufw").exists()).map(|()| String::new()),
        _ => return tests(),
    };
    match done {
        Ok(text) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn tests() -> ExitCode {
    let mut args = Arguments::from_args();
    // Commits of rulesets wait for idle processors: more at once gain nothing.
    args.test_threads.get_or_insert(2);
    let trials = TRIALS.iter().map(|(name, _)| Trial::ignorable_test(format!("parity::{name}"), move || trial(name))).collect();
    libtest_mimic::run(&args, trials).exit_code()
}

fn trial(name: &str) -> Result<Completion, Failed> {
    if let Some(why) = missing() {
        return Ok(Completion::ignored_with(why));
    }
    let run = || -> Result<std::process::Output> {
        let mut command = Command::new(std::env::current_exe()?);
        // The kernel's own list is not the machine's to wait for.
        command.env_remove("RUST_BACKTRACE").args(["worker", name]).stdin(Stdio::null()).stderr(Stdio::inherit());
        Ok(command.stdout(Stdio::piped()).spawn()?.wait_with_output()?)
    };
    let output = run().map_err(|e| format!("{e:#}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        return Err(format!("{} {text}", output.status).into());
    }
    println!("{name}: {}", text.trim());
    Ok(Completion::Completed)
}

/// Why it cannot run here, if so.
fn missing() -> Option<String> {
    for tool in
        ["ip", "nft", "ipset", "iptables-nft-restore", "iptables-legacy-restore", "iptables-legacy-save", "iptables-nft-save"]
    {
        let dirs = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"];
        if !dirs.iter().any(|dir| std::path::Path::new(dir).join(tool).exists()) {
            return Some(format!("{tool} is not installed"));
        }
    }
    let tried = Command::new(std::env::current_exe().ok()?).args(["worker", "nothing"]).output().ok()?;
    let said = String::from_utf8_lossy(&tried.stdout).trim().replace('\n', " ");
    (!tried.status.success()).then(|| format!("cannot be judged in a network namespace here: {said}"))
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|value| value.parse().ok())
}

fn worker(name: &str) -> Result<String> {
    net::enter()?;
    let mut net = Net::new()?;
    if name == "nothing" {
        // In a user namespace the names of legacy tables are not readable, and the engine then rightly gives no verdict.
        let engine = rmq_audit::parity::Engine::read().map_err(anyhow::Error::msg)?;
        let from = net::SOURCES4[0].parse()?;
        return engine.verdict(from, net::OWN4[0].into(), 5672, "eth0").map(|_| String::new()).map_err(anyhow::Error::msg);
    }
    let seed = number("PARITY_SEED").unwrap_or(SEED);
    let share = TRIALS.iter().find(|t| t.0 == name).with_context(|| format!("there is no test {name}"))?.1;
    let wanted = number("PARITY_VERDICTS").map_or(SAMPLE, |n| n as usize) * share / 100;
    let v4 = Taste { v4: true, ..Taste::default() };
    let v6 = Taste { v6: true, ..Taste::default() };
    let both = Taste { v4: true, v6: true, ..Taste::default() };
    let score = match name {
        "nft_random" => random(&mut net, wanted, seed, &[v4, v4, both], &[Kind::Nft])?,
        "nft_stateful" => random(&mut net, wanted, seed, &[Taste { stateful: true, ..both }], &[Kind::Nft])?,
        "iptables_nft_random" => random(&mut net, wanted, seed, &[v4, v4, v6], &[Kind::Iptables { legacy: false }])?,
        "iptables_legacy_random" => random(&mut net, wanted, seed, &[v4, v4, v6], &[Kind::Iptables { legacy: true }])?,
        "iptables_stateful" => {
            let kinds = [Kind::Iptables { legacy: false }, Kind::Iptables { legacy: true }];
            random(&mut net, wanted, seed, &[Taste { stateful: true, ..v4 }], &kinds)?
        }
        "established" => {
            random(&mut net, wanted, seed, &[Taste { established: true, ..v4 }, Taste { established: true, ..both }], &Kind::ALL)?
        }
        "reply" => random(
            &mut net,
            wanted,
            seed,
            &[Taste { output: true, ..v4 }, Taste { output: true, established: true, ..both }],
            &Kind::ALL,
        )?,
        "ipv6" => {
            random(&mut net, wanted, seed, &[v6, Taste { established: true, ..v6 }, Taste { output: true, ..v6 }], &Kind::ALL)?
        }
        "corpus" => corpus::run(&mut net, seed)?,
        other => bail!("there is no test {other}"),
    };
    Ok(format!("seed {seed}: {}", score.print()))
}

/// Whose rules.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Nft,
    Iptables { legacy: bool },
}

impl Kind {
    const ALL: [Kind; 4] = [Kind::Nft, Kind::Nft, Kind::Iptables { legacy: false }, Kind::Iptables { legacy: true }];
}

fn random(net: &mut Net, wanted: usize, seed: u64, tastes: &[Taste], kinds: &[Kind]) -> Result<check::Score> {
    let most = (!tastes.iter().any(|t| t.stateful)).then_some(MOST_DEPENDS);
    check::many(net, wanted, seed, most, |rng| {
        let taste = tastes[rng.usize(..tastes.len())];
        let ruleset = match kinds[rng.usize(..kinds.len())] {
            Kind::Nft => nft::ruleset(rng, taste),
            Kind::Iptables { legacy } => iptables::ruleset(rng, taste, legacy),
        };
        (ruleset, probes(rng, taste, 160))
    })
}

/// Attempts from everywhere to everything.
fn probes(rng: &mut Rng, taste: Taste, count: usize) -> Vec<Probe> {
    let mut all = Vec::with_capacity(count);
    for _ in 0..count {
        let v6 = if taste.v4 && taste.v6 { rng.bool() } else { taste.v6 };
        let (interface, own) = (rng.usize(..2), rng.usize(..2));
        let destination = if v6 { IpAddr::V6(net::OWN6[own]) } else { IpAddr::V4(net::OWN4[own]) };
        let source = nft::source(rng, v6).parse().unwrap_or(destination);
        all.push(Probe { interface, source, destination, port: net::PORTS[rng.usize(..net::PORTS.len())] });
    }
    all
}

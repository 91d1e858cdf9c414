//! The lab: the product on real broker hosts, judged by a real client. A test boots, breaks, audits, fixes, connects and undoes.
//!
//! - `cargo test --test lab -- bookworm::healthy` runs one test; the options are those of every Rust test program.
//! - `tests/lab/faults [DIR] [IDS] [--suite S]` runs a pack of faults and prints one table; the project's own are tests too (`fault::…`).
//! - `tests/lab/configurations [--suite S] [--count N] [--seed N]` compares verdicts on configurations with the broker's parser.
//! - `tests/lab/shell SUITE [SCRIPT]` gives a broken host to play with, `tests/bench/audit [SUITE]` measures.
//!
//! `RMQ_AUDIT_BIN=FILE` takes a product that is already built, `RMQ_AUDIT_LAB_CACHE=DIR` is where trees are kept,
//! `RMQ_AUDIT_LAB=off` skips all tests, `RMQ_AUDIT_PARITY_COUNT=N` is the number of random files that env_parity and terms_parity try.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod bench;
mod chroot;
mod client;
mod conf_parity;
mod configuration;
mod env_parity;
mod exec;
mod host;
mod net;
mod pack;
mod product;
mod scenarios;
mod shell;
mod terms_parity;
mod tree;

use std::process::ExitCode;

use anyhow::Result;
use libtest_mimic::{Arguments, Completion, Failed, Trial};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let done = match args.first().map(String::as_str) {
        Some("shell") => shell::run(&args[1..]),
        Some("faults") => pack::run(&args[1..]),
        Some("bench") => bench::run(&args[1..]),
        Some("configurations") => conf_parity::run(&args[1..]),
        _ => return tests(),
    };
    done.map_or_else(
        |error| {
            eprintln!("lab: {error:#}");
            ExitCode::FAILURE
        },
        |()| ExitCode::SUCCESS,
    )
}

fn tests() -> ExitCode {
    let mut args = Arguments::from_args();
    // Hosts that boot side by side slow each other down: more than two gain nothing on small machines.
    args.test_threads.get_or_insert(2);
    libtest_mimic::run(&args, trials()).exit_code()
}

/// Suites change fastest, so that two threads build two trees instead of waiting for one.
fn trials() -> Vec<Trial> {
    let pairs = scenarios::ALL.iter().flat_map(|scenario| scenario.1.suites().into_iter().map(move |suite| (suite, scenario)));
    let scenarios = pairs.map(|(suite, (name, _, scenario))| trial(suite, name, *scenario));
    let faults = pack::own().into_iter().map(|(id, suite)| {
        let name = format!("fault::{id}");
        trial(suite, &name, move |suite| pack::own_fault(&id, suite))
    });
    scenarios.chain(faults).collect()
}

fn trial(suite: &'static str, name: &str, scenario: impl FnOnce(&'static str) -> Result<()> + Send + 'static) -> Trial {
    Trial::ignorable_test(format!("{suite}::{name}"), move || attempt(suite, scenario))
}

fn attempt(suite: &'static str, scenario: impl FnOnce(&'static str) -> Result<()>) -> Result<Completion, Failed> {
    if let Some(reason) = missing() {
        return Ok(Completion::ignored_with(reason));
    }
    match tree::base(suite) {
        // Debian's testing release is sometimes broken by itself; the others never are.
        Err(error) if suite == tree::MOVING => return Ok(Completion::ignored_with(format!("{error:#}").replace('\n', " "))),
        other => other.map_err(|error| format!("{error:#}"))?,
    };
    scenario(suite).map_err(|error| format!("{error:#}"))?;
    Ok(Completion::Completed)
}

/// Why hosts cannot be booted here, if so.
fn missing() -> Option<String> {
    if std::env::var("RMQ_AUDIT_LAB").is_ok_and(|value| value == "off") {
        return Some("RMQ_AUDIT_LAB=off".into());
    }
    if !nix::unistd::geteuid().is_root() {
        return Some("needs root: it boots hosts and makes network namespaces".into());
    }
    let tools = "for tool in debootstrap systemd-nspawn ip nsenter setpriv unshare; do command -v $tool >/dev/null || \
                 { echo $tool is not installed; exit 1; }; done; \
                 /usr/bin/python3 -c 'import pika' 2>/dev/null || { echo python3-pika is not installed; exit 1; }; \
                 unshare --mount --pid --net --fork true 2>&1 || exit 1";
    let found = exec::run(std::process::Command::new("sh").args(["-c", tools]), b"", std::time::Duration::from_secs(30));
    match found {
        Ok(output) if output.code == 0 => None,
        Ok(output) => Some(output.stdout.trim().replace('\n', " ")),
        Err(error) => Some(format!("{error:#}")),
    }
}

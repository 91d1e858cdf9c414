//! `tests/bench/firewall`: how long the engine takes to read the packet filter and give a verdict, in a network namespace with a
//! ruleset of a given size, beside the commands that a person would type.
//!
//! What is measured of ours is a process of its own (`parity bench-read`) that reads everything as an audit does (netlink dumps,
//! legacy tables, routes, the tools' text for the rule's words) and gives one verdict; the time inside the process leaves out its
//! start, as an audit has that anyway.

use crate::net::{self, OWN4};
use anyhow::{Context, Result};
use rmq_audit::parity::Engine;
use std::fmt::Write;
use std::process::Command;
use std::time::Instant;

/// Reads, judges, and says how long that took and how much memory it needed.
pub fn read() -> Result<String> {
    let start = Instant::now();
    let engine = Engine::read().map_err(anyhow::Error::msg)?;
    let read = start.elapsed();
    let foretold = engine.verdict("203.0.113.7".parse()?, OWN4[0].into(), 5672, "eth0").map_err(anyhow::Error::msg)?;
    let all = start.elapsed();
    let status = std::fs::read_to_string("/proc/self/status")?;
    let peak = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap_or("?").trim().to_owned();
    let one = foretold.outcomes.first().context("no outcome")?;
    Ok(format!(
        "{:.1} ms (read {:.1} ms, verdict {:.2} ms), peak {peak}, {} by {}",
        all.as_secs_f64() * 1000.0,
        read.as_secs_f64() * 1000.0,
        (all - read).as_secs_f64() * 1000.0,
        one.verdict,
        one.by
    ))
}

/// Every ruleset, in one network namespace after another.
pub fn run(ufw: bool) -> Result<()> {
    net::enter()?;
    let _net = net::Net::new()?;
    println!("processor: {}", processor());
    let host = include_str!("corpus/ufw-fail2ban.v4");
    let host6 = include_str!("corpus/ufw-fail2ban.v6");
    case(
        "a normal host (ufw and fail2ban, iptables-nft)",
        &[("iptables-nft-restore", host), ("ip6tables-nft-restore", host6)],
        "iptables-nft-save",
        ufw,
    )?;
    flush()?;
    let many = many(100_000);
    case("100,000 rules of iptables-nft", &[("iptables-nft-restore", &many)], "iptables-nft-save", false)?;
    flush()?;
    case("100,000 rules of iptables-legacy", &[("iptables-legacy-restore", &many)], "iptables-legacy-save", false)
}

fn flush() -> Result<()> {
    net::run("nft", &["flush", "ruleset"], "").map(|_| ())
}

/// Rules of one source and port each, as a block list has them; the deciding one is the last.
fn many(count: u32) -> String {
    let mut text = String::from("*filter\n:INPUT DROP [0:0]\n:FORWARD DROP [0:0]\n:OUTPUT ACCEPT [0:0]\n");
    for n in 0..count - 1 {
        let [_, a, b, c] = n.to_be_bytes();
        let _ = writeln!(text, "-A INPUT -s 11.{a}.{b}.{c}/32 -p tcp -m tcp --dport {} -j DROP", 1024 + n % 5000);
    }
    text += "-A INPUT -p tcp -m tcp --dport 5672 -j ACCEPT\nCOMMIT\n";
    text
}

fn case(name: &str, loads: &[(&str, &str)], save: &str, ufw: bool) -> Result<()> {
    println!("\n## {name}");
    for (program, text) in loads {
        let start = Instant::now();
        net::run(program, &[], text)?;
        println!("{program}: {:.1} s", start.elapsed().as_secs_f64());
    }
    let exe = std::env::current_exe()?;
    for _ in 0..5 {
        let output = Command::new(&exe).arg("bench-read").output()?;
        print!("rmq-audit: {}", String::from_utf8_lossy(&output.stdout));
    }
    let ours = format!("{} bench-read", exe.display());
    let mut beside = vec![ours.as_str(), save, "nft -j list ruleset", "nft list ruleset"];
    if ufw {
        beside.push("ufw status");
    }
    let runs = if loads.iter().any(|l| l.1.len() > 1 << 20) { "3" } else { "30" };
    let status = Command::new("hyperfine")
        .args(["--shell=none", "--style", "basic", "--ignore-failure", "--warmup", "1", "--runs", runs])
        .args(beside)
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .status()
        .context("hyperfine")?;
    anyhow::ensure!(status.success(), "hyperfine: {status}");
    Ok(())
}

fn processor() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find_map(|l| l.strip_prefix("model name")).unwrap_or("").trim_start_matches([' ', '\t', ':']);
    format!(
        "{name}, {} processors, load {}",
        info.matches("\nprocessor").count() + 1,
        std::fs::read_to_string("/proc/loadavg").unwrap_or_default().trim()
    )
}

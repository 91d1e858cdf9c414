//! Rulesets as managers and people write them: tests/parity/corpus, and a directory of more where there is one (`PARITY_CORPUS`).

use crate::check::{self, Score};
use crate::net::{INTERFACES, Net, OWN4, OWN6, PORTS, Probe, SOURCES4, SOURCES6};
use crate::ruleset::{Part, Ruleset};
use anyhow::{Result, bail};
use fastrand::Rng;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// Attempts for each file and kind of iptables.
const PROBES: usize = 120;
/// Files that load on a Debian host of any supported release.
const COMMITTED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/parity/corpus");

pub fn run(net: &mut Net, seed: u64) -> Result<Score> {
    let mut files = list(Path::new(COMMITTED));
    let committed = files.len();
    if let Some(more) = std::env::var_os("PARITY_CORPUS") {
        files.extend(list(Path::new(&more)));
    }
    let mut score = Score::default();
    let mut wrong = Vec::new();
    for (number, file) in files.iter().enumerate() {
        let Ok(text) = std::fs::read_to_string(file) else { continue };
        for part in parts(file, &text) {
            let ruleset = Ruleset::of_file(part, &plain(part, &text));
            let mut rng = Rng::with_seed(seed);
            let probes = probes(&mut rng, &text, part);
            match check::one(net, &ruleset, &probes) {
                Ok(Ok(more)) => score.add(&more),
                Ok(Err(mismatch)) => {
                    score.wrong += 1;
                    wrong.push(format!(
                        "{} as {part:?}\n{}",
                        file.display(),
                        check::told(net, &ruleset, &probes, &mismatch, seed)
                    ));
                }
                Err(error) if number < committed => bail!("{} as {part:?}: {error:#}", file.display()),
                Err(error) => {
                    if std::env::var_os("PARITY_SHOW_LOADS").is_some() {
                        eprintln!("{} as {part:?}: {error:#}", file.display());
                    }
                    score.not_loaded += 1;
                }
            }
        }
    }
    if !wrong.is_empty() {
        bail!("{}\n{}", score.print(), wrong.join("\n\n"));
    }
    Ok(score)
}

fn list(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            files.extend(list(&path));
        } else {
            files.push(path);
        }
    }
    files.sort();
    files
}

/// By which tools a file is loaded.
fn parts(file: &Path, text: &str) -> Vec<Part> {
    let name = file.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    if name.ends_with(".md") || name.ends_with(".tsv") || name.ends_with(".json") || name.ends_with(".xml") {
        return Vec::new();
    }
    if text.lines().any(|l| l.starts_with('*')) {
        let v6 = ["v6", "user6", "6.rules"].iter().any(|mark| name.contains(mark));
        return vec![Part::Iptables { legacy: false, v6 }, Part::Iptables { legacy: true, v6 }];
    }
    if text.lines().any(|l| l.starts_with("table ") || l.starts_with("add table")) { vec![Part::Nft] } else { Vec::new() }
}

/// A ruleset replaces everything by itself; what keeps conntrack on has to stay.
fn plain(part: Part, text: &str) -> String {
    if part != Part::Nft {
        return text.to_owned();
    }
    text.lines().filter(|l| l.trim() != "flush ruleset").map(|l| format!("{l}\n")).collect()
}

/// From the usual sources and from what the file names.
fn probes(rng: &mut Rng, text: &str, part: Part) -> Vec<Probe> {
    let named: BTreeSet<IpAddr> = text
        .split(|c: char| !(c.is_ascii_hexdigit() || c == '.' || c == ':'))
        .filter(|word| word.len() > 4)
        .filter_map(|word| word.parse().ok())
        .filter(client)
        .collect();
    let sources4 = SOURCES4.iter().filter_map(|s| s.parse::<IpAddr>().ok()).chain(named.iter().copied().filter(IpAddr::is_ipv4));
    let sources6 = SOURCES6.iter().filter_map(|s| s.parse::<IpAddr>().ok()).chain(named.iter().copied().filter(IpAddr::is_ipv6));
    let (sources4, sources6): (Vec<IpAddr>, Vec<IpAddr>) = (sources4.collect(), sources6.collect());
    let one = |rng: &mut Rng| {
        let v6 = match part {
            Part::Iptables { v6, .. } => v6,
            _ => rng.u8(..4) == 0,
        };
        let own = rng.usize(..2);
        let sources = if v6 { &sources6 } else { &sources4 };
        Probe {
            interface: rng.usize(..INTERFACES.len()),
            source: sources[rng.usize(..sources.len())],
            destination: if v6 { OWN6[own].into() } else { OWN4[own].into() },
            port: PORTS[rng.usize(..PORTS.len())],
        }
    };
    (0..PROBES).map(|_| one(rng)).collect()
}

/// Whether a client can have that address.
fn client(address: &IpAddr) -> bool {
    let own = OWN4.iter().any(|o| IpAddr::V4(*o) == *address) || OWN6.iter().any(|o| IpAddr::V6(*o) == *address);
    let usable = match address {
        IpAddr::V4(a) => {
            let [first, .., last] = a.octets();
            (1..224).contains(&first) && first != 127 && last != 0 && last != 255
        }
        // Neighbours that are not there would be looked for.
        IpAddr::V6(a) => (0x2000..0xfd00).contains(&a.segments()[0]) && a.segments()[7] != 0,
    };
    usable && !own && !address.is_unspecified()
}

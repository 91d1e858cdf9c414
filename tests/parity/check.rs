//! One ruleset: load, foretell, probe, compare; many rulesets, with their sums.

use crate::net::{Net, Probe, Seen};
use crate::ruleset::Ruleset;
use anyhow::{Result, bail};
use rmq_audit::parity::{Course, Engine, Foretold, Outcome, Place};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Sums over many rulesets.
#[derive(Debug, Default, Clone)]
pub struct Score {
    pub rulesets: usize,
    pub not_loaded: usize,
    pub verdicts: usize,
    /// Of them: more than one outcome was foretold.
    pub depends: usize,
    /// Rules whose counter was compared, and packets that they counted.
    pub rules: usize,
    pub packets: u64,
    pub wrong: usize,
    pub seen: BTreeMap<&'static str, usize>,
    pub load: Duration,
    pub read: Duration,
    pub foretell: Duration,
    pub probe: Duration,
    /// Reasons of `depends`.
    pub reasons: BTreeMap<String, usize>,
}

impl Score {
    pub fn add(&mut self, other: &Score) {
        self.rulesets += other.rulesets;
        self.verdicts += other.verdicts;
        self.depends += other.depends;
        self.rules += other.rules;
        self.packets += other.packets;
        self.load += other.load;
        self.read += other.read;
        self.foretell += other.foretell;
        self.probe += other.probe;
        for (what, count) in &other.seen {
            *self.seen.entry(what).or_default() += count;
        }
        for (what, count) in &other.reasons {
            *self.reasons.entry(what.clone()).or_default() += count;
        }
    }

    pub fn print(&self) -> String {
        let percent = 100.0 * self.depends as f64 / self.verdicts.max(1) as f64;
        let each = |d: Duration| d.as_secs_f64() * 1000.0 / self.rulesets.max(1) as f64;
        let seen: Vec<String> = self.seen.iter().map(|(what, count)| format!("{what} {count}")).collect();
        let mut text = format!(
            "{} rulesets ({} did not load), {} verdicts, {} wrong, depends {} ({percent:.2} %), {} rule counters equal ({} packets); \
             seen: {}; per ruleset: load {:.1} ms, read {:.1} ms, foretell {:.1} ms, probe {:.1} ms",
            self.rulesets,
            self.not_loaded,
            self.verdicts,
            self.wrong,
            self.depends,
            self.rules,
            self.packets,
            seen.join(", "),
            each(self.load),
            each(self.read),
            each(self.foretell),
            each(self.probe),
        );
        let mut reasons: Vec<_> = self.reasons.iter().collect();
        reasons.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        for (reason, count) in reasons.iter().take(12) {
            text += &format!("\n    depends {count}: {reason}");
        }
        text
    }
}

/// A difference between the engine and the kernel.
#[derive(Debug, Clone)]
pub struct Mismatch {
    pub probe: Option<Probe>,
    pub text: String,
}

/// Loads a ruleset and compares. `Err`: it does not load.
pub fn one(net: &mut Net, ruleset: &Ruleset, probes: &[Probe]) -> Result<Result<Score, Mismatch>> {
    let mut score = Score { rulesets: 1, ..Score::default() };
    let start = Instant::now();
    ruleset.load()?;
    score.load = start.elapsed();
    let compared = compare(net, probes, &mut score);
    net.forget()?;
    Ok(compared?.map(|()| score))
}

/// A difference is the inner error; a broken harness the outer.
fn compare(net: &mut Net, probes: &[Probe], score: &mut Score) -> Result<Result<(), Mismatch>> {
    let start = Instant::now();
    let before = match Engine::read() {
        Ok(engine) => engine,
        Err(why) => return Ok(Err(Mismatch { probe: None, text: format!("the ruleset is not read: {why}") })),
    };
    score.read = start.elapsed();
    let start = Instant::now();
    let mut foretold = Vec::with_capacity(probes.len());
    for probe in probes {
        match foretell(&before, probe) {
            Ok(one) => foretold.push(one),
            Err(text) => return Ok(Err(Mismatch { probe: Some(*probe), text: format!("{probe}: {text}") })),
        }
    }
    score.foretell = start.elapsed();
    let start = Instant::now();
    let seen = net.probe(probes)?;
    score.probe = start.elapsed();
    for ((probe, foretold), seen) in probes.iter().zip(&foretold).zip(&seen) {
        score.verdicts += 1;
        *score.seen.entry(kind(*seen)).or_default() += 1;
        let mut outcomes: Vec<&Outcome> = foretold.courses.iter().map(|c| &c.outcome).collect();
        outcomes.dedup_by_key(|o| (&o.verdict, &o.reject_with, &o.packet, &o.sees));
        if outcomes.len() != 1 || is_open(foretold) {
            score.depends += 1;
            for reason in &foretold.depends_on {
                *score.reasons.entry(reason.clone()).or_default() += 1;
            }
        }
        if !outcomes.iter().any(|o| agrees(o, *seen)) && !is_open(foretold) {
            let text = format!("{probe}\n  seen: {seen:?}\n  foretold: {}", shown(foretold));
            return Ok(Err(Mismatch { probe: Some(*probe), text }));
        }
    }
    match Engine::read() {
        Ok(after) => Ok(counted(&before, &after, probes, &foretold, &seen, score)),
        Err(why) => Ok(Err(Mismatch { probe: None, text: format!("the ruleset is not read again: {why}") })),
    }
}

struct Expected {
    courses: Vec<Course>,
    depends_on: Vec<String>,
}

/// Verdict and trace, which have to be of one opinion.
fn foretell(engine: &Engine, probe: &Probe) -> Result<Expected, String> {
    let interface = crate::net::INTERFACES[probe.interface];
    let Foretold { outcomes, depends_on } = engine.verdict(probe.source, probe.destination, probe.port, interface)?;
    let courses = engine.courses(probe.source, probe.destination, probe.port, interface)?;
    // The verdict tells also whether an IPv6 client finds the way to this host; neighbours are given here.
    let sees = |o: &Outcome| if probe.source.is_ipv6() { String::new() } else { o.sees.clone() };
    let same = |a: &Outcome, b: &Outcome| (&a.verdict, &a.reject_with, sees(a)) == (&b.verdict, &b.reject_with, sees(b));
    let neighbour = outcomes.iter().any(|o| o.packet == "neighbour");
    if let ([one], [course]) = (outcomes.as_slice(), courses.as_slice())
        && !neighbour
        && !same(one, &course.outcome)
    {
        return Err(format!("the verdict is {one:?}, and the trace {:?}", course.outcome));
    }
    Ok(Expected { courses, depends_on })
}

/// Compares what every rule has counted with what was foretold: between the least and the most of the possible courses.
fn counted(
    before: &Engine,
    after: &Engine,
    probes: &[Probe],
    foretold: &[Expected],
    seen: &[Seen],
    score: &mut Score,
) -> Result<(), Mismatch> {
    let mut expected: BTreeMap<Place, (u64, u64)> = BTreeMap::new();
    for (one, seen) in foretold.iter().zip(seen) {
        let possible: Vec<&Course> = one.courses.iter().filter(|c| is_open(one) || agrees(&c.outcome, *seen)).collect();
        let mut counts: BTreeMap<Place, Vec<u64>> = BTreeMap::new();
        for (number, course) in possible.iter().enumerate() {
            for (_, place) in &course.counted {
                counts.entry(*place).or_insert_with(|| vec![0; possible.len()])[number] += 1;
            }
        }
        for (place, counts) in counts {
            let sum = expected.entry(place).or_default();
            sum.0 += if is_open(one) { 0 } else { counts.iter().min().copied().unwrap_or(0) };
            sum.1 += counts.iter().max().copied().unwrap_or(0);
        }
    }
    // What is open may have gone anywhere.
    if foretold.iter().any(is_open) {
        return Ok(());
    }
    let mut old = before.counters();
    old.retain(|_, count| *count > 0);
    for (place, now) in after.counters().into_iter().chain(legacy_counters(after)) {
        let moved = now.saturating_sub(old.get(&place).copied().unwrap_or(0));
        let (least, most) = expected.get(&place).copied().unwrap_or_default();
        if !(least..=most).contains(&moved) {
            let expected = if least == most { format!("{least}") } else { format!("{least} to {most}") };
            let text = format!(
                "{}\n  counted {moved} packets, foretold {expected}\n{}",
                before.text(place),
                counters_of(place, probes, foretold, seen)
            );
            return Err(Mismatch { probe: None, text });
        }
        score.rules += 1;
        score.packets += moved;
    }
    Ok(())
}

/// Packets that rules of iptables-legacy have counted: that its tool's text tells, and ours leaves out.
fn legacy_counters(engine: &Engine) -> BTreeMap<Place, u64> {
    let mut found = BTreeMap::new();
    for (family, v6) in [("ip", false), ("ip6", true)] {
        let names = if v6 { "/proc/net/ip6_tables_names" } else { "/proc/net/ip_tables_names" };
        if std::fs::read_to_string(names).map_or(true, |text| text.is_empty()) {
            continue;
        }
        let program = if v6 { "ip6tables-legacy-save" } else { "iptables-legacy-save" };
        let saved = crate::net::run(program, &["-c"], "").unwrap_or_default();
        let mut table = "";
        let mut rules: BTreeMap<&str, usize> = BTreeMap::new();
        for line in saved.lines() {
            if let Some(name) = line.strip_prefix('*') {
                (table, rules) = (name, BTreeMap::new());
            }
            let Some((packets, rest)) = line.strip_prefix('[').and_then(|l| l.split_once(':')) else { continue };
            let Some(chain) = rest.split_once("] -A ").and_then(|(_, r)| r.split(' ').next()) else { continue };
            let rule = rules.entry(chain).or_default();
            if let Some(place) = engine.legacy(family, table, chain, *rule) {
                found.insert(place, packets.parse().unwrap_or(0));
            }
            *rule += 1;
        }
    }
    found
}

/// The probes that should have moved a counter; of few probes all.
fn counters_of(place: Place, probes: &[Probe], foretold: &[Expected], seen: &[Seen]) -> String {
    let mut text = String::new();
    for ((probe, one), seen) in probes.iter().zip(foretold).zip(seen).take(400) {
        let stages: Vec<&str> =
            one.courses.iter().flat_map(|c| &c.counted).filter(|c| c.1 == place).map(|(stage, _)| *stage).collect();
        if (!stages.is_empty() || probes.len() <= 3) && text.lines().count() < 12 {
            text += &format!("    {probe}: {} — seen {seen:?}, foretold {}\n", stages.join(" "), shown(one));
        }
    }
    text
}

/// Everything is possible: something unknown is on the way.
fn is_open(foretold: &Expected) -> bool {
    foretold.courses.is_empty() || foretold.courses.iter().any(|c| c.outcome.verdict == "undecided")
}

fn shown(foretold: &Expected) -> String {
    let one = |o: &Outcome| {
        let with = o.reject_with.as_deref().map(|w| format!(" with {w}")).unwrap_or_default();
        format!("{}{with}, decided about the {}, the client sees {}, by {}", o.verdict, o.packet, o.sees, o.by)
    };
    let all: Vec<String> = foretold.courses.iter().map(|c| one(&c.outcome)).collect();
    format!("{} {}", all.join(" | or "), foretold.depends_on.join("; "))
}

fn kind(seen: Seen) -> &'static str {
    match seen {
        Seen::Connected => "connected",
        Seen::Nothing => "nothing",
        Seen::Reset => "reset",
        Seen::Icmp(..) => "icmp",
        Seen::Hangs => "hangs",
        Seen::HangsReset => "reset later",
        Seen::HangsIcmp(..) => "icmp later",
    }
}

/// Whether an outcome is what was seen. An answer that does not leave the host is none.
fn agrees(outcome: &Outcome, seen: Seen) -> bool {
    let with = outcome.reject_with.as_deref().unwrap_or("");
    let answered = outcome.sees != "timeout" && outcome.sees != "hangs";
    match (outcome.verdict.as_str(), outcome.packet.as_str()) {
        ("accept", _) => seen == Seen::Connected,
        ("drop", "established") => seen == Seen::Hangs,
        ("drop", _) => seen == Seen::Nothing,
        ("reject", "reply") => seen == Seen::Nothing,
        ("reject", "established") => match seen {
            Seen::HangsReset => with.ends_with("tcp-reset"),
            // An ICMP error does not end an established connection: the engine says that it hangs, answered or not.
            Seen::HangsIcmp(kind, code) => icmp(with, kind) == Some(code),
            Seen::Hangs => !answered || outcome.sees == "hangs",
            _ => false,
        },
        ("reject", _) if !answered => seen == Seen::Nothing,
        ("reject", _) => match seen {
            Seen::Reset => with.ends_with("tcp-reset"),
            Seen::Icmp(kind, code) => icmp(with, kind) == Some(code),
            _ => false,
        },
        _ => false,
    }
}

/// The code of a reject's name, for ICMP type 3 or ICMPv6 type 1.
fn icmp(name: &str, kind: u8) -> Option<u8> {
    let what = ["icmpv6-", "icmp6-", "icmpx-", "icmp-"].iter().find_map(|prefix| name.strip_prefix(prefix)).unwrap_or(name);
    let v4 = ["net-unreachable", "host-unreachable", "prot-unreachable", "port-unreachable"];
    let v6 = ["no-route", "admin-prohibited", "", "addr-unreachable", "port-unreachable", "policy-fail", "reject-route"];
    let position = |list: &[&str], what: &str| list.iter().position(|w| *w == what).and_then(|p| u8::try_from(p).ok());
    match (kind, what) {
        (3, "net-prohibited") => Some(9),
        (3, "host-prohibited") => Some(10),
        (3, "admin-prohibited") => Some(13),
        (3, "proto-unreachable") => Some(2),
        // icmpx: one name for both families (nft_reject_icmp_code)
        (3, "no-route") if name.starts_with("icmpx") => Some(0),
        (1, "host-unreachable") if name.starts_with("icmpx") => Some(3),
        (3, what) => position(&v4, what),
        (1, "adm-prohibited") => Some(1),
        (1, what) => position(&v6, what),
        _ => None,
    }
}

/// Runs rulesets until so many verdicts were compared; the first mismatch, made small, is the error.
pub fn many(
    net: &mut Net,
    wanted: usize,
    seed: u64,
    most_depends: Option<f64>,
    mut make: impl FnMut(&mut fastrand::Rng) -> (Ruleset, Vec<Probe>),
) -> Result<Score> {
    let mut score = Score::default();
    let mut wrong = Vec::new();
    let keep_going = std::env::var_os("PARITY_KEEP_GOING").is_some();
    let most = if keep_going { 15 } else { 1 };
    let mut first_failure = String::new();
    for number in 0.. {
        if score.verdicts >= wanted || wrong.len() >= most {
            break;
        }
        let mut rng = fastrand::Rng::with_seed(seed.wrapping_add(number));
        let (ruleset, probes) = make(&mut rng);
        match one(net, &ruleset, &probes) {
            Err(error) if error.to_string().contains("-f -:") || error.to_string().contains("restore") => {
                score.not_loaded += 1;
                if first_failure.is_empty() {
                    first_failure = format!("{error:#}\n{}", ruleset.print());
                }
                if std::env::var_os("PARITY_SHOW_LOADS").is_some() {
                    eprintln!("{error:#}");
                }
            }
            Err(error) => return Err(error.context(format!("seed {}\n{}", seed.wrapping_add(number), ruleset.print()))),
            Ok(Ok(more)) => score.add(&more),
            Ok(Err(mismatch)) => {
                score.wrong += 1;
                wrong.push(told(net, &ruleset, &probes, &mismatch, seed.wrapping_add(number)));
            }
        }
    }
    if !wrong.is_empty() {
        bail!("{}\n{}", score.print(), wrong.join("\n\n"));
    }
    if score.not_loaded > 3 + score.rulesets / 10 {
        bail!("{}: too many rulesets do not load, such as: {first_failure}", score.print());
    }
    if let Some(most) = most_depends
        && score.depends as f64 > most * score.verdicts as f64
    {
        bail!("{}: more than {} % depend on something", score.print(), most * 100.0);
    }
    Ok(score)
}

/// The smallest ruleset that still shows a mismatch.
pub fn told(net: &mut Net, ruleset: &Ruleset, probes: &[Probe], mismatch: &Mismatch, seed: u64) -> String {
    let mut probes = mismatch.probe.map_or(probes.to_vec(), |p| vec![p]);
    let mut last = mismatch.clone();
    if mismatch.probe.is_none() {
        // One packet that shows it is easier to think about than all.
        for probe in &probes {
            if let Ok(Err(again)) = one(net, ruleset, &[*probe]) {
                (last, probes) = (again, vec![*probe]);
                break;
            }
        }
    }
    let small = ruleset.shrunk(|tried| match one(net, tried, &probes) {
        Ok(Err(again)) => {
            last = again;
            true
        }
        _ => false,
    });
    format!("PARITY_SEED={seed}\n{}{}", small.print(), last.text)
}

//! The reading of Erlang terms against Erlang: `file:consult`, and the release's own readers of advanced.config and
//! enabled_plugins, in the suite's tree (`terms_parity/judge.erl`).
//!
//! What the product says it read must be what Erlang reads, and what it refuses Erlang must refuse. What it leaves open is
//! counted. `RMQ_AUDIT_PARITY_COUNT=N` makes it N random files per suite.

mod cases;

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rmq_audit::parity::{self, Terms};

use crate::{chroot, env_parity, tree};

/// Random files per suite: enough to catch what breaks, in seconds.
const SAMPLE: usize = 1000;
const SEED: u64 = 1;

pub fn terms_parity(suite: &'static str) -> Result<()> {
    let all = cases::all(env_parity::count(SAMPLE), SEED)?;
    let (real, otp) = judge(suite, &all)?;
    let mut tallies: BTreeMap<&str, Tally> = BTreeMap::new();
    for (name, content) in &all {
        let readings = real.get(name).with_context(|| format!("{name} was not judged"))?;
        for (kind, truth) in readings.iter().filter(|(kind, _)| **kind != "place") {
            let ours = if *kind == "overlay" {
                parity::overlay(content, readings.contains_key("expression"), otp)
            } else {
                parity::terms(content, kind, otp)
            };
            let tally = tallies.entry(kind).or_default();
            tally.compare(name, content, &ours, truth);
            if *kind == "expression" {
                tally.place(name, content, &ours, &readings["place"]);
            }
        }
    }
    for (kind, tally) in &tallies {
        println!("{suite} OTP {otp} {kind}: {}", tally.summary());
        if std::env::var_os("RMQ_AUDIT_PARITY_PLACES").is_some() {
            tally.elsewhere.iter().for_each(|line| println!("{line}"));
        }
    }
    let wrong: Vec<String> = tallies.iter().flat_map(|(kind, t)| t.wrong.iter().map(move |w| format!("{kind} {w}"))).collect();
    ensure!(wrong.is_empty(), "{suite}: {} disagreements\n{}", wrong.len(), wrong[..wrong.len().min(2000)].join("\n"));
    Ok(())
}

const KINDS: [&str; 5] = ["consult", "expression", "sequence", "overlay", "place"];

type Readings = BTreeMap<&'static str, String>;

fn judge(suite: &'static str, all: &[(String, Vec<u8>)]) -> Result<(BTreeMap<String, Readings>, u32)> {
    let folder = tree::cache().join("run").join(format!("terms-{suite}-{}", std::process::id()));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(folder.join("cases"))?;
    fs::write(folder.join("judge.erl"), include_str!("terms_parity/judge.erl"))?;
    for (name, content) in all {
        fs::write(folder.join("cases").join(name), content)?;
    }
    let script =
        "set -e; erlc -o /tmp /mnt/judge.erl; export ERL_LIBS=$(echo /usr/lib/rabbitmq/lib/*/plugins) HOME=/tmp LANG=C.UTF-8
        exec setpriv --reuid rabbitmq --regid rabbitmq --init-groups erl -noinput -boot start_clean -pa /tmp -eval \
        'judge:main([\"/mnt/cases\"])'";
    let output = chroot::run(suite, &folder, script, Duration::from_secs(60 + all.len() as u64 / 20));
    let _ = fs::remove_dir_all(&folder);
    readings(&output?)
}

fn readings(text: &str) -> Result<(BTreeMap<String, Readings>, u32)> {
    let mut all: BTreeMap<String, Readings> = BTreeMap::new();
    let (mut last, mut otp) = (String::new(), 0);
    for line in text.lines() {
        let (kind, rest) = line.split_once(' ').unwrap_or((line, ""));
        match kind {
            "case" => last = rest.to_owned(),
            "otp" => otp = rest.parse()?,
            _ => {
                let Some(kind) = KINDS.iter().find(|k| **k == kind) else { bail!("the judge said: {line}") };
                all.entry(last.clone()).or_default().insert(kind, rest.to_owned());
            }
        }
    }
    Ok((all, otp))
}

#[derive(Default)]
struct Tally {
    cases: usize,
    read: usize,
    open: usize,
    /// Errors of which both sides say the line, and where it is the same.
    lines: usize,
    same_line: usize,
    /// The same with the column, of expressions.
    places: usize,
    same_place: usize,
    elsewhere: Vec<String>,
    wrong: Vec<String>,
}

impl Tally {
    fn compare(&mut self, name: &str, content: &[u8], ours: &Terms, truth: &str) {
        let (state, rest) = truth.split_once(' ').unwrap_or((truth, ""));
        let really = state == "ok";
        self.cases += 1;
        self.read += usize::from(really);
        let wrong = match ours {
            Terms::Open(_) => {
                self.open += 1;
                false
            }
            Terms::Read(text) => !really || !text.contains('?') && !rest.contains('?') && text != rest,
            Terms::Refused { line, .. } => {
                let known = rest.parse().is_ok_and(|l: u32| l > 0);
                self.lines += usize::from(known);
                self.same_line += usize::from(known && rest == line.to_string());
                really
            }
        };
        if wrong {
            let content = String::from_utf8_lossy(&content[..content.len().min(300)]).into_owned();
            self.wrong.push(format!("{name}: ours {ours:?}, really {truth}\n  {content:?}"));
        }
    }

    fn place(&mut self, name: &str, content: &[u8], ours: &Terms, truth: &str) {
        let Terms::Refused { line, column } = ours else { return };
        if truth == "none" || content.windows(6).any(|w| w == b"coding") {
            return;
        }
        self.places += 1;
        if format!("{line}:{column}") == truth {
            self.same_place += 1;
        } else {
            self.elsewhere.push(format!("{name}: ours {line}:{column}, really {truth} {:?}", String::from_utf8_lossy(content)));
        }
    }

    fn summary(&self) -> String {
        let share = 100.0 * self.open as f64 / self.cases.max(1) as f64;
        format!(
            "{} files, {} read; {} ({share:.1} %) left open; line of the error the same in {} of {}, place in {} of {}; {} wrong",
            self.cases,
            self.read,
            self.open,
            self.same_line,
            self.lines,
            self.same_place,
            self.places,
            self.wrong.len()
        )
    }
}

//! What the product says of a directory, and whether the broker's parser says the same.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Deserialize;

use super::oracle::{Answer, Blame};
use crate::exec;

/// The product's verdict.
#[derive(Debug, Clone, Deserialize)]
pub struct Ours {
    pub boots: Option<bool>,
    /// Why `boots` is not known.
    pub unknown: Vec<String>,
    pub problems: Vec<Problem>,
    pub settings: Vec<Setting>,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Setting {
    /// As spelt in the file.
    pub key: String,
    pub value: String,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Problem {
    pub code: String,
    pub fatal: bool,
    pub key: Option<String>,
    pub message: String,
    pub file: String,
    pub line: Option<u32>,
}

/// Asks the product about a directory of the tree `root`, which becomes its /etc/rabbitmq.
pub fn ours(binary: &Path, root: &Path, dir: &str) -> Result<Ours> {
    let etc = root.join("etc/rabbitmq");
    let _ = fs::remove_file(&etc);
    symlink(dir, &etc)?;
    let output = exec::run(&mut command(binary, root), b"", Duration::from_secs(60))?;
    serde_json::from_str(&output.stdout).with_context(|| format!("{output:?}"))
}

/// The product, to be asked about what is in /etc/rabbitmq of the tree.
pub fn command(binary: &Path, root: &Path) -> Command {
    let mut command = Command::new(binary);
    command.arg("lint").arg("--root").arg(root).args(["--format", "json"]);
    command
}

/// Problems that come after the parser: listeners that cannot be opened, plugins, definitions. The oracle does not get that far. Everything
/// else that is fatal must be blamed by the parser too.
fn beyond_parser(problem: &Problem) -> bool {
    const LATER: [&str; 5] = ["overlap", "address-not-local", "privileged-port", "plugins-syntax", "definitions-not-json"];
    LATER.contains(&problem.code.as_str())
        // A port above 65535 is an integer to the parser.
        || (problem.code == "bad-value" && problem.message.contains("is not a port (1 to 65535)"))
}

/// Stands in a difference where our verdict is open.
pub const UNDECIDED: &str = "we do not know";

/// How the two verdicts differ; `None`: not at all.
pub fn difference(ours: &Ours, oracle: &Answer) -> Option<String> {
    let fatal: Vec<&Problem> = ours.problems.iter().filter(|p| p.fatal && !beyond_parser(p)).collect();
    let foreseen = ours.problems.iter().any(|p| p.fatal && beyond_parser(p));
    // Not knowing whether a listener can be opened is beyond the parser as well.
    let knows = |why: &String| why.starts_with("port ") && why.contains(": needs the capability");
    let boots = ours.boots.or_else(|| ours.unknown.iter().all(knows).then_some(true));
    match (&oracle.phase, boots) {
        (None, Some(true)) => settings(ours, oracle),
        (None, _) if !fatal.is_empty() => Some(format!("boots; we say it does not: {}", listed(&fatal))),
        (None, Some(false)) if foreseen => settings(ours, oracle),
        (None, Some(false)) => Some("boots; we say it does not, without a fatal problem".into()),
        (None, None) => Some(format!("boots; {UNDECIDED}: {}", ours.unknown.join("; "))),
        (Some(phase), _) if fatal.is_empty() => {
            let what =
                if boots.is_none() { format!("{UNDECIDED}: {}", ours.unknown.join("; ")) } else { "we find nothing".into() };
            Some(format!("stops in {phase} ({}); {what}", blames(&oracle.errors)))
        }
        (Some(phase), _) => match phase.as_str() {
            "parse" if oracle.errors.iter().any(|blame| blame.text.contains("unable_to_open")) => values(ours, &fatal, oracle),
            "parse" => places(&fatal, oracle),
            "advanced" => kinds(&fatal, &["advanced-syntax", "unreadable"], oracle),
            // The parser itself broke down.
            "crash" | "endless" => None,
            "decrypt" => kinds(&fatal, &["encrypted-colon"], oracle),
            phase => keys(phase, &fatal, oracle),
        },
    }
}

/// The parser names the line in which it stops; it must be among ours, and ours must name no line before it that cannot be parsed.
fn places(fatal: &[&Problem], oracle: &Answer) -> Option<String> {
    let fatal: Vec<&&Problem> = fatal.iter().filter(|p| PARSE.contains(&p.code.as_str())).collect();
    if fatal.is_empty() {
        return Some(format!("cannot be parsed ({}); we name nothing in the files", blames(&oracle.errors)));
    }
    let tail = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
    for blame in &oracle.errors {
        let Some(file) = &blame.file else { continue };
        let there: Vec<&&&Problem> = fatal.iter().filter(|p| tail(&p.file) == tail(file)).collect();
        let early = there.iter().find(|p| p.code == "syntax" && p.line < blame.line && blame.line.is_some());
        if there.iter().all(|p| p.line != blame.line) || early.is_some() {
            let ours = there.iter().map(|p| format!("{:?}: {}", p.line, p.message)).collect::<Vec<_>>().join("; ");
            return Some(format!("cannot be parsed in {file} line {:?}; we name {ours}", blame.line));
        }
    }
    None
}

/// A file that a value names cannot be read. The parser says which, but not for which key: ours must be one with such a value.
fn values(ours: &Ours, fatal: &[&Problem], oracle: &Answer) -> Option<String> {
    let from_file = |key: &String| {
        let mut settings = ours.settings.iter().filter(|s| s.key.replace("\\.", ".") == *key);
        settings.any(|s| s.value.starts_with("$(<") || s.value.contains(STRUCK_OUT))
    };
    let found = fatal.iter().any(|p| p.code == "missing-file" || p.key.as_ref().is_some_and(from_file));
    (!found).then(|| format!("cannot be parsed ({}); we blame {}", blames(&oracle.errors), listed(fatal)))
}

/// What the product shows in place of a secret.
const STRUCK_OUT: &str = "redacted";

/// What is wrong with a file as such.
const PARSE: [&str; 4] = ["syntax", "encoding", "unreadable", "missing-file"];

fn kinds(fatal: &[&Problem], codes: &[&str], oracle: &Answer) -> Option<String> {
    let found = fatal.iter().any(|p| codes.contains(&p.code.as_str()));
    (!found).then(|| format!("stops with {}; we name {}", blames(&oracle.errors), listed(fatal)))
}

/// Every key that the broker blames first must be among ours, and every key of ours must be blamed by it, now or once the first
/// ones are mended. What a failed translation blames is one of the settings that go into it.
fn keys(phase: &str, fatal: &[&Problem], oracle: &Answer) -> Option<String> {
    let ours: BTreeSet<&str> = fatal.iter().filter_map(|p| p.key.as_deref()).collect();
    for blame in oracle.errors.iter().filter(|blame| !blame.keys.is_empty()) {
        let named = |key: &String| ours.contains(key.as_str());
        // A circle of substitutions is named by any of its settings, a translation by any of those that it reads.
        let found = if blame.path.is_some() || blame.tag == "circular_rhs" {
            blame.keys.iter().any(named)
        } else {
            blame.keys.iter().all(named)
        };
        if !found {
            return Some(format!("stops in {phase} ({}: {}); we blame {}", blame.keys.join(", "), blame.text, listed(fatal)));
        }
    }
    let theirs: BTreeSet<&str> = oracle.errors.iter().chain(&oracle.later).flat_map(|b| &b.keys).map(String::as_str).collect();
    let more: Vec<&&Problem> = fatal.iter().filter(|p| !p.key.as_deref().is_some_and(|key| theirs.contains(key))).collect();
    // Encrypted values and advanced.config are looked at after everything else: the parser did not get there.
    let after = |p: &&&Problem| p.code == "encrypted-colon" || p.file.ends_with(".config");
    let more: Vec<&Problem> = more.into_iter().filter(|p| !oracle.stuck && !after(p)).copied().collect();
    (!more.is_empty()).then(|| format!("we also blame {}; it stops in {phase} ({})", listed(&more), blames(&oracle.errors)))
}

/// The effective settings, where both read them. Secrets are not compared, nor values that are read from other files.
fn settings(ours: &Ours, oracle: &Answer) -> Option<String> {
    let theirs = oracle.settings.as_ref()?;
    let plain = |key: &str| key.replace("\\.", ".");
    let mine: BTreeMap<String, &String> = ours.settings.iter().map(|s| (plain(&s.key), &s.value)).collect();
    for (key, value) in theirs {
        match mine.get(key) {
            None => return Some(format!("it reads {key}, we do not")),
            Some(own) if *own != value && !own.contains(STRUCK_OUT) && !own.starts_with("$(<") => {
                return Some(format!("{key} is {value:?} to it, {own:?} to us"));
            }
            _ => {}
        }
    }
    mine.keys().find(|key| !theirs.contains_key(*key)).map(|key| format!("we read {key}, it does not"))
}

fn listed(problems: &[&Problem]) -> String {
    let one = |p: &&Problem| format!("{} {}: {}", p.code, p.key.as_deref().unwrap_or("-"), p.message);
    problems.iter().map(one).collect::<Vec<_>>().join("; ")
}

fn blames(blames: &[Blame]) -> String {
    let texts: Vec<&str> = blames.iter().map(|blame| blame.text.as_str()).collect();
    let text = texts.join(" / ");
    if text.chars().count() > 300 { format!("{}…", text.chars().take(300).collect::<String>()) } else { text }
}

/// A coarse name for a difference, to count like with like and to keep a shrunk case from drifting into another one.
pub fn kind(ours: &Ours, oracle: &Answer) -> String {
    let difference = difference(ours, oracle).unwrap_or_default();
    let words: Vec<&str> = difference.split(' ').take(3).collect();
    let tags: BTreeSet<&str> = oracle.errors.iter().map(|blame| blame.tag.as_str()).collect();
    let codes: BTreeSet<&str> = ours.problems.iter().filter(|p| p.fatal).map(|p| p.code.as_str()).collect();
    format!("{} {:?} {tags:?} {codes:?}", words.join(" "), oracle.phase)
}

/// Where a case lies in the tree.
pub fn place(number: usize) -> (String, PathBuf) {
    (format!("/lab/cases/{number}"), PathBuf::from(format!("lab/cases/{number}")))
}

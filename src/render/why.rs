//! `why ADDRESS`: the way of one client, stage by stage, with what is behind each line.

use super::term::{Term, Tone, clean, wrap};
use super::text::{stage_name, symptom};
use crate::facts::Fact;
use crate::facts::clients::Client;
use crate::facts::firewall::Verdict;
use crate::path::{Basis, Path, PathState, StageState};
use serde::Serialize;

/// `rmq-audit/why/1` (CONTRACT section 5).
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Why {
    pub schema: String,
    pub path: Path,
    /// null: the verdict could not be computed (the path's firewall stage says why)
    pub firewall: Option<Verdict>,
}

impl Why {
    pub fn new(path: Path, client: &Client) -> Self {
        let firewall = match &client.firewall {
            Fact::Known(verdict) => Some(verdict.clone()),
            Fact::Unknown(_) => None,
        };
        Why { schema: "rmq-audit/why/1".into(), path, firewall }
    }
}

/// The screen of `why`.
pub fn render(why: &Why, host: &str, term: &Term, verbose: bool) -> String {
    let path = &why.path;
    let to = path.to.as_deref().unwrap_or("address unknown");
    let mut out = format!("{}\n\n", term.paint(Tone::Strong, &format!("{} -> {} {}", clean(&path.from), clean(host), clean(to))));
    for line in stage_lines(path, term, verbose) {
        out.push_str(&line);
        out.push('\n');
    }
    out.push_str(&firewall(why, term));
    out.push('\n');
    out.push_str(&ending(path, term));
    out
}

/// The rule that decides where no stage line names it, and an accept rule that has no effect.
fn firewall(why: &Why, term: &Term) -> String {
    let Some(verdict) = &why.firewall else { return String::new() };
    let mut out = String::new();
    if let (Some(rule), "accept") = (&verdict.decided_by, verdict.verdict.as_str()) {
        let text = format!("Let through by {} {}: {}", rule.table, rule.chain, rule.rule);
        indented(&mut out, 2, &format!("{} {}", term.dot(), clean(&text)), term);
    }
    if let Some(shadowed) = &verdict.shadowed_accept {
        let text = format!("An accept rule stands behind the deciding one and has no effect: {}", shadowed.rule);
        indented(&mut out, 2, &format!("! {}", clean(&text)), term);
    }
    if out.is_empty() { out } else { format!("\n{out}") }
}

/// What the client meets, and the next command.
fn ending(path: &Path, term: &Term) -> String {
    let from = clean(&path.from);
    let (tone, mark, sentence) = match path.state {
        PathState::Ok => (Tone::Good, term.ok(), format!("This host lets {from} in.")),
        PathState::Blocked => (Tone::Bad, term.fail(), format!("{from} would {} now.", symptom(&path.sees))),
        PathState::Unknown => {
            (Tone::Warn, "?", format!("Nothing on this host was seen to stop {from}, but not everything could be determined."))
        }
    };
    let mut out = String::new();
    for (i, line) in wrap(&sentence, term.width - 3).into_iter().enumerate() {
        let lead = if i == 0 { term.paint(tone, mark) } else { " ".to_owned() };
        out.push_str(&format!("{lead} {line}\n"));
    }
    match path.state {
        PathState::Blocked => {
            let command = format!("sudo rmq-audit --fix --from {from}");
            out.push_str(&format!("Fix:  {}\n", term.paint(Tone::Strong, &command)));
        }
        PathState::Ok => {
            let beyond =
                "Beyond this host: cloud security groups, NAT and the client's own name look-up cannot be seen from here.";
            indented(&mut out, 2, beyond, term);
        }
        PathState::Unknown => {}
    }
    out
}

fn indented(out: &mut String, indent: usize, text: &str, term: &Term) {
    for line in wrap(text, term.width - indent) {
        out.push_str(&format!("{:indent$}{line}\n", ""));
    }
}

/// One line per stage.
pub fn stage_lines(path: &Path, term: &Term, verbose: bool) -> Vec<String> {
    let mut lines = Vec::new();
    for stage in &path.stages {
        let (tone, mark) = match stage.state {
            StageState::Ok => (Tone::Good, term.ok()),
            StageState::Fail => (Tone::Bad, term.fail()),
            StageState::Unknown => (Tone::Warn, "?"),
            StageState::NotReached => (Tone::Dim, term.dot()),
        };
        let basis = if verbose { format!(" [{}]", basis(stage.basis)) } else { String::new() };
        let rules = if stage.rules.is_empty() { String::new() } else { format!(" ({})", stage.rules.join(", ")) };
        let text = format!("{}{rules}{basis}", clean(&stage.detail));
        for (i, part) in wrap(&text, term.width - 16).into_iter().enumerate() {
            if i == 0 {
                lines.push(format!("  {} {:<9} {part}", term.paint(tone, mark), stage_name(stage.stage)));
            } else {
                lines.push(format!("{:14}{part}", ""));
            }
        }
    }
    lines
}

fn basis(basis: Basis) -> &'static str {
    match basis {
        Basis::Proven => "proven",
        Basis::Computed => "computed",
        Basis::Observed => "observed",
    }
}

//! A plan before it is applied, and what became of it.

use super::term::{Term, Tone, clean, wrap};
use super::text::what_it_does;
use crate::fix::action::PHASES;
use crate::fix::change::{Change, Op};
use crate::fix::plan::{Left, Plan, Step};
use crate::report::FixResult;
use unicode_width::UnicodeWidthStr;

/// The whole plan: every step with its diff, the exact commands, what is left and why.
pub fn plan(plan: &Plan, term: &Term) -> String {
    let mut out = String::new();
    let total = plan.steps.len();
    for (i, step) in plan.steps.iter().enumerate() {
        out.push_str(&offer(step, i + 1, total, term));
        out.push('\n');
    }
    for deferred in &plan.deferred {
        indented(&mut out, &format!("{} then", term.dot()), &deferred.text, term);
    }
    if !plan.deferred.is_empty() {
        out.push('\n');
    }
    left(&mut out, &plan.left, term);
    if plan.is_empty() {
        out.push_str("Nothing to change.\n");
        return out;
    }
    out.push_str(&commands(plan, term));
    out.push_str(&format!("Plan: {}.\n", sum(plan)));
    out
}

/// One step as the interactive repair shows it: what it does, the diff, what follows from it.
pub fn offer(step: &Step, number: usize, total: usize, term: &Term) -> String {
    let head = format!("{number}/{total}  {}", step.rule);
    let tier = what_it_does(step.tier, &step.effects);
    let gap = term.width.saturating_sub(head.width() + tier.width()).max(2);
    let mut out = format!("{}{:gap$}{tier}\n", term.paint(Tone::Strong, &head), "");
    for line in wrap(&clean(&step.summary), term.width - 2) {
        out.push_str(&format!("  {line}\n"));
    }
    for change in &step.changes {
        out.push_str(&diff(change, term));
    }
    for command in step.changes.iter().flat_map(Change::commands) {
        out.push_str(&format!("  {} {}\n", term.paint(Tone::Added, "+"), clean(&shown(&command))));
    }
    if let Some(note) = &step.note {
        for line in wrap(&clean(note), term.width - 2) {
            out.push_str(&format!("  {}\n", term.paint(Tone::Dim, &line)));
        }
    }
    out
}

/// `1 file, 1 restart of RabbitMQ, 2 commands`
pub fn sum(plan: &Plan) -> String {
    let mut tally: Vec<(&str, usize)> = Vec::new();
    for change in PHASES.iter().flat_map(|phase| plan.phase(*phase)) {
        let kind = kind(change);
        match tally.iter_mut().find(|(known, _)| *known == kind) {
            Some((_, n)) => *n += 1,
            None => tally.push((kind, 1)),
        }
    }
    tally.into_iter().map(|(kind, n)| counted(n, kind)).collect::<Vec<_>>().join(", ")
}

fn kind(change: &Change) -> &'static str {
    match change {
        Change::File { .. } | Change::Meta { .. } => "file",
        Change::Run { doing, .. } => match doing {
            Op::Restart { .. } | Op::TakeOver { .. } => "restart of RabbitMQ",
            Op::Start { .. } => "start of RabbitMQ",
            Op::Broker { .. } => "change in the broker",
            Op::Command { .. } | Op::RemoveRule { .. } | Op::Own { .. } | Op::Settle { .. } | Op::LetGo { .. } | Op::Nothing => {
                "command"
            }
        },
    }
}

/// `1 file`, `2 files`, `2 changes in the broker`
fn counted(n: usize, kind: &str) -> String {
    let (noun, rest) = kind.split_once(' ').map_or((kind, String::new()), |(noun, rest)| (noun, format!(" {rest}")));
    format!("{n} {noun}{}{rest}", if n == 1 { "" } else { "s" })
}

fn commands(plan: &Plan, term: &Term) -> String {
    let mut out = String::new();
    let ops = PHASES.iter().flat_map(|phase| plan.phase(*phase)).filter(|c| matches!(c, Change::Run { .. }));
    for change in ops {
        if out.is_empty() {
            out.push_str("In this order, after the files are written:\n");
        }
        let commands: Vec<String> = change.commands().iter().map(|argv| shown(argv)).collect();
        let lines = if commands.is_empty() { wrap(&change.describe(), term.width - 2) } else { commands };
        for line in lines {
            out.push_str(&format!("  {}\n", term.paint(Tone::Strong, &clean(&line))));
        }
    }
    if !out.is_empty() {
        out.push('\n');
    }
    out
}

fn diff(change: &Change, term: &Term) -> String {
    let mut out = String::new();
    for line in change.diff().lines() {
        let tone = match line.as_bytes().first() {
            _ if line.starts_with("---") || line.starts_with("+++") => Tone::Dim,
            Some(b'+') => Tone::Added,
            Some(b'-') => Tone::Removed,
            Some(b'@') => Tone::Dim,
            _ => {
                out.push_str(&format!("  {}\n", clean(line)));
                continue;
            }
        };
        out.push_str(&format!("  {}\n", term.paint(tone, &clean(line))));
    }
    out
}

/// A command as it could be typed: words with blanks are quoted.
pub fn shown(argv: &[String]) -> String {
    let plain = |w: &String| !w.is_empty() && w.chars().all(|c| c.is_ascii_alphanumeric() || "-_./:=,@%+".contains(c));
    let words: Vec<String> =
        argv.iter().map(|w| if plain(w) { w.clone() } else { format!("'{}'", w.replace('\'', "'\\''")) }).collect();
    words.join(" ")
}

/// What is not repaired and why; consequences that go away by themselves are not worth a line.
pub fn left(out: &mut String, left: &[Left], term: &Term) {
    let worth = left.iter().filter(|l| !is_consequence(&l.why));
    let mut any = false;
    for entry in worth {
        any = true;
        indented(out, "left  ", &format!("{}: {}", entry.rule, entry.why), term);
    }
    if any {
        out.push('\n');
    }
}

/// Not a repair of its own: another step took care of it.
pub fn is_consequence(why: &str) -> bool {
    why.starts_with("goes away with") || why == "another step does it too" || why == "went away with its cause"
}

fn indented(out: &mut String, lead: &str, text: &str, term: &Term) {
    let indent = lead.width() + 1;
    for (i, line) in wrap(&clean(text), term.width - indent).into_iter().enumerate() {
        if i == 0 {
            out.push_str(&format!("{lead} {line}\n"));
        } else {
            out.push_str(&format!("{:indent$}{line}\n", ""));
        }
    }
}

/// One line for each finding: `fixed RULE WHAT`, the first word of a fixed set.
pub fn fixes(fixes: &[FixResult], term: &Term) -> String {
    let mut out = String::new();
    let worth = fixes.iter().filter(|f| !is_consequence(&f.why));
    for fix in worth {
        let (word, tone) = match fix.state.as_str() {
            "applied" => ("fixed", Tone::Good),
            "would-apply" => ("would", Tone::Strong),
            "rolled-back" => ("undone", Tone::Warn),
            "failed" => ("failed", Tone::Bad),
            _ => ("left", Tone::Warn),
        };
        let text = format!("{}: {}", fix.rule, fix.why);
        for (i, line) in wrap(&clean(&text), term.width - 9).into_iter().enumerate() {
            let lead = if i == 0 { term.paint(tone, word) } else { String::new() };
            let pad = 9 - if i == 0 { word.width() } else { 0 };
            out.push_str(&format!("{lead}{:pad$}{line}\n", ""));
        }
    }
    out
}

/// One run for `runs`.
#[derive(Debug, Clone, serde::Serialize)]
pub struct RunLine {
    pub id: String,
    pub started: String,
    pub state: String,
    pub what: Vec<String>,
}

/// The list of runs, oldest first.
pub fn runs(runs: &[RunLine]) -> String {
    if runs.is_empty() {
        return "No fix run on this host.\n".into();
    }
    let mut out = String::new();
    for run in runs {
        out.push_str(&format!("{}  {}\n", run.id, run.state));
        for what in &run.what {
            out.push_str(&format!("    {}\n", clean(what)));
        }
    }
    out
}

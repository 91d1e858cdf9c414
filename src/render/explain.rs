//! `explain`: the list of rules, and one rule in full.

use super::term::{Term, Tone, wrap};
use super::text::{stage_name, symptom};
use crate::rules::{Explanation, RuleSet, Severity, Tier};
use std::collections::BTreeSet;
use unicode_width::UnicodeWidthStr;

/// All rules, by area.
pub fn list(rules: &RuleSet, term: &Term) -> String {
    let width = rules.rules.keys().map(|n| n.width()).max().unwrap_or(0);
    let mut out = String::new();
    let mut areas: Vec<&str> = rules.rules.values().map(|r| r.area.as_str()).collect();
    areas.sort_unstable();
    areas.dedup();
    for area in areas {
        out.push_str(&format!("{}\n", term.paint(Tone::Strong, area)));
        for rule in rules.rules.values().filter(|r| r.area == area) {
            let lead = format!("  {:<width$}  {:<7}  ", rule.name, severity(rule.severity));
            for (i, line) in wrap(&rule.title, term.width.saturating_sub(lead.width())).into_iter().enumerate() {
                let lead = if i == 0 { lead.clone() } else { " ".repeat(lead.width()) };
                out.push_str(&format!("{lead}{line}\n"));
            }
        }
    }
    out.push_str(&format!("{} rules. One of them in full: rmq-audit explain RULE\n", rules.rules.len()));
    out
}

/// One rule: what, why, how it is checked, how it is fixed.
pub fn rule(rule: &Explanation, rules: &RuleSet, term: &Term) -> String {
    let right = severity(rule.severity);
    let gap = term.width.saturating_sub(rule.name.width() + right.width()).max(2);
    let mut out = format!("{}{:gap$}{right}\n\n", term.paint(Tone::Strong, &rule.name), "");
    for part in std::iter::once(format!("{}.", rule.title).as_str()).chain(rule.why.split("\n\n")) {
        paragraph(&mut out, part, term);
        out.push('\n');
    }
    let versions = rule.rabbitmq.as_ref().map(|v| format!(", RabbitMQ {v}")).unwrap_or_default();
    field(&mut out, "Stage", &format!("{} (area {}{versions})", stage_name(rule.stage), rule.area), term);
    if let Some(sees) = &rule.sees {
        field(&mut out, "Sees", &format!("clients {}", symptom(sees)), term);
    }
    for (label, condition) in &rule.check {
        field(&mut out, label_of(label), condition, term);
    }
    for fix in &rule.fixes {
        let when = fix.when.as_ref().map(|w| format!(" if {w}")).unwrap_or_default();
        let note = fix.note.as_ref().map(|n| format!(": {n}")).unwrap_or_default();
        field(&mut out, "Fix", &format!("{} ({}){when}{note}", fix.action, tier(fix.tier)), term);
    }
    if !rule.explains.is_empty() {
        field(&mut out, "Explains", &rule.explains.join(", "), term);
    }
    let because: Vec<&str> = rules.rules.values().filter(|r| r.explains.contains(&rule.name)).map(|r| r.name.as_str()).collect();
    if !because.is_empty() {
        field(&mut out, "Because", &because.join(", "), term);
    }
    field(&mut out, "Seen", &seen(rule), term);
    field(&mut out, "Waive", &format!("[[waiver]] rule = \"{}\" reason = \"...\" in policy.toml", rule.name), term);
    for reference in &rule.references {
        field(&mut out, "More", reference, term);
    }
    out
}

/// On which real hosts it fired; the faults' names, each once.
fn seen(rule: &Explanation) -> String {
    let faults: BTreeSet<&str> = rule.fired.iter().map(|on| on.split(' ').next().unwrap_or(on)).collect();
    let names: Vec<&str> = faults.iter().copied().take(NAMED).collect();
    let more = faults.len().saturating_sub(NAMED);
    match (rule.preview, names.is_empty(), more) {
        (true, ..) => "preview: not yet on a real host, so never an error".to_owned(),
        (false, true, _) => "a rule of this site".to_owned(),
        (false, false, 0) => format!("on real hosts with {}", names.join(", ")),
        (false, false, more) => format!("on real hosts with {} and {more} more faults", names.join(", ")),
    }
}

/// Faults that are named.
const NAMED: usize = 6;

fn label_of(condition: &str) -> &'static str {
    match condition {
        "when" => "When",
        "each" => "For each",
        _ => "Fails if",
    }
}

fn paragraph(out: &mut String, text: &str, term: &Term) {
    for line in wrap(text, term.width) {
        out.push_str(&format!("{line}\n"));
    }
}

fn field(out: &mut String, name: &str, text: &str, term: &Term) {
    for (i, line) in wrap(text, term.width - 10).into_iter().enumerate() {
        let name = if i == 0 { name } else { "" };
        out.push_str(&format!("{name:<9} {line}\n"));
    }
}

/// The tier by its name in the documentation.
fn tier(tier: Tier) -> &'static str {
    match tier {
        Tier::Safe => "safe",
        Tier::Restart => "restart",
        Tier::Ask => "ask",
        Tier::Manual => "manual",
    }
}

fn severity(severity: Severity) -> &'static str {
    match severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
        Severity::Note => "note",
    }
}

/// The rule whose name shares the most with what was typed, if that is more than half of it.
pub fn nearest(typed: &str, rules: &RuleSet) -> Option<String> {
    let score = |name: &str| similar::TextDiff::from_chars(typed, name).ratio();
    let best = rules.rules.keys().max_by(|a, b| score(a).total_cmp(&score(b)))?;
    (score(best) > 0.5).then(|| best.clone())
}

//! One audit: collect, judge, report. The same for a live host, a capture and a file tree.

use crate::facts::{self, Facts};
use crate::findings::{self, Judged};
use crate::host::Host;
use crate::path;
use crate::policy::Intent;
use crate::report::{self, Report, Run};
use crate::rules::{Input, Rule, RuleSet, Severity, Verdict, judge};
use std::collections::BTreeMap;
use std::time::Instant;

/// Which rules are judged (`--only`, `--skip`: names or areas).
#[derive(Debug, Clone, Default)]
pub struct Selection {
    pub only: Vec<String>,
    pub skip: Vec<String>,
}

/// Whether the list names the rule or its area.
fn names(list: &[String], rule: &Rule) -> bool {
    list.iter().any(|n| n == &rule.name || n == &rule.area)
}

impl Selection {
    /// Whether the rule is judged.
    pub fn takes(&self, rule: &Rule) -> bool {
        (self.only.is_empty() || names(&self.only, rule)) && !names(&self.skip, rule)
    }

    /// Whether a finding of this rule is to be repaired: a note is advice, and is acted upon only if it was named.
    pub fn repairs(&self, rule: &Rule, severity: Severity) -> bool {
        self.takes(rule) && (severity != Severity::Note || names(&self.only, rule))
    }

    /// A name that is neither a rule nor an area.
    pub fn unknown_name(&self, rules: &RuleSet) -> Option<&str> {
        let known = |n: &String| rules.rules.values().any(|rule| names(std::slice::from_ref(n), rule));
        self.only.iter().chain(&self.skip).find(|n| !known(n)).map(String::as_str)
    }
}

/// What an audit leaves behind.
pub struct Audit {
    pub facts: Facts,
    pub report: Report,
    /// Every rule that was judged.
    pub verdicts: BTreeMap<String, Verdict>,
    /// Something that matters could not be checked: exit code 3 if nothing failed.
    pub incomplete: bool,
}

/// Looks at the host and judges it.
pub fn audit(host: &dyn Host, intent: &Intent, rules: &RuleSet, selection: &Selection) -> Audit {
    let clock = Instant::now();
    // Conditions are compiled while the host is looked at.
    let mut facts = std::thread::scope(|scope| {
        scope.spawn(|| rules.warm());
        facts::collect(host)
    });
    facts.clients = facts::clients::derive(host, &facts, intent);
    facts.exposure = facts::exposure::derive(&facts, intent);
    facts.cluster = facts::cluster::derive(host, &facts, intent);
    let input = Input::new(&facts);
    let judged: Vec<Judged> = rules.rules.values().filter(|r| selection.takes(r)).map(|r| (r, judge(r, &input))).collect();
    let incomplete = !facts.os.offline && judged.iter().any(|(rule, verdict)| matters(rule, verdict));
    let run = run(&facts, clock);
    let findings = findings::find(&judged, intent, facts.os.now);
    let paths = facts.clients.iter().map(|c| path::walk(c, &facts, &findings)).collect();
    let report = report::assemble(run, &facts, &judged, findings, paths);
    let verdicts = judged.into_iter().map(|(rule, verdict)| (rule.name.clone(), verdict)).collect();
    Audit { facts, report, verdicts, incomplete }
}

fn matters(rule: &Rule, verdict: &Verdict) -> bool {
    rule.severity == Severity::Error && matches!(verdict, Verdict::Unknown(_) | Verdict::Broken(_))
}

fn run(facts: &Facts, clock: Instant) -> Run {
    let started = jiff::Timestamp::from_second(facts.os.now).unwrap_or_default();
    Run {
        id: format!("{}-{:04x}", started.strftime("%Y%m%dT%H%M%SZ"), std::process::id() & 0xffff),
        started: started.to_string(),
        ms: u64::try_from(clock.elapsed().as_millis()).unwrap_or(u64::MAX),
        root: facts.os.root,
        offline: facts.os.offline,
    }
}

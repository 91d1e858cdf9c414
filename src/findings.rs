//! Failed rules: what is wrong, where, because of what, and what would repair it.

use crate::facts::Where;
use crate::policy::{Intent, Waiver};
use crate::rules::{Evidence, FixRequest, Rule, Severity, Stage, Tier};
use crate::rules::{Hit, Verdict};
use serde::Serialize;
use std::collections::BTreeMap;

/// A rule beside its verdict.
pub type Judged<'a> = (&'a Rule, Verdict);

/// One failed rule at one place.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Finding {
    pub rule: String,
    pub severity: Severity,
    pub stage: Stage,
    pub title: String,
    pub message: String,
    /// Not the consequence of another finding.
    pub root_cause: bool,
    /// Rules whose failure explains this one.
    pub caused_by: Vec<String>,
    #[serde(rename = "where")]
    pub at: Option<Where>,
    pub evidence: Vec<Evidence>,
    /// What would repair it; `needs` names missing values.
    pub fix: Option<FixOffer>,
    pub waiver: Option<Waived>,
    pub help: Option<String>,
    /// What the planner works from; not part of the report.
    #[serde(skip)]
    pub request: Option<FixRequest>,
}

impl Finding {
    /// Counts as an error of its own: neither a consequence nor waived.
    pub fn counts(&self) -> bool {
        self.root_cause && self.waiver.is_none()
    }
}

/// A repair as the report shows it.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct FixOffer {
    pub action: String,
    pub tier: Tier,
    /// restart | interrupts-clients | opens-firewall | adds-access | …
    pub effects: Vec<String>,
    pub summary: String,
    /// Unified diff of the files it changes; empty if none.
    pub diff: String,
    /// Exact argument vectors.
    pub commands: Vec<Vec<String>>,
    /// What must be said before it can be applied, e.g. `--from CIDR`.
    pub needs: Vec<String>,
}

/// An accepted finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Waived {
    pub reason: String,
    pub until: Option<String>,
}

/// The findings of an audit: waivers applied, consequences marked, root causes first.
pub fn find(judged: &[Judged], intent: &Intent, now: i64) -> Vec<Finding> {
    let mut findings: Vec<Finding> = judged.iter().flat_map(|(rule, verdict)| findings_of(rule, verdict)).collect();
    waive(&mut findings, intent, now);
    mark_consequences(&mut findings, judged);
    findings.sort_by_key(order);
    findings
}

fn findings_of(rule: &Rule, verdict: &Verdict) -> Vec<Finding> {
    match verdict {
        Verdict::Fail(hits) => hits.iter().map(|hit| finding(rule, hit)).collect(),
        _ => Vec::new(),
    }
}

fn finding(rule: &Rule, hit: &Hit) -> Finding {
    Finding {
        rule: rule.name.clone(),
        severity: hit.severity,
        stage: rule.stage,
        title: rule.title.clone(),
        message: hit.message.clone(),
        root_cause: true,
        caused_by: Vec::new(),
        at: hit.at.clone(),
        evidence: hit.evidence.clone(),
        fix: hit.fix.as_ref().map(offer_without_plan),
        waiver: None,
        help: rule.references.first().cloned(),
        request: hit.fix.clone(),
    }
}

/// The offer as far as the rule tells; the planner adds diff, commands and needs.
fn offer_without_plan(request: &FixRequest) -> FixOffer {
    FixOffer {
        action: request.action.clone(),
        tier: request.tier,
        effects: Vec::new(),
        summary: request.note.clone().unwrap_or_default(),
        diff: String::new(),
        commands: Vec::new(),
        needs: Vec::new(),
    }
}

fn waive(findings: &mut [Finding], intent: &Intent, now: i64) {
    for finding in findings {
        if let Some(waiver) = intent.waivers.iter().find(|w| w.rule == finding.rule && in_force(w, now) && matches(w, finding)) {
            finding.waiver = Some(Waived { reason: waiver.reason.clone(), until: waiver.until.map(|d| d.to_string()) });
        }
    }
}

/// A waiver ends when its day begins (UTC, so that a fleet agrees).
fn in_force(waiver: &Waiver, now: i64) -> bool {
    let Some(until) = waiver.until else { return true };
    jiff::Timestamp::from_second(now).is_ok_and(|t| t.to_zoned(jiff::tz::TimeZone::UTC).date() < until)
}

fn matches(waiver: &Waiver, finding: &Finding) -> bool {
    let place = finding.at.as_ref().map(|w| w.file.clone()).unwrap_or_default();
    let evidence: Vec<&str> = finding.evidence.iter().map(|e| e.text.as_str()).collect();
    waiver
        .matches
        .values()
        .all(|v| finding.message.contains(v) || place.contains(v) || evidence.iter().any(|e| e.contains(v.as_str())))
}

/// A finding is a consequence when a failing rule explains it, directly or through others. Waived findings explain too: the
/// cause is known and accepted. A mere warning does not explain an error: it would take the error's place and hide it.
fn mark_consequences(findings: &mut [Finding], judged: &[Judged]) {
    let mut failing: BTreeMap<String, Severity> = BTreeMap::new();
    for finding in findings.iter() {
        let severest = failing.entry(finding.rule.clone()).or_insert(finding.severity);
        *severest = finding.severity.min(*severest);
    }
    let explained_by = |finding: &Finding| -> Vec<String> {
        let weighs = |r: &Judged| failing.get(&r.0.name).is_some_and(|severity| *severity <= finding.severity);
        let explains = |r: &&Judged| r.0.explains.contains(&finding.rule) && weighs(r) && r.0.name != finding.rule;
        judged.iter().filter(explains).map(|(r, _)| r.name.clone()).collect()
    };
    for finding in findings {
        finding.caused_by = explained_by(finding);
        finding.root_cause = finding.caused_by.is_empty();
    }
}

/// Root-cause errors in fix order, their consequences, then the rest by severity, consequences last.
fn order(f: &Finding) -> (u8, Severity, bool, Stage, String, Option<Where>) {
    let class = match (f.severity, f.counts(), f.root_cause) {
        (Severity::Error, true, _) => 0,
        (Severity::Error, _, false) => 1,
        _ => 2,
    };
    (class, f.severity, !f.root_cause, f.stage, f.rule.clone(), f.at.clone())
}

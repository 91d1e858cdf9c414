//! What an audit says: findings with root causes and consequences, unknowns grouped by cause, the connection paths.
//!
//! This is the data of `rmq-audit/report/1` (CONTRACT section 5); renderers only print it.

use crate::facts::exposure::Exposed;
use crate::facts::{Fact, Facts};
use crate::findings::{Finding, Judged};
use crate::path::{Path, PathState};
use crate::rules::Verdict;
use crate::rules::{Severity, Stage};
use serde::Serialize;
use std::collections::BTreeMap;

/// Name and version of the report's form.
pub const SCHEMA: &str = "rmq-audit/report/1";

/// One audit of one host.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Report {
    pub schema: String,
    pub tool: Tool,
    pub host: HostLine,
    pub run: Run,
    pub verdict: Summary,
    pub paths: Vec<Path>,
    pub counts: Counts,
    /// Root causes in fix order, then their consequences, then the rest by severity.
    pub findings: Vec<Finding>,
    pub unknown: Vec<Unknown>,
    /// From where the broker's ports can be reached; null: not known
    pub exposure: Option<Vec<Exposed>>,
    /// With `--fix`: something was changed; with `--dry-run`: something would be.
    pub changed: bool,
    pub fixes: Vec<FixResult>,
    /// Names of the rules that passed; for `-v`.
    #[serde(skip)]
    pub passed: Vec<String>,
    /// Rules that speak about a running node while there is none; part of `not_applicable`.
    #[serde(skip)]
    pub waiting: u32,
}

/// The program that wrote the report.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Tool {
    pub name: String,
    pub version: String,
}

/// The host in one line; null: not known, or not there.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct HostLine {
    pub name: Option<String>,
    pub node: Option<String>,
    pub rabbitmq: Option<String>,
    pub erlang: Option<String>,
    pub os: Option<String>,
}

/// When and how the audit was made.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Run {
    pub id: String,
    /// RFC 3339
    pub started: String,
    /// Milliseconds.
    pub ms: u64,
    pub root: bool,
    pub offline: bool,
}

/// The answer in one word.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Summary {
    pub state: VerdictState,
    /// The rule to look at first.
    pub cause: Option<String>,
}

/// Can clients connect, and is the host safe?
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum VerdictState {
    Ok,
    Blocked,
    AtRisk,
    Unknown,
}

/// Root causes by severity, and rules by verdict. Consequences and waived findings are not counted as errors.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Counts {
    pub error: u32,
    pub warning: u32,
    pub note: u32,
    pub pass: u32,
    pub unknown: u32,
    pub not_applicable: u32,
    pub waived: u32,
}

/// Something that could not be determined, with the rules that wait for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Unknown {
    pub why: String,
    pub rules: Vec<String>,
}

/// What a fix run did about one rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct FixResult {
    pub rule: String,
    /// applied | would-apply | left | failed | rolled-back
    pub state: String,
    pub why: String,
}

/// Puts the report together.
pub fn assemble(run: Run, facts: &Facts, judged: &[Judged], findings: Vec<Finding>, paths: Vec<Path>) -> Report {
    Report {
        schema: SCHEMA.into(),
        tool: Tool { name: "rmq-audit".into(), version: env!("CARGO_PKG_VERSION").into() },
        host: host_line(facts),
        run,
        verdict: summary(&paths, &findings),
        counts: count(&findings, judged),
        unknown: unknowns(judged),
        passed: judged.iter().filter(|(_, v)| matches!(v, Verdict::Pass)).map(|(r, _)| r.name.clone()).collect(),
        waiting: waiting(facts, judged),
        exposure: facts.exposure.known().cloned(),
        paths,
        findings,
        changed: false,
        fixes: Vec::new(),
    }
}

fn waiting(facts: &Facts, judged: &[Judged]) -> u32 {
    let down = matches!((&facts.node, &facts.install), (Fact::Known(None), Fact::Known(Some(_)))) && !facts.os.offline;
    let about_the_node = |verdict: &Verdict| matches!(verdict, Verdict::NotApplicable(why) if why.contains("node"));
    if down { judged.iter().filter(|(_, verdict)| about_the_node(verdict)).count() as u32 } else { 0 }
}

fn count(findings: &[Finding], judged: &[Judged]) -> Counts {
    let of = |severity| findings.iter().filter(|f| f.severity == severity && f.counts()).count() as u32;
    let verdicts = |wanted: fn(&Verdict) -> bool| judged.iter().filter(|(_, v)| wanted(v)).count() as u32;
    Counts {
        error: of(Severity::Error),
        warning: of(Severity::Warning),
        note: of(Severity::Note),
        pass: verdicts(|v| matches!(v, Verdict::Pass)),
        unknown: verdicts(|v| matches!(v, Verdict::Unknown(_) | Verdict::Broken(_))),
        not_applicable: verdicts(|v| matches!(v, Verdict::NotApplicable(_))),
        waived: findings.iter().filter(|f| f.waiver.is_some()).count() as u32,
    }
}

fn unknowns(judged: &[Judged]) -> Vec<Unknown> {
    let mut by_cause: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (rule, verdict) in judged {
        let reasons = match verdict {
            Verdict::Unknown(reasons) => reasons.clone(),
            Verdict::Broken(why) => vec![format!("fault in the rule {} (please report it): {why}", rule.name)],
            _ => continue,
        };
        let reason = reasons.into_iter().next().unwrap_or_else(|| "no reason given".into());
        by_cause.entry(reason).or_default().push(rule.name.clone());
    }
    let mut unknown: Vec<Unknown> = by_cause.into_iter().map(|(why, rules)| Unknown { why, rules }).collect();
    unknown.sort_by_key(|u| std::cmp::Reverse(u.rules.len()));
    unknown
}

fn summary(paths: &[Path], findings: &[Finding]) -> Summary {
    let cause = findings.iter().find(|f| f.severity == Severity::Error && f.counts());
    let any = |state| paths.iter().any(|p| p.state == state);
    // What keeps the broker from starting bites at its next start, what a packet filter forgets at its next reload: clients whose way is
    // clear connect until then.
    let later = |f: &Finding| f.stage <= Stage::Firewall && !paths.is_empty() && paths.iter().all(|p| p.state == PathState::Ok);
    let state = match cause {
        _ if any(PathState::Blocked) => VerdictState::Blocked,
        Some(f) if later(f) => VerdictState::AtRisk,
        Some(f) if f.stage < Stage::Exposure => VerdictState::Blocked,
        Some(_) => VerdictState::AtRisk,
        None if any(PathState::Unknown) => VerdictState::Unknown,
        None => VerdictState::Ok,
    };
    Summary { state, cause: cause.map(|f| f.rule.clone()) }
}

fn host_line(facts: &Facts) -> HostLine {
    let install = facts.install.known().and_then(Option::as_ref);
    let node = facts.node.known().and_then(Option::as_ref);
    let os = match (&facts.os.id, &facts.os.version) {
        (Fact::Known(Some(id)), Fact::Known(Some(version))) => Some(format!("{id} {version}")),
        (Fact::Known(Some(id)), _) => Some(id.clone()),
        _ => None,
    };
    let running = node.and_then(|n| n.version.known().cloned());
    let otp = node.and_then(|n| n.otp.known().cloned());
    HostLine {
        name: facts.names.hostname.known().cloned(),
        node: facts.names.node.known().cloned(),
        rabbitmq: running.or_else(|| install.map(|i| i.version.clone())),
        erlang: otp.or_else(|| install.and_then(|i| i.erlang.known().cloned().flatten())),
        os,
    }
}

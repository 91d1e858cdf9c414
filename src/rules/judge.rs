//! One rule against the facts of one host.

use super::expr::{Expr, Scope, Stop};
use super::input::Input;
use super::template::json;
use super::{Fix, FixRequest, Rule, Severity};
use crate::facts::Where;
use crate::rules::Evidence;
use cel::Value;
use serde_json::Value as Json;
use std::collections::BTreeSet;

/// What a rule says about a host.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    Pass,
    Fail(Vec<Hit>),
    /// Facts that decide are unknown: the reasons, sorted.
    Unknown(Vec<String>),
    /// The rule does not speak about this host: why.
    NotApplicable(String),
    /// The rule itself is wrong.
    Broken(String),
}

/// One place where a rule fails.
#[derive(Debug, Clone, PartialEq)]
pub struct Hit {
    pub severity: Severity,
    pub message: String,
    pub at: Option<Where>,
    pub evidence: Vec<Evidence>,
    pub fix: Option<FixRequest>,
    /// Whom or what it is about, e.g. the name of a client.
    pub subject: Option<String>,
}

/// Judges `rule`.
pub fn judge(rule: &Rule, input: &Input) -> Verdict {
    decide(rule, input).unwrap_or_else(|stop| match stop {
        Stop::Unknown(reasons) => Verdict::Unknown(reasons.into_iter().collect()),
        Stop::Broken(why) => Verdict::Broken(why),
    })
}

fn decide(rule: &Rule, input: &Input) -> Result<Verdict, Stop> {
    if let Some(why) = wrong_version(rule, input)? {
        return Ok(Verdict::NotApplicable(why));
    }
    let scope = Scope::new(input);
    if let Some(when) = &rule.when
        && !when.holds(&scope)?
    {
        return Ok(Verdict::NotApplicable(format!("only where {}", when.source())));
    }
    match &rule.each {
        Some(each) => judge_each(rule, each, &scope),
        None => match &rule.fail {
            Some(fail) if !fail.holds(&scope)? => Ok(Verdict::Pass),
            _ => Ok(Verdict::Fail(vec![hit(rule, &scope)?])),
        },
    }
}

fn wrong_version(rule: &Rule, input: &Input) -> Result<Option<String>, Stop> {
    let Some(range) = &rule.versions else { return Ok(None) };
    match &input.version {
        Ok(Some(version)) if range.contains(version) => Ok(None),
        Ok(Some(version)) => Ok(Some(format!("speaks about RabbitMQ {range}; this is {version}"))),
        Ok(None) => Ok(Some("RabbitMQ is not installed".to_owned())),
        Err(why) => Err(Stop::Unknown(BTreeSet::from([why.clone()]))),
    }
}

/// A hit for each element that fails. Elements that cannot be judged make the rule unknown unless another one fails for sure.
fn judge_each(rule: &Rule, each: &Expr, scope: &Scope) -> Result<Verdict, Stop> {
    let Value::List(items) = each.eval(scope)? else {
        return Err(Stop::Broken(format!("`{}` is not a list", each.source())));
    };
    let (mut hits, mut reasons) = (Vec::new(), BTreeSet::new());
    for (index, item) in items.iter().enumerate() {
        let scope = Scope::element(scope.input, each, index, item.clone());
        match rule.fail.as_ref().map_or(Ok(true), |fail| fail.holds(&scope)) {
            Ok(true) => hits.push(hit(rule, &scope)?),
            Ok(false) => {}
            Err(Stop::Unknown(why)) => reasons.extend(why),
            Err(broken) => return Err(broken),
        }
    }
    match (hits.is_empty(), reasons.is_empty()) {
        (false, _) => Ok(Verdict::Fail(hits)),
        (true, true) => Ok(Verdict::Pass),
        (true, false) => Err(Stop::Unknown(reasons)),
    }
}

/// What to say about a failure that is certain: something unknown in the words around it does not make it less so.
fn hit(rule: &Rule, scope: &Scope) -> Result<Hit, Stop> {
    Ok(Hit {
        severity: severity(rule, scope)?,
        message: rule.message.text(scope),
        at: known(rule.at.as_ref(), scope)?.and_then(|v| serde_json::from_value(v).ok()),
        evidence: known(rule.evidence.as_ref(), scope)?.and_then(|v| serde_json::from_value(v).ok()).unwrap_or_default(),
        fix: fix(rule, scope)?,
        subject: rule.subject.as_ref().map(|t| t.text(scope)),
    })
}

/// Unknown counts as false: the rule's own severity is the safe one.
fn severity(rule: &Rule, scope: &Scope) -> Result<Severity, Stop> {
    for (when, severity) in &rule.severity_when {
        if certain(when, scope)? {
            return Ok(*severity);
        }
    }
    Ok(rule.severity)
}

fn certain(condition: &Expr, scope: &Scope) -> Result<bool, Stop> {
    match condition.holds(scope) {
        Err(Stop::Unknown(_)) => Ok(false),
        other => other,
    }
}

fn known(expr: Option<&Expr>, scope: &Scope) -> Result<Option<Json>, Stop> {
    match expr.map(|e| e.eval(scope)) {
        None | Some(Err(Stop::Unknown(_))) => Ok(None),
        Some(Ok(value)) => Ok(Some(json(&value))),
        Some(Err(broken)) => Err(broken),
    }
}

/// The first fix whose condition holds; none if one of its parameters is unknown: a repair is not built on a guess.
fn fix(rule: &Rule, scope: &Scope) -> Result<Option<FixRequest>, Stop> {
    for fix in &rule.fixes {
        let wanted = fix.when.as_ref().map_or(Ok(true), |when| certain(when, scope))?;
        if wanted {
            return match request(fix, scope) {
                Err(Stop::Unknown(_)) => Ok(None),
                other => other.map(Some),
            };
        }
    }
    Ok(None)
}

fn request(fix: &Fix, scope: &Scope) -> Result<FixRequest, Stop> {
    let mut with = serde_json::Map::new();
    for (name, value) in &fix.with {
        with.insert(name.clone(), value.value(scope)?);
    }
    Ok(FixRequest { action: fix.action.clone(), with, tier: fix.tier, note: fix.note.as_ref().map(|n| n.text(scope)) })
}

//! Rules: TOML files with CEL conditions over facts.
//!
//! A rule is one file, `rules/<area>/<name>.toml`; nothing else has to be touched to add one. [`builtin`] loads those that are
//! compiled in, [`site`] one of /etc/rmq-audit/rules.d, [`judge()`] says what a rule makes of a host.

mod check;
mod expr;
mod input;
mod judge;
mod load;
mod schema;
mod template;
#[cfg(test)]
mod tests;
mod version;

#[allow(unused_imports)] // TEMPORARY until the command line uses them
pub use {
    input::Input,
    judge::{Hit, Verdict, judge},
    load::{ACTIONS, LoadError, builtin, site},
};

use expr::Expr;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use template::Template;

/// How bad a failure is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    Error,
    Warning,
    Note,
}

/// Where on the way of a client's packet a rule looks, in fix order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    Config,
    Service,
    Name,
    Route,
    Listener,
    Firewall,
    Tls,
    Amqp,
    Login,
    Vhost,
    Limits,
    Exposure,
    /// What other nodes need of this one; clients of this node connect all the same.
    Cluster,
    Hygiene,
}

/// How freely a fix may be applied (CONTRACT section 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Tier {
    Safe,
    Restart,
    Ask,
    Manual,
}

/// A quotation that proves a finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Evidence {
    pub source: String,
    pub line: Option<u32>,
    pub text: String,
}

/// A repair that a rule asks for, with its templates filled in from the facts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FixRequest {
    /// Name of the action (`set-conf`, `open-port`, …).
    pub action: String,
    /// Its parameters.
    pub with: serde_json::Map<String, serde_json::Value>,
    pub tier: Tier,
    pub note: Option<String>,
}

/// One rule file.
#[derive(Debug)]
pub struct Rule {
    /// The file's name: says what is wrong.
    pub name: String,
    /// The folder's name, or `site`.
    pub area: String,
    pub title: String,
    pub severity: Severity,
    severity_when: Vec<(Expr, Severity)>,
    pub stage: Stage,
    /// Versions that the rule speaks about; `None`: all.
    versions: Option<version::Range>,
    /// Rules whose failure is only a consequence of this one.
    pub explains: Vec<String>,
    /// What the client sees because of it, where the rule decides that (CONTRACT's `sees`).
    pub sees: Option<String>,
    pub why: String,
    pub references: Vec<String>,
    /// False: not applicable.
    when: Option<Expr>,
    /// A list; the rule is judged for each element, which is `it`.
    each: Option<Expr>,
    /// True: fails. Without it, every element of `each` is a failure.
    fail: Option<Expr>,
    message: Template,
    at: Option<Expr>,
    evidence: Option<Expr>,
    subject: Option<Template>,
    /// The faults of real hosts on which it fired, as in the index; empty: none, or a rule of this site.
    fired: &'static str,
    /// Built in, and never seen to fire on a real host: its failure is no error yet.
    pub preview: bool,
    /// The first whose condition holds is asked for.
    fixes: Vec<Fix>,
    #[cfg(test)]
    tests: Vec<load::RuleTest>,
}

impl Rule {
    /// Takes down on what it fired. A rule that never did is no error, whatever its file says: nobody has seen it be right.
    fn account(&mut self, fired: Option<&'static str>) {
        self.preview = fired.is_none();
        self.fired = fired.unwrap_or_default();
        if self.preview {
            self.severity = self.severity.max(Severity::Warning);
            self.severity_when.iter_mut().for_each(|(_, severity)| *severity = (*severity).max(Severity::Warning));
        }
    }
}

/// A repair as a rule file describes it.
#[derive(Debug)]
struct Fix {
    when: Option<Expr>,
    action: String,
    with: BTreeMap<String, Template>,
    tier: Tier,
    note: Option<Template>,
    /// The note as it stands in the file, for [`explain`].
    note_text: Option<String>,
}

/// Rules by name.
#[derive(Debug, Default)]
pub struct RuleSet {
    pub rules: BTreeMap<String, Rule>,
}

impl RuleSet {
    /// Adds a rule. A name that is taken is an error: a site rule cannot replace a built-in one silently.
    pub fn add(&mut self, rule: Rule, file: &str) -> Result<(), LoadError> {
        if self.rules.contains_key(&rule.name) {
            return Err(LoadError::at(file, 1, 1, format!("there is already a rule `{}`", rule.name)));
        }
        self.rules.insert(rule.name.clone(), rule);
        Ok(())
    }

    /// Compiles the conditions ahead of judging, e.g. while collectors wait for the host.
    pub fn warm(&self) {
        for rule in self.rules.values() {
            for expr in [&rule.when, &rule.each, &rule.fail].into_iter().flatten() {
                let _ = expr.program();
            }
        }
    }
}

/// What `rmq-audit explain RULE` tells, as plain data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Explanation {
    pub name: String,
    pub area: String,
    pub title: String,
    pub severity: Severity,
    pub stage: Stage,
    /// Versions of RabbitMQ it speaks about; `None`: all.
    pub rabbitmq: Option<String>,
    /// What the client sees because of it, where the rule decides that.
    pub sees: Option<String>,
    pub why: String,
    /// The conditions as they stand in the file: (`when` | `each` | `fail`, expression).
    pub check: Vec<(String, String)>,
    pub fixes: Vec<FixExplanation>,
    /// Rules whose failure is a consequence.
    pub explains: Vec<String>,
    /// The faults of real hosts on which it fired, as `FAULT (SUITE …)`.
    pub fired: Vec<String>,
    /// Never seen to fire on a real host: no error yet.
    pub preview: bool,
    pub references: Vec<String>,
}

/// One of a rule's repairs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FixExplanation {
    pub action: String,
    pub tier: Tier,
    /// When it is the one that is chosen; `None`: where no earlier one is.
    pub when: Option<String>,
    pub note: Option<String>,
}

/// What a rule checks, why, and how it is repaired.
pub fn explain(rule: &Rule) -> Explanation {
    let conditions = [("when", &rule.when), ("each", &rule.each), ("fail", &rule.fail)];
    Explanation {
        name: rule.name.clone(),
        area: rule.area.clone(),
        title: rule.title.clone(),
        severity: rule.severity,
        stage: rule.stage,
        rabbitmq: rule.versions.as_ref().map(ToString::to_string),
        sees: rule.sees.clone(),
        why: rule.why.trim().to_owned(),
        check: conditions
            .iter()
            .filter_map(|(label, expr)| expr.as_ref().map(|e| ((*label).to_owned(), e.source().to_owned())))
            .collect(),
        fixes: rule
            .fixes
            .iter()
            .map(|fix| FixExplanation {
                action: fix.action.clone(),
                tier: fix.tier,
                when: fix.when.as_ref().map(|w| w.source().to_owned()),
                note: fix.note_text.clone(),
            })
            .collect(),
        explains: rule.explains.clone(),
        fired: rule.fired.split(", ").filter(|fault| !fault.is_empty()).map(str::to_owned).collect(),
        preview: rule.preview,
        references: rule.references.clone(),
    }
}

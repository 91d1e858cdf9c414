//! What an audit says: findings with root causes and consequences, unknowns grouped by cause, the connection paths.
//!
//! This is the data of `rmq-audit/report/1` (CONTRACT section 5); renderers only print it.

use crate::facts::Where;
use crate::rules::{FixRequest, Severity, Stage};
use serde::{Deserialize, Serialize};

/// One failed rule at one place.
#[derive(Debug, Clone, Serialize)]
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

/// A quotation that proves a finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    pub source: String,
    pub line: Option<u32>,
    pub text: String,
}

/// A repair as the report shows it.
#[derive(Debug, Clone, Serialize)]
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

/// How freely a fix may be applied (CONTRACT section 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tier {
    Safe,
    Restart,
    Ask,
    Manual,
}

/// An accepted finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Waived {
    pub reason: String,
    pub until: Option<String>,
}

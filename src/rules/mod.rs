//! Rules: TOML files with CEL conditions over facts.
use serde::{Deserialize, Serialize};

/// How bad a failure is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    Error,
    Warning,
    Note,
}

/// Where on the way of a client's packet a rule looks, in fix order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
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
    Hygiene,
}

/// A repair that a rule asks for, with its templates filled in from the facts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FixRequest {
    /// Name of the action (`set-conf`, `open-port`, …).
    pub action: String,
    /// Its parameters.
    pub with: serde_json::Map<String, serde_json::Value>,
    pub tier: crate::report::Tier,
    pub note: Option<String>,
}

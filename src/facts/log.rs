//! The last part of the broker's logs: known signatures only.
use super::{Fact, Where};
use serde::Serialize;

/// What the logs say. Only lines that match a known signature are kept, with secrets struck out.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Log {
    /// Files (and `journal`) that were read.
    pub sources: Fact<Vec<String>>,
    /// Newest last.
    pub events: Fact<Vec<Event>>,
    /// The reason of the last failed boot, if the last boot failed; null: it did not.
    pub boot_failure: Fact<Option<Event>>,
    /// Logins that were refused, grouped by user, reason and peer; since the last start of the broker.
    pub refusals: Fact<Vec<Refusal>>,
}

/// One signature found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Event {
    /// Stable name of the signature, e.g. `login-refused`, `unknown-key`, `port-in-use`, `boot-failed`, `disk-alarm`.
    pub signature: String,
    /// Seconds since the epoch; null: the line has no time.
    pub time: Option<i64>,
    pub text: String,
    pub peer: Option<String>,
    pub user: Option<String>,
    pub vhost: Option<String>,
    pub at: Where,
}

/// Refused logins of one kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Refusal {
    pub user: String,
    /// loopback-only | bad-credentials | no-permission | no-vhost | blank-password | limit | other
    pub reason: String,
    pub peer: Option<String>,
    pub vhost: Option<String>,
    pub count: i64,
    /// Newest, seconds since the epoch.
    pub last: Option<i64>,
    pub text: String,
    pub at: Where,
}

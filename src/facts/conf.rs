//! The effective configuration with the origin of every setting, and what keeps the broker from booting.
use super::{Fact, Where};
use serde::Serialize;
use std::collections::BTreeMap;

/// rabbitmq.conf + conf.d + advanced.config (or the classic rabbitmq.config).
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Conf {
    /// Files that the broker reads, in order; later wins.
    pub files: Fact<Vec<ConfFile>>,
    /// Effective settings of the rabbitmq.conf format by key; secret values are struck out.
    pub settings: Fact<BTreeMap<String, Setting>>,
    /// Problems in any of the files.
    pub problems: Fact<Vec<Problem>>,
    /// Would the broker boot with these files? Unknown when the schema of the installed version could not be read.
    pub boots: Fact<bool>,
    /// AMQP listeners as the broker will open them, from all sources (conf, conf.d, advanced, environment, default).
    pub listeners: Fact<Vec<WantedListener>>,
    /// Effective loopback_users; the default is ["guest"].
    pub loopback_users: Fact<LoopbackUsers>,
    /// default_user of the files, if set.
    pub default_user: Fact<Option<String>>,
    /// Newest modification time of the files, seconds since the epoch; 0: no file.
    pub newest_mtime: Fact<i64>,
}

/// One configuration file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ConfFile {
    pub path: String,
    /// cuttlefish | erlang | advanced
    pub format: String,
    /// Read by the broker; false: it is there, but the broker passes it over (`why_ignored`).
    pub used: bool,
    pub why_ignored: Option<String>,
    pub mtime: i64,
    pub mode: i64,
    pub uid: i64,
    pub gid: i64,
    /// Can the broker's user read it, by mode bits of the file and its directories?
    pub readable_by_broker: Fact<bool>,
    /// Holds a password or key.
    pub has_secret: bool,
}

/// One effective setting.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Setting {
    pub value: String,
    pub at: Where,
    /// Earlier settings of the same key that this one hides.
    pub overrides: Vec<Where>,
}

/// One problem. `code` is a stable name: unknown-key | bad-value | syntax | encoding | unreadable | overlap | address-not-local |
/// privileged-port | missing-file | advanced-syntax | plugins-syntax | needs-plugin | ignored-file | duplicate | value-cut-by-hash |
/// quoted-value | encrypted-colon
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Problem {
    pub code: String,
    /// The broker does not boot with it.
    pub fatal: bool,
    pub key: Option<String>,
    /// The offending value (never a secret).
    pub value: Option<String>,
    pub message: String,
    /// For unknown-key: the nearest known key; for bad-value: a value that would do.
    pub suggestion: Option<String>,
    /// The line as it stands in the file, for the excerpt; secrets struck out.
    pub text: String,
    pub at: Where,
}

/// A listener that the configuration asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct WantedListener {
    /// amqp | amqps | management | …: the names of CONTRACT's `service`
    pub service: String,
    /// `auto` (all interfaces), or an address
    pub address: String,
    pub port: i64,
    /// The key that sets it (`listeners.tcp.1`); null: the default or the environment.
    pub key: Option<String>,
    pub at: Option<Where>,
    /// default | conf | advanced | env
    pub source: String,
}

/// Users that may log in from this host only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct LoopbackUsers {
    pub users: Vec<String>,
    /// What set it; null: the default.
    pub at: Option<Where>,
    /// Keys that made it so, e.g. `loopback_users.guest`.
    pub keys: Vec<String>,
}

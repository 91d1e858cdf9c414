//! Modes and owners of what the broker must be able to read or write.
use super::Fact;
use serde::Serialize;

/// Files and directories; null: not there.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Files {
    /// /var/lib/rabbitmq/.erlang.cookie
    pub cookie: Fact<Option<Cookie>>,
    /// /var/lib/rabbitmq and the mnesia directory
    pub data_dirs: Fact<Vec<Dir>>,
    pub log_dir: Fact<Option<Dir>>,
}

/// The Erlang cookie; its content is never kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Cookie {
    pub path: String,
    pub mode: i64,
    pub uid: i64,
    /// Octal text of the mode, e.g. `0644`.
    pub mode_text: String,
    /// Accessible by group or others: the node refuses to start.
    pub too_open: bool,
    /// Owned by the broker's user.
    pub owned_by_broker: Fact<bool>,
    pub empty: Fact<bool>,
}

/// A directory that the broker writes to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Dir {
    pub path: String,
    /// data | log
    pub purpose: String,
    pub mode: i64,
    pub uid: i64,
    pub gid: i64,
    /// By mode bits, for the broker's user.
    pub writable_by_broker: Fact<bool>,
    /// Entries directly inside that the broker cannot write (at most 20).
    pub foreign_entries: Vec<String>,
}

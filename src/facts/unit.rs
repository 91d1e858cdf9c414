//! The systemd unit of the broker, as `systemctl show` tells it.
use serde::Serialize;

/// `rabbitmq-server.service`. Property names in brackets are systemd's (org.freedesktop.systemd1).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Unit {
    pub name: String,
    /// loaded | not-found | bad-setting | error | masked (LoadState)
    pub load: String,
    /// enabled | disabled | masked | static | … (UnitFileState); empty for a unit without a file
    pub enabled: String,
    /// active | inactive | failed | activating | deactivating | reloading (ActiveState)
    pub active: String,
    /// running | dead | start | auto-restart | … (SubState)
    pub sub: String,
    /// success | exit-code | signal | oom-kill | start-limit-hit | timeout | … (Result)
    pub result: String,
    /// Exit status of the main process (ExecMainStatus).
    pub exit_status: i64,
    /// Automatic restarts since the last manual start (NRestarts).
    pub restarts: i64,
    /// MainPID; 0: none.
    pub main_pid: i64,
    /// Files that override the unit (DropInPaths).
    pub drop_ins: Vec<String>,
    /// Whether systemd's copy is older than the files (NeedDaemonReload).
    pub needs_reload: bool,
    /// LimitNOFILE; null: infinity.
    pub limit_nofile: Option<i64>,
    /// Environment= of the unit and its drop-ins, `NAME=value`; values of secrets are struck out.
    pub environment: Vec<String>,
    /// User=
    pub user: String,
    /// Seconds since the epoch of the last state change (StateChangeTimestamp), 0 if never.
    pub since: i64,
    /// Derived: running | stopped | failed | starting | restart-loop | stopping | masked | not-found
    pub state: String,
}

//! The broker's processes, from /proc.
use super::Fact;
use serde::Serialize;

/// Processes that belong to RabbitMQ.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Processes {
    /// The Erlang VM that runs RabbitMQ; null: none runs.
    pub beam: Fact<Option<Process>>,
    /// The Erlang port mapper; null: none runs (systemd may hold its socket).
    pub epmd: Fact<Option<Process>>,
    /// More than one RabbitMQ VM: pids of the others.
    pub other_brokers: Fact<Vec<i64>>,
}

/// One process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Process {
    pub pid: i64,
    pub name: String,
    pub uid: i64,
    /// Seconds since the epoch.
    pub started: i64,
    /// Arguments with secrets struck out (`-setcookie X`, `RABBITMQ_DEFAULT_PASS`).
    pub args: Vec<String>,
    /// Soft limit of open files (/proc/PID/limits); null: unlimited.
    pub max_open_files: Fact<Option<i64>>,
    /// `-setcookie` or `-rabbit …pass` stood in the arguments: readable by every user of the host.
    pub secret_in_args: bool,
    /// Node name from `-name`/`-sname` or the environment of the start script, if told in the arguments.
    pub node: Option<String>,
}

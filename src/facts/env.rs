//! rabbitmq-env.conf (read as text, never sourced) and the unit's environment: what the broker is started with.
use super::{Fact, Where};
use serde::Serialize;
use std::collections::BTreeMap;

/// The broker's environment variables without their `RABBITMQ_` prefix.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Env {
    /// /etc/rabbitmq/rabbitmq-env.conf, unless RABBITMQ_CONF_ENV_FILE of the unit names another.
    pub file: String,
    /// null: no such file
    pub present: Fact<bool>,
    /// Effective variables by name, e.g. `NODE_PORT`. A variable whose value cannot be read without running a shell is unknown.
    pub vars: Fact<BTreeMap<String, Var>>,
    /// What keeps the file from being applied, or the broker from starting: CRLF, `NODE_PORT = 5677`, a failing last command.
    pub problems: Fact<Vec<EnvProblem>>,
}

/// One variable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Var {
    pub value: Fact<String>,
    /// file, or the unit's drop-in; null: from a running process's environment
    pub at: Option<Where>,
}

/// One thing wrong with rabbitmq-env.conf.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct EnvProblem {
    /// blanks-around-equals | crlf | last-command-fails | syntax | unreadable
    pub code: String,
    /// The broker does not start with it.
    pub fatal: bool,
    pub text: String,
    pub at: Where,
}

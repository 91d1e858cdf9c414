//! The running node, asked over the Erlang distribution protocol.
use super::Fact;
use serde::Serialize;

/// A node that answers. `null` in [`super::Facts::node`] means: no broker VM runs.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Node {
    pub name: String,
    /// rpc | rabbitmqctl: how the rest was learnt.
    pub source: String,
    pub version: Fact<String>,
    pub otp: Fact<String>,
    /// `rabbit:is_running/0`: booted to the end
    pub booted: Fact<bool>,
    pub users: Fact<Vec<User>>,
    pub permissions: Fact<Vec<Permission>>,
    pub vhosts: Fact<Vec<String>>,
    pub vhosts_down: Fact<Vec<String>>,
    pub loopback_users: Fact<Vec<String>>,
    /// `ranch:info/0`: real state of the client listeners
    pub listeners: Fact<Vec<NodeListener>>,
    /// memory | disk | file_descriptor_limit
    pub alarms: Fact<Vec<String>>,
    pub drained: Fact<bool>,
    pub auth_mechanisms: Fact<Vec<String>>,
    pub auth_backends: Fact<Vec<String>>,
    /// anonymous_login_user; null: `none`, or a version without anonymous login
    pub anonymous_user: Fact<Option<String>>,
    pub proxy_protocol: Fact<bool>,
    /// Bytes.
    pub memory_limit: Fact<i64>,
    /// Bytes.
    pub disk_free_limit: Fact<i64>,
    /// Bytes.
    pub disk_free: Fact<i64>,
    pub config_files: Fact<Vec<String>>,
    pub log_files: Fact<Vec<String>>,
    pub khepri: Fact<bool>,
    pub running_nodes: Fact<Vec<String>>,
    /// Client connections to this node.
    pub connections: Fact<i64>,
}

/// An internal user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct User {
    pub name: String,
    pub tags: Vec<String>,
    /// The stored hash is that of the user's own name (guest/guest); known only where it was tested.
    pub default_password: Fact<bool>,
    /// In the effective loopback_users.
    pub loopback_only: Fact<bool>,
}

/// Permissions of a user in a vhost: regular expressions in the order of rabbitmqctl.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Permission {
    pub user: String,
    pub vhost: String,
    pub configure: String,
    pub write: String,
    pub read: String,
}

/// A listener of ranch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct NodeListener {
    pub address: String,
    pub port: i64,
    pub suspended: bool,
}

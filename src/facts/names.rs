//! Host name, hosts file, and what the node name resolves to.
use super::{Fact, Where};
use serde::Serialize;

/// Names that Erlang's distribution depends on.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Names {
    /// Kernel host name (uname), else /etc/hostname.
    pub hostname: Fact<String>,
    /// /etc/hostname; null: no such file.
    pub static_hostname: Fact<Option<String>>,
    /// `rabbit@mq1`: NODENAME of the environment, else `rabbit@` + short host name.
    pub node: Fact<String>,
    /// Host part of the node name.
    pub node_host: Fact<String>,
    /// What `getent ahosts` says about `node_host`; empty: it does not resolve.
    pub node_addresses: Fact<Vec<String>>,
    /// At least one of them is an address of this host (or loopback); unknown while the addresses are.
    pub node_is_local: Fact<bool>,
    /// Where /etc/hosts names `node_host`; null: it does not.
    pub hosts_entry: Fact<Option<HostsEntry>>,
}

/// A line of /etc/hosts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct HostsEntry {
    pub address: String,
    pub at: Where,
}

//! Addresses, routes and the few sysctls that decide about a connection.
use super::Fact;
use serde::Serialize;

/// The host's addresses and routes.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Net {
    pub addresses: Fact<Vec<Address>>,
    pub routes: Fact<Vec<Route>>,
    /// net.ipv6.bindv6only
    pub bindv6only: Fact<bool>,
    /// IPv6 exists and net.ipv6.conf.all.disable_ipv6 is 0
    pub ipv6: Fact<bool>,
    /// Effective rp_filter per interface: max(all, interface)
    pub rp_filter: Fact<std::collections::BTreeMap<String, i64>>,
    /// net.ipv4.ip_local_port_range
    pub port_range: Fact<Vec<i64>>,
}

/// One address of one interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Address {
    pub interface: String,
    pub address: String,
    pub prefix: i64,
    pub v6: bool,
    pub up: bool,
    /// global | link | host
    pub scope: String,
}

/// One unicast route of the main table (/proc/net/route, /proc/net/ipv6_route).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Route {
    /// `10.0.0.0/24`, `0.0.0.0/0`, `::/0`
    pub to: String,
    pub interface: String,
    pub gateway: Option<String>,
    pub metric: i64,
}

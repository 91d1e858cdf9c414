//! Packet filters: who manages them, and the verdict for a packet.
use serde::Serialize;
use std::net::IpAddr;

/// What decides about packets that come in.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Firewall {
    /// ufw | firewalld | nftables-service | netfilter-persistent | iptables | nftables | none
    pub manager: String,
    /// ufw is enabled (/etc/ufw/ufw.conf)
    pub ufw_enabled: bool,
    pub firewalld_running: bool,
    /// Ruleset sources that hold at least one base chain: iptables-nft, iptables-legacy, nftables, …
    pub engines: Vec<String>,
    /// The parsed packet-filter model; not for rules.
    #[serde(skip)]
    pub model: model::Model,
}

/// A packet: a new TCP connection to this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub port: u16,
    /// Interface that it comes in by.
    pub interface: String,
}

/// The answer for one packet (or a network: the first address, unless the ruleset tells its parts apart).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Verdict {
    /// accept | drop | reject | depends
    pub verdict: String,
    /// tcp-reset | icmp-port-unreachable | icmp-host-prohibited | …; null unless reject
    pub reject_with: Option<String>,
    pub decided_by: Option<DecidingRule>,
    /// For `depends`: on what.
    pub depends_on: Vec<String>,
    /// An accept rule for this packet that stands behind the deciding rule.
    pub shadowed_accept: Option<DecidingRule>,
    /// What the client sees: connected | refused | timeout | unreachable | unknown
    pub sees: String,
}

/// The rule (or policy) that decides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct DecidingRule {
    /// `ip filter`, `inet filter`, …
    pub table: String,
    pub chain: String,
    /// As its own tool prints it, or `policy drop`.
    pub rule: String,
    /// nft handle, or position in the chain counted from 1
    pub handle_or_line: Option<i64>,
}

/// The packet-filter model (engine-independent).
pub mod model {
    /// Placeholder until the evaluator lands.
    #[derive(Debug, Clone, Default)]
    pub struct Model;
}

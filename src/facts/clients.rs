//! Derived: every client that must connect, and what this host makes of it.
use super::{Fact, firewall::Verdict};
use serde::Serialize;

/// One (client, source network) pair of the intent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Client {
    pub name: String,
    /// `10.0.0.0/24`, an address, `any`, or `local`
    pub from: String,
    /// The address that stands for `from` in evaluation: the address itself, or the first host of the network.
    pub example: Option<String>,
    /// Nobody said so: the default intent "AMQP clients on other hosts".
    pub assumed: bool,
    /// Not on this host.
    pub remote: bool,
    pub service: String,
    pub port: Fact<i64>,
    /// The address of this host that it will use; unknown while the addresses are.
    pub to: Fact<Option<String>>,
    /// Interface that its packets come in by, from the route back.
    pub interface: Fact<Option<String>>,
    /// The packet filter's verdict.
    pub firewall: Fact<Verdict>,
    /// A socket of the broker takes connections for `to`:`port`: listening | loopback-only | other-address | absent | foreign | suspended
    pub listener: Fact<String>,
    pub user: Option<String>,
    pub vhost: String,
    /// `user` exists on the broker; null: no user given.
    pub user_exists: Fact<Option<bool>>,
    /// `user` may only log in from this host; null: no user given.
    pub user_loopback_only: Fact<Option<bool>>,
    pub vhost_exists: Fact<bool>,
    /// `user` has a permission entry in `vhost`; null: no user given.
    pub has_permission: Fact<Option<bool>>,
    /// A password file was given.
    pub has_password: bool,
    /// Outcome of a real login from this host as this client (Answer's names); null: not tried.
    pub login: Fact<Option<String>>,
}

//! Listening TCP sockets, from /proc/net/tcp and /proc/net/tcp6 (state 0A), with their owners.
use super::Fact;
use serde::Serialize;

/// One listening socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Socket {
    /// `0.0.0.0`, `::`, `127.0.0.1`, …
    pub address: String,
    pub port: i64,
    pub v6: bool,
    /// A `::` socket that takes IPv4 too (net.ipv6.bindv6only = 0, and no IPv4 socket on the same port).
    pub dual_stack: bool,
    /// Bound to 127.0.0.0/8 or ::1.
    pub loopback: bool,
    /// Address is 0.0.0.0 or ::.
    pub wildcard: bool,
    /// uid that owns the socket.
    pub uid: i64,
    /// Owner; null: no process of this host's pid namespace holds it.
    pub owner: Fact<Option<Owner>>,
}

/// Who holds a socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Owner {
    pub pid: i64,
    /// `comm`, e.g. `beam.smp`, `systemd`, `nginx`.
    pub name: String,
    /// systemd unit from the cgroup path, e.g. `nginx.service`; null if none.
    pub unit: Option<String>,
    /// It is the broker's own VM.
    pub broker: bool,
}

//! Derived: what the broker should listen on, and whether it does.
use super::{Fact, Where};
use serde::Serialize;

/// One wanted listener beside the socket that answers for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Listener {
    /// amqp | amqps | management
    pub service: String,
    /// Address as configured: `auto` or an address.
    pub address: String,
    pub port: i64,
    pub key: Option<String>,
    pub at: Option<Where>,
    /// default | conf | advanced | env | running (only the socket tells)
    pub source: String,
    /// listening: the broker holds it · absent: nobody does · foreign: another program does · suspended
    pub state: Fact<String>,
    /// Who holds the port where it is not the broker: `nginx (pid 812, nginx.service)`.
    pub holder: Option<String>,
    /// Only this host can reach it.
    pub loopback: bool,
    /// The configured address is not on this host.
    pub address_missing: Fact<bool>,
    /// Overlaps with another wanted listener: the second bind fails with eaddrinuse.
    pub overlaps: bool,
}

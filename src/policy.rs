//! Who must be able to connect: /etc/rmq-audit/policy.toml and the command line's `--from`, `--user`, ….

use serde::Serialize;
use std::path::PathBuf;

/// What findings are judged against.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Intent {
    pub clients: Vec<ClientIntent>,
    /// Cluster peers by address.
    pub peers: Vec<String>,
    pub waivers: Vec<Waiver>,
}

/// One `[[clients]]` entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ClientIntent {
    pub name: String,
    /// CIDRs, `any`, `local`; empty: not said (the assumed client).
    pub from: Vec<String>,
    /// `amqp`, `amqps`, `management`, …
    pub service: String,
    pub port: Option<u16>,
    pub user: Option<String>,
    pub password_file: Option<PathBuf>,
    pub vhost: String,
    /// configure, write, read
    pub permissions: [String; 3],
    /// The default intent "AMQP clients on other hosts": nobody said so.
    pub assumed: bool,
}

/// One `[[waiver]]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Waiver {
    pub rule: String,
    pub reason: String,
    pub until: Option<String>,
    /// Pairs that must be found in the finding's message or place.
    pub matches: Vec<(String, String)>,
}

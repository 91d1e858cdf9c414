//! A real AMQP 0-9-1 client of a few frames: the only way to know that a login works.

use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::path::PathBuf;

/// What to try.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Probe {
    pub to: SocketAddr,
    /// `None`: stop after the server's `connection.start` (no log line on the broker beyond a closed connection).
    pub login: Option<Login>,
}

/// Credentials and vhost; the password is read from a file at the moment of use and never kept.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Login {
    pub user: String,
    pub password_file: PathBuf,
    pub vhost: String,
}

/// How far it came. Names are those of CONTRACT's `sees`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "kebab-case")]
pub enum Answer {
    /// `connection.start` arrived (no login asked for), or `connection.open-ok` did.
    Connected {
        server: Option<String>,
        mechanisms: Vec<String>,
    },
    Refused,
    Timeout,
    Reset,
    Unreachable {
        why: String,
    },
    /// 403 or a closed socket after start-ok.
    AuthRefused {
        text: String,
    },
    /// 530, 541 or another close after tune-ok.
    VhostRefused {
        text: String,
    },
    /// TCP accepted, then silence.
    Hangs,
    /// The bytes were not AMQP 0-9-1.
    NotAmqp {
        first_bytes: String,
    },
}

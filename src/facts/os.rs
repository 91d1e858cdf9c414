//! The operating system and what is installed on it.
use super::Fact;
use serde::Serialize;

/// `/etc/os-release`, the kernel's host name, the init system.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Os {
    /// `debian` (ID of os-release)
    pub id: Fact<Option<String>>,
    /// `13` (VERSION_ID)
    pub version: Fact<Option<String>>,
    /// Whether this run may read everything (effective uid 0).
    pub root: bool,
    /// A file tree: nothing runs there.
    pub offline: bool,
    /// `systemd` if /run/systemd/system exists, else the name of process 1.
    pub init: Fact<String>,
    /// Seconds since the epoch at the time of the audit.
    pub now: i64,
    /// Boot time of the kernel, seconds since the epoch (`btime` of /proc/stat).
    pub boot_time: Fact<i64>,
}

/// A RabbitMQ installation (from the directory names under /usr/lib/rabbitmq/lib; no process is started to ask).
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Install {
    /// `4.0.5`
    pub version: String,
    /// Directories that hold plugins.
    pub plugin_dirs: Vec<String>,
    /// Erlang/OTP release from /usr/lib/erlang/releases, e.g. `27`.
    pub erlang: Fact<Option<String>>,
    /// uid of the user `rabbitmq` (/etc/passwd)
    pub uid: Fact<Option<u32>>,
    /// gid of the group `rabbitmq`
    pub gid: Fact<Option<u32>>,
}

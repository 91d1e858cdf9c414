//! Disk and memory.
use super::Fact;
use serde::Serialize;

/// Sizes in bytes.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Resources {
    /// File system of the data directory.
    pub data_disk: Fact<Option<Disk>>,
    /// MemTotal of /proc/meminfo.
    pub memory_total: Fact<i64>,
    /// MemAvailable
    pub memory_available: Fact<i64>,
    /// Resident set of the broker's VM; null: not running.
    pub broker_rss: Fact<Option<i64>>,
}

/// One file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Disk {
    pub path: String,
    pub total: i64,
    pub available: i64,
    pub read_only: Fact<bool>,
}

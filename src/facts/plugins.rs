//! enabled_plugins and what is on disk.
use super::{Fact, Where};
use serde::Serialize;

/// Plugins: enabled by file, present on disk.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Plugins {
    pub file: String,
    /// Names in the file, in its order; empty if there is no file.
    pub enabled: Fact<Vec<String>>,
    /// Plugins found in the plugin directories.
    pub available: Fact<Vec<String>>,
    /// Enabled, but not on disk: the broker passes them over silently.
    pub missing: Fact<Vec<String>>,
    /// Why enabled_plugins cannot be read by the broker (it will not boot); null: fine.
    pub problem: Fact<Option<PluginsProblem>>,
}

/// A broken enabled_plugins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct PluginsProblem {
    /// syntax | unreadable
    pub code: String,
    pub text: String,
    pub at: Where,
}

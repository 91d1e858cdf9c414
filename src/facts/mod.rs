//! What is known about the host: plain data, collected through [`crate::host::Host`], judged by rules.
//!
//! Every leaf that may be unknown is a [`Fact`]; inside it `Option` means "looked, and it is not there". In JSON a known fact
//! is its value, an absent one `null`, and an unknown one `{"$unknown": "reason"}`; [`split_unknown`] takes these out before
//! rules see the tree, so that an unknown can never look like a value.

use crate::host::{Got, Miss};
use serde::{Deserialize, Serialize, Serializer};
use std::collections::BTreeMap;

/// A value that was seen, or the reason why it was not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fact<T> {
    Known(T),
    Unknown(String),
}

impl<T> Fact<T> {
    pub fn known(&self) -> Option<&T> {
        match self {
            Fact::Known(t) => Some(t),
            Fact::Unknown(_) => None,
        }
    }
    pub fn why(&self) -> Option<&str> {
        match self {
            Fact::Known(_) => None,
            Fact::Unknown(w) => Some(w),
        }
    }
    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> Fact<U> {
        match self {
            Fact::Known(t) => Fact::Known(f(t)),
            Fact::Unknown(w) => Fact::Unknown(w),
        }
    }
    pub fn as_ref(&self) -> Fact<&T> {
        match self {
            Fact::Known(t) => Fact::Known(t),
            Fact::Unknown(w) => Fact::Unknown(w.clone()),
        }
    }
}

impl<T> From<Got<T>> for Fact<T> {
    fn from(got: Got<T>) -> Self {
        match got {
            Ok(t) => Fact::Known(t),
            Err(m) => Fact::Unknown(m.to_string()),
        }
    }
}

impl<T> From<Miss> for Fact<T> {
    fn from(m: Miss) -> Self {
        Fact::Unknown(m.to_string())
    }
}

impl<T: Serialize> Serialize for Fact<T> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            Fact::Known(t) => t.serialize(s),
            Fact::Unknown(why) => BTreeMap::from([("$unknown", why)]).serialize(s),
        }
    }
}

#[cfg(test)]
impl<T: schemars::JsonSchema> schemars::JsonSchema for Fact<T> {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        T::schema_name()
    }
    fn json_schema(g: &mut schemars::SchemaGenerator) -> schemars::Schema {
        T::json_schema(g)
    }
    fn inline_schema() -> bool {
        T::inline_schema()
    }
}

/// A place in a file. Lines and columns count from 1.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Where {
    pub file: String,
    pub line: Option<u32>,
    pub column: Option<u32>,
}

pub mod broker;
pub mod clients;
pub mod conf;
pub mod env;
pub mod files;
pub mod firewall;
pub mod listeners;
pub mod log;
pub mod names;
pub mod net;
pub mod os;
pub mod plugins;
pub mod process;
pub mod resources;
pub mod sockets;
pub mod unit;

/// Everything that is known about a host. The field names are what rules write.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Facts {
    pub os: os::Os,
    pub install: Fact<Option<os::Install>>,
    pub unit: Fact<Option<unit::Unit>>,
    pub process: process::Processes,
    pub sockets: Fact<Vec<sockets::Socket>>,
    pub net: net::Net,
    pub names: names::Names,
    pub env: env::Env,
    pub conf: conf::Conf,
    pub plugins: plugins::Plugins,
    pub node: Fact<Option<broker::Node>>,
    pub firewall: Fact<firewall::Firewall>,
    pub log: log::Log,
    pub files: files::Files,
    pub resources: resources::Resources,
    /// Derived: what this broker should listen on and whether it does.
    pub listeners: Fact<Vec<listeners::Listener>>,
    /// Derived: one entry per client that must connect.
    pub clients: Vec<clients::Client>,
}

//! Facts as rules see them: plain values, with everything that is unknown taken out and its reason kept.

use super::expr;
use super::version::Version;
use crate::facts::Facts;
use cel::objects::Key;
use cel::{Context, Value};
use serde_json::Value as Json;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;

/// The key of the object that stands for an unknown fact in the JSON of facts.
const UNKNOWN: &str = "$unknown";

/// A place in the facts: `clients`, `[0]`, `firewall`. `[*]` stands for any element.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Path(pub Vec<String>);

impl Path {
    pub fn then(mut self, segment: impl Into<String>) -> Self {
        self.0.push(segment.into());
        self
    }

    /// Whether `other` is this place or lies inside it.
    pub fn covers(&self, other: &Path) -> bool {
        let same = |a: &String, b: &String| a == b || (a.starts_with('[') && b.starts_with('[') && (a == "[*]" || b == "[*]"));
        self.0.len() <= other.0.len() && self.0.iter().zip(&other.0).all(|(a, b)| same(a, b))
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, segment) in self.0.iter().enumerate() {
            let dot = if i == 0 || segment.starts_with('[') { "" } else { "." };
            write!(f, "{dot}{segment}")?;
        }
        Ok(())
    }
}

/// What rules are judged against.
pub struct Input {
    pub(super) context: Context<'static, 'static>,
    /// Unknown facts with the reasons.
    pub holes: BTreeMap<Path, String>,
    /// The version of the broker that runs, else of the one installed; null: there is none.
    pub(super) version: Result<Option<Version>, String>,
}

impl Input {
    /// From collected facts.
    pub fn new(facts: &Facts) -> Self {
        // Without a value every fact is unknown, and so is every verdict.
        Self::from_json(serde_json::to_value(facts).unwrap_or(Json::Null))
    }

    /// From the JSON of facts, in which `{"$unknown": "why"}` stands for an unknown value.
    pub fn from_json(facts: Json) -> Self {
        let mut holes = BTreeMap::new();
        let version = version(&facts);
        let mut values = Vec::new();
        if let Json::Object(areas) = facts {
            for (name, value) in areas {
                if let Some(value) = convert(value, &Path(vec![name.clone()]), &mut holes) {
                    values.push((name, value));
                }
            }
        }
        Input { context: expr::context(values), holes, version }
    }
}

impl Input {
    /// The reasons of the unknown facts that `which` picks.
    pub(super) fn reasons(&self, which: impl Fn(&Path) -> bool) -> BTreeSet<String> {
        self.holes.iter().filter(|(hole, _)| which(hole)).map(|(_, why)| why.clone()).collect()
    }
}

/// The key under which an object remembers that the value of `key` is unknown. A map's unset key and an unknown value would look
/// the same to `get` otherwise.
pub(super) fn unknown_marker(key: &str) -> String {
    format!("{UNKNOWN} {key}")
}

fn reason(value: &Json) -> Option<&str> {
    let object = value.as_object().filter(|o| o.len() == 1)?;
    object.get(UNKNOWN)?.as_str()
}

/// `None`: unknown. A list with an unknown element is unknown as a whole: without the element it would look complete.
fn convert(value: Json, path: &Path, holes: &mut BTreeMap<Path, String>) -> Option<Value> {
    if let Some(why) = reason(&value) {
        holes.insert(path.clone(), why.to_owned());
        return None;
    }
    Some(match value {
        Json::Null => Value::Null,
        Json::Bool(b) => Value::Bool(b),
        // CEL refuses to add UInt and Int, so every whole number becomes an Int.
        Json::Number(n) => n.as_i64().map_or_else(|| Value::Float(n.as_f64().unwrap_or(f64::NAN)), Value::Int),
        Json::String(s) => Value::String(Arc::new(s)),
        Json::Array(items) => {
            let mut list = Vec::with_capacity(items.len());
            for (i, item) in items.into_iter().enumerate() {
                if let Some(why) = reason(&item) {
                    holes.insert(path.clone(), why.to_owned());
                    return None;
                }
                list.extend(convert(item, &path.clone().then(format!("[{i}]")), holes));
            }
            Value::List(Arc::new(list))
        }
        Json::Object(fields) => {
            let mut map = HashMap::with_capacity(fields.len());
            for (name, field) in fields {
                match convert(field, &path.clone().then(name.as_str()), holes) {
                    Some(v) => map.insert(Key::from(name), v),
                    None => map.insert(Key::from(unknown_marker(&name)), Value::Null),
                };
            }
            Value::Map(map.into())
        }
    })
}

fn version(facts: &Json) -> Result<Option<Version>, String> {
    let running = facts.pointer("/node/version");
    let installed = facts.pointer("/install/version");
    for text in [running, installed].into_iter().flatten().filter_map(Json::as_str) {
        if let Some(version) = Version::parse(text) {
            return Ok(Some(version));
        }
    }
    let why = ["/install", "/node", "/node/version"].iter().find_map(|p| facts.pointer(p).and_then(reason));
    why.map_or(Ok(None), |why| Err(why.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn unknown_values_leave_the_tree_and_keep_their_reason() {
        let input = Input::from_json(
            json!({"a": {"b": {"$unknown": "not root"}, "c": [1, {"d": {"$unknown": "timeout"}}]}, "e": {"$unknown": "x"}}),
        );
        let holes: Vec<_> = input.holes.iter().map(|(p, why)| format!("{p}: {why}")).collect();
        assert_eq!(holes, ["a.b: not root", "a.c[1].d: timeout", "e: x"]);
    }

    #[test]
    fn a_list_with_an_unknown_element_is_unknown() {
        let input = Input::from_json(json!({"a": [1, {"$unknown": "why"}]}));
        assert_eq!(input.holes.len(), 1);
        assert_eq!(input.holes.keys().next().map(ToString::to_string).as_deref(), Some("a"));
    }

    #[test]
    fn the_running_version_comes_before_the_installed_one() {
        let v = |facts| Input::from_json(facts).version.map(|v| v.map(|v| v.to_string()));
        assert_eq!(v(json!({"node": {"version": "4.0.5"}, "install": {"version": "4.1.0"}})), Ok(Some("4.0.5".into())));
        assert_eq!(v(json!({"node": {"$unknown": "down"}, "install": {"version": "4.1.0"}})), Ok(Some("4.1.0".into())));
        assert_eq!(v(json!({"node": null, "install": null})), Ok(None));
        assert_eq!(v(json!({"node": null, "install": {"$unknown": "denied"}})), Err("denied".into()));
    }
}

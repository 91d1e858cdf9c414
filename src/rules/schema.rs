//! The types of facts, from the published schema (src/facts/schema.json), which a test generates from the structs.

use serde_json::Value as Json;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, LazyLock};

/// The type of an expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Type {
    Bool,
    Int,
    Text,
    Null,
    /// Could not be told; nothing is checked.
    Any,
    List(Box<Type>),
    Map(Box<Type>),
    Object(Arc<Object>),
    /// May be null.
    Nullable(Box<Type>),
}

/// An object with named facts.
#[derive(Debug, PartialEq, Eq)]
pub struct Object {
    pub name: String,
    pub fields: BTreeMap<String, Type>,
}

impl Type {
    pub fn nullable(self) -> Type {
        match self {
            t @ (Type::Nullable(_) | Type::Null | Type::Any) => t,
            t => Type::Nullable(Box::new(t)),
        }
    }

    /// Without the null.
    pub fn present(&self) -> &Type {
        match self {
            Type::Nullable(t) => t,
            t => t,
        }
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Type::Bool => f.write_str("true/false"),
            Type::Int => f.write_str("a number"),
            Type::Text => f.write_str("a text"),
            Type::Null => f.write_str("null"),
            Type::Any => f.write_str("anything"),
            Type::List(_) => f.write_str("a list"),
            Type::Map(_) => f.write_str("a map"),
            Type::Object(o) => write!(f, "an object ({})", o.name),
            Type::Nullable(t) => write!(f, "{t} or null"),
        }
    }
}

/// The type of all facts.
pub static FACTS: LazyLock<Type> = LazyLock::new(|| {
    let schema: Json = serde_json::from_str(include_str!("../facts/schema.json")).unwrap_or_default();
    of(&schema, "facts", &schema["$defs"])
});

/// The type of `{source, line, text}`.
pub fn quotation() -> Type {
    let fields = [("source", Type::Text), ("line", Type::Int.nullable()), ("text", Type::Text)];
    object("evidence", fields.into_iter().map(|(n, t)| (n.to_owned(), t)).collect())
}

fn object(name: &str, fields: BTreeMap<String, Type>) -> Type {
    Type::Object(Arc::new(Object { name: name.to_owned(), fields }))
}

fn of(schema: &Json, name: &str, defs: &Json) -> Type {
    if let Some(target) = schema["$ref"].as_str() {
        let name = target.trim_start_matches("#/$defs/");
        return of(&defs[name], name, defs);
    }
    if let Some(choices) = schema["anyOf"].as_array() {
        let (nulls, others): (Vec<_>, Vec<_>) = choices.iter().partition(|c| c["type"] == "null");
        return match others.as_slice() {
            [one] if nulls.is_empty() => of(one, name, defs),
            [one] => of(one, name, defs).nullable(),
            _ => Type::Any,
        };
    }
    let one = |kind: &str| match kind {
        "boolean" => Type::Bool,
        "integer" => Type::Int,
        "string" => Type::Text,
        "null" => Type::Null,
        "array" => Type::List(Box::new(of(&schema["items"], name, defs))),
        "object" => match schema["properties"].as_object() {
            Some(fields) => object(name, fields.iter().map(|(n, s)| (n.clone(), of(s, n, defs))).collect()),
            None => Type::Map(Box::new(of(&schema["additionalProperties"], name, defs))),
        },
        _ => Type::Any,
    };
    match &schema["type"] {
        Json::String(kind) => one(kind),
        Json::Array(kinds) => {
            let kinds: Vec<&str> = kinds.iter().filter_map(Json::as_str).collect();
            match kinds.iter().find(|k| **k != "null") {
                Some(kind) if kinds.len() == 2 && kinds.contains(&"null") => one(kind).nullable(),
                _ => Type::Any,
            }
        }
        _ => Type::Any,
    }
}

//! Texts with expressions in braces: `listens on {it.address}`. `{{` and `}}` are braces.

use super::expr::{Expr, Scope, Stop};
use cel::Value;
use serde_json::Value as Json;

/// A text of a rule file, taken apart.
#[derive(Debug)]
pub struct Template {
    parts: Vec<Part>,
}

#[derive(Debug)]
enum Part {
    Text(String),
    Hole(Expr),
}

impl Template {
    /// `line` and `column` say where the text begins in its file. The error counts bytes from there.
    pub fn parse(text: &str, line: u32, column: u32) -> Result<Self, (usize, String)> {
        let origin = Expr::new(text, line, column);
        let mut parts = Vec::new();
        let mut plain = String::new();
        let mut at = 0;
        while let Some(c) = text[at..].chars().next() {
            let rest = &text[at..];
            if rest.starts_with("{{") || rest.starts_with("}}") {
                plain.push(c);
                at += 2;
            } else if c == '{' {
                let length = hole_length(&rest[1..]).ok_or((at, "`{` without `}`".to_owned()))?;
                let (line, column) = origin.position(at + 1);
                if !plain.is_empty() {
                    parts.push(Part::Text(std::mem::take(&mut plain)));
                }
                parts.push(Part::Hole(Expr::new(&rest[1..1 + length], line, column)));
                at += length + 2;
            } else if c == '}' {
                return Err((at, "`}` without `{`; write `}}` for a brace".to_owned()));
            } else {
                plain.push(c);
                at += c.len_utf8();
            }
        }
        if !plain.is_empty() {
            parts.push(Part::Text(plain));
        }
        Ok(Template { parts })
    }

    /// The expressions in it.
    pub fn holes(&self) -> impl Iterator<Item = &Expr> {
        self.parts.iter().filter_map(|p| match p {
            Part::Hole(e) => Some(e),
            Part::Text(_) => None,
        })
    }

    /// The text for a reader: what is unknown says so.
    pub fn text(&self, scope: &Scope) -> String {
        self.parts
            .iter()
            .map(|part| match part {
                Part::Text(t) => t.clone(),
                Part::Hole(e) => e.eval(scope).map_or_else(|_| "(unknown)".to_owned(), |v| show(&v)),
            })
            .collect()
    }

    /// The value for a machine: nothing may be unknown. A text that is one expression keeps its type.
    pub fn value(&self, scope: &Scope) -> Result<Json, Stop> {
        if let [Part::Hole(only)] = self.parts.as_slice() {
            return only.eval(scope).map(|v| json(&v));
        }
        let mut text = String::new();
        for part in &self.parts {
            match part {
                Part::Text(t) => text.push_str(t),
                Part::Hole(e) => text.push_str(&show(&e.eval(scope)?)),
            }
        }
        Ok(Json::String(text))
    }
}

/// Bytes up to the closing brace, braces inside quotes not counted.
fn hole_length(text: &str) -> Option<usize> {
    let mut quote = None;
    for (i, c) in text.char_indices() {
        match (quote, c) {
            (None, '}') => return Some(i),
            (None, '\'' | '"') => quote = Some(c),
            (Some(q), c) if q == c => quote = None,
            _ => {}
        }
    }
    None
}

/// A value as a reader sees it: lists as `a, b`, a place as `file:line`, nothing as `none`.
fn show(value: &Value) -> String {
    match json(value) {
        Json::Null => "none".to_owned(),
        Json::String(s) => s,
        Json::Array(items) if items.is_empty() => "none".to_owned(),
        Json::Array(items) => items.iter().map(show_json).collect::<Vec<_>>().join(", "),
        other => show_json(&other),
    }
}

fn show_json(value: &Json) -> String {
    match value {
        Json::String(s) => s.clone(),
        Json::Object(o) => match (o.get("file").and_then(Json::as_str), o.get("line").and_then(Json::as_u64)) {
            (Some(file), Some(line)) => format!("{file}:{line}"),
            (Some(file), None) => file.to_owned(),
            (None, _) => value.to_string(),
        },
        other => other.to_string(),
    }
}

/// A value as JSON; markers of unknown members are left out.
pub fn json(value: &Value) -> Json {
    match value {
        Value::Bool(b) => Json::Bool(*b),
        Value::Int(i) => Json::from(*i),
        Value::UInt(u) => Json::from(*u),
        Value::Float(f) => Json::from(*f),
        Value::String(s) => Json::String(s.to_string()),
        Value::List(l) => Json::Array(l.iter().map(json).collect()),
        Value::Map(m) => {
            let mut fields: Vec<(String, Json)> = m.map.iter().map(|(k, v)| (k.to_string(), json(v))).collect();
            fields.retain(|(k, _)| !k.starts_with('$'));
            fields.sort_by(|a, b| a.0.cmp(&b.0));
            Json::Object(fields.into_iter().collect())
        }
        _ => Json::Null,
    }
}

#[cfg(test)]
mod tests {
    use super::super::input::Input;
    use super::*;
    use serde_json::json;

    fn render(text: &str) -> String {
        let input = Input::from_json(json!({"port": 5672, "names": ["a", "b"], "none": [], "gone": {"$unknown": "x"},
            "at": {"file": "/etc/f", "line": 3, "column": null}}));
        Template::parse(text, 1, 1).unwrap().text(&Scope::new(&input))
    }

    #[test]
    fn holes_are_filled_in() {
        assert_eq!(render("port {port}, {names}, {none}, {at}, {gone}"), "port 5672, a, b, none, /etc/f:3, (unknown)");
        assert_eq!(render("{{a}} {'}' + '{'}"), "{a} }{");
    }

    #[test]
    fn one_hole_keeps_its_type() {
        let input = Input::from_json(json!({"port": 5672, "gone": {"$unknown": "x"}}));
        let value = |t| Template::parse(t, 1, 1).unwrap().value(&Scope::new(&input));
        assert_eq!(value("{port}"), Ok(json!(5672)));
        assert_eq!(value("{port}/tcp"), Ok(json!("5672/tcp")));
        assert!(value("{gone}").is_err());
    }

    #[test]
    fn unbalanced_braces_are_refused() {
        assert_eq!(Template::parse("a {b", 1, 1).unwrap_err().0, 2);
        assert_eq!(Template::parse("a }", 1, 1).unwrap_err().0, 2);
    }
}

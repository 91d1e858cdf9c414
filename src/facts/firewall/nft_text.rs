//! Rules in nft's own words, from its JSON: what a reader finds in `nft list ruleset`.

use serde_json::Value as Json;

/// One rule.
pub fn rule(expressions: &[Json]) -> String {
    expressions.iter().map(statement).filter(|s| !s.is_empty()).collect::<Vec<_>>().join(" ")
}

fn text(value: Option<&Json>) -> String {
    value.map(expression).unwrap_or_default()
}

fn statement(value: &Json) -> String {
    let Some((name, body)) = value.as_object().and_then(|o| o.iter().next()) else { return value.to_string() };
    let target = || body.get("target").and_then(Json::as_str).unwrap_or("");
    match name.as_str() {
        "match" => {
            let op = match body.get("op").and_then(Json::as_str) {
                Some(op @ ("!=" | "<" | ">" | "<=" | ">=" | "!")) => format!("{op} "),
                _ if body.pointer("/left/&").is_some() => "== ".to_owned(),
                _ => String::new(),
            };
            format!("{} {op}{}", text(body.get("left")), quoted(body.get("left"), body.get("right")))
        }
        "counter" => "counter".to_owned(),
        "accept" | "drop" | "return" | "continue" | "notrack" => name.clone(),
        "jump" | "goto" => format!("{name} {}", target()),
        "vmap" => format!("{} vmap {}", text(body.get("key")), text(body.get("data"))),
        "reject" => match (body.get("type").and_then(Json::as_str), body.get("expr").and_then(Json::as_str)) {
            (Some("tcp reset"), _) => "reject with tcp reset".to_owned(),
            (Some("icmpx"), Some("port-unreachable")) | (None, _) => "reject".to_owned(),
            (Some(kind), code) => format!("reject with {kind} {}", code.unwrap_or("")),
        },
        "limit" => match body.get("rate").and_then(Json::as_i64) {
            Some(rate) => {
                let over = if body.get("inv").and_then(Json::as_bool) == Some(true) { "over " } else { "" };
                format!("limit rate {over}{rate}/{}", body.get("per").and_then(Json::as_str).unwrap_or("second"))
            }
            None => format!("limit name {body}"),
        },
        "log" => match body.get("prefix").and_then(Json::as_str) {
            Some(prefix) => format!("log prefix \"{prefix}\""),
            None => "log".to_owned(),
        },
        "mangle" => format!("{} set {}", text(body.get("key")), text(body.get("value"))),
        "ct count" => format!("ct count over {}", text(body.get("val"))),
        "set" => format!(
            "{} {} {{ {} }}",
            body.get("op").and_then(Json::as_str).unwrap_or("add"),
            text(body.get("set")),
            text(body.get("elem"))
        ),
        "dnat" | "redirect" | "snat" => {
            let (address, port) = (text(body.get("addr")), text(body.get("port")));
            let port = if port.is_empty() { port } else { format!(":{port}") };
            if address.is_empty() && port.is_empty() { name.clone() } else { format!("{name} to {address}{port}") }
        }
        "xt" => match body.get("name").and_then(Json::as_str) {
            Some(extension) => format!("xt {} \"{extension}\"", body.get("type").and_then(Json::as_str).unwrap_or("")),
            None => "xt".to_owned(),
        },
        other if body.is_null() => other.to_owned(),
        other => format!("{other} {}", expression(body)),
    }
}

/// Interface names stand in quotes.
fn quoted(left: Option<&Json>, right: Option<&Json>) -> String {
    let names = left
        .and_then(|l| l.pointer("/meta/key"))
        .and_then(Json::as_str)
        .is_some_and(|k| k.starts_with("iif") || k.starts_with("oif"));
    match right {
        Some(Json::String(name)) if names && !name.starts_with('@') => format!("\"{name}\""),
        Some(Json::Object(object)) if names && object.get("set").is_some_and(Json::is_array) => {
            let items = object["set"].as_array().into_iter().flatten();
            format!("{{ {} }}", items.map(|i| quoted(left, Some(i))).collect::<Vec<_>>().join(", "))
        }
        other => text(other),
    }
}

/// One expression.
pub fn expression(value: &Json) -> String {
    let join = |items: &[Json], with: &str| items.iter().map(expression).collect::<Vec<_>>().join(with);
    match value {
        Json::String(s) => s.clone(),
        Json::Array(items) if items.len() == 2 && is_verdict(&items[1]) => {
            format!("{} : {}", expression(&items[0]), statement(&items[1]))
        }
        Json::Array(items) => join(items, ","),
        Json::Object(object) => {
            let Some((name, body)) = object.iter().next() else { return String::new() };
            let field = |key: &str| body.get(key).and_then(Json::as_str).unwrap_or("");
            match name.as_str() {
                "payload" => match field("protocol") {
                    "" => "a part of the packet".to_owned(),
                    protocol => format!("{protocol} {}", field("field")),
                },
                "meta" => match field("key") {
                    key @ ("iif" | "iifname" | "oif" | "oifname" | "iifgroup" | "oifgroup") => key.to_owned(),
                    key => format!("meta {key}"),
                },
                "ct" => format!("ct {}{}{}", field("dir"), if field("dir").is_empty() { "" } else { " " }, field("key")),
                "fib" => format!("fib {} {}", text(body.get("flags")).replace(',', " . "), field("result")),
                "prefix" => format!("{}/{}", field("addr"), text(body.get("len"))),
                "range" => body.as_array().map_or_else(String::new, |r| join(r, "-")),
                "set" => match body.as_array() {
                    Some(items) => format!("{{ {} }}", join(items, ", ")),
                    None => expression(body),
                },
                "concat" => body.as_array().map_or_else(String::new, |r| join(r, " . ")),
                "elem" => text(body.get("val")),
                "|" => body.as_array().map_or_else(|| expression(body), |r| join(r, " | ")),
                "&" => match body.as_array().map(Vec::as_slice) {
                    Some([inner, mask]) => {
                        let mask = expression(mask).replace(',', " | ");
                        let mask = if mask.contains('|') { format!("({mask})") } else { mask };
                        format!("{} & {mask}", expression(inner))
                    }
                    _ => expression(body),
                },
                "tcp option" => format!("tcp option {} {}", field("name"), field("field")),
                other if body.is_object() && body.get("key").is_some() => format!("{other} {}", field("key")),
                other => other.to_owned(),
            }
        }
        Json::Null => String::new(),
        other => other.to_string(),
    }
}

fn is_verdict(value: &Json) -> bool {
    value
        .as_object()
        .and_then(|o| o.keys().next())
        .is_some_and(|k| matches!(k.as_str(), "accept" | "drop" | "jump" | "goto" | "return" | "continue"))
}

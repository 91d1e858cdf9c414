//! Datatypes of cuttlefish: what a value may look like, and what it then is.

use super::validators::{Bound, Op};
use crate::formats::erlang::{Term, Value};
use serde::{Deserialize, Serialize};
use std::net::Ipv6Addr;

/// What a value of rabbitmq.conf may look like.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Datatype {
    Integer,
    Float,
    Atom,
    /// Any text; files and directories too.
    String,
    /// Any text of characters below 256.
    Binary,
    Bytesize,
    Duration,
    /// One of these words.
    Enum(Vec<String>),
    /// An IP address and a port.
    Ip,
    TaggedString,
    TaggedBinary,
    /// A number within bounds (cuttlefish 3.9).
    Bounded {
        base: Box<Datatype>,
        bounds: Vec<Bound>,
        infinity: bool,
    },
    /// Like the datatype, but only this value.
    Only(Box<Datatype>, String),
    /// A comma-separated list; cuttlefish does not refuse it whatever its elements are.
    List,
    /// A datatype that this program does not know, by its text.
    Other(String),
}

/// A value after its datatype was applied.
#[derive(Debug, Clone, PartialEq)]
pub enum Typed {
    Int(i128),
    Float(f64),
    Atom(String),
    Text(String),
    Address { address: String, port: i128 },
    Tagged { tag: String, text: String },
    List,
}

/// The result of reading a value.
#[derive(Debug, Clone, PartialEq)]
pub enum Reading {
    Good(Typed),
    /// No datatype takes it; says what would be taken, without the value.
    Bad(String),
    /// It has a datatype that this program does not know.
    Undecided(String),
}

impl Datatype {
    /// The datatypes of a mapping: one, or a list of alternatives.
    pub fn list(term: &Term) -> Vec<Datatype> {
        match term.list() {
            Some(items) => items.iter().map(Datatype::one).collect(),
            None => vec![Datatype::one(term)],
        }
    }

    fn one(term: &Term) -> Datatype {
        match (term.atom(), term.tuple()) {
            (Some(name), _) => Datatype::named(name).unwrap_or_else(|| Datatype::Other(name.to_owned())),
            (_, Some([name, args @ ..])) => {
                Datatype::with_args(name, args).unwrap_or_else(|| Datatype::Other(term.value.to_string()))
            }
            _ => Datatype::Other(term.value.to_string()),
        }
    }

    fn named(name: &str) -> Option<Datatype> {
        Some(match name {
            "integer" => Datatype::Integer,
            "float" => Datatype::Float,
            "atom" => Datatype::Atom,
            "string" | "file" | "directory" => Datatype::String,
            "binary" => Datatype::Binary,
            "bytesize" => Datatype::Bytesize,
            "boolean" => Datatype::Enum(vec!["true".into(), "false".into()]),
            "flag" => Datatype::Enum(vec!["on".into(), "off".into()]),
            "ip" => Datatype::Ip,
            "tagged_string" => Datatype::TaggedString,
            "tagged_binary" => Datatype::TaggedBinary,
            "port" => between(0, 65535),
            "byte" => between(0, 255),
            _ => return None,
        })
    }

    fn with_args(name: &Term, args: &[Term]) -> Option<Datatype> {
        match (name.atom(), args) {
            (Some("enum"), [words]) => Some(Datatype::Enum(words.list()?.iter().filter_map(enum_word).collect())),
            (Some("flag"), [on, off]) => Some(Datatype::Enum([on, off].into_iter().filter_map(enum_word).collect())),
            (Some("duration"), [_]) => Some(Datatype::Duration),
            (Some("list"), [_]) => Some(Datatype::List),
            (Some("duration"), [_, bounds]) => Datatype::bounded(Datatype::Duration, bounds),
            (Some("integer" | "float" | "bytesize"), [bounds]) if constraint(bounds) => {
                Datatype::bounded(Datatype::named(name.atom()?)?, bounds)
            }
            (Some(base), [only]) => Some(Datatype::Only(Box::new(Datatype::named(base)?), plain(only)?)),
            _ => None,
        }
    }

    fn bounded(base: Datatype, constraints: &Term) -> Option<Datatype> {
        let all = constraints.list().map_or_else(|| vec![constraints], |l| l.iter().collect());
        let mut bounds = Vec::new();
        let mut infinity = false;
        for one in all {
            let float = base == Datatype::Float;
            match (one.atom(), one.pair().map(|(k, v)| (k.atom(), number(v)))) {
                (Some("non_negative"), _) => bounds.push(Bound { op: Op::AtLeast, limit: 0.0 }),
                (Some("positive"), _) if float => bounds.push(Bound { op: Op::Above, limit: 0.0 }),
                (Some("positive"), _) => bounds.push(Bound { op: Op::AtLeast, limit: 1.0 }),
                (Some("allow_infinity"), _) => infinity = true,
                (_, Some((Some("min"), Some(limit)))) => bounds.push(Bound { op: Op::AtLeast, limit }),
                (_, Some((Some("max"), Some(limit)))) => bounds.push(Bound { op: Op::AtMost, limit }),
                (_, Some((Some("gt"), Some(limit)))) => bounds.push(Bound { op: Op::Above, limit }),
                (_, Some((Some("lt"), Some(limit)))) => bounds.push(Bound { op: Op::Below, limit }),
                _ => return None,
            }
        }
        Some(Datatype::Bounded { base: Box::new(base), bounds, infinity })
    }

    /// What it takes, for a message: "… is not {describe}".
    pub fn describe(&self) -> String {
        match self {
            Datatype::Integer => "an integer".into(),
            Datatype::Float => "a number with a decimal point (0.4, not 40% or 1)".into(),
            Datatype::Atom | Datatype::String => "text".into(),
            Datatype::Binary => "text without characters beyond Latin-1".into(),
            Datatype::Bytesize => "a size in bytes (500MB, 2GB, 1024)".into(),
            Datatype::Duration => "a duration (10s, 5m, 1h30m)".into(),
            Datatype::Enum(words) => match words.as_slice() {
                [one] => format!("`{one}`"),
                _ => format!("one of {}", words.join(", ")),
            },
            Datatype::Ip => "IP:port (127.0.0.1:5672, ::1:5672; no brackets, no host name)".into(),
            Datatype::TaggedString | Datatype::TaggedBinary => "tag:value".into(),
            Datatype::Bounded { base, bounds, infinity } => {
                let limits: Vec<String> = bounds.iter().map(ToString::to_string).collect();
                format!("{} {}{}", base.describe(), limits.join(" and "), if *infinity { " or `infinity`" } else { "" })
            }
            Datatype::Only(_, value) => format!("`{value}`"),
            Datatype::List => "a list".into(),
            Datatype::Other(name) => format!("a value of type {name}"),
        }
    }
}

fn between(low: i32, high: i32) -> Datatype {
    let bounds = vec![Bound { op: Op::AtLeast, limit: low.into() }, Bound { op: Op::AtMost, limit: high.into() }];
    Datatype::Bounded { base: Box::new(Datatype::Integer), bounds, infinity: false }
}

/// `word` or `{word, Value}`.
fn enum_word(term: &Term) -> Option<String> {
    term.pair().map_or_else(|| term.text(), |(word, _)| word.text())
}

/// Whether the argument of `{integer, …}` is a constraint and not the only value.
fn constraint(term: &Term) -> bool {
    term.atom().is_some() || matches!(&term.value, Value::List(_))
}

fn plain(term: &Term) -> Option<String> {
    match &term.value {
        Value::Int(i) => Some(i.to_string()),
        Value::Float(f) => Some(f.to_string()),
        _ => term.text(),
    }
}

fn number(term: &Term) -> Option<f64> {
    match term.value {
        Value::Int(i) => Some(i as f64),
        Value::Float(f) => Some(f),
        _ => None,
    }
}

/// Reads `text` as the first of `datatypes` that takes it.
pub fn read(datatypes: &[Datatype], text: &str, tag_at_first_colon: bool) -> Reading {
    let mut other = None;
    for datatype in datatypes {
        match read_one(datatype, text, tag_at_first_colon) {
            Some(value) => return Reading::Good(value),
            None => {
                if let Datatype::Other(name) = datatype {
                    other = Some(name.clone());
                }
            }
        }
    }
    match other {
        Some(name) => Reading::Undecided(format!("datatype {name}")),
        None => {
            let kinds: Vec<String> = datatypes.iter().map(Datatype::describe).collect();
            Reading::Bad(kinds.join(" or "))
        }
    }
}

fn read_one(datatype: &Datatype, text: &str, tag_at_first_colon: bool) -> Option<Typed> {
    match datatype {
        Datatype::Integer => integer(text).map(Typed::Int),
        Datatype::Float => float(text).map(Typed::Float),
        // Erlang atoms have at most 255 characters.
        Datatype::Atom => (text.chars().count() <= 255).then(|| Typed::Atom(text.to_owned())),
        Datatype::String => Some(Typed::Text(text.to_owned())),
        Datatype::Binary => latin1(text).then(|| Typed::Text(text.to_owned())),
        Datatype::Bytesize => bytesize(text),
        Datatype::Duration => duration(text).map(Typed::Int),
        Datatype::Enum(words) => words.iter().any(|w| w == text).then(|| Typed::Atom(text.to_owned())),
        Datatype::Ip => address(text),
        Datatype::TaggedString | Datatype::TaggedBinary => {
            tagged(text, tag_at_first_colon).filter(|_| *datatype == Datatype::TaggedString || latin1(text))
        }
        Datatype::Bounded { infinity: true, .. } if text == "infinity" => Some(Typed::Atom(text.to_owned())),
        Datatype::Bounded { base, bounds, .. } => read_one(base, text, tag_at_first_colon).filter(|v| within(v, bounds)),
        Datatype::Only(base, only) => read_one(base, text, tag_at_first_colon).filter(|_| same_value(base, text, only)),
        Datatype::List => Some(Typed::List),
        Datatype::Other(_) => None,
    }
}

fn same_value(base: &Datatype, text: &str, only: &str) -> bool {
    match base {
        Datatype::Integer => integer(text) == integer(only),
        Datatype::Float => float(text) == only.parse().ok(),
        _ => text == only,
    }
}

/// Whether a number keeps all bounds; false for what is not a number.
pub fn within(value: &Typed, bounds: &[Bound]) -> bool {
    match value {
        Typed::Int(i) => bounds.iter().all(|b| b.holds(*i as f64)),
        Typed::Float(f) => bounds.iter().all(|b| b.holds(*f)),
        _ => false,
    }
}

fn latin1(text: &str) -> bool {
    text.chars().all(|c| (c as u32) < 256)
}

/// `list_to_integer/1`: an optional sign and decimal digits, nothing else.
pub fn integer(text: &str) -> Option<i128> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    // Erlang integers have no limit; nothing that is checked here tells such large ones apart.
    Some(text.parse().unwrap_or(if text.starts_with('-') { i128::MIN } else { i128::MAX }))
}

/// `list_to_float/1`: digits on both sides of the point, an optional exponent.
fn float(text: &str) -> Option<f64> {
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((m, e)) => (m, Some(e)),
        None => (text, None),
    };
    let (whole, fraction) = mantissa.split_once('.')?;
    integer(whole)?;
    let plain = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    if !plain(fraction) || exponent.is_some_and(|e| integer(e).is_none()) {
        return None;
    }
    text.parse().ok().filter(|f: &f64| f.is_finite())
}

fn bytesize(text: &str) -> Option<Typed> {
    const UNITS: [(&str, i128); 6] =
        [("KB", 1 << 10), ("kb", 1 << 10), ("MB", 1 << 20), ("mb", 1 << 20), ("GB", 1 << 30), ("gb", 1 << 30)];
    let unit = UNITS.iter().find_map(|(suffix, factor)| Some((text.strip_suffix(suffix)?, *factor)));
    let (quantity, factor) = unit.unwrap_or((text, 1));
    let leading_zero = if quantity.starts_with('.') { format!("0{quantity}") } else { quantity.to_owned() };
    match float(&leading_zero) {
        Some(f) => Some(Typed::Float(f * factor as f64)),
        None => integer(&leading_zero).map(|i| Typed::Int(i.saturating_mul(factor))),
    }
}

/// Milliseconds of `1h30m`, `.5s`, `500ms`; letters of either case.
fn duration(text: &str) -> Option<i128> {
    const UNITS: [(&str, f64); 7] = [
        ("ms", 1.0),
        ("f", 1_209_600_000.0),
        ("w", 604_800_000.0),
        ("d", 86_400_000.0),
        ("h", 3_600_000.0),
        ("m", 60_000.0),
        ("s", 1000.0),
    ];
    let text = text.to_lowercase();
    let mut rest = text.as_str();
    let mut total = 0.0;
    while !rest.is_empty() {
        let number = rest.get(..rest.find(|c: char| !c.is_ascii_digit() && c != '.')?)?;
        rest = rest.get(number.len()..)?;
        let amount = match number.split_once('.') {
            Some((_, fraction)) if fraction.is_empty() || fraction.contains('.') => return None,
            Some(_) => format!("0{number}").parse::<f64>().ok()?,
            // A whole number does not begin with 0.
            None if number.is_empty() || number.starts_with('0') => return None,
            None => number.parse::<f64>().ok()?,
        };
        let (unit, factor) = UNITS.iter().find(|(unit, _)| rest.starts_with(unit))?;
        rest = rest.get(unit.len()..)?;
        total += amount * factor;
    }
    (!text.is_empty()).then_some(total.ceil() as i128)
}

/// `IP:port`; the last colon divides.
fn address(text: &str) -> Option<Typed> {
    let (ip, port) = text.rsplit_once(':')?;
    let port = integer(port).filter(|p| *p >= 0)?;
    is_ip(ip).then(|| Typed::Address { address: ip.to_owned(), port })
}

/// Whether Erlang's `inet:parse_address/1` takes it: also `127.1`, `0x7f.1` and zones of link-local addresses.
pub fn is_ip(text: &str) -> bool {
    let (v6, zone) = text.split_once('%').map_or((text, None), |(a, z)| (a, Some(z)));
    match v6.parse::<Ipv6Addr>() {
        Ok(ip) => zone.is_none_or(|z| !z.is_empty() && ip.segments().first().is_some_and(|s| s & 0xffc0 == 0xfe80)),
        Err(_) => zone.is_none() && is_ipv4(text),
    }
}

/// One to four numbers, decimal, octal or hexadecimal; the last fills the bytes that are left.
fn is_ipv4(text: &str) -> bool {
    let fields: Vec<&str> = text.split('.').collect();
    let Some((last, first)) = fields.split_last() else { return false };
    let number = |field: &str| -> Option<u64> {
        let lower = field.to_lowercase();
        match lower.strip_prefix("0x") {
            Some(hex) if hex.bytes().all(|b| b.is_ascii_hexdigit()) => u64::from_str_radix(hex, 16).ok(),
            Some(_) => None,
            None if lower.is_empty() || !lower.bytes().all(|b| b.is_ascii_digit()) => None,
            None if lower.len() > 1 && lower.starts_with('0') => u64::from_str_radix(&lower, 8).ok(),
            None => lower.parse().ok(),
        }
    };
    let left = 4_u32.saturating_sub(u32::try_from(first.len()).unwrap_or(u32::MAX));
    left > 0 && first.iter().all(|f| number(f).is_some_and(|n| n < 256)) && number(last).is_some_and(|n| n < 256_u64.pow(left))
}

fn tagged(text: &str, at_first_colon: bool) -> Option<Typed> {
    let (tag, value) = if at_first_colon { text.split_once(':')? } else { text.rsplit_once(':')? };
    let word = !tag.is_empty() && !value.is_empty() && tag.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    (word || !at_first_colon).then(|| Typed::Tagged { tag: tag.to_owned(), text: value.to_owned() })
}

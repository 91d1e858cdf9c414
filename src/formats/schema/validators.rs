//! Named validators of schemas as plain data, and what they make of a value.
//!
//! A validator is an Erlang fun that is never run here. Comparisons of a number with constants are read off its text; the others that
//! RabbitMQ's schemas define are known by their names.

use super::value::{Typed, is_ip, within};
use crate::formats::erlang::{self, Kind, Token};
use serde::{Deserialize, Serialize};
use std::fmt;

/// How a number is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Op {
    AtLeast,
    Above,
    AtMost,
    Below,
}

/// One comparison with a constant.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Bound {
    pub op: Op,
    pub limit: f64,
}

impl Bound {
    pub fn holds(&self, value: f64) -> bool {
        match self.op {
            Op::AtLeast => value >= self.limit,
            Op::Above => value > self.limit,
            Op::AtMost => value <= self.limit,
            Op::Below => value < self.limit,
        }
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self.op {
            Op::AtLeast => "of at least",
            Op::Above => "above",
            Op::AtMost => "of at most",
            Op::Below => "below",
        };
        write!(f, "{word} {}", self.limit)
    }
}

/// The result of a validator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Validity {
    Holds,
    Fails,
    /// Holds if the host says so.
    OnHost(HostCheck),
    /// Needs Erlang.
    Undecided,
}

/// A question about a path that only the host can answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HostCheck {
    /// It exists (`file_accessible` of 3.8).
    Exists,
    /// The broker's user can read it.
    Readable,
    /// It is a file, no directory, and the broker's user can read it.
    File,
    /// … and it holds PEM data.
    Pem,
    /// It is a directory that can be listed.
    Directory,
    /// A directory that the broker's user can write to.
    Writable,
}

/// A validator of a schema.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Validator {
    /// What it says when it refuses.
    pub message: String,
    pub check: Check,
}

/// What a validator checks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Check {
    /// An integer within bounds; any other value makes the fun crash, and the broker with it.
    Integer(Vec<Bound>),
    /// A float within bounds.
    Float(Vec<Bound>),
    /// An integer of at least 0, or `infinity`.
    NonNegativeOrInfinity,
    /// Something about a path.
    Path(HostCheck),
    Ip,
    /// A size with a unit; see [`information_unit`].
    InformationUnit,
    Https,
    Regex,
    Anything,
    /// A fun that is not understood.
    Unread,
}

impl Validator {
    /// Reads `{validator, "name", "message", fun(…) -> … end}`; `fun` is its text.
    pub fn read(name: &str, message: String, fun: &str) -> Validator {
        Validator { message, check: comparisons(fun).or_else(|| named(name, fun)).unwrap_or(Check::Unread) }
    }

    /// What it makes of a value.
    pub fn judge(&self, value: &Typed) -> Validity {
        match (&self.check, value) {
            (Check::Integer(bounds), Typed::Int(_)) | (Check::Float(bounds), Typed::Float(_)) => holds(within(value, bounds)),
            (Check::Integer(_) | Check::Float(_), _) => Validity::Fails,
            (Check::NonNegativeOrInfinity, Typed::Int(i)) => holds(*i >= 0),
            (Check::NonNegativeOrInfinity, Typed::Atom(a)) => holds(a == "infinity"),
            (Check::NonNegativeOrInfinity, _) => Validity::Fails,
            (Check::Path(check), _) => Validity::OnHost(*check),
            (Check::Ip, Typed::Text(text)) => holds(is_ip(text)),
            (Check::InformationUnit, Typed::Int(_)) => Validity::Holds,
            (Check::InformationUnit, Typed::Text(text)) => holds(information_unit(text)),
            (Check::Https, Typed::Text(text)) => holds(https(text)),
            (Check::Regex, Typed::Text(text)) if text.is_empty() => Validity::Fails,
            // What Rust's syntax takes, PCRE takes; the reverse is not true.
            (Check::Regex, Typed::Text(text)) if regex::Regex::new(text).is_ok() => Validity::Holds,
            (Check::Anything, _) => Validity::Holds,
            _ => Validity::Undecided,
        }
    }
}

/// A fun of the shape `fun(N) when is_integer(N) -> N >= 0 andalso N =< 255 end`.
fn comparisons(fun: &str) -> Option<Check> {
    let tokens: Vec<Token<'_>> = erlang::tokens(fun).into_iter().filter(|t| !t.is("(") && !t.is(")")).collect();
    let [start, variable, when, guard, guarded, arrow, condition @ .., end] = tokens.as_slice() else { return None };
    let shape = start.is("fun") && when.is("when") && guarded.text == variable.text && arrow.is("->") && end.is("end");
    if !shape {
        return None;
    }
    let parts = condition.split(|t| t.is("andalso") || t.is("and"));
    let bounds = parts.map(|p| bound(p, variable.text)).collect::<Option<Vec<Bound>>>()?;
    match guard.text {
        "is_integer" => Some(Check::Integer(bounds)),
        "is_float" => Some(Check::Float(bounds)),
        _ => None,
    }
}

fn named(name: &str, fun: &str) -> Option<Check> {
    Some(match name {
        // Up to 3.8 it asks whether the file is there, later whether the broker may read it.
        "file_accessible" if !fun.contains("element(4") => Check::Path(HostCheck::Exists),
        "file_accessible" => Check::Path(HostCheck::Readable),
        "pem_file" => Check::Path(HostCheck::Pem),
        "is_dir" => Check::Path(HostCheck::Directory),
        "dir_writable" => Check::Path(HostCheck::Writable),
        "is_ip" => Check::Ip,
        "non_negative_integer" => Check::NonNegativeOrInfinity,
        "is_supported_information_unit" => Check::InformationUnit,
        "https_uri" => Check::Https,
        "valid_regex" => Check::Regex,
        "uri" => Check::Anything,
        _ => return None,
    })
}

/// `N >= 5`
pub fn bound(tokens: &[Token<'_>], variable: &str) -> Option<Bound> {
    let [name, op, limit] = tokens else { return None };
    let op = match op.text {
        ">=" => Op::AtLeast,
        ">" => Op::Above,
        "=<" => Op::AtMost,
        "<" => Op::Below,
        _ => return None,
    };
    let limit = match limit.kind {
        Kind::Integer => erlang::integer(limit).ok()? as f64,
        Kind::Float => erlang::float(limit).ok()?,
        _ => return None,
    };
    (name.text == variable).then_some(Bound { op, limit })
}

fn holds(yes: bool) -> Validity {
    if yes { Validity::Holds } else { Validity::Fails }
}

/// `string:nth_lexeme(Uri, 1, "://") == "https"`: the text up to the first colon or slash, leading ones passed over.
pub fn https(text: &str) -> bool {
    text.trim_start_matches([':', '/']).split([':', '/']).next() == Some("https")
}

/// At most three letters right behind a digit, ending in a unit.
pub fn information_unit(text: &str) -> bool {
    const UNITS: [&str; 20] =
        ["k", "ki", "kb", "kib", "m", "mi", "mb", "mib", "g", "gi", "gb", "gib", "t", "ti", "tb", "tib", "p", "pi", "pb", "pib"];
    let text = text.trim_end_matches(' ').to_ascii_lowercase();
    let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let letters = text.len() - number.len();
    (1..=3).contains(&letters) && number.ends_with(|c: char| c.is_ascii_digit()) && UNITS.iter().any(|u| text.ends_with(u))
}

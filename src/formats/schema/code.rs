//! What can be told about the funs of a schema without running them: comparisons with constants and calls with constant keys.
//!
//! Only shapes that the shipped schemas really have are understood; everything else is left alone.

use super::value::{Typed, within};
use crate::formats::erlang::{self, Kind, Token};
use std::fmt;

/// How a number is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    AtLeast,
    Above,
    AtMost,
    Below,
}

/// One comparison with a constant.
#[derive(Debug, Clone, Copy, PartialEq)]
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

/// A validator of the shape `fun(N) when is_integer(N) -> N >= 0 andalso N =< 255 end`.
#[derive(Debug, Clone, PartialEq)]
pub struct Check {
    /// `is_integer` or `is_float`: any other value makes the fun crash, and the broker with it.
    guard: String,
    bounds: Vec<Bound>,
}

impl Check {
    pub fn holds(&self, value: &Typed) -> bool {
        let fits = matches!((self.guard.as_str(), value), ("is_integer", Typed::Int(_)) | ("is_float", Typed::Float(_)));
        fits && within(value, &self.bounds)
    }
}

/// Reads a validator's fun; `None` where it has another shape.
pub fn check(fun: &str) -> Option<Check> {
    let tokens: Vec<Token<'_>> = erlang::tokens(fun).into_iter().filter(|t| !t.is("(") && !t.is(")")).collect();
    let [start, variable, when, guard, guarded, arrow, condition @ .., end] = tokens.as_slice() else { return None };
    let shape = start.is("fun") && when.is("when") && guarded.text == variable.text && arrow.is("->") && end.is("end");
    if !shape || !matches!(guard.text, "is_integer" | "is_float") {
        return None;
    }
    let parts = condition.split(|t| t.is("andalso") || t.is("and"));
    let bounds = parts.map(|p| bound(p, variable.text)).collect::<Option<Vec<Bound>>>()?;
    Some(Check { guard: guard.text.to_owned(), bounds })
}

/// `N >= 5`
fn bound(tokens: &[Token<'_>], variable: &str) -> Option<Bound> {
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

/// Why a translation certainly fails.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Complaint {
    /// It refuses the value of this key (none: whatever is set), with this message.
    Refused { key: Option<String>, message: String },
    /// It also needs this key.
    Missing { key: String },
    /// The value of this key holds characters beyond Latin-1.
    NotLatin1 { key: String },
}

/// Looks for a certain failure of a translation. `get` gives the values that are set and could be read, `given` says whether
/// a key is set or has a default in the schema. `None`: nothing certain.
pub fn complaint(fun: &str, get: &dyn Fn(&str) -> Option<Typed>, given: &dyn Fn(&str) -> bool) -> Option<Complaint> {
    let tokens = erlang::tokens(fun);
    if starts_with(&tokens, &["fun", "(", "*", ")", "->"]) && starts_with(from(&tokens, 5), &INVALID) {
        return Some(Complaint::Refused { key: None, message: message(from(&tokens, 9)) });
    }
    let asked = keys_asked(&tokens);
    let subject = asked.first().and_then(|a| Some((a.key.clone(), get(&a.key)?)));
    let refused =
        subject.and_then(|(key, value)| Some(Complaint::Refused { message: refusal(&tokens, &value)?, key: Some(key) }));
    refused.or_else(|| missing(&tokens, &asked, given)).or_else(|| not_latin1(&asked, get))
}

const CONF_GET: [&str; 4] = ["cuttlefish", ":", "conf_get", "("];
const INVALID: [&str; 4] = ["cuttlefish", ":", "invalid", "("];
const LIST_TO_BINARY: [&str; 2] = ["list_to_binary", "("];

fn from<'s, 't>(tokens: &'s [Token<'t>], at: usize) -> &'s [Token<'t>] {
    tokens.get(at..).unwrap_or_default()
}

/// Whether the tokens begin with these texts; `*` fits any token.
fn starts_with(tokens: &[Token<'_>], texts: &[&str]) -> bool {
    tokens.len() >= texts.len() && tokens.iter().zip(texts).all(|(t, text)| *text == "*" || t.text == *text)
}

/// A call `cuttlefish:conf_get("key", Conf[, Default])`.
struct Asked {
    key: String,
    /// It has a default of its own.
    defaulted: bool,
    /// Its result goes straight into `list_to_binary`.
    to_binary: bool,
}

fn keys_asked(tokens: &[Token<'_>]) -> Vec<Asked> {
    let at = |i: usize| {
        let call = from(tokens, i);
        let key = call.get(4).filter(|t| starts_with(call, &CONF_GET) && t.kind == Kind::String)?;
        let to_binary = i >= 2 && starts_with(from(tokens, i - 2), &LIST_TO_BINARY);
        Some(Asked { key: erlang::unquote(key), defaulted: call.get(7).is_some_and(|t| t.is(",")), to_binary })
    };
    (0..tokens.len()).filter_map(at).collect()
}

/// The message with which a `case` over one key refuses its value.
fn refusal(tokens: &[Token<'_>], value: &Typed) -> Option<String> {
    let Typed::Int(number) = value else { return None };
    (0..tokens.len()).find_map(|i| {
        let clause = from(tokens, i);
        // `1 -> cuttlefish:invalid("…")`
        if clause.first().is_some_and(|t| t.kind == Kind::Integer && erlang::integer(t).as_ref() == Ok(number)) {
            let body = from(clause, 2);
            return (clause.get(1).is_some_and(|t| t.is("->")) && starts_with(body, &INVALID)).then(|| message(from(body, 4)));
        }
        // `N when is_integer(N) andalso N > 0 -> …; … _ -> cuttlefish:invalid("…")`, or the other way round
        if !starts_with(clause, &["*", "when", "is_integer", "(", "*", ")", "andalso", "*", "*", "*", "->"]) {
            return None;
        }
        let bound = bound(clause.get(7..10)?, clause.first()?.text)?;
        let body = from(clause, 11);
        if starts_with(body, &INVALID) {
            return bound.holds(*number as f64).then(|| message(from(body, 4)));
        }
        let rest =
            (0..body.len()).map(|j| from(body, j)).find(|t| starts_with(t, &["_", "->"]) && starts_with(from(t, 2), &INVALID))?;
        (!bound.holds(*number as f64)).then(|| message(from(rest, 6)))
    })
}

fn message(tokens: &[Token<'_>]) -> String {
    tokens.iter().take_while(|t| t.kind == Kind::String).map(erlang::unquote).collect()
}

/// A key that a straight-line translation asks for without a default. With branches it is not certain that it asks.
fn missing(tokens: &[Token<'_>], asked: &[Asked], given: &dyn Fn(&str) -> bool) -> Option<Complaint> {
    if tokens.iter().any(|t| ["case", "if", "receive", "try", "catch"].iter().any(|w| t.is(w))) {
        return None;
    }
    let absent = asked.iter().find(|a| !a.defaulted && !given(&a.key))?;
    Some(Complaint::Missing { key: absent.key.clone() })
}

fn not_latin1(asked: &[Asked], get: &dyn Fn(&str) -> Option<Typed>) -> Option<Complaint> {
    let wide = |a: &&Asked| a.to_binary && matches!(get(&a.key), Some(Typed::Text(t)) if t.chars().any(|c| c as u32 > 255));
    asked.iter().find(wide).map(|a| Complaint::NotLatin1 { key: a.key.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(fun: &str, value: Typed) -> bool {
        check(fun).unwrap().holds(&value)
    }

    #[test]
    fn bounds_of_validators() {
        let byte = "fun(Int) when is_integer(Int) ->\n Int >= 0 andalso Int =< 255 end";
        assert!(holds(byte, Typed::Int(255)) && !holds(byte, Typed::Int(256)) && !holds(byte, Typed::Int(-1)));
        assert!(!holds(byte, Typed::Atom("infinity".into())));
        let port16 = "fun(Int) when is_integer(Int) -> (Int >= 1) and (Int =< 16#ff_ff) end";
        assert!(holds(port16, Typed::Int(65535)) && !holds(port16, Typed::Int(0)));
        let share = "fun(Float) when is_float(Float) -> Float > 0 andalso Float < 1 end";
        assert!(holds(share, Typed::Float(0.5)) && !holds(share, Typed::Float(1.0)));
        assert_eq!(check("fun(Uri) -> string:nth_lexeme(Uri, 1, \"://\") == \"https\" end"), None);
        assert_eq!(check("fun(I) when is_integer(I) -> I rem 2 == 0 end"), None);
    }

    fn of(fun: &str, set: &[(&str, Typed)]) -> Option<Complaint> {
        complaint(fun, &|k| set.iter().find(|(key, _)| *key == k).map(|(_, v)| v.clone()), &|k| {
            set.iter().any(|(key, _)| *key == k)
        })
    }

    #[test]
    fn certain_failures_of_translations() {
        let refused = |key: Option<&str>, m: &str| Some(Complaint::Refused { key: key.map(Into::into), message: m.into() });
        assert_eq!(of("fun(Conf) -> cuttlefish:invalid(\"gone \" \"for good\") end", &[]), refused(None, "gone for good"));

        let positive = "fun(Conf) -> case cuttlefish:conf_get(\"a.b\", Conf, undefined) of undefined -> cuttlefish:unset();
            infinity -> infinity; V when is_integer(V) andalso V > 0 -> V; _ -> cuttlefish:invalid(\"no\") end end";
        assert_eq!(of(positive, &[("a.b", Typed::Int(0))]), refused(Some("a.b"), "no"));
        assert_eq!(of(positive, &[("a.b", Typed::Int(1))]), None);
        assert_eq!(of(positive, &[("a.b", Typed::Atom("infinity".into()))]), None);

        let negative = "fun(Conf) -> case cuttlefish:conf_get(\"a\", Conf) of N when is_integer(N) andalso N < 0 -> cuttlefish:invalid(\"neg\"); V -> V end end";
        assert_eq!(of(negative, &[("a", Typed::Int(-1))]), refused(Some("a"), "neg"));
        assert_eq!(of(negative, &[("a", Typed::Int(1))]), None);

        let one = "fun(Conf) -> case cuttlefish:conf_get(\"v\", Conf, 2) of 1 -> cuttlefish:invalid(\"v1\"); 2 -> 2 end end";
        assert_eq!(of(one, &[("v", Typed::Int(1))]), refused(Some("v"), "v1"));
        assert_eq!(of(one, &[("v", Typed::Int(2))]), None);

        let both = "fun(Conf) -> {cuttlefish:conf_get(\"a\", Conf), cuttlefish:conf_get(\"b\", Conf), cuttlefish:conf_get(\"c\", Conf, 1)} end";
        assert_eq!(of(both, &[("a", Typed::Int(1))]), Some(Complaint::Missing { key: "b".into() }));

        let binary = "fun(Conf) -> list_to_binary(cuttlefish:conf_get(\"u\", Conf)) end";
        assert_eq!(of(binary, &[("u", Typed::Text("ünï".into()))]), None);
        assert_eq!(of(binary, &[("u", Typed::Text("имя".into()))]), Some(Complaint::NotLatin1 { key: "u".into() }));
    }
}

//! advanced.config, and the classic rabbitmq.config in its place: Erlang terms that are put over everything else.

use super::files::{Format, Found};
use super::{Problem, secrets, settings};
use crate::facts::{Fact, Where};
use crate::formats::erlang::{self, Term};
use crate::host::{Host, MAX_CONF};
use std::path::Path;

/// The file that is in force.
#[derive(Debug, Clone, Default)]
pub struct Advanced {
    path: String,
    /// `[{App, [{Key, Value}]}]`
    term: Option<Term>,
    pub has_secret: bool,
}

impl Advanced {
    /// Application and key of everything that the file sets.
    pub fn keys(&self) -> impl Iterator<Item = (&str, &str)> {
        let apps = self.term.iter().flat_map(|term| term.list().unwrap_or_default()).filter_map(Term::pair);
        apps.flat_map(|(app, all)| {
            let keys = all.list().unwrap_or_default().iter().filter_map(Term::pair);
            keys.filter_map(move |(key, _)| Some((app.atom()?, key.atom()?)))
        })
    }

    /// The value of `{App, [{Key, Value}]}` and where it stands.
    pub fn get(&self, app: &str, key: &str) -> Option<(&Term, Where)> {
        let value = self.term.as_ref()?.property(app)?.property(key)?;
        Some((value, Where { file: self.path.clone(), line: Some(value.line), column: Some(value.column) }))
    }
}

/// Reads the Erlang file that is in force, if there is one. A file that this program may not read is unknown.
pub fn read(host: &dyn Host, files: &[Found], problems: &mut Vec<Problem>) -> Fact<Advanced> {
    let Some(file) = files.iter().find(|f| f.format == Format::Erlang && f.ignored.is_none()) else {
        return Fact::Known(Advanced::default());
    };
    if let Fact::Known(false) = file.fact.readable_by_broker {
        problems.push(settings::unreadable(&file.path));
        if !settings::at_home(host, &file.path) {
            return settings::not_the_brokers(&file.path).into();
        }
    }
    let bytes = match host.read(Path::new(&file.path), MAX_CONF) {
        Ok(bytes) => bytes,
        Err(miss) => return miss.into(),
    };
    let text = decode(&bytes);
    let has_secret = text.as_ref().is_ok_and(|t| t.lines().any(|l| secrets::any_line(l).ends_with(secrets::REDACTED)));
    match text.as_ref().map_err(Clone::clone).and_then(|t| one_list(t)) {
        Ok(term) => Fact::Known(Advanced { path: file.path.clone(), term: Some(term), has_secret }),
        Err(error) => {
            let line =
                text.as_ref().ok().and_then(|t| t.lines().nth(usize::try_from(error.line).ok()?.checked_sub(1)?)).unwrap_or("");
            problems.push(Problem {
                code: "advanced-syntax".into(),
                fatal: true,
                key: None,
                value: None,
                message: secrets::any_line(&error.message),
                suggestion: None,
                text: secrets::any_line(line),
                at: Where { file: file.path.clone(), line: Some(error.line), column: Some(error.column) },
            });
            Fact::Unknown(format!("{} cannot be read: {}", file.path, secrets::any_line(&error.to_string())))
        }
    }
}

/// UTF-8, unless a comment in the first two lines says Latin-1.
fn decode(bytes: &[u8]) -> Result<String, erlang::Error> {
    let error = match std::str::from_utf8(bytes) {
        Ok(text) => return Ok(text.to_owned()),
        Err(error) => error,
    };
    let latin1: String = bytes.iter().map(|b| char::from(*b)).collect();
    if latin1.lines().take(2).any(|l| l.contains("coding:") && l.to_lowercase().contains("latin-1")) {
        return Ok(latin1);
    }
    let before = bytes.get(..error.valid_up_to()).unwrap_or_default();
    let line = 1 + before.iter().filter(|b| **b == b'\n').count();
    let column = 1 + before.iter().rev().take_while(|b| **b != b'\n').count();
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    Err(erlang::Error { line: number(line), column: number(column), message: "not UTF-8".into() })
}

/// One list, ended by a dot.
fn one_list(text: &str) -> Result<Term, erlang::Error> {
    let mut terms = erlang::consult(text)?.into_iter();
    let wrong = |line, column| erlang::Error {
        line,
        column,
        message: "expected one list [{application, [{key, value}]}]. and nothing else".into(),
    };
    match (terms.next(), terms.next()) {
        (Some(one), None) if one.list().is_some() => Ok(one),
        (Some(one), None) => Err(wrong(one.line, one.column)),
        (_, Some(second)) => Err(wrong(second.line, second.column)),
        (None, None) => Err(wrong(1, 1)),
    }
}

//! advanced.config, and the classic rabbitmq.config in its place: Erlang terms that are put over everything else.

use super::files::{Format, Found};
use super::{Problem, secrets, settings};
use crate::facts::{Fact, Where};
use crate::formats::erlang::{self, Dialect, Reader, Term, Value};
use crate::formats::mend;
use crate::host::{Host, MAX_CONF};
use std::path::Path;

/// The file that is in force.
#[derive(Debug, Clone, Default)]
pub struct Advanced {
    path: String,
    overlay: Overlay,
    pub has_secret: bool,
}

impl Advanced {
    /// Application and key of everything that the file sets.
    pub fn keys(&self) -> impl Iterator<Item = (&str, &str)> {
        self.overlay
            .apps()
            .iter()
            .flat_map(|(app, settings)| settings.iter().filter_map(move |(key, _)| Some((app.atom()?, key.atom()?))))
    }

    /// A passphrase for encrypted values is configured.
    pub fn has_passphrase(&self) -> bool {
        self.get("rabbit", "config_entry_decoder").is_some_and(|(decoder, _)| decoder.property("passphrase").is_some())
    }

    /// The place of an encrypted value.
    pub fn encrypted(&self) -> Option<Where> {
        let value = self.overlay.apps().iter().flat_map(|(_, settings)| settings).find_map(|(_, value)| encrypted(value))?;
        Some(Where { file: self.path.clone(), line: Some(value.line), column: Some(value.column) })
    }

    /// The value of `{App, [{Key, Value}]}` and where it stands.
    pub fn get(&self, app: &str, key: &str) -> Option<(&Term, Where)> {
        let (_, settings) = self.overlay.0.iter().rev().find(|(a, _)| a.atom() == Some(app))?;
        let (_, value) = settings.iter().rev().find(|(k, _)| k.atom() == Some(key))?;
        Some((value, Where { file: self.path.clone(), line: Some(value.line), column: Some(value.column) }))
    }
}

/// The first `{encrypted, …}` where the broker looks for one: in lists, and as values of pairs in them
/// (rabbit_prelaunch_conf:decrypt_config/1).
fn encrypted(term: &Term) -> Option<&Term> {
    let is_it = |term: &Term| term.pair().is_some_and(|(tag, _)| tag.atom() == Some("encrypted"));
    if is_it(term) {
        return Some(term);
    }
    let inside = |item| match term_value(item) {
        Some(value) => encrypted(value),
        None => encrypted(item),
    };
    term.list()?.iter().find_map(inside)
}

/// The value of a pair that is not encrypted itself.
fn term_value(item: &Term) -> Option<&Term> {
    item.pair().filter(|(key, _)| key.atom() != Some("encrypted")).map(|(_, value)| value)
}

/// Settings of applications in order. Of several entries for one application only the last counts, and of several for one key in
/// it the last (cuttlefish_advanced:overlay).
#[derive(Debug, Clone, Default)]
pub(crate) struct Overlay(Vec<(Term, Vec<(Term, Term)>)>);

impl Overlay {
    /// Applications with their keys and values, as they stand there.
    pub(crate) fn apps(&self) -> &[(Term, Vec<(Term, Term)>)] {
        &self.0
    }
}

/// Reads the Erlang file that is in force, if there is one. A file that this program may not read is unknown.
pub fn read(host: &dyn Host, files: &[Found], dialect: Dialect, problems: &mut Vec<Problem>) -> Fact<Advanced> {
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
    let lines = String::from_utf8_lossy(&bytes);
    let has_secret = lines.lines().any(|l| secrets::any_line(l).ends_with(secrets::REDACTED));
    match parse(&bytes, dialect) {
        Ok(overlay) => Fact::Known(Advanced { path: file.path.clone(), overlay, has_secret }),
        // What becomes terms with plain quotation marks in the place of typographic ones was none with those: to Erlang they are letters.
        Err(error) if !error.certain && mend::quotes(&bytes).is_none_or(|plain| parse(&plain, dialect).is_err()) => {
            Fact::Unknown(format!("{} is not read: {}", file.path, secrets::any_line(&error.to_string())))
        }
        Err(error) => {
            let line = usize::try_from(error.line).ok().and_then(|n| lines.lines().nth(n.checked_sub(1)?)).unwrap_or("");
            let at = Where { file: file.path.clone(), line: Some(error.line), column: Some(error.column) };
            let message = if error.certain { error.message } else { "typographic quotation marks".to_owned() };
            let problem = Problem::new("advanced-syntax", true, secrets::any_line(&message), at);
            problems.push(Problem { text: secrets::any_line(line), ..problem });
            Fact::Unknown(format!("{} cannot be read: line {}: {}", file.path, error.line, secrets::any_line(&message)))
        }
    }
}

/// Who reads advanced.config in this release of RabbitMQ, with this one of Erlang. Without a release: the newest.
pub fn dialect(version: Option<(u32, u32, u32)>, otp: Option<u32>) -> Dialect {
    let consults = version.is_some_and(|v| v < (3, 9, 21) || ((3, 10, 0)..(3, 10, 6)).contains(&v));
    Dialect { reader: if consults { Reader::Consult } else { Reader::Expression }, otp }
}

/// Line and column of the value that counts for `{App, [{Key, Value}]}` in a text of plain terms.
pub fn place(text: &str, app: &str, key: &str) -> Option<(u32, u32)> {
    let overlay = parse(text.as_bytes(), Dialect { reader: Reader::Consult, otp: None }).ok()?;
    let (value, _) = Advanced { path: String::new(), overlay, has_secret: false }.get(app, key).map(|(v, at)| (v.clone(), at))?;
    Some((value.line, value.column))
}

/// One list of `{Application, [{Key, Value}]}`, ended by a dot: anything else crashes the broker as it puts it over the
/// configuration.
pub(crate) fn parse(bytes: &[u8], dialect: Dialect) -> Result<Overlay, erlang::Error> {
    let terms = erlang::read(bytes, dialect)?;
    let wrong = |line, column| erlang::Error {
        line,
        column,
        message: "expected one list [{application, [{key, value}]}]. and nothing else".into(),
        certain: true,
    };
    let one = match &terms[..] {
        [one] => one,
        [_, second, ..] => return Err(wrong(second.line, second.column)),
        [] => return Err(wrong(1, 1)),
    };
    let bad = |term: &Term| erlang::Error { certain: !matches!(term.value, Value::Opaque), ..wrong(term.line, term.column) };
    let mut overlay = Overlay::default();
    for app in one.list().ok_or_else(|| bad(one))? {
        let (name, settings) = app.pair().ok_or_else(|| bad(app))?;
        let pair = |setting: &Term| setting.pair().map(|(k, v)| (k.clone(), v.clone())).ok_or_else(|| bad(setting));
        let settings = settings.list().ok_or_else(|| bad(settings))?.iter().map(pair).collect::<Result<_, _>>()?;
        overlay.0.push((name.clone(), settings));
    }
    Ok(overlay)
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVALUATED: Dialect = Dialect { reader: Reader::Expression, otp: Some(27) };

    fn get(text: &str, app: &str, key: &str) -> Option<String> {
        let overlay = parse(text.as_bytes(), EVALUATED).unwrap();
        let advanced = Advanced { overlay, ..Advanced::default() };
        advanced.get(app, key).map(|(value, _)| value.value.to_string())
    }

    #[test]
    fn encrypted_values_are_found_where_the_broker_looks() {
        let found = |text: &str| {
            let advanced = Advanced { overlay: parse(text.as_bytes(), EVALUATED).unwrap(), ..Advanced::default() };
            advanced.encrypted().and_then(|at| at.column)
        };
        assert_eq!(found("[{rabbit, [{ssl_options, [{password, {encrypted, <<\"x\">>}}]}]}]."), Some(38));
        assert_eq!(found("[{rabbit, [{a, {b, {encrypted, <<\"x\">>}}}, {c, [x]}]}]."), None);
    }

    #[test]
    fn the_last_entry_of_an_application_counts_alone() {
        let text = "[{rabbit, [{a, 1}, {b, 2}]}, {kernel, [{a, 3}]}, {rabbit, [{a, 4}, {a, 5}]}].";
        assert_eq!(get(text, "rabbit", "a").as_deref(), Some("5"));
        assert_eq!(get(text, "rabbit", "b"), None);
        assert_eq!(get(text, "kernel", "a").as_deref(), Some("3"));
    }

    #[test]
    fn what_is_not_pairs_of_pairs_crashes_the_broker() {
        for text in ["[rabbit].", "[{rabbit, a}].", "[{rabbit, [a]}].", "[{rabbit, \"a\"}].", "{rabbit, []}.", "a. b.", ""] {
            assert!(parse(text.as_bytes(), EVALUATED).is_err_and(|e| e.certain), "{text}");
        }
        assert!(parse(b"[{rabbit, \"\"}].", EVALUATED).is_ok());
        assert!(parse(b"[{rabbit, [{a, 1} | b]}].", EVALUATED).is_err_and(|e| !e.certain));
    }

    #[test]
    fn releases_have_their_readers() {
        let of = |version: (u32, u32, u32)| dialect(Some(version), None).reader;
        let consulted = [(3, 8, 9), (3, 9, 20), (3, 10, 0), (3, 10, 5)].map(of);
        assert_eq!(consulted, [Reader::Consult; 4]);
        assert_eq!([(3, 9, 21), (3, 10, 6), (3, 11, 0), (4, 0, 5)].map(of), [Reader::Expression; 4]);
    }
}

//! Definitions that are imported at boot (users, vhosts, permissions, …): files of JSON that the configuration names.

use super::access::{self, User};
use super::advanced::Advanced;
use super::settings::Settings;
use super::{Problem, secrets};
use crate::facts::{Fact, Where};
use crate::host::{Host, Kind, Miss, optional};
use serde::de::IgnoredAny;
use std::collections::BTreeMap;
use std::path::Path;

/// Definitions of a large broker are a few MiB; what is larger is not read.
const MAX_DEFINITIONS: u64 = 64 * 1024 * 1024;

/// What the version of RabbitMQ does with definitions that are no JSON (rabbit_definitions.erl, rabbit_json.erl of the release tags).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Reader {
    /// It does not boot; earlier releases go on without what the file defines (since 3.10.11 and 3.11.3).
    fatal: bool,
    /// A comma before a closing bracket is passed over (jsx, before 3.11).
    trailing_commas: bool,
}

impl Reader {
    fn of(version: (u32, u32, u32)) -> Reader {
        let fatal = version >= (3, 11, 3) || ((3, 10, 11)..(3, 11, 0)).contains(&version);
        Reader { fatal, trailing_commas: version < (3, 11, 0) }
    }
}

/// Where the configuration says that definitions are: the path and the place that says so.
struct Named {
    path: String,
    at: Where,
    text: String,
    key: String,
}

impl Named {
    fn no_json(&self, broken: &Broken, reader: Reader) -> Problem {
        let end = if reader.fatal { "the broker does not boot" } else { "the broker boots without what it defines" };
        let Broken { file, line, column, message } = broken;
        let message = format!("the definitions are no JSON object: {file}:{line}:{column}: {message}; {end}");
        self.problem("definitions-not-json", reader.fatal, message)
    }

    fn problem(&self, code: &str, fatal: bool, message: String) -> Problem {
        Problem {
            key: Some(self.key.clone()),
            value: Some(self.path.clone()),
            text: self.text.clone(),
            ..Problem::new(code, fatal, message, self.at.clone())
        }
    }
}

/// Whoever reads definitions.
pub struct Files<'a> {
    pub host: &'a dyn Host,
    /// The broker's user.
    pub user: &'a Fact<User>,
    /// The version of RabbitMQ.
    pub version: (u32, u32, u32),
}

impl Files<'_> {
    /// Checks the definitions that are imported at boot. What could not be looked at goes to `undecided`.
    pub fn check(&self, settings: &Settings, advanced: &Advanced, undecided: &mut Vec<String>) -> Vec<Problem> {
        let mut problems = Vec::new();
        // Where nothing is installed, what the path stands for is not here.
        let Fact::Known(user) = self.user else { return problems };
        for named in named(settings, advanced) {
            match self.broken(user, &named) {
                Ok(broken) => problems.extend(broken),
                Err(miss) => undecided.push(format!("{}: {miss}", named.key)),
            }
        }
        problems
    }

    /// Files that are no JSON. One that the broker may not read is a problem of its own, and none that this program quotes.
    fn broken(&self, user: &User, named: &Named) -> Result<Vec<Problem>, Miss> {
        let path = Path::new(&named.path);
        if let Some(why) = access::may(self.host, user, path, access::READ)?.refusal(path) {
            return Ok(vec![named.problem("missing-file", true, why)]);
        }
        let mut broken = Vec::new();
        for file in self.files(&named.path)? {
            if let Some(why) = access::may(self.host, user, Path::new(&file), access::READ)?.refusal(Path::new(&file)) {
                broken.push(named.problem("missing-file", true, why));
                continue;
            }
            let reader = Reader::of(self.version);
            let place = stop(&self.host.read(Path::new(&file), MAX_DEFINITIONS)?, reader);
            broken.extend(place.map(|place| named.no_json(&Broken { file, ..place }, reader)));
        }
        Ok(broken)
    }

    /// The file, or the files of the directory by name; none if there is nothing (which the schema's own check says).
    fn files(&self, path: &str) -> Result<Vec<String>, Miss> {
        match optional(self.host.stat(Path::new(path), true))?.map(|meta| meta.kind) {
            Some(Kind::Dir) => Ok(self.host.list(Path::new(path))?.into_iter().map(|name| format!("{path}/{name}")).collect()),
            Some(Kind::File) => Ok(vec![path.to_owned()]),
            _ => Ok(Vec::new()),
        }
    }
}

/// `load_definitions`, its older spelling below `management`, and `definitions.local.path`; advanced.config goes before.
fn named(settings: &Settings, advanced: &Advanced) -> Vec<Named> {
    let mut named = Vec::new();
    for (app, key, conf) in [
        ("rabbit", "load_definitions", "load_definitions"),
        ("rabbitmq_management", "load_definitions", "management.load_definitions"),
    ] {
        if let Some((term, at)) = advanced.get(app, key) {
            named.extend(term.text().filter(|path| path != "none").map(|path| Named {
                path,
                at,
                text: String::new(),
                key: key.into(),
            }));
        } else {
            named.extend(settings.get(conf).map(of_line));
        }
    }
    let local = settings.value("definitions.import_backend").is_none_or(|backend| backend.contains("local"));
    named.extend(settings.get("definitions.local.path").filter(|_| local).map(of_line));
    named
}

fn of_line(line: &super::settings::Line) -> Named {
    let text = secrets::line(&line.entry.key, &line.entry.text, line.entry.value_column);
    Named { path: line.entry.value.clone(), at: line.value_at(), text, key: line.entry.key.clone() }
}

/// Where a file stops being a JSON object.
struct Broken {
    file: String,
    line: usize,
    column: usize,
    message: String,
}

fn stop(bytes: &[u8], reader: Reader) -> Option<Broken> {
    type Object = BTreeMap<String, IgnoredAny>;
    let error = serde_json::from_slice::<Object>(bytes).err()?;
    if reader.trailing_commas && serde_json::from_slice::<Object>(&without_trailing_commas(bytes)).is_ok() {
        return None;
    }
    // The place, at the end of the message, is told apart.
    let message = error.to_string().split(" at line ").next().unwrap_or_default().to_owned();
    Some(Broken { file: String::new(), line: error.line(), column: error.column(), message })
}

/// The text with commas before closing brackets as blanks; strings are left alone.
fn without_trailing_commas(bytes: &[u8]) -> Vec<u8> {
    let mut out = bytes.to_vec();
    let (mut in_string, mut escaped, mut comma) = (false, false, None);
    for (at, byte) in bytes.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => {
                in_string = !in_string;
                comma = None;
            }
            _ if in_string => {}
            b',' => comma = Some(at),
            b'}' | b']' => {
                if let Some(place) = comma.take().and_then(|at| out.get_mut(at)) {
                    *place = b' ';
                }
            }
            b if b.is_ascii_whitespace() => {}
            _ => comma = None,
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_differ() {
        let of = |version| (Reader::of(version).fatal, Reader::of(version).trailing_commas);
        assert_eq!(of((3, 8, 9)), (false, true));
        assert_eq!(of((3, 10, 8)), (false, true));
        assert_eq!(of((3, 10, 11)), (true, true));
        assert_eq!(of((3, 11, 2)), (false, false));
        assert_eq!(of((4, 0, 5)), (true, false));
    }

    #[test]
    fn what_is_no_json_is_named_with_its_place() {
        let place = |text: &str, version| stop(text.as_bytes(), Reader::of(version)).map(|b| (b.line, b.column));
        assert_eq!(place("{\"users\": [\n  {\"name\": \"a\"},\n]}", (4, 0, 5)), Some((3, 1)));
        assert_eq!(place("{\"users\": [\n  {\"name\": \"a\"},\n]}", (3, 10, 8)), None);
        assert!(place("[]", (4, 0, 5)).is_some() && place("", (3, 8, 9)).is_some());
        assert_eq!(place("{\"users\": []}", (4, 0, 5)), None);
    }

    #[test]
    fn commas_before_closing_brackets() {
        let text = br#"{"a": [1, 2 , ], "b": "x,}", "c": {"d": 1,},}"#;
        let plain = without_trailing_commas(text);
        assert_eq!(String::from_utf8(plain).unwrap(), r#"{"a": [1, 2   ], "b": "x,}", "c": {"d": 1 } }"#);
    }
}

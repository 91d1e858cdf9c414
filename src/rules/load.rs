//! From a rule file to a [`Rule`]. Every mistake is an error with file, line and column.

use super::check::{self, Given, Typed};
use super::expr::Expr;
use super::schema::Type;
use super::template::Template;
use super::version::Range;
use super::{Fix, Rule, RuleSet, Severity};
use include_dir::{Dir, include_dir};
use serde::Deserialize;
use serde::de::value::{Error as ValueError, StrDeserializer};
use std::collections::BTreeMap;
use toml_edit::{Document, Item, TableLike};

/// A mistake in a rule file. Lines and columns count from 1.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}:{column}: {message}")]
pub struct LoadError {
    pub file: String,
    pub line: u32,
    pub column: u32,
    pub message: String,
}

impl LoadError {
    pub fn at(file: &str, line: u32, column: u32, message: impl Into<String>) -> Self {
        LoadError { file: file.to_owned(), line, column, message: message.into() }
    }
}

/// Actions that a fix may ask for: name, parameters that must be there, parameters that may be.
pub const ACTIONS: &[(&str, &[&str], &[&str])] = &[
    ("start-service", &["unit"], &[]),
    ("unit-enable", &["unit"], &[]),
    ("unit-start", &["unit"], &[]),
    ("unit-unmask", &["unit"], &[]),
    ("unit-reset-failed", &["unit"], &[]),
    ("edit-unit", &["file", "directive"], &["instead", "add", "only"]),
    ("daemon-reload", &["unit"], &[]),
    ("repair-text", &["file", "kind"], &["line"]),
    ("set-aside", &["path"], &[]),
    ("new-cookie", &["path"], &[]),
    ("set-node-name", &["node"], &[]),
    ("revive-node", &[], &[]),
    ("take-over", &["unit"], &[]),
    ("restart-broker", &[], &[]),
    ("set-conf", &["key", "value"], &["file"]),
    ("set-term", &["file", "app", "key", "value"], &[]),
    ("move-file", &["path", "to"], &[]),
    ("unset-conf", &["key", "file", "line"], &[]),
    ("comment-conf", &["file", "line"], &[]),
    ("rename-conf-key", &["file", "line", "to"], &[]),
    ("set-conf-line", &["file", "line", "value"], &[]),
    ("comment-env", &["file", "line"], &[]),
    ("unset-env", &["name", "file", "line"], &[]),
    ("open-port", &["client"], &[]),
    ("lift-ban", &["client"], &[]),
    ("keep-destination", &["client"], &[]),
    ("let-peers-in", &[], &[]),
    ("close-port", &["port"], &["service", "allow", "only"]),
    ("open-loopback", &[], &[]),
    ("create-user", &[], &["client", "name", "vhost"]),
    ("grant-permission", &["user", "vhost"], &[]),
    ("set-user-tags", &["user", "tag"], &[]),
    ("set-password", &["client"], &[]),
    ("reset-watermark", &[], &[]),
    ("add-vhost", &["name"], &[]),
    ("enable-plugin", &["name"], &[]),
    ("tls-versions", &["block"], &[]),
    ("certificate-to-pem", &["path"], &[]),
    ("broker-may-read", &["path"], &["private", "restart"]),
    ("join-group", &["group"], &[]),
    ("file-mode", &["path", "mode"], &[]),
    ("file-owner", &["path"], &["recursive", "restart"]),
    ("hosts-entry", &["name", "address"], &[]),
    ("resume-listeners", &[], &[]),
    ("continue-process", &[], &[]),
    ("none", &[], &[]),
];

static FILES: Dir = include_dir!("$CARGO_MANIFEST_DIR/rules");

/// The rules that are compiled in. They were checked against the schema when they were tested; their expressions are compiled
/// when they are first judged.
pub fn builtin() -> Result<RuleSet, LoadError> {
    let mut set = RuleSet::default();
    let mut index = index()?;
    for (area, file) in FILES.dirs().flat_map(|area| area.files().map(move |file| (area, file))) {
        let path = file.path().display().to_string();
        let text = file.contents_utf8().ok_or_else(|| LoadError::at(&path, 1, 1, "not UTF-8"))?;
        let area = area.path().display().to_string();
        let mut rule = parse(&path, &area, without_tests(text))?;
        rule.account(index.remove(rule.name.as_str()));
        set.add(rule, &path)?;
    }
    match index.keys().next() {
        Some(gone) => Err(LoadError::at(INDEX, 1, 1, format!("there is no rule `{gone}`"))),
        None => Ok(set),
    }
}

/// Written by tests/lab/faults: on which faults of real hosts each rule fired.
const INDEX: &str = "fired.toml";

/// One line per rule. It is read at every start, so it is taken apart no further than needed.
fn index() -> Result<BTreeMap<&'static str, &'static str>, LoadError> {
    let text = FILES.get_file(INDEX).and_then(|file| file.contents_utf8()).unwrap_or_default();
    let lines = text.lines().enumerate().filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    let entry = |(nth, line): (usize, &'static str)| {
        let (rule, fired) = line
            .split_once(" = \"")
            .ok_or_else(|| LoadError::at(INDEX, u32::try_from(nth).unwrap_or(0) + 1, 1, "not `RULE = \"FAULTS\"`"))?;
        Ok((rule, fired.trim_end_matches('"')))
    };
    lines.map(entry).collect()
}

/// A rule of this site: `file` is its path, for messages and for its name. It is checked against the schema of facts. That nobody
/// but root could have written the file is the caller's to see to.
pub fn site(file: &str, bytes: &[u8]) -> Result<Rule, Vec<LoadError>> {
    let text = std::str::from_utf8(bytes).map_err(|_| vec![LoadError::at(file, 1, 1, "not UTF-8")])?;
    let rule = parse(file, "site", text).map_err(|e| vec![e])?;
    let faults = faults(&rule, file);
    if faults.is_empty() { Ok(rule) } else { Err(faults) }
}

/// A rule's tests are the last part of its file, and nothing to a user of the program.
fn without_tests(text: &str) -> &str {
    text.find("\n[[test]]").map_or(text, |end| &text[..end])
}

/// Reads a rule file, without checking its expressions.
pub(super) fn parse(file: &str, area: &str, text: &str) -> Result<Rule, LoadError> {
    let document = Document::parse(text).map_err(|e| {
        let (line, column) = position(text, e.span().map_or(0, |s| s.start));
        LoadError::at(file, line, column, e.message())
    })?;
    let table = Table { file, text, table: document.as_table(), at: (1, 1) };
    table.only(&[
        "title",
        "severity",
        "severity_when",
        "stage",
        "rabbitmq",
        "explains",
        "sees",
        "why",
        "references",
        "when",
        "each",
        "fail",
        "message",
        "at",
        "evidence",
        "subject",
        "fix",
        "test",
    ])?;
    let rule = Rule {
        name: name_of(file),
        area: area.to_owned(),
        title: table.required("title")?,
        severity: table.name_required("severity")?,
        severity_when: table.tables("severity_when")?.iter().map(severity_when).collect::<Result<_, _>>()?,
        stage: table.name_required("stage")?,
        versions: table.value("rabbitmq", Range::parse)?,
        explains: table.strings("explains")?,
        sees: table.optional("sees")?,
        why: table.required("why")?,
        references: table.strings("references")?,
        when: table.expr("when")?,
        each: table.expr("each")?,
        fail: table.expr("fail")?,
        message: table.template("message")?.ok_or_else(|| table.missing("message"))?,
        at: table.expr("at")?,
        evidence: table.expr("evidence")?,
        subject: table.template("subject")?,
        fired: "",
        preview: false,
        fixes: table.tables("fix")?.iter().map(fix).collect::<Result<_, _>>()?,
        #[cfg(test)]
        tests: table.tables("test")?.iter().map(rule_test).collect::<Result<_, _>>()?,
    };
    if rule.each.is_none() && rule.fail.is_none() {
        return Err(table.missing("fail"));
    }
    Ok(rule)
}

fn name_of(file: &str) -> String {
    let name = file.rsplit('/').next().unwrap_or(file);
    name.strip_suffix(".toml").unwrap_or(name).to_owned()
}

fn severity_when(table: &Table) -> Result<(Expr, Severity), LoadError> {
    table.only(&["when", "severity"])?;
    Ok((table.expr("when")?.ok_or_else(|| table.missing("when"))?, table.name_required("severity")?))
}

fn fix(table: &Table) -> Result<Fix, LoadError> {
    table.only(&["when", "action", "with", "tier", "note"])?;
    let action = table.required("action")?;
    let Some((_, must, may)) = ACTIONS.iter().find(|(name, ..)| *name == action) else {
        return Err(table.error("action", format!("there is no action `{action}`")));
    };
    let mut with = BTreeMap::new();
    for parameters in table.tables("with")? {
        parameters.only(&[*must, *may].concat())?;
        for (name, _) in parameters.table.iter() {
            with.extend(parameters.template(name)?.map(|t| (name.to_owned(), t)));
        }
    }
    if let Some(missing) = must.iter().find(|m| !with.contains_key(**m)) {
        return Err(table.error("action", format!("`{action}` needs `{missing}` in `with`")));
    }
    Ok(Fix {
        when: table.expr("when")?,
        action,
        with,
        tier: table.name_required("tier")?,
        note: table.template("note")?,
        note_text: table.optional("note")?,
    })
}

/// A `[[test]]` of a rule file: changes to the facts of a healthy host, and the verdict they lead to.
#[cfg(test)]
#[derive(Debug)]
pub(super) struct RuleTest {
    pub name: String,
    pub set: serde_json::Value,
    pub null: Vec<String>,
    pub unknown: Vec<String>,
    pub expect: String,
    /// Texts that the message of the first hit must hold.
    pub message: Vec<String>,
    /// Action of the first hit's fix.
    pub fix: Option<String>,
}

#[cfg(test)]
fn rule_test(table: &Table) -> Result<RuleTest, LoadError> {
    table.only(&["name", "set", "null", "unknown", "expect", "message", "fix"])?;
    let set = table.table.get("set").map_or(serde_json::Value::Null, as_json);
    Ok(RuleTest {
        name: table.required("name")?,
        set,
        null: table.strings("null")?,
        unknown: table.strings("unknown")?,
        expect: table.required("expect")?,
        message: table.strings("message")?,
        fix: table.optional("fix")?,
    })
}

#[cfg(test)]
fn as_json(item: &Item) -> serde_json::Value {
    use serde_json::Value as Json;
    if let Some(table) = item.as_table_like() {
        return Json::Object(table.iter().map(|(k, v)| (k.to_owned(), as_json(v))).collect());
    }
    if let Some(array) = item.as_array() {
        return array.iter().map(|v| as_json(&Item::Value(v.clone()))).collect();
    }
    let text = item.as_str().map(Json::from).or(item.as_integer().map(Json::from)).or(item.as_bool().map(Json::from));
    text.unwrap_or(Json::Null)
}

/// Line and column of a byte, from 1.
fn position(text: &str, offset: usize) -> (u32, u32) {
    Expr::new(text, 1, 1).position(offset)
}

/// A table of the file with what is needed to complain about it.
struct Table<'a> {
    file: &'a str,
    text: &'a str,
    table: &'a dyn TableLike,
    at: (u32, u32),
}

impl<'a> Table<'a> {
    fn only(&self, known: &[&str]) -> Result<(), LoadError> {
        match self.table.iter().find(|(key, _)| !known.contains(key)) {
            None => Ok(()),
            Some((key, _)) => Err(self.error(key, format!("unknown key `{key}`; there are: {}", known.join(", ")))),
        }
    }

    /// An error at a key of this table.
    fn error(&self, key: &str, message: impl Into<String>) -> LoadError {
        let span = self.table.key(key).and_then(|k| k.span()).or_else(|| self.table.get(key).and_then(Item::span));
        let (line, column) = span.map_or(self.at, |s| position(self.text, s.start));
        LoadError::at(self.file, line, column, message)
    }

    fn missing(&self, key: &str) -> LoadError {
        LoadError::at(self.file, self.at.0, self.at.1, format!("`{key}` is missing"))
    }

    fn optional(&self, key: &str) -> Result<Option<String>, LoadError> {
        match self.table.get(key) {
            None => Ok(None),
            Some(item) => item.as_str().map(|s| Some(s.to_owned())).ok_or_else(|| self.error(key, format!("`{key}` is a text"))),
        }
    }

    fn required(&self, key: &str) -> Result<String, LoadError> {
        self.optional(key)?.ok_or_else(|| self.missing(key))
    }

    fn strings(&self, key: &str) -> Result<Vec<String>, LoadError> {
        let wrong = || self.error(key, format!("`{key}` is a list of texts"));
        match self.table.get(key) {
            None => Ok(Vec::new()),
            Some(item) => {
                item.as_array().ok_or_else(wrong)?.iter().map(|v| v.as_str().map(str::to_owned).ok_or_else(wrong)).collect()
            }
        }
    }

    fn value<T>(&self, key: &str, read: impl Fn(&str) -> Result<T, String>) -> Result<Option<T>, LoadError> {
        self.optional(key)?.map(|text| read(&text).map_err(|e| self.error(key, e))).transpose()
    }

    /// One of the names of an enum.
    fn name_required<T: for<'de> Deserialize<'de>>(&self, key: &str) -> Result<T, LoadError> {
        let read = |text: &str| T::deserialize(StrDeserializer::<ValueError>::new(text)).map_err(|e| e.to_string());
        self.value(key, read)?.ok_or_else(|| self.missing(key))
    }

    /// A table, or several of that name.
    fn tables(&self, key: &str) -> Result<Vec<Table<'a>>, LoadError> {
        let sub = |table: &'a dyn TableLike, span: Option<std::ops::Range<usize>>| {
            let at = span.map_or(self.at, |s| position(self.text, s.start));
            Table { file: self.file, text: self.text, table, at }
        };
        match self.table.get(key) {
            None => Ok(Vec::new()),
            Some(Item::ArrayOfTables(tables)) => Ok(tables.iter().map(|t| sub(t, t.span())).collect()),
            Some(item) => match (item.as_table_like(), item.as_array()) {
                (Some(table), _) => Ok(vec![sub(table, item.span())]),
                (None, Some(array)) => array
                    .iter()
                    .map(|v| {
                        v.as_inline_table()
                            .map(|t| sub(t, v.span()))
                            .ok_or_else(|| self.error(key, format!("`{key}` is a list of tables")))
                    })
                    .collect(),
                (None, None) => Err(self.error(key, format!("`{key}` is a table"))),
            },
        }
    }

    fn expr(&self, key: &str) -> Result<Option<Expr>, LoadError> {
        let Some(source) = self.optional(key)? else { return Ok(None) };
        let (line, column) = self.start_of_text(key);
        Ok(Some(Expr::new(source, line, column)))
    }

    /// A text with holes; a number or true/false is taken as it is.
    fn template(&self, key: &str) -> Result<Option<Template>, LoadError> {
        let Some(item) = self.table.get(key) else { return Ok(None) };
        let literal = item.as_integer().map(|i| format!("{{{i}}}")).or(item.as_bool().map(|b| format!("{{{b}}}")));
        let text = match literal {
            Some(literal) => literal,
            None => self.required(key)?,
        };
        let (line, column) = self.start_of_text(key);
        let wrong = |(offset, message): (usize, String)| {
            let (line, column) = Expr::new(text.as_str(), line, column).position(offset);
            LoadError::at(self.file, line, column, message)
        };
        Template::parse(&text, line, column).map(Some).map_err(wrong)
    }

    /// Where the first character of a quoted text stands.
    fn start_of_text(&self, key: &str) -> (u32, u32) {
        let start = self.table.get(key).and_then(Item::span).map_or(0, |s| s.start);
        let raw = self.text.get(start..).unwrap_or_default();
        let skip = match raw.get(..3) {
            Some("\"\"\"" | "'''") if raw[3..].starts_with('\n') => 4,
            Some("\"\"\"" | "'''") => 3,
            _ if raw.starts_with(['"', '\'']) => 1,
            _ => 0,
        };
        position(self.text, start + skip)
    }
}

/// Everything that is wrong with a rule's expressions.
pub(super) fn faults(rule: &Rule, file: &str) -> Vec<LoadError> {
    let mut faults = Faults { file, found: Vec::new() };
    let mut given = Given::default();
    if let Some(when) = &rule.when {
        faults.condition(when, &given);
        given = given.and(when);
    }
    if let Some(each) = &rule.each {
        given.it = faults.expr(each, &given).map(|typed| {
            if !matches!(typed.kind, Type::List(_) | Type::Any) {
                faults.add(each, 0, format!("`each` is a list, not {}", typed.kind));
            }
            typed.element()
        });
    }
    if let Some(fail) = &rule.fail {
        faults.condition(fail, &given);
        given = given.and(fail);
    }
    for (when, _) in &rule.severity_when {
        faults.condition(when, &given);
    }
    let texts = [Some(&rule.message), rule.subject.as_ref()];
    faults.templates(texts.into_iter().flatten(), &given);
    for expr in [&rule.at, &rule.evidence].into_iter().flatten() {
        faults.expr(expr, &given);
    }
    for fix in &rule.fixes {
        let mut given = given.clone();
        if let Some(when) = &fix.when {
            faults.condition(when, &given);
            given = given.and(when);
        }
        faults.templates(fix.with.values().chain(&fix.note), &given);
    }
    faults.found
}

struct Faults<'a> {
    file: &'a str,
    found: Vec<LoadError>,
}

impl Faults<'_> {
    fn add(&mut self, expr: &Expr, offset: usize, message: String) {
        let (line, column) = expr.position(offset);
        self.found.push(LoadError::at(self.file, line, column, message));
    }

    fn expr(&mut self, expr: &Expr, given: &Given) -> Option<Typed> {
        match check::check(expr, given) {
            Ok(typed) => Some(typed),
            Err(faults) => {
                for fault in faults {
                    self.add(expr, fault.offset, fault.message);
                }
                None
            }
        }
    }

    fn condition(&mut self, expr: &Expr, given: &Given) {
        if let Some(typed) = self.expr(expr, given)
            && !matches!(typed.kind, Type::Bool | Type::Any)
        {
            self.add(expr, 0, format!("a condition is true or false, not {}", typed.kind));
        }
    }

    fn templates<'t>(&mut self, templates: impl Iterator<Item = &'t Template>, given: &Given) {
        for hole in templates.flat_map(Template::holes) {
            self.expr(hole, given);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: &str = r#"title = "t"
severity = "error"
stage = "login"
why = "because"
fail = "os.root"
message = "{os.now}"
"#;

    fn mistakes(text: &str) -> Vec<String> {
        site("/etc/rmq-audit/rules.d/mine.toml", text.as_bytes())
            .err()
            .unwrap_or_default()
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn a_site_rule() {
        let rule = site("/etc/rmq-audit/rules.d/mine.toml", RULE.as_bytes()).unwrap();
        assert_eq!((rule.name.as_str(), rule.area.as_str()), ("mine", "site"));
    }

    #[test]
    fn mistakes_have_a_place() {
        for (from, to, error) in [
            ("severity = \"error\"", "severity = \"bad\"", "mine.toml:2:1: unknown variant `bad`"),
            ("stage = \"login\"", "stage = \"login\"\ncolour = \"red\"", "mine.toml:4:1: unknown key `colour`"),
            ("title = \"t\"", "title = t", "mine.toml:1:9: "),
            ("title = \"t\"\n", "", "mine.toml:1:1: `title` is missing"),
            ("fail = \"os.root\"\n", "", "mine.toml:1:1: `fail` is missing"),
            ("os.root", "os.rot", "mine.toml:5:11: no fact `rot` in Os"),
            ("os.root", "os.root &&", "mine.toml:5:"),
            ("\"os.root\"", "\"\"\"\n  os.root &&\n  os.rot\"\"\"", "mine.toml:7:5: no fact `rot`"),
            ("{os.now}", "at {os.noon}", "mine.toml:6:18: no fact `noon`"),
            ("{os.now}", "at {os.now", "mine.toml:6:15: `{` without `}`"),
            ("os.root", "os.now", "mine.toml:5:9: a condition is true or false, not a number"),
            ("message", "each = \"os.now\"\nmessage", "mine.toml:6:9: `each` is a list, not a number"),
            ("message", "rabbitmq = \"3.8\"\nmessage", "mine.toml:6:1: `3.8` is not a bound"),
        ] {
            let found = mistakes(&RULE.replace(from, to));
            assert!(found.iter().any(|f| f.contains(error)), "{to}: {found:?}");
        }
    }

    #[test]
    fn fixes_name_actions_and_parameters_that_there_are() {
        let fix = |text: &str| mistakes(&format!("{RULE}[fix]\ntier = \"safe\"\n{text}\n"));
        assert_eq!(fix("action = \"unit-start\"\nwith = { unit = \"a\" }"), Vec::<String>::new());
        assert!(fix("action = \"reboot\"")[0].ends_with("mine.toml:9:1: there is no action `reboot`"));
        assert!(fix("action = \"unit-start\"")[0].ends_with("mine.toml:9:1: `unit-start` needs `unit` in `with`"));
        assert!(
            fix("action = \"unit-start\"\nwith = { unit = \"a\", now = true }")[0].contains("mine.toml:10:22: unknown key `now`")
        );
    }

    #[test]
    fn a_name_that_is_taken_is_refused() {
        let mut set = builtin().unwrap();
        let rule = site("rules.d/service-masked.toml", RULE.as_bytes()).unwrap();
        assert!(set.add(rule, "rules.d/service-masked.toml").is_err());
    }
}

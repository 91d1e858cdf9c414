//! The settings of all files of the rabbitmq.conf format together, with what is wrong with the lines themselves.

use super::access::{self, Access, User};
use super::files::{Format, Found, MAX_FILES, fits};
use super::{MANY, Problem, Setting, secrets};
use crate::facts::{Fact, Where};
use crate::formats::rabbitmq_conf::{Dialect, Document, Entry, Include, SyntaxError};
use crate::host::{Got, Host, Kind, MAX_CONF, Miss, optional};
use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

/// One line that sets something.
#[derive(Debug, Clone)]
pub struct Line {
    pub file: String,
    pub entry: Entry,
}

/// Everything that the files set.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// In the order in which the broker reads them.
    lines: Vec<Line>,
    /// Key (by its words) → the line that counts.
    effective: BTreeMap<Vec<String>, usize>,
    /// Files that hold a secret.
    pub with_secret: Vec<String>,
}

impl Line {
    /// The place of the key.
    pub fn at(&self) -> Where {
        Where { file: self.file.clone(), line: Some(self.entry.line), column: Some(self.entry.column) }
    }
    /// The place of the value.
    pub fn value_at(&self) -> Where {
        Where { column: Some(self.entry.value_column), ..self.at() }
    }
    pub fn secret(&self) -> bool {
        secrets::is_secret(&self.entry.key)
    }
    /// The value as it may be shown.
    pub fn shown(&self) -> String {
        secrets::value(&self.entry.key, &self.entry.value)
    }
    /// A problem with this line.
    pub fn problem(&self, code: &str, fatal: bool, message: String, at: Where) -> Problem {
        Problem {
            code: code.to_owned(),
            fatal,
            key: Some(self.entry.key.clone()),
            value: (!self.secret()).then(|| self.shown()),
            message,
            suggestion: None,
            guards: guards(&self.entry.key),
            text: secrets::line(&self.entry.key, &self.entry.text, self.entry.value_column),
            at,
        }
    }
}

/// Settings that decide who gets in, also where their names are misspelt at the end.
const GUARDS: [&str; 9] = [
    "ssl_option",
    "loopback_user",
    "auth_",
    "anonymous_login",
    "default_p",
    "default_user",
    "mqtt.allow_anonymous",
    "mqtt.ssl_cert_login",
    "stomp.default_",
];

fn guards(key: &str) -> bool {
    GUARDS.iter().any(|start| key.starts_with(start)) || key.contains(".ssl.") || key.contains(".ssl_options")
}

impl Settings {
    /// The lines that count, by key.
    pub fn effective(&self) -> impl Iterator<Item = &Line> {
        self.effective.values().filter_map(|i| self.lines.get(*i))
    }
    /// The line that sets a key.
    pub fn get(&self, key: &str) -> Option<&Line> {
        let words: Vec<String> = key.split('.').map(str::to_owned).collect();
        self.effective.get(&words).and_then(|i| self.lines.get(*i))
    }
    pub fn value(&self, key: &str) -> Option<&str> {
        self.get(key).map(|line| line.entry.value.as_str())
    }
    /// The lines that count whose key is `prefix` and one more word.
    pub fn below(&self, prefix: &str) -> Vec<&Line> {
        let words: Vec<String> = prefix.split('.').map(str::to_owned).collect();
        self.effective().filter(|l| l.entry.words.len() == words.len() + 1 && l.entry.words.starts_with(&words)).collect()
    }
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// The fact: effective settings by key, secrets struck out.
    pub fn facts(&self) -> BTreeMap<String, Setting> {
        let mut all: BTreeMap<&[String], Vec<Where>> = BTreeMap::new();
        for line in &self.lines {
            all.entry(&line.entry.words).or_default().push(line.at());
        }
        let fact = |(words, index): (&Vec<String>, &usize)| {
            let line = self.lines.get(*index)?;
            let mut overrides = all.get(words.as_slice()).cloned().unwrap_or_default();
            // The last one is the one that counts.
            overrides.pop();
            Some((line.entry.raw_key.clone(), Setting { value: line.shown(), at: line.at(), overrides }))
        };
        self.effective.iter().filter_map(fact).collect()
    }
}

/// Reads the used files of the rabbitmq.conf format. What is wrong goes to `problems`; a file that this program may not read is
/// the error: then nothing can be said about settings.
pub fn read(
    host: &dyn Host,
    files: &[Found],
    user: &Fact<User>,
    dialect: Dialect,
    problems: &mut Vec<Problem>,
) -> Fact<Settings> {
    let mut reader = Reader {
        host,
        user,
        dialect,
        settings: Settings::default(),
        problems,
        unknown: None,
        open: Vec::new(),
        files: 0,
        bytes: 0,
        includes: 0,
        remarks: 0,
    };
    for file in files.iter().filter(|f| f.format == Format::Cuttlefish && f.ignored.is_none()) {
        if let Fact::Known(false) = file.fact.readable_by_broker {
            reader.problems.push(unreadable(&file.path));
            if !at_home(host, &file.path) {
                reader.unknown.get_or_insert(not_the_brokers(&file.path));
                continue;
            }
        }
        reader.file(&file.path);
    }
    match reader.unknown {
        Some(miss) => Fact::Unknown(miss.to_string()),
        None => Fact::Known(reader.settings),
    }
}

/// Whether a file is where RabbitMQ's configuration lives. The environment file can name any other, a link can lead to any other,
/// and both belong to the broker's user: a file that this user cannot read is not quoted to anybody just because it was named.
pub fn at_home(host: &dyn Host, path: &str) -> bool {
    let inside = path.strip_prefix("/etc/rabbitmq/").is_some_and(|rest| !rest.split('/').any(|part| part == ".."));
    inside && host.stat(Path::new(path), false).is_ok_and(|meta| meta.kind == Kind::File)
}

/// See [`at_home`].
pub fn not_the_brokers(path: &str) -> Miss {
    Miss::failed(path, "not read: the broker's user may not read it either")
}

/// A file that the broker's user cannot read: the broker does not boot.
pub fn unreadable(path: &str) -> Problem {
    let at = Where { file: path.to_owned(), line: None, column: None };
    Problem::new("unreadable", true, format!("the broker's user may not read {path}"), at)
}

/// Deepest chain of `include`s that is followed.
const MAX_INCLUDES: usize = 10;
/// Most settings of one configuration; many of what follows compares each with each.
const MAX_SETTINGS: usize = 5000;
/// Most bytes that the files of one configuration may have together.
const MAX_BYTES: usize = 4 * 1024 * 1024;

struct Reader<'a> {
    host: &'a dyn Host,
    user: &'a Fact<User>,
    dialect: Dialect,
    settings: Settings,
    problems: &'a mut Vec<Problem>,
    unknown: Option<Miss>,
    /// The files that include the one that is being read, outermost first, and that one.
    open: Vec<PathBuf>,
    /// How many files were read; one that is included twice is read twice, as by the broker.
    files: usize,
    bytes: usize,
    /// `include` lines that were followed.
    includes: usize,
    /// Problems that do not stop the boot.
    remarks: usize,
}

impl Reader<'_> {
    fn file(&mut self, path: &str) {
        let bytes = match self.affordable(path) {
            Ok(bytes) => bytes,
            Err(miss) => {
                self.unknown.get_or_insert(miss);
                return;
            }
        };
        let document = Document::parse(&bytes, self.dialect);
        let errors = document.errors();
        if !errors.is_empty() && bytes.contains(&0) {
            return self.binary(path, errors.first().map(|error| error.line));
        }
        self.problems.extend(errors.iter().take(MANY).map(|error| syntax(path, error)));
        self.open.push(plain(Path::new(path)));
        let first = self.settings.lines.len();
        let mut includes = document.includes().into_iter().peekable();
        for entry in document.entries() {
            while let Some(include) = includes.next_if(|i| i.line < entry.line) {
                self.include(path, &include);
            }
            self.line(path, entry.clone(), first);
        }
        for include in includes {
            self.include(path, &include);
        }
        self.open.pop();
    }

    /// The bytes of one more file, unless it makes too many.
    fn affordable(&mut self, path: &str) -> Result<Vec<u8>, Miss> {
        if self.files == MAX_FILES {
            return Err(Miss::TooBig { what: format!("{path}, one file of many"), limit: MAX_FILES as u64 });
        }
        let bytes = self.host.read(Path::new(path), MAX_CONF)?;
        self.files += 1;
        self.bytes += bytes.len();
        if self.bytes > MAX_BYTES {
            return Err(Miss::TooBig { what: format!("{path} and the files before it"), limit: MAX_BYTES as u64 });
        }
        Ok(bytes)
    }

    /// A file that is no text at all has one fault.
    fn binary(&mut self, path: &str, line: Option<u32>) {
        let message = "this is binary data, not a configuration file: the broker does not boot with it";
        let at = Where { file: path.to_owned(), line, column: None };
        self.problems.push(Problem::new("encoding", true, message.to_owned(), at));
    }

    /// An included file is read in place; one that is not there is passed over silently, as the broker does.
    fn include(&mut self, from: &str, include: &Include) {
        if self.unknown.is_some() {
            return;
        }
        self.includes += 1;
        if self.includes > MAX_FILES {
            self.unknown.get_or_insert(Miss::TooBig { what: format!("{from}, includes up to it"), limit: MAX_FILES as u64 });
            return;
        }
        if self.open.len() > MAX_INCLUDES {
            self.unknown.get_or_insert(Miss::failed(from, format!("files include each other more than {MAX_INCLUDES} deep")));
            return;
        }
        match self.included(from, include) {
            Ok(files) => files.iter().for_each(|file| match self.open.contains(&plain(file)) {
                true => self.circle(from, include),
                false => self.opened(from, include, file),
            }),
            Err(miss) => {
                self.unknown.get_or_insert(miss);
            }
        }
    }

    /// What an `include` names, as far as the broker's user sees it: `*` stands for names in one directory, hidden ones too.
    fn included(&self, from: &str, include: &Include) -> Got<Vec<PathBuf>> {
        let home = Path::new(from).parent().unwrap_or(Path::new("/"));
        let path = include.path.trim_end_matches('/');
        let (dir, name) = match path.rsplit_once('/') {
            // `sub/` names `sub` in `sub`.
            _ if path.len() < include.path.len() => (path, path.rsplit('/').next().unwrap_or(path)),
            Some((dir, name)) => (if dir.is_empty() { "/" } else { dir }, name),
            None => ("", path),
        };
        if matches!(name, "" | "." | "..") {
            return Ok(vec![home.join(&include.path)]);
        }
        let dir = &home.join(dir);
        let may = |path: &Path, bits| match self.user {
            Fact::Known(user) => access::may(self.host, user, path, bits),
            Fact::Unknown(_) => Ok(Access::Yes),
        };
        if !name.contains('*') {
            let path = dir.join(name);
            let seen = optional(self.host.stat(&path, false))?.is_some() && !matches!(may(&path, 0)?, Access::Hidden(_));
            return Ok(if seen { vec![path] } else { Vec::new() });
        }
        let listed = if may(dir, access::READ)? == Access::Yes { optional(self.host.list(dir))? } else { None };
        Ok(listed.into_iter().flatten().filter(|n| fits(n, name)).map(|n| dir.join(n)).collect())
    }

    /// Reads an included file. One that is there, but cannot be opened, stops the broker.
    fn opened(&mut self, from: &str, include: &Include, file: &Path) {
        let path = file.display().to_string();
        let meta = self.host.stat(file, true);
        let hidden = access::hidden(self.host, self.user, file);
        let fault = match meta.as_ref().map(|meta| meta.kind) {
            Ok(Kind::Dir) => "a directory",
            Err(miss) if miss.is_absent() => "a link that leads nowhere",
            _ if hidden => "not readable for the broker's user",
            _ => return self.file(&path),
        };
        let message = format!("{path} is included and is {fault}: the broker does not boot");
        let at = Where { file: from.to_owned(), line: Some(include.line), column: Some(include.column) };
        let text = format!("include {}", include.path);
        self.problems.push(Problem { text, ..Problem::new("unreadable", true, message, at) });
        match hidden && !at_home(self.host, &path) {
            true => drop(self.unknown.get_or_insert(not_the_brokers(&path))),
            false if matches!(&meta, Ok(meta) if meta.kind == Kind::File) => self.file(&path),
            false => {}
        }
    }

    /// The broker's parser has no guard: it reads on until the memory ends.
    fn circle(&mut self, from: &str, include: &Include) {
        let at = Where { file: from.to_owned(), line: Some(include.line), column: Some(1) };
        if self.problems.iter().any(|p| p.code == "include-loop" && p.at.file == at.file) {
            return;
        }
        let message = "this file is included by itself, directly or through others: the broker never ends reading it";
        let text = format!("include {}", include.path);
        self.problems.push(Problem { text, ..Problem::new("include-loop", true, message.to_owned(), at) });
    }

    /// A problem that does not stop the boot.
    fn remark(&mut self, problem: Problem) {
        self.remarks += 1;
        if self.remarks <= MANY {
            self.problems.push(problem);
        }
    }

    fn line(&mut self, path: &str, entry: Entry, first_of_file: usize) {
        let line = Line { file: path.to_owned(), entry };
        let index = self.settings.lines.len();
        if index == MAX_SETTINGS {
            self.unknown.get_or_insert(Miss::TooBig { what: format!("{path}, settings up to it"), limit: MAX_SETTINGS as u64 });
            return;
        }
        if line.secret() && !self.settings.with_secret.iter().any(|f| f == path) {
            self.settings.with_secret.push(path.to_owned());
        }
        let earlier = self.settings.effective.insert(line.entry.words.clone(), index);
        if let Some(earlier) = earlier.filter(|e| *e >= first_of_file).and_then(|e| self.settings.lines.get(e))
            && earlier.file == path
        {
            let message = format!("{} is already set in line {}; this line counts", line.entry.key, earlier.entry.line);
            self.remark(line.problem("duplicate", false, message, line.at()));
        }
        if let Some(column) = cut_by_hash(&line.entry) {
            let message = format!("the value ends at the `#` in column {column}: the rest of the line is a comment");
            let at = Where { column: Some(column), ..line.at() };
            self.remark(line.problem("value-cut-by-hash", false, message, at));
        }
        self.settings.lines.push(line);
    }
}

/// The column of a `#` that ends the value with no blank before it: most likely it was meant to be part of the value.
fn cut_by_hash(entry: &Entry) -> Option<u32> {
    let column = entry.comment_column.filter(|_| !entry.quoted)?;
    let before = entry.text.chars().nth(usize::try_from(column).ok()?.checked_sub(2)?)?;
    (!before.is_whitespace()).then_some(column)
}

/// A path without `.`, and without `..` where that can be told from the names.
fn plain(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => {
                out.pop();
            }
            other => out.push(other),
        }
    }
    out
}

fn syntax(path: &str, error: &SyntaxError) -> Problem {
    let bom = error.line == 1 && error.text.starts_with('\u{feff}');
    let code = if error.encoding || bom { "encoding" } else { "syntax" };
    let text = secrets::any_line(error.text.trim_start_matches('\u{feff}'));
    let at = Where { file: path.to_owned(), line: Some(error.line), column: Some(error.column) };
    Problem { text, ..Problem::new(code, true, secrets::any_line(&error.message), at) }
}

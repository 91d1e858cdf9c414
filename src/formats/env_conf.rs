//! rabbitmq-env.conf, read without running it. The file is a shell script that belongs to the broker's user. Lossless.
//!
//! It is sourced twice: by the start script, under `set -e`, and by the broker itself, which takes what is not set yet but drops
//! the whole file if its last command fails. So it matters whether each command can fail. In dash a command that fails ends the
//! start script, in bash it does not (measured: both with `sh -e` and `. FILE || true`). What takes running a shell is unknown,
//! with the reason.

use super::shell::{self, Command, Fault, Item, Kind, List, Part, Pipeline, Word, is_name};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// What is /bin/sh on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shell {
    /// A failing command in the file ends the start script.
    Dash,
    /// It does not.
    Bash,
    /// Not known, or another one.
    Other,
}

/// What a variable is set to, `None`: unset; `Err` says why that takes running a shell.
pub type Value = Result<Option<String>, String>;

/// What the file makes of a variable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// With a carriage return at the end in a file with CRLF line ends: the shell keeps it.
    pub value: Value,
    /// Line that decides, from 1.
    pub line: u32,
    /// Whether the file puts it into the environment of programs; `None`: that is not certain.
    pub exported: Option<bool>,
}

/// `NAME=value` as a command of its own, outside of any condition.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Assignment {
    name: String,
    line: u32,
    /// Something else stands on the same line.
    shares_line: bool,
    span: Range<usize>,
}

/// What keeps the file from being applied, or the broker from starting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// blanks-around-equals | crlf | exit | last-command-fails | syntax
    pub code: &'static str,
    /// The broker does not start with it.
    pub fatal: bool,
    /// Never holds a value: it may be a secret.
    pub text: String,
    /// From 1; columns in characters.
    pub line: u32,
    pub column: u32,
}

/// Why an edit was refused; the document is unchanged then.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EditError {
    #[error("there is no line {0}")]
    NoLine(u32),
    #[error("line {0} holds more than one command")]
    SharedLine(u32),
    #[error("the file is not understood well enough to change it: {0}")]
    NotUnderstood(String),
}

/// A parsed file that keeps its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    bytes: Vec<u8>,
    /// Where each line begins.
    lines: Vec<usize>,
    shell: Shell,
    assignments: Vec<Assignment>,
    settings: BTreeMap<String, Setting>,
    problems: Vec<Problem>,
    opaque: Option<String>,
    undecided: Option<String>,
    dropped: bool,
    doubt: Option<String>,
    depends_on_shell: bool,
    beyond_latin1: bool,
}

impl Document {
    /// Never fails.
    pub fn parse(bytes: &[u8], shell: Shell) -> Document {
        let (script, broken) = shell::parse(bytes);
        let ends = bytes.iter().enumerate().filter(|(_, b)| **b == b'\n');
        let mut reader = Reader::new(Document {
            bytes: bytes.to_vec(),
            lines: std::iter::once(0).chain(ends.map(|(at, _)| at + 1)).collect(),
            shell,
            assignments: Vec::new(),
            settings: BTreeMap::new(),
            problems: Vec::new(),
            opaque: None,
            undecided: None,
            dropped: false,
            doubt: None,
            depends_on_shell: false,
            beyond_latin1: false,
        });
        if bytes.contains(&0) {
            reader.doc.opaque = Some("it holds a NUL byte".to_owned());
        }
        reader.script(&script);
        if let Some(broken) = broken {
            reader.broken(broken);
        }
        reader.doc
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        self.bytes.clone()
    }

    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// Why any variable may have any value: the file sources another one, exits early, or is not understood.
    pub fn opaque(&self) -> Option<&str> {
        self.opaque.as_deref()
    }

    /// Why the broker may drop the whole file: its last command may fail.
    pub fn undecided(&self) -> Option<&str> {
        self.undecided.as_deref()
    }

    /// Whether the last command certainly fails: only what the start script took from the file counts.
    pub fn dropped(&self) -> bool {
        self.dropped
    }

    /// Why the broker may not start with this file, besides the problems. `old`: RabbitMQ before 3.9.
    pub fn doubt(&self, old: bool) -> Option<&str> {
        let beyond = old && self.beyond_latin1;
        self.doubt.as_deref().or(beyond.then_some("its characters beyond Latin-1 crash the broker's own reading"))
    }

    /// Whether another shell would make something else of the file.
    pub fn depends_on_shell(&self) -> bool {
        self.depends_on_shell
    }

    pub fn shell(&self) -> Shell {
        self.shell
    }

    /// What the file sets or unsets in the end, by name as spelt.
    pub fn settings(&self) -> &BTreeMap<String, Setting> {
        &self.settings
    }

    /// Removes the plain assignments of a variable, in both spellings, with their lines. Returns whether there was one.
    pub fn unset_var(&mut self, name: &str) -> Result<bool, EditError> {
        self.understood()?;
        let bare = name.strip_prefix("RABBITMQ_").unwrap_or(name);
        let ours = |a: &&Assignment| a.name.strip_prefix("RABBITMQ_").unwrap_or(&a.name) == bare;
        if let Some(a) = self.assignments.iter().filter(ours).find(|a| a.shares_line) {
            return Err(EditError::SharedLine(a.line));
        }
        let spans: Vec<_> = self.assignments.iter().filter(ours).map(|a| self.lines_of(&a.span)).collect();
        let mut bytes = Vec::new();
        let mut from = 0;
        for span in &spans {
            bytes.extend_from_slice(self.bytes.get(from..span.start).unwrap_or_default());
            from = span.end;
        }
        bytes.extend_from_slice(&self.bytes[from..]);
        // A file without a final line end stays without.
        if from == self.bytes.len() && !self.bytes.ends_with(b"\n") && bytes.ends_with(b"\n") {
            bytes.truncate(bytes.len() - if bytes.ends_with(b"\r\n") { 2 } else { 1 });
        }
        *self = Document::parse(&bytes, self.shell);
        Ok(!spans.is_empty())
    }

    /// Makes a line a comment that ends in `note`; no line moves.
    pub fn comment_out(&mut self, line: u32, note: &str) -> Result<(), EditError> {
        let lines: Vec<&[u8]> = self.bytes.split_inclusive(|b| *b == b'\n').collect();
        let wanted = (line as usize).checked_sub(1).filter(|n| *n < lines.len()).ok_or(EditError::NoLine(line))?;
        let mut out = Vec::new();
        for (n, text) in lines.iter().enumerate() {
            if n != wanted {
                out.extend_from_slice(text);
                continue;
            }
            let content = text.strip_suffix(b"\n").unwrap_or(text);
            let content = content.strip_suffix(b"\r").unwrap_or(content);
            out.extend_from_slice(b"# ");
            out.extend_from_slice(content);
            if !note.is_empty() {
                out.extend_from_slice(b"  # ");
                out.extend_from_slice(note.replace(['\r', '\n'], " ").as_bytes());
            }
            out.extend_from_slice(&text[content.len()..]);
        }
        *self = Document::parse(&out, self.shell);
        Ok(())
    }

    fn understood(&self) -> Result<(), EditError> {
        match &self.opaque {
            Some(why) => Err(EditError::NotUnderstood(why.clone())),
            None => Ok(()),
        }
    }

    fn lines_of(&self, span: &Range<usize>) -> Range<usize> {
        let start = self.bytes[..span.start].iter().rposition(|b| *b == b'\n').map_or(0, |n| n + 1);
        let end = self.bytes[span.end..].iter().position(|b| *b == b'\n').map_or(self.bytes.len(), |n| span.end + n + 1);
        start..end
    }

    fn line(&self, at: usize) -> u32 {
        self.lines.partition_point(|start| *start <= at) as u32
    }

    fn place(&self, at: usize) -> (u32, u32) {
        let line = self.line(at);
        let start = (line as usize).checked_sub(1).and_then(|n| self.lines.get(n)).copied().unwrap_or(0);
        (line, String::from_utf8_lossy(&self.bytes[start..at]).chars().count() as u32 + 1)
    }

    fn problem(&mut self, code: &'static str, fatal: bool, text: String, at: usize) {
        let (line, column) = self.place(at);
        self.problems.push(Problem { code, fatal, text, line, column });
    }
}

// --- what the script does, as far as that is certain ---

#[derive(Debug, Clone, PartialEq, Eq)]
enum Status {
    Succeeds,
    Fails,
    Unclear(String),
}

impl Status {
    /// Of one of two courses.
    fn or(self, other: Status) -> Status {
        match (self, other) {
            (a, b) if a == b => a,
            (Status::Unclear(why), _) | (_, Status::Unclear(why)) => Status::Unclear(why),
            _ => Status::Unclear("a condition decides whether its last command fails".to_owned()),
        }
    }

    /// The reason why it is not clear.
    fn because(self, why: &str) -> Status {
        match self {
            Status::Unclear(_) => Status::Unclear(why.to_owned()),
            other => other,
        }
    }
}

/// Where a command stands.
#[derive(Debug, Clone, Copy)]
struct Context {
    /// It is run for sure.
    certain: bool,
    /// Its failure is looked at (`if`, `&&`, `||`, `!`), so it does not end the script.
    tested: bool,
    /// Directly in the script: its line can be removed.
    top: bool,
}

impl Context {
    fn inside(self) -> Context {
        Context { top: false, ..self }
    }
    fn maybe(self) -> Context {
        Context { certain: false, top: false, ..self }
    }
    fn tested(self) -> Context {
        Context { tested: true, top: false, ..self }
    }
}

/// Builtins that can change any variable, how the rest is read, or end the script.
const FAR_REACHING: &[&str] = &[
    ".",
    "source",
    "eval",
    "exit",
    "return",
    "exec",
    "trap",
    "read",
    "alias",
    "unalias",
    "getopts",
    "shift",
    "command",
    "builtin",
    "local",
    "declare",
    "typeset",
    "let",
    "mapfile",
    "readarray",
    "enable",
    "shopt",
    "break",
    "continue",
    "printf",
    "hash",
    "wait",
    "function",
    "fc",
    "times",
];
/// Those of them, and others, in front of which an assignment lasts.
const SPECIAL: &[&str] = &[":", "export", "readonly", "unset", "set"];
/// Commands that change no variable and, in practice, do not fail.
const HARMLESS: &[&str] = &[":", "true", "echo"];

/// They name another environment file than this one.
const OTHER_FILE: &[&str] = &["RABBITMQ_CONF_ENV_FILE", "CONF_ENV_FILE"];
/// The shell itself, and what the start script works with: with these set, it may fail, or the broker may be unable to run a shell.
const WORKINGS: &[&str] = &[
    "PATH",
    "IFS",
    "PS4",
    "ENV",
    "BASH_ENV",
    "POSIXLY_CORRECT",
    "OPTIND",
    "PPID",
    "UID",
    "EUID",
    "SHELLOPTS",
    "BASHOPTS",
    "LINENO",
    "RABBITMQ_SCRIPTS_DIR",
    "SCRIPTS_DIR",
    "RABBITMQ_HOME",
    "ESCRIPT_DIR",
    "CLEAN_BOOT_FILE",
    "SASL_BOOT_FILE",
    "RABBITMQ_NODE_ONLY",
    "USE_RABBIT_BOOT_SCRIPT",
    "RABBITMQ_BOOT_MODULE",
    "BOOT_MODULE",
    "NOTIFY_SOCKET",
    "detached",
    "saved_RABBITMQ_PID_FILE",
    "LC_ALL",
    "LANG",
    "LC_CTYPE",
];
/// Variables that the start script assigns after the file.
const ASSIGNED_LATER: &[&str] = &[
    "SERVER_ERL_ARGS",
    "RABBITMQ_PID_FILE",
    "RABBITMQ_ENV_LOADED",
    "RABBITMQ_DEFAULT_ALLOC_ARGS",
    "RABBITMQ_START_RABBIT",
    "RUNNING_UNDER_SYSTEMD",
    "ERL_LIBS",
    "RABBITMQ_IGNORE_SIGINT_FLAG",
];

struct Reader {
    doc: Document,
    readonly: BTreeSet<String>,
    /// `set -a`
    export_all: bool,
}

impl Reader {
    fn new(doc: Document) -> Reader {
        Reader { doc, readonly: BTreeSet::new(), export_all: false }
    }

    fn script(&mut self, script: &List) {
        let status = self.list(script, Context { certain: true, tested: false, top: true });
        match status {
            Status::Succeeds => {}
            Status::Fails => self.doc.dropped = true,
            Status::Unclear(why) => {
                self.doc.undecided.get_or_insert(format!("{why}; the broker then ignores the whole file"));
            }
        }
        let reported = self.doc.problems.iter().any(|p| p.fatal || p.code == "last-command-fails");
        if self.doc.dropped && !reported {
            let at = script.last().map_or(0, |item| item.span.start);
            self.doc.problem(
                "last-command-fails",
                false,
                "its last command fails: the broker ignores the whole file".to_owned(),
                at,
            );
        }
    }

    fn broken(&mut self, broken: shell::Broken) {
        let line = self.line(broken.at);
        if broken.kind != Fault::Unread {
            // bash goes on behind the file.
            let certain = self.doc.opaque.is_none() && self.doc.shell == Shell::Dash;
            self.doc.depends_on_shell = true;
            self.doc.problem("syntax", certain, broken.why.clone(), broken.at);
        }
        self.opaque(format!("line {line}: {}", broken.why));
    }

    fn line(&self, at: usize) -> u32 {
        self.doc.line(at)
    }

    fn opaque(&mut self, why: String) {
        self.doc.opaque.get_or_insert(why);
    }

    fn doubt(&mut self, why: &str) {
        self.doc.doubt.get_or_insert(format!("{why}; the broker then may not start"));
    }

    // --- lists ---

    fn list(&mut self, list: &List, context: Context) -> Status {
        let mut status = Status::Succeeds;
        for (n, item) in list.iter().enumerate() {
            let first = self.doc.assignments.len();
            status = self.item(item, context);
            let before = n.checked_sub(1).and_then(|n| list.get(n)).map(|other| other.span.end);
            let after = list.get(n + 1).map(|other| other.span.start);
            let shared = before.is_some_and(|end| self.line(end) >= self.line(item.span.start))
                || after.is_some_and(|start| self.line(start) <= self.line(item.span.end));
            for a in &mut self.doc.assignments[first..] {
                a.shares_line |= shared;
            }
        }
        status
    }

    fn item(&mut self, item: &Item, context: Context) -> Status {
        if item.background {
            // What it writes may fall anywhere into the list of variables that the broker reads.
            let line = self.line(item.span.start);
            self.opaque(format!("line {line} runs something in the background"));
            return Status::Succeeds;
        }
        let last = item.rest.len();
        let at = |n: usize| if n == last { context } else { context.tested() };
        let mut status = self.pipeline(&item.first, at(0));
        for (n, (and, pipeline)) in item.rest.iter().enumerate() {
            let context = Context { top: false, ..at(n + 1) };
            status = match (status, and) {
                (Status::Succeeds, true) | (Status::Fails, false) => self.pipeline(pipeline, context),
                (Status::Fails, true) => Status::Fails,
                (Status::Succeeds, false) => Status::Succeeds,
                (Status::Unclear(why), true) => self.pipeline(pipeline, context.maybe()).or(Status::Fails).because(&why),
                (Status::Unclear(why), false) => self.pipeline(pipeline, context.maybe()).or(Status::Succeeds).because(&why),
            };
        }
        status
    }

    fn pipeline(&mut self, pipeline: &Pipeline, context: Context) -> Status {
        match (&pipeline.commands[..], pipeline.negated) {
            ([command], false) => self.command(command, context),
            ([command], true) => match self.command(command, context.tested()) {
                Status::Succeeds => Status::Fails,
                Status::Fails => Status::Succeeds,
                unclear => unclear,
            },
            (commands, negated) => {
                // Each runs in a shell of its own and changes nothing here.
                let line = commands.first().map_or(0, |c| self.line(c.at));
                self.uncertain(
                    &format!("the pipeline in line {line} may fail"),
                    Context { tested: context.tested || negated, ..context },
                )
            }
        }
    }

    /// What may fail, and what follows from that.
    fn uncertain(&mut self, why: &str, context: Context) -> Status {
        if !context.tested {
            self.doc.depends_on_shell = true;
            if self.doc.shell != Shell::Bash {
                self.doubt(why);
            }
        }
        Status::Unclear(why.to_owned())
    }

    /// What certainly fails, if it is run.
    fn failing(&mut self, code: &'static str, text: &str, at: usize, context: Context) -> Status {
        if context.tested {
            return Status::Fails;
        }
        // What comes behind something that was not understood may never be reached, or no longer end the script.
        if !context.certain || self.doc.opaque.is_some() {
            let line = self.line(at);
            self.uncertain(&format!("line {line} runs a command that fails"), context);
            return Status::Fails;
        }
        self.doc.depends_on_shell = true;
        let then = match self.doc.shell {
            Shell::Dash => "the broker does not start",
            Shell::Bash => "its line has no effect",
            Shell::Other => "the broker may not start",
        };
        self.doc.problem(code, self.doc.shell == Shell::Dash, format!("{text}: {then}"), at);
        if self.doc.shell == Shell::Other {
            self.doubt(text);
        }
        Status::Fails
    }

    // --- commands ---

    fn command(&mut self, command: &Command, context: Context) -> Status {
        let line = self.line(command.at);
        // A redirection that fails keeps the command from being run.
        let context = if command.redirected { context.maybe() } else { context };
        let status = match &command.kind {
            Kind::Simple { assignments, words } => self.simple(assignments, words, command.at, context),
            Kind::Group(list) => self.list(list, context.inside()),
            Kind::Subshell => self.uncertain(&format!("the commands in parentheses in line {line} may fail"), context),
            Kind::If { arms, otherwise } => self.conditional(arms, otherwise.as_ref(), context.inside()),
            Kind::Loop { condition, body } => {
                self.doubt(&format!("the loop in line {line} may not end"));
                self.list(condition, context.maybe().tested());
                self.list(body, context.maybe());
                Status::Unclear(format!("the loop in line {line} may fail"))
            }
            Kind::For { name, words, body } => {
                self.expansions(words, context);
                self.set(name, Err(conditional(line)), line, context.maybe());
                self.list(body, context.maybe()).or(Status::Succeeds)
            }
            Kind::Case { word, arms } => {
                self.expansions(std::slice::from_ref(word), context);
                let statuses: Vec<_> = arms.iter().map(|arm| self.list(arm, context.maybe())).collect();
                statuses.into_iter().fold(Status::Succeeds, Status::or)
            }
            Kind::Function { name } => {
                // The scripts may call it in the place of a command.
                self.opaque(format!("line {line} defines a function, `{name}`"));
                Status::Succeeds
            }
        };
        if command.redirected {
            return self.uncertain(&format!("line {line} redirects to or from a file, which may fail"), context);
        }
        status
    }

    fn conditional(&mut self, arms: &[(List, List)], otherwise: Option<&List>, mut context: Context) -> Status {
        let mut status: Option<Status> = None;
        let join = |status: Option<Status>, more: Status| Some(status.map_or(more.clone(), |s| s.or(more)));
        for (condition, body) in arms {
            match self.list(condition, context.tested()) {
                Status::Fails => {}
                Status::Succeeds => {
                    let body = self.list(body, context);
                    return status.map_or(body.clone(), |s| s.or(body));
                }
                Status::Unclear(_) => {
                    context = context.maybe();
                    let body = self.list(body, context);
                    status = join(status, body);
                }
            }
        }
        let rest = otherwise.map_or(Status::Succeeds, |list| self.list(list, context));
        status.map_or(rest.clone(), |s| s.or(rest))
    }

    fn simple(&mut self, assignments: &[Word], words: &[Word], at: usize, context: Context) -> Status {
        let line = self.line(at);
        let risk = self.expansions(assignments, context).or(self.expansions(words, context));
        let Some((head, arguments)) = words.split_first() else {
            return self.assign(assignments, context, risk);
        };
        let Some(name) = head.literal() else {
            self.opaque(format!("line {line} runs a command that takes a shell to know"));
            return self.uncertain(&format!("line {line} runs a command that takes a shell to know"), context);
        };
        if SPECIAL.contains(&name.as_str()) {
            for (name, _) in assignments.iter().filter_map(Word::assignment) {
                self.set(&name, Err(format!("line {line} sets it in front of a command")), line, context);
                if let Some(setting) = self.doc.settings.get_mut(&name) {
                    setting.exported = None;
                }
            }
        }
        if name == "exit" && context.top && context.certain && !context.tested {
            let why = "`exit` ends the script that starts the broker, not only this file: the broker is not run";
            self.doc.problem("exit", true, why.to_owned(), head.span.start);
        }
        if FAR_REACHING.contains(&name.as_str()) {
            self.opaque(format!("line {line} runs `{name}`"));
            return self.uncertain(&format!("line {line} runs `{name}`, which may fail"), context);
        }
        match name.as_str() {
            "export" | "readonly" => self.export(&name, arguments, line, context),
            "unset" => self.unset(arguments, line, context),
            "set" => self.options(arguments, line, context),
            _ if HARMLESS.contains(&name.as_str()) => {
                self.value_ends_at_blank(assignments, head, false, context);
                risk
            }
            _ => self.external(assignments, &name, head, arguments, context),
        }
    }

    /// Assignments and nothing else; `risk`: whether their expansions may fail.
    fn assign(&mut self, assignments: &[Word], context: Context, risk: Status) -> Status {
        for word in assignments {
            let Some((name, value)) = word.assignment() else { continue };
            let value = self.value(&value);
            self.take(name, value, word, assignments.len() > 1, context);
        }
        match risk {
            // Where its failure ends the start script, a broker that starts has seen it succeed.
            Status::Unclear(_) if self.doc.shell == Shell::Dash && !context.tested => Status::Succeeds,
            risk => risk,
        }
    }

    /// One assignment with its place.
    fn take(&mut self, name: String, value: Result<String, String>, word: &Word, shares_line: bool, context: Context) {
        let line = self.line(word.span.start);
        if value.as_ref().is_ok_and(|v| v.ends_with('\r')) {
            let text = format!("CRLF line end: the value of {name} ends with a carriage return");
            self.doc.problem("crlf", false, text, word.span.start);
        }
        if context.top {
            self.doc.assignments.push(Assignment { name: name.clone(), line, shares_line, span: word.span.clone() });
        }
        self.set(&name, value.map(Some), line, context);
    }

    fn set(&mut self, name: &str, value: Value, line: u32, context: Context) {
        if self.readonly.contains(name) {
            self.doubt(&format!("line {line} sets {name}, which is read-only"));
            self.opaque(format!("line {line} sets {name}, which is read-only"));
        }
        if OTHER_FILE.contains(&name) {
            self.opaque(format!("line {line} sets {name}, which may name another file"));
        }
        if name == "SYS_PREFIX" && value.as_ref() != Ok(&Some(String::new())) {
            let why = format!("line {line} sets SYS_PREFIX, below which the broker looks for another environment file");
            self.doc.undecided.get_or_insert(why);
        }
        if WORKINGS.contains(&name) || name.starts_with("_rmq") || name.starts_with("LD_") {
            let why = format!("line {line} sets {name}, which the start script works with");
            self.doubt(&why);
            self.doc.undecided.get_or_insert(why);
        }
        // Each shell has its own way to print them to the broker.
        self.doc.depends_on_shell |= value.as_ref().is_ok_and(|v| v.iter().any(|v| !v.bytes().all(plain)));
        let value = if context.certain { value } else { Err(conditional(line)) };
        let before = self.doc.settings.get(name).and_then(|s| s.exported);
        let known = self.doc.settings.contains_key(name);
        let exported = match (self.export_all, known) {
            (true, _) if context.certain => Some(true),
            (true, _) => None,
            (false, true) => before,
            (false, false) => Some(false),
        };
        self.doc.settings.insert(name.to_owned(), Setting { value, line, exported });
    }

    // --- values ---

    /// Whether the expansions of these words can fail; `${NAME:=text}` sets its variable.
    fn expansions(&mut self, words: &[Word], context: Context) -> Status {
        let mut status = Status::Succeeds;
        for word in words {
            let line = self.line(word.span.start);
            let text = std::str::from_utf8(&self.doc.bytes[word.span.clone()]);
            self.doc.beyond_latin1 |= text.is_ok_and(|t| t.chars().any(|c| c > '\u{ff}'));
            if text.is_err() {
                let why = format!("line {line} is not UTF-8, which the broker cannot read back");
                self.doubt(&why);
                self.doc.undecided.get_or_insert(why);
            }
            for part in &word.parts {
                match part {
                    Part::Assigns { name } => self.set(name, Err(format!("line {line} may set it")), line, context),
                    Part::Output => status = self.uncertain(&format!("line {line} runs a command, which may fail"), context),
                    Part::Other { fails: true } => {
                        let why = format!("line {line} has an expansion that may fail");
                        self.doubt(&why);
                        status = Status::Unclear(why);
                    }
                    _ => {}
                }
            }
        }
        status
    }

    /// The value of an assignment: no blanks end it, and no file names are put into it.
    fn value(&self, parts: &[Part]) -> Result<String, String> {
        let mut text = Vec::new();
        for (n, part) in parts.iter().enumerate() {
            match part {
                Part::Text { bytes, quoted } => {
                    let home = bytes.starts_with(b"~") && n == 0 || bytes.windows(2).any(|w| w == b":~");
                    if !quoted && home {
                        return Err("it uses a home directory".to_owned());
                    }
                    text.extend_from_slice(bytes);
                }
                Part::Variable { name, default, .. } => text.extend(self.variable(name, default.as_ref())?.into_bytes()),
                Part::Output => return Err("it uses the output of a command".to_owned()),
                Part::Assigns { .. } | Part::Other { .. } => return Err("it uses an expansion that takes a shell".to_owned()),
            }
        }
        String::from_utf8(text).map_err(|_| "it is not UTF-8".to_owned())
    }

    /// A variable that the file has set before.
    fn variable(&self, name: &str, default: Option<&shell::Fallback>) -> Result<String, String> {
        let value = match self.doc.settings.get(name) {
            Some(setting) => setting.value.clone().map_err(|_| "it uses another variable".to_owned())?,
            None => return Err("it uses another variable".to_owned()),
        };
        let text = |d: &shell::Fallback| String::from_utf8(d.text.clone()).map_err(|_| "it is not UTF-8".to_owned());
        match (value, default) {
            (None, Some(default)) => text(default),
            (Some(v), Some(default)) if v.is_empty() && default.for_empty => text(default),
            (value, _) => Ok(value.unwrap_or_default()),
        }
    }

    // --- builtins ---

    fn export(&mut self, command: &str, arguments: &[Word], line: u32, context: Context) -> Status {
        for word in arguments {
            if let Some((name, parts)) = word.assignment() {
                let value = self.value(&parts).and_then(|v| unsplit(&parts, v));
                self.take(name.clone(), value, word, arguments.len() > 1, context);
                self.mark(command, &name, line, context);
                continue;
            }
            match word.literal().filter(|n| is_name(n)) {
                Some(name) => self.mark(command, &name, line, context),
                None => {
                    self.opaque(format!("line {line} runs `{command}` in a way that is not read"));
                    return self.uncertain(&format!("line {line} runs `{command}`, which may fail"), context);
                }
            }
        }
        Status::Succeeds
    }

    /// Marks a variable as exported or read-only.
    fn mark(&mut self, command: &str, name: &str, line: u32, context: Context) {
        if command == "readonly" {
            let empty = self.doc.settings.get(name).is_none_or(|s| !matches!(&s.value, Ok(Some(v)) if !v.is_empty()));
            let later = ASSIGNED_LATER.contains(&name) || name.starts_with("DEFAULT_") || empty;
            self.readonly.insert(name.to_owned());
            if later {
                self.doubt(&format!("line {line} makes {name} read-only"));
            }
            return;
        }
        let exported = context.certain.then_some(true);
        match self.doc.settings.get_mut(name) {
            Some(setting) => setting.exported = if setting.exported == Some(true) { Some(true) } else { exported },
            // What the start script itself calls so is not known here.
            None => {
                let value = Err(format!("line {line} exports it without a value"));
                self.doc.settings.insert(name.to_owned(), Setting { value, line, exported });
            }
        }
    }

    fn unset(&mut self, arguments: &[Word], line: u32, context: Context) -> Status {
        for word in arguments {
            let name = word.literal().filter(|n| is_name(n));
            let Some(name) = name else {
                self.opaque(format!("line {line} runs `unset` in a way that is not read"));
                return self.uncertain(&format!("line {line} runs `unset`, which may fail"), context);
            };
            self.set(&name, Ok(None), line, context);
            if let Some(setting) = self.doc.settings.get_mut(&name) {
                setting.exported = context.certain.then_some(false);
            }
        }
        Status::Succeeds
    }

    /// `set -a`, `set +a`, `set -e`, `set -x`, `set +x`.
    fn options(&mut self, arguments: &[Word], line: u32, context: Context) -> Status {
        let words: Vec<_> = arguments.iter().map(|w| w.literal().unwrap_or_default()).collect();
        let known = ["-a", "+a", "-e", "-x", "+x"];
        if words.is_empty() || !context.certain || words.iter().any(|w| !known.contains(&w.as_str())) {
            self.opaque(format!("line {line} runs `set`"));
            return self.uncertain(&format!("line {line} runs `set`, which may fail"), context);
        }
        for word in words {
            self.export_all = match word.as_str() {
                "-a" => true,
                "+a" => false,
                _ => self.export_all,
            };
        }
        Status::Succeeds
    }

    // --- programs ---

    fn external(&mut self, assignments: &[Word], name: &str, head: &Word, arguments: &[Word], context: Context) -> Status {
        let at = head.span.start;
        let line = self.line(at);
        if name == "\r" {
            return self.failing("crlf", "CRLF line end: the shell looks for a command named carriage return", at, context);
        }
        if name == "false" {
            return self.failing("last-command-fails", "a command that fails", at, context);
        }
        let setting = |n: &str| is_name(n) && n.starts_with(|c: char| c.is_ascii_uppercase());
        let equals = arguments.first().and_then(Word::literal).is_some_and(|w| w.starts_with('='));
        if setting(name) && equals {
            let text = format!("blanks around `=`: the shell runs {name} as a command");
            return self.failing("blanks-around-equals", &text, at, context);
        }
        if !assignments.is_empty() {
            let certain = name.starts_with(|c: char| c == '-' || c == '+' || c.is_ascii_digit()) && !name.contains('/');
            return self.value_ends_at_blank(assignments, head, certain, context);
        }
        if name.contains('=') && !name.contains('/') || name.starts_with('\u{feff}') {
            if self.doc.shell != Shell::Dash {
                self.opaque(format!("line {line} sets a variable in a way that only some shells know"));
            }
            let text = "not an assignment: the shell runs it as a command";
            return self.failing("syntax", text, at, context);
        }
        let word = if is_name(name) { name } else { "a command" };
        self.uncertain(&format!("line {line} runs {word}, which may fail"), context)
    }

    /// `NAME=a b`: runs `b`, with NAME set for that command only.
    fn value_ends_at_blank(&mut self, assignments: &[Word], head: &Word, certain: bool, context: Context) -> Status {
        let Some((name, value)) = assignments.last().and_then(Word::assignment) else { return Status::Succeeds };
        let at = head.span.start;
        let empty = matches!(&value[..], [Part::Text { bytes, .. }] if bytes.is_empty());
        let (code, text) = if empty {
            ("blanks-around-equals", format!("a blank after `{name}=`: the shell runs the value as a command"))
        } else {
            ("syntax", format!("the value of {name} ends at a blank, and the rest is run as a command; it needs quotes"))
        };
        if certain {
            return self.failing(code, &text, at, context);
        }
        self.doc.problem(code, false, text, at);
        let line = self.line(at);
        self.uncertain(&format!("line {line} runs a command, which may fail"), context)
    }
}

/// Whether every shell prints this byte of a value as it is.
fn plain(byte: u8) -> bool {
    byte == b' ' || byte.is_ascii_graphic()
}

fn conditional(line: u32) -> String {
    format!("it is set under a condition in line {line}")
}

/// The value of an argument of `export`. Older shells split it at blanks and put file names into it where it is not quoted.
fn unsplit(parts: &[Part], value: String) -> Result<String, String> {
    let special = |bytes: &[u8]| bytes.iter().any(|b| b" \t\n*?[]{}~".contains(b));
    let open = parts.iter().any(|p| match p {
        Part::Text { bytes, quoted } => !quoted && special(bytes),
        Part::Variable { quoted, .. } => !quoted && special(value.as_bytes()),
        _ => true,
    });
    if open { Err("some shells split it at blanks, others do not".to_owned()) } else { Ok(value) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn doc(text: &str) -> Document {
        Document::parse(text.as_bytes(), Shell::Dash)
    }
    fn var(text: &str, name: &str) -> Option<Value> {
        doc(text).settings().get(name).map(|s| s.value.clone())
    }
    fn is(text: &str) -> Option<Value> {
        Some(Ok(Some(text.to_owned())))
    }
    fn codes(text: &str) -> Vec<(&'static str, bool, u32)> {
        doc(text).problems().iter().map(|p| (p.code, p.fatal, p.line)).collect()
    }

    #[test]
    fn plain_assignments_and_quotes() {
        let text = "# c\nNODE_PORT=5677 # port\nexport NODENAME=\"rabbit@h\"\nA='x # y'; B=a\\ b\nC=\nD=a#b\n";
        let d = doc(text);
        let got: Vec<_> = d.settings().iter().map(|(n, s)| (n.as_str(), s.value.clone().unwrap().unwrap(), s.line)).collect();
        let want = [
            ("A", "x # y", 4),
            ("B", "a b", 4),
            ("C", "", 5),
            ("D", "a#b", 6),
            ("NODENAME", "rabbit@h", 3),
            ("NODE_PORT", "5677", 2),
        ];
        assert_eq!(got, want.map(|(n, v, l)| (n, v.to_owned(), l)));
        assert_eq!((d.problems(), d.opaque(), d.undecided(), d.doubt(false)), (&[][..], None, None, None));
        assert_eq!((d.settings()["NODENAME"].exported, d.settings()["A"].exported), (Some(true), Some(false)));
        assert_eq!(var("A=1\nA=2\n", "A"), is("2"));
        assert_eq!(var("A=\"x \\\"y\\\"\" # z\n", "A"), is("x \"y\""));
        assert_eq!(var("A=one\\\ntwo\n", "A"), is("onetwo"));
        assert_eq!(var("A=1\nunset A\n", "A"), Some(Ok(None)));
    }

    #[test]
    fn an_exit_ends_the_start_script() {
        assert_eq!(codes("A=1\nexit 1\n"), [("exit", true, 2)]);
        assert_eq!(codes("[ -f /x ] || exit 1\nA=1\n"), []);
        assert_eq!(codes("if [ -f /x ]; then exit; fi\n(exit 1)\nA=1\n"), []);
    }

    #[test]
    fn what_needs_a_shell_is_unknown() {
        for text in ["A=$HOME\n", "A=\"x${B}\"\n", "A=`hostname`\n", "A=$(hostname -s)\nB=1\n", "A=~/x\n", "A=a:~\n"] {
            assert!(var(text, "A").unwrap().is_err(), "{text}");
        }
        assert!(doc("A=$(false)\n").doubt(false).is_some());
        assert_eq!(var("A='$HOME'\n", "A"), is("$HOME"));
        assert_eq!(var("B=/x\nA=\"-pa $B ${B}/y\"\n", "A"), is("-pa /x /x/y"), "what the file has set before is known");
        assert_eq!(var("B=\nA=${B:-c}${B-d}\n", "A"), is("c"));
    }

    #[test]
    fn conditions_make_only_their_variables_unknown() {
        let text = "A=1\nif [ -f /x ]; then\n  A=2\n  B=3\nfi\nC=4\n";
        assert!(var(text, "A").unwrap().is_err());
        assert!(var(text, "B").unwrap().is_err());
        assert_eq!(var(text, "C"), is("4"));
        assert_eq!((doc(text).opaque(), doc(text).undecided()), (None, None));
        assert_eq!(var("[ -f /x ] && A=2\nA=1\n", "A"), is("1"));
        assert_eq!(var("x && if y; then A=1; fi\n", "A").map(|v| v.is_err()), Some(true));
        assert_eq!(var("if true; then A=1; fi\n", "A"), is("1"));
        assert!(doc("if true; then A=1; fi\n").undecided().is_none());
    }

    #[test]
    fn a_last_command_that_may_fail_leaves_the_whole_file_open() {
        assert!(doc("NODE_PORT=5677\n[ -f /x ] && X=1\n").undecided().unwrap().contains("line 2"));
        assert!(doc("[ -f /x ] && X=1\nNODE_PORT=5677\n").undecided().is_none());
        assert!(doc("A=1\n[ -f /x ] || true\n").undecided().is_none());
        assert_eq!(codes("A=1\nfalse\n"), [("last-command-fails", true, 2)]);
        assert_eq!(codes("A=1\nfalse && B=2\n"), [("last-command-fails", false, 2)]);
        assert!(doc("A=1\nfalse && B=2\n").dropped());
    }

    #[test]
    fn in_bash_a_failing_command_ends_nothing() {
        let text = "A=1\nNODE_PORT = 5\nB=2\n";
        let bash = Document::parse(text.as_bytes(), Shell::Bash);
        assert_eq!((bash.problems()[0].fatal, bash.doubt(false), bash.dropped()), (false, None, false));
        assert!(codes(text)[0].1);
        let other = Document::parse(text.as_bytes(), Shell::Other);
        assert!(!other.problems()[0].fatal && other.doubt(false).is_some() && other.depends_on_shell());
        assert!(!Document::parse(b"A=1\n", Shell::Other).depends_on_shell());
    }

    #[test]
    fn far_reaching_commands_make_everything_unknown() {
        for text in [
            ". /etc/default/x\n",
            "source x\n",
            "[ -f /x ] && . /x\n",
            "if true; then exit 0; fi\nA=1\n",
            "cat <<E\nA=1\nE\n",
            "f() { A=1; }\nf\n",
            "readonly A=1\nA=2\n",
        ] {
            assert!(doc(text).opaque().is_some(), "{text}");
        }
    }

    #[test]
    fn mistakes_that_stop_the_broker() {
        assert_eq!(codes("NODE_PORT = 5677\n"), [("blanks-around-equals", true, 1)]);
        assert_eq!(codes("NODE_PORT =5677\n"), [("blanks-around-equals", true, 1)]);
        assert_eq!(codes("NODE_PORT= 5677\n"), [("blanks-around-equals", true, 1)]);
        assert_eq!(codes("A=\"open\nB=1\n"), [("syntax", true, 1)]);
        assert_eq!(codes("if true\n"), [("syntax", true, 2)]);
        assert_eq!(codes("SERVER_ERL_ARGS=+K +A 30\n"), [("syntax", true, 1)]);
        assert_eq!(codes("SERVER_ERL_ARGS=+K true\n"), [("syntax", false, 1)]);
        assert_eq!(codes("\u{feff}A=1\n"), [("syntax", true, 1)]);
        assert_eq!(codes("# c\r\nCONFIG_FILE=/x\r\n\r\n"), [("crlf", false, 2), ("crlf", true, 3)]);
        assert_eq!(var("NODE_PORT=5677\r\n", "NODE_PORT"), is("5677\r"));
    }

    #[test]
    fn edits_touch_nothing_else() {
        let mut d = doc("A=1\nNODE_PORT = 5\nB=2; A=3\n");
        assert_eq!(d.unset_var("A"), Err(EditError::SharedLine(3)));
        d.comment_out(2, "blanks").unwrap();
        assert_eq!(d.to_bytes(), b"A=1\n# NODE_PORT = 5  # blanks\nB=2; A=3\n");
        assert_eq!(d.problems(), []);
        assert_eq!(doc("export A=1 B=2\n").unset_var("A"), Err(EditError::SharedLine(1)));
        let mut d = doc("A=1 # why\nB=2\n");
        assert_eq!(d.unset_var("A"), Ok(true));
        assert_eq!(d.to_bytes(), b"B=2\n");
        assert_eq!(d.unset_var("A"), Ok(false));
        let without = |text: &str| {
            let mut d = doc(text);
            d.unset_var("A").unwrap();
            String::from_utf8(d.to_bytes()).unwrap()
        };
        assert_eq!(without("A=1\nB=2\nA=3\nRABBITMQ_A=4"), "B=2");
        assert_eq!(without("B=2\r\nA=3"), "B=2");
        assert_eq!(without("A=3"), "");
    }

    #[test]
    fn large_files_are_read_in_little_time() {
        let began = std::time::Instant::now();
        for text in ["A=1\n".repeat(50_000), "a;".repeat(50_000), "{ ".repeat(50_000), "$(".repeat(50_000)] {
            doc(&text);
        }
        assert!(began.elapsed() < std::time::Duration::from_secs(10));
    }

    fn any_script() -> impl Strategy<Value = Vec<u8>> {
        const PIECES: &[&[u8]] = &[
            b"A=",
            b"B=1",
            b"NODE_PORT=5",
            b" ",
            b"\n",
            b"\n",
            b";",
            b"'",
            b"\"",
            b"$",
            b"$(",
            b")",
            b"`",
            b"\\",
            b"#",
            b"&&",
            b"if ",
            b"fi",
            b"{",
            b"}",
            b"then ",
            b"\r\n",
            b"=",
            b"~",
            b"\xfc",
            b"x",
        ];
        prop_oneof![
            proptest::collection::vec(proptest::sample::select(PIECES), 0..20).prop_map(|v| v.concat()),
            proptest::collection::vec(any::<u8>(), 0..60),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn parsing_keeps_every_byte(bytes in any_script()) {
            prop_assert_eq!(Document::parse(&bytes, Shell::Dash).to_bytes(), bytes);
        }
    }
}

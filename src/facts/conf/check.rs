//! Settings against the schema: what the broker would refuse, and what can be guessed about how it was meant.

use super::access::{self, Access, User};
use super::settings::{Line, Settings};
use super::{MANY, Problem, secrets};
use crate::facts::env::Process;
use crate::facts::{Fact, unit};
use crate::formats::schema::laws::{Complaint, Law, Values};
use crate::formats::schema::validators::{HostCheck, Validity};
use crate::formats::schema::value::{Datatype, Reading, Typed, is_ip};
use crate::formats::schema::{Found, Mapping, Schema, distance, words};
use crate::host::pem::Form;
use crate::host::{Host, Kind, MAX_CONF, read_text};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// What the check needs besides the settings.
pub struct Context<'a> {
    pub host: &'a dyn Host,
    pub schema: &'a Schema,
    pub user: &'a Fact<User>,
    /// Single quotes are part of the value.
    pub literal_quotes: bool,
    /// `$(NAME)` may name an environment variable (cuttlefish 2.6).
    pub environment: bool,
    /// The environment of the broker's process.
    pub process: &'a Process,
    /// `$(<FILE)` stands for the content of a file.
    pub file_values: FileValues,
    /// What the broker starts besides its core; unknown: keys of plugins are not judged.
    pub started: &'a Fact<Vec<String>>,
    /// A passphrase for encrypted values is configured.
    pub passphrase: bool,
}

/// How the parser reads `$(<FILE)` (measured on cuttlefish 2.4, 3.0, 3.4 and 3.9).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileValues {
    /// Not at all: before cuttlefish 3.0 it is a setting called `<FILE`.
    None,
    /// Every byte of the file is a character: before 3.1.
    Latin1,
    /// A file that is not UTF-8 makes the parser crash.
    Utf8,
}

impl FileValues {
    pub fn of(cuttlefish: (u32, u32)) -> Self {
        match cuttlefish {
            (..=2, _) => FileValues::None,
            (3, 0) => FileValues::Latin1,
            _ => FileValues::Utf8,
        }
    }
}

/// What the check found.
#[derive(Debug, Default)]
pub struct Findings {
    pub problems: Vec<Problem>,
    /// Why it is not certain that the broker boots.
    pub undecided: Vec<String>,
}

const UNKNOWN_KEY: &str = "unknown-key";

/// Checks all settings.
pub fn check(context: &Context<'_>, settings: &Settings) -> Findings {
    let mut run =
        Run { context, settings, out: Findings::default(), typed: BTreeMap::new(), set: BTreeSet::new(), paths: BTreeSet::new() };
    for line in settings.effective() {
        run.line(line);
    }
    run.plugins();
    run.translations();
    run.out
}

struct Run<'a> {
    context: &'a Context<'a>,
    settings: &'a Settings,
    out: Findings,
    /// Values by the words of the key as the schema names it (aliases resolved, `$` words filled in).
    typed: BTreeMap<Vec<String>, Typed>,
    /// Keys that are set, whether or not their value could be read.
    set: BTreeSet<Vec<String>>,
    /// Application paths that get a value.
    paths: BTreeSet<&'a str>,
}

impl<'a> Run<'a> {
    fn line(&mut self, line: &'a Line) {
        let mapping = match self.context.schema.find(&line.entry.words) {
            Found::Mapping(mapping) => mapping,
            Found::Unknown | Found::Ambiguous => return self.unknown(line),
        };
        let name = if mapping.is_fuzzy() { line.entry.words.clone() } else { mapping.words.clone() };
        self.paths.insert(&mapping.path);
        self.set.insert(name.clone());
        let Some(text) = self.substituted(line) else { return };
        match self.context.schema.read(mapping, &text) {
            Reading::Good(value) => {
                self.quotes(line, &value);
                self.tag(line, mapping, &value);
                self.validators(line, mapping, &value);
                self.typed.insert(name, value);
            }
            Reading::Bad(expected) => self.bad(line, mapping, &expected, suggestion(self.context.schema, mapping, &text)),
            Reading::Undecided(why) => self.out.undecided.push(format!("{}: {why}", line.entry.key)),
        }
    }

    fn unknown(&mut self, line: &Line) {
        let schema = self.context.schema;
        if !schema.unread.is_empty() {
            let why =
                format!("{}: not in the part of the schemas that could be read ({})", line.entry.key, schema.unread.join("; "));
            return self.out.undecided.push(why);
        }
        if self.out.problems.iter().filter(|p| p.code == UNKNOWN_KEY).count() == MANY {
            return;
        }
        let near = schema.nearest(&line.entry.words);
        // Of several keys below the one that was written, the one whose value fits is meant; any text fits a text.
        let misfit = |key: &&String| match schema.find(&words(key)) {
            Found::Mapping(mapping) => match schema.read(mapping, &line.entry.value) {
                Reading::Good(Typed::Text(_)) => 1,
                Reading::Good(_) => 0,
                _ => 2,
            },
            _ => 2,
        };
        let below = near.iter().filter(|k| k.strip_prefix(&line.entry.key).is_some_and(|rest| rest.starts_with('.')));
        let best = below.min_by_key(misfit).or(near.first());
        let message = format!("this RabbitMQ has no setting `{}`: it does not boot with it", line.entry.key);
        let mut problem = line.problem(UNKNOWN_KEY, true, message, line.at());
        if best.is_some_and(|key| secrets::is_secret(key)) {
            problem.value = None;
            problem.text = secrets::line("password", &line.entry.text, line.entry.value_column);
        }
        problem.suggestion = best.cloned();
        self.out.problems.push(problem);
    }

    fn bad(&mut self, line: &Line, mapping: &Mapping, expected: &str, suggestion: Option<String>) {
        let shown = if line.secret() { "the value".to_owned() } else { format!("`{}`", line.shown()) };
        let hint = match port_list(mapping) && line.entry.value.contains(':') {
            true => " (one address and port for each key)",
            false => "",
        };
        let mut problem = line.problem("bad-value", true, format!("{shown} is not {expected}{hint}"), line.value_at());
        problem.suggestion = suggestion.filter(|_| !line.secret());
        self.out.problems.push(problem);
    }

    /// The value with `$(other.key)`, `$(ENVIRONMENT)` and `$(<file)` put in; None where that cannot be known or fails.
    fn substituted(&mut self, line: &Line) -> Option<String> {
        let value = &line.entry.value;
        let file =
            value.strip_prefix("$(<").and_then(|v| v.strip_suffix(')')).filter(|_| self.context.file_values != FileValues::None);
        let text = match file {
            Some(file) => self.file_value(line, file)?,
            None => value.clone(),
        };
        match self.filled(&text, &mut vec![line.entry.key.clone()]) {
            Ok(text) => Some(text),
            Err(Gap::Refused(message)) => {
                self.out.problems.push(line.problem("bad-value", true, message, line.value_at()));
                None
            }
            Err(Gap::Undecided(why)) => {
                self.out.undecided.push(format!("{}: {why}", line.entry.key));
                None
            }
        }
    }

    /// The text with every `$(name)` replaced, the first one first; what is put in may hold others. `inside`: the settings whose values
    /// are being put in.
    fn filled(&self, text: &str, inside: &mut Vec<String>) -> Result<String, Gap> {
        let mut text = text.to_owned();
        while let Some((start, name, end)) = reference(&text) {
            let other = match self.settings.value(&name) {
                Some(_) if inside.contains(&name) => {
                    return Err(Gap::Refused(format!("`$({name})` leads back to itself")));
                }
                Some(other) => {
                    inside.push(name);
                    let filled = self.filled(other, inside);
                    inside.pop();
                    filled?
                }
                None => self.variable(&name)?,
            };
            text.replace_range(start..end, &other);
            if text.len() > MAX_VALUE {
                return Err(Gap::Undecided(format!("its `$(…)` make it longer than {MAX_VALUE} bytes")));
            }
        }
        Ok(text)
    }

    /// An environment variable of the broker.
    fn variable(&self, name: &str) -> Result<String, Gap> {
        let nothing = || Err(Gap::Refused(format!("`$({name})` is replaced by the setting `{name}`, which there is not")));
        if !self.context.environment || !variable_name(name) {
            return nothing();
        }
        if let Some(value) = self.inherited(name) {
            return Ok(value);
        }
        let told = unit::tells_environment(self.context.host);
        match self.context.process.variable(name) {
            Fact::Known(Some(value)) => Ok(value),
            Fact::Known(None) if told => Err(Gap::Refused(format!(
                "there is no setting `{name}`, and neither the unit nor rabbitmq-env.conf gives the broker such an environment variable"
            ))),
            Fact::Known(None) => Err(Gap::Undecided(format!("rests on the environment variable {name} of the broker"))),
            Fact::Unknown(why) => Err(Gap::Undecided(why)),
        }
    }

    /// What systemd gives every service: the home directory of its user, and a path.
    fn inherited(&self, name: &str) -> Option<String> {
        match name {
            "HOME" => {
                let users = read_text(self.context.host, "/etc/passwd").ok()?;
                let broker = users.lines().find(|line| line.starts_with("rabbitmq:"))?;
                broker.split(':').nth(5).map(str::to_owned)
            }
            "PATH" => Some("/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into()),
            _ => None,
        }
    }

    /// The content of a file that stands for a value. The parser does not go on without it.
    fn file_value(&mut self, line: &Line, name: &str) -> Option<String> {
        let path = Path::new(&line.file).parent().unwrap_or(Path::new("/")).join(trimmed_once(name));
        let refused = |message: String| line.problem("missing-file", true, message, line.value_at());
        // What the broker cannot read would stand in a message about a wrong value.
        if access::hidden(self.context.host, self.context.user, &path) {
            self.out.problems.push(refused(format!("the broker's user may not read {}", path.display())));
            return None;
        }
        if self.is_directory(&path) {
            self.out.problems.push(refused(format!("{} is a directory", path.display())));
            return None;
        }
        if path.iter().any(|part| part.len() > MAX_NAME) {
            self.out.problems.push(refused("the name of the file is too long".to_owned()));
            return None;
        }
        let bytes = match self.context.host.read(&path, MAX_CONF) {
            Ok(bytes) => bytes,
            Err(miss) if miss.is_absent() => {
                self.out.problems.push(refused(format!("{} is not there", path.display())));
                return None;
            }
            Err(miss) => {
                self.out.undecided.push(miss.to_string());
                return None;
            }
        };
        let bytes = without_line_end(&bytes);
        match String::from_utf8(bytes) {
            Ok(text) if self.context.file_values == FileValues::Utf8 || text.is_ascii() => Some(text),
            Ok(text) => Some(text.bytes().map(char::from).collect()),
            Err(error) if self.context.file_values == FileValues::Latin1 => {
                Some(error.as_bytes().iter().map(|b| char::from(*b)).collect())
            }
            Err(_) => {
                let message = format!("{} is not UTF-8: the broker's parser stops there", path.display());
                self.out.problems.push(line.problem("encoding", true, message, line.value_at()));
                None
            }
        }
    }

    /// Quotes that the parser of this version takes for a part of the value.
    fn quotes(&mut self, line: &Line, value: &Typed) {
        let text = &line.entry.value;
        let within = |quote: char| text.len() > 1 && text.starts_with(quote) && text.ends_with(quote);
        let single = self.context.literal_quotes && text.starts_with('\'');
        if matches!(value, Typed::Text(_) | Typed::Atom(_) | Typed::Tagged { .. })
            && !line.entry.quoted
            && (within('"') || single)
        {
            let message = "the quotes are part of the value".to_owned();
            let mut problem = line.problem("quoted-value", false, message, line.value_at());
            problem.suggestion = (!line.secret()).then(|| text.trim_matches(['"', '\'']).to_owned());
            self.out.problems.push(problem);
        }
    }

    /// `abc:def` where a password may be encrypted: the part before the colon is taken for the tag.
    fn tag(&mut self, line: &Line, mapping: &Mapping, value: &Typed) {
        let Typed::Tagged { tag, .. } = value else { return };
        let any_tag = self.context.schema.laws(&mapping.path).iter().any(|law| matches!(law, Law::AnyTagIsEncrypted { .. }));
        if tag != "encrypted" && !any_tag {
            return;
        }
        if self.context.passphrase {
            return self.out.undecided.push(format!("{}: encrypted values are not decrypted here", line.entry.key));
        }
        let message = match tag.as_str() {
            "encrypted" => {
                "the value is encrypted, and no passphrase is configured (config_entry_decoder in advanced.config)".to_owned()
            }
            _ => "the colon makes this RabbitMQ take the value for an encrypted one, and no passphrase is configured".to_owned(),
        };
        self.out.problems.push(line.problem("encrypted-colon", true, message, line.value_at()));
    }

    fn validators(&mut self, line: &Line, mapping: &Mapping, value: &Typed) {
        // Cuttlefish looks validators up by the key of the mapping, so those of `$` keys never run.
        if mapping.is_fuzzy() {
            return;
        }
        for name in &mapping.validators {
            match self.context.schema.validate(name, value) {
                Validity::Holds => {}
                Validity::Fails => {
                    let message = self.context.schema.validator_message(name).to_owned();
                    let shown = if line.secret() { "the value".to_owned() } else { format!("`{}`", line.shown()) };
                    let mut problem = line.problem("bad-value", true, format!("{shown}: {message}"), line.value_at());
                    problem.suggestion = (!line.secret()).then(|| without_blanks(&line.entry.value)).flatten();
                    self.out.problems.push(problem);
                }
                Validity::OnHost(check) => match value {
                    Typed::Text(path) | Typed::Atom(path) => self.on_host(line, path, check),
                    _ => self.out.undecided.push(format!("{}: validator {name}", line.entry.key)),
                },
                Validity::Undecided => self.out.undecided.push(format!("{}: validator {name}", line.entry.key)),
            }
        }
    }

    /// A path that the broker's user must be able to use.
    fn on_host(&mut self, line: &Line, path: &str, check: HostCheck) {
        let as_directory = path.ends_with('/');
        let path = Path::new(path);
        let user = match self.context.user {
            Fact::Known(user) => user,
            Fact::Unknown(why) => {
                let (key, path) = (&line.entry.key, path.display());
                return self.out.undecided.push(format!("{key}: the broker's user must be able to use {path} ({why})"));
            }
        };
        // A relative path begins where the unit starts the broker.
        let beginning = || unit::working_directory(self.context.host).known().cloned().flatten();
        let Some(path) =
            (if path.is_absolute() { Some(path.to_owned()) } else { beginning().map(|dir| Path::new(&dir).join(path)) })
        else {
            let why = "a path relative to where the broker is started, which is not known";
            return self.out.undecided.push(format!("{}: {why}", line.entry.key));
        };
        let path = path.as_path();
        let bits = match check {
            HostCheck::Exists => 0,
            HostCheck::Readable | HostCheck::File | HostCheck::Pem => access::READ,
            HostCheck::Directory => access::READ | access::SEARCH,
            HostCheck::Writable => access::WRITE | access::SEARCH,
        };
        let message = match access::may(self.context.host, user, path, bits) {
            Ok(Access::Yes) if as_directory && !self.is_directory(path) => Some(format!("{} is no directory", path.display())),
            Ok(Access::Yes) if matches!(check, HostCheck::File | HostCheck::Pem) && self.is_directory(path) => {
                Some(format!("{} is a directory", path.display()))
            }
            Ok(Access::Yes) if check == HostCheck::Pem => self.without_pem(line, path),
            Ok(access) => access.refusal(path),
            Err(miss) => return self.out.undecided.push(format!("{}: {miss}", line.entry.key)),
        };
        if let Some(message) = message {
            self.out.problems.push(line.problem("missing-file", true, message, line.value_at()));
        }
    }

    fn is_directory(&self, path: &Path) -> bool {
        self.context.host.stat(path, true).is_ok_and(|meta| meta.kind == Kind::Dir)
    }

    fn without_pem(&mut self, line: &Line, path: &Path) -> Option<String> {
        match self.context.host.pem(path) {
            Ok(pem) => (pem.form != Form::Pem).then(|| format!("{} holds no PEM-encoded certificate or key", path.display())),
            Err(miss) => {
                self.out.undecided.push(format!("{}: {miss}", line.entry.key));
                None
            }
        }
    }

    /// Settings of a plugin that the broker does not start have no effect. One problem for each plugin.
    fn plugins(&mut self) {
        let Fact::Known(started) = self.context.started else { return };
        let mut named = BTreeSet::new();
        for line in self.settings.effective() {
            let Found::Mapping(mapping) = self.context.schema.find(&line.entry.words) else { continue };
            let app = &mapping.app;
            if !app.starts_with("rabbitmq_")
                || ALWAYS.contains(&app.as_str())
                || started.contains(app)
                || !named.insert(app.clone())
            {
                continue;
            }
            let message = format!("{} has no effect: the plugin {app} is not enabled", line.entry.key);
            let mut problem = line.problem("needs-plugin", false, message, line.at());
            problem.suggestion = Some(app.clone());
            self.out.problems.push(problem);
        }
    }

    /// Settings that are each right, but that the broker refuses together.
    fn translations(&mut self) {
        let schema = self.context.schema;
        let given = |key: &str| {
            let words = words(key);
            self.set.contains(&words) || matches!(schema.find(&words), Found::Mapping(m) if m.has_default)
        };
        let values = Values { set: &self.typed, given: &given };
        let paths = self.paths.clone();
        let complaints: Vec<(&str, Complaint)> = schema
            .computed(&paths)
            .flat_map(|(path, laws)| laws.iter().flat_map(|law| law.complaints(&values)).map(move |complaint| (path, complaint)))
            .collect();
        for (path, complaint) in complaints {
            self.complaint(path, complaint);
        }
    }

    fn complaint(&mut self, path: &str, complaint: Complaint) {
        let (key, message) = match complaint {
            Complaint::Refused { key, message } => (key, message),
            Complaint::Missing { key } => (None, format!("`{key}` must be set too")),
            // What is computed from defaults alone is right.
            Complaint::Undecided { .. } if !self.paths.contains(path) => return,
            Complaint::Undecided { why } => return self.out.undecided.push(why),
            Complaint::OnHost { key, path: file, check } => {
                if let Some(line) = self.blamed(path, Some(&key)) {
                    self.on_host(line, &file, check);
                }
                return;
            }
        };
        if let Some(line) = self.blamed(path, key.as_deref()) {
            self.out.problems.push(line.problem("bad-value", true, message, line.value_at()));
        }
    }

    /// The line that sets a key, or the first that sets anything of an application variable.
    fn blamed(&self, path: &str, key: Option<&str>) -> Option<&'a Line> {
        let schema = self.context.schema;
        let set = |line: &&Line| match key {
            Some(key) => schema.renamed(&line.entry.words).unwrap_or(&line.entry.key) == key,
            None => matches!(schema.find(&line.entry.words), Found::Mapping(m) if m.path == path),
        };
        self.settings.effective().find(set)
    }
}

/// Why a `$(…)` could not be replaced.
enum Gap {
    /// The broker refuses it, with this message.
    Refused(String),
    Undecided(String),
}

/// Longest name of a file, in bytes (NAME_MAX).
const MAX_NAME: usize = 255;

/// Longest value that `$(…)` may make, in bytes.
const MAX_VALUE: usize = 64 * 1024;

/// Applications with a schema that run without being enabled, or only serve others.
const ALWAYS: [&str; 6] = [
    "rabbitmq_prelaunch",
    "rabbitmq_management_agent",
    "rabbitmq_web_dispatch",
    "rabbitmq_aws",
    "rabbitmq_peer_discovery_common",
    "rabbitmq_federation_common",
];

/// What a variable of a unit's environment can be called (systemd.exec(5)).
fn variable_name(name: &str) -> bool {
    !name.starts_with(|c: char| c.is_ascii_digit())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        && !name.is_empty()
}

/// Cuttlefish takes blanks off one end only: off the front if there are any.
fn trimmed_once(text: &str) -> &str {
    let front = text.trim_start();
    if front.len() < text.len() { front } else { text.trim_end() }
}

/// Cuttlefish takes one character off the end of a file's content, by the pattern `[\n\r]$`: of `\r\n` it is the first.
fn without_line_end(bytes: &[u8]) -> Vec<u8> {
    let line_end = |b: Option<&u8>| matches!(b, Some(b'\n' | b'\r'));
    let last = bytes.len().saturating_sub(1);
    let at = match bytes {
        [.., before, b'\n'] if line_end(Some(before)) => last - 1,
        [.., end] if line_end(Some(end)) => last,
        _ => return bytes.to_vec(),
    };
    bytes.iter().enumerate().filter(|(i, _)| *i != at).map(|(_, b)| *b).collect()
}

/// The first `$(name)` in a value: its start, its name and its end.
fn reference(text: &str) -> Option<(usize, String, usize)> {
    let start = text.find("$(")?;
    let len = text.get(start..)?.find(')')?;
    let name = text.get(start + 2..start + len)?.trim().to_owned();
    Some((start, name, start + len + 1))
}

fn port_list(mapping: &Mapping) -> bool {
    mapping.datatypes.contains(&Datatype::Ip)
}

/// A value that the schema takes and that was probably meant.
fn suggestion(schema: &Schema, mapping: &Mapping, text: &str) -> Option<String> {
    candidates(mapping, text).into_iter().find(|c| c != text && matches!(schema.read(mapping, c), Reading::Good(_)))
}

fn candidates(mapping: &Mapping, text: &str) -> Vec<String> {
    let bare = text.trim_matches(['"', '\'']).trim();
    let mut all = vec![bare.to_owned(), bare.to_lowercase()];
    all.extend(mapping.datatypes.iter().filter_map(|d| match d {
        Datatype::Enum(words) => word(words, bare),
        Datatype::Ip => listener(bare),
        Datatype::Float => share(bare),
        Datatype::Integer | Datatype::Bytesize | Datatype::Bounded { .. } => number(bare),
        _ => None,
    }));
    all.extend(without_blanks(bare));
    all
}

/// `yes` → true, `pause-minority` → pause_minority, `warn` → warning.
fn word(words: &[String], text: &str) -> Option<String> {
    let lower = text.to_lowercase().replace('-', "_");
    let boolean = match lower.as_str() {
        "yes" | "1" | "on" | "enabled" | "true" => ["true", "on"],
        "no" | "0" | "off" | "disabled" | "false" => ["false", "off"],
        _ => ["", ""],
    };
    let known = |w: &&String| boolean.contains(&w.as_str());
    let near = words.iter().map(|w| (distance(&lower, w, 2), w)).filter(|(d, _)| *d <= 2).min();
    let begun = || words.iter().find(|w| lower.len() > 2 && w.starts_with(&lower));
    words.iter().find(known).or(near.map(|(_, w)| w)).or_else(begun).cloned()
}

/// `[::1]:5672` → ::1:5672, `*:5672` and `:5672` → 5672, `localhost:5672` → 127.0.0.1:5672, `10.0.0.1 5672` → 10.0.0.1:5672.
fn listener(text: &str) -> Option<String> {
    let (host, port) = text.rsplit_once([':', ' '])?;
    let (host, port) = (host.trim(), port.trim());
    match host.trim_start_matches('[').trim_end_matches(']') {
        "" | "*" => Some(port.to_owned()),
        "localhost" => Some(format!("127.0.0.1:{port}")),
        ip if is_ip(ip) => Some(format!("{ip}:{port}")),
        _ => None,
    }
}

/// `40%` → 0.4, `0,4` → 0.4, `1` → 1.0
fn share(text: &str) -> Option<String> {
    if let Some(percent) = text.strip_suffix('%') {
        return percent.trim().parse::<f64>().ok().map(|p| format!("{:?}", p / 100.0));
    }
    text.replace(',', ".").parse::<f64>().ok().map(|f| format!("{f:?}"))
}

/// The digits in front: `60s` → 60.
fn number(text: &str) -> Option<String> {
    let digits: String = text.chars().take_while(char::is_ascii_digit).collect();
    let unit = text.get(digits.len()..)?.trim();
    // 1.5 is not 1, and 2GB is not 2.
    (!digits.is_empty() && matches!(unit, "" | "s" | "sec" | "seconds" | "ms" | "/tcp")).then_some(digits)
}

/// `2 GB` → 2GB
fn without_blanks(text: &str) -> Option<String> {
    text.contains(' ').then(|| text.replace(' ', ""))
}

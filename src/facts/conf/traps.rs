//! Settings that the broker takes without a word, and that do not do what their author meant.

use super::advanced::Advanced;
use super::files::{Paths, fits};
use super::settings::{Line, Settings};
use super::{Problem, secrets, units};
use crate::facts::env::Env;
use crate::facts::{Fact, Where};
use crate::formats::erlang::{self, Term};
use crate::formats::rabbitmq_conf::{Dialect, Document};
use crate::formats::schema::{Found, Schema};
use crate::host::{Got, Host, Kind, optional};
use std::path::{Path, PathBuf};

/// Sizes that the broker reads only when it runs, and what it takes where it cannot read them.
const SIZES: [(&str, &str, &str); 3] = [
    ("disk_free_limit.absolute", "disk_free_limit", "50 MB, its default"),
    ("vm_memory_high_watermark.absolute", "vm_memory_high_watermark", "its default share of the memory"),
    ("total_memory_available_override_value", "total_memory_available_override_value", "the memory of the host"),
];

/// Largest file of conf.d that is looked into for settings, in bytes.
const MAX_STRAY: u64 = 256 * 1024;

/// Endings of files that somebody put aside on purpose.
const ASIDE: [&str; 17] = [
    "~",
    ".bak",
    ".back",
    ".backup",
    ".disabled",
    ".off",
    ".old",
    ".orig",
    ".save",
    ".swp",
    ".tmp",
    ".example",
    ".sample",
    ".md",
    ".rpmnew",
    ".rpmsave",
    ".template",
];

/// Sizes that this version cannot read, or reads otherwise than versions on the other side of 3.13. `series`: major and minor.
pub fn sizes(settings: &Settings, advanced: &Advanced, series: (u32, u32)) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (key, name, instead) in SIZES {
        if let Some((term, at)) = advanced.get("rabbit", name) {
            if let Some(text) = size_of(term)
                && let Some((code, message, suggestion)) = size(&text, series, instead)
            {
                let excerpt = format!("{name}: {text}");
                let problem = Problem::new(code, false, message, at);
                problems.push(Problem { value: Some(text), suggestion, text: excerpt, ..problem });
            }
        } else if let Some(line) = settings.get(key)
            && !line.entry.value.contains("$(")
            && let Some((code, message, suggestion)) = size(&line.entry.value, series, instead)
        {
            let problem = line.problem(code, false, message, line.value_at());
            problems.push(Problem { suggestion, ..problem });
        }
    }
    problems
}

/// `"2GB"`, `{absolute, "2GB"}`
fn size_of(term: &Term) -> Option<String> {
    match term.pair() {
        Some((kind, size)) if kind.atom() == Some("absolute") => size.text(),
        Some(_) => None,
        None if term.atom().is_some() => None,
        None => term.text(),
    }
}

fn size(text: &str, series: (u32, u32), instead: &str) -> Option<(&'static str, String, Option<String>)> {
    if units::bytes(text, series).is_none() {
        let bare = text.replace(' ', "");
        let would_do = Some(bare).filter(|bare| units::bytes(bare, series).is_some());
        return Some(("size-not-read", format!("this version cannot read `{text}`, and takes {instead}"), would_do));
    }
    let (old, new) = units::two_meanings(text)?;
    let here = units::bytes(text, series)?;
    let message = format!("`{text}` is {here} bytes here: {old} before 3.13, {new} since");
    Some(("size-unit-changed", message, units::unmistakable(text, series)))
}

/// Settings that advanced.config (or rabbitmq.config) sets too: it wins.
pub fn overridden(settings: &Settings, advanced: &Advanced, schema: &Schema) -> Vec<Problem> {
    let one = |line: &Line| {
        let Found::Mapping(mapping) = schema.find(&line.entry.words) else { return None };
        let mut path = mapping.path.split('.');
        let (app, key) = (path.next()?, path.next()?);
        let (_, at) = advanced.get(app, key)?;
        let message =
            format!("{} has no effect: {}:{} sets {key} of {app}, and wins", line.entry.key, at.file, at.line.unwrap_or(0));
        Some(line.problem("overridden", false, message, line.at()))
    };
    settings.effective().filter_map(one).collect()
}

/// Files with settings where the broker does not look for them: in conf.d under another ending, or in the place of a rabbitmq.conf that is
/// not there under a name that is almost its own.
pub fn strays(host: &dyn Host, env: &Env, dialect: Dialect) -> Got<Vec<Problem>> {
    let Fact::Known(paths) = Paths::of(env) else { return Ok(Vec::new()) };
    let mut problems = near_misses(host, env, &paths, dialect)?;
    let Some((dir, names)) = paths.more.rsplit_once('/').filter(|(dir, names)| names.contains('*') && !dir.contains('*')) else {
        return Ok(problems);
    };
    let listed = optional(host.list(Path::new(dir)))?.unwrap_or_default();
    for name in listed.iter().filter(|name| !fits(name, names) && !put_aside(name)) {
        let path = Path::new(dir).join(name);
        if settings_in(host, &path, dialect) {
            let message = format!("the broker reads {names} in {dir} and nothing else: the settings in this file have no effect");
            let name = path.file_stem().map(|stem| format!("{}.conf", stem.to_string_lossy()));
            problems.push(stray(&path, message, name));
        }
    }
    Ok(problems)
}

/// Where people put it, beside names of the right directory.
pub const ELSEWHERE: &str = "/etc/rabbitmq.conf";
/// Endings of a rabbitmq.conf that is none.
const ALMOST: [&str; 6] = ["cnf", "cfg", "conf.txt", "conf.conf", "ini", "config.conf"];

fn near_misses(host: &dyn Host, env: &Env, paths: &Paths, dialect: Dialect) -> Got<Vec<Problem>> {
    let main = paths.main.trim_end_matches(".conf").trim_end_matches(".config");
    let there = |path: String| host.stat(Path::new(&path), true).is_ok();
    if there(format!("{main}.conf")) || there(format!("{main}.config")) {
        return Ok(Vec::new());
    }
    let almost = ALMOST.iter().map(|end| PathBuf::from(format!("{main}.{end}"))).chain([PathBuf::from(ELSEWHERE)]);
    let strays = almost.filter(|path| *path != Path::new(&env.file) && settings_in(host, path, dialect));
    let problem = |path: PathBuf| {
        let message = format!("the broker reads {main}.conf, which is not there: the settings in this file have no effect");
        stray(&path, message, Some(format!("{main}.conf")))
    };
    Ok(strays.map(problem).collect())
}

/// `name`: what it has to be called, in its directory or with another.
fn stray(path: &Path, message: String, name: Option<String>) -> Problem {
    let at = Where { file: path.display().to_string(), line: None, column: None };
    Problem { suggestion: name, ..Problem::new("stray-file", false, message, at) }
}

/// Neither what is no file nor what nobody may read is a configuration that somebody relies on.
fn settings_in(host: &dyn Host, path: &Path, dialect: Dialect) -> bool {
    let file = host.stat(path, true).is_ok_and(|meta| meta.kind == Kind::File && meta.size <= MAX_STRAY);
    let bytes = file.then(|| host.read(path, MAX_STRAY).ok()).flatten();
    bytes.is_some_and(|bytes| holds_settings(&bytes, dialect))
}

fn put_aside(name: &str) -> bool {
    let lower = name.to_lowercase();
    name.starts_with('.')
        || lower.starts_with("readme")
        || ASIDE.iter().any(|end| lower.ends_with(end))
        || lower.contains(".dpkg-")
        || lower.contains(".ucf-")
}

fn holds_settings(bytes: &[u8], dialect: Dialect) -> bool {
    let document = Document::parse(bytes, dialect);
    let lines = document.entries().count();
    if lines > 0 && document.errors().is_empty() {
        return true;
    }
    let terms = std::str::from_utf8(bytes).ok().and_then(|text| erlang::consult(text).ok()).unwrap_or_default();
    matches!(terms.as_slice(), [one] if one.list().is_some_and(|all| !all.is_empty() && all.iter().all(|app| app.pair().is_some())))
}

/// `rabbit.heartbeat` and the like: what the Erlang file sets.
pub fn keys_of(advanced: &Advanced) -> Vec<String> {
    let mut keys: Vec<String> =
        advanced.keys().map(|(app, key)| format!("{app}.{key}")).filter(|k| !secrets::is_secret(k)).collect();
    keys.sort();
    keys.dedup();
    keys
}

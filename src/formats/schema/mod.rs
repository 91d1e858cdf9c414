//! Cuttlefish schemas: which keys rabbitmq.conf may hold and what their values must look like.
//!
//! A schema is data with pieces of code in it. The data is read whole; of the code only what can be told without running it
//! (see [`laws`] and [`validators`]), so that what remains is data too. The rules are those of cuttlefish 2.4 to 3.9, checked against the parser of RabbitMQ 3.8, 3.10, 4.0 and 4.3.

pub mod laws;
pub mod packed;
pub mod validators;
pub mod value;

use super::erlang::{self, Term, Value};
use laws::Law;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use validators::{Validator, Validity};
use value::Datatype;

/// One schema file, in the order in which the broker loads them (by path).
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    /// The application it belongs to, e.g. `rabbitmq_mqtt`.
    pub app: &'a str,
    /// The name of the file, e.g. `rabbitmq_mqtt.schema` or `ssl_options.partial`.
    pub name: &'a str,
    pub text: &'a str,
}

/// One key and what belongs to it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Mapping {
    /// The words of the key; one that begins with `$` stands for any word.
    #[serde(rename = "key", with = "dotted")]
    pub words: Vec<String>,
    /// Where the value goes in the application environment, e.g. `rabbit.tcp_listeners`.
    pub path: String,
    /// Tried in order.
    pub datatypes: Vec<Datatype>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub has_default: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub validators: Vec<String>,
    /// The application whose schema defines it.
    pub app: String,
}

/// The words of a key as one text.
mod dotted {
    use serde::{Deserialize, Deserializer, Serializer};
    pub fn serialize<S: Serializer>(words: &[String], s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&words.join("."))
    }
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<String>, D::Error> {
        String::deserialize(d).map(|key| super::words(&key))
    }
}

impl Mapping {
    /// The key as rabbitmq.conf spells it, `$name` included.
    pub fn key(&self) -> String {
        self.words.join(".")
    }
    /// Whether one of its words stands for any word.
    pub fn is_fuzzy(&self) -> bool {
        self.words.iter().any(|w| w.starts_with('$'))
    }
    fn matches(&self, words: &[String]) -> bool {
        self.words.len() == words.len() && self.words.iter().zip(words).all(|(d, w)| d == w || d.starts_with('$'))
    }
}

/// Aliases of aliases that are followed; a broken schema may have them in a circle.
const MAX_ALIASES: usize = 4;

/// What a key is to the schema.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Found<'a> {
    Mapping(&'a Mapping),
    /// No mapping has this key.
    Unknown,
    /// Several mappings with `$` words fit and none exactly; cuttlefish refuses the key like an unknown one.
    Ambiguous,
}

/// All schemas of an installation.
#[derive(Debug, Clone, Default)]
pub struct Schema {
    mappings: Vec<Mapping>,
    exact: BTreeMap<String, usize>,
    /// Old key → the key that replaced it.
    aliases: BTreeMap<String, String>,
    /// Application path → what the fun that computes its value requires.
    translations: BTreeMap<String, Vec<Law>>,
    validators: BTreeMap<String, Validator>,
    /// Forms that could not be read: `file:line: reason`. A key that is unknown may be defined in one of them.
    pub unread: Vec<String>,
    /// Since cuttlefish 3.5 the tag of `tag:value` ends at the first colon and is a word.
    tag_at_first_colon: bool,
}

/// Separates the words of a key where it is a map key: a word may hold a dot.
const SEPARATOR: &str = "\u{0}";

/// Reads the files of a schema one after the other.
struct Builder<'a> {
    schema: Schema,
    /// Texts of the `.partial` files by application and name.
    partials: BTreeMap<(&'a str, &'a str), &'a str>,
    /// Where the mapping of a key stands, so that another one can take its place.
    positions: BTreeMap<String, usize>,
}

impl Builder<'_> {
    fn add(&mut self, term: &Term, app: &str) {
        let Some([kind, rest @ ..]) = term.tuple() else { return };
        match (kind.atom(), rest) {
            (Some("mapping"), [key, path, props]) => {
                if let (Some(key), Some(path)) = (key.text(), path.text()) {
                    self.mapping(&key, path, props, app);
                }
            }
            (Some("translation"), [path, rest @ ..]) => {
                if let Some(path) = path.text() {
                    self.translation(path, body(rest.first()));
                }
            }
            (Some("validator"), [name, message, fun, ..]) => {
                if let (Some(name), Some(message)) = (name.text(), message.text()) {
                    let validator = Validator::read(&name, message, body(Some(fun)));
                    self.schema.validators.insert(name, validator);
                }
            }
            (Some("include_partial"), [name, options]) => self.include(name, options, app),
            _ => {}
        }
    }

    fn translation(&mut self, path: String, fun: &str) {
        let laws = laws::read(&path, fun);
        self.schema.translations.insert(path, laws);
    }

    fn mapping(&mut self, key: &str, path: String, props: &Term, app: &str) {
        let words = words(key);
        let old = self.positions.get(&words.join(SEPARATOR)).and_then(|i| self.schema.mappings.get(*i));
        let inherited = old.filter(|_| flag(props, "merge"));
        let mapping = Mapping {
            datatypes: match (props.property("datatype"), inherited) {
                (Some(term), _) => Datatype::list(term),
                (None, Some(old)) => old.datatypes.clone(),
                (None, None) => vec![Datatype::String],
            },
            has_default: props.property("default").is_some() || inherited.is_some_and(|m| m.has_default),
            validators: match (props.property("validators").and_then(Term::list), inherited) {
                (Some(names), _) => names.iter().filter_map(Term::text).collect(),
                (None, Some(old)) => old.validators.clone(),
                (None, None) => Vec::new(),
            },
            words,
            path,
            app: app.to_owned(),
        };
        let single = props.property("alias").into_iter();
        for alias in single.chain(props.property("aliases").and_then(Term::list).unwrap_or_default()) {
            // An alias is a string or {string, message}.
            if let Some(alias) = alias.pair().map_or_else(|| alias.text(), |(a, _)| a.text()) {
                self.schema.aliases.insert(self::words(&alias).join(SEPARATOR), mapping.key());
            }
        }
        self.insert(mapping);
    }

    fn insert(&mut self, mapping: Mapping) {
        let key = mapping.words.join(SEPARATOR);
        match self.positions.get(&key).and_then(|i| self.schema.mappings.get_mut(*i)) {
            Some(old) => *old = mapping,
            None => {
                self.positions.insert(key, self.schema.mappings.len());
                self.schema.mappings.push(mapping);
            }
        }
    }

    /// `{include_partial, {App, "name"}, [{prefix, …}, {app_prefix, …}, {disable_with, none}, {exclude, […]}, {overrides, […]}]}`
    fn include(&mut self, name: &Term, options: &Term, app: &str) {
        let option = |key| options.property(key).and_then(Term::text);
        let (Some((of, file)), Some(prefix), Some(path)) = (name.pair(), option("prefix"), option("app_prefix")) else { return };
        let (of, file) = (of.text().unwrap_or_default(), file.text().unwrap_or_default());
        let Some(text) = self.partials.get(&(of.as_str(), file.as_str())) else {
            self.schema.unread.push(format!("{file}.partial of {of}: not there"));
            return;
        };
        let excluded: Vec<String> =
            options.property("exclude").and_then(Term::list).unwrap_or_default().iter().filter_map(Term::text).collect();
        let left_out =
            |key: &str| excluded.iter().any(|e| key == e || key.strip_prefix(e.as_str()).is_some_and(|r| r.starts_with('.')));
        for form in erlang::forms(text) {
            let term = match form {
                Ok(term) => term,
                Err(e) => {
                    self.schema.unread.push(format!("{file}.partial:{}: {}", e.line, e.message));
                    continue;
                }
            };
            let Some([kind, rest @ ..]) = term.tuple() else { continue };
            let key = rest.first().and_then(Term::text).unwrap_or_default();
            match (kind.atom(), rest) {
                (Some("mapping" | "partial_translation"), _) if left_out(&key) => {}
                (Some("mapping"), [_, to, props]) => {
                    let to = to.text().unwrap_or_default();
                    let props = overridden(props, options, &key);
                    self.mapping(&format!("{prefix}.{key}"), format!("{path}.{to}"), &props, app);
                }
                (Some("partial_translation"), [_, fun]) => {
                    // It names its keys by the prefix of whoever includes it.
                    let fun = body(Some(fun)).replace("ConfPrefix ++ \"", &format!("\"{prefix}"));
                    self.translation(format!("{path}.{key}"), &fun);
                }
                (Some("validator"), _) => self.add(&term, app),
                _ => {}
            }
        }
        if let Some(none) = option("disable_with") {
            self.schema.translations.entry(path.clone()).or_default();
            let datatypes = vec![Datatype::Enum(vec![none])];
            self.insert(Mapping {
                words: words(&prefix),
                path,
                datatypes,
                has_default: false,
                validators: Vec::new(),
                app: app.to_owned(),
            });
        }
    }
}

impl Schema {
    /// Reads schema files. `cuttlefish` is the version (major, minor) that will read them: tagged values changed in 3.5.
    pub fn parse(sources: &[Source<'_>], cuttlefish: (u32, u32)) -> Schema {
        let partials = sources.iter().filter_map(|s| Some(((s.app, s.name.strip_suffix(".partial")?), s.text))).collect();
        let schema = Schema { tag_at_first_colon: cuttlefish >= (3, 5), ..Schema::default() };
        let mut builder = Builder { schema, partials, positions: BTreeMap::new() };
        let mut files: Vec<std::ops::Range<usize>> = Vec::new();
        // Cuttlefish begins with the last file: what an earlier one defines too takes its place.
        for source in sources.iter().rev().filter(|s| !s.name.ends_with(".partial")) {
            let first = builder.schema.mappings.len();
            for form in erlang::forms(source.text) {
                match form {
                    Ok(term) => builder.add(&term, source.app),
                    Err(e) => builder.schema.unread.push(format!("{}:{}: {}", source.name, e.line, e.message)),
                }
            }
            files.push(first..builder.schema.mappings.len());
        }
        let mut schema = builder.schema;
        schema.want_pem_of_providers();
        schema.drop_shadowed(files.into_iter().rev().flatten());
        schema.exact = schema.mappings.iter().enumerate().map(|(i, m)| (m.words.join(SEPARATOR), i)).collect();
        schema
    }

    /// Providers of OAuth 2 are checked by a function of the broker. It wants PEM data in their CA files since the release in which the
    /// validators of the same application do (4.2.9, 4.3.0).
    fn want_pem_of_providers(&mut self) {
        let of_oauth2 = |m: &Mapping| m.app == "rabbitmq_auth_backend_oauth2" && m.validators.iter().any(|v| v == "pem_file");
        let wanted = self.mappings.iter().any(of_oauth2);
        for law in self.translations.values_mut().flatten() {
            if let Law::OauthProviders { pem, .. } = law {
                *pem = wanted;
            }
        }
    }

    /// Of several mappings to one application path that no translation combines, cuttlefish keeps only the first.
    fn drop_shadowed(&mut self, order: impl Iterator<Item = usize>) {
        let mut taken = BTreeSet::new();
        let mut shadowed = BTreeSet::new();
        for index in order {
            let Some(mapping) = self.mappings.get(index) else { continue };
            if !self.translations.contains_key(&mapping.path) && !taken.insert(mapping.path.as_str()) {
                shadowed.insert(index);
            }
        }
        let mut index = 0..;
        self.mappings.retain(|_| index.next().is_none_or(|i| !shadowed.contains(&i)));
    }

    /// What of the schema is not understood.
    pub fn not_understood(&self) -> impl Iterator<Item = String> {
        let laws = self.translations.values().flatten().filter_map(|law| match law {
            Law::Unread { what } => Some(what.clone()),
            _ => None,
        });
        let checks = self.validators.iter().filter(|(_, v)| v.check == validators::Check::Unread);
        let types = self.mappings.iter().flat_map(|m| m.datatypes.iter().map(move |d| (m, d)));
        let types = types.filter(|(_, d)| matches!(d, Datatype::Other(_)));
        let types = types.map(|(m, d)| format!("{}: datatype {}", m.key(), d.describe()));
        self.unread.iter().cloned().chain(laws).chain(checks.map(|(name, _)| format!("validator {name}"))).chain(types)
    }

    /// The mapping of a key. Aliases are followed.
    pub fn find(&self, words: &[String]) -> Found<'_> {
        self.find_within(words, MAX_ALIASES)
    }

    fn find_within(&self, words: &[String], aliases: usize) -> Found<'_> {
        let joined = words.join(SEPARATOR);
        if let Some(mapping) = self.exact.get(&joined).and_then(|i| self.mappings.get(*i)) {
            return Found::Mapping(mapping);
        }
        if let (Some(renamed), Some(left)) = (self.aliases.get(&joined), aliases.checked_sub(1)) {
            return self.find_within(&self::words(renamed), left);
        }
        let mut fitting = self.mappings.iter().filter(|m| m.is_fuzzy() && m.matches(words));
        match (fitting.next(), fitting.next()) {
            (Some(one), None) => Found::Mapping(one),
            (Some(_), Some(_)) => Found::Ambiguous,
            (None, _) => Found::Unknown,
        }
    }

    /// The key that replaced this one, where the schema says so.
    pub fn renamed(&self, words: &[String]) -> Option<&str> {
        self.aliases.get(&words.join(SEPARATOR)).map(String::as_str)
    }

    /// Application variables that are computed, and what their computation requires; `set` says for which something is set. Those of
    /// which a setting has a default are always computed.
    pub fn computed<'a>(&'a self, set: &BTreeSet<&str>) -> impl Iterator<Item = (&'a str, &'a [Law])> {
        let defaulted: BTreeSet<&str> = self.mappings.iter().filter(|m| m.has_default).map(|m| m.path.as_str()).collect();
        let runs = move |path: &str| set.contains(path) || defaulted.contains(path);
        self.translations.iter().map(|(path, laws)| (path.as_str(), laws.as_slice())).filter(move |(path, _)| runs(path))
    }

    /// What the computation of an application variable requires of the settings.
    pub fn laws(&self, path: &str) -> &[Law] {
        self.translations.get(path).map(Vec::as_slice).unwrap_or_default()
    }

    /// Known keys that a user may have meant, the likeliest first. `$` words are filled with the user's.
    pub fn nearest(&self, words: &[String]) -> Vec<String> {
        let wanted = words.join(".");
        let mut near: Vec<(usize, bool, String)> = Vec::new();
        for mapping in &self.mappings {
            let key = filled(mapping, words);
            let limit = (wanted.chars().count().max(key.chars().count()) / 4).max(1);
            let below = key.strip_prefix(&wanted).is_some_and(|rest| rest.starts_with('.'));
            let distance = if below { 1 } else { distance(&wanted.to_lowercase(), &key.to_lowercase(), limit) };
            if distance <= limit || same_words(&wanted, &key) {
                near.push((distance.min(limit), mapping.words.first() != words.first(), key));
            }
        }
        near.sort();
        near.dedup();
        near.into_iter().map(|(_, _, key)| key).collect()
    }

    /// Reads a value as the datatypes of its mapping say: the first that takes it.
    pub fn read(&self, mapping: &Mapping, text: &str) -> value::Reading {
        value::read(&mapping.datatypes, text, self.tag_at_first_colon)
    }

    /// What a named validator makes of a value.
    pub fn validate(&self, name: &str, value: &value::Typed) -> Validity {
        // Before cuttlefish 3.8 a validator that no schema defines is passed over.
        self.validators.get(name).map_or(Validity::Holds, |validator| validator.judge(value))
    }

    /// What the validator says when it refuses.
    pub fn validator_message(&self, name: &str) -> &str {
        self.validators.get(name).map_or("not a valid value", |v| v.message.as_str())
    }
}

/// Splits a key at its dots; `\.` is a dot inside a word.
pub fn words(key: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut chars = key.chars().peekable();
    while let Some(c) = chars.next() {
        let escaped = c == '\\' && chars.peek() == Some(&'.');
        match (c, words.last_mut()) {
            ('.', _) => words.push(String::new()),
            (_, Some(word)) if escaped => word.extend(chars.next()),
            (_, Some(word)) => word.push(c),
            (_, None) => {}
        }
    }
    words
}

fn body(fun: Option<&Term>) -> &str {
    match fun.map(|t| &t.value) {
        Some(Value::Fun(text)) => text,
        _ => "",
    }
}

fn flag(props: &Term, name: &str) -> bool {
    props.list().is_some_and(|l| l.iter().any(|t| t.atom() == Some(name)))
}

/// The properties of a partial's mapping with the including schema's overrides in front.
fn overridden(props: &Term, options: &Term, key: &str) -> Term {
    let overrides = options.property("overrides").and_then(Term::list).unwrap_or_default();
    let extra =
        overrides.iter().filter_map(Term::pair).filter(|(name, _)| name.text().as_deref() == Some(key)).map(|(_, o)| o.clone());
    let all = extra.chain(props.list().unwrap_or_default().iter().cloned()).collect();
    Term { value: Value::List(all), ..props.clone() }
}

/// The key of a mapping, its `$` words filled with the user's where both have as many words.
fn filled(mapping: &Mapping, words: &[String]) -> String {
    let same = mapping.words.len() == words.len();
    let word = |(i, w): (usize, &String)| match words.get(i) {
        Some(own) if same && w.starts_with('$') => own.clone(),
        _ if w.starts_with('$') => "1".to_owned(),
        _ => w.clone(),
    };
    mapping.words.iter().enumerate().map(word).collect::<Vec<_>>().join(".")
}

/// Whether two keys are made of the same words in another order: `connection_max` and `max_connections`.
fn same_words(a: &str, b: &str) -> bool {
    let parts = |key: &str| -> BTreeSet<String> {
        key.split(['.', '_']).map(|w| w.strip_suffix('s').unwrap_or(w).to_lowercase()).collect()
    };
    let (a, b) = (parts(a), parts(b));
    a.len() > 1 && a == b
}

/// Damerau-Levenshtein distance (optimal string alignment); anything above `limit` is `limit + 1`.
pub fn distance(a: &str, b: &str, limit: usize) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    if a.len().abs_diff(b.len()) > limit {
        return limit + 1;
    }
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, cb) in b.iter().enumerate() {
            let at = |row: &Vec<usize>, k: usize| row.get(k).copied().unwrap_or(usize::MAX / 2);
            let mut best = (at(&last, j + 1) + 1).min(at(&row, j) + 1).min(at(&last, j) + usize::from(ca != cb));
            let swapped = i > 0 && j > 0 && a.get(i - 1) == Some(cb) && b.get(j - 1) == Some(ca);
            if swapped {
                best = best.min(at(&before, j - 1) + 1);
            }
            row.push(best);
        }
        if row.iter().min().is_some_and(|m| *m > limit) {
            return limit + 1;
        }
        before = std::mem::replace(&mut last, row);
    }
    last.last().copied().unwrap_or(0).min(limit + 1)
}

#[cfg(test)]
mod tests;

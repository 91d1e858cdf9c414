//! Schemas of RabbitMQ releases that need not be installed: `releases.txt`, made by `tests/schemas/pack` from the schema files of
//! RabbitMQ's release tags, and of Debian's packages where there is no tag.
//!
//! The first line lists the releases, oldest first. Every other line is one fact, and before it the releases that share it, by their
//! place in that list: `0-34,40<TAB>{"mapping":…}`.

use super::laws::Law;
use super::validators::Validator;
use super::{Mapping, SEPARATOR, Schema};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

static TABLE: &str = include_str!("releases.txt");

/// One release of RabbitMQ.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// `4.0.5`
    pub version: String,
    /// Major and minor version of the cuttlefish that it is built with.
    pub cuttlefish: (u32, u32),
}

/// A version of which nothing is known here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("RabbitMQ {asked} is not among the releases known here: {known}")]
pub struct NoRelease {
    asked: String,
    /// The first and last of each series.
    known: String,
}

#[derive(Serialize, Deserialize)]
struct Head {
    releases: Vec<Release>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Fact {
    Mapping(Mapping),
    /// Old key, new key.
    Alias(String, String),
    /// Application path.
    Translation(String, Vec<Law>),
    /// Name.
    Validator(String, Validator),
    /// A plugin that the release ships.
    Plugin(String),
    /// A form of a schema file that could not be read.
    Unread(String),
}

/// The release that a version names: exactly, or the newest of a series (`4.1`, `3`). A patch release that is newer than all known of its
/// series counts as the newest known. What follows the numbers (`-1+deb13u1`) is passed over.
pub fn find(version: &str) -> Result<Release, NoRelease> {
    let wanted = numbers(version);
    let releases = releases();
    let of_series = |r: &&Release| !wanted.is_empty() && numbers(&r.version).starts_with(&wanted[..wanted.len().min(2)]);
    let series: Vec<&Release> = releases.iter().filter(of_series).collect();
    let exact = series.iter().find(|r| numbers(&r.version) == wanted).copied();
    let newest = series.last().copied().filter(|r| wanted.len() < 3 || numbers(&r.version) < wanted);
    let nowhere = || NoRelease { asked: version.trim().to_owned(), known: ranges(&releases) };
    exact.or(newest).cloned().ok_or_else(nowhere)
}

/// The cuttlefish (major, minor) that a release is built with: of one that is not known, that of the release before it.
pub fn cuttlefish(version: [u32; 3]) -> (u32, u32) {
    let releases = releases();
    let before = releases.iter().rfind(|r| numbers(&r.version).as_slice() <= version.as_slice());
    before.or(releases.first()).map_or((2, 4), |r| r.cuttlefish)
}

fn releases() -> Vec<Release> {
    let head = TABLE.lines().next().unwrap_or_default();
    // The table is compiled in, and a test reads it.
    serde_json::from_str::<Head>(head).map(|head| head.releases).unwrap_or_default()
}

/// The numbers in front of a version.
fn numbers(version: &str) -> Vec<u32> {
    let plain = version.trim().trim_start_matches('v').split(|c: char| !c.is_ascii_digit() && c != '.').next().unwrap_or("");
    plain.split('.').map_while(|part| part.parse().ok()).take(3).collect()
}

/// `3.8.9 to 3.8.35, 3.9.0 to 3.9.29, …`
fn ranges(releases: &[Release]) -> String {
    let series = releases.chunk_by(|a, b| numbers(&a.version).get(..2) == numbers(&b.version).get(..2));
    let range = |of: &[Release]| match of {
        [first, .., last] => format!("{} to {}", first.version, last.version),
        [one] => one.version.clone(),
        [] => String::new(),
    };
    series.map(range).collect::<Vec<_>>().join(", ")
}

impl Release {
    /// Its schema, and the plugins that it ships.
    pub fn load(&self) -> (Schema, Vec<String>) {
        let mut schema = Schema { tag_at_first_colon: self.cuttlefish >= (3, 5), ..Schema::default() };
        let mut plugins = Vec::new();
        let Some(place) = releases().iter().position(|r| r.version == self.version) else { return (schema, plugins) };
        for line in TABLE.lines().skip(1) {
            let Some((places, fact)) = line.split_once('\t') else { continue };
            if !holds(places, place) {
                continue;
            }
            match serde_json::from_str(fact) {
                Ok(Fact::Plugin(name)) => plugins.push(name),
                Ok(fact) => schema.take(fact),
                Err(error) => schema.unread.push(error.to_string()),
            }
        }
        schema.exact = schema.mappings.iter().enumerate().map(|(i, m)| (m.words.join(SEPARATOR), i)).collect();
        (schema, plugins)
    }
}

impl Schema {
    fn take(&mut self, fact: Fact) {
        match fact {
            Fact::Mapping(mapping) => self.mappings.push(mapping),
            Fact::Alias(old, new) => drop(self.aliases.insert(super::words(&old).join(SEPARATOR), new)),
            Fact::Translation(path, laws) => drop(self.translations.insert(path, laws)),
            Fact::Validator(name, validator) => drop(self.validators.insert(name, validator)),
            Fact::Unread(what) => self.unread.push(what),
            Fact::Plugin(_) => {}
        }
    }

    fn facts(&self) -> Vec<Fact> {
        let mappings = self.mappings.iter().cloned().map(Fact::Mapping);
        let aliases = self.aliases.iter().map(|(old, new)| Fact::Alias(old.replace(SEPARATOR, "."), new.clone()));
        let translations = self.translations.iter().map(|(path, laws)| Fact::Translation(path.clone(), laws.clone()));
        let validators = self.validators.iter().map(|(name, v)| Fact::Validator(name.clone(), v.clone()));
        let unread = self.unread.iter().cloned().map(Fact::Unread);
        mappings.chain(aliases).chain(translations).chain(validators).chain(unread).collect()
    }
}

/// Whether `0-34,40` holds a number.
fn holds(places: &str, place: usize) -> bool {
    places.split(',').any(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let number = |text: &str| text.parse::<usize>().ok();
        matches!((number(first), number(last)), (Some(first), Some(last)) if (first..=last).contains(&place))
    })
}

fn places(all: &[usize]) -> String {
    let runs = all.chunk_by(|a, b| a + 1 == *b).map(|run| match run {
        [first, .., last] => format!("{first}-{last}"),
        [one] => one.to_string(),
        [] => String::new(),
    });
    runs.collect::<Vec<_>>().join(",")
}

/// The table of these releases; they are put in order.
pub fn pack(mut releases: Vec<(Release, Schema, Vec<String>)>) -> serde_json::Result<String> {
    releases.sort_by_key(|(release, ..)| numbers(&release.version));
    let mut facts: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (place, (_, schema, plugins)) in releases.iter().enumerate() {
        for fact in schema.facts().into_iter().chain(plugins.iter().cloned().map(Fact::Plugin)) {
            facts.entry(serde_json::to_string(&fact)?).or_default().push(place);
        }
    }
    let head = Head { releases: releases.into_iter().map(|(release, ..)| release).collect() };
    let mut table = serde_json::to_string(&head)?;
    table.push('\n');
    for (fact, of) in facts {
        table.push_str(&format!("{}\t{fact}\n", places(&of)));
    }
    Ok(table)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::schema::{Found, words};

    fn version(asked: &str) -> Option<String> {
        find(asked).ok().map(|r| r.version)
    }

    #[test]
    fn a_version_names_a_release() {
        assert_eq!(version("3.8.9").as_deref(), Some("3.8.9"));
        assert_eq!(version("v4.0.5").as_deref(), Some("4.0.5"));
        assert_eq!(version("4.0.5-8+deb13u1").as_deref(), Some("4.0.5"));
        assert_eq!(version("3.12").as_deref(), Some("3.12.14"));
        assert_eq!(version("3.12.99").as_deref(), Some("3.12.14"), "a newer patch release than any known here");
        for nowhere in ["", "x", "3.7", "3.8.5", "9.0", "4.99"] {
            let error = find(nowhere).unwrap_err().to_string();
            assert!(error.contains("3.8.9 to 3.8.35"), "{nowhere}: {error}");
        }
    }

    #[test]
    fn every_release_is_read_whole() {
        for series in ["3.8", "3.9", "3.10", "3.11", "3.12", "3.13", "4.0", "4.1", "4.2", "4.3"] {
            let release = find(series).unwrap();
            let (schema, plugins) = release.load();
            assert_eq!(schema.unread, Vec::<String>::new(), "{series}");
            assert!(matches!(schema.find(&words("listeners.tcp.default")), Found::Mapping(_)), "{series}");
            assert!(schema.mappings.len() > 600 && plugins.contains(&"rabbitmq_management".to_owned()), "{series}");
        }
    }

    #[test]
    fn keys_come_and_go() {
        let knows = |version: &str, key: &str| find(version).unwrap().load().0.find(&words(key)) != Found::Unknown;
        assert!(knows("3.13.7", "mqtt.default_user") && !knows("4.0.5", "mqtt.default_user"));
        assert!(!knows("3.8.35", "stream.listeners.tcp.1") && knows("3.9.0", "stream.listeners.tcp.1"));
        assert!(!knows("3.13.7", "anonymous_login_user") && knows("4.0.0", "anonymous_login_user"));
        assert!(!knows("4.2.0", "max_connections") && knows("4.3.5", "max_connections"));
    }

    #[test]
    fn packing_loses_nothing() {
        let release = find("4.0.5").unwrap();
        let (schema, plugins) = release.load();
        let table = pack(vec![(release, schema.clone(), plugins)]).unwrap();
        let facts: Vec<Fact> =
            table.lines().skip(1).map(|line| serde_json::from_str(line.split_once('\t').unwrap().1).unwrap()).collect();
        let mut again = Schema::default();
        facts.into_iter().for_each(|fact| again.take(fact));
        assert_eq!(again.mappings.len(), schema.mappings.len());
        assert_eq!(
            (again.translations, again.aliases, again.validators),
            (schema.translations, schema.aliases, schema.validators)
        );
    }
}

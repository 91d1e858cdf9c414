//! Leaves TLS 1.2 and 1.3 of the versions that a block of settings names, in Erlang's spelling.
use super::{Desk, Proposal, Refusal, cannot, conf};
use crate::fix::change::Change;
use serde::Deserialize;
use std::path::PathBuf;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// `ssl_options`, `management.ssl`, …
    block: String,
}

const GOOD: [&str; 2] = ["tlsv1.2", "tlsv1.3"];

pub fn plan(params: Params, desk: &Desk) -> Result<Proposal, Refusal> {
    let prefix = format!("{}.versions.", params.block);
    let settings = desk.facts.conf.settings.known().ok_or_else(|| cannot("the configuration could not be read"))?;
    let named: Vec<(&String, String)> =
        settings.iter().filter(|(key, _)| key.starts_with(&prefix)).map(|(key, s)| (key, s.value.to_lowercase())).collect();
    let good = named.iter().any(|(_, value)| GOOD.contains(&value.as_str()));
    let mut changes = Vec::new();
    for (index, (key, value)) in named.iter().enumerate() {
        let change = match GOOD.contains(&value.as_str()) {
            true => set(desk, key, value),
            // The place of the first is taken by what clients of today speak.
            false if index == 0 && !good => set(desk, key, GOOD[0]),
            false => unset(desk, key),
        };
        changes.extend(settled(change)?);
    }
    if named.is_empty() {
        for (version, number) in offered(desk, &params.block).into_iter().zip(1..) {
            changes.extend(settled(set(desk, &format!("{prefix}{number}"), version))?);
        }
    }
    if changes.is_empty() {
        return Err(Refusal::Already);
    }
    let claims = vec![(format!("versions of {}", params.block), "1.2 and 1.3".into())];
    Ok(conf::proposal(changes, format!("{prefix}*: TLS 1.2 and newer only"), claims))
}

/// Those of the good ones that the broker offers by default.
fn offered(desk: &Desk, block: &str) -> Vec<&'static str> {
    let blocks = desk.facts.tls.blocks.known().map(Vec::as_slice).unwrap_or_default();
    let versions = blocks.iter().find(|b| b.name == block).and_then(|b| b.versions.offered.known());
    GOOD.into_iter().filter(|v| versions.is_some_and(|all| all.iter().any(|o| o == v))).collect()
}

fn set(desk: &Desk, key: &str, value: &str) -> Result<Change, Refusal> {
    let file = conf::file_for(desk, key);
    conf::known_file(desk, &file)?;
    conf::edit(desk, &file, |document| Ok(document.set(key, value)?)).map(|(change, ())| change)
}

fn unset(desk: &Desk, key: &str) -> Result<Change, Refusal> {
    let file: PathBuf = conf::file_for(desk, key);
    conf::known_file(desk, &file)?;
    conf::edit(desk, &file, |document| Ok(document.unset(key)?)).map(|(change, _)| change)
}

/// What is right already needs no change.
fn settled(change: Result<Change, Refusal>) -> Result<Option<Change>, Refusal> {
    match change {
        Ok(change) => Ok(Some(change)),
        Err(Refusal::Already) => Ok(None),
        Err(other) => Err(other),
    }
}

//! Removes a key from every file of rabbitmq.conf, so that the default counts again.
use super::{Desk, Proposal, Refusal, cannot, conf};
use serde::Deserialize;
use std::collections::BTreeSet;
use std::path::PathBuf;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Params {
    key: String,
    /// Where the rule saw it; it is removed from every file, or an earlier setting would come back.
    #[serde(default)]
    file: Option<PathBuf>,
    #[serde(default, rename = "line")]
    _line: serde_json::Value,
}

pub fn plan(params: Params, desk: &Desk) -> Result<Proposal, Refusal> {
    let key = params.key;
    let settings = desk.facts.conf.settings.known().ok_or_else(|| cannot("the configuration could not be read"))?;
    let setting = settings.get(&key).ok_or(Refusal::Already)?;
    let places = std::iter::once(&setting.at).chain(&setting.overrides);
    let files: BTreeSet<PathBuf> = places.map(|at| PathBuf::from(&at.file)).chain(params.file).collect();
    let mut changes = Vec::new();
    for file in files {
        conf::known_file(desk, &file)?;
        match conf::edit(desk, &file, |document| Ok(document.unset(&key)?)) {
            Ok((change, _)) => changes.push(change),
            Err(Refusal::Already) => {}
            Err(refusal) => return Err(refusal),
        }
    }
    if changes.is_empty() {
        return Err(Refusal::Already);
    }
    let summary = format!("{}: {key} removed", setting.at.file);
    Ok(conf::proposal(changes, summary, vec![(format!("setting {key}"), "removed".into())]))
}

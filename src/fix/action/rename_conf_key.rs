//! Gives a setting of rabbitmq.conf its right key: a typing mistake, or a name of another version.
use super::{Desk, Proposal, Refusal, conf, number};
use serde::Deserialize;
use std::path::PathBuf;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Params {
    file: PathBuf,
    #[serde(deserialize_with = "number")]
    line: u32,
    /// The new key.
    to: String,
}

pub fn plan(params: Params, desk: &Desk) -> Result<Proposal, Refusal> {
    let Params { file, line, to } = params;
    conf::known_file(desk, &file)?;
    let (change, (old, value)) = conf::edit(desk, &file, |document| {
        let setting = conf::setting_at(document, line)?;
        document.rename_key(line, &to)?;
        Ok(setting)
    })?;
    let place = format!("{}:{line}", file.display());
    let claims = vec![(format!("line {place}"), format!("key {to}")), (format!("setting {to}"), value)];
    Ok(conf::proposal(vec![change], format!("{place} {old} -> {to}"), claims))
}

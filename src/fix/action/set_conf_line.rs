//! Gives the setting in a certain line of rabbitmq.conf another value.
use super::{Desk, Proposal, Refusal, conf, number, text};
use serde::Deserialize;
use std::path::PathBuf;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Params {
    file: PathBuf,
    #[serde(deserialize_with = "number")]
    line: u32,
    #[serde(deserialize_with = "text")]
    value: String,
}

pub fn plan(params: Params, desk: &Desk) -> Result<Proposal, Refusal> {
    let Params { file, line, value } = params;
    conf::known_file(desk, &file)?;
    let (change, (key, old)) = conf::edit(desk, &file, |document| {
        let setting = conf::setting_at(document, line)?;
        document.set_at(line, &value)?;
        Ok(setting)
    })?;
    let place = format!("{}:{line}", file.display());
    let summary = format!("{place} {key}: {} -> {}", conf::shown(&key, &old), conf::shown(&key, &value));
    let claims = vec![(format!("line {place}"), format!("value {value}")), (format!("setting {key}"), value)];
    Ok(conf::proposal(vec![change], summary, claims))
}

//! Sets a key of rabbitmq.conf: where it is set already, else in the main file.
use super::{Desk, Proposal, Refusal, conf, text};
use serde::Deserialize;
use std::path::PathBuf;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Params {
    key: String,
    #[serde(deserialize_with = "text")]
    value: String,
    /// Left out: where the key is set, else the main file.
    #[serde(default)]
    file: Option<PathBuf>,
}

pub fn plan(params: Params, desk: &Desk) -> Result<Proposal, Refusal> {
    let Params { key, value, file } = params;
    let file = match file {
        Some(file) => {
            conf::known_file(desk, &file)?;
            file
        }
        None => conf::file_for(desk, &key),
    };
    let (change, old) = conf::edit(desk, &file, |document| {
        let old = document.get(&key).map(|entry| entry.value.clone());
        document.set(&key, &value)?;
        Ok(old)
    })?;
    let from = old.map_or(String::new(), |old| format!(" (was {})", conf::shown(&key, &old)));
    let summary = format!("{}: {key} = {}{from}", file.display(), conf::shown(&key, &value));
    Ok(conf::proposal(vec![change], summary, vec![(format!("setting {key}"), value)]))
}

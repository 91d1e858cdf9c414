//! Gives a setting of advanced.config, or of a classic rabbitmq.config, another value; every other byte stays.
use super::{Desk, Proposal, Refusal, UnitNeed, cannot, conf};
use crate::facts::Fact;
use crate::facts::conf::advanced;
use crate::fix::world::FileState;
use crate::formats::erlang;
use serde::Deserialize;
use std::path::{Path, PathBuf};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Params {
    file: PathBuf,
    app: String,
    key: String,
    /// An Erlang term.
    value: String,
}

pub fn plan(params: Params, desk: &Desk) -> Result<Proposal, Refusal> {
    let Params { file, app, key, value } = params;
    let files = match &desk.facts.conf.files {
        Fact::Known(files) => files,
        Fact::Unknown(why) => return Err(cannot(why.clone())),
    };
    if !files.iter().any(|f| f.used && f.format != "cuttlefish" && Path::new(&f.path) == file) {
        return Err(cannot(format!("{} is not read by this broker", file.display())));
    }
    desk.own(&file)?;
    let state = desk.file(&file)?.ok_or(Refusal::Already)?;
    let text = String::from_utf8(state.content.clone()).map_err(|_| cannot(format!("{} is not UTF-8", file.display())))?;
    let (line, column) = advanced::place(&text, &app, &key).ok_or(Refusal::Already)?;
    let span = erlang::span(&text, line, column).ok_or_else(|| cannot(format!("{key} was not found in {}", file.display())))?;
    let old = text[span.clone()].to_owned();
    let after = format!("{}{value}{}", &text[..span.start], &text[span.end..]);
    let change = desk.put(&file, FileState { content: after.into_bytes(), ..state }, false)?;
    let place = format!("{}:{line}", file.display());
    let old = if old.len() > 60 { "another value" } else { &old };
    let summary = format!("{place} {app} {key}: {} -> {}", conf::shown(&key, old), conf::shown(&key, &value));
    let claims = vec![(format!("term {app} {key}"), value)];
    Ok(Proposal { unit: UnitNeed::Restart, effects: vec!["restart"], claims, changes: vec![change], summary, ..Proposal::default() })
}

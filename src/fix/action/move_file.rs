//! Gives a configuration file another name, so that the broker reads it, or reads it no more.
use super::{Desk, Proposal, Refusal, UnitNeed, cannot};
use crate::facts::conf;
use serde::Deserialize;
use std::path::{Path, PathBuf};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Params {
    pub path: PathBuf,
    pub to: PathBuf,
}

pub fn plan(params: Params, desk: &Desk) -> Result<Proposal, Refusal> {
    let Params { path, to } = params;
    // Nobody but root could have put it there.
    if path != Path::new(conf::ELSEWHERE) {
        desk.own(&path)?;
    }
    desk.own(&to)?;
    let state = desk.file(&path)?.ok_or(Refusal::Already)?;
    if desk.file(&to)?.is_some() {
        return Err(cannot(format!("{} is there already", to.display())));
    }
    let changes = vec![desk.put(&to, state, false)?, desk.take_away(&path)?];
    let summary = format!("{} becomes {}", path.display(), to.display());
    let claims = vec![(format!("name of {}", path.display()), to.display().to_string())];
    Ok(Proposal { unit: UnitNeed::Restart, effects: vec!["restart"], claims, changes, summary, ..Proposal::default() })
}

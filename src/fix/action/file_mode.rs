//! Gives a file or directory the mode that the broker needs.
use super::{Desk, Proposal, Refusal, cannot, text};
use crate::fix::change::Change;
use crate::fix::world::FileMeta;
use serde::Deserialize;
use std::path::PathBuf;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Params {
    path: PathBuf,
    /// Octal text, e.g. `0400`.
    #[serde(deserialize_with = "text")]
    mode: String,
}

pub fn plan(params: Params, desk: &Desk) -> Result<Proposal, Refusal> {
    let mode = u32::from_str_radix(&params.mode, 8).ok().filter(|mode| *mode <= 0o7777);
    let mode = mode.ok_or_else(|| cannot(format!("not an octal mode: {}", params.mode)))?;
    let path = params.path;
    desk.own(&path)?;
    let before = desk.look.meta(&path)?.ok_or_else(|| cannot(format!("{}: not there", path.display())))?;
    if before.mode == mode {
        return Err(Refusal::Already);
    }
    Ok(Proposal {
        summary: format!("{}: mode {:04o} -> {mode:04o}", path.display(), before.mode),
        claims: vec![(format!("mode of {}", path.display()), format!("{mode:04o}"))],
        changes: vec![Change::Meta { path, before, after: FileMeta { mode, ..before } }],
        unit: desk.start_if_failing(),
        ..Proposal::default()
    })
}

//! Gives files and directories back to the broker's user.
use super::{Desk, Proposal, Refusal, cannot};
use crate::fix::change::Change;
use crate::fix::world::FileMeta;
use serde::Deserialize;
use std::path::{Path, PathBuf};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Params {
    path: PathBuf,
    /// Also what lies directly inside and belongs to somebody else.
    #[serde(default)]
    recursive: bool,
}

/// So many foreign entries are listed by the facts; there may be more.
const MOST: usize = 20;

pub fn plan(params: Params, desk: &Desk) -> Result<Proposal, Refusal> {
    desk.own(&params.path)?;
    let (uid, gid) = desk.broker_ids().ok_or_else(|| cannot("the user rabbitmq is not known"))?;
    let inside = if params.recursive { foreign(&params.path, desk)? } else { Vec::new() };
    let mut changes = Vec::new();
    for path in std::iter::once(params.path.clone()).chain(inside) {
        let before = desk.look.meta(&path)?.ok_or_else(|| cannot(format!("{}: not there", path.display())))?;
        let after = FileMeta { uid, gid, ..before };
        if before != after {
            changes.push(Change::Meta { path, before, after });
        }
    }
    if changes.is_empty() {
        return Err(Refusal::Already);
    }
    let more = if changes.len() > 1 { format!(" and {} entries", changes.len() - 1) } else { String::new() };
    Ok(Proposal {
        summary: format!("give {}{more} to the broker's user", params.path.display()),
        claims: vec![(format!("owner of {}", params.path.display()), format!("{uid}:{gid}"))],
        changes,
        unit: desk.start_if_failing(),
        ..Proposal::default()
    })
}

/// What lies directly inside a directory of the broker and cannot be written by it.
fn foreign(dir: &Path, desk: &Desk) -> Result<Vec<PathBuf>, Refusal> {
    let files = &desk.facts.files;
    let data = files.data_dirs.known().into_iter().flatten();
    let log = files.log_dir.known().into_iter().flatten();
    let Some(facts) = data.chain(log).find(|known| Path::new(&known.path) == dir) else { return Ok(Vec::new()) };
    if facts.foreign_entries.len() >= MOST {
        return Err(cannot(format!("too much in it belongs to somebody else: chown -R rabbitmq:rabbitmq {}", dir.display())));
    }
    let names = facts.foreign_entries.iter().filter_map(|entry| Path::new(entry).file_name());
    Ok(names.map(|name| dir.join(name)).collect())
}

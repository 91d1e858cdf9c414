//! Gives files and directories back to the broker's user.
use super::{Desk, Proposal, Refusal, UnitNeed, cannot};
use crate::fix::change::{Change, Op};
use crate::fix::world::FileMeta;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Params {
    path: PathBuf,
    /// Also what lies below and belongs to somebody else.
    #[serde(default)]
    recursive: bool,
    /// A running broker has given up on the files: it is restarted.
    #[serde(default)]
    restart: bool,
}

/// Entries whose owner is changed and noted in the journal; more are a chown by hand.
const MOST: usize = 600;

pub fn plan(params: Params, desk: &Desk) -> Result<Proposal, Refusal> {
    desk.own(&params.path)?;
    let (uid, gid) = desk.broker_ids().ok_or_else(|| cannot("the user rabbitmq is not known"))?;
    let environment = params.path.to_string_lossy() == desk.facts.env.file;
    let look = |path: &PathBuf| desk.look.meta(path)?.ok_or_else(|| cannot(format!("{}: not there", path.display())));
    let before = look(&params.path)?;
    let mut changes = Vec::new();
    let mut more = String::new();
    if params.recursive {
        let mut by_owner: BTreeMap<(u32, u32), Vec<PathBuf>> = BTreeMap::new();
        for path in std::iter::once(params.path.clone()).chain(foreign(&params.path, desk)?) {
            let meta = look(&path)?;
            if (meta.uid, meta.gid) != (uid, gid) {
                by_owner.entry((meta.uid, meta.gid)).or_default().push(path);
            }
        }
        let count: usize = by_owner.values().map(Vec::len).sum();
        more = if count > 1 { format!(" and what is in it, {count} entries") } else { String::new() };
        changes.extend(by_owner.into_iter().map(|(owner, paths)| Change::Run {
            doing: Op::Own { paths: paths.clone(), from: owner, to: (uid, gid) },
            undo: Op::Own { paths, from: (uid, gid), to: owner },
        }));
    } else if (before.uid, before.gid) != (uid, gid) {
        changes.push(Change::Meta { path: params.path.clone(), before, after: FileMeta { uid, gid, ..before } });
    }
    if changes.is_empty() {
        return Err(Refusal::Already);
    }
    Ok(Proposal {
        summary: format!("give {}{more} to the broker's user", params.path.display()),
        claims: vec![(format!("owner of {}", params.path.display()), format!("{uid}:{gid}"))],
        changes,
        // What the environment file says counts from the next start on.
        unit: if environment || params.restart { UnitNeed::Restart } else { desk.start_if_failing() },
        effects: if params.restart { vec!["restart"] } else { Vec::new() },
        ..Proposal::default()
    })
}

/// What lies below a directory of the broker and belongs to somebody else. Of the log directory only what is known to be in the way: systemd
/// writes to some of the files itself.
fn foreign(dir: &Path, desk: &Desk) -> Result<Vec<PathBuf>, Refusal> {
    let files = &desk.facts.files;
    if let Some(log) = files.log_dir.known().into_iter().flatten().find(|known| Path::new(&known.path) == dir) {
        let names = log.foreign_entries.iter().filter_map(|entry| Path::new(entry).file_name());
        return Ok(names.map(|name| dir.join(name)).collect());
    }
    let (uid, _) = desk.broker_ids().ok_or_else(|| cannot("the user rabbitmq is not known"))?;
    let mut found = Vec::new();
    let mut todo = vec![dir.to_owned()];
    while let Some(at) = todo.pop() {
        for name in desk.look.list(&at)?.unwrap_or_default() {
            let path = at.join(name);
            // A symbolic link is left alone, wherever it leads.
            let Ok(Some(meta)) = desk.look.meta(&path) else { continue };
            if meta.uid != uid {
                found.push(path.clone());
            }
            todo.push(path);
            if todo.len() + found.len() > 20 * MOST || found.len() >= MOST {
                return Err(cannot(format!("too much in it belongs to somebody else: chown -R rabbitmq:rabbitmq {}", dir.display())));
            }
        }
    }
    found.sort();
    Ok(found)
}

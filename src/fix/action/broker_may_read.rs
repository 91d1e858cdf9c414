//! Lets the broker's user read a file of its configuration by way of its group, directories on the way included.
use super::{Desk, Proposal, Refusal, UnitNeed, cannot};
use crate::fix::change::Change;
use crate::fix::world::FileMeta;
use serde::Deserialize;
use std::path::{Path, PathBuf};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Params {
    path: PathBuf,
    /// A secret: everybody else loses what they may do with the file.
    #[serde(default)]
    private: bool,
    /// The broker runs, and has to read the file anew.
    #[serde(default)]
    restart: bool,
}

const READ: u32 = 4;
const SEARCH: u32 = 1;

pub fn plan(params: Params, desk: &Desk) -> Result<Proposal, Refusal> {
    let Params { path, private, restart } = params;
    desk.own(&path)?;
    let ids = desk.broker_ids().ok_or_else(|| cannot("the user rabbitmq is not known"))?;
    let mut way: Vec<&Path> = path.ancestors().skip(1).take_while(|dir| desk.own(dir).is_ok()).collect();
    way.reverse();
    let mut changes = Vec::new();
    for (at, bits, private) in way.into_iter().map(|dir| (dir, SEARCH, false)).chain([(path.as_path(), READ, private)]) {
        let before = desk.look.meta(at)?.ok_or_else(|| cannot(format!("{}: not there", at.display())))?;
        let after = opened(before, ids, bits, private)
            .ok_or_else(|| cannot(format!("{} is read by another group (gid {}): to be done by hand", at.display(), before.gid)))?;
        if after != before {
            changes.push(Change::Meta { path: at.to_owned(), before, after });
        }
    }
    let Some(Change::Meta { after, .. }) = changes.last() else { return Err(Refusal::Already) };
    Ok(Proposal {
        summary: format!("{}: readable by the broker (group {}, mode {:04o})", path.display(), after.gid, after.mode),
        claims: vec![(format!("access to {}", path.display()), format!("{:04o} {}:{}", after.mode, after.uid, after.gid))],
        changes,
        unit: if restart { UnitNeed::Restart } else { desk.start_if_failing() },
        effects: if restart { vec!["restart"] } else { Vec::new() },
        ..Proposal::default()
    })
}

/// The least change that lets the broker in. `None`: it would take the file from a group that has it now.
fn opened(meta: FileMeta, (uid, gid): (u32, u32), bits: u32, private: bool) -> Option<FileMeta> {
    let mode = if private { meta.mode & !0o007 } else { meta.mode };
    let others = mode & bits == bits;
    if meta.uid == uid {
        return Some(FileMeta { mode: mode | bits << 6, ..meta });
    }
    if meta.gid == gid {
        return Some(FileMeta { mode: mode | bits << 3, ..meta });
    }
    if others {
        return Some(FileMeta { mode, ..meta });
    }
    let free = meta.gid == 0 || mode & 0o070 == 0;
    free.then_some(FileMeta { mode: (mode & !0o070) | bits << 3, gid, ..meta })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_else_gains_anything() {
        let meta = |mode, uid, gid| FileMeta { mode, uid, gid };
        let opened = |m, bits, private| opened(m, (104, 109), bits, private);
        assert_eq!(opened(meta(0o600, 0, 0), READ, true), Some(meta(0o640, 0, 109)));
        assert_eq!(opened(meta(0o644, 104, 109), READ, true), Some(meta(0o640, 104, 109)));
        assert_eq!(opened(meta(0o644, 0, 0), READ, true), Some(meta(0o640, 0, 109)));
        assert_eq!(opened(meta(0o700, 0, 0), SEARCH, false), Some(meta(0o710, 0, 109)));
        assert_eq!(opened(meta(0o755, 0, 0), SEARCH, false), Some(meta(0o755, 0, 0)));
        assert_eq!(opened(meta(0o640, 0, 33), READ, true), None);
    }
}

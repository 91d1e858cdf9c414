//! The running broker's own opinion of configuration files that are about to be written.
//!
//! The candidates are put beside the files that they are to replace, because a file may include others by a relative path: under a name
//! that no pattern of the broker's takes, readable by root and the broker's group only, and gone again when the answer is there. The
//! broker applies nothing; where it refuses a file, its log says why.

use super::world::{Done, FileMeta, FileState, World};
use crate::host::rpc::ConfigFiles;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What the broker says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opinion {
    Takes,
    /// It would not start; the word that it gives for it.
    Refuses(String),
    /// Nothing that it could be asked about is changed.
    Nothing,
}

/// Asks about the configuration as it is going to be: `files` as the broker would read them, of which `replaced` get a new content (`None`:
/// removed). `group` is the broker's.
pub fn ask(world: &dyn World, files: &ConfigFiles, replaced: &BTreeMap<PathBuf, Option<Vec<u8>>>, group: u32) -> Done<Opinion> {
    let all = || files.files.iter().chain(&files.advanced);
    let removed = replaced.iter().any(|(path, content)| content.is_none() && is_configuration(path));
    let changed: Vec<&PathBuf> = all().filter(|path| replaced.contains_key(*path)).collect();
    if (changed.is_empty() && !removed) || all().next().is_none() {
        return Ok(Opinion::Nothing);
    }
    let mut candidates = Candidates { world, written: BTreeMap::new() };
    for path in changed {
        if let Some(Some(content)) = replaced.get(path) {
            candidates.write(path, content, group)?;
        }
    }
    let place = |path: &PathBuf| candidates.written.get(path).map_or_else(|| path.clone(), |(at, _)| at.clone());
    let asked = ConfigFiles { files: files.files.iter().map(place).collect(), advanced: files.advanced.as_ref().map(place) };
    let answer = world.broker_takes(&asked);
    candidates.remove()?;
    Ok(match answer? {
        Ok(()) => Opinion::Takes,
        Err(word) => Opinion::Refuses(word),
    })
}

fn is_configuration(path: &Path) -> bool {
    path.extension().is_some_and(|end| end == "conf" || end == "config")
        && path.file_name().is_none_or(|n| n != "rabbitmq-env.conf")
}

/// Files that exist for one question.
struct Candidates<'a> {
    world: &'a dyn World,
    /// For which file → where it is, and what was written.
    written: BTreeMap<PathBuf, (PathBuf, FileState)>,
}

impl Candidates<'_> {
    fn write(&mut self, path: &Path, content: &[u8], group: u32) -> Done {
        // What an earlier run that was cut off left there.
        self.world.sweep(path)?;
        let mut random = [0; 8];
        self.world.random(&mut random)?;
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let place = path.with_file_name(format!(".{name}.rmq-audit-{:016x}", u64::from_be_bytes(random)));
        let state = FileState { content: content.to_vec(), meta: FileMeta { mode: 0o640, uid: 0, gid: group } };
        self.world.replace(&place, None, Some(&state))?;
        self.written.insert(path.to_path_buf(), (place, state));
        Ok(())
    }

    fn remove(&mut self) -> Done {
        let mut last = Ok(());
        for (place, state) in std::mem::take(&mut self.written).into_values() {
            last = last.and(self.world.replace(&place, Some(&state), None));
        }
        last
    }
}

impl Drop for Candidates<'_> {
    fn drop(&mut self) {
        // Only where something failed before; what cannot be removed is swept by the next run.
        let _ = self.remove();
    }
}

//! What the actions on rabbitmq.conf share: finding the file, editing it through the lossless document, naming the change.
use super::{Desk, Proposal, Refusal, UnitNeed, cannot};
use crate::fix::world::{FileMeta, FileState};
use crate::formats::rabbitmq_conf::{Dialect, Document, EditError};
use std::path::{Path, PathBuf};

/// The note that a line gets when it is made a comment.
pub const NOTE: &str = "by rmq-audit";

impl From<EditError> for Refusal {
    fn from(error: EditError) -> Self {
        cannot(error.to_string())
    }
}

/// The new-style files that the broker reads, in its order.
fn files(desk: &Desk) -> Vec<PathBuf> {
    let all = desk.facts.conf.files.known().map(Vec::as_slice).unwrap_or_default();
    all.iter().filter(|file| file.used && file.format == "cuttlefish").map(|file| PathBuf::from(&file.path)).collect()
}

/// The broker reads this file, of whichever format.
pub fn reads(desk: &Desk, path: &Path) -> bool {
    desk.facts.conf.files.known().is_some_and(|all| all.iter().any(|file| file.used && Path::new(&file.path) == path))
}

/// Refuses to write anywhere but into a file that the broker reads (or its main file).
pub fn known_file(desk: &Desk, path: &Path) -> Result<(), Refusal> {
    if files(desk).iter().any(|file| file == path) {
        Ok(())
    } else {
        Err(cannot(format!("{} is not a rabbitmq.conf that this broker reads: to be edited by hand", path.display())))
    }
}

/// Where a new setting of `key` belongs: where it is set now (the last one counts), else the main file.
pub fn file_for(desk: &Desk, key: &str) -> PathBuf {
    let setting = desk.facts.conf.settings.known().and_then(|settings| settings.get(key));
    match setting {
        Some(setting) => PathBuf::from(&setting.at.file),
        None => files(desk).into_iter().next().unwrap_or_else(|| PathBuf::from("/etc/rabbitmq/rabbitmq.conf")),
    }
}

/// Edits one file and gives the change with its summary; the broker reads it at its next start.
pub fn edit<T>(
    desk: &Desk,
    path: &Path,
    work: impl FnOnce(&mut Document) -> Result<T, Refusal>,
) -> Result<(crate::fix::change::Change, T), Refusal> {
    desk.own(path)?;
    let old = desk.file(path)?;
    let (bytes, meta) = match old {
        Some(state) => (state.content, state.meta),
        // Readable by the broker and by nobody else: it may be given a password later.
        None => match desk.broker_ids() {
            Some((_, gid)) => (Vec::new(), FileMeta { mode: 0o640, uid: 0, gid }),
            None => (Vec::new(), FileMeta { mode: 0o644, uid: 0, gid: 0 }),
        },
    };
    let mut document = Document::parse(&bytes, dialect(desk)?);
    let result = work(&mut document)?;
    let change = desk.put(path, FileState { content: document.to_bytes(), meta }, false)?;
    Ok((change, result))
}

/// A proposal to edit configuration.
pub fn proposal(changes: Vec<crate::fix::change::Change>, summary: String, claims: Vec<(String, String)>) -> Proposal {
    Proposal { changes, unit: UnitNeed::Restart, effects: vec!["restart"], summary, claims, decided: false, trials: Vec::new() }
}

/// What the installed version accepts.
fn dialect(desk: &Desk) -> Result<Dialect, Refusal> {
    let unknown = || cannot("the version of RabbitMQ is not known, so its rabbitmq.conf cannot be edited safely");
    let install = desk.facts.install.known().and_then(Option::as_ref).ok_or_else(unknown)?;
    let mut numbers = install.version.split(['.', '-', '+', '~']).map(|part| part.parse::<u32>().ok());
    let major = numbers.next().flatten().ok_or_else(unknown)?;
    let minor = numbers.next().flatten().ok_or_else(unknown)?;
    Ok(Dialect::for_version(major, minor, numbers.next().flatten().unwrap_or(0)))
}

/// The setting that starts in a line, as (key, value).
pub fn setting_at(document: &Document, line: u32) -> Result<(String, String), Refusal> {
    let entry = document.entries().find(|entry| entry.line == line);
    entry.map(|entry| (entry.raw_key.clone(), entry.value.clone())).ok_or_else(|| cannot(format!("line {line} is not a setting")))
}

/// A value as it may be shown.
pub fn shown<'a>(key: &str, value: &'a str) -> &'a str {
    if crate::fix::change::secret_name(key) { "<secret>" } else { value }
}

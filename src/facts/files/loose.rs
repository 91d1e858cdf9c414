//! Files with passwords, messages or the cookie in them that every user of this host can read.

use super::HOME;
use crate::facts::conf::access::{self, Access, READ, SEARCH, User};
use crate::host::{Got, Host, Kind, MAX_FILE, optional};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// A file or directory of the broker that holds secrets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Sensitive {
    pub path: String,
    /// definitions (users with the hashes of their passwords) | crash-dump (memory of the node: cookie, passwords) | data (messages, users)
    pub kind: String,
    /// Octal text, e.g. `0644`.
    pub mode: String,
    pub uid: i64,
    pub gid: i64,
    /// Bytes.
    pub size: i64,
    /// Every user of this host can read it, directories on the way included.
    pub open_to_all: bool,
}

/// Who is neither the broker, nor root, nor in any group.
const ANYBODY: u32 = 65534;
/// Where definitions are kept; one level each.
const DEFINITIONS: [&str; 3] = ["/etc/rabbitmq", "/etc/rabbitmq/definitions", HOME];
/// Files of one directory whose text is looked at.
const MAX_DEFINITIONS: usize = 20;
/// An exported user has this beside its name.
const HASH: &[u8] = b"\"password_hash\"";
const CRASH_DUMP: &str = "erl_crash.dump";

/// Looks where the broker and its tools leave such files. `data` are the directories of the nodes' data.
pub fn collect(host: &dyn Host, data: &[PathBuf], logs: &Path) -> Got<Vec<Sensitive>> {
    let mut found = Vec::new();
    for dir in DEFINITIONS {
        found.extend(definitions(host, Path::new(dir))?);
    }
    for dir in [Path::new(HOME), logs] {
        let path = dir.join(CRASH_DUMP);
        found.extend(sensitive(host, &path, "crash-dump", READ)?);
    }
    // The home itself holds the cookie alone, which has a check of its own.
    for dir in data.iter().filter(|dir| dir.as_path() != Path::new(HOME)) {
        found.extend(sensitive(host, dir, "data", READ | SEARCH)?);
    }
    Ok(found)
}

fn definitions(host: &dyn Host, dir: &Path) -> Got<Vec<Sensitive>> {
    let Some(names) = optional(host.list(dir))? else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for name in names.iter().filter(|name| name.ends_with(".json")).take(MAX_DEFINITIONS) {
        let path = dir.join(name);
        let Some(file) = sensitive(host, &path, "definitions", READ)? else { continue };
        // What only its owner can read is in order whatever is in it.
        if !file.open_to_all || host.read(&path, MAX_FILE)?.windows(HASH.len()).any(|window| window == HASH) {
            found.push(file);
        }
    }
    Ok(found)
}

/// A link is no file of its own: what it leads to is judged where it lies.
fn sensitive(host: &dyn Host, path: &Path, kind: &str, bits: u32) -> Got<Option<Sensitive>> {
    let Some(meta) = optional(host.stat(path, false))?.filter(|meta| meta.kind != Kind::Link) else { return Ok(None) };
    let anybody = User { uid: ANYBODY, gids: Vec::new() };
    Ok(Some(Sensitive {
        path: path.display().to_string(),
        kind: kind.to_owned(),
        mode: format!("{:04o}", meta.mode & 0o7777),
        uid: meta.uid.into(),
        gid: meta.gid.into(),
        size: i64::try_from(meta.size).unwrap_or(i64::MAX),
        open_to_all: access::may(host, &anybody, path, bits)? == Access::Yes,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::Fake;

    #[test]
    fn what_anybody_can_read_is_told_from_what_they_cannot() {
        let users = r#"{"users": [{"name": "app", "password_hash": "x"}]}"#;
        let host = Fake::new()
            .dir("/etc/rabbitmq", 0o755, 0, 0)
            .file_with("/etc/rabbitmq/definitions.json", users, 0o644, 104, 109)
            .file_with("/etc/rabbitmq/queues.json", r#"{"queues": []}"#, 0o644, 104, 109)
            .file_with("/etc/rabbitmq/kept.json", users, 0o640, 104, 109)
            .file_with("/var/lib/rabbitmq/erl_crash.dump", "=erl_crash_dump", 0o644, 104, 109)
            .dir("/var/lib/rabbitmq", 0o750, 104, 109)
            .dir("/var/lib/rabbitmq/mnesia", 0o755, 104, 109);
        let data = [PathBuf::from(HOME), PathBuf::from("/var/lib/rabbitmq/mnesia")];
        let found = collect(&host, &data, Path::new("/var/log/rabbitmq")).unwrap();
        let seen: Vec<_> = found.iter().map(|f| (f.path.as_str(), f.kind.as_str(), f.open_to_all)).collect();
        assert_eq!(
            seen,
            [
                ("/etc/rabbitmq/definitions.json", "definitions", true),
                ("/etc/rabbitmq/kept.json", "definitions", false),
                ("/var/lib/rabbitmq/erl_crash.dump", "crash-dump", false),
                ("/var/lib/rabbitmq/mnesia", "data", false),
            ]
        );
        let open = host.dir("/var/lib/rabbitmq", 0o755, 104, 109);
        let found = collect(&open, &data, Path::new("/var/log/rabbitmq")).unwrap();
        assert!(found.iter().any(|f| f.kind == "data" && f.open_to_all && f.mode == "0755"));
    }
}

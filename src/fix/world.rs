//! The machine as the fix engine needs it: looked at, changed, waited for. The real hand and the test double implement it.

use super::action::Trial;
use crate::host::rpc::{ConfigFiles, Mutation};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Owner and permission bits of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileMeta {
    /// Permission bits, e.g. 0o640.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
}

/// A whole regular file.
#[derive(Clone, PartialEq, Eq)]
pub struct FileState {
    pub content: Vec<u8>,
    pub meta: FileMeta,
}

/// Contents may hold secrets, so they never reach a log by way of `{:?}`.
impl std::fmt::Debug for FileState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FileState {{ {} bytes, {:?} }}", self.content.len(), self.meta)
    }
}

/// Why something could not be done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// The file is not what it was when the plan was made, or not what the run left behind.
    #[error("{}: changed by someone else meanwhile", path.display())]
    ThirdHand { path: PathBuf },
    /// Certainly nothing was done.
    #[error("{what}: {why}")]
    Refused { what: String, why: String },
    /// Something may have been done.
    #[error("{what}: {why}")]
    Failed { what: String, why: String },
    /// Another run holds the lock.
    #[error("another rmq-audit is changing this host: {who}")]
    Locked { who: String },
}

impl Trouble {
    /// `Failed` with a formatted reason.
    pub fn failed(what: impl Into<String>, why: impl std::fmt::Display) -> Self {
        Trouble::Failed { what: what.into(), why: why.to_string() }
    }
    /// `Refused` with a formatted reason.
    pub fn refused(what: impl Into<String>, why: impl std::fmt::Display) -> Self {
        Trouble::Refused { what: what.into(), why: why.to_string() }
    }
}

/// What a change gives.
pub type Done<T = ()> = Result<T, Trouble>;

/// What systemd says about the broker's unit right now (names as in [`crate::facts::unit::Unit`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitNow {
    pub active: String,
    pub sub: String,
    pub result: String,
    pub restarts: i64,
    /// 0: none.
    pub main_pid: i64,
    /// Its files were changed since systemd read them.
    pub needs_reload: bool,
}

/// The read half that planning needs: the live host, a capture and a file tree serve it alike.
pub trait Look {
    /// A whole regular file; links are not followed. `None`: not there.
    fn look(&self, path: &Path) -> Done<Option<FileState>>;
    /// Owner and mode of a file or directory, links not followed; the content is not read.
    fn meta(&self, path: &Path) -> Done<Option<FileMeta>>;
    /// Names in a directory, sorted; `None`: it is none.
    fn list(&self, path: &Path) -> Done<Option<Vec<String>>> {
        let _ = path;
        Ok(None)
    }
}

/// The hand. Every method is one mutation, and each is atomic or safe to repeat.
pub trait World: Look {
    /// Writes `new` (or removes the file) if the file still is `expect`; whole or not at all, on disk when it returns.
    fn replace(&self, path: &Path, expect: Option<&FileState>, new: Option<&FileState>) -> Done;
    /// Removes what a write of this file that was cut off left beside it.
    fn sweep(&self, path: &Path) -> Done;
    /// Changes owner and mode only.
    fn set_meta(&self, path: &Path, expect: FileMeta, new: FileMeta) -> Done;
    /// Runs a command from the closed list of the hand; a non-zero end is `Failed` with its last line of output.
    fn command(&self, argv: &[String], limit: Duration) -> Done;
    /// Runs a command of the same list that only prints, and gives what it printed.
    fn ask(&self, argv: &[String], limit: Duration) -> Done<String> {
        let _ = limit;
        Err(Trouble::refused(argv.join(" "), "nothing can be asked here"))
    }
    /// Tries a connection in a copy of the packet filter, before and after its change. `Refused`: that cannot be had here; `Failed`: the
    /// change does not do what was planned. Nothing of the host is changed.
    fn try_out(&self, trial: &Trial) -> Done {
        Err(Trouble::refused(format!("a trial of {}", trial.to), "no network namespaces here"))
    }
    /// What the running broker would make of these configuration files: it takes them, or a word for why not. Nothing is applied.
    fn broker_takes(&self, files: &ConfigFiles) -> Done<Result<(), String>> {
        let _ = files;
        Err(Trouble::refused("the broker's own check", "there is no broker to ask here"))
    }
    /// One call that changes the broker; taking away what is not there is no error. A definite refusal by the broker is `Refused`.
    fn broker(&self, mutation: &Mutation) -> Done;
    /// The unit's state.
    fn unit(&self, unit: &str) -> Done<UnitNow>;
    fn sleep(&self, time: Duration);
    /// Seconds since the epoch.
    fn now(&self) -> i64;
    /// Random bytes from the kernel.
    fn random(&self, buffer: &mut [u8]) -> Done;

    /// Atomically writes a 0600 file of root's, its directories 0700; file and directories are on disk when it returns.
    fn write_private(&self, path: &Path, content: &[u8]) -> Done;
    /// `None`: not there.
    fn read_private(&self, path: &Path) -> Done<Option<Vec<u8>>>;
    /// Names in a directory, sorted; empty if there is none.
    fn list_private(&self, dir: &Path) -> Done<Vec<String>>;
    /// Held until dropped; a second holder gets `Locked`.
    fn lock(&self) -> Done<Box<dyn std::any::Any>>;
}

/// Planning through the read door.
pub struct HostLook<'a>(pub &'a dyn crate::host::Host);

impl Look for HostLook<'_> {
    fn look(&self, path: &Path) -> Done<Option<FileState>> {
        use crate::host::Kind;
        let name = || path.display().to_string();
        let stat = match self.0.stat(path, false) {
            Ok(stat) => stat,
            Err(miss) if miss.is_absent() => return Ok(None),
            Err(miss) => return Err(Trouble::refused(name(), miss)),
        };
        if stat.kind != Kind::File {
            return Err(Trouble::refused(name(), "not a regular file (links are not followed when writing)"));
        }
        let content = self.0.read(path, crate::host::MAX_FILE).map_err(|miss| Trouble::refused(name(), miss))?;
        Ok(Some(FileState { content, meta: FileMeta { mode: stat.mode & 0o7777, uid: stat.uid, gid: stat.gid } }))
    }

    fn meta(&self, path: &Path) -> Done<Option<FileMeta>> {
        match self.0.stat(path, false) {
            Ok(stat) if stat.kind == crate::host::Kind::Link => {
                Err(Trouble::refused(path.display().to_string(), "a symbolic link, not touched"))
            }
            Ok(stat) => Ok(Some(FileMeta { mode: stat.mode & 0o7777, uid: stat.uid, gid: stat.gid })),
            Err(miss) if miss.is_absent() => Ok(None),
            Err(miss) => Err(Trouble::refused(path.display().to_string(), miss)),
        }
    }

    fn list(&self, path: &Path) -> Done<Option<Vec<String>>> {
        let refused = |miss| Trouble::refused(path.display().to_string(), miss);
        match self.0.stat(path, false).map_err(refused)?.kind {
            crate::host::Kind::Dir => self.0.list(path).map(Some).map_err(refused),
            _ => Ok(None),
        }
    }
}

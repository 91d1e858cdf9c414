//! The real hand behind [`World`]: a thin translation, nothing is decided here.

use super::action::Trial;
use super::world::{Done, FileMeta, FileState, HostLook, Look, Trouble, UnitNow, World};
use crate::host::dist::Dialer;
use crate::host::rpc::{self, Call, ConfigFiles, Mutation, StoredPassword, Target};
use crate::host::write::{self, Hand, WriteError};
use crate::host::{Command, Got, Host, Miss, replica};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The lock of all runs; its directory is root's alone, so nobody else can hold it.
const LOCK: &str = "/var/lib/rmq-audit/lock";

/// This machine, changed by root.
pub struct LiveWorld<'a> {
    pub hand: Hand,
    pub host: &'a dyn Host,
    pub dialer: &'a Dialer,
    /// The broker's node as it is now: it may have started since the run began.
    pub target: &'a dyn Fn() -> Got<Target>,
}

impl From<WriteError> for Trouble {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Conflict { path, .. } => Trouble::ThirdHand { path },
            WriteError::Locked { pid, path } => {
                Trouble::Locked { who: pid.map_or_else(|| path.display().to_string(), |pid| format!("pid {pid}")) }
            }
            WriteError::Unsafe { path, why } => Trouble::refused(path.display().to_string(), why),
            WriteError::Failed { path, why } => Trouble::failed(path.display().to_string(), why),
        }
    }
}

fn meta_out(meta: FileMeta) -> write::FileMeta {
    write::FileMeta { mode: meta.mode, uid: meta.uid, gid: meta.gid }
}

/// Calls that are done as well if there is nothing to take away.
fn takes_away(mutation: &Mutation) -> bool {
    matches!(mutation, Mutation::DeleteUser { .. } | Mutation::ClearPermissions { .. } | Mutation::DeleteVhost { .. })
}

/// All messages of `[[{messages, Number}]]`; `None`: a queue does not tell.
fn queued(queues: &eetf::Term) -> Option<i64> {
    let messages = |queue: &eetf::Term| rpc::field(queue, "messages").and_then(rpc::integer);
    rpc::items(queues)?.iter().map(messages).sum()
}

impl LiveWorld<'_> {
    /// Writes the stored hash of a user's password to a file of root's, to be put back from there.
    fn keep_password(&self, target: &Target, user: &str, kept: &Path) -> Done {
        let what = || format!("the password of {user}");
        // A change that is made again must not take the new password for the former one.
        if self.read_private(kept)?.is_some() {
            return Ok(());
        }
        let answer =
            self.dialer.call(target, &Call::LookupUser(user.to_owned())).map_err(|miss| Trouble::refused(what(), miss))?;
        let stored = StoredPassword::of(&answer).ok_or_else(|| Trouble::refused(what(), "the stored user was not understood"))?;
        self.write_private(kept, stored.line().as_bytes())
    }

    /// Taking back a vhost must not take messages that clients have sent there since: they go with their queues.
    fn holds_nothing(&self, target: &Target, vhost: &str) -> Done {
        let what = format!("vhost {vhost}");
        let answer = self.dialer.call(target, &Call::QueuedMessages(vhost.to_owned()));
        match answer.map(|term| queued(&term)) {
            Ok(Some(0)) => Ok(()),
            Ok(Some(count)) => Err(Trouble::refused(what, format!("not deleted: {count} messages are in its queues"))),
            Ok(None) => Err(Trouble::refused(what, "not deleted: its messages could not be counted")),
            Err(miss) => Err(Trouble::refused(what, format!("not deleted: its messages could not be counted: {miss}"))),
        }
    }
}

impl Look for LiveWorld<'_> {
    fn look(&self, path: &Path) -> Done<Option<FileState>> {
        let seen = self.hand.look(path)?;
        Ok(seen.map(|(content, meta)| FileState { content, meta: FileMeta { mode: meta.mode, uid: meta.uid, gid: meta.gid } }))
    }
    fn meta(&self, path: &Path) -> Done<Option<FileMeta>> {
        HostLook(self.host).meta(path)
    }
    fn list(&self, path: &Path) -> Done<Option<Vec<String>>> {
        HostLook(self.host).list(path)
    }
}

impl World for LiveWorld<'_> {
    fn replace(&self, path: &Path, expect: Option<&FileState>, new: Option<&FileState>) -> Done {
        // The hand compares contents; that owner and mode are as expected is checked here.
        if self.look(path)?.as_ref() != expect {
            return Err(Trouble::ThirdHand { path: path.to_path_buf() });
        }
        let meta = new.or(expect).map_or(FileMeta { mode: 0o600, uid: 0, gid: 0 }, |state| state.meta);
        let content = new.map(|state| state.content.as_slice());
        Ok(self.hand.replace_file(path, expect.map(|state| state.content.as_slice()), content, meta_out(meta))?)
    }

    fn sweep(&self, path: &Path) -> Done {
        let (Some(dir), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else { return Ok(()) };
        let prefix = format!(".{name}.rmq-audit-");
        let ours = |other: &String| {
            let tail = other.strip_prefix(&prefix);
            tail.is_some_and(|tail| tail.len() == 16 && tail.chars().all(|c| c.is_ascii_hexdigit()))
        };
        for name in self.list_private(dir)?.iter().filter(|name| ours(name)) {
            let path = dir.join(name);
            if let Some(state) = self.look(&path)? {
                self.hand.replace_file(&path, Some(&state.content), None, meta_out(state.meta))?;
            }
        }
        Ok(())
    }

    fn set_meta(&self, path: &Path, expect: FileMeta, new: FileMeta) -> Done {
        Ok(self.hand.set_meta(path, meta_out(expect), meta_out(new))?)
    }

    fn command(&self, argv: &[String], limit: Duration) -> Done {
        self.ask(argv, limit).map(drop)
    }

    fn try_out(&self, trial: &Trial) -> Done {
        let what = format!("trying {} from {} in a copy of the packet filter", trial.to, trial.source);
        let tried = replica::try_out(&replica::Attempt {
            source: trial.source,
            to: trial.to,
            interface: trial.interface.clone(),
            commands: trial.commands.clone(),
        });
        let outcome = tried.map_err(|miss| Trouble::refused(what.clone(), miss))?;
        if outcome.before != trial.sees {
            let why = format!("the copy does not behave as the host: the client sees {}, not {}", outcome.before, trial.sees);
            return Err(Trouble::refused(what, why));
        }
        match outcome.after.as_str() {
            "connected" => Ok(()),
            other => Err(Trouble::failed(what, format!("the client still sees {other}"))),
        }
    }

    fn ask(&self, argv: &[String], limit: Duration) -> Done<String> {
        let what = argv.join(" ");
        let output = self.hand.run(argv, None, limit).map_err(|miss| match miss {
            Miss::Absent { .. } | Miss::Denied { .. } => Trouble::refused(what.clone(), miss),
            miss => Trouble::failed(what.clone(), miss),
        })?;
        if output.code == Some(0) {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let said = if output.stderr.trim_ascii().is_empty() { &output.stdout } else { &output.stderr };
        let said = String::from_utf8_lossy(said);
        // nft says what is wrong first, then where; the others end with it.
        let error = said.lines().find(|line| line.starts_with("Error: ")).or_else(|| said.trim().lines().next_back());
        Err(Trouble::failed(what, error.unwrap_or("it said nothing")))
    }

    fn broker_takes(&self, files: &ConfigFiles) -> Done<Result<(), String>> {
        const WHAT: &str = "the broker's own check";
        let refused = |miss: Miss| Trouble::refused(WHAT, miss);
        let target = (self.target)().map_err(refused)?;
        let answer = self.dialer.call(&target, &Call::Accepts(files.clone())).map_err(refused)?;
        match rpc::elements(&answer) {
            [] => Ok(Ok(())),
            parts => Ok(Err(parts.last().map(rpc::brief).unwrap_or_default())),
        }
    }

    fn broker(&self, mutation: &Mutation) -> Done {
        let what = || "broker".to_string();
        let target = (self.target)().map_err(|miss| Trouble::refused(what(), miss))?;
        if let Mutation::DeleteVhost { name } = mutation {
            self.holds_nothing(&target, name)?;
        }
        if let Mutation::ChangePassword { name, kept, .. } = mutation {
            self.keep_password(&target, name, kept)?;
        }
        let Err(miss) = self.dialer.mutate(&target, mutation) else { return Ok(()) };
        // The broker said no; "failed on the node" means that the call broke off half-way.
        let answered = |call: &str, why: &str| call.starts_with("rabbit") && !why.starts_with("failed on the node");
        match &miss {
            Miss::Failed { why, .. } if takes_away(mutation) && why.contains("no_such_") => Ok(()),
            Miss::Failed { what: call, why } if answered(call, why) => Err(Trouble::refused(what(), miss)),
            Miss::Absent { .. } | Miss::Denied { .. } | Miss::Unavailable { .. } => Err(Trouble::refused(what(), miss)),
            _ => Err(Trouble::failed(what(), miss)),
        }
    }

    fn unit(&self, unit: &str) -> Done<UnitNow> {
        let properties = ["ActiveState", "SubState", "Result", "NRestarts", "MainPID", "NeedDaemonReload"];
        let command = Command::UnitShow { unit: unit.to_string(), properties: properties.map(String::from).to_vec() };
        let output = self.host.run(&command).map_err(|miss| Trouble::failed(unit, miss))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let value = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
            line.map(str::to_string).ok_or_else(|| Trouble::failed(unit, format!("systemctl does not tell {name}")))
        };
        let number = |name: &str| value(name).map(|text| text.parse().unwrap_or(0));
        Ok(UnitNow {
            active: value("ActiveState")?,
            sub: value("SubState")?,
            result: value("Result")?,
            restarts: number("NRestarts")?,
            main_pid: number("MainPID")?,
            needs_reload: value("NeedDaemonReload")? == "yes",
        })
    }

    fn sleep(&self, time: Duration) {
        std::thread::sleep(time);
    }
    fn now(&self) -> i64 {
        self.host.identity().now
    }
    fn random(&self, buffer: &mut [u8]) -> Done {
        getrandom::fill(buffer).map_err(|error| Trouble::refused("random numbers", error))
    }

    fn write_private(&self, path: &Path, content: &[u8]) -> Done {
        if let Some(dir) = path.parent() {
            self.hand.private_dir(dir)?;
        }
        let old = self.hand.look(path)?.map(|(content, _)| content);
        let meta = write::FileMeta { mode: 0o600, uid: 0, gid: 0 };
        Ok(self.hand.replace_file(path, old.as_deref(), Some(content), meta)?)
    }

    fn read_private(&self, path: &Path) -> Done<Option<Vec<u8>>> {
        Ok(self.hand.look(path)?.map(|(content, _)| content))
    }

    fn list_private(&self, dir: &Path) -> Done<Vec<String>> {
        match self.host.list(dir) {
            Ok(names) => Ok(names),
            Err(miss) if miss.is_absent() => Ok(Vec::new()),
            Err(miss) => Err(Trouble::refused(dir.display().to_string(), miss)),
        }
    }

    fn lock(&self) -> Done<Box<dyn std::any::Any>> {
        let path = PathBuf::from(LOCK);
        if let Some(dir) = path.parent() {
            self.hand.private_dir(dir)?;
        }
        Ok(Box::new(self.hand.lock(&path)?))
    }
}

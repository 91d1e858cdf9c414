//! The closed set of things that a repair can do. An action only produces these, so it cannot forget to be reversible.

use super::world::{Done, FileMeta, FileState, Look, Trouble, World};
use crate::facts::conf::secrets;
use crate::host::rpc::Mutation;
use crate::host::secrets::strike_userinfo;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Time limit of a command that changes the host (`ufw`, `systemctl enable`, …): long, because one that is killed may leave its work
/// half done.
pub const COMMAND_LIMIT: Duration = Duration::from_secs(120);

/// One reversible change.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// A whole file: edited, created (`before` is `None`) or removed (`after` is `None`).
    File { path: PathBuf, before: Option<FileState>, after: Option<FileState>, secret: bool },
    /// Owner and mode of a file or directory whose content is none of our business (the Erlang cookie).
    Meta { path: PathBuf, before: FileMeta, after: FileMeta },
    /// Something that is done by asking someone else.
    Run { doing: Op, undo: Op },
}

/// Something that is done by asking systemd, a firewall's own tool, or the broker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case")]
pub enum Op {
    Nothing,
    Command {
        argv: Vec<String>,
    },
    Broker {
        mutation: Mutation,
    },
    /// Deletes the nftables rules of one chain that bear this comment; none is as well.
    RemoveRule {
        /// `inet filter`
        table: String,
        chain: String,
        comment: String,
    },
    /// Restarts the unit and waits until it is up.
    Restart {
        unit: String,
    },
    /// Forgets failed starts, starts the unit and waits until it is up.
    Start {
        unit: String,
    },
    /// Brings the unit back to what it was before the run.
    Settle {
        unit: String,
        was: Was,
    },
    /// Gives files to another owner, those that still are `from`'s: a broker at work makes and removes files in its data directory, so that
    /// none of them can be held to be what it was.
    Own {
        paths: Vec<PathBuf>,
        /// uid and gid
        from: (u32, u32),
        to: (u32, u32),
    },
    /// Stops a broker that runs outside the unit, and starts the unit in its place.
    TakeOver {
        unit: String,
    },
    /// The way back: the unit stops, and the broker is started by hand, as its user.
    LetGo {
        unit: String,
        was: Was,
    },
}

/// What a unit was doing before a run touched it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Was {
    Running,
    /// Running with settings that its files do not hold any more: with those it would not start again.
    Stale,
    /// Starting, or in a loop of failing starts.
    Trying,
    Stopped,
}

impl Was {
    /// From systemd's ActiveState.
    pub fn of(active: &str) -> Was {
        match active {
            "active" | "reloading" => Was::Running,
            "activating" => Was::Trying,
            _ => Was::Stopped,
        }
    }
}

impl Op {
    /// Undone only after the files of its phase are back: what it does depends on them. A broker whose old files do not
    /// boot is the exception: it has to be up before they come back.
    pub fn reads_files(&self) -> bool {
        match self {
            Op::Settle { was, .. } => *was != Was::Stale,
            Op::Restart { .. } | Op::Start { .. } | Op::LetGo { .. } => true,
            Op::Broker { mutation: Mutation::EnsurePlugins { .. } } => true,
            Op::Nothing
            | Op::Command { .. }
            | Op::Broker { .. }
            | Op::RemoveRule { .. }
            | Op::TakeOver { .. }
            | Op::Own { .. } => false,
        }
    }

    /// The argument vectors that a person would type for this; a broker call is given as its `rabbitmqctl` counterpart's words.
    pub fn commands(&self) -> Vec<Vec<String>> {
        let systemctl = |verb: &str, unit: &str| argv(&["systemctl", verb, unit]);
        match self {
            Op::Command { argv } => vec![argv.clone()],
            Op::Restart { unit } => vec![systemctl("restart", unit)],
            Op::Start { unit } => vec![systemctl("reset-failed", unit), systemctl("start", unit)],
            Op::Settle { unit, was: Was::Running } => vec![systemctl("restart", unit)],
            Op::Settle { unit, was: Was::Stale } => vec![systemctl("start", unit)],
            Op::Settle { unit, was: Was::Stopped } => vec![systemctl("stop", unit)],
            Op::Settle { unit, was: Was::Trying } => vec![argv(&["systemctl", "--no-block", "restart", unit])],
            Op::Own { paths, to, .. } => {
                let owner = argv(&["chown", "--no-dereference", &format!("{}:{}", to.0, to.1)]);
                vec![owner.into_iter().chain(paths.iter().map(|path| path.display().to_string())).collect()]
            }
            Op::TakeOver { unit } => vec![systemctl("stop", unit), argv(SHUT_DOWN), systemctl("start", unit)],
            Op::LetGo { unit, .. } => vec![systemctl("stop", unit), argv(BY_HAND)],
            Op::Nothing | Op::Broker { .. } | Op::RemoveRule { .. } => Vec::new(),
        }
    }

    /// One line for the plan and the journal; no secret is ever in it.
    pub fn describe(&self) -> String {
        match self {
            Op::Nothing => "nothing".into(),
            Op::Broker { mutation } => describe_mutation(mutation),
            Op::Own { paths, to, .. } => {
                let first = paths.first().map(|path| path.display().to_string()).unwrap_or_default();
                let more = if paths.len() > 1 { format!(" and {} more", paths.len() - 1) } else { String::new() };
                format!("owner of {first}{more} -> {}:{}", to.0, to.1)
            }
            Op::RemoveRule { table, chain, comment } => {
                format!("nft delete rule {table} {chain}, the one with comment \"{comment}\"")
            }
            other => other.commands().iter().map(|argv| argv.join(" ")).collect::<Vec<_>>().join("; "),
        }
    }
}

/// Stops the node and waits until its process is gone.
const SHUT_DOWN: &[&str] = &["rabbitmqctl", "shutdown"];
/// Starts the node without systemd, in the background.
const BY_HAND: &[&str] = &["rabbitmq-server", "-detached"];
/// Waits until the node has booted.
const UP: &[&str] = &["rabbitmqctl", "await_startup"];

/// Words as an argument vector.
pub fn argv(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_string()).collect()
}

fn describe_mutation(mutation: &Mutation) -> String {
    match mutation {
        Mutation::AddUser { name, password_file } => {
            format!("broker: add user {name}, password from {}", password_file.display())
        }
        Mutation::DeleteUser { name } => format!("broker: delete user {name}"),
        Mutation::SetPermissions { user, vhost, configure, write, read } => {
            format!("broker: let {user} use vhost {vhost}: configure \"{configure}\" write \"{write}\" read \"{read}\"")
        }
        Mutation::ClearPermissions { user, vhost } => format!("broker: take {user}'s permissions in vhost {vhost} back"),
        Mutation::SetTags { user, tags } => format!("broker: set the tags of {user} to [{}]", tags.join(", ")),
        Mutation::AddVhost { name } => format!("broker: add vhost {name}"),
        Mutation::DeleteVhost { name } => format!("broker: delete vhost {name}"),
        Mutation::EnsurePlugins { file } => format!("broker: start and stop plugins as {} says", file.display()),
        Mutation::ResumeListeners => "broker: resume all client listeners".into(),
        Mutation::SuspendListeners => "broker: suspend all client listeners".into(),
        Mutation::SetWatermark { watermark } => format!("broker: set the memory watermark to {watermark} until the next start"),
        Mutation::ChangePassword { name, password_file, .. } => {
            format!("broker: change the password of {name} to that in {}", password_file.display())
        }
        Mutation::RestorePassword { name, .. } => format!("broker: give {name} its former password back"),
        Mutation::Revive => "broker: end the maintenance mode".into(),
        Mutation::Drain => "broker: begin the maintenance mode".into(),
    }
}

impl Change {
    /// One line for the plan.
    pub fn describe(&self) -> String {
        match self {
            Change::File { path, before: None, .. } => format!("create {}", path.display()),
            Change::File { path, after: None, .. } => format!("remove {}", path.display()),
            Change::File { path, .. } => format!("edit {}", path.display()),
            Change::Meta { path, before, after } if before.mode != after.mode => {
                format!("{}: mode {:04o} -> {:04o}", path.display(), before.mode, after.mode)
            }
            Change::Meta { path, before, after } => {
                format!("{}: owner {}:{} -> {}:{}", path.display(), before.uid, before.gid, after.uid, after.gid)
            }
            Change::Run { doing, .. } => doing.describe(),
        }
    }

    /// Unified diff with three lines of context; values of secrets are struck out. Empty unless the content of a file changes.
    pub fn diff(&self) -> String {
        let Change::File { path, before, after, secret } = self else { return String::new() };
        let text = |state: &Option<FileState>| match state {
            None => String::new(),
            Some(_) if *secret => "<secret>\n".to_string(),
            Some(state) => String::from_utf8_lossy(&state.content).into_owned(),
        };
        let (old, new) = (text(before), text(after));
        let name = |state: &Option<FileState>| match state {
            None => "/dev/null".to_string(),
            Some(_) => path.display().to_string(),
        };
        let diff = similar::TextDiff::from_lines(old.as_str(), new.as_str());
        let unified = diff.unified_diff().context_radius(3).header(&name(before), &name(after)).to_string();
        let struck = |(number, line): (usize, &str)| if number < 2 { line.to_owned() } else { strike_out(line) };
        unified.lines().enumerate().map(struck).map(|line| line + "\n").collect()
    }

    /// Argument vectors that a person would have to type; file edits have none.
    pub fn commands(&self) -> Vec<Vec<String>> {
        match self {
            Change::File { .. } => Vec::new(),
            Change::Meta { path, before, after } => {
                let path = path.display().to_string();
                let mut all = Vec::new();
                if (before.uid, before.gid) != (after.uid, after.gid) {
                    all.push(argv(&["chown", &format!("{}:{}", after.uid, after.gid), &path]));
                }
                if before.mode != after.mode {
                    all.push(argv(&["chmod", &format!("{:04o}", after.mode), &path]));
                }
                all
            }
            Change::Run { doing, .. } => doing.commands(),
        }
    }

    /// What the journal keeps: hashes instead of contents.
    pub fn record(&self) -> Record {
        match self {
            Change::File { path, before, after, .. } => Record::File {
                path: path.clone(),
                before: before.as_ref().map(Stored::of),
                after: after.as_ref().map(Stored::of),
            },
            Change::Meta { path, before, after } => Record::Meta { path: path.clone(), before: *before, after: *after },
            Change::Run { doing, undo } => Record::Run { doing: doing.clone(), undo: undo.clone() },
        }
    }
}

/// Strikes a secret out of one line of a diff: also where the line is a comment or cannot be understood, and whatever is quoted.
fn strike_out(line: &str) -> String {
    match line.split_once('=') {
        Some((key, value)) if secret_name(key) && !value.trim().is_empty() => format!("{key}= {}", secrets::REDACTED),
        _ => secrets::any_line(&strike_userinfo(line)),
    }
}

/// Whether a setting of this name holds a secret.
pub fn secret_name(name: &str) -> bool {
    secrets::is_secret(name)
}

/// A change as the journal keeps it. Contents of files lie beside it, named by their hash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "kebab-case")]
pub enum Record {
    File { path: PathBuf, before: Option<Stored>, after: Option<Stored> },
    Meta { path: PathBuf, before: FileMeta, after: FileMeta },
    Run { doing: Op, undo: Op },
}

/// Identity of a file's content, with its owner and mode.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored {
    /// Lower-case hexadecimal.
    pub sha256: String,
    #[serde(flatten)]
    pub meta: FileMeta,
}

impl Stored {
    pub fn of(state: &FileState) -> Stored {
        Stored { sha256: sha256(&state.content), meta: state.meta }
    }
}

/// SHA-256 as lower-case hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What a file is, seen from a change of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    Before,
    After,
    /// Neither: a third hand was here.
    Other,
}

impl Record {
    /// Where the host stands with this change; `None` where only doing it would tell.
    pub fn seen(&self, world: &dyn Look) -> Done<Option<Seen>> {
        fn place<T: PartialEq>(now: &T, before: &T, after: &T) -> Seen {
            if now == before {
                Seen::Before
            } else if now == after {
                Seen::After
            } else {
                Seen::Other
            }
        }
        Ok(match self {
            Record::File { path, before, after } => {
                let now = world.look(path)?.as_ref().map(Stored::of);
                Some(place(&now, before, after))
            }
            Record::Meta { path, before, after } => Some(place(&world.meta(path)?, &Some(*before), &Some(*after))),
            Record::Run { .. } => None,
        })
    }

    /// One line for `runs` and for messages.
    pub fn describe(&self) -> String {
        match self {
            Record::File { path, .. } | Record::Meta { path, .. } => path.display().to_string(),
            Record::Run { doing, .. } => doing.describe(),
        }
    }
}

/// How changes are carried out: the hand, how long a start may take, and how to say that one waits.
pub struct Doer<'a> {
    pub world: &'a dyn World,
    /// Limit for the broker to come up after a start.
    pub start_limit: Duration,
    /// Called about twice a second while waiting, with the seconds so far; `Some(signal)` stops the wait.
    pub waiting: &'a dyn Fn(&str, u64) -> Option<i32>,
}

impl Doer<'_> {
    /// Does the change.
    pub fn apply(&self, change: &Change) -> Done {
        match change {
            Change::File { path, before, after, .. } => self.world.replace(path, before.as_ref(), after.as_ref()),
            Change::Meta { path, before, after } => self.world.set_meta(path, *before, *after),
            Change::Run { doing, .. } => self.perform(doing),
        }
    }

    /// Takes the change back, whether or not it was done; `content` gives a stored file by hash. Twice is the same as once.
    pub fn undo(&self, record: &Record, content: &dyn Fn(&str) -> Done<Vec<u8>>) -> Done {
        match (record, record.seen(self.world)?) {
            (_, Some(Seen::Before)) => Ok(()),
            (Record::File { path, .. } | Record::Meta { path, .. }, Some(Seen::Other)) => {
                Err(Trouble::ThirdHand { path: path.clone() })
            }
            (Record::File { path, before, .. }, _) => {
                let now = self.world.look(path)?;
                let old = match before {
                    None => None,
                    Some(stored) => Some(FileState { content: content(&stored.sha256)?, meta: stored.meta }),
                };
                self.world.replace(path, now.as_ref(), old.as_ref())
            }
            (Record::Meta { path, before, after }, _) => self.world.set_meta(path, *after, *before),
            (Record::Run { undo, .. }, _) => match self.perform(undo) {
                Err(Trouble::Failed { why, .. }) if nothing_to_take_back(undo, &why) => Ok(()),
                other => other,
            },
        }
    }

    fn perform(&self, op: &Op) -> Done {
        match op {
            Op::Nothing => Ok(()),
            Op::Command { argv } => self.world.command(argv, COMMAND_LIMIT),
            Op::Broker { mutation } => self.world.broker(mutation),
            Op::RemoveRule { table, chain, comment } => self.remove_rule(table, chain, comment),
            Op::Restart { unit } => self.start("restart", unit),
            Op::Start { unit } => {
                self.read_unit(unit)?;
                self.world.command(&argv(&["systemctl", "reset-failed", unit]), COMMAND_LIMIT)?;
                self.start("start", unit)
            }
            Op::Own { paths, from, to } => self.give(paths, *from, *to),
            Op::TakeOver { unit } => {
                // Else its next try could get the name of the node in between.
                self.world.command(&argv(&["systemctl", "stop", unit]), self.start_limit)?;
                self.world.command(&argv(SHUT_DOWN), COMMAND_LIMIT)?;
                self.start("start", unit)
            }
            Op::LetGo { unit, was } => self.let_go(unit, *was),
            Op::Settle { unit, was: Was::Running } => self.start("restart", unit),
            Op::Settle { unit, was: Was::Stale } => self.start("start", unit),
            Op::Settle { unit, was: Was::Stopped } => {
                self.world.command(&argv(&["systemctl", "stop", unit]), self.start_limit)?;
                self.read_unit(unit)
            }
            Op::Settle { unit, was: Was::Trying } => {
                self.read_unit(unit)?;
                self.world.command(&argv(&["systemctl", "--no-block", "restart", unit]), COMMAND_LIMIT)
            }
        }
    }

    fn give(&self, paths: &[PathBuf], from: (u32, u32), to: (u32, u32)) -> Done {
        for path in paths {
            let Some(meta) = self.world.meta(path)?.filter(|meta| (meta.uid, meta.gid) == from) else { continue };
            let (uid, gid) = to;
            self.world.set_meta(path, meta, FileMeta { uid, gid, ..meta })?;
        }
        Ok(())
    }

    fn let_go(&self, unit: &str, was: Was) -> Done {
        self.world.command(&argv(&["systemctl", "stop", unit]), self.start_limit)?;
        self.world.command(&argv(BY_HAND), COMMAND_LIMIT)?;
        // Before the other one has the node's name the unit would get it again.
        let tick = Duration::from_secs(1);
        let mut waited = Duration::ZERO;
        while let Err(trouble) = self.world.command(&argv(UP), self.start_limit) {
            if waited >= self.start_limit {
                return Err(trouble);
            }
            self.world.sleep(tick);
            waited += tick;
        }
        if was == Was::Trying {
            self.world.command(&argv(&["systemctl", "--no-block", "start", unit]), COMMAND_LIMIT)?;
        }
        Ok(())
    }

    /// Lets systemd read the unit's files where this run, or somebody before it, changed them: what it would do else is what they said.
    fn read_unit(&self, unit: &str) -> Done {
        if self.world.unit(unit)?.needs_reload {
            self.world.command(&argv(&["systemctl", "daemon-reload"]), COMMAND_LIMIT)?;
        }
        Ok(())
    }

    /// The rule's handle is not known before it is there, and a chain may have been loaded anew since.
    fn remove_rule(&self, table: &str, chain: &str, comment: &str) -> Done {
        let list = format!("list chain {table} {chain}");
        let text = match self.world.ask(&argv(&["nft", "-a", &list]), COMMAND_LIMIT) {
            Err(Trouble::Failed { why, .. }) if why.contains("No such file or directory") => return Ok(()),
            other => other?,
        };
        for handle in handles(&text, comment) {
            let delete = format!("delete rule {table} {chain} handle {handle}");
            self.world.command(&argv(&["nft", &delete]), COMMAND_LIMIT)?;
        }
        Ok(())
    }

    /// systemd's own limit for a start is ten minutes on Debian, so the job is only queued and the wait is ours.
    fn start(&self, verb: &str, unit: &str) -> Done {
        let what = format!("{unit} to {verb}");
        self.read_unit(unit)?;
        // A counter of earlier failures must not make this start look like one.
        let _ = self.world.command(&argv(&["systemctl", "reset-failed", unit]), COMMAND_LIMIT);
        let old_pid = if verb == "restart" { self.world.unit(unit)?.main_pid } else { 0 };
        self.world.command(&argv(&["systemctl", "--no-block", verb, unit]), COMMAND_LIMIT)?;
        let tick = Duration::from_millis(500);
        let mut waited = Duration::ZERO;
        let mut fewest_restarts = i64::MAX;
        let mut ended = 0;
        loop {
            self.world.sleep(tick);
            waited += tick;
            // systemd may answer late on a host that is busy with the start itself.
            let now = match self.world.unit(unit) {
                Ok(now) => now,
                Err(trouble) if waited >= self.start_limit => return Err(trouble),
                Err(_) => {
                    if let Some(signal) = (self.waiting)(unit, waited.as_secs()) {
                        return Err(Trouble::failed(what, format!("interrupted by signal {signal}")));
                    }
                    continue;
                }
            };
            // The old process of a restart is still "active" for a moment after the job was queued.
            if now.active == "active" && (old_pid == 0 || now.main_pid != old_pid) {
                return Ok(());
            }
            fewest_restarts = fewest_restarts.min(now.restarts);
            // Between the stop and the start of a restart the unit may be seen inactive once.
            ended = if matches!(now.active.as_str(), "failed" | "inactive") { ended + 1 } else { 0 };
            // A failing broker alternates between activating and auto-restart for ever: the first failure is the answer.
            if ended > 1 || now.sub == "auto-restart" || now.restarts > fewest_restarts {
                return Err(Trouble::failed(what, format!("the broker ended while starting ({})", now.result)));
            }
            if let Some(signal) = (self.waiting)(unit, waited.as_secs()) {
                return Err(Trouble::failed(what, format!("interrupted by signal {signal}")));
            }
            if waited >= self.start_limit {
                return Err(Trouble::failed(what, format!("not up after {} s", self.start_limit.as_secs())));
            }
        }
    }
}

/// Handles of the rules with this comment, from `nft -a list chain …`.
fn handles(text: &str, comment: &str) -> Vec<u64> {
    let mark = format!("comment \"{comment}\"");
    let ours = text.lines().filter(|line| line.contains(&mark));
    ours.filter_map(|line| line.rsplit_once("# handle ")?.1.trim().parse().ok()).collect()
}

/// Whether a command that takes a rule away failed because there is none: the process died between the note that its change is
/// begun and the change, or the change itself failed. (ufw and firewall-cmd call that a success.)
fn nothing_to_take_back(undo: &Op, why: &str) -> bool {
    let Op::Command { argv } = undo else { return false };
    let removes = argv.iter().any(|word| word == "-D");
    let gone = ["does a matching rule exist", "No chain/target/match by that name", "No such file or directory"];
    removes && gone.iter().any(|text| why.contains(text))
}

/// The absolute paths that a set of changes writes.
pub fn paths(changes: &[Change]) -> Vec<&Path> {
    changes
        .iter()
        .filter_map(|change| match change {
            Change::File { path, .. } | Change::Meta { path, .. } => Some(path.as_path()),
            Change::Run { .. } => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edited(old: &str, new: &str) -> String {
        let state = |text: &str| {
            let meta = FileMeta { mode: 0o640, uid: 0, gid: 0 };
            Some(FileState { content: text.as_bytes().to_vec(), meta })
        };
        Change::File { path: "/etc/rabbitmq/rabbitmq.conf".into(), before: state(old), after: state(new), secret: false }.diff()
    }

    #[test]
    fn no_diff_shows_a_secret() {
        for line in [
            "default_pass = hunter2",
            "default_pass hunter2",
            "# default_pass = {hunter2",
            "ssl_options.password='hunter2'x",
            "x.uri = amqp://u:hunter2@h",
            "SERVER_ADDITIONAL_ERL_ARGS=\"-setcookie hunter2\"",
            "export RABBITMQ_DEFAULT_PASS=\"a'hunter2\"",
        ] {
            let diff = edited(&format!("{line}\nheartbeatt = 5\n"), &format!("#{line}\nheartbeat = 5\n"));
            assert!(!diff.contains("hunter2") && diff.contains("+heartbeat = 5"), "{diff}");
        }
    }

    #[test]
    fn taking_back_a_rule_that_is_not_there_is_done() {
        let op = |words: &[&str]| Op::Command { argv: argv(words) };
        let iptables = op(&["iptables-nft", "-w", "5", "-D", "INPUT", "-j", "ACCEPT"]);
        let bad_rule = "iptables: Bad rule (does a matching rule exist in that chain?).";
        assert!(nothing_to_take_back(&iptables, bad_rule));
        assert!(!nothing_to_take_back(&iptables, "Permission denied"));
        assert!(!nothing_to_take_back(&op(&["iptables-nft", "-I", "INPUT"]), bad_rule));
    }

    #[test]
    fn our_rule_is_found_by_its_comment() {
        let text = "table inet f {\n\tchain i { # handle 1\n\t\ttcp dport 5672 accept comment \"rmq-audit:5672\" # handle 12\n\t\ttcp dport 22 accept # handle 3\n\t}\n}\n";
        assert_eq!(handles(text, "rmq-audit:5672"), [12]);
        assert!(handles(text, "rmq-audit:56").is_empty());
    }
}

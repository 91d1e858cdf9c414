//! An in-memory host for unit tests of collectors.
//!
//! ```ignore
//! let host = Fake::new()
//!     .file("/etc/os-release", "ID=debian\n")
//!     .file_with("/var/lib/rabbitmq/.erlang.cookie", "ABC", 0o400, 104, 109)
//!     .denied("/etc/ssl/private")
//!     .command(Command::NftRuleset, "{}")
//!     .call(Call::IsRunning, eetf::Atom::from("true"));
//! ```
//! What was not given is absent; parent directories come into being with what they hold (root:root 0755).

use super::tls::Handshake;
use super::{Command, Got, Host, Identity, InterfaceAddress, Kind, Load, Loaded, Meta, Miss, Output, Space, Tail, amqp, rpc};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Component, Path, PathBuf};

/// What stands at a path.
#[derive(Debug, Clone)]
enum Content {
    File(Vec<u8>),
    Dir,
    Link(PathBuf),
}

#[derive(Debug, Clone)]
struct Entry {
    content: Content,
    mode: u32,
    uid: u32,
    gid: u32,
    mtime: i64,
    /// Reading, listing and entering fail with this; `stat` works.
    miss: Option<Miss>,
}

/// The builder and the host in one.
#[derive(Debug, Clone)]
pub struct Fake {
    identity: Identity,
    entries: BTreeMap<PathBuf, Entry>,
    commands: BTreeMap<Command, Got<Output>>,
    scratches: BTreeMap<Vec<Load>, Got<Loaded>>,
    calls: BTreeMap<rpc::Call, Got<eetf::Term>>,
    probes: BTreeMap<amqp::Probe, Got<amqp::Answer>>,
    handshakes: BTreeMap<SocketAddr, Handshake>,
    addresses: Got<Vec<InterfaceAddress>>,
    spaces: BTreeMap<PathBuf, Got<Space>>,
    nf_tables: Got<Vec<u8>>,
    ip_sets: Got<Vec<u8>>,
    routing: Got<Vec<u8>>,
}

impl Fake {
    /// An empty machine seen by root on 2026-01-01 00:00 UTC.
    pub fn new() -> Self {
        let identity = Identity { uid: 0, now: 1_767_225_600, offline: false, nodename: Some("mq1".to_owned()) };
        let mut fake = Fake {
            identity,
            entries: BTreeMap::new(),
            commands: BTreeMap::new(),
            scratches: BTreeMap::new(),
            calls: BTreeMap::new(),
            probes: BTreeMap::new(),
            handshakes: BTreeMap::new(),
            addresses: Ok(Vec::new()),
            spaces: BTreeMap::new(),
            nf_tables: Err(Miss::Absent { what: "nf_tables".to_owned() }),
            ip_sets: Err(Miss::Absent { what: "ipsets".to_owned() }),
            routing: Err(Miss::Unavailable { what: "routing tables".to_owned(), why: "the test gave none".to_owned() }),
        };
        fake.insert(Path::new("/"), Content::Dir, 0o755, 0, 0);
        fake
    }

    pub fn identity(mut self, identity: Identity) -> Self {
        self.identity = identity;
        self
    }

    /// A root:root 0644 file.
    pub fn file(self, path: impl AsRef<Path>, content: impl AsRef<[u8]>) -> Self {
        self.file_with(path, content, 0o644, 0, 0)
    }

    pub fn file_with(mut self, path: impl AsRef<Path>, content: impl AsRef<[u8]>, mode: u32, uid: u32, gid: u32) -> Self {
        self.insert(path.as_ref(), Content::File(content.as_ref().to_vec()), mode, uid, gid);
        self
    }

    pub fn dir(mut self, path: impl AsRef<Path>, mode: u32, uid: u32, gid: u32) -> Self {
        self.insert(path.as_ref(), Content::Dir, mode, uid, gid);
        self
    }

    pub fn link(mut self, path: impl AsRef<Path>, target: impl AsRef<Path>) -> Self {
        self.insert(path.as_ref(), Content::Link(target.as_ref().to_owned()), 0o777, 0, 0);
        self
    }

    /// Sets the modification time (seconds since the epoch) of something that was added before.
    pub fn mtime(mut self, path: impl AsRef<Path>, mtime: i64) -> Self {
        self.entries.get_mut(path.as_ref()).expect("add the file before its mtime").mtime = mtime;
        self
    }

    /// Reading the file, or listing and entering the directory, is not permitted.
    pub fn denied(self, path: impl AsRef<Path>) -> Self {
        let what = path.as_ref().display().to_string();
        self.miss(path, Miss::Denied { what })
    }

    /// Reading the file, or listing and entering the directory, ends like this. Adds a file if nothing is there yet.
    pub fn miss(mut self, path: impl AsRef<Path>, miss: Miss) -> Self {
        let path = path.as_ref();
        if !self.entries.contains_key(path) {
            self.insert(path, Content::File(Vec::new()), 0o600, 0, 0);
        }
        self.entries.get_mut(path).expect("just inserted").miss = Some(miss);
        self
    }

    /// The command succeeds with this on standard output.
    pub fn command(self, command: Command, stdout: impl AsRef<[u8]>) -> Self {
        let output = Output { code: Some(0), stdout: stdout.as_ref().to_vec(), stderr: Vec::new() };
        self.command_ends(command, Ok(output))
    }

    pub fn command_ends(mut self, command: Command, end: Got<Output>) -> Self {
        self.commands.insert(command, end);
        self
    }

    pub fn call(self, call: rpc::Call, term: impl Into<eetf::Term>) -> Self {
        self.call_ends(call, Ok(term.into()))
    }

    pub fn call_ends(mut self, call: rpc::Call, end: Got<eetf::Term>) -> Self {
        self.calls.insert(call, end);
        self
    }

    /// One more address of an interface that is up.
    pub fn address(mut self, interface: &str, address: &str, prefix: u8) -> Self {
        let address = address.parse().expect("an IP address");
        if let Ok(all) = &mut self.addresses {
            all.push(InterfaceAddress { interface: interface.to_owned(), address, prefix, up: true });
        }
        self
    }

    /// Space of the file system that is mounted at `path`.
    pub fn space(mut self, path: impl AsRef<Path>, total: u64, available: u64) -> Self {
        self.spaces.insert(path.as_ref().to_owned(), Ok(Space { total, available }));
        self
    }

    /// What a TLS listener answers.
    pub fn handshake(mut self, to: SocketAddr, handshake: Handshake) -> Self {
        self.handshakes.insert(to, handshake);
        self
    }

    /// A dump of nf_tables (default: the kernel has none).
    pub fn nf_tables(mut self, dump: Got<Vec<u8>>) -> Self {
        self.nf_tables = dump;
        self
    }

    fn insert(&mut self, path: &Path, content: Content, mode: u32, uid: u32, gid: u32) {
        assert!(path.is_absolute(), "{} is not absolute", path.display());
        let plain = |content| Entry { content, mode: 0o755, uid: 0, gid: 0, mtime: 1_767_000_000, miss: None };
        for parent in path.ancestors().skip(1) {
            self.entries.entry(parent.to_owned()).or_insert_with(|| plain(Content::Dir));
        }
        self.entries.insert(path.to_owned(), Entry { mode, uid, gid, ..plain(content) });
    }

    fn entry(&self, path: &Path) -> Got<&Entry> {
        self.entries.get(path).ok_or_else(|| Miss::Absent { what: path.display().to_string() })
    }

    /// Walks the links on the way (and the last one too, with `follow`); at most 40 of them, as Linux does.
    fn resolve(&self, path: &Path, follow: bool) -> Got<(PathBuf, &Entry)> {
        let mut links = 0;
        let mut todo: Vec<PathBuf> = components(path);
        let mut at = PathBuf::from("/");
        while let Some(part) = todo.pop() {
            if let Some(miss) = &self.entry(&at)?.miss {
                return Err(miss.clone());
            }
            if part == Path::new("..") {
                at.pop();
                continue;
            }
            let next = at.join(&part);
            match &self.entry(&next)?.content {
                Content::Link(target) if follow || !todo.is_empty() => {
                    links += 1;
                    if links > 40 {
                        return Err(Miss::failed(path.display().to_string(), "too many levels of symbolic links"));
                    }
                    if target.is_absolute() {
                        at = PathBuf::from("/");
                    }
                    todo.extend(components(target));
                }
                _ => at = next,
            }
        }
        let entry = self.entry(&at)?;
        Ok((at, entry))
    }
}

/// Normal and `..` components, last first.
fn components(path: &Path) -> Vec<PathBuf> {
    let keep = |c: &Component| matches!(c, Component::Normal(_) | Component::ParentDir);
    path.components().filter(keep).map(|c| PathBuf::from(c.as_os_str())).rev().collect()
}

impl Host for Fake {
    fn identity(&self) -> Identity {
        self.identity.clone()
    }

    fn read(&self, path: &Path, limit: u64) -> Got<Vec<u8>> {
        let what = || path.display().to_string();
        let (_, entry) = self.resolve(path, true)?;
        if let Some(miss) = &entry.miss {
            return Err(miss.clone());
        }
        match &entry.content {
            Content::File(bytes) if bytes.len() as u64 > limit => Err(Miss::TooBig { what: what(), limit }),
            Content::File(bytes) => Ok(bytes.clone()),
            _ => Err(Miss::failed(what(), "not a regular file")),
        }
    }

    fn tail(&self, path: &Path, limit: u64) -> Got<Tail> {
        let mut bytes = self.read(path, u64::MAX)?;
        let skip = bytes.len().saturating_sub(limit as usize);
        Ok(Tail { bytes: bytes.split_off(skip), cut: skip > 0 })
    }

    fn list(&self, dir: &Path) -> Got<Vec<String>> {
        let (at, entry) = self.resolve(dir, true)?;
        if let Some(miss) = &entry.miss {
            return Err(miss.clone());
        }
        if !matches!(entry.content, Content::Dir) {
            return Err(Miss::failed(dir.display().to_string(), "not a directory"));
        }
        let children = self.entries.keys().filter(|p| p.parent() == Some(&at));
        let names: BTreeSet<String> = children.filter_map(|p| Some(p.file_name()?.to_string_lossy().into_owned())).collect();
        Ok(names.into_iter().collect())
    }

    fn stat(&self, path: &Path, follow: bool) -> Got<Meta> {
        let (_, e) = self.resolve(path, follow)?;
        let (kind, size) = match &e.content {
            Content::File(bytes) => (Kind::File, bytes.len() as u64),
            Content::Dir => (Kind::Dir, 4096),
            Content::Link(target) => (Kind::Link, target.as_os_str().len() as u64),
        };
        Ok(Meta { kind, mode: e.mode, uid: e.uid, gid: e.gid, size, mtime: e.mtime })
    }

    fn read_link(&self, path: &Path) -> Got<PathBuf> {
        match &self.resolve(path, false)?.1.content {
            Content::Link(target) => Ok(target.clone()),
            _ => Err(Miss::failed(path.display().to_string(), "not a symbolic link")),
        }
    }

    fn space(&self, path: &Path) -> Got<Space> {
        let (at, _) = self.resolve(path, true)?;
        let mount = at.ancestors().find_map(|p| self.spaces.get(p));
        mount.cloned().unwrap_or_else(|| Err(Miss::failed(path.display().to_string(), "the test gave no space")))
    }

    fn addresses(&self) -> Got<Vec<InterfaceAddress>> {
        self.addresses.clone()
    }

    fn nf_tables(&self) -> Got<Vec<u8>> {
        self.nf_tables.clone()
    }

    fn ip_sets(&self) -> Got<Vec<u8>> {
        self.ip_sets.clone()
    }

    fn routing(&self) -> Got<Vec<u8>> {
        self.routing.clone()
    }

    fn run(&self, command: &Command) -> Got<Output> {
        self.commands.get(command).cloned().unwrap_or_else(|| Err(Miss::Absent { what: command.to_string() }))
    }

    fn scratch(&self, loads: &[Load]) -> Got<Loaded> {
        let missing = || Miss::Unavailable { what: "a scratch namespace".to_owned(), why: "the test gave no answer".to_owned() };
        self.scratches.get(loads).cloned().unwrap_or_else(|| Err(missing()))
    }

    fn call(&self, _: &rpc::Target, call: &rpc::Call) -> Got<eetf::Term> {
        let missing = || Err(Miss::Unavailable { what: format!("{call:?}"), why: "the test gave no answer".to_owned() });
        self.calls.get(call).cloned().unwrap_or_else(missing)
    }

    fn tls(&self, to: SocketAddr) -> Got<Handshake> {
        let missing = || Err(Miss::Unavailable { what: to.to_string(), why: "the test gave no answer".to_owned() });
        self.handshakes.get(&to).cloned().map_or_else(missing, Ok)
    }

    fn amqp(&self, probe: &amqp::Probe) -> Got<amqp::Answer> {
        let missing = || Err(Miss::Unavailable { what: probe.to.to_string(), why: "the test gave no answer".to_owned() });
        self.probes.get(probe).cloned().unwrap_or_else(missing)
    }
}

mod tests {
    use super::*;

    #[test]
    fn links_are_walked_and_loops_end() {
        let host = Fake::new().file("/usr/lib/a", "x").link("/lib", "usr/lib").link("/loop", "/loop");
        assert_eq!(host.read(Path::new("/lib/a"), 9), Ok(b"x".to_vec()));
        assert_eq!(host.stat(Path::new("/lib"), false).map(|m| m.kind), Ok(Kind::Link));
        assert_eq!(host.list(Path::new("/lib/../lib")), Ok(vec!["a".to_owned()]));
        assert!(matches!(host.read(Path::new("/loop"), 9), Err(Miss::Failed { .. })));
        assert!(host.read(Path::new("/none"), 9).is_err_and(|m| m.is_absent()));
    }

    #[test]
    fn a_denied_directory_hides_what_is_below_but_not_itself() {
        let host = Fake::new().file("/d/f", "x").denied("/d");
        assert!(matches!(host.read(Path::new("/d/f"), 9), Err(Miss::Denied { .. })));
        assert!(matches!(host.list(Path::new("/d")), Err(Miss::Denied { .. })));
        assert!(host.stat(Path::new("/d"), true).is_ok());
    }
}

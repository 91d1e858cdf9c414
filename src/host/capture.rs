//! Captures: what one run read of a host, to be replayed anywhere. Raw inputs, never facts, so that facts can be renamed freely.
//!
//! A capture is a folder:
//!
//! | path | holds |
//! |---|---|
//! | `manifest.json` | schema, tool, date, [`Identity`] |
//! | `files/etc/…` | bytes of files that were read |
//! | `tails/var/log/…` | ends of files of which only the end was read (`tails.json`: whether they were cut) |
//! | `reads.json` | why a file could not be read, by path |
//! | `stats.json`, `lstats.json`, `lists.json`, `links.json`, `space.json` | answers by path |
//! | `netlink/nf_tables.nl`, `netlink/ip_sets.nl`, `netlink/routing.nl` | the kernel's dumps as they came (`dumps.json`: why there is none) |
//! | `addresses.json`, `sockets.json`, `commands.json`, `scratch.json`, `calls.json`, `amqp.json`, `tls.json`, `pem.json` | the other answers |
//!
//! An answer is `{"Ok": …}` or `{"Err": …}` with a [`Miss`]. Secrets are struck out when recorded (see [`super::secrets`]): a capture
//! can be shown to others. What was not recorded is unknown on replay, never absent.

use super::{
    Command, Got, Host, Identity, InterfaceAddress, ListeningSocket, Load, Loaded, Meta, Miss, Output, Space, Tail, amqp, dist,
    pem, rpc, secrets, tls,
};
use crate::formats::passwords;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

const SCHEMA: &str = "rmq-audit/capture/1";
const COOKIE: &str = ".erlang.cookie";
/// Largest capture that is opened, in bytes.
const MAX_CAPTURE: u64 = 512 * 1024 * 1024;

#[derive(Serialize, Deserialize)]
struct Manifest {
    schema: String,
    tool: String,
    /// RFC 3339.
    recorded: String,
    identity: Identity,
}

/// Answers that are not bytes of files; each field is a file of the capture.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Answers {
    reads: BTreeMap<String, Miss>,
    tails: BTreeMap<String, Got<bool>>,
    stats: BTreeMap<String, Got<Meta>>,
    lstats: BTreeMap<String, Got<Meta>>,
    lists: BTreeMap<String, Got<Vec<String>>>,
    links: BTreeMap<String, Got<PathBuf>>,
    space: BTreeMap<String, Got<Space>>,
    addresses: Option<Got<Vec<InterfaceAddress>>>,
    sockets: Option<Got<Vec<ListeningSocket>>>,
    commands: BTreeMap<String, Got<Output>>,
    scratch: BTreeMap<String, Got<Loaded>>,
    calls: BTreeMap<String, Got<StoredTerm>>,
    amqp: BTreeMap<String, Got<amqp::Answer>>,
    tls: BTreeMap<String, Got<tls::Handshake>>,
    pem: BTreeMap<String, Got<pem::Pem>>,
    /// Dumps that could not be had; the others are in `netlink/`.
    dumps: BTreeMap<String, Miss>,
}

impl Answers {
    fn count(&self) -> usize {
        let paths = self.reads.len() + self.tails.len() + self.stats.len() + self.lstats.len() + self.lists.len();
        let more =
            self.links.len() + self.space.len() + usize::from(self.addresses.is_some()) + usize::from(self.sockets.is_some());
        paths
            + more
            + self.commands.len()
            + self.scratch.len()
            + self.calls.len()
            + self.amqp.len()
            + self.tls.len()
            + self.pem.len()
            + self.dumps.len()
    }
}

/// An Erlang term: its external form for the machine, and its text for the reader.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct StoredTerm {
    etf: String,
    #[serde(default)]
    text: String,
}

#[derive(Default)]
struct Store {
    answers: Answers,
    /// `files/…`, `tails/…` and `netlink/…`
    bytes: BTreeMap<String, Vec<u8>>,
}

/// A host that keeps what it is asked, without the secrets.
pub struct Recorder<'a> {
    inner: &'a dyn Host,
    store: Mutex<Store>,
}

impl<'a> Recorder<'a> {
    pub fn new(inner: &'a dyn Host) -> Self {
        Recorder { inner, store: Mutex::default() }
    }

    /// Writes the capture into a new (or empty) directory; returns the number of answers.
    pub fn save(&self, dir: &Path) -> Got<usize> {
        let what = dir.display().to_string();
        let fail = |e: &dyn std::fmt::Display| Miss::failed(&what, e);
        let store = self.store();
        let count = store.answers.count() + store.bytes.keys().filter(|k| !k.starts_with("tails/")).count();
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|e| fail(&e))?;
        // Somebody else's directory could lead what is written elsewhere, or keep it.
        let meta = std::fs::metadata(dir).map_err(|e| fail(&e))?;
        if meta.uid() != nix::unistd::Uid::effective().as_raw() || meta.mode() & 0o022 != 0 {
            return Err(fail(&"the directory belongs to somebody else, or others can write to it"));
        }
        if std::fs::read_dir(dir).map_err(|e| fail(&e))?.next().is_some() {
            return Err(fail(&"the directory is not empty"));
        }
        for (name, bytes) in self.documents(&store)?.iter().chain(&store.bytes) {
            write_new(&dir.join(name), bytes).map_err(|e| fail(&format!("{name}: {e}")))?;
        }
        Ok(count)
    }

    /// The JSON files.
    fn documents(&self, store: &Store) -> Got<BTreeMap<String, Vec<u8>>> {
        let manifest = Manifest {
            schema: SCHEMA.to_owned(),
            tool: concat!("rmq-audit ", env!("CARGO_PKG_VERSION")).to_owned(),
            recorded: jiff::Timestamp::from_second(self.inner.identity().now).map_or(String::new(), |t| t.to_string()),
            identity: self.inner.identity(),
        };
        let fields = serde_json::to_value(&store.answers).map_err(|e| Miss::failed("capture", e))?;
        let manifest = serde_json::to_value(&manifest).map_err(|e| Miss::failed("capture", e))?;
        let filled = |value: &serde_json::Value| !value.is_null() && value.as_object().is_none_or(|o| !o.is_empty());
        let mut documents = BTreeMap::from([("manifest.json".to_owned(), pretty(&manifest)?)]);
        for (name, value) in fields.as_object().into_iter().flatten().filter(|(_, value)| filled(value)) {
            documents.insert(format!("{name}.json"), pretty(value)?);
        }
        Ok(documents)
    }

    fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a dump of the kernel's, or why there is none.
    fn keep_dump(&self, name: &str, got: &Got<Vec<u8>>) {
        let mut store = self.store();
        match got {
            Ok(dump) => drop(store.bytes.insert(dump_place(name), dump.clone())),
            Err(miss) => drop(store.answers.dumps.insert(name.to_owned(), miss.clone())),
        }
    }

    /// Keeps the bytes of a file, or why there are none.
    fn keep(&self, tree: &str, path: &Path, got: Got<&[u8]>) {
        let name = path.display().to_string();
        let kept = got.and_then(|bytes| strike_file(path, bytes)).and_then(|bytes| Ok((place(tree, path)?, bytes)));
        let mut store = self.store();
        match kept {
            Ok((place, bytes)) => {
                store.bytes.insert(place, bytes);
            }
            Err(miss) => {
                store.answers.reads.insert(name, miss);
            }
        }
    }
}

fn pretty(value: &serde_json::Value) -> Got<Vec<u8>> {
    let mut bytes = serde_json::to_vec_pretty(value).map_err(|e| Miss::failed("capture", e))?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// Makes a file 0600 that must not exist, with its directories.
fn write_new(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    if let Some(parent) = path.parent() {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
    }
    std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?.write_all(bytes)
}

/// Where a file stands in the capture. Only plain absolute paths have a place there.
fn place(tree: &str, path: &Path) -> Got<String> {
    let plain = path.is_absolute() && path.components().all(|c| matches!(c, Component::RootDir | Component::Normal(_)));
    match path.to_str() {
        Some(text) if plain => Ok(format!("{tree}{}", normal(text))),
        _ => Err(not_recorded(path.display())),
    }
}

/// Where a dump of the kernel's stands in the capture.
fn dump_place(name: &str) -> String {
    format!("netlink/{name}.nl")
}

/// `/a//b/` as `/a/b`.
fn normal(path: &str) -> String {
    path.split('/').filter(|p| !p.is_empty()).fold(String::new(), |all, part| all + "/" + part)
}

fn not_recorded(what: impl std::fmt::Display) -> Miss {
    Miss::Unavailable { what: what.to_string(), why: "not in this capture".to_owned() }
}

fn key(path: &Path) -> String {
    path.display().to_string()
}

/// What was loaded, briefly, and a hash of all of it. Files are captured with secrets struck out, so the text that is hashed is as well:
/// a replay asks with what it read from the capture.
fn scratch_key(loads: &[Load]) -> String {
    let struck = |text: &str| secrets::strike_text(text.as_bytes()).unwrap_or_default();
    let mut names = Vec::new();
    let mut hash = Sha256::new();
    for load in loads {
        let (name, input) = match load {
            Load::Restore { v6, legacy, keep, input } => {
                let family = if *v6 { "ip6tables" } else { "iptables" };
                let kind = legacy.map_or("", |l| if l { "-legacy" } else { "-nft" });
                (format!("{family}{kind}-restore{}", if *keep { " --noflush" } else { "" }), struck(input))
            }
            Load::Nft { file } => (format!("nft -f {}", file.display()), Vec::new()),
            Load::IpSets { input } => ("ipset restore".to_owned(), struck(input)),
            Load::Interface { name, index } => (format!("{name} {index}"), Vec::new()),
        };
        hash.update(name.as_bytes());
        hash.update([0]);
        hash.update(&input);
        hash.update([0]);
        names.push(name);
    }
    let digest = hash.finalize();
    format!("{} [{}]", names.join(", "), super::hex(digest.get(..8).unwrap_or_default()))
}

/// Comments of rules are the only free text in them; the binary dumps are rules alone.
fn strike_loaded(loaded: Loaded) -> Got<Loaded> {
    let struck = |got: Got<Vec<u8>>| got.and_then(|bytes| strike_output(&bytes));
    let [v4, v6] = loaded.legacy;
    Ok(Loaded { legacy: [struck(v4), struck(v6)], ..loaded })
}

fn probe_key(probe: &amqp::Probe) -> String {
    let login = probe.login.as_ref().map_or(String::new(), |l| format!(" user {} vhost {}", l.user, l.vhost));
    let tls = if probe.tls.is_some() { " tls" } else { "" };
    format!("{}{tls}{login}", probe.to)
}

fn http_key(probe: &amqp::Probe) -> String {
    format!("http {}", probe_key(probe))
}

impl Host for Recorder<'_> {
    fn identity(&self) -> Identity {
        self.inner.identity()
    }

    fn read(&self, path: &Path, limit: u64) -> Got<Vec<u8>> {
        let got = self.inner.read(path, limit);
        self.keep("files", path, got.as_deref().map_err(Clone::clone));
        got
    }

    fn head(&self, path: &Path, limit: u64) -> Got<Vec<u8>> {
        let got = self.inner.head(path, limit);
        self.keep("files", path, got.as_deref().map_err(Clone::clone));
        got
    }

    fn tail(&self, path: &Path, limit: u64) -> Got<Tail> {
        let got = self.inner.tail(path, limit);
        if let Ok(tail) = &got {
            self.keep("tails", path, Ok(&tail.bytes));
        }
        let cut = got.as_ref().map(|t| t.cut).map_err(Clone::clone);
        self.store().answers.tails.insert(key(path), cut);
        got
    }

    fn list(&self, dir: &Path) -> Got<Vec<String>> {
        let got = self.inner.list(dir);
        self.store().answers.lists.insert(key(dir), got.clone());
        got
    }

    fn stat(&self, path: &Path, follow: bool) -> Got<Meta> {
        let got = self.inner.stat(path, follow);
        let mut store = self.store();
        let map = if follow { &mut store.answers.stats } else { &mut store.answers.lstats };
        map.insert(key(path), got.clone());
        got
    }

    fn read_link(&self, path: &Path) -> Got<PathBuf> {
        let got = self.inner.read_link(path);
        self.store().answers.links.insert(key(path), got.clone());
        got
    }

    fn space(&self, path: &Path) -> Got<Space> {
        let got = self.inner.space(path);
        self.store().answers.space.insert(key(path), got.clone());
        got
    }

    fn addresses(&self) -> Got<Vec<InterfaceAddress>> {
        let got = self.inner.addresses();
        self.store().answers.addresses = Some(got.clone());
        got
    }

    fn listeners(&self) -> Got<Vec<ListeningSocket>> {
        let got = self.inner.listeners();
        self.store().answers.sockets = Some(got.clone());
        got
    }

    fn nf_tables(&self) -> Got<Vec<u8>> {
        let got = self.inner.nf_tables();
        self.keep_dump("nf_tables", &got);
        got
    }

    fn ip_sets(&self) -> Got<Vec<u8>> {
        let got = self.inner.ip_sets();
        self.keep_dump("ip_sets", &got);
        got
    }

    fn routing(&self) -> Got<Vec<u8>> {
        let got = self.inner.routing();
        self.keep_dump("routing", &got);
        got
    }

    fn run(&self, command: &Command) -> Got<Output> {
        let got = self.inner.run(command);
        let kept = got
            .clone()
            .and_then(|o| Ok(Output { code: o.code, stdout: strike_output(&o.stdout)?, stderr: strike_output(&o.stderr)? }));
        self.store().answers.commands.insert(command.to_string(), kept);
        got
    }

    fn scratch(&self, loads: &[Load]) -> Got<Loaded> {
        let got = self.inner.scratch(loads);
        self.store().answers.scratch.insert(scratch_key(loads), got.clone().and_then(strike_loaded));
        got
    }

    fn call(&self, node: &rpc::Target, call: &rpc::Call) -> Got<eetf::Term> {
        let got = self.inner.call(node, call);
        let kept = got.clone().and_then(|term| StoredTerm::of(&strike_answer(call, term)?));
        self.store().answers.calls.insert(format!("{call:?}"), kept);
        got
    }

    fn pem(&self, path: &Path) -> Got<pem::Pem> {
        // Not by way of `read`: the bytes of a key are never kept.
        let got = self.inner.pem(path);
        self.store().answers.pem.insert(key(path), got.clone());
        got
    }

    fn tls(&self, to: SocketAddr) -> Got<tls::Handshake> {
        let got = self.inner.tls(to);
        self.store().answers.tls.insert(to.to_string(), got.clone());
        got
    }

    fn amqp(&self, probe: &amqp::Probe) -> Got<amqp::Answer> {
        let got = self.inner.amqp(probe);
        self.store().answers.amqp.insert(probe_key(probe), got.clone());
        got
    }

    fn http(&self, probe: &amqp::Probe) -> Got<amqp::Answer> {
        let got = self.inner.http(probe);
        self.store().answers.amqp.insert(http_key(probe), got.clone());
        got
    }
}

impl StoredTerm {
    fn of(term: &eetf::Term) -> Got<Self> {
        let mut bytes = Vec::new();
        term.encode(&mut bytes).map_err(|e| Miss::failed("capture", e))?;
        let etf = bytes.iter().fold(String::new(), |hex, b| hex + &format!("{b:02x}"));
        Ok(StoredTerm { etf, text: term.to_string() })
    }

    /// A capture may come from anybody: the term is bounded before it is built.
    fn term(&self) -> Got<eetf::Term> {
        let digits = self.etf.as_bytes().chunks(2);
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
        let bytes: Option<Vec<u8>> = digits.map(byte).collect();
        dist::decode(&bytes.ok_or_else(|| Miss::failed("calls.json", "etf is not hexadecimal"))?)
    }
}

/// A host that answers from a capture.
pub struct Replay {
    identity: Identity,
    answers: Answers,
    bytes: BTreeMap<String, Vec<u8>>,
}

impl Replay {
    /// Opens a capture folder.
    pub fn open(dir: &Path) -> Got<Replay> {
        let mut files = Vec::new();
        gather(dir, "", &mut files, &mut 0)?;
        Self::from_files(files)
    }

    /// A capture that is compiled in.
    pub fn packed(dir: &include_dir::Dir) -> Got<Replay> {
        let mut files = Vec::new();
        gather_packed(dir, dir.path(), &mut files);
        Self::from_files(files)
    }

    /// From (path inside the capture, bytes).
    pub fn from_files(files: impl IntoIterator<Item = (String, Vec<u8>)>) -> Got<Replay> {
        let mut bytes: BTreeMap<String, Vec<u8>> = files.into_iter().collect();
        let manifest =
            bytes.remove("manifest.json").ok_or_else(|| Miss::Absent { what: "manifest.json of the capture".to_owned() })?;
        let manifest: Manifest = serde_json::from_slice(&manifest).map_err(|e| Miss::failed("manifest.json", e))?;
        if manifest.schema != SCHEMA {
            return Err(Miss::failed("manifest.json", format!("schema {}, this is for {SCHEMA}", manifest.schema)));
        }
        let mut fields = serde_json::Map::new();
        for (name, content) in bytes.iter().filter(|(name, _)| !name.contains('/')) {
            let Some(field) = name.strip_suffix(".json") else { continue };
            fields.insert(field.to_owned(), serde_json::from_slice(content).map_err(|e| Miss::failed(name, e))?);
        }
        let answers = serde_json::from_value(fields.into()).map_err(|e| Miss::failed("capture", e))?;
        bytes.retain(|name, _| name.contains('/'));
        Ok(Replay { identity: manifest.identity, answers, bytes })
    }

    fn dump(&self, name: &str) -> Got<Vec<u8>> {
        let missing = || self.answers.dumps.get(name).cloned().unwrap_or_else(|| not_recorded(format!("dump {name}")));
        self.bytes.get(&dump_place(name)).cloned().ok_or_else(missing)
    }

    fn bytes(&self, tree: &str, path: &Path) -> Got<&Vec<u8>> {
        if let Some(bytes) = self.bytes.get(&place(tree, path)?) {
            return Ok(bytes);
        }
        Err(self.answers.reads.get(&key(path)).cloned().unwrap_or_else(|| not_recorded(path.display())))
    }
}

/// All regular files under `dir`, by their path in it.
fn gather(dir: &Path, prefix: &str, files: &mut Vec<(String, Vec<u8>)>, size: &mut u64) -> Got<()> {
    let fail = |e: std::io::Error| super::live::miss(&dir.display().to_string(), &e);
    for entry in std::fs::read_dir(dir).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let path = format!("{prefix}{name}");
        let kind = entry.file_type().map_err(fail)?;
        if kind.is_dir() {
            gather(&entry.path(), &format!("{path}/"), files, size)?;
        } else if kind.is_file() {
            let bytes = super::live::read(&entry.path(), MAX_CAPTURE)?;
            *size += bytes.len() as u64;
            if *size > MAX_CAPTURE {
                return Err(Miss::TooBig { what: dir.display().to_string(), limit: MAX_CAPTURE });
            }
            files.push((path, bytes));
        }
    }
    Ok(())
}

fn gather_packed(dir: &include_dir::Dir, root: &Path, files: &mut Vec<(String, Vec<u8>)>) {
    for file in dir.files() {
        let path = file.path().strip_prefix(root).unwrap_or(file.path());
        files.push((path.display().to_string(), file.contents().to_vec()));
    }
    for sub in dir.dirs() {
        gather_packed(sub, root, files);
    }
}

/// An answer of the map, or "not in this capture".
fn find<T: Clone>(map: &BTreeMap<String, Got<T>>, key: &str) -> Got<T> {
    map.get(key).cloned().unwrap_or_else(|| Err(not_recorded(key)))
}

impl Host for Replay {
    fn identity(&self) -> Identity {
        self.identity.clone()
    }

    fn read(&self, path: &Path, limit: u64) -> Got<Vec<u8>> {
        let bytes = self.bytes("files", path)?;
        let too_big = || Miss::TooBig { what: key(path), limit };
        if bytes.len() as u64 > limit { Err(too_big()) } else { Ok(bytes.clone()) }
    }

    fn head(&self, path: &Path, limit: u64) -> Got<Vec<u8>> {
        let bytes = self.bytes("files", path)?;
        Ok(bytes.iter().copied().take(usize::try_from(limit).unwrap_or(usize::MAX)).collect())
    }

    fn tail(&self, path: &Path, limit: u64) -> Got<Tail> {
        let cut = find(&self.answers.tails, &key(path))?;
        let bytes = self.bytes("tails", path)?;
        let skip = bytes.len().saturating_sub(usize::try_from(limit).unwrap_or(usize::MAX));
        Ok(Tail { bytes: bytes.get(skip..).unwrap_or_default().to_vec(), cut: cut || skip > 0 })
    }

    fn list(&self, dir: &Path) -> Got<Vec<String>> {
        find(&self.answers.lists, &key(dir))
    }

    fn stat(&self, path: &Path, follow: bool) -> Got<Meta> {
        find(if follow { &self.answers.stats } else { &self.answers.lstats }, &key(path))
    }

    fn read_link(&self, path: &Path) -> Got<PathBuf> {
        find(&self.answers.links, &key(path))
    }

    fn space(&self, path: &Path) -> Got<Space> {
        find(&self.answers.space, &key(path))
    }

    fn addresses(&self) -> Got<Vec<InterfaceAddress>> {
        self.answers.addresses.clone().unwrap_or_else(|| Err(not_recorded("addresses of the interfaces")))
    }

    fn listeners(&self) -> Got<Vec<ListeningSocket>> {
        self.answers.sockets.clone().unwrap_or_else(|| Err(not_recorded("socket diagnostics")))
    }

    fn nf_tables(&self) -> Got<Vec<u8>> {
        self.dump("nf_tables")
    }

    fn ip_sets(&self) -> Got<Vec<u8>> {
        self.dump("ip_sets")
    }

    fn routing(&self) -> Got<Vec<u8>> {
        self.dump("routing")
    }

    fn run(&self, command: &Command) -> Got<Output> {
        find(&self.answers.commands, &command.to_string())
    }

    fn scratch(&self, loads: &[Load]) -> Got<Loaded> {
        find(&self.answers.scratch, &scratch_key(loads))
    }

    fn call(&self, _: &rpc::Target, call: &rpc::Call) -> Got<eetf::Term> {
        find(&self.answers.calls, &format!("{call:?}"))?.term()
    }

    fn pem(&self, path: &Path) -> Got<pem::Pem> {
        find(&self.answers.pem, &key(path))
    }

    fn tls(&self, to: SocketAddr) -> Got<tls::Handshake> {
        find(&self.answers.tls, &to.to_string())
    }

    fn amqp(&self, probe: &amqp::Probe) -> Got<amqp::Answer> {
        find(&self.answers.amqp, &probe_key(probe))
    }

    fn http(&self, probe: &amqp::Probe) -> Got<amqp::Answer> {
        find(&self.answers.amqp, &http_key(probe))
    }
}

/// The bytes of a file as they may be kept.
fn strike_file(path: &Path, bytes: &[u8]) -> Got<Vec<u8>> {
    let starts = |dirs: &[&str]| dirs.iter().any(|d| path.starts_with(d));
    if path.file_name().is_some_and(|n| n == COOKIE) {
        return Err(Miss::Unavailable { what: key(path), why: "cookies are never recorded".to_owned() });
    }
    if path.starts_with("/proc") && path.file_name().is_some_and(|n| n == "cmdline" || n == "environ") {
        return Ok(strike_strings(bytes));
    }
    if path.starts_with("/proc/net") && path.file_name().is_some_and(|n| n == "tcp" || n == "tcp6") {
        return Ok(listeners_only(bytes));
    }
    // The system's own files hold no secrets, and schemas of plugins are full of keys called password. A configuration below /usr
    // (/usr/local/etc, a generic-unix installation) is no such file.
    let configuration = path.components().any(|c| c.as_os_str() == "etc");
    if starts(&["/proc", "/sys"]) || (path.starts_with("/usr") && !configuration) {
        return Ok(bytes.to_vec());
    }
    strike_output(bytes)
}

fn strike_output(bytes: &[u8]) -> Got<Vec<u8>> {
    secrets::strike_text(bytes).ok_or_else(|| Miss::failed("capture", "secrets could not be struck out; not recorded"))
}

/// NUL-terminated strings: arguments or the environment of a process.
fn strike_strings(bytes: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(bytes);
    secrets::strike_args(text.split('\0').map(str::to_owned)).0.join("\0").into_bytes()
}

/// Who is connected to a broker is nobody's business but its operator's.
fn listeners_only(table: &[u8]) -> Vec<u8> {
    let listening = |line: &[u8]| line.split(|b| *b == b' ').filter(|w| !w.is_empty()).nth(3) == Some(b"0A");
    let lines = table.split_inclusive(|b| *b == b'\n').enumerate();
    lines.filter(|(index, line)| *index == 0 || listening(line)).flat_map(|(_, line)| line.to_vec()).collect()
}

/// The stored hash of a password is as good as the password to somebody with time (see [`passwords::struck_out`]).
fn strike_answer(call: &rpc::Call, answer: eetf::Term) -> Got<eetf::Term> {
    if !matches!(call, rpc::Call::LookupUser(_)) {
        return Ok(answer);
    }
    let not_understood = || Miss::failed("capture", "the stored user was not understood; not recorded");
    match rpc::elements(&answer) {
        [ok, user] if rpc::name(ok) == Some("ok") => {
            let stored = rpc::StoredPassword::of(&answer).ok_or_else(not_understood)?;
            let mut fields = rpc::elements(user).to_vec();
            let name = fields.get(1).and_then(rpc::text).ok_or_else(not_understood)?;
            if let Some(hash) = fields.get_mut(2) {
                *hash = eetf::Binary::from(passwords::struck_out(&stored.hash, &stored.module, &name)).into();
            }
            let user = eetf::Term::from(eetf::Tuple::from(fields));
            Ok(rpc::tuple([ok.clone(), user]))
        }
        [_, _] => Err(not_understood()),
        _ => Ok(answer),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::Fake;
    use crate::host::pem::tests::RSA_KEY;
    use crate::host::rpc::{Call, atom, binary, tuple};

    fn target() -> rpc::Target {
        let address = std::net::Ipv4Addr::LOCALHOST.into();
        rpc::Target { node: "rabbit@mq1".into(), address, port: Some(25672), cookie_file: "/c".into() }
    }

    fn stored_user(name: &str, password: &str) -> eetf::Term {
        let salt = [1, 2, 3, 4];
        let hash = [salt.to_vec(), Sha256::new().chain_update(salt).chain_update(password).finalize().to_vec()].concat();
        let hash = eetf::Term::from(eetf::Binary::from(hash.as_slice()));
        tuple([
            atom("ok"),
            tuple([atom("internal_user"), binary(name), hash, atom("tags"), atom("rabbit_password_hashing_sha256")]),
        ])
    }

    fn hash_of(user: &eetf::Term) -> Vec<u8> {
        match rpc::elements(&rpc::elements(user)[1]).get(2) {
            Some(eetf::Term::Binary(hash)) => hash.bytes.clone(),
            other => panic!("{other:?}"),
        }
    }

    fn host() -> Fake {
        Fake::new()
            .file("/etc/rabbitmq/rabbitmq.conf", "default_pass = hunter2\nlisteners.tcp.default = 5672\n")
            .file("/var/lib/rabbitmq/.erlang.cookie", "COOKIECOOKIE")
            .file("/var/log/rabbitmq/r.log", "one\ntwo\n")
            .file("/proc/7/cmdline", "beam.smp\0-setcookie\0COOKIECOOKIE\0-s\0rabbit\0")
            .file("/etc/rabbitmq/server.key", RSA_KEY)
            .denied("/etc/secret")
            .link("/bin/sh", "dash")
            .space("/", 10, 5)
            .address("eth0", "10.0.0.5", 24)
            .command(Command::NftRuleset, "{}")
            .call(Call::LookupUser("guest".into()), stored_user("guest", "guest"))
            .call(Call::LookupUser("app".into()), stored_user("app", "s3cret"))
            .call(Call::IsRunning, atom("true"))
            .nf_tables(Ok(vec![1, 2, 0, 255]))
    }

    fn ask_everything(host: &dyn Host) {
        for path in ["/etc/rabbitmq/rabbitmq.conf", "/var/lib/rabbitmq/.erlang.cookie", "/proc/7/cmdline", "/etc/secret", "/gone"]
        {
            let _ = host.read(Path::new(path), 1000);
            let _ = host.stat(Path::new(path), true);
        }
        let _ = host.tail(Path::new("/var/log/rabbitmq/r.log"), 4);
        let _ = (host.list(Path::new("/etc")), host.read_link(Path::new("/bin/sh")), host.space(Path::new("/")));
        let _ = (host.addresses(), host.run(&Command::NftRuleset), host.call(&target(), &Call::IsRunning));
        let _ = (host.nf_tables(), host.ip_sets());
        let _ = (host.pem(Path::new("/etc/rabbitmq/server.key")), host.tls("127.0.0.1:5671".parse().unwrap()));
        for user in ["guest", "app"] {
            let _ = host.call(&target(), &Call::LookupUser(user.to_owned()));
        }
    }

    /// Records, saves, opens.
    fn replayed(name: &str) -> Replay {
        let fake = host();
        let recorder = Recorder::new(&fake);
        ask_everything(&recorder);
        let dir = std::env::temp_dir().join(format!("rmq-audit-capture-{name}-{}", std::process::id()));
        assert!(recorder.save(&dir).unwrap() > 10);
        assert!(recorder.save(&dir).is_err(), "never over another capture");
        let mut files = Vec::new();
        gather(&dir, "", &mut files, &mut 0).unwrap();
        for (name, bytes) in &files {
            let text = String::from_utf8_lossy(bytes);
            assert!(!text.contains("hunter2") && !text.contains("COOKIECOOKIE"), "{name}");
            assert!(!RSA_KEY.lines().skip(1).any(|line| !line.starts_with('-') && text.contains(line)), "{name}");
        }
        let replay = Replay::open(&dir).unwrap();
        std::fs::remove_dir_all(dir).unwrap();
        replay
    }

    #[test]
    fn a_replay_answers_as_the_host_did() {
        let (fake, replay) = (host(), replayed("same"));
        let live: &dyn Host = &fake;
        assert_eq!(replay.identity(), live.identity());
        let path = Path::new("/etc/rabbitmq/rabbitmq.conf");
        assert_eq!(replay.read(path, 1000), Ok(b"default_pass = REDACTED\nlisteners.tcp.default = 5672\n".to_vec()));
        assert!(matches!(replay.read(path, 3), Err(Miss::TooBig { .. })));
        assert_eq!(replay.stat(path, true), live.stat(path, true));
        assert_eq!(replay.read(Path::new("/etc/secret"), 9), live.read(Path::new("/etc/secret"), 9));
        assert!(replay.read(Path::new("/gone"), 9).is_err_and(|m| m.is_absent()));
        assert_eq!(replay.tail(Path::new("/var/log/rabbitmq/r.log"), 4), Ok(Tail { bytes: b"two\n".to_vec(), cut: true }));
        assert_eq!(replay.list(Path::new("/etc")), live.list(Path::new("/etc")));
        assert_eq!(replay.read_link(Path::new("/bin/sh")), live.read_link(Path::new("/bin/sh")));
        assert_eq!((replay.space(Path::new("/")), replay.addresses()), (live.space(Path::new("/")), live.addresses()));
        assert_eq!(replay.run(&Command::NftRuleset), live.run(&Command::NftRuleset));
        assert_eq!(replay.call(&target(), &Call::IsRunning), Ok(atom("true")));
        assert_eq!((replay.nf_tables(), replay.ip_sets()), (live.nf_tables(), live.ip_sets()));
    }

    #[test]
    fn of_a_key_its_public_half_is_replayed() {
        let (fake, replay) = (host(), replayed("key"));
        let path = Path::new("/etc/rabbitmq/server.key");
        let live: &dyn Host = &fake;
        assert_eq!(replay.pem(path), live.pem(path));
        assert!(replay.pem(path).unwrap().keys[0].public.is_some());
        assert!(matches!(replay.read(path, 9999), Err(Miss::Unavailable { .. })));
    }

    #[test]
    fn what_was_not_asked_is_unavailable_not_absent() {
        let replay = replayed("other");
        assert!(matches!(replay.read(Path::new("/etc/other"), 9), Err(Miss::Unavailable { .. })));
        assert!(matches!(replay.list(Path::new("/other")), Err(Miss::Unavailable { .. })));
        assert!(matches!(replay.call(&target(), &Call::Version), Err(Miss::Unavailable { .. })));
        assert!(matches!(replay.routing(), Err(Miss::Unavailable { .. })));
    }

    #[test]
    fn cookies_and_hashes_are_not_recorded_but_default_passwords_are_seen() {
        let replay = replayed("secrets");
        let cookie = Path::new("/var/lib/rabbitmq/.erlang.cookie");
        assert!(matches!(replay.read(cookie, 99), Err(Miss::Unavailable { .. })));
        assert!(replay.stat(cookie, true).is_ok());
        assert_eq!(replay.read(Path::new("/proc/7/cmdline"), 99), Ok(b"beam.smp\0-setcookie\0REDACTED\0-s\0rabbit\0".to_vec()));
        let hash = |user: &str| hash_of(&replay.call(&target(), &Call::LookupUser(user.to_owned())).unwrap());
        let guest = hash("guest");
        assert_eq!(guest[4..], Sha256::new().chain_update([0; 4]).chain_update("guest").finalize()[..]);
        assert!(guest.starts_with(&[0; 4]) && hash("app").iter().all(|b| *b == 0));
    }

    #[test]
    fn connections_are_left_out_of_the_socket_tables() {
        let table = b"  sl  local rem st\n   0: A B 0A x\n   1: A C 01 x\n";
        assert_eq!(listeners_only(table), b"  sl  local rem st\n   0: A B 0A x\n");
    }
}

//! The only door between the program and the machine.
//!
//! Everything that an audit knows passes through [`Host`]: bounded reads, directory listings, read-only commands from a
//! closed list, name look-ups, broker calls. What could not be had comes back as a [`Miss`], and its text reaches the
//! user as the reason why something is unknown. The same trait is served by the live machine ([`live`]), by a recorded
//! capture ([`capture`]) and by a mounted file tree ([`tree`]), so that a bug report, a test fixture and a production host
//! run through one code path.

pub mod amqp;
pub mod capture;
mod diag;
pub mod dist;
mod dumps;
mod effective;
mod exec;
pub mod http;
pub mod live;
mod netlink;
pub mod overlay;
pub mod pem;
pub mod replica;
pub mod rpc;
pub mod scratch;
pub mod secrets;
pub mod staged;
pub mod terminal;
pub mod tls;
pub mod tree;
mod walk;
pub mod write;

#[cfg(test)]
pub mod fake;

use crate::formats::cidr::Cidr;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

/// Largest file that is read whole, in bytes. Configuration files are a few kilobytes; a plugin archive of 3.8 is under 4 MiB.
pub const MAX_FILE: u64 = 8 * 1024 * 1024;

/// Largest file of a broker's configuration that is read, in bytes. What people write is a hundredth of it.
pub const MAX_CONF: u64 = 1024 * 1024;

/// The same for rabbitmq-env.conf and enabled_plugins, which hold a few lines.
pub const MAX_SMALL_CONF: u64 = 64 * 1024;

/// Why something could not be had. The text of `Display` is shown to the user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(tag = "miss", rename_all = "kebab-case")]
pub enum Miss {
    /// There is no such file, command, name or node: a fact in itself.
    #[error("{what}: not there")]
    Absent { what: String },
    /// Permission denied; says what was wanted.
    #[error("permission denied: {what}")]
    Denied { what: String },
    /// No answer within the time limit.
    #[error("{what}: no answer within {seconds} s")]
    Timeout { what: String, seconds: u64 },
    /// Larger than the bound for this kind of input (bytes, or names of a directory).
    #[error("{what}: over the limit of {limit}, not read")]
    TooBig { what: String, limit: u64 },
    /// This kind of host cannot answer it: a file tree has no processes, a capture did not record it.
    #[error("{what}: {why}")]
    Unavailable { what: String, why: String },
    /// Anything else: an I/O error, a command that failed, an answer that could not be understood.
    #[error("{what}: {why}")]
    Failed { what: String, why: String },
}

impl Miss {
    /// `Failed` with a formatted reason.
    pub fn failed(what: impl Into<String>, why: impl std::fmt::Display) -> Self {
        Miss::Failed { what: what.into(), why: why.to_string() }
    }
    /// Whether this says that symbolic links lead in a circle.
    pub fn is_circle(&self) -> bool {
        matches!(self, Miss::Failed { why, .. } if why == CIRCLE)
    }
    /// Whether this says that the thing does not exist.
    pub fn is_absent(&self) -> bool {
        matches!(self, Miss::Absent { .. })
    }
}

/// What is said of a path whose symbolic links lead in a circle (ELOOP).
const CIRCLE: &str = "too many levels of symbolic links";

/// What a look at the host gives.
pub type Got<T> = Result<T, Miss>;

/// Kind of a directory entry or file, links not followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    File,
    Dir,
    Link,
    Other,
}

/// What `lstat`/`stat` say about a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    pub kind: Kind,
    /// Permission bits, e.g. 0o640.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Bytes.
    pub size: u64,
    /// Modification time, seconds since the epoch.
    pub mtime: i64,
}

/// Space of the file system that holds a path, in bytes (statvfs).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Space {
    pub total: u64,
    /// Free for unprivileged users: what RabbitMQ's disk monitor (df) calls available.
    pub available: u64,
}

/// The last part of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tail {
    #[serde(with = "serde_bytes_text")]
    pub bytes: Vec<u8>,
    /// Whether the file is longer than `bytes` (the first line may be cut).
    pub cut: bool,
}

mod serde_bytes_text {
    use serde::{Deserialize, Deserializer, Serializer};
    pub fn serialize<S: Serializer>(b: &[u8], s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&String::from_utf8_lossy(b))
    }
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<u8>, D::Error> {
        String::deserialize(d).map(String::into_bytes)
    }
}

mod serde_got_hex {
    use super::Got;
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};
    pub fn serialize<S: Serializer>(got: &Got<Vec<u8>>, s: S) -> Result<S::Ok, S::Error> {
        got.as_ref().map(|bytes| super::hex(bytes)).map_err(Clone::clone).serialize(s)
    }
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Got<Vec<u8>>, D::Error> {
        let got = Got::<String>::deserialize(d)?;
        got.map(|text| super::unhex(&text).ok_or_else(|| D::Error::custom("not hexadecimal")))
            .map_or_else(|miss| Ok(Err(miss)), |bytes| bytes.map(Ok))
    }
}

mod serde_got_texts {
    use super::Got;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    pub fn serialize<S: Serializer>(all: &[Got<Vec<u8>>; 2], s: S) -> Result<S::Ok, S::Error> {
        all.each_ref().map(|got| got.as_ref().map(|b| String::from_utf8_lossy(b).into_owned()).map_err(Clone::clone)).serialize(s)
    }
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<[Got<Vec<u8>>; 2], D::Error> {
        Ok(<[Got<String>; 2]>::deserialize(d)?.map(|got| got.map(String::into_bytes)))
    }
}

/// Bytes as hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |half: u8| char::from(DIGITS[usize::from(half & 15)]);
    bytes.iter().flat_map(|b| [digit(b >> 4), digit(*b)]).collect()
}

pub fn unhex(text: &str) -> Option<Vec<u8>> {
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    text.as_bytes().chunks(2).map(byte).collect()
}

/// The commands that an audit may run: a closed list, all read-only, each with a fixed argument vector.
/// The live host resolves the name in /usr/sbin:/usr/bin:/sbin:/bin, clears the environment, sets `LC_ALL=C.UTF-8`,
/// gives /dev/null as input and kills the process group after the time limit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Command {
    /// `systemctl show -p PROPERTIES -- UNIT`
    UnitShow { unit: String, properties: Vec<String> },
    /// `journalctl -u UNIT -n LINES -o json --no-pager` of this boot
    Journal { unit: String, lines: u32 },
    /// `iptables-nft-save` (falls back to `iptables-save` where that says it is nf_tables)
    IptablesNftSave { v6: bool },
    /// `iptables-legacy-save -c`; only to be asked for when /proc/net/ip_tables_names lists a table: reading must not create one
    IptablesLegacySave { v6: bool },
    /// `nft -a list ruleset`
    NftRuleset,
    /// `getent ahosts NAME`: what the C library of this host makes of a name (a static binary cannot load NSS modules itself)
    Getent { name: String },
    /// `rabbitmqctl --formatter json -q SUBCOMMAND`, run as the broker's user without Debian's re-quoting wrapper; slow, the fallback only
    Rabbitmqctl { args: Vec<String> },
}

impl Command {
    /// The argument vector; its first element is a program name that the live host resolves itself.
    pub fn argv(&self) -> Vec<String> {
        let words = |fixed: &[&str]| fixed.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
        match self {
            Command::UnitShow { unit, properties } => words(&["systemctl", "show", "-p", &properties.join(","), "--", unit]),
            Command::Journal { unit, lines } => {
                words(&["journalctl", "-b", "-o", "json", "--no-pager", "-n", &lines.to_string(), &format!("--unit={unit}")])
            }
            Command::IptablesNftSave { v6: false } => words(&["iptables-nft-save"]),
            Command::IptablesNftSave { v6: true } => words(&["ip6tables-nft-save"]),
            Command::IptablesLegacySave { v6: false } => words(&["iptables-legacy-save", "-c"]),
            Command::IptablesLegacySave { v6: true } => words(&["ip6tables-legacy-save", "-c"]),
            Command::NftRuleset => words(&["nft", "-a", "list", "ruleset"]),
            Command::Getent { name } => words(&["getent", "ahosts", "--", name]),
            Command::Rabbitmqctl { args } => {
                words(&["rabbitmqctl", "--formatter", "json", "-q"]).into_iter().chain(args.iter().cloned()).collect()
            }
        }
    }
}

/// What an administrator would type; the `what` of a [`Miss`].
impl std::fmt::Display for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.argv().join(" "))
    }
}

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Output {
    /// Exit status; `None` when killed by a signal.
    pub code: Option<i32>,
    #[serde(with = "serde_bytes_text")]
    pub stdout: Vec<u8>,
    #[serde(with = "serde_bytes_text")]
    pub stderr: Vec<u8>,
}

impl Output {
    /// Standard output if the command succeeded, else a `Miss` with the first line of standard error.
    pub fn ok(self, what: &str) -> Got<Vec<u8>> {
        if self.code == Some(0) {
            return Ok(self.stdout);
        }
        let text = String::from_utf8_lossy(&self.stderr);
        let line = text.lines().next().unwrap_or("").trim();
        let status = self.code.map_or("a signal".to_owned(), |c| format!("status {c}"));
        Err(Miss::failed(what, format!("ended with {status}{}{line}", if line.is_empty() { "" } else { ": " })))
    }
}

/// One address of one interface (getifaddrs).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceAddress {
    pub interface: String,
    pub address: IpAddr,
    pub prefix: u8,
    pub up: bool,
}

/// One listening TCP socket as the kernel tells it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListeningSocket {
    pub address: IpAddr,
    pub port: u16,
    pub uid: u32,
    pub inode: u64,
    /// An IPv6 socket that does not take IPv4; `None`: an IPv4 socket, or not told.
    pub v6_only: Option<bool>,
}

/// One TCP connection of a port of this host, in whatever state but listening.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connection {
    pub peer: SocketAddr,
    pub local: SocketAddr,
    pub state: ConnectionState,
}

/// States that tell how far a connection came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectionState {
    /// The SYN came in and was answered; the client's next packet did not come yet.
    Half,
    /// The three packets were exchanged, and the program may or may not have taken it.
    Established,
    /// On its way out, or over a moment ago.
    Closing,
}

/// One thing that a boot loads into the packet filter.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Load {
    /// `iptables-restore` (`ip6tables-restore`) with this input. `legacy`: which of the two kinds; `None`: the one that the plain name
    /// leads to, as a boot would take it. `keep`: `--noflush`.
    Restore { v6: bool, legacy: Option<bool>, keep: bool, input: String },
    /// `nft -f FILE`
    Nft { file: PathBuf },
    /// `ipset restore` with this input
    IpSets { input: String },
    /// An interface of this name and index has to be there, because rules name it by index.
    Interface { name: String, index: u32 },
}

/// What a scratch namespace held after loading.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loaded {
    /// See [`Host::nf_tables`]; `Absent`: nothing was loaded there.
    #[serde(with = "serde_got_hex")]
    pub nf_tables: Got<Vec<u8>>,
    /// `iptables-legacy-save`, `ip6tables-legacy-save`; `Absent`: nothing was loaded there.
    #[serde(with = "serde_got_texts")]
    pub legacy: [Got<Vec<u8>>; 2],
    #[serde(with = "serde_got_hex")]
    pub ip_sets: Got<Vec<u8>>,
    /// Loads that failed: number in the list, and what the tool said. The later ones were still done, as a boot would.
    pub failed: Vec<(usize, String)>,
}

/// Who we are and when it is; part of every capture so that a replay judges as of then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Effective uid of this process.
    pub uid: u32,
    /// Seconds since the epoch.
    pub now: i64,
    /// `true` for a file tree (`--root`): nothing runs there.
    pub offline: bool,
    /// Kernel host name (uname), where there is a kernel.
    pub nodename: Option<String>,
}

/// The read half of the door. Implementations are shared by the collectors' threads.
pub trait Host: Sync {
    fn identity(&self) -> Identity;
    /// A whole regular file of at most `limit` bytes. Links are followed (reading only); FIFOs and devices are refused.
    fn read(&self, path: &Path, limit: u64) -> Got<Vec<u8>>;
    /// At most the last `limit` bytes of a regular file.
    fn tail(&self, path: &Path, limit: u64) -> Got<Tail>;
    /// At most the first `limit` bytes of a regular file. The tables of /proc/net put listeners first, and tens of thousands
    /// of connections after them.
    fn head(&self, path: &Path, limit: u64) -> Got<Vec<u8>> {
        let mut bytes = self.read(path, MAX_FILE)?;
        bytes.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        Ok(bytes)
    }
    /// Names in a directory, sorted; at most 10,000, else `TooBig`.
    fn list(&self, dir: &Path) -> Got<Vec<String>>;
    /// `stat` (links followed) or `lstat`.
    fn stat(&self, path: &Path, follow: bool) -> Got<Meta>;
    fn read_link(&self, path: &Path) -> Got<PathBuf>;
    fn space(&self, path: &Path) -> Got<Space>;
    fn addresses(&self) -> Got<Vec<InterfaceAddress>>;
    /// Listening TCP sockets from the kernel's socket diagnostics; where they cannot be had, /proc/net/tcp can.
    fn listeners(&self) -> Got<Vec<ListeningSocket>> {
        Err(Miss::Unavailable { what: "socket diagnostics".to_owned(), why: "not on this host".to_owned() })
    }
    /// TCP connections of a network (or address) to a local port, from the kernel's socket diagnostics.
    fn connections(&self, port: u16, from: &Cidr) -> Got<Vec<Connection>> {
        let _ = (port, from);
        Err(Miss::Unavailable { what: "socket diagnostics".to_owned(), why: "not on this host".to_owned() })
    }
    fn run(&self, command: &Command) -> Got<Output>;
    /// The kernel's own dump of nf_tables: netlink messages as received (generation, tables, chains, sets, elements, rules, objects),
    /// of one generation. `Absent`: the kernel certainly holds none.
    fn nf_tables(&self) -> Got<Vec<u8>> {
        Err(Miss::Unavailable { what: "nf_tables".to_owned(), why: "not on this host".to_owned() })
    }
    /// The kernel's own dump of ipsets, as netlink messages. `Absent`: there are none.
    fn ip_sets(&self) -> Got<Vec<u8>> {
        Err(Miss::Unavailable { what: "ipsets".to_owned(), why: "not on this host".to_owned() })
    }
    /// Links, addresses, routes of all tables, routing rules and queueing disciplines, as netlink messages (rtnetlink).
    fn routing(&self) -> Got<Vec<u8>> {
        Err(Miss::Unavailable { what: "routing tables".to_owned(), why: "not on this host".to_owned() })
    }
    /// Loads saved rules with the host's own tools into an empty network namespace that goes away again, and gives what the kernel
    /// then holds: what a boot would make of them. Nothing of the host itself is changed.
    fn scratch(&self, loads: &[Load]) -> Got<Loaded> {
        let _ = loads;
        Err(Miss::Unavailable { what: "a scratch network namespace".to_owned(), why: "not on this host".to_owned() })
    }
    /// Calls one function of the closed list [`rpc::Call`] on the running broker over the Erlang distribution protocol.
    fn call(&self, node: &rpc::Target, call: &rpc::Call) -> Got<eetf::Term>;
    /// What a file of certificates or a key holds; of a private key only its public half leaves the reader.
    fn pem(&self, path: &Path) -> Got<pem::Pem> {
        self.read(path, pem::MAX).map(|bytes| pem::Pem::of(&bytes))
    }
    /// Shakes hands with a TLS listener of this host, and hangs up.
    fn tls(&self, to: SocketAddr) -> Got<tls::Handshake> {
        Err(Miss::Unavailable { what: to.to_string(), why: "no connections can be made here".to_owned() })
    }
    /// Connects to a listener of this host and speaks AMQP as far as asked.
    fn amqp(&self, probe: &amqp::Probe) -> Got<amqp::Answer>;
    /// Logs in to the management plugin of this host (see [`http::whoami`]).
    fn http(&self, probe: &amqp::Probe) -> Got<amqp::Answer> {
        Err(Miss::Unavailable { what: probe.to.to_string(), why: "not on this host".to_owned() })
    }
}

/// A whole file as text with the usual bound; bytes that are not UTF-8 are a `Failed`.
pub fn read_text(host: &dyn Host, path: impl AsRef<Path>) -> Got<String> {
    let path = path.as_ref();
    let bytes = host.read(path, MAX_FILE)?;
    String::from_utf8(bytes)
        .map_err(|e| Miss::failed(path.display().to_string(), format!("not UTF-8 at byte {}", e.utf8_error().valid_up_to())))
}

/// Turns `Absent` into `None`: "looked, and it is not there".
pub fn optional<T>(got: Got<T>) -> Got<Option<T>> {
    match got {
        Ok(t) => Ok(Some(t)),
        Err(m) if m.is_absent() => Ok(None),
        Err(m) => Err(m),
    }
}

/// Links that are followed on one path before it counts as a circle; the kernel's own number (path_resolution(7)).
const MAX_LINKS: u32 = 40;

/// Goes the way of a path as the kernel would, links included, and shows every real place on it: where it is, what it is, whether it is
/// the end. Ends early with what `look` gives; `None`: the end was reached.
pub fn follow<T>(host: &dyn Host, path: &Path, look: &mut dyn FnMut(&Path, &Meta, bool) -> Option<T>) -> Got<Option<T>> {
    let mut todo = components(path);
    let mut at = PathBuf::from("/");
    let mut links = 0;
    while let Some(part) = todo.pop() {
        if part == Path::new("..") {
            at.pop();
            continue;
        }
        let next = at.join(&part);
        let meta = host.stat(&next, false)?;
        if meta.kind == Kind::Link {
            links += 1;
            if links > MAX_LINKS {
                return Err(Miss::failed(path.display().to_string(), CIRCLE));
            }
            let target = host.read_link(&next)?;
            if target.is_absolute() {
                at = PathBuf::from("/");
            }
            todo.extend(components(&target));
            continue;
        }
        if let Some(found) = look(&next, &meta, todo.is_empty()) {
            return Ok(Some(found));
        }
        at = next;
    }
    Ok(None)
}

/// Normal and `..` components, last first.
fn components(path: &Path) -> Vec<PathBuf> {
    let keep = |c: &Component<'_>| matches!(c, Component::Normal(_) | Component::ParentDir);
    path.components().filter(keep).map(|c| PathBuf::from(c.as_os_str())).rev().collect()
}

/// Time limit of a read-only command.
pub const COMMAND_TIMEOUT: Duration = Duration::from_secs(10);

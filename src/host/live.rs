//! The machine that this program runs on.

use super::walk::Stray;
use super::{
    COMMAND_TIMEOUT, Command, Connection, Got, Host, Identity, InterfaceAddress, Kind, ListeningSocket, Load, Loaded, Meta, Miss,
    Output, Space, Tail, amqp, diag, dist, dumps, exec, rpc, scratch, tls, walk,
};
use crate::formats::cidr::Cidr;
use nix::fcntl::OFlag;
use nix::ifaddrs::{InterfaceAddress as RawAddress, getifaddrs};
use nix::net::if_::InterfaceFlags;
use nix::sys::socket::SockaddrStorage;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Most names that a directory listing may have.
pub const MAX_NAMES: usize = 10_000;
/// `rabbitmqctl` starts an Erlang VM first; on a busy broker host that alone takes seconds.
const RABBITMQCTL_TIMEOUT: Duration = Duration::from_secs(30);
/// A dead network mount blocks statvfs for ever.
const SPACE_TIMEOUT: Duration = Duration::from_secs(3);

/// The live host.
pub struct Live {
    command_limit: Duration,
    dialer: dist::Dialer,
}

impl Live {
    /// `command_limit`: time that a read-only command may take.
    pub fn new(command_limit: Duration) -> Self {
        Live { command_limit, dialer: dist::Dialer::new() }
    }
}

impl Default for Live {
    fn default() -> Self {
        Live::new(COMMAND_TIMEOUT)
    }
}

impl Host for Live {
    fn identity(&self) -> Identity {
        identity()
    }

    fn read(&self, path: &Path, limit: u64) -> Got<Vec<u8>> {
        read(path, limit)
    }

    fn tail(&self, path: &Path, limit: u64) -> Got<Tail> {
        let what = path.display().to_string();
        let (mut file, meta) = open(path).map_err(|e| miss(&what, &e))?;
        let start = meta.len().saturating_sub(limit);
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(start)).map_err(|e| miss(&what, &e))?;
        file.take(limit).read_to_end(&mut bytes).map_err(|e| miss(&what, &e))?;
        Ok(Tail { bytes, cut: start > 0 })
    }

    fn head(&self, path: &Path, limit: u64) -> Got<Vec<u8>> {
        let what = path.display().to_string();
        let (file, _) = open(path).map_err(|e| miss(&what, &e))?;
        let mut bytes = Vec::new();
        file.take(limit).read_to_end(&mut bytes).map_err(|e| miss(&what, &e))?;
        Ok(bytes)
    }

    fn list(&self, dir: &Path) -> Got<Vec<String>> {
        let what = dir.display().to_string();
        let mut names = Vec::new();
        for entry in std::fs::read_dir(dir).map_err(|e| miss(&what, &e))? {
            if names.len() == MAX_NAMES {
                return Err(Miss::TooBig { what: format!("{what}, names in it"), limit: MAX_NAMES as u64 });
            }
            names.push(entry.map_err(|e| miss(&what, &e))?.file_name().to_string_lossy().into_owned());
        }
        names.sort_unstable();
        Ok(names)
    }

    fn stat(&self, path: &Path, follow: bool) -> Got<Meta> {
        let got = if follow { std::fs::metadata(path) } else { std::fs::symlink_metadata(path) };
        got.map(|m| meta(&m)).map_err(|e| miss(&path.display().to_string(), &e))
    }

    fn read_link(&self, path: &Path) -> Got<PathBuf> {
        std::fs::read_link(path).map_err(|e| miss(&path.display().to_string(), &e))
    }

    fn space(&self, path: &Path) -> Got<Space> {
        let (send, receive) = mpsc::channel();
        let owned = path.to_owned();
        std::thread::spawn(move || send.send(nix::sys::statvfs::statvfs(&owned)));
        let what = path.display().to_string();
        match receive.recv_timeout(SPACE_TIMEOUT) {
            Ok(Ok(s)) => Ok(Space {
                total: s.blocks().saturating_mul(s.fragment_size()),
                available: s.blocks_available().saturating_mul(s.fragment_size()),
            }),
            Ok(Err(e)) => Err(miss(&what, &e.into())),
            Err(_) => Err(Miss::Timeout { what, seconds: SPACE_TIMEOUT.as_secs() }),
        }
    }

    fn addresses(&self) -> Got<Vec<InterfaceAddress>> {
        let all = getifaddrs().map_err(|e| miss("addresses of the interfaces", &e.into()))?;
        Ok(all.filter_map(|a| interface_address(&a)).collect())
    }

    fn listeners(&self) -> Got<Vec<ListeningSocket>> {
        diag::listeners()
    }

    fn connections(&self, port: u16, from: &Cidr) -> Got<Vec<Connection>> {
        diag::connections(port, from)
    }

    fn nf_tables(&self) -> Got<Vec<u8>> {
        dumps::nf_tables()
    }

    fn ip_sets(&self) -> Got<Vec<u8>> {
        dumps::ip_sets()
    }

    fn routing(&self) -> Got<Vec<u8>> {
        dumps::routing()
    }

    fn run(&self, command: &Command) -> Got<Output> {
        match command {
            Command::IptablesNftSave { v6 } => iptables_nft_save(*v6, self.command_limit),
            Command::Rabbitmqctl { .. } => rabbitmqctl(command),
            _ => plain(&command.argv(), self.command_limit),
        }
    }

    fn scratch(&self, loads: &[Load]) -> Got<Loaded> {
        scratch::load(loads, self.command_limit)
    }

    fn call(&self, node: &rpc::Target, call: &rpc::Call) -> Got<eetf::Term> {
        self.dialer.call(node, call)
    }

    fn tls(&self, to: SocketAddr) -> Got<tls::Handshake> {
        Ok(tls::shake_hands(to))
    }

    fn amqp(&self, probe: &amqp::Probe) -> Got<amqp::Answer> {
        amqp::ask(probe)
    }

    fn http(&self, probe: &amqp::Probe) -> Got<amqp::Answer> {
        super::http::whoami(probe)
    }
}

/// Who we are, and when.
pub(super) fn identity() -> Identity {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs() as i64);
    let nodename = nix::unistd::gethostname().ok().and_then(|n| n.into_string().ok());
    Identity { uid: nix::unistd::Uid::effective().as_raw(), now, offline: false, nodename }
}

/// A whole regular file of at most `limit` bytes.
pub(super) fn read(path: &Path, limit: u64) -> Got<Vec<u8>> {
    let what = path.display().to_string();
    let (file, _) = open(path).map_err(|e| miss(&what, &e))?;
    let mut bytes = Vec::new();
    // Files of /proc say that they are empty, so the bound is enforced on what comes, not on the size.
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes).map_err(|e| miss(&what, &e))?;
    if bytes.len() as u64 > limit {
        return Err(Miss::TooBig { what, limit });
    }
    Ok(bytes)
}

/// An I/O error as the reason why something is unknown.
pub(super) fn miss(what: &str, e: &std::io::Error) -> Miss {
    let what = what.to_owned();
    match e.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory => Miss::Absent { what },
        ErrorKind::PermissionDenied => Miss::Denied { what },
        // A process that ended between the listing of /proc and the look into it.
        _ if e.raw_os_error() == Some(nix::libc::ESRCH) => Miss::Absent { what },
        _ => Miss::failed(what, e),
    }
}

/// Opens a regular file without waiting for anybody. Opening a device can have effects, so the kind is looked at before, and
/// once more on the open file.
fn open(path: &Path) -> std::io::Result<(File, Metadata)> {
    regular(std::fs::metadata(path)?)?;
    // The links of /proc are the kernel's own; a relative path was typed by whoever runs this.
    let guarded = nix::unistd::Uid::effective().is_root() && path.is_absolute() && !path.starts_with("/proc");
    let file = if guarded {
        walk::open_to_read(path).map(File::from).map_err(|stray| match stray {
            Stray::Unsafe(why) => std::io::Error::other(why),
            Stray::Failed(e) => e.into(),
        })?
    } else {
        let flags = (OFlag::O_NONBLOCK | OFlag::O_NOCTTY).bits();
        OpenOptions::new().read(true).custom_flags(flags).open(path)?
    };
    let meta = regular(file.metadata()?)?;
    Ok((file, meta))
}

fn regular(meta: Metadata) -> std::io::Result<Metadata> {
    if meta.is_file() { Ok(meta) } else { Err(std::io::Error::other("not a regular file")) }
}

/// `Metadata` of std as ours.
pub(super) fn meta(m: &Metadata) -> Meta {
    let t = m.file_type();
    let kind = match (t.is_file(), t.is_dir(), t.is_symlink()) {
        (true, _, _) => Kind::File,
        (_, true, _) => Kind::Dir,
        (_, _, true) => Kind::Link,
        _ => Kind::Other,
    };
    Meta { kind, mode: m.mode() & 0o7777, uid: m.uid(), gid: m.gid(), size: m.len(), mtime: m.mtime() }
}

/// `None` for families other than IPv4 and IPv6.
fn interface_address(raw: &RawAddress) -> Option<InterfaceAddress> {
    let address = ip(raw.address.as_ref()?)?;
    let prefix = raw.netmask.as_ref().and_then(ip).map_or(if address.is_ipv4() { 32 } else { 128 }, ones);
    Some(InterfaceAddress {
        interface: raw.interface_name.clone(),
        address,
        prefix,
        up: raw.flags.contains(InterfaceFlags::IFF_UP),
    })
}

fn ip(address: &SockaddrStorage) -> Option<IpAddr> {
    let v4 = address.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
    v4.or_else(|| address.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())))
}

fn ones(mask: IpAddr) -> u8 {
    let ones = match mask {
        IpAddr::V4(m) => m.to_bits().count_ones(),
        IpAddr::V6(m) => m.to_bits().count_ones(),
    };
    ones as u8
}

/// Runs an argument vector whose program is looked for in the fixed directories.
fn plain(argv: &[String], timeout: Duration) -> Got<Output> {
    let what = argv.join(" ");
    let (name, args) = argv.split_first().ok_or_else(|| Miss::failed("command", "empty"))?;
    let program = exec::find(name)?;
    exec::run(&exec::Job { program: &program, args, env: &[], user: None, stdin: None, timeout }, &what)
}

/// RHEL has the nf_tables flavour only, under the plain name; elsewhere the plain name may be the legacy one, which creates
/// tables by reading them: it is asked for its flavour first.
fn iptables_nft_save(v6: bool, limit: Duration) -> Got<Output> {
    let argv = Command::IptablesNftSave { v6 }.argv();
    let absent = match plain(&argv, limit) {
        Err(m) if m.is_absent() => m,
        other => return other,
    };
    let name = if v6 { "ip6tables" } else { "iptables" };
    let version = match plain(&[name.to_owned(), "-V".to_owned()], limit) {
        Err(m) if m.is_absent() => return Err(absent),
        other => other?.ok(name)?,
    };
    if !String::from_utf8_lossy(&version).contains("nf_tables") {
        return Err(absent);
    }
    plain(&[format!("{name}-save")], limit)
}

/// As the broker's user and past Debian's wrapper, which hands its arguments to a shell a second time.
fn rabbitmqctl(command: &Command) -> Got<Output> {
    let argv = command.argv();
    let (name, args) = argv.split_first().ok_or_else(|| Miss::failed("command", "empty"))?;
    let program = broker_program(name)?;
    let (env, user) = (&BROKER_ENV, broker_user()?);
    exec::run(&exec::Job { program: &program, args, env, user, stdin: None, timeout: RABBITMQCTL_TIMEOUT }, &command.to_string())
}

/// Environment of RabbitMQ's own programs: the command-line tools look for the cookie in HOME.
pub(super) const BROKER_ENV: [(&str, &str); 1] = [("HOME", "/var/lib/rabbitmq")];

/// One of RabbitMQ's programs behind the wrapper in /usr/sbin.
pub(super) fn broker_program(name: &str) -> Got<PathBuf> {
    let program = Path::new("/usr/lib/rabbitmq/bin").join(name);
    if program.is_file() { Ok(program) } else { Err(Miss::Absent { what: program.display().to_string() }) }
}

/// uid and gid of `rabbitmq` in /etc/passwd; `None` when we are not root and cannot change to it.
pub(super) fn broker_user() -> Got<Option<(u32, u32)>> {
    if !nix::unistd::Uid::effective().is_root() {
        return Ok(None);
    }
    let bytes = read(Path::new("/etc/passwd"), super::MAX_FILE)?;
    let text = String::from_utf8_lossy(&bytes);
    let line = text.lines().find(|l| l.starts_with("rabbitmq:"));
    let mut ids = line.into_iter().flat_map(|l| l.split(':').skip(2).take(2)).map_while(|n| n.parse().ok());
    let user = ids.next().zip(ids.next());
    user.map(Some).ok_or_else(|| Miss::Absent { what: "user rabbitmq in /etc/passwd".to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory of this test alone, removed at the end.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let dir = std::env::temp_dir().join(format!("rmq-audit-live-{name}-{}", std::process::id()));
            std::fs::create_dir_all(&dir).unwrap();
            Scratch(dir)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn files_are_read_up_to_the_bound() {
        let dir = Scratch::new("bound");
        let path = dir.0.join("f");
        std::fs::write(&path, "0123456789").unwrap();
        assert_eq!(Live::default().read(&path, 10), Ok(b"0123456789".to_vec()));
        assert!(matches!(Live::default().read(&path, 9), Err(Miss::TooBig { limit: 9, .. })));
        assert_eq!(Live::default().tail(&path, 4), Ok(Tail { bytes: b"6789".to_vec(), cut: true }));
        assert_eq!(Live::default().tail(&path, 40).map(|t| t.cut), Ok(false));
    }

    #[test]
    fn the_bound_holds_for_proc_files_that_say_they_are_empty() {
        assert!(matches!(Live::default().read(Path::new("/proc/self/status"), 10), Err(Miss::TooBig { .. })));
        assert!(Live::default().read(Path::new("/proc/self/status"), 1 << 20).is_ok_and(|b| b.starts_with(b"Name:")));
    }

    #[test]
    fn a_fifo_and_a_device_are_refused_at_once() {
        let dir = Scratch::new("fifo");
        let fifo = dir.0.join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRUSR).unwrap();
        let refused =
            |path: &Path| matches!(Live::default().read(path, 9), Err(Miss::Failed { why, .. }) if why == "not a regular file");
        assert!(refused(&fifo) && refused(Path::new("/dev/zero")) && refused(&dir.0));
    }

    #[test]
    fn what_is_not_there_is_absent_with_its_path() {
        let gone = Path::new("/no/such/file");
        assert_eq!(Live::default().read(gone, 9), Err(Miss::Absent { what: "/no/such/file".to_owned() }));
        assert!(Live::default().stat(Path::new("/etc/passwd/x"), true).is_err_and(|m| m.is_absent()));
        assert!(Live::default().list(gone).is_err_and(|m| m.is_absent()));
    }

    #[test]
    fn the_machine_answers() {
        assert!(Live::default().space(Path::new("/")).is_ok_and(|s| s.total > 0));
        assert!(Live::default().addresses().is_ok_and(|a| a.iter().any(|a| a.address.is_loopback() && a.up && a.prefix > 0)));
        assert!(Live::default().identity().nodename.is_some());
        let got = Live::default().run(&Command::Getent { name: "127.0.0.1".to_owned() }).unwrap();
        assert!(String::from_utf8_lossy(&got.stdout).contains("127.0.0.1"));
    }
}

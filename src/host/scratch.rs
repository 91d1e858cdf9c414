//! Network namespaces of our own: saved rules are loaded into one as a boot would load them, and a planned change is tried in two.
//!
//! A namespace lives as long as a thread stands in it. It has no name and no file: when the program ends, in whatever way, the
//! kernel takes it away with everything in it. The host's own namespace is never touched; what may be seen of all this from
//! outside is that the kernel loads a module (veth, nf_tables) that a boot of these rules loads as well.

use super::live::Live;
use super::netlink::{Socket, Stop};
use super::{Got, Host, Load, Loaded, Miss, Output, exec};
use crate::formats::netlink::push_attribute;
use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::SockProtocol;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

const WHAT: &str = "a scratch network namespace";
/// The lock of legacy iptables is one for the whole machine; in a namespace of our own there is nobody to lock out, and no file
/// shall be left. `flock` works on a device too.
const ENVIRONMENT: [(&str, &str); 1] = [("XTABLES_LOCKFILE", "/dev/null")];
/// Longest text of a tool's complaint that is kept, in characters.
const COMPLAINT: usize = 400;

type Job = Box<dyn FnOnce() + Send>;

/// A network namespace with nothing in it but `lo`, which is up. It is gone when this is dropped.
pub struct Namespace {
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<std::thread::JoinHandle<()>>,
    path: PathBuf,
}

impl Namespace {
    /// Makes one. Needs CAP_SYS_ADMIN.
    pub fn new() -> Got<Namespace> {
        let (jobs, work) = mpsc::channel::<Job>();
        let (ready, started) = mpsc::channel();
        let body = move || {
            let made = unshare(CloneFlags::CLONE_NEWNET).map_err(not_made).and_then(|()| set_up(LOOPBACK, true));
            let tid = nix::unistd::gettid().as_raw();
            let well = made.is_ok();
            let told = ready.send(made.map(|()| PathBuf::from(format!("/proc/{}/task/{tid}/ns/net", std::process::id()))));
            if well && told.is_ok() {
                work.into_iter().for_each(|job| job());
            }
        };
        let thread = std::thread::Builder::new().name("namespace".to_owned()).spawn(body).map_err(|e| Miss::failed(WHAT, e))?;
        let path = started.recv().map_err(|_| Miss::failed(WHAT, "its thread ended"))??;
        Ok(Namespace { jobs: Some(jobs), thread: Some(thread), path })
    }

    /// Runs something in it, and waits for the end. Sockets that it makes and programs that it starts are in the namespace; files
    /// are the host's own.
    pub fn within<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> Got<T> {
        let (send, receive) = mpsc::channel();
        let job: Job = Box::new(move || {
            let _ = send.send(job());
        });
        let ended = || Miss::failed(WHAT, "its thread ended");
        self.jobs.as_ref().ok_or_else(ended)?.send(job).map_err(|_| ended())?;
        receive.recv().map_err(|_| ended())
    }

    /// Runs a program of the fixed directories in it.
    pub fn run(&self, argv: &[&str], input: Option<&str>, limit: Duration) -> Got<Output> {
        let argv: Vec<String> = argv.iter().map(|w| (*w).to_owned()).collect();
        let input = input.map(str::to_owned);
        self.within(move || tool(&argv, input.as_deref(), limit))?
    }

    /// Where another program finds it (`ip link add … peer … netns PATH`), as long as this lives.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Loads rules in this order. Returns those that failed: number in the list, and what the tool said.
    pub fn load(&self, loads: &[Load], limit: Duration) -> Got<Vec<(usize, String)>> {
        let loads = loads.to_vec();
        self.within(move || {
            let each = loads.iter().enumerate();
            each.filter_map(|(number, load)| Some((number, load_one(load, limit).err()?))).collect()
        })
    }

    /// What the kernel holds in it after these loads. Only what they may have filled is asked for: asking loads modules.
    pub fn loaded(&self, loads: &[Load], limit: Duration) -> Got<Loaded> {
        let mut loaded = Loaded {
            nf_tables: Err(Miss::Absent { what: "nf_tables in the scratch namespace".to_owned() }),
            legacy: [false, true].map(|v6| Err(Miss::Absent { what: format!("legacy {} tables", family(v6)) })),
            ip_sets: Err(Miss::Absent { what: "ipsets in the scratch namespace".to_owned() }),
            failed: self.load(loads, limit)?,
        };
        let ours = |test: &dyn Fn(&Load) -> bool| loads.iter().any(test);
        if ours(&|l| matches!(l, Load::Nft { .. } | Load::Restore { .. }) && flavour(l) != Some(Flavour::Legacy)) {
            loaded.nf_tables = self.within(move || Live::new(limit).nf_tables())?;
        }
        if ours(&|l| matches!(l, Load::IpSets { .. })) {
            loaded.ip_sets = self.within(move || Live::new(limit).ip_sets())?;
        }
        for (v6, answer) in [false, true].into_iter().zip(&mut loaded.legacy) {
            let legacy = |l: &Load| matches!(l, Load::Restore { v6: of, .. } if *of == v6) && flavour(l) == Some(Flavour::Legacy);
            if ours(&legacy) {
                let name = format!("{}-legacy-save", family(v6));
                *answer = self.run(&[&name], None, limit).and_then(|o| o.ok(&name));
            }
        }
        Ok(loaded)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// See [`Host::scratch`].
pub fn load(loads: &[Load], limit: Duration) -> Got<Loaded> {
    Namespace::new()?.loaded(loads, limit)
}

fn not_made(e: Errno) -> Miss {
    match e {
        Errno::EPERM | Errno::EACCES => Miss::Denied { what: format!("{WHAT} (needs CAP_SYS_ADMIN)") },
        Errno::ENOSPC => Miss::failed(WHAT, "the limit user.max_net_namespaces is reached"),
        e => Miss::failed(WHAT, std::io::Error::from(e)),
    }
}

fn family(v6: bool) -> &'static str {
    if v6 { "ip6tables" } else { "iptables" }
}

/// Which kernel interface a restore tool fills.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flavour {
    Nft,
    Legacy,
}

/// `None`: not a restore, or the tool is not there.
fn flavour(load: &Load) -> Option<Flavour> {
    let Load::Restore { v6, legacy, .. } = load else { return None };
    match legacy {
        Some(true) => Some(Flavour::Legacy),
        Some(false) => Some(Flavour::Nft),
        None => plain_flavour(*v6).ok(),
    }
}

/// All flavours are one program with many names: `xtables-nft-multi`, `xtables-legacy-multi`; before 1.8 `xtables-multi` was legacy.
fn plain_flavour(v6: bool) -> Got<Flavour> {
    let path = exec::find(&format!("{}-restore", family(v6)))?;
    let program = std::fs::canonicalize(&path).map_err(|e| Miss::failed(path.display().to_string(), e))?;
    let nft = program.file_name().is_some_and(|n| n.to_string_lossy().contains("nft"));
    Ok(if nft { Flavour::Nft } else { Flavour::Legacy })
}

/// Says what the tool said if it failed.
fn load_one(load: &Load, limit: Duration) -> Result<(), String> {
    let text = |miss: Miss| miss.to_string();
    let (argv, input) = match load {
        Load::Interface { name, index } => return interface(name, *index).map_err(text),
        Load::Nft { file } => (vec!["nft".to_owned(), "-f".to_owned(), file.display().to_string()], None),
        Load::IpSets { input } => (vec!["ipset".to_owned(), "restore".to_owned()], Some(input.as_str())),
        Load::Restore { v6, legacy, keep, input } => {
            if flavour(load) == Some(Flavour::Legacy) {
                legacy_ready(*v6)?;
            }
            (restore(*v6, *legacy, *keep).map_err(text)?, Some(input.as_str()))
        }
    };
    let output = tool(&argv, input, limit).map_err(text)?;
    if output.code == Some(0) {
        return Ok(());
    }
    Err(complaint(&output))
}

/// The command of a restore. RHEL has the nf_tables flavour under the plain name only.
fn restore(v6: bool, legacy: Option<bool>, keep: bool) -> Got<Vec<String>> {
    let name = match legacy {
        None => format!("{}-restore", family(v6)),
        Some(true) => format!("{}-legacy-restore", family(v6)),
        Some(false) => {
            let name = format!("{}-nft-restore", family(v6));
            match exec::find(&name) {
                Err(miss) if miss.is_absent() && plain_flavour(v6)? == Flavour::Nft => format!("{}-restore", family(v6)),
                _ => name,
            }
        }
    };
    let keep = keep.then(|| "--noflush".to_owned());
    Ok([name].into_iter().chain(keep).collect())
}

/// Up to Linux 5.14 the modules of legacy iptables put their hooks into every namespace when they are loaded, the host's own
/// included: only where they are in use already may a restore use them.
fn legacy_ready(v6: bool) -> Result<(), String> {
    let names = if v6 { "/proc/net/ip6_tables_names" } else { "/proc/net/ip_tables_names" };
    if Path::new(names).exists() {
        return Ok(());
    }
    Err(format!("not tried: legacy {} is not in use, and loading it would change this host's kernel", family(v6)))
}

/// The first lines of what a tool said on standard error.
fn complaint(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with("Try `")).collect();
    let said: String = lines.join("; ").chars().take(COMPLAINT).collect();
    match (said.is_empty(), output.code) {
        (false, _) => said,
        (true, Some(code)) => format!("ended with status {code}"),
        (true, None) => "ended by a signal".to_owned(),
    }
}

/// Runs a program in this thread's namespace.
fn tool(argv: &[String], input: Option<&str>, limit: Duration) -> Got<Output> {
    let (name, args) = argv.split_first().ok_or_else(|| Miss::failed("command", "empty"))?;
    let program = exec::find(name)?;
    let stdin = input.map(str::as_bytes);
    exec::run(&exec::Job { program: &program, args, env: &ENVIRONMENT, user: None, stdin, timeout: limit }, &argv.join(" "))
}

// Interfaces: rtnetlink (<linux/rtnetlink.h>, <linux/if_link.h>), numbers in the machine's byte order.

const RTM_NEWLINK: u16 = 16;
/// NLM_F_CREATE | NLM_F_EXCL
const CREATE: u16 = 0x600;
const IFLA_IFNAME: u16 = 3;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
const IFF_UP: u32 = 1;
const LOOPBACK: u32 = 1;
/// Indices of the other ends, far from those of any host.
const PEERS: u32 = 0x4000_0000;

/// An interface of this name and index, up. Of the kinds that hold nothing, `dummy` would not do: its module makes a `dummy0` on the
/// host when it is loaded.
fn interface(name: &str, index: u32) -> Got<()> {
    if name == "lo" {
        return Ok(());
    }
    let (pair, bridge) = (veth(name, index), link_info(name, "bridge", &[]));
    match request(CREATE, index, 0, &pair) {
        Err(Stop::Refused(Errno::EOPNOTSUPP)) => request(CREATE, index, 0, &bridge),
        other => other,
    }
    .map_err(|stop| failed(&format!("interface {name} in {WHAT}"), stop))?;
    set_up(index, false)
}

fn set_up(index: u32, own: bool) -> Got<()> {
    let what = if own { format!("lo of {WHAT}") } else { format!("interface {index} of {WHAT}") };
    request(0, index, IFF_UP, &[]).map_err(|stop| failed(&what, stop))
}

/// In a namespace of our own no code of the kernel means that there is nothing: it could not be made.
fn failed(what: &str, stop: Stop) -> Miss {
    match stop {
        Stop::Refused(e) => Miss::failed(what, std::io::Error::from(e)),
        Stop::Changed => Miss::failed(what, "changed meanwhile"),
        Stop::Miss(miss) => miss,
    }
}

fn veth(name: &str, index: u32) -> Vec<u8> {
    let peer = [header(PEERS + index, 0), attribute(IFLA_IFNAME, format!("peer{index}\0").as_bytes())].concat();
    link_info(name, "veth", &attribute(IFLA_INFO_DATA, &attribute(VETH_INFO_PEER, &peer)))
}

fn link_info(name: &str, kind: &str, data: &[u8]) -> Vec<u8> {
    let info = [attribute(IFLA_INFO_KIND, kind.as_bytes()).as_slice(), data].concat();
    [attribute(IFLA_IFNAME, format!("{name}\0").as_bytes()), attribute(IFLA_LINKINFO, &info)].concat()
}

/// `struct ifinfomsg`
fn header(index: u32, flags: u32) -> Vec<u8> {
    [[0; 4], index.to_ne_bytes(), flags.to_ne_bytes(), flags.to_ne_bytes()].concat()
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    push_attribute(&mut bytes, kind, value);
    bytes
}

/// Sends one RTM_NEWLINK and waits for the kernel's word on it.
fn request(flags: u16, index: u32, up: u32, attributes: &[u8]) -> Result<(), Stop> {
    let body = [header(index, up), attributes.to_vec()].concat();
    Socket::open(SockProtocol::NetlinkRoute, WHAT)?.change(RTM_NEWLINK, flags, &body)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    /// None where namespaces are not to be had; the reason then is a denial that names the permission.
    fn namespace() -> Option<Namespace> {
        match Namespace::new() {
            Ok(namespace) => Some(namespace),
            Err(Miss::Denied { what }) => {
                assert!(what.contains("CAP_SYS_ADMIN"));
                eprintln!("skipped: {what}");
                None
            }
            Err(other) => panic!("{other}"),
        }
    }

    fn own() -> PathBuf {
        std::fs::read_link("/proc/self/ns/net").unwrap()
    }

    #[test]
    fn a_namespace_is_apart_and_goes_away() {
        let Some(ns) = namespace() else { return };
        let before = own();
        let inside = ns.within(|| std::fs::read_link("/proc/thread-self/ns/net").unwrap()).unwrap();
        assert_ne!(inside, before);
        assert_eq!(std::fs::read_link(ns.path()).unwrap(), inside);
        ns.within(|| interface("eth0", 7)).unwrap().unwrap();
        let text = ns.run(&["ip", "-o", "link"], None, LIMIT).unwrap();
        let text = String::from_utf8_lossy(&text.stdout).into_owned();
        assert!(text.contains("7: eth0") && text.contains("lo: <LOOPBACK,UP"), "{text}");
        let path = ns.path().to_owned();
        drop(ns);
        assert!(!path.exists());
        assert_eq!(own(), before);
    }

    #[test]
    fn rules_are_loaded_and_refused_ones_are_told_with_their_line() {
        let Some(ns) = namespace() else { return };
        if exec::find("iptables-nft-restore").is_err() {
            return;
        }
        let restore = |input: &str| Load::Restore { v6: false, legacy: Some(false), keep: false, input: input.to_owned() };
        let good = "*filter\n:INPUT DROP [0:0]\n-A INPUT -p tcp --dport 5672 -j ACCEPT\nCOMMIT\n";
        let failed = ns.load(&[restore(good), restore("*filter\n-A INPUT -j ACC\nCOMMIT\n")], LIMIT).unwrap();
        assert_eq!(failed.iter().map(|(n, _)| *n).collect::<Vec<_>>(), [1]);
        assert!(failed[0].1.contains("line"), "{failed:?}");
        let save = ns.run(&["iptables-nft-save"], None, LIMIT).unwrap();
        assert!(String::from_utf8_lossy(&save.stdout).contains("--dport 5672"));
    }

    #[test]
    fn what_a_tool_said_is_kept_short() {
        let said = |text: &str| complaint(&Output { code: Some(1), stdout: vec![], stderr: text.as_bytes().to_vec() });
        assert_eq!(said("a: line 3 failed\n\n b\nTry `x' for more\n"), "a: line 3 failed; b");
        assert_eq!(said(""), "ended with status 1");
        assert_eq!(said(&"x".repeat(9999)).len(), COMPLAINT);
    }
}

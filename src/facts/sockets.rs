//! Listening TCP sockets, from the kernel's socket diagnostics or /proc/net/tcp and /proc/net/tcp6 (state 0A), with their owners.
use super::{Fact, process::Processes};
use crate::host::{Got, Host, ListeningSocket, Miss, optional, read_text};
use procfs::net::{TcpNetEntries, TcpNetEntry, TcpState};
use procfs::{ExplicitSystemInfo, FromBufReadSI};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

/// One listening socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Socket {
    /// `0.0.0.0`, `::`, `127.0.0.1`, …
    pub address: String,
    pub port: i64,
    pub v6: bool,
    /// A `::` socket that takes IPv4 too (net.ipv6.bindv6only = 0, and no IPv4 socket on the same port).
    pub dual_stack: bool,
    /// Bound to 127.0.0.0/8 or ::1.
    pub loopback: bool,
    /// Address is 0.0.0.0 or ::.
    pub wildcard: bool,
    /// uid that owns the socket.
    pub uid: i64,
    /// Owner; null: no process of this host's pid namespace holds it.
    pub owner: Fact<Option<Owner>>,
    /// Socket inode: the key to its owner; not for rules.
    #[serde(skip)]
    pub inode: u64,
}

impl Socket {
    /// The broker's VM holds it. Its descriptors are always looked through: what was not found there is somebody else's.
    pub fn held_by_broker(&self) -> Fact<bool> {
        match &self.owner {
            Fact::Known(owner) => Fact::Known(owner.as_ref().is_some_and(|o| o.broker)),
            Fact::Unknown(why) if why == NOT_LOOKED_FOR => Fact::Known(false),
            Fact::Unknown(why) => Fact::Unknown(why.clone()),
        }
    }

    /// Connections to this address of the host reach it. On Linux `::` takes IPv4 too unless it was told not to.
    pub fn takes(&self, to: IpAddr) -> bool {
        match self.address.parse::<IpAddr>() {
            Ok(bound) if bound.is_unspecified() => bound.is_ipv6() == to.is_ipv6() || self.dual_stack,
            Ok(bound) => bound.to_canonical() == to.to_canonical(),
            Err(_) => false,
        }
    }
}

/// Who holds a socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Owner {
    pub pid: i64,
    /// `comm`, e.g. `beam.smp`, `systemd`, `nginx`.
    pub name: String,
    /// systemd unit from the cgroup path, e.g. `nginx.service`; null if none.
    pub unit: Option<String>,
    /// It is the broker's own VM.
    pub broker: bool,
}

/// Listeners come first in the kernel's tables; this is room for about 1,700 of them, in bytes.
const HEAD: u64 = 256 * 1024;
/// Descriptors below this are looked at one by one where a process has too many to list: listeners are opened at boot.
const LOW_DESCRIPTORS: u32 = 4096;
const NOT_LOOKED_FOR: &str = "the owner was not looked for: it is no port of the broker";

/// Lists the listening sockets and finds those of the broker, epmd and process 1 (which holds epmd's socket under systemd).
/// Other owners are looked for only where they matter: [`find_owners`].
pub fn collect(host: &dyn Host, processes: &Processes) -> Fact<Vec<Socket>> {
    let mut sockets = match listening(host) {
        Ok(sockets) => sockets,
        Err(miss) => return miss.into(),
    };
    let pid = |p: &Fact<Option<super::process::Process>>| p.known().cloned().flatten().map(|p| p.pid);
    let broker = pid(&processes.beam);
    let mut wanted = by_inode(&sockets, |_| true);
    for pid in [broker, pid(&processes.epmd), Some(1)].into_iter().flatten() {
        if let Err(miss) = claim(host, pid, broker, &mut wanted, &mut sockets)
            && Some(pid) == broker
        {
            unknown_owners(&mut sockets, &miss.to_string());
        }
    }
    Fact::Known(sockets)
}

/// Looks through the descriptors of all processes for the owners of these ports, where they are not known yet.
pub fn find_owners(host: &dyn Host, processes: &Processes, sockets: &mut [Socket], ports: &BTreeSet<i64>) {
    let mut wanted = by_inode(sockets, |s| ports.contains(&s.port) && s.owner.why() == Some(NOT_LOOKED_FOR));
    if wanted.is_empty() {
        return;
    }
    let sought: BTreeSet<u64> = wanted.keys().copied().collect();
    let broker = processes.beam.known().cloned().flatten().map(|p| p.pid);
    let hidden = search(host, broker, &mut wanted, sockets);
    for socket in sockets.iter_mut().filter(|s| sought.contains(&s.inode) && s.owner.why() == Some(NOT_LOOKED_FOR)) {
        socket.owner = hidden.as_ref().map_or(Fact::Known(None), |m| m.clone().into());
    }
}

/// Goes through all processes until nothing is wanted any more; the reason why one could not be looked at, if any.
fn search(host: &dyn Host, broker: Option<i64>, wanted: &mut Wanted, sockets: &mut [Socket]) -> Option<Miss> {
    let pids = match host.list(Path::new("/proc")) {
        Ok(names) => names,
        Err(miss) => return Some(miss),
    };
    let mut hidden = None;
    for pid in pids.iter().filter_map(|n| n.parse().ok()) {
        if wanted.is_empty() {
            break;
        }
        match claim(host, pid, broker, wanted, sockets) {
            Err(miss) if !miss.is_absent() => hidden = Some(miss),
            _ => {}
        }
    }
    hidden
}

/// Inode → positions in the list of sockets.
type Wanted = BTreeMap<u64, usize>;

fn by_inode(sockets: &[Socket], keep: impl Fn(&Socket) -> bool) -> Wanted {
    sockets.iter().enumerate().filter(|(_, s)| s.inode != 0 && keep(s)).map(|(i, s)| (s.inode, i)).collect()
}

fn unknown_owners(sockets: &mut [Socket], why: &str) {
    for socket in sockets {
        if socket.owner.why() == Some(NOT_LOOKED_FOR) {
            socket.owner = Fact::Unknown(why.to_owned());
        }
    }
}

/// Gives a process the wanted sockets that it holds.
fn claim(host: &dyn Host, pid: i64, broker: Option<i64>, wanted: &mut Wanted, sockets: &mut [Socket]) -> Got<()> {
    let mut owner = None;
    for descriptor in descriptors(host, pid)? {
        if wanted.is_empty() {
            break;
        }
        let Ok(target) = host.read_link(&descriptor) else { continue };
        let Some(index) = socket_inode(&target).and_then(|inode| wanted.remove(&inode)) else { continue };
        let owner = owner.get_or_insert_with(|| describe(host, pid, Some(pid) == broker));
        if let Some(socket) = sockets.get_mut(index) {
            socket.owner = Fact::Known(Some(owner.clone()));
        }
    }
    Ok(())
}

/// Paths of the descriptors of a process, lowest first. A broker with tens of thousands of connections has too many to list.
fn descriptors(host: &dyn Host, pid: i64) -> Got<Vec<PathBuf>> {
    let dir = PathBuf::from(format!("/proc/{pid}/fd"));
    let mut numbers: Vec<u32> = match host.list(&dir) {
        Ok(names) => names.iter().filter_map(|n| n.parse().ok()).collect(),
        Err(Miss::TooBig { .. }) => (0..LOW_DESCRIPTORS).collect(),
        Err(miss) => return Err(miss),
    };
    numbers.sort_unstable();
    Ok(numbers.into_iter().map(|n| dir.join(n.to_string())).collect())
}

/// `socket:[12345]`
fn socket_inode(target: &Path) -> Option<u64> {
    target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

fn describe(host: &dyn Host, pid: i64, broker: bool) -> Owner {
    let text = |name: &str| read_text(host, format!("/proc/{pid}/{name}")).unwrap_or_default();
    Owner { pid, name: text("comm").trim().to_owned(), unit: unit(&text("cgroup")), broker }
}

/// The unit in `0::/system.slice/nginx.service` (or in the `name=systemd` line of the old hierarchy).
pub(super) fn unit(cgroup: &str) -> Option<String> {
    let units = |line: &str| line.rsplit('/').find(|p| p.ends_with(".service") || p.ends_with(".scope")).map(str::to_owned);
    cgroup.lines().filter(|l| l.starts_with("0::") || l.contains(":name=systemd:")).find_map(units)
}

fn listening(host: &dyn Host) -> Got<Vec<Socket>> {
    let all = host.listeners().or_else(|_| tables(host))?;
    let v4_wildcards: BTreeSet<u16> = all.iter().filter(|l| l.address == Ipv4Addr::UNSPECIFIED).map(|l| l.port).collect();
    // Not told by /proc; then the default counts. No bindv6only: a kernel without IPv6.
    let default_v6_only = optional(read_text(host, "/proc/sys/net/ipv6/bindv6only"))?.is_some_and(|t| t.trim() != "0");
    let dual = |l: &ListeningSocket| {
        l.address == Ipv6Addr::UNSPECIFIED && !l.v6_only.unwrap_or(default_v6_only) && !v4_wildcards.contains(&l.port)
    };
    Ok(all.iter().map(|l| socket(l, dual(l))).collect())
}

/// From /proc; a kernel without IPv6 has no tcp6.
fn tables(host: &dyn Host) -> Got<Vec<ListeningSocket>> {
    let v4 = table(host, "/proc/net/tcp")?;
    let v6 = optional(table(host, "/proc/net/tcp6"))?.unwrap_or_default();
    let listening = |e: TcpNetEntry| ListeningSocket {
        address: e.local_address.ip(),
        port: e.local_address.port(),
        uid: e.uid,
        inode: e.inode,
        v6_only: None,
    };
    Ok(v4.into_iter().chain(v6).map(listening).collect())
}

/// The listening entries of one table.
fn table(host: &dyn Host, path: &str) -> Got<Vec<TcpNetEntry>> {
    let bytes = host.head(Path::new(path), HEAD)?;
    let cut = bytes.len() as u64 >= HEAD;
    let whole = if cut { bytes.iter().rposition(|b| *b == b'\n').map_or(0, |n| n + 1) } else { bytes.len() };
    let info = ExplicitSystemInfo {
        boot_time_secs: 0,
        ticks_per_second: 100,
        page_size: 4096,
        is_little_endian: cfg!(target_endian = "little"),
    };
    let entries = TcpNetEntries::from_buf_read(&bytes[..whole], &info).map_err(|e| Miss::failed(path, e))?.0;
    let all = entries.len();
    let listening: Vec<_> = entries.into_iter().filter(|e| e.state == TcpState::Listen).collect();
    if cut && listening.len() == all {
        return Err(Miss::TooBig { what: path.to_owned(), limit: HEAD });
    }
    Ok(listening)
}

fn socket(listening: &ListeningSocket, dual_stack: bool) -> Socket {
    let address = listening.address;
    Socket {
        address: address.to_string(),
        port: listening.port.into(),
        v6: address.is_ipv6(),
        dual_stack,
        loopback: address.to_canonical().is_loopback(),
        wildcard: address.is_unspecified(),
        uid: listening.uid.into(),
        owner: Fact::Unknown(NOT_LOOKED_FOR.to_owned()),
        inode: listening.inode,
    }
}

#[cfg(test)]
mod tests {
    use super::super::process::{self, tests::BROKER, tests::with_process};
    use super::*;
    use crate::host::fake::Fake;

    const HEADER: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n";

    fn line(local: &str, state: &str, uid: u32, inode: u64) -> String {
        format!("   0: {local} 00000000:0000 {state} 00000000:00000000 00:00000000 00000000 {uid:5}        0 {inode} 1 0\n")
    }

    fn line6(local: &str, uid: u32, inode: u64) -> String {
        let remote = "00000000000000000000000000000000:0000";
        format!("   0: {local} {remote} 0A 00000000:00000000 00:00000000 00000000 {uid:5}        0 {inode} 1 0\n")
    }

    /// beam holds [::]:5672 and 0.0.0.0:25672, systemd holds 0.0.0.0:4369, nginx 127.0.0.1:15672.
    fn host() -> Fake {
        let host = with_process(Fake::new(), 1, "systemd", 0, &["/sbin/init"]);
        let host = with_process(host, 77, "beam.smp", 104, &BROKER);
        let host = with_process(host, 90, "nginx", 33, &["nginx"]);
        let v4 = [
            HEADER.to_owned(),
            line("00000000:6448", "0A", 104, 11),
            line("00000000:1111", "0A", 0, 12),
            line("0100007F:3D38", "0A", 33, 13),
            line("0100007F:3D38", "01", 33, 99),
        ];
        host.file("/proc/net/tcp", v4.concat())
            .file("/proc/net/tcp6", HEADER.to_owned() + &line6("00000000000000000000000000000000:1628", 104, 10))
            .file("/proc/sys/net/ipv6/bindv6only", "0\n")
            .file("/proc/77/cgroup", "0::/system.slice/rabbitmq-server.service\n")
            .file("/proc/90/cgroup", "12:pids:/x\n1:name=systemd:/system.slice/nginx.service\n")
            .link("/proc/77/fd/20", "socket:[10]")
            .link("/proc/77/fd/9", "socket:[11]")
            .link("/proc/1/fd/30", "socket:[12]")
            .link("/proc/90/fd/5", "socket:[13]")
    }

    fn by_port(sockets: &[Socket], port: i64) -> &Socket {
        sockets.iter().find(|s| s.port == port).unwrap()
    }

    #[test]
    fn listeners_and_their_owners_are_found() {
        let host = host();
        let processes = process::collect(&host, &Fact::Known(0));
        let mut sockets = collect(&host, &processes).known().cloned().unwrap();
        assert_eq!(sockets.len(), 4);
        let amqp = by_port(&sockets, 5672);
        assert!(amqp.dual_stack && amqp.wildcard && amqp.v6 && !amqp.loopback);
        let owner = amqp.owner.known().cloned().flatten().unwrap();
        assert_eq!((owner.pid, owner.broker, owner.unit.as_deref()), (77, true, Some("rabbitmq-server.service")));
        assert_eq!(by_port(&sockets, 4369).owner.known().cloned().flatten().map(|o| o.name), Some("systemd".to_owned()));
        assert_eq!(by_port(&sockets, 15672).owner.why(), Some(NOT_LOOKED_FOR));

        find_owners(&host, &processes, &mut sockets, &BTreeSet::from([15672]));
        let owner = by_port(&sockets, 15672).owner.known().cloned().flatten().unwrap();
        assert_eq!((owner.name.as_str(), owner.unit.as_deref(), owner.broker), ("nginx", Some("nginx.service"), false));
    }

    #[test]
    fn what_cannot_be_looked_at_stays_unknown() {
        let host = host().denied("/proc/77/fd").denied("/proc/90/fd");
        let processes = process::collect(&host, &Fact::Known(0));
        let mut sockets = collect(&host, &processes).known().cloned().unwrap();
        assert!(by_port(&sockets, 5672).owner.why().is_some_and(|w| w.starts_with("permission denied")));
        find_owners(&host, &processes, &mut sockets, &BTreeSet::from([15672]));
        assert!(by_port(&sockets, 15672).owner.why().is_some_and(|w| w.starts_with("permission denied")));
    }

    #[test]
    fn a_socket_without_a_process_has_no_owner() {
        let host = host().link("/proc/90/fd/5", "socket:[77777]");
        let processes = process::collect(&host, &Fact::Known(0));
        let mut sockets = collect(&host, &processes).known().cloned().unwrap();
        find_owners(&host, &processes, &mut sockets, &BTreeSet::from([15672]));
        assert_eq!(by_port(&sockets, 15672).owner, Fact::Known(None));
    }

    #[test]
    fn bindv6only_and_an_ipv4_twin_take_dual_stack_away() {
        let processes = Processes { beam: Fact::Known(None), epmd: Fact::Known(None), other_brokers: Fact::Known(vec![]) };
        let only = host().file("/proc/sys/net/ipv6/bindv6only", "1\n");
        assert!(!by_port(collect(&only, &processes).known().unwrap(), 5672).dual_stack);
        let twin = host().file("/proc/net/tcp", HEADER.to_owned() + &line("00000000:1628", "0A", 104, 14));
        assert!(collect(&twin, &processes).known().unwrap().iter().all(|s| !s.dual_stack));
    }

    #[test]
    fn a_busy_broker_is_read_to_the_end_of_its_listeners_only() {
        let connections: String = (0..5000).map(|i| line("0100007F:1628", "01", 104, 1000 + i)).collect();
        let host = host().file("/proc/net/tcp", HEADER.to_owned() + &line("0100007F:1628", "0A", 104, 10) + &connections);
        assert_eq!(table(&host, "/proc/net/tcp").map(|t| t.len()), Ok(1));
    }
}

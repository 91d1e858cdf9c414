//! Two network namespaces: this process is the server (the namespace under test), a thread that has left again was the peer. The
//! peer's interfaces have no addresses: what it sends and reads goes through packet sockets, so that any source can be played.
//!
//! No time-outs: after a batch an ARP request goes out on each interface. IP filters do not see it, and it travels the same queue
//! of the same processor, so that once it is answered whatever came before it has been answered or dropped.

use crate::packet::{self, ACK, Answer, Heard, RST, SYN, Segment};
use anyhow::{Context, Result, bail, ensure};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity, unshare};
use nix::sys::socket::sockopt::{Ipv6V6Only, Linger, RcvBuf, RcvBufForce};
use nix::sys::socket::{
    AddressFamily, Backlog, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, SockaddrIn6, bind, listen, recv, send,
    sendto, setsockopt, socket,
};
use nix::unistd::Pid;
use std::collections::{HashMap, HashSet};
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV6, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

pub const INTERFACES: [&str; 2] = ["eth0", "eth1"];
pub const PORTS: [u16; 10] = [22, 25, 80, 443, 4369, 5671, 5672, 5673, 15672, 25672];
/// Addresses of the server, by interface.
pub const OWN4: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 77, 50, 2), Ipv4Addr::new(10, 77, 60, 2)];
pub const OWN6: [Ipv6Addr; 2] = [Ipv6Addr::new(0xfd77, 0x50, 0, 0, 0, 0, 0, 2), Ipv6Addr::new(0xfd77, 0x60, 0, 0, 0, 0, 0, 2)];
pub const SOURCES4: [&str; 9] = [
    "10.77.50.1",
    "10.77.50.9",
    "10.77.60.9",
    "10.0.0.5",
    "192.168.1.50",
    "172.16.3.4",
    "203.0.113.7",
    "100.64.0.9",
    "10.0.1.77",
];
pub const SOURCES6: [&str; 7] =
    ["fd77:50::1", "fd77:50::9", "fd77:60::9", "2001:db8::5", "2001:db8:1::7", "fd00:1::4", "2a00:1450::99"];
/// Ports from which clients connect.
const FIRST_PORT: u16 = 32768;
const LAST_PORT: u16 = 60999;
/// Answers are read after so many probes, before the socket's buffer is full.
const CHUNK: usize = 48;

/// A connection attempt from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probe {
    /// Index in [`INTERFACES`].
    pub interface: usize,
    pub source: IpAddr,
    pub destination: IpAddr,
    pub port: u16,
}

impl std::fmt::Display for Probe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} → {} port {} in by {}", self.source, self.destination, self.port, INTERFACES[self.interface])
    }
}

/// What a client would have seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Seen {
    /// SYN, SYN-ACK and ACK came through.
    Connected,
    /// No answer to the SYN.
    Nothing,
    Reset,
    /// Type and code.
    Icmp(u8, u8),
    /// The SYN was answered, the ACK was dropped.
    Hangs,
    HangsReset,
    HangsIcmp(u8, u8),
}

struct Link {
    fd: OwnedFd,
    /// The server's end, the peer's end.
    server: [u8; 6],
    peer: [u8; 6],
}

pub struct Net {
    links: Vec<Link>,
    listeners: Vec<TcpListener>,
    /// Accepted connections; closing them sends packets, so that comes after the counters were read.
    waiting: Vec<TcpStream>,
    next_port: u16,
    fences: u8,
    conntrack: OwnedFd,
}

/// Leaves the caller's namespaces; must be called while the process has one thread.
pub fn enter() -> Result<()> {
    let (uid, gid) = (nix::unistd::getuid(), nix::unistd::getgid());
    if uid.is_root() {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).context("unshare")?;
    } else {
        unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)
            .context("user namespaces are not allowed")?;
        std::fs::write("/proc/self/setgroups", "deny")?;
        std::fs::write("/proc/self/uid_map", format!("0 {uid} 1"))?;
        std::fs::write("/proc/self/gid_map", format!("0 {gid} 1"))?;
    }
    // What the program reads of /sys has to be the new namespace's; where that is not allowed it reads nothing wrong that matters.
    use nix::mount::{MsFlags, mount};
    let none: Option<&str> = None;
    let _ = mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none);
    let _ = mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), none);
    Ok(())
}

/// Runs a program with input, in the server's namespace.
pub fn run(program: &str, args: &[&str], input: &str) -> Result<String> {
    use std::io::Write;
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("LC_ALL", "C.UTF-8");
    command.env("XTABLES_LOCKFILE", format!("/tmp/rmq-parity-xtables-{}.lock", std::process::id()));
    let mut child = command.spawn().with_context(|| program.to_owned())?;
    let mut stdin = child.stdin.take().context("stdin")?;
    let text = input.to_owned();
    let writer = std::thread::spawn(move || stdin.write_all(text.as_bytes()));
    let output = child.wait_with_output()?;
    let _ = writer.join();
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} {}: {} {}", args.join(" "), output.status, error.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn sysctl(name: &str, value: &str) -> Result<()> {
    let path = format!("/proc/sys/{name}");
    std::fs::write(&path, value).with_context(|| format!("{path} = {value}"))
}

fn mac(side: u8, number: usize) -> [u8; 6] {
    [2, 0, 0, 0, side, number as u8 + 1]
}

fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|b| format!("{b:02x}")).join(":")
}

impl Net {
    /// Makes interfaces, addresses, neighbours and listeners.
    pub fn new() -> Result<Net> {
        pin();
        quiet()?;
        let server = Pid::this();
        let links = std::thread::spawn(move || peer(server)).join().map_err(|_| anyhow::anyhow!("the peer's thread"))??;
        addresses()?;
        for name in ["all", "default", "eth0", "eth1"] {
            sysctl(&format!("net/ipv4/conf/{name}/rp_filter"), "0")?;
        }
        let listeners = PORTS.iter().map(|port| listener(*port)).collect::<Result<_>>()?;
        let conntrack = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkNetFilter)?;
        let mut net = Net { links, listeners, waiting: Vec::new(), next_port: FIRST_PORT, fences: 0, conntrack };
        // Reports of multicast groups leave shortly after an address was added, and would be counted.
        std::thread::sleep(Duration::from_millis(150));
        net.fence(&mut |_| ())?;
        Ok(net)
    }

    /// Sends every probe's SYN and, where it was answered, the ACK. The answer for each, in their order.
    pub fn probe(&mut self, probes: &[Probe]) -> Result<Vec<Seen>> {
        let mut first: HashMap<u16, Answer> = HashMap::new();
        let ports: Vec<u16> = probes.iter().map(|_| self.port()).collect();
        self.exchange(probes.iter().zip(&ports).map(|(p, port)| (p.interface, syn(p, *port))), &mut first)?;
        let answered = probes.iter().zip(&ports).filter_map(|(p, port)| match first.get(port) {
            Some(Answer::Tcp { flags, sequence, stamp }) if flags & RST == 0 => {
                let mut ack = syn(p, *port);
                ack.flags = ACK;
                ack.sequence += 1;
                ack.acknowledged = sequence.wrapping_add(1);
                ack.stamps.1 = *stamp;
                Some((p.interface, ack))
            }
            _ => None,
        });
        let answered: Vec<_> = answered.collect();
        let mut second: HashMap<u16, Answer> = HashMap::new();
        self.exchange(answered.into_iter(), &mut second)?;
        let accepted = self.accepted()?;
        let seen = probes.iter().zip(&ports).map(|(probe, port)| match (first.get(port), second.get(port)) {
            (None, _) => Seen::Nothing,
            (Some(Answer::Icmp { kind, code }), _) => Seen::Icmp(*kind, *code),
            (Some(Answer::Tcp { flags, .. }), _) if flags & RST != 0 => Seen::Reset,
            _ if accepted.contains(&(probe.source, *port)) => Seen::Connected,
            (_, Some(Answer::Icmp { kind, code })) => Seen::HangsIcmp(*kind, *code),
            (_, Some(Answer::Tcp { .. })) => Seen::HangsReset,
            (_, None) => Seen::Hangs,
        });
        Ok(seen.collect())
    }

    fn port(&mut self) -> u16 {
        let port = self.next_port;
        self.next_port = if port == LAST_PORT { FIRST_PORT } else { port + 1 };
        port
    }

    fn exchange(&mut self, all: impl Iterator<Item = (usize, Segment)>, heard: &mut HashMap<u16, Answer>) -> Result<()> {
        let mut sent = 0;
        let mut keep = |port, answer| {
            heard.entry(port).or_insert(answer);
        };
        for (interface, segment) in all {
            let link = &self.links[interface];
            send(link.fd.as_raw_fd(), &packet::frame(link.server, link.peer, &segment), MsgFlags::empty()).context("send")?;
            sent += 1;
            if sent % CHUNK == 0 {
                self.fence(&mut |h| keep(h.0, h.1))?;
            }
        }
        self.fence(&mut |h| keep(h.0, h.1))
    }

    /// Waits until everything sent so far has been dealt with.
    fn fence(&mut self, heard: &mut dyn FnMut((u16, Answer))) -> Result<()> {
        self.fences = self.fences % 200 + 20;
        let mut missing = Vec::new();
        for (index, link) in self.links.iter().enumerate() {
            let [a, b, c, _] = OWN4[index].octets();
            let sender = Ipv4Addr::new(a, b, c, self.fences);
            send(link.fd.as_raw_fd(), &packet::arp_request(link.peer, sender, OWN4[index]), MsgFlags::empty())?;
            missing.push((index, sender));
        }
        let end = Instant::now() + Duration::from_secs(5);
        let mut buffer = [0; 2048];
        loop {
            for (index, link) in self.links.iter().enumerate() {
                loop {
                    match recv(link.fd.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                        Ok(length) => match packet::read(link.peer, &buffer[..length]) {
                            Some(Heard::Probe { port, answer }) => heard((port, answer)),
                            Some(Heard::Fence { id }) => missing.retain(|m| *m != (index, id)),
                            None => {}
                        },
                        Err(Errno::EAGAIN) => break,
                        Err(Errno::EINTR) => {}
                        Err(error) => bail!("recv: {error}"),
                    }
                }
            }
            if missing.is_empty() {
                return Ok(());
            }
            ensure!(Instant::now() < end, "the ARP fence was lost: something drops ARP, or the receive buffer is too small");
            let mut fds: Vec<PollFd> = self.links.iter().map(|l| PollFd::new(l.fd.as_fd(), PollFlags::POLLIN)).collect();
            let _ = poll(&mut fds, PollTimeout::from(100u8));
        }
    }

    /// Takes what the listeners have accepted: sources with their ports.
    fn accepted(&mut self) -> Result<HashSet<(IpAddr, u16)>> {
        let mut found = HashSet::new();
        for listener in &self.listeners {
            loop {
                match listener.accept() {
                    Ok((stream, from)) => {
                        found.insert((from.ip().to_canonical(), from.port()));
                        self.waiting.push(stream);
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error).context("accept"),
                }
            }
        }
        Ok(found)
    }

    /// Ends all connections, also for conntrack: a port that is used again is no old connection then.
    pub fn forget(&mut self) -> Result<()> {
        self.waiting.clear();
        self.fence(&mut |_| ())?;
        // IPCTNL_MSG_CT_DELETE without a tuple: flush (NFNL_SUBSYS_CTNETLINK is 1); NLM_F_REQUEST | NLM_F_ACK
        let mut bytes = Vec::new();
        bytes.extend(20u32.to_ne_bytes());
        bytes.extend((1u16 << 8 | 2).to_ne_bytes());
        bytes.extend(5u16.to_ne_bytes());
        bytes.extend([0; 8]);
        bytes.extend([0; 4]);
        sendto(self.conntrack.as_raw_fd(), &bytes, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
        let mut answer = [0; 256];
        let length = recv(self.conntrack.as_raw_fd(), &mut answer, MsgFlags::empty())?;
        let code = answer.get(16..20).filter(|_| length >= 20).map_or(-1, |b| i32::from_ne_bytes([b[0], b[1], b[2], b[3]]));
        ensure!(code == 0, "conntrack is not flushed: error {code}");
        Ok(())
    }
}

fn syn(probe: &Probe, source_port: u16) -> Segment {
    Segment {
        source: probe.source,
        destination: probe.destination,
        source_port,
        destination_port: probe.port,
        flags: SYN,
        sequence: 0x1000_0000 + u32::from(source_port),
        acknowledged: 0,
        stamps: (1000 + u32::from(source_port), 0),
    }
}

/// Packets queue per processor: on one they keep their order.
fn pin() {
    let (Ok(allowed), Ok(current)) = (sched_getaffinity(Pid::from_raw(0)), sched_getcpu()) else { return };
    let wanted = std::env::var("PARITY_CPU").ok().and_then(|c| c.parse().ok()).unwrap_or(current);
    if allowed.is_set(wanted).unwrap_or(false) {
        let mut one = CpuSet::new();
        if one.set(wanted).is_ok() {
            let _ = sched_setaffinity(Pid::from_raw(0), &one);
        }
    }
}

/// Nothing may leave or answer by itself, and nothing may be held back for being too frequent.
fn quiet() -> Result<()> {
    for (name, value) in [
        ("net/ipv4/tcp_syncookies", "2"),
        ("net/ipv4/icmp_ratelimit", "0"),
        ("net/ipv4/icmp_ratemask", "0"),
        ("net/ipv6/icmp/ratelimit", "0"),
        ("net/ipv6/conf/default/router_solicitations", "0"),
        ("net/ipv6/conf/default/accept_ra", "0"),
        ("net/ipv6/conf/default/accept_dad", "0"),
        ("net/ipv6/conf/default/addr_gen_mode", "1"),
        ("net/ipv6/conf/default/mldv1_unsolicited_report_interval", "1"),
        ("net/ipv6/conf/default/mldv2_unsolicited_report_interval", "1"),
    ] {
        sysctl(name, value)?;
    }
    for (name, value) in [("net/ipv4/icmp_msgs_per_sec", "1000000"), ("net/ipv4/icmp_msgs_burst", "1000000")] {
        let _ = sysctl(name, value); // of the namespace only in newer kernels, and then not the root's to change
    }
    Ok(())
}

/// In a thread of its own: makes the peer's namespace and the pairs of interfaces, and opens its packet sockets, which stay there.
fn peer(server: Pid) -> Result<Vec<Link>> {
    unshare(CloneFlags::CLONE_NEWNET).context("unshare of the peer")?;
    let own = std::fs::canonicalize("/proc/thread-self").context("/proc/thread-self")?;
    let write = |name: &str, value: &str| std::fs::write(format!("/proc/sys/{name}"), value);
    write("net/ipv6/conf/default/disable_ipv6", "1").with_context(|| own.display().to_string())?;
    let mut links = Vec::new();
    for (number, name) in INTERFACES.iter().enumerate() {
        let (ours, theirs) = (mac(1, number), mac(2, number));
        let (s, p) = (mac_text(ours), mac_text(theirs));
        let peer = format!("peer{number}");
        let add = ["link", "add", &peer, "address", &p, "type", "veth", "peer", "name", name, "address", &s, "netns"];
        run("ip", &[&add[..], &[&server.to_string()]].concat(), "")?;
        run("ip", &["link", "set", &peer, "up"], "")?;
        links.push(Link { fd: packet_socket(&peer)?, server: ours, peer: theirs });
    }
    Ok(links)
}

fn packet_socket(interface: &str) -> Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthAll).context("packet socket")?;
    let link = nix::ifaddrs::getifaddrs()?
        .filter(|a| a.interface_name == interface)
        .find_map(|a| a.address.and_then(|a| a.as_link_addr().copied()))
        .with_context(|| format!("no link address of {interface}"))?;
    bind(fd.as_raw_fd(), &link).context("bind of a packet socket")?;
    let size = 8 << 20;
    setsockopt(&fd, RcvBufForce, &size).or_else(|_| setsockopt(&fd, RcvBuf, &size))?;
    Ok(fd)
}

/// Addresses, routes and neighbours of the server, in one batch.
fn addresses() -> Result<()> {
    let mut batch = String::from("link set lo up\n");
    for (number, name) in INTERFACES.iter().enumerate() {
        batch += &format!("link set {name} multicast off\nlink set {name} up\n");
        batch += &format!("addr add {}/24 dev {name}\naddr add {}/64 dev {name} nodad\n", OWN4[number], OWN6[number]);
        let peer = mac_text(mac(2, number));
        let [a, b, c, _] = OWN4[number].octets();
        for host in 1..=254u8 {
            let address = Ipv4Addr::new(a, b, c, host);
            if address != OWN4[number] {
                batch += &format!("neigh add {address} lladdr {peer} dev {name} nud permanent\n");
            }
        }
        let net = OWN6[number].segments()[1];
        for source in SOURCES6.iter().filter_map(|s| s.parse::<Ipv6Addr>().ok()) {
            if source.segments()[..2] == [0xfd77, net] {
                batch += &format!("neigh add {source} lladdr {peer} dev {name} nud permanent\n");
            }
        }
    }
    batch += "route add default via 10.77.50.1\nroute add default via fd77:50::1\n";
    run("ip", &["-force", "-batch", "-"], &batch)?;
    Ok(())
}

/// Takes IPv4 and IPv6; accepted connections are reset when they are closed.
fn listener(port: u16) -> Result<TcpListener> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Inet6, SockType::Stream, flags, None)?;
    setsockopt(&fd, Ipv6V6Only, &false)?;
    setsockopt(&fd, Linger, &nix::libc::linger { l_onoff: 1, l_linger: 0 })?;
    bind(fd.as_raw_fd(), &SockaddrIn6::from(SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, port, 0, 0)))?;
    listen(&fd, Backlog::new(4096)?)?;
    Ok(TcpListener::from(fd))
}

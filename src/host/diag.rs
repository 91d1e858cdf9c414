//! The kernel's list of listening TCP sockets, asked over netlink (sock_diag, as `ss -tln` does).
//!
//! /proc/net/tcp walks the whole table of connections, most of it empty, to its end: 6 ms on a host with 25 GB of memory. This
//! goes through the listeners only, and says of an IPv6 socket whether it takes IPv4 too.

use super::netlink::{Socket, Stop};
use super::{Connection, ConnectionState, Got, ListeningSocket, Miss};
use crate::formats::cidr::Cidr;
use crate::formats::netlink::{Message, attribute, push_attribute, u32_at};
use nix::sys::socket::SockProtocol;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

const CONNECTIONS: &str = "connections (sock_diag)";
/// Every state but TCP_LISTEN, TCP_NEW_SYN_RECV (12) included.
const CONNECTED: u32 = 0x1fff & !LISTENING & !1;
const INET_DIAG_REQ_BYTECODE: u16 = 1;
/// "The peer's address is in …"
const INET_DIAG_BC_D_COND: u8 = 8;
const WHAT: &str = "listening sockets (sock_diag)";
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const IPPROTO_TCP: u8 = 6;
/// 1 << TCP_LISTEN
const LISTENING: u32 = 1 << 10;
const INET_DIAG_SKV6ONLY: u16 = 11;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// `struct inet_diag_msg`
const MESSAGE: usize = 72;
/// A list that changes while it is read is read again, this often at most.
const TRIES: usize = 3;

/// All listening TCP sockets of this network namespace.
pub fn listeners() -> Got<Vec<ListeningSocket>> {
    // Any error means that this kernel has no such diagnostics; /proc/net/tcp is asked then.
    let failed = |stop: Stop| match stop.miss(WHAT, "permission") {
        Miss::Absent { what } => Miss::failed(what, "not in this kernel"),
        miss => miss,
    };
    let mut socket = Socket::open(SockProtocol::NetlinkSockDiag, WHAT).map_err(failed)?;
    let mut found = Vec::new();
    for family in [AF_INET, AF_INET6] {
        found.extend(of_family(&mut socket, family).map_err(failed)?);
    }
    Ok(found)
}

fn of_family(socket: &mut Socket, family: u8) -> Result<Vec<ListeningSocket>, Stop> {
    let mut end = Err(Stop::Changed);
    for _ in 0..TRIES {
        let mut found = Vec::new();
        let dumped = socket.dump(SOCK_DIAG_BY_FAMILY, &request(family, LISTENING, 0), |m| found.extend(listener(&m)));
        end = dumped.map(|()| found);
        if end != Err(Stop::Changed) {
            break;
        }
    }
    end
}

/// `struct inet_diag_req_v2`, in the machine's byte order.
fn request(family: u8, states: u32, port: u16) -> Vec<u8> {
    const LENGTH: usize = 56;
    let mut bytes = vec![family, IPPROTO_TCP, 0, 0];
    bytes.extend(states.to_ne_bytes());
    bytes.extend(port.to_be_bytes());
    bytes.resize(LENGTH, 0);
    bytes
}

/// TCP connections of a network to a local port; connections over IPv4 to an IPv6 socket included.
pub fn connections(port: u16, from: &Cidr) -> Got<Vec<Connection>> {
    let failed = |stop: Stop| stop.miss(CONNECTIONS, "permission");
    let mut socket = Socket::open(SockProtocol::NetlinkSockDiag, CONNECTIONS).map_err(failed)?;
    let mut found = Vec::new();
    for family in [AF_INET, AF_INET6] {
        let mut request = request(family, CONNECTED, port);
        push_attribute(&mut request, INET_DIAG_REQ_BYTECODE, &peers(from));
        // A connection that comes or goes meanwhile is seen the next time.
        match socket.dump(SOCK_DIAG_BY_FAMILY, &request, |m| found.extend(connection(&m))) {
            Ok(()) | Err(Stop::Changed) => {}
            Err(stop) => return Err(failed(stop)),
        }
    }
    Ok(found)
}

/// The filter "the peer is in this network", as the kernel's socket diagnostics run it (`struct inet_diag_bc_op`,
/// `struct inet_diag_hostcond`): where it does not hold, it jumps beyond its end.
fn peers(from: &Cidr) -> Vec<u8> {
    let (family, address) = match from.address {
        IpAddr::V4(a) => (AF_INET, a.octets().to_vec()),
        IpAddr::V6(a) => (AF_INET6, a.octets().to_vec()),
    };
    let length = 4 + 8 + address.len();
    let byte = |n: usize| u8::try_from(n).unwrap_or(u8::MAX);
    let mut code = vec![INET_DIAG_BC_D_COND, byte(length)];
    code.extend(u16::try_from(length + 4).unwrap_or(u16::MAX).to_ne_bytes());
    code.extend([family, from.prefix, 0, 0]);
    // Any port.
    code.extend((-1i32).to_ne_bytes());
    code.extend(address);
    code
}

fn connection(message: &Message) -> Option<Connection> {
    if message.kind != SOCK_DIAG_BY_FAMILY {
        return None;
    }
    let (head, _) = message.split(MESSAGE)?;
    let state = match head[1] {
        1 => ConnectionState::Established,
        3 | 12 => ConnectionState::Half,
        _ => ConnectionState::Closing,
    };
    let end = |port: usize, at: usize| -> Option<SocketAddr> {
        let port = u16::from_be_bytes(head.get(port..port + 2)?.try_into().ok()?);
        Some(SocketAddr::new(address(head[0], head.get(at..at + 16)?)?.to_canonical(), port))
    };
    Some(Connection { local: end(4, 8)?, peer: end(6, 24)?, state })
}

fn address(family: u8, bytes: &[u8]) -> Option<IpAddr> {
    let bytes: [u8; 16] = bytes.try_into().ok()?;
    match family {
        AF_INET => Some(IpAddr::V4(Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3]))),
        AF_INET6 => Some(IpAddr::V6(Ipv6Addr::from(bytes))),
        _ => None,
    }
}

fn listener(message: &Message) -> Option<ListeningSocket> {
    if message.kind != SOCK_DIAG_BY_FAMILY {
        return None;
    }
    let (head, attributes) = message.split(MESSAGE)?;
    let address = address(head[0], head.get(8..24)?)?;
    let port = u16::from_be_bytes([head[4], head[5]]);
    let v6_only = attribute(attributes, INET_DIAG_SKV6ONLY).and_then(|v| v.first()).map(|v| *v != 0);
    Some(ListeningSocket { address, port, uid: u32_at(head, 64), inode: u32_at(head, 68).into(), v6_only })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_connections_are_seen_with_their_state() {
        let held = std::net::TcpListener::bind("[::]:0").unwrap();
        let port = held.local_addr().unwrap().port();
        let client = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        let from = |cidr: &str| connections(port, &Cidr::parse(cidr).unwrap()).unwrap();
        let seen = from("127.0.0.0/8");
        assert_eq!(seen.len(), 1, "{seen:?}");
        assert_eq!((seen[0].peer, seen[0].state), (client.local_addr().unwrap(), ConnectionState::Established));
        assert_eq!(from("127.0.0.1").len(), 1);
        assert!(from("10.0.0.0/8").is_empty() && from("::1").is_empty());
    }

    #[test]
    fn our_own_listeners_are_seen() {
        let v4 = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = held.local_addr().unwrap().port();
        let all = listeners().unwrap();
        let ours = all.iter().find(|l| l.port == port).unwrap();
        assert_eq!((ours.address, ours.v6_only), (IpAddr::from([127, 0, 0, 1]), None));
        assert!(ours.inode != 0 && ours.uid == nix::unistd::Uid::effective().as_raw());
        assert!(!all.iter().any(|l| l.port == v4.port()), "a closed one is gone");
    }

    #[test]
    fn a_short_message_is_no_listener() {
        for kind in [SOCK_DIAG_BY_FAMILY, 7] {
            let message = Message { kind, flags: 0, body: &[0; 10], whole: &[0; 26] };
            assert!(listener(&message).is_none());
        }
    }
}

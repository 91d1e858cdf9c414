//! The kernel's list of listening TCP sockets, asked over netlink (sock_diag, as `ss -tln` does).
//!
//! /proc/net/tcp walks the whole table of connections, most of it empty, to its end: 6 ms on a host with 25 GB of memory. This
//! goes through the listeners only, and says of an IPv6 socket whether it takes IPv4 too.

use super::netlink::{Socket, Stop};
use super::{Got, ListeningSocket, Miss};
use crate::formats::netlink::{Message, attribute, u32_at};
use nix::sys::socket::SockProtocol;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

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
        let dumped = socket.dump(SOCK_DIAG_BY_FAMILY, &request(family), |message| found.extend(listener(&message)));
        end = dumped.map(|()| found);
        if end != Err(Stop::Changed) {
            break;
        }
    }
    end
}

/// `struct inet_diag_req_v2`, in the machine's byte order.
fn request(family: u8) -> Vec<u8> {
    const LENGTH: usize = 56;
    let mut bytes = vec![family, IPPROTO_TCP, 0, 0];
    bytes.extend(LISTENING.to_ne_bytes());
    bytes.resize(LENGTH, 0);
    bytes
}

fn listener(message: &Message) -> Option<ListeningSocket> {
    if message.kind != SOCK_DIAG_BY_FAMILY {
        return None;
    }
    let (head, attributes) = message.split(MESSAGE)?;
    let source: [u8; 16] = head.get(8..24)?.try_into().ok()?;
    let address = match head[0] {
        AF_INET => IpAddr::V4(Ipv4Addr::new(source[0], source[1], source[2], source[3])),
        AF_INET6 => IpAddr::V6(Ipv6Addr::from(source)),
        _ => return None,
    };
    let port = u16::from_be_bytes([head[4], head[5]]);
    let v6_only = attribute(attributes, INET_DIAG_SKV6ONLY).and_then(|v| v.first()).map(|v| *v != 0);
    Some(ListeningSocket { address, port, uid: u32_at(head, 64), inode: u32_at(head, 68).into(), v6_only })
}

#[cfg(test)]
mod tests {
    use super::*;

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

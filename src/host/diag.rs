//! The kernel's list of listening TCP sockets, asked over netlink (sock_diag, as `ss -tln` does).
//!
//! /proc/net/tcp walks the whole table of connections, most of it empty, to its end: 6 ms on a host with 25 GB of memory. This
//! goes through the listeners only, and says of an IPv6 socket whether it takes IPv4 too.

use super::{Got, ListeningSocket, Miss};
use nix::sys::socket::sockopt::ReceiveTimeout;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, setsockopt, socket,
};
use nix::sys::time::{TimeVal, TimeValLike};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, OwnedFd};

const WHAT: &str = "listening sockets (sock_diag)";
const SOCK_DIAG_BY_FAMILY: u16 = 20;
/// NLM_F_REQUEST | NLM_F_DUMP
const DUMP: u16 = 0x301;
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const IPPROTO_TCP: u8 = 6;
/// 1 << TCP_LISTEN
const LISTENING: u32 = 1 << 10;
const INET_DIAG_SKV6ONLY: u16 = 11;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const HEADER: usize = 16;
/// `struct inet_diag_msg`
const MESSAGE: usize = 72;
/// The kernel fills at most this much at once.
const BUFFER: usize = 64 * 1024;

/// All listening TCP sockets of this network namespace.
pub fn listeners() -> Got<Vec<ListeningSocket>> {
    let failed = |e: nix::errno::Errno| Miss::failed(WHAT, std::io::Error::from(e));
    let protocol = SockProtocol::NetlinkSockDiag;
    let fd = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol).map_err(failed)?;
    setsockopt(&fd, ReceiveTimeout, &TimeVal::seconds(2)).map_err(failed)?;
    let mut found = Vec::new();
    for family in [AF_INET, AF_INET6] {
        sendto(fd.as_raw_fd(), &request(family), &NetlinkAddr::new(0, 0), MsgFlags::empty()).map_err(failed)?;
        collect(&fd, &mut found)?;
    }
    Ok(found)
}

/// netlink header and `struct inet_diag_req_v2`, in the machine's byte order.
fn request(family: u8) -> Vec<u8> {
    const LENGTH: u32 = 16 + 56;
    let mut bytes = Vec::with_capacity(LENGTH as usize);
    bytes.extend(LENGTH.to_ne_bytes());
    bytes.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    bytes.extend(DUMP.to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend([family, IPPROTO_TCP, 0, 0]);
    bytes.extend(LISTENING.to_ne_bytes());
    bytes.resize(LENGTH as usize, 0);
    bytes
}

/// Receives until the end of the dump.
fn collect(fd: &OwnedFd, found: &mut Vec<ListeningSocket>) -> Got<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let length =
            recv(fd.as_raw_fd(), &mut buffer, MsgFlags::empty()).map_err(|e| Miss::failed(WHAT, std::io::Error::from(e)))?;
        if parse(buffer.get(..length).unwrap_or_default(), found)? {
            return Ok(());
        }
    }
}

/// Messages of one datagram; whether the dump is at its end.
fn parse(mut rest: &[u8], found: &mut Vec<ListeningSocket>) -> Got<bool> {
    let broken = |why: &str| Miss::failed(WHAT, why);
    if rest.is_empty() {
        return Err(broken("no answer"));
    }
    while rest.len() >= HEADER {
        let length = u32_at(rest, 0) as usize;
        let message = rest.get(HEADER..length).ok_or_else(|| broken("a message of an impossible length"))?;
        if u16_at(rest, 6) & NLM_F_DUMP_INTR != 0 {
            return Err(broken("the list changed while it was read"));
        }
        match u16_at(rest, 4) {
            NLMSG_DONE => return Ok(true),
            NLMSG_ERROR => return Err(broken(&format!("refused with error {}", u32_at(message, 0).cast_signed()))),
            SOCK_DIAG_BY_FAMILY => found.extend(listener(message)),
            _ => {}
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

fn listener(message: &[u8]) -> Option<ListeningSocket> {
    let (head, attributes) = message.split_at_checked(MESSAGE)?;
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

/// The value of a netlink attribute.
fn attribute(mut rest: &[u8], wanted: u16) -> Option<&[u8]> {
    while rest.len() >= 4 {
        let length = usize::from(u16_at(rest, 0));
        let value = rest.get(4..length)?;
        if u16_at(rest, 2) == wanted {
            return Some(value);
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    None
}

/// 0 where there are not enough bytes.
fn u16_at(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).and_then(|b| b.try_into().ok()).map_or(0, u16::from_ne_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_ne_bytes)
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
    fn broken_answers_are_errors() {
        let mut found = Vec::new();
        assert!(parse(&[], &mut found).is_err());
        assert!(parse(&[255; 20], &mut found).is_err());
        assert!(parse(&[0; 20], &mut found).is_err());
        assert!(listener(&[0; 10]).is_none() && attribute(&[0; 8], 1).is_none());
    }
}

//! The kernel's own dumps of what decides about packets: nf_tables, ipsets, links, addresses and routes.
//!
//! They are handed on as the messages that came, in order and padded, without the ends of the single lists.

use super::netlink::{Socket, Stop};
use super::{Got, Miss, live};
use crate::formats::netlink::{Message, attribute, push_attribute};
use nix::errno::Errno;
use nix::sys::socket::SockProtocol;
use std::path::Path;

const NF_TABLES: &str = "the rules of nf_tables";
const IP_SETS: &str = "ipsets";
const ROUTING: &str = "addresses and routes";
const NET_ADMIN: &str = "CAP_NET_ADMIN (run it as root)";
/// What changes while it is read is read again, this often at most.
const TRIES: usize = 5;

/// `NFNL_SUBSYS_NFTABLES << 8` and the requests of `enum nf_tables_msg_types`
const NFT: u16 = 10 << 8;
const GET_TABLE: u16 = NFT | 1;
const GET_CHAIN: u16 = NFT | 4;
const GET_RULE: u16 = NFT | 7;
const NEW_SET: u16 = NFT | 9;
const GET_SET: u16 = NFT | 10;
const GET_SET_ELEMENTS: u16 = NFT | 13;
const GET_GENERATION: u16 = NFT | 16;
const GET_OBJECT: u16 = NFT | 19;
const GET_FLOWTABLE: u16 = NFT | 23;
const NFTA_SET_TABLE: u16 = 1;
const NFTA_SET_NAME: u16 = 2;
const NFTA_SET_ELEM_LIST_TABLE: u16 = 1;
const NFTA_SET_ELEM_LIST_SET: u16 = 2;
/// `struct nfgenmsg`: family, version, resource id
const NFGENMSG: usize = 4;

/// `NFNL_SUBSYS_IPSET << 8 | IPSET_CMD_LIST`
const IPSET_LIST: u16 = (6 << 8) | 7;
const IPSET_ATTR_PROTOCOL: u16 = 1;
/// Both are spoken by kernels since 4.20, the second by older ones.
const IPSET_PROTOCOLS: [u8; 2] = [7, 6];

const AF_UNSPEC: u8 = 0;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const RTM_GETLINK: u16 = 18;
const RTM_GETADDR: u16 = 22;
const RTM_GETROUTE: u16 = 26;
const RTM_GETRULE: u16 = 34;
const RTM_GETQDISC: u16 = 38;

/// Tables, chains, sets with their elements, rules, objects and flowtables of nf_tables, of one generation: the first and the
/// last message are the generation before and after. The kernel is not asked if it certainly has no nf_tables: asking loads it.
pub fn nf_tables() -> Got<Vec<u8>> {
    if certainly_without("nf_tables") {
        return Err(Miss::Absent { what: "nf_tables in the kernel".to_owned() });
    }
    let mut socket = netfilter(NF_TABLES)?;
    for _ in 0..TRIES {
        match one_generation(&mut socket) {
            Ok(Some(dump)) => return Ok(dump),
            // A set that was listed and is gone; a list that says itself that it changed.
            Ok(None) | Err(Stop::Changed) => {}
            // What is left of the broken-off answer would be taken for the next one.
            Err(stop) => return Err(stop.miss(NF_TABLES, NET_ADMIN)),
        }
        socket = netfilter(NF_TABLES)?;
    }
    Err(Miss::failed(NF_TABLES, "the ruleset changed while it was read"))
}

fn netfilter(what: &'static str) -> Got<Socket> {
    Socket::open(SockProtocol::NetlinkNetFilter, what).map_err(|stop| stop.miss(what, NET_ADMIN))
}

/// `None`: the ruleset changed meanwhile.
fn one_generation(socket: &mut Socket) -> Result<Option<Vec<u8>>, Stop> {
    let mut dump = Vec::new();
    let any = nfgenmsg(AF_UNSPEC);
    socket.ask(GET_GENERATION, &any, |m| keep(&mut dump, &m))?;
    let before = dump.clone();
    for kind in [GET_TABLE, GET_CHAIN] {
        socket.dump(kind, &any, |m| keep(&mut dump, &m))?;
    }
    let mut sets = Vec::new();
    socket.dump(GET_SET, &any, |m| {
        sets.extend(elements_of(&m));
        keep(&mut dump, &m);
    })?;
    for request in sets {
        match socket.dump(GET_SET_ELEMENTS, &request, |m| keep(&mut dump, &m)) {
            Err(Stop::Refused(Errno::ENOENT)) => return Ok(None),
            other => other?,
        }
    }
    socket.dump(GET_RULE, &any, |m| keep(&mut dump, &m))?;
    for kind in [GET_OBJECT, GET_FLOWTABLE] {
        match socket.dump(kind, &any, |m| keep(&mut dump, &m)) {
            Err(Stop::Refused(Errno::EOPNOTSUPP | Errno::EINVAL)) => {}
            other => other?,
        }
    }
    let mut after = Vec::new();
    socket.ask(GET_GENERATION, &any, |m| keep(&mut after, &m))?;
    let same = generation(&before) == generation(&after);
    dump.append(&mut after);
    Ok(same.then_some(dump))
}

fn nfgenmsg(family: u8) -> Vec<u8> {
    vec![family, 0, 0, 0]
}

fn keep(dump: &mut Vec<u8>, message: &Message) {
    dump.extend(message.whole);
    dump.resize(dump.len().next_multiple_of(4), 0);
}

/// The body of the request for a set's elements, from the message that lists the set.
fn elements_of(message: &Message) -> Option<Vec<u8>> {
    let (head, attributes) = message.split(NFGENMSG).filter(|_| message.kind == NEW_SET)?;
    let mut body = nfgenmsg(*head.first()?);
    push_attribute(&mut body, NFTA_SET_ELEM_LIST_TABLE, attribute(attributes, NFTA_SET_TABLE)?);
    push_attribute(&mut body, NFTA_SET_ELEM_LIST_SET, attribute(attributes, NFTA_SET_NAME)?);
    Some(body)
}

/// The number of a generation, as it came.
fn generation(message: &[u8]) -> Option<Vec<u8>> {
    let message = crate::formats::netlink::messages(message).next()?.ok()?;
    attribute(message.split(NFGENMSG)?.1, 1).map(<[u8]>::to_vec)
}

/// All ipsets with their elements.
pub fn ip_sets() -> Got<Vec<u8>> {
    let absent = || Miss::Absent { what: "ipsets in the kernel".to_owned() };
    if certainly_without("ip_set") {
        return Err(absent());
    }
    let mut answer = Err(absent());
    for protocol in IPSET_PROTOCOLS {
        let mut body = nfgenmsg(AF_INET);
        push_attribute(&mut body, IPSET_ATTR_PROTOCOL, &[protocol]);
        answer = again(SockProtocol::NetlinkNetFilter, IP_SETS, &[(IPSET_LIST, body)]);
        match &answer {
            // IPSET_ERR_PROTOCOL is no errno of its own; every other refusal stands.
            Err(miss) if !matches!(miss, Miss::Denied { .. }) => {}
            _ => break,
        }
    }
    answer
}

/// Links, addresses, routes of all tables, routing rules and queueing disciplines.
pub fn routing() -> Got<Vec<u8>> {
    // struct ifinfomsg, ifaddrmsg, rtmsg, fib_rule_hdr, tcmsg: the family, and zeros
    let request = |kind: u16, family: u8, length: usize| {
        let mut body = vec![family];
        body.resize(length, 0);
        (kind, body)
    };
    let requests = [
        request(RTM_GETLINK, AF_UNSPEC, 16),
        request(RTM_GETADDR, AF_UNSPEC, 8),
        request(RTM_GETROUTE, AF_INET, 12),
        request(RTM_GETROUTE, AF_INET6, 12),
        request(RTM_GETRULE, AF_INET, 12),
        request(RTM_GETRULE, AF_INET6, 12),
        request(RTM_GETQDISC, AF_UNSPEC, 20),
    ];
    again(SockProtocol::NetlinkRoute, ROUTING, &requests)
}

/// Dumps, each read again while it changes. What the kernel does not have (IPv6, policy routing) is left out, if there is
/// something else.
fn again(protocol: SockProtocol, what: &'static str, requests: &[(u16, Vec<u8>)]) -> Got<Vec<u8>> {
    let mut all = Vec::new();
    for (kind, body) in requests {
        let mut end = Err(Stop::Changed);
        for _ in 0..TRIES {
            let mut dump = Vec::new();
            end = Socket::open(protocol, what).and_then(|mut socket| socket.dump(*kind, body, |m| keep(&mut dump, &m)));
            if end != Err(Stop::Changed) {
                all.append(&mut dump);
                break;
            }
        }
        match end.map_err(|stop| stop.miss(what, NET_ADMIN)) {
            Err(miss) if miss.is_absent() && requests.len() > 1 => {}
            other => other?,
        }
    }
    Ok(all)
}

/// Whether the kernel certainly lacks a module: it is neither loaded nor built in.
fn certainly_without(module: &str) -> bool {
    let text = |path: &str| live::read(Path::new(path), super::MAX_FILE).ok().and_then(|b| String::from_utf8(b).ok());
    // A built-in one with parameters has a folder there too.
    if Path::new(&format!("/sys/module/{module}")).exists() {
        return false;
    }
    let Some(modules) = text("/proc/modules").filter(|m| !m.trim().is_empty()) else { return false };
    if modules.lines().any(|l| l.strip_prefix(module).is_some_and(|rest| rest.starts_with(' '))) {
        return false;
    }
    let Some(release) = text("/proc/sys/kernel/osrelease") else { return false };
    match text(&format!("/lib/modules/{}/modules.builtin", release.trim())) {
        Some(built_in) => !built_in.contains(&format!("/{module}.ko")),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::netlink::messages;

    #[test]
    fn this_machine_has_a_route_or_at_least_a_loopback_address() {
        let dump = routing().unwrap();
        let kinds: std::collections::BTreeSet<u16> = messages(&dump).map(|m| m.unwrap().kind).collect();
        // RTM_NEWLINK, RTM_NEWADDR
        assert!(kinds.contains(&16) && kinds.contains(&20), "{kinds:?}");
    }

    #[test]
    fn the_ruleset_is_of_one_generation_or_says_why_not() {
        match nf_tables() {
            Ok(dump) => {
                let all: Vec<Message> = messages(&dump).map(Result::unwrap).collect();
                assert!(all.len() >= 2);
                assert_eq!((all[0].kind, all[all.len() - 1].kind), (NFT | 15, NFT | 15));
            }
            Err(Miss::Denied { what }) => assert!(what.contains("CAP_NET_ADMIN")),
            Err(miss) => assert!(miss.is_absent(), "{miss}"),
        }
        assert!(match ip_sets() {
            Ok(dump) => messages(&dump).all(|m| m.is_ok()),
            Err(Miss::Denied { .. }) => true,
            Err(miss) => miss.is_absent(),
        });
    }

    #[test]
    fn the_request_for_the_elements_of_a_set() {
        let mut body = nfgenmsg(2);
        push_attribute(&mut body, NFTA_SET_TABLE, b"t\0");
        push_attribute(&mut body, NFTA_SET_NAME, b"__set0\0");
        let message = |kind| Message { kind, flags: 0, body: &body, whole: &body };
        assert_eq!(elements_of(&message(NEW_SET)), Some(body.clone()));
        assert_eq!(elements_of(&message(NFT)), None);
        assert_eq!(elements_of(&Message { body: &[2, 0], ..message(NEW_SET) }), None);
        assert_eq!((generation(&[]), generation(&[1; 40])), (None, None));
    }
}

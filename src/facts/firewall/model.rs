//! One model for every packet filter of the kernel: base chains by hook and priority, rules as tests and targets.

use super::native::Native;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

/// Everything that decides about a packet, as far as it could be read.
#[derive(Debug, Clone, Default)]
pub struct Model {
    pub tables: Vec<Table>,
    /// Sources that could not be read, for IPv4 or IPv6 (`None`: both): no verdict can be given there.
    pub unread: Vec<Unread>,
    /// Interfaces, addresses, routes and the sysctls that decide with them; `None` when not even addresses could be read.
    pub routing: Option<super::routing::Routing>,
    /// Contents of ipsets by name; a set that a rule names and that is not here is undecided.
    pub ip_sets: BTreeMap<String, Arc<IpSet>>,
    /// Whether bridges hand their packets to the IP hooks (br_netfilter); `None`: not known.
    pub bridged: Option<bool>,
}

/// One ipset (`ipset list`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IpSet {
    /// `hash:ip`, `hash:net,port`, `bitmap:port`, `list:set`, …
    pub kind: String,
    pub v6: bool,
    pub elements: Vec<IpSetElement>,
    /// Why its content cannot be taken as it stands.
    pub doubt: Option<String>,
}

/// One element: a part for each dimension of the set's kind, in its order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IpSetElement {
    pub parts: Vec<IpSetPart>,
    /// An exception (`nomatch`).
    pub nomatch: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IpSetPart {
    /// First and last address.
    Addresses(u128, u128),
    /// Protocol number, first and last port.
    Ports(u8, u16, u16),
    Interface(String),
    Mac([u8; 6]),
    Mark(u32),
    /// Another set (`list:set`).
    Set(String),
}

/// A source of rules that is there and could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unread {
    pub v6: Option<bool>,
    pub why: String,
}

/// Who holds a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Engine {
    IptablesNft,
    IptablesLegacy,
    Nftables,
}

impl Engine {
    pub fn name(self) -> &'static str {
        match self {
            Engine::IptablesNft => "iptables-nft",
            Engine::IptablesLegacy => "iptables-legacy",
            Engine::Nftables => "nftables",
        }
    }
}

/// Address family of a table. Tables of the arp and bridge families never see a routed packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    Ip,
    Ip6,
    Inet,
    Netdev,
}

impl Family {
    pub fn name(self) -> &'static str {
        match self {
            Family::Ip => "ip",
            Family::Ip6 => "ip6",
            Family::Inet => "inet",
            Family::Netdev => "netdev",
        }
    }
    pub fn sees(self, v6: bool) -> bool {
        match self {
            Family::Ip => !v6,
            Family::Ip6 => v6,
            Family::Inet | Family::Netdev => true,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hook {
    Ingress,
    Prerouting,
    Input,
    Forward,
    Output,
    Postrouting,
}

#[derive(Debug, Clone)]
pub struct Table {
    pub engine: Engine,
    pub family: Family,
    pub name: String,
    /// The kernel numbers tables as they are made: of two base chains with one priority the later one runs first.
    pub handle: i64,
    pub chains: Vec<Chain>,
    /// Why it is not certain that the table's chains are hooked at all (a flag that nft printed as garbage).
    pub doubt: Option<String>,
}

impl Table {
    /// `ip filter`, `inet filter`, …
    pub fn title(&self) -> String {
        format!("{} {}", self.family.name(), self.name)
    }
    pub fn chain(&self, name: &str) -> Option<usize> {
        self.chains.iter().position(|c| c.name == name)
    }
}

#[derive(Debug, Clone)]
pub struct Chain {
    pub name: String,
    pub base: Option<Base>,
    pub rules: Vec<Rule>,
}

/// Where a base chain hangs.
#[derive(Debug, Clone)]
pub struct Base {
    pub hook: Hook,
    pub priority: i64,
    pub accept: bool,
    /// Type nat: seen by the first packet of a connection only.
    pub nat: bool,
    pub handle: i64,
    /// Devices of an ingress chain; empty: nft did not print them.
    pub devices: Vec<String>,
}

#[derive(Debug, Clone)]
pub struct Rule {
    /// As its own tool prints it.
    pub text: String,
    /// Position in the chain counted from 1 (iptables) or handle (nftables).
    pub number: i64,
    pub steps: Vec<Step>,
    /// Packets that its counter has seen; `None`: it has none.
    pub packets: Option<u64>,
}

/// One part of a rule, in the kernel's order.
#[derive(Debug, Clone)]
pub enum Step {
    /// An instruction of nf_tables, which works on the rule's registers.
    Native(Native),
    Test(Test),
    /// `mark = (mark & keep) ^ value`; `None`: to something that cannot be foretold.
    SetMark {
        connection: bool,
        change: Option<(u32, u32)>,
    },
    /// The connection's mark into the packet's (`restore`) or the other way round: `to = (to & keep) ^ (from & take)`.
    CopyMark {
        restore: bool,
        keep: u32,
        take: u32,
    },
    /// The packet adds to this ipset or takes from it: what a later test of it says is not known from its content now.
    ChangeSet(String),
    Notrack,
    Go(Target),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    Accept,
    Drop,
    /// With what: `tcp-reset`, `icmp-port-unreachable`, or `icmpx-…`, which means one thing in IPv4 and another in IPv6.
    Reject(String),
    Jump(String),
    Goto(String),
    Return,
    Continue,
    Translate(Translation),
    /// Leaves the ruleset (queue, tproxy) or is of a kind not known here; says which.
    Undecided(String),
}

/// What a rule of type nat does; the first one that a connection meets in a hook ends nat there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Translation {
    pub kind: Nat,
    /// First and last new address; `None`: it stays (with [`Nat::Redirect`], the address of the interface that it came in by).
    pub address: Option<(IpAddr, IpAddr)>,
    /// First and last new port.
    pub port: Option<(u16, u16)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nat {
    Destination,
    Redirect,
    /// Destination into another network of the same size: the bits of `address` that are equal replace its own.
    Netmap,
    /// SNAT and masquerade: the source, which no later test of this packet's way in looks at.
    Source,
}

/// A condition on the packet.
#[derive(Debug, Clone)]
pub enum Test {
    /// The key's value is (not) this part: most tests, held small for rulesets of 100,000 rules.
    Is {
        key: Key,
        part: Part,
        not: bool,
    },
    /// The key's value is (not) in the set.
    In {
        key: Vec<Key>,
        set: Arc<Set>,
        not: bool,
    },
    /// Some of the bits are set (or, with `not`, none).
    AnyBit {
        key: Key,
        bits: u128,
        not: bool,
    },
    Either(Vec<Test>),
    /// The packet is (not) in an ipset (xt_set); for every dimension whether the source's side is looked up.
    IpSet {
        name: String,
        source: Box<[bool]>,
        not: bool,
    },
    /// Rests on state that the ruleset does not hold, or is not known here; says which.
    Undecided(String),
}

impl Test {
    /// One key, one value or range.
    pub fn is(key: Key, part: Part, not: bool) -> Test {
        Test::Is { key, part, not }
    }
}

/// What a test looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Key {
    Source,
    Destination,
    SourcePort,
    DestinationPort,
    /// Destination port before any translation.
    OriginalPort,
    Protocol,
    /// 2 (IPv4) or 10 (IPv6)
    Version,
    InInterface,
    OutInterface,
    CtState,
    CtDirection,
    CtStatus,
    CtMark,
    /// Protocol of the connection, which is not the packet's in an ICMP error.
    CtProtocol,
    /// The connection's addresses and ports before translation ([`Key::OriginalPort`]: the destination port) …
    OriginalSource,
    OriginalDestination,
    OriginalSourcePort,
    /// … and those that its replies come with.
    ReplySource,
    ReplyDestination,
    ReplySourcePort,
    ReplyPort,
    Mark,
    TcpFlags,
    /// Flags and offset of an IPv4 fragment.
    FragmentField,
    IcmpType,
    IcmpCode,
    /// A TCP option of this kind is there: 0 or 1.
    TcpOption(u8),
    /// Of the whole IP packet in bytes.
    Length,
    /// Time to live, or hop limit.
    Ttl,
    /// Type of service (DSCP and ECN), or traffic class.
    Tos,
    /// MAC address that an Ethernet frame came from.
    SourceMac,
    /// 1: handed up by a bridge (br_netfilter).
    Bridged,
    /// Kind of the destination (source) address: RTN_LOCAL and so on.
    DestinationType,
    SourceType,
    /// Kind of an address where only those of the packet's own interface are local (addrtype --limit-iface-in, -out).
    TypeOnInterface {
        source: bool,
        out: bool,
    },
    /// 0: to this host
    PacketType,
    /// The owner of the sending socket: never known for a packet that comes in.
    SocketOwner,
    /// rpfilter: 1 where the way back to the source leaves by the interface it came in by (`loose`: by any).
    ReversePath {
        loose: bool,
        accept_local: bool,
    },
    Masked(Box<Key>, u128),
    Unknown(String),
}

/// A list of alternatives.
#[derive(Debug, Clone, Default)]
pub struct Set {
    pub elements: Vec<Element>,
    /// Why its content cannot be taken as it stands (packets add to it, an ipset, an element not understood).
    pub doubt: Option<String>,
}

impl Set {
    pub fn of(parts: Vec<Part>) -> Set {
        Set { elements: parts.into_iter().map(|p| Element { parts: vec![p] }).collect(), doubt: None }
    }
}

/// One element; more than one part in a concatenation.
#[derive(Debug, Clone)]
pub struct Element {
    pub parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// From … to …, both included. Addresses and ports are numbers.
    Span(u128, u128),
    /// An interface name; a final `*` stands for the rest.
    Name(String),
    Any,
}

/// Bits of `ct state`.
pub mod ct {
    pub const INVALID: u128 = 1;
    pub const ESTABLISHED: u128 = 2;
    pub const RELATED: u128 = 4;
    pub const NEW: u128 = 8;
    pub const UNTRACKED: u128 = 64;
}

/// An address as a number.
pub fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(a) => u128::from(u32::from(a)),
        IpAddr::V6(a) => u128::from(a),
    }
}

/// First and last address of `10.0.0.0/24` or of a plain address, and whether it is IPv6.
pub fn span(text: &str) -> Option<(bool, u128, u128)> {
    let (address, length) = match text.split_once('/') {
        Some((a, l)) => (a, Some(l)),
        None => (text, None),
    };
    let address: IpAddr = address.trim().parse().ok()?;
    let width: u32 = if address.is_ipv6() { 128 } else { 32 };
    let length = match length {
        Some(l) => l.trim().parse::<u32>().ok().filter(|l| *l <= width)?,
        None => width,
    };
    let rest = low_bits(width - length);
    let first = number(address) & !rest;
    Some((address.is_ipv6(), first, first | rest))
}

/// A number whose lowest `count` bits are set.
pub fn low_bits(count: u32) -> u128 {
    if count >= 128 { u128::MAX } else { (1 << count) - 1 }
}

/// Protocol number by name, as iptables and nft print it.
pub fn protocol(name: &str) -> Option<u128> {
    let known = match name {
        "icmp" => 1,
        "igmp" => 2,
        "ipencap" | "ipip" => 4,
        "tcp" => 6,
        "udp" => 17,
        "dccp" => 33,
        "ipv6" => 41,
        "gre" => 47,
        "esp" => 50,
        "ah" => 51,
        "ipv6-icmp" | "icmpv6" | "icmp6" => 58,
        "ospf" => 89,
        "comp" | "ipcomp" => 108,
        "vrrp" => 112,
        "sctp" => 132,
        "udplite" => 136,
        other => return other.parse().ok(),
    };
    Some(known)
}

/// Address types in the kernel's numbering.
pub fn address_type(name: &str) -> Option<u128> {
    ["unspec", "unicast", "local", "broadcast", "anycast", "multicast", "blackhole", "unreachable", "prohibit"]
        .iter()
        .position(|n| n.eq_ignore_ascii_case(name))
        .map(|i| i as u128)
}

/// TCP flag bits by name.
pub fn tcp_flag(name: &str) -> Option<u128> {
    Some(match name.to_ascii_lowercase().as_str() {
        "fin" => 1,
        "syn" => 2,
        "rst" => 4,
        "psh" => 8,
        "ack" => 16,
        "urg" => 32,
        "ecn" | "ece" => 64,
        "cwr" => 128,
        "all" => 63,
        "none" => 0,
        _ => return None,
    })
}

//! What the extensions of iptables mean, whichever way they were read: from text (iptables-save) or from their binary form in an
//! nf_tables rule. The functions append to a rule's steps.

use super::model::*;
use std::net::IpAddr;
use std::sync::Arc;

/// Bits of a conntrack state as xt_conntrack numbers them.
pub mod state {
    pub const INVALID: u16 = 1;
    pub const ESTABLISHED: u16 = 1 << 1;
    pub const RELATED: u16 = 1 << 2;
    pub const NEW: u16 = 1 << 3;
    pub const SNAT: u16 = 1 << 6;
    pub const DNAT: u16 = 1 << 7;
    pub const UNTRACKED: u16 = 1 << 8;
}

pub fn exactly(value: u128) -> Part {
    Part::Span(value, value)
}

pub fn is(out: &mut Vec<Step>, key: Key, part: Part, not: bool) {
    out.push(Step::Test(Test::is(key, part, not)));
}

/// Any of the parts (or, with `not`, none).
pub fn any_of(out: &mut Vec<Step>, key: Key, mut parts: Vec<Part>, not: bool) {
    match (parts.pop(), parts.is_empty()) {
        (Some(only), true) => is(out, key, only, not),
        (last, _) => {
            parts.extend(last);
            out.push(Step::Test(Test::In { key: vec![key], set: Arc::new(Set::of(parts)), not }));
        }
    }
}

pub fn undecided(out: &mut Vec<Step>, why: impl Into<String>) {
    out.push(Step::Test(Test::Undecided(why.into())));
}

/// Always or never: nothing of the packet is asked.
pub fn constant(out: &mut Vec<Step>, holds: bool) {
    if !holds {
        out.push(Step::Test(Test::Either(Vec::new())));
    }
}

/// The key's bits under the mask.
pub fn masked(out: &mut Vec<Step>, key: Key, value: u128, mask: u128, not: bool) {
    is(out, Key::Masked(Box::new(key), mask), exactly(value), not);
}

/// An address under a mask, which need not be a prefix (10.0.0.5/255.0.0.255).
pub fn address(out: &mut Vec<Step>, key: Key, value: u128, mask: u128, v6: bool, not: bool) {
    let all = low_bits(if v6 { 128 } else { 32 });
    let rest = !mask & all;
    if rest & rest.wrapping_add(1) == 0 {
        let first = value & mask;
        is(out, key, Part::Span(first, first | rest), not);
    } else {
        masked(out, key, value & mask, mask & all, not);
    }
}

/// An interface; a final `+` stands for the rest.
pub fn interface(out: &mut Vec<Step>, key: Key, name: &str, not: bool) {
    let part = match name.strip_suffix('+') {
        Some(start) => Part::Name(format!("{start}*")),
        None => Part::Name(name.to_owned()),
    };
    is(out, key, part, not);
}

fn port_parts(ranges: &[(u16, u16)]) -> Vec<Part> {
    ranges.iter().map(|(first, last)| Part::Span((*first).into(), (*last).into())).collect()
}

pub fn ports(out: &mut Vec<Step>, key: Key, ranges: &[(u16, u16)], not: bool) {
    any_of(out, key, port_parts(ranges), not);
}

/// `multiport --ports`: the source's or the destination's.
pub fn either_port(out: &mut Vec<Step>, ranges: &[(u16, u16)], not: bool) {
    if not {
        ports(out, Key::SourcePort, ranges, true);
        ports(out, Key::DestinationPort, ranges, true);
        return;
    }
    let set = Arc::new(Set::of(port_parts(ranges)));
    let one = |key| Test::In { key: vec![key], set: set.clone(), not: false };
    out.push(Step::Test(Test::Either(vec![one(Key::SourcePort), one(Key::DestinationPort)])));
}

pub fn tcp_flags(out: &mut Vec<Step>, mask: u8, value: u8, not: bool) {
    masked(out, Key::TcpFlags, value.into(), mask.into(), not);
}

/// A SYN is never a fragment once conntrack is there, and hardly without.
pub fn fragment(out: &mut Vec<Step>, not: bool) {
    constant(out, not);
}

/// `icmp` and `icmp6`; type 255 stands for any.
pub fn icmp(out: &mut Vec<Step>, kind: u8, codes: (u8, u8), not: bool) {
    if kind == 255 {
        is(out, Key::IcmpType, Part::Any, not);
    } else if codes == (0, 255) {
        is(out, Key::IcmpType, exactly(kind.into()), not);
    } else {
        let parts = vec![exactly(kind.into()), Part::Span(codes.0.into(), codes.1.into())];
        let set = Set { elements: vec![Element { parts }], doubt: None };
        out.push(Step::Test(Test::In { key: vec![Key::IcmpType, Key::IcmpCode], set: Arc::new(set), not }));
    }
}

/// One `-m conntrack` with all its conditions.
#[derive(Debug, Clone, Default)]
pub struct Conntrack {
    /// [`state`] bits, negated.
    pub states: Option<(u16, bool)>,
    /// Its other conditions.
    pub others: Vec<Step>,
}

impl Conntrack {
    /// `--ctstatus`: bits of `enum ip_conntrack_status`.
    pub fn status(&mut self, bits: u16, not: bool) {
        self.others.push(Step::Test(Test::AnyBit { key: Key::CtStatus, bits: bits.into(), not }));
    }

    pub fn direction(&mut self, reply: bool, not: bool) {
        is(&mut self.others, Key::CtDirection, exactly(reply.into()), not);
    }

    pub fn expires(&mut self) {
        undecided(&mut self.others, "conntrack: when the connection expires");
    }

    /// A packet without a connection passes all other conditions as soon as a state is asked for, and none otherwise
    /// (net/netfilter/xt_conntrack.c).
    pub fn finish(self, out: &mut Vec<Step>) {
        let Some((bits, not)) = self.states else {
            out.extend(self.others);
            return;
        };
        let plain = ct_bits(bits);
        let nat = u128::from((bits & (state::SNAT | state::DNAT)) >> 2);
        let states = Test::AnyBit { key: Key::CtState, bits: plain, not };
        let translated = Test::AnyBit { key: Key::CtStatus, bits: nat, not };
        match (nat == 0, not) {
            (true, _) => out.push(Step::Test(states)),
            (false, false) => out.push(Step::Test(Test::Either(vec![states, translated]))),
            (false, true) => {
                out.push(Step::Test(states));
                out.push(Step::Test(Test::Either(vec![no_connection(), translated])));
            }
        }
        out.extend(self.others.into_iter().map(|step| match step {
            Step::Test(test) => Step::Test(Test::Either(vec![no_connection(), test])),
            other => other,
        }));
    }
}

fn no_connection() -> Test {
    Test::AnyBit { key: Key::CtState, bits: ct::INVALID | ct::UNTRACKED, not: false }
}

/// From xt_conntrack's numbering to nf_tables' (of the states that are no translations).
fn ct_bits(bits: u16) -> u128 {
    let pairs = [
        (state::INVALID, ct::INVALID),
        (state::ESTABLISHED, ct::ESTABLISHED),
        (state::RELATED, ct::RELATED),
        (state::NEW, ct::NEW),
        (state::UNTRACKED, ct::UNTRACKED),
    ];
    pairs.iter().filter(|(one, _)| bits & one != 0).map(|(_, bit)| bit).sum()
}

/// `enum ip_conntrack_status` by the names of `--ctstatus`.
pub fn ct_status(name: &str) -> Option<u16> {
    Some(match name.to_ascii_uppercase().as_str() {
        "NONE" => 0,
        "EXPECTED" => 1,
        "SEEN_REPLY" => 2,
        "ASSURED" => 4,
        "CONFIRMED" => 8,
        _ => return None,
    })
}

pub fn ct_state(name: &str) -> Option<u16> {
    Some(match name.to_ascii_uppercase().as_str() {
        "INVALID" => state::INVALID,
        "NEW" => state::NEW,
        "ESTABLISHED" => state::ESTABLISHED,
        "RELATED" => state::RELATED,
        "UNTRACKED" => state::UNTRACKED,
        "SNAT" => state::SNAT,
        "DNAT" => state::DNAT,
        _ => return None,
    })
}

/// One `-m addrtype`: masks of `1 << RTN_…`.
#[derive(Debug, Clone, Default)]
pub struct AddressTypes {
    pub source: Option<(u16, bool)>,
    pub destination: Option<(u16, bool)>,
    pub limit_in: bool,
    pub limit_out: bool,
}

impl AddressTypes {
    pub fn finish(self, out: &mut Vec<Step>, v6: bool) {
        let limited = self.limit_in || self.limit_out;
        for (wanted, source) in [(self.source, true), (self.destination, false)] {
            let Some((mask, not)) = wanted else { continue };
            let key = match (limited, source) {
                (true, _) => Key::TypeOnInterface { source, out: self.limit_out },
                (false, true) => Key::SourceType,
                (false, false) => Key::DestinationType,
            };
            match kinds(mask, v6) {
                Some(kinds) => any_of(out, key, kinds.into_iter().map(exactly).collect(), not),
                None => undecided(out, "addrtype: a combination of address types"),
            }
        }
    }
}

const MULTICAST: u16 = 1 << 5;
const UNICAST: u16 = 1 << 1;
/// LOCAL, ANYCAST, UNREACHABLE: what xt_addrtype asks the IPv6 routes for.
const ROUTED: u16 = 1 << 2 | 1 << 4 | 1 << 7;

/// Address kinds (`RTN_…`) that a mask holds. IPv6 tests what an address is by itself and how it is routed one after the other:
/// a local address is unicast as well.
fn kinds(mask: u16, v6: bool) -> Option<Vec<u128>> {
    let bits = |mask: u16| (0..16).filter(|bit| mask >> bit & 1 == 1).collect();
    if !v6 {
        return Some(bits(mask));
    }
    match (mask & ROUTED, mask & !ROUTED) {
        (routed, 0 | UNICAST) if routed != 0 => Some(bits(routed)),
        (0, UNICAST) => Some(vec![1, 2, 4, 6, 7, 8]),
        (0, MULTICAST | 1) => Some(bits(mask)),
        _ => None,
    }
}

/// `set --match-set`; an unknown name is undecided when it is evaluated.
pub fn ip_set(out: &mut Vec<Step>, name: &str, source: &[bool], not: bool) {
    out.push(Step::Test(Test::IpSet { name: name.to_owned(), source: source.into(), not }));
}

pub fn mark(out: &mut Vec<Step>, connection: bool, value: u32, mask: u32, not: bool) {
    let key = if connection { Key::CtMark } else { Key::Mark };
    masked(out, key, value.into(), mask.into(), not);
}

pub fn packet_type(out: &mut Vec<Step>, kind: u32, not: bool) {
    is(out, Key::PacketType, exactly(kind.into()), not);
}

pub fn mac(out: &mut Vec<Step>, address: [u8; 6], not: bool) {
    let number = address.iter().fold(0, |all, byte| all << 8 | u128::from(*byte));
    is(out, Key::SourceMac, exactly(number), not);
}

/// How `ttl` and `hl` compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    Equal,
    NotEqual,
    Less,
    Greater,
}

pub fn ttl(out: &mut Vec<Step>, order: Order, value: u8) {
    let value = u128::from(value);
    match order {
        Order::Equal => is(out, Key::Ttl, exactly(value), false),
        Order::NotEqual => is(out, Key::Ttl, exactly(value), true),
        Order::Less if value == 0 => constant(out, false),
        Order::Less => is(out, Key::Ttl, Part::Span(0, value - 1), false),
        Order::Greater => is(out, Key::Ttl, Part::Span(value + 1, 256), false),
    }
}

pub fn dscp(out: &mut Vec<Step>, value: u8, not: bool) {
    masked(out, Key::Tos, u128::from(value) << 2, 0xfc, not);
}

/// An option of `physdev`, which a packet that came over no bridge passes only negated.
pub fn physdev(out: &mut Vec<Step>, not: bool) {
    is(out, Key::Bridged, exactly(1), not);
}

pub fn owner(out: &mut Vec<Step>, first: u32, last: u32, not: bool) {
    is(out, Key::SocketOwner, Part::Span(first.into(), last.into()), not);
}

pub fn rpfilter(out: &mut Vec<Step>, loose: bool, accept_local: bool, invert: bool) {
    is(out, Key::ReversePath { loose, accept_local }, exactly(1), invert);
}

/// `helper`: a connection that no helper expected has no parent, hence no name of one.
pub fn helper(out: &mut Vec<Step>, not: bool) {
    constant(out, not);
}

/// `ipv6header`: header bits of a packet without extension headers are those of its payload alone (`MASK_PROTO`).
pub fn ipv6_headers(out: &mut Vec<Step>, wanted: u8, inverted: u8, soft: bool) {
    let found: u8 = 1;
    let holds = match (soft, inverted) {
        (true, _) => (found ^ wanted ^ inverted) & wanted == 0,
        (false, 0) => found == wanted,
        (false, _) => found != wanted,
    };
    constant(out, holds);
}

/// Header bits by the names of `--header`.
pub fn ipv6_header(name: &str) -> Option<u8> {
    Some(match name.to_ascii_lowercase().as_str() {
        "hop-by-hop" | "hop" | "0" => 128,
        "ipv6-opts" | "dst" | "60" => 64,
        "ipv6-route" | "route" | "43" => 32,
        "ipv6-frag" | "frag" | "44" => 16,
        "ah" | "auth" | "51" => 8,
        "esp" | "50" => 4,
        "ipv6-nonxt" | "none" | "59" => 2,
        "prot" | "proto" | "protocol" | "255" => 1,
        _ => return None,
    })
}

/// `recent` in one of its four ways.
#[derive(Debug, Clone, Default)]
pub struct Recent {
    pub name: String,
    /// `--set` notes the sender and always holds.
    pub set: bool,
    pub seconds: u32,
    pub hits: u32,
    pub not: bool,
}

impl Recent {
    pub fn finish(self, out: &mut Vec<Step>) {
        match (self.set, self.hits, self.seconds) {
            (true, ..) => constant(out, !self.not),
            (_, 0, 0) => undecided(out, format!("recent: the list {}", self.name)),
            (_, 0, seconds) => undecided(out, format!("recent: seen in the last {seconds} s")),
            (_, hits, 0) => undecided(out, format!("recent: {hits} hits")),
            (_, hits, seconds) => undecided(out, format!("recent: {hits} hits in {seconds} s")),
        }
    }
}

/// One rate is a token each `period` ten-thousandths of a second (`XT_LIMIT_SCALE`).
pub const RATE_SCALE: u64 = 10_000;

/// `limit: 3/minute`
pub fn limit(out: &mut Vec<Step>, period: u64) {
    undecided(out, format!("limit: {}", rate(period)));
}

fn rate(period: u64) -> String {
    let units = [("second", 1), ("minute", 60), ("hour", 3600), ("day", 86400)];
    let exact = units.iter().find(|(_, seconds)| period != 0 && (seconds * RATE_SCALE).is_multiple_of(period));
    let any = units.iter().find(|(_, seconds)| period != 0 && seconds * RATE_SCALE >= period);
    match exact.or(any) {
        Some((unit, seconds)) => format!("{}/{unit}", seconds * RATE_SCALE / period),
        None => "a rate".to_owned(),
    }
}

/// The period of `3/min`, as user space computes it.
pub fn period(text: &str) -> Option<u64> {
    let (count, unit) = text.split_once('/').unwrap_or((text, "second"));
    let seconds = match unit.chars().next()?.to_ascii_lowercase() {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86400,
        _ => return None,
    };
    (RATE_SCALE * seconds).checked_div(count.parse().ok()?)
}

pub fn hashlimit(out: &mut Vec<Step>, name: &str) {
    undecided(out, format!("hashlimit: the rate in {name}"));
}

/// Matches that hold or not whatever their options say: of other protocols and of headers that an ordinary TCP packet does not
/// have. Without the header not even the negation holds. `None`: not one of these.
pub fn never_tcp(name: &str) -> bool {
    matches!(name, "rt" | "frag" | "hbh" | "dst" | "mh" | "ah" | "esp" | "ipcomp" | "sctp" | "dccp" | "srh" | "l2tp")
}

/// What a match rests on that the ruleset does not hold, or that is not known here.
pub fn rests_on(name: &str) -> String {
    let what = match name {
        "limit" | "hashlimit" => "the rate so far",
        "recent" => "the list of recent senders",
        "connlimit" => "the number of open connections",
        "quota" | "quota2" => "what is left of the quota",
        "statistic" | "random" | "nth" => "chance, or every nth packet",
        "time" => "the time of day",
        "connbytes" => "the traffic of the connection",
        "connlabel" => "labels of the connection",
        "rateest" => "an estimated rate",
        "nfacct" => "an accounting quota",
        "string" => "a text in the packet",
        "u32" | "bpf" => "bytes of the packet",
        "tcpmss" => "the segment size that the client offers",
        "ecn" => "congestion bits of the packet",
        "cpu" => "the processor that handles it",
        "cgroup" => "the control group of the socket",
        "socket" => "an open socket for the packet",
        "policy" => "whether it came through IPsec",
        "osf" => "the client's operating system",
        "geoip" => "the country of an address",
        "cluster" => "the cluster node in charge",
        "realm" => "the routing realm",
        "devgroup" => "the group of the interface",
        "eui64" => "the sender's MAC address",
        "ipvs" => "a connection of IPVS",
        other => return format!("the match {other}"),
    };
    format!("{name}: {what}")
}

/// Targets that let the packet go on to the next rule and change nothing that a test looks at.
const PASSING: [&str; 23] = [
    "LOG",
    "NFLOG",
    "ULOG",
    "TCPMSS",
    "TCPOPTSTRIP",
    "TOS",
    "DSCP",
    "TTL",
    "HL",
    "ECN",
    "TRACE",
    "TEE",
    "AUDIT",
    "CHECKSUM",
    "CLASSIFY",
    "SECMARK",
    "CONNSECMARK",
    "IDLETIMER",
    "RATEEST",
    "LED",
    "ACCOUNT",
    "SNPT",
    "CONTINUE",
];

/// Targets whose options do not matter; `None`: they do, or it is not known here.
pub fn plain_target(name: &str) -> Option<Option<Step>> {
    let undecided = |why: &str| Some(Some(Step::Go(Target::Undecided(format!("{name}: {why}")))));
    match name {
        "ACCEPT" => Some(Some(Step::Go(Target::Accept))),
        "DROP" => Some(Some(Step::Go(Target::Drop))),
        "RETURN" => Some(Some(Step::Go(Target::Return))),
        "NOTRACK" => Some(Some(Step::Notrack)),
        "HMARK" => Some(Some(Step::SetMark { connection: false, change: None })),
        "SYNPROXY" => undecided("the SYN is answered by a proxy"),
        "TPROXY" => undecided("a transparent proxy takes the packet"),
        "QUEUE" => undecided("a program decides"),
        "CLUSTERIP" => undecided("the cluster node in charge"),
        "TARPIT" | "DELUDE" | "CHAOS" => undecided("holds or deludes the client"),
        name if PASSING.contains(&name) => Some(None),
        _ => None,
    }
}

pub fn unknown_target(name: &str) -> Step {
    Step::Go(Target::Undecided(format!("the target {name}")))
}

pub fn queue(bypass: bool) -> Step {
    let why = if bypass { "NFQUEUE: a program decides, if one listens" } else { "NFQUEUE: a program decides" };
    Step::Go(Target::Undecided(why.to_owned()))
}

/// `enum ipt_reject_with`, `enum ip6t_reject_with`
pub fn reject(number: u32, v6: bool) -> Option<Step> {
    let v4_names = [
        "icmp-net-unreachable",
        "icmp-host-unreachable",
        "icmp-proto-unreachable",
        "icmp-port-unreachable",
        "",
        "icmp-net-prohibited",
        "icmp-host-prohibited",
        "tcp-reset",
        "icmp-admin-prohibited",
    ];
    let v6_names = [
        "icmp6-no-route",
        "icmp6-adm-prohibited",
        "",
        "icmp6-addr-unreachable",
        "icmp6-port-unreachable",
        "",
        "tcp-reset",
        "icmp6-policy-fail",
        "icmp6-reject-route",
    ];
    let names = if v6 { v6_names } else { v4_names };
    let name = names.get(usize::try_from(number).ok()?).filter(|n| !n.is_empty())?;
    Some(Step::Go(Target::Reject((*name).to_owned())))
}

/// REJECT by name; the short names are those that the tools take as well.
pub fn reject_named(name: Option<&str>, v6: bool) -> Step {
    let full = match (name, v6) {
        (None, false) => "icmp-port-unreachable",
        (None, true) => "icmp6-port-unreachable",
        (Some("tcp-rst"), _) => "tcp-reset",
        (Some("net-unreach" | "icmp-net-unreach"), false) => "icmp-net-unreachable",
        (Some("host-unreach" | "icmp-host-unreach"), false) => "icmp-host-unreachable",
        (Some("proto-unreach" | "icmp-proto-unreach"), false) => "icmp-proto-unreachable",
        (Some("port-unreach" | "icmp-port-unreach"), false) => "icmp-port-unreachable",
        (Some("net-prohib"), false) => "icmp-net-prohibited",
        (Some("host-prohib"), false) => "icmp-host-prohibited",
        (Some("admin-prohib"), false) => "icmp-admin-prohibited",
        (Some("no-route"), true) => "icmp6-no-route",
        (Some("adm-prohibited" | "icmp6-admin-prohibited"), true) => "icmp6-adm-prohibited",
        (Some("addr-unreach"), true) => "icmp6-addr-unreachable",
        (Some("port-unreach"), true) => "icmp6-port-unreachable",
        (Some("policy-fail"), true) => "icmp6-policy-fail",
        (Some("reject-route"), true) => "icmp6-reject-route",
        (Some(other), _) => other,
    };
    Step::Go(Target::Reject(full.to_owned()))
}

pub fn translate(kind: Nat, address: Option<(IpAddr, IpAddr)>, port: Option<(u16, u16)>) -> Step {
    Step::Go(Target::Translate(Translation { kind, address, port }))
}

/// `mark = (mark & !mask) ^ value`
pub fn set_mark(connection: bool, value: u32, mask: u32) -> Step {
    Step::SetMark { connection, change: Some((!mask, value)) }
}

/// CONNMARK between packet and connection: bits of `to_mask` are replaced by those under `from_mask`.
pub fn copy_mark(restore: bool, from_mask: u32, to_mask: u32) -> Step {
    Step::CopyMark { restore, keep: !to_mask, take: from_mask }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates() {
        for text in ["3/minute", "10/second", "1/day", "100/hour", "7/second"] {
            assert_eq!(rate(period(text).unwrap()), text);
        }
        assert_eq!(rate(period("20/min").unwrap()), "20/minute");
        assert_eq!(period("0/sec"), None);
    }

    #[test]
    fn states_with_translations() {
        let mut out = Vec::new();
        Conntrack { states: Some((state::NEW | state::DNAT, false)), others: Vec::new() }.finish(&mut out);
        let Step::Test(Test::Either(tests)) = &out[0] else { panic!() };
        assert!(matches!(tests[0], Test::AnyBit { key: Key::CtState, bits: ct::NEW, not: false }));
        // IPS_DST_NAT
        assert!(matches!(tests[1], Test::AnyBit { key: Key::CtStatus, bits: 0x20, not: false }));
    }

    #[test]
    fn address_types_of_ipv6() {
        assert_eq!(kinds(1 << 1 | 1 << 2, true), Some(vec![2]));
        assert_eq!(kinds(1 << 1 | 1 << 2, false), Some(vec![1, 2]));
        assert_eq!(kinds(1 << 1, true), Some(vec![1, 2, 4, 6, 7, 8]));
        assert_eq!(kinds(1 << 5 | 1 << 2, true), None);
    }

    #[test]
    fn headers_of_a_packet_without_extension_headers() {
        let holds = |wanted, inverted, soft| {
            let mut out = Vec::new();
            ipv6_headers(&mut out, wanted, inverted, soft);
            out.is_empty()
        };
        assert!(holds(1, 0, false) && holds(1, 0, true));
        assert!(!holds(128, 0, true) && !holds(129, 0, false));
        assert!(holds(128, 255, false));
    }
}

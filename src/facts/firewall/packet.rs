//! The bytes of a packet's headers as far as they are known: RFC 791, 8200, 9293, 792, 4443, 4861, and what Linux and every other
//! system puts into the packets that begin a connection.

use super::native::Base;
use super::verdict::Flight;
use std::borrow::Cow;
use std::net::IpAddr;

pub const PORT: &str = "the client's port";
pub const LENGTH: &str = "the packet's length";

/// A load of header bytes.
pub struct Load {
    pub base: Base,
    pub offset: u32,
    pub len: usize,
}

/// One byte; unknown bits are 0 in `known`.
#[derive(Debug, Clone, Copy)]
pub struct Byte {
    pub value: u8,
    pub known: u8,
    /// What it is, for the reason.
    pub what: &'static str,
    /// This byte and the next one are a number between these two.
    pub number: Option<(u16, u16, &'static str)>,
}

pub struct Got<'a> {
    pub bytes: Cow<'a, [Byte]>,
    /// Why the load itself may fail.
    pub may_fail: Option<&'static str>,
}

pub enum Read<'a> {
    Got(Got<'a>),
    /// Behind the packet's end.
    Missing,
}

const ETHERNET: usize = 14;
const TCP: usize = 20;
/// The longest TCP header.
const TCP_MOST: usize = 60;

fn is(value: u8) -> Byte {
    Byte { value, known: 0xff, what: "", number: None }
}

fn open(what: &'static str) -> Byte {
    Byte { value: 0, known: 0, what, number: None }
}

/// Known but for these bits.
fn part(value: u8, unknown: u8, what: &'static str) -> Byte {
    Byte { value, known: !unknown, what, number: None }
}

fn pair(low: u16, high: u16, what: &'static str) -> [Byte; 2] {
    let [a, b] = low.to_be_bytes();
    if low == high {
        return [is(a), is(b)];
    }
    let differing = (low ^ high).checked_ilog2().map_or(0, |bit| u16::MAX >> (15 - bit));
    let [ua, ub] = differing.to_be_bytes();
    [Byte { number: Some((low, high, what)), ..part(a & !ua, ua, what) }, part(b & !ub, ub, what)]
}

/// Least and greatest length of the whole packet, without the link's header: a TCP header of 20 to 60 bytes without data, or an
/// ICMP error that quotes such a packet, up to 576 bytes (RFC 1812; RFC 4443: 1280) where the quoted one may have held data.
pub fn length(f: &Flight) -> Option<(u32, u32)> {
    let network: u32 = if f.v6 { 40 } else { 20 };
    let (least, most) = (network + 20, network + 60);
    match f.status {
        _ if f.protocol == 6 => Some((least, most)),
        // What conntrack has not confirmed was a SYN.
        Some(status) if status & 8 == 0 => Some((network + 8 + least, network + 8 + most)),
        Some(_) => Some((network + 8 + least, if f.v6 { 1280 } else { 576 })),
        None => None,
    }
}

/// All headers of one packet, made once for all rules that look at them.
pub struct Headers {
    /// Link, network and transport.
    bytes: Vec<Byte>,
    /// Where the network's and the transport's begin.
    network: usize,
    transport: usize,
    /// Bytes of the transport header that are there for certain, and at most.
    sure: usize,
    most: usize,
    tcp: bool,
}

impl Headers {
    pub fn of(f: &Flight) -> Headers {
        let mut bytes = vec![open("a hardware address"); ETHERNET - 2];
        bytes.extend(if f.v6 { [is(0x86), is(0xdd)] } else { [is(0x08), is(0x00)] });
        bytes.extend(network(f));
        let transport_at = bytes.len();
        let (headers, sure, most) = transport(f);
        bytes.extend(headers);
        Headers { bytes, network: ETHERNET, transport: transport_at, sure, most, tcp: f.protocol == 6 }
    }

    /// Reads header bytes (`nft_payload_eval`).
    pub fn read(&self, load: &Load, outgoing: bool) -> Read<'_> {
        let Ok(offset) = usize::try_from(load.offset) else { return Read::Missing };
        let mut may_fail = None;
        let start = match load.base {
            // The TCP header ends where the packet ends: a SYN and a bare ACK hold no data.
            Base::Inner if self.tcp => return Read::Missing,
            Base::Inner => {
                let bytes = vec![open("what the packet holds"); load.len].into();
                return Read::Got(Got { bytes, may_fail: Some("what the packet holds") });
            }
            // It has not been written yet.
            Base::Link if outgoing => return Read::Missing,
            Base::Link => {
                may_fail = Some("the packet's link header");
                offset
            }
            Base::Network => self.network + offset,
            Base::Transport => self.transport + offset,
        };
        let end = start.saturating_add(load.len);
        if end > self.transport + self.most {
            return Read::Missing;
        }
        if end > self.transport + self.sure {
            may_fail = Some("how long the packet's header is");
        }
        let bytes = match self.bytes.get(start..end) {
            Some(bytes) => Cow::Borrowed(bytes),
            None => {
                let at = |i: usize| self.bytes.get(i).copied().unwrap_or(open("a TCP option"));
                Cow::Owned((start..end).map(at).collect())
            }
        };
        Read::Got(Got { bytes, may_fail })
    }
}

fn network(f: &Flight) -> Vec<Byte> {
    let protocol = u8::try_from(f.protocol).unwrap_or(0);
    let mut bytes: Vec<Byte> = Vec::with_capacity(40);
    let size = |less: u32| match length(f) {
        Some((low, high)) => pair((low - less) as u16, (high - less) as u16, LENGTH),
        None => [open(LENGTH), open(LENGTH)],
    };
    if f.v6 {
        bytes.extend([part(0x60, 0x0f, "the traffic class"), open("the traffic class")]);
        bytes.extend([open("the flow label"); 2]);
        bytes.extend(size(40));
        // RFC 4861: neighbour discovery with another hop limit is not accepted.
        let discovery = protocol == 58 && f.icmp_type.is_some_and(|t| (133..=137).contains(&t));
        bytes.extend([is(protocol), if discovery { is(255) } else { open("the hop limit") }]);
    } else {
        bytes.extend([is(0x45), open("the type of service")]);
        bytes.extend(size(0));
        bytes.extend([open("the packet's identification"); 2]);
        // Never a fragment: conntrack puts them together first. Whether DF is set depends on the client.
        bytes.extend([part(0, 0x40, "the don't-fragment bit"), is(0)]);
        bytes.extend([open("the time to live"), is(protocol)]);
        bytes.extend([open("a checksum"); 2]);
    }
    for address in [f.source, f.destination] {
        match address {
            IpAddr::V4(a) => bytes.extend(a.octets().map(is)),
            IpAddr::V6(a) => bytes.extend(a.octets().map(is)),
        }
    }
    bytes
}

/// What is known of the header, how many bytes are there for certain, and at most.
fn transport(f: &Flight) -> (Vec<Byte>, usize, usize) {
    let mut bytes: Vec<Byte> = Vec::with_capacity(TCP);
    if let Some(kind) = f.icmp_type {
        let kind = u8::try_from(kind).unwrap_or(0);
        let discovery = f.v6 && (133..=137).contains(&kind);
        bytes.push(is(kind));
        bytes.push(if discovery { is(0) } else { open("the code of the error message") });
        bytes.extend([open("a checksum"); 2]);
        let sure = if discovery && (135..=136).contains(&kind) { 24 } else { 8 };
        bytes.resize(sure, open("what the ICMP message holds"));
        return (bytes, sure, usize::from(u16::MAX));
    }
    bytes.extend(pair(f.source_port.0, f.source_port.1, PORT));
    bytes.extend(pair(f.destination_port.0, f.destination_port.1, PORT));
    if f.protocol != 6 {
        bytes.resize(8, open("what the packet holds"));
        return (bytes, 8, usize::from(u16::MAX));
    }
    bytes.extend([open("the sequence number"); 4]);
    bytes.extend([open("the acknowledgement number"); 4]);
    // The lowest of the reserved bits may announce accurate ECN.
    bytes.push(part(0, 0xf1, "the length of the TCP header"));
    bytes.push(is(u8::try_from(f.flags & 0xff).unwrap_or(0)));
    bytes.extend([open("the TCP window"); 2]);
    bytes.extend([open("a checksum"); 2]);
    bytes.extend([open("the urgent pointer"); 2]);
    (bytes, TCP, TCP_MOST)
}

/// Addresses and ports of one direction of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tuple {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub source_port: (u16, u16),
    pub destination_port: (u16, u16),
}

impl Tuple {
    /// The other direction of a connection that nothing translates.
    pub fn turned(&self) -> Tuple {
        Tuple {
            source: self.destination,
            destination: self.source,
            source_port: self.destination_port,
            destination_port: self.source_port,
        }
    }
}

/// What conntrack holds for the connection that this packet belongs to.
pub fn tuple(f: &Flight, original: bool) -> &Tuple {
    if original { &f.original } else { &f.answer }
}

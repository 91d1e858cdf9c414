//! Whether a packet is in an ipset, as the kernel's set types look it up (net/netfilter/ipset).

use super::model::{IpSet, IpSetElement, IpSetPart};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Source's or destination's side of a packet.
#[derive(Debug, Clone, Copy)]
pub struct Side<'a> {
    pub address: u128,
    /// First and last possible port.
    pub ports: (u16, u16),
    /// The interface that it came in by is the source's, the one that it leaves by the destination's.
    pub interface: &'a str,
}

/// What a set is asked for.
#[derive(Debug, Clone)]
pub struct Packet<'a> {
    pub v6: bool,
    pub protocol: u128,
    pub icmp: bool,
    /// `None`: not known
    pub mark: Option<u32>,
    /// There certainly is no frame with a sender's address.
    pub no_mac: bool,
    pub source: Side<'a>,
    pub destination: Side<'a>,
}

/// A `list:set` holds sets, which are no lists themselves.
const MAX_DEPTH: u8 = 2;

/// Whether the packet is in the set; `source` says for each dimension which side is looked up. The error says what it rests on.
pub fn holds(sets: &BTreeMap<String, Arc<IpSet>>, name: &str, source: &[bool], packet: &Packet) -> Result<bool, String> {
    within(sets, name, source, packet, MAX_DEPTH)
}

fn within(sets: &BTreeMap<String, Arc<IpSet>>, name: &str, source: &[bool], packet: &Packet, depth: u8) -> Result<bool, String> {
    let Some(set) = sets.get(name) else { return Err(format!("the ipset {name}")) };
    let list = set.kind == "list:set";
    let dimensions = if list { 1 } else { set.kind.split(',').count() };
    // A set of the other family, or of more dimensions than the rule names, holds nothing.
    let family = list || set.kind == "bitmap:port" || set.kind == "hash:mac" || set.v6 == packet.v6;
    if source.len() < dimensions || !family {
        return Ok(false);
    }
    let mut open = set.doubt.clone();
    let mut best: Option<([u128; 2], bool)> = None;
    for element in &set.elements {
        let held = match element.parts.first() {
            Some(IpSetPart::Set(member)) if depth > 0 => within(sets, member, source, packet, depth - 1),
            _ => in_element(element, source, packet),
        };
        match held {
            Ok(true) => {
                // Longer prefixes are looked up first; an exception there hides the wider entry.
                let width = widths(element);
                if best.as_ref().is_none_or(|(other, _)| width < *other) {
                    best = Some((width, element.nomatch));
                }
            }
            Ok(false) => {}
            Err(why) => open = Some(why),
        }
    }
    match (open, best) {
        (Some(why), _) => Err(format!("the ipset {name}: {why}")),
        (None, best) => Ok(best.is_some_and(|(_, nomatch)| !nomatch)),
    }
}

fn widths(element: &IpSetElement) -> [u128; 2] {
    let mut spans = element.parts.iter().filter_map(|p| match p {
        IpSetPart::Addresses(first, last) => Some(last - first),
        _ => None,
    });
    [spans.next().unwrap_or(0), spans.next().unwrap_or(0)]
}

fn in_element(element: &IpSetElement, source: &[bool], packet: &Packet) -> Result<bool, String> {
    let mut open = None;
    for (part, of_source) in element.parts.iter().zip(source) {
        match in_part(part, *of_source, packet) {
            Ok(true) => {}
            Ok(false) => return Ok(false),
            Err(why) => open = Some(why),
        }
    }
    open.map_or(Ok(true), Err)
}

fn in_part(part: &IpSetPart, of_source: bool, packet: &Packet) -> Result<bool, String> {
    let side = if of_source { &packet.source } else { &packet.destination };
    match part {
        IpSetPart::Addresses(first, last) => Ok((first..=last).contains(&&side.address)),
        // bitmap:port names no protocol.
        IpSetPart::Ports(protocol, ..) if *protocol != 0 && u128::from(*protocol) != packet.protocol => Ok(false),
        IpSetPart::Ports(_, first, last) => {
            let (low, high) = side.ports;
            if packet.icmp {
                Err("the ICMP type".to_owned())
            } else if *first <= low && high <= *last {
                Ok(true)
            } else if high < *first || *last < low {
                Ok(false)
            } else {
                Err("the client's port".to_owned())
            }
        }
        IpSetPart::Interface(name) if side.interface.is_empty() || name.is_empty() => Ok(false),
        IpSetPart::Interface(name) => Ok(match name.strip_suffix('*') {
            Some(start) => side.interface.starts_with(start),
            None => side.interface == name,
        }),
        IpSetPart::Mac(_) if packet.no_mac => Ok(false),
        IpSetPart::Mac(_) => Err("the sender's MAC address".to_owned()),
        IpSetPart::Mark(mark) => packet.mark.map(|m| m == *mark).ok_or_else(|| "the packet's mark".to_owned()),
        IpSetPart::Set(_) => Err("a list in a list".to_owned()),
    }
}

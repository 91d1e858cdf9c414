//! The kernel's dump of ipsets ([`crate::host::Host::ip_sets`]) as sets of addresses, ports and what else they hold
//! (include/uapi/linux/netfilter/ipset/ip_set.h). Numbers are big-endian.

use super::model::{IpSet, IpSetElement, IpSetPart, low_bits};
use crate::formats::netlink::{self as nl, attribute, attributes, messages};
use std::collections::BTreeMap;
use std::sync::Arc;

/// `NFNL_SUBSYS_IPSET << 8`; the answers carry the number of the request, IPSET_CMD_LIST or IPSET_CMD_SAVE.
const SUBSYSTEM: u16 = 6 << 8;
const LIST: u16 = SUBSYSTEM | 7;
const SAVE: u16 = SUBSYSTEM | 8;
/// `struct nfgenmsg`
const NFGENMSG: usize = 4;

// Of a set.
const SETNAME: u16 = 2;
const TYPENAME: u16 = 3;
const FAMILY: u16 = 5;
const DATA: u16 = 7;
const ELEMENTS: u16 = 8;
const INDEX: u16 = 11;
// Of what a set was made with.
const MARK_MASK: u16 = 11;
const NETMASK: u16 = 20;
const COUNT: u16 = 24;
const BITMASK: u16 = 27;
// Of an element; a second address has numbers of its own.
const ADDRESS: [u16; 2] = [1, 20];
const ADDRESS_TO: [u16; 2] = [2, 22];
const PREFIX: [u16; 2] = [3, 21];
const PORT: u16 = 4;
const PORT_TO: u16 = 5;
const TIMEOUT: u16 = 6;
const PROTOCOL: u16 = 7;
const FLAGS: u16 = 8;
const MARK: u16 = 10;
const ETHER: u16 = 17;
const NAME: u16 = 18;
const INTERFACE: u16 = 23;

const FLAG_PHYSDEV: u32 = 1 << 1;
const FLAG_NOMATCH: u32 = 1 << 2;
const FLAG_INTERFACE_WILDCARD: u32 = 1 << 7;

const AF_INET6: u8 = 10;

/// All sets, and their names by the number that rules know them by.
#[derive(Debug, Default)]
pub struct IpSets {
    pub sets: BTreeMap<String, Arc<IpSet>>,
    pub names: BTreeMap<u16, String>,
}

/// A set on its way into the model.
struct Draft {
    set: IpSet,
    /// Prefix length that the first address is cut to before it is looked up.
    netmask: Option<u8>,
    /// Elements as the kernel counts them; with time-outs it counts some that are gone.
    count: Option<u32>,
}

/// An error: the dump is not whole.
pub fn read(dump: &[u8]) -> Result<IpSets, String> {
    let mut drafts: BTreeMap<String, Draft> = BTreeMap::new();
    let mut names = BTreeMap::new();
    for message in messages(dump) {
        let message = message.map_err(|broken| broken.to_string())?;
        if !matches!(message.kind, LIST | SAVE) {
            return Err(format!("a message of kind {:#x} does not belong there", message.kind));
        }
        let (_, fields) = message.split(NFGENMSG).ok_or("a message is too short")?;
        if let Some(broken) = attributes(fields).find_map(Result::err) {
            return Err(broken.to_string());
        }
        let name = attribute(fields, SETNAME).map(nl::text).ok_or("a set has no name")?;
        if let Some(kind) = attribute(fields, TYPENAME) {
            drafts.insert(name.clone(), draft(nl::text(kind), fields));
            if let Some(index) = attribute(fields, INDEX).and_then(number).and_then(|n| u16::try_from(n).ok()) {
                names.insert(index, name.clone());
            }
        }
        // A long set goes on in further messages, which have its name only.
        let draft = drafts.get_mut(&name).ok_or_else(|| format!("elements of set {name}, which was not listed"))?;
        for item in attributes(attribute(fields, ELEMENTS).unwrap_or_default()) {
            let item = item.map_err(|broken| broken.to_string())?;
            draft.add(item.value)?;
        }
    }
    let sets = drafts.into_iter().map(|(name, draft)| (name, Arc::new(draft.finished()))).collect();
    Ok(IpSets { sets, names })
}

fn draft(kind: String, fields: &[u8]) -> Draft {
    let made = attribute(fields, DATA).unwrap_or_default();
    let of = |kind: u16| attribute(made, kind);
    let mut doubt = None;
    if of(MARK_MASK).and_then(number).is_some_and(|mask| mask != u64::from(u32::MAX)) {
        doubt = Some("it compares some bits of the mark only".to_owned());
    }
    if of(BITMASK).is_some() {
        doubt = Some("it compares some bits of addresses only".to_owned());
    }
    let netmask = of(NETMASK).and_then(|v| v.first()).copied();
    if netmask.is_some() && !matches!(kind.as_str(), "hash:ip" | "bitmap:ip" | "hash:ip,port") {
        doubt = Some(format!("a netmask of a set of kind {kind}"));
    }
    let v6 = attribute(fields, FAMILY).and_then(|v| v.first()) == Some(&AF_INET6);
    let count = of(COUNT).and_then(number).and_then(|n| u32::try_from(n).ok()).filter(|_| of(TIMEOUT).is_none());
    Draft { set: IpSet { kind, v6, elements: Vec::new(), doubt }, netmask, count }
}

impl Draft {
    fn add(&mut self, fields: &[u8]) -> Result<(), String> {
        if let Some(broken) = attributes(fields).find_map(Result::err) {
            return Err(broken.to_string());
        }
        let flags = attribute(fields, FLAGS).and_then(number).unwrap_or(0) as u32;
        let mut addresses = 0;
        let mut parts = Vec::new();
        let kind = self.set.kind.split_once(':').map_or("", |(_, dimensions)| dimensions);
        for dimension in kind.split(',') {
            let part = match dimension {
                "ip" | "net" if addresses < 2 => {
                    addresses += 1;
                    span(fields, addresses - 1, self.set.v6, self.netmask.filter(|_| addresses == 1))
                }
                "port" => ports(fields),
                "iface" if flags & FLAG_PHYSDEV != 0 => None,
                "iface" => attribute(fields, INTERFACE).map(|v| {
                    let rest = if flags & FLAG_INTERFACE_WILDCARD != 0 { "*" } else { "" };
                    IpSetPart::Interface(nl::text(v) + rest)
                }),
                "mac" => attribute(fields, ETHER).and_then(|v| v.try_into().ok()).map(IpSetPart::Mac),
                "mark" => attribute(fields, MARK).and_then(number).map(|n| IpSetPart::Mark(n as u32)),
                "set" => attribute(fields, NAME).map(|v| IpSetPart::Set(nl::text(v))),
                _ => None,
            };
            match part {
                Some(part) => parts.push(part),
                None => {
                    let why = format!("it has an element of kind {} that is not understood", self.set.kind);
                    self.set.doubt.get_or_insert(why);
                    self.count = self.count.map(|n| n.saturating_sub(1));
                    return Ok(());
                }
            }
        }
        self.set.elements.push(IpSetElement { parts, nomatch: flags & FLAG_NOMATCH != 0 });
        Ok(())
    }

    fn finished(mut self) -> IpSet {
        if self.count.is_some_and(|count| (self.set.elements.len() as u64) < u64::from(count)) {
            self.set.doubt.get_or_insert("its list is cut off".to_owned());
        }
        self.set.elements.shrink_to_fit();
        self.set
    }
}

/// Up to eight bytes.
fn number(bytes: &[u8]) -> Option<u64> {
    (1..=8).contains(&bytes.len()).then(|| bytes.iter().fold(0, |n, b| n << 8 | u64::from(*b)))
}

/// IPSET_ATTR_IPADDR_IPV4 or IPSET_ATTR_IPADDR_IPV6 inside an attribute.
fn address(fields: &[u8], kind: u16, v6: bool) -> Option<u128> {
    let nested = attribute(fields, kind)?;
    match v6 {
        false => attribute(nested, 1)?.try_into().ok().map(|b| u32::from_be_bytes(b).into()),
        true => attribute(nested, 2)?.try_into().ok().map(u128::from_be_bytes),
    }
}

/// The first or second address or network of an element.
fn span(fields: &[u8], which: usize, v6: bool, netmask: Option<u8>) -> Option<IpSetPart> {
    let first = address(fields, ADDRESS[which], v6)?;
    if let Some(last) = address(fields, ADDRESS_TO[which], v6) {
        return (first <= last).then_some(IpSetPart::Addresses(first, last));
    }
    let width: u32 = if v6 { 128 } else { 32 };
    let prefix = match attribute(fields, PREFIX[which]) {
        Some(value) => *value.first()?,
        None => netmask.unwrap_or(width as u8),
    };
    let rest = low_bits(width.checked_sub(prefix.into())?);
    Some(IpSetPart::Addresses(first & !rest, first | rest))
}

fn ports(fields: &[u8]) -> Option<IpSetPart> {
    let of = |kind| attribute(fields, kind).and_then(number).and_then(|n| u16::try_from(n).ok());
    let first = of(PORT)?;
    let protocol = attribute(fields, PROTOCOL).and_then(|v| v.first()).copied().unwrap_or(0);
    Some(IpSetPart::Ports(protocol, first, of(PORT_TO).unwrap_or(first)))
}

//! What translations (DNAT, REDIRECT, SNAT) make of a packet and of the later packets of its connection: net/netfilter/nf_nat_core.c.

use super::model::{Hook, Model, Nat, Translation, number};
use super::packet::Tuple;
use super::verdict::Flight;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Bits of `ct status`.
pub const SOURCE_NAT: u32 = 1 << 4;
pub const DESTINATION_NAT: u32 = 1 << 5;
/// Addresses or ports of a range that are looked at one by one.
const MAX_CHOICES: u128 = 8;

/// What may come of a translation: one element where it is certain.
pub enum Translated {
    To(Vec<Flight>),
    /// Cannot be foretold, and why.
    Unsure(String),
}

/// Whether a hook changes destinations (else sources): HOOK2MANIP.
pub fn of_destination(hook: Hook) -> bool {
    matches!(hook, Hook::Prerouting | Hook::Output)
}

/// The kernel runs all nat chains of a hook at one priority, whatever theirs is; it only orders them among each other.
pub fn priority(hook: Hook) -> i64 {
    if of_destination(hook) { -100 } else { 100 }
}

/// The packet behind a rule that translates.
pub fn translate(model: &Model, hook: Hook, flight: &Flight, to: &Translation) -> Translated {
    let destination = of_destination(hook);
    if (to.kind != Nat::Source) != destination {
        return Translated::To(vec![flight.clone()]);
    }
    let (old, old_port) =
        if destination { (flight.destination, flight.destination_port) } else { (flight.source, flight.source_port) };
    let Some(addresses) = addresses(model, hook, flight, to, old) else {
        let why = match to.kind {
            Nat::Source => "the source address after a translation",
            _ => "the address that a REDIRECT leads to",
        };
        return Translated::Unsure(why.to_owned());
    };
    let Some(addresses) = addresses else {
        return Translated::Unsure("which address of many a translation takes".to_owned());
    };
    let ports: Vec<(u16, u16)> = match to.port {
        None => vec![old_port],
        Some((low, high)) if low == high => vec![(low, low)],
        // A port that is in the range already stays as it is.
        Some((low, high)) if low <= old_port.0 && old_port.1 <= high => vec![old_port],
        Some((low, high)) if u128::from(high.saturating_sub(low)) < MAX_CHOICES => (low..=high).map(|p| (p, p)).collect(),
        Some(_) => return Translated::Unsure("which port of many a translation takes".to_owned()),
    };
    let one = |address: IpAddr, port: (u16, u16)| {
        let mut new = flight.clone();
        if (address, port) == (old, old_port) {
            return new;
        }
        if destination {
            (new.destination, new.destination_port) = (address, port);
            (new.answer.source, new.answer.source_port) = (address, port);
            new.translated |= DESTINATION_NAT;
        } else {
            (new.source, new.source_port) = (address, port);
            (new.answer.destination, new.answer.destination_port) = (address, port);
            new.translated |= SOURCE_NAT;
        }
        new
    };
    Translated::To(addresses.iter().flat_map(|a| ports.iter().map(move |p| (*a, *p))).map(|(a, p)| one(a, p)).collect())
}

/// New addresses; `None`: not known, `Some(None)`: too many.
#[allow(clippy::option_option)]
fn addresses(model: &Model, hook: Hook, flight: &Flight, to: &Translation, old: IpAddr) -> Option<Option<Vec<IpAddr>>> {
    let primary = |interface: &str| model.routing.as_ref().and_then(|r| r.primary(interface, flight.v6));
    match (to.kind, to.address) {
        (Nat::Netmap, Some((first, last))) => Some(Some(vec![mapped(old, first, last)])),
        (_, Some((first, last))) if first == last => Some(Some(vec![first])),
        (_, Some((first, last))) => {
            let (low, high) = (number(first), number(last));
            let all = || (low..=high).map(|n| like(first, n)).collect();
            Some((high.saturating_sub(low) < MAX_CHOICES).then(all))
        }
        (Nat::Redirect, None) if hook == Hook::Output => Some(Some(vec![loopback(flight.v6)])),
        (Nat::Redirect, None) if flight.in_interface == "lo" => Some(Some(vec![loopback(flight.v6)])),
        (Nat::Redirect, None) if flight.v6 => model.routing.as_ref()?.of_scope(&flight.in_interface, old).map(|a| Some(vec![a])),
        (Nat::Redirect, None) => primary(&flight.in_interface).map(|a| Some(vec![a])),
        // Without an address: masquerade has that of the interface that it leaves by, others keep theirs.
        (Nat::Source, None) if to.port.is_none() => primary(&flight.out_interface).map(|a| Some(vec![a])),
        (_, None) => Some(Some(vec![old])),
    }
}

fn loopback(v6: bool) -> IpAddr {
    if v6 { Ipv6Addr::LOCALHOST.into() } else { Ipv4Addr::LOCALHOST.into() }
}

fn like(model: IpAddr, value: u128) -> IpAddr {
    match model {
        IpAddr::V4(_) => IpAddr::V4(u32::try_from(value).unwrap_or(u32::MAX).into()),
        IpAddr::V6(_) => IpAddr::V6(value.into()),
    }
}

/// NETMAP: the bits that first and last address have in common, then the packet's own.
fn mapped(old: IpAddr, first: IpAddr, last: IpAddr) -> IpAddr {
    let net = !(number(first) ^ number(last));
    let new = (number(first) & net) | (number(old) & !net);
    if u32::try_from(new).is_err() && old.is_ipv4() { old } else { like(old, new) }
}

/// What conntrack itself does with a later packet of a translated connection when it passes this hook; `None`: nothing.
pub fn follow(hook: Hook, flight: &Flight) -> Option<Flight> {
    let destination = of_destination(hook);
    // In replies the two change places.
    let wanted = if destination != flight.reply { DESTINATION_NAT } else { SOURCE_NAT };
    if flight.translated & wanted == 0 || hook == Hook::Forward || hook == Hook::Ingress {
        return None;
    }
    let mut new = flight.clone();
    // Addresses become those of the other direction, turned round.
    let other: &Tuple = if flight.reply { &flight.original } else { &flight.answer };
    if destination {
        (new.destination, new.destination_port) = (other.source, other.source_port);
    } else {
        (new.source, new.source_port) = (other.destination, other.destination_port);
    }
    (new != *flight).then_some(new)
}

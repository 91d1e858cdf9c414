//! Which parts of a network of clients a rule of nf_tables can tell apart: where the client's address is loaded, and what it is
//! compared with.

use super::model::{Hook, IpSetPart, Key, Model, Part, Step, Table, Target, Test};
use super::native::{Base, Bitwise, Compare, Data, Element, Native, Set, Slot, fib};
use super::vm::keys;
use std::collections::HashMap;

/// What rules tell apart.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bounds {
    /// First and last address of ranges whose inside and outside may be treated differently.
    pub ranges: Vec<(u128, u128)>,
    /// The routes to the clients decide as well.
    pub routes: bool,
    /// The address goes into something that does not tell ranges apart (a mask with holes, a mark): any two clients may differ.
    pub unclear: bool,
}

/// Where a byte of a register comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    Other,
    Known(u8),
    /// `meta l4proto` and its like.
    Protocol,
    /// Byte of the client's address, and the mask that it went through.
    Client(usize, u8),
    /// Made from the client's address.
    Mixed,
}

/// Of packets from the client (`incoming`) or to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Side {
    pub v6: bool,
    pub incoming: bool,
}

impl Side {
    fn len(self) -> usize {
        if self.v6 { 16 } else { 4 }
    }
    /// Offset of the client's address in the IP header.
    fn offset(self) -> usize {
        match (self.v6, self.incoming) {
            (false, true) => 12,
            (false, false) => 16,
            (true, true) => 8,
            (true, false) => 24,
        }
    }
}

struct Pass<'a> {
    side: Side,
    file: [Origin; 64],
    bounds: &'a mut Bounds,
}

/// Adds what one rule tells apart.
pub fn of_rule<'a>(rule: impl Iterator<Item = &'a Native>, side: Side, bounds: &mut Bounds) {
    let mut pass = Pass { side, file: [Origin::Other; 64], bounds };
    for native in rule {
        if !pass.step(native) {
            return;
        }
    }
}

impl Pass<'_> {
    /// `false`: the rest of the rule does not concern these packets.
    fn step(&mut self, native: &Native) -> bool {
        match native {
            Native::Payload { base, offset, len, to } => self.payload(*base, *offset, usize::from(*len), *to),
            Native::Meta { key, to } => self.meta(*key, *to),
            Native::Ct { key, direction, to } => self.ct(*key, *direction, *to),
            Native::Immediate { to, data } => {
                let origins: Vec<Origin> = data.iter().map(|b| Origin::Known(*b)).collect();
                self.put(*to, &origins);
            }
            Native::Compare { from, op, data } => return self.compare(*from, *op, data),
            Native::Range { from, low, high, .. } => self.range(*from, low, high),
            Native::Bitwise { from, to, len, op } => self.bitwise(*from, *to, usize::from(*len), op),
            Native::ByteOrder { from, to, len, .. } => self.muddle(*from, *to, usize::from(*len)),
            Native::Lookup { set, from, to, .. } => {
                self.lookup(set, *from);
                if let Some(to) = to {
                    let len = set.elements.iter().filter_map(Element::data_len).max().unwrap_or(16);
                    self.put(*to, &vec![Origin::Other; len]);
                }
            }
            Native::Fib { flags, to, .. } => {
                let of_client = if self.side.incoming { fib::SADDR } else { fib::DADDR };
                self.bounds.routes |= flags & of_client != 0;
                self.put(*to, &[Origin::Other; 16]);
            }
            Native::MetaSet { from, .. } | Native::CtSet { from, .. } => self.taint(*from, 4),
            Native::Nat { address, port, .. } => {
                for (low, high) in [address, port].into_iter().flatten() {
                    self.taint(*low, 4);
                    self.taint(*high, 4);
                }
            }
            Native::TcpOption { len, to, .. } | Native::Ipv6Extension { len, to, .. } | Native::LoadUnknown { len, to, .. } => {
                self.put(*to, &vec![Origin::Other; usize::from(*len)])
            }
            Native::Perhaps { .. }
            | Native::SetUpdate { .. }
            | Native::Counter
            | Native::Notrack
            | Native::Nothing
            | Native::Go(_) => {}
        }
        true
    }

    fn at(slot: Slot, len: usize) -> std::ops::Range<usize> {
        let start = (usize::from(slot) * 4).min(64);
        start..(start + len).min(64)
    }

    fn get(&self, from: Slot, len: usize) -> Vec<Origin> {
        self.file[Self::at(from, len)].to_vec()
    }

    /// The rest of the last register becomes zero.
    fn put(&mut self, to: Slot, origins: &[Origin]) {
        for (i, at) in Self::at(to, origins.len().next_multiple_of(4)).enumerate() {
            self.file[at] = origins.get(i).copied().unwrap_or(Origin::Known(0));
        }
    }

    fn payload(&mut self, base: Base, offset: u32, len: usize, to: Slot) {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let start = match base {
            Base::Network => Some(start),
            Base::Link => start.checked_sub(14),
            Base::Transport | Base::Inner => None,
        };
        let origin = |at: usize| {
            if (self.side.offset()..self.side.offset() + self.side.len()).contains(&at) {
                return Origin::Client(at - self.side.offset(), 0xff);
            }
            if at == if self.side.v6 { 6 } else { 9 } { Origin::Protocol } else { Origin::Other }
        };
        let origins: Vec<Origin> = (0..len).map(|i| start.and_then(|s| s.checked_add(i)).map_or(Origin::Other, origin)).collect();
        self.put(to, &origins);
    }

    fn meta(&mut self, key: u32, to: Slot) {
        let v6 = self.side.v6;
        match key {
            keys::meta::NFPROTO => self.put(to, &[Origin::Known(if v6 { 10 } else { 2 })]),
            keys::meta::PROTOCOL => {
                let bytes: [u8; 2] = if v6 { [0x86, 0xdd] } else { [0x08, 0x00] };
                self.put(to, &bytes.map(Origin::Known));
            }
            keys::meta::L4PROTO => self.put(to, &[Origin::Protocol]),
            keys::meta::IIFNAME | keys::meta::OIFNAME | keys::meta::IIFKIND | keys::meta::OIFKIND => {
                self.put(to, &[Origin::Other; 16]);
            }
            _ => self.put(to, &[Origin::Other; 8]),
        }
    }

    fn ct(&mut self, key: u32, direction: Option<u8>, to: Slot) {
        use keys::ct::*;
        // The client began the connection: it is the source of the original direction and the destination of the other one.
        let client = match key {
            SRC | SRC_IP | SRC_IP6 => direction != Some(1),
            DST | DST_IP | DST_IP6 => direction == Some(1),
            _ => false,
        };
        let origins: Vec<Origin> = match key {
            _ if client => (0..self.side.len()).map(|i| Origin::Client(i, 0xff)).collect(),
            SRC | DST | SRC_IP6 | DST_IP6 | HELPER | LABELS => vec![Origin::Other; 16],
            _ => vec![Origin::Other; 8],
        };
        self.put(to, &origins);
    }

    /// The client's address in a value: where it starts in it, how many leading bytes of it are there, and its mask. `None`: nothing
    /// of it is there (or, noted, it is there in another shape).
    fn client(&mut self, value: &[Origin]) -> Option<(usize, usize, u128)> {
        if value.contains(&Origin::Mixed) {
            self.bounds.unclear = true;
            return None;
        }
        let first = value.iter().position(|o| matches!(o, Origin::Client(..)))?;
        let mut mask = 0u128;
        let mut len = 0;
        for origin in &value[first..] {
            match origin {
                Origin::Client(i, byte) if *i == len => mask = mask << 8 | u128::from(*byte),
                _ => break,
            }
            len += 1;
        }
        let all = value.iter().filter(|o| matches!(o, Origin::Client(..))).count();
        let mask = if len == 0 { 0 } else { mask << (8 * (self.side.len() - len)) };
        let rest = self.rest(mask);
        // What is left of the address must be its beginning.
        if len == 0 || len != all || rest & rest.wrapping_add(1) != 0 {
            self.bounds.unclear = true;
            return None;
        }
        Some((first, len, mask))
    }

    fn all(&self) -> u128 {
        if self.side.v6 { u128::MAX } else { u128::from(u32::MAX) }
    }

    /// Bits of an address that a mask leaves out.
    fn rest(&self, mask: u128) -> u128 {
        !mask & self.all()
    }

    /// The address whose first bytes stand in a constant.
    fn number(&self, bytes: &[u8], (first, len, _): (usize, usize, u128)) -> u128 {
        let part = bytes.get(first..first + len).unwrap_or_default();
        let number = part.iter().fold(0u128, |n, b| n << 8 | u128::from(*b));
        if part.is_empty() { 0 } else { number << (8 * (self.side.len() - len)) }
    }

    fn found(&mut self, low: u128, high: u128, mask: u128) {
        let rest = self.rest(mask);
        self.bounds.ranges.push((low & !rest, high | rest));
    }

    fn compare(&mut self, from: Slot, op: Compare, data: &[u8]) -> bool {
        let value = self.get(from, data.len());
        let known: Option<Vec<u8>> = value
            .iter()
            .map(|o| match o {
                Origin::Known(byte) => Some(*byte),
                _ => None,
            })
            .collect();
        if let Some(known) = known {
            return match op {
                Compare::Equal => known == data,
                Compare::NotEqual => known != data,
                _ => true,
            };
        }
        if let ([Origin::Protocol], Compare::Equal, [protocol]) = (&value[..], op, data) {
            return matches!(*protocol, 1 | 6 | 58);
        }
        if let Some(place) = self.client(&value) {
            let number = self.number(data, place);
            self.found(number, number, place.2);
        }
        true
    }

    fn range(&mut self, from: Slot, low: &[u8], high: &[u8]) {
        let value = self.get(from, low.len());
        if let Some(place) = self.client(&value) {
            let (low, high) = (self.number(low, place), self.number(high, place));
            self.found(low, high, place.2);
        }
    }

    fn lookup(&mut self, set: &Set, from: Slot) {
        let value = self.get(from, set.key_len);
        let Some(place) = self.client(&value) else { return };
        let last = self.all();
        for element in set.elements.iter().filter(|e| !e.catch_all) {
            let low = self.number(&element.key, place);
            let rest = self.rest(place.2);
            if let Some(end) = &element.key_end {
                let high = self.number(end, place);
                self.found(low, high, place.2);
            } else if set.interval && set.fields.is_empty() {
                // A boundary: what is below it may be treated differently from what is not.
                let at = if low & rest == 0 { Some(low) } else { (low | rest).checked_add(1) };
                self.bounds.ranges.extend(at.map(|at| (at, last)));
            } else {
                self.found(low, low, place.2);
            }
        }
    }

    fn bitwise(&mut self, from: Slot, to: Slot, len: usize, op: &Bitwise) {
        match op {
            Bitwise::MaskXor { mask, xor } => {
                let origins = self.get(from, len);
                let bit = |of: &[u8], i: usize| of.get(i).copied().unwrap_or(0);
                let masked: Vec<Origin> = origins
                    .into_iter()
                    .enumerate()
                    .map(|(i, origin)| match (origin, bit(mask, i), bit(xor, i)) {
                        // Bytes behind the prefix stay bytes of the address, with an empty mask.
                        (Origin::Client(at, m), mask, 0) => Origin::Client(at, m & mask),
                        (_, 0, xor) => Origin::Known(xor),
                        (Origin::Client(..), ..) => Origin::Mixed,
                        (Origin::Known(b), mask, xor) => Origin::Known(b & mask ^ xor),
                        (Origin::Protocol, ..) => Origin::Other,
                        (same, ..) => same,
                    })
                    .collect();
                self.put(to, &masked);
            }
            Bitwise::ShiftLeft(_) | Bitwise::ShiftRight(_) => self.muddle(from, to, len),
            Bitwise::And(other) | Bitwise::Or(other) | Bitwise::Xor(other) => {
                let tainted = |o: &Origin| matches!(o, Origin::Client(..) | Origin::Mixed);
                let mixed = self.get(from, len).iter().chain(&self.get(*other, len)).any(tainted);
                self.put(to, &vec![if mixed { Origin::Mixed } else { Origin::Other }; len]);
            }
        }
    }

    /// What comes out of an operation that mixes bytes.
    fn muddle(&mut self, from: Slot, to: Slot, len: usize) {
        let mixed = self.get(from, len).iter().any(|o| matches!(o, Origin::Client(..) | Origin::Mixed));
        self.put(to, &vec![if mixed { Origin::Mixed } else { Origin::Other }; len]);
    }

    /// The value is kept where later packets or rules see it.
    fn taint(&mut self, from: Slot, len: usize) {
        if self.get(from, len).iter().any(|o| matches!(o, Origin::Client(..) | Origin::Mixed)) {
            self.bounds.unclear = true;
        }
    }
}

/// Sets of sets in one another; the kernel allows one level.
const MAX_SETS: usize = 4;

/// Adds what one test of iptables tells apart: the source of what comes in, the destination of what goes out.
pub fn of_test(test: &Test, model: &Model, incoming: bool, bounds: &mut Bounds) {
    let client = |key: &Key| match key {
        Key::Source => incoming,
        Key::Destination => !incoming,
        key => matches!(key, Key::OriginalSource | Key::ReplyDestination),
    };
    let mut key_of = |key: &Key| match key {
        // Masks that leave the beginning of an address are ranges by now.
        Key::Masked(inner, _) if client(inner) => bounds.unclear = true,
        Key::SourceType | Key::ReversePath { .. } if incoming => bounds.routes = true,
        Key::DestinationType if !incoming => bounds.routes = true,
        Key::TypeOnInterface { source, .. } if *source == incoming => bounds.routes = true,
        _ => {}
    };
    match test {
        Test::Is { key, part, .. } => {
            key_of(key);
            if let Part::Span(low, high) = part
                && client(key)
            {
                bounds.ranges.push((*low, *high));
            }
        }
        Test::In { key, set, .. } => {
            key.iter().for_each(&mut key_of);
            for (field, _) in key.iter().enumerate().filter(|(_, k)| client(k)) {
                let spans = set.elements.iter().filter_map(|e| match e.parts.get(field) {
                    Some(Part::Span(low, high)) => Some((*low, *high)),
                    _ => None,
                });
                bounds.ranges.extend(spans);
            }
        }
        Test::AnyBit { key, .. } => {
            key_of(key);
            bounds.unclear |= client(key);
        }
        Test::Either(tests) => tests.iter().for_each(|test| of_test(test, model, incoming, bounds)),
        Test::IpSet { name, source, .. } => of_ip_set(name, source, model, incoming, MAX_SETS, bounds),
        Test::Undecided(_) => {}
    }
}

fn of_ip_set(name: &str, source: &[bool], model: &Model, incoming: bool, depth: usize, bounds: &mut Bounds) {
    let Some(set) = model.ip_sets.get(name).filter(|_| depth > 0) else { return };
    for element in &set.elements {
        for (dimension, part) in element.parts.iter().enumerate() {
            match part {
                IpSetPart::Addresses(low, high) if source.get(dimension) == Some(&incoming) => bounds.ranges.push((*low, *high)),
                IpSetPart::Set(inner) => of_ip_set(inner, source, model, incoming, depth - 1, bounds),
                _ => {}
            }
        }
    }
}

/// Chains that packets from the client (`true`) and to it (`false`) can get into.
pub fn chains(table: &Table) -> Vec<(usize, bool)> {
    let mut found: Vec<(usize, bool)> = Vec::new();
    let mut seen = vec![[false; 2]; table.chains.len()];
    let by_name: HashMap<&str, usize> = table.chains.iter().enumerate().map(|(i, c)| (c.name.as_str(), i)).collect();
    for (i, chain) in table.chains.iter().enumerate() {
        let Some(base) = &chain.base else { continue };
        let incoming = !matches!(base.hook, Hook::Output | Hook::Postrouting);
        found.push((i, incoming));
        seen[i][usize::from(incoming)] = true;
    }
    let mut at = 0;
    while let Some((chain, incoming)) = found.get(at).copied() {
        at += 1;
        for step in table.chains[chain].rules.iter().flat_map(|r| &r.steps) {
            jumps(step, &mut |name| {
                let next = by_name.get(name).filter(|n| !seen[**n][usize::from(incoming)]);
                if let Some(next) = next {
                    seen[*next][usize::from(incoming)] = true;
                    found.push((*next, incoming));
                }
            });
        }
    }
    found
}

/// Names of the chains that a step may lead to.
fn jumps(step: &Step, found: &mut dyn FnMut(&str)) {
    let mut of = |target: &Target| {
        if let Target::Jump(name) | Target::Goto(name) = target {
            found(name);
        }
    };
    match step {
        Step::Go(target) | Step::Native(Native::Go(target)) => of(target),
        Step::Native(Native::Lookup { set, .. }) => {
            for element in &set.elements {
                if let Some(Data::Verdict(target)) = &element.data {
                    of(target);
                }
            }
        }
        _ => {}
    }
}

impl Element {
    fn data_len(&self) -> Option<usize> {
        match &self.data {
            Some(Data::Value(value)) => Some(value.len()),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V4: Side = Side { v6: false, incoming: true };

    fn told(rule: &[Native], side: Side) -> Bounds {
        let mut bounds = Bounds::default();
        of_rule(rule.iter(), side, &mut bounds);
        bounds
    }
    fn load(offset: u32, len: u8) -> Native {
        Native::Payload { base: Base::Network, offset, len, to: 4 }
    }
    fn is(data: &[u8]) -> Native {
        Native::Compare { from: 4, op: Compare::Equal, data: data.into() }
    }
    fn mask(mask: &[u8]) -> Native {
        let op = Bitwise::MaskXor { mask: mask.into(), xor: vec![0; mask.len()].into() };
        Native::Bitwise { from: 4, to: 4, len: mask.len() as u8, op }
    }
    fn number(text: &str) -> u128 {
        super::super::model::number(text.parse().unwrap())
    }
    fn ranges(rule: &[Native], side: Side) -> Vec<(u128, u128)> {
        let told = told(rule, side);
        assert!(!told.unclear && !told.routes, "{told:?}");
        told.ranges
    }

    #[test]
    fn addresses_and_prefixes() {
        let net = (number("10.1.2.0"), number("10.1.2.255"));
        assert_eq!(ranges(&[load(12, 3), is(&[10, 1, 2])], V4), [net]);
        assert_eq!(ranges(&[load(12, 4), mask(&[255, 255, 255, 0]), is(&[10, 1, 2, 0])], V4), [net]);
        assert_eq!(ranges(&[load(12, 8), is(&[10, 1, 2, 3, 192, 0, 2, 1])], V4), [(number("10.1.2.3"), number("10.1.2.3"))]);
        let six = Side { v6: true, incoming: true };
        let prefix = (number("2001:db8::"), number("2001:db8:ffff:ffff:ffff:ffff:ffff:ffff"));
        assert_eq!(ranges(&[load(8, 4), is(&[0x20, 1, 0x0d, 0xb8])], six), [prefix]);
        // What goes out goes to the client.
        assert_eq!(ranges(&[load(16, 3), is(&[10, 1, 2])], Side { incoming: false, ..V4 }), [net]);
        assert_eq!(ranges(&[load(16, 3), is(&[10, 1, 2])], V4), []);
    }

    #[test]
    fn other_families_and_protocols_are_passed_by() {
        let family =
            |protocol| [Native::Meta { key: keys::meta::NFPROTO, to: 4 }, is(&[protocol]), load(12, 4), is(&[1, 2, 3, 4])];
        assert_eq!(ranges(&family(10), V4), []);
        assert_eq!(ranges(&family(2), V4).len(), 1);
        assert_eq!(ranges(&family(2), Side { v6: true, incoming: true }), []);
        let udp = [Native::Meta { key: keys::meta::L4PROTO, to: 4 }, is(&[17]), load(12, 4), is(&[1, 2, 3, 4])];
        assert_eq!(ranges(&udp, V4), []);
    }

    #[test]
    fn what_is_no_range_is_said() {
        assert!(told(&[load(12, 4), mask(&[255, 0, 0, 255]), is(&[10, 0, 0, 5])], V4).unclear);
        assert!(told(&[load(15, 1), is(&[5])], V4).unclear);
        assert!(told(&[load(12, 1), is(&[5])], Side { v6: true, incoming: true }).unclear);
        assert!(told(&[load(12, 4), Native::MetaSet { key: keys::meta::MARK, from: 4 }], V4).unclear);
        let turned = Native::ByteOrder { from: 4, to: 4, len: 4, size: 4 };
        assert!(told(&[load(12, 4), turned, is(&[1, 2, 3, 4])], V4).unclear);
    }

    #[test]
    fn sets() {
        let key = |bytes: &[u8], end| Element { key: bytes.into(), interval_end: end, ..Element::default() };
        let set = Set {
            key_len: 4,
            interval: true,
            elements: vec![key(&[10, 0, 0, 0], false), key(&[11, 0, 0, 0], true)],
            ..Set::default()
        };
        let look = |set: Set, from| Native::Lookup { set: set.into(), from, to: None, not: false };
        let last = number("255.255.255.255");
        let rule = [load(12, 4), look(set, 4)];
        assert_eq!(ranges(&rule, V4), [(number("10.0.0.0"), last), (number("11.0.0.0"), last)]);
        // Port, then address.
        let element = Element {
            key: Box::new([0x16, 0x28, 0, 0, 10, 0, 0, 0]),
            key_end: Some(Box::new([0x16, 0x28, 0, 0, 10, 0, 0, 9])),
            ..Element::default()
        };
        let set = Set { key_len: 8, fields: vec![2, 4], interval: true, elements: vec![element], ..Set::default() };
        let port = Native::Payload { base: Base::Transport, offset: 2, len: 2, to: 4 };
        let address = Native::Payload { base: Base::Network, offset: 12, len: 4, to: 5 };
        assert_eq!(ranges(&[port, address, look(set, 4)], V4), [(number("10.0.0.0"), number("10.0.0.9"))]);
    }
}

//! Runs instructions of nf_tables on registers of which some bits may be unknown, as net/netfilter/nft_*.c do on known ones.

use super::lookup::{self, Answer, Bits, Span};
use super::model::{self, Family, Hook, Model, Target, Translation, ct};
use super::native::{Base, Bitwise, Compare, Data, Element, FibResult, Native, Set, Slot, fib};
use super::packet::{self, Load};
use super::routing::{Kind, Link};
use super::verdict::{Flight, Path};
use std::cell::OnceCell;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

/// What an instruction may look at besides the registers.
pub struct View<'a> {
    pub model: &'a Model,
    pub flight: &'a Flight,
    pub path: &'a Path,
    pub hook: Hook,
    /// Of the table.
    pub family: Family,
    /// Connection state at this place: INVALID where conntrack has not run yet.
    pub state: u128,
    /// Of the flight, made when the first rule looks at them.
    pub headers: &'a OnceCell<packet::Headers>,
}

/// What came of one instruction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ran {
    /// On with the next instruction.
    Next,
    /// `NFT_BREAK`: the rule does not match.
    Break,
    /// On, or break: cannot be known, and why.
    Perhaps(String),
    Go(Target),
    /// One of these targets, or break, or on with the next instruction; and why that cannot be known.
    Choice {
        targets: Vec<Target>,
        breaks: bool,
        goes_on: bool,
        why: String,
    },
    /// The packet changes a set and goes on; or, with `perhaps`, may end the rule (the set is changed in either case).
    Changed {
        set: String,
        perhaps: Option<String>,
    },
    /// The packet's (or connection's) mark becomes this; `None`: something that cannot be foretold.
    Mark {
        connection: bool,
        value: Option<u32>,
    },
    Notrack,
}

/// Bytes of the register file (16 registers of 4 bytes).
const FILE: usize = 64;
const WORD: usize = 4;
const LITTLE: bool = cfg!(target_endian = "little");

/// A number in one register that is somewhere between two others.
#[derive(Debug, Clone, Copy)]
struct Between {
    /// Offset in the slot, 0 or 2.
    at: usize,
    /// 2 or 4 bytes.
    width: usize,
    low: u32,
    high: u32,
    /// In the machine's byte order, which is not the network's.
    swapped: bool,
}

/// The register file of one rule's evaluation.
#[derive(Debug, Clone)]
pub struct Registers {
    bytes: [u8; FILE],
    known: [u8; FILE],
    between: [Option<Between>; FILE / WORD],
    why: [Option<Arc<str>>; FILE / WORD],
}

impl Default for Registers {
    fn default() -> Registers {
        Registers { bytes: [0; FILE], known: [0; FILE], between: [None; FILE / WORD], why: Default::default() }
    }
}

/// A value to be put into a register.
enum Loaded {
    Is(Vec<u8>),
    /// `NFT_BREAK`
    Missing,
    /// So many bytes, of which nothing is known; with `true` the load itself may fail.
    Unknown(usize, String, bool),
    Between {
        low: u32,
        high: u32,
        why: String,
    },
}

impl Loaded {
    /// `*dest = value` of a host-order number.
    fn host(value: u32) -> Loaded {
        Loaded::Is(value.to_ne_bytes().to_vec())
    }
    /// `nft_reg_store8`: the rest of the register becomes zero.
    fn byte(value: u8) -> Loaded {
        Loaded::Is(vec![value, 0, 0, 0])
    }
    /// `nft_reg_store16` of two bytes in memory order.
    fn two(value: [u8; 2]) -> Loaded {
        Loaded::Is(vec![value[0], value[1], 0, 0])
    }
    fn host16(value: u16) -> Loaded {
        Loaded::two(value.to_ne_bytes())
    }
    /// An interface name, `IFNAMSIZ` bytes.
    fn name(text: &str) -> Loaded {
        let mut bytes = text.as_bytes().to_vec();
        bytes.resize(16, 0);
        bytes[15] = 0;
        Loaded::Is(bytes)
    }
    fn unknown(len: usize, why: &str) -> Loaded {
        Loaded::Unknown(len, why.to_owned(), false)
    }
    /// Not known, nor whether it is there.
    fn doubtful(len: usize, why: &str) -> Loaded {
        Loaded::Unknown(len, why.to_owned(), true)
    }
    fn address(address: IpAddr) -> Loaded {
        Loaded::Is(match address {
            IpAddr::V4(a) => a.octets().to_vec(),
            IpAddr::V6(a) => a.octets().to_vec(),
        })
    }
}

impl Registers {
    /// Executes one instruction.
    pub fn run(&mut self, native: &Native, view: &View) -> Ran {
        match native {
            Native::Immediate { to, data } => {
                self.put(*to, data);
                Ran::Next
            }
            Native::Payload { base, offset, len, to } => self.payload(*base, *offset, *len, *to, view),
            Native::Meta { key, to } => self.load(*to, meta(*key, view)),
            Native::MetaSet { key, from } => self.meta_set(*key, *from),
            Native::Ct { key, direction, to } => self.ct(*key, *direction, *to, view),
            Native::CtSet { key, from } => match *key {
                // nft_ct_set_eval: without an entry nothing happens.
                keys::ct::MARK if tracked(view) => Ran::Mark { connection: true, value: self.host(*from) },
                _ => Ran::Next,
            },
            Native::Compare { from, op, data } => {
                let Some(bytes) = self.known(*from, data.len()) else {
                    let value = self.bits(*from, data.len());
                    return taken(value.compare(*op, data), &value);
                };
                let order = bytes.cmp(data);
                let holds = match op {
                    Compare::Equal => order.is_eq(),
                    Compare::NotEqual => order.is_ne(),
                    Compare::Less => order.is_lt(),
                    Compare::LessOrEqual => order.is_le(),
                    Compare::Greater => order.is_gt(),
                    Compare::GreaterOrEqual => order.is_ge(),
                };
                if holds { Ran::Next } else { Ran::Break }
            }
            Native::Range { from, not, low, high } => {
                let value = self.bits(*from, low.len());
                let inside = value.within(low, high);
                match (inside, not) {
                    (Answer::Either, _) => taken(inside, &value),
                    (Answer::Yes, false) | (Answer::No, true) => Ran::Next,
                    _ => Ran::Break,
                }
            }
            Native::Bitwise { from, to, len, op } => {
                self.bitwise(*from, *to, usize::from(*len), op);
                Ran::Next
            }
            Native::ByteOrder { from, to, len, size } => {
                self.byte_order(*from, *to, usize::from(*len), usize::from(*size));
                Ran::Next
            }
            Native::Lookup { set, from, to, not } => self.lookup(set, *from, *to, *not, view),
            Native::Fib { result, flags, to } => self.load(*to, lookup_route(*result, *flags, view)),
            Native::TcpOption { kind, offset, len, present, to } => {
                self.load(*to, tcp_option(*kind, *offset, usize::from(*len), *present, view))
            }
            // nft_exthdr_ipv6_eval: nothing but IPv6 has them, and then the load fails even with `present`.
            Native::Ipv6Extension { present: true, to, .. } if view.flight.v6 => self.load(*to, Loaded::byte(0)),
            Native::Ipv6Extension { .. } => Ran::Break,
            Native::LoadUnknown { what, len, to } => self.load(*to, Loaded::doubtful(usize::from(*len), what)),
            Native::Perhaps { what } => Ran::Perhaps(what.clone()),
            Native::SetUpdate { set, delete, not, inner, .. } => update(set, *delete, *not, inner),
            Native::Counter | Native::Nothing => Ran::Next,
            // nft_notrack_eval: a packet that conntrack has seen stays as it is.
            Native::Notrack if view.path.is_untracked() || view.state != ct::INVALID => Ran::Next,
            Native::Notrack => Ran::Notrack,
            Native::Nat { kind, v6, address, port } => self.translate(*kind, *v6, *address, *port, view),
            Native::Go(Target::Continue) => Ran::Next,
            Native::Go(target) => Ran::Go(target.clone()),
        }
    }

    /// Bytes of the file that a value of this length takes, cut at its end.
    fn place(slot: Slot, len: usize) -> std::ops::Range<usize> {
        let start = (usize::from(slot) * WORD).min(FILE);
        start..(start + len).min(FILE)
    }

    /// Known bytes, padded with zeros to whole registers.
    fn put(&mut self, to: Slot, data: &[u8]) {
        let whole = data.len().next_multiple_of(WORD);
        let place = Registers::place(to, whole);
        for (i, at) in place.enumerate() {
            self.bytes[at] = data.get(i).copied().unwrap_or(0);
            self.known[at] = 0xff;
            self.between[at / WORD] = None;
            self.why[at / WORD] = None;
        }
    }

    /// Unknown bytes; the padding is zero.
    fn forget(&mut self, to: Slot, len: usize, why: &Arc<str>) {
        self.put(to, &vec![0; len]);
        for at in Registers::place(to, len) {
            self.known[at] = 0;
            self.why[at / WORD] = Some(why.clone());
        }
    }

    fn load(&mut self, to: Slot, loaded: Loaded) -> Ran {
        match loaded {
            Loaded::Is(data) => self.put(to, &data),
            Loaded::Missing => return Ran::Break,
            Loaded::Unknown(len, why, may_fail) => {
                self.forget(to, len, &Arc::from(why.as_str()));
                if may_fail {
                    return Ran::Perhaps(why);
                }
            }
            Loaded::Between { low, high, why } => {
                self.between(usize::from(to), Between { at: 0, width: 4, low, high, swapped: LITTLE }, &why);
            }
        }
        Ran::Next
    }

    /// A number between two others: with the leading bits that both have in common known.
    fn between(&mut self, slot: usize, number: Between, why: &str) {
        let Some(place) = self.between.get_mut(slot) else { return };
        let Between { at, width, low, high, swapped } = number;
        let differing = (low ^ high).checked_ilog2().map_or(0, |bit| u32::MAX >> (31 - bit));
        *place = (low != high).then_some(number);
        self.why[slot] = Some(Arc::from(why));
        for i in 0..width {
            let shift = 8 * (width - 1 - i);
            let byte = slot * WORD + at + if swapped { width - 1 - i } else { i };
            self.known[byte] = !((differing >> shift) as u8);
            self.bytes[byte] = (low >> shift) as u8 & self.known[byte];
        }
    }

    /// A value of which everything is known, as most are.
    fn known(&self, from: Slot, len: usize) -> Option<&[u8]> {
        let place = Registers::place(from, len);
        let known = place.len() == len && self.known[place.clone()].iter().all(|k| *k == 0xff);
        known.then(|| &self.bytes[place])
    }

    /// What is known of a value.
    fn bits(&self, from: Slot, len: usize) -> Bits {
        let place = Registers::place(from, len);
        let mut bits = Bits {
            bytes: self.bytes[place.clone()].to_vec(),
            known: self.known[place.clone()].to_vec(),
            spans: Vec::new(),
            why: None,
        };
        // An instruction that reaches beyond the file cannot come from the kernel.
        bits.bytes.resize(len, 0);
        bits.known.resize(len, 0);
        let first = usize::from(from);
        for slot in first..place.end.div_ceil(WORD) {
            if let Some(b) = self.between[slot].filter(|b| !b.swapped) {
                let at = (slot - first) * WORD + b.at;
                if at + b.width <= len {
                    bits.spans.push(Span { at, width: b.width, low: b.low, high: b.high });
                }
            }
            let unknown = (slot * WORD..((slot + 1) * WORD).min(place.end)).any(|i| self.known[i] != 0xff);
            if unknown && bits.why.is_none() {
                bits.why = self.why[slot].clone();
            }
        }
        bits
    }

    /// A host-order number, if all of it is known.
    fn host(&self, from: Slot) -> Option<u32> {
        let bits = self.bits(from, WORD);
        let bytes: [u8; 4] = bits.bytes.as_slice().try_into().ok()?;
        bits.is_known().then(|| u32::from_ne_bytes(bytes))
    }

    fn payload(&mut self, base: Base, offset: u32, len: u8, to: Slot, view: &View) -> Ran {
        let len = usize::from(len);
        let load = Load { base, offset, len };
        let outgoing = matches!(view.hook, Hook::Output | Hook::Postrouting);
        let headers = view.headers.get_or_init(|| packet::Headers::of(view.flight));
        let got = match headers.read(&load, outgoing) {
            packet::Read::Missing => return Ran::Break,
            packet::Read::Got(got) => got,
        };
        self.put(to, &[0; FILE][..len.min(FILE)]);
        for (i, (at, byte)) in Registers::place(to, len).zip(got.bytes.iter()).enumerate() {
            self.bytes[at] = byte.value & byte.known;
            self.known[at] = byte.known;
            if byte.known != 0xff && self.why[at / WORD].is_none() {
                self.why[at / WORD] = Some(Arc::from(byte.what));
            }
            let pair = byte.number.filter(|_| i % 2 == 0 && i + 1 < len && at + 1 < FILE);
            if let Some((low, high, what)) = pair {
                let number = Between { at: at % WORD, width: 2, low: low.into(), high: high.into(), swapped: false };
                if self.between[at / WORD].is_none() {
                    self.between(at / WORD, number, what);
                }
            }
        }
        got.may_fail.map_or(Ran::Next, |why| Ran::Perhaps(why.to_owned()))
    }

    fn meta_set(&mut self, key: u32, from: Slot) -> Ran {
        match key {
            keys::meta::MARK => Ran::Mark { connection: false, value: self.host(from) },
            // 0: a packet for this host, which it is.
            keys::meta::PKTTYPE if self.bits(from, 1).is(&[0]) != Answer::Yes => {
                Ran::Go(Target::Undecided("a rule that changes the packet's type".to_owned()))
            }
            _ => Ran::Next,
        }
    }

    fn ct(&mut self, key: u32, direction: Option<u8>, to: Slot, view: &View) -> Ran {
        let loaded = connection(key, direction, view);
        if let Some((low, high)) = loaded.1 {
            self.put(to, &[0; WORD]);
            let number = Between { at: 0, width: 2, low: low.into(), high: high.into(), swapped: false };
            self.between(usize::from(to), number, packet::PORT);
            return Ran::Next;
        }
        self.load(to, loaded.0)
    }

    fn bitwise(&mut self, from: Slot, to: Slot, len: usize, op: &Bitwise) {
        let value = self.bits(from, len);
        let (bytes, known) = match op {
            Bitwise::MaskXor { mask, xor } => {
                let bit = |of: &[u8], i: usize| of.get(i).copied().unwrap_or(0);
                let known: Vec<u8> = value.known.iter().enumerate().map(|(i, k)| k | !bit(mask, i)).collect();
                let bytes = value.bytes.iter().enumerate().map(|(i, b)| ((b & bit(mask, i)) ^ bit(xor, i)) & known[i]).collect();
                (bytes, known)
            }
            Bitwise::ShiftLeft(bits) => (shift(&value.bytes, *bits, true, 0), shift(&value.known, *bits, true, 0xff)),
            Bitwise::ShiftRight(bits) => (shift(&value.bytes, *bits, false, 0), shift(&value.known, *bits, false, 0xff)),
            Bitwise::And(other) | Bitwise::Or(other) | Bitwise::Xor(other) => {
                let other = self.bits(*other, len);
                let join = |i: usize| {
                    let (a, b, ka, kb) = (value.bytes[i], other.bytes[i], value.known[i], other.known[i]);
                    match op {
                        // A known 0 (or 1) decides on its own.
                        Bitwise::And(_) => (a & b, (ka & kb) | (ka & !a) | (kb & !b)),
                        Bitwise::Or(_) => (a | b, (ka & kb) | (ka & a) | (kb & b)),
                        _ => (a ^ b, ka & kb),
                    }
                };
                let joined: Vec<(u8, u8)> = (0..len).map(join).collect();
                (joined.iter().map(|(b, k)| b & k).collect(), joined.iter().map(|(_, k)| *k).collect())
            }
        };
        let kept = match op {
            Bitwise::MaskXor { mask, xor } => masked_spans(&value, mask, xor),
            _ => Vec::new(),
        };
        self.store(to, &bytes, &known, value.why);
        for span in kept {
            let slot = usize::from(to) + span.at / WORD;
            if let Some(place) = self.between.get_mut(slot) {
                *place = Some(Between { at: span.at % WORD, width: span.width, low: span.low, high: span.high, swapped: false });
            }
        }
    }

    fn store(&mut self, to: Slot, bytes: &[u8], known: &[u8], why: Option<Arc<str>>) {
        self.put(to, bytes);
        for (at, k) in Registers::place(to, known.len()).zip(known) {
            self.known[at] = *k;
            if *k != 0xff {
                self.why[at / WORD] = why.clone();
            }
        }
    }

    /// `nft_byteorder_eval`
    fn byte_order(&mut self, from: Slot, to: Slot, len: usize, size: usize) {
        let value = self.bits(from, len);
        let swapped: Vec<Option<Between>> = (0..len.div_ceil(WORD))
            .map(|i| self.between.get(usize::from(from) + i).copied().flatten().filter(|b| b.width == size))
            .collect();
        let turn = |of: &[u8]| -> Vec<u8> {
            if !LITTLE || size == 0 {
                return of.to_vec();
            }
            of.chunks(size).flat_map(|c| if c.len() == size { c.iter().rev().copied().collect() } else { c.to_vec() }).collect()
        };
        self.store(to, &turn(&value.bytes), &turn(&value.known), value.why);
        for (i, between) in swapped.into_iter().enumerate() {
            if let (Some(between), Some(place)) = (between, self.between.get_mut(usize::from(to) + i)) {
                *place = Some(Between { swapped: between.swapped != LITTLE, ..between });
            }
        }
    }

    /// `nft_lookup_eval`
    fn lookup(&mut self, set: &Set, from: Slot, to: Option<Slot>, not: bool, view: &View) -> Ran {
        let key = self.bits(from, set.key_len);
        let finds = match lookup::find(set, &key) {
            Ok(finds) => finds,
            Err(why) => return self.open_lookup(set, to, set.elements.iter().map(Some).chain([None]).collect(), not, why),
        };
        let found: Vec<Option<&Element>> = finds.iter().map(|f| f.and_then(|i| set.elements.get(i))).collect();
        if let Some(doubt) = &set.doubt {
            return self.open_lookup(set, to, set.elements.iter().map(Some).chain([None]).collect(), not, doubt.clone());
        }
        if view.path.changed_set(&set.name) {
            let why = format!("set {}, which the packet itself may have changed", set.name);
            let all = found.into_iter().chain(set.elements.iter().map(Some).filter(|_| to.is_some())).chain([None]);
            let mut all: Vec<Option<&Element>> = all.collect();
            if !all.iter().any(Option::is_some) {
                // What it would find there is not known.
                return match to {
                    None => Ran::Perhaps(why),
                    Some(to) => {
                        self.forget(to, FILE, &Arc::from(why.as_str()));
                        Ran::Perhaps(why)
                    }
                };
            }
            all.dedup_by(|a, b| a.is_none() && b.is_none());
            return self.open_lookup(set, to, all, not, why);
        }
        let why = format!("{} (looked up in set {})", unknown(&key), set.name);
        match found[..] {
            [one] => self.decided_lookup(to, one, not),
            _ => self.open_lookup(set, to, found, not, why),
        }
    }

    fn decided_lookup(&mut self, to: Option<Slot>, found: Option<&Element>, not: bool) -> Ran {
        let Some(element) = found.filter(|_| !not) else {
            return if found.is_none() && not { Ran::Next } else { Ran::Break };
        };
        let inner = inner(element);
        match (&element.data, to) {
            (Some(Data::Verdict(target)), _) => match (inner, target) {
                (None, Target::Continue) => Ran::Next,
                (None, target) => Ran::Go(target.clone()),
                // nft_set_elem_update_expr runs after the verdict was copied: what breaks there ends the rule instead.
                (Some(why), target) => {
                    let goes_on = *target == Target::Continue;
                    let targets = if goes_on { Vec::new() } else { vec![target.clone()] };
                    Ran::Choice { targets, breaks: true, goes_on, why }
                }
            },
            (Some(Data::Object(what)), _) => Ran::Perhaps(what.clone()),
            (Some(Data::Value(value)), Some(to)) => {
                self.put(to, value);
                inner.map_or(Ran::Next, Ran::Perhaps)
            }
            _ => inner.map_or(Ran::Next, Ran::Perhaps),
        }
    }

    /// A lookup that may find one or the other.
    fn open_lookup(&mut self, set: &Set, to: Option<Slot>, found: Vec<Option<&Element>>, not: bool, why: String) -> Ran {
        let misses = found.iter().any(|f| f.is_none());
        let hits: Vec<&Element> = found.into_iter().flatten().collect();
        let verdicts = set.elements.iter().any(|e| matches!(e.data, Some(Data::Verdict(_))));
        if verdicts {
            let breaks = misses || hits.iter().any(|e| inner(e).is_some() || !matches!(e.data, Some(Data::Verdict(_))));
            let mut targets = Vec::new();
            for element in &hits {
                if let Some(Data::Verdict(target)) = &element.data
                    && !targets.contains(target)
                {
                    targets.push(target.clone());
                }
            }
            let goes_on = targets.contains(&Target::Continue);
            targets.retain(|t| *t != Target::Continue);
            return match (&targets[..], breaks, goes_on) {
                ([], false, true) => Ran::Next,
                ([], true, false) => Ran::Break,
                ([one], false, false) => Ran::Go(one.clone()),
                ([], true, true) => Ran::Perhaps(why),
                _ => Ran::Choice { targets, breaks, goes_on, why },
            };
        }
        if let Some(to) = to {
            self.mixed(to, &hits, &why);
        }
        let open = hits.iter().any(|e| inner(e).is_some() || matches!(e.data, Some(Data::Object(_))));
        match (hits.is_empty(), misses, open) {
            (false, true, _) | (false, false, true) => Ran::Perhaps(why),
            (false, false, false) => {
                if not {
                    Ran::Break
                } else {
                    Ran::Next
                }
            }
            (true, ..) => {
                if not {
                    Ran::Next
                } else {
                    Ran::Break
                }
            }
        }
    }

    /// One of several values: the bits in which they agree are known.
    fn mixed(&mut self, to: Slot, hits: &[&Element], why: &str) {
        let values: Vec<&[u8]> = hits
            .iter()
            .filter_map(|e| match &e.data {
                Some(Data::Value(v)) => Some(v.as_ref()),
                _ => None,
            })
            .collect();
        let Some((first, rest)) = values.split_first() else {
            self.forget(to, FILE, &Arc::from(why));
            return;
        };
        let len = values.iter().map(|v| v.len()).max().unwrap_or(0);
        let at = |v: &[u8], i: usize| v.get(i).copied().unwrap_or(0);
        let known: Vec<u8> = (0..len).map(|i| rest.iter().fold(0xff, |k, v| k & !(at(first, i) ^ at(v, i)))).collect();
        let bytes: Vec<u8> = (0..len).map(|i| at(first, i) & known[i]).collect();
        self.store(to, &bytes, &known, Some(Arc::from(why)));
    }

    /// `nft_nat_eval`, `nft_redir_eval`, `nft_masq_eval`
    fn translate(
        &self,
        kind: model::Nat,
        v6: bool,
        address: Option<(Slot, Slot)>,
        port: Option<(Slot, Slot)>,
        view: &View,
    ) -> Ran {
        // nft_nat_inet_eval: in an inet table an address of the other family is passed by.
        if address.is_some() && v6 != view.flight.v6 {
            return Ran::Next;
        }
        let address = match address.map(|(low, high)| Some((self.address(low, v6)?, self.address(high, v6)?))) {
            Some(None) => return Ran::Go(Target::Undecided("a translation to an address that is not known".to_owned())),
            other => other.flatten(),
        };
        let port = match port.map(|(low, high)| Some((self.port(low)?, self.port(high)?))) {
            Some(None) => return Ran::Go(Target::Undecided("a translation to a port that is not known".to_owned())),
            other => other.flatten(),
        };
        Ran::Go(Target::Translate(Translation { kind, address, port }))
    }

    fn address(&self, slot: Slot, v6: bool) -> Option<IpAddr> {
        let bits = self.bits(slot, if v6 { 16 } else { 4 });
        if !bits.is_known() {
            return None;
        }
        if v6 {
            let octets: [u8; 16] = bits.bytes.as_slice().try_into().ok()?;
            Some(Ipv6Addr::from(octets).into())
        } else {
            let octets: [u8; 4] = bits.bytes.as_slice().try_into().ok()?;
            Some(Ipv4Addr::from(octets).into())
        }
    }

    fn port(&self, slot: Slot) -> Option<u16> {
        let bits = self.bits(slot, 2);
        let bytes: [u8; 2] = bits.bytes.as_slice().try_into().ok()?;
        bits.is_known().then(|| u16::from_be_bytes(bytes))
    }
}

/// Numbers of `enum nft_meta_keys` and `enum nft_ct_keys`.
pub mod keys {
    pub mod meta {
        pub const LEN: u32 = 0;
        pub const PROTOCOL: u32 = 1;
        pub const PRIORITY: u32 = 2;
        pub const MARK: u32 = 3;
        pub const IIF: u32 = 4;
        pub const OIF: u32 = 5;
        pub const IIFNAME: u32 = 6;
        pub const OIFNAME: u32 = 7;
        pub const IIFTYPE: u32 = 8;
        pub const OIFTYPE: u32 = 9;
        pub const SKUID: u32 = 10;
        pub const SKGID: u32 = 11;
        pub const NFTRACE: u32 = 12;
        pub const RTCLASSID: u32 = 13;
        pub const SECMARK: u32 = 14;
        pub const NFPROTO: u32 = 15;
        pub const L4PROTO: u32 = 16;
        pub const BRI_IIFNAME: u32 = 17;
        pub const BRI_OIFNAME: u32 = 18;
        pub const PKTTYPE: u32 = 19;
        pub const CPU: u32 = 20;
        pub const IIFGROUP: u32 = 21;
        pub const OIFGROUP: u32 = 22;
        pub const CGROUP: u32 = 23;
        pub const PRANDOM: u32 = 24;
        pub const SECPATH: u32 = 25;
        pub const IIFKIND: u32 = 26;
        pub const OIFKIND: u32 = 27;
        pub const TIME_NS: u32 = 30;
        pub const TIME_DAY: u32 = 31;
        pub const TIME_HOUR: u32 = 32;
        pub const SDIF: u32 = 33;
        pub const SDIFNAME: u32 = 34;
    }
    pub mod ct {
        pub const STATE: u32 = 0;
        pub const DIRECTION: u32 = 1;
        pub const STATUS: u32 = 2;
        pub const MARK: u32 = 3;
        pub const SECMARK: u32 = 4;
        pub const EXPIRATION: u32 = 5;
        pub const HELPER: u32 = 6;
        pub const L3PROTOCOL: u32 = 7;
        pub const SRC: u32 = 8;
        pub const DST: u32 = 9;
        pub const PROTOCOL: u32 = 10;
        pub const PROTO_SRC: u32 = 11;
        pub const PROTO_DST: u32 = 12;
        pub const LABELS: u32 = 13;
        pub const PKTS: u32 = 14;
        pub const BYTES: u32 = 15;
        pub const AVGPKT: u32 = 16;
        pub const ZONE: u32 = 17;
        pub const SRC_IP: u32 = 19;
        pub const DST_IP: u32 = 20;
        pub const SRC_IP6: u32 = 21;
        pub const DST_IP6: u32 = 22;
        pub const ID: u32 = 23;
    }
}

/// Whether the packet has a connection entry at this place.
fn tracked(view: &View) -> bool {
    !view.path.is_untracked() && view.state != ct::INVALID
}

fn taken(answer: Answer, value: &Bits) -> Ran {
    match answer {
        Answer::Yes => Ran::Next,
        Answer::No => Ran::Break,
        Answer::Either => Ran::Perhaps(unknown(value)),
    }
}

fn unknown(value: &Bits) -> String {
    value.why.as_deref().unwrap_or("a value that the rule did not load").to_owned()
}

/// Instructions of an element that may end the rule.
fn inner(element: &Element) -> Option<String> {
    element.inner.iter().find_map(|native| match native {
        Native::Counter | Native::Nothing => None,
        Native::Perhaps { what } => Some(what.clone()),
        _ => Some("an instruction of a set element".to_owned()),
    })
}

/// `nft_dynset_eval`
fn update(set: &Set, delete: bool, not: bool, inner: &[Native]) -> Ran {
    let limit = inner.iter().find_map(|native| match native {
        Native::Counter | Native::Nothing => None,
        Native::Perhaps { what } => Some(what.clone()),
        _ => Some("an instruction of a set element".to_owned()),
    });
    let full = set.size.is_some_and(|size| set.elements.len() >= usize::try_from(size).unwrap_or(usize::MAX));
    let perhaps = match (delete, limit) {
        (true, _) => None,
        (false, None) if !full && !not => None,
        (false, Some(what)) => Some(what),
        (false, None) => Some(format!("whether set {} has room for one more element", set.name)),
    };
    Ran::Changed { set: set.name.clone(), perhaps }
}

/// `nft_bitwise_eval_lshift` and `_rshift`: a row of host-order words, the first one the highest. `fill` is what comes in.
fn shift(bytes: &[u8], by: u32, left: bool, fill: u8) -> Vec<u8> {
    let mut words: Vec<u32> = bytes
        .chunks(WORD)
        .map(|c| {
            let mut word = [fill; WORD];
            word[..c.len()].copy_from_slice(c);
            u32::from_ne_bytes(word)
        })
        .collect();
    let fill = u32::from_ne_bytes([fill; WORD]);
    // 32 and more is refused by the kernel, 0 is not worth an instruction.
    let by = by.min(31);
    let carry = |word: u32, left: bool| match (by, left) {
        (0, _) => 0,
        (_, true) => word >> (32 - by),
        (_, false) => word << (32 - by),
    };
    let mut carried = carry(fill, left);
    let mut one = |word: &mut u32| {
        let next = carry(*word, left);
        *word = if left { *word << by } else { *word >> by } | carried;
        carried = next;
    };
    if left {
        words.iter_mut().rev().for_each(&mut one)
    } else {
        words.iter_mut().for_each(&mut one)
    }
    let mut out: Vec<u8> = words.iter().flat_map(|w| w.to_ne_bytes()).collect();
    out.truncate(bytes.len());
    out
}

/// Intervals that a mask leaves in order: one that cuts only low bits off.
fn masked_spans(value: &Bits, mask: &[u8], xor: &[u8]) -> Vec<Span> {
    let mut kept = Vec::new();
    for span in &value.spans {
        let number =
            |of: &[u8]| of.get(span.at..span.at + span.width).map(|b| b.iter().fold(0u32, |n, b| n << 8 | u32::from(*b)));
        let (Some(mask), Some(0)) = (number(mask), number(xor)) else { continue };
        let all = if span.width == 4 { u32::MAX } else { 0xffff };
        if (!mask & all).wrapping_add(1) & (!mask & all) == 0 {
            kept.push(Span { low: span.low & mask, high: span.high & mask, ..*span });
        }
    }
    kept
}

/// `nft_meta_get_eval`
fn meta(key: u32, view: &View) -> Loaded {
    use keys::meta::*;
    let f = view.flight;
    let outgoing = matches!(view.hook, Hook::Output | Hook::Postrouting);
    match key {
        LEN => match packet::length(f) {
            Some((low, high)) => Loaded::Between { low, high, why: packet::LENGTH.to_owned() },
            None => Loaded::unknown(4, packet::LENGTH),
        },
        PROTOCOL => Loaded::two(if f.v6 { [0x86, 0xdd] } else { [0x08, 0x00] }),
        PRIORITY => Loaded::unknown(4, "the packet's priority"),
        MARK => match view.path.mark() {
            Some(mark) => Loaded::host(mark),
            None => Loaded::unknown(4, "the packet's mark"),
        },
        IIF => index(view, &f.in_interface),
        OIF => index(view, &f.out_interface),
        IIFNAME => Loaded::name(&f.in_interface),
        OIFNAME => Loaded::name(&f.out_interface),
        IIFTYPE => interface_type(view, &f.in_interface),
        OIFTYPE => interface_type(view, &f.out_interface),
        SKUID | SKGID | CGROUP => socket(view),
        NFTRACE => Loaded::unknown(1, "whether the packet is traced"),
        RTCLASSID => Loaded::doubtful(4, "the route's realm"),
        SECMARK => Loaded::unknown(4, "the packet's security mark"),
        // nft_pf: ingress chains of netdev tables have their own number.
        NFPROTO if view.family == Family::Netdev => Loaded::byte(5),
        NFPROTO => Loaded::byte(if f.v6 { 10 } else { 2 }),
        L4PROTO => Loaded::byte(u8::try_from(f.protocol).unwrap_or(0)),
        BRI_IIFNAME | BRI_OIFNAME => Loaded::doubtful(16, "the bridge port"),
        PKTTYPE if !outgoing && f.destination.is_multicast() => Loaded::byte(2),
        PKTTYPE => Loaded::byte(0),
        CPU => Loaded::unknown(4, "the processor that handles the packet"),
        IIFGROUP => group(view, &f.in_interface),
        OIFGROUP => group(view, &f.out_interface),
        PRANDOM => Loaded::unknown(4, "chance"),
        SECPATH => Loaded::unknown(1, "whether the packet came through IPsec"),
        IIFKIND => kind(view, &f.in_interface),
        OIFKIND => kind(view, &f.out_interface),
        TIME_NS => Loaded::unknown(8, "the time"),
        TIME_DAY => Loaded::unknown(1, "the day of the week"),
        TIME_HOUR => Loaded::unknown(4, "the time of day"),
        SDIF => Loaded::unknown(4, "the interface's VRF"),
        SDIFNAME => Loaded::doubtful(16, "the interface's VRF"),
        other => Loaded::doubtful(16, &format!("meta key {other}")),
    }
}

/// What rtnetlink said of an interface, if it was read.
fn link<'a>(view: &View<'a>, interface: &str) -> Option<&'a Link> {
    let routing = view.model.routing.as_ref().filter(|r| r.routes.is_some())?;
    routing.link(interface)
}

/// `nft_meta_store_ifindex`: 0 without an interface.
fn index(view: &View, interface: &str) -> Loaded {
    match (interface, link(view, interface)) {
        ("", _) => Loaded::host(0),
        // The first interface of every network namespace.
        ("lo", _) => Loaded::host(1),
        (_, Some(link)) => Loaded::host(link.index),
        (name, None) => Loaded::unknown(4, &format!("the number of interface {name}")),
    }
}

fn group(view: &View, interface: &str) -> Loaded {
    match (interface, link(view, interface)) {
        ("", _) => Loaded::Missing,
        (_, Some(link)) => Loaded::host(link.group),
        (name, None) => Loaded::unknown(4, &format!("the group of interface {name}")),
    }
}

/// `dev->type`: ARPHRD_LOOPBACK is 772.
fn interface_type(view: &View, interface: &str) -> Loaded {
    match (interface, link(view, interface)) {
        ("", _) => Loaded::Missing,
        ("lo", _) => Loaded::host16(772),
        (_, Some(link)) => Loaded::host16(link.hardware),
        (name, None) => Loaded::unknown(2, &format!("the type of interface {name}")),
    }
}

/// `dev->rtnl_link_ops->kind`: physical interfaces and `lo` have none.
fn kind(view: &View, interface: &str) -> Loaded {
    match (interface, link(view, interface)) {
        ("" | "lo", _) => Loaded::Missing,
        (_, Some(link)) if link.kind.is_empty() => Loaded::Missing,
        (_, Some(link)) => Loaded::name(&link.kind),
        (name, None) => Loaded::doubtful(16, &format!("the kind of interface {name}")),
    }
}

/// The socket of a packet: one that comes in has none before early demultiplexing finds an established (or half-open) connection,
/// after PREROUTING.
fn socket(view: &View) -> Loaded {
    let outgoing = matches!(view.hook, Hook::Output | Hook::Postrouting);
    if outgoing || (view.hook == Hook::Input && view.flight.state != ct::NEW) {
        return Loaded::doubtful(4, "the owner of the socket");
    }
    Loaded::Missing
}

/// `nft_ct_get_eval`; ports as an interval.
fn connection(key: u32, direction: Option<u8>, view: &View) -> (Loaded, Option<(u16, u16)>) {
    use keys::ct::*;
    let f = view.flight;
    if key == STATE {
        let state = if view.path.is_untracked() { ct::UNTRACKED } else { view.state };
        return (Loaded::host(u32::try_from(state).unwrap_or(0)), None);
    }
    if !tracked(view) {
        return (Loaded::Missing, None);
    }
    let loaded = match key {
        DIRECTION => Loaded::byte(f.reply.into()),
        STATUS => status(view),
        MARK => match view.path.connection_mark() {
            Some(mark) => Loaded::host(mark),
            None => Loaded::unknown(4, "the connection's mark"),
        },
        SECMARK => Loaded::unknown(4, "the connection's security mark"),
        EXPIRATION => Loaded::unknown(4, "when the connection's entry ends"),
        // Only a connection that another one led to has a master, and only that has a helper to show.
        HELPER => Loaded::Missing,
        L3PROTOCOL => Loaded::byte(if f.v6 { 10 } else { 2 }),
        // An error belongs to the connection that it answers.
        PROTOCOL if f.icmp_type.is_some() && view.state == ct::RELATED => Loaded::byte(6),
        PROTOCOL => Loaded::byte(u8::try_from(f.protocol).unwrap_or(0)),
        LABELS => Loaded::unknown(16, "the connection's labels"),
        PKTS => Loaded::unknown(8, "how many packets the connection had"),
        BYTES => Loaded::unknown(8, "how many bytes the connection had"),
        AVGPKT => Loaded::unknown(8, "the mean size of the connection's packets"),
        ZONE => Loaded::host16(0),
        ID => Loaded::unknown(4, "the connection's number"),
        SRC | DST | SRC_IP | DST_IP | SRC_IP6 | DST_IP6 | PROTO_SRC | PROTO_DST => {
            return tuple(key, direction.unwrap_or(0), view);
        }
        other => Loaded::doubtful(16, &format!("conntrack key {other}")),
    };
    (loaded, None)
}

/// `ct->status`. SEEN_REPLY 2 comes with the first answer, ASSURED 4 with the packet after it, CONFIRMED 8 behind the last hook.
fn status(view: &View) -> Loaded {
    let f = view.flight;
    let known = match (view.state, f.reply) {
        _ if f.status.is_some() => f.status,
        // A packet over loopback was confirmed on its way out.
        (ct::NEW, _) if f.attached => Some(8 | f.translated),
        (ct::NEW, _) => Some(f.translated),
        (ct::ESTABLISHED, true) => Some(0x0a | f.translated),
        (ct::ESTABLISHED, false) => Some(0x0e | f.translated),
        _ => None,
    };
    match known {
        Some(status) => Loaded::host(status),
        None => Loaded::unknown(4, "the connection's status"),
    }
}

fn tuple(key: u32, direction: u8, view: &View) -> (Loaded, Option<(u16, u16)>) {
    use keys::ct::*;
    let ends = packet::tuple(view.flight, direction == 0);
    let v6 = view.flight.v6;
    match key {
        SRC_IP | DST_IP if v6 => (Loaded::Missing, None),
        SRC_IP6 | DST_IP6 if !v6 => (Loaded::Missing, None),
        SRC | SRC_IP | SRC_IP6 => (Loaded::address(ends.source), None),
        DST | DST_IP | DST_IP6 => (Loaded::address(ends.destination), None),
        PROTO_SRC => (Loaded::Missing, Some(ends.source_port)),
        _ => (Loaded::Missing, Some(ends.destination_port)),
    }
}

/// `nft_exthdr_tcp_eval`: every SYN of every system has the maximum segment size; of other options nothing is certain.
fn tcp_option(kind: u8, offset: u32, len: usize, present: bool, view: &View) -> Loaded {
    let f = view.flight;
    if f.protocol != 6 {
        return if present { Loaded::byte(0) } else { Loaded::Missing };
    }
    let what = format!("TCP option {kind} of the packet");
    let syn = f.flags & 0x02 != 0;
    match kind {
        2 if present => {
            if syn {
                Loaded::byte(1)
            } else {
                Loaded::byte(0)
            }
        }
        2 if syn && offset + len as u32 <= 4 => Loaded::unknown(len, &what),
        _ if present => Loaded::unknown(1, &what),
        _ => Loaded::doubtful(len, &what),
    }
}

/// `nft_fib4_eval`, `nft_fib4_eval_type` and their like for IPv6.
fn lookup_route(result: FibResult, flags: u32, view: &View) -> Loaded {
    let f = view.flight;
    let of_source = flags & fib::SADDR != 0;
    let address = if of_source { f.source } else { f.destination };
    if result == FibResult::AddressType {
        return address_type(view, address, of_source, flags);
    }
    route_out(view, address, flags, result)
}

/// `inet_dev_addr_type`, `__nft_fib6_eval_type`
fn address_type(view: &View, address: IpAddr, of_source: bool, flags: u32) -> Loaded {
    let f = view.flight;
    let on = match flags & (fib::IIF | fib::OIF) {
        0 => None,
        fib::IIF => Some(f.in_interface.as_str()),
        _ => Some(f.out_interface.as_str()),
    };
    let ours = of_source != f.incoming && on.is_none();
    match view.model.routing.as_ref().map(|r| r.kind_of(address, on)) {
        Some(Ok(Kind::Unicast)) | None if ours => Loaded::host(Kind::Local as u32),
        Some(Ok(kind)) => Loaded::host(kind as u32),
        Some(Err(why)) => Loaded::unknown(4, &why),
        None => Loaded::unknown(4, "which addresses are this host's"),
    }
}

/// The interface of the route to an address: its number, its name, or whether there is one.
fn route_out(view: &View, address: IpAddr, flags: u32, result: FibResult) -> Loaded {
    let f = view.flight;
    let first = matches!(view.hook, Hook::Ingress | Hook::Prerouting);
    let given = |name: &str| match (flags & fib::PRESENT != 0, result) {
        (true, _) => Loaded::host((!name.is_empty()).into()),
        (false, FibResult::OutName) => Loaded::name(name),
        (false, _) => index(view, name),
    };
    if first && f.in_interface == "lo" {
        return given("lo");
    }
    let len = if result == FibResult::OutName && flags & fib::PRESENT == 0 { 16 } else { 4 };
    let Some(routing) = &view.model.routing else { return Loaded::unknown(len, "the route to the packet's source") };
    let mark = match (flags & fib::MARK != 0, view.path.mark()) {
        (true, Some(mark)) => mark,
        (true, None) => return Loaded::unknown(len, "the packet's mark"),
        (false, _) => 0,
    };
    let other = if flags & fib::SADDR != 0 { f.destination } else { f.source };
    let by = match flags & (fib::IIF | fib::OIF) {
        0 => None,
        fib::IIF => Some(f.in_interface.as_str()),
        _ => Some(f.out_interface.as_str()),
    };
    match routing.back_to(address, other, mark, by) {
        Ok(found) => given(routing.name(found)),
        Err(why) => Loaded::unknown(len, &why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRANSPORT: Base = Base::Transport;

    fn syn() -> Flight {
        Flight::syn(&super::super::Packet {
            source: "10.1.2.3".parse().unwrap(),
            destination: "192.0.2.1".parse().unwrap(),
            port: 5672,
            interface: "eth0".to_owned(),
        })
    }

    /// Runs a rule; what the last instruction gave, or the first one that ended it.
    fn run_with(flight: &Flight, path: &Path, hook: Hook, state: u128, rule: &[Native]) -> Vec<Ran> {
        let model = Model::default();
        let view = View { model: &model, flight, path, hook, family: Family::Inet, state, headers: &OnceCell::new() };
        let mut registers = Registers::default();
        let mut all = Vec::new();
        for native in rule {
            let ran = registers.run(native, &view);
            let ends = !matches!(ran, Ran::Next | Ran::Perhaps(_));
            all.push(ran);
            if ends {
                break;
            }
        }
        all
    }

    fn last(rule: &[Native]) -> Ran {
        run_with(&syn(), &Path::new(), Hook::Input, ct::NEW, rule).pop().unwrap()
    }

    fn load(base: Base, offset: u32, len: u8) -> Native {
        Native::Payload { base, offset, len, to: 4 }
    }
    fn is(data: &[u8]) -> Native {
        Native::Compare { from: 4, op: Compare::Equal, data: data.into() }
    }
    fn compare(op: Compare, data: &[u8]) -> Native {
        Native::Compare { from: 4, op, data: data.into() }
    }
    fn meta(key: u32) -> Native {
        Native::Meta { key, to: 4 }
    }
    fn ct_key(key: u32) -> Native {
        Native::Ct { key, direction: None, to: 4 }
    }
    fn mask(len: u8, mask: &[u8]) -> Native {
        let op = Bitwise::MaskXor { mask: mask.into(), xor: vec![0; mask.len()].into() };
        Native::Bitwise { from: 4, to: 4, len, op }
    }
    fn ports(not: bool, low: u16, high: u16) -> Native {
        Native::Range { from: 4, not, low: low.to_be_bytes().into(), high: high.to_be_bytes().into() }
    }
    fn look(set: Set) -> Native {
        Native::Lookup { set: Arc::new(set), from: 4, to: None, not: false }
    }
    fn element(key: &[u8], data: Option<Data>) -> Element {
        Element { key: key.into(), data, ..Element::default() }
    }
    fn set(key_len: usize, elements: Vec<Element>) -> Set {
        Set { name: "s".to_owned(), key_len, elements, ..Set::default() }
    }
    fn verdict(target: Target) -> Option<Data> {
        Some(Data::Verdict(target))
    }

    #[test]
    fn headers_lie_in_memory_order() {
        // nft_payload.c
        assert_eq!(last(&[load(Base::Network, 12, 4), is(&[10, 1, 2, 3])]), Ran::Next);
        assert_eq!(last(&[load(Base::Network, 12, 3), is(&[10, 1, 2])]), Ran::Next);
        assert_eq!(last(&[load(Base::Network, 12, 8), is(&[10, 1, 2, 3, 192, 0, 2, 1])]), Ran::Next);
        assert_eq!(last(&[load(Base::Network, 9, 1), is(&[6])]), Ran::Next);
        assert_eq!(last(&[load(TRANSPORT, 2, 2), is(&5672u16.to_be_bytes())]), Ran::Next);
        assert_eq!(last(&[load(TRANSPORT, 2, 2), is(&5673u16.to_be_bytes())]), Ran::Break);
        assert_eq!(last(&[load(TRANSPORT, 13, 1), mask(1, &[0x17]), is(&[2])]), Ran::Next);
        assert_eq!(last(&[load(Base::Network, 0, 1), mask(1, &[0x0f]), is(&[5])]), Ran::Next);
        assert_eq!(last(&[load(Base::Network, 6, 2), mask(2, &[0x1f, 0xff]), is(&[0, 0])]), Ran::Next);
        assert!(matches!(last(&[load(Base::Network, 8, 1), is(&[64])]), Ran::Perhaps(_)));
        // Behind the longest header nothing is there; a TCP header without options may end before byte 21.
        assert_eq!(last(&[load(TRANSPORT, 60, 1)]), Ran::Break);
        assert!(matches!(last(&[load(TRANSPORT, 20, 1)]), Ran::Perhaps(_)));
        assert_eq!(last(&[load(Base::Inner, 0, 4)]), Ran::Break);
        assert_eq!(last(&[load(Base::Network, u32::MAX, 255)]), Ran::Break);
    }

    #[test]
    fn the_clients_port_lies_between_two() {
        let port = || load(TRANSPORT, 0, 2);
        assert_eq!(last(&[port(), ports(false, 1024, 65535)]), Ran::Next);
        assert_eq!(last(&[port(), ports(true, 1024, 65535)]), Ran::Break);
        assert_eq!(last(&[port(), ports(false, 0, 1023)]), Ran::Break);
        assert_eq!(last(&[port(), ports(true, 0, 1023)]), Ran::Next);
        assert!(matches!(last(&[port(), ports(false, 40000, 50000)]), Ran::Perhaps(_)));
        assert_eq!(last(&[port(), is(&22u16.to_be_bytes())]), Ran::Break);
        assert_eq!(last(&[port(), compare(Compare::NotEqual, &22u16.to_be_bytes())]), Ran::Next);
        assert_eq!(last(&[port(), is(&61000u16.to_be_bytes())]), Ran::Break);
        assert!(matches!(last(&[port(), is(&40000u16.to_be_bytes())]), Ran::Perhaps(_)));
        assert_eq!(last(&[port(), compare(Compare::GreaterOrEqual, &32768u16.to_be_bytes())]), Ran::Next);
        assert!(matches!(last(&[port(), compare(Compare::Greater, &32768u16.to_be_bytes())]), Ran::Perhaps(_)));
        assert_eq!(last(&[port(), compare(Compare::Less, &32768u16.to_be_bytes())]), Ran::Break);
        // A mask of leading bits keeps the order, another one does not.
        assert_eq!(last(&[port(), mask(2, &[0x80, 0]), is(&[0x80, 0])]), Ran::Next);
        assert_eq!(last(&[port(), mask(2, &[0xff, 0]), is(&[0xf0, 0])]), Ran::Break);
        assert!(matches!(last(&[port(), mask(2, &[0, 1]), is(&[0, 1])]), Ran::Perhaps(_)));
        // Both ports in one load.
        let both = load(TRANSPORT, 0, 4);
        assert!(matches!(last(&[both.clone(), is(&[0x9c, 0x40, 0x16, 0x28])]), Ran::Perhaps(_)));
        assert_eq!(last(&[both, is(&[0x9c, 0x40, 0x16, 0x29])]), Ran::Break);
    }

    #[test]
    fn a_load_that_fails_ends_the_rule_whatever_is_compared() {
        // nft_ct_get_eval: no entry, no key but the state.
        let of = |key, state, rest: Native| run_with(&syn(), &Path::new(), Hook::Prerouting, state, &[ct_key(key), rest]).pop();
        let not_zero = || compare(Compare::NotEqual, &[0, 0, 0, 0]);
        assert_eq!(of(keys::ct::MARK, ct::INVALID, not_zero()), Some(Ran::Break));
        assert_eq!(of(keys::ct::STATUS, ct::INVALID, not_zero()), Some(Ran::Break));
        assert_eq!(of(keys::ct::STATE, ct::INVALID, is(&1u32.to_ne_bytes())), Some(Ran::Next));
        assert_eq!(of(keys::ct::STATE, ct::NEW, is(&8u32.to_ne_bytes())), Some(Ran::Next));
        assert_eq!(of(keys::ct::HELPER, ct::NEW, not_zero()), Some(Ran::Break));
        // nft_exthdr_ipv6_eval
        let extension = |present| Native::Ipv6Extension { present, len: 1, to: 4 };
        assert_eq!(last(&[extension(true)]), Ran::Break);
        let mut six = syn();
        six.v6 = true;
        (six.source, six.destination) = ("2001:db8::1".parse().unwrap(), "2001:db8::2".parse().unwrap());
        let rule = [extension(true), is(&[0])];
        assert_eq!(run_with(&six, &Path::new(), Hook::Input, ct::NEW, &rule).pop(), Some(Ran::Next));
        // The socket of a SYN that comes in.
        assert_eq!(last(&[meta(keys::meta::SKUID), not_zero()]), Ran::Break);
    }

    #[test]
    fn host_order_keys_are_in_the_machines_order() {
        let turned = |size| Native::ByteOrder { from: 4, to: 4, len: 4, size };
        assert_eq!(
            last(&[ct_key(keys::ct::STATE), mask(4, &10u32.to_ne_bytes()), compare(Compare::NotEqual, &[0; 4])]),
            Ran::Next
        );
        assert_eq!(last(&[ct_key(keys::ct::STATE), turned(4), is(&8u32.to_be_bytes())]), Ran::Next);
        assert_eq!(last(&[meta(keys::meta::PROTOCOL), is(&[8, 0])]), Ran::Next);
        assert_eq!(last(&[meta(keys::meta::NFPROTO), is(&[2])]), Ran::Next);
        let mut name = *b"eth0\0\0\0\0\0\0\0\0\0\0\0\0";
        assert_eq!(last(&[meta(keys::meta::IIFNAME), is(&name)]), Ran::Next);
        assert_eq!(last(&[meta(keys::meta::IIFNAME), is(b"et")]), Ran::Next);
        name[4] = b'1';
        assert_eq!(last(&[meta(keys::meta::IIFNAME), is(&name)]), Ran::Break);
        // A packet's length: 40 to 80 bytes.
        let length = || meta(keys::meta::LEN);
        assert_eq!(last(&[length(), turned(4), compare(Compare::LessOrEqual, &80u32.to_be_bytes())]), Ran::Next);
        assert_eq!(last(&[length(), turned(4), compare(Compare::Less, &40u32.to_be_bytes())]), Ran::Break);
        assert!(matches!(last(&[length(), turned(4), compare(Compare::Less, &60u32.to_be_bytes())]), Ran::Perhaps(_)));
        assert!(matches!(last(&[length(), is(&60u32.to_ne_bytes())]), Ran::Perhaps(_)));
        assert_eq!(last(&[length(), is(&500u32.to_ne_bytes())]), Ran::Break);
    }

    #[test]
    fn shifts_run_over_words() {
        // nft_bitwise_eval_lshift: the first word is the highest.
        let words = |a: u32, b: u32| [a.to_ne_bytes(), b.to_ne_bytes()].concat();
        assert_eq!(shift(&words(1, 0x8000_0001), 4, true, 0), words(0x18, 0x10));
        assert_eq!(shift(&words(0x11, 0x10), 4, false, 0), words(1, 0x1000_0001));
        assert_eq!(shift(&words(0, 0), 4, true, 0xff), words(0, 0xf));
        assert_eq!(shift(&words(0, 0), 4, false, 0xff), words(0xf000_0000, 0));
        let value = |op| Native::Bitwise { from: 4, to: 4, len: 4, op };
        let five = Native::Immediate { to: 4, data: 5u32.to_ne_bytes().into() };
        let eight = Native::Immediate { to: 5, data: 8u32.to_ne_bytes().into() };
        assert_eq!(last(&[five.clone(), value(Bitwise::ShiftLeft(8)), is(&0x500u32.to_ne_bytes())]), Ran::Next);
        assert_eq!(last(&[five, eight, value(Bitwise::Or(5)), is(&13u32.to_ne_bytes())]), Ran::Next);
        // A known 0 makes the AND with something unknown known.
        let none = Native::Immediate { to: 5, data: Box::new([0; 4]) };
        assert_eq!(last(&[meta(keys::meta::PRANDOM), none, value(Bitwise::And(5)), is(&[0; 4])]), Ran::Next);
    }

    #[test]
    fn a_miss_in_a_verdict_map_ends_the_rule_and_continue_goes_on_with_it() {
        let port = || load(TRANSPORT, 2, 2);
        let map = |port: u16, target| look(set(2, vec![element(&port.to_be_bytes(), verdict(target))]));
        assert_eq!(last(&[port(), map(22, Target::Accept), Native::Go(Target::Drop)]), Ran::Break);
        assert_eq!(last(&[port(), map(5672, Target::Accept), Native::Go(Target::Drop)]), Ran::Go(Target::Accept));
        assert_eq!(last(&[port(), map(5672, Target::Continue), Native::Go(Target::Drop)]), Ran::Go(Target::Drop));
        let mut all = set(2, vec![element(&22u16.to_be_bytes(), verdict(Target::Accept))]);
        all.elements.push(Element { catch_all: true, ..element(&[], verdict(Target::Drop)) });
        assert_eq!(last(&[port(), look(all)]), Ran::Go(Target::Drop));
        // With the client's port unknown, what all possible elements say is said.
        let boundary = |port: u16, end, target| Element { interval_end: end, ..element(&port.to_be_bytes(), target) };
        let from = |low: Target, high: Target, end: bool| {
            let elements = vec![
                boundary(1024, false, verdict(low)),
                boundary(40000, true, None),
                boundary(40000, false, verdict(high)),
                boundary(if end { 50000 } else { 61000 }, true, None),
            ];
            Set { interval: true, ..set(2, elements) }
        };
        let source = || load(TRANSPORT, 0, 2);
        assert_eq!(last(&[source(), look(from(Target::Accept, Target::Accept, false))]), Ran::Go(Target::Accept));
        let ran = last(&[source(), look(from(Target::Accept, Target::Drop, false))]);
        let Ran::Choice { targets, breaks: false, goes_on: false, .. } = ran else { panic!("{ran:?}") };
        assert_eq!(targets, [Target::Accept, Target::Drop]);
        let ran = last(&[source(), look(from(Target::Continue, Target::Drop, true))]);
        let Ran::Choice { targets, breaks: true, goes_on: true, .. } = ran else { panic!("{ran:?}") };
        assert_eq!(targets, [Target::Drop]);
    }

    #[test]
    fn elements_with_a_limit_may_end_the_rule() {
        let limited = |data| Element { inner: vec![Native::Perhaps { what: "a limit".to_owned() }], ..element(&[6], data) };
        assert_eq!(last(&[meta(keys::meta::L4PROTO), look(set(1, vec![limited(None)]))]), Ran::Perhaps("a limit".to_owned()));
        let ran = last(&[meta(keys::meta::L4PROTO), look(set(1, vec![limited(verdict(Target::Drop))]))]);
        assert!(matches!(ran, Ran::Choice { breaks: true, goes_on: false, .. }));
        let counted = Element { inner: vec![Native::Counter], ..element(&[6], verdict(Target::Drop)) };
        assert_eq!(last(&[meta(keys::meta::L4PROTO), look(set(1, vec![counted]))]), Ran::Go(Target::Drop));
    }

    #[test]
    fn a_set_that_packets_change_is_taken_as_it_stands() {
        let addresses = || Set { size: Some(2), ..set(4, vec![element(&[10, 1, 2, 3], None)]) };
        let add = |set, delete| Native::SetUpdate { set: Arc::new(set), delete, not: false, inner: Vec::new() };
        assert_eq!(last(&[load(Base::Network, 12, 4), look(addresses())]), Ran::Next);
        assert_eq!(last(&[add(addresses(), false)]), Ran::Changed { set: "s".to_owned(), perhaps: None });
        let mut full = addresses();
        full.size = Some(1);
        assert!(matches!(last(&[add(full.clone(), false)]), Ran::Changed { perhaps: Some(_), .. }));
        assert!(matches!(last(&[add(full, true)]), Ran::Changed { perhaps: None, .. }));
    }

    #[test]
    fn maps_give_values() {
        let to_mark = |elements| Native::Lookup { set: Arc::new(set(2, elements)), from: 4, to: Some(4), not: false };
        let value = |mark: u32| Some(Data::Value(mark.to_ne_bytes().into()));
        let set_mark = Native::MetaSet { key: keys::meta::MARK, from: 4 };
        let one = to_mark(vec![element(&5672u16.to_be_bytes(), value(7))]);
        let marked = |value| Ran::Mark { connection: false, value };
        assert_eq!(last(&[load(TRANSPORT, 2, 2), one, set_mark.clone()]), marked(Some(7)));
        let elements = vec![element(&40000u16.to_be_bytes(), value(6)), element(&41000u16.to_be_bytes(), value(7))];
        let either = to_mark(elements);
        assert_eq!(last(&[load(TRANSPORT, 0, 2), either.clone(), set_mark]), marked(None));
        // The bits in which both values agree are known.
        assert_eq!(last(&[load(TRANSPORT, 0, 2), either, mask(4, &4u32.to_ne_bytes()), is(&4u32.to_ne_bytes())]), Ran::Next);
    }

    #[test]
    fn translations_take_their_values_from_registers() {
        let address = Native::Immediate { to: 4, data: Box::new([172, 17, 0, 2]) };
        let port = Native::Immediate { to: 8, data: 5672u16.to_be_bytes().into() };
        let nat = |v6, port| Native::Nat { kind: model::Nat::Destination, v6, address: Some((4, 4)), port };
        let to: IpAddr = "172.17.0.2".parse().unwrap();
        let expected = Translation { kind: model::Nat::Destination, address: Some((to, to)), port: Some((5672, 5672)) };
        let rule = [address.clone(), port, nat(false, Some((8, 8)))];
        assert_eq!(last(&rule), Ran::Go(Target::Translate(expected)));
        assert_eq!(last(&[address.clone(), nat(true, None)]), Ran::Next);
        let open = [address, meta(keys::meta::PRANDOM), nat(false, None)];
        assert!(matches!(last(&open), Ran::Go(Target::Undecided(_))));
    }

    #[test]
    fn conntrack_tells_both_directions() {
        let key = |key, direction| Native::Ct { key, direction: Some(direction), to: 4 };
        use keys::ct::{DST_IP, PROTO_DST, PROTO_SRC, SRC_IP, SRC_IP6};
        assert_eq!(last(&[key(SRC_IP, 0), is(&[10, 1, 2, 3])]), Ran::Next);
        assert_eq!(last(&[key(DST_IP, 1), is(&[10, 1, 2, 3])]), Ran::Next);
        assert_eq!(last(&[key(SRC_IP6, 0)]), Ran::Break);
        assert_eq!(last(&[key(PROTO_DST, 0), is(&5672u16.to_be_bytes())]), Ran::Next);
        assert_eq!(last(&[key(PROTO_SRC, 0), ports(false, 1024, 65535)]), Ran::Next);
        assert_eq!(last(&[key(PROTO_DST, 1), is(&22u16.to_be_bytes())]), Ran::Break);
    }

    #[test]
    fn nothing_from_a_broken_dump_panics() {
        let rule = [
            Native::Payload { base: Base::Network, offset: 12, len: 255, to: 15 },
            Native::Bitwise { from: 15, to: 200, len: 255, op: Bitwise::ShiftLeft(99) },
            Native::ByteOrder { from: 14, to: 15, len: 255, size: 0 },
            Native::Immediate { to: 99, data: vec![1; 300].into() },
            Native::Bitwise { from: 3, to: 4, len: 80, op: Bitwise::And(15) },
        ];
        let model = Model::default();
        let (flight, path) = (syn(), Path::new());
        let headers = OnceCell::new();
        let (hook, family, state) = (Hook::Input, Family::Ip, ct::NEW);
        let view = View { model: &model, flight: &flight, path: &path, hook, family, state, headers: &headers };
        let mut registers = Registers::default();
        for native in &rule {
            registers.run(native, &view);
        }
        registers.run(&compare(Compare::Less, &[0; 200]), &view);
        registers.run(&look(set(300, vec![element(&[1], None)])), &view);
        registers.run(&look(Set { interval: true, fields: vec![4, 2], ..set(7, vec![element(&[0; 7], None)]) }), &view);
    }
}

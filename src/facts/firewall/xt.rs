//! Extensions of iptables inside nf_tables rules (`match` and `target` expressions of iptables-nft): binary structures of
//! include/uapi/linux/netfilter/xt_*.h, decoded to the same steps as iptables-save text is. Numbers are in the byte order of the
//! machine unless the structure says otherwise; alignment is that of 64-bit Linux.

use super::meaning::{self, AddressTypes, Conntrack, Order, Recent, exactly};
use super::model::{Key, Nat, Part, Step, Target, Test};
use std::net::IpAddr;

/// One extension as the kernel gives it out.
pub struct Extension<'a> {
    pub name: &'a str,
    pub revision: u32,
    pub info: &'a [u8],
    pub v6: bool,
}

/// What a match tests. Extensions not known here, and those of another shape, become undecided tests that name them.
pub fn matches(extension: &Extension, ip_set_names: &dyn Fn(u16) -> Option<String>) -> Vec<Step> {
    decoded(extension, ip_set_names)
        .unwrap_or_else(|| vec![Step::Test(Test::Undecided(format!("the extension {}", extension.name)))])
}

/// What a target does; no step: nothing that a later test looks at.
pub fn target(extension: &Extension, ip_set_names: &dyn Fn(u16) -> Option<String>) -> Vec<Step> {
    if let Some(step) = meaning::plain_target(extension.name) {
        return step.into_iter().collect();
    }
    let why = || vec![Step::Go(Target::Undecided(format!("the target {}", extension.name)))];
    decoded_target(extension, ip_set_names).unwrap_or_else(why)
}

/// The bytes of a structure.
#[derive(Clone, Copy)]
struct Info<'a>(&'a [u8]);

impl<'a> Info<'a> {
    /// The kernel pads what it gives out to 8 bytes.
    fn sized(self, size: usize) -> Option<Self> {
        (self.0.len() == size || self.0.len() == size.next_multiple_of(8)).then_some(self)
    }
    fn bytes<const N: usize>(self, at: usize) -> Option<[u8; N]> {
        self.0.get(at..at.checked_add(N)?)?.try_into().ok()
    }
    fn u8(self, at: usize) -> Option<u8> {
        self.0.get(at).copied()
    }
    fn u16(self, at: usize) -> Option<u16> {
        self.bytes(at).map(u16::from_ne_bytes)
    }
    fn be16(self, at: usize) -> Option<u16> {
        self.bytes(at).map(u16::from_be_bytes)
    }
    fn u32(self, at: usize) -> Option<u32> {
        self.bytes(at).map(u32::from_ne_bytes)
    }
    /// `union nf_inet_addr` as a number.
    fn address(self, at: usize, v6: bool) -> Option<u128> {
        match v6 {
            true => self.bytes(at).map(u128::from_be_bytes),
            false => self.bytes(at).map(|b| u32::from_be_bytes(b).into()),
        }
    }
    fn ip(self, at: usize, v6: bool) -> Option<IpAddr> {
        match v6 {
            true => self.bytes::<16>(at).map(IpAddr::from),
            false => self.bytes::<4>(at).map(IpAddr::from),
        }
    }
    fn text(self, at: usize, size: usize) -> Option<&'a str> {
        let bytes = self.0.get(at..at.checked_add(size)?)?;
        std::str::from_utf8(bytes.split(|b| *b == 0).next()?).ok()
    }
}

fn decoded(extension: &Extension, ip_set_names: &dyn Fn(u16) -> Option<String>) -> Option<Vec<Step>> {
    let info = Info(extension.info);
    let v6 = extension.v6;
    let mut out = Vec::new();
    match (extension.name, extension.revision) {
        ("comment", _) => {}
        ("conntrack", revision @ 1..=3) => conntrack(&mut out, info, revision, v6)?,
        ("state", 0) => {
            let mask = info.sized(4)?.u32(0)?;
            // xt_state has no translations and UNTRACKED in their place (bit 6).
            let untracked = if mask & 0x40 != 0 { meaning::state::UNTRACKED } else { 0 };
            let states = Some(((mask & 0x0f) as u16 | untracked, false));
            Conntrack { states, others: Vec::new() }.finish(&mut out);
        }
        ("tcp", 0) => tcp(&mut out, info.sized(12)?)?,
        ("udp", 0) => {
            let info = info.sized(10)?;
            port_ranges(&mut out, info, info.u8(8)?)?;
        }
        ("multiport", 0 | 1) => multiport(&mut out, info, extension.revision)?,
        ("addrtype", revision @ (0 | 1)) => address_types(info, revision)?.finish(&mut out, v6),
        ("set", revision @ 0..=4) => ip_set(&mut out, info, revision, ip_set_names)?,
        ("iprange", 1) => ip_range(&mut out, info.sized(68)?, v6)?,
        ("mark", 1) | ("connmark", 1) => {
            let info = info.sized(12)?;
            meaning::mark(&mut out, extension.name == "connmark", info.u32(0)?, info.u32(4)?, info.u8(8)? != 0);
        }
        ("mac", 0) => {
            let info = info.sized(12)?;
            meaning::mac(&mut out, info.bytes(0)?, info.u32(8)? != 0);
        }
        ("pkttype", 0) => {
            let info = info.sized(8)?;
            meaning::packet_type(&mut out, info.u32(0)?, info.u32(4)? != 0);
        }
        ("limit", 0) => meaning::limit(&mut out, info.sized(40)?.u32(0)?.into()),
        ("hashlimit", 1) => meaning::hashlimit(&mut out, info.sized(56)?.text(0, 16)?),
        ("hashlimit", 2) => meaning::hashlimit(&mut out, info.sized(304)?.text(0, 255)?),
        ("hashlimit", 3) => meaning::hashlimit(&mut out, info.sized(312)?.text(0, 255)?),
        ("recent", revision @ (0 | 1)) => {
            let info = info.sized(if revision == 0 { 212 } else { 228 })?;
            let flags = info.u8(8)?;
            let (seconds, hits, not) = (info.u32(0)?, info.u32(4)?, info.u8(9)? != 0);
            Recent { name: info.text(10, 200)?.to_owned(), set: flags & 2 != 0, seconds, hits, not }.finish(&mut out);
        }
        ("physdev", 0) => {
            let info = info.sized(66)?;
            let (invert, used) = (info.u8(64)?, info.u8(65)?);
            for bit in (0..5).map(|n| 1 << n).filter(|bit| used & bit != 0) {
                meaning::physdev(&mut out, invert & bit != 0);
            }
        }
        ("icmp" | "icmp6", 0) => {
            let info = info.sized(4)?;
            meaning::icmp(&mut out, info.u8(0)?, (info.u8(1)?, info.u8(2)?), info.u8(3)? & 1 != 0);
        }
        ("length", 0) => {
            let info = info.sized(6)?;
            meaning::is(&mut out, Key::Length, Part::Span(info.u16(0)?.into(), info.u16(2)?.into()), info.u8(4)? != 0);
        }
        ("ttl" | "hl", 0) => {
            let info = info.sized(2)?;
            // The two number "less" and "greater" alike.
            let order = match info.u8(0)? {
                0 => Order::Equal,
                1 => Order::NotEqual,
                2 => Order::Less,
                3 => Order::Greater,
                _ => return None,
            };
            meaning::ttl(&mut out, order, info.u8(1)?);
        }
        ("dscp", 0) => {
            let info = info.sized(2)?;
            meaning::dscp(&mut out, info.u8(0)?, info.u8(1)? != 0);
        }
        ("tos", 1) => {
            let info = info.sized(3)?;
            meaning::masked(&mut out, Key::Tos, info.u8(1)?.into(), info.u8(0)?.into(), info.u8(2)? != 0);
        }
        ("owner", 1) => owner(&mut out, info.sized(20)?)?,
        ("rpfilter", 0) => {
            let flags = info.sized(1)?.u8(0)?;
            meaning::rpfilter(&mut out, flags & 1 != 0, flags & 4 != 0, flags & 8 != 0);
        }
        ("helper", 0) => meaning::helper(&mut out, info.sized(36)?.u32(0)? != 0),
        ("ipv6header", 0) => {
            let info = info.sized(3)?;
            meaning::ipv6_headers(&mut out, info.u8(0)?, info.u8(1)?, info.u8(2)? != 0);
        }
        (name, _) if meaning::never_tcp(name) => meaning::constant(&mut out, false),
        ("conntrack" | "multiport" | "addrtype" | "set" | "iprange" | "mark" | "connmark", _) => return None,
        (name, _) => meaning::undecided(&mut out, meaning::rests_on(name)),
    }
    Some(out)
}

/// `struct xt_conntrack_mtinfo1` to `3`: four addresses with their masks, then the rest.
fn conntrack(out: &mut Vec<Step>, info: Info, revision: u32, v6: bool) -> Option<()> {
    let info = info.sized(match revision {
        1 => 152,
        2 => 156,
        _ => 164,
    })?;
    let (used, inverted) = (info.u16(146)?, info.u16(148)?);
    let (states, status) = match revision {
        1 => (info.u8(150)?.into(), info.u8(151)?.into()),
        _ => (info.u16(150)?, info.u16(152)?),
    };
    let is = |bit: u16| (used & bit != 0).then_some(inverted & bit != 0);
    let mut all = Conntrack { states: is(1).map(|not| (states, not)), others: Vec::new() };
    if let Some(not) = is(1 << 12) {
        // The flag alone asks for the original direction; `--ctdir REPLY` is its inversion.
        all.direction(false, not);
    }
    let addresses = [Key::OriginalSource, Key::OriginalDestination, Key::ReplySource, Key::ReplyDestination];
    for (n, key) in addresses.into_iter().enumerate() {
        if let Some(not) = is(1 << (n + 2)) {
            let at = n * 32;
            meaning::address(&mut all.others, key, info.address(at, v6)?, info.address(at + 16, v6)?, v6, not);
        }
    }
    if let Some(not) = is(2) {
        meaning::is(&mut all.others, Key::CtProtocol, exactly(info.u16(136)?.into()), not);
    }
    let ports = [Key::OriginalSourcePort, Key::OriginalPort, Key::ReplySourcePort, Key::ReplyPort];
    for (n, key) in ports.into_iter().enumerate() {
        if let Some(not) = is(1 << (n + 8)) {
            let at = 138 + n * 2;
            // One port in network order; from revision 3 on a range in the machine's.
            let range = match revision {
                3 => (info.u16(at)?, info.u16(154 + n * 2)?),
                _ => (info.be16(at)?, info.be16(at)?),
            };
            meaning::ports(&mut all.others, key, &[range], not);
        }
    }
    if let Some(not) = is(1 << 6) {
        all.status(status, not);
    }
    if is(1 << 7).is_some() {
        all.expires();
    }
    all.finish(out);
    Some(())
}

/// Source and destination ports of `struct xt_tcp` and `struct xt_udp`, which begin alike.
fn port_ranges(out: &mut Vec<Step>, info: Info, inverted: u8) -> Option<()> {
    let ranges = [(Key::SourcePort, 0, 1), (Key::DestinationPort, 4, 2)];
    for (key, at, bit) in ranges {
        let (range, not) = ((info.u16(at)?, info.u16(at + 2)?), inverted & bit != 0);
        if range != (0, u16::MAX) || not {
            meaning::ports(out, key, &[range], not);
        }
    }
    Some(())
}

fn tcp(out: &mut Vec<Step>, info: Info) -> Option<()> {
    let (option, mask, value, inverted) = (info.u8(8)?, info.u8(9)?, info.u8(10)?, info.u8(11)?);
    port_ranges(out, info, inverted)?;
    if mask != 0 || value != 0 || inverted & 4 != 0 {
        meaning::tcp_flags(out, mask, value, inverted & 4 != 0);
    }
    if option != 0 {
        meaning::is(out, Key::TcpOption(option), exactly(1), inverted & 8 != 0);
    }
    Some(())
}

fn multiport(out: &mut Vec<Step>, info: Info, revision: u32) -> Option<()> {
    let info = info.sized(if revision == 0 { 32 } else { 48 })?;
    let not = revision == 1 && info.u8(47)? != 0;
    let count = usize::from(info.u8(1)?);
    if count > 15 {
        return None;
    }
    let mut ranges = Vec::with_capacity(count);
    let mut n = 0;
    while n < count {
        let first = info.u16(2 + n * 2)?;
        // A flag beside a port: the next one is the end of its range.
        if revision == 1 && info.u8(32 + n)? != 0 && n + 1 < count {
            n += 1;
        }
        ranges.push((first, info.u16(2 + n * 2)?));
        n += 1;
    }
    match info.u8(0)? {
        0 => meaning::ports(out, Key::SourcePort, &ranges, not),
        1 => meaning::ports(out, Key::DestinationPort, &ranges, not),
        2 => meaning::either_port(out, &ranges, not),
        _ => return None,
    }
    Some(())
}

fn address_types(info: Info, revision: u32) -> Option<AddressTypes> {
    let (invert_source, invert_destination, limits) = if revision == 0 {
        let info = info.sized(12)?;
        (info.u32(4)? != 0, info.u32(8)? != 0, 0)
    } else {
        let flags = info.sized(8)?.u32(4)?;
        (flags & 1 != 0, flags & 2 != 0, flags)
    };
    let some = |mask: u16, not: bool| (mask != 0).then_some((mask, not));
    Some(AddressTypes {
        source: some(info.u16(0)?, invert_source),
        destination: some(info.u16(2)?, invert_destination),
        limit_in: limits & 4 != 0,
        limit_out: limits & 8 != 0,
    })
}

fn ip_set(out: &mut Vec<Step>, info: Info, revision: u32, names: &dyn Fn(u16) -> Option<String>) -> Option<()> {
    let (source, not): (Vec<bool>, bool) = if revision == 0 {
        let info = info.sized(32)?;
        let mut sides = Vec::new();
        for n in 0..5 {
            match info.u32(4 + n * 4)? {
                0 => break,
                flags => sides.push(flags & 1 != 0),
            }
        }
        (sides, info.u32(4)? & 4 != 0)
    } else {
        let info = info.sized(if revision < 3 { 4 } else { 48 })?;
        let (dimensions, flags) = (info.u8(2)?, info.u8(3)?);
        if dimensions > 6 {
            return None;
        }
        ((1..=dimensions).map(|n| flags >> n & 1 == 1).collect(), flags & 1 != 0)
    };
    // Comparisons with counters of the element, and `--return-nomatch`.
    let counters = match revision {
        3 => info.u8(8)? != 0 || info.u8(24)? != 0,
        4 => info.u8(16)? != 0 || info.u8(32)? != 0,
        _ => false,
    };
    let nomatch = match revision {
        2 => info.u8(3)? & 0x80 != 0,
        3 => info.u32(40)? & 0x80 != 0,
        4 => info.u32(40)? & 0x80 != 0,
        _ => false,
    };
    match names(info.u16(0)?) {
        None => meaning::undecided(out, "an ipset"),
        Some(name) if counters || nomatch => meaning::undecided(out, format!("the ipset {name}")),
        Some(name) => meaning::ip_set(out, &name, &source, not),
    }
    Some(())
}

fn ip_range(out: &mut Vec<Step>, info: Info, v6: bool) -> Option<()> {
    let flags = info.u8(64)?;
    for (key, at, used, inverted) in [(Key::Source, 0, 1, 0x10), (Key::Destination, 32, 2, 0x20)] {
        if flags & used != 0 {
            let part = Part::Span(info.address(at, v6)?, info.address(at + 16, v6)?);
            meaning::is(out, key, part, flags & inverted != 0);
        }
    }
    Some(())
}

fn owner(out: &mut Vec<Step>, info: Info) -> Option<()> {
    let (used, inverted) = (info.u8(16)?, info.u8(17)?);
    if used & 1 != 0 {
        meaning::owner(out, info.u32(0)?, info.u32(4)?, inverted & 1 != 0);
    }
    if used & 0x0e != 0 {
        meaning::undecided(out, "owner: the sending socket");
    }
    Some(())
}

fn decoded_target(extension: &Extension, ip_set_names: &dyn Fn(u16) -> Option<String>) -> Option<Vec<Step>> {
    let info = Info(extension.info);
    let v6 = extension.v6;
    let step = match (extension.name, extension.revision) {
        ("REJECT", 0) => meaning::reject(info.sized(4)?.u32(0)?, v6)?,
        ("MARK", 2) => {
            let info = info.sized(8)?;
            meaning::set_mark(false, info.u32(0)?, info.u32(4)?)
        }
        ("CONNMARK", revision @ (1 | 2)) => connection_mark(info, revision)?,
        ("CT", revision @ 0..=2) => {
            let flags = info.sized(if revision == 0 { 40 } else { 72 })?.u16(0)?;
            return Some((flags & 1 != 0).then_some(Step::Notrack).into_iter().collect());
        }
        ("DNAT", 0..=2) => nat(Nat::Destination, info, v6)?,
        ("REDIRECT", 0) => nat(Nat::Redirect, info, v6)?,
        ("NETMAP", 0) => nat(Nat::Netmap, info, v6)?,
        ("SNAT" | "MASQUERADE", 0..=2) => nat(Nat::Source, info, v6)?,
        ("NFQUEUE", 0..=1) => meaning::queue(false),
        ("NFQUEUE", 2..=3) => meaning::queue(info.sized(6)?.u16(4)? & 1 != 0),
        ("SET", revision @ 0..=3) => return set_target(info, revision, ip_set_names),
        _ => return None,
    };
    Some(vec![step])
}

fn connection_mark(info: Info, revision: u32) -> Option<Step> {
    let info = info.sized(16)?;
    let (mark, ct_mask, packet_mask) = (info.u32(0)?, info.u32(4)?, info.u32(8)?);
    let (shift, mode) = if revision == 1 { (0, info.u8(12)?) } else { (info.u8(13)?, info.u8(14)?) };
    match mode {
        0 if shift == 0 => Some(meaning::set_mark(true, mark, ct_mask)),
        1 if shift == 0 => Some(meaning::copy_mark(false, packet_mask, ct_mask)),
        2 if shift == 0 => Some(meaning::copy_mark(true, ct_mask, packet_mask)),
        0 | 1 => Some(Step::SetMark { connection: true, change: None }),
        2 => Some(Step::SetMark { connection: false, change: None }),
        _ => None,
    }
}

/// The three shapes of a range: `nf_nat_ipv4_multi_range_compat`, `nf_nat_range`, `nf_nat_range2`.
fn nat(kind: Nat, info: Info, v6: bool) -> Option<Step> {
    let compat = info.sized(20).is_some();
    if !compat && info.sized(40).is_none() && info.sized(44).is_none() {
        return None;
    }
    if compat && (v6 || info.u32(0)? != 1) {
        return None;
    }
    let (flags, first, last, ports) = match compat {
        true => (info.u32(4)?, info.ip(8, false)?, info.ip(12, false)?, 16),
        false => (info.u32(0)?, info.ip(4, v6)?, info.ip(20, v6)?, 36),
    };
    let address = (flags & 1 != 0 || kind == Nat::Netmap).then_some((first, last));
    let port = (flags & 2 != 0).then_some((info.be16(ports)?, info.be16(ports + 2)?));
    Some(meaning::translate(kind, address, port))
}

/// SET adds to sets, takes from them, and may set the mark from one (revision 3).
fn set_target(info: Info, revision: u32, names: &dyn Fn(u16) -> Option<String>) -> Option<Vec<Step>> {
    let each = if revision == 0 { 32 } else { 4 };
    let info = info.sized(match revision {
        0 => 64,
        1 => 8,
        2 => 16,
        _ => 20,
    })?;
    let mut out = Vec::new();
    for at in [0, each] {
        // IPSET_INVALID_ID: not used
        let index = info.u16(at)?;
        if index != u16::MAX {
            out.push(Step::ChangeSet(names(index)?));
        }
    }
    // IPSET_FLAG_MAP_SKBMARK
    if revision == 3 && info.u16(8)? != u16::MAX && info.u32(12)? & (1 << 8) != 0 {
        out.push(Step::SetMark { connection: false, change: None });
    }
    Some(out)
}

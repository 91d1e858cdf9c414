//! The kernel's dump of nf_tables ([`crate::host::Host::nf_tables`]) as tables, chains and rules
//! (include/uapi/linux/netfilter/nf_tables.h). Numbers in attributes are big-endian; what goes into registers is as it is.
//!
//! What a newer kernel says and this does not know makes the rule undecided and is named; a dump that is not whole is an error,
//! because the rules that are missing could be those that decide.

use super::model::{Base as Hooked, *};
use super::native::{Base, Bitwise, Compare, Data, FibResult, Native, Slot};
use super::native::{Element as SetElement, Set as NativeSet};
use super::xt;
use crate::formats::netlink::{self as nl, Attribute, Message, attributes, messages};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Tables that iptables-nft makes.
const IPTABLES_TABLES: [&str; 5] = ["raw", "mangle", "nat", "filter", "security"];

/// `NFNL_SUBSYS_NFTABLES`
const SUBSYSTEM: u16 = 10 << 8;
const NEW_TABLE: u16 = SUBSYSTEM;
const NEW_CHAIN: u16 = SUBSYSTEM | 3;
const NEW_RULE: u16 = SUBSYSTEM | 6;
const NEW_SET: u16 = SUBSYSTEM | 9;
const NEW_ELEMENTS: u16 = SUBSYSTEM | 12;
const NEW_GENERATION: u16 = SUBSYSTEM | 15;
const NEW_OBJECT: u16 = SUBSYSTEM | 18;
const NEW_FLOWTABLE: u16 = SUBSYSTEM | 22;
/// `struct nfgenmsg`
const NFGENMSG: usize = 4;

/// Bytes of the register file.
const REGISTERS: u8 = 64;

type Result<T> = std::result::Result<T, String>;

/// A table of any family, arp and bridge included: (family number, name).
type TableId = (u8, String);

/// Names of ipsets by their number in the kernel, which extensions of iptables hold.
pub type SetNames<'a> = &'a dyn Fn(u16) -> Option<String>;

/// All tables that see IP packets. An error: the dump is not whole, or not of one moment.
pub fn tables(dump: &[u8], set_names: SetNames) -> Result<Vec<Table>> {
    let all = sorted(dump)?;
    let mut found = Vec::new();
    for message in &all.tables {
        found.extend(table(message)?);
    }
    for message in &all.chains {
        chain(message, &mut found)?;
    }
    let sets = all.sets()?;
    // Sets that packets change are taken as they stand: the walk knows when the packet itself changed one before.
    let mut rules = Rules { sets: &sets, set_names, rewritten: Vec::new() };
    rules.read(&all.rules, &mut found)?;
    let rewritten = rules.rewritten;
    let mut tables: Vec<Table> = found.into_iter().map(finished).collect();
    if !rewritten.is_empty() {
        forget_rewritten(&mut tables, &rewritten);
    }
    Ok(tables)
}

/// The messages of a dump by what they list.
#[derive(Default)]
struct Sorted<'a> {
    tables: Vec<Message<'a>>,
    chains: Vec<Message<'a>>,
    rules: Vec<Message<'a>>,
    sets: Vec<Message<'a>>,
    elements: Vec<Message<'a>>,
}

fn sorted(dump: &[u8]) -> Result<Sorted<'_>> {
    let mut all = Sorted::default();
    let mut generations = Vec::new();
    let mut last = 0;
    for message in messages(dump) {
        let message = message.map_err(|broken| broken.to_string())?;
        last = message.kind;
        match message.kind {
            NEW_TABLE => all.tables.push(message),
            NEW_CHAIN => all.chains.push(message),
            NEW_RULE => all.rules.push(message),
            NEW_SET => all.sets.push(message),
            NEW_ELEMENTS => all.elements.push(message),
            NEW_GENERATION => generations.push(Fields::of_message(&message)?.number(1)?),
            NEW_OBJECT | NEW_FLOWTABLE => {}
            other => return Err(format!("a message of kind {other:#x} does not belong there")),
        }
    }
    match generations.as_slice() {
        [before, after] if last == NEW_GENERATION && before == after => Ok(all),
        [_, _] if last == NEW_GENERATION => Err("the ruleset changed while it was read".to_owned()),
        _ => Err("the answer is cut off".to_owned()),
    }
}

/// Attributes of one level by their number.
struct Fields<'a> {
    at: [Option<&'a [u8]>; 16],
    /// An attribute of a number that no kernel known here has.
    beyond: Option<u16>,
}

impl<'a> Fields<'a> {
    fn of(bytes: &'a [u8]) -> Result<Fields<'a>> {
        let mut fields = Fields { at: [None; 16], beyond: None };
        for attribute in attributes(bytes) {
            let Attribute { kind, value } = attribute.map_err(|broken| broken.to_string())?;
            match fields.at.get_mut(usize::from(kind)) {
                Some(place) => *place = Some(value),
                None => fields.beyond = Some(kind),
            }
        }
        Ok(fields)
    }

    fn of_message(message: &Message<'a>) -> Result<Fields<'a>> {
        let (_, attributes) = message.split(NFGENMSG).ok_or("a message is too short")?;
        Fields::of(attributes)
    }

    /// The first attribute whose number is greater than `last`.
    fn unknown(&self, last: u16) -> Option<u16> {
        let first = usize::from(last) + 1;
        let known = self.at.iter().enumerate().skip(first).find(|(_, value)| value.is_some());
        known.and_then(|(kind, _)| u16::try_from(kind).ok()).or(self.beyond)
    }

    fn has(&self, kind: usize) -> bool {
        self.at[kind].is_some()
    }

    fn bytes(&self, kind: usize) -> Result<&'a [u8]> {
        self.at[kind].ok_or_else(|| format!("attribute {kind} is missing"))
    }

    fn text(&self, kind: usize) -> Result<String> {
        self.bytes(kind).map(nl::text)
    }

    /// Of one to eight bytes.
    fn number(&self, kind: usize) -> Result<u64> {
        let bytes = self.bytes(kind)?;
        if bytes.is_empty() || bytes.len() > 8 {
            return Err(format!("attribute {kind} is a number of {} bytes", bytes.len()));
        }
        Ok(bytes.iter().fold(0, |n, b| n << 8 | u64::from(*b)))
    }

    fn u32(&self, kind: usize) -> Result<u32> {
        u32::try_from(self.number(kind)?).map_err(|_| format!("attribute {kind} is too large"))
    }

    fn u32_or(&self, kind: usize, default: u32) -> Result<u32> {
        if self.has(kind) { self.u32(kind) } else { Ok(default) }
    }

    fn u8(&self, kind: usize) -> Result<u8> {
        u8::try_from(self.number(kind)?).map_err(|_| format!("attribute {kind} is too large"))
    }

    /// A register as the slot it begins in.
    fn slot(&self, kind: usize) -> Result<Slot> {
        match self.u32(kind)? {
            n @ 1..=4 => Ok((n as u8 - 1) * 4),
            n @ 8..=23 => Ok(n as u8 - 8),
            n => Err(format!("there is no register {n}")),
        }
    }

    fn slot_if(&self, kind: usize) -> Result<Option<Slot>> {
        if self.has(kind) { self.slot(kind).map(Some) } else { Ok(None) }
    }

    /// `NFTA_DATA_VALUE` inside the attribute.
    fn value(&self, kind: usize) -> Result<Box<[u8]>> {
        Fields::of(self.bytes(kind)?)?.bytes(1).map(Box::from)
    }
}

/// A table on its way into the model.
struct Draft {
    id: TableId,
    table: Table,
    places: BTreeMap<String, usize>,
}

fn table(message: &Message) -> Result<Option<Draft>> {
    const DORMANT: u32 = 1;
    /// dormant, owner, persist
    const KNOWN: u32 = 7;
    let fields = Fields::of_message(message)?;
    let number = message.body.first().copied().unwrap_or(0);
    let Some(family) = family(number)? else { return Ok(None) };
    let name = fields.text(1)?;
    let flags = fields.u32_or(2, 0)?;
    let handle = i64::try_from(fields.number(4)?).unwrap_or(i64::MAX);
    let strange = (flags & !KNOWN != 0).then(|| format!("what flags {flags:#x} of table {} {name} mean", family.name()));
    let table = Table { engine: Engine::Nftables, family, name: name.clone(), handle, chains: Vec::new(), doubt: strange };
    let mut draft = Draft { id: (number, name), table, places: BTreeMap::new() };
    // Its chains stay to be seen, but are not hooked: see `chain`.
    if flags & DORMANT != 0 {
        draft.table.handle = -1 - handle;
    }
    Ok(Some(draft))
}

/// `None`: of a family that never sees a routed packet.
fn family(number: u8) -> Result<Option<Family>> {
    match number {
        1 => Ok(Some(Family::Inet)),
        2 => Ok(Some(Family::Ip)),
        5 => Ok(Some(Family::Netdev)),
        10 => Ok(Some(Family::Ip6)),
        // arp, bridge
        3 | 7 => Ok(None),
        other => Err(format!("there is no family {other}")),
    }
}

fn draft<'a>(message: &Message, fields: &Fields, found: &'a mut [Draft]) -> Result<Option<&'a mut Draft>> {
    let number = message.body.first().copied().unwrap_or(0);
    if family(number)?.is_none() {
        return Ok(None);
    }
    let name = fields.text(1)?;
    let draft = found.iter_mut().find(|d| d.id.0 == number && d.id.1 == name);
    draft.map(Some).ok_or_else(|| format!("something belongs to table {name}, which was not listed"))
}

fn chain(message: &Message, found: &mut [Draft]) -> Result<()> {
    let fields = Fields::of_message(message)?;
    let Some(draft) = draft(message, &fields, found)? else { return Ok(()) };
    let name = fields.text(3)?;
    let base = if fields.has(4) { hooked(&fields, draft.table.family)? } else { None };
    let asleep = draft.table.handle < 0;
    draft.places.insert(name.clone(), draft.table.chains.len());
    draft.table.chains.push(Chain { name, base: base.filter(|_| !asleep), rules: Vec::new() });
    Ok(())
}

/// Added to the priority of egress chains; those of IP are 32-bit numbers.
const EGRESS: i64 = 1 << 32;

/// Where a base chain hangs; `None`: nowhere, its device is gone.
fn hooked(fields: &Fields, family: Family) -> Result<Option<Hooked>> {
    let hook = Fields::of(fields.bytes(4)?)?;
    let at = match (family, hook.u32(1)?) {
        (Family::Netdev, 0) | (Family::Inet, 5) => Hook::Ingress,
        (Family::Netdev, 1) => Hook::Postrouting,
        (Family::Netdev, n) => return Err(format!("there is no hook {n} of devices")),
        (_, 0) => Hook::Prerouting,
        (_, 1) => Hook::Input,
        (_, 2) => Hook::Forward,
        (_, 3) => Hook::Output,
        (_, 4) => Hook::Postrouting,
        (_, n) => return Err(format!("there is no hook {n}")),
    };
    let mut devices = Vec::new();
    if hook.has(3) {
        devices.push(hook.text(3)?);
    }
    if hook.has(4) {
        for device in attributes(hook.bytes(4)?) {
            let device = device.map_err(|broken| broken.to_string())?;
            // NFTA_DEVICE_PREFIX (6.16): all whose names begin so.
            let rest = if device.kind == 2 { "*" } else { "" };
            let name = nl::text(device.value) + rest;
            if !devices.contains(&name) {
                devices.push(name);
            }
        }
    }
    // Its device is gone, and the chain hangs nowhere.
    let of_devices = at == Hook::Ingress || family == Family::Netdev;
    if of_devices && devices.is_empty() {
        return Ok(None);
    }
    // Egress has priorities of its own, and comes behind all of IP.
    let behind = if family == Family::Netdev && at == Hook::Postrouting { EGRESS } else { 0 };
    Ok(Some(Hooked {
        hook: at,
        priority: i64::from(hook.u32(2)?.cast_signed()) + behind,
        accept: fields.u32_or(5, 1)? == 1,
        nat: fields.has(7) && fields.text(7)? == "nat",
        handle: i64::try_from(fields.number(2)?).unwrap_or(i64::MAX),
        devices,
    }))
}

/// Puts right what was borrowed while reading, and says whose table it is.
fn finished(mut draft: Draft) -> Table {
    if draft.table.handle < 0 {
        draft.table.handle = -1 - draft.table.handle;
    }
    if of_iptables(&draft.table) {
        draft.table.engine = Engine::IptablesNft;
        for chain in &mut draft.table.chains {
            chain.rules.iter_mut().zip(1..).for_each(|(rule, place)| rule.number = place);
        }
    }
    draft.table
}

/// NFT_META_NFTRACE, which the target TRACE sets
const TRACE: u32 = 12;

/// Whether the tools of iptables hold a table: by its name and base chains, and because no rule is of a kind that they do not write.
fn of_iptables(table: &Table) -> bool {
    let named = matches!(table.family, Family::Ip | Family::Ip6) && IPTABLES_TABLES.contains(&table.name.as_str());
    let builtin = |chain: &Chain| match &chain.base {
        None => true,
        Some(base) => matches!(
            (chain.name.as_str(), base.hook),
            ("PREROUTING", Hook::Prerouting)
                | ("INPUT", Hook::Input)
                | ("FORWARD", Hook::Forward)
                | ("OUTPUT", Hook::Output)
                | ("POSTROUTING", Hook::Postrouting)
        ),
    };
    let foreign = |step: &Step| {
        matches!(
            step,
            Step::Native(
                Native::Lookup { .. }
                    | Native::SetUpdate { .. }
                    | Native::Fib { .. }
                    | Native::Ct { .. }
                    | Native::CtSet { .. }
                    | Native::Notrack
            )
        ) || matches!(step, Step::Native(Native::MetaSet { key, .. }) if *key != TRACE)
    };
    named && table.chains.iter().all(builtin) && !table.chains.iter().flat_map(|c| &c.rules).flat_map(|r| &r.steps).any(foreign)
}

// Sets

const MAX_KEY: usize = 64;
const SET_INTERVAL: u32 = 4;
/// Everything up to NFT_SET_EXPR.
const SET_KNOWN: u32 = 0x1ff;
const ELEMENT_INTERVAL_END: u32 = 1;
const ELEMENT_CATCH_ALL: u32 = 2;

type SetId = (u8, String, String);
type Sets = BTreeMap<SetId, Arc<NativeSet>>;

impl Sorted<'_> {
    fn sets(&self) -> Result<Sets> {
        let mut sets = BTreeMap::new();
        for message in &self.sets {
            let fields = Fields::of_message(message)?;
            let set = set(&fields)?;
            let id = (message.body.first().copied().unwrap_or(0), fields.text(1)?, set.name.clone());
            sets.insert(id, set);
        }
        for message in &self.elements {
            let fields = Fields::of_message(message)?;
            let id = (message.body.first().copied().unwrap_or(0), fields.text(1)?, fields.text(2)?);
            let set = sets.get_mut(&id).ok_or_else(|| format!("elements of set {}, which was not listed", id.2))?;
            if !fields.has(3) {
                continue;
            }
            for item in attributes(fields.bytes(3)?) {
                let item = item.map_err(|broken| broken.to_string())?;
                let element = element(item.value, &mut set.doubt, &set.name)?;
                set.elements.push(element);
            }
        }
        Ok(sets.into_iter().map(|(id, set)| (id, Arc::new(set))).collect())
    }
}

fn set(fields: &Fields) -> Result<NativeSet> {
    let flags = fields.u32_or(3, 0)?;
    let name = fields.text(2)?;
    let (mut lengths, mut size) = (Vec::new(), None);
    if fields.has(9) {
        let desc = Fields::of(fields.bytes(9)?)?;
        size = if desc.has(1) { Some(desc.u32(1)?) } else { None };
        for item in attributes(desc.at[2].unwrap_or_default()) {
            let item = item.map_err(|broken| broken.to_string())?;
            lengths.push(Fields::of(item.value)?.u8(1)?);
        }
    }
    if lengths.len() == 1 {
        lengths.clear();
    }
    let doubt = (flags & !SET_KNOWN != 0).then(|| format!("the set @{name} with flags {flags:#x} that are not known here"));
    Ok(NativeSet {
        name,
        key_len: key_len(fields)?,
        fields: lengths,
        interval: flags & SET_INTERVAL != 0,
        size,
        elements: Vec::new(),
        doubt,
        ..NativeSet::default()
    })
}

fn element(bytes: &[u8], doubt: &mut Option<String>, set: &str) -> Result<SetElement> {
    /// NFTA_SET_ELEM_EXPRESSIONS
    const LAST: u16 = 11;
    let fields = Fields::of(bytes)?;
    let flags = fields.u32_or(3, 0)?;
    if fields.unknown(LAST).is_some() || flags & !(ELEMENT_INTERVAL_END | ELEMENT_CATCH_ALL) != 0 {
        doubt.get_or_insert(format!("the set @{set}, which has an element of a kind that is not known here"));
    }
    let catch_all = flags & ELEMENT_CATCH_ALL != 0;
    let data = match (fields.has(2), fields.has(9)) {
        (true, _) => Some(data(fields.bytes(2)?)?),
        (_, true) => Some(Data::Object(fields.text(9)?)),
        _ => None,
    };
    Ok(SetElement {
        key: if catch_all { Box::default() } else { fields.value(1)? },
        key_end: if fields.has(10) { Some(fields.value(10)?) } else { None },
        interval_end: flags & ELEMENT_INTERVAL_END != 0,
        catch_all,
        data,
        inner: own_instructions(&fields, 7, 11)?,
    })
}

/// Instructions that belong to an element: `single` holds one, `many` a list. Counters change nothing.
fn own_instructions(fields: &Fields, single: usize, many: usize) -> Result<Vec<Native>> {
    let mut found = Vec::new();
    let mut add = |bytes: &[u8]| -> Result<()> {
        let fields = Fields::of(bytes)?;
        let name = nl::text(fields.bytes(1)?);
        match name.as_str() {
            "counter" | "last" => {}
            "limit" | "quota" | "connlimit" => found.push(perhaps(&name, "of the element")),
            other => found.push(Native::Perhaps { what: format!("the expression {other} of an element") }),
        }
        Ok(())
    };
    if fields.has(single) {
        add(fields.bytes(single)?)?;
    }
    if fields.has(many) {
        for item in attributes(fields.bytes(many)?) {
            add(item.map_err(|broken| broken.to_string())?.value)?;
        }
    }
    Ok(found)
}

/// What a map gives, or an immediate.
fn data(bytes: &[u8]) -> Result<Data> {
    let fields = Fields::of(bytes)?;
    if fields.has(2) {
        return verdict(fields.bytes(2)?).map(Data::Verdict);
    }
    fields.bytes(1).map(|value| Data::Value(value.into()))
}

fn verdict(bytes: &[u8]) -> Result<Target> {
    let fields = Fields::of(bytes)?;
    Ok(match fields.u32(1)?.cast_signed() {
        0 => Target::Drop,
        1 => Target::Accept,
        -1 => Target::Continue,
        -3 => Target::Jump(fields.text(2)?),
        -4 => Target::Goto(fields.text(2)?),
        -5 => Target::Return,
        code if code & 0xff == 3 => Target::Undecided(format!("the program that reads queue {}", code >> 16)),
        code => Target::Undecided(format!("the verdict {code}, which is not known here")),
    })
}

// Rules

/// (base, first byte, one past the last)
type Rewritten = (Base, u32, u32);

struct Rules<'a> {
    sets: &'a Sets,
    set_names: SetNames<'a>,
    /// Header fields that rules write.
    rewritten: Vec<Rewritten>,
}

/// Bytes of a set's key; the register file has no more than `NFT_DATA_VALUE_MAXLEN`.
fn key_len(fields: &Fields) -> Result<usize> {
    match fields.u32(5)? as usize {
        len if len <= MAX_KEY => Ok(len),
        len => Err(format!("a set with keys of {len} bytes")),
    }
}

/// Family, table and chain as the kernel names them, and where the model has them.
type Place<'a> = (u8, &'a [u8], &'a [u8], usize, usize);

impl Rules<'_> {
    fn read(&mut self, rules: &[Message], found: &mut [Draft]) -> Result<()> {
        // Rules come chain by chain.
        let mut place: Option<Place> = None;
        for message in rules {
            let fields = Fields::of_message(message)?;
            let number = message.body.first().copied().unwrap_or(0);
            let Some(family) = family(number)? else { continue };
            let (table, chain) = (fields.bytes(1)?, fields.bytes(2)?);
            let (t, c) = match place {
                Some((n, tn, cn, t, c)) if (n, tn, cn) == (number, table, chain) => (t, c),
                _ => located(number, table, chain, found)?,
            };
            place = Some((number, table, chain, t, c));
            let mut rule = Reader { rules: self, number, table: nl::text(table), family, steps: Vec::new(), packets: None };
            if fields.has(4) {
                rule.expressions(fields.bytes(4)?).map_err(|why| format!("a rule of chain {}: {why}", nl::text(chain)))?;
            }
            let Reader { mut steps, packets, .. } = rule;
            steps.shrink_to_fit();
            let number = i64::try_from(fields.number(3)?).unwrap_or(i64::MAX);
            found[t].table.chains[c].rules.push(Rule { text: String::new(), number, steps, packets });
        }
        Ok(())
    }
}

fn located(number: u8, table: &[u8], chain: &[u8], found: &[Draft]) -> Result<(usize, usize)> {
    let (table, chain) = (nl::text(table), nl::text(chain));
    let t = found.iter().position(|d| d.id.0 == number && d.id.1 == table);
    let place = t.and_then(|t| Some((t, *found[t].places.get(&chain)?)));
    place.ok_or_else(|| format!("a rule of chain {table} {chain}, which was not listed"))
}

/// Reads the expressions of one rule.
struct Reader<'a, 'b> {
    rules: &'a mut Rules<'b>,
    number: u8,
    table: String,
    family: Family,
    steps: Vec<Step>,
    packets: Option<u64>,
}

fn perhaps(kind: &str, of: &str) -> Native {
    let what = match kind {
        "limit" => "the rate limit",
        "quota" => "the quota",
        "connlimit" => "the number of connections",
        other => other,
    };
    Native::Perhaps { what: if of.is_empty() { what.to_owned() } else { format!("{what} {of}") } }
}

impl Reader<'_, '_> {
    fn expressions(&mut self, bytes: &[u8]) -> Result<()> {
        for item in attributes(bytes) {
            let item = item.map_err(|broken| broken.to_string())?;
            let fields = Fields::of(item.value)?;
            let name = fields.bytes(1)?;
            let name = name.strip_suffix(&[0]).unwrap_or(name);
            let data = Fields::of(fields.at[2].unwrap_or_default())?;
            self.expression(name, &data).map_err(|why| format!("{}: {why}", String::from_utf8_lossy(name)))?;
        }
        Ok(())
    }

    fn push(&mut self, native: Native) {
        self.steps.push(Step::Native(native));
    }

    fn go(&mut self, target: Target) {
        self.push(Native::Go(target));
    }

    /// What is not known here may end the rule, or do anything.
    fn stranger(&mut self, what: String) {
        self.push(Native::Perhaps { what: what.clone() });
        self.go(Target::Undecided(what));
    }

    fn set(&mut self, name: &str) -> Result<Arc<NativeSet>> {
        let id = (self.number, self.table.clone(), name.to_owned());
        self.rules.sets.get(&id).cloned().ok_or_else(|| format!("set {name} was not listed"))
    }

    fn expression(&mut self, name: &[u8], f: &Fields) -> Result<()> {
        let Some(last) = last_attribute(name) else {
            self.stranger(format!("the expression {}, which is not known here", String::from_utf8_lossy(name)));
            return Ok(());
        };
        if let Some(kind) = f.unknown(last) {
            let name = String::from_utf8_lossy(name);
            self.stranger(format!("the expression {name} with an attribute ({kind}) that is not known here"));
            return Ok(());
        }
        match name {
            b"immediate" => self.immediate(f)?,
            b"payload" => self.payload(f)?,
            b"meta" => self.keyed(f, 2, 1, 3, |key, to| Native::Meta { key, to }, |key, from| Native::MetaSet { key, from })?,
            b"ct" => {
                let direction = if f.has(3) { Some(f.u8(3)?) } else { None };
                let load = move |key, to| Native::Ct { key, direction, to };
                self.keyed(f, 2, 1, 4, load, |key, from| Native::CtSet { key, from })?;
            }
            b"cmp" => {
                let op = match f.u32(2)? {
                    0 => Compare::Equal,
                    1 => Compare::NotEqual,
                    2 => Compare::Less,
                    3 => Compare::LessOrEqual,
                    4 => Compare::Greater,
                    5 => Compare::GreaterOrEqual,
                    n => return self.odd("a comparison", n),
                };
                self.push(Native::Compare { from: f.slot(1)?, op, data: f.value(3)? });
            }
            b"range" => match f.u32(2)? {
                n @ 0..=1 => {
                    let (low, high) = (f.value(3)?, f.value(4)?);
                    self.push(Native::Range { from: f.slot(1)?, not: n == 1, low, high });
                }
                n => return self.odd("a range", n),
            },
            b"bitwise" => self.bitwise(f)?,
            b"byteorder" => {
                let (from, to, len, size) = (f.slot(1)?, f.slot(2)?, f.u8(4)?, f.u8(5)?);
                self.push(Native::ByteOrder { from, to, len, size });
            }
            b"lookup" => {
                let set = self.set(&f.text(1)?)?;
                let flags = f.u32_or(5, 0)?;
                if flags > 1 {
                    return self.odd("a lookup with flags", flags);
                }
                self.push(Native::Lookup { set, from: f.slot(2)?, to: verdict_or_slot(f, 3)?, not: flags == 1 });
            }
            b"counter" => {
                self.packets = self.packets.or(Some(f.number(2)?));
                self.push(Native::Counter);
            }
            b"limit" | b"quota" | b"connlimit" => {
                let native = perhaps(std::str::from_utf8(name).unwrap_or(""), "");
                self.push(native);
            }
            b"log" | b"last" | b"dup" | b"flow_offload" => self.push(Native::Nothing),
            b"notrack" => self.push(Native::Notrack),
            b"reject" => {
                let target = self.reject(f)?;
                self.go(target);
            }
            b"nat" => self.nat(f)?,
            b"redir" => {
                let port = range(f, 1, 2)?;
                self.push(Native::Nat { kind: Nat::Redirect, v6: self.family == Family::Ip6, address: None, port });
            }
            b"masq" => {
                let port = range(f, 2, 3)?;
                self.push(Native::Nat { kind: Nat::Source, v6: self.family == Family::Ip6, address: None, port });
            }
            b"fib" => {
                let result = match f.u32(2)? {
                    1 => FibResult::OutIndex,
                    2 => FibResult::OutName,
                    3 => FibResult::AddressType,
                    n => return self.odd("a route look-up", n),
                };
                self.push(Native::Fib { result, flags: f.u32(3)?, to: f.slot(1)? });
            }
            b"exthdr" => self.extension_header(f)?,
            b"dynset" => self.dynset(f)?,
            b"objref" => self.object(f)?,
            b"match" | b"target" => self.xt(name == b"match", f)?,
            b"rt" => {
                let (what, len) = match f.u32(2)? {
                    0 => ("the packet's realm", 4),
                    1 => ("the next hop", 4),
                    2 => ("the next hop", 16),
                    3 => ("the route's MSS", 2),
                    4 => ("whether IPsec protects the packet", 1),
                    n => return self.odd("a route's property", n),
                };
                self.load_unknown(f, 1, what, len)?;
            }
            b"socket" => {
                let (what, len) = match f.u32(1)? {
                    0 => ("whether its socket is transparent", 1),
                    1 => ("its socket's mark", 4),
                    2 => ("whether its socket is bound to any address", 1),
                    3 => ("its socket's cgroup", 8),
                    n => return self.odd("a socket's property", n),
                };
                self.load_unknown(f, 2, what, len)?;
            }
            b"numgen" => self.load_unknown(f, 1, "a number drawn for each packet (numgen)", 4)?,
            b"hash" => self.load_unknown(f, 2, "a hash of the packet", 4)?,
            b"osf" => self.load_unknown(f, 1, "the client's operating system (osf)", 16)?,
            b"xfrm" => self.load_unknown(f, 1, "the IPsec policy", 16)?,
            b"tunnel" => self.load_unknown(f, 2, "the tunnel that it came through", 4)?,
            b"inner" => {
                self.push(Native::Perhaps { what: "what is inside a tunnel".to_owned() });
                let inner = Fields::of(f.bytes(5)?)?;
                let inner = Fields::of(inner.bytes(2)?)?;
                self.load_unknown(&inner, 1, "what is inside a tunnel", 16)?;
            }
            b"queue" => {
                let number = if f.has(1) { format!("queue {}", f.number(1)?) } else { "a queue".to_owned() };
                self.go(Target::Undecided(format!("the program that reads {number}")));
            }
            b"synproxy" => self.go(Target::Undecided("synproxy, which answers in the broker's place".to_owned())),
            b"tproxy" => self.stranger("a transparent proxy (tproxy)".to_owned()),
            b"fwd" => self.go(Target::Undecided("fwd, which hands the packet to another device".to_owned())),
            _ => self.stranger(format!("the expression {}", String::from_utf8_lossy(name))),
        }
        Ok(())
    }

    /// A number that no kernel known here gives.
    fn odd(&mut self, what: &str, number: u32) -> Result<()> {
        self.stranger(format!("{what} ({number}) that is not known here"));
        Ok(())
    }

    fn load_unknown(&mut self, f: &Fields, register: usize, what: &str, len: u8) -> Result<()> {
        let to = f.slot(register)?;
        let len = len.min(REGISTERS - to * 4);
        self.push(Native::LoadUnknown { what: what.to_owned(), len, to });
        Ok(())
    }

    fn immediate(&mut self, f: &Fields) -> Result<()> {
        match data(f.bytes(2)?)? {
            Data::Verdict(target) => self.go(target),
            Data::Value(data) => self.push(Native::Immediate { to: f.slot(1)?, data }),
            Data::Object(_) => {}
        }
        Ok(())
    }

    /// A load into register `dreg`, or a store from register `sreg`.
    fn keyed(
        &mut self,
        f: &Fields,
        key: usize,
        dreg: usize,
        sreg: usize,
        load: impl Fn(u32, Slot) -> Native,
        store: impl Fn(u32, Slot) -> Native,
    ) -> Result<()> {
        let key = f.u32(key)?;
        let native = if f.has(sreg) { store(key, f.slot(sreg)?) } else { load(key, f.slot(dreg)?) };
        self.push(native);
        Ok(())
    }

    fn payload(&mut self, f: &Fields) -> Result<()> {
        let base = match f.u32(2)? {
            0 => Base::Link,
            1 => Base::Network,
            2 => Base::Transport,
            3 => Base::Inner,
            n => return self.odd("a part of the packet", n),
        };
        let (offset, len) = (f.u32(3)?, f.u8(4)?);
        if !f.has(5) {
            let to = f.slot(1)?;
            if u32::from(to) * 4 + u32::from(len) > u32::from(REGISTERS) {
                return Err("a load beyond the registers".to_owned());
            }
            self.push(Native::Payload { base, offset, len, to });
            return Ok(());
        }
        let end = offset.saturating_add(u32::from(len));
        self.rules.rewritten.push((base, offset, end));
        // Addresses are bytes 12 to 19 of IPv4, 8 to 39 of IPv6, ports 0 to 3 behind them.
        let addresses = base == Base::Network && end > 12 && offset < 40 || base == Base::Transport && offset < 4;
        if addresses {
            self.go(Target::Undecided("a rule that rewrites addresses or ports in the packet".to_owned()));
        } else {
            self.push(Native::Nothing);
        }
        Ok(())
    }

    fn bitwise(&mut self, f: &Fields) -> Result<()> {
        let shift = || -> Result<u32> {
            let bytes = f.value(7)?;
            bytes.get(..4).and_then(|b| b.try_into().ok()).map(u32::from_ne_bytes).ok_or("a shift is too short".to_owned())
        };
        let op = match f.u32_or(6, 0)? {
            0 => Bitwise::MaskXor { mask: f.value(4)?, xor: f.value(5)? },
            1 => Bitwise::ShiftLeft(shift()?),
            2 => Bitwise::ShiftRight(shift()?),
            3 => Bitwise::And(f.slot(8)?),
            4 => Bitwise::Or(f.slot(8)?),
            5 => Bitwise::Xor(f.slot(8)?),
            n => return self.odd("an operation on bits", n),
        };
        let (from, to, len) = (f.slot(1)?, f.slot(2)?, f.u8(3)?);
        // With a second register, a constant may stand in its place.
        self.push(Native::Bitwise { from, to, len, op });
        Ok(())
    }

    fn reject(&self, f: &Fields) -> Result<Target> {
        let code = || f.number(2);
        let v6 = match self.family {
            Family::Ip => false,
            Family::Ip6 => true,
            Family::Inet | Family::Netdev => self.only_v6(),
        };
        Ok(Target::Reject(match (f.u32(1)?, v6) {
            (1, _) => "tcp-reset".to_owned(),
            (0, false) => icmp(code()?),
            (0, true) => icmp6(code()?),
            (2, _) => match code()? {
                0 => "icmpx-no-route".to_owned(),
                1 => "icmpx-port-unreachable".to_owned(),
                2 => "icmpx-host-unreachable".to_owned(),
                3 => "icmpx-admin-prohibited".to_owned(),
                n => return Ok(Target::Undecided(format!("a reject with code {n}, which is not known here"))),
            },
            (n, _) => return Ok(Target::Undecided(format!("a reject of type {n}, which is not known here"))),
        }))
    }

    /// Whether the rule tests before that the packet is IPv6 (`meta nfproto ipv6`).
    fn only_v6(&self) -> bool {
        const NFPROTO: u32 = 15;
        self.steps.windows(2).any(|pair| match pair {
            [
                Step::Native(Native::Meta { key: NFPROTO, to }),
                Step::Native(Native::Compare { from, op: Compare::Equal, data }),
            ] => to == from && **data == [10],
            _ => false,
        })
    }

    fn nat(&mut self, f: &Fields) -> Result<()> {
        /// NF_NAT_RANGE_NETMAP
        const NETMAP: u32 = 1 << 6;
        let flags = f.u32_or(7, 0)?;
        let kind = match (f.u32(1)?, flags & NETMAP != 0) {
            (0, _) => Nat::Source,
            (1, false) => Nat::Destination,
            (1, true) => Nat::Netmap,
            (n, _) => return self.odd("a translation", n),
        };
        let (address, port) = (range(f, 3, 4)?, range(f, 5, 6)?);
        self.push(Native::Nat { kind, v6: f.u32(2)? == 10, address, port });
        Ok(())
    }

    fn extension_header(&mut self, f: &Fields) -> Result<()> {
        /// NFT_EXTHDR_F_PRESENT
        const PRESENT: u32 = 1;
        if !f.has(1) {
            // Something is written into a TCP option, or the option is struck out.
            self.push(Native::Nothing);
            return Ok(());
        }
        let (to, kind, offset, len) = (f.slot(1)?, f.u8(2)?, f.u32(3)?, f.u8(4)?);
        let present = f.u32_or(5, 0)? & PRESENT != 0;
        match f.u32_or(6, 0)? {
            0 => self.push(Native::Ipv6Extension { present, len, to }),
            1 => self.push(Native::TcpOption { kind, offset, len, present, to }),
            2 => self.load_unknown(f, 1, "the options of the IP header", len)?,
            3 | 4 => self.load_unknown(f, 1, "a header that is not TCP's", len)?,
            n => return self.odd("an extension header", n),
        }
        Ok(())
    }

    fn dynset(&mut self, f: &Fields) -> Result<()> {
        /// NFT_DYNSET_OP_DELETE
        const DELETE: u32 = 2;
        /// NFT_DYNSET_F_INV, NFT_DYNSET_F_EXPR
        const INVERTED: u32 = 1;
        const EXPRESSIONS: u32 = 2;
        let set = self.set(&f.text(1)?)?;
        let inner = own_instructions(f, 7, 10)?;
        let (op, flags) = (f.u32(3)?, f.u32_or(9, 0)?);
        if op > DELETE || flags & !(INVERTED | EXPRESSIONS) != 0 {
            return self.odd("a change of a set", op);
        }
        self.push(Native::SetUpdate { set, delete: op == DELETE, not: flags & INVERTED != 0, inner });
        Ok(())
    }

    /// A named counter, limit, … : always the same one, or one that a map gives.
    fn object(&mut self, f: &Fields) -> Result<()> {
        if f.has(1) {
            let (kind, name) = (f.u32(1)?, f.text(2)?);
            self.object_of(kind, &name);
            return Ok(());
        }
        let set = self.set(&f.text(4)?)?;
        let what = format!("the object that map @{} gives", set.name);
        self.push(Native::Lookup { set, from: f.slot(3)?, to: None, not: false });
        // Of what kind it is is not looked at: a counter would let all pass.
        self.push(Native::Perhaps { what });
        Ok(())
    }

    fn object_of(&mut self, kind: u32, name: &str) {
        match kind {
            // counter, ct helper, tunnel, ct timeout, secmark, ct expectation
            1 => self.push(Native::Counter),
            3 | 6..=9 => self.push(Native::Nothing),
            2 => self.push(Native::Perhaps { what: format!("the quota {name}") }),
            4 => self.push(Native::Perhaps { what: format!("the rate limit {name}") }),
            5 => self.push(Native::Perhaps { what: format!("the number of connections ({name})") }),
            10 => self.go(Target::Undecided(format!("synproxy {name}, which answers in the broker's place"))),
            n => self.stranger(format!("the object {name} of a kind ({n}) that is not known here")),
        }
    }

    /// An extension of iptables.
    fn xt(&mut self, is_match: bool, f: &Fields) -> Result<()> {
        let name = f.text(1)?;
        let v6 = self.family == Family::Ip6;
        let extension = xt::Extension { name: &name, revision: f.u32(2)?, info: f.bytes(3)?, v6 };
        let steps =
            if is_match { xt::matches(&extension, self.rules.set_names) } else { xt::target(&extension, self.rules.set_names) };
        self.steps.extend(steps);
        Ok(())
    }
}

/// The highest attribute of an expression that kernels up to 6.18 know; `None`: the expression itself is not known.
fn last_attribute(name: &[u8]) -> Option<u16> {
    Some(match name {
        b"notrack" => 0,
        b"flow_offload" => 1,
        b"immediate" | b"reject" | b"rt" | b"connlimit" | b"dup" => 2,
        b"meta" | b"cmp" | b"counter" | b"last" | b"redir" | b"masq" | b"fib" | b"match" | b"target" => 3,
        b"socket" | b"osf" | b"tunnel" | b"synproxy" | b"tproxy" | b"fwd" => 3,
        b"ct" | b"range" | b"quota" | b"xfrm" | b"queue" => 4,
        b"byteorder" | b"lookup" | b"objref" | b"inner" => 5,
        b"limit" | b"log" | b"numgen" => 6,
        b"nat" | b"exthdr" => 7,
        b"payload" | b"bitwise" => 8,
        b"hash" => 9,
        b"dynset" => 10,
        _ => return None,
    })
}

/// Without a register, or with register 0, the set gives verdicts (or nothing).
fn verdict_or_slot(f: &Fields, kind: usize) -> Result<Option<Slot>> {
    if !f.has(kind) || f.u32(kind)? == 0 {
        return Ok(None);
    }
    f.slot(kind).map(Some)
}

/// Registers of the least and the greatest address or port.
fn range(f: &Fields, low: usize, high: usize) -> Result<Option<(Slot, Slot)>> {
    let Some(first) = f.slot_if(low)? else { return Ok(None) };
    Ok(Some((first, f.slot_if(high)?.unwrap_or(first))))
}

/// `enum` of ICMP_DEST_UNREACH codes (RFC 792, 1812)
fn icmp(code: u64) -> String {
    match code {
        0 => "icmp-net-unreachable",
        1 => "icmp-host-unreachable",
        2 => "icmp-proto-unreachable",
        3 => "icmp-port-unreachable",
        9 => "icmp-net-prohibited",
        10 => "icmp-host-prohibited",
        13 => "icmp-admin-prohibited",
        n => return format!("icmp-code-{n}"),
    }
    .to_owned()
}

/// ICMPV6_DEST_UNREACH codes (RFC 4443)
fn icmp6(code: u64) -> String {
    match code {
        0 => "icmp6-no-route",
        1 => "icmp6-adm-prohibited",
        3 => "icmp6-addr-unreachable",
        4 => "icmp6-port-unreachable",
        5 => "icmp6-policy-fail",
        6 => "icmp6-reject-route",
        n => return format!("icmp6-code-{n}"),
    }
    .to_owned()
}

/// Rules that write header fields: what other rules load from there is not what the packet came with.
fn forget_rewritten(tables: &mut [Table], rewritten: &[Rewritten]) {
    let touched = |base: Base, offset: u32, len: u8| {
        let end = offset.saturating_add(u32::from(len));
        rewritten.iter().any(|(b, first, last)| *b == base && offset < *last && *first < end)
    };
    let rules = tables.iter_mut().flat_map(|t| &mut t.chains).flat_map(|c| &mut c.rules);
    for step in rules.flat_map(|r| &mut r.steps) {
        let Step::Native(Native::Payload { base, offset, len, to }) = step else { continue };
        if touched(*base, *offset, *len) {
            let what = "a field of the packet that rules rewrite".to_owned();
            *step = Step::Native(Native::LoadUnknown { what, len: *len, to: *to });
        }
    }
}

//! Rules in their own tool's words: the text of `nft -a list ruleset` and `iptables-nft-save`, by handle and by position. Where no
//! tool printed a rule, it is printed from what was decoded, plainly.

use super::model::*;
use super::native::{self, Bitwise, Compare, Native, Slot};
use crate::formats::iptables_save::{self, Save};
use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

/// A longer text of one rule is cut.
const MAX_TEXT: usize = 4096;
/// Elements of a set that are shown.
const MAX_ELEMENTS: usize = 6;

/// Gives every rule without a text its text: tables of iptables from the saves (IPv4, IPv6), others from nft's listing with handles.
pub fn label(tables: &mut [Table], nft_text: Option<&str>, saves: [Option<&str>; 2]) {
    let listed = nft_text.map(by_handle).unwrap_or_default();
    let saves = saves.map(|text| text.and_then(|text| iptables_save::parse(text).ok()));
    for table in tables.iter_mut().filter(|t| t.engine != Engine::IptablesLegacy) {
        let family = table.family;
        if table.engine == Engine::IptablesNft {
            let save = if family == Family::Ip6 { &saves[1] } else { &saves[0] };
            by_position(table, save.as_ref());
        } else {
            for rule in table.chains.iter_mut().flat_map(|c| &mut c.rules).filter(|r| r.text.is_empty()) {
                let key = (family.name(), table.name.as_str(), rule.number);
                rule.text = listed.get(&key).cloned().unwrap_or_default();
            }
        }
        let plain = if table.engine == Engine::IptablesNft { Style::Iptables } else { Style::Nft };
        for chain in &mut table.chains {
            for rule in chain.rules.iter_mut().filter(|r| r.text.is_empty()) {
                rule.text = printed(rule, &chain.name, family, plain);
            }
        }
    }
}

/// The words of one rule; of a ruleset that is too large to be printed as a whole, printed now.
pub fn words<'a>(table: &Table, chain: &Chain, rule: &'a Rule) -> Cow<'a, str> {
    if !rule.text.is_empty() {
        return Cow::Borrowed(&rule.text);
    }
    let style = if table.engine == Engine::Nftables { Style::Nft } else { Style::Iptables };
    Cow::Owned(printed(rule, &chain.name, table.family, style))
}

/// Lines of a save belong to rules by position, if the chain has as many.
fn by_position(table: &mut Table, save: Option<&Save>) {
    let Some((save, saved)) = save.and_then(|s| Some((s, s.tables.iter().find(|t| t.name == table.name)?))) else { return };
    let chains: HashMap<&str, &iptables_save::Chain> = saved.chains.iter().map(|c| (c.name.as_str(), c)).collect();
    for chain in &mut table.chains {
        let Some(other) = chains.get(chain.name.as_str()).filter(|c| c.rules.len() == chain.rules.len()) else { continue };
        for (rule, line) in chain.rules.iter_mut().zip(&other.rules).filter(|(r, _)| r.text.is_empty()) {
            rule.text = shortened(save.line(line));
        }
    }
}

/// Family, table, handle
type Place<'a> = (&'a str, &'a str, i64);

/// Rules of `nft -a list ruleset` by table and handle. A rule may go over several lines; its handle ends it.
fn by_handle(text: &str) -> HashMap<Place<'_>, String> {
    let mut found = HashMap::new();
    let mut table: Option<(&str, &str)> = None;
    let mut in_chain = false;
    let mut begun = String::new();
    for raw in text.lines() {
        let (line, handle) = handle(raw.trim());
        if begun.is_empty() {
            if let Some(name) = line.strip_prefix("table ").and_then(|rest| rest.strip_suffix(" {")) {
                table = name.split_once(' ').map(|(family, name)| (family, name.trim_matches('"')));
                in_chain = false;
                continue;
            }
            if raw.starts_with('\t') && !raw.starts_with("\t\t") {
                in_chain = line.starts_with("chain ") && line.ends_with('{');
                continue;
            }
            if line == "}" || line.is_empty() {
                continue;
            }
        }
        let Some((family, name)) = table.filter(|_| in_chain) else { continue };
        match handle {
            Some(handle) => {
                let text = if begun.is_empty() { line.to_owned() } else { format!("{begun} {line}") };
                found.insert((family, name, handle), shortened(&without_counts(&text)));
                begun.clear();
            }
            None if ["type ", "policy ", "comment ", "devices ", "flags "].iter().any(|start| line.starts_with(start)) => {}
            None if begun.len() < MAX_TEXT => {
                begun.push_str(if begun.is_empty() { "" } else { " " });
                begun.push_str(line);
            }
            None => {}
        }
    }
    found
}

/// A line without its `# handle 7`, and the 7.
fn handle(line: &str) -> (&str, Option<i64>) {
    match line.rsplit_once("# handle ") {
        Some((rest, number)) => match number.parse() {
            Ok(number) => (rest.trim_end(), Some(number)),
            Err(_) => (line, None),
        },
        None => (line, None),
    }
}

/// Numbers that change while one looks do not belong to the rule.
fn without_counts(text: &str) -> String {
    let Some((before, rest)) = text.split_once("counter packets ") else { return text.to_owned() };
    let mut words = rest.splitn(4, ' ');
    match (words.next().map(|n| n.parse::<u64>().is_ok()), words.next(), words.next().map(|n| n.parse::<u64>().is_ok())) {
        (Some(true), Some("bytes"), Some(true)) => {
            let after = words.next().unwrap_or("");
            format!("{before}counter{}{after}", if after.is_empty() { "" } else { " " })
        }
        _ => text.to_owned(),
    }
}

fn shortened(text: &str) -> String {
    if text.len() <= MAX_TEXT {
        return text.to_owned();
    }
    let end = (0..=MAX_TEXT).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    format!("{}…", &text[..end])
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Style {
    Iptables,
    Nft,
}

/// What a register or key holds, as far as it has a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Source,
    Destination,
    Protocol,
    Version,
    In,
    Out,
    SourcePort,
    DestinationPort,
    CtState,
    CtMark,
    Mark,
    TcpFlags,
    IcmpType,
    SourceType,
    DestinationType,
    Other,
}

impl Field {
    fn name(self, style: Style, v6: bool) -> &'static str {
        use Field::*;
        let (iptables, nft) = match self {
            Source if v6 => ("-s", "ip6 saddr"),
            Source => ("-s", "ip saddr"),
            Destination if v6 => ("-d", "ip6 daddr"),
            Destination => ("-d", "ip daddr"),
            Protocol => ("-p", "meta l4proto"),
            Version => ("-m nfproto", "meta nfproto"),
            In => ("-i", "iifname"),
            Out => ("-o", "oifname"),
            SourcePort => ("--sport", "th sport"),
            DestinationPort => ("--dport", "th dport"),
            CtState => ("-m conntrack --ctstate", "ct state"),
            CtMark => ("-m connmark --mark", "ct mark"),
            Mark => ("-m mark --mark", "meta mark"),
            TcpFlags => ("--tcp-flags", "tcp flags"),
            IcmpType if v6 => ("--icmpv6-type", "icmpv6 type"),
            IcmpType => ("--icmp-type", "icmp type"),
            SourceType => ("-m addrtype --src-type", "fib saddr type"),
            DestinationType => ("-m addrtype --dst-type", "fib daddr type"),
            Other => ("…", "…"),
        };
        if style == Style::Iptables { iptables } else { nft }
    }
}

/// A register's content, and under which mask.
#[derive(Debug, Clone)]
struct Loaded {
    field: Field,
    mask: Option<Box<[u8]>>,
    /// Bytes of the field that were loaded, where it is an address: a prefix may be loaded alone.
    len: usize,
}

struct Printer {
    style: Style,
    family: Family,
    v6: bool,
    words: Vec<String>,
    registers: BTreeMap<Slot, Loaded>,
    /// Transport protocol that was tested: it names the ports.
    protocol: Option<&'static str>,
}

/// A rule from its steps. What has no plain name is shown as `…`.
fn printed(rule: &Rule, chain: &str, family: Family, style: Style) -> String {
    let mut printer =
        Printer { style, family, v6: family == Family::Ip6, words: Vec::new(), registers: BTreeMap::new(), protocol: None };
    if style == Style::Iptables {
        printer.words.push(format!("-A {chain}"));
    }
    for step in &rule.steps {
        printer.step(step);
    }
    let mut text = printer.words.join(" ");
    while text.contains("… …") {
        text = text.replace("… …", "…");
    }
    if text.is_empty() {
        text.push('…');
    }
    if style == Style::Nft {
        text.push_str(&format!(" # handle {}", rule.number));
    }
    shortened(&text)
}

impl Printer {
    fn say(&mut self, words: impl Into<String>) {
        self.words.push(words.into());
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Native(native) => self.native(native),
            Step::Test(test) => self.test(test),
            Step::SetMark { connection, change } => {
                let value = match change {
                    Some((0, value)) => format!("{value:#x}"),
                    Some((keep, value)) => format!("{value:#x}/{:#x}", !keep),
                    None => "…".to_owned(),
                };
                self.say(match (self.style, connection) {
                    (Style::Iptables, false) => format!("-j MARK --set-xmark {value}"),
                    (Style::Iptables, true) => format!("-j CONNMARK --set-xmark {value}"),
                    (Style::Nft, false) => format!("meta mark set {value}"),
                    (Style::Nft, true) => format!("ct mark set {value}"),
                });
            }
            Step::CopyMark { restore, .. } => {
                self.say(if *restore { "-j CONNMARK --restore-mark" } else { "-j CONNMARK --save-mark" })
            }
            Step::ChangeSet(name) => self.say(format!("-j SET {name}")),
            Step::Notrack if self.style == Style::Iptables => self.say("-j CT --notrack"),
            Step::Notrack => self.say("notrack"),
            Step::Go(target) => self.target(target),
        }
    }

    fn condition(&mut self, field: Field, not: bool, value: &str) {
        let mut name = field.name(self.style, self.v6).to_owned();
        if let (Style::Nft, Field::SourcePort | Field::DestinationPort, Some(protocol)) = (self.style, field, self.protocol) {
            name = name.replacen("th", protocol, 1);
        }
        self.say(match self.style {
            Style::Iptables if not => format!("! {name} {value}"),
            Style::Nft if not => format!("{name} != {value}"),
            _ => format!("{name} {value}"),
        });
    }

    fn test(&mut self, test: &Test) {
        match test {
            Test::Is { key, part, not } => self.keyed(key, std::slice::from_ref(part), *not),
            Test::In { key, set, not } if key.len() == 1 => {
                let parts: Vec<Part> = set.elements.iter().filter_map(|e| e.parts.first().cloned()).collect();
                self.keyed(&key[0], &parts, *not);
            }
            Test::AnyBit { key: Key::CtState, bits, not } => {
                let names = states(*bits);
                self.condition(Field::CtState, *not, &if self.style == Style::Iptables { names.to_uppercase() } else { names });
            }
            Test::IpSet { name, source, not } => {
                let sides: Vec<&str> = source.iter().map(|s| if *s { "src" } else { "dst" }).collect();
                let not = if *not { "! " } else { "" };
                self.say(format!("-m set {not}--match-set {name} {}", sides.join(",")));
            }
            Test::Undecided(why) => self.say(format!("({why})")),
            Test::Either(tests) if tests.is_empty() => self.say("…"),
            Test::Either(tests) => match tests.last() {
                // A conntrack test that packets without a connection pass.
                Some(last) if tests.len() == 2 => self.test(last),
                _ => self.say("…"),
            },
            Test::In { .. } | Test::AnyBit { .. } => self.say("…"),
        }
    }

    fn keyed(&mut self, key: &Key, parts: &[Part], not: bool) {
        let (key, mask) = match key {
            Key::Masked(key, mask) => (&**key, Some(*mask)),
            key => (key, None),
        };
        let field = match key {
            Key::Source => Field::Source,
            Key::Destination => Field::Destination,
            Key::Protocol => Field::Protocol,
            Key::InInterface => Field::In,
            Key::OutInterface => Field::Out,
            Key::SourcePort => Field::SourcePort,
            Key::DestinationPort => Field::DestinationPort,
            Key::CtState => Field::CtState,
            Key::CtMark => Field::CtMark,
            Key::Mark => Field::Mark,
            Key::TcpFlags => Field::TcpFlags,
            Key::IcmpType => Field::IcmpType,
            Key::SourceType => Field::SourceType,
            Key::DestinationType => Field::DestinationType,
            _ => Field::Other,
        };
        if field == Field::Other {
            return self.say("…");
        }
        let values: Vec<String> = parts
            .iter()
            .map(|part| match part {
                Part::Name(name) if self.style == Style::Iptables => name.replace('*', "+"),
                Part::Name(name) => format!("\"{name}\""),
                Part::Any => "any".to_owned(),
                Part::Span(first, last) => self.span(field, *first, *last, mask),
            })
            .collect();
        self.list(field, not, values);
    }

    fn list(&mut self, field: Field, not: bool, mut values: Vec<String>) {
        let more = values.len() > MAX_ELEMENTS;
        if values.len() == 1 {
            self.condition(field, not, &values[0]);
        } else {
            values.truncate(MAX_ELEMENTS);
            if more {
                values.push("…".to_owned());
            }
            let text = match self.style {
                Style::Iptables => values.join(","),
                Style::Nft => format!("{{ {} }}", values.join(", ")),
            };
            self.condition(field, not, &text);
        }
    }

    fn span(&mut self, field: Field, first: u128, last: u128, mask: Option<u128>) -> String {
        let separator = if self.style == Style::Iptables { ":" } else { "-" };
        match field {
            Field::Source | Field::Destination => addresses(first, last, self.v6),
            Field::Protocol => {
                let name = protocol_name(first);
                if let (Some(name), true) = (name, first == last) {
                    self.protocol = Some(name);
                }
                name.map_or_else(|| first.to_string(), str::to_owned)
            }
            Field::TcpFlags => {
                let (mask, value) = (flag_names(mask.unwrap_or(0xff)), flag_names(first));
                if self.style == Style::Iptables {
                    format!("{} {}", mask.to_uppercase(), value.to_uppercase())
                } else {
                    format!("& ({}) == {}", mask.replace(',', " | "), value.replace(',', " | "))
                }
            }
            Field::Mark | Field::CtMark => match mask.filter(|m| *m != 0xffff_ffff) {
                Some(mask) if self.style == Style::Iptables => format!("{first:#x}/{mask:#x}"),
                Some(mask) => format!("& {mask:#x} == {first:#x}"),
                None => format!("{first:#x}"),
            },
            Field::CtState => states(first),
            Field::SourceType | Field::DestinationType => {
                let names =
                    ["unspec", "unicast", "local", "broadcast", "anycast", "multicast", "blackhole", "unreachable", "prohibit"];
                let name = usize::try_from(first).ok().and_then(|n| names.get(n)).copied().unwrap_or("…");
                if self.style == Style::Iptables { name.to_uppercase() } else { name.to_owned() }
            }
            _ if first == last => first.to_string(),
            _ => format!("{first}{separator}{last}"),
        }
    }

    fn target(&mut self, target: &Target) {
        let style = self.style;
        let iptables = style == Style::Iptables;
        let words = match target {
            Target::Accept if iptables => "-j ACCEPT".to_owned(),
            Target::Accept => "accept".to_owned(),
            Target::Drop if iptables => "-j DROP".to_owned(),
            Target::Drop => "drop".to_owned(),
            Target::Reject(with) if iptables => format!("-j REJECT --reject-with {with}"),
            Target::Reject(with) if with == "tcp-reset" => "reject with tcp reset".to_owned(),
            Target::Reject(with) => match with.split_once('-') {
                Some(("icmp6", code)) => format!("reject with icmpv6 type {code}"),
                Some((kind, code)) => format!("reject with {kind} type {code}"),
                None => "reject".to_owned(),
            },
            Target::Jump(chain) if iptables => format!("-j {chain}"),
            Target::Jump(chain) => format!("jump {chain}"),
            Target::Goto(chain) if iptables => format!("-g {chain}"),
            Target::Goto(chain) => format!("goto {chain}"),
            Target::Return if iptables => "-j RETURN".to_owned(),
            Target::Return => "return".to_owned(),
            Target::Continue => "continue".to_owned(),
            Target::Translate(to) => translation(to, iptables),
            Target::Undecided(why) => format!("({why})"),
        };
        self.say(words);
    }

    fn native(&mut self, native: &Native) {
        match native {
            Native::Payload { base, offset, len, to } => {
                let field = self.payload_field(*base, *offset, *len);
                self.registers.insert(*to, Loaded { field, mask: None, len: (*len).into() });
            }
            Native::Meta { key, to } => {
                // enum nft_meta_keys
                let field = match key {
                    3 => Field::Mark,
                    6 => Field::In,
                    7 => Field::Out,
                    15 => Field::Version,
                    16 => Field::Protocol,
                    _ => Field::Other,
                };
                self.registers.insert(*to, Loaded { field, mask: None, len: 4 });
            }
            Native::Ct { key, to, .. } => {
                // enum nft_ct_keys
                let field = match key {
                    0 => Field::CtState,
                    3 => Field::CtMark,
                    _ => Field::Other,
                };
                self.registers.insert(*to, Loaded { field, mask: None, len: 4 });
            }
            Native::Bitwise { from, to, op: Bitwise::MaskXor { mask, xor }, .. } if xor.iter().all(|b| *b == 0) => {
                if let Some(mut loaded) = self.registers.get(from).cloned() {
                    loaded.mask = Some(mask.clone());
                    self.registers.insert(*to, loaded);
                }
            }
            Native::Bitwise { to, .. } | Native::ByteOrder { to, .. } => {
                self.registers.insert(*to, Loaded { field: Field::Other, mask: None, len: 4 });
            }
            Native::Fib { to, .. }
            | Native::TcpOption { to, .. }
            | Native::Ipv6Extension { to, .. }
            | Native::LoadUnknown { to, .. } => {
                self.registers.insert(*to, Loaded { field: Field::Other, mask: None, len: 4 });
            }
            Native::Compare { from, op, data } => self.compare(*from, *op, data),
            Native::Range { from, not, low, high } => match self.registers.get(from).cloned() {
                Some(loaded) if loaded.field != Field::Other => {
                    let text = self.value(&loaded, low, high);
                    self.condition(loaded.field, *not, &text);
                }
                _ => self.say("…"),
            },
            Native::Lookup { set, from, not, .. } => self.lookup(set, *from, *not),
            Native::Perhaps { what } => self.say(format!("({what})")),
            Native::SetUpdate { set, .. } => self.say(format!("update @{} {{ … }}", set.name)),
            Native::Notrack => self.say("notrack"),
            Native::MetaSet { .. } | Native::CtSet { .. } => self.say("… set"),
            Native::Nat { kind, .. } => {
                let translation = Translation { kind: *kind, address: None, port: None };
                self.target(&Target::Translate(translation));
            }
            Native::Counter if self.style == Style::Nft => self.say("counter"),
            Native::Counter | Native::Nothing | Native::Immediate { .. } => {}
            Native::Go(target) => self.target(target),
        }
    }

    fn payload_field(&self, base: native::Base, offset: u32, len: u8) -> Field {
        match (base, offset, len) {
            (native::Base::Network, 12, 1..=4) if !self.v6 => Field::Source,
            (native::Base::Network, 16, 1..=4) if !self.v6 => Field::Destination,
            (native::Base::Network, 8, 16) => Field::Source,
            (native::Base::Network, 24, 16) => Field::Destination,
            (native::Base::Network, 8, 2..=15) if self.v6 => Field::Source,
            (native::Base::Network, 24, 1..=15) if self.v6 => Field::Destination,
            (native::Base::Network, 9, 1) if !self.v6 => Field::Protocol,
            (native::Base::Network, 6, 1) if self.v6 => Field::Protocol,
            (native::Base::Transport, 0, 2) => Field::SourcePort,
            (native::Base::Transport, 2, 2) => Field::DestinationPort,
            (native::Base::Transport, 13, 1) => Field::TcpFlags,
            (native::Base::Transport, 0, 1) => Field::IcmpType,
            _ => Field::Other,
        }
    }

    fn compare(&mut self, from: Slot, op: Compare, data: &[u8]) {
        let Some(loaded) = self.registers.get(&from).cloned() else { return self.say("…") };
        // In an inet table the family is tested before an address is.
        if loaded.field == Field::Version {
            self.v6 = data.first() == Some(&10);
            return;
        }
        let dependency = loaded.field == Field::Protocol && op == Compare::Equal && self.style == Style::Nft;
        if loaded.field == Field::Other {
            return self.say("…");
        }
        let not = op == Compare::NotEqual;
        let text = self.value(&loaded, data, data);
        match (loaded.field, &loaded.mask) {
            // `ct state & new != 0` is how a state is asked for.
            (Field::CtState, Some(mask)) => {
                let bits = big(mask, true);
                let text = if self.style == Style::Iptables { states(bits).to_uppercase() } else { states(bits) };
                let zero = data.iter().all(|b| *b == 0);
                self.condition(Field::CtState, zero != not, &text);
            }
            _ if dependency && matches!(text.as_str(), "tcp" | "udp") && self.family != Family::Netdev => {
                // `tcp dport` says it, if a port follows.
                self.condition(loaded.field, false, &text);
            }
            _ => match op {
                Compare::Equal | Compare::NotEqual => self.condition(loaded.field, not, &text),
                Compare::Less => self.condition(loaded.field, false, &format!("< {text}")),
                Compare::LessOrEqual => self.condition(loaded.field, false, &format!("<= {text}")),
                Compare::Greater => self.condition(loaded.field, false, &format!("> {text}")),
                Compare::GreaterOrEqual => self.condition(loaded.field, false, &format!(">= {text}")),
            },
        }
    }

    /// Bytes of a register as the field's kind is written.
    fn value(&mut self, loaded: &Loaded, low: &[u8], high: &[u8]) -> String {
        match loaded.field {
            Field::Source | Field::Destination => {
                let width = if self.v6 { 16 } else { 4 };
                let (mut first, mut last) = (vec![0u8; width], vec![0xffu8; width]);
                for (n, byte) in low.iter().take(loaded.len.min(width)).enumerate() {
                    first[n] = *byte;
                }
                for (n, byte) in high.iter().take(loaded.len.min(width)).enumerate() {
                    last[n] = *byte;
                }
                for (n, mask) in loaded.mask.iter().flat_map(|m| m.iter()).take(width).enumerate() {
                    last[n] |= !mask;
                }
                addresses(big(&first, false), big(&last, false), self.v6)
            }
            Field::In | Field::Out => {
                let name = String::from_utf8_lossy(low.split(|b| *b == 0).next().unwrap_or_default()).into_owned();
                let open = !low.contains(&0);
                match self.style {
                    Style::Iptables => format!("{name}{}", if open { "+" } else { "" }),
                    Style::Nft => format!("\"{name}{}\"", if open { "*" } else { "" }),
                }
            }
            Field::Mark | Field::CtMark | Field::CtState => {
                let mask = loaded.mask.as_ref().map(|m| big(m, true));
                self.span(loaded.field, big(low, true), big(high, true), mask)
            }
            field => {
                let mask = loaded.mask.as_ref().map(|m| big(m, false));
                self.span(field, big(low, false), big(high, false), mask)
            }
        }
    }

    fn lookup(&mut self, set: &native::Set, from: Slot, not: bool) {
        let loaded = self.registers.get(&from).cloned();
        let field = loaded.as_ref().map_or(Field::Other, |l| l.field);
        if !set.name.starts_with("__") {
            let not = if not { "!= " } else { "" };
            let name = field.name(self.style, self.v6);
            return self.say(format!("{name} {not}@{}", set.name));
        }
        let vmap = set.elements.iter().any(|e| matches!(e.data, Some(native::Data::Verdict(_))));
        let Some(loaded) = loaded.filter(|l| l.field != Field::Other && set.fields.len() < 2) else {
            return self.say(if vmap { "… vmap { … }" } else { "… { … }" });
        };
        let mut values: Vec<String> = Vec::new();
        let mut open: Option<&[u8]> = None;
        let mut elements: Vec<&native::Element> = set.elements.iter().filter(|e| !e.catch_all).collect();
        elements.sort_by(|a, b| (&a.key, !a.interval_end).cmp(&(&b.key, !b.interval_end)));
        for element in elements {
            match (set.interval, element.interval_end, open.take()) {
                (false, ..) => values.push(self.value(&loaded, &element.key, &element.key)),
                (true, true, Some(first)) => {
                    let last = before(&element.key);
                    values.push(self.value(&loaded, first, &last));
                }
                (true, true, None) => {}
                (true, false, _) => open = Some(&element.key),
            }
        }
        if let Some(first) = open {
            values.push(self.value(&loaded, first, &vec![0xff; first.len()]));
        }
        if vmap {
            let name = loaded.field.name(self.style, self.v6);
            return self.say(format!("{name} vmap {{ {} : … }}", values.first().map_or("…", String::as_str)));
        }
        self.list(loaded.field, not, values);
    }
}

/// The greatest number below, in network order.
fn before(key: &[u8]) -> Vec<u8> {
    let mut bytes = key.to_vec();
    for byte in bytes.iter_mut().rev() {
        let (less, borrowed) = byte.overflowing_sub(1);
        *byte = less;
        if !borrowed {
            break;
        }
    }
    bytes
}

/// A number from bytes in network or in the machine's order.
fn big(bytes: &[u8], native: bool) -> u128 {
    let mut bytes: Vec<u8> = bytes.iter().copied().take(16).collect();
    if native && cfg!(target_endian = "little") {
        bytes.reverse();
    }
    bytes.iter().fold(0, |all, byte| all << 8 | u128::from(*byte))
}

fn addresses(first: u128, last: u128, v6: bool) -> String {
    let plain = |number: u128| match v6 {
        true => IpAddr::V6(number.into()).to_string(),
        false => IpAddr::V4(u32::try_from(number).unwrap_or(u32::MAX).into()).to_string(),
    };
    let rest = first ^ last;
    if rest == 0 {
        plain(first)
    } else if rest & rest.wrapping_add(1) == 0 && first & rest == 0 {
        let width = if v6 { 128 } else { 32 };
        format!("{}/{}", plain(first), width - rest.count_ones())
    } else {
        format!("{}-{}", plain(first), plain(last))
    }
}

fn states(bits: u128) -> String {
    let names = [
        (ct::INVALID, "invalid"),
        (ct::ESTABLISHED, "established"),
        (ct::RELATED, "related"),
        (ct::NEW, "new"),
        (ct::UNTRACKED, "untracked"),
    ];
    let found: Vec<&str> = names.iter().filter(|(bit, _)| bits & bit != 0).map(|(_, name)| *name).collect();
    found.join(",")
}

fn flag_names(bits: u128) -> String {
    let names = ["fin", "syn", "rst", "psh", "ack", "urg", "ecn", "cwr"];
    let found: Vec<&str> = names.iter().enumerate().filter(|(n, _)| bits >> n & 1 == 1).map(|(_, name)| *name).collect();
    if found.is_empty() { "none".to_owned() } else { found.join(",") }
}

fn protocol_name(number: u128) -> Option<&'static str> {
    Some(match number {
        1 => "icmp",
        2 => "igmp",
        6 => "tcp",
        17 => "udp",
        47 => "gre",
        50 => "esp",
        51 => "ah",
        58 => "ipv6-icmp",
        112 => "vrrp",
        132 => "sctp",
        _ => return None,
    })
}

fn translation(to: &Translation, iptables: bool) -> String {
    let address = to.address.map(|(first, last)| if first == last { first.to_string() } else { format!("{first}-{last}") });
    let port = to.port.map(|(first, last)| if first == last { first.to_string() } else { format!("{first}-{last}") });
    let both = match (&address, &port) {
        (None, None) => None,
        (Some(address), None) => Some(address.clone()),
        (None, Some(port)) => Some(format!(":{port}")),
        (Some(address), Some(port)) if address.contains(':') => Some(format!("[{address}]:{port}")),
        (Some(address), Some(port)) => Some(format!("{address}:{port}")),
    };
    let (name, option) = match (to.kind, iptables) {
        (Nat::Destination, true) => ("-j DNAT", "--to-destination"),
        (Nat::Redirect, true) => ("-j REDIRECT", "--to-ports"),
        (Nat::Netmap, true) => ("-j NETMAP", "--to"),
        (Nat::Source, true) => ("-j SNAT", "--to-source"),
        (Nat::Destination | Nat::Netmap, false) => ("dnat", "to"),
        (Nat::Redirect, false) => ("redirect", "to"),
        (Nat::Source, false) => ("snat", "to"),
    };
    match (both, to.kind) {
        (None, _) => name.to_owned(),
        (Some(_), Nat::Redirect) if iptables => format!("{name} {option} {}", port.unwrap_or_default()),
        (Some(both), _) => format!("{name} {option} {both}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn rule(number: i64, steps: Vec<Step>) -> Rule {
        Rule { text: String::new(), number, steps, packets: None }
    }

    fn table(engine: Engine, family: Family, name: &str, rules: Vec<Rule>) -> Table {
        let chains = vec![Chain { name: "INPUT".to_owned(), base: None, rules }];
        Table { engine, family, name: name.to_owned(), handle: 1, chains, doubt: None }
    }

    fn load(base: native::Base, offset: u32, len: u8) -> Step {
        Step::Native(Native::Payload { base, offset, len, to: 0 })
    }

    fn equal(data: &[u8]) -> Step {
        Step::Native(Native::Compare { from: 0, op: Compare::Equal, data: data.into() })
    }

    #[test]
    fn by_handle_from_listings() {
        let text = "table inet t { # handle 3\n\tset a { # handle 4\n\t\ttype ipv4_addr\n\t\telements = { 10.0.0.1,\n\t\t\t     10.0.0.2 }\n\t}\n\n\tchain INPUT { # handle 1\n\t\ttype filter hook input priority filter; policy drop;\n\t\ttcp dport 5672 counter packets 3 bytes 180 accept comment \"amqp # handle 9\" # handle 7\n\t\tip saddr { 10.0.0.1,\n\t\t\t   10.0.0.2 } drop # handle 8\n\t}\n}\n";
        let mut tables =
            vec![table(Engine::Nftables, Family::Inet, "t", vec![rule(7, Vec::new()), rule(8, Vec::new()), rule(9, Vec::new())])];
        label(&mut tables, Some(text), [None, None]);
        let texts: Vec<&str> = tables[0].chains[0].rules.iter().map(|r| r.text.as_str()).collect();
        assert_eq!(
            texts,
            ["tcp dport 5672 counter accept comment \"amqp # handle 9\"", "ip saddr { 10.0.0.1, 10.0.0.2 } drop", "… # handle 9"]
        );
        assert_eq!(tables[0].chains[0].rules[0].number, 7);
    }

    #[test]
    fn by_position_from_saves() {
        let save = "*filter\n:INPUT DROP [0:0]\n-A INPUT -i lo -j ACCEPT\nCOMMIT\n";
        let mut tables = vec![table(Engine::IptablesNft, Family::Ip, "filter", vec![rule(1, Vec::new())])];
        label(&mut tables, None, [Some(save), None]);
        assert_eq!(tables[0].chains[0].rules[0].text, "-A INPUT -i lo -j ACCEPT");
        // Another number of rules: it changed meanwhile, or holds native rules.
        let mut tables = vec![table(
            Engine::IptablesNft,
            Family::Ip,
            "filter",
            vec![rule(1, vec![Step::Go(Target::Drop)]), rule(2, vec![Step::Go(Target::Accept)])],
        )];
        label(&mut tables, None, [Some(save), None]);
        assert_eq!(tables[0].chains[0].rules[0].text, "-A INPUT -j DROP");
    }

    #[test]
    fn plain_printing() {
        let steps = || {
            vec![
                load(native::Base::Network, 12, 1),
                equal(&[10]),
                Step::Native(Native::Meta { key: 16, to: 0 }),
                equal(&[6]),
                load(native::Base::Transport, 2, 2),
                equal(&5672u16.to_be_bytes()),
                Step::Native(Native::Counter),
                Step::Native(Native::Go(Target::Accept)),
            ]
        };
        let mut tables = vec![
            table(Engine::Nftables, Family::Ip, "t", vec![rule(4, steps())]),
            table(Engine::IptablesNft, Family::Ip, "filter", vec![rule(1, steps())]),
        ];
        label(&mut tables, None, [None, None]);
        assert_eq!(
            tables[0].chains[0].rules[0].text,
            "ip saddr 10.0.0.0/8 meta l4proto tcp tcp dport 5672 counter accept # handle 4"
        );
        assert_eq!(tables[1].chains[0].rules[0].text, "-A INPUT -s 10.0.0.0/8 -p tcp --dport 5672 -j ACCEPT");
    }

    #[test]
    fn anonymous_sets_and_states() {
        let element = |key: &[u8], interval_end| native::Element { key: key.into(), interval_end, ..native::Element::default() };
        let set = native::Set {
            name: "__set0".to_owned(),
            interval: true,
            elements: vec![
                element(&[0, 22], false),
                element(&[0, 23], true),
                element(&[0x16, 0x27], false),
                element(&[0x16, 0x29], true),
            ],
            ..native::Set::default()
        };
        let steps = vec![
            load(native::Base::Transport, 2, 2),
            Step::Native(Native::Lookup { set: Arc::new(set), from: 0, to: None, not: false }),
            Step::Test(Test::AnyBit { key: Key::CtState, bits: ct::NEW, not: false }),
            Step::Go(Target::Jump("u".to_owned())),
        ];
        assert_eq!(
            printed(&rule(4, steps), "c", Family::Inet, Style::Nft),
            "th dport { 22, 5671-5672 } ct state new jump u # handle 4"
        );
    }
}

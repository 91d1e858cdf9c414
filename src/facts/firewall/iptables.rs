//! Rules of iptables-save as tests and targets.

use super::model::*;
use crate::formats::iptables_save::{self, Save};
use std::net::IpAddr;
use std::sync::Arc;

/// Targets that let the packet go on to the next rule and change nothing that a test looks at.
const PASSING: [&str; 17] = [
    "LOG",
    "NFLOG",
    "ULOG",
    "TCPMSS",
    "TOS",
    "DSCP",
    "TTL",
    "HL",
    "TRACE",
    "TEE",
    "AUDIT",
    "CHECKSUM",
    "CLASSIFY",
    "SECMARK",
    "CONNSECMARK",
    "SET",
    "ECN",
];

/// The tables of one save. `engine` is legacy or nft; priorities are the engine's defaults.
pub fn tables(save: &Save, engine: Engine, v6: bool) -> Vec<Table> {
    save.tables.iter().map(|t| table(t, engine, v6)).collect()
}

fn table(table: &iptables_save::Table, engine: Engine, v6: bool) -> Table {
    let names: Vec<&str> = table.chains.iter().map(|c| c.name.as_str()).collect();
    let chains = table
        .chains
        .iter()
        .map(|chain| Chain {
            name: chain.name.clone(),
            base: chain.policy.as_deref().and_then(|policy| base(&table.name, &chain.name, policy, engine)),
            rules: chain
                .rules
                .iter()
                .zip(1..)
                .map(|(rule, number)| Rule {
                    text: rule.text.clone(),
                    number,
                    steps: steps(&rule.words, v6, &names),
                    packets: None,
                })
                .collect(),
        })
        .collect();
    let family = if v6 { Family::Ip6 } else { Family::Ip };
    Table { engine, family, name: table.name.clone(), handle: 0, chains, doubt: None }
}

fn base(table: &str, chain: &str, policy: &str, engine: Engine) -> Option<Base> {
    let hook = match chain {
        "PREROUTING" => Hook::Prerouting,
        "INPUT" => Hook::Input,
        "OUTPUT" => Hook::Output,
        "POSTROUTING" => Hook::Postrouting,
        _ => return None,
    };
    let priority = match (table, hook) {
        ("raw", _) => -300,
        ("mangle", _) => -150,
        ("nat", Hook::Prerouting | Hook::Output) => -100,
        ("nat", _) => 100,
        ("security", _) if engine == Engine::IptablesLegacy => 50,
        ("security", _) => 150,
        _ => 0,
    };
    let handle = 0;
    Some(Base { hook, priority, accept: policy != "DROP", nat: table == "nat", handle, devices: Vec::new() })
}

/// Reads the words of one rule. What is not known here becomes an undecided test or target, never an error.
pub fn steps(words: &[String], v6: bool, chains: &[&str]) -> Vec<Step> {
    let mut reader = Reader { words, next: 0, v6, steps: Vec::new(), module: String::new() };
    let mut not = false;
    while let Some(word) = reader.take() {
        match word.as_str() {
            "!" => {
                not = true;
                continue;
            }
            "-j" | "--jump" => {
                let name = reader.take().unwrap_or_default();
                let go = reader.target(&name, chains);
                reader.steps.extend(go);
            }
            "-g" | "--goto" => {
                let name = reader.take().unwrap_or_default();
                reader.steps.push(Step::Go(Target::Goto(name)));
            }
            option => reader.option(option, not),
        }
        not = false;
    }
    reader.steps
}

struct Reader<'a> {
    words: &'a [String],
    next: usize,
    v6: bool,
    steps: Vec<Step>,
    module: String,
}

impl Reader<'_> {
    fn take(&mut self) -> Option<String> {
        let word = self.words.get(self.next).cloned();
        self.next += 1;
        word
    }

    /// The values of an option: words up to the next option.
    fn values(&mut self) -> Vec<String> {
        let mut values = Vec::new();
        while let Some(word) = self.words.get(self.next).filter(|w| *w != "!" && !is_option(w)) {
            values.push(word.clone());
            self.next += 1;
        }
        values
    }

    fn test(&mut self, test: Test) {
        self.steps.push(Step::Test(test));
    }

    fn is(&mut self, key: Key, part: Option<Part>, not: bool, shown: &str) {
        match part {
            Some(part) => self.test(Test::is(key, part, not)),
            None => self.test(Test::Undecided(shown.to_owned())),
        }
    }

    fn any_of(&mut self, key: Key, parts: Option<Vec<Part>>, not: bool, shown: &str) {
        match parts {
            Some(parts) => self.test(Test::In { key: vec![key], set: Arc::new(Set::of(parts)), not }),
            None => self.test(Test::Undecided(shown.to_owned())),
        }
    }

    fn option(&mut self, option: &str, mut not: bool) {
        // Saves of long ago put the negation behind the option: `-s ! 10.0.0.1`.
        if self.words.get(self.next).is_some_and(|w| w == "!") && self.words.get(self.next + 1).is_some_and(|w| !is_option(w)) {
            not = !not;
            self.next += 1;
        }
        let values = self.values();
        let value = values.first().map(String::as_str).unwrap_or("");
        let shown = format!("{option} {}", values.join(" "));
        match option {
            "-m" | "--match" => self.module(value),
            "-s" | "--source" | "--src" => self.address(Key::Source, value, not, &shown),
            "-d" | "--destination" | "--dst" => self.address(Key::Destination, value, not, &shown),
            "-p" | "--protocol" | "--proto" if matches!(value, "all" | "0") => {}
            "-p" | "--protocol" | "--proto" => self.is(Key::Protocol, protocol(value).map(exactly), not, &shown),
            "-i" | "--in-interface" => self.is(Key::InInterface, Some(interface(value)), not, &shown),
            "-o" | "--out-interface" => self.is(Key::OutInterface, Some(interface(value)), not, &shown),
            // A SYN is never a fragment once conntrack is there, and hardly without.
            "-f" | "--fragment" => self.test(Test::is(Key::Version, exactly(0), not)),
            "--dport" | "--destination-port" => self.any_of(Key::DestinationPort, ports(value), not, &shown),
            "--sport" | "--source-port" => self.any_of(Key::SourcePort, ports(value), not, &shown),
            "--dports" | "--destination-ports" => self.any_of(Key::DestinationPort, ports(value), not, &shown),
            "--sports" | "--source-ports" => self.any_of(Key::SourcePort, ports(value), not, &shown),
            "--ports" => match ports(value) {
                Some(parts) => {
                    let set = Arc::new(Set::of(parts));
                    let one = |key| Test::In { key: vec![key], set: set.clone(), not };
                    if not {
                        self.test(one(Key::SourcePort));
                        self.test(one(Key::DestinationPort));
                    } else {
                        let either = Test::Either(vec![one(Key::SourcePort), one(Key::DestinationPort)]);
                        self.test(either);
                    }
                }
                None => self.test(Test::Undecided(shown)),
            },
            "--syn" => self.test(Test::is(Key::Masked(Box::new(Key::TcpFlags), 0x17), exactly(2), not)),
            "--tcp-flags" => match (flags(value), values.get(1).and_then(|v| flags(v))) {
                (Some(mask), Some(set)) => self.test(Test::is(Key::Masked(Box::new(Key::TcpFlags), mask), exactly(set), not)),
                _ => self.test(Test::Undecided(shown)),
            },
            "--ctstate" | "--state" => self.state(value, not),
            "--ctdir" => {
                let reply = value.eq_ignore_ascii_case("reply").into();
                self.test(Test::is(Key::CtDirection, exactly(reply), not));
            }
            "--ctorigdstport" => self.any_of(Key::OriginalPort, ports(value), not, &shown),
            "--src-range" => self.is(Key::Source, range(value), not, &shown),
            "--dst-range" => self.is(Key::Destination, range(value), not, &shown),
            "--src-type" => self.address_type(Key::SourceType, value, not, &shown),
            "--dst-type" => self.address_type(Key::DestinationType, value, not, &shown),
            "--pkt-type" => {
                let kind = ["unicast", "broadcast", "multicast"].iter().position(|k| *k == value);
                self.is(Key::PacketType, kind.map(|k| exactly(k as u128)), not, &shown);
            }
            "--mark" if matches!(self.module.as_str(), "mark" | "connmark") => match masked(value) {
                Some((v, mask)) => {
                    let key = if self.module == "connmark" { Key::CtMark } else { Key::Mark };
                    self.test(Test::is(Key::Masked(Box::new(key), mask.into()), exactly(v.into()), not));
                }
                None => self.test(Test::Undecided(shown)),
            },
            "--icmp-type" | "--icmpv6-type" => {
                let kind = value.split('/').next().and_then(|v| v.parse().ok());
                match (value, kind) {
                    ("any" | "255", _) => {}
                    (_, Some(kind)) => self.test(Test::is(Key::IcmpType, exactly(kind), not)),
                    _ => self.test(Test::Undecided(shown)),
                }
            }
            "--match-set" => self.test(Test::Undecided(format!("the ipset {value}"))),
            "--tcp-option" if matches!(value, "2" | "3" | "4" | "8") && self.module == "tcp" => {
                // A Linux SYN carries these; later packets and other stacks need not.
                self.test(Test::Undecided(shown));
            }
            "--comment" => {}
            // Options of modules that were noted as undecided, or that only describe.
            _ if matches!(
                self.module.as_str(),
                "" | "tcp" | "udp" | "conntrack" | "multiport" | "addrtype" | "iprange" | "mark"
            ) =>
            {
                self.test(Test::Undecided(shown));
            }
            _ => {}
        }
    }

    fn module(&mut self, name: &str) {
        self.module = name.to_owned();
        let decided = [
            "tcp",
            "udp",
            "comment",
            "conntrack",
            "state",
            "multiport",
            "iprange",
            "addrtype",
            "mark",
            "connmark",
            "icmp",
            "icmp6",
            "icmpv6",
            "pkttype",
            "set",
        ];
        if decided.contains(&name) {
            return;
        }
        // Extension headers and other protocols: an ordinary TCP packet has none, and without one not even `!` matches.
        if matches!(name, "rt" | "frag" | "hbh" | "dst" | "mh" | "ah" | "esp" | "ipcomp" | "sctp" | "dccp") {
            return self.test(Test::Either(Vec::new()));
        }
        // `recent --set` notes the sender and always holds.
        let rest: Vec<&str> = self.words[self.next.min(self.words.len())..]
            .iter()
            .map(String::as_str)
            .take_while(|w| *w != "-m" && *w != "-j")
            .collect();
        if name == "recent" && rest.contains(&"--set") {
            return;
        }
        let what = match name {
            "limit" | "hashlimit" => "the rate limit".to_owned(),
            "recent" => "the list of recent senders".to_owned(),
            "connlimit" => "the number of connections".to_owned(),
            other => format!("the match {other}"),
        };
        self.test(Test::Undecided(what));
    }

    fn address(&mut self, key: Key, value: &str, not: bool, shown: &str) {
        if let Some((_, first, last)) = span(value).filter(|(v6, ..)| *v6 == self.v6) {
            return self.test(Test::is(key, Part::Span(first, last), not));
        }
        // Masks need not be prefixes: 10.0.0.5/255.0.0.255
        let parts = value.split_once('/').map(|(a, m)| (a.parse::<IpAddr>(), m.parse::<IpAddr>()));
        match parts {
            Some((Ok(address), Ok(mask))) => {
                let mask = number(mask);
                self.test(Test::is(Key::Masked(Box::new(key), mask), exactly(number(address) & mask), not));
            }
            _ => self.test(Test::Undecided(shown.to_owned())),
        }
    }

    fn state(&mut self, value: &str, not: bool) {
        let mut bits = 0;
        for name in value.split(',') {
            bits |= match name {
                "INVALID" => ct::INVALID,
                "NEW" => ct::NEW,
                "ESTABLISHED" => ct::ESTABLISHED,
                "RELATED" => ct::RELATED,
                "UNTRACKED" => ct::UNTRACKED,
                // Translated connections end the walk before this is asked.
                "SNAT" | "DNAT" => 0,
                _ => return self.test(Test::Undecided(format!("the state {name}"))),
            };
        }
        self.test(Test::AnyBit { key: Key::CtState, bits, not });
    }

    fn address_type(&mut self, key: Key, value: &str, not: bool, shown: &str) {
        let mut parts = Vec::new();
        for name in value.split(',') {
            match address_type(name) {
                // In IPv6 an address of this host is unicast as well.
                Some(1) if self.v6 => parts.push(Part::Span(1, 2)),
                Some(kind) => parts.push(exactly(kind)),
                None => return self.test(Test::Undecided(shown.to_owned())),
            }
        }
        self.test(Test::In { key: vec![key], set: Arc::new(Set::of(parts)), not });
    }

    fn target(&mut self, name: &str, chains: &[&str]) -> Option<Step> {
        let mut options = Vec::new();
        while let Some(word) = self.take() {
            options.push(word);
        }
        let after = |name: &str| options.iter().position(|o| o == name).and_then(|i| options.get(i + 1)).map(String::as_str);
        let go = |target| Some(Step::Go(target));
        match name {
            "ACCEPT" | "SNAT" | "MASQUERADE" => go(Target::Accept),
            "DROP" => go(Target::Drop),
            "RETURN" => go(Target::Return),
            "REJECT" => {
                let default = if self.v6 { "icmp6-port-unreachable" } else { "icmp-port-unreachable" };
                go(Target::Reject(after("--reject-with").unwrap_or(default).to_owned()))
            }
            "DNAT" => {
                let (address, port) = destination(after("--to-destination").unwrap_or(""));
                go(Target::Translate(Translation {
                    kind: Nat::Destination,
                    address: address.map(|a| (a, a)),
                    port: port.map(|p| (p, p)),
                }))
            }
            "REDIRECT" => {
                let port = after("--to-ports").and_then(|p| p.split('-').next()?.parse().ok());
                go(Target::Translate(Translation { kind: Nat::Redirect, address: None, port: port.map(|p| (p, p)) }))
            }
            "MARK" | "CONNMARK" => Some(mark(name == "CONNMARK", &options)),
            "NOTRACK" => Some(Step::Notrack),
            "CT" => options.iter().any(|o| o == "--notrack").then_some(Step::Notrack),
            other if PASSING.contains(&other) => None,
            other if chains.contains(&other) => go(Target::Jump(other.to_owned())),
            other => go(Target::Undecided(format!("the target {other}"))),
        }
    }
}

fn is_option(word: &str) -> bool {
    word.len() > 1 && word.starts_with('-') && !word[1..].starts_with(|c: char| c.is_ascii_digit())
}

fn exactly(value: u128) -> Part {
    Part::Span(value, value)
}

fn interface(name: &str) -> Part {
    match name.strip_suffix('+') {
        Some(start) => Part::Name(format!("{start}*")),
        None => Part::Name(name.to_owned()),
    }
}

/// `22`, `5671:5672`, `:1023`, `1024:`, and lists of these.
fn ports(text: &str) -> Option<Vec<Part>> {
    text.split(',')
        .map(|one| {
            let (first, last) = one.split_once(':').unwrap_or((one, one));
            let first = if first.is_empty() { 0 } else { first.parse::<u16>().ok()? };
            let last = if last.is_empty() { u16::MAX } else { last.parse::<u16>().ok()? };
            Some(Part::Span(first.into(), last.into()))
        })
        .collect()
}

fn flags(text: &str) -> Option<u128> {
    text.split(',').map(tcp_flag).try_fold(0, |all, one| Some(all | one?))
}

fn range(text: &str) -> Option<Part> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    Some(Part::Span(number(first.parse().ok()?), number(last.parse().ok()?)))
}

fn hex(text: &str) -> Option<u32> {
    match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

fn masked(text: &str) -> Option<(u32, u32)> {
    match text.split_once('/') {
        Some((value, mask)) => Some((hex(value)?, hex(mask)?)),
        None => Some((hex(text)?, u32::MAX)),
    }
}

fn mark(connection: bool, options: &[String]) -> Step {
    let change = match options {
        [name, value, ..] => masked(value).and_then(|(value, mask)| match name.as_str() {
            "--set-xmark" => Some((!mask, value)),
            "--set-mark" => Some((!(mask | value), value)),
            "--and-mark" => Some((value, 0)),
            "--or-mark" => Some((!value, value)),
            "--xor-mark" => Some((u32::MAX, value)),
            _ => None,
        }),
        _ => None,
    };
    // CONNMARK --restore-mark copies the connection's mark, which is 0 for a new one, into the packet's.
    if connection && options.iter().any(|o| o == "--restore-mark") {
        return Step::SetMark { connection: false, change: None };
    }
    Step::SetMark { connection, change }
}

/// `172.17.0.2:5672`, `:5673`, `[fd00::2]:5672`, `10.0.0.1-10.0.0.9:1-5`: the first of what is possible.
fn destination(text: &str) -> (Option<IpAddr>, Option<u16>) {
    let (address, port) = match text.strip_prefix('[') {
        Some(rest) => rest.split_once(']').map_or((rest, ""), |(a, p)| (a, p.trim_start_matches(':'))),
        None if text.matches(':').count() > 1 => (text, ""),
        None => text.split_once(':').unwrap_or((text, "")),
    };
    let first = |t: &str| t.split('-').next().unwrap_or("").to_owned();
    (first(address).parse().ok(), first(port).parse().ok())
}

//! Rules of iptables-save as tests and targets.

use super::meaning::{self, AddressTypes, Conntrack, Order, Recent, exactly};
use super::model::*;
use crate::formats::iptables_save::{self, Rule as Line, Save, Word};
use std::collections::HashSet;
use std::net::IpAddr;

/// The tables of one save. `engine` is legacy or nft; priorities are the engine's defaults.
pub fn tables(save: &Save, engine: Engine, v6: bool) -> Vec<Table> {
    save.tables.iter().map(|t| table(save, t, engine, v6)).collect()
}

fn table(save: &Save, table: &iptables_save::Table, engine: Engine, v6: bool) -> Table {
    let names: HashSet<&str> = table.chains.iter().map(|c| c.name.as_str()).collect();
    let rule = |(line, number): (&Line, i64)| Rule {
        text: save.line(line).to_owned(),
        number,
        steps: steps(&save.words(line), v6, &names),
        packets: line.packets,
    };
    let chains = table
        .chains
        .iter()
        .map(|chain| Chain {
            name: chain.name.clone(),
            base: chain.policy.as_deref().and_then(|policy| base(&table.name, &chain.name, policy, engine)),
            rules: chain.rules.iter().zip(1..).map(rule).collect(),
        })
        .collect();
    let family = if v6 { Family::Ip6 } else { Family::Ip };
    Table { engine, family, name: table.name.clone(), handle: 0, chains, doubt: None }
}

fn base(table: &str, chain: &str, policy: &str, engine: Engine) -> Option<Base> {
    let hook = match chain {
        "PREROUTING" => Hook::Prerouting,
        "INPUT" => Hook::Input,
        "FORWARD" => Hook::Forward,
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
pub fn steps(words: &[Word], v6: bool, chains: &HashSet<&str>) -> Vec<Step> {
    let mut reader = Reader {
        words,
        next: 0,
        v6,
        steps: Vec::new(),
        module: "",
        pending: Pending::Nothing,
        target: None,
        options: Vec::new(),
    };
    let mut not = false;
    while let Some(word) = reader.take() {
        match word {
            "!" => {
                not = true;
                continue;
            }
            // The negation is for the next option with a value, whatever module is named in between.
            "-m" | "--match" => {
                let name = reader.take().unwrap_or("");
                reader.module(name);
                continue;
            }
            "-j" | "--jump" | "-g" | "--goto" => {
                reader.finish();
                let name = reader.take().unwrap_or("");
                reader.target = Some((name, word.starts_with("-g") || word == "--goto"));
                reader.module = "";
            }
            option => reader.option(option, not),
        }
        not = false;
    }
    reader.finish();
    let last = reader.aim(chains);
    reader.steps.extend(last);
    reader.steps.shrink_to_fit();
    reader.steps
}

/// A module whose options mean something only together.
enum Pending {
    Nothing,
    Conntrack(Conntrack),
    AddressTypes(AddressTypes),
    Recent(Recent),
    Hashlimit(String),
    Limit(u64),
    /// Name, sides, negated; whether options were given that are not known here.
    Set(String, Vec<bool>, bool, bool),
    Ipv6Header(u8, u8, bool),
}

/// An option with its values, to be named where it is not known here.
struct Shown<'a> {
    option: &'a str,
    not: bool,
    values: &'a [&'a str],
}

impl std::fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "{}{} {}", if self.not { "! " } else { "" }, self.option, self.values.join(" "))
    }
}

struct Reader<'a> {
    words: &'a [Word<'a>],
    next: usize,
    v6: bool,
    steps: Vec<Step>,
    /// The match whose options follow.
    module: &'a str,
    pending: Pending,
    /// Target or chain, and whether it is a goto.
    target: Option<(&'a str, bool)>,
    /// The target's options with their values.
    options: Vec<&'a str>,
}

impl<'a> Reader<'a> {
    fn take(&mut self) -> Option<&'a str> {
        let words: &'a [Word<'a>] = self.words;
        let word = words.get(self.next)?;
        self.next += 1;
        Some(word)
    }

    /// The values of an option: words up to the next option. Free texts are one word, whatever it looks like.
    fn values(&mut self, option: &str) -> Vec<&'a str> {
        let words: &'a [Word<'a>] = self.words;
        let mut values: Vec<&'a str> = Vec::new();
        if is_free_text(option) {
            values.extend(self.take());
            return values;
        }
        while let Some(word) = words.get(self.next).filter(|w| w.quoted || (&***w != "!" && !is_option(w))) {
            values.push(word);
            self.next += 1;
        }
        values
    }

    fn is(&mut self, key: Key, part: Option<Part>, not: bool, shown: &Shown) {
        match part {
            Some(part) => meaning::is(&mut self.steps, key, part, not),
            None => self.unknown(shown),
        }
    }

    fn undecided(&mut self, why: &str) {
        meaning::undecided(&mut self.steps, why.trim());
    }

    fn unknown(&mut self, shown: &Shown) {
        self.undecided(&shown.to_string());
    }

    fn ports(&mut self, key: Key, value: &str, not: bool, shown: &Shown) {
        match ports(value) {
            Some(ranges) => meaning::ports(&mut self.steps, key, &ranges, not),
            None => self.unknown(shown),
        }
    }

    /// The options of a module are complete.
    fn finish(&mut self) {
        let v6 = self.v6;
        let out = &mut self.steps;
        match std::mem::replace(&mut self.pending, Pending::Nothing) {
            Pending::Nothing => {}
            Pending::Conntrack(conntrack) => conntrack.finish(out),
            Pending::AddressTypes(types) => types.finish(out, v6),
            Pending::Recent(recent) => recent.finish(out),
            Pending::Hashlimit(name) => meaning::hashlimit(out, &name),
            Pending::Limit(period) => meaning::limit(out, period),
            Pending::Set(name, _, _, true) => meaning::undecided(out, format!("the ipset {name}")),
            Pending::Set(name, sides, not, false) => meaning::ip_set(out, &name, &sides, not),
            Pending::Ipv6Header(wanted, inverted, soft) => meaning::ipv6_headers(out, wanted, inverted, soft),
        }
    }

    fn module(&mut self, name: &'a str) {
        self.finish();
        self.module = name;
        self.pending = match name {
            "conntrack" | "state" => Pending::Conntrack(Conntrack::default()),
            "addrtype" => Pending::AddressTypes(AddressTypes::default()),
            "recent" => Pending::Recent(Recent { name: "DEFAULT".to_owned(), ..Recent::default() }),
            "hashlimit" => Pending::Hashlimit(String::new()),
            // 3/hour is the default.
            "limit" => Pending::Limit(meaning::RATE_SCALE * 1200),
            "ipv6header" => Pending::Ipv6Header(0, 0, false),
            _ => Pending::Nothing,
        };
        let decided = [
            "tcp",
            "udp",
            "comment",
            "conntrack",
            "state",
            "multiport",
            "mport",
            "iprange",
            "addrtype",
            "mark",
            "connmark",
            "icmp",
            "icmp6",
            "icmpv6",
            "pkttype",
            "set",
            "recent",
            "hashlimit",
            "limit",
            "ipv6header",
            "mac",
            "length",
            "ttl",
            "hl",
            "dscp",
            "tos",
            "physdev",
            "owner",
            "rpfilter",
            "helper",
        ];
        if decided.contains(&name) {
        } else if meaning::never_tcp(name) {
            meaning::constant(&mut self.steps, false);
        } else {
            meaning::undecided(&mut self.steps, meaning::rests_on(name));
        }
        // `rpfilter` alone is a test.
        if name == "rpfilter" {
            self.rpfilter();
        }
    }

    fn rpfilter(&mut self) {
        let words: &'a [Word<'a>] = self.words;
        let mut flags = Vec::new();
        while let Some(word) =
            words.get(self.next).filter(|w| ["--loose", "--validmark", "--accept-local", "--invert"].contains(&&***w))
        {
            flags.push(&**word);
            self.next += 1;
        }
        let has = |flag| flags.contains(&flag);
        meaning::rpfilter(&mut self.steps, has("--loose"), has("--accept-local"), has("--invert"));
    }

    fn option(&mut self, option: &'a str, mut not: bool) {
        // Saves of long ago put the negation behind the option: `-s ! 10.0.0.1`.
        let next = |n: usize| self.words.get(self.next + n);
        if next(0).is_some_and(|w| !w.quoted && &**w == "!") && next(1).is_some_and(|w| w.quoted || !is_option(w)) {
            not = !not;
            self.next += 1;
        }
        let values = self.values(option);
        let value = values.first().copied().unwrap_or("");
        let shown = Shown { option, not, values: &values };
        if self.basic(option, value, not, &shown) {
            return;
        }
        let known = !(self.target.is_some() && self.module.is_empty())
            && (self.together(option, &values, not) || self.single(option, &values, not, &shown));
        if known {
            return;
        }
        if self.target.is_some() {
            self.options.push(option);
            self.options.extend(values);
            return;
        }
        // Options of matches that were noted as undecided, or that only describe.
        let decided = [
            "",
            "tcp",
            "udp",
            "conntrack",
            "state",
            "multiport",
            "addrtype",
            "iprange",
            "mark",
            "connmark",
            "mac",
            "length",
            "ttl",
            "hl",
            "dscp",
            "tos",
            "icmp",
            "icmp6",
            "icmpv6",
            "pkttype",
        ];
        if decided.contains(&self.module) {
            self.unknown(&shown);
        }
    }

    /// Options of iptables itself.
    fn basic(&mut self, option: &str, value: &'a str, not: bool, shown: &Shown) -> bool {
        match option {
            "-s" | "--source" | "--src" => self.address(Key::Source, value, not, shown),
            "-d" | "--destination" | "--dst" => self.address(Key::Destination, value, not, shown),
            "-p" | "--protocol" | "--proto" if self.module == "policy" && option == "--proto" => {}
            "-p" | "--protocol" | "--proto" if matches!(value, "all" | "0") => meaning::constant(&mut self.steps, !not),
            "-p" | "--protocol" | "--proto" => {
                self.is(Key::Protocol, protocol(value).map(exactly), not, shown);
                // Its options may follow without `-m`.
                if self.module.is_empty() {
                    self.module = value;
                }
            }
            "-i" | "--in-interface" => meaning::interface(&mut self.steps, Key::InInterface, value, not),
            "-o" | "--out-interface" => meaning::interface(&mut self.steps, Key::OutInterface, value, not),
            "-f" | "--fragment" => meaning::fragment(&mut self.steps, not),
            "-4" | "--ipv4" => meaning::constant(&mut self.steps, !self.v6),
            "-6" | "--ipv6" => meaning::constant(&mut self.steps, self.v6),
            "-c" | "--set-counters" => {}
            _ => return false,
        }
        true
    }

    /// Options that belong together with others of their module.
    fn together(&mut self, option: &str, values: &[&str], not: bool) -> bool {
        let value = values.first().copied().unwrap_or("");
        let v6 = self.v6;
        match (&mut self.pending, option) {
            (Pending::Conntrack(conntrack), _) => conntrack_option(conntrack, option, value, not, v6),
            (Pending::AddressTypes(types), "--src-type" | "--dst-type") => {
                let mask = value.split(',').map(address_type).try_fold(0u16, |all, one| Some(all | 1 << one?));
                let Some(mask) = mask else { return false };
                let wanted = if option == "--src-type" { &mut types.source } else { &mut types.destination };
                *wanted = Some((mask, not));
                true
            }
            (Pending::AddressTypes(types), "--limit-iface-in") => {
                types.limit_in = true;
                true
            }
            (Pending::AddressTypes(types), "--limit-iface-out") => {
                types.limit_out = true;
                true
            }
            (Pending::Recent(recent), _) => {
                recent.not |= not && matches!(option, "--set" | "--rcheck" | "--update" | "--remove");
                match option {
                    "--set" => recent.set = true,
                    "--name" => recent.name = value.to_owned(),
                    "--seconds" => recent.seconds = value.parse().unwrap_or(0),
                    "--hitcount" => recent.hits = value.parse().unwrap_or(0),
                    _ => {}
                }
                true
            }
            (Pending::Hashlimit(name), _) => {
                if option == "--hashlimit-name" {
                    *name = value.to_owned();
                }
                true
            }
            (Pending::Limit(period), _) => {
                if option == "--limit" {
                    *period = meaning::period(value).unwrap_or(0);
                }
                true
            }
            (Pending::Ipv6Header(wanted, inverted, soft), _) => {
                match option {
                    "--header" => {
                        *wanted = value.split(',').filter_map(meaning::ipv6_header).sum();
                        *inverted = if not { 255 } else { 0 };
                    }
                    "--soft" => *soft = true,
                    _ => {}
                }
                true
            }
            (Pending::Set(_, _, _, doubt), _) => {
                // Comparisons with counters; not to count changes nothing.
                *doubt |= !option.ends_with("update-counters") && !option.ends_with("update-subcounters");
                true
            }
            (Pending::Nothing, "--match-set" | "--set") if self.module == "set" => {
                let sides = values.get(1).map(|sides| sides.split(',').map(|s| s == "src").collect()).unwrap_or_default();
                self.pending = Pending::Set(value.to_owned(), sides, not, false);
                true
            }
            _ => false,
        }
    }

    /// Options that are a test each.
    fn single(&mut self, option: &str, values: &[&str], not: bool, shown: &Shown) -> bool {
        let value = values.first().copied().unwrap_or("");
        let module = self.module;
        match option {
            "--dport" | "--destination-port" | "--dports" | "--destination-ports" => {
                self.ports(Key::DestinationPort, value, not, shown)
            }
            "--sport" | "--source-port" | "--sports" | "--source-ports" => self.ports(Key::SourcePort, value, not, shown),
            "--ports" | "--port" => match ports(value) {
                Some(ranges) => meaning::either_port(&mut self.steps, &ranges, not),
                None => self.unknown(shown),
            },
            "--syn" => meaning::tcp_flags(&mut self.steps, 0x17, 2, not),
            "--tcp-flags" => match (flags(value), values.get(1).and_then(|v| flags(v))) {
                (Some(mask), Some(set)) => meaning::tcp_flags(&mut self.steps, mask, set, not),
                _ => self.unknown(shown),
            },
            "--tcp-option" => {
                self.is(value.parse().map_or(Key::Unknown(shown.to_string()), Key::TcpOption), Some(exactly(1)), not, shown)
            }
            "--src-range" => self.is(Key::Source, range(value), not, shown),
            "--dst-range" => self.is(Key::Destination, range(value), not, shown),
            "--pkt-type" => {
                let kind = ["unicast", "broadcast", "multicast"].iter().position(|k| k.eq_ignore_ascii_case(value));
                self.is(Key::PacketType, kind.map(|k| exactly(k as u128)), not, shown);
            }
            "--mark" if matches!(module, "mark" | "connmark") => match masked(value) {
                Some((value, mask)) => meaning::mark(&mut self.steps, module == "connmark", value, mask, not),
                None => self.unknown(shown),
            },
            "--icmp-type" | "--icmpv6-type" => match icmp_type(value, self.v6) {
                Some((kind, codes)) => meaning::icmp(&mut self.steps, kind, codes, not),
                None => self.unknown(shown),
            },
            "--mac-source" => match mac(value) {
                Some(address) => meaning::mac(&mut self.steps, address, not),
                None => self.unknown(shown),
            },
            "--length" => self.is(Key::Length, length(value), not, shown),
            "--ttl-eq" | "--ttl" | "--hl-eq" | "--hl" => self.ttl(if not { Order::NotEqual } else { Order::Equal }, value, shown),
            "--ttl-lt" | "--hl-lt" => self.ttl(Order::Less, value, shown),
            "--ttl-gt" | "--hl-gt" => self.ttl(Order::Greater, value, shown),
            "--dscp" => match number_of(value).and_then(|v| u8::try_from(v).ok()).filter(|v| *v < 64) {
                Some(value) => meaning::dscp(&mut self.steps, value, not),
                None => self.unknown(shown),
            },
            "--dscp-class" => match dscp_class(value) {
                Some(value) => meaning::dscp(&mut self.steps, value, not),
                None => self.unknown(shown),
            },
            "--tos" => match tos(value) {
                Some((value, mask)) => meaning::masked(&mut self.steps, Key::Tos, value.into(), mask.into(), not),
                None => self.unknown(shown),
            },
            "--physdev-in" | "--physdev-out" | "--physdev-is-in" | "--physdev-is-out" | "--physdev-is-bridged" => {
                meaning::physdev(&mut self.steps, not)
            }
            "--uid-owner" => {
                let (first, last) = value.split_once('-').unwrap_or((value, value));
                match (first.parse(), last.parse()) {
                    (Ok(first), Ok(last)) => meaning::owner(&mut self.steps, first, last, not),
                    _ => self.undecided("owner: the sending socket"),
                }
            }
            "--gid-owner" | "--socket-exists" | "--suppl-groups" => self.undecided("owner: the sending socket"),
            "--helper" => meaning::helper(&mut self.steps, not),
            "--comment" => {}
            _ => return false,
        }
        true
    }

    fn ttl(&mut self, order: Order, value: &str, shown: &Shown) {
        match value.parse() {
            Ok(value) => meaning::ttl(&mut self.steps, order, value),
            Err(_) => self.unknown(shown),
        }
    }

    fn address(&mut self, key: Key, value: &str, not: bool, shown: &Shown) {
        // Files written by people may list several addresses, which become as many rules.
        let parts: Option<Vec<Part>> =
            value.split(',').map(|one| span(one).filter(|(v6, ..)| *v6 == self.v6).map(|(_, a, b)| Part::Span(a, b))).collect();
        if let Some(parts) = parts.filter(|p| p.len() == 1 || !not) {
            return meaning::any_of(&mut self.steps, key, parts, not);
        }
        let parts = value.split_once('/').map(|(a, m)| (a.parse::<IpAddr>(), m.parse::<IpAddr>()));
        match parts {
            Some((Ok(address), Ok(mask))) if address.is_ipv6() == self.v6 && mask.is_ipv6() == self.v6 => {
                meaning::address(&mut self.steps, key, number(address), number(mask), self.v6, not)
            }
            _ => self.unknown(shown),
        }
    }

    /// The last step: what the rule does.
    fn aim(&mut self, chains: &HashSet<&str>) -> Option<Step> {
        let (name, goto) = self.target?;
        if goto {
            return Some(Step::Go(Target::Goto(name.to_owned())));
        }
        if chains.contains(name) {
            return Some(Step::Go(Target::Jump(name.to_owned())));
        }
        let options = &self.options;
        let after = |wanted: &str| options.iter().position(|o| *o == wanted).and_then(|i| options.get(i + 1)).copied();
        let nat = |kind, to: Option<&str>| match to.map(destination) {
            None => meaning::translate(kind, None, None),
            Some(Some((address, port))) => meaning::translate(kind, address, port),
            Some(None) => meaning::unknown_target(name),
        };
        match name {
            "REJECT" => Some(meaning::reject_named(after("--reject-with"), self.v6)),
            "DNAT" => Some(nat(Nat::Destination, after("--to-destination").or_else(|| after("--to")))),
            "SNAT" => Some(nat(Nat::Source, after("--to-source").or_else(|| after("--to")))),
            "MASQUERADE" | "REDIRECT" => {
                let kind = if name == "REDIRECT" { Nat::Redirect } else { Nat::Source };
                let port = after("--to-ports").or_else(|| after("--to-port"));
                match port.map(port_range) {
                    None => Some(meaning::translate(kind, None, None)),
                    Some(Some(range)) => Some(meaning::translate(kind, None, Some(range))),
                    Some(None) => Some(meaning::unknown_target(name)),
                }
            }
            "NETMAP" => match after("--to").and_then(network) {
                Some(address) => Some(meaning::translate(Nat::Netmap, Some(address), None)),
                None => Some(meaning::unknown_target(name)),
            },
            "MARK" => Some(packet_mark(options)),
            "CONNMARK" => Some(connection_mark(options)),
            "CT" => options.contains(&"--notrack").then_some(Step::Notrack),
            "NFQUEUE" => Some(meaning::queue(options.contains(&"--queue-bypass"))),
            "SET" => {
                let sets = ["--add-set", "--del-set"].iter().filter_map(|o| after(o));
                self.steps.extend(sets.map(|set| Step::ChangeSet(set.to_owned())).collect::<Vec<_>>());
                options.contains(&"--map-mark").then_some(Step::SetMark { connection: false, change: None })
            }
            other => meaning::plain_target(other).unwrap_or_else(|| Some(meaning::unknown_target(other))),
        }
    }
}

fn conntrack_option(conntrack: &mut Conntrack, option: &str, value: &str, not: bool, v6: bool) -> bool {
    let address = |key: Key, out: &mut Vec<Step>| match span(value).filter(|(is_v6, ..)| *is_v6 == v6) {
        Some((_, first, last)) => meaning::is(out, key, Part::Span(first, last), not),
        None => match value.split_once('/').map(|(a, m)| (a.parse::<IpAddr>(), m.parse::<IpAddr>())) {
            Some((Ok(a), Ok(mask))) if a.is_ipv6() == v6 => meaning::address(out, key, number(a), number(mask), v6, not),
            _ => meaning::undecided(out, format!("{option} {value}")),
        },
    };
    let port = |key: Key, out: &mut Vec<Step>| match ports(value) {
        Some(ranges) => meaning::ports(out, key, &ranges, not),
        None => meaning::undecided(out, format!("{option} {value}")),
    };
    let bits = |named: fn(&str) -> Option<u16>| value.split(',').map(named).try_fold(0, |all, one| Some(all | one?));
    let out = &mut conntrack.others;
    match option {
        "--ctstate" | "--state" => match bits(meaning::ct_state) {
            Some(states) => conntrack.states = Some((states, not)),
            None => meaning::undecided(out, format!("the state {value}")),
        },
        "--ctstatus" => match bits(meaning::ct_status) {
            Some(status) => conntrack.status(status, not),
            None => meaning::undecided(out, format!("the status {value}")),
        },
        "--ctdir" => conntrack.direction(false, not ^ value.eq_ignore_ascii_case("reply")),
        "--ctproto" => match protocol(value) {
            Some(number) => meaning::is(out, Key::CtProtocol, exactly(number), not),
            None => meaning::undecided(out, format!("--ctproto {value}")),
        },
        "--ctexpire" => conntrack.expires(),
        "--ctorigsrc" => address(Key::OriginalSource, out),
        "--ctorigdst" => address(Key::OriginalDestination, out),
        "--ctreplsrc" => address(Key::ReplySource, out),
        "--ctrepldst" => address(Key::ReplyDestination, out),
        "--ctorigsrcport" => port(Key::OriginalSourcePort, out),
        "--ctorigdstport" => port(Key::OriginalPort, out),
        "--ctreplsrcport" => port(Key::ReplySourcePort, out),
        "--ctrepldstport" => port(Key::ReplyPort, out),
        _ => return false,
    }
    true
}

fn is_option(word: &str) -> bool {
    word.len() > 1
        && word.starts_with('-')
        && !word[1..].starts_with(|c: char| c.is_ascii_digit() && !matches!(word, "-4" | "-6"))
}

/// Options whose value is one word of free text, which may look like an option.
fn is_free_text(option: &str) -> bool {
    matches!(
        option,
        "--comment"
            | "--log-prefix"
            | "--nflog-prefix"
            | "--ulog-prefix"
            | "--string"
            | "--hex-string"
            | "--name"
            | "--u32"
            | "--bytecode"
            | "--hashlimit-name"
            | "--helper"
            | "--header"
            | "--algo"
            | "--path"
            | "--label"
    )
}

/// `22`, `5671:5672`, `:1023`, `1024:`, and lists of these; by name those that saves of brokers have.
fn ports(text: &str) -> Option<Vec<(u16, u16)>> {
    text.split(',')
        .map(|one| {
            let (first, last) = one.split_once(':').unwrap_or((one, one));
            let first = if first.is_empty() { 0 } else { port(first)? };
            let last = if last.is_empty() { u16::MAX } else { port(last)? };
            Some((first, last))
        })
        .collect()
}

fn port(text: &str) -> Option<u16> {
    Some(match text {
        "ssh" => 22,
        "domain" => 53,
        "http" => 80,
        "https" => 443,
        "epmd" => 4369,
        "amqps" => 5671,
        "amqp" => 5672,
        other => return other.parse().ok(),
    })
}

fn flags(text: &str) -> Option<u8> {
    text.split(',').map(tcp_flag).try_fold(0, |all, one| Some(all | u8::try_from(one?).ok()?))
}

fn range(text: &str) -> Option<Part> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last): (IpAddr, IpAddr) = (first.parse().ok()?, last.parse().ok()?);
    (first.is_ipv6() == last.is_ipv6()).then(|| Part::Span(number(first), number(last)))
}

fn length(text: &str) -> Option<Part> {
    let (first, last) = text.split_once(':').unwrap_or((text, text));
    let first = if first.is_empty() { 0 } else { first.parse::<u16>().ok()? };
    let last = if last.is_empty() { u16::MAX } else { last.parse::<u16>().ok()? };
    Some(Part::Span(first.into(), last.into()))
}

fn mac(text: &str) -> Option<[u8; 6]> {
    let bytes: Vec<u8> = text.split([':', '-']).map(|b| u8::from_str_radix(b, 16).ok()).collect::<Option<_>>()?;
    bytes.try_into().ok()
}

fn number_of(text: &str) -> Option<u32> {
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

fn masked(text: &str) -> Option<(u32, u32)> {
    match text.split_once('/') {
        Some((value, mask)) => Some((number_of(value)?, number_of(mask)?)),
        None => Some((number_of(text)?, u32::MAX)),
    }
}

fn tos(text: &str) -> Option<(u8, u8)> {
    let named = match text {
        "Minimize-Delay" => Some(0x10),
        "Maximize-Throughput" => Some(0x08),
        "Maximize-Reliability" => Some(0x04),
        "Minimize-Cost" => Some(0x02),
        "Normal-Service" => Some(0),
        _ => None,
    };
    // A name is tested under the mask of the old field.
    if let Some(value) = named {
        return Some((value, 0x3f));
    }
    let (value, mask) = masked(text)?;
    Some((u8::try_from(value).ok()?, u8::try_from(mask & 0xff).ok()?))
}

/// Differentiated services by name (RFC 2474, 2597, 3246).
fn dscp_class(text: &str) -> Option<u8> {
    let lower = text.to_ascii_lowercase();
    let digits: Vec<u8> = lower.bytes().filter(u8::is_ascii_digit).map(|b| b - b'0').collect();
    match (lower.as_str(), digits.as_slice()) {
        ("ef", _) => Some(0x2e),
        ("be", _) => Some(0),
        (name, [class @ 0..=7]) if name.starts_with("cs") => Some(class * 8),
        (name, [class @ 1..=4, drop @ 1..=3]) if name.starts_with("af") => Some(class * 8 + drop * 2),
        _ => None,
    }
}

/// Type and range of codes: `8`, `3/4`, `echo-request`, `any`.
fn icmp_type(text: &str, v6: bool) -> Option<(u8, (u8, u8))> {
    let named = match (text, v6) {
        ("any", _) => Some(255),
        ("echo-reply" | "pong", false) => Some(0),
        ("destination-unreachable", false) => Some(3),
        ("source-quench", false) => Some(4),
        ("redirect", false) => Some(5),
        ("echo-request" | "ping", false) => Some(8),
        ("router-advertisement", false) => Some(9),
        ("router-solicitation", false) => Some(10),
        ("time-exceeded" | "ttl-exceeded", false) => Some(11),
        ("parameter-problem", false) => Some(12),
        ("timestamp-request", false) => Some(13),
        ("timestamp-reply", false) => Some(14),
        ("address-mask-request", false) => Some(17),
        ("address-mask-reply", false) => Some(18),
        ("destination-unreachable", true) => Some(1),
        ("packet-too-big", true) => Some(2),
        ("time-exceeded" | "ttl-exceeded", true) => Some(3),
        ("parameter-problem", true) => Some(4),
        ("echo-request" | "ping", true) => Some(128),
        ("echo-reply" | "pong", true) => Some(129),
        ("router-solicitation", true) => Some(133),
        ("router-advertisement", true) => Some(134),
        ("neighbour-solicitation" | "neighbor-solicitation", true) => Some(135),
        ("neighbour-advertisement" | "neighbor-advertisement", true) => Some(136),
        ("redirect", true) => Some(137),
        _ => None,
    };
    if let Some(kind) = named {
        return Some((kind, (0, 255)));
    }
    match text.split_once('/') {
        Some((kind, code)) => {
            let code = code.parse().ok()?;
            Some((kind.parse().ok()?, (code, code)))
        }
        None => Some((text.parse().ok()?, (0, 255))),
    }
}

fn packet_mark(options: &[&str]) -> Step {
    let change = match options {
        [name, value, ..] => masked(value).and_then(|(value, mask)| mark_change(name, value, mask)),
        _ => None,
    };
    Step::SetMark { connection: false, change }
}

/// What `--set-mark` and its relatives keep and flip.
fn mark_change(option: &str, value: u32, mask: u32) -> Option<(u32, u32)> {
    match option {
        "--set-xmark" => Some((!mask, value)),
        "--set-mark" => Some((!(mask | value), value)),
        "--and-mark" => Some((value, 0)),
        "--or-mark" => Some((!value, value)),
        "--xor-mark" => Some((u32::MAX, value)),
        _ => None,
    }
}

fn connection_mark(options: &[&str]) -> Step {
    let after = |wanted: &str| options.iter().position(|o| *o == wanted).and_then(|i| options.get(i + 1)).copied();
    let restore = options.contains(&"--restore-mark");
    if restore || options.contains(&"--save-mark") {
        let unknown = Step::SetMark { connection: !restore, change: None };
        if options.iter().any(|o| o.ends_with("-shift-mark")) {
            return unknown;
        }
        let mask = |name: &str| match after(name).or_else(|| after("--mask")) {
            Some(text) => number_of(text),
            None => Some(u32::MAX),
        };
        return match (mask("--ctmask"), mask("--nfmask")) {
            (Some(ct), Some(nf)) if restore => meaning::copy_mark(true, ct, nf),
            (Some(ct), Some(nf)) => meaning::copy_mark(false, nf, ct),
            _ => unknown,
        };
    }
    let change = match options {
        [name, value, ..] => masked(value).and_then(|(value, mask)| mark_change(name, value, mask)),
        _ => None,
    };
    Step::SetMark { connection: true, change }
}

type Translated = (Option<(IpAddr, IpAddr)>, Option<(u16, u16)>);

/// `172.17.0.2:5672`, `:5673`, `[fd00::2]:5672`, `10.0.0.1-10.0.0.9:1-5`.
fn destination(text: &str) -> Option<Translated> {
    let (address, port) = match text.strip_prefix('[') {
        Some(rest) => rest.split_once(']').map(|(a, p)| (a, p.trim_start_matches(':')))?,
        None if text.matches(':').count() > 1 => (text, ""),
        None => text.split_once(':').unwrap_or((text, "")),
    };
    let address = match address {
        "" => None,
        text => {
            let (first, last) = text.split_once('-').unwrap_or((text, text));
            let plain = |t: &str| t.trim_matches(['[', ']']).parse::<IpAddr>().ok();
            Some((plain(first)?, plain(last)?))
        }
    };
    // A base port behind a slash (`1000-2000/1000`) shifts instead.
    let port = match port {
        "" => None,
        text => Some(port_range(text)?),
    };
    Some((address, port))
}

fn port_range(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    Some((port(first)?, port(last)?))
}

/// First and last address of `10.1.0.0/16`.
fn network(text: &str) -> Option<(IpAddr, IpAddr)> {
    let (v6, first, last) = match span(text) {
        Some(span) => span,
        None => {
            let (a, m) = text.split_once('/')?;
            let (a, m): (IpAddr, IpAddr) = (a.parse().ok()?, m.parse().ok()?);
            let width = low_bits(if a.is_ipv6() { 128 } else { 32 });
            let (a6, first) = (a.is_ipv6(), number(a) & number(m));
            (a6, first, first | (!number(m) & width))
        }
    };
    let plain = |n: u128| match v6 {
        true => Some(IpAddr::V6(n.into())),
        false => u32::try_from(n).ok().map(|n| IpAddr::V4(n.into())),
    };
    Some((plain(first)?, plain(last)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(rule: &str, v6: bool) -> Vec<String> {
        let words = iptables_save::words(rule).unwrap();
        steps(&words, v6, &HashSet::from(["u"])).iter().map(|s| format!("{s:?}")).collect()
    }

    fn same(one: &str, other: &str) {
        assert_eq!(read(one, false), read(other, false), "{one} / {other}");
    }

    #[test]
    fn the_negation_is_for_the_next_option_with_a_value() {
        same("-s ! 10.0.0.1 -j DROP", "! -s 10.0.0.1/32 -j DROP");
        same("-p tcp ! -m tcp --dport 22 -j DROP", "-p tcp -m tcp ! --dport 22 -j DROP");
        same("-p tcp -m tcp --dport ! 22 -j DROP", "-p tcp -m tcp ! --dport 22 -j DROP");
    }

    #[test]
    fn options_in_any_order_and_length() {
        same("-j DROP -p tcp --dport ssh", "-p tcp -m tcp --dport 22 -j DROP");
        same("--protocol tcp --destination-port 22 --jump DROP", "-p tcp -m tcp --dport 22 -j DROP");
        same("-j REJECT --reject-with tcp-reset -p tcp", "-p tcp -j REJECT --reject-with tcp-reset");
        same("-m state --state NEW -j u", "-m conntrack --ctstate NEW -j u");
    }

    #[test]
    fn texts_are_no_options() {
        same("-m comment --comment \"-j DROP\" -j ACCEPT", "-j ACCEPT");
        same("-m comment --comment -j -j ACCEPT", "-j ACCEPT");
        same("-m comment --comment ! -j ACCEPT", "-j ACCEPT");
        assert!(read("-m set --match-set weave-]b#Z8|~ src -j DROP", false)[0].contains("weave-]b#Z8|~"));
    }

    #[test]
    fn interfaces_that_match_all_and_none() {
        let any = Part::Name("*".to_owned());
        let expected = |not| format!("{:?}", Step::Test(Test::is(Key::InInterface, any.clone(), not)));
        assert_eq!(read("-i + -j DROP", false)[0], expected(false));
        assert_eq!(read("! -i + -j DROP", false)[0], expected(true));
    }

    #[test]
    fn masks_that_are_no_prefixes() {
        let step = &read("-s 10.0.0.5/255.0.0.255 -j DROP", false)[0];
        assert!(step.contains("Masked") && step.contains(&0xff00_00ff_u32.to_string()), "{step}");
        same("-s 10.1.0.0/255.255.0.0 -j DROP", "-s 10.1.0.0/16 -j DROP");
    }

    #[test]
    fn what_is_not_known_is_undecided() {
        for rule in
            ["-m geoip --source-country DE -j DROP", "-m wonder --of the -j DROP", "--dport nosuch -j DROP", "--odd 3 -j DROP"]
        {
            assert!(read(rule, false).iter().any(|s| s.contains("Undecided")), "{rule}");
        }
        assert!(read("-j WONDER", false)[0].contains("the target WONDER"));
        assert_eq!(read("-j u", false)[0], format!("{:?}", Step::Go(Target::Jump("u".to_owned()))));
    }

    #[test]
    fn destinations() {
        let ip = |t: &str| t.parse::<IpAddr>().unwrap();
        assert_eq!(destination("[fd00::2]:5672"), Some((Some((ip("fd00::2"), ip("fd00::2"))), Some((5672, 5672)))));
        assert_eq!(destination(":5673"), Some((None, Some((5673, 5673)))));
        assert_eq!(destination("10.0.0.1-10.0.0.9:1-5"), Some((Some((ip("10.0.0.1"), ip("10.0.0.9"))), Some((1, 5)))));
        assert_eq!(destination("wonder"), None);
        assert_eq!(network("10.1.2.3/16"), Some((ip("10.1.0.0"), ip("10.1.255.255"))));
    }

    #[test]
    fn counters_and_base_chains() {
        let save = iptables_save::parse("*security\n:FORWARD DROP [0:0]\n[7:420] -A FORWARD -j ACCEPT\nCOMMIT\n").unwrap();
        let table = tables(&save, Engine::IptablesLegacy, false).remove(0);
        let base = table.chains[0].base.clone().unwrap();
        assert_eq!((base.hook, base.priority, base.accept), (Hook::Forward, 50, false));
        assert_eq!(table.chains[0].rules[0].packets, Some(7));
    }

    #[test]
    fn a_large_save_is_read_quickly() {
        let mut text = String::from("*filter\n:INPUT DROP [0:0]\n");
        for n in 0..100_000u32 {
            let (a, b) = (n >> 8 & 0xff, n & 0xff);
            text.push_str(&format!(
                "[1:60] -A INPUT -s 10.{}.{a}.{b}/32 -i eth0 -p tcp -m tcp --dport {} -m conntrack --ctstate NEW -j ACCEPT\n",
                n >> 16,
                n % 60000
            ));
        }
        text.push_str("COMMIT\n");
        let begun = std::time::Instant::now();
        let all = tables(&iptables_save::parse(&text).unwrap(), Engine::IptablesLegacy, false);
        assert_eq!(all[0].chains[0].rules.len(), 100_000);
        // Without optimisation it takes some ten times as long as it should.
        assert!(begun.elapsed().as_secs() < 20, "{:?}", begun.elapsed());
        eprintln!("{:?}", begun.elapsed());
    }
}

//! The answer of `nft -j list ruleset` as the model, tolerant of what it does not know: such a rule becomes undecided, never the
//! whole reading a failure. The dialects of 0.9.8, 1.0.6 and 1.1.3 differ in flag lists, `reject`, `typeof` sets and table flags.

use super::model::*;
use serde_json::Value as Json;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What `nft` told, before it is known which tables belong to iptables-nft.
#[derive(Debug, Default)]
pub struct Ruleset {
    pub tables: Vec<Table>,
    /// Parts of each rule's expression, by (family, table, chain), in the order of the chain.
    pub expressions: BTreeMap<(String, String, String), Vec<Json>>,
}

/// Reads the whole answer. Empty output or another shape is an error: nft crashes with nothing on standard output.
pub fn parse(text: &[u8]) -> Result<Ruleset, String> {
    if text.iter().all(u8::is_ascii_whitespace) {
        return Err("nft printed nothing".to_owned());
    }
    let root: Json = serde_json::from_slice(text).map_err(|e| format!("nft printed what is not JSON: {e}"))?;
    let objects = root.get("nftables").and_then(Json::as_array).ok_or("nft printed JSON without \"nftables\"")?;
    // nft 0.9 does not print the statement of `add @set { … limit … }`.
    let version = objects.first().and_then(|m| m.pointer("/metainfo/version")).and_then(Json::as_str).unwrap_or("0.9");
    let hides_statements = version.starts_with("0.");
    let all = |kind: &str| objects.iter().filter_map(move |o| o.get(kind)).collect::<Vec<_>>();
    let mut ruleset = Ruleset::default();
    for table in all("table") {
        if let Some(family) = family(table) {
            ruleset.tables.extend(read_table(table, family));
        }
    }
    let written = written_sets(&all("rule"));
    let mut sets = BTreeMap::new();
    for set in all("set").into_iter().chain(all("map")) {
        let id = (str_of(set, "family"), str_of(set, "table"), str_of(set, "name"));
        let doubt = written.contains(&id).then(|| format!("the set @{}, which packets change", id.2));
        sets.insert(id, Arc::new(named_set(set, doubt)));
    }
    for chain in all("chain") {
        if let Some(table) = ruleset.table_mut(chain) {
            table.chains.push(Chain { name: str_of(chain, "name"), base: base(chain), rules: Vec::new() });
        }
    }
    for rule in all("rule") {
        let (table, name) = (str_of(rule, "table"), str_of(rule, "chain"));
        let family_name = str_of(rule, "family");
        let empty = Vec::new();
        let expressions = rule.get("expr").and_then(Json::as_array).unwrap_or(&empty);
        let lookup = |set: &str| sets.get(&(family_name.clone(), table.clone(), set.to_owned())).cloned();
        let steps = Reader { sets: &lookup, hides_statements, steps: Vec::new() }.rule(expressions);
        let mut text = super::nft_text::rule(expressions);
        if let Some(comment) = rule.get("comment").and_then(Json::as_str) {
            text.push_str(&format!(" comment \"{comment}\""));
        }
        let number = rule.get("handle").and_then(Json::as_i64).unwrap_or(0);
        let Some(model) = ruleset.table_mut(rule) else { continue };
        let Some(chain) = model.chains.iter_mut().find(|c| c.name == name) else { continue };
        chain.rules.push(Rule { text, number, steps, packets: None });
        ruleset.expressions.entry((family_name, table, name)).or_default().push(Json::Array(expressions.clone()));
    }
    Ok(ruleset)
}

impl Ruleset {
    fn table_mut(&mut self, object: &Json) -> Option<&mut Table> {
        let (family, name) = (family(object)?, str_of(object, "table"));
        self.tables.iter_mut().find(|t| t.family == family && t.name == name)
    }
}

fn str_of(object: &Json, key: &str) -> String {
    object.get(key).and_then(Json::as_str).unwrap_or("").to_owned()
}

fn family(object: &Json) -> Option<Family> {
    match object.get("family")?.as_str()? {
        "ip" => Some(Family::Ip),
        "ip6" => Some(Family::Ip6),
        "inet" => Some(Family::Inet),
        "netdev" => Some(Family::Netdev),
        _ => None,
    }
}

fn read_table(object: &Json, family: Family) -> Option<Table> {
    let name = str_of(object, "name");
    let mut doubt = None;
    if let Some(flags) = object.get("flags") {
        let flags: Vec<&str> = flags
            .as_array()
            .map_or_else(|| flags.as_str().into_iter().collect(), |l| l.iter().filter_map(Json::as_str).collect());
        if flags.contains(&"dormant") {
            return None;
        }
        // nft 1.0.6 prints some table's name where the flags should stand.
        if flags.iter().any(|f| !matches!(*f, "owner" | "persist")) {
            doubt = Some(format!("whether table {} {name} is dormant, which this nft does not print", family.name()));
        }
    }
    let handle = object.get("handle").and_then(Json::as_i64).unwrap_or(0);
    Some(Table { engine: Engine::Nftables, family, name, handle, chains: Vec::new(), doubt })
}

fn base(chain: &Json) -> Option<Base> {
    let hook = match chain.get("hook")?.as_str()? {
        "ingress" => Hook::Ingress,
        "prerouting" => Hook::Prerouting,
        "input" => Hook::Input,
        "output" => Hook::Output,
        "postrouting" => Hook::Postrouting,
        _ => return None,
    };
    let devices = match chain.get("dev") {
        Some(Json::String(one)) => vec![one.clone()],
        Some(Json::Array(many)) => many.iter().filter_map(Json::as_str).map(str::to_owned).collect(),
        _ => Vec::new(),
    };
    Some(Base {
        hook,
        priority: chain.get("prio").and_then(Json::as_i64).unwrap_or(0),
        accept: chain.get("policy").and_then(Json::as_str) != Some("drop"),
        nat: str_of(chain, "type") == "nat",
        handle: chain.get("handle").and_then(Json::as_i64).unwrap_or(0),
        devices,
    })
}

/// Sets that rules add packets' data to.
fn written_sets(rules: &[&Json]) -> BTreeSet<(String, String, String)> {
    let mut found = BTreeSet::new();
    for rule in rules {
        for statement in rule.get("expr").and_then(Json::as_array).into_iter().flatten() {
            let written = statement.get("set").or_else(|| statement.get("map"));
            if let Some(name) = written.and_then(|w| w.get("set").or_else(|| w.get("map"))).and_then(Json::as_str) {
                found.insert((str_of(rule, "family"), str_of(rule, "table"), name.trim_start_matches('@').to_owned()));
            }
        }
    }
    found
}

fn named_set(object: &Json, doubt: Option<String>) -> Set {
    let empty = Vec::new();
    let elements = object.get("elem").and_then(Json::as_array).unwrap_or(&empty);
    let mut set = elements_of(elements, &key_types(object));
    set.doubt = doubt.or(set.doubt);
    set
}

/// Keys that stand for the fields of a named set, to read symbolic values by. nft 1.1 prints `typeof` sets with expressions.
fn key_types(object: &Json) -> Vec<Key> {
    let one = |name: &Json| match name.as_str() {
        Some("ifname") => Key::InInterface,
        Some("inet_proto") => Key::Protocol,
        Some("ct_state") => Key::CtState,
        Some("icmp_type" | "icmpv6_type") => Key::IcmpType,
        Some("tcp_flag") => Key::TcpFlags,
        Some("ipv4_addr" | "ipv6_addr") => Key::Source,
        Some("inet_service") => Key::DestinationPort,
        _ => Key::Mark,
    };
    match object.get("type") {
        Some(Json::Array(fields)) => fields.iter().map(one).collect(),
        Some(Json::String(_)) => object.get("type").map(one).into_iter().collect(),
        Some(typeof_) => {
            let expression = typeof_.get("typeof");
            let fields = expression.and_then(|e| e.get("concat")).and_then(Json::as_array);
            let mut reader = Reader { sets: &|_| None, hides_statements: false, steps: Vec::new() };
            match (fields, expression) {
                (Some(fields), _) => fields.iter().map(|f| reader.key(f)).collect(),
                (None, Some(one)) => vec![reader.key(one)],
                _ => Vec::new(),
            }
        }
        None => Vec::new(),
    }
}

/// Elements of a set or map; `keys` helps to read symbolic values.
fn elements_of(elements: &[Json], keys: &[Key]) -> Set {
    let mut set = Set::default();
    for element in elements {
        let (value, target) = match element {
            Json::Array(pair) if pair.len() == 2 => (&pair[0], verdict(&pair[1])),
            other => (other, None),
        };
        match parts(value, keys) {
            Some(parts) => set.elements.push(Element { parts, target }),
            None => set.doubt = Some(format!("a set element not understood: {value}")),
        }
    }
    set
}

fn parts(value: &Json, keys: &[Key]) -> Option<Vec<Part>> {
    let value = value.get("elem").and_then(|e| e.get("val")).unwrap_or(value);
    if let Some(fields) = value.get("concat").and_then(Json::as_array) {
        return fields.iter().enumerate().map(|(i, f)| part(f, keys.get(i))).collect();
    }
    if value.as_str() == Some("*") {
        return Some(vec![Part::Any; keys.len().max(1)]);
    }
    Some(vec![part(value, keys.first())?])
}

fn part(value: &Json, key: Option<&Key>) -> Option<Part> {
    let value = value.get("elem").and_then(|e| e.get("val")).unwrap_or(value);
    if let Some(prefix) = value.get("prefix") {
        let (_, first, last) = span(&format!("{}/{}", prefix.get("addr")?.as_str()?, prefix.get("len")?.as_i64()?))?;
        return Some(Part::Span(first, last));
    }
    if let Some([first, last]) = value.get("range").and_then(Json::as_array).map(Vec::as_slice) {
        return Some(Part::Span(scalar(first, key)?, scalar(last, key)?));
    }
    if let Json::String(text) = value {
        let name = matches!(key, Some(Key::InInterface | Key::OutInterface));
        return match scalar(value, key) {
            Some(n) if !name => Some(Part::Span(n, n)),
            // A set of a type not known here may still hold interface names; everything else fails to match them.
            _ if name || key.is_none() => Some(Part::Name(text.clone())),
            _ => None,
        };
    }
    scalar(value, key).map(|n| Part::Span(n, n))
}

/// A value as a number.
fn scalar(value: &Json, key: Option<&Key>) -> Option<u128> {
    match value {
        Json::Number(n) => n.as_u64().map(u128::from),
        Json::Bool(b) => Some((*b).into()),
        Json::String(text) => symbol(text, key),
        Json::Array(many) => many.iter().try_fold(0, |all, one| Some(all | scalar(one, key)?)),
        Json::Object(object) => match object.get("|")? {
            Json::Array(many) => many.iter().try_fold(0, |all, one| Some(all | scalar(one, key)?)),
            _ => None,
        },
        Json::Null => None,
    }
}

fn symbol(text: &str, key: Option<&Key>) -> Option<u128> {
    if let Ok(number) = text.parse::<u128>() {
        return Some(number);
    }
    if let Some(number) = text.strip_prefix("0x").and_then(|h| u128::from_str_radix(h, 16).ok()) {
        return Some(number);
    }
    if let Ok(address) = text.parse() {
        return Some(number(address));
    }
    let state = || {
        Some(match text {
            "invalid" => ct::INVALID,
            "established" => ct::ESTABLISHED,
            "related" => ct::RELATED,
            "new" => ct::NEW,
            "untracked" => ct::UNTRACKED,
            _ => return None,
        })
    };
    match key {
        Some(Key::Masked(inner, _)) => symbol(text, Some(inner)),
        Some(Key::CtState) => state(),
        Some(Key::TcpFlags) => tcp_flag(text),
        Some(Key::Protocol) => protocol(text),
        Some(Key::Version) => match text {
            "ipv4" | "ip" => Some(2),
            "ipv6" | "ip6" => Some(10),
            _ => None,
        },
        Some(Key::CtDirection) => match text {
            "original" => Some(0),
            "reply" => Some(1),
            _ => None,
        },
        Some(Key::CtStatus) => match text {
            "expected" => Some(1),
            "seen-reply" => Some(2),
            "assured" => Some(4),
            "confirmed" => Some(8),
            "snat" => Some(16),
            "dnat" => Some(32),
            _ => None,
        },
        Some(Key::PacketType) => match text {
            "host" | "unicast" => Some(0),
            "broadcast" => Some(1),
            "multicast" => Some(2),
            "other" => Some(3),
            _ => None,
        },
        Some(Key::DestinationType | Key::SourceType) => address_type(text),
        Some(Key::IcmpType) => icmp_type(text),
        None => state().or_else(|| protocol(text)).or_else(|| icmp_type(text)),
        _ => None,
    }
}

/// Types of ICMP and ICMPv6 by nft's names; only those that stand in rulesets of hosts.
fn icmp_type(text: &str) -> Option<u128> {
    Some(match text {
        "echo-reply" => 0,
        "destination-unreachable" => 3,
        "source-quench" => 4,
        "redirect" => 5,
        "echo-request" => 8,
        "router-advertisement" => 9,
        "router-solicitation" => 10,
        "time-exceeded" => 11,
        "parameter-problem" => 12,
        "timestamp-request" => 13,
        "timestamp-reply" => 14,
        "info-request" => 15,
        "info-reply" => 16,
        "address-mask-request" => 17,
        "address-mask-reply" => 18,
        "packet-too-big" => 2,
        "mld-listener-query" => 130,
        "mld-listener-report" => 131,
        "mld-listener-done" | "mld-listener-reduction" => 132,
        "nd-router-solicit" => 133,
        "nd-router-advert" => 134,
        "nd-neighbor-solicit" => 135,
        "nd-neighbor-advert" => 136,
        "nd-redirect" => 137,
        "router-renumbering" => 138,
        "ind-neighbor-solicit" => 141,
        "ind-neighbor-advert" => 142,
        "mld2-listener-report" => 143,
        _ => return None,
    })
}

fn icmpv6_type(text: &str) -> Option<u128> {
    Some(match text {
        "destination-unreachable" => 1,
        "packet-too-big" => 2,
        "time-exceeded" => 3,
        "parameter-problem" => 4,
        "echo-request" => 128,
        "echo-reply" => 129,
        other => return icmp_type(other),
    })
}

/// ICMPv6 numbers some types differently from ICMP under the same names.
fn icmpv6_numbers(value: &Json) -> Json {
    match value {
        Json::String(text) => icmpv6_type(text).map_or_else(|| value.clone(), |n| Json::from(n as u64)),
        Json::Array(many) => many.iter().map(icmpv6_numbers).collect(),
        Json::Object(object) => object.iter().map(|(k, v)| (k.clone(), icmpv6_numbers(v))).collect(),
        other => other.clone(),
    }
}

fn verdict(value: &Json) -> Option<Target> {
    let (name, body) = match value {
        Json::Object(object) => object.iter().next()?,
        _ => return None,
    };
    let chain = || body.get("target").and_then(Json::as_str).unwrap_or("").to_owned();
    Some(match name.as_str() {
        "accept" => Target::Accept,
        "drop" => Target::Drop,
        "continue" => Target::Continue,
        "return" => Target::Return,
        "jump" => Target::Jump(chain()),
        "goto" => Target::Goto(chain()),
        _ => return None,
    })
}

struct Reader<'a> {
    sets: &'a dyn Fn(&str) -> Option<Arc<Set>>,
    hides_statements: bool,
    steps: Vec<Step>,
}

impl Reader<'_> {
    fn rule(mut self, expressions: &[Json]) -> Vec<Step> {
        for expression in expressions {
            if let Some((name, body)) = expression.as_object().and_then(|o| o.iter().next()) {
                self.statement(name, body, expression);
            }
        }
        self.steps
    }

    fn undecided(&mut self, what: impl Into<String>) {
        self.steps.push(Step::Test(Test::Undecided(what.into())));
    }

    fn statement(&mut self, name: &str, body: &Json, whole: &Json) {
        match name {
            "match" => self.test(body),
            "counter" | "log" | "comment" | "dup" | "secmark" | "ct helper" | "ct timeout" | "ct expectation" | "last" => {}
            "accept" | "drop" | "continue" | "return" | "jump" | "goto" => {
                let target = verdict(whole).unwrap_or(Target::Undecided(name.to_owned()));
                if target != Target::Continue {
                    self.steps.push(Step::Go(target));
                }
            }
            "vmap" => self.vmap(body),
            "reject" => self.steps.push(Step::Go(reject(body))),
            "notrack" => self.steps.push(Step::Notrack),
            "mangle" => self.mangle(body),
            "dnat" | "redirect" => self.translate(body),
            "snat" | "masquerade" => self.steps.push(Step::Go(Target::Accept)),
            "limit" => self.undecided("the rate limit"),
            "quota" => self.undecided("the quota"),
            "ct count" => self.undecided("the number of connections"),
            // Adding to a set goes on unless the element's own statement (a limit) or a full set stops it.
            "set" | "map" | "meter" => {
                let stopped = name == "meter" || body.get("stmt").and_then(Json::as_array).is_some_and(|s| !s.is_empty());
                if stopped || self.hides_statements {
                    self.undecided("adding to a set");
                }
            }
            "xt" => {
                let shown = body.get("name").and_then(Json::as_str).unwrap_or("of unknown name");
                if body.get("type").and_then(Json::as_str) == Some("target") {
                    self.steps.push(Step::Go(Target::Undecided(format!("the iptables target {shown}"))));
                } else if shown != "comment" {
                    self.undecided(format!("the iptables extension {shown}"));
                }
            }
            "queue" | "tproxy" | "synproxy" | "fwd" | "flow" => {
                self.steps.push(Step::Go(Target::Undecided(format!("the statement {name}"))));
            }
            other => self.undecided(format!("the statement {other}")),
        }
    }

    fn vmap(&mut self, body: &Json) {
        let (Some(left), Some(data)) = (body.get("key"), body.get("data")) else { return self.undecided("a verdict map") };
        let key = self.keys(left);
        let set = match (data.as_str(), data.get("set").and_then(Json::as_array)) {
            (Some(name), _) => self.named(name),
            (_, Some(elements)) => Some(Arc::new(elements_of(&symbolic(left, elements), &key))),
            _ => None,
        };
        match set {
            Some(set) => self.steps.push(Step::Vmap { key, set }),
            None => self.steps.push(Step::Go(Target::Undecided("a verdict map that cannot be read".to_owned()))),
        }
    }

    fn named(&self, name: &str) -> Option<Arc<Set>> {
        (self.sets)(name.trim_start_matches('@'))
    }

    fn test(&mut self, body: &Json) {
        let (Some(left), Some(right)) = (body.get("left"), body.get("right")) else { return self.undecided("a match") };
        let op = body.get("op").and_then(Json::as_str).unwrap_or("==");
        let key = self.keys(left);
        let icmpv6 = left.pointer("/payload/protocol").and_then(Json::as_str) == Some("icmpv6");
        let right = if icmpv6 { &icmpv6_numbers(right) } else { right };
        let not = matches!(op, "!=" | "!");
        let test = match (key.as_slice(), right) {
            ([Key::Unknown(_)], _) => None,
            (_, Json::String(name)) if name.starts_with('@') => self.named(name).map(|set| Test::In { key, set, not }),
            (_, Json::Object(object)) if object.contains_key("set") => {
                object["set"].as_array().map(|elements| Test::In { set: Arc::new(elements_of(elements, &key)), key, not })
            }
            // Some bit of a list, or of one value of a bit mask type.
            ([one], _) if matches!(op, "in" | "!") || (matches!(right, Json::Array(_)) && one == &Key::CtState) => {
                scalar(right, Some(one)).map(|bits| Test::AnyBit { key: one.clone(), bits, not })
            }
            ([one], _) if matches!(op, "<" | "<=" | ">" | ">=") => scalar(right, Some(one)).map(|v| ordered(one, op, v)),
            _ => parts(right, &key).map(|parts| Test::In {
                key,
                set: Arc::new(Set { elements: vec![Element { parts, target: None }], doubt: None }),
                not,
            }),
        };
        match test {
            Some(test) => self.steps.push(Step::Test(test)),
            None => self.undecided(super::nft_text::expression(left)),
        }
    }

    /// The keys of a left side, after the tests that it implies: `tcp dport` is only there in TCP, `ip saddr` only in IPv4.
    fn keys(&mut self, left: &Json) -> Vec<Key> {
        if let Some(fields) = left.get("concat").and_then(Json::as_array) {
            return fields.iter().map(|f| self.key(f)).collect();
        }
        vec![self.key(left)]
    }

    fn key(&mut self, left: &Json) -> Key {
        let unknown = || Key::Unknown(super::nft_text::expression(left));
        let Some((kind, body)) = left.as_object().and_then(|o| o.iter().next()) else { return unknown() };
        let field = |name: &str| body.get(name).and_then(Json::as_str).unwrap_or("");
        match kind.as_str() {
            "payload" => self.payload(field("protocol"), field("field")).unwrap_or_else(unknown),
            "meta" => match field("key") {
                "iifname" | "iif" => Key::InInterface,
                "oifname" | "oif" => Key::OutInterface,
                "l4proto" => Key::Protocol,
                "nfproto" | "protocol" => Key::Version,
                "mark" => Key::Mark,
                "pkttype" => Key::PacketType,
                "skuid" | "skgid" => Key::SocketOwner,
                _ => unknown(),
            },
            "ct" => match (field("key"), field("dir")) {
                ("state", _) => Key::CtState,
                ("status", _) => Key::CtStatus,
                ("direction", _) => Key::CtDirection,
                ("mark", _) => Key::CtMark,
                ("proto-dst", "original") => Key::OriginalPort,
                _ => unknown(),
            },
            "fib" => {
                let flags: Vec<&str> = match body.get("flags") {
                    Some(Json::Array(many)) => many.iter().filter_map(Json::as_str).collect(),
                    Some(Json::String(one)) => vec![one],
                    _ => Vec::new(),
                };
                match field("result") {
                    "type" if flags.contains(&"daddr") => Key::DestinationType,
                    "type" if flags.contains(&"saddr") => Key::SourceType,
                    "oif" | "oifname" if flags.contains(&"saddr") && flags.contains(&"iif") => Key::RouteBack,
                    _ => unknown(),
                }
            }
            "&" => match body.as_array().map(Vec::as_slice) {
                Some([inner, mask]) => {
                    let key = self.key(inner);
                    match scalar(mask, Some(&key)) {
                        Some(mask) if !matches!(key, Key::Unknown(_)) => Key::Masked(Box::new(key), mask),
                        _ => unknown(),
                    }
                }
                _ => unknown(),
            },
            _ => unknown(),
        }
    }

    fn payload(&mut self, protocol: &str, field: &str) -> Option<Key> {
        let implied =
            |reader: &mut Self, key, value| reader.steps.push(Step::Test(Test::is(key, Part::Span(value, value), false)));
        match protocol {
            "ip" => implied(self, Key::Version, 2),
            "ip6" => implied(self, Key::Version, 10),
            "tcp" => implied(self, Key::Protocol, 6),
            "udp" => implied(self, Key::Protocol, 17),
            "sctp" => implied(self, Key::Protocol, 132),
            "dccp" => implied(self, Key::Protocol, 33),
            "udplite" => implied(self, Key::Protocol, 136),
            "ah" => implied(self, Key::Protocol, 51),
            "esp" => implied(self, Key::Protocol, 50),
            "igmp" => implied(self, Key::Protocol, 2),
            "icmp" => implied(self, Key::Protocol, 1),
            "icmpv6" => implied(self, Key::Protocol, 58),
            "arp" => implied(self, Key::Version, 0),
            _ => {}
        }
        Some(match (protocol, field) {
            ("ip" | "ip6", "saddr") => Key::Source,
            ("ip" | "ip6", "daddr") => Key::Destination,
            ("ip", "protocol") | ("ip6", "nexthdr") => Key::Protocol,
            ("tcp" | "udp" | "th" | "sctp" | "dccp", "dport") => Key::DestinationPort,
            ("tcp" | "udp" | "th" | "sctp" | "dccp", "sport") => Key::SourcePort,
            ("tcp", "flags") => Key::TcpFlags,
            ("ip", "frag-off") => Key::FragmentField,
            ("icmp" | "icmpv6", "type") => Key::IcmpType,
            _ => return None,
        })
    }

    fn mangle(&mut self, body: &Json) {
        let Some((kind, field)) = body.get("key").and_then(Json::as_object).and_then(|o| o.iter().next()) else { return };
        if field.get("key").and_then(Json::as_str) != Some("mark") {
            return;
        }
        let change =
            body.get("value").and_then(|v| scalar(v, Some(&Key::Mark))).and_then(|v| u32::try_from(v).ok()).map(|v| (0, v));
        self.steps.push(Step::SetMark { connection: kind == "ct", change });
    }

    fn translate(&mut self, body: &Json) {
        let known = |value: &Json| value.is_string() || value.is_number() || value.get("range").is_some();
        let first = |value: &Json| value.pointer("/range/0").cloned().unwrap_or_else(|| value.clone());
        let (address, port) = (body.get("addr"), body.get("port"));
        if [address, port].into_iter().flatten().any(|v| !known(v)) {
            return self.steps.push(Step::Go(Target::Undecided("a translation by a map".to_owned())));
        }
        let address = address.and_then(|a| first(a).as_str().and_then(|t| t.parse().ok()));
        let port = port.and_then(|p| first(p).as_u64()).and_then(|p| u16::try_from(p).ok());
        self.steps.push(Step::Go(Target::Translate(Translation {
            kind: Nat::Destination,
            address: address.map(|a| (a, a)),
            port: port.map(|p| (p, p)),
        })));
    }
}

/// Elements of an anonymous ICMPv6 map have their types as numbers.
fn symbolic(left: &Json, elements: &[Json]) -> Vec<Json> {
    let icmpv6 = left.pointer("/payload/protocol").and_then(Json::as_str) == Some("icmpv6");
    let numbers = |e: &Json| match e {
        Json::Array(pair) if pair.len() == 2 => Json::Array(vec![icmpv6_numbers(&pair[0]), pair[1].clone()]),
        other => other.clone(),
    };
    elements.iter().map(|e| if icmpv6 { numbers(e) } else { e.clone() }).collect()
}

fn ordered(key: &Key, op: &str, value: u128) -> Test {
    let part = match op {
        "<" if value == 0 => return Test::is(Key::Version, Part::Span(0, 0), false),
        "<" => Part::Span(0, value - 1),
        "<=" => Part::Span(0, value),
        ">" => Part::Span(value.saturating_add(1), u128::MAX),
        _ => Part::Span(value, u128::MAX),
    };
    Test::is(key.clone(), part, false)
}

fn reject(body: &Json) -> Target {
    let field = |name: &str| body.get(name).and_then(Json::as_str);
    let code = field("expr").unwrap_or("port-unreachable");
    Target::Reject(match field("type") {
        Some("tcp reset") => "tcp-reset".to_owned(),
        Some("icmp") => format!("icmp-{code}"),
        Some("icmpv6") if code == "admin-prohibited" => "icmp6-adm-prohibited".to_owned(),
        Some("icmpv6") => format!("icmp6-{code}"),
        // 0.9.8 prints null for the default.
        _ => format!("icmpx-{code}"),
    })
}

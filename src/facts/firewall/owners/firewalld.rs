//! firewalld: its permanent configuration as the tables that it makes of it, and what the kernel holds instead.
//!
//! The tables follow the nftables backend of firewalld 1.x and 2.x (src/firewall/core/nftables.py): zones by source before zones by
//! interface before the default zone; in a zone rich rules of negative priority, then denials, then what is open, then rich rules of
//! positive priority, then the target; policies to the host before and after.

use super::{Drift, Shown};
use crate::facts::firewall::Firewall;
use crate::facts::firewall::model::*;
use crate::formats::iptables_save;
use crate::host::{Got, Host, Miss, optional, read_text};
use roxmltree::{Document, Node};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

const OWNER: &str = "firewalld";
const TABLE: &str = "firewalld";
const PANIC: &str = "firewalld_policy_drop";
const ETC: &str = "/etc/firewalld";
const SHIPPED: &str = "/usr/lib/firewalld";
/// Services may include services.
const MAX_DEPTH: usize = 8;

/// One zone of the permanent configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ZoneFact {
    pub name: String,
    pub file: String,
    /// The kernel sends packets to it.
    pub active: bool,
    pub default: bool,
    /// Interfaces and sources that are bound to it.
    pub bound: Vec<String>,
    /// TCP ports that are open to everybody in the zone.
    pub open: Vec<Open>,
}

/// A range of ports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Open {
    pub first: i64,
    pub last: i64,
    /// As written: `port 5672/tcp`, `service amqp`
    pub text: String,
}

/// The permanent configuration, as far as it decides about packets to this host.
#[derive(Debug, Clone, Default)]
pub struct Config {
    default_zone: String,
    backend: String,
    drifting: bool,
    zones: Vec<Zone>,
    policies: Vec<Zone>,
    ip_sets: BTreeMap<String, IpSetFile>,
    /// Rules of direct.xml: (IPv6, table, chain, priority, arguments)
    direct: Vec<(bool, String, String, i64, String)>,
    passthrough: bool,
}

/// A zone or a policy.
#[derive(Debug, Clone, Default)]
struct Zone {
    name: String,
    file: String,
    target: String,
    /// Of a policy; of a zone its ingress priority.
    priority: i64,
    interfaces: Vec<String>,
    sources: Vec<String>,
    /// Of a policy: zones that packets come from and go to.
    ingress: Vec<String>,
    egress: Vec<String>,
    allow: Vec<Opening>,
    /// `forward-port`s: the ports that they take.
    forwards: Vec<(u16, u16)>,
    rich: Vec<Rich>,
}

/// TCP ports, and where their service is limited to a destination.
#[derive(Debug, Clone)]
struct Opening {
    text: String,
    ports: Ports,
    /// Destinations that the service is limited to, by family.
    to: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Ports {
    Tcp(u16, u16),
    TcpSource(u16, u16),
    /// All of TCP.
    All,
}

#[derive(Debug, Clone, Default)]
struct Rich {
    text: String,
    v6: Option<bool>,
    priority: i64,
    source: Option<(String, bool)>,
    to: Option<(String, bool)>,
    /// `None`: no element, everything; empty: nothing of TCP.
    what: Option<Vec<Opening>>,
    forward: bool,
    limited: bool,
    /// `None`: it only logs or marks.
    target: Option<Target>,
}

#[derive(Debug, Clone, Default)]
struct IpSetFile {
    kind: String,
    entries: Vec<String>,
}

/// Whether the kernel holds firewalld's table.
pub fn loaded(model: &Model) -> bool {
    model.tables.iter().any(|t| t.name == TABLE && t.family == Family::Inet)
}

/// What is wrong with the kernel's part of a firewalld that runs.
pub fn drift(firewall: &Firewall, config: Option<&Config>) -> Vec<Drift> {
    let model = &firewall.model;
    let mut found = Vec::new();
    let readable = model.unread.is_empty();
    let native = config.is_none_or(|c| c.backend != "iptables");
    if firewall.firewalld_running && readable && native && !loaded(model) {
        let text = "firewalld runs, but its table inet firewalld is not in the kernel".to_owned();
        found.push(Drift::new(OWNER, "table-gone", text));
    }
    if let Some(table) = model.tables.iter().find(|t| t.name == PANIC) {
        let shown = vec![Shown { at: "nf_tables".to_owned(), text: format!("table {}", table.title()) }];
        let text = "firewalld drops everything: panic mode, or a reload that failed half way".to_owned();
        found.push(Drift { shown, ..Drift::new(OWNER, "panic", text) });
    }
    found
}

/// Reads the permanent configuration.
pub fn read(host: &dyn Host) -> Got<Config> {
    let conf = optional(read_text(host, format!("{ETC}/firewalld.conf")))?.unwrap_or_default();
    let set = super::ufw::assignments(&conf);
    let value = |name: &str, default: &str| set.get(name).map_or(default.to_owned(), |(_, v)| v.clone());
    let mut config = Config {
        default_zone: value("DefaultZone", "public"),
        backend: value("FirewallBackend", "nftables"),
        drifting: value("AllowZoneDrifting", "no") == "yes",
        ..Config::default()
    };
    for (path, text) in folder(host, "zones")? {
        config.zones.push(zone(host, &path, &text)?);
    }
    for (path, text) in folder(host, "policies")? {
        config.policies.push(zone(host, &path, &text)?);
    }
    for (path, text) in folder(host, "ipsets")? {
        let (name, set) = ip_set(&path, &text)?;
        config.ip_sets.insert(name, set);
    }
    connections(host, &mut config);
    direct(host, &mut config)?;
    Ok(config)
}

/// XML files of a kind by name: the administrator's win over those that came with the package.
fn folder(host: &dyn Host, kind: &str) -> Got<Vec<(String, String)>> {
    let mut files = BTreeMap::new();
    for base in [SHIPPED, ETC] {
        let dir = format!("{base}/{kind}");
        for name in optional(host.list(Path::new(&dir)))?.unwrap_or_default() {
            if name.ends_with(".xml") {
                files.insert(name.clone(), format!("{dir}/{name}"));
            }
        }
    }
    files.into_values().map(|path| read_text(host, &path).map(|text| (path, text))).collect()
}

fn parsed<'a>(path: &str, text: &'a str) -> Got<Document<'a>> {
    Document::parse(text).map_err(|e| Miss::failed(path, e))
}

fn stem(path: &str) -> String {
    Path::new(path).file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default()
}

fn zone(host: &dyn Host, path: &str, text: &str) -> Got<Zone> {
    let document = parsed(path, text)?;
    let root = document.root_element();
    let policy = root.has_tag_name("policy");
    let number = |name: &str| root.attribute(name).and_then(|v| v.parse().ok());
    let mut zone = Zone {
        name: stem(path),
        file: path.to_owned(),
        target: root.attribute("target").unwrap_or(if policy { "CONTINUE" } else { "default" }).to_owned(),
        priority: if policy { number("priority").unwrap_or(-1) } else { number("ingress-priority").unwrap_or(0) },
        ..Zone::default()
    };
    for node in root.children().filter(Node::is_element) {
        let named = || node.attribute("name").unwrap_or("").to_owned();
        match node.tag_name().name() {
            "interface" => zone.interfaces.push(named()),
            "source" => zone.sources.extend(source(&node).map(|(s, _)| s)),
            "ingress-zone" => zone.ingress.push(named()),
            "egress-zone" => zone.egress.push(named()),
            "forward-port" => zone.forwards.extend(tcp(&node).then(|| ports(node.attribute("port"))).flatten()),
            "rule" => zone.rich.push(rich(host, &node)?),
            _ => zone.allow.extend(opening(host, &node, 0)?),
        }
    }
    Ok(zone)
}

/// An address, `ipset:NAME` or `mac:…`, and whether it is inverted.
fn source(node: &Node) -> Option<(String, bool)> {
    let invert = ["invert", "not"]
        .iter()
        .any(|n| node.attribute(*n).is_some_and(|v| ["yes", "true"].contains(&v.to_lowercase().as_str())));
    let of = |name: &str, prefix: &str| node.attribute(name).map(|v| format!("{prefix}{v}"));
    let text = of("address", "").or_else(|| of("ipset", "ipset:")).or_else(|| of("mac", "mac:"))?;
    Some((text, invert))
}

fn tcp(node: &Node) -> bool {
    node.attribute("protocol") == Some("tcp")
}

fn ports(text: Option<&str>) -> Option<(u16, u16)> {
    let text = text?;
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    Some((first.trim().parse().ok()?, last.trim().parse().ok()?))
}

/// What `<port>`, `<source-port>`, `<protocol>` or `<service>` open for TCP.
fn opening(host: &dyn Host, node: &Node, depth: usize) -> Got<Vec<Opening>> {
    let plain = |text: String, ports: Ports| vec![Opening { text, ports, to: Vec::new() }];
    let range = ports(node.attribute("port"));
    Ok(match (node.tag_name().name(), range) {
        ("port", Some((first, last))) if tcp(node) => {
            plain(format!("port {}/tcp", node.attribute("port").unwrap_or("")), Ports::Tcp(first, last))
        }
        ("source-port", Some((first, last))) if tcp(node) => {
            plain(format!("source-port {}/tcp", node.attribute("port").unwrap_or("")), Ports::TcpSource(first, last))
        }
        ("protocol", _) if node.attribute("value") == Some("tcp") => plain("protocol tcp".to_owned(), Ports::All),
        ("service", _) => service(host, node.attribute("name").unwrap_or(""), depth)?,
        _ => Vec::new(),
    })
}

fn service(host: &dyn Host, name: &str, depth: usize) -> Got<Vec<Opening>> {
    let plain = !name.is_empty() && !name.contains('/') && !name.starts_with('.');
    if depth > MAX_DEPTH || !plain {
        return Ok(Vec::new());
    }
    let file = |base: &str| optional(read_text(host, format!("{base}/services/{name}.xml")));
    // firewalld ignores a service that it does not know.
    let text = match file(ETC)? {
        Some(text) => text,
        None => match file(SHIPPED)? {
            Some(text) => text,
            None => return Ok(Vec::new()),
        },
    };
    let path = format!("service {name}");
    let document = parsed(&path, &text)?;
    let mut found = Vec::new();
    let mut to = Vec::new();
    for node in document.root_element().children().filter(Node::is_element) {
        match node.tag_name().name() {
            "include" => found.extend(service(host, node.attribute("service").unwrap_or(""), depth + 1)?),
            "destination" => to.extend(["ipv4", "ipv6"].iter().filter_map(|f| node.attribute(*f)).map(str::to_owned)),
            "service" => {}
            _ => found.extend(opening(host, &node, depth)?),
        }
    }
    for opening in &mut found {
        opening.text.clone_from(&path);
        opening.to.clone_from(&to);
    }
    Ok(found)
}

fn rich(host: &dyn Host, node: &Node) -> Got<Rich> {
    let mut rule = Rich {
        v6: node.attribute("family").map(|f| f == "ipv6"),
        priority: node.attribute("priority").and_then(|p| p.parse().ok()).unwrap_or(0),
        ..Rich::default()
    };
    let mut words = vec!["rich rule".to_owned()];
    for part in node.children().filter(Node::is_element) {
        let name = part.tag_name().name();
        words.push(name.to_owned());
        words.extend(part.attributes().map(|a| format!("{}={}", a.name(), a.value())));
        match name {
            "source" => rule.source = source(&part),
            "destination" => rule.to = source(&part),
            "port" | "service" | "protocol" | "source-port" => rule.what = Some(opening(host, &part, 0)?),
            "icmp-block" | "icmp-type" | "tcp-mss-clamp" | "masquerade" => rule.what = Some(Vec::new()),
            "forward-port" => {
                rule.forward = true;
                let range = tcp(&part).then(|| ports(part.attribute("port"))).flatten();
                let of = |(first, last)| Opening { text: String::new(), ports: Ports::Tcp(first, last), to: Vec::new() };
                rule.what = Some(range.map(of).into_iter().collect());
            }
            "accept" | "drop" | "reject" => {
                rule.limited = part.children().any(|c| c.has_tag_name("limit"));
                rule.target = Some(match name {
                    "accept" => Target::Accept,
                    "drop" => Target::Drop,
                    _ => Target::Reject(reject(part.attribute("type"), rule.v6)),
                });
            }
            _ => {}
        }
    }
    rule.text = words.join(" ");
    Ok(rule)
}

fn reject(kind: Option<&str>, v6: Option<bool>) -> String {
    match (kind, v6) {
        (Some("tcp-reset" | "tcp-rst"), _) => "tcp-reset".to_owned(),
        (Some(kind), _) => kind.to_owned(),
        (None, Some(true)) => "icmp6-port-unreachable".to_owned(),
        (None, _) => "icmpx-port-unreachable".to_owned(),
    }
}

fn ip_set(path: &str, text: &str) -> Got<(String, IpSetFile)> {
    let document = parsed(path, text)?;
    let root = document.root_element();
    let entries = root.children().filter(|n| n.has_tag_name("entry")).filter_map(|n| n.text().map(|t| t.trim().to_owned()));
    Ok((stem(path), IpSetFile { kind: root.attribute("type").unwrap_or("").to_owned(), entries: entries.collect() }))
}

/// NetworkManager binds the interface of a connection to the connection's zone, before all that firewalld's files say.
fn connections(host: &dyn Host, config: &mut Config) {
    let mut bound = Vec::new();
    for dir in ["/etc/NetworkManager/system-connections", "/run/NetworkManager/system-connections"] {
        for name in host.list(Path::new(dir)).unwrap_or_default() {
            let text = read_text(host, format!("{dir}/{name}")).unwrap_or_default();
            let set = super::ufw::assignments(&text.replace("interface-name", "interface_name"));
            bound.extend(set.get("interface_name").zip(set.get("zone")).map(|((_, i), (_, z))| (i.clone(), z.clone())));
        }
    }
    let dir = "/etc/sysconfig/network-scripts";
    for name in host.list(Path::new(dir)).unwrap_or_default().iter().filter(|n| n.starts_with("ifcfg-")) {
        let set = super::ufw::assignments(&read_text(host, format!("{dir}/{name}")).unwrap_or_default());
        bound.extend(set.get("DEVICE").zip(set.get("ZONE")).map(|((_, i), (_, z))| (i.clone(), z.clone())));
    }
    for (interface, zone) in bound.into_iter().filter(|(_, z)| !z.is_empty()) {
        for known in &mut config.zones {
            known.interfaces.retain(|i| *i != interface);
            if known.name == zone {
                known.interfaces.push(interface.clone());
            }
        }
    }
}

fn direct(host: &dyn Host, config: &mut Config) -> Got<()> {
    let path = format!("{ETC}/direct.xml");
    let Some(text) = optional(read_text(host, &path))? else { return Ok(()) };
    let document = parsed(&path, &text)?;
    for node in document.root_element().children().filter(Node::is_element) {
        let of = |name: &str| node.attribute(name).unwrap_or("").to_owned();
        match node.tag_name().name() {
            "rule" => {
                let priority = of("priority").parse().unwrap_or(0);
                let arguments = node.text().unwrap_or("").trim().to_owned();
                config.direct.push((of("ipv") == "ipv6", of("table"), of("chain"), priority, arguments));
            }
            "passthrough" => config.passthrough = true,
            _ => {}
        }
    }
    Ok(())
}

impl Config {
    /// For rules.
    pub fn facts(&self, model: &Model) -> Vec<ZoneFact> {
        let table = model.tables.iter().find(|t| t.name == TABLE);
        let in_kernel = |zone: &str| table.is_some_and(|t| t.chain(&format!("filter_IN_{zone}")).is_some());
        let open = |zone: &Zone| {
            let each = zone.allow.iter().filter_map(|o| match o.ports {
                Ports::Tcp(first, last) => Some(Open { first: first.into(), last: last.into(), text: o.text.clone() }),
                Ports::All => Some(Open { first: 1, last: 65535, text: o.text.clone() }),
                Ports::TcpSource(..) => None,
            });
            each.collect()
        };
        let fact = |zone: &Zone| ZoneFact {
            name: zone.name.clone(),
            file: zone.file.clone(),
            active: in_kernel(&zone.name),
            default: zone.name == self.default_zone,
            bound: zone.interfaces.iter().chain(&zone.sources).cloned().collect(),
            open: open(zone),
        };
        self.zones.iter().map(fact).collect()
    }

    /// The tables that firewalld makes of its permanent configuration when it starts.
    pub fn boot(&self) -> Result<Vec<Table>, String> {
        if self.backend == "iptables" {
            return Err("firewalld is set to its iptables backend, which is not evaluated".to_owned());
        }
        if self.drifting {
            return Err("AllowZoneDrifting=yes of firewalld is not evaluated".to_owned());
        }
        if self.passthrough {
            return Err("direct.xml holds passthrough rules, which are not evaluated".to_owned());
        }
        let mut chains = vec![self.input()];
        for zone in self.zones.iter().filter(|z| self.in_use(z)) {
            chains.push(self.zone_chain(zone));
        }
        let table =
            Table { engine: Engine::Nftables, family: Family::Inet, name: TABLE.to_owned(), handle: 1, chains, doubt: None };
        let mut tables = vec![table];
        tables.extend(self.direct_tables()?);
        Ok(tables)
    }

    fn in_use(&self, zone: &Zone) -> bool {
        zone.name == self.default_zone || !zone.interfaces.is_empty() || !zone.sources.is_empty()
    }

    /// Chain filter_INPUT with the dispatch to zones in it.
    fn input(&self) -> Chain {
        let states = |bits| Step::Test(Test::AnyBit { key: Key::CtState, bits, not: false });
        let mut rules = Rules::default();
        rules.add("ct state established,related accept", vec![states(ct::ESTABLISHED | ct::RELATED), Step::Go(Target::Accept)]);
        let lo = Step::Test(Test::is(Key::InInterface, Part::Name("lo".to_owned()), false));
        rules.add("iifname \"lo\" accept", vec![lo, Step::Go(Target::Accept)]);
        rules.add("ct state invalid drop", vec![states(ct::INVALID), Step::Go(Target::Drop)]);
        let mut zones: Vec<&Zone> = self.zones.iter().filter(|z| self.in_use(z)).collect();
        zones.sort_by_key(|z| (z.priority, z.name.clone()));
        let go = |zone: &Zone| Step::Go(Target::Goto(chain_name(zone)));
        let priorities: BTreeSet<i64> = zones.iter().map(|z| z.priority).collect();
        for priority in priorities {
            let at = || zones.iter().filter(|z| z.priority == priority);
            for zone in at() {
                for source in &zone.sources {
                    for steps in self.address(Key::Source, source, false) {
                        rules.add(&format!("saddr {source} goto {}", chain_name(zone)), [steps, vec![go(zone)]].concat());
                    }
                }
            }
            for zone in at() {
                for interface in &zone.interfaces {
                    let name = Part::Name(interface.strip_suffix('+').map_or(interface.clone(), |start| format!("{start}*")));
                    let test = Step::Test(Test::is(Key::InInterface, name, false));
                    rules.add(&format!("iifname \"{interface}\" goto {}", chain_name(zone)), vec![test, go(zone)]);
                }
            }
        }
        if let Some(zone) = zones.iter().find(|z| z.name == self.default_zone) {
            rules.add(&format!("goto {}", chain_name(zone)), vec![go(zone)]);
        }
        rules.add("reject with icmpx admin-prohibited", vec![Step::Go(Target::Reject("icmpx-admin-prohibited".to_owned()))]);
        let base = Base { hook: Hook::Input, priority: 10, accept: true, nat: false, handle: 1, devices: Vec::new() };
        Chain { name: "filter_INPUT".to_owned(), base: Some(base), rules: rules.0 }
    }

    fn zone_chain(&self, zone: &Zone) -> Chain {
        let mut rules = Rules::default();
        let mut policies: Vec<&Zone> = self.policies.iter().filter(|p| concerns(p, zone)).collect();
        policies.sort_by_key(|p| p.priority);
        for policy in policies.iter().filter(|p| p.priority < 0) {
            self.content(policy, &mut rules);
        }
        self.content(zone, &mut rules);
        for policy in policies.iter().filter(|p| p.priority >= 0) {
            self.content(policy, &mut rules);
        }
        let reject = || Target::Reject("icmpx-admin-prohibited".to_owned());
        let (text, target) = match zone.target.as_str() {
            "ACCEPT" => ("accept", Target::Accept),
            "DROP" => ("drop", Target::Drop),
            _ => ("reject with icmpx admin-prohibited", reject()),
        };
        rules.add(text, vec![Step::Go(target)]);
        Chain { name: chain_name(zone), base: None, rules: rules.0 }
    }

    /// What a zone or policy says of TCP, in its order, without the target of a zone.
    fn content(&self, zone: &Zone, rules: &mut Rules) {
        let mut rich: Vec<&Rich> = zone.rich.iter().collect();
        rich.sort_by_key(|r| r.priority);
        for rule in rich.iter().filter(|r| r.priority < 0) {
            self.rich(rule, rules);
        }
        let denies = |r: &&&Rich| r.priority == 0 && matches!(r.target, Some(Target::Drop | Target::Reject(_)));
        for rule in rich.iter().filter(denies) {
            self.rich(rule, rules);
        }
        for (first, last) in &zone.forwards {
            let text = format!("forward-port {first}-{last}");
            let what = format!("firewalld's {text} of {}", zone.name);
            rules.add(&text, [tcp_ports(Key::DestinationPort, *first, *last), vec![Step::Go(Target::Undecided(what))]].concat());
        }
        for opening in &zone.allow {
            for steps in self.opening(opening) {
                rules.add(&format!("{} accept", opening.text), [steps, vec![Step::Go(Target::Accept)]].concat());
            }
        }
        for rule in rich.iter().filter(|r| r.priority == 0 && !denies(r)) {
            self.rich(rule, rules);
        }
        for rule in rich.iter().filter(|r| r.priority > 0) {
            self.rich(rule, rules);
        }
        // A zone's own target comes last of all, a policy's with its rules.
        let of_policy = !zone.ingress.is_empty() || !zone.egress.is_empty();
        let target = match zone.target.as_str() {
            "ACCEPT" => Target::Accept,
            "DROP" => Target::Drop,
            "REJECT" => Target::Reject("icmpx-admin-prohibited".to_owned()),
            _ => return,
        };
        if of_policy {
            rules.add(&format!("policy {} target {}", zone.name, zone.target), vec![Step::Go(target)]);
        }
    }

    fn rich(&self, rule: &Rich, rules: &mut Rules) {
        let target = match (&rule.target, rule.forward) {
            (_, true) => Target::Undecided(format!("firewalld's {}", rule.text)),
            (Some(target), _) => target.clone(),
            (None, _) => return,
        };
        let mut starts = vec![Vec::new()];
        if let Some(v6) = rule.v6 {
            starts = vec![vec![version(v6)]];
        }
        for (key, address) in [(Key::Source, &rule.source), (Key::Destination, &rule.to)] {
            if let Some((text, not)) = address {
                let tests = self.address(key, text, *not);
                starts = starts.iter().flat_map(|s| tests.iter().map(move |t| [s.clone(), t.clone()].concat())).collect();
            }
        }
        let what = match &rule.what {
            None => vec![Vec::new()],
            Some(openings) => openings.iter().flat_map(|o| self.opening(o)).collect(),
        };
        for start in &starts {
            for what in &what {
                let limit = rule.limited.then(|| Step::Test(Test::Undecided("the rate limit".to_owned())));
                let steps = [start.clone(), what.clone(), limit.into_iter().collect(), vec![Step::Go(target.clone())]].concat();
                rules.add(&rule.text, steps);
            }
        }
    }

    /// The tests of an opening; more than one row where it names destinations of both families.
    fn opening(&self, opening: &Opening) -> Vec<Vec<Step>> {
        let ports = match opening.ports {
            Ports::Tcp(first, last) => tcp_ports(Key::DestinationPort, first, last),
            Ports::TcpSource(first, last) => tcp_ports(Key::SourcePort, first, last),
            Ports::All => vec![protocol_tcp()],
        };
        if opening.to.is_empty() {
            return vec![ports];
        }
        let to = opening.to.iter().flat_map(|a| self.address(Key::Destination, a, false));
        to.map(|tests| [tests, ports.clone()].concat()).collect()
    }

    /// An address, network, `ipset:NAME` or MAC as tests; one row for each alternative.
    fn address(&self, key: Key, text: &str, not: bool) -> Vec<Vec<Step>> {
        let undecided = |what: String| vec![vec![Step::Test(Test::Undecided(what))]];
        if let Some((v6, first, last)) = span(text) {
            return vec![vec![version(v6), Step::Test(Test::is(key, Part::Span(first, last), not))]];
        }
        let Some(name) = text.strip_prefix("ipset:") else { return undecided(format!("the source {text}")) };
        match self.ip_sets.get(name).filter(|s| ["hash:ip", "hash:net"].contains(&s.kind.as_str())) {
            Some(set) => {
                let spans: Vec<(bool, u128, u128)> = set.entries.iter().filter_map(|e| span(e)).collect();
                let v6 = spans.first().is_some_and(|s| s.0);
                let parts = spans.into_iter().map(|(_, first, last)| Part::Span(first, last)).collect();
                let set = std::sync::Arc::new(Set::of(parts));
                vec![vec![version(v6), Step::Test(Test::In { key: vec![key], set, not })]]
            }
            None => undecided(format!("the ipset {name}")),
        }
    }

    /// Direct rules become rules of iptables, which have their say before firewalld's own table.
    fn direct_tables(&self) -> Result<Vec<Table>, String> {
        let mut tables = Vec::new();
        for v6 in [false, true] {
            let mut rules: Vec<_> = self.direct.iter().filter(|d| d.0 == v6 && d.1 == "filter").collect();
            rules.sort_by_key(|r| r.3);
            if rules.is_empty() {
                continue;
            }
            let lines: String = rules.iter().map(|(_, _, chain, _, words)| format!("-A {chain} {words}\n")).collect();
            let text = format!("*filter\n:INPUT ACCEPT\n:FORWARD ACCEPT\n:OUTPUT ACCEPT\n{lines}COMMIT\n");
            let save = iptables_save::parse(&text).map_err(|e| format!("direct.xml: {e}"))?;
            tables.extend(crate::facts::firewall::iptables::tables(&save, Engine::IptablesNft, v6));
        }
        Ok(tables)
    }
}

/// Whether a policy is about packets from this zone to the host.
fn concerns(policy: &Zone, zone: &Zone) -> bool {
    policy.egress.iter().any(|e| e == "HOST") && policy.ingress.iter().any(|i| *i == zone.name || i == "ANY")
}

fn chain_name(zone: &Zone) -> String {
    format!("filter_IN_{}", zone.name)
}

fn version(v6: bool) -> Step {
    let number = if v6 { 10 } else { 2 };
    Step::Test(Test::is(Key::Version, Part::Span(number, number), false))
}

fn protocol_tcp() -> Step {
    Step::Test(Test::is(Key::Protocol, Part::Span(6, 6), false))
}

fn tcp_ports(key: Key, first: u16, last: u16) -> Vec<Step> {
    vec![protocol_tcp(), Step::Test(Test::is(key, Part::Span(first.into(), last.into()), false))]
}

#[derive(Default)]
struct Rules(Vec<Rule>);

impl Rules {
    fn add(&mut self, text: &str, steps: Vec<Step>) {
        let number = i64::try_from(self.0.len() + 1).unwrap_or(i64::MAX);
        self.0.push(Rule { text: text.to_owned(), number, steps, packets: None });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::firewall::Packet;
    use crate::host::fake::Fake;

    fn host() -> Fake {
        Fake::new()
            .file("/etc/firewalld/firewalld.conf", "# x\nDefaultZone=public\nFirewallBackend=nftables\n")
            .file(
                "/usr/lib/firewalld/zones/public.xml",
                "<?xml version=\"1.0\"?><zone><short>Public</short><service name=\"ssh\"/></zone>",
            )
            .file("/usr/lib/firewalld/zones/internal.xml", "<zone><port port=\"5672\" protocol=\"tcp\"/></zone>")
            .file("/usr/lib/firewalld/zones/trusted.xml", "<zone target=\"ACCEPT\"/>")
            .file("/usr/lib/firewalld/zones/drop.xml", "<zone target=\"DROP\"/>")
            .file("/usr/lib/firewalld/services/ssh.xml", "<service><port protocol=\"tcp\" port=\"22\"/></service>")
            .file("/usr/lib/firewalld/services/amqp.xml", "<service><port protocol=\"tcp\" port=\"5672\"/></service>")
    }

    fn verdict(host: &Fake, source: &str, interface: &str, port: u16) -> String {
        let tables = read(host).unwrap().boot().unwrap();
        let model = Model {
            tables,
            routing: Some(crate::facts::firewall::routing::Routing::of_hosts(&["10.0.0.5"])),
            ..Model::default()
        };
        let firewall = Firewall::of_model(model);
        let packet = Packet {
            source: source.parse().unwrap(),
            destination: "10.0.0.5".parse().unwrap(),
            port,
            interface: interface.to_owned(),
        };
        firewall.verdict(&packet).known().map_or_else(|| "unknown".to_owned(), |v| v.verdict.clone())
    }

    #[test]
    fn the_default_zone_takes_what_is_bound_nowhere() {
        let host = host();
        assert_eq!(verdict(&host, "10.0.0.9", "eth0", 22), "accept");
        assert_eq!(verdict(&host, "10.0.0.9", "eth0", 5672), "reject");
        let own = host.file("/etc/firewalld/zones/public.xml", "<zone><service name=\"amqp\"/></zone>");
        assert_eq!(verdict(&own, "10.0.0.9", "eth0", 5672), "accept");
        assert_eq!(verdict(&own, "10.0.0.9", "eth0", 22), "reject");
    }

    #[test]
    fn sources_come_before_interfaces_before_the_default() {
        let host = host()
            .file(
                "/etc/firewalld/zones/internal.xml",
                "<zone><interface name=\"eth1\"/><port port=\"5672\" protocol=\"tcp\"/></zone>",
            )
            .file("/etc/firewalld/zones/drop.xml", "<zone target=\"DROP\"><source address=\"10.1.0.0/16\"/></zone>");
        assert_eq!(verdict(&host, "10.2.0.9", "eth1", 5672), "accept");
        assert_eq!(verdict(&host, "10.1.0.9", "eth1", 5672), "drop");
        assert_eq!(verdict(&host, "10.2.0.9", "eth0", 5672), "reject");
        let moved = host
            .file("/etc/NetworkManager/system-connections/lan.nmconnection", "[connection]\ninterface-name=eth0\nzone=trusted\n");
        assert_eq!(verdict(&moved, "10.2.0.9", "eth0", 5672), "accept");
    }

    #[test]
    fn rich_rules_stand_in_their_order() {
        let zone = |rules: &str| {
            let host = host()
                .file("/etc/firewalld/zones/public.xml", format!("<zone><port port=\"5672\" protocol=\"tcp\"/>{rules}</zone>"));
            verdict(&host, "10.0.0.9", "eth0", 5672)
        };
        let deny =
            "<rule family=\"ipv4\"><source address=\"10.0.0.0/24\"/><port port=\"5672\" protocol=\"tcp\"/><reject/></rule>";
        assert_eq!(zone(deny), "reject");
        assert_eq!(zone(&deny.replace("10.0.0.0", "10.0.1.0")), "accept");
        assert_eq!(
            zone(&format!("{deny}{}", deny.replace("<rule", "<rule priority=\"-5\"").replace("reject", "accept"))),
            "accept"
        );
        assert_eq!(zone(&deny.replace("<rule", "<rule priority=\"5\"")), "accept");
        assert_eq!(zone("<rule><drop><limit value=\"1/m\"/></drop></rule>"), "depends");
        assert_eq!(zone("<rule><source ipset=\"bad\"/><drop/></rule>"), "depends");
    }

    #[test]
    fn policies_to_the_host_come_before_the_zone() {
        let policy = "<policy target=\"DROP\"><ingress-zone name=\"ANY\"/><egress-zone name=\"HOST\"/></policy>";
        assert_eq!(verdict(&host().file("/etc/firewalld/policies/p.xml", policy), "10.0.0.9", "eth0", 22), "drop");
        let later = policy.replace("<policy", "<policy priority=\"100\"");
        assert_eq!(verdict(&host().file("/etc/firewalld/policies/p.xml", later), "10.0.0.9", "eth0", 22), "accept");
        let other = policy.replace("HOST", "public");
        assert_eq!(verdict(&host().file("/etc/firewalld/policies/p.xml", other), "10.0.0.9", "eth0", 22), "accept");
    }

    #[test]
    fn what_cannot_be_read_is_an_error() {
        assert!(read(&host().file("/etc/firewalld/zones/x.xml", "<zone><port")).is_err());
        let denied = host().file("/etc/firewalld/zones/public.xml", "<zone/>").denied("/etc/firewalld/zones/public.xml");
        assert!(read(&denied).is_err());
        let direct = "<direct><passthrough ipv=\"ipv4\">-A INPUT -j DROP</passthrough></direct>";
        assert!(read(&host().file("/etc/firewalld/direct.xml", direct)).unwrap().boot().is_err());
        let direct = "<direct><rule ipv=\"ipv4\" table=\"filter\" chain=\"INPUT\" priority=\"0\">-p tcp --dport 22 -j DROP</rule></direct>";
        assert_eq!(verdict(&host().file("/etc/firewalld/direct.xml", direct), "10.0.0.9", "eth0", 22), "drop");
    }
}

//! Random native nftables rulesets: several tables of several families at several priorities.

use crate::net::{OWN4, OWN6, PORTS, SOURCES4, SOURCES6};
use crate::ruleset::{Part, Ruleset};
use fastrand::Rng;

/// What a ruleset is about.
#[derive(Debug, Clone, Copy, Default)]
pub struct Taste {
    pub v4: bool,
    pub v6: bool,
    /// Rules in OUTPUT and POSTROUTING.
    pub output: bool,
    /// Many conditions on the connection's state.
    pub established: bool,
    /// Rules that rest on more than the ruleset and the packet.
    pub stateful: bool,
}

pub fn pick<'a, T: ?Sized>(rng: &mut Rng, from: &[&'a T]) -> &'a T {
    from[rng.usize(..from.len())]
}

pub fn port(rng: &mut Rng) -> u16 {
    // The tested services meet rules often enough to make both verdicts likely.
    if rng.u8(..12) == 0 { rng.u16(1..) } else { PORTS[rng.usize(..PORTS.len())] }
}

pub fn source(rng: &mut Rng, v6: bool) -> String {
    if v6 { pick(rng, &SOURCES6).to_owned() } else { pick(rng, &SOURCES4).to_owned() }
}

pub fn network(rng: &mut Rng, v6: bool) -> String {
    let v4 = [
        "10.0.0.0/8",
        "10.77.50.0/24",
        "10.77.0.0/16",
        "192.168.0.0/16",
        "172.16.0.0/12",
        "203.0.113.0/24",
        "100.64.0.0/10",
        "0.0.0.0/1",
        "128.0.0.0/1",
        "10.0.0.0/23",
        "10.0.0.4/30",
    ];
    let six = ["fd77:50::/64", "fd77::/16", "2001:db8::/32", "2000::/3", "fc00::/7", "2001:db8:1::/48", "::/1"];
    match rng.u8(..3) {
        0 => source(rng, v6),
        _ if v6 => pick(rng, &six).to_owned(),
        _ => pick(rng, &v4).to_owned(),
    }
}

pub fn own(rng: &mut Rng, v6: bool) -> String {
    let at = rng.usize(..2);
    if v6 { OWN6[at].to_string() } else { OWN4[at].to_string() }
}

/// Distinct items, joined.
fn list(rng: &mut Rng, most: usize, mut item: impl FnMut(&mut Rng) -> String) -> String {
    let mut items: Vec<String> = (0..=rng.usize(..most)).map(|_| item(rng)).collect();
    items.sort();
    items.dedup();
    items.join(", ")
}

struct Table {
    name: String,
    family: &'static str,
    sets: Vec<(String, &'static str)>,
}

struct Writer<'a> {
    rng: &'a mut Rng,
    taste: Taste,
    out: Ruleset,
}

/// Where a chain hangs, as far as its rules must know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Ingress,
    /// Prerouting and input.
    In,
    Nat,
    Out,
}

pub fn ruleset(rng: &mut Rng, taste: Taste) -> Ruleset {
    let mut writer = Writer { rng, taste, out: Ruleset::default() };
    let tables = 1 + writer.rng.usize(..4);
    for number in 0..tables {
        writer.table(number);
    }
    writer.out
}

impl Writer<'_> {
    fn chance(&mut self, percent: u8) -> bool {
        self.rng.u8(..100) < percent
    }

    fn push(&mut self, text: String) {
        self.out.push(Part::Nft, text);
    }

    fn family(&mut self) -> &'static str {
        let ip = if self.taste.v6 { "ip6" } else { "ip" };
        match self.rng.u8(..20) {
            0 if self.taste.v4 && self.taste.v6 => "ip",
            1..=6 => ip,
            7 => "netdev",
            _ => "inet",
        }
    }

    fn table(&mut self, number: usize) {
        let mut table = Table { name: format!("t{number}"), family: self.family(), sets: Vec::new() };
        let head = format!("{} {}", table.family, table.name);
        self.push(format!("add table {head}"));
        self.sets(&mut table);
        if table.family == "netdev" {
            let device = pick(self.rng, &["eth0", "eth1"]);
            let priority = self.rng.i32(-300..300);
            self.push(format!(
                "add chain {head} ing {{ type filter hook ingress device {device} priority {priority}; policy accept; }}"
            ));
            return self.rules(&table, "ing", Place::Ingress, &[], 3);
        }
        let groups: &[Place] = if self.taste.output { &[Place::In, Place::Out] } else { &[Place::In] };
        for place in groups.iter().copied() {
            let side = if place == Place::In { "u" } else { "v" };
            let users: Vec<String> = (0..self.rng.usize(..4)).map(|n| format!("{side}{n}")).collect();
            for user in &users {
                self.push(format!("add chain {head} {user}"));
            }
            for (n, user) in users.iter().enumerate() {
                self.rules(&table, user, place, &users[n + 1..], 4);
            }
            for base in 0..=self.rng.usize(..2) {
                let (hook, priority) = self.hook(place);
                let policy = if self.chance(if hook == "input" { 35 } else { 4 }) { "drop" } else { "accept" };
                let name = format!("{side}base{base}");
                self.push(format!("add chain {head} {name} {{ type filter hook {hook} priority {priority}; policy {policy}; }}"));
                let most = if hook == "input" { 10 } else { 4 };
                self.rules(&table, &name, place, &users, most);
            }
        }
        if self.chance(25) {
            let priority = pick(self.rng, &["-100", "-90", "-110"]);
            self.push(format!("add chain {head} nat0 {{ type nat hook prerouting priority {priority}; policy accept; }}"));
            for _ in 0..=self.rng.usize(..2) {
                let matches = self.matches(&table, Place::Nat);
                let to = self.translation(table.family);
                if consistent(&format!("{matches} {to}")) {
                    self.push(format!("add rule {head} nat0 {matches} counter {to}"));
                }
            }
        }
        if table.family == "inet" && self.chance(6) {
            let device = pick(self.rng, &["eth0", "eth1"]);
            self.push(format!("add chain {head} ing {{ type filter hook ingress device {device} priority 0; policy accept; }}"));
            self.rules(&table, "ing", Place::Ingress, &[], 2);
        }
    }

    fn hook(&mut self, place: Place) -> (&'static str, &'static str) {
        let input = ["-150", "-10", "-1", "0", "0", "0", "10", "50", "150"];
        let early = ["-450", "-350", "-300", "-201", "-199", "-150", "-105", "-95", "0", "0"];
        match place {
            Place::Out if self.chance(30) => ("postrouting", pick(self.rng, &["-150", "0", "50", "150"])),
            Place::Out => ("output", pick(self.rng, &["-300", "-150", "0", "0", "50"])),
            _ if self.chance(30) => ("prerouting", pick(self.rng, &early)),
            _ => ("input", pick(self.rng, &input)),
        }
    }

    fn translation(&mut self, family: &str) -> String {
        // Where somebody listens.
        let port = PORTS[self.rng.usize(..PORTS.len())];
        let v6 = self.taste.v6;
        let ip = match family {
            "inet" if v6 => " ip6",
            "inet" => " ip",
            _ => "",
        };
        if family != "inet" && (family == "ip6") != v6 || self.taste.v4 && v6 {
            return format!("meta l4proto tcp redirect to :{port}");
        }
        match self.rng.u8(..5) {
            0 => format!(
                "meta l4proto tcp dnat{ip} to {}",
                if v6 { format!("[{}]:{port}", own(self.rng, v6)) } else { format!("{}:{port}", own(self.rng, v6)) }
            ),
            1 => format!("dnat{ip} to {}", own(self.rng, v6)),
            2 => "redirect".to_owned(),
            3 => format!(
                "meta l4proto tcp redirect to tcp dport map {{ {port} : {}, {} : {} }}",
                PORTS[self.rng.usize(..PORTS.len())],
                if port == 5672 { 5671 } else { 5672 },
                PORTS[self.rng.usize(..PORTS.len())]
            ),
            _ => format!("meta l4proto tcp redirect to :{port}"),
        }
    }

    fn sets(&mut self, table: &mut Table) {
        for number in 0..self.rng.usize(..4) {
            let v6 = if self.taste.v4 && self.taste.v6 { self.rng.bool() } else { self.taste.v6 };
            let (ip, name) = (if v6 { "ipv6_addr" } else { "ipv4_addr" }, format!("s{number}"));
            let (kind, flags, elements) = match self.rng.u8(..7) {
                0 => (if v6 { "a6" } else { "a4" }, "", list(self.rng, 4, |r| source(r, v6))),
                1 | 2 => (if v6 { "a6" } else { "a4" }, "flags interval; auto-merge;", list(self.rng, 4, |r| network(r, v6))),
                3 => ("port", "", list(self.rng, 5, |r| port(r).to_string())),
                4 => ("port", "flags interval; auto-merge;", list(self.rng, 3, ports)),
                5 => (if v6 { "c6" } else { "c4" }, "", list(self.rng, 6, |r| format!("{} . {}", source(r, v6), port(r)))),
                _ => {
                    (if v6 { "c6" } else { "c4" }, "flags interval;", format!("{} . {}", network(self.rng, v6), ports(self.rng)))
                }
            };
            let data = match kind {
                "port" => "inet_service".to_owned(),
                "c4" | "c6" => format!("{ip} . inet_service"),
                _ => ip.to_owned(),
            };
            self.push(format!(
                "add set {} {} {name} {{ type {data}; {flags} elements = {{ {elements} }}; }}",
                table.family, table.name
            ));
            table.sets.push((name, kind));
        }
    }

    fn rules(&mut self, table: &Table, chain: &str, place: Place, users: &[String], most: usize) {
        let head = format!("add rule {} {} {chain}", table.family, table.name);
        for _ in 0..self.rng.usize(..most + 1) {
            let matches = self.matches(table, place);
            let end = self.end(table, place, users);
            let limit = if self.taste.stateful && self.chance(20) {
                pick(
                    self.rng,
                    &[
                        "limit rate 3/minute burst 2 packets",
                        "limit rate over 10/second",
                        "numgen random mod 2 == 0",
                        "meta hour >= \"12:00\"",
                        "quota over 10 mbytes",
                        "ct count over 3",
                    ],
                )
            } else {
                ""
            };
            if consistent(&format!("{matches} {end}")) {
                self.push(format!("{head} {matches} {limit} counter {end}"));
            }
        }
        if place == Place::In && self.taste.established && self.chance(35) && !chain.starts_with('u') {
            let what = pick(
                self.rng,
                &[
                    "ct state established,related accept",
                    "ct state { established, related } counter accept",
                    "ct state established counter drop",
                    "ct state established tcp dport 5672 counter reject with tcp reset",
                    "ct state vmap { established : accept, invalid : drop }",
                    "tcp flags & (syn|ack) == ack counter drop",
                    "ct state != new counter reject",
                ],
            );
            self.push(format!("{head} {what}"));
        }
    }

    fn version(&mut self, table: &Table) -> bool {
        match table.family {
            "ip" => false,
            "ip6" => true,
            _ if self.taste.v4 && self.taste.v6 => self.rng.bool(),
            _ => self.taste.v6,
        }
    }

    /// No, one or more conditions.
    fn matches(&mut self, table: &Table, place: Place) -> String {
        let count = [0, 1, 1, 1, 2, 2, 3][self.rng.usize(..7)];
        let v6 = self.version(table);
        // The fence is ARP, which a netdev chain counts too.
        let first = (table.family == "netdev").then(|| "meta protocol { ip, ip6 }".to_owned());
        let all: Vec<String> = first.into_iter().chain((0..count).map(|_| self.condition(table, place, v6))).collect();
        all.join(" ")
    }

    fn not(&mut self) -> &'static str {
        if self.chance(18) { "!= " } else { "" }
    }

    fn condition(&mut self, table: &Table, place: Place, v6: bool) -> String {
        let ip = if v6 { "ip6" } else { "ip" };
        let (peer, own_side) = if place == Place::Out { ("daddr", "saddr") } else { ("saddr", "daddr") };
        let (service, client) = if place == Place::Out { ("sport", "dport") } else { ("dport", "sport") };
        let interface = if place == Place::Out { "oif" } else { "iif" };
        let not = self.not();
        let rng = &mut *self.rng;
        match rng.u8(..34) {
            0 | 1 => format!("{ip} {peer} {not}{}", network(rng, v6)),
            2 => format!("{ip} {peer} {not}{{ {} }}", list(rng, 4, |r| source(r, v6))),
            3 if !v6 => {
                format!("ip {peer} {not}10.0.0.0-{}", pick(rng, &["10.0.0.5", "10.0.0.4", "10.77.50.1", "172.16.255.255"]))
            }
            4 if !v6 => format!(
                "ip {peer} & 255.0.0.255 {} 10.0.0.{}",
                if not.is_empty() { "==" } else { "!=" },
                pick(rng, &["1", "5", "9"])
            ),
            5 => format!("{ip} {own_side} {not}{}", own(rng, v6)),
            6..=9 => format!("tcp {service} {not}{}", port(rng)),
            10 | 11 => format!("tcp {service} {not}{{ {} }}", list(rng, 5, |r| port(r).to_string())),
            12 => format!("tcp {service} {not}{}", ports(rng)),
            13 => format!("tcp {client} {not}{}", pick(rng, &["1024-65535", "0-1023", "20000", "32768-60999"])),
            14 => pick(
                rng,
                &[
                    "tcp flags syn",
                    "tcp flags & (fin|syn|rst|ack) == syn",
                    "tcp flags != syn",
                    "tcp flags ack",
                    "tcp flags & (syn|ack) == ack",
                    "tcp flags { syn, ack }",
                    "tcp flags & (fin|rst) != 0",
                ],
            )
            .to_owned(),
            15 => pick(rng, &["meta l4proto tcp", "meta l4proto { tcp, udp }", "meta l4proto udp", "meta l4proto != icmp"])
                .to_owned(),
            16 if table.family == "inet" => pick(rng, &["meta nfproto ipv4", "meta nfproto ipv6"]).to_owned(),
            17 | 18 => format!("{interface}name {not}\"{}\"", pick(rng, &["eth0", "eth1", "eth*", "lo", "docker0"])),
            19 => format!("{interface} {not}{}", pick(rng, &["eth0", "eth1", "lo"])),
            20 => format!("{interface}name {{ \"eth0\", \"lo\" }}"),
            21 | 22 if place != Place::Ingress => {
                format!("meta mark {not}{}", pick(rng, &["0x1", "0x2", "0x0", "{ 0x1, 0x3 }", "1-16"]))
            }
            23 if place != Place::Ingress => format!("meta mark & 0x{:x} == 0x{:x}", 3, rng.u8(..4)),
            24 | 25 if place != Place::Ingress => {
                format!(
                    "ct state {not}{}",
                    pick(rng, &["new", "established", "invalid", "established,related", "new,untracked", "untracked"])
                )
            }
            26 if place == Place::In => pick(
                rng,
                &[
                    "ct status dnat",
                    "ct direction original",
                    "ct direction reply",
                    "ct status seen-reply",
                    "ct mark 0x1",
                    "ct mark 0x0",
                    "meta l4proto tcp ct original proto-dst 5672",
                    "ct protocol 6",
                ],
            )
            .to_owned(),
            27 if place == Place::In => pick(
                rng,
                &[
                    "fib daddr type local",
                    "fib daddr type != local",
                    "fib saddr type unicast",
                    "fib saddr . iif oif missing",
                    "fib saddr . iif oif exists",
                    "fib daddr . iif type local",
                ],
            )
            .to_owned(),
            28 => {
                format!("{ip} {peer} . tcp {service} {not}{{ {} }}", list(rng, 8, |r| format!("{} . {}", source(r, v6), port(r))))
            }
            29 if place != Place::Ingress => format!(
                "{interface}name . tcp {service} {{ {} }}",
                list(rng, 4, |r| format!("\"eth{}\" . {}", r.u8(..2), port(r)))
            ),
            30 => pick(
                rng,
                &[
                    "meta pkttype host",
                    "meta pkttype broadcast",
                    "meta length 40-200",
                    "meta length 300-400",
                    "meta length > 200",
                ],
            )
            .to_owned(),
            31 if !v6 => {
                pick(rng, &["ip protocol tcp", "ip protocol udp", "ip frag-off & 0x1fff == 0", "ip version 4", "ip hdrlength 5"])
                    .to_owned()
            }
            31 => pick(rng, &["ip6 nexthdr tcp", "ip6 nexthdr udp", "ip6 version 6", "exthdr frag missing", "exthdr hbh exists"])
                .to_owned(),
            32 => format!("th {service} {not}{}", port(rng)),
            _ => {
                let usable: Vec<&(String, &str)> =
                    table.sets.iter().filter(|(_, k)| *k == "port" || k.ends_with('6') == v6).collect();
                match usable.get(rng.usize(..usable.len().max(1))) {
                    Some((name, "port")) => format!("tcp {service} {not}@{name}"),
                    Some((name, kind)) if kind.starts_with('c') => format!("{ip} {peer} . tcp {service} {not}@{name}"),
                    Some((name, _)) => format!("{ip} {peer} {not}@{name}"),
                    None => format!("tcp {service} {not}{}", port(rng)),
                }
            }
        }
    }

    fn target(&mut self, place: Place, users: &[String]) -> String {
        let user = |rng: &mut Rng| users.get(rng.usize(..users.len().max(1))).cloned();
        match self.rng.u8(..12) {
            0..=3 => "accept".to_owned(),
            4 | 5 => "drop".to_owned(),
            6 if place == Place::In => "return".to_owned(),
            7..=9 => user(self.rng).map_or("accept".to_owned(), |u| format!("jump {u}")),
            10 => user(self.rng).map_or("drop".to_owned(), |u| format!("goto {u}")),
            _ => "continue".to_owned(),
        }
    }

    /// What a rule does.
    fn end(&mut self, table: &Table, place: Place, users: &[String]) -> String {
        let service = if place == Place::Out { "sport" } else { "dport" };
        let v6 = self.version(table);
        let rejects = if table.family == "inet" {
            &[
                "reject",
                "reject with tcp reset",
                "reject with icmpx admin-prohibited",
                "reject with icmpx host-unreachable",
                "reject with icmpx no-route",
            ][..]
        } else if table.family == "ip6" {
            &[
                "reject",
                "reject with tcp reset",
                "reject with icmpv6 addr-unreachable",
                "reject with icmpv6 admin-prohibited",
                "reject with icmpv6 no-route",
            ][..]
        } else {
            &[
                "reject",
                "reject with tcp reset",
                "reject with icmp host-prohibited",
                "reject with icmp admin-prohibited",
                "reject with icmp net-unreachable",
            ][..]
        };
        match self.rng.u8(..26) {
            0..=4 if place == Place::In => pick(self.rng, rejects).to_owned(),
            5..=7 if place != Place::Ingress => {
                let marks = [
                    "meta mark set 0x1",
                    "meta mark set 0x2",
                    "meta mark set meta mark or 0x1",
                    "meta mark set mark and 0xfffffffe",
                    "meta mark set mark xor 0x3",
                    "ct mark set 0x1",
                    "meta mark set ct mark",
                    "ct mark set meta mark",
                ];
                let mark = pick(self.rng, &marks);
                if self.chance(30) { format!("{mark} {}", self.target(place, users)) } else { mark.to_owned() }
            }
            8 if place == Place::In => format!(
                "meta mark set tcp dport map {{ {} }}",
                PORTS.iter().take(1 + self.rng.usize(..4)).map(|p| format!("{p} : 0x{:x}", p % 4)).collect::<Vec<_>>().join(", ")
            ),
            9 if place != Place::Ingress => {
                let mut ports = PORTS.to_vec();
                self.rng.shuffle(&mut ports);
                let entries: Vec<String> =
                    ports[..1 + self.rng.usize(..4)].iter().map(|p| format!("{p} : {}", self.target(place, users))).collect();
                let rest = if self.chance(25) { ", * : continue" } else { "" };
                format!(
                    "tcp {service} vmap {{ {}{rest} }}{}",
                    entries.join(", "),
                    if self.chance(30) { " counter drop" } else { "" }
                )
            }
            10 if place == Place::In => {
                let ip = if v6 { "ip6" } else { "ip" };
                let entries = list(self.rng, 3, |r| source(r, v6));
                let entries: Vec<String> = entries.split(", ").map(|a| format!("{a} : {}", self.target(place, users))).collect();
                format!("{ip} saddr vmap {{ {} }}", entries.join(", "))
            }
            11 if place == Place::In => {
                let (a, b) = (self.target(place, users), self.target(place, users));
                format!("iifname vmap {{ \"eth0\" : {a}, \"eth1\" : {b} }}")
            }
            12 if place == Place::In && self.taste.established => {
                let (a, b) = (self.target(place, users), self.target(place, users));
                format!("ct state vmap {{ new : {a}, established : {b}, invalid : drop }}")
            }
            13 if place == Place::In && self.chance(30) => "notrack".to_owned(),
            14 if place == Place::In => {
                let ip = if v6 { "ip6" } else { "ip" };
                let (a, b) = (self.target(place, users), self.target(place, users));
                format!(
                    "{ip} saddr . tcp dport vmap {{ {} . {} : {a}, {} . 0-65535 : {b} }}",
                    if v6 { "2001:db8::5" } else { "10.0.0.5" },
                    port(self.rng),
                    if v6 { "fd00::/8" } else { "192.168.0.0/16" }
                )
            }
            15 if place == Place::Out => "drop".to_owned(),
            _ => self.target(place, users),
        }
    }
}

/// Whether nft takes these parts in one rule: it knows which protocols exclude each other.
fn consistent(rule: &str) -> bool {
    let tcp = ["tcp dport", "tcp sport", "tcp flags", "tcp reset", "redirect to", "]:", "map {"].iter().any(|t| rule.contains(t));
    let other = ["l4proto udp", "protocol udp", "nexthdr udp", "l4proto {", "l4proto !=", "protocol udp"]
        .iter()
        .any(|t| rule.contains(t));
    let v4 = rule.contains("ip saddr")
        || rule.contains("ip daddr")
        || rule.contains("nfproto ipv4")
        || rule.contains("ip protocol")
        || rule.contains("dnat ip ");
    let v6 = rule.contains("ip6 ") || rule.contains("nfproto ipv6");
    let th = rule.contains("th dport") || rule.contains("th sport");
    !(tcp && other || v4 && v6) && !(th && !tcp && !rule.contains("l4proto")) && !(rule.contains("exthdr") && v4)
}

fn ports(rng: &mut Rng) -> String {
    pick(rng, &["5000-6000", "1-1023", "22-80", "5671-5672", "1024-65535", "15000-26000", "443-5671"]).to_owned()
}

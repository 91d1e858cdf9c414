//! Random iptables rulesets: five tables, user chains, extensions and ipsets; one text loads by either kind of iptables.

use crate::net::PORTS;
use crate::nft::{Taste, network, own, pick, port, source};
use crate::ruleset::{Part, Ruleset};
use fastrand::Rng;

/// Sets that are always there; their members change with the ruleset.
const SETS: [(&str, &str); 5] = [
    ("addresses", "hash:ip"),
    ("networks", "hash:net"),
    ("services", "bitmap:port"),
    ("pairs", "hash:ip,port"),
    ("netpairs", "hash:net,port"),
];

struct Writer<'a> {
    rng: &'a mut Rng,
    taste: Taste,
    legacy: bool,
    v6: bool,
    out: Ruleset,
}

pub fn ruleset(rng: &mut Rng, taste: Taste, legacy: bool) -> Ruleset {
    let mut out = Ruleset::default();
    for v6 in [false, true] {
        if if v6 { taste.v6 } else { taste.v4 } {
            let mut writer = Writer { rng, taste, legacy, v6, out };
            writer.ip_sets();
            writer.tables();
            out = writer.out;
        }
    }
    out
}

impl Writer<'_> {
    fn chance(&mut self, percent: u8) -> bool {
        self.rng.u8(..100) < percent
    }

    fn part(&self) -> Part {
        Part::Iptables { legacy: self.legacy, v6: self.v6 }
    }

    fn set(&self, name: &str) -> String {
        format!("{name}{}", if self.v6 { 6 } else { 4 })
    }

    fn ip_sets(&mut self) {
        for (name, kind) in SETS {
            let name = self.set(name);
            let options = match kind {
                "bitmap:port" => " range 0-65535",
                _ if self.v6 => " family inet6",
                _ => "",
            };
            self.out.frame(Part::IpSet, format!("create {name} {kind}{options}"));
            self.out.frame(Part::IpSet, format!("flush {name}"));
            for _ in 0..self.rng.usize(..6) {
                let v6 = self.v6;
                let entry = match kind {
                    "hash:ip" => source(self.rng, v6),
                    "hash:net" => self.network(),
                    "bitmap:port" => port(self.rng).to_string(),
                    "hash:ip,port" => format!("{},tcp:{}", source(self.rng, v6), port(self.rng)),
                    _ => format!("{},tcp:{}", self.network(), port(self.rng)),
                };
                let except = if kind.starts_with("hash:net") && self.chance(15) { " nomatch" } else { "" };
                self.out.push(Part::IpSet, format!("add {name} {entry}{except}"));
            }
        }
    }

    fn network(&mut self) -> String {
        network(self.rng, self.v6)
    }

    fn tables(&mut self) {
        // All five are written always: what an earlier ruleset left in one would stay.
        let full = self.legacy || self.chance(40);
        if full {
            self.table("raw", &["PREROUTING", "OUTPUT"]);
            self.table("mangle", &["PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"]);
            self.table("nat", &["PREROUTING", "INPUT", "OUTPUT", "POSTROUTING"]);
        }
        self.table("filter", &["INPUT", "FORWARD", "OUTPUT"]);
        if full {
            self.table("security", &["INPUT", "FORWARD", "OUTPUT"]);
        }
    }

    fn table(&mut self, table: &str, chains: &[&str]) {
        let part = self.part();
        self.out.frame(part, format!("*{table}"));
        for chain in chains {
            let drops = match (table, *chain) {
                ("filter", "INPUT") => 45,
                ("filter", "OUTPUT") if self.taste.output => 15,
                ("raw" | "mangle", "PREROUTING") => 2,
                _ => 0,
            };
            let policy = if self.chance(drops) { "DROP" } else { "ACCEPT" };
            self.out.frame(part, format!(":{chain} {policy} [0:0]"));
        }
        // The main table is always written, the others now and then.
        let busy = table == "filter" || self.chance(35);
        let users: Vec<String> = (0..if busy { self.rng.usize(..4) } else { 0 }).map(|n| format!("U{n}")).collect();
        let outs: Vec<String> = if busy && self.taste.output { vec!["V0".into(), "V1".into()] } else { Vec::new() };
        for chain in users.iter().chain(&outs) {
            self.out.frame(part, format!(":{chain} - [0:0]"));
        }
        if busy {
            // A user chain of a table is used from one side only: REJECT and -i do not stand everywhere.
            let side = match table {
                "filter" | "security" => "INPUT",
                _ => "PREROUTING",
            };
            let first = usize::from(table == "filter") * 2;
            let count = first + self.rng.usize(..8);
            self.rules(table, side, side, &users, count);
            if table == "mangle" {
                self.rules(table, "INPUT", "INPUT", &[], 3);
            }
            for (n, user) in users.iter().enumerate() {
                let count = self.rng.usize(..5);
                self.rules(table, user, side, &users[n + 1..], count);
            }
            if self.taste.output && table != "nat" {
                let count = self.rng.usize(..5);
                self.rules(table, "OUTPUT", "OUTPUT", &outs, count);
                self.rules(table, "V0", "OUTPUT", &outs[1..], 2);
                self.rules(table, "V1", "OUTPUT", &[], 2);
                if table == "mangle" {
                    self.rules(table, "POSTROUTING", "POSTROUTING", &[], 2);
                }
            }
        }
        self.out.frame(part, "COMMIT");
    }

    fn rules(&mut self, table: &str, chain: &str, side: &str, users: &[String], count: usize) {
        let part = self.part();
        if self.taste.established && table == "filter" && chain == "INPUT" && self.chance(50) {
            let line = pick(
                self.rng,
                &[
                    "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
                    "-m state --state ESTABLISHED -j ACCEPT",
                    "-m conntrack --ctstate ESTABLISHED -j DROP",
                    "-p tcp -m conntrack --ctstate ESTABLISHED -m tcp --dport 5672 -j REJECT --reject-with tcp-reset",
                    "-p tcp -m tcp ! --syn -j DROP",
                    "-m conntrack ! --ctstate NEW -j REJECT",
                ],
            );
            self.out.push(part, format!("-A {chain} {line}"));
        }
        for _ in 0..count {
            let protocol = self.chance(60);
            let mut line = format!("-A {chain}");
            if protocol {
                line += " -p tcp -m tcp";
            } else if self.chance(8) {
                line += pick(self.rng, &[" -p udp -m udp --dport 5672", " -p udp", " ! -p tcp", " ! -p udp"]);
            }
            for _ in 0..[0, 1, 1, 1, 2, 2][self.rng.usize(..6)] {
                let condition = self.condition(table, side, protocol && !line.contains("--dport"));
                let option =
                    condition.split(' ').find(|w| w.len() > 1 && w.starts_with('-') && *w != "-m").unwrap_or("").to_owned();
                // An option may stand once.
                if !line.contains(&option) && !condition.is_empty() {
                    line += &format!(" {condition}");
                }
            }
            if self.taste.stateful && self.chance(20) {
                line += pick(
                    self.rng,
                    &[
                        " -m limit --limit 3/min --limit-burst 2",
                        " -m recent --name r --rcheck --seconds 30",
                        " -m statistic --mode random --probability 0.5",
                        " -m recent --name r --set",
                        " -m connlimit --connlimit-above 2",
                        " -m quota --quota 1000",
                    ],
                );
            }
            let target = self.target(table, side, protocol, users);
            self.out.push(part, format!("{line} {target}"));
        }
    }

    fn condition(&mut self, table: &str, side: &str, tcp: bool) -> String {
        let out = matches!(side, "OUTPUT" | "POSTROUTING");
        let not = if self.chance(18) { "! " } else { "" };
        let (peer, own_side) = if out { ("-d", "-s") } else { ("-s", "-d") };
        let (service, client) = if out { ("--sport", "--dport") } else { ("--dport", "--sport") };
        let interface = if out { "-o" } else { "-i" };
        let v6 = self.v6;
        match self.rng.u8(..32) {
            0..=3 => format!("{not}{peer} {}", self.network()),
            4 if !v6 => format!("{not}{peer} 10.0.0.5/255.0.0.255"),
            5 | 6 => format!("{not}{own_side} {}", own(self.rng, v6)),
            7..=12 if tcp => format!("{not}{service} {}", port(self.rng)),
            13 if tcp => format!(
                "{not}{service} {}",
                pick(self.rng, &["5000:6000", "1:1023", "22:80", "5671:5672", "5672:", ":5672", "1024:65535"])
            ),
            14 if tcp => format!("{not}{client} {}", pick(self.rng, &["1024:65535", "0:1023", "20000", "32768:60999"])),
            15 if tcp => pick(
                self.rng,
                &[
                    "--syn",
                    "! --syn",
                    "--tcp-flags SYN,ACK SYN",
                    "--tcp-flags FIN,SYN,RST,ACK SYN",
                    "--tcp-flags ALL NONE",
                    "--tcp-flags ACK ACK",
                ],
            )
            .to_owned(),
            16 if tcp => {
                let what = pick(self.rng, &["--dports", "--sports", "--ports"]);
                let what = if out && what == "--dports" { "--sports" } else { what };
                // Half of the ports below the clients' range, so that the client's own port does not decide.
                format!(
                    "-m multiport {not}{what} {},{},{}",
                    port(self.rng).min(32000),
                    port(self.rng).min(32000),
                    pick(self.rng, &["5671:5673", "80:443", "1:1023"])
                )
            }
            17 | 18 => format!("{not}{interface} {}", pick(self.rng, &["eth0", "eth1", "eth+", "lo", "docker0"])),
            19 | 20 => {
                let states = pick(
                    self.rng,
                    &["NEW", "ESTABLISHED", "RELATED,ESTABLISHED", "INVALID", "NEW,UNTRACKED", "DNAT", "SNAT", "NEW,ESTABLISHED"],
                );
                format!("-m conntrack {not}--ctstate {states}")
            }
            21 => format!(
                "-m conntrack {}",
                pick(
                    self.rng,
                    &[
                        "--ctdir ORIGINAL",
                        "--ctdir REPLY",
                        "--ctproto 6",
                        "! --ctproto 6",
                        "--ctorigdstport 5672",
                        "--ctstatus NONE",
                        "--ctstatus SEEN_REPLY"
                    ]
                )
            ),
            22 if !out => {
                let types = pick(
                    self.rng,
                    &[
                        "--dst-type LOCAL",
                        "! --dst-type LOCAL",
                        "--src-type UNICAST",
                        "--src-type LOCAL",
                        "--dst-type LOCAL --limit-iface-in",
                        "--dst-type UNICAST",
                    ],
                );
                format!("-m addrtype {types}")
            }
            23 => {
                let range = if v6 {
                    pick(self.rng, &["2001:db8::1-2001:db8::ff", "fd00::-fdff::"])
                } else {
                    pick(self.rng, &["10.0.0.1-10.0.0.9", "10.0.0.6-192.168.1.50", "203.0.113.7-203.0.113.7"])
                };
                format!("-m iprange {not}{} {range}", if out { "--dst-range" } else { "--src-range" })
            }
            24 | 25 => format!("-m mark {not}--mark {}", pick(self.rng, &["0x1", "0x2", "0x0", "0x1/0x3", "0x10/0xff"])),
            26 => format!("-m connmark {not}--mark {}", pick(self.rng, &["0x1", "0x0", "0x2/0x3"])),
            27 | 28 => {
                let (name, kind) = SETS[self.rng.usize(..SETS.len())];
                let flags = match (kind, out) {
                    ("bitmap:port", true) => "src",
                    ("bitmap:port", false) => "dst",
                    ("hash:ip" | "hash:net", true) => "dst",
                    ("hash:ip" | "hash:net", false) => "src",
                    (_, true) => "dst,src",
                    (_, false) => "src,dst",
                };
                format!("-m set {not}--match-set {} {flags}", self.set(name))
            }
            29 => pick(
                self.rng,
                &["-m pkttype --pkt-type unicast", "-m comment --comment \"of the owner\"", "-m length --length 1:20"],
            )
            .to_owned(),
            30 if self.taste.stateful && !out => {
                pick(self.rng, &["-m mac --mac-source 02:00:00:00:02:01", "-m mac ! --mac-source 02:00:00:00:02:02"]).to_owned()
            }
            31 if side == "PREROUTING" && matches!(table, "raw" | "mangle") => {
                pick(self.rng, &["-m rpfilter", "-m rpfilter --invert", "-m rpfilter --loose"]).to_owned()
            }
            // What only the client knows: how far away it is, and how its packets are marked.
            31 if self.taste.stateful && !v6 => {
                pick(self.rng, &["-m ttl --ttl-gt 32", "-m ttl --ttl-lt 5", "-m dscp --dscp 0x00", "-m tos --tos 0x00"])
                    .to_owned()
            }
            31 if self.taste.stateful => "-m hl --hl-gt 32".to_owned(),
            _ => String::new(),
        }
    }

    fn target(&mut self, table: &str, side: &str, tcp: bool, users: &[String]) -> String {
        let user = users.get(self.rng.usize(..users.len().max(1))).cloned();
        let drops = table != "nat";
        match (self.rng.u8(..24), user) {
            (0..=4, Some(user)) => format!("-j {user}"),
            (5, Some(user)) => format!("-g {user}"),
            (6 | 7, _) => "-j RETURN".to_owned(),
            (8, _) => "-j LOG --log-prefix \"probe: \"".to_owned(),
            (17 | 18, _) if table != "nat" => {
                format!("-j MARK --set-xmark {}", pick(self.rng, &["0x1/0xffffffff", "0x2/0xffffffff", "0x1/0x1", "0x10/0x0"]))
            }
            (12, _) if table == "mangle" => pick(
                self.rng,
                &["-j CONNMARK --save-mark", "-j CONNMARK --restore-mark", "-j CONNMARK --set-xmark 0x1/0xffffffff"],
            )
            .to_owned(),
            (9..=10, _) if table == "raw" => "-j CT --notrack".to_owned(),
            (9..=14, _) if table == "nat" && side == "PREROUTING" && tcp => {
                let to = own(self.rng, self.v6);
                // Where somebody listens.
                let port = PORTS[self.rng.usize(..PORTS.len())];
                match self.rng.u8(..4) {
                    0 if self.v6 => format!("-j DNAT --to-destination [{to}]:{port}"),
                    0 => format!("-j DNAT --to-destination {to}:{port}"),
                    1 => format!("-j DNAT --to-destination {to}"),
                    _ => format!("-j REDIRECT --to-ports {port}"),
                }
            }
            (9..=13, _) if table == "filter" && side == "INPUT" => {
                let kinds = if self.v6 {
                    ["icmp6-port-unreachable", "icmp6-adm-prohibited", "icmp6-addr-unreachable", "icmp6-no-route"]
                } else {
                    ["icmp-port-unreachable", "icmp-host-prohibited", "icmp-admin-prohibited", "icmp-net-unreachable"]
                };
                let kind = if tcp && self.chance(30) { "tcp-reset" } else { pick(self.rng, &kinds) };
                format!("-j REJECT --reject-with {kind}")
            }
            (15 | 16, _) if drops => "-j DROP".to_owned(),
            _ => "-j ACCEPT".to_owned(),
        }
    }
}

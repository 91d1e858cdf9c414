//! The evaluator without a kernel: small rulesets of legacy iptables as text, those of nf_tables as the kernel once dumped them.
//!
//! The dumps stand in `testdata/`. After a change of a ruleset here, `UPDATE=1 cargo test --lib firewall::` as root makes them anew,
//! with nft and iptables of the machine in a network namespace that goes away again.

use super::model::Model;
use super::read::{Raw, assemble};
use super::*;
use crate::host::{
    Command, Got, Host, Identity, InterfaceAddress, Kind, Load, Meta, Miss, Output, Space, Tail, amqp, live::Live, rpc,
};
use std::collections::BTreeMap;
use std::path::{Path as FilePath, PathBuf};

/// A firewall around a model; nothing else of it matters to a verdict.
pub fn firewall(mut model: Model) -> Firewall {
    model.routing.get_or_insert_with(|| routing::Routing::of_hosts(&["10.0.0.2"]));
    Firewall {
        manager: "iptables".to_owned(),
        ufw_enabled: false,
        ufw_loaded: true,
        firewalld_running: false,
        engines: Vec::new(),
        ufw_rules: Fact::Known(Vec::new()),
        owned: super::owners::Owners::blank("not looked for"),
        model,
    }
}

fn absent() -> Got<Vec<u8>> {
    Err(Miss::Absent { what: "it".to_owned() })
}

fn nothing() -> Raw {
    Raw { nf_tables: absent(), legacy: [None, None], ip_sets: absent() }
}

/// What the kernel holds once `load` was done, from `testdata/NAME.nl`.
fn recorded(name: &str, load: Load) -> Vec<u8> {
    let path = FilePath::new(env!("CARGO_MANIFEST_DIR")).join("src/facts/firewall/testdata").join(format!("{name}.nl"));
    if std::env::var_os("UPDATE").is_some() {
        let loaded = Live::default().scratch(&[load]).unwrap();
        assert_eq!(loaded.failed, [], "{name}");
        std::fs::write(&path, loaded.nf_tables.or(loaded.ip_sets).unwrap()).unwrap();
    }
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}; UPDATE=1 as root makes it", path.display()))
}

/// The dump of a ruleset in nft's language.
pub fn dump(name: &str, ruleset: &str) -> Vec<u8> {
    let file = std::env::temp_dir().join(format!("rmq-audit-{}-{name}.nft", std::process::id()));
    std::fs::write(&file, ruleset).unwrap();
    let bytes = recorded(name, Load::Nft { file: file.clone() });
    let _ = std::fs::remove_file(file);
    bytes
}

/// The dump of a ruleset that iptables-nft-restore loaded.
pub fn iptables_dump(name: &str, save: &str) -> Vec<u8> {
    recorded(name, Load::Restore { v6: false, legacy: Some(false), keep: false, input: save.to_owned() })
}

fn of_dump(dump: Vec<u8>) -> Firewall {
    firewall(assemble(Raw { nf_tables: Ok(dump), ..nothing() }))
}

fn legacy(rules: &str) -> Firewall {
    let text = format!("*filter\n:INPUT ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n{rules}COMMIT\n");
    firewall(assemble(Raw { legacy: [Some(Ok(text.into_bytes())), None], ..nothing() }))
}

/// A table `inet t` with sets and one input chain of policy drop. Later packets of a connection are not what these tests are about.
fn native(name: &str, sets: &str, rules: &str) -> Firewall {
    let chain = format!("type filter hook input priority 0; policy drop;\n{rules}\nct state established accept");
    of_dump(dump(name, &format!("table inet t {{\n{sets}\nchain in {{\n{chain}\n}}\n}}\n")))
}

fn packet(source: &str) -> Packet {
    let source: IpAddr = source.parse().unwrap();
    let destination = if source.is_ipv6() { "fd00::2" } else { "10.0.0.2" }.parse().unwrap();
    Packet { source, destination, port: 5672, interface: "eth0".to_owned() }
}

fn judge(fw: &Firewall, source: &str) -> Verdict {
    match fw.verdict(&packet(source)) {
        Fact::Known(verdict) => verdict,
        Fact::Unknown(why) => panic!("unknown: {why}"),
    }
}

fn network(fw: &Firewall, from: &str) -> Verdict {
    fw.verdict_for_network(from, "10.0.0.2".parse().unwrap(), 5672, "eth0").known().unwrap().clone()
}

#[test]
fn an_accept_behind_a_reject_is_shadowed() {
    let fw = legacy(
        "-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT\n-A INPUT -j REJECT --reject-with icmp-host-prohibited\n-A INPUT -p tcp -m tcp --dport 5672 -j ACCEPT\n",
    );
    let v = judge(&fw, "10.0.0.1");
    assert_eq!((v.verdict.as_str(), v.sees.as_str()), ("reject", "unreachable"));
    let at = v.decided_by.unwrap();
    assert_eq!((at.table.as_str(), at.chain.as_str(), at.handle_or_line), ("ip filter", "INPUT", Some(2)));
    assert_eq!(v.shadowed_accept.unwrap().handle_or_line, Some(3));
}

#[test]
fn a_limit_splits_and_a_log_does_not() {
    let limit = "-A INPUT -p tcp -m tcp --dport 5672 -m limit --limit 3/min";
    let v = judge(&legacy(&format!("{limit} -j DROP\n")), "10.0.0.1");
    assert_eq!(v.verdict, "depends");
    assert!(v.depends_on[0].contains("limit: 3/minute"), "{:?}", v.depends_on);
    assert_eq!(judge(&legacy(&format!("{limit} -j LOG\n")), "10.0.0.1").verdict, "accept");
    // A certain No beats an undecided condition.
    assert_eq!(judge(&legacy("-A INPUT -p icmp -m limit --limit 1/sec -j DROP\n"), "10.0.0.1").verdict, "accept");
    assert_eq!(judge(&legacy(&format!("{limit} -j DROP\n-A INPUT -j DROP\n")), "10.0.0.1").verdict, "drop");
}

#[test]
fn later_packets_are_judged_too() {
    let v = judge(&legacy("-A INPUT -p tcp -m state --state NEW -j ACCEPT\n-A INPUT -j DROP\n"), "10.0.0.1");
    assert_eq!((v.verdict.as_str(), v.sees.as_str(), v.packet.as_str()), ("drop", "hangs", "established"));
    let v = judge(&legacy("-A OUTPUT -p tcp -m tcp --sport 5672 -j DROP\n"), "10.0.0.1");
    assert_eq!((v.verdict.as_str(), v.sees.as_str(), v.packet.as_str()), ("drop", "timeout", "reply"));
    let v =
        judge(&legacy("-A INPUT -p tcp -m tcp --dport 5672 -j REJECT --reject-with tcp-reset\n-A OUTPUT -j DROP\n"), "10.0.0.1");
    assert_eq!((v.verdict.as_str(), v.sees.as_str()), ("reject", "timeout"));
}

#[test]
fn parts_of_a_network_are_told_apart() {
    let fw = legacy("-A INPUT -s 10.0.0.128/25 -p tcp -m tcp --dport 5672 -j DROP\n");
    let v = network(&fw, "10.0.0.0/24");
    assert_eq!(v.verdict, "depends");
    assert_eq!(v.depends_on[0], "parts of 10.0.0.0/24 are treated differently: 10.0.0.1: accept, 10.0.0.128: drop");
    assert_eq!(network(&fw, "10.0.0.128/26").verdict, "drop");
    assert_eq!(network(&fw, "10.0.0.7").verdict, "accept");
    // Nobody is 127.0.0.1 on the wire.
    let spoofed = legacy("-A INPUT -s 127.0.0.0/8 ! -i lo -j DROP\n-A INPUT -s 0.0.0.0/8 -j DROP\n");
    assert_eq!(network(&spoofed, "any").verdict, "accept");
    assert_eq!(network(&spoofed, "127.0.0.1").verdict, "drop");
    assert!(fw.verdict_for_network("fd00::/64", "10.0.0.2".parse().unwrap(), 5672, "eth0").known().is_none());
}

#[test]
fn a_translation_is_followed() {
    let text = "*nat\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -p tcp -m tcp --dport 5672 -j REDIRECT --to-ports 5673\nCOMMIT\n";
    let fw = firewall(assemble(Raw { legacy: [Some(Ok(text.into())), None], ..nothing() }));
    let v = judge(&fw, "10.0.0.1");
    assert_eq!((v.verdict.as_str(), v.delivered_to.as_deref(), v.forwarded), ("accept", Some("10.0.0.2:5673"), false));
    assert!(v.translated_by.unwrap().rule.contains("--to-ports 5673"));
}

#[test]
fn what_cannot_be_read_is_unknown() {
    let unknown = |raw: Raw| firewall(assemble(raw)).verdict(&packet("10.0.0.1")).why().map(str::to_owned);
    let denied = || -> Got<Vec<u8>> { Err(Miss::Denied { what: "nf_tables".to_owned() }) };
    let nf_tables = |answer| unknown(Raw { nf_tables: answer, ..nothing() });
    assert!(nf_tables(denied()).unwrap().contains("permission denied"));
    assert!(nf_tables(Ok(Vec::new())).unwrap().contains("cut off"));
    let whole = dump("accept", "table inet t {\nchain in {\ntype filter hook input priority 0\naccept\n}\n}\n");
    assert_eq!(nf_tables(Ok(whole.clone())), None);
    for length in [1, 16, 20, whole.len() / 2, whole.len() - 4] {
        assert!(nf_tables(Ok(whole[..length].to_vec())).is_some(), "{length}");
    }
    assert!(unknown(Raw { legacy: [Some(denied()), None], ..nothing() }).is_some());
    assert!(unknown(Raw { legacy: [Some(Ok(b"*filter\n:INPUT DROP [0:0]\n".to_vec())), None], ..nothing() }).is_some());
    // The IPv6 half does not spoil IPv4, a kernel without nf_tables needs no answer, and unread ipsets matter only to rules that
    // name some.
    assert_eq!(unknown(Raw { legacy: [None, Some(denied())], ..nothing() }), None);
    assert_eq!(unknown(Raw { ip_sets: denied(), ..nothing() }), None);
}

#[test]
fn flags_and_rejects() {
    let fw = native("flags", "", "tcp flags & (fin|syn|rst|ack) != syn drop\ntcp dport 5672 accept");
    let v = judge(&fw, "10.0.0.1");
    // The SYN passes; the client's next packet is dropped by the same rule.
    assert_eq!((v.verdict.as_str(), v.packet.as_str()), ("drop", "established"));
    let fw = native("reject", "", "tcp dport 5672 reject");
    let v = judge(&fw, "10.0.0.1");
    assert_eq!((v.reject_with.as_deref(), v.sees.as_str()), (Some("icmp-port-unreachable"), "refused"));
    assert_eq!(judge(&fw, "fd00::1").reject_with.as_deref(), Some("icmp6-port-unreachable"));
    let fw = native("reject-v6", "", "reject with icmpv6 type admin-prohibited\nreject with icmp type host-prohibited");
    assert_eq!(judge(&fw, "fd00::1").reject_with.as_deref(), Some("icmp6-adm-prohibited"));
    assert_eq!(judge(&fw, "10.0.0.1").reject_with.as_deref(), Some("icmp-host-prohibited"));
}

#[test]
fn sets_maps_and_what_is_not_known() {
    let set = "set s { type ipv4_addr . inet_service; flags interval; elements = { 10.0.0.0/30 . 5671-5672 } }";
    let rule = "ip saddr . tcp dport @s accept";
    let fw = native("concatenation", set, rule);
    assert_eq!((judge(&fw, "10.0.0.1").verdict, judge(&fw, "10.0.0.5").verdict), ("accept".to_owned(), "drop".to_owned()));
    assert_eq!(judge(&fw, "10.0.0.5").decided_by.unwrap().rule, "policy drop");
    assert_eq!(network(&fw, "10.0.0.0/24").verdict, "depends");
    // A miss ends the rule, a hit with continue goes on in it.
    let vmap = |name: &str, port: u16, verdict: &str| {
        let rule = format!("tcp dport vmap {{ {port} : {verdict} }} accept");
        judge(&native(name, "", &rule), "10.0.0.1").verdict
    };
    assert_eq!(vmap("vmap-miss", 22, "accept"), "drop");
    assert_eq!(vmap("vmap-continue", 5672, "continue"), "accept");
    assert_eq!(vmap("vmap-drop", 5672, "drop"), "drop");
    // What a packet adds is there for it, and for the rules behind, but not for those before.
    let set = "set s { type ipv4_addr . inet_service; flags dynamic; }";
    let add = "add @s { ip saddr . tcp dport }";
    assert_eq!(judge(&native("added-later", set, &format!("{rule}\n{add}")), "10.0.0.5").verdict, "drop");
    assert_ne!(judge(&native("added-before", set, &format!("{add}\n{rule}")), "10.0.0.5").verdict, "drop");
}

#[test]
fn an_expression_of_a_newer_kernel_makes_its_rule_undecided() {
    let rules = "tcp dport 22 counter accept\ntcp dport 5672 counter accept";
    let whole = dump("strange", &format!("table inet t {{\nchain in {{\ntype filter hook input priority 0\n{rules}\n}}\n}}\n"));
    let at = |from: usize| from + whole[from..].windows(8).position(|w| w == b"counter\0").unwrap();
    let (first, second) = (at(0), at(at(0) + 1));
    let judged = |place: usize, name: &[u8; 8]| {
        let mut bytes = whole.clone();
        bytes[place..place + 8].copy_from_slice(name);
        judge(&of_dump(bytes), "10.0.0.1")
    };
    let v = judged(second, b"warping\0");
    assert_eq!(v.verdict, "depends");
    assert!(v.depends_on.iter().any(|on| on.contains("warping")), "{:?}", v.depends_on);
    // A certain No beats it.
    assert_eq!(judged(first, b"warping\0").verdict, "accept");
}

#[test]
fn tables_of_iptables_are_told_from_others_by_what_stands_in_them() {
    let multiport = "-A INPUT -p tcp -m multiport --dports 80,5671:5672 -j DROP\n";
    let save = format!("*filter\n:INPUT ACCEPT [0:0]\n{multiport}COMMIT\n");
    let fw = of_dump(iptables_dump("multiport", &save));
    assert_eq!(fw.model.tables[0].engine, model::Engine::IptablesNft);
    let v = judge(&fw, "10.0.0.1");
    assert_eq!((v.verdict.as_str(), v.decided_by.unwrap().handle_or_line), ("drop", Some(1)));
    // iptables-nft-save leaves the native set out of the line; the kernel does not.
    let mixed = "table ip filter {\nchain INPUT {\ntype filter hook input priority 0\ntcp dport { 80, 443 } drop\n}\n}\n";
    let fw = of_dump(dump("mixed", mixed));
    assert_eq!(fw.model.tables[0].engine, model::Engine::Nftables);
    assert_eq!(judge(&fw, "10.0.0.1").verdict, "accept");
}

#[test]
fn ipsets_by_kind() {
    use model::IpSetPart::{Addresses, Interface, Ports, Set};
    let input = "create ip hash:ip family inet timeout 600
create masked hash:ip family inet netmask 24
create net hash:net family inet
create net6 hash:net family inet6
create ipport hash:ip,port family inet
create ipportnet hash:ip,port,net family inet
create netiface hash:net,iface family inet
create ports bitmap:port range 0-65535
create bits bitmap:ip range 10.0.0.0/24
create list list:set
add ip 10.0.0.1
add masked 10.1.2.3
add net 10.0.0.0/8
add net 10.7.0.0/16 nomatch
add net6 fd00::/64
add ipport 10.0.0.1,tcp:5671-5672
add ipportnet 10.0.0.1,udp:53,192.168.0.0/16
add netiface 10.0.0.0/8,eth0
add ports 5672
add bits 10.0.0.9
add list ip
add list net
";
    let bytes = recorded("ip-sets", Load::IpSets { input: input.to_owned() });
    let read = super::ip_sets::read(&bytes).unwrap();
    let parts = |name: &str| read.sets[name].elements.iter().map(|e| e.parts.clone()).collect::<Vec<_>>();
    let v4 = |text: &str| {
        let (_, first, last) = model::span(text).unwrap();
        Addresses(first, last)
    };
    assert_eq!(parts("ip"), [[v4("10.0.0.1")]]);
    assert_eq!(parts("masked"), [[v4("10.1.2.0/24")]]);
    let mut nets: Vec<_> = read.sets["net"].elements.iter().map(|e| (e.nomatch, e.parts[0].clone())).collect();
    nets.sort_by_key(|(nomatch, _)| *nomatch);
    assert_eq!(nets, [(false, v4("10.0.0.0/8")), (true, v4("10.7.0.0/16"))]);
    assert_eq!((parts("net6"), read.sets["net6"].v6), (vec![vec![v4("fd00::/64")]], true));
    let mut ports = parts("ipport");
    ports.sort_by_key(|p| if let Ports(_, first, _) = p[1] { first } else { 0 });
    assert_eq!(ports, [5671, 5672].map(|p| [v4("10.0.0.1"), Ports(6, p, p)]));
    assert_eq!(parts("ipportnet"), [[v4("10.0.0.1"), Ports(17, 53, 53), v4("192.168.0.0/16")]]);
    assert_eq!(parts("netiface"), [[v4("10.0.0.0/8"), Interface("eth0".to_owned())]]);
    assert_eq!(parts("ports"), [[Ports(0, 5672, 5672)]]);
    assert_eq!(parts("bits"), [[v4("10.0.0.9")]]);
    assert_eq!(parts("list"), [[Set("ip".to_owned())], [Set("net".to_owned())]]);
    let doubtful: Vec<&str> = read.sets.iter().filter(|(_, s)| s.doubt.is_some()).map(|(name, _)| name.as_str()).collect();
    assert!(doubtful.is_empty(), "{doubtful:?}");
    assert_eq!((read.names.len(), read.names.values().any(|n| n == "netiface")), (10, true));
}

#[test]
fn no_bytes_make_the_readers_panic() {
    // Other tests are writing them.
    if std::env::var_os("UPDATE").is_some() {
        return;
    }
    let dir = FilePath::new(env!("CARGO_MANIFEST_DIR")).join("src/facts/firewall/testdata");
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        // The dump of routes has a reader of its own; extensions of three releases are large, and read elsewhere too.
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if !name.ends_with(".nl") || name == "routing.nl" || name.starts_with("xt-") {
            continue;
        }
        let bytes = std::fs::read(&path).unwrap();
        let whole = netlink::tables(&bytes, &|_| None).is_ok() || super::ip_sets::read(&bytes).is_ok();
        assert!(whole, "{}", path.display());
        // Not all places of a long one: that takes minutes, and cargo-fuzz looks further anyway.
        for at in (0..bytes.len()).step_by(1 + bytes.len() / 400) {
            assert!(netlink::tables(&bytes[..at], &|_| None).is_err());
            let _ = super::ip_sets::read(&bytes[..at]);
            for change in [0xff, 0x01, 0x80] {
                let mut changed = bytes.clone();
                changed[at] ^= change;
                let _ = (netlink::tables(&changed, &|_| None), super::ip_sets::read(&changed));
            }
        }
    }
}

#[test]
fn hooks_and_flags_of_tables() {
    let ruleset = "
        table inet asleep { flags dormant; chain in { type filter hook input priority 0; policy drop; }; }
        table arp filter { chain in { type filter hook input priority 0; policy drop; }; }
        table bridge filter { chain in { type filter hook input priority 0; policy drop; }; }
        table netdev dev { chain lo { type filter hook ingress device lo priority 5; drop; }; }
        table netdev out { chain lo { type filter hook egress device lo priority 5; drop; }; }
        table ip a { chain one { type filter hook input priority 7; accept; }; chain two { type nat hook prerouting priority dstnat; }; }
        ";
    let tables = of_dump(dump("hooks", ruleset)).model.tables;
    let titles: Vec<String> = tables.iter().map(model::Table::title).collect();
    assert_eq!(titles, ["inet asleep", "netdev dev", "netdev out", "ip a"]);
    assert!(tables[0].chains[0].base.is_none() && tables[0].handle > 0);
    let ingress = tables[1].chains[0].base.as_ref().unwrap();
    assert_eq!((ingress.hook, ingress.priority, ingress.devices.as_slice()), (model::Hook::Ingress, 5, &["lo".to_owned()][..]));
    let egress = tables[2].chains[0].base.as_ref().unwrap();
    assert!(egress.hook == model::Hook::Postrouting && egress.priority > i64::from(i32::MAX));
    let [one, two] = [0, 1].map(|c| tables[3].chains[c].base.as_ref().unwrap());
    assert_eq!((one.priority, one.accept, one.nat), (7, true, false));
    assert_eq!((two.priority, two.hook, two.nat), (-100, model::Hook::Prerouting, true));
    assert!(one.handle < two.handle);
}

/// A host of some files and command outputs.
#[derive(Default)]
struct Files {
    files: BTreeMap<&'static str, String>,
    outputs: BTreeMap<Command, Output>,
    nf_tables: Option<Got<Vec<u8>>>,
}

impl Files {
    fn nf_tables(mut self, dump: Got<Vec<u8>>) -> Files {
        self.nf_tables = Some(dump);
        self
    }
    fn file(mut self, path: &'static str, text: &str) -> Files {
        self.files.insert(path, text.to_owned());
        self
    }
}

fn not_there<T>(what: impl std::fmt::Debug) -> Got<T> {
    Err(Miss::Absent { what: format!("{what:?}") })
}

impl Host for Files {
    fn identity(&self) -> Identity {
        Identity { uid: 0, now: 0, offline: false, nodename: None }
    }
    fn read(&self, path: &FilePath, _: u64) -> Got<Vec<u8>> {
        self.files.get(path.to_str().unwrap()).map_or_else(|| not_there(path), |t| Ok(t.clone().into_bytes()))
    }
    fn stat(&self, path: &FilePath, _: bool) -> Got<Meta> {
        self.read(path, 0).map(|_| Meta { kind: Kind::Link, mode: 0o777, uid: 0, gid: 0, size: 0, mtime: 0 })
    }
    fn run(&self, command: &Command) -> Got<Output> {
        self.outputs.get(command).cloned().map_or_else(|| not_there(command), Ok)
    }
    fn nf_tables(&self) -> Got<Vec<u8>> {
        self.nf_tables.clone().unwrap_or_else(|| Err(Miss::failed("nf_tables", "the test gave none")))
    }
    fn addresses(&self) -> Got<Vec<InterfaceAddress>> {
        Ok(Vec::new())
    }
    fn tail(&self, path: &FilePath, _: u64) -> Got<Tail> {
        not_there(path)
    }
    fn list(&self, dir: &FilePath) -> Got<Vec<String>> {
        not_there(dir)
    }
    fn read_link(&self, path: &FilePath) -> Got<PathBuf> {
        not_there(path)
    }
    fn space(&self, path: &FilePath) -> Got<Space> {
        not_there(path)
    }
    fn call(&self, _: &rpc::Target, _: &rpc::Call) -> Got<eetf::Term> {
        not_there("rpc")
    }
    fn amqp(&self, _: &amqp::Probe) -> Got<amqp::Answer> {
        not_there("amqp")
    }
}

#[test]
fn managers_and_engines() {
    let collected = |host: &Files| collect(host).known().unwrap().clone();
    let save = "*filter\n:INPUT DROP [0:0]\n:ufw-user-input - [0:0]\nCOMMIT\n";
    let iptables = || Files::default().nf_tables(Ok(iptables_dump("ufw", save)));
    let fw = collected(&iptables().file("/etc/ufw/ufw.conf", "# x\nENABLED=yes\nLOGLEVEL=low\n"));
    assert_eq!((fw.manager.as_str(), fw.ufw_enabled, fw.ufw_loaded), ("ufw", true, true));
    assert_eq!(fw.engines, ["iptables-nft"]);
    assert_eq!(judge(&fw, "10.0.0.1").decided_by.unwrap().rule, "policy DROP");
    assert_eq!(collected(&iptables()).manager, "iptables");
    let persistent = iptables().file("/etc/systemd/system/multi-user.target.wants/netfilter-persistent.service", "");
    assert_eq!(collected(&persistent).manager, "netfilter-persistent");
    let native = "table inet filter {\nchain INPUT {\ntype filter hook input priority 0; policy drop;\n}\n}\n";
    let native = Files::default()
        .nf_tables(Ok(dump("inet-filter", native)))
        .file("/etc/systemd/system/sysinit.target.wants/nftables.service", "");
    assert_eq!(collected(&native).manager, "nftables-service");
}

#[test]
fn no_answer_is_no_firewall_only_where_the_kernel_has_none() {
    let verdict = |host: &Files| collect(host).known().unwrap().verdict(&packet("10.0.0.1"));
    assert!(verdict(&Files::default()).why().is_some());
    let without = || Files::default().nf_tables(absent());
    assert_eq!(verdict(&without()).known().unwrap().verdict, "accept");
    // Legacy tables are listed, and their tool is not there.
    assert!(verdict(&without().file("/proc/net/ip_tables_names", "filter\n")).why().is_some());
    let denied = Files::default().nf_tables(Err(Miss::Denied { what: "nf_tables needs CAP_NET_ADMIN".to_owned() }));
    assert!(verdict(&denied).why().unwrap().contains("CAP_NET_ADMIN"));
}

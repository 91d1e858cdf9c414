//! Readers of bytes that come from a host, as tests/fuzz sees them. Not an interface for anybody else.

use crate::facts::conf::advanced;
use crate::facts::firewall::model::{Base, Chain, Engine, Family, Hook, Model, Rule, Step, Table};
use crate::facts::firewall::routing::Routing;
use crate::facts::firewall::{self, Firewall, Packet, display, ip_sets, iptables, netlink, ufw, xt};
use crate::facts::{Fact, env, unit};
use crate::formats::env_conf::Shell;
use crate::formats::erlang::Reader;
use crate::formats::{broker_log, env_conf, erlang, hosts, iptables_save, rabbitmq_conf, schema};
use crate::host::capture::Replay;
use std::net::IpAddr;

/// A dump of nf_tables is decoded, and packets go through what it holds.
pub fn nf_tables(dump: &[u8]) {
    if let Ok(tables) = netlink::tables(dump, &|_| Some("set".to_owned())) {
        judge(Model { tables, ..Model::default() });
    }
}

/// A dump of links, addresses, routes and routing rules.
pub fn routing(dump: &[u8]) {
    if let Ok(routing) = Routing::decode(dump) {
        routing.boundaries(false, &mut |_, _| {});
        judge(Model { routing: Some(routing), ..Model::default() });
    }
}

/// The binary structure of an extension of iptables: its number in the list below, revision, IPv6 or not, structure.
pub fn extension(bytes: &[u8]) {
    let [name, revision, v6, info @ ..] = bytes else { return };
    let name = EXTENSIONS[usize::from(*name) % EXTENSIONS.len()];
    let v6 = v6 & 1 == 1;
    let extension = xt::Extension { name, revision: (revision % 5).into(), info, v6 };
    let names = |index: u16| (index < 4).then(|| format!("set{index}"));
    let mut steps = xt::matches(&extension, &names);
    steps.extend(xt::target(&extension, &names));
    for hook in [Hook::Prerouting, Hook::Input, Hook::Output] {
        judge(Model { tables: vec![table(v6, hook, steps.clone())], ..Model::default() });
    }
}

const EXTENSIONS: [&str; 35] = [
    "comment",
    "conntrack",
    "state",
    "tcp",
    "udp",
    "multiport",
    "addrtype",
    "set",
    "iprange",
    "mark",
    "connmark",
    "mac",
    "pkttype",
    "limit",
    "hashlimit",
    "recent",
    "physdev",
    "icmp",
    "icmp6",
    "length",
    "ttl",
    "hl",
    "dscp",
    "tos",
    "owner",
    "rpfilter",
    "REJECT",
    "MARK",
    "CONNMARK",
    "CT",
    "DNAT",
    "REDIRECT",
    "NETMAP",
    "NFQUEUE",
    "SET",
];

fn table(v6: bool, hook: Hook, steps: Vec<Step>) -> Table {
    let rule = Rule { text: String::new(), number: 1, steps, packets: None };
    let base = Base { hook, priority: 0, accept: true, nat: false, handle: 1, devices: Vec::new() };
    Table {
        engine: Engine::IptablesNft,
        family: if v6 { Family::Ip6 } else { Family::Ip },
        name: "filter".to_owned(),
        handle: 1,
        chains: vec![Chain { name: "chain".to_owned(), base: Some(base), rules: vec![rule] }],
        doubt: None,
    }
}

/// What iptables-save prints.
pub fn iptables_save(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(save) = iptables_save::parse(&text) {
        for v6 in [false, true] {
            judge(Model { tables: iptables::tables(&save, Engine::IptablesLegacy, v6), ..Model::default() });
        }
    }
}

/// A dump of ipsets.
pub fn ip_sets(dump: &[u8]) {
    let _ = ip_sets::read(dump);
}

/// What `nft -a list ruleset` and iptables-nft-save print, put to the rules of one small table.
pub fn listing(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let mut tables = vec![table(false, Hook::Input, Vec::new())];
    display::label(&mut tables, Some(&text), [Some(&text), Some(&text)]);
    tables[0].engine = Engine::Nftables;
    tables[0].chains[0].rules[0].text.clear();
    display::label(&mut tables, Some(&text), [None, None]);
}

/// Rules in ufw's own files.
pub fn ufw(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let _ = (ufw::parse(&text, false), ufw::parse(&text, true));
}

/// One file of a capture (its number in the list below, content), with the rest of the demo's: all of the packet filter is read
/// from it.
pub fn capture(bytes: &[u8]) {
    let Some((number, content)) = bytes.split_first() else { return };
    let files = [
        "manifest.json",
        "commands.json",
        "dumps.json",
        "reads.json",
        "lists.json",
        "links.json",
        "addresses.json",
        "netlink/nf_tables.nl",
        "netlink/ip_sets.nl",
        "netlink/routing.nl",
        "files/etc/ufw/user.rules",
    ];
    let name = files[usize::from(*number) % files.len()];
    let manifest = br#"{"schema": "rmq-audit/capture/1", "tool": "fuzz", "recorded": "2026-01-01T00:00:00Z",
        "identity": {"uid": 0, "now": 1767225600, "offline": false, "nodename": "host"}}"#;
    let all = [("manifest.json".to_owned(), manifest.to_vec()), (name.to_owned(), content.to_vec())];
    let Ok(replay) = Replay::from_files(all) else { return };
    if let Fact::Known(firewall) = firewall::collect(&replay) {
        judge(firewall.model);
    }
}

/// rabbitmq.conf in all its dialects, read and changed: an edit that is refused changes nothing, one that is made can be read back.
pub fn rabbitmq_conf(bytes: &[u8]) {
    for (major, minor) in [(2, 4), (3, 0), (3, 4), (3, 9)] {
        let dialect = rabbitmq_conf::Dialect::for_cuttlefish(major, minor);
        let document = rabbitmq_conf::Document::parse(bytes, dialect);
        assert_eq!(document.to_bytes(), bytes, "every byte is kept");
        let _ = (document.entries().count(), document.includes(), document.errors());
        let edits: [&dyn Fn(&mut rabbitmq_conf::Document) -> bool; 5] = [
            &|d| d.set("a.b", "c # d").is_ok(),
            &|d| d.unset("a.b").is_ok(),
            &|d| d.set_at(1, "'x").is_ok(),
            &|d| d.rename_key(2, "c.d").is_ok(),
            &|d| d.comment_out_line(1, "note").is_ok(),
        ];
        for edit in edits {
            let mut changed = document.clone();
            if edit(&mut changed) {
                assert_eq!(rabbitmq_conf::Document::parse(&changed.to_bytes(), dialect), changed, "it reads as it is written");
            } else {
                assert_eq!(changed.to_bytes(), bytes, "a refused edit changes nothing");
            }
        }
    }
}

/// A schema, and behind a NUL byte lines of `key = value` that are put to it.
pub fn schema(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let (schemas, settings) = text.split_once('\0').unwrap_or((&text, "a.b = c"));
    let (whole, partial) = schemas.split_once("%%%\n").unwrap_or((schemas, ""));
    let source = |name, text| schema::Source { app: "app", name, text };
    let schema = schema::Schema::parse(&[source("app.schema", whole), source("part.partial", partial)], (3, 9));
    let _ = schema.not_understood().count();
    let settings: Vec<(&str, &str)> = settings.lines().take(20).filter_map(|l| l.split_once(" = ")).collect();
    for (key, value) in settings {
        let words = schema::words(key);
        let _ = (schema.nearest(&words), schema.renamed(&words));
        let schema::Found::Mapping(mapping) = schema.find(&words) else { continue };
        let _ = schema.laws(&mapping.path);
        if let schema::value::Reading::Good(typed) = schema.read(mapping, value) {
            for name in &mapping.validators {
                let _ = (schema.validate(name, &typed), schema.validator_message(name));
            }
        }
    }
}

/// Erlang terms, by every reader.
pub fn erlang(bytes: &[u8]) {
    for reader in [Reader::Consult, Reader::Expression, Reader::Sequence] {
        for otp in [None, Some(25), Some(27), Some(29)] {
            let dialect = erlang::Dialect { reader, otp };
            if let Ok(terms) = erlang::read(bytes, dialect) {
                terms.iter().for_each(|term| drop(term.value.to_string()));
            }
            let _ = advanced::parse(bytes, dialect);
        }
    }
    let text = String::from_utf8_lossy(bytes);
    let _ = erlang::forms(&text);
    erlang::tokens(&text).iter().for_each(|token| drop(erlang::unquote(token)));
}

/// rabbitmq-env.conf, with each shell, merged with a unit's environment, and changed.
pub fn env_conf(bytes: &[u8]) {
    let unit = |name: &str| (name.to_owned(), env::Var { value: Fact::Known("1".to_owned()), at: None });
    let unit = ["RABBITMQ_NODE_PORT", "LOG", "RABBITMQ_PID_FILE"].map(unit).into();
    for shell in [Shell::Dash, Shell::Bash, Shell::Other] {
        let document = env_conf::Document::parse(bytes, shell);
        assert_eq!(document.to_bytes(), bytes, "every byte is kept");
        let vars = env::effective(&unit, Some(&document), "file", shell == Shell::Bash);
        let _ = env::problems(Some(&document), "file", vars.known());
        let mut without = document.clone();
        if without.unset_var("NODE_PORT") == Ok(true) {
            assert!(!without.unset_var("NODE_PORT").unwrap_or(false), "nothing is left to take out");
        }
        let mut commented = document.clone();
        if commented.comment_out(1, "note").is_err() {
            assert_eq!(commented.to_bytes(), bytes, "a refused edit changes nothing");
        }
    }
}

/// The broker's log, as text and as journalctl gives it.
pub fn broker_log(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let events = broker_log::scan(&text);
    let _ = (broker_log::last_boot(&events), broker_log::strike_out(&text), broker_log::last_naive_time(&text));
    let _ = broker_log::scan(&broker_log::from_journal(bytes));
}

/// /etc/hosts, read and changed.
pub fn hosts(bytes: &[u8]) {
    let document = hosts::Document::parse(bytes);
    assert_eq!(document.to_bytes(), bytes, "every byte is kept");
    let address: IpAddr = [10, 0, 0, 1].into();
    let mut added = document.clone();
    if added.add(address, "a").is_ok() {
        assert!(added.addresses("a").contains(&address), "what is added is there");
        if added.remove("a").is_ok() {
            assert!(added.addresses("a").is_empty(), "what is removed is gone");
        }
    }
}

/// What `systemctl show` prints of the broker's unit.
pub fn unit(bytes: &[u8]) {
    let _ = unit::parse(&String::from_utf8_lossy(bytes), 0);
}

/// Some packets through whatever was read.
fn judge(model: Model) {
    let firewall = Firewall::of_model(model);
    let hosts: [([u8; 4], [u8; 4], &str); 2] = [([10, 0, 0, 1], [10, 0, 0, 2], "eth0"), ([127, 0, 0, 1], [127, 0, 0, 1], "lo")];
    for (source, destination, interface) in hosts {
        for v6 in [false, true] {
            let address = |octets: [u8; 4]| -> IpAddr {
                match (v6, octets == [127, 0, 0, 1]) {
                    (false, _) => octets.into(),
                    (true, true) => std::net::Ipv6Addr::LOCALHOST.into(),
                    (true, false) => std::net::Ipv4Addr::from(octets).to_ipv6_mapped().into(),
                }
            };
            let (source, destination) = (address(source), address(destination));
            let _ = firewall.verdict(&Packet { source, destination, port: 5672, interface: interface.to_owned() });
        }
    }
    let destination: IpAddr = [10, 0, 0, 2].into();
    let _ = firewall.verdict_for_network("10.0.0.0/24", destination, 5672, "eth0");
}

#[cfg(test)]
mod tests {
    /// What the kernel refuses to load may still stand in a file: each chain asks the other twice, and nothing decides.
    #[test]
    fn chains_that_jump_in_circles_come_to_an_end() {
        let mut text = "*filter\n:INPUT DROP [0:0]\n:own - [0:0]\n-A INPUT -p tcp -m limit --limit 3/min -j own\n".to_owned();
        for i in 1..5 {
            text += &format!(
                "-A own -m recent --name r{i} --rcheck -j MARK --set-xmark {i}/0xff\n-A own -m recent --name s{i} --rcheck -j own\n"
            );
        }
        super::iptables_save((text + "COMMIT\n").as_bytes());
    }
}

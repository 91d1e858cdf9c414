use super::*;
use crate::facts::Fact;
use crate::facts::firewall::model::{Base, Family, Model};
use crate::facts::firewall::ufw;
use crate::formats::iptables_save;
use std::collections::BTreeMap;

fn firewall(tables: Vec<Table>, manager: &str) -> Firewall {
    let routing = Some(crate::facts::firewall::routing::Routing::of_hosts(&["10.0.0.2", "fd00::2"]));
    let model = Model { tables, routing, ..Model::default() };
    Firewall {
        manager: manager.to_owned(),
        ufw_enabled: manager == "ufw",
        ufw_loaded: true,
        firewalld_running: manager == "firewalld",
        engines: Vec::new(),
        ufw_rules: Fact::Known(Vec::new()),
        owned: crate::facts::firewall::owners::Owners::blank("not looked for"),
        model,
    }
}

fn saved(rules: &str) -> String {
    format!("*filter\n:INPUT ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n{rules}COMMIT\n")
}

fn legacy(rules: &str, manager: &str) -> Firewall {
    let save = iptables_save::parse(&saved(rules)).unwrap();
    firewall(crate::facts::firewall::iptables_tables(&save, Engine::IptablesLegacy, false), manager)
}

/// Rules that drop the asked port, by tests of iptables' kind: what the plan sees of them is the same.
fn native(table: &str, chain: &str, dropping: &[&str]) -> Firewall {
    let is = |key, value: u128| Step::Test(Test::is(key, Part::Span(value, value), false));
    let rule = |(text, number): (&&str, i64)| Rule {
        text: (*text).to_owned(),
        number,
        steps: vec![is(Key::Protocol, 6), is(Key::DestinationPort, 5672), is(Key::CtState, 8), Step::Go(Target::Drop)],
        packets: None,
    };
    let rules = dropping.iter().zip(10..).map(rule).collect();
    let base = Base { hook: Hook::Input, priority: 0, accept: true, nat: false, handle: 1, devices: Vec::new() };
    let chain = Chain { name: chain.to_owned(), base: Some(base), rules };
    let allow = Chain { name: format!("{}_allow", chain.name), base: None, rules: Vec::new() };
    let table = Table {
        engine: Engine::Nftables,
        family: Family::Inet,
        name: table.to_owned(),
        handle: 1,
        chains: vec![chain, allow],
        doubt: None,
    };
    firewall(vec![table], "nftables")
}

fn plan_with(fw: &Firewall, from: &str, files: &[(&str, &str)]) -> Result<OpenPort, String> {
    let files: BTreeMap<&str, &str> = files.iter().copied().collect();
    let read = |path: &Path| Ok(path.to_str().and_then(|path| files.get(path)).map(|text| (*text).to_owned()));
    plan_open_port(fw, from, None, 5672, "eth0", &read)
}

fn plan(fw: &Firewall, from: &str) -> Result<OpenPort, String> {
    plan_with(fw, from, &[])
}

fn commands(plan: &OpenPort) -> Vec<(String, String)> {
    let each = plan.deeds.iter().filter_map(|deed| match deed {
        Deed::Command { run, undo } => Some((run.join(" "), undo.join(" "))),
        Deed::NftRule { run, table, chain, comment } => Some((run.join(" "), format!("{table} {chain} {comment}"))),
        Deed::File { .. } => None,
    });
    each.collect()
}

fn files(plan: &OpenPort) -> Vec<(String, String)> {
    let each = plan.deeds.iter().filter_map(|deed| match deed {
        Deed::File { path, text, .. } => Some((path.display().to_string(), text.clone())),
        _ => None,
    });
    each.collect()
}

const RULES: &str = "-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT\n-A INPUT -j REJECT\n";
const LINE: &str = "-s 10.0.0.0/24 -p tcp -m tcp --dport 5672 -m comment --comment rmq-audit -j ACCEPT";

#[test]
fn iptables_before_the_rule_that_refuses_and_in_the_file() {
    let expected = (format!("iptables-legacy -w 5 -I INPUT 2 {LINE}"), format!("iptables-legacy -w 5 -D INPUT {LINE}"));
    let open = plan(&legacy(RULES, "iptables"), "10.0.0.0/24").unwrap();
    assert_eq!(commands(&open), std::slice::from_ref(&expected));
    assert!(!open.persistent && open.notes[0].contains("after a reboot"));
    assert!(open.proof.contains("nothing else"), "{}", open.proof);

    let fw = legacy(RULES, "netfilter-persistent");
    let file = format!("# by hand\n{}", saved(RULES));
    let open = plan_with(&fw, "10.0.0.0/24", &[("/etc/iptables/rules.v4", &file)]).unwrap();
    assert_eq!(commands(&open), std::slice::from_ref(&expected));
    let edited = file.replace("-A INPUT -j REJECT", &format!("-A INPUT {LINE}\n-A INPUT -j REJECT"));
    assert_eq!(files(&open), [("/etc/iptables/rules.v4".to_owned(), edited)]);
    assert!(open.persistent);
    // A file that differs is not guessed at.
    let open = plan_with(&fw, "10.0.0.0/24", &[("/etc/iptables/rules.v4", &saved(""))]).unwrap();
    assert!(!open.persistent && files(&open).is_empty() && open.notes[0].contains("does not hold"), "{:?}", open.notes);
}

#[test]
fn replies_and_later_packets() {
    let mut fw = legacy("-A OUTPUT -o lo -j ACCEPT\n-A OUTPUT -p tcp --sport 22 -j ACCEPT\n", "iptables");
    let output = fw.model.tables[0].chain("OUTPUT").unwrap();
    fw.model.tables[0].chains[output].base.as_mut().unwrap().accept = false;
    let open = plan(&fw, "10.0.0.0/24").unwrap();
    let rule =
        "-d 10.0.0.0/24 -p tcp -m tcp --sport 5672 -m conntrack --ctstate ESTABLISHED -m comment --comment rmq-audit -j ACCEPT";
    assert_eq!(commands(&open)[0].0, format!("iptables-legacy -w 5 -A OUTPUT {rule}"));
}

#[test]
fn a_ban_is_not_passed_but_a_list_of_ranges_gets_an_exception() {
    let banned = |source: &str, chain: &str| {
        legacy(
            &format!(
                ":{chain} - [0:0]\n-A INPUT -p tcp -m multiport --dports 5672 -j {chain}\n-A {chain} -s {source} -j REJECT\n-A {chain} -j RETURN\n"
            ),
            "iptables",
        )
    };
    let fw = banned("10.0.0.7/32", "f2b-rabbitmq");
    let why = plan(&fw, "10.0.0.7").unwrap_err();
    assert!(why.contains("fail2ban-client set rabbitmq unbanip"), "{why}");
    assert!(plan(&fw, "10.0.0.8").unwrap().deeds.is_empty());
    assert!(plan(&banned("10.0.0.0/8", "f2b-rabbitmq"), "10.0.0.7").is_err());
    assert!(plan(&banned("10.0.0.7/32", "blocklist"), "10.0.0.7").unwrap_err().contains("take the address out"));
    let open = plan(&banned("10.0.0.0/8", "blocklist"), "10.0.0.7").unwrap();
    let rule = "-s 10.0.0.7/32 -p tcp -m tcp --dport 5672 -m comment --comment rmq-audit -j RETURN";
    assert_eq!(commands(&open)[0].0, format!("iptables-legacy -w 5 -I blocklist 1 {rule}"));
}

/// ufw with these tuples (each with its line), in the kernel and in its file.
fn with_ufw(rules: &[(&str, &str)]) -> Firewall {
    let mut kernel = ":ufw-before-input - [0:0]\n:ufw-user-input - [0:0]\n-A INPUT -j ufw-before-input\n-A ufw-before-input -m conntrack --ctstate ESTABLISHED -j ACCEPT\n-A ufw-before-input -j ufw-user-input\n".to_owned();
    let mut file = String::new();
    for (tuple, line) in rules {
        kernel += &format!("-A ufw-user-input {line}\n");
        file += &format!("### tuple ### {tuple}\n-A ufw-user-input {line}\n\n");
    }
    let mut fw = legacy(&kernel, "ufw");
    let mut parsed = ufw::parse(&file, false);
    parsed.iter_mut().zip(1..).for_each(|(r, n)| r.position = n);
    fw.ufw_rules = Fact::Known(parsed);
    let input = fw.model.tables[0].chain("INPUT").unwrap();
    fw.model.tables[0].chains[input].base.as_mut().unwrap().accept = false;
    fw
}

const SSH: (&str, &str) = ("allow tcp 22 0.0.0.0/0 any 0.0.0.0/0 in", "-p tcp --dport 22 -j ACCEPT");
const DENY: (&str, &str) = ("deny tcp 5672 0.0.0.0/0 any 0.0.0.0/0 in", "-p tcp --dport 5672 -j DROP");
const ALLOW: (&str, &str) = ("allow tcp 5672 0.0.0.0/0 any 10.0.0.0/24 in", "-p tcp --dport 5672 -s 10.0.0.0/24 -j ACCEPT");

#[test]
fn plans_for_ufw() {
    let one = |fw: &Firewall, from: &str| commands(&plan(fw, from).unwrap());
    let rule = "proto tcp from 10.0.0.0/24 to any port 5672";
    let delete = format!("ufw delete allow {rule}");
    assert_eq!(one(&with_ufw(&[SSH]), "10.0.0.0/24"), [(format!("ufw allow {rule} comment rmq-audit"), delete.clone())]);
    assert_eq!(
        one(&with_ufw(&[SSH, DENY]), "10.0.0.0/24"),
        [(format!("ufw insert 2 allow {rule} comment rmq-audit"), delete.clone())]
    );
    // The same rule stands below: ufw would skip the insertion.
    let below = with_ufw(&[SSH, DENY, ALLOW]);
    assert_eq!(
        one(&below, "10.0.0.0/24"),
        [(delete.clone(), format!("ufw allow {rule}")), (format!("ufw insert 2 allow {rule} comment rmq-audit"), delete)]
    );
    // The same rule with another action is changed in place, and changed back.
    let any = "proto tcp from 0.0.0.0/0 to any port 5672";
    assert_eq!(
        one(&with_ufw(&[SSH, DENY]), "0.0.0.0/0"),
        [(format!("ufw allow {any} comment rmq-audit"), format!("ufw deny {any}"))]
    );
    assert!(plan(&with_ufw(&[ALLOW]), "10.0.0.0/24").unwrap().deeds.is_empty());
}

#[test]
fn nftables_by_handle_and_in_the_file_of_its_service() {
    let mut fw = native("t", "in", &["tcp dport 5672 drop"]);
    let open = plan(&fw, "10.0.0.0/24").unwrap();
    let rule = "ip saddr 10.0.0.0/24 tcp dport 5672 accept comment \"rmq-audit:5672:10.0.0.0/24\"";
    let expected = (format!("nft insert rule inet t in position 10 {rule}"), "inet t in rmq-audit:5672:10.0.0.0/24".to_owned());
    assert_eq!(commands(&open), std::slice::from_ref(&expected));
    assert!(!open.persistent);

    fw.manager = "nftables-service".to_owned();
    let conf =
        "flush ruleset\ntable inet t {\n  chain in {\n    type filter hook input priority 0;\n    tcp dport 5672 drop\n  }\n}\n";
    let open = plan_with(&fw, "10.0.0.0/24", &[("/etc/nftables.conf", conf)]).unwrap();
    assert_eq!(commands(&open), [expected]);
    let edited = conf.replace("    tcp dport", &format!("    {rule}\n    tcp dport"));
    assert_eq!(files(&open), [("/etc/nftables.conf".to_owned(), edited)]);
    assert!(open.persistent);
}

#[test]
fn firewalld_by_zone() {
    let mut fw = native("firewalld", "filter_IN_public", &["reject"]);
    fw.manager = "firewalld".to_owned();
    fw.firewalld_running = true;
    let jump = Rule {
        text: "jump filter_IN_public_allow".to_owned(),
        number: 1,
        steps: vec![Step::Go(Target::Jump("filter_IN_public_allow".to_owned()))],
        packets: None,
    };
    fw.model.tables[0].chains[0].rules.insert(0, jump);
    let xml = "<?xml version=\"1.0\"?>\n<zone>\n  <service name=\"ssh\"/>\n</zone>\n";
    let shipped = [("/usr/lib/firewalld/zones/public.xml", xml)];
    let open = plan_with(&fw, "10.0.0.0/24", &shipped).unwrap();
    let rich = "rich-rule=rule family=\"ipv4\" source address=\"10.0.0.0/24\" port port=\"5672\" protocol=\"tcp\" accept";
    let command = |verb: &str| format!("firewall-cmd --zone=public --{verb}-{rich}");
    assert_eq!(commands(&open), [(command("add"), command("remove"))]);
    let file = "  <rule family=\"ipv4\">\n    <source address=\"10.0.0.0/24\"/>\n    <port port=\"5672\" protocol=\"tcp\"/>\n    <accept/>\n  </rule>\n</zone>";
    assert_eq!(files(&open), [("/etc/firewalld/zones/public.xml".to_owned(), xml.replace("</zone>", file))]);
    // Added with --permanent and never loaded: what runs is all that is missing.
    let opened = xml.replace("</zone>", "  <port port=\"5672\" protocol=\"tcp\"/>\n</zone>");
    let open = plan_with(&fw, "10.0.0.0/24", &[("/etc/firewalld/zones/public.xml", &opened)]).unwrap();
    assert!(files(&open).is_empty() && open.persistent && open.notes[0].contains("already"));
}

#[test]
fn several_tables_are_passed_in_turn() {
    let mut fw = native("early", "pre", &["tcp dport 5672 drop"]);
    let mut second = native("t", "in", &["tcp dport 5672 drop"]).model.tables.remove(0);
    second.handle = 2;
    fw.model.tables.push(second);
    let open = plan(&fw, "10.0.0.0/24").unwrap();
    assert_eq!(open.deeds.len(), 2);
    assert_eq!(open.trial.len(), 2);
}

#[test]
fn a_ban_is_lifted_by_its_own_rule() {
    let rules = "-A INPUT -p tcp -m multiport --dports 5671,5672 -j f2b-rabbitmq\n-A f2b-rabbitmq -s 10.0.0.8/32 -j DROP\n\
                 -A f2b-rabbitmq -s 10.0.0.9/32 -j REJECT --reject-with icmp-port-unreachable\n-A f2b-rabbitmq -j RETURN\n";
    let save = saved(rules).replace(":OUTPUT", ":f2b-rabbitmq - [0:0]\n:OUTPUT");
    let save = iptables_save::parse(&save).unwrap();
    let fw = firewall(crate::facts::firewall::iptables_tables(&save, Engine::IptablesLegacy, false), "none");
    let to = "10.0.0.2".parse().unwrap();
    let lifted = |running| ban::plan_lift_ban(&fw, "10.0.0.9", to, 5672, "eth0", running).unwrap();
    let [Deed::Command { run, undo }] = &lifted(false).deeds[..] else { panic!() };
    let words = "-s 10.0.0.9/32 -j REJECT --reject-with icmp-port-unreachable";
    assert_eq!(run.join(" "), format!("iptables-legacy -w 5 -t filter -D f2b-rabbitmq {words}"));
    assert_eq!(undo.join(" "), format!("iptables-legacy -w 5 -t filter -I f2b-rabbitmq 2 {words}"));
    let [Deed::Command { run, undo }] = &lifted(true).deeds[..] else { panic!() };
    assert_eq!((run[4].as_str(), undo[4].as_str()), ("10.0.0.9", "10.0.0.9"));
    assert_eq!((run[3].as_str(), undo[3].as_str()), ("unbanip", "banip"));
    assert!(ban::plan_lift_ban(&fw, "10.0.0.7", to, 5672, "eth0", false).is_err(), "nobody bans it");
}

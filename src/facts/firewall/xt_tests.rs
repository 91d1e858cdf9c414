//! Rules that iptables-nft of three Debian releases wrote, read twice: from the kernel's dump and from the save of the same tool. Both
//! readings must mean the same.
//!
//! The recordings stand in `testdata/xt-*`. `UPDATE=DIRECTORY cargo test --lib xt_tests` as root makes them anew with the tools of root
//! file systems in `DIRECTORY/{bullseye,bookworm,trixie}`, in network namespaces that go away again.

use super::model::*;
use super::tests::firewall;
use super::{Packet, display, ip_sets, iptables, netlink};
use crate::formats::iptables_save;
use crate::host::{Host, live::Live};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const RELEASES: [&str; 3] = ["bullseye", "bookworm", "trixie"];

/// Rules for both families.
const BOTH: &str = "\
-i lo -j DROP
! -i eth+ -j DROP
-p tcp -m conntrack --ctstate RELATED,ESTABLISHED -j DROP
-m conntrack ! --ctstate NEW,UNTRACKED -j DROP
-m conntrack --ctstate DNAT -j DROP
-m conntrack ! --ctstate SNAT -j DROP
-m conntrack --ctstate INVALID,DNAT --ctdir ORIGINAL -j DROP
-m conntrack --ctproto 6 -j DROP
-m conntrack ! --ctproto 17 --ctdir REPLY -j DROP
-m conntrack --ctproto 6 --ctorigdstport 5672 -j DROP
-m conntrack --ctproto 6 --ctorigdstport 5000:6000 -j DROP
-m conntrack --ctproto 6 ! --ctorigsrcport 1024:65535 -j DROP
-m conntrack --ctproto 6 --ctreplsrcport 5672 -j DROP
-m conntrack --ctproto 6 --ctrepldstport 1024:65535 -j DROP
-m conntrack --ctstatus NONE -j DROP
-m conntrack --ctstatus ASSURED,CONFIRMED -j DROP
-m conntrack ! --ctstatus EXPECTED -j DROP
-m conntrack --ctexpire 10:20 -j DROP
-m state --state NEW -j DROP
-m state ! --state ESTABLISHED,RELATED -j DROP
-p tcp -m tcp --dport 22 -j DROP
-p tcp -m tcp ! --dport 22 -j DROP
-p tcp -m tcp --sport 1024:65535 --dport 5672 -j DROP
-p tcp -m tcp ! --sport 1:1023 -j DROP
-p tcp -m tcp --dport 5672 --tcp-flags FIN,SYN,RST,ACK SYN -j DROP
-p tcp -m tcp ! --tcp-flags FIN,SYN,RST,ACK SYN -j DROP
-p tcp --syn -j DROP
-p tcp -m tcp --tcp-option 2 -j DROP
-p tcp -m tcp ! --tcp-option 8 -j DROP
-p udp -m udp --dport 53 -j DROP
-p tcp -m multiport --dports 80,443,5671:5672 -j DROP
-p tcp -m multiport ! --dports 80,443 -j DROP
-p tcp -m multiport --sports 1024:65535 -j DROP
-p tcp -m multiport --ports 5672,22 -j DROP
-p tcp -m multiport ! --ports 5672,22 -j DROP
-m addrtype --dst-type LOCAL -j DROP
-m addrtype ! --dst-type LOCAL -j DROP
-m addrtype --src-type LOCAL --dst-type UNICAST -j DROP
-m addrtype --dst-type LOCAL --limit-iface-in -j DROP
-m addrtype --dst-type MULTICAST -j DROP
-m mark --mark 0x8000/0x8000 -j DROP
-m mark ! --mark 0x1 -j DROP
-m mark --mark 0x0/0xff -j DROP
-m connmark --mark 0x1/0xff -j DROP
-m connmark ! --mark 0x1 -j DROP
-m comment --comment \"a b \\\" c\" -j DROP
-m comment --comment -j -j DROP
-m mac --mac-source 02:00:00:00:00:02 -j DROP
-m mac ! --mac-source 02:00:00:00:00:02 -j DROP
-m pkttype --pkt-type broadcast -j DROP
-m pkttype ! --pkt-type unicast -j DROP
-m limit --limit 3/min --limit-burst 10 -j DROP
-m limit --limit 100/hour -j DROP
-m hashlimit --hashlimit-upto 10/sec --hashlimit-burst 20 --hashlimit-mode srcip --hashlimit-name aflood -j DROP
-m recent --set --name seen --rsource -j DROP
-m recent ! --set --name seen --rsource -j DROP
-m recent --update --seconds 60 --hitcount 6 --name seen --rsource -j DROP
-m recent ! --rcheck --seconds 60 --name seen --rsource -j DROP
-p tcp -m connlimit --connlimit-above 20 --connlimit-mask 32 --connlimit-saddr -j DROP
-m quota --quota 1000 -j DROP
-m statistic --mode random --probability 0.5 -j DROP
-m statistic --mode nth --every 3 --packet 0 -j DROP
-m time --timestart 08:00:00 --timestop 17:00:00 -j DROP
-m length --length 0:100 -j DROP
-m length --length 1000:2000 -j DROP
-m length ! --length 1000 -j DROP
-m physdev --physdev-is-bridged -j DROP
-m physdev ! --physdev-is-bridged -j DROP
-m physdev --physdev-in eth1 -j DROP
-m physdev ! --physdev-in eth1 --physdev-is-in -j DROP
-m dscp --dscp 0x08 -j DROP
-m dscp ! --dscp 0x2e -j DROP
-m tos --tos 0x10/0x3f -j DROP
-m tos ! --tos 0x08/0xff -j DROP
-m owner --uid-owner 0 -j DROP
-m owner ! --uid-owner 1000-2000 -j DROP
-m owner --socket-exists -j DROP
-m helper --helper ftp -j DROP
-m helper ! --helper ftp -j DROP
-m policy --dir in --pol none -j DROP
-m policy --dir in --pol ipsec --proto esp -j DROP
-m socket --transparent -j DROP
-m string --string foo --algo bm --to 65535 -j DROP
-m cpu --cpu 0 -j DROP
-m u32 --u32 \"0x6&0xff=0x6\" -j DROP
-m connbytes --connbytes 10 --connbytes-mode packets --connbytes-dir both -j DROP
-p tcp -m tcpmss --mss 500:1000 -j DROP
-p sctp -m sctp --dport 5672 -j DROP
-p tcp -j REJECT --reject-with tcp-reset
-j ACCEPT
-j RETURN
-j LOG --log-prefix \"[UFW BLOCK] \"
-j NFLOG --nflog-group 5
-j MARK --set-xmark 0x10/0xff
-j MARK --set-mark 0x10/0xff
-j MARK --and-mark 0xff
-j MARK --or-mark 0x10
-j MARK --xor-mark 0x10
-j CONNMARK --set-xmark 0x10/0xff
-j CONNMARK --set-mark 0x10/0xff
-j CONNMARK --save-mark --nfmask 0xff --ctmask 0xf0
-j CONNMARK --restore-mark --nfmask 0xff --ctmask 0xf0
-p tcp -j NFQUEUE --queue-num 0
-p tcp -j NFQUEUE --queue-num 0 --queue-bypass
-p tcp -j TEE --gateway GATEWAY
-j AUDIT --type drop
-p tcp -j SYNPROXY --sack-perm
";

const V4: &str = "\
-s 10.0.0.0/8 -j DROP
! -s 10.0.0.0/8 -d 10.0.0.2 -j DROP
-s 10.0.0.5/255.0.0.255 -j DROP
-f -j DROP
-p icmp -m icmp --icmp-type 8 -j DROP
-p icmp -m icmp ! --icmp-type 3/4 -j DROP
-p icmp -m icmp --icmp-type any -j DROP
-m addrtype --dst-type LOCAL,UNICAST -j DROP
-m addrtype ! --src-type BROADCAST -j DROP
-m iprange --src-range 10.0.0.1-10.0.0.9 -j DROP
-m iprange ! --src-range 10.0.0.5-10.0.0.255 --dst-range 10.0.0.0-10.0.0.3 -j DROP
-m conntrack --ctorigsrc 10.0.0.0/8 ! --ctorigdst 10.0.0.0/255.0.0.255 -j DROP
-m conntrack --ctreplsrc 10.0.0.2 --ctrepldst 10.0.0.1 -j DROP
-m conntrack ! --ctstate INVALID --ctorigdst 10.0.0.2 -j DROP
-m set --match-set s4 src -j DROP
-m set ! --match-set s4 src -j DROP
-m set --match-set sp src,dst -j DROP
-m set --match-set s4 src --return-nomatch -j DROP
-m set --match-set s4 src ! --update-counters --packets-gt 3 -j DROP
-j SET --add-set s4 src
-j SET --del-set s4 src
-m ttl --ttl-lt 5 -j DROP
-m ttl --ttl-eq 64 -j DROP
-m ttl ! --ttl-eq 64 -j DROP
-m ttl --ttl-gt 200 -j DROP
-p ah -m ah --ahspi 1 -j DROP
-m realm --realm 5 -j DROP
-j REJECT
-j REJECT --reject-with icmp-net-unreachable
-j REJECT --reject-with icmp-host-unreachable
-j REJECT --reject-with icmp-proto-unreachable
-j REJECT --reject-with icmp-net-prohibited
-j REJECT --reject-with icmp-host-prohibited
-j REJECT --reject-with icmp-admin-prohibited
";

const V6: &str = "\
-s fd00::/64 -j DROP
! -s fe80::/10 -d fd00::2 -j DROP
-s fd00::1/ffff::ff -j DROP
-p ipv6-icmp -m icmp6 --icmpv6-type 135 -j DROP
-p ipv6-icmp -m icmp6 ! --icmpv6-type 1/4 -j DROP
-m addrtype --dst-type LOCAL,UNICAST -j DROP
-m addrtype ! --src-type UNICAST -j DROP
-m iprange --src-range fd00::1-fd00::9 -j DROP
-m iprange ! --src-range fd00::1-fd00::9 -j DROP
-m conntrack --ctorigsrc fd00::/64 ! --ctorigdst fd00::7 -j DROP
-m hl --hl-lt 5 -j DROP
-m hl --hl-gt 200 -j DROP
-m hl ! --hl-eq 64 -j DROP
-m rt --rt-type 0 -j DROP
-m frag --fragid 1 -j DROP
-m hbh --hbh-len 8 -j DROP
-m dst --dst-len 8 -j DROP
-m ah --ahspi 1 -j DROP
-m eui64 -j DROP
-m ipv6header --header prot --soft -j DROP
-m ipv6header --header frag --soft -j DROP
-m ipv6header ! --header frag -j DROP
-m set --match-set s6 src -j DROP
-m set ! --match-set s6 src -j DROP
-j SET --add-set s6 src
-j REJECT
-j REJECT --reject-with icmp6-no-route
-j REJECT --reject-with icmp6-adm-prohibited
-j REJECT --reject-with icmp6-addr-unreachable
-j REJECT --reject-with icmp6-policy-fail
-j REJECT --reject-with icmp6-reject-route
";

/// Rules of tables nat and raw, with their table.
const OTHER: [(&str, &str); 3] = [
    (
        "nat",
        "\
-p tcp -m tcp --dport 5672 -j DNAT --to-destination ADDRESS
-p tcp -j REDIRECT --to-ports 5673
-p tcp -j REDIRECT --to-ports 5000-5010
-p tcp -j REDIRECT
-j NETMAP --to NETWORK
",
    ),
    (
        "raw",
        "\
-p tcp -m tcp --dport 5672 -j CT --notrack
-j NOTRACK
-j CT --zone 5
-m rpfilter -j DROP
-m rpfilter --invert -j DROP
-m rpfilter --loose --accept-local --invert -j DROP
-j TRACE
",
    ),
    (
        "mangle",
        "\
-p tcp -j TPROXY --on-port 3128 --on-ip ONADDRESS --tproxy-mark 0x1/0x1
-p tcp -m tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu
-j TOS --set-tos 0x10/0x3f
-j DSCP --set-dscp 0x08
-j CHECKSUM --checksum-fill
-j CLASSIFY --set-class 1:2
",
    ),
];

fn rules(v6: bool) -> Vec<(&'static str, String)> {
    let own = |text: &str| {
        text.replace("GATEWAY", if v6 { "fd00::9" } else { "10.0.0.9" })
            .replace("ONADDRESS", if v6 { "::1" } else { "127.0.0.1" })
            .replace("ADDRESS", if v6 { "[fd00::7]:5673" } else { "10.0.0.7-10.0.0.9:5673" })
            .replace("NETWORK", if v6 { "fd01::/64" } else { "10.1.0.0/16" })
    };
    let filter = BOTH.lines().chain(if v6 { V6 } else { V4 }.lines()).map(|line| ("filter", own(line)));
    let other = OTHER.iter().flat_map(|(table, text)| text.lines().map(|line| (*table, own(line))));
    filter.chain(other).collect()
}

struct Recording {
    dump: Vec<u8>,
    save: String,
    sets: Vec<u8>,
}

fn recording(release: &str, v6: bool) -> Recording {
    let family = if v6 { 6 } else { 4 };
    let file = |end: &str| {
        let name = format!("xt-{release}-v{family}.{end}");
        Path::new(env!("CARGO_MANIFEST_DIR")).join("src/facts/firewall/testdata").join(name)
    };
    if let Some(trees) = std::env::var_os("UPDATE").map(PathBuf::from).filter(|t| t.is_dir()) {
        let tree = trees.join(release);
        let made = std::thread::spawn(move || made(&tree, v6)).join().unwrap();
        std::fs::write(file("nl"), &made.dump).unwrap();
        std::fs::write(file("save"), &made.save).unwrap();
        std::fs::write(file("sets.nl"), &made.sets).unwrap();
    }
    let read = |end: &str| std::fs::read(file(end)).unwrap_or_else(|e| panic!("{}: {e}", file(end).display()));
    Recording { dump: read("nl"), save: String::from_utf8(read("save")).unwrap(), sets: read("sets.nl") }
}

/// Loads every rule that this release knows, each in a chain of its own. The thread lives in its own network namespace.
fn made(tree: &Path, v6: bool) -> Recording {
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
    for set in [
        "create s4 hash:ip counters",
        "create sp hash:ip,port",
        "create s6 hash:ip family inet6",
        "add s4 10.0.0.1",
        "add sp 10.0.0.5,tcp:5672",
        "add s6 fd00::1",
    ] {
        assert!(Command::new("ipset").args(set.split(' ')).status().unwrap().success());
    }
    let tool = |name: &str, input: &str| {
        let program = format!("/usr/sbin/{}tables-nft{name}", if v6 { "ip6" } else { "ip" });
        let mut child = Command::new("chroot")
            .args([tree.as_os_str(), program.as_ref()])
            .arg(if name == "-restore" { "-n" } else { "-c" })
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), input.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    };
    for (number, (table, rule)) in rules(v6).iter().enumerate() {
        let output = tool("-restore", &format!("*{table}\n:t{number} - [0:0]\n-A t{number} {rule}\nCOMMIT\n"));
        if !output.status.success() {
            eprintln!("{}: not loaded: {rule}: {}", tree.display(), String::from_utf8_lossy(&output.stderr).trim());
        }
    }
    let save = String::from_utf8(tool("-save", "").stdout).unwrap();
    let live = Live::default();
    Recording { dump: live.nf_tables().unwrap(), save, sets: live.ip_sets().unwrap() }
}

/// A model with one rule, at a place where the rule may stand.
fn alone(table: &Table, rule: &Rule, sets: &ip_sets::IpSets) -> Model {
    let hook = match table.name.as_str() {
        "filter" => Hook::Input,
        _ => Hook::Prerouting,
    };
    let priority = match table.name.as_str() {
        "raw" => -300,
        "nat" => -100,
        _ => 0,
    };
    let base = Base { hook, priority, accept: true, nat: table.name == "nat", handle: 1, devices: Vec::new() };
    let chains = vec![Chain { name: "INPUT".to_owned(), base: Some(base), rules: vec![rule.clone()] }];
    // What the rule did to marks and tracking is seen behind it.
    let after = [
        Step::Test(Test::Either(vec![
            Test::is(Key::Masked(Box::new(Key::Mark), 0x30), Part::Span(0x10, 0x10), false),
            Test::is(Key::Masked(Box::new(Key::CtMark), 0x30), Part::Span(0x10, 0x10), false),
            Test::AnyBit { key: Key::CtState, bits: ct::UNTRACKED, not: false },
        ])),
        Step::Go(Target::Reject("icmp-host-prohibited".to_owned())),
    ];
    let behind = Rule { text: "behind".to_owned(), number: 1, steps: after.into(), packets: None };
    let base = Base { hook: Hook::Input, priority: 50, accept: true, nat: false, handle: 1, devices: Vec::new() };
    let second = Chain { name: "behind".to_owned(), base: Some(base), rules: vec![behind] };
    let of = |name: &str, chains| Table {
        engine: Engine::Nftables,
        family: table.family,
        name: name.to_owned(),
        handle: 1,
        chains,
        doubt: None,
    };
    Model {
        tables: vec![of(&table.name, chains), of("behind", vec![second])],
        ip_sets: sets.sets.clone(),
        bridged: Some(false),
        ..Model::default()
    }
}

fn verdicts(model: Model, v6: bool) -> Vec<String> {
    let fw = firewall(model);
    let mut all = Vec::new();
    let sources = if v6 { ["fd00::1", "fd00:1::1", "fe80::5"] } else { ["10.0.0.1", "10.0.0.5", "192.168.1.5"] };
    for source in sources {
        for port in [22, 443, 5672] {
            for interface in ["eth0", "lo"] {
                let destination = if v6 { "fd00::2" } else { "10.0.0.2" }.parse().unwrap();
                let packet = Packet { source: source.parse().unwrap(), destination, port, interface: interface.to_owned() };
                let verdict = fw.verdict(&packet).known().unwrap().clone();
                all.push(format!(
                    "{packet:?}: {} {:?} {:?} {}",
                    verdict.verdict, verdict.reject_with, verdict.delivered_to, verdict.packet
                ));
            }
        }
    }
    all
}

#[test]
fn binary_and_text_mean_the_same() {
    let mut failed = Vec::new();
    let mut compared = BTreeMap::new();
    let mut extensions = 0;
    let mut different = BTreeSet::new();
    for (release, v6) in RELEASES.iter().flat_map(|r| [(*r, false), (*r, true)]) {
        let Recording { dump, save, sets } = recording(release, v6);
        let sets = ip_sets::read(&sets).unwrap();
        let names = |index: u16| sets.names.get(&index).cloned();
        let binary = netlink::tables(&dump, &names).unwrap();
        let saved = iptables_save::parse(&save).unwrap();
        let text = iptables::tables(&saved, Engine::IptablesNft, v6);
        for table in &text {
            let other = binary.iter().find(|t| t.name == table.name).unwrap();
            assert_eq!(other.engine, Engine::IptablesNft, "{}", table.name);
            for chain in table.chains.iter().filter(|c| c.base.is_none()) {
                let theirs = &other.chains[other.chain(&chain.name).unwrap()];
                let (Some(read), Some(decoded)) = (chain.rules.first(), theirs.rules.first()) else { continue };
                *compared.entry((release, v6)).or_insert(0) += 1;
                extensions += decoded.steps.iter().filter(|s| !matches!(s, Step::Native(_))).count();
                // What stands in the rule as an extension is among what the text says.
                let words: Vec<String> = read.steps.iter().map(|s| format!("{s:?}")).collect();
                let strange = decoded
                    .steps
                    .iter()
                    .filter(|s| !matches!(s, Step::Native(_)))
                    .map(|s| format!("{s:?}"))
                    .find(|s| !words.contains(s));
                if let Some(step) = strange {
                    failed.push(format!("{release} v6={v6} {}\n  binary: {step}\n  text: {words:?}", read.text));
                    continue;
                }
                let (a, b) = (verdicts(alone(table, decoded, &sets), v6), verdicts(alone(table, read, &sets), v6));
                different.insert(a.clone());
                if let Some((a, b)) = a.iter().zip(&b).find(|(a, b)| a != b) {
                    failed.push(format!("{release} v6={v6} {}\n  binary: {a}\n  text:   {b}\n  {:?}", read.text, decoded.steps));
                }
                assert_eq!(read.packets, decoded.packets, "{}", read.text);
            }
        }
    }
    assert!(failed.is_empty(), "{} of {compared:?}:\n{}", failed.len(), failed.join("\n"));
    assert!(compared.values().all(|n| *n > 140), "{compared:?}");
    // The comparison has something to compare: extensions in the binary form, and rules that do different things.
    assert!(extensions > 500 && different.len() > 25, "{extensions} {}", different.len());
}

/// The listing of a ruleset with what two releases of nft know, and the kernel's dump of it.
fn listing(release: &str) -> (Vec<u8>, String) {
    let testdata = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/facts/firewall/testdata");
    let file = |end: &str| testdata.join(format!("shapes-{release}.{end}"));
    if let Some(trees) = std::env::var_os("UPDATE").map(PathBuf::from).filter(|t| t.is_dir()) {
        let (tree, loader, ruleset) =
            (trees.join(release), trees.join("bookworm"), std::fs::read_to_string(testdata.join("shapes.nft")).unwrap());
        let (dump, text) = std::thread::spawn(move || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
            let nft = |tree: &Path| {
                let mut command = Command::new("chroot");
                command.arg(tree).arg("/usr/sbin/nft");
                command
            };
            // The oldest cannot read all that it can print.
            assert!(nft(&loader).arg(ruleset).status().unwrap().success());
            let listed = nft(&tree).args(["-a", "list", "ruleset"]).output().unwrap().stdout;
            (Live::default().nf_tables().unwrap(), listed)
        })
        .join()
        .unwrap();
        std::fs::write(file("nl"), dump).unwrap();
        std::fs::write(file("txt"), text).unwrap();
    }
    (std::fs::read(file("nl")).unwrap(), std::fs::read_to_string(file("txt")).unwrap())
}

#[test]
fn listings_of_two_releases_give_every_rule_its_text() {
    for release in ["bookworm", "trixie"] {
        let (dump, text) = listing(release);
        let mut tables = netlink::tables(&dump, &|_| None).unwrap();
        display::label(&mut tables, Some(&text), [None, None]);
        let mut seen = BTreeSet::new();
        for rule in tables.iter().flat_map(|t| &t.chains).flat_map(|c| &c.rules) {
            // The text is the line that ends with this handle.
            let line = text.lines().find(|l| l.trim_end().ends_with(&format!("# handle {}", rule.number))).unwrap();
            let line = line.trim().replace("counter packets 0 bytes 0", "counter");
            assert!(line.starts_with(&rule.text) && !rule.text.contains("# handle"), "{release}: {} / {line}", rule.text);
            seen.insert(rule.text.clone());
        }
        assert!(seen.len() > 60, "{release}: {}", seen.len());
        // Without a listing our own words do; nothing of a common rule is lost.
        let mut plain = netlink::tables(&dump, &|_| None).unwrap();
        display::label(&mut plain, None, [None, None]);
        let texts: Vec<&str> = plain.iter().flat_map(|t| &t.chains).flat_map(|c| &c.rules).map(|r| r.text.as_str()).collect();
        if std::env::var_os("SHOW").is_some() {
            eprintln!("{}", texts.join("\n"));
        }
        for part in [
            "ip saddr != 10.0.0.0/8 drop",
            "iifname \"eth*\" accept",
            "ct state established,related accept",
            "@a4",
            "iifname { \"eth0\", \"eth1\" } accept",
        ] {
            assert!(texts.iter().any(|t| t.contains(part)), "{release}: {part}\n{}", texts.join("\n"));
        }
    }
}

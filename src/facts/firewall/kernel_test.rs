//! Differential test: rulesets are loaded into a network namespace, real connections are made from a peer namespace, and what the
//! kernel did is compared with the verdict, the symptom and (by packet counters) the deciding rule. Needs root, iproute2, python3 and
//! nft and iptables, installed or in a debootstrap tree of the lab; skipped with the reason otherwise.

use super::read::{Raw, assemble};
use super::*;
use crate::host::Miss;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::LazyLock;

/// Of this process: several runs on one machine do not meet.
static SERVER: LazyLock<String> = LazyLock::new(|| format!("rmqfw{}s", std::process::id()));
static CLIENT: LazyLock<String> = LazyLock::new(|| format!("rmqfw{}c", std::process::id()));
const HOST4: &str = "10.77.50.2";
const HOST6: &str = "fd77:50::2";
const SOURCES4: [&str; 6] = ["10.77.50.1", "10.0.0.5", "192.168.1.50", "172.16.3.4", "203.0.113.7", "100.64.0.9"];
const SOURCES6: [&str; 2] = ["fd77:50::1", "2001:db8::5"];
const PORTS: [u16; 8] = [22, 80, 443, 5671, 5672, 5673, 15672, 25672];

/// Accepts on every port and sends one byte: a client that never gets it hangs.
const LISTENER: &str = r#"
import socket,sys,select
ls=[]
for p in map(int,sys.argv[1:]):
    s=socket.socket(socket.AF_INET6); s.setsockopt(socket.SOL_SOCKET,socket.SO_REUSEADDR,1)
    s.setsockopt(socket.IPPROTO_IPV6,socket.IPV6_V6ONLY,0); s.bind(('::',p)); s.listen(512); ls.append(s)
print('ready',flush=True)
while True:
    for s in select.select(ls,[],[])[0]:
        c,_=s.accept()
        try: c.send(b'x')
        except OSError: pass
        c.close()
"#;

/// Connects from each source to each port at once; prints what each saw within the time.
const PROBER: &str = r#"
import socket,sys,errno,time,select
wait=float(sys.argv[1]); socks={}; out={}
for i,line in enumerate(l.split() for l in sys.stdin):
    src,dst,port=line
    s=socket.socket(socket.AF_INET6 if ':' in src else socket.AF_INET); s.setblocking(False)
    s.setsockopt(socket.SOL_SOCKET,socket.SO_LINGER,b'\1\0\0\0\0\0\0\0')
    s.bind((src,0))
    e=s.connect_ex((dst,int(port)))
    if e not in (0,errno.EINPROGRESS): out[i]='error%d'%e
    else: socks[s.fileno()]=(i,s)
p=select.epoll(); up=set()
for fd in socks: p.register(fd,select.EPOLLOUT)
end=time.time()+wait
while socks and time.time()<end:
    for fd,ev in p.poll(max(0,end-time.time())):
        i,s=socks[fd]
        if fd in up:
            try: got=s.recv(1)
            except BlockingIOError: continue
            except OSError as e: got=b''
            out[i]='connected' if got else 'reset'; p.unregister(fd); s.close(); del socks[fd]; continue
        e=s.getsockopt(socket.SOL_SOCKET,socket.SO_ERROR)
        if e:
            try: s.getpeername(); e=0  # connected; SO_ERROR tells of an ICMP error to a later packet
            except OSError: pass
        if e==0: up.add(fd); p.modify(fd,select.EPOLLIN); continue
        out[i]='refused' if e==errno.ECONNREFUSED else 'unreachable' if e in (errno.EHOSTUNREACH,errno.ENETUNREACH,errno.EACCES,errno.ENOPROTOOPT) else 'error%d'%e
        p.unregister(fd); s.close(); del socks[fd]
for fd,(i,s) in socks.items(): out[i]='hangs' if fd in up else 'timeout'; s.close()
for i in sorted(out): print(out[i])
"#;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Tool {
    Nft,
    Iptables { v6: bool },
    Legacy { v6: bool },
}

/// Two namespaces joined by a veth pair; deleted when dropped.
struct Lab {
    tree: Option<PathBuf>,
    listener: Option<std::process::Child>,
}

impl Lab {
    fn new() -> Result<Lab, String> {
        if !nix::unistd::geteuid().is_root() {
            return Err("not root".to_owned());
        }
        let trees = ["bookworm", "trixie", "bullseye"].map(|s| PathBuf::from("/var/cache/rmq-audit-lab/trees").join(s));
        let wanted = std::env::var("RMQ_AUDIT_FW_TREE").ok().map(PathBuf::from);
        let installed = ["/usr/sbin/nft", "/usr/sbin/xtables-nft-multi"].iter().all(|f| PathBuf::from(f).exists());
        let tree = match (wanted, installed) {
            (Some(tree), _) => Some(tree),
            (None, true) => None,
            (None, false) => Some(
                trees
                    .into_iter()
                    .find(|t| t.join("usr/sbin/nft").exists())
                    .ok_or("neither nft nor a lab tree with it is here")?,
            ),
        };
        let lab = Lab { tree, listener: None };
        lab.clean();
        let (server, client) = (SERVER.as_str(), CLIENT.as_str());
        let addresses4: String = SOURCES4.iter().map(|a| format!("ip -n {client} addr add {a}/32 dev eth0\n")).collect();
        let addresses6: String = SOURCES6.iter().map(|a| format!("ip -n {client} addr add {a}/128 dev eth0 nodad\n")).collect();
        let script = format!(
            "set -e\nip netns add {server}\nip netns add {client}\n\
             ip link add eth0 netns {server} type veth peer name eth0 netns {client}\n\
             for n in {server} {client}; do ip netns exec $n sysctl -qw net.ipv4.icmp_ratemask=0 net.ipv6.icmp.ratelimit=0 net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0; ip -n $n link set lo up; ip -n $n link set eth0 up; done\n\
             ip netns exec {server} sysctl -qw net.ipv4.icmp_msgs_per_sec=100000 net.ipv4.icmp_msgs_burst=10000 net.ipv4.conf.eth0.rp_filter=0 net.ipv4.tcp_synack_retries=1 || true\n\
             ip -n {server} addr add {HOST4}/24 dev eth0\nip -n {server} addr add {HOST6}/64 dev eth0 nodad\n\
             {addresses4}{addresses6}\
             ip -n {client} route add 10.77.50.0/24 dev eth0\nip -n {client} -6 route add fd77:50::/64 dev eth0 || true\n\
             ip -n {server} route add default via 10.77.50.1\nip -n {server} -6 route add default via fd77:50::1\n\
             M=$(ip -n {client} -o link show eth0 | sed 's/.*ether \\([^ ]*\\).*/\\1/'); N=$(ip -n {server} -o link show eth0 | sed 's/.*ether \\([^ ]*\\).*/\\1/')\n\
             ip -n {server} neigh replace 10.77.50.1 lladdr $M dev eth0 nud permanent\nip -n {server} neigh replace fd77:50::1 lladdr $M dev eth0 nud permanent\n\
             ip -n {client} neigh replace {HOST4} lladdr $N dev eth0 nud permanent\nip -n {client} neigh replace {HOST6} lladdr $N dev eth0 nud permanent\n"
        );
        let made = Command::new("sh").arg("-c").arg(script).output().map_err(|e| e.to_string())?;
        if !made.status.success() {
            return Err(format!("namespaces cannot be made: {}", String::from_utf8_lossy(&made.stderr)));
        }
        let mut lab = lab;
        let mut child = Command::new("ip")
            .args(["netns", "exec", &SERVER, "python3", "-c", LISTENER])
            .args(PORTS.map(|p| p.to_string()))
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|e| format!("python3: {e}"))?;
        let mut ready = [0; 6];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut ready)
            .map_err(|e| format!("the listener does not start: {e}"))?;
        lab.listener = Some(child);
        Ok(lab)
    }

    fn clean(&self) {
        for name in [SERVER.as_str(), CLIENT.as_str()] {
            let _ = Command::new("ip").args(["netns", "del", name]).stderr(Stdio::null()).status();
        }
    }

    /// A program of the host or of the tree (through the tree's own loader), in the server's namespace.
    fn tool(&self, program: &str, args: &[&str], input: &str) -> Result<Vec<u8>, String> {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &SERVER]);
        if let Some(tree) = &self.tree {
            let libs = ["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"].map(|d| tree.join(d).display().to_string()).join(":");
            command.arg(tree.join("lib64/ld-linux-x86-64.so.2")).arg("--library-path").arg(libs);
            command.arg(tree.join("usr/sbin").join(program));
            command.env("XTABLES_LIBDIR", tree.join("usr/lib/x86_64-linux-gnu/xtables"));
        } else {
            command.arg(format!("/usr/sbin/{program}"));
        }
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|e| e.to_string())?;
        child.stdin.take().unwrap().write_all(input.as_bytes()).map_err(|e| e.to_string())?;
        let output = child.wait_with_output().map_err(|e| e.to_string())?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        Err(format!("{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr).trim()))
    }

    fn load(&self, tool: Tool, text: &str) -> Result<(), String> {
        match tool {
            Tool::Nft => self.tool("nft", &["-f", "-"], text),
            Tool::Iptables { v6: false } => self.tool("xtables-nft-multi", &["iptables-restore"], text),
            Tool::Iptables { v6: true } => self.tool("xtables-nft-multi", &["ip6tables-restore"], text),
            Tool::Legacy { v6: false } => self.tool("xtables-legacy-multi", &["iptables-restore"], text),
            Tool::Legacy { v6: true } => self.tool("xtables-legacy-multi", &["ip6tables-restore"], text),
        }
        .map(|_| ())
    }

    fn flush(&self) {
        let empty = "*filter\n:INPUT ACCEPT\n:FORWARD ACCEPT\n:OUTPUT ACCEPT\nCOMMIT\n*mangle\n:PREROUTING ACCEPT\n:INPUT ACCEPT\n:FORWARD ACCEPT\n:OUTPUT ACCEPT\n:POSTROUTING ACCEPT\nCOMMIT\n*nat\n:PREROUTING ACCEPT\n:INPUT ACCEPT\n:OUTPUT ACCEPT\n:POSTROUTING ACCEPT\nCOMMIT\n*raw\n:PREROUTING ACCEPT\n:OUTPUT ACCEPT\nCOMMIT\n";
        self.tool("nft", &["flush", "ruleset"], "").unwrap();
        for v6 in [false, true] {
            if self.legacy(v6).is_some() {
                self.load(Tool::Legacy { v6 }, empty).unwrap();
            }
        }
    }

    fn legacy(&self, v6: bool) -> Option<crate::host::Got<Vec<u8>>> {
        let names = if v6 { "/proc/net/ip6_tables_names" } else { "/proc/net/ip_tables_names" };
        let listed = Command::new("ip").args(["netns", "exec", &SERVER, "cat", names]).output().unwrap().stdout;
        if listed.is_empty() {
            return None;
        }
        let name = if v6 { "ip6tables-save" } else { "iptables-save" };
        Some(self.tool("xtables-legacy-multi", &[name], "").map_err(|e| Miss::failed(name, e)))
    }

    fn firewall(&self) -> Firewall {
        let got = |r: Result<Vec<u8>, String>| r.map_err(|e| Miss::failed("tool", e));
        let raw = Raw {
            nft: self.tool("nft", &["-j", "list", "ruleset"], "").and_then(|bytes| nft_json::parse(&bytes)),
            save: [
                Some(got(self.tool("xtables-nft-multi", &["iptables-save"], ""))),
                Some(got(self.tool("xtables-nft-multi", &["ip6tables-save"], ""))),
            ],
            legacy: [self.legacy(false), self.legacy(true)],
            no_nf_tables: false,
        };
        let mut model = assemble(raw);
        model.routing = Some(super::routing::Routing::of_hosts(&[HOST4, HOST6]));
        super::tests::firewall(model)
    }

    fn probe(&self, probes: &[Packet], seconds: f32) -> Vec<String> {
        let mut child = Command::new("ip")
            .args(["netns", "exec", &CLIENT, "python3", "-c", PROBER, &seconds.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines: String = probes.iter().map(|p| format!("{} {} {}\n", p.source, p.destination, p.port)).collect();
        child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
    }

    /// Packets counted at a rule or policy, from the tools' own counters.
    fn counted(&self, at: &DecidingRule) -> Option<u64> {
        let (family, table) = at.table.split_once(' ')?;
        if let Some(line) = at.handle_or_line.filter(|_| at.rule.starts_with("-A ")) {
            let name = if family == "ip6" { "ip6tables-save" } else { "iptables-save" };
            for program in ["xtables-nft-multi", "xtables-legacy-multi"] {
                let text = String::from_utf8(self.tool(program, &[name, "-c", "-t", table], "").unwrap_or_default()).unwrap();
                let start = format!("-A {} ", at.chain);
                let rule = text.lines().filter(|l| l.contains(&start)).nth(usize::try_from(line).ok()? - 1);
                let counted = rule.filter(|r| r.contains(&at.rule)).and_then(|r| r[1..].split(':').next()?.parse().ok());
                if counted.is_some() {
                    return counted;
                }
            }
            return None;
        }
        let json: serde_json::Value =
            serde_json::from_slice(&self.tool("nft", &["-j", "list", "chain", family, table, &at.chain], "").ok()?).ok()?;
        let rule = json["nftables"].as_array()?.iter().find(|o| o["rule"]["handle"].as_i64() == at.handle_or_line)?;
        rule["rule"]["expr"].as_array()?.iter().find_map(|e| e["counter"]["packets"].as_u64())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if let Some(mut child) = self.listener.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        self.clean();
    }
}

#[derive(Default, Debug)]
struct Score {
    probes: usize,
    wrong: Vec<String>,
    depends: usize,
    unknown: usize,
    rules_counted: usize,
}

/// Applies a plan (or takes it back) with the lab's tools.
fn run(lab: &Lab, argv: &[String]) {
    let words: Vec<&str> = argv.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        [] => return,
        ["nft", rest @ ..] => lab.tool("nft", rest, ""),
        [program, rest @ ..] => {
            let multi = if program.ends_with("legacy") { "xtables-legacy-multi" } else { "xtables-nft-multi" };
            let name = if program.starts_with("ip6") { "ip6tables" } else { "iptables" };
            lab.tool(multi, &[&[name], rest].concat(), "")
        }
    };
    result.unwrap_or_else(|e| panic!("{argv:?}: {e}"));
}

/// Opens 15672 for 100.64.0.9 by the plan, looks from outside, takes it back, looks again.
fn open_and_close(lab: &Lab, name: &str) {
    use crate::fix::action::open_port::plan_open_port;
    let probes = packets(false);
    let before = lab.probe(&probes, 0.7);
    let firewall = lab.firewall();
    let destination = HOST4.parse().unwrap();
    let verdict = firewall.verdict_for_network("100.64.0.9/32", destination, 15672, "eth0");
    let plan = plan_open_port(&firewall, verdict.known().unwrap(), "100.64.0.9/32", Some(destination), 15672, "eth0");
    let plan = plan.unwrap_or_else(|e| panic!("{name}: {e}"));
    plan.steps.iter().for_each(|(run_it, _)| run(lab, run_it));
    let after = lab.probe(&probes, 0.7);
    for ((probe, was), now) in probes.iter().zip(&before).zip(&after) {
        let wanted = probe.source.to_string() == "100.64.0.9" && probe.port == 15672;
        assert_eq!(
            now,
            if wanted { "connected" } else { was },
            "{name}: {} -> {} after {:?}",
            probe.source,
            probe.port,
            plan.steps
        );
    }
    plan.steps.iter().rev().for_each(|(_, undo)| run(lab, undo));
    assert_eq!(lab.probe(&probes, 0.7), before, "{name}: undone");
}

fn packets(v6: bool) -> Vec<Packet> {
    let (sources, destination): (&[&str], &str) = if v6 { (&SOURCES6, HOST6) } else { (&SOURCES4, HOST4) };
    let one = |source: &str, port| Packet {
        source: source.parse().unwrap(),
        destination: destination.parse().unwrap(),
        port,
        interface: "eth0".to_owned(),
    };
    sources.iter().flat_map(|s| PORTS.map(|p| one(s, p))).collect()
}

/// Name, whether IPv6 is probed, and what is loaded.
type Scenario = (String, bool, Vec<(Tool, String)>);

/// Probes what is loaded and compares.
fn compare(lab: &Lab, name: &str, v6: bool, score: &mut Score) {
    let probes = packets(v6);
    let firewall = lab.firewall();
    // Over a veth pair the answer to an IPv6 SYN arrives while connect() still holds the socket: the second SYN's counts.
    let seen = lab.probe(&probes, if v6 { 1.6 } else { 0.7 });
    assert_eq!(seen.len(), probes.len(), "{name}: the prober failed");
    let mut deciders: BTreeMap<String, DecidingRule> = BTreeMap::new();
    for (probe, mut seen) in probes.iter().zip(seen) {
        score.probes += 1;
        // A busy machine answers late: what looks wrong gets more time.
        if firewall.verdict(probe).known().is_some_and(|v| v.verdict != "depends" && v.sees != seen) {
            seen = lab.probe(std::slice::from_ref(probe), 3.0).remove(0);
        }
        match firewall.verdict(probe) {
            Fact::Unknown(why) => {
                score.unknown += 1;
                score.wrong.extend(score.unknown.eq(&1).then(|| format!("{name}: unknown: {why}")));
            }
            Fact::Known(v) if v.verdict == "depends" => score.depends += 1,
            Fact::Known(v) => {
                if v.sees != seen {
                    score.wrong.push(format!("{name}: {} -> {}: {:?}, but the client saw {seen}", probe.source, probe.port, v));
                }
                if let Some(at) = v.decided_by.filter(|_| v.packet == "syn") {
                    deciders.insert(format!("{at:?}"), at);
                }
            }
        }
    }
    // Which of legacy and nf_tables comes first at one priority cannot be seen, so neither which of two refusing rules counts.
    let both = [model::Engine::IptablesLegacy, model::Engine::IptablesNft]
        .iter()
        .all(|e| firewall.model.tables.iter().any(|t| t.engine == *e && t.chains.iter().any(|c| !c.rules.is_empty())));
    for at in deciders.values().take(if both { 0 } else { 12 }) {
        if let Some(count) = lab.counted(at) {
            score.rules_counted += 1;
            if count == 0 {
                score.wrong.push(format!("{name}: {at:?} is said to decide and counted nothing"));
            }
        }
    }
}

const UFW_LIKE: &str = "*filter
:INPUT DROP
:OUTPUT ACCEPT
:ufw-before-input -
:ufw-user-input -
:ufw-not-local -
:ufw-logging-deny -
:ufw-user-limit-accept -
-A INPUT -j ufw-before-input
-A ufw-before-input -i lo -j ACCEPT
-A ufw-before-input -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A ufw-before-input -m conntrack --ctstate INVALID -j ufw-logging-deny
-A ufw-before-input -m conntrack --ctstate INVALID -j DROP
-A ufw-before-input -p icmp -m icmp --icmp-type 8 -j ACCEPT
-A ufw-before-input -j ufw-not-local
-A ufw-before-input -j ufw-user-input
-A ufw-logging-deny -m limit --limit 3/min --limit-burst 10 -j RETURN
-A ufw-not-local -m addrtype --dst-type LOCAL -j RETURN
-A ufw-not-local -m addrtype --dst-type BROADCAST -j RETURN
-A ufw-not-local -m limit --limit 3/min --limit-burst 10 -j ufw-logging-deny
-A ufw-not-local -j DROP
-A ufw-user-input -s 203.0.113.0/24 -j DROP
-A ufw-user-input -p tcp -m tcp --dport 22 -j ACCEPT
-A ufw-user-input -s 10.0.0.0/8 -p tcp -m tcp --dport 5672 -j ACCEPT
-A ufw-user-input -p tcp -m tcp --dport 15672 -m conntrack --ctstate NEW -m recent --set --name DEFAULT --mask 255.255.255.255 --rsource
-A ufw-user-input -p tcp -m tcp --dport 15672 -j ufw-user-limit-accept
-A ufw-user-input -p tcp -m tcp --dport 80 -j REJECT --reject-with tcp-reset
-A ufw-user-limit-accept -j ACCEPT
COMMIT
";

const RHEL_LIKE: &str = "*filter
:INPUT ACCEPT
:FORWARD ACCEPT
:OUTPUT ACCEPT
-A INPUT -m state --state RELATED,ESTABLISHED -j ACCEPT
-A INPUT -i lo -j ACCEPT
-A INPUT -p tcp -m state --state NEW -m tcp --dport 22 -j ACCEPT
-A INPUT -p tcp -m multiport --dports 80,5671:5672 -m iprange --src-range 10.0.0.1-10.77.50.9 -j ACCEPT
-A INPUT ! -s 172.16.0.0/12 -p tcp -m tcp --dport 443 --tcp-flags FIN,SYN,RST,ACK SYN -j REJECT --reject-with icmp-port-unreachable
-A INPUT -s 100.64.0.9/32 -j DROP
-A INPUT -j REJECT --reject-with icmp-host-prohibited
-A INPUT -p tcp -m tcp --dport 15672 -j ACCEPT
COMMIT
";

/// SYN accepted and later packets not; a REJECT whose answer OUTPUT drops; goto; marks.
const ODD: &str = "*mangle
:PREROUTING ACCEPT
-A PREROUTING -p tcp -m tcp --dport 5671 -j MARK --set-xmark 0x8/0xff
COMMIT
*filter
:INPUT DROP
:OUTPUT DROP
:g -
-A INPUT -m mark --mark 0x8/0x8 -j ACCEPT
-A INPUT -p tcp -m tcp --dport 5672 --tcp-flags FIN,SYN,RST,ACK SYN -j ACCEPT
-A INPUT -p tcp -m tcp --dport 80 -j ACCEPT
-A INPUT -s 10.0.0.0/8 -g g
-A INPUT -p tcp -m tcp --dport 22 -j ACCEPT
-A INPUT -p tcp -m tcp --dport 443 -j REJECT --reject-with icmp-port-unreachable
-A INPUT -p tcp -m tcp --dport 5673 -j REJECT --reject-with tcp-reset
-A g -p tcp -m tcp --dport 22 -j RETURN
-A g -p tcp -m tcp --dport 15672 -j ACCEPT
-A OUTPUT -p tcp -m tcp --sport 5671:5672 -m conntrack --ctstate ESTABLISHED -j ACCEPT
-A OUTPUT -p tcp -m tcp --sport 22 -j ACCEPT
-A OUTPUT -p tcp -m tcp --sport 15672 -m state --state NEW -j ACCEPT
-A OUTPUT -p tcp -m conntrack --ctstate RELATED -j ACCEPT
COMMIT
";

const NATIVE: &str = "table inet early { chain pre { type filter hook prerouting priority raw; policy accept;
  ct state invalid tcp dport 25672 counter drop
  ct state new tcp dport 80 counter drop
}
}
table inet filter {
 set trusted { type ipv4_addr; flags interval; elements = { 10.0.0.0/8, 192.168.1.10-192.168.1.60 } }
 set pairs { type ipv4_addr . inet_service; flags interval; elements = { 172.16.0.0/12 . 5671-5672 } }
 map ports { type inet_service : verdict; elements = { 22 : accept, 443 : jump web } }
 chain web { ip saddr 203.0.113.7 counter reject with icmp type host-prohibited
  iifname \"eth*\" counter accept
 }
 chain input { type filter hook input priority 0; policy drop;
  ct state vmap { established : accept, related : accept, invalid : drop }
  iif lo accept
  meta l4proto { icmp, ipv6-icmp } accept
  tcp dport vmap @ports
  tcp dport vmap { 80 : continue, 81 : accept } counter drop
  ip saddr @trusted tcp dport { 5671-5673, 15672 } ct state new counter accept comment \"amqp\"
  ip saddr . tcp dport @pairs counter accept
  ip6 saddr 2001:db8::/32 tcp dport 5672 counter accept
  fib daddr type != local counter drop
  tcp dport 15672 limit rate 1/hour burst 1 packets accept
  ip saddr 100.64.0.0/10 counter reject
  tcp dport 25672 counter reject with tcp reset
 }
}
table inet soon { chain input { type filter hook input priority -300; policy accept;
 ct state invalid counter drop
}
}
table inet late { chain input { type filter hook input priority 10; policy accept; tcp dport 22 ip saddr 172.16.3.4 counter reject with icmpx admin-prohibited
  ip6 saddr fd77:50::1 tcp dport 443 counter reject with icmpx admin-prohibited
}
}
";

/// A native rule in a table of iptables-nft, which iptables-nft-save prints as if it matched everything.
const LIE: &str =
    "table ip filter { chain INPUT { type filter hook input priority 0; policy drop; ct state established,related accept
 tcp dport { 80, 443 } counter accept
}
}";

#[test]
fn verdicts_equal_the_kernels() {
    let lab = match Lab::new() {
        Ok(lab) => lab,
        Err(why) => return println!("skipped: {why}"),
    };
    let ip6 = |text: &str| {
        text.replace("icmp-port-unreachable", "icmp6-port-unreachable")
            .replace("-p icmp -m icmp --icmp-type 8", "-p ipv6-icmp")
            .replace("10.0.0.0/8", "2001:db8::/32")
            .replace("203.0.113.0/24", "fd77:50::/64")
            .replace("255.255.255.255", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")
            .replace("--dst-type BROADCAST", "--dst-type MULTICAST")
    };
    let mut scenarios: Vec<Scenario> = Vec::new();
    for (name, text) in [("ufw-like", UFW_LIKE), ("rhel-like", RHEL_LIKE), ("odd", ODD)] {
        scenarios.push((format!("{name}/nft"), false, vec![(Tool::Iptables { v6: false }, text.to_owned())]));
        scenarios.push((format!("{name}/legacy"), false, vec![(Tool::Legacy { v6: false }, text.to_owned())]));
    }
    scenarios.push(("ufw-like/nft6".to_owned(), true, vec![(Tool::Iptables { v6: true }, ip6(UFW_LIKE))]));
    scenarios.push(("ufw-like/legacy6".to_owned(), true, vec![(Tool::Legacy { v6: true }, ip6(UFW_LIKE))]));
    scenarios.push(("native".to_owned(), false, vec![(Tool::Nft, NATIVE.to_owned())]));
    scenarios.push(("native6".to_owned(), true, vec![(Tool::Nft, NATIVE.to_owned())]));
    scenarios.push(("lie".to_owned(), false, vec![(Tool::Nft, LIE.to_owned())]));
    scenarios.push((
        "all three".to_owned(),
        false,
        vec![
            (Tool::Legacy { v6: false }, RHEL_LIKE.to_owned()),
            (Tool::Iptables { v6: false }, UFW_LIKE.to_owned()),
            (Tool::Nft, NATIVE.to_owned()),
        ],
    ));
    let mut score = Score::default();
    for (name, v6, loads) in &scenarios {
        lab.flush();
        for (tool, text) in loads {
            lab.load(*tool, text).unwrap_or_else(|e| panic!("{name}: {e}"));
        }
        compare(&lab, name, *v6, &mut score);
        if ["rhel-like/nft", "rhel-like/legacy", "lie", "native"].contains(&name.as_str()) {
            open_and_close(&lab, name);
        }
    }
    println!("{} probes, {} depend, {} deciding rules checked by counter", score.probes, score.depends, score.rules_counted);
    assert!(score.wrong.is_empty(), "{}", score.wrong.join("\n"));
    assert!(score.depends * 10 < score.probes, "{} of {} depend", score.depends, score.probes);
}

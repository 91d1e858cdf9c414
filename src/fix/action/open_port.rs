//! Opens a TCP port for one source through whoever manages the packet filter: the smallest rule, just before the one that refuses,
//! and the commands that take exactly it back.

use crate::facts::Fact;
use crate::facts::firewall::model::{Engine, Key, Part, Rule, Step, Table, Target, Test, span};
use crate::facts::firewall::ufw::UserRule;
use crate::facts::firewall::verdict::At;
use crate::facts::firewall::{Firewall, Verdict};
use std::net::IpAddr;

/// How a port is opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenPort {
    /// Argument vectors to do and to undo each step; undone in reverse order. An empty vector: nothing to run.
    pub steps: Vec<(Vec<String>, Vec<String>)>,
    pub summary: String,
    /// The rule survives a reboot.
    pub persistent: bool,
    /// What has to be known or done besides.
    pub note: Option<String>,
}

/// Refusing rules in different tables that one plan may have to pass.
const MAX_RULES: usize = 4;
/// Chains and tables that hold blocked senders; a rule above them would let these in again.
const BLOCK_LISTS: [&str; 10] =
    ["f2b-", "fail2ban", "crowdsec", "CROWDSEC", "blacklist", "blocklist", "BLOCKLIST", "BLACKLIST", "DENYIN", "sshguard"];
/// Chains that programs fill while they run: saving them would freeze their content.
const DYNAMIC: [&str; 10] = ["f2b-", "fail2ban", "DOCKER", "KUBE-", "cali-", "LIBVIRT_", "ts-", "CNI-", "NETAVARK", "sshguard"];

/// Plans to let `source` (CIDR or address) connect to `port`. No steps if nothing refuses it; an error says, for the user, why
/// it cannot be done from here.
pub fn plan_open_port(
    fw: &Firewall,
    verdict: &Verdict,
    source: &str,
    destination: Option<IpAddr>,
    port: u16,
    interface: &str,
) -> Result<OpenPort, String> {
    let (v6, first, _) = span(source).ok_or_else(|| format!("{source} is neither an address nor a network"))?;
    let request = Request {
        source: normal(source, v6, first),
        v6,
        to: destination,
        port,
        interface: interface.to_owned(),
        local: destination.or_else(|| local(fw, v6)).ok_or("no address of this host to open the port on is known")?,
    };
    if request.local.is_ipv6() != v6 {
        return Err(format!("{source} and {} are of different address families", request.local));
    }
    if verdict.packet != "syn" && verdict.verdict != "accept" {
        let rule = verdict.decided_by.as_ref().map_or(String::new(), |d| format!(": {} {}: {}", d.table, d.chain, d.rule));
        return Err(format!("the SYN is let in, but later packets of the connection are dropped{rule}"));
    }
    let Some((_, at)) = refused(fw, &request) else {
        return match verdict.verdict.as_str() {
            "accept" => Ok(OpenPort {
                steps: Vec::new(),
                summary: format!("{} is open to {source} already", port),
                persistent: true,
                note: None,
            }),
            _ => Err(format!("no single rule decides; it depends on {}", verdict.depends_on.join("; "))),
        };
    };
    match fw.manager.as_str() {
        "firewalld" => request.firewalld(fw, &at),
        "ufw" => request.ufw(fw, &at),
        _ => request.rules(fw),
    }
}

struct Request {
    /// As `10.0.0.0/24`, or an address without `/32`.
    source: String,
    v6: bool,
    to: Option<IpAddr>,
    port: u16,
    interface: String,
    /// Destination that stands for all.
    local: IpAddr,
}

/// The way in which ufw and iptables write it: the network's own address, no length for a host.
fn normal(source: &str, v6: bool, first: u128) -> String {
    let address = if v6 { IpAddr::V6(first.into()) } else { IpAddr::V4(u32::try_from(first).unwrap_or(0).into()) };
    match source.split_once('/') {
        Some((_, "32")) if !v6 => address.to_string(),
        Some((_, "128")) if v6 => address.to_string(),
        Some((_, length)) => format!("{address}/{length}"),
        None => address.to_string(),
    }
}

fn local(fw: &Firewall, v6: bool) -> Option<IpAddr> {
    let link_local = |a: &IpAddr| matches!(a, IpAddr::V6(a) if a.is_unicast_link_local());
    fw.model.routing.as_ref()?.local().find(|a| a.is_ipv6() == v6 && !a.is_loopback() && !link_local(a))
}

fn refused(fw: &Firewall, request: &Request) -> Option<(crate::facts::firewall::Packet, At)> {
    fw.refused_example(&request.source, request.local, request.port, &request.interface)
}

fn argv(words: &[&str]) -> Vec<String> {
    words.iter().map(|w| (*w).to_owned()).collect()
}

/// Names of the chains that a packet was in when it was refused, the base chain first.
fn chains<'a>(table: &'a Table, at: &At) -> Vec<&'a str> {
    at.way.iter().map(|w| w.0).chain([at.chain]).map(|c| table.chains[c].name.as_str()).collect()
}

/// A ban is no oversight: it is to be lifted, not passed.
fn not_a_ban(fw: &Firewall, at: &At) -> Result<(), String> {
    let table = &fw.model.tables[at.table];
    let mut names = chains(table, at);
    names.push(&table.name);
    match names.iter().find(|n| BLOCK_LISTS.iter().any(|b| n.starts_with(b))) {
        Some(name) => {
            let rule = fw.describe(at).rule;
            let how = match name.strip_prefix("f2b-") {
                Some(jail) if jail != "table" => format!("; lift the ban with `fail2ban-client set {jail} unbanip ADDRESS`"),
                _ => String::new(),
            };
            Err(format!(
                "the sender is on a block list ({name}: {rule}), and a rule above it would let everybody on it in again{how}"
            ))
        }
        None => Ok(()),
    }
}

impl Request {
    fn every_source(&self) -> bool {
        matches!(self.source.as_str(), "0.0.0.0/0" | "::/0")
    }

    fn summary(&self, by: &str) -> String {
        format!("let {} connect to TCP port {} ({by})", self.source, self.port)
    }

    // --- ufw

    /// `ufw [insert N|delete] ACTION [log] proto tcp from S to D port P`
    fn ufw_rule(&self, before: &[&str], action: &str, log: &str, comment: bool) -> Vec<String> {
        let to = self.to.map_or("any".to_owned(), |a| a.to_string());
        let mut all = argv(&["ufw"]);
        all.extend(argv(before));
        all.push(action.to_owned());
        all.extend(log.strip_prefix('_').map(str::to_owned));
        all.extend(argv(&["proto", "tcp", "from", &self.source, "to", &to, "port", &self.port.to_string()]));
        if comment {
            all.extend(argv(&["comment", "rmq-audit"]));
        }
        all
    }

    fn same_tuple(&self, rule: &UserRule) -> bool {
        let any = if self.v6 { "::/0" } else { "0.0.0.0/0" };
        rule.v6 == self.v6
            && !rule.route
            && !rule.application
            && rule.direction == "in"
            && rule.protocol == "tcp"
            && rule.port == self.port.to_string()
            && rule.source == self.source
            && rule.source_port == "any"
            && rule.destination == self.to.map_or(any.to_owned(), |a| a.to_string())
    }

    fn ufw(&self, fw: &Firewall, at: &At) -> Result<OpenPort, String> {
        not_a_ban(fw, at)?;
        if !fw.ufw_loaded {
            return Err("ufw is enabled but its chains are not in the kernel: `ufw reload` loads them".to_owned());
        }
        let rules = match &fw.ufw_rules {
            Fact::Known(rules) => rules,
            Fact::Unknown(why) => return Err(format!("ufw's rules could not be read: {why}")),
        };
        let table = &fw.model.tables[at.table];
        let names = chains(table, at);
        let ours = |name: &str| name.starts_with("ufw-") || name.starts_with("ufw6-");
        let policy = at.rule.is_none() && names == ["INPUT"];
        if !(policy || names.iter().any(|n| ours(n))) {
            let rule = fw.describe(at);
            return Err(format!(
                "a rule that is not ufw's refuses first, and no rule of ufw can change that: {}: {}",
                rule.chain, rule.rule
            ));
        }
        let user = if self.v6 { "ufw6-user-input" } else { "ufw-user-input" };
        let line = at.way.iter().copied().chain(at.rule.map(|r| (at.chain, r))).find(|w| table.chains[w.0].name == user);
        let mut steps = Vec::new();
        let old = rules.iter().find(|r| self.same_tuple(r));
        let plain = self.ufw_rule(&[], "allow", "", true);
        let undo = self.ufw_rule(&["delete"], "allow", "", false);
        let Some((chain, line)) = line else {
            if names.iter().any(|n| n.contains("-before-") || n.contains("-not-local")) {
                let rule = fw.describe(at);
                return Err(format!("a rule of /etc/ufw/before.rules refuses before any user rule: {}", rule.rule));
            }
            if old.is_some_and(|r| r.action == "allow") {
                return Err("ufw has this rule in its files but not in the kernel: `ufw reload` loads it".to_owned());
            }
            steps.push((plain, undo));
            return Ok(self.by_ufw(steps));
        };
        let drifted =
            rules.iter().filter(|r| r.v6 == self.v6).map(|r| r.lines.len()).sum::<usize>() != table.chains[chain].rules.len();
        let decider = rules.iter().find(|r| r.v6 == self.v6 && r.lines.contains(&(line as i64 + 1)));
        let decider = match decider {
            Some(rule) if !drifted => rule,
            _ => return Err("ufw's chain in the kernel differs from its files: `ufw reload` first".to_owned()),
        };
        match old {
            // `ufw allow` changes the action of the same rule in place, so that its undo is to change it back.
            Some(same) if same.position == decider.position => {
                steps.push((plain, self.ufw_rule(&[], &same.action, &same.log, false)));
            }
            other => {
                if let Some(lower) = other {
                    // "Skipping inserting existing rule": what is there has to go first.
                    let last = rules.iter().filter(|r| r.v6 == self.v6).all(|r| r.position <= lower.position);
                    let position = lower.position.to_string();
                    let before: &[&str] = if last { &[] } else { &["insert", &position] };
                    steps.push((
                        self.ufw_rule(&["delete"], &lower.action, &lower.log, false),
                        self.ufw_rule(before, &lower.action, &lower.log, false),
                    ));
                }
                let position = decider.position.to_string();
                steps.push((self.ufw_rule(&["insert", &position], "allow", "", true), undo));
            }
        }
        Ok(self.by_ufw(steps))
    }

    fn by_ufw(&self, steps: Vec<(Vec<String>, Vec<String>)>) -> OpenPort {
        OpenPort { steps, summary: self.summary("ufw"), persistent: true, note: None }
    }

    // --- firewalld

    fn firewalld(&self, fw: &Firewall, at: &At) -> Result<OpenPort, String> {
        not_a_ban(fw, at)?;
        let table = &fw.model.tables[at.table];
        if !fw.model.tables.iter().any(|t| t.name == "firewalld" || t.chain("INPUT_ZONES").is_some()) {
            return Err(
                "firewalld runs but its table is gone from the kernel; a reload would then drop everything: restart firewalld"
                    .to_owned(),
            );
        }
        let names = chains(table, at);
        let zone_chain = names.iter().rev().find_map(|n| n.strip_prefix("filter_IN_").or_else(|| n.strip_prefix("IN_")));
        let Some(zone_chain) = zone_chain else {
            let rule = fw.describe(at);
            return Err(format!(
                "a rule outside firewalld's zones refuses it, and firewalld cannot change that: {} {}: {}",
                rule.table, rule.chain, rule.rule
            ));
        };
        let part = ["_pre", "_log", "_deny", "_allow", "_post"].into_iter().find(|p| zone_chain.ends_with(p));
        let zone = part.and_then(|p| zone_chain.strip_suffix(p)).unwrap_or(zone_chain);
        let denied = matches!(part, Some("_pre" | "_deny"));
        let what = if self.every_source() && self.to.is_none() && !denied {
            format!("port={}/tcp", self.port)
        } else {
            let family = if self.v6 { "ipv6" } else { "ipv4" };
            let priority = if denied { " priority=\"-100\"" } else { "" };
            let source = if self.every_source() { String::new() } else { format!(" source address=\"{}\"", self.source) };
            let to = self.to.map_or(String::new(), |a| format!(" destination address=\"{a}\""));
            format!(
                "rich-rule=rule family=\"{family}\"{priority}{source}{to} port port=\"{}\" protocol=\"tcp\" accept",
                self.port
            )
        };
        let zone_option = format!("--zone={zone}");
        let (add, remove) = (format!("--add-{what}"), format!("--remove-{what}"));
        let step = |permanent: bool| {
            let mut both = [argv(&["firewall-cmd"]), argv(&["firewall-cmd"])];
            for (command, what) in both.iter_mut().zip([&add, &remove]) {
                command.extend(permanent.then(|| "--permanent".to_owned()));
                command.extend([zone_option.clone(), what.clone()]);
            }
            let [run, undo] = both;
            (run, undo)
        };
        Ok(OpenPort {
            steps: vec![step(true), step(false)],
            summary: self.summary(&format!("firewalld, zone {zone}")),
            persistent: true,
            note: None,
        })
    }

    // --- iptables and nftables rules, table by table

    /// Passes every refusing rule in turn; each insertion is tried on a copy of the model before the next is looked for.
    fn rules(&self, fw: &Firewall) -> Result<OpenPort, String> {
        let mut fw = fw.clone();
        let mut plan = OpenPort { steps: Vec::new(), summary: String::new(), persistent: false, note: None };
        let mut engines = Vec::new();
        for _ in 0..MAX_RULES {
            let Some((_, at)) = refused(&fw, self) else { break };
            not_a_ban(&fw, &at)?;
            let table = &fw.model.tables[at.table];
            let refusing = at.rule.and_then(|r| table.chains[at.chain].rules.get(r));
            let translates = |rule: &&Rule| rule.steps.iter().any(|s| matches!(s, Step::Go(Target::Translate(_))));
            if let Some(rule) = refusing.filter(translates) {
                return Err(format!("a translation sends the connection elsewhere: {}", rule.text));
            }
            engines.push(table.engine);
            let (chain, place) = at.way.first().map_or((at.chain, at.rule), |w| (w.0, Some(w.1)));
            plan.steps.push(match table.engine {
                Engine::Nftables => self.nft_step(table, chain, place),
                engine => self.iptables_step(table, chain, place, engine),
            });
            self.try_out(&mut fw, at.table, chain, place);
        }
        if plan.steps.is_empty() || refused(&fw, self).is_some() {
            return Err("more rules refuse it than can be passed one by one".to_owned());
        }
        let native = engines.contains(&Engine::Nftables);
        let iptables = engines.iter().any(|e| *e != Engine::Nftables);
        plan.summary = self.summary(if native { "nftables" } else { "iptables" });
        let mut notes = Vec::new();
        if native {
            let file = "/etc/nftables.conf";
            let rule = self.nft_match();
            notes.push(format!(
                "the rule is in the kernel only: to keep it over a reboot add `{rule} accept` to the same chain in {file}, before the \
                 rule that refuses; do not restart nftables.service, it flushes every table. Undo empties the chain {} and leaves it and the \
                 jump to it, without effect, until then",
                self.nft_chain()
            ));
        }
        if iptables {
            self.keep(&mut plan, &fw, &mut notes, native);
        }
        plan.note = (!notes.is_empty()).then(|| notes.join("; "));
        Ok(plan)
    }

    /// netfilter-persistent saves what runs, unless that would freeze what other programs put there.
    fn keep(&self, plan: &mut OpenPort, fw: &Firewall, notes: &mut Vec<String>, native: bool) {
        if fw.manager != "netfilter-persistent" {
            return notes.push("rules of plain iptables are gone after a reboot: nothing here saves them".to_owned());
        }
        let names = fw.model.tables.iter().flat_map(|t| t.chains.iter().map(|c| c.name.as_str()));
        if let Some(name) = names.into_iter().find(|n| DYNAMIC.iter().any(|d| n.starts_with(d))) {
            let file = if self.v6 { "rules.v6" } else { "rules.v4" };
            return notes.push(format!(
                "not saved, because that would freeze chain {name}: add the rule to /etc/iptables/{file} by hand"
            ));
        }
        // Undone in reverse order, so the save that undoes comes first in the list and runs after the rule is gone.
        let save = argv(&["netfilter-persistent", "save"]);
        plan.steps.insert(0, (Vec::new(), save.clone()));
        plan.steps.push((save, Vec::new()));
        plan.persistent = !native;
        notes.push("netfilter-persistent saves all rules that run now, not this one alone".to_owned());
    }

    fn iptables_step(&self, table: &Table, chain: usize, place: Option<usize>, engine: Engine) -> (Vec<String>, Vec<String>) {
        let program = match (engine, self.v6) {
            (Engine::IptablesLegacy, false) => "iptables-legacy",
            (Engine::IptablesLegacy, true) => "ip6tables-legacy",
            (_, false) => "iptables-nft",
            (_, true) => "ip6tables-nft",
        };
        let name = &table.chains[chain].name;
        let mut head = argv(&[program, "-w", "5"]);
        if table.name != "filter" {
            head.extend(argv(&["-t", &table.name]));
        }
        let mut tail = Vec::new();
        if !self.every_source() {
            tail.extend(argv(&["-s", &self.source]));
        }
        if let Some(to) = self.to {
            tail.extend(argv(&["-d", &to.to_string()]));
        }
        tail.extend(argv(&["-p", "tcp", "-m", "tcp", "--dport", &self.port.to_string()]));
        tail.extend(argv(&["-m", "comment", "--comment", "rmq-audit", "-j", "ACCEPT"]));
        let verb = match place {
            Some(rule) => argv(&["-I", name, &(rule + 1).to_string()]),
            None => argv(&["-A", name]),
        };
        let all = |verb: Vec<String>| head.iter().cloned().chain(verb).chain(tail.iter().cloned()).collect();
        (all(verb), all(argv(&["-D", name])))
    }

    fn nft_match(&self) -> String {
        let family = if self.v6 { "ip6" } else { "ip" };
        let source = if self.every_source() {
            format!("meta nfproto {}", if self.v6 { "ipv6" } else { "ipv4" })
        } else {
            format!("{family} saddr {}", self.source)
        };
        let to = self.to.map_or(String::new(), |a| format!(" {family} daddr {a}"));
        format!("{source}{to} tcp dport {}", self.port)
    }

    fn nft_chain(&self) -> String {
        let source: String = self.source.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
        format!("rmq_audit_{}_{source}", self.port)
    }

    /// The rule stands in a chain of its own: nft deletes rules by a handle that is not known before, but a chain can be emptied by name,
    /// which touches nobody else's rule. One transaction.
    fn nft_step(&self, table: &Table, chain: usize, place: Option<usize>) -> (Vec<String>, Vec<String>) {
        let (title, own, name) = (table.title(), self.nft_chain(), &table.chains[chain].name);
        let jump = match place.and_then(|r| table.chains[chain].rules.get(r)) {
            Some(rule) => format!("insert rule {title} {name} position {} jump {own}", rule.number),
            None => format!("add rule {title} {name} jump {own}"),
        };
        let rule = format!("add rule {title} {own} {} accept comment \"rmq-audit\"", self.nft_match());
        let run = format!("add chain {title} {own}; flush chain {title} {own}; {rule}; {jump}");
        (argv(&["nft", &run]), argv(&["nft", &format!("flush chain {title} {own}")]))
    }

    /// The same insertion in the model.
    fn try_out(&self, fw: &mut Firewall, table: usize, chain: usize, place: Option<usize>) {
        let Some((_, first, last)) = span(&self.source) else { return };
        let is = |key, low, high| Step::Test(Test::is(key, Part::Span(low, high), false));
        let mut steps = vec![
            is(Key::Source, first, last),
            is(Key::Protocol, 6, 6),
            is(Key::DestinationPort, self.port.into(), self.port.into()),
        ];
        if let Some(to) = self.to {
            let to = crate::facts::firewall::model::number(to);
            steps.push(is(Key::Destination, to, to));
        }
        steps.push(Step::Go(Target::Accept));
        let rules = &mut fw.model.tables[table].chains[chain].rules;
        let place = place.unwrap_or(rules.len());
        rules.insert(place.min(rules.len()), Rule { text: "rmq-audit".to_owned(), number: 0, steps, packets: None });
    }
}

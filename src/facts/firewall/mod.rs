//! Packet filters: who manages them, and the verdict for a packet.

mod bounds;
pub mod counters;
mod course;
pub(crate) mod display;
pub mod impact;
pub(crate) mod ip_sets;
pub(crate) mod iptables;
pub mod lookup;
mod meaning;
pub mod model;
mod nat;
pub mod native;
pub(crate) mod netlink;
pub mod owners;
mod packet;
mod read;
pub mod routing;
mod set_match;
pub mod ufw;
pub mod verdict;
pub mod vm;
pub(crate) mod xt;

#[cfg(test)]
mod tests;
#[cfg(test)]
mod xt_tests;

#[cfg(test)]
pub use iptables::tables as iptables_tables;

use super::Fact;
use crate::host::Host;
use course::{Fate, Outcome};
use serde::Serialize;
use std::collections::BTreeSet;
use std::net::IpAddr;
use verdict::{At, Hit, Options};

/// What decides about packets that come in.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Firewall {
    /// ufw | firewalld | nftables-service | netfilter-persistent | iptables | nftables | none
    pub manager: String,
    /// ufw is enabled (/etc/ufw/ufw.conf)
    pub ufw_enabled: bool,
    /// ufw's chains are in the kernel: enabled without them means that it filters nothing (or, after a flush, everything).
    pub ufw_loaded: bool,
    pub firewalld_running: bool,
    /// Ruleset sources that hold at least one base chain: iptables-nft, iptables-legacy, nftables, …
    pub engines: Vec<String>,
    /// Rules in /etc/ufw/user.rules and user6.rules, in the order in which `ufw insert` counts them; not for rules.
    #[serde(skip)]
    pub ufw_rules: Fact<Vec<ufw::UserRule>>,
    /// Who put the rules there.
    #[serde(flatten)]
    pub owned: owners::Owners,
    /// The parsed packet-filter model; not for rules.
    #[serde(skip)]
    pub model: model::Model,
}

/// A packet: a new TCP connection to this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub port: u16,
    /// Interface that it comes in by.
    pub interface: String,
}

/// The answer for one packet (or a network: the first address, unless the ruleset tells its parts apart).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Verdict {
    /// accept | drop | reject | depends
    pub verdict: String,
    /// tcp-reset | icmp-port-unreachable | icmp-host-prohibited | …; null unless reject
    pub reject_with: Option<String>,
    pub decided_by: Option<DecidingRule>,
    /// For `depends`: on what.
    pub depends_on: Vec<String>,
    /// An accept rule for this packet that stands behind the deciding rule.
    pub shadowed_accept: Option<DecidingRule>,
    /// What the client sees: connected | refused | timeout | unreachable | hangs | reset | unknown
    pub sees: String,
    /// Which packet of the connection is decided about: syn | reply | established | neighbour
    pub packet: String,
    /// The jumps that led to the deciding rule, the base chain's first.
    pub way: Vec<DecidingRule>,
    /// Address and port after a translation (DNAT, REDIRECT) on this host; null: not translated
    pub delivered_to: Option<String>,
    /// Set with `delivered_to` where that is not an address of this host: the connection leaves it, to a container or another host.
    pub forwarded: bool,
    /// The rule that translated; null: not translated, or not told
    pub translated_by: Option<DecidingRule>,
    /// For `depends`: what may happen, the worst first.
    pub outcomes: Vec<Possibility>,
}

/// One of the outcomes that a verdict of `depends` leaves open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Possibility {
    /// accept | drop | reject | unknown
    pub verdict: String,
    pub reject_with: Option<String>,
    pub sees: String,
    pub packet: String,
    pub decided_by: Option<DecidingRule>,
    /// What has to hold for it, one condition each: `if …`, `unless …`, `from …`.
    pub when: Vec<String>,
}

/// One possible fate of a connection in all detail; see [`Firewall::trace`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Course {
    /// accept | drop | reject | undecided
    pub verdict: &'static str,
    pub reject_with: Option<String>,
    /// For `undecided`: why.
    pub why: Option<String>,
    pub sees: &'static str,
    /// syn | reply | established
    pub packet: &'static str,
    pub decided_by: Option<DecidingRule>,
    /// The same as a place in the model; `None`: no rule or policy decides, but a route or a sysctl, or nothing at all.
    pub decider: Option<At>,
    pub delivered_to: Option<std::net::SocketAddr>,
    pub forwarded: bool,
    /// Conditions that the ruleset does not decide, and how they were taken.
    pub assumed: BTreeSet<(String, bool)>,
    /// Rules and policies that count one of its packets, in order.
    pub matched: Vec<Hit>,
}

/// The rule (or policy) that decides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct DecidingRule {
    /// `ip filter`, `inet filter`, …
    pub table: String,
    pub chain: String,
    /// As its own tool prints it, or `policy drop`.
    pub rule: String,
    /// nft handle, or position in the chain counted from 1
    pub handle_or_line: Option<i64>,
    /// Packets that the rule's counter has seen; null: it has none
    pub packets: Option<i64>,
}

impl DecidingRule {
    /// It is a chain's policy.
    pub fn is_policy(&self) -> bool {
        self.handle_or_line.is_none() && !self.is_routing()
    }

    /// No packet filter decides, but the routing tables or a sysctl.
    pub fn is_routing(&self) -> bool {
        self.table == "routing"
    }

    /// iptables counts rules from 1; nft names them by handle.
    pub fn number(&self) -> String {
        match self.handle_or_line {
            Some(n) if self.rule.starts_with("-A ") => format!("rule {n}"),
            Some(n) => format!("handle {n}"),
            None => self.rule.clone(),
        }
    }

    /// `ip filter INPUT, rule 3`; `inet filter input, handle 12`; `ip filter INPUT, policy DROP`
    pub fn place(&self) -> String {
        format!("{} {}, {}", self.table, self.chain, self.number())
    }
}

/// Addresses that no client has; what a ruleset says of them does not split a network that holds others as well.
const NEVER_CLIENTS: [&str; 5] = ["0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/3", "::/127", "ff00::/8"];
/// Parts of a network that are evaluated one by one.
const MAX_CLASSES: usize = 2000;
/// Rules that are looked behind to find a shadowed accept.
const MAX_SHADOWS: usize = 64;
/// Percentage of its entries from which on the connection tracking table counts as full.
const FULL: i64 = 98;

/// Collects the packet filters of a host: every source of rules at once, by commands that only print.
pub fn collect(host: &dyn Host) -> Fact<Firewall> {
    read::collect(host)
}

impl Firewall {
    /// What happens to a new connection. Unknown where a source of rules could not be read.
    pub fn verdict(&self, packet: &Packet) -> Fact<Verdict> {
        if let Err(why) = self.readable(packet) {
            return Fact::Unknown(why);
        }
        let (options, orders) = self.orders(packet.destination.is_ipv6());
        let fates = self.all_fates(packet, &options);
        let mut verdict = self.summed_up(&fates);
        for (options, order) in orders {
            let other = self.summed_up(&self.all_fates(packet, &options));
            if verdict.differs(&other) {
                let part = |verdict: &Verdict, when: &str| verdict.of_part(&format!("{when} {order}"));
                let outcomes = [part(&verdict, "unless"), part(&other, "if")].concat();
                let sees = if verdict.sees == other.sees { other.sees } else { "unknown".to_owned() };
                verdict = Verdict { verdict: "depends".to_owned(), reject_with: None, sees, outcomes, ..verdict };
                verdict.depends_on.push(format!("whether {order}"));
            }
        }
        if verdict.verdict == "accept" {
            self.doubt(packet, &mut verdict);
        }
        if matches!(verdict.verdict.as_str(), "drop" | "reject") && verdict.packet == "syn" {
            verdict.shadowed_accept = fates.first().and_then(|f| f.at.as_ref()).and_then(|at| self.behind(packet, at));
        }
        Fact::Known(verdict)
    }

    /// The verdict for a network, given as CIDR, address, `any` or `local`: that of its first host, unless the ruleset tells
    /// its parts apart; then `depends`, with the parts.
    pub fn verdict_for_network(&self, from: &str, destination: IpAddr, port: u16, interface: &str) -> Fact<Verdict> {
        let packet = |source| Packet { source, destination, port, interface: interface.to_owned() };
        let from = match from {
            "any" if destination.is_ipv6() => "::/0",
            "any" => "0.0.0.0/0",
            "local" => return self.verdict(&packet(destination)),
            other => other,
        };
        let Some((v6, first, last)) = model::span(from) else {
            return Fact::Unknown(format!("{from} is neither an address nor a network"));
        };
        if v6 != destination.is_ipv6() {
            return Fact::Unknown(format!("{from} and {destination} are of different address families"));
        }
        let (starts, unclear) = self.class_starts(v6, first, last);
        if unclear {
            return Fact::Unknown(format!(
                "the ruleset looks at single bits of the client's address: addresses of {from} may differ"
            ));
        }
        if starts.len() > MAX_CLASSES {
            return Fact::Unknown(format!("the ruleset tells more than {MAX_CLASSES} parts of {from} apart"));
        }
        let mut groups: Vec<(Verdict, Vec<u128>)> = Vec::new();
        for start in starts {
            // The network's own address is no host.
            let mut host = if start == first && first < last { start + 1 } else { start };
            let ours = |host| {
                let host = address(v6, host);
                !host.is_loopback() && self.model.routing.as_ref().is_some_and(|r| r.is_local(host))
            };
            let mut asked = packet(address(v6, host));
            if ours(host) && first == last {
                // This host's own connections go over loopback, whichever address they are to.
                asked.interface = "lo".to_owned();
            } else if ours(host) && host < last {
                host += 1;
                asked = packet(address(v6, host));
            }
            let one = match self.verdict(&asked) {
                Fact::Known(verdict) => verdict,
                unknown => return unknown,
            };
            let like = |v: &Verdict| (v.verdict.clone(), v.reject_with.clone(), v.sees.clone());
            match groups.iter_mut().find(|(v, _)| like(v) == like(&one)) {
                Some((_, members)) => members.push(host),
                None => groups.push((one, vec![host])),
            }
        }
        if groups.len() > 1 {
            let shown: Vec<String> =
                groups.iter().map(|(v, hosts)| format!("{}: {}", hosts_text(v6, hosts), v.verdict)).collect();
            let outcomes = groups.iter().flat_map(|(v, hosts)| v.of_part(&format!("from {}", hosts_text(v6, hosts)))).collect();
            let mut verdict = groups.swap_remove(0).0;
            verdict.outcomes = outcomes;
            verdict.depends_on.insert(0, format!("parts of {from} are treated differently: {}", shown.join(", ")));
            verdict = Verdict { verdict: "depends".to_owned(), reject_with: None, sees: "unknown".to_owned(), ..verdict };
            return Fact::Known(verdict);
        }
        match groups.pop() {
            Some((verdict, _)) => Fact::Known(verdict),
            None => Fact::Unknown(format!("{from} is empty")),
        }
    }

    /// Everything that may happen, the search for this host's link address included.
    fn all_fates(&self, packet: &Packet, options: &Options) -> Vec<Fate> {
        let mut fates = self.fates(packet, options);
        self.find_neighbours(packet, options, &mut fates);
        fates
    }

    /// An order in which the kernel may call what hangs at one priority; others that it may call it in as well, and when it does.
    fn orders(&self, v6: bool) -> (Options, Vec<(Options, &'static str)>) {
        let seen = self.model.tables.iter().filter(|t| t.family.sees(v6)).flat_map(|t| &t.chains);
        let beside = |c: &model::Chain| c.base.as_ref().is_some_and(verdict::beside_conntrack) && !c.rules.is_empty();
        let chains_first = seen.into_iter().any(beside).then_some(false);
        let usual = Options { chains_first, ..Options::default() };
        let mut others = Vec::new();
        if self.order_unknown() {
            let legacy = Options { legacy_last: true, ..usual.clone() };
            others.push((legacy, "iptables-legacy was registered before nf_tables"));
        }
        if chains_first.is_some() {
            let first = Options { chains_first: Some(true), ..usual.clone() };
            others.push((first, "connection tracking was registered before a chain of its own priority"));
        }
        (usual, others)
    }

    /// Legacy and nf_tables both hold rules: user space cannot see which of them the kernel asks first at one priority.
    fn order_unknown(&self) -> bool {
        let holds = |legacy: bool| {
            let mut of_kind = self.model.tables.iter().filter(|t| (t.engine == model::Engine::IptablesLegacy) == legacy);
            of_kind.any(|t| t.chains.iter().any(|c| c.base.is_some()))
        };
        holds(true) && holds(false)
    }

    fn readable(&self, packet: &Packet) -> Result<(), String> {
        let v6 = packet.destination.is_ipv6();
        if packet.source.is_ipv6() != v6 {
            return Err(format!("{} and {} are of different address families", packet.source, packet.destination));
        }
        match self.model.unread.iter().find(|u| u.v6.is_none_or(|f| f == v6)) {
            Some(unread) => Err(unread.why.clone()),
            None => Ok(()),
        }
    }

    /// First addresses of the parts of all addresses that conditions on the source may tell apart; and why they do not stand for the
    /// others, where they do not.
    pub fn source_starts(&self, v6: bool) -> (Vec<u128>, Option<&'static str>) {
        let (starts, unclear) = self.class_starts(v6, 0, if v6 { u128::MAX } else { u32::MAX.into() });
        (starts, unclear.then_some(impact::BITS))
    }

    /// First addresses of the parts of a range that conditions on the client's address may tell apart; and whether there are
    /// conditions that tell more apart than ranges.
    fn class_starts(&self, v6: bool, first: u128, last: u128) -> (Vec<u128>, bool) {
        let mut starts = BTreeSet::from([first]);
        let inside = |v: u128| first < v && v <= last;
        let never = NEVER_CLIENTS.iter().filter_map(|n| model::span(n)).filter(|n| n.0 == v6);
        let never: Vec<(u128, u128)> = never.map(|(_, low, high)| (low, high)).collect();
        for (low, high) in &never {
            starts.extend([Some(*low), high.checked_add(1)].into_iter().flatten().filter(|v| inside(*v)));
        }
        let (mut found, mut routes, mut unclear) = (Vec::new(), false, false);
        for table in self.model.tables.iter().filter(|t| t.family.sees(v6)) {
            for (chain, incoming) in bounds::chains(table) {
                for rule in &table.chains[chain].rules {
                    let side = bounds::Side { v6, incoming };
                    let mut of_rule = bounds::Bounds::default();
                    let natives = rule.steps.iter().filter_map(|s| if let model::Step::Native(n) = s { Some(n) } else { None });
                    bounds::of_rule(natives, side, &mut of_rule);
                    let tests = rule.steps.iter().filter_map(|s| if let model::Step::Test(t) = s { Some(t) } else { None });
                    tests.for_each(|test| bounds::of_test(test, &self.model, incoming, &mut of_rule));
                    found.append(&mut of_rule.ranges);
                    unclear |= of_rule.unclear;
                    routes |= of_rule.routes;
                }
            }
        }
        if let Some(routing) = self.model.routing.as_ref().filter(|_| routes) {
            routing.boundaries(v6, &mut |low, high| found.push((low, high)));
        }
        for (low, high) in found {
            starts.extend([low].into_iter().filter(|v| inside(*v)));
            starts.extend(high.checked_add(1).filter(|v| inside(*v)));
        }
        let clients: Vec<u128> =
            starts.iter().copied().filter(|s| !never.iter().any(|(low, high)| low <= s && s <= high)).collect();
        // Whoever asks for such an address by name shall get an answer.
        (if clients.is_empty() { starts.into_iter().collect() } else { clients }, unclear && first < last)
    }

    /// Every possible fate of a new connection with every rule that counts one of its packets: what a test against the kernel
    /// compares counters with. One element where the ruleset decides. Neighbour discovery is left out.
    pub fn trace(&self, packet: &Packet) -> Fact<Vec<Course>> {
        if let Err(why) = self.readable(packet) {
            return Fact::Unknown(why);
        }
        let options = Options { record: true, ..Options::default() };
        Fact::Known(self.fates(packet, &options).into_iter().map(|fate| self.course(fate)).collect())
    }

    fn course(&self, fate: Fate) -> Course {
        let decided_by = self.decided(&fate);
        let (verdict, reject_with, why) = match fate.outcome {
            Outcome::Accept => ("accept", None, None),
            Outcome::Drop => ("drop", None, None),
            Outcome::Reject(with) => ("reject", Some(with), None),
            Outcome::Open(why) => ("undecided", None, Some(why)),
        };
        Course {
            verdict,
            reject_with,
            why,
            sees: fate.sees,
            packet: fate.packet,
            decided_by,
            decider: fate.at,
            delivered_to: fate.delivered.map(|(to, _)| to),
            forwarded: fate.delivered.is_some_and(|(_, away)| away),
            assumed: fate.assumed,
            matched: fate.hits,
        }
    }

    /// The link address of this host has to be found first. Where it cannot be, the client sees that, whatever becomes of a SYN.
    fn find_neighbours(&self, packet: &Packet, options: &Options, fates: &mut Vec<Fate>) {
        let mut found = self.neighbour(packet, options);
        let dropped = |f: &Fate| f.outcome != Outcome::Accept;
        if !found.iter().any(dropped) {
            return;
        }
        let accepted = fates.iter().any(|f| f.outcome == Outcome::Accept);
        if found.iter().all(dropped) {
            if accepted {
                *fates = found;
            } else {
                fates.iter_mut().filter(|f| f.packet == "syn").for_each(|f| f.sees = "unreachable");
            }
        } else if accepted {
            found.retain(dropped);
            fates.splice(0..0, found);
        }
    }

    /// What stands outside the packet filter and may still stop what it accepts.
    fn doubt(&self, packet: &Packet, verdict: &mut Verdict) {
        let Some(routing) = &self.model.routing else { return };
        let mut doubts = Vec::new();
        let link = routing.link(&packet.interface);
        if link.is_some_and(|l| l.xdp) {
            doubts.push(format!("the XDP program on {}, which sees packets first", packet.interface));
        }
        if link.is_some_and(|l| l.ingress_filters) {
            doubts.push(format!("filters of the traffic control (tc) on {}, which see packets first", packet.interface));
        }
        if link.and_then(|l| l.master).and_then(|m| routing.link_at(m)).is_some_and(|m| m.kind == "vrf") {
            doubts.push(format!("the VRF that {} belongs to", packet.interface));
        }
        if routing.settings.ip_vs {
            doubts.push("IPVS, which has virtual services on this host".to_owned());
        }
        if let Some((count, most)) = routing.settings.connections.filter(|(count, most)| count * 100 >= most * FULL) {
            doubts.push(format!("the connection tracking table, which is full ({count} of {most}): new connections are dropped"));
        }
        if !doubts.is_empty() {
            let (verdict_was, sees) = (verdict.verdict.clone(), verdict.sees.clone());
            verdict.outcomes = vec![Possibility {
                verdict: verdict_was,
                reject_with: None,
                sees,
                packet: verdict.packet.clone(),
                decided_by: verdict.decided_by.clone(),
                when: doubts.iter().map(|d| format!("unless it is stopped by {d}")).collect(),
            }];
            verdict.verdict = "depends".to_owned();
            verdict.sees = "unknown".to_owned();
            verdict.depends_on = doubts;
        }
    }

    fn summed_up(&self, fates: &[Fate]) -> Verdict {
        let deciding = fates.iter().find(|f| f.outcome != Outcome::Accept).or(fates.first());
        let decided_by = deciding.and_then(|f| self.decided(f));
        let way = deciding.and_then(|f| f.at.as_ref()).map_or(Vec::new(), |at| self.way(at));
        let delivered = deciding.and_then(|f| f.delivered);
        let mut verdict = Verdict {
            verdict: "accept".to_owned(),
            reject_with: None,
            decided_by,
            depends_on: Vec::new(),
            shadowed_accept: None,
            sees: deciding.map_or("connected", |f| f.sees).to_owned(),
            packet: deciding.map_or("syn", |f| f.packet).to_owned(),
            way,
            delivered_to: delivered.map(|(to, _)| to.to_string()),
            forwarded: delivered.is_some_and(|(_, away)| away),
            translated_by: deciding.and_then(|f| f.translated_by.as_ref()).map(|at| self.describe(at)),
            outcomes: Vec::new(),
        };
        let same = fates.windows(2).all(|w| w[0].outcome == w[1].outcome && w[0].delivered == w[1].delivered);
        if fates.windows(2).any(|w| w[0].sees != w[1].sees) {
            verdict.sees = "unknown".to_owned();
        }
        match deciding.map(|f| &f.outcome) {
            None | Some(Outcome::Accept) if same => {}
            Some(Outcome::Drop) if same => verdict.verdict = "drop".to_owned(),
            Some(Outcome::Reject(with)) if same => {
                verdict.verdict = "reject".to_owned();
                verdict.reject_with = Some(with.clone());
            }
            _ => {
                let mut on = BTreeSet::new();
                for fate in fates {
                    on.extend(fate.assumed.iter().map(|(what, _)| what.clone()));
                    if let Outcome::Open(why) = &fate.outcome {
                        on.insert(why.clone());
                    }
                }
                verdict.verdict = "depends".to_owned();
                verdict.sees = "unknown".to_owned();
                verdict.depends_on = on.into_iter().collect();
                verdict.outcomes = fates.iter().map(|fate| self.possibility(fate)).collect();
            }
        }
        verdict
    }

    fn decided(&self, fate: &Fate) -> Option<DecidingRule> {
        fate.words.clone().or_else(|| fate.at.as_ref().map(|at| self.describe(at)))
    }

    /// The jumps that led to a place.
    fn way(&self, at: &At) -> Vec<DecidingRule> {
        let jump = |(chain, rule): &(usize, usize)| At { table: at.table, chain: *chain, rule: Some(*rule), way: Vec::new() };
        at.way.iter().map(|w| self.describe(&jump(w))).collect()
    }

    fn possibility(&self, fate: &Fate) -> Possibility {
        let (verdict, reject_with) = match &fate.outcome {
            Outcome::Accept => ("accept", None),
            Outcome::Drop => ("drop", None),
            Outcome::Reject(with) => ("reject", Some(with.clone())),
            Outcome::Open(_) => ("unknown", None),
        };
        let condition = |(what, held): &(String, bool)| format!("{} {what}", if *held { "if" } else { "unless" });
        Possibility {
            verdict: verdict.to_owned(),
            reject_with,
            sees: fate.sees.to_owned(),
            packet: fate.packet.to_owned(),
            decided_by: self.decided(fate),
            when: fate.assumed.iter().map(condition).collect(),
        }
    }

    /// The accept rule that would take the packet if the deciding rule, and further refusing rules behind it, were not there.
    /// Only in the same table and base chain: an accept elsewhere does not stand behind anything.
    fn behind(&self, packet: &Packet, decider: &At) -> Option<DecidingRule> {
        let mut options = Options::default();
        let base = |at: &At| (at.table, at.way.first().map_or(at.chain, |w| w.0));
        let mut at = decider.clone();
        for _ in 0..MAX_SHADOWS {
            options.skip.insert((at.table, at.chain, at.rule?));
            let fates = self.fates(packet, &options);
            let [fate] = fates.as_slice() else { return None };
            let next = fate.at.clone()?;
            match fate.outcome {
                Outcome::Accept if next.rule.is_some() && base(&next) == base(decider) => return Some(self.describe(&next)),
                Outcome::Drop | Outcome::Reject(_) if fate.packet == "syn" => at = next,
                _ => return None,
            }
        }
        None
    }

    /// A place of the model in its own tool's words.
    pub fn describe(&self, at: &At) -> DecidingRule {
        let table = &self.model.tables[at.table];
        let chain = &table.chains[at.chain];
        let (rule, handle_or_line) = match at.rule {
            Some(r) => (display::words(table, chain, &chain.rules[r]).into_owned(), Some(chain.rules[r].number)),
            None => {
                let accept = chain.base.as_ref().is_none_or(|b| b.accept);
                let native = table.engine == model::Engine::Nftables;
                let policy = match (native, accept) {
                    (true, true) => "policy accept",
                    (true, false) => "policy drop",
                    (false, true) => "policy ACCEPT",
                    (false, false) => "policy DROP",
                };
                (policy.to_owned(), None)
            }
        };
        let packets = at.rule.and_then(|r| chain.rules[r].packets).and_then(|p| i64::try_from(p).ok());
        DecidingRule { table: table.title(), chain: chain.name.clone(), rule, handle_or_line, packets }
    }
}

impl Verdict {
    /// Whether something else becomes of the connection.
    fn differs(&self, other: &Verdict) -> bool {
        let what = |v: &Verdict| (v.verdict.clone(), v.reject_with.clone(), v.sees.clone(), v.delivered_to.clone(), v.forwarded);
        what(self) != what(other)
    }

    /// What may happen, under one more condition.
    fn of_part(&self, condition: &str) -> Vec<Possibility> {
        let whole = Possibility {
            verdict: self.verdict.clone(),
            reject_with: self.reject_with.clone(),
            sees: self.sees.clone(),
            packet: self.packet.clone(),
            decided_by: self.decided_by.clone(),
            when: Vec::new(),
        };
        let mut all = if self.outcomes.is_empty() { vec![whole] } else { self.outcomes.clone() };
        for one in &mut all {
            one.when.insert(0, condition.to_owned());
        }
        all
    }
}

fn address(v6: bool, number: u128) -> IpAddr {
    if v6 { IpAddr::V6(number.into()) } else { IpAddr::V4(u32::try_from(number).unwrap_or(u32::MAX).into()) }
}

fn hosts_text(v6: bool, hosts: &[u128]) -> String {
    let shown: Vec<String> = hosts.iter().take(3).map(|h| address(v6, *h).to_string()).collect();
    if hosts.len() > 3 { format!("{} and {} more parts", shown.join(" "), hosts.len() - 3) } else { shown.join(" ") }
}

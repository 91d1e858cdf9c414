//! Opens a TCP port for one source through whoever manages the packet filter: the smallest rule, just before the one that refuses,
//! in the kernel and where the next boot takes its rules from, with what takes exactly it back.
//!
//! Several rules may refuse one after the other. Each is passed in turn, by the means of its own owner, on a copy of the model;
//! the plan stands only if the copy then lets the connection in and treats nothing else differently.

pub mod ban;
pub mod close;
mod firewalld;
mod iptables;
mod nft_conf;
mod nftables;
pub mod redirect;
mod ufw;

#[cfg(test)]
mod tests;

use crate::facts::firewall::impact::{Allowed, Impact, Refusal, Stage};
use crate::facts::firewall::model::{Chain, Engine, Hook, Key, Part, Rule, Step, Table, Target, Test, ct, number, span};
use crate::facts::firewall::{Firewall, verdict::At};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// One thing to do, with its way back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Deed {
    Command {
        run: Vec<String>,
        undo: Vec<String>,
    },
    /// An nftables rule; it is found again by its comment, because its handle is not known before.
    NftRule {
        run: Vec<String>,
        table: String,
        chain: String,
        comment: String,
    },
    /// The new content of a file that is there (`template`: or that is first made from this one).
    File {
        path: PathBuf,
        text: String,
        template: Option<PathBuf>,
    },
}

/// How a port is opened.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OpenPort {
    /// Done in this order, undone in reverse. Empty: nothing to do.
    pub deeds: Vec<Deed>,
    pub summary: String,
    /// The rule survives a reboot.
    pub persistent: bool,
    /// What has to be known or done besides.
    pub notes: Vec<String>,
    /// What comparing the models before and after says, in one line.
    pub proof: String,
    /// Commands that do the same to a copy of the kernel's rules in a network namespace.
    pub trial: Vec<Vec<String>>,
    /// A host of the source that is refused now, with what it sees.
    pub example: Option<(IpAddr, String)>,
}

/// Who asks for what.
pub struct Request {
    /// As `10.0.0.0/24`, or an address without `/32`.
    pub source: String,
    pub v6: bool,
    /// Destination that the rule shall name; `None`: any address of this host.
    pub to: Option<IpAddr>,
    pub port: u16,
    pub interface: String,
    /// Destination that stands for all.
    pub local: IpAddr,
}

/// A file of the host as text; `None`: not there.
pub type Read<'a> = dyn Fn(&Path) -> Result<Option<String>, String> + 'a;

/// What one owner does to pass one refusing rule.
#[derive(Default)]
struct Piece {
    deeds: Vec<Deed>,
    edits: Vec<Edit>,
    trial: Vec<Vec<String>>,
    by: String,
    persistent: bool,
    notes: Vec<String>,
}

/// The same in the model.
struct Edit {
    table: usize,
    chain: usize,
    place: usize,
    rule: Rule,
}

/// Refusing rules that one plan may have to pass.
const MAX_RULES: usize = 6;
/// Chains, sets and tables of programs that ban senders; a rule above them would let these in again.
const BANS: [&str; 8] = ["f2b-", "fail2ban", "crowdsec", "CROWDSEC", "DENYIN", "sshguard", "denyhosts", "psad"];
/// Lists of blocked senders that somebody wrote down.
const LISTS: [&str; 5] = ["blacklist", "blocklist", "banlist", "denylist", "blocked"];
/// The mark of our rules.
const COMMENT: &str = "rmq-audit";

/// Plans to let `source` (CIDR or address) connect to `port`. Nothing to do if nothing refuses it; an error says, for the user, why
/// it cannot be done from here.
pub fn plan_open_port(
    fw: &Firewall,
    source: &str,
    destination: Option<IpAddr>,
    port: u16,
    interface: &str,
    read: &Read,
) -> Result<OpenPort, String> {
    let request = Request::new(fw, source, destination, port, interface)?;
    let mut draft = Draft::new(fw);
    for _ in 0..MAX_RULES {
        let Some(refusal) = request.refusal(&draft.copy)? else { break };
        if draft.plan.example.is_none() {
            draft.plan.example = Some((refusal.packet.source, refusal.sees.to_owned()));
        }
        let piece = request.piece(&draft.copy, &refusal, &|path| draft.file(path, read))?;
        draft.add(piece);
    }
    let Draft { copy, mut plan, by } = draft;
    if plan.example.is_none() {
        plan.summary = format!("{port} is open to {source} already");
        return Ok(plan);
    }
    if request.refusal(&copy)?.is_some() {
        return Err("more rules refuse it than can be passed one by one".to_owned());
    }
    // A port of firewalld is one for both address families.
    let mut sources = vec![request.span()?];
    if request.every_source() && plan.summary.is_empty() && by.iter().any(|by| by.starts_with("firewalld")) {
        sources = vec![(false, 0, u32::MAX.into()), (true, 0, u128::MAX)];
    }
    let allowed = Allowed { sources, others: false, port, opened: true };
    plan.proof = proof(fw.impact(&copy, &allowed, request.local, interface))?;
    plan.summary = format!("let {} connect to TCP port {port} ({})", request.source, by.join(" and "));
    Ok(plan)
}

/// What comparing the models says, or why the change is not made.
fn proof(impact: Impact) -> Result<String, String> {
    match impact {
        Impact::Only { cells } => Ok(format!("changes nothing else: {cells} cases of source, interface and port compared")),
        Impact::Partly { cells, of } => Ok(format!("changes nothing else in {cells} of {of} cases that the rules tell apart")),
        Impact::More(other) => Err(format!("not done: it would also change {}", other.join(", "))),
        Impact::Unchanged => Err("not done: it would not have the effect".to_owned()),
        Impact::Unclear(why) => Err(format!("not done: {why}")),
    }
}

/// A plan as it grows, with the model as it would then be.
struct Draft {
    copy: Firewall,
    plan: OpenPort,
    by: Vec<String>,
}

impl Draft {
    fn new(fw: &Firewall) -> Draft {
        Draft { copy: fw.clone(), plan: OpenPort { persistent: true, ..OpenPort::default() }, by: Vec::new() }
    }

    fn add(&mut self, piece: Piece) {
        for edit in piece.edits {
            let rules = &mut self.copy.model.tables[edit.table].chains[edit.chain].rules;
            rules.insert(edit.place.min(rules.len()), edit.rule);
        }
        self.plan.deeds.extend(piece.deeds);
        self.plan.trial.extend(piece.trial);
        self.plan.persistent &= piece.persistent;
        for note in piece.notes {
            if !self.plan.notes.contains(&note) {
                self.plan.notes.push(note);
            }
        }
        if !self.by.contains(&piece.by) {
            self.by.push(piece.by);
        }
    }

    /// A file as the plan so far leaves it.
    fn file(&self, path: &Path, read: &Read) -> Result<Option<String>, String> {
        let planned = self.plan.deeds.iter().rev().find_map(|deed| match deed {
            Deed::File { path: other, text, .. } if other == path => Some(text.clone()),
            _ => None,
        });
        planned.map_or_else(|| read(path), |text| Ok(Some(text)))
    }
}

impl Request {
    fn new(fw: &Firewall, source: &str, to: Option<IpAddr>, port: u16, interface: &str) -> Result<Request, String> {
        let (v6, first, _) = span(source).ok_or_else(|| format!("{source} is neither an address nor a network"))?;
        let local = to.or_else(|| fw.own_address(v6)).ok_or("no address of this host to open the port on is known")?;
        if local.is_ipv6() != v6 {
            return Err(format!("{source} and {local} are of different address families"));
        }
        Ok(Request { source: normal(source, v6, first), v6, to, port, interface: interface.to_owned(), local })
    }

    /// Any host of a network, to any address of this one.
    fn of(source: &str, v6: bool, first: u128, port: u16, fw: &Firewall) -> Result<Request, String> {
        let local = fw.own_address(v6).ok_or("no address of this host is known")?;
        Ok(Request { source: normal(source, v6, first), v6, to: None, port, interface: String::new(), local })
    }

    fn span(&self) -> Result<(bool, u128, u128), String> {
        span(&self.source).ok_or_else(|| format!("{} is not a network", self.source))
    }

    fn every_source(&self) -> bool {
        matches!(self.source.as_str(), "0.0.0.0/0" | "::/0")
    }

    fn refusal(&self, fw: &Firewall) -> Result<Option<Refusal>, String> {
        let refusal = fw.refusal(&self.source, self.local, self.port, &self.interface);
        match refusal {
            Some(refusal) if refusal.open.is_some() => {
                Err(format!("no single rule decides: {}", refusal.open.unwrap_or_default()))
            }
            // Those that were asked stand for the others only where the rules tell them apart by ranges.
            None => match self.span().ok().and_then(|(v6, first, last)| fw.unclear(v6, first, last)) {
                Some(why) => Err(why.to_owned()),
                None => Ok(None),
            },
            other => Ok(other),
        }
    }

    /// By the owner of the table that refuses.
    fn piece(&self, fw: &Firewall, refusal: &Refusal, read: &Read) -> Result<Piece, String> {
        let table = &fw.model.tables[refusal.at.table];
        let names = chains(table, &refusal.at);
        if let Some(list) = listed(table, &refusal.at) {
            return self.past_list(fw, refusal, &list, read);
        }
        let managed = |prefixes: &[&str]| names.iter().any(|name| prefixes.iter().any(|p| name.starts_with(p)));
        let policy = refusal.at.rule.is_none() && names == ["INPUT"];
        if table.name == "firewalld" || (fw.firewalld_running && managed(&["IN_", "INPUT_ZONES", "INPUT_direct"])) {
            return firewalld::piece(self, fw, refusal, read);
        }
        if refusal.stage == Stage::Syn && fw.manager == "ufw" && (policy || managed(&["ufw-", "ufw6-"])) {
            return ufw::piece(self, fw, &refusal.at, read);
        }
        // Before the rule of the base chain that led there.
        let (chain, place) = refusal.at.way.first().map_or((refusal.at.chain, refusal.at.rule), |w| (w.0, Some(w.1)));
        self.rule_in(fw, refusal.stage, (refusal.at.table, chain, place), Target::Accept, read)
    }

    /// A ban of this very sender is to be lifted, not passed. A list that blocks a range around the declared source gets an exception for
    /// it, which goes back to the rules behind the list: nobody else comes in, and nothing behind is skipped.
    fn past_list(&self, fw: &Firewall, refusal: &Refusal, list: &str, read: &Read) -> Result<Piece, String> {
        let rule = fw.describe(&refusal.at).rule;
        let bans = is_ban(list);
        let how = match list.strip_prefix("f2b-") {
            Some(jail) if jail != "table" => format!("; lift the ban with `fail2ban-client set {jail} unbanip ADDRESS`"),
            _ if bans => "; lift the ban with the program that made it".to_owned(),
            _ => format!("; take the address out of {list}"),
        };
        let jumped = !refusal.at.way.is_empty() && refusal.at.rule.is_some();
        if bans || !jumped || refusal.stage != Stage::Syn || !self.wider(fw, &refusal.at)? {
            return Err(format!(
                "the sender is on a block list ({list}: {rule}), and a rule above it would let everybody on it in again{how}"
            ));
        }
        let mut piece =
            self.rule_in(fw, Stage::Syn, (refusal.at.table, refusal.at.chain, refusal.at.rule), Target::Return, read)?;
        piece.notes.push(format!("an exception in the list {list}, which blocks more than this source: {rule}"));
        Ok(piece)
    }

    /// Whether the same rule also refuses senders just outside the source.
    fn wider(&self, fw: &Firewall, at: &At) -> Result<bool, String> {
        let (v6, first, last) = self.span()?;
        let neighbours = [first.checked_sub(1), last.checked_add(1)];
        Ok(neighbours.into_iter().flatten().filter_map(|n| address(v6, n)).any(|neighbour| {
            let other = fw.refusal(&neighbour.to_string(), self.local, self.port, &self.interface);
            other.is_some_and(|r| r.at.table == at.table && r.at.chain == at.chain && r.at.rule == at.rule)
        }))
    }

    /// By iptables or nft, at this place of table and chain (`None`: at the end).
    fn rule_in(
        &self,
        fw: &Firewall,
        stage: Stage,
        (number, chain, place): (usize, usize, Option<usize>),
        target: Target,
        read: &Read,
    ) -> Result<Piece, String> {
        let table = &fw.model.tables[number];
        let entry = Entry { request: self, stage, target, table, chain: &table.chains[chain], place };
        if let Some(Hook::Ingress | Hook::Forward) = table.chains[chain].base.as_ref().map(|b| b.hook) {
            return Err(format!(
                "{} {} is no chain for packets to this host's services",
                table.title(),
                table.chains[chain].name
            ));
        }
        let mut piece = match table.engine {
            Engine::Nftables => nftables::piece(&entry, fw, read),
            _ => iptables::piece(&entry, fw, read),
        }?;
        let place = place.unwrap_or(table.chains[chain].rules.len());
        piece.edits.push(Edit { table: number, chain, place, rule: entry.modelled() });
        Ok(piece)
    }
}

/// A rule to be put into a chain.
struct Entry<'a> {
    request: &'a Request,
    stage: Stage,
    target: Target,
    table: &'a Table,
    chain: &'a Chain,
    /// Before this rule; `None`: at the end.
    place: Option<usize>,
}

impl Entry<'_> {
    fn modelled(&self) -> Rule {
        let request = self.request;
        let is = |key, low: u128, high: u128| Step::Test(Test::is(key, Part::Span(low, high), false));
        let mut steps = vec![is(Key::Version, if request.v6 { 10 } else { 2 }, if request.v6 { 10 } else { 2 })];
        if self.stage == Stage::Loopback || self.target == Target::Drop {
            let key = if self.leaves() { Key::OutInterface } else { Key::InInterface };
            let not = self.target == Target::Drop;
            steps.push(Step::Test(Test::is(key, Part::Name("lo".to_owned()), not)));
        }
        if self.stage == Stage::Loopback {
            // Whatever it is.
        } else if self.stage == Stage::Neighbour {
            steps.extend([is(Key::Protocol, 58, 58), is(Key::IcmpType, 135, 136)]);
        } else {
            let (_, first, last) = span(&request.source).unwrap_or((request.v6, 0, 0));
            let (there, here, port) = match self.stage {
                Stage::Reply => (Key::Destination, Key::Source, Key::SourcePort),
                _ => (Key::Source, Key::Destination, Key::DestinationPort),
            };
            steps.extend([is(there, first, last), is(Key::Protocol, 6, 6), is(port, request.port.into(), request.port.into())]);
            steps.extend(request.to.map(|to| is(here, number(to), number(to))));
            if self.stage != Stage::Syn {
                steps.push(Step::Test(Test::AnyBit { key: Key::CtState, bits: ct::ESTABLISHED, not: false }));
            }
        }
        steps.push(Step::Go(self.target.clone()));
        Rule { text: COMMENT.to_owned(), number: 0, steps, packets: None }
    }

    /// The chain sees packets on their way out.
    fn leaves(&self) -> bool {
        matches!(self.chain.base.as_ref().map(|base| base.hook), Some(Hook::Output | Hook::Postrouting))
    }

    /// A comment that no rule of the chain has yet: what takes the rule back finds it by this.
    fn comment(&self) -> String {
        let stage = match self.stage {
            Stage::Syn => "",
            Stage::Reply => ":reply",
            Stage::Established => ":established",
            Stage::Neighbour => ":neighbour",
            Stage::Loopback => ":loopback",
        };
        let closes = if self.target == Target::Drop { ":closed" } else { "" };
        let first = format!("{COMMENT}:{}:{}{stage}{closes}", self.request.port, self.request.source);
        let taken = |comment: &str| self.chain.rules.iter().any(|rule| rule.text.contains(&format!("\"{comment}\"")));
        let numbered = (2..100).map(|n| format!("{first}:{n}"));
        [first.clone()].into_iter().chain(numbered).find(|comment| !taken(comment)).unwrap_or(first)
    }
}

fn argv(words: &[&str]) -> Vec<String> {
    words.iter().map(|w| (*w).to_owned()).collect()
}

/// The way in which ufw and iptables write it: the network's own address, no length for a host.
fn normal(source: &str, v6: bool, first: u128) -> String {
    let address = address(v6, first).map_or_else(|| source.to_owned(), |a| a.to_string());
    match source.split_once('/') {
        Some((_, "32")) if !v6 => address,
        Some((_, "128")) if v6 => address,
        Some((_, length)) => format!("{address}/{length}"),
        None => address,
    }
}

fn address(v6: bool, number: u128) -> Option<IpAddr> {
    if v6 { Some(IpAddr::V6(number.into())) } else { u32::try_from(number).ok().map(|n| IpAddr::V4(n.into())) }
}

/// Names of the chains that a packet was in when it was refused, the base chain first.
fn chains<'a>(table: &'a Table, at: &At) -> Vec<&'a str> {
    at.way.iter().map(|w| w.0).chain([at.chain]).map(|c| table.chains[c].name.as_str()).collect()
}

/// By its name, the list is one of a program that bans senders.
fn is_ban(list: &str) -> bool {
    BANS.iter().any(|ban| list.contains(ban))
}

/// The block list that refuses: a chain, a table, or a set that the rule names.
fn listed(table: &Table, at: &At) -> Option<String> {
    let blocks = |name: &str| {
        let lower = name.to_ascii_lowercase();
        is_ban(name) || LISTS.iter().any(|list| lower.contains(list))
    };
    let mut names = chains(table, at);
    names.push(&table.name);
    if let Some(name) = names.into_iter().find(|name| blocks(name)) {
        return Some(name.to_owned());
    }
    let text = &table.chains[at.chain].rules.get(at.rule?)?.text;
    let mut words = text.split_whitespace();
    let mut named = None;
    while let Some(word) = words.next() {
        named = if word == "--match-set" { words.next() } else { word.strip_prefix('@') }.filter(|name| blocks(name)).or(named);
    }
    named.map(str::to_owned)
}

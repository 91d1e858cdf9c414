//! Walks packets through the model: a set of states goes through the base chains in the kernel's order; a condition that the
//! ruleset does not decide splits a state in two, and states that became equal again are joined.

use super::model::*;
use super::native::Native;
use super::packet::Tuple;
use super::routing::Kind;
use super::{display, nat, packet, set_match, vm};
use std::cell::{Cell, OnceCell};
use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

/// The kernel's own limit is 16 jumps.
const MAX_DEPTH: usize = 20;
/// More states than this at one rule means that the ruleset cannot be decided in reasonable time.
const MAX_STATES: usize = 64;

/// Chains that jump to one another twice and more could be asked about one connection without ever coming to an end. A rule that is
/// asked about a state costs one, and one more for each assumption of the state, which is copied.
const MAX_COST: usize = 8_000_000;

/// Priority of conntrack in PREROUTING and OUTPUT.
const CONNTRACK: i64 = -200;

/// Whether a chain hangs where conntrack or nat does itself ([`Options::chains_first`]).
pub fn beside_conntrack(base: &Base) -> bool {
    let tracks = matches!(base.hook, Hook::Prerouting | Hook::Output) && base.priority == CONNTRACK;
    let translates = !matches!(base.hook, Hook::Ingress | Hook::Forward) && base.priority == nat::priority(base.hook);
    !base.nat && (tracks || translates)
}

/// One packet on its way through the hooks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flight {
    /// syn | reply | established | answer (the RST or ICMP error of a REJECT) | neighbour
    pub stage: &'static str,
    pub v6: bool,
    pub source: IpAddr,
    pub destination: IpAddr,
    /// First and last possible value.
    pub source_port: (u16, u16),
    pub destination_port: (u16, u16),
    /// The connection's ends as conntrack holds them: as its first packet began it, and as replies come.
    pub original: Tuple,
    pub answer: Tuple,
    /// [`nat::SOURCE_NAT`], [`nat::DESTINATION_NAT`]
    pub translated: u32,
    /// `ct->status` where the packet itself does not tell it: an answer to a refused packet is not seen by conntrack, and a
    /// connection whose first packet was refused stays as it was.
    pub status: Option<u32>,
    /// 0 direction original, 1 reply
    pub reply: bool,
    pub protocol: u128,
    pub flags: u128,
    pub icmp_type: Option<u128>,
    pub in_interface: String,
    pub out_interface: String,
    /// Connection state once conntrack has run.
    pub state: u128,
    /// Conntrack knows the packet before it reaches the first hook (an error that answers another packet; loopback).
    pub attached: bool,
    /// A listener's socket is looked up only after INPUT.
    pub incoming: bool,
}

/// A place in the model: table, chain, and rule (`None`: the policy).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct At {
    pub table: usize,
    pub chain: usize,
    pub rule: Option<usize>,
    /// The jumps that led there, the base chain's rule first: (chain, rule).
    pub way: Vec<(usize, usize)>,
}

/// What may happen to one state of a packet.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    Drop,
    Reject(String),
    Undecided(String),
}

/// A rule whose tests all held, or a policy that decided: what a counter there counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hit {
    /// See [`Flight::stage`].
    pub stage: &'static str,
    pub table: usize,
    pub chain: usize,
    /// `None`: the policy
    pub rule: Option<usize>,
}

/// State that rules read and write.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Path {
    mark: Option<u32>,
    connection_mark: Option<u32>,
    untracked: bool,
    /// Sets (of nf_tables and ipsets) that packets of this connection changed on their way.
    changed_sets: BTreeSet<String>,
    /// Undecided conditions and how they were taken.
    pub assumed: BTreeSet<(String, bool)>,
    /// The last rule (or policy) that let it pass an INPUT or FORWARD chain.
    pub accepted: Option<At>,
    /// The packet after translations; `None`: as it came.
    flight: Option<Arc<Flight>>,
    /// The rule that translated its destination.
    pub translated_by: Option<At>,
    /// Destination and source of the connection are settled: no further rule of type nat sees it.
    settled: [bool; 2],
    /// With [`Options::record`], in order.
    pub hits: Vec<Hit>,
}

impl Path {
    pub fn new() -> Path {
        Path { mark: Some(0), connection_mark: Some(0), ..Path::default() }
    }
    fn like(&self, other: &Path) -> bool {
        self.mark == other.mark
            && self.connection_mark == other.connection_mark
            && self.untracked == other.untracked
            && self.changed_sets == other.changed_sets
            && self.settled == other.settled
            && self.flight == other.flight
            && self.hits == other.hits
    }
    /// The packet as it is now.
    pub fn now(&self, before: &Flight) -> Flight {
        self.flight.as_deref().unwrap_or(before).clone()
    }
    fn assume(&mut self, what: &[String], holds: bool) {
        self.assumed.extend(what.iter().map(|w| (w.clone(), holds)));
    }
    /// The next packet of the same connection: its mark starts anew, the connection's and assumptions stay.
    pub fn next_packet(&self) -> Path {
        Path { mark: Some(0), untracked: false, flight: None, ..self.clone() }
    }
    /// The same packet, which goes on as this one: after routing, or from one interface of the host into another.
    pub fn going_on(&self) -> Path {
        Path { flight: None, ..self.clone() }
    }
    /// Assumes something that no rule decides.
    pub fn suppose(&mut self, what: &str, holds: bool) {
        self.assumed.insert((what.to_owned(), holds));
    }
    pub fn is_untracked(&self) -> bool {
        self.untracked
    }
    /// The packet's mark; `None`: cannot be foretold.
    pub fn mark(&self) -> Option<u32> {
        self.mark
    }
    pub fn connection_mark(&self) -> Option<u32> {
        self.connection_mark
    }
    /// Whether a packet of this connection may have changed this set of nf_tables.
    pub fn changed_set(&self, name: &str) -> bool {
        self.changed_sets.contains(name)
    }
}

/// A state that ended before it was through.
#[derive(Debug, Clone)]
pub struct Ended {
    pub path: Path,
    pub end: End,
    pub at: At,
    /// Conntrack knew the packet there.
    pub tracked: bool,
}

/// What came out of a walk.
#[derive(Debug, Clone, Default)]
pub struct Walked {
    pub through: Vec<Path>,
    pub ended: Vec<Ended>,
}

enum Tri {
    Yes,
    No,
    Maybe(String),
}

enum Value {
    Is(u128),
    /// First, last, and what it is.
    Between(u128, u128, &'static str),
    Name(String),
    /// The kernel cannot load it: the rule does not match, whatever the operator.
    Missing,
    Unknown(String),
}

/// How the walk may deviate from the kernel's.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Rules taken as not matching: to look behind a deciding rule.
    pub skip: BTreeSet<(usize, usize, usize)>,
    /// At one priority, legacy iptables after nf_tables instead of before: user space cannot see which was registered last.
    pub legacy_last: bool,
    /// Filter chains at the very priority of conntrack (-200) or of nat (-100, 100) before these (`true`) or behind: the kernel calls
    /// what was registered last first, and user space cannot see when that was. `None`: behind conntrack, and nat by its handles.
    pub chains_first: Option<bool>,
    /// Keep every rule that counts the packet.
    pub record: bool,
    /// What all walks with these options have cost so far ([`MAX_COST`]).
    pub cost: Rc<Cell<usize>>,
}

/// One walk: a model, a packet, options.
pub struct Walk<'a> {
    pub model: &'a Model,
    pub flight: &'a Flight,
    pub options: &'a Options,
}

struct Place<'a> {
    table: usize,
    /// The packet's connection state at this priority, for tracked and untracked states.
    state: u128,
    base: &'a Base,
    headers: OnceCell<packet::Headers>,
}

impl Place<'_> {
    fn ended(&self, path: Path, end: End, at: At) -> Ended {
        let tracked = self.state != ct::INVALID && !path.untracked;
        Ended { path, end, at, tracked }
    }
}

enum Exit {
    Returned(Path),
    Accepted(Path, At),
    Ended(Ended),
}

impl Walk<'_> {
    /// The way through some hooks, one after the other.
    pub fn through(&self, hooks: &[Hook], start: Path) -> Walked {
        let mut walked = Walked { through: vec![start], ended: Vec::new() };
        for hook in hooks {
            let mut followed = false;
            let bases = self.base_chains(*hook);
            let translates = |(_, t, c): &(i64, usize, usize)| self.base(*t, *c).is_some_and(|b| b.nat);
            let first_nat = bases.iter().position(translates).unwrap_or(0);
            for (place, (priority, table, chain)) in bases.into_iter().enumerate() {
                let filter_first = self.options.chains_first.unwrap_or(place < first_nat);
                let before = priority == nat::priority(*hook) && filter_first && !self.base(table, chain).is_some_and(|b| b.nat);
                if !followed && priority >= nat::priority(*hook) && !before {
                    self.follow(*hook, &mut walked.through);
                    followed = true;
                }
                let paths = std::mem::take(&mut walked.through);
                for path in paths {
                    match path.flight.clone() {
                        Some(flight) => Walk { flight: &flight, ..*self }.base_chain(table, chain, path, &mut walked),
                        None => self.base_chain(table, chain, path, &mut walked),
                    }
                }
                walked.through = joined(std::mem::take(&mut walked.through));
            }
            if !followed {
                self.follow(*hook, &mut walked.through);
            }
            // A connection that no rule translated by then never will be.
            let direction = usize::from(!nat::of_destination(*hook));
            if !matches!(hook, Hook::Ingress | Hook::Forward) {
                walked.through.iter_mut().filter(|p| !p.untracked).for_each(|p| p.settled[direction] = true);
            }
        }
        walked
    }

    /// Later packets of a translated connection are translated by conntrack.
    fn follow(&self, hook: Hook, paths: &mut [Path]) {
        for path in paths.iter_mut().filter(|p| !p.untracked) {
            if let Some(new) = nat::follow(hook, path.flight.as_deref().unwrap_or(self.flight)) {
                path.flight = Some(Arc::new(new));
            }
        }
    }

    fn base(&self, table: usize, chain: usize) -> Option<&Base> {
        self.model.tables[table].chains[chain].base.as_ref()
    }

    /// Base chains of a hook in the order in which the kernel calls them; at one priority the one registered last comes first.
    fn base_chains(&self, hook: Hook) -> Vec<(i64, usize, usize)> {
        let mut bases = Vec::new();
        for (t, table) in self.model.tables.iter().enumerate().filter(|(_, t)| t.family.sees(self.flight.v6)) {
            let legacy = table.engine == Engine::IptablesLegacy;
            for (c, chain) in table.chains.iter().enumerate() {
                bases.extend(chain.base.as_ref().filter(|b| b.hook == hook).map(|base| (legacy, table.handle, base, t, c)));
            }
        }
        // All chains of type nat run inside one function of the kernel, registered with the first of them.
        let first_nat = bases.iter().filter(|b| b.2.nat).map(|b| (b.1, b.2.handle)).min().unwrap_or_default();
        bases.sort_by_key(|(legacy, table, base, ..)| {
            let own = (*legacy == self.options.legacy_last, Reverse((*table, base.handle)));
            if base.nat {
                return (nat::priority(hook), 1, (false, Reverse(first_nat)), base.priority, own);
            }
            let rank = match self.options.chains_first.filter(|_| base.priority == nat::priority(hook)) {
                None => 1,
                Some(first) => {
                    if first {
                        0
                    } else {
                        2
                    }
                }
            };
            (base.priority, rank, own, 0, own)
        });
        let priority = |base: &Base| if base.nat { nat::priority(hook) } else { base.priority };
        bases.into_iter().map(|(_, _, base, t, c)| (priority(base), t, c)).collect()
    }

    fn base_chain(&self, table: usize, chain: usize, mut path: Path, walked: &mut Walked) {
        let (t, c) = (&self.model.tables[table], &self.model.tables[table].chains[chain]);
        let Some(base) = &c.base else { return };
        // Chains of devices: ingress, and egress, which comes behind everything else on the way out.
        if base.hook == Hook::Ingress || !base.devices.is_empty() {
            let incoming = base.hook == Hook::Ingress;
            let interface = if incoming { &self.flight.in_interface } else { &self.flight.out_interface };
            let here = |device: &String| match device.strip_suffix('*') {
                Some(start) => interface.starts_with(start),
                None => device == interface,
            };
            if base.devices.is_empty() && !c.rules.is_empty() {
                let mut aside = path.clone();
                let why = format!("whether ingress chain {} {} is on {}", t.title(), c.name, self.flight.in_interface);
                aside.assume(std::slice::from_ref(&why), false);
                path.assume(&[why], true);
                walked.through.push(aside);
            } else if !base.devices.iter().any(here) {
                walked.through.push(path);
                return;
            }
        }
        // Chains of type nat see a connection's first packet, if it is tracked, until one of them has settled where it goes.
        let direction = usize::from(!nat::of_destination(base.hook));
        if base.nat && (self.flight.state != ct::NEW || path.untracked || path.settled[direction]) {
            walked.through.push(path);
            return;
        }
        if let Some(doubt) = &t.doubt {
            let mut aside = path.clone();
            aside.assume(std::slice::from_ref(doubt), false);
            path.assume(std::slice::from_ref(doubt), true);
            walked.through.push(aside);
        }
        // Conntrack sees a packet first at priority -200 of PREROUTING or OUTPUT.
        let early = match base.hook {
            Hook::Ingress => true,
            Hook::Prerouting | Hook::Output if base.nat => false,
            Hook::Prerouting | Hook::Output => base.priority < CONNTRACK + i64::from(self.options.chains_first == Some(true)),
            Hook::Input | Hook::Forward | Hook::Postrouting => false,
        };
        let state = if early && !self.flight.attached { ct::INVALID } else { self.flight.state };
        if state == ct::UNTRACKED {
            path.untracked = true;
        }
        let place = Place { table, state, base, headers: OnceCell::new() };
        let policy = At { table, chain, rule: None, way: Vec::new() };
        let judges = matches!(base.hook, Hook::Input | Hook::Forward) && !base.nat;
        let by_policy = |mut path: Path| {
            self.hit(&mut path, table, chain, None);
            path
        };
        for exit in self.chain(&place, chain, path, &mut Vec::new()) {
            match exit {
                Exit::Ended(ended) => walked.ended.push(ended),
                Exit::Accepted(mut path, at) => {
                    if judges {
                        path.accepted = Some(at);
                    }
                    walked.through.push(path);
                }
                Exit::Returned(path) if base.accept => {
                    let mut path = by_policy(path);
                    if judges && path.accepted.is_none() {
                        path.accepted = Some(policy.clone());
                    }
                    walked.through.push(path);
                }
                Exit::Returned(path) => walked.ended.push(place.ended(by_policy(path), End::Drop, policy.clone())),
            }
        }
    }

    fn hit(&self, path: &mut Path, table: usize, chain: usize, rule: Option<usize>) {
        if self.options.record {
            path.hits.push(Hit { stage: self.flight.stage, table, chain, rule });
        }
    }

    /// The packet behind a rule that translates; each possible one.
    fn translated(&self, place: &Place, to: &Translation, path: Path, at: &At) -> Vec<Exit> {
        let settle = |mut path: Path, flight: Option<Flight>| {
            path.settled[usize::from(!nat::of_destination(place.base.hook))] = true;
            if let Some(flight) = flight.filter(|f| f != self.flight) {
                if nat::of_destination(place.base.hook) {
                    path.translated_by = Some(at.clone());
                }
                path.flight = Some(Arc::new(flight));
            }
            Exit::Accepted(path, at.clone())
        };
        match nat::translate(self.model, place.base.hook, self.flight, to) {
            nat::Translated::Unsure(why) => vec![Exit::Ended(place.ended(path, End::Undecided(why), at.clone()))],
            nat::Translated::To(mut flights) if flights.len() < 2 => vec![settle(path, flights.pop())],
            nat::Translated::To(flights) => {
                let one = |flight: Flight| {
                    let mut path = path.clone();
                    let address = std::net::SocketAddr::new(flight.destination, flight.destination_port.0);
                    path.assume(&[format!("the connection is sent to {address}, one of several")], true);
                    settle(path, Some(flight))
                };
                flights.into_iter().map(one).collect()
            }
        }
    }

    /// One chain with all that it jumps to.
    fn chain(&self, place: &Place, chain: usize, start: Path, way: &mut Vec<(usize, usize)>) -> Vec<Exit> {
        let mut exits = Vec::new();
        let mut current = vec![start];
        let mut next = Vec::new();
        let mut out = Vec::new();
        let rules = &self.model.tables[place.table].chains[chain].rules;
        for (r, rule) in rules.iter().enumerate() {
            if current.is_empty() {
                break;
            }
            if !self.options.skip.is_empty() && self.options.skip.contains(&(place.table, chain, r)) {
                continue;
            }
            let ended = exits.len();
            let cost: usize = current.iter().map(|path| 1 + path.assumed.len()).sum();
            for path in current.drain(..) {
                self.rule(place, (chain, r), rule, path, &mut out);
                for (target, path) in out.drain(..) {
                    match target {
                        None | Some(Target::Continue) => next.push(path),
                        Some(target) => self.go(place, (chain, r), target, path, way, &mut next, &mut exits),
                    }
                }
            }
            std::mem::swap(&mut current, &mut next);
            if current.len() > 1 {
                current = joined(current);
            }
            let spent = &self.options.cost;
            spent.set(spent.get() + cost * (1 + exits.len() - ended));
            let too_many = if current.len() > MAX_STATES { "undecided conditions" } else { "rules behind jumps" };
            if current.len() > MAX_STATES || spent.get() > MAX_COST {
                let end = End::Undecided(format!("too many {too_many}"));
                let at = At { table: place.table, chain, rule: Some(r), way: way.clone() };
                exits.extend(current.drain(..).map(|path| Exit::Ended(place.ended(path, end.clone(), at.clone()))));
            }
        }
        exits.extend(current.into_iter().map(Exit::Returned));
        exits
    }

    #[allow(clippy::too_many_arguments)]
    fn go(
        &self,
        place: &Place,
        (chain, r): (usize, usize),
        target: Target,
        path: Path,
        way: &mut Vec<(usize, usize)>,
        next: &mut Vec<Path>,
        exits: &mut Vec<Exit>,
    ) {
        let at = At { table: place.table, chain, rule: Some(r), way: way.clone() };
        match target {
            Target::Continue => next.push(path),
            Target::Return => exits.push(Exit::Returned(path)),
            Target::Accept => exits.push(Exit::Accepted(path, at)),
            Target::Drop => exits.push(Exit::Ended(place.ended(path, End::Drop, at))),
            Target::Reject(with) => exits.push(Exit::Ended(place.ended(path, End::Reject(self.reject(&with)), at))),
            Target::Undecided(why) => exits.push(Exit::Ended(place.ended(path, End::Undecided(why), at))),
            Target::Translate(to) => exits.extend(self.translated(place, &to, path, &at)),
            Target::Jump(ref name) | Target::Goto(ref name) => {
                let goto = matches!(target, Target::Goto(_));
                let target = self.model.tables[place.table].chain(name);
                let Some(inner) = target.filter(|_| way.len() < MAX_DEPTH) else {
                    let end = End::Undecided(format!("the jump to chain {name}, which cannot be followed"));
                    exits.push(Exit::Ended(place.ended(path, end, at)));
                    return;
                };
                way.push((chain, r));
                for exit in self.chain(place, inner, path, way) {
                    match exit {
                        Exit::Returned(path) if !goto => next.push(path),
                        other => exits.push(other),
                    }
                }
                way.pop();
            }
        }
    }

    /// What one rule does with one state: where it may go, or `None` for the next rule.
    fn rule(&self, place: &Place, at: (usize, usize), rule: &Rule, mut path: Path, out: &mut Vec<(Option<Target>, Path)>) {
        let mut open: Vec<String> = Vec::new();
        let label = |why: String| {
            let table = &self.model.tables[place.table];
            format!("{why} in `{}`", display::words(table, &table.chains[at.0], rule))
        };
        let mut registers = None;
        let mut counted = false;
        for step in &rule.steps {
            match step {
                Step::Native(Native::Counter) if self.options.record && !counted => {
                    aside(out, &mut path, &mut open);
                    self.hit(&mut path, place.table, at.0, Some(at.1));
                    counted = true;
                }
                Step::Native(native) => {
                    let hook = place.base.hook;
                    let family = self.model.tables[place.table].family;
                    let (state, headers) = (place.state, &place.headers);
                    let view = vm::View { model: self.model, flight: self.flight, path: &path, hook, family, state, headers };
                    match registers.get_or_insert_with(vm::Registers::default).run(native, &view) {
                        vm::Ran::Next => {}
                        vm::Ran::Break => {
                            out.push((None, path));
                            return;
                        }
                        vm::Ran::Perhaps(why) => open.push(label(why)),
                        vm::Ran::Go(target) => {
                            self.finish(out, path, &open, Some(target), (!counted).then_some((place.table, at)));
                            return;
                        }
                        vm::Ran::Choice { targets, breaks, goes_on, why } => {
                            let mut taken = open.clone();
                            taken.push(label(why));
                            for target in targets {
                                let mut path = path.clone();
                                path.assume(&taken, true);
                                if !counted {
                                    self.hit(&mut path, place.table, at.0, Some(at.1));
                                }
                                out.push((Some(target), path));
                            }
                            if breaks || !open.is_empty() {
                                let mut other = path.clone();
                                other.assume(&taken, false);
                                out.push((None, other));
                            }
                            if !goes_on {
                                return;
                            }
                            path.assume(&taken, false);
                            open.clear();
                        }
                        vm::Ran::Changed { set, perhaps } => {
                            path.changed_sets.insert(set);
                            open.extend(perhaps.map(label));
                        }
                        vm::Ran::Mark { connection, value } => {
                            aside(out, &mut path, &mut open);
                            change(&mut path, &Step::SetMark { connection, change: value.map(|v| (0, v)) });
                        }
                        vm::Ran::Notrack => {
                            aside(out, &mut path, &mut open);
                            change(&mut path, &Step::Notrack);
                        }
                    }
                }
                Step::Test(test) => match self.test(place, &path, test) {
                    Tri::Yes => {}
                    Tri::No => {
                        out.push((None, path));
                        return;
                    }
                    Tri::Maybe(why) => open.push(label(why)),
                },
                // Without a connection there is no mark of it to read or write.
                Step::SetMark { connection: true, .. } | Step::CopyMark { .. }
                    if path.untracked || place.state == ct::INVALID => {}
                Step::SetMark { .. } | Step::CopyMark { .. } | Step::ChangeSet(_) | Step::Notrack => {
                    aside(out, &mut path, &mut open);
                    change(&mut path, step);
                }
                Step::Go(target) => {
                    self.finish(out, path, &open, Some(target.clone()), (!counted).then_some((place.table, at)));
                    return;
                }
            }
        }
        // Nothing but its counter and what it changed is left of a rule that only goes on.
        if self.options.record && !counted {
            self.finish(out, path, &open, None, Some((place.table, at)));
        } else {
            out.push((None, path));
        }
    }

    /// The rule's tests held (or may have): it counts the packet, unless it did so before, and sends it on.
    fn finish(
        &self,
        out: &mut Vec<(Option<Target>, Path)>,
        mut path: Path,
        open: &[String],
        target: Option<Target>,
        counts: Option<(usize, (usize, usize))>,
    ) {
        if !open.is_empty() {
            let mut aside = path.clone();
            aside.assume(open, false);
            out.push((None, aside));
            path.assume(open, true);
        }
        if let Some((table, (chain, rule))) = counts {
            self.hit(&mut path, table, chain, Some(rule));
        }
        out.push((target, path));
    }

    fn test(&self, place: &Place, path: &Path, test: &Test) -> Tri {
        match test {
            Test::Undecided(why) => Tri::Maybe(why.clone()),
            Test::Either(tests) => {
                let mut open = None;
                for test in tests {
                    match self.test(place, path, test) {
                        Tri::Yes => return Tri::Yes,
                        Tri::No => {}
                        Tri::Maybe(why) => open = Some(why),
                    }
                }
                open.map_or(Tri::No, Tri::Maybe)
            }
            Test::Is { key, part, not } => match self.value(place, path, key) {
                Value::Missing => Tri::No,
                value => match one_within(&value, part) {
                    Tri::Yes if *not => Tri::No,
                    Tri::No if *not => Tri::Yes,
                    other => other,
                },
            },
            Test::IpSet { name, source, not } => match self.in_ip_set(place, path, name, source) {
                Tri::Yes if *not => Tri::No,
                Tri::No if *not => Tri::Yes,
                other => other,
            },
            Test::AnyBit { key, bits, not } => match self.value(place, path, key) {
                Value::Is(v) if (v & bits != 0) != *not => Tri::Yes,
                Value::Is(_) | Value::Missing | Value::Name(_) => Tri::No,
                Value::Between(..) => Tri::Maybe("an undecided value".to_owned()),
                Value::Unknown(why) => Tri::Maybe(why),
            },
            Test::In { key, set, not } => {
                let values: Vec<Value> = key.iter().map(|k| self.value(place, path, k)).collect();
                if values.iter().any(|v| matches!(v, Value::Missing)) {
                    return Tri::No;
                }
                let mut open = set.doubt.clone();
                for element in &set.elements {
                    match within(&values, &element.parts) {
                        Tri::Yes => return if *not { Tri::No } else { Tri::Yes },
                        Tri::No => {}
                        Tri::Maybe(why) => open = Some(why),
                    }
                }
                match open {
                    Some(why) => Tri::Maybe(why),
                    None if *not => Tri::Yes,
                    None => Tri::No,
                }
            }
        }
    }

    fn value(&self, place: &Place, path: &Path, key: &Key) -> Value {
        let f = self.flight;
        let ports = |(first, last): (u16, u16)| {
            if first == last { Value::Is(first.into()) } else { Value::Between(first.into(), last.into(), "the client's port") }
        };
        let icmp = f.icmp_type.is_some();
        match key {
            Key::Source => Value::Is(number(f.source)),
            Key::Destination => Value::Is(number(f.destination)),
            Key::SourcePort | Key::DestinationPort if icmp => Value::Missing,
            Key::SourcePort => ports(f.source_port),
            Key::DestinationPort => ports(f.destination_port),
            Key::OriginalPort if path.untracked || place.state == ct::INVALID => Value::Missing,
            Key::OriginalPort => ports(f.original.destination_port),
            Key::Protocol => Value::Is(f.protocol),
            Key::Version => Value::Is(if f.v6 { 10 } else { 2 }),
            Key::InInterface => Value::Name(f.in_interface.clone()),
            Key::OutInterface => Value::Name(f.out_interface.clone()),
            Key::CtState => Value::Is(if path.untracked { ct::UNTRACKED } else { place.state }),
            Key::CtDirection | Key::CtStatus | Key::CtMark if path.untracked || place.state == ct::INVALID => Value::Missing,
            Key::CtDirection => Value::Is(f.reply.into()),
            Key::CtStatus if f.status.is_some() => Value::Is(f.status.unwrap_or_default().into()),
            // seen-reply comes with the first answer, assured with the packet after it, confirmed behind the last hook.
            Key::CtStatus if f.state == ct::NEW => Value::Is(u128::from(f.translated | if f.attached { 8 } else { 0 })),
            Key::CtStatus => Value::Is(u128::from(f.translated | if f.reply { 0x0a } else { 0x0e })),
            Key::CtMark => {
                path.connection_mark.map_or(Value::Unknown("the connection's mark".to_owned()), |m| Value::Is(m.into()))
            }
            Key::CtProtocol
            | Key::OriginalSource
            | Key::OriginalDestination
            | Key::OriginalSourcePort
            | Key::ReplySource
            | Key::ReplyDestination
            | Key::ReplySourcePort
            | Key::ReplyPort => self.connection(place, path, key),
            Key::Mark => path.mark.map_or(Value::Unknown("the packet's mark".to_owned()), |m| Value::Is(m.into())),
            Key::TcpFlags if icmp => Value::Missing,
            Key::TcpFlags => Value::Is(f.flags),
            Key::IcmpType => f.icmp_type.map_or(Value::Missing, Value::Is),
            Key::IcmpCode if !icmp => Value::Missing,
            Key::IcmpCode => Value::Unknown("the ICMP code".to_owned()),
            Key::TcpOption(_) if icmp => Value::Missing,
            Key::TcpOption(kind) => Value::Unknown(format!("TCP option {kind} of the client")),
            // A header without and with all options; later packets carry data.
            Key::Length if f.state != ct::NEW => Value::Between(40, 65535, "the length of the packet"),
            Key::Length if f.v6 => Value::Between(60, 100, "the length of the packet"),
            Key::Length => Value::Between(40, 120, "the length of the packet"),
            Key::Ttl => Value::Between(0, 255, "the time to live"),
            Key::Tos => Value::Unknown("the type of service (DSCP)".to_owned()),
            // Loopback is no Ethernet, and what is sent has no sender's frame.
            Key::SourceMac if !f.incoming || f.in_interface == "lo" => Value::Missing,
            Key::SourceMac => Value::Unknown("the sender's MAC address".to_owned()),
            Key::Bridged if !f.incoming || f.in_interface == "lo" || self.model.bridged == Some(false) => Value::Is(0),
            Key::Bridged => Value::Unknown("whether it comes over a bridge".to_owned()),
            Key::DestinationType => self.address_type(f.destination, f.incoming, None),
            Key::SourceType => self.address_type(f.source, !f.incoming, None),
            Key::TypeOnInterface { source, out } => {
                let address = if *source { f.source } else { f.destination };
                self.address_type(address, false, Some(if *out { &f.out_interface } else { &f.in_interface }))
            }
            Key::PacketType => Value::Is(0),
            Key::SocketOwner if f.incoming => Value::Missing,
            Key::SocketOwner => Value::Unknown("the owner of the sending socket".to_owned()),
            Key::ReversePath { loose, .. } => self.reverse_path(path, *loose),
            // Never a fragment: conntrack puts them together first. Whether DF is set depends on the client.
            Key::FragmentField => Value::Unknown("the don't-fragment bit".to_owned()),
            Key::Masked(inner, mask) if **inner == Key::FragmentField && mask & 0x4000 == 0 => Value::Is(0),
            Key::Masked(inner, mask) => match self.value(place, path, inner) {
                Value::Is(v) => Value::Is(v & mask),
                Value::Between(_, _, what) => Value::Unknown(what.to_owned()),
                other => other,
            },
            Key::Unknown(what) => Value::Unknown(what.clone()),
        }
    }

    /// Kind of an address (RTN_*); `on`: only addresses of this interface are local. `ours`: the caller knows that it is one.
    fn address_type(&self, address: IpAddr, ours: bool, on: Option<&str>) -> Value {
        let known = self.model.routing.as_ref().map(|r| r.kind_of(address, on));
        match known {
            Some(Ok(kind)) if kind == Kind::Unicast && ours && on.is_none() => Value::Is(Kind::Local as u128),
            Some(Ok(kind)) => Value::Is(kind as u128),
            Some(Err(why)) => Value::Unknown(why),
            None if ours && on.is_none() => Value::Is(Kind::Local as u128),
            None => Value::Unknown("which addresses are this host's".to_owned()),
        }
    }

    /// Addresses and ports of the packet's connection; an error that answers another packet belongs to that one's.
    fn connection(&self, place: &Place, path: &Path, key: &Key) -> Value {
        let f = self.flight;
        if path.untracked || place.state == ct::INVALID {
            return Value::Missing;
        }
        let ports = |(first, last): (u16, u16)| {
            if first == last { Value::Is(first.into()) } else { Value::Between(first.into(), last.into(), "the client's port") }
        };
        match key {
            Key::OriginalSource => Value::Is(number(f.original.source)),
            Key::OriginalDestination => Value::Is(number(f.original.destination)),
            Key::OriginalSourcePort => ports(f.original.source_port),
            Key::ReplySource => Value::Is(number(f.answer.source)),
            Key::ReplyDestination => Value::Is(number(f.answer.destination)),
            Key::ReplySourcePort => ports(f.answer.source_port),
            Key::ReplyPort => ports(f.answer.destination_port),
            // Neighbour discovery and the like have no connection; everything else is about one of TCP.
            _ => Value::Is(6),
        }
    }

    fn in_ip_set(&self, place: &Place, path: &Path, name: &str, source: &[bool]) -> Tri {
        let f = self.flight;
        if path.changed_sets.contains(name) {
            return Tri::Maybe(format!("the ipset {name}, which the packet itself changes"));
        }
        let side = |of_source: bool| set_match::Side {
            address: number(if of_source { f.source } else { f.destination }),
            ports: if of_source { f.source_port } else { f.destination_port },
            interface: if of_source { &f.in_interface } else { &f.out_interface },
        };
        let mac = matches!(self.value(place, path, &Key::SourceMac), Value::Missing).then_some(());
        let packet = set_match::Packet {
            v6: f.v6,
            protocol: f.protocol,
            icmp: f.icmp_type.is_some(),
            mark: path.mark,
            no_mac: mac.is_some(),
            source: side(true),
            destination: side(false),
        };
        match set_match::holds(&self.model.ip_sets, name, source, &packet) {
            Ok(true) => Tri::Yes,
            Ok(false) => Tri::No,
            Err(why) => Tri::Maybe(why),
        }
    }

    /// xt_rpfilter: whether the way back to the source leaves by the interface that it came in by (`loose`: whether there is one).
    fn reverse_path(&self, path: &Path, loose: bool) -> Value {
        let f = self.flight;
        if f.in_interface == "lo" {
            return Value::Is(1);
        }
        let Some(routing) = &self.model.routing else { return Value::Unknown("the routes".to_owned()) };
        let by = (!loose).then_some(f.in_interface.as_str());
        match routing.back_to(f.source, f.destination, path.mark.unwrap_or(0), by) {
            Ok(found) => Value::Is((found != 0).into()),
            Err(why) => Value::Unknown(why),
        }
    }

    fn reject(&self, with: &str) -> String {
        let named = match (with, self.flight.v6) {
            ("icmpx-port-unreachable", false) => "icmp-port-unreachable",
            ("icmpx-port-unreachable", true) => "icmp6-port-unreachable",
            ("icmpx-no-route", false) => "icmp-net-unreachable",
            ("icmpx-no-route", true) => "icmp6-no-route",
            ("icmpx-host-unreachable", false) => "icmp-host-unreachable",
            ("icmpx-host-unreachable", true) => "icmp6-addr-unreachable",
            ("icmpx-admin-prohibited", false) => "icmp-admin-prohibited",
            ("icmpx-admin-prohibited", true) => "icmp6-adm-prohibited",
            (other, _) => other,
        };
        named.to_owned()
    }
}

/// The state in which an undecided condition did not hold goes its own way, before the other one is changed.
fn aside(out: &mut Vec<(Option<Target>, Path)>, path: &mut Path, open: &mut Vec<String>) {
    if !open.is_empty() {
        let mut other = path.clone();
        other.assume(open, false);
        out.push((None, other));
        path.assume(open, true);
        open.clear();
    }
}

fn change(path: &mut Path, step: &Step) {
    match step {
        Step::Notrack => path.untracked = true,
        Step::ChangeSet(name) => {
            path.changed_sets.insert(name.clone());
        }
        Step::CopyMark { restore, keep, take } => {
            let (from, to) =
                if *restore { (path.connection_mark, &mut path.mark) } else { (path.mark, &mut path.connection_mark) };
            *to = match (from, *to) {
                (Some(from), _) if *keep == 0 => Some(from & take),
                (Some(from), Some(to)) => Some((to & keep) ^ (from & take)),
                _ => None,
            };
        }
        Step::SetMark { connection, change } => {
            let mark = if *connection { &mut path.connection_mark } else { &mut path.mark };
            *mark = match (*mark, change) {
                (_, Some((0, value))) => Some(*value),
                (Some(old), Some((keep, value))) => Some((old & keep) ^ value),
                _ => None,
            };
        }
        _ => {}
    }
}

fn within(values: &[Value], parts: &[Part]) -> Tri {
    let mut open = None;
    if values.len() != parts.len() {
        return Tri::Maybe("a set element of another shape".to_owned());
    }
    for (value, part) in values.iter().zip(parts) {
        match one_within(value, part) {
            Tri::Yes => {}
            Tri::No => return Tri::No,
            Tri::Maybe(why) => open = Some(why),
        }
    }
    open.map_or(Tri::Yes, Tri::Maybe)
}

fn one_within(value: &Value, part: &Part) -> Tri {
    let sure = |yes| if yes { Tri::Yes } else { Tri::No };
    match (value, part) {
        (_, Part::Any) => Tri::Yes,
        (Value::Unknown(why), _) => Tri::Maybe(why.clone()),
        (Value::Is(v), Part::Span(first, last)) => sure(first <= v && v <= last),
        (Value::Between(low, high, what), Part::Span(first, last)) => {
            if first <= low && high <= last {
                Tri::Yes
            } else if high < first || last < low {
                Tri::No
            } else {
                Tri::Maybe((*what).to_owned())
            }
        }
        (Value::Name(name), Part::Name(pattern)) => sure(match pattern.strip_suffix('*') {
            Some(start) => name.starts_with(start),
            None => name == pattern,
        }),
        _ => Tri::No,
    }
}

/// Joins states that can no longer be told apart; an assumption that both sides made differently did not matter.
fn joined(paths: Vec<Path>) -> Vec<Path> {
    if paths.len() < 2 {
        return paths;
    }
    let mut out: Vec<Path> = Vec::new();
    for path in paths {
        match out.iter_mut().find(|p| p.like(&path)) {
            Some(same) => {
                same.assumed = same.assumed.intersection(&path.assumed).cloned().collect();
                same.accepted = same.accepted.take().or(path.accepted);
            }
            None => out.push(path),
        }
    }
    out
}

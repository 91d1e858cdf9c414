//! What a change of rules changes: the same question asked of two models for every class of source that either tells apart, every
//! interface and the ports that matter. And what refuses a source now, as a plan to let it in has to know it.

use super::model;
use super::verdict::{At, Options};
use super::{Fate, Firewall, MAX_CLASSES, NEVER_CLIENTS, Outcome, Packet, address};
use std::collections::BTreeSet;
use std::net::IpAddr;

/// Which packet of a connection is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    Syn,
    Reply,
    Established,
    Neighbour,
    /// Connections of this host to itself.
    Loopback,
}

/// A host of a source that is refused, and where.
#[derive(Debug, Clone)]
pub struct Refusal {
    pub packet: Packet,
    pub at: At,
    pub stage: Stage,
    /// What the client sees: timeout | refused | unreachable | …
    pub sees: &'static str,
    /// Not refused for certain: on what it depends.
    pub open: Option<String>,
}

/// What may change: connections of some sources to one port.
#[derive(Debug, Clone)]
pub struct Allowed {
    /// IPv6, first and last address.
    pub sources: Vec<(bool, u128, u128)>,
    /// All others instead.
    pub others: bool,
    pub port: u16,
    /// They have to be let in; else kept out.
    pub opened: bool,
}

impl Allowed {
    fn holds(&self, v6: bool, source: u128) -> bool {
        self.sources.iter().any(|(of, first, last)| *of == v6 && *first <= source && source <= *last) != self.others
    }
}

/// What changes between two models.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Impact {
    /// Exactly what may change; so many cases were compared.
    Only { cells: usize },
    /// The same, where there are more classes than can be asked.
    Partly { cells: usize, of: usize },
    /// Something else, in words.
    More(Vec<String>),
    /// Not what was to change.
    Unchanged,
    /// Cannot be told, and why.
    Unclear(String),
}

/// Ports besides the asked one: RabbitMQ's, ssh, and one that no rule names.
const PORTS: [u16; 10] = [22, 1883, 4369, 5671, 5672, 15672, 15692, 25672, 61613, 40127];
/// Rules walked before the comparison is cut to a part of the classes.
const WORK: usize = 20_000_000;
/// Why some hosts do not stand for the others.
pub const BITS: &str = "the ruleset looks at single bits of the clients' addresses: which of them it treats alike cannot be told";
/// Other changes that are named.
const NAMED: usize = 3;

impl Firewall {
    /// Why clients of a network cannot be told apart by ranges, if they cannot.
    pub fn unclear(&self, v6: bool, first: u128, last: u128) -> Option<&'static str> {
        self.class_starts(v6, first, last).1.then_some(BITS)
    }

    /// The first host of a network whose connection does not come to be, with the place that decides it.
    pub fn refusal(&self, from: &str, destination: IpAddr, port: u16, interface: &str) -> Option<Refusal> {
        let (v6, first, last) = model::span(from)?;
        self.class_starts(v6, first, last).0.into_iter().take(MAX_CLASSES).find_map(|start| {
            let host = if start == first && first < last { start + 1 } else { start };
            let packet = Packet { source: address(v6, host), destination, port, interface: interface.to_owned() };
            let fates = self.fates(&packet, &Options::default());
            let worst = fates.iter().find(|f| f.outcome != Outcome::Accept)?;
            let stage = match worst.packet {
                "syn" => Stage::Syn,
                "reply" => Stage::Reply,
                "neighbour" => Stage::Neighbour,
                _ => Stage::Established,
            };
            let open = match &worst.outcome {
                Outcome::Open(why) => Some(why.clone()),
                _ if fates.len() > 1 => Some(depends(&fates)),
                _ => None,
            };
            Some(Refusal { at: worst.at.clone()?, stage, sees: worst.sees, open, packet })
        })
    }

    /// A source of that family, none of `except`, that is let in from another host, with the place that lets it in (`None`: no rule and no
    /// policy does, there is no filter).
    pub fn let_in(&self, v6: bool, except: &[(bool, u128, u128)], to: &Packet) -> Option<(Packet, Option<At>)> {
        let end = if v6 { u128::MAX } else { u32::MAX.into() };
        let mut starts = self.class_starts(v6, 0, end).0;
        starts.extend(except.iter().filter(|(of, ..)| *of == v6).filter_map(|(.., last)| last.checked_add(1)));
        starts.retain(|start| {
            *start <= end && !except.iter().any(|(of, first, last)| *of == v6 && first <= start && start <= last)
        });
        starts.into_iter().take(MAX_CLASSES).find_map(|start| {
            let packet = Packet { source: address(v6, start), ..to.clone() };
            let fates = self.fates(&packet, &Options::default());
            let fate = fates.iter().find(|fate| fate.outcome == Outcome::Accept)?;
            Some((packet, fate.at.clone()))
        })
    }

    /// What refuses connections of this host to itself.
    pub fn loopback_refusal(&self, v6: bool, port: u16) -> Option<Refusal> {
        let own: IpAddr = if v6 { std::net::Ipv6Addr::LOCALHOST.into() } else { std::net::Ipv4Addr::LOCALHOST.into() };
        let packet = Packet { source: own, destination: own, port, interface: "lo".to_owned() };
        let fates = self.fates(&packet, &Options::default());
        let [worst] = fates.as_slice() else { return None };
        let refused = !matches!(worst.outcome, Outcome::Accept | Outcome::Open(_));
        refused.then(|| Some(Refusal { at: worst.at.clone()?, stage: Stage::Loopback, sees: worst.sees, open: None, packet }))?
    }

    /// An address of this host that stands for all: not of loopback, not of one link only.
    pub fn own_address(&self, v6: bool) -> Option<IpAddr> {
        let link_local = |a: &IpAddr| matches!(a, IpAddr::V6(a) if a.is_unicast_link_local());
        self.model.routing.as_ref()?.local().find(|a| a.is_ipv6() == v6 && !a.is_loopback() && !link_local(a))
    }

    /// Compares this model with one after a change.
    pub fn impact(&self, after: &Firewall, allowed: &Allowed, local: IpAddr, interface: &str) -> Impact {
        let interfaces = self.interfaces(interface);
        let ports: BTreeSet<u16> = PORTS.into_iter().chain([allowed.port]).collect();
        let rules: usize = self.model.tables.iter().flat_map(|t| &t.chains).map(|c| c.rules.len() + 1).sum();
        let mut more = Vec::new();
        let (mut cells, mut all, mut wanted) = (0, 0, 0);
        for v6 in [false, true] {
            let Some(to) = (if local.is_ipv6() == v6 { Some(local) } else { self.own_address(v6) }) else { continue };
            let (classes, unclear) = self.classes(after, v6, allowed);
            if unclear {
                return Impact::Unclear(BITS.to_owned());
            }
            let most = (WORK / (rules * ports.len() * interfaces.len() * 2)).max(16);
            let step = classes.len().div_ceil(most).max(1);
            all += classes.len() * ports.len() * interfaces.len();
            for (number, source) in classes.into_iter().enumerate() {
                let asked_for = allowed.holds(v6, source);
                if number % step != 0 && !asked_for {
                    continue;
                }
                for (name, port) in interfaces.iter().flat_map(|name| ports.iter().map(move |port| (name, *port))) {
                    let packet = Packet { source: address(v6, source), destination: to, port, interface: name.clone() };
                    let (old, new) = (self.outcomes(&packet), after.outcomes(&packet));
                    cells += 1;
                    let asked_for = asked_for && port == allowed.port;
                    let accepted = new == [Outcome::Accept];
                    if asked_for && name == interface && accepted != allowed.opened {
                        return Impact::Unchanged;
                    }
                    if old == new {
                        continue;
                    }
                    if asked_for {
                        wanted += 1;
                    } else {
                        more.push(format!("{} to port {port} by {name}", packet.source));
                    }
                }
            }
        }
        if !more.is_empty() {
            let rest = more.len().saturating_sub(NAMED);
            more.truncate(NAMED);
            if rest > 0 {
                more.push(format!("{rest} more"));
            }
            return Impact::More(more);
        }
        match (wanted, cells < all) {
            (0, _) => Impact::Unchanged,
            (_, true) => Impact::Partly { cells, of: all },
            (_, false) => Impact::Only { cells },
        }
    }

    fn outcomes(&self, packet: &Packet) -> Vec<Outcome> {
        let fates = self.fates(packet, &Options::default());
        fates.into_iter().map(|fate| fate.outcome).collect()
    }

    /// One address of each class of sources that either model tells apart; and whether either tells more apart than ranges.
    fn classes(&self, after: &Firewall, v6: bool, allowed: &Allowed) -> (Vec<u128>, bool) {
        let end = if v6 { u128::MAX } else { u32::MAX.into() };
        let (before, after) = (self.class_starts(v6, 0, end), after.class_starts(v6, 0, end));
        let mut starts: BTreeSet<u128> = before.0.into_iter().chain(after.0).collect();
        for (_, first, last) in allowed.sources.iter().filter(|(of, ..)| *of == v6) {
            starts.insert(*first);
            starts.insert(if first < last { first + 1 } else { *first });
            starts.extend(last.checked_add(1).filter(|next| *next <= end));
        }
        let never = NEVER_CLIENTS.iter().filter_map(|name| model::span(name)).filter(|never| never.0 == v6);
        let never: Vec<(u128, u128)> = never.map(|(_, low, high)| (low, high)).collect();
        starts.retain(|start| !never.iter().any(|(low, high)| low <= start && start <= high));
        (starts.into_iter().collect(), before.1 || after.1)
    }

    /// Interfaces that are up, the asked one, and one that no rule names.
    fn interfaces(&self, asked: &str) -> Vec<String> {
        let links = self.model.routing.iter().flat_map(|routing| &routing.links).filter(|link| link.up && link.name != "lo");
        let mut names: BTreeSet<String> = links.map(|link| link.name.clone()).take(8).collect();
        names.insert(asked.to_owned());
        names.insert("other0".to_owned());
        names.into_iter().filter(|name| !name.is_empty()).collect()
    }
}

fn depends(fates: &[Fate]) -> String {
    let on: BTreeSet<&str> = fates.iter().flat_map(|fate| &fate.assumed).map(|(what, _)| what.as_str()).collect();
    format!("it depends on {}", on.into_iter().collect::<Vec<_>>().join(", "))
}

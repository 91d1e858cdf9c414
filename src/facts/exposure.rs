//! Derived: from where each listener of the broker can be reached, as far as this host decides.
//!
//! Sources are told apart by class: the networks that this host is in, private addresses beyond them (RFC 1918, RFC 4193), and public
//! ones. A class is *open* as soon as some address of it gets in: that is what somebody who worries about exposure asks. What is
//! said rests on the packet filter and the listener's address alone; routers and cloud filters before the host cannot be seen.

use super::firewall::model::{number, span};
use super::firewall::{DecidingRule, Firewall, Packet, Verdict};
use super::listeners::Listener;
use super::net::{Address, Net, Route};
use super::sockets::Socket;
use super::{Fact, Facts};
use crate::formats::cidr::Cidr;
use crate::policy::Intent;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// One port of the broker (or of epmd), and who can reach it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Exposed {
    /// amqp | amqps | management | distribution | epmd | prometheus | …; `port 1234` where it is not known
    pub service: String,
    pub port: i64,
    pub reach: Vec<Reach>,
    /// The policy or the options say who uses it: clients of this service, or cluster peers for distribution and epmd.
    pub declared: bool,
    /// The widest class from which others than those get in: public | private | own; null: none
    pub open_to: Fact<Option<String>>,
    /// An address of that class that gets in and need not.
    pub example: Option<String>,
    /// Open to public or private IPv6 addresses, and closed to the same class of IPv4 addresses by the packet filter.
    pub only_over_ipv6: Fact<Option<String>>,
}

/// One class of sources.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Reach {
    /// loopback | own | private | public
    pub sources: String,
    pub v6: bool,
    /// open: some address of the class gets in · closed · depends · unknown
    pub state: String,
    /// The address for which it was evaluated last: one that gets in, if the state is open.
    pub from: Option<String>,
    pub decided_by: Option<DecidingRule>,
    /// Why it is closed without a rule, or not known.
    pub why: Option<String>,
}

/// Addresses that are nobody's, or that never come in over a network.
const NOT_PUBLIC_V4: [&str; 8] = [
    "0.0.0.0/8",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "192.0.2.0/24",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "100.64.0.0/10",
    "224.0.0.0/3",
];
const PRIVATE_V4: [&str; 3] = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16"];
/// Global unicast addresses, the documentation prefix apart.
const PUBLIC_V6: &str = "2000::/3";
const NOT_PUBLIC_V6: [&str; 1] = ["2001:db8::/32"];
const PRIVATE_V6: [&str; 1] = ["fc00::/7"];
/// Parts of a class that are evaluated, the widest first. That something is open needs one part only.
const MAX_PARTS: usize = 40;

type Range = (u128, u128);

/// A class of sources on this host.
struct Class {
    name: &'static str,
    v6: bool,
    ranges: Vec<Range>,
    interface: Option<String>,
    /// The address of this host that they use where the listener takes any.
    to: Option<IpAddr>,
}

/// Derives the matrix; empty while nothing of the broker listens.
pub fn derive(facts: &Facts, intent: &Intent) -> Fact<Vec<Exposed>> {
    let (sockets, addresses, routes) = match (&facts.sockets, &facts.net.addresses, &facts.net.routes) {
        (Fact::Known(s), Fact::Known(a), Fact::Known(r)) => (s, a, r),
        (Fact::Unknown(why), ..) | (_, Fact::Unknown(why), _) | (.., Fact::Unknown(why)) => return Fact::Unknown(why.clone()),
    };
    let classes = classes(&facts.net, addresses, routes);
    let local: BTreeSet<u128> = addresses.iter().filter_map(|a| a.address.parse().ok()).map(number).collect();
    let mut ports: BTreeMap<i64, Vec<&Socket>> = BTreeMap::new();
    for socket in sockets.iter().filter(|s| of_the_broker(s)) {
        ports.entry(socket.port).or_default().push(socket);
    }
    let view = View { firewall: &facts.firewall, classes: &classes, local: &local, starts: starts(&facts.firewall) };
    let exposed = ports.into_iter().map(|(port, sockets)| view.exposed(service(facts, port), port, &sockets, intent));
    Fact::Known(exposed.collect())
}

/// epmd's socket may be held by systemd.
fn of_the_broker(socket: &Socket) -> bool {
    let Some(owner) = socket.owner.known().and_then(Option::as_ref) else { return false };
    owner.broker || owner.name == "epmd" || owner.unit.as_deref().is_some_and(|u| u.starts_with("epmd"))
}

fn service(facts: &Facts, port: i64) -> String {
    let of_port = |l: &&Listener| l.port == port;
    if let Some(listener) = facts.listeners.known().and_then(|all| all.iter().find(of_port)) {
        return listener.service.clone();
    }
    let node = facts.node.known().and_then(Option::as_ref);
    let told = node.and_then(|n| n.listeners.known()?.iter().find(|l| l.port == port).map(|l| l.protocol.clone()));
    match (told.as_deref(), port) {
        (_, 15692 | 15691) => "prometheus".into(),
        (Some("http" | "https"), _) | (None, 15672 | 15671) => "management".into(),
        (Some("rabbit_mgmt_sup_sup" | "rabbit_web_dispatch_sup"), _) => "management".into(),
        (Some(name), _) => name.trim_start_matches("rabbit_").to_owned(),
        (None, 4369) => "epmd".into(),
        // Ranch knows every other listener of the node.
        (None, _) if port == 25672 || node.is_some_and(|n| n.listeners.known().is_some()) => "distribution".into(),
        (None, other) => format!("port {other}"),
    }
}

/// Where conditions of the ruleset on the source begin and end; or why ranges do not tell what it does.
type Starts = (Vec<u128>, Option<&'static str>);

/// For IPv4 and IPv6.
fn starts(firewall: &Fact<Firewall>) -> [Starts; 2] {
    let of = |v6: bool| firewall.known().map(|f| f.source_starts(v6)).unwrap_or_default();
    [of(false), of(true)]
}

fn classes(net: &Net, addresses: &[Address], routes: &[Route]) -> Vec<Class> {
    let mut classes = Vec::new();
    for v6 in [false, true] {
        let usable = |a: &&Address| a.v6 == v6 && a.up && a.scope == "global";
        let mine: Vec<&Address> = addresses.iter().filter(usable).collect();
        let loopback = addresses.iter().find(|a| a.v6 == v6 && a.scope == "host").and_then(|a| a.address.parse().ok());
        if loopback.is_some() && (!v6 || net.ipv6 != Fact::Known(false)) {
            classes.push(Class { name: "loopback", v6, ranges: Vec::new(), interface: Some("lo".into()), to: loopback });
        }
        let mut own: BTreeMap<&str, Class> = BTreeMap::new();
        for address in mine.iter().filter(|a| i64::from(if v6 { 128u8 } else { 32 }) > a.prefix) {
            let Some((_, first, last)) = span(&format!("{}/{}", address.address, address.prefix)) else { continue };
            let class = own.entry(&address.interface).or_insert_with(|| Class {
                name: "own",
                v6,
                ranges: Vec::new(),
                interface: Some(address.interface.clone()),
                to: address.address.parse().ok(),
            });
            class.ranges.push((first, last));
        }
        let ours: Vec<Range> = own.values().flat_map(|c| c.ranges.clone()).collect();
        classes.extend(own.into_values());
        let to_any = if v6 { "::/0" } else { "0.0.0.0/0" };
        let default =
            routes.iter().filter(|r| r.to == to_any && !r.blocked).min_by_key(|r| r.metric).map(|r| r.interface.clone());
        let (private, public, never): (&[&str], &str, &[&str]) = match v6 {
            false => (&PRIVATE_V4, "0.0.0.0/0", &NOT_PUBLIC_V4),
            true => (&PRIVATE_V6, PUBLIC_V6, &NOT_PUBLIC_V6),
        };
        let to = |interface: &Option<String>| {
            let on = mine.iter().find(|a| Some(&a.interface) == interface.as_ref()).or(mine.first());
            on.and_then(|a| a.address.parse().ok())
        };
        if mine.is_empty() {
            continue;
        }
        let private = spans(private);
        let beyond = minus(&private, &ours);
        let by = beyond_by(&beyond, v6, routes).or_else(|| default.clone());
        classes.push(Class { name: "private", v6, to: to(&by), ranges: beyond, interface: by });
        let outside = [spans(never), private, ours].concat();
        classes.push(Class {
            name: "public",
            v6,
            ranges: minus(&spans(&[public]), &outside),
            to: to(&default),
            interface: default,
        });
    }
    classes
}

fn spans(networks: &[&str]) -> Vec<Range> {
    networks.iter().filter_map(|n| span(n)).map(|(_, first, last)| (first, last)).collect()
}

/// The interface of a route to a private network that this host is not in.
fn beyond_by(private: &[Range], v6: bool, routes: &[Route]) -> Option<String> {
    let routed = routes.iter().filter(|r| !r.blocked && r.gateway.is_some()).filter_map(|r| Some((span(&r.to)?, r)));
    let mut inside = routed.filter(|((six, first, last), _)| *six == v6 && private.iter().any(|(a, b)| a <= first && last <= b));
    inside.next().map(|(_, r)| r.interface.clone())
}

/// What is left of ranges without others.
fn minus(ranges: &[Range], without: &[Range]) -> Vec<Range> {
    let mut left = ranges.to_vec();
    for (low, high) in without {
        left = left
            .into_iter()
            .flat_map(|(first, last)| {
                if *high < first || last < *low {
                    return vec![(first, last)];
                }
                let before = (first < *low).then(|| (first, low - 1));
                let after = (*high < last).then(|| (high + 1, last));
                before.into_iter().chain(after).collect()
            })
            .collect();
    }
    left
}

/// What every listener is looked at with.
struct View<'a> {
    firewall: &'a Fact<Firewall>,
    classes: &'a [Class],
    local: &'a BTreeSet<u128>,
    starts: [Starts; 2],
}

/// What one class makes of one port.
struct Look {
    reach: Reach,
    /// An address that gets in and that nobody declared.
    undeclared: Option<String>,
}

impl View<'_> {
    fn exposed(&self, service: String, port: i64, sockets: &[&Socket], intent: &Intent) -> Exposed {
        let declared = declared(intent, &service);
        let looks: Vec<(&Class, Look)> = self.classes.iter().map(|c| (c, self.look(c, port, sockets, &declared))).collect();
        let widest = ["public", "private", "own"].into_iter().find_map(|name| {
            let of_class = looks.iter().filter(|(c, _)| c.name == name);
            of_class.filter_map(|(_, look)| look.undeclared.clone()).next().map(|example| (name, example))
        });
        let unknown = looks.iter().find(|(c, l)| c.name != "loopback" && l.reach.state == "unknown").map(|(_, l)| &l.reach);
        let why_unknown = |reach: &Reach| reach.why.clone().unwrap_or_else(|| "not known".to_owned());
        let open_to = match (&widest, unknown) {
            (Some(("public", _)), _) | (_, None) => Fact::Known(widest.as_ref().map(|(name, _)| (*name).to_owned())),
            (_, Some(reach)) => Fact::Unknown(why_unknown(reach)),
        };
        let only_over_ipv6 = match unknown {
            Some(reach) => Fact::Unknown(why_unknown(reach)),
            None => Fact::Known(["public", "private"].into_iter().find(|class| six_alone(&looks, class)).map(str::to_owned)),
        };
        Exposed {
            service,
            port,
            declared: declared.is_some(),
            open_to,
            example: widest.map(|(_, example)| example),
            only_over_ipv6,
            reach: looks.into_iter().map(|(_, look)| look.reach).collect(),
        }
    }

    fn look(&self, class: &Class, port: i64, sockets: &[&Socket], declared: &Option<Vec<(bool, Range)>>) -> Look {
        let plain = |state: &str, why: &str| Look {
            reach: Reach {
                sources: class.name.to_owned(),
                v6: class.v6,
                state: state.to_owned(),
                from: None,
                decided_by: None,
                why: (!why.is_empty()).then(|| why.to_owned()),
            },
            undeclared: None,
        };
        let Some(to) = sockets.iter().find_map(|s| destination(s, class)) else {
            let loopback = sockets.iter().all(|s| s.loopback);
            return plain("closed", if loopback { "bound to loopback" } else { "bound to other addresses" });
        };
        let (firewall, port) = match (self.firewall, u16::try_from(port)) {
            (Fact::Known(firewall), Ok(port)) => (firewall, port),
            (Fact::Unknown(why), _) => return plain("unknown", why),
            (_, Err(_)) => return plain("unknown", "not a port"),
        };
        let Some(interface) = &class.interface else { return plain("closed", "no route back") };
        let packet = |source: IpAddr| Packet { source, destination: to, port, interface: interface.clone() };
        if class.name == "loopback" {
            return Look { reach: reach(class, &to.to_string(), firewall.verdict(&packet(to))), undeclared: None };
        }
        let declared: Vec<Range> = declared.iter().flatten().filter(|(v6, _)| *v6 == class.v6).map(|(_, range)| *range).collect();
        if let Some(why) = self.starts[usize::from(class.v6)].1 {
            return plain("unknown", why);
        }
        let (parts, complete) = self.parts(class, &declared);
        let mut last: Option<Look> = None;
        for (range, known) in parts {
            let Some(source) = self.host_of(range, class.v6) else { continue };
            let reach = reach(class, &source.to_string(), firewall.verdict(&packet(source)));
            let undeclared = (reach.state == "open" && !known).then(|| source.to_string());
            let done = reach.state == "open";
            let telling = |l: &Look| ["closed", "depends", "unknown", "open"].iter().position(|s| *s == l.reach.state);
            let look = Look { reach, undeclared };
            if last.as_ref().is_none_or(|l| telling(&look) > telling(l)) {
                last = Some(look);
            }
            if done {
                break;
            }
        }
        match last {
            None => plain("closed", "no such sources"),
            Some(look) if look.reach.state == "closed" && !complete => {
                plain("unknown", "the ruleset tells too many parts of these networks apart")
            }
            Some(look) => look,
        }
    }

    /// The widest parts of a class that the ruleset or the declaration tell apart, with whether they are declared; and whether these
    /// are all.
    fn parts(&self, class: &Class, declared: &[Range]) -> (Vec<(Range, bool)>, bool) {
        let starts = &self.starts[usize::from(class.v6)].0;
        let edges: Vec<u128> = declared.iter().flat_map(|(a, b)| [Some(*a), b.checked_add(1)]).flatten().collect();
        let mut parts = Vec::new();
        for (first, last) in &class.ranges {
            let inside = starts.iter().chain(&edges).copied().filter(|s| first < s && s <= last);
            let cuts: Vec<u128> = BTreeSet::from_iter(inside.chain([*first])).into_iter().collect();
            for (i, cut) in cuts.iter().enumerate() {
                let end = cuts.get(i + 1).map_or(*last, |next| next - 1);
                let known = declared.iter().any(|(a, b)| a <= cut && end <= *b);
                parts.push(((*cut, end), known));
            }
        }
        // What nobody declared comes first: it decides about more.
        parts.sort_by_key(|(range, known)| (*known, std::cmp::Reverse(range.1 - range.0)));
        // Ranges that the ruleset does not tell apart have one verdict.
        let mut seen = BTreeSet::new();
        parts.retain(|(range, known)| seen.insert((starts.partition_point(|s| *s <= range.0), *known)));
        let complete = parts.len() <= MAX_PARTS;
        parts.truncate(MAX_PARTS);
        (parts, complete)
    }

    /// An address of the range that a client can have.
    fn host_of(&self, (first, last): Range, v6: bool) -> Option<IpAddr> {
        let start = if first < last { first + 1 } else { first };
        let free = (start..=last).take(self.local.len() + 1).find(|n| !self.local.contains(n))?;
        Some(if v6 { IpAddr::V6(free.into()) } else { IpAddr::V4(u32::try_from(free).ok()?.into()) })
    }
}

/// Whom the intent names for this service; `None`: nobody was asked.
fn declared(intent: &Intent, service: &str) -> Option<Vec<(bool, Range)>> {
    let sources: Vec<&String> = match service {
        "distribution" | "epmd" => intent.peers.iter().collect(),
        _ => intent.clients.iter().filter(|c| !c.assumed && c.service == service).flat_map(|c| &c.from).collect(),
    };
    let any = || [span("0.0.0.0/0"), span("::/0")];
    let range = |from: &&String| match from.as_str() {
        "any" => any().into_iter().flatten().collect(),
        cidr => Cidr::parse(cidr).and_then(|c| span(&c.to_string())).into_iter().collect::<Vec<_>>(),
    };
    let ranges = sources.iter().flat_map(range).map(|(v6, first, last)| (v6, (first, last))).collect();
    (!sources.is_empty()).then_some(ranges)
}

/// The address of this host at which the class meets the socket.
fn destination(socket: &Socket, class: &Class) -> Option<IpAddr> {
    let bound: IpAddr = socket.address.parse().ok()?;
    let family = socket.v6 == class.v6 || (socket.v6 && socket.dual_stack && socket.wildcard);
    let bound = bound.to_canonical();
    match (socket.wildcard, class.name == "loopback") {
        (true, _) if family => class.to,
        (false, true) if bound.is_ipv6() == class.v6 => Some(bound),
        (false, false) if bound.is_ipv6() == class.v6 && !bound.is_loopback() => Some(bound),
        _ => None,
    }
}

fn reach(class: &Class, from: &str, verdict: Fact<Verdict>) -> Reach {
    let (state, decided_by, why) = match verdict {
        Fact::Unknown(why) => ("unknown", None, Some(why)),
        Fact::Known(v) => match (v.verdict.as_str(), &v.delivered_to) {
            ("accept", Some(to)) => ("open", v.decided_by, Some(format!("translated to {to}"))),
            ("accept", None) => ("open", v.decided_by, None),
            ("depends", _) => ("depends", v.decided_by, Some(v.depends_on.join("; "))),
            _ => ("closed", v.decided_by, None),
        },
    };
    Reach { sources: class.name.to_owned(), v6: class.v6, state: state.to_owned(), from: Some(from.to_owned()), decided_by, why }
}

/// The packet filter closes the class over IPv4 and leaves it open over IPv6.
fn six_alone(looks: &[(&Class, Look)], class: &str) -> bool {
    let of = |v6: bool| looks.iter().filter(move |(c, _)| c.name == class && c.v6 == v6).map(|(_, l)| &l.reach);
    of(true).any(|r| r.state == "open") && of(false).any(|r| r.state == "closed" && r.decided_by.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::ClientIntent;

    fn address(interface: &str, address: &str, prefix: i64, scope: &str) -> Address {
        let v6 = address.contains(':');
        Address { interface: interface.into(), address: address.into(), prefix, v6, up: true, scope: scope.into() }
    }

    fn route(to: &str, interface: &str, gateway: Option<&str>) -> Route {
        Route { to: to.into(), interface: interface.into(), gateway: gateway.map(str::to_owned), metric: 0, blocked: false }
    }

    fn socket(address: &str, port: i64, dual_stack: bool) -> Socket {
        let ip: IpAddr = address.parse().unwrap();
        Socket {
            address: address.into(),
            port,
            v6: ip.is_ipv6(),
            dual_stack,
            loopback: ip.is_loopback(),
            wildcard: ip.is_unspecified(),
            uid: 0,
            owner: Fact::Known(None),
            inode: 1,
        }
    }

    fn of_host() -> Vec<Class> {
        let addresses = [
            address("lo", "127.0.0.1", 8, "host"),
            address("eth0", "198.18.0.5", 24, "global"),
            address("eth1", "10.0.0.5", 24, "global"),
            address("eth1", "fd77::5", 64, "global"),
        ];
        let routes = [
            route("0.0.0.0/0", "eth0", Some("198.18.0.1")),
            route("10.0.0.0/24", "eth1", None),
            route("10.8.0.0/16", "eth1", Some("10.0.0.1")),
        ];
        let net = Net {
            addresses: Fact::Known(addresses.to_vec()),
            routes: Fact::Known(routes.to_vec()),
            bindv6only: Fact::Known(false),
            ipv6: Fact::Known(true),
            rp_filter: Fact::Known(BTreeMap::new()),
            port_range: Fact::Known(Vec::new()),
        };
        classes(&net, &addresses, &routes)
    }

    #[test]
    fn every_class_has_its_interface_and_our_address_there() {
        let shown: Vec<String> = of_host()
            .iter()
            .map(|c| format!("{} {} {:?} {}", c.name, c.v6, c.interface, c.to.map(|a| a.to_string()).unwrap_or_default()))
            .collect();
        let expected = [
            "loopback false Some(\"lo\") 127.0.0.1",
            "own false Some(\"eth0\") 198.18.0.5",
            "own false Some(\"eth1\") 10.0.0.5",
            "private false Some(\"eth1\") 10.0.0.5",
            "public false Some(\"eth0\") 198.18.0.5",
            "own true Some(\"eth1\") fd77::5",
            "private true None fd77::5",
            "public true None fd77::5",
        ];
        assert_eq!(shown, expected);
    }

    #[test]
    fn ranges_are_taken_apart() {
        assert_eq!(minus(&[(0, 100)], &[(0, 9), (50, 59), (90, 200)]), [(10, 49), (60, 89)]);
        let own = spans(&["10.0.0.0/24"]);
        let private = minus(&spans(&PRIVATE_V4), &own);
        assert!(private.iter().all(|(a, b)| *b < own[0].0 || *a > own[0].1) && private.len() == 3, "{private:?}");
    }

    #[test]
    fn parts_follow_the_ruleset_and_the_declaration() {
        let firewall = Fact::Unknown("not root".to_owned());
        let (classes, local) = (of_host(), BTreeSet::new());
        let drops = span("10.9.0.0/16").map(|(_, a, b)| [a, b + 1]).unwrap().to_vec();
        let view = View { firewall: &firewall, classes: &classes, local: &local, starts: [(drops, None), Starts::default()] };
        let private = classes.iter().find(|c| c.name == "private").unwrap();
        let all = span("10.8.0.0/16").map(|(_, a, b)| (a, b)).unwrap();
        let (parts, complete) = view.parts(private, &[all]);
        assert!(complete && parts.iter().filter(|(_, known)| *known).count() == 1, "{parts:?}");
        assert_eq!(parts.last().map(|(range, _)| *range), Some(all), "what is declared comes last");
    }

    #[test]
    fn a_listener_is_met_where_it_is_bound() {
        let classes = of_host();
        let met = |socket: &Socket| -> Vec<String> {
            let at = |c: &Class| destination(socket, c).map(|a| format!("{}={a}", c.name));
            classes.iter().filter_map(at).collect()
        };
        assert_eq!(met(&socket("::", 5672, true)).len(), 8);
        assert_eq!(met(&socket("127.0.0.1", 5672, false)), ["loopback=127.0.0.1"]);
        let one = met(&socket("10.0.0.5", 5672, false));
        assert_eq!(one, ["loopback=10.0.0.5", "own=10.0.0.5", "own=10.0.0.5", "private=10.0.0.5", "public=10.0.0.5"]);
    }

    #[test]
    fn what_the_intent_names() {
        let client = |service: &str, from: &str, assumed| ClientIntent {
            service: service.into(),
            from: vec![from.into()],
            assumed,
            ..ClientIntent::default()
        };
        let clients = vec![client("management", "10.0.0.0/24", false), client("amqp", "any", true)];
        let intent = Intent { clients, peers: vec!["10.0.0.9".into()], ..Intent::default() };
        assert_eq!(declared(&intent, "management").map(|r| r.len()), Some(1));
        assert_eq!(declared(&intent, "amqp"), None, "nobody said so");
        assert_eq!(declared(&intent, "epmd").map(|r| r[0].1.0), span("10.0.0.9").map(|s| s.1));
        assert_eq!(declared(&Intent::default(), "epmd"), None);
    }

    #[test]
    fn what_cannot_be_evaluated_is_unknown() {
        let firewall = Fact::Unknown("not root".to_owned());
        let (classes, local) = (of_host(), BTreeSet::new());
        let view = View { firewall: &firewall, classes: &classes, local: &local, starts: Default::default() };
        let of = |s: &Socket| view.exposed("amqp".into(), s.port, &[s], &Intent::default());
        assert_eq!(of(&socket("::", 5672, true)).open_to, Fact::Unknown("not root".into()));
        let local_only = of(&socket("127.0.0.1", 5672, false));
        assert_eq!(local_only.open_to, Fact::Known(None), "it is bound to loopback, whatever the packet filter does");
        assert_eq!(local_only.only_over_ipv6, Fact::Known(None));
    }
}

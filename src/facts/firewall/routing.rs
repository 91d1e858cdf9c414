//! Links, addresses, routes of all tables and routing rules, and what the kernel decides by them: include/uapi/linux/rtnetlink.h,
//! if_link.h, if_addr.h, fib_rules.h; net/ipv4/fib_frontend.c, net/ipv6/route.c.

use super::model::{low_bits, number};
use crate::formats::netlink::{Message, attribute, attributes, messages, text, u16_at, u32_at};
use crate::host::{Host, InterfaceAddress, optional, read_text};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

const RTM_NEWLINK: u16 = 16;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;
const RTM_NEWRULE: u16 = 32;
const RTM_NEWQDISC: u16 = 36;
const AF_INET6: u8 = 10;
const IFF_UP: u32 = 1;
/// Tentative, or found to be somebody else's.
const NO_ADDRESS_YET: u32 = 0x40 | 0x08;
const RTM_F_CLONED: u32 = 0x200;
/// Next hops that are down (RTNH_F_DEAD).
const NEXT_HOP_DEAD: u32 = 1;
const TABLE_LOCAL: u32 = 255;
const TABLE_MAIN: u32 = 254;
const TABLE_DEFAULT: u32 = 253;
const RULE_INVERT: u32 = 2;
const MAX_RULES: usize = 100_000;
/// The loopback interface is always the first one.
const LOOPBACK: u32 = 1;

/// What kind of thing an address is, in the numbering of rtm_type (RTN_*).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Kind {
    Unspecified = 0,
    Unicast = 1,
    Local = 2,
    Broadcast = 3,
    Anycast = 4,
    Multicast = 5,
    Blackhole = 6,
    Unreachable = 7,
    Prohibit = 8,
    /// Go on with the next routing rule.
    Throw = 9,
}

impl Kind {
    fn of(number: u8) -> Kind {
        use Kind::{Anycast, Blackhole, Broadcast, Local, Multicast, Prohibit, Throw, Unicast, Unreachable, Unspecified};
        [Unspecified, Unicast, Local, Broadcast, Anycast, Multicast, Blackhole, Unreachable, Prohibit, Throw]
            .get(usize::from(number))
            .copied()
            .unwrap_or(Unspecified)
    }
    /// As `ip route` writes it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Unspecified => "unspecified",
            Kind::Unicast => "unicast",
            Kind::Local => "local",
            Kind::Broadcast => "broadcast",
            Kind::Anycast => "anycast",
            Kind::Multicast => "multicast",
            Kind::Blackhole => "blackhole",
            Kind::Unreachable => "unreachable",
            Kind::Prohibit => "prohibit",
            Kind::Throw => "throw",
        }
    }
}

/// One network interface.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Link {
    /// 0: not known
    pub index: u32,
    pub name: String,
    pub up: bool,
    /// Interface group, as `meta iifgroup` sees it.
    pub group: u32,
    /// ARPHRD_*: 1 Ethernet, 772 loopback
    pub hardware: u16,
    pub mac: Option<[u8; 6]>,
    /// `veth`, `bridge`, `vrf`, …; empty for physical interfaces
    pub kind: String,
    /// Index of the bridge, bond or VRF that it belongs to.
    pub master: Option<u32>,
    /// A BPF program looks at its packets before anything else does.
    pub xdp: bool,
    /// It has a queueing discipline to which filters of incoming packets can be attached (`clsact`, `ingress`).
    pub ingress_filters: bool,
}

/// One address of this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// Index of its interface; 0: not known.
    pub interface: u32,
    pub address: IpAddr,
    pub prefix: u8,
    /// A second one of the same network (IFA_F_SECONDARY).
    pub secondary: bool,
    /// Not usable yet, or never: duplicate address detection.
    pub tentative: bool,
}

/// One next hop of a route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hop {
    pub interface: u32,
    pub gateway: Option<IpAddr>,
}

/// One route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    pub v6: bool,
    pub table: u32,
    pub kind: Kind,
    pub first: u128,
    pub prefix: u8,
    /// Only for packets from there (IPv6): first address and prefix.
    pub source: Option<(u128, u8)>,
    pub tos: u8,
    pub metric: u32,
    /// Empty for blackholes and their like.
    pub hops: Vec<Hop>,
}

impl Route {
    fn width(&self) -> u8 {
        if self.v6 { 128 } else { 32 }
    }
    fn holds(&self, to: u128, from: Option<u128>) -> bool {
        within(to, self.first, self.prefix, self.width())
            && self.source.is_none_or(|(first, prefix)| from.is_some_and(|f| within(f, first, prefix, self.width())))
    }
}

fn within(value: u128, first: u128, prefix: u8, width: u8) -> bool {
    let rest = low_bits(u32::from(width.saturating_sub(prefix)));
    value & !rest == first & !rest
}

/// What a routing rule does (FR_ACT_*).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Table(u32),
    Goto(u32),
    Nothing,
    Refuse(Kind),
}

/// One routing rule (`ip rule`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    pub v6: bool,
    pub priority: u32,
    pub from: Option<(u128, u8)>,
    pub to: Option<(u128, u8)>,
    pub iif: Option<String>,
    pub oif: Option<String>,
    /// Value and mask.
    pub mark: Option<(u32, u32)>,
    pub invert: bool,
    pub action: Action,
    /// A route with a prefix of at most this length does not count.
    pub suppress_prefix: Option<u32>,
    /// A route whose interface is of this group does not count.
    pub suppress_group: Option<u32>,
    /// Something else that it asks for, which is not known of a packet here.
    pub unsure: Option<String>,
    /// For packets of a type of service only.
    pub tos: u8,
}

/// Sysctls that decide about packets. An interface that is not in a map has the value 0, if the map is there at all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// Effective values: max(all, interface); `None`: not read.
    pub rp_filter: Option<BTreeMap<String, i64>>,
    /// Effective: either.
    pub accept_local: BTreeMap<String, i64>,
    pub route_localnet: BTreeMap<String, i64>,
    /// The reverse path test takes the packet's mark.
    pub src_valid_mark: BTreeMap<String, i64>,
    /// IPv4 packets that come in by the interface may be forwarded; `None`: not read.
    pub forwarding: Option<BTreeMap<String, i64>>,
    /// IPv6 packets are forwarded; `None`: not read.
    pub forwarding6: Option<bool>,
    /// nf_conntrack_tcp_loose; `None`: no connection tracking
    pub tcp_loose: Option<bool>,
    /// nf_conntrack_count and nf_conntrack_max
    pub connections: Option<(i64, i64)>,
    /// IPVS has virtual services.
    pub ip_vs: bool,
}

/// What a look at the routing tables gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way {
    /// By one of these (several: spread over them).
    Out(Vec<Hop>),
    /// An address of this host; the interface that it belongs to.
    Local(u32),
    /// Broadcast, multicast or anycast.
    Other(Kind),
    /// A blackhole, unreachable or prohibit route or rule.
    Refused(Kind),
    None,
    /// Not to be known, and why.
    Unsure(String),
}

/// A question to the routing tables.
#[derive(Debug, Clone, Copy, Default)]
pub struct Question<'a> {
    pub from: Option<IpAddr>,
    pub mark: u32,
    /// The packet came in by it; `None`: it begins here.
    pub iif: Option<&'a str>,
    /// It has to leave by it.
    pub oif: Option<&'a str>,
}

/// Everything that rtnetlink tells, and the sysctls beside it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Routing {
    pub links: Vec<Link>,
    pub addresses: Vec<Address>,
    /// By table, longest prefix first, then by metric; `None`: not read, only the addresses are known.
    pub routes: Option<Vec<Route>>,
    /// By priority.
    pub rules: Vec<Rule>,
    pub settings: Settings,
}

impl Routing {
    /// Reads a dump of [`Host::routing`].
    pub fn decode(dump: &[u8]) -> Result<Routing, String> {
        let mut routing = Routing { routes: Some(Vec::new()), ..Routing::default() };
        let mut routes = Vec::new();
        let mut filtered = Vec::new();
        for message in messages(dump) {
            let message = message.map_err(|broken| format!("routing tables: {broken}"))?;
            match message.kind {
                RTM_NEWLINK => routing.links.extend(link(&message)),
                RTM_NEWADDR => routing.addresses.extend(local_address(&message)),
                RTM_NEWROUTE => routes.extend(route(&message)),
                RTM_NEWRULE => routing.rules.extend(rule(&message)),
                RTM_NEWQDISC => filtered.extend(ingress_qdisc(&message)),
                _ => {}
            }
        }
        for link in &mut routing.links {
            link.ingress_filters = filtered.contains(&link.index);
        }
        if routing.links.is_empty() {
            return Err("routing tables: no interface in the kernel's answer".to_owned());
        }
        routes.sort_by_key(|r: &Route| (r.v6, r.table, std::cmp::Reverse(r.prefix), r.metric));
        routing.routes = Some(routes);
        routing.rules.sort_by_key(|r| r.priority);
        for v6 in [false, true] {
            if !routing.rules.iter().any(|r| r.v6 == v6) {
                routing.rules.extend(default_rules(v6));
            }
        }
        Ok(routing)
    }

    /// Asks a host. Where the kernel's dump is not to be had, addresses alone; `None`: not even those.
    pub fn read(host: &dyn Host) -> Option<Routing> {
        let dump = host.routing().map_err(|m| m.to_string()).and_then(|dump| Routing::decode(&dump));
        let mut routing = match dump {
            Ok(routing) => routing,
            Err(_) => Routing::of_addresses(&host.addresses().ok()?),
        };
        routing.settings = settings(host);
        Some(routing)
    }

    /// Only addresses are known, no routes.
    pub fn of_addresses(all: &[InterfaceAddress]) -> Routing {
        let mut routing = Routing::default();
        for one in all {
            let known = routing.links.iter().find(|l| l.name == one.interface).map(|l| l.index);
            let interface = known.unwrap_or_else(|| {
                // Numbers of their own, which no kernel gives: nothing may take them for real ones.
                let index = u32::MAX - u32::try_from(routing.links.len()).unwrap_or(0);
                routing.links.push(Link { index, name: one.interface.clone(), up: one.up, ..Link::default() });
                index
            });
            routing.addresses.push(Address {
                interface,
                address: one.address,
                prefix: one.prefix,
                secondary: false,
                tentative: false,
            });
        }
        routing
    }

    /// Only these addresses, on eth0.
    #[cfg(test)]
    pub fn of_hosts(addresses: &[&str]) -> Routing {
        let one = |a: &&str| InterfaceAddress { interface: "eth0".to_owned(), address: a.parse().unwrap(), prefix: 24, up: true };
        Routing::of_addresses(&addresses.iter().map(one).collect::<Vec<_>>())
    }

    pub fn link(&self, name: &str) -> Option<&Link> {
        self.links.iter().find(|l| l.name == name)
    }
    pub fn link_at(&self, index: u32) -> Option<&Link> {
        self.links.iter().find(|l| l.index == index)
    }
    /// Name of an interface; empty: there is none of this number.
    pub fn name(&self, index: u32) -> &str {
        self.link_at(index).map_or("", |l| l.name.as_str())
    }
    /// All usable addresses of this host.
    pub fn local(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.addresses.iter().filter(|a| !a.tentative).map(|a| a.address)
    }
    /// The first address of an interface and family: what REDIRECT sends a packet to.
    pub fn primary(&self, interface: &str, v6: bool) -> Option<IpAddr> {
        let index = self.link(interface)?.index;
        let mut own = self.addresses.iter().filter(|a| a.interface == index && a.address.is_ipv6() == v6 && !a.tentative);
        own.find(|a| !a.secondary).map(|a| a.address)
    }

    /// The first IPv6 address of an interface that reaches as far as `like` does: link-local or further.
    pub fn of_scope(&self, interface: &str, like: IpAddr) -> Option<IpAddr> {
        let link_local = |a: IpAddr| matches!(a, IpAddr::V6(a) if a.is_unicast_link_local());
        let index = self.link(interface)?.index;
        let mut own = self.addresses.iter().filter(|a| a.interface == index && a.address.is_ipv6() && !a.tentative);
        own.find(|a| link_local(a.address) == link_local(like)).map(|a| a.address)
    }

    /// Whether packets to this address are for this host.
    pub fn is_local(&self, address: IpAddr) -> bool {
        if address.is_loopback() || self.local().any(|a| a == address) {
            return true;
        }
        matches!(self.in_table(address, TABLE_LOCAL), Some(r) if r.kind == Kind::Local)
    }

    fn in_table(&self, address: IpAddr, table: u32) -> Option<&Route> {
        let to = number(address);
        self.table(address.is_ipv6(), table).iter().find(|r| r.holds(to, None))
    }

    fn table(&self, v6: bool, table: u32) -> &[Route] {
        let all = self.routes.as_deref().unwrap_or_default();
        let start = all.partition_point(|r| (r.v6, r.table) < (v6, table));
        let end = all.partition_point(|r| (r.v6, r.table) <= (v6, table));
        &all[start..end]
    }

    /// Kind of an address (`fib … type`, `addrtype`). `interface`: only its own addresses count (`fib saddr . iif type`,
    /// `--limit-iface-in`). For IPv6 the routes decide, for IPv4 only the table of local addresses does.
    pub fn kind_of(&self, address: IpAddr, interface: Option<&str>) -> Result<Kind, String> {
        match address {
            IpAddr::V4(a) if a.octets()[0] == 0 || a.is_broadcast() => return Ok(Kind::Broadcast),
            a if a.is_multicast() && !a.is_ipv6() => return Ok(Kind::Multicast),
            IpAddr::V6(a) if a.is_unspecified() => return Ok(Kind::Unspecified),
            _ => {}
        }
        let index = interface.map(|name| self.link(name).map_or(0, |l| l.index));
        let own = |at: Option<u32>| match at {
            None => self.is_local(address),
            Some(index) => self.addresses.iter().any(|a| a.interface == index && a.address == address && !a.tentative),
        };
        if address.is_ipv6() {
            if own(index) {
                return Ok(Kind::Local);
            }
            if address.is_multicast() {
                return Ok(Kind::Multicast);
            }
            return match self.way(address, &Question { oif: interface, ..Question::default() }) {
                Way::Out(_) | Way::Local(_) => Ok(Kind::Unicast),
                Way::Other(kind) | Way::Refused(kind) => Ok(kind),
                Way::None => Ok(Kind::Unreachable),
                Way::Unsure(_) if self.routes.is_none() => Ok(Kind::Unicast),
                Way::Unsure(why) => Err(why),
            };
        }
        let found = match self.routes {
            Some(_) => self.in_table(address, TABLE_LOCAL).map(|r| (r.kind, r.hops.first().map_or(0, |h| h.interface))),
            None if own(index) => return Ok(Kind::Local),
            None => None,
        };
        Ok(match found {
            Some((kind, at)) if index.is_none_or(|i| i == at) => kind,
            None if index.is_none() && own(None) => Kind::Local,
            _ => Kind::Unicast,
        })
    }

    /// Where a packet to `to` goes: the kernel's fib_lookup, rules first.
    pub fn way(&self, to: IpAddr, question: &Question) -> Way {
        if self.routes.is_none() {
            if self.is_local(to) {
                return Way::Local(0);
            }
            return Way::Unsure("the routes, which could not be read".to_owned());
        }
        let v6 = to.is_ipv6();
        let rules: Vec<&Rule> = self.rules.iter().filter(|r| r.v6 == v6).collect();
        let mut at = 0;
        for _ in 0..MAX_RULES {
            let Some(rule) = rules.get(at) else { return Way::None };
            at += 1;
            if !rule_holds(rule, to, question) {
                continue;
            }
            if let Some(why) = &rule.unsure {
                return Way::Unsure(format!("routing rule {}: {why}", rule.priority));
            }
            match rule.action {
                Action::Nothing => {}
                Action::Goto(priority) => match rules.iter().position(|r| r.priority >= priority) {
                    Some(target) if target >= at => at = target,
                    _ => return Way::None,
                },
                Action::Refuse(kind) => return Way::Refused(kind),
                Action::Table(table) => {
                    if let Some(way) = self.table_way(to, table, question, rule) {
                        return way;
                    }
                }
            }
        }
        Way::None
    }

    fn table_way(&self, to: IpAddr, table: u32, question: &Question, rule: &Rule) -> Option<Way> {
        let oif = match question.oif {
            Some(name) => Some(self.link(name)?.index),
            None => None,
        };
        let (target, from) = (number(to), question.from.map(number));
        let mut candidates = self.table(to.is_ipv6(), table).iter().filter(|r| r.tos == 0 && r.holds(target, from));
        let usable = |route: &Route| match route.kind {
            Kind::Unicast => oif.is_none_or(|o| route.hops.iter().any(|h| h.interface == o)) && !route.hops.is_empty(),
            Kind::Local | Kind::Broadcast | Kind::Anycast | Kind::Multicast => {
                oif.is_none_or(|o| route.hops.iter().any(|h| h.interface == o))
            }
            _ => true,
        };
        let route = candidates.find(|r| usable(r))?;
        if rule.suppress_prefix.is_some_and(|length| u32::from(route.prefix) <= length) {
            return None;
        }
        let group = |h: &Hop| self.link_at(h.interface).map(|l| l.group);
        if rule.suppress_group.is_some_and(|g| route.hops.first().and_then(group) == Some(g)) {
            return None;
        }
        match route.kind {
            Kind::Throw => None,
            Kind::Unicast => {
                Some(Way::Out(route.hops.iter().filter(|h| oif.is_none_or(|o| h.interface == o)).cloned().collect()))
            }
            Kind::Local => Some(Way::Local(route.hops.first().map_or(0, |h| h.interface))),
            Kind::Blackhole | Kind::Unreachable | Kind::Prohibit => Some(Way::Refused(route.kind)),
            other => Some(Way::Other(other)),
        }
    }

    /// `fib saddr [. iif] oif` and xt_rpfilter: the interface that packets to `source` leave by, or 0 where there is none;
    /// with `by`, only that interface counts.
    pub fn back_to(&self, source: IpAddr, destination: IpAddr, mark: u32, by: Option<&str>) -> Result<u32, String> {
        let question = Question { from: Some(destination), mark, ..Question::default() };
        let hops = match self.way(source, &question) {
            Way::Out(hops) => hops,
            Way::Local(_) if by == Some("lo") => return Ok(LOOPBACK),
            Way::Unsure(why) => return Err(why),
            _ => return Ok(0),
        };
        let Some(by) = by else {
            return match hops.as_slice() {
                [one] => Ok(one.interface),
                _ => Err("which of several routes the kernel takes".to_owned()),
            };
        };
        let index = self.link(by).map_or(0, |l| l.index);
        Ok(if hops.iter().any(|h| h.interface == index) { index } else { 0 })
    }

    /// Why an IPv4 packet that comes in by `interface` is dropped for its source (martian, rp_filter), if it is: the setting or
    /// route in words. `Err`: not to be known.
    pub fn refuses_source(
        &self,
        source: IpAddr,
        destination: IpAddr,
        mark: u32,
        interface: &str,
    ) -> Result<Option<String>, String> {
        let IpAddr::V4(from) = source else { return Ok(None) };
        if interface == "lo" {
            return Ok(None);
        }
        let set = |map: &BTreeMap<String, i64>| map.get(interface).is_some_and(|v| *v != 0);
        if from.is_multicast() || from.is_broadcast() {
            return Ok(Some(format!("martian source: {from} is no host's address")));
        }
        if from.octets()[0] == 0 {
            return Ok(Some(format!("martian source: {from} is in 0.0.0.0/8")));
        }
        if (from.is_loopback() || destination.is_loopback()) && !set(&self.settings.route_localnet) {
            return Ok(Some(format!("martian: 127.0.0.0/8 on {interface}, and net.ipv4.conf.{interface}.route_localnet is 0")));
        }
        let mark = if set(&self.settings.src_valid_mark) { mark } else { 0 };
        let question = Question { from: Some(destination), mark, iif: None, oif: None };
        let way = self.way(source, &question);
        match &way {
            Way::Local(_) if set(&self.settings.accept_local) => return Ok(None),
            Way::Local(_) => {
                return Ok(Some(format!(
                    "martian source: {from} is this host's own address (net.ipv4.conf.{interface}.accept_local is 0)"
                )));
            }
            Way::Other(Kind::Broadcast) => return Ok(Some(format!("martian source: {from} is a broadcast address"))),
            _ => {}
        }
        let Some(rp_filter) = &self.settings.rp_filter else {
            return match way {
                Way::Out(hops) if hops.iter().any(|h| self.name(h.interface) == interface) => Ok(None),
                _ => Err("rp_filter, which could not be read".to_owned()),
            };
        };
        let mode = rp_filter.get(interface).copied().unwrap_or(0);
        if mode == 0 {
            return Ok(None);
        }
        let sysctl = format!("net.ipv4.conf.{{all,{interface}}}.rp_filter is {mode}");
        match way {
            Way::Out(hops) if hops.iter().any(|h| self.name(h.interface) == interface) => Ok(None),
            Way::Out(hops) if mode == 1 => {
                let by = hops.first().map_or("", |h| self.name(h.interface));
                Ok(Some(format!("reverse path: {sysctl}, and the route to {from} leaves by {by}, not by {interface}")))
            }
            // Loose, but an interface without an address of its own has nothing to answer from.
            Way::Out(_) if self.primary(interface, false).is_none() => {
                Ok(Some(format!("reverse path: {sysctl}, and {interface} has no address")))
            }
            Way::Out(_) => Ok(None),
            Way::Unsure(why) => Err(why),
            Way::Refused(kind) => Ok(Some(format!("reverse path: {sysctl}, and the route to {from} is a {} one", kind.name()))),
            Way::None | Way::Other(_) | Way::Local(_) => {
                Ok(Some(format!("reverse path: {sysctl}, and there is no route to {from}")))
            }
        }
    }

    /// Whether packets that come in by `interface` may be sent on; `None`: not known.
    pub fn forwards(&self, v6: bool, interface: &str) -> Option<bool> {
        if v6 {
            return self.settings.forwarding6;
        }
        self.settings.forwarding.as_ref().map(|all| all.get(interface).is_some_and(|v| *v != 0))
    }

    /// First addresses of the parts of an address family that routes and addresses of this host may tell apart.
    pub fn boundaries(&self, v6: bool, found: &mut dyn FnMut(u128, u128)) {
        let width = if v6 { 128 } else { 32 };
        let mut span = |first: u128, prefix: u8| {
            let rest = low_bits(width - u32::from(prefix).min(width));
            found(first & !rest, (first & !rest) | rest);
        };
        for address in self.local().filter(|a| a.is_ipv6() == v6) {
            span(number(address), if v6 { 128 } else { 32 });
        }
        for route in self.routes.iter().flatten().filter(|r| r.v6 == v6 && !matches!(r.kind, Kind::Multicast | Kind::Anycast)) {
            // The host's own subnets have all their own addresses and the rest in them already.
            if u32::from(route.prefix) > 0 {
                span(route.first, route.prefix);
            }
        }
        for (first, prefix) in self.rules.iter().filter(|r| r.v6 == v6).flat_map(|r| r.to.into_iter().chain(r.from)) {
            span(first, prefix);
        }
    }
}

fn rule_holds(rule: &Rule, to: IpAddr, question: &Question) -> bool {
    let width = if rule.v6 { 128 } else { 32 };
    let holds = rule.to.is_none_or(|(first, prefix)| within(number(to), first, prefix, width))
        && rule.from.is_none_or(|(first, prefix)| question.from.is_some_and(|f| within(number(f), first, prefix, width)))
        // What begins here counts as coming in by lo.
        && rule.iif.as_deref().is_none_or(|name| name == question.iif.unwrap_or("lo"))
        && rule.oif.as_deref().is_none_or(|name| question.oif == Some(name))
        && rule.mark.is_none_or(|(value, mask)| (question.mark ^ value) & mask == 0)
        && rule.tos == 0;
    holds != rule.invert
}

fn default_rules(v6: bool) -> Vec<Rule> {
    let tables: &[(u32, u32)] = if v6 {
        &[(0, TABLE_LOCAL), (32766, TABLE_MAIN)]
    } else {
        &[(0, TABLE_LOCAL), (32766, TABLE_MAIN), (32767, TABLE_DEFAULT)]
    };
    let rule = |(priority, table): &(u32, u32)| Rule {
        v6,
        priority: *priority,
        from: None,
        to: None,
        iif: None,
        oif: None,
        mark: None,
        invert: false,
        action: Action::Table(*table),
        suppress_prefix: None,
        suppress_group: None,
        unsure: None,
        tos: 0,
    };
    tables.iter().map(rule).collect()
}

/// struct ifinfomsg
fn link(message: &Message) -> Option<Link> {
    let (head, rest) = message.split(16)?;
    let info = attribute(rest, 18).unwrap_or_default();
    let xdp = attribute(rest, 43).and_then(|x| attribute(x, 2)).and_then(|v| v.first()).is_some_and(|v| *v != 0);
    Some(Link {
        index: u32_at(head, 4),
        name: text(attribute(rest, 3)?),
        up: u32_at(head, 8) & IFF_UP != 0,
        group: attribute(rest, 27).map_or(0, |v| u32_at(v, 0)),
        hardware: u16_at(head, 2),
        mac: attribute(rest, 1).and_then(|v| v.try_into().ok()),
        kind: attribute(info, 1).map(text).unwrap_or_default(),
        master: attribute(rest, 10).map(|v| u32_at(v, 0)),
        xdp,
        ingress_filters: false,
    })
}

/// struct ifaddrmsg
fn local_address(message: &Message) -> Option<Address> {
    let (head, rest) = message.split(8)?;
    let flags = attribute(rest, 8).map_or(u32::from(head[2]), |v| u32_at(v, 0));
    // IFA_LOCAL, which on a point-to-point link is not IFA_ADDRESS; IPv6 has only the latter.
    let own = attribute(rest, 2).or_else(|| attribute(rest, 1))?;
    Some(Address {
        interface: u32_at(head, 4),
        address: ip(own)?,
        prefix: head[1],
        // Of IPv6 this bit means "temporary".
        secondary: head[0] != AF_INET6 && flags & 1 != 0,
        tentative: flags & NO_ADDRESS_YET != 0 && head[0] == AF_INET6 && flags & 0x400 == 0,
    })
}

/// struct rtmsg
fn route(message: &Message) -> Option<Route> {
    let (head, rest) = message.split(12)?;
    let v6 = head[0] == AF_INET6;
    if u32_at(head, 8) & RTM_F_CLONED != 0 {
        return None;
    }
    let address = |kind| attribute(rest, kind).and_then(ip).map_or(0, number);
    let gateway = |of: &[u8]| attribute(of, 5).and_then(ip).or_else(|| attribute(of, 18).and_then(|v| ip(v.get(2..)?)));
    let mut hops = Vec::new();
    let dead = |flags: u32| flags & NEXT_HOP_DEAD != 0;
    if let Some(several) = attribute(rest, 9) {
        next_hops(several, |flags, interface, of| {
            if !dead(flags) {
                hops.push(Hop { interface, gateway: gateway(of) });
            }
        });
    } else if let Some(interface) = attribute(rest, 4).filter(|_| !dead(u32_at(head, 8))) {
        hops.push(Hop { interface: u32_at(interface, 0), gateway: gateway(rest) });
    }
    Some(Route {
        v6,
        table: attribute(rest, 15).map_or(u32::from(head[4]), |v| u32_at(v, 0)),
        kind: Kind::of(head[7]),
        first: address(1),
        prefix: head[1],
        source: (head[2] > 0).then(|| (address(2), head[2])),
        tos: if v6 { 0 } else { head[3] },
        metric: attribute(rest, 6).map_or(0, |v| u32_at(v, 0)),
        hops,
    })
}

/// struct rtnexthop, one behind the other.
fn next_hops(mut bytes: &[u8], mut each: impl FnMut(u32, u32, &[u8])) {
    while bytes.len() >= 8 {
        let length = usize::from(u16_at(bytes, 0));
        let Some(one) = bytes.get(..length).filter(|o| o.len() >= 8) else { return };
        each(u32::from(one[2]), u32_at(one, 4), &one[8..]);
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
}

/// struct fib_rule_hdr
fn rule(message: &Message) -> Option<Rule> {
    let (head, rest) = message.split(12)?;
    let v6 = head[0] == AF_INET6;
    let flags = u32_at(head, 8);
    let word = |kind| attribute(rest, kind).map(|v| u32_at(v, 0));
    let network = |kind, prefix: u8| (prefix > 0).then(|| (attribute(rest, kind).and_then(ip).map_or(0, number), prefix));
    let table = word(15).unwrap_or(u32::from(head[4]));
    let mut unsure = None;
    let mut action = match head[7] {
        1 => Action::Table(table),
        2 => Action::Goto(word(4).unwrap_or(0)),
        3 => Action::Nothing,
        6 => Action::Refuse(Kind::Blackhole),
        7 => Action::Refuse(Kind::Unreachable),
        8 => Action::Refuse(Kind::Prohibit),
        other => {
            unsure = Some(format!("an action not known here ({other})"));
            Action::Nothing
        }
    };
    let mark = word(10).unwrap_or(0);
    let mask = word(16).unwrap_or(if mark == 0 { 0 } else { u32::MAX });
    for attribute in attributes(rest).map_while(Result::ok) {
        match attribute.kind {
            // The table of a VRF that the packet belongs to: packets of other interfaces do not match.
            19 if attribute.value.first().is_some_and(|v| *v != 0) => action = Action::Nothing,
            20 if u32_at(attribute.value, 0) != 0 || u32_at(attribute.value, 4) != u32::MAX => {
                unsure = Some("it asks for the sender's user".to_owned());
            }
            22 if attribute.value.first().is_some_and(|v| *v != 6) => action = Action::Nothing,
            23 | 24 => unsure = Some("it asks for ports".to_owned()),
            12 if attribute.value.iter().any(|b| *b != 0) => action = Action::Nothing,
            _ => {}
        }
    }
    Some(Rule {
        v6,
        priority: word(6).unwrap_or(0),
        from: network(2, head[2]),
        to: network(1, head[1]),
        iif: attribute(rest, 3).map(text),
        oif: attribute(rest, 17).map(text),
        mark: (mask != 0).then_some((mark, mask)),
        invert: flags & RULE_INVERT != 0,
        action,
        // All bits set: not given.
        suppress_prefix: word(14).filter(|v| *v != u32::MAX),
        suppress_group: word(13).filter(|v| *v != u32::MAX),
        unsure,
        tos: head[3],
    })
}

/// struct tcmsg: the interface whose incoming packets can meet filters.
fn ingress_qdisc(message: &Message) -> Option<u32> {
    let (head, rest) = message.split(20)?;
    matches!(text(attribute(rest, 1)?).as_str(), "clsact" | "ingress").then(|| u32_at(head, 4))
}

fn ip(value: &[u8]) -> Option<IpAddr> {
    if let Ok(four) = <[u8; 4]>::try_from(value) {
        return Some(IpAddr::V4(Ipv4Addr::from(four)));
    }
    <[u8; 16]>::try_from(value).ok().map(|sixteen| IpAddr::V6(Ipv6Addr::from(sixteen)))
}

fn settings(host: &dyn Host) -> Settings {
    const CONF: &str = "/proc/sys/net/ipv4/conf";
    let one = |path: &str| read_text(host, path).ok().and_then(|t| t.trim().parse::<i64>().ok());
    let names = host.list(Path::new(CONF)).unwrap_or_default();
    // `joined`: how the value of `all` and the interface's own make one.
    let of_interfaces = |key: &str, joined: &dyn Fn(i64, i64) -> i64| -> Option<BTreeMap<String, i64>> {
        let all = one(&format!("{CONF}/all/{key}"))?;
        let own = |name: &String| Some((name.clone(), joined(all, one(&format!("{CONF}/{name}/{key}"))?)));
        Some(names.iter().filter(|n| *n != "all" && *n != "default").filter_map(own).collect())
    };
    let track = "/proc/sys/net/netfilter";
    let connections = one(&format!("{track}/nf_conntrack_count")).zip(one(&format!("{track}/nf_conntrack_max")));
    let ip_vs = optional(read_text(host, "/proc/net/ip_vs")).ok().flatten();
    Settings {
        rp_filter: of_interfaces("rp_filter", &i64::max),
        accept_local: of_interfaces("accept_local", &|all, own| all | own).unwrap_or_default(),
        route_localnet: of_interfaces("route_localnet", &|all, own| all | own).unwrap_or_default(),
        src_valid_mark: of_interfaces("src_valid_mark", &|all, own| all | own).unwrap_or_default(),
        forwarding: of_interfaces("forwarding", &|_, own| own),
        forwarding6: one("/proc/sys/net/ipv6/conf/all/forwarding").map(|v| v != 0),
        tcp_loose: one(&format!("{track}/nf_conntrack_tcp_loose")).map(|v| v != 0),
        connections,
        // Two lines of headings and one of column names.
        ip_vs: ip_vs.is_some_and(|text| text.lines().skip(3).any(|l| !l.trim().is_empty())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Recorded in a network namespace; what is expected of it is what `ip route get` said there.
    const DUMP: &[u8] = include_bytes!("testdata/routing.nl");

    fn recorded() -> Routing {
        Routing::decode(DUMP).unwrap()
    }

    fn way(routing: &Routing, to: &str, question: &Question) -> String {
        match routing.way(to.parse().unwrap(), question) {
            Way::Out(hops) => hops.iter().map(|h| routing.name(h.interface)).collect::<Vec<_>>().join(" "),
            Way::Local(_) => "local".to_owned(),
            Way::Other(kind) | Way::Refused(kind) => kind.name().to_owned(),
            Way::None => "none".to_owned(),
            Way::Unsure(why) => why,
        }
    }

    #[test]
    fn links_and_addresses() {
        let routing = recorded();
        let eth0 = routing.link("eth0").unwrap();
        assert_eq!((eth0.up, eth0.group, eth0.hardware, eth0.kind.as_str(), eth0.xdp), (true, 7, 1, "veth", false));
        assert_eq!(eth0.mac, Some([2, 0, 0, 0, 0, 1]));
        assert!(routing.link("eth1").unwrap().ingress_filters && !eth0.ingress_filters);
        assert_eq!(routing.link("lo").map(|l| l.index), Some(LOOPBACK));
        assert_eq!(routing.primary("eth0", false), Some("10.0.0.2".parse().unwrap()));
        assert!(routing.is_local("10.0.0.3".parse().unwrap()) && routing.is_local("127.9.9.9".parse().unwrap()));
        assert!(!routing.is_local("10.0.0.9".parse().unwrap()));
        assert_eq!(routing.of_scope("eth0", "fe80::9".parse().unwrap()), Some("fe80::2".parse().unwrap()));
    }

    #[test]
    fn ways_are_those_of_the_kernel() {
        let routing = recorded();
        let plain = Question::default();
        for (to, expected) in [
            ("8.8.8.8", "eth0"),
            ("10.9.1.1", "blackhole"),
            ("10.8.1.1", "unreachable"),
            ("10.7.1.1", "prohibit"),
            ("10.6.1.1", "eth0 eth1"),
            ("10.5.1.1", "eth1"),
            ("10.99.1.1", "prohibit"),
            ("10.0.0.3", "local"),
            ("10.0.0.255", "broadcast"),
            ("fd00::9", "eth0"),
            ("2001:db8::1", "eth0"),
            ("fd09::1", "blackhole"),
        ] {
            assert_eq!(way(&routing, to, &plain), expected, "{to}");
        }
        let from = Question { from: Some("10.1.0.2".parse().unwrap()), ..plain };
        assert_eq!(way(&routing, "8.8.8.8", &from), "eth1");
        assert_eq!(way(&routing, "8.8.8.8", &Question { mark: 0x15, ..plain }), "eth1");
        assert_eq!(way(&routing, "8.8.8.8", &Question { mark: 0x25, ..plain }), "eth0");
        // Thrown out of its table, on with the next rule.
        assert_eq!(way(&routing, "10.98.1.1", &Question { mark: 0x10, ..plain }), "eth0");
        assert_eq!(way(&routing, "fe80::7", &Question { oif: Some("eth0"), ..plain }), "eth0");
    }

    #[test]
    fn kinds_of_addresses() {
        let routing = recorded();
        let kind = |a: &str, on| routing.kind_of(a.parse().unwrap(), on).unwrap();
        assert_eq!(kind("10.0.0.2", None), Kind::Local);
        assert_eq!(kind("10.0.0.2", Some("eth0")), Kind::Local);
        assert_eq!(kind("10.0.0.2", Some("eth1")), Kind::Unicast);
        assert_eq!(kind("10.0.0.255", None), Kind::Broadcast);
        assert_eq!(kind("10.0.0.77", None), Kind::Unicast);
        // For IPv4 only the table of local addresses counts.
        assert_eq!(kind("10.9.0.1", None), Kind::Unicast);
        assert_eq!(kind("fd09::1", None), Kind::Blackhole);
        assert_eq!(kind("fd00::2", None), Kind::Local);
        assert_eq!(kind("224.0.0.5", None), Kind::Multicast);
        assert_eq!(kind("255.255.255.255", None), Kind::Broadcast);
    }

    #[test]
    fn sources_that_may_not_come_from_there() {
        let mut routing = recorded();
        let refused = |routing: &Routing, from: &str, by: &str| {
            routing.refuses_source(from.parse().unwrap(), "10.0.0.2".parse().unwrap(), 0, by).unwrap()
        };
        let mode = |value| Some(BTreeMap::from([("eth0".to_owned(), value), ("eth1".to_owned(), value)]));
        routing.settings.rp_filter = mode(0);
        assert_eq!(refused(&routing, "8.8.8.8", "eth1"), None);
        assert!(refused(&routing, "127.0.0.1", "eth0").unwrap().contains("route_localnet"));
        assert!(refused(&routing, "10.0.0.3", "eth0").unwrap().contains("own address"));
        assert!(refused(&routing, "224.0.0.1", "eth0").is_some() && refused(&routing, "0.1.2.3", "eth0").is_some());
        assert!(refused(&routing, "10.0.0.255", "eth0").is_some());
        routing.settings.rp_filter = mode(1);
        assert_eq!(refused(&routing, "8.8.8.8", "eth0"), None);
        let why = refused(&routing, "8.8.8.8", "eth1").unwrap();
        assert_eq!(
            why,
            "reverse path: net.ipv4.conf.{all,eth1}.rp_filter is 1, and the route to 8.8.8.8 leaves by eth0, not by eth1"
        );
        routing.settings.rp_filter = mode(2);
        assert_eq!(refused(&routing, "8.8.8.8", "eth1"), None);
        assert!(refused(&routing, "10.9.1.1", "eth1").unwrap().contains("blackhole"));
    }

    #[test]
    fn broken_dumps_are_errors() {
        assert!(Routing::decode(&[]).is_err());
        assert!(Routing::decode(&DUMP[..DUMP.len() - 3]).is_err());
        for cut in (0..DUMP.len()).step_by(97) {
            let _ = Routing::decode(&DUMP[..cut]);
        }
    }
}

//! Derived: every client that must connect, and what this host makes of it.
//!
//! A client of the intent with several source networks becomes several entries: each network has its own way in.

mod account;

pub use account::Account;

use super::firewall::owners::refusal::{self, Refusal};
use super::firewall::{Firewall, Packet, Verdict};
use super::tls::{self, Secure};
use super::{Fact, Facts, arrival, broker, net};
use crate::formats::cidr::Cidr;
use crate::host::amqp::{Answer, Login, Probe};
use crate::host::{Connection, ConnectionState};
use crate::host::{Got, Host};
use crate::policy::{ClientIntent, Intent, SERVICES, plugin_of};
use serde::Serialize;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// One (client, source network) pair of the intent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Client {
    pub name: String,
    /// `10.0.0.0/24`, an address, `any`, or `local`
    pub from: String,
    /// The address that stands for `from` in evaluation: the address itself, or the first host of the network.
    pub example: Option<String>,
    /// Nobody said so: the default intent "AMQP clients on other hosts".
    pub assumed: bool,
    /// From the policy file, which names all clients; options name one of them.
    pub listed: bool,
    /// Not on this host.
    pub remote: bool,
    pub service: String,
    /// The plugin that serves it; null: the broker itself does.
    pub plugin: Option<String>,
    pub port: Fact<i64>,
    /// The address of this host that it will use; unknown while the addresses are.
    pub to: Fact<Option<String>>,
    /// Interface that its packets come in by, from the route back; null: there is no route back.
    pub interface: Fact<Option<String>>,
    /// The packet filter's verdict.
    pub firewall: Fact<Verdict>,
    /// What the packet filter will say after a reboot; null: the same as now, nothing loads rules and there are none.
    pub firewall_after_boot: Fact<Option<Verdict>>,
    /// For clients from anywhere: the verdict over IPv6, which they may prefer; null: not asked, or there is no IPv6 address.
    pub firewall_v6: Fact<Option<Verdict>>,
    /// Who refuses the client's packets; null: nobody does.
    pub refusal: Fact<Option<Refusal>>,
    /// A socket of the broker takes connections for `to`:`port`, or for where the packet filter delivers them instead:
    /// listening | loopback-only | other-address | absent | foreign | other-service (the broker's own listener, for something else) |
    /// suspended | forwarded (to another host or a container)
    pub listener: Fact<String>,
    /// What TLS makes of it; null: neither the client nor the port speaks it.
    pub tls: Fact<Option<Secure>>,
    pub user: Option<String>,
    pub vhost: String,
    /// `user` exists on the broker; null: no user given.
    pub user_exists: Fact<Option<bool>>,
    /// `user` may only log in from this host; null: no user given.
    pub user_loopback_only: Fact<Option<bool>>,
    pub vhost_exists: Fact<bool>,
    /// `user` has a permission entry in `vhost`; null: no user given.
    pub has_permission: Fact<Option<bool>>,
    /// More about `user`.
    pub account: Account,
    /// A password file was given.
    pub has_password: bool,
    /// Outcome of a real login from this host as this client (Answer's names); null: not tried.
    pub login: Fact<Option<String>>,
    /// What the broker answered to that login; empty if it was not tried or succeeded.
    pub login_text: String,
    /// Connections of its network to the port that are open at this moment.
    pub connected: Fact<i64>,
}

/// Evaluates the intent. A real login is tried where a user and a password file were given and the broker listens.
pub fn derive(host: &dyn Host, facts: &Facts, intent: &Intent) -> Vec<Client> {
    let each = intent.clients.iter().flat_map(|c| sources(c).into_iter().map(move |from| (c, from)));
    each.map(|(client, from)| evaluate(host, facts, client, &from)).collect()
}

/// Nothing said means "from anywhere".
fn sources(client: &ClientIntent) -> Vec<String> {
    if client.from.is_empty() { vec!["any".to_owned()] } else { client.from.clone() }
}

fn evaluate(host: &dyn Host, facts: &Facts, intent: &ClientIntent, from: &str) -> Client {
    let remote = from != "local";
    let intent = &as_served(facts, intent);
    let port = port(facts, intent);
    let way = way_in(facts, intent, from);
    let firewall = verdict(&facts.firewall, from, &port, &way);
    let firewall_after_boot = after_boot(&facts.firewall, from, &port, &way);
    let firewall_v6 = over_ipv6(facts, intent, from, &port, &way);
    let refusal = refusal(&facts.firewall, from, &port, &way);
    let listener = listener(facts, &intent.service, &End::of(&firewall, &port, &way));
    let node = node(facts);
    let user = intent.user.as_deref();
    let tls = secure(facts, &intent.service, &port, &listener);
    let connected = connected(host, from, &port, &way);
    let (login, login_text) = login(host, facts, intent, &port, &way, &listener, &tls);
    Client {
        name: intent.name.clone(),
        from: from.to_owned(),
        example: example(from).map(|a| a.to_string()),
        assumed: intent.assumed,
        listed: intent.listed,
        remote,
        service: intent.service.clone(),
        plugin: plugin_of(&intent.service).map(str::to_owned),
        to: way.as_ref().map(|w| w.to.map(|a| a.to_string())),
        interface: way.as_ref().map(|w| w.interface.clone()),
        port,
        firewall,
        firewall_after_boot,
        firewall_v6,
        refusal,
        listener,
        tls,
        user: intent.user.clone(),
        vhost: intent.vhost.clone(),
        user_exists: ask_user(&node, user, |n, u| n.users.as_ref().map(|us| us.iter().any(|x| x.name == u))),
        user_loopback_only: ask_user(&node, user, |n, u| n.loopback_users.as_ref().map(|us| us.iter().any(|x| x == u))),
        vhost_exists: ask(&node, |n| n.vhosts.as_ref().map(|vs| vs.contains(&intent.vhost))),
        has_permission: ask_user(&node, user, |n, u| {
            n.permissions.as_ref().map(|ps| ps.iter().any(|p| p.user == u && p.vhost == intent.vhost))
        }),
        account: account::of(&node, intent),
        has_password: intent.password_file.is_some(),
        login,
        login_text,
        connected,
    }
}

/// Of clients that nobody described it is not known whether they speak TLS: they are taken to use what the broker serves.
fn as_served(facts: &Facts, intent: &ClientIntent) -> ClientIntent {
    let serves = |service: &str| facts.listeners.known().is_some_and(|ls| ls.iter().any(|l| l.service == service));
    let tls_only = intent.assumed && intent.service == "amqp" && !serves("amqp") && serves("amqps");
    ClientIntent { service: if tls_only { "amqps".into() } else { intent.service.clone() }, ..intent.clone() }
}

/// The node, with "none runs" turned into a reason: nothing can be said about users of a broker that is down.
fn node(facts: &Facts) -> Fact<&broker::Node> {
    match &facts.node {
        Fact::Known(Some(node)) => Fact::Known(node),
        Fact::Known(None) => Fact::Unknown("RabbitMQ is not running".into()),
        Fact::Unknown(why) => Fact::Unknown(why.clone()),
    }
}

fn ask<T>(node: &Fact<&broker::Node>, question: impl Fn(&broker::Node) -> Fact<T>) -> Fact<T> {
    match node {
        Fact::Known(node) => question(node),
        Fact::Unknown(why) => Fact::Unknown(why.clone()),
    }
}

fn ask_user(
    node: &Fact<&broker::Node>,
    user: Option<&str>,
    question: impl Fn(&broker::Node, &str) -> Fact<bool>,
) -> Fact<Option<bool>> {
    match user {
        None => Fact::Known(None),
        Some(user) => ask(node, |n| question(n, user)).map(Some),
    }
}

/// An address that stands for the source. `any` has none that would not be a guess; evaluation of the packet filter takes the
/// whole network.
fn example(from: &str) -> Option<IpAddr> {
    match from {
        "any" => None,
        "local" => Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        cidr => Cidr::parse(cidr).map(|c| c.first_host()),
    }
}

/// The port from the intent, the broker's configuration, or the service's well-known one, in this order.
fn port(facts: &Facts, intent: &ClientIntent) -> Fact<i64> {
    if let Some(port) = intent.port {
        return Fact::Known(i64::from(port));
    }
    let well_known = SERVICES.iter().find(|(s, _)| *s == intent.service).map_or(5672, |(_, p)| i64::from(*p));
    facts.listeners.as_ref().map(|ls| {
        let of_service = || ls.iter().filter(|l| l.service == intent.service);
        let reachable = of_service().find(|l| !l.loopback).or_else(|| of_service().next());
        reachable.map_or(well_known, |l| l.port)
    })
}

/// How a packet comes in.
#[derive(Debug, Clone)]
struct WayIn {
    /// `None`: the host has no address of that family on the interface.
    to: Option<IpAddr>,
    /// `None`: there is no route back to the source.
    interface: Option<String>,
}

fn way_in(facts: &Facts, intent: &ClientIntent, from: &str) -> Fact<WayIn> {
    if from == "local" {
        return Fact::Known(WayIn {
            to: Some(intent.to.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))),
            interface: Some("lo".into()),
        });
    }
    let (addresses, routes) = match (&facts.net.addresses, &facts.net.routes) {
        (Fact::Known(a), Fact::Known(r)) => (a, r),
        (Fact::Unknown(why), _) | (_, Fact::Unknown(why)) => return Fact::Unknown(why.clone()),
    };
    let source = example(from);
    let interface = intent.interface.clone().or_else(|| match source {
        Some(source) => interface_to(addresses, routes, source),
        None => default_interface(addresses, routes),
    });
    let v6 = source.is_some_and(|s| s.is_ipv6());
    let to = intent.to.or_else(|| {
        let on = addresses.iter().filter(|a| a.scope == "global" && a.up && a.v6 == v6);
        on.clone()
            .find(|a| Some(&a.interface) == interface.as_ref())
            .or_else(|| on.clone().next())
            .and_then(|a| a.address.parse().ok())
    });
    Fact::Known(WayIn { to, interface })
}

/// The interface of the most specific route back to the source; an address of this host is reached over `lo`.
pub(super) fn interface_to(addresses: &[net::Address], routes: &[net::Route], source: IpAddr) -> Option<String> {
    if addresses.iter().any(|a| a.address.parse() == Ok(source)) {
        return Some("lo".into());
    }
    // What is not routed still comes in somewhere; that the answers are lost is for the verdict to say.
    let usable = routes.iter().filter(|r| !r.blocked);
    let matching = usable.filter_map(|r| Cidr::parse(&r.to).filter(|c| c.contains(source)).map(|c| (c.prefix, r)));
    matching.max_by_key(|(prefix, r)| (*prefix, -r.metric)).map(|(_, r)| r.interface.clone())
}

/// Where packets from anywhere come in: the default route's interface, else the first one with a global address.
fn default_interface(addresses: &[net::Address], routes: &[net::Route]) -> Option<String> {
    let default =
        routes.iter().filter(|r| r.to == "0.0.0.0/0" && !r.blocked).min_by_key(|r| r.metric).map(|r| r.interface.clone());
    default.or_else(|| addresses.iter().find(|a| a.scope == "global" && a.up && !a.v6).map(|a| a.interface.clone()))
}

fn after_boot(firewall: &Fact<Firewall>, from: &str, port: &Fact<i64>, way: &Fact<WayIn>) -> Fact<Option<Verdict>> {
    match firewall {
        Fact::Unknown(why) => Fact::Unknown(why.clone()),
        Fact::Known(now) => match &now.owned.after_boot {
            Fact::Unknown(why) => Fact::Unknown(format!("the packet filter after a reboot: {why}")),
            Fact::Known(None) => Fact::Known(None),
            Fact::Known(Some(after)) => verdict_of(after, from, port, way).map(Some),
        },
    }
}

/// The same port at the host's first global IPv6 address, from anywhere.
fn over_ipv6(facts: &Facts, intent: &ClientIntent, from: &str, port: &Fact<i64>, way: &Fact<WayIn>) -> Fact<Option<Verdict>> {
    let v4 = way.known().and_then(|w| w.to).is_some_and(|to| to.is_ipv4());
    if from != "any" || !v4 || intent.to.is_some() {
        return Fact::Known(None);
    }
    let addresses = match &facts.net.addresses {
        Fact::Known(addresses) => addresses,
        Fact::Unknown(why) => return Fact::Unknown(why.clone()),
    };
    let listens = facts.sockets.known().is_some_and(|all| {
        let port = port.known().copied();
        all.iter().any(|s| Some(s.port) == port && s.v6 && !s.loopback)
    });
    let address = addresses.iter().find(|a| a.v6 && a.up && a.scope == "global");
    let Some(address) = address.filter(|_| listens) else { return Fact::Known(None) };
    let way = WayIn { to: address.address.parse().ok(), interface: Some(address.interface.clone()) };
    let verdict = verdict(&facts.firewall, "any", port, &Fact::Known(way));
    // Without a route to the world nobody out there expects an answer over IPv6: no packet filter is to blame.
    let routed = |v: &Verdict| v.decided_by.as_ref().is_none_or(|d| !d.is_routing());
    verdict.map(|v| Some(v).filter(routed))
}

fn refusal(firewall: &Fact<Firewall>, from: &str, port: &Fact<i64>, way: &Fact<WayIn>) -> Fact<Option<Refusal>> {
    let (firewall, port, way) = match (firewall, port, way) {
        (Fact::Known(f), Fact::Known(p), Fact::Known(w)) => (f, u16::try_from(*p), w),
        (Fact::Unknown(why), _, _) | (_, Fact::Unknown(why), _) | (_, _, Fact::Unknown(why)) => {
            return Fact::Unknown(why.clone());
        }
    };
    let (Some(to), Some(interface), Ok(port)) = (way.to, &way.interface, port) else { return Fact::Known(None) };
    let from = match from {
        "local" => return Fact::Known(None),
        "any" if to.is_ipv6() => "::/0",
        "any" => "0.0.0.0/0",
        cidr => cidr,
    };
    Fact::Known(refusal::of(firewall, from, to, port, interface))
}

fn verdict(firewall: &Fact<Firewall>, from: &str, port: &Fact<i64>, way: &Fact<WayIn>) -> Fact<Verdict> {
    match firewall {
        Fact::Known(firewall) => verdict_of(firewall, from, port, way),
        Fact::Unknown(why) => Fact::Unknown(why.clone()),
    }
}

fn verdict_of(firewall: &Firewall, from: &str, port: &Fact<i64>, way: &Fact<WayIn>) -> Fact<Verdict> {
    let (port, way) = match (port, way) {
        (Fact::Known(p), Fact::Known(w)) => (*p, w),
        (Fact::Unknown(why), _) | (_, Fact::Unknown(why)) => return Fact::Unknown(why.clone()),
    };
    let (Some(to), Some(interface)) = (way.to, &way.interface) else {
        return Fact::Unknown("there is no route back to the client".into());
    };
    let Ok(port) = u16::try_from(port) else {
        return Fact::Unknown(format!("{port} is not a port"));
    };
    match from {
        "any" => firewall.verdict_for_network(if to.is_ipv4() { "0.0.0.0/0" } else { "::/0" }, to, port, interface),
        "local" => firewall.verdict(&Packet { source: to, destination: to, port, interface: interface.clone() }),
        cidr => firewall.verdict_for_network(cidr, to, port, interface),
    }
}

/// Counted before a login is tried from here, which would be one more.
fn connected(host: &dyn Host, from: &str, port: &Fact<i64>, way: &Fact<WayIn>) -> Fact<i64> {
    let v6 = way.known().and_then(|w| w.to).is_some_and(|to| to.is_ipv6());
    let network = match from {
        "local" => return Fact::Known(0),
        "any" if v6 => "::/0",
        "any" => "0.0.0.0/0",
        cidr => cidr,
    };
    let port = match port {
        Fact::Known(port) => u16::try_from(*port).map_err(|_| format!("{port} is not a port")),
        Fact::Unknown(why) => Err(why.clone()),
    };
    match (port, Cidr::parse(network)) {
        (Ok(port), Some(network)) => {
            let open = |c: &Connection| c.state == ConnectionState::Established && !c.peer.ip().to_canonical().is_loopback();
            host.connections(port, &network).map(|all| all.iter().filter(|c| open(c)).count() as i64).into()
        }
        (Err(why), _) => Fact::Unknown(why),
        (_, None) => Fact::Unknown(format!("{from} is no network")),
    }
}

/// Where a connection ends up: where the client sends it, unless the packet filter translates it.
enum End {
    Unknown(String),
    Forwarded,
    Here { to: Option<IpAddr>, port: i64 },
}

impl End {
    fn of(firewall: &Fact<Verdict>, port: &Fact<i64>, way: &Fact<WayIn>) -> End {
        let port = match port {
            Fact::Known(port) => *port,
            Fact::Unknown(why) => return End::Unknown(why.clone()),
        };
        let as_sent = End::Here { to: way.known().and_then(|w| w.to), port };
        let Some(verdict) = firewall.known() else { return as_sent };
        match verdict.delivered_to.as_ref().map(|to| to.parse::<SocketAddr>()) {
            None => as_sent,
            Some(_) if verdict.forwarded => End::Forwarded,
            Some(Ok(end)) => End::Here { to: Some(end.ip()), port: end.port().into() },
            Some(Err(_)) => End::Unknown("the packet filter translates the connection's destination".into()),
        }
    }
}

/// What answers there.
fn listener(facts: &Facts, service: &str, end: &End) -> Fact<String> {
    match end {
        End::Unknown(why) => Fact::Unknown(why.clone()),
        End::Forwarded => Fact::Known("forwarded".into()),
        End::Here { to, port } => arrival::at(facts, service, *to, *port),
    }
}

fn secure(facts: &Facts, service: &str, port: &Fact<i64>, listener: &Fact<String>) -> Fact<Option<Secure>> {
    match (listener, port) {
        // Whoever answers in another language has no handshake to be judged.
        (Fact::Known(state), _) if state == "other-service" || state == "foreign" => Fact::Known(None),
        _ if !tls::is_tls(service) => Fact::Known(None),
        (_, Fact::Unknown(why)) => Fact::Unknown(why.clone()),
        (_, Fact::Known(port)) => Fact::Known(Some(Secure::judge(&facts.tls, service, *port, facts.os.now))),
    }
}

/// A real login over the address that the client will use: the broker then sees a peer that is not loopback, as with the client.
fn login(
    host: &dyn Host,
    facts: &Facts,
    intent: &ClientIntent,
    port: &Fact<i64>,
    way: &Fact<WayIn>,
    listener: &Fact<String>,
    tls: &Fact<Option<Secure>>,
) -> (Fact<Option<String>>, String) {
    let not_tried = (Fact::Known(None), String::new());
    let over_http = intent.service == "management";
    let server = tls.known().and_then(|t| t.as_ref()?.server.clone());
    if !over_http && intent.service != "amqp" && !(intent.service == "amqps" && server.is_some()) {
        return not_tried;
    }
    let to = way.known().and_then(|w| w.to).zip(port.known().and_then(|p| u16::try_from(*p).ok()));
    let Some(to) = to.map(|(address, port)| SocketAddr::new(address, port)) else { return not_tried };
    match listener.known().map(String::as_str) {
        Some("listening") => {}
        // Not a word about who we are to somebody else: how it takes an AMQP client's first bytes is all that is asked.
        Some("foreign" | "other-service") if !over_http => return outcome(host.amqp(&Probe { to, login: None, tls: None })),
        _ => return not_tried,
    }
    let (Some(user), Some(password_file)) = (&intent.user, &intent.password_file) else { return not_tried };
    // A login as a user who is known not to exist, or to be confined to this host, would only leave an error in the broker's log.
    if let Some(users) = node(facts).known().and_then(|n| n.users.known())
        && !users.iter().any(|u| &u.name == user && (to.ip().is_loopback() || u.loopback_only.known() != Some(&true)))
    {
        return not_tried;
    }
    let login = Login { user: user.clone(), password_file: password_file.clone(), vhost: intent.vhost.clone() };
    let probe = Probe { to, login: Some(login), tls: server };
    outcome(if over_http { host.http(&probe) } else { host.amqp(&probe) })
}

fn outcome(answer: Got<Answer>) -> (Fact<Option<String>>, String) {
    match answer {
        Ok(answer) => (Fact::Known(Some(answer.name().to_owned())), answer.text()),
        Err(miss) => (miss.into(), String::new()),
    }
}

impl Answer {
    /// The outcome in the words of CONTRACT's `sees`, and `not-amqp`, which each client calls differently.
    pub fn name(&self) -> &'static str {
        match self {
            Answer::Connected { .. } => "connected",
            Answer::Refused => "refused",
            Answer::Timeout => "timeout",
            Answer::Reset => "reset",
            Answer::Unreachable { .. } => "unreachable",
            Answer::AuthRefused { .. } => "auth-refused",
            Answer::VhostRefused { .. } => "vhost-refused",
            Answer::TlsError { .. } => "tls-error",
            Answer::Hangs => "hangs",
            Answer::NotAmqp { .. } => "not-amqp",
        }
    }

    /// What the other side said, if it said no.
    pub fn text(&self) -> String {
        match self {
            Answer::AuthRefused { text } | Answer::VhostRefused { text } | Answer::TlsError { text } => text.clone(),
            Answer::Unreachable { why } => why.clone(),
            Answer::NotAmqp { first_bytes } => format!("answered {first_bytes}, which is not AMQP 0-9-1"),
            _ => String::new(),
        }
    }
}

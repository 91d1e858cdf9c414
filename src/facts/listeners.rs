//! Derived: what the broker should listen on, and whether it does.
use super::broker::{Node, NodeListener};
use super::conf::WantedListener;
use super::net::{Address, Net};
use super::sockets::{Owner, Socket};
use super::{Fact, Where};
use serde::Serialize;
use std::collections::BTreeSet;
use std::net::IpAddr;

/// One wanted listener beside the socket that answers for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Listener {
    /// amqp | amqps | management
    pub service: String,
    /// Address as configured: `auto` or an address.
    pub address: String,
    pub port: i64,
    pub key: Option<String>,
    pub at: Option<Where>,
    /// default | conf | advanced | env | running (only the socket tells)
    pub source: String,
    /// listening: the broker holds it · absent: nobody does · foreign: another program does · suspended
    pub state: Fact<String>,
    /// Who holds the port where it is not the broker: `nginx (pid 812, nginx.service)`.
    pub holder: Option<String>,
    /// Only this host can reach it.
    pub loopback: bool,
    /// The configured address is not on this host.
    pub address_missing: Fact<bool>,
    /// Overlaps with another wanted listener: the second bind fails with eaddrinuse.
    pub overlaps: bool,
}

/// Ports whose owners matter: those that the broker wants, and those that keep it from starting (epmd, distribution).
pub fn ports(wanted: &Fact<Vec<WantedListener>>) -> BTreeSet<i64> {
    let configured = wanted.known().into_iter().flatten().map(|w| w.port);
    configured.chain([4369, 5672, 25672]).collect()
}

/// Lays what the configuration wants beside the sockets. Sockets that the running broker holds for clients beyond that are
/// added with the source `running`: the configuration was changed since it started.
pub fn derive(
    wanted: &Fact<Vec<WantedListener>>,
    sockets: &Fact<Vec<Socket>>,
    node: &Fact<Option<Node>>,
    net: &Net,
) -> Fact<Vec<Listener>> {
    let wanted = match wanted {
        Fact::Known(wanted) => wanted,
        Fact::Unknown(why) => return Fact::Unknown(why.clone()),
    };
    let running = node.known().and_then(|n| n.as_ref()?.listeners.known()).map_or(&[][..], Vec::as_slice);
    let mut all: Vec<Listener> = wanted.iter().map(|w| listener(w, wanted, sockets, running, net)).collect();
    let open = sockets.known().map_or(&[][..], Vec::as_slice);
    all.extend(running.iter().filter_map(|r| only_running(r, wanted, open)));
    Fact::Known(all)
}

fn listener(
    w: &WantedListener,
    wanted: &[WantedListener],
    sockets: &Fact<Vec<Socket>>,
    running: &[NodeListener],
    net: &Net,
) -> Listener {
    let address = Bind::of(&w.address);
    let (state, holder) = match sockets {
        Fact::Known(sockets) => state(&address, w.port, sockets, running),
        Fact::Unknown(why) => (Fact::Unknown(why.clone()), None),
    };
    let twin = |other: &WantedListener| !std::ptr::eq(other, w) && other.port == w.port;
    Listener {
        service: w.service.clone(),
        address: w.address.clone(),
        port: w.port,
        key: w.key.clone(),
        at: w.at.clone(),
        source: w.source.clone(),
        state,
        holder,
        loopback: address.loopback(),
        address_missing: address.missing(&net.addresses),
        overlaps: wanted.iter().any(|other| twin(other) && address.overlaps(&Bind::of(&other.address))),
    }
}

/// Where a listener binds.
#[derive(Debug, PartialEq)]
enum Bind {
    /// `auto`: `::` taking IPv4 too, or `0.0.0.0` where there is no IPv6.
    All,
    Only(IpAddr),
    /// `localhost` of RABBITMQ_NODE_IP_ADDRESS.
    Localhost,
    /// Another host name: only the broker knows what it resolved to.
    Name,
}

impl Bind {
    fn of(text: &str) -> Bind {
        match text {
            "auto" | "" => Bind::All,
            "localhost" => Bind::Localhost,
            _ => text.parse().map_or(Bind::Name, Bind::Only),
        }
    }

    fn loopback(&self) -> bool {
        matches!(self, Bind::Localhost) || matches!(self, Bind::Only(ip) if ip.to_canonical().is_loopback())
    }

    fn missing(&self, addresses: &Fact<Vec<Address>>) -> Fact<bool> {
        match self {
            Bind::Only(ip) if !ip.is_unspecified() => {
                // All of 127.0.0.0/8 is there; ::1 is not where IPv6 is switched off.
                let ip = ip.to_canonical();
                let has =
                    |all: &Vec<Address>| ip.is_ipv4() && ip.is_loopback() || all.iter().any(|a| a.address.parse() == Ok(ip));
                addresses.as_ref().map(|all| !has(all))
            }
            Bind::Name => Fact::Unknown("the listener is bound to a host name".to_owned()),
            _ => Fact::Known(false),
        }
    }

    /// A socket that is this listener's.
    fn is(&self, socket: &Socket) -> bool {
        match self {
            Bind::All => socket.wildcard,
            Bind::Only(ip) => socket.address.parse() == Ok(*ip),
            Bind::Localhost => socket.loopback,
            Bind::Name => false,
        }
    }

    /// On Linux a wildcard and any address of its family exclude each other on one port; `::` takes IPv4 too.
    fn overlaps(&self, other: &Bind) -> bool {
        match (self, other) {
            (Bind::All, _) | (_, Bind::All) => true,
            (Bind::Only(a), Bind::Only(b)) => {
                let covers = |a: &IpAddr, b: &IpAddr| a.is_unspecified() && (a.is_ipv6() || b.is_ipv4());
                a == b || covers(a, b) || covers(b, a)
            }
            (Bind::Only(ip), Bind::Localhost) | (Bind::Localhost, Bind::Only(ip)) => ip.is_unspecified() || ip.is_loopback(),
            (Bind::Localhost, Bind::Localhost) => true,
            (Bind::Name, _) | (_, Bind::Name) => false,
        }
    }

    /// A socket of somebody else that keeps this listener from being opened.
    fn blocked_by(&self, socket: &Socket) -> bool {
        self.overlaps(&Bind::of(&socket.address))
    }
}

/// listening | absent | foreign | suspended, and who holds the port instead.
fn state(address: &Bind, port: i64, sockets: &[Socket], running: &[NodeListener]) -> (Fact<String>, Option<String>) {
    let here: Vec<&Socket> = sockets.iter().filter(|s| s.port == port).collect();
    if here.iter().any(|s| address.is(s) && broker_holds(s)) {
        return (Fact::Known("listening".to_owned()), None);
    }
    if running.iter().any(|r| r.port == port && r.suspended) {
        return (Fact::Known("suspended".to_owned()), None);
    }
    if *address == Bind::Name && !here.is_empty() {
        return (Fact::Unknown("the listener is bound to a host name".to_owned()), None);
    }
    match here.iter().find(|s| address.blocked_by(s) && !broker_holds(s)).map(|s| &s.owner) {
        None => (Fact::Known("absent".to_owned()), None),
        Some(Fact::Known(Some(owner))) => (Fact::Known("foreign".to_owned()), Some(holder(owner))),
        Some(Fact::Known(None)) => {
            (Fact::Known("foreign".to_owned()), Some("a process outside this host's process namespace".to_owned()))
        }
        Some(Fact::Unknown(why)) => (Fact::Unknown(why.clone()), None),
    }
}

fn broker_holds(socket: &Socket) -> bool {
    socket.owner.known().is_some_and(|o| o.as_ref().is_some_and(|o| o.broker))
}

/// `nginx (pid 812, nginx.service)`
fn holder(owner: &Owner) -> String {
    let unit = owner.unit.as_ref().map_or(String::new(), |u| format!(", {u}"));
    format!("{} (pid {}{unit})", owner.name, owner.pid)
}

/// A listener of the running node that the configuration does not ask for (any more).
fn only_running(r: &NodeListener, wanted: &[WantedListener], sockets: &[Socket]) -> Option<Listener> {
    let service = match r.protocol.as_str() {
        "amqp" => "amqp",
        "amqps" => "amqps",
        _ => return None,
    };
    if r.suspended || wanted.iter().any(|w| w.port == r.port) {
        return None;
    }
    let socket = sockets.iter().find(|s| s.port == r.port && broker_holds(s))?;
    Some(Listener {
        service: service.to_owned(),
        address: socket.address.clone(),
        port: r.port,
        key: None,
        at: None,
        source: "running".to_owned(),
        state: Fact::Known("listening".to_owned()),
        holder: None,
        loopback: socket.loopback,
        address_missing: Fact::Known(false),
        overlaps: false,
    })
}

#[cfg(test)]
mod tests {
    use super::super::Blank;
    use super::*;

    fn wanted(address: &str, port: i64) -> WantedListener {
        let key = Some("listeners.tcp.1".to_owned());
        WantedListener { service: "amqp".into(), address: address.into(), port, key, at: None, source: "conf".into() }
    }

    fn socket(address: &str, port: i64, owner: Fact<Option<Owner>>) -> Socket {
        let ip: IpAddr = address.parse().unwrap();
        Socket {
            address: address.into(),
            port,
            v6: ip.is_ipv6(),
            dual_stack: address == "::",
            loopback: ip.is_loopback(),
            wildcard: ip.is_unspecified(),
            uid: 104,
            owner,
            inode: 1,
        }
    }

    fn owner(broker: bool) -> Fact<Option<Owner>> {
        let (name, unit) = if broker { ("beam.smp", None) } else { ("nginx", Some("nginx.service".to_owned())) };
        Fact::Known(Some(Owner { pid: 812, name: name.into(), unit, broker }))
    }

    fn net(addresses: &[&str]) -> Net {
        let address = |a: &&str| Address {
            interface: "eth0".into(),
            address: (*a).to_owned(),
            prefix: 24,
            v6: false,
            up: true,
            scope: "global".into(),
        };
        Net { addresses: Fact::Known(addresses.iter().map(address).collect()), ..Net::blank("test") }
    }

    fn derived(wants: &[WantedListener], sockets: Vec<Socket>) -> Vec<Listener> {
        let net = net(&["10.0.0.5"]);
        derive(&Fact::Known(wants.to_vec()), &Fact::Known(sockets), &Fact::Known(None), &net).known().cloned().unwrap()
    }

    fn state_of(address: &str, sockets: Vec<Socket>) -> Fact<String> {
        derived(&[wanted(address, 5672)], sockets)[0].state.clone()
    }

    fn known(state: &str) -> Fact<String> {
        Fact::Known(state.to_owned())
    }

    #[test]
    fn the_broker_listens_where_it_should() {
        assert_eq!(state_of("auto", vec![socket("::", 5672, owner(true))]), known("listening"));
        assert_eq!(state_of("auto", vec![socket("0.0.0.0", 5672, owner(true))]), known("listening"));
        assert_eq!(state_of("10.0.0.5", vec![socket("10.0.0.5", 5672, owner(true))]), known("listening"));
    }

    #[test]
    fn another_address_is_not_enough() {
        assert_eq!(state_of("auto", vec![socket("127.0.0.1", 5672, owner(true))]), known("absent"));
        assert_eq!(state_of("10.0.0.5", vec![socket("::", 5672, owner(true))]), known("absent"));
        assert_eq!(state_of("auto", vec![]), known("absent"));
    }

    #[test]
    fn a_foreign_program_is_named() {
        let found = derived(&[wanted("auto", 5672)], vec![socket("127.0.0.1", 5672, owner(false))]);
        assert_eq!(
            (found[0].state.clone(), found[0].holder.as_deref()),
            (known("foreign"), Some("nginx (pid 812, nginx.service)"))
        );
        // Another address of the same port does not stand in the way.
        assert_eq!(state_of("10.0.0.5", vec![socket("127.0.0.1", 5672, owner(false))]), known("absent"));
    }

    #[test]
    fn an_owner_that_could_not_be_seen_leaves_the_state_unknown() {
        let hidden = Fact::Unknown("permission denied: /proc/77/fd".to_owned());
        assert!(state_of("auto", vec![socket("::", 5672, hidden)]).why().is_some());
        let unknown = derive(&Fact::Known(vec![wanted("auto", 5672)]), &Fact::blank("x"), &Fact::Known(None), &net(&[]));
        assert!(unknown.known().unwrap()[0].state.why().is_some());
    }

    #[test]
    fn addresses_and_overlaps_are_judged() {
        let found =
            derived(&[wanted("10.0.0.9", 5672), wanted("::", 5672), wanted("::1", 5673), wanted("0.0.0.0", 5673)], vec![]);
        let missing: Vec<_> = found.iter().map(|l| l.address_missing.clone()).collect();
        // No interface has ::1 here: IPv6 is switched off.
        assert_eq!(missing, [true, false, true, false].map(Fact::Known));
        let overlaps: Vec<_> = found.iter().map(|l| l.overlaps).collect();
        assert_eq!(overlaps, [true, true, false, false]);
        assert!(found[2].loopback && !found[3].loopback);
    }

    #[test]
    fn ports_whose_owner_matters() {
        assert_eq!(ports(&Fact::Known(vec![wanted("auto", 5677)])), BTreeSet::from([4369, 5672, 5677, 25672]));
    }
}

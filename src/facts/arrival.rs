//! Derived: what a connection meets at the port that it is made to. The sockets decide; what they serve is told by the running node, else
//! by the configuration.

use super::broker::NodeListener;
use super::sockets::Socket;
use super::{Fact, Facts};
use std::net::IpAddr;

/// What answers a client of `service` at `to`:`port`; `to` unknown: any address that is not loopback.
///
/// listening | other-service | foreign | suspended | loopback-only | other-address | absent
pub fn at(facts: &Facts, service: &str, to: Option<IpAddr>, port: i64) -> Fact<String> {
    let sockets = match &facts.sockets {
        Fact::Known(sockets) => sockets,
        Fact::Unknown(why) => return Fact::Unknown(why.clone()),
    };
    let here: Vec<(&Socket, Fact<bool>)> = sockets.iter().filter(|s| s.port == port).map(|s| (s, s.held_by_broker())).collect();
    if let Some((_, broker)) = here.iter().find(|(socket, _)| takes(socket, to)) {
        return broker.as_ref().map(|broker| taken(facts, service, port, *broker).to_owned());
    }
    if suspended(facts, port) {
        return Fact::Known("suspended".into());
    }
    // A socket elsewhere matters where it is the broker's: it was bound to the wrong address.
    if let Some(why) = here.iter().find_map(|(_, broker)| broker.why()) {
        return Fact::Unknown(why.to_owned());
    }
    let mut ours = here.iter().filter(|(_, broker)| broker.known() == Some(&true)).map(|(socket, _)| socket).peekable();
    let state = match (ours.peek().is_some(), ours.all(|socket| socket.loopback)) {
        (false, _) => "absent",
        (true, true) => "loopback-only",
        (true, false) => "other-address",
    };
    Fact::Known(state.into())
}

fn takes(socket: &Socket, to: Option<IpAddr>) -> bool {
    to.map_or(!socket.loopback, |to| socket.takes(to))
}

fn taken(facts: &Facts, service: &str, port: i64, broker: bool) -> &'static str {
    match broker {
        false => "foreign",
        true if serves(facts, service, port) => "listening",
        true => "other-service",
    }
}

/// As far as is known. Of the plugins' listeners the node names only the module that serves them, so that the configuration has to tell.
fn serves(facts: &Facts, service: &str, port: i64) -> bool {
    let running = running(facts).filter(|l| l.port == port).map(|l| l.protocol.as_str());
    let amqp: Vec<&str> = running.filter(|protocol| ["amqp", "amqps"].contains(protocol)).collect();
    let configured: Vec<&str> =
        facts.listeners.known().into_iter().flatten().filter(|l| l.port == port).map(|l| l.service.as_str()).collect();
    match (amqp.as_slice(), configured.as_slice()) {
        ([], []) => is_client_listener(facts, port),
        ([], configured) => configured.contains(&service),
        (amqp, _) => amqp.contains(&service),
    }
}

/// The VM also listens for other nodes, which ranch knows nothing of.
fn is_client_listener(facts: &Facts, port: i64) -> bool {
    running(facts).next().is_none() || running(facts).any(|listener| listener.port == port)
}

fn running(facts: &Facts) -> impl Iterator<Item = &NodeListener> {
    facts.node.known().and_then(|node| node.as_ref()?.listeners.known()).into_iter().flatten()
}

fn suspended(facts: &Facts, port: i64) -> bool {
    running(facts).any(|listener| listener.port == port && listener.suspended)
}

//! `why --watch`: what moves on this host while a client tries to connect, and what that says about how far it came.
//!
//! Nothing is installed or changed: counters, sockets and the log are looked at several times a second, and what is different from
//! the last look becomes an event. Sockets and log lines name the client; counters count everybody's packets, and the words say so.

use crate::facts::firewall::counters::{self, Counters};
use crate::facts::firewall::{DecidingRule, Verdict};
use crate::formats::broker_log::{self, Class};
use crate::formats::cidr::Cidr;
use crate::host::{Connection, ConnectionState, Host, read_text};
use serde::Serialize;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

/// How far a client came, in the order of its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Reached {
    /// Nothing of it was seen.
    Nothing,
    /// Packets were dropped or refused, not necessarily its own.
    PacketFilter,
    /// This host answered that nothing listens.
    ClosedPort,
    /// Its SYN was answered; it did not go on.
    HalfOpen,
    /// A connection of it to the port exists.
    Socket,
    /// RabbitMQ took the connection.
    Broker,
    /// Its login or its virtual host was refused.
    Refused,
    /// It logged in.
    LoggedIn,
}

/// Something that was seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Event {
    /// Seconds since the epoch.
    pub time: i64,
    pub reached: Reached,
    pub text: String,
    /// It is this client's, not somebody else's perhaps.
    pub certain: bool,
}

/// What a watch came to.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Watched {
    pub seconds: u64,
    pub events: Vec<Event>,
    pub reached: Reached,
    pub summary: String,
}

/// Whom and what to watch.
pub struct Target {
    /// The client in words.
    pub name: String,
    pub from: Vec<Cidr>,
    /// Ports that it may end up at: the one that it asks for, and where that is translated to.
    pub ports: Vec<u16>,
    /// Rules and policies that may end its way, with what they do: `dropped`, `rejected`.
    pub rules: Vec<(DecidingRule, &'static str)>,
    /// Nothing is known to listen there: resets that this host sends mean something.
    pub closed: bool,
    pub log: Option<PathBuf>,
}

impl Target {
    /// The rules that the verdict names.
    pub fn rules_of(verdict: &Verdict) -> Vec<(DecidingRule, &'static str)> {
        let what = |verdict: &str| if verdict == "reject" { "rejected" } else { "dropped" };
        let one = matches!(verdict.verdict.as_str(), "drop" | "reject").then_some(&verdict.decided_by);
        let open = verdict.outcomes.iter().filter(|o| matches!(o.verdict.as_str(), "drop" | "reject"));
        let one = one.into_iter().flatten().map(|rule| (rule.clone(), what(&verdict.verdict)));
        let mut rules: Vec<_> = one.chain(open.filter_map(|o| Some((o.decided_by.clone()?, what(&o.verdict))))).collect();
        rules.dedup();
        rules
    }

    /// Some rule counts packets of others too.
    pub fn counts_others(&self, look: &Look) -> bool {
        let counted = self.rules.iter().filter(|(rule, _)| look.counters.of(rule).is_some());
        counted.into_iter().any(|(rule, _)| !self.is_named_in(rule))
    }

    fn is_named_in(&self, rule: &DecidingRule) -> bool {
        self.from.iter().any(|from| names(rule, from))
    }

    /// Rules whose drops cannot be seen.
    pub fn uncounted(&self, look: &Look) -> Vec<&DecidingRule> {
        self.rules.iter().map(|(rule, _)| rule).filter(|rule| look.counters.of(rule).is_none()).collect()
    }

    fn is_from(&self, address: IpAddr) -> bool {
        self.from.iter().any(|network| network.contains(address.to_canonical()))
    }
}

/// The host at one moment.
#[derive(Debug, Default)]
pub struct Look {
    counters: Counters,
    connections: BTreeMap<(SocketAddr, u16), ConnectionState>,
    /// Of /proc/net/netstat and /proc/net/snmp.
    tcp: BTreeMap<String, u64>,
    /// What was written to the log since the last look.
    written: String,
    /// Bytes of the log that were read.
    offset: u64,
}

/// Most of the log that is read at one look, in bytes.
const LOG_MAX: u64 = 256 * 1024;

/// Kernel counters that mean that connections are refused or lost, and in what words.
const TROUBLE: [(&str, &str); 5] = [
    (
        "IPReversePathFilter",
        "packets came in by an interface that does not lead back to their sender (rp_filter) and were dropped",
    ),
    ("ListenOverflows", "connections were dropped because the queue of a listener was full"),
    ("ListenDrops", "SYNs were dropped at a listener"),
    ("TCPReqQFullDrop", "SYNs were dropped because too many connections were half open"),
    ("SyncookiesSent", "SYNs were answered with cookies because too many connections were half open"),
];
const RESETS: &str = "OutRsts";

impl Look {
    /// Looks at everything; `last` tells from where the log is new.
    pub fn take(host: &dyn Host, target: &Target, last: Option<&Look>) -> Look {
        let mut look = Look { counters: counters::read(host), tcp: tcp(host), ..Look::default() };
        for (port, from) in target.ports.iter().flat_map(|p| target.from.iter().map(move |f| (*p, f))) {
            for Connection { peer, local, state } in host.connections(port, from).unwrap_or_default() {
                look.connections.insert((peer, local.port()), state);
            }
        }
        if let Some(log) = &target.log {
            let size = host.stat(log, true).map_or(0, |meta| meta.size);
            look.offset = size;
            if let Some(before) = last.map(|l| l.offset).filter(|before| *before != size) {
                // A shorter file is a new one.
                let new = if before < size { size - before } else { size };
                let bytes = host.tail(log, new.min(LOG_MAX)).map(|t| t.bytes).unwrap_or_default();
                // The last line may be half written; it is read again.
                let whole = bytes.iter().rposition(|b| *b == b'\n').map_or(0, |end| end + 1);
                look.offset = size - (bytes.len() - whole) as u64;
                look.written = String::from_utf8_lossy(&bytes[..whole]).into_owned();
            }
        }
        look
    }

    /// What happened since the last look.
    pub fn events(&self, last: &Look, target: &Target, now: i64) -> Vec<Event> {
        let mut events = Vec::new();
        let mut event = |reached, certain, text: String| events.push(Event { time: now, reached, text, certain });
        for (rule, done) in &target.rules {
            let (Some(before), Some(after)) = (last.counters.of(rule), self.counters.of(rule)) else { continue };
            if after > before {
                let certain = target.is_named_in(rule);
                let whose = if certain { format!(" from {}", target.name) } else { String::new() };
                let packets = count(after - before, "packet");
                let verb = if after - before == 1 { "was" } else { "were" };
                let place = rule.place();
                let text = format!("{packets}{whose} {verb} {done} by {place} (its counter: {before}, now {after})");
                event(Reached::PacketFilter, certain, text);
            }
        }
        for (name, meaning) in TROUBLE {
            if let Some(more) = self.more(last, name) {
                event(Reached::PacketFilter, false, format!("{more} {meaning} ({name})"));
            }
        }
        if let Some(more) = self.more(last, RESETS).filter(|_| target.closed) {
            event(
                Reached::ClosedPort,
                false,
                format!("this host sent {}: nothing listens there (OutRsts)", count(more, "reset")),
            );
        }
        for ((peer, port), state) in &self.connections {
            let (reached, text) = match (last.connections.get(&(*peer, *port)), state) {
                (Some(before), state) if before == state => continue,
                (_, ConnectionState::Half) => {
                    (Reached::HalfOpen, format!("the SYN of {peer} came in to port {port} and was answered"))
                }
                (_, ConnectionState::Established) => (Reached::Socket, format!("{peer} reached the socket of port {port}")),
                (None, ConnectionState::Closing) => {
                    (Reached::Socket, format!("{peer} reached the socket of port {port}, and the connection is over already"))
                }
                (Some(ConnectionState::Half), ConnectionState::Closing) => {
                    (Reached::HalfOpen, format!("the connection of {peer} ended before it was complete"))
                }
                (Some(_), ConnectionState::Closing) => (Reached::Socket, format!("the connection of {peer} ends")),
            };
            event(reached, true, text);
        }
        for (reached, text) in log_events(&self.written, target) {
            event(reached, true, text);
        }
        events
    }

    /// How much more a kernel counter says; `None`: nothing, or it is not known.
    fn more(&self, last: &Look, name: &str) -> Option<u64> {
        let more = self.tcp.get(name)?.checked_sub(*last.tcp.get(name)?)?;
        (more > 0).then_some(more)
    }
}

fn count(n: u64, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

/// The rule's own text names these sources: what it counts is theirs.
fn names(rule: &DecidingRule, from: &Cidr) -> bool {
    let plain = rule.rule.split_whitespace().zip(rule.rule.split_whitespace().skip(1));
    let mut sources = plain.filter(|(key, _)| matches!(*key, "-s" | "saddr")).filter_map(|(_, value)| Cidr::parse(value));
    let negated = rule.rule.contains("! -s") || rule.rule.contains("saddr !=");
    !negated && sources.any(|s| from.contains(s.address) && from.prefix <= s.prefix)
}

fn tcp(host: &dyn Host) -> BTreeMap<String, u64> {
    let mut found = BTreeMap::new();
    for (file, section) in [("/proc/net/netstat", "TcpExt:"), ("/proc/net/snmp", "Tcp:")] {
        let text = read_text(host, file).unwrap_or_default();
        let mut lines = text.lines().filter_map(|l| l.strip_prefix(section));
        let (Some(names), Some(values)) = (lines.next(), lines.next()) else { continue };
        let pairs = names.split_whitespace().zip(values.split_whitespace());
        found.extend(pairs.filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?))));
    }
    found
}

/// What RabbitMQ wrote about the client.
fn log_events(written: &str, target: &Target) -> Vec<(Reached, String)> {
    let mut found = Vec::new();
    for line in written.lines() {
        let Some(peer) = peer(line).filter(|peer| target.is_from(peer.ip())) else { continue };
        if line.contains("accepting AMQP connection") {
            found.push((Reached::Broker, format!("RabbitMQ took the connection of {peer}: AMQP begins")));
        } else if let Some((_, user)) = line.split_once("user '").filter(|_| line.contains("authenticated and granted access")) {
            found.push((Reached::LoggedIn, format!("{peer} logged in: user '{}", user.trim())));
        }
    }
    for event in broker_log::scan(written) {
        let theirs = event.peer.as_deref().and_then(|p| p.parse().ok()).is_some_and(|p| target.is_from(p));
        let reached = match event.class {
            Class::Refusal(_) => Reached::Refused,
            _ => Reached::Broker,
        };
        if theirs {
            found.push((reached, format!("RabbitMQ says: {}", event.text)));
        }
    }
    found
}

/// The client in `… (10.0.0.9:40000 -> 10.0.0.5:5672 …`, or without the parenthesis (4.x).
fn peer(line: &str) -> Option<SocketAddr> {
    let (before, _) = line.split_once(" -> ")?;
    let word = before.rsplit([' ', '(']).next()?;
    let (address, port) = word.rsplit_once(':')?;
    Some(SocketAddr::new(address.trim_matches(['[', ']']).parse().ok()?, port.parse().ok()?))
}

/// The whole watch in one sentence.
pub fn summary(target: &Target, events: &[Event], predicted: Option<&Verdict>) -> (Reached, String) {
    let name = &target.name;
    let reached = events.iter().filter(|e| e.certain).map(|e| e.reached).max();
    let guessed = events.iter().map(|e| e.reached).max();
    let last = |reached: Reached| events.iter().rev().find(|e| e.reached == reached).map(|e| e.text.clone()).unwrap_or_default();
    let refuses = predicted.is_some_and(|v| matches!(v.verdict.as_str(), "drop" | "reject"));
    let text = match reached.or(guessed).unwrap_or(Reached::Nothing) {
        Reached::Nothing if refuses => format!(
            "Nothing of {name} was seen. Either it did not try, or its packets do not come as far as this host's counters; if it did, the \
             rule above fits what it sees."
        ),
        Reached::Nothing => format!("Nothing of {name} was seen: either it did not try, or its packets do not reach this host."),
        Reached::PacketFilter if refuses => match ended_by(events, target) {
            Some((rule, done)) => format!("It ends in the packet filter, as foreseen: {done} by {rule}."),
            None => format!("Packets were refused while watching: {}.", last(Reached::PacketFilter)),
        },
        Reached::PacketFilter => {
            format!("Packets were refused while watching, perhaps those of {name}: {}.", last(Reached::PacketFilter))
        }
        Reached::ClosedPort => format!("It ends at the listener: {}.", last(Reached::ClosedPort)),
        Reached::HalfOpen => format!(
            "{name} is let in, but the connection is not completed: the answer of this host, or the client's next packet, is lost on the way."
        ),
        Reached::Socket => format!("{name} reaches the port; RabbitMQ's log says nothing about it."),
        Reached::Broker => format!("{name} reaches RabbitMQ; no login was seen."),
        Reached::Refused => format!("It ends at the login: {}", last(Reached::Refused)),
        Reached::LoggedIn => format!("{name} connects and logs in."),
    };
    (reached.or(guessed).unwrap_or(Reached::Nothing), text)
}

/// The rule of the last event of the packet filter.
fn ended_by(events: &[Event], target: &Target) -> Option<(String, &'static str)> {
    let last = events.iter().rev().find(|e| e.reached == Reached::PacketFilter)?;
    let mut rules = target.rules.iter().map(|(rule, done)| (rule.place(), *done));
    rules.find(|(place, done)| last.text.contains(&format!("{done} by {place} (")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::Fake;

    fn target() -> Target {
        Target {
            name: "10.0.0.7".into(),
            from: vec![Cidr::parse("10.0.0.7").unwrap()],
            ports: vec![5672],
            rules: Vec::new(),
            closed: true,
            log: Some("/var/log/rabbitmq/rabbit@mq1.log".into()),
        }
    }

    #[test]
    fn what_the_broker_writes_is_told_for_this_client_only() {
        let log = "2026-11-22 15:00:01.1+00:00 [info] <0.7.0> accepting AMQP connection <0.7.0> (10.0.0.7:40000 -> 10.0.0.5:5672)\n\
            2026-11-22 15:00:01.2+00:00 [error] <0.7.0> Error on AMQP connection <0.7.0> (10.0.0.7:40000 -> 10.0.0.5:5672, state: starting):\n\
            2026-11-22 15:00:01.2+00:00 [error] <0.7.0> PLAIN login refused: user 'app' - invalid credentials\n\
            2026-11-22 15:00:02.1+00:00 [info] <0.8.0> accepting AMQP connection <0.8.0> (10.0.0.8:40000 -> 10.0.0.5:5672)\n\
            2026-11-22 15:00:03.1+00:00 [info] <0.9.0> connection 10.0.0.7:40001 -> 10.0.0.5:5672: user 'app' authenticated and granted access to vhost '/'\n";
        let told = log_events(log, &target());
        let stages: Vec<Reached> = told.iter().map(|(r, _)| *r).collect();
        assert!(stages.contains(&Reached::Refused) && stages.contains(&Reached::LoggedIn), "{told:?}");
        assert!(told.iter().all(|(_, text)| !text.contains("10.0.0.8")), "{told:?}");
    }

    #[test]
    fn a_connection_is_followed_through_its_states() {
        let at = |state: Option<ConnectionState>| {
            let connections = state.map(|s| (("10.0.0.7:40000".parse().unwrap(), 5672), s)).into_iter().collect();
            Look { connections, ..Look::default() }
        };
        let seen = |before, after| at(after).events(&at(before), &target(), 0).first().map(|e| e.reached);
        assert_eq!(seen(None, Some(ConnectionState::Half)), Some(Reached::HalfOpen));
        assert_eq!(seen(Some(ConnectionState::Half), Some(ConnectionState::Half)), None);
        assert_eq!(seen(Some(ConnectionState::Half), Some(ConnectionState::Established)), Some(Reached::Socket));
        assert_eq!(seen(None, Some(ConnectionState::Closing)), Some(Reached::Socket));
    }

    #[test]
    fn kernel_counters_are_told_when_they_move() {
        let netstat = |drops| {
            format!("TcpExt: SyncookiesSent IPReversePathFilter ListenDrops\nTcpExt: 0 {drops} 0\nIpExt: InNoRoutes\nIpExt: 0\n")
        };
        let snmp = |resets| format!("Tcp: RtoAlgorithm OutRsts\nTcp: 1 {resets}\n");
        let host = |n| Fake::new().file("/proc/net/netstat", netstat(n)).file("/proc/net/snmp", snmp(n));
        let target = target();
        let (first, second) = (Look::take(&host(1), &target, None), Look::take(&host(3), &target, None));
        let events = second.events(&first, &target, 0);
        let texts: Vec<&str> = events.iter().map(|e| e.text.as_str()).collect();
        assert!(texts[0].starts_with("2 packets came in by an interface"), "{texts:?}");
        assert_eq!(texts[1], "this host sent 2 resets: nothing listens there (OutRsts)");
        assert!(events.iter().all(|e| !e.certain) && first.events(&first, &target, 0).is_empty());
    }

    #[test]
    fn only_new_lines_of_the_log_are_read() {
        const LOG: &str = "/var/log/rabbitmq/rabbit@mq1.log";
        let target = target();
        let before = Look::take(&Fake::new().file(LOG, "one\n"), &target, None);
        let after = Look::take(&Fake::new().file(LOG, "one\ntwo\nthr"), &target, Some(&before));
        assert_eq!((before.written.as_str(), after.written.as_str(), after.offset), ("", "two\n", 8));
        let rotated = Look::take(&Fake::new().file(LOG, "new\n"), &target, Some(&after));
        assert_eq!(rotated.written, "new\n");
    }

    #[test]
    fn a_rule_that_names_the_client_counts_for_it_alone() {
        let rule = |text: &str| DecidingRule {
            table: "ip filter".into(),
            chain: "INPUT".into(),
            rule: text.into(),
            handle_or_line: Some(1),
            packets: None,
        };
        let from = Cidr::parse("10.0.0.7").unwrap();
        assert!(names(&rule("-A INPUT -s 10.0.0.7/32 -j DROP"), &from));
        assert!(names(&rule("ip saddr 10.0.0.7 tcp dport 5672 drop"), &from));
        assert!(!names(&rule("-A INPUT -s 10.0.0.0/24 -j DROP"), &from));
        assert!(!names(&rule("-A INPUT ! -s 10.0.0.7/32 -j DROP"), &from));
    }

    #[test]
    fn the_end_is_told_by_what_is_certain() {
        let event = |reached, certain| Event { time: 0, reached, text: "seen".into(), certain };
        let of = |events: &[Event]| summary(&target(), events, None).0;
        assert_eq!(of(&[]), Reached::Nothing);
        assert_eq!(of(&[event(Reached::ClosedPort, false), event(Reached::Socket, true)]), Reached::Socket);
        assert_eq!(of(&[event(Reached::PacketFilter, false)]), Reached::PacketFilter);
    }
}

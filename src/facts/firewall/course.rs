//! The packets of a connection, one after the other: the client's SYN through the hooks, past the routing decision and on to a
//! socket or out again; the answer's way back; the client's next packet. What may become of them are [`Fate`]s.

use super::model::{Hook, Table, ct};
use super::packet::Tuple;
use super::routing::{Kind, Question, Routing, Way};
use super::verdict::{At, End, Ended, Flight, Hit, Options, Path, Walk, Walked};
use super::{DecidingRule, Firewall, Packet, nat};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// Ports from which Linux clients connect by default (net.ipv4.ip_local_port_range).
const CLIENT_PORTS: (u16, u16) = (32768, 60999);
const SYN: u128 = 0x02;
const SYN_ACK: u128 = 0x12;
const ACK: u128 = 0x10;
const RST_ACK: u128 = 0x14;
const ICMP_UNREACHABLE: u128 = 3;
const ICMP6_UNREACHABLE: u128 = 1;
const NEIGHBOUR_SOLICITATION: u128 = 135;
const NEIGHBOUR_ADVERTISEMENT: u128 = 136;
/// ARPHRD_ETHER: other links (tunnels, WireGuard) have no neighbours to find.
const ETHERNET: u16 = 1;

/// One possible fate of the connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fate {
    pub outcome: Outcome,
    pub packet: &'static str,
    pub sees: &'static str,
    pub at: Option<At>,
    /// What decides where it is no rule: a route or a sysctl.
    pub words: Option<DecidingRule>,
    pub assumed: BTreeSet<(String, bool)>,
    /// Where translations sent it, and whether that is another host; `None`: not translated.
    pub delivered: Option<(SocketAddr, bool)>,
    pub translated_by: Option<At>,
    pub hits: Vec<Hit>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    Drop,
    Reject(String),
    /// With what the answer depends on.
    Open(String),
    Accept,
}

/// What the routing decision says of a packet that came in.
enum Next {
    Here,
    Onward(Vec<String>),
    Lost { reject: Option<&'static str>, words: DecidingRule },
    Unsure(String),
}

pub fn routing_words(chain: &str, rule: impl Into<String>) -> DecidingRule {
    DecidingRule { table: "routing".to_owned(), chain: chain.to_owned(), rule: rule.into(), handle_or_line: None, packets: None }
}

impl Flight {
    /// The first packet of a new connection, as it comes in.
    pub fn syn(packet: &Packet) -> Flight {
        let ends = Tuple {
            source: packet.source,
            destination: packet.destination,
            source_port: CLIENT_PORTS,
            destination_port: (packet.port, packet.port),
        };
        Flight {
            stage: "syn",
            v6: packet.destination.is_ipv6(),
            source: packet.source,
            destination: packet.destination,
            source_port: CLIENT_PORTS,
            destination_port: (packet.port, packet.port),
            answer: ends.turned(),
            original: ends,
            translated: 0,
            status: None,
            reply: false,
            protocol: 6,
            flags: SYN,
            icmp_type: None,
            in_interface: packet.interface.clone(),
            out_interface: String::new(),
            state: ct::NEW,
            attached: packet.interface == "lo",
            incoming: true,
        }
    }
}

impl Firewall {
    /// Everything that may happen, the worst first. One element where it is decided.
    pub(super) fn fates(&self, packet: &Packet, options: &Options) -> Vec<Fate> {
        let fates = self.courses(packet, options);
        if options.record { fates } else { merged(fates) }
    }

    fn courses(&self, packet: &Packet, options: &Options) -> Vec<Fate> {
        let loopback = packet.interface == "lo";
        let syn = Flight::syn(packet);
        let mut fates = Vec::new();
        let arrivals = if loopback { self.leave(&syn, options, Path::new(), &mut fates) } else { vec![(syn, Path::new())] };
        for (syn, path) in arrivals {
            let walked = self.walk(&syn, options, &[Hook::Ingress, Hook::Prerouting], path);
            self.refuse(&syn, options, walked.ended, &mut fates);
            for path in walked.through {
                self.route_in(path.now(&syn), options, path, &mut fates);
            }
        }
        fates
    }

    fn walk(&self, flight: &Flight, options: &Options, hooks: &[Hook], path: Path) -> Walked {
        Walk { model: &self.model, flight, options }.through(hooks, path)
    }

    fn routing(&self) -> Option<&Routing> {
        self.model.routing.as_ref().filter(|r| r.routes.is_some())
    }

    /// A connection of the host to itself goes out through OUTPUT before it comes in. A translation there may send it elsewhere.
    fn leave(&self, syn: &Flight, options: &Options, path: Path, fates: &mut Vec<Fate>) -> Vec<(Flight, Path)> {
        let out = outgoing(syn.clone(), "lo");
        let mut home = Vec::new();
        let walked = self.walk(&out, options, &[Hook::Output], path);
        self.refuse(syn, options, walked.ended, fates);
        for path in walked.through {
            let mut now = path.now(&out);
            let away = now.translated & nat::DESTINATION_NAT != 0 && !self.ours(now.destination);
            if away {
                now.out_interface = match self.routing().map(|r| r.way(now.destination, &Question::default())) {
                    Some(Way::Out(hops)) => hops.first().map_or("", |h| self.name(h.interface)).to_owned(),
                    _ => String::new(),
                };
            }
            let walked = self.walk(&now, options, &[Hook::Postrouting], path.going_on());
            self.refuse(syn, options, walked.ended, fates);
            for path in walked.through {
                let now = path.now(&now);
                if away {
                    fates.push(accept(&now, path, true));
                } else {
                    home.push((incoming(now, "lo"), path.going_on()));
                }
            }
        }
        home
    }

    fn name(&self, index: u32) -> &str {
        self.model.routing.as_ref().map_or("", |r| r.name(index))
    }

    fn ours(&self, address: IpAddr) -> bool {
        address.is_loopback() || self.model.routing.as_ref().is_some_and(|r| r.is_local(address))
    }

    /// Behind PREROUTING: is the source one that may come from there, and is the packet for this host.
    fn route_in(&self, syn: Flight, options: &Options, mut path: Path, fates: &mut Vec<Fate>) {
        let translated = syn.translated & nat::DESTINATION_NAT != 0;
        if let Some(routing) = self.routing().filter(|_| syn.in_interface != "lo" && !self.in_vrf(&syn.in_interface)) {
            match routing.refuses_source(syn.source, syn.destination, path.mark().unwrap_or(0), &syn.in_interface) {
                Ok(None) => {}
                Ok(Some(why)) => {
                    let words = routing_words("input", why);
                    fates.push(fate(Outcome::Drop, "syn", "timeout", &syn, path, Err(words)));
                    return;
                }
                Err(why) => {
                    let mut refused = path.clone();
                    refused.suppose(&why, true);
                    path.suppose(&why, false);
                    let words = routing_words("input", why);
                    fates.push(fate(Outcome::Drop, "syn", "timeout", &syn, refused, Err(words)));
                }
            }
        }
        match self.next(&syn, &path, translated) {
            Next::Here => {
                let now = path.going_on();
                let walked = self.walk(&syn, options, &[Hook::Input], now);
                self.refuse(&syn, options, walked.ended, fates);
                for path in walked.through {
                    let now = path.now(&syn);
                    self.answered(&now, options, path, fates);
                }
            }
            Next::Onward(interfaces) => self.forward(&syn, &interfaces, options, path, fates),
            Next::Lost { reject: None, words } => {
                fates.push(fate(Outcome::Drop, "syn", "timeout", &syn, path, Err(words)));
            }
            Next::Lost { reject: Some(with), words } => {
                fates.push(fate(Outcome::Reject(with.to_owned()), "syn", "unreachable", &syn, path, Err(words)));
            }
            Next::Unsure(why) => {
                let words = routing_words("input", why.clone());
                fates.push(fate(Outcome::Open(why), "syn", "unknown", &syn, path, Err(words)));
            }
        }
    }

    fn in_vrf(&self, interface: &str) -> bool {
        let Some(routing) = &self.model.routing else { return false };
        let master = routing.link(interface).and_then(|l| l.master).and_then(|m| routing.link_at(m));
        master.is_some_and(|m| m.kind == "vrf")
    }

    /// The routing decision for a packet that came in.
    fn next(&self, syn: &Flight, path: &Path, translated: bool) -> Next {
        if !translated || self.ours(syn.destination) {
            return match self.routing() {
                Some(routing) if !translated && syn.in_interface != "lo" && !self.ours(syn.destination) => {
                    self.onward(routing, syn, path)
                }
                _ => Next::Here,
            };
        }
        match self.routing() {
            Some(routing) => self.onward(routing, syn, path),
            None if self.model.routing.is_some() => Next::Onward(vec![String::new()]),
            None => Next::Unsure(format!("whether {} is this host", syn.destination)),
        }
    }

    fn onward(&self, routing: &Routing, syn: &Flight, path: &Path) -> Next {
        let question =
            Question { from: Some(syn.source), mark: path.mark().unwrap_or(0), iif: Some(&syn.in_interface), oif: None };
        let way = routing.way(syn.destination, &question);
        if matches!(way, Way::Local(_)) {
            return Next::Here;
        }
        let to = syn.destination;
        let on = routing.forwards(syn.v6, &syn.in_interface);
        if on == Some(false) && !matches!(way, Way::Unsure(_)) {
            let sysctl = if syn.v6 {
                "net.ipv6.conf.all.forwarding is 0".to_owned()
            } else {
                format!("net.ipv4.conf.{}.forwarding is 0 (net.ipv4.ip_forward)", syn.in_interface)
            };
            let words = routing_words("forward", format!("not forwarded to {to}: {sysctl}"));
            return Next::Lost { reject: None, words };
        }
        let lost = |reject: [&'static str; 2], what: &str| Next::Lost {
            reject: Some(reject[usize::from(syn.v6)]).filter(|r| !r.is_empty()),
            words: routing_words("forward", format!("{what} to {to}")),
        };
        match way {
            Way::Out(hops) => {
                let mut names: Vec<String> = hops.iter().map(|h| routing.name(h.interface).to_owned()).collect();
                names.dedup();
                Next::Onward(names)
            }
            Way::Local(_) => Next::Here,
            Way::Refused(Kind::Blackhole) => lost(["", ""], "a blackhole route leads"),
            Way::Refused(Kind::Prohibit) => lost(["icmp-admin-prohibited", "icmp6-adm-prohibited"], "a prohibit route leads"),
            Way::Refused(_) => lost(["icmp-host-unreachable", "icmp6-no-route"], "an unreachable route leads"),
            Way::None => lost(["icmp-net-unreachable", "icmp6-no-route"], "there is no route"),
            Way::Other(kind) => lost(["", ""], &format!("a {} route leads", kind.name())),
            Way::Unsure(why) => Next::Unsure(why),
        }
    }

    /// Translated to another host, or a container.
    fn forward(&self, syn: &Flight, interfaces: &[String], options: &Options, path: Path, fates: &mut Vec<Fate>) {
        for interface in interfaces {
            let mut path = path.going_on();
            if interfaces.len() > 1 {
                path.suppose(&format!("the kernel takes the route by {interface}, one of several"), true);
            }
            let out = Flight { out_interface: interface.clone(), incoming: false, ..syn.clone() };
            let walked = self.walk(&out, options, &[Hook::Forward, Hook::Postrouting], path);
            self.refuse(syn, options, walked.ended, fates);
            for path in walked.through {
                let first = path.now(&out);
                self.forwarded(&first, options, path, fates);
            }
        }
    }

    /// The SYN of a forwarded connection got out: the answer comes in where it left, and the client's next packet follows it.
    fn forwarded(&self, first: &Flight, options: &Options, path: Path, fates: &mut Vec<Fate>) {
        let untracked = path.is_untracked();
        let mut reply = reply_to(first, SYN_ACK);
        (reply.source, reply.source_port) = (first.answer.source, first.answer.source_port);
        (reply.destination, reply.destination_port) = (first.answer.destination, first.answer.destination_port);
        (reply.in_interface, reply.out_interface) = (first.out_interface.clone(), String::new());
        reply.incoming = true;
        reply.state = if untracked { ct::INVALID } else { ct::ESTABLISHED };
        let mut ack = Flight { stage: "established", flags: ACK, out_interface: String::new(), incoming: true, ..first.clone() };
        (ack.source, ack.source_port) = (first.original.source, first.original.source_port);
        (ack.destination, ack.destination_port) = (first.original.destination, first.original.destination_port);
        ack.state = if untracked { self.picked_up() } else { ct::ESTABLISHED };
        let legs = [(reply, first.in_interface.clone(), "timeout"), (ack, first.out_interface.clone(), "hangs")];
        let mut alive = vec![path.next_packet()];
        for (packet, out, sees) in legs {
            let mut next = Vec::new();
            for path in alive {
                let walked = self.walk(&packet, options, &[Hook::Ingress, Hook::Prerouting], path);
                fates.extend(walked.ended.into_iter().map(|e| self.later(first, options, e, packet.stage, sees)));
                for path in walked.through {
                    let now = Flight { out_interface: out.clone(), incoming: false, ..path.now(&packet) };
                    let walked = self.walk(&now, options, &[Hook::Forward, Hook::Postrouting], path.going_on());
                    fates.extend(walked.ended.into_iter().map(|e| self.later(first, options, e, packet.stage, sees)));
                    next.extend(walked.through.into_iter().map(|p| p.next_packet()));
                }
            }
            alive = next;
        }
        for mut done in alive {
            done.accepted.clone_from(&path.accepted);
            fates.push(accept(first, done, true));
        }
    }

    /// SYNs that were dropped or rejected.
    fn refuse(&self, syn: &Flight, options: &Options, ended: Vec<Ended>, fates: &mut Vec<Fate>) {
        for mut ended in ended {
            let syn = ended.path.now(syn);
            let (outcome, sees) = match ended.end.clone() {
                End::Drop => (Outcome::Drop, "timeout"),
                End::Reject(with) => {
                    let gets_out = self.answer(&syn, options, &with, &mut ended);
                    let sees = if gets_out { sees(&with) } else { "timeout" };
                    (Outcome::Reject(with), sees)
                }
                End::Undecided(why) => (Outcome::Open(why), "unknown"),
            };
            fates.push(fate(outcome, "syn", sees, &syn, ended.path, Ok(ended.at)));
        }
    }

    /// Whether the RST or ICMP error that a REJECT sends passes OUTPUT; without it the client waits.
    fn answer(&self, to: &Flight, options: &Options, with: &str, ended: &mut Ended) -> bool {
        let (protocol, icmp_type) = match (with, to.v6) {
            ("tcp-reset" | "tcp-rst", _) => (6, None),
            (_, false) => (1, Some(ICMP_UNREACHABLE)),
            (_, true) => (58, Some(ICMP6_UNREACHABLE)),
        };
        let mut answer = reply_to(to, RST_ACK);
        answer.stage = "answer";
        answer.protocol = protocol;
        answer.icmp_type = icmp_type;
        // nf_ct_attach: the answer belongs to the connection of what it answers, before it reaches the first hook.
        answer.state = if ended.tracked { ct::RELATED } else { ct::INVALID };
        answer.attached = true;
        // Seen-reply, assured and confirmed, once the connection stands.
        answer.status = Some(to.translated | if to.state == ct::ESTABLISHED { 0x0e } else { 0 });
        answer.translated = 0;
        let interface = match self.out_by(to) {
            Way::Out(hops) => hops.first().map(|h| self.name(h.interface).to_owned()).unwrap_or_default(),
            Way::Unsure(_) | Way::Local(_) => to.in_interface.clone(),
            Way::None | Way::Other(_) | Way::Refused(_) => return false,
        };
        answer.out_interface = interface;
        let walked = self.walk(&answer, options, &[Hook::Output, Hook::Postrouting], ended.path.next_packet());
        let through = walked.through.first().map(|p| p.hits.clone());
        let hits = through.clone().or(walked.ended.first().map(|e| e.path.hits.clone()));
        if let Some(hits) = hits {
            ended.path.hits = hits;
        }
        through.is_some()
    }

    /// The way that answers to a packet take.
    fn out_by(&self, to: &Flight) -> Way {
        let Some(routing) = self.routing().filter(|_| to.in_interface != "lo" && !self.in_vrf(&to.in_interface)) else {
            return Way::Unsure(String::new());
        };
        let link_local = matches!(to.source, IpAddr::V6(a) if a.is_unicast_link_local());
        let oif = link_local.then_some(to.in_interface.as_str());
        routing.way(to.source, &Question { from: Some(to.destination), mark: 0, iif: None, oif })
    }

    /// What conntrack makes of a packet in the middle of a connection that it did not see begin (nf_conntrack_tcp_loose).
    fn picked_up(&self) -> u128 {
        let loose = self.model.routing.as_ref().and_then(|r| r.settings.tcp_loose);
        if loose == Some(false) { ct::INVALID } else { ct::NEW }
    }

    /// The SYN came through: the SYN-ACK must get out and the client's next packet in.
    fn answered(&self, syn: &Flight, options: &Options, accepted: Path, fates: &mut Vec<Fate>) {
        let loopback = syn.in_interface == "lo";
        let interfaces: Vec<String> = match self.out_by(syn) {
            Way::Unsure(why) if why.is_empty() => vec![syn.in_interface.clone()],
            Way::Out(hops) => {
                let mut names: Vec<String> = hops.iter().map(|h| self.name(h.interface).to_owned()).collect();
                names.dedup();
                names
            }
            Way::Local(_) => vec!["lo".to_owned()],
            Way::Unsure(why) => {
                let words = routing_words("output", why.clone());
                fates.push(fate(Outcome::Open(why), "reply", "unknown", syn, accepted, Err(words)));
                return;
            }
            Way::None | Way::Other(_) => {
                let words = routing_words("output", format!("there is no route back to {}", syn.source));
                fates.push(fate(Outcome::Drop, "reply", "timeout", syn, accepted, Err(words)));
                return;
            }
            Way::Refused(kind) => {
                let words = routing_words("output", format!("the route back to {} is a {} one", syn.source, kind.name()));
                fates.push(fate(Outcome::Drop, "reply", "timeout", syn, accepted, Err(words)));
                return;
            }
        };
        for interface in &interfaces {
            let mut path = accepted.next_packet();
            if interfaces.len() > 1 {
                path.suppose(&format!("the answer goes out by {interface}, one of several routes"), true);
            }
            let mut reply = reply_to(syn, SYN_ACK);
            reply.out_interface.clone_from(interface);
            reply.state = if accepted.is_untracked() { ct::INVALID } else { ct::ESTABLISHED };
            let alive = self.leg(syn, &reply, loopback, true, options, vec![path], fates);
            let mut ack = Flight { stage: "established", flags: ACK, ..syn.clone() };
            (ack.source, ack.source_port) = (syn.original.source, syn.original.source_port);
            (ack.destination, ack.destination_port) = (syn.original.destination, syn.original.destination_port);
            ack.state = if accepted.is_untracked() { self.picked_up() } else { ct::ESTABLISHED };
            let alive = alive.into_iter().map(|p| p.next_packet()).collect();
            for mut path in self.leg(syn, &ack, loopback, false, options, alive, fates) {
                path.accepted.clone_from(&accepted.accepted);
                fates.push(accept(syn, path, false));
            }
        }
    }

    /// A later packet's way: out, or in, or (over loopback) both.
    #[allow(clippy::too_many_arguments)]
    fn leg(
        &self,
        syn: &Flight,
        packet: &Flight,
        loopback: bool,
        reply: bool,
        options: &Options,
        paths: Vec<Path>,
        fates: &mut Vec<Fate>,
    ) -> Vec<Path> {
        let sees = if reply { "timeout" } else { "hangs" };
        let mut parts: Vec<(Flight, &[Hook])> = Vec::new();
        if reply || loopback {
            let by = if loopback { "lo".to_owned() } else { packet.out_interface.clone() };
            parts.push((outgoing(packet.clone(), &by), &[Hook::Output, Hook::Postrouting]));
        }
        if !reply || loopback {
            let by = if loopback { "lo".to_owned() } else { packet.in_interface.clone() };
            let mut part = incoming(packet.clone(), &by);
            // Over loopback conntrack has seen it on its way out.
            part.attached = loopback;
            parts.push((part, &[Hook::Ingress, Hook::Prerouting, Hook::Input]));
        }
        let mut alive: Vec<(Option<Flight>, Path)> = paths.into_iter().map(|p| (None, p)).collect();
        for (part, hooks) in parts {
            let mut next = Vec::new();
            for (before, path) in alive {
                let mut now = part.clone();
                if let Some(before) = before {
                    (now.source, now.source_port) = (before.source, before.source_port);
                    (now.destination, now.destination_port) = (before.destination, before.destination_port);
                }
                let walked = self.walk(&now, options, hooks, path);
                fates.extend(walked.ended.into_iter().map(|e| self.later(syn, options, e, packet.stage, sees)));
                next.extend(walked.through.into_iter().map(|p| (Some(p.now(&now)), p.going_on())));
            }
            alive = next;
        }
        alive.into_iter().map(|(_, path)| path).collect()
    }

    /// A later packet that did not get through.
    fn later(&self, syn: &Flight, options: &Options, mut ended: Ended, packet: &'static str, sees: &'static str) -> Fate {
        let (outcome, sees) = match ended.end.clone() {
            End::Drop => (Outcome::Drop, sees),
            // A RST that answers the client's own packet ends its connection; an ICMP error does not, once it is established.
            End::Reject(with) if packet == "established" => {
                let ack = Flight { stage: "established", flags: ACK, state: ct::ESTABLISHED, ..syn.clone() };
                let reset = self.answer(&ack, options, &with, &mut ended) && with.starts_with("tcp-r");
                (Outcome::Reject(with), if reset { "reset" } else { sees })
            }
            End::Reject(with) => (Outcome::Reject(with), sees),
            End::Undecided(why) => (Outcome::Open(why), "unknown"),
        };
        fate(outcome, packet, sees, syn, ended.path, Ok(ended.at))
    }

    /// Whether the peer (or the router towards it) can find this host's link address: neighbour discovery, RFC 4861. Fates of the
    /// solicitation and its answer; empty where there is nothing to find.
    pub(super) fn neighbour(&self, packet: &Packet, options: &Options) -> Vec<Fate> {
        let IpAddr::V6(ours) = packet.destination else { return Vec::new() };
        let link = self.model.routing.as_ref().and_then(|r| r.link(&packet.interface));
        let finds = link.is_none_or(|l| l.hardware == ETHERNET || l.index == 0 || self.routing().is_none());
        if packet.interface == "lo" || !finds || !self.may_stop_neighbours() {
            return Vec::new();
        }
        let question = Question { oif: Some(&packet.interface), ..Question::default() };
        let asks = match self.routing().map(|r| r.way(packet.source, &question)) {
            Some(Way::Out(hops)) => hops.iter().find_map(|h| h.gateway).unwrap_or(packet.source),
            _ => packet.source,
        };
        let [.., a, b, c] = ours.octets();
        let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), u16::from_be_bytes([b, c]));
        let ends = Tuple { source: asks, destination: group.into(), source_port: (0, 0), destination_port: (0, 0) };
        let solicitation = Flight {
            stage: "neighbour",
            v6: true,
            source: asks,
            destination: group.into(),
            source_port: (0, 0),
            destination_port: (0, 0),
            answer: ends.turned(),
            original: ends,
            translated: 0,
            status: None,
            reply: false,
            protocol: 58,
            flags: 0,
            icmp_type: Some(NEIGHBOUR_SOLICITATION),
            in_interface: packet.interface.clone(),
            out_interface: String::new(),
            // Conntrack leaves neighbour discovery alone (noct_valid_new in nf_conntrack_proto_icmpv6.c).
            state: ct::UNTRACKED,
            attached: false,
            incoming: true,
        };
        let mut advertisement = outgoing(solicitation.clone(), &packet.interface);
        advertisement.icmp_type = Some(NEIGHBOUR_ADVERTISEMENT);
        (advertisement.source, advertisement.destination) = (packet.destination, asks);
        let mut fates = Vec::new();
        let walked = self.walk(&solicitation, options, &[Hook::Ingress, Hook::Prerouting, Hook::Input], Path::new());
        let mut ended = walked.ended;
        for path in walked.through {
            let walked = self.walk(&advertisement, options, &[Hook::Output, Hook::Postrouting], path.next_packet());
            ended.extend(walked.ended);
            fates.extend(walked.through.into_iter().map(|p| accept(&advertisement, p, false)));
        }
        for e in ended {
            let outcome = match e.end {
                End::Undecided(why) => Outcome::Open(why),
                End::Drop | End::Reject(_) => Outcome::Drop,
            };
            fates.push(fate(outcome, "neighbour", "unreachable", &solicitation, e.path, Ok(e.at)));
        }
        merged(fates)
    }

    /// Only a chain with a policy or rule that refuses can stop them: most hosts have none for IPv6.
    fn may_stop_neighbours(&self) -> bool {
        let holds = |table: &Table| {
            let mut bases = table.chains.iter().filter_map(|c| c.base.as_ref().map(|b| (b, c)));
            bases.any(|(base, chain)| !base.accept || !chain.rules.is_empty())
        };
        self.model.tables.iter().filter(|t| t.family.sees(true)).any(holds)
    }
}

fn outgoing(packet: Flight, by: &str) -> Flight {
    Flight { in_interface: String::new(), out_interface: by.to_owned(), attached: false, incoming: false, ..packet }
}

fn incoming(packet: Flight, by: &str) -> Flight {
    Flight { in_interface: by.to_owned(), out_interface: String::new(), attached: by == "lo", incoming: true, ..packet }
}

/// The way back of a packet: addresses, ports and interfaces change places.
fn reply_to(packet: &Flight, flags: u128) -> Flight {
    Flight {
        stage: "reply",
        source: packet.destination,
        destination: packet.source,
        source_port: packet.destination_port,
        destination_port: packet.source_port,
        reply: true,
        flags,
        in_interface: String::new(),
        out_interface: packet.in_interface.clone(),
        attached: false,
        incoming: false,
        ..packet.clone()
    }
}

/// What a Linux client makes of a REJECT. Host, network and protocol unreachable and EACCES are all "unreachable".
fn sees(reject_with: &str) -> &'static str {
    match reject_with {
        "tcp-reset" | "icmp-port-unreachable" | "icmp6-port-unreachable" | "tcp-rst" => "refused",
        _ => "unreachable",
    }
}

fn accept(flight: &Flight, path: Path, forwarded: bool) -> Fate {
    let at = path.accepted.clone();
    let mut accept = fate(Outcome::Accept, "syn", "connected", flight, path, Err(routing_words("", "")));
    (accept.at, accept.words) = (at, None);
    if forwarded {
        accept.delivered = Some((SocketAddr::new(flight.answer.source, flight.answer.source_port.0), true));
    }
    accept
}

fn fate(
    outcome: Outcome,
    packet: &'static str,
    sees: &'static str,
    flight: &Flight,
    path: Path,
    by: Result<At, DecidingRule>,
) -> Fate {
    let translated = flight.translated & nat::DESTINATION_NAT != 0;
    let delivered = translated.then(|| (SocketAddr::new(flight.answer.source, flight.answer.source_port.0), false));
    let (at, words) = match by {
        Ok(at) => (Some(at), None),
        Err(words) => (None, Some(words)),
    };
    Fate {
        outcome,
        packet,
        sees,
        at,
        words,
        assumed: path.assumed,
        delivered,
        translated_by: path.translated_by,
        hits: path.hits,
    }
}

/// What tells two fates apart for the client: outcome, packet, what it sees, where it is sent.
type Difference = (Outcome, &'static str, &'static str, Option<(SocketAddr, bool)>);

/// Fates with one outcome are one: assumptions made both ways did not matter.
fn merged(fates: Vec<Fate>) -> Vec<Fate> {
    let mut by_outcome: BTreeMap<Difference, Fate> = BTreeMap::new();
    for fate in fates {
        let difference = (fate.outcome.clone(), fate.packet, fate.sees, fate.delivered);
        match by_outcome.get_mut(&difference) {
            // The one that came further stands for both: it passed the rules that may or may not refuse.
            Some(same) => {
                same.assumed = same.assumed.intersection(&fate.assumed).cloned().collect();
                same.at = fate.at;
                same.words = fate.words;
            }
            None => {
                by_outcome.insert(difference, fate);
            }
        }
    }
    by_outcome.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::super::model::{Engine, Model};
    use super::super::routing::Routing;
    use super::super::{Course, Verdict, iptables, tests};
    use super::*;
    use crate::formats::iptables_save;
    use std::collections::BTreeMap as Map;

    /// 10.0.0.2 on eth0 with the default route, 10.1.0.2 on eth1; fd00::2 and fe80::2 on eth0.
    fn host(save: &str, v6: bool) -> Firewall {
        let mut routing = Routing::decode(include_bytes!("testdata/routing.nl")).unwrap();
        let all = |value| Some(["eth0", "eth1", "lo"].map(|n| (n.to_owned(), value)).into_iter().collect::<Map<_, _>>());
        routing.settings.rp_filter = all(0);
        routing.settings.forwarding = all(1);
        routing.settings.forwarding6 = Some(true);
        let tables = iptables::tables(&iptables_save::parse(save).unwrap(), Engine::IptablesLegacy, v6);
        tests::firewall(Model { tables, routing: Some(routing), ..Model::default() })
    }

    fn to(fw: &Firewall, source: &str, destination: &str, interface: &str) -> Verdict {
        let packet = Packet {
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
            port: 5672,
            interface: interface.to_owned(),
        };
        fw.verdict(&packet).known().unwrap().clone()
    }

    fn judged(save: &str, source: &str, interface: &str) -> Verdict {
        to(&host(save, false), source, "10.0.0.2", interface)
    }

    const DNAT: &str = "*nat\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -p tcp -m tcp --dport 5672 -j DNAT --to-destination 10.1.0.9:5673\nCOMMIT\n";

    #[test]
    fn forwarded_connections() {
        let v = judged(DNAT, "10.0.0.9", "eth0");
        assert_eq!((v.verdict.as_str(), v.delivered_to.as_deref(), v.forwarded), ("accept", Some("10.1.0.9:5673"), true));
        // INPUT does not see it, FORWARD does, with the new port and the way out.
        let input = "*filter\n:INPUT DROP [0:0]\n:FORWARD ACCEPT [0:0]\nCOMMIT\n";
        assert_eq!(judged(&format!("{DNAT}{input}"), "10.0.0.9", "eth0").verdict, "accept");
        let forward = "*filter\n:FORWARD DROP [0:0]\n-A FORWARD -o eth1 -p tcp -m tcp --dport 5673 -j ACCEPT\n-A FORWARD -m conntrack --ctstate ESTABLISHED -j ACCEPT\nCOMMIT\n";
        assert_eq!(judged(&format!("{DNAT}{forward}"), "10.0.0.9", "eth0").verdict, "accept");
        let v = judged(&format!("{DNAT}{}", forward.replace("--dport 5673", "--dport 5672")), "10.0.0.9", "eth0");
        assert_eq!((v.verdict.as_str(), v.decided_by.unwrap().chain.as_str(), v.forwarded), ("drop", "FORWARD", false));
        // The answer needs a rule as well.
        let v = judged(
            &format!("{DNAT}{}", forward.replace("-m conntrack --ctstate ESTABLISHED", "-s 10.9.9.9")),
            "10.0.0.9",
            "eth0",
        );
        assert_eq!((v.verdict.as_str(), v.packet.as_str(), v.sees.as_str()), ("drop", "reply", "timeout"));
        let mut fw = host(DNAT, false);
        fw.model.routing.as_mut().unwrap().settings.forwarding = Some(Map::new());
        let v = to(&fw, "10.0.0.9", "10.0.0.2", "eth0");
        assert_eq!((v.verdict.as_str(), v.sees.as_str()), ("drop", "timeout"));
        assert!(v.decided_by.unwrap().rule.contains("net.ipv4.conf.eth0.forwarding is 0"));
    }

    #[test]
    fn redirected_connections() {
        let redirect =
            "*nat\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -p tcp -m tcp --dport 5672 -j REDIRECT --to-ports 5673\nCOMMIT\n";
        let filter = |rules: &str| format!("{redirect}*filter\n:INPUT DROP [0:0]\n:OUTPUT DROP [0:0]\n{rules}COMMIT\n");
        // INPUT sees the new port, OUTPUT the answer from it; the connection is one of ctstate DNAT.
        let v = judged(
            &filter("-A INPUT -p tcp -m tcp --dport 5673 -j ACCEPT\n-A OUTPUT -p tcp -m tcp --sport 5673 -j ACCEPT\n"),
            "10.0.0.9",
            "eth0",
        );
        assert_eq!((v.verdict.as_str(), v.delivered_to.as_deref()), ("accept", Some("10.0.0.2:5673")));
        let v = judged(&filter("-A INPUT -m conntrack --ctstate DNAT -j ACCEPT\n-A OUTPUT -j ACCEPT\n"), "10.0.0.9", "eth0");
        assert_eq!(v.verdict, "accept");
        let v = judged(
            &filter("-A INPUT -p tcp -m conntrack --ctorigdstport 5672 -j ACCEPT\n-A OUTPUT -j ACCEPT\n"),
            "10.0.0.9",
            "eth0",
        );
        assert_eq!(v.verdict, "accept");
        let v = judged(&filter("-A INPUT -p tcp -m tcp --dport 5672 -j ACCEPT\n-A OUTPUT -j ACCEPT\n"), "10.0.0.9", "eth0");
        assert_eq!(v.verdict, "drop");
        // To where it goes anyway: no translation at all.
        let noop = filter("-A INPUT -m conntrack --ctstate DNAT -j ACCEPT\n-A OUTPUT -j ACCEPT\n").replace("5673", "5672");
        assert_eq!(judged(&noop, "10.0.0.9", "eth0").verdict, "drop");
        // Over loopback PREROUTING translates nothing: what OUTPUT settled stays.
        let v = judged(
            &filter(
                "-A INPUT -p tcp -m tcp --dport 5672 -j ACCEPT\n-A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT\n-A OUTPUT -j ACCEPT\n",
            ),
            "10.0.0.2",
            "lo",
        );
        assert_eq!((v.verdict.as_str(), v.delivered_to), ("accept", None));
        let spread = redirect.replace("REDIRECT --to-ports 5673", "DNAT --to-destination 10.1.0.8-10.1.0.9");
        assert_eq!(judged(&spread, "10.0.0.9", "eth0").verdict, "depends");
    }

    #[test]
    fn routes_and_sources_decide() {
        let v = judged("", "10.9.1.1", "eth0");
        assert_eq!((v.verdict.as_str(), v.packet.as_str(), v.sees.as_str()), ("drop", "reply", "timeout"));
        assert_eq!(v.decided_by.unwrap().rule, "the route back to 10.9.1.1 is a blackhole one");
        let mut fw = host("", false);
        fw.model.routing.as_mut().unwrap().settings.rp_filter = Some(Map::from([("eth1".to_owned(), 1)]));
        let v = to(&fw, "8.8.8.8", "10.0.0.2", "eth1");
        assert_eq!((v.verdict.as_str(), v.packet.as_str(), v.sees.as_str()), ("drop", "syn", "timeout"));
        assert_eq!(v.decided_by.unwrap().table, "routing");
        // eth1 has a queueing discipline with filters of its own.
        assert_eq!(to(&fw, "10.1.0.9", "10.0.0.2", "eth1").verdict, "depends");
        assert_eq!(judged("", "10.0.0.3", "eth0").verdict, "drop");
        // The answer leaves by the interface of the route, whichever the question came by.
        let out = "*filter\n:OUTPUT DROP [0:0]\n-A OUTPUT -o eth0 -j ACCEPT\nCOMMIT\n";
        assert_ne!(judged(out, "8.8.8.8", "eth1").verdict, "drop");
        fw.model.routing.as_mut().unwrap().settings.connections = Some((65000, 65536));
        assert!(to(&fw, "10.0.0.9", "10.0.0.2", "eth0").depends_on[0].contains("65000 of 65536"));
    }

    #[test]
    fn neighbours_have_to_be_found() {
        let rules =
            |more: &str| format!("*filter\n:INPUT DROP [0:0]\n-A INPUT -p tcp -m tcp --dport 5672 -j ACCEPT\n{more}COMMIT\n");
        let judge = |save: &str, from: &str| to(&host(save, true), from, "fd00::2", "eth0");
        let v = judge(&rules(""), "fd00::9");
        assert_eq!((v.verdict.as_str(), v.packet.as_str(), v.sees.as_str()), ("drop", "neighbour", "unreachable"));
        assert_eq!(judge(&rules("-A INPUT -p ipv6-icmp -j ACCEPT\n"), "fd00::9").verdict, "accept");
        let one = "-A INPUT -p ipv6-icmp -m icmp6 --icmpv6-type 135 -j ACCEPT\n";
        assert_eq!(judge(&rules(one), "fd00::9").verdict, "accept");
        // From afar the router asks, by its link-local address.
        let local = "-A INPUT -s fe80::/10 -p ipv6-icmp -j ACCEPT\n";
        assert_eq!(judge(&rules(local), "2001:db8::1").verdict, "accept");
        assert_eq!(judge(&rules(local), "fd00::9").verdict, "drop");
        let output = "*filter\n:OUTPUT DROP [0:0]\n-A OUTPUT -p tcp -j ACCEPT\nCOMMIT\n";
        assert_eq!(judge(output, "fd00::9").packet, "neighbour");
        assert_eq!(to(&host(&rules(""), true), "::1", "::1", "lo").packet, "reply");
    }

    #[test]
    fn chains_beside_conntrack_are_judged_both_ways() {
        let at = |priority: i64, save: &str| {
            let mut fw = host(save, false);
            let chains = fw.model.tables.iter_mut().filter(|t| t.name == "mangle").flat_map(|t| &mut t.chains);
            chains.filter_map(|c| c.base.as_mut()).for_each(|b| b.priority = priority);
            to(&fw, "10.0.0.9", "10.0.0.2", "eth0")
        };
        let mangle = |rule: &str| format!("*mangle\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING {rule} -j DROP\nCOMMIT\n");
        let invalid = mangle("-m conntrack --ctstate INVALID");
        let verdicts = [-201, -200, -199].map(|priority| at(priority, &invalid));
        assert_eq!(verdicts.each_ref().map(|v| v.verdict.as_str()), ["drop", "depends", "accept"]);
        assert!(verdicts[1].depends_on[0].contains("connection tracking was registered"), "{:?}", verdicts[1]);
        assert_eq!(verdicts[1].outcomes.len(), 2);
        assert_eq!(at(-200, &mangle("-p tcp -m tcp --dport 5672")).verdict, "drop");
        assert_eq!(at(-200, &mangle("-p tcp -m tcp --dport 22")).verdict, "accept");
        let redirect =
            "*nat\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -p tcp -m tcp --dport 5672 -j REDIRECT --to-ports 5673\nCOMMIT\n";
        let both = format!("{redirect}{}", mangle("-p tcp -m tcp --dport 5672"));
        assert_eq!([-101, -100, -99].map(|priority| at(priority, &both).verdict), ["drop", "depends", "accept"]);
    }

    #[test]
    fn either_order_of_engines_is_compared_in_all_that_a_client_sees() {
        let two = |legacy: &str, nft: &str| {
            let mut fw = host(legacy, false);
            fw.model.tables.extend(iptables::tables(&iptables_save::parse(nft).unwrap(), Engine::IptablesNft, false));
            to(&fw, "10.0.0.9", "10.0.0.2", "eth0")
        };
        let redirect = |port: &str| DNAT.replace("DNAT --to-destination 10.1.0.9:5673", &format!("REDIRECT --to-ports {port}"));
        let v = two(&redirect("5673"), &redirect("5674"));
        assert_eq!((v.verdict.as_str(), v.sees.as_str()), ("depends", "connected"));
        assert!(v.depends_on[0].contains("iptables-legacy was registered before"), "{v:?}");
        assert_eq!(two(&redirect("5673"), &redirect("5673")).verdict, "accept");
    }

    #[test]
    fn resets_of_established_connections() {
        let rules = "*filter\n:INPUT ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n-A INPUT -p tcp -m conntrack --ctstate ESTABLISHED -j REJECT --reject-with tcp-reset\nCOMMIT\n";
        let v = judged(rules, "10.0.0.9", "eth0");
        assert_eq!((v.verdict.as_str(), v.packet.as_str(), v.sees.as_str()), ("reject", "established", "reset"));
        let silent = rules.replace("COMMIT", "-A OUTPUT -m conntrack --ctstate RELATED -j DROP\nCOMMIT");
        assert_eq!(judged(&silent, "10.0.0.9", "eth0").sees, "hangs");
    }

    #[test]
    fn jumps_and_counted_rules_are_told() {
        let rules = "*filter\n:INPUT ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n:one - [0:0]\n:two - [0:0]\n-A INPUT -j LOG\n-A INPUT -p tcp -j one\n-A one -p udp -j DROP\n-A one -p tcp -j two\n-A two -m tcp -p tcp --dport 5672 -j DROP\nCOMMIT\n";
        let v = judged(rules, "10.0.0.9", "eth0");
        let chains: Vec<_> = v.way.iter().map(|w| (w.chain.as_str(), w.handle_or_line)).collect();
        assert_eq!((v.verdict.as_str(), chains), ("drop", vec![("INPUT", Some(2)), ("one", Some(2))]));
        let packet = Packet {
            source: "10.0.0.9".parse().unwrap(),
            destination: "10.0.0.2".parse().unwrap(),
            port: 5672,
            interface: "eth0".to_owned(),
        };
        let fw = host(rules, false);
        let courses: Vec<Course> = fw.trace(&packet).known().unwrap().clone();
        let [course] = courses.as_slice() else { panic!("{courses:?}") };
        let names = |h: &Hit| (fw.model.tables[h.table].chains[h.chain].name.clone(), h.rule);
        let hits: Vec<_> = course.matched.iter().map(names).collect();
        let at = |chain: &str, rule| (chain.to_owned(), Some(rule));
        assert_eq!(hits, [at("INPUT", 0), at("INPUT", 1), at("one", 1), at("two", 0)]);
    }
}

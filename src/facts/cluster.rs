//! The cluster: its nodes, what they need of each other, feature flags and deprecated features. A node that is alone is a cluster of one.
//!
//! A running node tells it; of one that is down, its data directory (`cluster_nodes.config` and `nodes_running_at_shutdown` of
//! rabbit_node_monitor.erl, `NODE-feature_flags` of rabbit_feature_flags.erl).

use super::broker::{self, Asker};
use super::clients::interface_to;
use super::env::Env;
use super::firewall::Verdict;
use super::log::Event;
use super::names::{Names, resolve};
use super::net::Net;
use super::release::{self, Release};
use super::sockets::Socket;
use super::{Blank, Fact, Facts};
use crate::formats::cidr::Cidr;
use crate::formats::erlang::{self, Term};
use crate::host::rpc::{self, Call, EnvKey};
use crate::host::{Got, Host, MAX_CONF, Miss, optional, read_text};
use crate::policy::Intent;
use serde::Serialize;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// What is known about the cluster that this node is in.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Cluster {
    /// All nodes, this one included.
    pub members: Fact<Vec<String>>,
    /// Members that run; unknown while this node is down.
    pub running: Fact<Vec<String>>,
    /// Members that do not run as this node sees it; the others are known only while this node runs.
    pub down: Fact<Vec<String>>,
    /// Members that still ran when this node stopped: their data is newer, so it waits for one of them.
    pub stopped_later: Fact<Vec<String>>,
    /// Nodes that this node is partitioned from.
    pub partitions: Fact<Vec<String>>,
    /// ignore | pause_minority | autoheal | pause_if_all_down; null: the version has no such setting, or Khepri decides
    pub partition_handling: Fact<Option<String>>,
    /// The boot waits for other nodes; null: it does not.
    pub waiting: Fact<Option<Event>>,
    /// The last boot ended because the nodes disagree on who is in the cluster, or cannot run together; null: it did not.
    pub disagreement: Fact<Option<Event>>,
    /// The node has paused itself because it sees too few of the others; null: it has not.
    pub paused: Fact<Option<Event>>,
    /// Nodes (not command line tools) that were turned away because of their cookie since the start; the newest message.
    pub cookie_refused: Fact<Option<Event>>,
    pub flags: Flags,
    /// Deprecated features that are in use, and what becomes of them: `classic_queue_mirroring (permitted_by_default)`
    pub deprecated: Fact<Vec<String>>,
    /// Policies with keys of mirrored classic queues (`ha-mode`, …): `ha-all in vhost /`
    pub mirroring_policies: Fact<Vec<String>>,
    /// Port of the distribution listener.
    pub distribution_port: Fact<i64>,
    /// Why it is not 25672: `RABBITMQ_NODE_PORT` or `RABBITMQ_DIST_PORT`; null: it is.
    pub distribution_port_by: Option<String>,
    /// The policy names peers.
    pub declared: bool,
    /// Other members that neither the policy's addresses nor this host stand for; empty where the policy names no peer.
    pub undeclared: Fact<Vec<String>>,
    /// Members on other hosts whose name this host cannot resolve.
    pub unresolved: Fact<Vec<String>>,
    /// The ways of other nodes to this one: one for each peer's address and port.
    pub ways: Fact<Vec<Way>>,
}

/// Feature flags.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Flags {
    /// Where the node keeps those that are enabled.
    pub file: Fact<String>,
    /// Those that the file names; null: there is no file, which a new node has not yet.
    pub enabled: Fact<Option<Vec<String>>>,
    /// What is wrong with the file; null: nothing.
    pub problem: Fact<Option<String>>,
    /// Stable flags that the running node knows and that are not enabled.
    pub disabled: Fact<Vec<String>>,
    /// Flags without which the installed release does not start on this data.
    pub missing: Fact<Vec<String>>,
    /// Flags without which the next release of the distribution will not start on this data.
    pub missing_next: Fact<Vec<String>>,
    /// The oldest series that the data can be from; null: its flags do not tell.
    pub data_series: Fact<Option<String>>,
    /// The release that the data is from: dpkg's log, else the series that its flags tell; null: neither knows.
    pub came_from: Fact<Option<String>>,
    /// Series from there to the installed one, the last included: `3.11, 3.12, 3.13, 4.0`; empty: not known.
    pub path: Fact<String>,
}

/// The way of another node to a port of this host.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Way {
    /// Node name, or the network that the policy names.
    pub peer: String,
    /// Address or network.
    pub from: String,
    /// epmd | distribution
    pub service: String,
    pub port: i64,
    /// The policy names it.
    pub declared: bool,
    /// The peer is connected at this moment; null: not asked, it is known by its address alone.
    pub connected: Option<bool>,
    /// The interface that its packets come in by; empty: there is no route back.
    pub interface: String,
    /// open | blocked | depends | loopback-only | absent | no-route
    pub state: Fact<String>,
    /// What decides about it in the packet filter; null: nothing does.
    pub verdict: Fact<Option<Verdict>>,
}

/// Peers whose names are looked up, and networks of the policy that are evaluated: a cluster has three, five or seven nodes.
const MAX_PEERS: usize = 16;
/// Port of epmd unless ERL_EPMD_PORT says otherwise.
const EPMD_PORT: i64 = 4369;
/// Port of the distribution listener unless it is set.
const DISTRIBUTION_PORT: i64 = 25672;
/// What RabbitMQ adds to RABBITMQ_NODE_PORT for it.
const DISTRIBUTION_OFFSET: i64 = 20000;
/// From here on partitions are Khepri's business alone, whatever cluster_partition_handling says.
const KHEPRI_ALONE: &str = "4.3";
/// Deprecated features can be listed since.
const LISTS_DEPRECATED: &str = "3.13";

/// Derives it from the facts, asking the node, its data directory and the resolver for the rest.
pub fn derive(host: &dyn Host, facts: &Facts, intent: &Intent) -> Cluster {
    let look = Look { host, facts, asker: asker(host, facts) };
    let told = look.status();
    let members = look.members(told.as_ref());
    let running = look.running();
    let own = facts.names.node.known().cloned();
    let others = members.clone().map(|all| all.into_iter().filter(|n| Some(n) != own.as_ref()).collect::<Vec<_>>());
    let down = both(&others, &running, |others, running| others.iter().filter(|n| !running.contains(n)).cloned().collect());
    let peers = look.peers(&others, &running, intent);
    let (distribution_port, distribution_port_by) = look.distribution_port();
    Cluster {
        stopped_later: look.stopped_later(&others),
        partitions: told.as_ref().map_or_else(|why| Fact::Unknown(why.clone()), |status| partitions(status, own.as_deref())),
        partition_handling: look.partition_handling(),
        waiting: look.since_start(&["waiting-for-tables"], &["tables-timeout"]),
        disagreement: look.since_start(&[], &["inconsistent-cluster", "incompatible-nodes"]),
        paused: look.since_start(&["partition-pause"], &[]),
        cookie_refused: look.cookie_refused(),
        flags: look.flags(),
        deprecated: look.deprecated(),
        mirroring_policies: look.mirroring_policies(),
        declared: !intent.peers.is_empty(),
        undeclared: undeclared(&peers, intent, &facts.net),
        unresolved: peers.clone().map(|all| all.iter().filter(|p| p.unresolved()).map(|p| p.name.clone()).collect()),
        ways: look.ways(&peers, &distribution_port),
        distribution_port,
        distribution_port_by,
        members,
        running,
        down,
    }
}

/// What is asked, and of whom.
struct Look<'a> {
    host: &'a dyn Host,
    facts: &'a Facts,
    /// `Err`: why the node is not asked.
    asker: Result<Asker<'a>, String>,
}

/// Only a node that runs to the end has something to tell.
fn asker<'a>(host: &'a dyn Host, facts: &'a Facts) -> Result<Asker<'a>, String> {
    let node = match &facts.node {
        Fact::Known(Some(node)) if node.source == "rpc" => node,
        Fact::Known(Some(_)) => return Err("the node could not be asked over its distribution port".into()),
        Fact::Known(None) => return Err(NOT_RUNNING.into()),
        Fact::Unknown(why) => return Err(why.clone()),
    };
    match (&node.booted, &facts.process.beam) {
        (Fact::Known(true), Fact::Known(Some(beam))) => {
            let target = broker::target(beam, &facts.sockets, &facts.names).map_err(|miss| miss.to_string())?;
            Ok(Asker::new(host, target))
        }
        (Fact::Unknown(why), _) | (_, Fact::Unknown(why)) => Err(why.clone()),
        _ => Err(NOT_RUNNING.into()),
    }
}

const NOT_RUNNING: &str = "RabbitMQ is not running";

impl Look<'_> {
    fn version(&self) -> Option<&str> {
        let node = self.facts.node.known()?.as_ref()?;
        node.version.known().map(String::as_str)
    }

    fn since(&self, series: &str) -> bool {
        self.version().is_none_or(|version| release::order(version, series) != std::cmp::Ordering::Less)
    }

    fn ask<T>(&self, call: &Call, decode: impl FnOnce(&eetf::Term) -> Option<T>) -> Fact<T> {
        match &self.asker {
            Ok(asker) => asker.fact(call, decode),
            Err(why) => Fact::Unknown(why.clone()),
        }
    }

    /// `[{nodes, [{disc, Nodes}, {ram, Nodes}]}, {running_nodes, Nodes}, {cluster_name, Name}, {partitions, [{Node, Nodes}]}]`
    fn status(&self) -> Result<eetf::Term, String> {
        match self.ask(&Call::ClusterStatus, |term| Some(term.clone())) {
            Fact::Known(term) => Ok(term),
            Fact::Unknown(why) => Err(why),
        }
    }

    fn members(&self, status: Result<&eetf::Term, &String>) -> Fact<Vec<String>> {
        let listed = |status: &eetf::Term| {
            let nodes = rpc::field(status, "nodes")?;
            let of_kind = |(_, nodes): &(eetf::Term, eetf::Term)| broker::texts(nodes);
            let all: Option<Vec<Vec<String>>> = rpc::pairs(nodes).iter().map(of_kind).collect();
            Some(all?.concat())
        };
        match status {
            Ok(status) => {
                listed(status).map_or_else(|| Fact::Unknown("the cluster's status was not understood".into()), Fact::Known)
            }
            Err(why) => self.told_by_files("cluster_nodes.config", members_of).map_or_else(
                |miss| Fact::Unknown(format!("{why}; {miss}")),
                // No such file: a node that never ran, or one whose metadata store is Khepri.
                |found| match (found, self.khepri_data()) {
                    (Some(members), _) => Fact::Known(members),
                    (None, Some(false)) => Fact::Known(self.facts.names.node.known().cloned().into_iter().collect()),
                    (None, _) => Fact::Unknown(why.clone()),
                },
            ),
        }
    }

    /// Whether the data is kept by Khepri, as the flags file tells; `None`: it does not.
    fn khepri_data(&self) -> Option<bool> {
        let (enabled, _) = self.flags_file().1.ok()?;
        Some(enabled.is_some_and(|flags| flags.iter().any(|flag| flag == "khepri_db")))
    }

    fn running(&self) -> Fact<Vec<String>> {
        match (&self.asker, &self.facts.node) {
            (Ok(_), Fact::Known(Some(node))) => node.running_nodes.clone(),
            (Err(why), _) => Fact::Unknown(why.clone()),
            _ => Fact::Unknown(NOT_RUNNING.into()),
        }
    }

    fn stopped_later(&self, others: &Fact<Vec<String>>) -> Fact<Vec<String>> {
        let ran = match self.told_by_files("nodes_running_at_shutdown", names_of) {
            Ok(ran) => ran.unwrap_or_default(),
            Err(miss) => return miss.into(),
        };
        others.clone().map(|others| others.into_iter().filter(|n| ran.contains(n)).collect())
    }

    /// A file of the data directory that holds one term; `None`: there is none.
    fn told_by_files(&self, name: &str, decode: impl FnOnce(&Term) -> Option<Vec<String>>) -> Got<Option<Vec<String>>> {
        let file = data_dir(&self.facts.env, &self.facts.names)?.join(name);
        let Some(text) = small_text(self.host, &file)? else { return Ok(None) };
        let what = file.display().to_string();
        let terms = erlang::consult(&text).map_err(|e| Miss::failed(&what, e))?;
        let term = terms.first().ok_or_else(|| Miss::failed(&what, "empty"))?;
        decode(term).map(Some).ok_or_else(|| Miss::failed(what, "not understood"))
    }

    fn partition_handling(&self) -> Fact<Option<String>> {
        let khepri = self.facts.node.known().and_then(|n| n.as_ref()?.khepri.known().copied());
        if self.asker.is_ok() && (khepri == Some(true) || self.since(KHEPRI_ALONE) && self.version().is_some()) {
            return Fact::Known(None);
        }
        match &self.asker {
            // `{pause_if_all_down, Nodes, Recover}`
            Ok(asker) => asker.setting(EnvKey::ClusterPartitionHandling, |value| {
                Some(value.and_then(|v| rpc::text(rpc::elements(v).first().unwrap_or(v))))
            }),
            Err(why) => Fact::Unknown(why.clone()),
        }
    }

    fn deprecated(&self) -> Fact<Vec<String>> {
        if self.asker.is_ok() && !self.since(LISTS_DEPRECATED) {
            return Fact::Known(Vec::new());
        }
        self.ask(&Call::DeprecatedInUse, |term| {
            let one = |info: &eetf::Term| {
                let (name, phase) = (rpc::field(info, "name")?, rpc::field(info, "deprecation_phase")?);
                Some(format!("{} ({})", rpc::text(name)?, rpc::text(phase)?))
            };
            rpc::items(term)?.iter().map(one).collect()
        })
    }

    /// See [`rpc::Call::pare`] for what is kept of a policy.
    fn mirroring_policies(&self) -> Fact<Vec<String>> {
        self.ask(&Call::Policies, |term| {
            let mirrors = |policy: &eetf::Term| {
                let keys = rpc::field(policy, "definition").and_then(broker::texts).unwrap_or_default();
                keys.iter().any(|key| key.starts_with("ha-"))
            };
            let named = |policy: &eetf::Term| {
                let (name, vhost) = (rpc::field(policy, "name")?, rpc::field(policy, "vhost")?);
                Some(format!("{} in vhost {}", rpc::text(name)?, rpc::text(vhost)?))
            };
            rpc::items(term)?.iter().filter(|p| mirrors(p)).map(named).collect()
        })
    }

    // --- the log

    /// The newest message of these signatures since the broker's process started that no completed boot follows, or the reason of the last
    /// failed boot if it is one of `failures`. Null while the node has booted to the end.
    fn since_start(&self, signatures: &[&str], failures: &[&str]) -> Fact<Option<Event>> {
        let booted = self.facts.node.known().and_then(|n| n.as_ref()?.booted.known().copied());
        if booted == Some(true) {
            return Fact::Known(None);
        }
        let log = &self.facts.log;
        let events = match &log.events {
            Fact::Known(events) => events,
            Fact::Unknown(why) => return Fact::Unknown(why.clone()),
        };
        let started = self.facts.process.beam.known().and_then(|beam| beam.as_ref().map(|b| b.started));
        // What has no time may be of an earlier boot, wherever it stands.
        let finished = events.iter().rposition(|e| e.signature == "boot-completed" && e.time.is_some());
        let last = events.iter().rposition(|e| signatures.contains(&e.signature.as_str()));
        // A node pauses long after its boot.
        let after_boot = signatures.contains(&"partition-pause");
        let fits = |i: usize| after_boot || finished.is_none_or(|done| done < i);
        if let (Some(i), Some(started)) = (last.filter(|i| fits(*i)), started)
            && events[i].time.is_none_or(|time| time >= started - 1)
        {
            return Fact::Known(Some(events[i].clone()));
        }
        match &log.boot_failure {
            Fact::Known(Some(event)) if failures.contains(&event.signature.as_str()) => Fact::Known(Some(event.clone())),
            Fact::Known(_) => Fact::Known(None),
            Fact::Unknown(_) if failures.is_empty() => Fact::Known(None),
            Fact::Unknown(why) => Fact::Unknown(why.clone()),
        }
    }

    /// `Connection attempt from node 'rabbit@mq2' rejected. Invalid challenge reply.`
    fn cookie_refused(&self) -> Fact<Option<Event>> {
        let started = self.facts.process.beam.known().and_then(|beam| beam.as_ref().map(|b| b.started)).unwrap_or(0);
        let of_a_node = |e: &&Event| {
            let tool = e.text.contains("rabbitmqcli") || e.text.contains("rabbitmq-cli");
            e.signature == "cookie-mismatch" && !tool && e.time.is_none_or(|time| time >= started)
        };
        self.facts.log.events.as_ref().map(|events| events.iter().rev().find(of_a_node).cloned())
    }

    // --- feature flags

    /// Where the file is, and the flags that it names with what is wrong with it.
    fn flags_file(&self) -> (Got<PathBuf>, Got<FlagsFile>) {
        let path = flags_path(&self.facts.env, &self.facts.names);
        let content = path.clone().and_then(|path| Ok(small_text(self.host, &path)?.map(|text| read_flags(&text))));
        let split = content.map(|found| match found {
            None => (None, None),
            Some(Ok(flags)) => (Some(flags), None),
            Some(Err(why)) => (None, Some(why)),
        });
        (path, split)
    }

    fn flags(&self) -> Flags {
        let (path, content) = self.flags_file();
        let (enabled, problem) = match content {
            Ok((enabled, problem)) => (Fact::Known(enabled), Fact::Known(problem)),
            Err(miss) => (Fact::from(miss.clone()), Fact::from(miss)),
        };
        let release = self.facts.release.as_ref();
        let lacking = |required: Vec<String>, enabled: &Option<Vec<String>>| match enabled {
            // A node without the file counts as new, and has all of them.
            None => Vec::new(),
            Some(flags) => required.into_iter().filter(|flag| !flags.contains(flag)).collect(),
        };
        let missing = both(&release, &enabled, |release, enabled| {
            release.as_ref().map_or_else(Vec::new, |r| lacking(release::required_flags(&r.series), enabled))
        });
        let missing_next = both(&release, &enabled, |release, enabled| {
            let next = release.as_ref().and_then(|r| r.next.as_ref());
            next.map_or_else(Vec::new, |next| lacking(next.required.clone(), enabled))
        });
        let data_series = enabled.clone().map(|e| release::oldest_with(&e.unwrap_or_default()).map(str::to_owned));
        let came_from = both(&release, &data_series, |release, series| came_from(release.as_ref(), series.clone()));
        let path_from = both(&release, &came_from, |release, from| {
            let to = release.as_ref().map(|r| r.series.as_str()).unwrap_or_default();
            let from = from.as_deref().map(release::series_of).unwrap_or_default();
            release::upgrade_path(&from, to).join(", ")
        });
        Flags {
            file: path.map(|path| path.display().to_string()).into(),
            disabled: self.ask(&Call::FeatureFlags, disabled_flags),
            enabled,
            problem,
            missing,
            missing_next,
            data_series,
            came_from,
            path: path_from,
        }
    }

    // --- peers

    fn distribution_port(&self) -> (Fact<i64>, Option<String>) {
        if let Fact::Known(Some(beam)) = &self.facts.process.beam
            && let Some(port) = broker::follows(&beam.args, "inet_dist_listen_min").and_then(|port| port.parse().ok())
        {
            let by = self.configured_port().ok().and_then(|(configured, by)| by.filter(|_| configured == port));
            return (Fact::Known(port), by);
        }
        match self.configured_port() {
            Ok((port, by)) => (Fact::Known(port), by),
            Err(why) => (Fact::Unknown(why), None),
        }
    }

    fn configured_port(&self) -> Result<(i64, Option<String>), String> {
        let vars = match &self.facts.env.vars {
            Fact::Known(vars) => vars,
            Fact::Unknown(why) => return Err(why.clone()),
        };
        for (name, added) in [("DIST_PORT", 0), ("NODE_PORT", DISTRIBUTION_OFFSET)] {
            match vars.get(name).map(|var| &var.value) {
                Some(Fact::Unknown(why)) => return Err(why.clone()),
                Some(Fact::Known(value)) => {
                    if let Ok(port) = value.parse::<i64>() {
                        let port = port + added;
                        return Ok((port, (port != DISTRIBUTION_PORT).then(|| format!("RABBITMQ_{name}"))));
                    }
                }
                None => {}
            }
        }
        Ok((DISTRIBUTION_PORT, None))
    }

    fn peers(&self, others: &Fact<Vec<String>>, running: &Fact<Vec<String>>, intent: &Intent) -> Fact<Vec<Peer>> {
        let others = match others {
            Fact::Known(others) => others.as_slice(),
            // The policy's addresses can be judged without knowing the nodes.
            Fact::Unknown(_) if !intent.peers.is_empty() => &[],
            Fact::Unknown(why) => return Fact::Unknown(why.clone()),
        };
        let mut peers: Vec<Peer> = Vec::new();
        let mut slow: Option<Miss> = None;
        for node in others.iter().take(MAX_PEERS) {
            let (_, name) = node.split_once('@').unwrap_or(("", node));
            let own = self.facts.names.node_host.known().is_some_and(|own| own == name);
            // A resolver that does not answer is asked once.
            let addresses = match (own, &slow) {
                (true, _) => Ok(Vec::new()),
                (false, Some(miss)) => Err(miss.clone()),
                (false, None) => resolve(self.host, name),
            };
            if let Err(miss @ Miss::Timeout { .. }) = &addresses {
                slow = Some(miss.clone());
            }
            let connected = running.known().map(|running| running.contains(node));
            peers.push(Peer { name: node.clone(), own, connected, addresses: addresses.into(), declared: false });
        }
        for network in intent.peers.iter().take(MAX_PEERS) {
            let addresses = Fact::Known(vec![network.clone()]);
            peers.push(Peer { name: network.clone(), own: false, connected: None, addresses, declared: true });
        }
        Fact::Known(peers)
    }

    fn ways(&self, peers: &Fact<Vec<Peer>>, distribution: &Fact<i64>) -> Fact<Vec<Way>> {
        let (peers, port, sockets) = match (peers, distribution, &self.facts.sockets) {
            (Fact::Known(peers), Fact::Known(port), Fact::Known(sockets)) => (peers, *port, sockets),
            (Fact::Unknown(why), ..) | (_, Fact::Unknown(why), _) | (.., Fact::Unknown(why)) => {
                return Fact::Unknown(why.clone());
            }
        };
        let mut ways: Vec<Way> = Vec::new();
        for peer in peers.iter().filter(|p| !p.own) {
            for from in peer.addresses.known().into_iter().flatten().filter(|a| !self.is_local(a)) {
                for (service, port) in [("epmd", EPMD_PORT), ("distribution", port)] {
                    if !ways.iter().any(|w| w.from == *from && w.service == service) {
                        ways.push(self.way(peer, from, service, port, sockets));
                    }
                }
            }
        }
        Fact::Known(ways)
    }

    fn is_local(&self, address: &str) -> bool {
        let own = self.facts.net.addresses.known();
        let loopback = address.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
        loopback || own.is_some_and(|all| all.iter().any(|a| a.address == address))
    }

    fn way(&self, peer: &Peer, from: &str, service: &str, port: i64, sockets: &[Socket]) -> Way {
        let way = |interface: String, state: Fact<String>, verdict: Fact<Option<Verdict>>| Way {
            peer: peer.name.clone(),
            from: from.to_owned(),
            service: service.to_owned(),
            port,
            declared: peer.declared,
            connected: peer.connected,
            interface,
            state,
            verdict,
        };
        let (interface, verdict) = match self.verdict(from, port) {
            Ok(Some(found)) => found,
            Ok(None) => return way(String::new(), Fact::Known("no-route".into()), Fact::Known(None)),
            Err(why) => return way(String::new(), Fact::Unknown(why.clone()), Fact::Unknown(why)),
        };
        let open: Vec<&Socket> = sockets.iter().filter(|s| s.port == port).collect();
        let state = match verdict.verdict.as_str() {
            "drop" | "reject" => "blocked",
            "depends" => "depends",
            _ if open.is_empty() => "absent",
            _ if open.iter().all(|s| s.loopback) => "loopback-only",
            _ => "open",
        };
        way(interface, Fact::Known(state.to_owned()), Fact::Known(Some(verdict)))
    }

    /// The interface that it comes in by, and what becomes of it there; `None`: there is no route back to it.
    fn verdict(&self, from: &str, port: i64) -> Result<Option<(String, Verdict)>, String> {
        fn known<T>(fact: &Fact<T>) -> Result<&T, String> {
            fact.known().ok_or_else(|| fact.why().unwrap_or_default().to_owned())
        }
        let (addresses, routes) = (known(&self.facts.net.addresses)?, known(&self.facts.net.routes)?);
        let firewall = known(&self.facts.firewall)?;
        let source = Cidr::parse(from).ok_or_else(|| format!("{from} is no address"))?.first_host();
        let Some(interface) = interface_to(addresses, routes, source) else { return Ok(None) };
        let usable = |a: &&super::net::Address| a.up && a.v6 == source.is_ipv6() && a.scope == "global";
        let on = addresses.iter().filter(usable);
        let to = on.clone().find(|a| a.interface == interface).or_else(|| on.clone().next());
        let Some(to) = to.and_then(|a| a.address.parse().ok()) else { return Ok(None) };
        let port = u16::try_from(port).map_err(|_| format!("{port} is not a port"))?;
        match firewall.verdict_for_network(from, to, port, &interface) {
            Fact::Known(verdict) => Ok(Some((interface, verdict))),
            Fact::Unknown(why) => Err(why),
        }
    }
}

/// Another node, or a network that the policy says holds one.
#[derive(Debug, Clone)]
struct Peer {
    name: String,
    /// On this host.
    own: bool,
    connected: Option<bool>,
    addresses: Fact<Vec<String>>,
    declared: bool,
}

impl Peer {
    fn unresolved(&self) -> bool {
        !self.own && !self.declared && self.addresses.known().is_some_and(Vec::is_empty)
    }
}

/// The flags that a file names, and what is wrong with it.
type FlagsFile = (Option<Vec<String>>, Option<String>);

fn both<A, B, T>(a: &Fact<A>, b: &Fact<B>, f: impl FnOnce(&A, &B) -> T) -> Fact<T> {
    match (a, b) {
        (Fact::Known(a), Fact::Known(b)) => Fact::Known(f(a, b)),
        (Fact::Unknown(why), _) | (_, Fact::Unknown(why)) => Fact::Unknown(why.clone()),
    }
}

/// dpkg knows the exact release, if its last upgrade led to the one that is installed and its series is not older than the data.
fn came_from(release: Option<&Release>, data: Option<String>) -> Option<String> {
    let upgraded = release.and_then(|r| Some((r, r.upgraded.known()?.as_ref()?)));
    let exact = upgraded.filter(|(r, u)| {
        let newer =
            data.as_ref().is_some_and(|data| release::order(&release::series_of(&u.from), data) == std::cmp::Ordering::Less);
        u.to == r.version && !newer
    });
    exact.map(|(_, upgraded)| upgraded.from.clone()).or(data)
}

/// Members of other hosts that no address of the policy stands for. Only as good as the names resolve.
fn undeclared(peers: &Fact<Vec<Peer>>, intent: &Intent, net: &Net) -> Fact<Vec<String>> {
    let declared: Vec<Cidr> = intent.peers.iter().filter_map(|p| Cidr::parse(p)).collect();
    if declared.is_empty() {
        return Fact::Known(Vec::new());
    }
    let own = |address: &str| net.addresses.known().is_some_and(|all| all.iter().any(|a| a.address == address));
    let covered = |address: &String| {
        let ip = address.parse::<IpAddr>();
        ip.is_ok_and(|ip| ip.is_loopback() || declared.iter().any(|network| network.contains(ip))) || own(address)
    };
    let stranger = |peer: &&Peer| match &peer.addresses {
        Fact::Known(addresses) => !peer.own && !peer.declared && !addresses.is_empty() && !addresses.iter().any(covered),
        Fact::Unknown(_) => false,
    };
    peers.clone().map(|all| all.iter().filter(stranger).map(|p| p.name.clone()).collect())
}

/// `[{partitions, [{Node, [Nodes]}]}]`: those that this node cannot see.
fn partitions(status: &eetf::Term, own: Option<&str>) -> Fact<Vec<String>> {
    let mut found = BTreeSet::new();
    for (node, others) in rpc::field(status, "partitions").map(rpc::pairs).unwrap_or_default() {
        let mut all = broker::texts(&others).unwrap_or_default();
        all.extend(rpc::text(&node));
        found.extend(all);
    }
    Fact::Known(found.into_iter().filter(|node| Some(node.as_str()) != own).collect())
}

/// `[[{name, Name}, …, {state, enabled | disabled | …}, {stability, stable | experimental | required}, …]]`
fn disabled_flags(term: &eetf::Term) -> Option<Vec<String>> {
    let mut disabled = Vec::new();
    for flag in rpc::items(term)? {
        let of = |key: &str| rpc::field(flag, key).and_then(rpc::text);
        // Before 3.11 every flag is stable.
        let stable = of("stability").is_none_or(|stability| stability != "experimental");
        if of("state")? == "disabled" && stable {
            disabled.push(of("name")?);
        }
    }
    Some(disabled)
}

/// `{All, Disc}`, in old files a list of nodes.
fn members_of(term: &Term) -> Option<Vec<String>> {
    names_of(term.tuple().and_then(<[Term]>::first).unwrap_or(term))
}

fn names_of(term: &Term) -> Option<Vec<String>> {
    // `[]` may be read as an empty string.
    match (term.list(), term.text()) {
        (Some(list), _) => list.iter().map(|t| t.atom().map(str::to_owned)).collect(),
        (None, Some(text)) if text.is_empty() => Some(Vec::new()),
        _ => None,
    }
}

fn read_flags(text: &str) -> Result<Vec<String>, String> {
    let terms = erlang::consult(text).map_err(|e| e.to_string())?;
    let list = terms.first().ok_or("it is empty")?;
    names_of(list).ok_or_else(|| "it holds something else than a list of flags".to_owned())
}

/// The data directory of the node (RABBITMQ_MNESIA_DIR, else the node's name in RABBITMQ_MNESIA_BASE).
fn data_dir(env: &Env, names: &Names) -> Got<PathBuf> {
    super::files::node_dir(env, names)
}

/// RABBITMQ_FEATURE_FLAGS_FILE, else `NODE-feature_flags` beside the data directory (rabbit_env.erl).
fn flags_path(env: &Env, names: &Names) -> Got<PathBuf> {
    if let Some(path) = super::files::path_var(env, "FEATURE_FLAGS_FILE")? {
        return Ok(path);
    }
    let dir = data_dir(env, names)?;
    let name =
        names.node.known().cloned().ok_or_else(|| Miss::failed("the node's name", names.node.why().unwrap_or_default()))?;
    Ok(dir.parent().unwrap_or(Path::new("/")).join(format!("{name}-feature_flags")))
}

/// `None`: no such file.
fn small_text(host: &dyn Host, path: &Path) -> Got<Option<String>> {
    match optional(host.stat(path, true))? {
        None => Ok(None),
        Some(meta) if meta.size > MAX_CONF => Err(Miss::TooBig { what: path.display().to_string(), limit: MAX_CONF }),
        Some(_) => optional(read_text(host, path)),
    }
}

impl Blank for Cluster {
    fn blank(why: &str) -> Self {
        Cluster {
            members: Fact::blank(why),
            running: Fact::blank(why),
            down: Fact::blank(why),
            stopped_later: Fact::blank(why),
            partitions: Fact::blank(why),
            partition_handling: Fact::blank(why),
            waiting: Fact::blank(why),
            disagreement: Fact::blank(why),
            paused: Fact::blank(why),
            cookie_refused: Fact::blank(why),
            flags: Flags {
                file: Fact::blank(why),
                enabled: Fact::blank(why),
                problem: Fact::blank(why),
                disabled: Fact::blank(why),
                missing: Fact::blank(why),
                missing_next: Fact::blank(why),
                data_series: Fact::blank(why),
                came_from: Fact::blank(why),
                path: Fact::blank(why),
            },
            deprecated: Fact::blank(why),
            mirroring_policies: Fact::blank(why),
            distribution_port: Fact::blank(why),
            distribution_port_by: None,
            declared: false,
            undeclared: Fact::blank(why),
            unresolved: Fact::blank(why),
            ways: Fact::blank(why),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::conf::tests::environment;
    use crate::host::fake::Fake;
    use crate::host::rpc::{atom, binary, tuple};
    use eetf::List;

    const BASE: &str = "/var/lib/rabbitmq/mnesia";

    fn names_of_mq1() -> Names {
        let mut names = Names::blank("test");
        names.node = Fact::Known("rabbit@mq1".into());
        names.node_host = Fact::Known("mq1".into());
        names
    }

    #[test]
    fn files_tell_the_nodes_of_one_that_is_down() {
        let all = erlang::consult("{[rabbit@mq1,'rabbit@mq-2'],[rabbit@mq1]}.\n").unwrap();
        assert_eq!(members_of(&all[0]), Some(vec!["rabbit@mq1".into(), "rabbit@mq-2".into()]));
        let old = erlang::consult("[rabbit@mq1].\n").unwrap();
        assert_eq!(members_of(&old[0]), Some(vec!["rabbit@mq1".into()]));
        assert_eq!(members_of(&erlang::consult("{x,1}.").unwrap()[0]), None);
    }

    #[test]
    fn the_flags_file_is_read_and_its_faults_told() {
        assert_eq!(read_flags("[quorum_queue,\n 'rabbitmq_4.0.0'].\n"), Ok(vec!["quorum_queue".into(), "rabbitmq_4.0.0".into()]));
        assert_eq!(read_flags("[].\n"), Ok(Vec::new()));
        assert!(read_flags("").is_err_and(|why| why == "it is empty"));
        assert!(read_flags("[quorum_queue,").is_err());
        assert!(read_flags("{ok}.").is_err_and(|why| why.contains("something else")));
    }

    #[test]
    fn the_flags_file_is_beside_the_data() {
        let path = |vars: &[(&str, &str)]| flags_path(&environment(vars), &names_of_mq1()).map(|p| p.display().to_string());
        assert_eq!(path(&[]), Ok(format!("{BASE}/rabbit@mq1-feature_flags")));
        assert_eq!(path(&[("MNESIA_BASE", "/srv")]), Ok("/srv/rabbit@mq1-feature_flags".into()));
        assert_eq!(path(&[("FEATURE_FLAGS_FILE", "/srv/flags")]), Ok("/srv/flags".into()));
        assert!(flags_path(&environment(&[]), &Names::blank("no name")).is_err());
    }

    #[test]
    fn flags_that_are_stable_and_not_enabled() {
        let flag = |name: &str, state: &str, stability: Option<&str>| -> eetf::Term {
            let mut fields = vec![tuple([atom("name"), atom(name)]), tuple([atom("state"), atom(state)])];
            fields.extend(stability.map(|s| tuple([atom("stability"), atom(s)])));
            List::from(fields).into()
        };
        let all = List::from(vec![
            flag("a", "enabled", Some("required")),
            flag("b", "disabled", Some("stable")),
            flag("khepri_db", "disabled", Some("experimental")),
            flag("of_3_8", "disabled", None),
        ]);
        assert_eq!(disabled_flags(&all.into()), Some(vec!["b".into(), "of_3_8".into()]));
        assert_eq!(disabled_flags(&binary("x")), None);
    }

    #[test]
    fn partitions_are_told_from_both_sides() {
        let list = |nodes: &[&str]| eetf::Term::from(List::from(nodes.iter().map(|n| atom(n)).collect::<Vec<_>>()));
        let split = List::from(vec![tuple([atom("rabbit@mq1"), list(&["rabbit@mq2"])])]);
        let status: eetf::Term = List::from(vec![tuple([atom("partitions"), split.into()])]).into();
        assert_eq!(partitions(&status, Some("rabbit@mq1")), Fact::Known(vec!["rabbit@mq2".into()]));
        assert_eq!(partitions(&List::nil().into(), None), Fact::Known(Vec::new()));
    }

    #[test]
    fn members_are_covered_by_the_policy_or_not() {
        let net = super::super::net::collect(&Fake::new().address("eth0", "10.0.0.5", 24));
        let peer = |name: &str, addresses: &[&str]| Peer {
            name: name.into(),
            own: false,
            connected: None,
            addresses: Fact::Known(addresses.iter().map(|a| (*a).to_owned()).collect()),
            declared: false,
        };
        let all = Fact::Known(vec![
            peer("rabbit@mq2", &["10.0.0.2"]),
            peer("rabbit@mq3", &["10.0.0.3"]),
            peer("rabbit@here", &["127.0.1.1"]),
            peer("rabbit@gone", &[]),
        ]);
        let intent = Intent { peers: vec!["10.0.0.2".into()], ..Intent::default() };
        assert_eq!(undeclared(&all, &intent, &net), Fact::Known(vec!["rabbit@mq3".into()]));
        assert_eq!(undeclared(&all, &Intent::default(), &net), Fact::Known(Vec::new()));
        assert!(all.known().is_some_and(|all| all.iter().filter(|p| p.unresolved()).count() == 1));
    }

    #[test]
    fn where_data_came_from() {
        let mut release = Release {
            version: "4.0.5".into(),
            series: "4.0".into(),
            community_until: None,
            ended: false,
            packaged_by: None,
            erlang: Fact::Known(None),
            erlang_range: None,
            erlang_fit: Fact::Known("fits".into()),
            next: None,
            upgraded: Fact::Known(None),
        };
        assert_eq!(came_from(Some(&release), Some("3.10".into())), Some("3.10".into()));
        let at = super::super::Where { file: "/var/log/dpkg.log".into(), line: None, column: None };
        let upgraded = |from: &str, to: &str| {
            let (from, to) = (from.to_owned(), to.to_owned());
            Fact::Known(Some(release::Upgraded { from, to, time: String::new(), at: at.clone() }))
        };
        release.upgraded = upgraded("3.10.8", "4.0.5");
        assert_eq!(came_from(Some(&release), Some("3.10".into())), Some("3.10.8".into()));
        assert_eq!(came_from(Some(&release), Some("3.12".into())), Some("3.12".into()), "the data is younger than that upgrade");
        release.upgraded = upgraded("3.10.8", "3.11.1");
        assert_eq!(came_from(Some(&release), None), None, "another upgrade than to what is installed");
    }
}

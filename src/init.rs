//! What `rmq-audit init` proposes and writes: a policy drawn from what is seen on the host.
//!
//! Nothing here asks or writes; see verbs/init.rs.

use crate::facts::broker::{self, Connected};
use crate::facts::{Fact, Facts};
use crate::formats::cidr::Cidr;
use crate::host::Host;
use crate::policy::SERVICES;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use toml_edit::{Array, ArrayOfTables, DocumentMut, Item, Table, value};

/// A `[[clients]]` entry to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draft {
    pub name: String,
    pub from: Vec<String>,
    pub service: String,
    pub user: Option<String>,
    pub vhost: String,
}

/// What the host shows of who uses it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// Those who are connected from other hosts at this moment, one for each user and vhost.
    pub connected: Vec<Draft>,
    /// Networks that this host is in.
    pub networks: Vec<String>,
    /// Services that listen for other hosts, the likeliest first.
    pub services: Vec<String>,
    /// Users with permissions who may log in from other hosts.
    pub users: Vec<String>,
    /// Addresses of the cluster's other nodes.
    pub peers: Vec<String>,
}

/// More addresses than these are proposed as their network.
const MAX_ADDRESSES: usize = 4;

impl Seen {
    /// Looks at the facts, and asks the node who is connected.
    pub fn on(host: &dyn Host, facts: &Facts) -> Seen {
        let networks = networks(facts);
        let target = match (&facts.node, &facts.process.beam) {
            (Fact::Known(Some(_)), Fact::Known(Some(beam))) => broker::target(beam, &facts.sockets, &facts.names).ok(),
            _ => None,
        };
        let connected = target.and_then(|target| broker::connected(host, target).ok()).unwrap_or_default();
        let services = services(facts);
        let service = services.iter().find(|s| ["amqp", "amqps"].contains(&s.as_str())).map_or("amqp", String::as_str);
        Seen { connected: drafts(&connected, &networks, service), users: users(facts), peers: peers(facts), networks, services }
    }
}

/// One for each user and vhost, with the addresses that they come from, or the networks of ours that hold these where they are many.
fn drafts(connected: &[Connected], networks: &[String], service: &str) -> Vec<Draft> {
    let mut groups: BTreeMap<(&str, &str), BTreeSet<IpAddr>> = BTreeMap::new();
    for one in connected.iter().filter(|c| !c.from.is_loopback()) {
        groups.entry((&one.user, &one.vhost)).or_default().insert(one.from);
    }
    let single = |user: &str| groups.keys().filter(|(other, _)| *other == user).count() == 1;
    let draft = |((user, vhost), from): (&(&str, &str), &BTreeSet<IpAddr>)| Draft {
        name: if single(user) { (*user).to_owned() } else { format!("{user} in {vhost}") },
        from: sources(from, networks),
        service: service.to_owned(),
        user: Some((*user).to_owned()),
        vhost: (*vhost).to_owned(),
    };
    groups.iter().map(draft).collect()
}

fn sources(addresses: &BTreeSet<IpAddr>, networks: &[String]) -> Vec<String> {
    if addresses.len() <= MAX_ADDRESSES {
        return addresses.iter().map(ToString::to_string).collect();
    }
    let holding = |address: &IpAddr| networks.iter().find(|n| Cidr::parse(n).is_some_and(|n| n.contains(*address))).cloned();
    let wide: BTreeSet<String> = addresses.iter().map(|a| holding(a).unwrap_or_else(|| a.to_string())).collect();
    wide.into_iter().collect()
}

fn networks(facts: &Facts) -> Vec<String> {
    let usable = |a: &&crate::facts::net::Address| a.up && a.scope == "global" && a.prefix < if a.v6 { 128 } else { 32 };
    let network = |a: &crate::facts::net::Address| Cidr::parse(&format!("{}/{}", a.address, a.prefix)).map(|n| n.to_string());
    let mut found: Vec<String> = facts.net.addresses.known().into_iter().flatten().filter(usable).filter_map(network).collect();
    found.dedup();
    found
}

fn services(facts: &Facts) -> Vec<String> {
    let listening = |service: &str| {
        let all = facts.listeners.known().into_iter().flatten();
        all.filter(|l| !l.loopback).any(|l| l.service == service && l.state.known().is_some_and(|state| state == "listening"))
    };
    SERVICES.iter().map(|(name, _)| *name).filter(|name| listening(name)).map(str::to_owned).collect()
}

fn users(facts: &Facts) -> Vec<String> {
    let Some(node) = facts.node.known().and_then(Option::as_ref) else { return Vec::new() };
    let permitted = |name: &str| node.permissions.known().is_some_and(|all| all.iter().any(|p| p.user == name));
    let users = node.users.known().into_iter().flatten();
    users.filter(|u| u.loopback_only.known() != Some(&true) && permitted(&u.name)).map(|u| u.name.clone()).collect()
}

fn peers(facts: &Facts) -> Vec<String> {
    let ways = facts.cluster.ways.known().into_iter().flatten();
    ways.filter(|w| !w.declared).map(|w| w.from.clone()).collect::<BTreeSet<_>>().into_iter().collect()
}

/// What leads a policy that was not there before.
const HEAD: &str =
    "# Who must be able to connect to this broker. This file must belong to root and be writable by nobody else.\n";

/// The policy with these entries added: what else it says, comments included, stays as it is. `Err`: it is no TOML, or not that of a policy.
pub fn written(existing: Option<&str>, clients: &[Draft], peers: &[String]) -> Result<String, String> {
    let mut document: DocumentMut = existing.unwrap_or(HEAD).parse().map_err(|e: toml_edit::TomlError| e.to_string())?;
    if !clients.is_empty() {
        let tables = document.entry("clients").or_insert(Item::ArrayOfTables(ArrayOfTables::new()));
        let tables = tables.as_array_of_tables_mut().ok_or("`clients` is not written as [[clients]]")?;
        for client in clients {
            tables.push(table(client));
        }
    }
    if !peers.is_empty() {
        let cluster = document.entry("cluster").or_insert(Item::Table(Table::new()));
        let cluster = cluster.as_table_mut().ok_or("`cluster` is not written as [cluster]")?;
        let list = cluster.entry("peers").or_insert(value(Array::new()));
        let list = list.as_array_mut().ok_or("`peers` is no list")?;
        let known: Vec<String> = list.iter().filter_map(|v| v.as_str().map(str::to_owned)).collect();
        for peer in peers.iter().filter(|peer| !known.contains(peer)) {
            list.push(peer.as_str());
        }
    }
    Ok(leading_comments_first(document.to_string(), existing))
}

fn table(client: &Draft) -> Table {
    let mut table = Table::new();
    table.decor_mut().set_prefix("\n");
    table["name"] = value(client.name.as_str());
    table["from"] = value(client.from.iter().map(String::as_str).collect::<Array>());
    if client.service != "amqp" {
        table["service"] = value(client.service.as_str());
    }
    if let Some(user) = &client.user {
        table["user"] = value(user.as_str());
    }
    if client.vhost != "/" {
        table["vhost"] = value(client.vhost.as_str());
    }
    table
}

/// A file of comments alone is what follows the last table for the library: it goes to the end. It belongs to the beginning.
fn leading_comments_first(text: String, existing: Option<&str>) -> String {
    let head = existing.unwrap_or(HEAD);
    let only_comments = head.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#'));
    match text.strip_suffix(head).filter(|_| only_comments) {
        Some(tables) => format!("{}\n\n{}\n", head.trim_end(), tables.trim()),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draft(name: &str, from: &[&str]) -> Draft {
        Draft {
            name: name.into(),
            from: from.iter().map(|f| (*f).to_owned()).collect(),
            service: "amqp".into(),
            user: Some(name.into()),
            vhost: "/".into(),
        }
    }

    fn connected(user: &str, vhost: &str, from: &str) -> Connected {
        Connected { user: user.into(), vhost: vhost.into(), from: from.parse().unwrap() }
    }

    #[test]
    fn those_who_are_connected_are_proposed_as_narrowly_as_they_come() {
        let few = [connected("app", "/", "10.0.0.7"), connected("app", "/", "10.0.0.8"), connected("app", "/", "127.0.0.1")];
        assert_eq!(drafts(&few, &["10.0.0.0/24".into()], "amqp"), [draft("app", &["10.0.0.7", "10.0.0.8"])]);
        let many: Vec<Connected> = (1..9).map(|n| connected("app", "/", &format!("10.0.0.{n}"))).collect();
        assert_eq!(drafts(&many, &["10.0.0.0/24".into()], "amqp"), [draft("app", &["10.0.0.0/24"])]);
        let two = drafts(&[connected("app", "/", "10.0.0.7"), connected("app", "b", "10.0.0.7")], &[], "amqps");
        assert_eq!(two.iter().map(|d| d.name.as_str()).collect::<Vec<_>>(), ["app in /", "app in b"]);
    }

    #[test]
    fn a_new_policy_is_what_the_reader_expects() {
        let mut mgmt = draft("ops", &["10.1.0.0/16"]);
        mgmt.service = "management".into();
        let text = written(None, &[draft("app", &["10.0.0.0/24", "10.0.1.7"]), mgmt], &["10.0.0.2".into()]).unwrap();
        let expected = "# Who must be able to connect to this broker. This file must belong to root and be writable by nobody else.\n\n\
                        [[clients]]\nname = \"app\"\nfrom = [\"10.0.0.0/24\", \"10.0.1.7\"]\nuser = \"app\"\n\n\
                        [[clients]]\nname = \"ops\"\nfrom = [\"10.1.0.0/16\"]\nservice = \"management\"\nuser = \"ops\"\n\n\
                        [cluster]\npeers = [\"10.0.0.2\"]\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn what_is_there_stays() {
        let existing = "# ours\n[[clients]] # the shop\nname = \"shop\"\nfrom = [\"any\"]\n\n[cluster]\npeers = [\"10.0.0.2\"] # b\n\n\
                        [[waiver]]\nrule = \"x\" # why\nreason = \"y\"\n";
        let text = written(Some(existing), &[draft("app", &["10.0.0.7"])], &["10.0.0.2".into(), "10.0.0.3".into()]).unwrap();
        for kept in
            ["# ours\n[[clients]] # the shop\nname = \"shop\"", "peers = [\"10.0.0.2\", \"10.0.0.3\"] # b", "rule = \"x\" # why"]
        {
            assert!(text.contains(kept), "{text}");
        }
        assert!(text.contains("[[clients]]\nname = \"app\"\nfrom = [\"10.0.0.7\"]\n"), "{text}");
        let packaged = include_str!("../packaging/policy.toml");
        let text = written(Some(packaged), &[draft("app", &["any"])], &[]).unwrap();
        assert!(text.starts_with(packaged.trim_end()), "{text}");
        assert!(written(Some("clients = 1"), &[draft("app", &["any"])], &[]).is_err());
    }
}

//! Whose rule refuses a client, and whether somebody tried to let it in at another place.

use super::marks;
use crate::facts::firewall::impact::Stage;
use crate::facts::firewall::model::{Hook, Model, Table};
use crate::facts::firewall::verdict::At;
use crate::facts::firewall::{DecidingRule, Firewall, Packet};
use serde::Serialize;
use std::net::IpAddr;

/// About a packet of a client that is refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Refusal {
    /// Source address of the packet
    pub source: String,
    /// iptables-nft | iptables-legacy | nftables
    pub engine: String,
    /// Who made the chain: ufw, firewalld, docker, fail2ban, …; null: not known by its name
    pub owner: Option<String>,
    /// A rule of another table that accepts the same packet and is for its port: accepting there does not help.
    pub other_accept: Option<DecidingRule>,
}

/// `None`: no SYN of the source is refused.
pub fn of(firewall: &Firewall, from: &str, to: IpAddr, port: u16, interface: &str) -> Option<Refusal> {
    let found = firewall.refusal(from, to, port, interface).filter(|r| r.stage == Stage::Syn)?;
    let (packet, at) = (found.packet, found.at);
    let table = firewall.model.tables.get(at.table)?;
    Some(Refusal {
        source: packet.source.to_string(),
        engine: table.engine.name().to_owned(),
        owner: owner(table, &at),
        other_accept: other_accept(firewall, &packet, &at),
    })
}

fn owner(table: &Table, at: &At) -> Option<String> {
    let way = at.way.iter().map(|(chain, _)| *chain).chain([at.chain]);
    let names: Vec<&str> = way.filter_map(|c| table.chains.get(c)).map(|c| c.name.as_str()).collect();
    let of_chain = names.iter().rev().find_map(|n| marks::owner_of_chain(n)).or_else(|| marks::owner_of_table(&table.name));
    let ufw = names.iter().any(|n| n.starts_with("ufw-") || n.starts_with("ufw6-"))
        || table.chains.iter().any(|c| c.name == "ufw-user-input" || c.name == "ufw6-user-input");
    let firewalld = table.name.starts_with("firewalld");
    of_chain.or(ufw.then_some("ufw")).or(firewalld.then_some("firewalld")).map(str::to_owned)
}

/// Another table, alone, would accept the packet by a rule, and a packet to another port not by the same rule.
fn other_accept(firewall: &Firewall, packet: &Packet, at: &At) -> Option<DecidingRule> {
    let model = &firewall.model;
    let input = |t: &Table| t.chains.iter().any(|c| c.base.as_ref().is_some_and(|b| b.hook == Hook::Input && !b.nat));
    let others = model.tables.iter().enumerate().filter(|(index, t)| *index != at.table && input(t));
    others.into_iter().find_map(|(_, table)| {
        let alone = Model {
            tables: vec![table.clone()],
            routing: model.routing.clone(),
            ip_sets: model.ip_sets.clone(),
            ..Model::default()
        };
        let alone = Firewall::of_model(alone);
        let decider = |port| {
            let verdict = alone.verdict(&Packet { port, ..packet.clone() });
            verdict.known().filter(|v| v.verdict == "accept").and_then(|v| v.decided_by.clone())
        };
        // Port 1: nobody opens it by itself.
        let rule = decider(packet.port)?;
        (rule.handle_or_line.is_some() && decider(1).as_ref() != Some(&rule)).then_some(rule)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::firewall::iptables;
    use crate::facts::firewall::model::Engine;
    use crate::formats::iptables_save;

    fn refusal(nft: &str, legacy: &str) -> Option<Refusal> {
        let table = |rules: &str, engine| {
            let save = iptables_save::parse(&format!("*filter\n{rules}COMMIT\n")).unwrap();
            iptables::tables(&save, engine, false)
        };
        let tables = [table(nft, Engine::IptablesNft), table(legacy, Engine::IptablesLegacy)].concat();
        let model = Model {
            tables,
            routing: Some(crate::facts::firewall::routing::Routing::of_hosts(&["10.0.0.5"])),
            ..Model::default()
        };
        of(&Firewall::of_model(model), "10.0.0.9", "10.0.0.5".parse().unwrap(), 5672, "eth0")
    }

    #[test]
    fn an_accept_elsewhere_does_not_help_if_it_is_for_the_port() {
        let accept = ":INPUT ACCEPT\n-A INPUT -p tcp --dport 5672 -j ACCEPT\n";
        let drop = ":INPUT DROP\n";
        let found = refusal(accept, drop).unwrap();
        assert_eq!(found.engine, "iptables-legacy");
        assert!(found.other_accept.unwrap().rule.contains("--dport 5672"));
        assert_eq!(refusal(":INPUT ACCEPT\n-A INPUT -s 10.0.0.0/8 -j ACCEPT\n", drop).unwrap().other_accept, None);
        assert_eq!(refusal(":INPUT ACCEPT\n", drop).unwrap().other_accept, None);
        assert_eq!(refusal(accept, ":INPUT ACCEPT\n"), None);
    }

    #[test]
    fn chains_name_their_owners() {
        let banned =
            ":INPUT ACCEPT\n:f2b-rabbitmq -\n-A INPUT -p tcp -j f2b-rabbitmq\n-A f2b-rabbitmq -s 10.0.0.9/32 -j REJECT\n";
        assert_eq!(refusal(banned, ":INPUT ACCEPT\n").unwrap().owner.as_deref(), Some("fail2ban"));
        assert_eq!(refusal(":INPUT DROP\n", ":INPUT ACCEPT\n").unwrap().owner, None);
    }
}

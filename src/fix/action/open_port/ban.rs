//! Lifts the ban of one sender: exactly that rule of the ban's chain goes, and undoing puts it back in its place. The program that made it
//! is asked to where it runs, since it would put its rule back, or miss it, otherwise.

use super::{Deed, OpenPort, chains, iptables, is_ban, listed};
use crate::facts::firewall::Firewall;
use crate::facts::firewall::model::{Engine, Table, span};
use crate::facts::firewall::verdict::At;
use crate::formats::iptables_save;
use std::net::IpAddr;

/// fail2ban runs where this is.
pub const FAIL2BAN: &str = "/run/fail2ban/fail2ban.sock";

/// Plans to lift the ban that keeps a host of `source` from `port`. `running`: fail2ban answers.
pub fn plan_lift_ban(
    fw: &Firewall,
    source: &str,
    to: IpAddr,
    port: u16,
    interface: &str,
    running: bool,
) -> Result<OpenPort, String> {
    let refusal = fw.refusal(source, to, port, interface).ok_or("nothing refuses it any more")?;
    let (sender, at) = (refusal.packet.source, &refusal.at);
    let table = &fw.model.tables[at.table];
    let list = listed(table, at).filter(|list| is_ban(list)).ok_or("it is no ban that refuses")?;
    let jail = list.strip_prefix("f2b-").filter(|jail| *jail != "table");
    let deed = match jail.filter(|_| running) {
        Some(jail) => by_fail2ban(jail, sender),
        None => by_rule(fw, table, at, sender)?,
    };
    Ok(OpenPort { deeds: vec![deed], summary: format!("lift the ban of {sender} ({list})"), ..OpenPort::default() })
}

fn by_fail2ban(jail: &str, sender: IpAddr) -> Deed {
    let ask = |what: &str| ["fail2ban-client", "set", jail, what, &sender.to_string()].map(str::to_owned).to_vec();
    Deed::Command { run: ask("unbanip"), undo: ask("banip") }
}

/// Only a rule of iptables that names this sender and nobody else: what a set or a wider rule holds is for the program that made it.
fn by_rule(fw: &Firewall, table: &Table, at: &At, sender: IpAddr) -> Result<Deed, String> {
    let by_hand = || {
        format!(
            "{} bans it together with others, or in a set: lift it with the program that made it",
            chains(table, at).join(" → ")
        )
    };
    let place = at.rule.filter(|_| table.engine != Engine::Nftables).ok_or_else(by_hand)?;
    let text = fw.describe(at).rule;
    let words = iptables_save::words(&text).map_err(|_| by_hand())?;
    let words: Vec<String> = words.iter().map(|word| word.to_string()).collect();
    let alone = |at: usize| words.get(at + 1).and_then(|source| span(source)).is_some_and(|(_, first, last)| first == last);
    let named = words.iter().position(|word| word == "-s").is_some_and(alone);
    let [_, chain, rule @ ..] = words.as_slice() else { return Err(by_hand()) };
    if !named {
        return Err(by_hand());
    }
    let program = iptables::program(table.engine, sender.is_ipv6());
    let command = |verb: &[&str]| {
        let head = [program, "-w", "5", "-t", &table.name].into_iter().chain(verb.iter().copied());
        head.map(str::to_owned).chain(rule.iter().cloned()).collect()
    };
    let number = (place + 1).to_string();
    Ok(Deed::Command { run: command(&["-D", chain]), undo: command(&["-I", chain, &number]) })
}

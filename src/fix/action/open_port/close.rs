//! Closes a port that is open to more than those who were named: a drop just before the rule that lets others in, and before that an
//! accept for each of those who stay. What this host sends to itself is never touched, and no packet filter is switched on.

use super::{Draft, OpenPort, Read, Request, chains, firewalld, proof, ufw};
use crate::facts::firewall::impact::{Allowed, Impact, Stage};
use crate::facts::firewall::model::{Hook, Target, span};
use crate::facts::firewall::verdict::At;
use crate::facts::firewall::{Firewall, Packet};

/// A port that nothing uses: a filter that lets it in lets everything in.
const UNUSED: u16 = 40127;
/// Rules that may have to be preceded, in both address families.
const MAX_RULES: usize = 6;

/// Plans to keep everybody but `keep` (networks) from `port`; with `only_v6` where IPv4 is filtered already and IPv6 was forgotten.
pub fn plan_close_port(
    fw: &Firewall,
    port: u16,
    keep: &[String],
    interface: &str,
    only_v6: bool,
    read: &Read,
) -> Result<OpenPort, String> {
    let mut sources = Vec::new();
    for network in keep {
        sources.push(span(network).ok_or_else(|| format!("{network} is neither an address nor a network"))?);
    }
    let mut draft = Draft::new(fw);
    let mut local = None;
    for v6 in [false, true] {
        let Some(own) = fw.own_address(v6).filter(|_| v6 || !only_v6) else { continue };
        local = local.or(Some(own));
        if let Some(why) = fw.unclear(v6, 0, if v6 { u128::MAX } else { u32::MAX.into() }) {
            return Err(why.to_owned());
        }
        let to = |port| Packet { source: own, destination: own, port, interface: interface.to_owned() };
        for _ in 0..MAX_RULES {
            let Some((who, at)) = draft.copy.let_in(v6, &sources, &to(port)) else { break };
            // A filter that is off for both families is not switched on here.
            let off = !only_v6 && fw.let_in(v6, &sources, &to(UNUSED)).is_some();
            let Some(at) = at.filter(|_| !off) else {
                return Err(format!(
                    "{} gets in because the packet filter lets every port in: bind the listener to an address that only its users reach, \
                     or enable a packet filter",
                    who.source
                ));
            };
            let same: Vec<String> = keep.iter().filter(|network| network.contains(':') == v6).cloned().collect();
            add(&mut draft, v6, port, &same, &at, read)?;
        }
    }
    if draft.plan.deeds.is_empty() {
        draft.plan.summary = format!("{port} is closed already");
        return Ok(draft.plan);
    }
    let Draft { copy, mut plan, by } = draft;
    let allowed = Allowed { sources, others: true, port, opened: false };
    plan.proof = proof(fw.impact(&copy, &allowed, local.ok_or("no address of this host is known")?, interface))?;
    let but = if keep.is_empty() { String::new() } else { format!(" but {}", keep.join(", ")) };
    plan.summary = format!("close TCP port {port} to all{but} ({})", by.join(" and "));
    Ok(plan)
}

/// epmd's: the first connection that a broker makes to its own host.
const EPMD: u16 = 4369;

/// Plans to let this host's connections to itself through. Nothing that comes in over a network may change.
pub fn plan_loopback(fw: &Firewall, read: &Read) -> Result<OpenPort, String> {
    let mut draft = Draft::new(fw);
    for v6 in [false, true] {
        for _ in 0..MAX_RULES {
            let Some(refusal) = draft.copy.loopback_refusal(v6, EPMD) else { break };
            let (chain, place) = refusal.at.way.first().map_or((refusal.at.chain, refusal.at.rule), |way| (way.0, Some(way.1)));
            let own = if v6 { "::1" } else { "127.0.0.1" };
            let request = Request {
                source: own.to_owned(),
                v6,
                to: None,
                port: EPMD,
                interface: "lo".to_owned(),
                local: refusal.packet.destination,
            };
            let at = (refusal.at.table, chain, place);
            let piece = request.rule_in(&draft.copy, Stage::Loopback, at, Target::Accept, &|path| draft.file(path, read))?;
            draft.add(piece);
        }
        if draft.copy.loopback_refusal(v6, EPMD).is_some() {
            return Err("more rules refuse it than can be passed one by one".to_owned());
        }
    }
    let Draft { copy, mut plan, by } = draft;
    if plan.deeds.is_empty() {
        return Ok(plan);
    }
    let allowed = Allowed { sources: Vec::new(), others: false, port: EPMD, opened: true };
    for local in [fw.own_address(false), fw.own_address(true)].into_iter().flatten().take(1) {
        match fw.impact(&copy, &allowed, local, "") {
            Impact::Unchanged => plan.proof = "changes nothing for other hosts".to_owned(),
            other => {
                proof(other)?;
            }
        }
    }
    plan.summary = format!("let this host's connections to itself through ({})", by.join(" and "));
    Ok(plan)
}

/// What has to stand before the rule at this place.
fn add(draft: &mut Draft, v6: bool, port: u16, keep: &[String], at: &At, read: &Read) -> Result<(), String> {
    let table = &draft.copy.model.tables[at.table];
    let names = chains(table, at);
    if table.name == "firewalld" || (draft.copy.firewalld_running && names.iter().any(|n| n.starts_with("IN_"))) {
        let piece = firewalld::closing(keep, v6, port, &draft.copy, at, &|path| draft.file(path, read))?;
        draft.add(piece);
        return Ok(());
    }
    if draft.copy.manager == "ufw" {
        let piece = ufw::closing(keep, v6, port, &draft.copy, at, &draft.plan.deeds)?;
        draft.add(piece);
        return Ok(());
    }
    let (chain, mut place) = at.way.first().map_or((at.chain, at.rule), |way| (way.0, Some(way.1)));
    if table.chains[chain].base.as_ref().is_none_or(|base| base.hook != Hook::Input || base.nat) {
        return Err(format!("{} {} is no chain that filters what comes in", table.title(), table.chains[chain].name));
    }
    let every = if v6 { "::/0" } else { "0.0.0.0/0" };
    let rules = keep.iter().map(|source| (source.as_str(), Target::Accept)).chain([(every, Target::Drop)]);
    for (source, target) in rules {
        let (_, first, _) = span(source).ok_or("not a network")?;
        let request = Request::of(source, v6, first, port, &draft.copy)?;
        let where_to = (at.table, chain, place);
        let piece = request.rule_in(&draft.copy, Stage::Syn, where_to, target, &|path| draft.file(path, read))?;
        draft.add(piece);
        place = place.map(|place| place + 1);
    }
    Ok(())
}

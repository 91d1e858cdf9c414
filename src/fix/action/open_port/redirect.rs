//! Lets one source's connections go where they are sent, past a rule that rewrites their destination.

use super::{Draft, OpenPort, Read, Request};
use crate::facts::firewall::impact::Stage;
use crate::facts::firewall::model::Target;
use crate::facts::firewall::{DecidingRule, Firewall};
use std::net::IpAddr;

/// Rules that may rewrite one after the other.
const MAX_RULES: usize = 4;

/// Plans to keep connections of `source` to `port` from being translated.
pub fn plan_keep_destination(
    fw: &Firewall,
    source: &str,
    to: IpAddr,
    port: u16,
    interface: &str,
    read: &Read,
) -> Result<OpenPort, String> {
    let request = Request::new(fw, source, None, port, interface)?;
    let mut draft = Draft::new(fw);
    for _ in 0..MAX_RULES {
        let Some(by) = translated_by(&draft.copy, source, to, port, interface)? else { break };
        let at = place(&draft.copy, &by).ok_or_else(|| format!("the rule that rewrites was not found: {}", by.rule))?;
        let piece = request.rule_in(&draft.copy, Stage::Syn, at, Target::Accept, &|path| draft.file(path, read))?;
        draft.add(piece);
    }
    if translated_by(&draft.copy, source, to, port, interface)?.is_some() {
        return Err("more rules rewrite it than can be passed one by one".to_owned());
    }
    let Draft { mut plan, by, .. } = draft;
    plan.summary =
        format!("let connections of {} to TCP port {port} keep their destination ({})", request.source, by.join(" and "));
    "no other source and no other port is touched".clone_into(&mut plan.proof);
    // Tried in a copy, the connection would be made to a port that nobody listens on there.
    plan.trial.clear();
    Ok(plan)
}

fn translated_by(fw: &Firewall, source: &str, to: IpAddr, port: u16, interface: &str) -> Result<Option<DecidingRule>, String> {
    let verdict = fw.verdict_for_network(source, to, port, interface);
    let verdict = verdict.known().ok_or("the packet filter's verdict is not known")?;
    match (&verdict.delivered_to, &verdict.translated_by) {
        (None, _) => Ok(None),
        (Some(_), Some(by)) => Ok(Some(by.clone())),
        (Some(to), None) => Err(format!("what sends it to {to} is no rule that was found")),
    }
}

fn place(fw: &Firewall, by: &DecidingRule) -> Option<(usize, usize, Option<usize>)> {
    let table =
        fw.model.tables.iter().position(|table| table.title() == by.table && table.chains.iter().any(|c| c.name == by.chain))?;
    let chain = fw.model.tables[table].chains.iter().position(|chain| chain.name == by.chain)?;
    let rules = &fw.model.tables[table].chains[chain].rules;
    let rule = rules.iter().position(|rule| Some(rule.number) == by.handle_or_line)?;
    Some((table, chain, Some(rule)))
}

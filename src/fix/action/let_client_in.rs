//! Opens the packet filter for a client's networks. What that takes is decided by [`plan_open_port`], per manager.
use super::open_port::plan_open_port;
use super::{Desk, Proposal, Refusal, cannot};
use crate::facts::Fact;
use crate::facts::clients::Client;
use crate::fix::change::{Change, Op};
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Name of the client in the intent.
    client: String,
}

pub fn plan(params: Params, desk: &Desk) -> Result<Proposal, Refusal> {
    let clients = desk.clients(&params.client);
    if clients.is_empty() {
        return Err(cannot(format!("no client {}", params.client)));
    }
    // Nothing is opened for the whole world because nobody said for whom.
    if clients.iter().any(|client| client.assumed) {
        return Err(Refusal::Needs(vec!["--from CIDR".into()]));
    }
    let mut proposal = Proposal { effects: vec!["opens-firewall"], decided: true, ..Proposal::default() };
    let mut summaries = Vec::new();
    for client in clients {
        if let Some(summary) = open_for(client, desk, &mut proposal.changes)? {
            summaries.push(summary);
        }
    }
    if proposal.changes.is_empty() {
        return Err(Refusal::Already);
    }
    proposal.summary = summaries.join("; ");
    Ok(proposal)
}

/// Adds what one network needs; `None`: it is let through already.
fn open_for(client: &Client, desk: &Desk, changes: &mut Vec<Change>) -> Result<Option<String>, Refusal> {
    let firewall = known(&desk.facts.firewall, "the packet filter")?;
    let verdict = known(&client.firewall, "the packet filter's verdict")?;
    let port = *known(&client.port, "the port")?;
    let port = u16::try_from(port).map_err(|_| cannot(format!("not a port: {port}")))?;
    let interface = client.interface.known().and_then(Option::as_deref).unwrap_or_default();
    let source = if client.from == "any" { "0.0.0.0/0" } else { &client.from };
    match verdict.verdict.as_str() {
        "accept" => return Ok(None),
        "depends" => return Err(cannot(format!("it depends on {}", verdict.depends_on.join(", ")))),
        _ => {}
    }
    let open = plan_open_port(firewall, verdict, source, None, port, interface).map_err(cannot)?;
    let op = |argv: Vec<String>| if argv.is_empty() { Op::Nothing } else { Op::Command { argv } };
    changes.extend(open.steps.into_iter().map(|(doing, undo)| Change::Run { doing: op(doing), undo: op(undo) }));
    let lasting = if open.persistent { "" } else { " (until the next reboot)" };
    let note = open.note.map_or(String::new(), |note| format!(" ({note})"));
    Ok(Some(format!("{}{lasting}{note}", open.summary)))
}

fn known<'f, T>(fact: &'f Fact<T>, what: &str) -> Result<&'f T, Refusal> {
    match fact {
        Fact::Known(value) => Ok(value),
        Fact::Unknown(why) => Err(cannot(format!("{what} is not known: {why}"))),
    }
}

//! Opens the packet filter for a client's networks. What that takes is decided by [`plan_open_port`], per manager.
use super::open_port::{Deed, OpenPort, plan_open_port};
use super::{Desk, Proposal, Refusal, TheClient, Trial, cannot};
use crate::facts::Fact;
use crate::facts::clients::Client;
use crate::fix::change::{Change, Op};
use crate::fix::world::FileState;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

pub fn plan(params: TheClient, desk: &Desk) -> Result<Proposal, Refusal> {
    let clients = params.networks(desk)?;
    let mut proposal = Proposal { effects: vec!["opens-firewall"], decided: true, ..Proposal::default() };
    let mut summaries = Vec::new();
    for client in clients {
        if let Some(summary) = open_for(client, desk, &mut proposal)? {
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
fn open_for(client: &Client, desk: &Desk, proposal: &mut Proposal) -> Result<Option<String>, Refusal> {
    let firewall = known(&desk.facts.firewall, "the packet filter")?;
    let verdict = known(&client.firewall, "the packet filter's verdict")?;
    let port = *known(&client.port, "the port")?;
    let port = u16::try_from(port).map_err(|_| cannot(format!("not a port: {port}")))?;
    let interface = client.interface.known().and_then(Option::as_deref).unwrap_or_default();
    let source = if client.from == "any" { "0.0.0.0/0" } else { &client.from };
    if verdict.verdict == "accept" {
        return Ok(None);
    }
    let open = plan_open_port(firewall, source, None, port, interface, &reader(desk)).map_err(cannot)?;
    let summary = carried_out(&open, desk, &mut proposal.changes)?;
    if let Some((source, sees)) = open.example {
        let to = destination(client, source)?;
        let (interface, commands) = (interface.to_owned(), open.trial);
        proposal.trials.push(Trial { source, to: SocketAddr::new(to, port), interface, sees, commands });
    }
    Ok(Some(summary))
}

/// Files as the plan so far leaves them, for a plan that edits some.
pub fn reader<'d>(desk: &'d Desk) -> impl Fn(&Path) -> Result<Option<String>, String> + 'd {
    |path| match desk.file(path) {
        Ok(state) => Ok(state.map(|state| String::from_utf8_lossy(&state.content).into_owned())),
        Err(Refusal::Cannot(why)) => Err(why),
        Err(_) => Err(format!("{} could not be read", path.display())),
    }
}

/// The changes of a plan, and the plan in one line.
pub fn carried_out(open: &OpenPort, desk: &Desk, changes: &mut Vec<Change>) -> Result<String, Refusal> {
    for deed in &open.deeds {
        changes.push(match deed {
            Deed::Command { run, undo } => Change::Run { doing: op(run), undo: op(undo) },
            Deed::NftRule { run, table, chain, comment } => {
                let undo = Op::RemoveRule { table: table.clone(), chain: chain.clone(), comment: comment.clone() };
                Change::Run { doing: op(run), undo }
            }
            Deed::File { path, text, template } => {
                let old = match desk.file(path)? {
                    Some(state) => state,
                    None => desk.file(template.as_ref().unwrap_or(path))?.ok_or_else(|| cannot("the file is gone"))?,
                };
                desk.put(path, FileState { content: text.clone().into_bytes(), meta: old.meta }, false)?
            }
        });
    }
    let lasting = if open.persistent { "" } else { ", until the next reboot" };
    let notes: String = open.notes.iter().map(|note| format!(". {note}")).collect();
    Ok(format!("{}{lasting}; {}{notes}", open.summary, open.proof))
}

fn op(argv: &[String]) -> Op {
    if argv.is_empty() { Op::Nothing } else { Op::Command { argv: argv.to_vec() } }
}

/// The address that the client connects to.
fn destination(client: &Client, source: IpAddr) -> Result<IpAddr, Refusal> {
    let to = known(&client.to, "the address that the client connects to")?.as_deref().and_then(|to| to.parse::<IpAddr>().ok());
    to.filter(|to| to.is_ipv6() == source.is_ipv6()).ok_or_else(|| cannot("no address of this host for that client is known"))
}

/// A fact that the plan cannot do without.
pub fn known<'f, T>(fact: &'f Fact<T>, what: &str) -> Result<&'f T, Refusal> {
    match fact {
        Fact::Known(value) => Ok(value),
        Fact::Unknown(why) => Err(cannot(format!("{what} is not known: {why}"))),
    }
}

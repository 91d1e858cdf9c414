//! Opens epmd's port and the distribution port for the cluster's nodes that the policy names.
use super::let_client_in::{carried_out, known, reader};
use super::open_port::plan_open_port;
use super::{Desk, Nothing, Proposal, Refusal, cannot};
use crate::facts::cluster::Way;

pub fn plan(_: Nothing, desk: &Desk) -> Result<Proposal, Refusal> {
    let firewall = known(&desk.facts.firewall, "the packet filter")?;
    let ways = known(&desk.facts.cluster.ways, "the way of the cluster's other nodes")?;
    let blocked = |way: &&Way| way.declared && way.state.known().is_some_and(|state| state == "blocked");
    let mut proposal = Proposal { effects: vec!["opens-firewall"], decided: true, ..Proposal::default() };
    let mut summaries = Vec::new();
    for way in ways.iter().filter(blocked) {
        let port = u16::try_from(way.port).map_err(|_| cannot(format!("not a port: {}", way.port)))?;
        let open = plan_open_port(firewall, &way.from, None, port, &way.interface, &reader(desk)).map_err(cannot)?;
        summaries.push(carried_out(&open, desk, &mut proposal.changes)?);
    }
    if proposal.changes.is_empty() {
        return Err(Refusal::Already);
    }
    proposal.summary = summaries.join("; ");
    Ok(proposal)
}

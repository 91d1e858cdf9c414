//! Lets a client's connections reach the port that they are made to, past a rule that redirects them to another of this host.
use super::let_client_in::{carried_out, known, reader};
use super::open_port::redirect::plan_keep_destination;
use super::{Desk, Proposal, Refusal, TheClient, cannot};

pub fn plan(params: TheClient, desk: &Desk) -> Result<Proposal, Refusal> {
    let firewall = known(&desk.facts.firewall, "the packet filter")?;
    let mut proposal = Proposal { effects: vec!["opens-firewall"], decided: true, ..Proposal::default() };
    let mut summaries = Vec::new();
    for way in params.ways(desk)? {
        let source = if way.client.from == "any" { "0.0.0.0/0" } else { &way.client.from };
        let kept = plan_keep_destination(firewall, source, way.to, way.port, way.interface, &reader(desk)).map_err(cannot)?;
        if !kept.deeds.is_empty() {
            summaries.push(carried_out(&kept, desk, &mut proposal.changes)?);
        }
    }
    if proposal.changes.is_empty() {
        return Err(Refusal::Already);
    }
    proposal.summary = summaries.join("; ");
    Ok(proposal)
}

//! Lifts the ban of a client's address that the intent names.
use super::let_client_in::{carried_out, known};
use super::open_port::ban::{FAIL2BAN, plan_lift_ban};
use super::{Desk, Proposal, Refusal, TheClient, cannot};
use std::path::Path;

pub fn plan(params: TheClient, desk: &Desk) -> Result<Proposal, Refusal> {
    let firewall = known(&desk.facts.firewall, "the packet filter")?;
    let running = matches!(desk.look.meta(Path::new(FAIL2BAN)), Ok(Some(_)));
    let mut proposal = Proposal { effects: vec!["opens-firewall"], decided: true, ..Proposal::default() };
    let mut summaries = Vec::new();
    for way in params.ways(desk)? {
        let banned = known(&way.client.refusal, "who refuses the client")?;
        let Some(refusal) = banned else { continue };
        let lifted = plan_lift_ban(firewall, &refusal.source, way.to, way.port, way.interface, running).map_err(cannot)?;
        summaries.push(carried_out(&lifted, desk, &mut proposal.changes)?);
    }
    if proposal.changes.is_empty() {
        return Err(Refusal::Already);
    }
    proposal.summary = summaries.join("; ");
    Ok(proposal)
}

//! Lets this host's connections to itself through its packet filter: without them the broker cannot reach epmd, and does not boot.
use super::let_client_in::{carried_out, known, reader};
use super::open_port::close::plan_loopback;
use super::{Desk, Nothing, Proposal, Refusal, cannot};

pub fn plan(_: Nothing, desk: &Desk) -> Result<Proposal, Refusal> {
    let firewall = known(&desk.facts.firewall, "the packet filter")?;
    let open = plan_loopback(firewall, &reader(desk)).map_err(cannot)?;
    if open.deeds.is_empty() {
        return Err(Refusal::Already);
    }
    let mut proposal = Proposal { unit: desk.start_if_failing(), effects: vec!["opens-firewall"], ..Proposal::default() };
    proposal.summary = carried_out(&open, desk, &mut proposal.changes)?;
    Ok(proposal)
}

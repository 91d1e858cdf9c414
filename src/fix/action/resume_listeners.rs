//! Lets suspended client listeners take connections again.
use super::{Desk, Nothing, Proposal, Refusal, broker};
use crate::host::rpc::Mutation;

pub fn plan(_: Nothing, desk: &Desk) -> Result<Proposal, Refusal> {
    desk.node()?;
    Ok(Proposal {
        changes: vec![broker(Mutation::ResumeListeners, Mutation::SuspendListeners)],
        summary: "resume the client listeners".into(),
        effects: vec!["adds-access"],
        ..Proposal::default()
    })
}

//! Ends the maintenance mode of the node: it takes client connections again.
use super::{Desk, Nothing, Proposal, Refusal, broker};
use crate::host::rpc::Mutation;

pub fn plan(_: Nothing, desk: &Desk) -> Result<Proposal, Refusal> {
    desk.node()?;
    Ok(Proposal {
        changes: vec![broker(Mutation::Revive, Mutation::Drain)],
        summary: "end the maintenance mode of the node".into(),
        effects: vec!["adds-access"],
        ..Proposal::default()
    })
}

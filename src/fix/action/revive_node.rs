//! Ends the maintenance mode of the node: it takes client connections again.
use super::{Desk, Proposal, Refusal, broker};
use crate::host::rpc::Mutation;
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Params {}

pub fn plan(_: Params, desk: &Desk) -> Result<Proposal, Refusal> {
    desk.node()?;
    Ok(Proposal {
        changes: vec![broker(Mutation::Revive, Mutation::Drain)],
        summary: "end the maintenance mode of the node".into(),
        effects: vec!["adds-access"],
        ..Proposal::default()
    })
}

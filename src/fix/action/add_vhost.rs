//! Adds a virtual host that a client was told to use.
use super::{Desk, Proposal, Refusal, broker};
use crate::host::rpc::Mutation;
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Params {
    name: String,
}

pub fn plan(params: Params, desk: &Desk) -> Result<Proposal, Refusal> {
    let node = desk.node()?;
    let vhosts = node.vhosts.known().ok_or_else(|| super::cannot("the vhosts could not be listed"))?;
    if vhosts.contains(&params.name) {
        return Err(Refusal::Already);
    }
    // Asked for by the policy or the options: not a guess of ours.
    let decided = desk.intent.clients.iter().any(|client| !client.assumed && client.vhost == params.name);
    let name = params.name;
    Ok(Proposal {
        summary: format!("add vhost {name}"),
        changes: vec![broker(Mutation::AddVhost { name: name.clone() }, Mutation::DeleteVhost { name })],
        effects: vec!["adds-access"],
        decided,
        ..Proposal::default()
    })
}

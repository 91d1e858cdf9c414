//! Adds a virtual host that a client was told to use, with permissions for the client's user.
use super::{Desk, Proposal, Refusal, broker, grant_permission::grant};
use crate::facts::broker::Permission;
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
    let wanted: Vec<_> = desk.intent.clients.iter().filter(|client| !client.assumed && client.vhost == params.name).collect();
    let name = params.name;
    let mut changes = vec![broker(Mutation::AddVhost { name: name.clone() }, Mutation::DeleteVhost { name: name.clone() })];
    let mut claims = Vec::new();
    let mut summary = format!("add vhost {name}");
    // Nobody has permissions in a vhost that was not there. Users that are not there either get theirs when they are made.
    let exists = |user: &str| node.users.known().is_some_and(|users| users.iter().any(|u| u.name == user));
    for (client, user) in wanted.iter().filter_map(|client| Some((client, client.user.clone().filter(|user| exists(user))?))) {
        let [configure, write, read] = client.permissions.clone();
        summary += &format!("; let {user} use it");
        claims.push((format!("permissions of {user} in {name}"), "as intended".into()));
        changes.push(grant(&Permission { user, vhost: name.clone(), configure, write, read }, None));
    }
    Ok(Proposal {
        summary,
        changes,
        claims,
        effects: vec!["adds-access"],
        decided: !wanted.is_empty(),
        ..Proposal::default()
    })
}

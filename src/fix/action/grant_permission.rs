//! Lets a user use a vhost, with the permissions of the intent.
use super::{Desk, Proposal, Refusal, broker, cannot};
use crate::facts::broker::Permission;
use crate::host::rpc::Mutation;
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Params {
    user: String,
    vhost: String,
}

pub fn plan(params: Params, desk: &Desk) -> Result<Proposal, Refusal> {
    let node = desk.node()?;
    let known = node.permissions.known().ok_or_else(|| cannot("the permissions could not be listed"))?;
    let wanted = |client: &&crate::policy::ClientIntent| {
        !client.assumed && client.user.as_ref() == Some(&params.user) && client.vhost == params.vhost
    };
    let Some(client) = desk.intent.clients.iter().find(wanted) else {
        return Err(Refusal::Needs(vec![format!("--user {}", params.user), format!("--vhost {}", params.vhost)]));
    };
    let old = known.iter().find(|entry| entry.user == params.user && entry.vhost == params.vhost);
    let [configure, write, read] = client.permissions.clone();
    let new = Permission { user: params.user, vhost: params.vhost, configure, write, read };
    if old == Some(&new) {
        return Err(Refusal::Already);
    }
    Ok(Proposal {
        summary: format!("let {} use vhost {}", new.user, new.vhost),
        claims: vec![(format!("permissions of {} in {}", new.user, new.vhost), "as intended".into())],
        changes: vec![grant(&new, old)],
        effects: vec!["adds-access"],
        decided: true,
        ..Proposal::default()
    })
}

/// Sets permissions; taken back to what they were.
pub fn grant(new: &Permission, old: Option<&Permission>) -> crate::fix::change::Change {
    let set = |entry: &Permission| Mutation::SetPermissions {
        user: entry.user.clone(),
        vhost: entry.vhost.clone(),
        configure: entry.configure.clone(),
        write: entry.write.clone(),
        read: entry.read.clone(),
    };
    let undo = match old {
        Some(old) => set(old),
        None => Mutation::ClearPermissions { user: new.user.clone(), vhost: new.vhost.clone() },
    };
    broker(set(new), undo)
}

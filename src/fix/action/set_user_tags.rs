//! Gives a user the tag that a service asks for, beside those that it has.
use super::{Desk, Proposal, Refusal, broker, cannot};
use crate::host::rpc::Mutation;
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Params {
    user: String,
    tag: String,
}

pub fn plan(params: Params, desk: &Desk) -> Result<Proposal, Refusal> {
    let Params { user, tag } = params;
    let users = desk.node()?.users.known().ok_or_else(|| cannot("the users could not be listed"))?;
    let old = &users.iter().find(|u| u.name == user).ok_or_else(|| cannot(format!("there is no user {user}")))?.tags;
    if old.contains(&tag) {
        return Err(Refusal::Already);
    }
    let tags: Vec<String> = old.iter().chain([&tag]).cloned().collect();
    // A tag is a right: it is given to whom the policy or the options name.
    let decided = desk.intent.clients.iter().any(|client| !client.assumed && client.user.as_ref() == Some(&user));
    Ok(Proposal {
        summary: format!("tags of {user}: {} (was {})", tags.join(", "), if old.is_empty() { "none".into() } else { old.join(", ") }),
        claims: vec![(format!("tags of {user}"), tag)],
        changes: vec![broker(
            Mutation::SetTags { user: user.clone(), tags },
            Mutation::SetTags { user, tags: old.clone() },
        )],
        effects: vec!["adds-access"],
        decided,
        ..Proposal::default()
    })
}

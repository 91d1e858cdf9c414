//! Gives a client's user the password that the client has, where the broker certainly holds another one by mistake.
use super::create_user::exposed;
use super::{Desk, Proposal, Refusal, broker, cannot};
use crate::host::rpc::Mutation;
use serde::Deserialize;
use std::path::PathBuf;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Name of the client in the intent.
    client: String,
}

/// Root's alone; see [`Mutation::ChangePassword`].
const KEPT: &str = "/var/lib/rmq-audit/passwords";

pub fn plan(params: Params, desk: &Desk) -> Result<Proposal, Refusal> {
    let client = desk.client(Some(&params.client)).ok_or_else(|| cannot(format!("no client {}", params.client)))?;
    let user = client.user.clone().ok_or_else(|| Refusal::Needs(vec!["--user NAME".into()]))?;
    let file = client.password_file.clone().ok_or_else(|| Refusal::Needs(vec!["--password-file FILE".into()]))?;
    let told = exposed(desk, &file)?;
    desk.node()?;
    let mut number = [0; 8];
    (desk.random)(&mut number)?;
    let kept = PathBuf::from(KEPT).join(format!("{:016x}", u64::from_le_bytes(number)));
    Ok(Proposal {
        summary: format!("password of {user}: that in {}{told}", file.display()),
        claims: vec![(format!("password of {user}"), file.display().to_string())],
        changes: vec![broker(
            Mutation::ChangePassword { name: user.clone(), password_file: file, kept: kept.clone() },
            Mutation::RestorePassword { name: user, kept },
        )],
        effects: vec!["adds-access", "interrupts-clients"],
        decided: true,
        ..Proposal::default()
    })
}

//! Restarts the broker so that it reads its configuration.
use super::{Desk, Proposal, Refusal, UnitNeed};
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Params {}

pub fn plan(_: Params, desk: &Desk) -> Result<Proposal, Refusal> {
    let unit = desk.unit()?;
    Ok(Proposal { unit: UnitNeed::Restart, summary: format!("restart {}", unit.name), ..Proposal::default() })
}

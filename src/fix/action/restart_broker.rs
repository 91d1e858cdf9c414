//! Restarts the broker so that it reads its configuration.
use super::{Desk, Nothing, Proposal, Refusal, UnitNeed};

pub fn plan(_: Nothing, desk: &Desk) -> Result<Proposal, Refusal> {
    let unit = desk.unit()?;
    Ok(Proposal { unit: UnitNeed::Restart, summary: format!("restart {}", unit.name), ..Proposal::default() })
}

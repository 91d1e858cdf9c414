//! Starts the broker, also after too many failed starts.
use super::{Desk, Proposal, Refusal, TheUnit, UnitNeed};

pub fn plan(_: TheUnit, desk: &Desk) -> Result<Proposal, Refusal> {
    let unit = desk.unit()?;
    if unit.active == "active" {
        return Err(Refusal::Already);
    }
    Ok(Proposal { unit: UnitNeed::Start, summary: format!("start {}", unit.name), ..Proposal::default() })
}

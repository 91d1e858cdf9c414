//! Lets the broker start at boot.
use super::{Desk, Proposal, Refusal, TheUnit, command};

pub fn plan(_: TheUnit, desk: &Desk) -> Result<Proposal, Refusal> {
    let unit = desk.unit()?;
    let name = unit.name.as_str();
    if unit.enabled == "enabled" {
        return Err(Refusal::Already);
    }
    let change = command(&["systemctl", "enable", name], &["systemctl", "disable", name]);
    Ok(Proposal { changes: vec![change], summary: format!("start {name} at boot"), ..Proposal::default() })
}

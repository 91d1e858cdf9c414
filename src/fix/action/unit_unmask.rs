//! Takes the mask off the broker's unit.
use super::{Desk, Proposal, Refusal, TheUnit, command};

pub fn plan(_: TheUnit, desk: &Desk) -> Result<Proposal, Refusal> {
    let unit = desk.unit()?;
    let name = unit.name.as_str();
    let change = match unit.enabled.as_str() {
        "masked-runtime" => command(&["systemctl", "--runtime", "unmask", name], &["systemctl", "--runtime", "mask", name]),
        _ if unit.load == "masked" || unit.enabled == "masked" => {
            command(&["systemctl", "unmask", name], &["systemctl", "mask", name])
        }
        _ => return Err(Refusal::Already),
    };
    Ok(Proposal { changes: vec![change], summary: format!("unmask {name}"), ..Proposal::default() })
}

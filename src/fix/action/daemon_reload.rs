//! Lets systemd read the unit's changed files.
use super::{Desk, Proposal, Refusal, TheUnit};
use crate::fix::change::{Change, Op, argv};

pub fn plan(_: TheUnit, desk: &Desk) -> Result<Proposal, Refusal> {
    let unit = desk.unit()?;
    if !unit.needs_reload {
        return Err(Refusal::Already);
    }
    let doing = Op::Command { argv: argv(&["systemctl", "daemon-reload"]) };
    Ok(Proposal {
        changes: vec![Change::Run { doing, undo: Op::Nothing }],
        summary: "let systemd read the changed unit".into(),
        ..Proposal::default()
    })
}

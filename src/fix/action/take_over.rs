//! Puts a broker that was started by hand under its unit: it is stopped, and the unit starts it.
use super::{Desk, Proposal, Refusal, TheUnit, cannot};
use crate::fix::change::{Change, Op, Was};

pub fn plan(_: TheUnit, desk: &Desk) -> Result<Proposal, Refusal> {
    let unit = desk.unit()?;
    let beam = desk.facts.process.beam.known().and_then(Option::as_ref).ok_or(Refusal::Already)?;
    if beam.unit.known().is_some_and(|by| by.as_deref() == Some(unit.name.as_str())) {
        return Err(Refusal::Already);
    }
    if unit.load != "loaded" {
        return Err(cannot(format!("{} is {}", unit.name, unit.load)));
    }
    let broker_uid = desk.broker_ids().map(|(uid, _)| i64::from(uid));
    if broker_uid != Some(beam.uid) {
        return Err(cannot(format!("pid {} does not run as the broker's user: stop it the way it was started", beam.pid)));
    }
    let name = unit.name.clone();
    let undo = Op::LetGo { unit: name.clone(), was: Was::of(&unit.active) };
    Ok(Proposal {
        changes: vec![Change::Run { doing: Op::TakeOver { unit: name.clone() }, undo }],
        effects: vec!["restart", "interrupts-clients"],
        summary: format!("stop pid {} and start {name} in its place", beam.pid),
        claims: vec![("who runs the broker".into(), name)],
        ..Proposal::default()
    })
}

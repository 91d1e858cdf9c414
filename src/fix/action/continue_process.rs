//! Lets the broker's process go on that a signal stopped.
use super::{Desk, Nothing, Proposal, Refusal, cannot};
use crate::fix::change::{Change, Op, argv};

pub fn plan(_: Nothing, desk: &Desk) -> Result<Proposal, Refusal> {
    let beam = desk.facts.process.beam.known().and_then(Option::as_ref).ok_or_else(|| cannot("no broker runs"))?;
    if !beam.stopped {
        return Err(Refusal::Already);
    }
    let unit = &desk.unit()?.name;
    if beam.unit.known().and_then(Option::as_ref) != Some(unit) {
        return Err(cannot(format!("process {} is none of {unit}: kill -s CONT {}", beam.pid, beam.pid)));
    }
    // By the unit, not by the number of the process: by the time of an undo that may be another one's.
    let signal = |name: &str| Op::Command { argv: argv(&["systemctl", "kill", "--kill-who=main", "-s", name, unit]) };
    Ok(Proposal {
        changes: vec![Change::Run { doing: signal("CONT"), undo: signal("STOP") }],
        summary: format!("let process {} ({}) go on", beam.pid, beam.name),
        ..Proposal::default()
    })
}

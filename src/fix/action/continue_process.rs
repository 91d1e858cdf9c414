//! Lets the broker's process go on that a signal stopped.
use super::{Desk, Nothing, Proposal, Refusal, cannot};
use crate::fix::change::{Change, Op, argv};

pub fn plan(_: Nothing, desk: &Desk) -> Result<Proposal, Refusal> {
    let beam = desk.facts.process.beam.known().and_then(Option::as_ref).ok_or_else(|| cannot("no broker runs"))?;
    if !beam.stopped {
        return Err(Refusal::Already);
    }
    let pid = beam.pid.to_string();
    let signal = |name: &str| Op::Command { argv: argv(&["kill", "-s", name, &pid]) };
    Ok(Proposal {
        changes: vec![Change::Run { doing: signal("CONT"), undo: signal("STOP") }],
        summary: format!("let process {pid} ({}) go on", beam.name),
        ..Proposal::default()
    })
}

//! Makes a line of rabbitmq.conf a comment: one that keeps the broker from booting and cannot be repaired.
use super::{Desk, Line, Proposal, Refusal, conf};

pub fn plan(params: Line, desk: &Desk) -> Result<Proposal, Refusal> {
    let Line { file, line } = params;
    conf::known_file(desk, &file)?;
    let (change, ()) = conf::edit(desk, &file, |document| Ok(document.comment_out_line(line, conf::NOTE)?))?;
    let place = format!("{}:{line}", file.display());
    Ok(conf::proposal(vec![change], format!("{place} made a comment"), vec![(format!("line {place}"), "comment".into())]))
}

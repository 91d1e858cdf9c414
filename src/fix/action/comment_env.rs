//! Makes a line of rabbitmq-env.conf a comment: one that keeps the file from being applied, or the broker from starting.
use super::{Desk, Line, Proposal, Refusal, cannot, conf};
use crate::fix::world::FileState;
use crate::formats::env_conf::{Document, Shell};

pub fn plan(params: Line, desk: &Desk) -> Result<Proposal, Refusal> {
    let path = params.file;
    if path.to_string_lossy() != desk.facts.env.file {
        return Err(cannot(format!("{} is not the broker's environment file", path.display())));
    }
    desk.own(&path)?;
    let state = desk.file(&path)?.ok_or(Refusal::Already)?;
    let mut document = Document::parse(&state.content, Shell::Other);
    document.comment_out(params.line, "commented out by rmq-audit").map_err(|error| cannot(error.to_string()))?;
    let change = desk.put(&path, FileState { content: document.to_bytes(), ..state }, false)?;
    let place = format!("{}:{}", path.display(), params.line);
    Ok(conf::proposal(vec![change], format!("{place} commented out"), vec![(place, "commented out".into())]))
}

//! Gives the running node the memory watermark back that it started with.
use super::{Desk, Nothing, Proposal, Refusal, broker, cannot};
use crate::host::rpc::Mutation;

pub fn plan(_: Nothing, desk: &Desk) -> Result<Proposal, Refusal> {
    let mark = desk.node()?.memory_watermark.known().ok_or_else(|| cannot("the memory watermark is not known"))?;
    if !mark.set_at_run_time {
        return Err(Refusal::Already);
    }
    // Somebody may have stopped publishers on purpose; who named a client wants it to work.
    let decided = desk.intent.clients.iter().any(|client| !client.assumed);
    Ok(Proposal {
        summary: format!("memory watermark of the running node: {} (was {})", mark.at_start, mark.now),
        claims: vec![("memory watermark".into(), mark.at_start.clone())],
        changes: vec![broker(
            Mutation::SetWatermark { watermark: mark.started_with.clone() },
            Mutation::SetWatermark { watermark: mark.current.clone() },
        )],
        decided,
        ..Proposal::default()
    })
}

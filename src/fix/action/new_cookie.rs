//! Gives a node that has no peers a new Erlang cookie in the place of one that the Erlang VM does not take. Nothing of either is shown.
use super::{Desk, Proposal, Refusal, UnitNeed, cannot};
use crate::fix::world::{FileMeta, FileState};
use crate::formats::erlang;
use serde::Deserialize;
use std::path::{Path, PathBuf};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Params {
    path: PathBuf,
}

pub fn plan(params: Params, desk: &Desk) -> Result<Proposal, Refusal> {
    let path = params.path;
    desk.own(&path)?;
    let (uid, gid) = desk.broker_ids().ok_or_else(|| cannot("the user rabbitmq is not known"))?;
    if let Some(peer) = peer(desk)? {
        return Err(cannot(format!("the node has a peer, {peer}: its cookie has to come from there")));
    }
    let mut random = [0; 32];
    (desk.random)(&mut random)?;
    let content: String = random.iter().map(|byte| format!("{byte:02X}")).collect();
    let state = FileState { content: content.into_bytes(), meta: FileMeta { mode: 0o400, uid, gid } };
    let change = desk.put(&path, state, true)?;
    Ok(Proposal {
        summary: format!("{}: a new random cookie, mode 0400", path.display()),
        claims: vec![(format!("content of {}", path.display()), "new".into())],
        changes: vec![change],
        unit: match desk.start_if_failing() {
            UnitNeed::None => UnitNeed::Restart,
            need => need,
        },
        effects: vec!["restart"],
        ..Proposal::default()
    })
}

/// Another node of the cluster, from the policy or from what the node wrote down when it last ran (rabbit_node_monitor.erl).
fn peer(desk: &Desk) -> Result<Option<String>, Refusal> {
    if let Some(peer) = desk.intent.peers.first() {
        return Ok(Some(peer.clone()));
    }
    let facts = desk.facts;
    let node = facts.names.node.known().ok_or_else(|| cannot("the node's name is not known, so neither are its peers"))?;
    let dirs = facts.files.data_dirs.known().ok_or_else(|| cannot("the data directory is not known, so neither are the node's peers"))?;
    let Some(dir) = dirs.iter().find(|dir| Path::new(&dir.path).ends_with(node)) else { return Ok(None) };
    let Some(file) = desk.look.look(&Path::new(&dir.path).join("cluster_nodes.config"))? else { return Ok(None) };
    let terms = erlang::consult(&String::from_utf8_lossy(&file.content));
    let all = terms.ok().and_then(|terms| terms.first()?.tuple()?.first()?.list().map(<[_]>::to_vec));
    let all = all.ok_or_else(|| cannot("the node's list of its peers could not be read"))?;
    Ok(all.iter().filter_map(|name| name.atom()).find(|name| name != node).map(str::to_owned))
}

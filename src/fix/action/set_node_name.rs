//! Gives the node the name again under which its data was written: in rabbitmq-env.conf, and in /etc/hosts where the host part of the name
//! is not this host's own name any more.
use super::{Desk, Proposal, Refusal, cannot, conf};
use crate::fix::change::Change;
use crate::fix::world::{FileMeta, FileState};
use crate::formats::env_conf::{Document, Shell};
use crate::formats::hosts;
use serde::Deserialize;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// `rabbit@mq1`
    node: String,
}

/// What Debian's installer gives the host's own name.
const OWN: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 1, 1));
const HOSTS: &str = "/etc/hosts";

pub fn plan(params: Params, desk: &Desk) -> Result<Proposal, Refusal> {
    let node = params.node;
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '@');
    let (_, host) = node.split_once('@').filter(|_| node.chars().all(plain)).ok_or_else(|| cannot(format!("not a plain node name: {node}")))?;
    let own_host = desk.facts.names.hostname.known().map(|name| name.split('.').next().unwrap_or(name).to_owned());
    let own_host = own_host.ok_or_else(|| cannot("this host's name is not known"))?;
    let mut changes: Vec<Change> = environment(desk, &node, node == format!("rabbit@{own_host}"))?.into_iter().collect();
    if host != own_host {
        changes.extend(host_entry(desk, host)?);
    }
    if changes.is_empty() {
        return Err(Refusal::Already);
    }
    let paths: Vec<String> = crate::fix::change::paths(&changes).iter().map(|p| p.display().to_string()).collect();
    let summary = format!("{node} again, by {}", paths.join(" and "));
    Ok(conf::proposal(changes, summary, vec![("name of the node".into(), node)]))
}

/// `default`: the node has this name where nothing is said.
fn environment(desk: &Desk, node: &str, default: bool) -> Result<Option<Change>, Refusal> {
    let path = PathBuf::from(&desk.facts.env.file);
    desk.own(&path)?;
    let state = desk.file(&path)?;
    let (text, meta) = match state {
        Some(state) => (state.content, state.meta),
        None => (Vec::new(), FileMeta { mode: 0o644, uid: 0, gid: 0 }),
    };
    let mut document = Document::parse(&text, Shell::Other);
    let names = ["NODENAME", "RABBITMQ_NODENAME"];
    let lines: Vec<u32> = names.iter().filter_map(|name| document.settings().get(*name)).map(|s| s.line).collect();
    for line in lines {
        document.comment_out(line, "commented out by rmq-audit").map_err(|e| cannot(e.to_string()))?;
    }
    // What the unit gives is weaker than the prefixed name in the file.
    let by_unit = desk.facts.env.vars.known().and_then(|vars| vars.get("NODENAME")?.at.clone()).is_some_and(|at| at.file != desk.facts.env.file);
    let mut content = document.to_bytes();
    if !default || by_unit {
        if !content.is_empty() && !content.ends_with(b"\n") {
            content.push(b'\n');
        }
        content.extend(format!("{}={node}\n", if by_unit { names[1] } else { names[0] }).into_bytes());
    }
    let document = Document::parse(&content, Shell::Other);
    if document.opaque().is_some() || document.dropped() {
        return Err(cannot(format!("{} is not understood: NODENAME={node} has to be set by hand", path.display())));
    }
    match desk.put(&path, FileState { content, meta }, false) {
        Ok(change) => Ok(Some(change)),
        Err(Refusal::Already) => Ok(None),
        Err(other) => Err(other),
    }
}

/// A line for the name unless there is one: the name belongs to no other machine, since this node's data bears it.
fn host_entry(desk: &Desk, host: &str) -> Result<Option<Change>, Refusal> {
    let path = Path::new(HOSTS);
    let state = desk.file(path)?;
    let meta = state.as_ref().map_or(FileMeta { mode: 0o644, uid: 0, gid: 0 }, |state| state.meta);
    let mut document = hosts::Document::parse(&state.map(|state| state.content).unwrap_or_default());
    if !document.addresses(host).is_empty() {
        return Ok(None);
    }
    document.add(OWN, host).map_err(|e| cannot(e.to_string()))?;
    desk.put(path, FileState { content: document.to_bytes(), meta }, false).map(Some)
}

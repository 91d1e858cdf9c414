//! Enables a plugin: writes enabled_plugins and lets a running broker follow it without a restart.
use super::{Desk, Proposal, Refusal, broker, cannot};
use crate::fix::world::{FileMeta, FileState};
use crate::host::rpc::Mutation;
use crate::policy::plugin_of;
use serde::Deserialize;
use std::path::PathBuf;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Params {
    name: String,
}

pub fn plan(params: Params, desk: &Desk) -> Result<Proposal, Refusal> {
    let plugins = &desk.facts.plugins;
    let name = params.name;
    if !name.starts_with(|c: char| c.is_ascii_lowercase()) || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
        return Err(cannot(format!("not a plugin name: {name}")));
    }
    let enabled = plugins.enabled.known().ok_or_else(|| cannot("enabled_plugins could not be read"))?;
    if plugins.available.known().is_some_and(|available| !available.contains(&name)) {
        return Err(cannot(format!("plugin {name} is not installed")));
    }
    let path = PathBuf::from(&plugins.file);
    desk.own(&path)?;
    let old = desk.file(&path)?;
    // An earlier step of this plan may have added one too.
    let mut names = match &old {
        Some(state) => listed(&state.content).unwrap_or_else(|| enabled.clone()),
        None => Vec::new(),
    };
    if names.contains(&name) {
        return Err(Refusal::Already);
    }
    names.push(name.clone());
    let meta = old.as_ref().map_or_else(
        || {
            let (uid, gid) = desk.broker_ids().unwrap_or((0, 0));
            FileMeta { mode: 0o644, uid, gid }
        },
        |state| state.meta,
    );
    let content = format!("[{}].\n", names.join(",")).into_bytes();
    let mut changes = vec![desk.put(&path, FileState { content, meta }, false)?];
    if desk.node().is_ok() {
        let ensure = Mutation::EnsurePlugins { file: path };
        changes.push(broker(ensure.clone(), ensure));
    }
    let wanted = |client: &crate::policy::ClientIntent| !client.assumed && plugin_of(&client.service) == Some(name.as_str());
    let decided = desk.intent.clients.iter().any(wanted);
    let summary = format!("enable plugin {name}");
    Ok(Proposal { changes, summary, effects: vec!["adds-access"], decided, ..Proposal::default() })
}

/// The names of a plain `[a,b].` list; `None` for anything that is not as plain.
fn listed(content: &[u8]) -> Option<Vec<String>> {
    let text = std::str::from_utf8(content).ok()?.trim();
    let inner = text.strip_suffix('.')?.trim().strip_prefix('[')?.strip_suffix(']')?;
    let names: Vec<String> = inner.split(',').map(|name| name.trim().to_string()).filter(|name| !name.is_empty()).collect();
    let plain = names.iter().all(|name| name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'));
    plain.then_some(names)
}

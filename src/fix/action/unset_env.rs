//! Takes a variable out of rabbitmq-env.conf.
use super::{Desk, Proposal, Refusal, cannot, conf};
use crate::fix::world::FileState;
use crate::formats::env_conf::{Document, Shell};
use serde::Deserialize;
use std::path::PathBuf;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Without its `RABBITMQ_` prefix, as in the facts.
    name: String,
    /// Where the rule saw it; for the reader.
    #[serde(default, rename = "file")]
    _file: Option<PathBuf>,
    #[serde(default, rename = "line")]
    _line: serde_json::Value,
}

pub fn plan(params: Params, desk: &Desk) -> Result<Proposal, Refusal> {
    let env = &desk.facts.env;
    let name = params.name.trim_start_matches("RABBITMQ_").to_string();
    let vars = env.vars.known().ok_or_else(|| cannot("rabbitmq-env.conf could not be read"))?;
    let at = vars.get(&name).and_then(|var| var.at.as_ref()).ok_or(Refusal::Already)?;
    if at.file != env.file {
        return Err(cannot(format!("{name} is set in {}, which is not edited", at.file)));
    }
    let path = PathBuf::from(&at.file);
    let state = desk.file(&path)?.ok_or(Refusal::Already)?;
    let mut document = Document::parse(&state.content, Shell::Other);
    if !document.unset_var(&name).map_err(|error| cannot(error.to_string()))? {
        return Err(Refusal::Already);
    }
    let change = desk.put(&path, FileState { content: document.to_bytes(), ..state }, false)?;
    let line = at.line.map_or(String::new(), |line| format!(":{line}"));
    let summary = format!("{}{line} {name} removed", path.display());
    Ok(conf::proposal(vec![change], summary, vec![(format!("variable {name}"), "removed".into())]))
}

//! Takes a configuration file out of the broker's sight under another name: one that wins over the file that is meant.
use super::{Desk, Proposal, Refusal, cannot, conf};
use serde::Deserialize;
use std::path::PathBuf;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Params {
    path: PathBuf,
}

/// Neither `.conf` nor `.config`: the broker reads no such file.
const ENDING: &str = "disabled";

pub fn plan(params: Params, desk: &Desk) -> Result<Proposal, Refusal> {
    let path = params.path;
    desk.own(&path)?;
    let read = desk.facts.conf.files.known().is_some_and(|all| all.iter().any(|f| f.used && path.as_os_str() == f.path.as_str()));
    if !read {
        return Err(cannot(format!("{} is not a file that the broker reads", path.display())));
    }
    let mut aside = path.clone().into_os_string();
    aside.push(format!(".{ENDING}"));
    let aside = PathBuf::from(aside);
    if desk.file(&aside)?.is_some() {
        return Err(cannot(format!("{} is there already", aside.display())));
    }
    let state = desk.file(&path)?.ok_or(Refusal::Already)?;
    let changes = vec![desk.put(&aside, state, false)?, desk.take_away(&path)?];
    let summary = format!("{} becomes {}", path.display(), aside.display());
    Ok(conf::proposal(changes, summary, vec![(format!("place of {}", path.display()), "aside".into())]))
}

//! Takes a configuration file out of the broker's sight under another name: one that wins over the file that is meant.
use super::{Desk, Proposal, Refusal, cannot, conf, move_file};
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
    if !conf::reads(desk, &path) {
        return Err(cannot(format!("{} is not a file that the broker reads", path.display())));
    }
    let mut to = path.clone().into_os_string();
    to.push(format!(".{ENDING}"));
    move_file::plan(move_file::Params { path, to: to.into() }, desk)
}

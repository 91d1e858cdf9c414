//! Takes one directive of the unit's files back, gives it the package's value, or adds the line that it lacks: in the administrator's own
//! files, /etc/systemd/system, and of those only the ones that systemd reads for the broker's unit.
use super::{Desk, Proposal, Refusal, UnitNeed, cannot};
use crate::fix::world::FileState;
use crate::formats::unit_file::Document;
use serde::Deserialize;
use std::path::PathBuf;

/// What a rule knows about a directive (`service.problems`).
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Params {
    file: PathBuf,
    directive: String,
    /// Its new value; left out or null: all its assignments in the file become comments.
    #[serde(default)]
    instead: Option<String>,
    /// A line that is added below it; it stays itself then.
    #[serde(default)]
    add: Option<String>,
    /// Only assignments whose whole value begins with this: one variable of `Environment`.
    #[serde(default)]
    only: Option<String>,
}

/// The note that a line gets when it is made a comment.
const NOTE: &str = "by rmq-audit";

/// A line that sets other variables besides is none that can be taken out.
fn meant(value: &str, params: &Params) -> bool {
    let value = value.trim().trim_matches(['"', '\'']);
    params.only.as_ref().is_none_or(|start| value.starts_with(start.as_str()) && !value.contains(char::is_whitespace))
}

pub fn plan(params: Params, desk: &Desk) -> Result<Proposal, Refusal> {
    let unit = desk.unit()?;
    let name = params.file.to_string_lossy();
    let known = unit.fragment.iter().chain(&unit.drop_ins).any(|file| **file == *name);
    if !known || !name.starts_with("/etc/systemd/system/") {
        return Err(cannot(format!("{name} is not a file of the administrator's for {}: to be edited by hand", unit.name)));
    }
    let state = desk.file(&params.file)?.ok_or(Refusal::Already)?;
    let mut document = Document::parse(&state.content);
    let lines: Vec<u32> = document.assignments().filter(|a| a.name == params.directive && meant(&a.value, &params)).map(|a| a.line).collect();
    let last = *lines.last().ok_or(Refusal::Already)?;
    let how = match (&params.add, &params.instead) {
        (Some(line), _) => {
            document.add_below(last, line).map_err(|e| cannot(e.to_string()))?;
            format!("{line} added")
        }
        (None, Some(value)) => {
            document.set(last, value).map_err(|e| cannot(e.to_string()))?;
            format!("{}={value}", params.directive)
        }
        (None, None) => {
            for line in lines {
                document.comment_out(line, NOTE).map_err(|e| cannot(e.to_string()))?;
            }
            format!("{} commented out", params.directive)
        }
    };
    let change = desk.put(&params.file, FileState { content: document.to_bytes(), ..state }, false)?;
    Ok(Proposal {
        changes: vec![change],
        unit: UnitNeed::Restart,
        effects: vec!["restart"],
        summary: format!("{name}: {how}"),
        claims: vec![(format!("{} in {name}", params.directive), how)],
        ..Proposal::default()
    })
}

//! Makes the broker's user a member of a group that exists to read keys.
use super::{Desk, Proposal, Refusal, UnitNeed, cannot};
use crate::facts::tls::KEY_GROUPS;
use crate::fix::world::FileState;
use serde::Deserialize;
use std::path::Path;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Params {
    group: String,
}

const USER: &str = "rabbitmq";

pub fn plan(params: Params, desk: &Desk) -> Result<Proposal, Refusal> {
    let group = params.group;
    if !KEY_GROUPS.contains(&group.as_str()) {
        return Err(cannot(format!("{group} is not a group kept for readers of keys: to be done by hand")));
    }
    let mut changes = Vec::new();
    // Both files have the members last; gshadow's are what `grpck` compares with.
    for (path, secret) in [("/etc/group", false), ("/etc/gshadow", true)] {
        let path = Path::new(path);
        let Some(state) = desk.file(path)? else { continue };
        let Some(content) = with_member(&state.content, &group) else { continue };
        changes.push(desk.put(path, FileState { content, ..state }, secret)?);
    }
    if changes.is_empty() {
        return Err(Refusal::Already);
    }
    Ok(Proposal {
        changes,
        // A process has the groups that its user had when it was started.
        unit: UnitNeed::Restart,
        effects: vec!["restart", "adds-access"],
        summary: format!("/etc/group: {USER} becomes a member of {group}"),
        claims: vec![(format!("members of {group}"), format!("{USER} too"))],
        ..Proposal::default()
    })
}

/// The file with the member in it; `None`: the group is not in it, or has the member.
fn with_member(content: &[u8], group: &str) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(content).ok()?;
    let line = text.lines().find(|line| line.split(':').next() == Some(group))?;
    let (_, members) = line.rsplit_once(':')?;
    if line.split(':').count() != 4 || members.split(',').any(|m| m == USER) {
        return None;
    }
    let comma = if members.is_empty() { "" } else { "," };
    let all: String = text.split_inclusive('\n').map(|l| if l.trim_end_matches('\n') == line { format!("{line}{comma}{USER}\n") } else { l.to_owned() }).collect();
    Some(all.into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_changes() {
        let text = b"root:x:0:\nssl-cert:x:110:\npostgres:x:111:a\n";
        assert_eq!(with_member(text, "ssl-cert").unwrap(), b"root:x:0:\nssl-cert:x:110:rabbitmq\npostgres:x:111:a\n");
        assert_eq!(with_member(b"ssl-cert:!::postgres\n", "ssl-cert").unwrap(), b"ssl-cert:!::postgres,rabbitmq\n");
        assert_eq!(with_member(b"ssl-cert:x:110:rabbitmq\n", "ssl-cert"), None);
        assert_eq!(with_member(b"", "ssl-cert"), None);
    }
}

//! Lets the host's own name resolve to this host: a line in /etc/hosts.
use super::{Desk, Proposal, Refusal, UnitNeed, cannot};
use crate::fix::world::{FileMeta, FileState};
use crate::formats::hosts::{Document, EditError};
use serde::Deserialize;
use std::net::IpAddr;
use std::path::Path;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Params {
    name: String,
    /// Left out: 127.0.1.1, as Debian's installer writes it.
    #[serde(default)]
    address: Option<String>,
}

pub fn plan(params: Params, desk: &Desk) -> Result<Proposal, Refusal> {
    let name = params.name;
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    if name.is_empty() || !name.chars().all(plain) {
        return Err(cannot(format!("not a host name: {name}")));
    }
    let address = params.address.unwrap_or_else(|| "127.0.1.1".into());
    let address: IpAddr = address.parse().map_err(|_| cannot(format!("not an address: {address}")))?;
    let path = Path::new("/etc/hosts");
    let state = desk.file(path)?;
    let meta = state.as_ref().map_or(FileMeta { mode: 0o644, uid: 0, gid: 0 }, |state| state.meta);
    let content = with_entry(&state.map(|state| state.content).unwrap_or_default(), &name, address)
        .map_err(|error| cannot(error.to_string()))?;
    let change = desk.put(path, FileState { content, meta }, false)?;
    Ok(Proposal {
        changes: vec![change],
        // The node's name is looked up when the broker starts.
        unit: UnitNeed::Restart,
        summary: format!("/etc/hosts: {address} {name}"),
        claims: vec![(format!("address of {name}"), address.to_string())],
        ..Proposal::default()
    })
}

/// Adds the name to the address; where it leads to another machine, that goes.
fn with_entry(content: &[u8], name: &str, address: IpAddr) -> Result<Vec<u8>, EditError> {
    let mut document = Document::parse(content);
    if document.addresses(name).iter().any(|other| *other != address && !other.is_loopback()) {
        document.remove(name)?;
    }
    document.add(address, name)?;
    Ok(document.to_bytes())
}

#[cfg(test)]
mod tests {
    use super::with_entry;

    #[test]
    fn adds_moves_and_leaves_alone() {
        let edit = |text: &str| {
            String::from_utf8(with_entry(text.as_bytes(), "mq1", "127.0.1.1".parse().unwrap()).unwrap()).unwrap()
        };
        assert_eq!(edit("127.0.1.1 mq1 # x\n"), "127.0.1.1 mq1 # x\n");
        assert!(edit("127.0.0.1 localhost\n").starts_with("127.0.0.1 localhost\n127.0.1.1"));
        assert!(edit("::1 localhost mq1\n").starts_with("::1 localhost mq1\n127.0.1.1"));
        let moved = edit("10.9.9.9 db mq1\n");
        assert!(moved.contains("10.9.9.9 db") && !moved.contains("10.9.9.9 db mq1"), "{moved}");
        assert_eq!(edit(&moved), moved);
    }
}

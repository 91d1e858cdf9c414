//! Closes a port of the broker to everybody whom the intent does not name, through whoever manages the packet filter.
use super::let_client_in::{carried_out, known, reader};
use super::open_port::close::plan_close_port;
use super::{Desk, Proposal, Refusal, cannot, number};
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Params {
    #[serde(deserialize_with = "number")]
    port: u32,
    /// Whose clients stay: `management`, `prometheus`, …; cluster peers for `distribution` and `epmd`.
    #[serde(default)]
    service: Option<String>,
    /// More networks that stay.
    #[serde(default)]
    allow: Vec<String>,
    /// `ipv6`: IPv4 is closed as it is meant to be.
    #[serde(default)]
    only: Option<String>,
}

pub fn plan(params: Params, desk: &Desk) -> Result<Proposal, Refusal> {
    let port = u16::try_from(params.port).map_err(|_| cannot(format!("not a port: {}", params.port)))?;
    let firewall = known(&desk.facts.firewall, "the packet filter")?;
    let mut keep = params.allow;
    for client in &desk.intent.clients {
        let same = client.port == Some(port) || params.service.as_ref() == Some(&client.service);
        if same && !client.assumed {
            if client.from.is_empty() || client.from.iter().any(|from| from == "any") {
                return Err(cannot(format!("client {} is to reach it from anywhere", client.name)));
            }
            keep.extend(client.from.iter().filter(|from| *from != "local").cloned());
        }
    }
    if matches!(params.service.as_deref(), Some("distribution" | "epmd")) {
        keep.extend(desk.intent.peers.iter().cloned());
    }
    keep.sort();
    keep.dedup();
    let interface = way_in(desk).ok_or_else(|| cannot("no interface to other hosts is known"))?;
    let closed = plan_close_port(firewall, port, &keep, &interface, params.only.as_deref() == Some("ipv6"), &reader(desk)).map_err(cannot)?;
    if closed.deeds.is_empty() {
        return Err(Refusal::Already);
    }
    let mut proposal = Proposal { effects: vec!["closes-firewall"], ..Proposal::default() };
    proposal.summary = carried_out(&closed, desk, &mut proposal.changes)?;
    Ok(proposal)
}

/// The interface that others come in by: that of the default route, or the first that is not loopback.
fn way_in(desk: &Desk) -> Option<String> {
    let of_client = desk.facts.clients.iter().find_map(|client| client.interface.known()?.clone());
    let addresses = desk.facts.net.addresses.known();
    of_client.filter(|name| name != "lo").or_else(|| {
        addresses?.iter().find(|address| address.up && address.scope == "global").map(|address| address.interface.clone())
    })
}

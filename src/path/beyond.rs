//! Where everything on this host is fine for a client: what lies between it and this host, and how to look at that. A stage beyond the
//! host is never blamed on the host, and nothing here is a finding.

use crate::facts::Facts;
use crate::facts::clients::Client;
use crate::formats::cidr::Cidr;
use std::net::IpAddr;

/// What to look at next, the likeliest first; empty for a client on this host, or one that nobody named.
pub fn next_steps(client: &Client, facts: &Facts) -> Vec<String> {
    let Some(to) = client.to.known().and_then(Option::as_deref).filter(|_| client.remote && !client.assumed) else {
        return Vec::new();
    };
    let port = client.port.known().map_or_else(|| "its port".to_owned(), |port| format!("port {port}"));
    let from = &client.from;
    let steps = [Some(arrival(client)), Some(filters(facts, from, &port)), translation(from, to, &port), Some(address(to))];
    steps.into_iter().flatten().collect()
}

/// Connections that are there prove the way; else only a try does.
fn arrival(client: &Client) -> String {
    match client.connected.known() {
        Some(1) => "one connection from there is open at this moment: the way works for that one".to_owned(),
        Some(n) if *n > 1 => format!("{n} connections from there are open at this moment: the way works for those"),
        _ => {
            let whom = client.example.as_deref().filter(|_| !client.from.contains('/')).unwrap_or("ADDRESS");
            format!("whether its packets arrive: let it try while `sudo rmq-audit why {whom} --watch` runs")
        }
    }
}

fn filters(facts: &Facts, from: &str, port: &str) -> String {
    let whom = if from == "any" { "clients" } else { from };
    match facts.os.cloud.known().and_then(Option::as_ref) {
        Some(cloud) => format!("{} of {}: does it let {whom} reach {port}?", cloud.filter, cloud.name),
        None => format!("filters before this host (a cloud's security group, a router, a VPN): do they let {whom} reach {port}?"),
    }
}

/// A public source cannot have sent to a private address.
fn translation(from: &str, to: &str, port: &str) -> Option<String> {
    let source = Cidr::parse(from)?;
    let to: IpAddr = to.parse().ok()?;
    let crosses = source.first_host().is_ipv4() && to.is_ipv4() && !private(source.first_host()) && private(to);
    crosses.then(|| format!("NAT: {from} is public and {to} is not, so something before this host has to forward {port} to it"))
}

fn address(to: &str) -> String {
    format!(
        "the address that the client uses: its broker's name has to resolve to {to} there; localhost is its own host or container"
    )
}

fn private(address: IpAddr) -> bool {
    matches!(address, IpAddr::V4(v4) if v4.is_private())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_public_source_needs_a_translation() {
        assert!(translation("198.51.100.0/24", "10.0.0.5", "port 5672").is_some_and(|t| t.starts_with("NAT: 198.51.100.0/24")));
        assert_eq!(translation("10.0.0.0/24", "10.1.0.5", "port 5672"), None);
        assert_eq!(translation("198.51.100.0/24", "203.0.113.5", "port 5672"), None);
        assert_eq!(translation("any", "10.0.0.5", "port 5672"), None);
    }
}

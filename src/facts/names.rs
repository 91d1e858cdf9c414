//! Host name, hosts file, and what the node name resolves to.
use super::{Blank, Fact, Where, env::Env, net::Net, process::Processes};
use crate::host::{Command, Got, Host, Miss, optional, read_text};
use serde::Serialize;
use std::collections::BTreeSet;
use std::net::IpAddr;

/// Names that Erlang's distribution depends on.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Names {
    /// Kernel host name (uname), else /etc/hostname.
    pub hostname: Fact<String>,
    /// /etc/hostname; null: no such file.
    pub static_hostname: Fact<Option<String>>,
    /// `rabbit@mq1`: NODENAME of the environment, else `rabbit@` + short host name.
    pub node: Fact<String>,
    /// Host part of the node name.
    pub node_host: Fact<String>,
    /// What `getent ahosts` says about `node_host`; empty: it does not resolve.
    pub node_addresses: Fact<Vec<String>>,
    /// At least one of them is an address of this host (or loopback); unknown while the addresses are.
    pub node_is_local: Fact<bool>,
    /// Where /etc/hosts names `node_host`; null: it does not.
    pub hosts_entry: Fact<Option<HostsEntry>>,
}

/// A line of /etc/hosts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct HostsEntry {
    pub address: String,
    pub at: Where,
}

const HOSTS: &str = "/etc/hosts";
const HOSTNAME: &str = "/etc/hostname";
/// glibc's `getent` says this for "not found".
const GETENT_NOT_FOUND: i32 = 2;

/// Derives the node's name and asks the C library what it resolves to.
pub fn collect(host: &dyn Host, env: &Env, processes: &Processes, net: &Net) -> Names {
    let static_hostname = optional(read_text(host, HOSTNAME)).map(|t| t.as_deref().and_then(first_name));
    let kernel = host.identity().nodename;
    let hostname: Fact<String> = match (&kernel, &static_hostname) {
        (Some(name), _) | (None, Ok(Some(name))) => Fact::Known(name.clone()),
        (None, Ok(None)) => Fact::Unknown(format!("{HOSTNAME}: not there")),
        (None, Err(miss)) => miss.clone().into(),
    };
    let node = node(&hostname, env, processes);
    let node_host = node.as_ref().map(|n| n.split_once('@').map_or(n.as_str(), |(_, host)| host).to_owned());
    let node_addresses = with(&node_host, |name| resolve(host, name));
    Names {
        node_is_local: is_local(&node_addresses, net),
        hosts_entry: with(&node_host, |name| hosts_entry(host, name)),
        hostname,
        static_hostname: static_hostname.into(),
        node,
        node_host,
        node_addresses,
    }
}

/// Does `f` to a known value; an unknown one stays unknown for its own reason.
fn with<T, U>(fact: &Fact<T>, f: impl FnOnce(&T) -> Got<U>) -> Fact<U> {
    match fact {
        Fact::Known(t) => f(t).into(),
        Fact::Unknown(why) => Fact::Unknown(why.clone()),
    }
}

/// The first word that is no comment.
fn first_name(text: &str) -> Option<String> {
    let line = text.lines().map(str::trim).find(|l| !l.is_empty() && !l.starts_with('#'))?;
    Some(line.to_owned())
}

/// As `rabbitmq-env` and rabbit_env.erl do: NODENAME, with the host appended if it has none; else `rabbit@` + host, which is
/// cut at its first dot unless long names are used.
fn node(hostname: &Fact<String>, env: &Env, processes: &Processes) -> Fact<String> {
    if let Some(node) = processes.beam.known().and_then(|b| b.as_ref()?.node.clone()).filter(|n| n.contains('@')) {
        return Fact::Known(node);
    }
    let vars = match &env.vars {
        Fact::Known(vars) => vars,
        Fact::Unknown(why) => return Fact::Unknown(why.clone()),
    };
    let var = |name: &str| vars.get(name).map(|v| v.value.clone());
    let name = match var("NODENAME") {
        Some(Fact::Unknown(why)) => return Fact::Unknown(why),
        Some(Fact::Known(name)) if name.contains('@') => return Fact::Known(name),
        Some(Fact::Known(name)) if !name.is_empty() => name,
        _ => "rabbit".to_owned(),
    };
    let long = match var("USE_LONGNAME") {
        Some(Fact::Unknown(why)) => return Fact::Unknown(why),
        Some(Fact::Known(value)) => matches!(value.to_ascii_lowercase().as_str(), "1" | "yes" | "true"),
        None => false,
    };
    match hostname {
        Fact::Known(host) if !long => Fact::Known(format!("{name}@{}", host.split('.').next().unwrap_or(host))),
        Fact::Known(host) if host.contains('.') => Fact::Known(format!("{name}@{host}")),
        Fact::Known(host) => Fact::Unknown(format!("long names are used, and the host name {host} has no domain")),
        Fact::Unknown(why) => Fact::Unknown(why.clone()),
    }
}

/// Addresses in the order of `getent ahosts`, each once.
pub(super) fn resolve(host: &dyn Host, name: &str) -> Got<Vec<String>> {
    let command = Command::Getent { name: name.to_owned() };
    let output = host.run(&command)?;
    if output.code == Some(GETENT_NOT_FOUND) {
        return Ok(Vec::new());
    }
    let text = output.ok(&command.to_string())?;
    let text = String::from_utf8_lossy(&text);
    let mut seen = BTreeSet::new();
    let addresses = text.lines().filter_map(|l| l.split_whitespace().next());
    Ok(addresses.filter(|a| seen.insert((*a).to_owned())).map(str::to_owned).collect())
}

fn is_local(addresses: &Fact<Vec<String>>, net: &Net) -> Fact<bool> {
    let (names, own) = match (addresses, &net.addresses) {
        (Fact::Known(names), Fact::Known(own)) => (names, own),
        (Fact::Unknown(why), _) | (_, Fact::Unknown(why)) => return Fact::Unknown(why.clone()),
    };
    let loopback = |a: &String| a.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    Fact::Known(names.iter().any(|a| loopback(a) || own.iter().any(|o| o.address == *a)))
}

fn hosts_entry(host: &dyn Host, name: &str) -> Got<Option<HostsEntry>> {
    let Some(bytes) = optional(host.read(HOSTS.as_ref(), crate::host::MAX_FILE))? else { return Ok(None) };
    let text = String::from_utf8_lossy(&bytes);
    let entry = |(index, line): (usize, &str)| {
        let mut words = line.split('#').next()?.split_whitespace();
        let address = words.next()?;
        words.any(|w| w.eq_ignore_ascii_case(name)).then(|| (index, address.to_owned()))
    };
    let Some((index, address)) = text.lines().enumerate().find_map(entry) else { return Ok(None) };
    let line = u32::try_from(index + 1).map_err(|e| Miss::failed(HOSTS, e))?;
    Ok(Some(HostsEntry { address, at: Where { file: HOSTS.to_owned(), line: Some(line), column: None } }))
}

impl Blank for Names {
    fn blank(why: &str) -> Self {
        Names {
            hostname: Fact::blank(why),
            static_hostname: Fact::blank(why),
            node: Fact::blank(why),
            node_host: Fact::blank(why),
            node_addresses: Fact::blank(why),
            node_is_local: Fact::blank(why),
            hosts_entry: Fact::blank(why),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::conf::tests::environment;
    use crate::host::{Output, fake::Fake};

    fn names(host: &Fake, vars: &[(&str, &str)]) -> Names {
        let processes = Processes { beam: Fact::Known(None), epmd: Fact::Known(None), other_brokers: Fact::Known(vec![]) };
        collect(host, &environment(vars), &processes, &super::super::net::collect(host))
    }

    fn getent(name: &str) -> Command {
        Command::Getent { name: name.to_owned() }
    }

    #[test]
    fn the_node_name_follows_the_environment() {
        let host = Fake::new();
        let node = |vars: &[(&str, &str)]| names(&host, vars).node;
        assert_eq!(node(&[]), Fact::Known("rabbit@mq1".into()));
        assert_eq!(node(&[("NODENAME", "bunny")]), Fact::Known("bunny@mq1".into()));
        assert_eq!(node(&[("NODENAME", "bunny@other")]), Fact::Known("bunny@other".into()));
        assert!(node(&[("USE_LONGNAME", "true")]).why().is_some());
    }

    #[test]
    fn the_name_is_resolved_as_this_host_does() {
        let answer = "10.0.0.5        STREAM mq1\n10.0.0.5        DGRAM  \nfd77::5   STREAM \n";
        let host = Fake::new()
            .address("eth0", "10.0.0.5", 24)
            .command(getent("mq1"), answer)
            .file("/etc/hostname", "# set by hand\nmq1\n")
            .file("/etc/hosts", "127.0.0.1 localhost\n# 10.0.0.9 mq1\n10.0.0.5\tmq1.example MQ1 # x\n");
        let found = names(&host, &[]);
        assert_eq!(found.node_addresses, Fact::Known(vec!["10.0.0.5".into(), "fd77::5".into()]));
        assert_eq!((found.node_is_local, found.static_hostname), (Fact::Known(true), Fact::Known(Some("mq1".into()))));
        let entry = found.hosts_entry.known().cloned().flatten().unwrap();
        assert_eq!((entry.address.as_str(), entry.at.line), ("10.0.0.5", Some(3)));
    }

    #[test]
    fn a_name_that_does_not_resolve_is_known_not_to() {
        let not_found = Output { code: Some(2), stdout: vec![], stderr: vec![] };
        let host = Fake::new().command_ends(getent("mq1"), Ok(not_found));
        let found = names(&host, &[]);
        assert_eq!((found.node_addresses, found.node_is_local), (Fact::Known(vec![]), Fact::Known(false)));
        let slow = Miss::Timeout { what: "getent".into(), seconds: 10 };
        let host = Fake::new().command_ends(getent("mq1"), Err(slow));
        assert!(names(&host, &[]).node_is_local.why().is_some());
    }
}

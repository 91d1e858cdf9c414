//! A copy of this host's packet filter between two network namespaces: one stands for the host, one for a client. A planned change
//! is made to the copy, and a real connection shows what it does. The host's own namespace is only read.
//!
//! What the copy does not have: connection tracking's memory, counters of limits, other hosts, and interfaces besides the one that
//! the client's packets come in by.

use super::exec;
use super::scratch::Namespace;
use super::{Got, Miss};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

/// What is tried.
#[derive(Debug, Clone)]
pub struct Attempt {
    pub source: IpAddr,
    pub to: SocketAddr,
    /// Of the host, that the client's packets come in by.
    pub interface: String,
    /// The change, in the words of nft or iptables.
    pub commands: Vec<Vec<String>>,
}

/// What the client saw, in the words of verdicts: connected | refused | timeout | unreachable | hangs
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tried {
    pub before: String,
    pub after: String,
}

/// How long the client waits for an answer: the kernel drops at once, and nothing here is far away.
const WAIT: Duration = Duration::from_millis(1300);
/// For each tool.
const LIMIT: Duration = Duration::from_secs(20);
const CLIENT: &str = "client0";

/// Makes the copy, connects, changes it, and connects again.
pub fn try_out(attempt: &Attempt) -> Got<Tried> {
    let (host, client) = (Namespace::new()?, Namespace::new()?);
    link(&host, &client, attempt)?;
    copy_rules(&host)?;
    let (port, v6) = (attempt.to.port(), attempt.to.is_ipv6());
    let any: IpAddr = if v6 { IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED) } else { IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED) };
    // Held in this scope: it answers as long as the namespaces live.
    let listener = host.within(move || TcpListener::bind((any, port)))?.map_err(|e| Miss::failed("a listener in the copy", e))?;
    let to = attempt.to;
    let connect = || client.within(move || seen(TcpStream::connect_timeout(&to, WAIT)));
    let before = connect()?;
    for argv in &attempt.commands {
        let words: Vec<&str> = argv.iter().map(String::as_str).collect();
        host.run(&words, None, LIMIT)?.ok(&argv.join(" "))?;
    }
    let after = connect()?;
    drop(listener);
    Ok(Tried { before, after })
}

fn seen(result: std::io::Result<TcpStream>) -> String {
    use std::io::ErrorKind::{ConnectionRefused, HostUnreachable, NetworkUnreachable, PermissionDenied, TimedOut, WouldBlock};
    match result {
        Ok(_) => "connected".to_owned(),
        Err(e) => match e.kind() {
            ConnectionRefused => "refused".to_owned(),
            TimedOut | WouldBlock => "timeout".to_owned(),
            // EACCES is what some ICMP codes ("administratively prohibited") become.
            HostUnreachable | NetworkUnreachable | PermissionDenied => "unreachable".to_owned(),
            _ => e.to_string(),
        },
    }
}

/// One link with the host's name for it at one end, the destination there and the source at the other end, each with a route.
fn link(host: &Namespace, client: &Namespace, attempt: &Attempt) -> Got<()> {
    let path = client.path().display().to_string();
    let (name, here, there) = (attempt.interface.as_str(), attempt.to.ip().to_string(), attempt.source.to_string());
    let (length, family) = if attempt.to.is_ipv6() { ("128", "-6") } else { ("32", "-4") };
    let ip = |ns: &Namespace, words: &[&str]| {
        let all: Vec<&str> = ["ip"].iter().chain(words).copied().collect();
        ns.run(&all, None, LIMIT)?.ok(&all.join(" ")).map(drop)
    };
    ip(host, &["link", "add", "name", name, "type", "veth", "peer", "name", CLIENT, "netns", &path])?;
    for (ns, device, own, other) in [(host, name, &here, &there), (client, CLIENT, &there, &here)] {
        let own = format!("{own}/{length}");
        let mut add = vec![family, "addr", "add", &own, "dev", device];
        if attempt.to.is_ipv6() {
            // Usable at once.
            add.push("nodad");
        }
        ip(ns, &add)?;
        ip(ns, &["link", "set", device, "up"])?;
        ip(ns, &[family, "route", "add", other, "dev", device])?;
    }
    // Default routes: rules may ask for the route back.
    ip(host, &[family, "route", "add", "default", "dev", name])
}

/// Loads what runs on the host, by the host's own tools.
fn copy_rules(host: &Namespace) -> Got<()> {
    let ask = |argv: &[&str]| -> Got<Option<String>> {
        let words: Vec<String> = argv.iter().map(|w| (*w).to_owned()).collect();
        let Some((name, args)) = words.split_first() else { return Ok(None) };
        let program = match exec::find(name) {
            Err(miss) if miss.is_absent() => return Ok(None),
            other => other?,
        };
        let job = exec::Job { program: &program, args, env: &[], user: None, stdin: None, timeout: LIMIT };
        let output = exec::run(&job, &argv.join(" "))?.ok(&argv.join(" "))?;
        Ok(Some(String::from_utf8_lossy(&output).into_owned()))
    };
    let load = |argv: &[&str], text: &str| host.run(argv, Some(text), LIMIT)?.ok(&argv.join(" ")).map(drop);
    if let Some(sets) = ask(&["ipset", "save"]).unwrap_or_default().filter(|sets| !sets.trim().is_empty()) {
        load(&["ipset", "restore"], &sets)?;
    }
    for v6 in [false, true] {
        let family = if v6 { "ip6" } else { "ip" };
        let names = std::fs::read_to_string(format!("/proc/net/{family}_tables_names")).unwrap_or_default();
        for (flavour, used) in [("legacy", !names.trim().is_empty()), ("nft", true)] {
            if !used {
                continue;
            }
            let save = format!("{family}tables-{flavour}-save");
            if let Some(rules) = ask(&[&save])?.filter(|rules| rules.lines().any(|line| line.starts_with('*'))) {
                load(&[&format!("{family}tables-{flavour}-restore")], &rules)?;
            }
        }
    }
    for table in native_tables(&ask(&["nft", "list", "tables"])?.unwrap_or_default()) {
        let text = ask(&["nft", "-s", &format!("list table {table}")])?.unwrap_or_default();
        load(&["nft", "-f", "-"], &loadable(&text))?;
    }
    Ok(())
}

/// `inet filter`, …: tables that are not of iptables-nft.
fn native_tables(list: &str) -> Vec<String> {
    let names = list.lines().filter_map(|line| line.trim().strip_prefix("table "));
    let of_iptables = |name: &str| {
        let iptables = ["raw", "mangle", "nat", "filter", "security"];
        name.split_once(' ').is_some_and(|(family, name)| matches!(family, "ip" | "ip6") && iptables.contains(&name))
    };
    names.filter(|name| !of_iptables(name)).map(str::to_owned).collect()
}

/// A table that its program owns could be changed by nobody else, and would go away with the program that loads it.
fn loadable(text: &str) -> String {
    let owner = |line: &str| {
        let words = line.trim();
        words.starts_with("flags ") && (words.contains("owner") || words.contains("persist"))
    };
    text.lines().filter(|line| !owner(line)).map(|line| format!("{line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_told_apart_and_made_loadable() {
        assert_eq!(native_tables("table ip filter\ntable inet filter\ntable ip mine\n"), ["inet filter", "ip mine"]);
        let text = "table inet firewalld { # progname firewalld\n\tflags owner,persist\n\tchain a {\n\t}\n}\n";
        assert!(!loadable(text).contains("flags"));
    }
}

//! Who must be able to connect: /etc/rmq-audit/policy.toml and the command line's `--from`, `--user`, … (CONTRACT section 4).

use crate::host::{Host, Miss, read_text};
use clap::{Args, ValueHint};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// Where the policy is looked for.
pub const POLICY_FILE: &str = "/etc/rmq-audit/policy.toml";

/// Where site rules are looked for.
pub const SITE_RULES: &str = "/etc/rmq-audit/rules.d";

/// Services that a client can name, with the port that is theirs when the broker's configuration says nothing else.
pub const SERVICES: &[(&str, u16)] = &[
    ("amqp", 5672),
    ("amqps", 5671),
    ("management", 15672),
    ("management-tls", 15671),
    ("mqtt", 1883),
    ("mqtt-tls", 8883),
    ("stomp", 61613),
    ("stomp-tls", 61614),
    ("stream", 5552),
    ("stream-tls", 5551),
    ("web-mqtt", 15675),
    ("web-mqtt-tls", 15676),
    ("web-stomp", 15674),
    ("web-stomp-tls", 15673),
    ("prometheus", 15692),
    ("prometheus-tls", 15691),
];

/// What findings are judged against.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Intent {
    pub clients: Vec<ClientIntent>,
    /// Cluster peers by address.
    pub peers: Vec<String>,
    pub waivers: Vec<Waiver>,
}

/// One `[[clients]]` entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientIntent {
    pub name: String,
    /// CIDRs, addresses, `any`, `local`; empty: not said.
    pub from: Vec<String>,
    /// `amqp`, `amqps`, `management`, …
    pub service: String,
    pub port: Option<u16>,
    pub user: Option<String>,
    pub password_file: Option<PathBuf>,
    pub vhost: String,
    /// configure, write, read
    pub permissions: [String; 3],
    /// The policy says them; else they are what a client usually needs.
    pub permissions_said: bool,
    /// The default intent "AMQP clients on other hosts": nobody said so.
    pub assumed: bool,
    /// From the policy file, which names all clients; options name one of them.
    pub listed: bool,
    /// The address of this host that it uses, where that was said (`why --to`).
    pub to: Option<IpAddr>,
    /// The interface that its packets come in by, where that was said (`why --interface`).
    pub interface: Option<String>,
}

impl Default for ClientIntent {
    /// "AMQP clients on other hosts": what is meant where nobody said anything.
    fn default() -> Self {
        let all = || ".*".to_owned();
        ClientIntent {
            name: "clients on other hosts".into(),
            from: Vec::new(),
            service: "amqp".into(),
            port: None,
            user: None,
            password_file: None,
            vhost: "/".into(),
            permissions: [all(), all(), all()],
            permissions_said: false,
            assumed: true,
            listed: false,
            to: None,
            interface: None,
        }
    }
}

/// One `[[waiver]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiver {
    pub rule: String,
    pub reason: String,
    /// Civil date; the waiver ends when that day begins.
    pub until: Option<jiff::civil::Date>,
    /// Values that must stand in the finding's message or place.
    pub matches: BTreeMap<String, String>,
}

/// Options that say who must connect; together they make one `[[clients]]` entry.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Who must be able to connect")]
pub struct IntentArgs {
    /// Source network or address of the client, `any` or `local` (repeatable)
    #[arg(long, value_name = "CIDR", global = true)]
    pub from: Vec<String>,
    /// Service that it uses [default: amqp]
    #[arg(long, value_name = "NAME", global = true)]
    pub service: Option<String>,
    /// Port, where it is not the one that the broker's configuration gives the service
    #[arg(long, value_name = "N", global = true, value_parser = clap::value_parser!(u16).range(1..))]
    pub port: Option<u16>,
    /// User name on the broker
    #[arg(long, value_name = "NAME", global = true)]
    pub user: Option<String>,
    /// File whose first line is the password; used to create the user and to prove the login
    #[arg(long, value_name = "FILE", global = true, value_hint = ValueHint::FilePath)]
    pub password_file: Option<PathBuf>,
    /// Virtual host [default: /]
    #[arg(long, value_name = "V", global = true)]
    pub vhost: Option<String>,
}

impl IntentArgs {
    /// Whether anything was said.
    pub fn is_empty(&self) -> bool {
        self.from.is_empty() && self.service.is_none() && self.port.is_none() && self.user.is_none() && self.vhost.is_none()
    }
}

/// A policy that cannot be used: exit code 2.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{at}: {message}")]
pub struct PolicyError {
    /// `file:line:column`, or the option.
    pub at: String,
    pub message: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    clients: Vec<ClientEntry>,
    cluster: Option<Cluster>,
    #[serde(default)]
    waiver: Vec<WaiverEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ClientEntry {
    name: String,
    from: Vec<String>,
    service: Option<String>,
    port: Option<u16>,
    user: Option<String>,
    password_file: Option<PathBuf>,
    vhost: Option<String>,
    permissions: Option<Permissions>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Permissions {
    configure: String,
    write: String,
    read: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Cluster {
    peers: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WaiverEntry {
    rule: String,
    reason: String,
    until: Option<toml_edit::Datetime>,
    #[serde(default, rename = "match")]
    matches: BTreeMap<String, String>,
}

/// Reads the policy (if there is one) and adds what the command line says. `rules` are the names that a waiver may use.
pub fn load(host: &dyn Host, file: Option<&Path>, options: &IntentArgs, rules: &BTreeSet<String>) -> Result<Intent, PolicyError> {
    let path = file.unwrap_or(Path::new(POLICY_FILE));
    let mut intent = match read_checked(host, path) {
        Ok(text) => parse(&text, path, rules)?,
        Err(Miss::Absent { .. } | Miss::Unavailable { .. }) if file.is_none() => Intent::default(),
        Err(miss) => return Err(error(&path.display().to_string(), miss)),
    };
    if !options.is_empty() {
        intent.clients = vec![from_options(options)?];
    }
    if intent.clients.is_empty() {
        intent.clients.push(ClientIntent::default());
    }
    Ok(intent)
}

/// Rules of the site, in order: (file, content). Like the policy they decide what root does.
pub fn site_rules(host: &dyn Host) -> Result<Vec<(String, Vec<u8>)>, PolicyError> {
    let dir = Path::new(SITE_RULES);
    let names = match host.list(dir) {
        Ok(names) => names,
        Err(Miss::Absent { .. } | Miss::Unavailable { .. }) => return Ok(Vec::new()),
        Err(miss) => return Err(error(SITE_RULES, miss)),
    };
    let files = names.iter().filter(|n| n.ends_with(".toml")).map(|n| dir.join(n));
    files
        .map(|file| {
            let text = read_checked(host, &file).map_err(|miss| error(&file.display().to_string(), miss))?;
            Ok((file.display().to_string(), text.into_bytes()))
        })
        .collect()
}

/// The policy decides what root will change: nobody else may be able to write it or to exchange it.
fn read_checked(host: &dyn Host, path: &Path) -> Result<String, Miss> {
    let mut parents: Vec<&Path> =
        path.ancestors().skip(1).map(|p| if p.as_os_str().is_empty() { Path::new(".") } else { p }).collect();
    parents.insert(0, path);
    for place in parents {
        refuse_writable(host, place)?;
    }
    read_text(host, path)
}

fn refuse_writable(host: &dyn Host, path: &Path) -> Result<(), Miss> {
    const STICKY: u32 = 0o1000;
    let meta = host.stat(path, true)?;
    let me = host.identity().uid;
    let shared = meta.mode & 0o022 != 0 && meta.mode & STICKY == 0;
    if (meta.uid != 0 && meta.uid != me) || shared {
        let why = format!(
            "refused: owner uid {}, mode {:04o}; it must belong to root and be writable by nobody else",
            meta.uid,
            meta.mode & 0o7777
        );
        return Err(Miss::failed(path.display().to_string(), why));
    }
    Ok(())
}

fn error(at: &str, message: impl std::fmt::Display) -> PolicyError {
    PolicyError { at: at.to_owned(), message: message.to_string() }
}

fn parse(text: &str, path: &Path, rules: &BTreeSet<String>) -> Result<Intent, PolicyError> {
    let file: File = toml_edit::de::from_str(text).map_err(|e| {
        let (line, column) = position(text, e.span().map_or(0, |s| s.start));
        error(&format!("{}:{line}:{column}", path.display()), e.message())
    })?;
    let place = |needle: &str| {
        let (line, column) = position(text, value_at(text, needle));
        format!("{}:{line}:{column}", path.display())
    };
    let clients = file.clients.into_iter().map(|c| client(c, &place)).collect::<Result<_, _>>()?;
    let waivers = file.waiver.into_iter().map(|w| waiver(w, rules, &place)).collect::<Result<_, _>>()?;
    let peers = file.cluster.map(|c| c.peers).unwrap_or_default();
    for peer in &peers {
        check_peer(peer).map_err(|m| error(&place(peer), m))?;
    }
    Ok(Intent { clients, peers, waivers })
}

fn client(entry: ClientEntry, place: &dyn Fn(&str) -> String) -> Result<ClientIntent, PolicyError> {
    for from in &entry.from {
        check_source(from).map_err(|m| error(&place(from), m))?;
    }
    let service = entry.service.unwrap_or_else(|| "amqp".into());
    check_service(&service).map_err(|m| error(&place(&service), m))?;
    let defaults = ClientIntent::default();
    Ok(ClientIntent {
        name: entry.name,
        from: entry.from,
        service,
        port: entry.port,
        user: entry.user,
        password_file: entry.password_file,
        vhost: entry.vhost.unwrap_or(defaults.vhost),
        permissions_said: entry.permissions.is_some(),
        permissions: entry.permissions.map_or(defaults.permissions, |p| [p.configure, p.write, p.read]),
        assumed: false,
        listed: true,
        ..ClientIntent::default()
    })
}

fn waiver(entry: WaiverEntry, rules: &BTreeSet<String>, place: &dyn Fn(&str) -> String) -> Result<Waiver, PolicyError> {
    if !rules.contains(&entry.rule) {
        return Err(error(&place(&entry.rule), format!("no rule is called `{}`; `rmq-audit explain` lists them", entry.rule)));
    }
    if entry.reason.trim().is_empty() {
        return Err(error(&place(&entry.rule), "a waiver needs a reason"));
    }
    let until = match entry.until.and_then(|d| d.date) {
        None => None,
        Some(d) => {
            Some(jiff::civil::Date::new(d.year as i16, d.month as i8, d.day as i8).map_err(|e| error(&place(&entry.rule), e))?)
        }
    };
    Ok(Waiver { rule: entry.rule, reason: entry.reason, until, matches: entry.matches })
}

fn from_options(options: &IntentArgs) -> Result<ClientIntent, PolicyError> {
    for from in &options.from {
        check_source(from).map_err(|m| error("--from", m))?;
    }
    let service = options.service.clone().unwrap_or_else(|| "amqp".into());
    check_service(&service).map_err(|m| error("--service", m))?;
    let defaults = ClientIntent::default();
    Ok(ClientIntent {
        name: options.user.clone().unwrap_or_else(|| "client".into()),
        from: options.from.clone(),
        service,
        port: options.port,
        user: options.user.clone(),
        password_file: options.password_file.clone(),
        vhost: options.vhost.clone().unwrap_or(defaults.vhost.clone()),
        assumed: false,
        ..defaults
    })
}

fn check_service(name: &str) -> Result<(), String> {
    if SERVICES.iter().any(|(s, _)| *s == name) {
        return Ok(());
    }
    let known: Vec<_> = SERVICES.iter().map(|(s, _)| *s).collect();
    Err(format!("unknown service `{name}`; known: {}", known.join(", ")))
}

/// The plugin that serves it; `None`: the broker itself does.
pub fn plugin_of(service: &str) -> Option<&'static str> {
    match service.trim_end_matches("-tls") {
        "management" => Some("rabbitmq_management"),
        "mqtt" => Some("rabbitmq_mqtt"),
        "stomp" => Some("rabbitmq_stomp"),
        "stream" => Some("rabbitmq_stream"),
        "web-mqtt" => Some("rabbitmq_web_mqtt"),
        "web-stomp" => Some("rabbitmq_web_stomp"),
        "prometheus" => Some("rabbitmq_prometheus"),
        _ => None,
    }
}

/// Whether this can stand in `from`.
pub fn check_source(text: &str) -> Result<(), String> {
    if text == "any" || text == "local" {
        return Ok(());
    }
    crate::formats::cidr::Cidr::parse(text)
        .map(|_| ())
        .ok_or_else(|| format!("`{text}` is neither a network (10.0.0.0/24) nor an address, `any` or `local`"))
}

/// Whether this can stand in `peers`.
fn check_peer(text: &str) -> Result<(), String> {
    match text {
        "any" | "local" => Err(format!("`{text}` is no address of a node: the ports of the cluster are for its nodes alone")),
        _ => check_source(text),
    }
}

/// Where a text stands as a value: the first place in quotes that is no comment.
fn value_at(text: &str, value: &str) -> usize {
    let quoted = ['"', '\''].map(|quote| format!("{quote}{value}{quote}"));
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        let found = quoted.iter().filter_map(|q| line.find(q)).min();
        if let Some(at) = found.filter(|at| !line[..*at].trim_start().starts_with('#')) {
            return start + at + 1;
        }
        start += line.len();
    }
    text.find(value).unwrap_or(0)
}

/// Line and column (from 1) of a byte offset.
fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = &text[..offset.min(text.len())];
    let line_start = before.rfind('\n').map_or(0, |i| i + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> BTreeSet<String> {
        BTreeSet::from(["listener-loopback-only".to_owned()])
    }

    fn fails(text: &str) -> String {
        parse(text, Path::new("policy.toml"), &rules()).unwrap_err().to_string()
    }

    #[test]
    fn the_policy_of_the_contract_is_read() {
        let text = r#"
[[clients]]
name = "orders"
from = ["10.0.0.0/24"]
service = "amqp"
user = "orders"
password_file = "/etc/rmq-audit/orders.password"
vhost = "/"
permissions = { configure = ".*", write = ".*", read = "^q" }

[cluster]
peers = ["10.0.0.2", "10.0.0.3"]

[[waiver]]
rule = "listener-loopback-only"
reason = "behind haproxy on this host, CHG-1234"
until = 2027-01-31
match = { listener = "127.0.0.1:5672" }
"#;
        let intent = parse(text, Path::new("policy.toml"), &rules()).unwrap();
        assert_eq!(intent.clients[0].permissions[2], "^q");
        assert!(!intent.clients[0].assumed);
        assert_eq!(intent.peers.len(), 2);
        assert_eq!(intent.waivers[0].until, Some(jiff::civil::date(2027, 1, 31)));
    }

    #[test]
    fn mistakes_are_told_with_their_place() {
        assert!(fails("[[clients]]\nname = \"a\"\nfrom = [\"any\"]\nusr = \"x\"\n").starts_with("policy.toml:4:1: "));
        assert!(fails("[[waiver]]\nrule = \"nope\"\nreason = \"x\"\n").starts_with("policy.toml:2:9: no rule is called"));
        assert!(fails("[[waiver]]\nrule = \"listener-loopback-only\"\n").contains("reason"));
        assert!(fails("[[clients]]\nname = \"a\"\nfrom = [\"10.0.0.0/33\"]\n").starts_with("policy.toml:3:10: "));
        assert!(fails("[[clients]\n").starts_with("policy.toml:1:"));
        assert!(fails("[cluster]\npeer = [\"10.0.0.2\"]\n").starts_with("policy.toml:2:1: "));
        assert!(fails("[cluster]\npeers = [\"10.0.0.2\", \"mq3\"]\n").starts_with("policy.toml:2:23: "));
        assert!(fails("[cluster]\npeers = [\"any\"]\n").contains("is no address of a node"));
        assert!(
            fails("[[waiver]]\nrule = \"listener-loopback-only\"\nreason = \"x\"\nuntil = \"soon\"\n")
                .starts_with("policy.toml:4:9: ")
        );
        let second = "# from = [\"10.0.0.0/33\"]\n[[clients]]\nname = \"a\"\nfrom = [\"10.0.0.0/33\"]\n";
        assert!(fails(second).starts_with("policy.toml:4:10: "), "{}", fails(second));
    }
}

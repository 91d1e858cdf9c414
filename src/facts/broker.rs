//! The running node, asked over the Erlang distribution protocol.
use super::Fact;
use super::names::Names;
use super::process::{Process, Processes};
use super::sockets::Socket;
use crate::formats::passwords;
use crate::host::rpc::{self, Call, EnvKey, StoredPassword, Target};
use crate::host::{Command, Got, Host, Miss};
use eetf::Term;
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub mod limits;

use limits::{Limit, MemoryMark, NodeLimit};

/// A node that answers. `null` in [`super::Facts::node`] means: no broker VM runs.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Node {
    pub name: String,
    /// rpc | rabbitmqctl: how the rest was learnt.
    pub source: String,
    pub version: Fact<String>,
    pub otp: Fact<String>,
    /// `rabbit:is_running/0`: booted to the end
    pub booted: Fact<bool>,
    pub users: Fact<Vec<User>>,
    pub permissions: Fact<Vec<Permission>>,
    pub vhosts: Fact<Vec<String>>,
    pub vhosts_down: Fact<Vec<String>>,
    pub loopback_users: Fact<Vec<String>>,
    /// `ranch:info/0`: real state of the client listeners
    pub listeners: Fact<Vec<NodeListener>>,
    /// memory | disk | file_descriptor_limit; of any node of the cluster, since all of them block publishers then
    pub alarms: Fact<Vec<String>>,
    pub drained: Fact<bool>,
    pub auth_mechanisms: Fact<Vec<String>>,
    pub auth_backends: Fact<Vec<String>>,
    /// anonymous_login_user; null: `none`, or a version without anonymous login
    pub anonymous_user: Fact<Option<String>>,
    pub proxy_protocol: Fact<bool>,
    /// Bytes.
    pub memory_limit: Fact<i64>,
    /// Bytes.
    pub disk_free_limit: Fact<i64>,
    /// Bytes.
    pub disk_free: Fact<i64>,
    pub config_files: Fact<Vec<String>>,
    pub log_files: Fact<Vec<String>>,
    pub khepri: Fact<bool>,
    pub running_nodes: Fact<Vec<String>>,
    /// Connections to this node's client listeners but those of HTTP, logged in or not (`ranch:info/0`).
    pub connections: Fact<i64>,
    /// Limits of virtual hosts and users that have some.
    pub limits: Fact<Vec<Limit>>,
    /// connection_max; null: infinity
    pub connection_limit: Fact<Option<NodeLimit>>,
    /// channel_max of a connection; null: 0, which is no limit
    pub channel_max: Fact<Option<i64>>,
    pub memory_watermark: Fact<MemoryMark>,
    /// Every connection waits for the name of its peer (reverse_dns_lookups).
    pub reverse_dns: Fact<bool>,
    /// Applications that run in the node: the core, plugins, libraries.
    pub applications: Fact<Vec<String>>,
}

/// An internal user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct User {
    pub name: String,
    pub tags: Vec<String>,
    /// The stored hash is that of the user's own name (guest/guest); known only where it was tested.
    pub default_password: Fact<bool>,
    /// Its own name, or one of the passwords that are tried first: `admin`, `rabbitmq`, `123456`, …
    pub guessable_password: Fact<bool>,
    /// Without one (`rabbitmqctl clear_password`) no password is right: the user may log in with a certificate only.
    pub has_password: Fact<bool>,
    /// In the effective loopback_users.
    pub loopback_only: Fact<bool>,
}

/// Permissions of a user in a vhost: regular expressions in the order of rabbitmqctl.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Permission {
    pub user: String,
    pub vhost: String,
    pub configure: String,
    pub write: String,
    pub read: String,
}

/// A listener of ranch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct NodeListener {
    pub address: String,
    pub port: i64,
    /// amqp | amqps | http | https, else the name of the Erlang module that serves it
    pub protocol: String,
    /// Suspended or draining: there is no socket, whatever `rabbitmqctl status` says.
    pub suspended: bool,
}

const NOT_RUNNING: &str = "the rabbit application does not run on the node: it is starting, or was stopped";
/// Port of the distribution listener unless configured otherwise (5672 + 20000).
const DEFAULT_DIST_PORT: i64 = 25672;
/// Home of the broker's user unless its command line says otherwise.
const DEFAULT_HOME: &str = "/var/lib/rabbitmq";
/// All calls together; a healthy node needs a hundredth of a second.
const ALL_CALLS_LIMIT: Duration = Duration::from_secs(10);
/// Users whose password is compared with their name: one call each.
const MAX_TESTED_USERS: usize = 20;
/// Virtual hosts whose permissions rabbitmqctl is asked for: half a second each.
const MAX_LISTED_VHOSTS: usize = 5;

/// Asks the running node for everything at once. `null`: no broker VM runs. Unknown: it runs, but neither the distribution
/// protocol nor rabbitmqctl got an answer.
pub fn collect(host: &dyn Host, process: &Processes, sockets: &Fact<Vec<Socket>>, names: &Names) -> Fact<Option<Node>> {
    let beam = match &process.beam {
        Fact::Known(Some(beam)) => beam,
        Fact::Known(None) => return Fact::Known(None),
        Fact::Unknown(why) => return Fact::Unknown(why.clone()),
    };
    let node = target(beam, sockets, names).and_then(|target| over_rpc(host, target));
    match node {
        Ok(node) => Fact::Known(Some(node)),
        // Who may not read the cookie is refused by rabbitmqctl too, after ten seconds of starting an Erlang VM.
        Err(why @ Miss::Denied { .. }) => Fact::from(why),
        Err(why) => over_rabbitmqctl(host, name_of(beam, names), &why).map_or(Fact::from(why), |node| Fact::Known(Some(node))),
    }
}

/// Where the broker's distribution listener is: a socket of its VM, else the Erlang port mapper will know.
pub fn target(beam: &Process, sockets: &Fact<Vec<Socket>>, names: &Names) -> Got<Target> {
    if follows(&beam.args, "-proto_dist").is_some_and(|protocol| protocol.contains("tls")) {
        let why = "the node speaks TLS to other nodes (-proto_dist inet_tls), which rmq-audit does not".into();
        return Err(Miss::Unavailable { what: "the running node".into(), why });
    }
    let socket = dist_socket(&beam.args, sockets);
    let home = follows(&beam.args, "-home").map_or(Path::new(DEFAULT_HOME), Path::new);
    // A cookie among the arguments goes before the file; its value is struck out of the facts.
    let given = follows(&beam.args, "-setcookie").map(|_| format!("/proc/{}/cmdline", beam.pid));
    Ok(Target {
        node: name_of(beam, names),
        address: socket.map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), reachable_at),
        port: socket.and_then(|s| u16::try_from(s.port).ok()),
        cookie_file: given.map_or_else(|| home.join(".erlang.cookie"), PathBuf::from),
    })
}

fn name_of(beam: &Process, names: &Names) -> String {
    beam.node.clone().or_else(|| names.node.known().cloned()).unwrap_or_else(|| "rabbit".into())
}

/// The argument after a flag.
pub(super) fn follows<'a>(args: &'a [String], flag: &str) -> Option<&'a str> {
    let at = args.iter().position(|arg| arg == flag)?;
    args.get(at + 1).map(String::as_str)
}

fn dist_socket<'a>(args: &[String], sockets: &'a Fact<Vec<Socket>>) -> Option<&'a Socket> {
    let configured = follows(args, "inet_dist_listen_min").and_then(|port| port.parse().ok());
    let port = configured.unwrap_or(DEFAULT_DIST_PORT);
    let ours = |s: &&Socket| s.owner.known().is_some_and(|owner| owner.as_ref().is_some_and(|o| o.broker));
    sockets.known()?.iter().filter(ours).find(|s| s.port == port)
}

/// The address at which a listener of this host can be reached from this host.
fn reachable_at(socket: &Socket) -> IpAddr {
    match socket.address.parse() {
        Ok(IpAddr::V6(address)) if address.is_unspecified() && !socket.dual_stack => IpAddr::V6(Ipv6Addr::LOCALHOST),
        Ok(address) if !address.is_unspecified() => address,
        _ => IpAddr::V4(Ipv4Addr::LOCALHOST),
    }
}

// --- over the distribution protocol

/// `Err`: the node cannot be talked to at all.
fn over_rpc(host: &dyn Host, target: Target) -> Got<Node> {
    let asker = Asker::new(host, target);
    let name = asker.ask(&Call::NodeName)?;
    let name = rpc::text(&name).unwrap_or_else(|| asker.target.node.clone());
    let booted = asker.fact(&Call::IsRunning, as_bool);
    let version = asker.fact(&Call::Version, rpc::text);
    let otp = asker.fact(&Call::OtpRelease, rpc::text);
    let node = match booted {
        Fact::Known(false) => Node::unknown(name, "rpc", NOT_RUNNING),
        _ => asker.running_node(name, &version),
    };
    Ok(Node { version, otp, booted, ..node })
}

/// Asks one node, as long as it answers in time.
pub(super) struct Asker<'a> {
    host: &'a dyn Host,
    target: Target,
    begun: Instant,
    /// A call that was not answered in time: those after it would wait as long, one after the other.
    hung: RefCell<Option<Miss>>,
}

impl<'a> Asker<'a> {
    pub(super) fn new(host: &'a dyn Host, target: Target) -> Self {
        Asker { host, target, begun: Instant::now(), hung: RefCell::new(None) }
    }

    fn ask(&self, call: &Call) -> Got<Term> {
        if let Some(miss) = &*self.hung.borrow() {
            return Err(miss.clone());
        }
        if self.begun.elapsed() > ALL_CALLS_LIMIT {
            return Err(Miss::Timeout { what: format!("all calls to {}", self.target.node), seconds: ALL_CALLS_LIMIT.as_secs() });
        }
        let got = self.host.call(&self.target, call);
        if let Err(miss @ Miss::Timeout { .. }) = &got {
            self.hung.replace(Some(miss.clone()));
        }
        got
    }

    pub(super) fn fact<T>(&self, call: &Call, decode: impl FnOnce(&Term) -> Option<T>) -> Fact<T> {
        decoded(call, self.ask(call), decode)
    }

    /// A setting of the `rabbit` application; `decode` gets `None` where it is not set.
    pub(super) fn setting<T>(&self, key: EnvKey, decode: impl FnOnce(Option<&Term>) -> Option<T>) -> Fact<T> {
        self.fact(&Call::RabbitEnv(key), |term| match rpc::elements(term) {
            [ok, value] if rpc::name(ok) == Some("ok") => decode(Some(value)),
            _ if rpc::name(term) == Some("undefined") => decode(None),
            _ => None,
        })
    }

    fn running_node(&self, name: String, version: &Fact<String>) -> Node {
        let loopback_users = self.setting(EnvKey::LoopbackUsers, |value| texts(value?));
        let ranch = self.ask(&Call::RanchInfo);
        let connections = decoded(&Call::RanchInfo, ranch.clone(), connections);
        Node {
            users: self.users(&loopback_users),
            permissions: self.fact(&Call::ListPermissions, permissions),
            vhosts: self.fact(&Call::ListVhosts, texts),
            vhosts_down: self.fact(&Call::VhostsDown, texts),
            loopback_users,
            connection_limit: self.node_limit(version, &connections),
            connections,
            listeners: decoded(&Call::RanchInfo, ranch, listeners),
            alarms: self.fact(&Call::Alarms, alarms),
            drained: self.fact(&Call::Drained, as_bool),
            auth_mechanisms: self.setting(EnvKey::AuthMechanisms, |value| texts(value?)),
            auth_backends: self.setting(EnvKey::AuthBackends, |value| Some(rpc::items(value?)?.iter().map(rpc::brief).collect())),
            anonymous_user: self.setting(EnvKey::AnonymousLoginUser, anonymous_user),
            proxy_protocol: self.setting(EnvKey::ProxyProtocol, |value| value.map_or(Some(false), as_bool)),
            memory_limit: self.fact(&Call::MemoryLimit, rpc::integer),
            disk_free_limit: self.fact(&Call::DiskFreeLimit, rpc::integer),
            disk_free: self.fact(&Call::DiskFree, rpc::integer),
            config_files: self.fact(&Call::ConfigFiles, texts),
            log_files: self.fact(&Call::LogLocations, texts),
            khepri: self.khepri(version),
            running_nodes: self.fact(&Call::RunningNodes, texts),
            limits: self.limits(),
            channel_max: self
                .setting(EnvKey::ChannelMax, |value| value.map_or(Some(None), |max| Some(rpc::integer(max).filter(|m| *m > 0)))),
            memory_watermark: self.memory_mark(),
            reverse_dns: self.setting(EnvKey::ReverseDnsLookups, |value| value.map_or(Some(false), as_bool)),
            applications: self.fact(&Call::Applications, texts),
            ..Node::unknown(name, "rpc", "not asked")
        }
    }

    /// Khepri came with 3.13. Older versions are not asked: the node would search all its code paths for the module (40 ms on 3.8).
    fn khepri(&self, version: &Fact<String>) -> Fact<bool> {
        if version.known().and_then(|v| series(v)).is_some_and(|series| series < (3, 13)) {
            return Fact::Known(false);
        }
        self.fact(&Call::KhepriEnabled, as_bool)
    }

    fn users(&self, loopback_users: &Fact<Vec<String>>) -> Fact<Vec<User>> {
        self.fact(&Call::ListUsers, users).map(|users| {
            let user = |(index, (name, tags)): (usize, (String, Vec<String>))| {
                let password = self.password(index, &name);
                User {
                    default_password: told(&password, |p| passwords::is(&p.hash, &p.module, &name)),
                    guessable_password: told(&password, |p| {
                        passwords::is(&p.hash, &p.module, "")?;
                        Some(passwords::guess(&p.hash, &p.module, &name).is_some())
                    }),
                    has_password: told(&password, |p| Some(!p.hash.is_empty())),
                    loopback_only: loopback_users.as_ref().map(|users| users.contains(&name)),
                    name,
                    tags,
                }
            };
            users.into_iter().enumerate().map(user).collect()
        })
    }

    fn password(&self, index: usize, name: &str) -> Fact<StoredPassword> {
        if index >= MAX_TESTED_USERS {
            return Fact::Unknown(format!("only the passwords of the first {MAX_TESTED_USERS} users are tested"));
        }
        self.fact(&Call::LookupUser(name.to_owned()), StoredPassword::of)
    }
}

/// What a stored password tells; `None`: it is hashed in a way of its own.
fn told(password: &Fact<StoredPassword>, question: impl FnOnce(&StoredPassword) -> Option<bool>) -> Fact<bool> {
    match password {
        Fact::Known(password) => match question(password) {
            Some(answer) => Fact::Known(answer),
            None => Fact::Unknown(format!("password hash: hashed with {}, which is not tested", password.module)),
        },
        Fact::Unknown(why) => Fact::Unknown(why.clone()),
    }
}

fn decoded<T>(call: &Call, answer: Got<Term>, decode: impl FnOnce(&Term) -> Option<T>) -> Fact<T> {
    let not_understood = || {
        let what = call.mfas("").first().map(ToString::to_string).unwrap_or_default();
        Miss::failed(what, "the answer was not understood")
    };
    answer.and_then(|term| decode(&term).ok_or_else(not_understood)).into()
}

/// `4.0.5` → (4, 0)
fn series(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split('.').map(|part| part.parse().ok());
    Some((parts.next()??, parts.next()??))
}

// --- terms to facts

fn as_bool(term: &Term) -> Option<bool> {
    match rpc::name(term)? {
        "true" => Some(true),
        "false" => Some(false),
        _ => None,
    }
}

pub(super) fn texts(term: &Term) -> Option<Vec<String>> {
    rpc::items(term)?.iter().map(rpc::text).collect()
}

fn field_text(term: &Term, key: &str) -> Option<String> {
    rpc::field(term, key).and_then(rpc::text)
}

fn users(term: &Term) -> Option<Vec<(String, Vec<String>)>> {
    rpc::items(term)?.iter().map(|user| Some((field_text(user, "user")?, texts(rpc::field(user, "tags")?)?))).collect()
}

fn permissions(term: &Term) -> Option<Vec<Permission>> {
    let permission = |term: &Term| {
        Some(Permission {
            user: field_text(term, "user")?,
            vhost: field_text(term, "vhost")?,
            configure: field_text(term, "configure")?,
            write: field_text(term, "write")?,
            read: field_text(term, "read")?,
        })
    };
    rpc::items(term)?.iter().map(permission).collect()
}

/// `[{{resource_limit, memory | disk, Node}, []}, {file_descriptor_limit, []}]`
fn alarms(term: &Term) -> Option<Vec<String>> {
    let alarm = |term: &Term| {
        let what = rpc::elements(term).first()?;
        rpc::text(rpc::elements(what).get(1).unwrap_or(what))
    };
    let kinds: Option<BTreeSet<String>> = rpc::items(term)?.iter().map(alarm).collect();
    Some(kinds?.into_iter().collect())
}

/// Not set before 4.0, `none` where it is switched off.
fn anonymous_user(value: Option<&Term>) -> Option<Option<String>> {
    match value {
        None => Some(None),
        Some(user) if rpc::name(user) == Some("none") => Some(None),
        Some(user) => rpc::text(user).map(Some),
    }
}

fn listeners(info: &Term) -> Option<Vec<NodeListener>> {
    rpc::items(info)?;
    rpc::pairs(info).iter().map(|(reference, details)| listener(reference, details)).collect()
}

/// A suspended listener has no socket, so no address either: its reference `{acceptor, Ip, Port}` still names both.
fn listener(reference: &Term, details: &Term) -> Option<NodeListener> {
    let named = rpc::elements(reference);
    let address = rpc::field(details, "ip").and_then(address).or_else(|| named.get(1).and_then(address))?;
    let port = rpc::field(details, "port").and_then(rpc::integer).or_else(|| named.get(2).and_then(rpc::integer))?;
    Some(NodeListener {
        address: address.to_string(),
        port,
        protocol: protocol(details)?,
        suspended: field_text(details, "status")? != "running",
    })
}

/// Somebody who is connected to the node at this moment.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Connected {
    pub user: String,
    pub vhost: String,
    pub from: IpAddr,
}

/// Asks a running node who is connected (logged in, over any protocol that it tracks).
pub fn connected(host: &dyn Host, target: Target) -> Got<Vec<Connected>> {
    let answer = Asker::new(host, target).ask(&Call::Connections)?;
    let one = |term: &Term| match rpc::elements(term) {
        [vhost, user, from] => {
            Some(Connected { user: rpc::text(user)?, vhost: rpc::text(vhost)?, from: address(from)?.to_canonical() })
        }
        _ => None,
    };
    Ok(rpc::items(&answer).unwrap_or_default().iter().filter_map(one).collect())
}

fn address(term: &Term) -> Option<IpAddr> {
    let parts: Option<Vec<u16>> = rpc::elements(term).iter().map(|t| u16::try_from(rpc::integer(t)?).ok()).collect();
    let parts = parts?;
    if let Ok(groups) = <[u16; 8]>::try_from(parts.as_slice()) {
        return Some(IpAddr::from(groups));
    }
    let octets: Option<Vec<u8>> = parts.iter().map(|p| u8::try_from(*p).ok()).collect();
    <[u8; 4]>::try_from(octets?).ok().map(IpAddr::from)
}

fn protocol(details: &Term) -> Option<String> {
    let module = field_text(details, "protocol")?;
    let tls = rpc::field(details, "transport").and_then(rpc::name) == Some("ranch_ssl");
    Some(match (module.as_str(), tls) {
        ("rabbit_connection_sup", false) => "amqp".into(),
        ("rabbit_connection_sup", true) => "amqps".into(),
        ("cowboy_clear", _) => "http".into(),
        ("cowboy_tls", _) => "https".into(),
        _ => module,
    })
}

/// Connections of all listeners but those of HTTP, whether logged in or not.
fn connections(info: &Term) -> Option<i64> {
    rpc::items(info)?;
    let count = |(_, details): &(Term, Term)| match protocol(details)?.as_str() {
        "http" | "https" => Some(0),
        _ => rpc::field(details, "active_connections").and_then(rpc::integer),
    };
    rpc::pairs(info).iter().map(count).sum()
}

impl Node {
    /// A node of which nothing is known but that it is there.
    fn unknown(name: String, source: &str, why: &str) -> Self {
        fn unknown<T>(why: &str) -> Fact<T> {
            Fact::Unknown(why.to_owned())
        }
        Node {
            name,
            source: source.to_owned(),
            version: unknown(why),
            otp: unknown(why),
            booted: unknown(why),
            users: unknown(why),
            permissions: unknown(why),
            vhosts: unknown(why),
            vhosts_down: unknown(why),
            loopback_users: unknown(why),
            listeners: unknown(why),
            alarms: unknown(why),
            drained: unknown(why),
            auth_mechanisms: unknown(why),
            auth_backends: unknown(why),
            anonymous_user: unknown(why),
            proxy_protocol: unknown(why),
            memory_limit: unknown(why),
            disk_free_limit: unknown(why),
            disk_free: unknown(why),
            config_files: unknown(why),
            log_files: unknown(why),
            khepri: unknown(why),
            running_nodes: unknown(why),
            connections: unknown(why),
            limits: unknown(why),
            connection_limit: unknown(why),
            channel_max: unknown(why),
            memory_watermark: unknown(why),
            reverse_dns: unknown(why),
            applications: unknown(why),
        }
    }
}

// --- with rabbitmqctl

/// Users, virtual hosts and permissions only. `None`: rabbitmqctl got no answer either.
fn over_rabbitmqctl(host: &dyn Host, name: String, why: &Miss) -> Option<Node> {
    #[derive(Deserialize)]
    struct CtlUser {
        user: String,
        tags: Vec<String>,
    }
    #[derive(Deserialize)]
    struct CtlVhost {
        name: String,
    }
    let users: Vec<CtlUser> = ctl(host, &["list_users"]).ok()?;
    let mut node = Node::unknown(name, "rabbitmqctl", &format!("{why} (rabbitmqctl was asked for users and permissions only)"));
    let user = |u: CtlUser| User {
        name: u.user,
        tags: u.tags,
        default_password: Fact::from(why.clone()),
        guessable_password: Fact::from(why.clone()),
        has_password: Fact::from(why.clone()),
        loopback_only: Fact::from(why.clone()),
    };
    node.users = Fact::Known(users.into_iter().map(user).collect());
    let vhosts: Got<Vec<CtlVhost>> = ctl(host, &["list_vhosts"]);
    node.vhosts = vhosts.map(|vhosts| vhosts.into_iter().map(|v| v.name).collect()).into();
    node.permissions = node.vhosts.as_ref().known().map_or(node.permissions, |vhosts| ctl_permissions(host, vhosts).into());
    Some(node)
}

fn ctl_permissions(host: &dyn Host, vhosts: &[String]) -> Got<Vec<Permission>> {
    #[derive(Deserialize)]
    struct CtlPermission {
        user: String,
        configure: String,
        write: String,
        read: String,
    }
    if vhosts.len() > MAX_LISTED_VHOSTS {
        return Err(Miss::failed(
            "rabbitmqctl list_permissions",
            format!("more than {MAX_LISTED_VHOSTS} virtual hosts, not asked"),
        ));
    }
    let mut all = Vec::new();
    for vhost in vhosts {
        let found: Vec<CtlPermission> = ctl(host, &["list_permissions", &format!("--vhost={vhost}")])?;
        all.extend(found.into_iter().map(|p| Permission {
            user: p.user,
            vhost: vhost.clone(),
            configure: p.configure,
            write: p.write,
            read: p.read,
        }));
    }
    Ok(all)
}

fn ctl<T: for<'de> Deserialize<'de>>(host: &dyn Host, args: &[&str]) -> Got<T> {
    let what = format!("rabbitmqctl {}", args.join(" "));
    let command = Command::Rabbitmqctl { args: args.iter().map(ToString::to_string).collect() };
    let output = host.run(&command)?.ok(&what)?;
    serde_json::from_slice(&output).map_err(|e| Miss::failed(what, e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::rpc::{atom, binary, tuple};
    use crate::host::{Identity, InterfaceAddress, Kind, Meta, Output, Space, Tail, amqp};

    /// A host that can only be asked for broker calls and rabbitmqctl.
    struct Broker<C, R>(C, R);

    fn no<T>() -> Got<T> {
        Err(Miss::failed("test", "not part of this test"))
    }

    impl<C: Fn(&Target, &Call) -> Got<Term> + Sync, R: Fn(&Command) -> Got<Output> + Sync> Host for Broker<C, R> {
        fn identity(&self) -> Identity {
            Identity { uid: 0, now: 0, offline: false, nodename: None }
        }
        fn read(&self, _: &Path, _: u64) -> Got<Vec<u8>> {
            no()
        }
        fn tail(&self, _: &Path, _: u64) -> Got<Tail> {
            no()
        }
        fn list(&self, _: &Path) -> Got<Vec<String>> {
            no()
        }
        fn stat(&self, _: &Path, _: bool) -> Got<Meta> {
            Ok(Meta { kind: Kind::Other, mode: 0, uid: 0, gid: 0, size: 0, mtime: 0 })
        }
        fn read_link(&self, _: &Path) -> Got<std::path::PathBuf> {
            no()
        }
        fn space(&self, _: &Path) -> Got<Space> {
            no()
        }
        fn addresses(&self) -> Got<Vec<InterfaceAddress>> {
            no()
        }
        fn run(&self, command: &Command) -> Got<Output> {
            (self.1)(command)
        }
        fn call(&self, target: &Target, call: &Call) -> Got<Term> {
            (self.0)(target, call)
        }
        fn amqp(&self, _: &amqp::Probe) -> Got<amqp::Answer> {
            no()
        }
    }

    fn list(items: Vec<Term>) -> Term {
        eetf::List::from(items).into()
    }
    fn string(text: &str) -> Term {
        eetf::ByteList::from(text).into()
    }
    fn number(value: i32) -> Term {
        eetf::FixInteger { value }.into()
    }
    fn pair(key: &str, value: Term) -> Term {
        tuple([atom(key), value])
    }
    fn set(value: Term) -> Got<Term> {
        Ok(tuple([atom("ok"), value]))
    }
    fn wildcard() -> Term {
        tuple([0; 8].map(number))
    }
    fn acceptor(port: i32) -> Term {
        tuple([atom("acceptor"), wildcard(), number(port)])
    }
    fn ranch(port: i32, protocol: &str, running: bool, connections: i32) -> Vec<(Term, Term)> {
        let bound = |value: Term| if running { value } else { atom("undefined") };
        vec![
            (atom("status"), atom(if running { "running" } else { "suspended" })),
            (atom("ip"), bound(wildcard())),
            (atom("port"), bound(number(port))),
            (atom("protocol"), atom(protocol)),
            (atom("transport"), atom(if port == 5671 { "ranch_ssl" } else { "ranch_tcp" })),
            (atom("active_connections"), number(connections)),
            (atom("transport_options"), list(vec![pair("password", string("TOPSECRET"))])),
        ]
    }
    /// ranch 2 gives a map of maps, ranch 1 (RabbitMQ 3.8) a list of lists.
    fn ranch_map() -> Term {
        let details =
            |d: Vec<(Term, Term)>| Term::from(eetf::Map::from(d.into_iter().collect::<std::collections::HashMap<_, _>>()));
        Term::from(eetf::Map::from([
            (acceptor(5672), details(ranch(5672, "rabbit_connection_sup", true, 3))),
            (acceptor(15672), details(ranch(15672, "cowboy_clear", true, 9))),
        ]))
    }
    fn ranch_list() -> Term {
        let details = |d: Vec<(Term, Term)>| list(d.into_iter().map(|(k, v)| tuple([k, v])).collect());
        list(vec![
            tuple([acceptor(5671), details(ranch(5671, "rabbit_connection_sup", false, 1))]),
            tuple([acceptor(5672), details(ranch(5672, "rabbit_connection_sup", false, 2))]),
        ])
    }

    /// `lookup_user/1` of 3.8.9 for guest, with its stored hash of `guest`.
    fn guest(hashing: &str) -> Term {
        let hash: [u8; 36] = [
            131, 246, 219, 126, 38, 240, 158, 153, 89, 149, 160, 201, 29, 3, 26, 96, 209, 164, 203, 98, 241, 27, 46, 49, 28, 143,
            234, 17, 235, 140, 58, 139, 47, 166, 40, 23,
        ];
        let hash = Term::from(eetf::Binary::from(&hash[..]));
        let user = tuple([atom("internal_user"), binary("guest"), hash, list(vec![atom("administrator")]), atom(hashing)]);
        tuple([atom("ok"), user])
    }

    /// The answers of a 3.8.9 node with default settings.
    fn old_node(call: &Call) -> Got<Term> {
        Ok(match call {
            Call::NodeName => atom("rabbit@mq1"),
            Call::Version => string("3.8.9"),
            Call::OtpRelease => string("23.2.6"),
            Call::QueuedMessages(_) => list(vec![]),
            Call::IsRunning => atom("true"),
            Call::ListUsers => list(vec![
                list(vec![pair("user", binary("guest")), pair("tags", list(vec![atom("administrator")]))]),
                list(vec![pair("user", binary("gast")), pair("tags", list(vec![]))]),
            ]),
            Call::LookupUser(_) => guest("rabbit_password_hashing_sha256"),
            Call::ListPermissions => list(vec![list(vec![
                pair("user", binary("guest")),
                pair("vhost", binary("/")),
                pair("configure", binary(".*")),
                pair("write", binary("^a$")),
                pair("read", binary("")),
            ])]),
            Call::ListVhosts => list(vec![binary("/"), binary("ü")]),
            Call::VhostsDown => list(vec![]),
            Call::RanchInfo => call.pare(ranch_list()),
            Call::Alarms => list(vec![
                tuple([tuple([atom("resource_limit"), atom("memory"), atom("rabbit@mq1")]), list(vec![])]),
                tuple([tuple([atom("resource_limit"), atom("memory"), atom("rabbit@mq2")]), list(vec![])]),
                tuple([atom("file_descriptor_limit"), list(vec![])]),
            ]),
            Call::Drained => atom("false"),
            Call::RabbitEnv(EnvKey::LoopbackUsers) => return set(list(vec![binary("guest")])),
            Call::RabbitEnv(EnvKey::AuthMechanisms) => return set(list(vec![atom("PLAIN"), atom("AMQPLAIN")])),
            Call::RabbitEnv(EnvKey::AuthBackends) => {
                return set(list(vec![atom("internal"), tuple([atom("ldap"), atom("internal")])]));
            }
            Call::RabbitEnv(EnvKey::ConnectionMax) => return set(number(100)),
            Call::RabbitEnv(EnvKey::VmMemoryHighWatermark) => return set(eetf::Float { value: 0.4 }.into()),
            Call::RabbitEnv(_) => atom("undefined"),
            Call::MemoryLimit => eetf::BigInteger::from(10_110_604_083_u64).into(),
            Call::DiskFreeLimit => number(50_000_000),
            Call::DiskFree => atom("NaN"),
            Call::ConfigFiles => list(vec![string("/etc/rabbitmq/rabbitmq.conf")]),
            Call::LogLocations => list(vec![]),
            Call::KhepriEnabled => panic!("3.8 is not asked"),
            Call::RunningNodes => list(vec![atom("rabbit@mq1")]),
            Call::ClusterStatus | Call::FeatureFlags | Call::DeprecatedInUse | Call::Policies | Call::Connections => {
                panic!("asked elsewhere")
            }
            Call::VhostLimits => list(vec![tuple([binary("/"), list(vec![tuple([binary("max-connections"), number(2)])])])]),
            Call::UserLimits => return Err(Miss::Absent { what: "get_user_limits".into() }),
            Call::ConnectionsTo(_) => number(2),
            Call::Applications => call.pare(list(vec![tuple([atom("rabbit"), string("RabbitMQ"), string("3.8.9")])])),
            Call::MemoryWatermark => eetf::Float { value: 0.4 }.into(),
            Call::ConnectionsOf(_) => panic!("no user has a limit"),
            Call::ConfigState | Call::Accepts(_) | Call::Differences(_) => panic!("asked elsewhere"),
        })
    }

    fn somewhere() -> Target {
        Target { node: "rabbit@mq1".into(), address: Ipv4Addr::LOCALHOST.into(), port: None, cookie_file: "/nonexistent".into() }
    }

    fn known<T>(value: T) -> Fact<T> {
        Fact::Known(value)
    }

    #[test]
    fn terms_of_a_node_become_facts() {
        let node = over_rpc(&Broker(|_: &Target, call: &Call| old_node(call), |_: &Command| no()), somewhere()).unwrap();
        assert_eq!((node.name.as_str(), node.source.as_str()), ("rabbit@mq1", "rpc"));
        assert_eq!((node.version, node.otp, node.booted), (known("3.8.9".into()), known("23.2.6".into()), known(true)));
        let users = node.users.known().unwrap();
        let [guest, gast] = users.as_slice() else { panic!("{users:?}") };
        assert_eq!((guest.default_password.clone(), guest.loopback_only.clone()), (known(true), known(true)));
        assert_eq!((gast.default_password.clone(), gast.loopback_only.clone()), (known(false), known(false)));
        assert_eq!(node.permissions.known().unwrap()[0].write, "^a$");
        assert_eq!(node.vhosts, known(vec!["/".into(), "ü".into()]));
        assert_eq!(node.alarms, known(vec!["file_descriptor_limit".into(), "memory".into()]));
        assert_eq!(node.auth_backends, known(vec!["internal".into(), "{ldap, internal}".into()]));
        assert_eq!((node.anonymous_user, node.proxy_protocol), (known(None), known(false)));
        assert_eq!(node.memory_limit, known(10_110_604_083));
        assert_eq!(node.khepri, known(false));
        assert_eq!(node.log_files, known(vec![]));
        let limit = &node.limits.known().unwrap()[0];
        assert_eq!((limit.name.as_str(), limit.max_connections, limit.reached.clone()), ("/", Some(2), known(true)));
        let limit = node.connection_limit.known().cloned().flatten().unwrap();
        assert_eq!((limit.max_connections, limit.beyond.as_str(), limit.reached), (100, "waits", known(false)));
        assert_eq!(node.memory_watermark.known().map(|m| m.set_at_run_time), Some(false));
        assert_eq!((node.reverse_dns, node.applications), (known(false), known(vec!["rabbit".into()])));
        assert_eq!(node.disk_free.why(), Some("rabbit_disk_monitor:get_disk_free/0: the answer was not understood"));
    }

    #[test]
    fn both_forms_of_ranch_info_are_read_and_their_options_left_out() {
        let map = Call::RanchInfo.pare(ranch_map());
        let suspended = Call::RanchInfo.pare(ranch_list());
        assert!(!format!("{map:?}{suspended:?}").contains(&format!("{:?}", "TOPSECRET".as_bytes())));
        let entry =
            |port, protocol: &str, suspended| NodeListener { address: "::".into(), port, protocol: protocol.into(), suspended };
        assert_eq!(listeners(&map), Some(vec![entry(15672, "http", false), entry(5672, "amqp", false)]));
        assert_eq!(listeners(&suspended), Some(vec![entry(5671, "amqps", true), entry(5672, "amqp", true)]));
        assert_eq!((connections(&map), connections(&suspended)), (Some(3), Some(3)));
        assert_eq!(listeners(&atom("what")), None);
    }

    #[test]
    fn only_hashes_that_can_be_computed_are_judged() {
        let stored = |hashing: &str| StoredPassword::of(&guest(hashing)).map_or(Fact::Unknown("none".into()), Fact::Known);
        let is = |hashing: &str, password: &str| told(&stored(hashing), |p| passwords::is(&p.hash, &p.module, password));
        assert_eq!(is("rabbit_password_hashing_sha256", "guest"), known(true));
        assert_eq!(is("rabbit_password_hashing_sha256", "other"), known(false));
        assert!(is("own_hashing", "guest").why().unwrap().contains("own_hashing"));
        assert_eq!(StoredPassword::of(&tuple([atom("error"), atom("not_found")])), None);
    }

    #[test]
    fn a_node_that_starts_is_known_as_such_and_nothing_else_is_claimed() {
        let call = |_: &Target, call: &Call| match call {
            Call::IsRunning => Ok(atom("false")),
            Call::NodeName | Call::Version | Call::OtpRelease => old_node(call),
            other => panic!("{other:?} was asked"),
        };
        let node = over_rpc(&Broker(call, |_: &Command| no()), somewhere()).unwrap();
        assert_eq!((node.booted, node.version), (known(false), known("3.8.9".into())));
        assert_eq!(node.users.why(), Some(NOT_RUNNING));
    }

    #[test]
    fn after_one_call_that_hangs_no_other_is_made() {
        let asked = std::sync::atomic::AtomicU32::new(0);
        let call = |_: &Target, call: &Call| match call {
            Call::ListUsers => {
                asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                Err(Miss::Timeout { what: "list_users".into(), seconds: 5 })
            }
            Call::NodeName | Call::IsRunning | Call::Version | Call::OtpRelease | Call::RanchInfo | Call::RabbitEnv(_) => {
                old_node(call)
            }
            other => panic!("{other:?} was asked"),
        };
        let node = over_rpc(&Broker(call, |_: &Command| no()), somewhere()).unwrap();
        assert_eq!(asked.into_inner(), 1);
        assert_eq!(node.users.why(), Some("list_users: no answer within 5 s"));
        assert_eq!(node.vhosts.why(), node.users.why());
        assert_eq!(node.version, known("3.8.9".into()));
    }

    fn process(args: &[&str]) -> Process {
        Process {
            stopped: false,
            pid: 1,
            name: "beam.smp".into(),
            uid: 100,
            started: 0,
            args: args.iter().map(ToString::to_string).collect(),
            max_open_files: known(None),
            secret_in_args: false,
            unit: known(None),
            node: None,
        }
    }

    fn socket(address: &str, port: i64, broker: bool) -> Socket {
        Socket {
            inode: 0,
            address: address.into(),
            port,
            v6: address.contains(':'),
            dual_stack: false,
            loopback: false,
            wildcard: false,
            uid: 100,
            owner: known(Some(crate::facts::sockets::Owner { pid: 1, name: "beam.smp".into(), unit: None, broker })),
        }
    }

    fn names() -> Names {
        Names {
            hostname: known("mq1".into()),
            static_hostname: known(None),
            node: known("rabbit@mq1".into()),
            node_host: known("mq1".into()),
            node_addresses: known(vec![]),
            node_is_local: known(true),
            hosts_entry: known(None),
        }
    }

    #[test]
    fn the_distribution_listener_is_found_or_left_to_epmd() {
        let at = |args: &[&str], sockets: Vec<Socket>| {
            let target = target(&process(args), &known(sockets), &names()).unwrap();
            (target.address.to_string(), target.port, target.cookie_file.display().to_string())
        };
        let home = "/var/lib/rabbitmq/.erlang.cookie".to_owned();
        assert_eq!(at(&[], vec![socket("0.0.0.0", 25672, true)]), ("127.0.0.1".into(), Some(25672), home.clone()));
        assert_eq!(at(&[], vec![socket("10.0.0.5", 25672, true)]), ("10.0.0.5".into(), Some(25672), home.clone()));
        assert_eq!(at(&[], vec![socket("::", 25672, true)]), ("::1".into(), Some(25672), home.clone()));
        assert_eq!(at(&[], vec![socket("0.0.0.0", 25672, false)]), ("127.0.0.1".into(), None, home.clone()));
        let args = ["-home", "/srv/rabbit", "-kernel", "inet_dist_listen_min", "9100"];
        let found = at(&args, vec![socket("0.0.0.0", 25672, true), socket("0.0.0.0", 9100, true)]);
        assert_eq!(found, ("127.0.0.1".into(), Some(9100), "/srv/rabbit/.erlang.cookie".into()));
        let found = at(&["-setcookie", "(secret)"], vec![socket("0.0.0.0", 25672, true)]);
        assert_eq!(found.2, "/proc/1/cmdline");
        let unknown = target(&process(&[]), &Fact::Unknown("denied".into()), &names()).unwrap();
        assert_eq!((unknown.node.as_str(), unknown.port), ("rabbit@mq1", None));
        assert!(target(&process(&["-proto_dist", "inet_tls"]), &known(vec![]), &names()).is_err());
    }

    fn processes(beam: Fact<Option<Process>>) -> Processes {
        Processes { beam, epmd: known(None), other_brokers: known(vec![]) }
    }

    #[test]
    fn without_a_vm_there_is_no_node() {
        let nobody = Broker(|_: &Target, _: &Call| panic!("asked"), |_: &Command| panic!("asked"));
        let collected = collect(&nobody, &processes(known(None)), &known(vec![]), &names());
        assert!(matches!(collected, Fact::Known(None)));
        let collected = collect(&nobody, &processes(Fact::Unknown("denied".into())), &known(vec![]), &names());
        assert_eq!(collected.why(), Some("denied"));
    }

    #[test]
    fn rabbitmqctl_is_asked_where_the_node_cannot_be_dialled() {
        let refused = |_: &Target, _: &Call| Err(Miss::failed("node rabbit@mq1", "the node refused our cookie"));
        let ctl = |command: &Command| {
            let Command::Rabbitmqctl { args } = command else { panic!("{command:?}") };
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            let stdout: &[u8] = match args.as_slice() {
                ["list_users"] => br#"[{"user":"guest","tags":["administrator"]}]"#,
                ["list_vhosts"] => br#"[{"name":"/"}]"#,
                ["list_permissions", "--vhost=/"] => br#"[{"user":"guest","configure":".*","write":".*","read":".*"}]"#,
                other => panic!("{other:?}"),
            };
            Ok(Output { code: Some(0), stdout: stdout.to_vec(), stderr: Vec::new() })
        };
        let running = processes(known(Some(process(&[]))));
        let Fact::Known(Some(node)) = collect(&Broker(refused, ctl), &running, &known(vec![]), &names()) else { panic!() };
        assert_eq!((node.name.as_str(), node.source.as_str()), ("rabbit@mq1", "rabbitmqctl"));
        assert_eq!(node.permissions.known().unwrap()[0].vhost, "/");
        assert!(node.users.known().unwrap()[0].default_password.why().unwrap().contains("refused our cookie"));
        assert!(node.alarms.why().unwrap().contains("refused our cookie"));
        let neither = collect(&Broker(refused, |_: &Command| no()), &running, &known(vec![]), &names());
        assert_eq!(neither.why(), Some("node rabbit@mq1: the node refused our cookie"));
    }
}

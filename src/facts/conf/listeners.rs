//! The listeners that the broker will open, from all sources, and what keeps it from opening them.

use super::advanced::Advanced;
use super::settings::{Line, Settings};
use super::{LoopbackUsers, Problem, WantedListener, secrets, variable};
use crate::facts::env::Env;
use crate::facts::net::Net;
use crate::facts::{Fact, Where};
use crate::formats::erlang::{Term, Value};
use crate::host::{Command, Host};
use std::collections::BTreeSet;
use std::net::IpAddr;

/// All interfaces: `::` with IPv4 on a usual Linux host.
const AUTO: &str = "auto";

/// What listeners are derived from.
pub struct Sources<'a> {
    pub host: &'a dyn Host,
    pub settings: &'a Settings,
    pub advanced: &'a Advanced,
    pub env: &'a Env,
    /// What the broker starts besides its core.
    pub started: &'a Fact<Vec<String>>,
    pub net: &'a Net,
}

/// A listener that a list of `{tcp_listeners, […]}` or a key asks for.
struct Wanted {
    address: String,
    port: i64,
}

impl Sources<'_> {
    /// AMQP, AMQPS and, where their plugins are started, management listeners.
    pub fn all(&self) -> Fact<Vec<WantedListener>> {
        let mut all = match self.amqp() {
            Fact::Known(all) => all,
            unknown => return unknown,
        };
        all.extend(
            self.advanced_listeners("amqps", "ssl_listeners")
                .unwrap_or_else(|| self.key_listeners("amqps", "listeners.ssl").unwrap_or_default()),
        );
        match self.started {
            Fact::Known(started) if started.iter().any(|p| p == "rabbitmq_management") => all.extend(self.management()),
            Fact::Known(_) => {}
            Fact::Unknown(why) => return Fact::Unknown(why.clone()),
        }
        Fact::Known(all)
    }

    fn amqp(&self) -> Fact<Vec<WantedListener>> {
        if let Some(listeners) =
            self.advanced_listeners("amqp", "tcp_listeners").or_else(|| self.key_listeners("amqp", "listeners.tcp"))
        {
            return Fact::Known(listeners);
        }
        let (ip, port) = match (variable(self.env, "NODE_IP_ADDRESS"), variable(self.env, "NODE_PORT")) {
            (Fact::Known(ip), Fact::Known(port)) => (ip.filter(|ip| ip != AUTO), port),
            (Fact::Unknown(why), _) | (_, Fact::Unknown(why)) => return Fact::Unknown(why),
        };
        let source = if ip.is_some() || port.is_some() { "env" } else { "default" };
        let at = ["NODE_IP_ADDRESS", "NODE_PORT"].iter().find_map(|name| self.env.vars.known()?.get(*name)?.at.clone());
        let Ok(number) = port.as_deref().unwrap_or("5672").parse::<i64>() else {
            return Fact::Unknown(format!("RABBITMQ_NODE_PORT is {:?}", port.unwrap_or_default()));
        };
        let addresses = match ip {
            None => vec![AUTO.to_owned()],
            Some(ip) => match self.resolved(&ip) {
                Fact::Known(addresses) => addresses,
                Fact::Unknown(why) => return Fact::Unknown(why),
            },
        };
        let listener = |address| WantedListener {
            service: "amqp".into(),
            address,
            port: number,
            key: None,
            at: at.clone(),
            source: source.into(),
        };
        Fact::Known(addresses.into_iter().map(listener).collect())
    }

    /// An address stays as it is; a host name becomes its addresses, for each of which the broker opens a listener.
    fn resolved(&self, name: &str) -> Fact<Vec<String>> {
        if name.parse::<IpAddr>().is_ok() {
            return Fact::Known(vec![name.to_owned()]);
        }
        let command = Command::Getent { name: name.to_owned() };
        match self.host.run(&command).and_then(|o| o.ok(&command.to_string())) {
            Ok(out) => {
                let text = String::from_utf8_lossy(&out).into_owned();
                let mut seen = BTreeSet::new();
                let addresses = text.lines().filter_map(|l| l.split_whitespace().next()).filter(|a| a.parse::<IpAddr>().is_ok());
                Fact::Known(addresses.filter(|a| seen.insert(*a)).map(str::to_owned).collect())
            }
            Err(_) if name == "localhost" => Fact::Known(vec!["127.0.0.1".into(), "::1".into()]),
            Err(miss) => Fact::Unknown(format!("RABBITMQ_NODE_IP_ADDRESS is {name}: {miss}")),
        }
    }

    fn advanced_listeners(&self, service: &str, key: &str) -> Option<Vec<WantedListener>> {
        let (list, at) = self.advanced.get("rabbit", key)?;
        let listener = |term: &Term| {
            let Wanted { address, port } = wanted(term)?;
            let at = Where { line: Some(term.line), column: Some(term.column), ..at.clone() };
            Some(WantedListener { service: service.into(), address, port, key: None, at: Some(at), source: "advanced".into() })
        };
        Some(list.list()?.iter().filter_map(listener).collect())
    }

    /// Keys below `prefix`; `prefix = none` opens nothing, whatever else is set. None: nothing is said.
    fn key_listeners(&self, service: &str, prefix: &str) -> Option<Vec<WantedListener>> {
        if self.settings.value(prefix) == Some("none") {
            return Some(Vec::new());
        }
        let lines = self.settings.below(prefix);
        let listener = |line: &&Line| {
            let (address, port) = address_and_port(&line.entry.value)?;
            let key = Some(line.entry.key.clone());
            Some(WantedListener { service: service.into(), address, port, key, at: Some(line.at()), source: "conf".into() })
        };
        (!lines.is_empty()).then(|| lines.iter().filter_map(listener).collect())
    }

    /// HTTP unless only TLS is configured; `management.listener.*` is the older spelling.
    fn management(&self) -> Vec<WantedListener> {
        let block = |app_key: &str, prefix: &str, tls: bool, default: i64| self.management_block(app_key, prefix, tls, default);
        let tcp = block("tcp_config", "management.tcp", false, 15672);
        let tls = block("ssl_config", "management.ssl", true, 15671);
        let legacy_tls = self.setting_of("listener", "management.listener", "ssl").is_some_and(|(value, ..)| value == "true");
        let legacy = || block("listener", "management.listener", legacy_tls, 15672);
        let first = tcp.or_else(legacy);
        let default = || WantedListener {
            service: "management".into(),
            address: "0.0.0.0".into(),
            port: 15672,
            key: None,
            at: None,
            source: "default".into(),
        };
        match (first, tls) {
            (None, None) => vec![default()],
            (first, tls) => first.into_iter().chain(tls).collect(),
        }
    }

    fn management_block(&self, app_key: &str, prefix: &str, tls: bool, default: i64) -> Option<WantedListener> {
        let set = self.settings.effective().find(|l| l.entry.key.starts_with(&format!("{prefix}.")));
        let advanced = self.advanced.get("rabbitmq_management", app_key);
        let port = self.setting_of(app_key, prefix, "port");
        let ip = self.setting_of(app_key, prefix, "ip");
        let (at, source) = match (&advanced, set) {
            (Some((_, at)), _) => (Some(at.clone()), "advanced"),
            (None, Some(line)) => (Some(line.at()), "conf"),
            (None, None) => return None,
        };
        let key = port.as_ref().or(ip.as_ref()).and_then(|(_, key, _)| key.clone());
        Some(WantedListener {
            service: if tls { "management-tls" } else { "management" }.into(),
            // Cowboy opens IPv4 unless it is given an address.
            address: ip.as_ref().map_or_else(|| "0.0.0.0".to_owned(), |(value, ..)| value.clone()),
            port: port.as_ref().map_or(Some(default), |(value, ..)| value.parse().ok())?,
            key,
            at: port.or(ip).and_then(|(.., at)| at).or(at),
            source: source.into(),
        })
    }

    /// One property of a management listener: its value, its key and its place. The advanced file replaces the whole block.
    fn setting_of(&self, app_key: &str, prefix: &str, name: &str) -> Option<(String, Option<String>, Option<Where>)> {
        if let Some((block, at)) = self.advanced.get("rabbitmq_management", app_key) {
            let term = block.property(name)?;
            let text = term.text().or_else(|| term.int().map(|i| i.to_string())).or_else(|| ip_tuple(term))?;
            return Some((text, None, Some(Where { line: Some(term.line), column: Some(term.column), ..at })));
        }
        let key = format!("{prefix}.{name}");
        self.settings.get(&key).map(|line| (line.entry.value.clone(), Some(key), Some(line.at())))
    }

    /// The distribution port, for overlaps: NODE_PORT + 20000 or DIST_PORT, on 0.0.0.0.
    fn distribution(&self) -> Option<i64> {
        let get = |name: &str| variable(self.env, name).known().cloned().flatten().map(|v| v.parse::<i64>().ok());
        match get("DIST_PORT") {
            Some(port) => port,
            None => get("NODE_PORT").unwrap_or(Some(5672)).map(|p| p + 20000),
        }
    }

    /// What keeps listeners from being opened: ports out of range or privileged, addresses of other hosts, overlaps.
    pub fn problems(&self, listeners: &[WantedListener], undecided: &mut Vec<String>) -> Vec<Problem> {
        let mut problems = Vec::new();
        for (index, listener) in listeners.iter().enumerate() {
            problems.extend(self.port_problem(listener, undecided));
            problems.extend(self.address_problem(listener));
            let earlier = listeners.iter().take(index).find(|other| self.collide(other, listener));
            if let Some(other) = earlier {
                // TLS opens last, and only a TLS listener that fails is passed over.
                let tls = [other, listener].into_iter().find(|l| l.service == "amqps");
                let end = if tls.is_some() { "the TLS listener stays closed" } else { "the broker does not start" };
                let message = format!("{} and {} cannot both be opened (eaddrinuse): {end}", label(other), label(listener));
                problems.push(self.problem(tls.unwrap_or(listener), "overlap", tls.is_none(), message));
            } else if self.distribution() == Some(listener.port) && v4_wildcard_meets(listener) {
                let message = format!("{} is the port of the Erlang distribution of this node", label(listener));
                problems.push(self.problem(listener, "overlap", listener.service != "amqps", message));
            }
        }
        problems
    }

    fn port_problem(&self, listener: &WantedListener, undecided: &mut Vec<String>) -> Option<Problem> {
        let port = listener.port;
        if !(0..=65535).contains(&port) {
            let mut problem = self.problem(listener, "bad-value", true, format!("{port} is not a port (1 to 65535)"));
            problem.suggestion = (listener.service == "amqp").then(|| "5672".to_owned());
            return Some(problem);
        }
        let first_free = self.sysctl("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap_or(1024);
        if port == 0 || port >= first_free {
            return None;
        }
        undecided.push(format!("port {port}: needs the capability CAP_NET_BIND_SERVICE"));
        let message =
            format!("the broker is not root and may not open port {port} (below {first_free}) without CAP_NET_BIND_SERVICE");
        Some(self.problem(listener, "privileged-port", false, message))
    }

    fn sysctl(&self, path: &str) -> Option<i64> {
        String::from_utf8_lossy(&self.host.read(path.as_ref(), 64).ok()?).trim().parse().ok()
    }

    fn address_problem(&self, listener: &WantedListener) -> Option<Problem> {
        let address: IpAddr = listener.address.parse().ok()?;
        let own = self.net.addresses.known()?;
        let here = own.iter().any(|a| a.address.split(['%', '/']).next().and_then(|a| a.parse::<IpAddr>().ok()) == Some(address));
        let v4 = address.is_ipv4();
        let foreign_ok = if v4 { "/proc/sys/net/ipv4/ip_nonlocal_bind" } else { "/proc/sys/net/ipv6/ip_nonlocal_bind" };
        if here || address.is_unspecified() || (v4 && address.is_loopback()) || self.sysctl(foreign_ok).is_some_and(|v| v != 0) {
            return None;
        }
        let fatal = listener.service != "amqps";
        let message = format!("{} is not an address of this host (eaddrnotavail)", listener.address);
        Some(self.problem(listener, "address-not-local", fatal, message))
    }

    /// Whether the second of two listeners cannot be opened because of the first.
    fn collide(&self, a: &WantedListener, b: &WantedListener) -> bool {
        let family = |l: &WantedListener| match l.address.parse::<IpAddr>() {
            Ok(ip) => Some(ip),
            // `auto` is `::` where there is IPv6, else 0.0.0.0.
            Err(_) if self.net.ipv6.known() == Some(&false) => Some(IpAddr::from([0; 4])),
            Err(_) if l.address == AUTO => Some(IpAddr::from([0; 16])),
            Err(_) => None,
        };
        let (Some(x), Some(y)) = (family(a), family(b)) else { return false };
        // `::` takes IPv4 too unless net.ipv6.bindv6only is set; `auto` then opens 0.0.0.0 beside it.
        let both = |ip: IpAddr, l: &WantedListener| {
            ip.is_ipv6() && ip.is_unspecified() && (self.net.bindv6only.known() != Some(&true) || l.address == AUTO)
        };
        let same_family = x.is_ipv4() == y.is_ipv4();
        let meet = x == y || both(x, a) || both(y, b) || (same_family && (x.is_unspecified() || y.is_unspecified()));
        a.port == b.port && a.port != 0 && meet
    }

    fn problem(&self, listener: &WantedListener, code: &str, fatal: bool, message: String) -> Problem {
        let line = listener.key.as_deref().and_then(|key| self.settings.get(key));
        if let Some(line) = line {
            return line.problem(code, fatal, message, line.value_at());
        }
        let nowhere = Where { file: String::new(), line: None, column: None };
        Problem {
            code: code.into(),
            fatal,
            key: None,
            value: Some(format!("{}:{}", listener.address, listener.port)),
            message,
            suggestion: None,
            text: String::new(),
            at: listener.at.clone().unwrap_or(nowhere),
        }
    }
}

fn label(listener: &WantedListener) -> String {
    let key = listener.key.as_ref().map(|k| format!("{k} = ")).unwrap_or_default();
    match listener.address.as_str() {
        AUTO => format!("{key}{} on all interfaces", listener.port),
        address => format!("{key}{address}:{}", listener.port),
    }
}

/// The distribution listens on 0.0.0.0: whatever takes an IPv4 address meets it.
fn v4_wildcard_meets(listener: &WantedListener) -> bool {
    match listener.address.parse::<IpAddr>() {
        Ok(IpAddr::V6(ip)) => ip.is_unspecified(),
        _ => true,
    }
}

/// `5672` or `IP:port`.
fn address_and_port(value: &str) -> Option<(String, i64)> {
    if let Ok(port) = value.parse() {
        return Some((AUTO.to_owned(), port));
    }
    let (address, port) = value.rsplit_once(':')?;
    Some((address.to_owned(), port.parse().ok()?))
}

/// `5672`, `{"127.0.0.1", 5672}`, `{auto, 5672}`, `{"auto", 5672}`.
fn wanted(term: &Term) -> Option<Wanted> {
    let number = |t: &Term| t.int().and_then(|i| i64::try_from(i).ok());
    if let Some(port) = number(term) {
        return Some(Wanted { address: AUTO.to_owned(), port });
    }
    let [host, port, ..] = term.tuple()? else { return None };
    Some(Wanted { address: host.text().or_else(|| ip_tuple(host))?, port: number(port)? })
}

/// `{127,0,0,1}` and `{0,0,0,0,0,0,0,1}`.
fn ip_tuple(term: &Term) -> Option<String> {
    let numbers: Vec<u16> = term.tuple()?.iter().map(|t| t.int().and_then(|i| u16::try_from(i).ok())).collect::<Option<_>>()?;
    if let Ok(groups) = <[u16; 8]>::try_from(numbers.as_slice()) {
        return Some(IpAddr::from(groups).to_string());
    }
    let octets: Vec<u8> = numbers.into_iter().map(|n| u8::try_from(n).ok()).collect::<Option<_>>()?;
    <[u8; 4]>::try_from(octets).ok().map(|o| IpAddr::from(o).to_string())
}

/// Effective loopback_users: any key replaces the default list, and only the word `true` counts.
pub fn loopback_users(settings: &Settings, advanced: &Advanced) -> LoopbackUsers {
    if let Some((list, at)) = advanced.get("rabbit", "loopback_users") {
        let users = list.list().unwrap_or_default().iter().filter_map(Term::text).collect();
        return LoopbackUsers { users, at: Some(at), keys: vec!["loopback_users".into()] };
    }
    let none = settings.get("loopback_users").filter(|l| l.entry.value == "none");
    let lines = settings.below("loopback_users");
    let Some(first) = none.or(lines.first().copied()) else {
        return LoopbackUsers { users: vec!["guest".into()], at: None, keys: Vec::new() };
    };
    let user = |l: &&Line| l.entry.words.last().cloned();
    let users = lines.iter().filter(|l| none.is_none() && l.entry.value == "true").filter_map(user).collect();
    let keys = none.into_iter().chain(lines.iter().copied()).map(|l| l.entry.raw_key.clone()).collect();
    LoopbackUsers { users, at: Some(first.at()), keys }
}

/// default_user of the files.
pub fn default_user(settings: &Settings, advanced: &Advanced) -> Option<String> {
    let advanced = advanced.get("rabbit", "default_user").and_then(|(term, _)| match &term.value {
        Value::Binary(_) | Value::String(_) => term.text(),
        _ => None,
    });
    advanced.or_else(|| settings.get("default_user").map(|l| secrets::value("default_user", &l.entry.value)))
}

//! The listeners that the broker will open, from all sources, and what keeps it from opening them.

mod plugins;
mod problems;
#[cfg(test)]
mod tests;

use super::advanced::Advanced;
use super::settings::{Line, Settings};
use super::{LoopbackUsers, WantedListener, secrets, variable};
use crate::facts::env::Env;
use crate::facts::net::Net;
use crate::facts::{Fact, Where};
use crate::formats::erlang::{Term, Value};
use crate::host::{Command, Host};
use plugins::{Bare, Opened};
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
    /// Of RabbitMQ: major, minor, patch. None: the newest behaviour is taken.
    pub version: Option<(u32, u32, u32)>,
    pub net: &'a Net,
}

impl Sources<'_> {
    /// Listeners of the core and of the plugins that are started.
    pub fn all(&self) -> Fact<Opened> {
        let mut opened = match self.plugins() {
            Fact::Known(opened) => opened,
            unknown => return unknown,
        };
        let mut listeners = match self.amqp() {
            Fact::Known(listeners) => listeners,
            Fact::Unknown(why) => return Fact::Unknown(why),
        };
        let tls = self.list("rabbit", "ssl_listeners", "amqps", "listeners.ssl").unwrap_or_default();
        if !self.certificate() {
            opened.bare.extend(tls.iter().cloned().map(|listener| Bare { listener, fatal: false }));
        }
        listeners.extend(tls);
        listeners.append(&mut opened.listeners);
        Fact::Known(Opened { listeners, ..opened })
    }

    fn amqp(&self) -> Fact<Vec<WantedListener>> {
        if let Some(listeners) = self.list("rabbit", "tcp_listeners", "amqp", "listeners.tcp") {
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
}

/// `5672` or `IP:port`.
fn address_and_port(value: &str) -> Option<(String, i64)> {
    if let Ok(port) = value.parse() {
        return Some((AUTO.to_owned(), port));
    }
    let (address, port) = value.rsplit_once(':')?;
    Some((address.to_owned(), port.parse().ok()?))
}

/// `[5672, {"127.0.0.1", 5672}, {auto, 5672}]`
fn wanted_list(service: &str, list: &Term, at: &Where) -> Option<Vec<WantedListener>> {
    let listener = |term: &Term| {
        let (address, port) = wanted(term)?;
        let at = Where { line: Some(term.line), column: Some(term.column), ..at.clone() };
        Some(WantedListener { service: service.into(), address, port, key: None, at: Some(at), source: "advanced".into() })
    };
    Some(list.list()?.iter().filter_map(listener).collect())
}

/// Address and port of one element of such a list.
fn wanted(term: &Term) -> Option<(String, i64)> {
    let number = |t: &Term| t.int().and_then(|i| i64::try_from(i).ok());
    if let Some(port) = number(term) {
        return Some((AUTO.to_owned(), port));
    }
    let [host, port, ..] = term.tuple()? else { return None };
    Some((host.text().or_else(|| ip_tuple(host))?, number(port)?))
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

//! What keeps listeners from being opened, or a broker with them from starting.

use super::plugins::Opened;
use super::{AUTO, Sources};
use crate::facts::Where;
use crate::facts::conf::{Problem, WantedListener, variable};
use std::net::IpAddr;

impl Sources<'_> {
    /// The distribution port, for overlaps: NODE_PORT + 20000 or DIST_PORT, on 0.0.0.0.
    fn distribution(&self) -> Option<i64> {
        let get = |name: &str| variable(self.env, name).known().cloned().flatten().map(|v| v.parse::<i64>().ok());
        match get("DIST_PORT") {
            Some(port) => port,
            None => get("NODE_PORT").unwrap_or(Some(5672)).map(|p| p + 20000),
        }
    }

    /// Ports out of range or privileged, addresses of other hosts, overlaps, TLS without a certificate, settings without effect.
    pub fn problems(&self, opened: &Opened, undecided: &mut Vec<String>) -> Vec<Problem> {
        let mut problems = Vec::new();
        for (index, listener) in opened.listeners.iter().enumerate() {
            problems.extend(self.port_problem(listener, undecided));
            problems.extend(self.address_problem(listener));
            let earlier = opened.listeners.iter().take(index).find(|other| self.collide(other, listener));
            if let Some(other) = earlier {
                problems.push(self.overlap(other, listener));
            } else if self.distribution() == Some(listener.port) && v4_wildcard_meets(listener) {
                let message = format!("{} is the port of the Erlang distribution of this node", label(listener));
                problems.push(self.problem(listener, "overlap", listener.service != "amqps", message));
            }
        }
        for bare in &opened.bare {
            let end = if bare.fatal { "the broker does not start" } else { "the listener stays closed" };
            let message = format!("{} has no certificate: {end}", label(&bare.listener));
            problems.push(self.problem(&bare.listener, "tls-without-certificate", bare.fatal, message));
        }
        for (listener, why) in &opened.closed {
            problems.push(self.problem(listener, "no-effect", false, format!("{}: {why}", label(listener))));
        }
        for listener in &opened.without_port {
            let message = "web_stomp.ssl.port is missing, and has no default: the broker does not start".to_owned();
            problems.push(self.problem(listener, "bad-value", true, message));
        }
        problems
    }

    fn overlap(&self, a: &WantedListener, b: &WantedListener) -> Problem {
        // Plugins open before the core, and the core's TLS listeners last: only one of those is passed over where it fails.
        let late = [a, b].into_iter().find(|l| l.service == "amqps");
        // The two that bring their own web server take a listener of the same name for theirs.
        let own_server = |l: &WantedListener| l.service.starts_with("web-mqtt") || l.service.starts_with("web-stomp");
        let mistaken = own_server(a) && own_server(b) && a.address == b.address;
        let end = match (late, mistaken) {
            (Some(_), _) => "the TLS listener stays closed",
            (None, true) => "one of them stays closed",
            (None, false) => "the broker does not start",
        };
        let message = format!("{} and {} cannot both be opened (eaddrinuse): {end}", label(a), label(b));
        // The place that is shown: of a listener that somebody set.
        let set = if b.source == "default" { a } else { b };
        self.problem(late.unwrap_or(set), "overlap", late.is_none() && !mistaken, message)
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
        let value = Some(format!("{}:{}", listener.address, listener.port));
        Problem { value, ..Problem::new(code, fatal, message, listener.at.clone().unwrap_or(nowhere)) }
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

//! Where plugins listen. Facts: the applications' defaults (`PROJECT_ENV`), their schemas and start code of RabbitMQ 3.8.9 to 4.3.6; each
//! was compared with the sockets of a running broker.

use super::{AUTO, Sources, ip_tuple, wanted_list};
use crate::facts::conf::WantedListener;
use crate::facts::{Fact, Where};
use crate::formats::erlang::Term;

/// Of this release on, the Prometheus plugin keeps its plain listener beside a TLS listener, unless that is switched off.
const PROMETHEUS_WITH_DEFAULT: (u32, u32, u32) = (3, 11, 16);
/// Of this release on, a TLS listener of Web STOMP with an address and no port takes a port that the kernel chooses.
const WEB_STOMP_WITHOUT_PORT: (u32, u32, u32) = (4, 0, 0);
/// Plain listener of Web MQTT and, whatever the documentation says, its TLS listener without a port.
const WEB_MQTT: i64 = 15675;

/// A plugin that takes lists of listeners, as the core does; on all interfaces unless an address is given.
struct Lists {
    app: &'static str,
    service: &'static str,
    prefix: &'static str,
    /// Port of the plain listener that there is unless some are set.
    default: i64,
}

const LISTS: [Lists; 3] = [
    Lists { app: "rabbitmq_mqtt", service: "mqtt", prefix: "mqtt.listeners", default: 1883 },
    Lists { app: "rabbitmq_stomp", service: "stomp", prefix: "stomp.listeners", default: 61613 },
    Lists { app: "rabbitmq_stream", service: "stream", prefix: "stream.listeners", default: 5552 },
];

/// One block of settings that makes one listener of an HTTP server; on IPv4 unless an address is given.
struct Block {
    app: &'static str,
    /// The application's key that holds it.
    key: &'static str,
    /// Of the keys of rabbitmq.conf that go into it.
    prefix: &'static str,
}

/// What is said about a block.
enum Said {
    Nothing,
    /// Set, and empty: `web_mqtt.tcp.listener = none`, `{tcp_config, []}`.
    Empty,
    Set(Set),
}

/// A block that is set.
struct Set {
    address: Option<String>,
    port: Option<i64>,
    /// `{ssl, true}`: the older spelling of a TLS listener of the management plugin.
    tls: bool,
    /// A certificate is named in it.
    certificate: bool,
    key: Option<String>,
    at: Option<Where>,
    source: &'static str,
}

impl Said {
    fn set(self) -> Option<Set> {
        match self {
            Said::Set(set) => Some(set),
            _ => None,
        }
    }
}

impl Set {
    fn listener(self, service: &str, default: i64) -> WantedListener {
        WantedListener {
            service: service.into(),
            // Cowboy opens IPv4 unless it is given an address.
            address: self.address.unwrap_or_else(|| "0.0.0.0".to_owned()),
            port: self.port.unwrap_or(default),
            key: self.key,
            at: self.at,
            source: self.source.into(),
        }
    }
}

/// A TLS listener for which no certificate is named, and whether the broker starts all the same.
pub struct Bare {
    pub listener: WantedListener,
    pub fatal: bool,
}

/// What the started plugins open.
#[derive(Default)]
pub struct Opened {
    pub listeners: Vec<WantedListener>,
    pub bare: Vec<Bare>,
    /// Listeners that are configured, and that nobody opens: the key's place and why.
    pub closed: Vec<(WantedListener, String)>,
    /// TLS listeners without a port, for which the broker does not start.
    pub without_port: Vec<WantedListener>,
}

impl Sources<'_> {
    /// Listeners of the plugins that the broker starts.
    pub(super) fn plugins(&self) -> Fact<Opened> {
        let started = match self.started {
            Fact::Known(started) => started,
            Fact::Unknown(why) => return Fact::Unknown(why.clone()),
        };
        let runs = |app: &str| started.iter().any(|p| p == app);
        let mut opened = Opened::default();
        for lists in LISTS.iter().filter(|l| runs(l.app)) {
            self.lists(lists, &mut opened);
        }
        if runs("rabbitmq_management") {
            self.management(&mut opened);
        }
        if runs("rabbitmq_web_mqtt") {
            self.web_mqtt(&mut opened);
        }
        if runs("rabbitmq_web_stomp") {
            self.web_stomp(&mut opened);
        }
        if runs("rabbitmq_prometheus") {
            self.prometheus(&mut opened);
        }
        self.examples(&runs, &mut opened);
        Fact::Known(opened)
    }

    fn lists(&self, lists: &Lists, opened: &mut Opened) {
        let plain = self.list(lists.app, "tcp_listeners", lists.service, &format!("{}.tcp", lists.prefix));
        opened.listeners.extend(plain.unwrap_or_else(|| vec![default(lists.service, AUTO, lists.default)]));
        let service = format!("{}-tls", lists.service);
        let tls = self.list(lists.app, "ssl_listeners", &service, &format!("{}.ssl", lists.prefix)).unwrap_or_default();
        if !self.certificate() {
            opened.bare.extend(tls.iter().cloned().map(|listener| Bare { listener, fatal: true }));
        }
        opened.listeners.extend(tls);
    }

    /// HTTP unless only TLS is configured; `management.listener.*` is the older spelling, and does not count beside both others.
    fn management(&self, opened: &mut Opened) {
        const APP: &str = "rabbitmq_management";
        let block = |key, prefix| self.block(&Block { app: APP, key, prefix });
        // An empty block counts as one that is set.
        let set = |said: Said| match said {
            Said::Empty => Some(Set::nothing()),
            other => other.set(),
        };
        let tcp = set(block("tcp_config", "management.tcp"));
        let tls = set(block("ssl_config", "management.ssl"));
        let legacy = set(block("listener", "management.listener")).filter(|_| tcp.is_none() || tls.is_none());
        if tcp.is_none() && tls.is_none() && legacy.is_none() {
            opened.listeners.push(default("management", "0.0.0.0", 15672));
        }
        if let Some(legacy) = legacy {
            match legacy.tls {
                // Its certificate may be that of `ssl_options`, too.
                true => self.tls(legacy, "management-tls", 15672, self.certificate(), opened),
                false => opened.listeners.push(legacy.listener("management", 15672)),
            }
        }
        opened.listeners.extend(tcp.map(|set| set.listener("management", 15672)));
        if let Some(set) = tls {
            self.tls(set, "management-tls", 15671, false, opened);
        }
    }

    fn web_mqtt(&self, opened: &mut Opened) {
        let block = |key, prefix| self.block(&Block { app: "rabbitmq_web_mqtt", key, prefix });
        let plain = match block("tcp_config", "web_mqtt.tcp") {
            Said::Nothing => Some(default("web-mqtt", "0.0.0.0", WEB_MQTT)),
            Said::Empty => None,
            Said::Set(set) => Some(set.listener("web-mqtt", WEB_MQTT)),
        };
        let tls = block("ssl_config", "web_mqtt.ssl").set();
        if let Some(set) = tls {
            let certificate = set.certificate || set.source == "advanced";
            let listener = set.listener("web-mqtt-tls", WEB_MQTT);
            let taken = plain.as_ref().is_some_and(|p| p.port == listener.port && p.address == listener.address);
            match taken {
                true => opened.closed.push((
                    listener,
                    format!("its port is {WEB_MQTT} unless web_mqtt.ssl.port says otherwise, where the plain listener is; it stays closed"),
                )),
                false if certificate => opened.listeners.push(listener),
                false => opened.without_certificate(listener),
            }
        }
        opened.listeners.extend(plain);
    }

    fn web_stomp(&self, opened: &mut Opened) {
        const APP: &str = "rabbitmq_web_stomp";
        let block = |key, prefix| self.block(&Block { app: APP, key, prefix });
        match block("tcp_config", "web_stomp.tcp") {
            // `web_stomp.port` counts only where the block is set and names no port: its default names one.
            Said::Nothing => {
                opened.listeners.push(default("web-stomp", "0.0.0.0", 15674));
                if let Some((listener, _)) = self.root_port() {
                    let why = "web_stomp.port has no effect unless web_stomp.tcp.ip or another web_stomp.tcp key is set; web_stomp.tcp.port has";
                    opened.closed.push((listener, why.into()));
                }
            }
            Said::Empty => {}
            Said::Set(set) => {
                let port = self.root_port().map_or(15674, |(_, port)| port);
                opened.listeners.push(set.listener("web-stomp", port));
            }
        }
        let Some(set) = block("ssl_config", "web_stomp.ssl").set() else { return };
        let no_port = set.port.is_none();
        let random = set.address.is_some() && self.since(WEB_STOMP_WITHOUT_PORT);
        let certificate = set.certificate || set.source == "advanced";
        let listener = set.listener("web-stomp-tls", 0);
        match (no_port && !random, certificate) {
            (true, _) => opened.without_port.push(listener),
            (false, true) => opened.listeners.push(listener),
            (false, false) => opened.without_certificate(listener),
        }
    }

    /// `web_stomp.port` as the listener that it does not make, and its number.
    fn root_port(&self) -> Option<(WantedListener, i64)> {
        let (port, at, key) = match self.advanced.get("rabbitmq_web_stomp", "port") {
            Some((term, at)) => (term.int().and_then(|i| i64::try_from(i).ok())?, at, None),
            None => {
                let line = self.settings.get("web_stomp.port")?;
                (line.entry.value.parse().ok()?, line.value_at(), Some(line.entry.key.clone()))
            }
        };
        let source = if key.is_some() { "conf" } else { "advanced" };
        let listener = WantedListener { key, at: Some(at), source: source.into(), ..default("web-stomp", "0.0.0.0", port) };
        Some((listener, port))
    }

    fn prometheus(&self, opened: &mut Opened) {
        let block = |key, prefix| self.block(&Block { app: "rabbitmq_prometheus", key, prefix });
        let (plain, tls) = (block("tcp_config", "prometheus.tcp"), block("ssl_config", "prometheus.ssl"));
        let newer = self.since(PROMETHEUS_WITH_DEFAULT);
        let tls = match tls {
            Said::Empty if !newer => Some(Set::nothing()),
            other => other.set(),
        };
        let usual = || default("prometheus", "0.0.0.0", 15692);
        match plain {
            Said::Set(set) => opened.listeners.push(set.listener("prometheus", 15692)),
            Said::Nothing if newer || tls.is_none() => opened.listeners.push(usual()),
            Said::Nothing => {}
            // Nothing at all is taken for nothing configured.
            Said::Empty if !newer || tls.is_none() => opened.listeners.push(usual()),
            Said::Empty => {}
        }
        if let Some(set) = tls {
            self.tls(set, "prometheus-tls", 15691, newer && self.certificate(), opened);
        }
    }

    /// Both examples share one listener.
    fn examples(&self, runs: &dyn Fn(&str) -> bool, opened: &mut Opened) {
        let mut seen: Vec<WantedListener> = Vec::new();
        for app in ["rabbitmq_web_stomp_examples", "rabbitmq_web_mqtt_examples"] {
            if !runs(app) {
                continue;
            }
            let listener = match self.block(&Block { app, key: "listener", prefix: "" }) {
                Said::Set(set) => set.listener("web-examples", 15670),
                _ => default("web-examples", "0.0.0.0", 15670),
            };
            if !seen.iter().any(|l| (&l.address, l.port) == (&listener.address, listener.port)) {
                seen.push(listener);
            }
        }
        opened.listeners.extend(seen);
    }

    /// A TLS listener of an HTTP server; `elsewhere`: the core's certificate does for it.
    fn tls(&self, set: Set, service: &str, port: i64, elsewhere: bool, opened: &mut Opened) {
        let certificate = set.certificate || elsewhere || set.source == "advanced";
        let listener = set.listener(service, port);
        match certificate {
            true => opened.listeners.push(listener),
            false => opened.without_certificate(listener),
        }
    }

    /// Whether `ssl_options` of the core names a certificate. What advanced.config says is not looked into.
    pub(super) fn certificate(&self) -> bool {
        let named = ["ssl_options.certfile", "ssl_options.cert"].iter().any(|key| self.settings.get(key).is_some());
        named || self.advanced.get("rabbit", "ssl_options").is_some()
    }

    fn since(&self, version: (u32, u32, u32)) -> bool {
        self.version.is_none_or(|v| v >= version)
    }

    /// Listeners of `{App, [{Key, […]}]}`, or of the keys below a prefix. None: nothing is said.
    pub(super) fn list(&self, app: &str, key: &str, service: &str, prefix: &str) -> Option<Vec<WantedListener>> {
        let advanced = self.advanced.get(app, key).and_then(|(list, at)| wanted_list(service, list, &at));
        advanced.or_else(|| self.key_listeners(service, prefix))
    }

    /// The advanced file replaces the whole block.
    fn block(&self, block: &Block) -> Said {
        if let Some((term, at)) = self.advanced.get(block.app, block.key) {
            return of_term(term, at);
        }
        let own = |name: &str| self.settings.get(&format!("{}.{name}", block.prefix));
        if let Some(line) = own("listener").filter(|_| block.key != "listener") {
            let set = |(address, port): (String, i64)| Set {
                address: Some(address),
                port: Some(port),
                tls: false,
                certificate: own("certfile").is_some(),
                key: Some(line.entry.key.clone()),
                at: Some(line.at()),
                source: "conf",
            };
            match super::address_and_port(&line.entry.value) {
                Some(place) => return Said::Set(set(place)),
                // `none` takes the plain listener away whatever else is set, and does nothing to a TLS listener.
                None if block.key == "tcp_config" => return Said::Empty,
                None => {}
            }
        }
        let prefix = format!("{}.", block.prefix);
        let counts = |key: &str| key.strip_prefix(&prefix).is_some_and(|rest| block.key == "listener" || rest != "listener");
        let Some(any) = self.settings.effective().find(|l| !block.prefix.is_empty() && counts(&l.entry.key)) else {
            return Said::Nothing;
        };
        let (port, address) = (own("port"), own("ip"));
        let decides = port.or(address);
        Said::Set(Set {
            address: address.map(|l| l.entry.value.clone()),
            port: port.and_then(|l| l.entry.value.parse().ok()),
            tls: own("ssl").is_some_and(|l| l.entry.value == "true"),
            certificate: ["certfile", "cert", "ssl_opts.certfile", "ssl_opts.cert"].iter().any(|name| own(name).is_some()),
            key: decides.map(|l| l.entry.key.clone()),
            at: Some(decides.unwrap_or(any).at()),
            source: "conf",
        })
    }
}

impl Opened {
    fn without_certificate(&mut self, listener: WantedListener) {
        self.bare.push(Bare { listener: listener.clone(), fatal: true });
        self.listeners.push(listener);
    }
}

impl Set {
    /// An empty list in advanced.config.
    fn nothing() -> Set {
        Set { address: None, port: None, tls: false, certificate: false, key: None, at: None, source: "advanced" }
    }
}

/// `[{ip, "127.0.0.1"}, {port, 15672}]`
fn of_term(term: &Term, at: Where) -> Said {
    if term.list().is_some_and(<[Term]>::is_empty) {
        return Said::Empty;
    }
    let port = term.property("port");
    let address = term.property("ip").and_then(|ip| ip.text().or_else(|| ip_tuple(ip)));
    let place = |term: &Term| Where { line: Some(term.line), column: Some(term.column), ..at.clone() };
    Said::Set(Set {
        address,
        port: port.and_then(Term::int).and_then(|i| i64::try_from(i).ok()),
        tls: term.property("ssl").and_then(Term::atom) == Some("true"),
        certificate: true,
        key: None,
        at: Some(port.map_or_else(|| at.clone(), place)),
        source: "advanced",
    })
}

fn default(service: &str, address: &str, port: i64) -> WantedListener {
    WantedListener { service: service.into(), address: address.into(), port, key: None, at: None, source: "default".into() }
}

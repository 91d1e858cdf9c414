//! What the configuration says about TLS: the blocks of settings that listeners of the core and of plugins use.

use super::WantedListener;
use super::advanced::Advanced;
use super::settings::{Line, Settings};
use crate::facts::Where;
use crate::formats::erlang::Term;
use serde::Serialize;

/// One block of TLS settings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct TlsSettings {
    /// What its keys in rabbitmq.conf begin with: `ssl_options`, `management.ssl`, …
    pub block: String,
    /// Services whose listeners use it; empty: none is configured.
    pub services: Vec<String>,
    /// conf | advanced
    pub source: String,
    pub certificate: Option<Named>,
    pub key: Option<Named>,
    pub ca: Option<Named>,
    /// Certificate or key stand in the configuration itself (`cert`, `key`), not in a file.
    pub inline: bool,
    /// A password for the key is configured.
    pub password: bool,
    /// `verify = verify_peer`: certificates of clients are checked.
    pub verify_peer: bool,
    /// `fail_if_no_peer_cert = true`: clients without a certificate are refused.
    pub requires_client: bool,
    /// Where `fail_if_no_peer_cert` is set; null: it is not.
    pub requires_client_at: Option<Where>,
    /// Versions that are asked for, as they are written; null: not said.
    pub versions: Option<Vec<String>>,
    pub versions_at: Option<Where>,
    /// Cipher suites that are asked for; empty: not said.
    pub ciphers: Vec<String>,
}

/// A file that a setting names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Named {
    pub path: String,
    /// The key of rabbitmq.conf; null: advanced.config says it.
    pub key: Option<String>,
    pub at: Where,
}

/// Prefix in rabbitmq.conf; application, key and (for the older form of the management plugin) inner key of the Erlang terms.
struct Block {
    prefix: &'static str,
    app: &'static str,
    key: &'static str,
    inner: Option<&'static str>,
    services: &'static [&'static str],
}

const CORE: &str = "ssl_options";

const BLOCKS: [Block; 6] = [
    Block {
        prefix: CORE,
        app: "rabbit",
        key: "ssl_options",
        inner: None,
        services: &["amqps", "mqtt-tls", "stomp-tls", "stream-tls"],
    },
    Block { prefix: "management.ssl", app: "rabbitmq_management", key: "ssl_config", inner: None, services: &["management-tls"] },
    Block {
        prefix: "management.listener.ssl_opts",
        app: "rabbitmq_management",
        key: "listener",
        inner: Some("ssl_opts"),
        services: &["management-tls"],
    },
    Block { prefix: "web_mqtt.ssl", app: "rabbitmq_web_mqtt", key: "ssl_config", inner: None, services: &["web-mqtt-tls"] },
    Block { prefix: "web_stomp.ssl", app: "rabbitmq_web_stomp", key: "ssl_config", inner: None, services: &["web-stomp-tls"] },
    Block { prefix: "prometheus.ssl", app: "rabbitmq_prometheus", key: "ssl_config", inner: None, services: &["prometheus-tls"] },
];

/// The blocks that are set.
pub fn blocks(settings: &Settings, advanced: &Advanced) -> Vec<TlsSettings> {
    BLOCKS.iter().filter_map(|block| one(block, settings, advanced)).collect()
}

/// The same with the services whose listeners use them.
pub fn used_by(mut found: Vec<TlsSettings>, listeners: &[WantedListener]) -> Vec<TlsSettings> {
    for listener in listeners {
        let own = |b: &Block| b.services.contains(&listener.service.as_str());
        let names = |prefix: &str| BLOCKS.iter().any(|b| own(b) && b.prefix == prefix);
        // A block without a certificate of its own borrows the core's.
        let index = found.iter().position(|s| names(&s.block) && s.has_certificate()).or_else(|| {
            let tls = BLOCKS.iter().any(own);
            found.iter().position(|s| s.block == CORE).filter(|_| tls)
        });
        if let Some(block) = index.and_then(|i| found.get_mut(i)).filter(|b| !b.services.contains(&listener.service)) {
            block.services.push(listener.service.clone());
        }
    }
    found
}

impl TlsSettings {
    fn has_certificate(&self) -> bool {
        self.certificate.is_some() || self.inline
    }

    fn empty(block: &Block, source: &str) -> TlsSettings {
        TlsSettings {
            block: block.prefix.to_owned(),
            services: Vec::new(),
            source: source.to_owned(),
            certificate: None,
            key: None,
            ca: None,
            inline: false,
            password: false,
            verify_peer: false,
            requires_client: false,
            requires_client_at: None,
            versions: None,
            versions_at: None,
            ciphers: Vec::new(),
        }
    }
}

/// What the Erlang file says replaces the whole block.
fn one(block: &Block, settings: &Settings, advanced: &Advanced) -> Option<TlsSettings> {
    if let Some((term, at)) = advanced.get(block.app, block.key) {
        let term = match block.inner {
            Some(inner) => term.property(inner)?,
            None => term,
        };
        return Some(of_term(block, term, &at));
    }
    let prefix = format!("{}.", block.prefix);
    settings.effective().any(|l| l.entry.key.starts_with(&prefix)).then(|| of_lines(block, settings))
}

fn of_lines(block: &Block, settings: &Settings) -> TlsSettings {
    let line = |name: &str| settings.get(&format!("{}.{name}", block.prefix));
    let named =
        |name: &str| line(name).map(|l| Named { path: l.entry.value.clone(), key: Some(l.entry.key.clone()), at: l.value_at() });
    let all = |name: &str| settings.below(&format!("{}.{name}", block.prefix));
    let values = |lines: &[&Line]| lines.iter().map(|l| l.entry.value.clone()).collect::<Vec<_>>();
    let versions = all("versions");
    TlsSettings {
        certificate: named("certfile"),
        key: named("keyfile"),
        ca: named("cacertfile"),
        inline: line("cert").is_some() || !all("key").is_empty(),
        password: line("password").is_some(),
        verify_peer: line("verify").is_some_and(|l| l.entry.value == "verify_peer"),
        requires_client: line("fail_if_no_peer_cert").is_some_and(|l| l.entry.value == "true"),
        requires_client_at: line("fail_if_no_peer_cert").map(Line::at),
        versions: (!versions.is_empty()).then(|| values(&versions)),
        versions_at: versions.first().map(|l| l.at()),
        ciphers: values(&all("ciphers")),
        ..TlsSettings::empty(block, "conf")
    }
}

fn of_term(block: &Block, term: &Term, at: &Where) -> TlsSettings {
    let place = |term: &Term| Where { line: Some(term.line), column: Some(term.column), ..at.clone() };
    let named = |name: &str| {
        let value = term.property(name)?;
        Some(Named { path: value.text()?, key: None, at: place(value) })
    };
    let texts =
        |name: &str| term.property(name).and_then(Term::list).map(|l| l.iter().filter_map(Term::text).collect::<Vec<_>>());
    let is = |name: &str, atom: &str| term.property(name).and_then(Term::atom) == Some(atom);
    TlsSettings {
        certificate: named("certfile"),
        key: named("keyfile"),
        ca: named("cacertfile"),
        inline: ["cert", "key", "certs_keys"].iter().any(|name| term.property(name).is_some()),
        password: term.property("password").is_some(),
        verify_peer: is("verify", "verify_peer"),
        requires_client: is("fail_if_no_peer_cert", "true"),
        requires_client_at: term.property("fail_if_no_peer_cert").map(place),
        versions: texts("versions"),
        versions_at: term.property("versions").map(place),
        ciphers: texts("ciphers").unwrap_or_default(),
        ..TlsSettings::empty(block, "advanced")
    }
}

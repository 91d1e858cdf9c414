//! What is known of a fault: its script, what clients do and see, and which rules name its cause.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Deserialize;

/// The project's own faults.
pub const OWN: &str = "tests/lab/own-faults";
/// Which rules name the cause of which fault, whoever wrote the fault.
const CAUSES: &str = include_str!("../causes.toml");

/// A fault of a pack: a script breaks a healthy host, `ID.toml` says what comes of it.
pub struct Fault {
    pub id: String,
    /// Run as root inside the host.
    pub script: String,
    pub known: Known,
    /// Rules of which one has to be named first; empty: nobody has said yet.
    pub causes: Vec<String>,
    pub intent: Intended,
}

/// `ID.toml`; more may stand there.
#[derive(Deserialize)]
pub struct Known {
    /// Breaks the host; without it `ID.sh` does.
    script: Option<String>,
    /// `debian11`, `debian12`, `debian13`
    pub versions: Vec<String>,
    /// What is the matter, in one word; `healthy`: nothing.
    pub category: String,
    #[serde(default)]
    pub fixable: bool,
    /// Run with the whole pack only, not as a test.
    #[serde(default)]
    pub on_demand: bool,
    #[serde(default)]
    pub reboot_after_inject: bool,
    /// What was repaired has to outlive a reboot.
    #[serde(default)]
    pub reboot_after_fix: bool,
    /// Packages, separated by blanks.
    pub needs_package: Option<String>,
    pub probe: Vec<Probe>,
}

/// What a client does; the first one shows the symptom, the others what still works.
#[derive(Deserialize, Clone)]
pub struct Probe {
    /// amqp | amqps | http
    pub kind: String,
    #[serde(default = "host")]
    pub host: String,
    pub port: u16,
    #[serde(default = "user")]
    pub user: String,
    #[serde(default = "password")]
    pub password: String,
    #[serde(default = "vhost")]
    pub vhost: String,
    /// Connects from the client's second address.
    pub source: Option<String>,
    /// TCP only.
    #[serde(default)]
    pub tcp: bool,
    /// So many AMQP connections at once.
    pub amqp_burst: Option<u16>,
    /// Files inside the host.
    pub ca: Option<String>,
    pub cert: Option<String>,
    pub key: Option<String>,
    /// At most this version of TLS.
    pub proto: Option<String>,
    /// SASL mechanism, if not PLAIN.
    pub mech: Option<String>,
    /// Any of these outcomes; nothing said: whatever comes.
    #[serde(default)]
    pub expect: Vec<String>,
    /// After the repair; nothing said: the client gets through.
    #[serde(default)]
    pub want_fixed: OneOrMany,
    /// `skip`: says nothing after the repair.
    pub after_fix: Option<String>,
}

#[derive(Deserialize, Clone, Default)]
#[serde(untagged)]
pub enum OneOrMany {
    #[default]
    None,
    One(String),
    Many(Vec<String>),
}

fn host() -> String {
    "10.77.0.2".into()
}
fn user() -> String {
    "app".into()
}
fn password() -> String {
    "app-secret".into()
}
fn vhost() -> String {
    "/".into()
}

impl OneOrMany {
    pub fn list(&self) -> Vec<&str> {
        match self {
            OneOrMany::None => Vec::new(),
            OneOrMany::One(one) => vec![one],
            OneOrMany::Many(many) => many.iter().map(String::as_str).collect(),
        }
    }
}

impl Probe {
    /// This client has to get through once all is well.
    pub fn wanted(&self) -> bool {
        self.after_fix.as_deref() != Some("skip") && self.want_fixed.list().iter().all(|outcome| *outcome == "ok")
    }

    /// What the policy calls it; by its port where one kind of client speaks several protocols.
    pub fn service(&self) -> &'static str {
        match (self.kind.as_str(), self.port) {
            ("http", _) => "management",
            ("amqps", _) => "amqps",
            (_, 1883) => "mqtt",
            (_, 61613) => "stomp",
            (_, 15674) => "web-stomp",
            (_, 15675) => "web-mqtt",
            (_, 5552) => "stream",
            _ => "amqp",
        }
    }
}

/// How the product is told who has to connect, where the probes do not say it all.
#[derive(Deserialize, Clone, Default)]
#[serde(deny_unknown_fields)]
pub struct Intended {
    /// Number of the probe that is the client, counted from 0.
    pub client: Option<usize>,
    /// A policy file in place of options. `$CLIENT`, `$HOST` and so on are filled in.
    pub policy: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Cause {
    rules: Vec<String>,
    #[serde(flatten)]
    intent: Option<Intended>,
}

/// Names of the faults in a folder.
pub fn ids(dir: &Path) -> Result<Vec<String>> {
    let mut ids = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        ids.extend(name.strip_suffix(".toml").map(str::to_owned));
    }
    ids.sort();
    Ok(ids)
}

/// Reads a fault.
pub fn read(dir: &Path, id: &str) -> Result<Fault> {
    let text = |end: &str| {
        let path = dir.join(format!("{id}.{end}"));
        fs::read_to_string(&path).with_context(|| path.display().to_string())
    };
    let mut known: Known = toml_edit::de::from_str(&text("toml")?).with_context(|| format!("{id}.toml"))?;
    let script = known.script.take().map_or_else(|| text("sh"), Ok)?;
    let mut causes: BTreeMap<String, Cause> = toml_edit::de::from_str(CAUSES).context("causes.toml")?;
    let cause = causes.remove(id);
    let intent = cause.as_ref().and_then(|cause| cause.intent.clone()).unwrap_or_default();
    Ok(Fault { id: id.into(), script, known, causes: cause.map(|cause| cause.rules).unwrap_or_default(), intent })
}

impl Fault {
    /// A package can be had on every suite, whatever the pack was tried on.
    pub fn on(&self, suite: &str) -> bool {
        let release = match suite {
            "bullseye" => "debian11",
            "bookworm" => "debian12",
            _ => "debian13",
        };
        self.known.needs_package.is_some() || self.known.versions.iter().any(|version| version == release)
    }

    pub fn healthy(&self) -> bool {
        self.known.category == "healthy"
    }

    /// The client whose way is judged: the one with the symptom.
    pub fn client(&self) -> &Probe {
        &self.known.probe[self.intent.client.unwrap_or(0)]
    }

    /// The client that has to get through after the repair.
    pub fn wanted(&self) -> &Probe {
        let mut clients = [self.client()].into_iter().chain(&self.known.probe);
        clients.find(|probe| probe.wanted()).unwrap_or(self.client())
    }
}

/// Where the faults that are run without a folder's name are.
pub fn default_dir() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let shared = root.join("../shared/faults");
    if shared.is_dir() { shared } else { root.join(OWN) }
}

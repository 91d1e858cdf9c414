//! The repairs that a rule may ask for: one file each, one line each in the list below.
//!
//! An action turns parameters (filled in from the facts by the rule) and what is known about the host into changes. It
//! changes nothing, reads files only through its [`Desk`] and says what it would need to know.

use super::change::{Change, Op};
use super::world::{FileState, Look, Trouble};
use crate::facts::{Facts, broker::Node, clients::Client, unit::Unit};
use crate::host::rpc::Mutation;
use crate::policy::{ClientIntent, Intent};
use serde::{Deserialize, Deserializer, de::DeserializeOwned};
use serde_json::{Map, Value};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Component, Path, PathBuf};

mod conf;
pub mod open_port;

/// When a change is made: nothing is opened before what stands behind it is in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Files, units and the one restart.
    Host,
    /// Users, permissions, vhosts: needs a running broker.
    Broker,
    /// Opens the packet filter, last.
    Firewall,
}

/// The phases in order.
pub const PHASES: [Phase; 3] = [Phase::Host, Phase::Broker, Phase::Firewall];

/// One entry of the list of actions.
pub struct Action {
    pub name: &'static str,
    pub phase: Phase,
    pub plan: fn(&Map<String, Value>, &Desk) -> Result<Proposal, Refusal>,
}

macro_rules! actions {
    ($($name:literal $phase:ident $module:ident,)*) => {
        $(mod $module;)*
        /// All actions. Their order here is the order in which they are carried out within a phase.
        const ACTIONS: &[Action] = &[$(Action {
            name: $name,
            phase: Phase::$phase,
            plan: |with, desk| $module::plan(params(with)?, desk),
        },)*];
    };
}

actions! {
    "unit-unmask" Host unit_unmask,
    "unit-enable" Host unit_enable,
    // Actions that name a line come before those that may add or remove lines.
    "comment-conf" Host comment_conf,
    "rename-conf-key" Host rename_conf_key,
    "set-conf-line" Host set_conf_line,
    "edit-unit" Host edit_unit,
    "daemon-reload" Host daemon_reload,
    "repair-text" Host repair_text,
    "set-aside" Host set_aside,
    "comment-env" Host comment_env,
    "unset-env" Host unset_env,
    "unset-conf" Host unset_conf,
    "set-conf" Host set_conf,
    "set-term" Host set_term,
    "move-file" Host move_file,
    "tls-versions" Host tls_versions,
    "certificate-to-pem" Host certificate_to_pem,
    "broker-may-read" Host broker_may_read,
    "join-group" Host join_group,
    "file-owner" Host file_owner,
    "file-mode" Host file_mode,
    "new-cookie" Host new_cookie,
    "set-node-name" Host set_node_name,
    "hosts-entry" Host hosts_entry,
    "open-loopback" Host open_loopback,
    "enable-plugin" Host enable_plugin,
    "take-over" Host take_over,
    "continue-process" Host continue_process,
    "start-service" Host start_service,
    "restart-broker" Host restart_broker,
    "add-vhost" Broker add_vhost,
    "create-user" Broker create_user,
    "grant-permission" Broker grant_permission,
    "set-user-tags" Broker set_user_tags,
    "set-password" Broker set_password,
    "reset-watermark" Broker reset_watermark,
    "resume-listeners" Broker resume_listeners,
    "revive-node" Broker revive_node,
    "lift-ban" Firewall lift_ban,
    "keep-destination" Firewall keep_destination,
    "open-port" Firewall let_client_in,
    "let-peers-in" Firewall let_peers_in,
    "close-port" Firewall close_port,
}

pub use create_user::generated_password_file;

/// Finds an action by the name that rules write. Starting the unit always forgets its failed starts first.
pub fn find(name: &str) -> Option<(usize, &'static Action)> {
    let name = if matches!(name, "unit-start" | "unit-reset-failed") { "start-service" } else { name };
    ACTIONS.iter().enumerate().find(|(_, action)| action.name == name)
}

/// What the broker's unit has to do for the changes to take effect.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum UnitNeed {
    #[default]
    None,
    /// A running (or failing) broker has to be restarted; one that was stopped on purpose stays stopped.
    Restart,
    Start,
}

/// What an action would do.
#[derive(Debug, Default)]
pub struct Proposal {
    pub changes: Vec<Change>,
    pub unit: UnitNeed,
    /// restart | interrupts-clients | opens-firewall | adds-access | …
    pub effects: Vec<&'static str>,
    /// One line, e.g. `/etc/rabbitmq/rabbitmq.conf:3 heartbeatt -> heartbeat`.
    pub summary: String,
    /// What it decides, as (what, how): two steps that decide one thing differently are both refused.
    pub claims: Vec<(String, String)>,
    /// The value or decision that tier `ask` stands for was given by policy or options.
    pub decided: bool,
    /// Connections that are tried in a copy of the packet filter before the host is touched.
    pub trials: Vec<Trial>,
}

/// A connection that is refused now and has to come to be once `commands` have run, in network namespaces that stand for this host and
/// the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trial {
    pub source: IpAddr,
    pub to: SocketAddr,
    /// Of this host, that the client's packets come in by.
    pub interface: String,
    /// What the client sees before.
    pub sees: String,
    pub commands: Vec<Vec<String>>,
}

/// Why an action proposes nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// Values that must be given, e.g. `--from CIDR`.
    Needs(Vec<String>),
    /// The host already is as wanted.
    Already,
    /// It cannot be done here; says why.
    Cannot(String),
}

impl From<Trouble> for Refusal {
    fn from(trouble: Trouble) -> Self {
        Refusal::Cannot(trouble.to_string())
    }
}

/// Shorthand for [`Refusal::Cannot`].
pub fn cannot(why: impl Into<String>) -> Refusal {
    Refusal::Cannot(why.into())
}

/// What an action works with: the facts, the intent, and files as the steps before it leave them.
pub struct Desk<'a> {
    pub facts: &'a Facts,
    pub intent: &'a Intent,
    pub look: &'a dyn Look,
    /// Fills a buffer with random bytes.
    pub random: &'a dyn Fn(&mut [u8]) -> Result<(), Trouble>,
    files: RefCell<BTreeMap<PathBuf, Sheet>>,
}

/// One file: as it is on the host, and as the plan so far leaves it.
#[derive(Clone)]
struct Sheet {
    original: Option<FileState>,
    now: Option<FileState>,
    secret: bool,
}

impl<'a> Desk<'a> {
    pub fn new(
        facts: &'a Facts,
        intent: &'a Intent,
        look: &'a dyn Look,
        random: &'a dyn Fn(&mut [u8]) -> Result<(), Trouble>,
    ) -> Self {
        Desk { facts, intent, look, random, files: RefCell::default() }
    }

    /// A file as the steps so far leave it.
    pub fn file(&self, path: &Path) -> Result<Option<FileState>, Refusal> {
        if let Some(sheet) = self.files.borrow().get(path) {
            return Ok(sheet.now.clone());
        }
        let state = self.look.look(path)?;
        let sheet = Sheet { original: state.clone(), now: state.clone(), secret: false };
        self.files.borrow_mut().insert(path.to_path_buf(), sheet);
        Ok(state)
    }

    /// Puts a new state of a file on the desk and gives the change from the one before.
    pub fn put(&self, path: &Path, after: FileState, secret: bool) -> Result<Change, Refusal> {
        let before = self.file(path)?;
        if before.as_ref() == Some(&after) {
            return Err(Refusal::Already);
        }
        if let Some(sheet) = self.files.borrow_mut().get_mut(path) {
            sheet.now = Some(after.clone());
            sheet.secret |= secret;
        }
        Ok(Change::File { path: path.to_path_buf(), before, after: Some(after), secret })
    }

    /// Takes a file off the desk and gives the change.
    pub fn take_away(&self, path: &Path) -> Result<Change, Refusal> {
        let before = self.file(path)?;
        if before.is_none() {
            return Err(Refusal::Already);
        }
        if let Some(sheet) = self.files.borrow_mut().get_mut(path) {
            sheet.now = None;
        }
        Ok(Change::File { path: path.to_path_buf(), before, after: None, secret: false })
    }

    /// One change per file that differs from the host, over all steps so far.
    pub fn whole_files(&self) -> Vec<Change> {
        self.files
            .borrow()
            .iter()
            .filter(|(_, sheet)| sheet.original != sheet.now)
            .map(|(path, sheet)| Change::File {
                path: path.clone(),
                before: sheet.original.clone(),
                after: sheet.now.clone(),
                secret: sheet.secret,
            })
            .collect()
    }

    /// Remembers the desk as it is, to go back to when a step turns out not to be wanted.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot(self.files.borrow().clone())
    }

    pub fn restore(&self, snapshot: Snapshot) {
        *self.files.borrow_mut() = snapshot.0;
    }

    /// The broker's unit.
    pub fn unit(&self) -> Result<&Unit, Refusal> {
        match &self.facts.unit {
            crate::facts::Fact::Known(Some(unit)) => Ok(unit),
            crate::facts::Fact::Known(None) => Err(cannot("no systemd unit of RabbitMQ on this host")),
            crate::facts::Fact::Unknown(why) => Err(cannot(format!("the unit is not known: {why}"))),
        }
    }

    /// What the unit needs once files that kept the broker from starting are right: a broker that fails to start is started again,
    /// one that runs or was stopped on purpose is left alone.
    pub fn start_if_failing(&self) -> UnitNeed {
        match self.facts.unit.known().and_then(Option::as_ref).map(|unit| unit.active.as_str()) {
            Some("activating" | "failed") => UnitNeed::Start,
            _ => UnitNeed::None,
        }
    }

    /// The running node.
    pub fn node(&self) -> Result<&Node, Refusal> {
        match self.facts.node.known() {
            Some(Some(node)) if node.booted.known() != Some(&false) => Ok(node),
            _ => Err(cannot("RabbitMQ does not run yet")),
        }
    }

    /// The entry of the intent with this name; without a name, the only one that names a user.
    pub fn client(&self, name: Option<&str>) -> Option<&ClientIntent> {
        match name {
            Some(name) => self.intent.clients.iter().find(|client| client.name == name),
            None => {
                let mut named = self.intent.clients.iter().filter(|client| client.user.is_some());
                named.next().filter(|_| named.next().is_none())
            }
        }
    }

    /// What is known about the clients with this name (one per source network).
    pub fn clients(&self, name: &str) -> Vec<&Client> {
        self.facts.clients.iter().filter(|client| client.name == name).collect()
    }

    /// Refuses to touch what is not RabbitMQ's own. Its environment file names configuration, data and plugin files, and belongs to the
    /// broker's user: `CONFIG_FILE=/etc/shadow` must not make root give that file away, edit it or create one in its place.
    pub fn own(&self, path: &Path) -> Result<(), Refusal> {
        let plain = path.components().all(|c| matches!(c, Component::RootDir | Component::Normal(_)));
        let home = ["/etc/rabbitmq", "/var/lib/rabbitmq", "/var/log/rabbitmq"].iter().any(|dir| path.starts_with(dir));
        let theirs = |ids: (u32, u32)| matches!(self.look.meta(path), Ok(Some(meta)) if meta.uid == ids.0 && ids.0 != 0);
        if plain && (home || self.broker_ids().is_some_and(theirs)) {
            return Ok(());
        }
        Err(cannot(format!("{} lies outside RabbitMQ's own directories: to be done by hand", path.display())))
    }

    /// uid and gid of the broker's user.
    pub fn broker_ids(&self) -> Option<(u32, u32)> {
        let install = self.facts.install.known()?.as_ref()?;
        Some(((*install.uid.known()?)?, (*install.gid.known()?)?))
    }
}

/// See [`Desk::snapshot`].
pub struct Snapshot(BTreeMap<PathBuf, Sheet>);

/// Parameters of an action; an unknown or missing one is a mistake in the rule.
fn params<T: DeserializeOwned>(with: &Map<String, Value>) -> Result<T, Refusal> {
    serde_json::from_value(Value::Object(with.clone())).map_err(|e| cannot(format!("the rule's fix is wrong: {e}")))
}

/// Parameters of the actions on the broker's unit.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TheUnit {
    /// For the reader of the rule; the broker's unit is known from the facts.
    #[serde(default, rename = "unit")]
    _unit: Option<String>,
}

/// Parameters of the actions that have none.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

/// Parameters of the actions for one client.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TheClient {
    /// Its name in the intent.
    client: String,
}

/// How one network of a client comes in.
struct Way<'d> {
    client: &'d Client,
    to: IpAddr,
    port: u16,
    interface: &'d str,
}

impl TheClient {
    /// One entry per network. Nothing is opened for the whole world because nobody said for whom.
    fn networks<'d>(&self, desk: &'d Desk) -> Result<Vec<&'d Client>, Refusal> {
        let clients = desk.clients(&self.client);
        if clients.is_empty() {
            return Err(cannot(format!("no client {}", self.client)));
        }
        if clients.iter().any(|client| client.assumed) {
            return Err(Refusal::Needs(vec!["--from CIDR".into()]));
        }
        Ok(clients)
    }

    fn ways<'d>(&self, desk: &'d Desk) -> Result<Vec<Way<'d>>, Refusal> {
        let way = |client: &'d Client| {
            let to = client.to.known().and_then(Option::as_deref).and_then(|to| to.parse().ok());
            let port = client.port.known().and_then(|port| u16::try_from(*port).ok());
            let interface = client.interface.known().and_then(Option::as_deref);
            match (to, port, interface) {
                (Some(to), Some(port), Some(interface)) => Ok(Way { client, to, port, interface }),
                _ => Err(cannot(format!("the way of {} to this host is not known", client.from))),
            }
        };
        self.networks(desk)?.into_iter().map(way).collect()
    }
}

/// Parameters of the actions on one line of a file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    file: PathBuf,
    #[serde(deserialize_with = "number")]
    line: u32,
}

/// A number, also where a rule's template made text of it.
fn number<'de, D: Deserializer<'de>>(d: D) -> Result<u32, D::Error> {
    match Value::deserialize(d)? {
        Value::Number(n) => n.as_u64().and_then(|n| u32::try_from(n).ok()),
        Value::String(s) => s.parse().ok(),
        _ => None,
    }
    .ok_or_else(|| serde::de::Error::custom("a whole number was expected"))
}

/// Text, also where a rule gave a number or a truth value.
fn text<'de, D: Deserializer<'de>>(d: D) -> Result<String, D::Error> {
    match Value::deserialize(d)? {
        Value::String(s) => Ok(s),
        Value::Number(n) => Ok(n.to_string()),
        Value::Bool(b) => Ok(b.to_string()),
        _ => Err(serde::de::Error::custom("text was expected")),
    }
}

/// A command with its inverse.
fn command(doing: &[&str], undo: &[&str]) -> Change {
    use super::change::argv;
    Change::Run { doing: Op::Command { argv: argv(doing) }, undo: Op::Command { argv: argv(undo) } }
}

/// A broker call with its inverse.
fn broker(doing: Mutation, undo: Mutation) -> Change {
    Change::Run { doing: Op::Broker { mutation: doing }, undo: Op::Broker { mutation: undo } }
}

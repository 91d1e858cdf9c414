//! Calls to the running broker: a closed list of module:function/arity with fixed arguments.
//!
//! Root plus the cookie is full code execution on the broker, so nothing here is ever built from text: a new call is a new
//! variant. Facts: research of RabbitMQ 3.8–4.3 (`rabbit_auth_backend_internal`, `rabbit_networking`, `ranch`, …).

use super::{Got, Miss};
use eetf::{Atom, BigInteger, Binary, ByteList, Float, List, Term, Tuple};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// Which node to ask and how to authenticate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// `rabbit@mq1`
    pub node: String,
    /// Where its distribution listener is.
    pub address: IpAddr,
    /// `None`: ask the Erlang port mapper at `address`.
    pub port: Option<u16>,
    /// File with the Erlang cookie, or the command line of a process that has it there (`/proc/PID/cmdline`); its content never leaves
    /// host/.
    pub cookie_file: PathBuf,
}

/// The calls that an audit makes (read-only). Mutating calls are in [`Mutation`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Call {
    /// `erlang:node/0`: the node's own name
    NodeName,
    /// `rabbit_misc:version/0`
    Version,
    /// `rabbit_misc:otp_release/0`
    OtpRelease,
    /// `rabbit:is_running/0`
    IsRunning,
    /// `rabbit_auth_backend_internal:list_users/0`
    ListUsers,
    /// `rabbit_auth_backend_internal:lookup_user/1`; captures replace the hash (see host::capture)
    LookupUser(String),
    /// `rabbit_auth_backend_internal:list_permissions/0`
    ListPermissions,
    /// `rabbit_vhost:list_names/0`
    ListVhosts,
    /// `rabbit_vhost_sup_sup:check/0`: vhosts that are down
    VhostsDown,
    /// `ranch:info/0`: the sockets, with `status`; only what [`RANCH_KEYS`] names, since the options may hold TLS passwords.
    /// `rabbit_networking:active_listeners/0` is a table that keeps listeners which are suspended, so it is not asked.
    RanchInfo,
    /// `rabbit_alarm:get_alarms/0`
    Alarms,
    /// `rabbit_maintenance:is_being_drained_local_read/1`
    Drained,
    /// `application:get_env(rabbit, KEY)` for one of the keys that no secret is under
    RabbitEnv(EnvKey),
    /// `vm_memory_monitor:get_memory_limit/0` (bytes)
    MemoryLimit,
    /// `rabbit_disk_monitor:get_disk_free_limit/0` (bytes)
    DiskFreeLimit,
    /// `rabbit_disk_monitor:get_disk_free/0` (bytes)
    DiskFree,
    /// `rabbit:config_files/0`
    ConfigFiles,
    /// `rabbit:log_locations/0`
    LogLocations,
    /// `rabbit_khepri:is_enabled/0` (`Absent` before 3.13)
    KhepriEnabled,
    /// `rabbit_nodes:list_running/0` (3.11+) or `rabbit_mnesia:cluster_nodes(running)`
    RunningNodes,
    /// `rabbit_db_cluster:cli_cluster_status/0` (3.13+) or `rabbit_mnesia:status/0`: all nodes, running ones, partitions
    ClusterStatus,
    /// `rabbit_ff_extra:cli_info/0`: feature flags with state and stability
    FeatureFlags,
    /// `rabbit_depr_ff_extra:cli_info(used)` (`Absent` before 3.13)
    DeprecatedInUse,
    /// `rabbit_policy:list/0`; of each policy its name, its vhost and the keys of its definition alone
    Policies,
    /// `rabbit_amqqueue:info_all/2`: `[[{messages, Number}]]` of the queues in a vhost; none also where there is no such vhost
    QueuedMessages(String),
    /// `rabbit_connection_tracking:list_on_node/1`: who is connected; of each connection its vhost, user and address alone, at most
    /// [`MAX_CONNECTIONS`] of them
    Connections,
    /// `rabbit_prelaunch_conf:get_config_state/0`: the configuration files that the node read when it started
    ConfigState,
    /// `vm_memory_monitor:get_vm_memory_high_watermark/0`: a share of the memory, or `{absolute, Size}`
    MemoryWatermark,
    /// `rabbit_vhost_limit:list/0`: limits of virtual hosts that have some
    VhostLimits,
    /// `rabbit_auth_backend_internal:get_user_limits/0`: limits of users that have some (`Absent` before 3.8.10)
    UserLimits,
    /// `rabbit_connection_tracking:count_tracked_items_in/1`: connections of all nodes to a virtual host
    ConnectionsTo(String),
    /// The same of a user (`Absent` before 3.8.10)
    ConnectionsOf(String),
    /// `application:which_applications/0`: what runs in the node, plugins among it; only the names
    Applications,
    /// What the node makes of these files now, without applying it: `[]` if it takes them, `{error, Atom}` if not. Its log then says why.
    ///
    /// `rabbit_prelaunch_conf:generate_config_from_cuttlefish_files/3` with the node's own context (3.8.9 to 4.3.6).
    Accepts(ConfigFiles),
    /// As [`Call::Accepts`], laid beside what the node runs with: `[{App, Key, Value, RunningValue}]` of what differs, where a value is
    /// left out (`undefined`) unless it is one of [`super::effective::SHOWN`].
    Differences(ConfigFiles),
}

/// Configuration files in the order in which the broker reads them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ConfigFiles {
    /// Of the rabbitmq.conf format.
    pub files: Vec<PathBuf>,
    /// advanced.config, or the classic rabbitmq.config in its place.
    pub advanced: Option<PathBuf>,
}

/// Keys of the `rabbit` application's environment that hold no secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EnvKey {
    LoopbackUsers,
    TcpListeners,
    SslListeners,
    AuthMechanisms,
    AuthBackends,
    ProxyProtocol,
    AnonymousLoginUser,
    VmMemoryHighWatermark,
    Heartbeat,
    HandshakeTimeout,
    ChannelMax,
    ConnectionMax,
    MaxMessageSize,
    ConsumerTimeout,
    CollectStatisticsInterval,
    DefaultUser,
    DefaultVhost,
    ClusterPartitionHandling,
    ReverseDnsLookups,
}

/// Calls that change the broker; used by the fix engine only, journalled before they are made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "call", rename_all = "kebab-case")]
pub enum Mutation {
    /// `rabbit_auth_backend_internal:add_user/3`; the password is read from the file at the moment of the call
    AddUser { name: String, password_file: PathBuf },
    /// `rabbit_auth_backend_internal:delete_user/2`
    DeleteUser { name: String },
    /// `rabbit_auth_backend_internal:set_permissions/6` (configure, write, read)
    SetPermissions { user: String, vhost: String, configure: String, write: String, read: String },
    /// `rabbit_auth_backend_internal:clear_permissions/3`
    ClearPermissions { user: String, vhost: String },
    /// `rabbit_auth_backend_internal:set_tags/3`
    SetTags { user: String, tags: Vec<String> },
    /// `rabbit_vhost:add/2`
    AddVhost { name: String },
    /// `rabbit_vhost:delete/2`
    DeleteVhost { name: String },
    /// `rabbit_plugins:ensure/1` with the path of enabled_plugins: starts and stops plugins as the file says
    EnsurePlugins { file: PathBuf },
    /// `rabbit_maintenance:resume_all_client_listeners/0`
    ResumeListeners,
    /// `rabbit_maintenance:suspend_all_client_listeners/0`
    SuspendListeners,
    /// `rabbit_maintenance:revive/0`: ends the maintenance mode
    Revive,
    /// `rabbit_maintenance:drain/0`: begins it
    Drain,
    /// `vm_memory_monitor:set_vm_memory_high_watermark/1`: until the node restarts
    SetWatermark { watermark: Watermark },
    /// `rabbit_auth_backend_internal:change_password/3`. The stored hash is written to `kept` before, a file that root alone can read.
    ChangePassword { name: String, password_file: PathBuf, kept: PathBuf },
    /// `rabbit_auth_backend_internal:change_password_hash/3` with what [`Mutation::ChangePassword`] kept.
    RestorePassword { name: String, kept: PathBuf },
}

/// `vm_memory_high_watermark` as the broker takes it. Numbers are texts, so that what is put back is what was there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Watermark {
    /// Share of the memory: `0.4`.
    Share(String),
    /// Bytes, or a number with a unit: `10MB`.
    Absolute(String),
}

impl Watermark {
    /// `0.4`, `{relative, 0.4}` (since 3.13), `{absolute, 1000000}`, `{absolute, "10MB"}`.
    pub fn of(term: &Term) -> Option<Watermark> {
        match elements(term) {
            [kind, size] if name(kind) == Some("absolute") => {
                integer(size).map(|bytes| bytes.to_string()).or_else(|| text(size)).map(Watermark::Absolute)
            }
            [kind, share] if name(kind) == Some("relative") => Watermark::of(share),
            _ => match term {
                Term::Float(share) => Some(Watermark::Share(format!("{:?}", share.value))),
                other => integer(other).map(|share| Watermark::Share(share.to_string())),
            },
        }
    }

    fn term(&self) -> Term {
        let whole = |text: &str| text.parse::<i64>().ok().map(|number| Term::from(BigInteger::from(number)));
        match self {
            Watermark::Share(share) => {
                let float = || Term::from(Float { value: share.parse().unwrap_or(0.0) });
                whole(share).unwrap_or_else(float)
            }
            Watermark::Absolute(size) => {
                let size = whole(size).unwrap_or_else(|| ByteList::from(size.as_str()).into());
                tuple([atom("absolute"), size])
            }
        }
    }
}

impl std::fmt::Display for Watermark {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Watermark::Share(text) | Watermark::Absolute(text) => f.write_str(text),
        }
    }
}

/// What is kept of each listener in the answer to [`Call::RanchInfo`].
const RANCH_KEYS: [&str; 6] = ["status", "ip", "port", "protocol", "transport", "active_connections"];

/// Connections that are looked at; a broker may have a hundred thousand.
const MAX_CONNECTIONS: usize = 2000;

/// The module that reads configuration files.
const CONFIGURATION: &str = "rabbit_prelaunch_conf";

impl ConfigFiles {
    /// The call that makes a configuration of the files; `context` is that of the node.
    pub fn generate(&self, context: Term) -> Mfa {
        let path = |path: &PathBuf| Term::from(ByteList::from(path.as_os_str().as_encoded_bytes().to_vec()));
        let files = List::from(self.files.iter().map(path).collect::<Vec<_>>());
        let advanced = self.advanced.as_ref().map_or_else(|| atom("undefined"), path);
        Mfa::new(CONFIGURATION, "generate_config_from_cuttlefish_files", [context, files.into(), advanced])
    }
}

/// Who changed something, as the broker's log and events say it.
const ACTING_USER: &str = "rmq-audit";

/// Module, function and arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mfa {
    pub module: &'static str,
    pub function: &'static str,
    pub args: Vec<Term>,
}

impl Mfa {
    pub fn new(module: &'static str, function: &'static str, args: impl IntoIterator<Item = Term>) -> Self {
        Mfa { module, function, args: args.into_iter().collect() }
    }
}

/// `module:function/arity`: never the arguments, which may hold a password.
impl std::fmt::Display for Mfa {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}/{}", self.module, self.function, self.args.len())
    }
}

impl Call {
    /// What to call on the node named `node`: the first of these that the node's version has.
    pub fn mfas(&self, node: &str) -> Vec<Mfa> {
        const AUTH: &str = "rabbit_auth_backend_internal";
        const TRACKING: &str = "rabbit_connection_tracking";
        let mfa = match self {
            Call::NodeName => Mfa::new("erlang", "node", []),
            Call::Version => Mfa::new("rabbit_misc", "version", []),
            Call::OtpRelease => Mfa::new("rabbit_misc", "otp_release", []),
            Call::IsRunning => Mfa::new("rabbit", "is_running", []),
            Call::ListUsers => Mfa::new(AUTH, "list_users", []),
            Call::LookupUser(name) => Mfa::new(AUTH, "lookup_user", [binary(name)]),
            Call::ListPermissions => Mfa::new(AUTH, "list_permissions", []),
            Call::ListVhosts => Mfa::new("rabbit_vhost", "list_names", []),
            Call::VhostsDown => Mfa::new("rabbit_vhost_sup_sup", "check", []),
            Call::RanchInfo => Mfa::new("ranch", "info", []),
            Call::Alarms => Mfa::new("rabbit_alarm", "get_alarms", []),
            Call::Drained => Mfa::new("rabbit_maintenance", "is_being_drained_local_read", [atom(node)]),
            Call::RabbitEnv(key) => Mfa::new("application", "get_env", [atom("rabbit"), atom(key.name())]),
            Call::MemoryLimit => Mfa::new("vm_memory_monitor", "get_memory_limit", []),
            Call::DiskFreeLimit => Mfa::new("rabbit_disk_monitor", "get_disk_free_limit", []),
            Call::DiskFree => Mfa::new("rabbit_disk_monitor", "get_disk_free", []),
            Call::ConfigFiles => Mfa::new("rabbit", "config_files", []),
            Call::LogLocations => Mfa::new("rabbit", "log_locations", []),
            Call::KhepriEnabled => Mfa::new("rabbit_khepri", "is_enabled", []),
            Call::ClusterStatus => {
                return vec![Mfa::new("rabbit_db_cluster", "cli_cluster_status", []), Mfa::new("rabbit_mnesia", "status", [])];
            }
            Call::FeatureFlags => Mfa::new("rabbit_ff_extra", "cli_info", []),
            Call::DeprecatedInUse => Mfa::new("rabbit_depr_ff_extra", "cli_info", [atom("used")]),
            Call::Connections => Mfa::new("rabbit_connection_tracking", "list_on_node", [atom(node)]),
            Call::Policies => Mfa::new("rabbit_policy", "list", []),
            Call::VhostLimits => Mfa::new("rabbit_vhost_limit", "list", []),
            Call::UserLimits => Mfa::new(AUTH, "get_user_limits", []),
            Call::ConnectionsTo(vhost) => {
                let about = || tuple([atom("vhost"), binary(vhost)]);
                return vec![
                    Mfa::new(TRACKING, "count_tracked_items_in", [about()]),
                    // 3.8.9 and before
                    Mfa::new(TRACKING, "count_connections_in", [binary(vhost)]),
                ];
            }
            Call::ConnectionsOf(user) => Mfa::new(TRACKING, "count_tracked_items_in", [tuple([atom("user"), binary(user)])]),
            Call::Applications => Mfa::new("application", "which_applications", []),
            Call::QueuedMessages(vhost) => {
                Mfa::new("rabbit_amqqueue", "info_all", [binary(vhost), List::from(vec![atom("messages")]).into()])
            }
            Call::ConfigState => Mfa::new(CONFIGURATION, "get_config_state", []),
            Call::MemoryWatermark => Mfa::new("vm_memory_monitor", "get_vm_memory_high_watermark", []),
            // Its first argument is fetched from the node before (see host::effective).
            Call::Accepts(files) | Call::Differences(files) => files.generate(atom("undefined")),
            Call::RunningNodes => {
                return vec![
                    Mfa::new("rabbit_nodes", "list_running", []),
                    Mfa::new("rabbit_mnesia", "cluster_nodes", [atom("running")]),
                ];
            }
        };
        vec![mfa]
    }

    /// Leaves out of an answer what nobody asked for and may be secret.
    pub fn pare(&self, answer: Term) -> Term {
        match self {
            Call::RanchInfo => pare_listeners(&answer),
            Call::Policies => pare_policies(&answer),
            Call::Applications => first_elements(&answer),
            Call::Connections => pare_connections(&answer),
            _ => answer,
        }
    }
}

/// `[{Application, Description, Version}]` as the names alone.
fn first_elements(applications: &Term) -> Term {
    let names = items(applications).unwrap_or_default().iter().filter_map(|app| elements(app).first().cloned());
    List::from(names.collect::<Vec<_>>()).into()
}

/// Both forms of `ranch:info/0` (a map since ranch 2, a list of pairs on RabbitMQ 3.8) as `[{Ref, [{Key, Value}]}]`.
fn pare_listeners(info: &Term) -> Term {
    let listener = |(reference, details): (Term, Term)| {
        let kept = RANCH_KEYS.iter().filter_map(|key| Some(tuple([atom(key), field(&details, key)?.clone()])));
        tuple([reference, List::from(kept.collect::<Vec<_>>()).into()])
    };
    let mut listeners = pairs(info);
    listeners.sort_by_key(|(reference, _)| brief(reference));
    List::from(listeners.into_iter().map(listener).collect::<Vec<_>>()).into()
}

/// `{tracked_connection, Id, Node, Vhost, Name, Pid, Protocol, Type, PeerHost, PeerPort, User, ConnectedAt}` as `{Vhost, User, PeerHost}`.
fn pare_connections(connections: &Term) -> Term {
    let one = |connection: &Term| match elements(connection) {
        [_, _, _, vhost, _, _, _, _, host, _, user, ..] => Some(tuple([vhost.clone(), user.clone(), host.clone()])),
        _ => None,
    };
    List::from(items(connections).unwrap_or_default().iter().take(MAX_CONNECTIONS).filter_map(one).collect::<Vec<_>>()).into()
}

/// Definitions can name anything; of their values nothing is kept.
fn pare_policies(policies: &Term) -> Term {
    let one = |policy: &Term| {
        let kept = ["vhost", "name"].iter().filter_map(|key| Some(tuple([atom(key), field(policy, key)?.clone()])));
        let keys = field(policy, "definition").map(pairs).unwrap_or_default().into_iter().map(|(key, _)| key);
        let keys = List::from(keys.collect::<Vec<_>>());
        List::from(kept.chain([tuple([atom("definition"), keys.into()])]).collect::<Vec<_>>()).into()
    };
    List::from(items(policies).unwrap_or_default().iter().map(one).collect::<Vec<Term>>()).into()
}

impl EnvKey {
    /// The key as the application's environment has it.
    pub fn name(self) -> &'static str {
        match self {
            EnvKey::LoopbackUsers => "loopback_users",
            EnvKey::TcpListeners => "tcp_listeners",
            EnvKey::SslListeners => "ssl_listeners",
            EnvKey::AuthMechanisms => "auth_mechanisms",
            EnvKey::AuthBackends => "auth_backends",
            EnvKey::ProxyProtocol => "proxy_protocol",
            EnvKey::AnonymousLoginUser => "anonymous_login_user",
            EnvKey::VmMemoryHighWatermark => "vm_memory_high_watermark",
            EnvKey::Heartbeat => "heartbeat",
            EnvKey::HandshakeTimeout => "handshake_timeout",
            EnvKey::ChannelMax => "channel_max",
            EnvKey::ConnectionMax => "connection_max",
            EnvKey::MaxMessageSize => "max_message_size",
            EnvKey::ConsumerTimeout => "consumer_timeout",
            EnvKey::CollectStatisticsInterval => "collect_statistics_interval",
            EnvKey::DefaultUser => "default_user",
            EnvKey::DefaultVhost => "default_vhost",
            EnvKey::ClusterPartitionHandling => "cluster_partition_handling",
            EnvKey::ReverseDnsLookups => "reverse_dns_lookups",
        }
    }
}

impl Mutation {
    /// The file with the password that the call needs.
    pub fn password_file(&self) -> Option<&Path> {
        match self {
            Mutation::AddUser { password_file, .. } | Mutation::ChangePassword { password_file, .. } => Some(password_file),
            Mutation::RestorePassword { kept, .. } => Some(kept),
            _ => None,
        }
    }

    /// What to call; `password` is that of [`Mutation::password_file`].
    pub fn mfa(&self, password: &[u8]) -> Mfa {
        const AUTH: &str = "rabbit_auth_backend_internal";
        let acting = binary(ACTING_USER);
        match self {
            Mutation::AddUser { name, .. } => Mfa::new(AUTH, "add_user", [binary(name), Binary::from(password).into(), acting]),
            Mutation::DeleteUser { name } => Mfa::new(AUTH, "delete_user", [binary(name), acting]),
            Mutation::SetPermissions { user, vhost, configure, write, read } => {
                let args = [user, vhost, configure, write, read].map(|text| binary(text));
                Mfa::new(AUTH, "set_permissions", args.into_iter().chain([acting]))
            }
            Mutation::ClearPermissions { user, vhost } => {
                Mfa::new(AUTH, "clear_permissions", [binary(user), binary(vhost), acting])
            }
            Mutation::SetTags { user, tags } => {
                let tags = List::from(tags.iter().map(|tag| atom(tag)).collect::<Vec<_>>());
                Mfa::new(AUTH, "set_tags", [binary(user), tags.into(), acting])
            }
            Mutation::AddVhost { name } => Mfa::new("rabbit_vhost", "add", [binary(name), acting]),
            Mutation::DeleteVhost { name } => Mfa::new("rabbit_vhost", "delete", [binary(name), acting]),
            Mutation::EnsurePlugins { file } => {
                let file = ByteList::from(file.as_os_str().as_encoded_bytes().to_vec());
                Mfa::new("rabbit_plugins", "ensure", [file.into()])
            }
            Mutation::ResumeListeners => Mfa::new("rabbit_maintenance", "resume_all_client_listeners", []),
            Mutation::SuspendListeners => Mfa::new("rabbit_maintenance", "suspend_all_client_listeners", []),
            Mutation::SetWatermark { watermark } => {
                Mfa::new("vm_memory_monitor", "set_vm_memory_high_watermark", [watermark.term()])
            }
            Mutation::ChangePassword { name, .. } => {
                Mfa::new(AUTH, "change_password", [binary(name), Binary::from(password).into(), acting])
            }
            Mutation::RestorePassword { name, .. } => {
                let (hash, module) = StoredPassword::parse(password).map_or((Vec::new(), String::new()), |p| (p.hash, p.module));
                Mfa::new(AUTH, "change_password_hash", [binary(name), Binary::from(hash).into(), atom(&module)])
            }
            Mutation::Revive => Mfa::new("rabbit_maintenance", "revive", []),
            Mutation::Drain => Mfa::new("rabbit_maintenance", "drain", []),
        }
    }

    /// Whether the broker did it: `ok` and `{ok, …}` are success, anything else a `Failed` that says what came back.
    /// `password` is what the call was made with: a reason that repeats it is not passed on.
    pub fn outcome(&self, answer: &Term, password: &[u8]) -> Got<()> {
        let what = self.mfa(&[]).to_string();
        let parts = elements(answer);
        let why = match (parts.first().unwrap_or(answer), parts.get(1)) {
            (Term::Atom(done), _) if done.name == "ok" => return Ok(()),
            (Term::Atom(error), Some(reason)) if error.name == "error" => brief(reason),
            _ => format!("unexpected answer {}", brief(answer)),
        };
        let password = String::from_utf8_lossy(password);
        let repeated = !password.is_empty() && why.contains(&*password);
        Err(Miss::failed(what, if repeated { outline(answer) } else { why }))
    }
}

/// A user's password as the broker keeps it: salt and hash, and the module that hashes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredPassword {
    pub hash: Vec<u8>,
    pub module: String,
}

impl StoredPassword {
    /// From the answer to [`Call::LookupUser`]: `{ok, {internal_user, Name, Hash, Tags, Module}}`, with limits since 3.8.10.
    /// Users from before 3.6 have no module: theirs is MD5.
    pub fn of(answer: &Term) -> Option<StoredPassword> {
        let [ok, user] = elements(answer) else { return None };
        let user = elements(user);
        let (Some("ok"), Some(Term::Binary(hash)), Some(module)) = (name(ok), user.get(2), user.get(4).and_then(name)) else {
            return None;
        };
        let module = if module == "undefined" { "rabbit_password_hashing_md5" } else { module };
        Some(StoredPassword { hash: hash.bytes.clone(), module: module.to_owned() })
    }

    /// One line of text, to be kept in a file of root's.
    pub fn line(&self) -> String {
        let hex: String = self.hash.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{} {hex}\n", self.module)
    }

    fn parse(line: &[u8]) -> Option<StoredPassword> {
        let (module, hex) = std::str::from_utf8(line).ok()?.trim_end().split_once(' ')?;
        let byte = |at: usize| u8::from_str_radix(hex.get(at..at + 2)?, 16).ok();
        let hash: Option<Vec<u8>> = (0..hex.len()).step_by(2).map(byte).collect();
        let known = module.starts_with("rabbit_password_hashing_");
        known.then_some(StoredPassword { hash: hash?, module: module.to_owned() })
    }
}

/// What `rex` replied: the function's value, or why there is none. `Absent`: this version has no such function.
pub fn reply(mfa: &Mfa, answer: Term) -> Got<Term> {
    let parts = elements(&answer);
    let (Some("badrpc"), Some(reason)) = (parts.first().and_then(name), parts.get(1)) else { return Ok(answer) };
    let [exit, cause] = elements(reason) else { return Err(Miss::failed(mfa.to_string(), outline(reason))) };
    if name(exit) == Some("EXIT") && is_undefined(mfa, cause) {
        return Err(Miss::Absent { what: mfa.to_string() });
    }
    // An exit reason is {Reason, Stack}; the stack holds arguments.
    let cause = elements(cause).first().unwrap_or(cause);
    Err(Miss::failed(mfa.to_string(), format!("failed on the node: {}", outline(cause))))
}

/// `{undef, [{M, F, Args, _} | _]}` about the function itself, not about one that it calls.
fn is_undefined(mfa: &Mfa, cause: &Term) -> bool {
    let [undef, Term::List(stack)] = elements(cause) else { return false };
    let top = stack.elements.first().map(elements).unwrap_or_default();
    name(undef) == Some("undef")
        && top.first().and_then(name) == Some(mfa.module)
        && top.get(1).and_then(name) == Some(mfa.function)
}

// --- terms

pub fn atom(name: &str) -> Term {
    Atom::from(name).into()
}

pub fn binary(text: &str) -> Term {
    Binary::from(text.as_bytes()).into()
}

pub fn tuple<const N: usize>(elements: [Term; N]) -> Term {
    Tuple::from(Vec::from(elements)).into()
}

/// The elements of a tuple; none for any other term.
pub fn elements(term: &Term) -> &[Term] {
    match term {
        Term::Tuple(t) => &t.elements,
        _ => &[],
    }
}

/// The elements of a proper list. A list of small numbers arrives as a string: `text` reads that, this does not.
pub fn items(term: &Term) -> Option<&[Term]> {
    match term {
        Term::List(l) => Some(&l.elements),
        _ => None,
    }
}

/// The name of an atom.
pub fn name(term: &Term) -> Option<&str> {
    match term {
        Term::Atom(a) => Some(&a.name),
        _ => None,
    }
}

/// An integer that fits.
pub fn integer(term: &Term) -> Option<i64> {
    match term {
        Term::FixInteger(i) => Some(i64::from(i.value)),
        Term::BigInteger(i) => i64::try_from(&i.value).ok(),
        _ => None,
    }
}

/// An atom, a UTF-8 binary or a string (a list of code points).
pub fn text(term: &Term) -> Option<String> {
    match term {
        Term::Atom(a) => Some(a.name.clone()),
        Term::Binary(b) => String::from_utf8(b.bytes.clone()).ok(),
        Term::ByteList(l) => Some(l.bytes.iter().map(|b| char::from(*b)).collect()),
        Term::List(l) => {
            let point = |t: &Term| integer(t).and_then(|i| u32::try_from(i).ok()).and_then(char::from_u32);
            l.elements.iter().map(point).collect()
        }
        _ => None,
    }
}

/// Keys and values of a map or of a list of pairs.
pub fn pairs(term: &Term) -> Vec<(Term, Term)> {
    match term {
        Term::Map(m) => m.map.iter().map(|(k, v)| (k.clone(), v.clone())).collect(),
        Term::List(l) => {
            let pair = |t: &Term| matches!(elements(t), [_, _]).then(|| (elements(t)[0].clone(), elements(t)[1].clone()));
            l.elements.iter().filter_map(pair).collect()
        }
        _ => Vec::new(),
    }
}

/// The value of an atom key in a map or in a list of pairs.
pub fn field<'a>(term: &'a Term, key: &str) -> Option<&'a Term> {
    match term {
        Term::Map(m) => m.map.get(&atom(key)),
        Term::List(l) => l.elements.iter().find_map(|t| match elements(t) {
            [k, value] if name(k) == Some(key) => Some(value),
            _ => None,
        }),
        _ => None,
    }
}

/// A term for a message to the user: texts as texts, at most 200 characters.
pub fn brief(term: &Term) -> String {
    let whole = written(term, &|leaf| text(leaf).unwrap_or_else(|| leaf.to_string()));
    whole.chars().take(200).collect()
}

/// The shape of a term: its atoms, everything else as `_`. For terms that may hold a secret.
fn outline(term: &Term) -> String {
    let whole = written(term, &|leaf| name(leaf).unwrap_or("_").to_owned());
    whole.chars().take(200).collect()
}

fn written(term: &Term, leaf: &dyn Fn(&Term) -> String) -> String {
    match term {
        Term::Tuple(t) => format!("{{{}}}", t.elements.iter().map(|t| written(t, leaf)).collect::<Vec<_>>().join(", ")),
        other => leaf(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn string(text: &str) -> Term {
        ByteList::from(text).into()
    }

    fn number(value: i32) -> Term {
        eetf::FixInteger { value }.into()
    }

    #[test]
    fn text_comes_in_four_forms() {
        assert_eq!(text(&atom("rabbit@mq1")), Some("rabbit@mq1".into()));
        assert_eq!(text(&binary("ü")), Some("ü".into()));
        assert_eq!(text(&ByteList::from(vec![0x66, 0xfc]).into()), Some("fü".into()), "a string holds code points, not UTF-8");
        assert_eq!(text(&List::from(vec![number(0x20ac)]).into()), Some("€".into()));
        assert_eq!(text(&List::nil().into()), Some(String::new()));
        assert_eq!(text(&Binary::from(vec![0xff]).into()), None);
        assert_eq!(text(&List::from(vec![number(-1)]).into()), None);
    }

    #[test]
    fn pairs_and_maps_are_looked_up_alike() {
        let list = Term::from(List::from(vec![tuple([atom("port"), number(5672)])]));
        let map = Term::from(eetf::Map::from([(atom("port"), number(5672))]));
        for term in [list, map] {
            assert_eq!(field(&term, "port").and_then(integer), Some(5672));
            assert_eq!(field(&term, "ip"), None);
        }
    }

    #[test]
    fn a_refusal_says_why_but_never_repeats_the_password() {
        let add = Mutation::AddUser { name: "u".into(), password_file: "/p".into() };
        let outcome = |answer: Term| add.outcome(&answer, b"geheim").map_err(|m| m.to_string());
        assert_eq!(outcome(atom("ok")), Ok(()));
        assert_eq!(outcome(tuple([atom("ok"), List::nil().into()])), Ok(()));
        let exists = tuple([atom("error"), tuple([atom("user_already_exists"), binary("u")])]);
        let said = "rabbit_auth_backend_internal:add_user/3: {user_already_exists, u}";
        assert_eq!(outcome(exists), Err(said.into()));
        let weak = tuple([atom("error"), string("minimum required password length is 8")]);
        assert!(outcome(weak).is_err_and(|why| why.ends_with("minimum required password length is 8")));
        let leak = tuple([atom("error"), tuple([atom("bad"), string("geheim is too short")])]);
        assert!(outcome(leak).is_err_and(|why| why.ends_with("{error, {bad, _}}")));
        assert!(outcome(atom("timeout")).is_err_and(|why| why.ends_with("unexpected answer timeout")));
    }

    #[test]
    fn calls_are_shown_without_their_arguments() {
        let add = Mutation::AddUser { name: "u".into(), password_file: "/p".into() };
        assert_eq!(add.mfa(b"geheim").to_string(), "rabbit_auth_backend_internal:add_user/3");
        let drained = Call::Drained.mfas("rabbit@mq1");
        assert_eq!(drained[0].args, [atom("rabbit@mq1")]);
    }
}

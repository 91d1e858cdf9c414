//! Calls to the running broker: a closed list of module:function/arity with fixed arguments.
//!
//! Root plus the cookie is full code execution on the broker, so nothing here is ever built from text: a new call is a new
//! variant. Facts: research of RabbitMQ 3.8–4.3 (`rabbit_auth_backend_internal`, `rabbit_networking`, `ranch`, …).

use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::path::PathBuf;

/// Which node to ask and how to authenticate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// `rabbit@mq1`
    pub node: String,
    /// Where its distribution listener is; from procfs or epmd.
    pub address: IpAddr,
    pub port: u16,
    /// File with the Erlang cookie; its content never leaves host/.
    pub cookie_file: PathBuf,
}

/// The calls that an audit makes (read-only). Mutating calls are in [`Mutation`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Call {
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
    /// `rabbit_networking:active_listeners/0`: the table, which keeps suspended listeners
    ActiveListeners,
    /// `ranch:info/0`: the sockets, with `status`
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
    /// `rabbit_khepri:is_enabled/0` (undef before 3.13)
    KhepriEnabled,
    /// `rabbit_nodes:list_running/0` (3.11+) or `rabbit_mnesia:cluster_nodes(running)`
    RunningNodes,
    /// `rabbit_networking:connections_local/0`, counted
    LocalConnections,
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
}

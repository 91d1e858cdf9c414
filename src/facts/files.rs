//! Modes and owners of what the broker must be able to read or write.
mod loose;

pub use loose::Sensitive;

use super::{Blank, Fact, broker::Node, env::Env, names::Names, os::Install};
use crate::host::dist::COOKIE_REFUSED;
use crate::host::{Got, Host, Kind, Meta, Miss, optional, read_text};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Files and directories; null: not there.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Files {
    /// /var/lib/rabbitmq/.erlang.cookie
    pub cookie: Fact<Option<Cookie>>,
    /// The running node turns this cookie away: it was started with another one.
    pub cookie_refused: Fact<bool>,
    /// /var/lib/rabbitmq and the mnesia directory
    pub data_dirs: Fact<Vec<Dir>>,
    pub log_dir: Fact<Option<Dir>>,
    /// Files and directories with secrets in them.
    pub sensitive: Fact<Vec<Sensitive>>,
    /// /etc/rabbitmq, or where rabbitmq-env.conf is.
    pub config_dir: Fact<Option<ConfigDir>>,
    /// rabbitmq-env.conf is there and the broker's user may read it, or it is not there.
    pub env_file_readable: Fact<bool>,
    /// Data directories of other node names, newest last.
    pub other_nodes: Fact<Vec<NodeData>>,
    /// The node has data under its present name.
    pub has_data: Fact<bool>,
}

/// The directory of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ConfigDir {
    pub path: String,
    /// Octal text of the mode, e.g. `0755`.
    pub mode_text: String,
    pub uid: i64,
    pub gid: i64,
    /// By mode bits, the broker's user may go into it.
    pub searchable_by_broker: Fact<bool>,
}

/// The data of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct NodeData {
    /// `rabbit@mq1`
    pub node: String,
    pub path: String,
    /// Newest modification time of what lies directly inside, seconds since the epoch.
    pub used: i64,
}

/// The Erlang cookie; its content is never kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Cookie {
    pub path: String,
    pub mode: i64,
    pub uid: i64,
    /// Octal text of the mode, e.g. `0644`.
    pub mode_text: String,
    /// Accessible by group or others: the node refuses to start.
    pub too_open: bool,
    /// Owned by the broker's user.
    pub owned_by_broker: Fact<bool>,
    pub empty: Fact<bool>,
    /// Longer than 255 characters: no Erlang node starts with it.
    pub too_long: bool,
    /// Shorter than 16 characters, and not empty: Erlang makes them of 20 random letters.
    pub short: bool,
    /// Modification time, seconds since the epoch.
    pub mtime: i64,
}

/// A directory that the broker writes to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Dir {
    pub path: String,
    /// data | log
    pub purpose: String,
    pub mode: i64,
    pub uid: i64,
    pub gid: i64,
    /// By mode bits, for the broker's user.
    pub writable_by_broker: Fact<bool>,
    /// Entries directly inside that the broker cannot write (at most 20).
    pub foreign_entries: Vec<String>,
}

pub(super) const HOME: &str = "/var/lib/rabbitmq";
/// Debian's unit lets systemd open these as root (`StandardOutput=append:…`); the broker inherits them open.
const SYSTEMD_LOGS: [&str; 2] = ["rabbitmq-server.log", "rabbitmq-server.error.log"];
/// Most entries of one directory that are named.
const MAX_FOREIGN: usize = 20;
/// Most entries of one directory that are looked at.
pub(super) const MAX_LOOKED_AT: usize = 2000;

/// Looks at the cookie, the data directories and the log directory.
pub fn collect(host: &dyn Host, install: &Fact<Option<Install>>, env: &Env, names: &Names, node: &Fact<Option<Node>>) -> Files {
    let user = user(host, install);
    Files {
        cookie: cookie(host, &user).into(),
        cookie_refused: match node {
            Fact::Known(_) => Fact::Known(false),
            Fact::Unknown(why) if why.contains(COOKIE_REFUSED) => Fact::Known(true),
            Fact::Unknown(why) => Fact::Unknown(why.clone()),
        },
        data_dirs: data_dirs(env, names).and_then(|paths| dirs(host, &paths, &user)).into(),
        log_dir: log_dir(env).and_then(|path| dir(host, &path, "log", &user)).into(),
        sensitive: data_dirs(env, names).and_then(|data| loose::collect(host, &data, &log_dir(env)?)).into(),
        config_dir: config_dir(host, env, &user).into(),
        env_file_readable: user.as_ref().and_then(|user| env_file_readable(host, env, user).into()),
        other_nodes: other_nodes(host, env, names).into(),
        has_data: has_data(host, env, names).into(),
    }
}

/// Who the broker is to the file system.
struct User {
    uid: u32,
    gids: Vec<u32>,
}

impl User {
    /// By mode bits; `bits`: 4 read, 2 write, 1 search.
    fn may(&self, meta: &Meta, bits: u32) -> bool {
        let shift = match () {
            () if self.uid == 0 => return true,
            () if meta.uid == self.uid => 6,
            () if self.gids.contains(&meta.gid) => 3,
            () => 0,
        };
        (meta.mode >> shift) & bits == bits
    }
}

/// uid and groups of `rabbitmq`.
fn user(host: &dyn Host, install: &Fact<Option<Install>>) -> Fact<User> {
    let install = match install {
        Fact::Known(Some(install)) => install,
        Fact::Known(None) => return Fact::Unknown("RabbitMQ is not installed".to_owned()),
        Fact::Unknown(why) => return Fact::Unknown(why.clone()),
    };
    match (&install.uid, &install.gid) {
        (Fact::Known(Some(uid)), Fact::Known(gid)) => match groups(host) {
            Ok(more) => Fact::Known(User { uid: *uid, gids: gid.iter().copied().chain(more).collect() }),
            Err(miss) => miss.into(),
        },
        (Fact::Known(None), _) => Fact::Unknown("there is no user rabbitmq in /etc/passwd".to_owned()),
        (Fact::Unknown(why), _) | (_, Fact::Unknown(why)) => Fact::Unknown(why.clone()),
    }
}

/// Groups that name `rabbitmq` as a member.
fn groups(host: &dyn Host) -> Got<Vec<u32>> {
    let text = read_text(host, "/etc/group")?;
    let member = |line: &str| {
        let mut fields = line.split(':').skip(2);
        let (gid, members) = (fields.next()?.parse().ok()?, fields.next()?);
        members.split(',').any(|m| m.trim() == "rabbitmq").then_some(gid)
    };
    Ok(text.lines().filter_map(member).collect())
}

fn cookie(host: &dyn Host, user: &Fact<User>) -> Got<Option<Cookie>> {
    let path = format!("{HOME}/.erlang.cookie");
    let Some(meta) = optional(host.stat(Path::new(&path), true))? else { return Ok(None) };
    Ok(Some(Cookie {
        mode: meta.mode.into(),
        uid: meta.uid.into(),
        mode_text: format!("{:04o}", meta.mode),
        too_open: meta.mode & 0o077 != 0,
        owned_by_broker: user.as_ref().map(|u| u.uid == meta.uid),
        // Two more than a name may have: the line's end.
        too_long: meta.size > 257,
        short: (2..16).contains(&meta.size),
        mtime: meta.mtime,
        // One byte is at most the end of an empty line. The content is not looked at.
        empty: Fact::Known(meta.size <= 1),
        path,
    }))
}

/// A variable of the environment that is a path; an unknown value makes the path unknown.
pub(super) fn path_var(env: &Env, name: &str) -> Got<Option<PathBuf>> {
    let vars = env.vars.known().ok_or_else(|| Miss::failed(&env.file, env.vars.why().unwrap_or_default()))?;
    match vars.get(name).map(|v| &v.value) {
        Some(Fact::Known(value)) if !value.is_empty() => Ok(Some(PathBuf::from(value))),
        Some(Fact::Unknown(why)) => Err(Miss::failed(format!("RABBITMQ_{name}"), why)),
        _ => Ok(None),
    }
}

/// The broker's home, the base of its data and the data of its node, as far as they are there.
fn data_dirs(env: &Env, names: &Names) -> Got<Vec<PathBuf>> {
    let base = path_var(env, "MNESIA_BASE")?.unwrap_or_else(|| Path::new(HOME).join("mnesia"));
    let node = match path_var(env, "MNESIA_DIR")? {
        Some(dir) => Some(dir),
        None => names.node.known().map(|node| base.join(node)),
    };
    Ok([PathBuf::from(HOME), base].into_iter().chain(node).collect())
}

/// The data directory of the node, which may not be there yet.
pub(super) fn node_dir(env: &Env, names: &Names) -> Got<PathBuf> {
    let dirs = data_dirs(env, names)?;
    let told = path_var(env, "MNESIA_DIR")?.is_some() || names.node.known().is_some();
    let why = || Miss::failed("the node's name", names.node.why().unwrap_or_default());
    dirs.last().filter(|_| told).cloned().ok_or_else(why)
}

/// The directory that holds the node's data, or the nearest one above it that exists.
pub(super) fn data_dir(host: &dyn Host, env: &Env, names: &Names) -> Got<Option<PathBuf>> {
    let innermost = data_dirs(env, names)?.pop().unwrap_or_default();
    for dir in innermost.ancestors() {
        if optional(host.stat(dir, true))?.is_some() {
            return Ok((dir != Path::new("/")).then(|| dir.to_owned()));
        }
    }
    Ok(None)
}

/// Entries of a data directory whose times are looked at.
const MAX_TIMES: usize = 50;

/// Files by which a directory is known for a node's data: Mnesia's schema, the count of starts, Khepri's data.
const MARKS: [&str; 3] = ["schema.DAT", "rabbit_serial", "coordination"];

fn is_data(host: &dyn Host, dir: &Path) -> Got<bool> {
    for mark in MARKS {
        if optional(host.stat(&dir.join(mark), false))?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

fn has_data(host: &dyn Host, env: &Env, names: &Names) -> Got<bool> {
    let node = || Miss::failed("the node's name", names.node.why().unwrap_or_default());
    let dirs = data_dirs(env, names)?;
    let told = path_var(env, "MNESIA_DIR")?.is_some() || names.node.known().is_some();
    is_data(host, dirs.last().filter(|_| told).ok_or_else(node)?)
}

/// Data beside this node's, in the same place. A directory that was set by hand belongs to one node alone.
fn other_nodes(host: &dyn Host, env: &Env, names: &Names) -> Got<Vec<NodeData>> {
    if path_var(env, "MNESIA_DIR")?.is_some() {
        return Ok(Vec::new());
    }
    let own = names.node.known().ok_or_else(|| Miss::failed("the node's name", names.node.why().unwrap_or_default()))?;
    let base = path_var(env, "MNESIA_BASE")?.unwrap_or_else(|| Path::new(HOME).join("mnesia"));
    let mut all = Vec::new();
    let names = optional(host.list(&base))?.unwrap_or_default();
    // `rabbit@mq1-plugins-expand` and the like have a dash behind the name, which a name may have too: what counts is the data.
    for node in names.iter().filter(|n| n.contains('@') && *n != own).take(MAX_FOREIGN) {
        let dir = base.join(node);
        if is_data(host, &dir)? {
            let entries = host.list(&dir)?;
            let times = entries.iter().take(MAX_TIMES).filter_map(|name| host.stat(&dir.join(name), false).ok());
            let used = times.map(|meta| meta.mtime).max().unwrap_or_default();
            all.push(NodeData { node: node.clone(), path: dir.display().to_string(), used });
        }
    }
    all.sort_by_key(|data| data.used);
    Ok(all)
}

fn config_dir(host: &dyn Host, env: &Env, user: &Fact<User>) -> Got<Option<ConfigDir>> {
    let Some(path) = Path::new(&env.file).parent() else { return Ok(None) };
    let Some(meta) = optional(host.stat(path, true))? else { return Ok(None) };
    Ok(Some(ConfigDir {
        path: path.display().to_string(),
        mode_text: format!("{:04o}", meta.mode),
        uid: meta.uid.into(),
        gid: meta.gid.into(),
        searchable_by_broker: user.as_ref().map(|user| user.may(&meta, 0o1)),
    }))
}

fn env_file_readable(host: &dyn Host, env: &Env, user: &User) -> Got<bool> {
    Ok(optional(host.stat(Path::new(&env.file), true))?.is_none_or(|meta| user.may(&meta, 0o4)))
}

pub(super) fn log_dir(env: &Env) -> Got<PathBuf> {
    Ok(path_var(env, "LOG_BASE")?.unwrap_or_else(|| PathBuf::from("/var/log/rabbitmq")))
}

fn dirs(host: &dyn Host, paths: &[PathBuf], user: &Fact<User>) -> Got<Vec<Dir>> {
    let node = paths.get(2).and_then(|path| path.file_name()).map(|name| name.to_string_lossy().into_owned());
    let mut found = Vec::new();
    for (level, path) in paths.iter().enumerate() {
        if let Some(mut dir) = dir(host, path, "data", user)? {
            dir.foreign_entries.retain(|name| opens(level, name, node.as_deref()));
            found.push(dir);
        }
    }
    Ok(found)
}

/// Whether the broker opens an entry of its home (level 0) or of the directory of all nodes' data (1). A copy that root left beside them is
/// in nobody's way. In the node's own directory everything counts.
fn opens(level: usize, name: &str, node: Option<&str>) -> bool {
    const OF_A_NODE: [&str; 4] = ["", "-feature_flags", "-plugins-expand", ".pid"];
    match (level, node) {
        (0, _) => [".erlang.cookie", "mnesia"].contains(&name),
        (1, Some(node)) => name.strip_prefix(node).is_some_and(|rest| OF_A_NODE.contains(&rest)),
        _ => true,
    }
}

fn dir(host: &dyn Host, path: &Path, purpose: &str, user: &Fact<User>) -> Got<Option<Dir>> {
    let Some(meta) = optional(host.stat(path, true))? else { return Ok(None) };
    Ok(Some(Dir {
        path: path.display().to_string(),
        purpose: purpose.to_owned(),
        mode: meta.mode.into(),
        uid: meta.uid.into(),
        gid: meta.gid.into(),
        writable_by_broker: match user {
            Fact::Known(user) => writable(host, path, &meta, user).into(),
            Fact::Unknown(why) => Fact::Unknown(why.clone()),
        },
        foreign_entries: user.known().map(|user| foreign_entries(host, path, user)).unwrap_or_default(),
    }))
}

/// Write and search on the directory, search on everything above it.
fn writable(host: &dyn Host, path: &Path, meta: &Meta, user: &User) -> Got<bool> {
    if meta.kind != Kind::Dir || !user.may(meta, 0o3) {
        return Ok(false);
    }
    for parent in path.ancestors().skip(1) {
        if !user.may(&host.stat(parent, true)?, 0o1) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Entries that the broker cannot write: left behind by a run as root. None where the directory cannot be listed.
fn foreign_entries(host: &dyn Host, dir: &Path, user: &User) -> Vec<String> {
    let names = host.list(dir).unwrap_or_default();
    let foreign = |name: &&String| {
        if SYSTEMD_LOGS.iter().any(|log| name.starts_with(log)) {
            return false;
        }
        // Read-only files of its own, like the cookie, are as they should be.
        let meta = host.stat(&dir.join(name), false);
        meta.is_ok_and(|m| m.kind != Kind::Link && m.uid != user.uid && !user.may(&m, 0o2))
    };
    names.iter().take(MAX_LOOKED_AT).filter(foreign).take(MAX_FOREIGN).cloned().collect()
}

impl Blank for Files {
    fn blank(why: &str) -> Self {
        Files {
            sensitive: Fact::blank(why),
            cookie: Fact::blank(why),
            cookie_refused: Fact::blank(why),
            data_dirs: Fact::blank(why),
            log_dir: Fact::blank(why),
            config_dir: Fact::blank(why),
            env_file_readable: Fact::blank(why),
            other_nodes: Fact::blank(why),
            has_data: Fact::blank(why),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::conf::tests::environment;
    use crate::host::fake::Fake;

    fn look(host: &Fake) -> Files {
        let env = environment(&[]);
        let mut names = Names::blank("test");
        names.node = Fact::Known("rabbit@mq1".to_owned());
        collect(host, &super::super::os::collect_install(host), &env, &names, &Fact::Known(None))
    }

    fn host() -> Fake {
        Fake::new()
            .dir("/usr/lib/rabbitmq/lib/rabbitmq_server-4.0.5", 0o755, 0, 0)
            .file("/etc/passwd", "rabbitmq:x:104:109::/var/lib/rabbitmq:/bin/sh\n")
            .file("/etc/group", "adm:x:4:syslog,rabbitmq\nrabbitmq:x:109:\n")
            .dir("/var/lib/rabbitmq", 0o750, 104, 109)
            .dir("/var/lib/rabbitmq/mnesia/rabbit@mq1", 0o750, 104, 109)
            .dir("/var/lib/rabbitmq/mnesia", 0o750, 104, 109)
            .dir("/var/log/rabbitmq", 0o770, 0, 4)
            .file_with("/var/lib/rabbitmq/.erlang.cookie", "ABCDEFGH", 0o400, 104, 109)
    }

    #[test]
    fn a_healthy_host_is_healthy() {
        let files = look(&host());
        let cookie = files.cookie.known().cloned().flatten().unwrap();
        assert_eq!((cookie.mode_text.as_str(), cookie.too_open), ("0400", false));
        assert_eq!((cookie.owned_by_broker, cookie.empty), (Fact::Known(true), Fact::Known(false)));
        let dirs = files.data_dirs.known().cloned().unwrap();
        assert_eq!(dirs.len(), 3);
        assert!(dirs.iter().all(|d| d.writable_by_broker == Fact::Known(true) && d.foreign_entries.is_empty()), "{dirs:?}");
        // By the supplementary group adm.
        assert_eq!(files.log_dir.known().cloned().flatten().unwrap().writable_by_broker, Fact::Known(true));
    }

    #[test]
    fn what_root_left_behind_is_found() {
        let host = host()
            .file_with("/var/lib/rabbitmq/.erlang.cookie", "", 0o644, 0, 0)
            .file_with("/var/log/rabbitmq/rabbit@mq1.log", "", 0o640, 0, 0)
            .file_with("/var/log/rabbitmq/rabbitmq-server.log", "", 0o644, 0, 0)
            .dir("/var/lib/rabbitmq/mnesia", 0o700, 0, 0);
        let files = look(&host);
        let cookie = files.cookie.known().cloned().flatten().unwrap();
        assert!(cookie.too_open && cookie.owned_by_broker == Fact::Known(false) && cookie.empty == Fact::Known(true));
        assert_eq!(files.log_dir.known().cloned().flatten().unwrap().foreign_entries, ["rabbit@mq1.log"]);
        let dirs = files.data_dirs.known().cloned().unwrap();
        let writable: Vec<_> = dirs.iter().map(|d| d.writable_by_broker.clone()).collect();
        assert_eq!(writable, [Fact::Known(true), Fact::Known(false), Fact::Known(false)]);
    }

    #[test]
    fn a_copy_that_root_left_is_in_nobodys_way() {
        let base = "/var/lib/rabbitmq/mnesia";
        let host = host()
            .file_with("/var/lib/rabbitmq/definitions.json", "", 0o600, 0, 0)
            .file_with(format!("{base}/rabbit@mq1-feature_flags"), "", 0o600, 0, 0)
            .file_with(format!("{base}/rabbit@mq1-feature_flags.good"), "", 0o600, 0, 0)
            .dir(format!("{base}/rabbit@old"), 0o700, 0, 0);
        let dirs = look(&host).data_dirs.known().cloned().unwrap();
        let foreign: Vec<_> = dirs.into_iter().flat_map(|d| d.foreign_entries).collect();
        assert_eq!(foreign, ["rabbit@mq1-feature_flags"]);
    }

    #[test]
    fn a_closed_home_is_unknown_not_absent() {
        let files = look(&host().denied("/var/lib/rabbitmq"));
        assert!(files.cookie.why().is_some_and(|w| w.starts_with("permission denied")));
    }
}

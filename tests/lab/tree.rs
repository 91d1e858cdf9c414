//! What hosts are made of: per suite a Debian tree as installed, and above it a base layer in which the broker has run once.
//! Both are built when missing, and shared by all hosts as read-only layers.

use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::fcntl::{Flock, FlockArg};

use crate::exec::check;
use crate::host::{Host, Until};

/// Debian releases under test, oldest first.
pub const SUITES: [&str; 4] = ["bullseye", "bookworm", "trixie", MOVING];

/// Those that most hosts run.
pub const CURRENT: [&str; 2] = ["bookworm", "trixie"];

/// Debian's testing release: its versions change under us.
pub const MOVING: &str = "forky";

const PACKAGES: &str =
    "systemd,systemd-sysv,dbus,iproute2,iptables,ufw,nftables,procps,rabbitmq-server,netcat-openbsd,ca-certificates";
const MIRROR: &str = "http://deb.debian.org/debian";

/// Goes up by one whenever `make_base` changes: older base layers are then built again.
const RECIPE: &str = "1";

/// Where trees, base layers, running hosts and the product's build are kept: about 700 MB per suite, and 1 GB.
pub fn cache() -> PathBuf {
    std::env::var_os("RMQ_AUDIT_LAB_CACHE").map_or_else(|| "/var/cache/rmq-audit-lab".into(), PathBuf::from)
}

/// The suite that a user named.
pub fn named(name: &str) -> Result<&'static str> {
    let known = SUITES.into_iter().find(|suite| *suite == name);
    known.with_context(|| format!("unknown suite {name}; there are {}", SUITES.join(", ")))
}

/// The suite's tree: Debian with systemd, the packet filters and RabbitMQ, never booted.
pub fn tree(suite: &str) -> Result<PathBuf> {
    let tree = cache().join("trees").join(suite);
    let _lock = lock(&format!("tree-{suite}"))?;
    if !tree.exists() {
        fs::create_dir_all(cache().join("trees"))?;
        make_tree(suite, &tree).with_context(|| format!("building the tree of {suite}"))?;
    }
    Ok(tree)
}

/// The layer above the tree: host name set, node seeded, user `app` made, powered off in order.
pub fn base(suite: &'static str) -> Result<PathBuf> {
    let base = cache().join("base").join(suite);
    let tree = tree(suite)?;
    let _lock = lock(&format!("base-{suite}"))?;
    if fs::read_to_string(base.join("recipe")).unwrap_or_default() != RECIPE {
        let part = cache().join("base").join(format!("{suite}.part"));
        remove(&part)?;
        remove(&base)?;
        make_base(suite, &tree, &part.join("upper")).with_context(|| format!("building the base layer of {suite}"))?;
        fs::write(part.join("recipe"), RECIPE)?;
        fs::rename(&part, &base)?;
    }
    Ok(base.join("upper"))
}

fn make_tree(suite: &str, tree: &Path) -> Result<()> {
    let part = tree.with_extension("part");
    remove(&part)?;
    // An older debootstrap doesn't know the names of newer releases; they are all built the way of `sid`.
    let script = PathBuf::from("/usr/share/debootstrap/scripts").join(suite);
    if !script.exists() {
        symlink("sid", script)?;
    }
    // In namespaces of its own: a service that a package starts, or a mount left behind, ends with them.
    let debootstrap = ["--mount", "--pid", "--fork", "--kill-child", "debootstrap", "--variant=minbase"];
    let include = format!("--include={PACKAGES}");
    let what = [include.as_str(), suite, &part.display().to_string(), MIRROR].map(String::from);
    let args: Vec<&str> = debootstrap.into_iter().chain(what.iter().map(String::as_str)).collect();
    check("unshare", &args, Duration::from_secs(900))?;
    fs::rename(part, tree)?;
    Ok(())
}

fn make_base(suite: &'static str, tree: &Path, upper: &Path) -> Result<()> {
    let mut host = Host::mounted(suite, &[tree], Some(upper))?;
    // Before the first boot, because the node's name and its data folder follow the host's name.
    let etc = host.root().join("etc");
    fs::write(etc.join("hostname"), "mqhost\n")?;
    fs::write(etc.join("hosts"), "127.0.0.1\tlocalhost\n127.0.1.1\tmqhost\n::1\tlocalhost ip6-localhost ip6-loopback\n")?;
    // No resolver: refused at once, where an unreachable one would cost seconds.
    remove(&etc.join("resolv.conf"))?;
    fs::write(etc.join("resolv.conf"), "nameserver 127.0.0.1\n")?;
    host.start(Until::Broker)?;
    host.must("rabbitmqctl add_user app app-secret </dev/null")?;
    host.must("rabbitmqctl set_permissions -p / app '.*' '.*' '.*' </dev/null")?;
    host.stop()
}

/// Packages that some hosts have besides, in a layer of their own above the base layer; built when missing.
pub fn layer(suite: &'static str, packages: &[&str]) -> Result<PathBuf> {
    let name = format!("{suite}+{}", packages.join("+"));
    let layer = cache().join("base").join(&name);
    let (tree, base) = (tree(suite)?, base(suite)?);
    let _lock = lock(&format!("layer-{name}"))?;
    if fs::read_to_string(layer.join("recipe")).unwrap_or_default() != RECIPE {
        let part = cache().join("base").join(format!("{name}.part"));
        remove(&part)?;
        remove(&layer)?;
        install(suite, &[&base, &tree], &part.join("upper"), packages).with_context(|| format!("building the layer {name}"))?;
        fs::write(part.join("recipe"), RECIPE)?;
        fs::rename(&part, &layer)?;
    }
    Ok(layer.join("upper"))
}

/// Nothing is started: apt runs in a chroot, in namespaces that end with it.
fn install(suite: &'static str, lower: &[&Path], upper: &Path, packages: &[&str]) -> Result<()> {
    let host = Host::mounted(suite, lower, Some(upper))?;
    let root = host.root().display().to_string();
    let script = "root=$1; shift; mount --bind /etc/resolv.conf \"$root/etc/resolv.conf\"; mount -t proc proc \"$root/proc\"
        export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8
        chroot \"$root\" apt-get -q update && chroot \"$root\" apt-get -q install -y --no-install-recommends \"$@\" && \
        chroot \"$root\" apt-get clean";
    let head = ["--mount", "--pid", "--fork", "--kill-child", "sh", "-c", script, "sh", &root];
    let args: Vec<&str> = head.iter().chain(packages).copied().collect();
    check("unshare", &args, Duration::from_secs(600))?;
    Ok(())
}

/// Waits until no other test or process holds the lock of that name.
pub fn lock(name: &str) -> Result<Flock<File>> {
    let folder = cache().join("locks");
    fs::create_dir_all(&folder)?;
    let file = File::create(folder.join(name))?;
    Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, error)| error).with_context(|| format!("lock {name}"))
}

fn remove(path: &Path) -> Result<()> {
    match fs::symlink_metadata(path) {
        Err(_) => Ok(()),
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path).with_context(|| path.display().to_string()),
        Ok(_) => fs::remove_file(path).with_context(|| path.display().to_string()),
    }
}

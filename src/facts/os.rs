//! The operating system and what is installed on it.
use super::{Blank, Fact};
use crate::host::{Got, Host, MAX_FILE, Miss, optional, read_text};
use serde::Serialize;
use std::path::Path;

/// `/etc/os-release`, the kernel's host name, the init system.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Os {
    /// `debian` (ID of os-release)
    pub id: Fact<Option<String>>,
    /// `13` (VERSION_ID)
    pub version: Fact<Option<String>>,
    /// Whether this run may read everything (effective uid 0).
    pub root: bool,
    /// A file tree: nothing runs there.
    pub offline: bool,
    /// `systemd` if /run/systemd/system exists, else the name of process 1.
    pub init: Fact<String>,
    /// Seconds since the epoch at the time of the audit.
    pub now: i64,
    /// Boot time of the kernel, seconds since the epoch (`btime` of /proc/stat).
    pub boot_time: Fact<i64>,
    /// Whose virtual machine this is, as its firmware tells; null: nobody's that is known here, or no machine of its own.
    pub cloud: Fact<Option<Cloud>>,
}

/// A provider of virtual machines.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Cloud {
    pub name: String,
    /// What it calls the packet filters before its machines.
    pub filter: String,
}

/// A RabbitMQ installation (from the directory names under /usr/lib/rabbitmq/lib; no process is started to ask).
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Install {
    /// `4.0.5`
    pub version: String,
    /// Directories that hold plugins.
    pub plugin_dirs: Vec<String>,
    /// Erlang/OTP release from /usr/lib/erlang/releases, e.g. `27`.
    pub erlang: Fact<Option<String>>,
    /// uid of the user `rabbitmq` (/etc/passwd)
    pub uid: Fact<Option<u32>>,
    /// gid of the group `rabbitmq`
    pub gid: Fact<Option<u32>>,
}

/// Looks at os-release, /proc/stat and the init system.
pub fn collect(host: &dyn Host) -> Os {
    let identity = host.identity();
    let release = os_release(host);
    let field = |name: &str| match &release {
        Ok(text) => Fact::Known(text.as_deref().and_then(|t| release_field(t, name))),
        Err(miss) => Fact::from(miss.clone()),
    };
    Os {
        id: field("ID"),
        version: field("VERSION_ID"),
        root: identity.uid == 0,
        offline: identity.offline,
        init: init(host).into(),
        now: identity.now,
        boot_time: boot_time(host).into(),
        cloud: cloud(host).into(),
    }
}

fn os_release(host: &dyn Host) -> Got<Option<String>> {
    match optional(read_text(host, "/etc/os-release"))? {
        Some(text) => Ok(Some(text)),
        None => optional(read_text(host, "/usr/lib/os-release")),
    }
}

/// A value of os-release, without its shell quotes.
fn release_field(text: &str, name: &str) -> Option<String> {
    let value = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix('='))?.trim();
    Some(value.trim_matches(['"', '\'']).to_owned())
}

fn init(host: &dyn Host) -> Got<String> {
    if optional(host.stat(Path::new("/run/systemd/system"), true))?.is_some() {
        return Ok("systemd".to_owned());
    }
    Ok(read_text(host, "/proc/1/comm")?.trim().to_owned())
}

/// `btime` of /proc/stat, seconds since the epoch.
/// Marks in the firmware's tables (SMBIOS), the provider, and the name of its packet filters.
const CLOUDS: [(&str, &str, &str); 11] = [
    ("Amazon EC2", "Amazon EC2", "the security group (and network ACL)"),
    ("Google Compute Engine", "Google Cloud", "the VPC's firewall rules"),
    // The chassis tag of Azure's machines; Hyper-V has the same vendor.
    ("7783-7084-3265-9085-8269-3286-77", "Microsoft Azure", "the network security group"),
    ("DigitalOcean", "DigitalOcean", "the cloud firewall"),
    ("Hetzner", "Hetzner Cloud", "the cloud firewall"),
    ("Alibaba Cloud", "Alibaba Cloud", "the security group"),
    ("OracleCloud.com", "Oracle Cloud", "the security list (and network security group)"),
    ("OpenStack", "an OpenStack cloud", "the security group"),
    ("Vultr", "Vultr", "the firewall group"),
    ("Scaleway", "Scaleway", "the security group"),
    ("Exoscale", "Exoscale", "the security group"),
];

fn cloud(host: &dyn Host) -> Got<Option<Cloud>> {
    const DMI: &str = "/sys/class/dmi/id";
    let mut told = String::new();
    for name in ["sys_vendor", "product_name", "chassis_asset_tag"] {
        told += &optional(read_text(host, format!("{DMI}/{name}")))?.unwrap_or_default();
    }
    let found = CLOUDS.iter().find(|(mark, ..)| told.contains(mark));
    Ok(found.map(|(_, name, filter)| Cloud { name: (*name).to_owned(), filter: (*filter).to_owned() }))
}

fn boot_time(host: &dyn Host) -> Got<i64> {
    let text = read_text(host, "/proc/stat")?;
    let value = text.lines().find_map(|l| l.strip_prefix("btime "));
    value.and_then(|v| v.trim().parse().ok()).ok_or_else(|| Miss::failed("/proc/stat", "no btime"))
}

const LIB: &str = "/usr/lib/rabbitmq/lib";
const SERVER: &str = "rabbitmq_server-";

/// The installation that `/usr/lib/rabbitmq/bin` points to, or the newest one.
pub fn collect_install(host: &dyn Host) -> Fact<Option<Install>> {
    let names = match optional(host.list(Path::new(LIB))) {
        Ok(Some(names)) => names,
        Ok(None) => return Fact::Known(None),
        Err(miss) => return miss.into(),
    };
    let newest = || names.iter().filter_map(|n| n.strip_prefix(SERVER)).max_by_key(|v| numbers(v)).map(str::to_owned);
    let Some(version) = linked_version(host).or_else(newest) else { return Fact::Known(None) };
    let mut plugin_dirs = vec!["/usr/lib/rabbitmq/plugins".to_owned(), format!("{LIB}/{SERVER}{version}/plugins")];
    plugin_dirs.retain(|d| host.stat(Path::new(d), true).is_ok());
    Fact::Known(Some(Install {
        version,
        plugin_dirs,
        erlang: erlang(host).into(),
        uid: database_id(host, "/etc/passwd").into(),
        gid: database_id(host, "/etc/group").into(),
    }))
}

/// `../lib/rabbitmq_server-4.0.5/sbin/rabbitmq-server` says which of several installations is started.
fn linked_version(host: &dyn Host) -> Option<String> {
    let target = host.read_link(Path::new("/usr/lib/rabbitmq/bin/rabbitmq-server")).ok()?;
    target.iter().find_map(|part| part.to_str()?.strip_prefix(SERVER)).map(str::to_owned)
}

/// Version numbers compare as numbers: 3.10 is newer than 3.9.
fn numbers(version: &str) -> Vec<u64> {
    version.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse().ok()).collect()
}

/// Newest OTP release of the system's Erlang.
fn erlang(host: &dyn Host) -> Got<Option<String>> {
    for dir in ["/usr/lib/erlang/releases", "/usr/lib64/erlang/releases"] {
        if let Some(names) = optional(host.list(Path::new(dir)))? {
            let newest = names.iter().filter_map(|n| n.parse::<u64>().ok()).max();
            return Ok(newest.map(|n| n.to_string()));
        }
    }
    Ok(None)
}

/// Numeric id (third field) of `rabbitmq` in /etc/passwd or /etc/group.
fn database_id(host: &dyn Host, file: &str) -> Got<Option<u32>> {
    let bytes = host.read(Path::new(file), MAX_FILE)?;
    let text = String::from_utf8_lossy(&bytes);
    let entry = text.lines().find(|l| l.split(':').next() == Some("rabbitmq"));
    let Some(entry) = entry else { return Ok(None) };
    let id = entry.split(':').nth(2).and_then(|n| n.parse().ok());
    id.map(Some).ok_or_else(|| Miss::failed(file, "the entry of rabbitmq has no number"))
}

impl Blank for Os {
    fn blank(why: &str) -> Self {
        Os {
            id: Fact::blank(why),
            version: Fact::blank(why),
            root: false,
            offline: false,
            init: Fact::blank(why),
            now: 0,
            boot_time: Fact::blank(why),
            cloud: Fact::blank(why),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::Fake;

    #[test]
    fn a_debian_host_is_recognised() {
        let host = Fake::new()
            .file("/etc/os-release", "NAME=\"Debian\"\nVERSION_ID=\"13\"\nID=debian\n")
            .file("/proc/stat", "cpu 1 2\nbtime 1767000000\n")
            .dir("/run/systemd/system", 0o755, 0, 0);
        let os = collect(&host);
        assert_eq!((os.id, os.version), (Fact::Known(Some("debian".into())), Fact::Known(Some("13".into()))));
        assert_eq!((os.init, os.boot_time), (Fact::Known("systemd".into()), Fact::Known(1_767_000_000)));
    }

    #[test]
    fn the_started_installation_is_the_one_that_the_link_names() {
        let host = Fake::new()
            .dir("/usr/lib/rabbitmq/lib/rabbitmq_server-3.9.0/plugins", 0o755, 0, 0)
            .dir("/usr/lib/rabbitmq/lib/rabbitmq_server-3.10.8/plugins", 0o755, 0, 0)
            .dir("/usr/lib/erlang/releases/25", 0o755, 0, 0)
            .file("/etc/passwd", "root:x:0:0::/root:/bin/sh\nrabbitmq:x:104:109::/var/lib/rabbitmq:/bin/sh\n")
            .file("/etc/group", "root:x:0:\nrabbitmq:x:109:\n");
        let version = |host: &Fake| collect_install(host).known().cloned().flatten().map(|i| i.version);
        assert_eq!(version(&host).as_deref(), Some("3.10.8"));
        let linked = host.link("/usr/lib/rabbitmq/bin/rabbitmq-server", "../lib/rabbitmq_server-3.9.0/sbin/rabbitmq-server");
        assert_eq!(version(&linked).as_deref(), Some("3.9.0"));
        let install = collect_install(&linked).known().cloned().flatten().unwrap();
        assert_eq!((install.uid, install.gid), (Fact::Known(Some(104)), Fact::Known(Some(109))));
        assert_eq!(install.erlang, Fact::Known(Some("25".into())));
    }

    #[test]
    fn no_installation_is_known_to_be_none() {
        assert!(matches!(collect_install(&Fake::new()), Fact::Known(None)));
    }
}

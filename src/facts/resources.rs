//! Disk and memory.
use super::{
    Blank, Fact,
    env::Env,
    files,
    names::Names,
    process::{self, Processes},
};
use crate::host::{Got, Host, Miss, optional, read_text};
use procfs::FromBufRead;
use procfs::process::MountInfos;
use serde::Serialize;
use std::path::{Component, Path, PathBuf};

/// Sizes in bytes.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Resources {
    /// File system of the data directory.
    pub data_disk: Fact<Option<Disk>>,
    /// MemTotal of /proc/meminfo.
    pub memory_total: Fact<i64>,
    /// MemAvailable
    pub memory_available: Fact<i64>,
    /// Resident set of the broker's VM; null: not running.
    pub broker_rss: Fact<Option<i64>>,
}

/// One file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Disk {
    pub path: String,
    pub total: i64,
    pub available: i64,
    pub read_only: Fact<bool>,
}

/// Links that are followed on the way to the data directory.
const MAX_LINKS: usize = 8;

/// Looks at the data's file system, the memory, and the broker's share of it.
pub fn collect(host: &dyn Host, env: &Env, names: &Names, processes: &Processes) -> Resources {
    Resources {
        data_disk: files::data_dir(host, env, names).and_then(|dir| dir.map(|d| disk(host, &d)).transpose()).into(),
        memory_total: memory(host, "MemTotal:").into(),
        memory_available: memory(host, "MemAvailable:").into(),
        broker_rss: match &processes.beam {
            Fact::Known(Some(beam)) => {
                optional(process::status_field(host, beam.pid, "VmRSS:")).map(|kib| kib.map(|k| k * 1024)).into()
            }
            Fact::Known(None) => Fact::Known(None),
            Fact::Unknown(why) => Fact::Unknown(why.clone()),
        },
    }
}

fn disk(host: &dyn Host, dir: &Path) -> Got<Disk> {
    let space = host.space(dir)?;
    let bytes = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    Ok(Disk {
        path: dir.display().to_string(),
        total: bytes(space.total),
        available: bytes(space.available),
        read_only: read_only(host, dir).into(),
    })
}

/// Whether the mount, or the file system under it, is read-only.
fn read_only(host: &dyn Host, dir: &Path) -> Got<bool> {
    const TABLE: &str = "/proc/self/mountinfo";
    let real = real_path(host, dir)?;
    let text = host.read(Path::new(TABLE), crate::host::MAX_FILE)?;
    let mounts = MountInfos::from_buf_read(text.as_slice()).map_err(|e| Miss::failed(TABLE, e))?;
    // Of two mounts on one directory the later one covers the other.
    let mounts = mounts.0.iter().filter(|m| real.starts_with(&m.mount_point));
    let mount = mounts.max_by_key(|m| m.mount_point.components().count());
    let mount = mount.ok_or_else(|| Miss::failed(TABLE, format!("no mount for {}", real.display())))?;
    Ok(mount.mount_options.contains_key("ro") || mount.super_options.contains_key("ro"))
}

/// The path without links.
fn real_path(host: &dyn Host, path: &Path) -> Got<PathBuf> {
    let mut todo: Vec<PathBuf> = parts(path);
    let mut real = PathBuf::from("/");
    let mut links = 0;
    while let Some(part) = todo.pop() {
        if part == Path::new("..") {
            real.pop();
            continue;
        }
        let next = real.join(part);
        match host.read_link(&next) {
            Ok(_) if links == MAX_LINKS => return Err(Miss::failed(path.display().to_string(), "too many links")),
            Ok(target) => {
                links += 1;
                if target.is_absolute() {
                    real = PathBuf::from("/");
                }
                todo.extend(parts(&target));
            }
            // Not a link.
            Err(Miss::Failed { .. }) => real = next,
            Err(miss) => return Err(miss),
        }
    }
    Ok(real)
}

/// Names and `..`, last first.
fn parts(path: &Path) -> Vec<PathBuf> {
    let step = |c: &Component| matches!(c, Component::Normal(_) | Component::ParentDir);
    path.components().rev().filter(step).map(|c| PathBuf::from(c.as_os_str())).collect()
}

/// A line of /proc/meminfo (KiB) in bytes.
fn memory(host: &dyn Host, name: &str) -> Got<i64> {
    let text = read_text(host, "/proc/meminfo")?;
    let line = text.lines().find_map(|l| l.strip_prefix(name));
    let kib: Option<i64> = line.and_then(|l| l.split_whitespace().next()?.parse().ok());
    kib.map(|k| k * 1024).ok_or_else(|| Miss::failed("/proc/meminfo", format!("no {name}")))
}

impl Blank for Resources {
    fn blank(why: &str) -> Self {
        Resources {
            data_disk: Fact::blank(why),
            memory_total: Fact::blank(why),
            memory_available: Fact::blank(why),
            broker_rss: Fact::blank(why),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::process::tests::{BROKER, with_process};
    use super::*;
    use crate::facts::conf::tests::environment;
    use crate::host::fake::Fake;

    const MOUNTS: &str = "21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n\
        22 21 8:2 / /data rw,relatime shared:2 - ext4 /dev/sdb1 ro,errors=remount-ro\n";

    #[test]
    fn the_disk_is_the_one_behind_the_link() {
        let host = with_process(Fake::new(), 1, "systemd", 0, &["init"]);
        let host = with_process(host, 77, "beam.smp", 104, &BROKER)
            .file("/proc/self/mountinfo", MOUNTS)
            .file("/proc/meminfo", "MemTotal:  4000 kB\nMemFree: 1 kB\nMemAvailable:  3000 kB\n")
            .dir("/data/mnesia", 0o755, 0, 0)
            .link("/var/lib/rabbitmq", "/data")
            .space("/data", 1000, 10);
        let env = environment(&[]);
        let names = Names::blank("test");
        let found = collect(&host, &env, &names, &process::collect(&host, &Fact::Known(0)));
        let disk = found.data_disk.known().cloned().flatten().unwrap();
        assert_eq!((disk.path.as_str(), disk.total, disk.available), ("/var/lib/rabbitmq/mnesia", 1000, 10));
        assert_eq!(disk.read_only, Fact::Known(true));
        assert_eq!((found.memory_total, found.memory_available), (Fact::Known(4_096_000), Fact::Known(3_072_000)));
        assert_eq!(found.broker_rss, Fact::Known(Some(1_048_576)));
    }
}

//! Disk, memory, and open files.
use super::{
    Blank, Fact,
    env::Env,
    files,
    names::Names,
    process::{self, Processes},
};
use crate::host::{Got, Host, Kind, Miss, optional, read_text};
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
    /// The lowest memory limit of the control groups that the broker's VM is in (memory.max, memory.limit_in_bytes); null: none, or not
    /// running.
    pub memory_limit: Fact<Option<i64>>,
    /// Files and sockets that the broker's VM has open; null: not running.
    pub broker_files: Fact<Option<i64>>,
    /// The largest files in the broker's home and its log directory, the largest first.
    pub large_files: Fact<Vec<LargeFile>>,
}

/// A file that takes room.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct LargeFile {
    pub path: String,
    /// Bytes.
    pub size: i64,
}

/// One file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Disk {
    pub path: String,
    pub total: i64,
    pub available: i64,
    pub read_only: Fact<bool>,
    /// Type of the file system: ext4, xfs, tmpfs, nfs4, …
    pub kind: Fact<String>,
}

/// Links that are followed on the way to the data directory.
const MAX_LINKS: usize = 8;

/// Looks at the data's file system, the memory, and the broker's share of it.
pub fn collect(host: &dyn Host, env: &Env, names: &Names, processes: &Processes) -> Resources {
    Resources {
        data_disk: files::data_dir(host, env, names).and_then(|dir| dir.map(|d| disk(host, &d)).transpose()).into(),
        memory_total: memory(host, "MemTotal:").into(),
        memory_available: memory(host, "MemAvailable:").into(),
        broker_rss: of_broker(processes, |pid| {
            optional(process::status_field(host, pid, "VmRSS:")).map(|kib| kib.map(|k| k * 1024))
        }),
        memory_limit: of_broker(processes, |pid| memory_limit(host, pid)),
        broker_files: of_broker(processes, |pid| {
            optional(host.list(Path::new(&format!("/proc/{pid}/fd")))).map(|n| n.map(count))
        }),
        large_files: files::log_dir(env).and_then(|logs| large_files(host, &[Path::new(files::HOME), &logs])).into(),
    }
}

/// What can be asked of the broker's process; null while none runs.
fn of_broker<T>(processes: &Processes, ask: impl FnOnce(i64) -> Got<Option<T>>) -> Fact<Option<T>> {
    match &processes.beam {
        Fact::Known(Some(beam)) => ask(beam.pid).into(),
        Fact::Known(None) => Fact::Known(None),
        Fact::Unknown(why) => Fact::Unknown(why.clone()),
    }
}

fn count(names: Vec<String>) -> i64 {
    i64::try_from(names.len()).unwrap_or(i64::MAX)
}

/// Where the kernel shows control groups: version 2, or the memory controller of version 1.
const CGROUPS: [(&str, &str, &str); 2] =
    [("", "/sys/fs/cgroup", "memory.max"), ("memory", "/sys/fs/cgroup/memory", "memory.limit_in_bytes")];
/// Version 1 has no word for "none": a number of this size is none.
const NO_LIMIT: i64 = 1 << 60;

/// The lowest limit of the process's control group and those above it. Whoever looks from inside a container sees its own group as the
/// root.
fn memory_limit(host: &dyn Host, pid: i64) -> Got<Option<i64>> {
    let Some(table) = optional(read_text(host, format!("/proc/{pid}/cgroup")))? else { return Ok(None) };
    let mut lowest: Option<i64> = None;
    for line in table.lines() {
        // `0::/system.slice/rabbitmq-server.service`, `4:memory:/system.slice`
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(group)) = (fields.next(), fields.next()) else { continue };
        let Some((_, root, name)) = CGROUPS.iter().find(|(c, ..)| controllers.split(',').any(|has| has == *c)) else { continue };
        for group in Path::new(group.trim_start_matches('/')).ancestors() {
            let limit = optional(read_text(host, Path::new(root).join(group).join(name)))?;
            let limit = limit.and_then(|text| text.trim().parse::<i64>().ok()).filter(|limit| *limit < NO_LIMIT);
            lowest = lowest.into_iter().chain(limit).min();
        }
    }
    Ok(lowest)
}

/// Smaller files are not named.
const LARGE: u64 = 10 * 1024 * 1024;
/// Most files that are named.
const MAX_LARGE: usize = 5;

/// Directly inside these directories; a link counts as itself.
fn large_files(host: &dyn Host, dirs: &[&Path]) -> Got<Vec<LargeFile>> {
    let mut found = Vec::new();
    for dir in dirs {
        for name in optional(host.list(dir))?.unwrap_or_default().iter().take(files::MAX_LOOKED_AT) {
            let path = dir.join(name);
            let Ok(meta) = host.stat(&path, false) else { continue };
            if meta.kind == Kind::File && meta.size >= LARGE {
                found.push(LargeFile { path: path.display().to_string(), size: i64::try_from(meta.size).unwrap_or(i64::MAX) });
            }
        }
    }
    found.sort_by_key(|file| std::cmp::Reverse(file.size));
    found.truncate(MAX_LARGE);
    Ok(found)
}

fn disk(host: &dyn Host, dir: &Path) -> Got<Disk> {
    let space = host.space(dir)?;
    let bytes = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let mount = mount_of(host, dir);
    Ok(Disk {
        path: dir.display().to_string(),
        total: bytes(space.total),
        available: bytes(space.available),
        read_only: mount.clone().map(|(read_only, _)| read_only).into(),
        kind: mount.map(|(_, kind)| kind).into(),
    })
}

/// Whether the mount, or the file system under it, is read-only; and the type of the file system.
fn mount_of(host: &dyn Host, dir: &Path) -> Got<(bool, String)> {
    const TABLE: &str = "/proc/self/mountinfo";
    let real = real_path(host, dir)?;
    let text = host.read(Path::new(TABLE), crate::host::MAX_FILE)?;
    let mounts = MountInfos::from_buf_read(text.as_slice()).map_err(|e| Miss::failed(TABLE, e))?;
    // Of two mounts on one directory the later one covers the other.
    let mounts = mounts.0.iter().filter(|m| real.starts_with(&m.mount_point));
    let mount = mounts.max_by_key(|m| m.mount_point.components().count());
    let mount = mount.ok_or_else(|| Miss::failed(TABLE, format!("no mount for {}", real.display())))?;
    Ok((mount.mount_options.contains_key("ro") || mount.super_options.contains_key("ro"), mount.fs_type.clone()))
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
            memory_limit: Fact::blank(why),
            broker_files: Fact::blank(why),
            large_files: Fact::blank(why),
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
        assert_eq!(disk.kind, Fact::Known("ext4".into()));
    }

    #[test]
    fn the_lowest_limit_of_the_control_groups_counts() {
        let host = Fake::new()
            .file("/proc/77/cgroup", "0::/system.slice/rabbitmq-server.service\n")
            .file("/sys/fs/cgroup/system.slice/rabbitmq-server.service/memory.max", "max\n")
            .file("/sys/fs/cgroup/system.slice/memory.max", "536870912\n");
        assert_eq!(memory_limit(&host, 77), Ok(Some(536_870_912)));
        let old = Fake::new()
            .file("/proc/77/cgroup", "9:cpu,cpuacct:/\n4:memory:/r\n")
            .file("/sys/fs/cgroup/memory/r/memory.limit_in_bytes", "1000\n")
            .file("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
        assert_eq!(memory_limit(&old, 77), Ok(Some(1000)));
        assert_eq!(memory_limit(&Fake::new(), 77), Ok(None));
    }
}

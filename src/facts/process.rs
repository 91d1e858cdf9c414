//! The broker's processes, from /proc.
use super::{Blank, Fact, sockets};
use crate::host::{Got, Host, Miss, optional, read_text, secrets};
use procfs::FromRead;
use procfs::process::{LimitValue, Limits, Stat};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Processes that belong to RabbitMQ.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Processes {
    /// The Erlang VM that runs RabbitMQ; null: none runs.
    pub beam: Fact<Option<Process>>,
    /// The Erlang port mapper; null: none runs (systemd may hold its socket).
    pub epmd: Fact<Option<Process>>,
    /// More than one RabbitMQ VM: pids of the others.
    pub other_brokers: Fact<Vec<i64>>,
}

/// One process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Process {
    pub pid: i64,
    pub name: String,
    pub uid: i64,
    /// Seconds since the epoch.
    pub started: i64,
    /// Arguments with secrets struck out (`-setcookie X`, `RABBITMQ_DEFAULT_PASS`).
    pub args: Vec<String>,
    /// Soft limit of open files (/proc/PID/limits); null: unlimited.
    pub max_open_files: Fact<Option<i64>>,
    /// Stopped by a signal (SIGSTOP, a debugger): it does nothing until it is continued.
    pub stopped: bool,
    /// `-setcookie` or `-rabbit …pass` stood in the arguments: readable by every user of the host.
    pub secret_in_args: bool,
    /// systemd unit from the cgroup path; null: none.
    pub unit: Fact<Option<String>>,
    /// Node name from `-name`/`-sname` or the environment of the start script, if told in the arguments.
    pub node: Option<String>,
}

/// Kernel ticks per second in /proc/PID/stat: 100 for user space on every architecture that Debian and Fedora build.
const TICKS: i64 = 100;
/// Largest /proc file of a process that is read, in bytes; a command line may be long.
const LIMIT: u64 = 2 * 1024 * 1024;

/// Finds the broker among the processes. `boot_time`: seconds since the epoch, from [`super::os`].
pub fn collect(host: &dyn Host, boot_time: &Fact<i64>) -> Processes {
    match scan(host) {
        Ok(found) => found.processes(host, boot_time),
        Err(miss) => Processes::blank(&miss.to_string()),
    }
}

/// Pids of processes that may matter.
#[derive(Default)]
struct Found {
    brokers: Vec<i64>,
    /// Brokers in other network namespaces (containers): they are not this host's broker.
    elsewhere: Vec<i64>,
    epmds: Vec<i64>,
    /// A process could not be looked at: hidepid, or not root.
    hidden: Option<Miss>,
}

fn scan(host: &dyn Host) -> Got<Found> {
    let mut found = Found::default();
    let names = host.list(Path::new("/proc"))?;
    if !names.iter().any(|n| n == "1") {
        found.hidden = Some(Miss::Denied { what: "processes of other users (/proc is mounted with hidepid)".to_owned() });
    }
    for pid in names.iter().filter_map(|n| n.parse::<i64>().ok()) {
        if let Err(miss) = look(host, pid, &mut found)
            && !miss.is_absent()
        {
            found.hidden.get_or_insert(miss);
        }
    }
    Ok(found)
}

fn look(host: &dyn Host, pid: i64, found: &mut Found) -> Got<()> {
    let comm = host.read(&file(pid, "comm"), LIMIT)?;
    match comm.trim_ascii() {
        b"beam.smp" | b"beam" if runs_rabbit(&arguments(host, pid)?) => {
            if same_network(host, pid) { &mut found.brokers } else { &mut found.elsewhere }.push(pid);
        }
        b"epmd" if same_network(host, pid) => found.epmds.push(pid),
        _ => {}
    }
    Ok(())
}

/// `-s rabbit boot` starts the broker; the command-line tools are Erlang VMs too, but start something else.
fn runs_rabbit(args: &[String]) -> bool {
    args.windows(3).any(|w| w[0] == "-s" && w[1] == "rabbit" && matches!(w[2].as_str(), "boot" | "start"))
}

/// In the network namespace of this program, as far as can be seen.
fn same_network(host: &dyn Host, pid: i64) -> bool {
    let ours = host.read_link(Path::new("/proc/self/ns/net"));
    let theirs = host.read_link(&file(pid, "ns/net"));
    ours.is_err() || theirs.is_err() || ours == theirs
}

impl Found {
    fn processes(mut self, host: &dyn Host, boot_time: &Fact<i64>) -> Processes {
        self.brokers.sort_unstable();
        self.epmds.sort_unstable();
        let beam = self.brokers.first().copied();
        let others = self.brokers.iter().skip(1).chain(&self.elsewhere).copied().collect();
        Processes {
            beam: self.one(host, beam, boot_time),
            epmd: self.one(host, self.epmds.first().copied(), boot_time),
            other_brokers: self.hidden.as_ref().map_or(Fact::Known(others), |m| m.clone().into()),
        }
    }

    /// A process that was not found is known to be absent only if every process could be looked at.
    fn one(&self, host: &dyn Host, pid: Option<i64>, boot_time: &Fact<i64>) -> Fact<Option<Process>> {
        match (pid, &self.hidden) {
            (Some(pid), _) => details(host, pid, boot_time).into(),
            (None, Some(miss)) => miss.clone().into(),
            (None, None) => Fact::Known(None),
        }
    }
}

/// `None` if the process ended meanwhile.
fn details(host: &dyn Host, pid: i64, boot_time: &Fact<i64>) -> Got<Option<Process>> {
    let Some(bytes) = optional(host.read(&file(pid, "stat"), LIMIT))? else { return Ok(None) };
    let what = file(pid, "stat").display().to_string();
    let stat = Stat::from_read(bytes.as_slice()).map_err(|e| Miss::failed(&what, e))?;
    let boot = boot_time.known().copied().ok_or_else(|| Miss::failed("/proc/stat", boot_time.why().unwrap_or("no boot time")))?;
    let (args, secret_in_args) = secrets::strike_args(arguments(host, pid)?);
    Ok(Some(Process {
        pid,
        stopped: matches!(stat.state, 'T' | 't'),
        name: stat.comm,
        uid: status_field(host, pid, "Uid:")?,
        started: boot + stat.starttime as i64 / TICKS,
        unit: read_text(host, file(pid, "cgroup")).map(|text| sockets::unit(&text)).into(),
        node: node_name(&args),
        args,
        max_open_files: max_open_files(host, pid).into(),
        secret_in_args,
    }))
}

/// The first number of a line of /proc/PID/status (the real uid for `Uid:`, KiB for `VmRSS:`).
pub(super) fn status_field(host: &dyn Host, pid: i64, name: &str) -> Got<i64> {
    let path = file(pid, "status");
    let text = read_text(host, &path)?;
    let line = text.lines().find_map(|l| l.strip_prefix(name));
    let number = line.and_then(|l| l.split_whitespace().next()?.parse().ok());
    number.ok_or_else(|| Miss::failed(path.display().to_string(), format!("no {name}")))
}

fn max_open_files(host: &dyn Host, pid: i64) -> Got<Option<i64>> {
    let path = file(pid, "limits");
    let bytes = host.read(&path, LIMIT)?;
    let limits = Limits::from_read(bytes.as_slice()).map_err(|e| Miss::failed(path.display().to_string(), e))?;
    Ok(match limits.max_open_files.soft_limit {
        LimitValue::Unlimited => None,
        LimitValue::Value(n) => Some(i64::try_from(n).unwrap_or(i64::MAX)),
    })
}

fn arguments(host: &dyn Host, pid: i64) -> Got<Vec<String>> {
    let bytes = host.read(&file(pid, "cmdline"), LIMIT)?;
    let text = String::from_utf8_lossy(&bytes);
    Ok(text.trim_end_matches('\0').split('\0').map(str::to_owned).collect())
}

fn node_name(args: &[String]) -> Option<String> {
    let pair = args.windows(2).find(|w| w[0] == "-name" || w[0] == "-sname")?;
    Some(pair[1].clone())
}

fn file(pid: i64, name: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}/{name}"))
}

impl Blank for Processes {
    fn blank(why: &str) -> Self {
        Processes { beam: Fact::blank(why), epmd: Fact::blank(why), other_brokers: Fact::blank(why) }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::host::fake::Fake;

    /// A process with the files that the collectors read.
    pub fn with_process(host: Fake, pid: i64, comm: &str, uid: u32, args: &[&str]) -> Fake {
        let stat = format!(
            "{pid} ({comm}) S 1 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 9 0 2500 1000 100 18446744073709551615 1 1 0 0 0 0 0 0 0 0 0 0 17 1 0 0 0 0 0 0 0 0 0 0 0 0 0\n"
        );
        let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
            Max cpu time              unlimited            unlimited            seconds   \n\
            Max file size             unlimited            unlimited            bytes     \n\
            Max data size             unlimited            unlimited            bytes     \n\
            Max stack size            8388608              unlimited            bytes     \n\
            Max core file size        0                    unlimited            bytes     \n\
            Max resident set          unlimited            unlimited            bytes     \n\
            Max processes             7000                 7000                 processes \n\
            Max open files            65536                65536                files     \n\
            Max locked memory         8388608              8388608              bytes     \n\
            Max address space         unlimited            unlimited            bytes     \n\
            Max file locks            unlimited            unlimited            locks     \n\
            Max pending signals       7000                 7000                 signals   \n\
            Max msgqueue size         819200               819200               bytes     \n\
            Max nice priority         0                    0                    \n\
            Max realtime priority     0                    0                    \n\
            Max realtime timeout      unlimited            unlimited            us        \n";
        host.file(file(pid, "comm"), format!("{comm}\n"))
            .file(file(pid, "cmdline"), args.join("\0") + "\0")
            .file(file(pid, "stat"), stat)
            .file(file(pid, "status"), format!("Name:\t{comm}\nUid:\t{uid}\t{uid}\t{uid}\t{uid}\nVmRSS:\t  1024 kB\n"))
            .file(file(pid, "limits"), limits)
            .dir(file(pid, "fd"), 0o500, uid, uid)
    }

    pub const BROKER: [&str; 9] = ["beam.smp", "--", "-noinput", "-setcookie", "S3CRET", "-s", "rabbit", "boot", "-x"];

    fn init() -> Fake {
        with_process(Fake::new(), 1, "systemd", 0, &["/sbin/init"])
    }

    #[test]
    fn the_broker_is_told_from_other_erlang_programs() {
        let host = with_process(init(), 300, "beam.smp", 0, &["beam.smp", "-s", "elixir", "start_cli"]);
        let host = with_process(host, 77, "beam.smp", 104, &BROKER);
        let host = with_process(host, 50, "epmd", 105, &["epmd", "-systemd"]);
        let found = collect(&host, &Fact::Known(1000));
        let beam = found.beam.known().cloned().flatten().unwrap();
        assert_eq!((beam.pid, beam.uid, beam.started, beam.secret_in_args), (77, 104, 1025, true));
        assert_eq!(beam.max_open_files, Fact::Known(Some(65536)));
        assert!(!beam.args.iter().any(|a| a.contains("S3CRET")));
        assert_eq!(found.epmd.known().cloned().flatten().map(|p| p.pid), Some(50));
        assert_eq!(found.other_brokers, Fact::Known(vec![]));
    }

    #[test]
    fn a_broker_in_a_container_is_not_this_hosts_broker() {
        let host = with_process(init(), 77, "beam.smp", 104, &BROKER);
        let host = host.link("/proc/self/ns/net", "net:[1]").link("/proc/77/ns/net", "net:[2]");
        let found = collect(&host, &Fact::Known(1000));
        assert_eq!((found.beam, found.other_brokers), (Fact::Known(None), Fact::Known(vec![77])));
    }

    #[test]
    fn hidden_processes_make_absence_unknown() {
        let hidepid_1 = init().denied("/proc/1/comm");
        let hidepid_2 = with_process(Fake::new(), 400, "sh", 1000, &["sh"]);
        for host in [hidepid_1, hidepid_2] {
            assert!(collect(&host, &Fact::Known(0)).beam.why().is_some_and(|w| w.starts_with("permission denied")));
        }
        assert_eq!(collect(&init(), &Fact::Known(0)).beam, Fact::Known(None));
    }
}

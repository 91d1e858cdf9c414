//! A broker host: a whole Debian system with systemd, the packet filters and RabbitMQ, on a file system of its own.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::exec::{self, Output, check};
use crate::net::Subnet;
use crate::{client, product, tree};

const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const QUICK: Duration = Duration::from_secs(10);
const BOOT: Duration = Duration::from_secs(120);
const SCRIPT: Duration = Duration::from_secs(120);

/// What a boot is waited for.
#[derive(Clone, Copy, PartialEq)]
pub enum Until {
    /// RabbitMQ answers on 5672 and systemd calls its unit active (the port opens first).
    Broker,
    /// systemd has worked through its jobs, whatever became of them: for hosts whose broker is broken.
    Settled,
}

/// One running broker host and its client. Dropped, nothing of it is left on this machine.
pub struct Host {
    pub suite: &'static str,
    pub net: Subnet,
    dir: PathBuf,
    nspawn: Option<Child>,
    init: i32,
}

impl Host {
    /// A fresh host of a suite: package defaults, the application user `app`, nothing else; RabbitMQ runs.
    pub fn boot(suite: &'static str) -> Result<Self> {
        Self::boot_with(suite, &[])
    }

    /// The same with more packages installed.
    pub fn boot_with(suite: &'static str, packages: &[&str]) -> Result<Self> {
        let mut layers = vec![tree::base(suite)?, tree::tree(suite)?];
        if !packages.is_empty() {
            layers.insert(0, tree::layer(suite, packages)?);
        }
        let layers: Vec<&Path> = layers.iter().map(PathBuf::as_path).collect();
        let mut host = Self::mounted(suite, &layers, None)?;
        host.start(Until::Broker)?;
        Ok(host)
    }

    /// A host that is not running yet, its layers stacked and mounted. What it writes goes to `upper`, or is thrown away with it.
    pub fn mounted(suite: &'static str, lower: &[&Path], upper: Option<&Path>) -> Result<Self> {
        let net = Subnet::allocate()?;
        let dir = tree::cache().join("hosts").join(net.n.to_string());
        clear(&dir)?;
        let own_upper = dir.join("upper");
        let upper = upper.unwrap_or(&own_upper);
        for part in [upper, &work_of(upper), &dir.join("root")] {
            fs::create_dir_all(part)?;
        }
        let host = Self { suite, net, dir, nspawn: None, init: 0 };
        let lower: Vec<String> = lower.iter().map(|layer| layer.display().to_string()).collect();
        let options = format!("lowerdir={},upperdir={},workdir={}", lower.join(":"), upper.display(), work_of(upper).display());
        let root = host.root().display().to_string();
        check("mount", &["-t", "overlay", "overlay", "-o", &options, &root], QUICK)?;
        Ok(host)
    }

    /// The host's file system as seen from this machine. Absolute links in it lead astray: read and write through the host.
    pub fn root(&self) -> PathBuf {
        self.dir.join("root")
    }

    /// Powers the host on.
    pub fn start(&mut self, until: Until) -> Result<()> {
        let console = File::create(self.dir.join("console"))?;
        let root = self.root().display().to_string();
        let mut command = Command::new("setsid");
        // Started inside the client's namespace, nspawn puts the far end of the link right there. If this process is killed,
        // the signal takes the host down with it.
        command.args(["nsenter", &format!("--net=/run/netns/{}", self.net.netns()), "setpriv", "--pdeathsig", "TERM"]);
        command.args(["systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--boot", "--directory", &root]);
        command.args(["--network-veth", "--hostname=mqhost", "--resolv-conf=off", "--machine", &self.net.machine()]);
        if !matches!(self.suite, "bullseye" | "bookworm") {
            command.env("SYSTEMD_NSPAWN_UNIFIED_HIERARCHY", "1"); // newer systemd refuses to run on cgroup v1
        }
        let child = command.stdin(Stdio::null()).stdout(console.try_clone()?).stderr(console).spawn()?;
        let nspawn = self.nspawn.insert(child).id();
        let deadline = Instant::now() + BOOT;
        self.init = self.retry(deadline, || init_of(nspawn)).context("no init appeared")?;
        self.retry(deadline, || self.net.connect(self.init)).context("no network")?;
        self.retry(deadline, || self.reached(until)).with_context(|| self.console())?;
        Ok(())
    }

    /// Powers the host off in order, as an administrator would.
    pub fn stop(&mut self) -> Result<()> {
        let Some(mut nspawn) = self.nspawn.take() else { return Ok(()) };
        kill(Pid::from_raw(nspawn.id() as i32), Signal::SIGTERM)?;
        if exec::wait_until(&mut nspawn, Instant::now() + BOOT)?.is_none() {
            self.nspawn = Some(nspawn);
            bail!("the host did not power off within {BOOT:?}");
        }
        Ok(())
    }

    /// Powers the host off and on again.
    pub fn reboot(&mut self, until: Until) -> Result<()> {
        self.stop()?;
        self.start(until)
    }

    /// Runs a shell script as root inside the host, at most two minutes.
    pub fn sh(&self, script: &str) -> Result<Output> {
        self.sh_with(script, b"")
    }

    /// Runs a shell script that must succeed; returns its standard output.
    pub fn must(&self, script: &str) -> Result<String> {
        self.sh(script)?.ok().with_context(|| format!("in the {} host: {script}", self.suite))
    }

    /// Runs a script of this machine inside the host with bash, its variables set as the scripts of the fault pack expect them.
    pub fn run_script(&self, text: &str) -> Result<String> {
        self.write("/root/script", text)?;
        let (client, host, host6, n) = (self.net.client(), self.net.host(), self.net.host6(), self.net.n);
        let line = format!(
            "IFACE=host0 CLIENT_IP={client} HOST_IP={host} HOST_IP6={host6} SUBNET=10.77.{n}.0/24 bash /root/script </dev/null"
        );
        // A start that hangs is given up by systemd only after its own time limit.
        exec::run(self.inside().args(["sh", "-c", &line]), b"", 3 * SCRIPT)?
            .ok()
            .with_context(|| format!("in the {} host", self.suite))
    }

    fn sh_with(&self, script: &str, input: &[u8]) -> Result<Output> {
        exec::run(self.inside().args(["sh", "-c", script]), input, SCRIPT)
    }

    /// A command inside the host, to be completed with a program and its arguments.
    pub fn inside(&self) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.init.to_string(), "-m", "-u", "-i", "-n", "-p", "-C", "-r", "-w", "--"]);
        command.args(["env", "-i", PATH]);
        command
    }

    /// Writes a file and the folders above it. An existing file keeps its owner and mode.
    pub fn write(&self, path: &str, text: &str) -> Result<()> {
        self.write_bytes(path, text.as_bytes())
    }

    /// Copies a file of this machine into the host, executable when it is so here.
    pub fn put(&self, local: &Path, path: &str) -> Result<()> {
        self.write_bytes(path, &fs::read(local).with_context(|| local.display().to_string())?)?;
        self.must(&format!("chmod {:o} '{path}'", fs::metadata(local)?.mode() & 0o777))?;
        Ok(())
    }

    fn write_bytes(&self, path: &str, bytes: &[u8]) -> Result<()> {
        self.sh_with(&format!("mkdir -p \"$(dirname '{path}')\" && cat > '{path}'"), bytes)?.ok().context(path.to_owned())?;
        Ok(())
    }

    /// Reads a file.
    pub fn read(&self, path: &str) -> Result<String> {
        self.must(&format!("cat '{path}'"))
    }

    /// A copy of one of the host's files on this machine, which goes with the host.
    pub fn copy_out(&self, path: &str) -> Result<PathBuf> {
        let copy = self.dir.join("out").join(path.trim_start_matches('/'));
        fs::create_dir_all(copy.parent().context("no folder")?)?;
        fs::write(&copy, self.sh(&format!("cat '{path}'"))?.stdout)?;
        Ok(copy)
    }

    /// Runs the product inside the host.
    pub fn audit(&self, args: &[&str]) -> Result<Audit> {
        self.audit_within(args, SCRIPT)
    }

    /// The same with another time limit: a repair may restart the broker several times.
    pub fn audit_within(&self, args: &[&str], limit: Duration) -> Result<Audit> {
        self.install()?;
        let output = exec::run(self.inside().arg(product::IN_HOST).args(args), b"", limit)?;
        Ok(Audit { args: args.join(" "), json: serde_json::from_str(&output.stdout).ok(), output })
    }

    /// Copies the product into the host, once.
    pub fn install(&self) -> Result<()> {
        if self.sh(&format!("test -x {}", product::IN_HOST))?.code != 0 {
            self.put(&product::binary()?, product::IN_HOST)?;
        }
        Ok(())
    }

    /// A client on the other machine.
    pub fn client(&self) -> client::Client<'_> {
        client::Client::new(&self.net)
    }

    /// Everything under /etc: path → kind, mode, owner, and the hash of the content or the target of the link.
    /// Times are left out (a file that is put back has a new one); nothing else changes by itself between two looks.
    pub fn etc_digest(&self) -> Result<BTreeMap<String, String>> {
        let root = self.root();
        let mut digest = BTreeMap::new();
        let mut folders = vec![root.join("etc")];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder)? {
                let path = entry?.path();
                let meta = fs::symlink_metadata(&path)?;
                let content = if meta.is_symlink() {
                    format!("-> {}", fs::read_link(&path)?.display())
                } else if meta.is_file() {
                    Sha256::digest(fs::read(&path)?).iter().map(|byte| format!("{byte:02x}")).collect()
                } else {
                    String::new()
                };
                if meta.is_dir() {
                    folders.push(path.clone());
                }
                let name = path.strip_prefix(&root)?.display().to_string();
                digest.insert(format!("/{name}"), format!("{:o} {}:{} {content}", meta.mode(), meta.uid(), meta.gid()));
            }
        }
        Ok(digest)
    }

    /// What a client or an administrator could notice, by name. Two hosts in the same state have equal maps.
    pub fn state(&self) -> Result<BTreeMap<String, String>> {
        let users = |list: &str| format!("systemctl -q is-active rabbitmq-server && rabbitmqctl -q {list} </dev/null | sort");
        let questions = [
            ("unit active", "systemctl is-active rabbitmq-server".into()),
            ("unit enabled", "systemctl is-enabled rabbitmq-server".into()),
            ("listening", "ss -Hltn | awk '{print $4}' | sort".into()),
            ("ufw", "ufw status verbose".into()),
            // Counters and the comments with the time change by themselves.
            ("iptables", "iptables-save | sed -e '/^#/d' -e 's/\\[[0-9:]*\\]//'".into()),
            ("ip6tables", "ip6tables-save | sed -e '/^#/d' -e 's/\\[[0-9:]*\\]//'".into()),
            ("users", users("list_users")),
            ("permissions", users("list_permissions")),
        ];
        questions.into_iter().map(|(name, script): (_, String)| Ok((name.into(), self.sh(&script)?.stdout))).collect()
    }

    fn reached(&self, until: Until) -> Result<()> {
        let script = match until {
            Until::Broker => "[ \"$(systemctl is-active rabbitmq-server)\" = active ] && ss -Hltn 'sport = :5672' | grep -q .",
            Until::Settled => "systemctl is-system-running | grep -qE 'running|degraded|maintenance'",
        };
        self.sh(script)?.ok().map(drop)
    }

    fn retry<T>(&self, deadline: Instant, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
        loop {
            match attempt() {
                Ok(value) => return Ok(value),
                Err(error) if Instant::now() >= deadline => return Err(error.context(self.console())),
                Err(_) => thread::sleep(Duration::from_millis(100)),
            }
        }
    }

    fn console(&self) -> String {
        let text = fs::read(self.dir.join("console")).unwrap_or_default();
        let text = String::from_utf8_lossy(&text[text.len().saturating_sub(3000)..]);
        let text = text.replace(|letter: char| letter.is_control() && letter != '\n', "");
        format!("the {} host's console ends with:\n{text}", self.suite)
    }

    fn tear_down(&mut self) -> Result<()> {
        if let Some(mut nspawn) = self.nspawn.take() {
            // Nothing of the host is kept, so its init is killed: nspawn then ends by itself in less than a second.
            if self.init != 0 {
                let _ = kill(Pid::from_raw(self.init), Signal::SIGKILL);
            }
            for signal in [Signal::SIGTERM, Signal::SIGKILL] {
                if exec::wait_until(&mut nspawn, Instant::now() + QUICK)?.is_some() {
                    break;
                }
                kill(Pid::from_raw(nspawn.id() as i32), signal)?;
            }
            nspawn.wait()?;
        }
        clear(&self.dir)
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Err(error) = self.tear_down() {
            eprintln!("lab: {}: {error:#}", self.dir.display());
        }
    }
}

/// One run of the product.
#[derive(Debug)]
pub struct Audit {
    args: String,
    pub output: Output,
    /// The report, when the output is JSON.
    pub json: Option<Value>,
}

impl Audit {
    /// The value at a JSON pointer of the report; `null` when it isn't there.
    pub fn at(&self, pointer: &str) -> Value {
        self.json.as_ref().and_then(|report| report.pointer(pointer)).cloned().unwrap_or_default()
    }

    /// Fails unless the report has `expected` at this JSON pointer.
    pub fn says(self, pointer: &str, expected: impl Into<Value>) -> Result<Self> {
        let (found, expected) = (self.at(pointer), expected.into());
        if found != expected {
            let Output { stdout, stderr, .. } = &self.output;
            bail!("rmq-audit {}: {pointer} is {found}, not {expected}\n--- stdout\n{stdout}\n--- stderr\n{stderr}", self.args);
        }
        Ok(self)
    }

    /// Names of the rules that failed with this severity, in the report's order.
    pub fn rules(&self, severity: &str) -> Vec<String> {
        let findings = self.at("/findings");
        let of = |finding: &&Value| finding["severity"] == severity;
        let name = |finding: &Value| finding["rule"].as_str().unwrap_or_default().to_owned();
        findings.as_array().into_iter().flatten().filter(of).map(name).collect()
    }

    /// Fails unless the exit code is the expected one.
    pub fn exits(self, code: i32) -> Result<Self> {
        if self.output.code != code {
            let Output { code: actual, stdout, stderr } = &self.output;
            bail!("rmq-audit {}: exit code {actual}, not {code}\n--- stdout\n{stdout}\n--- stderr\n{stderr}", self.args);
        }
        Ok(self)
    }
}

/// The lines in which two states or digests differ.
pub fn differences(before: &BTreeMap<String, String>, after: &BTreeMap<String, String>) -> Vec<String> {
    let names: std::collections::BTreeSet<_> = before.keys().chain(after.keys()).collect();
    let differing = names.into_iter().filter(|name| before.get(*name) != after.get(*name));
    differing.map(|name| format!("{name}: {:?} became {:?}", before.get(name), after.get(name))).collect()
}

fn work_of(upper: &Path) -> PathBuf {
    upper.with_extension("work")
}

/// Unmounts a host's root and removes its folder, also when an earlier process left them.
fn clear(dir: &Path) -> Result<()> {
    let root = dir.join("root").display().to_string();
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    if mounts.lines().any(|line| line.split(' ').nth(1) == Some(&root)) {
        let deadline = Instant::now() + QUICK;
        while let Err(error) = check("umount", &[&root], QUICK) {
            if Instant::now() > deadline {
                return Err(error);
            }
            thread::sleep(Duration::from_millis(100));
        }
    }
    if dir.exists() {
        fs::remove_dir_all(dir).with_context(|| dir.display().to_string())?;
    }
    Ok(())
}

/// The host's PID 1 as this machine numbers it: the child of nspawn that lives in another PID namespace.
fn init_of(nspawn: u32) -> Result<i32> {
    let ours = fs::read_link("/proc/self/ns/pid")?;
    let children = fs::read_to_string(format!("/proc/{nspawn}/task/{nspawn}/children"))?;
    for child in children.split_whitespace() {
        let name = fs::read_to_string(format!("/proc/{child}/comm"))?;
        if fs::read_link(format!("/proc/{child}/ns/pid"))? != ours && name.trim() == "systemd" {
            return Ok(child.parse()?);
        }
    }
    bail!("nspawn has not started it")
}

//! The network between a broker host and its client: one subnet and one client namespace per host.
//!
//! The client namespace stands for another machine: it owns the far end of the host's only network link.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::exec::{check, run};

const LOCKS: &str = "/run/lock/rmq-audit-lab";
const QUICK: Duration = Duration::from_secs(10);

/// 10.77.N.0/24 and fd77:N::/64, held by this process until dropped: tests and processes that run side by side never share one.
pub struct Subnet {
    pub n: u8,
    _lock: Flock<File>,
}

impl Subnet {
    /// Takes a free subnet, makes its client namespace, and clears away what a killed owner left.
    pub fn allocate() -> Result<Self> {
        fs::create_dir_all(LOCKS)?;
        for n in 10..=49 {
            let file = File::create(format!("{LOCKS}/{n}"))?;
            let Ok(lock) = Flock::lock(file, FlockArg::LockExclusiveNonblock) else { continue };
            let subnet = Self { n, _lock: lock };
            subnet.clear()?;
            check("ip", &["netns", "add", &subnet.netns()], QUICK)?;
            check("ip", &["-n", &subnet.netns(), "link", "set", "lo", "up"], QUICK)?;
            return Ok(subnet);
        }
        bail!("all subnets 10.77.10.0 to 10.77.49.0 are taken ({LOCKS})")
    }

    /// The name of the client's namespace.
    pub fn netns(&self) -> String {
        format!("rmql{}", self.n)
    }

    /// The broker host's machine name for nspawn; short, because the interface `ve-NAME` has to fit into 15 bytes.
    pub fn machine(&self) -> String {
        format!("rmql{}", self.n)
    }

    /// The client's address.
    pub fn client(&self) -> String {
        format!("10.77.{}.1", self.n)
    }

    /// A second address of the client.
    pub fn other_client(&self) -> String {
        format!("10.77.{}.9", self.n)
    }

    /// The client's IPv6 address.
    pub fn client6(&self) -> String {
        format!("fd77:{}::1", self.n)
    }

    /// The broker host's address.
    pub fn host(&self) -> String {
        format!("10.77.{}.2", self.n)
    }

    /// The broker host's IPv6 address.
    pub fn host6(&self) -> String {
        format!("fd77:{}::2", self.n)
    }

    /// Gives both ends of the link their addresses. nspawn leaves `host0` down, so this is needed at every boot.
    pub fn connect(&self, init: i32) -> Result<()> {
        let (n, link) = (self.n, format!("ve-{}", self.machine()));
        // Without duplicate address detection IPv6 addresses are usable at once.
        let client = format!(
            "addr replace 10.77.{n}.1/24 dev {link}\naddr replace 10.77.{n}.9/24 dev {link}\n\
             addr replace fd77:{n}::1/64 dev {link} nodad\nlink set {link} up\n"
        );
        let host = format!(
            "link set lo up\naddr replace 10.77.{n}.2/24 dev host0\naddr replace fd77:{n}::2/64 dev host0 nodad\n\
             link set host0 up\nroute replace default via 10.77.{n}.1\nroute replace default via fd77:{n}::1\n"
        );
        let batch = |command: &mut Command, lines: &str| run(command, lines.as_bytes(), QUICK)?.ok();
        batch(Command::new("ip").args(["-n", &self.netns(), "-batch", "-"]), &client).context("client's end")?;
        let inside = ["-t", &init.to_string(), "-n", "ip", "-batch", "-"].map(String::from);
        batch(Command::new("nsenter").args(inside), &host).context("broker host's end")?;
        Ok(())
    }

    /// Starts the resolver on the client's machine; it ends with the namespace.
    pub fn resolve_names(&self) -> Result<()> {
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lab/resolver.py");
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.netns(), "/usr/bin/python3"]).arg(program).arg(self.client());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        Ok(())
    }

    fn clear(&self) -> Result<()> {
        let netns = self.netns();
        if !fs::exists(format!("/run/netns/{netns}"))? {
            return Ok(());
        }
        // Only nspawn and clients of this lab ever run in there, and their owner no longer holds the lock.
        for pid in check("ip", &["netns", "pids", &netns], QUICK)?.split_whitespace() {
            let _ = kill(Pid::from_raw(pid.parse()?), Signal::SIGKILL);
        }
        check("ip", &["netns", "del", &netns], QUICK)?;
        Ok(())
    }
}

impl Drop for Subnet {
    fn drop(&mut self) {
        if let Err(error) = self.clear() {
            eprintln!("lab: {}: {error:#}", self.netns());
        }
    }
}

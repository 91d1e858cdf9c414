//! Programs of a suite's tree, run in the tree itself without booting it.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use crate::{exec, tree};

/// Runs a shell script as root with the suite's tree as `/`: read-only, in namespaces of its own, without a network. `folder` of
/// this machine is /mnt in it; /tmp and /etc/rabbitmq are empty, and what is written to them is lost. Returns its standard output.
pub fn run(suite: &'static str, folder: &Path, script: &str, timeout: Duration) -> Result<String> {
    let root = tree::tree(suite)?.display().to_string();
    let folder = folder.display().to_string();
    let setup = "set -e; root=$1; mount --bind \"$root\" \"$root\"; cd \"$root\"; mount -o remount,bind,ro \"$root\"
        mount --bind \"$2\" mnt; mount -t tmpfs -o mode=1777 lab tmp; mount -t tmpfs -o mode=755 lab etc/rabbitmq
        mount -t proc proc proc; exec chroot . /bin/sh -c \"$3\"";
    let head = ["--mount", "--pid", "--net", "--ipc", "--fork", "--kill-child", "sh", "-c", setup, "sh", &root, &folder, script];
    let output = exec::run(Command::new("unshare").args(head).env_clear().env("PATH", PATH), b"", timeout)?;
    output.ok()
}

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

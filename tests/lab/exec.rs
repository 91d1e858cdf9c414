//! Running a program to its end, with a time limit.

use std::io::{Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

/// What a finished program left behind.
#[derive(Debug)]
pub struct Output {
    /// The exit code; 128 + the signal's number when a signal ended it, as shells say it.
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Output {
    /// The standard output of a program that ended with 0; otherwise an error that shows what it said.
    pub fn ok(self) -> Result<String> {
        if self.code != 0 {
            bail!("exit code {}\n--- stdout\n{}\n--- stderr\n{}", self.code, self.stdout, self.stderr);
        }
        Ok(self.stdout)
    }
}

/// Runs `command` with `input` on its standard input. At `timeout` its whole process group is killed and the result is an error.
///
/// The output counts as complete when every process that inherited it has closed it: a script that leaves something running
/// must redirect that something's output.
pub fn run(command: &mut Command, input: &[u8], timeout: Duration) -> Result<Output> {
    let shown = format!("{command:?}");
    let deadline = Instant::now() + timeout;
    let stdin = if input.is_empty() { Stdio::null() } else { Stdio::piped() };
    let mut child = command
        .process_group(0)
        .stdin(stdin)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {shown}"))?;
    feed(&mut child, input);
    let stdout = child.stdout.take().map(drain);
    let stderr = child.stderr.take().map(drain);
    let status = wait_until(&mut child, deadline)?;
    let late = || format!("{shown} did not end within {timeout:?}");
    let Some(status) = status else {
        let _ = killpg(Pid::from_raw(child.id() as i32), Signal::SIGKILL);
        let _ = child.wait();
        let so_far = |stream| collect(stream, Instant::now() + Duration::from_secs(1)).unwrap_or_default();
        bail!("{}\n--- stdout\n{}\n--- stderr\n{}", late(), so_far(stdout), so_far(stderr));
    };
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    Ok(Output {
        code,
        stdout: collect(stdout, deadline).with_context(late)?,
        stderr: collect(stderr, deadline).with_context(late)?,
    })
}

/// Runs a program whose failure is an error; returns its standard output.
pub fn check(program: &str, args: &[&str], timeout: Duration) -> Result<String> {
    run(Command::new(program).args(args), b"", timeout)?.ok().with_context(|| format!("{program} {}", args.join(" ")))
}

/// Waits for a child's end, at most until `deadline` (then: `None`).
pub fn wait_until(child: &mut Child, deadline: Instant) -> Result<Option<ExitStatus>> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
        thread::sleep(Duration::from_millis(10));
    }
}

fn feed(child: &mut Child, input: &[u8]) {
    if let Some(mut stdin) = child.stdin.take() {
        let input = input.to_vec();
        // A program that ends without reading all of it is no error.
        thread::spawn(move || stdin.write_all(&input));
    }
}

fn drain(mut stream: impl Read + Send + 'static) -> Receiver<Vec<u8>> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes);
        sender.send(bytes)
    });
    receiver
}

fn collect(stream: Option<Receiver<Vec<u8>>>, deadline: Instant) -> Result<String> {
    let Some(stream) = stream else { return Ok(String::new()) };
    let bytes = stream.recv_timeout(deadline.saturating_duration_since(Instant::now()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

//! Running a program without being at its mercy: no shell, no inherited environment, bounded time and output.

use super::{Got, Miss, Output};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

/// Where programs are looked for; also their PATH.
const DIRECTORIES: [&str; 4] = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"];
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";

/// Largest output, standard output and standard error together, in bytes: 60,000 firewall rules are a fifth of it.
pub const MAX_OUTPUT: usize = 64 * 1024 * 1024;

/// A pipe that polls as writable takes this much without blocking (PIPE_BUF).
const PIPE_BUF: usize = 4096;

/// What to run. The environment is PATH, `LC_ALL=C.UTF-8` and `env`; the directory is `/`.
pub struct Job<'a> {
    pub program: &'a Path,
    pub args: &'a [String],
    pub env: &'a [(&'a str, &'a str)],
    /// Run as this uid and gid with no supplementary groups (needs root).
    pub user: Option<(u32, u32)>,
    pub stdin: Option<&'a [u8]>,
    pub timeout: Duration,
}

/// The absolute path of a program in the fixed list of directories. A program that somebody other than root can write to is
/// refused: it would run as root.
pub fn find(name: &str) -> Got<PathBuf> {
    for dir in DIRECTORIES {
        let path = Path::new(dir).join(name);
        match std::fs::metadata(&path) {
            Ok(m) if !m.is_file() || m.mode() & 0o111 == 0 => continue,
            Ok(m) if m.uid() != 0 || m.mode() & 0o022 != 0 => {
                return Err(Miss::failed(path.display().to_string(), "not run: others than root can change it"));
            }
            Ok(_) => return Ok(path),
            Err(_) => continue,
        }
    }
    Err(Miss::Absent { what: name.to_owned() })
}

/// Runs the job to its end. After the time limit its process group is killed and the answer is `Timeout`; what it had
/// written by then is dropped, so that half an output is never taken for a whole one.
pub fn run(job: &Job, what: &str) -> Got<Output> {
    let deadline = Instant::now() + job.timeout;
    let mut child = spawn(job).map_err(|e| super::live::miss(what, &e))?;
    let result =
        Pipes::new(&mut child, job.stdin, deadline).pump().and_then(|(out, err)| Ok((out, err, wait(&mut child, deadline)?)));
    match result {
        Ok((stdout, stderr, code)) => Ok(Output { code, stdout, stderr }),
        Err(stop) => {
            kill(&mut child);
            Err(stop.into_miss(what, job.timeout))
        }
    }
}

fn spawn(job: &Job) -> std::io::Result<Child> {
    let mut command = Command::new(job.program);
    command.args(job.args).env_clear().env("PATH", PATH).env("LC_ALL", "C.UTF-8").envs(job.env.iter().copied());
    command.stdin(if job.stdin.is_some() { Stdio::piped() } else { Stdio::null() });
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0).current_dir("/");
    if let Some((uid, gid)) = job.user {
        // std drops the supplementary groups when root changes uid.
        command.uid(uid).gid(gid);
    }
    command.spawn()
}

/// Why the exchange with a program ended early.
enum Stop {
    Late,
    TooMuch,
    Io(std::io::Error),
}

impl Stop {
    fn into_miss(self, what: &str, timeout: Duration) -> Miss {
        match self {
            Stop::Late => Miss::Timeout { what: what.to_owned(), seconds: timeout.as_secs() },
            Stop::TooMuch => Miss::TooBig { what: what.to_owned(), limit: MAX_OUTPUT as u64 },
            Stop::Io(e) => Miss::failed(what, e),
        }
    }
}

/// Both directions of a running program, served by one poll loop: a program that fills one pipe while we wait on the other
/// cannot stop us, and neither can one that never reads its input.
struct Pipes<'a> {
    stdin: Option<(ChildStdin, &'a [u8])>,
    stdout: Option<ChildStdout>,
    stderr: Option<ChildStderr>,
    deadline: Instant,
    out: Vec<u8>,
    err: Vec<u8>,
}

impl<'a> Pipes<'a> {
    fn new(child: &mut Child, input: Option<&'a [u8]>, deadline: Instant) -> Self {
        let stdin = child.stdin.take().zip(input);
        Pipes { stdin, stdout: child.stdout.take(), stderr: child.stderr.take(), deadline, out: Vec::new(), err: Vec::new() }
    }

    /// Until both outputs are closed. Input that the program doesn't want is dropped with its pipe.
    fn pump(mut self) -> Result<(Vec<u8>, Vec<u8>), Stop> {
        while self.stdout.is_some() || self.stderr.is_some() {
            let [input, output, error] = self.ready()?;
            if output && take(&mut self.stdout, &mut self.out)? {
                self.stdout = None;
            }
            if error && take(&mut self.stderr, &mut self.err)? {
                self.stderr = None;
            }
            if self.out.len() + self.err.len() > MAX_OUTPUT {
                return Err(Stop::TooMuch);
            }
            if input {
                self.feed()?;
            }
        }
        Ok((self.out, self.err))
    }

    /// Which of stdin, stdout, stderr can be served now.
    fn ready(&self) -> Result<[bool; 3], Stop> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Stop::Late);
        }
        let mut fds = Vec::with_capacity(3);
        let mut which = Vec::with_capacity(3);
        let mut add = |index: usize, fd, flags| {
            fds.push(PollFd::new(fd, flags));
            which.push(index);
        };
        if let Some((pipe, _)) = &self.stdin {
            add(0, pipe.as_fd(), PollFlags::POLLOUT);
        }
        if let Some(pipe) = &self.stdout {
            add(1, pipe.as_fd(), PollFlags::POLLIN);
        }
        if let Some(pipe) = &self.stderr {
            add(2, pipe.as_fd(), PollFlags::POLLIN);
        }
        let timeout = PollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
        let mut ready = [false; 3];
        match poll(&mut fds, timeout) {
            Ok(_) => {}
            Err(nix::errno::Errno::EINTR) => return Ok(ready),
            Err(e) => return Err(Stop::Io(e.into())),
        }
        for (fd, index) in fds.iter().zip(which) {
            ready[index] = fd.any().unwrap_or(true);
        }
        Ok(ready)
    }

    fn feed(&mut self) -> Result<(), Stop> {
        let Some((pipe, rest)) = &mut self.stdin else { return Ok(()) };
        let chunk = &rest[..rest.len().min(PIPE_BUF)];
        match pipe.write(chunk) {
            Ok(n) => *rest = &rest[n..],
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) if e.kind() == ErrorKind::BrokenPipe => *rest = &[],
            Err(e) => return Err(Stop::Io(e)),
        }
        if rest.is_empty() {
            self.stdin = None;
        }
        Ok(())
    }
}

/// Reads once; says whether the pipe is at its end.
fn take(pipe: &mut Option<impl Read>, into: &mut Vec<u8>) -> Result<bool, Stop> {
    let Some(pipe) = pipe else { return Ok(false) };
    let mut buffer = [0; 65536];
    match pipe.read(&mut buffer) {
        Ok(n) => {
            into.extend_from_slice(&buffer[..n]);
            Ok(n == 0)
        }
        Err(e) if e.kind() == ErrorKind::Interrupted => Ok(false),
        Err(e) => Err(Stop::Io(e)),
    }
}

/// Waits for the exit status. A program usually exits right after it closed its output, so the steps begin small.
fn wait(child: &mut Child, deadline: Instant) -> Result<Option<i32>, Stop> {
    let mut step = Duration::from_micros(50);
    loop {
        if let Some(status) = child.try_wait().map_err(Stop::Io)? {
            return Ok(status.code());
        }
        if Instant::now() >= deadline {
            return Err(Stop::Late);
        }
        std::thread::sleep(step);
        step = (step * 2).min(Duration::from_millis(20));
    }
}

/// Kills the whole group and reaps the leader; one that hangs in the kernel is left behind.
fn kill(child: &mut Child) {
    if let Ok(pid) = i32::try_from(child.id()) {
        // Not reaped yet, so the number still is its own.
        let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
    }
    let _ = wait(child, Instant::now() + Duration::from_millis(500));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, stdin: Option<&[u8]>, millis: u64) -> Got<Output> {
        let args = ["-c".to_owned(), script.to_owned()];
        let program = find("sh").unwrap();
        let timeout = Duration::from_millis(millis);
        run(&Job { program: &program, args: &args, env: &[], user: None, stdin, timeout }, "test")
    }

    #[test]
    fn output_and_status_come_back() {
        let got = shell("echo out; echo err >&2; exit 3", None, 5000).unwrap();
        assert_eq!((got.code, got.stdout.as_slice(), got.stderr.as_slice()), (Some(3), &b"out\n"[..], &b"err\n"[..]));
    }

    #[test]
    fn the_environment_is_ours() {
        let got = shell("env", None, 5000).unwrap();
        let text = String::from_utf8(got.stdout).unwrap();
        assert!(text.contains("LC_ALL=C.UTF-8") && text.contains(&format!("PATH={PATH}")), "{text}");
        assert!(!text.contains("HOME=") && !text.contains("CARGO"), "{text}");
    }

    #[test]
    fn a_full_standard_error_does_not_block() {
        let got = shell("head -c 1000000 /dev/zero >&2; echo done", None, 10000).unwrap();
        assert_eq!((got.stdout.as_slice(), got.stderr.len()), (&b"done\n"[..], 1_000_000));
    }

    #[test]
    fn one_that_closes_its_output_and_lives_on_is_stopped() {
        let start = Instant::now();
        assert!(matches!(shell("exec >&- 2>&-; sleep 60", None, 300), Err(Miss::Timeout { .. })));
        assert!(start.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn one_whose_child_keeps_the_pipe_is_stopped_with_its_group() {
        let start = Instant::now();
        assert!(matches!(shell("sleep 60 & exit 0", None, 300), Err(Miss::Timeout { .. })));
        assert!(start.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn input_is_delivered_whole_and_an_unread_one_is_dropped() {
        let input = vec![b'x'; 300_000];
        assert_eq!(shell("cat", Some(&input), 10000).unwrap().stdout, input);
        assert_eq!(shell("exec <&-; echo ok", Some(&input), 10000).unwrap().stdout, b"ok\n");
    }

    #[test]
    fn only_programs_of_root_in_the_fixed_directories_are_found() {
        assert!(find("sh").unwrap().is_absolute());
        assert!(find("no-such-program").is_err_and(|m| m.is_absent()));
    }
}

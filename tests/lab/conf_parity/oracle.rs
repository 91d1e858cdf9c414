//! The broker's own parser, running in the tree of a suite as the broker's user: one Erlang machine for all cases.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::exec;

/// One setting that the schemas of the release know.
#[derive(Deserialize, Debug, Clone)]
pub struct Mapping {
    /// Words joined with dots; `$name` stands for any one word.
    pub key: String,
    /// Erlang terms as text: `{enum,[true,false]}`.
    pub datatypes: Vec<String>,
    pub validators: Vec<String>,
    pub aliases: Vec<String>,
    /// What the broker gets is computed by a function, which can fail.
    pub translated: bool,
}

/// What the parser says of one directory.
#[derive(Deserialize, Debug, Clone)]
pub struct Answer {
    /// Where it stopped; null: it did not.
    pub phase: Option<String>,
    pub errors: Vec<Blame>,
    /// What it would have stopped at with the blamed settings taken away.
    #[serde(default)]
    pub later: Vec<Blame>,
    /// It would still stop at something else, which hides what would come after.
    #[serde(default)]
    pub stuck: bool,
    /// Key → value as read from the files; null: they could not be read.
    #[serde(default)]
    pub settings: Option<BTreeMap<String, String>>,
}

/// One error of the parser.
#[derive(Deserialize, Debug, Clone)]
pub struct Blame {
    pub tag: String,
    /// Keys that the error names, or whose values go into what failed.
    pub keys: Vec<String>,
    /// The application setting whose translation failed.
    pub path: Option<String>,
    pub file: Option<String>,
    pub line: Option<u32>,
    pub text: String,
}

pub struct Oracle {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
    errors: PathBuf,
}

impl Oracle {
    /// Starts Erlang in `root`, and waits until the schemas are read.
    pub fn start(root: &Path) -> Result<Self> {
        let errors = root.join("lab/oracle.errors");
        let mut child = command(root)?.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(File::create(&errors)?).spawn()?;
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().context("no standard output")?);
        let mut oracle = Self { child, stdin, stdout, errors };
        let ready: serde_json::Value = oracle.answer()?;
        if ready["ready"] != true {
            bail!("the schemas cannot be read: {ready}");
        }
        oracle.ask("hurry")?;
        oracle.answer::<bool>()?;
        Ok(oracle)
    }

    /// All mappings of the release.
    pub fn mappings(&mut self) -> Result<Vec<Mapping>> {
        self.ask("mappings")?;
        let mut all = Vec::new();
        while let Some(mapping) = self.answer::<Option<Mapping>>()? {
            all.push(mapping);
        }
        Ok(all)
    }

    /// The verdict on a directory of the tree that is laid out as /etc/rabbitmq.
    pub fn check(&mut self, dir: &str) -> Result<Answer> {
        self.ask(&format!("check {dir}"))?;
        self.answer()
    }

    fn ask(&mut self, line: &str) -> Result<()> {
        let stdin = self.stdin.as_mut().context("the oracle has ended")?;
        writeln!(stdin, "{line}")?;
        Ok(stdin.flush()?)
    }

    fn answer<T: for<'a> Deserialize<'a>>(&mut self) -> Result<T> {
        let mut line = String::new();
        loop {
            line.clear();
            if self.stdout.read_line(&mut line)? == 0 {
                bail!("the oracle ended: {}", fs::read_to_string(&self.errors).unwrap_or_default());
            }
            if let Some(json) = line.strip_prefix("@@") {
                return serde_json::from_str(json).with_context(|| json.to_owned());
            }
        }
    }
}

impl Drop for Oracle {
    fn drop(&mut self) {
        self.stdin = None;
        let ended = exec::wait_until(&mut self.child, Instant::now() + Duration::from_secs(5));
        if !matches!(ended, Ok(Some(_))) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Erlang with the environment that systemd gives the broker, in namespaces that end with it.
pub fn command(root: &Path) -> Result<Command> {
    let plugins = format!("/{}", plugins(root)?.strip_prefix(root)?.display());
    let script = "mount -t proc proc \"$1/proc\"; exec chroot \"$1\" setpriv --reuid rabbitmq --regid rabbitmq --init-groups \
        env -i -C /var/lib/rabbitmq HOME=/var/lib/rabbitmq USER=rabbitmq LOGNAME=rabbitmq SHELL=/usr/sbin/nologin LANG=C.UTF-8 \
        PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin ERL_LIBS=\"$2\" \
        erl -noshell -boot start_clean -pa /lab -eval \"oracle:main(\\\"$2\\\").\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "--pid", "--fork", "--kill-child", "sh", "-c", script, "sh"]).arg(root).arg(plugins);
    Ok(command)
}

/// Puts the oracle into the tree, compiled there.
pub fn install(root: &Path) -> Result<()> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lab/oracle.erl");
    fs::create_dir_all(root.join("lab"))?;
    fs::copy(source, root.join("lab/oracle.erl"))?;
    let root = root.display().to_string();
    exec::check("chroot", &[&root, "erlc", "-o", "/lab", "/lab/oracle.erl"], Duration::from_secs(60))?;
    Ok(())
}

fn plugins(root: &Path) -> Result<PathBuf> {
    for server in fs::read_dir(root.join("usr/lib/rabbitmq/lib"))? {
        let plugins = server?.path().join("plugins");
        if plugins.is_dir() {
            return Ok(plugins);
        }
    }
    bail!("no plugins directory below {}", root.display())
}

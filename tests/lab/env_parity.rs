//! The reading of rabbitmq-env.conf against what really happens: the release's own start script and its own `rabbit_env`, in the
//! suite's tree (`env_parity/judge.erl`).
//!
//! Whatever the product claims to know must be so: a start that it calls impossible fails, one that it does not doubt comes to
//! run Erlang, and every known value is the broker's. What it leaves open is counted.
//! `RMQ_AUDIT_PARITY_COUNT=N` makes it N random files per suite.

mod cases;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rmq_audit::parity;

use crate::{chroot, tree};
use cases::Case;

/// Random files per suite and shell: enough to catch what breaks, in seconds.
const SAMPLE: usize = 60;
const SEED: u64 = 1;

pub fn count(sample: usize) -> usize {
    std::env::var("RMQ_AUDIT_PARITY_COUNT").ok().and_then(|n| n.parse().ok()).unwrap_or(sample)
}

/// Debian's own shell; on one suite, or where many files are wanted, also that of Red Hat's family in its place.
pub fn env_parity(suite: &'static str) -> Result<()> {
    let random = count(SAMPLE);
    let all = cases::all(random, SEED)?;
    let shells: &[&str] = if random > SAMPLE || suite == "trixie" { &["dash", "bash"] } else { &["dash"] };
    for shell in shells {
        let real = judge(suite, shell, &all)?;
        let mut tally = Tally::default();
        for case in &all {
            let outcome = real.get(&case.name).with_context(|| format!("{} was not judged", case.name))?;
            tally.compare(case, (suite, shell), outcome, &real["baseline"]);
        }
        println!("{suite} {shell}: {}", tally.summary());
        ensure!(tally.wrong.is_empty(), "{suite} {shell}: {} disagreements\n{}", tally.wrong.len(), tally.details());
    }
    Ok(())
}

/// What really happened to one file.
#[derive(Debug, Default)]
struct Outcome {
    /// started: the broker's code had the environment; refused: and refused a value; crashed: reading the file again crashed; died:
    /// the start script ended.
    state: String,
    env: BTreeMap<String, String>,
    shell: BTreeMap<String, String>,
}

impl Outcome {
    /// The value of a variable, as whoever uses it looks it up.
    fn value(&self, name: &str) -> Option<String> {
        if let Some(value) = self.shell.get(name) {
            return Some(value.clone()).filter(|v| !v.is_empty());
        }
        let keeps_empty = ["ENABLED_PLUGINS", "FEATURE_FLAGS"].contains(&name);
        let spellings = if name.starts_with("ERL_") || name == "SYS_PREFIX" {
            vec![name.to_owned()]
        } else {
            vec![format!("RABBITMQ_{name}"), name.to_owned()]
        };
        spellings.iter().filter_map(|s| self.env.get(s)).find(|v| keeps_empty || !v.is_empty()).cloned()
    }
}

/// Shell variables of the start script, with the prefix there.
const IN_SHELL: [&str; 12] = [
    "CTL_DIST_PORT_MAX",
    "CTL_DIST_PORT_MIN",
    "CTL_ERL_ARGS",
    "DISTRIBUTION_BUFFER_SIZE",
    "IGNORE_SIGINT",
    "MAX_NUMBER_OF_ATOMS",
    "MAX_NUMBER_OF_PROCESSES",
    "SCHEDULER_BIND_TYPE",
    "SERVER_ADDITIONAL_ERL_ARGS",
    "SERVER_CODE_PATH",
    "SERVER_ERL_ARGS",
    "SERVER_START_ARGS",
];
/// Their defaults are made of other variables.
const MADE_OF_OTHERS: [&str; 2] = ["CTL_DIST_PORT_MAX", "SERVER_ERL_ARGS"];

fn judge(suite: &'static str, shell: &str, all: &[Case]) -> Result<BTreeMap<String, Outcome>> {
    let folder = tree::cache().join("run").join(format!("env-{suite}-{shell}-{}", std::process::id()));
    let _ = fs::remove_dir_all(&folder);
    lay_out(suite, &folder, all)?;
    let script = format!(
        "set -e; chown rabbitmq /etc/rabbitmq /tmp; chmod 1777 /tmp
        for sbin in /usr/lib/rabbitmq/lib/*/sbin; do mount --bind /mnt/rabbitmq-server $sbin/rabbitmq-server; done
        erlc -o /tmp /mnt/judge.erl; [ {shell} = dash ] || mount --bind /bin/bash $(readlink -f /bin/dash)
        export ERL_LIBS=$(echo /usr/lib/rabbitmq/lib/*/plugins) HOME=/tmp LANG=C.UTF-8
        exec setpriv --reuid rabbitmq --regid rabbitmq --init-groups erl -noinput +fnu -boot start_clean -pa /tmp -eval \
        'judge:main([\"/mnt/cases\"])'"
    );
    let output = chroot::run(suite, &folder, &script, Duration::from_secs(60 + all.len() as u64));
    let _ = fs::remove_dir_all(&folder);
    outcomes(&output?)
}

/// What /mnt holds for the judge.
fn lay_out(suite: &'static str, folder: &Path, all: &[Case]) -> Result<()> {
    fs::create_dir_all(folder.join("bin"))?;
    fs::create_dir_all(folder.join("cases"))?;
    fs::write(folder.join("judge.erl"), include_str!("env_parity/judge.erl"))?;
    // On 3.8, the script asks Erlang for the default number of threads.
    let erl =
        "#!/bin/sh\ncase \"$*\" in *report_default_thread_pool_size*) echo 64; exit 0;; esac\nexec /usr/bin/env -0 >/tmp/env\n";
    program(&folder.join("bin/erl"), erl)?;
    program(&folder.join("rabbitmq-server"), &start_script(suite)?)?;
    for case in all {
        let path = folder.join("cases").join(&case.name);
        fs::write(path.with_extension("conf"), &case.content)?;
        if case.unreadable {
            fs::write(path.with_extension("unreadable"), "")?;
        }
        if !case.unit.is_empty() {
            let text: String = case.unit.iter().map(|(name, value)| format!("{name}={value}\n")).collect();
            fs::write(path.with_extension("unit"), text)?;
        }
    }
    Ok(())
}

fn program(path: &Path, text: &str) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::write(path, text)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// The release's start script, which writes down its variables right before it runs Erlang.
fn start_script(suite: &'static str) -> Result<String> {
    let lib = tree::tree(suite)?.join("usr/lib/rabbitmq/lib");
    let release = fs::read_dir(&lib)?.next().context("no release in the tree")??;
    let text = fs::read_to_string(release.path().join("sbin/rabbitmq-server"))?;
    let mut note = "printf '%s\\0'".to_owned();
    for name in IN_SHELL {
        write!(note, " \"{name}=$RABBITMQ_{name}\"")?;
    }
    ensure!(text.contains("    exec erl \\\n"), "the start script of {suite} does not run Erlang as expected");
    Ok(text.replace("    exec erl \\\n", &format!("    {note} >/tmp/shell\n    exec erl \\\n")))
}

fn outcomes(text: &str) -> Result<BTreeMap<String, Outcome>> {
    let mut all = BTreeMap::new();
    let mut last = String::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["case", name, state, ..] => {
                last = name.to_owned();
                all.insert(last.clone(), Outcome { state: state.to_owned(), ..Outcome::default() });
            }
            [kind @ ("env" | "shell"), encoded] => {
                let bytes = unbase64(encoded)?;
                let text = String::from_utf8_lossy(&bytes).into_owned();
                let (name, value) = text.split_once('=').unwrap_or((&text, ""));
                let outcome: &mut Outcome = all.get_mut(&last).context("a line before its case")?;
                let map = if kind == "env" { &mut outcome.env } else { &mut outcome.shell };
                map.insert(name.to_owned(), value.to_owned());
            }
            _ => bail!("the judge said: {line}\n{text}"),
        }
    }
    Ok(all)
}

fn unbase64(text: &str) -> Result<Vec<u8>> {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let (mut bytes, mut bits, mut held) = (Vec::new(), 0u32, 0);
    for c in text.bytes().filter(|c| *c != b'=') {
        let digit = DIGITS.iter().position(|d| *d == c).context("not base64")?;
        bits = (bits << 6) | digit as u32;
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held) as u8);
        }
    }
    Ok(bytes)
}

#[derive(Default)]
struct Tally {
    cases: usize,
    started: usize,
    fatal: usize,
    doubted: usize,
    opaque: usize,
    /// Of files that started: variables that they or the unit name, and how many of them are known.
    named: usize,
    known: usize,
    /// The same of real files.
    real_named: usize,
    real_known: usize,
    wrong: Vec<String>,
}

impl Tally {
    fn compare(&mut self, case: &Case, (suite, shell): (&str, &str), real: &Outcome, baseline: &Outcome) {
        let ours = parity::environment(&case.content, shell, suite == "bullseye", &case.unit);
        let started = !["died", "crashed"].contains(&real.state.as_str());
        self.cases += 1;
        self.started += usize::from(started);
        self.fatal += usize::from(ours.fatal);
        self.doubted += usize::from(ours.doubt.is_some());
        self.opaque += usize::from(ours.vars.is_err());
        if case.unreadable {
            return;
        }
        // A node name is only looked at later, when the node is to be reached by it.
        let name = ours.vars.as_ref().ok().and_then(|v| v["NODENAME"].clone().ok()?).is_some_and(|v| v.ends_with('\r'));
        if ours.fatal && !name && real.state == "started" {
            self.wrong(case, "called fatal, but the broker starts");
        }
        if real.state == "refused" && !ours.fatal && ours.vars.as_ref().is_ok_and(|v| v.values().all(Result::is_ok)) {
            self.wrong(case, "the broker refuses a value, and nothing says so");
        }
        // What RABBITMQ_LOG may say is not looked at.
        let odd = ours.vars.as_ref().ok().and_then(|v| v["LOG"].clone().ok()?).is_some_and(|v| v.contains('='));
        if real.state == "crashed" && odd {
            return;
        }
        if !started {
            if !ours.fatal && ours.doubt.is_none() && ours.vars.is_ok() {
                self.wrong(case, &format!("the start {}, and nothing says so", real.state));
            }
            return;
        }
        let Ok(vars) = ours.vars else { return };
        for (name, value) in vars {
            let truth = real.value(name);
            let named = case.names(name);
            let corpus = case.name.starts_with("corpus");
            self.named += usize::from(named);
            self.real_named += usize::from(named && corpus);
            let Ok(value) = value else { continue };
            self.known += usize::from(named);
            self.real_known += usize::from(named && corpus);
            let right = match &value {
                Some(_) => value == truth,
                None => MADE_OF_OTHERS.contains(&name) || truth.is_none() || truth == baseline.value(name),
            };
            if !right {
                self.wrong(case, &format!("{name}: claimed {value:?}, really {truth:?}"));
            }
        }
    }

    fn wrong(&mut self, case: &Case, what: &str) {
        let text = format!("{}: {what}\n{:?} unit {:?}", case.name, String::from_utf8_lossy(&case.content), case.unit);
        self.wrong.push(text);
    }

    fn summary(&self) -> String {
        let share = |part: usize, of: usize| 100.0 * part as f64 / of.max(1) as f64;
        format!(
            "{} files, {} start; {} called fatal, {} doubted, {} ({:.1} %) not read; {} of {} named variables known ({:.1} %), {} of {} in real files; {} wrong",
            self.cases,
            self.started,
            self.fatal,
            self.doubted,
            self.opaque,
            share(self.opaque, self.cases),
            self.known,
            self.named,
            share(self.known, self.named),
            self.real_known,
            self.real_named,
            self.wrong.len()
        )
    }

    fn details(&self) -> String {
        self.wrong.iter().take(40).cloned().collect::<Vec<_>>().join("\n")
    }
}

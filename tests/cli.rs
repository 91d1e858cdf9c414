//! The program from outside: exit codes, first lines, formats; on recorded hosts, without root and without RabbitMQ.

#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "cli/lint.rs"]
mod lint;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What one run left.
#[derive(Debug)]
struct Ran {
    code: i32,
    out: String,
    err: String,
}

impl Ran {
    /// The verdict: the third line of the screen.
    fn verdict(&self) -> &str {
        self.out.lines().nth(2).unwrap_or_default()
    }
    fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out).unwrap()
    }
}

fn program(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rmq-audit"));
    command.args(args).current_dir(env!("CARGO_MANIFEST_DIR")).env_clear().env("LANG", "C.UTF-8").stdin(Stdio::null());
    command
}

fn finish(mut command: Command) -> Ran {
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Ran { code: output.status.code().unwrap(), out: text(output.stdout), err: text(output.stderr) }
}

fn run(args: &[&str]) -> Ran {
    finish(program(args))
}

const BROKEN: &str = "packaging/demo";
const HEALTHY: &str = "tests/hosts/trixie-healthy";
const STOPPED: &str = "tests/hosts/bookworm-stopped";

/// A directory that goes away with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        Scratch(dir)
    }
    fn file(&self, name: &str, text: &str) -> String {
        let path = self.0.join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }
    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn schema(name: &str) -> jsonschema::Validator {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/schema").join(name)).unwrap();
    jsonschema::validator_for(&serde_json::from_str(&text).unwrap()).unwrap()
}

fn conforms(name: &str, document: &serde_json::Value) {
    let wrong: Vec<String> = schema(name).iter_errors(document).map(|e| format!("{e}")).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
}

#[test]
fn the_verdict_and_the_exit_code_of_each_host() {
    let broken = run(&["--capture", BROKEN]);
    assert_eq!(broken.code, 1, "{broken:?}");
    assert!(broken.out.starts_with("mqhost  RabbitMQ 4.0.5 on Debian 13"), "{}", broken.out);
    assert_eq!(broken.verdict(), "✗ Clients cannot connect: a setting that RabbitMQ does not know keeps it from");
    let healthy = run(&["--capture", HEALTHY]);
    assert_eq!((healthy.code, healthy.verdict()), (0, "✓ Clients can connect: 5672 is open to other hosts."));
    let stopped = run(&["--capture", STOPPED]);
    assert_eq!((stopped.code, stopped.verdict()), (1, "✗ Clients cannot connect: RabbitMQ is not running."));
    assert!(stopped.out.contains("not checked while RabbitMQ is down"), "{}", stopped.out);
}

#[test]
fn the_exit_code_follows_the_options() {
    assert_eq!(run(&["--capture", BROKEN, "--exit-zero"]).code, 0);
    assert_eq!(run(&["--capture", HEALTHY, "--fail-on", "note"]).code, 1);
    assert_eq!(run(&["--capture", BROKEN, "--only", "files"]).code, 0);
    assert_eq!(run(&["--capture", BROKEN, "why", "10.77.11.9"]).code, 1);
    assert_eq!(run(&["--capture", HEALTHY, "why", "10.77.11.9"]).code, 0);
}

#[test]
fn four_faults_are_found_root_cause_first() {
    let report = run(&["--capture", BROKEN, "--format", "json"]).json();
    let errors: Vec<&str> = report["findings"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|f| f["root_cause"] == true && f["severity"] == "error")
        .filter_map(|f| f["rule"].as_str())
        .collect();
    assert_eq!(errors, ["conf-unknown-key", "listener-loopback-only", "fw-drops-client", "guest-refused-remotely"]);
    assert_eq!(report["verdict"]["cause"], "conf-unknown-key");
}

#[test]
fn json_follows_the_published_schemas() {
    for host in [BROKEN, HEALTHY, STOPPED] {
        conforms("report-1.json", &run(&["--capture", host, "--format", "json"]).json());
        conforms("report-1.json", &run(&["--capture", host, "--fix", "--dry-run", "--format", "json"]).json());
        conforms("why-1.json", &run(&["--capture", host, "why", "10.77.11.9", "--format", "json"]).json());
    }
    conforms("report-1.json", &run(&["demo", "--format", "json"]).json());
}

#[test]
fn no_row_is_wider_than_80_columns() {
    let mut screens = vec![run(&["demo"]), run(&["explain"]), run(&["demo", "-v"])];
    for host in [BROKEN, HEALTHY, STOPPED] {
        screens.push(run(&["--capture", host]));
        screens.push(run(&["--capture", host, "-v"]));
        screens.push(run(&["--capture", host, "why", "10.77.11.9"]));
        screens.push(run(&["--capture", host, "--fix", "--dry-run"]));
        screens.push(run(&["--capture", host, "lint", "-v"]));
    }
    for rule in run(&["explain", "--format", "json"]).json().as_array().unwrap() {
        screens.push(run(&["explain", rule["name"].as_str().unwrap()]));
    }
    for line in screens.iter().flat_map(|screen| screen.out.lines()) {
        // A word that somebody may copy is never cut: a path, an address of the web.
        let longest = line.split(' ').map(|word| word.chars().count()).max().unwrap_or(0);
        assert!(line.chars().count() <= 80 || longest > 60, "{line}");
    }
}

#[test]
fn the_demo_needs_nothing_and_shows_the_way_out() {
    let demo = run(&["demo"]);
    assert_eq!(demo.code, 0, "{}", demo.err);
    for part in [
        "$ sudo rmq-audit",
        "-heartbeatt = 30",
        "+heartbeat = 30",
        "ufw allow proto tcp from 10.77.11.0/24",
        "Plan: ",
        "$ rmq-audit explain conf-unknown-key",
    ] {
        assert!(demo.out.contains(part), "{part}\n{}", demo.out);
    }
    assert!(!demo.out.contains('\u{1b}'), "colours go to a terminal only");
}

#[test]
fn a_tree_without_rabbitmq_is_not_called_healthy() {
    let tree = Scratch::new("tree");
    let ran = run(&["--root", tree.path()]);
    assert_eq!((ran.code, ran.verdict()), (3, "? There is no RabbitMQ in this file tree."), "{}", ran.out);
}

#[test]
fn wrong_usage_is_told_in_one_line_and_exit_code_2() {
    let says = |args: &[&str], words: &str| {
        let ran = run(args);
        assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{args:?}: {ran:?}");
        assert!(ran.err.contains(words), "{args:?}: {}", ran.err);
        ran
    };
    says(&["--frm", "10.0.0.0/24"], "--frm");
    says(&["--yes"], "--fix");
    says(&["--only", "no-such-rule", "--capture", HEALTHY], "`no-such-rule`");
    says(&["explain", "listener-lopback-only"], "did you mean listener-loopback-only?");
    says(&["--from", "10.0.0.0/33", "--capture", HEALTHY], "10.0.0.0/33");
    says(&["--capture", "/nonexistent"], "/nonexistent");
    says(&["--capture", HEALTHY, "--fix", "--yes"], "--dry-run");
    let scratch = Scratch::new("policy");
    for (name, text, place, words) in [
        ("key.toml", "[[clients]]\nnam = \"x\"\n", ":2:1", "nam"),
        ("reason.toml", "\n[[waiver]]\nrule = \"conf-unknown-key\"\n", ":2:1", "reason"),
        ("rule.toml", "[[waiver]]\nrule = \"no-such-rule\"\nreason = \"r\"\n", ":", "no-such-rule"),
        ("form.toml", "[[clients]\n", ":1:", ""),
    ] {
        let file = scratch.file(name, text);
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        let ran = says(&["--capture", HEALTHY, "--policy", &file], words);
        assert!(ran.err.contains(&format!("{file}{place}")), "{}", ran.err);
        assert_eq!(ran.err.lines().count(), 1, "{}", ran.err);
    }
}

#[test]
fn repair_without_a_terminal_or_root_is_refused() {
    // Harmless on any host: standard input is no terminal, so nothing can be agreed to.
    let ran = run(&["--fix"]);
    assert_eq!((ran.code, ran.out.as_str(), ran.err.lines().count()), (2, "", 1), "{ran:?}");
    assert!(ran.err.contains("sudo rmq-audit --fix") || ran.err.contains("--dry-run"), "{}", ran.err);
}

#[test]
fn init_asks_on_a_terminal_alone() {
    for args in [&["init"][..], &["init", "--no-input"]] {
        let ran = run(args);
        assert_eq!((ran.code, ran.out.as_str(), ran.err.lines().count()), (2, "", 1), "{ran:?}");
        assert!(ran.err.contains("no terminal") && ran.err.contains("/etc/rmq-audit/policy.toml"), "{}", ran.err);
    }
    let replayed = run(&["init", "--capture", HEALTHY]);
    assert!(replayed.code == 2 && replayed.err.contains("no --capture"), "{replayed:?}");
}

#[test]
fn explain_lists_and_explains() {
    let list = run(&["explain"]);
    assert!(list.code == 0 && list.out.contains("listener-loopback-only") && list.out.ends_with("rmq-audit explain RULE\n"));
    let one = run(&["explain", "listener-loopback-only"]);
    assert!(one.code == 0 && one.out.starts_with("listener-loopback-only") && one.out.contains("\nFix "), "{}", one.out);
}

#[test]
fn why_names_the_rule_that_decides_and_the_next_command() {
    let ran = run(&["--capture", BROKEN, "why", "10.77.11.9"]);
    assert!(ran.out.starts_with("10.77.11.9 -> mqhost 10.77.11.2:5672\n"), "{}", ran.out);
    assert!(ran.out.contains("policy DROP"), "{}", ran.out);
    assert!(ran.out.ends_with("Fix:  sudo rmq-audit --fix --from 10.77.11.9\n"), "{}", ran.out);
}

#[test]
fn a_report_file_is_private() {
    let scratch = Scratch::new("out");
    let file = scratch.0.join("report.json");
    let ran = run(&["--capture", BROKEN, "--format", "json", "-o", file.to_str().unwrap()]);
    assert_eq!((ran.code, ran.out.as_str()), (1, ""));
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    conforms("report-1.json", &serde_json::from_slice(&fs::read(&file).unwrap()).unwrap());
}

#[test]
fn colour_is_asked_for_and_refused() {
    let colour = |args: &[&str], name: &str| {
        let mut command = program(args);
        if !name.is_empty() {
            command.env(name, "1");
        }
        finish(command).out.contains('\u{1b}')
    };
    let always = ["--capture", BROKEN, "--color", "always"];
    assert!(colour(&always, "") && colour(&always, "NO_COLOR"), "the option beats the variable");
    assert!(!colour(&["--capture", BROKEN], "NO_COLOR") && !colour(&["--capture", BROKEN], ""));
    assert!(colour(&["--capture", BROKEN], "CLICOLOR_FORCE"));
}

#[test]
fn quiet_says_nothing_about_nothing() {
    let ran = run(&["--capture", HEALTHY, "-q", "--only", "config"]);
    assert_eq!((ran.code, ran.out.as_str()), (0, ""));
}

#[test]
fn completions_and_the_manual_come_from_the_parser() {
    for shell in ["bash", "zsh", "fish"] {
        let ran = run(&["completions", shell]);
        assert!(ran.code == 0 && ran.out.contains("password-file"), "{shell}");
    }
    let man = run(&["man"]);
    assert!(man.code == 0 && man.out.contains(".TH") && man.out.contains("dry"), "{}", man.out);
}

//! `lint`: files of every kind, good and bad, judged for the RabbitMQ 4.0.5 of the packed capture.

use super::{BROKEN, HEALTHY, Ran, Scratch, conforms, finish, program, run};
use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// Lints for the packed host; no check may take long, however bad its input.
fn lint(args: &[&str]) -> Ran {
    let clock = Instant::now();
    let ran = run(&[&["lint", "--capture", BROKEN], args].concat());
    assert!(clock.elapsed() < Duration::from_secs(10), "{args:?}: {:?}", clock.elapsed());
    ran
}

impl Scratch {
    /// A file below the directory, and the directories on the way.
    fn put(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    }
    fn at(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }
}

/// `file:line:column code` of every problem, `!` for the fatal ones.
fn problems(document: &serde_json::Value, dir: &str) -> Vec<String> {
    let all = document["problems"].as_array().unwrap();
    let one = |p: &serde_json::Value| {
        let file = p["file"].as_str().unwrap().trim_start_matches(dir).trim_start_matches('/');
        let fatal = if p["fatal"] == true { "!" } else { "" };
        format!("{file}:{}:{} {}{fatal}", p["line"], p["column"], p["code"].as_str().unwrap())
    };
    all.iter().map(one).collect()
}

fn json(args: &[&str]) -> serde_json::Value {
    let document = lint(&[args, &["--format", "json"]].concat()).json();
    conforms("lint-1.json", &document);
    document
}

#[test]
fn a_directory_is_judged_as_etc_rabbitmq() {
    let scratch = Scratch::new("lint-dir");
    let dir = scratch.path();
    scratch.put("rabbitmq.conf", "heartbeatt = 30\ndefault_pass = hunter2#x\nchannel_max = 10\n");
    scratch.put("conf.d/10-a.conf", "channel_max = 20\nheartbeat = 60s\n");
    scratch.put("advanced.config", "[{rabbit, [{x, 1}]\n");
    scratch.put("rabbitmq-env.conf", "NODE_PORT = 5677\n");
    scratch.put("enabled_plugins", "[rabbitmq_managment].\n");
    let document = json(&[dir]);
    assert_eq!((&document["boots"], &document["rabbitmq"]), (&false.into(), &"4.0.5".into()));
    assert_eq!(
        problems(&document, dir),
        [
            "rabbitmq-env.conf:1:1 blanks-around-equals!",
            "rabbitmq.conf:1:1 unknown-key!",
            "rabbitmq.conf:2:23 value-cut-by-hash",
            "conf.d/10-a.conf:2:13 bad-value!",
            "advanced.config:2:1 advanced-syntax!",
            "enabled_plugins:1:2 unknown-plugin",
        ]
    );
    let settings = document["settings"].as_array().unwrap();
    let channels = settings.iter().find(|s| s["key"] == "channel_max").unwrap();
    assert_eq!((&channels["value"], &channels["line"]), (&"20".into(), &1.into()));
    assert!(channels["overrides"][0].as_str().unwrap().ends_with("rabbitmq.conf:3"), "{channels}");
    let all = document.to_string() + &lint(&[dir, "-v"]).out;
    assert!(!all.contains("hunter2"), "{all}");
}

#[test]
fn the_screen_shows_the_place_and_ends_with_the_verdict() {
    let scratch = Scratch::new("lint-screen");
    let file = scratch.put("rabbitmq.conf", "heartbeatt = 30\n# \u{1b}[2J\nchannel_max = \u{1b}[2J\n");
    let bad = lint(&[&file]);
    assert_eq!(bad.code, 1, "{bad:?}");
    assert!(bad.out.contains(&format!("✗ {file}:1:1\n    heartbeatt = 30\n    ^^^^^^^^^^")), "{}", bad.out);
    assert!(bad.out.contains("did you\n    mean heartbeat?") && bad.out.contains("unknown-key · stops the boot"), "{}", bad.out);
    assert_eq!(bad.out.lines().last(), Some("✗ RabbitMQ 4.0.5 does not boot with this file: 2 errors."));
    assert!(!bad.out.contains('\u{1b}'), "bytes of a file reach the terminal");
    assert!(lint(&[&file, "--color", "always"]).out.contains("\u{1b}[1m"));
    let good = scratch.put("good/rabbitmq.conf", "heartbeat = 30\n");
    let ran = lint(&[&good]);
    assert_eq!((ran.code, ran.out.as_str()), (0, "✓ RabbitMQ 4.0.5 boots with this file.\n"));
    assert_eq!(lint(&[&good, "-q"]).out, "");
    let out = scratch.at("report");
    assert_eq!(lint(&[&good, "-o", &out]).out, "");
    assert_eq!(fs::read_to_string(&out).unwrap(), ran.out);
}

#[test]
fn the_exit_code_follows_the_options() {
    let scratch = Scratch::new("lint-code");
    let note = scratch.put("a/rabbitmq.conf", "heartbeat = 30\nheartbeat = 31\n");
    let warning = scratch.put("b/rabbitmq.conf", "default_user = \"x\"\n");
    let error = scratch.put("c/rabbitmq.conf", "heartbeat = x\n");
    let codes = |file: &str, args: &[&str]| lint(&[&[file], args].concat()).code;
    for (file, of_error, of_warning, of_note) in [(&note, 0, 0, 1), (&warning, 0, 1, 1), (&error, 1, 1, 1)] {
        assert_eq!(codes(file, &[]), of_error, "{file}");
        assert_eq!(codes(file, &["--fail-on", "warning"]), of_warning, "{file}");
        assert_eq!(codes(file, &["--fail-on", "note"]), of_note, "{file}");
        assert_eq!(codes(file, &["--fail-on", "note", "--exit-zero"]), 0, "{file}");
    }
}

#[test]
fn named_files_are_judged_without_their_neighbours() {
    let scratch = Scratch::new("lint-named");
    let main = scratch.put("rabbitmq.conf", "heartbeat = 30\ninclude more.inc\nmanagement.tcp.port = 15672\n");
    scratch.put("more.inc", "channel_max = x\n");
    scratch.put("conf.d/10-a.conf", "no_such_key = 1\n");
    scratch.put("advanced.config", "[");
    scratch.put("enabled_plugins", "[");
    let dir = scratch.path();
    // What a file includes belongs to it.
    assert_eq!(problems(&json(&[&main]), dir), ["more.inc:1:15 bad-value!"]);
    let part = scratch.at("conf.d/10-a.conf");
    assert_eq!(problems(&json(&[&part]), dir), ["conf.d/10-a.conf:1:1 unknown-key!"]);
    assert_eq!(problems(&json(&[&scratch.at("conf.d")]), dir), ["conf.d/10-a.conf:1:1 unknown-key!"]);
    let both = json(&[&main, &part, &scratch.at("enabled_plugins")]);
    assert_eq!(both["configurations"].as_array().unwrap().len(), 1);
    assert_eq!(problems(&both, dir).len(), 3, "{both:#}");
    let stage = scratch.put("stage/rabbitmq.conf", "heartbeat = 30\n");
    let two = json(&[&main, &stage]);
    assert_eq!((&two["boots"], two["configurations"].as_array().unwrap().len()), (&false.into(), 2));
    // As a hook that gets the names of changed files calls it.
    let mut hook =
        program(&["lint", "--capture", &format!("{}/{BROKEN}", env!("CARGO_MANIFEST_DIR")), "more.inc", "rabbitmq.conf"]);
    hook.current_dir(dir);
    let both = finish(hook);
    assert_eq!(
        (both.code, both.out.matches("more.inc:1:15").count()),
        (1, 1),
        "a file that another one includes is wrong once: {both:?}"
    );
    let mut hook = program(&["lint", "--capture", &format!("{}/{BROKEN}", env!("CARGO_MANIFEST_DIR")), "./conf.d/10-a.conf"]);
    hook.current_dir(dir);
    assert!(finish(hook).out.starts_with("✗ ./conf.d/10-a.conf:1:1\n"));
}

#[test]
fn standard_input_is_a_rabbitmq_conf() {
    let mut command = program(&["lint", "--capture", BROKEN, "-"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"heartbeatt = 30\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.stdout.starts_with("✗ -:1:1\n".as_bytes()), "{output:?}");
}

#[test]
fn the_host_s_own_files_are_the_default() {
    let broken = lint(&[]);
    assert!(broken.code == 1 && broken.out.starts_with("✗ /etc/rabbitmq/rabbitmq.conf:2:1\n"), "{}", broken.out);
    let healthy = run(&["lint", "--capture", HEALTHY]);
    assert_eq!((healthy.code, healthy.out.lines().last().unwrap_or_default().starts_with('✓')), (0, true), "{healthy:?}");
    conforms("lint-1.json", &run(&["lint", "--capture", HEALTHY, "--format", "json"]).json());
}

#[test]
fn without_an_installation_the_version_must_be_named() {
    let tree = Scratch::new("lint-tree");
    tree.put("cases/1/rabbitmq.conf", "heartbeat = 30\n");
    let ran = run(&["lint", "--root", tree.path(), "/cases/1"]);
    assert_eq!((ran.code, ran.out.as_str()), (2, ""));
    assert!(ran.err.contains("--rabbitmq VERSION"), "{}", ran.err);
    assert_eq!(run(&["--rabbitmq", "4.1"]).code, 2, "it is for lint alone");
}

/// One line on standard error and exit code 2.
fn refused(argument: &str, words: &str) {
    let ran = lint(&[argument]);
    assert_eq!((ran.code, ran.out.as_str(), ran.err.lines().count()), (2, "", 1), "{ran:?}");
    assert!(ran.err.contains(words) && ran.err.contains(argument), "{}", ran.err);
}

/// One thing that could not be checked, and exit code 3.
fn not_checked(argument: &str, words: &str) {
    let document = json(&[argument]);
    assert_eq!(
        (&document["boots"], document["problems"].as_array().unwrap().len()),
        (&serde_json::Value::Null, 0),
        "{document:#}"
    );
    let unknown = document["unknown"].as_array().unwrap();
    assert!(unknown.len() == 1 && unknown[0].as_str().unwrap().contains(words), "{document:#}");
    assert_eq!(lint(&[argument]).code, 3);
}

/// One fatal problem.
fn fatal(argument: &str, code: &str) {
    let document = json(&[argument]);
    let problems = document["problems"].as_array().unwrap();
    assert!(problems.len() == 1 && problems[0]["fatal"] == true && problems[0]["code"] == code, "{document:#}");
}

#[test]
fn paths_that_are_no_configuration_are_refused_in_one_line() {
    let scratch = Scratch::new("lint-paths");
    refused(&scratch.at("none.conf"), "no such file or directory");
    fs::create_dir(scratch.at("rabbitmq.conf")).unwrap();
    refused(&scratch.at("rabbitmq.conf"), "a directory, but its name is that of a file");
    let fifo = scratch.at("fifo.conf");
    nix::unistd::mkfifo(fifo.as_str(), nix::sys::stat::Mode::S_IRWXU).unwrap();
    refused(&fifo, "neither a regular file nor a directory");
    refused("/dev/zero", "neither a regular file nor a directory");
    let in_a_directory = json(&[scratch.path()]);
    assert_eq!(problems(&in_a_directory, scratch.path()), ["rabbitmq.conf:null:null ignored-file"]);
}

#[test]
fn files_that_are_too_much_are_not_read() {
    let scratch = Scratch::new("lint-big");
    let big = scratch.at("rabbitmq.conf");
    fs::File::create(&big).unwrap().set_len(100 * 1024 * 1024).unwrap();
    not_checked(&big, "over the limit");
    for number in 0..10_000 {
        scratch.put(&format!("many/conf.d/{number:05}.conf"), "heartbeat = 1\n");
    }
    not_checked(&scratch.at("many"), "over the limit of 1000");
    // Each file includes the next one fifty times.
    for number in 0..9 {
        scratch.put(&format!("fan/{number}.conf"), format!("include {}.conf\n", number + 1).repeat(50));
    }
    scratch.put("fan/9.conf", "heartbeat = 1\n");
    not_checked(&scratch.at("fan/0.conf"), "over the limit of 1000");
    let keys: String = (0..20_000).map(|n| format!("listeners.tcp.{n} = 5672\n")).collect();
    not_checked(&scratch.put("keys.conf", keys), "over the limit of 5000");
    not_checked(&scratch.put("names/enabled_plugins", format!("[a{}].", ",b".repeat(100_000))), "over the limit");
    not_checked(&scratch.put("env/rabbitmq-env.conf", "{ ".repeat(100_000)), "over the limit");
    // What is wrong in every line is told a hundred times.
    let garbage = json(&[&scratch.put("garbage.conf", "x y z\n".repeat(100_000))]);
    assert_eq!(garbage["counts"]["error"], 100);
}

#[test]
fn binary_data_and_circles_stop_the_boot() {
    let scratch = Scratch::new("lint-binary");
    let bytes: Vec<u8> = (0..200_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    fatal(&scratch.put("binary.conf", bytes), "encoding");
    fatal(&scratch.put("self.conf", "heartbeat = 1\ninclude ./self.conf\n"), "include-loop");
    scratch.put("circle/conf.d/b.conf", "include ../rabbitmq.con*\n");
    scratch.put("circle/rabbitmq.conf", "include conf.d/*.conf\n");
    let circle = json(&[&scratch.at("circle/rabbitmq.conf")]);
    assert_eq!(problems(&circle, scratch.path()), ["circle/conf.d/b.conf:1:1 include-loop!"]);
}

#[test]
fn a_link_to_shadow_is_never_quoted() {
    let scratch = Scratch::new("lint-shadow");
    let host_users = fs::read_to_string("/etc/shadow").unwrap_or_default();
    let lines: Vec<&str> = host_users.lines().filter(|l| l.len() > 8).collect();
    symlink("/etc/shadow", scratch.at("rabbitmq.conf")).unwrap();
    symlink("/etc", scratch.at("etc")).unwrap();
    scratch.put("include/rabbitmq.conf", "include /etc/shadow\ninclude ../etc/shadow\n");
    scratch.put("value/rabbitmq.conf", "heartbeat = $(</etc/shadow)\nchannel_max = $(<../etc/shadow)\n");
    let arguments = ["", "rabbitmq.conf", "include", "include/rabbitmq.conf", "value", "value/rabbitmq.conf"];
    for argument in arguments {
        let ran = lint(&[&scratch.at(argument), "-v"]);
        assert!(!lines.iter().any(|line| ran.out.contains(line) || ran.err.contains(line)), "{argument}");
        assert!(!ran.out.contains("root:") && ran.code != 0, "{argument}: {ran:?}");
    }
}

#[test]
fn the_permission_that_is_missing_is_named() {
    // Not below the build's directory: another user must be able to come near it.
    let dir = std::env::temp_dir().join(format!("rmq-audit-lint-{}", std::process::id()));
    let scratch = Scratch(dir);
    let secret = scratch.put("closed/rabbitmq.conf", "heartbeat = 1\n");
    let file = scratch.put("rabbitmq.conf", "heartbeat = 1\n");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o200)).unwrap();
    fs::set_permissions(scratch.at("closed"), fs::Permissions::from_mode(0o700)).unwrap();
    let root = nix::unistd::Uid::effective().is_root();
    if !root {
        fs::set_permissions(scratch.at("closed"), fs::Permissions::from_mode(0o600)).unwrap();
    }
    let says = |argument: &str, words: &str| {
        let mut command = program(&["lint", "--capture", BROKEN, argument]);
        if root {
            command.uid(65534).gid(65534);
        }
        // Where another user cannot run the program at all there is nothing to see.
        let Ok(output) = command.output() else { return };
        let out = String::from_utf8_lossy(&output.stdout).replace("\n  ", " ");
        if out.is_empty() {
            return;
        }
        assert!(out.contains(words) && output.status.code() == Some(3), "{out}\n{}", String::from_utf8_lossy(&output.stderr));
    };
    says(&file, &format!("needs read permission on {file}: mode 0200"));
    says(&secret, &format!("needs search permission on {}", scratch.at("closed")));
    fs::set_permissions(scratch.at("closed"), fs::Permissions::from_mode(0o700)).unwrap();
}

/// The directory whose screen the README shows.
fn deploy(scratch: &Scratch) {
    let conf = "listeners.tcp.default = 5672\nheartbeatt = 30\ndefault_user = orders\ndefault_pass = s3cret#2026\n";
    scratch.put("deploy/rabbitmq.conf", conf);
    scratch.put("deploy/enabled_plugins", "[rabbitmq_management,rabbitmq_promethus].\n");
}

#[test]
fn the_screen_in_the_readme_is_the_program_s() {
    let scratch = Scratch::new("lint-readme");
    deploy(&scratch);
    let mut command = program(&["lint", "--rabbitmq", "4.1", "deploy/"]);
    let ran = finish({
        command.current_dir(scratch.path());
        command
    });
    let readme = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    assert!(ran.code == 1 && readme.contains(&format!("$ rmq-audit lint --rabbitmq 4.1 deploy/\n{}```", ran.out)), "{}", ran.out);
}

#[test]
fn a_packed_release_needs_no_installation() {
    let tree = Scratch::new("lint-packed");
    let lint = |args: &[&str]| run(&[&["lint", "--root", tree.path()], args].concat());
    tree.put("cases/1/rabbitmq.conf", "heartbeat = 30\nlisteners.tcp.1 = 10.9.8.7:5672\n");
    tree.put("cases/1/enabled_plugins", "[rabbitmq_management].\n");
    for version in ["3.8", "3.9", "3.10", "3.11", "3.12", "3.13", "4.0", "4.1", "4.2", "4.3", "4.0.5"] {
        let ran = lint(&["--rabbitmq", version, "/cases/1"]);
        assert!(ran.code == 0 && ran.out.starts_with(&format!("✓ RabbitMQ {version}")), "{version}: {ran:?}");
    }
    // A key that goes away, a key that comes.
    tree.put("cases/2/rabbitmq.conf", "queue_master_locator = min-masters\n");
    tree.put("cases/3/rabbitmq.conf", "default_queue_type = quorum\n");
    for (case, version, code) in [("2", "3.13", 0), ("3", "3.11", 1), ("3", "4.0", 0)] {
        assert_eq!(lint(&["--rabbitmq", version, &format!("/cases/{case}")]).code, code, "{case} {version}");
    }
    tree.put("cases/4/rabbitmq.conf", "ssl_options.certfile = /etc/rabbitmq/server.pem\n");
    let ran = lint(&["--rabbitmq", "4.1", "/cases/4"]);
    assert!(ran.code == 0 && ran.out.contains("the broker's user must be able to use"), "{ran:?}");
    let document = lint(&["--rabbitmq", "4.1", "/cases/4", "--format", "json"]).json();
    conforms("lint-1.json", &document);
    assert_eq!((&document["boots"], document["unknown"].as_array().unwrap().len()), (&serde_json::Value::Null, 1));
    let unknown = lint(&["--rabbitmq", "2.8", "/cases/1"]);
    assert!(unknown.code == 2 && unknown.err.contains("3.8.9 to"), "{unknown:?}");
}

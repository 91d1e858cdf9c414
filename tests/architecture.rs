//! The dependency direction of the modules, and what is allowed to touch the machine.
//!
//! A module may use only what stands behind it here. The table is the architecture: to change it is a decision, not a fix.

#![allow(clippy::unwrap_used, reason = "a file of the source tree that cannot be read is a failed test")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// module → modules of ours that it may use.
const MAY_USE: &[(&str, &[&str])] = &[
    ("formats", &[]),
    ("host", &["formats"]),
    ("policy", &["formats", "host"]),
    ("facts", &["formats", "host", "policy"]),
    ("rules", &["facts"]),
    ("findings", &["facts", "policy", "rules"]),
    ("path", &["facts", "findings", "formats", "rules"]),
    ("report", &["facts", "findings", "path", "rules"]),
    ("audit", &["facts", "findings", "host", "path", "policy", "report", "rules"]),
    ("init", &["facts", "formats", "host", "policy"]),
    ("lint", &["facts", "formats", "host", "rules"]),
    ("fix", &["facts", "findings", "formats", "host", "policy", "report", "rules"]),
    ("watch", &["facts", "formats", "host"]),
    ("render", &["facts", "findings", "fix", "lint", "path", "report", "rules", "watch"]),
    ("cli", &["policy", "rules"]),
];

/// The standard library's doors to the machine; only host/ goes through them.
const DOORS: &[&str] = &["std::fs", "std::process::Command", "std::env::var", "std::net::TcpStream", "std::net::TcpListener"];

#[test]
fn modules_use_only_what_stands_behind_them() {
    let table: BTreeMap<&str, &[&str]> = MAY_USE.iter().copied().collect();
    let mut wrong = Vec::new();
    for (file, text) in sources() {
        let module = module_of(&file);
        let Some(allowed) = table.get(module.as_str()) else { continue };
        for used in used_modules(&text) {
            if used != module && !allowed.contains(&used.as_str()) {
                wrong.push(format!("{} uses crate::{used}", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "wrong arrows:\n{}", wrong.join("\n"));
}

#[test]
fn every_module_has_its_place() {
    let top = ["lib", "main"];
    for (file, _) in sources() {
        let module = module_of(&file);
        let known =
            MAY_USE.iter().any(|(m, _)| *m == module) || top.contains(&module.as_str()) || TOP_LEVEL.contains(&module.as_str());
        assert!(known, "{} belongs to no module of the table", file.display());
    }
}

/// Modules that tie the others together: verbs of the command line, and what tests see of the library. They may use everything.
const TOP_LEVEL: &[&str] = &["verbs", "ask", "parity", "fuzzing", "packing"];

#[test]
fn only_the_host_door_touches_the_machine() {
    let mut wrong = Vec::new();
    for (file, text) in sources() {
        if module_of(&file) == "host" {
            continue;
        }
        for (number, line) in without_tests(&text).lines().enumerate() {
            let code = line.split("//").next().unwrap_or("");
            wrong.extend(DOORS.iter().filter(|d| code.contains(**d)).map(|d| format!("{}:{}: {d}", file.display(), number + 1)));
        }
    }
    assert!(wrong.is_empty(), "outside src/host:\n{}", wrong.join("\n"));
}

/// Files that are compiled for tests only: these may look at everything.
fn is_test_code(file: &Path) -> bool {
    let name = file.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    name == "tests.rs" || name == "fake.rs" || name.ends_with("_test.rs") || name.ends_with("_tests.rs")
}

/// Test modules stand at the end of a file.
fn without_tests(text: &str) -> &str {
    text.find("#[cfg(test)]\nmod tests").map_or(text, |end| &text[..end])
}

fn sources() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    walk(Path::new("src"), &mut found);
    found.retain(|file| !is_test_code(file));
    found.into_iter().map(|f| (f.clone(), fs::read_to_string(&f).unwrap())).collect()
}

fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => walk(&path, found),
            false if path.extension().is_some_and(|e| e == "rs") => found.push(path),
            false => {}
        }
    }
}

/// `src/facts/log.rs` → `facts`, `src/path.rs` → `path`
fn module_of(file: &Path) -> String {
    let first = file.components().nth(1).unwrap().as_os_str().to_string_lossy().into_owned();
    first.trim_end_matches(".rs").to_owned()
}

/// Names after `crate::`, also inside `use crate::{a, b::c}`.
fn used_modules(text: &str) -> Vec<String> {
    let mut used = Vec::new();
    for (at, _) in text.match_indices("crate::") {
        let rest = &text[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            Some(list) => used.extend(top_level_names(list)),
            None => used.push(name(rest)),
        }
    }
    used
}

fn top_level_names(list: &str) -> Vec<String> {
    let (mut depth, mut names, mut start) = (1, Vec::new(), true);
    for (at, c) in list.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 1 => start = true,
            c if depth == 1 && start && c.is_alphabetic() => {
                names.push(name(&list[at..]));
                start = false;
            }
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    names
}

fn name(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

//! What the documents say exists.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a document that cannot be read is a failed test")]

use std::fs;
use std::path::Path;

const DOCUMENTS: &[&str] = &["README.md", "CHANGELOG.md", "rules/README.md"];

fn read(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).expect(name)
}

/// Words in backquotes and in code blocks that look like a path of this repository.
fn paths(text: &str) -> Vec<String> {
    let ours = ["src/", "rules/", "tests/", "packaging/"];
    let words = text.split(|c: char| c.is_whitespace() || "`,;()\"'".contains(c));
    let paths = words.filter(|word| ours.iter().any(|dir| word.starts_with(dir)));
    paths.map(|word| word.trim_end_matches(['.', ':']).to_owned()).filter(|word| !word.contains(['<', '*', '…'])).collect()
}

#[test]
fn every_path_in_the_documents_exists() {
    let mut seen = 0;
    for document in DOCUMENTS {
        for path in paths(&read(document)) {
            seen += 1;
            let there = Path::new(env!("CARGO_MANIFEST_DIR")).join(&path).exists();
            assert!(there, "{document} names {path}, which does not exist");
        }
    }
    assert!(seen > 15, "only {seen} paths were recognised");
}

#[test]
fn the_screen_in_the_readme_is_the_program_s() {
    let readme = read("README.md");
    let shown = readme.split("```text\n").nth(1).and_then(|rest| rest.split("```").next()).expect("a first screen");
    let demo = std::process::Command::new(env!("CARGO_BIN_EXE_rmq-audit"))
        .args(["demo"])
        .env_clear()
        .env("LANG", "C.UTF-8")
        .output()
        .expect("the program runs");
    let demo = String::from_utf8(demo.stdout).expect("UTF-8");
    // The first line ends with how long it took.
    let lines = |text: &str| -> Vec<String> {
        text.lines().filter(|l| !l.starts_with("mqhost ") && !l.starts_with('$')).map(str::to_owned).collect()
    };
    let demo = lines(&demo);
    for line in lines(shown) {
        assert!(demo.contains(&line), "the README shows a line that the demo does not print:\n{line}");
    }
}

//! Makes the table of RabbitMQ's releases (src/formats/schema/releases.txt) from schema files; see `tests/schemas/pack`.
//!
//! Without arguments it only says how it is used: the table is checked by unit tests, against an installation that a capture holds.

#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, ensure};
use rmq_audit::packing::{self, Source};

const TABLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/formats/schema/releases.txt");

/// Plugins and schemas moved into one repository with this release.
const FIRST_TAG: [u32; 3] = [3, 8, 10];

/// Where releases say which cuttlefish they are built with, the newest ones first.
const MAKEFILES: [&str; 4] = [
    "rabbitmq-components.mk",
    "deps/rabbitmq_prelaunch/Makefile",
    "deps/rabbit/apps/rabbitmq_prelaunch/Makefile",
    "deps/rabbit/Makefile",
];

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    // A filter that `cargo test` hands to every test program is no order.
    let [order, git, trees @ ..] = args.as_slice() else { return usage() };
    if order != "pack" {
        return usage();
    }
    match pack(Path::new(git), trees) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn usage() -> ExitCode {
    println!("usage: tests/schemas/pack GIT_DIR [TREE...]\n\ntest result: ok. 0 passed; 0 failed; 0 ignored;");
    ExitCode::SUCCESS
}

/// All tagged releases of the repository, and those installed in file trees (these win: they are what runs).
fn pack(git: &Path, trees: &[String]) -> Result<()> {
    let mut sources: BTreeMap<[u32; 3], Source> = BTreeMap::new();
    for tag in tags(git)? {
        sources.insert(numbers(&tag).context("a tag")?, tagged(git, &tag).with_context(|| tag)?);
    }
    let installed: Vec<Source> =
        trees.iter().map(|tree| packing::installed(Path::new(tree)).with_context(|| tree.clone())).collect::<Result<_>>()?;
    for (tag, source) in &mut sources {
        complete(git, *tag, source, &installed)?;
    }
    for source in installed {
        sources.insert(numbers(&source.version).context("an installed version")?, source);
    }
    let count = sources.len();
    let (table, unread) = packing::pack(sources.into_values().collect())?;
    for what in &unread {
        eprintln!("not understood: {what}");
    }
    std::fs::write(TABLE, &table)?;
    println!("{count} releases, {} facts, {} KiB", table.lines().count() - 1, table.len() / 1024);
    ensure!(unread.is_empty(), "{} things were not understood", unread.len());
    Ok(())
}

/// Adds the schemas of applications that RabbitMQ ships but that are kept elsewhere (cuttlefish's own, sysmon_handler's): they are taken from
/// the installation with the newest version of the application that is not newer than the one that the release is built with.
fn complete(git: &Path, tag: [u32; 3], source: &mut Source, installed: &[Source]) -> Result<()> {
    let tag = format!("v{}.{}.{}", tag[0], tag[1], tag[2]);
    let makefiles = makefiles(git, &tag);
    let theirs: BTreeSet<&String> =
        installed.iter().flat_map(|i| i.files.iter().map(|(app, ..)| app)).filter(|app| !app.starts_with("rabbit")).collect();
    for app in theirs {
        let Some(built_with) = dependency(&makefiles, app).and_then(numbers) else { continue };
        let version = |i: &Source| i.apps.iter().find(|(name, _)| name == app).and_then(|(_, version)| numbers(version));
        let best = installed.iter().filter(|i| version(i).is_some_and(|v| v <= built_with)).max_by_key(|i| version(i));
        let files = best.map(|i| i.files.iter().filter(|(name, ..)| name == app).cloned());
        source.files.extend(files.into_iter().flatten());
    }
    source.files.sort();
    Ok(())
}

fn makefiles(git: &Path, tag: &str) -> Vec<String> {
    MAKEFILES.iter().filter_map(|path| text(git, &["show", &format!("{tag}:{path}")]).ok()).collect()
}

/// The version in `dep_NAME = hex 1.2.3`.
fn dependency<'a>(makefiles: &'a [String], name: &str) -> Option<&'a str> {
    let lines = makefiles.iter().flat_map(|makefile| makefile.lines());
    let (_, rest) = lines.filter_map(|line| line.split_once('=')).find(|(left, _)| left.trim() == format!("dep_{name}"))?;
    rest.split_whitespace().last()
}

fn numbers(version: &str) -> Option<[u32; 3]> {
    let parts: Option<Vec<u32>> = version.trim_start_matches('v').split('.').map(|p| p.parse().ok()).collect();
    parts?.try_into().ok()
}

fn tags(git: &Path) -> Result<Vec<String>> {
    let all = text(git, &["tag"])?;
    Ok(all.lines().filter(|t| t.starts_with('v') && numbers(t).is_some_and(|n| n >= FIRST_TAG)).map(str::to_owned).collect())
}

fn tagged(git: &Path, tag: &str) -> Result<Source> {
    let makefiles = makefiles(git, tag);
    let [major, minor, _] = dependency(&makefiles, "cuttlefish").and_then(numbers).context("no version of cuttlefish")?;
    let plugins = text(git, &["show", &format!("{tag}:plugins.mk")])?;
    let plugins = plugins.split_whitespace().filter(|w| w.starts_with("rabbitmq_")).map(str::to_owned).collect();
    let names = text(git, &["ls-tree", "-r", "--name-only", tag, "deps"])?;
    let mut files = Vec::new();
    for path in names.lines() {
        let Some((app, name)) = path.strip_prefix("deps/").and_then(|p| p.split_once("/priv/schema/")) else { continue };
        if !app.contains('/') && !name.contains('/') {
            files.push((app.to_owned(), name.to_owned(), path.to_owned()));
        }
    }
    let texts = contents(git, files.iter().map(|(_, _, path)| format!("{tag}:{path}")))?;
    let files = files.into_iter().zip(texts).map(|((app, name, _), text)| (app, name, text)).collect();
    Ok(Source { version: tag.trim_start_matches('v').to_owned(), cuttlefish: (major, minor), plugins, files, apps: Vec::new() })
}

fn text(git: &Path, args: &[&str]) -> Result<String> {
    let out = Command::new("git").arg("-C").arg(git).args(args).output()?;
    ensure!(out.status.success(), "git {}: {}", args.join(" "), String::from_utf8_lossy(&out.stderr));
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// The contents of many objects with one git: per object a line `NAME blob SIZE`, then so many bytes and a line end.
fn contents(git: &Path, objects: impl Iterator<Item = String>) -> Result<Vec<String>> {
    let mut child = Command::new("git")
        .arg("-C")
        .arg(git)
        .args(["cat-file", "--batch"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let names: String = objects.map(|o| format!("{o}\n")).collect();
    child.stdin.take().context("stdin")?.write_all(names.as_bytes())?;
    let out = child.wait_with_output()?.stdout;
    let (mut rest, mut texts) = (out.as_slice(), Vec::new());
    while let Some(end) = rest.iter().position(|b| *b == b'\n') {
        let size: usize = String::from_utf8_lossy(&rest[..end]).split(' ').nth(2).context("no such object")?.parse()?;
        let body = rest.get(end + 1..end + 1 + size).context("cut off")?;
        texts.push(String::from_utf8_lossy(body).into_owned());
        rest = rest.get(end + 2 + size..).unwrap_or_default();
    }
    Ok(texts)
}

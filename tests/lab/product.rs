//! The binary under test: static, so that one build runs on every suite.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Result, anyhow};

use crate::exec::run;
use crate::tree;

/// Where it lies inside a host.
pub const IN_HOST: &str = "/usr/local/bin/rmq-audit";

/// How it is optimised, by the names of Cargo.toml.
#[derive(Clone, Copy)]
pub enum Profile {
    /// Built in a third of the time; for everything but measuring.
    Lab,
    /// What users get.
    Release,
}

impl Profile {
    fn name(self) -> &'static str {
        match self {
            Profile::Lab => "lab",
            Profile::Release => "release",
        }
    }
}

/// The product: `RMQ_AUDIT_BIN`, or built once per process.
pub fn binary() -> Result<PathBuf> {
    static BUILT: Mutex<Option<Result<PathBuf, String>>> = Mutex::new(None);
    let mut built = BUILT.lock().map_err(|_| anyhow!("building the product panicked"))?;
    let result = built.get_or_insert_with(|| build(Profile::Lab).map_err(|error| format!("{error:#}")));
    result.clone().map_err(|error| anyhow!("building the product: {error}"))
}

/// Builds in the lab's cache, where a new checkout finds the libraries of an earlier one compiled, and takes a copy from there.
pub fn build(profile: Profile) -> Result<PathBuf> {
    if let Some(given) = std::env::var_os("RMQ_AUDIT_BIN") {
        return Ok(given.into());
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let cached = tree::cache().join("target");
    let own = root.join("target/static").join(profile.name());
    // Until the copy is taken: a build of another checkout would replace the program.
    let _lock = tree::lock("product")?;
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--quiet", "--locked", "--bin", "rmq-audit", "--profile", profile.name(), "--target", &triple]);
    cargo.arg("--target-dir").arg(&cached).current_dir(root).env("RUSTFLAGS", "-C target-feature=+crt-static");
    run(&mut cargo, b"", Duration::from_secs(1800))?.ok()?;
    fs::create_dir_all(&own)?;
    let (part, program) = (own.join("part"), own.join("rmq-audit"));
    fs::copy(cached.join(&triple).join(profile.name()).join("rmq-audit"), &part)?;
    fs::rename(part, &program)?;
    Ok(program)
}

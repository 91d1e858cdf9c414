//! `lint`: configuration files before a restart, before a deployment, before a commit.

use super::{Done, FINDINGS, INCOMPLETE, OK, deliver, detail, open_host, term};
use crate::cli::{Format, Global};
use crate::formats::schema::packed;
use crate::host::{Host, MAX_FILE, live::Live, terminal};
use crate::lint::{self, Lint, Request};
use crate::render;
use anyhow::anyhow;
use std::path::{Path, PathBuf};

/// Checks the files that are named, or those of the host.
pub fn lint(global: &Global, arguments: &[PathBuf]) -> anyhow::Result<Done> {
    let host = open_host(global)?;
    let live = Live::new(global.time_limit());
    // Files that are named beside a capture are the user's own: a capture holds none but the recorded ones.
    let here: &dyn Host = if global.capture.is_some() && !arguments.is_empty() { &live } else { host.as_ref() };
    let from_stdin = arguments.iter().any(|a| a == Path::new("-"));
    let request = Request {
        host: host.as_ref(),
        here,
        arguments,
        // A file tree has no directory that this program is in.
        cwd: if global.root.is_some() { "/".into() } else { terminal::current_dir().map_err(|miss| anyhow!("{miss}"))? },
        stdin: from_stdin.then(|| terminal::input(MAX_FILE)).transpose().map_err(|miss| anyhow!("{miss}"))?,
        packed: global.rabbitmq.as_deref().map(packed::find).transpose()?.map(Into::into),
    };
    let lint = lint::check(request)?;
    let text = match global.format {
        Format::Json => render::json(&lint)?,
        Format::Text => render::lint::render(&lint, &term(global), detail(global)),
    };
    Ok(Done { text: deliver(global, text)?, code: code(global, &lint) })
}

fn code(global: &Global, lint: &Lint) -> u8 {
    match lint.problems.iter().any(|p| global.fail_on.includes(p.severity)) {
        _ if global.exit_zero => OK,
        true => FINDINGS,
        false if lint.incomplete => INCOMPLETE,
        false => OK,
    }
}

//! What the environment of this process says: its terminals, its input, its directory. The only variables that are read are about output.

use super::{Got, Miss};
use std::io::{IsTerminal, Read};
use std::path::PathBuf;

/// A standard stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    In,
    Out,
    Err,
}

/// Whether a person sits at the other end.
pub fn is_terminal(stream: Stream) -> bool {
    match stream {
        Stream::In => std::io::stdin().is_terminal(),
        Stream::Out => std::io::stdout().is_terminal(),
        Stream::Err => std::io::stderr().is_terminal(),
    }
}

/// A variable that is set and not empty.
pub fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|v| !v.is_empty())
}

/// Whether the locale's character set is UTF-8.
pub fn is_utf8() -> bool {
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"].iter().find_map(|n| variable(n)).unwrap_or_default();
    let locale = locale.to_ascii_lowercase();
    locale.contains("utf-8") || locale.contains("utf8")
}

/// Columns of the terminal that standard output is, if COLUMNS or the kernel says.
pub fn columns() -> Option<usize> {
    variable("COLUMNS").and_then(|c| c.parse().ok())
}

/// Standard input up to its end, at most `limit` bytes.
pub fn input(limit: u64) -> Got<Vec<u8>> {
    let what = "standard input".to_owned();
    let mut bytes = Vec::new();
    let read = std::io::stdin().lock().take(limit.saturating_add(1)).read_to_end(&mut bytes);
    read.map_err(|e| Miss::failed(&what, e))?;
    if bytes.len() as u64 > limit { Err(Miss::TooBig { what, limit }) } else { Ok(bytes) }
}

/// Where relative paths of the command line begin.
pub fn current_dir() -> Got<PathBuf> {
    std::env::current_dir().map_err(|e| Miss::failed("the current directory", e))
}

//! What the environment of this process says about terminals. The only variables that are read are about output.

use std::io::IsTerminal;

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

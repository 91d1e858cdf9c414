//! Says why clients cannot connect to a RabbitMQ broker host, and puts it right. See README.md; the command line is the interface.

mod ask;
mod audit;
mod cli;
mod facts;
mod findings;
mod fix;
mod formats;
#[doc(hidden)]
pub mod fuzzing;
mod host;
mod init;
mod lint;
#[doc(hidden)]
pub mod packing;
#[doc(hidden)]
pub mod parity;
mod path;
mod policy;
mod render;
mod report;
mod rules;
mod verbs;
mod watch;

use clap::Parser;
use std::io::Write;
use std::process::ExitCode;

/// Parses the arguments, runs the verb, prints what it has to say. The only place that writes to standard output.
pub fn main() -> ExitCode {
    // `clap` exits with 2 on wrong usage and with 0 on --help and --version.
    let cli = cli::Cli::parse();
    match verbs::run(&cli) {
        Ok(done) => {
            // A reader that went away (`| head`) is no failure.
            let _ = std::io::stdout().write_all(done.text.as_bytes());
            ExitCode::from(done.code)
        }
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "rmq-audit: {}", render::term::clean(&error.to_string()));
            ExitCode::from(verbs::USAGE)
        }
    }
}

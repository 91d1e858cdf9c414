//! Says why clients cannot connect to a RabbitMQ broker host, and puts it right. See README.md; the command line is the interface.

#![allow(dead_code)] // TEMPORARY while the modules land

mod facts;
mod fix;
mod formats;
mod host;
mod policy;
mod report;
mod rules;

/// Runs the command line.
pub fn main() -> std::process::ExitCode {
    std::process::ExitCode::SUCCESS
}

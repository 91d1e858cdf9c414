//! The judge: a real AMQP client on another machine than the broker.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::exec::run;
use crate::net::Subnet;

/// Path of the client program, which says in its head what it does and prints.
pub fn program() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lab/client.py")
}

/// One attempt to connect; by default as `app` to the broker's IPv4 address.
pub struct Client<'a> {
    net: &'a Subnet,
    options: Vec<(&'static str, String)>,
    flags: Vec<&'static str>,
    password: String,
}

impl<'a> Client<'a> {
    pub fn new(net: &'a Subnet) -> Self {
        Self { net, options: vec![("--host", net.host())], flags: Vec::new(), password: "app-secret".into() }
            .option("--user", "app")
    }

    /// As another user.
    pub fn user(self, name: &str, password: &str) -> Self {
        Self { password: password.into(), ..self }.option("--user", name)
    }

    /// Sets an option with a value; the program's head lists them.
    pub fn option(mut self, name: &'static str, value: &str) -> Self {
        self.options.retain(|(other, _)| *other != name);
        self.options.push((name, value.into()));
        self
    }

    /// Sets an option without a value.
    pub fn flag(mut self, name: &'static str) -> Self {
        self.flags.push(name);
        self
    }

    /// The command line, for a human to try by hand.
    pub fn command_line(&self) -> Vec<String> {
        let client = program().display().to_string();
        let start = ["ip", "netns", "exec", &self.net.netns(), "/usr/bin/python3", &client].map(String::from);
        let options = self.options.iter().flat_map(|(name, value)| [name.to_string(), value.clone()]);
        start.into_iter().chain(options).chain(self.flags.iter().map(ToString::to_string)).collect()
    }

    /// Connects: outcome and detail.
    pub fn connect(&self) -> Result<(String, String)> {
        let line = self.command_line();
        let output = run(Command::new(&line[0]).args(&line[1..]), self.password.as_bytes(), Duration::from_secs(60))?.ok()?;
        let answer: Value = serde_json::from_str(&output).with_context(|| output.clone())?;
        let text = |key: &str| answer[key].as_str().unwrap_or_default().to_owned();
        Ok((text("outcome"), text("detail")))
    }

    /// Connects, and fails unless the outcome is the expected one.
    pub fn sees(&self, expected: &str) -> Result<()> {
        let (outcome, detail) = self.connect()?;
        if outcome != expected {
            bail!("the client was to see {expected}, but saw {outcome}: {detail}");
        }
        Ok(())
    }
}

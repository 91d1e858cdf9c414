//! A broken broker host to play with: `tests/lab/shell SUITE [SCRIPT [PACKAGE…]]`.

use std::fs;

use anyhow::{Context, Result, bail};

use crate::host::Host;
use crate::{product, scenarios, tree};

/// Boots a host of the suite, breaks it with SCRIPT (by default: the four faults), opens a shell inside, and removes it at the end.
pub fn run(args: &[String]) -> Result<()> {
    let Some(suite) = args.first() else { bail!("usage: tests/lab/shell SUITE [SCRIPT [PACKAGE…]]") };
    let suite = tree::named(suite)?;
    let script = args.get(1).map(|path| fs::read_to_string(path).with_context(|| path.clone())).transpose()?;
    println!("Booting {suite} …");
    let packages: Vec<&str> = args.iter().skip(2).map(String::as_str).collect();
    let host = Host::boot_with(suite, &packages)?;
    match script {
        Some(text) => print!("{}", host.run_script(&text)?),
        None => scenarios::four_faults(&host)?,
    }
    if let Err(error) = host.install() {
        println!("The host is without rmq-audit: {error:#}");
    }
    let guest = host.client().user("guest", "guest");
    println!("\nThe client, in another terminal of this machine (the password is read from standard input):");
    println!("    echo guest | {}", guest.command_line().join(" "));
    println!("Inside: {} --from {}/32 … ; `exit` removes the host.\n", product::IN_HOST, host.net.client());
    // The last command's status is the shell's: no failure of ours.
    let term = std::env::var("TERM").unwrap_or_else(|_| "dumb".into());
    host.inside().args([&format!("TERM={term}"), "HOME=/root", "bash", "-i"]).status()?;
    Ok(())
}

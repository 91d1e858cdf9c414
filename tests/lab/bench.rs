//! How long an audit takes, beside what a person would type: `tests/bench/audit [SUITE]`.

use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::host::Host;
use crate::{product, scenarios, tree};

const RABBITMQCTL: &str = "rabbitmqctl list_users";

/// What the article has a person type, one after the other.
const ARTICLE: &str = "#!/bin/sh
exec >/dev/null 2>&1 </dev/null
systemctl --no-pager status rabbitmq-server
ps aux
ss -tlnp
ufw status
iptables -L -n
rabbitmqctl list_users
tail -n 50 /var/log/rabbitmq/*.log
";

/// Measures inside one healthy host of the suite and prints both ratios and the audit's peak memory.
pub fn run(args: &[String]) -> Result<()> {
    let suite = tree::named(args.first().map_or("bookworm", String::as_str))?;
    let host = Host::boot(suite)?;
    host.put(&product::build(product::Profile::Release)?, product::IN_HOST)?;
    host.write(scenarios::POLICY, scenarios::LOCAL_APP)?;
    host.write("/root/article", ARTICLE)?;
    // Both are in Debian, but hosts have no way to its mirrors; their libraries are in every tree since bookworm.
    for tool in ["/usr/bin/hyperfine", "/usr/bin/time"] {
        host.put(Path::new(tool), tool)?;
    }
    let commands = [product::IN_HOST, RABBITMQCTL, "sh /root/article"];
    let quoted: Vec<String> = commands.iter().map(|command| format!("'{command}'")).collect();
    let hyperfine = "hyperfine --shell=none --style=basic --warmup 2 --runs 10 --ignore-failure --export-json /root/times.json";
    host.must(&format!("{hyperfine} {} 2>&1", quoted.join(" ")))?;
    let times: Value = serde_json::from_str(&host.read("/root/times.json")?)?;
    let seconds = |index: usize| times["results"][index]["median"].as_f64().context("hyperfine gave no median");
    let (audit, rabbitmqctl, article) = (seconds(0)?, seconds(1)?, seconds(2)?);
    let peak = host.must(&format!("time -q -f %M -o /root/peak {} >/dev/null; cat /root/peak", product::IN_HOST))?;
    let peak: f64 = peak.trim().parse().with_context(|| peak.clone())?;
    println!("{suite}, medians of 10 runs:");
    println!("  rmq-audit                      {:8.1} ms", audit * 1e3);
    println!("  {RABBITMQCTL}         {:8.1} ms    1/{:.1}", rabbitmqctl * 1e3, rabbitmqctl / audit);
    println!("  the article's seven commands   {:8.1} ms    1/{:.1}", article * 1e3, article / audit);
    println!("  rmq-audit's peak memory        {:8.1} MiB", peak / 1024.0);
    Ok(())
}

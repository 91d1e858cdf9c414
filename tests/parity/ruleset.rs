//! A ruleset as lines, so that it can be made smaller line by line.

use crate::net;
use anyhow::Result;

/// Which tool takes a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    IpSet,
    Nft,
    Iptables { legacy: bool, v6: bool },
}

#[derive(Debug, Clone)]
pub struct Line {
    pub part: Part,
    pub text: String,
    /// A rule or chain; not a table's frame.
    pub removable: bool,
}

#[derive(Debug, Clone, Default)]
pub struct Ruleset {
    pub lines: Vec<Line>,
}

/// Conntrack stays on between rulesets: rules are freed later than they are deleted, and with the last one that asks for a
/// connection's state it would be off.
pub const KEEP: &str = "add table inet keep-conntrack\n\
    add chain inet keep-conntrack c { type filter hook prerouting priority 2000; }\n\
    add rule inet keep-conntrack c ct state new counter\n";

const EMPTY: &str = "*raw\n:PREROUTING ACCEPT\n:OUTPUT ACCEPT\nCOMMIT\n\
    *mangle\n:PREROUTING ACCEPT\n:INPUT ACCEPT\n:FORWARD ACCEPT\n:OUTPUT ACCEPT\n:POSTROUTING ACCEPT\nCOMMIT\n\
    *nat\n:PREROUTING ACCEPT\n:INPUT ACCEPT\n:OUTPUT ACCEPT\n:POSTROUTING ACCEPT\nCOMMIT\n\
    *filter\n:INPUT ACCEPT\n:FORWARD ACCEPT\n:OUTPUT ACCEPT\nCOMMIT\n\
    *security\n:INPUT ACCEPT\n:FORWARD ACCEPT\n:OUTPUT ACCEPT\nCOMMIT\n";

impl Ruleset {
    pub fn push(&mut self, part: Part, text: impl Into<String>) {
        self.lines.push(Line { part, text: text.into(), removable: true });
    }

    pub fn frame(&mut self, part: Part, text: impl Into<String>) {
        self.lines.push(Line { part, text: text.into(), removable: false });
    }

    pub fn of_file(part: Part, text: &str) -> Ruleset {
        let removable = |line: &str| match part {
            Part::Iptables { .. } => line.starts_with('-') || line.starts_with('['),
            // What then does not load any more is put back.
            _ => true,
        };
        let lines = text.lines().map(|l| Line { part, text: l.to_owned(), removable: removable(l) }).collect();
        Ruleset { lines }
    }

    fn text(&self, part: Part) -> String {
        self.lines.iter().filter(|l| l.part == part).map(|l| format!("{}\n", l.text)).collect()
    }

    fn parts(&self) -> Vec<Part> {
        let mut parts: Vec<Part> = self.lines.iter().map(|l| l.part).collect();
        parts.sort();
        parts.dedup();
        parts
    }

    /// Replaces what was there.
    pub fn load(&self) -> Result<()> {
        let parts = self.parts();
        let mut nft = format!("flush ruleset\n{KEEP}");
        if parts.contains(&Part::Nft) && !parts.contains(&Part::IpSet) {
            nft += &self.text(Part::Nft);
        }
        net::run("nft", &["-f", "-"], &nft)?;
        for v6 in [false, true] {
            let part = Part::Iptables { legacy: true, v6 };
            let used = std::fs::read_to_string(if v6 { "/proc/net/ip6_tables_names" } else { "/proc/net/ip_tables_names" });
            // Unreadable in a user namespace: then it may hold something.
            if !parts.contains(&part) && used.map_or(true, |u| !u.is_empty()) {
                net::run(if v6 { "ip6tables-legacy-restore" } else { "iptables-legacy-restore" }, &[], EMPTY)?;
            }
        }
        for part in parts.iter().copied() {
            let text = self.text(part);
            match part {
                Part::IpSet => net::run("ipset", &["restore", "-exist"], &text)?,
                Part::Nft if parts.contains(&Part::IpSet) => net::run("nft", &["-f", "-"], &text)?,
                Part::Nft => String::new(),
                Part::Iptables { legacy, v6 } => {
                    let kind = if legacy { "legacy" } else { "nft" };
                    let program = format!("{}-{kind}-restore", if v6 { "ip6tables" } else { "iptables" });
                    net::run(&program, &[], &text)?
                }
            };
        }
        Ok(())
    }

    pub fn print(&self) -> String {
        let mut text = String::new();
        for part in self.parts() {
            let all = self.text(part);
            let lines: Vec<&str> = all.lines().filter(|l| !l.trim().is_empty()).take(200).collect();
            text += &format!("--- {part:?}\n{}\n", lines.join("\n"));
        }
        text
    }

    /// The smallest ruleset found, by leaving out lines, of which `fails` still holds.
    pub fn shrunk(&self, mut fails: impl FnMut(&Ruleset) -> bool) -> Ruleset {
        let mut best = self.clone();
        let mut size = (best.lines.len() / 2).max(1);
        let end = std::time::Instant::now() + std::time::Duration::from_secs(40);
        loop {
            let mut at = 0;
            let mut smaller = false;
            while at < best.lines.len() && std::time::Instant::now() < end {
                let mut tried = best.clone();
                let mut index = 0;
                tried.lines.retain(|line| {
                    let keep = !line.removable || index < at || index >= at + size;
                    index += 1;
                    keep
                });
                if tried.lines.len() < best.lines.len() && fails(&tried) {
                    best = tried;
                    smaller = true;
                } else {
                    at += size;
                }
            }
            if std::time::Instant::now() >= end || (size == 1 && !smaller) {
                return best;
            }
            size = (size / 2).max(1);
        }
    }
}

//! Reads everything that may hold rules. What is there and cannot be read makes verdicts unknown; only what is certainly not
//! there counts as no firewall.

use super::model::*;
use super::routing::Routing;
use super::{Firewall, iptables, nft_json, ufw};
use crate::facts::{Fact, together};
use crate::formats::iptables_save;
use crate::host::{Command, Got, Host, Miss, optional, read_text};
use serde_json::Value as Json;
use std::path::Path;

/// Tables that iptables-nft makes.
const IPTABLES_TABLES: [&str; 5] = ["raw", "mangle", "nat", "filter", "security"];

/// What the host answered, before it is put together.
pub struct Raw {
    /// `nft -j list ruleset`, or why it is not known
    pub nft: Result<nft_json::Ruleset, String>,
    /// iptables-nft-save and ip6tables-nft-save; `None`: not needed, nft shows no table of theirs
    pub save: [Option<Got<Vec<u8>>>; 2],
    /// iptables-legacy-save; `None`: the kernel has no legacy tables
    pub legacy: [Option<Got<Vec<u8>>>; 2],
    /// The kernel certainly has no nf_tables.
    pub no_nf_tables: bool,
}

/// See [`super::collect`].
pub fn collect(host: &dyn Host) -> Fact<Firewall> {
    if host.identity().offline {
        return Fact::Unknown("a file tree has no kernel to ask for its packet filter".to_owned());
    }
    let no_nf_tables = nf_tables_absent(host);
    let run = |command: Command| -> Got<Vec<u8>> {
        if no_nf_tables {
            return Err(Miss::Absent { what: "nf_tables in the kernel".to_owned() });
        }
        printed(host, &command)
    };
    let nft = run(Command::NftRuleset).map_err(|miss| miss.to_string()).and_then(|bytes| nft_json::parse(&bytes));
    // All they add is what extensions in tables of iptables match; most hosts have no such table.
    let iptables = |v6| {
        let wanted = nft.as_ref().map_or(true, |ruleset| ruleset.tables.iter().any(|t| owned_by_iptables(t, v6)));
        wanted.then(|| run(Command::IptablesNftSave { v6 }))
    };
    let (v4, v6) = together(|| iptables(false), || iptables(true));
    let raw = Raw { nft, save: [v4, v6], legacy: [legacy(host, false), legacy(host, true)], no_nf_tables };
    let mut model = assemble(raw);
    model.routing = Routing::read(host);
    Fact::Known(describe(host, model))
}

fn printed(host: &dyn Host, command: &Command) -> Got<Vec<u8>> {
    let what = match command {
        Command::NftRuleset => "nft -j list ruleset",
        Command::IptablesNftSave { v6: false } => "iptables-nft-save",
        Command::IptablesNftSave { v6: true } => "ip6tables-nft-save",
        Command::IptablesLegacySave { v6: false } => "iptables-legacy-save",
        _ => "ip6tables-legacy-save",
    };
    host.run(command)?.ok(what)
}

/// Legacy tables are asked for only when the kernel lists some: reading would make them.
fn legacy(host: &dyn Host, v6: bool) -> Option<Got<Vec<u8>>> {
    let names = if v6 { "/proc/net/ip6_tables_names" } else { "/proc/net/ip_tables_names" };
    match optional(read_text(host, names)) {
        Ok(None) => None,
        Ok(Some(text)) if text.trim().is_empty() => None,
        Ok(Some(_)) => Some(printed(host, &Command::IptablesLegacySave { v6 })),
        Err(miss) => Some(Err(miss)),
    }
}

/// Whether the kernel certainly holds no nf_tables: the module is neither loaded nor built in. Asking nft would load it.
fn nf_tables_absent(host: &dyn Host) -> bool {
    let Ok(modules) = read_text(host, "/proc/modules") else { return false };
    if modules.trim().is_empty() || modules.lines().any(|l| l.starts_with("nf_tables ")) {
        return false;
    }
    let Ok(release) = read_text(host, "/proc/sys/kernel/osrelease") else { return false };
    match read_text(host, format!("/lib/modules/{}/modules.builtin", release.trim())) {
        Ok(built_in) => !built_in.contains("/nf_tables.ko"),
        Err(_) => false,
    }
}

/// systemd is asked only where firewalld is installed.
fn firewalld_active(host: &dyn Host) -> bool {
    let files = ["/usr/lib/systemd/system/firewalld.service", "/lib/systemd/system/firewalld.service"];
    if !files.iter().any(|file| host.stat(Path::new(file), true).is_ok()) {
        return false;
    }
    let command = Command::UnitShow { unit: "firewalld.service".to_owned(), properties: vec!["ActiveState".to_owned()] };
    let output = host.run(&command).ok().filter(|o| o.code == Some(0));
    output.is_some_and(|o| String::from_utf8_lossy(&o.stdout).lines().any(|l| l == "ActiveState=active"))
}

/// Puts the answers together. Public to this area's tests.
pub fn assemble(raw: Raw) -> Model {
    let mut model = Model::default();
    for (v6, answer) in [false, true].into_iter().zip(raw.legacy) {
        match answer.map(|a| a.map_err(|m| m.to_string()).and_then(|bytes| saved(&bytes))) {
            None => {}
            Some(Ok(save)) => model.tables.extend(iptables::tables(&save, Engine::IptablesLegacy, v6)),
            Some(Err(why)) => {
                model.unread.push(Unread { v6: Some(v6), why: format!("legacy iptables rules could not be read: {why}") })
            }
        }
    }
    if raw.no_nf_tables {
        return model;
    }
    let mut native = match raw.nft {
        Ok(ruleset) => Some(ruleset),
        Err(why) => {
            model.unread.push(Unread { v6: None, why: format!("nftables rules could not be read: {why}") });
            None
        }
    };
    for (v6, answer) in [false, true].into_iter().zip(raw.save) {
        let Some(answer) = answer else { continue };
        let ours = native.as_ref().is_some_and(|n| n.tables.iter().any(|t| owned_by_iptables(t, v6)));
        match answer.map_err(|m| (m.is_absent(), m.to_string())).and_then(|b| saved(&b).map_err(|e| (false, e))) {
            Ok(save) => {
                let tables = iptables::tables(&save, Engine::IptablesNft, v6);
                match &mut native {
                    Some(native) => combine(native, tables, v6, &mut model),
                    None => model.tables.extend(tables),
                }
            }
            // Without the command, or without tables of its kind, nft's own answer stands; extensions in it are undecided.
            Err((absent, _)) if absent || (native.is_some() && !ours) => {}
            Err((_, why)) => model.unread.push(Unread { v6: Some(v6), why: format!("iptables rules could not be read: {why}") }),
        }
    }
    model.tables.extend(native.into_iter().flat_map(|n| n.tables));
    model
}

fn saved(bytes: &[u8]) -> Result<iptables_save::Save, String> {
    iptables_save::parse(&String::from_utf8_lossy(bytes))
}

fn owned_by_iptables(table: &Table, v6: bool) -> bool {
    table.family == (if v6 { Family::Ip6 } else { Family::Ip }) && IPTABLES_TABLES.contains(&table.name.as_str())
}

/// Replaces nft's reading of a table by iptables-nft's, rule by rule: nft does not show what an extension matches, and
/// iptables-nft-save leaves out what a native rule matches (both without a word).
fn combine(native: &mut nft_json::Ruleset, saved: Vec<Table>, v6: bool, model: &mut Model) {
    for mut table in saved {
        let Some(place) = native.tables.iter().position(|t| owned_by_iptables(t, v6) && t.name == table.name) else {
            let why = format!(
                "iptables-nft-save prints table {}, which nft does not show: the ruleset changed meanwhile",
                table.title()
            );
            model.unread.push(Unread { v6: Some(v6), why });
            continue;
        };
        let shown = &native.tables[place];
        table.handle = shown.handle;
        table.doubt = shown.doubt.clone();
        let mut differs = shown.chains.iter().any(|c| table.chain(&c.name).is_none());
        for chain in &mut table.chains {
            let Some(other) = shown.chains.iter().find(|c| c.name == chain.name) else {
                // iptables-nft-save prints built-in chains that do not exist; they hold nothing.
                differs |= !chain.rules.is_empty();
                chain.base = None;
                continue;
            };
            differs |= other.rules.len() != chain.rules.len();
            // Priority and policy as the kernel has them.
            chain.base = other.base.clone();
            let id = (table.family.name().to_owned(), table.name.clone(), chain.name.clone());
            let expressions = native.expressions.get(&id).map(Vec::as_slice).unwrap_or_default();
            for ((rule, expression), other) in chain.rules.iter_mut().zip(expressions).zip(&other.rules) {
                if foreign(expression) {
                    if shows_extension(expression) {
                        rule.steps.insert(0, Step::Test(Test::Undecided("a rule that mixes nftables and iptables".to_owned())));
                    } else {
                        *rule = other.clone();
                    }
                }
            }
        }
        if differs {
            // Native rules or chains stand in it, or it changed between the two readings: nft's own view is kept.
            continue;
        }
        native.tables[place] = table;
    }
}

fn statements(expression: &Json) -> impl Iterator<Item = (&String, &Json)> {
    expression.as_array().into_iter().flatten().filter_map(|s| s.as_object().and_then(|o| o.iter().next()))
}

fn shows_extension(expression: &Json) -> bool {
    statements(expression).any(|(name, _)| name == "xt")
}

/// Whether a rule holds what iptables-nft never writes.
fn foreign(expression: &Json) -> bool {
    statements(expression).any(|(name, body)| match name.as_str() {
        "match" => {
            let key = |place: &str| body.pointer(place).and_then(Json::as_str);
            let left = body.get("left").map(|l| l.get("&").and_then(|m| m.get(0)).unwrap_or(l)).cloned().unwrap_or_default();
            let field = left.pointer("/payload/field").or_else(|| left.pointer("/meta/key")).and_then(Json::as_str).unwrap_or("");
            let known = [
                "saddr", "daddr", "protocol", "dport", "sport", "flags", "type", "code", "iifname", "oifname", "l4proto", "mark",
                "nexthdr", "nfproto", "pkttype",
            ]
            .contains(&field);
            let set = body.pointer("/right/set").is_some() || key("/right").is_some_and(|r| r.starts_with('@'));
            !known || set
        }
        "counter" | "accept" | "drop" | "return" | "jump" | "goto" | "limit" | "xt" | "log" | "mangle" | "comment" => false,
        // iptables-nft writes these as extensions up to some release, natively later; the save line is right for them.
        "redirect" | "dnat" | "snat" | "masquerade" | "reject" => false,
        _ => true,
    })
}

/// Who manages it.
fn describe(host: &dyn Host, model: Model) -> Firewall {
    let has_table = |name: &str| model.tables.iter().any(|t| t.name == name);
    let has_chain = |name: &str| model.tables.iter().any(|t| t.chain(name).is_some());
    let ufw_enabled = ufw::enabled(host).unwrap_or(false);
    let ufw_loaded = has_chain("ufw-user-input") || has_chain("ufw6-user-input");
    let firewalld_running = has_table("firewalld") || firewalld_active(host);
    let mut engines: Vec<Engine> =
        model.tables.iter().filter(|t| t.chains.iter().any(|c| c.base.is_some())).map(|t| t.engine).collect();
    engines.sort();
    engines.dedup();
    let iptables = engines.iter().any(|e| *e != Engine::Nftables);
    let native = engines.contains(&Engine::Nftables);
    let manager = if firewalld_running {
        "firewalld"
    } else if ufw_enabled {
        "ufw"
    } else if native && wanted(host, "nftables.service") {
        "nftables-service"
    } else if iptables && wanted(host, "netfilter-persistent.service") {
        "netfilter-persistent"
    } else if iptables {
        "iptables"
    } else if native {
        "nftables"
    } else {
        "none"
    };
    Firewall {
        manager: manager.to_owned(),
        ufw_enabled,
        ufw_loaded,
        firewalld_running,
        engines: engines.iter().map(|e| e.name().to_owned()).collect(),
        ufw_rules: ufw::user_rules(host).into(),
        model,
    }
}

/// Whether a unit is enabled: a link in one of the directories that its `[Install]` section may name.
fn wanted(host: &dyn Host, unit: &str) -> bool {
    ["multi-user", "sysinit", "basic", "network-pre", "network"]
        .iter()
        .any(|target| host.stat(Path::new(&format!("/etc/systemd/system/{target}.target.wants/{unit}")), false).is_ok())
}

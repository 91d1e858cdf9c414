//! Reads everything that may hold rules. What is there and cannot be read makes verdicts unknown; only what is certainly not
//! there counts as no firewall.

use super::model::*;
use super::routing::Routing;
use super::{Firewall, display, ip_sets, iptables, netlink, owners, ufw};
use crate::facts::{Fact, together};
use crate::formats::iptables_save;
use crate::host::{Command, Got, Host, optional, read_text};
use std::path::Path;

/// Rules of this many are printed by their own tools; more would take those tools seconds, and are printed by us.
const MAX_PRINTED: usize = 5_000;

/// What the host answered, before it is put together.
pub struct Raw {
    /// The kernel's dump; `Absent`: it certainly has no nf_tables
    pub nf_tables: Got<Vec<u8>>,
    /// iptables-legacy-save, ip6tables-legacy-save; `None`: the kernel has no legacy tables
    pub legacy: [Option<Got<Vec<u8>>>; 2],
    /// The kernel's dump; `Absent`: there are none
    pub ip_sets: Got<Vec<u8>>,
}

/// See [`super::collect`].
pub fn collect(host: &dyn Host) -> Fact<Firewall> {
    if host.identity().offline {
        return Fact::Unknown("a file tree has no kernel to ask for its packet filter".to_owned());
    }
    let legacy = [legacy(host, false), legacy(host, true)];
    let mut model = assemble(Raw { nf_tables: host.nf_tables(), legacy, ip_sets: host.ip_sets() });
    label(host, &mut model.tables);
    model.bridged = bridged(host);
    model.routing = Routing::read(host);
    let mut firewall = describe(host, model);
    firewall.owned = owners::collect(host, &mut firewall);
    Fact::Known(firewall)
}

/// Puts the rules into the words of their own tools. What these do not print is printed by us: their failure is no reason to
/// doubt a verdict.
fn label(host: &dyn Host, tables: &mut [Table]) {
    let rules = |engine: Engine, family: Option<Family>| -> usize {
        let of_kind = tables.iter().filter(|t| t.engine == engine && family.is_none_or(|f| f == t.family));
        of_kind.flat_map(|t| &t.chains).map(|c| c.rules.len()).sum()
    };
    let all = rules(Engine::Nftables, None) + rules(Engine::IptablesNft, None);
    // The few rules of these that anybody looks at are printed then.
    if all > MAX_PRINTED {
        return;
    }
    let print = |wanted: bool, command: Command| {
        let output = wanted.then(|| host.run(&command).ok())??;
        (output.code == Some(0)).then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let native = rules(Engine::Nftables, None) > 0;
    let (v4, v6) = (rules(Engine::IptablesNft, Some(Family::Ip)) > 0, rules(Engine::IptablesNft, Some(Family::Ip6)) > 0);
    let save = |v6| Command::IptablesNftSave { v6 };
    let (nft, saves) =
        together(|| print(native, Command::NftRuleset), || together(|| print(v4, save(false)), || print(v6, save(true))));
    display::label(tables, nft.as_deref(), [saves.0.as_deref(), saves.1.as_deref()]);
}

/// Whether bridges hand packets to the IP hooks: not without br_netfilter, whose switches these are.
fn bridged(host: &dyn Host) -> Option<bool> {
    let on = |file: &str| match optional(read_text(host, file)) {
        Ok(text) => Some(text.is_some_and(|t| t.trim() != "0")),
        Err(_) => None,
    };
    let (v4, v6) = (on("/proc/sys/net/bridge/bridge-nf-call-iptables"), on("/proc/sys/net/bridge/bridge-nf-call-ip6tables"));
    match (v4, v6) {
        (Some(false), Some(false)) => Some(false),
        (None, _) | (_, None) => None,
        _ => Some(true),
    }
}

fn legacy_save(host: &dyn Host, v6: bool) -> Got<Vec<u8>> {
    let what = if v6 { "ip6tables-legacy-save" } else { "iptables-legacy-save" };
    host.run(&Command::IptablesLegacySave { v6 })?.ok(what)
}

/// Legacy tables are asked for only when the kernel lists some: reading would make them.
fn legacy(host: &dyn Host, v6: bool) -> Option<Got<Vec<u8>>> {
    let names = if v6 { "/proc/net/ip6_tables_names" } else { "/proc/net/ip_tables_names" };
    match optional(read_text(host, names)) {
        Ok(None) => None,
        Ok(Some(text)) if text.trim().is_empty() => None,
        Ok(Some(_)) => Some(legacy_save(host, v6)),
        Err(miss) => Some(Err(miss)),
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
    // Without their contents, rules that name sets are undecided; the others are not.
    let sets = raw.ip_sets.ok().and_then(|dump| ip_sets::read(&dump).ok()).unwrap_or_default();
    let set_names = |number: u16| sets.names.get(&number).cloned();
    match raw.nf_tables.map(|dump| netlink::tables(&dump, &set_names)) {
        Ok(Ok(tables)) => model.tables.extend(tables),
        Err(miss) if miss.is_absent() => {}
        Ok(Err(why)) => model.unread.push(unread(&why)),
        Err(miss) => model.unread.push(unread(&miss.to_string())),
    }
    model.ip_sets = sets.sets;
    model
}

fn unread(why: &str) -> Unread {
    Unread { v6: None, why: format!("the rules of nf_tables could not be read: {why}") }
}

fn saved(bytes: &[u8]) -> Result<iptables_save::Save, String> {
    iptables_save::parse(&String::from_utf8_lossy(bytes))
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
        owned: owners::Owners::blank("not looked for yet"),
        model,
    }
}

/// Whether a unit is enabled: a link in one of the directories that its `[Install]` section may name.
fn wanted(host: &dyn Host, unit: &str) -> bool {
    ["multi-user", "sysinit", "basic", "network-pre", "network"]
        .iter()
        .any(|target| host.stat(Path::new(&format!("/etc/systemd/system/{target}.target.wants/{unit}")), false).is_ok())
}

//! Software that puts its own chains beside those of a firewall manager, known by their names.

use super::units::Units;
use super::{Owner, Shown};
use crate::facts::firewall::model::{Model, Rule, Step, Table, Target};
use crate::facts::firewall::native::Native;
use std::collections::BTreeMap;

/// Owner, unit that makes its rules anew at every start, beginnings of its chains' names.
const CHAINS: &[(&str, &str, &[&str])] = &[
    ("docker", "docker.service", &["DOCKER"]),
    ("podman", "podman-restart.service", &["NETAVARK", "CNI-"]),
    ("kubernetes", "kubelet.service", &["KUBE-"]),
    ("calico", "kubelet.service", &["cali-"]),
    ("cilium", "kubelet.service", &["CILIUM_", "OLD_CILIUM_"]),
    ("weave", "kubelet.service", &["WEAVE"]),
    ("fail2ban", "fail2ban.service", &["f2b-", "fail2ban-"]),
    ("crowdsec", "crowdsec-firewall-bouncer.service", &["CROWDSEC", "crowdsec-"]),
    ("libvirt", "libvirtd.service", &["LIBVIRT_"]),
    ("tailscale", "tailscaled.service", &["ts-"]),
    ("sshguard", "sshguard.service", &["sshguard"]),
];

/// Owner of whole tables.
const TABLES: &[(&str, &[&str])] = &[
    ("docker", &["docker-bridges"]),
    ("podman", &["netavark"]),
    ("kubernetes", &["kube-proxy"]),
    ("fail2ban", &["f2b-table"]),
    ("crowdsec", &["crowdsec", "crowdsec6"]),
    ("libvirt", &["libvirt_network"]),
    ("sshguard", &["sshguard"]),
];

/// Managers of whole firewalls whose files are not read here: name, unit, a chain that shows it, its file.
const MANAGERS: &[(&str, &str, &[&str], &str)] = &[
    ("csf", "lfd.service", &["LOCALINPUT", "DENYIN"], "/etc/csf/csf.conf"),
    ("shorewall", "shorewall.service", &["net-fw", "net2fw"], "/etc/shorewall/rules"),
    ("ferm", "ferm.service", &[], "/etc/ferm/ferm.conf"),
    ("firehol", "firehol.service", &["in_world", "in_internet"], "/etc/firehol/firehol.conf"),
    ("proxmox", "pve-firewall.service", &["PVEFW-INPUT"], "/etc/pve/firewall"),
    ("arno-iptables-firewall", "arno-iptables-firewall.service", &["BASE_INPUT_CHAIN"], "/etc/arno-iptables-firewall"),
];

/// Whose chain this is, if it is made anew by software that runs.
pub fn owner_of_chain(name: &str) -> Option<&'static str> {
    CHAINS.iter().find(|(_, _, starts)| starts.iter().any(|s| name.starts_with(s))).map(|(owner, ..)| *owner)
}

/// Whose table this is.
pub fn owner_of_table(name: &str) -> Option<&'static str> {
    TABLES.iter().find(|(_, names)| names.contains(&name)).map(|(owner, _)| *owner)
}

/// Another manager that is enabled: what it loads at boot is not known here, only where it is written.
pub fn unknown_manager(units: &Units) -> Option<(&'static str, &'static str)> {
    MANAGERS.iter().find(|(_, unit, ..)| units.has(unit)).map(|(name, _, _, file)| (*name, *file))
}

/// The chain that a rule jumps or goes to.
pub fn jump(rule: &Rule) -> Option<&str> {
    rule.steps.iter().find_map(|step| match step {
        Step::Go(Target::Jump(to) | Target::Goto(to)) | Step::Native(Native::Go(Target::Jump(to) | Target::Goto(to))) => {
            Some(to.as_str())
        }
        _ => None,
    })
}

/// Owners of chains and tables that the kernel holds now.
pub fn owners(model: &Model, units: Option<&Units>) -> Vec<Owner> {
    let mut found: BTreeMap<&'static str, Vec<Shown>> = BTreeMap::new();
    for table in &model.tables {
        if let Some(owner) = owner_of_table(&table.name) {
            found.entry(owner).or_default().push(Shown { at: "nf_tables".to_owned(), text: format!("table {}", table.title()) });
        }
        for chain in &table.chains {
            let manager = MANAGERS.iter().find(|(_, _, chains, _)| chains.contains(&chain.name.as_str())).map(|(name, ..)| *name);
            if let Some(owner) = owner_of_chain(&chain.name).or(manager) {
                let shown = found.entry(owner).or_default();
                if shown.len() < MAX_SHOWN {
                    shown.push(Shown { at: table.title(), text: format!("chain {}", chain.name) });
                }
            }
        }
    }
    let unit = |owner: &str| {
        let of_chains = CHAINS.iter().find(|(name, ..)| *name == owner).map(|(_, unit, _)| *unit);
        of_chains.or_else(|| MANAGERS.iter().find(|(name, ..)| *name == owner).map(|(_, unit, ..)| *unit)).unwrap_or("")
    };
    let mut all: Vec<Owner> = found
        .into_iter()
        .map(|(name, evidence)| Owner {
            name: name.to_owned(),
            evidence,
            enabled: units.map(|u| u.has(unit(name))),
            loaded: true,
        })
        .collect();
    for (name, unit, _, file) in MANAGERS.iter().filter(|(_, unit, ..)| units.is_some_and(|u| u.has(unit))) {
        if !all.iter().any(|o| o.name == *name) {
            let evidence = vec![Shown { at: (*file).to_owned(), text: format!("{unit} is enabled") }];
            all.push(Owner { name: (*name).to_owned(), evidence, enabled: Some(true), loaded: false });
        }
    }
    all
}

const MAX_SHOWN: usize = 4;

/// The parts of a table that running software made and will make again: its chains, and the rules of base chains that lead there.
pub fn dynamic_part(table: &Table) -> Option<Table> {
    if owner_of_table(&table.name).is_some() {
        return Some(table.clone());
    }
    let mut part = table.clone();
    part.chains.retain(|c| c.base.is_some() || owner_of_chain(&c.name).is_some());
    for chain in part.chains.iter_mut().filter(|c| c.base.is_some()) {
        chain.rules.retain(|rule| jump(rule).is_some_and(|to| owner_of_chain(to).is_some()));
    }
    let holds = part.chains.iter().any(|c| !c.rules.is_empty());
    // A base chain without a policy of its own lets everything through: the boot's own chain has the say.
    for base in part.chains.iter_mut().filter_map(|c| c.base.as_mut()) {
        base.accept = true;
    }
    holds.then_some(part)
}

//! Who put the rules into the kernel, whether the kernel holds what their files say, and what the next boot makes of the files.
//!
//! Everything is read from files and from the rules themselves: ufw and firewall-cmd are never started.

pub mod boot;
pub mod firewalld;
pub mod marks;
pub mod refusal;
pub mod saved;
pub mod ufw;
pub mod units;

use super::model::{Engine, Model};
use super::{Firewall, Packet, Verdict};
use crate::facts::{Fact, Where};
use crate::host::{Got, Host, read_text};
use serde::Serialize;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use units::Units;

/// Somebody who puts rules into the kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Owner {
    /// ufw | firewalld | netfilter-persistent | iptables-services | nftables-service | docker | podman | kubernetes | calico | cilium |
    /// weave | fail2ban | crowdsec | libvirt | tailscale | sshguard | csf | shorewall | ferm | firehol | proxmox |
    /// arno-iptables-firewall | plain
    pub name: String,
    pub evidence: Vec<Shown>,
    /// Its unit is enabled; null: not known.
    pub enabled: Option<bool>,
    /// The kernel holds rules of it.
    pub loaded: bool,
}

/// A quotation: from where, and what stands there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Shown {
    pub at: String,
    pub text: String,
}

/// Something that is not as its owner means it to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Drift {
    pub owner: String,
    /// not-loaded | flushed-closed | flushed-open | rules-differ | policy-differs | foreign-before | ipv6-off | limit | table-gone |
    /// panic | broken
    pub kind: String,
    pub text: String,
    pub at: Option<Where>,
    pub shown: Vec<Shown>,
    /// Of `limit`: the ports that it is about.
    pub first_port: Option<i64>,
    pub last_port: Option<i64>,
}

impl Drift {
    fn new(owner: &str, kind: &str, text: String) -> Drift {
        Drift {
            owner: owner.to_owned(),
            kind: kind.to_owned(),
            text,
            at: None,
            shown: Vec::new(),
            first_port: None,
            last_port: None,
        }
    }
}

/// What is known of the owners; part of [`Firewall`].
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Owners {
    #[serde(rename = "owners")]
    pub list: Vec<Owner>,
    pub drift: Vec<Drift>,
    /// Zones of firewalld's permanent configuration; empty where it neither runs nor is enabled.
    pub zones: Vec<firewalld::ZoneFact>,
    /// Which of the two the command `iptables` speaks to: nft | legacy; null: there is no such command.
    pub iptables: Option<String>,
    /// A connection of the host to itself, 127.0.0.1 to epmd: what rabbitmqctl and the node need.
    pub loopback: Fact<Verdict>,
    /// The packet filter as the next boot makes it; null: the same as now.
    #[serde(skip)]
    pub after_boot: Fact<Option<Box<Firewall>>>,
}

impl Owners {
    /// Nothing is known.
    pub fn blank(why: &str) -> Owners {
        let (loopback, after_boot) = (Fact::Unknown(why.to_owned()), Fact::Unknown(why.to_owned()));
        Owners { list: Vec::new(), drift: Vec::new(), zones: Vec::new(), iptables: None, loopback, after_boot }
    }
}

/// What the collectors of this folder share.
pub(super) struct Look<'a> {
    pub host: &'a dyn Host,
    pub units: Got<Units>,
    pub ufw: Got<Option<ufw::Settings>>,
    pub firewalld: Got<Option<firewalld::Config>>,
    pub saved: Got<Vec<saved::Saved>>,
    /// The model without tables: addresses and routes, which a reboot is taken to leave as they are.
    pub surroundings: Model,
}

impl Firewall {
    /// A packet filter of which only the rules matter.
    pub fn of_model(model: Model) -> Firewall {
        Firewall {
            manager: "none".to_owned(),
            ufw_enabled: false,
            ufw_loaded: false,
            firewalld_running: false,
            engines: Vec::new(),
            ufw_rules: Fact::Known(Vec::new()),
            owned: Owners::blank("only the rules are here"),
            model,
        }
    }
}

/// Finds the owners of what the kernel holds.
pub fn collect(host: &dyn Host, firewall: &mut Firewall) -> Owners {
    // The tables may be a hundred thousand rules: they are not copied.
    let tables = std::mem::take(&mut firewall.model.tables);
    let surroundings = firewall.model.clone();
    firewall.model.tables = tables;
    owners(host, firewall, surroundings)
}

fn owners(host: &dyn Host, firewall: &Firewall, surroundings: Model) -> Owners {
    let units = Units::read(host);
    let enabled = |unit: &str| units.as_ref().is_ok_and(|u| u.has(unit));
    let firewalld_matters = firewall.firewalld_running || enabled("firewalld.service");
    let look = Look {
        host,
        ufw: ufw::settings(host),
        firewalld: if firewalld_matters { firewalld::read(host).map(Some) } else { Ok(None) },
        saved: units.as_ref().map_err(Clone::clone).and_then(|u| saved::files(host, u)),
        units,
        surroundings,
    };
    let mut list = marks::owners(&firewall.model, look.units.as_ref().ok());
    let mut drift = Vec::new();
    if let Ok(Some(settings)) = &look.ufw {
        let rules = super::ufw::user_rules(host);
        drift.extend(ufw::drift(host, &firewall.model, settings, &rules));
        let loaded = ufw::loaded(&firewall.model, false) || ufw::loaded(&firewall.model, true);
        if settings.enabled || loaded {
            let text = if settings.enabled { "ENABLED=yes" } else { "ENABLED=no, and its chains are in the kernel" };
            let evidence = vec![Shown { at: "/etc/ufw/ufw.conf".to_owned(), text: text.to_owned() }];
            // Without the unit nothing loads it at boot, whatever its own file says.
            let enabled = look.units.as_ref().ok().map(|u| settings.enabled && u.has("ufw.service"));
            list.push(Owner { name: "ufw".to_owned(), evidence, enabled, loaded });
        }
    }
    if firewalld_matters {
        drift.extend(firewalld::drift(firewall, look.firewalld.as_ref().ok().and_then(|c| c.as_ref())));
        let loaded = firewalld::loaded(&firewall.model);
        let text = if loaded { "table inet firewalld" } else { "firewalld.service" };
        let evidence = vec![Shown { at: if loaded { "nf_tables" } else { "systemd" }.to_owned(), text: text.to_owned() }];
        let enabled = look.units.as_ref().ok().map(|u| u.has("firewalld.service"));
        list.push(Owner { name: "firewalld".to_owned(), evidence, enabled, loaded });
    }
    for saved in look.saved.iter().flatten() {
        let evidence = saved.files.iter().map(|f| Shown { at: f.clone(), text: format!("loaded by {}", saved.unit) }).collect();
        let loaded = saved.owner != "nftables-service" || firewall.model.tables.iter().any(|t| t.engine == Engine::Nftables);
        list.push(Owner { name: saved.owner.to_owned(), evidence, enabled: Some(true), loaded });
    }
    if holds_rules(&firewall.model) && !list.iter().any(|o| o.loaded) {
        let evidence =
            firewall.engines.iter().map(|e| Shown { at: "kernel".to_owned(), text: format!("rules of {e}") }).collect();
        list.push(Owner { name: "plain".to_owned(), evidence, enabled: None, loaded: true });
    }
    let zones = look.firewalld.as_ref().ok().and_then(|c| c.as_ref()).map(|c| c.facts(&firewall.model)).unwrap_or_default();
    let (after_boot, broken) = boot::after(&look, firewall);
    drift.extend(broken);
    let here = IpAddr::from([127, 0, 0, 1]);
    let to_epmd = Packet { source: here, destination: here, port: 4369, interface: "lo".to_owned() };
    Owners { list, drift, zones, iptables: iptables_kind(host), loopback: firewall.verdict(&to_epmd), after_boot }
}

/// Whether the kernel holds a rule, or a policy that drops.
pub(super) fn holds_rules(model: &Model) -> bool {
    let holds = |c: &super::model::Chain| c.base.as_ref().is_some_and(|b| !b.accept || !c.rules.is_empty());
    model.tables.iter().any(|t| t.chains.iter().any(holds))
}

/// Follows the links of the command: all flavours are one program with many names.
fn iptables_kind(host: &dyn Host) -> Option<String> {
    let mut path =
        ["/usr/sbin/iptables", "/sbin/iptables"].map(PathBuf::from).into_iter().find(|p| host.stat(p, false).is_ok())?;
    for _ in 0..8 {
        let Ok(target) = host.read_link(&path) else { break };
        path = path.parent().unwrap_or(Path::new("/")).join(target);
    }
    let name = path.file_name()?.to_string_lossy().into_owned();
    let kind = match (name.contains("legacy"), name.contains("nft")) {
        (true, _) => "legacy",
        (_, true) => "nft",
        _ => return None,
    };
    Some(kind.to_owned())
}

/// Something of this host's own that loads rules at boot: file and line.
fn boot_script(host: &dyn Host, units: &Units) -> Option<(String, String)> {
    const WORDS: [&str; 6] = ["iptables", "ip6tables", "nft ", "ipset", "iptables-restore", "firewall"];
    let line = |text: &str| {
        let code = text.lines().map(str::trim).filter(|l| !l.starts_with(['#', ';']) && !l.starts_with("Description"));
        code.into_iter().find(|l| WORDS.iter().any(|w| l.contains(w))).map(str::to_owned)
    };
    let in_file = |path: String| read_text(host, &path).ok().and_then(|text| line(&text)).map(|found| (path, found));
    let executable = |path: &str| host.stat(Path::new(path), true).is_ok_and(|m| m.mode & 0o111 != 0);
    if executable("/etc/rc.local")
        && let Some(found) = in_file("/etc/rc.local".to_owned())
    {
        return Some(found);
    }
    const HOOKS: [&str; 6] = [
        "/etc/network/if-pre-up.d",
        "/etc/network/if-up.d",
        "/etc/network/interfaces.d",
        "/etc/networkd-dispatcher/routable.d",
        "/etc/NetworkManager/dispatcher.d",
        "/etc/cron.d",
    ];
    let hooks = HOOKS
        .iter()
        .flat_map(|dir| host.list(Path::new(dir)).unwrap_or_default().into_iter().map(move |name| format!("{dir}/{name}")));
    let cron = |path: &str, line: &str| !path.contains("cron") || line.starts_with("@reboot");
    let plain = ["/etc/network/interfaces", "/etc/crontab", "/var/spool/cron/crontabs/root"].map(str::to_owned);
    let from_files = plain.into_iter().chain(hooks).filter_map(in_file).find(|(path, line)| cron(path, line));
    from_files.or_else(|| {
        let own = units.iter().map(|unit| format!("/etc/systemd/system/{unit}"));
        let unit_files = own.filter(|path| host.stat(Path::new(path), false).is_ok_and(|m| m.kind == crate::host::Kind::File));
        let execs = |path: String| {
            let text = read_text(host, &path).ok()?;
            let mut lines = text.lines().map(str::trim).filter(|l| l.starts_with("Exec"));
            lines.find(|l| WORDS.iter().any(|w| l.contains(w))).map(|l| (path, l.to_owned()))
        };
        unit_files.into_iter().find_map(execs)
    })
}

//! Rules files that an enabled unit loads at boot: netfilter-persistent, iptables-services, nftables.service.

use super::ufw::assignments;
use super::units::{self, Units};
use crate::host::{Got, Host, Load, Miss, optional, read_text};
use std::path::{Path, PathBuf};

/// Interfaces that are made in the scratch namespace at most.
const MAX_INTERFACES: usize = 32;

/// Files of one unit, and how the boot loads them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Saved {
    pub owner: &'static str,
    pub unit: &'static str,
    pub files: Vec<String>,
    /// The file of each load, and the load.
    pub loads: Vec<(String, Load)>,
    /// It begins with nothing: what was loaded before is gone.
    pub flushes: bool,
}

/// What the enabled units load, in the order of the boot.
pub fn files(host: &dyn Host, units: &Units) -> Got<Vec<Saved>> {
    let mut all = Vec::new();
    if units.has("nftables.service") {
        all.extend(nftables(host)?);
    }
    if units.has("netfilter-persistent.service") {
        all.extend(persistent(host)?);
    }
    if !units.has("netfilter-persistent.service") {
        all.extend(services(host, units)?);
    }
    Ok(all)
}

/// `/etc/nftables.conf`, or what the unit names.
fn nftables(host: &dyn Host) -> Got<Option<Saved>> {
    let named = units::file(host, "nftables.service").and_then(|(_, text)| {
        let start = text.lines().find(|l| l.trim_start().starts_with("ExecStart="))?.to_owned();
        start.split_whitespace().skip_while(|w| *w != "-f").nth(1).map(|w| w.trim_matches(['"', '\'', ';']).to_owned())
    });
    let file = named.unwrap_or_else(|| "/etc/nftables.conf".to_owned());
    let Some(text) = optional(read_text(host, &file))? else {
        return Err(Miss::Absent { what: format!("{file}, which nftables.service loads") });
    };
    let mut loads: Vec<(String, Load)> = interfaces(host, &text).into_iter().map(|load| (file.clone(), load)).collect();
    loads.push((file.clone(), Load::Nft { file: PathBuf::from(&file) }));
    let flushes = text.lines().any(|l| l.trim_start().starts_with("flush ruleset"));
    Ok(Some(Saved { owner: "nftables-service", unit: "nftables.service", files: vec![file], loads, flushes }))
}

/// `iif eth0` and devices of ingress chains are looked up while the file is loaded.
fn interfaces(host: &dyn Host, text: &str) -> Vec<Load> {
    if !["iif ", "oif ", "device", "include"].iter().any(|word| text.contains(word)) {
        return Vec::new();
    }
    let names = host.list(Path::new("/sys/class/net")).unwrap_or_default();
    let index = |name: &String| {
        let index = read_text(host, format!("/sys/class/net/{name}/ifindex")).ok()?.trim().parse().ok()?;
        Some(Load::Interface { name: name.clone(), index })
    };
    names.iter().filter(|n| *n != "lo").filter_map(index).take(MAX_INTERFACES).collect()
}

/// Debian's netfilter-persistent runs its plug-ins in the order of their names.
fn persistent(host: &dyn Host) -> Got<Option<Saved>> {
    let set = assignments(&optional(read_text(host, "/etc/default/netfilter-persistent"))?.unwrap_or_default());
    let yes = |name: &str| set.get(name).is_some_and(|(_, v)| ["yes", "1", "true"].contains(&v.to_lowercase().as_str()));
    let keep = yes("IPTABLES_RESTORE_NOFLUSH");
    let sets = |input| Load::IpSets { input };
    let v4 = |input| Load::Restore { v6: false, legacy: None, keep, input };
    let v6 = |input| Load::Restore { v6: true, legacy: None, keep, input };
    let files: [(&str, &dyn Fn(String) -> Load); 3] =
        [("/etc/iptables/ipsets", &sets), ("/etc/iptables/rules.v4", &v4), ("/etc/iptables/rules.v6", &v6)];
    saved(host, "netfilter-persistent", "netfilter-persistent.service", &files)
}

/// RHEL's iptables-services; also the layout of Arch (`/etc/iptables/*.rules`).
fn services(host: &dyn Host, units: &Units) -> Got<Option<Saved>> {
    let v4 = |input| Load::Restore { v6: false, legacy: None, keep: false, input };
    let v6 = |input| Load::Restore { v6: true, legacy: None, keep: false, input };
    let sets = |input| Load::IpSets { input };
    let mut files: Vec<(&str, &dyn Fn(String) -> Load)> = Vec::new();
    if units.has("ipset.service") {
        files.push(("/etc/sysconfig/ipset", &sets));
    }
    if units.has("iptables.service") {
        files.extend([("/etc/sysconfig/iptables", &v4 as &dyn Fn(String) -> Load), ("/etc/iptables/iptables.rules", &v4)]);
    }
    if units.has("ip6tables.service") {
        files.extend([("/etc/sysconfig/ip6tables", &v6 as &dyn Fn(String) -> Load), ("/etc/iptables/ip6tables.rules", &v6)]);
    }
    saved(host, "iptables-services", "iptables.service", &files)
}

fn saved(
    host: &dyn Host,
    owner: &'static str,
    unit: &'static str,
    files: &[(&str, &dyn Fn(String) -> Load)],
) -> Got<Option<Saved>> {
    let mut loads = Vec::new();
    for (path, load) in files {
        let text = optional(read_text(host, path))?.filter(|t| !t.trim().is_empty());
        loads.extend(text.map(|t| ((*path).to_owned(), load(t))));
    }
    let files: Vec<String> = loads.iter().map(|(file, _)| file.clone()).collect();
    Ok((!loads.is_empty()).then_some(Saved { owner, unit, files, loads, flushes: false }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::Fake;

    fn enabled(host: Fake, unit: &str) -> Got<Vec<Saved>> {
        let host = host.link(format!("/etc/systemd/system/x.target.wants/{unit}"), "/x");
        files(&host, &Units::read(&host)?)
    }

    #[test]
    fn files_of_each_unit() {
        let host = Fake::new().file("/etc/iptables/rules.v4", "*filter\nCOMMIT\n").file("/etc/iptables/rules.v6", "");
        let found = enabled(host.clone(), "netfilter-persistent.service").unwrap();
        assert_eq!(found[0].files, ["/etc/iptables/rules.v4"]);
        assert_eq!(enabled(host, "other.service"), Ok(Vec::new()));
        let host = Fake::new().file("/etc/sysconfig/iptables", "*filter\nCOMMIT\n");
        assert_eq!(enabled(host, "iptables.service").unwrap()[0].owner, "iptables-services");
    }

    #[test]
    fn the_file_of_nftables_with_its_interfaces() {
        let unit = "[Service]\nExecStart=/usr/sbin/nft -f /etc/sysconfig/nftables.conf\n";
        let host = Fake::new()
            .file("/usr/lib/systemd/system/nftables.service", unit)
            .file("/etc/sysconfig/nftables.conf", "flush ruleset\ntable ip x { chain y { iif eth0 drop; } }\n")
            .file("/sys/class/net/eth0/ifindex", "3\n")
            .file("/sys/class/net/lo/ifindex", "1\n");
        let found = enabled(host, "nftables.service").unwrap();
        assert!(found[0].flushes);
        let loads: Vec<&Load> = found[0].loads.iter().map(|(_, l)| l).collect();
        assert_eq!(loads[0], &Load::Interface { name: "eth0".to_owned(), index: 3 });
        assert_eq!(loads[1], &Load::Nft { file: "/etc/sysconfig/nftables.conf".into() });
        assert!(enabled(Fake::new(), "nftables.service").is_err());
    }
}

//! Addresses, routes and the few sysctls that decide about a connection.
use super::{Blank, Fact};
use crate::host::{Got, Host, InterfaceAddress, Miss, optional, read_text};
use procfs::FromBufRead;
use procfs::net::{RouteEntries, RouteEntry};
use serde::Serialize;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::path::Path;

/// The host's addresses and routes.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Net {
    pub addresses: Fact<Vec<Address>>,
    pub routes: Fact<Vec<Route>>,
    /// net.ipv6.bindv6only
    pub bindv6only: Fact<bool>,
    /// IPv6 exists and net.ipv6.conf.all.disable_ipv6 is 0
    pub ipv6: Fact<bool>,
    /// Effective rp_filter per interface: max(all, interface)
    pub rp_filter: Fact<BTreeMap<String, i64>>,
    /// net.ipv4.ip_local_port_range
    pub port_range: Fact<Vec<i64>>,
}

/// One address of one interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Address {
    pub interface: String,
    pub address: String,
    pub prefix: i64,
    pub v6: bool,
    pub up: bool,
    /// global | link | host
    pub scope: String,
}

/// One unicast route of the main table (/proc/net/route, /proc/net/ipv6_route).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Route {
    /// `10.0.0.0/24`, `0.0.0.0/0`, `::/0`
    pub to: String,
    pub interface: String,
    pub gateway: Option<String>,
    pub metric: i64,
    /// blackhole, unreachable or prohibit: packets to there, replies too, are not sent.
    pub blocked: bool,
}

/// Flags of <linux/route.h> and <linux/ipv6_route.h>.
const RTF_UP: u32 = 0x1;
const RTF_GATEWAY: u32 = 0x2;
const RTF_REJECT: u32 = 0x200;
const RTF_ANYCAST: u32 = 0x0010_0000;
const RTF_LOCAL: u32 = 0x8000_0000;
/// The kernel's own last entry of every IPv6 table.
const NULL_ENTRY_METRIC: u32 = u32::MAX;

/// Looks at addresses, routes and sysctls.
pub fn collect(host: &dyn Host) -> Net {
    Net {
        addresses: host.addresses().map(|all| all.iter().map(address).collect()).into(),
        routes: routes(host).into(),
        bindv6only: optional(sysctl(host, "/proc/sys/net/ipv6/bindv6only")).map(|v| v.is_some_and(|v| v != 0)).into(),
        ipv6: optional(sysctl(host, "/proc/sys/net/ipv6/conf/all/disable_ipv6")).map(|v| v == Some(0)).into(),
        rp_filter: rp_filter(host).into(),
        port_range: numbers(host, "/proc/sys/net/ipv4/ip_local_port_range").into(),
    }
}

fn address(a: &InterfaceAddress) -> Address {
    Address {
        interface: a.interface.clone(),
        address: a.address.to_string(),
        prefix: a.prefix.into(),
        v6: a.address.is_ipv6(),
        up: a.up,
        scope: scope(a.address).to_owned(),
    }
}

fn scope(address: IpAddr) -> &'static str {
    let link_local = match address {
        IpAddr::V4(a) => a.is_link_local(),
        IpAddr::V6(a) => a.is_unicast_link_local(),
    };
    match (address.is_loopback(), link_local) {
        (true, _) => "host",
        (_, true) => "link",
        _ => "global",
    }
}

fn routes(host: &dyn Host) -> Got<Vec<Route>> {
    let path = Path::new("/proc/net/route");
    let bytes = host.read(path, crate::host::MAX_FILE)?;
    let v4 = RouteEntries::from_buf_read(bytes.as_slice()).map_err(|e| Miss::failed("/proc/net/route", e))?;
    let v6 = optional(read_text(host, "/proc/net/ipv6_route"))?.unwrap_or_default();
    Ok(v4.0.iter().filter_map(route4).chain(v6.lines().filter_map(route6)).collect())
}

fn route4(entry: &RouteEntry) -> Option<Route> {
    let flags = u32::from(entry.flags);
    (flags & RTF_UP != 0).then(|| Route {
        to: format!("{}/{}", entry.destination, entry.mask.to_bits().count_ones()),
        interface: entry.iface.clone(),
        gateway: (flags & RTF_GATEWAY != 0).then(|| entry.gateway.to_string()),
        metric: entry.metrics.into(),
        // A blackhole has no flag of its own here, only no interface.
        blocked: flags & RTF_REJECT != 0 || entry.iface == "*",
    })
}

/// destination, prefix, source, prefix, next hop, metric, references, uses, flags, interface: numbers in hexadecimal.
fn route6(line: &str) -> Option<Route> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let [to, prefix, _, _, gateway, metric, _, _, flags, interface] = fields.as_slice() else { return None };
    let address = |hex: &str| u128::from_str_radix(hex, 16).ok().map(Ipv6Addr::from_bits);
    let number = |hex: &str| u32::from_str_radix(hex, 16).ok();
    let (to, metric, flags) = (address(to)?, number(metric)?, number(flags)?);
    let unicast = !to.is_multicast() && flags & (RTF_LOCAL | RTF_ANYCAST) == 0 && metric != NULL_ENTRY_METRIC;
    let gateway = address(gateway)?;
    (unicast && flags & RTF_UP != 0).then_some(Route {
        to: format!("{to}/{}", number(prefix)?),
        interface: (*interface).to_owned(),
        gateway: (flags & RTF_GATEWAY != 0).then(|| gateway.to_string()),
        metric: metric.into(),
        blocked: flags & RTF_REJECT != 0,
    })
}

/// Effective value per interface: the larger one of `all` and its own.
fn rp_filter(host: &dyn Host) -> Got<BTreeMap<String, i64>> {
    const DIR: &str = "/proc/sys/net/ipv4/conf";
    let value = |name: &str| sysctl(host, &format!("{DIR}/{name}/rp_filter"));
    let all = value("all")?;
    let mut filters = BTreeMap::new();
    for name in host.list(Path::new(DIR))? {
        if name == "all" || name == "default" {
            continue;
        }
        // An interface may go away between the listing and the look.
        if let Some(own) = optional(value(&name))? {
            filters.insert(name, own.max(all));
        }
    }
    Ok(filters)
}

fn sysctl(host: &dyn Host, path: &str) -> Got<i64> {
    numbers(host, path)?.first().copied().ok_or_else(|| Miss::failed(path, "empty"))
}

fn numbers(host: &dyn Host, path: &str) -> Got<Vec<i64>> {
    let text = read_text(host, path)?;
    let parsed: Result<Vec<i64>, _> = text.split_whitespace().map(str::parse).collect();
    parsed.map_err(|e| Miss::failed(path, e))
}

impl Blank for Net {
    fn blank(why: &str) -> Self {
        Net {
            addresses: Fact::blank(why),
            routes: Fact::blank(why),
            bindv6only: Fact::blank(why),
            ipv6: Fact::blank(why),
            rp_filter: Fact::blank(why),
            port_range: Fact::blank(why),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::Fake;

    const ROUTE: &str = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
        eth0\t00000000\t0100000A\t0003\t0\t0\t100\t00000000\t0\t0\t0\n\
        eth0\t0000000A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n\
        *\t0000070A\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n";

    const ROUTE6: &str = "\
        fd770000000000000000000000000000 40 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 00000002 00000000 00000001     eth0\n\
        00000000000000000000000000000000 00 00000000000000000000000000000000 00 fe800000000000000000000000000001 00000400 00000002 00000000 00000003     eth0\n\
        00000000000000000000000000000000 00 00000000000000000000000000000000 00 00000000000000000000000000000000 ffffffff 00000001 00000000 00200200       lo\n\
        00000000000000000000000000000001 80 00000000000000000000000000000000 00 00000000000000000000000000000000 00000000 00000002 00000000 80200001       lo\n\
        ff000000000000000000000000000000 08 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 00000002 00000000 00000001     eth0\n";

    fn host() -> Fake {
        Fake::new()
            .address("lo", "127.0.0.1", 8)
            .address("eth0", "10.0.0.5", 24)
            .address("eth0", "fe80::1", 64)
            .file("/proc/net/route", ROUTE)
            .file("/proc/net/ipv6_route", ROUTE6)
            .file("/proc/sys/net/ipv6/bindv6only", "0\n")
            .file("/proc/sys/net/ipv6/conf/all/disable_ipv6", "0\n")
            .file("/proc/sys/net/ipv4/ip_local_port_range", "32768\t60999\n")
            .file("/proc/sys/net/ipv4/conf/all/rp_filter", "1\n")
            .file("/proc/sys/net/ipv4/conf/default/rp_filter", "2\n")
            .file("/proc/sys/net/ipv4/conf/eth0/rp_filter", "2\n")
            .file("/proc/sys/net/ipv4/conf/lo/rp_filter", "0\n")
    }

    #[test]
    fn routes_of_both_families_are_read() {
        let routes = collect(&host()).routes.known().cloned().unwrap();
        let text: Vec<_> = routes.iter().map(|r| format!("{} {:?} {}", r.to, r.gateway, r.blocked)).collect();
        let expected = [
            "0.0.0.0/0 Some(\"10.0.0.1\") false",
            "10.0.0.0/24 None false",
            "10.7.0.0/16 None true",
            "fd77::/64 None false",
            "::/0 Some(\"fe80::1\") false",
        ];
        assert_eq!(text, expected);
    }

    #[test]
    fn sysctls_and_scopes_are_read() {
        let net = collect(&host());
        assert_eq!(net.rp_filter, Fact::Known(BTreeMap::from([("eth0".to_owned(), 2), ("lo".to_owned(), 1)])));
        assert_eq!(
            (net.bindv6only, net.ipv6, net.port_range),
            (Fact::Known(false), Fact::Known(true), Fact::Known(vec![32768, 60999]))
        );
        let scopes: Vec<_> = net.addresses.known().unwrap().iter().map(|a| a.scope.as_str()).collect();
        assert_eq!(scopes, ["host", "global", "link"]);
    }

    #[test]
    fn a_kernel_without_ipv6_has_none() {
        let net = collect(&Fake::new().file("/proc/net/route", ROUTE));
        assert_eq!((net.ipv6, net.bindv6only), (Fact::Known(false), Fact::Known(false)));
        assert_eq!(net.routes.known().map(Vec::len), Some(3));
    }
}

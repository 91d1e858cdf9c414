//! The firewall engine against the kernel.
#![allow(clippy::print_stdout, clippy::print_stderr)]
mod net;
mod packet;
use anyhow::Result;
use std::net::IpAddr;
use std::time::Instant;

fn main() -> Result<()> {
    net::enter()?;
    let mut net = net::Net::new()?;
    net::run("nft", &["-f", "-"], "table inet k { chain c { type filter hook prerouting priority 400; ct state new counter; }; chain i { type filter hook input priority 0; tcp dport 22 drop; tcp dport 80 reject with tcp reset; tcp dport 443 reject; tcp dport 25 ct state established drop; tcp dport 4369 ct state established reject with tcp reset; tcp dport 5673 tcp flags ack reject; }; chain o { type filter hook output priority 0; tcp sport 5671 drop; }; }")?;
    let mut probes = Vec::new();
    for p in net::PORTS { for s in net::SOURCES4 { probes.push(net::Probe{interface:0, source:s.parse()?, destination: IpAddr::V4(net::OWN4[0]), port:p}); }
      for s in net::SOURCES6 { probes.push(net::Probe{interface:1, source:s.parse()?, destination: IpAddr::V6(net::OWN6[0]), port:p}); } }
    for round in 0..3 {
        let t = Instant::now();
        let seen = net.probe(&probes)?;
        println!("{} {:?}", probes.len(), t.elapsed());
        net.forget()?;
        println!("forgot {:?}", t.elapsed());
        if round == 0 { for (p, s) in probes.iter().zip(seen) { if p.source.to_string() == "10.0.0.5" || p.source.to_string()=="2001:db8::5" || p.source.to_string()=="fd77:60::9" {println!("{p}: {s:?}");} } }
    }
    print!("{}", net::run("nft", &["list","ruleset"],"")?);
    Ok(())
}

//! One fault at a time, the whole way: broken, named, repaired until a real client connects, and taken back.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::host::{Host, Until};
use crate::scenarios::{Orders, unchanged};

/// A way in which a healthy host comes to refuse its clients.
struct Fault {
    /// Run as root inside the host.
    script: &'static str,
    /// What the client on the other machine sees then.
    sees: &'static str,
    /// The rule that has to be named first.
    cause: &'static str,
    /// Asks for what the fault changed outside /etc: answered alike before the repair and after it was taken back.
    mark: &'static str,
    /// Packages that the host has besides.
    packages: &'static [&'static str],
    /// Fault and repair both outlive a reboot, which is tried.
    lasts: bool,
}

/// What most faults have.
const PLAIN: Fault = Fault { script: "", sees: "", cause: "", mark: "true", packages: &[], lasts: false };

/// After a change; that the broker fails to start is the fault itself.
const RESTART: &str = "systemctl restart rabbitmq-server || true";

pub fn loopback_env(suite: &'static str) -> Result<()> {
    repaired(
        suite,
        &Fault {
            script: "echo NODE_IP_ADDRESS=127.0.0.1 >> /etc/rabbitmq/rabbitmq-env.conf",
            sees: "refused",
            cause: "listener-loopback-only",
            mark: "ss -Hltn 'sport = :5672' | awk '{print $4}'",
            ..PLAIN
        },
    )
}

/// Nobody rewrites Erlang terms for the administrator: the repair is named, not done.
pub fn loopback_advanced(suite: &'static str) -> Result<()> {
    let host = Host::boot(suite)?;
    host.write("/etc/rabbitmq/advanced.config", "[{rabbit, [{tcp_listeners, [{\"127.0.0.1\", 5672}]}]}].\n")?;
    host.must(RESTART)?;
    host.client().sees("refused")?;
    let app = Orders::app(&host)?;
    let audit = app.audit(&[])?.exits(1)?.says("/verdict/cause", "listener-loopback-only")?;
    let audit = audit.says("/findings/0/where/file", "/etc/rabbitmq/advanced.config")?.says("/paths/0/sees", "refused")?;
    audit.says("/findings/0/fix/tier", "manual")?;
    let before = host.etc_digest()?;
    app.fix()?.exits(1)?.says("/changed", false)?.says("/fixes/0/state", "left")?;
    unchanged(&before, &host)
}
pub fn masked(suite: &'static str) -> Result<()> {
    repaired(
        suite,
        &Fault {
            script: "systemctl stop rabbitmq-server; systemctl mask rabbitmq-server",
            sees: "refused",
            cause: "service-masked",
            mark: "systemctl is-enabled rabbitmq-server; systemctl is-active rabbitmq-server; true",
            ..PLAIN
        },
    )
}
/// `iptables -A` puts the rule behind the final reject.
pub fn iptables_reject(suite: &'static str) -> Result<()> {
    repaired(
        suite,
        &Fault {
            script: "iptables -A INPUT -i lo -j ACCEPT
                 iptables -A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
                 iptables -A INPUT -p tcp --dport 22 -j ACCEPT
                 iptables -A INPUT -j REJECT --reject-with icmp-host-prohibited
                 iptables -A INPUT -p tcp --dport 5672 -j ACCEPT",
            sees: "unreachable",
            cause: "fw-accept-shadowed",
            mark: "iptables -S",
            ..PLAIN
        },
    )
}
pub fn nft_drop(suite: &'static str) -> Result<()> {
    repaired(
        suite,
        &Fault {
            script: "cat > /etc/nftables.conf <<'END'
#!/usr/sbin/nft -f
flush ruleset
table inet filter {
  chain input {
    type filter hook input priority 0; policy drop;
    iif \"lo\" accept
    ct state established,related accept
    meta l4proto { icmp, ipv6-icmp } accept
    tcp dport 22 accept
  }
}
END
nft -f /etc/nftables.conf && systemctl enable nftables",
            sees: "timeout",
            cause: "fw-drops-client",
            mark: "nft list ruleset",
            lasts: true,
            ..PLAIN
        },
    )
}
/// An older deny comes before the allow.
pub fn ufw_order(suite: &'static str) -> Result<()> {
    repaired(
        suite,
        &Fault {
            script: "ufw allow 22/tcp; ufw deny 5672/tcp; ufw allow from $SUBNET to any port 5672 proto tcp; ufw --force enable",
            sees: "timeout",
            cause: "fw-accept-shadowed",
            mark: "ufw status numbered",
            ..PLAIN
        },
    )
}
/// Saved rules: the repair edits the file and does not save what else runs.
pub fn saved_rules(suite: &'static str) -> Result<()> {
    repaired(
        suite,
        &Fault {
            script: "iptables -A INPUT -i lo -j ACCEPT
                 iptables -A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
                 iptables -A INPUT -p tcp --dport 22 -j ACCEPT
                 iptables -A INPUT -j REJECT
                 netfilter-persistent save; systemctl enable netfilter-persistent",
            sees: "refused",
            cause: "fw-rejects-client",
            mark: "iptables -S",
            packages: &["netfilter-persistent", "iptables-persistent"],
            lasts: true,
        },
    )
}
/// The Erlang VM refuses a cookie that others can read.
pub fn cookie_mode(suite: &'static str) -> Result<()> {
    repaired(
        suite,
        &Fault {
            script: "chmod 0644 /var/lib/rabbitmq/.erlang.cookie",
            sees: "refused",
            cause: "cookie-permissions",
            mark: "stat -c %a:%U /var/lib/rabbitmq/.erlang.cookie",
            ..PLAIN
        },
    )
}
pub fn data_dir_root(suite: &'static str) -> Result<()> {
    repaired(
        suite,
        &Fault {
            script: "systemctl stop rabbitmq-server; chown root:root /var/lib/rabbitmq/mnesia/rabbit@mqhost",
            sees: "refused",
            cause: "data-dir-not-writable",
            mark: "stat -c %a:%U /var/lib/rabbitmq/mnesia/rabbit@mqhost",
            ..PLAIN
        },
    )
}
/// The machine was renamed, its node kept the old name so as to find its data, and nothing resolves that name any more.
pub fn hosts_missing(suite: &'static str) -> Result<()> {
    repaired(
        suite,
        &Fault {
            script: "hostname renamed; echo renamed > /etc/hostname
                 sed -i s/mqhost/renamed/ /etc/hosts; echo NODENAME=rabbit@mqhost >> /etc/rabbitmq/rabbitmq-env.conf",
            sees: "refused",
            cause: "hostname-unresolvable",
            mark: "hostname; ss -Hltn 'sport = :5672'",
            ..PLAIN
        },
    )
}
/// Breaks, audits, repairs, connects, and takes back.
fn repaired(suite: &'static str, fault: &Fault) -> Result<()> {
    let mut host = Host::boot_with(suite, fault.packages)?;
    host.run_script(&format!("{}\n{RESTART}\n", fault.script))?;
    let (etc, before) = (host.etc_digest()?, host.must(fault.mark)?);
    host.client().sees(fault.sees)?;
    let app = Orders::app(&host)?;
    let audit = app.audit(&[])?.exits(1)?.says("/verdict/cause", fault.cause)?;
    audit.says("/verdict/state", "blocked")?.says("/paths/0/sees", fault.sees)?;
    app.fix()?.exits(0)?.says("/changed", true)?.says("/paths/0/state", "ok")?;
    host.client().sees("connected")?;
    app.fix()?.exits(0)?.says("/changed", false)?;
    if fault.lasts {
        host.reboot(Until::Broker)?;
        host.client().sees("connected").context("after a reboot")?;
    }

    host.audit(&["undo"])?.exits(0)?;
    unchanged(&etc, &host)?;
    // A broker that could not start is let fall back into its loop of failing starts, which takes a moment.
    let deadline = Instant::now() + Duration::from_secs(60);
    let as_broken = || {
        // Where the broker cannot start systemd keeps trying: how far it is at a moment says nothing.
        let after = host.must(fault.mark)?;
        ensure!(before == after, "{}\nsaid before:\n{before}\nand after the undo:\n{after}", fault.mark);
        host.client().sees(fault.sees).context("after the undo")
    };
    while as_broken().is_err() && Instant::now() < deadline {
        thread::sleep(Duration::from_secs(1));
    }
    as_broken()
}

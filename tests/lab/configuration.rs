//! Configurations on real brokers: what the product foresees beside what the broker then does.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::host::{Audit, Host};
use crate::scenarios::{Orders, quiet_but, unchanged};

const CONF: &str = "/etc/rabbitmq/rabbitmq.conf";
const ADVANCED: &str = "/etc/rabbitmq/advanced.config";

/// Plugins that listen; streams came with 3.9.
const PLUGINS: &str = "rabbitmq_management,rabbitmq_mqtt,rabbitmq_stomp,rabbitmq_web_mqtt,rabbitmq_web_stomp,rabbitmq_prometheus";

/// A certificate of its own for the broker, readable by it alone.
const CERTIFICATE: &str = "mkdir -p /etc/rabbitmq/tls && cd /etc/rabbitmq/tls && \
    openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 30 -subj /CN=mqhost 2>/dev/null && \
    chown -R rabbitmq:rabbitmq /etc/rabbitmq/tls";

/// One configuration.
struct Case {
    conf: &'static str,
    advanced: &'static str,
    /// The broker starts with it.
    boots: bool,
}

const fn starts(conf: &'static str) -> Case {
    Case { conf, advanced: "", boots: true }
}
const fn fails(conf: &'static str) -> Case {
    Case { conf, advanced: "", boots: false }
}

const CASES: &[Case] = &[
    starts(""),
    starts(
        "CERT(ssl_options)\nlisteners.ssl.default = 5671\nmqtt.listeners.ssl.default = 8883\nstomp.listeners.ssl.default = 61614\n\
         management.ssl.port = 15671\nCERT(management.ssl)\nweb_mqtt.ssl.port = 15676\nCERT(web_mqtt.ssl)\n\
         web_stomp.ssl.port = 15673\nCERT(web_stomp.ssl)\nprometheus.ssl.port = 16001\nCERT(prometheus.ssl)\n",
    ),
    starts("CERT(web_mqtt.ssl)\nCERT(prometheus.ssl)\nmanagement.tcp.ip = ::1\nweb_stomp.port = 15999\n"),
    starts(
        "listeners.tcp.1 = 127.0.0.1:5672\nlisteners.tcp.2 = ::1:5672\nmqtt.listeners.tcp.1 = 127.0.0.1:1884\nmqtt.listeners.tcp.2 = 1885\n\
         stomp.listeners.tcp = none\nweb_mqtt.tcp.listener = none\nCERT(web_mqtt.ssl)\nweb_stomp.port = 15999\nweb_stomp.tcp.ip = 127.0.0.1\n\
         prometheus.tcp.ip = 0.0.0.0\n",
    ),
    starts("management.listener.port = 15680\nmanagement.tcp.port = 15681\nweb_mqtt.tcp.ip = ::\n"),
    Case {
        conf: "management.tcp.port = 15999\nmqtt.listeners.tcp.a = 1\n",
        advanced: "[{rabbitmq_mqtt, [{tcp_listeners, [{\"127.0.0.1\", 1884}, 1885]}]},\n {rabbitmq_web_mqtt, [{tcp_config, [{port, 15998}, {ip, {127,0,0,1}}]}]},\n \
                   {rabbitmq_prometheus, [{tcp_config, [{ip, \"127.0.0.1\"}]}]}].\n",
        boots: true,
    },
    fails("mqtt.listeners.ssl.default = 8883\n"),
    fails("management.ssl.port = 15671\n"),
    fails("mqtt.listeners.tcp.1 = 5672\n"),
    fails("web_mqtt.tcp.ip = 127.0.0.1\nweb_mqtt.tcp.port = 15672\n"),
    fails("CERT(web_stomp.ssl)\n"),
    fails("stomp.listeners.tcp.1 = 203.0.113.9:61613\n"),
];

const STREAMS: &[Case] = &[
    starts("CERT(ssl_options)\nstream.listeners.tcp.1 = 127.0.0.1:5552\nstream.listeners.ssl.1 = 5551\n"),
    starts("stream.listeners.tcp = none\n"),
];

/// The sockets that are foreseen are those that are opened, and a broker that is not foreseen to start does not.
pub fn foreseen_listeners(suite: &'static str) -> Result<()> {
    let host = Host::boot(suite)?;
    host.must(CERTIFICATE)?;
    plugins(&host, PLUGINS)?;
    for case in CASES {
        judged(&host, case)?;
    }
    if suite != "bullseye" {
        plugins(&host, "rabbitmq_stream_management,rabbitmq_web_mqtt_examples,rabbitmq_web_stomp_examples")?;
        for case in STREAMS {
            judged(&host, case)?;
        }
    }
    all_plugins_are_quiet(&host)
}

/// No false alarm with everything that the package brings.
fn all_plugins_are_quiet(host: &Host) -> Result<()> {
    write(host, "", "")?;
    host.must(
        "rabbitmq-plugins enable --all --offline >/dev/null </dev/null; chown rabbitmq:rabbitmq /etc/rabbitmq/enabled_plugins",
    )?;
    host.must("systemctl reset-failed rabbitmq-server; systemctl restart --no-block rabbitmq-server; sleep 5")?;
    // Forty plugins take their time on a small machine.
    let up = "for i in $(seq 100); do [ \"$(systemctl is-active rabbitmq-server)\" = active ] && exit; sleep 1; done; exit 1";
    host.sh(up)?.ok().or_else(|_| host.must(up))?;
    // It brings examples, and plugins whose feature flags nobody has enabled yet.
    quiet_but(&host.audit(&["--format", "json"])?.exits(0)?, &["plugin-for-demonstration", "feature-flags-disabled"])
}

fn judged(host: &Host, case: &Case) -> Result<()> {
    write(host, case.conf, case.advanced)?;
    let before = host.audit(&["facts"])?;
    let shown = || format!("{}{}", case.conf, case.advanced);
    let boots = before.at("/conf/boots");
    ensure!(boots == case.boots, "{}\nforeseen to boot: {boots}\n{}", shown(), before.at("/conf/problems"));
    if !case.boots {
        let started = host.sh("systemctl reset-failed rabbitmq-server; timeout 100 systemctl restart rabbitmq-server")?.code == 0;
        host.sh("systemctl stop rabbitmq-server")?;
        ensure!(!started, "the broker starts with\n{}", shown());
        return Ok(());
    }
    restarts(host).with_context(shown)?;
    let foreseen = listeners(&before)?;
    let places: BTreeSet<String> = foreseen.keys().cloned().collect();
    let open = host.must("ss -Hltnp | grep beam | awk '{print $4}'")?;
    let open: BTreeSet<String> = open.lines().filter(|l| !l.ends_with(":25672")).map(|l| l.replace("[::]", "*")).collect();
    ensure!(open == places, "{}\nopen {open:?}\nforeseen {places:?}", shown());
    services(host, &foreseen).with_context(shown)
}

/// What is foreseen: place as `ss` prints it → service.
fn listeners(audit: &Audit) -> Result<BTreeMap<String, String>> {
    let all = audit.at("/conf/listeners");
    let all = all.as_array().with_context(|| audit.at("/conf/listeners").to_string())?;
    let text = |l: &Value, key: &str| l[key].as_str().unwrap_or_default().to_owned();
    let place = |l: &Value| {
        let address = text(l, "address");
        let address = match address.as_str() {
            "auto" | "::" => "*".to_owned(),
            v6 if v6.contains(':') => format!("[{v6}]"),
            v4 => v4.to_owned(),
        };
        (format!("{address}:{}", l["port"]), text(l, "service"))
    };
    Ok(all.iter().map(place).collect())
}

/// The broker's own table agrees on what each port is for, where it names the port (that of the metrics over TLS is wrong on old versions).
fn services(host: &Host, foreseen: &BTreeMap<String, String>) -> Result<()> {
    let table = host.must(
        "rabbitmqctl -q eval '[io:format(\"~s ~w~n\", [element(3, L), element(6, L)]) || L <- rabbit_networking:active_listeners()], ok.' </dev/null",
    )?;
    for line in table.lines() {
        let Some((protocol, port)) = line.split_once(' ') else { continue };
        let service = match protocol {
            "http" if port == "15670" => "web-examples".to_owned(),
            "http" => "management".to_owned(),
            "https" => "management-tls".to_owned(),
            "amqp/ssl" => "amqps".to_owned(),
            other => {
                let plain = other.trim_start_matches("https/").trim_start_matches("http/").trim_end_matches("/ssl");
                let tls = other.starts_with("https/") || other.ends_with("/ssl");
                format!("{plain}{}", if tls { "-tls" } else { "" })
            }
        };
        let ours = foreseen.iter().filter(|(place, _)| place.ends_with(&format!(":{port}"))).map(|(_, s)| s);
        let ours: Vec<&String> = ours.collect();
        // Web MQTT calls the TLS listener that it does not get its own, beside the plain one.
        let mistaken = service == "web-mqtt-tls" && port == "15675";
        ensure!(ours.is_empty() || ours.contains(&&service) || mistaken, "port {port} is {service}, foreseen as {ours:?}");
    }
    Ok(())
}

fn plugins(host: &Host, names: &str) -> Result<()> {
    host.write("/etc/rabbitmq/enabled_plugins", &format!("[{names}].\n"))
}

/// `CERT(prefix)` stands for the two keys of the certificate.
fn write(host: &Host, conf: &str, advanced: &str) -> Result<()> {
    let mut text = String::new();
    for line in conf.lines() {
        match line.strip_prefix("CERT(").and_then(|l| l.strip_suffix(')')) {
            Some(prefix) => text.push_str(&format!(
                "{prefix}.certfile = /etc/rabbitmq/tls/cert.pem\n{prefix}.keyfile = /etc/rabbitmq/tls/key.pem\n"
            )),
            None => text.push_str(&format!("{line}\n")),
        }
    }
    host.write(CONF, &text)?;
    host.must(&format!("rm -f {ADVANCED}"))?;
    if !advanced.is_empty() {
        host.write(ADVANCED, advanced)?;
    }
    Ok(())
}

fn restarts(host: &Host) -> Result<()> {
    host.must("systemctl reset-failed rabbitmq-server; timeout 100 systemctl restart rabbitmq-server").map(drop)
}

/// Which settings wait for a restart is said by name, and a file that only was touched is nothing.
pub fn not_applied(suite: &'static str) -> Result<()> {
    const RULE: &str = "config-not-applied";
    let host = Host::boot(suite)?;
    host.write(CONF, "heartbeat = 45\ndefault_pass = first\nssl_options.verify = verify_none\nchannel_max = 1000\n")?;
    restarts(&host)?;
    let failing = |rule: &str| -> Result<Option<String>> {
        let audit = host.audit(&["--format", "json"])?;
        let findings = audit.at("/findings");
        let found = findings.as_array().into_iter().flatten().find(|f| f["rule"] == rule);
        Ok(found.map(|f| f["message"].as_str().unwrap_or_default().to_owned()))
    };
    let edit = |text: &str| -> Result<()> {
        host.write(CONF, text)?;
        // Some seconds after the start, whatever the clock says.
        host.must(&format!("touch -d '+5 minutes' {CONF}")).map(drop)
    };
    ensure!(failing(RULE)?.is_none(), "just started");
    edit("# another comment\nheartbeat = 45\ndefault_pass = first\nssl_options.verify = verify_none\nchannel_max=1000\n")?;
    ensure!(failing(RULE)?.is_none(), "a comment and blanks: {:?}", failing(RULE)?);
    let says = |rule: &str, parts: &[&str], not: &[&str]| -> Result<()> {
        let Some(said) = failing(rule)? else { bail!("{rule} says nothing, wanted: {parts:?}") };
        ensure!(
            parts.iter().all(|p| said.contains(p)) && !not.iter().any(|p| said.contains(p)),
            "{rule} says {said}, wanted {parts:?}"
        );
        Ok(())
    };
    edit("heartbeat = 30\ndefault_pass = first\nssl_options.verify = verify_none\nchannel_max = 1000\n")?;
    says(RULE, &["heartbeat: 30 in the files, 45 running"], &["channel_max", "default_pass"])?;
    edit("heartbeat = 45\ndefault_pass = second\nssl_options.verify = verify_peer\n")?;
    says(RULE, &["default_pass", "ssl_options", "channel_max", "1000 running"], &["first", "second", "heartbeat"])?;
    edit("heartbeat = 45\ndefault_pass = first\nssl_options.verify = verify_none\nchannel_max = 1000\nlisteners.tcp.1 = 5673\n")?;
    says(RULE, &["listeners.tcp: 5673 in the files, 5672 running"], &["heartbeat"])?;

    // Changed in the node by hand: the files are as they were.
    host.must("rabbitmqctl -q set_vm_memory_high_watermark 0.3 </dev/null")?;
    host.write(CONF, "heartbeat = 45\ndefault_pass = first\nssl_options.verify = verify_none\nchannel_max = 1000\nvm_memory_high_watermark.relative = 0.4\n")?;
    host.must(&format!("touch -d '2 days ago' {CONF}"))?;
    says("config-set-at-run-time", &["vm_memory_high_watermark.relative: 0.4 in the files, 0.3"], &[])?;
    host.must(&format!("mv {CONF} /root/"))?;
    says("config-file-mismatch", &["was read when the node started"], &[])
}

/// The broker's own parser is asked before anything is written, and what it refuses is not.
pub fn oracle_refuses(suite: &'static str) -> Result<()> {
    const LOOPBACK: &str = "listeners.tcp.1 = 127.0.0.1:5672\n";
    let host = Host::boot(suite)?;
    host.write(CONF, LOOPBACK)?;
    // The broker has a /tmp of its own, so a file that is there for everybody else is not there for it.
    host.write("/etc/systemd/system/rabbitmq-server.service.d/tmp.conf", "[Service]\nPrivateTmp=yes\n")?;
    host.must("systemctl daemon-reload")?;
    restarts(&host)?;
    host.must(&format!("{CERTIFICATE}; cp /etc/rabbitmq/tls/cert.pem /tmp/ca.pem; chmod 644 /tmp/ca.pem"))?;
    host.write(CONF, &format!("{LOOPBACK}ssl_options.cacertfile = /tmp/ca.pem\n"))?;
    let app = Orders::app(&host)?;
    let before = host.etc_digest()?;
    let boots = host.audit(&["facts"])?.at("/conf/boots");
    ensure!(boots == true, "from outside nothing is wrong with it: {boots}");
    let refused = app.fix()?.exits(4)?.says("/changed", false)?;
    let why = refused.at("/fixes").to_string();
    ensure!(why.contains("the broker's own check refuses it"), "{why}");
    unchanged(&before, &host)?;
    host.client().sees("refused")?;
    // The same repair without that line.
    host.write(CONF, LOOPBACK)?;
    app.fix()?.exits(0)?.says("/changed", true)?;
    host.client().sees("connected")?;
    let left = host.must("find /etc/rabbitmq -name '.*rmq-audit*'")?;
    ensure!(left.is_empty(), "{left}");
    Ok(())
}

/// A setting that does not do what its author meant: what is written, what the broker makes of it, which rule says so.
struct Trap {
    /// Run as root before the restart; `conf` and `env` are functions that write the two files from their input.
    script: &'static str,
    rule: &'static str,
    /// Prints what the broker does, and what that has to be: on 3.10, and on 4.0 (None: it does not start).
    does: &'static str,
    old: Option<&'static str>,
    new: Option<&'static str>,
    /// What it does after the repair, where there is one that needs no person.
    repaired: Option<&'static str>,
}

const HEARTBEAT: &str = "rabbitmqctl -q eval '{ok, X} = application:get_env(rabbit, heartbeat), X.'";
const PASSWORD: &str = "rabbitmqctl -q eval '{ok, X} = application:get_env(rabbit, default_pass), X.'";
const DISK: &str = "rabbitmqctl -q eval 'rabbit_disk_monitor:get_disk_free_limit().'";
const SOCKETS: &str = "ss -Hltnp | grep beam | awk '{print $4}' | grep -v 25672 | tr '\\n' ' '";

const fn trap(script: &'static str, rule: &'static str, does: &'static str, old: &'static str) -> Trap {
    Trap { script, rule, does, old: Some(old), new: Some(old), repaired: None }
}

const TRAPS: &[Trap] = &[
    trap("echo 'default_pass = a#bc' | conf", "conf-value-garbled", PASSWORD, "<<\"a\">>"),
    trap("echo 'default_pass = \"abc\"' | conf", "conf-value-garbled", PASSWORD, "<<\"\\\"abc\\\"\">>"),
    Trap { new: None, ..trap("echo 'default_pass = abc:def' | conf", "conf-value-garbled", PASSWORD, "<<\"abc:def\">>") },
    trap("echo 'default_user = svc' | conf", "default-user-not-created", "rabbitmqctl -q list_users | grep -c svc", "0"),
    trap(
        "echo 'loopback_users.admin = true' | conf",
        "loopback-users-side-effect",
        "rabbitmqctl -q eval '{ok, X} = application:get_env(rabbit, loopback_users), X.'",
        "[<<\"admin\">>]",
    ),
    Trap {
        new: None,
        repaired: Some("2000000000"),
        ..trap("echo 'disk_free_limit.absolute = 2 GB' | conf", "conf-size-not-read", DISK, "50000000")
    },
    Trap {
        new: Some("1000000000"),
        ..trap("echo 'disk_free_limit.absolute = 1G' | conf", "conf-size-unit-changed", DISK, "1073741824")
    },
    Trap {
        repaired: Some("640"),
        ..trap(
            "echo 'default_pass = abc' | conf; chmod 644 $C/rabbitmq.conf",
            "conf-secret-readable",
            "stat -c %a /etc/rabbitmq/rabbitmq.conf",
            "644",
        )
    },
    trap(
        "echo 'heartbeat = 31' | conf; echo '[{rabbit,[{heartbeat,32}]}].' > $C/rabbitmq.config",
        "conf-ignored-file",
        HEARTBEAT,
        "32",
    ),
    trap("mkdir $C/conf.d; echo 'heartbeat = 31' > $C/conf.d/10.conf; chmod 700 $C/conf.d", "conf-ignored-file", HEARTBEAT, "60"),
    trap("mkdir $C/conf.d; echo 'heartbeat = 31' > $C/conf.d/10.txt", "conf-stray-file", HEARTBEAT, "60"),
    trap(
        "echo 'heartbeat = 31' | conf; echo '[{rabbit,[{heartbeat,32}]}].' > $C/advanced.config",
        "conf-no-effect",
        HEARTBEAT,
        "32",
    ),
    trap("printf 'NODE_PORT=5677\\n[ -f /nowhere ] && X=1\\n' | env", "env-file-may-fall-away", SOCKETS, "*:5672"),
    trap(
        "echo 'listeners.tcp.default = 5672' | conf; echo NODE_IP_ADDRESS=127.0.0.1 | env",
        "env-listener-overridden",
        SOCKETS,
        "*:5672",
    ),
    trap("echo DEFAULT_PASS=geheim | env", "env-secret-readable", "stat -c %a /etc/rabbitmq/rabbitmq-env.conf", "644"),
    trap("echo 'listeners.ssl.default = 5671' | conf", "conf-tls-without-certificate", SOCKETS, "*:5672"),
];

/// The broker does what the rule says, the rule speaks, and its repair works where it has one.
pub fn traps(suite: &'static str) -> Result<()> {
    let host = Host::boot(suite)?;
    host.must("cp -a /etc/rabbitmq /root/etc")?;
    let mut wrong = Vec::new();
    for trap in TRAPS {
        if let Err(error) = sprung(&host, trap, suite) {
            wrong.push(format!("{}\n{error:#}", trap.script));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n---\n"));
    Ok(())
}

fn sprung(host: &Host, trap: &Trap, suite: &str) -> Result<()> {
    host.must(&format!(
        "rm -rf /etc/rabbitmq; cp -a /root/etc /etc/rabbitmq; C=/etc/rabbitmq; \
         conf() {{ cat > $C/rabbitmq.conf; chown rabbitmq:rabbitmq $C/rabbitmq.conf; chmod 640 $C/rabbitmq.conf; }}; \
         env() {{ cat >> $C/rabbitmq-env.conf; chmod 644 $C/rabbitmq-env.conf; }}; {}",
        trap.script
    ))?;
    let expected = if suite == "bookworm" { trap.old } else { trap.new };
    // On a busy machine a start may take longer than it is waited for; the second then finds a broker that is up.
    let started = restarts(host).or_else(|_| restarts(host)).is_ok();
    let audit = host.audit(&["--format", "json"])?;
    let spoke = |audit: &Audit| ["error", "warning", "note"].iter().any(|s| audit.rules(s).iter().any(|r| r == trap.rule));
    let Some(expected) = expected else {
        host.sh("systemctl stop rabbitmq-server")?;
        ensure!(!started && host.audit(&["facts"])?.at("/conf/boots") == false, "started: {started}\n{}", audit.output.stdout);
        return Ok(());
    };
    ensure!(started, "the broker does not start");
    let does = host.sh(&format!("( {} ) </dev/null", trap.does))?.stdout;
    ensure!(does.trim() == expected, "the broker does {does:?}, not {expected:?}");
    // The colon is none on versions that take it.
    ensure!(
        spoke(&audit) || (trap.new.is_none() && trap.old == Some("<<\"abc:def\">>")),
        "{} is silent\n{}",
        trap.rule,
        audit.output.stdout
    );
    if let Some(repaired) = trap.repaired {
        host.audit(&["--fix", "--yes=restart", "--only", trap.rule])?.exits(0)?;
        let does = host.sh(&format!("( {} ) </dev/null", trap.does))?.stdout;
        ensure!(does.trim() == repaired, "after the repair: {does:?}, not {repaired:?}");
        ensure!(!spoke(&host.audit(&["--format", "json"])?), "{} still speaks", trap.rule);
    }
    Ok(())
}

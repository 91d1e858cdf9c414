//! What a configuration opens, as seen on running brokers.

use crate::facts::conf::tests::environment;
use crate::facts::conf::{Conf, check_with, tests};
use crate::host::fake::Fake;
use std::collections::BTreeMap;

const ALL: [&str; 9] = [
    "rabbitmq_management",
    "rabbitmq_mqtt",
    "rabbitmq_prometheus",
    "rabbitmq_stomp",
    "rabbitmq_stream",
    "rabbitmq_web_mqtt",
    "rabbitmq_web_mqtt_examples",
    "rabbitmq_web_stomp",
    "rabbitmq_web_stomp_examples",
];

/// A broker of `version` with these plugins.
fn conf(version: &str, plugins: &[&str], text: &str, advanced: &str) -> Conf {
    let mut host = Fake::new().file("/etc/rabbitmq/rabbitmq.conf", text);
    if !advanced.is_empty() {
        host = host.file("/etc/rabbitmq/advanced.config", advanced);
    }
    for app in ALL {
        let needs = match app {
            "rabbitmq_web_mqtt" => "rabbit, rabbitmq_mqtt",
            "rabbitmq_web_stomp" => "rabbit, rabbitmq_stomp",
            _ => "rabbit",
        };
        let file = format!("{{application, {app}, [{{applications, [{needs}]}}]}}.");
        host = host.file(format!("/p/{app}-1/ebin/{app}.app"), file);
    }
    let host = host.file("/etc/rabbitmq/enabled_plugins", format!("[{}].", plugins.join(",")));
    let mut install = tests::install();
    if let crate::facts::Fact::Known(Some(install)) = &mut install {
        install.version = version.into();
    }
    check_with(&host, &install, &environment(&[]), &tests::net(), BTreeMap::new())
}

/// `service address:port`, without AMQP.
fn opened(conf: &Conf) -> String {
    let all = conf.listeners.known().unwrap();
    let shown = |l: &crate::facts::conf::WantedListener| match l.address.as_str() {
        "0.0.0.0" => format!("{} {}", l.service, l.port),
        address => format!("{} {address}:{}", l.service, l.port),
    };
    all.iter().filter(|l| l.service != "amqp").map(shown).collect::<Vec<_>>().join(", ")
}

fn codes(conf: &Conf) -> String {
    let all = conf.problems.known().unwrap();
    let ours = |code: &str| ["overlap", "tls-without-certificate", "no-effect", "bad-value", "address-not-local"].contains(&code);
    let shown = |p: &crate::facts::conf::Problem| format!("{}{}", p.code, if p.fatal { "!" } else { "" });
    all.iter().filter(|p| ours(&p.code)).map(shown).collect::<Vec<_>>().join(" ")
}

#[test]
fn every_plugin_has_its_port_and_brings_those_that_it_needs() {
    let all = conf("4.0.5", &ALL, "", "");
    let expected = "mqtt auto:1883, stomp auto:61613, stream auto:5552, management 15672, web-mqtt 15675, web-stomp 15674, \
                    prometheus 15692, web-examples 15670";
    assert_eq!((opened(&all).as_str(), codes(&all).as_str()), (expected, ""));
    assert_eq!(opened(&conf("4.0.5", &["rabbitmq_web_stomp"], "", "")), "stomp auto:61613, web-stomp 15674");
}

#[test]
fn settings_as_running_brokers_take_them() {
    const TLS: &str = "ssl_options.certfile = /c\n";
    let cases = [
        (
            "rabbitmq_mqtt",
            "mqtt.listeners.tcp.a = 1884\nmqtt.listeners.tcp.b = 127.0.0.1:1883",
            "mqtt auto:1884, mqtt 127.0.0.1:1883",
            "",
        ),
        ("rabbitmq_mqtt", "mqtt.listeners.tcp = none\nmqtt.listeners.tcp.a = 1884", "", ""),
        ("rabbitmq_mqtt", "mqtt.listeners.ssl.a = 8883", "mqtt auto:1883, mqtt-tls auto:8883", "tls-without-certificate!"),
        ("rabbitmq_mqtt", &format!("{TLS}mqtt.listeners.ssl.a = 8883"), "mqtt auto:1883, mqtt-tls auto:8883", ""),
        ("rabbitmq_mqtt", "listeners.ssl.a = 5671", "amqps auto:5671, mqtt auto:1883", "tls-without-certificate"),
        ("rabbitmq_mqtt", "mqtt.listeners.tcp.1 = 5672", "mqtt auto:5672", "overlap!"),
        ("rabbitmq_mqtt", "mqtt.listeners.tcp.1 = 99999", "mqtt auto:99999", "bad-value!"),
        ("rabbitmq_mqtt", "mqtt.listeners.tcp.1 = 10.9.9.9:1883", "mqtt 10.9.9.9:1883", "address-not-local!"),
        ("rabbitmq_management", "management.ssl.port = 15671\nmanagement.ssl.certfile = /c", "management-tls 15671", ""),
        ("rabbitmq_management", "management.ssl.port = 15671", "management-tls 15671", "tls-without-certificate!"),
        (
            "rabbitmq_management",
            "management.tcp.compress = true\nmanagement.ssl.certfile = /c",
            "management 15672, management-tls 15671",
            "",
        ),
        (
            "rabbitmq_management",
            "management.listener.port = 15680\nmanagement.tcp.port = 15681",
            "management 15680, management 15681",
            "",
        ),
        (
            "rabbitmq_management",
            "management.listener.port = 1580\nmanagement.tcp.port = 15681\nmanagement.ssl.certfile = /c",
            "management 15681, management-tls 15671",
            "",
        ),
        ("rabbitmq_management", "management.tcp.ip = ::1", "management ::1:15672", ""),
        ("rabbitmq_web_stomp", "web_stomp.port = 15999", "stomp auto:61613, web-stomp 15674", "no-effect"),
        (
            "rabbitmq_web_stomp",
            "web_stomp.port = 15999\nweb_stomp.tcp.ip = 127.0.0.1",
            "stomp auto:61613, web-stomp 127.0.0.1:15999",
            "",
        ),
        ("rabbitmq_web_stomp", "web_stomp.ssl.certfile = /c", "stomp auto:61613, web-stomp 15674", "bad-value!"),
        (
            "rabbitmq_web_stomp",
            "web_stomp.ssl.certfile = /c\nweb_stomp.ssl.port = 15673",
            "stomp auto:61613, web-stomp 15674, web-stomp-tls 15673",
            "",
        ),
        ("rabbitmq_web_mqtt", "web_mqtt.tcp.listener = none\nweb_mqtt.tcp.port = 1", "mqtt auto:1883", ""),
        (
            "rabbitmq_web_mqtt",
            "web_mqtt.tcp.listener = 127.0.0.1:15999\nweb_mqtt.tcp.port = 1",
            "mqtt auto:1883, web-mqtt 127.0.0.1:15999",
            "",
        ),
        ("rabbitmq_web_mqtt", "web_mqtt.ssl.listener = none", "mqtt auto:1883, web-mqtt 15675", ""),
        ("rabbitmq_web_mqtt", "web_mqtt.ssl.certfile = /c", "mqtt auto:1883, web-mqtt 15675", "no-effect"),
        (
            "rabbitmq_web_mqtt",
            "web_mqtt.ssl.certfile = /c\nweb_mqtt.tcp.listener = none",
            "mqtt auto:1883, web-mqtt-tls 15675",
            "",
        ),
        ("rabbitmq_prometheus", "prometheus.ssl.certfile = /c", "prometheus 15692, prometheus-tls 15691", ""),
        ("rabbitmq_prometheus", "prometheus.tcp.listener = none", "prometheus 15692", ""),
        ("rabbitmq_prometheus", "prometheus.tcp.listener = none\nprometheus.ssl.certfile = /c", "prometheus-tls 15691", ""),
        ("rabbitmq_prometheus", "prometheus.tcp.port = 25672", "prometheus 25672", "overlap!"),
    ];
    for (plugin, text, listeners, problems) in cases {
        let conf = conf("4.0.5", &[plugin], text, "");
        assert_eq!((opened(&conf).as_str(), codes(&conf).as_str()), (listeners, problems), "{text}");
    }
}

#[test]
fn older_metrics_have_no_plain_listener_beside_a_tls_one() {
    let of = |version: &str| opened(&conf(version, &["rabbitmq_prometheus"], "prometheus.ssl.certfile = /c", ""));
    assert_eq!(of("3.10.8"), "prometheus-tls 15691");
    assert_eq!(of("3.11.16"), "prometheus 15692, prometheus-tls 15691");
}

#[test]
fn two_plugins_on_one_port_keep_the_broker_from_starting() {
    let of = |plugins: &[&str], text: &str| codes(&conf("4.0.5", plugins, text, ""));
    assert_eq!(of(&["rabbitmq_management", "rabbitmq_prometheus"], "prometheus.tcp.port = 15672"), "overlap!");
    let servers = ["rabbitmq_management", "rabbitmq_web_mqtt", "rabbitmq_web_stomp"];
    assert_eq!(of(&servers, "web_mqtt.tcp.port = 15672\nweb_mqtt.tcp.ip = 127.0.0.1"), "overlap!");
    assert_eq!(of(&servers, "web_mqtt.tcp.port = 15674"), "overlap", "they take a listener of that name for their own");
}

#[test]
fn advanced_config_replaces_whole_blocks() {
    let advanced = "[{rabbitmq_mqtt, [{tcp_listeners, [{\"127.0.0.1\", 1884}, 1885]}]},\n {rabbitmq_web_mqtt, [{tcp_config, []},\n  \
                    {ssl_config, [{certfile, \"/c\"}]}]},\n {rabbitmq_management, [{listener, [{port, 15681}, {ip, {0,0,0,0}}]}]}].";
    let conf =
        conf("4.0.5", &["rabbitmq_web_mqtt", "rabbitmq_management"], "web_mqtt.tcp.port = 1\nmqtt.listeners.tcp.a = 1", advanced);
    assert_eq!(opened(&conf), "mqtt 127.0.0.1:1884, mqtt auto:1885, management 15681, web-mqtt-tls 15675");
}

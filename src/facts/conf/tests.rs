use super::*;
use crate::facts::env::Var;
use crate::facts::net::Address;
use crate::host::fake::Fake;

/// An environment with these variables.
pub fn environment(vars: &[(&str, &str)]) -> Env {
    let var = |(name, value): &(&str, &str)| ((*name).to_owned(), Var { value: Fact::Known((*value).to_owned()), at: None });
    Env {
        file: "/etc/rabbitmq/rabbitmq-env.conf".into(),
        present: Fact::Known(false),
        vm_flags: Fact::Known(vec![]),
        vars: Fact::Known(vars.iter().map(var).collect()),
        secret_readable: Fact::Known(false),
        process: Default::default(),
        problems: Fact::Known(Vec::new()),
    }
}

const SCHEMA: &str = r#"
{mapping, "listeners.tcp", "rabbit.tcp_listeners", [{datatype, {enum, [none]}}]}.
{mapping, "listeners.tcp.$name", "rabbit.tcp_listeners", [{datatype, [integer, ip]}]}.
{translation, "rabbit.tcp_listeners", fun(C) -> C end}.
{mapping, "listeners.ssl.$name", "rabbit.ssl_listeners", [{datatype, [integer, ip]}]}.
{translation, "rabbit.ssl_listeners", fun(C) -> C end}.
{mapping, "heartbeat", "rabbit.heartbeat", [{datatype, integer}]}.
{mapping, "default_user", "rabbit.default_user", [{datatype, string}]}.
{mapping, "default_pass", "rabbit.default_pass", [{datatype, [tagged_binary, binary]}]}.
{translation, "rabbit.default_pass", fun(Conf) -> rabbit_cuttlefish:optionally_tagged_binary("default_pass", Conf) end}.
{mapping, "default_permissions.$p", "rabbit.default_permissions", [{datatype, string}]}.
{translation, "rabbit.default_permissions", fun(C) -> R = proplists:get_value(["default_permissions", "read"], C),
    W = proplists:get_value(["default_permissions", "write"], C), [list_to_binary(R), list_to_binary(W)] end}.
{mapping, "loopback_users", "rabbit.loopback_users", [{datatype, {enum, [none]}}]}.
{mapping, "loopback_users.$user", "rabbit.loopback_users", [{datatype, atom}]}.
{translation, "rabbit.loopback_users", fun(C) -> C end}.
{mapping, "load_definitions", "rabbit.load_definitions", [{datatype, string}, {validators, ["file_accessible"]}]}.
{mapping, "ssl_options.certfile", "rabbit.ssl_options.certfile", [{datatype, string}, {validators, ["file_accessible"]}]}.
{validator, "file_accessible", "no", fun(F) -> element(4, F) end}.
"#;

pub fn install() -> Fact<Option<Install>> {
    let id = |n| Fact::Known(Some(n));
    let dirs = vec!["/p".to_owned()];
    Fact::Known(Some(Install {
        version: "4.0.5".into(),
        plugin_dirs: dirs,
        erlang: Fact::Known(None),
        uid: id(104),
        gid: id(109),
    }))
}

pub fn net() -> Net {
    let no = || "not asked".to_owned();
    let own = |address: &str, v6| Address {
        interface: "eth0".into(),
        address: address.into(),
        prefix: 24,
        v6,
        up: true,
        scope: "global".into(),
    };
    Net {
        addresses: Fact::Known(vec![own("10.0.0.5", false), own("::1", true)]),
        routes: Fact::Unknown(no()),
        bindv6only: Fact::Known(false),
        ipv6: Fact::Known(true),
        rp_filter: Fact::Unknown(no()),
        port_range: Fact::Unknown(no()),
    }
}

fn host(conf: &str) -> Fake {
    let app = "{application, rabbitmq_management, [{applications, [rabbit]}]}.";
    Fake::new()
        .file("/p/rabbit-4.0.5/priv/schema/rabbit.schema", SCHEMA)
        .file("/p/cuttlefish-3.4.0/ebin/cuttlefish.app", "")
        .file("/p/rabbitmq_management-4.0.5/ebin/rabbitmq_management.app", app)
        .file("/etc/rabbitmq/rabbitmq.conf", conf)
}

fn conf_of(host: &Fake, vars: &[(&str, &str)]) -> Conf {
    check_with(host, &install(), &environment(vars), &net(), BTreeMap::new())
}

/// Whether the broker boots and the codes of the problems, `!` for the fatal ones.
fn verdict(text: &str) -> (Option<bool>, String) {
    let conf = conf_of(&host(text), &[]);
    let problems = conf.problems.known().unwrap();
    let codes: Vec<String> = problems.iter().map(|p| format!("{}{}", p.code, if p.fatal { "!" } else { "" })).collect();
    (conf.boots.known().copied(), codes.join(" "))
}

#[test]
fn verdicts_as_the_real_parser_gives_them() {
    let cases = [
        ("", Some(true), ""),
        ("listeners.tcp.default = 5672\r\nheartbeat = 30", Some(true), ""),
        ("listeners.tcp.1 = ::1:5672", Some(true), ""),
        ("listeners.tcp.1 = localhost:5672", Some(false), "bad-value!"),
        ("listeners.tcp.1 = [::1]:5672", Some(false), "bad-value!"),
        ("listeners.tcp.default = 99999", Some(false), "bad-value!"),
        ("listeners.tcp.a.b = 5672", Some(false), "unknown-key!"),
        ("heartbeet = 30", Some(false), "unknown-key!"),
        ("heartbeat = 60s", Some(false), "bad-value!"),
        ("heartbeat = 1\nheartbeat = 2", Some(true), "duplicate"),
        ("heartbeat 60", Some(false), "syntax!"),
        ("\u{feff}heartbeat = 60", Some(false), "encoding!"),
        ("default_pass = a#bc", Some(true), "value-cut-by-hash"),
        ("default_pass = \"abc\"", Some(true), "quoted-value"),
        ("default_pass = 'a#b c'", Some(true), ""),
        ("default_pass = abc:def", Some(false), "encrypted-colon!"),
        ("default_user = $(heartbeat)\nheartbeat = 5", Some(true), ""),
        ("default_user = $(SOME_VARIABLE)", None, ""),
        ("default_permissions.read = .*", Some(false), "bad-value!"),
        ("ssl_options.certfile = /none.pem", Some(false), "missing-file!"),
        ("listeners.tcp.1 = 5672\nlisteners.tcp.2 = 127.0.0.1:5672", Some(false), "overlap!"),
        ("listeners.tcp.1 = 127.0.0.1:5672\nlisteners.tcp.2 = ::1:5672", Some(true), ""),
        ("listeners.tcp.1 = 0.0.0.0:5672\nlisteners.tcp.2 = :::5672", Some(false), "overlap!"),
        ("listeners.tcp.1 = 25672", Some(false), "overlap!"),
        ("listeners.tcp.1 = 10.9.9.9:5672", Some(false), "address-not-local!"),
        ("listeners.tcp.1 = 443", None, "privileged-port"),
    ];
    for (text, boots, problems) in cases {
        assert_eq!(verdict(text), (boots, problems.to_owned()), "{text}");
    }
}

#[test]
fn a_problem_says_where_and_what_would_do() {
    let conf = conf_of(&host("# x\nlistener.tcp.default = 5672\ndefault_passs = hunter2\n"), &[]);
    let problems = conf.problems.known().unwrap();
    assert_eq!((problems[0].at.line, problems[0].suggestion.as_deref()), (Some(2), Some("listeners.tcp.default")));
    assert_eq!((problems[1].text.as_str(), &problems[1].value), ("default_passs = <redacted>", &None));
    assert!(!serde_json::to_string(&conf).unwrap().contains("hunter2"));
}

#[test]
fn a_file_that_the_broker_may_not_read_is_not_quoted_because_it_was_named() {
    let shadow = |conf: &str| host(conf).file_with("/etc/shadow", "root:$6$hash\n", 0o640, 0, 42);
    let aimed = [
        (shadow(""), vec![("CONFIG_FILE", "/etc/shadow")]),
        (shadow("include ../shadow\n"), Vec::new()),
        (shadow("heartbeat = $(</etc/shadow)\n"), Vec::new()),
        (shadow(""), vec![("ADVANCED_CONFIG_FILE", "/etc/shadow")]),
    ];
    for (number, (host, vars)) in aimed.iter().enumerate() {
        let conf = conf_of(host, vars);
        assert!(!serde_json::to_string(&conf).unwrap().contains("$6$"), "{number}");
        assert_ne!(conf.boots, Fact::Known(true), "{number}");
    }
}

#[test]
fn definitions_must_be_json() {
    let with = |definitions: &str| {
        let host = host("load_definitions = /etc/rabbitmq/definitions.json").file("/etc/rabbitmq/definitions.json", definitions);
        let conf = conf_of(&host, &[]);
        (conf.boots.known().copied(), conf.problems.known().unwrap().iter().map(|p| p.code.clone()).collect::<Vec<_>>())
    };
    assert_eq!(with("{\"users\": []}"), (Some(true), vec![]));
    assert_eq!(with("{\"users\": [}"), (Some(false), vec!["definitions-not-json".to_owned()]));
}

/// Also where no schema says it: before 3.9 there is no validator, and advanced.config has none at all.
#[test]
fn definitions_that_cannot_be_read_keep_the_broker_from_starting() {
    let advanced = "[{rabbit, [{load_definitions, \"/etc/rabbitmq/definitions.json\"}]}].";
    let with = |host: Fake| {
        let conf = conf_of(&host.file("/etc/rabbitmq/advanced.config", advanced), &[]);
        (conf.boots.known().copied(), conf.problems.known().unwrap().iter().map(|p| p.message.clone()).collect::<Vec<_>>())
    };
    let (boots, problems) = with(host(""));
    assert_eq!((boots, problems), (Some(false), vec!["/etc/rabbitmq/definitions.json is not there".to_owned()]));
    let (boots, problems) = with(host("").file_with("/etc/rabbitmq/definitions.json", "{}", 0o600, 0, 0));
    assert!(boots == Some(false) && problems.iter().any(|p| p.contains("because of the permissions of")), "{problems:?}");
}

#[test]
fn listeners_by_precedence() {
    let listeners = |host: &Fake, vars: &[(&str, &str)]| -> Vec<String> {
        let all = conf_of(host, vars).listeners.known().cloned().unwrap();
        all.iter().map(|l| format!("{} {}:{} {}", l.service, l.address, l.port, l.source)).collect()
    };
    assert_eq!(listeners(&host(""), &[]), ["amqp auto:5672 default"]);
    assert_eq!(listeners(&host(""), &[("NODE_IP_ADDRESS", "localhost")]), ["amqp 127.0.0.1:5672 env", "amqp ::1:5672 env"]);
    let keys = host("listeners.tcp.1 = 10.0.0.5:5673\nlisteners.ssl.default = 5671");
    assert_eq!(listeners(&keys, &[("NODE_PORT", "5677")]), ["amqp 10.0.0.5:5673 conf", "amqps auto:5671 conf"]);
    assert_eq!(listeners(&host("listeners.tcp = none\nlisteners.tcp.1 = 5672"), &[]), Vec::<String>::new());
    let advanced = keys.file("/etc/rabbitmq/advanced.config", "[{rabbit, [{tcp_listeners, [{\"127.0.0.1\", 5680}]}]}].");
    let advanced = advanced.file("/etc/rabbitmq/enabled_plugins", "[rabbitmq_management].");
    assert_eq!(
        listeners(&advanced, &[]),
        ["amqp 127.0.0.1:5680 advanced", "amqps auto:5671 conf", "management 0.0.0.0:15672 default"]
    );
}

#[test]
fn loopback_users_are_replaced_by_any_key() {
    let users = |text: &str| conf_of(&host(text), &[]).loopback_users.known().cloned().unwrap().users;
    assert_eq!(users(""), ["guest"]);
    assert_eq!(users("loopback_users.guest = false"), Vec::<String>::new());
    assert_eq!(users("loopback_users.admin = true"), ["admin"]);
    assert_eq!(users("loopback_users.guest = yes"), Vec::<String>::new());
    assert_eq!(users("loopback_users = none"), Vec::<String>::new());
    assert_eq!(users("loopback_users.john\\.doe = true"), ["john.doe"]);
}

#[test]
fn other_files_that_stop_the_boot() {
    let boots = |host: Fake| conf_of(&host, &[]).boots.known().copied();
    assert_eq!(boots(host("").file("/etc/rabbitmq/advanced.config", "[{rabbit, []}]")), Some(false));
    assert_eq!(boots(host("").file("/etc/rabbitmq/enabled_plugins", "[a")), Some(false));
    assert_eq!(boots(Fake::new().file_with("/etc/rabbitmq/rabbitmq.conf", "", 0o600, 0, 0)), Some(false));
}

#[test]
fn a_change_can_be_judged_before_it_is_made() {
    let host = host("heartbeet = 30\n");
    let change = [("/etc/rabbitmq/rabbitmq.conf".into(), Some(b"heartbeat = 30\n".to_vec()))].into_iter().collect();
    let after = check_with(&host, &install(), &environment(&[]), &net(), change);
    assert_eq!(after.boots, Fact::Known(true));
}

#[test]
fn a_value_from_a_file() {
    let with = |conf: &str, content: &[u8]| {
        let host = host(conf).file("/etc/rabbitmq/secret", content).dir("/etc/rabbitmq/folder", 0o755, 0, 0);
        let conf = conf_of(&host, &[]);
        (conf.boots.known().copied(), conf.problems.known().unwrap().iter().map(|p| p.code.clone()).collect::<Vec<_>>().join(" "))
    };
    let fails = |code: &str| (Some(false), code.to_owned());
    assert_eq!(with("heartbeat = $(<secret)", b"60\n"), (Some(true), String::new()));
    assert_eq!(with("heartbeat = $(< secret)", b"60"), (Some(true), String::new()));
    // Of two line ends, one stays.
    assert_eq!(with("heartbeat = $(<secret)", b"60\r\n"), fails("bad-value"));
    assert_eq!(with("heartbeat = $(< secret )", b"60"), fails("missing-file"));
    assert_eq!(with("heartbeat = $(<folder)", b""), fails("missing-file"));
    assert_eq!(with("default_user = x$(<secret)", b"60"), fails("bad-value"));
    assert_eq!(with("default_user = $(<secret)", b"\xfc"), fails("encoding"));
}

#[test]
fn a_relative_path_begins_where_the_unit_starts_the_broker() {
    let conf = || host("ssl_options.certfile = cert.pem").file("/var/lib/rabbitmq/cert.pem", "");
    assert!(conf_of(&conf(), &[]).boots.known().is_none());
    let unit = "[Service]\nWorkingDirectory=/var/lib/rabbitmq\n";
    let host = conf().file("/lib/systemd/system/rabbitmq-server.service", unit);
    assert_eq!(conf_of(&host, &[]).boots, Fact::Known(true));
}

#[test]
fn environment_variables_in_values() {
    let unit = "/lib/systemd/system/rabbitmq-server.service";
    let with = |value: &str, unit_text: Option<&str>| {
        let host =
            host(&format!("default_user = {value}\n")).file("/etc/passwd", "rabbitmq:x:104:109::/var/lib/rabbitmq:/bin/sh\n");
        let host = unit_text.map_or_else(|| host.clone(), |text| host.clone().file(unit, text));
        let env = crate::facts::env::with_file(&host, &Fact::Known(None), None);
        let plugins = crate::facts::plugins::collect(&host, &install(), &env);
        collect(&host, &install(), &env, &plugins, &net()).boots.known().copied()
    };
    let told = Some("[Service]\nUser=rabbitmq\n");
    assert_eq!(with("$(RABBITMQ_DEFAULT_USER)", told), Some(false));
    assert_eq!(with("$(RABBITMQ_DEFAULT_USER)", None), None, "whoever starts the broker may set it");
    assert_eq!(with("$(MINE)", Some("[Service]\nEnvironmentFile=/etc/default/rabbitmq\n")), None);
    assert_eq!(with("$(HOME)/x", told), Some(true));
    assert_eq!(with("x\nssl_options.certfile = $(HOME)/none.pem", told), Some(false), "a path is judged with what was put in");
    assert_eq!(with("$(not a name)", None), Some(false));
    assert_eq!(with("a$(default_user)", told), Some(false));
}

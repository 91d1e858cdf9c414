use super::laws::{Complaint, Values};
use super::validators::{Check, HostCheck, information_unit};
use super::value::{Reading, Typed};
use super::*;

const RABBIT: &str = r#"
%% A small schema in the manner of rabbit.schema.
{mapping, "listeners.tcp", "rabbit.tcp_listeners", [{datatype, {enum, [none]}}]}.
{mapping, "listeners.tcp.$name", "rabbit.tcp_listeners", [{datatype, [integer, ip]}]}.
{translation, "rabbit.tcp_listeners", fun(Conf) -> case x(Conf) of none -> []; _ -> [V || {_, V} <- Conf] end end}.
{mapping, "heartbeat", "rabbit.heartbeat", [{datatype, integer}]}.
{mapping, "vm_memory_high_watermark.relative", "rabbit.w", [{datatype, float}, {validators, ["less_than_1"]}]}.
{mapping, "vm_memory_high_watermark.absolute", "rabbit.w", [{datatype, [integer, string]}]}.
{translation, "rabbit.w", fun(C) -> C end}.
{mapping, "default_pass", "rabbit.default_pass", [{datatype, [tagged_binary, binary]}]}.
{mapping, "ssl_options.certfile", "rabbit.ssl_options.certfile", [{datatype, string}, {validators, ["file_accessible"]}]}.
{mapping, "shadowing", "rabbit.same", []}.
{mapping, "shadowed", "rabbit.same", []}.
{mapping, "max_connections", "rabbit.connection_max", [{datatype, [{atom, infinity}, integer]}, {alias, "connection_max"}]}.
{mapping, "channel_max", "rabbit.channel_max", [{datatype, {integer, [{min, 1}, {max, 10}, allow_infinity]}}]}.
{include_partial, {rabbit, "opts"}, [{prefix, "tcp_options"}, {app_prefix, "rabbit.tcp"}, {disable_with, none}, {exclude, ["linger"]}]}.
{validator, "less_than_1", "Float is not between 0 and 1", fun(F) when is_float(F) -> F > 0 andalso F < 1 end}.
{validator, "file_accessible", "no such file", fun(F) -> case file:read_file_info(F) of {ok, I} -> element(4, I) == read; _ -> false end end}.
"#;
const PARTIAL: &str =
    r#"{mapping, "nodelay", "nodelay", [{datatype, boolean}]}. {mapping, "linger.on", "linger", [{datatype, boolean}]}."#;

fn schema() -> Schema {
    let sources = [
        Source { app: "rabbit", name: "opts.partial", text: PARTIAL },
        Source { app: "rabbit", name: "rabbit.schema", text: RABBIT },
    ];
    let schema = Schema::parse(&sources, (3, 9));
    assert_eq!(schema.unread, Vec::<String>::new());
    schema
}

fn key<'a>(schema: &'a Schema, key: &str) -> Option<&'a Mapping> {
    match schema.find(&words(key)) {
        Found::Mapping(m) => Some(m),
        _ => None,
    }
}

fn read(k: &str, text: &str) -> Result<Typed, String> {
    let schema = schema();
    match schema.read(key(&schema, k).unwrap(), text) {
        Reading::Good(v) => Ok(v),
        Reading::Bad(e) => Err(e),
        Reading::Undecided(e) => panic!("{e}"),
    }
}

#[test]
fn keys_are_found_exactly_by_dollar_words_and_by_alias() {
    let s = schema();
    assert_eq!(key(&s, "listeners.tcp").unwrap().datatypes, [Datatype::Enum(vec!["none".into()])]);
    assert_eq!(key(&s, "listeners.tcp.default").unwrap().key(), "listeners.tcp.$name");
    assert_eq!(key(&s, "listeners.tcp.a\\.b").unwrap().key(), "listeners.tcp.$name");
    assert_eq!(key(&s, "listeners.tcp.a.b"), None);
    assert_eq!(key(&s, "Heartbeat"), None);
    assert_eq!(key(&s, "connection_max").unwrap().key(), "max_connections");
    assert_eq!(s.renamed(&words("connection_max")), Some("max_connections"));
    assert_eq!(key(&s, "tcp_options.nodelay").unwrap().path, "rabbit.tcp.nodelay");
    assert_eq!(key(&s, "tcp_options").unwrap().datatypes, [Datatype::Enum(vec!["none".into()])]);
    assert_eq!(key(&s, "tcp_options.linger.on"), None);
    // Two mappings to one path without a translation: only the first remains.
    assert!(key(&s, "shadowing").is_some() && key(&s, "shadowed").is_none());
}

#[test]
fn two_dollar_mappings_for_one_key_are_refused() {
    let text = r#"{mapping, "a.$b", "x.y", []}. {mapping, "$a.b", "x.z", []}."#;
    let s = Schema::parse(&[Source { app: "x", name: "x.schema", text }], (3, 4));
    assert_eq!(s.find(&words("a.b")), Found::Ambiguous);
}

#[test]
fn the_earlier_file_wins() {
    let sources = [
        Source { app: "a", name: "a.schema", text: r#"{mapping, "k", "x.k", [{datatype, atom}, merge]}."# },
        Source { app: "b", name: "b.schema", text: r#"{mapping, "k", "x.k", [{datatype, integer}, {default, 1}]}."# },
    ];
    let s = Schema::parse(&sources, (3, 4));
    let m = key(&s, "k").unwrap();
    assert_eq!((m.datatypes.as_slice(), m.has_default, m.app.as_str()), ([Datatype::Atom].as_slice(), true, "a"));
}

#[test]
fn the_nearest_key_is_the_likeliest_mistake() {
    let s = schema();
    let nearest = |k: &str| s.nearest(&words(k)).first().cloned();
    assert_eq!(nearest("heartbeet").as_deref(), Some("heartbeat"));
    assert_eq!(nearest("haertbeat").as_deref(), Some("heartbeat"));
    assert_eq!(nearest("listener.tcp.default").as_deref(), Some("listeners.tcp.default"));
    assert_eq!(nearest("Listeners.tcp.default").as_deref(), Some("listeners.tcp.default"));
    assert_eq!(nearest("vm_memory_high_watermark").as_deref(), Some("vm_memory_high_watermark.absolute"));
    assert_eq!(nearest("ssl_options.certfiles").as_deref(), Some("ssl_options.certfile"));
    assert_eq!(nearest("connections_max").as_deref(), Some("max_connections"));
    assert_eq!(nearest("something.else"), None);
}

#[test]
fn datatypes_take_what_cuttlefish_takes() {
    assert_eq!(read("heartbeat", "60"), Ok(Typed::Int(60)));
    assert_eq!(read("heartbeat", "+060"), Ok(Typed::Int(60)));
    for bad in ["60s", "", "1.0", "0x10", "1_000", " 1"] {
        assert!(read("heartbeat", bad).is_err(), "{bad}");
    }
    let at = |address: &str, port| Ok(Typed::Address { address: address.into(), port });
    assert_eq!(read("listeners.tcp.1", "-1"), Ok(Typed::Int(-1)));
    assert_eq!(read("listeners.tcp.1", "::1:5672"), at("::1", 5672));
    assert_eq!(read("listeners.tcp.1", ":::5672"), at("::", 5672));
    assert_eq!(read("listeners.tcp.1", "127.0.0.1:99999"), at("127.0.0.1", 99999));
    assert_eq!(read("listeners.tcp.1", "127.1:5672"), at("127.1", 5672));
    for bad in
        ["localhost:5672", "*:5672", "[::1]:5672", "127.0.0.1 :5672", "127.0.0.1", "256.0.0.1:1", "1.2.3.4.5:1", "127.0.0.1:-1"]
    {
        assert!(read("listeners.tcp.1", bad).is_err(), "{bad}");
    }
    assert_eq!(read("vm_memory_high_watermark.relative", "0.4"), Ok(Typed::Float(0.4)));
    for bad in ["1", "40%", ".4", "1.", "1e3", "0,4"] {
        assert!(read("vm_memory_high_watermark.relative", bad).is_err(), "{bad}");
    }
    assert_eq!(read("max_connections", "infinity"), Ok(Typed::Atom("infinity".into())));
    assert!(read("max_connections", "Infinity").is_err());
    assert_eq!(read("channel_max", "infinity"), Ok(Typed::Atom("infinity".into())));
    assert!(read("channel_max", "0").unwrap_err().contains("at least 1"));
    assert!(read("tcp_options.nodelay", "yes").unwrap_err().contains("one of true, false"));
}

#[test]
fn sizes_and_durations() {
    let good = |name: &str, text: &str| value::read(&Datatype::list(&one(name)), text, true);
    let one_of = |name: &str, text: &str| matches!(good(name, text), Reading::Good(_));
    for (text, ok) in [
        ("128", true),
        ("2MB", true),
        ("2mb", true),
        ("1.5GB", true),
        ("2Mb", false),
        ("2 MB", false),
        ("KB", false),
        ("2MiB", false),
    ] {
        assert_eq!(one_of("bytesize", text), ok, "{text}");
    }
    assert_eq!(good("bytesize", "2KB"), Reading::Good(Typed::Int(2048)));
    for (text, ok) in [
        ("10s", true),
        ("1h30m", true),
        (".5s", true),
        ("1.5M", true),
        ("500ms", true),
        ("10", false),
        ("0s", false),
        ("10 s", false),
    ] {
        assert_eq!(one_of("{duration, ms}", text), ok, "{text}");
    }
    assert_eq!(good("{duration, ms}", "1m30s"), Reading::Good(Typed::Int(90_000)));
    assert!(matches!(good("fqdn", "a.b:1"), Reading::Undecided(_)));
}

fn one(text: &str) -> Term {
    erlang::consult(&format!("{text}.")).unwrap().remove(0)
}

#[test]
fn a_colon_in_a_password_is_a_tag() {
    let tagged = |tag: &str, text: &str| Typed::Tagged { tag: tag.into(), text: text.into() };
    assert_eq!(read("default_pass", "encrypted:a:b"), Ok(tagged("encrypted", "a:b")));
    assert_eq!(read("default_pass", "a$b:c"), Ok(Typed::Text("a$b:c".into())));
    let old = Schema::parse(&[Source { app: "rabbit", name: "rabbit.schema", text: RABBIT }], (3, 4));
    let mapping = key(&old, "default_pass").unwrap();
    assert_eq!(old.read(mapping, "a$b:c:d"), Reading::Good(tagged("a$b:c", "d")));
}

#[test]
fn validators() {
    let s = schema();
    assert_eq!(s.validate("less_than_1", &Typed::Float(0.4)), Validity::Holds);
    assert_eq!(s.validate("less_than_1", &Typed::Float(1.0)), Validity::Fails);
    assert_eq!(s.validate("file_accessible", &Typed::Text("/x".into())), Validity::OnHost(HostCheck::Readable));
    assert_eq!(s.validate("nobody_knows", &Typed::Int(1)), Validity::Holds);
    for (text, good) in [("2GB", true), ("2gib", true), ("2 GB", false), ("2XB", false), ("2g", true)] {
        assert_eq!(information_unit(text), good, "{text}");
    }
}

fn check(fun: &str) -> Check {
    Validator::read("x", String::new(), fun).check
}

#[test]
fn bounds_of_validators() {
    let holds = |fun: &str, value: Typed| Validator::read("x", String::new(), fun).judge(&value) == Validity::Holds;
    let byte = "fun(Int) when is_integer(Int) ->\n Int >= 0 andalso Int =< 255 end";
    assert!(holds(byte, Typed::Int(255)) && !holds(byte, Typed::Int(256)) && !holds(byte, Typed::Int(-1)));
    assert!(!holds(byte, Typed::Atom("infinity".into())));
    let port16 = "fun(Int) when is_integer(Int) -> (Int >= 1) and (Int =< 16#ff_ff) end";
    assert!(holds(port16, Typed::Int(65535)) && !holds(port16, Typed::Int(0)));
    let share = "fun(Float) when is_float(Float) -> Float > 0 andalso Float < 1 end";
    assert!(holds(share, Typed::Float(0.5)) && !holds(share, Typed::Float(1.0)));
    assert_eq!(check("fun(Uri) -> string:nth_lexeme(Uri, 1, \"://\") == \"https\" end"), Check::Unread);
    assert_eq!(check("fun(I) when is_integer(I) -> I rem 2 == 0 end"), Check::Unread);
}

fn typed(text: &str) -> Typed {
    text.parse().map_or_else(|_| Typed::Text(text.into()), Typed::Int)
}

/// What the translation of `path` has against the settings: the blamed key, or `+key` for one that is missing.
fn blamed(path: &str, fun: &str, set: &[(&str, &str)]) -> Vec<String> {
    let set = set.iter().map(|(key, value)| (words(key), typed(value))).collect();
    let given = |key: &str| BTreeMap::contains_key(&set, &words(key));
    let values = Values { set: &set, given: &given };
    let name = |complaint| match complaint {
        Complaint::Refused { key, .. } => key.unwrap_or_default(),
        Complaint::Missing { key } => format!("+{key}"),
        Complaint::OnHost { path, .. } => path,
        Complaint::Undecided { why } => format!("?{why}"),
    };
    laws::read(path, fun).iter().flat_map(|law| law.complaints(&values)).map(name).collect()
}

#[test]
fn refusals_that_a_translation_spells_out() {
    let none: [&str; 0] = [];
    assert_eq!(blamed("a", "fun(Conf) -> cuttlefish:invalid(\"gone \" \"for good\") end", &[]), [""]);

    let positive = "fun(Conf) -> case cuttlefish:conf_get(\"a.b\", Conf, undefined) of undefined -> cuttlefish:unset();
        infinity -> infinity; V when is_integer(V) andalso V > 0 -> V; _ -> cuttlefish:invalid(\"no\") end end";
    assert_eq!(blamed("a", positive, &[("a.b", "0")]), ["a.b"]);
    assert_eq!(blamed("a", positive, &[("a.b", "1")]), none);
    assert_eq!(blamed("a", positive, &[("a.b", "infinity")]), none);

    let negative = "fun(Conf) -> case cuttlefish:conf_get(\"a\", Conf) of N when is_integer(N) andalso N < 0 -> cuttlefish:invalid(\"neg\"); V -> V end end";
    assert_eq!(blamed("a", negative, &[("a", "-1")]), ["a"]);
    assert_eq!(blamed("a", negative, &[("a", "1")]), none);

    let one = "fun(Conf) -> case cuttlefish:conf_get(\"v\", Conf, 2) of 1 -> cuttlefish:invalid(\"v1\"); 2 -> 2 end end";
    assert_eq!(blamed("a", one, &[("v", "1")]), ["v"]);
    assert_eq!(blamed("a", one, &[("v", "2")]), none);

    let both = "fun(Conf) -> {cuttlefish:conf_get(\"a\", Conf), cuttlefish:conf_get(\"b\", Conf), cuttlefish:conf_get(\"c\", Conf, 1)} end";
    assert_eq!(blamed("a", both, &[("a", "1")]), ["+b"]);

    let binary = "fun(Conf) -> list_to_binary(cuttlefish:conf_get(\"u\", Conf)) end";
    assert_eq!(blamed("a", binary, &[("u", "ünï")]), none);
    assert_eq!(blamed("a", binary, &[("u", "имя")]), ["u"]);

    let below = "fun(Conf) -> Settings = cuttlefish_variable:filter_by_prefix(\"x.y\", Conf), [list_to_binary(V) || {_, V} <- Settings] end";
    assert_eq!(blamed("a", below, &[("x.y.1", "a"), ("x.y.2", "имя"), ("x.z", "имя")]), ["x.y.2"]);

    let all = "fun(Conf) -> S = cuttlefish_variable:filter_by_prefix(\"p\", Conf), A = proplists:get_value([\"p\", \"a\"], S),
        B = proplists:get_value([\"p\", \"b\"], S), [list_to_binary(A), list_to_binary(B)] end";
    assert_eq!(blamed("a", all, &[("p.a", "x")]), ["+p.b"]);
}

#[test]
fn code_that_is_not_understood_is_said() {
    let foreign = "fun(Conf) -> some_plugin:translate(Conf) end";
    assert_eq!(blamed("x.y", foreign, &[]), ["?x.y is computed by some_plugin:translate"]);
    let unclear = "fun(Conf) -> case cuttlefish:conf_get(\"a\", Conf) of V -> case odd(V) of true -> V; false -> cuttlefish:invalid(\"odd\") end end end";
    assert_eq!(blamed("x.y", unclear, &[("a", "1")]).len(), 1);
    let known =
        "fun(Conf) -> case cuttlefish:conf_get(\"o\", Conf, undefined) of none -> []; _ -> cuttlefish:invalid(\"no\") end end";
    assert_eq!(blamed("x.y", known, &[("o", "none")]), Vec::<String>::new());
}

#[test]
fn larger_translations() {
    let chain = "fun(Conf) -> cuttlefish_variable:filter_by_prefix(\"auth_backends\", Conf) end";
    let chain = |set: &[(&str, &str)]| blamed("rabbit.auth_backends", chain, set);
    let none: [&str; 0] = [];
    assert_eq!(chain(&[("auth_backends.1", "ldap"), ("auth_backends.2", "internal")]), none);
    assert_eq!(chain(&[("auth_backends.first", "ldap")]), ["auth_backends.first"]);
    assert_eq!(chain(&[("auth_backends.1", "ldap"), ("auth_backends.01", "internal")]).len(), 1);
    assert_eq!(chain(&[("auth_backends.1.authn", "ldap"), ("auth_backends.1.authz", "internal")]), none);
    assert_eq!(chain(&[("auth_backends.1", "ldap"), ("auth_backends.1.authz", "internal")]), ["auth_backends.1.authz"]);

    let query = "fun(Conf) -> Q = cuttlefish:conf_get(\"q\", Conf, undefined), rabbit_auth_backend_ldap_util:parse_query(Q) end";
    let query = |text: &str| blamed("x.query", query, &[("q", text)]).is_empty();
    assert!(query("{constant, true}") && query("{in_group, \"cn=x\"}.") && query("[{administrator, {constant, false}}]"));
    assert!(!query("{constant, maybe}") && !query("{in_group") && !query("true"));

    let format = "fun(Conf) -> rabbit_prelaunch_early_logging:translate_formatter_conf(\"log.file.formatter\", Conf) end";
    let format = |set: &[(&str, &str)]| blamed("rabbit.log.file.formatter", format, set);
    assert_eq!(format(&[("log.file.formatter.plaintext.format", "$time $msg 5$")]), ["log.file.formatter.plaintext.format"]);
    assert_eq!(format(&[("log.file.formatter", "json"), ("log.file.formatter.json.verbosity_map", "debug:2 *:x")]).len(), 1);
    assert_eq!(format(&[("log.file.formatter", "json"), ("log.file.formatter.json.field_map", "time:ts *:-")]), none);

    let hash = "fun(Conf) -> H = cuttlefish:conf_get(\"h\", Conf, undefined), lists:member(H, credentials_obfuscation_pbe:supported_hashes()) end";
    let hash = |name: &str| blamed("x.hash", hash, &[("h", name)]);
    assert_eq!((hash("sha256"), hash("foo")), (vec![], vec!["h".to_owned()]));
    assert!(hash("md4")[0].starts_with('?'), "it rests on the OpenSSL of the host");

    let limits = "fun(Conf) -> rabbit_misc:x(Conf) end";
    let limits = |set: &[(&str, &str)]| blamed("rabbit.default_limits.vhosts", limits, set);
    assert_eq!(limits(&[("default_limits.vhosts.a.max_queues", "5")]), ["+default_limits.vhosts.a.pattern"]);
}

#[test]
fn a_form_that_cannot_be_read_is_reported_and_the_rest_is_used() {
    let text = "{mapping, \"a\", \"x.a\", [X]}.\n{mapping, \"b\", \"x.b\", []}.";
    let s = Schema::parse(&[Source { app: "x", name: "x.schema", text }], (3, 4));
    assert!(s.unread[0].starts_with("x.schema:1:"), "{:?}", s.unread);
    assert!(key(&s, "b").is_some());
}

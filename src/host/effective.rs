//! What the running broker makes of configuration files, beside what it runs with.
//!
//! Both hold passwords. They are compared here, where they came in, and only names of keys leave, with the values of a few that are
//! never secret ([`SHOWN`]): no capture, report or log gets to see more.

use super::rpc::{self, ConfigFiles, Mfa, atom, binary, tuple};
use super::{Got, Miss};
use crate::formats::erlang;
use eetf::Term;
use std::collections::BTreeMap;

/// Keys of applications whose values may be shown.
pub const SHOWN: [(&str, &str); 25] = [
    ("rabbit", "tcp_listeners"),
    ("rabbit", "ssl_listeners"),
    ("rabbit", "heartbeat"),
    ("rabbit", "handshake_timeout"),
    ("rabbit", "channel_max"),
    ("rabbit", "connection_max"),
    ("rabbit", "max_message_size"),
    ("rabbit", "consumer_timeout"),
    ("rabbit", "collect_statistics_interval"),
    ("rabbit", "vm_memory_high_watermark"),
    ("rabbit", "disk_free_limit"),
    ("rabbit", "loopback_users"),
    ("rabbit", "auth_backends"),
    ("rabbit", "auth_mechanisms"),
    ("rabbit", "default_user"),
    ("rabbit", "default_vhost"),
    ("rabbit", "cluster_partition_handling"),
    ("rabbit", "proxy_protocol"),
    ("rabbit", "anonymous_login_user"),
    ("rabbitmq_mqtt", "tcp_listeners"),
    ("rabbitmq_mqtt", "ssl_listeners"),
    ("rabbitmq_stomp", "tcp_listeners"),
    ("rabbitmq_stomp", "ssl_listeners"),
    ("rabbitmq_stream", "tcp_listeners"),
    ("rabbitmq_stream", "ssl_listeners"),
];

/// Keys that the broker itself sets when it starts, seen on 3.8.9 to 4.3.6; the files do not decide them.
const ITS_OWN: [&str; 11] = [
    "feature_flags_file",
    "enabled_plugins_file",
    "plugins_dir",
    "plugins_expand_dir",
    "data_dir",
    "collect_statistics",
    "backing_queue_module",
    "enabled_plugins",
    "log_levels",
    "lager_log_root",
    "dependent_applications",
];

/// One call to the node.
type Ask<'a> = dyn Fn(Mfa) -> Got<Term> + 'a;
/// Application and key → value.
type Environment = BTreeMap<(String, String), Term>;

/// See [`rpc::Call::Accepts`].
pub fn accepts(files: &ConfigFiles, ask: &Ask) -> Got<Term> {
    Ok(match made_of(files, ask)? {
        Ok(_) => eetf::List::nil().into(),
        Err(refusal) => refusal,
    })
}

/// See [`rpc::Call::Differences`].
pub fn differences(files: &ConfigFiles, ask: &Ask) -> Got<Term> {
    // Without files the broker does not even ask its schemas for defaults.
    let wanted = match files.files.is_empty() && files.advanced.is_none() {
        true => Ok(Environment::new()),
        false => made_of(files, ask)?,
    };
    let wanted = match wanted {
        Ok(wanted) => wanted,
        Err(refusal) => return Ok(refusal),
    };
    let mut running = Environment::new();
    let mut defaults = Environment::new();
    let set: Vec<String> = wanted.keys().map(|(app, _)| app.clone()).collect();
    for app in apps(ask, set)? {
        let all = ask(Mfa::new("application", "get_all_env", [atom(&app)]))?;
        running.extend(keys(&app, &all));
        defaults.extend(defaults_of(&app, ask)?);
    }
    Ok(eetf::List::from(compared(&wanted, &running, &defaults)).into())
}

/// What differs, as `{App, Key, Value, RunningValue}`.
fn compared(wanted: &Environment, running: &Environment, defaults: &Environment) -> Vec<Term> {
    let mut all: Vec<&(String, String)> = wanted.keys().chain(running.keys()).collect();
    all.sort();
    all.dedup();
    let mut differing = Vec::new();
    for place in all {
        let (app, key) = place;
        let file = wanted.get(place).or_else(|| defaults.get(place));
        let now = running.get(place);
        let own = !wanted.contains_key(place) && (!defaults.contains_key(place) || ITS_OWN.contains(&key.as_str()));
        if own || file.map(canonical) == now.map(canonical) {
            continue;
        }
        let shown = SHOWN.contains(&(app.as_str(), key.as_str()));
        let value = |term: Option<&Term>| match term {
            None => atom("none"),
            Some(term) if shown => binary(&rpc::brief(term)),
            Some(_) => atom("undefined"),
        };
        differing.push(tuple([atom(app), atom(key), value(file), value(now)]));
    }
    differing
}

/// The configuration that the node makes of the files, or how it refuses them.
fn made_of(files: &ConfigFiles, ask: &Ask) -> Got<Result<Environment, Term>> {
    let context = ask(Mfa::new("rabbit_prelaunch", "get_context", []))?;
    let made = ask(files.generate(context))?;
    let [error, reason] = rpc::elements(&made) else {
        return match rpc::items(&made) {
            Some(_) => Ok(Ok(rpc::pairs(&made)
                .iter()
                .flat_map(|(app, all)| rpc::name(app).map(|app| keys(app, all)).unwrap_or_default())
                .collect())),
            None => Err(Miss::failed("the broker's own check of its configuration", "the answer was not understood")),
        };
    };
    // What stands beside an atom could quote the file.
    let reason = rpc::name(reason).unwrap_or("other");
    Ok(Err(tuple([atom(rpc::name(error).unwrap_or("error")), atom(reason)])))
}

/// Applications of RabbitMQ that run, and those that the files set something of.
fn apps(ask: &Ask, mut all: Vec<String>) -> Got<Vec<String>> {
    let running = ask(Mfa::new("application", "which_applications", []))?;
    let names = rpc::items(&running).unwrap_or_default().iter();
    let names = names.filter_map(|app| rpc::elements(app).first().and_then(rpc::name));
    all.extend(names.filter(|app| *app == "rabbit" || app.starts_with("rabbitmq_")).map(str::to_owned));
    all.sort();
    all.dedup();
    Ok(all)
}

/// `[{Key, Value}]` of an application; `vm_args` and the like are for the start scripts.
fn keys(app: &str, all: &Term) -> Environment {
    let pairs = rpc::pairs(all).into_iter();
    pairs.filter_map(|(key, value)| Some(((app.to_owned(), rpc::name(&key)?.to_owned()), value))).collect()
}

/// The defaults of an application, from its .app file as the node finds it (in an archive, too). The listeners and the distribution of
/// the core have theirs from the environment.
fn defaults_of(app: &str, ask: &Ask) -> Got<Environment> {
    let found = ask(Mfa::new("code", "where_is_file", [eetf::ByteList::from(format!("{app}.app").into_bytes()).into()]))?;
    if rpc::name(&found).is_some() {
        return Ok(Environment::new());
    }
    let file = ask(Mfa::new("erl_prim_loader", "get_file", [found]))?;
    let Some(Term::Binary(text)) = rpc::elements(&file).get(1) else { return Ok(Environment::new()) };
    let what = format!("{app}.app");
    let terms = erlang::consult(&String::from_utf8_lossy(&text.bytes)).map_err(|e| Miss::failed(what, e))?;
    let properties = terms.first().and_then(erlang::Term::tuple).and_then(|t| t.get(2));
    let listed = properties.and_then(|p| p.property("env")).and_then(erlang::Term::list).unwrap_or_default();
    let pair = |term: &erlang::Term| {
        let (key, value) = term.pair()?;
        Some(((app.to_owned(), key.atom()?.to_owned()), term_of(value)?))
    };
    let mut all: Environment = listed.iter().filter_map(pair).collect();
    all.remove(&("rabbit".to_owned(), "tcp_listeners".to_owned()));
    Ok(all)
}

/// A term from a file as the node would send it.
fn term_of(term: &erlang::Term) -> Option<Term> {
    let list = |items: &[erlang::Term]| items.iter().map(term_of).collect::<Option<Vec<Term>>>();
    Some(match &term.value {
        erlang::Value::Atom(name) => atom(name),
        erlang::Value::String(text) => {
            eetf::List::from(text.chars().map(|c| number(u32::from(c).into())).collect::<Vec<_>>()).into()
        }
        erlang::Value::Binary(bytes) => eetf::Binary::from(bytes.clone()).into(),
        erlang::Value::Int(int) => number(*int),
        erlang::Value::Float(float) => eetf::Float { value: *float }.into(),
        erlang::Value::List(items) => eetf::List::from(list(items)?).into(),
        erlang::Value::Tuple(items) => eetf::Tuple::from(list(items)?).into(),
        erlang::Value::Map(_) | erlang::Value::Fun(_) | erlang::Value::Opaque => return None,
    })
}

fn number(int: i128) -> Term {
    match i32::try_from(int) {
        Ok(value) => eetf::FixInteger { value }.into(),
        // Nothing in these files is larger.
        Err(_) => eetf::BigInteger::from(i64::try_from(int).unwrap_or(i64::MAX)).into(),
    }
}

/// A text that is the same for equal terms: lists of small numbers arrive as strings, and maps in any order.
fn canonical(term: &Term) -> String {
    let several = |items: &[Term]| items.iter().map(canonical).collect::<Vec<_>>().join(",");
    match term {
        Term::ByteList(list) => {
            format!("[{}]", list.bytes.iter().map(|b| b.to_string()).collect::<Vec<_>>().join(","))
        }
        Term::List(list) => format!("[{}]", several(&list.elements)),
        Term::Tuple(tuple) => format!("{{{}}}", several(&tuple.elements)),
        Term::Map(map) => {
            let mut pairs: Vec<String> = map.map.iter().map(|(k, v)| format!("{}={}", canonical(k), canonical(v))).collect();
            pairs.sort();
            format!("#{{{}}}", pairs.join(","))
        }
        Term::FixInteger(int) => int.value.to_string(),
        Term::Atom(name) => format!("'{}'", name.name),
        Term::Binary(bytes) => format!("<<{:?}>>", bytes.bytes),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::rpc::text;

    fn list(items: Vec<Term>) -> Term {
        eetf::List::from(items).into()
    }
    fn pair(key: &str, value: Term) -> Term {
        tuple([atom(key), value])
    }
    fn files() -> ConfigFiles {
        ConfigFiles { files: vec!["/etc/rabbitmq/rabbitmq.conf".into()], advanced: None }
    }

    /// A node that runs with a heartbeat of 45 and the password `old`, and whose defaults are 60 and `guest`.
    fn node(made: Term) -> impl Fn(Mfa) -> Got<Term> {
        move |mfa: Mfa| {
            Ok(match (mfa.module, mfa.function) {
                ("rabbit_prelaunch", "get_context") => atom("context"),
                ("rabbit_prelaunch_conf", _) => {
                    assert_eq!(mfa.args[0], atom("context"));
                    made.clone()
                }
                ("application", "which_applications") => list(vec![tuple([atom("rabbit"), atom("x")]), tuple([atom("sasl")])]),
                ("application", "get_all_env") => list(vec![
                    pair("heartbeat", number(45)),
                    pair("default_pass", binary("old")),
                    pair("listen", eetf::ByteList::from(vec![1, 2]).into()),
                    pair("data_dir", binary("/x")),
                ]),
                ("code", _) => eetf::ByteList::from("/p/rabbit.app").into(),
                _ => {
                    let app =
                        "{application, rabbit, [{env, [{heartbeat, 60}, {default_pass, <<\"guest\">>}, {listen, [1, 2]}]}]}.";
                    tuple([atom("ok"), binary(app), atom("name")])
                }
            })
        }
    }

    fn shown(made: Term) -> Vec<String> {
        let found = differences(&files(), &node(made)).unwrap();
        let part = |t: &Term| text(t).unwrap_or_default();
        let line = |t: &Term| rpc::elements(t).iter().map(part).collect::<Vec<_>>().join(" ");
        rpc::items(&found).unwrap().iter().map(line).collect()
    }

    #[test]
    fn what_differs_is_named_and_a_password_is_not_shown() {
        let rabbit = |all: Vec<Term>| list(vec![pair("rabbit", list(all))]);
        let same = rabbit(vec![pair("heartbeat", number(45)), pair("default_pass", binary("old"))]);
        assert_eq!(shown(same), Vec::<String>::new());
        let other = rabbit(vec![pair("heartbeat", number(30)), pair("default_pass", binary("new"))]);
        assert_eq!(shown(other), ["rabbit default_pass undefined undefined", "rabbit heartbeat 30 45"]);
        let removed = rabbit(vec![pair("default_pass", binary("old"))]);
        assert_eq!(shown(removed), ["rabbit heartbeat 60 45"]);
    }

    #[test]
    fn a_refusal_says_so_and_quotes_nothing() {
        let refused = tuple([atom("error"), atom("failed_to_prepare_configuration")]);
        assert_eq!(accepts(&files(), &node(refused.clone())), Ok(refused));
        assert_eq!(accepts(&files(), &node(list(vec![]))), Ok(list(vec![])));
        let quoting = tuple([atom("error"), tuple([atom("bad"), binary("secret")])]);
        assert_eq!(accepts(&files(), &node(quoting)), Ok(tuple([atom("error"), atom("other")])));
    }
}

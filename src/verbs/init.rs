//! `init`: asks a few questions, proposes what is seen on the host, and writes the policy.

use super::{Done, load_rules};
use crate::ask::{self, AskError};
use crate::audit::{Selection, audit};
use crate::cli::Global;
use crate::host::live::Live;
use crate::host::terminal::{self, Stream};
use crate::host::write::{FileMeta, Hand};
use crate::init::{Draft, Seen, written};
use crate::policy::{self, ClientIntent, Intent, POLICY_FILE, SERVICES, check_source};
use crate::render::term::clean;
use anyhow::{anyhow, bail};
use std::path::Path;

/// What the policy's mode is: anybody may read it, there is no secret in it.
const META: FileMeta = FileMeta { mode: 0o644, uid: 0, gid: 0 };

/// Asks, shows what it would write, and writes it if told so.
pub fn init(global: &Global) -> anyhow::Result<Done> {
    if global.capture.is_some() || global.root.is_some() {
        bail!("init writes the policy of this host: it takes no --capture and no --root");
    }
    if global.no_input || !terminal::is_terminal(Stream::In) || !terminal::is_terminal(Stream::Err) {
        bail!(
            "init asks questions, and there is no terminal to ask on (or --no-input was given): write {POLICY_FILE} by hand, \
             packaging/policy.toml of the sources is a commented example"
        );
    }
    let hand = Hand::new().map_err(|miss| anyhow!("{miss}"))?;
    let path = global.policy.as_deref().unwrap_or(Path::new(POLICY_FILE));
    let existing = match hand.look(path)? {
        Some((bytes, _)) => Some(String::from_utf8(bytes).map_err(|_| anyhow!("{}: not UTF-8", path.display()))?),
        None => None,
    };
    let host = Live::new(global.time_limit());
    let rules = load_rules(&host)?;
    let names = rules.rules.keys().cloned().collect();
    let intent = match &existing {
        // What cannot be used is not added to.
        Some(_) => policy::load(&host, Some(path), &global.intent, &names)?,
        None => Intent { clients: vec![ClientIntent::default()], ..Intent::default() },
    };
    let seen = Seen::on(&host, &audit(&host, &intent, &rules, &Selection::default()).facts);
    let (clients, peers) = match questions(&seen, &intent, path) {
        Ok(answers) => answers,
        Err(AskError::Interrupted) => return Ok(Done { text: "\nInterrupted; nothing was written.\n".into(), code: 130 }),
        Err(error) => return Err(error.into()),
    };
    if clients.is_empty() && peers.is_empty() {
        return Ok(Done::ok("Nothing to write.\n".into()));
    }
    let text = written(existing.as_deref(), &clients, &peers).map_err(|why| anyhow!("{}: {why}", path.display()))?;
    ask::say(&format!("\n{}:\n\n{}\n", path.display(), indented(&text)));
    let question = if existing.is_some() { "Replace the file by this?" } else { "Write it?" };
    if !ask::yes(question, existing.is_none())? {
        return Ok(Done::ok("Nothing was written.\n".into()));
    }
    if let Some(dir) = path.parent() {
        hand.open_dir(dir)?;
    }
    let meta = hand.look(path)?.map_or(META, |(_, meta)| meta);
    hand.replace_file(path, existing.as_deref().map(str::as_bytes), Some(text.as_bytes()), meta)?;
    policy::load(&host, Some(path), &global.intent, &names)?;
    Ok(Done::ok(format!("Written: {}. What this host makes of it: sudo rmq-audit\n", path.display())))
}

fn questions(seen: &Seen, intent: &Intent, path: &Path) -> Result<(Vec<Draft>, Vec<String>), AskError> {
    let known: Vec<&ClientIntent> = intent.clients.iter().filter(|c| !c.assumed).collect();
    if !known.is_empty() {
        let names: Vec<&str> = known.iter().map(|c| c.name.as_str()).collect();
        ask::say(&format!("{} names already: {}. What it says stays.\n\n", path.display(), clean(&names.join(", "))));
    }
    ask::say("Who must be able to connect to this broker? Nothing is written before you have seen it.\n\n");
    let mut clients = Vec::new();
    for draft in seen.connected.iter().filter(|d| !known.iter().any(|c| covers(c, d))) {
        let user = draft.user.as_deref().unwrap_or_default();
        ask::say(&clean(&format!("Connected now: {user} from {}, vhost {}.", draft.from.join(", "), draft.vhost)));
        ask::say("\n");
        if ask::yes("Must it be able to connect?", true)? {
            clients.push(draft.clone());
        }
    }
    let mut more = clients.is_empty() && known.is_empty() || ask::yes("Is there another client?", false)?;
    while more {
        clients.extend(client(seen)?);
        more = ask::yes("Is there another client?", false)?;
    }
    Ok((clients, peers(seen, intent)?))
}

/// The policy says it already.
fn covers(known: &ClientIntent, draft: &Draft) -> bool {
    known.user == draft.user && known.vhost == draft.vhost
}

/// `None`: no network was given.
fn client(seen: &Seen) -> Result<Option<Draft>, AskError> {
    let networks = seen.networks.join(", ");
    let question = "Its networks or addresses (10.0.0.0/24), `any` or `local`, with commas between; `-`: no client";
    let from: Vec<String> = list(&ask::line(question, Some(&networks), sources)?);
    if from.is_empty() {
        return Ok(None);
    }
    let services: Vec<&str> = if seen.services.is_empty() {
        SERVICES.iter().map(|(name, _)| *name).collect()
    } else {
        seen.services.iter().map(String::as_str).collect()
    };
    let service = services.get(ask::pick("The service that it uses", &services)?).copied().unwrap_or("amqp");
    let suggestion = seen.users.iter().find(|u| *u != "guest").map(String::as_str);
    let user = Some(ask::line("Its user on the broker; `-`: not said", suggestion, any)?).filter(|user| !user.is_empty());
    let vhost = ask::line("Its virtual host", Some("/"), any)?;
    let name = ask::line("A name for it", user.as_deref().or(Some("client")), filled)?;
    Ok(Some(Draft { name, from, service: service.to_owned(), user, vhost: if vhost.is_empty() { "/".into() } else { vhost } }))
}

fn peers(seen: &Seen, intent: &Intent) -> Result<Vec<String>, AskError> {
    let new: Vec<String> = seen.peers.iter().filter(|p| !intent.peers.contains(p)).cloned().collect();
    if new.is_empty() && (!intent.peers.is_empty() || !ask::yes("Is this node part of a cluster with other hosts?", false)?) {
        return Ok(Vec::new());
    }
    ask::say("The ports of the cluster are to be open to its other nodes, and to nobody else.\n");
    let answer = ask::line("Addresses of the other nodes, with commas between; `-`: none", Some(&new.join(", ")), sources)?;
    Ok(list(&answer))
}

fn list(text: &str) -> Vec<String> {
    text.split([',', ' ']).map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect()
}

fn sources(text: &str) -> Result<(), String> {
    list(text).iter().try_for_each(|part| check_source(part))
}

fn any(_: &str) -> Result<(), String> {
    Ok(())
}

fn filled(text: &str) -> Result<(), String> {
    if text.is_empty() { Err("it needs a name".into()) } else { Ok(()) }
}

fn indented(text: &str) -> String {
    text.lines().map(|line| if line.is_empty() { "\n".to_owned() } else { format!("    {}\n", clean(line)) }).collect()
}

//! `why --watch`: looks several times a second until Ctrl-C or the time limit, and tells what it sees.

use super::{FINDINGS, Global, INCOMPLETE, OK, term};
use crate::ask;
use crate::audit::Audit;
use crate::cli::Format;
use crate::facts::Fact;
use crate::formats::cidr::Cidr;
use crate::host::Host;
use crate::render::term::{Term, Tone, clean, wrap};
use crate::watch::{Event, Look, Reached, Target, Watched, summary};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Between two looks. Where a look takes long (a large ruleset), the pause is as long again.
const PAUSE: Duration = Duration::from_millis(200);

/// Watches the client of the first path.
pub fn watch(global: &Global, host: &dyn Host, audit: &Audit) -> anyhow::Result<Watched> {
    let target = target(audit);
    let verdict = audit.facts.clients.first().and_then(|c| c.firewall.known());
    let signal = Arc::new(AtomicUsize::new(0));
    for number in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register_usize(number, Arc::clone(&signal), number.unsigned_abs() as usize)?;
    }
    let say = |tone: Tone, mark: &str, text: &str| {
        if global.format == Format::Text {
            line(&term(global), tone, mark, text);
        }
    };
    let started = Instant::now();
    let limit = global.timeout.map(Duration::from_secs);
    let mut last = Look::take(host, &target, None);
    let until = limit.map_or("Ctrl-C ends it".to_owned(), |l| format!("for {} s, or until Ctrl-C", l.as_secs()));
    say(Tone::Strong, ">", &format!("Let {} try now; watching {until}.", target.name));
    for rule in target.uncounted(&last) {
        say(Tone::Dim, "-", &format!("{} has no counter: what it refuses cannot be seen here.", rule.place()));
    }
    if target.counts_others(&last) {
        say(Tone::Dim, "-", "Counters of rules and of the kernel count everybody's packets.");
    }
    let mut events: Vec<Event> = Vec::new();
    while signal.load(Ordering::Relaxed) == 0 && limit.is_none_or(|l| started.elapsed() < l) {
        let clock = Instant::now();
        let look = Look::take(host, &target, Some(&last));
        for event in look.events(&last, &target, host.identity().now) {
            let (tone, mark) = tone(&event);
            say(tone, mark, &format!("{} {}", time_of_day(event.time), event.text));
            events.push(event);
        }
        last = look;
        // A signal ends the pause.
        std::thread::sleep(PAUSE.max(clock.elapsed()));
    }
    let (reached, summary) = summary(&target, &events, verdict);
    Ok(Watched { seconds: started.elapsed().as_secs(), events, reached, summary })
}

fn target(audit: &Audit) -> Target {
    let client = audit.facts.clients.first();
    let verdict = client.and_then(|c| c.firewall.known());
    let from = client.map_or("any", |c| c.from.as_str());
    let networks = match from {
        "any" => vec!["0.0.0.0/0", "::/0"],
        "local" => vec!["127.0.0.0/8", "::1"],
        other => vec![other],
    };
    let asked = client.and_then(|c| c.port.known()).and_then(|p| u16::try_from(*p).ok());
    let delivered = verdict.and_then(|v| v.delivered_to.as_ref()?.rsplit_once(':')?.1.parse().ok());
    let mut ports: Vec<u16> = asked.into_iter().chain(delivered).collect();
    ports.dedup();
    let log = match &audit.facts.names.node {
        Fact::Known(node) => Some(PathBuf::from(format!("/var/log/rabbitmq/{node}.log"))),
        Fact::Unknown(_) => None,
    };
    Target {
        name: if from == "any" { "the client".to_owned() } else { from.to_owned() },
        from: networks.into_iter().filter_map(Cidr::parse).collect(),
        ports,
        rules: verdict.map(Target::rules_of).unwrap_or_default(),
        closed: client.and_then(|c| c.listener.known()).is_some_and(|state| state != "listening"),
        log,
    }
}

fn tone(event: &Event) -> (Tone, &'static str) {
    match event.reached {
        Reached::PacketFilter | Reached::ClosedPort | Reached::Refused => (Tone::Bad, "!"),
        Reached::Socket | Reached::Broker | Reached::LoggedIn => (Tone::Good, "+"),
        Reached::Nothing | Reached::HalfOpen => (Tone::Dim, "-"),
    }
}

/// As the client's own clock may show it: local time.
fn time_of_day(epoch: i64) -> String {
    let zone = jiff::tz::TimeZone::system();
    jiff::Timestamp::from_second(epoch).map(|t| t.to_zoned(zone).strftime("%H:%M:%S").to_string()).unwrap_or_default()
}

fn line(term: &Term, tone: Tone, mark: &str, text: &str) {
    let mut out = String::new();
    for (i, line) in wrap(&clean(text), term.width - 2).into_iter().enumerate() {
        let lead = if i == 0 { term.paint(tone, mark) } else { " ".to_owned() };
        out.push_str(&format!("{lead} {line}\n"));
    }
    ask::tell(&out);
}

/// Exit code of a watch.
pub fn code(watched: &Watched) -> u8 {
    match watched.reached {
        Reached::LoggedIn | Reached::Broker | Reached::Socket => OK,
        Reached::Nothing => INCOMPLETE,
        _ => FINDINGS,
    }
}

//! The last part of the broker's logs: known signatures only.
use super::{Fact, Where};
use crate::formats::broker_log::{self, Boot, Class};
use crate::host::{Command, Host, Miss};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;

const DIRECTORY: &str = "/var/log/rabbitmq";
const UNIT: &str = "rabbitmq-server.service";
/// Bytes read from the end of each file.
const TAIL: u64 = 256 * 1024;
/// Lines of the journal: a failing boot writes about 20, and systemd tries again every 10 s.
const JOURNAL_LINES: u32 = 300;
/// Newest events kept.
const EVENTS_MAX: usize = 200;
/// How far back refusals count while the broker is down, in seconds.
const DAY: i64 = 24 * 60 * 60;

/// What the logs say. Only lines that match a known signature are kept, with secrets struck out.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Log {
    /// Files (and `journal`) that were read.
    pub sources: Fact<Vec<String>>,
    /// Newest last.
    pub events: Fact<Vec<Event>>,
    /// The reason of the last failed boot, if the last boot failed; null: it did not.
    pub boot_failure: Fact<Option<Event>>,
    /// Logins that were refused, grouped by user, reason and peer; since the last start of the broker.
    pub refusals: Fact<Vec<Refusal>>,
}

/// One signature found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Event {
    /// Stable name of the signature, e.g. `login-refused`, `unknown-key`, `port-in-use`, `boot-failed`, `disk-alarm`.
    pub signature: String,
    /// Seconds since the epoch; null: the line has no time.
    pub time: Option<i64>,
    pub text: String,
    pub peer: Option<String>,
    pub user: Option<String>,
    pub vhost: Option<String>,
    pub at: Where,
}

/// Refused logins of one kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Refusal {
    pub user: String,
    /// loopback-only | bad-credentials | no-permission | no-vhost | operation (on a queue, exchange or topic) | blank-password | limit | other
    pub reason: String,
    pub peer: Option<String>,
    pub vhost: Option<String>,
    pub count: i64,
    /// Newest, seconds since the epoch.
    pub last: Option<i64>,
    pub text: String,
    pub at: Where,
}

/// One log that was read.
struct Source {
    name: String,
    /// The text begins at the file's first line, so that line numbers are the file's.
    whole: bool,
    /// Seconds since the epoch.
    mtime: Option<i64>,
    events: Vec<broker_log::Event>,
    /// The last line that is not blank, counted as in `events`.
    last_line: u32,
}

/// What became of looking at one log.
type Look = Result<Option<Source>, Miss>;

/// Reads the ends of the logs. `started` is the start of the broker's process (`None`: it does not run), `unit_since` the last
/// change of the unit's state, both in seconds since the epoch.
///
/// The journal is asked only if the broker is down and nothing it printed went to a file: asking costs 8 ms.
pub fn collect(host: &dyn Host, node_name: &Fact<String>, started: Option<i64>, unit_since: Option<i64>) -> Log {
    let node = node_log_name(host, node_name).and_then(|name| name.map_or(Ok(None), |n| read(host, &n)));
    // Debian's unit appends to the first two, the scripts of old packages to the last.
    let printed = ["rabbitmq-server.log", "startup_log"].map(|f| read(host, &format!("{DIRECTORY}/{f}")));
    let errors = read(host, &format!("{DIRECTORY}/rabbitmq-server.error.log"));
    let to_file = printed.iter().any(|p| matches!(p, Ok(Some(_))));
    let journal = if started.is_none() && !to_file { Some(read_journal(host)) } else { None };
    let refusals = refusals(&node, started, host.identity().now);
    let looks: Vec<&Look> = [&node].into_iter().chain(&printed).chain([&errors]).chain(&journal).collect();
    let boot_failure = match looks.iter().find_map(|l| l.as_ref().err()) {
        Some(miss) if started.is_none() => Fact::from(miss.clone()),
        _ => Fact::Known(boot_failure(&node, &printed, &errors, &journal, started, unit_since)),
    };
    let miss = [&node].into_iter().chain(&printed).find_map(|l| l.as_ref().err());
    let sources: Vec<&Source> = looks.iter().copied().filter_map(found).collect();
    Log {
        sources: Fact::Known(sources.iter().map(|s| s.name.clone()).collect()),
        events: miss.map_or_else(|| Fact::Known(merged(&sources)), |m| Fact::from(m.clone())),
        boot_failure,
        refusals,
    }
}

/// The path of the node's own log; `None`: there is none.
fn node_log_name(host: &dyn Host, node_name: &Fact<String>) -> Result<Option<String>, Miss> {
    if let Fact::Known(name) = node_name {
        return Ok(Some(format!("{DIRECTORY}/{name}.log")));
    }
    let names = match host.list(Path::new(DIRECTORY)) {
        Err(miss) if miss.is_absent() => return Ok(None),
        other => other?,
    };
    let logs: Vec<_> = names.iter().filter(|n| n.contains('@') && n.ends_with(".log") && !n.ends_with("_upgrade.log")).collect();
    match logs[..] {
        [] => Ok(None),
        [one] => Ok(Some(format!("{DIRECTORY}/{one}"))),
        _ => Err(Miss::failed(DIRECTORY, "logs of several nodes, and this node's name is not known")),
    }
}

fn read(host: &dyn Host, path: &str) -> Look {
    let tail = match host.tail(Path::new(path), TAIL) {
        Err(miss) if miss.is_absent() => return Ok(None),
        other => other?,
    };
    let text = String::from_utf8_lossy(&tail.bytes);
    // The first line of a cut text may be the rest of one.
    let text = if tail.cut { text.split_once('\n').map_or("", |(_, rest)| rest) } else { &text };
    let mtime = host.stat(Path::new(path), true).ok().map(|m| m.mtime);
    Ok(Some(source(path, !tail.cut, mtime, text)))
}

fn read_journal(host: &dyn Host) -> Look {
    let what = format!("journal of {UNIT}");
    let output = host.run(&Command::Journal { unit: UNIT.to_owned(), lines: JOURNAL_LINES })?.ok(&what)?;
    Ok(Some(source("journal", false, None, &broker_log::from_journal(&output))))
}

fn source(name: &str, whole: bool, mtime: Option<i64>, text: &str) -> Source {
    let mut events = broker_log::scan(text);
    let offset = utc_offset(broker_log::last_naive_time(text), mtime);
    for e in events.iter_mut().filter(|e| e.naive) {
        e.time = e.time.zip(offset).map(|(time, offset)| time - offset);
    }
    let last_line = text.trim_end().bytes().filter(|b| *b == b'\n').count() as u32 + 1;
    Source { name: name.to_owned(), whole, mtime, events, last_line }
}

/// RabbitMQ 3.8 logs local time without an offset. The last line was written when the file was last changed, so the difference
/// of the two is the offset (seconds), if it is one that a time zone can have.
fn utc_offset(last_line: Option<i64>, mtime: Option<i64>) -> Option<i64> {
    let difference = last_line? - mtime?;
    let offset = (difference as f64 / 900.0).round() as i64 * 900;
    ((difference - offset).abs() <= 60 && offset.abs() <= 15 * 3600).then_some(offset)
}

impl Source {
    fn event(&self, e: &broker_log::Event) -> Event {
        Event {
            signature: e.signature.to_owned(),
            time: e.time,
            text: e.text.clone(),
            peer: e.peer.clone(),
            user: e.user.clone(),
            vhost: e.vhost.clone(),
            at: self.place(e.line),
        }
    }
    fn place(&self, line: u32) -> Where {
        Where { file: self.name.clone(), line: self.whole.then_some(line), column: None }
    }
}

fn found(look: &Look) -> Option<&Source> {
    look.as_ref().ok().and_then(Option::as_ref)
}

fn merged(sources: &[&Source]) -> Vec<Event> {
    let mut all: Vec<(i64, Event)> = Vec::new();
    for source in sources {
        // An event without a time is no younger than its file.
        let latest = source.mtime.unwrap_or(i64::MAX);
        all.extend(source.events.iter().map(|e| (e.time.unwrap_or(latest), source.event(e))));
    }
    all.sort_by_key(|(time, _)| *time);
    let surplus = all.len().saturating_sub(EVENTS_MAX);
    all.into_iter().skip(surplus).map(|(_, e)| e).collect()
}

fn boot_failure(
    node: &Look,
    printed: &[Look],
    errors: &Look,
    journal: &Option<Look>,
    started: Option<i64>,
    unit_since: Option<i64>,
) -> Option<Event> {
    let node = found(node);
    // Every boot prints its outcome; the node's log knows only of boots that came as far as opening it.
    let told = printed.iter().chain(journal).filter_map(found).find_map(|s| Some((s, broker_log::last_boot(&s.events)?)));
    let (told_by, outcome) = match told.or_else(|| node.and_then(|s| Some((s, broker_log::last_boot(&s.events)?)))) {
        None => (None, None),
        Some((s, Boot::Completed(_))) => (Some(s), None),
        Some((s, Boot::Failed(e))) => (Some(s), Some(e)),
    };
    if let (None, Some(errors)) = (started, found(errors))
        && let Some(e) = errors.events.last().filter(|e| before_the_broker(e, errors.last_line))
        && told_by.is_none_or(|t| errors.mtime >= t.mtime)
    {
        // The start script or the Erlang VM died before the broker could print anything.
        return Some(Event { time: e.time.or(errors.mtime), ..errors.event(e) });
    }
    let in_journal = found(journal.as_ref().unwrap_or(&Ok(None))).and_then(|s| Some((s, s.events.last()?)));
    if let Some((source, e)) = in_journal.filter(|(s, e)| started.is_none() && before_the_broker(e, s.last_line)) {
        return Some(source.event(e));
    }
    let (told_by, failure) = (told_by?, outcome?);
    let time = failure.time.or(told_by.mtime).or(unit_since);
    if started.zip(time).is_some_and(|(started, failed)| failed < started) {
        return None;
    }
    // What is printed may be vague where the node's log names the cause.
    let better = node.filter(|_| failure.class != Class::Cause).and_then(|n| match broker_log::last_boot(&n.events)? {
        Boot::Failed(e) if e.class == Class::Cause && e.time.zip(time).is_some_and(|(a, b)| (a - b).abs() < 60) => {
            Some(n.event(&e))
        }
        _ => None,
    });
    Some(better.unwrap_or_else(|| Event { time, ..told_by.event(&failure) }))
}

/// Whether it says why a start ended before the broker could print anything, with nothing after it but what belongs to it: the Erlang VM
/// prints a page about its flags.
fn before_the_broker(e: &broker_log::Event, last_line: u32) -> bool {
    const PAGE: u32 = 200;
    let lines = if e.signature == "bad-vm-flag" { PAGE } else { 12 };
    broker_log::BEFORE_THE_BROKER.contains(&e.signature) && last_line <= e.line + lines
}

/// The refused logins of the node's log since the broker's start, or of the last day if it is down; newest first.
fn refusals(node: &Look, started: Option<i64>, now: i64) -> Fact<Vec<Refusal>> {
    let source = match node {
        Err(miss) => return Fact::from(miss.clone()),
        Ok(Some(source)) => source,
        Ok(None) if started.is_none() => return Fact::Known(Vec::new()),
        Ok(None) => return Fact::Unknown(format!("the broker runs, but has no log in {DIRECTORY}")),
    };
    let since = started.unwrap_or(now - DAY);
    let mut groups: BTreeMap<_, Refusal> = BTreeMap::new();
    for e in source.events.iter().filter(|e| e.time.is_none_or(|t| t >= since)) {
        let Class::Refusal(reason) = e.class else { continue };
        let user = e.user.clone().unwrap_or_default();
        let new = Refusal {
            user: user.clone(),
            reason: reason.to_owned(),
            peer: e.peer.clone(),
            vhost: e.vhost.clone(),
            count: 0,
            last: None,
            text: String::new(),
            at: source.place(e.line),
        };
        let group = groups.entry((user, reason, e.peer.clone(), e.vhost.clone())).or_insert(new);
        group.count += 1;
        group.last = e.time.or(group.last);
        group.text.clone_from(&e.text);
        group.at = source.place(e.line);
    }
    let mut all: Vec<Refusal> = groups.into_values().collect();
    all.sort_by_key(|r| std::cmp::Reverse(r.last));
    Fact::Known(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::Fake;

    const NODE: &str = "/var/log/rabbitmq/rabbit@mq1.log";
    const STDOUT: &str = "/var/log/rabbitmq/rabbitmq-server.log";
    const STDERR: &str = "/var/log/rabbitmq/rabbitmq-server.error.log";
    /// 2026-11-22 15:00:00 UTC
    const T: i64 = 1_795_359_600;

    fn look(host: &Fake, started: Option<i64>) -> Log {
        collect(host, &Fact::Known("rabbit@mq1".into()), started, None)
    }
    fn refused(minute: u32, user: &str) -> String {
        let head = format!("2026-11-22 15:{minute:02}:00.5+00:00 [error] <0.5.0>");
        format!(
            "{head} Error on AMQP connection <0.5.0> (10.0.0.9:{minute} -> 10.0.0.1:5672, state: starting):\n{head} PLAIN login refused: user '{user}' can only connect via localhost\n"
        )
    }
    const FAILED: &str = "2026-11-22 15:21:08.6+00:00 [error] <0.1.0>   - Conf file attempted to set unknown variable: a\n2026-11-22 15:21:08.6+00:00 [error] <0.1.0> BOOT FAILED\n";
    const UP: &str = "  ##  ##      RabbitMQ 4.0.5\n  Starting broker... completed with 3 plugins.\n";

    fn failure(log: &Log) -> Option<Event> {
        log.boot_failure.known().unwrap().clone()
    }

    #[test]
    fn refusals_are_grouped_since_the_start() {
        let host = Fake::new().file(NODE, refused(1, "guest") + &refused(5, "guest") + &refused(6, "app") + &refused(7, "guest"));
        let log = look(&host, Some(T + 120));
        let got = log.refusals.known().unwrap();
        assert_eq!(
            got.iter().map(|r| (r.user.as_str(), r.count, r.last)).collect::<Vec<_>>(),
            [("guest", 2, Some(T + 420)), ("app", 1, Some(T + 360))]
        );
        assert_eq!(
            (got[0].reason.as_str(), got[0].peer.as_deref(), got[0].at.line),
            ("loopback-only", Some("10.0.0.9"), Some(8))
        );
        assert_eq!(log.sources, Fact::Known(vec![NODE.to_owned()]));
        assert_eq!(failure(&log), None);
    }

    #[test]
    fn what_is_printed_decides_on_the_last_boot() {
        let failed = Fake::new().file(STDOUT, format!("{UP}{FAILED}"));
        let e = failure(&look(&failed, None)).unwrap();
        assert_eq!(
            (e.signature.as_str(), e.time, e.at.file.as_str(), e.at.line),
            ("unknown-key", Some(T + 1268), STDOUT, Some(3))
        );
        assert_eq!(failure(&look(&failed, Some(T + 2000))), None, "the broker was started after it");
        assert_eq!(failure(&look(&Fake::new().file(STDOUT, format!("{FAILED}{UP}")), None)), None);
    }

    #[test]
    fn the_nodes_log_names_the_cause_that_is_not_printed() {
        let node = "2026-11-22 15:21:07.6+00:00 [error] <0.1.0> Failed to start Ranch listener {acceptor,{0,0,0,0},5672} for reason eaddrinuse (address already in use)\n2026-11-22 15:21:08.6+00:00 [error] <0.1.0> BOOT FAILED\n";
        let stdout = "2026-11-22 15:21:08.6+00:00 [error] <0.1.0> BOOT FAILED\n===========\nError during startup: odd\n";
        let e = failure(&look(&Fake::new().file(NODE, node).file(STDOUT, stdout), None)).unwrap();
        assert_eq!((e.signature.as_str(), e.at.file.as_str()), ("port-in-use", NODE));
    }

    #[test]
    fn the_journal_is_asked_only_when_nothing_else_tells() {
        let journal = Command::Journal { unit: UNIT.into(), lines: JOURNAL_LINES };
        let line = format!("{{\"__REALTIME_TIMESTAMP\":\"{}000000\",\"MESSAGE\":\"BOOT FAILED\"}}\n", T);
        let host = Fake::new().file(NODE, "").command(journal.clone(), &line);
        let e = failure(&look(&host, None)).unwrap();
        assert_eq!((e.signature.as_str(), e.time, e.at.file.as_str(), e.at.line), ("boot-failed", Some(T), "journal", None));
        assert_eq!(look(&host, Some(T)).sources, Fact::Known(vec![NODE.to_owned()]));
        let down = look(&Fake::new().file(NODE, "").command_ends(journal, Err(Miss::Absent { what: "journalctl".into() })), None);
        assert!(down.boot_failure.why().unwrap().contains("journalctl"));
        assert_eq!(down.refusals, Fact::Known(vec![]));
    }

    #[test]
    fn a_start_script_that_died_in_the_environment_file() {
        let host = Fake::new().file(STDOUT, UP).file(STDERR, "/etc/rabbitmq/rabbitmq-env.conf: 1: NODE_PORT: not found\n");
        assert_eq!(failure(&look(&host.clone().mtime(STDOUT, T).mtime(STDERR, T + 9), None)).unwrap().signature, "env-file");
        assert_eq!(failure(&look(&host.mtime(STDOUT, T + 9).mtime(STDERR, T), None)), None);
    }

    #[test]
    fn local_time_is_told_from_the_time_of_the_file() {
        let old = "2026-11-22 16:00:00.635 [error] <0.6.0> Error on AMQP connection <0.6.0> (10.0.0.9:3 -> 10.0.0.1:5672, state: starting):\nPLAIN login refused: user 'guest' can only connect via localhost\n";
        let last = |mtime| look(&Fake::new().file(NODE, old).mtime(NODE, mtime), Some(0)).refusals.known().unwrap()[0].last;
        assert_eq!(last(T + 1), Some(T));
        assert_eq!(last(T + 400), None, "no time zone has such an offset");
    }

    #[test]
    fn what_could_not_be_read_is_unknown() {
        let log = look(&Fake::new().file(NODE, "").denied(NODE), Some(T));
        assert!(log.refusals.why().unwrap().contains("permission denied"));
        assert!(log.events.why().is_some());
        assert!(look(&Fake::new(), Some(T)).refusals.why().is_some());
    }

    #[test]
    fn without_the_nodes_name_a_single_log_will_do() {
        let host = Fake::new().file(NODE, refused(1, "guest")).file("/var/log/rabbitmq/rabbit@mq1_upgrade.log", "");
        let log = collect(&host, &Fact::Unknown("x".into()), Some(T), None);
        assert_eq!(log.refusals.known().unwrap().len(), 1);
        let host = host.file("/var/log/rabbitmq/rabbit@mq2.log", "");
        assert!(collect(&host, &Fact::Unknown("x".into()), Some(T), None).refusals.why().is_some());
    }
}

//! Known messages in the broker's logs: `rabbit@HOST.log`, what the start scripts print, and the journal.
//!
//! Line formats: up to 3.8 `2026-11-22 15:01:06.635 [info] <0.695.0> text` in local time, with continuation lines that have no
//! prefix; from 3.9 `2026-11-22 15:01:06.562633+00:00 [info] <0.671.0> text` on every line. Before the log file is open
//! (configuration errors), 3.8 prints `15:39:33.418 [error] text`. With the JSON formatter each line is an object.
//!
//! All signatures are one table of literals that are searched for together; only lines with a hit are looked at closely.

use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind};
use std::borrow::Cow;
use std::sync::LazyLock;

/// What a signature says about the broker's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// A boot has begun.
    BootStarted,
    /// A boot is done.
    BootCompleted,
    /// A boot has failed.
    BootFailed,
    /// A reason for which a boot fails.
    Cause,
    /// A refused login, with the reason as in `facts::log::Refusal`.
    Refusal(&'static str),
    Other,
}

/// One known message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub signature: &'static str,
    pub class: Class,
    /// Seconds since the epoch; of the nearest line above if the line itself has no time.
    pub time: Option<i64>,
    /// `time` was written without an offset and is taken for UTC: it is local time.
    pub naive: bool,
    /// The message without its prefix, secrets struck out, shortened.
    pub text: String,
    /// The client's address without its port.
    pub peer: Option<String>,
    pub user: Option<String>,
    pub vhost: Option<String>,
    /// Counts from 1 at the beginning of the text.
    pub line: u32,
    /// Seconds, for distances only: `time`, or the time of day.
    clock: Option<i64>,
}

/// How the last boot in a log ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Boot {
    Completed(Event),
    /// The most telling reason.
    Failed(Event),
}

struct Signature {
    name: &'static str,
    class: Class,
    mark: &'static str,
}

const fn s(name: &'static str, class: Class, mark: &'static str) -> Signature {
    Signature { name, class, mark }
}
const fn cause(name: &'static str, mark: &'static str) -> Signature {
    s(name, Class::Cause, mark)
}
const fn other(name: &'static str, mark: &'static str) -> Signature {
    s(name, Class::Other, mark)
}
const fn refusal(name: &'static str, reason: &'static str, mark: &'static str) -> Signature {
    s(name, Class::Refusal(reason), mark)
}

/// Of marks with a common beginning the longer one comes first.
static SIGNATURES: &[Signature] = &[
    // --- boots
    s("boot-started", Class::BootStarted, "##  ##      RabbitMQ "),
    s("boot-started", Class::BootStarted, " Starting RabbitMQ "),
    s("boot-completed", Class::BootCompleted, "Server startup complete"),
    s("boot-completed", Class::BootCompleted, "Starting broker... completed with"),
    s("boot-failed", Class::BootFailed, "BOOT FAILED"),
    s("boot-failed", Class::BootFailed, "Kernel pid terminated"),
    s("boot-failed", Class::BootFailed, "init terminating in do_boot"),
    // --- configuration
    cause("unknown-key", "Conf file attempted to set unknown variable: "),
    cause("bad-value", "Error transforming datatype for: "),
    cause("bad-value", "Error running translation for "),
    cause("bad-value", " invalid, supported formats: "),
    cause("bad-value", "substitution requires a config variable"),
    cause("missing-file", " invalid, file does not exist or cannot be read by the node"),
    cause("missing-file", " invalid, file doesn't exist or isn't readable"),
    cause("conf-syntax", "Syntax error in "),
    cause("conf-unreadable", "Could not open file ("),
    cause("advanced-syntax", "Failed to load advanced configuration file"),
    cause("plugins-file", "cannot_read_enabled_plugins_file"),
    cause("definitions-not-json", "{error,not_json}"),
    cause("missing-passphrase", "missing_passphrase"),
    cause("missing-passphrase", "Missing passphrase or missing passphrase read method"),
    cause("decryption-failed", "Error while decrypting key '"),
    cause("bad-env-value", "Invalid value for $RABBITMQ_"),
    cause("env-file", "rabbitmq-env.conf: "),
    cause("no-auth-backend", "None of the configured auth backends are usable"),
    // --- listeners
    cause("dist-port-in-use", "ERROR: distribution port "),
    cause("dist-port-in-use", "ERROR: could not bind to distribution port "),
    cause("port-in-use", "eaddrinuse"),
    cause("address-not-local", "eaddrnotavail"),
    cause("invalid-port", "invalid_port,"),
    cause("port-not-permitted", "(permission denied)"),
    // --- names and cookie
    cause("node-already-running", "is already running on host"),
    cause("epmd-error", "epmd error for host"),
    cause("epmd-unreachable", "register/listen error: econnrefused"),
    cause("cookie-mode", "must be accessible by owner only"),
    cause("cookie-empty", "Too short cookie string"),
    cause("cookie-characters", "Bad characters in cookie"),
    // The text goes on with the cookie.
    cause("cookie-too-long", "{failed_to_start_child,auth,{system_limit,"),
    cause("cookie-unreadable", "Error when reading "),
    // --- the Erlang VM and the start script, on standard error
    cause("erl-missing", ": erl: not found"),
    cause("erl-missing", "erl: command not found"),
    cause("bad-vm-flag", "Usage: beam"),
    cause("vm-memory", "erts_mmap: Failed to create super carrier"),
    cause("vm-memory", "Cannot allocate "),
    cause("vm-threads", "Failed to create aux thread"),
    cause("vm-threads", "Failed to create main thread"),
    cause("vm-threads", "Failed to create scheduler thread"),
    // --- files and data
    cause("data-unwritable", "could_not_write_file"),
    cause("no-space", "enospc"),
    cause("read-only", "erofs"),
    cause("log-unwritable", "failed to open log file at '"),
    cause("log-unwritable", "{cannot_log_to_file,"),
    cause("data-unwritable", "cannot_create_mnesia_dir"),
    cause("data-unwritable", "Failed to create Ra data directory"),
    cause("data-unwritable", "Ra could not create its data directory"),
    cause("required-feature-flag", "required feature flag not enabled"),
    cause("required-feature-flag", "Failed to initialize feature flags registry"),
    cause("required-feature-flag", "disabled_required_feature_flag"),
    cause("deprecated-feature-denied", "deprecated features can't be denied"),
    cause("erlang-too-old", "This RabbitMQ version cannot run on Erlang"),
    cause("erlang-too-old", "erlang_version_too_old"),
    cause("tables-timeout", "timeout_waiting_for_tables"),
    cause("tables-timeout", "Timeout contacting cluster nodes"),
    cause("inconsistent-cluster", "thinks it's clustered with node"),
    cause("inconsistent-cluster", "inconsistent_cluster"),
    cause("incompatible-nodes", "incompatible_feature_flags"),
    cause("flags-file-broken", "feature_flags_file_read_error"),
    // --- refused logins
    refusal("login-refused", "loopback-only", "' can only connect via localhost"),
    refusal("login-refused", "loopback-only", "' - User can only log in via localhost"),
    refusal("login-refused", "bad-credentials", "' - invalid credentials"),
    refusal("login-refused", "blank-password", "attempted to log in with a blank password"),
    refusal("login-refused", "other", "' - Not management user"),
    refusal("login-refused", "other", " login refused: "),
    refusal("vhost-refused", "no-permission", "access to vhost '"),
    refusal("operation-refused", "operation", "caused a channel exception access_refused: "),
    refusal("vhost-missing", "no-vhost", " not found"),
    refusal("vhost-down", "other", "' is down"),
    refusal("connection-limit", "limit", "connection refused: node connection limit ("),
    refusal("connection-limit", "limit", "connection refused for user '"),
    // --- connections
    other("handshake-timeout", "{handshake_timeout,"),
    other("tls-on-plain-port", "{bad_header,<<22,3,"),
    other("tls-on-plain-port", "TLS client detected on non-TLS AMQP port"),
    other("http-on-amqp-port", "{bad_header,<<\"GET "),
    other("http-on-amqp-port", "HTTP GET request detected on AMQP port"),
    other("wrong-protocol", "{bad_header,"),
    other("wrong-protocol", "client did not start with AMQP protocol header"),
    other("wrong-protocol", "{bad_version,"),
    other("amqp10-not-enabled", "amqp1_0_plugin_not_enabled"),
    other("amqp10-without-sasl", "requires SASL security layer"),
    other("tls-alert", "generated SERVER ALERT: Fatal"),
    other("tls-handshake-failed", "error during handshake for protocol"),
    other("tls-listener-without-certificate", "for reason no_cert"),
    other("missed-heartbeats", "missed heartbeats from client"),
    other("tune-failed", "failed to negotiate connection parameters"),
    // --- resources
    other("memory-alarm-cleared", "memory resource limit alarm cleared on node"),
    other("memory-alarm", "memory resource limit alarm set on node"),
    other("disk-alarm-cleared", "disk resource limit alarm cleared on node"),
    other("disk-alarm", "disk resource limit alarm set on node"),
    other("fd-alarm", "file descriptor limit alarm set"),
    other("few-file-handles", "Please consider increasing system limits"),
    other("limit-ignored", "Unable to parse disk_free_limit value"),
    other("limit-ignored", "Unable to parse vm_memory_high_watermark value"),
    // --- the rest
    other("listeners-suspended", "No new client connections will be accepted until these listeners are resumed"),
    other("listeners-resumed", "New client connections will be accepted from now on"),
    other("auth-backends-dropped", "Some configured backends were dropped"),
    other("cookie-mismatch", "rejected. Invalid challenge reply"),
    other("partition", "running_partitioned_network"),
    other("partition", "Partial partition detected"),
    other("partition-pause", "Cluster minority/secondary status detected"),
    other("waiting-for-tables", "Waiting for Mnesia tables for"),
    other("waiting-for-tables", "Waiting for Khepri leader for"),
    other("default-user-seeded", "Will seed default virtual host and user"),
    other("secret-in-log", "Setting credentials obfuscation secret to '"),
];

/// Finds any of the marks. A table that does not build finds nothing; a test sees to it that it does.
static MARKS: LazyLock<Option<AhoCorasick>> = LazyLock::new(|| {
    // A DFA would search a little faster, but takes longer to build than a search takes.
    let mut builder = AhoCorasick::builder();
    builder.match_kind(MatchKind::LeftmostFirst).kind(Some(AhoCorasickKind::ContiguousNFA));
    builder.build(SIGNATURES.iter().map(|s| s.mark)).ok()
});

/// Two messages of one failed boot are at most this many seconds apart; systemd waits longer before it tries again.
const SAME_BOOT: i64 = 5;
/// Causes that no `BOOT FAILED` need follow.
const ENDS_THE_VM: &[&str] = &["cookie-mode", "cookie-unreadable", "cookie-empty", "cookie-characters", "cookie-too-long"];
/// Causes that end a start before the broker can print anything: they stand in what systemd keeps of standard error.
pub const BEFORE_THE_BROKER: &[&str] = &["env-file", "erl-missing", "bad-vm-flag", "vm-memory", "vm-threads"];
/// Characters of a message that are kept.
const TEXT_MAX: usize = 300;

/// The known messages of a log, in its order; one a line, but a failure and its cause can share one.
pub fn scan(log: &str) -> Vec<Event> {
    let text = from_json_formatter(log);
    let Some(marks) = MARKS.as_ref() else { return Vec::new() };
    let mut events: Vec<Event> = Vec::new();
    let (mut pos, mut counted, mut line) = (0, 0, 1u32);
    while let Some(hit) = marks.find(aho_corasick::Input::new(text.as_ref()).range(pos..)) {
        let start = text[..hit.start()].rfind('\n').map_or(0, |n| n + 1);
        let end = text[hit.end()..].find('\n').map_or(text.len(), |n| hit.end() + n);
        line += text.as_bytes()[counted..start].iter().filter(|b| **b == b'\n').count() as u32;
        counted = start;
        let signature = &SIGNATURES[hit.pattern().as_usize()];
        let event = event(&text, signature, start..end, line);
        // A hit that turns out to be something else may hide another one in the same line.
        let done = event.is_some() && signature.class != Class::BootFailed;
        pos = if done { end } else { hit.end() };
        events.extend(event);
    }
    events
}

fn event(text: &str, signature: &Signature, span: std::ops::Range<usize>, line: u32) -> Option<Event> {
    let row = Row::parse(&text[span.clone()]);
    let body = row.body.trim();
    if !confirmed(signature, body) {
        return None;
    }
    let above = text[..span.start].strip_suffix('\n').unwrap_or("");
    let (time, naive, clock) =
        row.times().or_else(|| above.rsplit('\n').take(400).find_map(|l| Row::parse(l).times())).unwrap_or_default();
    let previous = above.rsplit('\n').take(2).map(|l| Row::parse(l).body.trim()).find(|b| b.contains("connection"));
    let context = previous.filter(|_| matches!(signature.class, Class::Refusal(_) | Class::Other));
    let user = user_of(body).or_else(|| context.and_then(|c| between(c, "user: '", "'")));
    let vhost = vhost_of(body).or_else(|| context.and_then(|c| between(c, "vhost: '", "'")));
    let class = match signature.class {
        Class::Refusal("no-permission") if body.contains("connection limit (") => Class::Refusal("limit"),
        Class::Refusal("other") => closer(signature, body).class,
        class => class,
    };
    let shown = excerpt(row.body, row.body.find(signature.mark).unwrap_or(0));
    let following = detail(signature, &text[span.end..]);
    let said_before = || above.rsplit('\n').map(|l| Row::parse(l).body.trim()).find(|b| !b.is_empty());
    let following = if signature.name == "bad-vm-flag" { said_before().map(|b| excerpt(b, 0)) } else { following };
    let shown = match (signature.class, following) {
        (_, Some(said)) if signature.name == "bad-vm-flag" => said,
        (Class::BootFailed, Some(reason)) => reason,
        (_, Some(more)) => format!("{}: {more}", shown.trim_end_matches(':')),
        (_, None) => shown,
    };
    Some(Event {
        signature: signature.name,
        class,
        time,
        naive,
        text: strike_out(&shown),
        peer: peer_of(body).or_else(|| context.and_then(peer_of)),
        user,
        vhost,
        line,
        clock,
    })
}

/// The signature of the same name that says more about the line.
fn closer<'a>(signature: &'a Signature, body: &str) -> &'a Signature {
    let same = SIGNATURES.iter().filter(|s| s.name == signature.name && s.class != signature.class);
    let mut same = same.filter(|s| body.contains(s.mark));
    same.next().unwrap_or(signature)
}

/// Marks that are ordinary words need a second look.
fn confirmed(signature: &Signature, body: &str) -> bool {
    match signature.mark {
        " not found" => body.starts_with("vhost "),
        "' is down" => body.contains("vhost '"),
        "access to vhost '" => body.contains("refused for user '"),
        "Error when reading " => body.contains(".erlang.cookie"),
        "Syntax error in " => body.contains("parsing incomplete"),
        "(permission denied)" => body.contains("listener"),
        "Cannot allocate " => body.contains("bytes of memory") || body.contains(" memory"),
        _ => true,
    }
}

/// The lines below that belong to the message.
fn detail(signature: &Signature, below: &str) -> Option<String> {
    let mut bodies = below.split('\n').skip(1).take(6).map(|l| Row::parse(l).body.trim());
    match (signature.class, signature.mark) {
        (Class::BootFailed, "BOOT FAILED") => bodies.find(|b| !b.is_empty() && !b.starts_with("====")).map(|b| excerpt(b, 0)),
        (_, "Error transforming datatype for: ") => {
            let reason = bodies.next()?.trim_start_matches("- ");
            (reason.contains("converted") || reason.contains("valid")).then(|| excerpt(reason, 0))
        }
        (_, "generated SERVER ALERT: Fatal") => bodies.next().filter(|b| b.starts_with("- ")).map(|b| excerpt(b, 2)),
        _ => None,
    }
}

fn user_of(body: &str) -> Option<String> {
    let (_, rest) = body.split_once("user '")?;
    let ends = ["' can only connect via", "' - ", "' attempted to log in", "': ", "' in virtual"];
    // A name may hold quotes: the text after the name decides where it ends.
    let end = ends.iter().filter_map(|e| rest.find(e)).min().or_else(|| rest.rfind('\''))?;
    Some(rest[..end].to_owned())
}

fn vhost_of(body: &str) -> Option<String> {
    if let Some(rest) = body.strip_prefix("vhost ")
        && let Some(name) = rest.strip_suffix(" not found")
    {
        return Some(name.trim_matches('\'').to_owned());
    }
    between(body, "vhost '", "'").or_else(|| between(body, "vhost: '", "'"))
}

/// The client of `(10.0.0.9:39888 -> 10.0.0.1:5672, …)` or `AMQP connection 10.0.0.9:39888 -> …`, without the port.
fn peer_of(body: &str) -> Option<String> {
    let (before, _) = body.split_once(" -> ")?;
    let socket = before.rsplit([' ', '(']).next()?;
    let (address, _) = socket.rsplit_once(':')?;
    let address = address.trim_start_matches('[').trim_end_matches(']');
    address.parse::<std::net::IpAddr>().ok().map(|a| a.to_canonical().to_string())
}

fn between(text: &str, open: &str, close: &str) -> Option<String> {
    let (_, rest) = text.split_once(open)?;
    rest.split_once(close).map(|(inner, _)| inner.to_owned())
}

/// At most [`TEXT_MAX`] characters that contain what stands at byte `at`.
fn excerpt(body: &str, at: usize) -> String {
    let body_start = body.len() - body.trim_start().len();
    let from = if body.len() <= TEXT_MAX { body_start } else { at.saturating_sub(TEXT_MAX / 3).max(body_start) };
    let from = (from..=body.len()).find(|n| body.is_char_boundary(*n)).unwrap_or(0);
    let kept: String = body[from..].trim_end().trim_start_matches("- ").chars().take(TEXT_MAX).collect();
    let (before, after) = (from > body_start, from + kept.len() < body.trim_end().len() && body.len() > TEXT_MAX);
    format!("{}{kept}{}", if before { "…" } else { "" }, if after { "…" } else { "" })
}

/// Takes secrets out of a message: the cookie that debug logging prints, encrypted values, passwords in URIs.
pub fn strike_out(text: &str) -> String {
    const STRUCK_OUT: &str = "(secret)";
    let mut out = text.to_owned();
    for (open, close) in [("obfuscation secret to '", "'"), ("{encrypted,", "}"), ("-setcookie ", " "), ("list_to_atom,[", "]")] {
        let mut from = 0;
        while let Some(at) = out[from..].find(open).map(|n| from + n + open.len()) {
            let end = out[at..].find(close).map_or(out.len(), |n| at + n);
            out.replace_range(at..end, STRUCK_OUT);
            from = at + STRUCK_OUT.len();
        }
    }
    let mut from = 0;
    while let Some(at) = out[from..].find("://").map(|n| from + n + 3) {
        from = at;
        let end = out[at..].find(|c: char| c.is_whitespace() || "/\"'<>".contains(c)).map_or(out.len(), |n| at + n);
        let Some(host) = out[at..end].rfind('@') else { continue };
        if let Some(colon) = out[at..at + host].find(':') {
            out.replace_range(at + colon + 1..at + host, STRUCK_OUT);
        }
    }
    out
}

/// How the last boot of a log ended; `None`: the log does not say.
pub fn last_boot(events: &[Event]) -> Option<Boot> {
    let last = events.iter().rposition(|e| matches!(e.class, Class::BootCompleted | Class::BootFailed));
    // Some failures end the Erlang VM before it can print anything more.
    if let Some(e) = events[last.map_or(0, |n| n + 1)..].iter().rfind(|e| ENDS_THE_VM.contains(&e.signature)) {
        return Some(Boot::Failed(e.clone()));
    }
    let end = last?;
    if events[end].class == Class::BootCompleted {
        return Some(Boot::Completed(events[end].clone()));
    }
    let failed = events[end].clock;
    // The clock of 3.8 starts again at midnight: a negative distance is another boot as well.
    let near = |e: &Event| matches!((e.clock, failed), (Some(a), Some(b)) if (b - a).abs() > SAME_BOOT);
    let begins = |e: &Event| matches!(e.class, Class::BootStarted | Class::BootCompleted);
    let mut start = end;
    // Causes may be logged long before the failure, e.g. a time-out of tables, but another failure in between ends the search.
    while start > 0 && !begins(&events[start - 1]) && !(events[start - 1].class == Class::BootFailed && near(&events[start - 1]))
    {
        start -= 1;
    }
    let later = events[end..].iter().take_while(|e| !begins(e) && !near(e)).count();
    let of_this_boot = &events[start..end + later];
    let reason = of_this_boot.iter().find(|e| e.class == Class::Cause);
    let generic = of_this_boot.iter().find(|e| e.class == Class::BootFailed && e.text.contains("rror"));
    Some(Boot::Failed(reason.or(generic).unwrap_or(&events[end]).clone()))
}

/// The time of the last line if it is written without an offset, as if it were UTC.
pub fn last_naive_time(log: &str) -> Option<i64> {
    match log.trim_end().rsplit('\n').take(400).find_map(|l| Row::parse(l).stamp)? {
        Stamp::At { time, naive: true } => Some(time),
        _ => None,
    }
}

// --- lines ---

/// One line of a log.
struct Row<'a> {
    stamp: Option<Stamp>,
    body: &'a str,
}

#[derive(Clone, Copy)]
enum Stamp {
    /// Seconds since the epoch; `naive`: written without an offset.
    At { time: i64, naive: bool },
    /// Seconds of the day.
    Clock(i64),
}

impl<'a> Row<'a> {
    fn parse(line: &'a str) -> Row<'a> {
        let line = line.strip_suffix('\r').unwrap_or(line);
        match stamp(line) {
            None => Row { stamp: None, body: line },
            Some((stamp, rest)) => Row { stamp: Some(stamp), body: without_level(rest) },
        }
    }

    /// (`time`, `naive`, `clock`) of an event.
    fn times(&self) -> Option<(Option<i64>, bool, Option<i64>)> {
        match self.stamp? {
            Stamp::At { time, naive } => Some((Some(time), naive, Some(time))),
            Stamp::Clock(seconds) => Some((None, false, Some(seconds))),
        }
    }
}

/// The time at the start of a line, and the rest of the line.
fn stamp(line: &str) -> Option<(Stamp, &str)> {
    let bytes = line.as_bytes();
    let number = |from: usize, to: usize| line.get(from..to)?.parse::<i16>().ok();
    let part = |from: usize| number(from, from + 2).and_then(|n| i8::try_from(n).ok());
    if bytes.get(2) == Some(&b':') && bytes.get(5) == Some(&b':') {
        let (h, m, s) = (part(0)?, part(3)?, part(6)?);
        let seconds = i64::from(h) * 3600 + i64::from(m) * 60 + i64::from(s);
        let rest = line.get(8..)?.trim_start_matches(|c: char| c == '.' || c.is_ascii_digit());
        return rest.starts_with(" [").then_some((Stamp::Clock(seconds), rest));
    }
    if bytes.get(4) != Some(&b'-') || bytes.get(13) != Some(&b':') {
        return None;
    }
    let date = jiff::civil::DateTime::new(number(0, 4)?, part(5)?, part(8)?, part(11)?, part(14)?, part(17)?, 0).ok()?;
    let time = jiff::tz::Offset::UTC.to_timestamp(date).ok()?.as_second();
    let rest = line.get(19..)?.trim_start_matches(|c: char| c == '.' || c.is_ascii_digit());
    if let Some(rest) = rest.strip_prefix('Z') {
        return Some((Stamp::At { time, naive: false }, rest));
    }
    let sign = match rest.as_bytes().first() {
        Some(b'+') => 1,
        Some(b'-') => -1,
        _ => return Some((Stamp::At { time, naive: true }, rest)),
    };
    let two = |from: usize| rest.get(from..from + 2)?.parse::<i64>().ok();
    let offset = sign * (two(1)? * 3600 + two(4)? * 60);
    Some((Stamp::At { time: time - offset, naive: false }, rest.get(6..)?))
}

/// What follows ` [level] <0.1.2> `.
fn without_level(rest: &str) -> &str {
    let Some((_, rest)) = rest.strip_prefix(" [").and_then(|r| r.split_once(']')) else { return rest };
    let rest = rest.strip_prefix(' ').unwrap_or(rest);
    match rest.strip_prefix('<').and_then(|r| r.split_once('>')) {
        Some((pid, after)) if pid.bytes().all(|b| b.is_ascii_digit() || b == b'.') => after.strip_prefix(' ').unwrap_or(after),
        _ => rest,
    }
}

/// A log of the JSON formatter as the lines that the text formatter would have written; other logs as they are.
fn from_json_formatter(log: &str) -> Cow<'_, str> {
    if !log.starts_with('{') || !log.lines().next().is_some_and(|l| l.contains("\"msg\"")) {
        return Cow::Borrowed(log);
    }
    let mut out = String::with_capacity(log.len());
    for line in log.lines() {
        // One line stays one line, so that line numbers hold; `\n` in the message is lost on nobody but the context.
        let object: serde_json::Value = serde_json::from_str(line).unwrap_or_default();
        let field = |name: &str| object.get(name).and_then(|v| v.as_str()).unwrap_or_default();
        out.push_str(&format!("{} [{}] {}\n", field("time"), field("level"), field("msg").replace('\n', " ")));
    }
    Cow::Owned(out)
}

/// The output of `journalctl -o json` as log lines with their times. Lines that cannot be parsed are passed over.
pub fn from_journal(json: &[u8]) -> String {
    let mut out = String::new();
    for line in json.split(|b| *b == b'\n').filter(|l| !l.is_empty()) {
        let Ok(entry) = serde_json::from_slice::<serde_json::Value>(line) else { continue };
        let message = match entry.get("MESSAGE") {
            Some(serde_json::Value::String(text)) => text.clone(),
            // Text with control characters comes as an array of bytes.
            Some(serde_json::Value::Array(bytes)) => {
                let bytes: Vec<u8> = bytes.iter().filter_map(|b| b.as_u64()).filter_map(|b| u8::try_from(b).ok()).collect();
                String::from_utf8_lossy(&bytes).into_owned()
            }
            _ => continue,
        };
        let micros = entry.get("__REALTIME_TIMESTAMP").and_then(|t| t.as_str()).and_then(|t| t.parse::<i64>().ok());
        let time = micros.and_then(|m| jiff::Timestamp::from_second(m / 1_000_000).ok());
        for text in message.lines() {
            match time {
                Some(time) => out.push_str(&format!("{time} [journal] {}\n", Row::parse(text).body)),
                None => out.push_str(&format!("{text}\n")),
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(log: &str) -> Event {
        let events = scan(log);
        assert_eq!(events.len(), 1, "{events:#?}");
        events[0].clone()
    }
    fn names(log: &str) -> Vec<&'static str> {
        scan(log).iter().map(|e| e.signature).collect()
    }
    fn failure(log: &str) -> (&'static str, String) {
        match last_boot(&scan(log)) {
            Some(Boot::Failed(e)) => (e.signature, e.text),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_table_compiles_and_every_mark_is_found_as_itself() {
        assert!(MARKS.is_some());
        for s in SIGNATURES {
            let found = MARKS.as_ref().unwrap().find(s.mark).unwrap();
            assert_eq!(SIGNATURES[found.pattern().as_usize()].mark, s.mark, "a shorter mark hides it");
        }
    }

    #[test]
    fn a_refused_login_gets_the_peer_of_the_line_above() {
        let new = "2026-11-22 15:34:24.614483+00:00 [error] <0.502.0> Error on AMQP connection <0.502.0> (10.99.0.1:48480 -> 10.99.0.1:5672, state: starting):\n\
                   2026-11-22 15:34:24.614483+00:00 [error] <0.502.0> PLAIN login refused: user 'guest' can only connect via localhost\n";
        let old = "2026-11-22 15:01:06.635 [error] <0.624.0> Error on AMQP connection <0.624.0> (10.99.0.1:39888 -> 10.99.0.1:5672, state: starting):\n\
                   PLAIN login refused: user 'guest' can only connect via localhost\n";
        for (log, time, naive) in [(new, 1_795_361_664, false), (old, 1_795_359_666, true)] {
            let e = one(log);
            assert_eq!((e.signature, e.class, e.line), ("login-refused", Class::Refusal("loopback-only"), 2));
            assert_eq!((e.user.as_deref(), e.peer.as_deref()), (Some("guest"), Some("10.99.0.1")));
            assert_eq!((e.time, e.naive), (Some(time), naive));
        }
    }

    #[test]
    fn reasons_users_and_virtual_hosts() {
        let head = "2026-11-22 15:34:24.6+02:00 [error] <0.5.0> ";
        let context = "Error on AMQP connection <0.5.0> ([2001:db8::9]:4 -> [::1]:5672 - probe, vhost: 'nope', user: 'app', state: opening):";
        let check = |line: &str| {
            let e = one(&format!("{head}{context}\n{head}{line}\n"));
            assert_eq!((e.peer.as_deref(), e.time), (Some("2001:db8::9"), Some(1_795_354_464)));
            let Class::Refusal(reason) = e.class else { panic!("{e:?}") };
            (reason, e.user.unwrap(), e.vhost.unwrap())
        };
        let all = |r, u: &str, v: &str| (r, u.to_owned(), v.to_owned());
        assert_eq!(check("vhost nope not found"), all("no-vhost", "app", "nope"));
        assert_eq!(check("access to vhost '/' refused for user 'nop'"), all("no-permission", "nop", "/"));
        assert_eq!(check("access to vhost 'v' refused for user 'u': connection limit (1) is reached"), all("limit", "u", "v"));
        assert_eq!(check("PLAIN login refused: user 'o'brien' - invalid credentials"), all("bad-credentials", "o'brien", "nope"));
        assert_eq!(check("connection refused: node connection limit (5) is reached"), all("limit", "app", "nope"));
        let refused = "operation queue.declare caused a channel exception access_refused: access to queue 'orders' in vhost '/' refused for user 'app'";
        assert_eq!(check(refused), all("operation", "app", "/"));
        assert_eq!(check(&refused.replace("access to queue", "configure access to queue")), all("operation", "app", "/"));
        let e = one(
            "2026-11-22 15:35:37.859959+00:00 [warning] <0.574.0> HTTP access denied: user 'guest' - User can only log in via localhost",
        );
        assert_eq!((e.class, e.user.as_deref(), e.peer), (Class::Refusal("loopback-only"), Some("guest"), None));
    }

    #[test]
    fn what_looks_like_a_signature_but_is_none() {
        assert_eq!(
            scan(
                "2026-11-22 15:34:24.6+00:00 [info] <0.5.0> file /x not found\n2026-11-22 15:34:24.6+00:00 [info] <0.5.0> nothing\n"
            ),
            []
        );
        assert_eq!(scan("2026-11-22 15:34:24.6+00:00 [info] <0.5.0> queue 'q' in vhost: not found"), []);
    }

    #[test]
    fn protocol_mistakes() {
        let head = "2026-11-22 15:34:24.6+00:00 [error] <0.5.0> ";
        let closing = "closing AMQP connection <0.5.0> (10.0.0.7:1 -> 10.0.0.1:5672):";
        for (line, want) in [
            ("{bad_header,<<22,3,1,2,0,1,0,1>>}", "tls-on-plain-port"),
            ("{bad_header,<<\"GET / HT\">>}", "http-on-amqp-port"),
            ("{bad_header,<<16,15,0,4,77,81,84,84>>}", "wrong-protocol"),
            ("{handshake_timeout,frame_header}", "handshake-timeout"),
            ("amqp1_0_plugin_not_enabled", "amqp10-not-enabled"),
            ("missed heartbeats from client, timeout: 60s", "missed-heartbeats"),
        ] {
            let e = one(&format!("{head}{closing}\n{head}{line}\n"));
            assert_eq!((e.signature, e.peer.as_deref()), (want, Some("10.0.0.7")));
        }
        let alert = format!(
            "{head}TLS server: In state hello at tls_record.erl:558 generated SERVER ALERT: Fatal - Unexpected Message\n{head} - {{unsupported_record_type,65}}\n"
        );
        assert!(one(&alert).text.ends_with("Unexpected Message: {unsupported_record_type,65}"));
    }

    #[test]
    fn boots_that_fail_on_the_configuration() {
        let new = "2026-11-22 15:21:08.5+00:00 [error] <0.153.0> You've tried to set foo.bar, but there is no setting with that name.\n\
                   2026-11-22 15:21:08.6+00:00 [error] <0.153.0> Error preparing configuration in phase transform_datatypes:\n\
                   2026-11-22 15:21:08.6+00:00 [error] <0.153.0>   - Conf file attempted to set unknown variable: foo.bar\n\
                   2026-11-22 15:21:08.6+00:00 [error] <0.153.0> \n\
                   2026-11-22 15:21:08.6+00:00 [error] <0.153.0> BOOT FAILED\n\
                   2026-11-22 15:21:08.6+00:00 [error] <0.153.0> ===========\n\
                   2026-11-22 15:21:08.6+00:00 [error] <0.153.0> Error during startup: {error,failed_to_prepare_configuration}\n";
        assert_eq!(failure(new), ("unknown-key", "Conf file attempted to set unknown variable: foo.bar".to_owned()));
        let old = "15:39:33.418 [error] Error preparing configuration in phase transform_datatypes:\n\
                   15:39:33.418 [error]   - Error transforming datatype for: listeners.tcp.default\n\
                   15:39:33.418 [error]   - \"abc\" cannot be converted to a(n) integer\n\
                   15:39:33.433 [error] BOOT FAILED\n15:39:33.433 [error] ===========\n";
        let want = "Error transforming datatype for: listeners.tcp.default: \"abc\" cannot be converted to a(n) integer";
        assert_eq!(failure(old), ("bad-value", want.to_owned()));
        let unknown = "15:39:33.433 [error] BOOT FAILED\n15:39:33.433 [error] ===========\n15:39:33.433 [error] Error during startup: {error,new_reason}\n";
        assert_eq!(failure(unknown), ("boot-failed", "Error during startup: {error,new_reason}".to_owned()));
    }

    #[test]
    fn a_carriage_return_at_the_end_is_no_part_of_the_message() {
        let events = scan("2026-11-22 15:21:08.6+00:00 [error] <0.1.0> BOOT FAILED\r\n");
        assert_eq!(events.len(), 1);
        assert_eq!(events[0].text, "BOOT FAILED");
    }

    #[test]
    fn only_the_last_boot_counts() {
        let failed = |second: u32, key: &str| {
            let head = format!("2026-11-22 15:21:{second:02}.5+00:00 [error] <0.153.0>");
            format!(
                "{head}   - Conf file attempted to set unknown variable: {key}\n{head} BOOT FAILED\n{head} ===========\n{head} Error during startup: x\n\nBOOT FAILED\n===========\nError during startup: x\n"
            )
        };
        let up = "  ##  ##      RabbitMQ 4.0.5\n  Starting broker... completed with 3 plugins.\n";
        assert!(failure(&(failed(1, "a") + &failed(14, "b"))).1.ends_with(": b"));
        assert!(matches!(last_boot(&scan(&(failed(1, "a") + up))), Some(Boot::Completed(_))));
        assert!(failure(&(up.to_owned() + &failed(40, "c"))).1.ends_with(": c"));
        assert_eq!(last_boot(&scan("nothing\n")), None);
    }

    #[test]
    fn a_cause_that_is_printed_after_the_failure() {
        let log = "  ##  ##      RabbitMQ 4.0.5\n  Starting broker...\nBOOT FAILED\n===========\nError during startup: {error,\n                       {could_not_start_listener,\"::\",5672,eaddrinuse}}\n";
        let (signature, text) = failure(log);
        assert_eq!(signature, "port-in-use");
        assert_eq!(text, "{could_not_start_listener,\"::\",5672,eaddrinuse}}");
        let long = format!("{{exit,{}eaddrinuse{}}}", "x".repeat(2000), "y".repeat(2000));
        let text = one(&long).text;
        assert!(
            text.contains("eaddrinuse") && text.chars().count() <= TEXT_MAX + 2 && text.starts_with('…') && text.ends_with('…')
        );
    }

    #[test]
    fn a_cause_in_the_line_of_the_failure_and_one_without_any() {
        let log = "  Starting broker...{\"Kernel pid terminated\",x,\"{{cannot_read_enabled_plugins_file,\\\"/p\\\",eacces}\"}\nBOOT FAILED\n";
        assert_eq!(failure(log).0, "plugins-file");
        let log = "2026-11-22 15:21:08.6+00:00 [error] <0.1.0> Cookie file /x/.erlang.cookie must be accessible by owner only\n";
        assert_eq!(failure(&format!("Starting broker... completed with 0 plugins.\n{log}")).0, "cookie-mode");
    }

    #[test]
    fn names_and_cookies() {
        let head = "2026-11-22 15:20:43.603246+00:00 [error] <0.153.0> ";
        for (line, want) in [
            ("ERROR: epmd error for host nosuchhost: nxdomain (non-existing domain)", "epmd-error"),
            ("Cookie file /var/lib/rabbitmq/.erlang.cookie must be accessible by owner only", "cookie-mode"),
            ("Error when reading /var/lib/rabbitmq/.erlang.cookie: eacces", "cookie-unreadable"),
            ("ERROR: node with name \"rabbit\" is already running on host \"h\"", "node-already-running"),
            ("failed to open log file at '/x/rabbit@h.log', reason: permission denied", "log-unwritable"),
            (
                "Feature flags: `x`: required feature flag not enabled! It must be enabled before upgrading RabbitMQ.",
                "required-feature-flag",
            ),
        ] {
            assert_eq!(names(&format!("{head}{line}\n")), [want]);
        }
    }

    #[test]
    fn what_ends_the_vm_before_the_broker() {
        for (text, want, shown) in [
            ("/usr/lib/rabbitmq/bin/rabbitmq-server: 68: exec: erl: not found\n", "erl-missing", "exec: erl: not found"),
            ("erts_mmap: Failed to create super carrier of size 1024 MB\n", "vm-memory", "size 1024 MB"),
            ("eheap_alloc: Cannot allocate 1048576 bytes of memory (of type \"heap\").\n", "vm-memory", "1048576"),
            (
                "bad number of processes 5\nUsage: beam.smp [flags] [ -- [init_args] ]\nThe flags are:\n",
                "bad-vm-flag",
                "bad number of processes 5",
            ),
            (
                "/usr/lib/erlang/erts-13.1.5/bin/beam.smp unknown flag -Zx\nUsage: beam.smp [flags] [ -- [init_args] ]\n",
                "bad-vm-flag",
                "unknown flag -Zx",
            ),
        ] {
            let e = one(text);
            assert_eq!(e.signature, want);
            assert!(e.text.contains(shown), "{}", e.text);
        }
    }

    #[test]
    fn cookies_that_erlang_does_not_take() {
        let head = "2026-11-29 02:37:44.059544+00:00 [notice] <0.44.0> ";
        let line = |why: &str| {
            format!(
                "{head}Application rabbitmq_prelaunch exited with reason: {{{{shutdown,{{failed_to_start_child,auth,{why}}}}}}}\n"
            )
        };
        assert_eq!(failure(&line("{\"Too short cookie string\",[{auth,init_no_setcookie,0,[]}]}")).0, "cookie-empty");
        let (signature, text) =
            failure(&line("{system_limit,[{erlang,list_to_atom,[\"AAAAAAAA\"],[]},{auth,init_no_setcookie,0,[]}]}"));
        assert_eq!(signature, "cookie-too-long");
        assert!(!text.contains("AAAA"), "{text}");
    }

    #[test]
    fn secrets_are_struck_out() {
        assert_eq!(
            one("x Setting credentials obfuscation secret to 'GEHEIM'").text,
            "x Setting credentials obfuscation secret to '(secret)'"
        );
        assert_eq!(strike_out("{encrypted,<<\"GEHEIM\">>} x"), "{encrypted,(secret)} x");
        assert_eq!(strike_out("amqp://u:GE:H@IM@h/%2f and http://h/x@y"), "amqp://u:(secret)@h/%2f and http://h/x@y");
        assert_eq!(strike_out("-setcookie GEHEIM"), "-setcookie (secret)");
    }

    #[test]
    fn the_journal_and_the_json_formatter() {
        let journal = br#"{"__REALTIME_TIMESTAMP":"1795361648600000","MESSAGE":"15:34:08.601 [error]   - Conf file attempted to set unknown variable: a"}
{"__REALTIME_TIMESTAMP":"1795361648700000","MESSAGE":[66,79,79,84,32,70,65,73,76,69,68]}
{"MESSAGE":null}
not json
"#;
        let events = scan(&from_journal(journal));
        assert_eq!(
            events.iter().map(|e| (e.signature, e.time, e.naive)).collect::<Vec<_>>(),
            [("unknown-key", Some(1_795_361_648), false), ("boot-failed", Some(1_795_361_648), false)]
        );
        let json = "{\"time\":\"2026-11-22 15:34:24.614483+00:00\",\"level\":\"error\",\"msg\":\"Error on AMQP connection <0.5.0> (10.0.0.9:1 -> 10.0.0.1:5672, state: starting):\\nPLAIN login refused: user 'guest' can only connect via localhost\"}\n";
        let e = one(json);
        assert_eq!((e.user.as_deref(), e.peer.as_deref(), e.time), (Some("guest"), Some("10.0.0.9"), Some(1_795_361_664)));
    }

    #[test]
    fn strange_bytes_do_no_harm() {
        for log in [
            "",
            "\n",
            "BOOT FAILED",
            "vhost  not found",
            "-> eaddrinuse",
            "(: -> x) eaddrinuse",
            "2026-13-45 99:99:99 eaddrinuse",
            "\u{fc} eaddrinuse",
        ] {
            scan(log);
        }
    }
}

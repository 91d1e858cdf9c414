//! The connection path: the way of a client's packet to a usable channel, stage by stage, from facts and findings.
//!
//! Stages stand in packet order, which decides what the client *sees*. A stage that can be judged is judged even where an
//! earlier one fails: the reader wants to know everything that stands in the way, not only the first thing.

use crate::facts::clients::Client;
use crate::facts::firewall::{DecidingRule, Verdict};
use crate::facts::tls::is_tls;
use crate::facts::{Fact, Facts};
use crate::findings::Finding;
use crate::formats::cidr::Cidr;
use crate::rules::{Severity, Stage};
use serde::Serialize;
use std::net::IpAddr;

mod beyond;

/// The way of one client.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Path {
    pub client: String,
    pub from: String,
    pub service: String,
    /// `10.0.0.5:5672`; null: not known
    pub to: Option<String>,
    pub state: PathState,
    /// connected | refused | timeout | reset | unreachable | tls-error | auth-refused | vhost-refused | hangs | unknown
    pub sees: String,
    pub stages: Vec<StageLine>,
    /// Nobody said that this client must connect.
    pub assumed: bool,
    /// What to look at next if it still cannot connect, where this host is fine for it; else empty.
    pub beyond: Vec<String>,
}

/// Can this client connect?
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum PathState {
    Ok,
    Blocked,
    Unknown,
}

/// One stage of the way.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct StageLine {
    pub stage: Stage,
    pub state: StageState,
    pub basis: Basis,
    pub detail: String,
    /// Failing rules of this stage.
    pub rules: Vec<String>,
}

/// What is known about a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum StageState {
    Ok,
    Fail,
    Unknown,
    NotReached,
}

/// How it is known: really tried, evaluated, or seen in a log, socket or counter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Basis {
    Proven,
    Computed,
    Observed,
}

/// What a stage function says, and what the client sees if it ends there.
struct Judged {
    state: StageState,
    basis: Basis,
    detail: String,
    sees: &'static str,
}

impl Judged {
    fn ok(basis: Basis, detail: impl Into<String>) -> Self {
        Judged { state: StageState::Ok, basis, detail: detail.into(), sees: "connected" }
    }
    fn fail(basis: Basis, detail: impl Into<String>, sees: &'static str) -> Self {
        Judged { state: StageState::Fail, basis, detail: detail.into(), sees }
    }
    fn unknown(why: impl Into<String>) -> Self {
        Judged { state: StageState::Unknown, basis: Basis::Computed, detail: why.into(), sees: "unknown" }
    }
    fn not_reached(why: impl Into<String>) -> Self {
        Judged { state: StageState::NotReached, basis: Basis::Computed, detail: why.into(), sees: "unknown" }
    }
}

/// The rule by which a client without a name is refused, whoever it is.
const NOBODY: &str = "no-usable-user";

/// Walks the way of one client.
pub fn walk(client: &Client, facts: &Facts, findings: &[Finding]) -> Path {
    let mut judged = vec![
        (Stage::Route, route(client, facts)),
        (Stage::Firewall, firewall(client)),
        (Stage::Listener, listener(client, findings)),
    ];
    if let Some(secured) = tls(client) {
        judged.push((Stage::Tls, secured));
    }
    let listening = client.listener.known().map(String::as_str) == Some("listening");
    match client.service.as_str() {
        // Metrics are served to whoever asks.
        "prometheus" | "prometheus-tls" => {}
        // Pages and API belong to no vhost, and no alarm blocks them.
        "management" | "management-tls" => judged.push((Stage::Login, login(client, facts, findings))),
        _ => judged.extend([
            (Stage::Amqp, amqp(client, facts, listening)),
            (Stage::Login, login(client, facts, findings)),
            (Stage::Vhost, vhost(client, facts)),
            (Stage::Limits, limits(client, facts)),
        ]),
    }
    let first_failure = judged.iter().find(|(_, j)| j.state == StageState::Fail);
    // An assumed client has no user: what it will log in with is not ours to judge.
    let matters = |stage: Stage| !(client.user.is_none() && matches!(stage, Stage::Login | Stage::Vhost));
    let gap = judged.iter().find(|(s, j)| j.state != StageState::Ok && matters(*s));
    let (state, sees) = match (first_failure, gap) {
        (Some((stage, fail)), _) => (PathState::Blocked, seen(&judged, *stage, fail.sees)),
        (None, Some(_)) => (PathState::Unknown, "unknown"),
        (None, None) => (PathState::Ok, "connected"),
    };
    Path {
        client: client.name.clone(),
        from: client.from.clone(),
        service: client.service.clone(),
        to: client.to.known().cloned().flatten().zip(client.port.known()).map(|(a, p)| endpoint(&a, *p)),
        state,
        sees: sees.to_owned(),
        stages: judged.into_iter().map(|(stage, j)| line(stage, j, findings)).collect(),
        assumed: client.assumed,
        beyond: if state == PathState::Ok { beyond::next_steps(client, facts) } else { Vec::new() },
    }
}

/// `10.0.0.5:5672`, `[fd77::2]:5672`
pub fn endpoint(address: &str, port: i64) -> String {
    if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
}

/// What the client sees is certain only if every earlier stage of the packet's way is.
fn seen(judged: &[(Stage, Judged)], failing: Stage, sees: &'static str) -> &'static str {
    let before = judged.iter().take_while(|(s, _)| *s != failing);
    let uncertain = before.into_iter().any(|(_, j)| j.state == StageState::Unknown);
    if uncertain { "unknown" } else { sees }
}

fn line(stage: Stage, judged: Judged, findings: &[Finding]) -> StageLine {
    // What is wrong with files of TLS stands under `config`: it may keep the broker from starting.
    let of_stage = |f: &&Finding| {
        let here = host_side(f.stage) == stage || (stage == Stage::Tls && f.rule.starts_with("tls-"));
        here && f.severity == Severity::Error
    };
    let mut rules: Vec<String> = match judged.state {
        StageState::Fail => findings.iter().filter(of_stage).map(|f| f.rule.clone()).collect(),
        _ => Vec::new(),
    };
    rules.dedup();
    StageLine { stage, state: judged.state, basis: judged.basis, detail: judged.detail, rules }
}

/// A broken configuration or a stopped service shows as a closed port.
fn host_side(stage: Stage) -> Stage {
    match stage {
        Stage::Config | Stage::Service | Stage::Name => Stage::Listener,
        other => other,
    }
}

fn route(client: &Client, facts: &Facts) -> Judged {
    if !client.remote {
        return Judged::ok(Basis::Computed, "on this host");
    }
    match (&client.interface, &client.to) {
        (Fact::Unknown(why), _) | (_, Fact::Unknown(why)) => Judged::unknown(why.clone()),
        (Fact::Known(None), _) => Judged::fail(Basis::Computed, format!("no route back to {}", client.from), "timeout"),
        (Fact::Known(Some(_)), Fact::Known(None)) => {
            Judged::unknown(format!("this host has no address that {} could use", client.from))
        }
        (Fact::Known(Some(interface)), Fact::Known(Some(_))) => {
            if let Some((verdict, rule)) = not_routed(client) {
                return Judged::fail(Basis::Computed, rule.rule.clone(), symptom(&verdict.sees));
            }
            let known: Vec<String> =
                [way_back(client, facts, interface), reverse_path(client, facts, interface)].into_iter().flatten().collect();
            let more = if known.is_empty() { String::new() } else { format!(" ({})", known.join(", ")) };
            Judged::ok(Basis::Computed, format!("replies leave by {interface}{more}"))
        }
    }
}

/// `10.0.0.0/24`, `0.0.0.0/0 via 10.0.0.1`: the most specific route to the client by that interface.
fn way_back(client: &Client, facts: &Facts, interface: &str) -> Option<String> {
    let source: IpAddr = client.example.as_ref()?.parse().ok()?;
    let routes = facts.net.routes.known()?.iter().filter(|r| r.interface == interface && !r.blocked);
    let matching = routes.filter_map(|r| Cidr::parse(&r.to).filter(|c| c.contains(source)).map(|c| (c.prefix, r)));
    let (_, route) = matching.max_by_key(|(prefix, r)| (*prefix, -r.metric))?;
    let via = route.gateway.as_ref().map(|g| format!(" via {g}")).unwrap_or_default();
    Some(format!("{}{via}", route.to))
}

/// IPv4 alone has this check; 0 is no check.
fn reverse_path(client: &Client, facts: &Facts, interface: &str) -> Option<String> {
    let v4 = client.to.known()?.as_ref()?.parse::<IpAddr>().ok()?.is_ipv4();
    match facts.net.rp_filter.known()?.get(interface)? {
        1 if v4 => Some("rp_filter 1: strict".to_owned()),
        2 if v4 => Some("rp_filter 2: loose".to_owned()),
        _ => None,
    }
}

/// The routing tables or rp_filter stop the connection, and no rule of the packet filter.
fn not_routed(client: &Client) -> Option<(&Verdict, &DecidingRule)> {
    let verdict = client.firewall.known().filter(|v| ["drop", "reject"].contains(&v.verdict.as_str()))?;
    let rule = verdict.decided_by.as_ref().filter(|rule| rule.is_routing())?;
    Some((verdict, rule))
}

fn firewall(client: &Client) -> Judged {
    match &client.firewall {
        Fact::Unknown(why) => Judged::unknown(why.clone()),
        // The packet filter itself has nothing against it.
        Fact::Known(verdict) if not_routed(client).is_some() && verdict.packet == "reply" => {
            Judged::ok(Basis::Computed, "lets the client's packets in")
        }
        Fact::Known(_) if not_routed(client).is_some() => Judged::not_reached("the kernel discards the packet before"),
        Fact::Known(verdict) => match verdict.verdict.as_str() {
            "accept" => Judged::ok(Basis::Computed, let_through(verdict)),
            // Nobody said from where: that some sources are let through is all that can be asked for.
            "depends" if client.assumed => Judged::ok(Basis::Computed, format!("depends: {}", verdict.depends_on.join("; "))),
            "depends" => Judged::unknown(format!("depends on {}", verdict.depends_on.join("; "))),
            _ => Judged::fail(Basis::Computed, blocked_by(verdict), symptom(&verdict.sees)),
        },
    }
}

fn let_through(verdict: &Verdict) -> String {
    match (&verdict.delivered_to, verdict.forwarded) {
        (None, _) => "this host lets it through".to_owned(),
        (Some(to), false) => format!("let through, and redirected to {to}"),
        (Some(to), true) => format!("let through, and forwarded to {to}"),
    }
}

fn blocked_by(verdict: &Verdict) -> String {
    let packet = match verdict.packet.as_str() {
        "reply" => "the broker's reply is ",
        "established" => "the client's next packet is ",
        "neighbour" => "the look-up of this host's address (IPv6 neighbour discovery) is ",
        _ => "",
    };
    let what = format!("{packet}{}", if verdict.verdict == "drop" { "dropped" } else { "rejected" });
    match &verdict.decided_by {
        Some(rule) => format!("{what} by {} {}: {}", rule.table, rule.chain, rule.rule),
        None => what,
    }
}

/// The words of CONTRACT's `sees`.
fn symptom(text: &str) -> &'static str {
    ["connected", "refused", "timeout", "reset", "unreachable", "tls-error", "hangs"]
        .into_iter()
        .find(|s| *s == text)
        .unwrap_or("unknown")
}

fn listener(client: &Client, findings: &[Finding]) -> Judged {
    let delivered = client.firewall.known().and_then(|v| v.delivered_to.as_deref());
    let port = match (delivered.and_then(|to| to.rsplit_once(':')), client.port.known()) {
        (Some((_, port)), _) => port.to_owned(),
        (None, Some(port)) => port.to_string(),
        (None, None) => "?".to_owned(),
    };
    let state = match &client.listener {
        Fact::Unknown(why) => return Judged::unknown(why.clone()),
        Fact::Known(state) => state.as_str(),
    };
    let root = findings.iter().find(|f| f.counts() && f.severity == Severity::Error && f.stage <= Stage::Name);
    match (state, root) {
        ("listening", _) => Judged::ok(Basis::Observed, format!("RabbitMQ listens on port {port}")),
        ("forwarded", _) => {
            let detail = format!("not reached: the connection goes on to {}", delivered.unwrap_or("another host"));
            // Who answers there is not ours to say; nobody said that it has to be this broker.
            if client.assumed { Judged::unknown(detail) } else { Judged::fail(Basis::Computed, detail, "unknown") }
        }
        ("absent", _) if delivered.is_some() => Judged::fail(
            Basis::Observed,
            format!("nothing listens on port {port}, where the connection is redirected to"),
            "refused",
        ),
        ("absent", Some(cause)) => {
            Judged::fail(Basis::Observed, format!("nothing listens on port {port}: {}", cause.title), "refused")
        }
        ("absent", None) => Judged::fail(Basis::Observed, format!("nothing listens on port {port}"), "refused"),
        ("loopback-only", _) => Judged::fail(Basis::Observed, format!("port {port} is open to this host only"), "refused"),
        ("other-address", _) => {
            Judged::fail(Basis::Observed, format!("port {port} is bound to another address of this host"), "refused")
        }
        ("suspended", _) => Judged::fail(Basis::Observed, format!("the listener of port {port} is suspended"), "refused"),
        ("foreign", _) => Judged::fail(Basis::Observed, format!("another program holds port {port}"), met(client)),
        ("other-service", _) => {
            Judged::fail(Basis::Observed, format!("the broker's port {port} is not for {}", client.service), met(client))
        }
        (other, _) => Judged::unknown(format!("listener state {other}")),
    }
}

/// What becomes of a client that speaks to the wrong program, as it was tried.
fn met(client: &Client) -> &'static str {
    match &client.login {
        // Its first bytes are no protocol header, and it closes the connection.
        Fact::Known(Some(outcome)) if outcome == "not-amqp" => "reset",
        Fact::Known(Some(outcome)) => symptom(outcome),
        _ if is_tls(&client.service) => "tls-error",
        _ => "unknown",
    }
}

/// `None`: neither the client nor the port speaks TLS.
fn tls(client: &Client) -> Option<Judged> {
    let secure = match &client.tls {
        Fact::Known(secure) => secure.as_ref()?,
        Fact::Unknown(why) => return Some(Judged::unknown(why.clone())),
    };
    let basis = if secure.proven { Basis::Proven } else { Basis::Computed };
    Some(match (secure.state.as_str(), client.listener.known().is_none_or(|state| state == "listening")) {
        ("ok", _) => Judged::ok(basis, secure.detail.clone()),
        ("fail", _) => Judged::fail(basis, secure.detail.clone(), symptom(&secure.sees)),
        (_, false) => Judged::not_reached("not reached: nothing to connect to"),
        _ => Judged::unknown(secure.detail.clone()),
    })
}

fn amqp(client: &Client, facts: &Facts, listening: bool) -> Judged {
    if let Fact::Known(Some(outcome)) = &client.login
        && ["connected", "auth-refused", "vhost-refused"].contains(&outcome.as_str())
    {
        return Judged::ok(Basis::Proven, "the AMQP handshake works from this host");
    }
    match (&client.login, &facts.node) {
        _ if !listening && client.listener.known().is_some() => Judged::not_reached("not reached: nothing to connect to"),
        (Fact::Known(Some(outcome)), _) if outcome == "hangs" => {
            Judged::fail(Basis::Proven, "accepts the connection, then says nothing", "hangs")
        }
        (Fact::Known(Some(outcome)), _) if outcome == "reset" => {
            Judged::fail(Basis::Proven, "closes the connection during the handshake", "reset")
        }
        _ if !listening => Judged::unknown(client.listener.why().unwrap_or_default()),
        (_, Fact::Known(Some(node))) if node.booted.known() == Some(&true) => {
            Judged::ok(Basis::Computed, "RabbitMQ has booted to the end")
        }
        (_, Fact::Known(Some(_))) => Judged::unknown("RabbitMQ is still booting"),
        (_, Fact::Known(None)) => Judged::unknown("no broker process was seen"),
        (_, Fact::Unknown(why)) => Judged::unknown(why.clone()),
    }
}

fn login(client: &Client, facts: &Facts, findings: &[Finding]) -> Judged {
    if let Fact::Known(Some(outcome)) = &client.login {
        match outcome.as_str() {
            "connected" | "vhost-refused" => return Judged::ok(Basis::Proven, format!("{} logged in", user_of(client))),
            "auth-refused" => {
                return Judged::fail(Basis::Proven, format!("{}: {}", user_of(client), client.login_text), "auth-refused");
            }
            _ => {}
        }
    }
    if let Some(judged) = without_node(facts) {
        return judged;
    }
    let nobody = findings.iter().any(|f| f.rule == NOBODY && f.severity == Severity::Error && f.counts());
    match (&client.user_exists, &client.user_loopback_only) {
        (Fact::Known(None), _) if client.remote && nobody => {
            Judged::fail(Basis::Computed, "no user of this broker can log in from another host", "auth-refused")
        }
        (Fact::Known(None), _) => Judged::unknown("no user was named (--user NAME --password-file FILE tries one)"),
        (Fact::Known(Some(false)), _) => {
            Judged::fail(Basis::Computed, format!("the broker has no user {}", user_of(client)), "auth-refused")
        }
        (_, Fact::Known(Some(true))) if client.remote => {
            Judged::fail(Basis::Computed, format!("{} may log in from this host only", user_of(client)), "auth-refused")
        }
        (Fact::Known(Some(true)), _) if client.account.has_password == Fact::Known(Some(false)) => {
            Judged::fail(Basis::Computed, format!("{} has no password", user_of(client)), "auth-refused")
        }
        (Fact::Known(Some(true)), _) if without_tag(client) => {
            Judged::fail(Basis::Computed, format!("{} has no tag of the management plugin", user_of(client)), "auth-refused")
        }
        (Fact::Unknown(why), _) | (_, Fact::Unknown(why)) => Judged::unknown(why.clone()),
        // The password is the client's; everything on this host that a login needs is there.
        _ => Judged::ok(Basis::Computed, format!("{} exists and may log in; its password was not tried", user_of(client))),
    }
}

fn without_tag(client: &Client) -> bool {
    client.service.starts_with("management") && client.account.may_manage == Fact::Known(Some(false))
}

fn user_of(client: &Client) -> &str {
    client.user.as_deref().unwrap_or("the user")
}

fn vhost(client: &Client, facts: &Facts) -> Judged {
    match &client.login {
        Fact::Known(Some(o)) if o == "connected" => {
            return Judged::ok(Basis::Proven, format!("{} opened vhost {}", user_of(client), client.vhost));
        }
        Fact::Known(Some(o)) if o == "vhost-refused" => {
            return Judged::fail(Basis::Proven, client.login_text.clone(), "vhost-refused");
        }
        _ => {}
    }
    if let Some(judged) = without_node(facts) {
        return judged;
    }
    let down = facts.node.known().and_then(Option::as_ref).and_then(|n| n.vhosts_down.known());
    if down.is_some_and(|down| down.contains(&client.vhost)) {
        return Judged::fail(Basis::Observed, format!("vhost {} is down", client.vhost), "vhost-refused");
    }
    match (&client.vhost_exists, &client.has_permission) {
        (Fact::Known(false), _) => Judged::fail(Basis::Computed, format!("there is no vhost {}", client.vhost), "vhost-refused"),
        (Fact::Known(true), Fact::Known(Some(false))) if client.user_exists == Fact::Known(Some(true)) => Judged::fail(
            Basis::Computed,
            format!("{} has no permission in vhost {}", user_of(client), client.vhost),
            "vhost-refused",
        ),
        (Fact::Known(true), Fact::Known(Some(true))) => {
            Judged::ok(Basis::Computed, format!("{} may use vhost {}", user_of(client), client.vhost))
        }
        (Fact::Unknown(why), _) | (_, Fact::Unknown(why)) => Judged::unknown(why.clone()),
        _ => Judged::unknown(format!("vhost {} exists; no user was named", client.vhost)),
    }
}

/// What is to be said of a stage that only a running node can tell about, where there is none or it cannot be asked.
fn without_node(facts: &Facts) -> Option<Judged> {
    match &facts.node {
        Fact::Known(Some(_)) => None,
        Fact::Known(None) => Some(Judged::not_reached("not checked while RabbitMQ is not running")),
        Fact::Unknown(why) => Some(Judged::unknown(why.clone())),
    }
}

fn limits(client: &Client, facts: &Facts) -> Judged {
    let node = match &facts.node {
        Fact::Known(Some(node)) => node,
        Fact::Known(None) => return Judged::not_reached("not checked while RabbitMQ is not running"),
        Fact::Unknown(why) => return limits_in_log(facts, why),
    };
    if let Fact::Known(Some(limit)) = &client.account.limit {
        let sees = if limit.waits { "hangs" } else { "vhost-refused" };
        return Judged::fail(Basis::Observed, limit.text.clone(), sees);
    }
    match (&node.alarms, &client.account.limit) {
        (Fact::Known(alarms), _) if !alarms.is_empty() => {
            Judged::fail(Basis::Observed, format!("{} alarm: publishers are blocked", alarms.join(" and ")), "hangs")
        }
        (Fact::Known(_), Fact::Known(_)) => Judged::ok(Basis::Observed, "no alarm"),
        (Fact::Unknown(why), _) | (_, Fact::Unknown(why)) => Judged::unknown(why.clone()),
    }
}

/// What the log tells of a node that cannot be asked.
fn limits_in_log(facts: &Facts, why: &str) -> Judged {
    match alarms_in_log(facts) {
        Some(alarms) if alarms.is_empty() => Judged::ok(Basis::Observed, "no alarm in the log since the start"),
        Some(alarms) => {
            let detail = format!("{} alarm in the log: publishers are blocked", alarms.join(" and "));
            Judged::fail(Basis::Observed, detail, "hangs")
        }
        None => Judged::unknown(why),
    }
}

/// The alarms that the log knows of; `None`: what was read of it does not go back to the start of the broker.
fn alarms_in_log(facts: &Facts) -> Option<Vec<&'static str>> {
    let events = facts.log.events.known()?;
    let start = events.iter().rposition(|e| e.signature == "boot-completed")?;
    let set = |name: &'static str| {
        let last = events[start..].iter().rfind(|e| e.signature.strip_suffix("-cleared").unwrap_or(&e.signature) == name);
        last.is_some_and(|e| e.signature == name).then_some(name.trim_end_matches("-alarm"))
    };
    Some(["memory-alarm", "disk-alarm", "fd-alarm"].into_iter().filter_map(set).collect())
}

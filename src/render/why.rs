//! `why ADDRESS`: the way of one client, stage by stage, with what is behind each line.

use super::term::{Term, Tone, clean, wrap};
use super::text::{stage_name, symptom};
use crate::facts::Facts;
use crate::facts::clients::Client;
use crate::facts::firewall::{DecidingRule, Firewall, Possibility, Verdict};
use crate::path::{Basis, Path, PathState, StageState};
use crate::rules::Stage;
use crate::watch::{Reached, Watched};
use serde::Serialize;

/// `rmq-audit/why/1` (CONTRACT section 5).
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Why {
    pub schema: String,
    pub path: Path,
    /// null: the verdict could not be computed (the path's firewall stage says why)
    pub firewall: Option<Verdict>,
    /// Interface that the client's packets come in by; null: not known, or no way back
    pub interface: Option<String>,
    /// Who manages the packet filter: ufw | firewalld | nftables-service | netfilter-persistent | iptables | nftables | none; null: not known
    pub manager: Option<String>,
    /// Names of those who have rules in the kernel.
    pub owners: Vec<String>,
    /// The verdict after the next boot; null: the same as now, or not known
    pub after_boot: Option<Verdict>,
    /// Why the verdict after the next boot is not known; null: it is
    pub after_boot_unknown: Option<String>,
    /// With `--watch`: what was seen while the client tried; null without
    pub watched: Option<Watched>,
}

impl Why {
    pub fn new(path: Path, client: &Client, facts: &Facts) -> Self {
        Why {
            schema: "rmq-audit/why/1".into(),
            path,
            firewall: client.firewall.known().cloned(),
            interface: client.interface.known().cloned().flatten(),
            manager: facts.firewall.known().map(|f| f.manager.clone()),
            owners: facts.firewall.known().map(loaded).unwrap_or_default(),
            after_boot: client.firewall_after_boot.known().cloned().flatten(),
            after_boot_unknown: client.firewall_after_boot.why().map(str::to_owned),
            watched: None,
        }
    }
}

fn loaded(firewall: &Firewall) -> Vec<String> {
    firewall.owned.list.iter().filter(|owner| owner.loaded).map(|owner| owner.name.clone()).collect()
}

/// The screen of `why`.
pub fn render(why: &Why, host: &str, term: &Term, verbose: bool) -> String {
    let path = &why.path;
    let to = path.to.as_deref().unwrap_or("address unknown");
    let mut out = format!("{}\n\n", term.paint(Tone::Strong, &format!("{} -> {} {}", clean(&path.from), clean(host), clean(to))));
    for line in stage_lines(path, why.firewall.as_ref(), term, verbose) {
        out.push_str(&line);
        out.push('\n');
    }
    if let Some(verdict) = &why.firewall {
        let mut filter = Filter { term, out: String::new() };
        filter.all(why, verdict);
        out.push('\n');
        out.push_str(&filter.out);
    }
    out.push('\n');
    out.push_str(&ending(path, term));
    out
}

/// Where the text of a packet's line begins.
const INDENT: usize = 11;

/// What the packet filter makes of each packet of the connection.
struct Filter<'a> {
    term: &'a Term,
    out: String,
}

impl Filter<'_> {
    fn all(&mut self, why: &Why, verdict: &Verdict) {
        self.title(why);
        if verdict.verdict == "depends" {
            self.open(verdict);
        } else {
            self.packets(verdict, why.path.to.as_deref().is_some_and(|to| to.starts_with('[')));
        }
        self.translation(verdict);
        if let Some(shadowed) = &verdict.shadowed_accept {
            self.text(&format!("Behind it, without effect: {}:", shadowed.place()));
            self.quote(&shadowed.rule);
        }
        self.boot(why);
    }

    /// What the next boot makes of it.
    fn boot(&mut self, why: &Why) {
        if let Some(reason) = &why.after_boot_unknown {
            return self.row(Tone::Dim, self.term.dot(), "", &format!("after a reboot: not known ({reason})"));
        }
        let Some(verdict) = &why.after_boot else {
            return self.row(Tone::Dim, self.term.dot(), "", "after a reboot: the same");
        };
        let (tone, mark, what) = match verdict.verdict.as_str() {
            "accept" => (Tone::Good, self.term.ok(), "let through"),
            "drop" => (Tone::Bad, self.term.fail(), "dropped"),
            "reject" => (Tone::Bad, self.term.fail(), "rejected"),
            _ => (Tone::Warn, "?", "depends"),
        };
        let by = verdict.decided_by.as_ref().map(|rule| format!(", by {}", lead(rule))).unwrap_or_default();
        self.row(tone, mark, "", &format!("after a reboot: {what}{by}"));
        if let Some(rule) = verdict.decided_by.as_ref().filter(|rule| !rule.is_policy()) {
            self.quote(&rule.rule);
        }
    }

    fn title(&mut self, why: &Why) {
        let others: Vec<&str> = why.owners.iter().map(String::as_str).filter(|o| Some(*o) != why.manager.as_deref()).collect();
        let beside = others.iter().filter(|o| **o != "plain").copied().collect::<Vec<_>>().join(", ");
        let by = match why.manager.as_deref() {
            None | Some("none") if beside.is_empty() => String::new(),
            None | Some("none") => format!(", with rules of {beside}"),
            Some(manager) if beside.is_empty() => format!(", managed by {manager}"),
            Some(manager) => format!(", managed by {manager}, with rules of {beside}"),
        };
        self.out.push_str(&self.term.paint(Tone::Strong, &format!("The packet filter{by}")));
        self.out.push('\n');
    }

    /// One line for each packet, up to the one that does not get through.
    fn packets(&mut self, verdict: &Verdict, v6: bool) {
        let mut order = vec![("neighbour", "ND"), ("syn", "SYN"), ("reply", "reply"), ("established", "ACK")];
        if !v6 {
            order.remove(0);
        }
        let accepted = verdict.verdict == "accept";
        let last = if accepted { None } else { order.iter().position(|(packet, _)| *packet == verdict.packet) };
        let through: Vec<&str> = order.iter().take(last.unwrap_or(order.len())).map(|(_, name)| *name).collect();
        if !through.is_empty() {
            let deciding = verdict.decided_by.as_ref().filter(|_| accepted);
            let by = match deciding {
                Some(rule) => format!("let through, the SYN by {}", lead(rule)),
                None if accepted => "let through: no rule looks at it".to_owned(),
                None => "let through".to_owned(),
            };
            self.row(Tone::Good, self.term.ok(), "", &format!("{}: {by}", through.join(", ")));
            if let Some(rule) = deciding {
                self.rule(rule, &verdict.way);
            }
        }
        if let Some((_, name)) = last.and_then(|at| order.get(at)) {
            self.refused(verdict, name);
        }
        if let Some(behind) = last.and_then(|at| order.get(at + 1..)).filter(|rest| !rest.is_empty()) {
            let names: Vec<&str> = behind.iter().map(|(_, name)| *name).collect();
            self.row(Tone::Dim, self.term.dot(), "", &format!("{}: not reached", names.join(", ")));
        }
    }

    fn refused(&mut self, verdict: &Verdict, name: &str) {
        let what = match &verdict.reject_with {
            Some(with) => format!("rejected with {with}"),
            None => "dropped".to_owned(),
        };
        match &verdict.decided_by {
            Some(rule) => {
                self.row(Tone::Bad, self.term.fail(), name, &format!("{what} by {}", lead(rule)));
                self.rule(rule, &verdict.way);
            }
            None => self.row(Tone::Bad, self.term.fail(), name, &what),
        }
    }

    /// `depends`: on what, and what may come of it.
    fn open(&mut self, verdict: &Verdict) {
        self.row(Tone::Warn, "?", "", &format!("depends on {}", verdict.depends_on.join("; ")));
        for outcome in &verdict.outcomes {
            self.outcome(outcome);
        }
        if verdict.outcomes.is_empty()
            && let Some(rule) = &verdict.decided_by
        {
            self.text(&format!("decided at {}", lead(rule)));
            self.rule(rule, &verdict.way);
        }
    }

    fn outcome(&mut self, outcome: &Possibility) {
        let packet = match outcome.packet.as_str() {
            "reply" => "the reply ",
            "established" => "the ACK ",
            "neighbour" => "neighbour discovery ",
            _ => "",
        };
        let what = match (outcome.verdict.as_str(), &outcome.reject_with) {
            ("accept", _) => "let through".to_owned(),
            ("drop", _) => format!("{packet}dropped"),
            ("reject", Some(with)) => format!("{packet}rejected with {with}"),
            _ => "cannot be foretold".to_owned(),
        };
        let when = if outcome.when.is_empty() { String::new() } else { format!(" {}", outcome.when.join(" and ")) };
        let by = outcome.decided_by.as_ref().map(|rule| format!(", by {}", lead(rule))).unwrap_or_default();
        self.row(Tone::Dim, self.term.dot(), "", &format!("{what}{when}{by}"));
        if let Some(rule) = outcome.decided_by.as_ref().filter(|rule| !rule.is_policy()) {
            self.quote(&rule.rule);
        }
    }

    fn translation(&mut self, verdict: &Verdict) {
        let Some(to) = &verdict.delivered_to else { return };
        let by = verdict.translated_by.as_ref().map(|rule| format!(" by {}:", rule.place())).unwrap_or_default();
        let (tone, mark, what) = match verdict.forwarded {
            true => (Tone::Warn, "!", format!("the connection is forwarded to {to}{by}")),
            false => (Tone::Dim, self.term.dot(), format!("the connection is redirected to {to}{by}")),
        };
        self.row(tone, mark, "", &what);
        if let Some(rule) = &verdict.translated_by {
            self.quote(&rule.rule);
        }
        if verdict.forwarded {
            self.text("The broker on this host never sees it.");
        }
    }

    /// The rule itself, what it has counted, and the jumps that led to it.
    fn rule(&mut self, rule: &DecidingRule, way: &[DecidingRule]) {
        if !rule.is_policy() {
            self.quote(&rule.rule);
        }
        if let Some(packets) = rule.packets {
            let counted = if packets == 1 { "1 packet".to_owned() } else { format!("{packets} packets") };
            self.text(&format!("Its counter: {counted} so far, from anybody."));
        }
        if !way.is_empty() {
            let steps: Vec<String> = way.iter().map(|jump| format!("{} {}", jump.chain, jump.number())).collect();
            let arrow = if self.term.unicode { " → " } else { " -> " };
            self.text(&format!("Reached by {}{arrow}{}.", steps.join(arrow), rule.chain));
        }
    }

    /// A line with a mark; `name` is empty where the text says which packet it is.
    fn row(&mut self, tone: Tone, mark: &str, name: &str, text: &str) {
        let lead = format!("  {} ", self.term.paint(tone, mark));
        let name = if name.is_empty() { String::new() } else { format!("{name}: ") };
        for (i, line) in wrap(&clean(&format!("{name}{text}")), self.term.width - 5).into_iter().enumerate() {
            match i {
                0 => self.out.push_str(&format!("{lead}{line}\n")),
                _ => self.out.push_str(&format!("    {line}\n")),
            }
        }
    }

    fn text(&mut self, text: &str) {
        indented(&mut self.out, 4, &clean(text), self.term);
    }

    /// A rule in its tool's own words; what does not fit on a line goes on further right.
    fn quote(&mut self, rule: &str) {
        for (i, line) in wrap(&clean(rule), self.term.width - INDENT).into_iter().enumerate() {
            self.out.push_str(&format!("{:indent$}{line}\n", "", indent = if i == 0 { 6 } else { 10 }));
        }
    }
}

/// The place, with a colon where the rule's text follows.
fn lead(rule: &DecidingRule) -> String {
    format!("{}{}", rule.place(), if rule.is_policy() { "" } else { ":" })
}

/// What the client meets, and the next command.
/// What leads to the steps beyond this host.
pub const BEYOND: &str = "If it still cannot connect, the reason lies beyond this host:";

fn ending(path: &Path, term: &Term) -> String {
    let from = clean(&path.from);
    let (tone, mark, sentence) = match path.state {
        PathState::Ok => (Tone::Good, term.ok(), format!("This host lets {from} in.")),
        PathState::Blocked if path.sees == "unknown" => {
            (Tone::Bad, term.fail(), format!("{from} cannot connect now; what it sees could not be foreseen."))
        }
        PathState::Blocked => (Tone::Bad, term.fail(), format!("{from} would {} now.", symptom(&path.sees))),
        PathState::Unknown => {
            (Tone::Warn, "?", format!("Nothing on this host was seen to stop {from}, but not everything could be determined."))
        }
    };
    let mut out = String::new();
    for (i, line) in wrap(&sentence, term.width - 3).into_iter().enumerate() {
        let lead = if i == 0 { term.paint(tone, mark) } else { " ".to_owned() };
        out.push_str(&format!("{lead} {line}\n"));
    }
    match path.state {
        PathState::Blocked => {
            let from = if path.from == "any" { "CIDR".to_owned() } else { from };
            let service = if path.service == "amqp" { String::new() } else { format!(" --service {}", clean(&path.service)) };
            let command = format!("sudo rmq-audit --fix --from {from}{service}");
            out.push_str(&format!("Fix:  {}\n", term.paint(Tone::Strong, &command)));
        }
        PathState::Ok => {
            if !path.beyond.is_empty() {
                indented(&mut out, 2, BEYOND, term);
            }
            for step in &path.beyond {
                indented(&mut out, 4, &clean(&format!("{} {step}", term.dot())), term);
            }
        }
        PathState::Unknown => {}
    }
    out
}

/// What a watch came to.
pub fn ended(watched: &Watched, term: &Term) -> String {
    let (tone, mark) = match watched.reached {
        Reached::LoggedIn | Reached::Broker | Reached::Socket => (Tone::Good, term.ok()),
        Reached::Nothing => (Tone::Warn, "?"),
        _ => (Tone::Bad, term.fail()),
    };
    let mut out = String::new();
    for (i, line) in wrap(&clean(&watched.summary), term.width - 3).into_iter().enumerate() {
        let lead = if i == 0 { term.paint(tone, mark) } else { " ".to_owned() };
        out.push_str(&format!("{lead} {line}\n"));
    }
    out
}

fn indented(out: &mut String, indent: usize, text: &str, term: &Term) {
    for line in wrap(text, term.width - indent) {
        out.push_str(&format!("{:indent$}{line}\n", ""));
    }
}

/// The deciding rule by its place; its text stands below.
fn named(detail: &str, verdict: Option<&Verdict>) -> String {
    match verdict.and_then(|v| v.decided_by.as_ref()).filter(|rule| !rule.is_policy()) {
        Some(rule) => detail.replace(&format!("{} {}: {}", rule.table, rule.chain, rule.rule), &rule.place()),
        None => detail.to_owned(),
    }
}

/// One line per stage; `shown`: the verdict that is shown in full elsewhere.
pub fn stage_lines(path: &Path, shown: Option<&Verdict>, term: &Term, verbose: bool) -> Vec<String> {
    let mut lines = Vec::new();
    for stage in &path.stages {
        let (tone, mark) = match stage.state {
            StageState::Ok => (Tone::Good, term.ok()),
            StageState::Fail => (Tone::Bad, term.fail()),
            StageState::Unknown => (Tone::Warn, "?"),
            StageState::NotReached => (Tone::Dim, term.dot()),
        };
        let basis = if verbose { format!(" [{}]", basis(stage.basis)) } else { String::new() };
        let rules = if stage.rules.is_empty() { String::new() } else { format!(" ({})", stage.rules.join(", ")) };
        let detail = if stage.stage == Stage::Firewall { named(&stage.detail, shown) } else { stage.detail.clone() };
        let text = format!("{}{rules}{basis}", clean(&detail));
        for (i, part) in wrap(&text, term.width - 16).into_iter().enumerate() {
            if i == 0 {
                lines.push(format!("  {} {:<9} {part}", term.paint(tone, mark), stage_name(stage.stage)));
            } else {
                lines.push(format!("{:14}{part}", ""));
            }
        }
    }
    lines
}

fn basis(basis: Basis) -> &'static str {
    match basis {
        Basis::Proven => "proven",
        Basis::Computed => "computed",
        Basis::Observed => "observed",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::path::StageLine;
    use unicode_width::UnicodeWidthStr;

    const TERM: Term = Term { color: false, unicode: true, width: 80 };

    fn rule(chain: &str, rule: &str, number: Option<i64>) -> DecidingRule {
        DecidingRule { table: "ip filter".into(), chain: chain.into(), rule: rule.into(), handle_or_line: number, packets: None }
    }

    fn verdict(verdict: &str, packet: &str, decided_by: Option<DecidingRule>) -> Verdict {
        Verdict {
            verdict: verdict.into(),
            reject_with: None,
            decided_by,
            depends_on: Vec::new(),
            shadowed_accept: None,
            sees: "timeout".into(),
            packet: packet.into(),
            way: Vec::new(),
            delivered_to: None,
            forwarded: false,
            translated_by: None,
            outcomes: Vec::new(),
        }
    }

    fn shown(verdict: Verdict, state: PathState) -> String {
        let detail = match &verdict.decided_by {
            Some(rule) => format!("dropped by {} {}: {}", rule.table, rule.chain, rule.rule),
            None => "this host lets it through".into(),
        };
        let stage = StageLine {
            stage: Stage::Firewall,
            state: if state == PathState::Ok { StageState::Ok } else { StageState::Fail },
            basis: Basis::Computed,
            detail,
            rules: Vec::new(),
        };
        let path = Path {
            client: "10.0.0.7".into(),
            from: "10.0.0.7".into(),
            service: "amqp".into(),
            to: Some("10.0.0.5:5672".into()),
            state,
            sees: verdict.sees.clone(),
            stages: vec![stage],
            assumed: false,
            beyond: Vec::new(),
        };
        let (interface, manager) = (Some("eth0".into()), Some("ufw".into()));
        let why = Why {
            schema: String::new(),
            path,
            firewall: Some(verdict),
            interface,
            manager,
            owners: Vec::new(),
            after_boot: None,
            after_boot_unknown: None,
            watched: None,
        };
        let text = render(&why, "mq1", &TERM, false);
        for line in text.lines() {
            assert!(line.width() <= 80, "{line}");
        }
        text
    }

    #[test]
    fn a_dropped_syn_is_shown_with_its_rule_and_what_led_there() {
        let deny = DecidingRule {
            packets: Some(12),
            ..rule("ufw-user-input", "-A ufw-user-input -p tcp --dport 5672 -j DROP", Some(3))
        };
        let way = vec![rule("INPUT", "-A INPUT -j ufw-user-input", Some(4))];
        let behind = rule(
            "ufw-user-input",
            "-A ufw-user-input -s 10.0.0.0/24 -p tcp -m tcp --dport 5672 -m comment --comment \"for the clients\" -j ACCEPT",
            Some(9),
        );
        let text =
            shown(Verdict { way, shadowed_accept: Some(behind), ..verdict("drop", "syn", Some(deny)) }, PathState::Blocked);
        let expected = "\
The packet filter, managed by ufw
  ✗ SYN: dropped by ip filter ufw-user-input, rule 3:
      -A ufw-user-input -p tcp --dport 5672 -j DROP
    Its counter: 12 packets so far, from anybody.
    Reached by INPUT rule 4 → ufw-user-input.
  · reply, ACK: not reached
    Behind it, without effect: ip filter ufw-user-input, rule 9:
      -A ufw-user-input -s 10.0.0.0/24 -p tcp -m tcp --dport 5672 -m
          comment --comment \"for the clients\" -j ACCEPT
";
        assert!(text.contains(expected), "{text}");
        assert!(text.contains("✗ firewall  dropped by ip filter ufw-user-input, rule 3\n"), "{text}");
    }

    #[test]
    fn the_packets_before_the_one_that_is_dropped_came_through() {
        let text = shown(verdict("drop", "reply", Some(rule("OUTPUT", "policy DROP", None))), PathState::Blocked);
        assert!(
            text.contains("  ✓ SYN: let through\n  ✗ reply: dropped by ip filter OUTPUT, policy DROP\n  · ACK: not reached\n"),
            "{text}"
        );
        let open = shown(verdict("accept", "syn", None), PathState::Ok);
        assert!(open.contains("  ✓ SYN, reply, ACK: let through: no rule looks at it\n"), "{open}");
    }

    #[test]
    fn a_forwarded_connection_is_said_to_pass_by_this_broker() {
        let dnat = rule("DOCKER", "-A DOCKER -p tcp --dport 5672 -j DNAT --to-destination 172.17.0.2:5672", Some(2));
        let to = Some("172.17.0.2:5672".to_owned());
        let text = shown(
            Verdict { delivered_to: to, forwarded: true, translated_by: Some(dnat), ..verdict("accept", "syn", None) },
            PathState::Unknown,
        );
        assert!(text.contains("! the connection is forwarded to 172.17.0.2:5672 by ip filter DOCKER, rule 2:"), "{text}");
        assert!(text.contains("The broker on this host never sees it."), "{text}");
    }

    #[test]
    fn what_may_happen_is_listed_with_its_conditions() {
        let limit = "recent: 6 hits in 30 s".to_owned();
        let refused = Possibility {
            verdict: "reject".into(),
            reject_with: Some("icmp-port-unreachable".into()),
            sees: "refused".into(),
            packet: "syn".into(),
            decided_by: Some(rule("ufw-user-limit", "-A ufw-user-limit -j REJECT", Some(2))),
            when: vec![format!("if {limit}")],
        };
        let open = Possibility {
            verdict: "accept".into(),
            reject_with: None,
            when: vec![format!("unless {limit}")],
            decided_by: None,
            ..refused.clone()
        };
        let depends = Verdict { depends_on: vec![limit], outcomes: vec![refused, open], ..verdict("depends", "syn", None) };
        let text = shown(depends, PathState::Unknown);
        assert!(text.contains("· rejected with icmp-port-unreachable if recent: 6 hits in 30 s, by ip filter"), "{text}");
        assert!(text.contains("· let through unless recent: 6 hits in 30 s\n"), "{text}");
    }
}

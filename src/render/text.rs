//! The screen: can clients connect, what is the first cause, what to type now.

use super::excerpt::excerpt;
use super::page::Page;
use super::term::{Term, Tone, clean, wrap};
use super::why::BEYOND;
use crate::facts::Where;
use crate::facts::exposure::Exposed;
use crate::findings::Finding;
use crate::path::{Path, PathState, StageState};
use crate::report::{Report, VerdictState};
use crate::rules::{Severity, Stage, Tier};
use unicode_width::UnicodeWidthStr;

/// What rules add to a message that rests on the assumed client; the screen says it once, in a sentence of its own.
const ASSUMED: &str = " (no policy: assuming clients on other hosts)";

/// What is shown beyond the findings.
#[derive(Debug, Clone, Copy, Default)]
pub struct Detail {
    pub quiet: bool,
    pub verbose: bool,
    /// After a fix run there is nothing to advertise.
    pub after_fix: bool,
}

/// Renders a report; an empty string means that there is nothing to say (`-q` on a healthy host).
pub fn render(report: &Report, term: &Term, detail: Detail) -> String {
    if detail.quiet && report.findings.is_empty() {
        return String::new();
    }
    let mut out = Page::new(term);
    out.head(report);
    out.verdict(report);
    let errors: Vec<&Finding> = report.findings.iter().filter(|f| f.severity == Severity::Error && f.waiver.is_none()).collect();
    if let Some(first) = errors.first() {
        out.excerpt(first);
        out.errors(&errors);
        out.seen(report);
    }
    if errors.is_empty() {
        out.beyond(report);
    }
    out.warnings(report, detail.verbose);
    if detail.verbose {
        out.paths(report);
        out.exposure(report);
        out.unknowns(report);
        out.passed(report);
    }
    out.counts(report);
    if !detail.after_fix {
        out.next(report, &errors);
    }
    out.text
}

impl Page<'_> {
    fn head(&mut self, report: &Report) {
        let host = &report.host;
        let name = host.name.as_deref().unwrap_or("this host");
        let what = match &host.rabbitmq {
            Some(version) => format!("RabbitMQ {version}"),
            None => "no RabbitMQ seen".to_owned(),
        };
        let on = host.os.as_deref().map(|os| format!(" on {}", capital(os))).unwrap_or_default();
        let left = format!("{}  {what}{on}", clean(name));
        let right = super::seconds(report);
        let gap = self.term.width.saturating_sub(left.width() + right.width()).max(2);
        let head = format!("{}{:gap$}{}", self.term.paint(Tone::Strong, &left), "", self.term.paint(Tone::Dim, &right));
        self.line(&head);
        self.blank();
    }

    fn verdict(&mut self, report: &Report) {
        self.text.push_str(&verdict(report, self.term));
        self.blank();
    }

    /// The line of the file that is the first cause, with a caret under the word.
    fn excerpt(&mut self, finding: &Finding) {
        if let Some(at) = &finding.at {
            self.line(&format!("  {}", clean(&place(at))));
            if let Some(source) = line_of(finding, at) {
                for line in excerpt(self.term, &source, at.column, said(finding), Tone::Bad) {
                    self.line(&line);
                }
                return;
            }
        }
        self.wrapped(4, said(finding));
        for evidence in finding.evidence.iter().take(2) {
            let from = evidence.line.map_or(evidence.source.clone(), |l| format!("{}:{l}", evidence.source));
            self.wrapped(4, &format!("{from}: {}", evidence.text));
        }
    }

    /// The numbered list in fix order, each cause followed by its consequences, dim. One cause alone needs no number: the
    /// excerpt above has said everything about it.
    fn errors(&mut self, errors: &[&Finding]) {
        let (roots, mut consequences): (Vec<&Finding>, Vec<&Finding>) = errors.iter().partition(|f| f.root_cause);
        let many = roots.len() > 1;
        if many {
            self.blank();
            self.wrapped(2, &format!("{} things stand in the way, in the order to fix them:", count_word(roots.len())));
            self.blank();
        }
        for (i, root) in roots.iter().enumerate() {
            if many {
                let lead =
                    format!("{:>3} {} {:<9} ", i + 1, self.term.paint(Tone::Bad, self.term.fail()), stage_name(root.stage));
                let text = if i == 0 { shown_above(root) } else { headline(root) };
                self.item(&lead, 15 + self.term.fail().width(), &text);
            }
            self.dim_line(if many { 15 + self.term.fail().width() } else { 4 }, &footer(root, self.term));
            let (mine, others) = consequences.into_iter().partition(|f| f.caused_by.contains(&root.rule));
            consequences = others;
            self.consequences(&mine, &if many { (i + 1).to_string() } else { "this".to_owned() });
        }
        // Their cause is no error of its own: a warning, or accepted by a waiver.
        for finding in consequences {
            self.consequences(&[finding], &finding.caused_by.join(", "));
        }
        self.blank();
    }

    fn consequences(&mut self, findings: &[&Finding], because: &str) {
        let mut seen: Vec<&str> = Vec::new();
        for finding in findings {
            if seen.contains(&finding.rule.as_str()) {
                continue;
            }
            seen.push(&finding.rule);
            let lead = format!("    {} {:<9} ", self.term.dot(), stage_name(finding.stage));
            let indent = lead.width();
            let text = format!("{} (because of {because})", clean(&finding.title));
            for (i, line) in wrap(&text, self.term.width - indent).into_iter().enumerate() {
                let line = if i == 0 { format!("{lead}{line}") } else { format!("{:indent$}{line}", "") };
                self.line(&self.term.paint(Tone::Dim, &line));
            }
        }
    }

    fn item(&mut self, lead: &str, indent: usize, text: &str) {
        for (i, line) in wrap(&clean(text), self.term.width.saturating_sub(indent)).into_iter().enumerate() {
            if i == 0 {
                self.line(&format!("{lead}{line}"));
            } else {
                self.line(&format!("{:indent$}{line}", ""));
            }
        }
    }

    fn dim_line(&mut self, indent: usize, text: &str) {
        for line in wrap(text, self.term.width - indent) {
            let line = format!("{:indent$}{}", "", self.term.paint(Tone::Dim, &line));
            self.line(&line);
        }
    }

    /// What each client meets at this moment.
    fn seen(&mut self, report: &Report) {
        let blocked: Vec<&Path> = report.paths.iter().filter(|p| p.state == PathState::Blocked).collect();
        for path in &blocked {
            let to = path.to.as_deref().map(|t| format!(" at {t}")).unwrap_or_default();
            self.wrapped(2, &format!("{} {} now{to}.", client_name(path), symptom(&path.sees)));
        }
        if blocked.iter().any(|p| p.assumed) {
            self.wrapped(2, "Nobody said who must connect (--from CIDR, or policy.toml), so clients on other hosts are assumed.");
        }
        if !blocked.is_empty() {
            self.blank();
        }
    }

    /// Nothing is wrong here, and somebody asked about a client: where else to look.
    fn beyond(&mut self, report: &Report) {
        let fine: Vec<&Path> = report.paths.iter().filter(|p| !p.beyond.is_empty()).collect();
        for path in &fine {
            self.wrapped(0, &format!("This host lets {} in. {BEYOND}", client_name(path)));
            for step in &path.beyond {
                let lead = format!("  {} ", self.term.dot());
                self.item(&lead, 4, step);
            }
        }
        if !fine.is_empty() {
            self.blank();
        }
    }

    fn warnings(&mut self, report: &Report, verbose: bool) {
        let mut any = false;
        for finding in report.findings.iter().filter(|f| f.severity != Severity::Error || f.waiver.is_some()) {
            let (mark, tone) = match (finding.severity, &finding.waiver) {
                (_, Some(_)) => (self.term.dot(), Tone::Dim),
                (Severity::Note, _) => (self.term.dot(), Tone::Dim),
                _ => ("!", Tone::Warn),
            };
            if (finding.severity == Severity::Note || finding.waiver.is_some()) && !verbose {
                continue;
            }
            any = true;
            let lead = format!("{} ", self.term.paint(tone, mark));
            self.item(&lead, 2, &headline(finding));
            let mut foot = footer(finding, self.term);
            if let Some(waiver) = &finding.waiver {
                foot = format!("{foot}, waived: {}", waiver.reason);
            }
            self.dim_line(2, &clean(&foot));
        }
        if any {
            self.blank();
        }
    }

    fn paths(&mut self, report: &Report) {
        for path in &report.paths {
            self.line(&format!("{} ({})", clean(&client_name(path)), clean(path.to.as_deref().unwrap_or("address unknown"))));
            for line in super::why::stage_lines(path, None, self.term, true) {
                self.line(&line);
            }
            self.blank();
        }
    }

    /// Listeners by classes of sources.
    fn exposure(&mut self, report: &Report) {
        let Some(exposed) = report.exposure.as_ref().filter(|e| !e.is_empty()) else { return };
        self.wrapped(0, "Who can reach what, as far as this host decides (own: its own networks)");
        let columns = [(false, "own"), (false, "private"), (false, "public"), (true, "own"), (true, "private"), (true, "public")];
        let heads: String = columns.iter().map(|(_, name)| format!("{name:<8}")).collect();
        self.line(&format!("  {:<15}{:>5}  {:<24}{}", "", "", "IPv4", "IPv6"));
        self.line(&format!("  {:<15}{:>5}  {heads}", "service", "port"));
        for one in exposed {
            let cells: String = columns.iter().map(|(v6, name)| format!("{:<8}", state_of(one, *v6, name))).collect();
            self.line(&format!("  {:<15}{:>5}  {cells}", clean(&one.service), one.port));
        }
        self.blank();
    }

    fn unknowns(&mut self, report: &Report) {
        for unknown in &report.unknown {
            self.wrapped(
                0,
                &format!("? {}: {} not checked ({})", unknown.why, plural(unknown.rules.len(), "rule"), unknown.rules.join(", ")),
            );
        }
    }

    fn passed(&mut self, report: &Report) {
        if !report.passed.is_empty() {
            self.wrapped(0, &format!("{} passed: {}", self.term.ok(), report.passed.join(", ")));
            self.blank();
        }
    }

    fn counts(&mut self, report: &Report) {
        let c = &report.counts;
        let mut found = vec![if c.error == 0 { "No errors".to_owned() } else { plural(c.error as usize, "error") }];
        if c.warning > 0 {
            found.push(plural(c.warning as usize, "warning"));
        }
        if c.note > 0 {
            found.push(plural(c.note as usize, "note"));
        }
        let mut rest = vec![format!("{} passed", c.pass)];
        if c.unknown > 0 {
            let why = report.unknown.first().map(|u| format!(" ({})", u.why)).unwrap_or_default();
            rest.push(format!("{} not checked{why}", c.unknown));
        }
        if report.waiting > 0 {
            rest.push(format!("{} not checked while RabbitMQ is down", report.waiting));
        }
        if c.waived > 0 {
            rest.push(format!("{} waived", c.waived));
        }
        self.wrapped(0, &format!("{}. {}.", found.join(", "), rest.join(", ")));
    }

    fn next(&mut self, report: &Report, errors: &[&Finding]) {
        if !report.run.root && report.counts.unknown > 0 {
            self.line(&format!("Run with sudo to check {} more.", report.counts.unknown));
            return;
        }
        let fixable = errors.iter().any(|f| f.fix.as_ref().is_some_and(|x| x.tier != Tier::Manual));
        if fixable {
            self.line(&format!(
                "See each repair first, then decide:   {}",
                self.term.paint(Tone::Strong, "sudo rmq-audit --fix")
            ));
        } else if let Some(first) = errors.first() {
            self.line(&format!(
                "What to do about it:   {}",
                self.term.paint(Tone::Strong, &format!("rmq-audit explain {}", first.rule))
            ));
        }
    }
}

/// The verdict with its symbol, broken into lines.
pub fn verdict(report: &Report, term: &Term) -> String {
    let (tone, symbol) = match report.verdict.state {
        VerdictState::Ok => (Tone::Good, term.ok()),
        VerdictState::Blocked => (Tone::Bad, term.fail()),
        VerdictState::AtRisk => (Tone::Bad, "!"),
        VerdictState::Unknown => (Tone::Warn, "?"),
    };
    let mut out = String::new();
    for (i, line) in wrap(&clean(&verdict_sentence(report)), term.width - 1 - symbol.width()).into_iter().enumerate() {
        let lead = if i == 0 { symbol.to_owned() } else { " ".repeat(symbol.width()) };
        out.push_str(&format!("{}\n", term.paint(tone, &format!("{lead} {line}"))));
    }
    out
}

/// "Clients cannot connect: the firewall drops port 5672."
fn verdict_sentence(report: &Report) -> String {
    let cause = report.verdict.cause.as_ref().and_then(|c| report.findings.iter().find(|f| &f.rule == c));
    match (report.verdict.state, cause) {
        (VerdictState::Ok, _) => ok_sentence(report),
        (VerdictState::Blocked, Some(f)) => format!("Clients cannot connect: {}.", mid_sentence(&f.title)),
        (VerdictState::Blocked, None) => {
            let path = report.paths.iter().find(|p| p.state == PathState::Blocked);
            let why = path.and_then(|p| p.stages.iter().find(|s| s.state == StageState::Fail));
            format!("Clients cannot connect{}.", why.map(|s| format!(": {}", s.detail)).unwrap_or_default())
        }
        (VerdictState::AtRisk, Some(f)) => format!("Clients can connect, but this host is at risk: {}.", mid_sentence(&f.title)),
        (VerdictState::AtRisk, None) => "This host is at risk.".into(),
        (VerdictState::Unknown, _) if report.run.offline => offline_sentence(report),
        (VerdictState::Unknown, _) => {
            let gap = report.paths.iter().flat_map(|p| &p.stages).find(|s| s.state == StageState::Unknown);
            let why = gap.map(|s| &s.detail).or(report.unknown.first().map(|u| &u.why));
            let why = why.map(|why| format!(": {why}")).unwrap_or_default();
            format!("Whether clients can connect could not be determined{why}.")
        }
    }
}

/// A file tree cannot be connected to; what there is to say is about its files.
fn offline_sentence(report: &Report) -> String {
    match report.host.rabbitmq {
        None => "There is no RabbitMQ in this file tree.".into(),
        Some(_) => "Nothing in these files keeps RabbitMQ from serving clients; nothing runs in a file tree.".into(),
    }
}

/// A title behind a colon: its first word loses its capital unless it is a name (`RabbitMQ`, `AMQP`).
fn mid_sentence(title: &str) -> String {
    let first = title.split_whitespace().next().unwrap_or_default();
    let is_name = first.chars().skip(1).any(char::is_uppercase) || ["Erlang", "Debian"].contains(&first);
    let mut rest = title.chars();
    match rest.next() {
        Some(initial) if !is_name => initial.to_lowercase().chain(rest).collect(),
        _ => title.to_owned(),
    }
}

fn ok_sentence(report: &Report) -> String {
    let ways: Vec<String> = report
        .paths
        .iter()
        .map(|p| {
            let port = p.to.as_deref().and_then(|t| t.rsplit(':').next()).unwrap_or("?");
            match (p.from.as_str(), p.assumed) {
                ("local", _) => format!("{port} from this host"),
                ("any", true) => format!("{port} is open to other hosts"),
                ("any", false) => format!("{port} from anywhere"),
                (from, _) => format!("{port} from {from}"),
            }
        })
        .collect();
    if ways.is_empty() {
        "Nothing stands in the way of clients.".into()
    } else {
        format!("Clients can connect: {}.", ways.join(", "))
    }
}

fn client_name(path: &Path) -> String {
    match (path.assumed, path.from.as_str()) {
        (true, _) => "Clients on other hosts".to_owned(),
        (false, "any") => format!("{} from anywhere", path.client),
        (false, "local") => format!("{} on this host", path.client),
        (false, from) => format!("{} from {from}", path.client),
    }
}

/// CONTRACT's `sees` in a sentence.
pub fn symptom(sees: &str) -> &'static str {
    match sees {
        "connected" => "can connect",
        "refused" => "see \"connection refused\"",
        "timeout" => "see a time-out",
        "reset" => "see \"connection reset\"",
        "unreachable" => "see \"no route to host\"",
        "tls-error" => "see a TLS error",
        "auth-refused" => "see ACCESS_REFUSED (login refused)",
        "vhost-refused" => "see NOT_ALLOWED (vhost refused)",
        "hangs" => "hang",
        _ => "cannot connect, in a way that could not be foreseen,",
    }
}

/// The most open state of a class; a host may be in several networks.
fn state_of(exposed: &Exposed, v6: bool, sources: &str) -> &'static str {
    let mut of_class = exposed.reach.iter().filter(|r| r.v6 == v6 && r.sources == sources);
    let order = ["open", "depends", "unknown", "closed"];
    let state = of_class.by_ref().filter_map(|r| order.iter().position(|s| *s == r.state)).min();
    state.map_or("-", |s| order[s])
}

/// The message, without what the screen says once for all findings.
fn said(finding: &Finding) -> &str {
    finding.message.trim_end_matches(ASSUMED)
}

fn headline(finding: &Finding) -> String {
    match &finding.at {
        Some(at) if at.line.is_some() => format!("{}: {}", short_place(at), said(finding)),
        _ => said(finding).to_owned(),
    }
}

fn shown_above(finding: &Finding) -> String {
    match &finding.at {
        Some(at) => format!("{}, shown above", short_place(at)),
        None => "shown above".to_owned(),
    }
}

fn footer(finding: &Finding, term: &Term) -> String {
    match &finding.fix {
        Some(fix) if fix.needs.is_empty() => {
            format!("{} {} fix: {}", finding.rule, term.dot(), what_it_does(fix.tier, &fix.effects))
        }
        Some(fix) => format!("{} {} fix: needs {}", finding.rule, term.dot(), fix.needs.join(" and ")),
        None => finding.rule.clone(),
    }
}

/// What a repair means for the people around it: `restarts RabbitMQ`, `opens the firewall`.
pub fn what_it_does(tier: Tier, effects: &[String]) -> String {
    let does: Vec<&str> = effects.iter().map(|effect| effect_words(effect)).collect();
    match tier {
        Tier::Manual => "by hand".to_owned(),
        Tier::Ask if does.is_empty() => "asks first".to_owned(),
        Tier::Ask => format!("asks first, {}", does.join(", ")),
        Tier::Restart if does.is_empty() => "interrupts clients".to_owned(),
        Tier::Safe if does.is_empty() => "safe".to_owned(),
        Tier::Safe | Tier::Restart => does.join(", "),
    }
}

fn effect_words(effect: &str) -> &str {
    match effect {
        "restart" => "restarts RabbitMQ",
        "opens-firewall" => "opens the firewall",
        "adds-access" => "adds access",
        "interrupts-clients" => "interrupts clients",
        other => other,
    }
}

/// `file:line:column`, as far as known.
pub fn place(at: &Where) -> String {
    match (at.line, at.column) {
        (Some(line), Some(column)) => format!("{}:{line}:{column}", at.file),
        (Some(line), None) => format!("{}:{line}", at.file),
        _ => at.file.clone(),
    }
}

fn short_place(at: &Where) -> String {
    let name = at.file.rsplit('/').next().unwrap_or(&at.file);
    at.line.map_or(name.to_owned(), |l| format!("{name}:{l}"))
}

fn line_of(finding: &Finding, at: &Where) -> Option<String> {
    let of_place = finding.evidence.iter().find(|e| e.source == at.file && e.line == at.line && e.line.is_some())?;
    Some(of_place.text.trim_end().to_owned())
}

/// The stage as it stands on the screen.
pub fn stage_name(stage: Stage) -> String {
    serde_json::to_value(stage).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default()
}

pub fn plural(n: usize, word: &str) -> String {
    if n == 1 { format!("1 {word}") } else { format!("{n} {word}s") }
}

fn count_word(n: usize) -> String {
    ["No", "One", "Two", "Three", "Four", "Five", "Six"].get(n).map_or_else(|| n.to_string(), |w| (*w).to_owned())
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or(String::new(), |c| c.to_uppercase().collect::<String>() + chars.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::findings::{FixOffer, Waived};
    use crate::report::{Counts, HostLine, Run, Summary, Tool};
    use crate::rules::Evidence;

    const TERM: Term = Term { color: false, unicode: true, width: 80 };

    fn finding(rule: &str, severity: Severity, stage: Stage, message: &str) -> Finding {
        Finding {
            rule: rule.into(),
            severity,
            stage,
            title: format!("The title of {rule}"),
            message: message.into(),
            root_cause: true,
            caused_by: Vec::new(),
            at: None,
            evidence: Vec::new(),
            fix: None,
            waiver: None,
            help: None,
            request: None,
        }
    }

    fn offer(tier: Tier, effects: &[&str], needs: &[&str]) -> Option<FixOffer> {
        let words = |list: &[&str]| list.iter().map(|w| (*w).to_owned()).collect();
        Some(FixOffer {
            action: "x".into(),
            tier,
            effects: words(effects),
            summary: String::new(),
            diff: String::new(),
            commands: Vec::new(),
            needs: words(needs),
        })
    }

    fn at(file: &str, line: u32) -> Option<Where> {
        Some(Where { file: file.into(), line: Some(line), column: Some(1) })
    }

    /// Two causes, a consequence, a warning, a waived finding, a client that nobody named.
    fn report() -> Report {
        let conf = "/etc/rabbitmq/rabbitmq.conf";
        let key = Finding {
            at: at(conf, 3),
            evidence: vec![Evidence { source: conf.into(), line: Some(3), text: "heartbeatt = 30".into() }],
            fix: offer(Tier::Restart, &["restart"], &[]),
            ..finding("conf-unknown-key", Severity::Error, Stage::Config, "heartbeatt: no such setting; did you mean heartbeat?")
        };
        let dropped = format!("clients on other hosts (any) to port 5672 is dropped by ip filter INPUT: policy DROP{ASSUMED}");
        let firewall = Finding {
            fix: offer(Tier::Ask, &[], &["--from CIDR"]),
            ..finding("fw-drops-client", Severity::Error, Stage::Firewall, &dropped)
        };
        let loops = Finding {
            root_cause: false,
            caused_by: vec!["conf-unknown-key".into()],
            ..finding("service-restart-loop", Severity::Error, Stage::Service, "…")
        };
        let limit = Finding {
            fix: offer(Tier::Manual, &[], &[]),
            ..finding("nofile-too-low", Severity::Warning, Stage::Limits, "limit of open files: 1024\u{1b}[2J")
        };
        let waived = Finding {
            waiver: Some(Waived { reason: "CHG-1".into(), until: None }),
            ..finding("listener-loopback-only", Severity::Error, Stage::Listener, "behind a proxy")
        };
        Report {
            schema: crate::report::SCHEMA.into(),
            tool: Tool { name: "rmq-audit".into(), version: "0".into() },
            host: HostLine {
                name: Some("mq1".into()),
                node: None,
                rabbitmq: Some("4.0.5".into()),
                erlang: None,
                os: Some("debian 13".into()),
            },
            run: Run { id: "1".into(), started: String::new(), ms: 240, root: true, offline: false },
            verdict: Summary { state: VerdictState::Blocked, cause: Some("conf-unknown-key".into()) },
            paths: vec![Path {
                client: "clients on other hosts".into(),
                from: "any".into(),
                service: "amqp".into(),
                to: Some("10.0.0.5:5672".into()),
                state: PathState::Blocked,
                sees: "timeout".into(),
                stages: Vec::new(),
                assumed: true,
                beyond: Vec::new(),
            }],
            counts: Counts { error: 2, warning: 1, pass: 38, waived: 1, ..Counts::default() },
            findings: vec![key, firewall, loops, limit, waived],
            unknown: Vec::new(),
            exposure: None,
            changed: false,
            fixes: Vec::new(),
            passed: Vec::new(),
            waiting: 4,
        }
    }

    #[test]
    fn the_screen_of_a_broken_host() {
        let shown = render(&report(), &TERM, Detail::default());
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/render/snapshot.txt");
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(&path, &shown).unwrap();
        }
        assert_eq!(shown, include_str!("snapshot.txt"), "UPDATE=1 cargo test screen writes it anew");
    }

    #[test]
    fn a_narrow_terminal_without_unicode_gets_narrow_ascii() {
        let narrow = Term { unicode: false, width: 50, ..TERM };
        let shown = render(&report(), &narrow, Detail { verbose: true, ..Detail::default() });
        for line in shown.lines().filter(|line| !line.contains("sudo rmq-audit")) {
            assert!(line.width() <= 50 && line.is_ascii(), "{line}");
        }
    }

    #[test]
    fn one_cause_alone_is_not_numbered_and_said_once() {
        let mut report = report();
        report.findings.retain(|f| f.rule != "fw-drops-client");
        let shown = render(&report, &TERM, Detail::default());
        assert_eq!(shown.matches("did you mean heartbeat?").count(), 1, "{shown}");
        assert!(!shown.contains("  1 ") && shown.contains("(because of this)"), "{shown}");
    }

    #[test]
    fn a_repair_is_named_by_what_it_does() {
        let does = |tier, effects: &[&str]| what_it_does(tier, &effects.iter().map(|e| (*e).to_owned()).collect::<Vec<_>>());
        assert_eq!(does(Tier::Restart, &["opens-firewall"]), "opens the firewall");
        assert_eq!(does(Tier::Restart, &["adds-access"]), "adds access");
        assert_eq!(does(Tier::Ask, &["restart"]), "asks first, restarts RabbitMQ");
        assert_eq!(does(Tier::Safe, &[]), "safe");
    }
}

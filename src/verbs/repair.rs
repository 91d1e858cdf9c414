//! `--fix`, `undo`, `runs`, `recover`: the fix engine between its screen and its auditor.

use super::{
    Done, FINDINGS, NOT_ROLLED_BACK, OK, ROLLED_BACK, USAGE, detail, environment, exit_code, load_intent, load_rules, open_host,
    selection, term,
};
use crate::ask::{self, Answer as Said, AskError};
use crate::audit::{Audit, Selection as Rules, audit};
use crate::cli::{FixArgs, Format, Global, YesTier};
use crate::facts;
use crate::fix::action::generated_password_file;
use crate::fix::apply::{Auditor, ConfCheck, Engine, Event, ExitKind, FixState, Fixed, Outcome, Snapshot, State, Ui, would};
use crate::fix::journal::{RUNS, Run, RunState};
use crate::fix::live::LiveWorld;
use crate::fix::plan::{Context, NO_REPAIR, Plan, Selection, attach_offers, plan};
use crate::fix::world::{HostLook, Trouble};
use crate::host::amqp::{Answer, Probe};
use crate::host::dist::Dialer;
use crate::host::rpc::Target;
use crate::host::terminal::{self, Stream};
use crate::host::write::Hand;
use crate::host::{Got, Host};
use crate::policy::{self, Intent};
use crate::render::plan as show;
use crate::render::term::{Term, Tone, clean, wrap};
use crate::render::{self, explain, text};
use crate::report::{FixResult, Report};
use crate::rules::{self, RuleSet, Tier, Verdict};
use anyhow::{anyhow, bail};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use unicode_width::UnicodeWidthStr;

/// How long the broker may take to come back after its restart: longer than its unit allows (TimeoutStartSec is ten minutes), so
/// that a broker that recovers long queues or waits for its peers is not taken for a failed one. One that fails ends at once.
const START_LIMIT: Duration = Duration::from_secs(620);
/// How long a repaired rule may take to pass.
const SETTLE: Duration = Duration::from_secs(10);

/// Audits as often as the engine asks.
struct Judge<'a> {
    host: &'a dyn Host,
    intent: &'a Intent,
    rules: &'a RuleSet,
    selection: Rules,
}

impl Judge<'_> {
    /// What is reported: the selected rules.
    fn report(&self) -> Audit {
        audit(self.host, self.intent, self.rules, &self.selection)
    }

    /// What is planned from and verified with: every rule. A selection restricts what is repaired, not what a repair may break, so
    /// the findings of the other rules only lose their repair.
    fn whole(&self) -> Audit {
        let mut whole = audit(self.host, self.intent, self.rules, &Rules::default());
        only_wanted(&mut whole, self.rules, &self.selection);
        whole
    }

    fn selected(&self, rule: &str) -> bool {
        self.rules.rules.get(rule).is_none_or(|rule| self.selection.takes(rule))
    }

    /// What was left is told of selected rules only; advice is not left undone.
    fn told(&self, fixes: Vec<Fixed>) -> Vec<FixResult> {
        let told = |fix: &Fixed| fix.state != FixState::Left || (self.selected(&fix.rule) && fix.why != NO_REPAIR);
        fixes.into_iter().filter(told).map(result).collect()
    }
}

/// Takes the repair from findings that are not to be repaired.
pub fn only_wanted(audit: &mut Audit, rules: &RuleSet, selection: &Rules) {
    let wanted = |rule: &str, severity| rules.rules.get(rule).is_none_or(|rule| selection.repairs(rule, severity));
    for finding in audit.report.findings.iter_mut().filter(|finding| !wanted(&finding.rule, finding.severity)) {
        finding.request = None;
        finding.fix = None;
    }
}

impl Auditor for Judge<'_> {
    fn audit(&self) -> Snapshot {
        snapshot(self.whole())
    }
    fn login(&self, probe: &Probe) -> Got<Answer> {
        self.host.amqp(probe)
    }
}

fn snapshot(audit: Audit) -> Snapshot {
    let verdicts = audit.verdicts.into_iter().map(|(rule, verdict)| (rule, state(&verdict))).collect();
    Snapshot { facts: audit.facts, findings: audit.report.findings, verdicts }
}

fn state(verdict: &Verdict) -> State {
    match verdict {
        Verdict::Pass => State::Pass,
        Verdict::Fail(_) => State::Fail,
        Verdict::Unknown(_) | Verdict::Broken(_) => State::Unknown,
        Verdict::NotApplicable(_) => State::NotApplicable,
    }
}

/// Progress on standard error; signals as a flag that the engine looks at between changes.
struct Screen {
    term: Term,
    /// A person looks on: a line may be written over.
    live: bool,
    quiet: bool,
    signal: Arc<AtomicUsize>,
}

impl Screen {
    fn new(global: &Global) -> anyhow::Result<Self> {
        let signal = Arc::new(AtomicUsize::new(0));
        // A closed connection to the host (SIGHUP) must not leave a half-done run either.
        for number in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP] {
            signal_hook::flag::register_usize(number, Arc::clone(&signal), number.unsigned_abs() as usize)?;
        }
        let live = terminal::is_terminal(Stream::Err);
        let mut term = term(global);
        term.color = term.color && live || Term::new(None, &environment(Stream::Err)).color;
        Ok(Screen { term, live, quiet: global.quiet, signal })
    }

    fn line(&self, tone: Tone, mark: &str, text: &str) {
        let clear = if self.live { "\r\u{1b}[K" } else { "" };
        let mut out = clear.to_owned();
        for (i, line) in wrap(&clean(text), self.term.width - 4).into_iter().enumerate() {
            let lead = if i == 0 { self.term.paint(tone, mark) } else { " ".repeat(mark.width()) };
            out.push_str(&format!("  {lead} {line}\n"));
        }
        ask::say(&out);
    }
}

impl Screen {
    /// A line that the next one replaces; never wider than the terminal, which would scroll instead.
    fn passing(&self, text: &str) {
        let line: String = clean(text).chars().take(self.term.width.saturating_sub(5)).collect();
        ask::say(&format!("\r\u{1b}[K  {} {line}", self.term.dot()));
    }
}

impl Ui for Screen {
    fn say(&self, event: Event) {
        let (ok, bad) = (self.term.ok(), self.term.fail());
        match event {
            _ if self.quiet => {}
            Event::Waiting { what, seconds } if self.live => {
                self.passing(&format!("waiting for {what}, {seconds} s (Ctrl-C takes everything back)"))
            }
            Event::Waiting { .. } | Event::Verifying => {}
            Event::Changing { what } if self.live => self.passing(&what),
            Event::Changing { .. } => {}
            Event::Saved { dir } => self.line(Tone::Good, ok, &format!("saved for undo in {}", dir.display())),
            Event::Done { what } => self.line(Tone::Good, ok, &what),
            Event::Fixed { rule } => self.line(Tone::Good, ok, &format!("{rule} is fixed")),
            Event::Failed { what, why } => self.line(Tone::Bad, bad, &format!("{what}: {why}")),
            Event::RollingBack { why } => self.line(Tone::Warn, "!", &format!("rolling back: {why}")),
            Event::RolledBack { left } if left.is_empty() => self.line(Tone::Good, ok, "rolled back, and verified"),
            Event::RolledBack { left } => self.line(Tone::Bad, bad, &format!("not rolled back: {}", left.join("; "))),
            Event::Recovered { run, left } if left.is_empty() => {
                self.line(Tone::Good, ok, &format!("run {run} was cut off; it is rolled back"))
            }
            Event::Recovered { run, left } => {
                self.line(Tone::Bad, bad, &format!("run {run} was cut off and could not be rolled back: {}", left.join("; ")))
            }
        }
    }

    fn interrupted(&self) -> Option<i32> {
        match self.signal.load(Ordering::Relaxed) {
            0 => None,
            number => i32::try_from(number).ok(),
        }
    }
}

/// Everything that a fix run needs, opened once.
struct Bench {
    host: Box<dyn Host>,
    rules: RuleSet,
    intent: Intent,
    selection: Rules,
}

impl Bench {
    fn open(global: &Global) -> anyhow::Result<Self> {
        let host = open_host(global)?;
        let rules = load_rules(host.as_ref())?;
        let intent = load_intent(global, host.as_ref(), &rules)?;
        let selection = selection(global, &rules)?;
        Ok(Bench { host, rules, intent, selection })
    }

    fn judge(&self) -> Judge<'_> {
        Judge { host: self.host.as_ref(), intent: &self.intent, rules: &self.rules, selection: self.selection.clone() }
    }
}

/// `rmq-audit --fix`
pub fn fix(global: &Global, args: &FixArgs) -> anyhow::Result<Done> {
    let mut bench = Bench::open(global)?;
    if args.dry_run {
        return dry_run(global, args, &bench);
    }
    require_this_host_and_root(global, bench.host.as_ref())?;
    let screen = Screen::new(global)?;
    let wanted = match args.yes {
        Some(tier) => Selection::up_to(highest(tier)),
        None => match interactive(global, &mut bench, &screen) {
            Ok(Some(selection)) => selection,
            Ok(None) => return unchanged(global, &bench),
            Err(error) => return stopped(error),
        },
    };
    let target = || broker_target(bench.host.as_ref());
    let dialer = Dialer::new();
    let machine = machine(bench.host.as_ref(), &dialer, &target)?;
    let judge = bench.judge();
    let check = conf_check(bench.host.as_ref());
    let outcome = engine(&machine, &judge, &screen, &bench.intent, Some(&check)).fix(&wanted);
    finish(global, &bench, outcome)
}

fn engine<'a>(
    machine: &'a LiveWorld,
    judge: &'a Judge,
    screen: &'a Screen,
    intent: &'a Intent,
    check: Option<&'a ConfCheck<'a>>,
) -> Engine<'a> {
    Engine {
        world: machine,
        auditor: judge,
        ui: screen,
        intent,
        runs: PathBuf::from(RUNS),
        start_limit: START_LIMIT,
        settle: SETTLE,
        check_conf: check,
    }
}

/// The hand on this machine.
fn machine<'a>(host: &'a dyn Host, dialer: &'a Dialer, target: &'a dyn Fn() -> Got<Target>) -> anyhow::Result<LiveWorld<'a>> {
    let hand = Hand::new().map_err(|miss| anyhow!("{miss}"))?;
    Ok(LiveWorld { hand, host, dialer, target })
}

/// Where the broker's node can be asked at this moment: it may have started since the run began.
fn broker_target(host: &dyn Host) -> Got<Target> {
    facts::broker_target(host)
}

/// What the broker would say to the configuration as it is going to be; it is asked before anything is written.
fn conf_check(host: &dyn Host) -> impl Fn(&BTreeMap<PathBuf, Option<Vec<u8>>>) -> facts::Forecast + '_ {
    move |files| facts::would_boot(host, files)
}

fn highest(tier: YesTier) -> Tier {
    match tier {
        YesTier::Safe => Tier::Safe,
        YesTier::Restart => Tier::Restart,
    }
}

fn is_root(host: &dyn Host) -> bool {
    host.identity().uid == 0
}

fn require_this_host_and_root(global: &Global, host: &dyn Host) -> anyhow::Result<()> {
    if global.capture.is_some() || global.root.is_some() {
        bail!("--fix changes this host only; with --capture or --root use --fix --dry-run");
    }
    if !is_root(host) {
        bail!("--fix needs root: sudo rmq-audit --fix");
    }
    Ok(())
}

fn dry_run(global: &Global, args: &FixArgs, bench: &Bench) -> anyhow::Result<Done> {
    let judge = bench.judge();
    let mut before = judge.report();
    offer(bench.host.as_ref(), &mut before, &bench.intent);
    let selection = args.yes.map_or_else(Selection::offered, |tier| Selection::up_to(highest(tier)));
    let mut plan = make_plan(bench.host.as_ref(), &judge.whole(), &bench.intent, &selection);
    plan.left.retain(|left| judge.selected(&left.rule));
    before.report.changed = !plan.is_empty();
    before.report.fixes = would(&plan).into_iter().map(result).collect();
    let code = exit_code(global, &before);
    let text = match global.format {
        Format::Json => render::json(&before.report)?,
        Format::Text => show::plan(&plan, &term(global)),
    };
    Ok(Done { text: super::deliver(global, text)?, code })
}

/// The plan as `demo` shows it.
pub fn planned(host: &dyn Host, audit: &Audit, intent: &Intent, term: &Term) -> anyhow::Result<String> {
    Ok(show::plan(&make_plan(host, audit, intent, &Selection::offered()), term))
}

fn make_plan(host: &dyn Host, audit: &Audit, intent: &Intent, selection: &Selection) -> Plan {
    let context = Context { facts: &audit.facts, intent, look: &HostLook(host), random: &no_password };
    let mut plan = plan(&audit.report.findings, &context, selection);
    plan.left.retain(|left| left.why != NO_REPAIR);
    plan
}

/// Adds to each finding what its repair would change: diff, commands, missing values.
pub fn offer(host: &dyn Host, audit: &mut Audit, intent: &Intent) {
    let context = Context { facts: &audit.facts, intent, look: &HostLook(host), random: &no_password };
    attach_offers(&mut audit.report.findings, &context);
}

/// A plan that is only shown makes no password.
fn no_password(buffer: &mut [u8]) -> Result<(), Trouble> {
    buffer.fill(0);
    Ok(())
}

/// Goes through the plan with the person at the terminal. `None`: nothing is to be changed.
fn interactive(global: &Global, bench: &mut Bench, screen: &Screen) -> anyhow::Result<Option<Selection>> {
    if global.no_input || !terminal::is_terminal(Stream::In) || !terminal::is_terminal(Stream::Err) {
        bail!("--fix asks, and there is no terminal: use --fix --yes[=restart], or --fix --dry-run");
    }
    let mut shown = bench.judge().report();
    offer(bench.host.as_ref(), &mut shown, &bench.intent);
    ask::say(&text::render(&shown.report, &screen.term, detail_for_repair(global)));
    let mut before = bench.judge().whole();
    ask::say("\nNothing is changed before you say so.\n\n");
    let mut plan = make_plan(bench.host.as_ref(), &before, &bench.intent, &Selection::offered());
    if ask_values(bench, &before, &plan)? {
        before = bench.judge().whole();
        plan = make_plan(bench.host.as_ref(), &before, &bench.intent, &Selection::offered());
    }
    if plan.is_empty() {
        let mut out = String::new();
        plan.left.retain(|left| bench.judge().selected(&left.rule));
        show::left(&mut out, &plan.left, &screen.term);
        ask::say(&out);
        return Ok(None);
    }
    let rules = &bench.rules;
    let term = screen.term;
    let why = |step: &crate::fix::plan::Step| {
        rules.rules.get(&step.rule).map(|r| explain::rule(&rules::explain(r), rules, &term)).unwrap_or_default()
    };
    let chosen = match ask::choose(&plan, &screen.term, &why)? {
        Said::Nothing => return Ok(None),
        Said::Apply(chosen) => chosen,
    };
    let selection = Selection { max: Tier::Ask, chosen: Some(chosen) };
    let final_plan = make_plan(bench.host.as_ref(), &before, &bench.intent, &selection);
    Ok(ask::do_it(&final_plan)?.then_some(selection))
}

fn detail_for_repair(global: &Global) -> text::Detail {
    text::Detail { after_fix: true, ..detail(global) }
}

/// Asks for what the repairs need to know; says whether the intent changed.
fn ask_values(bench: &mut Bench, before: &Audit, plan: &Plan) -> Result<bool, AskError> {
    let needs = |word: &str| plan.left.iter().flat_map(|l| &l.needs).any(|n| n.contains(word));
    let mut changed = false;
    if needs("--from") {
        let suggestion = own_network(before);
        let question = "Who must be able to connect?";
        if let Some(from) = ask::value(question, "Network or address", suggestion.as_deref(), policy::check_source)? {
            set_clients(&mut bench.intent, |client| client.from = vec![from.clone()]);
            changed = true;
        }
    }
    if needs("--user") {
        let question = "As which user? A new one gets a password, in a file that only root can read.";
        if let Some(user) = ask::value(question, "Name of the user", None, valid_user)? {
            set_clients(&mut bench.intent, |client| client.user = Some(user.clone()));
            changed = true;
        }
    }
    Ok(changed)
}

fn set_clients(intent: &mut Intent, set: impl Fn(&mut policy::ClientIntent)) {
    for client in &mut intent.clients {
        set(client);
        client.assumed = false;
    }
}

fn valid_user(name: &str) -> Result<(), String> {
    match name {
        "guest" => Err("guest is for this host only; choose another name".into()),
        name if name.len() > 255 || name.chars().any(char::is_control) => Err("not a user name".into()),
        _ => Ok(()),
    }
}

/// The network of the interface that clients come in by.
fn own_network(audit: &Audit) -> Option<String> {
    let address = audit.facts.clients.first()?.to.known()?.clone()?;
    let own = audit.facts.net.addresses.known()?.iter().find(|a| a.address == address)?;
    crate::formats::cidr::Cidr::parse(&format!("{}/{}", own.address, own.prefix)).map(|c| c.to_string())
}

fn unchanged(global: &Global, bench: &Bench) -> anyhow::Result<Done> {
    let audit = bench.judge().report();
    Ok(Done { text: "Nothing was changed.\n".into(), code: exit_code(global, &audit) })
}

/// Ctrl-C at a prompt is the conventional 130; anything else is wrong usage.
fn stopped(error: anyhow::Error) -> anyhow::Result<Done> {
    match error.downcast_ref::<AskError>() {
        Some(AskError::Interrupted) => Ok(Done { text: "\nInterrupted; nothing was changed.\n".into(), code: 130 }),
        _ => Err(error),
    }
}

/// The report after the run, and what was done.
fn finish(global: &Global, bench: &Bench, outcome: Outcome) -> anyhow::Result<Done> {
    if let ExitKind::Refused(why) = &outcome.exit {
        return Err(anyhow!("{why}"));
    }
    let intent = with_generated_passwords(bench);
    let judge = Judge { intent: &intent, ..bench.judge() };
    let mut after = judge.report();
    offer(bench.host.as_ref(), &mut after, &intent);
    after.report.changed = outcome.changed;
    after.report.fixes = judge.told(outcome.fixes.clone());
    let code = code_of(&outcome.exit, exit_code(global, &after));
    let text = match global.format {
        Format::Json => render::json(&after.report)?,
        Format::Text => outcome_text(&after.report, &outcome, &term(global)),
    };
    Ok(Done { text: super::deliver(global, text)?, code })
}

/// The intent with the passwords that a run made: the login is proven with them, not assumed.
fn with_generated_passwords(bench: &Bench) -> Intent {
    let mut intent = bench.intent.clone();
    for client in intent.clients.iter_mut().filter(|client| client.password_file.is_none()) {
        let file = client.user.as_deref().map(generated_password_file);
        client.password_file = file.filter(|file| bench.host.stat(file, false).is_ok());
    }
    intent
}

fn code_of(exit: &ExitKind, report: u8) -> u8 {
    match exit {
        ExitKind::Report => report,
        ExitKind::RolledBack => ROLLED_BACK,
        ExitKind::Stuck(_) => NOT_ROLLED_BACK,
        ExitKind::Interrupted(signal) => u8::try_from(128 + signal).unwrap_or(130),
        ExitKind::Refused(_) => USAGE,
    }
}

fn result(fixed: Fixed) -> FixResult {
    FixResult { rule: fixed.rule, state: state_word(fixed.state).into(), why: fixed.why }
}

fn state_word(state: FixState) -> &'static str {
    match state {
        FixState::Applied => "applied",
        FixState::WouldApply => "would-apply",
        FixState::Left => "left",
        FixState::Failed => "failed",
        FixState::RolledBack => "rolled-back",
    }
}

/// One line for each finding, the verdict, and a last line in key=value form for Salt and scripts.
fn outcome_text(report: &Report, outcome: &Outcome, term: &Term) -> String {
    let mut out = show::fixes(&report.fixes, term);
    out.push_str(&text::verdict(report, term));
    if let (Some(run), true) = (&outcome.run, outcome.changed) {
        out.push_str(&format!("Undo: sudo rmq-audit undo {run}\n"));
    }
    let fixed = outcome.fixes.iter().filter(|f| f.state == FixState::Applied && !show::is_consequence(&f.why)).count();
    let changed = if outcome.changed { "yes" } else { "no" };
    let run = outcome.run.as_ref().map(|r| format!(" run={r}")).unwrap_or_default();
    let errors =
        if report.counts.error == 1 { "1 error left".to_owned() } else { format!("{} errors left", report.counts.error) };
    out.push_str(&format!("changed={changed} comment='{fixed} fixed, {errors}'{run}\n"));
    out
}

/// `rmq-audit undo [RUN]`
pub fn undo(global: &Global, run: Option<&str>) -> anyhow::Result<Done> {
    take_back(global, |engine| engine.undo(run))
}

/// `rmq-audit recover`
pub fn recover(global: &Global) -> anyhow::Result<Done> {
    take_back(global, |engine| engine.recover())
}

fn take_back(global: &Global, work: impl Fn(&Engine) -> Outcome) -> anyhow::Result<Done> {
    let bench = Bench::open(global)?;
    require_this_host_and_root(global, bench.host.as_ref())?;
    let screen = Screen::new(global)?;
    let target = || broker_target(bench.host.as_ref());
    let dialer = Dialer::new();
    let machine = machine(bench.host.as_ref(), &dialer, &target)?;
    let judge = bench.judge();
    let outcome = work(&engine(&machine, &judge, &screen, &bench.intent, None));
    match &outcome.exit {
        ExitKind::Refused(why) => Err(anyhow!("{why}")),
        exit => {
            let text = match (&outcome.run, &outcome.exit) {
                (None, _) => "No run was cut off; nothing to do.\n".to_owned(),
                (Some(run), ExitKind::Report) => format!("Run {run} is undone.\n"),
                (Some(run), _) => format!("Run {run} could not be undone as a whole.\n"),
            };
            Ok(Done { text, code: code_of(exit, OK) })
        }
    }
}

/// `rmq-audit runs`
pub fn runs(global: &Global) -> anyhow::Result<Done> {
    let bench = Bench::open(global)?;
    if !is_root(bench.host.as_ref()) {
        bail!("the list of runs is root's: sudo rmq-audit runs");
    }
    let screen = Screen::new(global)?;
    let target = || broker_target(bench.host.as_ref());
    let dialer = Dialer::new();
    let machine = machine(bench.host.as_ref(), &dialer, &target)?;
    let judge = bench.judge();
    let list = engine(&machine, &judge, &screen, &bench.intent, None).list().map_err(|trouble| anyhow!("{trouble}"))?;
    let text = match global.format {
        Format::Json => render::json(&list.iter().map(summary).collect::<Vec<_>>())?,
        Format::Text => show::runs(&list.iter().map(summary).collect::<Vec<_>>()),
    };
    let stuck = list.iter().any(|r| matches!(r.state, RunState::Stuck(_)));
    Ok(Done { text, code: if stuck { FINDINGS } else { OK } })
}

fn summary(run: &Run) -> show::RunLine {
    let state = match &run.state {
        RunState::Open => "cut off: rmq-audit recover",
        RunState::Committed => "applied",
        RunState::RollingBack | RunState::Undoing => "cut off while going back: rmq-audit recover",
        RunState::RolledBack => "failed and rolled back",
        RunState::Stuck(_) => "stuck",
        RunState::Undone => "undone",
    };
    let what = run.steps.iter().map(|s| format!("{}: {}", s.rule, s.summary)).collect();
    show::RunLine { id: run.id.clone(), started: run.started.clone(), state: state.into(), what }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::Fake;

    #[test]
    fn a_selection_restricts_what_is_repaired_but_not_what_is_judged() {
        let host = Fake::new().file_with("/etc/rabbitmq/rabbitmq.conf", "heartbeatt = 5\n", 0o644, 0, 0);
        let (rules, intent) = (rules::builtin().unwrap(), Intent::default());
        let selection = Rules { only: vec!["firewall".into()], skip: Vec::new() };
        let judge = Judge { host: &host, intent: &intent, rules: &rules, selection };
        let whole = judge.whole();
        assert_eq!(whole.verdicts.len(), rules.rules.len());
        assert!(whole.report.findings.iter().all(|f| judge.selected(&f.rule) || f.request.is_none() && f.fix.is_none()));
        assert!(judge.report().verdicts.keys().all(|rule| judge.selected(rule)));
        assert!(!judge.selected("guest-open-remotely"));
    }
}

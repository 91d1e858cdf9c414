//! Carries a plan out: lock, recover, look again, plan again, change under the journal, judge again, commit or roll back.

use super::action::{PHASES, Phase, UnitNeed};
use super::change::{Change, Doer, Op, Was};
use super::journal::{Journal, Run, RunState, RunStep};
use super::oracle::{self, Opinion};
use super::plan::{Context, Left, Plan, Selection, Step, UNSAFE_LOGIN, plan_after};
use super::world::{Done, Trouble, World};
use crate::facts::{Fact, Facts, Forecast};
use crate::findings::Finding;
use crate::host::amqp::{Answer, Login, Probe};
use crate::host::rpc::{ConfigFiles, Mutation};
use crate::host::{Got, Miss};
use crate::policy::Intent;
use crate::rules::Severity;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// How a rule came out (a rule that is our own mistake counts as unknown).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Pass,
    Fail,
    Unknown,
    NotApplicable,
}

/// One look at the host, judged.
#[derive(Debug, Clone)]
pub struct Snapshot {
    pub facts: Facts,
    pub findings: Vec<Finding>,
    pub verdicts: BTreeMap<String, State>,
}

/// Looks and judges; the engine does not know how.
pub trait Auditor {
    fn audit(&self) -> Snapshot;
    /// A real login, for users whose password only this run knows.
    fn login(&self, probe: &Probe) -> Got<Answer> {
        Err(Miss::Unavailable { what: format!("login at {}", probe.to), why: "not tried".into() })
    }
}

/// What happens, for the screen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A run that was cut off earlier was taken back (`left` empty) or could not be.
    Recovered {
        run: String,
        left: Vec<String>,
    },
    /// The intent and the old files are on disk.
    Saved {
        dir: PathBuf,
    },
    /// A change begins.
    Changing {
        what: String,
    },
    /// Still waiting for something.
    Waiting {
        what: String,
        seconds: u64,
    },
    /// A change is done.
    Done {
        what: String,
    },
    /// A change, or the verification, failed.
    Failed {
        what: String,
        why: String,
    },
    Verifying,
    /// A rule that was repaired passes.
    Fixed {
        rule: String,
    },
    RollingBack {
        why: String,
    },
    /// What could not be taken back; empty: everything was, and it was verified.
    RolledBack {
        left: Vec<String>,
    },
}

/// The screen and the signals.
pub trait Ui {
    fn say(&self, event: Event);
    /// The signal that asks to stop, if one came.
    fn interrupted(&self) -> Option<i32>;
}

/// Judges configuration files as they would be (`None`: removed).
pub type ConfCheck<'a> = dyn Fn(&BTreeMap<PathBuf, Option<Vec<u8>>>) -> Forecast + 'a;

/// What became of a finding (the `fixes` of the report).
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FixState {
    Applied,
    WouldApply,
    Left,
    Failed,
    RolledBack,
}

/// One line of the outcome.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Fixed {
    pub rule: String,
    pub state: FixState,
    pub why: String,
}

/// How a run ended, for the exit code (CONTRACT section 2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExitKind {
    /// Nothing was to be done, or everything that was begun is committed: the report decides.
    Report,
    /// 4
    RolledBack,
    /// 5; says what is left.
    Stuck(Vec<String>),
    /// 128 + signal; what was begun was rolled back.
    Interrupted(i32),
    /// 2: not begun; says why (another run, nothing to undo, a third hand).
    Refused(String),
}

/// What a run did.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Id of the run, if anything was begun.
    pub run: Option<String>,
    pub fixes: Vec<Fixed>,
    pub exit: ExitKind,
    /// The host was changed and stays changed.
    pub changed: bool,
}

impl Outcome {
    fn refused(why: impl std::fmt::Display) -> Outcome {
        Outcome { run: None, fixes: Vec::new(), exit: ExitKind::Refused(why.to_string()), changed: false }
    }

    /// With what a further run of the same command did.
    fn then(self, next: Outcome) -> Outcome {
        if matches!(next.exit, ExitKind::Refused(_)) {
            return self;
        }
        let told_again = |fix: &Fixed| fix.why == SEEN_AFTER || next.fixes.iter().any(|later| later.rule == fix.rule);
        let mut fixes = self.fixes;
        fixes.retain(|fix| fix.state != FixState::Left || !told_again(fix));
        fixes.extend(next.fixes);
        let run = if next.changed { next.run } else { self.run };
        Outcome { run, fixes, exit: next.exit, changed: self.changed || next.changed }
    }
}

/// The lines of `fixes` for a plan that is only shown.
pub fn would(plan: &Plan) -> Vec<Fixed> {
    let steps =
        plan.steps.iter().map(|step| Fixed { rule: step.rule.clone(), state: FixState::WouldApply, why: step.summary.clone() });
    steps.chain(left(plan)).collect()
}

fn left(plan: &Plan) -> impl Iterator<Item = Fixed> + '_ {
    plan.left.iter().map(|left| Fixed { rule: left.rule.clone(), state: FixState::Left, why: left.why.clone() })
}

/// The engine with everything it needs from outside.
pub struct Engine<'a> {
    pub world: &'a dyn World,
    pub auditor: &'a dyn Auditor,
    pub ui: &'a dyn Ui,
    pub intent: &'a Intent,
    /// Directory of runs: [`super::journal::RUNS`].
    pub runs: PathBuf,
    /// How long the broker may take to start (default 90 s).
    pub start_limit: Duration,
    /// How long a repaired rule may take to pass after the last change (default 10 s).
    pub settle: Duration,
    pub check_conf: Option<&'a ConfCheck<'a>>,
}

/// Why a run stops and is rolled back.
struct Stop {
    why: String,
    /// The signal that asked for it, if one did.
    signal: Option<i32>,
}

impl From<Trouble> for Stop {
    fn from(trouble: Trouble) -> Self {
        Stop { why: trouble.to_string(), signal: None }
    }
}

/// Why a repair was left that the selection allows.
const SEEN_AFTER: &str = "seen only after the repair: run --fix again";
/// Runs of one command at most: a repair that brings the next one to light for ever is a mistake of the rules.
const ROUNDS: usize = 3;

/// Looks at a unit that is on its way down, half a second apart, before its state is taken as it is.
const GOING_DOWN: usize = 40;

/// A step that was carried out.
struct DoneStep {
    step: Step,
    /// Findings of its rule when it was planned.
    findings: usize,
}

impl<'a> Engine<'a> {
    fn journal(&self) -> Journal<'a> {
        Journal { world: self.world, dir: self.runs.clone() }
    }

    /// Plans without changing anything, from one look at the host.
    pub fn plan(&self, seen: &Snapshot, selection: &Selection) -> Plan {
        self.plan_after(seen, selection, &BTreeSet::new())
    }

    fn plan_after(&self, seen: &Snapshot, selection: &Selection, deferred: &BTreeSet<String>) -> Plan {
        let random = |buffer: &mut [u8]| self.world.random(buffer);
        let context = Context { facts: &seen.facts, intent: self.intent, look: self.world, random: &random };
        plan_after(&seen.findings, &context, selection, deferred)
    }

    /// Repairs what the selection allows. Whatever happens, the host ends as planned or as it was.
    ///
    /// What only a repair brings to light (behind a broker that did not start) is repaired in a run of its own, which can fail without
    /// taking the first one with it. A person who chose steps chose none of those: they are asked first, by the next `--fix`.
    pub fn fix(&self, selection: &Selection) -> Outcome {
        let _lock = match self.world.lock() {
            Ok(lock) => lock,
            Err(trouble) => return Outcome::refused(trouble),
        };
        if let Err(outcome) = self.recover_unfinished() {
            return *outcome;
        }
        let rounds = if selection.chosen.is_none() { ROUNDS } else { 1 };
        let mut outcome = self.one_run(selection, None);
        for _ in 1..rounds {
            if outcome.exit != ExitKind::Report || !outcome.fixes.iter().any(|fix| fix.why == SEEN_AFTER) {
                break;
            }
            let next = self.one_run(selection, outcome.run.clone());
            outcome = outcome.then(next);
        }
        outcome
    }

    fn one_run(&self, selection: &Selection, follows: Option<String>) -> Outcome {
        let before = self.settled_look();
        let mut plan = self.plan(&before, selection);
        if let Err(why) = self.check_first(&mut plan, &before) {
            self.ui.say(Event::Failed { what: "the new configuration".into(), why: why.clone() });
            let failed = |step: &Step| Fixed { rule: step.rule.clone(), state: FixState::Failed, why: why.clone() };
            let fixes = plan.steps.iter().map(failed).chain(left(&plan)).collect();
            return Outcome { run: None, fixes, exit: ExitKind::RolledBack, changed: false };
        }
        if plan.is_empty() {
            let fixes = left(&plan).collect();
            return Outcome { run: None, fixes, exit: ExitKind::Report, changed: false };
        }
        let mut run = match self.journal().begin(follows) {
            Ok(run) => run,
            Err(trouble) => return Outcome::refused(trouble),
        };
        let mut done = Vec::new();
        let result = self.carry_out(&mut run, plan.clone(), &before, selection, &mut done);
        let begun = !run.phases.is_empty();
        let committed = result.and_then(|(plan, after)| {
            if begun {
                self.journal().mark(&mut run, RunState::Committed)?;
            }
            Ok((plan, after))
        });
        match committed {
            Ok((last, after)) => {
                let fixes = applied(&before, &after, &done, &plan, &last);
                let id = begun.then_some(run.id);
                Outcome { run: id, fixes, exit: ExitKind::Report, changed: begun }
            }
            Err(stop) => self.abandon(run, stop, &before, &plan),
        }
    }

    /// A look at a host whose unit is not just on its way down. A broker in a loop of failing starts is "deactivating" for a moment in
    /// every round, as it is while a restart begins; taken for one that was stopped on purpose, it would not be restarted.
    fn settled_look(&self) -> Snapshot {
        let state = |seen: &Snapshot| match &seen.facts.unit {
            Fact::Known(Some(unit)) => unit.active.clone(),
            _ => String::new(),
        };
        let mut seen = self.auditor.audit();
        let mut going = false;
        for _ in 0..GOING_DOWN {
            match state(&seen).as_str() {
                "deactivating" => going = true,
                // Between the two halves of a restart.
                "inactive" if going => going = false,
                _ => break,
            }
            if self.ui.interrupted().is_some() {
                break;
            }
            self.world.sleep(Duration::from_millis(500));
            seen = self.auditor.audit();
        }
        seen
    }

    /// All phases and the verification; gives the last plan and the host as it is now.
    fn carry_out(
        &self,
        run: &mut Run,
        first: Plan,
        before: &Snapshot,
        selection: &Selection,
        done: &mut Vec<DoneStep>,
    ) -> Result<(Plan, Snapshot), Stop> {
        let deferred: BTreeSet<String> = first.deferred.iter().map(|deferred| deferred.action.clone()).collect();
        let mut plan = first;
        let mut seen = before.clone();
        for phase in PHASES {
            if !done.is_empty() {
                seen = self.auditor.audit();
                plan = self.plan_after(&seen, selection, &deferred);
            }
            if phase == Phase::Firewall {
                self.keep_closed_if_unsafe(&mut plan, &seen, !done.is_empty());
                self.try_out_first(&mut plan);
            }
            if !plan.phase(phase).is_empty() {
                self.carry_out_phase(run, &plan, phase)?;
                let count = |rule: &str| seen.findings.iter().filter(|finding| finding.rule == rule).count();
                let steps = plan.steps.iter().filter(|step| step.phase == phase);
                done.extend(steps.map(|step| DoneStep { step: step.clone(), findings: count(&step.rule) }));
            }
        }
        let after = self.verify(before, done)?;
        let mut last = self.plan_after(&after, selection, &deferred);
        self.keep_closed_if_unsafe(&mut last, &after, false);
        Ok((last, after))
    }

    /// Nothing is opened while nobody knows whether strangers could log in behind it.
    fn keep_closed_if_unsafe(&self, plan: &mut Plan, seen: &Snapshot, changed: bool) {
        let unknown = |rule: &&&str| seen.verdicts.get(**rule) == Some(&State::Unknown);
        let down = changed && !matches!(seen.facts.node, Fact::Known(Some(_)));
        let why = match UNSAFE_LOGIN.iter().find(unknown) {
            Some(rule) => format!("not opened: {rule} could not be checked"),
            None if down => "not opened while RabbitMQ does not run".into(),
            None => return,
        };
        plan.changes.remove(&Phase::Firewall);
        let (go, stay): (Vec<Step>, Vec<Step>) = plan.steps.drain(..).partition(|step| step.phase == Phase::Firewall);
        plan.steps = stay;
        plan.left.extend(go.into_iter().map(|step| Left { rule: step.rule, why: why.clone(), needs: Vec::new() }));
    }

    /// Connections that a change is to allow are tried in a copy of the packet filter, where there can be one: what does not work there
    /// is not done here.
    fn try_out_first(&self, plan: &mut Plan) {
        let mut fails = None;
        for step in &mut plan.steps {
            for trial in &step.trials {
                self.ui.say(Event::Changing { what: format!("trying the change in a copy of the packet filter: {}", trial.to) });
                match self.world.try_out(trial) {
                    Ok(()) => step.summary.push_str("; tried first in a copy of the packet filter"),
                    Err(Trouble::Refused { why, .. }) => step.summary.push_str(&format!("; not tried in a copy first: {why}")),
                    Err(other) => fails = Some(other.to_string()),
                }
            }
        }
        let Some(why) = fails else { return };
        self.ui.say(Event::Failed { what: "the change of the packet filter".into(), why: why.clone() });
        plan.changes.remove(&Phase::Firewall);
        let (go, stay): (Vec<Step>, Vec<Step>) = plan.steps.drain(..).partition(|step| step.phase == Phase::Firewall);
        plan.steps = stay;
        plan.left.extend(go.into_iter().map(|step| Left { rule: step.rule, why: why.clone(), needs: Vec::new() }));
    }

    fn carry_out_phase(&self, run: &mut Run, plan: &Plan, phase: Phase) -> Result<(), Stop> {
        self.stop_if_interrupted()?;
        let journal = self.journal();
        let steps = plan.steps.iter().filter(|step| step.phase == phase);
        let steps = steps.map(|step| RunStep { rule: step.rule.clone(), summary: step.summary.clone() }).collect();
        journal.intend(run, steps, plan.phase(phase))?;
        if run.phases.len() == 1 {
            self.ui.say(Event::Saved { dir: self.runs.join(&run.id) });
        }
        let waiting = |what: &str, seconds: u64| {
            self.ui.say(Event::Waiting { what: what.to_string(), seconds });
            self.ui.interrupted()
        };
        let doer = Doer { world: self.world, start_limit: self.start_limit, waiting: &waiting };
        for change in plan.phase(phase) {
            self.stop_if_interrupted()?;
            let what = change.describe();
            self.ui.say(Event::Changing { what: what.clone() });
            journal.advance(run)?;
            if let Err(trouble) = doer.apply(change) {
                self.ui.say(Event::Failed { what, why: trouble.to_string() });
                if matches!(trouble, Trouble::Refused { .. } | Trouble::ThirdHand { .. }) {
                    // Certainly not done: undoing it could take away what somebody else made (a user of that name).
                    journal.retreat(run)?;
                }
                self.stop_if_interrupted()?;
                let why = format!("{trouble}{}", self.boot_failure(change));
                return Err(Stop { why, signal: None });
            }
            self.ui.say(Event::Done { what });
        }
        Ok(())
    }

    /// What the broker's log says of a start that failed.
    fn boot_failure(&self, change: &Change) -> String {
        let start = matches!(change, Change::Run { doing: Op::Restart { .. } | Op::Start { .. }, .. });
        let seen = start.then(|| self.auditor.audit().facts.log.boot_failure);
        match seen {
            Some(Fact::Known(Some(event))) => format!("; log: {}", event.text),
            _ => String::new(),
        }
    }

    fn stop_if_interrupted(&self) -> Result<(), Stop> {
        match self.ui.interrupted() {
            Some(signal) => Err(Stop { why: format!("interrupted by signal {signal}"), signal: Some(signal) }),
            None => Ok(()),
        }
    }

    /// Asks before anything is written whether the broker would boot with the new files.
    ///
    /// A running broker is not touched if it would not. One that is down gets its repaired files, but is not started yet.
    fn check_first(&self, plan: &mut Plan, before: &Snapshot) -> Result<(), String> {
        let Some(check) = self.check_conf else { return Ok(()) };
        let mut files = BTreeMap::new();
        for change in plan.phase(Phase::Host) {
            if let Change::File { path, after, .. } = change {
                files.insert(path.clone(), after.as_ref().map(|state| state.content.clone()));
            }
        }
        if files.is_empty() {
            return Ok(());
        }
        let forecast = check(&files);
        let why = match (forecast.verdict, self.opinion(&forecast.files, &files, before)) {
            (Ok(()), Some(Opinion::Refuses(word))) => {
                // Of two opinions the careful one counts, and both are told.
                return Err(format!(
                    "the broker's own check refuses it ({word}; its log says why), although rmq-audit found nothing wrong: not written"
                ));
            }
            (Ok(()), _) => return Ok(()),
            (Err(why), Some(Opinion::Takes)) => {
                format!("the broker would not start with it: {why} (its own check of the files alone passes)")
            }
            (Err(why), _) => format!("the broker would not start with it: {why}"),
        };
        if running(&before.facts) {
            return Err(why);
        }
        let starts = |change: &Change| matches!(change, Change::Run { doing: Op::Restart { .. } | Op::Start { .. }, .. });
        if let Some(changes) = plan.changes.get_mut(&Phase::Host) {
            changes.retain(|change| !starts(change));
        }
        let (stay, go): (Vec<Step>, Vec<Step>) =
            plan.steps.drain(..).partition(|step| step.unit != UnitNeed::Start || !step.changes.is_empty());
        plan.steps = stay;
        plan.left.extend(go.into_iter().map(|step| Left { rule: step.rule, why: why.clone(), needs: Vec::new() }));
        Ok(())
    }

    /// What the broker itself says of the new files, where it runs and can be asked.
    fn opinion(&self, files: &ConfigFiles, replaced: &BTreeMap<PathBuf, Option<Vec<u8>>>, before: &Snapshot) -> Option<Opinion> {
        let node = before.facts.node.known().and_then(Option::as_ref)?;
        let install = before.facts.install.known().and_then(Option::as_ref)?;
        let group = (*install.gid.known()?)?;
        if node.booted.known() == Some(&false) {
            return None;
        }
        match oracle::ask(self.world, files, replaced, group) {
            Ok(opinion) => Some(opinion),
            Err(trouble) => {
                self.ui.say(Event::Failed {
                    what: "the new configuration could not be shown to the running broker".into(),
                    why: trouble.to_string(),
                });
                None
            }
        }
    }

    /// Looks again until everything repaired passes, or the time for it is over.
    fn verify(&self, before: &Snapshot, done: &[DoneStep]) -> Result<Snapshot, Stop> {
        self.ui.say(Event::Verifying);
        let (after, problems) = self.look_until_fine(|after| {
            let mut problems = not_fixed(after, done);
            problems.extend(regressions(before, after));
            problems.extend(logins(before, after));
            if problems.is_empty() {
                problems.extend(self.new_users_cannot_login(after, done));
            }
            problems
        })?;
        if problems.is_empty() {
            for rule in done.iter().map(|done| done.step.rule.clone()).collect::<BTreeSet<_>>() {
                self.ui.say(Event::Fixed { rule });
            }
            return Ok(after);
        }
        let why = problems.join("; ");
        self.ui.say(Event::Failed { what: "verification".into(), why: why.clone() });
        Err(Stop { why, signal: None })
    }

    fn look_until_fine(&self, problems: impl Fn(&Snapshot) -> Vec<String>) -> Result<(Snapshot, Vec<String>), Stop> {
        let pause = Duration::from_millis(500);
        let mut waited = Duration::ZERO;
        loop {
            let seen = self.auditor.audit();
            let found = problems(&seen);
            if found.is_empty() || waited >= self.settle {
                return Ok((seen, found));
            }
            self.stop_if_interrupted()?;
            self.ui.say(Event::Waiting { what: found.join("; "), seconds: waited.as_secs() });
            self.world.sleep(pause);
            waited += pause;
        }
    }

    /// Users that this run created log in for real: their password is known from the file that it was made with.
    fn new_users_cannot_login(&self, after: &Snapshot, done: &[DoneStep]) -> Vec<String> {
        let changes = done.iter().flat_map(|done| &done.step.changes);
        let created = changes.filter_map(|change| match change {
            Change::Run { doing: Op::Broker { mutation: Mutation::AddUser { name, password_file } }, .. } => {
                Some((name, password_file))
            }
            _ => None,
        });
        let mut problems = Vec::new();
        for (user, password_file) in created {
            let client = after.facts.clients.iter().find(|client| client.user.as_ref() == Some(user) && client.service == "amqp");
            let Some(to) = client.and_then(address) else { continue };
            let vhost = client.map_or("/".into(), |client| client.vhost.clone());
            let login = Login { user: user.clone(), password_file: password_file.clone(), vhost };
            // Anything but a refusal of the login itself (no listener yet, no answer) is not about the user.
            if let Ok(Answer::AuthRefused { text } | Answer::VhostRefused { text }) =
                self.auditor.login(&Probe { to, login: Some(login), tls: None })
            {
                problems.push(format!("user {user} cannot log in at {to}: {text}"));
            }
        }
        problems
    }

    /// Rolls a failed run back and says how that went.
    fn abandon(&self, mut run: Run, stop: Stop, before: &Snapshot, plan: &Plan) -> Outcome {
        self.ui.say(Event::RollingBack { why: stop.why.clone() });
        let mut left_over = self.roll_back(&mut run, RunState::RollingBack);
        if left_over.is_empty() && run.begun > 0 {
            let passed_before = |after: &Snapshot| regressions(before, after);
            // Signals were heard already: the rollback itself is not interrupted.
            left_over = self.look_quietly(passed_before);
        }
        let state = if left_over.is_empty() { RunState::RolledBack } else { RunState::Stuck(left_over.clone()) };
        // A full disk may refuse the note; the rollback stands all the same, and doing it again would change nothing.
        if !run.phases.is_empty() {
            let _ = self.journal().mark(&mut run, state);
        }
        self.ui.say(Event::RolledBack { left: left_over.clone() });
        let fix_state = if left_over.is_empty() { FixState::RolledBack } else { FixState::Failed };
        let failed = |step: &Step| Fixed { rule: step.rule.clone(), state: fix_state, why: stop.why.clone() };
        let exit = match (left_over.is_empty(), stop.signal) {
            (false, _) => ExitKind::Stuck(left_over),
            (true, Some(signal)) => ExitKind::Interrupted(signal),
            (true, None) => ExitKind::RolledBack,
        };
        let fixes = plan.steps.iter().map(failed).chain(left(plan)).collect();
        Outcome { run: Some(run.id), fixes, changed: matches!(exit, ExitKind::Stuck(_)), exit }
    }

    fn look_quietly(&self, problems: impl Fn(&Snapshot) -> Vec<String>) -> Vec<String> {
        let pause = Duration::from_millis(500);
        let mut waited = Duration::ZERO;
        loop {
            let found = problems(&self.auditor.audit());
            if found.is_empty() || waited >= self.settle {
                return found;
            }
            self.world.sleep(pause);
            waited += pause;
        }
    }

    /// Undoes everything begun and checks the files by content; gives what could not be undone.
    fn roll_back(&self, run: &mut Run, state: RunState) -> Vec<String> {
        if run.phases.is_empty() {
            return Vec::new();
        }
        let journal = self.journal();
        // If this cannot be written, the old state says the same: open runs are rolled back.
        let _ = journal.mark(run, state);
        let waiting = |what: &str, seconds: u64| {
            self.ui.say(Event::Waiting { what: what.to_string(), seconds });
            None
        };
        let doer = Doer { world: self.world, start_limit: self.start_limit, waiting: &waiting };
        let mut left_over = journal.take_back(run, &doer);
        if left_over.is_empty() {
            left_over = journal.not_restored(run);
        }
        left_over
    }

    /// Takes back what a run that was cut off left behind; `Err` if that could not be done.
    fn recover_unfinished(&self) -> Result<Vec<String>, Box<Outcome>> {
        let journal = self.journal();
        let runs = journal.runs().map_err(|trouble| Box::new(Outcome::refused(trouble)))?;
        let mut recovered = Vec::new();
        for mut run in runs.into_iter().filter(Run::unfinished) {
            let undoing = run.state == RunState::Undoing;
            for path in run.files() {
                // Untidy at worst: the file itself is whole.
                let _ = self.world.sweep(path);
            }
            let left = self.roll_back(&mut run, if undoing { RunState::Undoing } else { RunState::RollingBack });
            let state = match (left.is_empty(), undoing) {
                (false, _) => RunState::Stuck(left.clone()),
                (true, true) => RunState::Undone,
                (true, false) => RunState::RolledBack,
            };
            let marked = journal.mark(&mut run, state);
            self.ui.say(Event::Recovered { run: run.id.clone(), left: left.clone() });
            if let Err(trouble) = marked {
                return Err(Box::new(Outcome::refused(trouble)));
            }
            if !left.is_empty() {
                let run = Some(run.id);
                let exit = ExitKind::Stuck(left);
                return Err(Box::new(Outcome { run, fixes: Vec::new(), exit, changed: true }));
            }
            recovered.push(run.id);
        }
        Ok(recovered)
    }

    /// Finishes or rolls back runs that were cut off. `run` of the outcome is the last of them.
    pub fn recover(&self) -> Outcome {
        let _lock = match self.world.lock() {
            Ok(lock) => lock,
            Err(trouble) => return Outcome::refused(trouble),
        };
        match self.recover_unfinished() {
            Ok(mut runs) => {
                let changed = !runs.is_empty();
                Outcome { run: runs.pop(), fixes: Vec::new(), exit: ExitKind::Report, changed }
            }
            Err(outcome) => *outcome,
        }
    }

    /// All runs, oldest first.
    pub fn list(&self) -> Done<Vec<Run>> {
        self.journal().runs()
    }

    /// Takes a committed run back: the newest, or the one with this id.
    pub fn undo(&self, id: Option<&str>) -> Outcome {
        let _lock = match self.world.lock() {
            Ok(lock) => lock,
            Err(trouble) => return Outcome::refused(trouble),
        };
        if let Err(outcome) = self.recover_unfinished() {
            return *outcome;
        }
        let runs = match self.journal().runs() {
            Ok(runs) => runs,
            Err(trouble) => return Outcome::refused(trouble),
        };
        let run = match choose(&runs, id) {
            Ok(run) => run,
            Err(why) => return Outcome::refused(why),
        };
        let mut outcome = self.undo_one(run.clone());
        for earlier in followed(&runs, run) {
            if outcome.exit != ExitKind::Report {
                break;
            }
            let undone = self.undo_one(earlier.clone());
            outcome = Outcome { run: outcome.run, fixes: [outcome.fixes, undone.fixes].concat(), ..undone };
        }
        outcome
    }

    fn undo_one(&self, mut run: Run) -> Outcome {
        let foreign = self.journal().third_hands(&run);
        if !foreign.is_empty() {
            return Outcome::refused(format!("changed by someone else since run {}: {}", run.id, foreign.join(", ")));
        }
        if run.needs_broker() && !matches!(self.auditor.audit().facts.node, Fact::Known(Some(_))) {
            return Outcome::refused("undoing it takes a running broker: start RabbitMQ first");
        }
        let left = self.roll_back(&mut run, RunState::Undoing);
        let state = if left.is_empty() { RunState::Undone } else { RunState::Stuck(left.clone()) };
        let _ = self.journal().mark(&mut run, state);
        self.ui.say(Event::RolledBack { left: left.clone() });
        let steps = run.steps.iter().map(|step| step.rule.clone()).collect::<BTreeSet<_>>();
        let state = if left.is_empty() { FixState::RolledBack } else { FixState::Failed };
        let fixes = steps.into_iter().map(|rule| Fixed { rule, state, why: "undo".into() }).collect();
        let exit = if left.is_empty() { ExitKind::Report } else { ExitKind::Stuck(left) };
        Outcome { run: Some(run.id), fixes, exit, changed: true }
    }
}

/// The run to undo.
fn choose<'r>(runs: &'r [Run], id: Option<&str>) -> Result<&'r Run, String> {
    let stands = |run: &Run| matches!(run.state, RunState::Committed | RunState::Stuck(_));
    match id {
        // One that could not be taken back as a whole comes before the older ones: its changes lie on top of theirs.
        None => runs.iter().rfind(|run| stands(run)).ok_or("there is no run to undo".into()),
        Some(id) => match runs.iter().find(|run| run.id == id) {
            None => Err(format!("there is no run {id}")),
            Some(run) if stands(run) => Ok(run),
            Some(_) => Err(format!("run {id} was taken back already")),
        },
    }
}

/// The runs that the same command made before this one and that stand, newest first.
fn followed<'r>(runs: &'r [Run], run: &'r Run) -> impl Iterator<Item = &'r Run> {
    let before = |run: &Run| choose(runs, Some(run.follows.as_deref()?)).ok();
    std::iter::successors(before(run), move |run| before(run))
}

fn running(facts: &Facts) -> bool {
    matches!(&facts.unit, Fact::Known(Some(unit)) if Was::of(&unit.active) == Was::Running)
}

fn address(client: &crate::facts::clients::Client) -> Option<SocketAddr> {
    let to = client.to.known()?.as_ref()?.parse().ok()?;
    let port = u16::try_from(*client.port.known()?).ok()?;
    Some(SocketAddr::new(to, port))
}

/// Repaired rules that do not pass.
fn not_fixed(after: &Snapshot, done: &[DoneStep]) -> Vec<String> {
    let mut problems = Vec::new();
    for rule in done.iter().map(|done| &done.step.rule).collect::<BTreeSet<_>>() {
        let of_rule = || done.iter().filter(|done| done.step.rule == *rule);
        let before = of_rule().map(|done| done.findings).max().unwrap_or(0);
        let now = after.findings.iter().filter(|finding| finding.rule == *rule).count();
        match after.verdicts.get(rule) {
            Some(State::Pass | State::NotApplicable) => {}
            // Some of its findings were not to be repaired.
            Some(State::Fail) if now + of_rule().count() <= before => {}
            Some(State::Fail) => problems.push(format!("{rule} still fails")),
            Some(State::Unknown) | None => problems.push(format!("{rule} could not be checked")),
        }
    }
    problems
}

/// Rules that passed before and now fail with an error.
fn regressions(before: &Snapshot, after: &Snapshot) -> Vec<String> {
    let errors = after.findings.iter().filter(|f| f.severity == Severity::Error && f.waiver.is_none());
    let rules: BTreeSet<&str> = errors.map(|finding| finding.rule.as_str()).collect();
    let passed = |rule: &&str| before.verdicts.get(*rule) == Some(&State::Pass);
    let fails = |rule: &&str| after.verdicts.get(*rule) == Some(&State::Fail);
    rules.into_iter().filter(passed).filter(fails).map(|rule| format!("{rule} passed before and fails now")).collect()
}

/// Real logins that worked before must work, and where nothing is left to repair they must all work.
fn logins(before: &Snapshot, after: &Snapshot) -> Vec<String> {
    let outcome = |client: &crate::facts::clients::Client| client.login.known().and_then(Clone::clone);
    let errors_left = after.findings.iter().any(|f| f.severity == Severity::Error && f.waiver.is_none());
    let mut problems = Vec::new();
    for client in &after.facts.clients {
        let Some(now) = outcome(client).filter(|now| now != "connected") else { continue };
        let same = |old: &&crate::facts::clients::Client| old.name == client.name && old.from == client.from;
        let worked = before.facts.clients.iter().find(same).and_then(outcome).as_deref() == Some("connected");
        if worked || !errors_left {
            let user = client.user.as_deref().unwrap_or("the client");
            problems.push(format!("{user} ({}) cannot log in: {now}", client.name));
        }
    }
    problems
}

/// The lines of `fixes` after a committed run.
fn applied(before: &Snapshot, after: &Snapshot, done: &[DoneStep], first: &Plan, last: &Plan) -> Vec<Fixed> {
    let mut fixes: Vec<Fixed> = done
        .iter()
        .map(|done| Fixed { rule: done.step.rule.clone(), state: FixState::Applied, why: done.step.summary.clone() })
        .collect();
    let fixed: BTreeSet<String> = fixes.iter().map(|fix| fix.rule.clone()).collect();
    let gone = |rule: &str| matches!(after.verdicts.get(rule), Some(State::Pass | State::NotApplicable));
    let mut seen = BTreeSet::new();
    for finding in before.findings.iter().filter(|f| f.waiver.is_none() && !fixed.contains(&f.rule)) {
        if gone(&finding.rule) && seen.insert(&finding.rule) {
            fixes.push(Fixed { rule: finding.rule.clone(), state: FixState::Applied, why: "went away with its cause".into() });
        }
    }
    for left in last.left.iter().chain(&first.left) {
        let listed = fixes.iter().any(|fix| fix.rule == left.rule);
        if !listed && !gone(&left.rule) {
            fixes.push(Fixed { rule: left.rule.clone(), state: FixState::Left, why: left.why.clone() });
        }
    }
    // What the last look would repair, had this run still been allowed to: only a further run may.
    for step in &last.steps {
        if !fixes.iter().any(|fix| fix.rule == step.rule) {
            fixes.push(Fixed { rule: step.rule.clone(), state: FixState::Left, why: SEEN_AFTER.into() });
        }
    }
    fixes
}

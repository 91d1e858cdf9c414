//! The promises of the engine: done as a whole or not at all, whatever dies, fills up or interferes.

use super::apply::{Auditor, Engine, Event, ExitKind, FixState, Outcome};
use super::fake::{CONF, COOKIE, Fake, Killed, finding, intent, state};
use super::journal::{RUNS, RunState};
use super::plan::{Context, Plan, Selection, plan};
use super::world::{Trouble, World};
use crate::facts::{
    Fact,
    clients::{Account, Client},
};
use crate::findings::Finding;
use crate::host::rpc::ConfigFiles;
use crate::rules::{Severity, Tier};
use serde_json::json;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Duration;

const GENERATED: &str = "/root/rmq-audit-app.password";

fn with_engine<T>(fake: &Fake, work: impl FnOnce(&Engine) -> T) -> T {
    with_auditor(fake, fake, work)
}

fn with_auditor<T>(fake: &Fake, auditor: &dyn Auditor, work: impl FnOnce(&Engine) -> T) -> T {
    let intent = intent();
    work(&Engine {
        world: fake,
        auditor,
        ui: fake,
        intent: &intent,
        runs: PathBuf::from(RUNS),
        start_limit: Duration::from_secs(5),
        settle: Duration::from_secs(1),
        check_conf: None,
    })
}

fn all() -> Selection {
    Selection::up_to(Tier::Restart)
}

fn fix(fake: &Fake) -> Outcome {
    with_engine(fake, |engine| engine.fix(&all()))
}

fn undo(fake: &Fake) -> Outcome {
    with_engine(fake, |engine| engine.undo(None))
}

fn state_of(outcome: &Outcome, rule: &str) -> Option<FixState> {
    outcome.fixes.iter().find(|fix| fix.rule == rule).map(|fix| fix.state)
}

fn show(findings: &[Finding], fake: &Fake, selection: &Selection) -> Plan {
    let (intent, seen) = (intent(), fake.audit());
    let random = |buffer: &mut [u8]| fake.random(buffer);
    plan(findings, &Context { facts: &seen.facts, intent: &intent, look: fake, random: &random }, selection)
}

#[test]
fn one_restart_one_write_per_file_and_a_user_once_the_broker_is_up() {
    let fake = Fake::new();
    let outcome = fix(&fake);
    assert_eq!(outcome.exit, ExitKind::Report, "{outcome:?}");
    assert!(outcome.changed);
    assert_eq!(fake.text(CONF), "# ours\nheartbeat = 30\nlisteners.tcp.1 = 0.0.0.0:5672\n");
    let machine = fake.machine.borrow().clone();
    assert!(machine.running && machine.enabled && machine.users.contains("app") && machine.permissions.contains("app"));
    assert_eq!(machine.files[Path::new(COOKIE)].meta.mode, 0o400);
    for rule in ["conf-unknown-key", "listener-loopback-only", "service-not-running", "client-user-missing"] {
        assert_eq!(state_of(&outcome, rule), Some(FixState::Applied), "{rule}: {outcome:?}");
    }
    let said = fake.said.borrow();
    let restarts = said.iter().filter(|e| matches!(e, Event::Done { what } if what.starts_with("systemctl restart"))).count();
    assert_eq!(restarts, 1);
    let password = &machine.files[Path::new(GENERATED)];
    assert_eq!((password.content.len(), password.meta.mode, password.meta.uid), (25, 0o600, 0));
    // Neither the journal nor the screen has seen it.
    let secret = String::from_utf8_lossy(&password.content[..24]).into_owned();
    assert!(!format!("{said:?}{outcome:?}").contains(&secret));
    assert!(!fake.private.borrow().values().any(|bytes| String::from_utf8_lossy(bytes).contains(&secret)));
}

#[test]
fn the_second_run_changes_nothing() {
    let fake = Fake::new();
    fix(&fake);
    let (machine, runs) = (fake.machine.borrow().clone(), fake.private.borrow().len());
    let again = fix(&fake);
    assert_eq!((again.exit, again.changed, again.run), (ExitKind::Report, false, None));
    assert_eq!((machine, runs), (fake.machine.borrow().clone(), fake.private.borrow().len()));
}

#[test]
fn undo_gives_the_host_back() {
    let fake = Fake::new();
    let before = fake.machine.borrow().clone();
    fix(&fake);
    let outcome = undo(&fake);
    assert_eq!(outcome.exit, ExitKind::Report, "{outcome:?}");
    assert_eq!(*fake.machine.borrow(), before);
    assert!(matches!(undo(&fake).exit, ExitKind::Refused(why) if why.contains("no run")));
}

/// Where the broker runs, one more thing is to be seen.
struct SeenWhenUp<'a>(&'a Fake);

impl Auditor for SeenWhenUp<'_> {
    fn audit(&self) -> super::apply::Snapshot {
        let mut seen = self.0.audit();
        let machine = self.0.machine.borrow();
        if machine.running && !seen.facts.conf.settings.known().is_some_and(|settings| settings.contains_key("management.tcp.ip"))
        {
            let bind = json!({"key": "management.tcp.ip", "value": "127.0.0.1"});
            let open = Finding { severity: Severity::Warning, ..finding("management-open", "set-conf", bind, Tier::Restart) };
            seen.findings.push(open);
            seen.verdicts.insert("management-open".into(), super::apply::State::Fail);
        } else {
            seen.verdicts.insert("management-open".into(), super::apply::State::Pass);
        }
        seen
    }
}

#[test]
fn what_a_repair_brings_to_light_is_repaired_in_a_run_of_its_own_and_taken_back_with_it() {
    let fake = Fake::new();
    let before = fake.machine.borrow().clone();
    let outcome = with_auditor(&fake, &SeenWhenUp(&fake), |engine| engine.fix(&all()));
    assert_eq!((&outcome.exit, outcome.changed), (&ExitKind::Report, true), "{outcome:?}");
    assert_eq!(state_of(&outcome, "management-open"), Some(FixState::Applied), "{outcome:?}");
    assert!(fake.text(CONF).contains("management.tcp.ip = 127.0.0.1"));
    assert_eq!(with_engine(&fake, |engine| engine.list()).unwrap_or_default().len(), 2);
    let again = with_auditor(&fake, &SeenWhenUp(&fake), |engine| engine.fix(&all()));
    assert!(!again.changed, "{again:?}");
    let undone = undo(&fake);
    assert_eq!(undone.exit, ExitKind::Report, "{undone:?}");
    assert_eq!(*fake.machine.borrow(), before);
    assert!(matches!(undo(&fake).exit, ExitKind::Refused(why) if why.contains("no run")));
}

#[test]
fn undo_refuses_what_a_third_hand_changed() {
    let fake = Fake::new();
    fix(&fake);
    fake.machine.borrow_mut().files.insert(CONF.into(), state("# someone else\n", 0o640));
    let changed = fake.machine.borrow().clone();
    assert!(matches!(undo(&fake).exit, ExitKind::Refused(why) if why.contains(CONF)));
    assert_eq!(*fake.machine.borrow(), changed);
}

#[test]
fn a_broker_that_does_not_come_up_gets_its_old_files_back() {
    let fake = Fake::new();
    fake.broken.set(true);
    let before = fake.machine.borrow().clone();
    let outcome = fix(&fake);
    assert_eq!(outcome.exit, ExitKind::RolledBack, "{outcome:?}");
    assert_eq!(state_of(&outcome, "conf-unknown-key"), Some(FixState::RolledBack));
    assert_eq!(*fake.machine.borrow(), before);
}

#[test]
fn a_rule_that_passed_and_fails_now_rolls_everything_back() {
    let fake = Fake::new();
    fake.open_is_bad.set(true);
    let before = fake.machine.borrow().clone();
    let outcome = fix(&fake);
    assert_eq!(outcome.exit, ExitKind::RolledBack, "{outcome:?}");
    assert!(outcome.fixes.iter().any(|fix| fix.why.contains("nobody-but-guest")));
    assert_eq!(*fake.machine.borrow(), before);
}

#[test]
fn a_running_broker_whose_old_files_do_not_boot_keeps_running_after_a_rollback() {
    let fake = Fake::new();
    fake.machine.borrow_mut().running = true;
    fake.open_is_bad.set(true);
    let before = fake.machine.borrow().clone();
    assert_eq!(fix(&fake).exit, ExitKind::RolledBack);
    assert_eq!(*fake.machine.borrow(), before);
}

#[test]
fn a_signal_at_any_point_rolls_back() {
    let steps = mutations(fix);
    for at in 0..steps {
        let fake = Fake::new();
        let before = fake.machine.borrow().clone();
        fake.signal_at.set(Some(at));
        let outcome = fix(&fake);
        match outcome.exit {
            ExitKind::Interrupted(15) => assert_eq!(*fake.machine.borrow(), before, "signal at {at}"),
            // Too late: everything was done and only the note of it was left.
            ExitKind::Report => assert!(fake.machine.borrow().users.contains("app"), "signal at {at}"),
            other => panic!("signal at {at}: {other:?}"),
        }
    }
}

#[test]
fn a_full_disk_at_any_point_leaves_the_host_old_or_new() {
    let done = finished();
    for at in 0..mutations(fix) {
        let fake = Fake::new();
        let before = fake.machine.borrow().clone();
        fake.full_from.set(Some(at));
        let outcome = fix(&fake);
        let machine = fake.machine.borrow().clone();
        match outcome.exit {
            ExitKind::RolledBack => assert_eq!(machine, before, "full from {at}"),
            ExitKind::Report => assert_eq!(machine, done, "full from {at}"),
            // Old contents are longer than new ones here and there: the tool says so, and recovers once there is space.
            ExitKind::Stuck(left) => {
                assert!(!left.is_empty());
                fake.full_from.set(None);
                with_engine(&fake, |engine| engine.recover());
                assert_eq!(*fake.machine.borrow(), before, "full from {at}");
            }
            other => panic!("full from {at}: {other:?}"),
        }
    }
}

/// How many points there are to die at.
fn mutations(work: fn(&Fake) -> Outcome) -> usize {
    let fake = Fake::new();
    work(&fake);
    fake.clock.get()
}

fn finished() -> super::fake::Machine {
    let fake = Fake::new();
    fix(&fake);
    fake.machine.into_inner()
}

/// Runs until the machine is killed; `true` if it was.
fn killed(fake: &Fake, at: usize, work: impl FnOnce(&Fake)) -> bool {
    fake.die_at.set(Some(fake.clock.get() + at));
    let died = match catch_unwind(AssertUnwindSafe(|| work(fake))) {
        Ok(()) => false,
        Err(panic) if panic.is::<Killed>() => true,
        Err(panic) => std::panic::resume_unwind(panic),
    };
    fake.die_at.set(None);
    died
}

/// Kills `work` at every point, and the recovery from each of them at every point; `fine` sees the host afterwards.
fn crash_everywhere(prepare: impl Fn() -> Fake, work: impl Fn(&Fake), fine: impl Fn(&Fake, &str)) -> (usize, usize) {
    let recover = |fake: &Fake| {
        let outcome = with_engine(fake, |engine| engine.recover());
        assert_eq!(outcome.exit, ExitKind::Report, "{outcome:?}");
    };
    let (mut first, mut second) = (0, 0);
    for at in 1.. {
        let fake = prepare();
        if !killed(&fake, at, &work) {
            break;
        }
        first += 1;
        recover(&fake);
        fine(&fake, &format!("killed at {at}"));
        // Every other point is enough here: neighbours are the two sides of one mutation.
        for again in (1 + at % 2..).step_by(2) {
            let fake = prepare();
            assert!(killed(&fake, at, &work));
            if !killed(&fake, again, recover) {
                break;
            }
            second += 1;
            recover(&fake);
            fine(&fake, &format!("killed at {at}, recovery killed at {again}"));
        }
    }
    (first, second)
}

#[test]
fn killed_anywhere_and_again_in_the_recovery_the_host_is_old_or_new() {
    let (old, new) = (Fake::new().machine.into_inner(), finished());
    let fine = |fake: &Fake, when: &str| {
        let machine = fake.machine.borrow();
        let journal = with_engine(fake, |engine| engine.list()).unwrap();
        match journal.last().map(|run| &run.state) {
            Some(RunState::Committed) => assert_eq!(*machine, new, "{when}"),
            None | Some(RunState::RolledBack) => assert_eq!(*machine, old, "{when}"),
            other => panic!("{when}: {other:?}"),
        }
    };
    let (first, second) = crash_everywhere(Fake::new, |fake| drop(fix(fake)), fine);
    assert!(first > 30 && second > 300, "{first} crashes, {second} crashes of the recovery");
}

#[test]
fn an_undo_killed_anywhere_is_finished_by_the_recovery() {
    let (old, new) = (Fake::new().machine.into_inner(), finished());
    let prepare = || {
        let fake = Fake::new();
        fix(&fake);
        fake
    };
    let fine = |fake: &Fake, when: &str| {
        let journal = with_engine(fake, |engine| engine.list()).unwrap();
        let want = if journal[0].state == RunState::Committed { &new } else { &old };
        assert_eq!(*fake.machine.borrow(), *want, "{when}");
    };
    crash_everywhere(prepare, |fake| drop(undo(fake)), fine);
}

#[test]
fn a_user_that_somebody_made_meanwhile_is_not_deleted() {
    let fake = Fake::new();
    {
        let mut machine = fake.machine.borrow_mut();
        machine.running = true;
        machine.files.insert(CONF.into(), state("heartbeat = 30\n", 0o640));
        machine.files.insert(COOKIE.into(), state("SECRETCOOKIE", 0o400));
    }
    let seen = fake.audit();
    fake.machine.borrow_mut().users.insert("app".into());
    // Planned before the user was there, carried out after.
    struct Old<'a>(super::apply::Snapshot, &'a Fake);
    impl Auditor for Old<'_> {
        fn audit(&self) -> super::apply::Snapshot {
            self.0.clone()
        }
    }
    let (intent, old) = (intent(), Old(seen, &fake));
    let engine = Engine {
        world: old.1,
        auditor: &old,
        ui: &fake,
        intent: &intent,
        runs: RUNS.into(),
        start_limit: Duration::from_secs(5),
        settle: Duration::ZERO,
        check_conf: None,
    };
    assert_eq!(engine.fix(&all()).exit, ExitKind::RolledBack);
    assert!(fake.machine.borrow().users.contains("app"));
    assert!(!fake.machine.borrow().files.contains_key(Path::new(GENERATED)));
}

/// A broker in a loop of failing starts, looked at while a round of it ends.
struct Looping<'a>(&'a Fake, std::cell::Cell<u8>);

impl Auditor for Looping<'_> {
    fn audit(&self) -> super::apply::Snapshot {
        let mut seen = self.0.audit();
        if let (Some(left), Fact::Known(Some(unit))) = (self.1.get().checked_sub(1), &mut seen.facts.unit) {
            self.1.set(left);
            unit.active = if left == 0 { "inactive" } else { "deactivating" }.into();
        }
        seen
    }
}

#[test]
fn a_broker_between_two_failing_starts_is_not_taken_for_one_that_was_stopped() {
    let fake = Fake::new();
    let looping = Looping(&fake, std::cell::Cell::new(3));
    let outcome = with_auditor(&fake, &looping, |engine| engine.fix(&all()));
    assert_eq!(outcome.exit, ExitKind::Report);
    let said = fake.said.borrow();
    assert!(said.iter().any(|e| matches!(e, Event::Done { what } if what.starts_with("systemctl restart"))), "{said:?}");
}

#[test]
fn two_runs_at_once_are_refused() {
    let fake = Fake::new();
    let _lock = fake.lock().unwrap();
    assert!(matches!(fix(&fake).exit, ExitKind::Refused(_)));
    assert!(matches!(fake.lock(), Err(Trouble::Locked { .. })));
}

#[test]
fn a_configuration_that_would_not_boot_never_reaches_a_running_broker() {
    let fake = Fake::new();
    fake.machine.borrow_mut().running = true;
    let before = fake.machine.borrow().clone();
    let bad = || Err("line 2: bad".to_string());
    assert_eq!(fix_checked(&fake, bad()).exit, ExitKind::RolledBack);
    assert_eq!(*fake.machine.borrow(), before);
    // One that is down anyway gets its files, but is not started.
    let fake = Fake::new();
    assert_eq!(fix_checked(&fake, bad()).exit, ExitKind::Report);
    assert!(!fake.machine.borrow().running && fake.text(CONF).contains("heartbeat = 30"));
}

/// A run whose own check of the new configuration gives this verdict.
fn fix_checked(fake: &Fake, verdict: Result<(), String>) -> Outcome {
    let check = move |files: &std::collections::BTreeMap<PathBuf, Option<Vec<u8>>>| {
        assert!(files.contains_key(Path::new(CONF)));
        let files = ConfigFiles { files: vec![CONF.into()], advanced: None };
        crate::facts::Forecast { verdict: verdict.clone(), files }
    };
    let intent = intent();
    let engine = Engine {
        world: fake,
        auditor: fake,
        ui: fake,
        intent: &intent,
        runs: RUNS.into(),
        start_limit: Duration::from_secs(5),
        settle: Duration::ZERO,
        check_conf: Some(&check),
    };
    engine.fix(&all())
}

#[test]
fn a_running_broker_has_a_say_in_what_is_written() {
    let running = || {
        let fake = Fake::new();
        fake.machine.borrow_mut().running = true;
        fake
    };
    let why = |outcome: &Outcome| outcome.fixes.iter().map(|fix| fix.why.clone()).collect::<Vec<_>>().join("\n");

    let fake = running();
    fake.abhors.set(Some("heartbeat = 30"));
    let before = fake.machine.borrow().clone();
    let refused = fix_checked(&fake, Ok(()));
    assert_eq!(refused.exit, ExitKind::RolledBack);
    assert!(why(&refused).contains("refuses it (failed_to_prepare_configuration") && why(&refused).contains("nothing wrong"));
    assert_eq!(*fake.machine.borrow(), before, "the candidate is gone too");

    let fake = running();
    let other = fix_checked(&fake, Err("line 2: bad".into()));
    assert!(why(&other).contains("line 2: bad") && why(&other).contains("its own check of the files alone passes"));

    let fake = running();
    assert_eq!(fix_checked(&fake, Ok(())).exit, ExitKind::Report);
    assert!(fake.text(CONF).contains("heartbeat = 30"));
    assert!(fake.machine.borrow().files.keys().all(|path| !path.display().to_string().contains("rabbitmq.conf.rmq-audit-")));
}

#[test]
fn tiers_and_choices_decide_what_is_applied() {
    let fake = Fake::new();
    let findings = fake.audit().findings;
    let safe = show(&findings, &fake, &Selection::up_to(Tier::Safe));
    assert!(safe.steps.iter().all(|step| step.tier == Tier::Safe));
    assert!(safe.left.iter().any(|left| left.rule == "conf-unknown-key" && left.why.contains("--yes=restart")));
    let offered = show(&findings, &fake, &Selection::offered());
    assert!(offered.deferred.iter().any(|deferred| deferred.text.contains("user app is created if it is missing")));
    let id = offered.steps.iter().find(|step| step.rule == "listener-loopback-only").unwrap().id.clone();
    let chosen = show(&findings, &fake, &Selection { max: Tier::Ask, chosen: Some([id].into()) });
    assert_eq!(chosen.steps.len(), 1);
    let files: Vec<String> = chosen.changes.values().flatten().map(|change| change.diff()).collect();
    assert!(files[0].contains("-listeners.tcp.1 = 127.0.0.1:5672\n+listeners.tcp.1 = 0.0.0.0:5672"), "{files:?}");
    assert!(!files[0].contains("+heartbeat"));
}

#[test]
fn two_findings_that_want_different_values_are_both_refused() {
    let fake = Fake::new();
    let set = |rule: &str, value: &str| finding(rule, "set-conf", json!({"key": "a.b", "value": value}), Tier::Restart);
    let clash = show(&[set("one", "1"), set("two", "2")], &fake, &all());
    assert!(clash.is_empty());
    assert!(clash.left[0].why.contains("two") && clash.left[1].why.contains("one"), "{:?}", clash.left);
    let same = show(&[set("one", "1"), set("two", "1")], &fake, &all());
    assert_eq!((same.steps.len(), same.left[0].why.as_str()), (1, "another step does it too"));
}

#[test]
fn a_rule_with_wrong_parameters_is_left_with_the_reason() {
    let fake = Fake::new();
    let plan = show(&[finding("r", "file-mode", json!({"pth": "/x"}), Tier::Safe)], &fake, &all());
    assert!(plan.left[0].why.contains("unknown field"), "{:?}", plan.left);
}

#[test]
fn a_port_is_not_opened_for_nobody_in_particular() {
    let fake = Fake::new();
    let mut seen = fake.audit();
    let unknown = || Fact::Unknown("not looked at".to_string());
    seen.facts.clients.push(Client {
        name: "remote".into(),
        from: "any".into(),
        example: None,
        assumed: true,
        listed: false,
        remote: true,
        service: "amqp".into(),
        plugin: None,
        port: Fact::Known(5672),
        to: Fact::Unknown("not looked at".into()),
        interface: Fact::Unknown("not looked at".into()),
        firewall: Fact::Unknown("not looked at".into()),
        firewall_after_boot: Fact::Known(None),
        firewall_v6: Fact::Known(None),
        refusal: Fact::Known(None),
        listener: unknown(),
        tls: Fact::Known(None),
        user: None,
        vhost: "/".into(),
        user_exists: Fact::Known(None),
        user_loopback_only: Fact::Known(None),
        vhost_exists: Fact::Known(true),
        has_permission: Fact::Known(None),
        account: Account {
            has_password: Fact::Known(None),
            near: Fact::Known(None),
            may_manage: Fact::Known(None),
            gaps: Fact::Known(Vec::new()),
            limit: Fact::Known(None),
        },
        has_password: false,
        connected: Fact::Known(0),
        login: Fact::Known(None),
        login_text: String::new(),
    });
    let random = |buffer: &mut [u8]| fake.random(buffer);
    let intent = intent();
    let ask = |seen: &super::apply::Snapshot| {
        let found = [finding("firewall-blocks", "open-port", json!({"client": "remote"}), Tier::Ask)];
        plan(&found, &Context { facts: &seen.facts, intent: &intent, look: &fake, random: &random }, &all()).left.remove(0)
    };
    assert_eq!(ask(&seen).needs, ["--from CIDR"]);
    // Said for whom, but nobody knows what the packet filter does: not opened either.
    seen.facts.clients[0].assumed = false;
    assert!(ask(&seen).why.contains("is not known"), "{:?}", ask(&seen));
}

#[test]
fn what_is_not_the_brokers_is_never_given_away_or_edited() {
    let fake = Fake::new();
    let shadow = Path::new("/etc/shadow");
    fake.machine.borrow_mut().files.insert(
        shadow.into(),
        super::world::FileState { content: b"root:x\n".to_vec(), meta: super::world::FileMeta { mode: 0o640, uid: 0, gid: 42 } },
    );
    for (action, with) in [
        ("file-owner", json!({"path": "/etc/shadow"})),
        ("file-owner", json!({"path": "/etc/rabbitmq/../shadow"})),
        ("file-mode", json!({"path": "/etc/shadow", "mode": "0644"})),
        ("set-conf", json!({"key": "heartbeat", "value": "5", "file": "/etc/shadow"})),
    ] {
        let plan = show(&[finding("conf-unreadable", action, with, Tier::Safe)], &fake, &all());
        assert!(plan.is_empty() && plan.left.len() == 1, "{plan:?}");
    }
}

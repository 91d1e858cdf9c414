//! Findings become a plan: steps that compose into one change per file and one restart, in three phases.

use super::action::{Action, Desk, PHASES, Phase, Proposal, Refusal, Trial, UnitNeed, find};
use super::change::{Change, Op, Was};
use super::world::{Look, Trouble};
use crate::facts::{Fact, Facts};
use crate::findings::{Finding, FixOffer};
use crate::policy::Intent;
use crate::rules::Tier;
use crate::rules::{FixRequest, Severity};
use std::collections::{BTreeMap, BTreeSet};

/// Rules whose failure makes a reachable port a danger: the packet filter is not opened while one of them fails.
pub const UNSAFE_LOGIN: [&str; 2] = ["guest-open-remotely", "anonymous-login-remote"];

/// Why a finding is left for which no repair is asked.
pub const NO_REPAIR: &str = "there is no automatic repair";

/// What planning works from.
pub struct Context<'a> {
    pub facts: &'a Facts,
    pub intent: &'a Intent,
    pub look: &'a dyn Look,
    /// Fills a buffer with random bytes (generated passwords).
    pub random: &'a dyn Fn(&mut [u8]) -> Result<(), Trouble>,
}

/// Which steps are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection {
    /// The highest tier that may be applied.
    pub max: Tier,
    /// Ids of the steps that were chosen ([`Step::id`]); `None`: all that the tier allows.
    pub chosen: Option<BTreeSet<String>>,
}

impl Selection {
    /// Everything that could be applied: what the plan shows before anybody chose.
    pub fn offered() -> Self {
        Selection { max: Tier::Ask, chosen: None }
    }
    /// `--yes[=safe|restart]`
    pub fn up_to(max: Tier) -> Self {
        Selection { max, chosen: None }
    }

    fn takes(&self, step: &Step, deferred: &BTreeSet<String>) -> Result<(), String> {
        if step.tier > self.max {
            return Err(match step.tier {
                Tier::Restart if step.unit == UnitNeed::None => "adds access: needs --yes=restart".into(),
                Tier::Restart => "interrupts clients: needs --yes=restart".into(),
                Tier::Ask => "needs a decision: run --fix on a terminal".into(),
                _ => "not applied by the tool".into(),
            });
        }
        match &self.chosen {
            Some(chosen) if !chosen.contains(&step.id) && !deferred.contains(&step.action) => Err("skipped".into()),
            _ => Ok(()),
        }
    }
}

/// One repair.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// Names the step over several looks at the host: rule, action and parameters.
    pub id: String,
    pub rule: String,
    pub severity: Severity,
    pub action: String,
    pub tier: Tier,
    pub phase: Phase,
    pub title: String,
    pub summary: String,
    pub note: Option<String>,
    /// What this step alone changes, on top of the steps before it.
    pub changes: Vec<Change>,
    pub unit: UnitNeed,
    pub effects: Vec<String>,
    pub trials: Vec<Trial>,
}

/// A finding that is not repaired, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Left {
    pub rule: String,
    pub why: String,
    /// What would have to be said, e.g. `--from CIDR`.
    pub needs: Vec<String>,
}

/// Something that can only be planned once the broker runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deferred {
    /// The action that it will be.
    pub action: String,
    pub text: String,
}

/// What would be done.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Plan {
    /// In the order in which they are carried out.
    pub steps: Vec<Step>,
    pub left: Vec<Left>,
    pub deferred: Vec<Deferred>,
    /// The changes of all steps, composed: one per file, one restart.
    pub changes: BTreeMap<Phase, Vec<Change>>,
}

impl Plan {
    /// Whether anything would change.
    pub fn is_empty(&self) -> bool {
        self.changes.values().all(Vec::is_empty)
    }

    /// The composed changes of one phase.
    pub fn phase(&self, phase: Phase) -> &[Change] {
        self.changes.get(&phase).map(Vec::as_slice).unwrap_or_default()
    }
}

/// Plans the repair of what was found.
pub fn plan(findings: &[Finding], context: &Context, selection: &Selection) -> Plan {
    plan_after(findings, context, selection, &BTreeSet::new())
}

/// As [`plan`], in the middle of a run: `deferred` names the actions that were announced before and are agreed to.
pub fn plan_after(findings: &[Finding], context: &Context, selection: &Selection, deferred: &BTreeSet<String>) -> Plan {
    let mut plan = Plan { deferred: postponed(context), ..Plan::default() };
    let wanted = candidates(findings, &mut plan.left);
    let clashes = clashes(&wanted, context);
    let desk = Desk::new(context.facts, context.intent, context.look, context.random);
    let mut runs: BTreeMap<Phase, Vec<Change>> = BTreeMap::new();
    for wish in &wanted {
        let left = |why: String, needs: Vec<String>| Left { rule: wish.finding.rule.clone(), why, needs };
        if let Some(why) = clashes.get(&wish.place) {
            plan.left.push(left(why.clone(), Vec::new()));
            continue;
        }
        let before = desk.snapshot();
        let outcome = (wish.action.plan)(&wish.request.with, &desk).map(|proposal| step(wish, proposal));
        let refused = match outcome {
            Ok(step) => match fits(wish, &step, &plan, context, findings).and_then(|()| selection.takes(&step, deferred)) {
                Ok(()) => {
                    let asked = step.changes.iter().filter(|change| matches!(change, Change::Run { .. } | Change::Meta { .. }));
                    let phase = runs.entry(step.phase).or_default();
                    for change in asked {
                        if !phase.contains(change) {
                            phase.push(change.clone());
                        }
                    }
                    plan.steps.push(step);
                    continue;
                }
                Err(why) => left(why, Vec::new()),
            },
            Err(Refusal::Needs(needs)) => left(format!("needs {}", needs.join(" and ")), needs),
            Err(Refusal::Already) if plan.steps.is_empty() => left("already as wanted".into(), Vec::new()),
            Err(Refusal::Already) => left("another step does it too".into(), Vec::new()),
            Err(Refusal::Cannot(why)) => left(why, Vec::new()),
        };
        desk.restore(before);
        plan.left.push(refused);
    }
    compose(&mut plan, &desk, runs, context.facts);
    plan
}

/// Repairs as the report shows them, one per finding that asks for one.
pub fn attach_offers(findings: &mut [Finding], context: &Context) {
    for finding in findings {
        let Some(request) = finding.request.clone() else { continue };
        let Some((_, action)) = find(&request.action) else { continue };
        let desk = Desk::new(context.facts, context.intent, context.look, context.random);
        let offer = |tier, needs| FixOffer {
            action: request.action.clone(),
            tier,
            effects: Vec::new(),
            summary: request.note.clone().unwrap_or_default(),
            diff: String::new(),
            commands: Vec::new(),
            needs,
        };
        finding.fix = match (action.plan)(&request.with, &desk) {
            Ok(proposal) => {
                let restart = unit_change(proposal.unit, context.facts);
                let commands = proposal.changes.iter().chain(&restart).flat_map(Change::commands).collect();
                Some(FixOffer {
                    tier: tier(request.tier, &proposal),
                    effects: proposal.effects.iter().map(|effect| (*effect).to_string()).collect(),
                    summary: proposal.summary.clone(),
                    diff: proposal.changes.iter().map(Change::diff).collect(),
                    commands,
                    ..offer(request.tier, Vec::new())
                })
            }
            Err(Refusal::Needs(needs)) => Some(offer(Tier::Ask, needs)),
            Err(Refusal::Already | Refusal::Cannot(_)) => None,
        };
    }
}

/// A finding with the action that would repair it.
struct Wish<'a> {
    finding: &'a Finding,
    request: &'a FixRequest,
    action: &'static Action,
    phase: Phase,
    /// Number among the findings.
    place: usize,
}

/// The findings that a repair is tried for, in the order of the work; says of the others why not.
fn candidates<'a>(findings: &'a [Finding], left: &mut Vec<Left>) -> Vec<Wish<'a>> {
    let repaired: BTreeSet<&str> = findings.iter().filter(|f| repairable(f)).map(|f| f.rule.as_str()).collect();
    let mut wishes = Vec::new();
    for (place, finding) in findings.iter().enumerate() {
        if finding.waiver.is_some() {
            continue;
        }
        let mut leave = |why: String| left.push(Left { rule: finding.rule.clone(), why, needs: Vec::new() });
        // Advice for a consequence would only distract from its cause. A unit that has to be started is started once, whatever
        // else is repaired before.
        let cause = finding.caused_by.iter().find(|cause| repaired.contains(cause.as_str()));
        let starts = finding.request.as_ref().is_some_and(|request| request.action == "start-service");
        if let (Some(cause), false) = (cause, starts) {
            leave(format!("goes away with {cause}"));
            continue;
        }
        let Some(request) = &finding.request else {
            leave(NO_REPAIR.into());
            continue;
        };
        if request.tier == Tier::Manual {
            leave(request.note.clone().unwrap_or_else(|| "to be done by hand".into()));
            continue;
        }
        let Some((order, action)) = find(&request.action) else {
            leave(format!("no such action: {}", request.action));
            continue;
        };
        wishes.push((order, Wish { finding, request, action, phase: action.phase, place }));
    }
    wishes.sort_by_key(|(order, wish)| (wish.phase, *order, wish.place));
    wishes.into_iter().map(|(_, wish)| wish).collect()
}

/// Whether a repair of this finding itself may be planned.
fn repairable(finding: &Finding) -> bool {
    let asked = finding.request.as_ref().is_some_and(|request| request.tier != Tier::Manual && find(&request.action).is_some());
    asked && finding.waiver.is_none() && finding.root_cause
}

/// Steps that decide one thing differently: both are refused, each with the other's name.
fn clashes(wishes: &[Wish], context: &Context) -> BTreeMap<usize, String> {
    let mut decided: BTreeMap<String, Vec<(usize, &str, String)>> = BTreeMap::new();
    for wish in wishes {
        let desk = Desk::new(context.facts, context.intent, context.look, context.random);
        let Ok(proposal) = (wish.action.plan)(&wish.request.with, &desk) else { continue };
        for (what, how) in proposal.claims {
            decided.entry(what).or_default().push((wish.place, &wish.finding.rule, how));
        }
    }
    let mut clashes = BTreeMap::new();
    for (what, claims) in decided {
        for (place, rule, how) in &claims {
            if let Some((_, other, _)) = claims.iter().find(|(_, _, theirs)| theirs != how) {
                let who = if other == rule { "another finding of the same rule" } else { other };
                clashes.insert(*place, format!("{who} wants something else for the same {what}"));
            }
        }
    }
    clashes
}

fn step(wish: &Wish, proposal: Proposal) -> Step {
    let with = serde_json::to_string(&wish.request.with).unwrap_or_default();
    Step {
        id: format!("{} {} {with}", wish.finding.rule, wish.request.action),
        rule: wish.finding.rule.clone(),
        severity: wish.finding.severity,
        action: wish.request.action.clone(),
        tier: tier(wish.request.tier, &proposal),
        phase: wish.phase,
        title: wish.finding.title.clone(),
        note: wish.request.note.clone(),
        unit: proposal.unit,
        effects: proposal.effects.iter().map(|effect| (*effect).to_string()).collect(),
        summary: proposal.summary,
        changes: proposal.changes,
        trials: proposal.trials,
    }
}

/// The tier of a step once it is known what it does: `ask` ends where the intent gave the answer, and nothing that restarts
/// the broker or adds access is `safe`, whatever the rule says.
fn tier(asked: Tier, proposal: &Proposal) -> Tier {
    let access = proposal.effects.iter().any(|effect| matches!(*effect, "adds-access" | "opens-firewall"));
    let least = if proposal.unit == UnitNeed::Restart || access { Tier::Restart } else { Tier::Safe };
    match asked {
        Tier::Ask if proposal.decided => least,
        other => other.max(least),
    }
}

/// Whether a step may stand in this plan.
fn fits(wish: &Wish, step: &Step, plan: &Plan, context: &Context, findings: &[Finding]) -> Result<(), String> {
    let planned = |rule: &str| plan.steps.iter().any(|step| step.rule == rule);
    let failing = |rule: &str| findings.iter().any(|finding| finding.rule == rule && finding.waiver.is_none());
    if let Some(cause) = wish.finding.caused_by.iter().find(|cause| failing(cause) && !planned(cause)) {
        return Err(format!("{cause} has to be repaired first"));
    }
    if step.unit != UnitNeed::None && !context.facts.os.offline {
        match &context.facts.unit {
            Fact::Known(Some(_)) => {}
            Fact::Known(None) => return Err("RabbitMQ has no systemd unit here: it cannot be restarted".into()),
            Fact::Unknown(why) => return Err(format!("the unit's state is not known: {why}")),
        }
    }
    if step.phase == Phase::Firewall {
        let starts = plan.steps.iter().any(|step| step.unit != UnitNeed::None);
        if !starts && !matches!(context.facts.node, Fact::Known(Some(_))) {
            return Err("not opened while RabbitMQ does not run".into());
        }
        let danger = findings.iter().find(|f| f.waiver.is_none() && UNSAFE_LOGIN.contains(&f.rule.as_str()));
        if let Some(danger) = danger.filter(|danger| !planned(&danger.rule)) {
            return Err(format!("not opened while {} fails", danger.rule));
        }
    }
    Ok(())
}

/// One change per file and one start of the unit.
fn compose(plan: &mut Plan, desk: &Desk, mut runs: BTreeMap<Phase, Vec<Change>>, facts: &Facts) {
    let mut files = desk.whole_files();
    for phase in PHASES {
        let mut changes: Vec<Change> = Vec::new();
        // A file belongs to the first phase in which a step writes it.
        let written = |change: &Change| {
            let path = super::change::paths(std::slice::from_ref(change)).first().map(|path| path.to_path_buf());
            plan.steps
                .iter()
                .filter(|step| step.phase == phase)
                .any(|step| super::change::paths(&step.changes).iter().any(|other| Some(*other) == path.as_deref()))
        };
        let (mine, rest): (Vec<Change>, Vec<Change>) = files.into_iter().partition(written);
        files = rest;
        changes.extend(mine);
        changes.extend(runs.remove(&phase).unwrap_or_default());
        if phase == Phase::Host {
            let need = plan.steps.iter().map(|step| step.unit).max().unwrap_or_default();
            changes.extend(unit_change(need, facts));
        }
        if !changes.is_empty() {
            plan.changes.insert(phase, changes);
        }
    }
}

/// The one restart or start; a unit that was stopped on purpose is not started for a change of its configuration.
fn unit_change(need: UnitNeed, facts: &Facts) -> Option<Change> {
    let unit = facts.unit.known()?.as_ref()?;
    let was = match Was::of(&unit.active) {
        Was::Running if facts.conf.boots == Fact::Known(false) => Was::Stale,
        was => was,
    };
    let name = unit.name.clone();
    let doing = match need {
        UnitNeed::None => return None,
        UnitNeed::Restart if was == Was::Stopped && unit.active != "failed" => return None,
        UnitNeed::Restart => Op::Restart { unit: name.clone() },
        UnitNeed::Start if was == Was::Stopped => Op::Start { unit: name.clone() },
        UnitNeed::Start => Op::Restart { unit: name.clone() },
    };
    Some(Change::Run { doing, undo: Op::Settle { unit: name, was } })
}

/// What is meant for a broker that does not run yet.
fn postponed(context: &Context) -> Vec<Deferred> {
    let up = matches!(&context.facts.node, Fact::Known(Some(node)) if node.booted.known() != Some(&false));
    if up || context.facts.os.offline {
        return Vec::new();
    }
    let mut texts = BTreeSet::new();
    let clients = context.intent.clients.iter().filter(|client| !client.assumed);
    for client in clients {
        if let Some(user) = &client.user {
            texts.insert(("create-user", format!("user {user} is created if it is missing, once RabbitMQ is up")));
            let text = format!("user {user} is let into vhost {} if it is not, once RabbitMQ is up", client.vhost);
            texts.insert(("grant-permission", text));
            if client.vhost != "/" {
                texts.insert(("add-vhost", format!("vhost {} is added if it is missing, once RabbitMQ is up", client.vhost)));
            }
        }
    }
    texts.into_iter().map(|(action, text)| Deferred { action: action.into(), text }).collect()
}

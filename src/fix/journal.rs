//! What a run is about to do and how far it came, on disk before it is done.
//!
//! One directory per run, `/var/lib/rmq-audit/runs/<id>/` (0700): `journal.json`, always replaced as a whole, and the old
//! contents of files beside it, named by their SHA-256. A phase's whole intent is written before its first change, and the
//! number of changes begun before each of them: whatever point the process dies at, undoing the changes begun, each of which
//! can be undone twice, gives the host back.

use super::change::{Change, Doer, Record, Seen, sha256};
use super::world::{Done, Trouble, World};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Where runs are kept.
pub const RUNS: &str = "/var/lib/rmq-audit/runs";

/// How a run stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunState {
    /// Changes are being made; found by a later process: the run was cut off.
    Open,
    Committed,
    /// Being taken back after a failure or a cut-off.
    RollingBack,
    RolledBack,
    /// Could not be taken back as a whole: says what is left.
    Stuck(Vec<String>),
    /// Being taken back on demand.
    Undoing,
    Undone,
}

/// One run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// `20261122T151500Z-7f3a`
    pub id: String,
    /// RFC 3339, UTC.
    pub started: String,
    pub state: RunState,
    /// What it repaired, for `runs`.
    pub steps: Vec<RunStep>,
    /// Its changes, phase by phase, in order.
    pub phases: Vec<Vec<Record>>,
    /// How many changes were begun, counted over all phases.
    pub begun: usize,
    /// Changes that were taken back, by their number over all phases. A broker call cannot be looked at as a file can, and
    /// by the time of a second recovery the broker may be stopped again.
    pub undone: BTreeSet<usize>,
    /// The run that the same command committed before it: both are taken back together.
    #[serde(default)]
    pub follows: Option<String>,
}

/// One step as `runs` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunStep {
    pub rule: String,
    pub summary: String,
}

/// The directory of runs.
pub struct Journal<'a> {
    pub world: &'a dyn World,
    pub dir: PathBuf,
}

impl Journal<'_> {
    /// A new run, the first of its command or one that follows another; nothing is written yet.
    pub fn begin(&self, follows: Option<String>) -> Done<Run> {
        let now = self.world.now();
        let time = jiff::Timestamp::from_second(now).map_err(|e| Trouble::refused("clock", e))?;
        let mut tail = [0u8; 2];
        self.world.random(&mut tail)?;
        let id = format!("{}-{:02x}{:02x}", time.strftime("%Y%m%dT%H%M%SZ"), tail[0], tail[1]);
        Ok(Run {
            id,
            started: time.to_string(),
            state: RunState::Open,
            steps: Vec::new(),
            phases: Vec::new(),
            begun: 0,
            undone: BTreeSet::new(),
            follows,
        })
    }

    /// Writes a phase's whole intent: first what is needed to undo it, then the intent itself.
    pub fn intend(&self, run: &mut Run, steps: Vec<RunStep>, changes: &[Change]) -> Done {
        for change in changes {
            if let Change::File { before: Some(before), .. } = change {
                self.world.write_private(&self.blob(&run.id, &sha256(&before.content)), &before.content)?;
            }
        }
        run.steps.extend(steps);
        run.phases.push(changes.iter().map(Change::record).collect());
        self.write(run)
    }

    /// Notes that one more change is begun.
    pub fn advance(&self, run: &mut Run) -> Done {
        run.begun += 1;
        self.write(run)
    }

    /// Notes that the last change begun was certainly not done.
    pub fn retreat(&self, run: &mut Run) -> Done {
        run.begun = run.begun.saturating_sub(1);
        self.write(run)
    }

    /// Notes a new state.
    pub fn mark(&self, run: &mut Run, state: RunState) -> Done {
        run.state = state;
        self.write(run)
    }

    fn write(&self, run: &Run) -> Done {
        let text = serde_json::to_vec_pretty(run).map_err(|e| Trouble::refused("journal", e))?;
        self.world.write_private(&self.dir.join(&run.id).join("journal.json"), &text)
    }

    fn blob(&self, id: &str, hash: &str) -> PathBuf {
        self.dir.join(id).join(hash)
    }

    /// All runs, oldest first. A directory without a journal belongs to a run that died before it changed anything.
    pub fn runs(&self) -> Done<Vec<Run>> {
        let mut runs = Vec::new();
        for id in self.world.list_private(&self.dir)? {
            if let Some(run) = self.load(&id)? {
                runs.push(run);
            }
        }
        Ok(runs)
    }

    fn load(&self, id: &str) -> Done<Option<Run>> {
        let path = self.dir.join(id).join("journal.json");
        let Some(text) = self.world.read_private(&path)? else { return Ok(None) };
        serde_json::from_slice(&text).map(Some).map_err(|e| Trouble::refused(path.display().to_string(), e))
    }

    /// Undoes every change that was begun, last first, and says what could not be undone.
    pub fn take_back(&self, run: &mut Run, doer: &Doer) -> Vec<String> {
        let id = run.id.clone();
        let content = |hash: &str| -> Done<Vec<u8>> {
            match self.world.read_private(&self.blob(&id, hash))? {
                Some(bytes) if sha256(&bytes) == hash => Ok(bytes),
                _ => Err(Trouble::refused(format!("run {id}"), "a saved file is missing or damaged")),
            }
        };
        let order: Vec<(usize, Record)> = run.backwards().into_iter().map(|(n, record)| (n, record.clone())).collect();
        let mut left = Vec::new();
        for (number, record) in order {
            if run.undone.contains(&number) {
                continue;
            }
            match doer.undo(&record, &content) {
                Ok(()) => {
                    run.undone.insert(number);
                    // On a full disk this is not written, and a later recovery undoes it once more.
                    let _ = self.write(run);
                }
                Err(trouble) => left.push(match &record {
                    Record::Run { undo, .. } => format!("{}: {trouble}", undo.describe()),
                    _ => trouble.to_string(),
                }),
            }
        }
        left
    }

    /// Files and owners that are not as they were before the run.
    pub fn not_restored(&self, run: &Run) -> Vec<String> {
        self.places(run, |seen| seen != Seen::Before)
    }

    /// Files that neither the run nor the state before it explains.
    pub fn third_hands(&self, run: &Run) -> Vec<String> {
        self.places(run, |seen| seen == Seen::Other)
    }

    fn places(&self, run: &Run, wanted: impl Fn(Seen) -> bool) -> Vec<String> {
        let mut places = Vec::new();
        for (_, record) in run.backwards() {
            match record.seen(self.world) {
                Ok(Some(seen)) if wanted(seen) => places.push(record.describe()),
                Ok(_) => {}
                Err(trouble) => places.push(trouble.to_string()),
            }
        }
        places
    }
}

impl Run {
    /// The changes begun with their numbers, in the order in which they are to be undone: phases and changes backwards, but
    /// within a phase what depends on its files (a restart, a reload of plugins) after them.
    fn backwards(&self) -> Vec<(usize, &Record)> {
        let late = |record: &Record| matches!(record, Record::Run { undo, .. } if undo.reads_files());
        let mut order = Vec::new();
        let mut numbers = 0..self.begun;
        for (place, phase) in self.phases.iter().enumerate() {
            let begun = phase.iter().zip(numbers.by_ref().take(phase.len()));
            order.extend(begun.map(|(record, number)| (place, late(record), number, record)));
        }
        order.sort_by_key(|(place, late, number, _)| (std::cmp::Reverse(*place), *late, std::cmp::Reverse(*number)));
        order.into_iter().map(|(_, _, number, record)| (number, record)).collect()
    }

    /// Whether a process was cut off in the middle of it.
    pub fn unfinished(&self) -> bool {
        matches!(self.state, RunState::Open | RunState::RollingBack | RunState::Undoing)
    }

    /// Whether undoing it needs a running broker.
    pub fn needs_broker(&self) -> bool {
        self.phases.iter().flatten().any(|record| matches!(record, Record::Run { undo: super::change::Op::Broker { .. }, .. }))
    }

    /// Files that it writes.
    pub fn files(&self) -> Vec<&Path> {
        self.phases
            .iter()
            .flatten()
            .filter_map(|record| match record {
                Record::File { path, .. } | Record::Meta { path, .. } => Some(path.as_path()),
                Record::Run { .. } => None,
            })
            .collect()
    }
}

//! Runs instructions of nf_tables on registers of which some bits may be unknown.

use super::model::{Family, Hook, Model, Target};
use super::native::{Native, Slot};
use super::verdict::{Flight, Path};

/// What an instruction may look at besides the registers.
pub struct View<'a> {
    pub model: &'a Model,
    pub flight: &'a Flight,
    pub path: &'a Path,
    pub hook: Hook,
    /// Of the table.
    pub family: Family,
    /// Connection state at this place: INVALID where conntrack has not run yet.
    pub state: u128,
}

/// What came of one instruction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ran {
    /// On with the next instruction.
    Next,
    /// `NFT_BREAK`: the rule does not match.
    Break,
    /// On, or break: cannot be known, and why.
    Perhaps(String),
    Go(Target),
    /// One of these targets, or break, or on with the next instruction; and why that cannot be known.
    Choice {
        targets: Vec<Target>,
        breaks: bool,
        goes_on: bool,
        why: String,
    },
    /// The packet changes a set and goes on; or, with `perhaps`, may end the rule (the set is changed in either case).
    Changed {
        set: String,
        perhaps: Option<String>,
    },
    /// The packet's (or connection's) mark becomes this; `None`: something that cannot be foretold.
    Mark {
        connection: bool,
        value: Option<u32>,
    },
    Notrack,
}

/// The register file of one rule's evaluation.
#[derive(Debug, Clone, Default)]
pub struct Registers {}

impl Registers {
    /// Executes one instruction.
    pub fn run(&mut self, native: &Native, view: &View) -> Ran {
        let _ = (native, view, 0 as Slot);
        Ran::Perhaps("not implemented".to_owned())
    }
}

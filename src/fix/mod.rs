//! Verdicts become a plan of reversible changes; the plan is applied under a journal (see DESIGN section 5).
//!
//! [`plan`] turns findings into steps, [`change`] is the closed set of things that a step can do, [`journal`] writes the
//! whole intent down before the first of them is done, [`apply`] does them, judges the host again and commits or rolls back.
//! Everything that touches the machine goes through [`world::World`].

pub mod action;
pub mod apply;
pub mod change;
pub mod journal;
pub mod live;
pub mod oracle;
pub mod plan;
pub mod world;

#[cfg(test)]
mod fake;
#[cfg(test)]
mod tests;

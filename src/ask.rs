//! The questions of `--fix` on a terminal. Everything is asked before anything is changed.

use crate::fix::plan::{Plan, Step};
use crate::render::plan::{offer, sum};
use crate::render::term::Term;
use dialoguer::console;
use dialoguer::theme::SimpleTheme;
use dialoguer::{Confirm, Input, Select};
use std::collections::BTreeSet;
use std::io::Write;

/// What a person said about a plan.
pub enum Answer {
    /// Ids of the steps to apply.
    Apply(BTreeSet<String>),
    /// Nothing is to be changed.
    Nothing,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Ctrl-C at a prompt.
    #[error("interrupted; nothing was changed")]
    Interrupted,
    #[error("the terminal went away: {0}")]
    Terminal(dialoguer::Error),
}

impl From<dialoguer::Error> for AskError {
    fn from(error: dialoguer::Error) -> Self {
        // The prompt hides the cursor and does not give it back when it is interrupted.
        let _ = console::Term::stderr().show_cursor();
        match error {
            dialoguer::Error::IO(io) if io.kind() == std::io::ErrorKind::Interrupted => AskError::Interrupted,
            other => AskError::Terminal(other),
        }
    }
}

/// A value that a repair needs; `None`: left open. The question stands on a line of its own: a prompt that is wider than the
/// terminal is repeated on every key.
pub fn value(
    question: &str,
    label: &str,
    suggestion: Option<&str>,
    valid: fn(&str) -> Result<(), String>,
) -> Result<Option<String>, AskError> {
    say(&format!("{question}\n"));
    let theme = SimpleTheme;
    let mut input = Input::<String>::with_theme(&theme).with_prompt(format!("{label} (empty: leave it)")).allow_empty(true);
    if let Some(suggestion) = suggestion {
        input = input.with_initial_text(suggestion);
    }
    let text =
        input.validate_with(move |t: &String| if t.trim().is_empty() { Ok(()) } else { valid(t.trim()) }).interact_text()?;
    let text = text.trim().to_owned();
    Ok(if text.is_empty() { None } else { Some(text) })
}

/// A question with a yes or a no.
pub fn yes(question: &str, default: bool) -> Result<bool, AskError> {
    Ok(Confirm::with_theme(&SimpleTheme).with_prompt(question).default(default).interact()?)
}

/// What stands for "none" where a line has a proposal, which an empty one takes.
const NONE: &str = "-";

/// A line of text, trimmed; `-` is an empty one, and may be given where `valid` takes that. The question stands on a line of its own, as with
/// [`value`].
pub fn line(question: &str, proposal: Option<&str>, valid: fn(&str) -> Result<(), String>) -> Result<String, AskError> {
    fn meant(text: &str) -> &str {
        Some(text.trim()).filter(|text| *text != NONE).unwrap_or_default()
    }
    say(&format!("{question}\n"));
    let theme = SimpleTheme;
    let mut input = Input::<String>::with_theme(&theme).with_prompt(" ").allow_empty(true);
    if let Some(proposal) = proposal.filter(|text| !text.is_empty()) {
        input = input.default(proposal.to_owned());
    }
    let text = input.validate_with(move |text: &String| valid(meant(text))).interact_text()?;
    Ok(meant(&text).to_owned())
}

/// One of several; its number.
pub fn pick(question: &str, items: &[&str]) -> Result<usize, AskError> {
    Ok(Select::with_theme(&SimpleTheme).with_prompt(question).items(items).default(0).interact()?)
}

/// Goes through the steps one by one, then asks once for the whole.
pub fn choose(plan: &Plan, term: &Term, explain: &dyn Fn(&Step) -> String) -> Result<Answer, AskError> {
    let mut chosen = BTreeSet::new();
    let total = plan.steps.len();
    for (i, step) in plan.steps.iter().enumerate() {
        say(&format!("{}\n", offer(step, i + 1, total, term)));
        match one(step, explain)? {
            Choice::Apply => {
                chosen.insert(step.id.clone());
            }
            Choice::Skip => {}
            Choice::Quit => return Ok(Answer::Nothing),
        }
        say("\n");
    }
    Ok(if chosen.is_empty() && plan.deferred.is_empty() { Answer::Nothing } else { Answer::Apply(chosen) })
}

/// The one question before anything is changed.
pub fn do_it(plan: &Plan) -> Result<bool, AskError> {
    let mut text = format!("Plan: {}.\n", sum(plan));
    for deferred in &plan.deferred {
        text.push_str(&format!("      {}\n", deferred.text));
    }
    say(&text);
    Ok(Confirm::with_theme(&SimpleTheme).with_prompt("Do it?").default(false).interact()?)
}

enum Choice {
    Apply,
    Skip,
    Quit,
}

fn one(step: &Step, explain: &dyn Fn(&Step) -> String) -> Result<Choice, AskError> {
    loop {
        let items = ["apply", "skip", "explain", "quit (nothing is changed)"];
        let picked = Select::with_theme(&SimpleTheme).with_prompt("What to do with it").items(items).default(0).interact()?;
        match picked {
            0 => return Ok(Choice::Apply),
            1 => return Ok(Choice::Skip),
            2 => say(&format!("\n{}\n", explain(step))),
            _ => return Ok(Choice::Quit),
        }
    }
}

/// A line of a watch: standard output, at once.
pub fn tell(text: &str) {
    let mut out = std::io::stdout();
    // A reader that went away is no failure.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

/// Questions and what belongs to them go to standard error: standard output is for the report.
pub fn say(text: &str) {
    let mut err = std::io::stderr();
    let _ = err.write_all(text.as_bytes());
    let _ = err.flush();
}

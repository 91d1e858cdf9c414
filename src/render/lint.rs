//! The screen of `lint`: each problem at its place, and whether the broker boots.

use super::excerpt::excerpt;
use super::page::Page;
use super::term::{Term, Tone, clean, wrap};
use super::text::{Detail, place, plural};
use crate::facts::Where;
use crate::lint::{Lint, Problem};
use crate::rules::Severity;

/// Problems that are shown in full; a file in the wrong format has thousands.
const SHOWN: usize = 50;

/// Renders a result; an empty string means that there is nothing to say (`-q` without a problem).
pub fn render(lint: &Lint, term: &Term, detail: Detail) -> String {
    if detail.quiet && lint.problems.is_empty() && !lint.incomplete {
        return String::new();
    }
    let mut page = Page::new(term);
    let shown = if detail.verbose { lint.problems.len() } else { SHOWN };
    for found in lint.problems.iter().take(shown) {
        problem(&mut page, found);
    }
    if let Some(more) = lint.problems.len().checked_sub(shown).filter(|more| *more > 0) {
        page.wrapped(0, &format!("… and {} (-v shows all)", plural(more, "more problem")));
        page.line("");
    }
    if detail.verbose {
        read(&mut page, lint);
        settings(&mut page, lint);
    }
    if lint.boots != Some(false) || detail.verbose {
        unknown(&mut page, lint);
    }
    verdict(&mut page, lint);
    page.text
}

fn problem(page: &mut Page<'_>, problem: &Problem) {
    let (symbol, tone) = match problem.severity {
        Severity::Error => (page.term.fail(), Tone::Bad),
        Severity::Warning => ("!", Tone::Warn),
        Severity::Note => (page.term.dot(), Tone::Dim),
    };
    let at = Where { file: problem.file.clone(), line: problem.line, column: problem.column };
    let said = match problem.suggestion.as_ref().filter(|_| problem.code != "needs-plugin") {
        Some(suggestion) => format!("{}; did you mean {suggestion}?", problem.message),
        None => problem.message.clone(),
    };
    page.line(&format!("{} {}", page.term.paint(tone, symbol), page.term.paint(Tone::Strong, &clean(&place(&at)))));
    match problem.text.lines().next() {
        Some(source) => excerpt(page.term, source, problem.column, &said, tone).iter().for_each(|line| page.line(line)),
        None => page.wrapped(4, &said),
    }
    let end = if problem.fatal { "stops the boot" } else { "does not stop the boot" };
    let foot = format!("    {} {} {end}", problem.code, page.term.dot());
    page.line(&page.term.paint(Tone::Dim, &foot));
    page.line("");
}

fn read(page: &mut Page<'_>, lint: &Lint) {
    for configuration in &lint.configurations {
        let files = if configuration.files.is_empty() { "no file".to_owned() } else { configuration.files.join(", ") };
        page.wrapped(0, &format!("{}: the broker reads {files}", configuration.name));
    }
    page.line("");
}

fn settings(page: &mut Page<'_>, lint: &Lint) {
    for setting in &lint.settings {
        let at = Where { file: setting.file.clone(), line: setting.line, column: None };
        let over = match setting.overrides.as_slice() {
            [] => String::new(),
            hidden => format!(", instead of {}", hidden.join(", ")),
        };
        page.line(&clean(&format!("{} = {}", setting.key, setting.value)));
        let from = format!("    {}{over}", place(&at));
        page.line(&page.term.paint(Tone::Dim, &clean(&from)));
    }
    if !lint.settings.is_empty() {
        page.line("");
    }
}

fn unknown(page: &mut Page<'_>, lint: &Lint) {
    for why in &lint.unknown {
        for (i, line) in wrap(&clean(why), page.term.width - 2).into_iter().enumerate() {
            let mark = if i == 0 { page.term.paint(Tone::Warn, "?") } else { " ".to_owned() };
            page.line(&format!("{mark} {line}"));
        }
    }
    if !lint.unknown.is_empty() {
        page.line("");
    }
}

fn verdict(page: &mut Page<'_>, lint: &Lint) {
    let (tone, symbol) = match lint.boots {
        Some(true) => (Tone::Good, page.term.ok()),
        Some(false) => (Tone::Bad, page.term.fail()),
        None => (Tone::Warn, "?"),
    };
    for (i, line) in wrap(&clean(&sentence(lint)), page.term.width - 2).into_iter().enumerate() {
        let lead = if i == 0 { symbol } else { " " };
        page.line(&page.term.paint(tone, &format!("{lead} {line}")));
    }
}

/// "RabbitMQ 4.0.5 does not boot with these files: 2 errors, 1 warning."
fn sentence(lint: &Lint) -> String {
    let who = format!("RabbitMQ {}", lint.rabbitmq);
    let all = lint.configurations.len();
    let nothing = lint.configurations.iter().all(|c| c.files.is_empty());
    let files = match lint.configurations.as_slice() {
        [one] if one.files.len() == 1 => "this file",
        _ => "these files",
    };
    let failing = lint.configurations.iter().filter(|c| c.boots == Some(false)).count();
    let verdict = match lint.boots {
        Some(true) if nothing => format!("{who} boots: there is no configuration file, its defaults apply"),
        Some(true) if all > 1 => format!("{who} boots with each of these {all} configurations"),
        Some(true) => format!("{who} boots with {files}"),
        Some(false) if all > 1 => format!("{who} does not boot with {failing} of these {all} configurations"),
        Some(false) => format!("{who} does not boot with {files}"),
        None if lint.incomplete => format!("Whether {who} boots could not be checked"),
        None => format!("{who} boots with {files} unless something above stands in its way"),
    };
    let c = &lint.counts;
    let counts = [(c.error, "error"), (c.warning, "warning"), (c.note, "note")];
    let found: Vec<String> = counts.iter().filter(|(n, _)| *n > 0).map(|(n, word)| plural(*n as usize, word)).collect();
    if found.is_empty() { format!("{verdict}.") } else { format!("{verdict}: {}.", found.join(", ")) }
}

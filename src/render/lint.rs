//! The screen of `lint`: each problem at its place, and whether the broker boots.

use super::excerpt::excerpt;
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
    let mut out = Page { term, text: String::new() };
    let shown = if detail.verbose { lint.problems.len() } else { SHOWN };
    for problem in lint.problems.iter().take(shown) {
        out.problem(problem);
    }
    if let Some(more) = lint.problems.len().checked_sub(shown).filter(|more| *more > 0) {
        out.wrapped(0, &format!("… and {} (-v shows all)", plural(more, "more problem")));
        out.line("");
    }
    if detail.verbose {
        out.read(lint);
        out.settings(lint);
    }
    if lint.boots != Some(false) || detail.verbose {
        out.unknown(lint);
    }
    out.verdict(lint);
    out.text
}

struct Page<'a> {
    term: &'a Term,
    text: String,
}

impl Page<'_> {
    fn line(&mut self, text: &str) {
        self.text.push_str(text.trim_end());
        self.text.push('\n');
    }

    fn wrapped(&mut self, indent: usize, text: &str) {
        for line in wrap(&clean(text), self.term.width - indent) {
            self.line(&format!("{:indent$}{line}", ""));
        }
    }

    fn problem(&mut self, problem: &Problem) {
        let (symbol, tone) = match problem.severity {
            Severity::Error => (self.term.fail(), Tone::Bad),
            Severity::Warning => ("!", Tone::Warn),
            Severity::Note => (self.term.dot(), Tone::Dim),
        };
        let at = Where { file: problem.file.clone(), line: problem.line, column: problem.column };
        let said = match problem.suggestion.as_ref().filter(|_| problem.code != "needs-plugin") {
            Some(suggestion) => format!("{}; did you mean {suggestion}?", problem.message),
            None => problem.message.clone(),
        };
        self.line(&format!("{} {}", self.term.paint(tone, symbol), self.term.paint(Tone::Strong, &clean(&place(&at)))));
        match problem.text.lines().next() {
            Some(source) => excerpt(self.term, source, problem.column, &said, tone).iter().for_each(|line| self.line(line)),
            None => self.wrapped(4, &said),
        }
        let end = if problem.fatal { "stops the boot" } else { "does not stop the boot" };
        let foot = format!("    {} {} {end}", problem.code, self.term.dot());
        self.line(&self.term.paint(Tone::Dim, &foot));
        self.line("");
    }

    fn read(&mut self, lint: &Lint) {
        for configuration in &lint.configurations {
            let files = if configuration.files.is_empty() { "no file".to_owned() } else { configuration.files.join(", ") };
            self.wrapped(0, &format!("{}: the broker reads {files}", configuration.name));
        }
        self.line("");
    }

    fn settings(&mut self, lint: &Lint) {
        for setting in &lint.settings {
            let at = Where { file: setting.file.clone(), line: setting.line, column: None };
            let over = match setting.overrides.as_slice() {
                [] => String::new(),
                hidden => format!(", instead of {}", hidden.join(", ")),
            };
            self.line(&clean(&format!("{} = {}", setting.key, setting.value)));
            let from = format!("    {}{over}", place(&at));
            self.line(&self.term.paint(Tone::Dim, &clean(&from)));
        }
        if !lint.settings.is_empty() {
            self.line("");
        }
    }

    fn unknown(&mut self, lint: &Lint) {
        for why in &lint.unknown {
            for (i, line) in wrap(&clean(why), self.term.width - 2).into_iter().enumerate() {
                let mark = if i == 0 { self.term.paint(Tone::Warn, "?") } else { " ".to_owned() };
                self.line(&format!("{mark} {line}"));
            }
        }
        if !lint.unknown.is_empty() {
            self.line("");
        }
    }

    fn verdict(&mut self, lint: &Lint) {
        let (tone, symbol) = match lint.boots {
            Some(true) => (Tone::Good, self.term.ok()),
            Some(false) => (Tone::Bad, self.term.fail()),
            None => (Tone::Warn, "?"),
        };
        for (i, line) in wrap(&clean(&sentence(lint)), self.term.width - 2).into_iter().enumerate() {
            let lead = if i == 0 { symbol } else { " " };
            self.line(&self.term.paint(tone, &format!("{lead} {line}")));
        }
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

//! What came of a pack, for a reader.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::way::Line;

/// Which rule fired on which fault, for the rules' own account of themselves.
const INDEX: &str = "rules/fired.toml";

/// What came of one fault, told as soon as it is done.
pub fn row(line: &Line) -> String {
    let mark = |right: bool| if right { "" } else { "**✗** " };
    let named = if line.healthy {
        format!(
            "{}{}",
            mark(line.errors.is_empty()),
            if line.errors.is_empty() { "no error".into() } else { line.errors.join(", ") }
        )
    } else {
        format!("{}{}", mark(line.cause_right), line.cause)
    };
    let foretold =
        format!("{}{}", mark(line.foretold_right()), if line.foretold_right() { &line.client } else { &line.foretold });
    let fix = match &line.failed {
        Some(why) => format!("**✗** {}", why.lines().next().unwrap_or_default()),
        None if line.healthy => String::new(),
        None => format!("{}{}", mark(!line.fixable || line.connects), line.fix),
    };
    let cells = [&line.id, &line.suite, &line.client, &foretold, &named, &fix, &line.undo, &line.seconds.to_string()];
    let clean = |cell: &&String| cell.chars().take(260).collect::<String>().replace(['\n', '|'], " ");
    format!("| {} |", cells.iter().map(clean).collect::<Vec<_>>().join(" | "))
}

/// The shares, the table, and what is missing at length.
pub fn whole(lines: &[Line]) -> String {
    let mut out = by_suites(lines);
    for line in lines.iter().filter(|line| !line.whole()) {
        let why = line.failed.as_deref().unwrap_or_default();
        out.push_str(&format!(
            "\n{} on {}: foretold {} named {} fix {} undo {} {why}",
            line.id, line.suite, line.foretold, line.cause, line.fix, line.undo
        ));
    }
    out.push('\n');
    out
}

fn all_shares(suites: &BTreeSet<&str>, lines: &[Line]) -> String {
    let head = "\n| suite | runs | cause first | symptom foretold | fixable repaired, client connects | undo exact | errors on healthy hosts |\n|---|---|---|---|---|---|---|\n";
    let rows = suites.iter().map(|suite| shares(suite, lines));
    std::iter::once(head.to_owned()).chain(rows).collect()
}

fn shares(suite: &str, lines: &[Line]) -> String {
    let all: Vec<&Line> = lines.iter().filter(|line| line.suite == suite).collect();
    let faults: Vec<&&Line> = all.iter().filter(|line| !line.healthy).collect();
    let share = |of: usize, all: usize| {
        if all == 0 { "-".into() } else { format!("{of} of {all} ({:.1} %)", 100.0 * of as f64 / all as f64) }
    };
    let fixable: Vec<&&&Line> = faults.iter().filter(|line| line.fixable).collect();
    let changed: Vec<&&&Line> = faults.iter().filter(|line| !line.undo.is_empty()).collect();
    let errors: usize = all.iter().filter(|line| line.healthy).map(|line| line.errors.len()).sum();
    format!(
        "| {suite} | {} | {} | {} | {} | {} | {errors} |\n",
        all.len(),
        share(faults.iter().filter(|line| line.cause_right).count(), faults.len()),
        share(all.iter().filter(|line| line.foretold_right()).count(), all.len()),
        share(fixable.iter().filter(|line| line.connects).count(), fixable.len()),
        share(changed.iter().filter(|line| line.undo == "exact").count(), changed.len()),
    )
}

/// The head of the index.
const HEAD: &str = "# On which faults of real hosts each rule fired, by suite. Written by `tests/lab/faults --index`; a rule that is not here is a preview.\n";

/// Adds to the index on what each rule fired.
pub fn write_index(lines: &[Line]) -> Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(INDEX);
    let mut index = read_index(&fs::read_to_string(&path).unwrap_or_default())?;
    for line in lines {
        for rule in &line.fired {
            index.entry(rule.clone()).or_default().entry(line.id.clone()).or_default().insert(line.suite.clone());
        }
    }
    // A rule that was renamed or taken away fires no more.
    let areas = fs::read_dir(path.parent().context("no folder")?)?.filter_map(|area| Some(area.ok()?.path())).collect::<Vec<_>>();
    index.retain(|rule, _| areas.iter().any(|area| area.join(format!("{rule}.toml")).exists()));
    let entry = |(rule, faults): (&String, &BTreeMap<String, BTreeSet<String>>)| {
        let fault = |(id, suites): (&String, &BTreeSet<String>)| {
            format!("{id} ({})", suites.iter().map(String::as_str).collect::<Vec<_>>().join(" "))
        };
        format!("{rule} = \"{}\"\n", faults.iter().map(fault).collect::<Vec<_>>().join(", "))
    };
    let text: String = index.iter().map(entry).collect();
    fs::write(&path, format!("{HEAD}{text}")).with_context(|| path.display().to_string())
}

/// Rule → fault → suites.
type Index = BTreeMap<String, BTreeMap<String, BTreeSet<String>>>;

fn read_index(text: &str) -> Result<Index> {
    let table: BTreeMap<String, String> = toml_edit::de::from_str(text).context(INDEX)?;
    let fault = |fault: &str| {
        let (id, suites) = fault.trim_end_matches(')').split_once(" (")?;
        Some((id.to_owned(), suites.split(' ').map(str::to_owned).collect()))
    };
    Ok(table.into_iter().map(|(rule, faults)| (rule, faults.split(", ").filter_map(fault).collect())).collect())
}

/// The report that is kept in the repository.
const RESULTS: &str = "tests/lab/RESULTS.md";
const BEGIN: &str = "<!-- written by tests/lab/faults --results -->\n";
const END: &str = "<!-- end -->\n";

/// Puts the shares and a table of faults by suites into the report.
pub fn write_results(lines: &[Line]) -> Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(RESULTS);
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let (head, rest) = text.split_once(BEGIN).context("RESULTS.md has lost its marks")?;
    let (_, tail) = rest.split_once(END).context("RESULTS.md has lost its marks")?;
    fs::write(&path, format!("{head}{BEGIN}{}{END}{tail}", by_suites(lines))).with_context(|| path.display().to_string())
}

fn by_suites(lines: &[Line]) -> String {
    let suites: BTreeSet<&str> = lines.iter().map(|line| line.suite.as_str()).collect();
    let programs: BTreeSet<&str> = lines.iter().filter_map(|line| Some(line.of.split_once('-')?.0)).collect();
    let mut out =
        format!("\nPrograms by SHA-256 (the first 8 bytes): {}.\n", programs.into_iter().collect::<Vec<_>>().join(", "));
    out.push_str(&all_shares(&suites, lines));
    let columns = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
    out.push('\n');
    out.push_str(&columns(std::iter::once("fault").chain(suites.iter().copied()).map(str::to_owned).collect()));
    out.push_str(&columns(vec!["---".into(); suites.len() + 1]));
    for id in lines.iter().map(|line| line.id.as_str()).collect::<BTreeSet<_>>() {
        let of = |suite: &&str| lines.iter().find(|line| line.id == id && line.suite == *suite).map_or_else(String::new, cell);
        out.push_str(&columns(std::iter::once(id.to_owned()).chain(suites.iter().map(of)).collect()));
    }
    out
}

/// What the client got, the cause that was named, what came of the repair; what is missing with a mark.
fn cell(line: &Line) -> String {
    let short = |text: &str| text.lines().next().unwrap_or_default().chars().take(70).collect::<String>().replace('|', " ");
    if line.client.is_empty() {
        return format!("✗ not tried: {}", short(line.failed.as_deref().unwrap_or_default()));
    }
    let client =
        if line.foretold_right() { line.client.clone() } else { format!("{}, ✗ foretold {}", line.client, line.foretold) };
    if line.healthy {
        let errors = if line.errors.is_empty() { "no error".into() } else { format!("✗ {}", line.errors.join(", ")) };
        return format!("{client}; {errors}");
    }
    let cause = format!("{}`{}`", if line.cause_right { "" } else { "✗ " }, line.cause);
    let repair = match (line.connects, line.fixable) {
        (true, _) => "connects",
        (false, true) => "✗ not repaired",
        (false, false) => "advice",
    };
    let rest = match (line.failed.as_deref(), line.undo.as_str()) {
        (Some(why), _) => format!("; ✗ {}", short(why)),
        (None, "" | "exact") => String::new(),
        (None, undo) => format!("; ✗ undo: {}", short(undo)),
    };
    format!("{client}; {cause}; {repair}{rest}")
}

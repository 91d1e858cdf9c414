//! Repairs a file whose mistake has one evident repair: line ends, blanks around `=`, a byte order mark, Erlang terms and JSON that lack a
//! character. What comes of it has to be readable, or nothing is written.
use super::{Desk, Proposal, Refusal, cannot, conf};
use crate::facts::conf::{advanced, schemas};
use crate::fix::world::FileState;
use crate::formats::env_conf::{Document, Shell};
use crate::formats::erlang::{self, Dialect, Reader};
use crate::formats::mend;
use serde::Deserialize;
use std::path::PathBuf;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Params {
    file: PathBuf,
    kind: Kind,
    /// Of the mistake, for `blanks`.
    #[serde(default)]
    line: Option<serde_json::Value>,
}

/// What is wrong.
#[derive(Deserialize, Clone, Copy, PartialEq)]
#[serde(rename_all = "kebab-case")]
enum Kind {
    /// A byte order mark at the beginning.
    Bom,
    /// Carriage returns at line ends of the environment file.
    LineEnds,
    /// Blanks around the `=` of one line of the environment file.
    Blanks,
    /// Erlang terms: advanced.config, rabbitmq.config, enabled_plugins.
    Terms,
    Json,
}

pub fn plan(params: Params, desk: &Desk) -> Result<Proposal, Refusal> {
    let path = params.file;
    desk.own(&path)?;
    let state = desk.file(&path)?.ok_or(Refusal::Already)?;
    let name = path.display().to_string();
    let environment = matches!(params.kind, Kind::LineEnds | Kind::Blanks);
    if environment && name != desk.facts.env.file {
        return Err(cannot(format!("{name} is not the broker's environment file")));
    }
    let text = &state.content;
    let (content, how) = match params.kind {
        Kind::Bom => (text.strip_prefix(mend::BOM).ok_or(Refusal::Already)?.to_vec(), "byte order mark removed".to_owned()),
        Kind::LineEnds => (without_carriage_returns(text), "Unix line ends".to_owned()),
        Kind::Blanks => {
            let line = params.line.as_ref().and_then(|l| l.as_u64().or_else(|| l.as_str()?.parse().ok()));
            let line = line.ok_or_else(|| cannot("the line is not known"))?;
            (without_blanks(text, line).ok_or_else(|| cannot(format!("line {line} is no assignment")))?, format!("blanks around = of line {line} removed"))
        }
        Kind::Terms => mended(mend::erlang(text, &|bytes| reads_terms(desk, &name, bytes)))?,
        Kind::Json => mended(mend::json(text, &reads_json))?,
    };
    if content == *text {
        return Err(Refusal::Already);
    }
    let change = desk.put(&path, FileState { content, ..state }, false)?;
    Ok(conf::proposal(vec![change], format!("{name}: {how}"), vec![(format!("text of {name}"), how)]))
}

fn mended(result: Option<mend::Mended>) -> Result<(Vec<u8>, String), Refusal> {
    let (content, done) = result.ok_or_else(|| cannot("it has no evident repair: to be corrected by hand"))?;
    Ok((content, done.join(", ")))
}

/// Whether the broker's reader of this file takes a text.
fn reads_terms(desk: &Desk, name: &str, bytes: &[u8]) -> bool {
    let install = desk.facts.install.known().and_then(Option::as_ref);
    let otp = install.and_then(|i| i.erlang.known()?.as_ref()?.parse().ok());
    if name == desk.facts.plugins.file {
        let terms = erlang::read(bytes, Dialect { reader: Reader::Sequence, otp });
        let names = |list: &erlang::Term| list.list().is_some_and(|all| all.iter().all(|name| name.atom().is_some()));
        return terms.is_ok_and(|terms| matches!(&terms[..], [one] if names(one)));
    }
    let dialect = advanced::dialect(install.map(|i| schemas::numbers(&i.version)), otp);
    advanced::parse(bytes, dialect).is_ok()
}

/// Definitions are one object, without a comma too many since 3.11.
fn reads_json(bytes: &[u8]) -> bool {
    serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(bytes).is_ok()
}

fn without_carriage_returns(text: &[u8]) -> Vec<u8> {
    let ends = |at: usize| text[at] == b'\r' && matches!(text.get(at + 1), None | Some(b'\n'));
    (0..text.len()).filter(|at| !ends(*at)).map(|at| text[at]).collect()
}

/// `NODE_PORT = 5677` as the assignment that it was meant to be; `None`: it would not be one.
fn without_blanks(text: &[u8], line: u64) -> Option<Vec<u8>> {
    let mut lines: Vec<Vec<u8>> = text.split_inclusive(|b| *b == b'\n').map(<[u8]>::to_vec).collect();
    let wanted = lines.get_mut(usize::try_from(line).ok()?.checked_sub(1)?)?;
    let old = String::from_utf8(wanted.clone()).ok()?;
    let (name, value) = old.split_once('=')?;
    *wanted = format!("{}={}", name.trim_end(), value.trim_start_matches([' ', '\t'])).into_bytes();
    let out = lines.concat();
    let document = Document::parse(&out, Shell::Other);
    let name = name.trim().trim_start_matches("export ").trim();
    document.settings().get(name).filter(|s| u64::from(s.line) == line && matches!(s.value, Ok(Some(_))))?;
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_assignment_with_blanks_becomes_one() {
        let mend = |text: &str, line| without_blanks(text.as_bytes(), line).map(|b| String::from_utf8(b).unwrap());
        assert_eq!(mend("A=1\nNODE_PORT = 5677\n", 2).as_deref(), Some("A=1\nNODE_PORT=5677\n"));
        assert_eq!(mend("NODE_PORT= 5677", 1).as_deref(), Some("NODE_PORT=5677"));
        assert_eq!(mend("# none\n", 1), None);
        assert_eq!(mend("NODE_PORT = 5677 5678\n", 1), None, "still a command");
    }

    #[test]
    fn only_line_ends_lose_their_carriage_return() {
        assert_eq!(without_carriage_returns(b"A=1\r\nB=\rx\r\n\r"), b"A=1\nB=\rx\n");
    }
}

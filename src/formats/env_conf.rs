//! rabbitmq-env.conf, read without running it. The file is a shell script that belongs to the broker's user; the broker's
//! scripts source it. Plain assignments are understood, everything else makes values unknown, with the reason. Lossless.
//!
//! The script runs under `set -e`, and the broker drops the whole file if its last command fails, so it also matters
//! whether each command can fail.

use std::collections::BTreeMap;
use std::ops::Range;

/// What a variable is set to; `Err` says why that takes running a shell.
pub type Value = Result<String, String>;

/// `NAME=value` outside of any condition. Lines and columns count from 1, columns in characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    /// As spelt, with or without `RABBITMQ_`.
    pub name: String,
    /// With a carriage return at the end in a file with CRLF line ends: the shell keeps it.
    pub value: Value,
    pub line: u32,
    pub column: u32,
    /// Another command stands on the same line.
    shares_line: bool,
    value_span: Range<usize>,
}

/// What keeps the file from being applied, or the broker from starting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// blanks-around-equals | crlf | last-command-fails | syntax
    pub code: &'static str,
    /// The broker does not start with it.
    pub fatal: bool,
    /// Never holds a value: it may be a secret.
    pub text: String,
    pub line: u32,
    pub column: u32,
}

/// Why an edit was refused; the document is unchanged then.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EditError {
    #[error("there is no line {0}")]
    NoLine(u32),
    #[error("line {0} holds more than one command")]
    SharedLine(u32),
    #[error("the file is not understood well enough to change it: {0}")]
    NotUnderstood(String),
}

/// A parsed file that keeps its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    bytes: Vec<u8>,
    /// Where each line begins.
    lines: Vec<usize>,
    assignments: Vec<Assignment>,
    /// Names that are set under a condition, with the line.
    conditional: BTreeMap<String, u32>,
    problems: Vec<Problem>,
    opaque: Option<String>,
    undecided: Option<String>,
}

impl Document {
    /// Never fails.
    pub fn parse(bytes: &[u8]) -> Document {
        let ends = bytes.iter().enumerate().filter(|(_, b)| **b == b'\n');
        let mut doc = Document {
            bytes: bytes.to_vec(),
            lines: std::iter::once(0).chain(ends.map(|(at, _)| at + 1)).collect(),
            assignments: Vec::new(),
            conditional: BTreeMap::new(),
            problems: Vec::new(),
            opaque: None,
            undecided: None,
        };
        let (commands, broken) = split_commands(bytes);
        Reader { doc: &mut doc, commands: &commands }.read();
        if let Some((at, why)) = broken {
            let (line, _) = doc.place(at);
            doc.opaque.get_or_insert(format!("line {line}: {why}"));
            doc.problem("syntax", true, why, at);
        }
        doc
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        self.bytes.clone()
    }

    /// The assignments outside of conditions, in order.
    #[cfg(test)]
    fn assignments(&self) -> &[Assignment] {
        &self.assignments
    }

    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// Why any variable may have any value: the file sources another one, exits early, or is not understood.
    pub fn opaque(&self) -> Option<&str> {
        self.opaque.as_deref()
    }

    /// Why the broker may drop the whole file: its last command may fail.
    pub fn undecided(&self) -> Option<&str> {
        self.undecided.as_deref()
    }

    /// Whether a command certainly fails, so that nothing of the file counts.
    pub fn dropped(&self) -> bool {
        self.problems.iter().any(|p| p.code == "last-command-fails")
    }

    /// Final values by name as spelt, with the line that sets them.
    pub fn vars(&self) -> BTreeMap<String, (Value, u32)> {
        let mut vars: BTreeMap<String, (Value, u32)> = BTreeMap::new();
        for a in &self.assignments {
            vars.insert(a.name.clone(), (a.value.clone(), a.line));
        }
        for (name, line) in &self.conditional {
            // A plain assignment below the condition decides.
            if vars.get(name).is_none_or(|(_, l)| l < line) {
                vars.insert(name.clone(), (Err(format!("it is set under a condition in line {line}")), *line));
            }
        }
        vars
    }

    /// Removes the plain assignments of a variable, in both spellings, with their lines. Returns whether there was one.
    pub fn unset_var(&mut self, name: &str) -> Result<bool, EditError> {
        self.understood()?;
        let bare = name.strip_prefix("RABBITMQ_").unwrap_or(name);
        let ours = |a: &&Assignment| a.name.strip_prefix("RABBITMQ_").unwrap_or(&a.name) == bare;
        if let Some(a) = self.assignments.iter().filter(ours).find(|a| a.shares_line) {
            return Err(EditError::SharedLine(a.line));
        }
        let spans: Vec<_> = self.assignments.iter().filter(ours).map(|a| self.lines_of(&a.value_span)).collect();
        let mut bytes = self.bytes.clone();
        for span in spans.iter().rev() {
            let open = !bytes[span.clone()].ends_with(b"\n") && span.end == bytes.len();
            // A file without a final line end stays without.
            let before = if open { span.start.saturating_sub(1) } else { span.start };
            bytes.drain(before..span.end);
        }
        *self = Document::parse(&bytes);
        Ok(!spans.is_empty())
    }

    /// Makes a line a comment that ends in `note`; no line moves.
    pub fn comment_out(&mut self, line: u32, note: &str) -> Result<(), EditError> {
        let lines: Vec<&[u8]> = self.bytes.split_inclusive(|b| *b == b'\n').collect();
        let wanted = (line as usize).checked_sub(1).filter(|n| *n < lines.len()).ok_or(EditError::NoLine(line))?;
        let mut out = Vec::new();
        for (n, text) in lines.iter().enumerate() {
            if n != wanted {
                out.extend_from_slice(text);
                continue;
            }
            let content = text.strip_suffix(b"\n").unwrap_or(text);
            let content = content.strip_suffix(b"\r").unwrap_or(content);
            out.extend_from_slice(b"# ");
            out.extend_from_slice(content);
            if !note.is_empty() {
                out.extend_from_slice(b"  # ");
                out.extend_from_slice(note.replace(['\r', '\n'], " ").as_bytes());
            }
            out.extend_from_slice(&text[content.len()..]);
        }
        *self = Document::parse(&out);
        Ok(())
    }

    fn understood(&self) -> Result<(), EditError> {
        match &self.opaque {
            Some(why) => Err(EditError::NotUnderstood(why.clone())),
            None => Ok(()),
        }
    }

    fn lines_of(&self, span: &Range<usize>) -> Range<usize> {
        let start = self.bytes[..span.start].iter().rposition(|b| *b == b'\n').map_or(0, |n| n + 1);
        let end = self.bytes[span.end..].iter().position(|b| *b == b'\n').map_or(self.bytes.len(), |n| span.end + n + 1);
        start..end
    }

    fn place(&self, at: usize) -> (u32, u32) {
        let line = self.lines.partition_point(|start| *start <= at);
        let start = line.checked_sub(1).and_then(|n| self.lines.get(n)).copied().unwrap_or(0);
        (line as u32, String::from_utf8_lossy(&self.bytes[start..at]).chars().count() as u32 + 1)
    }

    fn problem(&mut self, code: &'static str, fatal: bool, text: String, at: usize) {
        let (line, column) = self.place(at);
        self.problems.push(Problem { code, fatal, text, line, column });
    }
}

fn is_name(name: &str) -> bool {
    let good = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    !name.is_empty() && name.bytes().all(good) && !name.as_bytes()[0].is_ascii_digit()
}

// --- the shell's words and operators ---

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    /// A word; `Err`: what expansion it needs.
    Word { span: Range<usize>, value: Value },
    /// `&&`, `|`, `(`, `>` …
    Operator { at: usize, text: String },
}

impl Token {
    fn at(&self) -> usize {
        match self {
            Token::Word { span, .. } => span.start,
            Token::Operator { at, .. } => *at,
        }
    }
}

/// The tokens up to a `;` or a line end.
#[derive(Debug, Default)]
struct Command {
    tokens: Vec<Token>,
    /// Ends with `;`, or follows one, on the same line.
    shares_line: bool,
}

/// Splits a script into commands; the second part says where and why it stopped early.
fn split_commands(bytes: &[u8]) -> (Vec<Command>, Option<(usize, String)>) {
    let mut commands = Vec::new();
    let broken = scan_commands(bytes, &mut commands).err();
    commands.retain(|c| !c.tokens.is_empty());
    (commands, broken)
}

fn scan_commands(bytes: &[u8], commands: &mut Vec<Command>) -> Result<(), (usize, String)> {
    let mut now = Command::default();
    let mut pos = 0;
    while pos < bytes.len() {
        match bytes[pos] {
            b' ' | b'\t' => pos += 1,
            b'\\' if bytes.get(pos + 1) == Some(&b'\n') => pos += 2,
            b'\n' => {
                pos += 1;
                // A list goes on after `&&`, `||` and `|`.
                let goes_on =
                    matches!(now.tokens.last(), Some(Token::Operator { text, .. }) if ["&&", "||", "|"].contains(&text.as_str()));
                if !goes_on {
                    commands.push(std::mem::take(&mut now));
                }
            }
            b';' => {
                now.shares_line = true;
                commands.push(std::mem::take(&mut now));
                now.shares_line = true;
                pos += 1;
            }
            b'#' => pos = bytes[pos..].iter().position(|b| *b == b'\n').map_or(bytes.len(), |n| pos + n),
            b'&' | b'|' | b'(' | b')' | b'<' | b'>' => {
                let double = bytes.get(pos + 1) == Some(&bytes[pos]) && !b"()".contains(&bytes[pos]);
                let end = pos + 1 + usize::from(double);
                let text = String::from_utf8_lossy(&bytes[pos..end]).into_owned();
                if text == "<<" {
                    commands.push(now);
                    return Err((pos, "a here-document: not read".to_owned()));
                }
                now.tokens.push(Token::Operator { at: pos, text });
                pos = end;
            }
            _ => match word(bytes, pos) {
                Ok((value, end)) => {
                    now.tokens.push(Token::Word { span: pos..end, value });
                    pos = end;
                }
                Err(why) => {
                    commands.push(now);
                    return Err((pos, why.to_owned()));
                }
            },
        }
    }
    commands.push(now);
    Ok(())
}

/// One word from `pos`: its value without quotes, or what it needs a shell for, and where it ends.
fn word(bytes: &[u8], start: usize) -> Result<(Value, usize), &'static str> {
    let mut text = Vec::new();
    let mut needs: Option<String> = None;
    let mut pos = start;
    let mut in_double = false;
    while let Some(b) = bytes.get(pos).copied() {
        match b {
            b'"' => {
                in_double = !in_double;
                pos += 1;
            }
            b'\'' if !in_double => {
                let length = bytes[pos + 1..].iter().position(|b| *b == b'\'').ok_or("a single quote that is not closed")?;
                text.extend_from_slice(&bytes[pos + 1..pos + 1 + length]);
                pos += length + 2;
            }
            b'\\' => {
                let next = bytes.get(pos + 1).copied();
                match next {
                    Some(b'\n') => {}
                    Some(c) if !in_double || b"$`\"\\".contains(&c) => text.push(c),
                    Some(c) => text.extend_from_slice(&[b'\\', c]),
                    None => text.push(b'\\'),
                }
                pos += 1 + usize::from(next.is_some());
            }
            b'$' | b'`' => {
                let end = expansion(bytes, pos).ok_or("an expansion that is not closed")?;
                if end == pos + 1 {
                    text.push(b'$');
                } else {
                    let what = if b == b'`' || bytes[pos + 1] == b'(' { "the output of a command" } else { "another variable" };
                    needs.get_or_insert(format!("it uses {what}"));
                }
                pos = end;
            }
            b' ' | b'\t' | b'\n' | b';' | b'&' | b'|' | b'(' | b')' | b'<' | b'>' if !in_double => break,
            _ => {
                text.push(b);
                pos += 1;
            }
        }
    }
    if in_double {
        return Err("a double quote that is not closed");
    }
    let value = match needs {
        Some(why) => Err(why),
        None => String::from_utf8(text).map_err(|_| "it is not UTF-8".to_owned()),
    };
    Ok((value, pos))
}

/// Where `$NAME`, `${…}`, `$(…)` or a backtick ends; right after a lone `$`.
fn expansion(bytes: &[u8], at: usize) -> Option<usize> {
    let close = |from: usize, byte: u8| bytes[from..].iter().position(|b| *b == byte).map(|n| from + n + 1);
    if bytes[at] == b'`' {
        return close(at + 1, b'`');
    }
    match bytes.get(at + 1) {
        Some(b'{') => close(at + 2, b'}'),
        Some(b'(') => {
            let mut depth = 0usize;
            for (n, b) in bytes[at + 1..].iter().enumerate() {
                match b {
                    b'(' => depth += 1,
                    b')' => depth -= 1,
                    _ => {}
                }
                if depth == 0 {
                    return Some(at + n + 2);
                }
            }
            None
        }
        Some(b) if b.is_ascii_alphabetic() || *b == b'_' => {
            Some(at + 1 + bytes[at + 1..].iter().take_while(|b| b.is_ascii_alphanumeric() || **b == b'_').count())
        }
        Some(b) if b.is_ascii_digit() || b"?!@*#$-".contains(b) => Some(at + 2),
        _ => Some(at + 1),
    }
}

// --- commands ---

struct Reader<'a> {
    doc: &'a mut Document,
    commands: &'a [Command],
}

/// Whether the file's last command succeeds.
enum Status {
    Succeeds,
    Unclear(String),
}

const COMPOUND: &[&str] = &["if", "for", "while", "until", "case", "{", "function", "!"];
const CLOSERS: &[&str] = &["fi", "done", "esac", "}"];
/// Commands that can change any variable or end the script.
const FAR_REACHING: &[&str] = &[".", "source", "eval", "exit", "return", "unset", "set", "exec", "trap", "read"];
/// Commands that change no variable and, in practice, do not fail.
const HARMLESS: &[&str] = &[":", "true", "echo", "umask"];

impl Reader<'_> {
    fn read(&mut self) {
        let mut status = Status::Succeeds;
        let mut n = 0;
        while n < self.commands.len() {
            let (next, s) = self.command(n);
            status = s;
            n = next;
        }
        if let Status::Unclear(why) = status {
            self.doc.undecided = Some(why);
        }
    }

    /// Reads command `n`; gives the number of the next one.
    fn command(&mut self, n: usize) -> (usize, Status) {
        let command = &self.commands[n];
        let first = self.raw(&command.tokens[0]);
        let line = self.doc.place(command.tokens[0].at()).0;
        if self.raw_is(command, 1, "(") || first == "(" || COMPOUND.contains(&first.as_str()) {
            return self.compound(n);
        }
        if command.tokens.iter().any(|t| matches!(t, Token::Operator { .. })) {
            self.condition(command);
            let always = self.raw_last(command) == "true" && self.raw_before_last(command) == "||";
            let why = format!("its last command in line {line} may fail, and the broker then ignores the whole file");
            return (n + 1, if always { Status::Succeeds } else { Status::Unclear(why) });
        }
        if first == "\r" {
            self.doc.problem(
                "crlf",
                true,
                "CRLF line end: the shell looks for a command named carriage return".to_owned(),
                command.tokens[0].at(),
            );
            return (n + 1, Status::Succeeds);
        }
        if ["export", "readonly"].contains(&first.as_str()) {
            for t in &command.tokens[1..] {
                if let Some(a) = self.assignment(t, command.shares_line) {
                    self.take(a, t);
                }
            }
            return (n + 1, Status::Succeeds);
        }
        (n + 1, self.simple(command, &first, line))
    }

    /// Assignments, or a command with assignments in front of it.
    fn simple(&mut self, command: &Command, first: &str, line: u32) -> Status {
        let set: Vec<_> = command.tokens.iter().map_while(|t| self.assignment(t, command.shares_line).map(|a| (a, t))).collect();
        if set.len() == command.tokens.len() {
            let unclear = set.iter().any(|(a, _)| a.value.as_ref().is_err_and(|w| w.contains("command")));
            let several = set.len() > 1;
            for (mut a, t) in set {
                a.shares_line |= several;
                self.take(a, t);
            }
            let why = format!("the command in line {line} may fail, and the broker then ignores the whole file");
            return if unclear { Status::Unclear(why) } else { Status::Succeeds };
        }
        if let Some((a, _)) = set.first() {
            return self.prefixed_command(command, set.len(), a.clone());
        }
        if FAR_REACHING.contains(&first) {
            self.doc.opaque.get_or_insert(format!("line {line} runs `{first}`"));
            return Status::Succeeds;
        }
        if first == "false" {
            let text = "a command that fails: the broker's start script ends here".to_owned();
            self.doc.problem("last-command-fails", true, text, command.tokens[0].at());
            return Status::Succeeds;
        }
        if HARMLESS.contains(&first) {
            return Status::Succeeds;
        }
        let equals = command.tokens.get(1).map(|t| self.raw(t)).filter(|w| w.starts_with('='));
        if is_name(first) && equals.is_some() {
            let text = format!("blanks around `=`: the shell runs {first} as a command, and the broker does not start");
            self.doc.problem("blanks-around-equals", true, text, command.tokens[0].at());
            return Status::Succeeds;
        }
        let word = if is_name(first) { first } else { "a command" };
        Status::Unclear(format!("line {line} runs {word}, which may fail; the broker then ignores the file or does not start"))
    }

    /// `NAME=a b`: runs `b`, with NAME set for that command only.
    fn prefixed_command(&mut self, command: &Command, at: usize, a: Assignment) -> Status {
        let token = &command.tokens[at];
        let word = self.raw(token);
        let name = a.name;
        if HARMLESS.contains(&word.as_str()) {
            return Status::Succeeds;
        }
        if a.value_span.is_empty() {
            let text = format!("a blank after `{name}=`: the shell runs the value as a command, and the broker does not start");
            self.doc.problem("blanks-around-equals", true, text, token.at());
            return Status::Succeeds;
        }
        // No command of a host is named like an option or a number.
        let certain = word.starts_with(|c: char| c == '-' || c == '+' || c.is_ascii_digit());
        let text = format!("the value of {name} ends at a blank, and the rest is run as a command; it needs quotes");
        self.doc.problem("syntax", certain, text, token.at());
        self.doc.conditional.insert(name, a.line);
        Status::Succeeds
    }

    /// A list with `&&`, `||`, a pipe or a redirection: what it sets depends on what the commands return.
    fn condition(&mut self, command: &Command) {
        for t in &command.tokens {
            let raw = self.raw(t);
            let line = self.doc.place(t.at()).0;
            if let Some(a) = self.assignment(t, true) {
                self.doc.conditional.insert(a.name, line);
            } else if FAR_REACHING.contains(&raw.as_str()) {
                self.doc.opaque.get_or_insert(format!("line {line} runs `{raw}` under a condition"));
            }
        }
    }

    /// `if … fi` and the like, to its end.
    fn compound(&mut self, n: usize) -> (usize, Status) {
        let (mut depth, mut last) = (0i32, n);
        let mut previous_is_plain = false;
        for (m, command) in self.commands.iter().enumerate().skip(n) {
            let words: Vec<_> = command.tokens.iter().map(|t| self.raw(t)).collect();
            let head = words.iter().position(|w| !["then", "else", "do", "elif"].contains(&w.as_str())).unwrap_or(0);
            if words.iter().skip(1).any(|w| w == "{") || COMPOUND[..6].contains(&words[head].as_str()) {
                depth += 1;
            }
            let closes = words.iter().filter(|w| CLOSERS.contains(&w.as_str())).count() as i32;
            depth -= closes;
            if closes == 0 {
                previous_is_plain =
                    command.tokens.iter().skip(head).all(|t| self.assignment(t, true).is_some() || self.raw(t) == "export");
            }
            self.condition(command);
            last = m;
            if depth <= 0 {
                break;
            }
        }
        let at = self.commands[n].tokens[0].at();
        if depth > 0 {
            self.doc.opaque.get_or_insert(format!("the block in line {} is not closed", self.doc.place(at).0));
        }
        let line = self.doc.place(self.commands[last].tokens[0].at()).0;
        let why = format!("the block that ends in line {line} may fail, and the broker then ignores the whole file");
        (last + 1, if previous_is_plain { Status::Succeeds } else { Status::Unclear(why) })
    }

    fn assignment(&self, token: &Token, shares_line: bool) -> Option<Assignment> {
        let Token::Word { span, value } = token else { return None };
        let raw = &self.doc.bytes[span.clone()];
        let equals = raw.iter().position(|b| *b == b'=')?;
        let name = std::str::from_utf8(&raw[..equals]).ok().filter(|n| is_name(n))?;
        let value_span = span.start + equals + 1..span.end;
        let value = match value {
            Ok(_) if raw.get(equals + 1) == Some(&b'~') => Err("it uses a home directory".to_owned()),
            Ok(whole) => Ok(whole.get(equals + 1..).unwrap_or("").to_owned()),
            Err(why) => Err(why.clone()),
        };
        let (line, column) = self.doc.place(span.start);
        Some(Assignment { name: name.to_owned(), value, line, column, shares_line, value_span })
    }

    fn take(&mut self, a: Assignment, token: &Token) {
        if let Ok(v) = &a.value
            && v.ends_with('\r')
        {
            // A port or node name with a carriage return stops the boot; a path merely names another file.
            let bare = a.name.strip_prefix("RABBITMQ_").unwrap_or(&a.name);
            let fatal = ["NODE_PORT", "DIST_PORT", "NODENAME"].contains(&bare);
            let text = format!("CRLF line end: the value of {} ends with a carriage return", a.name);
            self.doc.problem("crlf", fatal, text, token.at());
        }
        self.doc.assignments.push(a);
    }

    fn raw(&self, token: &Token) -> String {
        match token {
            Token::Word { span, .. } => String::from_utf8_lossy(&self.doc.bytes[span.clone()]).into_owned(),
            Token::Operator { text, .. } => text.clone(),
        }
    }
    fn raw_is(&self, command: &Command, n: usize, text: &str) -> bool {
        matches!(command.tokens.get(n), Some(Token::Operator { text: t, .. }) if t == text)
    }
    fn raw_last(&self, command: &Command) -> String {
        command.tokens.last().map(|t| self.raw(t)).unwrap_or_default()
    }
    fn raw_before_last(&self, command: &Command) -> String {
        command.tokens.iter().rev().nth(1).map(|t| self.raw(t)).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn doc(text: &str) -> Document {
        Document::parse(text.as_bytes())
    }
    fn var(text: &str, name: &str) -> Option<Value> {
        doc(text).vars().remove(name).map(|(v, _)| v)
    }
    fn codes(text: &str) -> Vec<(&'static str, bool, u32)> {
        doc(text).problems().iter().map(|p| (p.code, p.fatal, p.line)).collect()
    }

    #[test]
    fn plain_assignments_and_quotes() {
        let text = "# c\nNODE_PORT=5677 # port\nexport NODENAME=\"rabbit@h\"\nA='x # y'; B=a\\ b\nC=\nD=a#b\n";
        let d = doc(text);
        let got: Vec<_> = d.assignments().iter().map(|a| (a.name.as_str(), a.value.clone().unwrap(), a.line)).collect();
        let want = [
            ("NODE_PORT", "5677", 2),
            ("NODENAME", "rabbit@h", 3),
            ("A", "x # y", 4),
            ("B", "a b", 4),
            ("C", "", 5),
            ("D", "a#b", 6),
        ];
        assert_eq!(got, want.map(|(n, v, l)| (n, v.to_owned(), l)));
        assert_eq!((d.problems(), d.opaque(), d.undecided()), (&[][..], None, None));
        assert_eq!(var("A=1\nA=2\n", "A"), Some(Ok("2".into())));
        assert_eq!(var("A=\"x \\\"y\\\"\" # z\n", "A"), Some(Ok("x \"y\"".into())));
        assert_eq!(var("A=one\\\ntwo\n", "A"), Some(Ok("onetwo".into())));
    }

    #[test]
    fn what_needs_a_shell_is_unknown() {
        for text in ["A=$HOME\n", "A=\"x${B}\"\n", "A=`hostname`\n", "A=$(hostname -s)\nB=1\n", "A=~/x\n"] {
            assert!(var(text, "A").unwrap().is_err(), "{text}");
        }
        assert!(doc("A=$(false)\n").undecided().is_some());
        assert!(doc("A=$(hostname)\nB=1\n").undecided().is_none(), "only the status of the last command counts here");
        assert_eq!(var("A='$HOME'\n", "A"), Some(Ok("$HOME".into())));
    }

    #[test]
    fn conditions_make_only_their_variables_unknown() {
        let text = "A=1\nif [ -f /x ]; then\n  A=2\n  B=3\nfi\nC=4\n";
        assert!(var(text, "A").unwrap().is_err());
        assert!(var(text, "B").unwrap().is_err());
        assert_eq!(var(text, "C"), Some(Ok("4".into())));
        assert_eq!((doc(text).opaque(), doc(text).undecided()), (None, None));
        assert_eq!(var("[ -f /x ] && A=2\nA=1\n", "A"), Some(Ok("1".into())));
        assert!(doc("if true; then A=1; fi\n").undecided().is_none());
    }

    #[test]
    fn a_last_command_that_may_fail_leaves_the_whole_file_open() {
        assert!(doc("NODE_PORT=5677\n[ -f /x ] && X=1\n").undecided().unwrap().contains("line 2"));
        assert!(doc("[ -f /x ] && X=1\nNODE_PORT=5677\n").undecided().is_none());
        assert!(doc("A=1\n[ -f /x ] || true\n").undecided().is_none());
        assert_eq!(codes("A=1\nfalse\n"), [("last-command-fails", true, 2)]);
    }

    #[test]
    fn far_reaching_commands_make_everything_unknown() {
        for text in
            [". /etc/default/x\n", "source x\n", "[ -f /x ] && . /x\n", "if true; then exit 0; fi\nA=1\n", "cat <<E\nA=1\nE\n"]
        {
            assert!(doc(text).opaque().is_some(), "{text}");
        }
    }

    #[test]
    fn mistakes_that_stop_the_broker() {
        assert_eq!(codes("NODE_PORT = 5677\n"), [("blanks-around-equals", true, 1)]);
        assert_eq!(codes("NODE_PORT =5677\n"), [("blanks-around-equals", true, 1)]);
        assert_eq!(codes("NODE_PORT= 5677\n"), [("blanks-around-equals", true, 1)]);
        assert_eq!(codes("A=\"open\nB=1\n"), [("syntax", true, 1)]);
        assert_eq!(codes("SERVER_ERL_ARGS=+K +A 30\n"), [("syntax", true, 1)]);
        assert_eq!(codes("NODE_PORT=5677\r\n"), [("crlf", true, 1)]);
        assert_eq!(codes("# c\r\nCONFIG_FILE=/x\r\n\r\n"), [("crlf", false, 2), ("crlf", true, 3)]);
        assert_eq!(var("NODE_PORT=5677\r\n", "NODE_PORT"), Some(Ok("5677\r".into())));
    }

    #[test]
    fn edits_touch_nothing_else() {
        let mut d = doc("A=1\nNODE_PORT = 5\nB=2; A=3\n");
        assert_eq!(d.unset_var("A"), Err(EditError::SharedLine(3)));
        d.comment_out(2, "blanks").unwrap();
        assert_eq!(d.to_bytes(), b"A=1\n# NODE_PORT = 5  # blanks\nB=2; A=3\n");
        assert_eq!(d.problems(), []);
        let mut d = doc("A=1 # why\nB=2\n");
        assert_eq!(d.unset_var("A"), Ok(true));
        assert_eq!(d.to_bytes(), b"B=2\n");
        assert_eq!(d.unset_var("A"), Ok(false));
    }

    fn any_script() -> impl Strategy<Value = Vec<u8>> {
        const PIECES: &[&[u8]] = &[
            b"A=",
            b"B=1",
            b"NODE_PORT=5",
            b" ",
            b"\n",
            b"\n",
            b";",
            b"'",
            b"\"",
            b"$",
            b"$(",
            b")",
            b"`",
            b"\\",
            b"#",
            b"&&",
            b"if ",
            b"fi",
            b"{",
            b"}",
            b"then ",
            b"\r\n",
            b"=",
            b"~",
            b"\xfc",
            b"x",
        ];
        prop_oneof![
            proptest::collection::vec(proptest::sample::select(PIECES), 0..20).prop_map(|v| v.concat()),
            proptest::collection::vec(any::<u8>(), 0..60),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn parsing_keeps_every_byte(bytes in any_script()) {
            prop_assert_eq!(Document::parse(&bytes).to_bytes(), bytes);
        }
    }
}

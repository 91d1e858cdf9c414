//! systemd's unit files and drop-ins (systemd.syntax(7)), lossless: a directive is read with its line, and can be made a comment, be
//! given another value, or get another one below it.

use std::ops::Range;

/// One assignment of a file, in the order of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    /// `Service`
    pub section: String,
    /// `TimeoutStartSec`
    pub name: String,
    /// Continued lines are joined by one blank.
    pub value: String,
    /// Of its first line, counted from 1.
    pub line: u32,
}

/// Why a file could not be edited.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EditError {
    #[error("line {0} holds no directive")]
    NoDirective(u32),
    #[error("a value cannot hold a line break")]
    LineBreak,
}

/// A whole file.
pub struct Document {
    lines: Vec<Vec<u8>>,
    all: Vec<(Assignment, Range<usize>)>,
}

impl Document {
    pub fn parse(bytes: &[u8]) -> Document {
        let lines: Vec<Vec<u8>> = bytes.split_inclusive(|b| *b == b'\n').map(<[u8]>::to_vec).collect();
        let mut all = Vec::new();
        let mut section = String::new();
        let mut at = 0;
        while at < lines.len() {
            let begin = at;
            let mut text = logical(&lines, &mut at);
            text = text.trim().to_owned();
            if let Some(name) = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')) {
                section = name.to_owned();
            } else if let Some((name, value)) = text.split_once('=')
                && !is_comment(&text)
            {
                let line = u32::try_from(begin + 1).unwrap_or(u32::MAX);
                let (name, value) = (name.trim().to_owned(), value.trim().to_owned());
                all.push((Assignment { section: section.clone(), name, value, line }, begin..at));
            }
        }
        Document { lines, all }
    }

    pub fn assignments(&self) -> impl Iterator<Item = &Assignment> {
        self.all.iter().map(|(assignment, _)| assignment)
    }

    /// Makes the directive that starts in this line a comment.
    pub fn comment_out(&mut self, line: u32, note: &str) -> Result<(), EditError> {
        let span = self.span(line)?;
        for (place, text) in self.lines[span.clone()].iter_mut().enumerate() {
            let mut new = if place == 0 { format!("# {note}: ").into_bytes() } else { b"# ".to_vec() };
            new.append(text);
            *text = new;
        }
        Ok(())
    }

    /// Gives the directive that starts in this line another value.
    pub fn set(&mut self, line: u32, value: &str) -> Result<(), EditError> {
        let span = self.span(line)?;
        if value.contains(['\n', '\r']) {
            return Err(EditError::LineBreak);
        }
        let name = self.all.iter().find(|(_, other)| *other == span).map(|(a, _)| a.name.clone()).unwrap_or_default();
        self.lines.splice(span, [format!("{name}={value}\n").into_bytes()]);
        Ok(())
    }

    /// Adds a line of text below the directive that starts in this line.
    pub fn add_below(&mut self, line: u32, text: &str) -> Result<(), EditError> {
        let end = self.span(line)?.end;
        if text.contains(['\n', '\r']) {
            return Err(EditError::LineBreak);
        }
        if let Some(last) = end.checked_sub(1).and_then(|last| self.lines.get_mut(last)).filter(|last| !last.ends_with(b"\n")) {
            last.push(b'\n');
        }
        self.lines.insert(end, format!("{text}\n").into_bytes());
        Ok(())
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        self.lines.concat()
    }

    fn span(&self, line: u32) -> Result<Range<usize>, EditError> {
        let found = self.all.iter().find(|(assignment, _)| assignment.line == line);
        found.map(|(_, span)| span.clone()).ok_or(EditError::NoDirective(line))
    }
}

/// The line at `at` with those that continue it; `at` is moved behind them.
fn logical(lines: &[Vec<u8>], at: &mut usize) -> String {
    let mut text = String::new();
    while let Some(line) = lines.get(*at) {
        let line = String::from_utf8_lossy(line).trim_end_matches(['\n', '\r']).to_owned();
        *at += 1;
        // Comments between continued lines are passed over.
        if !text.is_empty() && is_comment(&line) {
            continue;
        }
        match line.strip_suffix('\\') {
            Some(part) if !is_comment(&line) => {
                text.push_str(part.trim());
                text.push(' ');
            }
            _ => {
                text.push_str(line.trim());
                break;
            }
        }
    }
    text
}

fn is_comment(line: &str) -> bool {
    line.trim_start().starts_with(['#', ';'])
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str =
        "# note\n[Unit]\nDescription=x\n\n[Service]\nUser = rabbit\nReadWritePaths=/a \\\n# between\n  /b\nTimeoutStartSec=1";

    fn edited(work: impl FnOnce(&mut Document)) -> String {
        let mut document = Document::parse(TEXT.as_bytes());
        work(&mut document);
        String::from_utf8(document.to_bytes()).unwrap()
    }

    #[test]
    fn directives_have_their_section_and_line() {
        let document = Document::parse(TEXT.as_bytes());
        let all: Vec<_> =
            document.assignments().map(|a| (a.section.as_str(), a.name.as_str(), a.value.as_str(), a.line)).collect();
        assert_eq!(
            all,
            [
                ("Unit", "Description", "x", 3),
                ("Service", "User", "rabbit", 6),
                ("Service", "ReadWritePaths", "/a /b", 7),
                ("Service", "TimeoutStartSec", "1", 10)
            ]
        );
        assert_eq!(String::from_utf8(document.to_bytes()).unwrap(), TEXT);
    }

    #[test]
    fn one_directive_is_edited_and_the_rest_stays() {
        let commented = edited(|d| d.comment_out(7, "off").unwrap());
        assert!(commented.contains("# off: ReadWritePaths=/a \\\n# # between\n#   /b\nTimeoutStartSec=1"), "{commented}");
        assert!(Document::parse(commented.as_bytes()).assignments().all(|a| a.name != "ReadWritePaths"));
        assert!(edited(|d| d.set(6, "rabbitmq").unwrap()).contains("\nUser=rabbitmq\nReadWritePaths"));
        assert!(edited(|d| d.add_below(10, "A=b").unwrap()).ends_with("TimeoutStartSec=1\nA=b\n"));
    }

    #[test]
    fn what_is_no_directive_is_not_edited() {
        let mut document = Document::parse(TEXT.as_bytes());
        assert_eq!(document.comment_out(1, "x"), Err(EditError::NoDirective(1)));
        assert_eq!(document.set(6, "a\nUser=root"), Err(EditError::LineBreak));
    }
}

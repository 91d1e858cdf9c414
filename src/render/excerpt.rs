//! A line of a file with a mark under the word that is meant, and what is said about it.

use super::term::{Term, Tone, clean, wrap};
use crate::facts::conf::secrets::REDACTED;
use unicode_width::UnicodeWidthStr;

/// Columns before the line.
const INDENT: usize = 4;

/// The line, and below it the mark with the message, or the message in lines of its own. `column` counts from 1.
pub fn excerpt(term: &Term, source: &str, column: Option<u32>, message: &str, tone: Tone) -> Vec<String> {
    let (source, column) = window(source, start(source, column), term.width - INDENT);
    let before: String = source.chars().take(column).collect();
    let lead = INDENT + clean(&before).width();
    let caret = "^".repeat(clean(&marked(&source, column)).width().max(1));
    let message = clean(message);
    let mut lines = vec![format!("{:INDENT$}{}", "", clean(&source))];
    let mark = format!("{:lead$}{}", "", term.paint(tone, &caret));
    if message.width() <= term.width.saturating_sub(lead + caret.len() + 1) {
        lines.push(format!("{mark} {message}"));
    } else {
        lines.push(mark);
        lines.extend(wrap(&message, term.width - INDENT).into_iter().map(|line| format!("{:INDENT$}{line}", "")));
    }
    lines
}

/// Where the mark begins, counted from 0. Of what is struck out no part can be meant.
fn start(source: &str, column: Option<u32>) -> usize {
    let column = column.unwrap_or(1).max(1) as usize - 1;
    let hidden = source.find(REDACTED).and_then(|at| source.get(..at)).map(|before| before.chars().count());
    hidden.map_or(column, |hidden| column.min(hidden))
}

/// The word at a place, or what stands there instead of one.
fn marked(source: &str, column: usize) -> String {
    let word: String = source.chars().skip(column).take_while(|c| is_word(*c)).collect();
    if word.is_empty() { source.chars().skip(column).take_while(|c| !c.is_whitespace()).collect() } else { word }
}

/// The part of a long line around `column` that fits into `room`, and the column in it.
fn window(line: &str, column: usize, room: usize) -> (String, usize) {
    if line.width() <= room {
        return (line.to_owned(), column);
    }
    let start = if column < room / 2 { 0 } else { column - room / 4 };
    (line.chars().skip(start).take(room).collect(), column - start)
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-' | '\\' | ':' | '/' | '%')
}

#[cfg(test)]
mod tests {
    use super::*;

    const TERM: Term = Term { color: false, unicode: true, width: 80 };

    #[test]
    fn a_long_line_is_shown_around_the_fault() {
        let line = format!("{} = bad", "k".repeat(200));
        let (part, column) = window(&line, 203, 76);
        assert_eq!((part.chars().count() <= 76, part.chars().nth(column)), (true, Some('b')));
        assert_eq!(window("short", 3, 76), ("short".to_owned(), 3));
    }

    #[test]
    fn the_mark_stands_under_the_word() {
        let lines = excerpt(&TERM, "heartbeat = 60s # x", Some(13), "not an integer", Tone::Bad);
        assert_eq!(lines, ["    heartbeat = 60s # x", "                ^^^ not an integer"]);
        let lines = excerpt(&TERM, "a = \u{1b}[2J", Some(5), &"long ".repeat(20), Tone::Bad);
        assert_eq!(lines[0], "    a = \\u{1b}[2J");
        assert_eq!(lines[1], "        ^^^^^^^^^");
        assert_eq!(lines.len(), 4);
        let lines = excerpt(&TERM, "default_pass = <redacted>", Some(22), "cut", Tone::Bad);
        assert_eq!(lines[1], "                   ^^^^^^^^^^ cut");
    }
}

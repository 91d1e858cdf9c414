//! What a terminal can show: colour, symbols, width; and the escaping of bytes that came from the host.

use anstyle::{AnsiColor, Style};
use unicode_width::UnicodeWidthStr;

/// Lines are laid out for at most this many columns, however wide the terminal is.
pub const MAX_WIDTH: usize = 80;

/// How to write on one stream.
#[derive(Debug, Clone, Copy)]
pub struct Term {
    pub color: bool,
    pub unicode: bool,
    pub width: usize,
}

/// The meaning of a piece of text; colour only repeats what words and symbols already say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    Good,
    Bad,
    Warn,
    Dim,
    Strong,
    Added,
    Removed,
}

/// What the environment says about colours and characters; read in one place by [`Term::new`].
#[derive(Debug, Clone, Default)]
pub struct Environment {
    pub no_color: bool,
    pub clicolor_force: bool,
    pub clicolor_off: bool,
    pub dumb: bool,
    pub utf8: bool,
    pub columns: Option<usize>,
    pub is_terminal: bool,
}

impl Term {
    /// `--color` (`forced`) beats NO_COLOR beats CLICOLOR_FORCE beats TERM=dumb and CLICOLOR=0 beats "is it a terminal".
    pub fn new(forced: Option<bool>, env: &Environment) -> Self {
        let color = match forced {
            Some(color) => color,
            None if env.no_color => false,
            None if env.clicolor_force => true,
            None => env.is_terminal && !env.dumb && !env.clicolor_off,
        };
        Term { color, unicode: env.utf8, width: env.columns.unwrap_or(MAX_WIDTH).clamp(40, MAX_WIDTH) }
    }

    /// The text in the colour of its tone.
    pub fn paint(&self, tone: Tone, text: &str) -> String {
        if !self.color || text.is_empty() {
            return text.to_owned();
        }
        let style = match tone {
            Tone::Good => Style::new().fg_color(Some(AnsiColor::Green.into())).bold(),
            Tone::Bad => Style::new().fg_color(Some(AnsiColor::Red.into())).bold(),
            Tone::Warn => Style::new().fg_color(Some(AnsiColor::Yellow.into())).bold(),
            Tone::Dim => Style::new().dimmed(),
            Tone::Strong => Style::new().bold(),
            Tone::Added => Style::new().fg_color(Some(AnsiColor::Green.into())),
            Tone::Removed => Style::new().fg_color(Some(AnsiColor::Red.into())),
        };
        format!("{style}{text}{style:#}")
    }

    pub fn ok(&self) -> &'static str {
        if self.unicode { "✓" } else { "ok" }
    }
    pub fn fail(&self) -> &'static str {
        if self.unicode { "✗" } else { "x" }
    }
    pub fn dot(&self) -> &'static str {
        if self.unicode { "·" } else { "-" }
    }
}

/// Makes text from the host harmless: control characters (escape sequences, carriage returns, bidirectional overrides) become
/// visible escapes. Line feeds are kept only where the caller splits lines itself.
pub fn clean(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\t' => out.push(' '),
            c if c.is_control() || is_invisible(c) => out.extend(c.escape_unicode()),
            c => out.push(c),
        }
    }
    out
}

fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

/// Breaks text at blanks so that no line is wider than `width` columns; a word that is wider stands alone: a path or a command
/// that someone may copy is never cut.
pub fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = String::new();
    for word in text.split_whitespace() {
        if !line.is_empty() && line.width() + 1 + word.width() > width {
            lines.push(std::mem::take(&mut line));
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    if !line.is_empty() {
        lines.push(line);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_bytes_are_shown_not_obeyed() {
        assert_eq!(clean("a\u{1b}[2Jb\r\n"), "a\\u{1b}[2Jb\\u{d}\\u{a}");
        assert_eq!(clean("user\u{202e}nimda"), "user\\u{202e}nimda");
    }

    #[test]
    fn wrapping_keeps_words_whole() {
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
        assert_eq!(wrap("/a/very/long/path x", 5), ["/a/very/long/path", "x"]);
    }

    #[test]
    fn colour_follows_the_usual_order() {
        let terminal = Environment { is_terminal: true, ..Environment::default() };
        assert!(Term::new(None, &terminal).color);
        assert!(!Term::new(None, &Environment { no_color: true, ..terminal.clone() }).color);
        assert!(Term::new(Some(true), &Environment { no_color: true, ..Environment::default() }).color);
        assert!(!Term::new(None, &Environment::default()).color);
        assert!(Term::new(None, &Environment { clicolor_force: true, ..Environment::default() }).color);
    }
}

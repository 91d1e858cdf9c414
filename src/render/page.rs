//! A screen that is written line by line.

use super::term::{Term, clean, wrap};

/// What has been written so far.
pub struct Page<'a> {
    pub term: &'a Term,
    pub text: String,
}

impl<'a> Page<'a> {
    pub fn new(term: &'a Term) -> Self {
        Page { term, text: String::new() }
    }

    /// One line, without blanks at its end.
    pub fn line(&mut self, text: &str) {
        self.text.push_str(text.trim_end());
        self.text.push('\n');
    }

    pub fn blank(&mut self) {
        self.text.push('\n');
    }

    /// A paragraph as wide as the screen. What came from the host is escaped.
    pub fn wrapped(&mut self, indent: usize, text: &str) {
        for line in wrap(&clean(text), self.term.width - indent) {
            self.line(&format!("{:indent$}{line}", ""));
        }
    }
}

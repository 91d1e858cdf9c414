//! rabbitmq.conf (cuttlefish's `key = value` format), lossless: what was not asked to change stays as it is, byte for byte.
//!
//! The grammar is that of cuttlefish's `conf_parse.peg`, which differs between releases; see [`Dialect`]. Two of its
//! peculiarities matter to users and are kept exactly: `#` starts a comment anywhere in an unquoted value, and a closing
//! single quote is searched for beyond the end of the line.

use super::schema::packed;
use std::ops::Range;

const BOM: &[u8] = b"\xef\xbb\xbf";

/// What the installed cuttlefish accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dialect {
    /// `'a # b'` stands for `a # b` (cuttlefish 3.3); before, the quotes belong to the value.
    pub single_quotes: bool,
    /// `'''` opens a value that may hold single quotes and line ends (cuttlefish 3.6).
    pub multi_line: bool,
    /// `include FILE` (cuttlefish 3.0).
    pub include: bool,
    /// A blank must follow the word `include` (cuttlefish 3.3).
    pub include_blank: bool,
    /// Values hold no characters beyond Latin-1 (before cuttlefish 3.1).
    pub latin1: bool,
    /// A leading UTF-8 byte order mark is skipped (cuttlefish 3.6); before, it is a syntax error.
    pub bom_ok: bool,
}

impl Dialect {
    /// By the version of cuttlefish that lies in the broker's plugins directory: the most reliable source.
    pub fn for_cuttlefish(major: u32, minor: u32) -> Self {
        let at_least = |m, n| (major, minor) >= (m, n);
        Dialect {
            single_quotes: at_least(3, 3),
            multi_line: at_least(3, 6),
            include: at_least(3, 0),
            include_blank: at_least(3, 3),
            latin1: !at_least(3, 1),
            bom_ok: at_least(3, 6),
        }
    }

    /// By the version of RabbitMQ, from the table of releases. What is installed may differ, so prefer [`Dialect::for_cuttlefish`].
    pub fn for_version(major: u32, minor: u32, patch: u32) -> Self {
        let (major, minor) = packed::cuttlefish([major, minor, patch]);
        Self::for_cuttlefish(major, minor)
    }
}

/// One setting as it stands in the file. Lines and columns count from 1, columns in characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The words of the key with `\.` unescaped, joined with `.`; compare [`Entry::words`] where a word may hold a dot.
    pub key: String,
    pub words: Vec<String>,
    /// The key as it is spelt in the file.
    pub raw_key: String,
    /// The value as cuttlefish reads it: without quotes and comment; `$(NAME)` is not substituted.
    pub value: String,
    /// The value is written in single quotes.
    pub quoted: bool,
    /// A comment follows the value on the same line, with the `#` at this column.
    pub comment_column: Option<u32>,
    pub line: u32,
    /// Column of the key.
    pub column: u32,
    /// Column of the value, or of its opening quote.
    pub value_column: u32,
    /// The whole line (all lines of a multi-line value) without its line end.
    pub text: String,
    key_span: Range<usize>,
    value_span: Range<usize>,
}

/// `include FILE`; the path is relative to the directory of the file and may hold `*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Include {
    pub path: String,
    pub line: u32,
    pub column: u32,
}

/// A line that is no setting, include, comment or blank line. The broker does not boot with one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SyntaxError {
    pub line: u32,
    pub column: u32,
    pub message: String,
    /// The line without its line end; bytes that are not UTF-8 are replaced.
    pub text: String,
    /// The line holds bytes that are not UTF-8: the parser crashes even if they are in a comment.
    pub encoding: bool,
}

/// Why an edit was refused; the document is unchanged then.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EditError {
    #[error("{0:?} is not a key")]
    Key(String),
    /// Never holds the value: it may be a secret.
    #[error("the value of {0} cannot be written in the rabbitmq.conf of this version")]
    Value(String),
    #[error("line {0} is not a setting")]
    NoSetting(u32),
    #[error("there is no line {0}")]
    NoLine(u32),
    #[error("the edit would change the meaning of line {0}")]
    Neighbour(u32),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    /// A byte order mark that the parser skips.
    Bom,
    Blank,
    Comment,
    Setting(Entry),
    Include(Include),
    Error(SyntaxError),
}

/// One line; more than one for a value with line ends.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Item {
    /// With the line end.
    span: Range<usize>,
    line: u32,
    /// Physical lines.
    lines: u32,
    kind: Kind,
}

/// A parsed file that keeps its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    bytes: Vec<u8>,
    dialect: Dialect,
    items: Vec<Item>,
}

impl Document {
    /// Never fails: what cannot be parsed is in [`Document::errors`]. Parsing goes on at the next line, the broker's does not.
    pub fn parse(bytes: &[u8], dialect: Dialect) -> Document {
        let mut items: Vec<Item> = Vec::new();
        let (mut pos, mut line) = (0, 1);
        if dialect.bom_ok && bytes.starts_with(BOM) {
            items.push(Item { span: 0..BOM.len(), line, lines: 0, kind: Kind::Bom });
            pos = BOM.len();
        }
        while pos < bytes.len() {
            let item = Scanner { bytes, dialect, start: pos, line }.item();
            pos = item.span.end;
            line += item.lines;
            items.push(item);
        }
        Document { bytes: bytes.to_vec(), dialect, items }
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        self.bytes.clone()
    }

    /// All settings in the order of the file; of two with the same key the later one counts.
    pub fn entries(&self) -> impl DoubleEndedIterator<Item = &Entry> {
        self.items.iter().filter_map(|i| match &i.kind {
            Kind::Setting(e) => Some(e),
            _ => None,
        })
    }

    pub fn includes(&self) -> Vec<Include> {
        self.items.iter().filter_map(|i| if let Kind::Include(x) = &i.kind { Some(x.clone()) } else { None }).collect()
    }

    pub fn errors(&self) -> Vec<SyntaxError> {
        self.items.iter().filter_map(|i| if let Kind::Error(x) = &i.kind { Some(x.clone()) } else { None }).collect()
    }

    /// The setting of `key` that counts: the last one. `key` is spelt as in a file (`\.` for a dot inside a word).
    pub fn get(&self, key: &str) -> Option<&Entry> {
        let words = key_words(key)?;
        self.entries().rev().find(|e| e.words == words)
    }

    /// Sets `key`, spelt as in a file: in place where it is set already (the last setting counts), else in a new line after
    /// the setting whose key has the most leading words in common, else at the end.
    pub fn set(&mut self, key: &str, value: &str) -> Result<(), EditError> {
        let words = key_words(key).ok_or_else(|| EditError::Key(key.to_owned()))?;
        if let Some(line) = self.get(key).map(|e| e.line) {
            return self.set_at(line, value);
        }
        let spelt = self.spell(key, value)?;
        let sibling = self.nearest(&words);
        let model = sibling.or_else(|| self.items.iter().position(|i| matches!(i.kind, Kind::Setting(_))));
        let separator = model.map_or(" = ".to_owned(), |i| self.separator(i));
        self.insert_line(sibling, &format!("{key}{separator}{spelt}"))?;
        self.check_value(key, value)
    }

    /// Replaces the value of the setting that starts in `line`.
    pub fn set_at(&mut self, line: u32, value: &str) -> Result<(), EditError> {
        let (at, e) = self.setting_at(line)?;
        if e.value == value {
            return Ok(());
        }
        let (key, span) = (e.raw_key.clone(), e.value_span.clone());
        let spelt = self.spell(&key, value)?;
        let before = self.clone();
        self.splice(at, span, spelt.as_bytes())?;
        match self.setting_at(line) {
            Ok((_, e)) if e.value == value => Ok(()),
            _ => {
                *self = before;
                Err(EditError::Value(key))
            }
        }
    }

    /// Gives the setting that starts in `line` another key.
    pub fn rename_key(&mut self, line: u32, new_key: &str) -> Result<(), EditError> {
        if key_words(new_key).is_none() {
            return Err(EditError::Key(new_key.to_owned()));
        }
        let (at, e) = self.setting_at(line)?;
        let span = e.key_span.clone();
        self.splice(at, span, new_key.as_bytes())
    }

    /// Removes every setting of `key` with its line. Returns whether there was one.
    pub fn unset(&mut self, key: &str) -> Result<bool, EditError> {
        let words = key_words(key).ok_or_else(|| EditError::Key(key.to_owned()))?;
        let mut found = false;
        let before = self.clone();
        while let Some(at) = self.items.iter().rposition(|i| matches!(&i.kind, Kind::Setting(e) if e.words == words)) {
            found = true;
            if let Err(e) = self.remove(at) {
                *self = before;
                return Err(e);
            }
        }
        Ok(found)
    }

    /// Makes `line` (all lines of a multi-line value) a comment that ends in `note`; no line moves.
    /// Bytes that are not UTF-8 are taken for Latin-1 and converted, because the parser crashes on them in comments too.
    pub fn comment_out_line(&mut self, line: u32, note: &str) -> Result<(), EditError> {
        let item = self.items.iter().find(|i| (i.line..i.line + i.lines).contains(&line)).ok_or(EditError::NoLine(line))?;
        let span = item.span.clone();
        let note = note.replace(['\r', '\n'], " ");
        let mut out = Vec::new();
        let text = &self.bytes[span.clone()];
        let text = text.strip_prefix(BOM).filter(|_| span.start == 0).unwrap_or(text);
        for physical in text.split_inclusive(|b| *b == b'\n') {
            let (content, eol) = split_eol(physical);
            out.extend_from_slice(b"# ");
            out.extend_from_slice(to_utf8(content).as_bytes());
            out.extend_from_slice(eol);
        }
        if !note.is_empty() {
            let first_eol = out.iter().position(|b| *b == b'\n').unwrap_or(out.len());
            let end = split_eol(&out[..(first_eol + 1).min(out.len())]).0.len();
            out.splice(end..end, format!("  # {note}").into_bytes());
        }
        let at = self.items.iter().position(|i| i.span == span).unwrap_or(0);
        let before = self.others(at, at + 1);
        let mut bytes = self.bytes.clone();
        bytes.splice(span, out);
        // A multi-line value becomes one comment per line.
        let lines = self.items[at].lines as usize;
        self.commit(bytes, before, at, at + lines)
    }

    fn setting_at(&self, line: u32) -> Result<(usize, &Entry), EditError> {
        let found = self.items.iter().enumerate().find_map(|(n, i)| match &i.kind {
            Kind::Setting(e) if i.line == line => Some((n, e)),
            _ => None,
        });
        found.ok_or(EditError::NoSetting(line))
    }

    /// How `value` is to be written: plain if that reads back the same, else quoted where the dialect has quotes.
    fn spell(&self, key: &str, value: &str) -> Result<String, EditError> {
        if self.dialect.latin1 && beyond_latin1(value) {
            return Err(EditError::Value(key.to_owned()));
        }
        let line_end = value.contains('\n');
        let blank = |c: char| c == ' ' || c == '\t';
        let plain = !value.is_empty()
            && !line_end
            && !value.contains('#')
            && !value.starts_with(blank)
            && !value.ends_with(blank)
            && !value.ends_with('\r')
            && !(self.dialect.single_quotes && value.starts_with('\''));
        if plain {
            return Ok(value.to_owned());
        }
        if self.dialect.single_quotes && !value.contains('\'') {
            return Ok(format!("'{value}'"));
        }
        if self.dialect.multi_line && !value.contains("'''") && trim_multi_line(value) == value {
            return Ok(format!("'''{value}'''"));
        }
        Err(EditError::Value(key.to_owned()))
    }

    /// The last setting among those whose keys share the most leading words (at least one) with `words`.
    fn nearest(&self, words: &[String]) -> Option<usize> {
        let common = |e: &Entry| e.words.iter().zip(words).take_while(|(a, b)| a == b).count();
        let settings = self.items.iter().enumerate().filter_map(|(n, i)| match &i.kind {
            Kind::Setting(e) => Some((common(e), n)),
            _ => None,
        });
        settings.filter(|(shared, _)| *shared > 0).max().map(|(_, n)| n)
    }

    /// What stands between key and value of a setting, e.g. ` = `.
    fn separator(&self, item: usize) -> String {
        match &self.items[item].kind {
            Kind::Setting(e) => String::from_utf8_lossy(&self.bytes[e.key_span.end..e.value_span.start]).into_owned(),
            _ => " = ".to_owned(),
        }
    }

    /// The line end of an item, or of the file's first line, or a line feed.
    fn eol(&self, item: Option<usize>) -> &'static [u8] {
        let ends = |i: &Item| split_eol(&self.bytes[i.span.clone()]).1.len();
        let near = item.and_then(|n| self.items.get(n)).map(ends).filter(|n| *n > 0);
        match near.or_else(|| self.items.iter().map(ends).find(|n| *n > 0)) {
            Some(2) => b"\r\n",
            _ => b"\n",
        }
    }

    /// Puts a line after item `after`, or at the end. A file without a final line end stays without.
    fn insert_line(&mut self, after: Option<usize>, text: &str) -> Result<(), EditError> {
        let eol = self.eol(after).to_vec();
        let mut at = after.map_or(self.items.len(), |n| n + 1);
        let mut line = text.as_bytes().to_vec();
        let previous = at.checked_sub(1).map(|n| &self.items[n]);
        let open = previous.is_some_and(|i| i.kind != Kind::Bom && !self.bytes[i.span.clone()].ends_with(b"\n"));
        // Without a line end the parser keeps blanks at the end of the value: a line end after it would change it.
        let fragile = open && previous.is_some_and(|i| matches!(self.bytes[i.span.clone()].last(), Some(b' ' | b'\t' | b'\r')));
        if open && !fragile {
            line.splice(0..0, eol);
        } else {
            line.extend(eol);
            at -= usize::from(fragile);
        }
        let pos = self.items.get(at).map_or(self.bytes.len(), |i| i.span.start);
        // The line end that closes the previous line becomes part of that item.
        let before = self.others(at, at);
        let mut bytes = self.bytes.clone();
        bytes.splice(pos..pos, line);
        self.commit(bytes, before, at, at + 1)
    }

    fn remove(&mut self, at: usize) -> Result<(), EditError> {
        let mut span = self.items[at].span.clone();
        let open = !self.bytes[span.clone()].ends_with(b"\n");
        if open && at > 0 && self.items[at - 1].kind != Kind::Bom {
            span.start -= split_eol(&self.bytes[self.items[at - 1].span.clone()]).1.len();
        }
        let before = self.others(at, at + 1);
        let mut bytes = self.bytes.clone();
        bytes.drain(span);
        self.commit(bytes, before, at, at)
    }

    /// Replaces bytes within one item.
    fn splice(&mut self, at: usize, span: Range<usize>, with: &[u8]) -> Result<(), EditError> {
        let before = self.others(at, at + 1);
        let mut bytes = self.bytes.clone();
        bytes.splice(span, with.iter().copied());
        self.commit(bytes, before, at, at + 1)
    }

    /// The meaning of every item outside `from..to`: what an edit must leave alone.
    fn others(&self, from: usize, to: usize) -> Vec<(u32, Meaning)> {
        let outside = self.items[..from].iter().chain(&self.items[to.min(self.items.len())..]);
        outside.map(|i| (i.line, i.meaning())).collect()
    }

    /// Takes the new bytes if, apart from the items `from..to`, they mean what they meant before.
    fn commit(&mut self, bytes: Vec<u8>, before: Vec<(u32, Meaning)>, from: usize, to: usize) -> Result<(), EditError> {
        let new = Document::parse(&bytes, self.dialect);
        let expected = before.len() + (to - from);
        if new.items.len() != expected {
            let line = self.items.get(from).or(self.items.last()).map_or(1, |i| i.line);
            return Err(EditError::Neighbour(line));
        }
        let after = new.others(from, to);
        if let Some(((line, _), _)) = before.iter().zip(&after).find(|((_, a), (_, b))| a != b) {
            return Err(EditError::Neighbour(*line));
        }
        *self = new;
        Ok(())
    }

    fn check_value(&self, key: &str, value: &str) -> Result<(), EditError> {
        match self.get(key) {
            Some(e) if e.value == value => Ok(()),
            _ => Err(EditError::Value(key.to_owned())),
        }
    }
}

/// What an item says, wherever it stands.
#[derive(Debug, PartialEq, Eq)]
enum Meaning {
    Nothing,
    Setting(Vec<String>, String),
    Include(String),
    Error(String),
}

impl Item {
    fn meaning(&self) -> Meaning {
        match &self.kind {
            Kind::Bom | Kind::Blank | Kind::Comment => Meaning::Nothing,
            Kind::Setting(e) => Meaning::Setting(e.words.clone(), e.value.clone()),
            Kind::Include(i) => Meaning::Include(i.path.clone()),
            Kind::Error(e) => Meaning::Error(e.text.clone()),
        }
    }
}

/// Reads one item of a file.
struct Scanner<'a> {
    bytes: &'a [u8],
    dialect: Dialect,
    start: usize,
    line: u32,
}

/// A problem at a byte offset.
type Problem = (usize, String);

impl Scanner<'_> {
    fn item(&self) -> Item {
        let end = self.line_end(self.start);
        let (content, _) = split_eol(&self.bytes[self.start..end]);
        if content.iter().all(|b| is_blank(*b)) {
            return self.plain(end, Kind::Blank);
        }
        if let Some(bad) = invalid_utf8(&self.bytes[self.start..end]) {
            return self.error(self.start + bad, "not UTF-8: the broker's parser stops here".to_owned(), true);
        }
        if self.start == 0 && content.starts_with(BOM) {
            let message = "a byte order mark, which this version's parser does not accept".to_owned();
            return self.error(0, message, false);
        }
        if content[skip_blanks(content, 0)..].starts_with(b"#") {
            return self.plain(end, Kind::Comment);
        }
        let content_end = self.start + content.len();
        match self.setting(content_end) {
            Ok((entry, _)) if self.dialect.latin1 && beyond_latin1(&entry.value) => {
                let message = "this version's parser does not accept characters beyond Latin-1 in a value".to_owned();
                self.error(entry.value_span.start, message, true)
            }
            Ok((entry, last)) => {
                let end = self.line_end(last);
                match invalid_utf8(&self.bytes[self.start..end]) {
                    Some(bad) => self.error(self.start + bad, "not UTF-8: the broker's parser stops here".to_owned(), true),
                    None => self.plain(end, Kind::Setting(entry)),
                }
            }
            Err(problem) => match self.include(content_end) {
                Some(Ok(include)) => self.plain(end, Kind::Include(include)),
                Some(Err((at, message))) => self.error(at, message, false),
                None => self.error(problem.0, problem.1, false),
            },
        }
    }

    /// `key = value`; also gives where the setting ends, before the line end. `end` is the end of the first line.
    fn setting(&self, end: usize) -> Result<(Entry, usize), Problem> {
        let key_start = skip_blanks(&self.bytes[..end], self.start);
        let (words, key_end) = scan_key(&self.bytes[..end], key_start).ok_or_else(|| (key_start, self.no_key(key_start)))?;
        let equals = skip_blanks(&self.bytes[..end], key_end);
        if equals >= end || self.bytes[equals] != b'=' {
            return Err((equals, self.no_equals(key_end, equals, end)));
        }
        let at = skip_blanks(&self.bytes[..end], equals + 1);
        let (value, value_end, quoted) = match self.quoted(at) {
            Some((value, value_end)) => (value, value_end, true),
            None => self.unquoted(at, end)?,
        };
        let line_end =
            if value_end <= end { end } else { value_end + split_eol(&self.bytes[value_end..self.line_end(value_end)]).0.len() };
        let rest = skip_blanks(&self.bytes[..line_end], value_end);
        let comment = rest < line_end && self.bytes[rest] == b'#';
        if rest < line_end && !comment {
            return Err((rest, "text after the closing quote".to_owned()));
        }
        let entry = Entry {
            key: words.join("."),
            words,
            raw_key: self.text(key_start..key_end),
            value,
            quoted,
            comment_column: comment.then(|| self.column(rest)),
            line: self.line,
            column: self.column(key_start),
            value_column: self.column(at),
            text: self.text(self.start..line_end),
            key_span: key_start..key_end,
            value_span: at..value_end,
        };
        Ok((entry, line_end))
    }

    /// A value in quotes with the offset after the closing quote; `None`: the dialect or the text has none here.
    fn quoted(&self, at: usize) -> Option<(String, usize)> {
        let rest = &self.bytes[at..];
        if self.dialect.multi_line
            && rest.starts_with(b"'''")
            && let Some(length) = find(&rest[3..], b"'''")
        {
            let inner = self.text(at + 3..at + 3 + length);
            return Some((trim_multi_line(&inner).to_owned(), at + 6 + length));
        }
        if self.dialect.single_quotes && rest.starts_with(b"'") {
            let length = find(&rest[1..], b"'")?;
            return Some((self.text(at + 1..at + 1 + length), at + 2 + length));
        }
        None
    }

    /// A value without quotes: up to a comment or the blanks at the end of the line.
    fn unquoted(&self, at: usize, end: usize) -> Result<(String, usize, bool), Problem> {
        let hash = self.bytes[at..end].iter().position(|b| *b == b'#').map(|n| at + n);
        // Blanks at the very end of a file without a final line end belong to the value: the parser looks for a line end.
        let ended = hash.is_some() || end < self.bytes.len();
        let mut value_end = hash.unwrap_or(end);
        while ended && value_end > at && is_blank(self.bytes[value_end - 1]) {
            value_end -= 1;
        }
        if value_end == at {
            return Err((at, "no value after `=`".to_owned()));
        }
        Ok((self.text(at..value_end), value_end, false))
    }

    /// `include FILE`; `None`: the line does not look like one.
    fn include(&self, end: usize) -> Option<Result<Include, Problem>> {
        let word = skip_blanks(&self.bytes[..end], self.start);
        let after = word + b"include".len();
        if !self.bytes[word..end].starts_with(b"include") {
            return None;
        }
        let path = skip_blanks(&self.bytes[..end], after);
        if path == after && path < end && (self.dialect.include_blank || !self.dialect.include) {
            return None;
        }
        if !self.dialect.include {
            return Some(Err((word, "this version does not know `include`".to_owned())));
        }
        let in_path = |b: &u8| b.is_ascii_alphanumeric() || b"-_.*/".contains(b);
        let path_end = path + self.bytes[path..end].iter().take_while(|b| in_path(b)).count();
        if path_end == path {
            return Some(Err((path, "`include` without a file name".to_owned())));
        }
        let comment = skip_blanks(&self.bytes[..end], path_end);
        if path_end < end && (comment == end || self.bytes[comment] != b'#') {
            return Some(Err((path_end, "blanks or other text after the file name of `include`".to_owned())));
        }
        Some(Ok(Include { path: self.text(path..path_end), line: self.line, column: self.column(word) }))
    }

    fn no_key(&self, at: usize) -> String {
        match self.bytes[at] {
            b';' => "`;` does not start a comment here, `#` does".to_owned(),
            b'[' | b'{' => {
                "this is the format of rabbitmq.config and advanced.config or of INI files, not of rabbitmq.conf".to_owned()
            }
            b'=' => "no key before `=`".to_owned(),
            _ => "a key was expected: letters, digits, `_`, `-`, separated by dots".to_owned(),
        }
    }

    fn no_equals(&self, key_end: usize, at: usize, end: usize) -> String {
        match self.bytes.get(at).filter(|_| at < end) {
            None => "no `=` after the key".to_owned(),
            Some(b':') => "`:` instead of `=` between key and value".to_owned(),
            Some(_) if at > key_end => "`=` was expected after the key".to_owned(),
            Some(_) => "this character cannot be in a key: letters, digits, `_`, `-`, separated by dots".to_owned(),
        }
    }

    /// The offset after the line end of the line that holds `from`.
    fn line_end(&self, from: usize) -> usize {
        self.bytes[from..].iter().position(|b| *b == b'\n').map_or(self.bytes.len(), |n| from + n + 1)
    }

    fn plain(&self, end: usize, kind: Kind) -> Item {
        let span = self.start..end;
        let line_feeds = self.bytes[span.clone()].iter().filter(|b| **b == b'\n').count();
        let open = usize::from(!self.bytes[span.clone()].ends_with(b"\n"));
        Item { span, line: self.line, lines: (line_feeds + open) as u32, kind }
    }

    fn error(&self, at: usize, message: String, encoding: bool) -> Item {
        let end = self.line_end(self.start);
        let (content, _) = split_eol(&self.bytes[self.start..end]);
        let text = String::from_utf8_lossy(content).into_owned();
        self.plain(end, Kind::Error(SyntaxError { line: self.line, column: self.column(at), message, text, encoding }))
    }

    fn column(&self, at: usize) -> u32 {
        self.text(self.start..at).chars().count() as u32 + 1
    }

    fn text(&self, span: Range<usize>) -> String {
        String::from_utf8_lossy(&self.bytes[span]).into_owned()
    }
}

/// `word ("." word)*` from `start`: the unescaped words and the offset after the last one.
fn scan_key(bytes: &[u8], start: usize) -> Option<(Vec<String>, usize)> {
    let mut words = Vec::new();
    let mut pos = start;
    loop {
        let mut word = String::new();
        let mut at = pos;
        while let Some(b) = bytes.get(at) {
            if bytes[at..].starts_with(b"\\.") {
                word.push('.');
                at += 2;
            } else if b.is_ascii_alphanumeric() || *b == b'_' || *b == b'-' {
                word.push(char::from(*b));
                at += 1;
            } else {
                break;
            }
        }
        if word.is_empty() {
            // A dot that no word follows is not part of the key.
            return if words.is_empty() { None } else { Some((words, pos - 1)) };
        }
        words.push(word);
        if bytes.get(at) != Some(&b'.') {
            return Some((words, at));
        }
        pos = at + 1;
    }
}

fn beyond_latin1(value: &str) -> bool {
    value.chars().any(|c| u32::from(c) > 255)
}

/// The words of a key spelt as in a file; `None`: not a key.
fn key_words(key: &str) -> Option<Vec<String>> {
    scan_key(key.as_bytes(), 0).filter(|(_, end)| *end == key.len()).map(|(words, _)| words)
}

/// What cuttlefish takes off both ends of a `'''` value.
fn trim_multi_line(text: &str) -> &str {
    let mut text = text;
    loop {
        let shorter = ["'", "\r\n", "\n"].iter().fold(text, |t, p| t.strip_prefix(p).unwrap_or(t));
        let shorter = ["'", "\r\n", "\n"].iter().fold(shorter, |t, p| t.strip_suffix(p).unwrap_or(t));
        if shorter.len() == text.len() {
            return text;
        }
        text = shorter;
    }
}

fn is_blank(b: u8) -> bool {
    b == b' ' || b == b'\t'
}

fn skip_blanks(bytes: &[u8], from: usize) -> usize {
    from + bytes[from..].iter().take_while(|b| is_blank(**b)).count()
}

/// A physical line and its line end (empty at the end of a file without one).
fn split_eol(line: &[u8]) -> (&[u8], &[u8]) {
    let content = line.strip_suffix(b"\n").map_or(line, |l| l.strip_suffix(b"\r").unwrap_or(l));
    line.split_at(content.len())
}

fn invalid_utf8(bytes: &[u8]) -> Option<usize> {
    std::str::from_utf8(bytes).err().map(|e| e.valid_up_to())
}

/// Text that is not UTF-8 is taken for Latin-1, what most editors without UTF-8 write.
fn to_utf8(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => bytes.iter().map(|b| char::from(*b)).collect(),
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|w| w == what)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn v38() -> Dialect {
        Dialect::for_version(3, 8, 9)
    }
    fn v310() -> Dialect {
        Dialect::for_version(3, 10, 8)
    }
    fn v40() -> Dialect {
        Dialect::for_version(4, 0, 5)
    }
    fn v43() -> Dialect {
        Dialect::for_version(4, 3, 5)
    }

    fn value(text: &str, dialect: Dialect) -> Option<String> {
        let doc = Document::parse(text.as_bytes(), dialect);
        assert_eq!(doc.errors(), vec![], "{text:?}");
        doc.entries().last().map(|e| e.value.clone())
    }
    fn error(text: &[u8], dialect: Dialect) -> (u32, u32, String) {
        let errors = Document::parse(text, dialect).errors();
        assert_eq!(errors.len(), 1, "{text:?}: {errors:?}");
        (errors[0].line, errors[0].column, errors[0].message.clone())
    }
    fn edited(text: &str, dialect: Dialect, edit: impl FnOnce(&mut Document)) -> String {
        let mut doc = Document::parse(text.as_bytes(), dialect);
        edit(&mut doc);
        String::from_utf8(doc.to_bytes()).unwrap()
    }

    #[test]
    fn a_hash_cuts_the_value_with_or_without_a_blank() {
        for dialect in [v38(), v310(), v40(), v43()] {
            assert_eq!(value("default_pass = a#bc\n", dialect).unwrap(), "a");
            assert_eq!(value("default_pass = abc  # comment\n", dialect).unwrap(), "abc");
        }
        let doc = Document::parse(b"default_pass = a#bc\n", v40());
        assert_eq!(doc.entries().next().unwrap().comment_column, Some(17));
    }

    #[test]
    fn quotes_depend_on_the_version() {
        let text = "default_pass = 'a#b c'\n";
        assert_eq!(value(text, v38()).unwrap(), "'a");
        assert_eq!(value(text, v310()).unwrap(), "'a");
        assert_eq!(value(text, v40()).unwrap(), "a#b c");
        for dialect in [v38(), v310(), v40()] {
            assert_eq!(value("default_pass = \"abc\"\n", dialect).unwrap(), "\"abc\"");
        }
        assert_eq!(value("k = '' # empty\n", v40()).unwrap(), "");
        assert_eq!(value("k = 'open\n", v40()).unwrap(), "'open");
        assert_eq!(error(b"k = 'a'b\n", v40()).1, 8);
    }

    #[test]
    fn a_quoted_value_may_go_beyond_the_line() {
        let doc = Document::parse(b"k = 'a\nb' # c\nn = 1\n", v40());
        let entries: Vec<_> = doc.entries().collect();
        assert_eq!(entries[0].value, "a\nb");
        assert_eq!((entries[1].key.as_str(), entries[1].line), ("n", 3));
        assert_eq!(value("k = '''\nit's\n'''\n", v43()).unwrap(), "it's");
        assert_eq!(error(b"k = '''x'''\n", v40()).1, 7);
    }

    #[test]
    fn blanks_tabs_line_ends() {
        assert_eq!(value("\tlisteners.tcp.default\t=\t5672\t\n", v38()).unwrap(), "5672");
        assert_eq!(value("a = 1\r\nb = 2 \r\n", v38()).unwrap(), "2");
        assert_eq!(value("b = 2", v38()).unwrap(), "2");
        assert_eq!(value("b = 2 ", v38()).unwrap(), "2 ", "the parser trims before a line end only");
        assert_eq!(value("", v38()), None);
        assert_eq!(value("# only a comment", v38()), None);
        assert_eq!(value("  \t", v38()), None);
    }

    #[test]
    fn positions_and_text() {
        let doc = Document::parse("\n  listeners.tcp.1 = \u{fc} # x\n".as_bytes(), v40());
        let e = doc.entries().next().unwrap();
        assert_eq!((e.line, e.column, e.value_column, e.comment_column), (2, 3, 21, Some(23)));
        assert_eq!(e.text, "  listeners.tcp.1 = \u{fc} # x");
    }

    #[test]
    fn an_escaped_dot_is_part_of_a_word() {
        let doc = Document::parse(b"loopback_users.john\\.doe = true\n", v40());
        let e = doc.entries().next().unwrap();
        assert_eq!((e.key.as_str(), e.raw_key.as_str()), ("loopback_users.john.doe", "loopback_users.john\\.doe"));
        assert_eq!(e.words, ["loopback_users", "john.doe"]);
        assert!(doc.get("loopback_users.john\\.doe").is_some());
        assert!(doc.get("loopback_users.john.doe").is_none(), "three words are another key");
    }

    #[test]
    fn syntax_errors_have_a_place_and_a_reason() {
        assert_eq!(error(b"a = 1\n; no\nb = 2\n", v40()).0, 2);
        assert!(error(b"[rabbit]\n", v40()).2.contains("rabbitmq.config"));
        assert_eq!(
            error(b"listeners.tcp.default: 5672\n", v40()),
            (1, 22, "`:` instead of `=` between key and value".to_owned())
        );
        assert_eq!(error(b"listeners tcp default = 5672\n", v40()).1, 11);
        assert_eq!(error(b"listeners.tcp.default =\n", v40()), (1, 24, "no value after `=`".to_owned()));
        assert_eq!(error(b"k = # v\n", v40()).1, 5);
        assert_eq!(error(b"k\n", v40()).1, 2);
        assert_eq!(error(b"a..b = 1\n", v40()).1, 2);
    }

    #[test]
    fn a_byte_order_mark_depends_on_the_version() {
        let text = b"\xef\xbb\xbfk = 1\n";
        assert_eq!(error(text, v40()).0, 1);
        let doc = Document::parse(text, v43());
        assert_eq!((doc.errors(), doc.get("k").unwrap().column), (vec![], 1));
    }

    #[test]
    fn bytes_that_are_not_utf8_are_an_error_even_in_a_comment() {
        for text in [&b"a = 1\nk = \xfc\n"[..], b"a = 1\n## \xfc\n"] {
            let errors = Document::parse(text, v40()).errors();
            assert!(errors[0].encoding);
            assert_eq!(errors[0].line, 2);
        }
        let mut doc = Document::parse(b"k = M\xfcller\r\n", v40());
        doc.comment_out_line(1, "was not UTF-8").unwrap();
        assert_eq!(String::from_utf8(doc.to_bytes()).unwrap(), "# k = M\u{fc}ller  # was not UTF-8\r\n");
        assert_eq!(doc.errors(), vec![]);
    }

    #[test]
    fn characters_beyond_latin1_depend_on_the_version() {
        let text = "# \u{65e5}\na = \u{e4}\nb = 1\u{65e5}\nb = 2\n".as_bytes();
        let errors = Document::parse(text, v310()).errors();
        assert_eq!(errors.iter().map(|e| (e.line, e.column, e.encoding)).collect::<Vec<_>>(), [(3, 5, true)]);
        assert!(Document::parse(text, v40()).errors().is_empty());
        assert!(Document::parse(b"", v310()).set("a", "\u{65e5}").is_err());
    }

    #[test]
    fn includes_depend_on_the_version() {
        assert!(error(b"include x.conf\n", v38()).2.contains("does not know"));
        let doc = Document::parse(b"include conf.d/*.conf # more\nheartbeat = 30\n", v310());
        assert_eq!(doc.includes(), [Include { path: "conf.d/*.conf".into(), line: 1, column: 1 }]);
        assert_eq!(error(b"include x.conf \n", v310()).1, 15);
        assert_eq!(Document::parse(b"includex.conf\n", v310()).includes().len(), 1);
        error(b"includex.conf\n", v40());
    }

    #[test]
    fn dialects_follow_the_bundled_cuttlefish() {
        assert!(!v38().include && v310().include && !v310().single_quotes);
        assert!(Dialect::for_version(3, 8, 35).include);
        assert!(!Dialect::for_version(3, 12, 14).single_quotes && Dialect::for_version(3, 13, 7).single_quotes);
        assert!(!Dialect::for_version(4, 2, 0).multi_line && Dialect::for_version(4, 2, 9).multi_line);
        assert!(Dialect::for_version(4, 3, 0).bom_ok && Dialect::for_version(5, 0, 0).multi_line);
    }

    #[test]
    fn set_changes_the_last_setting_in_place_and_keeps_its_comment() {
        let text = "a=1 # one\r\nb = 2\r\na  =  3\t# three\r\n";
        assert_eq!(edited(text, v40(), |d| d.set("a", "9").unwrap()), "a=1 # one\r\nb = 2\r\na  =  9\t# three\r\n");
    }

    #[test]
    fn a_new_key_goes_after_its_nearest_sibling_in_its_style() {
        let text = "listeners.tcp.1=5672\r\nheartbeat=60\r\n";
        let want = "listeners.tcp.1=5672\r\nlisteners.ssl.1=5671\r\nheartbeat=60\r\n";
        assert_eq!(edited(text, v40(), |d| d.set("listeners.ssl.1", "5671").unwrap()), want);
        assert_eq!(edited("", v40(), |d| d.set("a.b", "1").unwrap()), "a.b = 1\n");
        assert_eq!(edited("# c", v40(), |d| d.set("a", "1").unwrap()), "# c\na = 1");
        assert_eq!(edited("b = 2 ", v40(), |d| d.set("a", "1").unwrap()), "a = 1\nb = 2 ");
    }

    #[test]
    fn values_are_quoted_only_where_needed_and_possible() {
        assert_eq!(edited("", v40(), |d| d.set("a", "x#y").unwrap()), "a = 'x#y'\n");
        assert_eq!(edited("a = '1' # c\n", v40(), |d| d.set("a", "2").unwrap()), "a = 2 # c\n");
        assert_eq!(Document::parse(b"", v310()).set("a", "x#y"), Err(EditError::Value("a".into())));
        assert_eq!(Document::parse(b"", v40()).set("a", "x#'y"), Err(EditError::Value("a".into())));
        assert_eq!(edited("", v43(), |d| d.set("a", "x#'y").unwrap()), "a = '''x#'y'''\n");
        assert_eq!(Document::parse(b"", v40()).set("a b", "1"), Err(EditError::Key("a b".into())));
    }

    #[test]
    fn an_edit_that_would_close_an_open_quote_elsewhere_is_refused() {
        let mut doc = Document::parse(b"a = 'open\nb = 2\n", v40());
        assert!(doc.set("c", "it's").is_err());
        assert_eq!(doc.to_bytes(), b"a = 'open\nb = 2\n");
    }

    #[test]
    fn comments_renames_and_removals() {
        let text = "a = 1\nlistner = 5\nb = 2";
        assert_eq!(
            edited(text, v40(), |d| d.comment_out_line(2, "unknown key").unwrap()),
            "a = 1\n# listner = 5  # unknown key\nb = 2"
        );
        assert_eq!(edited(text, v40(), |d| d.rename_key(2, "listener").unwrap()), "a = 1\nlistener = 5\nb = 2");
        assert_eq!(edited(text, v40(), |d| assert!(d.unset("b").unwrap())), "a = 1\nlistner = 5");
        assert_eq!(edited("a = 1\na = 2\n", v40(), |d| assert!(d.unset("a").unwrap())), "");
        assert_eq!(edited("k = 'a\nb'\nc = 1\n", v40(), |d| d.comment_out_line(2, "x").unwrap()), "# k = 'a  # x\n# b'\nc = 1\n");
        let mut doc = Document::parse(text.as_bytes(), v40());
        assert_eq!(doc.comment_out_line(9, ""), Err(EditError::NoLine(9)));
        assert_eq!(doc.set_at(9, "1"), Err(EditError::NoSetting(9)));
    }

    fn any_dialect() -> impl Strategy<Value = Dialect> {
        prop_oneof![Just(v38()), Just(v310()), Just(v40()), Just(v43())]
    }
    /// Bytes that look like a configuration, so that the interesting cases are frequent.
    fn any_file() -> impl Strategy<Value = Vec<u8>> {
        const PIECES: &[&[u8]] = &[
            b"a",
            b"b.c",
            b" = ",
            b"=",
            b"'",
            b"'''",
            b"#",
            b" ",
            b"\t",
            b"\r\n",
            b"\n",
            b"\r",
            b"\\.",
            b".",
            b"include x",
            b"\xef\xbb\xbf",
            b"\xfc",
            b"k = 1\n",
            b"a = 2\r\n",
        ];
        prop_oneof![
            proptest::collection::vec(proptest::sample::select(PIECES), 0..20).prop_map(|v| v.concat()),
            proptest::collection::vec(any::<u8>(), 0..60),
        ]
    }
    fn any_value() -> impl Strategy<Value = String> {
        prop_oneof!["[a-z0-9:/.]{1,8}", "[ab'# \t\n]{0,6}", any::<String>()]
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn parsing_keeps_every_byte(bytes in any_file(), dialect in any_dialect()) {
            let doc = Document::parse(&bytes, dialect);
            let joined: Vec<u8> = doc.items.iter().flat_map(|i| bytes[i.span.clone()].to_vec()).collect();
            prop_assert_eq!(&joined, &bytes);
            prop_assert_eq!(doc.to_bytes(), bytes);
        }

        #[test]
        fn set_then_get_and_twice_is_once(bytes in any_file(), dialect in any_dialect(), value in any_value(), key in "a|b\\.c|new\\.key") {
            let mut doc = Document::parse(&bytes, dialect);
            if doc.set(&key, &value).is_err() {
                prop_assert_eq!(doc.to_bytes(), bytes, "a refused edit changes nothing");
                return Ok(());
            }
            prop_assert_eq!(&doc.get(&key).unwrap().value, &value);
            let once = doc.to_bytes();
            prop_assert_eq!(&Document::parse(&once, dialect), &doc);
            doc.set(&key, &value).unwrap();
            prop_assert_eq!(doc.to_bytes(), once);
        }

        #[test]
        fn setting_a_new_key_adds_one_line_and_unset_takes_it_away(bytes in any_file(), dialect in any_dialect(), value in "[a-z0-9]{1,8}") {
            let mut doc = Document::parse(&bytes, dialect);
            if doc.set("new.key", &value).is_ok() {
                let lines = |b: &[u8]| b.split(|b| *b == b'\n').map(|l| l.strip_suffix(b"\r").unwrap_or(l).to_vec()).collect::<Vec<_>>();
                let (before, mut after) = (lines(&bytes), lines(&doc.to_bytes()));
                let new = after.iter().rposition(|l| l.windows(7).any(|w| w == b"new.key")).unwrap();
                after.remove(new);
                if !bytes.is_empty() && !bytes.starts_with(BOM) {
                    prop_assert_eq!(after, before);
                }
                prop_assert!(doc.unset("new.key").unwrap());
                prop_assert_eq!(doc.to_bytes(), bytes);
            }
        }

        #[test]
        fn a_change_in_place_leaves_every_other_line(bytes in any_file(), dialect in any_dialect(), value in any_value()) {
            let mut doc = Document::parse(&bytes, dialect);
            let Some(entry) = doc.get("a").cloned() else { return Ok(()) };
            if doc.set("a", &value).is_ok() && entry.value != value {
                let after = doc.to_bytes();
                prop_assert_eq!(&after[..entry.value_span.start], &bytes[..entry.value_span.start]);
                prop_assert!(after.ends_with(&bytes[entry.value_span.end..]));
            }
        }

        #[test]
        fn a_commented_line_says_nothing_and_moves_no_line(bytes in any_file(), dialect in any_dialect(), line in 1u32..6) {
            let mut doc = Document::parse(&bytes, dialect);
            let others: Vec<_> = doc.entries().map(|e| (e.key.clone(), e.line)).collect();
            if doc.comment_out_line(line, "why").is_ok() {
                prop_assert!(!doc.entries().any(|e| e.line == line));
                prop_assert!(doc.entries().all(|e| others.contains(&(e.key.clone(), e.line))));
                prop_assert!(!doc.errors().iter().any(|e| e.line == line));
            }
        }
    }
}

//! Erlang terms as text: advanced.config, rabbitmq.config, enabled_plugins, *.app and cuttlefish schemas.
//!
//! Nothing is ever executed: [`read`] reads what the broker's readers would read, [`forms`] steps over `fun … end` bodies and
//! keeps their text, because schema files hold code between their data.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

/// How a file is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dialect {
    pub reader: Reader,
    /// Major release of Erlang/OTP; `None`: not known.
    pub otp: Option<u32>,
}

/// Who reads a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reader {
    /// `file:consult/1`: terms, in UTF-8 unless a comment says otherwise. advanced.config up to RabbitMQ 3.9.20 and 3.10.5.
    Consult,
    /// `rabbit_prelaunch_file`: one expression, which is evaluated, in Latin-1 unless a comment says otherwise. advanced.config
    /// since.
    Expression,
    /// `rabbit_file:read_term_file/1`: terms, in Latin-1. enabled_plugins.
    Sequence,
}

/// From here on there are triple-quoted strings and sigils.
const SIGILS: u32 = 27;

/// One term with the place where it starts; lines and columns count from 1, columns in characters.
#[derive(Debug, Clone, PartialEq)]
pub struct Term {
    pub value: Value,
    pub line: u32,
    pub column: u32,
}

/// What a term is.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Atom(String),
    /// A string literal: in Erlang a list of code points.
    String(String),
    /// A binary; `<<"x">>` and `<<120>>` alike.
    Binary(Vec<u8>),
    Int(i128),
    Float(f64),
    List(Vec<Term>),
    Tuple(Vec<Term>),
    Map(Vec<(Term, Term)>),
    /// The text of a `fun … end`, unread.
    Fun(String),
    /// A term that Erlang reads and this type cannot hold: a larger number, an improper list, a bit string, `fun m:f/1`.
    Opaque,
}

/// Why a text could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {message}")]
pub struct Error {
    pub line: u32,
    pub column: u32,
    pub message: String,
    /// Erlang refuses it too. Otherwise it may be an expression with a value, or something that is not read here.
    pub certain: bool,
}

impl Term {
    /// The name of an atom.
    pub fn atom(&self) -> Option<&str> {
        match &self.value {
            Value::Atom(a) => Some(a),
            _ => None,
        }
    }
    pub fn int(&self) -> Option<i128> {
        match self.value {
            Value::Int(i) => Some(i),
            _ => None,
        }
    }
    /// The elements of a list; a string is not a list here.
    pub fn list(&self) -> Option<&[Term]> {
        match &self.value {
            Value::List(items) => Some(items),
            // An empty string and an empty list are the same term.
            Value::String(s) if s.is_empty() => Some(&[]),
            _ => None,
        }
    }
    pub fn tuple(&self) -> Option<&[Term]> {
        match &self.value {
            Value::Tuple(items) => Some(items),
            _ => None,
        }
    }
    /// The text of a string, a binary or an atom.
    pub fn text(&self) -> Option<String> {
        match &self.value {
            Value::String(s) | Value::Atom(s) => Some(s.clone()),
            Value::Binary(b) => Some(String::from_utf8_lossy(b).into_owned()),
            Value::List(items) if items.is_empty() => Some(String::new()),
            _ => None,
        }
    }
    /// Both halves of a two-tuple.
    pub fn pair(&self) -> Option<(&Term, &Term)> {
        match self.tuple()? {
            [a, b] => Some((a, b)),
            _ => None,
        }
    }
    /// `proplists:get_value/2` over a list of pairs: the first `{key, Value}`.
    pub fn property(&self, key: &str) -> Option<&Term> {
        self.list()?.iter().filter_map(Term::pair).find(|(k, _)| k.atom() == Some(key)).map(|(_, v)| v)
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Atom(a) if plain_atom(a) => f.write_str(a),
            Value::Atom(a) => write!(f, "'{}'", a.replace('\\', "\\\\").replace('\'', "\\'")),
            Value::String(s) => write!(f, "{s:?}"),
            Value::Binary(b) => write!(f, "<<{:?}>>", String::from_utf8_lossy(b)),
            Value::Int(i) => write!(f, "{i}"),
            Value::Float(x) => write!(f, "{x:?}"),
            Value::List(items) => {
                f.write_str("[")?;
                join(f, items)?;
                f.write_str("]")
            }
            Value::Tuple(items) => {
                f.write_str("{")?;
                join(f, items)?;
                f.write_str("}")
            }
            Value::Map(pairs) => {
                f.write_str("#{")?;
                for (i, (k, v)) in pairs.iter().enumerate() {
                    write!(f, "{}{} => {}", if i > 0 { "," } else { "" }, k.value, v.value)?;
                }
                f.write_str("}")
            }
            Value::Fun(_) => f.write_str("fun … end"),
            Value::Opaque => f.write_str("…"),
        }
    }
}

fn join(f: &mut fmt::Formatter<'_>, items: &[Term]) -> fmt::Result {
    for (i, t) in items.iter().enumerate() {
        write!(f, "{}{}", if i > 0 { "," } else { "" }, t.value)?;
    }
    Ok(())
}

fn plain_atom(a: &str) -> bool {
    a.starts_with(|c: char| c.is_ascii_lowercase()) && a.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '@')
}

/// The terms of a file, as its reader gives them.
pub fn read(bytes: &[u8], dialect: Dialect) -> Result<Vec<Term>, Error> {
    let (text, end) = decode(bytes, dialect.reader);
    let mut parser = Parser { tokens: Tokens::new(&text, dialect.otp), peeked: None, funs: false, evaluated: None };
    match dialect.reader {
        Reader::Consult => parser.consult(end),
        Reader::Sequence => {
            parser.ahead(false)?;
            parser.consult(end)
        }
        Reader::Expression => parser.expression(end),
    }
}

/// The terms of a text, as `file:consult/1` reads them: each ended by a dot, no expressions.
pub fn consult(text: &str) -> Result<Vec<Term>, Error> {
    Parser { tokens: Tokens::new(text, Some(SIGILS)), peeked: None, funs: false, evaluated: None }.consult(None)
}

/// The text up to the first bytes that are not of its encoding, and the error that these are.
fn decode(bytes: &[u8], reader: Reader) -> (Cow<'_, str>, Option<Error>) {
    let utf8 = match (reader, encoding(bytes)) {
        (Reader::Sequence, _) => false,
        (_, Some(encoding)) => encoding == Encoding::Utf8,
        (reader, None) => reader == Reader::Consult,
    };
    if !utf8 {
        return (Cow::Owned(bytes.iter().map(|b| char::from(*b)).collect()), None);
    }
    match std::str::from_utf8(bytes) {
        Ok(text) => (Cow::Borrowed(text), None),
        Err(error) => {
            let text = String::from_utf8_lossy(&bytes[..error.valid_up_to()]).into_owned();
            let mut place = Tokens::new(&text, None);
            place.advance(text.len());
            let error = place.error("not UTF-8");
            (Cow::Owned(text), Some(error))
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Encoding {
    Latin1,
    Utf8,
}

/// What a comment in the first two lines says: `coding: NAME` or `coding=NAME` (epp:read_encoding).
fn encoding(bytes: &[u8]) -> Option<Encoding> {
    bytes.split(|b| *b == b'\n').take(2).find_map(|line| {
        let comment = &line[line.iter().position(|b| *b == b'%')?..];
        let text = String::from_utf8_lossy(comment).to_lowercase();
        let name = text.match_indices("coding").find_map(|(at, _)| {
            let rest = text[at + "coding".len()..].trim_start_matches([' ', '\t']);
            Some(rest.strip_prefix([':', '='])?.trim_start_matches([' ', '\t']))
        })?;
        match name.split(|c: char| c != '-' && !c.is_ascii_alphanumeric()).next() {
            Some("latin-1") => Some(Encoding::Latin1),
            Some("utf-8") => Some(Encoding::Utf8),
            _ => None,
        }
    })
}

/// Every form of a schema file. A form that cannot be read is given as its error, and reading goes on after its dot.
pub fn forms(text: &str) -> Vec<Result<Term, Error>> {
    let mut parser = Parser { tokens: Tokens::new(text, None), peeked: None, funs: true, evaluated: None };
    let mut forms = Vec::new();
    loop {
        match parser.peek() {
            Ok(t) if t.kind == Kind::End => return forms,
            _ => {}
        }
        let form = parser.form();
        let failed = form.is_err();
        forms.push(form);
        if failed && !parser.skip_to_dot() {
            return forms;
        }
    }
}

/// The tokens of a piece of Erlang, comments left out; ends early where the text cannot be scanned.
pub fn tokens(text: &str) -> Vec<Token<'_>> {
    let mut scanner = Tokens::new(text, None);
    let mut all = Vec::new();
    while let Ok(token) = scanner.next() {
        if token.kind == Kind::End {
            break;
        }
        all.push(token);
    }
    all
}

/// The bytes of the term that begins at this line and column; `None` where none does.
pub fn span(text: &str, line: u32, column: u32) -> Option<Range<usize>> {
    let mut depth = 0_u32;
    let mut start = None;
    for token in tokens(text) {
        if start.is_none() && (token.line, token.column) != (line, column) {
            continue;
        }
        let start = *start.get_or_insert(token.offset);
        match token.text {
            "[" | "{" | "<<" if token.kind == Kind::Punct => depth += 1,
            "]" | "}" | ">>" if token.kind == Kind::Punct => depth = depth.checked_sub(1)?,
            _ => {}
        }
        if depth == 0 {
            return Some(start..token.offset + token.text.len());
        }
    }
    None
}

/// Kind of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An atom or a reserved word (`fun`, `end`, …).
    Word,
    QuotedAtom,
    Variable,
    Integer,
    Float,
    Char,
    String,
    /// `"""` … `"""` of OTP 27.
    LongString,
    /// `~"…"`, `~b"…"`, `~S(…)` and so on of OTP 27.
    Sigil,
    Punct,
    /// The full stop that ends a form.
    Dot,
    /// End of the text.
    End,
}

/// One token; `text` is the source as it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token<'a> {
    pub kind: Kind,
    pub text: &'a str,
    pub line: u32,
    pub column: u32,
    /// Byte offset in the source.
    pub offset: usize,
}

impl Token<'_> {
    /// Whether this is the given word or punctuation.
    pub fn is(&self, text: &str) -> bool {
        matches!(self.kind, Kind::Word | Kind::Punct) && self.text == text
    }
}

#[derive(Clone)]
struct Tokens<'a> {
    source: &'a str,
    offset: usize,
    line: u32,
    column: u32,
    /// `None`: not known; what differs between releases is not certain then.
    otp: Option<u32>,
}

impl<'a> Tokens<'a> {
    fn new(source: &'a str, otp: Option<u32>) -> Self {
        Tokens { source, offset: 0, line: 1, column: 1, otp }
    }

    fn rest(&self) -> &'a str {
        self.source.get(self.offset..).unwrap_or("")
    }

    fn error(&self, message: impl Into<String>) -> Error {
        Error { line: self.line, column: self.column, message: message.into(), certain: true }
    }

    /// An error in a token: certain, unless releases differ there.
    fn refuse(&self, why: Why) -> Error {
        let modern = self.rest().starts_with('~') || self.rest().starts_with("\"\"\"");
        let differs = why == DIFFERS || self.otp.is_none() && modern;
        Error { certain: !differs, ..self.error(why) }
    }

    /// Moves on over `len` bytes, keeping line and column.
    fn advance(&mut self, len: usize) {
        for byte in self.rest().as_bytes().iter().take(len) {
            match byte {
                b'\n' => {
                    self.line += 1;
                    self.column = 1;
                }
                // The first byte of a character counts, those that continue it do not.
                _ => self.column += u32::from(byte & 0xc0 != 0x80),
            }
        }
        self.offset += len;
    }

    fn skip_blanks(&mut self) {
        loop {
            let rest = self.rest();
            let bytes = rest.as_bytes();
            let len = match bytes.first() {
                Some(b'%') => rest.find('\n').unwrap_or(rest.len()),
                Some(b) if b.is_ascii() => bytes.iter().take_while(|b| **b <= b' ').count(),
                Some(_) => rest.len() - rest.trim_start_matches(is_blank).len(),
                None => 0,
            };
            if len == 0 {
                return;
            }
            self.advance(len);
        }
    }

    fn next(&mut self) -> Result<Token<'a>, Error> {
        self.skip_blanks();
        let rest = self.rest();
        let of = |kind: Kind, len: Result<usize, Why>| len.map(|len| (kind, len)).map_err(|why| self.refuse(why));
        let (kind, len) = match rest.chars().next() {
            None => (Kind::End, 0),
            Some(c) if c.is_ascii_digit() => {
                if self.otp.is_none_or(|otp| otp >= BASED_FLOATS) && based_float(rest) {
                    return Err(Error { certain: false, ..self.error("a float with a base: not read") });
                }
                number(rest).map_err(|why| self.refuse(why))?
            }
            Some(c) if is_lower(c) => (Kind::Word, word(rest)),
            Some(c) if is_upper(c) => (Kind::Variable, word(rest)),
            Some('"' | '~') if rest.starts_with("\"\"\"") || rest.starts_with('~') => self.modern(rest)?,
            Some('"') => of(Kind::String, quoted(rest, '"', self.otp))?,
            Some('\'') => of(Kind::QuotedAtom, quoted(rest, '\'', self.otp))?,
            Some('$') => of(Kind::Char, char_literal(rest, self.otp))?,
            Some('.') if ends_form(rest) => (Kind::Dot, 1),
            Some(c) => match punctuation(rest) {
                Some(len) => (Kind::Punct, len),
                None => return Err(self.error(format!("illegal character {c:?}"))),
            },
        };
        let token =
            Token { kind, text: rest.get(..len).unwrap_or(""), line: self.line, column: self.column, offset: self.offset };
        self.advance(len);
        Ok(token)
    }

    /// What means something else, or nothing, before OTP 27.
    fn modern(&self, rest: &str) -> Result<(Kind, usize), Error> {
        let sigil = rest.starts_with('~');
        match self.otp {
            Some(otp) if otp < SIGILS && sigil => Ok((Kind::Punct, 1)),
            Some(otp) if otp < SIGILS => Ok((Kind::String, 2)),
            _ if sigil => self::sigil(rest, self.otp).map(|len| (Kind::Sigil, len)).map_err(|why| self.refuse(why)),
            _ => long_string(rest).map(|len| (Kind::LongString, len)).map_err(|why| self.refuse(why)),
        }
    }
}

/// Erlang's letters and blanks are those of Latin-1.
fn is_lower(c: char) -> bool {
    matches!(c, 'a'..='z' | 'ß'..='ö' | 'ø'..='ÿ')
}

fn is_upper(c: char) -> bool {
    matches!(c, 'A'..='Z' | '_' | 'À'..='Ö' | 'Ø'..='Þ')
}

fn is_name(c: char) -> bool {
    is_lower(c) || is_upper(c) || c.is_ascii_digit() || c == '@'
}

fn is_blank(c: char) -> bool {
    matches!(c, '\0'..=' ' | '\u{80}'..='\u{a0}')
}

fn word(rest: &str) -> usize {
    let ascii = rest.bytes().take_while(|b| b.is_ascii_alphanumeric() || *b == b'_' || *b == b'@').count();
    if rest.as_bytes().get(ascii).is_none_or(u8::is_ascii) {
        return ascii;
    }
    rest.find(|c: char| !is_name(c)).unwrap_or(rest.len())
}

/// From here on a float may have a base.
const BASED_FLOATS: u32 = 28;

/// `16#f.8`
fn based_float(rest: &str) -> bool {
    let base = rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == '_');
    let Some(digits) = base.strip_prefix('#') else { return false };
    let tail = digits.trim_start_matches(|c: char| c.is_ascii_alphanumeric() || c == '_');
    tail.len() < digits.len() && tail.strip_prefix('.').is_some_and(|t| t.starts_with(|c: char| c.is_ascii_alphanumeric()))
}

/// Length of digits of a base; underscores stand between two of them.
fn digits(text: &str, base: u32) -> usize {
    let bytes = text.as_bytes();
    let digit = |at: usize| bytes.get(at).is_some_and(|b| char::from(*b).is_digit(base));
    let mut len = 0;
    while digit(len) || len > 0 && bytes.get(len) == Some(&b'_') && digit(len - 1) && digit(len + 1) {
        len += 1;
    }
    len
}

/// `12`, `16#ff_ff`, `1_000`, `1.5`, `1.5e-3`.
fn number(rest: &str) -> Result<(Kind, usize), Why> {
    let from = |at: usize| rest.get(at..).unwrap_or("");
    let bytes = rest.as_bytes();
    let mut end = digits(rest, 10);
    if bytes.get(end) == Some(&b'#') {
        let base: u32 = rest[..end].replace('_', "").parse().map_err(|_| "illegal base")?;
        if !(2..=36).contains(&base) {
            return Err("illegal base");
        }
        return match digits(from(end + 1), base) {
            0 => Err("illegal integer"),
            len => Ok((Kind::Integer, end + 1 + len)),
        };
    }
    if bytes.get(end) != Some(&b'.') || !bytes.get(end + 1).is_some_and(u8::is_ascii_digit) {
        return Ok((Kind::Integer, end));
    }
    end += 1 + digits(from(end + 1), 10);
    if matches!(bytes.get(end), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
        let len = digits(from(end + 1 + sign), 10);
        if len == 0 {
            return Err("illegal float");
        }
        end += 1 + sign + len;
    }
    match rest[..end].replace('_', "").parse::<f64>() {
        Ok(x) if x.is_finite() => Ok((Kind::Float, end)),
        _ => Err("illegal float"),
    }
}

/// Why a token cannot be read.
type Why = &'static str;

const DIFFERS: Why = "releases differ in what this control character is";

/// Length of a literal in `quote`s, backslash escapes included.
fn quoted(rest: &str, quote: char, otp: Option<u32>) -> Result<usize, Why> {
    enclosed(rest, 1, quote, otp).map(|len| len + quote.len_utf8())
}

/// Where the text from `start` up to an unescaped `close` ends.
fn enclosed(rest: &str, start: usize, close: char, otp: Option<u32>) -> Result<usize, Why> {
    let mut at = start;
    while let Some(c) = rest.get(at..).and_then(|r| r.chars().next()) {
        match c {
            _ if c == close => return Ok(at),
            '\\' => at += escape(&rest[at..], otp)?.1,
            _ if !is_unicode(c) => return Err("illegal character"),
            _ => at += c.len_utf8(),
        }
    }
    Err("a quote that is not closed")
}

/// Erlang's own idea of characters.
fn is_unicode(c: char) -> bool {
    !matches!(c, '\u{fffe}' | '\u{ffff}')
}

/// Length of a `"""` string.
fn long_string(rest: &str) -> Result<usize, Why> {
    let quotes = rest.len() - rest.trim_start_matches('"').len();
    let fence = &rest[..quotes];
    let mut lines = rest[quotes..].split_inclusive('\n');
    let first = lines.next().unwrap_or("");
    if !first.ends_with('\n') || !first.chars().all(is_blank) {
        return Err("a triple-quoted string begins on the next line");
    }
    let mut at = quotes + first.len();
    let start = at;
    for line in lines {
        let text = line.trim_start_matches(is_blank_inline);
        if text.starts_with(fence) {
            let indent = &line[..line.len() - text.len()];
            let indented = |l: &str| l.starts_with(indent) || l.trim_end_matches(['\n', '\r']).is_empty();
            if !rest[start..at].split_inclusive('\n').all(indented) {
                return Err("a line of a triple-quoted string is not indented as its last one");
            }
            return Ok(at + indent.len() + fence.len());
        }
        at += line.len();
    }
    Err("a triple-quoted string that is not closed")
}

fn is_blank_inline(c: char) -> bool {
    is_blank(c) && c != '\n'
}

/// Length of a sigil with everything that belongs to it.
fn sigil(rest: &str, otp: Option<u32>) -> Result<usize, Why> {
    let prefix = 1 + word(&rest[1..]);
    let verbatim = rest[1..prefix].starts_with(|c: char| c.is_ascii_uppercase());
    if !["", "s", "S", "b", "B"].contains(&&rest[1..prefix]) {
        return Err("illegal sigil");
    }
    let text = &rest[prefix..];
    let end = if text.starts_with("\"\"\"") {
        prefix + long_string(text)?
    } else {
        let open = text.chars().next().ok_or("illegal sigil")?;
        let close = closing(open).ok_or("illegal sigil")?;
        let inner = prefix + open.len_utf8();
        let end = if verbatim {
            inner + rest[inner..].find(close).ok_or("a sigil that is not closed")?
        } else {
            enclosed(rest, inner, close, otp)?
        };
        end + close.len_utf8()
    };
    if rest[end..].starts_with(is_name) {
        return Err("illegal sigil suffix");
    }
    Ok(end)
}

/// What closes a sigil.
fn closing(open: char) -> Option<char> {
    match open {
        '(' => Some(')'),
        '[' => Some(']'),
        '{' => Some('}'),
        '<' => Some('>'),
        '"' | '\'' | '/' | '|' | '`' | '#' => Some(open),
        _ => None,
    }
}

fn char_literal(rest: &str, otp: Option<u32>) -> Result<usize, Why> {
    let c = rest.chars().nth(1).ok_or("illegal character")?;
    if c != '\\' {
        return if is_unicode(c) { Ok(1 + c.len_utf8()) } else { Err("illegal character") };
    }
    escape(&rest[1..], otp).map(|(_, len)| 1 + len)
}

fn ends_form(rest: &str) -> bool {
    rest.chars().nth(1).is_none_or(|c| is_blank(c) || c == '%')
}

fn punctuation(rest: &str) -> Option<usize> {
    const LONG: [&str; 20] = [
        "=:=", "=/=", "...", "<<", ">>", "->", "<-", "=>", ":=", "||", "++", "--", "==", "/=", "=<", ">=", "::", "..", "?=", "<=",
    ];
    const SHORT: &str = "[](){},|:;#=<>+-*/!?.^&@";
    // The most frequent ones begin no longer one.
    if rest.starts_with(['(', ')', '[', ']', '{', '}', ',', ';']) {
        return Some(1);
    }
    if let Some(p) = LONG.iter().find(|p| rest.starts_with(**p)) {
        return Some(p.len());
    }
    rest.chars().next().filter(|c| SHORT.contains(*c)).map(char::len_utf8)
}

/// Value and length of one escape sequence, `text` beginning with its backslash.
fn escape(text: &str, otp: Option<u32>) -> Result<(char, usize), Why> {
    const ILLEGAL: Why = "illegal escape sequence";
    let c = text.chars().nth(1).ok_or(ILLEGAL)?;
    let one = |c| Ok((c, 2));
    match c {
        'n' => one('\n'),
        'r' => one('\r'),
        't' => one('\t'),
        'v' => one('\u{b}'),
        'b' => one('\u{8}'),
        'f' => one('\u{c}'),
        'e' => one('\u{1b}'),
        's' => one(' '),
        'd' => one('\u{7f}'),
        '0'..='7' => {
            let digits: String = text.chars().skip(1).take(3).take_while(|c| c.is_digit(8)).collect();
            let c = u32::from_str_radix(&digits, 8).ok().and_then(char::from_u32).ok_or(ILLEGAL)?;
            Ok((c, 1 + digits.len()))
        }
        'x' if text[2..].starts_with('{') => {
            let close = text.find('}').ok_or(ILLEGAL)?;
            Ok((hexadecimal(&text[3..close]).ok_or(ILLEGAL)?, close + 1))
        }
        'x' => Ok((text.get(2..4).and_then(hexadecimal).ok_or(ILLEGAL)?, 4)),
        '^' => {
            let c = text.chars().nth(2).ok_or(ILLEGAL)?;
            Ok((control(c, otp)?, 2 + c.len_utf8()))
        }
        c if is_unicode(c) => Ok((c, 1 + c.len_utf8())),
        _ => Err(ILLEGAL),
    }
}

/// `\^c`. Up to OTP 25 any character may follow, from 27 on those that have a control character.
fn control(c: char, otp: Option<u32>) -> Result<char, Why> {
    let low = char::from_u32(c as u32 & 31).ok_or(DIFFERS)?;
    match (c, otp) {
        ('@'..='_' | 'a'..='z', _) | (_, Some(..=25)) => Ok(low),
        ('?', Some(27..)) => Ok('\u{7f}'),
        (_, Some(27..)) => Err("illegal control character"),
        _ => Err(DIFFERS),
    }
}

fn hexadecimal(digits: &str) -> Option<char> {
    let all = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_hexdigit());
    let number = u32::from_str_radix(digits.trim_start_matches('0'), 16);
    let c = if digits.trim_start_matches('0').is_empty() { Some('\0') } else { char::from_u32(number.ok()?) };
    c.filter(|c| all && is_unicode(*c))
}

fn unescape(inner: &str, otp: Option<u32>) -> String {
    let mut out = String::with_capacity(inner.len());
    let mut rest = inner;
    while let Some(at) = rest.find('\\') {
        out.push_str(rest.get(..at).unwrap_or(""));
        let tail = rest.get(at..).unwrap_or("");
        let Ok((c, len)) = escape(tail, otp) else { break };
        out.push(c);
        rest = tail.get(len..).unwrap_or("");
    }
    out.push_str(rest);
    out
}

/// The text of a quoted token without its quotes and escapes.
pub fn unquote(token: &Token<'_>) -> String {
    unquote_as(token, None)
}

fn unquote_as(token: &Token<'_>, otp: Option<u32>) -> String {
    match token.kind {
        Kind::LongString => long_text(token.text),
        Kind::String | Kind::QuotedAtom => unescape(token.text.get(1..token.text.len() - 1).unwrap_or(""), otp),
        _ => token.text.to_owned(),
    }
}

/// The lines between the fences of a `"""` string, less the indentation of its last line.
fn long_text(text: &str) -> String {
    let inner = text.trim_matches('"');
    let mut lines: Vec<&str> = inner.split('\n').skip(1).collect();
    let indent = lines.pop().unwrap_or("");
    lines.iter().map(|l| l.strip_prefix(indent).unwrap_or(l.trim_start_matches(is_blank))).collect::<Vec<_>>().join("\n")
}

/// A sigil's value: a string for `s` and `S`, else a binary. Escapes count in `s`, `b` and, outside of triple quotes, without a letter.
fn sigil_value(token: &Token<'_>, otp: Option<u32>) -> Value {
    let prefix = 1 + word(token.text.get(1..).unwrap_or(""));
    let (kind, body) = (token.text.get(1..prefix).unwrap_or(""), token.text.get(prefix..).unwrap_or(""));
    let long = body.starts_with("\"\"\"");
    let text = if long { long_text(body) } else { body.get(1..body.len() - 1).unwrap_or("").to_owned() };
    let escapes = matches!(kind, "s" | "b") || kind.is_empty() && !long;
    let text = if escapes { unescape(&text, otp) } else { text };
    if kind.eq_ignore_ascii_case("s") { Value::String(text) } else { Value::Binary(text.into_bytes()) }
}

/// Deepest nesting that is read: far more than any configuration has, far less than the stack.
const MAX_DEPTH: u32 = 200;

struct Parser<'a> {
    tokens: Tokens<'a>,
    peeked: Option<Token<'a>>,
    /// Whether `fun … end` may stand for a value.
    funs: bool,
    /// Set if the text is an expression that is evaluated.
    evaluated: Option<Expression>,
}

/// What the tokens of an expression say about it as a whole.
#[derive(Clone, Copy)]
struct Expression {
    /// It may give a variable a value.
    binds: bool,
}

impl<'a> Parser<'a> {
    /// Terms, each ended by a dot; `end`: what is wrong with the bytes behind the text.
    fn consult(&mut self, end: Option<Error>) -> Result<Vec<Term>, Error> {
        let mut terms = Vec::new();
        loop {
            // All of a form is scanned before any of it is parsed.
            if !self.ahead(true).map_err(|e| end.clone().filter(|_| self.at_end(&e)).unwrap_or(e))? {
                return end.map_or(Ok(terms), Err);
            }
            terms.push(self.form()?);
        }
    }

    /// Whether an error is at the very end of the text.
    fn at_end(&self, error: &Error) -> bool {
        let mut tokens = self.tokens.clone();
        tokens.advance(tokens.rest().len());
        (error.line, error.column) == (tokens.line, tokens.column)
    }

    /// Scans on to the dot of this form, or to the end, without moving; false: there is nothing more. `one`: the dot must be there.
    fn ahead(&self, one: bool) -> Result<bool, Error> {
        let mut tokens = self.tokens.clone();
        let mut any = false;
        loop {
            let token = tokens.next()?;
            match token.kind {
                Kind::End if any && one => return Err(unexpected(&token, "the final dot is missing")),
                Kind::End => return Ok(any),
                Kind::Dot if one => return Ok(true),
                _ => any = true,
            }
        }
    }

    /// One expression and a dot.
    fn expression(&mut self, end: Option<Error>) -> Result<Vec<Term>, Error> {
        if let Some(error) = end {
            return Err(error);
        }
        let mut tokens = self.tokens.clone();
        let mut all = Vec::new();
        loop {
            let token = tokens.next()?;
            all.push(token);
            if token.kind == Kind::End {
                break;
            }
        }
        self.evaluated = Some(Expression { binds: all.iter().any(binds) });
        let term = self.form().map_err(|e| if e.certain { e } else { broken(&all).unwrap_or(e) })?;
        let rest = self.peek()?;
        if rest.kind == Kind::End { Ok(vec![term]) } else { Err(unexpected(&rest, "a second term")) }
    }

    fn peek(&mut self) -> Result<Token<'a>, Error> {
        match self.peeked {
            Some(t) => Ok(t),
            None => {
                let token = self.tokens.next()?;
                self.peeked = Some(token);
                Ok(token)
            }
        }
    }

    fn take(&mut self) -> Result<Token<'a>, Error> {
        let token = self.peek()?;
        self.peeked = None;
        Ok(token)
    }

    fn eat(&mut self, text: &str) -> Result<bool, Error> {
        let found = self.peek()?.is(text);
        if found {
            self.peeked = None;
        }
        Ok(found)
    }

    fn expect(&mut self, text: &str) -> Result<(), Error> {
        let token = self.take()?;
        if token.is(text) { Ok(()) } else { Err(self.behind(&token, &format!("expected `{text}`"))) }
    }

    fn form(&mut self) -> Result<Term, Error> {
        let term = self.term(0)?;
        let token = self.peek()?;
        if token.kind != Kind::Dot {
            return Err(self.behind(&token, "expected `,` or the final dot"));
        }
        self.peeked = None;
        Ok(term)
    }

    /// An error at a token that follows a complete term: certain, unless it continues an expression.
    fn behind(&self, token: &Token<'_>, message: &str) -> Error {
        let operator = match token.kind {
            Kind::Word => OPERATORS.contains(&token.text) || token.text == "when",
            Kind::Punct => CONTINUES.contains(&token.text),
            _ => false,
        };
        Error { certain: !(operator && self.evaluated.is_some()), ..unexpected(token, message) }
    }

    /// An error at a token where a term should start: certain, unless an expression starts with it.
    fn start(&self, token: &Token<'_>, message: &str) -> Error {
        let starts = match (token.kind, self.evaluated) {
            (_, None) => false,
            (Kind::Variable, Some(expression)) => expression.binds,
            (Kind::Word, _) => STARTS.contains(&token.text),
            (Kind::Punct, _) => token.text == "#",
            _ => false,
        };
        Error { certain: !starts, ..unexpected(token, message) }
    }

    /// Leaves the parser behind the next full stop; false at the end of what can be scanned.
    fn skip_to_dot(&mut self) -> bool {
        loop {
            match self.take() {
                Ok(t) if t.kind == Kind::Dot => return true,
                Ok(t) if t.kind == Kind::End => return false,
                Ok(_) => {}
                Err(_) => return false,
            }
        }
    }

    fn term(&mut self, depth: u32) -> Result<Term, Error> {
        let token = self.take()?;
        if depth > MAX_DEPTH {
            return Err(Error { certain: false, ..unexpected(&token, "nested too deeply") });
        }
        let value = match token.kind {
            Kind::Word if token.text == "fun" && self.funs => self.fun(&token)?,
            Kind::Word if token.text == "fun" => self.external(&token)?,
            Kind::Word if self.reserved(token.text) => return Err(self.start(&token, "a term cannot start here")),
            Kind::Word if MODERN.contains(&token.text) && self.tokens.otp.is_none() && !self.funs => {
                return Err(Error { certain: false, ..unexpected(&token, "a reserved word of some releases") });
            }
            Kind::Word if token.text == "public_key" && self.evaluated.is_some() && self.peek()?.is(":") => self.host_match()?,
            Kind::Word => Value::Atom(token.text.to_owned()),
            Kind::QuotedAtom => Value::Atom(unquote_as(&token, self.tokens.otp)),
            Kind::Integer => integer(&token).map_or(Value::Opaque, Value::Int),
            Kind::Float => Value::Float(float(&token)?),
            Kind::Char => Value::Int(character(&token, self.tokens.otp)?),
            Kind::String | Kind::LongString => self.strings(&token)?,
            Kind::Sigil if self.tokens.otp.is_none() => {
                return Err(Error { certain: false, ..unexpected(&token, "a sigil, which some releases do not know") });
            }
            Kind::Sigil => sigil_value(&token, self.tokens.otp),
            Kind::Punct => self.compound(&token, depth)?,
            Kind::Variable => return Err(self.start(&token, "a variable is not a value")),
            Kind::Dot | Kind::End => return Err(unexpected(&token, "the term is not complete")),
        };
        Ok(Term { value, line: token.line, column: token.column })
    }

    /// The rest of `public_key:pkix_verify_hostname_match_fun(https)`: the one call that TLS options are written with (RabbitMQ's guide to
    /// TLS). Where a file is an expression the broker makes it; what other calls give is not known.
    fn host_match(&mut self) -> Result<Value, Error> {
        for text in [":", "pkix_verify_hostname_match_fun", "(", "https", ")"] {
            let token = self.take()?;
            if !token.is(text) && token.text != text {
                return Err(Error { certain: false, ..unexpected(&token, "a call, which is not made here") });
            }
        }
        Ok(Value::Opaque)
    }

    fn reserved(&self, word: &str) -> bool {
        const WORDS: [&str; 15] =
            ["after", "begin", "bnot", "case", "catch", "cond", "end", "fun", "if", "let", "not", "of", "receive", "try", "when"];
        let modern = MODERN.contains(&word) && self.tokens.otp.is_some_and(|otp| otp >= SIGILS) && !self.funs;
        WORDS.contains(&word) || OPERATORS.contains(&word) || modern
    }

    fn compound(&mut self, open: &Token<'a>, depth: u32) -> Result<Value, Error> {
        match open.text {
            "[" => self.list(depth),
            "{" => Ok(Value::Tuple(self.items("}", depth)?)),
            "<<" => self.binary(depth),
            "(" => {
                let term = self.term(depth + 1)?;
                self.expect(")")?;
                Ok(term.value)
            }
            "#" => {
                let token = self.peek()?;
                if !token.is("{") {
                    return Err(self.start(open, "a record is not a value"));
                }
                self.take()?;
                self.map(depth)
            }
            "-" | "+" => {
                let signed = self.peek()?.is("-") || self.peek()?.is("+");
                let number = self.term(depth + 1)?;
                if signed && self.evaluated.is_none() {
                    return Err(unexpected(open, "only one sign can stand before a number"));
                }
                match number.value {
                    Value::Int(i) => Ok(Value::Int(if open.text == "-" { -i } else { i })),
                    Value::Float(x) => Ok(Value::Float(if open.text == "-" { -x } else { x })),
                    Value::Opaque => Ok(Value::Opaque),
                    _ => Err(unexpected(open, "only a number can have a sign")),
                }
            }
            _ => Err(self.start(open, "a term cannot start here")),
        }
    }

    fn list(&mut self, depth: u32) -> Result<Value, Error> {
        let mut items = Vec::new();
        if self.eat("]")? {
            return Ok(Value::List(items));
        }
        loop {
            items.push(self.term(depth + 1)?);
            if self.eat(",")? {
                continue;
            }
            if self.eat("|")? {
                let tail = self.term(depth + 1)?;
                self.expect("]")?;
                return Ok(match tail.value {
                    Value::List(more) => Value::List(items.into_iter().chain(more).collect()),
                    Value::String(text) => {
                        let one = |c| Term { value: Value::Int(i128::from(u32::from(c))), line: tail.line, column: tail.column };
                        Value::List(items.into_iter().chain(text.chars().map(one)).collect())
                    }
                    _ => Value::Opaque,
                });
            }
            self.expect("]")?;
            return Ok(Value::List(items));
        }
    }

    fn items(&mut self, close: &str, depth: u32) -> Result<Vec<Term>, Error> {
        let mut items = Vec::new();
        if self.eat(close)? {
            return Ok(items);
        }
        loop {
            items.push(self.term(depth + 1)?);
            if !self.eat(",")? {
                self.expect(close)?;
                return Ok(items);
            }
        }
    }

    fn map(&mut self, depth: u32) -> Result<Value, Error> {
        let mut pairs = Vec::new();
        if self.eat("}")? {
            return Ok(Value::Map(pairs));
        }
        loop {
            let key = self.term(depth + 1)?;
            self.expect("=>")?;
            pairs.push((key, self.term(depth + 1)?));
            if !self.eat(",")? {
                self.expect("}")?;
                return Ok(Value::Map(pairs));
            }
        }
    }

    /// `<<"text">>`, `<<"text"/utf8>>`, `<<1,2,3>>`; sizes and other types are not read.
    fn binary(&mut self, depth: u32) -> Result<Value, Error> {
        let mut bytes = Vec::new();
        if self.eat(">>")? {
            return Ok(Value::Binary(bytes));
        }
        loop {
            let part = self.term(depth + 1)?;
            let unread = |t: &Token<'_>| Error { certain: false, ..unexpected(t, "a part of a binary that is not read") };
            let next = self.peek()?;
            let utf8 = if self.eat("/")? {
                let kind = self.take()?;
                if kind.text != "utf8" || self.peek()?.is("-") || self.peek()?.is(":") {
                    return Err(unread(&kind));
                }
                true
            } else if next.is(":") {
                return Err(unread(&next));
            } else {
                false
            };
            match part.value {
                Value::String(s) if utf8 => bytes.extend_from_slice(s.as_bytes()),
                // Without /utf8 each character gives its low byte.
                Value::String(s) => bytes.extend(s.chars().map(|c| c as u32 as u8)),
                Value::Int(i) if !utf8 => bytes.push(i as u8),
                _ => return Err(unread(&next)),
            }
            if !self.eat(",")? {
                self.expect(">>")?;
                return Ok(Value::Binary(bytes));
            }
        }
    }

    /// Adjacent string literals are one string.
    fn strings(&mut self, first: &Token<'a>) -> Result<Value, Error> {
        let mut text = self.literal(first)?;
        let mut end = first.offset + first.text.len();
        while matches!(self.peek()?.kind, Kind::String | Kind::LongString) {
            let next = self.take()?;
            let touching = next.offset == end && self.tokens.otp.is_none_or(|otp| otp >= SIGILS);
            if touching && !self.funs {
                return Err(Error { certain: self.tokens.otp.is_some(), ..unexpected(&next, "two strings touch") });
            }
            text.push_str(&self.literal(&next)?);
            end = next.offset + next.text.len();
        }
        Ok(Value::String(text))
    }

    fn literal(&self, token: &Token<'_>) -> Result<String, Error> {
        if token.kind == Kind::LongString && self.tokens.otp.is_none() && !self.funs {
            return Err(Error { certain: false, ..unexpected(token, "triple quotes, which some releases read otherwise") });
        }
        Ok(unquote_as(token, self.tokens.otp))
    }

    /// `fun m:f/1`; other funs are not values of a file.
    fn external(&mut self, start: &Token<'a>) -> Result<Value, Error> {
        let wrong = |at: &Token<'a>, evaluated: bool| Error { certain: !evaluated, ..unexpected(at, "a fun is not a value") };
        let evaluated = self.evaluated.is_some();
        for part in 0..5 {
            let token = self.take()?;
            let fits = match part {
                0 | 2 => matches!(token.kind, Kind::QuotedAtom) || token.kind == Kind::Word && !self.reserved(token.text),
                1 => token.is(":"),
                3 => token.is("/"),
                _ => token.kind == Kind::Integer,
            };
            if !fits {
                return Err(wrong(start, evaluated));
            }
        }
        Ok(Value::Opaque)
    }

    /// Steps over the rest of a `fun`, whose first word is `start`.
    fn fun(&mut self, start: &Token<'a>) -> Result<Value, Error> {
        let mut open = usize::from(self.fun_has_body()?);
        let mut end = self.tokens.offset;
        if open == 0 {
            return Err(unexpected(start, "only a fun with a body can stand here"));
        }
        while open > 0 {
            let token = self.take()?;
            end = token.offset + token.text.len();
            match token.kind {
                Kind::Word => match token.text {
                    "end" => open -= 1,
                    "case" | "if" | "begin" | "receive" | "try" => open += 1,
                    "fun" if self.fun_has_body()? => open += 1,
                    _ => {}
                },
                Kind::Dot | Kind::End => return Err(unexpected(&token, "`end` is missing")),
                _ => {}
            }
        }
        Ok(Value::Fun(self.tokens.source.get(start.offset..end).unwrap_or("").to_owned()))
    }

    /// After the word `fun`: `fun(…) -> … end` and `fun Name(…) -> … end` have a body, `fun m:f/1` and `fun f/1` have not.
    fn fun_has_body(&mut self) -> Result<bool, Error> {
        let token = self.peek()?;
        Ok(token.is("(") || token.kind == Kind::Variable)
    }
}

/// Words between two operands.
const OPERATORS: [&str; 12] = ["and", "andalso", "band", "bor", "bsl", "bsr", "bxor", "div", "or", "orelse", "rem", "xor"];
/// Words that are reserved from OTP 27 on.
const MODERN: [&str; 2] = ["maybe", "else"];
/// Words that an expression may start with and a term may not.
const STARTS: [&str; 10] = ["fun", "case", "if", "begin", "receive", "try", "catch", "not", "bnot", "maybe"];
/// What may follow an operand.
const CONTINUES: [&str; 22] =
    ["(", ":", "#", "=", "!", "+", "-", "*", "/", "++", "--", "==", "/=", "=<", "<", ">=", ">", "=:=", "=/=", "||", "?=", "::"];

/// Whether a token may give a variable a value.
fn binds(token: &Token<'_>) -> bool {
    ["=", "?=", "<-", "<=", ":=", "fun", "case", "receive", "try", "maybe"].iter().any(|t| token.is(t))
}

/// What no expression has: brackets that do not match, or a dot elsewhere than at the end.
fn broken(all: &[Token<'_>]) -> Option<Error> {
    let mut open: Vec<&Token<'_>> = Vec::new();
    for (n, token) in all.iter().enumerate() {
        let close = match token.text {
            _ if token.kind == Kind::Dot && n + 2 < all.len() => return Some(unexpected(token, "a dot before the end")),
            _ if token.kind == Kind::End && !n.checked_sub(1).is_some_and(|n| all[n].kind == Kind::Dot) => {
                return Some(unexpected(token, "the final dot is missing"));
            }
            _ if token.kind != Kind::Punct => continue,
            "(" | "[" | "{" | "<<" => {
                open.push(token);
                continue;
            }
            ")" => "(",
            "]" => "[",
            "}" => "{",
            ">>" => "<<",
            _ => continue,
        };
        if open.pop().is_none_or(|t| t.text != close) {
            return Some(unexpected(token, "brackets do not match"));
        }
    }
    open.pop().map(|t| unexpected(t, "a bracket that is not closed"))
}

fn unexpected(token: &Token<'_>, message: &str) -> Error {
    let found = match token.kind {
        Kind::End => "end of file".to_owned(),
        _ => format!("`{}`", token.text.chars().take(40).collect::<String>()),
    };
    let message = format!("syntax error before {found}: {message}");
    Error { line: token.line, column: token.column, message, certain: true }
}

/// The value of an integer token, with its base and underscores.
pub fn integer(token: &Token<'_>) -> Result<i128, Error> {
    let text = token.text.replace('_', "");
    let value = match text.split_once('#') {
        Some((base, digits)) => match base.parse() {
            Ok(base @ 2..=36) => i128::from_str_radix(digits, base).ok(),
            _ => None,
        },
        None => text.parse().ok(),
    };
    value.ok_or_else(|| unexpected(token, "illegal or too large integer"))
}

/// The value of a float token.
pub fn float(token: &Token<'_>) -> Result<f64, Error> {
    token.text.replace('_', "").parse().map_err(|_| unexpected(token, "illegal float"))
}

fn character(token: &Token<'_>, otp: Option<u32>) -> Result<i128, Error> {
    let body = token.text.get(1..).unwrap_or("");
    let c = if body.starts_with('\\') { escape(body, otp).ok().map(|(c, _)| c) } else { body.chars().next() };
    c.map(|c| i128::from(c as u32)).ok_or_else(|| unexpected(token, "illegal character"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> String {
        let terms = consult(text).unwrap();
        assert_eq!(terms.len(), 1, "{text}");
        terms[0].value.to_string()
    }

    fn fails_at(text: &str) -> (u32, u32) {
        let e = consult(text).unwrap_err();
        (e.line, e.column)
    }

    #[test]
    fn reads_what_consult_reads() {
        assert_eq!(one("[rabbitmq_management,rabbitmq_mqtt]."), "[rabbitmq_management,rabbitmq_mqtt]");
        assert_eq!(
            one("[\n  {rabbit, [{tcp_listeners, [{\"127.0.0.1\", 5672}, 5673]}]}\n].\n"),
            "[{rabbit,[{tcp_listeners,[{\"127.0.0.1\",5672},5673]}]}]"
        );
        assert_eq!(one("[<<\"guest\">>, <<>>, <<1,97>>]."), "[<<\"guest\">>,<<\"\">>,<<\"\\u{1}a\">>]");
        assert_eq!(one("#{a => -1, 'B c' => 1.5e3}."), "#{a => -1,'B c' => 1500.0}");
        assert_eq!(one("[16#ff_ff, 2#101, $a, $\\n, 1_000]."), "[65535,5,97,10,1000]");
        assert_eq!(one("\"a\" \"b\\x{e9}\"."), "\"abé\"");
        assert_eq!(one("% c\n[]. % end"), "[]");
        assert_eq!(one("\"\"\"\n  one\n   two\n  \"\"\"."), "\"one\\n two\"");
        assert_eq!(one("~\"x\"."), "<<\"x\">>");
        assert_eq!(consult("").unwrap(), vec![]);
        assert_eq!(consult("a. b.").unwrap().len(), 2);
    }

    #[test]
    fn errors_say_where() {
        assert_eq!(fails_at("[rabbitmq_management]"), (1, 22));
        assert_eq!(fails_at("[a\n  b]."), (2, 3));
        assert_eq!(fails_at("[a,]."), (1, 4));
        assert_eq!(fails_at("[{rabbit, [\n{x, 1}}]."), (2, 7));
        assert_eq!(fails_at("[\"abc]."), (1, 2));
        assert_eq!(fails_at("[é, X]."), (1, 5));
        assert_eq!(fails_at("[fun(X) -> X end]."), (1, 2));
        assert_eq!(fails_at("\u{feff}[]."), (1, 1));
        assert_eq!(fails_at("[a,\n 16#]."), (2, 2));
        assert_eq!(fails_at("[a,\n {b}"), (2, 5));
    }

    #[test]
    fn reads_terms_in_their_stranger_forms() {
        assert_eq!(one("[(a), {-$a, [a | \"b\"]}, - 1]."), "[a,{-97,[a,98]},-1]");
        assert_eq!(one("[fun a:b/1, 1234567890123456789012345678901234567890123, [a | b]]."), "[…,…,…]");
    }

    fn as_read(text: &[u8], reader: Reader, otp: Option<u32>) -> Result<String, bool> {
        let terms = read(text, Dialect { reader, otp }).map_err(|e| e.certain)?;
        Ok(terms.iter().map(|t| t.value.to_string()).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn readers_differ() {
        let utf8 = "[\"ü\"].".as_bytes();
        assert_eq!(as_read(utf8, Reader::Consult, None).unwrap(), "[\"ü\"]");
        assert_eq!(as_read(utf8, Reader::Expression, None).unwrap(), "[\"Ã¼\"]");
        assert_eq!(as_read("%% coding: utf-8\n[\"ü\"].".as_bytes(), Reader::Expression, None).unwrap(), "[\"ü\"]");
        assert_eq!(as_read(b"[\"\xfc\"].", Reader::Consult, None), Err(true));
        assert_eq!(as_read(b"a. b.", Reader::Sequence, None).unwrap(), "a b");
        assert_eq!(as_read(b"a. b.", Reader::Expression, None), Err(true));
        assert_eq!(as_read(b"", Reader::Sequence, None).unwrap(), "");
        assert_eq!(as_read(b"", Reader::Expression, None), Err(true));
    }

    #[test]
    fn what_may_be_an_expression_is_not_certain() {
        for text in ["[1 + 1].", "[os:getenv(\"A\")].", "[X = 1, X].", "[begin a end].", "[a || true].", "[<<1:16>>]."] {
            assert_eq!(as_read(text.as_bytes(), Reader::Expression, None), Err(false), "{text}");
        }
        for text in ["[a b].", "[a,].", "[a]", "[a], b.", "[X].", "[1 + 1", "[1 + 1)].", "[1 + 1]. b.", "[-a]."] {
            assert_eq!(as_read(text.as_bytes(), Reader::Expression, None), Err(true), "{text}");
        }
        assert_eq!(as_read(b"[1 + 1].", Reader::Consult, None), Err(true));
    }

    #[test]
    fn the_one_call_of_tls_options_is_known() {
        let text = b"[{match_fun, public_key:pkix_verify_hostname_match_fun(https)}].";
        assert_eq!(as_read(text, Reader::Expression, None).unwrap(), "[{match_fun,\u{2026}}]");
        assert_eq!(as_read(text, Reader::Consult, None), Err(true));
        assert_eq!(as_read(b"[public_key:other(https)].", Reader::Expression, None), Err(false));
    }

    #[test]
    fn releases_of_erlang_differ() {
        let read = |text: &str, otp| as_read(text.as_bytes(), Reader::Consult, otp);
        assert_eq!(read("[~\"a\"].", Some(27)).unwrap(), "[<<\"a\">>]");
        assert_eq!(read("[~S(a\\n)].", Some(27)).unwrap(), "[\"a\\\\n\"]");
        assert_eq!((read("[~\"a\"].", Some(25)), read("[~\"a\"].", None)), (Err(true), Err(false)));
        assert_eq!((read("[maybe].", Some(25)).unwrap().as_str(), read("[maybe].", Some(27))), ("[maybe]", Err(true)));
        assert_eq!((read("[\"a\"\"b\"].", Some(25)).unwrap().as_str(), read("[\"a\"\"b\"].", Some(27))), ("[\"ab\"]", Err(true)));
        assert_eq!(
            (read("[\"\\^1\"].", Some(25)).unwrap().as_str(), read("[\"\\^1\"].", Some(27))),
            ("[\"\\u{11}\"]", Err(true))
        );
    }

    #[test]
    fn deep_nesting_is_an_error_and_not_a_crash() {
        assert!(consult(&"[".repeat(100_000)).is_err());
    }

    #[test]
    fn large_files_are_read_in_little_time() {
        let began = std::time::Instant::now();
        for text in ["1,".repeat(500_000), "[a].\n".repeat(200_000), "\"\\x{".repeat(200_000), "\"\"\"\n".repeat(200_000)] {
            let _ = read(text.as_bytes(), Dialect { reader: Reader::Consult, otp: None });
        }
        assert!(began.elapsed() < std::time::Duration::from_secs(10));
    }

    #[test]
    fn forms_step_over_code() {
        let text = r#"
{mapping, "a.b", "x.y", [{datatype, integer}]}.
{translation, "x.y", fun(Conf) -> case f(Conf) of % end
   undefined -> begin "end" end; X when X > 1 -> lists:map(fun (Y) -> Y end, [fun m:f/1, fun g/1]) end end}.
{broken, X}.
{validator, "v", "m", fun(I) -> I >= 1. 5 end}.
{after_all, 'q'}."#;
        let all = forms(text);
        let ok: Vec<String> = all.iter().filter_map(|f| f.as_ref().ok()).map(|t| t.value.to_string()).collect();
        assert_eq!(ok[0], "{mapping,\"a.b\",\"x.y\",[{datatype,integer}]}");
        assert_eq!(ok[1], "{translation,\"x.y\",fun … end}");
        assert_eq!(ok.last().unwrap(), "{after_all,q}");
        assert!(all.iter().any(Result::is_err));
    }
}

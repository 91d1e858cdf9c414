//! Erlang terms as text: advanced.config, rabbitmq.config, enabled_plugins, *.app and cuttlefish schemas.
//!
//! Nothing is ever executed: [`consult`] reads what Erlang's `file:consult/1` would read, [`forms`] additionally steps over
//! `fun … end` bodies and keeps their text, because schema files hold code between their data.

use std::fmt;

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
    /// A list; `[a | b]` has `b` as its last element (no file read here uses improper lists).
    List(Vec<Term>),
    Tuple(Vec<Term>),
    Map(Vec<(Term, Term)>),
    /// The text of a `fun … end`, unread.
    Fun(String),
}

/// Why a text could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {message}")]
pub struct Error {
    pub line: u32,
    pub column: u32,
    pub message: String,
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

/// The terms of a file, as `file:consult/1` reads them: each ended by a dot, no expressions.
pub fn consult(text: &str) -> Result<Vec<Term>, Error> {
    let mut parser = Parser { tokens: Tokens::new(text), peeked: None, funs: false };
    let mut terms = Vec::new();
    while parser.peek()?.kind != Kind::End {
        terms.push(parser.form()?);
    }
    Ok(terms)
}

/// Every form of a schema file. A form that cannot be read is given as its error, and reading goes on after its dot.
pub fn forms(text: &str) -> Vec<Result<Term, Error>> {
    let mut parser = Parser { tokens: Tokens::new(text), peeked: None, funs: true };
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
    let mut scanner = Tokens::new(text);
    let mut all = Vec::new();
    while let Ok(token) = scanner.next() {
        if token.kind == Kind::End {
            break;
        }
        all.push(token);
    }
    all
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

struct Tokens<'a> {
    source: &'a str,
    offset: usize,
    line: u32,
    column: u32,
}

impl<'a> Tokens<'a> {
    fn new(source: &'a str) -> Self {
        Tokens { source, offset: 0, line: 1, column: 1 }
    }

    fn rest(&self) -> &'a str {
        self.source.get(self.offset..).unwrap_or("")
    }

    fn error(&self, message: impl Into<String>) -> Error {
        Error { line: self.line, column: self.column, message: message.into() }
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
                Some(b) if b.is_ascii() => bytes.iter().take_while(|b| **b <= b' ' || **b == 0x7f).count(),
                Some(_) => rest.len() - rest.trim_start_matches(|c: char| c.is_whitespace() || c.is_control()).len(),
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
        let (kind, len) = match rest.chars().next() {
            None => (Kind::End, 0),
            Some(c) if c.is_ascii_digit() => number(rest),
            Some(c) if c.is_lowercase() => (Kind::Word, word(rest)),
            Some(c) if c.is_uppercase() || c == '_' => (Kind::Variable, word(rest)),
            Some('"') if rest.starts_with("\"\"\"") => {
                (Kind::LongString, long_string(rest).ok_or_else(|| self.error("string not closed"))?)
            }
            Some('"') => (Kind::String, quoted(rest, '"').ok_or_else(|| self.error("unterminated string"))?),
            Some('\'') => (Kind::QuotedAtom, quoted(rest, '\'').ok_or_else(|| self.error("unterminated atom"))?),
            Some('$') => (Kind::Char, char_literal(rest).ok_or_else(|| self.error("unterminated character"))?),
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
}

fn word(rest: &str) -> usize {
    let ascii = rest.bytes().take_while(|b| b.is_ascii_alphanumeric() || *b == b'_' || *b == b'@').count();
    if rest.as_bytes().get(ascii).is_none_or(u8::is_ascii) {
        return ascii;
    }
    rest.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '@')).unwrap_or(rest.len())
}

/// `12`, `16#ff_ff`, `1_000`, `1.5`, `1.5e-3`.
fn number(rest: &str) -> (Kind, usize) {
    let digits = |from: usize, based: bool| {
        let tail = rest.get(from..).unwrap_or("");
        from + tail.find(|c: char| !(c.is_ascii_digit() || c == '_' || based && c.is_ascii_alphabetic())).unwrap_or(tail.len())
    };
    let bytes = rest.as_bytes();
    let mut end = digits(0, false);
    if bytes.get(end) == Some(&b'#') && bytes.get(end + 1).is_some_and(u8::is_ascii_alphanumeric) {
        return (Kind::Integer, digits(end + 1, true));
    }
    if bytes.get(end) != Some(&b'.') || !bytes.get(end + 1).is_some_and(u8::is_ascii_digit) {
        return (Kind::Integer, end);
    }
    end = digits(end + 1, false);
    if matches!(bytes.get(end), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
        if bytes.get(end + 1 + sign).is_some_and(u8::is_ascii_digit) {
            end = digits(end + 1 + sign, false);
        }
    }
    (Kind::Float, end)
}

/// Length of a literal in `quote`s, backslash escapes included.
fn quoted(rest: &str, quote: char) -> Option<usize> {
    let mut escaped = false;
    for (i, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == quote => return Some(i + c.len_utf8()),
            _ => {}
        }
    }
    None
}

fn long_string(rest: &str) -> Option<usize> {
    let quotes = rest.len() - rest.trim_start_matches('"').len();
    let fence = rest.get(..quotes)?;
    rest.get(quotes..)?.find(fence).map(|at| at + 2 * quotes)
}

fn char_literal(rest: &str) -> Option<usize> {
    let mut chars = rest.char_indices().skip(1);
    let (at, c) = chars.next()?;
    if c != '\\' {
        return Some(at + c.len_utf8());
    }
    let (_, len) = escape(rest.get(at..)?)?;
    Some(at + len)
}

fn ends_form(rest: &str) -> bool {
    rest.chars().nth(1).is_none_or(|c| c.is_whitespace() || c.is_control() || c == '%')
}

fn punctuation(rest: &str) -> Option<usize> {
    const LONG: [&str; 20] = [
        "=:=", "=/=", "...", "<<", ">>", "->", "<-", "=>", ":=", "||", "++", "--", "==", "/=", "=<", ">=", "::", "..", "?=", "<=",
    ];
    const SHORT: &str = "[](){},|:;#=<>+-*/!?.~^&@";
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
fn escape(text: &str) -> Option<(Option<char>, usize)> {
    let mut chars = text.char_indices().skip(1);
    let (at, c) = chars.next()?;
    let one = |c| Some((Some(c), at + 1));
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
        '\n' => Some((None, at + 1)),
        '0'..='7' => {
            let digits: String = text.chars().skip(1).take(3).take_while(|c| c.is_digit(8)).collect();
            Some((char::from_u32(u32::from_str_radix(&digits, 8).ok()?), at + digits.len()))
        }
        'x' if text.get(at + 1..)?.starts_with('{') => {
            let close = text.find('}')?;
            Some((char::from_u32(u32::from_str_radix(text.get(at + 2..close)?, 16).ok()?), close + 1))
        }
        'x' => Some((char::from_u32(u32::from_str_radix(text.get(at + 1..at + 3)?, 16).ok()?), at + 3)),
        '^' => {
            let (next, c) = chars.next()?;
            Some((char::from_u32(c as u32 & 31), next + c.len_utf8()))
        }
        c => Some((Some(c), at + c.len_utf8())),
    }
}

fn unescape(inner: &str) -> String {
    let mut out = String::with_capacity(inner.len());
    let mut rest = inner;
    while let Some(at) = rest.find('\\') {
        out.push_str(rest.get(..at).unwrap_or(""));
        let tail = rest.get(at..).unwrap_or("");
        let Some((c, len)) = escape(tail) else { break };
        out.extend(c);
        rest = tail.get(len..).unwrap_or("");
    }
    out.push_str(rest);
    out
}

/// The text of a quoted token without its quotes and escapes.
pub fn unquote(token: &Token<'_>) -> String {
    match token.kind {
        Kind::LongString => long_text(token.text),
        Kind::String | Kind::QuotedAtom => unescape(token.text.get(1..token.text.len() - 1).unwrap_or("")),
        _ => token.text.to_owned(),
    }
}

/// The lines between the fences of a `"""` string, less the indentation of its last line.
fn long_text(text: &str) -> String {
    let inner = text.trim_matches('"');
    let mut lines: Vec<&str> = inner.split('\n').skip(1).collect();
    let indent = lines.pop().unwrap_or("");
    lines.iter().map(|l| l.strip_prefix(indent).unwrap_or(l)).collect::<Vec<_>>().join("\n")
}

/// Deepest nesting that is read: far more than any configuration has, far less than the stack.
const MAX_DEPTH: u32 = 200;

struct Parser<'a> {
    tokens: Tokens<'a>,
    peeked: Option<Token<'a>>,
    /// Whether `fun … end` may stand for a value.
    funs: bool,
}

impl<'a> Parser<'a> {
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
        if token.is(text) { Ok(()) } else { Err(unexpected(&token, &format!("expected `{text}`"))) }
    }

    fn form(&mut self) -> Result<Term, Error> {
        let term = self.term(0)?;
        let token = self.peek()?;
        if token.kind != Kind::Dot {
            return Err(unexpected(&token, "expected `,` or the final dot"));
        }
        self.peeked = None;
        Ok(term)
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
            return Err(unexpected(&token, "nested too deeply"));
        }
        let value = match token.kind {
            Kind::Word if token.text == "fun" && self.funs => self.fun(&token)?,
            Kind::Word if reserved(token.text) => return Err(unexpected(&token, "a term cannot start here")),
            Kind::Word => Value::Atom(token.text.to_owned()),
            Kind::QuotedAtom => Value::Atom(unquote(&token)),
            Kind::Integer => Value::Int(integer(&token)?),
            Kind::Float => Value::Float(float(&token)?),
            Kind::Char => Value::Int(character(&token)?),
            Kind::String | Kind::LongString => self.strings(&token)?,
            Kind::Punct => self.compound(&token, depth)?,
            Kind::Variable => return Err(unexpected(&token, "a variable is not a value")),
            Kind::Dot | Kind::End => return Err(unexpected(&token, "the term is not complete")),
        };
        Ok(Term { value, line: token.line, column: token.column })
    }

    fn compound(&mut self, open: &Token<'a>, depth: u32) -> Result<Value, Error> {
        match open.text {
            "[" => Ok(Value::List(self.items("]", depth)?)),
            "{" => Ok(Value::Tuple(self.items("}", depth)?)),
            "<<" => self.binary(depth),
            "#" => {
                self.expect("{")?;
                self.map(depth)
            }
            "-" | "+" => {
                let number = self.term(depth + 1)?;
                match number.value {
                    Value::Int(i) => Ok(Value::Int(if open.text == "-" { -i } else { i })),
                    Value::Float(x) => Ok(Value::Float(if open.text == "-" { -x } else { x })),
                    _ => Err(unexpected(open, "only a number can have a sign")),
                }
            }
            // Sigils of OTP 27: ~"…" and ~b"…" are binaries, ~s"…" is a string.
            "~" => {
                let prefix = if self.peek()?.kind == Kind::Word { self.take()?.text } else { "" };
                let token = self.take()?;
                match token.kind {
                    Kind::String | Kind::LongString if prefix.eq_ignore_ascii_case("s") => Ok(Value::String(unquote(&token))),
                    Kind::String | Kind::LongString => Ok(Value::Binary(unquote(&token).into_bytes())),
                    _ => Err(unexpected(&token, "expected a string")),
                }
            }
            _ => Err(unexpected(open, "a term cannot start here")),
        }
    }

    fn items(&mut self, close: &str, depth: u32) -> Result<Vec<Term>, Error> {
        let mut items = Vec::new();
        if self.eat(close)? {
            return Ok(items);
        }
        loop {
            items.push(self.term(depth + 1)?);
            let token = self.take()?;
            match token.text {
                "," if token.kind == Kind::Punct => {}
                "|" if close == "]" => {
                    items.push(self.term(depth + 1)?);
                    self.expect(close)?;
                    return Ok(items);
                }
                _ if token.is(close) => return Ok(items),
                _ => return Err(unexpected(&token, &format!("expected `,` or `{close}`"))),
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
            let utf8 = if self.eat("/")? { self.take()?.text == "utf8" } else { false };
            match part.value {
                Value::String(s) if utf8 => bytes.extend_from_slice(s.as_bytes()),
                // Without /utf8 each character gives its low byte.
                Value::String(s) => bytes.extend(s.chars().map(|c| c as u32 as u8)),
                Value::Int(i) => bytes.push(i as u8),
                _ => return Err(Error { line: part.line, column: part.column, message: "not a part of a binary".into() }),
            }
            if !self.eat(",")? {
                self.expect(">>")?;
                return Ok(Value::Binary(bytes));
            }
        }
    }

    /// Adjacent string literals are one string.
    fn strings(&mut self, first: &Token<'a>) -> Result<Value, Error> {
        let mut text = unquote(first);
        while matches!(self.peek()?.kind, Kind::String | Kind::LongString) {
            text.push_str(&unquote(&self.take()?));
        }
        Ok(Value::String(text))
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

fn unexpected(token: &Token<'_>, message: &str) -> Error {
    let found = match token.kind {
        Kind::End => "end of file".to_owned(),
        _ => format!("`{}`", token.text.chars().take(40).collect::<String>()),
    };
    Error { line: token.line, column: token.column, message: format!("syntax error before {found}: {message}") }
}

fn reserved(word: &str) -> bool {
    const WORDS: [&str; 27] = [
        "after", "and", "andalso", "band", "begin", "bnot", "bor", "bsl", "bsr", "bxor", "case", "catch", "cond", "div", "end",
        "fun", "if", "let", "not", "of", "or", "orelse", "receive", "rem", "try", "when", "xor",
    ];
    WORDS.contains(&word)
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

fn character(token: &Token<'_>) -> Result<i128, Error> {
    let body = token.text.get(1..).unwrap_or("");
    let c = if body.starts_with('\\') { escape(body).and_then(|(c, _)| c) } else { body.chars().next() };
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
    }

    #[test]
    fn deep_nesting_is_an_error_and_not_a_crash() {
        assert!(consult(&"[".repeat(100_000)).is_err());
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

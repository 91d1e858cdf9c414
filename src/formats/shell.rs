//! The grammar of POSIX shell scripts as dash reads it, for readers that run nothing: words with their expansions, and the tree
//! of commands.

use std::ops::Range;

/// A piece of a word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    Text {
        bytes: Vec<u8>,
        quoted: bool,
    },
    /// `$NAME`, `${NAME}`, `${NAME-text}`, `${NAME:-text}`.
    Variable {
        name: String,
        default: Option<Fallback>,
        quoted: bool,
    },
    /// `${NAME=text}`, `${NAME:=text}`: sets the variable as well.
    Assigns {
        name: String,
    },
    /// `$(…)` and backticks.
    Output,
    /// What only a shell can tell; `fails`: it may end the script (`${NAME:?}`, a division by zero).
    Other {
        fails: bool,
    },
}

/// What stands for a variable without a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fallback {
    pub text: Vec<u8>,
    /// An empty value counts as none (`:-`).
    pub for_empty: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Word {
    pub span: Range<usize>,
    pub parts: Vec<Part>,
}

impl Word {
    /// The text of a word without quotes and expansions.
    fn plain(&self) -> Option<&str> {
        match &self.parts[..] {
            [Part::Text { bytes, quoted: false }] => std::str::from_utf8(bytes).ok(),
            _ => None,
        }
    }

    /// The text of a word without expansions, quoted or not.
    pub fn literal(&self) -> Option<String> {
        let mut all = Vec::new();
        for part in &self.parts {
            let Part::Text { bytes, .. } = part else { return None };
            all.extend_from_slice(bytes);
        }
        String::from_utf8(all).ok()
    }

    /// `NAME=…`: the name, and the parts of the value.
    pub fn assignment(&self) -> Option<(String, Vec<Part>)> {
        let Some((Part::Text { bytes, quoted: false }, rest)) = self.parts.split_first() else { return None };
        let equals = bytes.iter().position(|b| *b == b'=')?;
        let name = std::str::from_utf8(&bytes[..equals]).ok().filter(|n| is_name(n))?;
        let first = Part::Text { bytes: bytes[equals + 1..].to_vec(), quoted: false };
        Some((name.to_owned(), std::iter::once(first).chain(rest.iter().cloned()).collect()))
    }
}

/// Whether a variable may have this name.
pub fn is_name(name: &str) -> bool {
    let good = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    name.bytes().all(good) && name.as_bytes().first().is_some_and(|b| !b.is_ascii_digit())
}

/// Commands in a row.
pub type List = Vec<Item>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    pub first: Pipeline,
    /// `true`: after `&&`, `false`: after `||`.
    pub rest: Vec<(bool, Pipeline)>,
    /// Ends with `&`.
    pub background: bool,
    pub span: Range<usize>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pipeline {
    /// Starts with `!`.
    pub negated: bool,
    pub commands: Vec<Command>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    pub kind: Kind,
    /// Has a redirection, which may fail.
    pub redirected: bool,
    pub at: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    Simple {
        assignments: Vec<Word>,
        words: Vec<Word>,
    },
    Group(List),
    Subshell,
    If {
        arms: Vec<(List, List)>,
        otherwise: Option<List>,
    },
    /// while and until
    Loop {
        condition: List,
        body: List,
    },
    For {
        name: String,
        words: Vec<Word>,
        body: List,
    },
    Case {
        word: Word,
        arms: Vec<List>,
    },
    Function {
        name: String,
    },
}

/// Where and why reading stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    pub at: usize,
    pub why: String,
    pub kind: Fault,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Not in the grammar of POSIX; bash knows more.
    Grammar,
    /// Not read here; a shell may well understand it.
    Unread,
}

/// Reads a script. What stands before a fault is given as well.
pub fn parse(bytes: &[u8]) -> (List, Option<Broken>) {
    let mut parser = Parser { bytes, pos: 0, depth: 0 };
    let mut items = List::new();
    let broken = parser.script(&mut items).err();
    (items, broken)
}

/// Deepest nesting that is read: more than any script has, less than the stack.
const MAX_DEPTH: usize = 40;

const CLOSERS: [&str; 8] = ["then", "else", "elif", "fi", "do", "done", "esac", "}"];
const REDIRECTIONS: [&str; 7] = ["<", ">", ">>", "<&", ">&", "<>", ">|"];
/// Longest first.
const OPERATORS: [&str; 17] = ["<<-", "<<", "<&", "<>", ">>", ">&", ">|", "&&", "||", ";;", ";", "&", "|", "(", ")", "<", ">"];

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Word(Word),
    Operator(&'static str),
    Newline,
    End,
}

type Read<T> = Result<T, Broken>;

struct Parser<'a> {
    bytes: &'a [u8],
    pos: usize,
    depth: usize,
}

impl Parser<'_> {
    fn fault<T>(&self, at: usize, kind: Fault, why: &str) -> Read<T> {
        Err(Broken { at, why: why.to_owned(), kind })
    }
    fn unexpected<T>(&self, token: &Token, at: usize) -> Read<T> {
        let what = match token {
            Token::Word(w) => w.plain().unwrap_or("a word").to_owned(),
            Token::Operator(text) => (*text).to_owned(),
            Token::Newline => "the end of the line".to_owned(),
            Token::End => return self.fault(at, Fault::Grammar, "the file ends inside a command"),
        };
        self.fault(at, Fault::Grammar, &format!("`{what}` is not expected here"))
    }

    fn byte(&self, at: usize) -> Option<u8> {
        self.bytes.get(at).copied()
    }

    // --- tokens ---

    fn skip_blanks(&mut self) {
        loop {
            match self.byte(self.pos) {
                Some(b' ' | b'\t') => self.pos += 1,
                Some(b'\\') if self.byte(self.pos + 1) == Some(b'\n') => self.pos += 2,
                Some(b'#') => {
                    let rest = &self.bytes[self.pos..];
                    self.pos += rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len());
                }
                _ => return,
            }
        }
    }

    /// The next token and where it starts.
    fn next(&mut self) -> Read<(Token, usize)> {
        self.skip_blanks();
        let at = self.pos;
        let token = match self.byte(at) {
            None => Token::End,
            Some(b'\n') => {
                self.pos += 1;
                Token::Newline
            }
            Some(_) => match OPERATORS.iter().find(|o| self.bytes[at..].starts_with(o.as_bytes())) {
                Some(operator) => {
                    self.pos += operator.len();
                    if self.bytes[self.pos..].starts_with(b"\\\n") {
                        return self.fault(at, Fault::Unread, "a line is continued after an operator: not read");
                    }
                    Token::Operator(operator)
                }
                None => Token::Word(self.word()?),
            },
        };
        Ok((token, at))
    }

    fn peek(&mut self) -> Read<(Token, usize)> {
        let before = self.pos;
        let token = self.next();
        self.pos = before;
        token
    }

    fn eat(&mut self, operator: &str) -> Read<bool> {
        let before = self.pos;
        let found = matches!(self.next()?.0, Token::Operator(o) if o == operator);
        if !found {
            self.pos = before;
        }
        Ok(found)
    }

    fn eat_word(&mut self, word: &str) -> Read<bool> {
        let before = self.pos;
        let found = matches!(self.next()?.0, Token::Word(w) if w.plain() == Some(word));
        if !found {
            self.pos = before;
        }
        Ok(found)
    }

    fn expect_word(&mut self, word: &str) -> Read<()> {
        let (token, at) = self.peek()?;
        if self.eat_word(word)? { Ok(()) } else { self.unexpected(&token, at) }
    }

    fn skip_newlines(&mut self) -> Read<()> {
        loop {
            let before = self.pos;
            if self.next()?.0 != Token::Newline {
                self.pos = before;
                return Ok(());
            }
        }
    }

    // --- commands ---

    fn script(&mut self, items: &mut List) -> Read<()> {
        loop {
            self.skip_newlines()?;
            if self.peek()?.0 == Token::End {
                return Ok(());
            }
            let item = self.item()?;
            items.push(item);
        }
    }

    /// Commands up to a closing word or operator, which is left.
    fn list(&mut self) -> Read<List> {
        let mut items = List::new();
        loop {
            self.skip_newlines()?;
            match self.peek()?.0 {
                Token::End | Token::Operator(")" | ";;") => return Ok(items),
                Token::Word(w) if w.plain().is_some_and(|w| CLOSERS.contains(&w)) => return Ok(items),
                _ => {}
            }
            items.push(self.item()?);
        }
    }

    /// As `list`, with at least one command.
    fn body(&mut self) -> Read<List> {
        let items = self.list()?;
        if items.is_empty() {
            let (token, at) = self.peek()?;
            return self.unexpected(&token, at);
        }
        Ok(items)
    }

    /// One command, or several with `&&` and `||`, with the separator behind it.
    fn item(&mut self) -> Read<Item> {
        self.skip_blanks();
        let start = self.pos;
        let first = self.pipeline()?;
        let mut rest = Vec::new();
        loop {
            let and = self.eat("&&")?;
            if !and && !self.eat("||")? {
                break;
            }
            self.skip_newlines()?;
            rest.push((and, self.pipeline()?));
        }
        let end = self.pos;
        let (token, at) = self.peek()?;
        let background = token == Token::Operator("&");
        match token {
            Token::Operator(";" | "&") | Token::Newline => {
                self.next()?;
            }
            Token::Operator(")" | ";;") | Token::End => {}
            // `fi fi`: a block may be closed right behind another one.
            Token::Word(w) if w.plain().is_some_and(|w| CLOSERS.contains(&w)) => {}
            Token::Word(_) | Token::Operator(_) => return self.unexpected(&token, at),
        }
        Ok(Item { first, rest, background, span: start..end })
    }

    fn pipeline(&mut self) -> Read<Pipeline> {
        let negated = self.eat_word("!")?;
        let mut commands = vec![self.command()?];
        while self.eat("|")? {
            self.skip_newlines()?;
            commands.push(self.command()?);
        }
        Ok(Pipeline { negated, commands })
    }

    fn command(&mut self) -> Read<Command> {
        self.depth += 1;
        let (token, at) = self.peek()?;
        if self.depth > MAX_DEPTH {
            return self.fault(at, Fault::Unread, "nested too deeply");
        }
        let kind = match &token {
            Token::Operator("(") => Some(self.subshell()?),
            Token::Word(w) => match w.plain() {
                Some(word) => self.compound(word, at)?,
                None => None,
            },
            _ => None,
        };
        let command = match kind {
            Some(kind) => {
                let mut redirected = false;
                while self.redirection()? {
                    redirected = true;
                }
                Command { kind, redirected, at }
            }
            None => self.simple(at)?,
        };
        self.depth -= 1;
        Ok(command)
    }

    /// What begins with a reserved word; `None`: this one is not reserved.
    fn compound(&mut self, word: &str, at: usize) -> Read<Option<Kind>> {
        if CLOSERS.contains(&word) {
            return self.fault(at, Fault::Grammar, &format!("`{word}` is not expected here"));
        }
        if ["in", "!", "function", "[[", "select", "time", "coproc"].contains(&word) {
            return self.fault(at, Fault::Unread, &format!("`{word}`: not read"));
        }
        if !["if", "while", "until", "for", "case", "{"].contains(&word) {
            return Ok(None);
        }
        self.next()?;
        match word {
            "if" => self.conditional(),
            "for" => self.each(),
            "case" => self.case(),
            "{" => {
                let list = self.body()?;
                self.expect_word("}")?;
                Ok(Kind::Group(list))
            }
            _ => {
                let condition = self.body()?;
                Ok(Kind::Loop { condition, body: self.looped()? })
            }
        }
        .map(Some)
    }

    fn subshell(&mut self) -> Read<Kind> {
        self.next()?;
        if self.byte(self.pos) == Some(b'(') {
            return self.fault(self.pos, Fault::Unread, "`((`: not read");
        }
        self.body()?;
        let (token, at) = self.peek()?;
        if self.eat(")")? { Ok(Kind::Subshell) } else { self.unexpected(&token, at) }
    }

    fn conditional(&mut self) -> Read<Kind> {
        let mut arms = Vec::new();
        loop {
            let condition = self.body()?;
            self.expect_word("then")?;
            arms.push((condition, self.body()?));
            if !self.eat_word("elif")? {
                break;
            }
        }
        let otherwise = if self.eat_word("else")? { Some(self.body()?) } else { None };
        self.expect_word("fi")?;
        Ok(Kind::If { arms, otherwise })
    }

    fn looped(&mut self) -> Read<List> {
        self.expect_word("do")?;
        let body = self.body()?;
        self.expect_word("done")?;
        Ok(body)
    }

    fn each(&mut self) -> Read<Kind> {
        let (token, at) = self.next()?;
        let name = match &token {
            Token::Word(w) => w.plain().filter(|n| is_name(n)).map(str::to_owned),
            _ => None,
        };
        let Some(name) = name else { return self.unexpected(&token, at) };
        let mut words = Vec::new();
        self.skip_newlines()?;
        if self.eat_word("in")? {
            loop {
                match self.next()? {
                    (Token::Word(w), _) => words.push(w),
                    (Token::Newline | Token::Operator(";"), _) => break,
                    (token, at) => return self.unexpected(&token, at),
                }
            }
        } else {
            self.eat(";")?;
        }
        self.skip_newlines()?;
        Ok(Kind::For { name, words, body: self.looped()? })
    }

    fn case(&mut self) -> Read<Kind> {
        let (token, at) = self.next()?;
        let Token::Word(word) = token else { return self.unexpected(&token, at) };
        self.skip_newlines()?;
        self.expect_word("in")?;
        let mut arms = Vec::new();
        loop {
            self.skip_newlines()?;
            if self.eat_word("esac")? {
                return Ok(Kind::Case { word, arms });
            }
            self.eat("(")?;
            self.patterns()?;
            arms.push(self.list()?);
            if !self.eat(";;")? {
                self.expect_word("esac")?;
                return Ok(Kind::Case { word, arms });
            }
        }
    }

    /// `a | b)`
    fn patterns(&mut self) -> Read<()> {
        loop {
            match self.next()? {
                (Token::Word(_), _) => {}
                (token, at) => return self.unexpected(&token, at),
            }
            match self.next()? {
                (Token::Operator("|"), _) => {}
                (Token::Operator(")"), _) => return Ok(()),
                (token, at) => return self.unexpected(&token, at),
            }
        }
    }

    fn simple(&mut self, at: usize) -> Read<Command> {
        let (mut assignments, mut words, mut redirected) = (Vec::new(), Vec::<Word>::new(), false);
        loop {
            let before = self.pos;
            let (token, place) = self.next()?;
            match token {
                Token::Word(w) if self.digits_before_redirection(&w) => {
                    if !self.redirection()? {
                        return self.fault(place, Fault::Unread, "a redirection: not read");
                    }
                    redirected = true;
                }
                Token::Word(w) if words.is_empty() && w.assignment().is_some() => assignments.push(w),
                Token::Word(w) => words.push(w),
                Token::Operator("(") => {
                    if let ([name], true, false) = (&words[..], assignments.is_empty(), redirected) {
                        return self.function(name.clone(), at);
                    }
                    return self.unexpected(&token, place);
                }
                _ => {
                    self.pos = before;
                    if self.redirection()? {
                        redirected = true;
                        continue;
                    }
                    if assignments.is_empty() && words.is_empty() && !redirected {
                        return self.unexpected(&token, place);
                    }
                    return Ok(Command { kind: Kind::Simple { assignments, words }, redirected, at });
                }
            }
        }
    }

    fn digits_before_redirection(&self, word: &Word) -> bool {
        let digits = word.plain().is_some_and(|w| w.bytes().all(|b| b.is_ascii_digit()));
        digits && word.span.end == self.pos && matches!(self.byte(self.pos), Some(b'<' | b'>'))
    }

    /// `>file` and the like, if it stands here.
    fn redirection(&mut self) -> Read<bool> {
        let before = self.pos;
        let (token, at) = self.next()?;
        match token {
            Token::Operator("<<" | "<<-") => self.fault(at, Fault::Unread, "a here-document: not read"),
            Token::Operator(o) if REDIRECTIONS.contains(&o) => match self.next()? {
                (Token::Word(_), _) => Ok(true),
                (token, at) => self.unexpected(&token, at),
            },
            // In front of a redirection of a compound command.
            Token::Word(w) if self.digits_before_redirection(&w) => self.redirection(),
            _ => {
                self.pos = before;
                Ok(false)
            }
        }
    }

    fn function(&mut self, name: Word, at: usize) -> Read<Command> {
        let (token, place) = self.next()?;
        if token != Token::Operator(")") {
            return self.unexpected(&token, place);
        }
        let Some(name) = name.plain().filter(|n| is_name(n)).map(str::to_owned) else {
            return self.fault(at, Fault::Unread, "a function with an unusual name: not read");
        };
        self.skip_newlines()?;
        self.command()?;
        Ok(Command { kind: Kind::Function { name }, redirected: false, at })
    }

    // --- words ---

    fn word(&mut self) -> Read<Word> {
        let start = self.pos;
        let mut parts = Parts::default();
        let mut double = None;
        while let Some(b) = self.byte(self.pos) {
            let quoted = double.is_some();
            match b {
                b'"' => {
                    double = if quoted { None } else { Some(self.pos) };
                    parts.text(b"", true);
                    self.pos += 1;
                }
                b'\'' if !quoted => {
                    let text = &self.bytes[self.pos + 1..];
                    let Some(length) = text.iter().position(|b| *b == b'\'') else {
                        return self.fault(self.pos, Fault::Grammar, "a single quote that is not closed");
                    };
                    parts.text(&text[..length], true);
                    self.pos += length + 2;
                }
                b'\\' => self.backslash(&mut parts, quoted),
                b'$' | b'`' => self.expansion(&mut parts, quoted)?,
                b' ' | b'\t' | b'\n' | b';' | b'&' | b'|' | b'(' | b')' | b'<' | b'>' if !quoted => break,
                _ => {
                    parts.text(&[b], quoted);
                    self.pos += 1;
                }
            }
        }
        match double {
            Some(at) => self.fault(at, Fault::Grammar, "a double quote that is not closed"),
            None => Ok(Word { span: start..self.pos, parts: parts.0 }),
        }
    }

    fn backslash(&mut self, parts: &mut Parts, quoted: bool) {
        let next = self.byte(self.pos + 1);
        match next {
            Some(b'\n') => {}
            Some(c) if !quoted || b"$`\"\\".contains(&c) => parts.text(&[c], true),
            Some(c) => parts.text(&[b'\\', c], true),
            None => parts.text(b"\\", true),
        }
        self.pos += 1 + usize::from(next.is_some());
    }

    /// What begins with `$` or a backtick.
    fn expansion(&mut self, parts: &mut Parts, quoted: bool) -> Read<()> {
        let at = self.pos;
        if self.byte(at) == Some(b'`') {
            self.pos = self.backtick(at)?;
            parts.0.push(Part::Output);
            return Ok(());
        }
        match self.byte(at + 1) {
            Some(b'{') => {
                let part = self.braced(quoted)?;
                parts.0.push(part);
            }
            Some(b'(') if self.byte(at + 2) == Some(b'(') => {
                self.arithmetic()?;
                parts.0.push(Part::Other { fails: true });
            }
            Some(b'(') => {
                self.substitution()?;
                parts.0.push(Part::Output);
            }
            Some(b) if b.is_ascii_alphabetic() || b == b'_' => {
                let name = self.name(at + 1);
                self.pos = at + 1 + name.len();
                parts.0.push(Part::Variable { name, default: None, quoted });
            }
            Some(b) if b.is_ascii_digit() || b"?!@*#$-".contains(&b) => {
                self.pos = at + 2;
                parts.0.push(Part::Other { fails: false });
            }
            Some(b'\'' | b'"') if !quoted => return self.fault(at, Fault::Unread, "`$` before a quote: not read"),
            Some(b'\\') if self.byte(at + 2) == Some(b'\n') => {
                return self.fault(at, Fault::Unread, "a line is continued after `$`: not read");
            }
            // bash's old form of arithmetic.
            Some(b'[') => return self.fault(at, Fault::Unread, "`$[`: not read"),
            _ => {
                parts.text(b"$", quoted);
                self.pos = at + 1;
            }
        }
        Ok(())
    }

    fn name(&self, from: usize) -> String {
        let rest = self.bytes.get(from..).unwrap_or_default();
        rest.iter().take_while(|b| b.is_ascii_alphanumeric() || **b == b'_').map(|b| char::from(*b)).collect()
    }

    /// Where a backtick's command ends.
    fn backtick(&self, at: usize) -> Read<usize> {
        let mut pos = at + 1;
        while let Some(b) = self.byte(pos) {
            match b {
                b'`' => return Ok(pos + 1),
                b'\\' => pos += 2,
                _ => pos += 1,
            }
        }
        self.fault(at, Fault::Grammar, "a backtick that is not closed")
    }

    /// `$(…)`: read, and left out.
    fn substitution(&mut self) -> Read<()> {
        let at = self.pos;
        self.pos += 2;
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return self.fault(at, Fault::Unread, "nested too deeply");
        }
        self.list()?;
        self.depth -= 1;
        let (token, place) = self.peek()?;
        if token == Token::End {
            return self.fault(at, Fault::Grammar, "a command substitution that is not closed");
        }
        if self.eat(")")? { Ok(()) } else { self.unexpected(&token, place) }
    }

    fn arithmetic(&mut self) -> Read<()> {
        let at = self.pos;
        let mut depth = 0usize;
        for (n, b) in self.bytes[at + 1..].iter().enumerate() {
            match b {
                b'(' => depth += 1,
                b')' => depth -= 1,
                b'\'' | b'"' | b'\\' | b'`' => break,
                _ => {}
            }
            if depth == 0 {
                let end = at + 1 + n;
                if self.byte(end - 1) != Some(b')') {
                    break;
                }
                self.pos = end + 1;
                return Ok(());
            }
        }
        self.fault(at, Fault::Unread, "an arithmetic expansion: not read")
    }

    /// `${…}`
    fn braced(&mut self, quoted: bool) -> Read<Part> {
        let at = self.pos;
        let name = self.name(at + 2);
        self.pos = at + 2 + name.len();
        if self.byte(self.pos) == Some(b'}') && is_name(&name) {
            self.pos += 1;
            return Ok(Part::Variable { name, default: None, quoted });
        }
        if !is_name(&name) {
            // A length, a positional or special parameter, or nothing that a shell knows.
            self.brace_text(at)?;
            return Ok(Part::Other { fails: true });
        }
        let for_empty = self.byte(self.pos) == Some(b':');
        let operator = self.byte(self.pos + usize::from(for_empty)).unwrap_or(0);
        self.pos += usize::from(for_empty) + usize::from(operator != b'}');
        let text = self.brace_text(at)?;
        Ok(match (operator, text) {
            (b'-', Some(text)) if !text.contains(&b'~') => {
                Part::Variable { name, default: Some(Fallback { text, for_empty }), quoted }
            }
            (b'-' | b'+', _) => Part::Other { fails: false },
            (b'#' | b'%', _) if !for_empty => Part::Other { fails: false },
            (b'=', _) => Part::Assigns { name },
            _ => Part::Other { fails: true },
        })
    }

    /// The rest up to the closing brace; `None`: it holds expansions.
    fn brace_text(&mut self, open: usize) -> Read<Option<Vec<u8>>> {
        let start = self.pos;
        let mut simple = true;
        loop {
            match self.byte(self.pos) {
                None => return self.fault(open, Fault::Grammar, "an expansion that is not closed"),
                Some(b'}') => {
                    let text = self.bytes[start..self.pos].to_vec();
                    self.pos += 1;
                    return Ok(simple.then_some(text));
                }
                Some(b'\'' | b'"' | b'\\') => return self.fault(open, Fault::Unread, "quotes inside of `${…}`: not read"),
                Some(b'$' | b'`') => {
                    simple = false;
                    self.depth += 1;
                    if self.depth > MAX_DEPTH {
                        return self.fault(open, Fault::Unread, "nested too deeply");
                    }
                    self.expansion(&mut Parts::default(), true)?;
                    self.depth -= 1;
                }
                Some(_) => self.pos += 1,
            }
        }
    }
}

#[derive(Default)]
struct Parts(Vec<Part>);

impl Parts {
    fn text(&mut self, more: &[u8], quoted: bool) {
        match self.0.last_mut() {
            Some(Part::Text { bytes, quoted: q }) if *q == quoted => bytes.extend_from_slice(more),
            _ => self.0.push(Part::Text { bytes: more.to_vec(), quoted }),
        }
    }
}

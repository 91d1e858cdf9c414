//! The text of `iptables-save` and its relatives, as tables, chains and lines. No meaning is given to options here. The text is kept
//! once; rules are places in it, so that a save of 100,000 rules stays small.

use std::borrow::Cow;
use std::collections::HashMap;

/// What one run of a save tool printed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Save {
    text: String,
    pub tables: Vec<Table>,
    /// Tables that the tool refused to print because a native nftables rule is in them (it still ends with status 0).
    pub incompatible: Vec<String>,
}

impl Save {
    /// A rule's line as printed, without packet counters: `-A INPUT …`.
    pub fn line(&self, rule: &Rule) -> &str {
        self.text.get(rule.start..rule.start + rule.length as usize).unwrap_or("")
    }
    /// The words after `-A CHAIN`.
    pub fn words(&self, rule: &Rule) -> Vec<Word<'_>> {
        let mut words = words(self.line(rule)).unwrap_or_default();
        words.drain(..words.len().min(2));
        // `-I CHAIN 3`
        if rule.inserted && words.first().is_some_and(|w| w.parse::<usize>().is_ok()) {
            words.remove(0);
        }
        words
    }
}

/// `*filter` … `COMMIT`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    pub name: String,
    pub chains: Vec<Chain>,
}

/// `:INPUT DROP [0:0]` and the rules appended to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    pub name: String,
    /// `ACCEPT` or `DROP` of a built-in chain.
    pub policy: Option<String>,
    pub rules: Vec<Rule>,
}

/// One rule line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    start: usize,
    length: u32,
    inserted: bool,
    /// Packets that it has seen, in a save with counters (`-c`).
    pub packets: Option<u64>,
}

/// A word of a line, unquoted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Word<'a> {
    text: Cow<'a, str>,
    /// It was written in quotes: never an option.
    pub quoted: bool,
}

impl std::ops::Deref for Word<'_> {
    type Target = str;
    fn deref(&self) -> &str {
        &self.text
    }
}

/// Reads a whole save. A text that ends inside a table is an error: a cut-off ruleset must not look like a short one. Listings of
/// `iptables -S`, which name no table, are taken as table filter.
pub fn parse(text: &str) -> Result<Save, String> {
    let mut builder = Builder { text, save: Save::default(), open: None };
    let listing = text.lines().map(str::trim).find(|l| !l.is_empty() && !l.starts_with('#')).is_some_and(is_command);
    if listing {
        builder.open = Some(Open::new("filter"));
    }
    let mut last = 0;
    for (index, raw) in text.lines().enumerate() {
        last = index + 1;
        let line = raw.trim();
        builder.line(line, listing).map_err(|what| format!("line {last}: {what}"))?;
    }
    let mut save = builder.save;
    match builder.open {
        Some(open) if listing => save.tables.push(open.table),
        Some(open) => return Err(format!("line {last}: the text ends inside table {}, without COMMIT", open.table.name)),
        None => {}
    }
    save.text = text.to_owned();
    Ok(save)
}

fn is_command(line: &str) -> bool {
    ["-P ", "-N ", "-A "].iter().any(|start| line.starts_with(start))
}

/// A table that is being read.
struct Open {
    table: Table,
    places: HashMap<String, usize>,
    /// The chain of the last line: most lines go on in it.
    last: usize,
}

impl Open {
    fn new(name: &str) -> Open {
        Open { table: Table { name: name.to_owned(), chains: Vec::new() }, places: HashMap::new(), last: 0 }
    }

    fn chain(&mut self, name: &str) -> &mut Chain {
        if self.table.chains.get(self.last).is_none_or(|c| c.name != name) {
            self.last = match self.places.get(name) {
                Some(place) => *place,
                None => {
                    self.places.insert(name.to_owned(), self.table.chains.len());
                    self.table.chains.push(Chain { name: name.to_owned(), policy: None, rules: Vec::new() });
                    self.table.chains.len() - 1
                }
            };
        }
        &mut self.table.chains[self.last]
    }
}

struct Builder<'a> {
    text: &'a str,
    save: Save,
    open: Option<Open>,
}

impl<'a> Builder<'a> {
    fn line(&mut self, line: &'a str, listing: bool) -> Result<(), String> {
        if let Some(comment) = line.strip_prefix('#') {
            self.save.incompatible.extend(incompatible_table(comment));
            return Ok(());
        }
        if line.is_empty() {
            return Ok(());
        }
        if let Some(name) = line.strip_prefix('*') {
            if self.open.is_some() {
                return Err("a table begins before the last one was committed".to_owned());
            }
            self.open = Some(Open::new(name.trim()));
            return Ok(());
        }
        if line == "COMMIT" && !listing {
            let open = self.open.take().ok_or("COMMIT outside a table")?;
            self.save.tables.push(open.table);
            return Ok(());
        }
        let start = self.offset(line);
        let open = self.open.as_mut().ok_or("a line outside a table")?;
        match line.strip_prefix(':') {
            Some(declaration) => {
                let mut words = declaration.split_whitespace();
                let name = words.next().ok_or("a chain without a name")?;
                let policy = words.next().filter(|p| *p != "-").map(str::to_owned);
                open.chain(name).policy = policy;
                Ok(())
            }
            None => command(open, line, start),
        }
    }

    /// Where a part of the text begins in it.
    fn offset(&self, line: &str) -> usize {
        (line.as_ptr() as usize).saturating_sub(self.text.as_ptr() as usize)
    }
}

/// A line that does something with a chain.
fn command(open: &mut Open, line: &str, start: usize) -> Result<(), String> {
    // With -c every rule is preceded by its counters: `[12:345] -A …`
    let (packets, text) = match line.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((counters, rest)) => (counters.split(':').next().and_then(|p| p.parse().ok()), rest.trim_start()),
        None => (None, line),
    };
    let mut rest = text.splitn(3, char::is_whitespace).filter(|w| !w.is_empty());
    let verb = rest.next().unwrap_or("");
    let plain = |word: Option<&str>| word.map(|w| w.trim_matches('"').to_owned());
    let name = plain(rest.next()).ok_or_else(|| format!("not a rule: {text}"))?;
    let options = rest.next().unwrap_or("");
    if options.contains('"') {
        // An open quote is a cut-off line.
        words(options)?;
    }
    let length = u32::try_from(text.len()).map_err(|_| "a line too long")?;
    let rule = |inserted| Rule { start: start + (line.len() - text.len()), length, inserted, packets };
    match verb {
        "-A" | "--append" => open.chain(&name).rules.push(rule(false)),
        "-I" | "--insert" => {
            let at: usize = options.split_whitespace().next().and_then(|w| w.parse().ok()).unwrap_or(1);
            let rules = &mut open.chain(&name).rules;
            if at == 0 || at > rules.len() + 1 {
                return Err(format!("no place {at} in chain {name}"));
            }
            rules.insert(at - 1, rule(true));
        }
        "-N" | "--new-chain" => {
            open.chain(&name);
        }
        "-P" | "--policy" => open.chain(&name).policy = plain(options.split_whitespace().next()),
        "-F" | "--flush" => open.chain(&name).rules.clear(),
        _ => return Err(format!("not a rule: {text}")),
    }
    Ok(())
}

/// ``Table `filter' is incompatible, use 'nft' tool.``
fn incompatible_table(comment: &str) -> Option<String> {
    let rest = comment.trim().strip_prefix("Table ")?;
    rest.contains("is incompatible")
        .then(|| rest.trim_start_matches(['`', '\'']).split(['\'', '`', ' ']).next().unwrap_or("").to_owned())
}

/// Splits a line at blanks. Only double quotes quote, and only inside them a backslash escapes; everything else is literal
/// (names of ipsets may hold `#`, `|` or `'`).
pub fn words(line: &str) -> Result<Vec<Word<'_>>, String> {
    let mut all = Vec::new();
    let mut rest = line.trim_start();
    while !rest.is_empty() {
        let end = rest.find(|c: char| c.is_whitespace() || c == '"').unwrap_or(rest.len());
        if rest[end..].starts_with('"') {
            let (text, after) = quoted(rest)?;
            all.push(Word { text: Cow::Owned(text), quoted: true });
            rest = after.trim_start();
        } else {
            all.push(Word { text: Cow::Borrowed(&rest[..end]), quoted: false });
            rest = rest[end..].trim_start();
        }
    }
    Ok(all)
}

/// A word with quotes in it, and what follows it.
fn quoted(text: &str) -> Result<(String, &str), String> {
    let mut word = String::new();
    let mut inside = false;
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => inside = !inside,
            '\\' if inside => word.extend(chars.next().map(|(_, c)| c)),
            c if c.is_whitespace() && !inside => return Ok((word, &text[at..])),
            c => word.push(c),
        }
    }
    if inside { Err("an open quote".to_owned()) } else { Ok((word, "")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain<'a>(words: &'a [Word<'a>]) -> Vec<&'a str> {
        words.iter().map(|w| &**w).collect()
    }

    #[test]
    fn tables_chains_and_rules() {
        let save = parse(
            "# Generated by iptables-save v1.8.9\n*filter\n:INPUT DROP [1:2]\n:u - [0:0]\n[3:4] -A INPUT -m comment --comment \"a \\\"b\\\" c\" -j u\n-A u -m set --match-set weave-]b#Z8 src -j ACCEPT\nCOMMIT\n",
        )
        .unwrap();
        let table = &save.tables[0];
        assert_eq!(table.chains[0].policy.as_deref(), Some("DROP"));
        let rule = &table.chains[0].rules[0];
        assert_eq!(plain(&save.words(rule)), ["-m", "comment", "--comment", "a \"b\" c", "-j", "u"]);
        assert!(save.words(rule)[3].quoted);
        assert_eq!(save.line(rule), "-A INPUT -m comment --comment \"a \\\"b\\\" c\" -j u");
        assert_eq!(rule.packets, Some(3));
        assert_eq!(table.chains[1].policy, None);
        assert_eq!(&*save.words(&table.chains[1].rules[0])[3], "weave-]b#Z8");
    }

    #[test]
    fn a_cut_text_is_an_error_with_its_line() {
        assert_eq!(
            parse("*filter\n:INPUT ACCEPT [0:0]\n").unwrap_err(),
            "line 2: the text ends inside table filter, without COMMIT"
        );
        assert!(parse("*filter\n-A INPUT -m comment --comment \"a\nCOMMIT\n").unwrap_err().starts_with("line 2: an open quote"));
        assert!(parse("*filter\n-A\nCOMMIT\n").is_err());
        assert!(parse("*filter\n-D INPUT -j DROP\nCOMMIT\n").unwrap_err().starts_with("line 2"));
        assert_eq!(parse("").unwrap(), Save::default());
    }

    #[test]
    fn a_refused_table_is_told() {
        let save = parse("# Table `filter' is incompatible, use 'nft' tool.\n").unwrap();
        assert_eq!(save.incompatible, ["filter"]);
    }

    #[test]
    fn windows_lines_no_last_newline_and_insertions() {
        let save =
            parse("*filter\r\n:INPUT ACCEPT [0:0]\r\n-A INPUT -j DROP\r\n-I INPUT -j ACCEPT\r\n-I INPUT 2 -j LOG\r\nCOMMIT")
                .unwrap();
        let chain = &save.tables[0].chains[0];
        let targets: Vec<String> = chain.rules.iter().map(|r| save.words(r)[1].to_string()).collect();
        assert_eq!(targets, ["ACCEPT", "LOG", "DROP"]);
    }

    #[test]
    fn listings_of_rules() {
        let save = parse("-P INPUT DROP\n-P FORWARD ACCEPT\n-N u\n-A INPUT -j u\n").unwrap();
        assert_eq!(save.tables[0].name, "filter");
        assert_eq!(save.tables[0].chains[0].policy.as_deref(), Some("DROP"));
        assert_eq!(save.tables[0].chains.len(), 3);
    }
}

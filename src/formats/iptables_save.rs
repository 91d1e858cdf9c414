//! The text of `iptables-save` and its relatives, as tables, chains and tokenised rules. No meaning is given to options here.

/// What one run of a save tool printed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Save {
    pub tables: Vec<Table>,
    /// Tables that the tool refused to print because a native nftables rule is in them (it still ends with status 0).
    pub incompatible: Vec<String>,
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

/// One `-A` line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// The words after `-A CHAIN`, unquoted.
    pub words: Vec<String>,
    /// The line as printed, without packet counters.
    pub text: String,
}

/// Reads a whole save. A text that ends inside a table is an error: a cut-off ruleset must not look like a short one.
pub fn parse(text: &str) -> Result<Save, String> {
    let mut save = Save::default();
    let mut open: Option<Table> = None;
    for (index, raw) in text.lines().enumerate() {
        let line = raw.trim();
        let at = |what: &str| format!("line {}: {what}", index + 1);
        if let Some(comment) = line.strip_prefix('#') {
            if let Some(name) = incompatible_table(comment) {
                save.incompatible.push(name);
            }
        } else if line.is_empty() {
        } else if let Some(name) = line.strip_prefix('*') {
            if open.is_some() {
                return Err(at("a table begins before the last one was committed"));
            }
            open = Some(Table { name: name.trim().to_owned(), chains: Vec::new() });
        } else if line == "COMMIT" {
            save.tables.push(open.take().ok_or_else(|| at("COMMIT outside a table"))?);
        } else {
            let table = open.as_mut().ok_or_else(|| at("a line outside a table"))?;
            if let Some(declaration) = line.strip_prefix(':') {
                declare(table, declaration);
            } else {
                append(table, line).map_err(|e| at(&e))?;
            }
        }
    }
    match open {
        Some(table) => Err(format!("the text ends inside table {}, without COMMIT", table.name)),
        None => Ok(save),
    }
}

/// ``Table `filter' is incompatible, use 'nft' tool.``
fn incompatible_table(comment: &str) -> Option<String> {
    let rest = comment.trim().strip_prefix("Table ")?;
    rest.contains("is incompatible")
        .then(|| rest.trim_start_matches(['`', '\'']).split(['\'', '`', ' ']).next().unwrap_or("").to_owned())
}

fn declare(table: &mut Table, declaration: &str) {
    let mut words = declaration.split_whitespace();
    let name = words.next().unwrap_or("").to_owned();
    let policy = words.next().filter(|p| *p != "-").map(str::to_owned);
    match table.chains.iter_mut().find(|c| c.name == name) {
        Some(chain) => chain.policy = policy,
        None => table.chains.push(Chain { name, policy, rules: Vec::new() }),
    }
}

fn append(table: &mut Table, line: &str) -> Result<(), String> {
    // With -c every rule is preceded by its counters: `[12:345] -A …`
    let text = match line.strip_prefix('[') {
        Some(rest) => rest.split_once(']').map_or(line, |(_, r)| r.trim_start()),
        None => line,
    };
    let mut words = words(text)?.into_iter();
    if !matches!(words.next().as_deref(), Some("-A" | "--append")) {
        return Err(format!("not a rule: {text}"));
    }
    let name = words.next().ok_or("a rule without a chain")?;
    let rule = Rule { words: words.collect(), text: text.to_owned() };
    match table.chains.iter_mut().find(|c| c.name == name) {
        Some(chain) => chain.rules.push(rule),
        None => table.chains.push(Chain { name, policy: None, rules: vec![rule] }),
    }
    Ok(())
}

/// Splits a line at blanks. Only double quotes quote, and only inside them a backslash escapes; everything else is literal
/// (names of ipsets may hold `#`, `|` or `'`).
pub fn words(line: &str) -> Result<Vec<String>, String> {
    let mut all = Vec::new();
    let mut word: Option<String> = None;
    let mut quoted = false;
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        match c {
            '"' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            '\\' if quoted => word.get_or_insert_default().extend(chars.next()),
            c if c.is_whitespace() && !quoted => all.extend(word.take()),
            c => word.get_or_insert_default().push(c),
        }
    }
    if quoted {
        return Err("an open quote".to_owned());
    }
    all.extend(word);
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_chains_and_rules() {
        let save = parse(
            "# Generated by iptables-save v1.8.9\n*filter\n:INPUT DROP [1:2]\n:u - [0:0]\n[3:4] -A INPUT -m comment --comment \"a \\\"b\\\" c\" -j u\n-A u -m set --match-set weave-]b#Z8 src -j ACCEPT\nCOMMIT\n",
        )
        .unwrap();
        let table = &save.tables[0];
        assert_eq!(table.chains[0].policy.as_deref(), Some("DROP"));
        assert_eq!(table.chains[0].rules[0].words, ["-m", "comment", "--comment", "a \"b\" c", "-j", "u"]);
        assert_eq!(table.chains[0].rules[0].text, "-A INPUT -m comment --comment \"a \\\"b\\\" c\" -j u");
        assert_eq!(table.chains[1].policy, None);
        assert_eq!(table.chains[1].rules[0].words[3], "weave-]b#Z8");
    }

    #[test]
    fn a_cut_text_is_an_error() {
        assert!(parse("*filter\n:INPUT ACCEPT [0:0]\n").unwrap_err().contains("without COMMIT"));
        assert!(parse("*filter\n-A INPUT -m comment --comment \"a\nCOMMIT\n").unwrap_err().contains("open quote"));
        assert_eq!(parse("").unwrap(), Save::default());
    }

    #[test]
    fn a_refused_table_is_told() {
        let save = parse("# Table `filter' is incompatible, use 'nft' tool.\n").unwrap();
        assert_eq!(save.incompatible, ["filter"]);
    }
}

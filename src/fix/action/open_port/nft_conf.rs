//! Puts one rule into a file for `nft -f`; every other byte stays. Only what is certainly understood is edited: chains that the file
//! spells out, with as many rules as the running chain has.

/// Where the rule goes.
pub struct Place<'a> {
    /// `inet filter`
    pub table: &'a str,
    pub chain: &'a str,
    /// Rules that the running chain has.
    pub rules: usize,
    /// Before this one, counted from 0; `None`: at the end.
    pub before: Option<usize>,
}

/// One statement of the file, or a block of them.
#[derive(Debug)]
struct Statement {
    start: usize,
    end: usize,
    /// Of a block: what stands before its brace.
    text: String,
    block: Option<Vec<Statement>>,
}

/// Words that say that the file is written by a program.
const GENERATED: [&str; 8] = ["generated", "managed by", "do not edit", "don't edit", "ansible", "puppet", "chef ", "saltstack"];
/// Statements of a chain that are no rules.
const NO_RULES: [&str; 7] = ["type ", "policy ", "comment ", "flags ", "devices ", "device ", "define "];

/// The file with `rule` in it, or why it is not edited ("is …").
pub fn insert(text: &str, place: &Place, rule: &str) -> Result<String, String> {
    let head: String = text.lines().take_while(|l| l.trim().is_empty() || l.starts_with('#')).collect::<Vec<_>>().join("\n");
    if let Some(word) = GENERATED.iter().find(|word| head.to_ascii_lowercase().contains(**word)) {
        return Err(format!("is written by a program (its head says \"{}\")", word.trim()));
    }
    let all = Parser { text, at: 0 }.statements(0)?;
    let mut found: Vec<&Statement> = Vec::new();
    let mut flat: Vec<&Statement> = Vec::new();
    let mut frame = None;
    for statement in &all {
        let words = normal(&statement.text);
        match &statement.block {
            Some(inside) if same_table(&words, place.table) => {
                for chain in inside.iter().filter(|s| normal(&s.text) == format!("chain {}", place.chain)) {
                    let Some(rules) = &chain.block else { continue };
                    frame = rules.iter().rfind(|s| !is_rule(s)).or(frame);
                    found.extend(rules.iter().filter(|s| is_rule(s)));
                }
            }
            None => {
                let added =
                    [format!("add rule {} {} ", place.table, place.chain), format!("rule {} {} ", place.table, place.chain)];
                if added.iter().any(|start| words.starts_with(start)) {
                    flat.push(statement);
                } else if ["insert rule", "replace rule", "delete rule"].iter().any(|verb| words.starts_with(verb)) {
                    return Err(format!("changes rules by `{}`", words.split(' ').take(2).collect::<Vec<_>>().join(" ")));
                }
            }
            Some(_) => {}
        }
    }
    if found.iter().any(|s| normal(&s.text).starts_with("include ")) {
        return Err("includes other files in that chain".to_owned());
    }
    let count = found.len() + flat.len();
    if count != place.rules {
        return Err(format!("has {count} rules in that chain, where {} run", place.rules));
    }
    let one_line = |at: usize| text[..at].rfind('\n').map_or(0, |n| n + 1);
    let before = place.before.and_then(|n| found.get(n).copied().or_else(|| flat.get(n - found.len().min(n)).copied()));
    let (at, new) = if let Some(before) = before {
        let start = one_line(before.start);
        let indent = &text[start..before.start];
        let prefix = if before.block.is_none() && flat.iter().any(|s| s.start == before.start) {
            format!("add rule {} {} ", place.table, place.chain)
        } else {
            String::new()
        };
        if indent.trim().is_empty() {
            (start, format!("{indent}{prefix}{rule}\n"))
        } else {
            (before.start, format!("{prefix}{rule}; "))
        }
    } else {
        let (last, prefix) = match (flat.last(), found.last().copied().or(frame)) {
            (Some(last), _) => (*last, format!("add rule {} {} ", place.table, place.chain)),
            (None, Some(last)) => (last, String::new()),
            (None, None) => return Err("does not spell that chain out".to_owned()),
        };
        let start = one_line(last.start);
        let indent: String = text[start..].chars().take_while(|c| *c == ' ' || *c == '\t').collect();
        let rest = &text[last.end..];
        let line_end = rest.find('\n').map_or(text.len(), |n| last.end + n);
        // Only a `;` or a comment may follow on the line.
        let tail = text[last.end..line_end].trim_start_matches([' ', '\t', ';']);
        if start + indent.len() <= last.start && (tail.is_empty() || tail.starts_with('#')) {
            let gap = if line_end == text.len() { "\n" } else { "" };
            ((line_end + 1).min(text.len()), format!("{gap}{indent}{prefix}{rule}\n"))
        } else {
            (last.end, format!("; {prefix}{rule}"))
        }
    };
    Ok(format!("{}{new}{}", &text[..at], &text[at..]))
}

fn is_rule(statement: &Statement) -> bool {
    let words = normal(&statement.text);
    statement.block.is_none() && !NO_RULES.iter().any(|start| format!("{words} ").starts_with(start))
}

fn same_table(words: &str, table: &str) -> bool {
    let named = words.strip_prefix("add ").unwrap_or(words).strip_prefix("table ");
    // Without a family it is `ip`.
    named.is_some_and(|name| name == table || (!name.contains(' ') && table == format!("ip {name}")))
}

/// One blank between words, no quotes.
fn normal(text: &str) -> String {
    text.replace("\\\n", " ").split_whitespace().collect::<Vec<_>>().join(" ")
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
}

/// Headers of blocks; other braces belong to a rule.
const BLOCKS: [&str; 9] = ["table ", "chain ", "set ", "map ", "counter ", "add table ", "add chain ", "flowtable ", "ct "];

impl Parser<'_> {
    /// Statements up to the closing brace (`depth` above 0) or the end.
    fn statements(&mut self, depth: usize) -> Result<Vec<Statement>, String> {
        let mut all = Vec::new();
        let mut start: Option<usize> = None;
        let mut sets = 0;
        while let Some(byte) = self.text.as_bytes().get(self.at).copied() {
            let here = self.at;
            self.at += 1;
            match byte {
                b'#' => {
                    if sets == 0 {
                        all.extend(self.plain(start.take(), here));
                    }
                    self.at = self.text[here..].find('\n').map_or(self.text.len(), |n| here + n);
                }
                b'"' => {
                    start.get_or_insert(here);
                    self.at += self.text[self.at..].find('"').ok_or("has an open quote")? + 1;
                }
                b'\\' => self.at += 1,
                b'\n' | b';' if sets == 0 => all.extend(self.plain(start.take(), here)),
                b'{' => {
                    let header = start.map_or("", |from| &self.text[from..here]).trim_end();
                    let words = normal(header);
                    if sets == 0 && depth < 2 && BLOCKS.iter().any(|word| words.starts_with(word)) {
                        let from = start.take().unwrap_or(here);
                        let block = Some(self.statements(depth + 1)?);
                        all.push(Statement { start: from, end: self.at, text: header.to_owned(), block });
                    } else {
                        start.get_or_insert(here);
                        sets += 1;
                    }
                }
                b'}' if sets > 0 => sets -= 1,
                b'}' if depth > 0 => {
                    all.extend(self.plain(start.take(), here));
                    return Ok(all);
                }
                b'}' => return Err("has a closing brace too many".to_owned()),
                byte if byte.is_ascii_whitespace() => {}
                _ => {
                    start.get_or_insert(here);
                }
            }
        }
        if depth > 0 || sets > 0 {
            return Err("ends inside a block".to_owned());
        }
        all.extend(self.plain(start, self.text.len()));
        Ok(all)
    }

    fn plain(&self, start: Option<usize>, end: usize) -> Option<Statement> {
        let start = start?;
        let text = self.text[start..end].trim_end().to_owned();
        Some(Statement { start, end: start + text.len(), text, block: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONF: &str = "#!/usr/sbin/nft -f\nflush ruleset\n\ntable inet filter {\n\tset s { type ipv4_addr; elements = { 10.0.0.1 } }\n\tchain input {\n\t\ttype filter hook input priority 0; policy drop;\n\t\tiif \"lo\" accept # {\n\t\tip saddr { 10.0.0.1,\n\t\t\t10.0.0.2 } drop\n\t\ttcp dport 22 accept\n\t}\n\tchain forward { type filter hook forward priority 0; }\n}\n";

    fn put(text: &str, rules: usize, before: Option<usize>) -> Result<String, String> {
        insert(text, &Place { table: "inet filter", chain: "input", rules, before }, "NEW")
    }

    #[test]
    fn before_a_rule_and_at_the_end() {
        let first = put(CONF, 3, Some(0)).unwrap();
        assert_eq!(first, CONF.replace("\t\tiif", "\t\tNEW\n\t\tiif"));
        let second = put(CONF, 3, Some(1)).unwrap();
        assert_eq!(second, CONF.replace("\t\tip saddr", "\t\tNEW\n\t\tip saddr"));
        let last = put(CONF, 3, None).unwrap();
        assert_eq!(last, CONF.replace("22 accept\n", "22 accept\n\t\tNEW\n"));
    }

    #[test]
    fn on_one_line() {
        let text = "table inet filter { chain input { type filter hook input priority 0; iif lo accept; tcp dport 22 drop; } }\n";
        assert_eq!(put(text, 2, Some(1)).unwrap(), text.replace("tcp", "NEW; tcp"));
        assert_eq!(put(text, 2, None).unwrap(), text.replace("22 drop", "22 drop; NEW"));
        let empty = "table inet filter {\n  chain input {\n    type filter hook input priority 0; policy drop;\n  }\n}\n";
        assert_eq!(put(empty, 0, None).unwrap(), empty.replace("drop;\n", "drop;\n    NEW\n"));
    }

    #[test]
    fn what_is_not_understood_is_left_alone() {
        assert!(put(CONF, 4, None).unwrap_err().contains("3 rules"));
        assert!(put(&format!("# Ansible managed\n{CONF}"), 3, None).unwrap_err().contains("program"));
        assert!(put("table inet filter {\n", 0, None).is_err());
        assert!(put("include \"/etc/x\"\n", 0, None).unwrap_err().contains("spell"));
    }

    #[test]
    fn rules_that_are_added_one_by_one() {
        let text = "add table inet filter\nadd chain inet filter input { type filter hook input priority 0; policy drop; }\nadd rule inet filter input iif lo accept\nadd rule inet filter input tcp dport 22 accept\n";
        let new = put(text, 2, Some(1)).unwrap();
        assert_eq!(
            new,
            text.replace("add rule inet filter input tcp", "add rule inet filter input NEW\nadd rule inet filter input tcp")
        );
        assert!(put(text, 2, None).unwrap().ends_with("22 accept\nadd rule inet filter input NEW\n"));
    }
}

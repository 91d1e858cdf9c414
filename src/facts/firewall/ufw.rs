//! ufw's own files: whether it is enabled, and its user rules in the order in which `ufw insert` counts them.

use crate::host::{Got, Host, optional, read_text};

/// One `### tuple ###` of /etc/ufw/user.rules or user6.rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserRule {
    /// Position for `ufw insert`, counted from 1: the IPv4 rules first, then the IPv6 rules.
    pub position: usize,
    pub v6: bool,
    /// allow | deny | reject | limit, without the log suffix
    pub action: String,
    /// `_log`, `_log-all` or nothing
    pub log: String,
    /// tcp | udp | any
    pub protocol: String,
    /// Destination port or ports as written: `5672`, `5671,5672`, `5671:5673`, `any`.
    pub port: String,
    pub destination: String,
    pub source_port: String,
    pub source: String,
    /// `in`, `out`, `in_eth0`; `route:` rules carry it in the action
    pub direction: String,
    /// Names of application profiles stand in the tuple.
    pub application: bool,
    /// `ufw route …`
    pub route: bool,
    /// Positions in chain ufw-user-input (ufw6-user-input) that come from this rule, counted from 1.
    pub lines: Vec<i64>,
}

/// /etc/ufw/ufw.conf says ENABLED=yes. A missing file means that ufw is not installed.
pub fn enabled(host: &dyn Host) -> Got<bool> {
    let text = optional(read_text(host, "/etc/ufw/ufw.conf"))?.unwrap_or_default();
    let setting = text.lines().filter_map(|l| l.trim().strip_prefix("ENABLED=")).next_back();
    Ok(setting.is_some_and(|v| v.trim().trim_matches(['"', '\'']).eq_ignore_ascii_case("yes")))
}

/// The user rules of both address families.
pub fn user_rules(host: &dyn Host) -> Got<Vec<UserRule>> {
    let v4 = optional(read_text(host, "/etc/ufw/user.rules"))?.unwrap_or_default();
    let v6 = optional(read_text(host, "/etc/ufw/user6.rules"))?.unwrap_or_default();
    let mut rules = parse(&v4, false);
    rules.extend(parse(&v6, true));
    for (rule, position) in rules.iter_mut().zip(1..) {
        rule.position = position;
    }
    Ok(rules)
}

/// The tuples of one file, each with the lines that follow it.
pub fn parse(text: &str, v6: bool) -> Vec<UserRule> {
    let chain = if v6 { "ufw6-user-input" } else { "ufw-user-input" };
    let mut rules: Vec<UserRule> = Vec::new();
    let mut line = 0;
    for raw in text.lines() {
        if let Some(tuple) = raw.trim().strip_prefix("### tuple ###") {
            rules.extend(user_rule(tuple, v6));
        } else if let Some(rest) = raw.trim().strip_prefix("-A ") {
            if rest.split_whitespace().next() == Some(chain) {
                line += 1;
                if let Some(rule) = rules.last_mut() {
                    rule.lines.push(line);
                }
            }
        } else if raw.trim() == "### END RULES ###" {
            break;
        }
    }
    rules
}

fn user_rule(tuple: &str, v6: bool) -> Option<UserRule> {
    let words: Vec<&str> = tuple.split_whitespace().filter(|w| !w.starts_with("comment=")).collect();
    let [action, protocol, port, destination, source_port, source, rest @ ..] = words.as_slice() else { return None };
    let (route, action) = match action.strip_prefix("route:") {
        Some(action) => (true, action),
        None => (false, *action),
    };
    let (action, log) = action.split_once('_').map_or((action, String::new()), |(a, l)| (a, format!("_{l}")));
    Some(UserRule {
        position: 0,
        v6,
        action: action.to_owned(),
        log,
        protocol: (*protocol).to_owned(),
        port: (*port).to_owned(),
        destination: (*destination).to_owned(),
        source_port: (*source_port).to_owned(),
        source: (*source).to_owned(),
        direction: rest.last().copied().unwrap_or("in").to_owned(),
        application: rest.len() > 1,
        route,
        lines: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tuples_and_their_lines() {
        let text = "*filter\n### RULES ###\n\n### tuple ### allow tcp 22 0.0.0.0/0 any 0.0.0.0/0 in\n-A ufw-user-input -p tcp --dport 22 -j ACCEPT\n\n\
            ### tuple ### deny any 5672 0.0.0.0/0 any 10.0.0.0/8 in comment=6162\n-A ufw-user-input -p tcp --dport 5672 -s 10.0.0.0/8 -j DROP\n\
            -A ufw-user-input -p udp --dport 5672 -s 10.0.0.0/8 -j DROP\n\n### tuple ### route:allow_log any any 0.0.0.0/0 any 0.0.0.0/0 in_eth0\n-A ufw-user-forward -j ACCEPT\n### END RULES ###\n-A ufw-user-limit -j REJECT\n";
        let rules = parse(text, false);
        assert_eq!(rules.len(), 3);
        assert_eq!((rules[1].action.as_str(), rules[1].source.as_str()), ("deny", "10.0.0.0/8"));
        assert_eq!(rules[1].lines, [2, 3]);
        assert!(rules[2].route && rules[2].log == "_log" && rules[2].lines.is_empty());
    }
}

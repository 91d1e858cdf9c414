//! Through ufw: its own commands write its files and load the kernel.

use super::{COMMENT, Deed, Edit, Entry, Piece, Read, Request, argv, chains};
use crate::facts::Fact;
use crate::facts::firewall::Firewall;
use crate::facts::firewall::impact::Stage;
use crate::facts::firewall::model::Target;
use crate::facts::firewall::ufw::UserRule;
use crate::facts::firewall::verdict::At;
use std::path::Path;

pub(super) fn piece(request: &Request, fw: &Firewall, at: &At, read: &Read) -> Result<Piece, String> {
    if !fw.ufw_loaded {
        return Err("ufw is enabled but its chains are not in the kernel: `ufw reload` loads them".to_owned());
    }
    let rules = match &fw.ufw_rules {
        Fact::Known(rules) => rules,
        Fact::Unknown(why) => return Err(format!("ufw's rules could not be read: {why}")),
    };
    if request.v6 && without_v6(read) {
        return Err("ufw drops IPv6 as a whole and takes no rule for it: IPV6=no in /etc/default/ufw".to_owned());
    }
    let table = &fw.model.tables[at.table];
    let names = chains(table, at);
    let user = if request.v6 { "ufw6-user-input" } else { "ufw-user-input" };
    let line = at.way.iter().copied().chain(at.rule.map(|r| (at.chain, r))).find(|w| table.chains[w.0].name == user);
    let mut steps = Vec::new();
    let old = rules.iter().find(|r| request.same_tuple(r));
    let plain = request.ufw_rule(&[], "allow", "", true);
    let undo = request.ufw_rule(&["delete"], "allow", "", false);
    let (chain, place) = match line {
        None => {
            if names.iter().any(|n| n.contains("-before-") || n.contains("-not-local")) {
                let rule = fw.describe(at);
                return Err(format!("a rule of /etc/ufw/before.rules refuses before any user rule: {}", rule.rule));
            }
            if old.is_some_and(|r| r.action == "allow") {
                return Err("ufw has this rule in its files but not in the kernel: `ufw reload` loads it".to_owned());
            }
            steps.push((plain, undo));
            let chain = table.chain(user).ok_or_else(|| format!("chain {user} is not in the kernel: `ufw reload` loads it"))?;
            (chain, table.chains[chain].rules.len())
        }
        Some((chain, line)) => {
            let lines = rules.iter().filter(|r| r.v6 == request.v6).map(|r| r.lines.len()).sum::<usize>();
            let decider = rules.iter().find(|r| r.v6 == request.v6 && r.lines.contains(&(line as i64 + 1)));
            let decider = match decider {
                Some(rule) if lines == table.chains[chain].rules.len() => rule,
                _ => return Err("ufw's chain in the kernel differs from its files: `ufw reload` first".to_owned()),
            };
            steps.extend(request.before(rules, old, decider, plain, undo));
            let first = decider.lines.iter().min().and_then(|l| usize::try_from(*l - 1).ok()).unwrap_or(line);
            (chain, first)
        }
    };
    let deeds = steps.into_iter().map(|(run, undo)| Deed::Command { run, undo }).collect();
    let entry =
        Entry { request, stage: Stage::Syn, target: Target::Accept, table, chain: &table.chains[chain], place: Some(place) };
    Ok(Piece {
        deeds,
        trial: vec![super::iptables::insertion(&entry)],
        edits: vec![Edit { table: at.table, chain, place, rule: entry.modelled() }],
        by: "ufw".to_owned(),
        persistent: true,
        notes: Vec::new(),
    })
}

/// Denies for all but `keep`, before the user rule that allows. ufw numbers its IPv6 rules after those for IPv4, so that what the plan
/// inserted before (`deeds`) counts.
pub(super) fn closing(keep: &[String], v6: bool, port: u16, fw: &Firewall, at: &At, deeds: &[Deed]) -> Result<Piece, String> {
    let rules = match &fw.ufw_rules {
        Fact::Known(rules) => rules,
        Fact::Unknown(why) => return Err(format!("ufw's rules could not be read: {why}")),
    };
    let table = &fw.model.tables[at.table];
    let user = if v6 { "ufw6-user-input" } else { "ufw-user-input" };
    let line = at.way.iter().copied().chain(at.rule.map(|r| (at.chain, r))).find(|w| table.chains[w.0].name == user);
    let Some((chain, line)) = line else {
        let rule = fw.describe(at);
        return Err(format!("no user rule of ufw lets it in, but {}: {}", rule.chain, rule.rule));
    };
    let lines = rules.iter().filter(|r| r.v6 == v6).map(|r| r.lines.len()).sum::<usize>();
    let decider = rules.iter().find(|r| r.v6 == v6 && r.lines.contains(&(line as i64 + 1)));
    let decider = match decider {
        Some(rule) if lines == table.chains[chain].rules.len() => rule,
        _ => return Err("ufw's chain in the kernel differs from its files: `ufw reload` first".to_owned()),
    };
    let first_line = decider.lines.iter().min().and_then(|l| usize::try_from(*l - 1).ok()).unwrap_or(line);
    let mut piece = Piece { by: "ufw".to_owned(), persistent: true, ..Piece::default() };
    let every = if v6 { "::/0" } else { "0.0.0.0/0" };
    let inserted = |deed: &&Deed| matches!(deed, Deed::Command { run, .. } if run.get(1).is_some_and(|word| word == "insert"));
    let mut position = decider.position + deeds.iter().filter(inserted).count();
    for (source, action, target) in
        keep.iter().map(|s| (s.as_str(), "allow", Target::Accept)).chain([(every, "deny", Target::Drop)])
    {
        let (_, first, _) = crate::facts::firewall::model::span(source).ok_or("not a network")?;
        let request = Request::of(source, v6, first, port, fw)?;
        let same = rules.iter().find(|rule| request.same_tuple(rule));
        let (run, undo) = match same {
            // Kept as it is: it already stands somewhere, and ufw would skip a second one.
            Some(rule) if rule.action == action => continue,
            // The very rule that allows becomes the one that denies.
            Some(rule) if rule.position == decider.position => {
                (request.ufw_rule(&[], action, "", true), request.ufw_rule(&[], &rule.action, &rule.log, false))
            }
            Some(_) => return Err(format!("ufw has another rule for {source} and port {port}: change that one by hand")),
            None => {
                let undo = request.ufw_rule(&["delete"], action, "", false);
                let run = request.ufw_rule(&["insert", &position.to_string()], action, "", true);
                position += 1;
                (run, undo)
            }
        };
        piece.deeds.push(Deed::Command { run, undo });
        let place = first_line + piece.edits.len();
        let entry =
            Entry { request: &request, stage: Stage::Syn, target, table, chain: &table.chains[chain], place: Some(place) };
        piece.edits.push(Edit { table: at.table, chain, place, rule: entry.modelled() });
    }
    Ok(piece)
}

fn without_v6(read: &Read) -> bool {
    let text = read(Path::new("/etc/default/ufw")).ok().flatten().unwrap_or_default();
    let setting = text.lines().filter_map(|l| l.trim().strip_prefix("IPV6=")).next_back();
    setting.is_some_and(|v| v.trim().trim_matches(['"', '\'']).eq_ignore_ascii_case("no"))
}

impl Request {
    /// Before a user rule that decides.
    fn before(
        &self,
        rules: &[UserRule],
        old: Option<&UserRule>,
        decider: &UserRule,
        plain: Vec<String>,
        undo: Vec<String>,
    ) -> Vec<(Vec<String>, Vec<String>)> {
        let mut steps = Vec::new();
        match old {
            // `ufw allow` changes the action of the same rule in place, so that its undo is to change it back.
            Some(same) if same.position == decider.position => {
                steps.push((plain, self.ufw_rule(&[], &same.action, &same.log, false)));
            }
            other => {
                if let Some(lower) = other {
                    // "Skipping inserting existing rule": what is there has to go first.
                    let last = rules.iter().filter(|r| r.v6 == self.v6).all(|r| r.position <= lower.position);
                    let position = lower.position.to_string();
                    let before: &[&str] = if last { &[] } else { &["insert", &position] };
                    steps.push((
                        self.ufw_rule(&["delete"], &lower.action, &lower.log, false),
                        self.ufw_rule(before, &lower.action, &lower.log, false),
                    ));
                }
                let position = decider.position.to_string();
                steps.push((self.ufw_rule(&["insert", &position], "allow", "", true), undo));
            }
        }
        steps
    }

    /// `ufw [insert N|delete] ACTION [log] proto tcp from S to D port P`
    fn ufw_rule(&self, before: &[&str], action: &str, log: &str, comment: bool) -> Vec<String> {
        let to = self.to.map_or("any".to_owned(), |a| a.to_string());
        let mut all = argv(&["ufw"]);
        all.extend(argv(before));
        all.push(action.to_owned());
        all.extend(log.strip_prefix('_').map(str::to_owned));
        all.extend(argv(&["proto", "tcp", "from", &self.source, "to", &to, "port", &self.port.to_string()]));
        if comment {
            all.extend(argv(&["comment", COMMENT]));
        }
        all
    }

    fn same_tuple(&self, rule: &UserRule) -> bool {
        let any = if self.v6 { "::/0" } else { "0.0.0.0/0" };
        rule.v6 == self.v6
            && !rule.route
            && !rule.application
            && rule.direction == "in"
            && rule.protocol == "tcp"
            && rule.port == self.port.to_string()
            && rule.source == self.source
            && rule.source_port == "any"
            && rule.destination == self.to.map_or(any.to_owned(), |a| a.to_string())
    }
}

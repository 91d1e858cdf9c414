//! iptables, of both kinds: one rule by number in the kernel, and the same line at the same place in the file that a boot loads.

use super::{COMMENT, Deed, Entry, Piece, Read, argv};
use crate::facts::firewall::Firewall;
use crate::facts::firewall::impact::Stage;
use crate::facts::firewall::model::{Engine, Target};
use crate::formats::iptables_save;
use std::path::PathBuf;

pub(super) fn piece(entry: &Entry, fw: &Firewall, read: &Read) -> Result<Piece, String> {
    let mut piece = Piece { by: "iptables".to_owned(), ..Piece::default() };
    match saved(entry, fw, read) {
        Ok(Some(file)) => {
            piece.by = fw.manager.clone();
            piece.persistent = true;
            piece.deeds.push(file);
        }
        Ok(None) => piece.notes.push("rules of plain iptables are gone after a reboot: nothing here saves them".to_owned()),
        Err(why) => piece.notes.push(format!("in the kernel only: {why}; to keep it add `{}` there", line(entry))),
    }
    let mut undo = head(entry);
    undo.extend(argv(&["-D", &entry.chain.name]));
    undo.extend(rule(entry));
    let run = insertion(entry);
    piece.trial.push(run.clone());
    piece.deeds.push(Deed::Command { run, undo });
    Ok(piece)
}

/// The program that changes rules of this kind.
pub(super) fn program(engine: Engine, v6: bool) -> &'static str {
    match (engine, v6) {
        (Engine::IptablesLegacy, false) => "iptables-legacy",
        (Engine::IptablesLegacy, true) => "ip6tables-legacy",
        (_, false) => "iptables-nft",
        (_, true) => "ip6tables-nft",
    }
}

fn head(entry: &Entry) -> Vec<String> {
    let mut head = argv(&[program(entry.table.engine, entry.request.v6), "-w", "5"]);
    if entry.table.name != "filter" {
        head.extend(argv(&["-t", &entry.table.name]));
    }
    head
}

/// The command that puts it in.
pub(super) fn insertion(entry: &Entry) -> Vec<String> {
    let name = &entry.chain.name;
    let mut all = head(entry);
    match entry.place {
        Some(place) if place < entry.chain.rules.len() => all.extend(argv(&["-I", name, &(place + 1).to_string()])),
        _ => all.extend(argv(&["-A", name])),
    }
    all.extend(rule(entry));
    all
}

/// What stands behind the chain's name, as iptables-save prints it.
fn rule(entry: &Entry) -> Vec<String> {
    let request = entry.request;
    let target = match entry.target {
        Target::Return => "RETURN",
        Target::Drop => "DROP",
        _ => "ACCEPT",
    };
    let mut all = Vec::new();
    if entry.stage == Stage::Loopback {
        all.extend(argv(&[if entry.leaves() { "-o" } else { "-i" }, "lo"]));
    } else if entry.stage == Stage::Neighbour {
        // 135 asks for an address, 136 answers.
        let kind = if entry.chain.name == "OUTPUT" { "136" } else { "135" };
        all.extend(argv(&["-p", "ipv6-icmp", "-m", "icmp6", "--icmpv6-type", kind]));
    } else {
        let (there, here, port) = match entry.stage {
            Stage::Reply => ("-d", "-s", "--sport"),
            _ => ("-s", "-d", "--dport"),
        };
        let whole = |address: &str| match (address.contains('/'), request.v6) {
            (true, _) => address.to_owned(),
            (false, true) => format!("{address}/128"),
            (false, false) => format!("{address}/32"),
        };
        let far = (!request.every_source()).then(|| [there.to_owned(), whole(&request.source)]);
        let near = request.to.map(|to| [here.to_owned(), whole(&to.to_string())]);
        let (first, second) = if entry.stage == Stage::Reply { (near, far) } else { (far, near) };
        all.extend(first.into_iter().chain(second).flatten());
        if entry.target == Target::Drop {
            all.extend(argv(&["!", "-i", "lo"]));
        }
        all.extend(argv(&["-p", "tcp", "-m", "tcp", port, &request.port.to_string()]));
        if entry.stage != Stage::Syn {
            all.extend(argv(&["-m", "conntrack", "--ctstate", "ESTABLISHED"]));
        }
    }
    all.extend(argv(&["-m", "comment", "--comment", COMMENT, "-j", target]));
    all
}

fn line(entry: &Entry) -> String {
    format!("-A {} {}", entry.chain.name, rule(entry).join(" "))
}

/// The saved rules with the line in; `None`: nothing here saves rules.
fn saved(entry: &Entry, fw: &Firewall, read: &Read) -> Result<Option<Deed>, String> {
    let path = match (fw.manager.as_str(), entry.request.v6) {
        ("netfilter-persistent", false) => "/etc/iptables/rules.v4",
        ("netfilter-persistent", true) => "/etc/iptables/rules.v6",
        ("iptables-services", false) => "/etc/sysconfig/iptables",
        ("iptables-services", true) => "/etc/sysconfig/ip6tables",
        _ => return Ok(None),
    };
    let path = PathBuf::from(path);
    let text = read(&path)?.ok_or_else(|| format!("{} is not there", path.display()))?;
    let text = inserted(&text, entry).map_err(|why| format!("{} {why}", path.display()))?;
    Ok(Some(Deed::File { path, text, template: None }))
}

/// Puts the line before the one that holds the same rule as the running chain does at that place; every other byte stays.
fn inserted(text: &str, entry: &Entry) -> Result<String, String> {
    iptables_save::parse(text).map_err(|why| format!("is not understood ({why})"))?;
    let chain = &entry.chain.name;
    let (mut table, mut own, mut end) = ("", Vec::new(), None);
    let mut offset = 0;
    for raw in text.split_inclusive('\n') {
        let plain = without_counters(raw.trim());
        if let Some(name) = plain.strip_prefix('*') {
            table = name.trim();
        } else if table == entry.table.name {
            if plain == "COMMIT" {
                end = Some(offset);
            } else if let Some(words) = rule_of(plain, chain) {
                own.push((offset, offset + raw.len(), words));
            }
        }
        offset += raw.len();
    }
    let end = end.ok_or_else(|| format!("has no table {}", entry.table.name))?;
    let running = entry.place.and_then(|place| entry.chain.rules.get(place).map(|rule| (place, rule)));
    let at = match running {
        Some((place, rule)) => {
            let wanted = rule_of(&rule.text, chain).ok_or("cannot be compared with the running rule")?;
            let mut same = own.iter().filter(|(_, _, words)| *words == wanted);
            match (same.next(), same.next()) {
                (Some(only), None) => only.0,
                (Some(_), Some(_)) if own.get(place).is_some_and(|(_, _, words)| *words == wanted) => own[place].0,
                _ => return Err(format!("does not hold the rule that refuses now ({})", rule.text)),
            }
        }
        None => own.last().map_or(end, |last| last.1),
    };
    // With -c every line has its counters.
    let counted = own.first().is_some_and(|(start, _, _)| text[*start..].trim_start().starts_with('['));
    let (head, tail) = text.split_at(at);
    let line = line(entry);
    Ok(format!("{head}{}{line}\n{tail}", if counted { "[0:0] " } else { "" }))
}

fn without_counters(line: &str) -> &str {
    match line.strip_prefix('[') {
        Some(rest) => rest.split_once(']').map_or(line, |(_, rule)| rule.trim_start()),
        None => line,
    }
}

/// The words of a rule of this chain, in a form that can be compared.
fn rule_of(line: &str, chain: &str) -> Option<Vec<String>> {
    let words = iptables_save::words(without_counters(line)).ok()?;
    let mut words: Vec<String> = words.iter().map(|word| word.to_string()).collect();
    if words.len() < 2 || !matches!(words[0].as_str(), "-A" | "--append") || words[1] != chain {
        return None;
    }
    words.drain(..2);
    // `-m tcp` behind `-p tcp` and `/32` are written by some releases only.
    let mut at = 0;
    while at + 1 < words.len() {
        if words[at] == "-m" && matches!(words[at + 1].as_str(), "tcp" | "udp" | "icmp6" | "icmp") {
            words.drain(at..at + 2);
        } else {
            at += 1;
        }
    }
    for word in &mut words {
        if let Some(host) = word.strip_suffix("/32").or_else(|| word.strip_suffix("/128")) {
            *word = host.to_owned();
        }
    }
    Some(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_compared_by_their_words() {
        let one = rule_of("[1:2] -A INPUT -s 10.0.0.1/32 -p tcp -m tcp --dport 22 -j ACCEPT", "INPUT");
        assert_eq!(one, rule_of("-A INPUT -s 10.0.0.1 -p tcp --dport 22 -j ACCEPT", "INPUT"));
        assert!(rule_of("-A OUTPUT -j ACCEPT", "INPUT").is_none());
    }
}

//! Through firewalld: the running rule by firewall-cmd, the permanent one in the zone's own file (firewalld.zone(5)), which can be
//! put back byte for byte. `--permanent` would leave a file behind, `--reload` would load everybody else's changes too, and
//! `--runtime-to-permanent` keep them.

use super::{Deed, Edit, Entry, Piece, Read, Request, argv, chains};
use crate::facts::firewall::Firewall;
use crate::facts::firewall::impact::{Refusal, Stage};
use crate::facts::firewall::model::{Chain, Engine, Target};
use crate::facts::firewall::verdict::At;
use std::path::PathBuf;

pub(super) fn piece(request: &Request, fw: &Firewall, refusal: &Refusal, read: &Read) -> Result<Piece, String> {
    let at = &refusal.at;
    let table = &fw.model.tables[at.table];
    if refusal.stage != Stage::Syn {
        let rule = fw.describe(at);
        return Err(format!("later packets of the connection are dropped by firewalld: {} {}", rule.chain, rule.rule));
    }
    let names = chains(table, at);
    let of_zone = |name: &str| {
        let name = name.strip_prefix("filter_IN_").or_else(|| name.strip_prefix("IN_"))?;
        (!name.starts_with("policy_")).then(|| name.to_owned())
    };
    // Up to 1.x the zone's own chain refuses; 2.x comes back from it and refuses in the next rule.
    let zone_chain = names.iter().rev().find_map(|name| of_zone(name)).or_else(|| {
        let before = &table.chains[at.chain].rules[..at.rule?];
        let jumped = before.iter().rev().find_map(|rule| rule.text.split_whitespace().rev().find_map(of_zone));
        // 0.9 refuses behind the chain that chooses the zone.
        jumped.or_else(|| chosen(&table.chains[table.chain("filter_INPUT_ZONES")?], &request.interface, of_zone))
    });
    let Some(zone_chain) = zone_chain else {
        let rule = fw.describe(at);
        let (table, chain, rule) = (rule.table, rule.chain, rule.rule);
        return Err(format!("a rule outside firewalld's zones refuses it, and no zone can change that: {table} {chain}: {rule}"));
    };
    let parts = ["_pre", "_log", "_deny", "_allow", "_post"];
    let part = parts.into_iter().find(|p| zone_chain.ends_with(p));
    let zone = part.and_then(|p| zone_chain.strip_suffix(p)).unwrap_or(&zone_chain);
    let denied = matches!(part, Some("_pre" | "_deny"));
    let plain = request.every_source() && request.to.is_none() && !denied;
    let (family, source) = (if request.v6 { "ipv6" } else { "ipv4" }, &request.source);
    let what = if plain {
        format!("port={}/tcp", request.port)
    } else {
        let priority = if denied { " priority=\"-100\"" } else { "" };
        let source = if request.every_source() { String::new() } else { format!(" source address=\"{source}\"") };
        let to = request.to.map_or(String::new(), |a| format!(" destination address=\"{a}\""));
        format!("rich-rule=rule family=\"{family}\"{priority}{source}{to} port port=\"{}\" protocol=\"tcp\" accept", request.port)
    };
    let (option, mut piece) = (format!("--zone={zone}"), Piece { by: format!("firewalld, zone {zone}"), ..Piece::default() });
    match permanent(request, zone, plain, denied, read) {
        Ok(None) => {
            let port = request.port;
            piece.notes.push(format!(
                "the permanent configuration of zone {zone} has port {port} already, so only what runs is changed"
            ));
            piece.persistent = true;
        }
        Ok(Some(deed)) => {
            piece.deeds.push(deed);
            piece.persistent = true;
        }
        Err(why) => {
            piece.notes.push(format!("not permanent: {why}; `firewall-cmd --permanent {option} '--add-{what}'` makes it so"))
        }
    }
    let run = argv(&["firewall-cmd", &option, &format!("--add-{what}")]);
    let undo = argv(&["firewall-cmd", &option, &format!("--remove-{what}")]);
    piece.deeds.push(Deed::Command { run, undo });
    model(request, fw, refusal, zone, denied, &mut piece)?;
    Ok(piece)
}

/// The zone of an interface, where no source of packets decides.
fn chosen(zones: &Chain, interface: &str, of_zone: impl Fn(&str) -> Option<String>) -> Option<String> {
    for rule in &zones.rules {
        let words: Vec<&str> = rule.text.split_whitespace().collect();
        if words.contains(&"saddr") {
            return None;
        }
        let named = words.iter().position(|word| *word == "iifname").and_then(|at| words.get(at + 1));
        let applies = named.is_none_or(|name| {
            let name = name.trim_matches('"');
            name == interface || name.strip_suffix('*').is_some_and(|start| interface.starts_with(start))
        });
        if applies && let Some(zone) = words.iter().find_map(|word| of_zone(word)) {
            return Some(zone);
        }
    }
    None
}

/// Closes a port of the zone that accepts it: a rule of higher priority than any port or service that drops, and before it one for each
/// source that stays. `None`: what accepts is no zone's chain.
pub(super) fn closing(keep: &[String], v6: bool, port: u16, fw: &Firewall, at: &At, read: &Read) -> Result<Piece, String> {
    let table = &fw.model.tables[at.table];
    let names = chains(table, at);
    let zone = names.iter().rev().find_map(|name| {
        let name = name.strip_prefix("filter_IN_").or_else(|| name.strip_prefix("IN_")).filter(|n| !n.starts_with("policy_"))?;
        let parts = ["_pre", "_log", "_deny", "_allow", "_post"];
        Some(parts.into_iter().find_map(|part| name.strip_suffix(part)).unwrap_or(name).to_owned())
    });
    let zone = zone.ok_or("what lets it in is no zone of firewalld")?;
    let family = if v6 { "ipv6" } else { "ipv4" };
    let mut piece = Piece { by: format!("firewalld, zone {zone}"), persistent: true, ..Piece::default() };
    let (path, mut text, template) = zone_file(&zone, read)?;
    let chain = ["filter_IN_", "IN_"].iter().find_map(|prefix| table.chain(&format!("{prefix}{zone}_pre")));
    let chain = chain.ok_or_else(|| format!("zone {zone} has no chain for early rules in the kernel"))?;
    let every = if v6 { "::/0" } else { "0.0.0.0/0" };
    let rules = keep.iter().map(|source| (source.as_str(), -200, Target::Accept)).chain([(every, -100, Target::Drop)]);
    let mut commands = Vec::new();
    for (source, priority, target) in rules {
        let verb = if target == Target::Drop { "drop" } else { "accept" };
        let from = if source == every { String::new() } else { format!(" source address=\"{source}\"") };
        let rich = format!(
            "rich-rule=rule family=\"{family}\" priority=\"{priority}\"{from} port port=\"{port}\" protocol=\"tcp\" {verb}"
        );
        let of_file = if source == every { String::new() } else { format!("    <source address=\"{source}\"/>\n") };
        let lines = format!(
            "  <rule priority=\"{priority}\" family=\"{family}\">\n{of_file}    <port port=\"{port}\" protocol=\"tcp\"/>\n    <{verb}/>\n  </rule>\n"
        );
        text = with_lines(&text, &lines).ok_or_else(|| format!("{} is not understood", path.display()))?;
        let option = format!("--zone={zone}");
        let run = argv(&["firewall-cmd", &option, &format!("--add-{rich}")]);
        let undo = argv(&["firewall-cmd", &option, &format!("--remove-{rich}")]);
        commands.push(Deed::Command { run, undo });
        let (_, first, _) = crate::facts::firewall::model::span(source).ok_or("not a network")?;
        let request = Request::of(source, v6, first, port, fw)?;
        let entry = Entry { request: &request, stage: Stage::Syn, target, table, chain: &table.chains[chain], place: None };
        let place = table.chains[chain].rules.len() + piece.edits.len();
        piece.edits.push(Edit { table: at.table, chain, place, rule: entry.modelled() });
    }
    piece.deeds.push(Deed::File { path, text, template });
    piece.deeds.extend(commands);
    Ok(piece)
}

/// Where the zone's file is (or will be), its text, and the one that it is first made from.
fn zone_file(zone: &str, read: &Read) -> Result<(PathBuf, String, Option<PathBuf>), String> {
    let path = PathBuf::from(format!("/etc/firewalld/zones/{zone}.xml"));
    if let Some(text) = read(&path)? {
        return Ok((path, text, None));
    }
    let shipped = PathBuf::from(format!("/usr/lib/firewalld/zones/{zone}.xml"));
    let text = read(&shipped)?.ok_or_else(|| format!("zone {zone} has no file"))?;
    Ok((path, text, Some(shipped)))
}

fn with_lines(text: &str, lines: &str) -> Option<String> {
    let (head, tail) = text.split_at(text.rfind("</zone>")?);
    let gap = if head.ends_with('\n') { "" } else { "\n" };
    Some(format!("{head}{gap}{lines}{tail}"))
}

/// What the command does to the kernel: a rule at the end of the zone's chain of its kind.
fn model(request: &Request, fw: &Firewall, refusal: &Refusal, zone: &str, denied: bool, piece: &mut Piece) -> Result<(), String> {
    let table = &fw.model.tables[refusal.at.table];
    let part = if denied { "_pre" } else { "_allow" };
    let named = |prefix: &str| table.chain(&format!("{prefix}{zone}{part}"));
    let chain = named("filter_IN_").or_else(|| named("IN_"));
    let chain = chain.ok_or_else(|| format!("zone {zone} has no chain for accepted ports in the kernel: restart firewalld"))?;
    let place = table.chains[chain].rules.len();
    let entry = Entry { request, stage: Stage::Syn, target: Target::Accept, table, chain: &table.chains[chain], place: None };
    piece.trial.push(match table.engine {
        Engine::Nftables => super::nftables::insertion(&entry, ""),
        _ => super::iptables::insertion(&entry),
    });
    piece.edits.push(Edit { table: refusal.at.table, chain, place, rule: entry.modelled() });
    Ok(())
}

/// The zone's file with the rule; `None`: it lets the port in as it is.
fn permanent(request: &Request, zone: &str, plain: bool, denied: bool, read: &Read) -> Result<Option<Deed>, String> {
    let (path, text, template) = zone_file(zone, read)?;
    if !denied && opens(&text, request.port) {
        return Ok(None);
    }
    let port = format!("<port port=\"{}\" protocol=\"tcp\"/>", request.port);
    let lines = if plain {
        format!("  {port}\n")
    } else {
        let family = if request.v6 { "ipv6" } else { "ipv4" };
        let priority = if denied { " priority=\"-100\"" } else { "" };
        let source =
            if request.every_source() { String::new() } else { format!("    <source address=\"{}\"/>\n", request.source) };
        let to = request.to.map_or(String::new(), |a| format!("    <destination address=\"{a}\"/>\n"));
        format!("  <rule{priority} family=\"{family}\">\n{source}{to}    {port}\n    <accept/>\n  </rule>\n")
    };
    if text.contains(&lines) {
        return Ok(None);
    }
    let text = with_lines(&text, &lines).ok_or_else(|| format!("{} is not understood", path.display()))?;
    Ok(Some(Deed::File { path, text, template }))
}

/// The zone has the port for everybody, outside any rich rule.
fn opens(xml: &str, port: u16) -> bool {
    let mut rest = xml.to_owned();
    while let (Some(start), Some(end)) = (rest.find("<rule"), rest.find("</rule>")) {
        if end < start {
            break;
        }
        rest.replace_range(start..end + "</rule>".len(), "");
    }
    let service = match port {
        5671 => "\"amqps\"",
        5672 => "\"amqp\"",
        _ => "\u{0}",
    };
    rest.split('<').any(|tag| {
        let words: Vec<&str> = tag.trim_end_matches(['>', '/', '\n', ' ']).split_whitespace().collect();
        let has = |word: &str| words.contains(&word) || words.contains(&word.replace('"', "'").as_str());
        match words.first() {
            Some(&"port") => has(&format!("port=\"{port}\"")) && has("protocol=\"tcp\""),
            Some(&"service") => has(&format!("name={service}")),
            _ => false,
        }
    })
}

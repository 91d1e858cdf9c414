//! The packet filter as the next boot makes it: what the enabled units load, and what running software adds again.

use super::saved::Saved;
use super::units::Units;
use super::{Drift, Look, boot_script, firewalld, holds_rules, marks, ufw};
use crate::facts::firewall::model::{Model, Table};
use crate::facts::firewall::{Firewall, read};
use crate::facts::{Fact, Where};
use crate::host::{Load, Loaded};

/// What a reboot leaves, or why that is not known; and what of the saved files does not load.
pub(super) fn after(look: &Look, firewall: &Firewall) -> (Fact<Option<Box<Firewall>>>, Vec<Drift>) {
    if let Some(unread) = firewall.model.unread.first() {
        return (Fact::Unknown(unread.why.clone()), Vec::new());
    }
    let units = match &look.units {
        Ok(units) => units,
        Err(miss) => return (Fact::Unknown(format!("what starts at boot: {miss}")), Vec::new()),
    };
    let mut broken = Vec::new();
    let after = match model(look, firewall, units, &mut broken) {
        Ok(Some(model)) => Fact::Known(Some(Box::new(Firewall::of_model(model)))),
        Ok(None) => Fact::Known(None),
        Err(why) => Fact::Unknown(why),
    };
    (after, broken)
}

/// `None`: the same as now.
fn model(look: &Look, firewall: &Firewall, units: &Units, broken: &mut Vec<Drift>) -> Result<Option<Model>, String> {
    let saved = look.saved.as_ref().map_err(ToString::to_string)?;
    let ufw_boots = units.has("ufw.service");
    let ufw = look.ufw.as_ref().map_err(ToString::to_string)?.as_ref().filter(|s| s.enabled && ufw_boots);
    let firewalld_boots = units.has("firewalld.service");
    if let Some((name, file)) = marks::unknown_manager(units) {
        return Err(format!("{name} loads the rules at boot; what it makes of {file} is not evaluated"));
    }
    let nothing_boots = saved.is_empty() && ufw.is_none() && !firewalld_boots;
    if nothing_boots && !holds_rules(&firewall.model) {
        return Ok(None);
    }
    // Rules that no manager has come from somewhere.
    if nothing_boots && let Some((file, line)) = boot_script(look.host, units) {
        return Err(format!("{file} may load rules at boot (`{line}`), which is not evaluated"));
    }
    let flushing = saved.iter().any(|s| s.flushes);
    if flushing && (ufw.is_some() || saved.len() > 1) {
        return Err("several units load rules at boot, in no fixed order, and one of them begins with `flush ruleset`".to_owned());
    }
    let mut tables = Vec::new();
    let mut ip_sets = look.surroundings.ip_sets.clone();
    // firewalld.service conflicts with the units that load saved files.
    if !saved.is_empty() && !firewalld_boots {
        let held = scratch(look, saved, broken)?;
        tables.extend(held.tables);
        ip_sets.extend(held.ip_sets);
    }
    if let Some(settings) = ufw {
        let own = ufw::boot(look.host, settings).map_err(|miss| miss.to_string())?;
        own.into_iter().for_each(|table| add(&mut tables, table));
    }
    if firewalld_boots {
        let config = look.firewalld.as_ref().map_err(ToString::to_string)?;
        let config = config.as_ref().ok_or("firewalld's configuration was not read")?;
        tables.extend(firewalld::Config::boot(config)?);
    }
    for table in &firewall.model.tables {
        if let Some(part) = marks::dynamic_part(table) {
            again(&mut tables, part);
        }
    }
    Ok(Some(Model { tables, ip_sets, ..look.surroundings.clone() }))
}

/// The same table loaded by two is one: chains of the same name get the rules of both.
fn add(tables: &mut Vec<Table>, new: Table) {
    let same = |t: &&mut Table| (t.engine, t.family, &t.name) == (new.engine, new.family, &new.name);
    let Some(old) = tables.iter_mut().find(same) else { return tables.push(new) };
    for chain in new.chains {
        match old.chains.iter_mut().find(|c| c.name == chain.name) {
            Some(known) => {
                known.rules.extend(chain.rules);
                known.base = chain.base.or(known.base.take());
            }
            None => old.chains.push(chain),
        }
    }
}

/// Running software puts its jumps before all others when it starts.
fn again(tables: &mut Vec<Table>, part: Table) {
    let same = |t: &&mut Table| (t.family, &t.name) == (part.family, &part.name);
    let Some(old) = tables.iter_mut().find(same) else { return tables.push(part) };
    for chain in part.chains {
        match old.chains.iter_mut().find(|c| c.name == chain.name) {
            // A saved file may hold them already.
            Some(known) if known.base.is_some() => {
                let there: Vec<String> = known.rules.iter().filter_map(marks::jump).map(str::to_owned).collect();
                let mut first: Vec<_> = chain.rules;
                first.retain(|r| marks::jump(r).is_none_or(|to| !there.iter().any(|t| t == to)));
                first.append(&mut known.rules);
                known.rules = first;
            }
            Some(known) => *known = chain,
            None => old.chains.push(chain),
        }
    }
}

/// Loads the saved files into a scratch namespace.
fn scratch(look: &Look, saved: &[Saved], broken: &mut Vec<Drift>) -> Result<Model, String> {
    let each: Vec<(&Saved, &String, &Load)> =
        saved.iter().flat_map(|s| s.loads.iter().map(move |(file, load)| (s, file, load))).collect();
    let loads: Vec<Load> = each.iter().map(|(_, _, load)| (*load).clone()).collect();
    let loaded = look.host.scratch(&loads).map_err(|miss| format!("what {} loads at boot: {miss}", saved[0].unit))?;
    for (number, said) in &loaded.failed {
        let Some((saved, file, load)) = each.get(*number) else { continue };
        // A namespace without an interface, or a module that was not to be loaded: our limits, not faults of the file.
        if matches!(load, Load::Interface { .. }) || said.starts_with("not tried") {
            return Err(format!("{file}: {said}"));
        }
        let at = Where { file: (*file).clone(), line: line(said), column: None };
        let text = format!("{} cannot load {file} at boot: {said}", saved.unit);
        broken.push(Drift { at: Some(at), ..Drift::new(saved.owner, "broken", text) });
    }
    decoded(loaded)
}

/// The line that a tool complains of: `line 5 failed`, `Error occurred at line: 5`, `rules.nft:12:3-9: Error`.
fn line(said: &str) -> Option<u32> {
    let number = |text: &str| {
        let digits: String = text.trim_start_matches([':', ' ']).chars().take_while(char::is_ascii_digit).collect();
        digits.parse().ok()
    };
    let after = |word: &str| said.split_once(word).and_then(|(_, rest)| number(rest));
    after("line").or_else(|| after(".conf:")).or_else(|| after(".nft:"))
}

/// What a scratch namespace held, read as the running rules are.
fn decoded(loaded: Loaded) -> Result<Model, String> {
    let legacy = loaded.legacy.map(|answer| match answer {
        Err(miss) if miss.is_absent() => None,
        other => Some(other),
    });
    let model = read::assemble(read::Raw { nf_tables: loaded.nf_tables, legacy, ip_sets: loaded.ip_sets });
    match model.unread.into_iter().next() {
        Some(unread) => Err(unread.why),
        None => Ok(Model { unread: Vec::new(), ..model }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_complaints() {
        assert_eq!(line("iptables-restore v1.8.9 (nf_tables): line 5 failed"), Some(5));
        assert_eq!(line("Error occurred at line: 12; Try x"), Some(12));
        assert_eq!(line("/etc/nftables.conf:7:3-9: Error: syntax error"), Some(7));
        assert_eq!(line("nothing to say"), None);
    }
}

//! nftables: one rule by the handle of the one that refuses, found again by its comment; and the same in the file that
//! nftables.service loads.

use super::{Deed, Entry, Piece, Read, argv, nft_conf};
use crate::facts::firewall::Firewall;
use crate::facts::firewall::impact::Stage;
use crate::facts::firewall::model::{Family, Target};
use std::path::PathBuf;

/// What nftables.service loads, by distribution.
const FILES: [&str; 3] = ["/etc/nftables.conf", "/etc/sysconfig/nftables.conf", "/etc/nftables.nft"];

pub(super) fn piece(entry: &Entry, fw: &Firewall, read: &Read) -> Result<Piece, String> {
    let comment = entry.comment();
    let rule = format!("{} comment \"{comment}\"", words(entry));
    let mut piece = Piece { by: "nftables".to_owned(), ..Piece::default() };
    match saved(entry, fw, &rule, read) {
        Ok(Some(file)) => {
            piece.by = "nftables.service".to_owned();
            piece.persistent = true;
            piece.deeds.push(file);
        }
        Ok(None) => piece.notes.push("the rule is in the kernel only, as the others of its table: nothing here loads them at boot".to_owned()),
        Err(why) => piece.notes.push(format!(
            "the rule is in the kernel only: {why}; to keep it add `{}` to chain {} of table {} there, before the rule that refuses. \
             Do not restart nftables.service: that flushes every table",
            words(entry),
            entry.chain.name,
            entry.table.title()
        )),
    }
    let run = insertion(entry, &format!(" comment \"{comment}\""));
    piece.trial.push(run.clone());
    piece.deeds.push(Deed::NftRule { run, table: entry.table.title(), chain: entry.chain.name.clone(), comment });
    Ok(piece)
}

/// The command that puts it in.
pub(super) fn insertion(entry: &Entry, comment: &str) -> Vec<String> {
    let (title, name, rule) = (entry.table.title(), &entry.chain.name, words(entry));
    let place = entry.place.and_then(|place| entry.chain.rules.get(place));
    argv(&[
        "nft",
        &match place {
            Some(before) => format!("insert rule {title} {name} position {} {rule}{comment}", before.number),
            None => format!("add rule {title} {name} {rule}{comment}"),
        },
    ])
}

fn words(entry: &Entry) -> String {
    let request = entry.request;
    let target = match entry.target {
        Target::Return => "return",
        Target::Drop => "drop",
        _ => "accept",
    };
    if entry.stage == Stage::Loopback {
        return format!("{} \"lo\" {target}", if entry.leaves() { "oifname" } else { "iifname" });
    }
    if entry.stage == Stage::Neighbour {
        return format!("icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} {target}");
    }
    let family = if request.v6 { "ip6" } else { "ip" };
    let (there, here, port) = match entry.stage {
        Stage::Reply => ("daddr", "saddr", "sport"),
        _ => ("saddr", "daddr", "dport"),
    };
    let source = match (request.every_source(), entry.table.family) {
        (false, _) => format!("{family} {there} {} ", request.source),
        (true, Family::Ip | Family::Ip6) => String::new(),
        (true, _) => format!("meta nfproto {} ", if request.v6 { "ipv6" } else { "ipv4" }),
    };
    let to = request.to.map_or(String::new(), |a| format!("{family} {here} {a} "));
    let state = if entry.stage == Stage::Syn { "" } else { "ct state established " };
    let away = if entry.target == Target::Drop { "iifname != \"lo\" " } else { "" };
    format!("{away}{source}{to}tcp {port} {} {state}{target}", request.port)
}

/// The service's file with the rule in; `None`: no service loads one.
fn saved(entry: &Entry, fw: &Firewall, rule: &str, read: &Read) -> Result<Option<Deed>, String> {
    if fw.manager != "nftables-service" {
        return Ok(None);
    }
    for path in FILES.map(PathBuf::from) {
        let Some(text) = read(&path)? else { continue };
        let place = nft_conf::Place {
            table: &entry.table.title(),
            chain: &entry.chain.name,
            rules: entry.chain.rules.len(),
            before: entry.place,
        };
        let text = nft_conf::insert(&text, &place, rule).map_err(|why| format!("{} {why}", path.display()))?;
        return Ok(Some(Deed::File { path, text, template: None }));
    }
    Err("the file that nftables.service loads was not found".to_owned())
}

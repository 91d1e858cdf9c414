//! Packet counters of all rules and policies at one moment, and which of them moved since another.
//!
//! Read from the kernel's own dump (and from `iptables-legacy-save -c` where there are legacy tables) without evaluating anything, so
//! that it can be done several times a second.

use super::DecidingRule;
use crate::formats::netlink::{attribute, attributes, messages, text};
use crate::host::{Command, Host, optional, read_text};
use std::collections::BTreeMap;

/// `NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_…`
const NEW_CHAIN: u16 = (10 << 8) | 3;
const NEW_RULE: u16 = (10 << 8) | 6;
const NFTA_CHAIN_TABLE: u16 = 1;
const NFTA_CHAIN_NAME: u16 = 3;
const NFTA_CHAIN_COUNTERS: u16 = 8;
const NFTA_RULE_TABLE: u16 = 1;
const NFTA_RULE_CHAIN: u16 = 2;
const NFTA_RULE_HANDLE: u16 = 3;
const NFTA_RULE_EXPRESSIONS: u16 = 4;
const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;
const NFTA_COUNTER_PACKETS: u16 = 2;
/// `struct nfgenmsg`
const NFGENMSG: usize = 4;

/// Table (`ip filter`) and chain.
type Place = (String, String);

/// Handle and packets of a rule; legacy rules have no handle, some rules no counter.
type Counted = (Option<i64>, Option<u64>);

/// What was counted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counters {
    /// Of a chain's policy.
    policies: BTreeMap<Place, u64>,
    rules: BTreeMap<Place, Vec<Counted>>,
}

/// Reads all counters; what cannot be read is left out.
pub fn read(host: &dyn Host) -> Counters {
    let mut counters = Counters::default();
    if let Ok(dump) = host.nf_tables() {
        counters.nf_tables(&dump);
    }
    for v6 in [false, true] {
        let names = if v6 { "/proc/net/ip6_tables_names" } else { "/proc/net/ip_tables_names" };
        let in_use = optional(read_text(host, names)).ok().flatten().is_some_and(|text| !text.trim().is_empty());
        let saved = in_use.then(|| host.run(&Command::IptablesLegacySave { v6 }).and_then(|o| o.ok("iptables-legacy-save -c")));
        if let Some(Ok(bytes)) = saved {
            counters.legacy(&String::from_utf8_lossy(&bytes), v6);
        }
    }
    counters
}

impl Counters {
    /// Packets that the rule or policy has counted; `None`: it has no counter, or is not there.
    pub fn of(&self, rule: &DecidingRule) -> Option<u64> {
        let place = (rule.table.clone(), rule.chain.clone());
        let Some(number) = rule.handle_or_line else { return self.policies.get(&place).copied() };
        let rules = self.rules.get(&place)?;
        // iptables names a rule by its position, nft by its handle.
        match rule.rule.starts_with("-A ") {
            true => rules.get(usize::try_from(number).ok()?.checked_sub(1)?)?.1,
            false => rules.iter().find(|(handle, _)| *handle == Some(number))?.1,
        }
    }

    fn nf_tables(&mut self, dump: &[u8]) {
        for message in messages(dump).map_while(Result::ok) {
            let Some((head, body)) = message.split(NFGENMSG) else { continue };
            let Some(family) = head.first().and_then(|f| family(*f)) else { continue };
            let place = |table: u16, chain: u16| -> Option<Place> {
                Some((format!("{family} {}", text(attribute(body, table)?)), text(attribute(body, chain)?)))
            };
            match message.kind {
                NEW_CHAIN => {
                    let packets = attribute(body, NFTA_CHAIN_COUNTERS).and_then(packets);
                    self.policies.extend(place(NFTA_CHAIN_TABLE, NFTA_CHAIN_NAME).zip(packets));
                }
                NEW_RULE => {
                    let handle = attribute(body, NFTA_RULE_HANDLE).and_then(be64).and_then(|h| i64::try_from(h).ok());
                    let counter = attribute(body, NFTA_RULE_EXPRESSIONS).and_then(counter);
                    if let Some(place) = place(NFTA_RULE_TABLE, NFTA_RULE_CHAIN) {
                        self.rules.entry(place).or_default().push((handle, counter));
                    }
                }
                _ => {}
            }
        }
    }

    /// `:INPUT DROP [3:180]` and `[12:720] -A INPUT …` below `*filter`
    fn legacy(&mut self, saved: &str, v6: bool) {
        let mut table = String::new();
        for line in saved.lines() {
            if let Some(name) = line.strip_prefix('*') {
                table = format!("{} {name}", if v6 { "ip6" } else { "ip" });
            } else if let Some((chain, rest)) = line.strip_prefix(':').and_then(|l| l.split_once(' ')) {
                let counted = rest.split_once('[').and_then(|(_, c)| c.split(':').next()).and_then(|n| n.parse().ok());
                let policy = !rest.starts_with('-');
                self.policies.extend(counted.filter(|_| policy).map(|n| ((table.clone(), chain.to_owned()), n)));
            } else if let Some((counted, rule)) = line.strip_prefix('[').and_then(|l| l.split_once("] -A ")) {
                let chain = rule.split(' ').next().unwrap_or_default().to_owned();
                let packets = counted.split(':').next().and_then(|n| n.parse().ok());
                self.rules.entry((table.clone(), chain)).or_default().push((None, packets));
            }
        }
    }
}

fn family(number: u8) -> Option<&'static str> {
    Some(match number {
        1 => "inet",
        2 => "ip",
        5 => "netdev",
        10 => "ip6",
        _ => return None,
    })
}

/// Packets of the first `counter` in a rule's expressions.
fn counter(expressions: &[u8]) -> Option<u64> {
    let mut all = attributes(expressions).map_while(Result::ok).map(|e| e.value);
    let found = all.find(|e| attribute(e, NFTA_EXPR_NAME).is_some_and(|name| text(name) == "counter"))?;
    packets(attribute(found, NFTA_EXPR_DATA)?)
}

fn packets(nested: &[u8]) -> Option<u64> {
    be64(attribute(nested, NFTA_COUNTER_PACKETS)?)
}

fn be64(value: &[u8]) -> Option<u64> {
    value.try_into().ok().map(u64::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::netlink::push_attribute;

    fn rule(table: &str, chain: &str, rule: &str, number: Option<i64>) -> DecidingRule {
        DecidingRule { table: table.into(), chain: chain.into(), rule: rule.into(), handle_or_line: number, packets: None }
    }

    #[test]
    fn legacy_rules_are_counted_by_position() {
        let mut counters = Counters::default();
        let saved =
            "*filter\n:INPUT DROP [3:180]\n:mine - [0:0]\n[12:720] -A INPUT -i lo -j ACCEPT\n[7:1] -A INPUT -j mine\nCOMMIT\n";
        counters.legacy(saved, false);
        let of = |text: &str, n| counters.of(&rule("ip filter", "INPUT", text, n));
        assert_eq!((of("-A INPUT -j mine", Some(2)), of("policy DROP", None)), (Some(7), Some(3)));
        assert_eq!((of("-A INPUT -j mine", Some(9)), of("-A INPUT -j mine", Some(0))), (None, None));
        assert_eq!(counters.of(&rule("ip filter", "mine", "policy", None)), None);
    }

    fn attribute_of(parts: &[(u16, &[u8])]) -> Vec<u8> {
        let mut bytes = Vec::new();
        parts.iter().for_each(|(kind, value)| push_attribute(&mut bytes, *kind, value));
        bytes
    }

    fn message(kind: u16, family: u8, attributes: &[u8]) -> Vec<u8> {
        let mut bytes = u32::try_from(20 + attributes.len()).unwrap().to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.resize(16, 0);
        bytes.extend([family, 0, 0, 0]);
        bytes.extend(attributes);
        bytes
    }

    #[test]
    fn rules_and_policies_of_the_dump_are_counted() {
        let counted = |n: u64| attribute_of(&[(1, &[0; 8]), (NFTA_COUNTER_PACKETS, &n.to_be_bytes())]);
        let expression = attribute_of(&[(NFTA_EXPR_NAME, b"counter\0"), (NFTA_EXPR_DATA, &counted(13))]);
        let expressions = attribute_of(&[(1, &attribute_of(&[(NFTA_EXPR_NAME, b"cmp\0")])), (1, &expression)]);
        let in_chain: [(u16, &[u8]); 2] = [(NFTA_RULE_TABLE, b"filter\0"), (NFTA_RULE_CHAIN, b"input\0")];
        let with = |handle: u64| {
            attribute_of(
                &[&in_chain[..], &[(NFTA_RULE_HANDLE, &handle.to_be_bytes()[..]), (NFTA_RULE_EXPRESSIONS, &expressions)]]
                    .concat(),
            )
        };
        let chain =
            attribute_of(&[(NFTA_CHAIN_TABLE, b"filter\0"), (NFTA_CHAIN_NAME, b"input\0"), (NFTA_CHAIN_COUNTERS, &counted(5))]);
        let dump = [message(NEW_CHAIN, 1, &chain), message(NEW_RULE, 1, &with(40)), message(NEW_RULE, 1, &with(41))].concat();
        let mut counters = Counters::default();
        counters.nf_tables(&dump);
        let of = |text: &str, n| counters.of(&rule("inet filter", "input", text, n));
        assert_eq!((of("tcp dport 5672 drop", Some(41)), of("policy drop", None)), (Some(13), Some(5)));
        assert_eq!((of("-A input", Some(1)), of("drop", Some(1))), (Some(13), None));
        counters.nf_tables(&dump[..dump.len() - 3]);
        counters.nf_tables(&[255; 40]);
    }
}

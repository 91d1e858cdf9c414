//! The firewall engine as tests/parity and tests/bench/firewall see it. Not an interface for anybody else.

use crate::facts::Fact;
use crate::facts::firewall::{self, DecidingRule, Firewall, Packet, Possibility, Verdict};
use crate::host::live::Live;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// The packet filters of this network namespace, as an audit reads them.
pub struct Engine(Firewall);

/// What may become of a connection attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// accept | drop | reject | unknown
    pub verdict: String,
    pub reject_with: Option<String>,
    /// See `Verdict::packet` and `Verdict::sees` of the report's schema.
    pub packet: String,
    pub sees: String,
    /// The deciding rule, for people.
    pub by: String,
}

/// The verdict for one packet: one outcome where the ruleset decides.
#[derive(Debug, Clone)]
pub struct Foretold {
    pub outcomes: Vec<Outcome>,
    pub depends_on: Vec<String>,
}

/// A rule: indices of table, chain and rule in the model.
pub type Place = (usize, usize, usize);

impl Engine {
    /// Reads them by the live door.
    pub fn read() -> Result<Engine, String> {
        match firewall::collect(&Live::default()) {
            Fact::Known(firewall) => Ok(Engine(firewall)),
            Fact::Unknown(why) => Err(why),
        }
    }

    /// The verdict for a new connection.
    pub fn verdict(&self, source: IpAddr, destination: IpAddr, port: u16, interface: &str) -> Result<Foretold, String> {
        match self.0.verdict(&Packet { source, destination, port, interface: interface.to_owned() }) {
            Fact::Known(verdict) => Ok(foretold(verdict)),
            Fact::Unknown(why) => Err(why),
        }
    }

    /// Packets that each rule's counter has seen; rules without a counter are left out.
    pub fn counters(&self) -> BTreeMap<Place, u64> {
        let mut found = BTreeMap::new();
        for (t, table) in self.0.model.tables.iter().enumerate() {
            for (c, chain) in table.chains.iter().enumerate() {
                let counted = chain.rules.iter().enumerate().filter_map(|(r, rule)| Some(((t, c, r), rule.packets?)));
                found.extend(counted);
            }
        }
        found
    }

    /// A rule in its tool's words, with its table and chain.
    pub fn text(&self, (t, c, r): Place) -> String {
        let Some(table) = self.0.model.tables.get(t) else { return String::new() };
        let Some(chain) = table.chains.get(c) else { return table.title() };
        let rule = chain.rules.get(r).map_or("", |r| r.text.as_str());
        format!("{} {}: {rule}", table.title(), chain.name)
    }
}

fn foretold(verdict: Verdict) -> Foretold {
    let by = |rule: &Option<DecidingRule>| {
        rule.as_ref().map_or("nothing".to_owned(), |r| format!("{} {}: {}", r.table, r.chain, r.rule))
    };
    let outcomes = if verdict.verdict == "depends" {
        let one = |p: Possibility| Outcome {
            by: by(&p.decided_by),
            verdict: p.verdict,
            reject_with: p.reject_with,
            packet: p.packet,
            sees: p.sees,
        };
        verdict.outcomes.into_iter().map(one).collect()
    } else {
        let by = by(&verdict.decided_by);
        vec![Outcome {
            by,
            verdict: verdict.verdict,
            reject_with: verdict.reject_with,
            packet: verdict.packet,
            sees: verdict.sees,
        }]
    };
    Foretold { outcomes, depends_on: verdict.depends_on }
}

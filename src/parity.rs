//! The firewall engine as tests/parity and tests/bench/firewall see it, and readers of files as tests/lab sees them. Not an
//! interface for anybody else.

use crate::facts::env::{self, Var};
use crate::facts::firewall::{self, DecidingRule, Firewall, Packet, Possibility, Verdict, model};
use crate::facts::{Fact, Where};
use crate::formats::env_conf::{Document, Shell};
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

/// One thing that may become of a connection attempt, with every rule that counts one of its packets.
#[derive(Debug, Clone)]
pub struct Course {
    pub outcome: Outcome,
    /// Which packet (syn, reply, established, answer), and the rule.
    pub counted: Vec<(&'static str, Place)>,
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

    /// Everything that may become of a new connection; neighbour discovery is left out.
    pub fn courses(&self, source: IpAddr, destination: IpAddr, port: u16, interface: &str) -> Result<Vec<Course>, String> {
        let packet = Packet { source, destination, port, interface: interface.to_owned() };
        let courses = match self.0.trace(&packet) {
            Fact::Known(courses) => courses,
            Fact::Unknown(why) => return Err(why),
        };
        let one = |course: firewall::Course| Course {
            counted: course.matched.iter().filter_map(|h| Some((h.stage, (h.table, h.chain, h.rule?)))).collect(),
            outcome: Outcome {
                verdict: course.verdict.to_owned(),
                reject_with: course.reject_with,
                packet: course.packet.to_owned(),
                sees: course.sees.to_owned(),
                by: course.why.unwrap_or_else(|| by(course.decided_by.as_ref())),
            },
        };
        Ok(courses.into_iter().map(one).collect())
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

    /// A rule of iptables-legacy, whose saved text comes without counters: family (ip, ip6), table, chain, rule counted from 0.
    pub fn legacy(&self, family: &str, table: &str, chain: &str, rule: usize) -> Option<Place> {
        let legacy = |t: &model::Table| t.engine == model::Engine::IptablesLegacy && t.family.name() == family && t.name == table;
        let t = self.0.model.tables.iter().position(legacy)?;
        let c = self.0.model.tables.get(t)?.chain(chain)?;
        Some((t, c, rule))
    }

    /// A rule in its tool's words, with its table and chain.
    pub fn text(&self, (t, c, r): Place) -> String {
        let Some(table) = self.0.model.tables.get(t) else { return String::new() };
        let Some(chain) = table.chains.get(c) else { return table.title() };
        let rule = chain.rules.get(r).map_or("", |r| r.text.as_str());
        format!("{} {}: {rule}", table.title(), chain.name)
    }
}

fn by(rule: Option<&DecidingRule>) -> String {
    rule.map_or("nothing".to_owned(), |r| format!("{} {}: {}", r.table, r.chain, r.rule))
}

fn foretold(verdict: Verdict) -> Foretold {
    let outcomes = if verdict.verdict == "depends" {
        let one = |p: Possibility| Outcome {
            by: by(p.decided_by.as_ref()),
            verdict: p.verdict,
            reject_with: p.reject_with,
            packet: p.packet,
            sees: p.sees,
        };
        verdict.outcomes.into_iter().map(one).collect()
    } else {
        let by = by(verdict.decided_by.as_ref());
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

/// What an audit makes of the text of rabbitmq-env.conf.
pub struct Environment {
    /// The broker certainly does not start.
    pub fatal: bool,
    /// Why it may not.
    pub doubt: Option<String>,
    /// By name without prefix: the value, `None` if it is unset, or why it is not known. `Err`: nothing is known.
    pub vars: Result<BTreeMap<&'static str, Result<Option<String>, String>>, String>,
}

/// Reads the file with the shell of that name as /bin/sh, below the unit's `NAME=value`; `old`: RabbitMQ before 3.9.
pub fn environment(content: &[u8], shell: &str, old: bool, unit: &[(String, String)]) -> Environment {
    let shell = match shell {
        "dash" => Shell::Dash,
        "bash" => Shell::Bash,
        _ => Shell::Other,
    };
    let document = Document::parse(content, shell);
    let from_unit =
        |(name, value): &(String, String)| (name.clone(), Var { value: Fact::Known(value.clone()), at: Some(unit_file()) });
    let vars = env::effective(&unit.iter().map(from_unit).collect(), Some(&document), "file", old);
    let problems = env::problems(Some(&document), "file", vars.known());
    Environment {
        fatal: problems.iter().any(|p| p.fatal),
        doubt: document.doubt(old).map(str::to_owned),
        vars: match vars {
            Fact::Unknown(why) => Err(why),
            Fact::Known(vars) => Ok(env::names().map(|name| (name, known(vars.get(name)))).collect()),
        },
    }
}

fn unit_file() -> Where {
    Where { file: "unit".to_owned(), line: None, column: None }
}

fn known(var: Option<&Var>) -> Result<Option<String>, String> {
    match var.map(|v| &v.value) {
        None => Ok(None),
        Some(Fact::Known(value)) => Ok(Some(value.clone())),
        Some(Fact::Unknown(why)) => Err(why.clone()),
    }
}

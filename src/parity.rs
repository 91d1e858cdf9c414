//! The firewall engine as tests/parity and tests/bench/firewall see it, and readers of files as tests/lab sees them. Not an
//! interface for anybody else.

use crate::facts::conf::advanced;
use crate::facts::env::{self, Var};
use crate::facts::firewall::{self, DecidingRule, Firewall, Packet, Possibility, Verdict, model};
use crate::facts::{Fact, Where};
use crate::formats::env_conf::{Document, Shell};
use crate::formats::erlang::{self, Reader, Term, Value};
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

/// What an audit makes of a file of Erlang terms.
#[derive(Debug)]
pub enum Terms {
    /// The terms, in a form in which equal terms are equal texts; `?` where one is not known.
    Read(String),
    /// Erlang refuses it; the place is from 1.
    Refused { line: u32, column: u32 },
    /// Not known.
    Open(String),
}

/// Reads it as `consult`, `expression` or `sequence` in this release of Erlang.
pub fn terms(bytes: &[u8], reader: &str, otp: u32) -> Terms {
    match erlang::read(bytes, dialect(reader, otp)) {
        Ok(terms) => Terms::Read(terms.iter().map(canonical).collect::<Vec<_>>().join(" ")),
        Err(error) => refused(error),
    }
}

/// The settings that it gives as advanced.config, sorted.
pub fn overlay(bytes: &[u8], expression: bool, otp: u32) -> Terms {
    match advanced::parse(bytes, dialect(if expression { "expression" } else { "consult" }, otp)) {
        Ok(overlay) => {
            let mut apps: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
            for (app, settings) in overlay.apps() {
                let settings = settings.iter().map(|(key, value)| (canonical(key), canonical(value))).collect();
                apps.insert(canonical(app), settings);
            }
            let setting = |(app, settings): (&String, &BTreeMap<String, String>)| {
                settings.iter().map(|(key, value)| format!("{{{app},{key},{value}}}")).collect::<Vec<_>>()
            };
            let mut all: Vec<String> = apps.iter().flat_map(setting).collect();
            all.sort();
            Terms::Read(all.join(" "))
        }
        Err(error) => refused(error),
    }
}

fn dialect(reader: &str, otp: u32) -> erlang::Dialect {
    let reader = match reader {
        "consult" => Reader::Consult,
        "expression" => Reader::Expression,
        _ => Reader::Sequence,
    };
    erlang::Dialect { reader, otp: Some(otp) }
}

fn refused(error: erlang::Error) -> Terms {
    match error.certain {
        true => Terms::Refused { line: error.line, column: error.column },
        false => Terms::Open(error.message),
    }
}

fn canonical(term: &Term) -> String {
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    let joined = |items: &[Term]| items.iter().map(canonical).collect::<Vec<_>>().join(",");
    match &term.value {
        Value::Atom(name) => format!("a{}", hex(name.as_bytes())),
        Value::String(text) => format!("[{}]", text.chars().map(|c| u32::from(c).to_string()).collect::<Vec<_>>().join(",")),
        Value::Binary(bytes) => format!("b{}", hex(bytes)),
        Value::Int(number) => number.to_string(),
        // Older releases of Erlang forget its sign.
        Value::Float(number) if *number == 0.0 => "f0000000000000000".to_owned(),
        Value::Float(number) => format!("f{}", hex(&number.to_be_bytes())),
        Value::List(items) => format!("[{}]", joined(items)),
        Value::Tuple(items) => format!("{{{}}}", joined(items)),
        Value::Map(pairs) => {
            let pairs: BTreeMap<String, String> = pairs.iter().map(|(k, v)| (canonical(k), canonical(v))).collect();
            let mut texts: Vec<String> = pairs.iter().map(|(k, v)| format!("{k}>{v}")).collect();
            texts.sort();
            format!("#{};", texts.join(","))
        }
        Value::Fun(_) | Value::Opaque => "?".to_owned(),
    }
}

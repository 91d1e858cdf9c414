//! Limits on connections: of the node, of virtual hosts, of users; and the memory watermark.
use super::Asker;
use crate::facts::Fact;
use crate::host::rpc::{self, Call, EnvKey, Watermark};
use crate::host::{Got, Miss};
use eetf::Term;
use serde::Serialize;

/// A limit of a virtual host or of a user, beside what is in use now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Limit {
    /// vhost | user
    pub of: String,
    pub name: String,
    /// max-connections; null: not limited
    pub max_connections: Option<i64>,
    /// max-queues (vhost) or max-channels (user); null: not limited
    pub max_other: Option<i64>,
    /// Connections at this moment, of all nodes.
    pub connections: Fact<i64>,
    /// The next connection is refused.
    pub reached: Fact<bool>,
}

/// connection_max: what it limits differs between releases.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct NodeLimit {
    pub max_connections: i64,
    /// Connections at this moment.
    pub connections: Fact<i64>,
    /// What the connection beyond it meets: refused (NOT_ALLOWED, from 3.11.12 on) | waits (is not served until another one ends)
    pub beyond: String,
    pub reached: Fact<bool>,
}

/// `vm_memory_high_watermark` of the running node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct MemoryMark {
    /// share | absolute
    pub kind: String,
    /// `0.4`, `10MB`
    pub now: String,
    /// The share of the memory in thousandths; null: absolute
    pub thousandths: Option<i64>,
    /// What the node started with, from its files or by default.
    pub at_start: String,
    /// Somebody changed it in the running node: it lasts until the next start.
    pub set_at_run_time: bool,
    /// For the one that sets it back.
    #[serde(skip)]
    pub started_with: Watermark,
    #[serde(skip)]
    pub current: Watermark,
}

/// Limited things whose connections are counted: one call each.
const MAX_COUNTED: usize = 50;
/// From this release on connection_max refuses; earlier ones leave the connection unserved.
const REFUSES_SINCE: (u32, u32, u32) = (3, 11, 12);

impl Asker<'_> {
    /// Limits of virtual hosts and users.
    pub(super) fn limits(&self) -> Fact<Vec<Limit>> {
        let vhosts = self.ask(&Call::VhostLimits).and_then(|term| limits(&Call::VhostLimits, "vhost", "max-queues", &term));
        let users = match self.ask(&Call::UserLimits) {
            // 3.8.9 knows no limits of users.
            Err(miss) if miss.is_absent() => Ok(Vec::new()),
            answer => answer.and_then(|term| limits(&Call::UserLimits, "user", "max-channels", &term)),
        };
        let both = vhosts.and_then(|vhosts| Ok([vhosts, users?].concat()));
        let counted = |(index, limit): (usize, Limit)| {
            let connections = self.connections_of(index, &limit);
            let reached = match (limit.max_connections, &connections) {
                (None, _) => Fact::Known(false),
                (Some(0), _) => Fact::Known(true),
                (Some(max), now) => now.as_ref().map(|now| *now >= max),
            };
            Limit { connections, reached, ..limit }
        };
        Fact::from(both).map(|all| all.into_iter().enumerate().map(counted).collect())
    }

    fn connections_of(&self, index: usize, limit: &Limit) -> Fact<i64> {
        if index >= MAX_COUNTED {
            return Fact::Unknown(format!("only the connections of the first {MAX_COUNTED} limits are counted"));
        }
        let name = limit.name.clone();
        let call = if limit.of == "vhost" { Call::ConnectionsTo(name) } else { Call::ConnectionsOf(name) };
        self.fact(&call, rpc::integer)
    }

    /// connection_max; null: none.
    pub(super) fn node_limit(&self, version: &Fact<String>, connections: &Fact<i64>) -> Fact<Option<NodeLimit>> {
        let max = self.setting(EnvKey::ConnectionMax, |value| match value {
            None => Some(None),
            Some(value) if rpc::name(value).is_some() => Some(None),
            Some(value) => rpc::integer(value).map(Some),
        });
        let waits = version.known().and_then(|v| numbers(v)).is_some_and(|version| version < REFUSES_SINCE);
        max.map(|max| {
            max.map(|max_connections| NodeLimit {
                max_connections,
                reached: connections.as_ref().map(|now| *now >= max_connections),
                connections: connections.clone(),
                beyond: if waits { "waits" } else { "refused" }.to_owned(),
            })
        })
    }

    /// The memory watermark as it is, beside what the node started with.
    pub(super) fn memory_mark(&self) -> Fact<MemoryMark> {
        let at_start = self.setting(EnvKey::VmMemoryHighWatermark, |value| Watermark::of(value?));
        let now = self.fact(&Call::MemoryWatermark, Watermark::of);
        match (at_start, now) {
            (Fact::Known(at_start), Fact::Known(now)) => Fact::Known(MemoryMark::of(now, at_start)),
            (Fact::Unknown(why), _) | (_, Fact::Unknown(why)) => Fact::Unknown(why),
        }
    }
}

impl MemoryMark {
    fn of(now: Watermark, at_start: Watermark) -> MemoryMark {
        let share = match &now {
            Watermark::Share(share) => share.parse::<f64>().ok(),
            Watermark::Absolute(_) => None,
        };
        MemoryMark {
            kind: if share.is_some() { "share" } else { "absolute" }.to_owned(),
            now: now.to_string(),
            // A share above 1 is taken for 1; the cast saturates.
            thousandths: share.map(|share| (share * 1000.0).round() as i64),
            at_start: at_start.to_string(),
            set_at_run_time: now != at_start,
            started_with: at_start,
            current: now,
        }
    }
}

/// `4.0.5` → (4, 0, 5)
fn numbers(version: &str) -> Option<(u32, u32, u32)> {
    let mut parts = version.split(['.', '-', '+']).map(|part| part.parse().ok());
    Some((parts.next()??, parts.next()??, parts.next()??))
}

/// `[{Name, Limits}]`, where limits are a map or a list of pairs with binary keys.
fn limits(call: &Call, of: &str, other: &str, term: &Term) -> Got<Vec<Limit>> {
    let limit = |entry: &Term| {
        let [name, limits] = rpc::elements(entry) else { return None };
        let pairs = rpc::pairs(limits);
        let value = |key: &str| {
            let found = pairs.iter().find(|(k, _)| rpc::text(k).as_deref() == Some(key));
            // A negative number is no limit.
            found.and_then(|(_, value)| rpc::integer(value)).filter(|limit| *limit >= 0)
        };
        Some(Limit {
            of: of.to_owned(),
            name: rpc::text(name)?,
            max_connections: value("max-connections"),
            max_other: value(other),
            connections: Fact::Known(0),
            reached: Fact::Known(false),
        })
    };
    let all: Option<Vec<Limit>> = rpc::items(term).and_then(|all| all.iter().map(limit).collect());
    let what = || call.mfas("").first().map(ToString::to_string).unwrap_or_default();
    all.ok_or_else(|| Miss::failed(what(), "the answer was not understood"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::rpc::{atom, binary, tuple};

    #[test]
    fn limits_come_as_maps_and_as_pairs() {
        let number = |value| Term::from(eetf::FixInteger { value });
        let list = |all: Vec<Term>| Term::from(eetf::List::from(all));
        let pairs = list(vec![tuple([binary("max-connections"), number(0)]), tuple([binary("max-queues"), number(-1)])]);
        let map = Term::from(eetf::Map::from([(binary("max-connections"), number(7))]));
        let all = list(vec![tuple([binary("/"), pairs]), tuple([binary("b"), map])]);
        let found = limits(&Call::VhostLimits, "vhost", "max-queues", &all).unwrap();
        let seen: Vec<_> = found.iter().map(|l| (l.name.as_str(), l.max_connections, l.max_other)).collect();
        assert_eq!(seen, [("/", Some(0), None), ("b", Some(7), None)]);
        assert!(limits(&Call::VhostLimits, "vhost", "max-queues", &atom("what")).is_err());
    }

    #[test]
    fn a_watermark_is_compared_with_the_one_at_the_start() {
        let share = |share: &str| Watermark::Share(share.into());
        let same = MemoryMark::of(share("0.4"), share("0.4"));
        assert_eq!((same.thousandths, same.set_at_run_time, same.kind.as_str()), (Some(400), false, "share"));
        let zero = MemoryMark::of(share("0"), share("0.4"));
        assert_eq!((zero.thousandths, zero.set_at_run_time, zero.at_start.as_str()), (Some(0), true, "0.4"));
        let absolute = MemoryMark::of(Watermark::Absolute("10MB".into()), share("0.4"));
        assert_eq!((absolute.thousandths, absolute.kind.as_str(), absolute.now.as_str()), (None, "absolute", "10MB"));
    }

    #[test]
    fn releases_differ_in_what_the_node_limit_does() {
        assert!(numbers("3.10.8").unwrap() < REFUSES_SINCE && numbers("3.11.12").unwrap() >= REFUSES_SINCE);
        assert_eq!(numbers("4.1.0-rc.1"), Some((4, 1, 0)));
    }
}

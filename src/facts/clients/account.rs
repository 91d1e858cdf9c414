//! What the broker knows about the account that a client logs in with.

use super::{ask, ask_user};
use crate::facts::Fact;
use crate::facts::broker::{Node, limits::Limit};
use crate::policy::ClientIntent;
use serde::Serialize;

/// The client's user on the broker. All null without a user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Account {
    /// It has a password: without one no password is right.
    pub has_password: Fact<Option<bool>>,
    /// There is no such user, and one whose name differs in upper and lower case, blanks, `-`, `_` or `.` alone.
    pub near: Fact<Option<String>>,
    /// It has a tag that the management plugin asks for.
    pub may_manage: Fact<Option<bool>>,
    /// configure | write | read: the policy asks for it, and the user's permission there matches no name at all.
    pub gaps: Fact<Vec<String>>,
    /// What is in the way of its next connection; null: no limit is.
    pub limit: Fact<Option<Barrier>>,
}

/// A limit on connections that is reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Barrier {
    /// `user app: 0 connections allowed, 0 open`
    pub text: String,
    /// The connection is not refused, but waits until another one ends.
    pub waits: bool,
}

/// Each of them lets a user in (rabbit_mgmt_util.erl and rabbit_web_dispatch_access_control.erl, 3.8 to 4.3).
const MANAGEMENT_TAGS: [&str; 4] = ["administrator", "monitoring", "policymaker", "management"];
/// Patterns that match no name but the empty one.
const NOTHING: [&str; 2] = ["", "^$"];

/// Looks at the users, permissions and limits of the node.
pub(super) fn of(node: &Fact<&Node>, intent: &ClientIntent) -> Account {
    let user = intent.user.as_deref();
    let without = |why: &str| Fact::Unknown(why.to_owned());
    Account {
        has_password: match (user, node) {
            (None, _) => Fact::Known(None),
            (Some(_), Fact::Unknown(why)) => without(why),
            (Some(user), Fact::Known(node)) => match &node.users {
                Fact::Unknown(why) => without(why),
                Fact::Known(users) => {
                    users.iter().find(|u| u.name == user).map_or(Fact::Known(None), |u| u.has_password.clone().map(Some))
                }
            },
        },
        near: match user {
            None => Fact::Known(None),
            Some(user) => ask(node, |n| n.users.as_ref().map(|users| near(user, users.iter().map(|u| u.name.as_str())))),
        },
        may_manage: ask_user(node, user, |n, user| {
            let tagged = |u: &crate::facts::broker::User| u.tags.iter().any(|t| MANAGEMENT_TAGS.contains(&t.as_str()));
            n.users.as_ref().map(|users| users.iter().any(|u| u.name == user && tagged(u)))
        }),
        gaps: gaps(node, intent),
        limit: match node {
            Fact::Known(node) => limit(node, user, &intent.vhost),
            Fact::Unknown(why) => Fact::Unknown(why.clone()),
        },
    }
}

/// A name that people take for this one. `None`: there is none, or the user itself exists.
fn near<'a>(user: &str, mut names: impl Iterator<Item = &'a str> + Clone) -> Option<String> {
    let plain = |name: &str| name.to_lowercase().replace(|c: char| c.is_whitespace() || "-_.".contains(c), "");
    let wanted = plain(user);
    if wanted.is_empty() || names.clone().any(|name| name == user) {
        return None;
    }
    names.find(|name| plain(name) == wanted).map(str::to_owned)
}

fn gaps(node: &Fact<&Node>, intent: &ClientIntent) -> Fact<Vec<String>> {
    let Some(user) = intent.user.as_deref().filter(|_| intent.permissions_said) else { return Fact::Known(Vec::new()) };
    ask(node, |node| {
        node.permissions.as_ref().map(|all| {
            let Some(has) = all.iter().find(|p| p.user == user && p.vhost == intent.vhost) else { return Vec::new() };
            let pairs = ["configure", "write", "read"].into_iter().zip([&has.configure, &has.write, &has.read]);
            let nothing = |pattern: &String| NOTHING.contains(&pattern.as_str());
            let missing = pairs.zip(&intent.permissions).filter(|((_, has), wanted)| nothing(has) && !nothing(wanted));
            missing.map(|((kind, _), _)| kind.to_owned()).collect()
        })
    })
}

fn limit(node: &Node, user: Option<&str>, vhost: &str) -> Fact<Option<Barrier>> {
    let limits = match &node.limits {
        Fact::Known(limits) => limits,
        Fact::Unknown(why) => return Fact::Unknown(why.clone()),
    };
    let concerns = |limit: &&Limit| match limit.of.as_str() {
        "user" => Some(limit.name.as_str()) == user,
        _ => limit.name == vhost,
    };
    let mut reasons = Vec::new();
    for limit in limits.iter().filter(concerns) {
        let Some(max) = limit.max_connections else { continue };
        reasons.push(
            limit
                .reached
                .as_ref()
                .map(|reached| reached.then(|| barrier(&format!("{} {}", limit.of, limit.name), max, &limit.connections, false))),
        );
    }
    reasons.push(match &node.connection_limit {
        Fact::Known(None) => Fact::Known(None),
        Fact::Known(Some(limit)) => limit.reached.as_ref().map(|reached| {
            reached.then(|| barrier("the node", limit.max_connections, &limit.connections, limit.beyond == "waits"))
        }),
        Fact::Unknown(why) => Fact::Unknown(why.clone()),
    });
    let reached = reasons.iter().find(|r| matches!(r, Fact::Known(Some(_))));
    let unknown = reasons.iter().find(|r| matches!(r, Fact::Unknown(_)));
    reached.or(unknown).cloned().unwrap_or(Fact::Known(None))
}

fn barrier(whose: &str, max: i64, now: &Fact<i64>, waits: bool) -> Barrier {
    let open = now.known().map_or(String::new(), |now| format!(", {now} open"));
    Barrier { text: format!("{whose}: {max} connections allowed{open}"), waits }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_taken_for_one_another() {
        let near = |user: &str, names: &[&str]| near(user, names.iter().copied());
        assert_eq!(near("app", &["guest", "App"]), Some("App".into()));
        assert_eq!(near("order-service", &["order_service"]), Some("order_service".into()));
        assert_eq!(near("app", &["app", "App"]), None);
        assert_eq!(near("app", &["apple", ""]), None);
        assert_eq!(near(" ", &["-"]), None);
    }
}

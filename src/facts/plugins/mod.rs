//! enabled_plugins and what is on disk.

pub mod packages;

use super::conf::access::{self, Access};
use super::conf::broker::{Broker, Packed};
use super::conf::variable;
use super::{Fact, Where, env, os};
use crate::formats::erlang::{self, Dialect, Reader, Term};
use crate::host::{Got, Host, MAX_SMALL_CONF, Miss, optional};
use packages::Package;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Plugins: enabled by file, present on disk.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Plugins {
    pub file: String,
    /// Names in the file (or in RABBITMQ_ENABLED_PLUGINS), in its order; empty if there is no file.
    pub enabled: Fact<Vec<String>>,
    /// Applications found in the plugin directories: plugins and the libraries that they need.
    pub available: Fact<Vec<String>>,
    /// Enabled, but not on disk: the broker passes them over silently.
    pub missing: Fact<Vec<String>>,
    /// What the broker starts: the enabled plugins that are on disk and the applications that these need (from their .app files).
    pub started: Fact<Vec<String>>,
    /// Why enabled_plugins cannot be read by the broker (it will not boot); null: fine.
    pub problem: Fact<Option<PluginsProblem>>,
}

/// A broken enabled_plugins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct PluginsProblem {
    /// syntax | unreadable
    pub code: String,
    pub text: String,
    pub at: Where,
}

/// Where the broker looks for the names of enabled plugins when nothing else is said.
pub const DEFAULT_FILE: &str = "/etc/rabbitmq/enabled_plugins";

/// Reads enabled_plugins and lists the plugin directories.
pub fn collect(host: &dyn Host, install: &Fact<Option<os::Install>>, env: &env::Env) -> Plugins {
    collect_for(host, Broker::installed(install), env)
}

/// The same for any broker.
pub fn collect_for(host: &dyn Host, broker: Broker<'_>, env: &env::Env) -> Plugins {
    let file = variable(env, "ENABLED_PLUGINS_FILE").map(|v| v.unwrap_or_else(|| DEFAULT_FILE.to_owned()));
    let path = file.known().cloned().unwrap_or_else(|| DEFAULT_FILE.to_owned());
    let there = Available::of(host, broker);
    let (enabled, problem) = match (variable(env, "ENABLED_PLUGINS"), file) {
        (Fact::Unknown(why), _) | (_, Fact::Unknown(why)) => (Fact::Unknown(why.clone()), Fact::Unknown(why)),
        (Fact::Known(Some(list)), _) => (named(&list, &there.names()), Fact::Known(None)),
        (Fact::Known(None), Fact::Known(path)) => from_file(host, broker, &path),
    };
    let available = there.names();
    let missing = both(&enabled, &available, |enabled, there| enabled.iter().filter(|p| !there.contains(*p)).cloned().collect());
    let started = match &enabled {
        Fact::Known(enabled) => there.started(host, enabled),
        Fact::Unknown(why) => Fact::Unknown(why.clone()),
    };
    Plugins { file: path, enabled, available: available.map(|a| a.into_iter().collect()), missing, started, problem }
}

/// The applications that a broker can start.
enum Available<'a> {
    Installed(Fact<Vec<Package>>),
    Packed(&'a Packed),
}

impl<'a> Available<'a> {
    fn of(host: &dyn Host, broker: Broker<'a>) -> Self {
        match (broker.packed, broker.install) {
            (Some(packed), _) => Available::Packed(packed),
            (None, Fact::Known(None)) => Available::Installed(Fact::Known(Vec::new())),
            (None, _) => Available::Installed(broker.packages(host)),
        }
    }

    fn names(&self) -> Fact<BTreeSet<String>> {
        match self {
            Available::Installed(packages) => packages.as_ref().map(|all| all.iter().map(|p| p.app.clone()).collect()),
            Available::Packed(packed) => Fact::Known(packed.plugins.iter().cloned().collect()),
        }
    }

    fn started(&self, host: &dyn Host, enabled: &[String]) -> Fact<Vec<String>> {
        match self {
            Available::Installed(Fact::Known(packages)) => started(host, enabled, packages).into(),
            Available::Installed(Fact::Unknown(why)) => Fact::Unknown(why.clone()),
            Available::Packed(packed) => Fact::Known(started_of(&packed.plugins, enabled)),
        }
    }
}

/// What the plugins of every release need, as far as it has settings of its own.
const NEEDS: [(&str, &[&str]); 11] = [
    ("rabbitmq_web_mqtt", &["rabbitmq_mqtt"]),
    ("rabbitmq_web_mqtt_examples", &["rabbitmq_web_mqtt"]),
    ("rabbitmq_web_stomp", &["rabbitmq_stomp"]),
    ("rabbitmq_web_stomp_examples", &["rabbitmq_web_stomp"]),
    ("rabbitmq_top", &["rabbitmq_management"]),
    ("rabbitmq_tracing", &["rabbitmq_management"]),
    ("rabbitmq_federation_management", &["rabbitmq_federation", "rabbitmq_management"]),
    ("rabbitmq_shovel_management", &["rabbitmq_shovel", "rabbitmq_management"]),
    ("rabbitmq_stream_management", &["rabbitmq_stream", "rabbitmq_management"]),
    ("rabbitmq_shovel_prometheus", &["rabbitmq_shovel", "rabbitmq_prometheus"]),
    ("rabbitmq_federation_prometheus", &["rabbitmq_federation", "rabbitmq_prometheus"]),
];

/// Enabled plugins of a release and what they need.
fn started_of(shipped: &[String], enabled: &[String]) -> Vec<String> {
    let mut started: Vec<String> = Vec::new();
    let mut todo: Vec<&str> = enabled.iter().rev().map(String::as_str).collect();
    while let Some(app) = todo.pop() {
        if shipped.iter().any(|a| a == app) && !started.iter().any(|s| s == app) {
            started.push(app.to_owned());
            todo.extend(NEEDS.iter().filter(|(plugin, _)| *plugin == app).flat_map(|(_, needs)| needs.iter()));
        }
    }
    started
}

/// Where each plugin is named first in the file.
pub fn places(host: &dyn Host, file: &str) -> BTreeMap<String, Where> {
    let bytes = host.read(Path::new(file), MAX_SMALL_CONF).unwrap_or_default();
    let terms = erlang::read(&bytes, Dialect { reader: Reader::Sequence, otp: None }).unwrap_or_default();
    let place =
        |t: &Term| Some((t.atom()?.to_owned(), Where { file: file.to_owned(), line: Some(t.line), column: Some(t.column) }));
    // Of two with one name the last one inserted stays.
    terms.iter().filter_map(Term::list).flatten().rev().filter_map(place).collect()
}

fn both<A, B, C>(a: &Fact<A>, b: &Fact<B>, f: impl FnOnce(&A, &B) -> C) -> Fact<C> {
    match (a, b) {
        (Fact::Known(a), Fact::Known(b)) => Fact::Known(f(a, b)),
        (Fact::Unknown(why), _) | (_, Fact::Unknown(why)) => Fact::Unknown(why.clone()),
    }
}

/// RABBITMQ_ENABLED_PLUGINS: names with commas, nothing, or ALL.
fn named(list: &str, available: &Fact<BTreeSet<String>>) -> Fact<Vec<String>> {
    if list != "ALL" {
        return Fact::Known(list.split(',').map(str::trim).filter(|n| !n.is_empty()).map(str::to_owned).collect());
    }
    available.as_ref().map(|all| all.iter().filter(|app| app.starts_with("rabbitmq_")).cloned().collect())
}

fn from_file(host: &dyn Host, broker: Broker<'_>, path: &str) -> (Fact<Vec<String>>, Fact<Option<PluginsProblem>>) {
    let bytes = match optional(host.read(Path::new(path), MAX_SMALL_CONF)) {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return (Fact::Known(Vec::new()), Fact::Known(None)),
        Err(miss) => return (miss.clone().into(), miss.into()),
    };
    match names(&bytes, broker.otp()) {
        Ok(names) if broker.in_place => (Fact::Known(names), unreadable(host, broker, path)),
        Ok(names) => (Fact::Known(names), Fact::Known(None)),
        Err(e) if !e.certain => {
            let why = format!("{path}:{e}");
            (Fact::Unknown(why.clone()), Fact::Unknown(why))
        }
        Err(e) => {
            let at = Where { file: path.to_owned(), line: Some(e.line), column: Some(e.column) };
            let problem = PluginsProblem { code: "syntax".into(), text: e.message.clone(), at };
            (Fact::Unknown(format!("{path}:{e}")), Fact::Known(Some(problem)))
        }
    }
}

/// One list of atoms, or nothing at all.
fn names(bytes: &[u8], otp: Option<u32>) -> Result<Vec<String>, erlang::Error> {
    let terms = erlang::read(bytes, Dialect { reader: Reader::Sequence, otp })?;
    let malformed = |t: &Term| erlang::Error {
        line: t.line,
        column: t.column,
        message: "not one list of plugin names".into(),
        certain: true,
    };
    match terms.as_slice() {
        [] => Ok(Vec::new()),
        [one] => {
            let items = one.list().ok_or_else(|| malformed(one))?;
            items.iter().map(|t| t.atom().map(str::to_owned).ok_or_else(|| malformed(t))).collect()
        }
        [_, second, ..] => Err(malformed(second)),
    }
}

fn unreadable(host: &dyn Host, broker: Broker<'_>, path: &str) -> Fact<Option<PluginsProblem>> {
    let user = match broker.user(host) {
        Fact::Known(user) => user,
        Fact::Unknown(why) => return Fact::Unknown(why),
    };
    let problem = |by: &Path| PluginsProblem {
        code: "unreadable".into(),
        text: format!("the broker's user may not read it because of the permissions of {}", by.display()),
        at: Where { file: path.to_owned(), line: None, column: None },
    };
    match access::may(host, &user, Path::new(path), access::READ) {
        Ok(Access::No(by)) => Fact::Known(Some(problem(&by))),
        Ok(Access::Yes | Access::Absent | Access::Hidden(_) | Access::Circle) => Fact::Known(None),
        Err(miss) => miss.into(),
    }
}

/// Enabled plugins and, from their .app files, what they need, as far as it lies in the plugin directories.
fn started(host: &dyn Host, enabled: &[String], packages: &[Package]) -> Got<Vec<String>> {
    let mut started: Vec<String> = Vec::new();
    let mut todo: Vec<String> = enabled.iter().rev().cloned().collect();
    while let Some(app) = todo.pop() {
        // The core and the libraries need no other plugin.
        let package = packages.iter().rev().find(|p| p.app == app);
        let Some(package) = package.filter(|p| p.app.starts_with("rabbitmq_") && !started.contains(&p.app)) else { continue };
        started.push(app);
        todo.extend(needs(host, package)?);
    }
    Ok(started)
}

/// `applications` of the package's .app file.
fn needs(host: &dyn Host, package: &Package) -> Got<Vec<String>> {
    let wanted = format!("{}.app", package.app);
    let files = package.files(host, "ebin", &|name| name == wanted)?;
    let (_, bytes) = files.first().ok_or_else(|| Miss::Absent { what: format!("{}/ebin/{wanted}", package.path.display()) })?;
    let terms = erlang::consult(&String::from_utf8_lossy(bytes)).map_err(|e| Miss::failed(wanted, e))?;
    let applications =
        terms.first().and_then(Term::tuple).and_then(|t| t.get(2)).and_then(|props| props.property("applications"));
    Ok(applications.and_then(Term::list).unwrap_or_default().iter().filter_map(Term::atom).map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::conf::tests::environment;
    use crate::host::fake::Fake;

    fn install() -> Fact<Option<os::Install>> {
        let install = os::Install {
            version: "4.0.5".into(),
            plugin_dirs: vec!["/p".into()],
            erlang: Fact::Known(None),
            uid: Fact::Known(Some(104)),
            gid: Fact::Known(Some(109)),
        };
        Fact::Known(Some(install))
    }

    fn host() -> Fake {
        let app = |name: &str, needs: &str| format!("{{application, {name}, [{{vsn, \"1\"}}, {{applications, [{needs}]}}]}}.");
        Fake::new()
            .file("/p/rabbit-1/ebin/rabbit.app", app("rabbit", "kernel"))
            .file("/p/rabbitmq_top-1/ebin/rabbitmq_top.app", app("rabbitmq_top", "rabbit, rabbitmq_management"))
            .file("/p/rabbitmq_management-1/ebin/rabbitmq_management.app", app("rabbitmq_management", "rabbit"))
    }

    fn with(text: &str) -> Plugins {
        collect(&host().file_with(DEFAULT_FILE, text, 0o640, 0, 109), &install(), &environment(&[]))
    }

    #[test]
    fn what_is_enabled_started_and_missing() {
        let plugins = with("[rabbitmq_top,rabbitmq_gone].\n");
        assert_eq!(plugins.enabled, Fact::Known(vec!["rabbitmq_top".into(), "rabbitmq_gone".into()]));
        assert_eq!(plugins.started, Fact::Known(vec!["rabbitmq_top".into(), "rabbitmq_management".into()]));
        assert_eq!(plugins.missing, Fact::Known(vec!["rabbitmq_gone".into()]));
        assert_eq!(plugins.problem, Fact::Known(None));
    }

    #[test]
    fn no_file_no_plugins() {
        let plugins = collect(&host(), &install(), &environment(&[]));
        assert_eq!((plugins.enabled, plugins.problem), (Fact::Known(vec![]), Fact::Known(None)));
    }

    #[test]
    fn a_file_that_stops_the_boot() {
        let code = |text: &str| with(text).problem.known().cloned().flatten().map(|p| (p.code, p.at.line));
        for (text, line) in
            [("[rabbitmq_top]", 1), ("[a\nb].", 2), ("[\"a\"].", 1), ("[a]. [b].", 1), ("a.", 1), ("[rabbitmq_top", 1)]
        {
            assert_eq!(code(text), Some(("syntax".to_owned(), Some(line))), "{text}");
        }
        assert!(with("[a").enabled.why().is_some());
        let host = host().file_with(DEFAULT_FILE, "[].", 0o600, 0, 0);
        let problem = collect(&host, &install(), &environment(&[])).problem.known().cloned().flatten().unwrap();
        assert_eq!(problem.code, "unreadable");
    }

    #[test]
    fn the_environment_names_the_file_or_the_plugins() {
        let host = host().file("/x/plugins", "[rabbitmq_management].");
        let plugins = collect(&host, &install(), &environment(&[("ENABLED_PLUGINS_FILE", "/x/plugins")]));
        assert_eq!((plugins.file.as_str(), plugins.enabled), ("/x/plugins", Fact::Known(vec!["rabbitmq_management".into()])));
        let plugins = collect(&host, &install(), &environment(&[("ENABLED_PLUGINS", "rabbitmq_top, rabbitmq_management")]));
        assert_eq!(plugins.enabled, Fact::Known(vec!["rabbitmq_top".into(), "rabbitmq_management".into()]));
        let plugins = collect(&host, &install(), &environment(&[("ENABLED_PLUGINS", "")]));
        assert_eq!(plugins.enabled, Fact::Known(vec![]));
    }
}

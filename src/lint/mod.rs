//! Would a broker boot with these files? The same facts as an audit's, for files anywhere, without a broker.

mod arguments;

pub use arguments::Refused;

use crate::facts::conf::access::{READ, User};
use crate::facts::conf::broker::{Broker, Packed};
use crate::facts::conf::{self, Conf, MANY};
use crate::facts::env::{self, Env, Var};
use crate::facts::net::{self, Net};
use crate::facts::os::{self, Install};
use crate::facts::plugins::{self, Plugins};
use crate::facts::unit::{self, Unit};
use crate::facts::{Blank, Fact, Where};
use crate::formats::schema::distance;
use crate::host::overlay::Overlay;
use crate::host::staged::Staged;
use crate::host::{Host, Kind, Miss};
use crate::rules::Severity;
use arguments::{Configuration, Content, Named};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Name and version of the report's form.
pub const SCHEMA: &str = "rmq-audit/lint/1";

/// What to check.
pub struct Request<'a> {
    /// The host for which the files are: its installation, user, certificates.
    pub host: &'a dyn Host,
    /// The host that has the files.
    pub here: &'a dyn Host,
    /// Files and directories; none: the host's own configuration.
    pub arguments: &'a [PathBuf],
    /// Where relative paths begin.
    pub cwd: PathBuf,
    /// Standard input, if `-` is an argument.
    pub stdin: Option<Vec<u8>>,
    /// A release in place of the one that is installed.
    pub packed: Option<Packed>,
}

/// The result of a check.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Lint {
    pub schema: String,
    /// The version for which the files were checked.
    pub rabbitmq: String,
    /// true: the broker boots with each of the configurations; false: with at least one it does not; null: see `unknown`
    pub boots: Option<bool>,
    /// In the order of the arguments and lines.
    pub problems: Vec<Problem>,
    /// Effective settings by key, of one configuration after the other; secret values are struck out.
    pub settings: Vec<Setting>,
    /// What could not be decided, and on which `boots` may depend.
    pub unknown: Vec<String>,
    pub counts: Counts,
    /// What was judged together.
    pub configurations: Vec<Judged>,
    /// Something could not be looked at although it is there.
    #[serde(skip)]
    pub incomplete: bool,
}

/// Problems by severity.
#[derive(Debug, Clone, Default, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Counts {
    pub error: u32,
    pub warning: u32,
    pub note: u32,
}

/// One problem.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Problem {
    /// As it was given; of a file that was found in a directory, the directory as it was given and its name.
    pub file: String,
    /// Counted from 1, as columns are; null: the whole file
    pub line: Option<u32>,
    pub column: Option<u32>,
    pub key: Option<String>,
    /// A stable name: unknown-key, bad-value, syntax, …
    pub code: String,
    /// The broker does not boot with it.
    pub fatal: bool,
    /// error: fatal
    pub severity: Severity,
    pub message: String,
    /// What was probably meant.
    pub suggestion: Option<String>,
    /// The line as it stands in the file, secrets struck out; may be empty.
    pub text: String,
}

/// One effective setting of the rabbitmq.conf format.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Setting {
    pub key: String,
    pub value: String,
    pub file: String,
    pub line: Option<u32>,
    /// Places of the same key that this one hides: `file:line`.
    pub overrides: Vec<String>,
}

/// Files that make up one configuration.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Judged {
    /// The arguments that it comes from.
    pub name: String,
    pub boots: Option<bool>,
    /// The files that the broker reads, in its order.
    pub files: Vec<String>,
}

/// Why nothing could be checked: wrong usage.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error("which RabbitMQ? None is installed here: name the version with --rabbitmq VERSION")]
    NoVersion,
    #[error("which RabbitMQ? The installed one could not be seen ({0}): name the version with --rabbitmq VERSION")]
    Unseen(String),
}

/// Checks what the request names.
pub fn check(request: Request<'_>) -> Result<Lint, Error> {
    let configurations = match request.arguments {
        [] => vec![arguments::home()],
        all => arguments::configurations(request.here, &request.cwd, all)?,
    };
    let install = os::collect_install(request.host);
    let rabbitmq = match (&request.packed, &install) {
        (Some(packed), _) => packed.release.version.clone(),
        (None, Fact::Known(Some(install))) => install.version.clone(),
        (None, Fact::Known(None)) => return Err(Error::NoVersion),
        (None, Fact::Unknown(why)) => return Err(Error::Unseen(why.clone())),
    };
    let stdin = request.stdin.clone().map(|bytes| (request.cwd.join("-"), Some(bytes)));
    let here = Overlay::new(request.here, stdin.into_iter().collect());
    let checker = Checker::new(&request, &here, install);
    let mut lint = Lint {
        schema: SCHEMA.to_owned(),
        rabbitmq,
        boots: None,
        problems: Vec::new(),
        settings: Vec::new(),
        unknown: Vec::new(),
        counts: Counts::default(),
        configurations: Vec::new(),
        incomplete: false,
    };
    for configuration in &configurations {
        checker.add(configuration, &mut lint);
    }
    lint.conclude();
    Ok(lint)
}

impl Lint {
    fn conclude(&mut self) {
        let mut seen = BTreeSet::new();
        let identity = |p: &Problem| (p.file.clone(), p.line, p.column, p.code.clone(), p.message.clone());
        // A file that two configurations include is wrong once.
        self.problems.retain(|p| seen.insert(identity(p)));
        let mut known = BTreeSet::new();
        self.unknown.retain(|why| known.insert(why.clone()));
        let count = |severity| u32::try_from(self.problems.iter().filter(|p| p.severity == severity).count()).unwrap_or(u32::MAX);
        self.counts = Counts { error: count(Severity::Error), warning: count(Severity::Warning), note: count(Severity::Note) };
        let all: Vec<Option<bool>> = self.configurations.iter().map(|c| c.boots).collect();
        self.boots = match all.contains(&Some(false)) {
            true => Some(false),
            false => all.iter().all(|b| *b == Some(true)).then_some(true),
        };
    }
}

/// What all configurations are checked against.
struct Checker<'a> {
    host: &'a dyn Host,
    here: &'a dyn Host,
    /// Files and host are on the same machine.
    same: bool,
    packed: Option<&'a Packed>,
    install: Fact<Option<Install>>,
    user: Option<User>,
    unit: Fact<Option<Unit>>,
    net: Net,
}

/// What a unit may say about where files are; it does not speak about files that are elsewhere.
const PLACES: [&str; 7] = [
    "CONF_ENV_FILE",
    "CONFIG_FILE",
    "CONFIG_FILES",
    "ADVANCED_CONFIG_FILE",
    "ENABLED_PLUGINS_FILE",
    "ENABLED_PLUGINS",
    "SYS_PREFIX",
];

impl<'a> Checker<'a> {
    fn new(request: &'a Request<'a>, here: &'a dyn Host, install: Fact<Option<Install>>) -> Self {
        // Addresses and the unit of a machine without RabbitMQ say nothing about where the files will be used.
        let (unit, net) = match &install {
            Fact::Known(Some(_)) => (unit::environment(request.host), net::collect(request.host)),
            _ => (Fact::Known(None), Net::blank("RabbitMQ is not installed here")),
        };
        let user = match &install {
            Fact::Known(Some(install)) => User::of(request.host, install).known().cloned(),
            _ => None,
        };
        Checker {
            host: request.host,
            here,
            same: std::ptr::addr_eq(request.host, request.here),
            packed: request.packed.as_ref(),
            install,
            user,
            unit,
            net,
        }
    }

    /// Checks one configuration and puts what is found into the result.
    fn add(&self, configuration: &Configuration, lint: &mut Lint) {
        let home = self.is_home(configuration);
        let in_place = home || self.prepared(configuration);
        let mut staged = self.staged(configuration, in_place);
        let unit = if home { self.unit.clone() } else { elsewhere(&self.unit) };
        let (env, named) = match &configuration.content {
            Content::Whole => (env::collect(&staged, &unit), None),
            Content::Named(named) => (with_plugins(env::with_file(&staged, &unit, named.env.as_deref()), named), Some(named)),
        };
        let prefix = env.vars.known().and_then(|vars| vars.get("SYS_PREFIX")?.value.known());
        if let (Some(prefix), None, false) = (prefix, named, home) {
            staged.stands_for_too(PathBuf::from(format!("{prefix}{}", arguments::HOME)));
        }
        let broker = Broker { install: &self.install, packed: self.packed, in_place: in_place && self.user.is_some() };
        let plugins = plugins::collect_for(&staged, broker, &env);
        let paths = named.map(|n| n.paths(&configuration.dir));
        let (conf, mut unknown) = conf::judge(&staged, broker, paths.as_ref(), &env, &plugins, &self.net);
        unknown.extend(env.problems.why().map(str::to_owned));
        let found = Found { host: &staged, env: &env, plugins: &plugins, conf: &conf, named };
        let (problems, unread) = (found.problems(), found.unread());
        let fatal = problems.iter().any(|p| p.fatal);
        let names = Names(&configuration.shown);
        lint.configurations.push(Judged {
            name: configuration.name.clone(),
            boots: if fatal { Some(false) } else { unknown.is_empty().then_some(true) },
            files: found.files().map(|f| names.path(&f)).collect(),
        });
        lint.settings.extend(settings(&conf, &names));
        lint.problems.extend(problems.into_iter().map(|p| names.problem(p)));
        lint.incomplete |= !fatal && (unread || staged.misses().iter().any(|miss| matters(miss, &unknown)));
        lint.unknown.extend(unknown.iter().map(|why| names.text(why)));
    }

    /// The files are those that the broker of this host reads.
    fn is_home(&self, configuration: &Configuration) -> bool {
        configuration.dir == Path::new(arguments::HOME) && self.same
    }

    /// The host with the files in their place.
    fn staged(&self, configuration: &Configuration, in_place: bool) -> Staged<'_> {
        let base = if self.same { self.here } else { self.host };
        let home = Path::new(arguments::HOME);
        let stands_for = match configuration.content {
            Content::Whole => home,
            Content::Named(_) => &configuration.dir,
        };
        let mut staged = Staged::new(base, self.here, &configuration.dir, stands_for);
        if let Some(user) = &self.user {
            staged = staged.for_reader(|meta| user.allowed(meta, READ));
        }
        if !in_place {
            // A certificate that is to be installed with the files may lie beside them.
            staged.stands_for_too(home.to_owned());
            staged.modes_do_not_count();
        }
        staged
    }

    /// A directory that root or the broker's user has prepared: its owners and modes are meant.
    fn prepared(&self, configuration: &Configuration) -> bool {
        let broker = self.user.as_ref().map(|user| user.uid);
        configuration.content == Content::Whole
            && self.here.stat(&configuration.dir, true).is_ok_and(|meta| meta.uid == 0 || Some(meta.uid) == broker)
    }
}

/// Whether something undecided rests on it.
fn matters(miss: &Miss, unknown: &[String]) -> bool {
    let text = miss.to_string();
    unknown.iter().any(|why| why.contains(&text))
}

fn elsewhere(unit: &Fact<Option<Unit>>) -> Fact<Option<Unit>> {
    let about_places = |assignment: &String| {
        let name = assignment.split('=').next().unwrap_or_default();
        PLACES.contains(&name.strip_prefix("RABBITMQ_").unwrap_or(name))
    };
    let mut unit = unit.clone();
    if let Fact::Known(Some(unit)) = &mut unit
        && let Fact::Known(environment) = &mut unit.environment
    {
        environment.retain(|assignment| !about_places(assignment));
    }
    unit
}

/// Plugins come from the file that was named, or there are none.
fn with_plugins(mut env: Env, named: &Named) -> Env {
    if let Fact::Known(vars) = &mut env.vars {
        let (name, value) = match &named.plugins {
            Some(file) => ("ENABLED_PLUGINS_FILE", file.clone()),
            None => ("ENABLED_PLUGINS", String::new()),
        };
        vars.insert(name.to_owned(), Var { value: Fact::Known(value), at: None });
    }
    env
}

/// What was found out about one configuration, in the names of the inside.
struct Found<'a> {
    host: &'a dyn Host,
    env: &'a Env,
    plugins: &'a Plugins,
    conf: &'a Conf,
    named: Option<&'a Named>,
}

impl Found<'_> {
    fn problems(&self) -> Vec<Problem> {
        let mut problems: Vec<Problem> =
            self.env.problems.known().into_iter().flatten().take(MANY).map(|p| self.of_env(p)).collect();
        problems.extend(self.conf.problems.known().into_iter().flatten().filter(|p| self.counts(p)).map(of_conf));
        problems.extend(self.unknown_plugins());
        problems.extend(self.passed_over());
        problems
    }

    /// Whether what any of the files says is not known.
    fn unread(&self) -> bool {
        let Conf { files, settings, .. } = self.conf;
        files.why().or(settings.why()).or(self.env.problems.why()).or(self.plugins.enabled.why()).is_some()
    }

    /// Which plugins are enabled is not known where their file was not named.
    fn counts(&self, problem: &conf::Problem) -> bool {
        problem.code != "needs-plugin" || self.named.is_none_or(|named| named.plugins.is_some())
    }

    fn of_env(&self, problem: &env::EnvProblem) -> Problem {
        Problem {
            key: None,
            code: problem.code.clone(),
            fatal: problem.fatal,
            severity: if problem.fatal { Severity::Error } else { Severity::Warning },
            message: problem.text.clone(),
            suggestion: None,
            text: conf::line_of(self.host, &problem.at),
            ..blank(&problem.at)
        }
    }

    /// The broker starts without them and says nothing.
    fn unknown_plugins(&self) -> Vec<Problem> {
        let missing: BTreeSet<&String> = self.plugins.missing.known().into_iter().flatten().collect();
        if missing.is_empty() {
            return Vec::new();
        }
        let places = plugins::places(self.host, &self.plugins.file);
        let problem = |plugin: &&String| {
            let at = places.get(*plugin)?;
            let near = self.plugins.available.known().into_iter().flatten().filter(|a| a.starts_with("rabbitmq_"));
            let near = near.map(|a| (distance(plugin, a, 4), a)).filter(|(d, _)| *d <= 4).min();
            Some(Problem {
                key: Some((*plugin).clone()),
                code: "unknown-plugin".to_owned(),
                message: format!("there is no plugin `{plugin}`: the broker starts without it and says nothing"),
                suggestion: near.map(|(_, name)| name.clone()),
                text: conf::line_of(self.host, at),
                ..blank(at)
            })
        };
        let mut problems: Vec<Problem> = missing.iter().take(MANY).filter_map(problem).collect();
        problems.sort_by_key(|p| (p.line, p.column));
        problems
    }

    /// Files that the broker would not look at: what is no regular file, and names that mean nothing to it.
    fn passed_over(&self) -> Vec<Problem> {
        let Some(named) = self.named else {
            let usual = ["rabbitmq.conf", "rabbitmq.config", "advanced.config"].map(|n| format!("{}/{n}", arguments::HOME));
            let odd = |path: &String| self.host.stat(path.as_ref(), true).is_ok_and(|meta| meta.kind != Kind::File);
            return usual.iter().filter(|path| odd(path)).map(|path| ignored(path, "is no regular file")).collect();
        };
        let all = named.main.iter().chain(&named.fragments).chain(&named.advanced);
        let known: Vec<&String> = self.conf.files.known().into_iter().flatten().map(|f| &f.path).collect();
        let unseen = all.filter(|file| self.conf.files.known().is_some() && !known.contains(file));
        unseen.map(|file| ignored(file, "is no name that it looks for")).collect()
    }

    /// The files that count.
    fn files(&self) -> impl Iterator<Item = String> {
        let env = (self.env.present == Fact::Known(true)).then(|| self.env.file.clone());
        let conf = self.conf.files.known().into_iter().flatten().filter(|f| f.used).map(|f| f.path.clone());
        let named = self.named.is_none_or(|named| named.plugins.is_some());
        let plugins = (named && self.host.stat(self.plugins.file.as_ref(), true).is_ok()).then(|| self.plugins.file.clone());
        env.into_iter().chain(conf).chain(plugins)
    }
}

fn ignored(path: &str, why: &str) -> Problem {
    Problem {
        code: "ignored-file".to_owned(),
        message: format!("the broker does not read {path}: it {why}"),
        ..blank(&Where { file: path.to_owned(), line: None, column: None })
    }
}

/// A warning at a place.
fn blank(at: &Where) -> Problem {
    Problem {
        file: at.file.clone(),
        line: at.line,
        column: at.column,
        key: None,
        code: String::new(),
        fatal: false,
        severity: Severity::Warning,
        message: String::new(),
        suggestion: None,
        text: String::new(),
    }
}

fn of_conf(problem: &conf::Problem) -> Problem {
    Problem {
        key: problem.key.clone(),
        code: problem.code.clone(),
        fatal: problem.fatal,
        severity: match problem.code.as_str() {
            _ if problem.fatal => Severity::Error,
            // As the audit's rules have it.
            "duplicate" | "needs-plugin" => Severity::Note,
            _ => Severity::Warning,
        },
        message: problem.message.clone(),
        suggestion: problem.suggestion.clone(),
        text: problem.text.clone(),
        ..blank(&problem.at)
    }
}

fn settings(conf: &Conf, names: &Names<'_>) -> Vec<Setting> {
    let known: Option<&BTreeMap<String, conf::Setting>> = conf.settings.known();
    let place = |at: &Where| at.line.map_or(names.path(&at.file), |line| format!("{}:{line}", names.path(&at.file)));
    let setting = |(key, setting): (&String, &conf::Setting)| Setting {
        key: key.clone(),
        value: setting.value.clone(),
        file: names.path(&setting.at.file),
        line: setting.at.line,
        overrides: setting.overrides.iter().map(place).collect(),
    };
    known.into_iter().flatten().map(setting).collect()
}

/// From the paths of the inside to those that the user gave.
struct Names<'a>(&'a [(String, String)]);

impl Names<'_> {
    fn path(&self, path: &str) -> String {
        for (inside, given) in self.0 {
            if path == inside {
                return given.clone();
            }
            if let Some(rest) = path.strip_prefix(inside.as_str()).filter(|_| inside.ends_with('/')) {
                return format!("{given}{rest}");
            }
        }
        path.to_owned()
    }

    /// The same for paths in a sentence.
    fn text(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, (inside, given)| text.replace(inside.as_str(), given))
    }

    fn problem(&self, problem: Problem) -> Problem {
        Problem { file: self.path(&problem.file), message: self.text(&problem.message), ..problem }
    }
}

//! From the paths of the command line to the configurations that they make up.

use crate::facts::conf::files::Paths;
use crate::host::{Host, Kind, Miss};
use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

/// Where RabbitMQ's configuration is.
pub const HOME: &str = "/etc/rabbitmq";

/// Stands for standard input, as a rabbitmq.conf.
const STDIN: &str = "-";

/// What is judged together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Configuration {
    /// The directory that is, or stands for, /etc/rabbitmq.
    pub dir: PathBuf,
    pub content: Content,
    /// How the report names it.
    pub name: String,
    /// Paths as they are known inside, and as they were given; a directory ends in `/`.
    pub shown: Vec<(String, String)>,
}

/// What of the directory counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// Whatever the broker finds there.
    Whole,
    /// These files and what they include.
    Named(Named),
}

/// Files by what they are; absolute paths.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Named {
    /// rabbitmq.conf or rabbitmq.config, or one file of either kind under another name.
    pub main: BTreeSet<String>,
    pub fragments: BTreeSet<String>,
    pub advanced: Option<String>,
    pub env: Option<String>,
    pub plugins: Option<String>,
    /// `main` comes from standard input.
    pub stdin: bool,
}

impl Named {
    /// Where the broker would be told to look.
    pub fn paths(&self, dir: &Path) -> Paths {
        let in_dir = |name: &str| dir.join(name).display().to_string();
        let usual = self.main.iter().all(|m| [in_dir("rabbitmq.conf"), in_dir("rabbitmq.config")].contains(m));
        let other = self.main.first().filter(|_| !usual);
        let only = self.main.iter().chain(&self.fragments).chain(&self.advanced).cloned().collect();
        Paths {
            main: other.cloned().unwrap_or_else(|| in_dir("rabbitmq")),
            more: in_dir("conf.d/*.conf"),
            advanced: self.advanced.clone().unwrap_or_else(|| in_dir("advanced.config")),
            only: Some(only),
        }
    }
}

/// A path that cannot be an argument of a check; one line for the user.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {why}")]
pub struct Refused {
    pub path: String,
    pub why: String,
}

/// The configurations that the arguments make up, in their order. `here` has the files, `cwd` is where relative paths begin.
pub fn configurations(here: &dyn Host, cwd: &Path, arguments: &[PathBuf]) -> Result<Vec<Configuration>, Refused> {
    let mut sorter = Sorter { here, cwd, found: Vec::new() };
    for argument in arguments {
        sorter.argument(&argument.display().to_string())?;
    }
    Ok(sorter.found)
}

/// The host's own configuration.
pub fn home() -> Configuration {
    Configuration { dir: HOME.into(), content: Content::Whole, name: HOME.to_owned(), shown: Vec::new() }
}

struct Sorter<'a> {
    here: &'a dyn Host,
    cwd: &'a Path,
    found: Vec<Configuration>,
}

/// What a file is by its name.
enum Part {
    Main,
    /// A rabbitmq.conf under another name: a configuration of its own.
    Other,
    Fragment,
    Advanced,
    Env,
    Plugins,
}

impl Sorter<'_> {
    fn argument(&mut self, given: &str) -> Result<(), Refused> {
        let refused = |why: &str| Refused { path: given.to_owned(), why: why.to_owned() };
        let path = self.absolute(given);
        if given == STDIN {
            let main = BTreeSet::from([path.display().to_string()]);
            let named = Named { main, stdin: true, ..Named::default() };
            self.add(self.cwd.to_owned(), named, "standard input", &[(path, given.to_owned())]);
            return Ok(());
        }
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let part = part(&name, path.parent());
        match self.here.stat(&path, true).map(|meta| meta.kind) {
            Ok(Kind::Dir) if part.is_some() => Err(refused("a directory, but its name is that of a file")),
            Ok(Kind::Dir) if name == "conf.d" => self.fragments(given, &path),
            Ok(Kind::Dir) => {
                self.directory(given, path);
                Ok(())
            }
            Ok(Kind::File) => {
                // As the broker does with a file of another name that RABBITMQ_CONFIG_FILE points to: its content tells the format.
                self.file(given, path, part.unwrap_or(Part::Other));
                Ok(())
            }
            Ok(_) => Err(refused("neither a regular file nor a directory")),
            Err(Miss::Absent { .. }) => Err(refused("no such file or directory")),
            // What can be said about it is said when it is read.
            Err(_) if part.is_some() => {
                part.into_iter().for_each(|part| self.file(given, path.clone(), part));
                Ok(())
            }
            Err(miss) => Err(refused(&miss.to_string())),
        }
    }

    fn absolute(&self, given: &str) -> PathBuf {
        let joined = self.cwd.join(given);
        joined.components().filter(|c| *c != Component::CurDir).collect()
    }

    fn directory(&mut self, given: &str, dir: PathBuf) {
        let shown = if given.ends_with('/') { given.to_owned() } else { format!("{given}/") };
        let shown = if given == "." { String::new() } else { shown };
        self.found.push(Configuration {
            shown: vec![(format!("{HOME}/"), shown.clone()), (format!("{}/", dir.display()), shown)],
            dir,
            content: Content::Whole,
            name: given.to_owned(),
        });
    }

    /// All of a conf.d.
    fn fragments(&mut self, given: &str, dir: &Path) -> Result<(), Refused> {
        let refused = |why: String| Refused { path: given.to_owned(), why };
        let names = self.here.list(dir).map_err(|miss| refused(miss.to_string()))?;
        let names: Vec<String> = names.into_iter().filter(|n| n.ends_with(".conf") && !n.starts_with('.')).collect();
        if names.is_empty() {
            return Err(refused("no *.conf file in it".to_owned()));
        }
        let fragments = names.iter().map(|n| dir.join(n).display().to_string()).collect();
        let shown: Vec<(PathBuf, String)> =
            names.iter().map(|n| (dir.join(n), format!("{}/{n}", given.trim_end_matches('/')))).collect();
        let home = dir.parent().unwrap_or(dir).to_owned();
        self.add(home, Named { fragments, ..Named::default() }, given, &shown);
        Ok(())
    }

    fn file(&mut self, given: &str, path: PathBuf, part: Part) {
        let text = path.display().to_string();
        let parent = path.parent().unwrap_or(Path::new("/"));
        let dir = if matches!(part, Part::Fragment) { parent.parent().unwrap_or(parent) } else { parent }.to_owned();
        let alone = matches!(part, Part::Other);
        let mut named = Named::default();
        match part {
            Part::Main | Part::Other => drop(named.main.insert(text)),
            Part::Fragment => drop(named.fragments.insert(text)),
            Part::Advanced => named.advanced = Some(text),
            Part::Env => named.env = Some(text),
            Part::Plugins => named.plugins = Some(text),
        }
        let shown = [(path, given.to_owned())];
        let mut together = self.found.iter_mut().filter(|c| c.dir == dir && !alone);
        let fits = together.find_map(|c| match &mut c.content {
            Content::Named(other) if other.takes(&named) => Some((other, &mut c.shown, &mut c.name)),
            _ => None,
        });
        match fits {
            Some((other, paths, name)) => {
                other.take(named);
                paths.extend(shown.iter().map(|(path, given)| (path.display().to_string(), given.clone())));
                name.push_str(&format!(", {given}"));
            }
            None => self.add(dir, named, given, &shown),
        }
    }

    fn add(&mut self, dir: PathBuf, named: Named, name: &str, shown: &[(PathBuf, String)]) {
        // What a file includes is named as its neighbour.
        let neighbours = shown.iter().filter_map(|(path, given)| {
            let file = path.file_name()?.to_string_lossy().into_owned();
            Some((format!("{}/", path.parent()?.display()), given.strip_suffix(&file)?.to_owned()))
        });
        let files = shown.iter().map(|(path, given)| (path.display().to_string(), given.clone()));
        let shown = files.chain(neighbours).collect();
        self.found.push(Configuration { dir, content: Content::Named(named), name: name.to_owned(), shown });
    }
}

impl Named {
    /// Whether both can be parts of one configuration.
    fn takes(&self, other: &Named) -> bool {
        let usual = |m: &String| m.ends_with("/rabbitmq.conf") || m.ends_with("/rabbitmq.config");
        let clash = |a: &Option<String>, b: &Option<String>| a.is_some() && b.is_some() && a != b;
        !self.stdin && self.main.iter().all(usual) && !clash(&self.advanced, &other.advanced)
    }

    fn take(&mut self, other: Named) {
        self.main.extend(other.main);
        self.fragments.extend(other.fragments);
        self.advanced = other.advanced.or(self.advanced.take());
        self.env = other.env.or(self.env.take());
        self.plugins = other.plugins.or(self.plugins.take());
    }
}

fn part(name: &str, parent: Option<&Path>) -> Option<Part> {
    let in_conf_d = parent.is_some_and(|p| p.file_name().is_some_and(|n| n == "conf.d"));
    match name {
        "enabled_plugins" => Some(Part::Plugins),
        "rabbitmq-env.conf" => Some(Part::Env),
        "rabbitmq.conf" if !in_conf_d => Some(Part::Main),
        "rabbitmq.config" => Some(Part::Main),
        _ if name.ends_with(".conf") => Some(if in_conf_d { Part::Fragment } else { Part::Other }),
        _ if name.ends_with(".config") => Some(Part::Advanced),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::Fake;

    fn host() -> Fake {
        let files = ["rabbitmq.conf", "advanced.config", "conf.d/10-a.conf", "conf.d/20-b.conf", "prod.conf", "x.txt"];
        files.iter().fold(Fake::new(), |host, name| host.file(format!("/w/{name}"), "")).file("/v/rabbitmq.conf", "")
    }

    fn sorted(arguments: &[&str]) -> Result<Vec<String>, Refused> {
        let arguments: Vec<PathBuf> = arguments.iter().map(PathBuf::from).collect();
        let all = configurations(&host(), Path::new("/w"), &arguments)?;
        let text = |c: Configuration| format!("{}: {}", c.dir.display(), c.name);
        Ok(all.into_iter().map(text).collect())
    }

    #[test]
    fn files_of_one_directory_belong_together() {
        assert_eq!(
            sorted(&["rabbitmq.conf", "conf.d/10-a.conf", "/v/rabbitmq.conf", "advanced.config"]).unwrap(),
            ["/w: rabbitmq.conf, conf.d/10-a.conf, advanced.config", "/v: /v/rabbitmq.conf"]
        );
        assert_eq!(sorted(&["prod.conf", "rabbitmq.conf"]).unwrap(), ["/w: prod.conf", "/w: rabbitmq.conf"]);
        assert_eq!(sorted(&["conf.d", "/v", "-"]).unwrap(), ["/w: conf.d", "/v: /v", "/w: standard input"]);
    }

    #[test]
    fn what_cannot_be_checked_is_refused() {
        let why = |argument: &str| sorted(&[argument]).unwrap_err().to_string();
        assert_eq!(why("none.conf"), "none.conf: no such file or directory");
        assert_eq!(sorted(&["x.txt"]).unwrap(), ["/w: x.txt"], "its content tells what it is");
    }
}

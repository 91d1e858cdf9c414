//! Which configuration files the broker reads, and in what order.

use super::ConfFile;
use super::access::{self, Access, User};
use super::variable;
use crate::facts::{Fact, env::Env};
use crate::formats::erlang::{self, Dialect, Reader};
use crate::host::{Got, Host, Kind, MAX_CONF, Miss, optional};
use std::collections::BTreeSet;
use std::path::Path;

/// How a file is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// rabbitmq.conf
    Cuttlefish,
    /// Erlang terms that are put over everything else: advanced.config, or the classic rabbitmq.config in its place.
    Erlang,
}

/// A configuration file that is there.
#[derive(Debug, Clone)]
pub struct Found {
    pub path: String,
    pub format: Format,
    /// Why the broker passes it over; None: it reads it.
    pub ignored: Option<String>,
    pub fact: ConfFile,
}

/// Where the files are looked for.
#[derive(Debug, Clone, Default)]
pub struct Paths {
    /// Without extension, unless the environment names one.
    pub main: String,
    /// A directory or a pattern.
    pub more: String,
    pub advanced: String,
    /// Nothing else counts as being there, whatever is.
    pub only: Option<BTreeSet<String>>,
}

/// Most files that one configuration may have; RabbitMQ's own limit is patience.
pub const MAX_FILES: usize = 1000;

impl Paths {
    /// Where the environment says that they are.
    pub fn of(env: &Env) -> Fact<Paths> {
        let get = |name: &str, default: &str| -> Fact<String> {
            let prefix = match variable(env, "SYS_PREFIX") {
                Fact::Known(prefix) => prefix.unwrap_or_default(),
                Fact::Unknown(why) => return Fact::Unknown(why),
            };
            variable(env, name).map(|v| v.unwrap_or_else(|| format!("{prefix}/etc/rabbitmq/{default}")))
        };
        match (
            get("CONFIG_FILE", "rabbitmq"),
            get("CONFIG_FILES", "conf.d/*.conf"),
            get("ADVANCED_CONFIG_FILE", "advanced.config"),
        ) {
            (Fact::Known(main), Fact::Known(more), Fact::Known(advanced)) => {
                Fact::Known(Paths { main, more, advanced, only: None })
            }
            (Fact::Unknown(why), ..) | (_, Fact::Unknown(why), _) | (.., Fact::Unknown(why)) => Fact::Unknown(why),
        }
    }
}

/// All configuration files, the used ones in the order in which they are read. `user` is the broker's.
pub fn find(host: &dyn Host, env: &Env, user: &Fact<User>) -> Fact<Vec<Found>> {
    match Paths::of(env) {
        Fact::Known(paths) => find_at(host, &paths, user),
        Fact::Unknown(why) => Fact::Unknown(why),
    }
}

/// The same where somebody else says where they are.
pub fn find_at(host: &dyn Host, paths: &Paths, user: &Fact<User>) -> Fact<Vec<Found>> {
    Search { host, user, only: paths.only.as_ref() }.all(paths).into()
}

struct Search<'a> {
    host: &'a dyn Host,
    user: &'a Fact<User>,
    only: Option<&'a BTreeSet<String>>,
}

impl Search<'_> {
    fn all(&self, paths: &Paths) -> Got<Vec<Found>> {
        let mut found = Vec::new();
        let main = self.main(&paths.main, &mut found)?;
        let (dir, names) = self.more(&paths.more)?;
        let closed = self.unlisted(&dir);
        for path in names {
            let file = self.file(&path, Format::Cuttlefish)?;
            found.extend(file.map(|mut file| {
                closed.iter().for_each(|why| file.pass_over(why.clone()));
                file
            }));
        }
        for candidate in [paths.advanced.clone(), format!("{}.config", paths.advanced)] {
            if let Some(mut file) = self.file(&candidate, Format::Erlang)? {
                if let Some(Found { path, format: Format::Erlang, ignored: None, .. }) = &main {
                    file.pass_over(format!("{path} takes its place"));
                }
                found.push(file);
                break;
            }
        }
        // A classic rabbitmq.config is put over the rest, like an advanced.config.
        match main {
            Some(file) if file.format == Format::Erlang => found.push(file),
            Some(file) => found.insert(0, file),
            None => {}
        }
        Ok(found)
    }

    /// The main file; `.config` wins over `.conf`, which is then passed over and goes to `others`.
    fn main(&self, base: &str, others: &mut Vec<Found>) -> Got<Option<Found>> {
        if let Some(exact) = self.file(base, Format::Cuttlefish)? {
            let format = match Path::new(base).extension().and_then(|e| e.to_str()) {
                Some("conf") => Format::Cuttlefish,
                Some("config") => Format::Erlang,
                _ => self.sniff(base)?,
            };
            return self.file(base, format).map(|f| f.or(Some(exact)));
        }
        let classic = self.file(&format!("{base}.config"), Format::Erlang)?;
        let new = self.file(&format!("{base}.conf"), Format::Cuttlefish)?;
        match (classic, new) {
            (Some(classic), Some(mut new)) if classic.ignored.is_none() => {
                new.pass_over(format!("{} is there too and wins", classic.path));
                others.push(new);
                Ok(Some(classic))
            }
            (classic, new) => Ok(new.or(classic)),
        }
    }

    /// A main file without a telling name: Erlang if it holds terms, else the rabbitmq.conf format.
    fn sniff(&self, path: &str) -> Got<Format> {
        let bytes = self.host.read(Path::new(path), MAX_CONF)?;
        match erlang::read(&bytes, Dialect { reader: Reader::Expression, otp: None }) {
            Ok(_) => Ok(Format::Erlang),
            Err(error) if error.certain => Ok(Format::Cuttlefish),
            Err(error) => Err(Miss::failed(path, error)),
        }
    }

    /// conf.d: a pattern for the file names, or a directory of which every regular file is read; hidden files count. The directory
    /// and the paths, sorted.
    fn more(&self, pattern: &str) -> Got<(String, Vec<String>)> {
        let is_dir = optional(self.host.stat(Path::new(pattern), true))?.is_some_and(|m| m.kind == Kind::Dir);
        let (dir, names) = match (is_dir, pattern.rsplit_once('/')) {
            (true, _) => (pattern.trim_end_matches('/'), "*"),
            (false, Some((dir, names))) => (dir, names),
            (false, None) => return Ok(Default::default()),
        };
        let listed = optional(self.host.list(Path::new(dir)))?.unwrap_or_default();
        let files: Vec<String> = listed
            .into_iter()
            .filter(|n| fits(n, names))
            .map(|n| format!("{dir}/{n}"))
            .filter(|path| self.wanted(path))
            .collect();
        if files.len() > MAX_FILES {
            return Err(Miss::TooBig { what: format!("{dir}, configuration files in it"), limit: MAX_FILES as u64 });
        }
        Ok((dir.to_owned(), files))
    }

    /// Why the broker does not see what is in a directory, if so: it lists it, and takes a refusal for an empty one.
    fn unlisted(&self, dir: &str) -> Option<String> {
        let user = self.user.known()?;
        let refused = matches!(access::may(self.host, user, Path::new(dir), access::READ), Ok(Access::No(_)));
        refused.then(|| format!("the broker's user may not list {dir}"))
    }

    fn wanted(&self, path: &str) -> bool {
        self.only.is_none_or(|only| only.contains(path))
    }

    /// A regular file, or None.
    fn file(&self, path: &str, format: Format) -> Got<Option<Found>> {
        if !self.wanted(path) {
            return Ok(None);
        }
        let Some(meta) = optional(self.host.stat(Path::new(path), true))? else { return Ok(None) };
        if meta.kind != Kind::File {
            return Ok(None);
        }
        let access = match self.user {
            Fact::Known(user) => access::may(self.host, user, Path::new(path), access::READ).into(),
            Fact::Unknown(why) => Fact::Unknown(why.clone()),
        };
        let fact = ConfFile {
            path: path.to_owned(),
            format: match format {
                Format::Cuttlefish => "cuttlefish".into(),
                Format::Erlang => if path.ends_with("advanced.config") { "advanced" } else { "erlang" }.into(),
            },
            used: true,
            why_ignored: None,
            mtime: meta.mtime,
            mode: meta.mode.into(),
            uid: meta.uid.into(),
            gid: meta.gid.into(),
            readable_by_broker: access.as_ref().map(|a| *a == Access::Yes),
            has_secret: false,
        };
        let mut found = Found { path: path.to_owned(), format, ignored: None, fact };
        // A directory that the broker cannot enter hides its files from it; a file that it cannot read stops it.
        if let Fact::Known(Access::Hidden(by)) = &access {
            found.pass_over(format!("the broker's user may not enter {}", by.display()));
        }
        Ok(Some(found))
    }
}

impl Found {
    fn pass_over(&mut self, why: String) {
        self.fact.used = false;
        self.fact.why_ignored = Some(why.clone());
        self.ignored = Some(why);
    }
}

/// Shell patterns with `*` and `?`.
pub fn fits(name: &str, pattern: &str) -> bool {
    let mut pattern_chars = pattern.chars();
    match pattern_chars.next() {
        None => name.is_empty(),
        Some('*') => {
            let rest = pattern_chars.as_str();
            name.char_indices().map(|(i, _)| i).chain([name.len()]).any(|i| name.get(i..).is_some_and(|tail| fits(tail, rest)))
        }
        Some(c) => {
            let mut chars = name.chars();
            chars.next().is_some_and(|n| c == '?' || c == n) && fits(chars.as_str(), pattern_chars.as_str())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::conf::tests::environment;
    use crate::host::fake::Fake;

    fn used(host: &Fake, vars: &[(&str, &str)]) -> Vec<String> {
        let user = Fact::Known(User { uid: 104, gids: vec![109] });
        let all = find(host, &environment(vars), &user).known().cloned().unwrap();
        all.iter()
            .map(|f| format!("{}{}", if f.ignored.is_some() { "-" } else { "" }, f.path.replace("/etc/rabbitmq/", "")))
            .collect()
    }

    #[test]
    fn order_and_precedence() {
        let host = Fake::new()
            .file("/etc/rabbitmq/rabbitmq.conf", "")
            .file("/etc/rabbitmq/conf.d/10-b.conf", "")
            .file("/etc/rabbitmq/conf.d/09-z.conf", "")
            .file("/etc/rabbitmq/conf.d/notes.txt", "")
            .file("/etc/rabbitmq/conf.d/.hidden.conf", "")
            .file("/etc/rabbitmq/advanced.config", "");
        assert_eq!(
            used(&host, &[]),
            ["rabbitmq.conf", "conf.d/.hidden.conf", "conf.d/09-z.conf", "conf.d/10-b.conf", "advanced.config"]
        );
        let host = host.file("/etc/rabbitmq/rabbitmq.config", "[].");
        assert_eq!(
            used(&host, &[]),
            [
                "-rabbitmq.conf",
                "conf.d/.hidden.conf",
                "conf.d/09-z.conf",
                "conf.d/10-b.conf",
                "-advanced.config",
                "rabbitmq.config"
            ]
        );
    }

    #[test]
    fn the_environment_moves_the_files() {
        let host = Fake::new()
            .file("/x/main", "[].")
            .file("/x/main.conf", "")
            .file("/x/d/a", "")
            .file("/x/d/b.conf", "")
            .file("/x/adv.config", "");
        assert_eq!(used(&host, &[("CONFIG_FILE", "/x/main"), ("CONFIG_FILES", "/x/d")]), ["/x/d/a", "/x/d/b.conf", "/x/main"]);
        assert_eq!(
            used(&host, &[("CONFIG_FILE", "/x/main.conf"), ("ADVANCED_CONFIG_FILE", "/x/adv")]),
            ["/x/main.conf", "/x/adv.config"]
        );
        assert_eq!(used(&host, &[]), Vec::<String>::new());
    }

    #[test]
    fn a_closed_directory_hides_and_a_closed_file_does_not() {
        let host = Fake::new().file("/etc/rabbitmq/conf.d/a.conf", "").dir("/etc/rabbitmq/conf.d", 0o700, 0, 0).file_with(
            "/etc/rabbitmq/rabbitmq.conf",
            "",
            0o600,
            0,
            0,
        );
        assert_eq!(used(&host, &[]), ["rabbitmq.conf", "-conf.d/a.conf"]);
        for (mode, seen) in [(0o711, "-conf.d/a.conf"), (0o744, "-conf.d/a.conf"), (0o755, "conf.d/a.conf")] {
            let host = Fake::new().file("/etc/rabbitmq/conf.d/a.conf", "").dir("/etc/rabbitmq/conf.d", mode, 0, 0);
            assert_eq!(used(&host, &[]), [seen], "{mode:o}");
        }
    }

    #[test]
    fn patterns() {
        assert!(
            fits("a.conf", "*.conf")
                && fits(".conf", "*.conf")
                && !fits("a.confx", "*.conf")
                && fits("abc", "a?c")
                && !fits("ac", "a?c")
        );
    }
}

//! A directory that stands for /etc/rabbitmq: a checkout, a build's output, an argument of the command line.

use super::{Command, Got, Host, Identity, InterfaceAddress, Kind, Meta, Miss, Output, Space, Tail, amqp, follow, rpc};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// `base` with one directory in the place of another; everything else is `base`'s.
///
/// What is not to be had is remembered ([`Staged::misses`]), because a check that could not look is no check. And root's eyes
/// are not lent to a link: see [`Staged::read`].
pub struct Staged<'a> {
    base: &'a dyn Host,
    /// The host that has the directory.
    here: &'a dyn Host,
    dir: PathBuf,
    stands_for: Vec<PathBuf>,
    /// See [`Staged::modes_do_not_count`].
    lenient: bool,
    /// Whether the broker's user may read a file of this owner and mode.
    reader: Box<dyn Fn(&Meta) -> bool + Sync + 'a>,
    misses: Mutex<Vec<Miss>>,
}

/// Who may read a file that has no permission for others.
const READ_BY_OTHERS: u32 = 0o004;

impl<'a> Staged<'a> {
    /// `dir` of `here` in the place of `stands_for` of `base`.
    pub fn new(base: &'a dyn Host, here: &'a dyn Host, dir: &Path, stands_for: &Path) -> Self {
        Staged {
            base,
            here,
            dir: dir.to_owned(),
            stands_for: vec![stands_for.to_owned()],
            lenient: false,
            reader: Box::new(|_| false),
            misses: Mutex::default(),
        }
    }

    /// One more directory of `base` that is replaced.
    pub fn stands_for_too(&mut self, dir: PathBuf) {
        if !self.stands_for.contains(&dir) {
            self.stands_for.push(dir);
        }
    }

    /// The files of the directory will get another owner and mode where they are going: everybody may read them.
    pub fn modes_do_not_count(&mut self) {
        self.lenient = true;
    }

    /// Who else may be shown a file: see [`Staged::read`].
    pub fn for_reader(mut self, reader: impl Fn(&Meta) -> bool + Sync + 'a) -> Self {
        self.reader = Box::new(reader);
        self
    }

    /// What could not be read, listed or looked at although it is there, each once.
    pub fn misses(self) -> Vec<Miss> {
        self.misses.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// The directory is looked at where it is: nothing stands for anything else.
    fn in_place(&self) -> bool {
        self.stands_for == [self.dir.as_path()]
    }

    /// Who answers for a path, and under which name.
    fn place(&self, path: &Path) -> (&dyn Host, PathBuf) {
        let Some(rest) = self.stands_for.iter().find_map(|root| path.strip_prefix(root).ok()) else {
            return (self.base, path.to_owned());
        };
        let real = if rest.as_os_str().is_empty() { self.dir.clone() } else { self.dir.join(rest) };
        // Certificates are rarely kept with the configuration: those of the host serve.
        let elsewhere = !self.in_place() && !is_configuration(rest) && self.here.stat(&real, true).is_err_and(|m| m.is_absent());
        if elsewhere { (self.base, path.to_owned()) } else { (self.here, real) }
    }

    fn note<T>(&self, got: Got<T>) -> Got<T> {
        if let Err(miss) = &got
            && !matches!(miss, Miss::Absent { .. } | Miss::Unavailable { .. })
        {
            let mut all = self.misses.lock().unwrap_or_else(PoisonError::into_inner);
            if !all.contains(miss) {
                all.push(miss.clone());
            }
        }
        got
    }

    /// Names the permission that is missing.
    fn explained<T>(&self, got: Got<T>, host: &dyn Host, path: &Path) -> Got<T> {
        let Err(Miss::Denied { .. }) = got else { return self.note(got) };
        self.note(Err(Miss::Denied { what: format!("{} ({})", path.display(), missing_permission(host, path)) }))
    }

    /// A link or a second name in a directory that belongs to the broker's user, or to whoever wrote the files that are
    /// checked, must not make root quote what that user cannot read.
    fn guard(&self, host: &dyn Host, path: &Path) -> Got<()> {
        if self.here.identity().uid != 0 {
            return Ok(());
        }
        let Ok(meta) = host.stat(path, true) else { return Ok(()) };
        if meta.mode & READ_BY_OTHERS != 0 || (self.reader)(&meta) {
            return Ok(());
        }
        let end = |path: &Path| follow(host, path, &mut |at, _, last| last.then(|| at.to_owned()));
        match (end(path)?, end(&self.dir)?) {
            (Some(file), Some(dir)) if file.starts_with(&dir) => Ok(()),
            _ => {
                Err(Miss::failed(path.display().to_string(), "not read: it leads to a file that the broker's user may not read"))
            }
        }
    }
}

/// Files of which the absence means something.
fn is_configuration(rest: &Path) -> bool {
    let first = rest.iter().next().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    ["", "rabbitmq", "enabled_plugins", "conf.d"].contains(&first.as_str())
        || rest.extension().is_some_and(|e| e == "conf" || e == "config")
}

/// Which permission a refused look lacks: of the file itself, or of the first directory on the way that cannot be entered.
fn missing_permission(host: &dyn Host, path: &Path) -> String {
    for (index, place) in path.ancestors().enumerate() {
        let Ok(meta) = host.stat(place, true) else { continue };
        let wanted = match (index, meta.kind) {
            (0, _) => "read",
            _ => "search",
        };
        let uid = host.identity().uid;
        return format!(
            "needs {wanted} permission on {}: mode {:04o}, owner {}:{}; this is uid {uid}",
            place.display(),
            meta.mode,
            meta.uid,
            meta.gid
        );
    }
    "needs search permission on /".to_owned()
}

impl Host for Staged<'_> {
    fn identity(&self) -> Identity {
        self.base.identity()
    }

    /// As root, a file that not everybody may read is read only if it really is in the directory, or if the broker's user may read it.
    fn read(&self, path: &Path, limit: u64) -> Got<Vec<u8>> {
        let (host, real) = self.place(path);
        self.note(self.guard(host, &real))?;
        self.explained(host.read(&real, limit), host, &real)
    }

    fn tail(&self, path: &Path, limit: u64) -> Got<Tail> {
        let (host, real) = self.place(path);
        self.note(self.guard(host, &real))?;
        self.explained(host.tail(&real, limit), host, &real)
    }

    fn list(&self, dir: &Path) -> Got<Vec<String>> {
        let (host, real) = self.place(dir);
        self.explained(host.list(&real), host, &real)
    }

    /// Links in a directory that stands for another one are not shown: where they lead cannot be told in the names of the other.
    fn stat(&self, path: &Path, follow: bool) -> Got<Meta> {
        let (host, real) = self.place(path);
        let moved = real != path || !std::ptr::addr_eq(host, self.base);
        let got = match host.stat(&real, follow || moved) {
            // The way to /etc/rabbitmq is there, whatever a recording knows of it.
            Err(_) if !self.in_place() && self.stands_for.iter().any(|root| root != path && root.starts_with(path)) => {
                Ok(Meta { kind: Kind::Dir, mode: 0o755, uid: 0, gid: 0, size: 0, mtime: 0 })
            }
            Ok(meta) if moved && self.lenient => {
                let bits = if meta.kind == Kind::Dir { 0o555 } else { 0o444 };
                Ok(Meta { mode: meta.mode | bits, ..meta })
            }
            got => got,
        };
        self.explained(got, host, &real)
    }

    fn read_link(&self, path: &Path) -> Got<PathBuf> {
        let (host, real) = self.place(path);
        host.read_link(&real)
    }

    fn space(&self, path: &Path) -> Got<Space> {
        self.base.space(path)
    }

    fn addresses(&self) -> Got<Vec<InterfaceAddress>> {
        self.base.addresses()
    }

    fn run(&self, command: &Command) -> Got<Output> {
        self.base.run(command)
    }

    fn call(&self, node: &rpc::Target, call: &rpc::Call) -> Got<eetf::Term> {
        self.base.call(node, call)
    }

    fn amqp(&self, probe: &amqp::Probe) -> Got<amqp::Answer> {
        self.base.amqp(probe)
    }

    fn http(&self, probe: &amqp::Probe) -> Got<amqp::Answer> {
        self.base.http(probe)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::Fake;

    const ETC: &str = "/etc/rabbitmq";

    #[test]
    fn the_directory_takes_the_place_of_the_other() {
        let host = Fake::new()
            .file("/etc/rabbitmq/rabbitmq.conf", "host")
            .file("/etc/rabbitmq/rabbitmq.pem", "pem")
            .file("/etc/hosts", "hosts")
            .file("/work/rabbitmq.conf", "work");
        let staged = Staged::new(&host, &host, Path::new("/work"), Path::new(ETC));
        let read = |path: &str| staged.read(Path::new(path), 99).map(|b| String::from_utf8_lossy(&b).into_owned());
        assert_eq!(read("/etc/rabbitmq/rabbitmq.conf").as_deref(), Ok("work"));
        assert!(read("/etc/rabbitmq/advanced.config").is_err_and(|m| m.is_absent()), "its absence means something");
        assert_eq!(read("/etc/rabbitmq/rabbitmq.pem").as_deref(), Ok("pem"));
        assert_eq!(read("/etc/hosts").as_deref(), Ok("hosts"));
        assert_eq!(staged.list(Path::new(ETC)), Ok(vec!["rabbitmq.conf".to_owned()]));
        assert!(staged.misses().is_empty());
    }

    #[test]
    fn a_link_does_not_lend_the_eyes_of_root() {
        let host = Fake::new()
            .file_with("/etc/shadow", "root:$6$", 0o640, 0, 42)
            .file_with("/work/secret.conf", "x", 0o600, 0, 0)
            .link("/work/rabbitmq.conf", "/etc/shadow");
        let staged = Staged::new(&host, &host, Path::new("/work"), Path::new(ETC));
        assert!(staged.read(Path::new("/etc/rabbitmq/rabbitmq.conf"), 99).is_err());
        assert_eq!(staged.read(Path::new("/etc/rabbitmq/secret.conf"), 99), Ok(b"x".to_vec()));
        assert_eq!(staged.misses().len(), 1);
        let staged = Staged::new(&host, &host, Path::new("/work"), Path::new(ETC)).for_reader(|meta| meta.gid == 42);
        assert!(staged.read(Path::new("/etc/rabbitmq/rabbitmq.conf"), 99).is_ok());
    }

    #[test]
    fn a_refusal_names_the_permission() {
        let host = Fake::new().file("/work/a", "").denied("/work/rabbitmq.conf");
        let staged = Staged::new(&host, &host, Path::new("/work"), Path::new(ETC));
        let miss = staged.read(Path::new("/etc/rabbitmq/rabbitmq.conf"), 99).unwrap_err().to_string();
        assert!(miss.contains("/work/rabbitmq.conf (needs ") && miss.contains("mode 0"), "{miss}");
    }
}

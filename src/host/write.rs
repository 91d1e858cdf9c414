//! The only hand: every change that the program makes to a host goes through here. Used by the fix engine alone.
//!
//! Files are replaced whole (temporary file in the same directory, fsync, rename, fsync of the directory), and only if they
//! still are what was shown to the user. Paths are walked as [`super::walk`] describes.

use super::walk::{Place, Stray, kind};
use super::{Got, MAX_FILE, Miss, Output, exec, live};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag, RenameFlags, renameat, renameat2};
use nix::sys::stat::{FileStat, Mode, SFlag, fchmod, fstat, mkdirat};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, fsync, unlinkat};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Programs that a fix may run: a closed list. Those of RabbitMQ are run as the broker's user, past Debian's wrapper.
pub const PROGRAMS: [&str; 14] = [
    "systemctl",
    "ufw",
    "firewall-cmd",
    "nft",
    "iptables",
    "ip6tables",
    "iptables-nft",
    "ip6tables-nft",
    "iptables-legacy",
    "ip6tables-legacy",
    "netfilter-persistent",
    "rabbitmqctl",
    "rabbitmq-server",
    "rabbitmq-plugins",
];

/// Why a change was not made. Nothing was changed then, unless the text says so.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// A third hand: the file is not what it was when the change was planned.
    #[error("{path}: {what} since it was read; nothing written")]
    Conflict { path: PathBuf, what: &'static str },
    /// Writing there could be turned against root.
    #[error("{path}: not written: {why}")]
    Unsafe { path: PathBuf, why: String },
    /// Somebody else holds the lock.
    #[error("{path}: another run is at work{}", pid.map_or(String::new(), |p| format!(" (pid {p})")))]
    Locked { path: PathBuf, pid: Option<i32> },
    #[error("{path}: {why}")]
    Failed { path: PathBuf, why: String },
}

/// Permission bits and owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileMeta {
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
}

/// The right to change this host; only root gets one.
#[derive(Debug)]
pub struct Hand {
    _only_from_new: (),
}

/// The lock of one run; given back when dropped, or by the kernel when the process ends.
#[derive(Debug)]
pub struct Lock {
    _file: Flock<File>,
}

impl Hand {
    pub fn new() -> Got<Hand> {
        if Uid::effective().is_root() {
            Ok(Hand { _only_from_new: () })
        } else {
            Err(Miss::Denied { what: "changing this host needs root".to_owned() })
        }
    }

    /// Content and metadata of a file as a change must expect them; `None` if there is no such file.
    pub fn look(&self, path: &Path) -> Result<Option<(Vec<u8>, FileMeta)>, WriteError> {
        let at = At { path };
        match at.place() {
            Ok(place) => Ok(at.current(&place)?.map(|c| (c.bytes, c.meta))),
            Err(WriteError::Failed { .. }) if !path.parent().is_some_and(Path::exists) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Replaces, creates or removes a file.
    ///
    /// `expect` is the content that it must still have (`None`: it must not exist); `content` the new one (`None`: remove
    /// it). Extended attributes (ACLs, SELinux label) of the old file are carried over.
    pub fn replace_file(
        &self,
        path: &Path,
        expect: Option<&[u8]>,
        content: Option<&[u8]>,
        meta: FileMeta,
    ) -> Result<(), WriteError> {
        let at = At { path };
        let place = at.place()?;
        let old = at.expected(&place, expect)?;
        match content {
            Some(bytes) => at.put(&place, bytes, meta, old.as_ref())?,
            None if old.is_none() => return Ok(()),
            None => at.io(unlinkat(&place.dir, place.name.as_os_str(), UnlinkatFlags::NoRemoveDir))?,
        }
        at.io(fsync(&place.dir))
    }

    /// Sets mode and owner of a regular file or directory, if they still are `expect` (looked at through the descriptor that is then
    /// changed: the name may meanwhile be another file's).
    pub fn set_meta(&self, path: &Path, expect: FileMeta, meta: FileMeta) -> Result<(), WriteError> {
        let at = At { path };
        let place = at.place()?;
        let fd = at.io(place.open(OFlag::O_RDONLY, Mode::empty()))?;
        let stat = at.io(fstat(&fd))?;
        match kind(&stat) {
            SFlag::S_IFDIR => {}
            // A second name of a file that another directory protects (fs.protected_hardlinks may be off).
            SFlag::S_IFREG if stat.st_nlink > 1 => return Err(at.refuse("it has more than one name (hard links)")),
            // Given away, rewritten and taken back, it would run somebody else's program with the rights of its owner.
            SFlag::S_IFREG if (expect.mode | meta.mode) & SET_ID != 0 => {
                return Err(at.refuse("a set-user-ID or set-group-ID file"));
            }
            SFlag::S_IFREG => {}
            _ => return Err(at.refuse("not a regular file or directory")),
        }
        if meta_of(&stat) != expect {
            return Err(at.conflict("owner or mode changed by somebody else"));
        }
        at.apply(&fd, meta)?;
        at.io(fsync(&fd))
    }

    /// Runs a program of [`PROGRAMS`] without a shell; `argv[0]` is its name.
    pub fn run(&self, argv: &[String], stdin: Option<&[u8]>, timeout: Duration) -> Got<Output> {
        let what = argv.join(" ");
        let (name, args) = argv.split_first().ok_or_else(|| Miss::failed("command", "empty"))?;
        if !PROGRAMS.contains(&name.as_str()) {
            return Err(Miss::failed(what, "not one of the programs that a fix may run"));
        }
        let broker = name.starts_with("rabbitmq");
        let (program, user) =
            if broker { (live::broker_program(name)?, live::broker_user()?) } else { (exec::find(name)?, None) };
        let env: &[_] = if broker { &live::BROKER_ENV } else { &[] };
        exec::run(&exec::Job { program: &program, args, env, user, stdin, timeout }, &what)
    }

    /// Takes the lock at `path` without waiting. The file stays; only the lock on it counts. Not for world-writable
    /// directories such as /run/lock, where anybody could hold it.
    pub fn lock(&self, path: &Path) -> Result<Lock, WriteError> {
        let at = At { path };
        let place = at.place()?;
        let fd = at.io(place.open(OFlag::O_RDWR | OFlag::O_CREAT, Mode::from_bits_truncate(0o600)))?;
        at.own_regular(&fd)?;
        match Flock::lock(File::from(fd), FlockArg::LockExclusiveNonblock) {
            Ok(mut file) => {
                let pid = format!("{}\n", std::process::id());
                at.io(file.set_len(0).and_then(|()| file.rewind()).and_then(|()| file.write_all(pid.as_bytes())))?;
                Ok(Lock { _file: file })
            }
            Err((mut file, Errno::EWOULDBLOCK)) => {
                let mut text = String::new();
                let _ = (&mut file).take(32).read_to_string(&mut text);
                Err(WriteError::Locked { path: path.to_owned(), pid: text.trim().parse().ok() })
            }
            Err((_, e)) => Err(at.failed(e)),
        }
    }

    /// Makes a directory 0755 with whatever is missing above it; one that exists stays as it is.
    pub fn open_dir(&self, path: &Path) -> Result<(), WriteError> {
        make_dirs(path, 0o755)
    }

    /// Makes a directory 0700 with whatever is missing above it. One that exists must be ours and closed to others.
    pub fn private_dir(&self, path: &Path) -> Result<(), WriteError> {
        make_dirs(path, 0o700)?;
        let at = At { path };
        let place = at.place()?;
        let fd = at.io(place.open(OFlag::O_RDONLY | OFlag::O_DIRECTORY, Mode::empty()))?;
        let stat = at.io(fstat(&fd))?;
        if stat.st_uid != Uid::effective().as_raw() || stat.st_mode & 0o077 != 0 {
            return Err(at.refuse("the directory is open to others"));
        }
        Ok(())
    }
}

/// Makes what is missing of a path; whatever the umask says, with this mode.
fn make_dirs(path: &Path, mode: u32) -> Result<(), WriteError> {
    let missing: Vec<&Path> = path.ancestors().take_while(|p| std::fs::symlink_metadata(p).is_err()).collect();
    for dir in missing.into_iter().rev().filter(|dir| !dir.as_os_str().is_empty()) {
        let at = At { path: dir };
        let place = at.place()?;
        at.io(mkdirat(&place.dir, place.name.as_os_str(), Mode::S_IRWXU))?;
        let made = at.io(place.open(OFlag::O_RDONLY | OFlag::O_DIRECTORY, Mode::empty()))?;
        at.io(fchmod(&made, Mode::from_bits_truncate(mode)))?;
        at.io(fsync(&place.dir))?;
    }
    Ok(())
}

/// Writes a report where the user asked for it (`-o`): with the user's own rights and through links, like a shell's `>`. A new
/// file is closed to others, because reports tell how to get at a host.
pub fn report_file(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(bytes)
}

/// A file as it is now.
struct Current {
    fd: OwnedFd,
    bytes: Vec<u8>,
    meta: FileMeta,
}

/// One path, for the messages of what is done there.
struct At<'a> {
    path: &'a Path,
}

impl At<'_> {
    fn failed(&self, why: impl std::fmt::Display) -> WriteError {
        WriteError::Failed { path: self.path.to_owned(), why: why.to_string() }
    }

    fn refuse(&self, why: impl Into<String>) -> WriteError {
        WriteError::Unsafe { path: self.path.to_owned(), why: why.into() }
    }

    fn conflict(&self, what: &'static str) -> WriteError {
        WriteError::Conflict { path: self.path.to_owned(), what }
    }

    fn io<T, E: Into<std::io::Error>>(&self, result: Result<T, E>) -> Result<T, WriteError> {
        result.map_err(|e| self.failed(e.into()))
    }

    fn place(&self) -> Result<Place, WriteError> {
        Place::of(self.path).map_err(|stray| match stray {
            Stray::Unsafe(why) => self.refuse(why),
            Stray::Failed(e) => self.failed(std::io::Error::from(e)),
        })
    }

    /// What stands there; anything but a regular file is refused.
    fn current(&self, place: &Place) -> Result<Option<Current>, WriteError> {
        let Some(stat) = self.io(place.stat())? else { return Ok(None) };
        if kind(&stat) != SFlag::S_IFREG {
            return Err(self.refuse("not a regular file"));
        }
        let fd = self.io(place.open(OFlag::O_RDONLY, Mode::empty()))?;
        let stat = self.io(fstat(&fd))?;
        if kind(&stat) != SFlag::S_IFREG {
            return Err(self.refuse("not a regular file"));
        }
        let mut bytes = Vec::new();
        let mut file = File::from(fd);
        self.io((&mut file).take(MAX_FILE + 1).read_to_end(&mut bytes))?;
        if bytes.len() as u64 > MAX_FILE {
            return Err(self.refuse(format!("larger than {MAX_FILE} bytes")));
        }
        Ok(Some(Current { fd: file.into(), bytes, meta: meta_of(&stat) }))
    }

    fn expected(&self, place: &Place, expect: Option<&[u8]>) -> Result<Option<Current>, WriteError> {
        match (self.current(place)?, expect) {
            (None, None) => Ok(None),
            (Some(now), Some(then)) if now.bytes == then => Ok(Some(now)),
            (Some(_), Some(_)) => Err(self.conflict("changed by somebody else")),
            (Some(_), None) => Err(self.conflict("created by somebody else")),
            (None, Some(_)) => Err(self.conflict("removed by somebody else")),
        }
    }

    /// Writes beside the file and renames over it.
    fn put(&self, place: &Place, bytes: &[u8], meta: FileMeta, old: Option<&Current>) -> Result<(), WriteError> {
        let temporary = self.io(place.sibling(self.temporary_name(place)?))?;
        let fd = self.io(temporary.open(create(), Mode::from_bits_truncate(0o600)))?;
        let done = self.fill(fd, bytes, meta, old).and_then(|inode| self.swap_in(&temporary, place, inode, old.is_some()));
        if done.is_err() {
            let _ = unlinkat(&temporary.dir, temporary.name.as_os_str(), UnlinkatFlags::NoRemoveDir);
        }
        done
    }

    /// Hidden, and with an ending that neither RabbitMQ (conf.d/*.conf) nor systemd (*.conf) reads.
    fn temporary_name(&self, place: &Place) -> Result<String, WriteError> {
        let random = getrandom::u64().map_err(|e| self.failed(e))?;
        Ok(format!(".{}.rmq-audit-{random:016x}", place.name.to_string_lossy()))
    }

    /// Gives the temporary file its content, owner, attributes and mode, in the order in which it is never more open than
    /// it will be; returns its inode number.
    fn fill(&self, fd: OwnedFd, bytes: &[u8], meta: FileMeta, old: Option<&Current>) -> Result<u64, WriteError> {
        let mut file = File::from(fd);
        self.io(file.write_all(bytes))?;
        self.io(fchown(&file, Some(Uid::from_raw(meta.uid)), Some(Gid::from_raw(meta.gid))))?;
        if let Some(old) = old {
            self.io(copy_attributes(&old.fd, &file))?;
        }
        self.io(fchmod(&file, Mode::from_bits_truncate(meta.mode & 0o7777)))?;
        self.io(file.sync_all())?;
        Ok(self.io(fstat(&file))?.st_ino)
    }

    fn swap_in(&self, from: &Place, to: &Place, inode: u64, replace: bool) -> Result<(), WriteError> {
        let (old, new) = (from.name.as_os_str(), to.name.as_os_str());
        let done = if replace {
            renameat(&from.dir, old, &to.dir, new)
        } else {
            renameat2(&from.dir, old, &to.dir, new, RenameFlags::RENAME_NOREPLACE)
        };
        match done {
            Err(Errno::EEXIST) => return Err(self.conflict("created by somebody else")),
            other => self.io(other)?,
        }
        // The owner of the directory could have put something else under the temporary name.
        match self.io(to.stat())? {
            Some(stat) if stat.st_ino == inode => Ok(()),
            _ => Err(self.failed("somebody else replaced the file while it was being written; look at it")),
        }
    }

    fn apply(&self, fd: &OwnedFd, meta: FileMeta) -> Result<(), WriteError> {
        self.io(fchown(fd, Some(Uid::from_raw(meta.uid)), Some(Gid::from_raw(meta.gid))))?;
        self.io(fchmod(fd, Mode::from_bits_truncate(meta.mode & 0o7777)))
    }

    fn own_regular(&self, fd: &OwnedFd) -> Result<(), WriteError> {
        let stat = self.io(fstat(fd))?;
        if kind(&stat) != SFlag::S_IFREG || stat.st_uid != Uid::effective().as_raw() || stat.st_mode & 0o022 != 0 {
            return Err(self.refuse("not a file of ours alone"));
        }
        Ok(())
    }
}

/// set-user-ID and set-group-ID, which mean something else on directories.
const SET_ID: u32 = 0o6000;

fn create() -> OFlag {
    OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL
}

fn meta_of(stat: &FileStat) -> FileMeta {
    FileMeta { mode: stat.st_mode & 0o7777, uid: stat.st_uid, gid: stat.st_gid }
}

/// Carries extended attributes over: ACLs, the SELinux label, user.*. Those that seal the old content (IMA, EVM) are left
/// behind. An attribute that the new file has already, inherited from its directory, is not set again: that can be forbidden.
fn copy_attributes(from: impl AsFd, to: impl AsFd) -> std::io::Result<()> {
    let mut names = vec![0; 64 * 1024];
    let length = match rustix::fs::flistxattr(&from, &mut names[..]) {
        Err(rustix::io::Errno::NOTSUP) => return Ok(()),
        other => other?,
    };
    names.truncate(length);
    for name in names.split(|b| *b == 0).filter(|n| !n.is_empty()) {
        if name == b"security.ima" || name == b"security.evm" {
            continue;
        }
        let value = attribute(&from, name)?;
        if attribute(&to, name).is_ok_and(|present| present == value) {
            continue;
        }
        rustix::fs::fsetxattr(&to, name, &value, rustix::fs::XattrFlags::empty())?;
    }
    Ok(())
}

fn attribute(fd: impl AsFd, name: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut value = vec![0; 64 * 1024];
    let length = rustix::fs::fgetxattr(fd, name, &mut value[..])?;
    value.truncate(length);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    /// A directory of one test, owned by whoever runs the tests, removed at the end.
    struct Scratch {
        dir: PathBuf,
        hand: Hand,
    }

    impl Scratch {
        fn new(name: &str) -> Self {
            let dir = std::env::temp_dir().canonicalize().unwrap();
            let dir = dir.join(format!("rmq-audit-write-{name}-{}", std::process::id()));
            std::fs::create_dir(&dir).unwrap();
            Scratch { dir, hand: Hand { _only_from_new: () } }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.dir.join(name)
        }

        fn meta(&self, mode: u32) -> FileMeta {
            FileMeta { mode, uid: Uid::effective().as_raw(), gid: Gid::effective().as_raw() }
        }

        fn names(&self) -> Vec<String> {
            let mut names: Vec<_> =
                std::fs::read_dir(&self.dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }

    #[test]
    fn a_file_is_created_replaced_and_removed() {
        let s = Scratch::new("life");
        let path = s.path("f.conf");
        s.hand.replace_file(&path, None, Some(b"one"), s.meta(0o640)).unwrap();
        assert_eq!(s.hand.look(&path).unwrap(), Some((b"one".to_vec(), s.meta(0o640))));
        s.hand.replace_file(&path, Some(b"one"), Some(b"two"), s.meta(0o600)).unwrap();
        assert_eq!(s.hand.look(&path).unwrap(), Some((b"two".to_vec(), s.meta(0o600))));
        assert_eq!(s.names(), ["f.conf"]);
        s.hand.replace_file(&path, Some(b"two"), None, s.meta(0)).unwrap();
        assert!(s.names().is_empty());
    }

    #[test]
    fn a_third_hand_is_a_conflict_and_nothing_changes() {
        let s = Scratch::new("third");
        let path = s.path("f");
        std::fs::write(&path, "theirs").unwrap();
        for (expect, content) in [(Some(&b"ours"[..]), Some(&b"x"[..])), (None, Some(b"x")), (Some(b"ours"), None)] {
            let got = s.hand.replace_file(&path, expect, content, s.meta(0o644));
            assert!(matches!(got, Err(WriteError::Conflict { .. })), "{got:?}");
        }
        let gone = s.hand.replace_file(&s.path("gone"), Some(b"x"), Some(b"y"), s.meta(0o644));
        assert!(matches!(gone, Err(WriteError::Conflict { .. })));
        assert_eq!((std::fs::read(&path).unwrap(), s.names()), (b"theirs".to_vec(), vec!["f".to_owned()]));
    }

    #[test]
    fn planted_links_are_refused_wherever_they_stand() {
        let s = Scratch::new("links");
        std::fs::set_permissions(&s.dir, std::fs::Permissions::from_mode(0o777)).unwrap();
        std::fs::create_dir(s.path("victim")).unwrap();
        std::fs::write(s.path("victim/f"), "secret").unwrap();
        symlink(s.path("victim/f"), s.path("last")).unwrap();
        symlink(s.path("victim"), s.path("middle")).unwrap();
        for path in [s.path("last"), s.path("middle/f")] {
            let got = s.hand.replace_file(&path, Some(b"secret"), Some(b"x"), s.meta(0o644));
            assert!(matches!(got, Err(WriteError::Unsafe { .. })), "{got:?}");
            assert!(matches!(s.hand.set_meta(&path, s.meta(0o644), s.meta(0o777)), Err(WriteError::Unsafe { .. })));
        }
        assert_eq!(std::fs::read(s.path("victim/f")).unwrap(), b"secret");
    }

    #[test]
    fn a_link_of_root_in_a_directory_of_root_is_followed() {
        if !Uid::effective().is_root() {
            return;
        }
        let s = Scratch::new("root-link");
        std::fs::set_permissions(&s.dir, std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::create_dir(s.path("real")).unwrap();
        std::fs::write(s.path("real/f"), "a").unwrap();
        symlink("real/../real", s.path("alias")).unwrap();
        s.hand.replace_file(&s.path("alias/f"), Some(b"a"), Some(b"b"), s.meta(0o644)).unwrap();
        assert_eq!(std::fs::read(s.path("real/f")).unwrap(), b"b");
    }

    #[test]
    fn a_fifo_does_not_stop_us_and_is_not_replaced() {
        let s = Scratch::new("fifo");
        let path = s.path("f");
        nix::unistd::mkfifo(&path, Mode::S_IRWXU).unwrap();
        assert!(matches!(s.hand.look(&path), Err(WriteError::Unsafe { .. })));
        assert!(matches!(s.hand.replace_file(&path, None, Some(b"x"), s.meta(0o644)), Err(WriteError::Unsafe { .. })));
        assert!(matches!(s.hand.set_meta(&path, s.meta(0o644), s.meta(0o644)), Err(WriteError::Unsafe { .. })));
    }

    #[test]
    fn paths_that_are_not_plain_are_refused() {
        let s = Scratch::new("plain");
        for path in ["relative", "/etc/../etc/passwd", "/"] {
            assert!(matches!(s.hand.look(Path::new(path)), Err(WriteError::Unsafe { .. })), "{path}");
        }
    }

    #[test]
    fn set_meta_returns_what_was_and_refuses_second_names() {
        let s = Scratch::new("meta");
        let path = s.path("f");
        std::fs::write(&path, "x").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(s.hand.set_meta(&path, s.meta(0o600), s.meta(0o400)), Err(WriteError::Conflict { .. })));
        s.hand.set_meta(&path, s.meta(0o644), s.meta(0o400)).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o7777, 0o400);
        std::fs::hard_link(&path, s.path("second")).unwrap();
        assert!(matches!(s.hand.set_meta(&path, s.meta(0o400), s.meta(0o666)), Err(WriteError::Unsafe { .. })));
    }

    #[test]
    fn extended_attributes_are_carried_over() {
        let s = Scratch::new("xattr");
        let path = s.path("f");
        std::fs::write(&path, "a").unwrap();
        let file = File::open(&path).unwrap();
        if rustix::fs::fsetxattr(&file, "user.note", b"kept", rustix::fs::XattrFlags::empty()).is_err() {
            return; // the file system of the tests has none
        }
        s.hand.replace_file(&path, Some(b"a"), Some(b"b"), s.meta(0o644)).unwrap();
        assert_eq!(attribute(File::open(&path).unwrap(), b"user.note").unwrap(), b"kept");
    }

    #[test]
    fn the_lock_is_exclusive_and_names_its_holder() {
        let s = Scratch::new("lock");
        let path = s.path("lock");
        let held = s.hand.lock(&path).unwrap();
        match s.hand.lock(&path) {
            Err(WriteError::Locked { pid, .. }) => assert_eq!(pid, Some(std::process::id() as i32)),
            other => panic!("{other:?}"),
        }
        drop(held);
        assert!(s.hand.lock(&path).is_ok());
    }

    #[test]
    fn private_directories_are_closed_to_others() {
        let s = Scratch::new("private");
        let dir = s.path("a/b");
        s.hand.private_dir(&dir).unwrap();
        s.hand.private_dir(&dir).unwrap();
        assert_eq!(std::fs::metadata(&dir).unwrap().mode() & 0o777, 0o700);
        std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert!(matches!(s.hand.private_dir(&dir), Err(WriteError::Unsafe { .. })));
    }

    #[test]
    fn only_listed_programs_run() {
        let s = Scratch::new("run");
        let second = Duration::from_secs(1);
        assert!(s.hand.run(&["sh".to_owned(), "-c".to_owned(), "true".to_owned()], None, second).is_err());
        assert!(s.hand.run(&["/tmp/systemctl".to_owned()], None, second).is_err());
        assert!(s.hand.run(&[], None, second).is_err());
    }
}

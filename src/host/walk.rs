//! Finding the place of a file without being led astray.
//!
//! /etc/rabbitmq belongs to the user rabbitmq, who could swap anything in it for a link to /etc/shadow just before root writes. So
//! a path is walked one component at a time through directory descriptors, and a link is followed only if root put it there:
//! it belongs to root and stands in a directory that only root can change.

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat};
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

/// Links of root that are followed on one path; /etc/alternatives needs two.
const MAX_LINKS: usize = 8;

/// Where a file is or would be: its real directory, held open, and its name in it (never a link that was not checked).
#[derive(Debug)]
pub struct Place {
    pub dir: OwnedFd,
    pub name: OsString,
}

/// Why a path cannot be walked.
#[derive(Debug)]
pub enum Stray {
    /// A component that somebody less privileged than root controls, or a path that is not plain.
    Unsafe(String),
    Failed(Errno),
}

impl From<Errno> for Stray {
    fn from(e: Errno) -> Self {
        Stray::Failed(e)
    }
}

impl Place {
    /// Walks an absolute path without `..`.
    pub fn of(path: &Path) -> Result<Place, Stray> {
        let mut todo = components(path)?;
        let mut dir = root()?;
        let mut links = 0;
        loop {
            let Some(name) = todo.pop() else { return Err(Stray::Unsafe("a path must name a file".to_owned())) };
            if let Some(target) = trusted_link(&dir, &name)? {
                links += 1;
                if links > MAX_LINKS {
                    return Err(Stray::Failed(Errno::ELOOP));
                }
                if target.is_absolute() {
                    dir = root()?;
                }
                todo.extend(target.components().rev().filter_map(followed));
            } else if todo.is_empty() {
                return Ok(Place { dir, name });
            } else {
                dir = openat(&dir, name.as_os_str(), directory(), Mode::empty())?;
            }
        }
    }

    /// `lstat` of the file; `None` if there is none.
    pub fn stat(&self) -> Result<Option<FileStat>, Errno> {
        match fstatat(&self.dir, self.name.as_os_str(), AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::ENOENT) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Opens the file itself, never through a link, without waiting for the other end of a FIFO.
    pub fn open(&self, flags: OFlag, mode: Mode) -> Result<OwnedFd, Errno> {
        let always = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC | OFlag::O_NOCTTY;
        openat(&self.dir, self.name.as_os_str(), flags | always, mode)
    }

    /// The same directory, another name.
    pub fn sibling(&self, name: impl Into<OsString>) -> Result<Place, Errno> {
        let dir = self.dir.try_clone().map_err(|e| Errno::from_raw(e.raw_os_error().unwrap_or(0)))?;
        Ok(Place { dir, name: name.into() })
    }
}

/// Opens a file to read it as root. Links are followed, but not where somebody less privileged could aim root's eyes with one: a link
/// of another user leads only to that user's own files, and a file that another user gave a second name (a hard link) in a directory
/// of his own is not read. Otherwise /etc/rabbitmq/rabbitmq.conf -> /etc/shadow would be quoted in a report.
pub fn open_to_read(path: &Path) -> Result<OwnedFd, Stray> {
    let how = OpenHow::new().flags(reading()).resolve(ResolveFlag::RESOLVE_NO_SYMLINKS);
    match openat2(AT_FDCWD, path, how) {
        Ok(fd) if fstat(&fd)?.st_nlink < 2 => Ok(fd),
        // Links on the way, a second name, or a kernel that does not have the call: step by step.
        Ok(_) | Err(Errno::ELOOP | Errno::ENOSYS | Errno::EPERM) => open_step_by_step(path),
        Err(e) => Err(e.into()),
    }
}

fn open_step_by_step(path: &Path) -> Result<OwnedFd, Stray> {
    let mut todo: Vec<OsString> = path.components().rev().filter_map(followed).collect();
    let mut dir = root()?;
    let mut link_owners = Vec::new();
    let mut links = 0;
    while let Some(name) = todo.pop() {
        let stat = fstatat(&dir, name.as_os_str(), AtFlags::AT_SYMLINK_NOFOLLOW)?;
        if kind(&stat) == SFlag::S_IFLNK {
            links += 1;
            if links > 40 {
                return Err(Stray::Failed(Errno::ELOOP));
            }
            link_owners.push(stat.st_uid);
            let target = PathBuf::from(readlinkat(&dir, name.as_os_str())?);
            if target.is_absolute() {
                dir = root()?;
            }
            todo.extend(target.components().rev().filter_map(followed));
        } else if todo.is_empty() {
            let fd = openat(&dir, name.as_os_str(), reading() | OFlag::O_NOFOLLOW, Mode::empty())?;
            let (file, parent) = (fstat(&fd)?, fstat(&dir)?);
            let planted = file.st_nlink > 1 && parent.st_uid != 0 && parent.st_uid != file.st_uid;
            let aimed = link_owners.iter().any(|owner| *owner != 0 && *owner != file.st_uid);
            return match (planted, aimed) {
                (true, _) => Err(Stray::Unsafe("not read: a hard link in a directory of another user".to_owned())),
                (_, true) => Err(Stray::Unsafe("not read: a symbolic link of another user leads to it".to_owned())),
                _ => Ok(fd),
            };
        } else {
            dir = openat(&dir, name.as_os_str(), directory(), Mode::empty())?;
        }
    }
    Err(Stray::Failed(Errno::EISDIR))
}

fn reading() -> OFlag {
    OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC
}

/// The kind of file that a `stat` tells.
pub fn kind(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits())
}

fn directory() -> OFlag {
    OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC
}

fn root() -> Result<OwnedFd, Errno> {
    nix::fcntl::open("/", directory(), Mode::empty())
}

/// The names of an absolute path, last first.
fn components(path: &Path) -> Result<Vec<OsString>, Stray> {
    let plain = path.is_absolute() && path.components().all(|c| matches!(c, Component::RootDir | Component::Normal(_)));
    if !plain {
        return Err(Stray::Unsafe("only absolute paths without `..` are written to".to_owned()));
    }
    Ok(path.components().rev().filter_map(followed).collect())
}

/// A component that takes a step; `..` of a real directory descriptor is its real parent.
fn followed(component: Component) -> Option<OsString> {
    matches!(component, Component::Normal(_) | Component::ParentDir).then(|| component.as_os_str().to_owned())
}

/// The target of `name` if it is a link that root put there; `None` if it is no link.
fn trusted_link(dir: &OwnedFd, name: &OsStr) -> Result<Option<PathBuf>, Stray> {
    let stat = match fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(stat) if kind(&stat) == SFlag::S_IFLNK => stat,
        Ok(_) | Err(Errno::ENOENT) => return Ok(None),
        Err(e) => return Err(e.into()),
    };
    let parent = fstat(dir.as_fd())?;
    if stat.st_uid != 0 || parent.st_uid != 0 || parent.st_mode & 0o022 != 0 {
        let text = format!("{} is a symbolic link that others than root can aim elsewhere", name.display());
        return Err(Stray::Unsafe(text));
    }
    Ok(Some(PathBuf::from(readlinkat(dir, name)?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{chown, lchown, symlink};

    #[test]
    fn nobody_aims_the_eyes_of_root() {
        if !nix::unistd::Uid::effective().is_root() {
            return;
        }
        let dir = std::env::temp_dir().canonicalize().unwrap().join(format!("rmq-audit-walk-{}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        let (secret, theirs) = (dir.join("secret"), dir.join("theirs"));
        std::fs::write(&secret, "s").unwrap();
        std::fs::create_dir(&theirs).unwrap();
        let own = theirs.join("own");
        std::fs::write(&own, "o").unwrap();
        for path in [&theirs, &own] {
            chown(path, Some(1), Some(1)).unwrap();
        }
        for (name, target) in [("to-secret", &secret), ("to-own", &own), ("dir", &dir)] {
            symlink(target, theirs.join(name)).unwrap();
            lchown(theirs.join(name), Some(1), Some(1)).unwrap();
        }
        symlink(&secret, theirs.join("by-root")).unwrap();
        std::fs::hard_link(&secret, theirs.join("second-name")).unwrap();
        let opened = |name: &str| open_to_read(&theirs.join(name)).is_ok();
        for name in ["own", "to-own", "by-root", "../secret"] {
            assert!(opened(name), "{name}");
        }
        for name in ["to-secret", "dir/secret", "second-name"] {
            assert!(!opened(name), "{name}");
        }
        std::fs::remove_dir_all(dir).unwrap();
    }
}

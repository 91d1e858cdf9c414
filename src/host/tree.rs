//! A mounted file tree (`--root DIR`): an image that is being built, a disk on a workbench. It has files and nothing else.
//!
//! Paths and the links in them are resolved inside the tree by the kernel (openat2, RESOLVE_IN_ROOT): `/etc/mtab -> /proc/mounts` of a
//! tree never reads the machine that this program runs on.

use super::{Command, Got, Host, Identity, InterfaceAddress, Kind, Meta, Miss, Output, Space, Tail, amqp, live, rpc};
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2, readlinkat};
use nix::sys::stat::Mode;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// A directory that stands for `/`.
pub struct Tree {
    root: OwnedFd,
    identity: Identity,
}

impl Tree {
    pub fn open(root: &Path) -> Got<Tree> {
        let what = root.display().to_string();
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let root = nix::fcntl::open(root, flags, Mode::empty()).map_err(|e| live::miss(&what, &e.into()))?;
        let identity = Identity { offline: true, nodename: None, ..live::identity() };
        Ok(Tree { root, identity })
    }

    /// Opens a path of the tree.
    fn at(&self, path: &Path, flags: OFlag) -> Got<File> {
        let what = path.display().to_string();
        if ["/proc", "/sys", "/run"].iter().any(|kernel| path.starts_with(kernel)) {
            return Err(nothing_runs(what));
        }
        // openat2 refuses flags that mean nothing with O_PATH.
        let waiting = if flags.contains(OFlag::O_PATH) { OFlag::empty() } else { OFlag::O_NONBLOCK | OFlag::O_NOCTTY };
        let flags = flags | waiting | OFlag::O_CLOEXEC;
        let how = OpenHow::new().flags(flags).resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        // RESOLVE_IN_ROOT takes an absolute path as one of the tree.
        match openat2(&self.root, path, how) {
            Ok(fd) => Ok(File::from(fd)),
            Err(Errno::ENOSYS) => Err(Miss::Unavailable { what, why: "--root needs Linux 5.6 (openat2)".to_owned() }),
            Err(e) => Err(live::miss(&what, &e.into())),
        }
    }

    fn regular(&self, path: &Path) -> Got<(File, u64)> {
        let what = path.display().to_string();
        // The kind first: opening a device can have effects.
        if self.stat(path, true)?.kind != Kind::File {
            return Err(Miss::failed(what, "not a regular file"));
        }
        let file = self.at(path, OFlag::O_RDONLY)?;
        let meta = file.metadata().map_err(|e| live::miss(&what, &e))?;
        if meta.is_file() { Ok((file, meta.len())) } else { Err(Miss::failed(what, "not a regular file")) }
    }
}

fn nothing_runs(what: impl Into<String>) -> Miss {
    Miss::Unavailable { what: what.into(), why: "this is a file tree, nothing runs there".to_owned() }
}

impl Host for Tree {
    fn identity(&self) -> Identity {
        self.identity.clone()
    }

    fn read(&self, path: &Path, limit: u64) -> Got<Vec<u8>> {
        let what = path.display().to_string();
        let (file, _) = self.regular(path)?;
        let mut bytes = Vec::new();
        file.take(limit.saturating_add(1)).read_to_end(&mut bytes).map_err(|e| live::miss(&what, &e))?;
        if bytes.len() as u64 > limit { Err(Miss::TooBig { what, limit }) } else { Ok(bytes) }
    }

    fn tail(&self, path: &Path, limit: u64) -> Got<Tail> {
        let what = path.display().to_string();
        let (mut file, size) = self.regular(path)?;
        let start = size.saturating_sub(limit);
        let mut bytes = Vec::new();
        let read = file.seek(SeekFrom::Start(start)).and_then(|_| file.take(limit).read_to_end(&mut bytes));
        read.map_err(|e| live::miss(&what, &e))?;
        Ok(Tail { bytes, cut: start > 0 })
    }

    fn list(&self, dir: &Path) -> Got<Vec<String>> {
        let what = dir.display().to_string();
        let fd = self.at(dir, OFlag::O_RDONLY | OFlag::O_DIRECTORY)?;
        let mut entries = nix::dir::Dir::from_fd(fd.into()).map_err(|e| live::miss(&what, &e.into()))?;
        let mut names = Vec::new();
        for entry in entries.iter() {
            let name = entry.map_err(|e| live::miss(&what, &e.into()))?.file_name().to_string_lossy().into_owned();
            if name != "." && name != ".." {
                names.push(name);
            }
            if names.len() > live::MAX_NAMES {
                return Err(Miss::TooBig { what: format!("{what}, names in it"), limit: live::MAX_NAMES as u64 });
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn stat(&self, path: &Path, follow: bool) -> Got<Meta> {
        let what = path.display().to_string();
        let nofollow = if follow { OFlag::empty() } else { OFlag::O_NOFOLLOW };
        let file = self.at(path, OFlag::O_PATH | nofollow)?;
        file.metadata().map(|m| live::meta(&m)).map_err(|e| live::miss(&what, &e))
    }

    fn read_link(&self, path: &Path) -> Got<PathBuf> {
        let file = self.at(path, OFlag::O_PATH | OFlag::O_NOFOLLOW)?;
        // Of a descriptor that is no link the kernel says ENOENT here, which would look like absence.
        readlinkat(&file, "").map(PathBuf::from).map_err(|_| Miss::failed(path.display().to_string(), "not a symbolic link"))
    }

    fn space(&self, path: &Path) -> Got<Space> {
        Err(nothing_runs(format!("space of {}", path.display())))
    }

    fn addresses(&self) -> Got<Vec<InterfaceAddress>> {
        Err(nothing_runs("addresses of the interfaces"))
    }

    fn nf_tables(&self) -> Got<Vec<u8>> {
        Err(nothing_runs("nf_tables"))
    }

    fn ip_sets(&self) -> Got<Vec<u8>> {
        Err(nothing_runs("ipsets"))
    }

    fn routing(&self) -> Got<Vec<u8>> {
        Err(nothing_runs("routing tables"))
    }

    fn run(&self, command: &Command) -> Got<Output> {
        Err(nothing_runs(command.to_string()))
    }

    fn call(&self, node: &rpc::Target, _: &rpc::Call) -> Got<eetf::Term> {
        Err(nothing_runs(node.node.clone()))
    }

    fn amqp(&self, probe: &amqp::Probe) -> Got<amqp::Answer> {
        Err(nothing_runs(probe.to.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_stay_inside_the_tree() {
        let root = std::env::temp_dir().join(format!("rmq-audit-tree-{}", std::process::id()));
        std::fs::create_dir_all(root.join("etc")).unwrap();
        std::fs::write(root.join("etc/hostname"), "inside").unwrap();
        symlink("/etc/hostname", root.join("absolute")).unwrap();
        symlink("../../../../etc/hostname", root.join("etc/upwards")).unwrap();
        symlink("/etc/passwd", root.join("outside")).unwrap();
        let tree = Tree::open(&root).unwrap();
        for path in ["/etc/hostname", "/absolute", "/etc/upwards", "/../../etc/hostname"] {
            assert_eq!(tree.read(Path::new(path), 99), Ok(b"inside".to_vec()), "{path}");
        }
        assert!(tree.read(Path::new("/outside"), 1 << 20).is_err_and(|m| m.is_absent()));
        assert_eq!(tree.list(Path::new("/etc")), Ok(vec!["hostname".to_owned(), "upwards".to_owned()]));
        assert_eq!(tree.stat(Path::new("/absolute"), false).map(|m| m.kind), Ok(Kind::Link));
        assert_eq!(tree.read_link(Path::new("/absolute")), Ok(PathBuf::from("/etc/hostname")));
        assert!(matches!(tree.read_link(Path::new("/etc")), Err(Miss::Failed { .. })));
        assert!(matches!(tree.read(Path::new("/etc"), 9), Err(Miss::Failed { .. })));
        std::fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn nothing_runs_in_a_tree() {
        let tree = Tree::open(Path::new("/")).unwrap();
        assert!(tree.identity().offline);
        assert!(matches!(tree.read(Path::new("/proc/stat"), 9), Err(Miss::Unavailable { .. })));
        assert!(matches!(tree.run(&Command::NftRuleset), Err(Miss::Unavailable { .. })));
    }
}

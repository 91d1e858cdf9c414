//! A host with some files replaced in memory: what would be true after a change that has not been made.

use super::{
    Command, Got, Host, Identity, InterfaceAddress, Kind, ListeningSocket, Load, Loaded, MAX_FILE, Meta, Miss, Space, Tail, amqp,
    pem, rpc, tls,
};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// `base` with files put over it. A replaced file keeps the owner and mode it has; a new one is root's, 0644. Paths are compared
/// as they are spelt, so name a file the way the code under test does.
pub struct Overlay<'a> {
    base: &'a dyn Host,
    files: BTreeMap<PathBuf, Option<Vec<u8>>>,
}

impl<'a> Overlay<'a> {
    /// `files` by absolute path; `None`: the file is not there.
    pub fn new(base: &'a dyn Host, files: BTreeMap<PathBuf, Option<Vec<u8>>>) -> Self {
        Overlay { base, files }
    }

    fn over(&self, path: &Path) -> Option<Got<&Vec<u8>>> {
        let file = self.files.get(path)?;
        Some(file.as_ref().ok_or_else(|| Miss::Absent { what: path.display().to_string() }))
    }
}

impl Host for Overlay<'_> {
    fn identity(&self) -> Identity {
        self.base.identity()
    }

    fn read(&self, path: &Path, limit: u64) -> Got<Vec<u8>> {
        match self.over(path) {
            None => self.base.read(path, limit),
            Some(Ok(bytes)) if bytes.len() as u64 > limit => Err(Miss::TooBig { what: path.display().to_string(), limit }),
            Some(found) => found.cloned(),
        }
    }

    fn tail(&self, path: &Path, limit: u64) -> Got<Tail> {
        if self.over(path).is_none() {
            return self.base.tail(path, limit);
        }
        let mut bytes = self.read(path, MAX_FILE)?;
        let skip = bytes.len().saturating_sub(usize::try_from(limit).unwrap_or(usize::MAX));
        Ok(Tail { bytes: bytes.split_off(skip), cut: skip > 0 })
    }

    fn head(&self, path: &Path, limit: u64) -> Got<Vec<u8>> {
        if self.over(path).is_none() {
            return self.base.head(path, limit);
        }
        let mut bytes = self.read(path, MAX_FILE)?;
        bytes.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        Ok(bytes)
    }

    fn list(&self, dir: &Path) -> Got<Vec<String>> {
        let here: Vec<(&PathBuf, bool)> =
            self.files.iter().filter(|(p, _)| p.parent() == Some(dir)).map(|(p, f)| (p, f.is_some())).collect();
        let mut names: BTreeSet<String> = match self.base.list(dir) {
            Ok(names) => names.into_iter().collect(),
            Err(miss) if miss.is_absent() && here.iter().any(|(_, there)| *there) => BTreeSet::new(),
            Err(miss) => return Err(miss),
        };
        for (path, there) in here {
            let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
            if there {
                names.insert(name)
            } else {
                names.remove(&name)
            };
        }
        Ok(names.into_iter().collect())
    }

    fn stat(&self, path: &Path, follow: bool) -> Got<Meta> {
        match self.over(path) {
            None => self.base.stat(path, follow),
            Some(Err(miss)) => Err(miss),
            Some(Ok(bytes)) => {
                let new = Meta { kind: Kind::File, mode: 0o644, uid: 0, gid: 0, size: 0, mtime: 0 };
                let old = self.base.stat(path, true).unwrap_or(new);
                Ok(Meta { size: bytes.len() as u64, mtime: self.identity().now, ..old })
            }
        }
    }

    fn read_link(&self, path: &Path) -> Got<PathBuf> {
        self.base.read_link(path)
    }

    fn space(&self, path: &Path) -> Got<Space> {
        self.base.space(path)
    }

    fn listeners(&self) -> Got<Vec<ListeningSocket>> {
        self.base.listeners()
    }

    fn nf_tables(&self) -> Got<Vec<u8>> {
        self.base.nf_tables()
    }

    fn ip_sets(&self) -> Got<Vec<u8>> {
        self.base.ip_sets()
    }

    fn routing(&self) -> Got<Vec<u8>> {
        self.base.routing()
    }

    fn addresses(&self) -> Got<Vec<InterfaceAddress>> {
        self.base.addresses()
    }

    fn pem(&self, path: &Path) -> Got<pem::Pem> {
        match self.over(path) {
            None => self.base.pem(path),
            Some(bytes) => bytes.map(|bytes| pem::Pem::of(bytes)),
        }
    }

    fn tls(&self, to: SocketAddr) -> Got<tls::Handshake> {
        self.base.tls(to)
    }

    fn run(&self, command: &Command) -> Got<super::Output> {
        self.base.run(command)
    }

    /// Files that a load names by path are still those of the host: their effect cannot be tried before they are written.
    fn scratch(&self, loads: &[Load]) -> Got<Loaded> {
        let replaced = |l: &Load| matches!(l, Load::Nft { file } if self.files.contains_key(file));
        if loads.iter().any(replaced) {
            return Err(Miss::Unavailable {
                what: "a scratch network namespace".to_owned(),
                why: "its file is not written yet".to_owned(),
            });
        }
        self.base.scratch(loads)
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

    #[test]
    fn replaced_added_and_removed_files() {
        let base = Fake::new().file_with("/e/a", "old", 0o640, 7, 8).file("/e/b", "b");
        let files = [("/e/a", Some("newer")), ("/e/b", None), ("/e/c", Some("c"))];
        let over = Overlay::new(&base, files.into_iter().map(|(p, f)| (p.into(), f.map(|f| f.as_bytes().to_vec()))).collect());
        assert_eq!(over.read(Path::new("/e/a"), 9), Ok(b"newer".to_vec()));
        assert!(over.read(Path::new("/e/a"), 3).is_err());
        assert!(over.read(Path::new("/e/b"), 9).unwrap_err().is_absent());
        assert_eq!(over.list(Path::new("/e")), Ok(vec!["a".into(), "c".into()]));
        let meta = over.stat(Path::new("/e/a"), true).unwrap();
        assert_eq!((meta.mode, meta.uid, meta.gid, meta.size), (0o640, 7, 8, 5));
        assert_eq!(over.tail(Path::new("/e/a"), 2), Ok(Tail { bytes: b"er".to_vec(), cut: true }));
    }
}

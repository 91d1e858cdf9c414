//! What the broker's user may do with a file, by mode bits.

use crate::facts::{Fact, os::Install};
use crate::host::{Got, Host, Meta, follow, read_text};
use std::path::{Path, PathBuf};

/// The user that the broker runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    pub uid: u32,
    /// Its own group and those that /etc/group puts it in.
    pub gids: Vec<u32>,
}

/// Permission bit of reading (a file) or listing (a directory).
pub const READ: u32 = 4;
/// Permission bit of writing.
pub const WRITE: u32 = 2;
/// Permission bit of going through a directory.
pub const SEARCH: u32 = 1;

/// The answer to "may it?".
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Access {
    Yes,
    Absent,
    /// Its own mode bits refuse it.
    No(PathBuf),
    /// This directory on the way cannot be entered: to the broker the path does not exist.
    Hidden(PathBuf),
    /// Its symbolic links lead in a circle: nobody can use it.
    Circle,
}

impl Access {
    /// Why the broker cannot use `path`, if it cannot.
    pub fn refusal(&self, path: &Path) -> Option<String> {
        let path = path.display();
        match self {
            Access::Yes => None,
            Access::Absent => Some(format!("{path} is not there")),
            Access::Circle => Some(format!("the symbolic links of {path} lead in a circle")),
            Access::No(by) | Access::Hidden(by) => {
                Some(format!("the broker's user may not use {path} because of the permissions of {}", by.display()))
            }
        }
    }
}

impl User {
    /// The user `rabbitmq` of the installation with its supplementary groups.
    pub fn of(host: &dyn Host, install: &Install) -> Fact<User> {
        let (uid, gid) = match (&install.uid, &install.gid) {
            (Fact::Known(Some(uid)), Fact::Known(gid)) => (*uid, *gid),
            (Fact::Unknown(why), _) | (_, Fact::Unknown(why)) => return Fact::Unknown(why.clone()),
            (Fact::Known(None), _) => return Fact::Unknown("there is no user rabbitmq".into()),
        };
        let groups = read_text(host, "/etc/group").unwrap_or_default();
        let member = |line: &str| {
            let mut fields = line.split(':').skip(2);
            let gid: u32 = fields.next()?.parse().ok()?;
            fields.next()?.split(',').any(|name| name.trim() == "rabbitmq").then_some(gid)
        };
        Fact::Known(User { uid, gids: gid.into_iter().chain(groups.lines().filter_map(member)).collect() })
    }

    /// Whether owner and mode allow it.
    pub fn allowed(&self, meta: &Meta, bits: u32) -> bool {
        let shift = if meta.uid == self.uid {
            6
        } else if self.gids.contains(&meta.gid) {
            3
        } else {
            0
        };
        self.uid == 0 || (meta.mode >> shift) & bits == bits
    }
}

/// Whether `user` may do `bits` with `path`, directories on the way and symbolic links included. ACLs are not looked at.
pub fn may(host: &dyn Host, user: &User, path: &Path, bits: u32) -> Got<Access> {
    let refused = follow(host, path, &mut |at, meta, last| match last {
        true => (!user.allowed(meta, bits)).then(|| Access::No(at.to_owned())),
        false => (!user.allowed(meta, SEARCH)).then(|| Access::Hidden(at.to_owned())),
    });
    match refused {
        Err(miss) if miss.is_absent() => Ok(Access::Absent),
        Err(miss) if miss.is_circle() => Ok(Access::Circle),
        refused => Ok(refused?.unwrap_or(Access::Yes)),
    }
}

/// Whether the broker's user certainly may not read a file.
pub fn hidden(host: &dyn Host, user: &Fact<User>, path: &Path) -> bool {
    let Fact::Known(user) = user else { return false };
    matches!(may(host, user, path, READ), Ok(Access::No(_) | Access::Hidden(_)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::Fake;

    #[test]
    fn every_directory_on_the_way_counts() {
        let user = User { uid: 104, gids: vec![109, 110] };
        let host = Fake::new()
            .file_with("/etc/rabbitmq/rabbitmq.conf", "", 0o640, 0, 109)
            .file_with("/etc/rabbitmq/root.conf", "", 0o600, 0, 0)
            .file_with("/etc/ssl/private/key.pem", "", 0o640, 0, 110)
            .dir("/etc/ssl/private", 0o700, 0, 0)
            .link("/etc/rabbitmq/key.pem", "../ssl/private/key.pem");
        let may = |path: &str| may(&host, &user, Path::new(path), READ).unwrap();
        assert_eq!(may("/etc/rabbitmq/rabbitmq.conf"), Access::Yes);
        assert_eq!(may("/etc/rabbitmq/root.conf"), Access::No("/etc/rabbitmq/root.conf".into()));
        assert_eq!(may("/etc/rabbitmq/key.pem"), Access::Hidden("/etc/ssl/private".into()));
        assert_eq!(may("/etc/rabbitmq/none"), Access::Absent);
    }
}

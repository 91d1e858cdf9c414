//! Files that values name: readable for the broker's user or not, certificates or not.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;

use anyhow::{Context, Result};

/// Paths as values.
#[rustfmt::skip]
pub const PATHS: &[&str] = &[
    "/lab/files/cert.pem", "/etc/ssl/certs/ISRG_Root_X1.pem", "/lab/files/dir", "/lab/files/plain.txt", "/lab/files/empty",
    "/lab/files/bogus.pem", "/lab/files/root-only.pem", "/lab/files/group.pem", "/lab/files/closed/cert.pem",
    "/lab/files/own", "/lab/files/link.pem", "/lab/files/broken.pem", "/lab/files/circle.pem", "/lab/files/none.pem",
    "/lab/files/cert.pem/", "/", "/tmp", "/lab/files/dir/", "/lab/files//cert.pem", "/lab/files/dir/../cert.pem",
    "/lab/files/none/../cert.pem", "/etc/shadow", "/dev/null", "/etc", "cert.pem", ".", "~/cert.pem", "'/lab/files/cert.pem'",
    "/lab/files/cert.pem # the certificate", "/lab/files/with blank.pem", "/lab/files/own-unreadable.pem",
    "/lab/files/closed", "/lab/files/search-only", "/lab/files/search-only/cert.pem", "/var/lib/rabbitmq",
    "/lab/files/key.pem", "/lab/files/crlf.pem", "/lab/files/two.pem", "/lab/files/der.crt",
];

/// Makes those of them that lie in `/lab/files` of the tree.
pub fn make(root: &Path) -> Result<()> {
    let (uid, gid) = broker(root)?;
    let dir = root.join("lab/files");
    for sub in ["", "dir", "closed", "own", "search-only"] {
        fs::create_dir_all(dir.join(sub))?;
    }
    let real = fs::read(root.join("etc/ssl/certs/ISRG_Root_X1.pem"))?;
    let text = String::from_utf8_lossy(&real).into_owned();
    let bogus = "-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n";
    let files: [(&str, Vec<u8>, u32); 16] = [
        ("cert.pem", real.clone(), 0o644),
        ("two.pem", [real.clone(), real.clone()].concat(), 0o644),
        ("crlf.pem", text.replace('\n', "\r\n").into_bytes(), 0o644),
        ("bogus.pem", bogus.into(), 0o644),
        ("key.pem", "-----BEGIN RSA PRIVATE KEY-----\nAAAA\n-----END RSA PRIVATE KEY-----\n".into(), 0o644),
        ("der.crt", vec![0x30, 0x82, 0, 1, 0], 0o644),
        ("plain.txt", "10\n".into(), 0o644),
        ("empty", Vec::new(), 0o644),
        ("with blank.pem", real.clone(), 0o644),
        ("extra.conf", "heartbeat = 30\n".into(), 0o644),
        ("root-only.pem", real.clone(), 0o600),
        ("group.pem", real.clone(), 0o640),
        ("own-unreadable.pem", real.clone(), 0o044),
        ("closed/cert.pem", real.clone(), 0o644),
        ("search-only/cert.pem", real.clone(), 0o644),
        ("dir/cert.pem", real, 0o644),
    ];
    for (name, bytes, mode) in files {
        let path = dir.join(name);
        fs::write(&path, bytes)?;
        fs::set_permissions(&path, Permissions::from_mode(mode))?;
    }
    chown(dir.join("group.pem"), None, Some(gid))?;
    chown(dir.join("own-unreadable.pem"), Some(uid), None)?;
    chown(dir.join("own"), Some(uid), Some(gid))?;
    fs::set_permissions(dir.join("closed"), Permissions::from_mode(0o700))?;
    fs::set_permissions(dir.join("search-only"), Permissions::from_mode(0o711))?;
    symlink("cert.pem", dir.join("link.pem"))?;
    symlink("nowhere", dir.join("broken.pem"))?;
    symlink("circle.pem", dir.join("circle.pem"))?;
    Ok(())
}

/// User and group of the broker in the tree.
fn broker(root: &Path) -> Result<(u32, u32)> {
    let passwd = fs::read_to_string(root.join("etc/passwd"))?;
    let line = passwd.lines().find(|line| line.starts_with("rabbitmq:")).context("no user rabbitmq")?;
    let fields: Vec<&str> = line.split(':').collect();
    Ok((fields.get(2).context("uid")?.parse()?, fields.get(3).context("gid")?.parse()?))
}

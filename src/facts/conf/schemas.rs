//! The schemas of the installed plugins, enabled or not: the broker loads them all.

use crate::facts::os::Install;
use crate::facts::plugins::packages::Package;
use crate::formats::rabbitmq_conf::Dialect;
use crate::formats::schema::{Schema, Source};
use crate::host::{Got, Host};

/// The version of cuttlefish that will read the files: major and minor.
pub type Cuttlefish = (u32, u32);

/// The numbers of a version like `4.0.5` or `3.13.0-rc.1`; what is missing is 0.
pub fn numbers(version: &str) -> (u32, u32, u32) {
    let mut parts = version.split(['.', '-', '~', '+']).map(|p| p.parse().unwrap_or(0));
    let mut next = || parts.next().unwrap_or(0);
    (next(), next(), next())
}

/// The cuttlefish that lies in the plugin directories; patch releases of the broker change it.
pub fn cuttlefish(packages: &[Package]) -> Option<Cuttlefish> {
    let package = packages.iter().rev().find(|p| p.app == "cuttlefish")?;
    let (major, minor, _) = numbers(&package.version);
    Some((major, minor))
}

/// How rabbitmq.conf is read by this installation.
pub fn dialect(install: &Install, cuttlefish: Option<Cuttlefish>) -> Dialect {
    let (major, minor, patch) = numbers(&install.version);
    cuttlefish.map_or_else(|| Dialect::for_version(major, minor, patch), |(major, minor)| Dialect::for_cuttlefish(major, minor))
}

/// Reads all schemas.
pub fn load(host: &dyn Host, packages: &[Package], cuttlefish: Option<Cuttlefish>) -> Got<Schema> {
    let cuttlefish = cuttlefish.unwrap_or((3, 4));
    // Since partials exist, only these two extensions are looked at.
    let strict = cuttlefish >= (3, 8);
    let wanted = |name: &str| !name.starts_with('.') && (!strict || name.ends_with(".schema") || name.ends_with(".partial"));
    let mut files = Vec::new();
    for package in packages {
        for (name, bytes) in package.files(host, "priv/schema", &wanted)? {
            files.push((package.app.as_str(), name, String::from_utf8_lossy(&bytes).into_owned()));
        }
    }
    let sources: Vec<Source<'_>> = files.iter().map(|(app, name, text)| Source { app, name, text }).collect();
    Ok(Schema::parse(&sources, cuttlefish))
}

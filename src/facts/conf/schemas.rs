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

/// One schema file: the application that it belongs to, its name, its text.
pub type SchemaFile = (String, String, String);

/// The schema files of all packages that this cuttlefish reads.
pub fn files(host: &dyn Host, packages: &[Package], cuttlefish: Cuttlefish) -> Got<Vec<SchemaFile>> {
    let mut files = Vec::new();
    for package in packages {
        for (name, bytes) in package.files(host, "priv/schema", &|name| is_schema(name, cuttlefish))? {
            files.push((package.app.clone(), name, String::from_utf8_lossy(&bytes).into_owned()));
        }
    }
    Ok(files)
}

/// Up to cuttlefish 3.7 every file of the directory is read; since partials exist, only these two extensions are looked at.
pub fn is_schema(name: &str, cuttlefish: Cuttlefish) -> bool {
    let strict = cuttlefish >= (3, 8);
    !name.starts_with('.') && (!strict || name.ends_with(".schema") || name.ends_with(".partial"))
}

/// The schema that these files make together.
pub fn parse(files: &[SchemaFile], cuttlefish: Cuttlefish) -> Schema {
    let sources: Vec<Source<'_>> = files.iter().map(|(app, name, text)| Source { app, name, text }).collect();
    Schema::parse(&sources, cuttlefish)
}

/// Reads all schemas.
pub fn load(host: &dyn Host, packages: &[Package], cuttlefish: Option<Cuttlefish>) -> Got<Schema> {
    let cuttlefish = cuttlefish.unwrap_or((3, 4));
    Ok(parse(&files(host, packages, cuttlefish)?, cuttlefish))
}

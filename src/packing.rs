//! The table of releases as tests/schemas sees it. Not an interface for anybody else.

use crate::facts::Fact;
use crate::facts::conf::schemas::{self, Cuttlefish, SchemaFile};
use crate::facts::os;
use crate::facts::plugins::packages;
use crate::formats::schema::packed::{self, Release};
use crate::host::Host;
use crate::host::tree::Tree;
use anyhow::{anyhow, bail};
use std::path::Path;

/// A release with its schema files.
pub struct Source {
    pub version: String,
    pub cuttlefish: Cuttlefish,
    pub plugins: Vec<String>,
    pub files: Vec<SchemaFile>,
    /// Installed applications and their versions.
    pub apps: Vec<(String, String)>,
}

/// The release that is installed in a file tree.
pub fn installed(root: &Path) -> anyhow::Result<Source> {
    installed_on(&Tree::open(root).map_err(|miss| anyhow!("{miss}"))?)
}

fn installed_on(host: &dyn Host) -> anyhow::Result<Source> {
    let Fact::Known(Some(install)) = os::collect_install(host) else { bail!("no RabbitMQ is installed there") };
    let packages = packages::list(host, &install.plugin_dirs).map_err(|miss| anyhow!("{miss}"))?;
    let Some(cuttlefish) = schemas::cuttlefish(&packages) else { bail!("no cuttlefish is installed there") };
    let files = schemas::files(host, &packages, cuttlefish).map_err(|miss| anyhow!("{miss}"))?;
    let apps: Vec<(String, String)> = packages.into_iter().map(|p| (p.app, p.version)).collect();
    let plugin = |app: &&String| app.starts_with("rabbitmq_") && *app != "rabbitmq_prelaunch";
    let mut plugins: Vec<String> = apps.iter().map(|(app, _)| app).filter(plugin).cloned().collect();
    plugins.dedup();
    Ok(Source { version: install.version, cuttlefish, plugins, files, apps })
}

/// The table, and what could not be understood: `version: what`.
pub fn pack(sources: Vec<Source>) -> anyhow::Result<(String, Vec<String>)> {
    let mut unread = Vec::new();
    let mut releases = Vec::new();
    for source in sources {
        let files: Vec<SchemaFile> =
            source.files.into_iter().filter(|(_, name, _)| schemas::is_schema(name, source.cuttlefish)).collect();
        let schema = schemas::parse(&files, source.cuttlefish);
        unread.extend(schema.not_understood().map(|what| format!("{}: {what}", source.version)));
        releases.push((Release { version: source.version, cuttlefish: source.cuttlefish }, schema, source.plugins));
    }
    Ok((packed::pack(releases)?, unread))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::capture::Replay;

    static DEMO: include_dir::Dir = include_dir::include_dir!("$CARGO_MANIFEST_DIR/packaging/demo");

    /// Facts of a table without the releases that they belong to.
    fn facts(table: &str) -> Vec<&str> {
        table.lines().skip(1).filter_map(|line| line.split_once('\t')).map(|(_, fact)| fact).collect()
    }

    #[test]
    fn the_table_says_what_an_installation_says() {
        let installed = installed_on(&Replay::packed(&DEMO).unwrap()).unwrap();
        assert_eq!(installed.version, "4.0.5");
        let (fresh, unread) = pack(vec![installed]).unwrap();
        assert_eq!(unread, Vec::<String>::new());
        let release = packed::find("4.0.5").unwrap();
        let (schema, plugins) = release.load();
        let kept = packed::pack(vec![(release, schema, plugins)]).unwrap();
        assert_eq!(facts(&fresh), facts(&kept));
    }
}

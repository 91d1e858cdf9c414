//! Applications in the plugin directories: directories since 3.9, `.ez` zip archives on 3.8 and for many community plugins.

use crate::host::{Got, Host, MAX_FILE, Miss};
use std::io::{Cursor, Read};
use std::path::{Path, PathBuf};

/// One application on disk: `rabbit-4.0.5`, `rabbitmq_delayed_message_exchange-3.10.2.ez`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Package {
    pub app: String,
    pub version: String,
    pub path: PathBuf,
    /// A zip archive.
    pub archive: bool,
}

/// Largest single file that is taken out of an archive, in bytes.
const MAX_ENTRY: u64 = 1024 * 1024;

/// All packages of the plugin directories, by application; of several versions in one place the last by name.
pub fn list(host: &dyn Host, dirs: &[String]) -> Got<Vec<Package>> {
    let mut packages = Vec::new();
    for dir in dirs {
        for name in host.list(Path::new(dir))? {
            let (stem, archive) = name.strip_suffix(".ez").map_or((name.as_str(), false), |stem| (stem, true));
            // What has no version is no package (README), except in a development tree.
            let Some((app, version)) = stem.split_once('-') else { continue };
            packages.push(Package {
                app: app.to_owned(),
                version: version.to_owned(),
                path: Path::new(dir).join(&name),
                archive,
            });
        }
    }
    packages.sort();
    Ok(packages)
}

impl Package {
    /// The files of one directory inside the package (`priv/schema`), by name: name and content. None if it has no such directory.
    pub fn files(&self, host: &dyn Host, dir: &str, wanted: &dyn Fn(&str) -> bool) -> Got<Vec<(String, Vec<u8>)>> {
        if self.archive {
            return self.archived(host, dir, wanted);
        }
        let at = self.path.join(dir);
        let names = match host.list(&at) {
            Ok(names) => names,
            Err(miss) if miss.is_absent() => return Ok(Vec::new()),
            Err(miss) => return Err(miss),
        };
        names.into_iter().filter(|n| wanted(n)).map(|n| Ok((n.clone(), host.read(&at.join(&n), MAX_FILE)?))).collect()
    }

    fn archived(&self, host: &dyn Host, dir: &str, wanted: &dyn Fn(&str) -> bool) -> Got<Vec<(String, Vec<u8>)>> {
        let bytes = host.read(&self.path, MAX_FILE)?;
        let failed = |e: &dyn std::fmt::Display| Miss::failed(self.path.display().to_string(), e);
        let mut zip = zip::ZipArchive::new(Cursor::new(bytes)).map_err(|e| failed(&e))?;
        // Inside, everything is below `app-version/`.
        let name_of = |path: &str| Some(path.split_once('/')?.1.strip_prefix(dir)?.strip_prefix('/')?.to_owned());
        let mut entries: Vec<(String, String)> = zip
            .file_names()
            .filter_map(|path| {
                let path = path.ok()?;
                Some((name_of(&path)?, path.into_owned()))
            })
            .filter(|(name, _)| !name.is_empty() && !name.contains('/') && wanted(name))
            .collect();
        entries.sort();
        let mut files = Vec::new();
        for (name, path) in entries {
            let mut content = Vec::new();
            let entry = zip.by_name(&path).map_err(|e| failed(&e))?;
            entry.take(MAX_ENTRY).read_to_end(&mut content).map_err(|e| failed(&e))?;
            files.push((name, content));
        }
        Ok(files)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::Fake;
    use std::io::Write;

    fn zipped(path: &str, content: &str) -> Vec<u8> {
        let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
        zip.start_file(path, zip::write::SimpleFileOptions::default()).unwrap();
        zip.write_all(content.as_bytes()).unwrap();
        zip.finish().unwrap().into_inner()
    }

    #[test]
    fn directories_and_archives() {
        let host = Fake::new()
            .file("/p/README", "")
            .file("/p/rabbit-4.0.5/priv/schema/rabbit.schema", "a")
            .file("/p/ranch-2.1.0/ebin/ranch.app", "")
            .file("/q/rabbitmq_x-1.0.ez", zipped("rabbitmq_x-1.0/priv/schema/x.schema", "b"));
        let all = list(&host, &["/p".into(), "/q".into()]).unwrap();
        assert_eq!(all.iter().map(|p| p.app.as_str()).collect::<Vec<_>>(), ["rabbit", "rabbitmq_x", "ranch"]);
        let schemas: Vec<_> = all.iter().flat_map(|p| p.files(&host, "priv/schema", &|_| true).unwrap()).collect();
        assert_eq!(schemas, [("rabbit.schema".into(), b"a".to_vec()), ("x.schema".into(), b"b".to_vec())]);
    }
}

//! Configuration directories to judge: real ones, mutations of them, and what the schemas suggest. The same seed gives the same cases.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result};
use fastrand::Rng;

use super::layouts::layout;
use super::mutations::mutated;
use super::oracle::Mapping;
use super::values;

/// One directory, laid out as /etc/rabbitmq.
#[derive(Debug, Clone, PartialEq)]
pub struct Case {
    /// The family and the number that it can be made again with.
    pub name: String,
    pub files: Vec<File>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct File {
    /// Below the directory; a directory of its own when it ends in `/`.
    pub path: String,
    pub bytes: Vec<u8>,
    /// Mode of the file; it belongs to root.
    pub mode: u32,
}

impl File {
    pub fn new(path: &str, bytes: impl Into<Vec<u8>>) -> Self {
        Self { path: path.into(), bytes: bytes.into(), mode: if path.ends_with('/') { 0o755 } else { 0o644 } }
    }
}

impl Case {
    fn main(name: String, bytes: impl Into<Vec<u8>>) -> Self {
        Self { name, files: vec![File::new("rabbitmq.conf", bytes)] }
    }

    /// Writes the directory.
    pub fn write(&self, dir: &Path) -> Result<()> {
        fs::create_dir_all(dir)?;
        // Directories last: their modes may keep files from being written.
        let (dirs, files): (Vec<&File>, Vec<&File>) = self.files.iter().partition(|file| file.path.ends_with('/'));
        for file in files {
            let path = dir.join(&file.path);
            fs::create_dir_all(path.parent().unwrap_or(dir))?;
            fs::write(&path, &file.bytes).with_context(|| path.display().to_string())?;
            fs::set_permissions(&path, Permissions::from_mode(file.mode))?;
        }
        for file in dirs {
            let path = dir.join(&file.path);
            fs::create_dir_all(&path)?;
            fs::set_permissions(&path, Permissions::from_mode(file.mode))?;
        }
        Ok(())
    }

    /// The same with a file, a run of lines or one line less; the boldest first.
    pub fn smaller(&self) -> Vec<Case> {
        let mut all = Vec::new();
        let mut with = |files: Vec<File>| all.push(Case { name: self.name.clone(), files });
        for at in 0..self.files.len() {
            let mut files = self.files.clone();
            files.remove(at);
            with(files);
        }
        for (at, file) in self.files.iter().enumerate() {
            let lines: Vec<&[u8]> = file.bytes.split_inclusive(|byte| *byte == b'\n').collect();
            let mut run = lines.len() / 2;
            while run > 0 {
                for start in (0..lines.len()).step_by(run) {
                    let mut files = self.files.clone();
                    files[at].bytes = [&lines[..start], &lines[lines.len().min(start + run)..]].concat().concat();
                    with(files);
                }
                run /= 2;
            }
        }
        all
    }

    /// As it is printed: names, modes that matter, bytes escaped line by line.
    pub fn show(&self) -> String {
        let mut text = String::new();
        for file in &self.files {
            let mode = if matches!(file.mode, 0o644 | 0o755) { String::new() } else { format!(" (mode {:o})", file.mode) };
            text += &format!("  {}{mode}:\n", file.path);
            for line in file.bytes.split_inclusive(|byte| *byte == b'\n') {
                let shown = line.escape_ascii().to_string().replace("\\\\", "\\").replace("\\\'", "'").replace("\\\"", "\"");
                text += &format!("    |{}\n", shown.strip_suffix("\\n").map_or(format!("{shown}|"), str::to_owned));
            }
        }
        text
    }
}

/// One family of cases.
type Maker = fn(&Source, &mut Rng) -> Vec<File>;

/// Where cases come from.
pub struct Source {
    pub mappings: Vec<Mapping>,
    /// Real files of the rabbitmq.conf format, by name; none when there are no such folders beside the project.
    real: Vec<(String, Vec<u8>)>,
    /// Real advanced.config files.
    advanced: Vec<Vec<u8>>,
    seed: u64,
}

impl Source {
    /// Takes the snippets and the corpus from beside the project where they are.
    pub fn new(mappings: Vec<Mapping>, seed: u64) -> Result<Self> {
        let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared");
        let mut real = read_all(&shared.join("fixtures/rabbitmq/conf-cases"), "snippet")?;
        real.extend(read_all(&shared.join("corpus/rabbitmq-conf"), "corpus")?);
        let advanced = read_all(&shared.join("corpus/rabbitmq-conf/advanced"), "advanced")?;
        Ok(Self { mappings, real, advanced: advanced.into_iter().map(|(_, bytes)| bytes).collect(), seed })
    }

    /// `count` cases: all real files once (a fourth of the cases when there are fewer), then the families in turn.
    pub fn cases(&self, count: usize) -> Vec<Case> {
        let mut real: Vec<Case> = self.real.iter().map(|(name, bytes)| Case::main(name.clone(), bytes.clone())).collect();
        let mut rng = Rng::with_seed(self.seed);
        if real.len() > count / 4 {
            rng.shuffle(&mut real);
            real.truncate(count / 4);
        }
        let rest = count - real.len();
        real.extend((0..rest).map(|number| self.made(number)));
        real
    }

    /// The case with this number.
    pub fn made(&self, number: usize) -> Case {
        // Close seeds give close first numbers, so the number goes into the seed's high bits too.
        let mut rng = Rng::with_seed(self.seed ^ (number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let (family, make): (&str, Maker) = match rng.u32(..20) {
            0..=6 => ("key", Self::one_key),
            7..=12 => ("keys", Self::several_keys),
            13..=17 => ("mutation", Self::mutation),
            _ => ("layout", layout),
        };
        Case { name: format!("{family}-{number}"), files: make(self, &mut rng) }
    }

    /// One setting with a value at the edge.
    fn one_key(&self, rng: &mut Rng) -> Vec<File> {
        let mapping = self.mapping(rng);
        let name = name(rng);
        let line = format!("{} = {}\n", key(rng, mapping, name), values::value(rng, mapping));
        vec![File::new("rabbitmq.conf", line)]
    }

    pub fn mapping(&self, rng: &mut Rng) -> &Mapping {
        &self.mappings[rng.usize(..self.mappings.len())]
    }

    /// A real rabbitmq.conf.
    pub fn real(&self, rng: &mut Rng) -> Option<Vec<u8>> {
        rng.choice(&self.real).map(|(_, bytes)| bytes.clone())
    }

    /// A real advanced.config.
    pub fn advanced(&self, rng: &mut Rng) -> Option<Vec<u8>> {
        rng.choice(&self.advanced).cloned()
    }

    fn several_keys(&self, rng: &mut Rng) -> Vec<File> {
        vec![File::new("rabbitmq.conf", self.lines(rng).concat())]
    }

    /// Settings that are likely to meet in one translation: those whose keys begin alike. Most values are good ones.
    pub fn lines(&self, rng: &mut Rng) -> Vec<String> {
        let first = self.mapping(rng);
        let words: Vec<&str> = first.key.split('.').collect();
        let prefix = words[..rng.usize(1..3).min(words.len())].join(".");
        let translated = rng.bool();
        let near = |m: &&Mapping| {
            m.key.strip_prefix(&prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
                && (m.translated || !translated)
        };
        let mut group: Vec<&Mapping> = self.mappings.iter().filter(near).collect();
        if rng.u32(..4) == 0 || group.is_empty() {
            group = (0..8).map(|_| self.mapping(rng)).collect();
        }
        let names = [name(rng), name(rng)];
        let bad = rng.u32(..8);
        let lines = (0..rng.usize(2..9)).map(|_| {
            let mapping = group[rng.usize(..group.len())];
            let value = if rng.u32(..8) < bad / 4 { values::value(rng, mapping) } else { values::good(rng, mapping) };
            let name = names[rng.usize(..2)];
            format!("{} = {value}\n", key(rng, mapping, name))
        });
        lines.collect()
    }

    /// A real file, or a made one, with a few changes.
    fn mutation(&self, rng: &mut Rng) -> Vec<File> {
        let real = self.real(rng).filter(|_| rng.u32(..3) > 0);
        let mut bytes = real.unwrap_or_else(|| self.lines(rng).concat().into_bytes());
        for _ in 0..rng.usize(1..4) {
            bytes = mutated(self, rng, &bytes);
        }
        vec![File::new("rabbitmq.conf", bytes)]
    }
}

/// A key of the mapping: an alias now and then, `$` words filled in.
pub fn key(rng: &mut Rng, mapping: &Mapping, name: &str) -> String {
    let key = rng.choice(&mapping.aliases).filter(|_| name.len().is_multiple_of(2)).unwrap_or(&mapping.key);
    let words = key.split('.').map(|word| if word.starts_with('$') { name } else { word });
    words.collect::<Vec<_>>().join(".")
}

/// What can stand where the schema has `$name`.
pub fn name(rng: &mut Rng) -> &'static str {
    #[rustfmt::skip]
    const NAMES: [&str; 20] = [
        "1", "1", "1", "2", "2", "default", "guest", "local", "a", "x\\.y", "some-name", "-1", "01", "1a", "_", "10", "none", "true", "a_b",
        "A",
    ];
    NAMES[rng.usize(..NAMES.len())]
}

fn read_all(dir: &Path, prefix: &str) -> Result<Vec<(String, Vec<u8>)>> {
    let mut all = Vec::new();
    let Ok(entries) = fs::read_dir(dir) else { return Ok(all) };
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "conf" || e == "config") {
            let name = path.file_stem().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
            all.push((format!("{prefix}-{name}"), fs::read(&path)?));
        }
    }
    all.sort();
    Ok(all)
}

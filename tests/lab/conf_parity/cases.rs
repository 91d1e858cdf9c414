//! Configuration directories to judge: real ones, mutations of them, and what the schemas suggest. The same seed gives the same cases.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;

use anyhow::{Context, Result};
use fastrand::Rng;

use super::oracle::Mapping;
use super::values::{self, pick};

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
    fn new(path: &str, bytes: impl Into<Vec<u8>>) -> Self {
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
        let shared = fs::canonicalize(shared).unwrap_or_else(|_| "/work/shared".into());
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
            _ => ("layout", Self::layout),
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

    fn mapping(&self, rng: &mut Rng) -> &Mapping {
        &self.mappings[rng.usize(..self.mappings.len())]
    }

    /// Settings that are likely to meet in one translation: those whose keys begin alike. Most values are good ones.
    fn several_keys(&self, rng: &mut Rng) -> Vec<File> {
        vec![File::new("rabbitmq.conf", self.lines(rng).concat())]
    }

    fn lines(&self, rng: &mut Rng) -> Vec<String> {
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
        let mut bytes = match rng.choice(&self.real) {
            Some((_, bytes)) if rng.u32(..3) > 0 => bytes.clone(),
            _ => self.lines(rng).concat().into_bytes(),
        };
        for _ in 0..rng.usize(1..4) {
            bytes = self.mutated(rng, bytes);
        }
        vec![File::new("rabbitmq.conf", bytes)]
    }

    fn mutated(&self, rng: &mut Rng, mut bytes: Vec<u8>) -> Vec<u8> {
        let mut lines: Vec<Vec<u8>> = bytes.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
        let settings: Vec<usize> = (0..lines.len()).filter(|at| is_setting(&lines[*at])).collect();
        let Some(at) = rng.choice(&settings).copied() else {
            bytes.extend(self.lines(rng).concat().bytes());
            return bytes;
        };
        match rng.u32(..26) {
            0 | 1 => lines[at] = typo(rng, &lines[at]),
            2 | 3 => {
                let value = pick(rng, values::NASTY);
                lines[at] = with_value(&lines[at], |_| value.to_owned());
            }
            4 => {
                let quote = pick(rng, &["'", "\"", "'''", "`", "\u{201c}"]);
                lines[at] = with_value(&lines[at], |value| format!("{quote}{value}{quote}"));
            }
            5 => lines[at] = with_value(&lines[at], |value| format!("'{value}")),
            6 => {
                let comment = pick(rng, &["#x", " # x", "#", " #'", "\t# \u{e4}", " ; x", " // x", " '"]);
                lines[at] = with_value(&lines[at], |value| format!("{value}{comment}"));
            }
            7 => {
                lines.insert(0, b"\xef\xbb\xbf".to_vec());
            }
            8 => return bytes.iter().flat_map(|b| if *b == b'\n' { vec![b'\r', b'\n'] } else { vec![*b] }).collect(),
            9 => lines[at] = lines[at].iter().flat_map(|b| if *b == b'\n' { vec![b'\r', b'\n'] } else { vec![*b] }).collect(),
            10 => {
                let byte: &[u8] = [
                    &b"\xfc"[..],
                    b"\0",
                    b"\x0b",
                    b"\x0c",
                    b"\r",
                    b"\xc2\xa0",
                    b"\xc3\xa4",
                    b"\xf0\x9f\x98\x80",
                    b"\xe6\x97\xa5",
                    b"\xff",
                    b"\xc3",
                    b"\xed\xa0\x80",
                    b"\xef\xbb\xbf",
                    b"\x7f",
                    b"\x1b[31m",
                    b"\xe2\x80\x8b",
                ][rng.usize(..16)];
                let place = rng.usize(..bytes.len());
                bytes.splice(place..place, byte.iter().copied());
                return bytes;
            }
            11 => {
                let place = rng.usize(..lines.len() + 1);
                let copy = with_value(&lines[at], |value| if rng.bool() { value.to_owned() } else { format!("{value}0") });
                lines.insert(place, copy);
            }
            12 => {
                while bytes.last().is_some_and(|b| matches!(b, b'\n' | b'\r')) {
                    bytes.pop();
                }
                bytes.extend(pick(rng, &["", " ", "\t ", "\r", " \r", "#", " # x"]).bytes());
                return bytes;
            }
            13 => lines[at].splice(0..0, pick(rng, &[" ", "\t", " \t ", "\u{a0}", "\u{feff}"]).bytes()).for_each(drop),
            14 => {
                lines[at] = replaced(
                    &lines[at],
                    "=",
                    pick(rng, &[":", " ", "==", " = = ", "\t=\t", "=\\\n", " =\n", ":=", "=>", "=", "\n="]),
                )
            }
            15 => lines[at] = replaced(&lines[at], ".", pick(rng, &["\\.", "..", ". ", " .", "", "\\", "/", "_", "-", "\\\\."])),
            16 => {
                let place = rng.usize(..lines[at].len());
                lines[at].insert(place, b'\n');
            }
            17 => {
                let joined: Vec<u8> = lines[at].iter().copied().filter(|b| *b != b'\n').collect();
                lines[at] = joined;
            }
            18 => {
                let include = pick(rng, INCLUDES);
                lines.insert(at, format!("{include}\n").into_bytes());
            }
            19 | 20 => {
                let text = String::from_utf8_lossy(&lines[rng.choice(&settings).copied().unwrap_or(at)]).into_owned();
                let other = text.split('=').next().unwrap_or("x").trim().to_owned();
                let pattern = pick(
                    rng,
                    &["$(K)", "a$(K)b", "$( K )", "$(K)$(K)", "$(K", "$((K))", "$(<K)", "'$(K)'", "$(K) # x", "$(HOME)$(K)"],
                );
                let value = pattern.replace('K', &other);
                lines[at] = with_value(&lines[at], |_| value);
            }
            21 => {
                let noise = pick(
                    rng,
                    &[
                        "; comment",
                        "// comment",
                        "[rabbit]",
                        "[{rabbit, []}].",
                        "key",
                        "key =",
                        "= value",
                        "key value",
                        "key: value",
                        "#",
                        "  # x",
                        " ",
                        "\t",
                        "\\",
                        "'",
                        "'''",
                        "include",
                        "a.b.c = 1",
                        "# \u{e4}",
                        "%% comment",
                        "a..b = 1",
                        ".a = 1",
                        "a. = 1",
                        "- = 1",
                        "_ = 1",
                        "0 = 1",
                        "a\\.b = 1",
                        "\\. = 1",
                        "a b = 1",
                        "\u{e4} = 1",
                        "a =1",
                        "a= 1",
                        "A = 1",
                        "loopback_users.john\\.doe = true",
                        "loopback_users = none",
                        "listeners.tcp = none",
                        "a\\b = 1",
                    ],
                );
                lines.insert(at, format!("{noise}\n").into_bytes());
            }
            22 => {
                let letter = pick(rng, &["\u{e4}", "\u{65e5}", "\u{1f600}", "\u{100}", "\u{ff}", "\u{200b}"]);
                lines[at] = with_value(&lines[at], |value| format!("{value}{letter}"));
            }
            23 => lines[at] = with_value(&lines[at], |value| value.repeat(200)),
            24 => {
                bytes.truncate(rng.usize(..bytes.len()));
                return bytes;
            }
            _ => {
                let other = self.lines(rng).concat();
                lines.insert(at, other.into_bytes());
            }
        }
        lines.concat()
    }

    /// Several files: conf.d, includes, advanced.config, the classic format, closed doors.
    fn layout(&self, rng: &mut Rng) -> Vec<File> {
        let mut files = vec![File::new("rabbitmq.conf", self.lines(rng).concat())];
        for _ in 0..rng.usize(1..4) {
            let more = self.lines(rng).concat();
            match rng.u32(..14) {
                0..=2 => {
                    let name = pick(
                        rng,
                        &[
                            "10-a.conf",
                            "9-b.conf",
                            "z.conf",
                            ".hidden.conf",
                            "x.conf.bak",
                            "A.conf",
                            "a b.conf",
                            "u.txt",
                            "b.conf",
                        ],
                    );
                    files.push(File::new(&format!("conf.d/{name}"), more));
                }
                3..=6 => {
                    let (include, name) = [
                        ("include extra.conf", "extra.conf"),
                        ("include ./extra.conf", "extra.conf"),
                        ("include sub/one.conf", "sub/one.conf"),
                        ("include sub/*.conf", "sub/two.conf"),
                        ("include *.inc", "a.inc"),
                        ("include sub/../extra.conf", "extra.conf"),
                        ("include s*/one.conf", "sub/one.conf"),
                        ("include extra", "extra/x.conf"),
                        ("include none.conf", "other.conf"),
                        ("include extra.conf # more", "extra.conf"),
                        ("include  extra.conf", "extra.conf"),
                        ("  include extra.conf", "extra.conf"),
                        ("include extra.conf ", "extra.conf"),
                        ("include\textra.conf", "extra.conf"),
                        ("include 'extra.conf'", "extra.conf"),
                        ("includeextra.conf", "extra.conf"),
                        ("include /lab/files/extra.conf", "x.conf"),
                        ("include ?xtra.conf", "extra.conf"),
                        ("include = extra.conf", "extra.conf"),
                        ("Include extra.conf", "extra.conf"),
                        ("include {extra,x}.conf", "extra.conf"),
                        ("include sub/.h.conf", "sub/.h.conf"),
                        ("include sub/*", "sub/.h.conf"),
                        ("include *.conf.inc", "extra.conf.inc"),
                        ("include **/one.conf", "sub/deep/one.conf"),
                        ("include extra.conf\ninclude extra.conf", "extra.conf"),
                    ][rng.usize(..26)];
                    let include = format!("{include}\n").into_bytes();
                    let main = &mut files[0].bytes;
                    let place = if rng.bool() { 0 } else { main.len() };
                    main.splice(place..place, include).for_each(drop);
                    let more = if rng.u32(..5) == 0 { self.mutated(rng, more.into_bytes()) } else { more.into_bytes() };
                    files.push(File::new(name, more));
                    if rng.u32(..4) == 0 {
                        let deeper = File::new(&format!("{name}.deep.conf"), self.lines(rng).concat());
                        let name = deeper.path.rsplit('/').next().unwrap_or_default();
                        let line = format!("include {name}\n");
                        if let Some(file) = files.last_mut() {
                            file.bytes.splice(0..0, line.bytes());
                        }
                        files.push(deeper);
                    }
                }
                7 => {
                    let real = rng.choice(&self.advanced).cloned().unwrap_or_else(|| b"[].".to_vec());
                    let text: &[u8] = match rng.u32(..8) {
                        0 => b"[].\n",
                        1 => b"[{rabbit, [{heartbeat, 10}]}]",
                        2 => b"",
                        3 => b"[{rabbit, [{heartbeat, 10}]}]. []. ",
                        4 => b"[{rabbit, [{default_pass, <<\"x\">>}]}].\n",
                        _ => &real,
                    };
                    files.push(File::new(pick(rng, &["advanced.config", "advanced.config", "rabbitmq.config"]), text));
                }
                8 => {
                    if let Some(file) = rng.choice(0..files.len()).and_then(|at| files.get_mut(at)) {
                        file.mode = [0o600, 0o640, 0o000, 0o444][rng.usize(..4)];
                    }
                }
                9 => {
                    let mode = [0o700, 0o755, 0o711, 0o744][rng.usize(..4)];
                    files.push(File::new("conf.d/10-a.conf", more));
                    files.push(File { mode, ..File::new("conf.d/", "") });
                }
                10 => {
                    let real = rng.choice(&self.real).map_or(more.into_bytes(), |(_, bytes)| bytes.clone());
                    files.push(File::new("conf.d/20-real.conf", real));
                }
                11 => {
                    let bytes = self.mutated(rng, more.into_bytes());
                    files.push(File::new("conf.d/30-mutated.conf", bytes));
                }
                12 => {
                    files.push(File::new(
                        "secret.txt",
                        pick(rng, &["s3cret\n", "s3cret", "a\nb\n", "", "\n", "s3cret\r\n", "10\n", " 10", "\u{e4}\n"]),
                    ));
                    let mapping = self.mapping(rng);
                    let name = name(rng);
                    let value = pick(
                        rng,
                        &[
                            "$(<secret.txt)",
                            "$(< secret.txt )",
                            "$(<none.txt)",
                            "$(<./secret.txt)",
                            "'$(<secret.txt)'",
                            "x$(<secret.txt)",
                            "$(<secret.txt) # x",
                        ],
                    );
                    let line = format!("{} = {value}\n", key(rng, mapping, name));
                    files[0].bytes.extend(line.bytes());
                }
                _ => {
                    files.remove(0);
                    files.push(File::new("conf.d/only.conf", more));
                }
            }
            if files.is_empty() {
                break;
            }
        }
        let mut seen = Vec::new();
        files.retain(|file| {
            !seen.contains(&file.path) && {
                seen.push(file.path.clone());
                true
            }
        });
        files
    }
}

const INCLUDES: &[&str] = &[
    "include none.conf",
    "include",
    "include ",
    "include none.conf # x",
    "include 'none.conf'",
    "include none*.conf",
    "include none.conf ",
    "include /lab/files/extra.conf",
    "include /none/x.conf",
    "include none conf",
    "includenone.conf",
    "include=x",
    "include = x",
    "include.x = 1",
    "include n\u{e4}.conf",
    "include ../none.conf",
    "include /lab/files/dir",
    "include conf.d/*.conf",
];

/// A key of the mapping: an alias now and then, `$` words filled in.
fn key(rng: &mut Rng, mapping: &Mapping, name: &str) -> String {
    let key = rng.choice(&mapping.aliases).filter(|_| name.len().is_multiple_of(2)).unwrap_or(&mapping.key);
    let words = key.split('.').map(|word| if word.starts_with('$') { name } else { word });
    words.collect::<Vec<_>>().join(".")
}

/// What can stand where the schema has `$name`.
fn name(rng: &mut Rng) -> &'static str {
    const NAMES: [&str; 20] = [
        "1",
        "1",
        "1",
        "2",
        "2",
        "default",
        "guest",
        "local",
        "a",
        "x\\.y",
        "some-name",
        "-1",
        "01",
        "1a",
        "_",
        "10",
        "none",
        "true",
        "a_b",
        "A",
    ];
    NAMES[rng.usize(..NAMES.len())]
}

fn is_setting(line: &[u8]) -> bool {
    line.contains(&b'=') && !line.trim_ascii_start().starts_with(b"#")
}

/// The line with another value; its line end stays.
fn with_value(line: &[u8], change: impl FnOnce(&str) -> String) -> Vec<u8> {
    let text = String::from_utf8_lossy(line).into_owned();
    let (head, rest) = text.split_once('=').unwrap_or((&text, ""));
    let value = rest.trim_end_matches(['\r', '\n']);
    let end = &rest[value.len()..];
    format!("{head}= {}{end}", change(value.trim())).into_bytes()
}

fn replaced(line: &[u8], from: &str, to: &str) -> Vec<u8> {
    String::from_utf8_lossy(line).replacen(from, to, 1).into_bytes()
}

/// A slip of the finger in the key.
fn typo(rng: &mut Rng, line: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(line).into_owned();
    let (key, rest) = text.split_once('=').unwrap_or((&text, ""));
    let mut letters: Vec<char> = key.chars().collect();
    let at = rng.usize(..letters.len().max(1));
    if letters.is_empty() {
        return line.to_vec();
    }
    match rng.u32(..5) {
        0 => drop(letters.remove(at)),
        1 => letters.insert(at, letters[at]),
        2 => letters[at] = letters[at].to_ascii_uppercase(),
        3 => {
            let next = (at + 1) % letters.len();
            letters.swap(at, next);
        }
        _ => letters.insert(at, *rng.choice(&['x', '.', '_', '-', ' ', '\u{e4}', '$']).unwrap_or(&'x')),
    }
    format!("{}={rest}", letters.into_iter().collect::<String>()).into_bytes()
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

/// Files that values name, in `/lab/files` of the tree: readable or not, certificates or not.
pub fn shared_files(root: &Path) -> Result<()> {
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

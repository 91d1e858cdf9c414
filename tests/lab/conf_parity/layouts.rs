//! Directories with several files: conf.d, includes, advanced.config, the classic format, closed doors.

use fastrand::Rng;

use super::cases::{File, Source, key, name};
use super::mutations::mutated;
use super::values::pick;

/// A directory of up to eight files.
pub fn layout(source: &Source, rng: &mut Rng) -> Vec<File> {
    let mut files = vec![File::new("rabbitmq.conf", source.lines(rng).concat())];
    for _ in 0..rng.usize(1..4) {
        match rng.u32(..12) {
            0..=2 => files.push(beside(source, rng)),
            3..=6 => included(source, rng, &mut files),
            7 => files.push(erlang(source, rng)),
            8 => files[0].mode = rng.choice([0o600, 0o640, 0o000, 0o444]).unwrap_or(0o644),
            9 => closed(source, rng, &mut files),
            10 => from_file(source, rng, &mut files),
            _ => files[0].path = "conf.d/only.conf".into(),
        }
    }
    let mut seen = Vec::new();
    files.retain(|file| {
        let new = !seen.contains(&file.path);
        seen.push(file.path.clone());
        new
    });
    files
}

/// A file of conf.d, read or not.
fn beside(source: &Source, rng: &mut Rng) -> File {
    const NAMES: [&str; 9] =
        ["10-a.conf", "9-b.conf", "z.conf", ".hidden.conf", "x.conf.bak", "A.conf", "a b.conf", "u.txt", "b.conf"];
    let path = format!("conf.d/{}", pick(rng, &NAMES));
    let made = source.lines(rng).concat().into_bytes();
    let bytes = match rng.u32(..4) {
        0 => mutated(source, rng, &made),
        1 => source.real(rng).unwrap_or(made),
        _ => made,
    };
    File::new(&path, bytes)
}

/// An `include` in the first file, what it names or nearly names, and now and then a file that this one includes.
fn included(source: &Source, rng: &mut Rng, files: &mut Vec<File>) {
    let (include, path) = INCLUDES[rng.usize(..INCLUDES.len())];
    let main = &mut files[0].bytes;
    let place = if rng.bool() { 0 } else { main.len() };
    main.splice(place..place, format!("{include}\n").into_bytes());
    let mut bytes = source.lines(rng).concat().into_bytes();
    if rng.u32(..5) == 0 {
        bytes = mutated(source, rng, &bytes);
    }
    let mode = if rng.u32(..8) == 0 { 0o600 } else { 0o644 };
    if rng.u32(..4) == 0 {
        let deeper = format!("{path}.deep.conf");
        let name = deeper.rsplit('/').next().unwrap_or_default();
        bytes.splice(0..0, format!("include {name}\n").into_bytes());
        files.push(File::new(&deeper, source.lines(rng).concat()));
    }
    files.push(File { mode, ..File::new(path, bytes) });
}

#[rustfmt::skip]
const INCLUDES: &[(&str, &str)] = &[
    ("include extra.conf", "extra.conf"), ("include ./extra.conf", "extra.conf"), ("include sub/one.conf", "sub/one.conf"),
    ("include sub/*.conf", "sub/two.conf"), ("include *.inc", "a.inc"), ("include sub/../extra.conf", "extra.conf"),
    ("include s*/one.conf", "sub/one.conf"), ("include extra", "extra/x.conf"), ("include none.conf", "other.conf"),
    ("include extra.conf # more", "extra.conf"), ("include  extra.conf", "extra.conf"), ("  include extra.conf", "extra.conf"),
    ("include extra.conf ", "extra.conf"), ("include\textra.conf", "extra.conf"), ("include 'extra.conf'", "extra.conf"),
    ("includeextra.conf", "extra.conf"), ("include /lab/files/extra.conf", "x.conf"), ("include ?xtra.conf", "extra.conf"),
    ("include = extra.conf", "extra.conf"), ("Include extra.conf", "extra.conf"), ("include {extra,x}.conf", "extra.conf"),
    ("include sub/.h.conf", "sub/.h.conf"), ("include sub/*", "sub/.h.conf"), ("include *.conf.inc", "extra.conf.inc"),
    ("include **/one.conf", "sub/deep/one.conf"), ("include extra.conf\ninclude extra.conf", "extra.conf"), ("include sub/", "sub/sub"),
    ("include sub/**", "sub/one.conf"), ("include sub/**", "sub/deep/one.conf"), ("include sub//one.conf", "sub/one.conf"),
    ("include sub/*e.c*f", "sub/one.conf"),
];

/// An advanced.config, or the classic file that takes the place of all others.
fn erlang(source: &Source, rng: &mut Rng) -> File {
    #[rustfmt::skip]
    const TERMS: [&str; 8] = [
        "[].\n", "[{rabbit, [{heartbeat, 10}]}]", "", "[{rabbit, [{heartbeat, 10}]}]. []. ", "[{rabbit, [{default_pass, <<\"x\">>}]}].\n",
        "% only a comment\n", "[{rabbit, [{default_pass, {encrypted, <<\"x\">>}}]}].\n", "[{rabbit, [{heartbeat, fun() -> 1 end}]}].\n",
    ];
    let path = pick(rng, &["advanced.config", "advanced.config", "rabbitmq.config"]);
    let made = pick(rng, &TERMS).as_bytes().to_vec();
    File::new(path, if rng.bool() { source.advanced(rng).unwrap_or(made) } else { made })
}

/// A conf.d that the broker's user cannot list or enter, or can.
fn closed(source: &Source, rng: &mut Rng, files: &mut Vec<File>) {
    let mode = rng.choice([0o700, 0o755, 0o711, 0o744]).unwrap_or(0o755);
    files.push(File::new("conf.d/10-a.conf", source.lines(rng).concat()));
    files.push(File { mode, ..File::new("conf.d/", "") });
}

/// A value that stands in another file.
fn from_file(source: &Source, rng: &mut Rng, files: &mut Vec<File>) {
    #[rustfmt::skip]
    const CONTENTS: [&str; 12] = [
        "s3cret\n", "s3cret", "a\nb\n", "", "\n", "s3cret\r\n", "10\n", " 10", "\u{e4}\n", "true", "$(HOME)\n", "\u{65e5}",
    ];
    #[rustfmt::skip]
    const VALUES: [&str; 9] = [
        "$(<secret.txt)", "$(<secret.txt)", "$(< secret.txt )", "$(<none.txt)", "$(<./secret.txt)", "'$(<secret.txt)'", "x$(<secret.txt)",
        "$(<secret.txt) # x", "$(<secret.txt)$(<secret.txt)",
    ];
    let mapping = source.mapping(rng);
    let name = name(rng);
    let line = format!("{} = {}\n", key(rng, mapping, name), pick(rng, &VALUES));
    files[0].bytes.extend(line.bytes());
    let mode = if rng.u32(..8) == 0 { 0o600 } else { 0o644 };
    files.push(File { mode, ..File::new("secret.txt", pick(rng, &CONTENTS)) });
}

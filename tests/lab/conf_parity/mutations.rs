//! Changes of a configuration file: slips of the finger, of the editor and of the encoding.

use fastrand::Rng;

use super::cases::Source;
use super::values::{NASTY, pick};

/// The file with one change.
pub fn mutated(source: &Source, rng: &mut Rng, bytes: &[u8]) -> Vec<u8> {
    let mut lines: Vec<Vec<u8>> = bytes.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
    let settings: Vec<usize> = (0..lines.len()).filter(|at| is_setting(&lines[*at])).collect();
    let (Some(at), Some(other)) = (rng.choice(&settings).copied(), rng.choice(&settings).copied()) else {
        return [bytes, source.lines(rng).concat().as_bytes()].concat();
    };
    match rng.u32(..20) {
        0..=3 => return file(rng, bytes),
        4..=8 => lines[at] = spelling(rng, &lines[at]),
        9..=15 => lines[at] = value(rng, &lines[at], &lines[other]),
        _ => {
            let more = addition(source, rng, &lines[other]);
            lines.insert(at, more);
        }
    }
    lines.concat()
}

/// A change of the file as a whole, or anywhere in it.
fn file(rng: &mut Rng, bytes: &[u8]) -> Vec<u8> {
    let place = rng.usize(..=bytes.len());
    let with = |more: &[u8]| [&bytes[..place], more, &bytes[place..]].concat();
    match rng.u32(..6) {
        0 => [BOM, bytes].concat(),
        1 => with_returns(bytes),
        2 => {
            let end = bytes.iter().rposition(|byte| !matches!(byte, b'\n' | b'\r')).map_or(0, |last| last + 1);
            let tail = pick(rng, &["", " ", "\t ", "\r", " \r", "#", " # x"]);
            [&bytes[..end], tail.as_bytes()].concat()
        }
        3 => bytes[..place].to_vec(),
        _ => with(BYTES[rng.usize(..BYTES.len())]),
    }
}

const BOM: &[u8] = b"\xef\xbb\xbf";

/// Bytes that do not belong into a configuration, or only into some places.
#[rustfmt::skip]
const BYTES: &[&[u8]] = &[
    b"\xfc", b"\0", b"\x0b", b"\x0c", b"\r", b"\xc2\xa0", b"\xc3\xa4", b"\xf0\x9f\x98\x80", b"\xe6\x97\xa5", b"\xff", b"\xc3",
    b"\xed\xa0\x80", BOM, b"\x7f", b"\x1b[31m", b"\xe2\x80\x8b",
];

fn with_returns(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().flat_map(|byte| if *byte == b'\n' { vec![b'\r', b'\n'] } else { vec![*byte] }).collect()
}

/// A line that is spelt in another way.
fn spelling(rng: &mut Rng, line: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(line).into_owned();
    let changed = match rng.u32(..8) {
        0 | 1 => typo(rng, &text),
        2 => return with_returns(line),
        3 => format!("{}{text}", pick(rng, &[" ", "\t", " \t ", "\u{a0}", "\u{feff}"])),
        4 => {
            let equals = [":", " ", "==", " = = ", "\t=\t", "=\\\n", " =\n", ":=", "=>", "=", "\n="];
            text.replacen('=', pick(rng, &equals), 1)
        }
        5 => text.replacen('.', pick(rng, &["\\.", "..", ". ", " .", "", "\\", "/", "_", "-", "\\\\."]), 1),
        6 => {
            let place = (0..=text.len()).filter(|at| text.is_char_boundary(*at)).collect::<Vec<_>>();
            let place = rng.choice(place).unwrap_or(0);
            format!("{}\n{}", &text[..place], &text[place..])
        }
        _ => text.replace('\n', ""),
    };
    changed.into_bytes()
}

/// A slip of the finger in the key.
fn typo(rng: &mut Rng, text: &str) -> String {
    let (key, rest) = text.split_once('=').unwrap_or((text, ""));
    let mut letters: Vec<char> = key.chars().collect();
    let Some(at) = rng.choice(0..letters.len()) else { return text.to_owned() };
    match rng.u32(..5) {
        0 => drop(letters.remove(at)),
        1 => letters.insert(at, letters[at]),
        2 => letters[at] = letters[at].to_ascii_uppercase(),
        3 => {
            let next = (at + 1) % letters.len();
            letters.swap(at, next);
        }
        _ => letters.insert(at, rng.choice(['x', '.', '_', '-', ' ', '\u{e4}', '$']).unwrap_or('x')),
    }
    format!("{}={rest}", letters.into_iter().collect::<String>())
}

/// A line with another value; `other` is a line that a substitution may refer to.
fn value(rng: &mut Rng, line: &[u8], other: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(line).into_owned();
    let (head, rest) = text.split_once('=').unwrap_or((&text, ""));
    let (value, end) = rest.split_at(rest.trim_end_matches(['\r', '\n']).len());
    let value = value.trim();
    let changed = match rng.u32(..9) {
        0 | 1 => pick(rng, NASTY).to_owned(),
        2 => {
            let quote = pick(rng, &["'", "\"", "'''", "`", "\u{201c}"]);
            format!("{quote}{value}{quote}")
        }
        3 => format!("'{value}"),
        4 => format!("{value}{}", pick(rng, &["#x", " # x", "#", " #'", "\t# \u{e4}", " ; x", " // x", " '"])),
        5 => format!("{value}{}", pick(rng, &["\u{e4}", "\u{65e5}", "\u{1f600}", "\u{100}", "\u{ff}", "\u{200b}"])),
        6 => value.repeat(200),
        _ => {
            let other = String::from_utf8_lossy(other).into_owned();
            pick(rng, SUBSTITUTIONS).replace('K', other.split('=').next().unwrap_or("x").trim())
        }
    };
    format!("{head}= {changed}{end}").into_bytes()
}

/// `K` stands for a key of the file.
const SUBSTITUTIONS: &[&str] =
    &["$(K)", "a$(K)b", "$( K )", "$(K)$(K)", "$(K", "$((K))", "$(<K)", "'$(K)'", "$(K) # x", "$(HOME)$(K)"];

/// Lines to put in between; `line` is one of the file.
fn addition(source: &Source, rng: &mut Rng, line: &[u8]) -> Vec<u8> {
    match rng.u32(..5) {
        0 => line.to_vec(),
        1 => String::from_utf8_lossy(line).replace('\n', "0\n").into_bytes(),
        2 => format!("{}\n", pick(rng, INCLUDES)).into_bytes(),
        3 => source.lines(rng).concat().into_bytes(),
        _ => format!("{}\n", pick(rng, NOISE)).into_bytes(),
    }
}

#[rustfmt::skip]
const INCLUDES: &[&str] = &[
    "include none.conf", "include", "include ", "include none.conf # x", "include 'none.conf'", "include none*.conf", "include none.conf ",
    "include /lab/files/extra.conf", "include /none/x.conf", "include none conf", "includenone.conf", "include=x", "include = x",
    "include.x = 1", "include n\u{e4}.conf", "include ../none.conf", "include /lab/files/dir", "include conf.d/*.conf", "include .",
];

#[rustfmt::skip]
const NOISE: &[&str] = &[
    "; comment", "// comment", "[rabbit]", "[{rabbit, []}].", "key", "key =", "= value", "key value", "key: value", "#", "  # x", " ", "\t",
    "\\", "'", "'''", "include", "a.b.c = 1", "# \u{e4}", "%% comment", "a..b = 1", ".a = 1", "a. = 1", "- = 1", "_ = 1", "0 = 1",
    "a\\.b = 1", "\\. = 1", "a b = 1", "\u{e4} = 1", "a =1", "a= 1", "A = 1", "loopback_users.john\\.doe = true", "loopback_users = none",
    "listeners.tcp = none", "a\\b = 1",
];

fn is_setting(line: &[u8]) -> bool {
    line.contains(&b'=') && !line.trim_ascii_start().starts_with(b"#")
}

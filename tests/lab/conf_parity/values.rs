//! Values for a setting: those that its datatypes and validators take, those at the edges, and those that people write.

use fastrand::Rng;

use super::oracle::Mapping;
use super::paths::PATHS;

/// A value for the setting; most of them fit, or nearly so.
pub fn value(rng: &mut Rng, mapping: &Mapping) -> String {
    match rng.u32(..20) {
        0 => pick(rng, NASTY).to_owned(),
        1 | 2 => {
            let values = ALL[rng.usize(..ALL.len())];
            pick(rng, values).to_owned()
        }
        _ => fitting(rng, mapping),
    }
}

/// A value that most likely fits.
pub fn good(rng: &mut Rng, mapping: &Mapping) -> String {
    let datatype = mapping.datatypes.get(rng.usize(..mapping.datatypes.len().max(1))).map_or("string", String::as_str);
    if !mapping.validators.is_empty() {
        return of_validator(rng, mapping, GOOD).unwrap_or_else(|| of_datatype(rng, datatype, GOOD));
    }
    of_datatype(rng, datatype, GOOD)
}

fn fitting(rng: &mut Rng, mapping: &Mapping) -> String {
    if rng.u32(..4) > 0
        && let Some(value) = of_validator(rng, mapping, usize::MAX)
    {
        return value;
    }
    let datatype = mapping.datatypes.get(rng.usize(..mapping.datatypes.len().max(1))).map_or("string", String::as_str);
    of_datatype(rng, datatype, usize::MAX)
}

/// How many values at the head of each list are good ones.
const GOOD: usize = 3;

fn first<'a>(rng: &mut Rng, values: &[&'a str], limit: usize) -> &'a str {
    pick(rng, &values[..values.len().min(limit)])
}

fn of_validator(rng: &mut Rng, mapping: &Mapping, limit: usize) -> Option<String> {
    let name = mapping.validators.get(rng.usize(..mapping.validators.len().max(1)))?;
    let values = match name.as_str() {
        n if n.contains("file") || n.contains("dir") || n.contains("accessible") => PATHS,
        n if n.contains("is_ip") => ADDRESSES,
        n if n.contains("uri") => URIS,
        n if n.contains("regex") => PATTERNS,
        n if n.contains("information_unit") => UNITS,
        n if n.contains("less_than_1") => FLOATS,
        _ => return None,
    };
    Some(first(rng, values, limit).to_owned())
}

fn of_datatype(rng: &mut Rng, datatype: &str, limit: usize) -> String {
    let inner = datatype.trim_start_matches('{');
    let values = match inner {
        d if datatype.starts_with("{enum") => return word(rng, d, limit),
        d if d.starts_with("atom,") || d.starts_with("string,") => {
            let only = d.split_once(',').map_or("", |(_, only)| only);
            return only.trim_end_matches('}').trim_matches(['"', '\'']).to_owned();
        }
        d if d.starts_with("list,") => {
            let item = d.trim_start_matches("list,").trim_end_matches('}').to_owned();
            let items: Vec<String> = (0..rng.usize(1..4)).map(|_| of_datatype(rng, &item, limit)).collect();
            return items.join(pick(rng, &[",", ", ", " ", ",,", " , "]));
        }
        d if d.starts_with("integer") => INTEGERS,
        d if d.starts_with("byte") && !d.starts_with("bytesize") => BYTES,
        d if d.starts_with("bytesize") => SIZES,
        d if d.starts_with("float") => FLOATS,
        d if d.starts_with("duration") => DURATIONS,
        d if d.starts_with("flag") => &["on", "off", "on", "ON", "true", "false", "yes", "1"],
        d if d.starts_with("boolean") => &["true", "false", "on", "off", "yes", "no", "True", "TRUE", "1", "0"],
        d if d.starts_with("ip") => LISTENERS,
        d if d.starts_with("file") || d.starts_with("directory") => PATHS,
        d if d.starts_with("tagged") => TAGGED,
        d if d.starts_with("atom") => ATOMS,
        _ => TEXTS,
    };
    first(rng, values, limit).to_owned()
}

/// A word of `enum,[a,b,c]`, or one that is nearly so.
fn word(rng: &mut Rng, datatype: &str, limit: usize) -> String {
    let letters = |c: char| !(c.is_alphanumeric() || "_.-=<>!".contains(c));
    let words: Vec<&str> = datatype.split(letters).filter(|word| !word.is_empty()).skip(1).collect();
    let Some(word) = rng.choice(&words) else { return "true".into() };
    if limit < usize::MAX {
        return (*word).to_owned();
    }
    match rng.u32(..12) {
        0 => word.to_uppercase(),
        1 => word.replace('_', "-"),
        2 => format!("{word} x"),
        3 => word[..word.len().saturating_sub(1)].to_owned(),
        4 => pick(rng, &["yes", "no", "on", "off", "1", "0", "none", "true", "false", "undefined"]).to_owned(),
        5 => format!("'{word}'"),
        _ => (*word).to_owned(),
    }
}

pub fn pick<'a>(rng: &mut Rng, values: &[&'a str]) -> &'a str {
    rng.choice(values).copied().unwrap_or("")
}

const ALL: &[&[&str]] = &[INTEGERS, SIZES, FLOATS, DURATIONS, LISTENERS, PATHS, ATOMS, TEXTS, URIS, PATTERNS, UNITS];

#[rustfmt::skip]
const INTEGERS: &[&str] = &[
    "1", "10", "60", "0", "-1", "5", "-0", "255", "256", "1024", "65535", "65536", "99999", "131072", "536870912",
    "536870913", "2147483647", "2147483648", "4294967295", "4294967296", "9223372036854775808", "007", "+5", "--5", "5.0",
    "1e3", "1_000", "0x10", "16#ff", "10#5", "5 5", "5s", "abc", "\u{663}", "- 5", "1,000", "60s", "infinity", "unlimited",
    "off",
];
const BYTES: &[&str] = &["1", "255", "0", "256", "-1", "a", "1.0", "128", "+1"];
#[rustfmt::skip]
const FLOATS: &[&str] = &[
    "0.4", "0.5", "1.0", "0.0", "-0.5", "1", "0", "40%", "0.4.1", ".5", "5.", "1e-1", "1.0e3", "1.0e-2", "0,4", "1.5",
    "0.999999", "+0.5", "inf", "NaN", "0.4f", "1.0E2", "00.5", "0.5 ", "1.0e400",
];
#[rustfmt::skip]
const DURATIONS: &[&str] = &[
    "10s", "1h30m", "5ms", "1d", "1w", "1f", "10", "10 s", "s", "1.5h", ".5s", "0", "0s", "infinity", "off", "1s1s", "1m5",
    "10S", "-5s", "1h 30m", "1500ms", "0.5s", "1s2ms", "1.s", "5m30s10ms", "1x",
];
#[rustfmt::skip]
const SIZES: &[&str] = &[
    "10", "10KB", "1GB", "10kb", "10Kb", "10MB", "10mb", "1gb", "1TB", "10B", "10b", "10 KB", "1.5GB", "GB", "-1", "10KiB",
    "10K", "10k", "0", "10MBs", "+5", "10G", "0x1KB", "off",
];
#[rustfmt::skip]
const UNITS: &[&str] = &[
    "500MB", "10GiB", "1000", "500MiB", "10GB", "2TB", "2TiB", "2 GB", "1.5GB", "10g", "10G", "10Gi", "1PB", "10kb", "10KB",
    "10Kib", "-5", "0", "100m", "100Mi", "GB", "10gb", "10 ", "10GBs", "1_000", "0x10", "1e3", "+7", "007MB", "10EB",
    "mem_relative",
];
#[rustfmt::skip]
const LISTENERS: &[&str] = &[
    "5673", "127.0.0.1:5673", "::1:5674", "0.0.0.0:5672", "5672", ":::5672", "[::1]:5672", "localhost:5672", "*:5672",
    "127.0.0.1", "127.0.0.1:", "127.0.0.1 :5672", "127.0.0.1: 5672", "1.2.3:80", "1.2.3.4:99999", "1.2.3.4:-1", "1.2.3.4:0",
    "fe80::1%lo:5672", "fe80::1%1:5672", "::ffff:1.2.3.4:80", "::1", "1.2.3.4:56a", "256.1.1.1:80", "01.2.3.4:80",
    "1.2.3.4:+5", "0x7f.1:80", "127.1:5672", "2130706433:5672", "1.2.3.4.5:80", ":5672", "::5672", "1::2::3:80", "[::1]",
    "::1.2.3.4:80", "fe80::1%:80", "G::1:80", "none", "all", "12345::1:80", "0:0:0:0:0:0:0:1:80", "1:2:3:4:5:6:7:8:80",
    "1:2:3:4:5:6:7:8:9:80", "0377.1.1.1:80", "08.1.1.1:80", "1.2.65535:80", "0xffffffff:80", "1.2.3.4 5672", " ",
];
#[rustfmt::skip]
const ADDRESSES: &[&str] = &[
    "127.0.0.1", "::1", "0.0.0.0", "localhost", "1.2.3", "127.1", "fe80::1%lo", "[::1]", "1.2.3.4.5", "any", "10.0.0.0/8",
    "::", "*", "0x7f.0.0.1", "010.0.0.1", "2130706433", "1.2.3.4:80", "::ffff:1.2.3.4", "1.2.3.256", "fe80::1%1", "08.0.0.1",
    "1..2", "::1 ",
];
const ATOMS: &[&str] =
    &["foo", "none", "true", "Foo", "foo bar", "\u{e4}", "\u{65e5}", "rabbit_auth_backend_internal", "'a'", "-", "0"];
#[rustfmt::skip]
const TAGGED: &[&str] = &[
    "abc", "secret1", "guest", "a:b", "encrypted:abc", "encrypted:", ":a", "a:", "a:b:c", "a b:c", "-a:b", "\u{e4}:b", "_:x",
    "::", "encrypted:cPAymwqmMnbPXXRVqVzpxJdrS8mHEKuo2V+3vt1u/fymexD9oztQ2G/oJ4PAaSb2c5N/hRJ2aqP/X0VAfx8xOQ==", "\u{e4}",
    "a#b:c", "1:2", "plain:abc", "'a:b'",
];
#[rustfmt::skip]
const TEXTS: &[&str] = &[
    "abc", "rabbit@host", "10", "a b", "a:b", "\u{e4}", "\u{65e5}\u{672c}", "\u{1f600}", "'q'", "\"q\"", "$", "%", "{}", "[]",
    "a,b", "a, b", "a,,b", "/", "http://x", "https://a.b/c", "amqp://u:p@h:5672/v", "a=b", "\\.", "a\\b", "prompt", "-1", "0",
    "1.5", "true", "none", "undefined", "&|!", "~w~n", "<<\"x\">>", "fun() -> ok end", "administrator",
    "administrator, monitoring", "bunny.*", "1.2.3.4", "classic", "quorum", "sha256", "tlsv1.2", "tlsv1.3",
    "ECDHE-RSA-AES256-GCM-SHA384", "ldap", "internal", "rabbit_x", "cn=admin,dc=example", "a\tb", "\u{a0}", "x\u{feff}y",
    "\u{7f}", "\u{1}", "sync", "secret", "exclusive", "127.0.0.1:80",
];
#[rustfmt::skip]
const URIS: &[&str] = &[
    "https://example.com", "https://example.com:8443/x?y", "http://example.com/a", "ftp://x", "example.com", "http://",
    "https://exa mple", "https://[::1]/", "https://user:pa@x", "HTTPS://X", "http:/x", "https://\u{e4}.de", "://", "%zz",
    "https://x/%zz", "https://x/%41", "https:x", "//x", "https://x:port/", "https://x:99999", "https://x:/", "/a/b", "a:b",
    "1a:b", "https://x|y", "https://x/{}", "", "https://x?<>", "https:///x", "mailto:a@b", "http://a\\b", "http://[::1",
    "http://a]b", "a%41b", "?", "#", "http://x@y@z",
];
#[rustfmt::skip]
const PATTERNS: &[&str] = &[
    ".*", "^a$", "[a-z]+", "(", "[a", "a{2", "\\", "(?<n>a)", "*", "(?i)x", "a++", "[[:alpha:]]", "[[:foo:]]", "(?P<n>x)",
    "\\K", "x{5,2}", "\\p{L}", "(?<=a+)b", "(a)\\2", "\\8", "[z-a]", "a|*", "()", "(?:a", "a)", "+", "?", "{2}", "x{2}{3}",
    "\\Qa", "[\\d-z]", "[]a]", "[^]", "(?#x)", "(?>a)", "(?=a)", "\\x{41}", "\\x{110000}", "\\c", "(*UTF8)a", "\\g{1}",
    "(?1)", "(?R)", "\\N{U+41}", "a{,3}",
];
/// What breaks parsers.
#[rustfmt::skip]
pub const NASTY: &[&str] = &[
    "", "'", "''", "'''", "#", "a#b", "'a'", "'a' b", "'a' # c", "'a'b", "''a''", "'''a'''", "'''a", "\"a\"", "\"", "$(HOME)",
    "$(x)", "$()", "$(", "$(<)", "$(<x)", "$(< /lab/files/plain.txt )", "$(</lab/files/plain.txt)",
    "$(</lab/files/root-only.pem)", "a$(HOME)b", "$(heartbeat)", "$(listeners.tcp.default)", "$( HOME )", "$(NOSUCHVAR)",
    "$((HOME))", "$(HOME", "$$(HOME)", "\u{feff}", "\\", "\\n", "= 5", "5 # x", "a # b # c", "a\\#b", "\u{a0}5", "5\u{a0}",
    "\u{b}", "5\u{c}", "\u{85}", "\u{2028}", "a'b", "a''b", "'a#b'", "' a '", "'\u{e4}'", "\u{ff}", "\u{100}",
];

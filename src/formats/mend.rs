//! Small mistakes in Erlang terms and JSON that have one evident repair: a missing full stop, a comma too many or too few, typographic
//! quotation marks, a byte order mark, missing brackets at the end. A repair counts only if what comes of it can be read.

/// A repaired text, and what was done to it.
pub type Mended = (Vec<u8>, Vec<&'static str>);

/// What is tried, in words, and how.
type Step = (&'static str, fn(&[u8]) -> Vec<u8>);

/// The byte order mark of UTF-8, which no reader of RabbitMQ takes.
pub const BOM: &[u8] = b"\xef\xbb\xbf";

/// Typographic characters in UTF-8 that word processors and web pages put in the place of plain ones.
const TYPOGRAPHIC: &[(&str, &str)] = &[
    ("\u{201c}", "\""),
    ("\u{201d}", "\""),
    ("\u{201e}", "\""),
    ("\u{201f}", "\""),
    ("\u{2033}", "\""),
    ("\u{2018}", "'"),
    ("\u{2019}", "'"),
    ("\u{201a}", "'"),
    ("\u{2032}", "'"),
    ("\u{a0}", " "),
    ("\u{200b}", ""),
];

/// The text with plain quotation marks in the place of typographic ones; `None`: there are none.
pub fn quotes(text: &[u8]) -> Option<Vec<u8>> {
    Some(with_plain_quotes(text)).filter(|plain| plain != text)
}

/// Repairs Erlang terms; `reads` tells whether a text can be read. `None`: there is no evident repair, or nothing is wrong.
pub fn erlang(bytes: &[u8], reads: &dyn Fn(&[u8]) -> bool) -> Option<Mended> {
    let steps: &[Step] = &[
        ("byte order mark removed", without_bom),
        ("final full stop added", with_full_stop),
        ("comma removed", |text| without_commas(text, &ERLANG)),
        ("comma added", with_commas),
        ("typographic quotation marks replaced", with_plain_quotes),
        // What the quotation marks hid.
        ("comma removed", |text| without_commas(text, &ERLANG)),
        ("final full stop added", with_full_stop),
    ];
    mended(bytes, reads, steps)
}

/// The same for JSON.
pub fn json(bytes: &[u8], reads: &dyn Fn(&[u8]) -> bool) -> Option<Mended> {
    let steps: &[Step] = &[
        ("byte order mark removed", without_bom),
        ("comma removed", |text| without_commas(text, &JSON)),
        ("closing brackets added", with_brackets),
    ];
    mended(bytes, reads, steps)
}

fn mended(bytes: &[u8], reads: &dyn Fn(&[u8]) -> bool, steps: &[Step]) -> Option<Mended> {
    if reads(bytes) {
        return None;
    }
    let mut text = bytes.to_vec();
    let mut done = Vec::new();
    for (name, step) in steps {
        let next = step(&text);
        if next == text {
            continue;
        }
        if !done.contains(name) {
            done.push(*name);
        }
        text = next;
        if reads(&text) {
            return Some((text, done));
        }
    }
    None
}

/// What quotes and comments look like.
struct Language {
    quotes: &'static [u8],
    /// Begins a comment that ends with the line.
    comment: Option<u8>,
    /// Makes the next character a literal.
    literal: Option<u8>,
}

const ERLANG: Language = Language { quotes: b"\"'", comment: Some(b'%'), literal: Some(b'$') };
const JSON: Language = Language { quotes: b"\"", comment: None, literal: None };

/// Offsets of the bytes that are neither blank nor in a comment; `true`: inside of quotation marks or one of them.
fn code(text: &[u8], language: &Language) -> Vec<(usize, bool)> {
    let mut all = Vec::new();
    let mut quote = None;
    let mut at = 0;
    while at < text.len() {
        let byte = text[at];
        match quote {
            Some(end) => {
                all.push((at, true));
                if byte == b'\\' && at + 1 < text.len() {
                    at += 1;
                    all.push((at, true));
                } else if byte == end {
                    quote = None;
                }
            }
            None if language.comment == Some(byte) => {
                at += text[at..].iter().position(|b| *b == b'\n').unwrap_or(text.len() - at);
                continue;
            }
            None if language.literal == Some(byte) => {
                all.push((at, true));
                let width = if text.get(at + 1) == Some(&b'\\') { 2 } else { 1 };
                all.extend((at + 1..=at + width).filter(|n| *n < text.len()).map(|n| (n, true)));
                at += width;
            }
            None if language.quotes.contains(&byte) => {
                all.push((at, true));
                quote = Some(byte);
            }
            None if byte.is_ascii_whitespace() => {}
            None => all.push((at, false)),
        }
        at += 1;
    }
    all
}

fn without_bom(text: &[u8]) -> Vec<u8> {
    text.strip_prefix(BOM).unwrap_or(text).to_vec()
}

fn with_full_stop(text: &[u8]) -> Vec<u8> {
    let mut out = text.to_vec();
    match code(text, &ERLANG).last() {
        Some((at, false)) if text[*at] == b'.' => {}
        Some((at, _)) => out.insert(at + 1, b'.'),
        None => {}
    }
    out
}

/// Takes away commas with nothing before or after them.
fn without_commas(text: &[u8], language: &Language) -> Vec<u8> {
    let code = code(text, language);
    let plain = |n: usize, bytes: &[u8]| code.get(n).is_some_and(|(at, quoted)| !quoted && bytes.contains(&text[*at]));
    let surplus =
        |n: &usize| plain(*n, b",") && (plain(n + 1, b"]},") || n.checked_sub(1).is_some_and(|before| plain(before, b"[{")));
    let drop: Vec<usize> = (0..code.len()).filter(surplus).filter_map(|n| code.get(n).map(|(at, _)| *at)).collect();
    text.iter().enumerate().filter(|(at, _)| !drop.contains(at)).map(|(_, byte)| *byte).collect()
}

/// Puts commas between a list or tuple and the next one.
fn with_commas(text: &[u8]) -> Vec<u8> {
    let code = code(text, &ERLANG);
    let mut out = text.to_vec();
    let gap = |pair: &&[(usize, bool)]| match pair {
        [(a, false), (b, false)] => b"]}".contains(&text[*a]) && b"[{".contains(&text[*b]),
        _ => false,
    };
    let places: Vec<usize> = code.windows(2).filter(gap).map(|pair| pair[0].0 + 1).collect();
    places.into_iter().rev().for_each(|at| out.insert(at, b','));
    out
}

fn with_plain_quotes(text: &[u8]) -> Vec<u8> {
    let Ok(text) = std::str::from_utf8(text) else { return text.to_vec() };
    let replaced = TYPOGRAPHIC.iter().fold(text.to_owned(), |text, (strange, plain)| text.replace(strange, plain));
    replaced.into_bytes()
}

/// Closes what is open at the end of JSON that was cut off between two values.
fn with_brackets(text: &[u8]) -> Vec<u8> {
    let code = code(text, &JSON);
    let mut open = Vec::new();
    for (at, quoted) in &code {
        match (quoted, text[*at]) {
            (false, b'{') => open.push(b'}'),
            (false, b'[') => open.push(b']'),
            (false, b'}' | b']') => drop(open.pop()),
            _ => {}
        }
    }
    let Some((last, quoted)) = code.last() else { return text.to_vec() };
    if !quoted && text[*last] == b':' {
        return text.to_vec();
    }
    let keep = if !quoted && text[*last] == b',' { *last } else { last + 1 };
    let mut out = text[..keep].to_vec();
    out.extend(open.iter().rev());
    out.extend_from_slice(&text[last + 1..]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::erlang::{Dialect, Reader, read};

    fn terms(text: &str) -> Option<String> {
        let reads = |bytes: &[u8]| read(bytes, Dialect { reader: Reader::Sequence, otp: Some(25) }).is_ok_and(|t| t.len() == 1);
        erlang(text.as_bytes(), &reads).map(|(bytes, _)| String::from_utf8(bytes).unwrap())
    }
    fn object(text: &str) -> Option<String> {
        let reads = |bytes: &[u8]| serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(bytes).is_ok();
        json(text.as_bytes(), &reads).map(|(bytes, _)| String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn evident_mistakes_in_terms_are_mended() {
        for (text, want) in [
            ("[rabbitmq_management]\n", "[rabbitmq_management].\n"),
            ("[a] % note.\n", "[a]. % note.\n"),
            ("[{rabbit, [\n {a, 1},\n %% {b, 2},\n ]}\n].\n", "[{rabbit, [\n {a, 1}\n %% {b, 2},\n ]}\n].\n"),
            ("[{rabbit, [{a, 1} {b, 2}]}].", "[{rabbit, [{a, 1}, {b, 2}]}]."),
            ("[{rabbit, [{loopback_users, [<<\u{201d}guest\u{201d}>>]}]}].", "[{rabbit, [{loopback_users, [<<\"guest\">>]}]}]."),
            ("\u{feff}[a].", "[a]."),
            ("[a,,b].", "[a,b]."),
            ("[{a, \",]\"},]", "[{a, \",]\"}]."),
        ] {
            assert_eq!(terms(text).as_deref(), Some(want));
        }
    }

    #[test]
    fn what_has_no_evident_repair_is_left() {
        for text in ["[a].", "[a", "[{rabbit, [{a, 1}].", "foo bar", "", "[a]. [b]."] {
            assert_eq!(terms(text), None, "{text}");
        }
        for text in ["{}", "{\"a\":", "{\"a", "nonsense"] {
            assert_eq!(object(text), None, "{text}");
        }
    }

    #[test]
    fn json_that_is_cut_off_or_has_a_comma_too_many() {
        assert_eq!(object("{\"a\":[{\"b\":1}]\n").as_deref(), Some("{\"a\":[{\"b\":1}]}\n"));
        assert_eq!(object("{\"a\":[1,\n").as_deref(), Some("{\"a\":[1]}\n"));
        assert_eq!(object("{\"a\":[1,],\"b\":\",}\",}").as_deref(), Some("{\"a\":[1],\"b\":\",}\"}"));
    }
}

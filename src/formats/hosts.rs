//! /etc/hosts, lossless. The format is hosts(5): an address, then names, blanks between; `#` starts a comment.

use std::net::IpAddr;
use std::ops::Range;

/// One line with an address and at least one name. Lines count from 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub address: IpAddr,
    /// The canonical name, then the aliases, as spelt. Names compare without case.
    pub names: Vec<String>,
    pub line: u32,
}

/// Why an edit was refused; the document is unchanged then.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EditError {
    #[error("{0:?} is not a host name")]
    Name(String),
    #[error("the file is not UTF-8 in line {0}")]
    Encoding(u32),
}

/// A parsed file that keeps its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    bytes: Vec<u8>,
}

impl Document {
    /// Never fails: lines that are no entry are passed over, as the C library does.
    pub fn parse(bytes: &[u8]) -> Document {
        Document { bytes: bytes.to_vec() }
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        self.bytes.clone()
    }

    pub fn entries(&self) -> Vec<Entry> {
        let lines = self.bytes.split(|b| *b == b'\n').zip(1u32..);
        lines.filter_map(|(text, line)| entry(text).map(|(address, names)| Entry { address, names, line })).collect()
    }

    /// The addresses of a name in the order of the file.
    pub fn addresses(&self, name: &str) -> Vec<IpAddr> {
        let has = |e: &Entry| e.names.iter().any(|n| n.eq_ignore_ascii_case(name));
        self.entries().into_iter().filter(has).map(|e| e.address).collect()
    }

    /// Gives a name an address in a line of its own at the end, unless it has that address already.
    pub fn add(&mut self, address: IpAddr, name: &str) -> Result<(), EditError> {
        if !is_host_name(name) {
            return Err(EditError::Name(name.to_owned()));
        }
        if self.addresses(name).contains(&address) {
            return Ok(());
        }
        let crlf = self.bytes.windows(2).any(|w| w == b"\r\n") || self.bytes.ends_with(b"\r");
        let eol: &[u8] = if crlf { b"\r\n" } else { b"\n" };
        let line = format!("{address}\t{name}").into_bytes();
        // A file without a final line end stays without.
        let parts = if self.bytes.is_empty() || self.bytes.ends_with(b"\n") { [&line[..], eol] } else { [eol, &line[..]] };
        self.bytes.extend(parts.concat());
        Ok(())
    }

    /// Takes a name away from every address; a line that loses its last name goes. Returns whether there was one.
    pub fn remove(&mut self, name: &str) -> Result<bool, EditError> {
        let mut lines: Vec<Vec<u8>> = self.bytes.split_inclusive(|b| *b == b'\n').map(<[u8]>::to_vec).collect();
        let mut found = false;
        let mut n = 0;
        while n < lines.len() {
            let Some((_, names)) = entry(&lines[n]) else {
                n += 1;
                continue;
            };
            let left = names.iter().filter(|x| !x.eq_ignore_ascii_case(name)).count();
            if left == names.len() {
                n += 1;
                continue;
            }
            found = true;
            let text = std::str::from_utf8(&lines[n]).map_err(|_| EditError::Encoding(n as u32 + 1))?;
            if left > 0 {
                lines[n] = without(text, name).into_bytes();
                n += 1;
            } else {
                let open = !lines[n].ends_with(b"\n");
                lines.remove(n);
                if open && let Some(previous) = lines.last_mut() {
                    let content = content_of(previous).len();
                    previous.truncate(content);
                }
            }
        }
        self.bytes = lines.concat();
        Ok(found)
    }
}

/// The address and names of a line; `None`: not an entry.
fn entry(line: &[u8]) -> Option<(IpAddr, Vec<String>)> {
    let content = line.split(|b| *b == b'#').next()?;
    let text = String::from_utf8_lossy(content);
    let mut words = text.split_ascii_whitespace();
    // A link-local address may carry a zone, which is no part of it.
    let address = words.next()?.split('%').next()?.parse().ok()?;
    let names: Vec<String> = words.map(str::to_owned).collect();
    (!names.is_empty()).then_some((address, names))
}

/// The line without `name` and the blanks in front of it.
fn without(line: &str, name: &str) -> String {
    let content = line.split('#').next().unwrap_or(line);
    let mut out = line.to_owned();
    for span in words(content).into_iter().skip(1).rev() {
        if content[span.clone()].eq_ignore_ascii_case(name) {
            let blanks = content[..span.start].trim_end_matches(|c: char| c.is_ascii_whitespace()).len();
            out.replace_range(blanks..span.end, "");
        }
    }
    out
}

fn words(text: &str) -> Vec<Range<usize>> {
    let mut spans: Vec<Range<usize>> = Vec::new();
    for (n, _) in text.bytes().enumerate().filter(|(_, b)| !b.is_ascii_whitespace()) {
        match spans.last_mut() {
            Some(last) if last.end == n => last.end += 1,
            _ => spans.push(n..n + 1),
        }
    }
    spans
}

fn content_of(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

/// Letters, digits, hyphens, underscores (they occur), in labels of at most 63 separated by dots; at most 253 in all.
fn is_host_name(name: &str) -> bool {
    let good = |l: &str| !l.is_empty() && l.len() <= 63 && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    name.len() <= 253 && name.split('.').all(good)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DEBIAN: &str =
        "127.0.0.1\tlocalhost\n127.0.1.1\tmq1.example.org\tMQ1 # the host\n\n::1 localhost ip6-localhost\nfe80::1%eth0 gw\n";

    fn doc(text: &str) -> Document {
        Document::parse(text.as_bytes())
    }
    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn entries_have_address_names_and_line() {
        let got = doc(DEBIAN).entries();
        assert_eq!(got.iter().map(|e| e.line).collect::<Vec<_>>(), [1, 2, 4, 5]);
        assert_eq!(got[1].names, ["mq1.example.org", "MQ1"]);
        assert_eq!(doc(DEBIAN).addresses("LOCALHOST"), [ip("127.0.0.1"), ip("::1")]);
        assert_eq!(doc(DEBIAN).addresses("gw"), [ip("fe80::1")]);
    }

    #[test]
    fn what_is_no_entry_is_passed_over() {
        assert_eq!(doc("# 10.0.0.1 x\n10.0.0.1\nnot-an-address x\n300.1.1.1 x\n10.0.0.2 # y\n").entries(), []);
    }

    #[test]
    fn add_appends_in_the_style_of_the_file() {
        let add = |text: &str| {
            let mut d = doc(text);
            d.add(ip("10.0.0.5"), "mq1").unwrap();
            String::from_utf8(d.to_bytes()).unwrap()
        };
        assert_eq!(add(""), "10.0.0.5\tmq1\n");
        assert_eq!(add("::1 a\r\n"), "::1 a\r\n10.0.0.5\tmq1\r\n");
        assert_eq!(add("::1 a"), "::1 a\n10.0.0.5\tmq1");
        assert_eq!(add("10.0.0.5 x mq1\n"), "10.0.0.5 x mq1\n");
        assert_eq!(doc("").add(ip("::1"), "a b"), Err(EditError::Name("a b".into())));
        assert!(doc("").add(ip("::1"), "a\n10.0.0.1 b").is_err());
    }

    #[test]
    fn remove_takes_one_name_and_leaves_the_rest() {
        let mut d = doc(DEBIAN);
        assert!(d.remove("mq1").unwrap());
        assert!(d.remove("gw").unwrap());
        assert!(!d.remove("gw").unwrap());
        let want = "127.0.0.1\tlocalhost\n127.0.1.1\tmq1.example.org # the host\n\n::1 localhost ip6-localhost\n";
        assert_eq!(String::from_utf8(d.to_bytes()).unwrap(), want);
    }

    fn any_file() -> impl Strategy<Value = Vec<u8>> {
        const PIECES: &[&[u8]] =
            &[b"127.0.0.1", b"::1", b" ", b"\t", b"mq", b"other", b"\n", b"\r\n", b"#", b"\xfc", b"10.0.0.5 mq\n", b"x"];
        prop_oneof![
            proptest::collection::vec(proptest::sample::select(PIECES), 0..20).prop_map(|v| v.concat()),
            proptest::collection::vec(any::<u8>(), 0..60),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn parsing_keeps_every_byte(bytes in any_file()) {
            prop_assert_eq!(Document::parse(&bytes).to_bytes(), bytes);
        }

        #[test]
        fn add_is_found_happens_once_and_is_undone(bytes in any_file()) {
            let mut d = Document::parse(&bytes);
            d.add(ip("10.9.9.9"), "new").unwrap();
            prop_assert!(d.addresses("new").contains(&ip("10.9.9.9")));
            prop_assert!(d.to_bytes().starts_with(&bytes));
            let once = d.to_bytes();
            d.add(ip("10.9.9.9"), "new").unwrap();
            prop_assert_eq!(d.to_bytes(), once);
            prop_assert!(d.remove("new").unwrap());
            prop_assert_eq!(d.to_bytes(), bytes);
        }

        #[test]
        fn remove_leaves_every_other_entry(bytes in any_file()) {
            let mut d = Document::parse(&bytes);
            let keep = |d: &Document| -> Vec<(IpAddr, Vec<String>)> {
                let others = |e: Entry| (e.address, e.names.into_iter().filter(|n| n != "mq").collect::<Vec<_>>());
                d.entries().into_iter().map(others).filter(|(_, n)| !n.is_empty()).collect()
            };
            let before = keep(&d);
            if d.remove("mq").is_ok() {
                prop_assert_eq!(keep(&d), before);
                prop_assert!(d.addresses("mq").is_empty());
            } else {
                prop_assert_eq!(d.to_bytes(), bytes);
            }
        }
    }
}

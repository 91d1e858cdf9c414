//! Values of which some bits may be unknown, and the elements of nf_tables sets that such a value may hit, found as the kernel's
//! set types do it (net/netfilter/nft_set_hash.c, nft_set_rbtree.c, nft_set_pipapo.c).

use super::native::{Compare, Element, Set};
use std::sync::{Arc, OnceLock};

/// A run of bytes that is, read as a big-endian number, somewhere between two numbers, both of which it may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Offset in bytes.
    pub at: usize,
    /// 2 or 4 bytes.
    pub width: usize,
    pub low: u32,
    pub high: u32,
}

impl Span {
    fn write(&self, number: u32, into: &mut [u8]) {
        let bytes = number.to_be_bytes();
        if let Some(place) = into.get_mut(self.at..self.at + self.width) {
            place.copy_from_slice(&bytes[4 - self.width..]);
        }
    }
    fn holds(&self, of: &[u8]) -> bool {
        let Some(bytes) = of.get(self.at..self.at + self.width) else { return true };
        let number = bytes.iter().fold(0u32, |n, b| n << 8 | u32::from(*b));
        self.low <= number && number <= self.high
    }
}

/// Bytes in memory order. Unknown bits are 0 in `bytes` and in `known`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bits {
    pub bytes: Vec<u8>,
    pub known: Vec<u8>,
    pub spans: Vec<Span>,
    /// Why not all of it is known.
    pub why: Option<Arc<str>>,
}

/// Yes, no, or both are possible.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    Yes,
    No,
    Either,
}

impl Answer {
    fn not(self) -> Answer {
        match self {
            Answer::Yes => Answer::No,
            Answer::No => Answer::Yes,
            Answer::Either => Answer::Either,
        }
    }
}

impl Bits {
    pub fn is_known(&self) -> bool {
        self.known.iter().all(|k| *k == 0xff)
    }
    /// Smallest possible value in memcmp's order.
    fn low(&self) -> Vec<u8> {
        let mut low = self.bytes.clone();
        for span in &self.spans {
            span.write(span.low, &mut low);
        }
        low
    }
    /// Greatest possible value in memcmp's order.
    fn high(&self) -> Vec<u8> {
        let mut high: Vec<u8> = self.bytes.iter().zip(&self.known).map(|(b, k)| b | !k).collect();
        for span in &self.spans {
            span.write(span.high, &mut high);
        }
        high
    }
    fn may_be(&self, value: &[u8]) -> bool {
        value.len() == self.bytes.len()
            && self.bytes.iter().zip(&self.known).zip(value).all(|((b, k), v)| (b ^ v) & k == 0)
            && self.spans.iter().all(|s| s.holds(value))
    }
    pub fn is(&self, value: &[u8]) -> Answer {
        match self.may_be(value) {
            false => Answer::No,
            true if self.is_known() => Answer::Yes,
            true => Answer::Either,
        }
    }
    /// `nft_cmp_eval`: memcmp over the constant's length.
    pub fn compare(&self, op: Compare, value: &[u8]) -> Answer {
        let less = |than_or_equal: bool| {
            let under = |v: Vec<u8>| if than_or_equal { v.as_slice() <= value } else { v.as_slice() < value };
            match (under(self.low()), under(self.high())) {
                (_, true) => Answer::Yes,
                (false, _) => Answer::No,
                (true, false) => Answer::Either,
            }
        };
        match op {
            Compare::Equal => self.is(value),
            Compare::NotEqual => self.is(value).not(),
            Compare::Less => less(false),
            Compare::LessOrEqual => less(true),
            Compare::Greater => less(true).not(),
            Compare::GreaterOrEqual => less(false).not(),
        }
    }
    /// `nft_range_eval`: both ends included.
    pub fn within(&self, low: &[u8], high: &[u8]) -> Answer {
        if low == high {
            return self.is(low);
        }
        let (least, most) = (self.low(), self.high());
        if low > high || most.as_slice() < low || high < least.as_slice() {
            return Answer::No;
        }
        if low <= least.as_slice() && most.as_slice() <= high { Answer::Yes } else { Answer::Either }
    }
    fn part(&self, at: usize, len: usize) -> Bits {
        let cut = |of: &[u8]| of.get(at..at + len).map(<[u8]>::to_vec).unwrap_or_default();
        let spans = self.spans.iter().filter(|s| at <= s.at && s.at + s.width <= at + len);
        Bits {
            bytes: cut(&self.bytes),
            known: cut(&self.known),
            spans: spans.map(|s| Span { at: s.at - at, ..*s }).collect(),
            why: self.why.clone(),
        }
    }
}

/// Elements of a set in the order in which they are searched; made once for each set.
#[derive(Debug, Clone, Default)]
pub struct Index(OnceLock<Built>);

#[derive(Debug, Clone)]
struct Built {
    kind: Kind,
    catch_all: Option<usize>,
}

#[derive(Debug, Clone)]
enum Kind {
    /// Element numbers by key.
    Exact(Vec<usize>),
    /// Element numbers by key, of equal keys the end of a range first.
    Boundaries(Vec<usize>),
    /// Ranges in each field; sorted by the start of the field that tells most of them apart.
    Fields(Fields),
    /// An element whose key is of another length than the set's.
    Broken,
}

#[derive(Debug, Clone)]
struct Fields {
    /// Offset and length of each field.
    fields: Vec<(usize, usize)>,
    leading: usize,
    sorted: Vec<usize>,
    /// Greatest end in the leading field up to this place of `sorted`.
    ends: Vec<Vec<u8>>,
}

/// What a lookup may find: numbers of elements, and `None` for a miss.
pub type Finds = Vec<Option<usize>>;

/// Everything that a lookup of this key may find (exactly one where the key is known); `Err`: a set of a shape not understood.
pub fn find(set: &Set, key: &Bits) -> Result<Finds, String> {
    let built = set.index.0.get_or_init(|| build(set));
    let mut finds = match &built.kind {
        Kind::Broken => return Err(format!("set {}, which could not be decoded", set.name)),
        _ if key.bytes.len() != set.key_len => return Err(format!("set {}, whose key is of another length", set.name)),
        Kind::Exact(sorted) => exact(set, sorted, key),
        Kind::Boundaries(sorted) => boundaries(set, sorted, key),
        Kind::Fields(fields) => by_field(set, fields, key),
    };
    if let Some(all) = built.catch_all {
        finds.iter_mut().filter(|f| f.is_none()).for_each(|f| *f = Some(all));
    }
    Ok(finds)
}

fn build(set: &Set) -> Built {
    let catch_all = set.elements.iter().position(|e| e.catch_all);
    let mut plain: Vec<usize> = (0..set.elements.len()).filter(|i| !set.elements[*i].catch_all).collect();
    let key = |i: &usize| &set.elements[*i].key;
    let fits = |e: &Element| e.key.len() == set.key_len && e.key_end.as_ref().is_none_or(|k| k.len() == set.key_len);
    if !plain.iter().all(|i| fits(&set.elements[*i])) {
        return Built { kind: Kind::Broken, catch_all };
    }
    let fields = padded(set);
    let kind = if !set.interval {
        plain.sort_by(|a, b| key(a).cmp(key(b)));
        Kind::Exact(plain)
    } else if !set.fields.is_empty() || set.elements.iter().any(|e| e.key_end.is_some()) {
        match fields {
            Some(fields) => Kind::Fields(Fields::build(set, fields, plain)),
            None => Kind::Broken,
        }
    } else {
        let end = |i: &usize| !set.elements[*i].interval_end;
        plain.sort_by(|a, b| key(a).cmp(key(b)).then(end(a).cmp(&end(b))));
        Kind::Boundaries(plain)
    };
    Built { kind, catch_all }
}

/// Offsets and lengths of the fields: each starts at a multiple of 4 bytes.
fn padded(set: &Set) -> Option<Vec<(usize, usize)>> {
    if set.fields.is_empty() {
        return Some(vec![(0, set.key_len)]);
    }
    let mut at = 0;
    let mut fields = Vec::new();
    for len in &set.fields {
        let len = usize::from(*len);
        fields.push((at, len));
        at += len.next_multiple_of(4);
    }
    (at == set.key_len).then_some(fields)
}

fn exact(set: &Set, sorted: &[usize], key: &Bits) -> Finds {
    if key.is_known() {
        let hit = sorted.binary_search_by(|i| set.elements[*i].key.as_ref().cmp(&key.bytes));
        return vec![hit.ok().and_then(|at| sorted.get(at).copied())];
    }
    let mut finds: Finds = sorted.iter().copied().filter(|i| key.may_be(&set.elements[*i].key)).map(Some).collect();
    finds.push(None);
    finds
}

/// The greatest boundary that is not above the key decides.
fn boundaries(set: &Set, sorted: &[usize], key: &Bits) -> Finds {
    let at = |value: &[u8]| sorted.partition_point(|i| set.elements[*i].key.as_ref() <= value);
    let found = |count: usize| {
        let last = count.checked_sub(1).and_then(|i| sorted.get(i).copied());
        last.filter(|i| !set.elements[*i].interval_end)
    };
    let (first, last) = (at(&key.low()), at(&key.high()));
    // Of several boundaries with one key only the last one counts.
    let same = |count: usize| {
        let (Some(a), Some(b)) = (count.checked_sub(1).and_then(|i| sorted.get(i)), sorted.get(count)) else { return false };
        set.elements[*a].key == set.elements[*b].key
    };
    let mut finds: Finds = (first..=last).filter(|count| *count == last || !same(*count)).map(found).collect();
    finds.sort();
    finds.dedup();
    finds
}

impl Fields {
    fn build(set: &Set, fields: Vec<(usize, usize)>, mut sorted: Vec<usize>) -> Fields {
        let start = |i: usize, (at, len): (usize, usize)| &set.elements[i].key[at..at + len];
        let distinct = |field: &(usize, usize)| {
            let mut starts: Vec<&[u8]> = sorted.iter().map(|i| start(*i, *field)).collect();
            starts.sort_unstable();
            starts.dedup();
            starts.len()
        };
        let leading = (0..fields.len()).max_by_key(|f| distinct(&fields[*f])).unwrap_or(0);
        let field = fields[leading];
        sorted.sort_by(|a, b| start(*a, field).cmp(start(*b, field)).then(a.cmp(b)));
        let mut ends: Vec<Vec<u8>> = Vec::with_capacity(sorted.len());
        for i in &sorted {
            let end = &last(&set.elements[*i])[field.0..field.0 + field.1];
            let greatest = ends.last().map_or(end, |e| e.as_slice().max(end)).to_vec();
            ends.push(greatest);
        }
        Fields { fields, leading, sorted, ends }
    }

    /// Elements whose range in the leading field may hold the key, in the order in which the kernel has them.
    fn candidates(&self, set: &Set, key: &Bits) -> Vec<usize> {
        let (at, len) = self.fields[self.leading];
        let part = key.part(at, len);
        let (low, high) = (part.low(), part.high());
        let until = self.sorted.partition_point(|i| set.elements[*i].key[at..at + len] <= *high.as_slice());
        let mut found = Vec::new();
        for place in (0..until).rev() {
            if self.ends[place] < low {
                break;
            }
            found.push(self.sorted[place]);
        }
        found.sort_unstable();
        found
    }
}

/// The last key of an element.
fn last(element: &Element) -> &[u8] {
    element.key_end.as_deref().unwrap_or(&element.key)
}

fn by_field(set: &Set, index: &Fields, key: &Bits) -> Finds {
    let parts: Vec<Bits> = index.fields.iter().map(|(at, len)| key.part(*at, *len)).collect();
    let mut finds = Vec::new();
    for i in index.candidates(set, key) {
        let element = &set.elements[i];
        let mut answer = Answer::Yes;
        for ((at, len), part) in index.fields.iter().zip(&parts) {
            let field = *at..*at + *len;
            match part.within(&element.key[field.clone()], &last(element)[field]) {
                Answer::Yes => {}
                Answer::No => {
                    answer = Answer::No;
                    break;
                }
                Answer::Either => answer = Answer::Either,
            }
        }
        match answer {
            Answer::No => {}
            Answer::Yes => {
                finds.push(Some(i));
                return finds;
            }
            Answer::Either => finds.push(Some(i)),
        }
    }
    if !covered(set, index, &parts, &finds) {
        finds.push(None);
    }
    finds
}

/// Whether the elements found leave no value of the one field that is not known (a port) over.
fn covered(set: &Set, index: &Fields, parts: &[Bits], finds: &Finds) -> bool {
    let mut open = parts.iter().enumerate().filter(|(_, p)| !p.is_known());
    let (Some((f, part)), None) = (open.next(), open.next()) else { return false };
    let (at, len) = index.fields[f];
    let [Span { at: 0, width, low, high }] = part.spans[..] else { return false };
    if width != len {
        return false;
    }
    let number = |bytes: &[u8]| bytes.iter().fold(0u64, |n, b| n << 8 | u64::from(*b));
    let mut ranges: Vec<(u64, u64)> = finds
        .iter()
        .flatten()
        .map(|i| (number(&set.elements[*i].key[at..at + len]), number(&last(&set.elements[*i])[at..at + len])))
        .collect();
    ranges.sort_unstable();
    let mut next = u64::from(low);
    for (first, end) in ranges {
        if first > next {
            return false;
        }
        next = next.max(end + 1);
    }
    next > u64::from(high)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(bytes: &[u8]) -> Bits {
        Bits { bytes: bytes.to_vec(), known: vec![0xff; bytes.len()], ..Bits::default() }
    }
    fn element(key: &[u8]) -> Element {
        Element { key: key.into(), ..Element::default() }
    }

    #[test]
    fn half_open_ranges_of_the_tree() {
        // 10.0.0.0/8, 192.168.0.0/16 to the end of a set that has no upper end.
        let end = |key: &[u8]| Element { interval_end: true, ..element(key) };
        let elements = vec![
            end(&[0, 0, 0, 0]),
            element(&[10, 0, 0, 0]),
            end(&[11, 0, 0, 0]),
            element(&[11, 0, 0, 0]),
            end(&[12, 0, 0, 0]),
            element(&[224, 0, 0, 0]),
        ];
        let set = Set { key_len: 4, interval: true, elements, ..Set::default() };
        let found = |key: &[u8]| find(&set, &known(key)).unwrap();
        assert_eq!(found(&[9, 255, 255, 255]), [None]);
        assert_eq!(found(&[10, 0, 0, 0]), [Some(1)]);
        assert_eq!(found(&[11, 0, 0, 0]), [Some(3)]);
        assert_eq!(found(&[12, 0, 0, 0]), [None]);
        assert_eq!(found(&[255, 255, 255, 255]), [Some(5)]);
        let open = Bits { bytes: vec![10, 0, 0, 0], known: vec![0xfe, 0, 0, 0], ..Bits::default() };
        assert_eq!(find(&set, &open).unwrap(), [Some(1), Some(3)]);
    }

    #[test]
    fn concatenated_ranges() {
        // nft_set_pipapo.c: address (4 bytes) and port (2 bytes, padded to 4).
        let range = |a: [u8; 8], b: [u8; 8]| Element { key_end: Some(b.into()), ..element(&a) };
        let elements = vec![
            range([10, 0, 0, 0, 0x16, 0x28, 0, 0], [10, 255, 255, 255, 0x16, 0x28, 0, 0]),
            range([10, 9, 0, 0, 0, 0, 0, 0], [10, 9, 255, 255, 0x80, 0, 0, 0]),
            range([10, 9, 0, 0, 0x80, 1, 0, 0], [10, 9, 255, 255, 0xff, 0xff, 0, 0]),
        ];
        let set = Set { key_len: 8, interval: true, fields: vec![4, 2], elements, ..Set::default() };
        let found = |key: &[u8]| find(&set, &known(key)).unwrap();
        assert_eq!(found(&[10, 1, 1, 1, 0x16, 0x28, 0, 0]), [Some(0)]);
        assert_eq!(found(&[10, 1, 1, 1, 0x16, 0x29, 0, 0]), [None]);
        assert_eq!(found(&[10, 9, 1, 1, 0x16, 0x29, 0, 0]), [Some(1)]);
        assert_eq!(found(&[11, 9, 1, 1, 0x16, 0x28, 0, 0]), [None]);
        // Two ranges that cover all that the port may be leave no miss.
        let spans = vec![Span { at: 4, width: 2, low: 0x7000, high: 0x9000 }];
        let port = |a: u8| Bits {
            bytes: vec![10, a, 1, 1, 0, 0, 0, 0],
            known: vec![255, 255, 255, 255, 0, 0, 255, 255],
            spans: spans.clone(),
            why: None,
        };
        assert_eq!(find(&set, &port(9)).unwrap(), [Some(1), Some(2)]);
        assert_eq!(find(&set, &port(8)).unwrap(), [None]);
    }

    #[test]
    fn large_sets_are_searched_not_read() {
        let key = |i: u32| i.wrapping_mul(2_654_435_761).to_be_bytes();
        let elements: Vec<Element> = (0..60_000).map(|i| element(&key(i))).collect();
        let set = Set { key_len: 4, elements, ..Set::default() };
        for i in (0..60_000).step_by(7) {
            assert_eq!(find(&set, &known(&key(i))).unwrap(), [Some(i as usize)]);
        }
        let elements: Vec<Element> = (0..60_000u32)
            .map(|i| {
                let mut first = vec![0; 8];
                first[..4].copy_from_slice(&(i << 8).to_be_bytes());
                let mut last = first.clone();
                (last[3], last[4], last[5]) = (255, 255, 255);
                Element { key_end: Some(last.into()), ..element(&first) }
            })
            .collect();
        let set = Set { key_len: 8, interval: true, fields: vec![4, 2], elements, ..Set::default() };
        let start = std::time::Instant::now();
        for i in 0..60_000u32 {
            let mut key = vec![0; 8];
            key[..4].copy_from_slice(&(i << 8 | 7).to_be_bytes());
            assert_eq!(find(&set, &known(&key)).unwrap(), [Some(i as usize)]);
        }
        assert!(start.elapsed().as_secs() < 10, "{:?}", start.elapsed());
    }

    #[test]
    fn a_set_of_another_shape_is_not_guessed_at() {
        let set = Set { name: "s".to_owned(), key_len: 4, elements: vec![element(&[1, 2])], ..Set::default() };
        assert!(find(&set, &known(&[1, 2, 0, 0])).is_err());
    }
}

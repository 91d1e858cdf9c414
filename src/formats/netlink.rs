//! Messages and attributes of netlink (RFC 3549, include/uapi/linux/netlink.h), as far as they are the same for every family.

/// Bytes of `struct nlmsghdr`.
pub const HEADER: usize = 16;
/// Control messages, which are of no family.
pub const NLMSG_NOOP: u16 = 1;
pub const NLMSG_ERROR: u16 = 2;
pub const NLMSG_DONE: u16 = 3;
/// The dump is not of one moment.
pub const NLM_F_DUMP_INTR: u16 = 0x10;

/// One message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message<'a> {
    pub kind: u16,
    pub flags: u16,
    /// What follows the header, without padding.
    pub body: &'a [u8],
    /// Header and body, without padding.
    pub whole: &'a [u8],
}

impl<'a> Message<'a> {
    /// The fixed structure at the start of the body, and the attributes behind it; `None` if it is shorter than that.
    pub fn split(&self, fixed: usize) -> Option<(&'a [u8], &'a [u8])> {
        let head = self.body.get(..fixed)?;
        Some((head, self.body.get(fixed.next_multiple_of(4)..).unwrap_or_default()))
    }
}

/// The bytes do not hold what their length fields say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Broken;

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a length that cannot be: the answer is cut off or garbled")
    }
}

/// Messages in a row.
#[derive(Debug, Clone)]
pub struct Messages<'a>(&'a [u8]);

pub fn messages(bytes: &[u8]) -> Messages<'_> {
    Messages(bytes)
}

impl<'a> Iterator for Messages<'a> {
    type Item = Result<Message<'a>, Broken>;
    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let length = u32_at(self.0, 0) as usize;
        let whole = self.0.get(..length).filter(|w| w.len() >= HEADER);
        let Some(whole) = whole else {
            self.0 = &[];
            return Some(Err(Broken));
        };
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Ok(Message { kind: u16_at(whole, 4), flags: u16_at(whole, 6), body: &whole[HEADER..], whole }))
    }
}

/// One attribute; the bits that say "nested" and "network byte order" are taken off its kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attribute<'a> {
    pub kind: u16,
    pub value: &'a [u8],
}

/// Attributes in a row. Ends at the first one that is broken, after handing that out as an error.
#[derive(Debug, Clone)]
pub struct Attributes<'a>(&'a [u8]);

pub fn attributes(bytes: &[u8]) -> Attributes<'_> {
    Attributes(bytes)
}

impl<'a> Iterator for Attributes<'a> {
    type Item = Result<Attribute<'a>, Broken>;
    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let length = usize::from(u16_at(self.0, 0));
        let whole = self.0.get(..length).filter(|w| w.len() >= 4);
        let Some(whole) = whole else {
            self.0 = &[];
            return Some(Err(Broken));
        };
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Ok(Attribute { kind: u16_at(whole, 2) & 0x3fff, value: &whole[4..] }))
    }
}

/// The value of the first attribute of a kind; `None` also when the row is broken before it.
pub fn attribute(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).map_while(Result::ok).find(|a| a.kind == kind).map(|a| a.value)
}

/// A text value: up to its first zero byte.
pub fn text(value: &[u8]) -> String {
    let end = value.iter().position(|b| *b == 0).unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

/// In the machine's byte order; 0 where there are not enough bytes.
pub fn u16_at(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).and_then(|b| b.try_into().ok()).map_or(0, u16::from_ne_bytes)
}

/// In the machine's byte order; 0 where there are not enough bytes.
pub fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_ne_bytes)
}

/// Appends an attribute with its padding. A value that is too long for one is cut.
pub fn push_attribute(into: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let value = &value[..value.len().min(usize::from(u16::MAX) - 7)];
    let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
    into.extend(length.to_ne_bytes());
    into.extend(kind.to_ne_bytes());
    into.extend(value);
    into.resize(into.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let mut bytes = u32::try_from(HEADER + body.len()).unwrap().to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.resize(HEADER, 0);
        bytes.extend(body);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    #[test]
    fn messages_and_attributes_in_a_row() {
        let mut body = vec![7, 0, 0, 0];
        push_attribute(&mut body, 1, b"name\0");
        push_attribute(&mut body, 2 | 0x8000, &[1]);
        let bytes = [message(20, &body), message(NLMSG_DONE, &[0; 4])].concat();
        let all: Vec<Message> = messages(&bytes).map(Result::unwrap).collect();
        assert_eq!((all.len(), all[0].kind, all[1].kind), (2, 20, NLMSG_DONE));
        let (head, rest) = all[0].split(4).unwrap();
        assert_eq!((head[0], text(attribute(rest, 1).unwrap()), attribute(rest, 2)), (7, "name".to_owned(), Some(&[1][..])));
        assert_eq!(attribute(rest, 3), None);
        assert!(all[0].split(400).is_none());
    }

    #[test]
    fn impossible_lengths_are_errors_and_end_the_row() {
        for bytes in [&[0; 20][..], &[255; 20], &[4, 0, 0], &[17, 0, 0, 0, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9]] {
            let all: Vec<_> = messages(bytes).collect();
            assert_eq!(all, [Err(Broken)]);
        }
        for bytes in [&[0; 8][..], &[255; 8], &[3, 0, 1, 0], &[5], &[9, 0, 1, 0, 1, 2, 3, 4]] {
            assert_eq!(attributes(bytes).collect::<Vec<_>>(), [Err(Broken)]);
        }
    }
}

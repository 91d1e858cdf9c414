//! Questions to the kernel over netlink sockets: one request, and an answer of one message or of a whole dump.

use super::Miss;
use crate::formats::netlink::{HEADER, Message, NLM_F_DUMP_INTR, NLMSG_DONE, NLMSG_ERROR, NLMSG_NOOP, messages, u32_at};
use nix::errno::Errno;
use nix::sys::socket::sockopt::{RcvBuf, ReceiveTimeout};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, setsockopt, socket,
};
use nix::sys::time::{TimeVal, TimeValLike};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
/// NLM_F_ROOT | NLM_F_MATCH
const NLM_F_DUMP: u16 = 0x300;
/// The kernel fills at most 32 KiB at once, unless a single object is larger. Pages that it does not fill are never touched.
const BUFFER: usize = 1024 * 1024;
/// Largest answer that is taken, in bytes: 100,000 rules are 60 MiB.
const MAX_ANSWER: usize = 512 * 1024 * 1024;
/// Seconds without a word from the kernel, and time for everything that one socket is asked.
const SILENCE: i64 = 2;
const TIME: Duration = Duration::from_secs(20);

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stop {
    /// What is listed changed meanwhile: worth another try.
    Changed,
    /// The kernel's error code.
    Refused(Errno),
    /// Anything else, ready for the user.
    Miss(Miss),
}

impl Stop {
    /// `what` was asked for and needs `right`.
    pub fn miss(self, what: &str, right: &str) -> Miss {
        match self {
            Stop::Changed => Miss::failed(what, "changed again and again while it was read"),
            Stop::Refused(Errno::EPERM | Errno::EACCES) => Miss::Denied { what: format!("{what} needs {right}") },
            Stop::Refused(e) if is_absence(e) => Miss::Absent { what: what.to_owned() },
            Stop::Refused(e) => Miss::failed(what, std::io::Error::from(e)),
            Stop::Miss(miss) => miss,
        }
    }
}

/// What the kernel answers when it does not have the part that was asked.
fn is_absence(e: Errno) -> bool {
    matches!(e, Errno::ENOENT | Errno::EOPNOTSUPP | Errno::EPROTONOSUPPORT | Errno::EINVAL | Errno::EAFNOSUPPORT)
}

/// A netlink socket of this thread's network namespace.
pub struct Socket {
    fd: OwnedFd,
    what: &'static str,
    buffer: Vec<u8>,
    until: Instant,
}

impl Socket {
    /// `what`: what is asked for, in the words of a [`Miss`].
    pub fn open(protocol: SockProtocol, what: &'static str) -> Result<Socket, Stop> {
        let fd = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol).map_err(Stop::Refused)?;
        setsockopt(&fd, ReceiveTimeout, &TimeVal::seconds(SILENCE)).map_err(Stop::Refused)?;
        // A smaller one than this is no harm: the kernel waits with the rest of a dump.
        let _ = setsockopt(&fd, RcvBuf, &BUFFER);
        Ok(Socket { fd, what, buffer: vec![0; BUFFER], until: Instant::now() + TIME })
    }

    /// Asks for a list and hands out its messages in order. `body` is what follows the header of the request.
    pub fn dump(&mut self, kind: u16, body: &[u8], mut each: impl FnMut(Message)) -> Result<(), Stop> {
        self.send(kind, NLM_F_REQUEST | NLM_F_DUMP, body)?;
        let mut size = 0;
        loop {
            let length = self.receive()?;
            size += length;
            if size > MAX_ANSWER {
                return Err(Stop::Miss(Miss::TooBig { what: self.what.to_owned(), limit: MAX_ANSWER as u64 }));
            }
            if read(&self.buffer[..length], self.what, &mut each)? {
                return Ok(());
            }
        }
    }

    /// Asks for one thing.
    pub fn ask(&mut self, kind: u16, body: &[u8], mut each: impl FnMut(Message)) -> Result<(), Stop> {
        self.send(kind, NLM_F_REQUEST, body)?;
        let length = self.receive()?;
        read(&self.buffer[..length], self.what, &mut each).map(|_| ())
    }

    /// Asks for a change and waits for the kernel's word on it.
    pub fn change(&mut self, kind: u16, flags: u16, body: &[u8]) -> Result<(), Stop> {
        self.send(kind, NLM_F_REQUEST | NLM_F_ACK | flags, body)?;
        let length = self.receive()?;
        match read(&self.buffer[..length], self.what, &mut |_| {})? {
            true => Ok(()),
            false => Err(Stop::Refused(Errno::EPROTO)),
        }
    }

    fn send(&self, kind: u16, flags: u16, body: &[u8]) -> Result<(), Stop> {
        let request = request(kind, flags, body);
        let sent = sendto(self.fd.as_raw_fd(), &request, &NetlinkAddr::new(0, 0), MsgFlags::empty());
        sent.map(|_| ()).map_err(Stop::Refused)
    }

    /// One datagram into the buffer; its length.
    fn receive(&mut self) -> Result<usize, Stop> {
        let silent = || Stop::Miss(Miss::Timeout { what: self.what.to_owned(), seconds: SILENCE.unsigned_abs() });
        loop {
            if Instant::now() > self.until {
                return Err(Stop::Miss(Miss::Timeout { what: self.what.to_owned(), seconds: TIME.as_secs() }));
            }
            // With MSG_TRUNC the kernel says how long the datagram was, not how much of it fitted.
            match recv(self.fd.as_raw_fd(), &mut self.buffer, MsgFlags::MSG_TRUNC) {
                Ok(0) => return Err(Stop::Miss(Miss::failed(self.what, "no answer"))),
                Ok(length) if length > self.buffer.len() => {
                    return Err(Stop::Miss(Miss::failed(self.what, format!("a message of {length} bytes is too long"))));
                }
                Ok(length) => return Ok(length),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Err(silent()),
                Err(e) => return Err(Stop::Refused(e)),
            }
        }
    }
}

/// Header and body, in the machine's byte order.
fn request(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(HEADER + body.len()).unwrap_or(u32::MAX);
    let mut bytes = Vec::with_capacity(HEADER + body.len());
    bytes.extend(length.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend(body);
    bytes
}

/// Hands out the messages of one datagram; whether the dump is at its end.
fn read(datagram: &[u8], what: &str, each: &mut impl FnMut(Message)) -> Result<bool, Stop> {
    for message in messages(datagram) {
        let message = message.map_err(|broken| Stop::Miss(Miss::failed(what, broken)))?;
        if message.flags & NLM_F_DUMP_INTR != 0 {
            return Err(Stop::Changed);
        }
        match message.kind {
            NLMSG_NOOP => {}
            // A dump that broke off says so in its last message.
            NLMSG_DONE | NLMSG_ERROR => {
                return match u32_at(message.body, 0).cast_signed() {
                    code if code < 0 => Err(refused(code)),
                    _ => Ok(true),
                };
            }
            _ => each(message),
        }
    }
    Ok(false)
}

fn refused(code: i32) -> Stop {
    match Errno::from_raw(code.saturating_neg()) {
        Errno::EINTR | Errno::EAGAIN => Stop::Changed,
        errno => Stop::Refused(errno),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
        let mut bytes = request(kind, flags, body);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn outcome(datagram: &[u8]) -> (Result<bool, Stop>, usize) {
        let mut count = 0;
        let end = read(datagram, "it", &mut |_| count += 1);
        (end, count)
    }

    #[test]
    fn ends_of_a_dump() {
        let item = answer(20, 2, b"x");
        assert_eq!(outcome(&[item.clone(), item.clone()].concat()), (Ok(false), 2));
        assert_eq!(outcome(&[item.clone(), answer(NLMSG_DONE, 2, &[0; 4])].concat()), (Ok(true), 1));
        let broke_off = answer(NLMSG_DONE, 2, &(-(Errno::EMSGSIZE as i32)).to_ne_bytes());
        assert_eq!(outcome(&broke_off).0, Err(Stop::Refused(Errno::EMSGSIZE)));
        assert_eq!(outcome(&answer(20, NLM_F_DUMP_INTR, b"x")).0, Err(Stop::Changed));
        let denied = answer(NLMSG_ERROR, 0, &(-1i32).to_ne_bytes());
        assert_eq!(outcome(&denied).0, Err(Stop::Refused(Errno::EPERM)));
    }

    #[test]
    fn broken_answers_are_errors() {
        for bytes in [&[255; 20][..], &[0; 20], &[1; 3], &answer(20, 0, b"long enough")[..20]] {
            assert!(matches!(outcome(bytes).0, Err(Stop::Miss(Miss::Failed { .. }))), "{bytes:?}");
        }
    }

    #[test]
    fn error_codes_in_words() {
        let miss = |e| Stop::Refused(e).miss("nf_tables", "CAP_NET_ADMIN");
        assert_eq!(miss(Errno::EPERM).to_string(), "permission denied: nf_tables needs CAP_NET_ADMIN");
        for absent in [Errno::ENOENT, Errno::EOPNOTSUPP, Errno::EPROTONOSUPPORT, Errno::EINVAL] {
            assert!(miss(absent).is_absent());
        }
        assert!(matches!(miss(Errno::ENOBUFS), Miss::Failed { .. }));
    }
}

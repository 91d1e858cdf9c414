//! The Erlang distribution protocol, as far as calling functions on a broker needs it.
//!
//! `rabbitmqctl` does the same thing, but takes half a second to start a VM; a handshake from here takes a millisecond and
//! a call 0.2. Handshake and epmd come from `erl_dist`; frames are read here, because the peer is not trusted: sizes, nesting
//! and time are bounded, and a message is checked ([`Scan`]) before `eetf` decodes it.
//!
//! Calls go to the process `rex` of the node (`{'$gen_call', From, {call, M, F, A, user}}`), which every OTP from 23 to 29
//! has. The group leader `user` is the node's own: what the called function logs stays in the broker's log.

use super::rpc::{self, Call, Mfa, Mutation, Target, atom, tuple};
use super::{Got, Miss, effective};
use eetf::{Atom, FixInteger, Pid, Reference, Term, Tuple};
use erl_dist::LOWEST_DISTRIBUTION_PROTOCOL_VERSION;
use erl_dist::epmd::{DEFAULT_EPMD_PORT, EpmdClient};
use erl_dist::handshake::{ClientSideHandshake, HandshakeError, HandshakeStatus};
use erl_dist::node::{Creation, LocalNode, NodeName};
use futures_lite::future::block_on;
use futures_lite::io::{AsyncRead, AsyncWrite};
use nix::fcntl::OFlag;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// What is said of a node that turned the cookie away.
pub const COOKIE_REFUSED: &str = "the node refused our cookie";

/// Connecting and the handshake.
const DIAL_LIMIT: Duration = Duration::from_secs(2);
/// One read-only call.
const CALL_LIMIT: Duration = Duration::from_secs(5);
/// Reading the configuration files and all schemas: under half a second on an idle host.
const CONFIGURATION_LIMIT: Duration = Duration::from_secs(30);
/// One call that changes the broker: starting plugins takes seconds.
const MUTATION_LIMIT: Duration = Duration::from_secs(60);
/// A session that was quiet for longer is dialled anew: the node drops peers that miss its ticks (every 15 s).
const IDLE_LIMIT: Duration = Duration::from_secs(10);
/// Largest message that is accepted, in bytes.
const MAX_MESSAGE: u32 = 16 * 1024 * 1024;
/// Deepest nesting of a term.
const MAX_DEPTH: usize = 64;
/// Most terms in one message: a million empty lists fit in a megabyte, but not in memory for long.
const MAX_TERMS: usize = 1_000_000;
/// Every name becomes an atom of the broker, and atoms are never freed: the same few names are used by all audits.
const NAMES: u8 = 8;
/// Between the attempts of the second round through the names; audits are done in hundredths of a second.
const PAUSE: Duration = Duration::from_millis(25);
/// Longest cookie file and password line, in bytes.
const MAX_SECRET: u64 = 4096;

/// Calls functions on brokers; keeps the connection of the last one for the next call.
#[derive(Default)]
pub struct Dialer {
    session: Mutex<Option<Session>>,
}

impl Dialer {
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes a read-only call. `Absent`: this version of RabbitMQ has no such function.
    pub fn call(&self, target: &Target, call: &Call) -> Got<Term> {
        let several = |mfa: Mfa| self.ask(target, CONFIGURATION_LIMIT, |_| vec![mfa]);
        match call {
            Call::Accepts(files) => return effective::accepts(files, &several),
            Call::Differences(files) => return effective::differences(files, &several),
            _ => {}
        }
        let got = self.ask(target, CALL_LIMIT, |node| call.mfas(node));
        got.map(|term| call.pare(term))
    }

    /// Makes a call that changes the broker. It is never repeated: after a `Timeout` it may or may not have happened.
    pub fn mutate(&self, target: &Target, mutation: &Mutation) -> Got<()> {
        let password = mutation.password_file().map(read_password).transpose()?.unwrap_or_default();
        let answer = self.ask(target, MUTATION_LIMIT, |_| vec![mutation.mfa(&password)])?;
        mutation.outcome(&answer, &password)
    }

    /// Calls the first of the functions that the node has.
    fn ask(&self, target: &Target, limit: Duration, mfas: impl FnOnce(&str) -> Vec<Mfa>) -> Got<Term> {
        let mut slot = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        let mut session = match slot.take() {
            Some(session) if session.serves(target) => session,
            _ => Session::dial(target)?,
        };
        let mut got = Err(Miss::Absent { what: format!("a function to call on {}", session.peer) });
        for mfa in mfas(&session.peer) {
            // A session that failed in the middle of a message is of no more use: it is dropped with the error.
            got = rpc::reply(&mfa, session.exchange(&mfa, limit)?);
            if !got.as_ref().is_err_and(Miss::is_absent) {
                break;
            }
        }
        *slot = Some(session);
        got
    }
}

/// The port of a node's distribution listener, from the Erlang port mapper of `host`. `Absent`: no such node is registered.
/// `name` is the part of the node name before `@`.
pub fn port_of(host: IpAddr, name: &str) -> Got<u16> {
    let at = SocketAddr::new(host, DEFAULT_EPMD_PORT);
    let what = format!("epmd at {at}");
    let wire = Wire::connect(at, &what)?;
    let found = block_on(EpmdClient::new(wire).get_node(name)).map_err(|e| Miss::failed(what.as_str(), e))?;
    found.map(|node| node.port).ok_or_else(|| Miss::Absent { what: format!("node {name} in {what}") })
}

/// An authenticated connection to a node.
pub struct Session {
    wire: Wire,
    target: Target,
    /// The node's own name, as it gave it in the handshake.
    peer: String,
    me: Pid,
    calls: u32,
    used: Instant,
}

impl Session {
    /// Connects, as a hidden node, and proves the cookie both ways.
    pub fn dial(target: &Target) -> Got<Self> {
        let port = match target.port {
            Some(port) => port,
            None => port_of(target.address, target.node.split('@').next().unwrap_or_default())?,
        };
        let at = SocketAddr::new(target.address, port);
        let what = format!("node {} at {at}", target.node);
        let cookie = read_cookie(&target.cookie_file)?;
        let random = random(&what)?;
        let deadline = Instant::now() + DIAL_LIMIT;
        let mut last = Trouble::Protocol(format!("all {NAMES} client names are in use: is another audit hanging?"));
        for attempt in 0..2 * NAMES {
            if attempt >= NAMES {
                std::thread::sleep(PAUSE);
            }
            let wire = Wire { deadline, ..Wire::connect(at, &what)? };
            // Audits that run at the same time begin with different names.
            let name = client_name(attempt.wrapping_add(random[0]) % NAMES);
            match handshake(wire, &name, u32::from_be_bytes(random), &cookie) {
                Ok(Some((wire, me, peer))) => {
                    return Ok(Session { wire, target: target.clone(), peer, me, calls: 0, used: Instant::now() });
                }
                Ok(None) => {}
                // A node hangs up on the third at a time that wants a name; the next name may be free.
                Err(Trouble::Io(e)) if is_hangup(&e) && attempt < NAMES => last = Trouble::Io(e),
                Err(trouble) => return Err(trouble.explain(what, &target.cookie_file)),
            }
        }
        Err(last.explain(what, &target.cookie_file))
    }

    /// Whether this connection leads to `target` and is still open.
    fn serves(&self, target: &Target) -> bool {
        self.target == *target && self.used.elapsed() < IDLE_LIMIT && self.wire.is_open()
    }

    /// Sends one call to `rex` and waits for its reply; everything else that arrives is let pass.
    fn exchange(&mut self, mfa: &Mfa, limit: Duration) -> Got<Term> {
        self.calls = self.calls.wrapping_add(1);
        let reference = Reference { node: self.me.node.clone(), id: vec![self.calls, 0, 0], creation: self.me.creation };
        let reference = Term::from(reference);
        self.wire.deadline = Instant::now() + limit;
        let got = self.request(mfa, &reference).and_then(|()| self.await_reply(&reference));
        self.used = Instant::now();
        got.map_err(|trouble| trouble.explain_call(mfa.to_string(), limit))
    }

    fn request(&mut self, mfa: &Mfa, reference: &Term) -> Result<(), Trouble> {
        const REG_SEND: i32 = 6;
        let me = Term::from(self.me.clone());
        let control = tuple([int(REG_SEND), me.clone(), atom(""), atom("rex")]);
        let args = Term::from(eetf::List::from(mfa.args.clone()));
        let call = tuple([atom("call"), atom(mfa.module), atom(mfa.function), args, atom("user")]);
        let message = tuple([atom("$gen_call"), tuple([me, reference.clone()]), call]);
        self.wire.send(&[control, message])
    }

    fn await_reply(&mut self, reference: &Term) -> Result<Term, Trouble> {
        loop {
            let Some(Term::Tuple(Tuple { mut elements })) = self.wire.receive()? else { continue };
            if elements.len() == 2
                && elements[0] == *reference
                && let Some(result) = elements.pop()
            {
                return Ok(result);
            }
        }
    }
}

/// What went wrong on the wire.
#[derive(Debug)]
enum Trouble {
    Io(io::Error),
    TooBig,
    /// Not what the protocol allows; the text says what.
    Protocol(String),
    /// The node went away after it had our answer to its challenge, or gave a wrong answer to ours.
    Cookie,
}

impl From<io::Error> for Trouble {
    fn from(e: io::Error) -> Self {
        Trouble::Io(e)
    }
}

impl Trouble {
    fn explain(self, what: String, cookie_file: &Path) -> Miss {
        match self {
            Trouble::Cookie => Miss::failed(what, format!("{COOKIE_REFUSED} {}", cookie_file.display())),
            Trouble::Io(e) if is_hangup(&e) => {
                Miss::failed(what, "closed the connection during the handshake (does its distribution use TLS?)")
            }
            other => other.explain_call(what, DIAL_LIMIT),
        }
    }

    fn explain_call(self, what: String, limit: Duration) -> Miss {
        match self {
            Trouble::Io(e) if e.kind() == ErrorKind::TimedOut => Miss::Timeout { what, seconds: limit.as_secs() },
            Trouble::Io(e) if is_hangup(&e) => Miss::failed(what, "the node closed the connection"),
            Trouble::Io(e) => Miss::failed(what, e),
            Trouble::TooBig => Miss::TooBig { what, limit: u64::from(MAX_MESSAGE) },
            Trouble::Protocol(why) => Miss::failed(what, why),
            Trouble::Cookie => Miss::failed(what, COOKIE_REFUSED),
        }
    }
}

fn is_hangup(e: &io::Error) -> bool {
    matches!(e.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)
}

/// Where two connections with one name are being set up, a node keeps the older one if the name sorts before its own, else
/// the newer one, and logs an error: hence capitals, which sort before `rabbit`.
fn client_name(number: u8) -> String {
    format!("RMQ-audit-{number}")
}

fn random(what: &str) -> Got<[u8; 4]> {
    let mut bytes = [0; 4];
    getrandom::fill(&mut bytes).map_err(|e| Miss::failed(what, e))?;
    Ok(bytes)
}

/// `None`: the name is taken by another audit.
fn handshake(wire: Wire, name: &str, random: u32, cookie: &Secret) -> Result<Option<(Wire, Pid, String)>, Trouble> {
    let name = NodeName::new(name, "localhost").map_err(|e| Trouble::Protocol(e.to_string()))?;
    // 0 means "any incarnation".
    let creation = random | 1;
    let me = Pid { node: Atom::from(name.to_string()), id: 1, serial: 0, creation };
    let local = LocalNode::new(name, Creation::new(creation));

    let mut shake = ClientSideHandshake::new(wire, local, &cookie.0);
    match block_on(shake.execute_send_name(LOWEST_DISTRIBUTION_PROTOCOL_VERSION)).map_err(handshake_trouble)? {
        HandshakeStatus::Alive | HandshakeStatus::Nok => return Ok(None),
        _ => {}
    }
    // A node that has accepted the name hangs up for one reason only: the answer to its challenge.
    match block_on(shake.execute_rest(false)).map_err(handshake_trouble) {
        Ok((wire, peer)) => Ok(Some((wire, me, peer.name.to_string()))),
        Err(Trouble::Io(e)) if is_hangup(&e) => Err(Trouble::Cookie),
        Err(trouble) => Err(trouble),
    }
}

fn handshake_trouble(e: HandshakeError) -> Trouble {
    match e {
        HandshakeError::Io(e) => Trouble::Io(e),
        HandshakeError::CookieMismatch => Trouble::Cookie,
        other => Trouble::Protocol(format!("the handshake failed: {other}")),
    }
}

/// Text that is overwritten when it is no longer needed (copies inside `erl_dist` are not).
struct Secret(String);

impl Drop for Secret {
    fn drop(&mut self) {
        let mut bytes = std::mem::take(&mut self.0).into_bytes();
        bytes.fill(0);
        std::hint::black_box(&bytes);
    }
}

/// Reads a small regular file; links are refused, since their directory belongs to the broker's user and we are root.
fn read_secret(path: &Path) -> Got<Vec<u8>> {
    let what = path.display().to_string();
    let io = |e: io::Error| match e.kind() {
        ErrorKind::NotFound => Miss::Absent { what: what.clone() },
        ErrorKind::PermissionDenied => Miss::Denied { what: what.clone() },
        _ => Miss::failed(what.as_str(), e),
    };
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let file = std::fs::OpenOptions::new().read(true).custom_flags(flags.bits()).open(path).map_err(io)?;
    let meta = file.metadata().map_err(io)?;
    if !meta.is_file() {
        return Err(Miss::failed(what.as_str(), "not a regular file"));
    }
    if meta.len() > MAX_SECRET {
        return Err(Miss::TooBig { what, limit: MAX_SECRET });
    }
    let mut bytes = Vec::with_capacity(MAX_SECRET as usize);
    file.take(MAX_SECRET).read_to_end(&mut bytes).map_err(io)?;
    Ok(bytes)
}

/// The cookie as Erlang's `auth` reads it: printable ASCII, line ends at the end are not part of it.
fn read_cookie(path: &Path) -> Got<Secret> {
    let mut bytes = read_secret(path)?;
    if path.file_name().is_some_and(|name| name == "cmdline") {
        let mut args = bytes.split(|byte| *byte == 0).skip_while(|arg| *arg != b"-setcookie").skip(1);
        bytes = args.next().unwrap_or_default().to_vec();
    }
    let length = bytes.iter().rposition(|b| !matches!(b, b'\n' | b'\r')).map_or(0, |last| last + 1);
    bytes.truncate(length);
    if bytes.is_empty() || !bytes.iter().all(|b| matches!(b, b' '..=b'~')) {
        return Err(Miss::failed(path.display().to_string(), "not an Erlang cookie: one line of printable ASCII is expected"));
    }
    String::from_utf8(bytes).map(Secret).map_err(|_| Miss::failed(path.display().to_string(), "not UTF-8"))
}

/// First line of a password file.
fn read_password(path: &Path) -> Got<Vec<u8>> {
    let mut bytes = read_secret(path)?;
    let length = bytes.iter().position(|b| *b == b'\n').unwrap_or(bytes.len());
    bytes.truncate(length);
    if bytes.last() == Some(&b'\r') {
        bytes.pop();
    }
    if bytes.is_empty() {
        return Err(Miss::failed(path.display().to_string(), "the first line is empty: no password"));
    }
    Ok(bytes)
}

/// A blocking socket with a deadline and buffers in both directions. It also poses as an asynchronous one that is
/// always ready, which is what `erl_dist` wants.
struct Wire {
    stream: TcpStream,
    deadline: Instant,
    arrived: Vec<u8>,
    /// How much of `arrived` was consumed.
    taken: usize,
    leaving: Vec<u8>,
}

impl Wire {
    /// Connects; the deadline is that of a handshake.
    fn connect(at: SocketAddr, what: &str) -> Got<Self> {
        let stream = TcpStream::connect_timeout(&at, DIAL_LIMIT).map_err(|e| match e.kind() {
            ErrorKind::TimedOut => Miss::Timeout { what: what.to_owned(), seconds: DIAL_LIMIT.as_secs() },
            ErrorKind::ConnectionRefused => Miss::failed(what, "connection refused"),
            _ => Miss::failed(what, e),
        })?;
        Wire::over(stream).map_err(|e| Miss::failed(what, e))
    }

    fn over(stream: TcpStream) -> io::Result<Self> {
        // Nagle's algorithm together with delayed acknowledgements costs 40 ms a call.
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(DIAL_LIMIT))?;
        Ok(Wire { stream, deadline: Instant::now() + DIAL_LIMIT, arrived: Vec::new(), taken: 0, leaving: Vec::new() })
    }

    /// Looks whether the peer has closed the connection; ticks that wait to be read do no harm.
    fn is_open(&self) -> bool {
        let look = || -> io::Result<usize> {
            self.stream.set_nonblocking(true)?;
            let got = self.stream.peek(&mut [0]);
            self.stream.set_nonblocking(false)?;
            got
        };
        match look() {
            Ok(n) => n > 0,
            Err(e) => e.kind() == ErrorKind::WouldBlock,
        }
    }

    /// Sends one message that consists of these terms.
    fn send(&mut self, terms: &[Term]) -> Result<(), Trouble> {
        const PASS_THROUGH: u8 = 112;
        let mut body = vec![PASS_THROUGH];
        for term in terms {
            term.encode(&mut body).map_err(|e| Trouble::Protocol(e.to_string()))?;
        }
        let length = u32::try_from(body.len()).ok().filter(|n| *n <= MAX_MESSAGE).ok_or(Trouble::TooBig)?;
        self.leaving.extend_from_slice(&length.to_be_bytes());
        self.leaving.append(&mut body);
        Ok(Write::flush(self)?)
    }

    /// Waits for one message and gives its payload if it was sent to a process; `None` for everything else.
    /// Ticks are answered.
    fn receive(&mut self) -> Result<Option<Term>, Trouble> {
        let mut length = [0; 4];
        Read::read_exact(self, &mut length)?;
        let length = u32::from_be_bytes(length);
        if length == 0 {
            self.leaving.extend_from_slice(&[0; 4]);
            Write::flush(self)?;
            return Ok(None);
        }
        if length > MAX_MESSAGE {
            return Err(Trouble::TooBig);
        }
        let mut body = vec![0; length as usize];
        Read::read_exact(self, &mut body)?;
        payload(&body).map_err(Trouble::Protocol)
    }
}

impl Read for Wire {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.taken == self.arrived.len() {
            let left = self.deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ErrorKind::TimedOut.into());
            }
            self.stream.set_read_timeout(Some(left))?;
            self.arrived.resize(16 * 1024, 0);
            self.taken = 0;
            let got = self.stream.read(&mut self.arrived);
            self.arrived.truncate(*got.as_ref().unwrap_or(&0));
            got.map_err(timed_out)?;
        }
        let n = out.len().min(self.arrived.len() - self.taken);
        out[..n].copy_from_slice(&self.arrived[self.taken..self.taken + n]);
        self.taken += n;
        Ok(n)
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.leaving.extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        let sent = self.stream.write_all(&self.leaving).map_err(timed_out);
        self.leaving.clear();
        sent
    }
}

/// A socket's time limit shows as `WouldBlock`.
fn timed_out(e: io::Error) -> io::Error {
    if e.kind() == ErrorKind::WouldBlock { ErrorKind::TimedOut.into() } else { e }
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, out: &mut [u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(self.get_mut().read(out))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(self.get_mut().write(bytes))
    }
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Write::flush(self.get_mut()))
    }
    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// The payload of a SEND (or SEND_SENDER) message.
fn payload(body: &[u8]) -> Result<Option<Term>, String> {
    const SEND: i32 = 2;
    const SEND_SENDER: i32 = 22;
    let terms = body.strip_prefix(&[112]).ok_or("the peer sent a message of an unknown kind")?;
    let mut scan = Scan { rest: terms, terms: 0 };
    scan.message_part()?;
    let (control, message) = terms.split_at(terms.len() - scan.rest.len());
    let control = Term::decode(control).map_err(|e| e.to_string())?;
    let Term::Tuple(Tuple { elements }) = control else { return Err("the peer sent a control message that is no tuple".into()) };
    if !matches!(elements.first(), Some(Term::FixInteger(FixInteger { value: SEND | SEND_SENDER }))) {
        return Ok(None);
    }
    scan.message_part()?;
    Term::decode(message).map(Some).map_err(|e| e.to_string())
}

/// One whole term from a source that is not trusted: scanned before it is built.
pub(super) fn decode(bytes: &[u8]) -> Got<Term> {
    let mut scan = Scan { rest: bytes, terms: 0 };
    scan.message_part().map_err(|e| Miss::failed("Erlang term", e))?;
    Term::decode(bytes).map_err(|e| Miss::failed("Erlang term", e))
}

/// Walks over an encoded term without building it: `eetf` allocates what a length field asks for, recurses as deep as
/// the input goes, and panics at some tags. What passes here is small, shallow and complete.
struct Scan<'a> {
    rest: &'a [u8],
    terms: usize,
}

impl Scan<'_> {
    fn message_part(&mut self) -> Result<(), String> {
        match self.u8()? {
            131 => self.term(0),
            other => Err(format!("the peer sent a term of version {other}")),
        }
    }

    fn term(&mut self, depth: usize) -> Result<(), String> {
        self.terms += 1;
        if depth > MAX_DEPTH || self.terms > MAX_TERMS {
            return Err("the peer sent a term that is nested too deeply or has too many parts".into());
        }
        match self.u8()? {
            // integers and floats
            97 => self.skip(1),
            98 => self.skip(4),
            70 => self.skip(8),
            99 => self.skip(31),
            110 => self.u8().and_then(|n| self.skip(n + 1)),
            111 => self.u32().and_then(|n| self.skip(n.saturating_add(1))),
            // atoms
            115 | 119 => self.u8().and_then(|n| self.skip(n)),
            100 | 118 => self.u16().and_then(|n| self.skip(n)),
            // strings, binaries
            107 => self.u16().and_then(|n| self.skip(n)),
            109 => self.u32().and_then(|n| self.skip(n)),
            77 => self.bit_binary(),
            // tuples, lists, maps
            104 => self.u8().and_then(|n| self.terms(n, depth)),
            105 => self.u32().and_then(|n| self.terms(n, depth)),
            106 => Ok(()),
            108 => self.u32().and_then(|n| self.terms(n.saturating_add(1), depth)),
            116 => self.u32().and_then(|n| self.terms(n.saturating_mul(2), depth)),
            // pids, ports, references
            88 | 120 => self.term(depth + 1).and_then(|()| self.skip(12)),
            103 => self.term(depth + 1).and_then(|()| self.skip(9)),
            89 => self.term(depth + 1).and_then(|()| self.skip(8)),
            101 | 102 => self.term(depth + 1).and_then(|()| self.skip(5)),
            90 => self.reference(4, depth),
            114 => self.reference(1, depth),
            // funs
            113 => self.terms(3, depth),
            112 => self.fun(depth),
            tag => Err(format!("the peer sent a term with the unsupported tag {tag}")),
        }
    }

    fn terms(&mut self, count: usize, depth: usize) -> Result<(), String> {
        (0..count).try_for_each(|_| self.term(depth + 1))
    }

    fn bit_binary(&mut self) -> Result<(), String> {
        let length = self.u32()?;
        match self.u8()? {
            1..=8 => self.skip(length),
            _ => Err("the peer sent a malformed bit string".into()),
        }
    }

    fn reference(&mut self, creation: usize, depth: usize) -> Result<(), String> {
        let words = self.u16()?;
        self.term(depth + 1)?;
        self.skip(creation + 4 * words)
    }

    fn fun(&mut self, depth: usize) -> Result<(), String> {
        self.skip(4 + 1 + 16 + 4)?;
        let free = self.u32()?;
        self.terms(free.saturating_add(4), depth)
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let (head, rest) = self.rest.split_first_chunk().ok_or("the peer sent a term that ends too early")?;
        self.rest = rest;
        Ok(*head)
    }

    fn u8(&mut self) -> Result<usize, String> {
        self.take().map(|[b]| usize::from(b))
    }
    fn u16(&mut self) -> Result<usize, String> {
        self.take().map(|b| usize::from(u16::from_be_bytes(b)))
    }
    fn u32(&mut self) -> Result<usize, String> {
        self.take().map(|b| u32::from_be_bytes(b) as usize)
    }

    fn skip(&mut self, count: usize) -> Result<(), String> {
        self.rest = self.rest.get(count..).ok_or("the peer sent a term that ends too early")?;
        Ok(())
    }
}

fn int(value: i32) -> Term {
    FixInteger { value }.into()
}
#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::rpc::binary;
    use erl_dist::handshake::ServerSideHandshake;
    use std::net::{Ipv4Addr, TcpListener};
    use std::path::PathBuf;

    const COOKIE: &str = "MONSTER";

    /// A node that takes connections one after the other: proves `cookie`, then does as it is told.
    fn node(cookie: &'static str, status: HandshakeStatus, then: impl Fn(&mut Wire) + Send + 'static) -> u16 {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                let local = LocalNode::new("rabbit@test".parse().unwrap(), Creation::new(7));
                let mut shake = ServerSideHandshake::new(Wire::over(stream).unwrap(), local, cookie);
                if block_on(shake.execute_recv_name()).is_err() {
                    continue;
                }
                if let Ok((mut wire, _)) = block_on(shake.execute_rest(status.clone())) {
                    then(&mut wire);
                }
            }
        });
        port
    }

    /// A file that goes away with the test.
    struct Temporary(PathBuf);
    impl Temporary {
        fn new(name: &str, content: &[u8]) -> Self {
            let path = std::env::temp_dir().join(format!("rmq-audit-{}-{name}", std::process::id()));
            std::fs::write(&path, content).unwrap();
            Temporary(path)
        }
    }
    impl Drop for Temporary {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    fn target(port: u16, cookie: &Temporary) -> Target {
        Target {
            node: "rabbit@test".into(),
            address: Ipv4Addr::LOCALHOST.into(),
            port: Some(port),
            cookie_file: cookie.0.clone(),
        }
    }

    /// Reads a call and gives its `From`.
    fn caller(wire: &mut Wire) -> (Term, Term) {
        let mut length = [0; 4];
        Read::read_exact(wire, &mut length).unwrap();
        let mut body = vec![0; u32::from_be_bytes(length) as usize];
        Read::read_exact(wire, &mut body).unwrap();
        let mut scan = Scan { rest: &body[1..], terms: 0 };
        scan.message_part().unwrap();
        let message = Term::decode(scan.rest).unwrap();
        let from = rpc::elements(&rpc::elements(&message)[1]);
        (from[0].clone(), from[1].clone())
    }

    fn answer(wire: &mut Wire, value: Term) {
        let (pid, reference) = caller(wire);
        wire.send(&[tuple([int(2), atom(""), pid]), tuple([reference, value])]).unwrap();
    }

    fn badrpc(cause: Term) -> Term {
        tuple([atom("badrpc"), tuple([atom("EXIT"), cause])])
    }

    fn stack(module: &str, function: &str) -> Term {
        let frame = tuple([atom(module), atom(function), eetf::List::nil().into(), eetf::List::nil().into()]);
        eetf::List::from(vec![frame]).into()
    }

    #[test]
    fn one_connection_serves_many_calls() {
        let cookie = Temporary::new("many", b"MONSTER\n");
        let port = node(COOKIE, HandshakeStatus::Ok, |wire| {
            answer(wire, int(1));
            answer(wire, int(2));
        });
        let dialer = Dialer::new();
        assert_eq!(dialer.call(&target(port, &cookie), &Call::Version), Ok(int(1)));
        assert_eq!(dialer.call(&target(port, &cookie), &Call::Version), Ok(int(2)));
        // The node has hung up since: the next call dials anew.
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(dialer.call(&target(port, &cookie), &Call::Version), Ok(int(1)));
    }

    #[test]
    fn other_traffic_is_let_pass_and_ticks_are_answered() {
        let cookie = Temporary::new("ticks", COOKIE.as_bytes());
        let port = node(COOKIE, HandshakeStatus::Ok, |wire| {
            let (pid, reference) = caller(wire);
            wire.stream.write_all(&[0; 4]).unwrap();
            let mut tick = [1; 4];
            Read::read_exact(wire, &mut tick).unwrap();
            assert_eq!(tick, [0; 4]);
            let control = tuple([int(2), atom(""), pid.clone()]);
            wire.send(&[control.clone(), tuple([atom("io_request"), pid.clone(), atom("x"), atom("y")])]).unwrap();
            wire.send(&[control.clone(), tuple([atom("stale"), atom("reply")])]).unwrap();
            wire.send(&[tuple([int(19), pid.clone(), atom("x"), reference.clone()])]).unwrap();
            wire.send(&[control, tuple([reference, atom("done")])]).unwrap();
        });
        assert_eq!(Dialer::new().call(&target(port, &cookie), &Call::Version), Ok(atom("done")));
    }

    #[test]
    fn a_wrong_cookie_is_named_by_its_file() {
        let cookie = Temporary::new("wrong", COOKIE.as_bytes());
        let port = node("OTHER", HandshakeStatus::Ok, |_| {});
        let miss = Dialer::new().call(&target(port, &cookie), &Call::Version).unwrap_err().to_string();
        assert!(miss.contains(&format!("the node refused our cookie {}", cookie.0.display())), "{miss}");
        assert!(!miss.contains(COOKIE));
    }

    #[test]
    fn names_in_use_are_passed_over_until_none_is_left() {
        let cookie = Temporary::new("names", COOKIE.as_bytes());
        let port = node(COOKIE, HandshakeStatus::Alive, |_| {});
        let miss = Dialer::new().call(&target(port, &cookie), &Call::Version).unwrap_err();
        assert!(miss.to_string().contains("all 8 client names are in use"), "{miss}");
    }

    #[test]
    fn nobody_listening_is_said_so() {
        let cookie = Temporary::new("nobody", COOKIE.as_bytes());
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        let miss = Dialer::new().call(&target(port, &cookie), &Call::Version).unwrap_err();
        assert_eq!(miss.to_string(), format!("node rabbit@test at 127.0.0.1:{port}: connection refused"));
    }

    #[test]
    fn oversized_messages_are_not_read() {
        let cookie = Temporary::new("size", COOKIE.as_bytes());
        let port = node(COOKIE, HandshakeStatus::Ok, |wire| {
            caller(wire);
            wire.stream.write_all(&u32::MAX.to_be_bytes()).unwrap();
        });
        let miss = Dialer::new().call(&target(port, &cookie), &Call::Version).unwrap_err();
        assert!(matches!(miss, Miss::TooBig { .. }), "{miss}");
    }

    #[test]
    fn an_unknown_function_is_absent_and_a_crash_tells_no_arguments() {
        let cookie = Temporary::new("undef", COOKIE.as_bytes());
        let undef = |m: &str, f: &str| badrpc(tuple([atom("undef"), stack(m, f)]));
        let mine = undef("rabbit_misc", "version");
        let other = undef("deeper", "down");
        let crash = badrpc(tuple([tuple([atom("badmatch"), binary("secret")]), stack("rabbit_misc", "version")]));
        let answers = std::sync::Arc::new(Mutex::new(vec![crash, other, mine]));
        let port = node(COOKIE, HandshakeStatus::Ok, move |wire| {
            while let Some(next) = { answers.lock().unwrap().pop() } {
                answer(wire, next);
            }
        });
        let dialer = Dialer::new();
        let ask = || dialer.call(&target(port, &cookie), &Call::Version).unwrap_err();
        assert!(ask().is_absent());
        assert_eq!(ask().to_string(), "rabbit_misc:version/0: failed on the node: undef");
        assert_eq!(ask().to_string(), "rabbit_misc:version/0: failed on the node: {badmatch, _}");
    }

    #[test]
    fn older_names_of_a_function_are_tried() {
        let cookie = Temporary::new("older", COOKIE.as_bytes());
        let port = node(COOKIE, HandshakeStatus::Ok, |wire| {
            answer(wire, badrpc(tuple([atom("undef"), stack("rabbit_nodes", "list_running")])));
            answer(wire, eetf::List::from(vec![atom("rabbit@test")]).into());
        });
        let got = Dialer::new().call(&target(port, &cookie), &Call::RunningNodes).unwrap();
        assert_eq!(rpc::items(&got), Some(&[atom("rabbit@test")][..]));
    }

    #[test]
    fn malformed_terms_are_refused_before_they_are_built() {
        let scan = |bytes: &[u8]| Scan { rest: bytes, terms: 0 }.message_part();
        assert_eq!(scan(&[131, 104, 2, 97, 1, 106]), Ok(()));
        assert!(scan(&[131, 108, 255, 255, 255, 255, 106]).is_err(), "a list that claims four billion elements");
        assert!(scan(&[131, 109, 255, 255, 255, 255]).is_err(), "a binary that claims four gigabytes");
        assert!(scan(&[131, 80, 0, 0, 0, 1]).is_err(), "compressed");
        assert!(scan(&[131, 68]).is_err(), "distribution header");
        assert!(scan(&[131, 82, 0]).is_err(), "atom cache");
        assert!(scan(&[131, 77, 0, 0, 0, 1, 0, 255]).is_err(), "bit string without bits");
        let deep: Vec<u8> = [131].into_iter().chain([104, 1].repeat(100)).chain([106]).collect();
        assert!(scan(&deep).is_err());
        let many: Vec<u8> = [131, 108].into_iter().chain(2_000_000u32.to_be_bytes()).chain(vec![106; 2_000_001]).collect();
        assert!(scan(&many).is_err());
    }

    #[test]
    fn whatever_eetf_writes_passes_the_scan() {
        let pid = Pid { node: Atom::from("a@b"), id: 1, serial: 2, creation: 3 };
        let reference = Reference { node: Atom::from("a@b"), id: vec![1, 2, 3], creation: 3 };
        let float = eetf::Float { value: 1.5 };
        let map = eetf::Map::from([(atom("k"), binary("v"))]);
        let big = eetf::BigInteger::from(1u64 << 40);
        let string = eetf::ByteList::from("text");
        let improper = eetf::ImproperList::from((vec![int(-5)], int(70000)));
        let fun = eetf::ExternalFun::from(("m", "f", 1));
        let terms: Vec<Term> = vec![
            pid.into(),
            reference.into(),
            float.into(),
            map.into(),
            big.into(),
            string.into(),
            improper.into(),
            fun.into(),
            Tuple::from(vec![int(0); 300]).into(),
        ];
        let term = Term::from(eetf::List::from(terms));
        let mut bytes = Vec::new();
        term.encode(&mut bytes).unwrap();
        let mut scan = Scan { rest: &bytes, terms: 0 };
        assert_eq!(scan.message_part(), Ok(()));
        assert!(scan.rest.is_empty());
    }

    #[test]
    fn cookies_and_passwords_are_read_as_erlang_and_people_write_them() {
        let read = |content: &[u8]| {
            let file = Temporary::new("secret", content);
            (read_cookie(&file.0).map(|c| c.0.clone()).ok(), read_password(&file.0).ok())
        };
        assert_eq!(read(b"ABC\n"), (Some("ABC".into()), Some(b"ABC".to_vec())));
        assert_eq!(read(b"A B\r\n"), (Some("A B".into()), Some(b"A B".to_vec())));
        assert_eq!(read(b"one\ntwo\n"), (None, Some(b"one".to_vec())));
        assert_eq!(read(b"\n"), (None, None));
        let file = Temporary::new("linked", b"ABC");
        let link = file.0.with_extension("link");
        std::os::unix::fs::symlink(&file.0, &link).unwrap();
        let followed = read_cookie(&link).is_ok();
        std::fs::remove_file(&link).unwrap();
        assert!(!followed);
        assert!(matches!(read_cookie(Path::new("/nonexistent/cookie")), Err(Miss::Absent { .. })));
    }
}

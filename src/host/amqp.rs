//! A real AMQP 0-9-1 client of a few frames: the only way to know that a login works.

use super::{Got, Miss, live, tls};
use serde::{Deserialize, Serialize};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// What to try.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Probe {
    pub to: SocketAddr,
    /// `None`: stop after the server's `connection.start` (no log line on the broker beyond a closed connection).
    pub login: Option<Login>,
    /// Over TLS, and only with the server that holds this certificate (SHA-256, hexadecimal digits) and its key: a password is told to
    /// nobody else.
    pub tls: Option<String>,
}

/// Credentials and vhost; the password is read from a file at the moment of use and never kept.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Login {
    pub user: String,
    pub password_file: PathBuf,
    pub vhost: String,
}

/// How far it came. Names are those of CONTRACT's `sees`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "kebab-case")]
pub enum Answer {
    /// `connection.start` arrived (no login asked for), or `connection.open-ok` did.
    Connected {
        server: Option<String>,
        mechanisms: Vec<String>,
    },
    Refused,
    Timeout,
    Reset,
    Unreachable {
        why: String,
    },
    /// 403 or a closed socket after start-ok.
    AuthRefused {
        text: String,
    },
    /// 530, 541 or another close after tune-ok.
    VhostRefused {
        text: String,
    },
    /// No secure connection came about.
    TlsError {
        text: String,
    },
    /// TCP accepted, then silence.
    Hangs,
    /// The bytes were not AMQP 0-9-1.
    NotAmqp {
        first_bytes: String,
    },
}

/// Time limit of the TCP handshake.
pub(super) const CONNECT: Duration = Duration::from_secs(3);
/// Time limit of every answer of the server.
const REPLY: Duration = Duration::from_secs(3);
/// Largest frame that is read, in bytes. RabbitMQ's `connection.start` is about 500; 128 KiB is its own limit after tuning.
const MAX_FRAME: usize = 128 * 1024;
/// Frames (heartbeats, mostly) that are passed over while waiting for one answer.
const MAX_OTHER_FRAMES: usize = 16;
const PROTOCOL_HEADER: &[u8; 8] = b"AMQP\x00\x00\x09\x01";
/// Larger secrets are refused before they are read.
const MAX_PASSWORD: u64 = 64 * 1024;

/// Class 10 (connection) methods.
const START: u16 = 10;
const START_OK: u16 = 11;
const TUNE: u16 = 30;
const TUNE_OK: u16 = 31;
const OPEN: u16 = 40;
const OPEN_OK: u16 = 41;
const CLOSE: u16 = 50;
const CLOSE_OK: u16 = 51;

/// Connects and speaks as far as asked. `Err` only where the probe could not be made (no password file), not where it failed.
pub fn ask(probe: &Probe) -> Got<Answer> {
    let password = probe.login.as_ref().map(password).transpose()?;
    let stream = match TcpStream::connect_timeout(&probe.to, CONNECT) {
        Ok(stream) => stream,
        Err(e) => return Ok(not_connected(&e)),
    };
    let wire: Box<dyn Wire> = match &probe.tls {
        None => Box::new(stream),
        Some(certificate) => match tls::secure(stream, probe.to, certificate) {
            Ok(secured) => Box::new(secured),
            Err(handshake) => return Ok(not_secured(handshake)),
        },
    };
    let mut peer = Peer { stream: wire, deadline: Instant::now() };
    let talked = match (&probe.login, password) {
        (Some(login), Some(password)) => peer.log_in(login, &password),
        // Just hung up: `close` is not allowed before the login, and the broker would log it as a protocol error.
        _ => peer.greet().map(Start::connected),
    };
    Ok(talked.unwrap_or_else(|end| end.answer()))
}

/// The first line of the password file.
pub(super) fn password(login: &Login) -> Got<String> {
    let what = login.password_file.display().to_string();
    let bytes = live::read(&login.password_file, MAX_PASSWORD)?;
    let text = String::from_utf8(bytes).map_err(|_| Miss::failed(&what, "not UTF-8"))?;
    Ok(text.lines().next().unwrap_or("").to_owned())
}

pub(super) fn not_connected(e: &std::io::Error) -> Answer {
    match e.kind() {
        ErrorKind::ConnectionRefused => Answer::Refused,
        ErrorKind::TimedOut | ErrorKind::WouldBlock => Answer::Timeout,
        ErrorKind::ConnectionReset => Answer::Reset,
        _ => Answer::Unreachable { why: e.to_string() },
    }
}

/// Why a conversation ended before it reached what was asked for, and at which point.
enum End {
    /// The server closed or reset the connection.
    Gone(Point),
    Silent,
    /// Bytes that no AMQP 0-9-1 server sends.
    Strange(Vec<u8>),
    /// `connection.close`
    Closed(Point, String),
    /// The server speaks AMQP but not to us: no PLAIN, another version.
    Unfit(String),
}

/// How far the conversation was.
#[derive(Clone, Copy, PartialEq)]
enum Point {
    /// Protocol header sent.
    Greeting,
    /// `start-ok` sent: the credentials are being judged.
    Login,
    /// `tune-ok` and `open` sent: logged in, the vhost is being judged.
    Vhost,
}

impl End {
    fn answer(self) -> Answer {
        let closed = "the server closed the connection without a word".to_owned();
        match self {
            End::Gone(Point::Greeting) => Answer::Reset,
            End::Gone(Point::Login) => Answer::AuthRefused { text: closed },
            End::Gone(Point::Vhost) => Answer::VhostRefused { text: closed },
            End::Silent => Answer::Hangs,
            End::Strange(bytes) => Answer::NotAmqp { first_bytes: bytes.escape_ascii().to_string() },
            End::Closed(Point::Vhost, text) => Answer::VhostRefused { text },
            End::Closed(_, text) => Answer::AuthRefused { text },
            End::Unfit(text) => Answer::AuthRefused { text },
        }
    }
}

/// What `connection.start` says.
struct Start {
    server: Option<String>,
    mechanisms: Vec<String>,
}

impl Start {
    fn connected(self) -> Answer {
        Answer::Connected { server: self.server, mechanisms: self.mechanisms }
    }
}

/// What the conversation goes over.
trait Wire: Read + Write {
    /// How long the next read or write may take.
    fn allow(&mut self, time: Duration);
}

impl Wire for TcpStream {
    fn allow(&mut self, time: Duration) {
        let _ = self.set_nodelay(true);
        let _ = self.set_write_timeout(Some(time));
        let _ = self.set_read_timeout(Some(time));
    }
}

impl Wire for tls::Secured {
    fn allow(&mut self, time: Duration) {
        self.sock.allow(time);
    }
}

fn not_secured(handshake: tls::Handshake) -> Answer {
    match handshake.end {
        tls::End::Alert { name } => Answer::TlsError { text: format!("alert {name}") },
        tls::End::Refused { why } => Answer::TlsError { text: why },
        tls::End::NotTls => Answer::TlsError { text: "what answers does not speak TLS".to_owned() },
        tls::End::Silent => Answer::Hangs,
        tls::End::NoConnection { why } => Answer::Unreachable { why },
        tls::End::Closed => Answer::TlsError { text: "closed during the handshake".to_owned() },
        tls::End::Established | tls::End::Reset => Answer::Reset,
    }
}

struct Peer {
    stream: Box<dyn Wire>,
    /// When the answer that is being waited for must be there whole.
    deadline: Instant,
}

impl Peer {
    /// Protocol header to `connection.start`.
    fn greet(&mut self) -> Result<Start, End> {
        self.send(PROTOCOL_HEADER)?;
        let arguments = self.method(START, Point::Greeting)?;
        parse_start(&arguments).ok_or(End::Strange(arguments.into_iter().take(32).collect()))
    }

    /// All the way to `open-ok`, then a clean close.
    fn log_in(&mut self, login: &Login, password: &str) -> Result<Answer, End> {
        let start = self.greet()?;
        if !start.mechanisms.iter().any(|m| m == "PLAIN") {
            let text = format!("the server offers {} only, not PLAIN", start.mechanisms.join(" "));
            return Err(End::Unfit(text));
        }
        self.send(&start_ok(&login.user, password))?;
        let limits = self.method(TUNE, Point::Login)?;
        self.send(&tune_ok(&limits))?;
        self.send(&open(&login.vhost))?;
        self.method(OPEN_OK, Point::Vhost)?;
        Ok(self.leave(start))
    }

    /// Says goodbye, without insisting on an answer.
    fn leave(&mut self, start: Start) -> Answer {
        let close = method_frame(CLOSE, |f| {
            f.extend(200_u16.to_be_bytes());
            short_string(f, "bye");
            f.extend([0; 4]);
        });
        if self.send(&close).is_ok() {
            let _ = self.method(CLOSE_OK, Point::Vhost);
        }
        start.connected()
    }

    fn send(&mut self, bytes: &[u8]) -> Result<(), End> {
        self.stream.allow(REPLY);
        // A server that refuses at once may have answered before it closed: the answer is read before the error counts.
        match self.stream.write_all(bytes).and_then(|()| self.stream.flush()) {
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Err(End::Silent),
            _ => Ok(()),
        }
    }

    /// Waits for one method of class connection and gives its arguments.
    fn method(&mut self, wanted: u16, point: Point) -> Result<Vec<u8>, End> {
        self.deadline = Instant::now() + REPLY;
        for _ in 0..MAX_OTHER_FRAMES {
            let (kind, payload) = self.frame(point)?;
            if kind != 1 {
                continue;
            }
            let id = |at: usize| payload.get(at..at + 2).map(|b| u16::from_be_bytes([b[0], b[1]]));
            match (id(0), id(2)) {
                (Some(10), Some(method)) if method == wanted => return Ok(payload.get(4..).unwrap_or_default().to_vec()),
                (Some(10), Some(CLOSE)) => {
                    let text = parse_close(payload.get(4..).unwrap_or_default());
                    let _ = self.send(&method_frame(CLOSE_OK, |_| {}));
                    return Err(End::Closed(point, text));
                }
                _ => return Err(End::Strange(payload.into_iter().take(32).collect())),
            }
        }
        Err(End::Silent)
    }

    /// One frame: type and payload.
    fn frame(&mut self, point: Point) -> Result<(u8, Vec<u8>), End> {
        let mut head = [0; 7];
        let seen = self.fill(&mut head, point)?;
        let size = u32::from_be_bytes([head[3], head[4], head[5], head[6]]) as usize;
        let known = matches!(head[0], 1 | 2 | 3 | 8);
        if seen >= 4 && head.starts_with(b"AMQP") {
            // Its own protocol header: the version it would rather speak, then it closes.
            return Err(End::Strange(head.to_vec()));
        }
        if seen < head.len() || !known || size > MAX_FRAME {
            return Err(End::Strange(head[..seen].to_vec()));
        }
        let mut payload = vec![0; size + 1];
        if self.fill(&mut payload, point)? < payload.len() || payload.pop() != Some(0xCE) {
            return Err(End::Strange(head.to_vec()));
        }
        Ok((head[0], payload))
    }

    /// Reads until the buffer is full, the server closes (then less came) or the deadline passes.
    fn fill(&mut self, buffer: &mut [u8], point: Point) -> Result<usize, End> {
        let mut filled = 0;
        while filled < buffer.len() {
            let left = self.deadline.saturating_duration_since(Instant::now());
            // What came is told apart from silence only if something came at all.
            let late = |filled: usize, buffer: &[u8]| {
                if filled == 0 { End::Silent } else { End::Strange(buffer[..filled.min(32)].to_vec()) }
            };
            if left.is_zero() {
                return Err(late(filled, buffer));
            }
            self.stream.allow(left);
            match self.stream.read(&mut buffer[filled..]) {
                Ok(0) if filled == 0 => return Err(End::Gone(point)),
                Ok(0) => return Ok(filled),
                Ok(n) => filled += n,
                Err(e) => match e.kind() {
                    ErrorKind::Interrupted => {}
                    ErrorKind::WouldBlock | ErrorKind::TimedOut => return Err(late(filled, buffer)),
                    _ => return Err(End::Gone(point)),
                },
            }
        }
        Ok(filled)
    }
}

/// A method frame of class connection on channel 0.
fn method_frame(method: u16, arguments: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut payload = Vec::new();
    payload.extend(10_u16.to_be_bytes());
    payload.extend(method.to_be_bytes());
    arguments(&mut payload);
    let mut frame = vec![1, 0, 0];
    frame.extend((payload.len() as u32).to_be_bytes());
    frame.extend(payload);
    frame.push(0xCE);
    frame
}

/// At most 255 bytes; a longer user name or vhost cannot exist on a broker, and is cut to something that doesn't.
fn short_string(into: &mut Vec<u8>, text: &str) {
    let bytes = &text.as_bytes()[..text.len().min(255)];
    into.push(bytes.len() as u8);
    into.extend(bytes);
}

fn long_string(into: &mut Vec<u8>, bytes: &[u8]) {
    into.extend((bytes.len() as u32).to_be_bytes());
    into.extend(bytes);
}

/// PLAIN. The capability makes the broker say why it refuses instead of just closing the connection.
fn start_ok(user: &str, password: &str) -> Vec<u8> {
    let mut capabilities = Vec::new();
    short_string(&mut capabilities, "authentication_failure_close");
    capabilities.extend([b't', 1]);
    let mut properties = Vec::new();
    short_string(&mut properties, "product");
    properties.push(b'S');
    long_string(&mut properties, b"rmq-audit");
    short_string(&mut properties, "capabilities");
    properties.push(b'F');
    long_string(&mut properties, &capabilities);
    method_frame(START_OK, |f| {
        long_string(f, &properties);
        short_string(f, "PLAIN");
        long_string(f, format!("\0{user}\0{password}").as_bytes());
        short_string(f, "en_US");
    })
}

/// The server's limits as they are, without heartbeats: we do not stay.
fn tune_ok(limits: &[u8]) -> Vec<u8> {
    let mut agreed = [0; 6];
    let n = limits.len().min(agreed.len());
    agreed[..n].copy_from_slice(&limits[..n]);
    method_frame(TUNE_OK, |f| {
        f.extend(agreed);
        f.extend([0, 0]);
    })
}

fn open(vhost: &str) -> Vec<u8> {
    method_frame(OPEN, |f| {
        short_string(f, vhost);
        f.extend([0, 0]);
    })
}

/// Arguments of `connection.start`: version, server properties, mechanisms, locales.
fn parse_start(arguments: &[u8]) -> Option<Start> {
    let (_version, rest) = arguments.split_at_checked(2)?;
    let (properties, rest) = take_long(rest)?;
    let (mechanisms, _) = take_long(rest)?;
    let mechanisms = String::from_utf8_lossy(mechanisms).split_ascii_whitespace().map(str::to_owned).collect();
    Some(Start { server: server_name(properties), mechanisms })
}

/// `RabbitMQ 4.0.5` from the table of server properties; only strings, booleans and tables are passed over.
fn server_name(mut table: &[u8]) -> Option<String> {
    let (mut product, mut version) = (None, None);
    while let Some((name, rest)) = take_short(table) {
        let (kind, rest) = rest.split_first()?;
        let (value, rest) = match kind {
            b'S' | b'F' => take_long(rest)?,
            b't' => rest.split_at_checked(1)?,
            _ => break,
        };
        match (name, kind) {
            (b"product", b'S') => product = Some(String::from_utf8_lossy(value)),
            (b"version", b'S') => version = Some(String::from_utf8_lossy(value)),
            _ => {}
        }
        table = rest;
    }
    let product = product?;
    Some(version.map_or_else(|| product.to_string(), |v| format!("{product} {v}")))
}

/// `403 ACCESS_REFUSED - …`
fn parse_close(arguments: &[u8]) -> String {
    let code = arguments.split_at_checked(2).map(|(c, rest)| (u16::from_be_bytes([c[0], c[1]]), rest));
    let Some((code, rest)) = code else { return "closed without a reason".to_owned() };
    let text = take_short(rest).map(|(t, _)| String::from_utf8_lossy(t).into_owned()).unwrap_or_default();
    format!("{code} {text}")
}

fn take_short(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first()?;
    rest.split_at_checked(usize::from(*length))
}

fn take_long(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_at_checked(4)?;
    rest.split_at_checked(u32::from_be_bytes([length[0], length[1], length[2], length[3]]) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    /// A server that sends each of `script` after it has read something, then closes.
    fn server(script: Vec<Vec<u8>>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let (mut peer, _) = listener.accept().unwrap();
            for reply in script {
                let mut buffer = [0; 4096];
                if peer.read(&mut buffer).unwrap_or(0) == 0 {
                    return;
                }
                let _ = peer.write_all(&reply);
            }
            // What is still on its way to us is read, so that closing is a FIN, not a reset.
            let _ = peer.set_read_timeout(Some(Duration::from_millis(50)));
            let _ = peer.read(&mut [0; 4096]);
        });
        address
    }

    fn start(mechanisms: &str) -> Vec<u8> {
        let mut table = Vec::new();
        for (name, value) in [("product", "RabbitMQ"), ("version", "4.0.5")] {
            short_string(&mut table, name);
            table.push(b'S');
            long_string(&mut table, value.as_bytes());
        }
        method_frame(START, |f| {
            f.extend([0, 9]);
            long_string(f, &table);
            long_string(f, mechanisms.as_bytes());
            long_string(f, b"en_US");
        })
    }

    fn tune() -> Vec<u8> {
        method_frame(TUNE, |f| f.extend([0x07, 0xff, 0, 2, 0, 0, 0, 60]))
    }

    fn close(code: u16, text: &str) -> Vec<u8> {
        method_frame(CLOSE, |f| {
            f.extend(code.to_be_bytes());
            short_string(f, text);
            f.extend([0; 4]);
        })
    }

    fn greet(script: Vec<Vec<u8>>) -> Answer {
        ask(&Probe { to: server(script), login: None, tls: None }).unwrap()
    }

    fn log_in(name: &str, script: Vec<Vec<u8>>) -> Answer {
        let file = std::env::temp_dir().join(format!("rmq-audit-amqp-{name}-{}", std::process::id()));
        std::fs::write(&file, "pa ss\nsecond line\n").unwrap();
        let login = Login { user: "u".to_owned(), password_file: file.clone(), vhost: "/".to_owned() };
        let answer = ask(&Probe { to: server(script), login: Some(login), tls: None });
        std::fs::remove_file(file).unwrap();
        answer.unwrap()
    }

    fn connected(mechanisms: &[&str]) -> Answer {
        let mechanisms = mechanisms.iter().map(|m| (*m).to_owned()).collect();
        Answer::Connected { server: Some("RabbitMQ 4.0.5".to_owned()), mechanisms }
    }

    #[test]
    fn a_greeting_is_enough_without_a_login() {
        assert_eq!(greet(vec![start("AMQPLAIN PLAIN")]), connected(&["AMQPLAIN", "PLAIN"]));
    }

    #[test]
    fn a_login_goes_to_open_ok() {
        let open_ok = method_frame(OPEN_OK, |f| f.push(0));
        let heartbeat = vec![8, 0, 0, 0, 0, 0, 0, 0xCE];
        let script = vec![start("PLAIN"), tune(), [heartbeat, open_ok].concat()];
        assert_eq!(log_in("ok", script), connected(&["PLAIN"]));
    }

    #[test]
    fn the_credentials_are_the_first_line_of_the_file() {
        let frame = start_ok("u", "pa ss");
        let text = frame.windows(8).any(|w| w == b"\0u\0pa ss");
        assert!(text, "{frame:?}");
    }

    #[test]
    fn refusals_are_told_apart_by_their_place() {
        let auth = log_in("403", vec![start("PLAIN"), close(403, "ACCESS_REFUSED - no")]);
        assert_eq!(auth, Answer::AuthRefused { text: "403 ACCESS_REFUSED - no".to_owned() });
        let vhost = log_in("530", vec![start("PLAIN"), tune(), close(530, "NOT_ALLOWED - vhost nope not found")]);
        assert_eq!(vhost, Answer::VhostRefused { text: "530 NOT_ALLOWED - vhost nope not found".to_owned() });
        assert!(matches!(log_in("gone", vec![start("PLAIN"), vec![]]), Answer::AuthRefused { .. }));
        assert!(matches!(log_in("external", vec![start("EXTERNAL")]), Answer::AuthRefused { text } if text.contains("EXTERNAL")));
    }

    #[test]
    fn other_protocols_are_recognised() {
        let http = greet(vec![b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()]);
        assert_eq!(http, Answer::NotAmqp { first_bytes: "HTTP/1.".to_owned() });
        let version = greet(vec![b"AMQP\x03\x01\x00\x00".to_vec()]);
        assert_eq!(version, Answer::NotAmqp { first_bytes: "AMQP\\x03\\x01\\x00".to_owned() });
        assert_eq!(greet(vec![b"hi".to_vec()]), Answer::NotAmqp { first_bytes: "hi".to_owned() });
    }

    #[test]
    fn hostile_frames_are_bounded() {
        let huge = vec![1, 0, 0, 0xff, 0xff, 0xff, 0xff, 0];
        assert!(matches!(greet(vec![huge]), Answer::NotAmqp { .. }));
        let lying_table = method_frame(START, |f| f.extend([0, 9, 0xff, 0xff, 0xff, 0xff, 1]));
        assert!(matches!(greet(vec![lying_table]), Answer::NotAmqp { .. }));
        let no_end = {
            let mut f = start("PLAIN");
            f.pop();
            f.push(0);
            f
        };
        assert!(matches!(greet(vec![no_end]), Answer::NotAmqp { .. }));
    }

    #[test]
    fn a_closed_port_refuses_and_a_closed_connection_is_a_reset() {
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert_eq!(ask(&Probe { to: free, login: None, tls: None }), Ok(Answer::Refused));
        assert_eq!(greet(vec![]), Answer::Reset);
    }

    #[test]
    fn silence_ends() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = listener.local_addr().unwrap();
        let start = Instant::now();
        assert_eq!(ask(&Probe { to, login: None, tls: None }), Ok(Answer::Hangs));
        assert!(start.elapsed() < REPLY * 2);
    }

    #[test]
    fn a_missing_password_file_is_said_before_anything_is_sent() {
        let login = Login { user: "u".to_owned(), password_file: "/no/such".into(), vhost: "/".to_owned() };
        let to = "127.0.0.1:9".parse().unwrap();
        assert!(ask(&Probe { to, login: Some(login), tls: None }).is_err_and(|m| m.is_absent()));
    }
}

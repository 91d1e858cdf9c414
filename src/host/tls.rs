//! A real TLS handshake with a listener of this host: what it presents and how it ends, as a client of today's defaults (TLS 1.2 and
//! 1.3) sees it. The presented chain is recorded, not judged: that is for facts.

use super::hex;
use crate::formats::x509;
use rustls::client::ResolvesClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    AlertDescription, CertificateError, ClientConfig, ClientConnection, DigitallySignedStruct, Error, InvalidMessage,
    SignatureScheme, StreamOwned,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Time limit of the whole conversation.
const LIMIT: Duration = Duration::from_secs(2);
/// How long a server that asked for a certificate is given to refuse us for having none: with TLS 1.3 it says so afterwards.
const AFTERWARDS: Duration = Duration::from_millis(400);
/// Most certificates that are kept of a chain.
const MAX_CHAIN: usize = 16;

/// What came of a handshake.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handshake {
    pub end: End,
    /// `TLSv1.3`, `TLSv1.2`; `None`: none was agreed upon.
    pub version: Option<String>,
    /// DER of the certificates in the order in which they were sent, as hexadecimal digits.
    pub chain: Vec<String>,
    /// Whether the server proved to hold the first certificate's key; `None`: it did not come to that, or it cannot be checked here.
    pub key_proven: Option<bool>,
    /// The server asked for a certificate of the client's.
    pub asks_client: bool,
}

/// How it ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "end", rename_all = "kebab-case")]
pub enum End {
    Established,
    /// The server's alert, in the words of RFC 8446 section 6: `handshake_failure`.
    Alert {
        name: String,
    },
    /// What the client could not accept.
    Refused {
        why: String,
    },
    /// A RST.
    Reset,
    /// A FIN, without an alert before it.
    Closed,
    Silent,
    /// What answers there does not speak TLS.
    NotTls,
    NoConnection {
        why: String,
    },
}

/// Sees the chain go by and takes any.
#[derive(Debug)]
struct Witness {
    provider: CryptoProvider,
    /// SHA-256 of the only certificate that is taken; `None`: any.
    pin: Option<String>,
    seen: Mutex<(Vec<String>, Option<bool>)>,
}

impl Witness {
    fn seen(&self) -> std::sync::MutexGuard<'_, (Vec<String>, Option<bool>)> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A signature that is wrong is told apart from one that cannot be checked here; only the first ends the handshake.
    fn signature(
        &self,
        certificate: &[u8],
        checked: Result<HandshakeSignatureValid, Error>,
    ) -> Result<HandshakeSignatureValid, Error> {
        let proven = match &checked {
            Ok(_) => Some(true),
            // The library calls signatures of keys that it finds too short wrong, too.
            Err(Error::InvalidCertificate(CertificateError::BadSignature)) => {
                (!x509::has_short_key(certificate)).then_some(false)
            }
            Err(_) => None,
        };
        self.seen().1 = proven;
        match proven {
            None if self.pin.is_none() => Ok(HandshakeSignatureValid::assertion()),
            _ => checked,
        }
    }
}

impl ServerCertVerifier for Witness {
    fn verify_server_cert(
        &self,
        first: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.seen().0 = std::iter::once(first).chain(others).take(MAX_CHAIN).map(|der| hex(der)).collect();
        match &self.pin {
            Some(pin) if *pin != hex(&Sha256::digest(first)) => {
                Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure))
            }
            _ => Ok(ServerCertVerified::assertion()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        self.signature(certificate, verify_tls12_signature(message, certificate, signed, algorithms))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        self.signature(certificate, verify_tls13_signature(message, certificate, signed, algorithms))
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Has no certificate, and remembers being asked for one.
#[derive(Debug, Default)]
struct Asked(AtomicBool);

impl ResolvesClientCert for Asked {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<rustls::sign::CertifiedKey>> {
        self.0.store(true, Ordering::Relaxed);
        None
    }
    fn has_certs(&self) -> bool {
        false
    }
}

/// A TCP stream whose every wait ends at the deadline.
pub struct Timed {
    stream: TcpStream,
    deadline: Instant,
}

impl Timed {
    fn left(&self) -> std::io::Result<Duration> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(ErrorKind::TimedOut.into()) } else { Ok(left) }
    }

    /// Gives what follows this much time.
    pub fn allow(&mut self, time: Duration) {
        self.deadline = Instant::now() + time;
    }
}

impl Read for Timed {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.stream.set_read_timeout(Some(self.left()?))?;
        self.stream.read(buffer)
    }
}

impl Write for Timed {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.stream.set_write_timeout(Some(self.left()?))?;
        self.stream.write(bytes)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        self.stream.flush()
    }
}

/// An established connection.
pub type Secured = StreamOwned<ClientConnection, Timed>;

/// Connects, shakes hands and hangs up.
pub fn shake_hands(to: SocketAddr) -> Handshake {
    let stream = match TcpStream::connect_timeout(&to, LIMIT) {
        Ok(stream) => stream,
        Err(e) => return Handshake::nothing(not_connected(&e)),
    };
    converse(stream, to, None).0
}

/// A server that closes at once can be gone before the connection was looked at: that is an answer, too.
fn not_connected(e: &std::io::Error) -> End {
    use ErrorKind::{ConnectionRefused, HostUnreachable, NetworkUnreachable, PermissionDenied, TimedOut, WouldBlock};
    match e.kind() {
        ConnectionRefused | TimedOut | WouldBlock | HostUnreachable | NetworkUnreachable | PermissionDenied => {
            End::NoConnection { why: e.to_string() }
        }
        _ => End::Reset,
    }
}

/// Secures a connection with the one server that holds this certificate (SHA-256, hexadecimal digits) and its key.
pub fn secure(stream: TcpStream, to: SocketAddr, pin: &str) -> Result<Secured, Handshake> {
    match converse(stream, to, Some(pin.to_owned())) {
        (Handshake { end: End::Established, key_proven: Some(true), .. }, Some(secured)) => Ok(secured),
        (other, _) => Err(other),
    }
}

impl Handshake {
    fn nothing(end: End) -> Handshake {
        Handshake { end, version: None, chain: Vec::new(), key_proven: None, asks_client: false }
    }
}

fn converse(stream: TcpStream, to: SocketAddr, pin: Option<String>) -> (Handshake, Option<Secured>) {
    let witness = Arc::new(Witness { provider: ring::default_provider(), pin, seen: Mutex::default() });
    let asked = Arc::new(Asked::default());
    let mut conn = match connection(&witness, &asked, to) {
        Ok(conn) => conn,
        Err(e) => return (Handshake::nothing(End::Refused { why: e.to_string() }), None),
    };
    let _ = stream.set_nodelay(true);
    let mut socket = Timed { stream, deadline: Instant::now() + LIMIT };
    let mut end = outcome(conn.complete_io(&mut socket).map(drop));
    if end == End::Established && asked.0.load(Ordering::Relaxed) {
        socket.allow(AFTERWARDS);
        end = refusal(&mut conn, &mut socket);
    }
    let (chain, key_proven) = witness.seen().clone();
    let version = conn.protocol_version().and_then(|v| v.as_str()).map(|v| v.replace('_', "."));
    let handshake = Handshake { end, version, chain, key_proven, asks_client: asked.0.load(Ordering::Relaxed) };
    if witness.pin.is_some() {
        return (handshake, Some(StreamOwned::new(conn, socket)));
    }
    conn.send_close_notify();
    socket.allow(AFTERWARDS);
    while conn.wants_write() && conn.write_tls(&mut socket).is_ok() {}
    (handshake, None)
}

fn connection(witness: &Arc<Witness>, asked: &Arc<Asked>, to: SocketAddr) -> Result<ClientConnection, Error> {
    let config = ClientConfig::builder_with_provider(Arc::new(witness.provider.clone()))
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::clone(witness) as Arc<dyn ServerCertVerifier>)
        .with_client_cert_resolver(Arc::clone(asked) as Arc<dyn ResolvesClientCert>);
    ClientConnection::new(Arc::new(config), ServerName::IpAddress(to.ip().into()))
}

/// What the server says once it knows that we have no certificate; silence, or data, means that it does not mind.
fn refusal(conn: &mut ClientConnection, socket: &mut Timed) -> End {
    match conn.read_tls(socket) {
        Ok(0) => End::Closed,
        Ok(_) => match conn.process_new_packets() {
            Ok(_) => End::Established,
            Err(e) => of_error(&e),
        },
        Err(e) if matches!(e.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock) => End::Established,
        Err(_) => End::Reset,
    }
}

fn outcome(done: std::io::Result<()>) -> End {
    let Err(e) = done else { return End::Established };
    if let Some(tls) = e.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        return of_error(tls);
    }
    match e.kind() {
        ErrorKind::TimedOut | ErrorKind::WouldBlock => End::Silent,
        ErrorKind::UnexpectedEof => End::Closed,
        _ => End::Reset,
    }
}

fn of_error(e: &Error) -> End {
    match e {
        Error::AlertReceived(alert) => End::Alert { name: alert_name(*alert) },
        // Whatever begins with another byte than those of TLS records.
        Error::InvalidMessage(InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion) => End::NotTls,
        other => End::Refused { why: other.to_string() },
    }
}

/// `HandshakeFailure` as `handshake_failure`.
fn alert_name(alert: AlertDescription) -> String {
    let Some(name) = alert.as_str() else { return format!("alert {}", u8::from(alert)) };
    let mut out = String::new();
    for c in name.chars() {
        if c.is_ascii_uppercase() && !out.is_empty() && !out.ends_with(|last: char| last == '_' || last.is_ascii_uppercase()) {
            out.push('_');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn server(reply: &'static [u8], close: bool) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let (mut peer, _) = listener.accept().unwrap();
            let _ = peer.read(&mut [0; 4096]);
            let _ = peer.write_all(reply);
            if !close {
                std::thread::sleep(LIMIT * 2);
            }
        });
        to
    }

    #[test]
    fn ends_without_a_handshake_are_told_apart() {
        assert_eq!(shake_hands(server(b"AMQP\x00\x00\x09\x01", true)).end, End::NotTls);
        assert_eq!(shake_hands(server(b"", true)).end, End::Closed);
        let alert = b"\x15\x03\x03\x00\x02\x02\x28";
        assert_eq!(shake_hands(server(alert, true)).end, End::Alert { name: "handshake_failure".to_owned() });
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert!(matches!(shake_hands(free).end, End::NoConnection { .. }));
    }

    #[test]
    fn silence_ends() {
        let start = Instant::now();
        assert_eq!(shake_hands(server(b"", false)).end, End::Silent);
        assert!(start.elapsed() < LIMIT * 2);
    }

    #[test]
    fn alerts_have_the_names_of_the_standard() {
        assert_eq!(alert_name(AlertDescription::InsufficientSecurity), "insufficient_security");
        assert_eq!(alert_name(AlertDescription::CertificateRequired), "certificate_required");
    }
}

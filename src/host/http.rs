//! One request of HTTP/1.1 to the management plugin: whether a user may log in there. Nothing else of HTTP is spoken.

use super::amqp::{self, Answer, Login, Probe};
use super::{Got, Miss};
use data_encoding::BASE64;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// Time limit of the whole conversation after the TCP handshake.
const REPLY: Duration = Duration::from_secs(5);
/// The answer is a status line, some headers and a line of JSON.
const MAX_ANSWER: u64 = 16 * 1024;
/// Tells who is logged in, and changes nothing (rabbit_mgmt_wm_whoami.erl, 3.8 to 4.3).
const PATH: &str = "/api/whoami";

/// Logs in as `probe.login`. `Err` only where the probe could not be made (no password file), not where it failed.
pub fn whoami(probe: &Probe) -> Got<Answer> {
    let login = probe.login.as_ref().ok_or_else(|| Miss::failed("HTTP", "no user was given"))?;
    let request = request(probe, login, &amqp::password(login)?);
    let stream = match TcpStream::connect_timeout(&probe.to, amqp::CONNECT) {
        Ok(stream) => stream,
        Err(e) => return Ok(amqp::not_connected(&e)),
    };
    Ok(exchange(stream, request.as_bytes()).map_or_else(|e| ended(&e), |answer| outcome(&answer)))
}

fn request(probe: &Probe, login: &Login, password: &str) -> String {
    let credentials = BASE64.encode(format!("{}:{password}", login.user).as_bytes());
    let host = probe.to;
    format!(
        "GET {PATH} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Basic {credentials}\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    )
}

fn exchange(mut stream: TcpStream, request: &[u8]) -> std::io::Result<Vec<u8>> {
    let deadline = Instant::now() + REPLY;
    stream.set_write_timeout(Some(REPLY))?;
    stream.write_all(request)?;
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    while answer.len() as u64 <= MAX_ANSWER {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => answer.extend(buffer.iter().take(n)),
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            // What came may be enough.
            Err(_) if !answer.is_empty() => break,
            Err(e) => return Err(e),
        }
    }
    Ok(answer)
}

fn ended(e: &std::io::Error) -> Answer {
    match e.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => Answer::Hangs,
        _ => Answer::Reset,
    }
}

/// `HTTP/1.1 401 Unauthorized` … `{"error":"not_authorised","reason":"Not management user"}`
fn outcome(answer: &[u8]) -> Answer {
    if answer.is_empty() {
        return Answer::Reset;
    }
    let text = String::from_utf8_lossy(answer);
    let status = text.strip_prefix("HTTP/1.").and_then(|rest| rest.split(' ').nth(1));
    match status {
        Some("200") => Answer::Connected { server: header(&text, "server"), mechanisms: Vec::new() },
        Some("401" | "403") => {
            let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
            let reason = serde_json::from_str::<serde_json::Value>(body).ok();
            let reason = reason.as_ref().and_then(|json| json.get("reason")?.as_str()).map(str::to_owned);
            Answer::AuthRefused { text: reason.unwrap_or_else(|| "the server refuses the login".to_owned()) }
        }
        _ => Answer::NotAmqp { first_bytes: text.lines().next().unwrap_or_default().chars().take(80).collect() },
    }
}

fn header(text: &str, name: &str) -> Option<String> {
    let fields = text.lines().take_while(|line| !line.is_empty()).filter_map(|line| line.split_once(':'));
    let mut found = fields.filter(|(key, _)| key.eq_ignore_ascii_case(name));
    found.next().map(|(_, value)| value.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn base64_of_the_rfc() {
        for (plain, coded) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg=="), ("foobar", "Zm9vYmFy")]
        {
            assert_eq!(BASE64.encode(plain.as_bytes()), coded);
        }
    }

    #[test]
    fn answers_of_the_management_plugin() {
        let refused = b"HTTP/1.1 401 Unauthorized\r\ncontent-type: application/json\r\n\r\n{\"error\":\"not_authorised\",\"reason\":\"Not management user\"}";
        assert_eq!(outcome(refused), Answer::AuthRefused { text: "Not management user".into() });
        let fine = b"HTTP/1.1 200 OK\r\nServer: Cowboy\r\n\r\n{\"name\":\"app\"}";
        assert_eq!(outcome(fine), Answer::Connected { server: Some("Cowboy".into()), mechanisms: Vec::new() });
        assert_eq!(outcome(b"HTTP/1.1 404 Not Found\r\n\r\n").name(), "not-amqp");
        assert_eq!((outcome(b"").name(), outcome(b"AMQP\0\0\x09\x01").name()), ("reset", "not-amqp"));
    }

    #[test]
    fn a_login_over_a_socket() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 1024];
            let read = stream.read(&mut request).unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n{}").unwrap();
            String::from_utf8_lossy(&request[..read]).into_owned()
        });
        let dir = std::env::temp_dir().join(format!("rmq-audit-http-{}", std::process::id()));
        std::fs::write(&dir, "app-secret\n").unwrap();
        let login = Login { user: "app".into(), password_file: dir.clone(), vhost: "/".into() };
        let answer = whoami(&Probe { to, login: Some(login), tls: None });
        std::fs::remove_file(&dir).unwrap();
        assert_eq!(answer.map(|a| a.name()), Ok("connected"));
        let request = server.join().unwrap();
        assert!(
            request.starts_with("GET /api/whoami HTTP/1.1\r\n") && request.contains("Basic YXBwOmFwcC1zZWNyZXQ="),
            "{request}"
        );
    }
}

//! What counts as a secret, and how it is struck out of text before anybody keeps the text.

use regex::bytes::{Captures, Regex};
use std::borrow::Cow;
use std::sync::LazyLock;

/// Stands where a secret stood: a plain word, valid in every configuration format.
pub const STRUCK: &str = "REDACTED";

/// Whether a key, variable or option names a secret: `default_pass`, `ssl_options.password`, `RABBITMQ_ERLANG_COOKIE`,
/// `-setcookie`; not the path of a file (`password_file`) or the name of an algorithm (`password_hashing_module`).
pub fn is_secret_name(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let hints = ["pass", "secret", "cookie", "token", "private_key", "credential"];
    let harmless = ["file", "module", "path", "hashing", "validator"];
    hints.iter().any(|h| name.contains(h)) && !harmless.iter().any(|h| name.ends_with(h))
}

/// `NAME=value` with the value struck out if the name is a secret's.
pub fn strike_assignment(text: &str) -> String {
    match text.split_once('=') {
        Some((name, value)) if is_secret_name(name) && !value.is_empty() => format!("{name}={STRUCK}"),
        _ => strike_userinfo(text),
    }
}

/// Arguments of a process; says whether a secret stood among them.
pub fn strike_args(args: impl IntoIterator<Item = String>) -> (Vec<String>, bool) {
    let mut found = false;
    let mut previous_names_secret = false;
    let struck = args.into_iter().map(|arg| {
        let kept = if previous_names_secret { STRUCK.to_owned() } else { strike_assignment(&arg) };
        found |= kept != arg;
        previous_names_secret = !previous_names_secret && !arg.contains(['=', '/']) && is_secret_name(&arg);
        kept
    });
    let struck = struck.collect();
    (struck, found)
}

/// `scheme://user:password@host` without the password.
pub fn strike_userinfo(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (head, tail) = rest.split_at(at + 3);
        out.push_str(head);
        let end = tail.find(|c: char| c.is_whitespace() || "/\"'<>".contains(c)).unwrap_or(tail.len());
        let authority = &tail[..end];
        rest = &tail[end..];
        match authority.rsplit_once('@') {
            Some((user, host)) if user.contains(':') => {
                let user = user.split(':').next().unwrap_or("");
                out.push_str(&format!("{user}:{STRUCK}@{host}"));
            }
            _ => out.push_str(authority),
        }
    }
    out.push_str(rest);
    out
}

/// Text of any configuration format, log or program output, without its secrets: values of keys that name one
/// ([`is_secret_name`]), private keys, passwords in URIs, cookie hashes. `None`: it could not be searched; keep nothing of it.
pub fn strike_text(bytes: &[u8]) -> Option<Vec<u8>> {
    let patterns = PATTERNS.as_ref()?;
    let text = patterns.private_key.replace_all(bytes, format!("${{1}}\n{STRUCK}\n${{2}}").as_bytes());
    let text = patterns.uri.replace_all(&text, format!("${{1}}:{STRUCK}@").as_bytes()).into_owned();
    let text = patterns.cookie.replace_all(&text, format!("${{1}}{STRUCK}").as_bytes()).into_owned();
    let text = patterns.line.replace_all(&text, |found: &Captures| strike_value(found)).into_owned();
    let text = patterns.value.replace_all(&text, |found: &Captures| strike_value(found));
    Some(Cow::into_owned(text))
}

struct Patterns {
    /// Key, separator, then a quoted value, or an unquoted one after `=` or `:` up to the end of the line. A comma is a separator
    /// only before a quote (Erlang terms): log messages are full of sentences about passwords.
    value: Regex,
    /// A line of rabbitmq.conf, where everything up to its end is the value, quotes and brackets included.
    line: Regex,
    private_key: Regex,
    uri: Regex,
    /// `-setcookie X`, and the boot banner's `cookie hash : X`.
    cookie: Regex,
}

static PATTERNS: LazyLock<Option<Patterns>> = LazyLock::new(|| {
    Some(Patterns {
        line: Regex::new(
            r"(?m)^(?P<key>[ \t#]*[a-z0-9_.\-]*(?:pass|secret|cookie|token|private_key|credential)[a-z0-9_.\-]*)(?P<plain_sep>[ \t]*=[ \t]*)(?P<plain>[^\s>][^\r\n]*)",
        )
        .ok()?,
        value: Regex::new(
            r#"(?i)(?P<key>[\w.\-]*(?:pass|secret|cookie|token|private_key|credential)[\w.\-]*)(?:(?P<sep>["']?\s*(?:=|:|=>|,)\s*(?:<<\s*)?)(?:(?P<double>")(?P<in_double>(?:[^"\\]|\\[\s\S])*)|(?P<single>')(?P<in_single>[^']*))|(?P<plain_sep>["']?[ \t]*[=:][ \t]*)(?P<plain>[^\s"'{\[<,][^\r\n]*))"#,
        )
        .ok()?,
        private_key: Regex::new(r"(?s)(-----BEGIN [A-Z ]*PRIVATE KEY-----).*?(-----END|\z)").ok()?,
        uri: Regex::new(r#"([A-Za-z][A-Za-z0-9+.\-]*://[^\s/:@"'<>]*):[^\s/"'<>]*@"#).ok()?,
        cookie: Regex::new(r#"(?i)(-setcookie[\s"',]+|cookie hash\s*:\s*)[^\s"',]+"#).ok()?,
    })
});

/// What stands in place of a found value. A `#` and the mark of an encrypted value stay, because problems of a configuration
/// hang on them.
fn strike_value(found: &Captures) -> Vec<u8> {
    let group = |name: &str| found.name(name).map_or(&b""[..], |m| m.as_bytes());
    let has = |name: &str| found.name(name).is_some();
    let whole = found.get(0).map_or(&b""[..], |m| m.as_bytes());
    let key = String::from_utf8_lossy(group("key"));
    let (separator, quote, value) = match () {
        () if has("plain") => (group("plain_sep"), &b""[..], group("plain")),
        () if has("double") => (group("sep"), group("double"), group("in_double")),
        () => (group("sep"), group("single"), group("in_single")),
    };
    if !is_secret_name(key.trim_end_matches(['.', '-'])) || value.is_empty() {
        return whole.to_vec();
    }
    // Quotes around a whole line's value matter to the broker.
    let (open, value, close) = match value {
        [first @ (b'"' | b'\''), inner @ .., last] if first == last => (vec![*first], inner, vec![*last]),
        value => (Vec::new(), value, Vec::new()),
    };
    let encrypted = if value.starts_with(b"encrypted:") { "encrypted:" } else { "" };
    let tail = if value.contains(&b'#') { format!("#{STRUCK}") } else { String::new() };
    let struck = [encrypted.as_bytes(), STRUCK.as_bytes(), tail.as_bytes()].concat();
    [group("key"), separator, quote, &open, &struck, &close].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(input: &str) -> String {
        String::from_utf8(strike_text(input.as_bytes()).unwrap()).unwrap()
    }

    #[test]
    fn every_format_loses_its_secrets_and_nothing_else() {
        for (before, after) in [
            ("default_pass = s e c\nheartbeat = 5\n", "default_pass = REDACTED\nheartbeat = 5\n"),
            ("default_pass = a#b", "default_pass = REDACTED#REDACTED"),
            ("ssl_options.password = encrypted:abc", "ssl_options.password = encrypted:REDACTED"),
            ("ssl_options.password =\nheartbeat = 5", "ssl_options.password =\nheartbeat = 5"),
            ("default_pass = {a", "default_pass = REDACTED"),
            ("default_pass = 'a'b", "default_pass = REDACTED"),
            ("default_pass = 'a#b c'", "default_pass = 'REDACTED#REDACTED'"),
            ("default_pass = \"abc\"\n", "default_pass = \"REDACTED\"\n"),
            ("#default_pass = \"a\" b", "#default_pass = REDACTED"),
            ("RABBITMQ_DEFAULT_PASS=\"x'y\" # c", "RABBITMQ_DEFAULT_PASS=\"REDACTED\" # c"),
            (r#"{"password":"a\"b","tags":[]}"#, r#"{"password":"REDACTED","tags":[]}"#),
            ("export RABBITMQ_DEFAULT_PASS='x y' # c", "export RABBITMQ_DEFAULT_PASS='REDACTED' # c"),
            ("Environment=A=1 \"B_PASS=x\"", "Environment=A=1 \"B_PASS=REDACTED"),
            ("{default_pass, <<\"x\">>}, {a, b}", "{default_pass, <<\"REDACTED\">>}, {a, b}"),
            ("{ssl_options, [{password, \n \"x\"}]}", "{ssl_options, [{password, \n \"REDACTED\"}]}"),
            (r#"{"name":"u","password_hash":"abc","tags":[]}"#, r#"{"name":"u","password_hash":"REDACTED","tags":[]}"#),
            ("password_hashing_module = rabbit_x", "password_hashing_module = rabbit_x"),
            ("amqp_uri = amqp://u:pw@h/v", "amqp_uri = amqp://u:REDACTED@h/v"),
            ("erl -setcookie ABC -s x", "erl -setcookie REDACTED -s x"),
            (" cookie hash      : 5NnsA==", " cookie hash      : REDACTED"),
            (
                "-----BEGIN PRIVATE KEY-----\nAAA\n-----END PRIVATE KEY-----",
                "-----BEGIN PRIVATE KEY-----\nREDACTED\n-----END PRIVATE KEY-----",
            ),
        ] {
            assert_eq!(text(before), after);
        }
    }

    #[test]
    fn log_lines_about_passwords_stay_readable() {
        for line in [
            "user 'U' attempted to log in with a blank password, which is prohibited by the internal authN backend.",
            "PLAIN login refused: user 'guest' - invalid credentials",
            "HTTP access denied: user 'guest' - User can only log in via localhost",
        ] {
            assert_eq!(text(line), line);
        }
    }

    #[test]
    fn names_of_secrets_are_told_from_names_of_files() {
        for name in ["default_pass", "ssl_options.password", "RABBITMQ_ERLANG_COOKIE", "-setcookie", "password_hash"] {
            assert!(is_secret_name(name), "{name}");
        }
        for name in ["password_hashing_module", "password_file", "listeners.tcp.default", "cookie_path"] {
            assert!(!is_secret_name(name), "{name}");
        }
    }

    #[test]
    fn arguments_lose_cookies_and_passwords() {
        let args = ["-setcookie", "ABC", "-rabbit", "default_pass", "<<\"x\">>", "-s", "rabbit", "RABBITMQ_DEFAULT_PASS=y"];
        let (struck, found) = strike_args(args.map(str::to_owned));
        assert!(found);
        assert_eq!(
            struck,
            ["-setcookie", STRUCK, "-rabbit", "default_pass", STRUCK, "-s", "rabbit", "RABBITMQ_DEFAULT_PASS=REDACTED"]
        );
        assert!(!strike_args(["-s".to_owned(), "rabbit".to_owned()]).1);
    }

    #[test]
    fn passwords_of_uris_go_and_the_rest_stays() {
        let text = "see amqp://u:p@ss@h:5672/v and https://x/y?z=a@b, amqp://h";
        assert_eq!(strike_userinfo(text), "see amqp://u:REDACTED@h:5672/v and https://x/y?z=a@b, amqp://h");
    }
}

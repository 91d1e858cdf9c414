//! Passwords, tokens and keys never leave the files they stand in.

/// What is shown in place of a secret.
pub const REDACTED: &str = "<redacted>";

/// Whether the value of a key, or a line that mentions this word, may be a secret. Parts of words count, so that a misspelt
/// `default_passs` is covered too.
pub fn is_secret(key: &str) -> bool {
    const PARTS: [&str; 9] = ["pass", "pasw", "pwd", "secret", "token", "cookie", "credential", "privatekey", "private_key"];
    let key = key.to_lowercase();
    // `ssl_options.key.RSAPrivateKey` and the like hold the key itself; a `…file` or `…path` only says where it lies, and these
    // words have nothing to do with passwords.
    let harmless =
        ["bypass", "passive", "token_path", "token_endpoint", "file"].iter().any(|w| key.ends_with(w) || key.contains("bypass"));
    !harmless && PARTS.iter().any(|p| key.contains(p))
}

/// A value as it may be shown.
pub fn value(key: &str, value: &str) -> String {
    if is_secret(key) { REDACTED.to_owned() } else { without_userinfo(value) }
}

/// `scheme://user:password@host` without its password.
fn without_userinfo(value: &str) -> String {
    let Some((scheme, rest)) = value.split_once("://") else { return value.to_owned() };
    let authority = rest.split('/').next().unwrap_or("");
    match authority.rsplit_once('@') {
        Some((info, _)) if info.contains(':') => {
            let user = info.split(':').next().unwrap_or("");
            format!("{scheme}://{user}:{REDACTED}{}", rest.get(info.len()..).unwrap_or(""))
        }
        _ => value.to_owned(),
    }
}

/// A line of rabbitmq.conf as it may be shown.
pub fn line(key: &str, text: &str, value_column: u32) -> String {
    if !is_secret(key) {
        return without_userinfo(text);
    }
    let before: String = text.chars().take(usize::try_from(value_column.saturating_sub(1)).unwrap_or(0)).collect();
    format!("{before}{REDACTED}")
}

/// A line that could not be understood, or one of an Erlang file: nothing is shown after a word that smells of a secret.
pub fn any_line(text: &str) -> String {
    let mut end = 0;
    for word in text.split_inclusive(|c: char| !(c.is_alphanumeric() || "._-".contains(c))) {
        end += word.len();
        if is_secret(word.trim_end_matches(|c: char| !c.is_alphanumeric())) {
            return format!("{}{REDACTED}", text.get(..end).unwrap_or(""));
        }
    }
    without_userinfo(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_secret() {
        for key in [
            "default_pass",
            "default_passs",
            "ssl_options.password",
            "management.oauth_client_secret",
            "x.acl_token",
            "ssl_options.key.RSAPrivateKey",
            "erlang_cookie",
        ] {
            assert!(is_secret(key), "{key}");
        }
        for key in [
            "heartbeat",
            "ssl_options.keyfile",
            "ssl_options.bypass_pem_cache",
            "cluster_formation.k8s.token_path",
            "ssl_options.password_file",
        ] {
            assert!(!is_secret(key), "{key}");
        }
    }

    #[test]
    fn what_is_shown() {
        assert_eq!(line("default_pass", "default_pass = hunter2 # x", 16), "default_pass = <redacted>");
        assert_eq!(any_line("default_pass hunter2"), "default_pass <redacted>");
        assert_eq!(any_line("  {default_pass, <<\"hunter2\">>},"), "  {default_pass,<redacted>");
        assert_eq!(any_line("heartbeat 60"), "heartbeat 60");
        assert_eq!(value("definitions.https.url", "https://u:pw@h/x"), "https://u:<redacted>@h/x");
    }
}

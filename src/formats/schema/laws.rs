//! What a translation requires of the settings that it reads, as plain data.
//!
//! A translation is an Erlang fun that computes one application variable from settings. It is never run here. What can make it fail is
//! read off its text once ([`read`]): comparisons with constants, keys that it insists on, conversions that refuse some characters,
//! and the few larger ones that RabbitMQ's schemas have, which are known by the functions that they call. What is of none of these shapes
//! is [`Law::Unread`], and a setting that it computes is undecided.

use super::validators::{Bound, HostCheck, Op, bound, https};
use super::value::{Typed, integer, is_ip};
use crate::formats::erlang::{self, Kind, Token};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// One requirement. Keys and prefixes are spelt as in a schema.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Law {
    /// It refuses whatever is set.
    Never { message: String },
    /// An integer at this key must keep the bound.
    Within { key: String, bound: Bound, message: String },
    /// The integer at this key must not be this one.
    Not { key: String, value: i128, message: String },
    /// This key must be set too, or have a default.
    Needs { key: String },
    /// The text at this key becomes a binary of bytes: no characters beyond Latin-1.
    Latin1 { key: String },
    /// The same for every setting below a prefix whose key has so many words (0: any number).
    Latin1Below { prefix: String, words: usize },
    /// The text at this key is an IP address.
    Address { key: String },
    /// `a:b` at this key is taken for an encrypted value, whatever stands before the colon.
    AnyTagIsEncrypted { key: String },
    /// The last word of every key below the prefix is an integer, or one of these.
    IntegerWord { prefix: String, or: Vec<String> },
    /// Where something is set below the prefix, the word at this key is one of these.
    OneOf { prefix: String, key: String, words: Vec<String> },
    /// Every value below the prefix is the path of a file that the broker can read.
    FilesBelow { prefix: String },
    /// The chain of authentication backends: positions are integers, each given once as a whole or once for each half.
    BackendChain { prefix: String },
    /// The cached authentication backend is given as a whole or as two halves.
    CachedBackend { prefix: String },
    /// `pause_if_all_down` needs nodes and a recovery strategy.
    PauseIfAllDown { key: String },
    /// An LDAP bind is `as_user`, `anon`, or a name together with a password.
    LdapBind { key: String },
    /// An LDAP query is an Erlang term of a known kind.
    LdapQuery { key: String },
    /// Limits of a group of vhosts need the pattern of the group.
    LimitPattern { prefix: String },
    /// `{prefix}.incoming.NAME.overwrite` with one of these names.
    Interceptors { prefix: String, names: Vec<String> },
    /// Sources of certificate revocation lists: `http` with a time-out, or `dir` with a path.
    CrlSources { prefix: String },
    /// An address or host name of a syslog server needs `log.syslog = true`.
    SyslogHost,
    /// TLS goes with the newer syslog protocol only; inline certificates are Latin-1.
    SyslogTransport,
    /// How log lines are formatted: placeholders, fields and verbosities.
    Formatter { key: String },
    /// Fields of journald entries.
    JournalFields { key: String },
    /// OAuth 2 providers: HTTPS addresses and files that can be read (and hold PEM data).
    OauthProviders { prefix: String, pem: bool },
    /// A cipher or hash that Erlang knows: these OpenSSL surely has, those perhaps, others it refuses.
    Supported { key: String, surely: Vec<String>, perhaps: Vec<String> },
    /// It does something that is not understood here.
    Unread { what: String },
}

/// The settings that laws are about.
pub struct Values<'a> {
    /// What is set and could be read, by the words of the key.
    pub set: &'a BTreeMap<Vec<String>, Typed>,
    /// Whether a key is set, readable or not, or has a default.
    pub given: &'a dyn Fn(&str) -> bool,
}

/// What a law has against the settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Complaint {
    /// The translation fails because of this key (none: whatever was set).
    Refused { key: Option<String>, message: String },
    /// It fails unless this key is set too.
    Missing { key: String },
    /// It fails unless the host says yes to this about a file.
    OnHost { key: String, path: String, check: HostCheck },
    /// It may fail.
    Undecided { why: String },
}

fn refused(key: impl Into<String>, message: impl Into<String>) -> Complaint {
    Complaint::Refused { key: Some(key.into()), message: message.into() }
}

const NOT_LATIN1: &str = "the value holds characters that the broker cannot use here";

impl Values<'_> {
    fn get(&self, key: &str) -> Option<&Typed> {
        self.set.get(&super::words(key))
    }

    fn int(&self, key: &str) -> Option<i128> {
        match self.get(key) {
            Some(Typed::Int(i)) => Some(*i),
            _ => None,
        }
    }

    fn text(&self, key: &str) -> Option<&str> {
        self.get(key).and_then(text)
    }

    fn word_is(&self, key: &str, word: &str) -> bool {
        self.text(key) == Some(word)
    }

    /// `cuttlefish_variable:filter_by_prefix/2`: everything whose key begins with the words of the prefix.
    fn below(&self, prefix: &str) -> Vec<(&[String], &Typed)> {
        let prefix = super::words(prefix);
        let from = self.set.range(prefix.clone()..);
        from.take_while(|(key, _)| key.starts_with(&prefix)).map(|(key, value)| (key.as_slice(), value)).collect()
    }
}

fn text(value: &Typed) -> Option<&str> {
    match value {
        Typed::Text(text) | Typed::Atom(text) => Some(text),
        _ => None,
    }
}

fn beyond_latin1(value: &Typed) -> bool {
    text(value).is_some_and(|text| text.chars().any(|c| u32::from(c) > 255))
}

fn spelt(words: &[String]) -> String {
    words.join(".")
}

impl Law {
    /// What the law has against these settings. Call it only for the laws of a path that gets a value.
    pub fn complaints(&self, values: &Values<'_>) -> Vec<Complaint> {
        match self {
            Law::Never { message } => vec![Complaint::Refused { key: None, message: message.clone() }],
            Law::Within { key, bound, message } => {
                let broken = values.int(key).is_some_and(|i| !bound.holds(i as f64));
                broken.then(|| refused(key, message)).into_iter().collect()
            }
            Law::Not { key, value, message } => {
                (values.int(key) == Some(*value)).then(|| refused(key, message)).into_iter().collect()
            }
            Law::Needs { key } => (!(values.given)(key)).then(|| Complaint::Missing { key: key.clone() }).into_iter().collect(),
            Law::Latin1 { key } => {
                values.get(key).filter(|v| beyond_latin1(v)).map(|_| refused(key, NOT_LATIN1)).into_iter().collect()
            }
            Law::Latin1Below { prefix, words } => latin1_below(values, prefix, *words),
            Law::Address { key } => {
                let wrong = values.text(key).is_some_and(|text| !is_ip(text));
                wrong.then(|| refused(key, "should be a valid IP address")).into_iter().collect()
            }
            Law::AnyTagIsEncrypted { .. } => Vec::new(),
            Law::IntegerWord { prefix, or } => integer_words(values, prefix, or),
            Law::OneOf { prefix, key, words } => {
                let wrong = values.text(key).filter(|word| !words.iter().any(|w| w == word) && !values.below(prefix).is_empty());
                let message = || format!("only {} can be used together with {prefix}", words.join(" or "));
                wrong.map(|_| refused(key, message())).into_iter().collect()
            }
            Law::FilesBelow { prefix } => files_below(values, prefix),
            Law::BackendChain { prefix } => backend_chain(values, prefix),
            Law::CachedBackend { prefix } => cached_backend(values, prefix),
            Law::PauseIfAllDown { key } => pause_if_all_down(values, key),
            Law::LdapBind { key } => ldap_bind(values, key),
            Law::LdapQuery { key } => values.text(key).and_then(|text| ldap_query(key, text)).into_iter().collect(),
            Law::LimitPattern { prefix } => limit_pattern(values, prefix),
            Law::Interceptors { prefix, names } => interceptors(values, prefix, names),
            Law::CrlSources { prefix } => crl_sources(values, prefix),
            Law::SyslogHost => syslog_host(values),
            Law::SyslogTransport => syslog_transport(values),
            Law::Formatter { key } => formatter(values, key),
            Law::JournalFields { key } => values.text(key).and_then(|text| journal_fields(key, text)).into_iter().collect(),
            Law::OauthProviders { prefix, pem } => oauth_providers(values, prefix, *pem),
            Law::Supported { key, surely, perhaps } => {
                let has = |words: &[String], word: &str| words.iter().any(|w| w == word);
                let other = values.text(key).filter(|word| !has(surely, word));
                let complaint = |word: &str| match has(perhaps, word) {
                    true => Complaint::Undecided { why: format!("{key}: whether OpenSSL has {word}") },
                    false => refused(key, "is not supported"),
                };
                other.map(complaint).into_iter().collect()
            }
            Law::Unread { what } => vec![Complaint::Undecided { why: what.clone() }],
        }
    }
}

fn latin1_below(values: &Values<'_>, prefix: &str, words: usize) -> Vec<Complaint> {
    let wide = values.below(prefix).into_iter().filter(|(key, value)| (words == 0 || key.len() == words) && beyond_latin1(value));
    wide.map(|(key, _)| refused(spelt(key), NOT_LATIN1)).collect()
}

fn integer_words(values: &Values<'_>, prefix: &str, or: &[String]) -> Vec<Complaint> {
    let wrong = |key: &[String]| key.last().is_some_and(|word| integer(word).is_none() && !or.contains(word));
    let words = values.below(prefix).into_iter().map(|(key, _)| key).filter(|key| wrong(key));
    words.map(|key| refused(spelt(key), "the last word of the key must be an integer")).collect()
}

fn files_below(values: &Values<'_>, prefix: &str) -> Vec<Complaint> {
    let file = |(key, value): (&[String], &Typed)| {
        Some(Complaint::OnHost { key: spelt(key), path: text(value)?.to_owned(), check: HostCheck::File })
    };
    values.below(prefix).into_iter().filter_map(file).collect()
}

fn backend_chain(values: &Values<'_>, prefix: &str) -> Vec<Complaint> {
    let depth = super::words(prefix).len();
    // Position → whether (authentication, authorisation) are given.
    let mut chain: BTreeMap<i128, (bool, bool)> = BTreeMap::new();
    let mut complaints = Vec::new();
    let settings = values.below(prefix);
    // Whole ones come first, then authentication, then authorisation.
    for half in [None, Some("authn"), Some("authz")] {
        for (key, _) in &settings {
            let (Some(position), rest) = (key.get(depth), key.get(depth + 1..).unwrap_or_default()) else { continue };
            if rest.first().map(String::as_str) != half || rest.len() > 1 {
                continue;
            }
            let Some(number) = integer(position) else {
                let message = format!("the position of an authentication backend must be an integer: {prefix}.1");
                complaints.push(refused(spelt(key), message));
                continue;
            };
            let taken = chain.entry(number).or_insert((false, false));
            let again = match half {
                Some("authn") => std::mem::replace(&mut taken.0, true),
                Some(_) => std::mem::replace(&mut taken.1, true),
                None => std::mem::replace(taken, (true, true)).0,
            };
            if again {
                complaints.push(refused(spelt(key), format!("position {number} of the chain already has a backend")));
            }
        }
    }
    complaints
}

fn cached_backend(values: &Values<'_>, prefix: &str) -> Vec<Complaint> {
    let set = |key: &str| values.get(key).is_some();
    let half = |name: &str| format!("{prefix}.{name}");
    let clash = set(prefix) && (set(&half("authn")) || set(&half("authz")));
    let message = format!("the cached backend is set as a whole and by {prefix}.authn or .authz");
    clash.then(|| refused(prefix, message)).into_iter().collect()
}

fn pause_if_all_down(values: &Values<'_>, key: &str) -> Vec<Complaint> {
    if !(values.given)(key) {
        return vec![Complaint::Missing { key: key.to_owned() }];
    }
    if !values.word_is(key, "pause_if_all_down") {
        return Vec::new();
    }
    let (nodes, recover) = (format!("{key}.pause_if_all_down.nodes"), format!("{key}.pause_if_all_down.recover"));
    if values.below(&nodes).is_empty() {
        return vec![Complaint::Missing { key: format!("{nodes}.1") }];
    }
    (!(values.given)(&recover)).then_some(Complaint::Missing { key: recover }).into_iter().collect()
}

fn ldap_bind(values: &Values<'_>, key: &str) -> Vec<Complaint> {
    if values.get(key).is_some() {
        return Vec::new();
    }
    let missing = |name: &str| {
        let key = format!("{key}.{name}");
        (!(values.given)(&key)).then_some(Complaint::Missing { key })
    };
    missing("user_dn").or_else(|| missing("password")).into_iter().collect()
}

/// `rabbit_auth_backend_ldap_util:parse_query/1` (RabbitMQ 4.1): one Erlang term, the final dot may be left out.
fn ldap_query(key: &str, query: &str) -> Option<Complaint> {
    let query = query.trim();
    let full = if query.ends_with('.') { query.to_owned() } else { format!("{query}.") };
    let complaint = |message: &str| Some(refused(key, message));
    let term = match erlang::consult(&full) {
        Ok(terms) => match <[erlang::Term; 1]>::try_from(terms) {
            Ok([one]) => one,
            Err(_) => return complaint("must be one Erlang term"),
        },
        Err(error) => return complaint(&format!("is no Erlang term: {}", error.message)),
    };
    if term.list().is_some() || matches!(term.value, erlang::Value::String(_)) {
        return None;
    }
    let known = match term.tuple() {
        Some([name, rest @ ..]) => match (name.atom(), rest) {
            (Some("constant"), [value]) => matches!(value.atom(), Some("true" | "false")),
            (Some("in_group" | "not"), [_]) | (Some("in_group_nested" | "equals" | "match"), [_, _]) => true,
            (Some("for" | "and" | "or"), [list]) => list.list().is_some() || matches!(list.value, erlang::Value::String(_)),
            _ => false,
        },
        _ => false,
    };
    if known { None } else { complaint("is no LDAP query") }
}

fn limit_pattern(values: &Values<'_>, prefix: &str) -> Vec<Complaint> {
    let depth = super::words(prefix).len();
    let limits = |key: &&[String]| {
        matches!(key.get(depth + 1).map(String::as_str), Some("max_connections" | "max_queues")) && key.len() == depth + 2
    };
    let groups: BTreeSet<&String> =
        values.below(prefix).into_iter().map(|(key, _)| key).filter(limits).filter_map(|key| key.get(depth)).collect();
    let missing = groups.into_iter().map(|group| format!("{prefix}.{group}.pattern")).filter(|key| !(values.given)(key));
    missing.map(|key| Complaint::Missing { key }).collect()
}

fn interceptors(values: &Values<'_>, prefix: &str, names: &[String]) -> Vec<Complaint> {
    let depth = super::words(prefix).len();
    let wrong = |key: &&[String]| {
        let rest: Vec<&str> = key.get(depth..).unwrap_or_default().iter().map(String::as_str).collect();
        match rest.as_slice() {
            ["incoming", name, "overwrite"] | ["incoming", name, "enabled"] | ["outgoing", name, "enabled"] => {
                !names.iter().any(|n| n == name)
            }
            _ => true,
        }
    };
    let keys = values.below(prefix).into_iter().map(|(key, _)| key).filter(wrong);
    keys.map(|key| refused(spelt(key), format!("there is no such interceptor; known are {}", names.join(", ")))).collect()
}

fn crl_sources(values: &Values<'_>, prefix: &str) -> Vec<Complaint> {
    let depth = super::words(prefix).len();
    let mut complaints = Vec::new();
    for (key, _) in values.below(prefix) {
        let (Some(index), Some(option)) = (key.get(depth), key.get(depth + 1)) else { continue };
        let wanted = match option.as_str() {
            "timeout" => "http",
            "path" => "dir",
            _ => continue,
        };
        if !values.word_is(&format!("{prefix}.{index}"), wanted) {
            let message = format!("goes with a source of type {wanted} only: {prefix}.{index} = {wanted}");
            complaints.push(refused(spelt(key), message));
        }
    }
    complaints
}

fn syslog_host(values: &Values<'_>) -> Vec<Complaint> {
    if values.word_is("log.syslog", "true") {
        return Vec::new();
    }
    let set = ["log.syslog.host", "log.syslog.ip"].into_iter().find(|key| values.get(key).is_some());
    set.map(|key| refused(key, "`log.syslog = true` must be set too")).into_iter().collect()
}

fn syslog_transport(values: &Values<'_>) -> Vec<Complaint> {
    let tls = ["tls", "ssl"].iter().any(|word| values.word_is("log.syslog.transport", word));
    if !tls {
        return Vec::new();
    }
    if values.word_is("log.syslog.protocol", "rfc3164") {
        return vec![refused("log.syslog.transport", "the syslog protocol rfc3164 cannot be used with TLS")];
    }
    let mut complaints: Vec<Complaint> = ["log.syslog.ssl_options.cert", "log.syslog.ssl_options.dh"]
        .into_iter()
        .filter(|key| values.get(key).is_some_and(beyond_latin1))
        .map(|key| refused(key, NOT_LATIN1))
        .collect();
    complaints.extend(latin1_below(values, "log.syslog.ssl_options.cacerts", 0));
    complaints
}

/// `rabbit_prelaunch_early_logging:translate_formatter_conf/2`: the formatter that is chosen reads its own settings.
fn formatter(values: &Values<'_>, key: &str) -> Vec<Complaint> {
    let time = format!("{key}.time_format");
    const TIMES: [&str; 5] = ["rfc3339_space", "rfc3339_T", "epoch_usecs", "epoch_secs", "lager_default"];
    if values.text(&time).is_some_and(|word| !TIMES.contains(&word)) {
        return vec![refused(time, format!("must be one of {}", TIMES.join(", ")))];
    }
    if values.word_is(key, "json") {
        let (fields, verbosity) = (format!("{key}.json.field_map"), format!("{key}.json.verbosity_map"));
        let bad_fields = values.text(&fields).filter(|map| map.split(' ').any(|field| field.starts_with("*:") && field != "*:-"));
        let bad_verbosity = values.text(&verbosity).filter(|map| {
            let integer = |entry: &str| entry.split_once(':').is_some_and(|(_, n)| integer(n).is_some());
            !map.is_empty() && !map.split(' ').all(integer)
        });
        let fields = bad_fields.map(|_| refused(fields, "`*` can only be dropped (`*:-`), not renamed"));
        let verbosity = bad_verbosity.map(|_| refused(verbosity, "must be a list of level:number, separated by one blank"));
        return fields.or(verbosity).into_iter().collect();
    }
    // Escape sequences and the format go through regular expressions that know nothing beyond Latin-1.
    let sequences = latin1_below(values, &format!("{}.color_esc_seqs", key.trim_end_matches(".formatter")), 0);
    let format = format!("{key}.plaintext.format");
    if values.get(&format).is_some_and(beyond_latin1) {
        return vec![refused(format, NOT_LATIN1)];
    }
    if !sequences.is_empty() {
        return sequences;
    }
    let broken = values.text(&format).is_some_and(|text| {
        // `$` is followed by a name; its character class in RabbitMQ goes from `A` to `_`, brackets and backslash included.
        let name = |rest: &str| {
            rest.chars().next().is_some_and(|c| c.is_ascii_lowercase() || ('A'..='_').contains(&c) || c.is_ascii_digit())
        };
        text.split('$').skip(1).any(|rest| !name(rest))
    });
    broken.then(|| refused(format, "a `$` must be followed by the name of a field: $time, $level, $msg")).into_iter().collect()
}

/// `rabbit_prelaunch_early_logging:translate_journald_fields_conf/2`.
fn journal_fields(key: &str, fields: &str) -> Option<Complaint> {
    let name = |name: &str| {
        !name.is_empty()
            && name.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
            && !name.starts_with('_')
    };
    let wrong = fields.split(' ').filter_map(|field| field.split_once('=')).find(|(field, _)| !name(field));
    wrong.map(|(field, _)| refused(key, format!("`{field}` is no name of a journald field: capitals, digits, `_` within")))
}

/// `rabbit_oauth2_schema:translate_oauth_providers/1` (RabbitMQ 4.0).
fn oauth_providers(values: &Values<'_>, prefix: &str, pem: bool) -> Vec<Complaint> {
    const ADDRESSES: [&str; 5] = ["issuer", "token_endpoint", "jwks_uri", "end_session_endpoint", "authorization_endpoint"];
    let depth = super::words(prefix).len();
    let mut complaints = Vec::new();
    for (key, value) in values.below(prefix) {
        let Some(text) = text(value) else { continue };
        let rest: Vec<&str> = key.get(depth + 1..).unwrap_or_default().iter().map(String::as_str).collect();
        let file = |check| Complaint::OnHost { key: spelt(key), path: text.to_owned(), check };
        match rest.as_slice() {
            _ if rest.first() != Some(&"https") && beyond_latin1(value) => complaints.push(refused(spelt(key), NOT_LATIN1)),
            [name] if ADDRESSES.contains(name) && !https(text) => {
                complaints.push(refused(spelt(key), "must be an https address"));
            }
            ["https", "cacertfile"] => complaints.push(file(if pem { HostCheck::Pem } else { HostCheck::File })),
            ["signing_keys", _] => complaints.push(file(HostCheck::File)),
            _ => {}
        }
    }
    complaints
}

/// The laws of one translation. `fun` is its text; `path` the application variable that it computes.
pub fn read(path: &str, fun: &str) -> Vec<Law> {
    let tokens = erlang::tokens(fun);
    let code = Code { path, tokens: &tokens };
    code.known().unwrap_or_else(|| code.generic())
}

const CONF_GET: [&str; 4] = ["cuttlefish", ":", "conf_get", "("];
const INVALID: [&str; 4] = ["cuttlefish", ":", "invalid", "("];
const FILTER: [&str; 4] = ["cuttlefish_variable", ":", "filter_by_prefix", "("];
const GET_VALUE: [&str; 5] = ["proplists", ":", "get_value", "(", "["];

/// Modules that a translation may call without anything being able to fail that the laws do not cover.
const HARMLESS: [&str; 10] =
    ["cuttlefish", "cuttlefish_variable", "lists", "proplists", "maps", "binary", "io_lib", "erlang", "string", "dict"];

/// Algorithms that every OpenSSL since 1.1 has, and the others that Erlang's `crypto` has names for.
const SURE_HASHES: &str = "sha sha224 sha256 sha384 sha512 sha3_224 sha3_256 sha3_384 sha3_512 blake2b blake2s md5";
const HASHES: &str = "sha512_224 sha512_256 shake128 shake256 sm3 ripemd160 md4";
const SURE_CIPHERS: &str = "aes_cbc aes_128_cbc aes_192_cbc aes_256_cbc aes_ctr aes_128_ctr aes_192_ctr aes_256_ctr";
const CIPHERS: &str = "aes_cfb8 aes_128_cfb8 aes_192_cfb8 aes_256_cfb8 aes_cfb128 aes_128_cfb128 aes_192_cfb128 aes_256_cfb128 aes_ecb
    aes_128_ecb aes_192_ecb aes_256_ecb aes_128_ofb aes_192_ofb aes_256_ofb aes_gcm aes_128_gcm aes_192_gcm aes_256_gcm aes_ccm aes_128_ccm
    aes_192_ccm aes_256_ccm aes_ige256 blowfish_cbc blowfish_cfb64 blowfish_ecb blowfish_ofb64 chacha20 chacha20_poly1305 des_cbc des_cfb
    des_ecb des_ede3_cbc des_ede3_cfb rc2_cbc rc4 sm4_cbc sm4_ecb sm4_cfb sm4_ofb sm4_ctr sm4_gcm sm4_ccm";

struct Code<'a> {
    path: &'a str,
    tokens: &'a [Token<'a>],
}

fn from<'s, 't>(tokens: &'s [Token<'t>], at: usize) -> &'s [Token<'t>] {
    tokens.get(at..).unwrap_or_default()
}

/// Whether the tokens begin with these texts; `*` fits any token.
fn starts_with(tokens: &[Token<'_>], texts: &[&str]) -> bool {
    tokens.len() >= texts.len() && tokens.iter().zip(texts).all(|(t, text)| *text == "*" || t.text == *text)
}

/// A call `cuttlefish:conf_get("key", Conf[, Default])`.
struct Asked {
    key: String,
    /// It has a default of its own.
    defaulted: bool,
    /// Its result goes straight into `list_to_binary`.
    to_binary: bool,
}

impl Code<'_> {
    fn starts(&self, texts: &[&str]) -> impl Iterator<Item = usize> {
        (0..self.tokens.len()).filter(move |i| starts_with(from(self.tokens, *i), texts))
    }

    fn has(&self, texts: &[&str]) -> bool {
        self.starts(texts).next().is_some()
    }

    /// `module:function(`
    fn calls(&self, module: &str, function: &str) -> bool {
        self.has(&[module, ":", function, "("])
    }

    /// The constant prefixes of which it takes all settings.
    fn prefixes(&self) -> Vec<String> {
        let prefix = |i: usize| from(self.tokens, i).get(4).filter(|t| t.kind == Kind::String).map(erlang::unquote);
        self.starts(&FILTER).filter_map(prefix).collect()
    }

    fn prefix(&self) -> Option<String> {
        self.prefixes().into_iter().next()
    }

    fn asked(&self) -> Vec<Asked> {
        let at = |i: usize| {
            let call = from(self.tokens, i);
            let key = call.get(4).filter(|t| t.kind == Kind::String)?;
            let to_binary = i >= 2 && starts_with(from(self.tokens, i - 2), &["list_to_binary", "("]);
            Some(Asked { key: erlang::unquote(key), defaulted: call.get(7).is_some_and(|t| t.is(",")), to_binary })
        };
        self.starts(&CONF_GET).filter_map(at).collect()
    }

    fn first_key(&self) -> Option<String> {
        self.asked().into_iter().next().map(|a| a.key)
    }

    /// The first argument of a call of one of the broker's own functions, where it is a constant.
    fn argument(&self, module: &str, function: &str) -> Option<String> {
        let at = self.starts(&[module, ":", function, "("]).next()?;
        from(self.tokens, at).get(4).filter(|t| t.kind == Kind::String).map(erlang::unquote)
    }

    /// The larger translations, known by the functions that they call and the application variable that they compute.
    fn known(&self) -> Option<Vec<Law>> {
        const LOGGING: &str = "rabbit_prelaunch_early_logging";
        const OAUTH: &str = "rabbit_oauth2_schema";
        const MANAGEMENT: &str = "rabbit_mgmt_schema";
        let one = |law: Law| Some(vec![law]);
        if let Some(key) = self.argument("rabbit_cuttlefish", "optionally_tagged_binary") {
            return Some(vec![Law::Needs { key: key.clone() }, Law::AnyTagIsEncrypted { key: key.clone() }, Law::Latin1 { key }]);
        }
        if let Some(key) = self.argument("rabbit_cuttlefish", "optionally_tagged_string") {
            return Some(vec![Law::Needs { key: key.clone() }, Law::AnyTagIsEncrypted { key }]);
        }
        if let Some(key) = self.argument(LOGGING, "translate_formatter_conf") {
            return one(Law::Formatter { key });
        }
        if let Some(key) = self.argument(LOGGING, "translate_journald_fields_conf") {
            return one(Law::JournalFields { key });
        }
        for (module, prefix) in [(OAUTH, "auth_oauth2"), (MANAGEMENT, "management")] {
            if let Some(name) = self.argument(module, "translate_endpoint_params") {
                return one(Law::Latin1Below { prefix: format!("{prefix}.{name}"), words: 3 });
            }
        }
        let path = self.path;
        let of = |name: &str| path.ends_with(&format!(".{name}"));
        let below = |prefix: &str| Law::Latin1Below { prefix: prefix.to_owned(), words: 0 };
        match () {
            () if self.calls(OAUTH, "translate_signing_keys") => {
                one(Law::FilesBelow { prefix: "auth_oauth2.signing_keys".into() })
            }
            () if self.calls(OAUTH, "translate_oauth_providers") => {
                // The schema does not tell whether the function wants PEM data; see `Builder::finish`.
                one(Law::OauthProviders { prefix: "auth_oauth2.oauth_providers".into(), pem: false })
            }
            () if self.calls(OAUTH, "translate_resource_servers") => one(below("auth_oauth2.resource_servers")),
            () if self.calls(OAUTH, "translate_scope_aliases") => one(below("auth_oauth2.scope_aliases")),
            () if self.calls(MANAGEMENT, "translate_oauth_resource_servers") => one(below("management.oauth_resource_servers")),
            () if self.calls("rabbit_cuttlefish", "aggregate_props") => Some(Vec::new()),
            () if self.calls("rabbit_auth_backend_ldap_util", "parse_query") => one(Law::LdapQuery { key: self.first_key()? }),
            () if self.calls("file", "read_file") && of("signing_keys") => one(Law::FilesBelow { prefix: self.prefix()? }),
            () if of("auth_backends") => one(Law::BackendChain { prefix: self.prefix()? }),
            () if of("cached_backend") => one(Law::CachedBackend { prefix: "auth_cache.cached_backend".into() }),
            () if of("cluster_partition_handling") => one(Law::PauseIfAllDown { key: self.first_key()? }),
            () if of("dn_lookup_bind") || of("other_bind") => one(Law::LdapBind { key: self.first_key()? }),
            () if path == "rabbit.default_limits.vhosts" => one(Law::LimitPattern { prefix: "default_limits.vhosts".into() }),
            () if of("message_interceptors") || of("incoming_message_interceptors") => {
                let names = ["set_header_timestamp", "set_header_routing_node", "timestamp", "set_client_id_annotation"];
                let names = names.iter().filter(|name| self.tokens.iter().any(|t| t.text.trim_matches('"') == **name));
                one(Law::Interceptors { prefix: self.prefix()?, names: names.map(|n| (*n).to_owned()).collect() })
            }
            () if of("crl_cache") => one(Law::CrlSources { prefix: self.prefix()? }),
            () if self.tokens.iter().any(|t| t.is("credentials_obfuscation_pbe")) => {
                let hashes = self.tokens.iter().any(|t| t.is("supported_hashes"));
                let (surely, perhaps) = if hashes { (SURE_HASHES, HASHES) } else { (SURE_CIPHERS, CIPHERS) };
                let words = |text: &str| text.split_whitespace().map(str::to_owned).collect();
                one(Law::Supported { key: self.first_key()?, surely: words(surely), perhaps: words(perhaps) })
            }
            () if path == "syslog.dest_host" => one(Law::SyslogHost),
            () if path == "syslog.protocol" => one(Law::SyslogTransport),
            () if of("sample_retention_policies") => {
                let or: Vec<String> = ["minute", "hour", "day"].map(str::to_owned).to_vec();
                Some(self.prefixes().into_iter().map(|prefix| Law::IntegerWord { prefix, or: or.clone() }).collect())
            }
            () if of("aws_hostname_paths") => one(Law::IntegerWord { prefix: self.prefix()?, or: Vec::new() }),
            () if of("aws_hostname_path") => Some(Vec::new()),
            () if path == "rabbit.cluster_nodes" => {
                let words = ["disc", "disk", "ram"].iter().filter(|w| self.has(&[w, "->"])).map(|w| (*w).to_owned()).collect();
                one(Law::OneOf { prefix: self.prefix()?, key: self.first_key()?, words })
            }
            () if of("inet_dist_use_interface") => one(Law::Address { key: self.first_key()? }),
            // Their own map functions: values become binaries or stay what they are, nothing is refused.
            () if of("oauth_resource_servers") => Some(Vec::new()),
            () if of("resource_servers") => one(below(&self.prefix()?)),
            () if of("oauth_providers") => one(below(&self.prefix()?)),
            // Refused only with neither a relative nor an absolute value, and then it is not computed.
            () if of("disk_free_limit") || of("vm_memory_high_watermark") => Some(Vec::new()),
            // These choose among atoms and leave any other as it is.
            () if path == "rabbitmq_trust_store.providers" => Some(Vec::new()),
            () => None,
        }
    }

    /// Laws that the text itself tells.
    fn generic(&self) -> Vec<Law> {
        if starts_with(self.tokens, &["fun", "(", "*", ")", "->"]) && starts_with(from(self.tokens, 5), &INVALID) {
            return vec![Law::Never { message: message(from(self.tokens, 9)) }];
        }
        // `conf_get` with one argument does not exist: the call always fails.
        let one_argument = |i: usize| starts_with(from(self.tokens, i + 4), &["*", ")"]);
        if self.starts(&CONF_GET).any(one_argument) {
            return vec![Law::Never { message: "this RabbitMQ cannot use this setting (a mistake in its schema)".into() }];
        }
        let asked = self.asked();
        let mut laws: Vec<Law> = asked.first().map(|a| self.comparisons(&a.key)).unwrap_or_default();
        if !self.branches() {
            laws.extend(asked.iter().filter(|a| !a.defaulted).map(|a| Law::Needs { key: a.key.clone() }));
        }
        laws.extend(asked.iter().filter(|a| a.to_binary).map(|a| Law::Latin1 { key: a.key.clone() }));
        laws.extend(self.properties());
        laws.extend(self.binaries_below());
        laws.extend(self.unread(&laws).map(|what| Law::Unread { what }));
        laws
    }

    fn branches(&self) -> bool {
        self.tokens.iter().any(|t| ["case", "if", "receive", "try", "catch"].iter().any(|w| t.is(w)))
    }

    /// Comparisons of the value of the first key with integers, as `case` clauses.
    fn comparisons(&self, key: &str) -> Vec<Law> {
        (0..self.tokens.len()).filter_map(|i| comparison(key, from(self.tokens, i))).collect()
    }

    /// `X = proplists:get_value(["a", "b"], …)` whose X becomes a binary: it must be there.
    fn properties(&self) -> Vec<Law> {
        let mut laws = Vec::new();
        for at in self.starts(&GET_VALUE) {
            let words = from(self.tokens, at + GET_VALUE.len());
            let key: Vec<String> =
                words.iter().take_while(|t| !t.is("]")).filter(|t| t.kind == Kind::String).map(erlang::unquote).collect();
            let Some(variable) = at.checked_sub(2).and_then(|i| self.tokens.get(i)) else { continue };
            if self.has(&["list_to_binary", "(", variable.text, ")"]) {
                laws.push(Law::Needs { key: spelt(&key) });
                laws.push(Law::Latin1 { key: spelt(&key) });
            }
        }
        laws
    }

    /// `[list_to_binary(V) || {_, V} <- Settings]`, and `{[_, _, Key], Val}` of inline keys.
    fn binaries_below(&self) -> Vec<Law> {
        let values = ["V", "Val", "Value"].iter().any(|v| self.has(&["list_to_binary", "(", v, ")"]));
        let conf_get = !self.asked().is_empty() && self.prefixes().is_empty();
        if !values || conf_get {
            return Vec::new();
        }
        let inline_key = self.has(&["[", "_", ",", "_", ",", "Key", "]"]);
        let words = if inline_key { 3 } else { 0 };
        self.prefixes().into_iter().map(|prefix| Law::Latin1Below { prefix, words }).collect()
    }

    /// What no law covers: refusals that were not understood, calls of code that is not known.
    fn unread(&self, laws: &[Law]) -> Option<String> {
        let foreign = self.tokens.windows(3).find(|w| {
            matches!(w, [module, colon, function] if module.kind == Kind::Word && colon.is(":") && function.kind == Kind::Word)
                && w.first().is_some_and(|module| !HARMLESS.contains(&module.text))
        });
        if let Some([module, _, function]) = foreign {
            return Some(format!("{} is computed by {}:{}", self.path, module.text, function.text));
        }
        let compared = laws.iter().any(|law| matches!(law, Law::Within { .. } | Law::Not { .. }));
        let refuses = self.has(&INVALID) && !compared && !self.refuses_no_typed_value();
        refuses.then(|| format!("{} may be refused for a reason that is not understood", self.path))
    }

    /// `case … of none -> …; _ -> invalid` and `N when is_integer(N) -> …; _ -> invalid`: what the datatypes let through is never refused.
    fn refuses_no_typed_value(&self) -> bool {
        let only_none = self.has(&["of", "none", "->", "[", "]", ";", "_", "->", "cuttlefish", ":", "invalid"]);
        let any_integer = self.has(&["when", "is_integer", "(", "*", ")", "->"]);
        let address_family = self.has(&["inet6", "->", "inet6"]);
        only_none || any_integer || address_family
    }
}

/// A clause that refuses integers: `1 -> invalid(…)`, `N when is_integer(N) andalso N > 0 -> …; _ -> invalid(…)` or the other way round.
fn comparison(key: &str, clause: &[Token<'_>]) -> Option<Law> {
    if let Some(first) = clause.first().filter(|t| t.kind == Kind::Integer)
        && let Ok(value) = erlang::integer(first)
        && starts_with(from(clause, 1), &["->"])
        && starts_with(from(clause, 2), &INVALID)
    {
        return Some(Law::Not { key: key.to_owned(), value, message: message(from(clause, 6)) });
    }
    if !starts_with(clause, &["*", "when", "is_integer", "(", "*", ")", "andalso", "*", "*", "*", "->"]) {
        return None;
    }
    let bound = bound(clause.get(7..10)?, clause.first()?.text)?;
    let body = from(clause, 11);
    if starts_with(body, &INVALID) {
        return Some(Law::Within { key: key.to_owned(), bound: opposite(bound), message: message(from(body, 4)) });
    }
    let rest =
        (0..body.len()).map(|j| from(body, j)).find(|t| starts_with(t, &["_", "->"]) && starts_with(from(t, 2), &INVALID))?;
    Some(Law::Within { key: key.to_owned(), bound, message: message(from(rest, 6)) })
}

fn opposite(bound: Bound) -> Bound {
    let op = match bound.op {
        Op::AtLeast => Op::Below,
        Op::Above => Op::AtMost,
        Op::AtMost => Op::Above,
        Op::Below => Op::AtLeast,
    };
    Bound { op, ..bound }
}

fn message(tokens: &[Token<'_>]) -> String {
    tokens.iter().take_while(|t| t.kind == Kind::String).map(erlang::unquote).collect()
}

//! TLS: the files that the configuration names, whether they fit together, and what a real handshake with each listener shows.
//!
//! Erlang reads certificate and key at the handshake, not when the listener is opened: what is wrong with them is in no log line of
//! the start. So files and handshake are looked at here.

use super::conf::access::{self, Access, READ, User};
use super::conf::broker::Broker;
use super::conf::schemas;
use super::conf::tls::{Named, TlsSettings};
use super::conf::{Conf, Problem};
use super::listeners::Listener;
use super::names::Names;
use super::net::Net;
use super::os::Install;
use super::{Blank, Fact, Where, unit};
use crate::formats::hosts::Document as Hosts;
use crate::formats::x509::{self, Certificate};
use crate::host::pem::{self, Form, Pem};
use crate::host::tls::{End, Handshake};
use crate::host::{self, Command, Host, Kind, optional};
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

/// TLS of this broker.
#[derive(Debug, Clone, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Tls {
    /// Blocks of settings, and what becomes of them.
    pub blocks: Fact<Vec<Block>>,
    /// The files that they name.
    pub files: Fact<Vec<File>>,
    /// TLS listeners that are open, and what a handshake with them shows.
    pub endpoints: Fact<Vec<Endpoint>>,
}

/// One block of settings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Block {
    /// `ssl_options`, `management.ssl`, …
    pub name: String,
    /// Services whose listeners use it.
    pub services: Vec<String>,
    /// conf | advanced
    pub source: String,
    /// The server's certificate, by its file; null: there is none to read.
    pub certificate: Fact<Option<Cert>>,
    /// The key is encrypted; null: there is no key to read.
    pub key_encrypted: Fact<Option<bool>>,
    pub password: bool,
    /// The key belongs to the certificate; null: one of them is not there to compare.
    pub key_matches: Fact<Option<bool>>,
    /// A file beside whose key belongs to the certificate, where that of the configuration does not.
    pub right_key: Option<String>,
    /// What the files make of the chain; null: there is no certificate to read.
    pub chain: Fact<Option<Chain>>,
    pub verify_peer: bool,
    pub requires_client: bool,
    pub requires_client_at: Option<Where>,
    pub versions: Versions,
    /// Cipher suites that are asked for; empty: not said.
    pub ciphers: Vec<String>,
    /// All of these are such as no client of today's defaults takes (RC4, DES, MD5, NULL, export, anonymous).
    pub only_broken_ciphers: bool,
}

/// A file that holds a certificate, a key or certificates of authorities.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct File {
    /// The block that names it.
    pub block: String,
    pub services: Vec<String>,
    /// certificate | key | ca
    pub role: String,
    pub path: String,
    /// Key of rabbitmq.conf; null: advanced.config names it.
    pub key: Option<String>,
    pub at: Where,
    /// ok | missing | unreadable (for the broker's user) | no-file (a directory)
    pub state: Fact<String>,
    /// The file or directory whose permissions refuse the broker's user.
    pub refused_by: Option<String>,
    /// A group kept for readers of keys that the broker's user would have to be in.
    pub group: Option<String>,
    /// The broker does not start because of it.
    pub stops_boot: Fact<bool>,
    /// pem | der-certificate | der-key | pkcs12 | empty | text | binary; null: it is not there.
    pub form: Fact<Option<String>>,
    /// It holds what it should; null: it is not there.
    pub fits: Fact<Option<bool>>,
    /// Octal text of the mode; empty: it is not there.
    pub mode_text: String,
    pub uid: i64,
    pub gid: i64,
    /// Modification time, seconds since the epoch; 0: it is not there.
    pub mtime: i64,
    /// Every user of this host can read it, directories on the way included.
    pub open_to_all: Fact<bool>,
    /// A file beside that was most likely meant, where this one is missing: it belongs to the others of the block.
    pub candidate: Option<String>,
}

/// One certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Cert {
    pub subject: String,
    pub issuer: String,
    /// Names and addresses that it is for.
    pub names: Vec<String>,
    /// Seconds since the epoch.
    pub not_before: i64,
    /// Seconds since the epoch.
    pub not_after: i64,
    /// `2026-11-29`, UTC
    pub ends: String,
    /// `2026-11-29`, UTC
    pub begins: String,
    /// Subject and issuer are the same.
    pub self_signed: bool,
    /// `RSA 2048`
    pub key: String,
    /// Why clients of today's defaults refuse it.
    pub weak: Option<String>,
    /// SHA-256 of the certificate.
    pub sha256: String,
    /// own (names this host, or its address) · elsewhere (its names are those of other hosts: a load balancer?) · foreign (nothing
    /// that this host knows has such a name)
    pub fits_host: Fact<String>,
    /// It is for one of this host's addresses, too.
    pub has_address: bool,
}

/// The way from the server's certificate to a root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Chain {
    /// complete (up to a root that is known here) · incomplete (an intermediate is not sent) · unknown-root (cacertfile holds others than
    /// the issuer) · no-authority (the authorities that are known here are for something else: not to be judged)
    pub state: String,
    /// The issuer that is missing.
    pub missing: Option<String>,
    /// A file on this host that holds the missing intermediate.
    pub found_in: Option<String>,
    /// The first certificate of the chain besides the server's that is out of date, and since when.
    pub expired: Option<String>,
}

/// Versions of TLS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Versions {
    /// The configuration names them.
    pub set: bool,
    pub at: Option<Where>,
    /// What clients can have: of those named, or the default of this release of Erlang.
    pub offered: Fact<Vec<String>>,
    /// Of these, those that RFC 8996 forbids.
    pub legacy: Fact<Vec<String>>,
    /// Names that Erlang does not know (`TLSv1.2`): the listener is not opened.
    pub unknown: Vec<String>,
}

/// An open TLS listener.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Endpoint {
    pub service: String,
    pub address: String,
    pub port: i64,
    /// The block that it uses; null: none is known.
    pub block: Option<String>,
    pub handshake: Fact<Shake>,
}

/// What a handshake shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Shake {
    /// established | alert | refused (by the client) | reset | closed | silent | not-tls | no-connection
    pub outcome: String,
    /// The alert's name, or why the client refused.
    pub text: String,
    /// `TLSv1.3`
    pub version: Option<String>,
    pub asks_client: bool,
    /// Refuses clients without a certificate.
    pub needs_client: bool,
    /// The certificate that is served.
    pub certificate: Option<Cert>,
    pub chain: Option<Chain>,
    /// The server does not hold the key of the certificate that it shows.
    pub wrong_key: bool,
    /// It serves the certificate that is in the file; null: one of them is not known.
    pub same_as_file: Option<bool>,
}

/// Most files of a directory that are looked at for what is missing.
const MAX_BESIDE: usize = 64;
/// Larger files are no certificate or key.
const MAX_SIZE: u64 = 64 * 1024;
/// Public authorities, for certificates of theirs.
const PUBLIC: &str = "/etc/ssl/certs/ca-certificates.crt";
/// Groups that exist so that their members read keys.
pub const KEY_GROUPS: [&str; 1] = ["ssl-cert"];
/// Names of a certificate that are resolved.
const MAX_NAMES: usize = 3;
/// Versions that Erlang knows, newest first (ssl:versions/0).
const KNOWN: [&str; 6] = ["tlsv1.3", "tlsv1.2", "tlsv1.1", "tlsv1", "dtlsv1.2", "dtlsv1"];
/// RFC 8996 forbids them.
const LEGACY: [&str; 2] = ["tlsv1.1", "tlsv1"];
/// Up to this release Erlang's default cipher suites hold some for TLS 1.0 and 1.1: those versions work where they are offered.
const LEGACY_WORKS_UNTIL: u32 = 25;
/// Of this release on they hold none: such a client gets insufficient_security. Between the two it was not tried.
const LEGACY_FAILS_SINCE: u32 = 27;
/// Of this release of RabbitMQ on TLS 1.3 is among the versions that are offered unless some are named (3.8 leaves it out).
const TLS13_SINCE: (u32, u32) = (3, 9);

impl Blank for Tls {
    fn blank(why: &str) -> Self {
        Tls { blocks: Fact::blank(why), files: Fact::blank(why), endpoints: Fact::blank(why) }
    }
}

/// Who and what the host is.
pub struct Around<'a> {
    pub install: &'a Fact<Option<Install>>,
    pub names: &'a Names,
    pub net: &'a Net,
    /// Seconds since the epoch.
    pub now: i64,
}

/// Looks at the files and shakes hands with every TLS listener that is open.
pub fn collect(host: &dyn Host, around: &Around, conf: &Conf, listeners: &Fact<Vec<Listener>>) -> Tls {
    let settings = match &conf.tls {
        Fact::Known(settings) => settings,
        Fact::Unknown(why) => return Tls::blank(why),
    };
    let tls = |l: &Listener| is_tls(&l.service);
    if settings.is_empty() && !listeners.known().is_some_and(|ls| ls.iter().any(tls)) {
        let none = || Fact::Known(Vec::new());
        return Tls { blocks: none(), files: Fact::Known(Vec::new()), endpoints: listeners.as_ref().map(|_| Vec::new()) };
    }
    let user = Broker::installed(around.install).user(host);
    let collector = Collector { host, around, user, problems: &conf.problems };
    let mut named = Vec::new();
    let read: Vec<(Block, Files)> = settings.iter().map(|s| collector.block(&absolute(host, s), &mut named)).collect();
    let endpoints = match listeners {
        Fact::Unknown(why) => Fact::Unknown(why.clone()),
        Fact::Known(listeners) => {
            let open = listeners.iter().filter(|l| tls(l) && l.state.known().is_some_and(|s| s == "listening"));
            Fact::Known(open.map(|l| collector.endpoint(l, &read)).collect())
        }
    };
    Tls { blocks: Fact::Known(read.into_iter().map(|(block, _)| block).collect()), files: Fact::Known(named), endpoints }
}

/// A relative path begins where the unit starts the broker.
fn absolute(host: &dyn Host, settings: &TlsSettings) -> TlsSettings {
    let whole = |named: &Option<Named>| {
        let named = named.clone()?;
        let relative = Path::new(&named.path).is_relative();
        let start = relative.then(|| unit::working_directory(host).known().cloned().flatten()).flatten();
        Some(match start {
            Some(start) => Named { path: Path::new(&start).join(&named.path).display().to_string(), ..named },
            None => named,
        })
    };
    let (certificate, key, ca) = (whole(&settings.certificate), whole(&settings.key), whole(&settings.ca));
    TlsSettings { certificate, key, ca, ..settings.clone() }
}

/// Whether a service is one over TLS.
pub fn is_tls(service: &str) -> bool {
    service == "amqps" || service.ends_with("-tls")
}

struct Collector<'a> {
    host: &'a dyn Host,
    around: &'a Around<'a>,
    user: Fact<User>,
    problems: &'a Fact<Vec<Problem>>,
}

/// What the files of a block hold.
struct Files {
    certificates: Vec<Vec<u8>>,
    authorities: Vec<Vec<u8>>,
    /// The authorities are there to check certificates of clients: they need not be the server's.
    for_clients: bool,
    /// The files that the block names.
    named: Vec<PathBuf>,
    /// Directories to look in for what is missing.
    beside: BTreeSet<PathBuf>,
}

impl Collector<'_> {
    fn block(&self, settings: &TlsSettings, all: &mut Vec<File>) -> (Block, Files) {
        let named = [("certificate", &settings.certificate), ("key", &settings.key), ("ca", &settings.ca)];
        let pem = |named: &Option<Named>| named.as_ref().map(|n| self.host.pem(Path::new(&n.path)));
        let [certificate, key, ca] = [&settings.certificate, &settings.key, &settings.ca].map(pem);
        let certificates = ders(&certificate);
        // Without a key of its own, the certificate's file is looked in (ssl's default for keyfile).
        let key_file = key.as_ref().or(certificate.as_ref().filter(|_| settings.key.is_none()));
        let paths = named.iter().filter_map(|(_, n)| Some(PathBuf::from(&n.as_ref()?.path))).collect();
        let beside = named.iter().filter_map(|(_, n)| Path::new(&n.as_ref()?.path).parent().map(Path::to_owned)).collect();
        let files = Files { certificates, authorities: ders(&ca), for_clients: settings.verify_peer, named: paths, beside };
        let first = files.certificates.first().and_then(|der| Some((der, Certificate::parse(der)?)));
        let public = first.as_ref().map(|(_, c)| pem::fingerprint(&c.public_key));
        let the_key = look(key_file).map(|pem| pem.and_then(|p| p.keys.into_iter().next()));
        let key_matches = match (&the_key, look(certificate.as_ref())) {
            (Fact::Unknown(why), _) => Fact::Unknown(why.clone()),
            (_, Fact::Unknown(why)) => Fact::Unknown(why),
            (Fact::Known(Some(key)), _) => match (&key.public, &public) {
                (Some(key), Some(public)) => Fact::Known(Some(key == public)),
                (None, Some(_)) if key.encrypted => Fact::Unknown("the key is encrypted".into()),
                (None, Some(_)) => Fact::Unknown("the public half of the key cannot be told from its file".into()),
                (_, None) => Fact::Known(None),
            },
            (Fact::Known(None), _) => Fact::Known(None),
        };
        let right_key = match &key_matches {
            Fact::Known(Some(false)) => self.candidate("key", &files, public.as_deref()),
            _ => None,
        };
        let cert = look(certificate.as_ref()).map(|_| first.as_ref().map(|(der, c)| self.cert(der, c)));
        let chain = look(certificate.as_ref()).map(|_| {
            let sent = sent(&files.certificates, &files.authorities);
            first.as_ref().map(|_| self.chain(&sent, &files))
        });
        let file = |(role, named): &(&str, &Option<Named>), pem: &Option<host::Got<Pem>>| {
            named.as_ref().map(|n| self.file(role, n, settings, pem.as_ref(), &files, public.as_deref()))
        };
        all.extend([file(&named[0], &certificate), file(&named[1], &key), file(&named[2], &ca)].into_iter().flatten());
        let block = Block {
            name: settings.block.clone(),
            services: settings.services.clone(),
            source: settings.source.clone(),
            certificate: cert,
            key_encrypted: the_key.map(|key| key.map(|k| k.encrypted)),
            password: settings.password,
            key_matches,
            right_key,
            chain,
            verify_peer: settings.verify_peer,
            requires_client: settings.requires_client,
            requires_client_at: settings.requires_client_at.clone(),
            versions: self.versions(settings),
            ciphers: settings.ciphers.clone(),
            only_broken_ciphers: !settings.ciphers.is_empty() && settings.ciphers.iter().all(|c| is_broken(c)),
        };
        (block, files)
    }

    fn file(
        &self,
        role: &str,
        named: &Named,
        settings: &TlsSettings,
        pem: Option<&host::Got<Pem>>,
        files: &Files,
        public: Option<&str>,
    ) -> File {
        let path = Path::new(&named.path);
        let meta = self.host.stat(path, true);
        let (state, refused_by) = self.state(path, meta.as_ref().is_ok_and(|m| m.kind != Kind::File));
        let pem = match pem {
            Some(Ok(pem)) => Fact::Known(Some(pem)),
            Some(Err(miss)) if miss.is_absent() => Fact::Known(None),
            Some(Err(miss)) => Fact::Unknown(miss.to_string()),
            None => Fact::Known(None),
        };
        let missing = state.known().is_some_and(|s| s == "missing");
        let everybody = User { uid: NOBODY, gids: vec![NOBODY] };
        let open = access::may(self.host, &everybody, path, READ);
        File {
            block: settings.block.clone(),
            services: settings.services.clone(),
            role: role.to_owned(),
            path: named.path.clone(),
            key: named.key.clone(),
            at: named.at.clone(),
            group: refused_by.as_ref().and_then(|by| self.key_group(path, by)),
            state,
            refused_by: refused_by.map(|by| by.display().to_string()),
            stops_boot: self.stops_boot(named),
            form: pem.as_ref().map(|p| p.map(|p| form_text(p.form).to_owned())),
            fits: pem.map(|p| p.map(|p| if role == "key" { holds_key(p) } else { holds_certificate(p) })),
            mode_text: meta.as_ref().map(|m| format!("{:04o}", m.mode & 0o7777)).unwrap_or_default(),
            uid: meta.as_ref().map_or(0, |m| m.uid.into()),
            gid: meta.as_ref().map_or(0, |m| m.gid.into()),
            mtime: meta.as_ref().map_or(0, |m| m.mtime),
            open_to_all: open.map(|access| access == Access::Yes).into(),
            candidate: if missing { self.candidate(role, files, public) } else { None },
        }
    }

    fn state(&self, path: &Path, no_file: bool) -> (Fact<String>, Option<PathBuf>) {
        let user = match &self.user {
            Fact::Known(user) => user,
            Fact::Unknown(why) => return (Fact::Unknown(why.clone()), None),
        };
        if !path.is_absolute() {
            return (Fact::Unknown(format!("{} is relative to where the broker is started", path.display())), None);
        }
        let known = |state: &str| Fact::Known(state.to_owned());
        match access::may(self.host, user, path, READ) {
            Ok(Access::Yes) if no_file => (known("no-file"), None),
            Ok(Access::Yes) => (known("ok"), None),
            Ok(Access::Absent | Access::Circle) => (known("missing"), None),
            Ok(Access::No(by) | Access::Hidden(by)) => (known("unreadable"), Some(by)),
            Err(miss) => (miss.into(), None),
        }
    }

    /// The group of what refuses, if it is kept for readers of keys and its members could read the file.
    fn key_group(&self, path: &Path, refused_by: &Path) -> Option<String> {
        let gid = self.host.stat(refused_by, true).ok()?.gid;
        let groups = host::read_text(self.host, "/etc/group").ok()?;
        let name = groups.lines().find_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            (fields.nth(1)?.parse() == Ok(gid)).then(|| name.to_owned())
        })?;
        let user = self.user.known()?;
        let member = User { uid: user.uid, gids: user.gids.iter().copied().chain([gid]).collect() };
        let could = access::may(self.host, &member, path, READ) == Ok(Access::Yes);
        (could && KEY_GROUPS.contains(&name.as_str())).then_some(name)
    }

    fn stops_boot(&self, named: &Named) -> Fact<bool> {
        match (self.problems, &named.key) {
            (_, None) => Fact::Known(false),
            (Fact::Unknown(why), _) => Fact::Unknown(why.clone()),
            (Fact::Known(all), key) => Fact::Known(all.iter().any(|p| p.fatal && p.code == "missing-file" && p.key == *key)),
        }
    }

    /// Certificates and keys in the directories of a block's files.
    fn beside(&self, files: &Files) -> Vec<(PathBuf, Pem)> {
        let mut found = Vec::new();
        for dir in &files.beside {
            let names = optional(self.host.list(dir)).ok().flatten().unwrap_or_default();
            let others = names.iter().take(MAX_BESIDE).map(|name| dir.join(name)).filter(|path| !files.named.contains(path));
            for path in others {
                let small = self.host.stat(&path, true).is_ok_and(|m| m.kind == Kind::File && m.size <= MAX_SIZE);
                let usable = || self.user.known().is_none_or(|u| access::may(self.host, u, &path, READ) == Ok(Access::Yes));
                if let Some(pem) = (small && usable()).then(|| self.host.pem(&path).ok()).flatten() {
                    found.push((path, pem));
                }
            }
        }
        found
    }

    /// The file that a missing one was most likely meant to be: it fits what the block's other files hold, and no other does.
    fn candidate(&self, role: &str, files: &Files, public: Option<&str>) -> Option<String> {
        let server = files.certificates.first();
        let fits = |pem: &Pem| match role {
            "ca" => server.is_some_and(|server| ders_of(pem).iter().any(|ca| is_authority(ca) && x509::issued_by(server, ca))),
            "key" => public.is_some() && pem.keys.first().is_some_and(|k| k.public.as_deref() == public),
            _ => false,
        };
        one(self.beside(files).into_iter().filter(|(_, pem)| fits(pem)))
    }

    fn cert(&self, der: &[u8], certificate: &Certificate) -> Cert {
        let own = self.addresses();
        Cert {
            subject: certificate.subject.clone(),
            issuer: certificate.issuer.clone(),
            names: certificate.names(),
            not_before: certificate.not_before,
            not_after: certificate.not_after,
            ends: day(certificate.not_after),
            begins: day(certificate.not_before),
            self_signed: certificate.self_issued,
            key: certificate.key.clone(),
            weak: certificate.weak.clone(),
            sha256: host::hex(&Sha256::digest(der)),
            fits_host: self.fits_host(certificate, &own),
            has_address: certificate.addresses.iter().any(|a| own.contains(a)),
        }
    }

    fn addresses(&self) -> Vec<IpAddr> {
        let all = self.around.net.addresses.known().map(Vec::as_slice).unwrap_or_default();
        all.iter().filter(|a| a.scope != "host").filter_map(|a| a.address.split(['%', '/']).next()?.parse().ok()).collect()
    }

    fn fits_host(&self, certificate: &Certificate, own: &[IpAddr]) -> Fact<String> {
        let known = |text: &str| Fact::Known(text.to_owned());
        if certificate.addresses.iter().any(|a| own.contains(a)) || self.own_names(own).iter().any(|n| certificate.is_for(n)) {
            return known("own");
        }
        let mut elsewhere = certificate.addresses.iter().any(|a| !a.is_loopback());
        for name in certificate.dns.iter().filter(|n| !n.starts_with('*') && *n != "localhost").take(MAX_NAMES) {
            let command = Command::Getent { name: name.clone() };
            let Ok(output) = self.host.run(&command) else { return Fact::Unknown(format!("{name} could not be looked up")) };
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let found: Vec<IpAddr> = text.lines().filter_map(|l| l.split_whitespace().next()?.parse().ok()).collect();
            if found.iter().any(|a| own.contains(a)) {
                return known("own");
            }
            elsewhere |= found.iter().any(|a| !a.is_loopback());
        }
        known(if elsewhere { "elsewhere" } else { "foreign" })
    }

    /// What this host is called, by itself.
    fn own_names(&self, own: &[IpAddr]) -> Vec<String> {
        let names = self.around.names;
        let said =
            [names.hostname.known().cloned(), names.static_hostname.known().cloned().flatten(), names.node_host.known().cloned()];
        let hosts = self.host.read(Path::new("/etc/hosts"), host::MAX_FILE).unwrap_or_default();
        let ours = |a: &IpAddr| {
            own.contains(a) || (a.is_loopback() && *a != IpAddr::V4(Ipv4Addr::LOCALHOST) && *a != IpAddr::V6(Ipv6Addr::LOCALHOST))
        };
        let listed = Hosts::parse(&hosts).entries().into_iter().filter(|e| ours(&e.address)).flat_map(|e| e.names);
        said.into_iter().flatten().chain(listed).filter(|n| n != "localhost").collect()
    }

    fn chain(&self, sent: &[Vec<u8>], files: &Files) -> Chain {
        let own: Vec<Vec<u8>> = files.authorities.iter().filter(|der| is_authority(der) || is_root(der)).cloned().collect();
        let mut way = climb(sent, &own);
        if !way.ends_at_root {
            // A certificate of a public authority, where cacertfile is for the clients' certificates.
            let public = self.host.pem(Path::new(PUBLIC)).map(|pem| ders_of(&pem)).unwrap_or_default();
            let other = climb(sent, &public);
            way = if other.ends_at_root { other } else { way };
        }
        let missing = way.missing.clone();
        let issuer_of = way.last.clone();
        let found_in = missing.as_ref().and_then(|_| {
            let issues = |pem: &Pem| {
                let mut all = ders_of(pem);
                all.retain(|ca| is_authority(ca) && !is_root(ca) && x509::issued_by(&issuer_of, ca));
                !all.is_empty()
            };
            one(self.beside(files).into_iter().filter(|(_, pem)| issues(pem)))
        });
        let state = match () {
            () if way.ends_at_root => "complete",
            () if found_in.is_some() => "incomplete",
            () if own.is_empty() || files.for_clients || way.certificates.len() > 1 => "no-authority",
            () => "unknown-root",
        };
        let now = self.around.now;
        let late = way.certificates.iter().skip(1).find(|c| c.not_after < now);
        Chain {
            state: state.to_owned(),
            missing: missing.filter(|_| state != "complete"),
            found_in,
            expired: late.map(|c| format!("{} ended on {}", c.subject, day(c.not_after))),
        }
    }

    fn versions(&self, settings: &TlsSettings) -> Versions {
        let install = self.around.install.known().and_then(Option::as_ref);
        let otp: Option<u32> = install.and_then(|i| i.erlang.known()?.as_ref()?.parse().ok());
        let release = install.map(|i| schemas::numbers(&i.version)).map(|(major, minor, _)| (major, minor));
        let named = settings.versions.as_ref();
        let asked: Vec<&str> = match named {
            Some(named) => named.iter().map(String::as_str).collect(),
            None => {
                KNOWN.iter().take(4).copied().filter(|v| *v != "tlsv1.3" || release.is_none_or(|r| r >= TLS13_SINCE)).collect()
            }
        };
        let works = match otp {
            _ if !settings.ciphers.is_empty() => None,
            Some(otp) if otp <= LEGACY_WORKS_UNTIL => Some(true),
            Some(otp) if otp >= LEGACY_FAILS_SINCE => Some(false),
            _ => None,
        };
        let legacy: Vec<String> = asked.iter().filter(|v| LEGACY.contains(v)).map(|v| (*v).to_owned()).collect();
        let legacy = match (legacy.is_empty(), works) {
            (true, _) | (false, Some(true)) => Fact::Known(legacy),
            (false, Some(false)) => Fact::Known(Vec::new()),
            (false, None) => Fact::Unknown("whether this Erlang has cipher suites for TLS 1.0 and 1.1 is not known".to_owned()),
        };
        let offered = asked.iter().filter(|v| KNOWN.contains(v)).map(|v| (*v).to_owned()).collect();
        Versions {
            set: named.is_some(),
            at: settings.versions_at.clone(),
            offered: Fact::Known(offered),
            legacy,
            unknown: asked.iter().filter(|v| !KNOWN.contains(v)).map(|v| (*v).to_owned()).collect(),
        }
    }

    fn endpoint(&self, listener: &Listener, blocks: &[(Block, Files)]) -> Endpoint {
        let block = blocks.iter().find(|(b, _)| b.services.contains(&listener.service));
        let handshake = match address(listener) {
            Some(to) => Fact::from(self.host.tls(to)).map(|shake| self.shake(&shake, block)),
            None => Fact::Unknown(format!("the listener's address {} is a name", listener.address)),
        };
        Endpoint {
            service: listener.service.clone(),
            address: listener.address.clone(),
            port: listener.port,
            block: block.map(|(b, _)| b.name.clone()),
            handshake,
        }
    }

    fn shake(&self, shake: &Handshake, block: Option<&(Block, Files)>) -> Shake {
        let (outcome, text) = match &shake.end {
            End::Established => ("established", String::new()),
            End::Alert { name } => ("alert", name.clone()),
            End::Refused { why } => ("refused", why.clone()),
            End::Reset => ("reset", String::new()),
            End::Closed => ("closed", String::new()),
            End::Silent => ("silent", String::new()),
            End::NotTls => ("not-tls", String::new()),
            End::NoConnection { why } => ("no-connection", why.clone()),
        };
        let served: Vec<Vec<u8>> = shake.chain.iter().filter_map(|der| host::unhex(der)).collect();
        let first = served.first().and_then(|der| Some((der, Certificate::parse(der)?)));
        let certificate = first.as_ref().map(|(der, c)| self.cert(der, c));
        let in_file = block.and_then(|(b, _)| b.certificate.known()?.as_ref()).map(|c| &c.sha256);
        let same_as_file = certificate.as_ref().zip(in_file).map(|(served, file)| served.sha256 == *file);
        let none = Files {
            certificates: Vec::new(),
            authorities: Vec::new(),
            for_clients: false,
            named: Vec::new(),
            beside: BTreeSet::new(),
        };
        let chain = first.as_ref().map(|_| self.chain(&served, block.map_or(&none, |(_, files)| files)));
        let refused = matches!(outcome, "alert" | "reset" | "closed");
        Shake {
            outcome: outcome.to_owned(),
            text,
            version: shake.version.clone(),
            asks_client: shake.asks_client,
            needs_client: shake.asks_client && refused && shake.key_proven == Some(true),
            certificate,
            chain,
            wrong_key: shake.key_proven == Some(false),
            same_as_file,
        }
    }
}

/// A user that is nobody in particular (the `nobody` of Debian).
const NOBODY: u32 = 65534;

/// Where a listener takes connections from this host.
fn address(listener: &Listener) -> Option<SocketAddr> {
    let port = u16::try_from(listener.port).ok()?;
    let ip = match listener.address.as_str() {
        "auto" | "" | "localhost" => IpAddr::V4(Ipv4Addr::LOCALHOST),
        text => text.parse().ok()?,
    };
    let ip = match ip {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        other => other,
    };
    Some(SocketAddr::new(ip, port))
}

/// `None` inside: no file is named, or it is not there.
fn look(pem: Option<&host::Got<Pem>>) -> Fact<Option<Pem>> {
    match pem {
        None => Fact::Known(None),
        Some(got) => optional(got.clone()).into(),
    }
}

fn ders(pem: &Option<host::Got<Pem>>) -> Vec<Vec<u8>> {
    // A file in DER is no use to Erlang, but what is in it is of use here: all that is wrong is said at once.
    let pem = pem.as_ref().and_then(|got| got.as_ref().ok());
    pem.map(ders_of).unwrap_or_default()
}

fn ders_of(pem: &Pem) -> Vec<Vec<u8>> {
    pem.certificates.iter().filter_map(|hex| host::unhex(hex)).collect()
}

fn holds_key(pem: &Pem) -> bool {
    pem.form == Form::Pem && !pem.keys.is_empty()
}

fn holds_certificate(pem: &Pem) -> bool {
    pem.form == Form::Pem && ders_of(pem).first().is_some_and(|der| Certificate::parse(der).is_some())
}

fn form_text(form: Form) -> &'static str {
    match form {
        Form::Pem => "pem",
        Form::DerCertificate => "der-certificate",
        Form::DerKey => "der-key",
        Form::Pkcs12 => "pkcs12",
        Form::Empty => "empty",
        Form::Text => "text",
        Form::Binary => "binary",
    }
}

fn is_authority(der: &[u8]) -> bool {
    Certificate::parse(der).is_some_and(|c| c.ca)
}

fn is_root(der: &[u8]) -> bool {
    Certificate::parse(der).is_some_and(|c| c.self_issued)
}

/// The only file, or the first of several that hold the same certificates and keys.
fn one(mut found: impl Iterator<Item = (PathBuf, Pem)>) -> Option<String> {
    let (path, pem) = found.next()?;
    found
        .all(|(_, other)| (other.keys == pem.keys) && (other.certificates == pem.certificates))
        .then(|| path.display().to_string())
}

fn is_broken(cipher: &str) -> bool {
    let name = cipher.to_uppercase();
    ["RC4", "DES", "NULL", "EXP", "MD5", "ADH", "AECDH", "ANON"].iter().any(|word| name.contains(word))
}

/// What Erlang sends: the certificate's file, and issuers that it finds in cacertfile.
fn sent(certificates: &[Vec<u8>], authorities: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut all = certificates.to_vec();
    while let Some(last) = all.last().filter(|der| !is_root(der)).cloned() {
        let Some(issuer) = authorities.iter().find(|ca| !all.contains(ca) && x509::issued_by(&last, ca)) else { break };
        all.push(issuer.clone());
    }
    all
}

/// The way up from the first certificate.
struct Way {
    certificates: Vec<Certificate>,
    /// The last one that was found.
    last: Vec<u8>,
    ends_at_root: bool,
    /// Who issued the last one, if that could not be found.
    missing: Option<String>,
}

/// A client's way: by what was sent, to a root that it knows.
fn climb(sent: &[Vec<u8>], roots: &[Vec<u8>]) -> Way {
    let mut way = Way { certificates: Vec::new(), last: Vec::new(), ends_at_root: false, missing: None };
    let Some(mut at) = sent.first().cloned() else { return way };
    for _ in 0..10 {
        let Some(certificate) = Certificate::parse(&at) else { return way };
        let (root, issuer) = (certificate.self_issued, certificate.issuer.clone());
        way.certificates.push(certificate);
        way.last.clone_from(&at);
        if roots.contains(&at) && root {
            way.ends_at_root = true;
            return way;
        }
        if root {
            return way;
        }
        let next = sent.iter().chain(roots.iter().filter(|r| is_root(r))).find(|ca| **ca != at && x509::issued_by(&at, ca));
        match next {
            Some(next) => at.clone_from(next),
            None => {
                way.missing = Some(issuer);
                return way;
            }
        }
    }
    way
}

/// What a client over TLS gets from this host, before AMQP (or whatever it speaks) begins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Secure {
    /// ok | fail | unknown
    pub state: String,
    /// A real handshake showed it, not the files.
    pub proven: bool,
    pub detail: String,
    /// What the client sees if it fails: tls-error | hangs
    pub sees: String,
    /// handshake | key | expired | not-yet-valid | chain | name | weak; null: it does not fail
    pub cause: Option<String>,
    /// SHA-256 of the certificate with which the server proved who it is; null: it did not, or wants a certificate first.
    pub server: Option<String>,
}

impl Secure {
    fn fails(cause: &str, sees: &str, proven: bool, detail: impl Into<String>) -> Secure {
        let (detail, cause) = (detail.into(), Some(cause.to_owned()));
        Secure { state: "fail".into(), proven, detail, sees: sees.into(), cause, server: None }
    }

    fn of(state: &str, proven: bool, detail: impl Into<String>) -> Secure {
        Secure { state: state.into(), proven, detail: detail.into(), sees: "unknown".into(), cause: None, server: None }
    }

    /// A client that trusts the authorities in the broker's own cacertfile, and checks names as OpenSSL does.
    pub fn judge(tls: &Tls, service: &str, port: i64, now: i64) -> Secure {
        let endpoints = match &tls.endpoints {
            Fact::Known(endpoints) => endpoints,
            Fact::Unknown(why) => return Secure::of("unknown", false, why.clone()),
        };
        match endpoints.iter().find(|e| e.port == port && e.service == service).map(|e| &e.handshake) {
            None => Secure::of("unknown", false, "not reached: nothing to shake hands with"),
            Some(Fact::Unknown(why)) => Secure::of("unknown", false, why.clone()),
            Some(Fact::Known(shake)) => shake.judge(now),
        }
    }
}

impl Shake {
    fn judge(&self, now: i64) -> Secure {
        if self.wrong_key {
            return Secure::fails("key", "tls-error", true, "the server does not hold the key of the certificate that it shows");
        }
        match self.outcome.as_str() {
            "established" => {}
            "alert" | "reset" | "closed" if self.needs_client => {}
            "alert" => {
                return Secure::fails("handshake", "tls-error", true, format!("the handshake ends with the alert {}", self.text));
            }
            "closed" => {
                return Secure::fails("handshake", "tls-error", true, "the broker closes the connection during the handshake");
            }
            "reset" => {
                return Secure::fails("handshake", "tls-error", true, "the broker resets the connection during the handshake");
            }
            "silent" => return Secure::fails("handshake", "hangs", true, "the handshake gets no answer"),
            "not-tls" => return Secure::fails("handshake", "tls-error", true, "what answers does not speak TLS"),
            _ => return Secure::of("unknown", false, self.text.clone()),
        }
        let Some(certificate) = &self.certificate else {
            return Secure::of("unknown", false, "the certificate could not be read");
        };
        certificate.judge(self.chain.as_ref(), now).unwrap_or_else(|| {
            let version = self.version.as_deref().unwrap_or("TLS");
            let clients = if self.needs_client { "; clients need a certificate" } else { "" };
            let detail =
                format!("{version}, certificate of {} until {}{clients}", certificate.names.join(", "), certificate.ends);
            let server = Some(certificate.sha256.clone()).filter(|_| !self.needs_client);
            Secure { server, ..Secure::of("ok", true, detail) }
        })
    }
}

impl Cert {
    /// What a client makes of it; `None`: it takes it.
    fn judge(&self, chain: Option<&Chain>, now: i64) -> Option<Secure> {
        let fails = |cause: &str, detail: String| Some(Secure::fails(cause, "tls-error", false, detail));
        if self.not_after < now {
            return fails("expired", format!("the certificate ended on {}", self.ends));
        }
        if self.not_before > now {
            return fails("not-yet-valid", format!("the certificate begins on {}", self.begins));
        }
        if let Some(late) = chain.and_then(|c| c.expired.as_ref()) {
            return fails("expired", late.clone());
        }
        if let Some(weak) = &self.weak {
            return fails("weak", format!("clients of today's defaults refuse it: {weak}"));
        }
        let missing = chain.and_then(|c| c.missing.as_deref()).unwrap_or(&self.issuer);
        match chain.map(|c| c.state.as_str()) {
            Some("incomplete") => return fails("chain", format!("the intermediate certificate {missing} is not sent")),
            Some("unknown-root") => {
                return fails("chain", format!("{missing}, who issued it, is neither sent nor in the broker's cacertfile"));
            }
            Some("no-authority") => {
                return Some(Secure::of(
                    "unknown",
                    false,
                    format!("whether clients know {missing}, who issued it, cannot be told here"),
                ));
            }
            _ => {}
        }
        match &self.fits_host {
            Fact::Known(fits) if fits == "foreign" => {
                fails("name", format!("the certificate is for {} only", self.names.join(", ")))
            }
            Fact::Known(fits) if fits == "elsewhere" => Some(Secure::of(
                "unknown",
                false,
                format!(
                    "the certificate is for {}, which is not this host: clients have to come by that name",
                    self.names.join(", ")
                ),
            )),
            Fact::Unknown(why) => Some(Secure::of("unknown", false, why.clone())),
            Fact::Known(_) => None,
        }
    }
}

/// `2026-11-29`
fn day(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds).map_or_else(|_| seconds.to_string(), |t| t.strftime("%Y-%m-%d").to_string())
}

#[cfg(test)]
mod tests {
    use super::super::net::Address;
    use super::*;
    use crate::host::fake::Fake;
    use crate::host::pem::tests::{EC_KEY, LOCKED_KEY};

    const CA: &str = include_str!("../host/testdata/ca.pem");
    const ISSUER: &str = include_str!("../host/testdata/int.pem");
    const LEAF: &str = include_str!("../host/testdata/leaf.pem");
    const KEY: &str = include_str!("../host/testdata/leaf.key");
    const RABBIT: (u32, u32) = (104, 109);

    fn host(certificate: &str, key: &str, ca: &str) -> Fake {
        Fake::new()
            .dir("/usr/lib/rabbitmq/lib/rabbitmq_server-4.0.5/plugins", 0o755, 0, 0)
            .dir("/usr/lib/erlang/releases/27", 0o755, 0, 0)
            .file("/etc/passwd", "rabbitmq:x:104:109::/var/lib/rabbitmq:/bin/sh\n")
            .file("/etc/group", "ssl-cert:x:110:\nrabbitmq:x:109:\n")
            .file("/etc/hosts", "127.0.1.1 mq1\n")
            .file("/etc/tls/server.pem", certificate)
            .file_with("/etc/tls/server.key", key, 0o640, 0, RABBIT.1)
            .file("/etc/tls/ca.pem", ca)
    }

    fn settings() -> TlsSettings {
        let at = || Where { file: "/etc/rabbitmq/rabbitmq.conf".into(), line: Some(1), column: Some(1) };
        let named = |path: &str, key: &str| Some(Named { path: path.into(), key: Some(key.into()), at: at() });
        TlsSettings {
            block: "ssl_options".into(),
            services: vec!["amqps".into()],
            source: "conf".into(),
            certificate: named("/etc/tls/server.pem", "ssl_options.certfile"),
            key: named("/etc/tls/server.key", "ssl_options.keyfile"),
            ca: named("/etc/tls/ca.pem", "ssl_options.cacertfile"),
            inline: false,
            password: false,
            verify_peer: false,
            requires_client: false,
            requires_client_at: None,
            versions: None,
            versions_at: None,
            ciphers: Vec::new(),
        }
    }

    fn looked(host: &Fake, settings: TlsSettings, handshake: Option<Handshake>) -> Tls {
        let address = Address {
            interface: "eth0".into(),
            address: "10.0.0.5".into(),
            prefix: 24,
            v6: false,
            up: true,
            scope: "global".into(),
        };
        let net = Net { addresses: Fact::Known(vec![address]), ..Net::blank("test") };
        let names = Names { hostname: Fact::Known("mq1".into()), ..Names::blank("test") };
        let install = super::super::os::collect_install(host);
        let around = Around { install: &install, names: &names, net: &net, now: 1_800_000_000 };
        let mut conf = Conf::blank("test");
        conf.tls = Fact::Known(vec![settings]);
        conf.problems = Fact::Known(Vec::new());
        let listener = Listener {
            service: "amqps".into(),
            address: "auto".into(),
            port: 5671,
            key: None,
            at: None,
            source: "conf".into(),
            state: Fact::Known("listening".into()),
            holder: None,
            loopback: false,
            address_missing: Fact::Known(false),
            overlaps: false,
        };
        let open = handshake.is_some();
        let host = handshake.into_iter().fold(host.clone(), |host, h| host.handshake("127.0.0.1:5671".parse().unwrap(), h));
        collect(&host, &around, &conf, &Fact::Known(if open { vec![listener] } else { Vec::new() }))
    }

    fn block(host: &Fake) -> Block {
        looked(host, settings(), None).blocks.known().unwrap()[0].clone()
    }

    fn chain(host: &Fake) -> Chain {
        block(host).chain.known().cloned().flatten().unwrap()
    }

    fn file(host: &Fake, role: &str) -> File {
        looked(host, settings(), None).files.known().unwrap().iter().find(|f| f.role == role).cloned().unwrap()
    }

    fn known<T>(value: T) -> Fact<T> {
        Fact::Known(value)
    }

    #[test]
    fn files_that_fit_together() {
        let host = host(&format!("{LEAF}{ISSUER}"), KEY, CA);
        let block = block(&host);
        assert_eq!((block.key_matches, block.key_encrypted), (known(Some(true)), known(Some(false))));
        let certificate = block.certificate.known().cloned().flatten().unwrap();
        assert_eq!(
            (certificate.names, certificate.fits_host),
            (vec!["mq1".to_owned(), "10.0.0.5".to_owned()], known("own".to_owned()))
        );
        assert_eq!(chain(&host).state, "complete");
        let key = file(&host, "key");
        assert_eq!((key.state, key.fits, key.open_to_all), (known("ok".to_owned()), known(Some(true)), known(false)));
    }

    #[test]
    fn a_key_of_another_certificate() {
        let host = host(LEAF, EC_KEY, CA).file("/etc/tls/other.key", KEY);
        let block = block(&host);
        assert_eq!((block.key_matches, block.right_key.as_deref()), (known(Some(false)), Some("/etc/tls/other.key")));
    }

    #[test]
    fn an_encrypted_key_cannot_be_compared() {
        let block = block(&host(LEAF, LOCKED_KEY, CA));
        assert_eq!(block.key_encrypted, known(Some(true)));
        assert!(block.key_matches.why().is_some());
    }

    #[test]
    fn intermediates_come_from_either_file_or_are_missing() {
        assert_eq!(chain(&host(LEAF, KEY, &format!("{CA}{ISSUER}"))).state, "complete");
        let alone = chain(&host(LEAF, KEY, CA));
        assert_eq!((alone.state.as_str(), alone.missing.as_deref()), ("unknown-root", Some("CN=Test issuer")));
        let beside = chain(&host(LEAF, KEY, CA).file("/etc/tls/int.pem", ISSUER));
        assert_eq!((beside.state.as_str(), beside.found_in.as_deref()), ("incomplete", Some("/etc/tls/int.pem")));
        // The issuer is sent, its own is a root that need not be: nothing to complain about.
        assert_eq!(chain(&host(&format!("{LEAF}{ISSUER}"), KEY, ISSUER)).state, "no-authority");
    }

    #[test]
    fn what_the_broker_may_not_read_and_what_is_not_there() {
        let locked = host(LEAF, KEY, CA).file_with("/etc/tls/server.key", KEY, 0o600, 0, 0);
        let key = file(&locked, "key");
        assert_eq!((key.state, key.refused_by.as_deref()), (known("unreadable".to_owned()), Some("/etc/tls/server.key")));
        let hidden = host(LEAF, KEY, CA).dir("/etc/tls", 0o710, 0, 110);
        let key = file(&hidden, "certificate");
        assert_eq!((key.refused_by.as_deref(), key.group.as_deref()), (Some("/etc/tls"), Some("ssl-cert")));
        let mut other = settings();
        other.ca = other.ca.map(|ca| Named { path: "/etc/tls/chain.pem".into(), ..ca });
        let moved = looked(&host(&format!("{LEAF}{ISSUER}"), KEY, CA).file("/etc/tls/int.pem", ISSUER), other, None);
        let ca = moved.files.known().unwrap()[2].clone();
        assert_eq!((ca.state, ca.candidate.as_deref()), (known("missing".to_owned()), Some("/etc/tls/int.pem")));
    }

    fn handshake(end: End, chain: &str) -> Handshake {
        let chain = Pem::of(chain.as_bytes()).certificates;
        Handshake { end, version: Some("TLSv1.3".into()), chain, key_proven: Some(true), asks_client: false }
    }

    fn judged(handshake: Handshake, now: i64) -> Secure {
        let host = host(&format!("{LEAF}{ISSUER}"), KEY, CA);
        Secure::judge(&looked(&host, settings(), Some(handshake)), "amqps", 5671, now)
    }

    #[test]
    fn a_handshake_is_judged_as_a_client_would() {
        let now = 1_800_000_000;
        let good = judged(handshake(End::Established, &format!("{LEAF}{ISSUER}")), now);
        assert_eq!((good.state.as_str(), good.proven, good.server.is_some()), ("ok", true, true), "{good:?}");
        let cause = |secure: Secure| (secure.cause.unwrap_or_default(), secure.sees);
        let told = |cause: &str, sees: &str| (cause.to_owned(), sees.to_owned());
        let alone = handshake(End::Established, LEAF);
        assert_eq!(cause(judged(alone.clone(), now)), told("chain", "tls-error"));
        assert_eq!(cause(judged(alone, i64::MAX)), told("expired", "tls-error"));
        let alert = End::Alert { name: "handshake_failure".into() };
        assert_eq!(cause(judged(handshake(alert.clone(), ""), now)), told("handshake", "tls-error"));
        assert_eq!(cause(judged(handshake(End::Reset, ""), now)), told("handshake", "tls-error"));
        let mutual = Handshake { asks_client: true, ..handshake(alert, &format!("{LEAF}{ISSUER}")) };
        let mutual = judged(mutual, now);
        assert_eq!((mutual.state.as_str(), mutual.server), ("ok", None));
        let wrong = Handshake { key_proven: Some(false), ..handshake(End::Refused { why: "x".into() }, LEAF) };
        assert_eq!(cause(judged(wrong, now)), told("key", "tls-error"));
    }

    #[test]
    fn old_versions_depend_on_the_release_of_erlang() {
        let host = host(LEAF, KEY, CA);
        let versions = |host: &Fake, named: &[&str]| {
            let versions = (!named.is_empty()).then(|| named.iter().map(|v| (*v).to_owned()).collect());
            looked(host, TlsSettings { versions, ..settings() }, None).blocks.known().unwrap()[0].versions.clone()
        };
        assert_eq!(versions(&host, &["tlsv1.2", "tlsv1.1"]).legacy, known(Vec::new()));
        let older = Fake::new()
            .dir("/usr/lib/rabbitmq/lib/rabbitmq_server-3.8.9/plugins", 0o755, 0, 0)
            .dir("/usr/lib/erlang/releases/23", 0o755, 0, 0)
            .file("/etc/passwd", "rabbitmq:x:104:109::/:/bin/sh\n");
        assert_eq!(versions(&older, &["tlsv1.2", "tlsv1.1"]).legacy, known(vec!["tlsv1.1".to_owned()]));
        assert_eq!(versions(&older, &[]).offered, known(vec!["tlsv1.2".to_owned(), "tlsv1.1".to_owned(), "tlsv1".to_owned()]));
        assert_eq!(versions(&host, &["TLSv1.2"]).unknown, ["TLSv1.2"]);
    }
}

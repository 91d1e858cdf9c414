//! X.509 certificates as plain data (RFC 5280), and who issued whom.

use std::net::IpAddr;
use x509_parser::certificate::X509Certificate;
use x509_parser::error::X509Error;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;

/// What a certificate says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// `CN=mq1, O=Example`
    pub subject: String,
    pub issuer: String,
    /// DNS names of the subject alternative name; without any, the common name (RFC 6125 6.4.4, as OpenSSL does).
    pub dns: Vec<String>,
    pub addresses: Vec<IpAddr>,
    /// Seconds since the epoch.
    pub not_before: i64,
    /// Seconds since the epoch.
    pub not_after: i64,
    /// Subject and issuer are the same.
    pub self_issued: bool,
    /// Basic constraints say that it may sign certificates; version 1 certificates, which have no such field, count where they are
    /// self-issued.
    pub ca: bool,
    /// `RSA 2048`, `EC 256`, `Ed25519`
    pub key: String,
    /// The bits of the subject's public key, by which a private key is compared.
    pub public_key: Vec<u8>,
    /// Why clients of today's defaults refuse it (OpenSSL security level 2: RSA below 2048 bits, MD5 or SHA-1 signatures).
    pub weak: Option<String>,
}

/// Ends of object identifiers of signatures with MD5 or SHA-1 (RFC 3279, RFC 5758).
const WEAK_SIGNATURES: [(&str, &str); 4] = [
    ("1.2.840.113549.1.1.4", "signed with MD5"),
    ("1.2.840.113549.1.1.5", "signed with SHA-1"),
    ("1.2.840.10045.4.1", "signed with SHA-1"),
    ("1.2.840.10040.4.3", "signed with SHA-1"),
];
/// Bits that an RSA key needs at OpenSSL's security level 2.
const RSA_BITS: usize = 2048;

impl Certificate {
    /// Reads one DER-encoded certificate; `None`: it is none.
    pub fn parse(der: &[u8]) -> Option<Certificate> {
        let (rest, certificate) = X509Certificate::from_der(der).ok()?;
        rest.is_empty().then(|| of(&certificate))
    }

    /// Whether a client that calls the server so takes this certificate for it.
    pub fn is_for(&self, name: &str) -> bool {
        match name.parse::<IpAddr>() {
            Ok(address) => self.addresses.contains(&address),
            Err(_) => self.dns.iter().any(|pattern| covers(pattern, name)),
        }
    }

    /// All names and addresses.
    pub fn names(&self) -> Vec<String> {
        self.dns.iter().cloned().chain(self.addresses.iter().map(IpAddr::to_string)).collect()
    }
}

/// `*.example.org` stands for one label.
fn covers(pattern: &str, name: &str) -> bool {
    let (pattern, name) = (pattern.trim_end_matches('.').to_lowercase(), name.trim_end_matches('.').to_lowercase());
    match pattern.strip_prefix("*.") {
        Some(parent) => name.split_once('.').is_some_and(|(label, rest)| !label.is_empty() && rest == parent),
        None => pattern == name,
    }
}

fn of(certificate: &X509Certificate) -> Certificate {
    let (mut dns, mut addresses, mut ca, mut has_constraints) = (Vec::new(), Vec::new(), false, false);
    for extension in certificate.extensions() {
        match extension.parsed_extension() {
            ParsedExtension::SubjectAlternativeName(names) => {
                for name in &names.general_names {
                    match name {
                        GeneralName::DNSName(name) => dns.push((*name).to_owned()),
                        GeneralName::IPAddress(bytes) => addresses.extend(address(bytes)),
                        _ => {}
                    }
                }
            }
            ParsedExtension::BasicConstraints(constraints) => (ca, has_constraints) = (constraints.ca, true),
            _ => {}
        }
    }
    if dns.is_empty() {
        dns.extend(certificate.subject().iter_common_name().filter_map(|cn| cn.as_str().ok()).map(str::to_owned));
    }
    let self_issued = certificate.subject().as_raw() == certificate.issuer().as_raw();
    let bits = rsa_bits(certificate);
    let signature = certificate.signature_algorithm.algorithm.to_id_string();
    let weak_signature = || {
        let found = WEAK_SIGNATURES.iter().find(|(oid, _)| *oid == signature);
        // Nobody looks at the signature of a root: it is trusted as it is.
        found.filter(|_| !self_issued).map(|(_, what)| (*what).to_owned())
    };
    Certificate {
        subject: certificate.subject().to_string(),
        issuer: certificate.issuer().to_string(),
        dns,
        addresses,
        not_before: certificate.validity().not_before.timestamp(),
        not_after: certificate.validity().not_after.timestamp(),
        self_issued,
        ca: ca || (self_issued && !has_constraints),
        key: key(certificate),
        public_key: certificate.public_key().subject_public_key.data.to_vec(),
        weak: bits.filter(|bits| *bits < RSA_BITS).map(|bits| format!("RSA key of {bits} bits")).or_else(weak_signature),
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

fn rsa_bits(certificate: &X509Certificate) -> Option<usize> {
    match certificate.public_key().parsed() {
        Ok(PublicKey::RSA(key)) => Some(key.key_size()),
        _ => None,
    }
}

fn key(certificate: &X509Certificate) -> String {
    match certificate.public_key().parsed() {
        Ok(PublicKey::RSA(key)) => format!("RSA {}", key.key_size()),
        Ok(PublicKey::EC(point)) => format!("EC {}", point.key_size()),
        _ if certificate.public_key().algorithm.algorithm.to_id_string() == "1.3.101.112" => "Ed25519".to_owned(),
        _ => certificate.public_key().algorithm.algorithm.to_id_string(),
    }
}

/// Whether the key of a certificate (DER) is an RSA key that few libraries still check signatures of.
pub fn has_short_key(certificate: &[u8]) -> bool {
    X509Certificate::from_der(certificate).is_ok_and(|(_, c)| rsa_bits(&c).is_some_and(|bits| bits < RSA_BITS))
}

/// Whether `issuer` signed `certificate` (both DER). Of a signature by an algorithm that cannot be checked here the names decide.
pub fn issued_by(certificate: &[u8], issuer: &[u8]) -> bool {
    let (Ok((_, certificate)), Ok((_, issuer))) = (X509Certificate::from_der(certificate), X509Certificate::from_der(issuer))
    else {
        return false;
    };
    if certificate.issuer().as_raw() != issuer.subject().as_raw() {
        return false;
    }
    // The library checks neither RSA keys below 2048 bits nor the curves and hashes of few.
    let checkable = rsa_bits(&issuer).is_none_or(|bits| bits >= RSA_BITS);
    match certificate.verify_signature(Some(issuer.public_key())) {
        Ok(()) => true,
        Err(X509Error::SignatureVerificationError) => !checkable,
        Err(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_stand_for_one_label() {
        assert!(covers("*.example.org", "mq1.Example.org") && covers("mq1", "MQ1"));
        assert!(!covers("*.example.org", "a.mq1.example.org") && !covers("*.example.org", "example.org"));
    }

    #[test]
    fn what_is_no_certificate_is_none() {
        assert_eq!(Certificate::parse(b"\x30\x03\x02\x01\x00"), None);
        assert!(!issued_by(b"", b"x"));
    }
}

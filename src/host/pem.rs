//! Files of certificates and keys. What leaves here of a private key is its public half: key material is neither shown nor recorded.

use super::hex;
use rustls::crypto::ring::sign::any_eddsa_type;
use rustls::pki_types::PrivatePkcs8KeyDer;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use x509_parser::asn1_rs::{Any, FromDer, Tag};
use x509_parser::x509::SubjectPublicKeyInfo;

/// Largest file that is read, in bytes: the bundle of all public authorities is a quarter of it.
pub const MAX: u64 = 1024 * 1024;
/// Most blocks of one file that are looked at.
const MAX_BLOCKS: usize = 1000;

/// What a file holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pem {
    pub form: Form,
    /// DER of each certificate, as hexadecimal digits.
    pub certificates: Vec<String>,
    pub keys: Vec<Key>,
    /// A block that begins and does not end, or whose text is no base64.
    pub broken: bool,
}

/// What kind of file it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Form {
    /// It has a line `-----BEGIN …`.
    Pem,
    /// One DER-encoded certificate.
    DerCertificate,
    /// One DER-encoded private key.
    DerKey,
    Pkcs12,
    Empty,
    /// Text without a PEM block.
    Text,
    Binary,
}

/// A private key, seen from outside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key {
    pub encrypted: bool,
    /// SHA-256 of the public key's bits, as hexadecimal digits; `None`: it cannot be told.
    pub public: Option<String>,
}

/// The fingerprint by which keys are compared: SHA-256 of the bits of a public key (RFC 5280 subjectPublicKey).
pub fn fingerprint(bits: &[u8]) -> String {
    hex(&Sha256::digest(bits))
}

impl Pem {
    /// Looks at the bytes of a file.
    pub fn of(bytes: &[u8]) -> Pem {
        let mut pem = Pem { form: form(bytes), certificates: Vec::new(), keys: Vec::new(), broken: false };
        match pem.form {
            Form::Pem => pem.read(bytes),
            Form::DerCertificate => pem.certificates.push(hex(bytes)),
            Form::DerKey => pem.keys.push(Key { encrypted: false, public: public_of(bytes) }),
            _ => {}
        }
        pem
    }

    fn read(&mut self, bytes: &[u8]) {
        let text = String::from_utf8_lossy(bytes);
        let mut lines = text.lines();
        for _ in 0..MAX_BLOCKS {
            let Some(label) = lines.by_ref().find_map(|line| label(line, "-----BEGIN ")) else { return };
            let end = format!("-----END {label}-----");
            let mut body = String::new();
            let (mut encrypted, mut ended) = (label.starts_with("ENCRYPTED"), false);
            for line in lines.by_ref().map(str::trim) {
                match line {
                    _ if line == end => {
                        ended = true;
                        break;
                    }
                    // Headers of the older form of keys (RFC 1421).
                    _ if line.contains(':') => encrypted |= line.starts_with("Proc-Type:") && line.contains("ENCRYPTED"),
                    _ => body.push_str(line),
                }
            }
            let der = data_encoding::BASE64.decode(body.as_bytes()).ok().filter(|_| ended);
            self.broken |= der.is_none();
            let Some(der) = der else { continue };
            if label.ends_with("PRIVATE KEY") {
                self.keys.push(Key { encrypted, public: if encrypted { None } else { public_of(&der) } });
            } else if label == "CERTIFICATE" {
                self.certificates.push(hex(&der));
            }
        }
    }
}

/// `CERTIFICATE` of `-----BEGIN CERTIFICATE-----`
fn label<'a>(line: &'a str, start: &str) -> Option<&'a str> {
    line.trim().strip_prefix(start)?.strip_suffix("-----")
}

fn form(bytes: &[u8]) -> Form {
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Form::Empty;
    }
    if bytes.windows(11).any(|w| w == b"-----BEGIN ") {
        return Form::Pem;
    }
    match Any::from_der(bytes) {
        Ok((rest, any)) if rest.is_empty() && any.tag() == Tag::Sequence => match children(any.data).as_slice() {
            // Certificate ::= SEQUENCE { tbsCertificate SEQUENCE, signatureAlgorithm SEQUENCE, signature BIT STRING }
            [a, b, c] if (a.tag(), b.tag(), c.tag()) == (Tag::Sequence, Tag::Sequence, Tag::BitString) => Form::DerCertificate,
            // PFX ::= SEQUENCE { version INTEGER (3), authSafe, … }
            [version, ..] if version.tag() == Tag::Integer && version.data == [3] => Form::Pkcs12,
            [version, ..] if version.tag() == Tag::Integer => Form::DerKey,
            _ => Form::Binary,
        },
        _ if std::str::from_utf8(bytes).is_ok_and(|t| !t.contains('\0')) => Form::Text,
        _ => Form::Binary,
    }
}

fn children(mut bytes: &[u8]) -> Vec<Any<'_>> {
    let mut all = Vec::new();
    while let Ok((rest, any)) = Any::from_der(bytes) {
        all.push(any);
        bytes = rest;
        if all.len() == 16 {
            break;
        }
    }
    all
}

/// The public half of a key in DER: PKCS#8 (RFC 5958), PKCS#1 (RFC 8017) or SEC 1 (RFC 5915).
fn public_of(der: &[u8]) -> Option<String> {
    let (_, outer) = Any::from_der(der).ok()?;
    match children(outer.data).as_slice() {
        // PrivateKeyInfo ::= SEQUENCE { version, algorithm SEQUENCE { OID, … }, privateKey OCTET STRING }
        [_, algorithm, key, ..] if algorithm.tag() == Tag::Sequence && key.tag() == Tag::OctetString => {
            match children(algorithm.data).first()?.clone().oid().ok()?.to_id_string().as_str() {
                "1.3.101.112" => ed25519(der),
                _ => public_of(key.data),
            }
        }
        // RSAPrivateKey ::= SEQUENCE { version, modulus, publicExponent, … }
        [_, modulus, exponent, ..] if modulus.tag() == Tag::Integer && exponent.tag() == Tag::Integer => {
            Some(fingerprint(&sequence(&[integer(modulus.data), integer(exponent.data)].concat())))
        }
        // ECPrivateKey ::= SEQUENCE { version, privateKey OCTET STRING, [0] parameters, [1] publicKey BIT STRING }
        [_, private, rest @ ..] if private.tag() == Tag::OctetString => {
            let public = rest.iter().find(|any| any.tag() == Tag(1))?;
            let (_, bits) = Any::from_der(public.data).ok()?;
            // The first byte of a bit string tells how many bits of the last are unused.
            Some(fingerprint(bits.data.get(1..)?))
        }
        _ => None,
    }
}

fn ed25519(pkcs8: &[u8]) -> Option<String> {
    let key = any_eddsa_type(&PrivatePkcs8KeyDer::from(pkcs8.to_vec())).ok()?;
    let info = key.public_key()?;
    let (_, info) = SubjectPublicKeyInfo::from_der(info.as_ref()).ok()?;
    Some(fingerprint(&info.subject_public_key.data))
}

fn integer(content: &[u8]) -> Vec<u8> {
    element(0x02, content)
}

fn sequence(content: &[u8]) -> Vec<u8> {
    element(0x30, content)
}

/// Tag, length (X.690 8.1.3) and content.
fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len();
    let mut all = vec![tag];
    if length < 128 {
        all.push(length as u8);
    } else {
        let bytes: Vec<u8> = length.to_be_bytes().into_iter().skip_while(|b| *b == 0).collect();
        all.push(0x80 | bytes.len() as u8);
        all.extend(bytes);
    }
    all.extend(content);
    all
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::formats::x509::Certificate;

    // Made with openssl for these tests alone; the keys protect nothing.
    pub const EC_KEY: &str = include_str!("testdata/ec.key");
    pub const EC_CERT: &str = include_str!("testdata/ec.pem");
    pub const RSA_KEY: &str = include_str!("testdata/rsa.key");
    pub const RSA_OLD_KEY: &str = include_str!("testdata/rsa-pkcs1.key");
    pub const RSA_CERT: &str = include_str!("testdata/rsa.pem");
    pub const ED_KEY: &str = include_str!("testdata/ed25519.key");
    pub const ED_CERT: &str = include_str!("testdata/ed25519.pem");
    pub const LOCKED_KEY: &str = include_str!("testdata/locked.key");
    pub const LOCKED_OLD_KEY: &str = include_str!("testdata/locked-pkcs1.key");

    fn certificate(text: &str) -> Certificate {
        let pem = Pem::of(text.as_bytes());
        Certificate::parse(&super::super::unhex(&pem.certificates[0]).unwrap()).unwrap()
    }

    #[test]
    fn a_key_is_compared_by_its_public_half() {
        for (key, cert) in [(EC_KEY, EC_CERT), (RSA_KEY, RSA_CERT), (RSA_OLD_KEY, RSA_CERT), (ED_KEY, ED_CERT)] {
            let public = Pem::of(key.as_bytes()).keys[0].public.clone();
            assert_eq!(public, Some(fingerprint(&certificate(cert).public_key)), "{key}");
        }
        let other = Pem::of(EC_KEY.as_bytes()).keys[0].public.clone();
        assert_ne!(other, Some(fingerprint(&certificate(RSA_CERT).public_key)));
    }

    #[test]
    fn an_encrypted_key_says_so() {
        for key in [LOCKED_KEY, LOCKED_OLD_KEY] {
            assert_eq!(Pem::of(key.as_bytes()).keys, [Key { encrypted: true, public: None }]);
        }
    }

    #[test]
    fn other_forms_are_told_apart() {
        let der = super::super::unhex(&Pem::of(RSA_CERT.as_bytes()).certificates[0]).unwrap();
        assert_eq!(Pem::of(&der).form, Form::DerCertificate);
        assert_eq!(Pem::of(b" \n").form, Form::Empty);
        assert_eq!(Pem::of(b"hello\n").form, Form::Text);
        assert_eq!(Pem::of(b"\0\x01\x02").form, Form::Binary);
        assert_eq!(Pem::of(b"\x30\x03\x02\x01\x03").form, Form::Pkcs12);
        let cut = RSA_CERT.get(..200).unwrap();
        assert!(Pem::of(cut.as_bytes()).broken);
    }

    #[test]
    fn nothing_of_a_key_leaves() {
        let shown = serde_json::to_string(&Pem::of(RSA_KEY.as_bytes())).unwrap();
        assert!(shown.len() < 200, "{shown}");
    }
}

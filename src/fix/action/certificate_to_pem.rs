//! Writes a certificate that is in DER form in PEM form, which is what the broker reads.
use super::{Desk, Proposal, Refusal, UnitNeed, cannot};
use crate::fix::world::FileState;
use crate::host::pem::{Form, Pem};
use serde::Deserialize;
use std::path::PathBuf;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Params {
    path: PathBuf,
}

/// Characters of a line of base64 (RFC 7468).
const WIDTH: usize = 64;

pub fn plan(params: Params, desk: &Desk) -> Result<Proposal, Refusal> {
    let path = params.path;
    desk.own(&path)?;
    let state = desk.file(&path)?.ok_or_else(|| cannot(format!("{}: not there", path.display())))?;
    match Pem::of(&state.content).form {
        Form::DerCertificate => {}
        Form::Pem => return Err(Refusal::Already),
        _ => return Err(cannot(format!("{} holds no certificate", path.display()))),
    }
    let change = desk.put(&path, FileState { content: armoured(&state.content), ..state }, false)?;
    Ok(Proposal {
        changes: vec![change],
        unit: UnitNeed::Restart,
        effects: vec!["restart"],
        summary: format!("{}: the same certificate in PEM form", path.display()),
        claims: vec![(format!("form of {}", path.display()), "pem".into())],
        ..Proposal::default()
    })
}

fn armoured(der: &[u8]) -> Vec<u8> {
    let text = data_encoding::BASE64.encode(der);
    let mut out = b"-----BEGIN CERTIFICATE-----\n".to_vec();
    for line in text.as_bytes().chunks(WIDTH) {
        out.extend(line);
        out.push(b'\n');
    }
    out.extend(b"-----END CERTIFICATE-----\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_certificate_stays_the_same() {
        let der: Vec<u8> = [&b"\x30\x09\x30\x00\x30\x00\x03\x03\x00\x01\x02"[..]].concat();
        assert_eq!(Pem::of(&der).form, Form::DerCertificate);
        let pem = Pem::of(&armoured(&der));
        assert_eq!((pem.form, pem.certificates), (Form::Pem, Pem::of(&der).certificates));
    }
}

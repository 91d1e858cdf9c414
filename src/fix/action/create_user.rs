//! Creates the user that a client was told to use, with a password from a file or a generated one.
use super::{Desk, Proposal, Refusal, broker, cannot, grant_permission::grant};
use crate::facts::broker::Permission;
use crate::fix::world::{FileMeta, FileState};
use crate::host::rpc::Mutation;
use serde::Deserialize;
use std::path::{Path, PathBuf};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Params {
    /// Name of the client in the intent; left out: the one that names a user.
    #[serde(default)]
    client: Option<String>,
    /// The user, where the rule knows it.
    #[serde(default)]
    name: Option<String>,
    /// Only checked against the intent.
    #[serde(default)]
    vhost: Option<String>,
}

/// Characters of a generated password: 24 of 62 are 142 bits.
const LENGTH: usize = 24;

pub fn plan(params: Params, desk: &Desk) -> Result<Proposal, Refusal> {
    let needs = || Refusal::Needs(vec![format!("--user {}", params.name.as_deref().unwrap_or("NAME"))]);
    let matching = |client: &&crate::policy::ClientIntent| {
        let user = params.name.as_ref().is_none_or(|user| client.user.as_ref() == Some(user));
        user && params.vhost.as_ref().is_none_or(|vhost| client.vhost == *vhost)
    };
    let by_user = || desk.intent.clients.iter().find(matching);
    let client = match (&params.client, &params.name) {
        (None, Some(_)) => by_user(),
        (client, _) => desk.client(client.as_deref()),
    };
    let client = client.ok_or_else(needs)?;
    let name = client.user.clone().ok_or_else(needs)?;
    let node = desk.node()?;
    let users = node.users.known().ok_or_else(|| cannot("the users could not be listed"))?;
    if users.iter().any(|user| user.name == name) {
        // Its password and rights are somebody's: never overwritten.
        return Err(Refusal::Already);
    }
    let mut changes = Vec::new();
    let (password_file, told) = match &client.password_file {
        Some(file) => (file.clone(), exposed(desk, file)?),
        None => {
            let (file, change) = generate(desk, &name)?;
            changes.push(change);
            let told = format!("; password generated into {} (0600)", file.display());
            (file, told)
        }
    };
    let vhost = client.vhost.clone();
    if node.vhosts.known().is_some_and(|vhosts| !vhosts.contains(&vhost)) {
        changes.push(broker(Mutation::AddVhost { name: vhost.clone() }, Mutation::DeleteVhost { name: vhost.clone() }));
    }
    changes.push(broker(Mutation::AddUser { name: name.clone(), password_file }, Mutation::DeleteUser { name: name.clone() }));
    let [configure, write, read] = client.permissions.clone();
    changes.push(grant(&Permission { user: name.clone(), vhost: vhost.clone(), configure, write, read }, None));
    Ok(Proposal {
        summary: format!("create user {name} for vhost {vhost}{told}"),
        claims: vec![(format!("user {name}"), format!("{:?}", client.password_file))],
        changes,
        effects: vec!["adds-access"],
        decided: true,
        ..Proposal::default()
    })
}

/// What is to be said about a password file that others can get at. One that they can write to is refused: they would choose the
/// password.
pub(super) fn exposed(desk: &Desk, file: &Path) -> Result<String, Refusal> {
    // What cannot be looked at (a link, a file that a capture does not hold) is found out when it is read.
    match desk.look.meta(file).unwrap_or(Some(FileMeta { mode: 0o600, uid: 0, gid: 0 })) {
        None => Err(cannot(format!("{}: there is no such password file", file.display()))),
        Some(meta) if meta.mode & 0o002 != 0 => Err(cannot(format!("{} can be written to by everybody", file.display()))),
        Some(meta) if meta.mode & 0o004 != 0 => Ok(format!("; everybody on this host can read {}: chmod 0600", file.display())),
        Some(_) => Ok(String::new()),
    }
}

/// A new password, in a file of root's that is not there yet.
fn generate(desk: &Desk, name: &str) -> Result<(PathBuf, crate::fix::change::Change), Refusal> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || name.starts_with('.') || !name.chars().all(plain) {
        return Err(Refusal::Needs(vec!["--password-file FILE".into()]));
    }
    let file = generated_password_file(name);
    if desk.file(&file)?.is_some() {
        return Err(cannot(format!("{0} is there already: give --password-file {0}, or remove it", file.display())));
    }
    let mut content = password(desk.random)?;
    content.push(b'\n');
    let change = desk.put(&file, FileState { content, meta: FileMeta { mode: 0o600, uid: 0, gid: 0 } }, true)?;
    Ok((file, change))
}

/// Letters and digits, each as likely as any other.
fn password(random: &dyn Fn(&mut [u8]) -> Result<(), crate::fix::world::Trouble>) -> Result<Vec<u8>, Refusal> {
    const ALPHABET: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    let mut password = Vec::with_capacity(LENGTH);
    while password.len() < LENGTH {
        let mut bytes = [0u8; 64];
        random(&mut bytes)?;
        // 248 is the largest multiple of 62 in a byte: what lies above would favour the first letters.
        let letters = bytes.iter().filter(|byte| **byte < 248).map(|byte| ALPHABET[usize::from(*byte % 62)]);
        password.extend(letters.take(LENGTH - password.len()));
    }
    Ok(password)
}

/// Where the password of a user is kept that was created without one.
pub fn generated_password_file(user: &str) -> PathBuf {
    PathBuf::from(format!("/root/rmq-audit-{user}.password"))
}

//! Passwords as RabbitMQ stores them (`rabbit_password.erl`): a salt of four bytes, then H(salt ++ password). Whether a stored one is that
//! of a password that everybody tries first can be told without a login.

use sha2::{Digest, Sha256, Sha512};

/// Passwords that scanners and people try first, beside the user's own name. Each costs one hash per user.
const COMMON: [&str; 24] = [
    "",
    "admin",
    "administrator",
    "guest",
    "rabbit",
    "rabbitmq",
    "rabbitmq123",
    "RabbitMQ",
    "password",
    "Password",
    "password1",
    "passw0rd",
    "P@ssw0rd",
    "changeme",
    "secret",
    "test",
    "root",
    "user",
    "mqadmin",
    "admin123",
    "123",
    "1234",
    "123456",
    "12345678",
];

/// Bytes of salt.
const SALT: usize = 4;

/// H(salt ++ password) by the module that RabbitMQ names; `None`: a module that is not known here.
fn hash(module: &str, salt: &[u8], password: &str) -> Option<Vec<u8>> {
    Some(match module {
        "rabbit_password_hashing_sha256" => Sha256::new().chain_update(salt).chain_update(password).finalize().to_vec(),
        "rabbit_password_hashing_sha512" => Sha512::new().chain_update(salt).chain_update(password).finalize().to_vec(),
        "rabbit_password_hashing_md5" => md5::compute([salt, password.as_bytes()].concat()).to_vec(),
        _ => return None,
    })
}

/// Whether `stored` is the hash of `password`; `None`: hashed in a way that is not known here.
pub fn is(stored: &[u8], module: &str, password: &str) -> Option<bool> {
    let Some((salt, rest)) = stored.split_at_checked(SALT) else { return Some(false) };
    hash(module, salt, password).map(|hash| hash == rest)
}

/// The password behind `stored`, if it is the user's own name or one that is tried first.
pub fn guess<'a>(stored: &[u8], module: &str, user: &'a str) -> Option<&'a str> {
    [user].into_iter().chain(COMMON).find(|password| is(stored, module, password) == Some(true))
}

/// `stored` without what could be found out from it: a password that is guessed at once is hashed again with a salt of zeros, any other hash
/// becomes zeros. Its length stays.
pub fn struck_out(stored: &[u8], module: &str, user: &str) -> Vec<u8> {
    let again = guess(stored, module, user).and_then(|password| hash(module, &[0; SALT], password));
    again.map_or_else(|| vec![0; stored.len()], |hash| [vec![0; SALT], hash].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(module: &str, password: &str) -> Vec<u8> {
        let salt = [1, 2, 3, 4];
        [salt.to_vec(), hash(module, &salt, password).unwrap()].concat()
    }

    #[test]
    fn every_hash_of_rabbitmq_is_tried() {
        for (module, size) in [("sha256", 36), ("sha512", 68), ("md5", 20)] {
            let module = format!("rabbit_password_hashing_{module}");
            let admin = stored(&module, "admin");
            assert_eq!(admin.len(), size);
            assert_eq!((is(&admin, &module, "admin"), is(&admin, &module, "other")), (Some(true), Some(false)));
            assert_eq!(guess(&admin, &module, "ops"), Some("admin"));
            assert_eq!(guess(&stored(&module, "ops"), &module, "ops"), Some("ops"));
            assert_eq!(guess(&stored(&module, "k3yb0ard!"), &module, "ops"), None);
        }
        assert_eq!(is(&[0; 36], "own_hashing", "x"), None);
        assert_eq!(guess(b"", "rabbit_password_hashing_sha256", "x"), None);
    }

    #[test]
    fn what_is_struck_out_still_tells_that_it_was_guessed() {
        let module = "rabbit_password_hashing_sha256";
        let (weak, strong) = (stored(module, "admin"), stored(module, "k3yb0ard!"));
        let left = struck_out(&weak, module, "ops");
        assert_ne!(left, weak);
        assert_eq!(guess(&left, module, "ops"), Some("admin"));
        assert_eq!(struck_out(&strong, module, "ops"), vec![0; 36]);
        assert_eq!(struck_out(b"", module, "ops"), Vec::<u8>::new());
    }
}

//! Bearer tokens: a user's name and an end, sealed with the node's key. Nothing is kept per token. One ends when its time
//! is over, when its user goes, or when the user's password changes.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use waypost_broker::topology::UserView;
use waypost_model::Millis;

/// In the data directory.
const KEY_FILE: &str = "token.key";

/// By it people, and programs that look for leaked secrets, know one.
const PREFIX: &str = "wpt_";

const KEY_BYTES: usize = 32;

/// Makes tokens and knows its own.
#[derive(Debug)]
pub(crate) struct Tokens {
    file: PathBuf,
    /// Made when the first token is.
    key: Mutex<Option<hmac::Key>>,
}

/// A token taken apart; not yet trusted.
#[derive(Debug)]
pub(super) struct Claimed {
    /// Whose it claims to be.
    pub user: String,
    sealed: Vec<u8>,
    seal: Vec<u8>,
}

impl Tokens {
    /// Reads the key of the data directory, if there is one.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    pub(crate) fn open(data_dir: &std::path::Path) -> io::Result<Tokens> {
        let file = data_dir.join(KEY_FILE);
        let key = match std::fs::read(&file) {
            Ok(bytes) if bytes.len() == KEY_BYTES => Some(hmac::Key::new(hmac::HMAC_SHA256, &bytes)),
            // Cut short by a crash before the first token was given out.
            Ok(_) => None,
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        Ok(Tokens { file, key: Mutex::new(key) })
    }

    /// A token for a user, to be taken until `until`.
    ///
    /// # Errors
    /// When the node's key cannot be made.
    pub(super) fn issue(&self, user: &UserView, until: Millis) -> io::Result<String> {
        let key = self.key_for_issue()?;
        let mut sealed = until.0.to_be_bytes().to_vec();
        sealed.extend_from_slice(user.name.as_bytes());
        let seal = hmac::sign(&key, &bound(&sealed, user));
        Ok(format!("{PREFIX}{}.{}", URL_SAFE_NO_PAD.encode(&sealed), URL_SAFE_NO_PAD.encode(seal)))
    }

    fn key_for_issue(&self) -> io::Result<hmac::Key> {
        let mut held = self.key.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(key) = &*held {
            return Ok(key.clone());
        }
        let mut bytes = [0; KEY_BYTES];
        getrandom::fill(&mut bytes).map_err(|e| io::Error::other(e.to_string()))?;
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&self.file)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        let key = hmac::Key::new(hmac::HMAC_SHA256, &bytes);
        *held = Some(key.clone());
        Ok(key)
    }

    /// What seems to be a user's salt where there is no such user: the same each time, and nobody else can tell.
    ///
    /// # Errors
    /// When the node's key cannot be made.
    pub(super) fn decoy_salt(&self, user: &str) -> io::Result<[u8; 16]> {
        let seal = hmac::sign(&self.key_for_issue()?, &[b"salt ", user.as_bytes()].concat());
        seal.as_ref().first_chunk().copied().ok_or_else(|| io::Error::other("a seal is too short"))
    }

    /// Takes a token apart. `None` if it is none or its time is over.
    pub(super) fn read(token: &str, now: Millis) -> Option<Claimed> {
        let (sealed, seal) = token.strip_prefix(PREFIX)?.split_once('.')?;
        let (sealed, seal) = (URL_SAFE_NO_PAD.decode(sealed).ok()?, URL_SAFE_NO_PAD.decode(seal).ok()?);
        let (until, user) = sealed.split_first_chunk::<8>()?;
        if u64::from_be_bytes(*until) <= now.0 {
            return None;
        }
        let user = String::from_utf8(user.to_vec()).ok()?;
        Some(Claimed { user, sealed, seal })
    }

    /// Whether the token was made here for this user, as the user is now.
    pub(super) fn verify(&self, claimed: &Claimed, user: &UserView) -> bool {
        let key = self.key.lock().unwrap_or_else(PoisonError::into_inner).clone();
        key.is_some_and(|key| hmac::verify(&key, &bound(&claimed.sealed, user), &claimed.seal).is_ok())
    }
}

/// What is sealed beside what the token shows: the password, so that a new one ends all tokens.
fn bound(sealed: &[u8], user: &UserView) -> Vec<u8> {
    let mut all = (sealed.len() as u64).to_be_bytes().to_vec();
    all.extend_from_slice(sealed);
    if let Some(password) = &user.spec.password {
        all.extend_from_slice(password.to_base64().as_bytes());
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use waypost_broker::topology::{HashingAlgorithm, PasswordHash, UserLimits, UserSpec};

    fn user(name: &str, password: &str) -> UserView {
        let password = PasswordHash::new(HashingAlgorithm::Sha256, [1, 2, 3, 4], password.as_bytes()).unwrap();
        let spec = UserSpec { password: Some(password), tags: Vec::new(), loopback_only: false };
        UserView { name: name.into(), spec, limits: UserLimits::default() }
    }

    #[test]
    fn a_token_is_for_its_user_its_time_and_its_password() {
        let dir = tempfile::tempdir().unwrap();
        let tokens = Tokens::open(dir.path()).unwrap();
        let ann = user("ann", "secret");
        let token = tokens.issue(&ann, Millis(1000)).unwrap();
        let claimed = Tokens::read(&token, Millis(999)).unwrap();
        assert_eq!(claimed.user, "ann");
        assert!(tokens.verify(&claimed, &ann));
        assert!(!tokens.verify(&claimed, &user("ann", "other")));
        assert!(Tokens::read(&token, Millis(1000)).is_none());

        let again = Tokens::open(dir.path()).unwrap();
        assert!(again.verify(&claimed, &ann), "the key outlives a restart");
        let elsewhere = Tokens::open(tempfile::tempdir().unwrap().path()).unwrap();
        assert!(!elsewhere.verify(&claimed, &ann));
    }

    #[test]
    fn what_is_changed_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let tokens = Tokens::open(dir.path()).unwrap();
        let token = tokens.issue(&user("ann", "secret"), Millis(1000)).unwrap();
        let (sealed, seal) = token.strip_prefix(PREFIX).unwrap().split_once('.').unwrap();
        let mut bytes = URL_SAFE_NO_PAD.decode(sealed).unwrap();
        bytes[7] ^= 0x10;
        let forged = format!("{PREFIX}{}.{seal}", URL_SAFE_NO_PAD.encode(&bytes));
        let claimed = Tokens::read(&forged, Millis(0)).unwrap();
        assert!(!tokens.verify(&claimed, &user("ann", "secret")));
        for bad in ["", "wpt_", "wpt_.", "wpt_AAAA.AAAA", "x"] {
            assert!(Tokens::read(bad, Millis(0)).is_none(), "{bad}");
        }
    }
}

//! Keys, and Z85 (RFC 32), in which they are written.

use std::fmt;

const ALPHABET: &[u8; 85] = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#";
const KEY_BYTES: usize = 32;
const KEY_CHARS: usize = 40;

/// A text that is no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a key has 40 characters of Z85")]
pub struct KeyError;

/// A public key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey(pub(crate) [u8; KEY_BYTES]);

impl PublicKey {
    /// From its octets.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; KEY_BYTES]) -> PublicKey {
        PublicKey(bytes)
    }

    /// Reads it from Z85.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn parse(text: &str) -> Result<PublicKey, KeyError> {
        decode(text).map(PublicKey)
    }

    pub(crate) fn inner(&self) -> crypto_box::PublicKey {
        crypto_box::PublicKey::from(self.0)
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&encode(&self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

/// A secret key. It does not show itself.
#[derive(Clone)]
pub struct SecretKey(crypto_box::SecretKey);

impl SecretKey {
    /// From its octets.
    #[must_use]
    pub fn from_bytes(bytes: [u8; KEY_BYTES]) -> SecretKey {
        SecretKey(crypto_box::SecretKey::from(bytes))
    }

    /// Reads it from Z85.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn parse(text: &str) -> Result<SecretKey, KeyError> {
        decode(text).map(Self::from_bytes)
    }

    /// Its public part.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        PublicKey(*self.0.public_key().as_bytes())
    }

    /// As text, for whoever makes a key and must write it down.
    #[must_use]
    pub fn reveal(&self) -> String {
        encode(&self.0.to_bytes())
    }

    pub(crate) fn inner(&self) -> &crypto_box::SecretKey {
        &self.0
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKey(..)")
    }
}

fn encode(bytes: &[u8; KEY_BYTES]) -> String {
    let mut out = String::with_capacity(KEY_CHARS);
    for group in bytes.chunks_exact(4) {
        let value = group.iter().fold(0u32, |value, &b| (value << 8) | u32::from(b));
        for power in [52_200_625, 614_125, 7_225, 85, 1] {
            let digit = (value / power % 85) as usize;
            out.push(char::from(ALPHABET.get(digit).copied().unwrap_or(b'0')));
        }
    }
    out
}

fn decode(text: &str) -> Result<[u8; KEY_BYTES], KeyError> {
    if text.len() != KEY_CHARS {
        return Err(KeyError);
    }
    let mut out = [0; KEY_BYTES];
    for (group, to) in text.as_bytes().chunks_exact(5).zip(out.chunks_exact_mut(4)) {
        let mut value = 0u64;
        for &c in group {
            let digit = ALPHABET.iter().position(|&one| one == c).ok_or(KeyError)?;
            value = value * 85 + digit as u64;
        }
        to.copy_from_slice(&u32::try_from(value).map_err(|_| KeyError)?.to_be_bytes());
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    // The pair of the libzmq manual's zmq_curve(7).
    const PUBLIC: &str = "Yne@$w-vo<fVvi]a<NY6T1ed:M$fCG*[IaLV{hID";
    const SECRET: &str = "D:)Q[IlAW!ahhC2ac:9*A}h:p?([4%wOTJ%JR%cs";

    #[test]
    fn the_manuals_pair_belongs_together() {
        let secret = SecretKey::parse(SECRET).unwrap();
        assert_eq!(secret.public().to_string(), PUBLIC);
        assert_eq!(secret.reveal(), SECRET);
        assert_eq!(PublicKey::parse(PUBLIC).unwrap(), secret.public());
    }

    #[test]
    fn a_secret_does_not_show_itself() {
        assert_eq!(format!("{:?}", SecretKey::parse(SECRET).unwrap()), "SecretKey(..)");
    }

    #[test]
    fn what_is_no_key_is_refused() {
        assert!(PublicKey::parse("short").is_err());
        assert!(PublicKey::parse(&"#".repeat(40)).is_err());
        assert!(PublicKey::parse(&" ".repeat(40)).is_err());
    }
}

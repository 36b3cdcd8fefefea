//! Keys by which users show that they know their password without saying it (RFC 5802). They are made where passwords
//! are set, and are worth nothing without the password to whoever steals them.

use std::sync::Arc;

use waypost_model::Refusal;

use super::{Change, Topology, definitions};

/// Fewest and most rounds of hashing: as Kafka's.
pub const ITERATIONS: std::ops::RangeInclusive<u32> = 4096..=16384;
/// Longest salt, bytes.
pub const SALT_BYTES_MAX: usize = 255;

/// A mechanism.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ScramMechanism {
    /// SCRAM-SHA-256
    Sha256,
    /// SCRAM-SHA-512
    Sha512,
}

impl ScramMechanism {
    /// Both.
    pub const ALL: [ScramMechanism; 2] = [Self::Sha256, Self::Sha512];

    /// As SASL names it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sha256 => "SCRAM-SHA-256",
            Self::Sha512 => "SCRAM-SHA-512",
        }
    }

    /// The mechanism of a name.
    #[must_use]
    pub fn parse(name: &str) -> Option<ScramMechanism> {
        Self::ALL.into_iter().find(|m| m.as_str() == name)
    }

    /// Bytes of a hash.
    #[must_use]
    pub const fn bytes(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha512 => 64,
        }
    }
}

/// A user's keys for one mechanism.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScramKeys {
    /// For which mechanism.
    pub mechanism: ScramMechanism,
    /// Rounds of hashing.
    pub iterations: u32,
    /// What the password was salted with.
    pub salt: Box<[u8]>,
    /// What a client's proof is held against.
    pub stored_key: Box<[u8]>,
    /// What the server proves itself with.
    pub server_key: Box<[u8]>,
}

impl ScramKeys {
    pub(crate) fn is_sound(&self) -> bool {
        let hash = self.mechanism.bytes();
        ITERATIONS.contains(&self.iterations)
            && (1..=SALT_BYTES_MAX).contains(&self.salt.len())
            && self.stored_key.len() == hash
            && self.server_key.len() == hash
    }
}

impl Topology {
    /// The keys of a user for a mechanism.
    #[must_use]
    pub fn scram(&self, user: &str, mechanism: ScramMechanism) -> Option<ScramKeys> {
        self.users.get(user)?.scram.iter().find(|k| k.mechanism == mechanism).cloned()
    }

    /// All that have keys, by name: mechanisms and rounds.
    #[must_use]
    pub fn scram_users(&self) -> Vec<(Arc<str>, Vec<(ScramMechanism, u32)>)> {
        let with_keys = self.users.values().filter(|u| !u.scram.is_empty());
        with_keys
            .map(|u| (Arc::clone(&u.name), u.scram.iter().map(|k| (k.mechanism, k.iterations)).collect()))
            .collect()
    }

    /// Gives a user keys, in the place of those of the same mechanism.
    ///
    /// # Errors
    /// 404 (user), 406 (keys that are none).
    pub fn put_scram(&mut self, user: &str, keys: ScramKeys) -> Result<Change, Refusal> {
        if !keys.is_sound() {
            return Err(Refusal::precondition_failed("these are no keys of SCRAM"));
        }
        let user = self.user_mut(user)?;
        let change = Change::define(definitions::put_scram(&user.name, &keys));
        user.scram.retain(|k| k.mechanism != keys.mechanism);
        user.scram.push(keys);
        user.scram.sort_by_key(|k| k.mechanism);
        Ok(change)
    }

    /// Takes a user's keys for a mechanism away.
    ///
    /// # Errors
    /// 404.
    pub fn delete_scram(&mut self, user: &str, mechanism: ScramMechanism) -> Result<Change, Refusal> {
        let user = self.user_mut(user)?;
        if !user.scram.iter().any(|k| k.mechanism == mechanism) {
            let (name, mechanism) = (&user.name, mechanism.as_str());
            return Err(Refusal::not_found(format!("user '{name}' has no keys for {mechanism}")));
        }
        user.scram.retain(|k| k.mechanism != mechanism);
        Ok(Change::define(definitions::remove_scram(&user.name, mechanism.as_str())))
    }
}

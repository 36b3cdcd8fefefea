//! Users: who may come in, and how many times.

use std::sync::atomic::Ordering;

use waypost_model::{Lsn, Millis, Refusal};

use crate::broker::Broker;
use crate::topology::{HashingAlgorithm, PasswordHash, ScramKeys, Topology, UserLimits, UserSpec, UserView};

/// What becomes of a user's password.
#[derive(Clone, PartialEq, Eq)]
pub enum NewPassword<'a> {
    /// As it is. A user that is not there yet needs one of the others.
    Keep,
    /// None: only a certificate lets the user in.
    Clear,
    /// This one, to be hashed.
    Plain(&'a [u8]),
    /// This hash.
    Hash(PasswordHash),
}

/// What is to change of a user, or what a new one is.
#[derive(Clone, PartialEq, Eq)]
pub struct UserUpdate<'a> {
    /// The password.
    pub password: NewPassword<'a>,
    /// The tags; `None` leaves them (a new user has none).
    pub tags: Option<Vec<String>>,
    /// Whether the user may come from this machine only; `None` leaves it (a new user may come from everywhere).
    pub loopback_only: Option<bool>,
}

impl Broker {
    /// Lets somebody in who says his name and password.
    ///
    /// # Errors
    /// 403. The text is for the log: tell a peer no more than that it was refused.
    pub fn login(&self, user: &str, password: &[u8], loopback: bool) -> Result<UserView, Refusal> {
        let t = self.topology_read();
        let verdict = t.authenticate(user, password, loopback);
        let found = verdict.and_then(|()| t.user_view(user).ok_or_else(|| no_user(user)));
        drop(t);
        found.inspect_err(|_| {
            self.counters.authentication_failures.fetch_add(1, Ordering::Relaxed);
        })
    }

    /// The users, in order of name.
    #[must_use]
    pub fn users(&self) -> Vec<UserView> {
        self.topology_read().users()
    }

    /// One user.
    ///
    /// # Errors
    /// 404.
    pub fn user(&self, name: &str) -> Result<UserView, Refusal> {
        self.topology_read().user_view(name).ok_or_else(|| no_user(name))
    }

    /// Hashes a password as users' passwords are kept, with fresh salt.
    ///
    /// # Errors
    /// 406 if it is empty.
    pub fn hash_password(&self, password: &[u8], now: Millis) -> Result<PasswordHash, Refusal> {
        hash(&self.topology_read(), password, now)
    }

    /// Creates a user, or changes one; permissions and limits stay.
    ///
    /// # Errors
    /// 406.
    pub fn put_user(&self, name: &str, update: &UserUpdate<'_>, now: Millis) -> Result<Option<Lsn>, Refusal> {
        self.put_user_with(name, update, Vec::new(), now)
    }

    /// The same, with the keys of SCRAM that belong to the password.
    ///
    /// # Errors
    /// 406.
    pub fn put_user_with(
        &self,
        name: &str,
        update: &UserUpdate<'_>,
        scram: Vec<ScramKeys>,
        now: Millis,
    ) -> Result<Option<Lsn>, Refusal> {
        self.set(now, |t| {
            let old = t.user_view(name).map(|u| u.spec);
            let password = match &update.password {
                NewPassword::Keep => match &old {
                    Some(old) => old.password.clone(),
                    None => {
                        return Err(Refusal::precondition_failed(format!("user '{name}' is new and needs a password")));
                    }
                },
                NewPassword::Clear => None,
                NewPassword::Plain(plain) => Some(hash(t, plain, now)?),
                NewPassword::Hash(hash) => Some(hash.clone()),
            };
            let (tags, loopback_only) = old.map(|o| (o.tags, o.loopback_only)).unwrap_or_default();
            let spec = UserSpec {
                password,
                tags: update.tags.clone().unwrap_or(tags),
                loopback_only: update.loopback_only.unwrap_or(loopback_only),
            };
            let mut change = t.put_user(name, spec)?;
            for keys in scram {
                change.merge(t.put_scram(name, keys)?);
            }
            Ok(change)
        })
    }

    /// Deletes a user with its permissions and limits, and has its connections closed.
    ///
    /// # Errors
    /// 404.
    pub fn delete_user(&self, name: &str, now: Millis) -> Result<Option<Lsn>, Refusal> {
        let lsn = self.set(now, |t| t.delete_user(name))?;
        self.close_connections(&format!("user '{name}' was deleted"), |peer| {
            peer.with_known(|k| k.user.as_deref() == Some(name))
        });
        Ok(lsn)
    }

    /// Sets the limits of a user; they hold for what comes after.
    ///
    /// # Errors
    /// 404.
    pub fn put_user_limits(&self, name: &str, limits: UserLimits, now: Millis) -> Result<Option<Lsn>, Refusal> {
        self.set(now, |t| t.put_user_limits(name, limits))
    }
}

fn no_user(name: &str) -> Refusal {
    Refusal::not_found(format!("no user '{name}'"))
}

fn hash(t: &Topology, password: &[u8], now: Millis) -> Result<PasswordHash, Refusal> {
    // Salt need not be secret, only different: the secret of this start, the time and the generation see to that.
    let bytes = t.names.bytes(b"salt", now.0.wrapping_mul(1 << 20).wrapping_add(t.generation()));
    PasswordHash::new(HashingAlgorithm::Sha256, [bytes[0], bytes[1], bytes[2], bytes[3]], password)
}

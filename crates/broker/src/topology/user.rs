//! Users: passwords, tags, and who may enter.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256, Sha512};
use waypost_model::Refusal;

use super::limits::UserLimits;
use super::permission::{Permission, PermissionSpec, TopicPermission};
use super::scram::ScramKeys;
use super::{Change, NAME_BYTES_MAX, Topology, definitions};

/// How many users a node may have. Further ones are refused with 406.
pub const USERS_MAX: usize = 100_000;
/// Tags of one user.
pub const TAGS_MAX: usize = 32;
const SALT_BYTES: usize = 4;

/// RabbitMQ's password hashing algorithms that are good enough to keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HashingAlgorithm {
    /// `rabbit_password_hashing_sha256`
    Sha256,
    /// `rabbit_password_hashing_sha512`
    Sha512,
}

impl HashingAlgorithm {
    /// As definitions files have it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sha256 => "rabbit_password_hashing_sha256",
            Self::Sha512 => "rabbit_password_hashing_sha512",
        }
    }

    /// The algorithm of a name.
    #[must_use]
    pub fn parse(name: &str) -> Option<HashingAlgorithm> {
        [Self::Sha256, Self::Sha512].into_iter().find(|a| a.as_str() == name)
    }

    const fn bytes(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha512 => 64,
        }
    }

    fn digest(self, salt: &[u8], password: &[u8]) -> Vec<u8> {
        match self {
            Self::Sha256 => Sha256::new().chain_update(salt).chain_update(password).finalize().to_vec(),
            Self::Sha512 => Sha512::new().chain_update(salt).chain_update(password).finalize().to_vec(),
        }
    }
}

/// A salted hash of a password, in RabbitMQ's form: four bytes of salt, then the hash of salt and password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PasswordHash {
    algorithm: HashingAlgorithm,
    bytes: Box<[u8]>,
}

impl PasswordHash {
    /// Hashes a password.
    ///
    /// # Errors
    /// 406 if it is empty: such a password would let everybody in.
    pub fn new(algorithm: HashingAlgorithm, salt: [u8; SALT_BYTES], password: &[u8]) -> Result<PasswordHash, Refusal> {
        if password.is_empty() {
            return Err(Refusal::precondition_failed("a password must not be empty"));
        }
        let mut bytes = salt.to_vec();
        bytes.extend(algorithm.digest(&salt, password));
        Ok(PasswordHash { algorithm, bytes: bytes.into() })
    }

    /// Reads the base64 text of a definitions file.
    ///
    /// # Errors
    /// 406.
    pub fn from_base64(algorithm: HashingAlgorithm, text: &str) -> Result<PasswordHash, Refusal> {
        let bytes = STANDARD.decode(text).ok();
        bytes.and_then(|b| PasswordHash::from_bytes(algorithm, &b)).ok_or_else(|| {
            Refusal::precondition_failed(format!("the password hash is not one of {}", algorithm.as_str()))
        })
    }

    pub(crate) fn from_bytes(algorithm: HashingAlgorithm, bytes: &[u8]) -> Option<PasswordHash> {
        let fits = bytes.len() == SALT_BYTES + algorithm.bytes();
        fits.then(|| PasswordHash { algorithm, bytes: bytes.into() })
    }

    /// As definitions files have it.
    #[must_use]
    pub fn to_base64(&self) -> String {
        STANDARD.encode(&self.bytes)
    }

    /// How it was made.
    #[must_use]
    pub const fn algorithm(&self) -> HashingAlgorithm {
        self.algorithm
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Whether it is this password's. Takes the same time wherever they differ.
    #[must_use]
    pub fn verify(&self, password: &[u8]) -> bool {
        let (salt, hash) = self.bytes.split_at(SALT_BYTES);
        let given = self.algorithm.digest(salt, password);
        let difference = hash.iter().zip(&given).fold(0, |d, (a, b)| d | (a ^ b));
        !password.is_empty() && std::hint::black_box(difference) == 0
    }
}

#[derive(Debug)]
pub(crate) struct User {
    pub name: Arc<str>,
    pub password: Option<PasswordHash>,
    pub tags: Vec<String>,
    /// May come from this machine only.
    pub loopback_only: bool,
    /// At most one per mechanism, made of the password.
    pub scram: Vec<ScramKeys>,
    pub limits: UserLimits,
    pub permissions: BTreeMap<Arc<str>, Permission>,
    /// By vhost, then by exchange.
    pub topic_permissions: BTreeMap<Arc<str>, BTreeMap<Arc<str>, TopicPermission>>,
}

/// A user as operators write it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserSpec {
    /// `None`: no password lets this user in, only a certificate does.
    pub password: Option<PasswordHash>,
    /// `administrator`, `monitoring`, `policymaker`, `management` and others.
    pub tags: Vec<String>,
    /// May come from this machine only.
    pub loopback_only: bool,
}

/// A user as listings show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserView {
    /// The name.
    pub name: Arc<str>,
    /// Password, tags, place.
    pub spec: UserSpec,
    /// Limits.
    pub limits: UserLimits,
}

impl User {
    pub fn new(name: &str, spec: UserSpec) -> User {
        User {
            name: name.into(),
            password: spec.password,
            tags: spec.tags,
            loopback_only: spec.loopback_only,
            scram: Vec::new(),
            limits: UserLimits::default(),
            permissions: BTreeMap::new(),
            topic_permissions: BTreeMap::new(),
        }
    }

    pub fn view(&self) -> UserView {
        UserView {
            name: Arc::clone(&self.name),
            spec: UserSpec {
                password: self.password.clone(),
                tags: self.tags.clone(),
                loopback_only: self.loopback_only,
            },
            limits: self.limits,
        }
    }
}

impl Topology {
    /// The user and vhost of a new data directory.
    pub(crate) fn first_definitions(&mut self) -> Result<Change, Refusal> {
        let mut change = self.put_vhost("/", super::VhostMetadata::default())?;
        let salt = self.names.bytes(b"salt", 0);
        let salt = [salt[0], salt[1], salt[2], salt[3]];
        let guest = UserSpec {
            password: Some(PasswordHash::new(HashingAlgorithm::Sha256, salt, b"guest")?),
            tags: vec!["administrator".into()],
            loopback_only: true,
        };
        let all = || ".*".to_owned();
        let permission = PermissionSpec { configure: all(), write: all(), read: all() };
        change.merge(self.put_user("guest", guest)?);
        change.merge(self.put_permission("guest", "/", &permission)?);
        Ok(change)
    }

    /// Creates a user, or changes one; permissions and limits stay. With another password the keys of SCRAM go, since they
    /// were made of the old one.
    ///
    /// # Errors
    /// 406.
    pub fn put_user(&mut self, name: &str, spec: UserSpec) -> Result<Change, Refusal> {
        if name.is_empty() || name.len() > NAME_BYTES_MAX {
            return Err(Refusal::precondition_failed(format!("user names have 1 to {NAME_BYTES_MAX} bytes")));
        }
        if spec.tags.len() > TAGS_MAX || spec.tags.iter().any(|t| t.len() > NAME_BYTES_MAX) {
            return Err(Refusal::precondition_failed(format!(
                "a user has at most {TAGS_MAX} tags of {NAME_BYTES_MAX} bytes"
            )));
        }
        if self.users.len() >= USERS_MAX && !self.users.contains_key(name) {
            return Err(Refusal::precondition_failed(format!("there are {USERS_MAX} users already")));
        }
        let mut user = User::new(name, spec);
        let mut stale = Vec::new();
        if let Some(old) = self.users.remove(name) {
            user.name = old.name;
            user.limits = old.limits;
            user.permissions = old.permissions;
            user.topic_permissions = old.topic_permissions;
            if user.password == old.password {
                user.scram = old.scram;
            } else {
                stale = old.scram;
            }
        }
        let mut change = Change::define(definitions::put_user(&user));
        change.ops.extend(stale.iter().map(|k| definitions::remove_scram(name, k.mechanism.as_str())));
        self.users.insert(Arc::clone(&user.name), user);
        self.touch();
        Ok(change)
    }

    /// Deletes a user with its permissions and limits. The caller closes its connections.
    ///
    /// # Errors
    /// 404.
    pub fn delete_user(&mut self, name: &str) -> Result<Change, Refusal> {
        let user = self.users.remove(name).ok_or_else(|| no_user(name))?;
        let mut change = Change::default();
        for vhost in user.permissions.keys() {
            change.ops.push(definitions::remove_permission(name, vhost));
        }
        for (vhost, exchanges) in &user.topic_permissions {
            change.ops.extend(exchanges.keys().map(|x| definitions::remove_topic_permission(name, vhost, x)));
        }
        change.ops.extend(user.scram.iter().map(|k| definitions::remove_scram(name, k.mechanism.as_str())));
        if user.limits != UserLimits::default() {
            change.ops.push(definitions::remove_user_limits(name));
        }
        change.ops.push(definitions::remove_user(name));
        self.touch();
        Ok(change)
    }

    /// Whether somebody is who he says, and may come from where he is.
    ///
    /// # Errors
    /// 403. The texts are for the log: tell a peer no more than that it was refused.
    pub fn authenticate(&self, user: &str, password: &[u8], loopback: bool) -> Result<(), Refusal> {
        let known = self.users.get(user).and_then(|u| u.password.as_ref());
        // Strangers take as long as users, so that nobody can find out names by a watch.
        let verified = known.unwrap_or(&self.nobody).verify(password);
        if password.is_empty() {
            return Err(Refusal::access_refused(format!("user '{user}' attempted to log in with a blank password")));
        }
        if known.is_none() || !verified {
            return Err(Refusal::access_refused(format!("user '{user}' - invalid credentials")));
        }
        self.admit(user, loopback)
    }

    /// Whether a user whose identity is established otherwise may come from where he is.
    ///
    /// # Errors
    /// 403.
    pub fn admit(&self, user: &str, loopback: bool) -> Result<(), Refusal> {
        match self.users.get(user) {
            None => Err(Refusal::access_refused(format!("user '{user}' - invalid credentials"))),
            Some(u) if u.loopback_only && !loopback => {
                Err(Refusal::access_refused(format!("user '{user}' can only connect via localhost")))
            }
            Some(_) => Ok(()),
        }
    }

    /// Whether a user has a tag.
    #[must_use]
    pub fn has_tag(&self, user: &str, tag: &str) -> bool {
        self.users.get(user).is_some_and(|u| u.tags.iter().any(|t| t == tag))
    }

    /// All users, in order of name.
    #[must_use]
    pub fn users(&self) -> Vec<UserView> {
        self.users.values().map(User::view).collect()
    }

    /// One user.
    #[must_use]
    pub fn user_view(&self, name: &str) -> Option<UserView> {
        self.users.get(name).map(User::view)
    }

    pub(crate) fn user_mut(&mut self, name: &str) -> Result<&mut User, Refusal> {
        self.users.get_mut(name).ok_or_else(|| no_user(name))
    }
}

fn no_user(name: &str) -> Refusal {
    Refusal::not_found(format!("no user '{name}'"))
}

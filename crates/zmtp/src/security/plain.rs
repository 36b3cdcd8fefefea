//! PLAIN, RFC 24: a name and a password in clear text.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use subtle::ConstantTimeEq;

use super::{Outcome, Step};
use crate::fault::Fault;
use crate::wire::command;

/// Who may come in. Passwords do not show themselves.
#[derive(Clone, Default)]
pub struct PlainUsers(BTreeMap<String, String>);

impl PlainUsers {
    /// Names with their passwords.
    pub fn new(users: impl IntoIterator<Item = (String, String)>) -> PlainUsers {
        PlainUsers(users.into_iter().collect())
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn check(&self, user: &[u8], password: &[u8]) -> Option<String> {
        let user = std::str::from_utf8(user).ok()?;
        let wanted = self.0.get(user)?;
        bool::from(wanted.as_bytes().ct_eq(password)).then(|| user.to_owned())
    }
}

impl fmt::Debug for PlainUsers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PlainUsers({})", self.0.len())
    }
}

/// Name and password of ours, at most 255 octets each. The password does not show itself.
#[derive(Clone)]
pub struct PlainLogin {
    user: String,
    password: String,
}

impl PlainLogin {
    /// A login; `None` if name or password are too long for the wire.
    #[must_use]
    pub fn new(user: &str, password: &str) -> Option<PlainLogin> {
        let fits = user.len() <= 255 && password.len() <= 255;
        fits.then(|| PlainLogin { user: user.to_owned(), password: password.to_owned() })
    }
}

impl fmt::Debug for PlainLogin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PlainLogin({}, ..)", self.user)
    }
}

pub(crate) struct Server {
    users: Arc<PlainUsers>,
    user: Option<String>,
}

impl Server {
    pub(super) fn new(users: Arc<PlainUsers>) -> Server {
        Server { users, user: None }
    }

    pub(super) fn handle(
        &mut self,
        name: &[u8],
        data: &[u8],
        metadata: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<Step, Fault> {
        match (name, self.user.take()) {
            (b"HELLO", None) => {
                let (user, password) = hello(data).ok_or(Fault::Malformed("HELLO"))?;
                self.user =
                    Some(self.users.check(user, password).ok_or(Fault::Denied("unknown user or wrong password"))?);
                command::put(out, "WELCOME", &[]);
                Ok(Step::More)
            }
            (b"INITIATE", Some(user)) => {
                command::put(out, "READY", metadata);
                Ok(Outcome::clear(data, Some(user)))
            }
            _ => Err(Fault::Handshake("command")),
        }
    }
}

/// Name and password, both with a length in front, and nothing behind.
fn hello(data: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&len, rest) = data.split_first()?;
    let (user, rest) = rest.split_at_checked(usize::from(len))?;
    let (&len, password) = rest.split_first()?;
    (password.len() == usize::from(len)).then_some((user, password))
}

pub(crate) struct Client {
    login: Arc<PlainLogin>,
    welcome: bool,
}

impl Client {
    pub(super) fn new(login: Arc<PlainLogin>) -> Client {
        Client { login, welcome: false }
    }

    pub(super) fn hello(&self, out: &mut Vec<u8>) {
        let mut data = Vec::with_capacity(64);
        for text in [&self.login.user, &self.login.password] {
            data.push(text.len() as u8);
            data.extend_from_slice(text.as_bytes());
        }
        command::put(out, "HELLO", &data);
    }

    pub(super) fn handle(
        &mut self,
        name: &[u8],
        data: &[u8],
        metadata: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<Step, Fault> {
        match (name, self.welcome) {
            (b"WELCOME", false) if data.is_empty() => {
                self.welcome = true;
                command::put(out, "INITIATE", metadata);
                Ok(Step::More)
            }
            (b"READY", true) => Ok(Outcome::clear(data, None)),
            _ => Err(Fault::Handshake("command")),
        }
    }
}

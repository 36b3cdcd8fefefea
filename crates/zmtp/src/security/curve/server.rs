//! CURVE, the side whose key is known.

use std::sync::Arc;

use crypto_box::SalsaBox;
use subtle::ConstantTimeEq;

use super::{COOKIE, Cipher, KEY, LONG_NONCE, SHORT_NONCE, TAG, nonce, open, seal};
use crate::fault::Fault;
use crate::security::{CurveServer, Entropy, Outcome, PublicKey, SecretKey, Step};
use crate::wire::command;

/// Octets of HELLO's data: version, padding, transient key, nonce, box of 64 zeros.
const HELLO: usize = 2 + 72 + KEY + SHORT_NONCE + 64 + TAG;
const VOUCH: usize = LONG_NONCE + 2 * KEY + TAG;

pub(crate) struct Server {
    keys: Arc<CurveServer>,
    transient: SecretKey,
    welcome_nonce: [u8; LONG_NONCE],
    /// What the client must show us again. The specification lets a server keep nothing between WELCOME and INITIATE and
    /// puts an encrypted state here. A connection has state anyway, so ours only has to be recognised.
    cookie: [u8; COOKIE],
    client: Option<PublicKey>,
    nonce: u64,
}

impl Server {
    pub(crate) fn new(keys: Arc<CurveServer>, entropy: Entropy) -> Server {
        let (mut secret, mut welcome_nonce, mut cookie) = ([0; KEY], [0; LONG_NONCE], [0; COOKIE]);
        let places = secret.iter_mut().chain(&mut welcome_nonce).chain(&mut cookie);
        places.zip(entropy.0).for_each(|(to, from)| *to = from);
        let transient = SecretKey::from_bytes(secret);
        Server { keys, transient, welcome_nonce, cookie, client: None, nonce: 0 }
    }

    pub(crate) fn handle(
        &mut self,
        name: &[u8],
        data: &[u8],
        metadata: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<Step, Fault> {
        match (name, self.client) {
            (b"HELLO", None) => {
                let client = self.hello(data)?;
                self.welcome(client, out)?;
                self.client = Some(client);
                Ok(Step::More)
            }
            (b"INITIATE", Some(client)) => self.initiate(client, data, metadata, out),
            _ => Err(Fault::Handshake("command")),
        }
    }

    /// RFC 26, "The HELLO Command". Returns the client's transient key.
    fn hello(&mut self, data: &[u8]) -> Result<PublicKey, Fault> {
        if data.len() != HELLO || data.first() != Some(&1) {
            return Err(Fault::Malformed("HELLO"));
        }
        let rest = data.get(2 + 72..).unwrap_or_default();
        let (key, rest) = rest.split_first_chunk::<KEY>().ok_or(Fault::Malformed("HELLO"))?;
        let (unique, sealed) = rest.split_first_chunk::<SHORT_NONCE>().ok_or(Fault::Malformed("HELLO"))?;
        let client = PublicKey::from_bytes(*key);
        let shared = SalsaBox::new(&client.inner(), self.keys.secret.inner());
        if open(&shared, &nonce(b"CurveZMQHELLO---", unique), sealed)? != [0; 64] {
            return Err(Fault::Crypto("signature of HELLO is wrong"));
        }
        self.nonce = u64::from_be_bytes(*unique);
        Ok(client)
    }

    /// RFC 26, "The WELCOME Command".
    fn welcome(&self, client: PublicKey, out: &mut Vec<u8>) -> Result<(), Fault> {
        let mut plain = self.transient.public().0.to_vec();
        plain.extend_from_slice(&self.cookie);
        let mut data = self.welcome_nonce.to_vec();
        let shared = SalsaBox::new(&client.inner(), self.keys.secret.inner());
        seal(&shared, &nonce(b"WELCOME-", &self.welcome_nonce), &plain, &mut data)?;
        command::put(out, "WELCOME", &data);
        Ok(())
    }

    /// RFC 26, "The INITIATE Command" and "The READY Command".
    fn initiate(&mut self, client: PublicKey, data: &[u8], metadata: &[u8], out: &mut Vec<u8>) -> Result<Step, Fault> {
        let malformed = Fault::Malformed("INITIATE");
        let (cookie, rest) = data.split_first_chunk::<COOKIE>().ok_or(malformed.clone())?;
        let (unique, sealed) = rest.split_first_chunk::<SHORT_NONCE>().ok_or(malformed.clone())?;
        if !bool::from(cookie.ct_eq(&self.cookie)) {
            return Err(Fault::Crypto("cookie is not ours"));
        }
        let number = u64::from_be_bytes(*unique);
        if number <= self.nonce {
            return Err(Fault::Crypto("nonce does not rise"));
        }
        let shared = SalsaBox::new(&client.inner(), self.transient.inner());
        let plain = open(&shared, &nonce(b"CurveZMQINITIATE", unique), sealed)?;
        let (key, rest) = plain.split_first_chunk::<KEY>().ok_or(malformed.clone())?;
        let (vouch, theirs) = rest.split_at_checked(VOUCH).ok_or(malformed)?;
        let permanent = PublicKey::from_bytes(*key);
        self.check_vouch(permanent, client, vouch)?;
        if self.keys.clients.as_ref().is_some_and(|known| !known.contains(&permanent)) {
            return Err(Fault::Denied("unknown client key"));
        }
        let mut ready = 1u64.to_be_bytes().to_vec();
        seal(&shared, &nonce(b"CurveZMQREADY---", &1u64.to_be_bytes()), metadata, &mut ready)?;
        command::put(out, "READY", &ready);
        let cipher = Some(Box::new(Cipher::new(shared, true, 1, number)));
        Ok(Step::Done(Outcome { metadata: theirs.to_vec(), user: Some(permanent.to_string()), cipher }))
    }

    /// The vouch proves that the owner of the permanent key speaks for the transient one, to us.
    fn check_vouch(&self, permanent: PublicKey, client: PublicKey, vouch: &[u8]) -> Result<(), Fault> {
        let (unique, sealed) = vouch.split_first_chunk::<LONG_NONCE>().ok_or(Fault::Malformed("INITIATE"))?;
        let shared = SalsaBox::new(&permanent.inner(), self.transient.inner());
        let said = open(&shared, &nonce(b"VOUCH---", unique), sealed)?;
        let mut wanted = client.0.to_vec();
        wanted.extend_from_slice(&self.keys.secret.public().0);
        if bool::from(said.ct_eq(&wanted)) { Ok(()) } else { Err(Fault::Crypto("vouch is for another connection")) }
    }
}

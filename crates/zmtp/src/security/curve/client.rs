//! CURVE, the side that knows the other's key.

use std::sync::Arc;

use crypto_box::SalsaBox;

use super::{COOKIE, Cipher, KEY, LONG_NONCE, SHORT_NONCE, nonce, open, seal};
use crate::fault::Fault;
use crate::security::{CurveClient, Entropy, Outcome, PublicKey, SecretKey, Step};
use crate::wire::command;

/// Nonces of HELLO and INITIATE; messages go on from here.
const HELLO_NONCE: u64 = 1;
const INITIATE_NONCE: u64 = 2;

pub(crate) struct Client {
    keys: Arc<CurveClient>,
    transient: SecretKey,
    vouch_nonce: [u8; LONG_NONCE],
    /// The key that the connection has once WELCOME came.
    shared: Option<SalsaBox>,
}

impl Client {
    pub(crate) fn new(keys: Arc<CurveClient>, entropy: Entropy) -> Client {
        let (mut secret, mut vouch_nonce) = ([0; KEY], [0; LONG_NONCE]);
        secret.iter_mut().chain(&mut vouch_nonce).zip(entropy.0).for_each(|(to, from)| *to = from);
        Client { keys, transient: SecretKey::from_bytes(secret), vouch_nonce, shared: None }
    }

    /// RFC 26, "The HELLO Command".
    pub(crate) fn hello(&self, out: &mut Vec<u8>) -> Result<(), Fault> {
        let mut data = vec![1, 0];
        data.resize(2 + 72, 0);
        data.extend_from_slice(&self.transient.public().0);
        let unique = HELLO_NONCE.to_be_bytes();
        data.extend_from_slice(&unique);
        let shared = SalsaBox::new(&self.keys.server.inner(), self.transient.inner());
        seal(&shared, &nonce(b"CurveZMQHELLO---", &unique), &[0; 64], &mut data)?;
        command::put(out, "HELLO", &data);
        Ok(())
    }

    pub(crate) fn handle(
        &mut self,
        name: &[u8],
        data: &[u8],
        metadata: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<Step, Fault> {
        match (name, self.shared.take()) {
            (b"WELCOME", None) => {
                self.shared = Some(self.welcome(data, metadata, out)?);
                Ok(Step::More)
            }
            (b"READY", Some(shared)) => {
                let (unique, sealed) = data.split_first_chunk::<SHORT_NONCE>().ok_or(Fault::Malformed("READY"))?;
                let theirs = open(&shared, &nonce(b"CurveZMQREADY---", unique), sealed)?;
                let cipher = Cipher::new(shared, false, INITIATE_NONCE, u64::from_be_bytes(*unique));
                Ok(Step::Done(Outcome { metadata: theirs, user: None, cipher: Some(Box::new(cipher)) }))
            }
            _ => Err(Fault::Handshake("command")),
        }
    }

    /// RFC 26, "The WELCOME Command" and "The INITIATE Command".
    fn welcome(&self, data: &[u8], metadata: &[u8], out: &mut Vec<u8>) -> Result<SalsaBox, Fault> {
        let malformed = Fault::Malformed("WELCOME");
        let (unique, sealed) = data.split_first_chunk::<LONG_NONCE>().ok_or(malformed.clone())?;
        let known = SalsaBox::new(&self.keys.server.inner(), self.transient.inner());
        let plain = open(&known, &nonce(b"WELCOME-", unique), sealed)?;
        let (key, cookie) = plain.split_first_chunk::<KEY>().ok_or(malformed.clone())?;
        if cookie.len() != COOKIE {
            return Err(malformed);
        }
        let server = PublicKey::from_bytes(*key);
        let mut box_text = self.keys.secret.public().0.to_vec();
        box_text.extend_from_slice(&self.vouch(server)?);
        box_text.extend_from_slice(metadata);
        let shared = SalsaBox::new(&server.inner(), self.transient.inner());
        let unique = INITIATE_NONCE.to_be_bytes();
        let mut initiate = cookie.to_vec();
        initiate.extend_from_slice(&unique);
        seal(&shared, &nonce(b"CurveZMQINITIATE", &unique), &box_text, &mut initiate)?;
        command::put(out, "INITIATE", &initiate);
        Ok(shared)
    }

    /// Says with our permanent key that the transient one is ours, to this server only.
    fn vouch(&self, server: PublicKey) -> Result<Vec<u8>, Fault> {
        let mut text = self.transient.public().0.to_vec();
        text.extend_from_slice(&self.keys.server.0);
        let mut vouch = self.vouch_nonce.to_vec();
        let shared = SalsaBox::new(&server.inner(), self.keys.secret.inner());
        seal(&shared, &nonce(b"VOUCH---", &self.vouch_nonce), &text, &mut vouch)?;
        Ok(vouch)
    }
}

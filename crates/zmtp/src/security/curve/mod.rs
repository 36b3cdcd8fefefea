//! CURVE, RFC 25 and 26: every connection has keys of its own, and nobody learns who is talking.

mod client;
mod server;

use crypto_box::SalsaBox;
use crypto_box::aead::AeadInPlace;
use crypto_box::aead::generic_array::GenericArray;

pub(crate) use client::Client;
pub(crate) use server::Server;

use crate::fault::Fault;

/// Octets of a box beside what is in it.
pub(super) const TAG: usize = 16;
const KEY: usize = 32;
const COOKIE: usize = 96;
const LONG_NONCE: usize = 16;
const SHORT_NONCE: usize = 8;

/// `\x07MESSAGE`, nonce, tag and flags: what a message frame has beside its body.
const MESSAGE_NAME: &[u8; 8] = b"\x07MESSAGE";
pub(crate) const MESSAGE_OVERHEAD: usize = MESSAGE_NAME.len() + SHORT_NONCE + TAG + 1;

/// A nonce of 24 octets: a text of the specification, and what makes it unique.
fn nonce(prefix: &[u8], unique: &[u8]) -> [u8; 24] {
    debug_assert_eq!(prefix.len() + unique.len(), 24, "a nonce has 24 octets");
    let mut out = [0; 24];
    for (to, from) in out.iter_mut().zip(prefix.iter().chain(unique)) {
        *to = *from;
    }
    out
}

/// Appends the box of `plain`: tag first, as NaCl has it.
fn seal(key: &SalsaBox, nonce: &[u8; 24], plain: &[u8], out: &mut Vec<u8>) -> Result<(), Fault> {
    let at = out.len();
    out.resize(at + TAG, 0);
    out.extend_from_slice(plain);
    seal_in_place(key, nonce, out, at)
}

/// Turns what stands behind the place of a tag at `at` into a box.
fn seal_in_place(key: &SalsaBox, nonce: &[u8; 24], out: &mut [u8], at: usize) -> Result<(), Fault> {
    let Some((tag, plain)) = out.get_mut(at..).and_then(|rest| rest.split_at_mut_checked(TAG)) else {
        return Err(Fault::Crypto("box without room for a tag"));
    };
    let made = key.encrypt_in_place_detached(GenericArray::from_slice(nonce), b"", plain);
    tag.copy_from_slice(&made.map_err(|_| Fault::Crypto("message too long to encrypt"))?);
    Ok(())
}

/// Opens a box where it stands; what was in it follows the first 16 octets.
fn open_in_place<'a>(key: &SalsaBox, nonce: &[u8; 24], sealed: &'a mut [u8]) -> Result<&'a mut [u8], Fault> {
    let (tag, text) = sealed.split_at_mut_checked(TAG).ok_or(Fault::Crypto("box without a tag"))?;
    key.decrypt_in_place_detached(GenericArray::from_slice(nonce), b"", text, GenericArray::from_slice(tag))
        .map_err(|_| Fault::Crypto("box does not open"))?;
    Ok(text)
}

fn open(key: &SalsaBox, nonce: &[u8; 24], sealed: &[u8]) -> Result<Vec<u8>, Fault> {
    let mut copy = sealed.to_vec();
    open_in_place(key, nonce, &mut copy).map(|plain| plain.to_vec())
}

/// How messages of a connection are encrypted.
pub(crate) struct Cipher {
    key: SalsaBox,
    sends: &'static [u8; 16],
    receives: &'static [u8; 16],
    sent: u64,
    received: u64,
}

impl Cipher {
    fn new(key: SalsaBox, is_server: bool, sent: u64, received: u64) -> Cipher {
        let (client, server) = (b"CurveZMQMESSAGEC", b"CurveZMQMESSAGES");
        let (sends, receives) = if is_server { (server, client) } else { (client, server) };
        Cipher { key, sends, receives, sent, received }
    }

    /// Appends the body of a MESSAGE with these flags and this text.
    pub(crate) fn encrypt(&mut self, flags: u8, text: &[u8], out: &mut Vec<u8>) -> Result<(), Fault> {
        self.sent = self.sent.checked_add(1).ok_or(Fault::Crypto("nonces are used up"))?;
        let unique = self.sent.to_be_bytes();
        out.extend_from_slice(MESSAGE_NAME);
        out.extend_from_slice(&unique);
        let at = out.len();
        out.resize(at + TAG, 0);
        out.push(flags);
        out.extend_from_slice(text);
        seal_in_place(&self.key, &nonce(self.sends, &unique), out, at)
    }

    /// Opens the body of a MESSAGE where it stands: its flags and text.
    pub(crate) fn decrypt<'a>(&mut self, body: &'a mut [u8]) -> Result<(u8, &'a [u8]), Fault> {
        let (name, rest) = body.split_at_mut_checked(MESSAGE_NAME.len()).ok_or(Fault::Malformed("MESSAGE"))?;
        if name != MESSAGE_NAME {
            return Err(Fault::Malformed("MESSAGE"));
        }
        let (unique, sealed) = rest.split_first_chunk_mut::<SHORT_NONCE>().ok_or(Fault::Malformed("MESSAGE"))?;
        let number = u64::from_be_bytes(*unique);
        if number <= self.received {
            return Err(Fault::Crypto("nonce does not rise"));
        }
        let plain = open_in_place(&self.key, &nonce(self.receives, unique), sealed)?;
        // Only now: who cannot make a box must not be able to move the counter.
        self.received = number;
        let (flags, text) = plain.split_first().ok_or(Fault::Malformed("MESSAGE"))?;
        Ok((*flags, text))
    }
}

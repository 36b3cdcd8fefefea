//! Names that the server makes up, and other bytes that nobody may guess.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};

/// Derives texts from a secret that differs from start to start.
#[derive(Debug)]
pub(crate) struct Names {
    seed: [u8; 32],
    next: u64,
}

impl Names {
    pub fn new(seed: [u8; 32]) -> Names {
        Names { seed, next: 0 }
    }

    /// Another 22 characters.
    pub fn fresh(&mut self) -> String {
        let n = self.next;
        self.next += 1;
        self.text(b"name", n)
    }

    /// The 22 characters (128 bits) that belong to a purpose and a number.
    pub fn text(&self, purpose: &[u8], n: u64) -> String {
        URL_SAFE_NO_PAD.encode(&self.bytes(purpose, n)[..16])
    }

    pub fn bytes(&self, purpose: &[u8], n: u64) -> [u8; 32] {
        let mut h = Sha256::new();
        h.update(self.seed);
        h.update(n.to_be_bytes());
        h.update(purpose);
        h.finalize().into()
    }
}

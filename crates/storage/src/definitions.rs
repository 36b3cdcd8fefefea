//! Definitions: what is kept under keys until it is taken away, in memory for the next checkpoint.

use std::borrow::Borrow;
use std::collections::HashSet;
use std::hash::{Hash, Hasher};

/// Values by key. There may be hundreds of thousands of small ones, so each is one block of memory; and every commit
/// changes some, while somebody waits for it, so that they are found by a hash.
#[derive(Clone, Debug, Default)]
pub struct Definitions(HashSet<Definition>);

/// A key and a value behind it, found by its key.
#[derive(Clone, Debug)]
struct Definition {
    /// The length of the key in four octets, the key, the value.
    bytes: Box<[u8]>,
}

/// Octets in front of the key.
const LENGTH: usize = 4;

impl Definition {
    /// `None` for a key that no frame could hold.
    fn new(key: &[u8], value: &[u8]) -> Option<Definition> {
        let length = u32::try_from(key.len()).ok()?.to_le_bytes();
        Some(Definition { bytes: [&length, key, value].concat().into() })
    }

    fn parts(&self) -> (&[u8], &[u8]) {
        let Some((length, rest)) = self.bytes.split_first_chunk::<LENGTH>() else { return (&[], &[]) };
        let length = usize::try_from(u32::from_le_bytes(*length)).unwrap_or(usize::MAX);
        rest.split_at_checked(length).unwrap_or((rest, &[]))
    }

    fn key(&self) -> &[u8] {
        self.parts().0
    }
}

impl Definitions {
    /// Keeps a value under a key, in the place of the one before.
    pub fn insert(&mut self, key: &[u8], value: &[u8]) {
        // No key is nearly as long as what cannot be kept: a frame holds it.
        if let Some(definition) = Definition::new(key, value) {
            self.0.replace(definition);
        }
    }

    /// Forgets a key.
    pub fn remove(&mut self, key: &[u8]) {
        self.0.remove(key);
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Keys and values, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.0.iter().map(Definition::parts)
    }

    /// Keys and values, in order of the keys.
    pub fn sorted(&self) -> Vec<(&[u8], &[u8])> {
        let mut all: Vec<_> = self.iter().collect();
        all.sort_unstable_by_key(|(key, _)| *key);
        all
    }
}

impl PartialEq for Definitions {
    fn eq(&self, other: &Definitions) -> bool {
        self.sorted() == other.sorted()
    }
}

impl Eq for Definitions {}

impl Borrow<[u8]> for Definition {
    fn borrow(&self) -> &[u8] {
        self.key()
    }
}

impl PartialEq for Definition {
    fn eq(&self, other: &Definition) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Definition {}

impl Hash for Definition {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key().hash(state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_a_map_would_keep_them() {
        let mut all = Definitions::default();
        for (key, value) in
            [(&b"b"[..], &b"1"[..]), (b"", b"2"), (b"a", b""), (b"b", b"3"), (b"ba", b"4"), (b"c", b"5")]
        {
            all.insert(key, value);
        }
        all.remove(b"c");
        all.remove(b"unknown");
        assert_eq!(all.sorted(), [(&b""[..], &b"2"[..]), (b"a", b""), (b"b", b"3"), (b"ba", b"4")]);
        let mut other = all.clone();
        assert!(other == all && all.len() == 4);
        other.insert(b"b", b"1");
        assert!(other != all);
    }
}

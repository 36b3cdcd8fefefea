//! Hashing with a key from outside: peers choose the names that go into our maps, and must not be able to choose their
//! hashes; and the same seed must give the same run.

use std::hash::{BuildHasher, DefaultHasher, Hasher};

/// Builds hashers from a seed.
#[derive(Debug, Clone, Copy)]
pub struct Seeded(pub u64);

impl BuildHasher for Seeded {
    type Hasher = DefaultHasher;

    fn build_hasher(&self) -> DefaultHasher {
        let mut hasher = DefaultHasher::new();
        hasher.write_u64(self.0);
        hasher
    }
}

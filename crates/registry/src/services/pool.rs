//! What many instances say alike is kept once.

use std::hash::{BuildHasher as _, Hash};
use std::sync::Arc;

use hashbrown::HashTable;

use waypost_model::Seeded;

/// How many are known at a time. Beyond it those that nobody has are dropped; if that is not enough all of them are, and
/// sharing begins anew.
const KNOWN_MAX: usize = 4096;

/// Values by content.
#[derive(Debug)]
pub(super) struct Pool<T: ?Sized> {
    known: HashTable<Arc<T>>,
    seed: Seeded,
}

impl<T: Hash + Eq + ?Sized> Pool<T> {
    pub fn new(seed: Seeded) -> Pool<T> {
        Pool { known: HashTable::new(), seed }
    }

    /// The same, or what is equal to it and known.
    pub fn shared(&mut self, one: Arc<T>) -> Arc<T> {
        let seed = self.seed;
        let hash = seed.hash_one(&one);
        if let Some(known) = self.known.find(hash, |known| **known == *one) {
            return Arc::clone(known);
        }
        if self.known.len() >= KNOWN_MAX {
            self.known.retain(|known| Arc::strong_count(known) > 1);
            if self.known.len() > KNOWN_MAX / 2 {
                self.known.clear();
            }
        }
        self.known.insert_unique(hash, Arc::clone(&one), |known| seed.hash_one(known));
        one
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_lists_are_one() {
        let mut pool = Pool::<[Box<str>]>::new(Seeded(1));
        let list = |text: &str| Arc::<[Box<str>]>::from([text.into()]);
        let first = pool.shared(list("a"));
        assert!(Arc::ptr_eq(&first, &pool.shared(list("a"))));
        assert!(!Arc::ptr_eq(&first, &pool.shared(list("b"))));
    }

    #[test]
    fn what_is_known_is_bounded_and_what_is_used_is_known_longer() {
        let mut pool = Pool::<[u32]>::new(Seeded(1));
        let used = pool.shared(Arc::from([7]));
        for i in 100..100 + 2 * KNOWN_MAX as u32 {
            pool.shared(Arc::from([i]));
            assert!(pool.known.len() <= KNOWN_MAX);
        }
        assert!(Arc::ptr_eq(&used, &pool.shared(Arc::from([7]))));
        let held: Vec<_> = (0..3 * KNOWN_MAX as u32).map(|i| pool.shared(Arc::from([i, 0]))).collect();
        assert!(pool.known.len() <= KNOWN_MAX && held.len() > KNOWN_MAX);
    }
}

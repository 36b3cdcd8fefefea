//! Recently used routes of a connection: publishes that name one of them need no decoding, and equal routes are the same
//! `Arc`, by which the core knows them again.

use std::sync::Arc;

use waypost_model::Route;

/// Where a publish's exchange and routing key stand in its payload: behind the method's ids and a reserved short, up to the
/// octet of flags.
const NAME_AT: usize = 4 + 2;

/// The bits of a publish's last octet.
const MANDATORY: u8 = 1;
const IMMEDIATE: u8 = 2;

/// A route that is remembered.
#[derive(Debug, Clone)]
struct Known {
    /// A part of its hash, so that others are mostly not looked at.
    tag: u32,
    /// Exchange and routing key as publishes have them: whatever equals it needs no reading.
    name: Box<[u8]>,
    route: Arc<Route>,
}

/// A table in which a route stands in one of a few places that its hash names.
#[derive(Debug, Default)]
pub(super) struct Routes {
    places: Vec<Option<Known>>,
    /// Routes that made room for others since the table has its size.
    displaced: usize,
}

impl Routes {
    const PLACES_MIN: usize = 64;
    /// Routes that a connection remembers at most, here and in the core: some 200 bytes each.
    const PLACES_MAX: usize = 4096;
    /// Places where a route may stand.
    const WAYS: usize = 4;

    /// The route that a publish method names, if it is remembered, and whether the message is mandatory. `None` also
    /// for what is to be looked at closely.
    pub fn known(&self, payload: &[u8]) -> Option<(&Arc<Route>, bool)> {
        let (flags, name) = payload.get(NAME_AT..)?.split_last()?;
        if *flags & IMMEDIATE != 0 || self.places.is_empty() {
            return None;
        }
        let (tag, at) = self.place(name);
        let mut there = self.places.get(at..at + Self::WAYS)?.iter().flatten();
        let known = there.find(|known| known.tag == tag && *known.name == *name)?;
        Some((&known.route, *flags & MANDATORY != 0))
    }

    /// A route, remembered from now on. It was not known.
    pub fn add(&mut self, exchange: &str, key: &[u8]) -> Arc<Route> {
        if self.displaced >= self.places.len() / 8 && self.places.len() < Self::PLACES_MAX {
            self.grow();
        }
        let route = Arc::new(Route::new(exchange, key));
        let mut name = Vec::with_capacity(2 + exchange.len() + key.len());
        for part in [exchange.as_bytes(), key] {
            // Both came as short strings.
            name.push(part.len() as u8);
            name.extend_from_slice(part);
        }
        self.insert(Known { tag: 0, name: name.into(), route: Arc::clone(&route) });
        route
    }

    fn grow(&mut self) {
        let places = (self.places.len() * 2).max(Self::PLACES_MIN);
        let old = std::mem::replace(&mut self.places, vec![None; places]);
        old.into_iter().flatten().for_each(|known| self.insert(known));
        self.displaced = 0;
    }

    fn insert(&mut self, known: Known) {
        let (tag, at) = self.place(&known.name);
        if let Some(places) = self.places.get_mut(at..at + Self::WAYS) {
            // The one that has been there for longest goes.
            places.rotate_right(1);
            self.displaced += usize::from(places[0].replace(Known { tag, ..known }).is_some());
        }
    }

    /// A part of a route's hash, and the first of its places. A peer that aims at collisions only makes its own memory
    /// useless.
    fn place(&self, name: &[u8]) -> (u32, usize) {
        let hash = hash(name);
        ((hash >> 32) as u32, (hash as usize).wrapping_mul(Self::WAYS) & (self.places.len() - 1))
    }
}

const SEED: u64 = 0x9e37_79b9_7f4a_7c15;
const FACTOR: u64 = 0xd6e8_feb8_6659_fd93;

/// Sixteen octets at a time, the last of them whatever came before: nothing is copied to fill them up.
fn hash(bytes: &[u8]) -> u64 {
    let start = SEED ^ bytes.len() as u64;
    let Some(last) = bytes.last_chunk() else {
        let mut only = [0; 16];
        only[..bytes.len()].copy_from_slice(bytes);
        return fold(start, &only);
    };
    let (pairs, _) = bytes.as_chunks::<16>();
    fold(pairs.iter().fold(start, fold), last)
}

/// Both halves of a product of 128 bits, together.
fn fold(hash: u64, pair: &[u8; 16]) -> u64 {
    let pair = u128::from_le_bytes(*pair);
    let product = u128::from(hash ^ pair as u64) * u128::from(FACTOR ^ (pair >> 64) as u64);
    (product as u64) ^ (product >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::method::basic;
    use crate::codec::{Method, Short};

    fn payload(exchange: &str, key: &str, mandatory: bool, immediate: bool) -> Vec<u8> {
        let mut frame = Vec::new();
        let routing_key = Short(key.as_bytes());
        Method::BasicPublish(basic::Publish { exchange, routing_key, mandatory, immediate, ..Default::default() })
            .encode_frame(&mut frame, 1);
        frame[7..frame.len() - 1].to_vec()
    }

    #[test]
    fn routes_are_known_again() {
        let mut routes = Routes::default();
        assert!(routes.known(&payload("x", "k", false, false)).is_none());
        let route = routes.add("x", b"k");
        let known = routes.known(&payload("x", "k", true, false)).unwrap();
        assert!(Arc::ptr_eq(known.0, &route) && known.1);
        assert!(!routes.known(&payload("x", "k", false, false)).unwrap().1);
        for other in [payload("xk", "", false, false), payload("", "xk", false, false), payload("x", "k", false, true)]
        {
            assert!(routes.known(&other).is_none());
        }
        let whole = payload("x", "k", false, false);
        for cut in 0..whole.len() {
            assert!(routes.known(&whole[..cut]).is_none());
        }
    }

    #[test]
    fn the_table_grows_with_the_number_of_routes_in_use_and_is_bounded() {
        let mut routes = Routes::default();
        let round = |routes: &mut Routes, n: usize| {
            let mut missed = 0;
            for key in (0..n).map(|i| format!("bench.{i}.{i}")) {
                if routes.known(&payload("x", &key, false, false)).is_none() {
                    missed += 1;
                    routes.add("x", key.as_bytes());
                }
            }
            missed
        };
        for _ in 0..10 {
            round(&mut routes, 1000);
        }
        assert!(round(&mut routes, 1000) < 50);
        assert!(round(&mut routes, 20_000) > 15_000);
        assert_eq!(routes.places.len(), Routes::PLACES_MAX);
    }
}

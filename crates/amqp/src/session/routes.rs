//! Recently used routes of a connection: publishes that name one of them need no decoding, and equal routes are the same
//! `Arc`, by which the core knows them again.

use std::sync::Arc;

use waypost_model::Route;

/// Where a publish's exchange stands in its payload: behind the method's ids and a reserved short.
const EXCHANGE_AT: usize = 4 + 2;

/// The bits of a publish's last octet.
const MANDATORY: u8 = 1;
const IMMEDIATE: u8 = 2;

/// A table in which a route stands in one of a few places that its hash names.
#[derive(Debug, Default)]
pub(super) struct Routes {
    /// Each with a part of its hash, so that others are mostly not looked at.
    places: Vec<Option<(u32, Arc<Route>)>>,
    /// Routes that made room for others since the table has its size.
    displaced: usize,
}

impl Routes {
    const PLACES_MIN: usize = 64;
    /// Routes that a connection remembers at most, here and in the core: some 150 bytes each.
    const PLACES_MAX: usize = 4096;
    /// Places where a route may stand.
    const WAYS: usize = 4;

    /// The route that a publish method names, if it is remembered, and whether the message is mandatory. `None` also
    /// for what is to be looked at closely.
    pub fn known(&self, payload: &[u8]) -> Option<(&Arc<Route>, bool)> {
        let (exchange, key, flags) = parts(payload)?;
        if flags & IMMEDIATE != 0 || self.places.is_empty() {
            return None;
        }
        let (tag, at) = self.place(exchange, key);
        let mut there = self.places.get(at..at + Self::WAYS)?.iter().flatten().filter(|(other, _)| *other == tag);
        let named = |route: &Route| *route.routing_key == *key && route.exchange.as_bytes() == exchange;
        let (_, route) = there.find(|(_, route)| named(route))?;
        Some((route, flags & MANDATORY != 0))
    }

    /// A route, remembered from now on. It was not known.
    pub fn add(&mut self, exchange: &str, key: &[u8]) -> Arc<Route> {
        if self.displaced >= self.places.len() / 8 && self.places.len() < Self::PLACES_MAX {
            self.grow();
        }
        let route = Arc::new(Route::new(exchange, key));
        self.insert(Arc::clone(&route));
        route
    }

    fn grow(&mut self) {
        let places = (self.places.len() * 2).max(Self::PLACES_MIN);
        let old = std::mem::replace(&mut self.places, vec![None; places]);
        old.into_iter().flatten().for_each(|(_, route)| self.insert(route));
        self.displaced = 0;
    }

    fn insert(&mut self, route: Arc<Route>) {
        let (tag, at) = self.place(route.exchange.as_bytes(), &route.routing_key);
        if let Some(places) = self.places.get_mut(at..at + Self::WAYS) {
            // The one that has been there for longest goes.
            places.rotate_right(1);
            self.displaced += usize::from(places[0].replace((tag, route)).is_some());
        }
    }

    /// A part of a route's hash, and the first of its places. A peer that aims at collisions only makes its own memory
    /// useless.
    fn place(&self, exchange: &[u8], key: &[u8]) -> (u32, usize) {
        let hash = mix(mix(SEED, exchange), key);
        ((hash >> 32) as u32, (hash as usize).wrapping_mul(Self::WAYS) & (self.places.len() - 1))
    }
}

/// Exchange, routing key and flags of a publish's payload, if it is one to its last octet.
fn parts(payload: &[u8]) -> Option<(&[u8], &[u8], u8)> {
    let (exchange, rest) = short(payload.get(EXCHANGE_AT..)?)?;
    let (key, rest) = short(rest)?;
    match rest {
        [flags] => Some((exchange, key, *flags)),
        _ => None,
    }
}

/// A short string and what follows it.
fn short(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = bytes.split_first()?;
    rest.split_at_checked(usize::from(*len))
}

const SEED: u64 = 0x9e37_79b9_7f4a_7c15;
const FACTOR: u64 = 0xd6e8_feb8_6659_fd93;

/// Sixteen octets at a time: both halves of a product of 128 bits, together.
fn mix(mut hash: u64, bytes: &[u8]) -> u64 {
    hash ^= bytes.len() as u64;
    let (pairs, rest) = bytes.as_chunks::<16>();
    for pair in pairs {
        hash = fold(hash, pair);
    }
    let mut last = [0; 16];
    last[..rest.len()].copy_from_slice(rest);
    fold(hash, &last)
}

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

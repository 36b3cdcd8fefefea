//! A connection's memory of where its messages went: asked before the topology, and thrown away when that has changed.
//!
//! Routes are known again by their `Arc`, not by what they say: a session gives the same `Arc` to messages with the same
//! exchange and routing key, so that finding one costs neither a hash of a text nor a comparison of two.

use std::sync::Arc;

use waypost_model::{QueueId, Route};

use super::publish::{Resolved, by_shard};
use crate::topology::MessageRoute;

/// See the module.
#[derive(Default)]
pub(super) struct RouteCache {
    generation: u64,
    known: Vec<Option<(Arc<Route>, Arc<Resolved>)>>,
    /// Routes that made room for others since the table has its size.
    displaced: usize,
    /// Sets of queues: many routes lead to the same one.
    sets: Vec<Option<Set>>,
    ways: Vec<Seen>,
}

/// Some queues, and the same grouped by shard.
struct Set {
    queues: Box<[QueueId]>,
    resolved: Arc<Resolved>,
}

/// A place for a way.
#[derive(Default)]
struct Seen {
    /// Of the message that was last looked up in vain: only what comes twice is remembered.
    hash: u64,
    way: Option<Way>,
}

/// Where a message went for which more than its route counted.
struct Way {
    route: Arc<Route>,
    props: Box<[u8]>,
    way: MessageRoute,
}

impl RouteCache {
    const KNOWN_MIN: usize = 64;
    /// Routes that a connection remembers.
    const KNOWN_MAX: usize = 4096;
    /// Places where a route may stand.
    const WAYS: usize = 4;
    /// Sets of queues that a connection remembers.
    const SETS_MAX: usize = 64;
    /// Messages whose way a connection remembers.
    const MESSAGES_MAX: usize = 64;
    /// Longest properties of one of those, bytes.
    const PROPS_BYTES_MAX: usize = 1024;

    /// What is remembered for `route`, if it still holds.
    pub fn find(&mut self, route: &Arc<Route>, generation: u64) -> Option<Arc<Resolved>> {
        if self.generation != generation {
            *self = RouteCache { generation, ..RouteCache::default() };
            return None;
        }
        self.known(route).cloned()
    }

    /// The same, if nothing has changed since the last [`RouteCache::find`].
    pub fn known(&self, route: &Arc<Route>) -> Option<&Arc<Resolved>> {
        let at = place(route, self.known.len())?;
        let places = self.known.get(at..at + Self::WAYS)?;
        places.iter().flatten().find(|(known, _)| Arc::ptr_eq(known, route)).map(|(_, to)| to)
    }

    /// Remembers where a route leads, until the topology changes.
    pub fn remember(&mut self, route: &Arc<Route>, to: &Arc<Resolved>) {
        if self.displaced >= self.known.len() / 8 && self.known.len() < Self::KNOWN_MAX {
            let size = (self.known.len() * 2).max(Self::KNOWN_MIN);
            self.displaced = 0;
            let old = std::mem::replace(&mut self.known, vec![None; size]);
            old.into_iter().flatten().for_each(|(route, to)| self.insert(route, to));
        }
        self.insert(Arc::clone(route), Arc::clone(to));
    }

    fn insert(&mut self, route: Arc<Route>, to: Arc<Resolved>) {
        let places = place(&route, self.known.len()).and_then(|at| self.known.get_mut(at..at + Self::WAYS));
        if let Some(places) = places {
            // The one that has been there for longest goes.
            places.rotate_right(1);
            self.displaced += usize::from(places[0].replace((route, to)).is_some());
        }
    }

    /// A set of queues in order of id, grouped by shard.
    pub fn set(&mut self, queues: Vec<QueueId>) -> Arc<Resolved> {
        if self.sets.is_empty() {
            self.sets.resize_with(Self::SETS_MAX, || None);
        }
        let at = queues.iter().fold(queues.len() as u64, |hash, q| mixed(hash ^ q.0)) as usize % Self::SETS_MAX;
        if let Some(set) = &self.sets[at]
            && *set.queues == *queues
        {
            return Arc::clone(&set.resolved);
        }
        let resolved = Arc::new(Resolved::Queues(by_shard(queues.clone())));
        self.sets[at] = Some(Set { queues: queues.into(), resolved: Arc::clone(&resolved) });
        resolved
    }

    /// Where a message with this route and these properties went, if nothing changed. The generation is that of the
    /// last [`RouteCache::find`].
    pub fn way(&self, route: &Arc<Route>, props: &[u8]) -> Option<&MessageRoute> {
        let at = message_hash(route, props) as usize % Self::MESSAGES_MAX;
        let way = self.ways.get(at)?.way.as_ref()?;
        (Arc::ptr_eq(&way.route, route) && *way.props == *props).then_some(&way.way)
    }

    /// Remembers where a message went, if such a one has come before: most have properties of their own.
    pub fn remember_way(&mut self, route: &Arc<Route>, props: &[u8], way: &MessageRoute) {
        if props.len() > Self::PROPS_BYTES_MAX {
            return;
        }
        if self.ways.is_empty() {
            self.ways.resize_with(Self::MESSAGES_MAX, Seen::default);
        }
        let hash = message_hash(route, props);
        let place = &mut self.ways[hash as usize % Self::MESSAGES_MAX];
        if place.hash == hash {
            place.way = Some(Way { route: Arc::clone(route), props: props.into(), way: way.clone() });
        }
        place.hash = hash;
    }
}

/// The first of the places of a route in a table of `size`, if that is not 0.
fn place(route: &Arc<Route>, size: usize) -> Option<usize> {
    let hash = mixed(Arc::as_ptr(route) as usize as u64);
    Some((hash as usize).wrapping_mul(RouteCache::WAYS) & size.checked_sub(1)?)
}

fn message_hash(route: &Arc<Route>, props: &[u8]) -> u64 {
    let (words, rest) = props.as_chunks::<8>();
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    let words = words.iter().chain([&last]).map(|word| u64::from_le_bytes(*word));
    words.fold(Arc::as_ptr(route) as usize as u64, |hash, word| mixed(hash ^ word))
}

/// Both halves of a product of 128 bits, together. Peers that aim at collisions only make their own memory useless.
fn mixed(x: u64) -> u64 {
    let product = u128::from(x ^ 0x9e37_79b9_7f4a_7c15) * 0xd6e8_feb8_6659_fd93;
    (product as u64) ^ (product >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leads_to(cache: &mut RouteCache, queues: &[u64]) -> Arc<Resolved> {
        cache.set(queues.iter().map(|q| QueueId(*q)).collect())
    }

    #[test]
    fn routes_are_found_until_the_topology_changes() {
        let mut cache = RouteCache::default();
        let routes: Vec<Arc<Route>> = (0..1000).map(|i| Arc::new(Route::new("x", format!("k{i}")))).collect();
        assert!(cache.find(&routes[0], 1).is_none());
        let (a, b) = (leads_to(&mut cache, &[1, 2]), leads_to(&mut cache, &[3]));
        for _ in 0..10 {
            for (i, route) in routes.iter().enumerate() {
                let to = if i % 2 == 0 { &a } else { &b };
                match cache.find(route, 1) {
                    Some(found) => assert!(Arc::ptr_eq(&found, to)),
                    None => cache.remember(route, to),
                }
            }
        }
        let known = routes.iter().filter(|r| cache.find(r, 1).is_some()).count();
        assert!(known > 900, "{known}");
        // Another route of the same text is another one.
        assert!(cache.find(&Arc::new(Route::new("x", "k0")), 1).is_none());
        assert!(cache.find(&routes[0], 2).is_none() && cache.find(&routes[0], 1).is_none());
    }

    #[test]
    fn equal_sets_are_one() {
        let mut cache = RouteCache::default();
        let one = leads_to(&mut cache, &[5, 9]);
        assert!(Arc::ptr_eq(&one, &leads_to(&mut cache, &[5, 9])));
        assert!(!Arc::ptr_eq(&one, &leads_to(&mut cache, &[5])));
        let Resolved::Queues(targets) = &*leads_to(&mut cache, &[]) else { panic!() };
        assert!(targets.is_empty());
    }

    #[test]
    fn ways_are_those_of_route_and_properties() {
        let mut cache = RouteCache::default();
        let (route, other) = (Arc::new(Route::new("x", "k")), Arc::new(Route::new("x", "k")));
        let way = MessageRoute { queues: vec![QueueId(7)], ..MessageRoute::default() };
        assert!(cache.way(&route, b"props").is_none());
        cache.remember_way(&route, b"props", &way);
        assert!(cache.way(&route, b"props").is_none());
        cache.remember_way(&route, b"props", &way);
        assert_eq!(cache.way(&route, b"props"), Some(&way));
        assert!(cache.way(&route, b"proPs").is_none() && cache.way(&other, b"props").is_none());
        for _ in 0..2 {
            cache.remember_way(&route, &[0; 2000], &way);
        }
        assert!(cache.way(&route, &[0; 2000]).is_none());
        cache.find(&route, 1);
        assert!(cache.way(&route, b"props").is_none());
    }
}

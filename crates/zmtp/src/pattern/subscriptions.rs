//! Who wants which prefixes: a radix tree with counts.

use std::collections::BTreeMap;

use super::PeerId;

/// Different prefixes that a peer may have.
pub const SUBSCRIPTIONS_MAX: usize = 100_000;
/// Octets of all prefixes of a peer.
pub const SUBSCRIPTION_BYTES_MAX: usize = 8 * 1024 * 1024;

/// A node of the tree: what matched so far is a prefix that its subscribers want.
pub type NodeId = u32;

const ROOT: NodeId = 0;

/// A peer has as many subscriptions as it may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooMany(pub &'static str);

#[derive(Debug, Default)]
struct Node {
    /// What leads here from the parent; empty for the root only.
    label: Box<[u8]>,
    parent: NodeId,
    /// By the first octet of their labels, in order.
    children: Vec<(u8, NodeId)>,
    subscribers: Vec<PeerId>,
}

#[derive(Debug, Default)]
struct Wanted {
    /// How often each prefix is subscribed to.
    counts: BTreeMap<NodeId, u32>,
    bytes: usize,
}

/// Prefixes and who wants them. A node keeps its number for as long as anybody subscribes to it.
#[derive(Debug)]
pub struct Subscriptions {
    nodes: Vec<Node>,
    free: Vec<NodeId>,
    peers: BTreeMap<PeerId, Wanted>,
}

impl Default for Subscriptions {
    fn default() -> Subscriptions {
        Subscriptions { nodes: vec![Node::default()], free: Vec::new(), peers: BTreeMap::new() }
    }
}

impl Subscriptions {
    /// A peer wants a prefix. Returns whether it is the first of all peers to want it. Subscriptions are counted: a peer
    /// that subscribes twice has to cancel twice.
    ///
    /// # Errors
    /// [`TooMany`]; nothing has changed.
    pub fn subscribe(&mut self, peer: PeerId, prefix: &[u8]) -> Result<bool, TooMany> {
        let wanted = self.peers.entry(peer).or_default();
        if wanted.counts.len() >= SUBSCRIPTIONS_MAX {
            return Err(TooMany("subscriptions"));
        }
        if wanted.bytes + prefix.len() > SUBSCRIPTION_BYTES_MAX {
            return Err(TooMany("bytes of subscriptions"));
        }
        let id = self.reach(prefix);
        let wanted = self.peers.entry(peer).or_default();
        let count = wanted.counts.entry(id).or_default();
        *count = count.saturating_add(1);
        if *count > 1 {
            return Ok(false);
        }
        wanted.bytes += prefix.len();
        let node = self.node_mut(id);
        node.subscribers.push(peer);
        Ok(node.subscribers.len() == 1)
    }

    /// A peer takes a subscription back. Returns whether nobody wants the prefix any more; false if it never did.
    pub fn cancel(&mut self, peer: PeerId, prefix: &[u8]) -> bool {
        let Some(id) = self.find(prefix) else { return false };
        let Some(wanted) = self.peers.get_mut(&peer) else { return false };
        let Some(count) = wanted.counts.get_mut(&id) else { return false };
        *count -= 1;
        if *count > 0 {
            return false;
        }
        wanted.counts.remove(&id);
        wanted.bytes -= prefix.len().min(wanted.bytes);
        self.unsubscribe(peer, id)
    }

    /// A peer is gone. Calls `last` with every prefix that nobody wants any more.
    pub fn remove(&mut self, peer: PeerId, mut last: impl FnMut(&[u8])) {
        let Some(wanted) = self.peers.remove(&peer) else { return };
        for id in wanted.counts.into_keys() {
            let prefix = self.prefix(id);
            if self.unsubscribe(peer, id) {
                last(&prefix);
            }
        }
    }

    /// Calls `each` with every prefix that anybody wants.
    pub fn for_each(&self, mut each: impl FnMut(&[u8])) {
        for (id, node) in (0..).zip(&self.nodes) {
            if !node.subscribers.is_empty() {
                each(&self.prefix(id));
            }
        }
    }

    /// Puts into `found` the nodes that match a topic and have subscribers.
    pub fn matching(&self, topic: &[u8], found: &mut Vec<NodeId>) {
        found.clear();
        let (mut id, mut rest) = (ROOT, topic);
        loop {
            let node = self.node(id);
            if !node.subscribers.is_empty() {
                found.push(id);
            }
            let Some(next) = rest.first().and_then(|&first| node.child(first)) else { return };
            let Some(after) = rest.strip_prefix(&*self.node(next).label) else { return };
            (id, rest) = (next, after);
        }
    }

    /// Who subscribes to exactly this node.
    #[must_use]
    pub fn subscribers(&self, id: NodeId) -> &[PeerId] {
        &self.node(id).subscribers
    }

    /// Whether all subscriptions are to everything, so that topics need not be looked at.
    #[must_use]
    pub fn is_flat(&self) -> bool {
        self.node(ROOT).children.is_empty()
    }

    /// How many different prefixes a peer wants.
    #[must_use]
    pub fn count(&self, peer: PeerId) -> usize {
        self.peers.get(&peer).map_or(0, |wanted| wanted.counts.len())
    }

    fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id as usize]
    }

    fn node_mut(&mut self, id: NodeId) -> &mut Node {
        &mut self.nodes[id as usize]
    }

    /// The node of exactly this prefix, if there is one.
    fn find(&self, prefix: &[u8]) -> Option<NodeId> {
        let (mut id, mut rest) = (ROOT, prefix);
        while let Some(&first) = rest.first() {
            id = self.node(id).child(first)?;
            rest = rest.strip_prefix(&*self.node(id).label)?;
        }
        Some(id)
    }

    /// The node of a prefix, made if need be.
    fn reach(&mut self, prefix: &[u8]) -> NodeId {
        let (mut id, mut rest) = (ROOT, prefix);
        while let Some(&first) = rest.first() {
            let Some(next) = self.node(id).child(first) else {
                return self.add_child(id, rest.into());
            };
            let label = &self.node(next).label;
            let common = label.iter().zip(rest).take_while(|(a, b)| a == b).count();
            id = if common < label.len() { self.split(next, common) } else { next };
            rest = rest.get(common..).unwrap_or_default();
        }
        id
    }

    fn add_child(&mut self, parent: NodeId, label: Box<[u8]>) -> NodeId {
        let first = label.first().copied().unwrap_or_default();
        let id = self.add(Node { label, parent, ..Node::default() });
        self.node_mut(parent).put_child(first, id);
        id
    }

    fn add(&mut self, node: Node) -> NodeId {
        match self.free.pop() {
            Some(id) => {
                *self.node_mut(id) = node;
                id
            }
            None => {
                self.nodes.push(node);
                // Peers and their subscriptions are bounded far below.
                u32::try_from(self.nodes.len() - 1).unwrap_or(ROOT)
            }
        }
    }

    /// Puts a node above `id` that takes the first `at` octets of its label. Returns the new one: `id` keeps its number.
    fn split(&mut self, id: NodeId, at: usize) -> NodeId {
        let node = self.node_mut(id);
        let (upper, lower): (Box<[u8]>, Box<[u8]>) = (node.label[..at].into(), node.label[at..].into());
        let (first, second, parent) = (upper[0], lower[0], node.parent);
        node.label = lower;
        let middle = self.add(Node { label: upper, parent, children: vec![(second, id)], ..Node::default() });
        self.node_mut(id).parent = middle;
        self.node_mut(parent).put_child(first, middle);
        middle
    }

    /// Returns whether it was the last subscriber.
    fn unsubscribe(&mut self, peer: PeerId, id: NodeId) -> bool {
        let node = self.node_mut(id);
        let Some(at) = node.subscribers.iter().position(|&one| one == peer) else { return false };
        node.subscribers.swap_remove(at);
        let last = node.subscribers.is_empty();
        if last {
            node.subscribers = Vec::new();
            self.prune(id);
        }
        last
    }

    /// Removes a node that nobody needs, and then perhaps its parent.
    fn prune(&mut self, mut id: NodeId) {
        while id != ROOT && self.node(id).subscribers.is_empty() {
            let (parent, first) = (self.node(id).parent, self.node(id).label[0]);
            match self.node(id).children[..] {
                [] => {
                    self.node_mut(parent).children.retain(|&(_, child)| child != id);
                }
                [(_, child)] => {
                    let label = [&*self.node(id).label, &*self.node(child).label].concat();
                    let node = self.node_mut(child);
                    (node.label, node.parent) = (label.into(), parent);
                    self.node_mut(parent).put_child(first, child);
                }
                _ => return,
            }
            *self.node_mut(id) = Node::default();
            self.free.push(id);
            id = parent;
        }
    }

    fn prefix(&self, mut id: NodeId) -> Vec<u8> {
        let mut labels = Vec::new();
        while id != ROOT {
            labels.push(&*self.node(id).label);
            id = self.node(id).parent;
        }
        labels.reverse();
        labels.concat()
    }
}

impl Node {
    fn child(&self, first: u8) -> Option<NodeId> {
        let at = self.children.binary_search_by_key(&first, |&(octet, _)| octet).ok()?;
        self.children.get(at).map(|&(_, id)| id)
    }

    /// Adds a child, or replaces the one with the same first octet.
    fn put_child(&mut self, first: u8, id: NodeId) {
        match self.children.binary_search_by_key(&first, |&(octet, _)| octet) {
            Ok(at) => self.children[at].1 = id,
            Err(at) => self.children.insert(at, (first, id)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{A, B};
    use super::*;

    fn peers(s: &Subscriptions, topic: &str) -> Vec<u32> {
        let mut found = Vec::new();
        s.matching(topic.as_bytes(), &mut found);
        let mut all: Vec<u32> = found.iter().flat_map(|&id| s.subscribers(id)).map(|p| p.0).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    #[test]
    fn rfc29_prefixes_match_octet_by_octet() {
        let mut s = Subscriptions::default();
        for (peer, prefix) in [(A, "ab"), (B, "abc"), (A, "ax"), (B, "")] {
            assert_eq!(s.subscribe(peer, prefix.as_bytes()), Ok(true));
        }
        assert_eq!(peers(&s, "abcd"), [1, 2]);
        assert_eq!(peers(&s, "axe"), [1, 2]);
        assert_eq!(peers(&s, "a"), [2]);
        assert!(s.cancel(B, b""));
        assert_eq!(peers(&s, "a"), [0u32; 0]);
        assert_eq!(peers(&s, "abx"), [1]);
    }

    #[test]
    fn subscriptions_are_counted() {
        let mut s = Subscriptions::default();
        assert_eq!(s.subscribe(A, b"t"), Ok(true));
        assert_eq!(s.subscribe(A, b"t"), Ok(false));
        assert_eq!(s.subscribe(B, b"t"), Ok(false));
        assert!(!s.cancel(A, b"t"));
        assert_eq!(peers(&s, "t"), [1, 2]);
        assert!(!s.cancel(A, b"t"));
        assert!(!s.cancel(A, b"t"), "once too often");
        assert_eq!(peers(&s, "t"), [2]);
        assert!(s.cancel(B, b"t"));
        assert_eq!((s.nodes.len() - s.free.len(), s.is_flat()), (1, true));
    }

    #[test]
    fn who_leaves_takes_only_its_own_along() {
        let mut s = Subscriptions::default();
        for prefix in ["a", "ab", "abc", "b"] {
            s.subscribe(A, prefix.as_bytes()).unwrap();
        }
        s.subscribe(B, b"ab").unwrap();
        let mut gone = Vec::new();
        s.remove(A, |prefix| gone.push(String::from_utf8(prefix.to_vec()).unwrap()));
        gone.sort();
        assert_eq!(gone, ["a", "abc", "b"]);
        assert_eq!(peers(&s, "abc"), [2]);
    }

    #[test]
    fn a_peer_has_a_limit_and_keeps_what_it_has() {
        let mut s = Subscriptions::default();
        for i in 0..SUBSCRIPTIONS_MAX {
            s.subscribe(A, &(i as u32).to_be_bytes()).unwrap();
        }
        assert_eq!(s.subscribe(A, b"more"), Err(TooMany("subscriptions")));
        assert_eq!(s.subscribe(B, b"more"), Ok(true));
        assert_eq!(s.subscribe(B, &vec![0; SUBSCRIPTION_BYTES_MAX]), Err(TooMany("bytes of subscriptions")));
        s.remove(A, |_| ());
        assert_eq!(s.nodes.len() - s.free.len(), 2);
    }

    /// Against a plain list of pairs, under a random history.
    #[test]
    fn agrees_with_a_naive_model() {
        let mut state = 0x9e37_79b9u32;
        let mut random = move |n: u32| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state % n
        };
        let (mut s, mut model) = (Subscriptions::default(), Vec::<(u32, Vec<u8>)>::new());
        for _ in 0..20_000 {
            let peer = random(4);
            let prefix: Vec<u8> = (0..random(5)).map(|_| b'a' + random(2) as u8).collect();
            let wanted = |model: &[(u32, Vec<u8>)]| model.iter().any(|(_, p)| *p == prefix);
            match random(20) {
                0 => {
                    s.remove(PeerId(peer), |_| ());
                    model.retain(|(who, _)| *who != peer);
                }
                1..=10 => {
                    let first = !wanted(&model);
                    assert_eq!(s.subscribe(PeerId(peer), &prefix), Ok(first));
                    model.push((peer, prefix));
                }
                _ => {
                    let at = model.iter().position(|(who, p)| *who == peer && *p == prefix);
                    if let Some(at) = at {
                        model.swap_remove(at);
                    }
                    let last = at.is_some() && !wanted(&model);
                    assert_eq!(s.cancel(PeerId(peer), &prefix), last);
                }
            }
            let topic: Vec<u8> = (0..5).map(|_| b'a' + random(2) as u8).collect();
            let mut want: Vec<u32> = model.iter().filter(|(_, p)| topic.starts_with(p)).map(|(who, _)| *who).collect();
            want.sort_unstable();
            want.dedup();
            assert_eq!(peers(&s, std::str::from_utf8(&topic).unwrap()), want);
        }
    }
}

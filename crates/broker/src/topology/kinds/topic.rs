//! Topic exchanges: binding keys are patterns of words between dots, `*` stands for one word, `#` for any number.
//!
//! The patterns form a trie. A lookup walks it as a non-deterministic automaton does: the set of all nodes that the words
//! so far can lead to, each node once. It is therefore bounded by words times nodes, whatever patterns a client thinks
//! up; a walk with backtracking would be exponential in the number of `#`.

use std::collections::HashMap;

use super::{Sink, Target, Targets};
use waypost_model::Seeded;

const NONE: u32 = u32::MAX;
const ROOT: u32 = 0;

#[derive(Debug)]
pub(crate) struct Topic {
    nodes: Vec<Node>,
    /// Places of freed nodes.
    free: Vec<u32>,
    seeded: Seeded,
}

#[derive(Debug)]
struct Node {
    /// By literal word. `None` until there is one, so that leaves stay small.
    words: Option<Box<HashMap<Box<[u8]>, u32, Seeded>>>,
    star: u32,
    hash: u32,
    parent: u32,
    targets: Targets,
}

impl Node {
    fn new(parent: u32) -> Node {
        Node { words: None, star: NONE, hash: NONE, parent, targets: Targets::default() }
    }

    fn is_bare(&self) -> bool {
        self.words.is_none() && self.star == NONE && self.hash == NONE && self.targets.is_empty()
    }
}

/// The words of a key. An empty key has none, as RabbitMQ has it; elsewhere a word may be empty.
fn words(key: &[u8]) -> impl Iterator<Item = &[u8]> {
    (!key.is_empty()).then(|| key.split(|b| *b == b'.')).into_iter().flatten()
}

/// The words of a pattern, with `#.#` taken as `#`, which it means: a node below `#` is never another `#`.
fn steps(pattern: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut after_hash = false;
    words(pattern).filter(move |w| {
        let repeated = after_hash && *w == b"#";
        after_hash = *w == b"#";
        !repeated
    })
}

impl Topic {
    pub fn new(seeded: Seeded) -> Topic {
        Topic { nodes: vec![Node::new(NONE)], free: Vec::new(), seeded }
    }

    pub fn add(&mut self, pattern: &[u8], target: Target) {
        let mut at = ROOT;
        for word in steps(pattern) {
            at = match self.child(at, word) {
                Some(next) => next,
                None => self.grow(at, word),
            };
        }
        self.nodes[at as usize].targets.add(target);
    }

    pub fn remove(&mut self, pattern: &[u8], target: Target) {
        let mut at = ROOT;
        let mut path = Vec::new();
        for word in steps(pattern) {
            let Some(next) = self.child(at, word) else {
                return;
            };
            path.push(word);
            at = next;
        }
        self.nodes[at as usize].targets.remove(target);
        while let Some(word) = path.pop() {
            if !self.nodes[at as usize].is_bare() {
                break;
            }
            at = self.prune(at, word);
        }
    }

    fn child(&self, at: u32, word: &[u8]) -> Option<u32> {
        let node = &self.nodes[at as usize];
        match word {
            b"*" => (node.star != NONE).then_some(node.star),
            b"#" => (node.hash != NONE).then_some(node.hash),
            _ => node.words.as_ref()?.get(word).copied(),
        }
    }

    fn grow(&mut self, at: u32, word: &[u8]) -> u32 {
        let new = match self.free.pop() {
            Some(place) => {
                self.nodes[place as usize] = Node::new(at);
                place
            }
            None => {
                self.nodes.push(Node::new(at));
                (self.nodes.len() - 1) as u32
            }
        };
        let seeded = self.seeded;
        let node = &mut self.nodes[at as usize];
        match word {
            b"*" => node.star = new,
            b"#" => node.hash = new,
            _ => {
                let words = node.words.get_or_insert_with(|| Box::new(HashMap::with_hasher(seeded)));
                words.insert(word.into(), new);
            }
        }
        new
    }

    /// Frees a bare node, the child under `word` of the node that is returned.
    fn prune(&mut self, at: u32, word: &[u8]) -> u32 {
        let parent = self.nodes[at as usize].parent;
        let node = &mut self.nodes[parent as usize];
        match word {
            b"*" => node.star = NONE,
            b"#" => node.hash = NONE,
            _ => {
                if let Some(words) = &mut node.words {
                    words.remove(word);
                    if words.is_empty() {
                        node.words = None;
                    } else if words.len() * 8 < words.capacity() {
                        words.shrink_to(words.len() * 2);
                    }
                }
            }
        }
        self.free.push(at);
        if self.free.len() == self.nodes.len() - 1 {
            self.nodes.truncate(1);
            self.nodes.shrink_to_fit();
            self.free = Vec::new();
        }
        parent
    }

    /// How many nodes there are beside the root.
    #[cfg(test)]
    pub fn nodes(&self) -> usize {
        self.nodes.len() - 1 - self.free.len()
    }

    pub fn route(&self, key: &[u8], out: &mut Sink) {
        let mut now = States::default();
        now.enter(self, ROOT);
        let mut next = States::default();
        for word in words(key) {
            next.clear();
            for &at in now.plain.iter() {
                self.step(at, word, &mut next);
            }
            for &at in now.hashes.iter() {
                self.step(at, word, &mut next);
                next.hashes.push(at);
            }
            next.hashes.sort_unique();
            std::mem::swap(&mut now, &mut next);
            if now.plain.is_empty() && now.hashes.is_empty() {
                return;
            }
        }
        for &at in now.plain.iter().chain(now.hashes.iter()) {
            self.nodes[at as usize].targets.give(out);
        }
    }

    fn step(&self, at: u32, word: &[u8], next: &mut States) {
        let node = &self.nodes[at as usize];
        if let Some(child) = node.words.as_ref().and_then(|w| w.get(word)) {
            next.enter(self, *child);
        }
        if node.star != NONE {
            next.enter(self, node.star);
        }
    }
}

/// Nodes that the words so far can lead to. A node has one parent, so only `#` nodes, which may stay where they are as
/// well as be entered, can be found twice.
#[derive(Default)]
struct States {
    plain: Nodes,
    hashes: Nodes,
}

impl States {
    fn enter(&mut self, topic: &Topic, at: u32) {
        self.plain.push(at);
        // `#` also stands for no word at all.
        let hash = topic.nodes[at as usize].hash;
        if hash != NONE {
            self.hashes.push(hash);
        }
    }

    fn clear(&mut self) {
        self.plain.clear();
        self.hashes.clear();
    }
}

/// Numbers of nodes. The few that most keys lead to need no allocation.
#[derive(Default)]
struct Nodes {
    few: [u32; 8],
    len: usize,
    /// All of them, once there are more.
    many: Vec<u32>,
}

impl Nodes {
    fn push(&mut self, node: u32) {
        if let Some(place) = self.few.get_mut(self.len) {
            *place = node;
        } else {
            if self.len == self.few.len() {
                self.many.extend_from_slice(&self.few);
            }
            self.many.push(node);
        }
        self.len += 1;
    }

    fn iter(&self) -> std::slice::Iter<'_, u32> {
        self.few.get(..self.len).unwrap_or(&self.many).iter()
    }

    fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn clear(&mut self) {
        self.many.clear();
        self.len = 0;
    }

    fn sort_unique(&mut self) {
        match self.few.get_mut(..self.len) {
            Some(few) => {
                few.sort_unstable();
                let mut kept = 0;
                for i in 0..few.len() {
                    if kept == 0 || few[kept - 1] != few[i] {
                        few[kept] = few[i];
                        kept += 1;
                    }
                }
                self.len = kept;
            }
            None => {
                self.many.sort_unstable();
                self.many.dedup();
                let all = std::mem::take(&mut self.many);
                self.len = 0;
                all.into_iter().for_each(|node| self.push(node));
            }
        }
    }
}

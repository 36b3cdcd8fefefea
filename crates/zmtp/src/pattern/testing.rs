//! Queues for tests: vectors with a limit.

use std::collections::BTreeMap;

use super::{PeerId, Queues};
use crate::engine::Wish;
use crate::wire::chunk::{self, Chunk};

pub(crate) const A: PeerId = PeerId(1);
pub(crate) const B: PeerId = PeerId(2);
pub(crate) const C: PeerId = PeerId(3);

#[derive(Default)]
pub(crate) struct Boxes {
    pub(crate) limit: u32,
    pub(crate) limits: BTreeMap<PeerId, u32>,
    /// Per peer, the messages as lists of frames.
    pub(crate) got: BTreeMap<PeerId, Vec<Vec<String>>>,
    pub(crate) wishes: Vec<(PeerId, String, Wish)>,
}

impl Boxes {
    pub(crate) fn new(limit: u32) -> Boxes {
        Boxes { limit, ..Boxes::default() }
    }

    /// What came to a peer, frames joined by `|`.
    pub(crate) fn take(&mut self, peer: PeerId) -> Vec<String> {
        self.got.remove(&peer).unwrap_or_default().iter().map(|m| m.join("|")).collect()
    }

    pub(crate) fn wishes(&mut self) -> Vec<String> {
        let show = |(peer, prefix, wish): &(PeerId, String, Wish)| {
            format!("{}{}{prefix}", peer.0, if *wish == Wish::Subscribe { '+' } else { '-' })
        };
        std::mem::take(&mut self.wishes).iter().map(show).collect()
    }
}

impl Queues for Boxes {
    fn room(&self, peer: PeerId) -> u32 {
        let limit = self.limits.get(&peer).copied().unwrap_or(self.limit);
        limit.saturating_sub(self.got.get(&peer).map_or(0, |got| got.len() as u32))
    }

    fn push(&mut self, peer: PeerId, chunk: Chunk) {
        assert!(chunk.messages() <= self.room(peer), "pushed without room");
        self.got.entry(peer).or_default().extend(texts(&chunk));
    }

    fn push_copy(&mut self, peer: PeerId, bytes: &[u8], messages: u32) {
        let chunk = Chunk::parse(bytes.to_vec()).unwrap();
        assert_eq!(chunk.messages(), messages);
        self.push(peer, chunk);
    }

    fn subscription(&mut self, peer: PeerId, prefix: &[u8], wish: Wish) {
        self.wishes.push((peer, String::from_utf8_lossy(prefix).into_owned(), wish));
    }
}

pub(crate) fn texts(chunk: &Chunk) -> Vec<Vec<String>> {
    let frame = |f: crate::wire::frame::Frame<'_>| f.body.escape_ascii().to_string();
    chunk.each().map(|message| chunk::frames(message).map(frame).collect()).collect()
}

/// Messages from texts; `|` stands between frames.
pub(crate) fn messages(texts: &[&str]) -> Chunk {
    let mut wire = Vec::new();
    for text in texts {
        crate::wire::frame::put_message(&mut wire, text.split('|').map(str::as_bytes));
    }
    Chunk::parse(wire).unwrap()
}

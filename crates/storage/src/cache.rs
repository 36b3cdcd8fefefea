//! Chunks that were read lately. A backlog is read in order, a few messages at a time, so that most reads find theirs.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use waypost_model::Batch;

use crate::hash::IdMap;
use crate::sync::lock;

type Key = (u32, u32);

#[derive(Default)]
struct State {
    chunks: IdMap<Key, (Arc<Batch>, bool)>,
    order: VecDeque<Key>,
    bytes: u64,
}

/// A bounded cache that forgets first what was not asked for again (second chance).
pub struct ChunkCache {
    state: Mutex<State>,
    bytes_max: u64,
}

impl ChunkCache {
    pub fn new(bytes_max: u64) -> ChunkCache {
        ChunkCache { state: Mutex::default(), bytes_max }
    }

    pub fn get(&self, key: Key) -> Option<Arc<Batch>> {
        let mut s = lock(&self.state);
        let (batch, again) = s.chunks.get_mut(&key)?;
        *again = true;
        Some(Arc::clone(batch))
    }

    pub fn put(&self, key: Key, batch: &Arc<Batch>) {
        let bytes = batch.footprint() as u64;
        if bytes > self.bytes_max {
            return;
        }
        let mut s = lock(&self.state);
        if s.chunks.contains_key(&key) {
            return;
        }
        while s.bytes + bytes > self.bytes_max {
            let Some(oldest) = s.order.pop_front() else { break };
            match s.chunks.get_mut(&oldest) {
                Some((_, again)) if *again => {
                    *again = false;
                    s.order.push_back(oldest);
                }
                _ => {
                    let gone = s.chunks.remove(&oldest);
                    s.bytes -= gone.map_or(0, |(b, _)| b.footprint() as u64);
                }
            }
        }
        s.bytes += bytes;
        s.order.push_back(key);
        s.chunks.insert(key, (Arc::clone(batch), false));
    }
}

//! Putting the broker together after a start: definitions, queues, and what recovery found of their messages.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU8, AtomicU64};
use std::sync::{Arc, Mutex, OnceLock, RwLock};

use waypost_model::journal::{AppendError, BodyStore, Journal, Op, Recovered};
use waypost_model::{Millis, QueueId, SHARDS, Seq, ShardId};

use super::doubt::Doubts;
use super::timers::Timers;
use super::{Broker, Counters, Padded, replies, services, waiting};
use crate::context::MemoryBudget;
use crate::topology::{LoadError, Topology};

/// What a broker is given beside its disk.
#[derive(Debug, Clone)]
pub struct BrokerConfig {
    /// Message bytes that queues may hold in memory before they move them to disk.
    pub memory_budget_bytes: u64,
    /// Bytes that nobody can guess, different at each start: names and tokens of the server's are made from them.
    pub seed: [u8; 32],
}

/// Why a broker could not be put together. Nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Definitions on disk cannot be read.
    #[error("cannot read the definitions: {0}")]
    Definitions(#[from] LoadError),
    /// The first definitions cannot be written.
    #[error("cannot write the first definitions: {0}")]
    Append(#[from] AppendError),
}

/// A number that nobody can guess, for hashes.
fn fold(seed: &[u8]) -> u64 {
    seed.iter().fold(0, |word: u64, byte| word.rotate_left(7) ^ u64::from(*byte))
}

impl Broker {
    /// Puts a broker together.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(
        config: BrokerConfig,
        journal: Arc<dyn Journal>,
        bodies: Arc<dyn BodyStore>,
        mut recovered: Recovered,
        now: Millis,
    ) -> Result<Broker, OpenError> {
        let before = Doubts::take_from(&mut recovered.definitions)?;
        let (topology, first) = Topology::load(&recovered.definitions, config.seed)?;
        let generation = topology.generation();
        let broker = Broker {
            journal,
            bodies,
            topology: RwLock::new(topology),
            generation: AtomicU64::new(generation),
            shards: (0..SHARDS).map(|i| Padded::new(ShardId(i as u8))).collect(),
            memory: MemoryBudget::new(config.memory_budget_bytes),
            peers: Mutex::new(BTreeMap::new()),
            next_conn: AtomicU64::new(1),
            next_reply_consumer: AtomicU64::new(1),
            replies: replies::Replies::default(),
            alarm: AtomicU8::new(0),
            timers: Timers::new(),
            waiting: waiting::Waiting::default(),
            registrar: services::Registrar::default(),
            directory: Mutex::new(services::Directory::new(fold(&config.seed))),
            streams: OnceLock::new(),
            spare: Mutex::default(),
            stuck: Mutex::default(),
            counters: Counters::default(),
        };
        if !first.ops.is_empty() {
            broker.journal.append(first.ops)?;
        }
        broker.restore(recovered, &before, now)?;
        Ok(broker)
    }

    fn restore(&self, recovered: Recovered, before: &Doubts, now: Millis) -> Result<(), OpenError> {
        let mut w = self.work(now);
        let doubts = Doubts::after(before, &recovered);
        let next: BTreeMap<QueueId, Seq> = recovered.next_seq.iter().copied().collect();
        let mut known = Vec::new();
        let settings = self.topology_read().queue_settings();
        // Streams are not in any shard, and what they hold was taken out before.
        for s in settings.into_iter().filter(|s| !s.id.is_stream()) {
            let id = s.id;
            known.push(id);
            let (doubtful, others) = doubts.split(id, recovered.runs.of(id));
            let next_seq = next.get(&id).copied().unwrap_or_default();
            self.with_shard(id.shard(), &mut w, |shard, cx| {
                if !doubtful.is_empty() {
                    shard.restore(s.clone(), doubtful, next_seq, false, cx);
                }
                shard.restore(s, others, next_seq, true, cx);
            });
        }
        known.sort_unstable();
        // Queues that were deleted in the moment of the crash, and those that did not outlive it.
        let gone: Vec<Op> =
            next.keys().filter(|id| known.binary_search(id).is_err()).map(|id| Op::Forget(*id)).collect();
        if !gone.is_empty() {
            self.journal.append(gone)?;
        }
        let changes = doubts.changes(before);
        if !changes.is_empty() {
            self.journal.append(changes)?;
        }
        self.carry_out(&mut w);
        Ok(())
    }
}

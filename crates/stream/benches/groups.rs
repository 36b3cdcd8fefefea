//! What a group of very many partitions costs those who wait for groups: every heartbeat holds them.
//! `cargo bench -p waypost-stream --bench groups`.
//!
//! Plain loops over the public interface, as sessions use it, over a journal that takes everything at once.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use waypost_model::journal::{AppendError, BodyStore, Journal, Loaded, Op, SpillRef};
use waypost_model::{Batch, Lsn, Millis, QueueId, Seq};
use waypost_stream::groups::{Beaten, GroupFault, Groups, Heartbeat, Parts, Resolved};
use waypost_stream::streams::{OpenError, Share, Streams, TopicId};

/// Partitions of all topics together: as many as a node may have.
const PARTITIONS: u32 = 200_000;
/// Topics and members.
const SIZES: [(u32, u32); 4] = [(20, 10), (200, 100), (200, 1_000), (20_000, 1_000)];
/// Longer than a group of so many partitions waits before it deals out again.
const PAUSE_MS: u64 = 4_000;
const ROUNDS: u32 = 5;
/// All members read whatever there is.
const PATTERN: &str = "topic-.*";

/// Takes everything and is durable at once; counts bytes.
#[derive(Default)]
struct Sink(AtomicU64);

impl Journal for Sink {
    fn append(&self, ops: Vec<Op>) -> Result<Lsn, AppendError> {
        let bytes = |op: &Op| match op {
            Op::Define { key, value } => key.len() + value.as_ref().map_or(0, |value| value.len()),
            _ => 0,
        };
        let bytes: usize = ops.iter().map(bytes).sum();
        Ok(Lsn(self.0.fetch_add(bytes as u64, Ordering::Relaxed)))
    }

    fn reserve(&self) -> Lsn {
        Lsn(0)
    }

    fn fill(&self, _: Lsn, _: Vec<Op>) -> Result<(), AppendError> {
        Ok(())
    }

    fn durable(&self) -> Lsn {
        Lsn(u64::MAX)
    }

    fn spill(&self, _: &Batch, _: u32, _: u32) -> io::Result<SpillRef> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn release_spill(&self, _: SpillRef) {}
}

impl BodyStore for Sink {
    fn load(&self, _: QueueId, _: Seq, _: u32) -> io::Result<Loaded> {
        Err(io::ErrorKind::NotFound.into())
    }

    fn load_spilled(&self, _: SpillRef) -> io::Result<Arc<Batch>> {
        Err(io::ErrorKind::NotFound.into())
    }
}

struct Bench {
    groups: Groups,
    topics: BTreeMap<Arc<str>, (TopicId, u32)>,
    epochs: BTreeMap<u32, i32>,
    now: Millis,
}

impl Bench {
    fn new(sink: &Arc<Sink>, topics: u32) -> Result<Bench, OpenError> {
        let (journal, bodies) = (Arc::clone(sink) as Arc<dyn Journal>, Arc::clone(sink) as Arc<dyn BodyStore>);
        let groups = Streams::open(journal, bodies, Share::default(), [1; 16])?.groups(1, Millis(0));
        let id = |n: u32| TopicId((u128::from(n) << 64).to_be_bytes());
        let topic = |n: u32| (Arc::from(format!("topic-of-a-usual-name-{n}")), (id(n), PARTITIONS / topics));
        Ok(Bench { groups, topics: (0..topics).map(topic).collect(), epochs: BTreeMap::new(), now: Millis(1) })
    }

    /// How long a member's heartbeat holds the groups.
    fn beats(&mut self, member: u32) -> Result<Duration, GroupFault> {
        let epoch = self.epochs.get(&member).copied().unwrap_or(0);
        let joins = epoch == 0;
        let beat = Heartbeat {
            member_id: format!("member-{member}").into(),
            epoch,
            pattern: joins.then(|| PATTERN.into()),
            owned: joins.then(Parts::new),
            rebalance_timeout_ms: Some(1_800_000),
            ..Heartbeat::default()
        };
        let wanted = self.groups.wants("/", "g", &beat, 1, self.now);
        let resolved = wanted.map(|wanted| Resolved {
            wanted,
            topics: self.topics.clone(),
            matches: BTreeMap::from([(PATTERN.into(), self.topics.keys().cloned().collect())]),
            version: 1,
        });
        let begun = Instant::now();
        let beaten = black_box(self.groups.consumer_heartbeat("/", "g", beat, resolved, self.now));
        let took = begun.elapsed();
        let Beaten { epoch, .. } = beaten?;
        self.epochs.insert(member, epoch);
        Ok(took)
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!(
        "{:>8} {:>8} {:>12} {:>12} {:>12} {:>12}",
        "topics", "members", "joins", "deals out", "KiB written", "says nothing"
    );
    for (topics, members) in SIZES {
        let sink = Arc::new(Sink::default());
        let mut bench = Bench::new(&sink, topics)?;
        // All but the first wait: they are dealt out for together.
        bench.beats(0)?;
        let mut joins = Duration::ZERO;
        for member in 1..members {
            joins += bench.beats(member)?;
        }
        let joins = joins / members;
        let (mut deals, mut silent, mut bytes) = (Duration::MAX, Duration::MAX, 0);
        for round in 0..ROUNDS {
            bench.now = bench.now.plus(PAUSE_MS);
            let before = sink.0.load(Ordering::Relaxed);
            deals = deals.min(bench.beats(members + round)?);
            bytes = sink.0.load(Ordering::Relaxed) - before;
            silent = silent.min(bench.beats(members + round)?);
        }
        println!("{topics:>8} {members:>8} {joins:>12.1?} {deals:>12.1?} {:>12} {silent:>12.1?}", bytes >> 10);
    }
    Ok(())
}

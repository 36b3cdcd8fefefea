//! Compaction over the storage engine: what is left, and what a crash at any moment leaves.

use std::collections::BTreeMap;

use waypost_storage::fault::{FaultDisk, Faults};

use super::compact::CompactFault;
use super::tests::{Node, open};
use super::*;
use crate::batch::{Batch, BatchError};
use crate::filter::sample::keyed;
use crate::partition::{AppendFault, Isolation, Marker, Packed};
use crate::records::{Record, Records};

type Sent<'a> = &'a [(Option<&'a str>, Option<&'a str>)];

const ANYBODY: (i64, i16, i32) = (-1, -1, -1);
const TRANSACTIONAL: i16 = 16;
const AT: Millis = Millis(10_000_000);

/// A topic in which everything that is durable is dirty enough.
fn eager(node: &Node, more: &[(&str, &str)]) -> Arc<Topic> {
    let settings = [("cleanup.policy", "compact"), ("min.cleanable.dirty.ratio", "0"), ("segment.ms", "1")];
    let config = TopicConfig::parse(settings.into_iter().chain(more.iter().copied())).unwrap();
    node.streams.create("/", "t", 1, config).unwrap().0
}

fn send(node: &Node, topic: &Topic, bytes: &[u8]) -> Result<u64, AppendFault> {
    let cell = topic.partition(0).unwrap();
    let packed = Packed::copy(&Batch::split(bytes).unwrap().0);
    let appended = cell.append(packed, &topic.config(), &*node.streams.journal, AT)?;
    if let Some(lsn) = appended.lsn {
        node.streams.appended(&cell, lsn);
    }
    Ok(appended.base_offset)
}

fn put(node: &Node, topic: &Topic, records: Sent<'_>) {
    send(node, topic, &keyed(0, 1000, ANYBODY, records)).unwrap();
}

fn compact(node: &Node, topic: &Topic, now: Millis) -> Result<bool, CompactFault> {
    let cell = topic.partition(0).unwrap();
    node.streams.compact_partition(&cell, &topic.config(), now, (4, &|| false))
}

/// Runs until nothing is due.
fn compact_all(node: &Node, topic: &Topic, now: Millis) {
    while compact(node, topic, now).unwrap() {
        node.sync();
    }
}

fn read(node: &Node, topic: &Topic) -> Vec<Record> {
    let cell = topic.partition(0).unwrap();
    let start = cell.with(|p| p.offsets().start);
    let span = cell.with(|p| p.read(start, usize::MAX, Isolation::ReadUncommitted)).unwrap();
    let mut all = Vec::new();
    for piece in &span.batches {
        let (messages, at) = cell.load(piece, &*node.streams.bodies).unwrap();
        let batch = Batch::split(messages.body(at)).unwrap().0;
        assert!(batch.is_intact());
        if !batch.is_control() {
            all.extend(Records::of(&batch).unwrap().map(Result::unwrap));
        }
    }
    all
}

/// Offset, key and value.
fn brief(node: &Node, topic: &Topic) -> Vec<(i64, String, Option<String>)> {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    read(node, topic).into_iter().map(|r| (r.offset, text(r.key.unwrap()), r.value.map(text))).collect()
}

fn is(offset: i64, key: &str, value: &str) -> (i64, String, Option<String>) {
    (offset, key.to_owned(), Some(value.to_owned()))
}

#[test]
fn of_every_key_the_latest_stays_at_its_offset() {
    let node = Node::new();
    let topic = eager(&node, &[]);
    put(&node, &topic, &[(Some("a"), Some("1")), (Some("b"), Some("1")), (Some("a"), Some("2"))]);
    put(&node, &topic, &[(Some("c"), Some("1"))]);
    put(&node, &topic, &[(Some("b"), Some("2")), (Some("d"), Some("1"))]);
    assert!(!compact(&node, &topic, AT).unwrap(), "nothing is durable yet");
    node.sync();
    compact_all(&node, &topic, AT);
    let left = [is(2, "a", "2"), is(3, "c", "1"), is(4, "b", "2"), is(5, "d", "1")];
    assert_eq!(brief(&node, &topic), left);
    put(&node, &topic, &[(Some("a"), Some("3")), (Some("e"), Some("1"))]);
    node.sync();
    // After a crash as before it.
    let node = node.killed();
    let topic = node.streams.topic("/", "t").unwrap();
    assert_eq!(brief(&node, &topic)[..4], left);
    compact_all(&node, &topic, AT);
    let left = [&left[1..], &[is(6, "a", "3"), is(7, "e", "1")]].concat();
    assert_eq!(brief(&node, &topic), left);
    // A fetch from an offset that is gone begins with the next one that is there.
    let cell = topic.partition(0).unwrap();
    let span = cell.with(|p| p.read(0, 1, Isolation::ReadCommitted)).unwrap();
    assert_eq!((span.batches.len(), span.upto), (1, 4));
    // Nothing is dirty any more, and the old queues are gone.
    assert!(!compact(&node, &topic, AT).unwrap());
    let node = node.killed();
    let topic = node.streams.topic("/", "t").unwrap();
    assert_eq!(brief(&node, &topic), left);
    assert_eq!(topic.partition(0).unwrap().with(|p| p.offsets().end), 8);
}

#[test]
fn records_without_a_value_go_after_a_while_and_without_a_key_are_refused() {
    let node = Node::new();
    let topic = eager(&node, &[("delete.retention.ms", "1000")]);
    let unkeyed = keyed(3, 1000, ANYBODY, &[(Some("a"), None), (None, Some("1"))]);
    assert_eq!(send(&node, &topic, &unkeyed), Err(AppendFault::Batch(BatchError::Key)));
    put(&node, &topic, &[(Some("a"), Some("1")), (Some("b"), Some("1"))]);
    put(&node, &topic, &[(Some("a"), None)]);
    node.sync();
    compact_all(&node, &topic, AT);
    let gone = (2, "a".to_owned(), None);
    assert_eq!(brief(&node, &topic), [is(1, "b", "1"), gone.clone()]);
    for (offset, (later, stays)) in (3..).zip([(999, true), (1000, false)]) {
        put(&node, &topic, &[(Some("c"), Some("1"))]);
        node.sync();
        compact_all(&node, &topic, AT.plus(later));
        let found = brief(&node, &topic);
        assert_eq!((found.contains(&gone), found.contains(&is(offset, "c", "1"))), (stays, true), "{later}");
    }
}

#[test]
fn what_is_open_or_young_waits_and_what_was_aborted_goes() {
    let node = Node::new();
    let topic = eager(&node, &[("min.compaction.lag.ms", "100"), ("delete.retention.ms", "1000")]);
    let cell = topic.partition(0).unwrap();
    put(&node, &topic, &[(Some("a"), Some("1"))]);
    send(&node, &topic, &keyed(TRANSACTIONAL, 1000, (7, 0, 0), &[(Some("a"), Some("aborted"))])).unwrap();
    put(&node, &topic, &[(Some("b"), Some("1"))]);
    node.sync();
    assert!(!compact(&node, &topic, Millis(1099)).unwrap(), "all of it is younger than the lag");
    compact_all(&node, &topic, AT);
    assert_eq!(brief(&node, &topic).len(), 3, "a transaction is open behind the first record");
    cell.with(|p| {
        let (op, ending) = p.end(7, 0, Marker::Abort, AT).unwrap().unwrap();
        let lsn = node.streams.journal.append(vec![op]).unwrap();
        p.ended(ending, lsn);
        lsn
    });
    node.sync();
    cell.with(|p| p.advance(node.streams.journal.durable()));
    compact_all(&node, &topic, AT.plus(200));
    assert_eq!(brief(&node, &topic), [is(0, "a", "1"), is(2, "b", "1")]);
    assert_eq!(cell.with(|p| p.aborted(0, 100)), []);
    let node = node.killed();
    let cell = node.streams.topic("/", "t").unwrap().partition(0).unwrap();
    assert_eq!(cell.with(|p| p.aborted(0, 100)), []);
}

#[test]
fn retention_and_deletion_reach_both_parts() {
    let node = Node::new();
    let topic = eager(&node, &[]);
    for n in 0..6 {
        put(&node, &topic, &[(Some(&n.to_string()), Some("v"))]);
    }
    node.sync();
    compact_all(&node, &topic, AT);
    for n in 6..9 {
        put(&node, &topic, &[(Some(&n.to_string()), Some("v"))]);
    }
    node.sync();
    let cell = topic.partition(0).unwrap();
    for start in [2, 7] {
        assert_eq!(cell.delete_before(start, &*node.streams.journal).unwrap().0, start);
        node.sync();
        let offsets: Vec<i64> = read(&node, &topic).iter().map(|r| r.offset).collect();
        assert_eq!(offsets, (start as i64..9).collect::<Vec<_>>());
    }
    let node = node.killed();
    let topic = node.streams.topic("/", "t").unwrap();
    assert_eq!(read(&node, &topic).len(), 2);
    node.streams.delete("/", "t").unwrap();
    node.sync();
    let node = node.killed();
    let again = eager(&node, &[]);
    assert_eq!(again.partition(0).unwrap().with(|p| p.offsets().end), 0);
    put(&node, &again, &[(Some("a"), Some("1"))]);
    node.sync();
    compact_all(&node, &again, AT);
    assert_eq!(brief(&node, &again), [is(0, "a", "1")]);
}

/// What was sent, by offset, and up to where it was durable before the last crash.
#[derive(Default)]
struct Ledger {
    sent: Vec<(String, Option<String>)>,
    durable: usize,
}

impl Ledger {
    fn check(&self, found: &[(i64, String, Option<String>)], seed: u64) {
        assert!(found.windows(2).all(|w| w[0].0 < w[1].0), "seed {seed}: offsets rise");
        for (offset, key, value) in found {
            assert_eq!(self.sent[*offset as usize], (key.clone(), value.clone()), "seed {seed}: offset {offset}");
        }
        let mut latest = BTreeMap::new();
        for (offset, (key, value)) in self.sent[..self.durable].iter().enumerate() {
            latest.insert(key, (offset, value));
        }
        let has = |offset: usize| found.iter().any(|(o, ..)| *o == offset as i64);
        for (key, (offset, value)) in latest {
            let replaced = found.iter().any(|(o, k, _)| k == key && *o > offset as i64);
            // Retention of those without a value is 0 here: they may be gone.
            assert!(has(offset) || replaced || value.is_none(), "seed {seed}: {key} of offset {offset} is lost");
        }
    }
}

#[test]
fn a_crash_at_any_moment_leaves_the_old_or_the_new() {
    for seed in 0..25 {
        crash_history(seed);
    }
}

fn crash_history(seed: u64) {
    let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut below = move |n: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random >> 11) % n
    };
    let mut node = open(FaultDisk::new(seed));
    eager(&node, &[("delete.retention.ms", "0")]);
    node.sync();
    let mut ledger = Ledger::default();
    for step in 0..80 {
        let topic = node.streams.topic("/", "t").unwrap();
        match below(10) {
            0..5 => {
                let count = 1 + below(4);
                let new: Vec<(String, Option<String>)> = (0..count)
                    .map(|n| (format!("k{}", below(7)), (below(5) > 0).then(|| format!("{step}.{n}"))))
                    .collect();
                let records: Vec<_> = new.iter().map(|(k, v)| (Some(&k[..]), v.as_deref())).collect();
                let bytes = keyed(below(5) as i16, 1000, ANYBODY, &records);
                if send(&node, &topic, &bytes).is_ok() {
                    ledger.sent.extend(new);
                }
            }
            5 | 6 => node.sync(),
            7 => drop(compact(&node, &topic, AT.plus(step))),
            8 => drop(node.engine.maintain_once()),
            _ => {
                node.disk.set_faults(Faults { power_off: Some(below(12)), ..Faults::default() });
                let _ = compact(&node, &topic, AT.plus(step));
                node.sync();
                node.engine.maintain_once();
            }
        }
        ledger.durable = ledger.durable.max(topic.partition(0).unwrap().with(|p| p.offsets().high_watermark) as usize);
        if node.engine.metrics().stopped || below(15) == 0 {
            node.disk.set_faults(Faults::default());
            node = node.killed();
            let topic = node.streams.topic("/", "t").unwrap();
            let end = topic.partition(0).unwrap().with(|p| p.offsets().end) as usize;
            assert!((ledger.durable..=ledger.sent.len()).contains(&end), "seed {seed}: {end}");
            ledger.sent.truncate(end);
            ledger.durable = end;
            ledger.check(&brief(&node, &topic), seed);
        }
    }
}

/// Who reads up to the end of the log (tables, connectors) would wait for ever for the offset before it.
#[test]
fn the_last_batch_of_the_log_stays() {
    let node = Node::new();
    let topic = eager(&node, &[("delete.retention.ms", "0")]);
    let cell = topic.partition(0).unwrap();
    put(&node, &topic, &[(Some("a"), Some("1"))]);
    send(&node, &topic, &keyed(TRANSACTIONAL, 1000, (7, 0, 0), &[(Some("b"), Some("1"))])).unwrap();
    node.abort(&cell, 7);
    node.sync();
    compact_all(&node, &topic, AT.plus(10));
    let lasts = || cell.with(|p| p.places_from(0)).iter().map(|(_, seq)| seq.0).collect::<Vec<_>>();
    assert_eq!(lasts(), [0, 2]);
    // Once there is more, the marker goes.
    put(&node, &topic, &[(Some("c"), Some("1"))]);
    node.sync();
    compact_all(&node, &topic, AT.plus(20));
    assert_eq!(lasts(), [0, 3]);
}

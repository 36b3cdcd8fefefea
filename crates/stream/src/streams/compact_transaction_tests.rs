//! Compaction of what transactions have written, with crashes, as a consumer of committed records sees it.

use std::collections::{BTreeMap, BTreeSet};

use waypost_storage::fault::{FaultDisk, Faults};

use super::tests::{Node, open};
use super::*;
use crate::batch::Batch;
use crate::filter::sample::keyed;
use crate::partition::{Aborted, Isolation, Marker, Packed};
use crate::records::Records;

const TRANSACTIONAL: i16 = 16;
const AT: Millis = Millis(10_000_000);

/// What was written at an offset; markers have no key.
#[derive(Clone, Debug)]
struct Written {
    key: Option<String>,
    value: Option<String>,
    producer: i64,
}

/// The whole log, and where transactions ended.
#[derive(Default)]
struct Ledger {
    log: Vec<Written>,
    ends: BTreeMap<i64, (u64, Marker)>,
    next_producer: i64,
    open: Vec<i64>,
    sequences: BTreeMap<i64, i32>,
}

impl Ledger {
    fn counts(&self, offset: usize) -> bool {
        let written = &self.log[offset];
        let committed = self.ends.get(&written.producer).is_some_and(|(_, m)| *m == Marker::Commit);
        written.key.is_some() && (written.producer < 0 || committed)
    }

    /// What was not durable is gone; whose marker was not is open again.
    fn cut(&mut self, end: u64) {
        self.log.truncate(usize::try_from(end).unwrap());
        let reopened: Vec<i64> = self.ends.iter().filter(|(_, (at, _))| *at >= end).map(|(id, _)| *id).collect();
        self.ends.retain(|id, _| !reopened.contains(id));
        self.open.extend(reopened);
    }

    /// What a consumer found against what counts before `stable`.
    fn check(&self, found: &[(u64, String, Option<String>)], (start, stable): (u64, u64), seed: u64) {
        for (offset, key, value) in found {
            let at = usize::try_from(*offset).unwrap();
            assert!(self.counts(at), "seed {seed}: {offset} was not committed");
            let written = &self.log[at];
            assert_eq!((written.key.as_ref(), &written.value), (Some(key), value), "seed {seed}: offset {offset}");
        }
        assert!(found.windows(2).all(|w| w[0].0 < w[1].0), "seed {seed}: offsets rise");
        let mut latest = BTreeMap::new();
        for at in (0..stable).filter(|at| self.counts(*at as usize)) {
            latest.insert(self.log[at as usize].key.clone().unwrap(), at);
        }
        let offsets: BTreeSet<u64> = found.iter().map(|(offset, ..)| *offset).collect();
        for (key, at) in latest.into_iter().filter(|(_, at)| *at >= start) {
            let removed = self.log[at as usize].value.is_none();
            assert!(removed || offsets.contains(&at), "seed {seed}: {key} of offset {at} is lost: {offsets:?}");
        }
    }
}

fn send(node: &Node, ledger: &mut Ledger, producer: i64, records: &[(String, Option<String>)]) {
    let (topic, cell) = of(node);
    let sequence = ledger.sequences.entry(producer).or_insert(0);
    let (attributes, by) = match producer {
        -1 => (0, (-1, -1, -1)),
        id => (TRANSACTIONAL, (id, 0, *sequence)),
    };
    let refs: Vec<_> = records.iter().map(|(k, v)| (Some(&k[..]), v.as_deref())).collect();
    let bytes = keyed(attributes, 1000, by, &refs);
    let packed = Packed::copy(&Batch::split(&bytes).unwrap().0);
    let Ok(appended) = cell.append(packed, &topic.config(), &*node.streams.journal, AT) else { return };
    node.streams.appended(&cell, appended.lsn.unwrap());
    *sequence += records.len() as i32;
    assert_eq!(appended.base_offset, ledger.log.len() as u64);
    let written = |(k, v): &(String, Option<String>)| Written { key: Some(k.clone()), value: v.clone(), producer };
    ledger.log.extend(records.iter().map(written));
}

fn end(node: &Node, ledger: &mut Ledger, producer: i64, marker: Marker) {
    let (_, cell) = of(node);
    let Some((op, ending)) = cell.with(|p| p.end(producer, 0, marker, AT)).unwrap() else { return };
    let Ok(lsn) = node.streams.journal.append(vec![op]) else { return };
    cell.with(|p| p.ended(ending, lsn));
    node.streams.appended(&cell, lsn);
    ledger.ends.insert(producer, (ledger.log.len() as u64, marker));
    ledger.log.push(Written { key: None, value: None, producer });
    ledger.open.retain(|id| *id != producer);
}

fn of(node: &Node) -> (Arc<Topic>, Arc<Cell>) {
    let topic = node.streams.topic("/", "t").unwrap();
    let cell = topic.partition(0).unwrap();
    (topic, cell)
}

/// What a client of Kafka makes of answers of a few bytes each: it skips a producer's batches from where the answer says
/// that a transaction was aborted up to the marker.
fn committed(node: &Node, mut at: u64) -> Vec<(u64, String, Option<String>)> {
    let (_, cell) = of(node);
    let (mut found, text) = (Vec::new(), |bytes: Vec<u8>| String::from_utf8(bytes).unwrap());
    loop {
        let span = cell.with(|p| p.read(at, 300, Isolation::ReadCommitted)).unwrap();
        if span.batches.is_empty() {
            return found;
        }
        let mut aborted: Vec<Aborted> = cell.with(|p| p.aborted(at, span.upto));
        aborted.sort_by_key(|a| std::cmp::Reverse(a.first));
        let mut skipped = BTreeSet::new();
        for piece in &span.batches {
            let (messages, from) = cell.load(piece, &*node.streams.bodies).unwrap();
            let batch = Batch::split(messages.body(from)).unwrap().0;
            let last = batch.last_offset().unsigned_abs();
            while let Some(next) = aborted.pop_if(|a| a.first <= last) {
                skipped.insert(next.producer_id);
            }
            match Marker::read(&batch) {
                Some(Marker::Abort) => drop(skipped.remove(&batch.producer_id())),
                Some(Marker::Commit) => {}
                None if batch.is_transactional() && skipped.contains(&batch.producer_id()) => {}
                None => {
                    let records = Records::of(&batch).unwrap().map(Result::unwrap);
                    let records = records.filter(|r| r.offset.unsigned_abs() >= at);
                    found.extend(records.map(|r| (r.offset as u64, text(r.key.unwrap()), r.value.map(text))));
                }
            }
            at = last + 1;
        }
    }
}

fn check(node: &Node, ledger: &Ledger, seed: u64) {
    let offsets = of(node).1.with(|p| p.offsets());
    ledger.check(&committed(node, offsets.start), (offsets.start, offsets.last_stable), seed);
    for from in offsets.start..=offsets.last_stable {
        ledger.check(&committed(node, from), (from, offsets.last_stable), seed);
    }
}

#[test]
fn what_is_committed_stays_and_what_is_aborted_is_never_seen() {
    for seed in 0..40 {
        history(seed);
    }
}

fn history(seed: u64) {
    let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut below = move |n: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random >> 11) % n
    };
    let mut node = open(FaultDisk::new(seed));
    let settings = [
        ("cleanup.policy", "compact,delete"),
        ("min.cleanable.dirty.ratio", "0"),
        ("segment.ms", "1"),
        ("delete.retention.ms", if seed.is_multiple_of(2) { "0" } else { "30" }),
    ];
    node.streams.create("/", "t", 1, TopicConfig::parse(settings).unwrap()).unwrap();
    node.sync();
    let mut ledger = Ledger::default();
    for step in 0..120 {
        let (topic, cell) = of(&node);
        match below(14) {
            0..5 => {
                let known = ledger.open.len() as u64;
                let producer = match below(known + 2) {
                    0 => -1,
                    n if n <= known && known > 0 => ledger.open[(n - 1) as usize],
                    _ => {
                        ledger.next_producer += 1;
                        ledger.open.push(ledger.next_producer);
                        ledger.next_producer
                    }
                };
                let record = |n| (format!("k{}", below(5)), (below(5) > 0).then(|| format!("{step}.{n}")));
                let records: Vec<_> = (0..1 + step % 3).map(record).collect();
                send(&node, &mut ledger, producer, &records);
            }
            5..8 => {
                if let Some(producer) = ledger.open.first().copied() {
                    let marker = if below(2) == 0 { Marker::Abort } else { Marker::Commit };
                    end(&node, &mut ledger, producer, marker);
                }
            }
            8 | 9 => node.sync(),
            10 | 11 => {
                node.sync();
                let stops = || false;
                let _ = node.streams.compact_partition(&cell, &topic.config(), AT.plus(step), (3, &stops));
                node.sync();
            }
            12 if below(6) == 0 => {
                let offsets = cell.with(|p| p.offsets());
                let upto = offsets.start + below(1 + (offsets.last_stable - offsets.start) / 4 + 1);
                let _ = cell.delete_before(upto.min(offsets.high_watermark), &*node.streams.journal);
            }
            12 => drop(node.engine.maintain_once()),
            _ => {
                node.disk.set_faults(Faults { power_off: Some(below(12)), ..Faults::default() });
                let stops = || false;
                let _ = node.streams.compact_partition(&cell, &topic.config(), AT.plus(step), (3, &stops));
                node.sync();
            }
        }
        if node.engine.metrics().stopped || below(12) == 0 {
            node.disk.set_faults(Faults::default());
            node = node.killed();
            let offsets = of(&node).1.with(|p| p.offsets());
            ledger.cut(offsets.end);
            check(&node, &ledger, seed);
            // The coordinator ends what nobody goes on with; producers are others.
            for producer in std::mem::take(&mut ledger.open) {
                end(&node, &mut ledger, producer, Marker::Abort);
            }
            node.sync();
        }
        if !node.engine.metrics().stopped {
            node.disk.set_faults(Faults::default());
        }
    }
    node.sync();
    check(&node, &ledger, seed);
}

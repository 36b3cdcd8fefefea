//! Definitions: keys begin with an octet that says which kind, and are in no other's range.

use std::sync::Arc;

use waypost_model::QueueId;
use waypost_model::journal::Op;

use super::{Cell, Topic};
use crate::codec::{Malformed, Reader, Writer};
use crate::config::TopicConfig;
use crate::groups::Kinds;
use crate::partition::{Compacted, Snapshot};

pub(super) const KEYS: std::ops::RangeInclusive<u8> = 0xd0..=0xdf;
pub(super) const TOPIC: u8 = 0xd0;
pub(super) const START: u8 = 0xd1;
pub(super) const SNAPSHOT: u8 = 0xd2;
pub(super) const OFFSET: u8 = 0xd3;
pub(super) const NUMBERS: u8 = 0xd4;
pub(super) const COMPACTED: u8 = 0xd5;
pub(super) const ABORTED: u8 = 0xd6;
pub(super) const ADDITION: u8 = 0xd7;
pub(super) const TRANSACTION: u8 = 0xd8;
pub(super) const PENDING_OFFSET: u8 = 0xd9;
pub(super) const GROUP: u8 = 0xda;
/// Groups with members: of the classic protocol, and of the newer one.
pub(super) const GROUPS: std::ops::RangeInclusive<u8> = 0xdb..=0xde;
pub(super) const GROUP_KINDS: Kinds = Kinds { classic: 0xdb, epochs: 0xdc, said: 0xdd, has: 0xde };
pub(super) const FORMAT: u64 = 1;
/// Of an offset with a time of its own at which it ends.
pub(super) const FORMAT_ENDING: u64 = 2;
/// Of an offset that is put off, behind its place among others.
pub(super) const FORMAT_ORDERED: u64 = 3;

fn topic_key(topic: &Topic) -> Box<[u8]> {
    Writer::beginning(&[TOPIC]).bytes(topic.vhost.as_bytes()).bytes(topic.name.as_bytes()).finish()
}

fn queue_key(kind: u8, queue: QueueId) -> Box<[u8]> {
    Writer::beginning(&[kind]).number(queue.0).finish()
}

/// A topic as it is.
pub(super) fn topic(topic: &Topic) -> Op {
    topic_with(topic, &topic.config(), &topic.partitions())
}

/// A topic as it is to be.
pub(super) fn topic_with(topic: &Topic, config: &TopicConfig, cells: &[Arc<Cell>]) -> Op {
    let mut w = Writer::default().number(FORMAT).bytes(&topic.id.0).number(cells.len() as u64);
    for cell in cells {
        w = w.number(cell.queue().0);
    }
    w = w.number(config.settings().count() as u64);
    for (name, value) in config.settings() {
        w = w.bytes(name.as_bytes()).bytes(value.as_bytes());
    }
    Op::Define { key: topic_key(topic), value: Some(w.finish()) }
}

/// A topic is gone, with its batches and all that is noted of its partitions.
pub(super) fn no_topic(topic: &Topic) -> Vec<Op> {
    let mut ops = vec![Op::Define { key: topic_key(topic), value: None }];
    for cell in topic.partitions().iter() {
        ops.push(Op::Forget(cell.queue()));
        ops.push(Op::Define { key: queue_key(START, cell.queue()), value: None });
        ops.push(Op::Define { key: queue_key(SNAPSHOT, cell.queue()), value: None });
        ops.extend(no_aborted(cell.queue(), cell.with(|p| p.kept_chunks())));
        if let Some(compacted) = cell.with(|p| p.compacted()) {
            ops.push(Op::Forget(compacted.queue));
            ops.push(Op::Define { key: queue_key(COMPACTED, cell.queue()), value: None });
        }
    }
    ops
}

/// Where a partition begins.
pub(super) fn start(queue: QueueId, start: u64) -> Op {
    Op::Define { key: queue_key(START, queue), value: Some(Writer::default().number(start).finish()) }
}

/// Where what compaction has left of a partition lies.
pub(super) fn compacted(queue: QueueId, compacted: Compacted) -> Op {
    let value = Writer::default().number(FORMAT).number(compacted.queue.0).number(compacted.upto).finish();
    Op::Define { key: queue_key(COMPACTED, queue), value: Some(value) }
}

/// Reads that.
pub(super) fn read_compacted(value: &[u8]) -> Result<Compacted, Malformed> {
    let mut r = Reader(value);
    if r.number()? != FORMAT {
        return Err(Malformed);
    }
    let compacted = Compacted { queue: QueueId(r.number()?), upto: r.number()? };
    r.end().map(|()| compacted)
}

/// What a partition knows of its producers and transactions.
pub(super) fn snapshot(queue: QueueId, snapshot: Snapshot) -> Vec<Op> {
    let Snapshot { state, chunks } = snapshot;
    let chunk = |(number, value)| Op::Define { key: aborted_key(queue, number), value: Some(value) };
    let mut ops: Vec<Op> = chunks.into_iter().map(chunk).collect();
    ops.push(Op::Define { key: queue_key(SNAPSHOT, queue), value: Some(state) });
    ops
}

fn aborted_key(queue: QueueId, number: u64) -> Box<[u8]> {
    Writer::beginning(&[ABORTED]).number(queue.0).number(number).finish()
}

/// The queue and the number of such a definition.
pub(super) fn read_aborted_key(key: &[u8]) -> Result<(QueueId, u64), Malformed> {
    let mut r = Reader(key.get(1..).ok_or(Malformed)?);
    let read = (QueueId(r.number()?), r.number()?);
    r.end().map(|()| read)
}

/// Chunks of a partition's aborted transactions are not needed any more.
pub(super) fn no_aborted(queue: QueueId, numbers: Vec<u64>) -> impl Iterator<Item = Op> {
    numbers.into_iter().map(move |number| Op::Define { key: aborted_key(queue, number), value: None })
}

/// Up to where producer ids and queue numbers were given out: neither is used twice.
pub(super) fn numbers(producer_ids: u64, queues: u64) -> Op {
    let value = Writer::default().number(FORMAT).number(producer_ids).number(queues).finish();
    Op::Define { key: Box::new([NUMBERS]), value: Some(value) }
}

/// What a transactional id is at; `None`: it is forgotten.
pub(super) fn transaction(vhost: &str, id: &str, state: Option<Box<[u8]>>) -> Op {
    let key = Writer::beginning(&[TRANSACTION]).bytes(vhost.as_bytes()).bytes(id.as_bytes()).finish();
    Op::Define { key, value: state }
}

/// The vhost and the transactional id of such a definition.
pub(super) fn read_transaction_key(key: &[u8]) -> Result<(&str, &str), Malformed> {
    let mut r = Reader(key.get(1..).ok_or(Malformed)?);
    let names = (r.text()?, r.text()?);
    r.end().map(|()| names)
}

/// The next of what was added to a transaction; `None`: it has ended.
pub(super) fn addition(vhost: &str, id: &str, number: u64, addition: Option<Box<[u8]>>) -> Op {
    let key = Writer::beginning(&[ADDITION]).bytes(vhost.as_bytes()).bytes(id.as_bytes()).number(number).finish();
    Op::Define { key, value: addition }
}

/// The vhost, the transactional id and the number of such a definition.
pub(super) fn read_addition_key(key: &[u8]) -> Result<(&str, &str, u64), Malformed> {
    let mut r = Reader(key.get(1..).ok_or(Malformed)?);
    let read = (r.text()?, r.text()?, r.number()?);
    r.end().map(|()| read)
}

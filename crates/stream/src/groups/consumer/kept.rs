//! What is kept of a group for the time after a restart: its epochs; what each member has said; what each has and is to have. Each
//! is a definition of its own, written when it changes and before anybody hears of it, as Kafka's coordinators do.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use waypost_model::Millis;

use super::member::{Member, Phase};
use super::reconcile::each;
use super::{ConsumerGroup, Parts, SESSION_TIMEOUT_MS};
use crate::codec::{Malformed, Reader, Writer};
use crate::groups::Who;
use crate::streams::TopicId;

/// How all of them are written.
const FORMAT: u64 = 1;
/// Fewest bytes of a topic with its partitions, and of a text.
const TOPIC_BYTES_MIN: usize = 32;
const TEXT_BYTES_MIN: usize = 8;

type Id = Box<str>;

/// One of a group's definitions.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::groups) enum Piece {
    /// Its epochs.
    Epochs,
    /// What a member has said.
    Said(Id),
    /// What a member has, and is to have.
    Has(Id),
}

/// What a group's definitions hold.
pub(in crate::groups) type Pieces = BTreeMap<Piece, Box<[u8]>>;

/// What of a group is other than its definitions say.
#[derive(Debug, Default)]
pub(super) struct Changes {
    epochs: bool,
    said: BTreeSet<Id>,
    has: BTreeSet<Id>,
    gone: BTreeSet<Id>,
}

impl Changes {
    pub fn epochs(&mut self) {
        self.epochs = true;
    }

    pub fn said(&mut self, id: &str) {
        self.said.insert(id.into());
    }

    pub fn has(&mut self, id: &str) {
        self.has.insert(id.into());
    }

    /// It was a member, and may be one again by now.
    pub fn gone(&mut self, id: &str) {
        self.gone.insert(id.into());
    }
}

/// What topics a group reads, and which names match its members' patterns: enough to tell after a restart whether that has changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Fingerprint {
    crc: u32,
    /// How many partitions they have together.
    pub partitions: u64,
}

impl Fingerprint {
    pub fn of(topics: &BTreeMap<Arc<str>, (TopicId, u32)>, matches: &BTreeMap<Box<str>, Vec<Arc<str>>>) -> Fingerprint {
        let text = |crc, text: &str| {
            crc32c::crc32c_append(crc32c::crc32c_append(crc, &(text.len() as u64).to_be_bytes()), text.as_bytes())
        };
        let topic = |crc, (name, (id, count)): (&Arc<str>, &(TopicId, u32))| {
            crc32c::crc32c_append(crc32c::crc32c_append(text(crc, name), &id.0), &count.to_be_bytes())
        };
        let mut crc = topics.iter().fold(0, topic);
        for (pattern, names) in matches {
            crc = names.iter().fold(text(crc, pattern), |crc, name| text(crc, name));
        }
        Fingerprint { crc, partitions: topics.values().map(|(_, count)| u64::from(*count)).sum() }
    }
}

impl ConsumerGroup {
    /// The definitions that are to be written, those that go without a value. [`ConsumerGroup::kept`] says that they are.
    pub(in crate::groups) fn to_keep(&self) -> Vec<(Piece, Option<Box<[u8]>>)> {
        let Changes { epochs, said, has, gone } = &self.changes;
        let mut pieces = Vec::new();
        if *epochs {
            pieces.push((Piece::Epochs, (!self.members.is_empty()).then(|| self.write_epochs())));
        }
        for id in gone.iter().filter(|id| !self.members.contains_key(*id)) {
            pieces.extend([(Piece::Said(id.clone()), None), (Piece::Has(id.clone()), None)]);
        }
        let member = |id: &Id| Some((id.clone(), self.members.get(id)?));
        let said = said.iter().filter_map(member);
        pieces.extend(said.map(|(id, m)| (Piece::Said(id), Some(m.write_said()))));
        let has = has.iter().filter_map(member);
        pieces.extend(has.map(|(id, m)| (Piece::Has(id), Some(m.write_has()))));
        pieces
    }

    /// They are written.
    pub(in crate::groups) fn kept(&mut self) {
        self.changes = Changes::default();
    }

    /// All definitions that there should be.
    #[cfg(test)]
    pub(in crate::groups) fn pieces(&self) -> Pieces {
        let epochs = (!self.members.is_empty()).then(|| (Piece::Epochs, self.write_epochs()));
        let of = |(id, m): (&Id, &Member)| {
            [(Piece::Said(id.clone()), m.write_said()), (Piece::Has(id.clone()), m.write_has())]
        };
        epochs.into_iter().chain(self.members.iter().flat_map(of)).collect()
    }

    fn write_epochs(&self) -> Box<[u8]> {
        let Fingerprint { crc, partitions } = self.fingerprint;
        let w = Writer::default().number(FORMAT).number(self.epoch as u64).number(self.target_epoch as u64);
        w.number(crc.into()).number(partitions).finish()
    }

    /// A group as it was kept. Its members have their time from [`ConsumerGroup::resume`] on.
    ///
    /// # Errors
    /// It was not written by [`ConsumerGroup::to_keep`].
    pub(in crate::groups) fn recalled(mut pieces: Pieces) -> Result<ConsumerGroup, Malformed> {
        let mut group = ConsumerGroup { is_recalled: true, ..ConsumerGroup::default() };
        group.read_epochs(&pieces.remove(&Piece::Epochs).ok_or(Malformed)?)?;
        let said = |piece: &Piece| if let Piece::Said(id) = piece { Some(id.clone()) } else { None };
        for id in pieces.keys().filter_map(said).collect::<Vec<Id>>() {
            let mut member = Member::new(None, Millis(0));
            member.read_said(&pieces.remove(&Piece::Said(id.clone())).ok_or(Malformed)?)?;
            member.read_has(&pieces.remove(&Piece::Has(id.clone())).ok_or(Malformed)?)?;
            for part in each(&member.assigned).chain(each(&member.revoking)) {
                if group.owners.insert(part, id.clone()).is_some() {
                    return Err(Malformed);
                }
            }
            group.take_place(&id, member);
        }
        // What says what nobody has, or has what nobody has said.
        if group.members.is_empty() || !pieces.is_empty() { Err(Malformed) } else { Ok(group) }
    }

    fn read_epochs(&mut self, value: &[u8]) -> Result<(), Malformed> {
        let mut r = formatted(value)?;
        (self.epoch, self.target_epoch) = (r.number()? as i32, r.number()? as i32);
        let crc = u32::try_from(r.number()?).map_err(|_| Malformed)?;
        self.fingerprint = Fingerprint { crc, partitions: r.number()? };
        r.end()
    }

    /// Its members have their time again to say that they are there, and to let go.
    pub(in crate::groups) fn resume(&mut self, now: Millis) {
        for member in self.members.values_mut() {
            member.until = now.plus(SESSION_TIMEOUT_MS);
            member.revoke_until = (member.phase == Phase::Unrevoked).then(|| now.plus(member.rebalance_ms));
        }
    }
}

fn formatted(value: &[u8]) -> Result<Reader<'_>, Malformed> {
    let mut r = Reader(value);
    if r.number()? == FORMAT { Ok(r) } else { Err(Malformed) }
}

/// A text that may be none.
fn write_option(w: Writer, text: Option<&str>) -> Writer {
    w.number(text.is_some().into()).bytes(text.unwrap_or_default().as_bytes())
}

fn read_option(r: &mut Reader<'_>) -> Result<Option<Box<str>>, Malformed> {
    let is_some = r.number()? != 0;
    let text = r.text()?;
    Ok(is_some.then(|| text.into()))
}

fn write_parts(w: Writer, parts: &Parts) -> Writer {
    let topic = |w: Writer, (topic, all): (&TopicId, &BTreeSet<i32>)| {
        let numbers: Vec<u8> = all.iter().flat_map(|partition| partition.to_be_bytes()).collect();
        w.bytes(&topic.0).bytes(&numbers)
    };
    parts.iter().fold(w.number(parts.len() as u64), topic)
}

fn read_parts(r: &mut Reader<'_>) -> Result<Parts, Malformed> {
    let mut parts = Parts::new();
    for _ in 0..r.count(TOPIC_BYTES_MIN)? {
        let topic = TopicId(r.bytes()?.try_into().map_err(|_| Malformed)?);
        let (numbers, rest) = r.bytes()?.as_chunks::<4>();
        let all: BTreeSet<i32> = numbers.iter().map(|number| i32::from_be_bytes(*number)).collect();
        if !rest.is_empty() || all.len() != numbers.len() || parts.insert(topic, all).is_some() {
            return Err(Malformed);
        }
    }
    Ok(parts)
}

impl Member {
    fn write_said(&self) -> Box<[u8]> {
        let w = write_option(Writer::default().number(FORMAT), self.instance.as_deref());
        let w = write_option(w, self.rack.as_deref());
        let w = w.bytes(self.who.client_id.as_bytes()).bytes(self.who.host.as_bytes()).number(self.rebalance_ms);
        let w = write_option(w.bytes(self.pattern.as_bytes()), self.assignor.as_deref());
        let w = w.number(self.names.len() as u64);
        self.names.iter().fold(w, |w, name| w.bytes(name.as_bytes())).finish()
    }

    fn read_said(&mut self, value: &[u8]) -> Result<(), Malformed> {
        let mut r = formatted(value)?;
        (self.instance, self.rack) = (read_option(&mut r)?, read_option(&mut r)?);
        self.who = Who { client_id: r.text()?.into(), host: r.text()?.into() };
        self.rebalance_ms = r.number()?;
        self.pattern = r.text()?.into();
        self.assignor = read_option(&mut r)?;
        for _ in 0..r.count(TEXT_BYTES_MIN)? {
            self.names.insert(r.text()?.into());
        }
        r.end()
    }

    fn write_has(&self) -> Box<[u8]> {
        let w = Writer::default().number(FORMAT).number(self.epoch as u64).number(self.previous_epoch as u64);
        let w = write_parts(write_parts(w.number(self.phase as u64), &self.assigned), &self.revoking);
        // Most have what they are to have.
        let w = w.number((self.target != self.assigned).into());
        if self.target == self.assigned { w.finish() } else { write_parts(w, &self.target).finish() }
    }

    fn read_has(&mut self, value: &[u8]) -> Result<(), Malformed> {
        let mut r = formatted(value)?;
        (self.epoch, self.previous_epoch) = (r.number()? as i32, r.number()? as i32);
        self.phase = match r.number()? {
            0 => Phase::Stable,
            1 => Phase::Unrevoked,
            2 => Phase::Unreleased,
            _ => return Err(Malformed),
        };
        (self.assigned, self.revoking) = (read_parts(&mut r)?, read_parts(&mut r)?);
        self.target = match r.number()? {
            0 => self.assigned.clone(),
            1 => read_parts(&mut r)?,
            _ => return Err(Malformed),
        };
        r.end()
    }
}

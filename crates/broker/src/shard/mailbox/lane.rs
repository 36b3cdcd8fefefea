//! Lanes: the waiting messages of a mailbox that share a selector, and those with keys by slot.

use std::collections::BTreeSet;
use std::sync::Arc;

use waypost_model::selector::Selector;
use waypost_model::{Lsn, Route};

use super::super::fast_map::IdMap;
use super::super::ready::{Next, Ready};

/// Nothing that can be delivered.
pub(super) const NOTHING: u64 = u64::MAX;

/// Where some waiting messages of a queue stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct Source {
    pub lane: u16,
    /// Of keyed messages.
    pub slot: Option<u16>,
}

impl Source {
    /// Without selector and key: these are in the queue itself.
    pub const PLAIN: Source = Source { lane: 0, slot: None };
}

/// Where a run stands in its mailbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct Tag {
    pub lane: u16,
    pub(super) slot: u16,
    /// The zone that is preferred, by number; 0 for none.
    pub near: u8,
}

/// A [`Tag::slot`] that is none.
pub(super) const NO_SLOT: u16 = u16::MAX;

impl Default for Tag {
    fn default() -> Tag {
        Tag { lane: 0, slot: NO_SLOT, near: 0 }
    }
}

impl Tag {
    pub fn with_slot(self, slot: u16) -> Tag {
        Tag { slot, ..self }
    }

    pub fn source(self) -> Source {
        Source { lane: self.lane, slot: (self.slot != NO_SLOT).then_some(self.slot) }
    }
}

/// How urgent a message is: the least comes first. The priority, then the place.
pub(super) fn urgency(level: u8, first: u64) -> u64 {
    // Places are counted from 0: nobody will ever see 2^56 of them.
    u64::from(u8::MAX - level) << 56 | first & ((1 << 56) - 1)
}

/// What a lane is for.
#[derive(Debug, Clone)]
pub(super) enum Serves {
    /// Any instance that matches.
    Selector(Arc<Selector>),
    /// One instance, by id; what is here ends with it.
    Recipient(Box<str>),
    /// Messages with all sorts of selectors, in slots by their hash: there were too many.
    Mixed,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Lane {
    pub what: Serves,
    /// Messages without keys. Empty in lane 0, whose are the queue's own.
    pub ready: Ready,
    /// Members that may take messages, all that is said of them passing; the others, for when there is none of these.
    pub passing: Vec<u32>,
    pub warning: Vec<u32>,
    pub keyed: Option<Box<Keyed>>,
    /// Delivered and not settled.
    pub unsettled: u64,
    /// On the list of those whose head is new.
    pub dirty: bool,
    /// On the list of those that wait for the journal.
    pub blocked: bool,
    /// The instance of [`Serves::Recipient`] is no more.
    pub ended: bool,
}

/// The keyed messages of a lane.
#[derive(Debug, Default)]
pub(super) struct Keyed {
    /// Slots with messages, waiting or unsettled.
    pub slots: IdMap<u16, Slot>,
    /// Slots with messages that wait, the most urgent first.
    pub waiting: BTreeSet<(u64, u16)>,
    /// Those of them that anybody may take.
    pub free: BTreeSet<(u64, u16)>,
    /// Who had each slot last, by consumer's place plus 1: it gets it again if it can.
    last: Vec<u32>,
}

/// Keyed messages with one slot.
#[derive(Debug, Default)]
pub(super) struct Slot {
    pub ready: Option<Box<Ready>>,
    /// Who holds messages of it: it alone gets more.
    pub owner: Option<u32>,
    /// How many.
    pub unsettled: u64,
    /// As it stands in [`Keyed::waiting`].
    pub front: Option<u64>,
    /// As it stands in [`Keyed::free`] or with its owner; `None` while nothing can be delivered.
    pub head: Option<u64>,
    pub dirty: bool,
    pub blocked: bool,
    /// In a mixed lane: the selector of the message in front, and the route that it was read from.
    pub selector: Option<(Arc<Route>, Arc<Selector>)>,
}

impl Lane {
    pub fn new(what: Serves, max_priority: Option<u8>) -> Lane {
        Lane {
            what,
            ready: Ready::new(max_priority),
            passing: Vec::new(),
            warning: Vec::new(),
            keyed: None,
            unsettled: 0,
            dirty: false,
            blocked: false,
            ended: false,
        }
    }

    pub fn is_idle(&self) -> bool {
        self.unsettled == 0 && self.ready.is_empty() && self.keyed.as_ref().is_none_or(|k| k.slots.is_empty())
    }
}

impl Keyed {
    pub fn last(&self, slot: u16) -> Option<u32> {
        self.last.get(usize::from(slot)).and_then(|c| c.checked_sub(1))
    }

    pub fn note_last(&mut self, slot: u16, consumer: u32) {
        let at = usize::from(slot);
        if at >= self.last.len() {
            self.last.resize(at + 1, 0);
        }
        if let Some(place) = self.last.get_mut(at) {
            *place = consumer + 1;
        }
    }

    /// A consumer's place will be another's.
    pub fn forget(&mut self, consumer: u32) {
        self.last.iter_mut().filter(|c| **c == consumer + 1).for_each(|c| *c = 0);
    }

    pub fn free_head(&self) -> u64 {
        self.free.first().map_or(NOTHING, |(head, _)| *head)
    }
}

/// The most urgent message that can be delivered; else what it waits for.
pub(super) fn head_of(ready: &Ready, durable: Lsn) -> Result<u64, Option<Lsn>> {
    match ready.next(durable) {
        Next::Level(level) => ready.front(level).map(|r| urgency(level, r.first.0)).ok_or(None),
        Next::Empty => Err(None),
        Next::Blocked(lsn) => Err(Some(lsn)),
    }
}

/// The most urgent message, deliverable or not.
pub(super) fn front_of(ready: &Ready) -> Option<u64> {
    let level = ready.top()?;
    ready.front(level).map(|r| urgency(level, r.first.0))
}

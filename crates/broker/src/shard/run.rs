//! A run: messages of one queue with consecutive places and equal facts, moved about as one thing.

use std::sync::Arc;

use super::mailbox::Tag;
use waypost_model::event::Body;
use waypost_model::journal::SpillRef;
use waypost_model::{Attrs, Batch, BatchBuilder, Lsn, Millis, Route, Seq, Slot};

/// The deadline of what has none.
pub(super) const NEVER: Millis = Millis(u64::MAX);

/// Bookkeeping bytes that a message in memory costs beside its payload: its slot.
const SLOT_BYTES: u64 = size_of::<Slot>() as u64;

/// A flat part of a delivery's cost, per message: room for frames, and a bound on how many tiny messages are under way.
pub(super) const COST_FLAT: u64 = 64;

/// Where the bytes of a run are.
#[derive(Debug, Clone)]
pub(super) enum Bytes {
    /// In a batch, from [`Run::from`] on.
    Mem(Arc<Batch>),
    /// In the builder at the end of its level, from [`Run::from`] on; becomes `Mem` before anybody looks at it.
    Tail,
    /// In the journal.
    Stored,
    /// In the scratch log, from message [`Run::from`] of the range on. The last holder of the `Arc` releases the range.
    Spilled(Arc<SpillRef>),
}

/// See the module. A run is never empty, except as the mark of a removed one inside [`super::ready::Level`].
#[derive(Debug, Clone)]
pub(super) struct Run {
    /// Place of the first message.
    pub first: Seq,
    /// How many.
    pub count: u32,
    /// Index of the first message in what [`Run::bytes`] names.
    pub from: u32,
    /// Where the bytes are.
    pub bytes: Bytes,
    /// Where they were published to.
    pub route: Arc<Route>,
    /// What they are.
    pub attrs: Attrs,
    /// When they came; of a merged run, when the first came.
    pub at: Millis,
    /// When they die, or are due; the same for all of them.
    pub deadline: Millis,
    /// What must be durable before they are delivered; 0 when nothing.
    pub lsn: Lsn,
    /// Bytes of properties and bodies. Exact for runs in memory; where a stored run is split, the sum is.
    pub payload: u64,
    /// Bytes of bodies.
    pub body: u64,
    /// Failed deliveries.
    pub delivery_count: u32,
    /// Whether they may have been delivered before.
    pub redelivered: bool,
    /// Whether the journal knows them.
    pub logged: bool,
    /// Which part of a mailbox they belong to.
    pub tag: Tag,
    /// The slot of each message's key, where messages with several keys were delivered together; else empty. What waits
    /// shares a slot, which is the tag's.
    pub keys: Box<[u16]>,
}

impl Run {
    /// One behind the last place.
    pub fn end(&self) -> u64 {
        self.first.0 + u64::from(self.count)
    }

    /// The last place.
    pub fn last(&self) -> u64 {
        self.end().saturating_sub(1)
    }

    /// What delivering all of it costs in byte credit.
    pub fn cost(&self) -> u64 {
        self.payload + COST_FLAT * u64::from(self.count)
    }

    /// Bytes of memory that it accounts for.
    pub fn memory(&self) -> u64 {
        match self.bytes {
            Bytes::Mem(_) | Bytes::Tail => self.payload + SLOT_BYTES * u64::from(self.count),
            Bytes::Stored | Bytes::Spilled(_) => 0,
        }
    }

    /// The bytes as a delivery names them.
    pub fn body_ref(&self) -> Body {
        match &self.bytes {
            Bytes::Mem(batch) => Body::Mem { batch: Arc::clone(batch), from: self.from },
            Bytes::Spilled(at) => Body::Spilled { at: **at, skip: self.from },
            Bytes::Stored | Bytes::Tail => {
                debug_assert!(!matches!(self.bytes, Bytes::Tail), "a tail is sealed before it is read");
                Body::Stored
            }
        }
    }

    /// Whether both are in the same buffer.
    pub fn shares(&self, other: &Run) -> bool {
        matches!((&self.bytes, &other.bytes), (Bytes::Mem(a), Bytes::Mem(b)) if Arc::ptr_eq(a, b))
    }

    /// The slots, if it is in memory.
    pub fn slots(&self) -> Option<&[Slot]> {
        match &self.bytes {
            Bytes::Mem(batch) => batch.slots().get(self.from as usize..self.from as usize + self.count as usize),
            _ => None,
        }
    }

    /// How many messages from the front cost no more than `credit`, the one that uses it up included; at most `max`.
    pub fn fitting(&self, credit: u64, max: u32) -> u32 {
        if max == self.count && self.cost() <= credit {
            return max;
        }
        match self.slots() {
            Some(slots) => {
                let (mut spent, mut n) = (0u64, 0u32);
                for s in slots.iter().take(max as usize) {
                    if spent >= credit {
                        break;
                    }
                    spent += s.payload_len() as u64 + COST_FLAT;
                    n += 1;
                }
                n
            }
            None => {
                let each = self.cost() / u64::from(self.count.max(1));
                let n = credit.div_ceil(each.max(1)).min(u64::from(max));
                u32::try_from(n).unwrap_or(max)
            }
        }
    }

    /// Takes the first `n` messages off; `n` is more than 0 and less than all.
    pub fn split_front(&mut self, n: u32) -> Run {
        debug_assert!(n > 0 && n < self.count);
        let (payload, body) = match self.slots() {
            Some(slots) => sum(slots.get(..n as usize).unwrap_or_default()),
            None => (share(self.payload, n, self.count), share(self.body, n, self.count)),
        };
        let mut front = self.clone();
        if let Some((own, rest)) = self.keys.split_at_checked(n as usize) {
            (front.keys, self.keys) = (own.into(), rest.into());
        }
        front.count = n;
        (front.payload, front.body) = (payload, body);
        self.first = self.first.plus(u64::from(n));
        self.count -= n;
        if !matches!(self.bytes, Bytes::Stored) {
            self.from += n;
        }
        self.payload = self.payload.saturating_sub(payload);
        self.body = self.body.saturating_sub(body);
        front
    }

    /// Takes the first message off if the others have keys of their own.
    pub fn split_key(&mut self) -> Option<Run> {
        (self.keys.len() > 1).then(|| self.split_front(1))
    }

    /// The key that is left is the place of all.
    pub fn take_key(&mut self) {
        if let [slot] = *std::mem::take(&mut self.keys) {
            self.tag = self.tag.with_slot(slot);
        }
    }

    /// Whether everything but places and bytes is equal.
    pub fn same_facts(&self, other: &Run) -> bool {
        self.attrs == other.attrs
            && self.deadline == other.deadline
            && self.delivery_count == other.delivery_count
            && self.redelivered == other.redelivered
            && self.logged == other.logged
            && (Arc::ptr_eq(&self.route, &other.route) || self.route == other.route)
    }

    /// Takes in the run that follows, if places and bytes are adjacent and the facts equal. `false`: nothing was done.
    pub fn absorb(&mut self, next: &Run, sizes: Sizes) -> bool {
        let adjacent = match (&self.bytes, &next.bytes) {
            (Bytes::Mem(a), Bytes::Mem(b)) => Arc::ptr_eq(a, b) && self.from + self.count == next.from,
            (Bytes::Spilled(a), Bytes::Spilled(b)) => Arc::ptr_eq(a, b) && self.from + self.count == next.from,
            (Bytes::Stored, Bytes::Stored) => means_agree(self, next, sizes),
            (Bytes::Tail, Bytes::Tail) => self.from + self.count == next.from,
            _ => false,
        };
        if !adjacent || self.end() != next.first.0 || !self.same_facts(next) {
            return false;
        }
        let Some(count) = self.count.checked_add(next.count) else {
            return false;
        };
        self.count = count;
        self.payload += next.payload;
        self.body += next.body;
        self.lsn = self.lsn.max(next.lsn);
        true
    }

    /// Copies the messages into a batch of their own if they are less than `1/part` of the one that they pin.
    pub fn tighten(&mut self, part: u64) {
        let Bytes::Mem(batch) = &self.bytes else {
            return;
        };
        let own = self.memory();
        if own.saturating_mul(part) >= batch.footprint() as u64 {
            return;
        }
        let mut b = BatchBuilder::with_capacity(usize::try_from(self.payload).unwrap_or(0), self.count as usize);
        b.extend(batch, self.from, self.from + self.count);
        self.bytes = Bytes::Mem(Arc::new(b.finish()));
        self.from = 0;
    }

    /// Gives up the bytes in memory, which the journal has. The result is split where sizes differ so much that the
    /// mean would mislead (`Exact`: where they differ at all), since only sums are kept.
    pub fn into_stored(mut self, sizes: Sizes, mut push: impl FnMut(Run)) {
        while let Some(n) = self.alike(sizes).filter(|n| *n < self.count) {
            let mut front = self.split_front(n);
            (front.bytes, front.from) = (Bytes::Stored, 0);
            push(front);
        }
        (self.bytes, self.from) = (Bytes::Stored, 0);
        push(self);
    }

    /// How many messages from the front have sizes like the first.
    fn alike(&self, sizes: Sizes) -> Option<u32> {
        let slots = self.slots()?;
        let key = sizes.key(slots.first()?);
        u32::try_from(slots.iter().take_while(|s| sizes.key(s) == key).count()).ok()
    }
}

/// How precisely the sizes of single messages are to be known once their bytes are gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sizes {
    /// Within a factor of four, or 1 KiB.
    Near,
    /// To the byte: the queue has a limit in bytes.
    Exact,
}

impl Sizes {
    fn key(self, s: &Slot) -> (u64, u64) {
        match self {
            Sizes::Near => (u64::from(class(s.payload_len() as u64)), 0),
            Sizes::Exact => (u64::from(s.props_len), u64::from(s.body_len)),
        }
    }
}

/// Whether two stored runs may share a mean.
fn means_agree(a: &Run, b: &Run, sizes: Sizes) -> bool {
    match sizes {
        Sizes::Near => size_class(a) == size_class(b),
        Sizes::Exact => {
            a.payload * u64::from(b.count) == b.payload * u64::from(a.count)
                && a.body * u64::from(b.count) == b.body * u64::from(a.count)
        }
    }
}

fn size_class(run: &Run) -> u32 {
    class(run.payload / u64::from(run.count.max(1)))
}

/// 0 up to 1 KiB, then one more per factor of four.
fn class(bytes: u64) -> u32 {
    let kib = bytes.div_ceil(1024).max(1);
    (u64::BITS - (kib - 1).leading_zeros()).div_ceil(2)
}

/// Payload and body bytes of slots.
pub(super) fn sum(slots: &[Slot]) -> (u64, u64) {
    let (mut props, mut body) = (0u64, 0u64);
    for s in slots {
        props += u64::from(s.props_len);
        body += u64::from(s.body_len);
    }
    (props + body, body)
}

fn share(total: u64, n: u32, of: u32) -> u64 {
    // Cannot overflow: the product of a sum of lengths and a u32 fits 128 bits; the quotient is at most `total`.
    (u128::from(total) * u128::from(n) / u128::from(of.max(1))) as u64
}

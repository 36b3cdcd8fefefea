//! Which message is at the head of each source.

use waypost_model::Lsn;

use super::super::ready::Ready;
use super::lane::{NOTHING, front_of, head_of};
use super::{Mailbox, Source};

/// Whether what is at a new head is to be offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Mark {
    Dirty,
    /// Whoever calls sees to it.
    No,
}

impl Mailbox {
    /// A source may have another head. `plain` are the queue's own messages.
    pub fn sync(&mut self, source: Source, plain: &Ready, durable: Lsn, mark: Mark) {
        match source.slot {
            None => self.sync_lane(source, plain, durable, mark),
            Some(slot) => self.sync_slot(source, slot, durable, mark),
        }
    }

    fn sync_lane(&mut self, source: Source, plain: &Ready, durable: Lsn, mark: Mark) {
        let at = usize::from(source.lane);
        let (Some(lane), Some(place)) = (self.lanes.get_mut(at), self.heads.get_mut(at)) else {
            return;
        };
        let ready = if source == Source::PLAIN { plain } else { &lane.ready };
        let (head, blocked) = match head_of(ready, durable) {
            Ok(head) => (head, None),
            Err(blocked) => (NOTHING, blocked),
        };
        let fresh = head != NOTHING && head != *place;
        *place = head;
        if fresh && mark == Mark::Dirty && !lane.dirty {
            lane.dirty = true;
            self.dirty_sources.push(source);
        }
        if let Some(lsn) = blocked {
            self.blocked_by = Some(self.blocked_by.map_or(lsn, |b| b.min(lsn)));
            if !std::mem::replace(&mut lane.blocked, true) {
                self.blocked.push(source);
            }
        }
    }

    fn sync_slot(&mut self, source: Source, slot: u16, durable: Lsn, mark: Mark) {
        let at = usize::from(source.lane);
        let Some(keyed) = self.lanes.get_mut(at).and_then(|l| l.keyed.as_deref_mut()) else {
            return;
        };
        let Some(s) = keyed.slots.get_mut(&slot) else {
            return;
        };
        let front = s.ready.as_deref().and_then(front_of);
        if front != s.front {
            s.front.map(|f| keyed.waiting.remove(&(f, slot)));
            front.map(|f| keyed.waiting.insert((f, slot)));
            s.front = front;
        }
        let (head, blocked) = match s.ready.as_deref().map(|r| head_of(r, durable)) {
            Some(Ok(head)) => (Some(head), None),
            Some(Err(blocked)) => (None, blocked),
            None => (None, None),
        };
        let owner = s.owner.filter(|_| s.unsettled > 0);
        let was = s.head.take();
        // Its owner may have changed: it is taken from both lists.
        if let Some(head) = was {
            keyed.free.remove(&(head, slot));
            if let Some(seat) = s.owner.and_then(|c| self.seats.get_mut(c as usize)?.as_mut()) {
                seat.owned.remove(&(head, source.lane, slot));
            }
        }
        s.head = head;
        s.owner = owner;
        if let Some(head) = head {
            match owner {
                None => drop(keyed.free.insert((head, slot))),
                Some(c) => {
                    if let Some(seat) = self.seats.get_mut(c as usize).and_then(Option::as_mut) {
                        seat.owned.insert((head, source.lane, slot));
                    }
                }
            }
            if mark == Mark::Dirty && !s.dirty {
                s.dirty = true;
                self.dirty_sources.push(source);
            }
        }
        if let Some(lsn) = blocked {
            self.blocked_by = Some(self.blocked_by.map_or(lsn, |b| b.min(lsn)));
            if !std::mem::replace(&mut s.blocked, true) {
                self.blocked.push(source);
            }
        }
        if s.front.is_none() && s.unsettled == 0 {
            keyed.slots.remove(&slot);
        }
        if let Some(place) = self.free_heads.get_mut(at) {
            *place = keyed.free_head();
        }
    }

    /// The journal has advanced: what waited for it may be deliverable. Whether anything did.
    pub fn unblock(&mut self, plain: &Ready, durable: Lsn) -> bool {
        if self.blocked_by.is_none_or(|lsn| lsn > durable) {
            return false;
        }
        self.blocked_by = None;
        for source in std::mem::take(&mut self.blocked) {
            if let Some(flag) = self.flags(source).map(|(_, blocked)| blocked) {
                *flag = false;
            }
            self.sync(source, plain, durable, Mark::Dirty);
        }
        true
    }
}

//! What happens to waiting messages otherwise: they come back, expire, are too many, take too much memory, or come from
//! before a restart; and what the passing of time does to members.

use waypost_model::{Lsn, Millis};

use super::super::level::Merge;
use super::super::queue::{Core, Queue};
use super::super::ready::Ready;
use super::super::run::{NEVER, Run};
use super::lane::{Serves, front_of};
use super::{Mailbox, Mark, Source, Sums};
use crate::context::Cx;

/// After a restart recipients have that long to come back for their copies, ms.
pub const ORPHANS_MS: u64 = 60_000;

impl Queue {
    /// How much waits, in lanes and elsewhere.
    pub fn waiting_sums(&self) -> Sums {
        let mut all = self.mailbox.as_ref().map_or(Sums::default(), |mb| mb.sums);
        all.messages += self.ready.messages();
        all.payload += self.ready.payload();
        all.body += self.ready.body();
        all.memory += self.ready.memory();
        all
    }

    /// How many messages wait.
    pub fn waiting_messages(&self) -> u64 {
        self.ready.messages() + self.mailbox.as_ref().map_or(0, |mb| mb.sums.messages)
    }

    /// Bytes in memory of those.
    pub fn waiting_memory(&self) -> u64 {
        self.ready.memory() + self.mailbox.as_ref().map_or(0, |mb| mb.sums.memory)
    }

    /// Bytes of properties and bodies of those.
    pub fn waiting_payload(&self) -> u64 {
        self.ready.payload() + self.mailbox.as_ref().map_or(0, |mb| mb.sums.payload)
    }

    /// Sizes are to be kept as precisely as the settings want.
    pub fn resize(&mut self) {
        let sizes = self.sizes();
        self.ready.sizes = sizes;
        if let Some(mb) = self.mailbox.as_deref_mut() {
            mb.sizes = sizes;
            for l in &mut mb.lanes {
                l.ready.sizes = sizes;
                let slots = l.keyed.iter_mut().flat_map(|k| k.slots.values_mut());
                slots.filter_map(|s| s.ready.as_deref_mut()).for_each(|r| r.sizes = sizes);
            }
        }
    }

    /// Bytes of bodies of those.
    pub fn waiting_body(&self) -> u64 {
        self.ready.body() + self.mailbox.as_ref().map_or(0, |mb| mb.sums.body)
    }

    /// Puts a delivered run back where it belongs. Copies whose recipient is no more end.
    pub fn give_back(&mut self, run: Run, core: &mut Core, cx: &mut Cx<'_>) {
        let source = run.tag.source();
        let Some(mb) = self.mailbox.as_deref_mut() else {
            return self.ready.give_back(run);
        };
        if mb.lane(source.lane).is_some_and(|l| l.ended) {
            mb.ended += u64::from(run.count);
            return self.discard(run, core, cx);
        }
        if source == Source::PLAIN {
            self.ready.give_back(run);
        } else {
            mb.with(source, |r| r.give_back(run));
        }
        mb.sync(source, &self.ready, core.durable, Mark::Dirty);
    }

    /// A run that was there before a restart, at its place.
    pub fn keep_restored(&mut self, mut run: Run, cx: &mut Cx<'_>) {
        if run.route.address.is_none() {
            return self.ready.keep(run, Merge::Allowed);
        }
        let route = std::sync::Arc::clone(&run.route);
        let mb = self.mailbox_mut(cx);
        run.tag = mb.tag_of(&route);
        mb.orphans_at = cx.now.plus(ORPHANS_MS);
        mb.wake_by(Some(mb.orphans_at));
        let source = run.tag.source();
        mb.with(source, |r| r.keep(run, Merge::Allowed));
        if let Some(mb) = self.mailbox.as_deref_mut() {
            mb.sync(source, &self.ready, Lsn(0), Mark::Dirty);
        }
    }

    /// Takes a run whose time has come out of a lane.
    pub fn take_expired_in_lanes(&mut self, core: &Core, now: Millis) -> Option<Run> {
        let mb = self.mailbox.as_deref_mut().filter(|mb| mb.next_deadline <= now)?;
        let mut next = NEVER;
        for source in mb.sources() {
            let taken = mb.with(source, |r| r.take_expired(now)).flatten();
            if taken.is_some() {
                mb.sync(source, &self.ready, core.durable, Mark::Dirty);
                return taken;
            }
            next = next.min(mb.ready(source).map_or(NEVER, Ready::next_deadline));
        }
        mb.next_deadline = next;
        None
    }

    /// When something is to be looked at in lanes.
    pub fn lanes_due(&self) -> Millis {
        self.mailbox.as_ref().map_or(NEVER, |mb| mb.next_deadline.min(mb.wake_at))
    }

    /// Time has passed: silent consumers get wider windows, the ejected their probes.
    pub fn wake_members(&mut self, core: &mut Core, cx: &mut Cx<'_>) {
        let Some(mb) = self.mailbox.as_deref_mut().filter(|mb| mb.wake_at <= cx.now) else {
            return;
        };
        mb.wake_at = NEVER;
        let roster = self.roster.as_deref();
        let held = |slot: u32| roster.and_then(|r| r.get(slot)).map_or(0, |c| c.held.messages());
        mb.wake(held, cx.now);
        if mb.orphans_at <= cx.now {
            mb.orphans_at = NEVER;
            mb.end_orphans();
        }
        self.end_copies(core, cx);
    }

    /// Removes what waits for recipients that are no more.
    pub fn end_copies(&mut self, core: &mut Core, cx: &mut Cx<'_>) {
        let Some(mb) = self.mailbox.as_deref_mut() else {
            return;
        };
        let mut ended = Vec::new();
        for lane in 1..mb.lanes.len() as u16 {
            if mb.lane(lane).is_some_and(|l| l.ended && !l.ready.is_empty()) {
                let source = Source { lane, slot: None };
                ended.extend(mb.with(source, Ready::take_all).unwrap_or_default());
                mb.sync(source, &self.ready, core.durable, Mark::No);
            }
        }
        mb.ended += ended.iter().map(|r| u64::from(r.count)).sum::<u64>();
        for run in ended {
            self.discard(run, core, cx);
        }
    }

    /// The source of the message that is next in line, deliverable or not.
    pub fn first_source(&self) -> Option<Source> {
        let plain = front_of(&self.ready).map(|f| (f, Source::PLAIN));
        let in_lanes = self.mailbox.as_ref().and_then(|mb| mb.first_source());
        match (plain, in_lanes) {
            (Some(a), Some(b)) => Some(if a.0 < b.0 { a.1 } else { b.1 }),
            (a, b) => a.or(b).map(|(_, source)| source),
        }
    }

    /// Works on the messages of any source; its head follows.
    pub fn with_source<R>(&mut self, source: Source, core: &Core, f: impl FnOnce(&mut Ready) -> R) -> Option<R> {
        if source == Source::PLAIN {
            return Some(f(&mut self.ready));
        }
        let mb = self.mailbox.as_deref_mut()?;
        let result = mb.with(source, f);
        mb.sync(source, &self.ready, core.durable, Mark::Dirty);
        result
    }

    /// All sources in lanes that have messages.
    pub fn lane_sources(&self) -> Vec<Source> {
        self.mailbox.as_ref().map(|mb| mb.sources()).unwrap_or_default()
    }

    /// Other priorities or another precision of sizes: everything that waits finds a new place.
    pub fn rebuild(&mut self, core: &Core) {
        let sizes = self.sizes();
        let levels = self.settings.max_priority;
        let mut readies = vec![(Source::PLAIN, std::mem::replace(&mut self.ready, Ready::new(levels)))];
        self.ready.sizes = sizes;
        let sources = self.lane_sources();
        if let Some(mb) = self.mailbox.as_deref_mut() {
            (mb.max_priority, mb.sizes) = (levels, sizes);
            let fresh = || {
                let mut ready = Ready::new(levels);
                ready.sizes = sizes;
                ready
            };
            for source in sources {
                readies.extend(mb.with(source, |r| (source, std::mem::replace(r, fresh()))));
            }
            mb.lanes.iter_mut().filter(|l| l.ready.is_empty()).for_each(|l| l.ready = fresh());
        }
        for (source, mut old) in readies {
            let mut runs: Vec<Run> = old.take_all();
            runs.sort_unstable_by_key(|r| r.first);
            self.with_source(source, core, |r| runs.into_iter().for_each(|run| r.keep(run, Merge::Allowed)));
        }
        if let Some(mb) = self.mailbox.as_deref_mut() {
            mb.sync(Source::PLAIN, &self.ready, core.durable, Mark::Dirty);
        }
    }
}

impl Mailbox {
    /// The sources that have messages.
    fn sources(&self) -> Vec<Source> {
        let mut all = Vec::new();
        for (lane, l) in (0u16..).zip(&self.lanes) {
            if !l.ready.is_empty() {
                all.push(Source { lane, slot: None });
            }
            let slots = l.keyed.iter().flat_map(|k| k.waiting.iter());
            all.extend(slots.map(|(_, slot)| Source { lane, slot: Some(*slot) }));
        }
        all
    }

    fn first_source(&self) -> Option<(u64, Source)> {
        let lanes = (0u16..).zip(&self.lanes);
        let fronts = lanes.flat_map(|(lane, l)| {
            let slot = l.keyed.as_ref().and_then(|k| k.waiting.first());
            let keyed = slot.map(|(front, slot)| (*front, Source { lane, slot: Some(*slot) }));
            front_of(&l.ready).map(|front| (front, Source { lane, slot: None })).into_iter().chain(keyed)
        });
        fronts.min_by_key(|(front, _)| *front)
    }

    fn wake(&mut self, held: impl Fn(u32) -> u64, now: Millis) {
        let mut marked = Vec::new();
        let mut next = NEVER;
        for (slot, seat) in (0u32..).zip(&mut self.seats) {
            let Some(seat) = seat else { continue };
            let (wider, again) = seat.widen(held(slot), now);
            if wider {
                marked.push(seat.member);
            }
            next = next.min(again.unwrap_or(NEVER));
        }
        for (m, member) in (0u32..).zip(&self.members) {
            if member.as_ref().is_some_and(|x| x.unfinished) {
                marked.push(m);
            }
            match member.as_ref().and_then(|x| x.ejected) {
                Some(e) if e.probe_at <= now => marked.push(m),
                Some(e) => next = next.min(e.probe_at),
                None => {}
            }
        }
        self.wake_by(Some(next.min(if self.orphans_at > now { self.orphans_at } else { NEVER })));
        marked.into_iter().for_each(|m| self.mark_member(m));
    }

    /// Recipients that have not come back since the restart are given up.
    fn end_orphans(&mut self) {
        let known = &self.by_id;
        for lane in &mut self.lanes {
            if let Serves::Recipient(id) = &lane.what {
                lane.ended |= !known.contains_key(id);
            }
        }
    }
}

//! Messages to one mailbox that come in a row, handed over together.
//!
//! A peer that sends to many selectors in turn makes runs of one message, and each would be a delivery of its own. So
//! what a turn brings for a mailbox is gathered, grouped by what it asks for, and enqueued group by group: first
//! deliveries keep their order within a lane, and lanes do not wait for each other.

use std::iter::Peekable;
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};

use waypost_model::{
    AttrFlags, Attrs, Batch, BatchBuilder, ChannelId, Command, Event, Publish, QueueId, Refusal, Route,
};

use super::addressing::{Asked, ServiceRoute, Variants};
use super::publish::waiting;
use crate::broker::peer::Connection;
use crate::broker::publish::{Resolved, Run, Verdict};
use crate::broker::{Broker, Work};
use crate::context::Cx;
use crate::settings::{Overflow, QueueSettings};
use crate::shard::{Dealing, Incoming, Placed, Shard};

/// Messages of more bytes than that, on average, are not copied to lie beside each other.
const COPIED_BYTES_MAX: u64 = 1024;

/// Places of the table of groups, by route.
const PLACES: usize = 1024;

/// So many neighbours are handed over before others are taken.
const ITEMS_MAX: usize = 8192;

/// From so many groups on, small messages are better gathered from larger reads.
const SPREAD_GROUPS: usize = 8;

/// What is kept for the next that gathers: few do at the same time.
const SPARE_MAX: usize = 4;

/// No item, no group.
const NONE: u32 = u32::MAX;

/// What a connection has gathered.
#[derive(Debug, Default)]
pub(in crate::broker) struct Gathered {
    mailbox: Option<Arc<QueueSettings>>,
    batch: Option<Arc<Batch>>,
    items: Vec<Item>,
    groups: Vec<Group>,
    /// The last group of each place, by its route; what is out of date is found to be another's.
    places: Vec<u32>,
    dealing: Dealing,
    /// Messages that were published, what could not be kept included: those to be confirmed second.
    came: (u64, u64),
}

/// Neighbours that ask for the same.
#[derive(Debug)]
struct Item {
    channel: ChannelId,
    /// The confirm number of the last of them.
    confirm: Option<u64>,
    from: u32,
    to: u32,
    group: u32,
    /// The next of its group.
    next: u32,
    /// Of its key, if its group has keys.
    slot: u16,
}

/// Those that ask for the same, neighbours or not.
#[derive(Debug)]
struct Group {
    /// Of messages with keys: without their slots.
    route: Arc<Route>,
    keyed: bool,
    attrs: Attrs,
    /// Where its route has its place, and the group that was the last one there before.
    place: (usize, u32),
    first: u32,
    last: u32,
    items: u32,
    messages: u32,
    /// Of properties and bodies.
    bytes: u64,
    verdict: Option<Verdict>,
}

impl Gathered {
    /// Whether a message can be kept with those that are here.
    fn takes(&self, mailbox: &QueueSettings, batch: &Arc<Batch>) -> bool {
        let same = self.batch.as_ref().is_none_or(|known| Arc::ptr_eq(known, batch));
        same && self.items.len() < ITEMS_MAX && self.mailbox.as_ref().is_none_or(|known| known.id == mailbox.id)
    }

    fn add(&mut self, p: &Publish, (from, to): (u32, u32), asked: Asked<'_>) {
        let attrs = waiting(p.attrs, asked.wait_ms);
        let confirm = p.confirm.map(|last| last - u64::from(p.to - to));
        let group = self.group(asked.route, asked.slot.is_some(), attrs);
        let Some(g) = self.groups.get_mut(group as usize) else { return };
        g.messages += to - from;
        g.bytes += self.batch.as_ref().map_or(0, |b| b.payload_len(from, to));
        let last = self.items.last_mut().filter(|_| asked.slot.is_none());
        if let Some(item) = last.filter(|i| i.group == group && i.to == from && i.channel == p.channel)
            && item.confirm.is_some() == confirm.is_some()
        {
            (item.to, item.confirm) = (to, confirm);
            return;
        }
        let at = self.items.len() as u32;
        let before = std::mem::replace(&mut g.last, at);
        g.items += 1;
        match self.items.get_mut(before as usize) {
            Some(item) => item.next = at,
            None => g.first = at,
        }
        let slot = asked.slot.unwrap_or_default();
        self.items.push(Item { channel: p.channel, confirm, from, to, group, next: NONE, slot });
    }

    /// The group of messages with this route, the last one if there are several: they stay in order. Which groups there are
    /// does not depend on where routes lie in memory.
    fn group(&mut self, route: &Arc<Route>, keyed: bool, attrs: Attrs) -> u32 {
        if self.places.is_empty() {
            self.places.resize(PLACES, NONE);
        }
        // Allocations lie apart by 16 bytes at least.
        let at = (Arc::as_ptr(route) as usize as u64 >> 4) << 1 | u64::from(keyed);
        let at = (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize % PLACES;
        let here = |n: u32| self.groups.get(n as usize).filter(|g| g.place.0 == at);
        let latest = self.places.get(at).copied().filter(|n| here(*n).is_some()).unwrap_or(NONE);
        let (mut known, mut before) = (latest, here(latest));
        while let Some(g) = before {
            if Arc::ptr_eq(&g.route, route) && g.keyed == keyed {
                if g.attrs == attrs {
                    return known;
                }
                break;
            }
            (known, before) = (g.place.1, here(g.place.1));
        }
        let group = self.groups.len() as u32;
        if let Some(p) = self.places.get_mut(at) {
            *p = group;
        }
        let (route, place) = (Arc::clone(route), (at, latest));
        let (first, last) = (NONE, NONE);
        let (items, messages, bytes) = (0, 0, 0);
        self.groups.push(Group { route, keyed, attrs, place, first, last, items, messages, bytes, verdict: None });
        group
    }

    /// Keeps a publish that follows those that are here, if it is one of those that need no further thought.
    fn joins(&mut self, p: &Publish, base: &Arc<ServiceRoute>, batch: &Arc<Batch>, variants: &mut Variants) -> bool {
        let (Some(here), Some(mailbox)) = (&self.mailbox, &base.mailbox) else { return false };
        let plain = p.batch.is_none() && p.from < p.to && !p.attrs.flags.has(AttrFlags::SENDER_SELECTED);
        if !plain || here.id != mailbox.id || !self.takes(mailbox, batch) {
            return false;
        }
        if !p.attrs.flags.has(AttrFlags::HEADERS) {
            self.add(p, (p.from, p.to), base.asked());
        } else {
            match variants.asked(base, batch.props(p.from)) {
                Ok(asked) if asked.all.is_none() && p.to - p.from == 1 => self.add(p, (p.from, p.to), asked),
                _ => return false,
            }
        }
        self.count(p);
        true
    }

    /// The messages of a publish have come.
    fn count(&mut self, p: &Publish) {
        let came = if p.confirm.is_some() { &mut self.came.1 } else { &mut self.came.0 };
        *came += u64::from(p.to - p.from);
    }

    /// Ready for more, with the room that it has.
    fn clear(&mut self) {
        (self.mailbox, self.batch, self.came) = (None, None, (0, 0));
        self.items.clear();
        self.groups.clear();
    }
}

impl Group {
    fn own<'a>(&self, items: &'a [Item]) -> impl Iterator<Item = &'a Item> + Clone {
        std::iter::successors(items.get(self.first as usize), |item| items.get(item.next as usize))
    }

    /// Whether the messages are small enough to be copied to lie beside each other; how many bytes they are.
    fn small(&self) -> Option<usize> {
        let small = self.bytes <= COPIED_BYTES_MAX * u64::from(self.messages);
        small.then(|| usize::try_from(self.bytes).unwrap_or(0))
    }
}

/// Gathers the publishes that follow one that was gathered just now, as long as they come on the same channel and are for the
/// same mailbox: nothing is asked again that holds for all of them.
pub(in crate::broker) fn gather_neighbours(
    conn: &mut Connection,
    channel: ChannelId,
    commands: &mut Peekable<impl Iterator<Item = Command>>,
    batch: &Arc<Batch>,
) {
    let Connection { gathered: Some(gathered), variants, routes, .. } = conn else { return };
    while let Some(Command::Publish(p)) = commands.peek() {
        let Some(Resolved::Service(base)) = routes.known(&p.route).map(|known| &**known) else { return };
        if p.channel != channel || !gathered.joins(p, base, batch, variants) {
            return;
        }
        commands.next();
    }
}

impl Broker {
    /// Keeps messages of a run until others are there, or something else is to be done. Returns the first that cannot
    /// be kept, and why if it is to be refused.
    pub(super) fn gather(
        &self,
        conn: &mut Connection,
        p: &Publish,
        run: &Run<'_>,
        base: &Arc<ServiceRoute>,
        w: &mut Work<'_>,
    ) -> (u32, Option<Refusal>) {
        let Some(mailbox) = base.mailbox.as_ref().filter(|m| m.overflow == Overflow::DropHead) else {
            self.note_publish(conn, p);
            return (run.from, None);
        };
        if conn.gathered.as_ref().is_some_and(|g| !g.takes(mailbox, run.batch)) {
            self.hand_gathered(conn, w);
        }
        let Connection { gathered, variants, .. } = conn;
        let gathered = gathered.get_or_insert_with(|| Box::new(self.spare_lock().pop().unwrap_or_default()));
        if gathered.mailbox.is_none() {
            (gathered.mailbox, gathered.batch) = (Some(Arc::clone(mailbox)), Some(Arc::clone(run.batch)));
        }
        gathered.count(p);
        if !run.attrs.flags.has(AttrFlags::HEADERS) {
            gathered.add(p, (run.from, run.to), base.asked());
            return (run.to, None);
        }
        for i in run.from..run.to {
            match variants.asked(base, run.batch.props(i)) {
                Ok(asked) if asked.all.is_none() => gathered.add(p, (i, i + 1), asked),
                Ok(_) => return (i, None),
                Err(refusal) => return (i, Some(refusal)),
            }
        }
        (run.to, None)
    }

    /// Hands over what was gathered, and says what became of it.
    pub(in crate::broker) fn hand_gathered(&self, conn: &mut Connection, w: &mut Work<'_>) {
        let Some(mut all) = conn.gathered.take() else {
            return;
        };
        let Gathered { mailbox: Some(mailbox), batch: Some(batch), items, groups, dealing, came, .. } = &mut *all
        else {
            return;
        };
        for (count, confirm) in [(came.0, false), (came.1, true)] {
            if count > 0 {
                self.note_published(conn, count, confirm);
            }
        }
        let (id, at) = (mailbox.id, w.now);
        let variants = &mut conn.variants;
        self.with_shard(id.shard(), w, |shard, cx| {
            let mut reach = Reach { mailbox: id, shard, cx };
            for group in groups.iter_mut() {
                let (route, batch, attrs) = (Arc::clone(&group.route), Arc::clone(batch), group.attrs);
                let all = Incoming { route, batch, from: 0, to: 0, attrs, at, due: None };
                group.verdict = Some(match group.keyed {
                    true => reach.hand_keyed(group, items, &all, (dealing, variants)),
                    false => reach.hand(group, items, &all),
                });
            }
        });
        let count: u64 = groups.iter().map(|g| u64::from(g.messages)).sum();
        conn.spread |= groups.len() >= SPREAD_GROUPS && batch.data().len() as u64 <= COPIED_BYTES_MAX * count;
        self.counters.routed.fetch_add(count, Ordering::Relaxed);
        if conn.keeps_place {
            conn.placed = groups.last().and_then(|g| {
                let slot = items.get(g.last as usize).filter(|_| g.keyed).map(|item| item.slot);
                let bare = || Arc::clone(&g.route);
                let route = slot.map_or_else(bare, |slot| variants.with_slot(&g.route, slot));
                Some(Placed { queue: id, seq: g.verdict?.first, route })
            });
        }
        self.confirm_gathered(conn, items, groups);
        all.clear();
        let mut spare = self.spare_lock();
        if spare.len() < SPARE_MAX {
            spare.push(*all);
        }
    }

    fn spare_lock(&self) -> MutexGuard<'_, Vec<Gathered>> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Each message shares the fate of its group: a queue that drops from its head takes all or, where the disk has no
    /// room, none.
    fn confirm_gathered(&self, conn: &mut Connection, items: &[Item], groups: &[Group]) {
        let mut told: Option<(ChannelId, u64, u64, Verdict)> = None;
        for item in items {
            let verdict = groups.get(item.group as usize).and_then(|g| g.verdict);
            let Some(verdict) = verdict else { continue };
            conn.ahead |= verdict.ahead;
            let Some(last) = item.confirm else {
                if let Some(e) = verdict.error {
                    let refusal = Refusal::precondition_failed(format!("cannot store persistent messages: {e}"));
                    self.refuse(conn, item.channel, Event::PUBLISH_TOKEN, refusal);
                }
                continue;
            };
            let first = last - u64::from(item.to - item.from - 1);
            told = match told {
                Some((channel, from, before, of)) if channel == item.channel && before + 1 == first => {
                    if of.error.is_some() == verdict.error.is_some() {
                        let lsn = of.lsn.max(verdict.lsn);
                        Some((channel, from, last, Verdict { lsn, ..of }))
                    } else {
                        self.tell(conn, (channel, from, before), of);
                        Some((channel, first, last, verdict))
                    }
                }
                Some((channel, from, before, of)) => {
                    self.tell(conn, (channel, from, before), of);
                    Some((item.channel, first, last, verdict))
                }
                None => Some((item.channel, first, last, verdict)),
            };
        }
        if let Some((channel, first, last, verdict)) = told {
            self.tell(conn, (channel, first, last), verdict);
        }
    }

    fn tell(&self, conn: &Connection, (channel, first, last): (ChannelId, u64, u64), verdict: Verdict) {
        let outbox = &conn.peer.outbox;
        if verdict.error.is_some() {
            return outbox.push(Event::Rejected { channel, first, last });
        }
        if let Some(lsn) = verdict.lsn {
            self.waiting.add(&conn.peer, lsn);
        }
        outbox.push(Event::Accepted { channel, first, last, lsn: verdict.lsn });
        self.counters.confirmed.fetch_add(last + 1 - first, Ordering::Relaxed);
    }
}

/// How a mailbox is reached while its shard is held.
struct Reach<'a, 'b> {
    mailbox: QueueId,
    shard: &'a mut Shard,
    cx: &'a mut Cx<'b>,
}

impl Reach<'_, '_> {
    fn enqueue(&mut self, run: Incoming) -> Verdict {
        self.shard.enqueue(&[self.mailbox], run, self.cx).into()
    }

    /// Messages without: as one run, if they lie beside each other or are small enough to be copied.
    fn hand(&mut self, group: &Group, items: &[Item], all: &Incoming) -> Verdict {
        let own = group.own(items);
        let room = if group.items > 1 { group.small() } else { None };
        let Some(room) = room else {
            let put = |item: &Item| self.enqueue(Incoming { from: item.from, to: item.to, ..all.clone() });
            return own.map(put).fold(Verdict::NOTHING, Verdict::then);
        };
        let mut together = BatchBuilder::with_capacity(room, group.messages as usize);
        own.for_each(|item| together.extend(&all.batch, item.from, item.to));
        self.enqueue(Incoming { batch: Arc::new(together.finish()), to: group.messages, ..all.clone() })
    }

    /// Messages with keys: those that may go at once are dealt out together, the others follow one by one.
    fn hand_keyed(
        &mut self,
        group: &Group,
        items: &[Item],
        all: &Incoming,
        (dealing, variants): (&mut Dealing, &mut Variants),
    ) -> Verdict {
        let mut verdict = Verdict::NOTHING;
        dealing.clear();
        if group.items > 1 && group.small().is_some() {
            group.own(items).for_each(|item| dealing.add(item.from, item.slot));
            verdict = self.shard.deal(self.mailbox, all, dealing, self.cx).into();
        }
        for (_, item) in (0..).zip(group.own(items)).filter(|(n, _)| !dealing.took(*n)) {
            let route = variants.with_slot(&group.route, item.slot);
            verdict = verdict.then(self.enqueue(Incoming { route, from: item.from, to: item.to, ..all.clone() }));
        }
        verdict
    }
}

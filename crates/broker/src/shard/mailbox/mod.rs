//! Mailboxes: what a queue is more when it is a service's, and instances consume from it or messages are for some of them.
//!
//! A queue without a [`Mailbox`] has no instances and no messages with selectors or keys, and knows nothing of all this. With
//! one, every consumer is (part of) a *member*; waiting messages stand in *lanes* by selector, those with keys in *slots* of
//! their lane; and a message is bound to a member only when one has credit that may take it. Messages without selector and
//! key stay in the queue itself, where single requests find them; their lane has number 0.
//!
//! The rule that everything here keeps: a message waits only while nobody who may take it has credit. So there is work only
//! when a message comes to the head of its source ([`Mailbox::dirty_sources`]) or when a member may have got credit
//! ([`Mailbox::dirty_members`]); `flow` does it.
//!
//! | module | holds |
//! |---|---|
//! | `lane` | lanes, slots, urgency |
//! | `mixed` | which slot of the shared lane is whose |
//! | `member` | members: latency, slow start, ejection; seats: soft windows |
//! | `choice` | who gets a message |
//! | `sync` | which message is at the head of each source |
//! | `flow` | from lanes to members |
//! | `dealing` | the same for fresh messages with keys, by the hand |
//! | `membership` | who comes, changes and goes |
//! | `outcome` | what settlements say of members |
//! | `upkeep` | deadlines, limits, memory, restarts |
//! | `all` | copies for all instances |
//! | `report` | what is told, and why a message would go where it would |

mod all;
mod choice;
mod dealing;
mod flow;
mod lane;
mod member;
mod membership;
mod mixed;
mod outcome;
mod report;
mod sync;
mod upkeep;

use std::collections::BTreeMap;
use std::sync::Arc;

use waypost_model::address::Address;
use waypost_model::selector::Selector;
use waypost_model::{Lsn, Millis, Route};

pub use dealing::Dealing;
pub use membership::Claimant;
pub use report::{Candidate, Chosen, LaneInfo, MailboxExplanation, MailboxInfo, MemberInfo};

use super::ready::Ready;
use super::run::{NEVER, Sizes};
use lane::{Keyed, Lane, NO_SLOT, NOTHING, Serves, Slot};
pub(super) use lane::{Source, Tag};
pub(super) use member::Bound;
use member::{Member, Seat};
pub(super) use outcome::Verdict;
pub(super) use sync::Mark;

/// Lanes of a mailbox. Messages with further selectors share one.
pub const LANES_MAX: u16 = 1024;

/// The lane that they share.
const MIXED: u16 = LANES_MAX;

/// So many of its slots are looked at for a member that has credit before others get their turn; later it goes on.
const MIXED_SCAN_MAX: usize = 256;

/// So many for all members together.
const MIXED_SCANS_MAX: usize = 4096;

/// How much later, ms.
const MIXED_SCAN_AGAIN_MS: u64 = 2;

/// Lanes whose selectors hold compiled regular expressions; messages with further ones share a lane.
const HEAVY_LANES_MAX: usize = 64;

/// Zones that a mailbox tells apart; further ones count as unknown.
const ZONES_MAX: usize = 255;

/// Routes that are known again without being read.
const RECENT: usize = 64;

/// Costs and latencies are looked over that often, ms.
const REFRESH_MS: u64 = 1000;

/// How much there is in all lanes but the queue's own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Sums {
    pub messages: u64,
    pub payload: u64,
    pub body: u64,
    pub memory: u64,
}

impl Sums {
    fn of(r: &Ready) -> Sums {
        Sums { messages: r.messages(), payload: r.payload(), body: r.body(), memory: r.memory() }
    }

    fn replace(&mut self, before: Sums, after: Sums) {
        self.messages = self.messages + after.messages - before.messages;
        self.payload = self.payload + after.payload - before.payload;
        self.body = self.body + after.body - before.body;
        self.memory = self.memory + after.memory - before.memory;
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Mailbox {
    members: Vec<Option<Member>>,
    free_members: Vec<u32>,
    by_id: BTreeMap<Box<str>, u32>,
    /// How many members may get messages.
    candidates: usize,
    /// By a consumer's place in the roster.
    seats: Vec<Option<Seat>>,
    lanes: Vec<Lane>,
    /// By canonical selector; recipients behind a zero byte.
    by_text: BTreeMap<Box<str>, u16>,
    mixed: mixed::MixedSlots,
    /// How many more slots of the shared lane may be looked at now.
    scans: usize,
    /// The most urgent deliverable message of each lane, without keys and with keys that are nobody's.
    heads: Vec<u64>,
    free_heads: Vec<u64>,
    /// What each member costs; infinite if it can take nothing.
    costs: Vec<f32>,
    /// Its priority, and what it can hold in all.
    ranks: Vec<(i32, u32)>,
    ranked: bool,
    zones: Vec<Box<str>>,
    /// Routes that were looked at lately, in places by their pointers.
    recent: Vec<Option<(Arc<Route>, Tag)>>,
    /// Lanes whose selectors were looked up lately, in places by what these say.
    lately: [u16; RECENT],
    pub sums: Sums,
    pub dirty_sources: Vec<Source>,
    pub dirty_members: Vec<u32>,
    blocked: Vec<Source>,
    /// The least ticket that they wait for.
    pub blocked_by: Option<Lsn>,
    /// No later than the first deadline of a message in a lane.
    next_deadline: Millis,
    /// No later than when a member may have got credit by the passing of time.
    wake_at: Millis,
    /// After a restart: when recipients that have not come back are given up.
    orphans_at: Millis,
    refreshed: Millis,
    /// The usual latency, ms.
    usual: f32,
    turn: usize,
    /// Who alone got messages when that was last looked at.
    only: choice::Only,
    max_priority: Option<u8>,
    sizes: Sizes,
    /// Copies for recipients that are no more.
    pub ended: u64,
}

impl Mailbox {
    pub fn new(max_priority: Option<u8>, sizes: Sizes, now: Millis) -> Mailbox {
        let mut mb = Mailbox {
            members: Vec::new(),
            free_members: Vec::new(),
            by_id: BTreeMap::new(),
            candidates: 0,
            seats: Vec::new(),
            lanes: Vec::new(),
            by_text: BTreeMap::new(),
            mixed: mixed::MixedSlots::default(),
            scans: 0,
            heads: Vec::new(),
            free_heads: Vec::new(),
            costs: Vec::new(),
            ranks: Vec::new(),
            ranked: false,
            zones: Vec::new(),
            recent: Vec::new(),
            lately: [0; RECENT],
            sums: Sums::default(),
            dirty_sources: Vec::new(),
            dirty_members: Vec::new(),
            blocked: Vec::new(),
            blocked_by: None,
            next_deadline: NEVER,
            wake_at: NEVER,
            orphans_at: NEVER,
            refreshed: now,
            usual: 1.0,
            turn: 0,
            only: None,
            max_priority,
            sizes,
            ended: 0,
        };
        mb.push_lane(Serves::Selector(Arc::default()));
        mb
    }

    fn member(&self, m: u32) -> Option<&Member> {
        self.members.get(m as usize)?.as_ref()
    }

    fn member_mut(&mut self, m: u32) -> Option<&mut Member> {
        self.members.get_mut(m as usize)?.as_mut()
    }

    fn seat(&self, consumer: u32) -> Option<&Seat> {
        self.seats.get(consumer as usize)?.as_ref()
    }

    fn seat_mut(&mut self, consumer: u32) -> Option<&mut Seat> {
        self.seats.get_mut(consumer as usize)?.as_mut()
    }

    /// Whether nobody else could take what somebody is given.
    fn is_alone(&self) -> bool {
        self.candidates <= 1
    }

    fn lane(&self, lane: u16) -> Option<&Lane> {
        self.lanes.get(usize::from(lane))
    }

    fn lane_mut(&mut self, lane: u16) -> Option<&mut Lane> {
        self.lanes.get_mut(usize::from(lane))
    }

    /// Where messages with a route belong.
    pub fn tag_of(&mut self, route: &Arc<Route>) -> Tag {
        let Some(address) = &route.address else {
            return Tag::default();
        };
        let place = place_of(route);
        if let Some(Some((known, tag))) = self.recent.get(place)
            && Arc::ptr_eq(known, route)
        {
            return *tag;
        }
        // What cannot be read is for nobody, and seen where mailboxes are listed.
        let a = Address::decode(address).unwrap_or(Address { recipient: Some("\0unreadable"), ..Address::default() });
        let near = a.near.map_or(0, |zone| self.zone(zone));
        let (lane, slot) = self.lane_for(&a);
        let tag = Tag { lane, slot, near };
        if self.recent.is_empty() {
            self.recent.resize_with(RECENT, || None);
        }
        if let Some(recent) = self.recent.get_mut(place) {
            *recent = Some((Arc::clone(route), tag));
        }
        tag
    }

    fn lane_for(&mut self, a: &Address<'_>) -> (u16, u16) {
        if let Some(id) = a.recipient {
            let text: Box<str> = format!("\0{id}").into();
            let found = self.by_text.get(&text).copied();
            let lane = found.or_else(|| self.lane_unless_kept(a, text, |_| Some(Serves::Recipient(id.into()))));
            return lane.map_or_else(|| self.mixed_for(a), |lane| (lane, NO_SLOT));
        }
        let slot = a.slot.unwrap_or(NO_SLOT);
        if a.selector.is_empty() {
            return (0, slot);
        }
        let what = |mailbox: &Mailbox| match Selector::parse(a.selector) {
            Ok(s) if s.is_heavy() && mailbox.heavy() >= HEAVY_LANES_MAX => None,
            Ok(s) => Some(Serves::Selector(Arc::new(s))),
            // Only a selector of a later release: no instance of ours is meant.
            Err(_) => Some(Serves::Recipient("\0unreadable".into())),
        };
        let lane = self.lane_of(a.selector).or_else(|| self.lane_unless_kept(a, a.selector.into(), what));
        lane.map_or_else(|| self.mixed_for(a), |lane| (lane, slot))
    }

    /// A new lane for what has none, unless there is none to be had, or something of it still waits in the shared one.
    fn lane_unless_kept(
        &mut self,
        a: &Address<'_>,
        text: Box<str>,
        what: impl FnOnce(&Mailbox) -> Option<Serves>,
    ) -> Option<u16> {
        let keyed = self.lanes.get(usize::from(MIXED)).and_then(|l| l.keyed.as_deref());
        if self.mixed.keeps(a, keyed) {
            return None;
        }
        let what = what(self)?;
        let lane = self.new_lane(text, what)?;
        self.mixed.leave(a);
        Some(lane)
    }

    /// The lane of a selector, if it has one.
    fn lane_of(&mut self, selector: &str) -> Option<u16> {
        let (words, rest) = selector.as_bytes().as_chunks::<8>();
        let first = rest.iter().fold(0, |hash, b| hash << 8 | u64::from(*b));
        let spread = |hash: u64, word: &[u8; 8]| {
            let x = (hash ^ u64::from_le_bytes(*word)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            x ^ (x >> 32)
        };
        let hash = spread(words.iter().fold(first, spread), &[0; 8]);
        let place = self.lately.get_mut(hash as usize % RECENT)?;
        // Whatever stood there: the lane itself says whose it is.
        let is = |l: &&Lane| matches!(&l.what, Serves::Selector(s) if s.text() == selector);
        if self.lanes.get(usize::from(*place)).filter(is).is_some() {
            return Some(*place);
        }
        let lane = *self.by_text.get(selector)?;
        *place = lane;
        Some(lane)
    }

    /// A slot of the shared lane.
    fn mixed_for(&mut self, a: &Address<'_>) -> (u16, u16) {
        let keyed = self.lanes.get(usize::from(MIXED)).and_then(|l| l.keyed.as_deref());
        let (slot, forgot) = self.mixed.slot(a, keyed);
        if forgot {
            self.recent.clear();
        }
        (MIXED, slot)
    }

    fn heavy(&self) -> usize {
        let heavy = |l: &&Lane| matches!(&l.what, Serves::Selector(s) if s.is_heavy());
        self.lanes.iter().filter(heavy).count()
    }

    /// A lane for a selector that has none; the last that nobody needs makes room.
    fn new_lane(&mut self, text: Box<str>, what: Serves) -> Option<u16> {
        let lane = if self.lanes.len() < usize::from(MIXED) {
            self.push_lane(what)
        } else {
            let idle = (1..MIXED).find(|l| self.lane(*l).is_some_and(Lane::is_idle))?;
            self.by_text.retain(|_, l| *l != idle);
            self.members.iter_mut().flatten().for_each(|m| m.lanes.set(idle, false));
            self.recent.clear();
            let fresh = Lane::new(what, self.max_priority);
            // What is dirty or blocked in it is found to have nothing.
            let flags = self.lane(idle).map_or((false, false), |l| (l.dirty, l.blocked));
            if let Some(place) = self.lane_mut(idle) {
                *place = Lane { dirty: flags.0, blocked: flags.1, ..fresh };
            }
            idle
        };
        self.by_text.insert(text, lane);
        let sizes = self.sizes;
        if let Some(l) = self.lane_mut(lane) {
            l.ready.sizes = sizes;
        }
        self.fill_lane(lane);
        Some(lane)
    }

    fn push_lane(&mut self, what: Serves) -> u16 {
        // The lane that further selectors share is made when it is needed, with the last number.
        self.lanes.push(Lane::new(what, self.max_priority));
        self.heads.push(NOTHING);
        self.free_heads.push(NOTHING);
        (self.lanes.len() - 1) as u16
    }

    /// The shared lane is there from now on.
    fn ensure_mixed(&mut self) {
        while self.lanes.len() <= usize::from(MIXED) {
            let lane = self.push_lane(Serves::Mixed);
            self.fill_lane(lane);
        }
    }

    /// A zone's number.
    fn zone(&mut self, zone: &str) -> u8 {
        if zone.is_empty() {
            return 0;
        }
        let at = self.zones.iter().position(|z| **z == *zone).or_else(|| {
            (self.zones.len() < ZONES_MAX).then(|| {
                self.zones.push(zone.into());
                self.zones.len() - 1
            })
        });
        at.and_then(|at| u8::try_from(at + 1).ok()).unwrap_or(0)
    }

    /// Works on the messages of a source that is not the queue's own; counts follow, heads do not: see [`Mailbox::sync`].
    pub fn with<R>(&mut self, source: Source, f: impl FnOnce(&mut Ready) -> R) -> Option<R> {
        if source.lane == MIXED {
            self.ensure_mixed();
        }
        let (max_priority, sizes) = (self.max_priority, self.sizes);
        let lane = self.lanes.get_mut(usize::from(source.lane))?;
        let ready = match source.slot {
            None => &mut lane.ready,
            Some(slot) => {
                lane.keyed.get_or_insert_default().slots.entry(slot).or_default().ready.get_or_insert_with(|| {
                    let mut ready = Ready::new(max_priority);
                    ready.sizes = sizes;
                    Box::new(ready)
                })
            }
        };
        let before = Sums::of(ready);
        let result = f(ready);
        let after = Sums::of(ready);
        self.next_deadline = self.next_deadline.min(ready.next_deadline());
        self.sums.replace(before, after);
        Some(result)
    }

    /// The messages of a source that is not the queue's own.
    pub fn ready(&self, source: Source) -> Option<&Ready> {
        let lane = self.lane(source.lane)?;
        match source.slot {
            None => Some(&lane.ready),
            Some(slot) => lane.keyed.as_ref()?.slots.get(&slot)?.ready.as_deref(),
        }
    }

    /// Whether a source is dirty, and whether it is blocked.
    fn flags(&mut self, source: Source) -> Option<(&mut bool, &mut bool)> {
        let lane = self.lanes.get_mut(usize::from(source.lane))?;
        match source.slot {
            None => Some((&mut lane.dirty, &mut lane.blocked)),
            Some(slot) => {
                let s: &mut Slot = lane.keyed.as_mut()?.slots.get_mut(&slot)?;
                Some((&mut s.dirty, &mut s.blocked))
            }
        }
    }

    /// The most urgent deliverable message of a source.
    fn head(&self, source: Source) -> u64 {
        match source.slot {
            None => self.heads.get(usize::from(source.lane)).copied().unwrap_or(NOTHING),
            Some(slot) => self.slot(source.lane, slot).and_then(|s| s.head).unwrap_or(NOTHING),
        }
    }

    fn slot(&self, lane: u16, slot: u16) -> Option<&Slot> {
        self.lane(lane)?.keyed.as_ref()?.slots.get(&slot)
    }

    fn keyed_mut(&mut self, lane: u16) -> Option<&mut Keyed> {
        self.lane_mut(lane)?.keyed.as_deref_mut()
    }

    /// A member may have got credit.
    pub fn mark_member(&mut self, m: u32) {
        if let Some(member) = self.members.get_mut(m as usize).and_then(Option::as_mut)
            && member.dirty.is_none()
        {
            member.dirty = Some(self.dirty_members.len() as u32);
            self.dirty_members.push(m);
        }
    }

    /// Everybody may take something that he could not take before.
    pub fn mark_all(&mut self) {
        // When very many leave at once, each of them calls this.
        if self.dirty_members.len() + self.free_members.len() == self.members.len() {
            return;
        }
        (0..self.members.len() as u32).for_each(|m| self.mark_member(m));
    }

    /// What waits may be taken by others than before.
    pub fn mark_waiting(&mut self) {
        if self.sums.messages > 0 {
            self.mark_all();
        }
    }

    /// The member that a consumer is part of may have got credit.
    pub fn mark_consumer(&mut self, consumer: u32) {
        if let Some(m) = self.seat(consumer).map(|s| s.member) {
            self.mark_member(m);
        }
    }
}

/// Where a route stands among those that were looked at lately.
fn place_of(route: &Arc<Route>) -> usize {
    // Allocations lie apart by 16 bytes at least.
    let at = Arc::as_ptr(route) as usize as u64 >> 4;
    (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize % RECENT
}

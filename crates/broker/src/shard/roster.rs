//! The consumers of a queue, and whose turn it is.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use waypost_model::{ChannelId, ConnId, ConsumerId};

use super::consumer::Consumer;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Roster {
    slots: Vec<Option<Box<Consumer>>>,
    /// The neighbours of each slot in the ring of its priority; they mean nothing while it is not listed.
    links: Vec<Links>,
    free: Vec<u32>,
    /// By priority, the highest first.
    groups: Vec<Group>,
    live: u32,
    exclusive: bool,
    /// With single active consumer: those that were not cancelled, who is next to be active first: of the highest priority
    /// the one that has been there longest.
    heirs: BTreeSet<(Reverse<i32>, ConsumerId, u32)>,
    /// With single active consumer: who gets the messages.
    active: Option<u32>,
    stand_ins: BTreeMap<(ConnId, ChannelId), u32>,
}

/// Consumers of one priority that may have credit, in order of service: a ring, so that any of them can leave without a look
/// at the others, and so that passing the turn on moves nobody.
#[derive(Debug)]
struct Group {
    priority: i32,
    /// Whose turn it is; means nothing if the ring is empty.
    front: u32,
    len: u32,
}

#[derive(Debug, Clone, Copy, Default)]
struct Links {
    before: u32,
    after: u32,
}

impl Group {
    /// Comes last.
    fn push(&mut self, slot: u32, links: &mut [Links]) {
        if self.len == 0 {
            self.front = slot;
            set(links, slot, |l| *l = Links { before: slot, after: slot });
        } else {
            let (front, last) = (self.front, links_of(links, self.front).before);
            set(links, slot, |l| *l = Links { before: last, after: front });
            set(links, last, |l| l.after = slot);
            set(links, front, |l| l.before = slot);
        }
        self.len += 1;
    }

    fn leave(&mut self, slot: u32, links: &mut [Links]) {
        let Links { before, after } = links_of(links, slot);
        set(links, before, |l| l.after = after);
        set(links, after, |l| l.before = before);
        if self.front == slot {
            self.front = after;
        }
        self.len -= 1;
    }
}

fn links_of(links: &[Links], slot: u32) -> Links {
    links.get(slot as usize).copied().unwrap_or_default()
}

fn set(links: &mut [Links], slot: u32, change: impl FnOnce(&mut Links)) {
    if let Some(l) = links.get_mut(slot as usize) {
        change(l);
    }
}

/// Whose turn it is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Turn {
    pub slot: u32,
    /// How many share the messages, this one included.
    pub peers: u32,
    group: Option<usize>,
}

/// How consumers share a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sharing {
    /// All get messages in turn.
    Turns,
    /// One at a time gets messages.
    SingleActive,
}

impl Roster {
    /// Consumers that were not cancelled.
    pub fn live(&self) -> u32 {
        self.live
    }

    pub fn exclusive(&self) -> bool {
        self.exclusive
    }

    pub fn get(&self, slot: u32) -> Option<&Consumer> {
        self.slots.get(slot as usize)?.as_deref()
    }

    pub fn get_mut(&mut self, slot: u32) -> Option<&mut Consumer> {
        self.slots.get_mut(slot as usize)?.as_deref_mut()
    }

    pub fn iter(&self) -> impl Iterator<Item = (u32, &Consumer)> {
        (0u32..).zip(&self.slots).filter_map(|(i, c)| Some((i, c.as_deref()?)))
    }

    /// With single active consumer: who gets the messages, as far as that was settled.
    pub fn active(&self) -> Option<u32> {
        self.active
    }

    pub fn is_active(&self, slot: u32) -> bool {
        self.active == Some(slot)
    }

    pub fn stand_in(&self, conn: ConnId, channel: ChannelId) -> Option<u32> {
        self.stand_ins.get(&(conn, channel)).copied()
    }

    pub fn add(&mut self, consumer: Consumer, sharing: Sharing) -> u32 {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.links.push(Links::default());
            u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX)
        });
        if consumer.is_stand_in() {
            self.stand_ins.insert((consumer.conn, consumer.channel), slot);
        } else {
            self.live += 1;
            self.exclusive |= consumer.exclusive;
            if sharing == Sharing::SingleActive {
                self.heirs.insert((Reverse(consumer.priority), consumer.id, slot));
            }
        }
        if let Some(place) = self.slots.get_mut(slot as usize) {
            *place = Some(Box::new(consumer));
        }
        self.list(slot);
        slot
    }

    /// Gives a consumer its turn again, if it has credit.
    pub fn list(&mut self, slot: u32) {
        let Some(c) = self.get_mut(slot) else { return };
        if c.listed || !c.has_credit() {
            return;
        }
        c.listed = true;
        let priority = c.priority;
        let i = self.group(priority).unwrap_or_else(|i| {
            self.groups.insert(i, Group { priority, front: slot, len: 0 });
            i
        });
        if let Some(g) = self.groups.get_mut(i) {
            g.push(slot, &mut self.links);
        }
    }

    /// Where the group of a priority is, or would be.
    fn group(&self, priority: i32) -> Result<usize, usize> {
        self.groups.binary_search_by(|g| priority.cmp(&g.priority))
    }

    /// Ends a consumer; it keeps what it holds. `false` if it had ended before.
    pub fn end(&mut self, slot: u32) -> bool {
        let Some(c) = self.get_mut(slot).filter(|c| !c.ended) else {
            return false;
        };
        c.ended = true;
        let (priority, id) = (c.priority, c.id);
        let listed = std::mem::take(&mut c.listed);
        self.live -= 1;
        // An exclusive consumer is alone.
        self.exclusive = false;
        self.heirs.remove(&(Reverse(priority), id, slot));
        if let Ok(i) = self.group(priority)
            && let Some(g) = self.groups.get_mut(i)
        {
            if listed {
                g.leave(slot, &mut self.links);
            }
            // Also if it was without credit: so there are never more groups than consumers.
            if g.len == 0 {
                self.groups.remove(i);
            }
        }
        true
    }

    /// Removes a consumer that has ended.
    pub fn remove(&mut self, slot: u32) -> Option<Consumer> {
        let c = self.slots.get_mut(slot as usize)?.take()?;
        debug_assert!(c.ended);
        self.free.push(slot);
        if self.active == Some(slot) {
            self.active = None;
        }
        if c.is_stand_in() {
            self.stand_ins.remove(&(c.conn, c.channel));
        }
        Some(*c)
    }

    /// Whether nobody is left, stand-ins and the ended counted.
    pub fn is_unused(&self) -> bool {
        self.slots.len() == self.free.len()
    }

    /// Whose turn it is, of those with credit.
    pub fn turn(&mut self, sharing: Sharing) -> Option<Turn> {
        match sharing {
            Sharing::Turns => self.next_in_turn(),
            Sharing::SingleActive => {
                let slot = self.single_active()?;
                self.get(slot)?.has_credit().then_some(Turn { slot, peers: 1, group: None })
            }
        }
    }

    fn next_in_turn(&mut self) -> Option<Turn> {
        let mut i = 0;
        while let Some(g) = self.groups.get_mut(i) {
            while g.len > 0 {
                let slot = g.front;
                match self.slots.get_mut(slot as usize).and_then(Option::as_deref_mut) {
                    Some(c) if c.has_credit() => return Some(Turn { slot, peers: g.len, group: Some(i) }),
                    Some(c) => c.listed = false,
                    None => {}
                }
                g.leave(slot, &mut self.links);
            }
            i += 1;
        }
        None
    }

    /// The turn was used: the next one in the group is served next.
    pub fn pass(&mut self, turn: Turn) {
        if turn.peers > 1
            && let Some(g) = turn.group.and_then(|i| self.groups.get_mut(i))
        {
            g.front = links_of(&self.links, g.front).after;
        }
    }

    /// The single active consumer. Its successor, or one of a higher priority, takes over as soon as it holds nothing;
    /// until then nobody is served: what it gives back comes before what nobody has seen.
    pub fn single_active(&mut self) -> Option<u32> {
        let &(Reverse(priority), _, slot) = self.heirs.first()?;
        match self.active.and_then(|s| self.get(s)) {
            Some(now) if !now.ended && now.priority >= priority => {}
            Some(now) if now.held.messages() > 0 => return None,
            _ => self.active = Some(slot),
        }
        self.active
    }

    /// Settles who is active, for those who look before a message comes.
    pub fn elect(&mut self, sharing: Sharing) {
        if sharing == Sharing::SingleActive {
            let _ = self.single_active();
        }
    }
}

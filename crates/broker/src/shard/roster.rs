//! The consumers of a queue, and whose turn it is.

use std::collections::{BTreeMap, VecDeque};

use waypost_model::{ChannelId, ConnId};

use super::consumer::Consumer;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Roster {
    slots: Vec<Option<Box<Consumer>>>,
    free: Vec<u32>,
    /// By priority, the highest first.
    groups: Vec<Group>,
    live: u32,
    exclusive: bool,
    /// Who is next to be the single active consumer: the first of those with the highest priority.
    best: Option<u32>,
    /// With single active consumer: who gets the messages.
    active: Option<u32>,
    stand_ins: BTreeMap<(ConnId, ChannelId), u32>,
}

/// Consumers of one priority that may have credit, in order of service.
#[derive(Debug)]
struct Group {
    priority: i32,
    order: VecDeque<u32>,
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

    pub fn add(&mut self, consumer: Consumer) -> u32 {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX)
        });
        if consumer.is_stand_in() {
            self.stand_ins.insert((consumer.conn, consumer.channel), slot);
        } else {
            self.live += 1;
            self.exclusive |= consumer.exclusive;
            let now = self.best.and_then(|s| self.get(s)).map(|c| c.priority);
            if now.is_none_or(|p| p < consumer.priority) {
                self.best = Some(slot);
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
        match self.groups.binary_search_by(|g| priority.cmp(&g.priority)) {
            Ok(i) => {
                if let Some(g) = self.groups.get_mut(i) {
                    g.order.push_back(slot);
                }
            }
            Err(i) => self.groups.insert(i, Group { priority, order: VecDeque::from([slot]) }),
        }
    }

    /// Ends a consumer; it keeps what it holds. `false` if it had ended before.
    pub fn end(&mut self, slot: u32) -> bool {
        let Some(c) = self.get_mut(slot).filter(|c| !c.ended) else {
            return false;
        };
        c.ended = true;
        self.live -= 1;
        // An exclusive consumer is alone.
        self.exclusive = false;
        self.unlist(slot);
        if self.best == Some(slot) {
            let rank = |(_, c): &(u32, &Consumer)| (std::cmp::Reverse(c.priority), c.id);
            let live = self.iter().filter(|(_, c)| !c.ended);
            self.best = live.min_by_key(rank).map(|(slot, _)| slot);
        }
        true
    }

    fn unlist(&mut self, slot: u32) {
        if let Some(c) = self.get_mut(slot) {
            c.listed = false;
        }
        for g in &mut self.groups {
            g.order.retain(|s| *s != slot);
        }
        self.groups.retain(|g| !g.order.is_empty());
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
            while let Some(&slot) = g.order.front() {
                let c = self.slots.get_mut(slot as usize).and_then(Option::as_deref_mut);
                match c {
                    Some(c) if c.has_credit() => {
                        let peers = u32::try_from(g.order.len()).unwrap_or(u32::MAX);
                        return Some(Turn { slot, peers, group: Some(i) });
                    }
                    Some(c) => c.listed = false,
                    None => {}
                }
                g.order.pop_front();
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
            g.order.rotate_left(1);
        }
    }

    /// The single active consumer. Its successor, or one of a higher priority, takes over as soon as it holds nothing;
    /// until then nobody is served: what it gives back comes before what nobody has seen.
    pub fn single_active(&mut self) -> Option<u32> {
        let slot = self.best?;
        let priority = self.get(slot)?.priority;
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

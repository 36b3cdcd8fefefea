//! What is checked when something comes out, and when everything has come to rest.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use waypost_model::command::Sent;
use waypost_model::journal::BodyStore;
use waypost_model::service::Health;
use waypost_model::{Body, Delivery, Event, Reply};

use super::peer::{Fate, INSTANCES, Message, Mode, Peer, SERVICES};
use super::world::{RETURN_MS, Services};
use crate::uid_of;
use crate::world::Broken;

impl Services {
    /// Takes what is in the outboxes and checks it.
    pub(super) fn collect(&mut self) -> Result<(), Broken> {
        for id in self.peers.keys().copied().collect::<Vec<_>>() {
            let mut events = VecDeque::new();
            if let Some(peer) = self.peers.get(&id) {
                peer.outbox.drain(&mut events, None);
            }
            events.iter().try_for_each(|event| self.observe(id, event))?;
        }
        Ok(())
    }

    fn observe(&mut self, id: u32, event: &Event) -> Result<(), Broken> {
        let Some(peer) = self.peers.get_mut(&id) else { return Ok(()) };
        match event {
            Event::Deliver(d) => return self.deliver(id, d),
            Event::Reply { reply: Reply::Consuming { consumer, .. }, .. } => peer.consumer = Some(*consumer),
            Event::Accepted { first, last, lsn, .. } => {
                peer.accepted.extend((*first..=*last).map(|n| (n, lsn.unwrap_or_default())));
            }
            Event::Rejected { .. } => return Err(format!("{id}: a publish is refused: {event:?}")),
            Event::Refused { .. } | Event::Cancelled { .. } => {
                self.trace.add(format!("  {id}: {event:?}"));
                peer.failed = true;
            }
            _ => {}
        }
        Ok(())
    }

    /// The numbers of delivered messages, from wherever they are.
    fn uids(&self, d: &Delivery) -> Result<Vec<u64>, Broken> {
        let mut all = Vec::new();
        match &d.body {
            Body::Mem { batch, from } => all.extend((*from..from + d.count).map(|i| uid_of(batch.body(i)))),
            Body::Spilled { at, skip } => {
                let batch = self.engine.load_spilled(*at).map_err(|e| format!("spilled {at:?}: {e}"))?;
                all.extend((*skip..skip + d.count).map(|i| uid_of(batch.body(i))));
            }
            Body::Stored => {
                while (all.len() as u32) < d.count {
                    let n = all.len() as u32;
                    let part = self.engine.load(d.queue, d.first.plus(u64::from(n)), d.count - n);
                    let part = part.map_err(|e| format!("stored {:?} {:?}: {e}", d.queue, d.first))?;
                    all.extend((part.from..part.to).map(|i| uid_of(part.batch.body(i))));
                }
            }
        }
        Ok(all)
    }

    fn deliver(&mut self, id: u32, d: &Delivery) -> Result<(), Broken> {
        let uids = self.uids(d)?;
        self.trace.add(format!("  {id}: gets {uids:?}{}", if d.redelivered { " again" } else { "" }));
        for (n, uid) in (0..).zip(&uids) {
            let at = (d.queue, d.first.plus(n));
            if let Some(other) = self.held.insert(at, id) {
                return Err(format!("{uid} went to {id} while {other} holds it"));
            }
            let instance = self.peers.get(&id).and_then(|p| p.instance);
            if let Some(instance) = instance {
                self.comes(id, instance, *uid, d.redelivered)?;
            }
            let Some(peer) = self.peers.get_mut(&id) else { continue };
            peer.held.insert(at, *uid);
            if peer.prefetch > 0 && peer.held.len() > peer.prefetch {
                return Err(format!("{id} holds {} with a prefetch of {}", peer.held.len(), peer.prefetch));
            }
        }
        if let Some(peer) = self.peers.get_mut(&id) {
            let sent = Sent { consumer: d.consumer, queue: d.queue, messages: d.count, bytes: d.cost };
            peer.owed.push_back(sent);
        }
        Ok(())
    }

    /// A message comes to an instance.
    fn comes(&mut self, id: u32, at: (usize, usize), uid: u64, again: bool) -> Result<(), Broken> {
        let (service, instance) = at;
        let drains = self.unfit.contains(&at) && self.is_unfit(at);
        let others: Vec<u64> =
            self.peers.iter().filter(|(other, _)| **other != id).flat_map(|(_, p)| p.held.values().copied()).collect();
        let is_of_key = |m: &Message, with: &Message| {
            matches!(m.mode, Mode::Key(_))
                && (m.service, m.selector, m.mode) == (with.service, with.selector, with.mode)
        };
        let Some(message) = self.messages.get(&uid) else { return Err(format!("{uid} was never sent")) };
        if message.service != service || !message.matches(instance) {
            return Err(format!("{uid} went to {at:?}: {message:?}"));
        }
        if drains && message.mode != Mode::All {
            return Err(format!("{uid} went to {at:?}, which drains"));
        }
        if let Some(other) = others.iter().find(|o| self.messages.get(o).is_some_and(|m| is_of_key(m, message))) {
            return Err(format!("{uid} went to {id} while another one holds {other} of the same key"));
        }
        if let Mode::Key(key) = message.mode
            && !again
        {
            let key = (message.service, message.selector, key);
            if let Some(before) = self.reached.insert(key, uid).filter(|before| *before > uid) {
                return Err(format!("{uid} came after {before} of the same key"));
            }
        }
        let Some(message) = self.messages.get_mut(&uid) else { return Ok(()) };
        match *message.fate_mut(instance) {
            Fate::Must | Fate::May | Fate::Either => Ok(()),
            fate => Err(format!("{uid} came again to {at:?}, and was {fate:?}: {message:?}")),
        }
    }

    fn is_unfit(&self, (service, instance): (usize, usize)) -> bool {
        let listed = self.registry.services("/").instance(SERVICES[service], INSTANCES[instance].0);
        listed.is_some_and(|listed| listed.standing.draining)
    }

    /// Who is to get nothing new.
    pub(super) fn unfit_now(&self) -> BTreeSet<(usize, usize)> {
        everybody().filter(|at| self.is_unfit(*at)).collect()
    }

    fn is_there(&self, (service, instance): (usize, usize)) -> bool {
        self.registry.services("/").instance(SERVICES[service], INSTANCES[instance].0).is_some()
    }

    /// The instances that are to get a copy of a message for all that is sent now.
    pub(super) fn recipients(&self, service: usize, selector: usize) -> BTreeMap<usize, Fate> {
        let matches = |instance: usize| super::peer::SELECTORS[selector].1[instance];
        let serving = self.peers.values().filter(|p| p.consumer.is_some() && !p.failed).filter_map(|p| p.instance);
        let fit = serving.filter(|at| at.0 == service && matches(at.1) && self.is_there(*at) && !self.is_unfit(*at));
        fit.map(|(_, instance)| (instance, Fate::Must)).collect()
    }

    /// An instance may go: what it was to get of messages for all may go with it.
    pub(super) fn let_go(&mut self, service: usize, instance: usize) {
        for message in self.messages.values_mut().filter(|m| m.service == service && m.mode == Mode::All) {
            let fate = message.copies.get_mut(&instance);
            if let Some(fate) = fate.filter(|fate| matches!(fate, Fate::Must | Fate::Either)) {
                *fate = Fate::May;
            }
        }
    }

    /// Those that the registry has given up, and those that have not come back in time after a start.
    pub(super) fn forget_the_gone(&mut self) {
        let late = self.now.since(self.started) > RETURN_MS;
        for at in everybody() {
            let there = self.is_there(at);
            let serves = self.peers.values().any(|p| p.instance == Some(at) && !p.failed);
            if !there && (serves || self.known.contains(&at)) || late && !serves {
                self.let_go(at.0, at.1);
            }
        }
        self.known = everybody().filter(|at| self.is_there(*at)).collect();
    }

    /// Nothing moves any more: what waits, waits because nobody who may have it has credit.
    pub(super) fn nobody_could_have_it(&self) -> Result<(), Broken> {
        let held: BTreeSet<u64> = self.peers.values().flat_map(|p| p.held.values().copied()).collect();
        for (uid, message) in &self.messages {
            let waits = match message.mode {
                Mode::All => !message.owed().is_empty(),
                Mode::One | Mode::Key(_) => message.fate == Fate::Must && !held.contains(uid),
            };
            if !waits {
                continue;
            }
            for (id, peer) in self.peers.iter().filter(|(_, peer)| self.has_credit(peer, message)) {
                let has = peer.held.values().any(|held| held == uid);
                let owed = message.mode != Mode::All || peer.instance.is_some_and(|(_, i)| message.owed().contains(&i));
                if owed && !has && !self.is_elsewhere(message, *id) {
                    return Err(format!("{uid} waits, and {id} could have it: {message:?}"));
                }
            }
        }
        Ok(())
    }

    fn has_credit(&self, peer: &Peer, message: &Message) -> bool {
        let Some((service, instance)) = peer.instance else { return false };
        let free = if peer.prefetch == 0 { peer.held.is_empty() } else { peer.held.len() < peer.prefetch };
        let listed = self.registry.services("/").instance(SERVICES[service], INSTANCES[instance].0);
        let serves = listed.is_some_and(|listed| {
            !listed.standing.draining && listed.standing.health == Health::Passing && !listed.ejected
        });
        service == message.service
            && message.matches(instance)
            && free
            && serves
            && peer.consumer.is_some()
            && !peer.failed
    }

    /// Whether the slot of a message's key may be another one's: keys share slots.
    fn is_elsewhere(&self, message: &Message, id: u32) -> bool {
        let Mode::Key(_) = message.mode else { return false };
        let others = self.peers.iter().filter(|(other, _)| **other != id).flat_map(|(_, p)| p.held.values());
        others.filter_map(|uid| self.messages.get(uid)).any(|other| {
            matches!(other.mode, Mode::Key(_)) && (other.service, other.selector) == (message.service, message.selector)
        })
    }
}

/// All instances of all services.
pub(super) fn everybody() -> impl Iterator<Item = (usize, usize)> {
    (0..SERVICES.len()).flat_map(|service| (0..INSTANCES.len()).map(move |instance| (service, instance)))
}

//! Carrying out what shards could not do while they were held.

use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};

use waypost_model::event::Body;
use waypost_model::journal::AppendError;
use waypost_model::{AttrFlags, Batch, BatchBuilder, QueueId, Route};

use super::publish::{Run, Verdict, by_shard};
use super::services::Origin;
use super::{Broker, Work, death};
use crate::effect::{DeadLetter, DeathReason, Effect, Leaving};
use crate::settings::QueueSettings;
use crate::topology::{MessageRoute, Routed};

/// Messages `from..to` of a batch.
type Part = (Arc<Batch>, u32, u32);

/// Whether the journal took what was to be moved on. If not, it stays where it was and is tried again.
type Stored = Result<(), AppendError>;

fn stored(verdict: Verdict) -> Stored {
    verdict.error.map_or(Ok(()), Err)
}

impl Broker {
    /// Carries out effects, and those that they cause, until none is left. Each round moves messages one queue on; that
    /// it ends is the work of the cycle rule for dead letters.
    pub(super) fn carry_out(&self, w: &mut Work<'_>) {
        while !w.effects.is_empty() {
            for effect in std::mem::take(&mut w.effects) {
                let done = match &effect {
                    Effect::DeadLetter(d) => self.dead_letter(d, w),
                    Effect::Due(l) => self.due(l, w),
                    Effect::CreditBack(credit) => {
                        self.poke(credit.members(), w);
                        Ok(())
                    }
                    Effect::Idle(id) => {
                        self.drop_idle_mailbox(*id, w);
                        Ok(())
                    }
                    Effect::Ejected { settings, instance, ejected } => {
                        self.tell_ejected(settings, &instance.id, *ejected, w.now);
                        Ok(())
                    }
                    Effect::AutoDelete(id) | Effect::Expired(id) => {
                        self.delete_by_id(*id, w);
                        Ok(())
                    }
                };
                if done.is_err() {
                    self.stuck().push(effect);
                }
            }
        }
    }

    /// Tries once more what the journal had no room for. It may come twice then: better than not at all.
    pub(super) fn retry_stuck(&self, w: &mut Work<'_>) {
        w.effects.append(&mut self.stuck());
        self.carry_out(w);
    }

    fn stuck(&self) -> MutexGuard<'_, Vec<Effect>> {
        self.stuck.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn delete_by_id(&self, id: QueueId, w: &mut Work<'_>) {
        // Refused only if it is gone already.
        let _ = self.remove(w, |t| Ok(((), t.delete_queue_by_id(id))));
    }

    fn dead_letter(&self, d: &DeadLetter, w: &mut Work<'_>) -> Stored {
        let l = &d.messages;
        self.for_each_part(l, |part| self.dead_letter_part(d, &part, w))?;
        self.with_shard(l.settings.id.shard(), w, |s, cx| s.left(l.settings.id, l.first, l.count, cx));
        Ok(())
    }

    /// Hands the bytes of leaving messages to `f`, piece by piece. What cannot be read is left out, with a count.
    fn for_each_part(&self, l: &Leaving, mut f: impl FnMut(Part) -> Stored) -> Stored {
        let mut lost = 0;
        match &l.body {
            Body::Mem { batch, from } => f((Arc::clone(batch), *from, *from + l.count))?,
            Body::Spilled { at, skip } => match self.bodies.load_spilled(*at) {
                Ok(batch) => f((batch, *skip, *skip + l.count))?,
                Err(_) => lost = l.count,
            },
            Body::Stored => {
                let mut done = 0;
                while done < l.count {
                    match self.bodies.load(l.settings.id, l.first.plus(u64::from(done)), l.count - done) {
                        Ok(part) if part.to > part.from => {
                            done += part.to - part.from;
                            f((part.batch, part.from, part.to))?;
                        }
                        _ => {
                            lost = l.count - done;
                            break;
                        }
                    }
                }
            }
        }
        self.counters.unreadable.fetch_add(u64::from(lost), Ordering::Relaxed);
        Ok(())
    }

    fn dead_letter_part(&self, d: &DeadLetter, (batch, from, to): &Part, w: &mut Work<'_>) -> Stored {
        let l = &d.messages;
        let key = d.to.routing_key.as_deref().unwrap_or(&l.route.routing_key);
        let route = Arc::new(Route { exchange: (*d.to.exchange).into(), routing_key: key.into(), address: None });
        let fact = death::Death {
            queue: &l.settings.name,
            reason: d.reason,
            at: w.now,
            route: &l.route,
            rekeyed: d.to.routing_key.is_some(),
        };
        let mut attrs = l.attrs;
        let mut letters = BatchBuilder::with_capacity(batch.payload_len(*from, *to) as usize, (to - from) as usize);
        for i in *from..*to {
            let (props, a) = death::record(batch.props(i), l.attrs, &fact);
            attrs = a;
            letters.push(&props, batch.body(i));
        }
        let batch = Arc::new(letters.finish());
        let run = Run { route: &route, batch: &batch, from: 0, to: to - from, attrs };
        // A first death can only go round by coming straight back; later ones need a look at each message's history.
        let seasoned = l.attrs.flags.has(AttrFlags::DEAD_LETTERED);
        if seasoned || attrs.flags.has(AttrFlags::SENDER_SELECTED) {
            (0..run.to).try_for_each(|i| self.bury(&l.settings, &Run { from: i, to: i + 1, ..run }, w))
        } else {
            self.bury_alike(&l.settings, d.reason, &run, w)
        }
    }

    /// Dead letters that died for the first time: all go the same way unless the exchange looks at each.
    fn bury_alike(&self, source: &QueueSettings, reason: DeathReason, run: &Run<'_>, w: &mut Work<'_>) -> Stored {
        let routed = self.topology_read().route(&source.vhost, &run.route.exchange, &run.route.routing_key);
        match routed {
            Ok(Routed::Queues(mut queues)) => {
                if reason != DeathReason::Rejected {
                    queues.retain(|q| *q != source.id);
                }
                self.bury_in(queues, run, w)
            }
            Ok(Routed::PerMessage | Routed::Service) => {
                (run.from..run.to).try_for_each(|i| self.bury(source, &Run { from: i, to: i + 1, ..*run }, w))
            }
            // The exchange is gone: dead letters go nowhere, as everywhere.
            Err(_) => self.bury_in(Vec::new(), run, w),
        }
    }

    /// One dead letter, with regard to its history.
    fn bury(&self, source: &QueueSettings, run: &Run<'_>, w: &mut Work<'_>) -> Stored {
        let props = run.batch.props(run.from);
        let selected = run.attrs.flags.has(AttrFlags::SENDER_SELECTED);
        let topology = self.topology_read();
        let way = topology.route_message(&source.vhost, run.route, props, selected);
        let mut way = way.unwrap_or_default();
        way.queues.retain(|q| topology.queue_name(*q).is_none_or(|name| !death::is_cycle(props, &name)));
        drop(topology);
        let origin = Origin { vhost: &source.vhost, user: None, near: None, make: true };
        self.send_on(way, run, origin, w)
    }

    fn send_on(&self, way: MessageRoute, run: &Run<'_>, origin: Origin<'_>, w: &mut Work<'_>) -> Stored {
        let mut waits = !way.delayed.is_empty();
        if let Some(verdict) = self.follow_services(&way.services, run, origin, w) {
            stored(verdict)?;
            self.counters.dead_lettered.fetch_add(u64::from(run.to - run.from), Ordering::Relaxed);
            waits = true;
        }
        for delay in way.delayed {
            let attrs = waypost_model::Attrs { expiration: Some(delay.delay_ms), ..run.attrs };
            let due = Some(w.now.plus(u64::from(delay.delay_ms)));
            stored(self.enqueue(&by_shard(vec![delay.queue]), &Run { attrs, ..*run }, due, w))?;
        }
        if waits && way.queues.is_empty() {
            return Ok(());
        }
        self.bury_in(way.queues, run, w)
    }

    fn bury_in(&self, queues: Vec<QueueId>, run: &Run<'_>, w: &mut Work<'_>) -> Stored {
        let count = u64::from(run.to - run.from);
        if queues.is_empty() {
            self.counters.dead_letters_dropped.fetch_add(count, Ordering::Relaxed);
            return Ok(());
        }
        stored(self.enqueue(&by_shard(queues), run, None, w))?;
        self.counters.dead_lettered.fetch_add(count, Ordering::Relaxed);
        Ok(())
    }

    /// Delayed messages go on their way by the type that their exchange has beside the delay.
    fn due(&self, l: &Leaving, w: &mut Work<'_>) -> Stored {
        self.for_each_part(l, |(batch, from, to)| {
            (from..to).try_for_each(|i| {
                let run = Run { route: &l.route, batch: &batch, from: i, to: i + 1, attrs: l.attrs };
                self.due_one(&l.settings, &run, w)
            })
        })?;
        self.with_shard(l.settings.id.shard(), w, |s, cx| s.left(l.settings.id, l.first, l.count, cx));
        Ok(())
    }

    fn due_one(&self, source: &QueueSettings, run: &Run<'_>, w: &mut Work<'_>) -> Stored {
        let props = run.batch.props(run.from);
        let attrs = waypost_model::Attrs { expiration: own_expiration(props), ..run.attrs };
        let selected = attrs.flags.has(AttrFlags::SENDER_SELECTED);
        let way = self.topology_read().route_due(source, run.route, props, selected).unwrap_or_default();
        let origin = Origin { vhost: &source.vhost, user: None, near: None, make: true };
        match self.follow(way, &Run { attrs, ..*run }, origin, w) {
            Some(verdict) => stored(verdict),
            None => {
                self.counters.unroutable_dropped.fetch_add(u64::from(run.to - run.from), Ordering::Relaxed);
                Ok(())
            }
        }
    }
}

/// The message's own time to live: while it was delayed, its place held the delay.
fn own_expiration(props: &[u8]) -> Option<u32> {
    let text = waypost_model::props::Props(props).expiration()?;
    std::str::from_utf8(text).ok()?.parse().ok()
}

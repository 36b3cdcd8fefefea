//! Publishes that follow each other to the same queues of one shard: each has a route of its own and is a run of its own, but all of
//! them take the shard's lock once.

use std::iter::Peekable;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use waypost_model::{AttrFlags, Batch, Command, Publish, QueueId, ShardId};

use super::peer::Connection;
use super::publish::{Resolved, Run, STREAMS, Verdict};
use super::services::gather_neighbours;
use super::{Broker, Work};

/// So many runs at most while a shard is held: others want it too.
const NEIGHBOURS_MAX: usize = 32;

impl Broker {
    /// Carries out a publish of the turn's batch, and with it those behind it that lead to the same queues. `known` is
    /// where the publish leads, if that was looked up already; returns the same for the next one.
    pub(super) fn publish_with_neighbours(
        &self,
        conn: &mut Connection,
        first: Publish,
        known: Option<Arc<Resolved>>,
        commands: &mut Peekable<impl Iterator<Item = Command>>,
        (batch, w): (&Arc<Batch>, &mut Work<'_>),
    ) -> Option<Arc<Resolved>> {
        if conn.live(first.channel).is_none() || first.from >= first.to {
            return None;
        }
        let resolved = match known.map_or_else(|| self.resolve(conn, &first.route), Ok) {
            Ok(resolved) => resolved,
            Err(refusal) => {
                self.refuse_publish(conn, &first, refusal, w);
                return None;
            }
        };
        let Some(queues) = one_shard(&resolved).filter(|_| is_plain(&first)) else {
            self.publish_resolved(conn, &first, &resolved, batch, w);
            if conn.gathered.is_some() {
                gather_neighbours(conn, first.channel, commands, batch);
            }
            return None;
        };
        let mut group = std::mem::take(&mut conn.neighbours);
        group.push((first, Verdict::NOTHING));
        let mut next = None;
        while group.len() < NEIGHBOURS_MAX
            && let Some(Command::Publish(p)) = commands.peek()
            && is_plain(p)
            && p.from < p.to
            && conn.live(p.channel).is_some()
        {
            // What is refused is refused in its turn.
            next = self.resolve(conn, &p.route).ok();
            if !next.as_ref().is_some_and(|next| Arc::ptr_eq(next, &resolved)) {
                break;
            }
            next = None;
            if let Some(Command::Publish(p)) = commands.next() {
                group.push((p, Verdict::NOTHING));
            }
        }
        // They may lead to the same queue.
        self.hand_gathered(conn, w);
        let done = self.enqueue_group(conn, queues, &mut group, batch, w);
        // The channel may be closed now: each is looked at for itself.
        group.drain(done..).for_each(|(p, _)| self.publish(conn, &p, batch, w));
        group.clear();
        conn.neighbours = group;
        next
    }

    /// Stops behind the first that the journal does not take; says how many there were with it.
    fn enqueue_group(
        &self,
        conn: &mut Connection,
        (shard, queues): (ShardId, &[QueueId]),
        group: &mut [(Publish, Verdict)],
        batch: &Arc<Batch>,
        w: &mut Work<'_>,
    ) -> usize {
        let now = w.now;
        let done = self.with_shard(shard, w, |s, cx| {
            for (n, (p, verdict)) in group.iter_mut().enumerate() {
                let run = Run { route: &p.route, batch, from: p.from, to: p.to, attrs: p.attrs };
                *verdict = s.enqueue(queues, run.incoming(now, None), cx).into();
                if verdict.error.is_some() {
                    return n + 1;
                }
            }
            group.len()
        });
        for (p, verdict) in group.iter().take(done) {
            self.note_publish(conn, p);
            self.counters.routed.fetch_add(u64::from(p.to - p.from), Ordering::Relaxed);
            let run = Run { route: &p.route, batch, from: p.from, to: p.to, attrs: p.attrs };
            self.confirm(conn, p, &run, *verdict);
        }
        done
    }
}

/// The queues that messages go to, if one shard owns them all.
fn one_shard(resolved: &Resolved) -> Option<(ShardId, &[QueueId])> {
    match resolved {
        Resolved::Queues(targets) => match &**targets {
            [(shard, queues)] if *shard != STREAMS => Some((*shard, queues)),
            _ => None,
        },
        _ => None,
    }
}

/// Whether nothing but its route decides where it goes, and its bytes are in the turn's batch.
fn is_plain(p: &Publish) -> bool {
    p.batch.is_none() && !p.attrs.flags.has(AttrFlags::SENDER_SELECTED)
}

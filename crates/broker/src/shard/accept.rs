//! New messages, and the limits of a queue.

use std::sync::Arc;

use waypost_model::journal::AppendError;
use waypost_model::{Attrs, Batch, Lsn, Millis, Route, Seq};

use super::level::Merge;
use super::mailbox::{Source, Tag};
use super::queue::{Core, Queue};
use super::run::{Bytes, NEVER, Run, sum};
use crate::context::Cx;
use crate::effect::{DeadLetter, DeathReason, Effect, Leaving};
use crate::settings::Overflow;

/// Messages that come to queues: `from..to` of a batch, with one route and equal attributes.
#[derive(Debug, Clone)]
pub struct Incoming {
    /// Where they were published to.
    pub route: Arc<Route>,
    /// The bytes.
    pub batch: Arc<Batch>,
    /// First message of the batch.
    pub from: u32,
    /// One behind the last; more than `from`.
    pub to: u32,
    /// What they are. For a delay queue `expiration` is the delay, whatever the message's own property says.
    pub attrs: Attrs,
    /// When they came.
    pub at: Millis,
    /// For a delay queue: when they are due, if not at `at` + `expiration`. After a restart it is that in any case.
    pub due: Option<Millis>,
}

impl Incoming {
    /// How many messages.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.to.saturating_sub(self.from)
    }
}

/// What became of [`Incoming`] messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Enqueued {
    /// What must be durable before they may be confirmed, if anything.
    pub lsn: Option<Lsn>,
    /// So many of the first messages were accepted by all targets; each of the rest was refused by at least one.
    pub accepted: u32,
    /// So many targets are gone.
    pub missing: u32,
    /// Why the journal took nothing; the durable targets have refused all then.
    pub error: Option<AppendError>,
    /// A target has consumers and yet holds more than [`AHEAD_BYTES`]: its publishers do well to pause for a moment.
    pub ahead: bool,
    /// The place of the first message in the last target.
    pub first: Seq,
}

/// How far publishers may be ahead of the consumers of a queue before they are slowed. Enough for consumers never to
/// wait for them, little enough for buffers to be used again while they are in the processor's cache.
pub const AHEAD_BYTES: u64 = 2 * 1024 * 1024;

/// How a target takes a run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    /// The queue's index.
    pub index: u32,
    /// How many of the first messages it takes; the rest is refused.
    pub takes: u32,
    /// Whether the journal is to know.
    pub logged: bool,
}

impl Queue {
    /// How the queue would take the messages now.
    pub fn plan(&self, run: &Incoming) -> Plan {
        let logged = self.settings.durable
            && run.attrs.persistent()
            // What is to be delivered at once or to die would not outlive a restart; unless its death is to be seen.
            && (self.is_delay() || self.settings.dead_letter.is_some() || self.deadline(run.attrs, run.at) > run.at);
        Plan { index: self.index, takes: self.room(run, run.from), logged }
    }

    /// How many of the messages from `from` on fit while none is delivered.
    fn room(&self, run: &Incoming, from: u32) -> u32 {
        let count = run.to.saturating_sub(from);
        if self.settings.overflow == Overflow::DropHead {
            return count;
        }
        let mut room = u64::from(count);
        if let Some(max) = self.settings.max_length {
            room = room.min(max.saturating_sub(self.waiting_messages()));
        }
        if let Some(max) = self.settings.max_length_bytes {
            let mut left = max.saturating_sub(self.waiting_body());
            let slots = run.batch.slots().get(from as usize..run.to as usize).unwrap_or_default();
            let fits = slots.iter().take_while(|s| {
                let fits = u64::from(s.body_len) <= left;
                left = left.saturating_sub(u64::from(s.body_len));
                fits
            });
            room = room.min(fits.count() as u64);
        }
        u32::try_from(room).unwrap_or(count)
    }

    /// When messages die that come at `at`; for a delay queue, when they are due. Fixed when they come: a later change
    /// of the queue's time to live is for later messages.
    pub fn deadline(&self, attrs: Attrs, at: Millis) -> Millis {
        let own = attrs.expiration.map(u64::from);
        let queue = self.settings.message_ttl_ms.filter(|_| !self.is_delay());
        match (own, queue) {
            (Some(a), Some(b)) => at.plus(a.min(b)),
            (Some(ms), None) | (None, Some(ms)) => at.plus(ms),
            (None, None) if self.is_delay() => at,
            (None, None) => NEVER,
        }
    }

    /// Takes the messages as planned. Returns how many it took.
    pub fn accept(&mut self, run: &Incoming, plan: Plan, lsn: Lsn, core: &mut Core, cx: &mut Cx<'_>) -> u32 {
        let mut to = run.from + plan.takes;
        self.take_in(run, run.from, to, plan.logged, lsn, core, cx);
        if to < run.to && !plan.logged {
            // Consumers may have taken some on the spot, which makes room for more.
            loop {
                let more = self.room(run, to);
                if more == 0 {
                    break;
                }
                self.take_in(run, to, to + more, false, lsn, core, cx);
                to += more;
            }
        }
        if to < run.to {
            self.refuse(run, to, cx);
        }
        self.drop_head(core, cx);
        self.reclaim(core, cx);
        self.reschedule(core);
        to - run.from
    }

    fn take_in(
        &mut self,
        run: &Incoming,
        from: u32,
        to: u32,
        logged: bool,
        lsn: Lsn,
        core: &mut Core,
        cx: &mut Cx<'_>,
    ) {
        let count = to.saturating_sub(from);
        if count == 0 {
            return;
        }
        let (payload, body) = sum(run.batch.slots().get(from as usize..to as usize).unwrap_or_default());
        let deadline = run.due.filter(|_| self.is_delay()).unwrap_or_else(|| self.deadline(run.attrs, run.at));
        let fleeting = deadline <= run.at && !self.is_delay();
        let run = Run {
            first: self.next_seq,
            count,
            from,
            bytes: Bytes::Mem(Arc::clone(&run.batch)),
            route: Arc::clone(&run.route),
            attrs: run.attrs,
            at: run.at,
            deadline,
            // A restart could only find it dead: there is nothing that a delivery could run ahead of.
            lsn: if logged && !fleeting { lsn } else { Lsn(0) },
            payload,
            body,
            delivery_count: 0,
            redelivered: false,
            logged,
            tag: Tag::default(),
            keys: Box::default(),
        };
        self.next_seq = self.next_seq.plus(u64::from(count));
        self.stats.published += u64::from(count);
        self.add_memory(run.memory(), core, cx);
        if run.route.address.is_some() || self.has_mailbox() {
            return self.take_in_mailbox(run, core, cx);
        }
        let Some(rest) = self.offer(run, core, cx) else {
            return;
        };
        if rest.deadline <= cx.now && !self.is_delay() {
            return self.die(rest, DeathReason::Expired, core, cx);
        }
        let merge = if self.waiting { Merge::Apart } else { Merge::Allowed };
        self.ready.keep(rest, merge);
        self.dispatch(core, cx);
    }

    /// The same where instances consume, or the messages are for some of them.
    fn take_in_mailbox(&mut self, mut run: Run, core: &mut Core, cx: &mut Cx<'_>) {
        let merge = if self.waiting { Merge::Apart } else { Merge::Allowed };
        let route = Arc::clone(&run.route);
        run.tag = self.mailbox_mut(cx).tag_of(&route);
        self.take_in_lanes(run, merge, core, cx);
        self.dispatch(core, cx);
    }

    /// Messages from `from` on are not taken.
    fn refuse(&mut self, run: &Incoming, from: u32, cx: &mut Cx<'_>) {
        let count = run.to.saturating_sub(from);
        self.stats.refused += u64::from(count);
        if self.settings.overflow != Overflow::RejectPublishDlx {
            return;
        }
        let Some(to) = self.settings.dead_letter.clone() else {
            return;
        };
        self.stats.dead_lettered += u64::from(count);
        let messages = Leaving {
            settings: Arc::clone(&self.settings),
            // They never had a place; at the end of all places nothing is found when they are reported to have left.
            first: Seq(u64::MAX - u64::from(count)),
            count,
            route: Arc::clone(&run.route),
            attrs: run.attrs,
            at: run.at,
            body: waypost_model::Body::Mem { batch: Arc::clone(&run.batch), from },
        };
        cx.effects.push(Effect::DeadLetter(DeadLetter { messages, reason: DeathReason::MaxLen, to }));
    }

    /// Drops what is over the limits, from the front.
    pub fn drop_head(&mut self, core: &mut Core, cx: &mut Cx<'_>) {
        if self.settings.overflow != Overflow::DropHead {
            return;
        }
        while let Some(max) = self.settings.max_length
            && self.waiting_messages() > max
        {
            let n = u32::try_from(self.waiting_messages() - max).unwrap_or(u32::MAX);
            if !self.drop_first(|_| n, core, cx) {
                break;
            }
        }
        while let Some(max) = self.settings.max_length_bytes
            && self.waiting_body() > max
        {
            let excess = self.waiting_body() - max;
            if !self.drop_first(|run| bodies_of(run, excess), core, cx) {
                break;
            }
        }
    }

    fn drop_first(&mut self, n: impl Fn(&Run) -> u32, core: &mut Core, cx: &mut Cx<'_>) -> bool {
        let source = if self.has_mailbox() { self.first_source() } else { Some(Source::PLAIN) };
        let taken = source.and_then(|source| {
            self.with_source(source, core, |ready| {
                let level = ready.top()?;
                let n = ready.front_sealed(level).map(n)?;
                ready.take_front(level, n)
            })
        });
        let Some(run) = taken.flatten() else {
            return false;
        };
        // What has expired by now died of that.
        let reason = if run.deadline <= cx.now { DeathReason::Expired } else { DeathReason::MaxLen };
        self.die(run, reason, core, cx);
        true
    }
}

/// How many messages from the front have at least `bytes` bytes of bodies, or all.
fn bodies_of(run: &Run, bytes: u64) -> u32 {
    let n = match run.slots() {
        Some(slots) => {
            let mut sum = 0u64;
            let short = slots.iter().take_while(|s| {
                sum += u64::from(s.body_len);
                sum < bytes
            });
            short.count() as u64 + 1
        }
        None => bytes.div_ceil((run.body / u64::from(run.count.max(1))).max(1)),
    };
    u32::try_from(n).unwrap_or(u32::MAX).clamp(1, run.count)
}

//! Queues as a restart finds them.

use std::sync::Arc;

use waypost_model::journal::RecoveredRun;
use waypost_model::{Lsn, Seq};

use super::Shard;
use super::mailbox::Tag;
use super::run::{Bytes, Run};
use crate::context::Cx;
use crate::settings::QueueSettings;

impl Shard {
    /// A queue that was there before the restart, with its messages in order of their places. Their bytes stay in the
    /// journal. Deadlines are what they were: they follow from when a message came, its `expiration` (of a delay queue:
    /// the delay) and the queue's time to live. What died meanwhile dies at the next tick. Unless the stop was
    /// `clean`, everything is flagged redelivered.
    pub fn restore(
        &mut self,
        settings: Arc<QueueSettings>,
        runs: impl IntoIterator<Item = RecoveredRun>,
        next_seq: Seq,
        clean: bool,
        cx: &mut Cx<'_>,
    ) {
        let id = settings.id;
        self.create_queue(settings, cx);
        let Some((q, core)) = self.with_core(id) else {
            return;
        };
        q.next_seq = q.next_seq.max(next_seq);
        for r in runs {
            debug_assert_eq!(r.range.queue, id);
            let deadline = q.deadline(r.attrs, r.at);
            let run = Run {
                first: r.range.first,
                count: r.range.count,
                from: 0,
                bytes: Bytes::Stored,
                route: r.route,
                attrs: r.attrs,
                at: r.at,
                deadline,
                lsn: Lsn(0),
                payload: r.payload_bytes,
                // The journal keeps one sum. Properties have at least their flags; what more they have counts as body.
                body: r.payload_bytes.saturating_sub(2 * u64::from(r.range.count)),
                delivery_count: r.delivery_count,
                redelivered: !clean || r.delivery_count > 0,
                logged: true,
                tag: Tag::default(),
                keys: Box::default(),
            };
            q.next_seq = q.next_seq.max(Seq(run.end()));
            if run.count > 0 {
                q.keep_restored(run, cx);
            }
        }
        if q.waiting_messages() > 0 && (q.settings.max_length.is_some() || q.settings.max_length_bytes.is_some()) {
            // The dead do not take the room of the living.
            q.expire(core, cx);
            q.drop_head(core, cx);
        }
        q.reschedule(core);
    }
}

//! Messages for all instances that match: a copy each.

use std::sync::Arc;

use waypost_model::address::Address;
use waypost_model::selector::Selector;
use waypost_model::service::{InstanceChange, Parting};
use waypost_model::{QueueId, Route};

use super::super::{Enqueued, Incoming, Shard};
use super::{Claimant, Mark, Source};
use crate::context::Cx;

impl Shard {
    /// Messages for every instance that matches now: each gets copies of its own. `None` if there is no such instance.
    ///
    /// Instances that have never consumed are not meant: nothing would ever fetch their copies.
    pub fn enqueue_all(
        &mut self,
        queue: QueueId,
        run: &Incoming,
        selector: &Selector,
        cx: &mut Cx<'_>,
    ) -> Option<Enqueued> {
        let mailbox = self.queue(queue)?.mailbox.as_deref()?;
        let recipients = mailbox.recipients(|i| selector.is_match(i));
        let mut all: Option<Enqueued> = None;
        for instance in recipients {
            let address = Address { recipient: Some(&instance.id), ..Address::default() }.encode();
            let (exchange, routing_key) = (run.route.exchange.clone(), run.route.routing_key.clone());
            let route = Arc::new(Route { exchange, routing_key, address });
            let said = self.enqueue(&[queue], Incoming { route, ..run.clone() }, cx);
            all = Some(match all {
                None => said,
                Some(before) => Enqueued {
                    lsn: before.lsn.max(said.lsn),
                    accepted: before.accepted.min(said.accepted),
                    missing: before.missing.max(said.missing),
                    error: before.error.or(said.error),
                    ahead: before.ahead || said.ahead,
                    first: said.first,
                },
            });
        }
        all
    }

    /// The registry says that an instance of a mailbox's service has changed.
    pub fn instance_changed(&mut self, queue: QueueId, change: &InstanceChange, cx: &mut Cx<'_>) {
        let Some((q, core)) = self.with_core(queue) else {
            return;
        };
        let Some(mb) = q.mailbox.as_deref_mut() else {
            return;
        };
        let mut ending = Vec::new();
        match change {
            InstanceChange::Is { instance, standing, incarnation } => {
                let instance = Arc::clone(instance);
                mb.instance_is(&Claimant { instance, standing: *standing, incarnation: *incarnation }, cx.now);
            }
            InstanceChange::Gone { id, incarnation, why } => {
                if *why == Parting::Drained {
                    ending = q.consumers_as(id, *incarnation);
                }
                let Some(mb) = q.mailbox.as_deref_mut() else { return };
                if mb.instance_gone(id, *incarnation) {
                    q.end_copies(core, cx);
                }
            }
            InstanceChange::Wanted => {}
        }
        if let Some(mb) = q.mailbox.as_deref_mut() {
            mb.sync(Source::PLAIN, &q.ready, core.durable, Mark::Dirty);
            mb.mark_waiting();
        }
        q.dispatch(core, cx);
        q.reschedule(core);
        for consumer in ending {
            self.turn_away(consumer, cx);
        }
    }

    /// Who would get copies of what is for all that match now, by id.
    #[must_use]
    pub fn recipients(&self, queue: QueueId, selector: &Selector) -> Vec<Box<str>> {
        let mailbox = self.queue(queue).and_then(|q| q.mailbox.as_deref());
        let all = mailbox.map(|mb| mb.recipients(|i| selector.is_match(i))).unwrap_or_default();
        all.into_iter().map(|i| i.id.clone()).collect()
    }

    /// Whether a queue was made for its service, and has nothing and nobody.
    #[must_use]
    pub fn is_idle(&self, queue: QueueId) -> bool {
        self.queue(queue).is_some_and(|q| q.is_idle())
    }
}

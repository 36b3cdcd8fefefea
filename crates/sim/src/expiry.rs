//! The queue that goes when nobody uses it.

use waypost_model::ConsumerId;

use crate::plan::EXPIRES_MS;
use crate::world::{Broken, World};

const NAME: &str = "e";

impl World {
    /// A queue has been deleted, or is about to be: what belongs to its incarnation goes with it.
    pub(crate) fn deleted(&mut self, queue: &str) {
        let gone = self.ids.remove(queue);
        for client in self.clients.values_mut() {
            // Those that were cancelled before are not told.
            client.consumers.retain(|_, c| !c.ended || Some(c.id) != gone);
            let left: Vec<ConsumerId> = client.consumers.keys().copied().collect();
            client.hand.retain(|(c, _)| left.contains(c));
        }
        self.held.retain(|(q, _), _| Some(*q) != gone);
    }

    fn consumed(&self) -> bool {
        self.clients.values().flat_map(|c| c.consumers.values()).any(|c| c.queue == NAME && !c.ended && !c.gets)
    }

    /// To be called before and after whatever may begin or end a consumer: time stands still between.
    pub(crate) fn note_use(&mut self) {
        if self.consumed() {
            self.used = self.now;
        }
    }

    /// After time has passed and the broker was told: the queue is gone if it was due, and only then.
    pub(crate) fn check_expiry(&mut self) -> Result<(), Broken> {
        if !self.ids.contains_key(NAME) || self.engine.is_stopped() {
            return Ok(());
        }
        let queues = self.broker.queues(None).map_err(|e| e.to_string())?;
        let there = queues.iter().any(|r| &*r.view.settings.name == NAME);
        let due = !self.consumed() && self.used.plus(EXPIRES_MS) <= self.now;
        match (there, due) {
            (true, false) => {}
            (false, true) => {
                self.trace.add("  e expires".into());
                *self.tally.steps.entry("expired").or_default() += 1;
                self.deleted(NAME);
                self.ledger.forget(NAME);
            }
            _ => return Err(format!("e was used at {}, now {}: there {there}, due {due}", self.used, self.now)),
        }
        Ok(())
    }
}

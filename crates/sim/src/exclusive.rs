//! Queues that belong to a connection and go with it. What is routed to them nobody reads: the accounts at the end show
//! whether it goes too.

use std::collections::BTreeSet;

use waypost_model::Call;
use waypost_model::command::{Binding, Destination, QueueDeclare};
use waypost_model::table::Table;

use crate::client::Asked;
use crate::world::{Broken, World};

const PREFIX: &str = "own-";

impl World {
    /// A client declares a queue of its own; where it has one, another client tries to get at it.
    pub(crate) fn exclusive(&mut self, id: u32) -> Result<(), Broken> {
        let Some(channel) = self.some_channel(id) else { return Ok(()) };
        if let Some(owner) = self.owners.iter().copied().find(|owner| *owner != id) {
            self.call(id, channel, Call::QueuePurge { queue: format!("{PREFIX}{owner}").into() }, Asked::Nothing)?;
            let refused = self.clients.get(&id).and_then(|c| c.channels.get(&channel)).is_none_or(|c| c.failed);
            return if refused { Ok(()) } else { Err(format!("{id} purged a queue that is {owner}'s alone")) };
        }
        let name: Box<str> = format!("{PREFIX}{id}").into();
        let declare = QueueDeclare {
            name: name.clone(),
            passive: false,
            durable: id.is_multiple_of(2),
            exclusive: true,
            auto_delete: false,
            arguments: Table::new(),
        };
        self.call(id, channel, Call::QueueDeclare(declare), Asked::Nothing)?;
        if self.clients.get(&id).and_then(|c| c.channels.get(&channel)).is_some_and(|c| !c.failed) {
            self.owners.insert(id);
        }
        let bind = Binding {
            source: "f".into(),
            destination: Destination::Queue(name),
            routing_key: [].into(),
            arguments: Table::new(),
        };
        self.call(id, channel, Call::Bind(bind), Asked::Nothing)
    }

    /// Each exclusive queue is there as long as its owner, and no longer.
    pub(crate) fn check_owners(&self) -> Result<(), Broken> {
        if self.engine.is_stopped() {
            return Ok(());
        }
        let queues = self.broker.queues(None).map_err(|e| e.to_string())?;
        let owner = |name: &str| name.strip_prefix(PREFIX).and_then(|id| id.parse().ok());
        let there: BTreeSet<u32> = queues.iter().filter_map(|r| owner(&r.view.settings.name)).collect();
        if there == self.owners {
            Ok(())
        } else {
            Err(format!("exclusive queues of {there:?}, owners {:?}", self.owners))
        }
    }
}

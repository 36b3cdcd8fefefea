//! The broker as drivers see it.

use std::sync::Arc;

use waypost_broker::broker::{Broker, Connection};
use waypost_model::journal::BodyStore;
use waypost_model::{Lsn, Millis, Turn};

use crate::driver::{Core, Pressure};

/// Queues move bytes to disk past their budget. Publishers that outrun this are slowed from this multiple of it on.
const SOFT_PRESSURE_BUDGETS: u64 = 2;

/// Broker and store.
pub struct BrokerCore {
    broker: Arc<Broker>,
    bodies: Arc<dyn BodyStore>,
}

impl BrokerCore {
    /// Puts them together.
    #[must_use]
    pub fn new(broker: Arc<Broker>, bodies: Arc<dyn BodyStore>) -> BrokerCore {
        BrokerCore { broker, bodies }
    }

    /// The broker.
    #[must_use]
    pub fn broker(&self) -> &Arc<Broker> {
        &self.broker
    }
}

impl Core for BrokerCore {
    type Conn = Connection;

    fn execute(&self, conn: &mut Connection, turn: &mut Turn, now: Millis) {
        self.broker.execute(conn, turn, now);
    }

    fn disconnect(&self, conn: Connection, now: Millis) {
        self.broker.disconnect(conn, now);
    }

    fn durable(&self) -> Lsn {
        self.broker.durable()
    }

    fn pressure(&self) -> Pressure {
        if self.broker.publishing_paused() {
            return Pressure::Hard;
        }
        let memory = self.broker.memory();
        if memory.used() > memory.limit().saturating_mul(SOFT_PRESSURE_BUDGETS) {
            Pressure::Soft
        } else {
            Pressure::None
        }
    }

    fn ahead(&self, conn: &mut Connection) -> bool {
        conn.take_ahead()
    }

    fn spreads(&self, conn: &Connection) -> bool {
        conn.spreads()
    }

    fn bodies(&self) -> &Arc<dyn BodyStore> {
        &self.bodies
    }
}

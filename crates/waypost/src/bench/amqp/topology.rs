//! Queues and exchanges of one run, under names of their own, removed at its end.

use super::conn::{Conn, QueueSpec};
use super::fault::Fault;
use super::uri::Uri;
use std::time::{SystemTime, UNIX_EPOCH};

/// What was declared for a run.
#[derive(Debug)]
pub struct Topology {
    conn: Conn,
    uri: Uri,
    /// The start of all names.
    pub prefix: String,
    /// Names of the queues.
    pub queues: Vec<String>,
    /// Name of the exchange, if there is one.
    pub exchange: Option<String>,
}

impl Topology {
    /// Declares `count` queues.
    ///
    /// # Errors
    /// No connection, a refusal of the broker.
    pub fn queues(uri: &Uri, count: usize, spec: &QueueSpec) -> Result<Self, Fault> {
        let conn = Conn::open_channel(uri)?;
        let prefix = prefix();
        let mut topology = Self { conn, uri: uri.clone(), prefix, queues: Vec::new(), exchange: None };
        for at in 0..count {
            let name = format!("{}-{at}", topology.prefix);
            if let Err(fault) = topology.conn.declare_queue(&name, spec) {
                topology.remove();
                return Err(fault);
            }
            topology.queues.push(name);
        }
        Ok(topology)
    }

    /// Declares the mailbox of a service, whose name is the prefix.
    ///
    /// # Errors
    /// As [`queues`](Self::queues).
    pub fn mailbox(uri: &Uri, spec: &QueueSpec) -> Result<Self, Fault> {
        let mut topology = Self::queues(uri, 0, spec)?;
        let name = format!("{}-queue", topology.prefix);
        topology.conn.declare_queue(&name, spec)?;
        topology.queues.push(name);
        Ok(topology)
    }

    /// Declares an exchange of type `kind` and binds queues to it: `(queue index, binding key)` each.
    ///
    /// # Errors
    /// A refusal of the broker.
    pub fn exchange(
        mut self,
        kind: &str,
        durable: bool,
        bindings: impl Iterator<Item = (usize, String)>,
    ) -> Result<Self, Fault> {
        match self.bind_all(kind, durable, bindings) {
            Ok(()) => Ok(self),
            Err(fault) => {
                self.remove();
                Err(fault)
            }
        }
    }

    fn bind_all(
        &mut self,
        kind: &str,
        durable: bool,
        bindings: impl Iterator<Item = (usize, String)>,
    ) -> Result<(), Fault> {
        let name = format!("{}-x", self.prefix);
        self.conn.declare_exchange(&name, kind, durable)?;
        self.exchange = Some(name.clone());
        for (queue, key) in bindings {
            self.conn.bind(&self.queues[queue], &name, &key)?;
        }
        Ok(())
    }

    /// Removes everything. Failures are only reported: the measurement is made.
    pub fn remove(mut self) {
        if let Err(first) = self.try_remove() {
            // The channel may have been closed by what failed: once more on a fresh one.
            let again = Conn::open_channel(&self.uri).and_then(|conn| {
                self.conn = conn;
                self.try_remove()
            });
            if again.is_err() {
                eprintln!("waypost: queues named {}-* remain: {first}", self.prefix);
                return;
            }
        }
        self.conn.close();
    }

    fn try_remove(&mut self) -> Result<(), Fault> {
        if let Some(exchange) = &self.exchange {
            self.conn.delete_exchange(exchange)?;
        }
        self.queues.iter().try_for_each(|queue| self.conn.delete_queue(queue))
    }
}

/// A start of names that no other run has: short, for names travel with every message.
pub fn prefix() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mixed = (now.as_micros() as u64).wrapping_mul(31) ^ u64::from(std::process::id()) << 20;
    format!("wb{:06x}", mixed & 0xff_ffff)
}

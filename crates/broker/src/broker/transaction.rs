//! Transactions: what they publish and settle enters the journal as one append.

use std::sync::{Mutex, PoisonError};

use waypost_model::journal::{AppendError, Journal, Op, SpillRef};
use waypost_model::{Batch, ChannelId, Command, Lsn, Refusal};

use super::peer::Connection;
use super::{Broker, Work, publish};

/// Collects what shards append during a commit, all under one ticket.
pub(super) struct Collecting<'a> {
    inner: &'a dyn Journal,
    ticket: Lsn,
    ops: Mutex<Vec<Op>>,
}

impl Collecting<'_> {
    fn take(&self) -> Vec<Op> {
        std::mem::take(&mut *self.ops.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Journal for Collecting<'_> {
    fn append(&self, mut ops: Vec<Op>) -> Result<Lsn, AppendError> {
        self.ops.lock().unwrap_or_else(PoisonError::into_inner).append(&mut ops);
        Ok(self.ticket)
    }

    fn reserve(&self) -> Lsn {
        self.inner.reserve()
    }

    fn fill(&self, ticket: Lsn, ops: Vec<Op>) -> Result<(), AppendError> {
        self.inner.fill(ticket, ops)
    }

    fn durable(&self) -> Lsn {
        self.inner.durable()
    }

    fn spill(&self, batch: &Batch, from: u32, to: u32) -> std::io::Result<SpillRef> {
        self.inner.spill(batch, from, to)
    }

    fn release_spill(&self, at: SpillRef) {
        self.inner.release_spill(at);
    }
}

impl Broker {
    /// Carries out a transaction. Everything that can be refused is tried before anything takes effect.
    pub(super) fn commit(
        &self,
        conn: &mut Connection,
        channel: ChannelId,
        commands: Vec<Command>,
        w: &mut Work<'_>,
    ) -> Result<Option<Lsn>, Refusal> {
        for command in &commands {
            if let Command::Publish(p) = command {
                self.try_route(conn, p)?;
            }
        }
        self.room_for(&commands)?;
        let collecting = Collecting { inner: &*self.journal, ticket: self.journal.reserve(), ops: Mutex::default() };
        let mut inner =
            Work { now: w.now, journal: &collecting, effects: Vec::new(), wakes: crate::context::Wakes::default() };
        for command in commands {
            match command {
                Command::Publish(mut p) => {
                    p.channel = channel;
                    // The session gives each publish of a transaction its own batch.
                    if let Some(batch) = p.batch.take() {
                        self.publish(conn, &p, &batch, &mut inner);
                    }
                }
                Command::Settle(s) => self.settle(conn, &s, &mut inner),
                Command::Sent(_) | Command::Call { .. } => {}
            }
        }
        // What follows from the transaction is part of it no more: it has its own appends, behind the ticket.
        w.effects.append(&mut inner.effects);
        let ops = collecting.take();
        let any = !ops.is_empty();
        self.journal
            .fill(collecting.ticket, ops)
            .map_err(|e| Refusal::precondition_failed(format!("cannot store the transaction: {e}")))?;
        Ok(any.then_some(collecting.ticket))
    }

    /// Refuses what the disk has no room for while nothing has been done yet.
    fn room_for(&self, commands: &[Command]) -> Result<(), Refusal> {
        let bytes = |c: &Command| match c {
            Command::Publish(p) if p.attrs.persistent() => p.batch.as_ref().map(|b| b.payload_len(p.from, p.to)),
            _ => None,
        };
        let bytes: Vec<u64> = commands.iter().filter_map(bytes).collect();
        if bytes.is_empty() {
            return Ok(());
        }
        self.journal
            .room(bytes.iter().sum())
            .map_err(|e| Refusal::precondition_failed(format!("cannot store the transaction: {e}")))
    }

    fn try_route(&self, conn: &mut Connection, p: &waypost_model::Publish) -> Result<(), Refusal> {
        let resolved = self.resolve(conn, &p.route)?;
        if let Some(batch) = &p.batch {
            let run = publish::Run { route: &p.route, batch, from: p.from, to: p.to, attrs: p.attrs };
            if let publish::Resolved::Service(base) = &*resolved {
                return self.try_service(conn, base, &run);
            }
            for i in p.from..p.to {
                self.route_one(conn, &run, i)?;
            }
        }
        Ok(())
    }
}

//! From peers to the broker: published, and read no faster than the log takes it.

use std::collections::VecDeque;
use std::sync::Arc;

use waypost_model::{
    AttrFlags, Attrs, Batch, BatchBuilder, Command, Event, Lsn, Millis, Publish, Refusal, Route, Turn,
};

use super::link::{CHANNEL, Link, Place};

/// Bytes that may be on their way to the disk before peers are no longer read.
const UNSYNCED_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// How long to wait before what the broker did not take is tried again, ms.
const RETRY_MS: u64 = 100;

/// A publisher.
pub(super) struct Inlet {
    place: Place,
    link: Link,
    attrs: Attrs,
    /// Whether what no queue takes is counted; else it waits for whom it is for, or is dropped.
    mandatory: bool,
    number: u64,
    /// What is published and not on disk: tickets with bytes.
    unsynced: VecDeque<(Lsn, u64)>,
    unsynced_bytes: u64,
    /// What the broker had no room for, in order.
    refused: VecDeque<Run>,
    retry_at: Option<Millis>,
    /// The broker is short of memory or disk.
    held_back: bool,
    /// Messages that no queue took: they went to an exchange.
    pub(super) unroutable: u64,
}

/// Messages with one route.
struct Run {
    route: Arc<Route>,
    batch: Arc<Batch>,
    from: u32,
    to: u32,
}

impl Inlet {
    /// A publisher of persistent messages, or of transient ones.
    pub(super) fn open(place: &Place, flags: AttrFlags) -> Result<Inlet, Refusal> {
        Ok(Inlet {
            place: place.clone(),
            link: Link::open(place)?,
            attrs: Attrs { flags, ..Attrs::default() },
            mandatory: true,
            number: 0,
            unsynced: VecDeque::new(),
            unsynced_bytes: 0,
            refused: VecDeque::new(),
            retry_at: None,
            held_back: false,
            unroutable: 0,
        })
    }

    /// Messages are for services that may have nobody yet, and expire after so long. Their properties must say the same.
    pub(super) fn waits_for_receivers(&mut self, expiration_ms: u32) {
        self.mandatory = false;
        self.attrs.expiration = Some(expiration_ms);
    }

    pub(super) fn link(&mut self) -> &mut Link {
        &mut self.link
    }

    /// Whether peers may be read.
    pub(super) fn has_room(&self) -> bool {
        !self.held_back && self.refused.is_empty() && self.unsynced_bytes < UNSYNCED_BYTES_MAX
    }

    /// Whether all that came is on disk, as far as it belongs there.
    pub(super) fn is_settled(&self) -> bool {
        self.refused.is_empty() && self.unsynced.is_empty()
    }

    pub(super) fn deadline(&self) -> Option<Millis> {
        self.retry_at
    }

    /// Publishes a batch of messages with one route.
    pub(super) fn publish(&mut self, route: &Arc<Route>, batch: BatchBuilder, now: Millis) {
        let to = u32::try_from(batch.len()).unwrap_or(u32::MAX);
        let run = Run { route: Arc::clone(route), batch: Arc::new(batch.finish()), from: 0, to };
        if self.refused.is_empty() {
            self.offer(run, now);
        } else {
            self.refused.push_back(run);
        }
    }

    /// Hands a run to the broker. What it does not take is kept.
    fn offer(&mut self, run: Run, now: Millis) {
        if run.from >= run.to {
            return;
        }
        let bytes = run.batch.payload_len(run.from, run.to);
        let first = self.number + 1;
        self.number += u64::from(run.to - run.from);
        let publish = Publish {
            channel: CHANNEL,
            route: Arc::clone(&run.route),
            batch: Some(Arc::clone(&run.batch)),
            from: run.from,
            to: run.to,
            attrs: self.attrs,
            mandatory: self.mandatory,
            confirm: Some(self.number),
        };
        self.link.execute(&mut Turn { batch: None, commands: vec![Command::Publish(publish)] });
        let mut rejected = None;
        let mut returned = 0;
        while let Some(event) = self.link.next() {
            match event {
                Event::Accepted { lsn: Some(lsn), .. } => {
                    self.unsynced.push_back((lsn, bytes));
                    self.unsynced_bytes += bytes;
                }
                Event::Returned { from, to, .. } => returned += u64::from(to - from),
                Event::Rejected { first: from, .. } => rejected = Some(from.saturating_sub(first)),
                Event::Refused { refusal, .. } => {
                    // The channel is no use any more; a fresh connection is, as soon as its target is there again.
                    tracing::warn!(%refusal, "messages of a zmtp device were refused");
                    rejected = Some(0);
                    if let Ok(link) = Link::open(&self.place) {
                        self.link = link;
                        self.number = 0;
                    }
                    break;
                }
                other => self.note(&other),
            }
        }
        self.unroutable += returned;
        if let Some(skip) = rejected {
            let from = run.from.saturating_add(u32::try_from(skip).unwrap_or(u32::MAX)).min(run.to);
            self.refused.push_front(Run { from, ..run });
            self.retry_at = Some(now.plus(RETRY_MS));
        }
    }

    /// Looks what the disk has, and tries again what was not taken. Returns whether anything happened.
    pub(super) fn turn(&mut self, now: Millis) -> bool {
        while let Some(event) = self.link.next() {
            self.note(&event);
        }
        let durable = self.link.durable();
        let mut any = false;
        while let Some(&(lsn, bytes)) = self.unsynced.front()
            && lsn <= durable
        {
            self.unsynced.pop_front();
            self.unsynced_bytes -= bytes;
            any = true;
        }
        if self.retry_at.is_some_and(|at| at <= now) {
            self.retry_at = None;
            while self.retry_at.is_none()
                && let Some(run) = self.refused.pop_front()
            {
                any = true;
                self.offer(run, now);
            }
        }
        any
    }

    fn note(&mut self, event: &Event) {
        match event {
            Event::Blocked { .. } => self.held_back = true,
            Event::Unblocked => self.held_back = false,
            _ => {}
        }
    }
}

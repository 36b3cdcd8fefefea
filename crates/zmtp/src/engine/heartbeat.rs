//! Who is still there.

use waypost_model::Millis;

use super::config::{EngineConfig, Heartbeat};
use crate::fault::Fault;

/// What is known of the peer's life.
#[derive(Debug)]
pub(super) struct Pulse {
    /// Until when the handshake must be done.
    open_by: Option<Millis>,
    /// When something came last.
    heard: Millis,
    /// When we send a ping next.
    ping_at: Option<Millis>,
    /// When we sent the oldest ping that nothing came after.
    pinged: Option<Millis>,
    /// How long the peer may be silent by its own words, ms.
    ttl_ms: Option<u64>,
}

impl Pulse {
    pub(super) fn new(open_by: Millis) -> Pulse {
        Pulse { open_by: Some(open_by), heard: Millis(0), ping_at: None, pinged: None, ttl_ms: None }
    }

    pub(super) fn opened(&mut self, heartbeat: Option<&Heartbeat>, now: Millis) {
        self.open_by = None;
        self.ping_at = heartbeat.map(|h| now.plus(h.interval_ms));
    }

    pub(super) fn heard(&mut self, now: Millis) {
        self.heard = now;
        self.pinged = None;
    }

    /// The peer said in a ping how long its silence may last. 0 says nothing.
    pub(super) fn peer_ttl(&mut self, ttl_ds: u16, now: Millis) {
        self.heard = now;
        if ttl_ds > 0 {
            self.ttl_ms = Some(u64::from(ttl_ds) * 100);
        }
    }

    pub(super) fn deadline(&self, heartbeat: Option<&Heartbeat>) -> Option<Millis> {
        let silent_at = self.pinged.zip(heartbeat).map(|(at, h)| at.plus(h.timeout_ms));
        let dead_at = self.ttl_ms.map(|ttl| self.heard.plus(ttl));
        [self.open_by, self.ping_at, silent_at, dead_at].into_iter().flatten().min()
    }

    /// Whether a ping is due, with its time to live.
    ///
    /// # Errors
    /// The peer's time is over.
    pub(super) fn check(&mut self, config: &EngineConfig, now: Millis) -> Result<Option<u16>, Fault> {
        if self.open_by.is_some_and(|by| by <= now) {
            return Err(Fault::HandshakeTimeout(config.handshake_ms));
        }
        if self.ttl_ms.is_some_and(|ttl| self.heard.plus(ttl) <= now) {
            return Err(Fault::Silent(now.since(self.heard)));
        }
        let Some(h) = &config.heartbeat else { return Ok(None) };
        if self.pinged.is_some_and(|at| at.plus(h.timeout_ms) <= now) {
            return Err(Fault::Silent(now.since(self.heard)));
        }
        if self.ping_at.is_some_and(|at| at <= now) {
            self.ping_at = Some(now.plus(h.interval_ms));
            self.pinged.get_or_insert(now);
            return Ok(Some(h.ttl_ds));
        }
        Ok(None)
    }
}

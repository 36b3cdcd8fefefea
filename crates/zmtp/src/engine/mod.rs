//! One connection, without its socket: octets in, events and octets out.
//!
//! A driver does, for as long as there is anything to do:
//!
//! 1. [`Engine::transmit`], then write what [`Outgoing::slices`] gives and tell [`Outgoing::advance`];
//! 2. append what the socket has to [`Engine::input`], then [`Engine::receive`], and hand on the events;
//! 3. at [`Engine::deadline`]: [`Engine::on_deadline`].
//!
//! After a [`Fault`] it writes what [`Engine::transmit`] still gives, as far as the socket takes it, and closes.

mod config;
mod heartbeat;
mod outgoing;
mod scanner;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use waypost_model::Millis;

pub use config::{EngineConfig, Heartbeat};
pub use outgoing::{Limits, Outgoing};

use crate::fault::Fault;
use crate::security::curve::{Cipher, MESSAGE_OVERHEAD};
use crate::security::{Entropy, HANDSHAKE_OVERHEAD, Handshake, Outcome, Step};
use crate::socket_type::SocketType;
use crate::wire::chunk::{Chunk, Slice};
use crate::wire::command::{self, Ping};
use crate::wire::frame::{self, COMMAND, MORE};
use crate::wire::greeting::{self, GREETING_BYTES};
use crate::wire::metadata::{self, METADATA_BYTES_MAX};
use crate::wire::pool::Pool;
use heartbeat::Pulse;
use outgoing::Mode;
use scanner::{Mark, Scanner};

/// Ciphertext that is made ahead of the socket.
const SEALED_AHEAD_BYTES: usize = 64 * 1024;

/// What came.
#[derive(Debug)]
pub enum Event {
    /// The handshake is done: from now on messages flow.
    Opened(PeerInfo),
    /// Whole messages.
    Messages(Chunk),
    /// The peer subscribes, by a command.
    Subscribe(Slice),
    /// The peer takes a subscription back, by a command.
    Cancel(Slice),
}

/// Who the peer is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerInfo {
    /// Its socket type.
    pub socket_type: SocketType,
    /// Its identity; empty if it has none.
    pub identity: Box<[u8]>,
    /// Who was authenticated: a user, or a public key in Z85.
    pub user: Option<String>,
    /// The minor version of ZMTP that is spoken.
    pub minor: u8,
}

/// A connection.
pub struct Engine {
    config: Arc<EngineConfig>,
    stage: Stage,
    /// What has come and is not understood yet; in use until the stage is `Open`, and afterwards with encryption.
    wire: Vec<u8>,
    scanner: Scanner,
    /// What is to go out at the next boundary between messages.
    control: Vec<u8>,
    cipher: Option<Box<Cipher>>,
    minor: u8,
    pulse: Pulse,
}

enum Stage {
    /// The peer's greeting is not whole.
    Greeting(Box<Handshake>),
    /// The mechanism's commands.
    Handshake(Box<Handshake>),
    Open,
    Failed,
}

impl Engine {
    /// A fresh connection; our greeting is ready to be sent.
    #[must_use]
    pub fn new(config: Arc<EngineConfig>, entropy: Entropy, now: Millis) -> Engine {
        let handshake = Box::new(Handshake::new(&config.security, entropy));
        let control = greeting::greeting(config.security.mechanism(), config.security.is_server()).to_vec();
        Engine {
            pulse: Pulse::new(now.plus(config.handshake_ms)),
            config,
            stage: Stage::Greeting(handshake),
            wire: Vec::new(),
            scanner: Scanner::default(),
            control,
            cipher: None,
            minor: 0,
        }
    }

    /// Whether the handshake is done.
    #[must_use]
    pub fn is_open(&self) -> bool {
        matches!(self.stage, Stage::Open)
    }

    /// Whether the connection itself has something to say: a handshake, a pong.
    #[must_use]
    pub fn has_control(&self) -> bool {
        !self.control.is_empty()
    }

    /// Octets of it that were not moved by [`Engine::transmit`] yet.
    #[must_use]
    pub fn control_len(&self) -> usize {
        self.control.len()
    }

    /// Whether a message has come in part.
    #[must_use]
    pub fn has_partial(&self) -> bool {
        !self.wire.is_empty() || self.scanner.has_partial()
    }

    /// The buffer to append received octets to, with room for `room` more. Only ever append.
    pub fn input(&mut self, pool: &mut Pool, room: usize) -> &mut Vec<u8> {
        let clear = self.is_open() && self.cipher.is_none();
        let input = if clear { self.scanner.buffer() } else { &mut self.wire };
        if input.capacity() == 0 {
            *input = pool.take(room);
        } else {
            input.reserve(room);
        }
        input
    }

    /// Understands what was appended to the input.
    ///
    /// # Errors
    /// A [`Fault`], which ends the connection. Events that came before it stand.
    pub fn receive(&mut self, pool: &mut Pool, now: Millis, events: &mut Vec<Event>) -> Result<(), Fault> {
        self.pulse.heard(now);
        let done = self.advance(pool, now, events);
        if let Err(fault) = &done {
            self.fail(fault);
        }
        done
    }

    fn advance(&mut self, pool: &mut Pool, now: Millis, events: &mut Vec<Event>) -> Result<(), Fault> {
        if !self.is_open() {
            self.shake_hands(now, events)?;
            if !self.is_open() {
                return Ok(());
            }
            if self.cipher.is_none() {
                // What came behind the handshake is traffic already.
                let rest = std::mem::take(&mut self.wire);
                if self.scanner.buffer().is_empty() {
                    *self.scanner.buffer() = rest;
                } else {
                    self.scanner.buffer().extend_from_slice(&rest);
                }
            }
        }
        if self.cipher.is_some() {
            self.decrypt(pool)?;
        }
        let scanned = self.scanner.scan(self.config.message_bytes_max);
        // What came whole before the fault counts.
        let commands = self.commands(now);
        self.scanner.seal(pool, events);
        scanned.and(commands)
    }

    fn shake_hands(&mut self, now: Millis, events: &mut Vec<Event>) -> Result<(), Fault> {
        let mut used = 0;
        loop {
            match std::mem::replace(&mut self.stage, Stage::Failed) {
                Stage::Greeting(mut handshake) => {
                    let Some(theirs) = greeting::parse(&self.wire)? else {
                        self.stage = Stage::Greeting(handshake);
                        return Ok(());
                    };
                    used += GREETING_BYTES;
                    self.greeted(&theirs)?;
                    handshake.start(&self.metadata(), &mut self.control)?;
                    self.stage = Stage::Handshake(handshake);
                }
                Stage::Handshake(mut handshake) => {
                    let Some(len) = handshake_frame(self.wire.get(used..).unwrap_or_default())? else {
                        self.stage = Stage::Handshake(handshake);
                        break;
                    };
                    let frame = self.wire.get(used..).and_then(frame::first);
                    let parts = frame.and_then(|f| command::split(f.body)).ok_or(Fault::Malformed("command"))?;
                    let metadata = self.metadata();
                    // Set again below: a fault in between is still one of the handshake, and may be told.
                    let step = handshake.handle(parts.name, parts.data, &metadata, &mut self.control);
                    self.stage = Stage::Handshake(handshake);
                    used += len;
                    if let Step::Done(outcome) = step? {
                        events.push(Event::Opened(self.opened(outcome, now)?));
                        break;
                    }
                }
                other => {
                    self.stage = other;
                    break;
                }
            }
        }
        self.wire.drain(..used.min(self.wire.len()));
        Ok(())
    }

    fn greeted(&mut self, theirs: &greeting::Greeting) -> Result<(), Fault> {
        let ours = self.config.security.mechanism();
        if *theirs.mechanism != *ours.as_bytes() {
            return Err(Fault::Mechanism { ours, theirs: theirs.mechanism.escape_ascii().to_string() });
        }
        // Who is higher than we are speaks as we do.
        self.minor = if theirs.major > 3 { 1 } else { theirs.minor.min(1) };
        Ok(())
    }

    fn opened(&mut self, outcome: Outcome, now: Millis) -> Result<PeerInfo, Fault> {
        let told = metadata::parse(&outcome.metadata)?;
        let ours = self.config.socket_type;
        let theirs = told.socket_type.ok_or(Fault::Malformed("metadata: no Socket-Type"))?;
        if !ours.accepts(theirs) {
            return Err(Fault::Incompatible { ours: ours.name(), theirs: theirs.name() });
        }
        self.cipher = outcome.cipher;
        self.stage = Stage::Open;
        // ZMTP 3.0 knows no pings.
        let heartbeat = self.config.heartbeat.as_ref().filter(|_| self.minor > 0);
        self.pulse.opened(heartbeat, now);
        let identity = if theirs.has_identity() { told.identity } else { Box::default() };
        Ok(PeerInfo { socket_type: theirs, identity, user: outcome.user, minor: self.minor })
    }

    fn metadata(&self) -> Vec<u8> {
        metadata::encode(self.config.socket_type, &self.config.identity)
    }

    /// Turns ciphertext frames into clear ones.
    fn decrypt(&mut self, pool: &mut Pool) -> Result<(), Fault> {
        let Some(cipher) = &mut self.cipher else { return Ok(()) };
        let max = self.config.message_bytes_max.saturating_add(MESSAGE_OVERHEAD as u64);
        let mut used = 0;
        let mut done = Ok(());
        while let Some(h) = self.wire.get(used..).map(frame::header).transpose()?.flatten() {
            if h.body_len > max {
                return Err(Fault::TooLarge { what: "message", bytes: h.body_len, max });
            }
            let from = used + h.header_len;
            let Some(body) = usize::try_from(h.body_len).ok().and_then(|len| self.wire.get_mut(from..from + len))
            else {
                break;
            };
            used = from + body.len();
            let clear = self.scanner.buffer();
            if clear.capacity() == 0 {
                *clear = pool.take(body.len());
            }
            done = cipher.decrypt(body).map(|(flags, text)| frame::put_frame(clear, flags & (MORE | COMMAND), text));
            if done.is_err() {
                break;
            }
        }
        self.wire.drain(..used);
        if self.wire.is_empty() {
            pool.give(std::mem::take(&mut self.wire));
        }
        done
    }

    /// Answers commands, and passes over those that mean nothing to us.
    fn commands(&mut self, now: Millis) -> Result<(), Fault> {
        let publishes = self.config.socket_type.publishes();
        for i in 0..self.scanner.marks().len() {
            let Some(Mark::Command(range)) = self.scanner.marks().get(i).cloned() else { continue };
            let body = self.scanner.slice(&range);
            let Some(parts) = command::split(body) else { return Err(Fault::Malformed("command")) };
            let data = range.end - parts.data.len()..range.end;
            match parts.name {
                b"SUBSCRIBE" if publishes => self.scanner.mark(i, Mark::Subscribe(data)),
                b"CANCEL" if publishes => self.scanner.mark(i, Mark::Cancel(data)),
                b"PING" => {
                    let ping = Ping::parse(parts.data).ok_or(Fault::Malformed("PING"))?;
                    let (ttl, context) = (ping.ttl_ds, ping.context.to_vec());
                    self.pulse.peer_ttl(ttl, now);
                    self.command("PONG", &context)?;
                }
                b"ERROR" => return Err(Fault::Reported(command::error_reason(parts.data))),
                _ => {}
            }
        }
        Ok(())
    }

    /// Queues a command.
    fn command(&mut self, name: &str, data: &[u8]) -> Result<(), Fault> {
        match &mut self.cipher {
            None => command::put(&mut self.control, name, data),
            Some(cipher) => {
                let mut body = Vec::with_capacity(1 + name.len() + data.len());
                command::put_body(&mut body, name, data);
                put_sealed(cipher, COMMAND, &body, &mut self.control)?;
            }
        }
        Ok(())
    }

    /// Tells the peer, a publisher, of a subscription: by a command, or by a message if it speaks ZMTP 3.0. To be called
    /// once the connection is open.
    ///
    /// # Errors
    /// A [`Fault`] of the encryption, which ends the connection.
    pub fn subscription(&mut self, prefix: &[u8], wish: Wish) -> Result<(), Fault> {
        if self.minor > 0 {
            return self.command(if wish == Wish::Subscribe { "SUBSCRIBE" } else { "CANCEL" }, prefix);
        }
        let mut body = vec![u8::from(wish == Wish::Subscribe)];
        body.extend_from_slice(prefix);
        match &mut self.cipher {
            None => frame::put_frame(&mut self.control, 0, &body),
            Some(cipher) => put_sealed(cipher, 0, &body, &mut self.control)?,
        }
        Ok(())
    }

    /// Moves what is to be sent to where it is written from.
    ///
    /// # Errors
    /// A [`Fault`] of the encryption, which ends the connection.
    pub fn transmit(&mut self, out: &mut Outgoing) -> Result<(), Fault> {
        out.put_control(&mut self.control);
        let mode = match (&self.stage, &self.cipher) {
            (Stage::Open, None) => Mode::Clear,
            (Stage::Open, Some(_)) => Mode::Sealed,
            _ => Mode::Held,
        };
        out.set_mode(mode);
        let (Stage::Open, Some(cipher)) = (&self.stage, &mut self.cipher) else { return Ok(()) };
        while out.control_len() < SEALED_AHEAD_BYTES
            && let Some(clear) = out.pop()
        {
            let mut sealed = Vec::with_capacity(clear.len().saturating_mul(2));
            for f in frame::frames(clear.as_slice()) {
                put_sealed(cipher, f.flags & MORE, f.body, &mut sealed)?;
            }
            out.put_control(&mut sealed);
        }
        Ok(())
    }

    /// When [`Engine::on_deadline`] wants to be called.
    #[must_use]
    pub fn deadline(&self) -> Option<Millis> {
        self.pulse.deadline(self.config.heartbeat.as_ref())
    }

    /// Time has passed.
    ///
    /// # Errors
    /// A [`Fault`], if the peer was silent for too long.
    pub fn on_deadline(&mut self, now: Millis) -> Result<(), Fault> {
        let ping = self.pulse.check(&self.config, now);
        match ping {
            Ok(Some(ttl_ds)) => self.command("PING", &ttl_ds.to_be_bytes()),
            Ok(None) => Ok(()),
            Err(fault) => {
                self.fail(&fault);
                Err(fault)
            }
        }
    }

    /// Ends the connection for a reason of the device's.
    pub fn fail(&mut self, fault: &Fault) {
        if let (Stage::Handshake(_), Some(reason)) = (&self.stage, fault.reason()) {
            command::put(&mut self.control, "ERROR", &command::error_data(reason));
        }
        self.stage = Stage::Failed;
    }
}

/// What is told of a subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// It begins.
    Subscribe,
    /// It ends.
    Cancel,
}

/// Length of the command frame at the front, if it is whole.
fn handshake_frame(wire: &[u8]) -> Result<Option<usize>, Fault> {
    const MAX: u64 = (METADATA_BYTES_MAX + HANDSHAKE_OVERHEAD) as u64;
    let Some(h) = frame::header(wire)? else { return Ok(None) };
    if h.flags & COMMAND == 0 {
        return Err(Fault::Handshake("message"));
    }
    if h.body_len > MAX {
        return Err(Fault::TooLarge { what: "handshake command", bytes: h.body_len, max: MAX });
    }
    Ok(frame::first(wire).map(|f| f.len))
}

/// Appends a MESSAGE. It is no command frame on the wire: the specification calls it a command, libzmq sends a message.
fn put_sealed(cipher: &mut Cipher, flags: u8, text: &[u8], out: &mut Vec<u8>) -> Result<(), Fault> {
    frame::put_header(out, 0, text.len() + MESSAGE_OVERHEAD);
    cipher.encrypt(flags, text, out)
}

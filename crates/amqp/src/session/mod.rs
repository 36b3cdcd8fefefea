//! The rules of AMQP 0-9-1: one connection as a state machine.
//!
//! Bytes come in by [`Session::receive`] and become commands and immediate answers; events come in by
//! [`Session::handle`] and become frames. Nothing here waits: what an answer of the core must precede is kept back
//! (`Session::durable`), and in the few places where a peer may pipeline past an answer that the next frame depends on
//! (the name of a queue that the server is to choose, say), parsing stalls until the answer is there.

mod attrs;
mod calls;
mod channels;
mod config;
mod confirm;
mod connection;
mod consume;
mod content;
mod deliver;
mod fault;
mod frames;
mod publish;
mod pulse;
mod replies;
mod routes;
mod settle;
mod topology;
mod tx;
mod unsettled;

use std::collections::VecDeque;
use std::sync::Arc;

use waypost_model::{Call, ChannelId, Command, Event, Lsn, Millis, ReadBuf, Session, SessionState, Transmit, Turn};

use self::calls::{Calls, Kind, Pending};
use self::channels::Channels;
pub use self::config::{Peer, SessionConfig};
use self::connection::{Client, Limits, Phase};
use self::fault::internal;
use self::publish::Publisher;
use self::pulse::{Beat, Pulse};
use crate::codec::frame::{HEARTBEAT_FRAME, encode_method};
use crate::codec::{MethodArgs, MethodId};

/// Most bytes kept while parsing stalls. The answer that it waits for comes within a commit of the journal.
const PARKED_BYTES_MAX: usize = 16 * 1024 * 1024;

/// One AMQP connection.
#[derive(Debug)]
pub struct AmqpSession {
    config: Arc<SessionConfig>,
    peer: Peer,
    client: Client,
    phase: Phase,
    limits: Limits,
    pulse: Pulse,
    channels: Channels,
    calls: Calls,
    publisher: Publisher,
    /// Channels with confirms noted and not written.
    confirming: Vec<u16>,
    /// The earliest ticket that a confirm waits for, as of the last flush.
    confirms_wait: Option<Lsn>,
    /// All appends up to here are durable.
    durable: Lsn,
    /// An answer that waits for the disk, and all events behind it.
    held: VecDeque<Event>,
    /// Commands that came up where no turn was at hand.
    late: Vec<Command>,
    /// Parsing waits for an answer.
    stalled: bool,
    /// The answer came where no turn was at hand: parsing goes on at the next opportunity.
    resume: bool,
    /// What came in meanwhile.
    parked: Option<Box<ReadBuf>>,
    /// Why publishing is held back, while it is.
    blocked: Option<Box<str>>,
    has_published: bool,
    tags_invented: u64,
}

/// What a step works with: the time, and where commands and bytes go.
struct Cx<'a> {
    now: Millis,
    turn: &'a mut Turn,
    out: &'a mut Transmit,
}

/// What looking at a frame came to.
enum Step {
    /// So many bytes are done with.
    Took(usize),
    /// The frame is done with.
    Done,
    /// What is needed has not all come.
    More,
    /// An answer of the core must be awaited first.
    Stall,
}

impl AmqpSession {
    /// A session for a connection that was accepted at `now`.
    pub fn new(config: Arc<SessionConfig>, peer: Peer, now: Millis) -> Self {
        let mut pulse = Pulse::default();
        pulse.start(0, now);
        AmqpSession {
            config,
            peer,
            client: Client::default(),
            phase: Phase::Header,
            limits: Limits::default(),
            pulse,
            channels: Channels::default(),
            calls: Calls::default(),
            publisher: Publisher::default(),
            confirming: Vec::new(),
            confirms_wait: None,
            durable: Lsn(0),
            held: VecDeque::new(),
            late: Vec::new(),
            stalled: false,
            resume: false,
            parked: None,
            blocked: None,
            has_published: false,
            tags_invented: 0,
        }
    }

    /// The user that the peer has logged in as; empty before.
    pub fn user(&self) -> &str {
        &self.client.user
    }

    /// Asks the core for something.
    fn call(&mut self, number: u16, id: MethodId, kind: Kind, no_wait: bool, call: Call, cx: &mut Cx<'_>) {
        let token = self.calls.add(Pending { channel: number, id, kind, no_wait });
        if let Some(channel) = self.channels.get_mut(number) {
            channel.unanswered += 1;
        }
        // What is published after the call must not seem to have come before it.
        self.publisher.end_run();
        cx.turn.commands.push(Command::Call { channel: ChannelId(number), token, call });
    }

    /// Answers a method by ourselves, behind the answers that the core still owes the channel.
    fn answer<'a>(&mut self, number: u16, answer: &impl MethodArgs<'a>, cx: &mut Cx<'_>) {
        if self.channels.get_mut(number).is_none_or(|channel| channel.unanswered == 0) {
            return encode_method(cx.out.buf(), number, answer);
        }
        let mut bytes = Vec::new();
        encode_method(&mut bytes, number, answer);
        let (id, kind) = (MethodId::default(), Kind::Local(bytes));
        self.calls.add(Pending { channel: number, id, kind, no_wait: false });
    }

    /// Does a step, and notes when it wrote something.
    fn step(&mut self, now: Millis, turn: &mut Turn, out: &mut Transmit, step: impl FnOnce(&mut Self, &mut Cx<'_>)) {
        turn.commands.append(&mut self.late);
        let before = out.pending();
        step(self, &mut Cx { now, turn, out });
        if out.pending() > before {
            self.pulse.wrote(now);
        }
    }

    /// Takes what is complete in `input`, and makes its messages a batch.
    fn drive(&mut self, input: &mut ReadBuf, cx: &mut Cx<'_>) {
        let commands_before = cx.turn.commands.len();
        self.publisher.begin();
        let base = input.position();
        if u32::try_from(base + input.unread().len()).is_err() {
            return self.close_connection(&internal("read buffer of 4 GiB"), MethodId::default(), cx);
        }
        let taken = self.frames(input.unread(), base, cx);
        input.consume(taken);
        self.publisher.begin();
        match input.seal(&mut self.publisher.slots) {
            Ok(None) => {}
            Ok(Some(batch)) if cx.turn.batch.is_none() => cx.turn.batch = Some(batch),
            Ok(Some(batch)) => {
                // The turn has a batch already: these publishes carry their own.
                for command in &mut cx.turn.commands[commands_before..] {
                    if let Command::Publish(publish) = command {
                        publish.batch.get_or_insert_with(|| Arc::clone(&batch));
                    }
                }
            }
            Err(defect) => {
                let ours = |c: &Command| !matches!(c, Command::Publish(p) if p.batch.is_none());
                let tail = cx.turn.commands.split_off(commands_before);
                cx.turn.commands.extend(tail.into_iter().filter(ours));
                self.close_connection(&internal(&defect.to_string()), MethodId::default(), cx);
            }
        }
    }

    /// Takes what is parked as far as it goes.
    fn drive_parked(&mut self, cx: &mut Cx<'_>) {
        self.resume = false;
        if self.stalled {
            return;
        }
        let Some(mut parked) = self.parked.take() else {
            return;
        };
        self.drive(&mut parked, cx);
        if !parked.unread().is_empty() {
            self.parked = Some(parked);
        }
    }

    /// Moves what cannot be taken yet to ourselves, so that the driver need not know of the stall.
    fn park(&mut self, input: &mut ReadBuf, cx: &mut Cx<'_>) {
        let parked = self.parked.get_or_insert_default();
        if parked.unread().len() + input.unread().len() > PARKED_BYTES_MAX {
            let refusal = waypost_model::Refusal::resource_error("too much sent ahead of an answer");
            self.parked = None;
            return self.close_connection(&refusal, MethodId::default(), cx);
        }
        parked.vec().extend_from_slice(input.unread());
        input.consume(input.unread().len());
        // Without slots this only moves the tail, which is empty, to the front.
        let _ = input.seal(&mut Vec::new());
    }

    /// Gives an incomplete frame back to where it came from, once nothing stalls any more.
    fn unpark(&mut self, input: &mut ReadBuf) {
        if let Some(parked) = self.parked.take_if(|_| !self.stalled) {
            input.vec().extend_from_slice(parked.unread());
        }
    }

    /// Whether an event must wait for the disk, or for one that does.
    fn must_wait(&self, event: &Event) -> bool {
        !self.held.is_empty() || waits_for_disk(event).is_some_and(|lsn| lsn > self.durable)
    }

    /// Gives memory back; what was remembered is learned anew.
    fn release(&mut self) {
        self.publisher.release();
        self.late.shrink_to_fit();
        self.held.shrink_to_fit();
        self.confirming.shrink_to_fit();
    }

    /// Writes the confirms that may go.
    fn emit_confirms(&mut self, out: &mut Transmit) {
        self.confirms_wait = None;
        let Self { channels, confirming, confirms_wait, durable, .. } = self;
        confirming.retain(|&number| {
            let Some(confirms) = channels.get_mut(number).and_then(|c| c.confirms.as_mut()) else {
                return false;
            };
            if let Some(lsn) = confirms.emit(*durable, number, out.buf()) {
                *confirms_wait = Some(confirms_wait.map_or(lsn, |wait| wait.min(lsn)));
            }
            confirms.listed = !confirms.is_idle();
            confirms.listed
        });
    }
}

/// The ticket that an event may have to wait for.
fn waits_for_disk(event: &Event) -> Option<Lsn> {
    match event {
        Event::Reply { after, .. } => *after,
        _ => None,
    }
}

impl Session for AmqpSession {
    fn receive(&mut self, input: &mut ReadBuf, now: Millis, turn: &mut Turn, out: &mut Transmit) {
        self.pulse.heard(now);
        self.step(now, turn, out, |session, cx| {
            if session.parked.is_some() {
                session.park(input, cx);
                session.drive_parked(cx);
                return session.unpark(input);
            }
            session.drive(input, cx);
            if session.stalled {
                session.park(input, cx);
            }
        });
    }

    fn handle(&mut self, event: Event, now: Millis, turn: &mut Turn, out: &mut Transmit) {
        self.step(now, turn, out, |session, cx| {
            if session.must_wait(&event) {
                session.held.push_back(event);
            } else {
                session.on_event(event, cx);
                session.drive_parked(cx);
            }
        });
    }

    fn durable(&mut self, lsn: Lsn, out: &mut Transmit) {
        self.durable = self.durable.max(lsn);
        let mut turn = Turn::default();
        let mut cx = Cx { now: self.pulse.last_heard(), turn: &mut turn, out };
        while let Some(event) = self.held.pop_front() {
            if waits_for_disk(&event).is_some_and(|lsn| lsn > self.durable) {
                self.held.push_front(event);
                break;
            }
            self.on_event(event, &mut cx);
        }
        self.late.append(&mut turn.commands);
        self.resume = self.parked.is_some() && !self.stalled;
        self.emit_confirms(out);
    }

    fn waits_for(&self) -> Option<Lsn> {
        let held = self.held.front().and_then(waits_for_disk);
        match (held, self.confirms_wait) {
            (Some(held), Some(confirm)) => Some(held.min(confirm)),
            (held, confirm) => held.or(confirm),
        }
    }

    fn flush(&mut self, out: &mut Transmit) {
        self.emit_confirms(out);
    }

    fn deadline(&self) -> Option<Millis> {
        match self.phase {
            _ if self.resume || !self.late.is_empty() => Some(Millis(0)),
            Phase::Closed => None,
            Phase::Closing { until } | Phase::Deaf { until, .. } => Some(until),
            _ => self.pulse.deadline(),
        }
    }

    fn on_deadline(&mut self, now: Millis, turn: &mut Turn, out: &mut Transmit) {
        self.step(now, turn, out, |session, cx| {
            session.drive_parked(cx);
            match session.phase {
                Phase::Closing { until } | Phase::Deaf { until, .. } if cx.now >= until => {
                    session.end();
                }
                Phase::Closing { .. } | Phase::Deaf { .. } | Phase::Closed => {}
                _ => {
                    let paused = session.blocked.is_some() && session.has_published;
                    match session.pulse.check(cx.now, !cx.out.is_empty(), paused) {
                        Beat::Nothing => {}
                        Beat::Send => {
                            cx.out.buf().extend_from_slice(&HEARTBEAT_FRAME);
                            // Only an idle connection has to show life.
                            session.release();
                        }
                        Beat::PeerIsGone => session.end(),
                    }
                }
            }
        });
    }

    fn state(&self) -> SessionState {
        match self.phase {
            Phase::Open | Phase::Closing { .. } | Phase::Deaf { .. } => SessionState::Open,
            Phase::Closed => SessionState::Closed,
            _ => SessionState::Opening,
        }
    }

    fn has_published(&self) -> bool {
        self.has_published
    }
}

#[cfg(test)]
mod tests;

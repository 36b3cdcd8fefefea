//! The driver: moves bytes, events and commands between a socket, a session and the core.
//!
//! A connection is one task around one hand-written `poll`. A round drains the outbox into the session, writes, reads,
//! and looks at the clock; rounds go on until nothing is left to do. Nothing here happens per message.

pub(crate) mod bodies;
mod credit;
mod end;
mod pace;
mod seam;
mod timer;
pub mod transport;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use waypost_model::command::Sent;
use waypost_model::{Event, Lsn, Millis, Outbox, ReadBuf, Refusal, Session, SessionState, Transmit, Turn};

use self::bodies::{Loading, Resolved};
use self::credit::Credit;
pub use self::end::End;
use self::pace::{ReadSize, answer_bytes};
pub use self::seam::{Core, Pressure};
use self::timer::Timer;
use self::transport::Transport;
use crate::clock::Clock;

/// How long a peer may take from connecting until its connection is open, ms.
pub const OPENING_MS: u64 = 10_000;

/// How long a peer may take to accept the last bytes of a closing connection, ms.
const CLOSING_MS: u64 = 5_000;

/// After the last byte, how long we wait for the peer to close first, so that no reset overtakes what we wrote.
const LINGER: Duration = Duration::from_secs(1);

/// From so many unwritten bytes on, the peer is not read.
const UNWRITTEN_MAX: usize = 1024 * 1024;

/// From so many unwritten bytes on, events stay where they are.
const ENCODE_AHEAD: usize = 256 * 1024;

/// Rounds before other connections get their turn.
const ROUNDS_MAX: u32 = 4;

/// Pieces of one write.
const PIECES_MAX: usize = 64;

/// A connection with nothing to do for so long gives its buffers back, ms.
const IDLE_MS: u64 = 1_000;

/// How long a publisher pauses that is far ahead of its consumers, ms. Never longer, whatever they do: the same connection
/// may be the one that they wait for.
const AHEAD_PAUSE_MS: u64 = 1;

/// How long a publisher pauses under soft pressure, ms.
const SOFT_PAUSE_MS: u64 = 2;

/// How often a publisher under hard pressure looks whether it is over, ms. It is told too; this is for certainty.
const HARD_PAUSE_MS: u64 = 200;

/// One connection: everything that its task owns.
pub struct Connection<C: Core, S: Session, T: Transport> {
    core: Arc<C>,
    /// Taken when the connection is handed back to the core.
    conn: Option<C::Conn>,
    session: S,
    socket: T,
    /// Where the peer is, for the log.
    remote: SocketAddr,
    clock: Clock,
    outbox: Arc<Outbox>,
    /// Drained from the outbox, not yet handled.
    events: VecDeque<Event>,
    /// Bytes that the answers among them hold: they count as unwritten.
    answers: usize,
    loading: Option<Loading>,
    input: ReadBuf,
    read_size: ReadSize,
    output: Transmit,
    /// Bytes written since the connection began.
    written: u64,
    /// Whether bytes may wait inside the transport (TLS).
    unflushed: bool,
    turn: Turn,
    credit: Credit,
    timer: Timer,
    /// The opening must be over by then; `None` once it is.
    opening: Option<Millis>,
    /// The closing must be over by then.
    closing: Option<Millis>,
    /// Not read before.
    paused_until: Option<Millis>,
    /// Paused because consumers are far behind.
    ahead: bool,
    active_at: Millis,
    idle_released: bool,
}

impl<C: Core, S: Session, T: Transport> Connection<C, S, T> {
    /// A connection whose peer has just come. `outbox` is the one that the core knows `conn` by.
    pub fn new(
        core: Arc<C>,
        conn: C::Conn,
        session: S,
        socket: T,
        remote: SocketAddr,
        outbox: Arc<Outbox>,
        clock: Clock,
    ) -> Self {
        let now = clock.now();
        Connection {
            core,
            conn: Some(conn),
            session,
            socket,
            remote,
            clock,
            outbox,
            events: VecDeque::new(),
            answers: 0,
            loading: None,
            input: ReadBuf::default(),
            read_size: ReadSize::new(),
            output: Transmit::default(),
            written: 0,
            unflushed: false,
            turn: Turn::default(),
            credit: Credit::default(),
            timer: Timer::default(),
            opening: Some(now.plus(OPENING_MS)),
            closing: None,
            paused_until: None,
            ahead: false,
            active_at: now,
            idle_released: false,
        }
    }

    /// Runs the connection to its end.
    ///
    /// # Cancel safety
    /// When dropped, the socket closes without a farewell and the core is told.
    pub async fn run(mut self) -> End {
        let end = match poll_fn(|cx| self.poll(cx)).await {
            Ok(()) => End::Closed,
            Err(end) => end,
        };
        self.hand_back();
        if matches!(end, End::Closed) {
            let _ = tokio::time::timeout(LINGER, linger(&mut self.socket)).await;
        }
        end
    }

    /// Rounds until there is nothing to do. `Ok` is an orderly end.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), End>> {
        for _ in 0..ROUNDS_MAX {
            let now = self.clock.now();
            match self.round(cx, now) {
                Ok(Progress::Some) => {
                    self.active_at = now;
                    self.idle_released = false;
                }
                Ok(Progress::None) => {
                    if !self.wait(cx, now) {
                        return Poll::Pending;
                    }
                }
                Ok(Progress::Over) => return Poll::Ready(Ok(())),
                Err(end) => return Poll::Ready(Err(end)),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn round(&mut self, cx: &mut Context<'_>, now: Millis) -> Result<Progress, End> {
        let mut some = self.take_events(cx, now);
        some |= self.write(cx, now)?;
        if self.session.state() == SessionState::Closed {
            return self.close(now, some);
        }
        some |= self.read(cx, now)?;
        some |= self.look_at_the_clock(now)?;
        Ok(if some { Progress::Some } else { Progress::None })
    }

    /// Writes what is left, for a limited time.
    fn close(&mut self, now: Millis, some: bool) -> Result<Progress, End> {
        if self.output.is_empty() && !self.unflushed {
            return Ok(Progress::Over);
        }
        self.opening = None;
        let closing = *self.closing.get_or_insert(now.plus(CLOSING_MS));
        if closing <= now {
            return Err(End::ClosingTimeout);
        }
        Ok(if some { Progress::Some } else { Progress::None })
    }

    /// Step 1: events of the core go to the session.
    fn take_events(&mut self, cx: &mut Context<'_>, now: Millis) -> bool {
        if self.session.state() == SessionState::Closed {
            self.events.clear();
            return false;
        }
        // The waker is in place before the watermark is read: an advance in between wakes us.
        let before = self.events.len();
        self.outbox.drain(&mut self.events, Some(cx.waker()));
        self.answers += self.events.range(before..).map(answer_bytes).sum::<usize>();
        self.hurry_farewell(before);
        let durable = self.core.durable();
        // The waker is only left behind in an empty outbox: what came out calls for another round.
        let mut some = self.events.len() > before;
        some |= self.finish_loading(cx);
        while self.output.pending() < ENCODE_AHEAD && self.loading.is_none() {
            let Some(event) = self.events.front() else { break };
            if must_wait(event, durable) {
                break;
            }
            if let Some(loading) = Loading::start(&mut self.events, durable, self.core.bodies()) {
                self.loading = Some(loading);
                some |= self.finish_loading(cx);
                continue;
            }
            let Some(event) = self.events.pop_front() else { break };
            self.answers -= answer_bytes(&event);
            if let Event::Deliver(delivery) = &event {
                self.credit.handed(delivery);
            }
            self.session.handle(event, now, &mut self.turn, &mut self.output);
            some = true;
        }
        if self.session.waits_for().is_some_and(|lsn| lsn <= durable) {
            self.session.durable(durable, &mut self.output);
            some = true;
        }
        if some {
            self.session.flush(&mut self.output);
            self.credit.encoded(self.written + self.output.pending() as u64);
            self.execute(now);
        }
        some
    }

    /// A farewell among the events from `fresh` on overtakes all others: what they wait for may never come.
    fn hurry_farewell(&mut self, fresh: usize) {
        let is_farewell = |event: &Event| matches!(event, Event::Close { .. });
        if let Some(i) = self.events.range(fresh..).position(is_farewell)
            && let Some(farewell) = self.events.remove(fresh + i)
        {
            self.events.push_front(farewell);
        }
    }

    /// Takes what a trip to the store brought. Whether it is over.
    fn finish_loading(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(loading) = &mut self.loading else { return false };
        let Poll::Ready(result) = loading.poll(cx) else { return false };
        self.loading = None;
        match result {
            Ok(resolved) => {
                for one in resolved.into_iter().rev() {
                    match one {
                        Resolved::Ready(event) => self.events.push_front(event),
                        Resolved::Failed(delivery, error) => self.loading_failed(&delivery, &error),
                    }
                }
            }
            Err(error) => {
                tracing::error!(remote = %self.remote, %error, "loading of messages was cut short");
                self.give_up();
            }
        }
        true
    }

    fn loading_failed(&mut self, delivery: &waypost_model::Delivery, error: &io::Error) {
        let (queue, first, count) = (delivery.queue.0, delivery.first.0, delivery.count);
        if error.kind() == io::ErrorKind::NotFound {
            // The queue was deleted while its messages were on their way.
            tracing::debug!(remote = %self.remote, queue, first, count, "messages to deliver are gone");
            self.credit.give_back(Sent {
                consumer: delivery.consumer,
                queue: delivery.queue,
                messages: delivery.count,
                bytes: delivery.cost,
            });
        } else {
            tracing::error!(remote = %self.remote, queue, first, count, %error, "stored messages cannot be read");
            self.give_up();
        }
    }

    /// Ends the connection in front of all other events, through a fault of ours.
    fn give_up(&mut self) {
        self.events.push_front(Event::Close { refusal: Refusal::internal("stored messages cannot be read") });
    }

    /// Step 2: bytes go to the socket.
    fn write(&mut self, cx: &mut Context<'_>, now: Millis) -> Result<bool, End> {
        let mut some = false;
        while !self.output.is_empty() {
            let mut slices = [IoSlice::new(&[]); PIECES_MAX];
            let filled = self.output.pieces(&mut slices);
            let Poll::Ready(result) = self.socket.poll_send(cx, &slices[..filled]) else { break };
            let n = result?;
            if n == 0 {
                return Err(End::Io(io::ErrorKind::WriteZero.into()));
            }
            self.output.advance(n);
            self.written += n as u64;
            self.unflushed = true;
            some = true;
        }
        if self.unflushed
            && self.output.is_empty()
            && let Poll::Ready(result) = std::pin::Pin::new(&mut self.socket).poll_flush(cx)
        {
            result?;
            self.unflushed = false;
        }
        if some {
            self.credit.written(self.written);
        }
        if self.output.is_empty() || self.credit.half_a_window_left() {
            self.credit.hand_back(&mut self.turn);
            self.execute(now);
        }
        Ok(some)
    }

    /// Step 3: bytes come from the socket, and the commands in them go to the core.
    fn read(&mut self, cx: &mut Context<'_>, now: Millis) -> Result<bool, End> {
        if self.output.pending() + self.answers > UNWRITTEN_MAX || self.pause(now) {
            return Ok(false);
        }
        if self.input.vec().capacity() == 0 {
            match self.socket.poll_readable(cx) {
                Poll::Ready(result) => result?,
                Poll::Pending => return Ok(false),
            }
        }
        let n = match self.socket.poll_fill(cx, self.input.vec(), self.read_size.bytes()) {
            Poll::Pending => {
                if self.idle_released {
                    self.input.release_if_empty();
                }
                return Ok(false);
            }
            Poll::Ready(Ok(0)) => return Err(End::PeerGone),
            Poll::Ready(result) => result?,
        };
        self.session.receive(&mut self.input, now, &mut self.turn, &mut self.output);
        self.execute(now);
        self.read_size.took(n, self.conn.as_ref().is_some_and(|conn| self.core.spreads(conn)));
        self.ahead = self.conn.as_mut().is_some_and(|conn| self.core.ahead(conn));
        if self.ahead {
            self.paused_until = Some(now.plus(AHEAD_PAUSE_MS));
        } else if self.session.has_published() && self.core.pressure() == Pressure::Soft {
            self.paused_until = Some(now.plus(SOFT_PAUSE_MS));
        }
        Ok(true)
    }

    /// Whether the peer is not to be read now because it publishes and there is no room.
    fn pause(&mut self, now: Millis) -> bool {
        if self.session.has_published() && self.core.pressure() == Pressure::Hard {
            self.paused_until = Some(now.plus(HARD_PAUSE_MS));
            return true;
        }
        match self.paused_until {
            Some(until) if until > now && (self.ahead || self.core.pressure() != Pressure::None) => true,
            _ => {
                self.paused_until = None;
                false
            }
        }
    }

    /// Step 4: heartbeats and limits.
    fn look_at_the_clock(&mut self, now: Millis) -> Result<bool, End> {
        if let Some(opening) = self.opening {
            if self.session.state() == SessionState::Open {
                self.opening = None;
            } else if opening <= now {
                return Err(End::OpeningTimeout);
            }
        }
        if self.session.deadline().is_none_or(|at| at > now) {
            return Ok(false);
        }
        self.session.on_deadline(now, &mut self.turn, &mut self.output);
        self.execute(now);
        Ok(true)
    }

    /// Nothing is left to do: arms the timer for what comes next. True if something has come due meanwhile.
    fn wait(&mut self, cx: &mut Context<'_>, now: Millis) -> bool {
        if !self.idle_released && now.since(self.active_at) >= IDLE_MS {
            self.release();
        }
        let idle_at = (!self.idle_released).then(|| self.active_at.plus(IDLE_MS));
        let due = [self.session.deadline(), self.opening, self.closing, self.paused_until, idle_at]
            .into_iter()
            .flatten()
            .min();
        due.is_some_and(|at| self.timer.arm(at, &self.clock, cx))
    }

    /// Gives memory back.
    fn release(&mut self) {
        self.input.release_if_empty();
        self.output.release_if_empty();
        self.events.shrink_to_fit();
        self.turn.commands.shrink_to_fit();
        self.credit.release();
        self.read_size = ReadSize::new();
        self.idle_released = true;
    }

    /// Hands the turn to the core.
    fn execute(&mut self, now: Millis) {
        if self.turn.commands.is_empty() {
            self.turn.batch = None;
            return;
        }
        self.credit.grant(&mut self.turn);
        if let Some(conn) = &mut self.conn {
            self.core.execute(conn, &mut self.turn, now);
        }
        self.turn.commands.clear();
        self.turn.batch = None;
    }

    /// Tells the core that the connection is over.
    fn hand_back(&mut self) {
        self.outbox.close();
        if let Some(conn) = self.conn.take() {
            self.core.disconnect(conn, self.clock.now());
        }
    }
}

impl<C: Core, S: Session, T: Transport> Drop for Connection<C, S, T> {
    /// Also when the task is stopped or panics, nothing stays behind in the core.
    fn drop(&mut self) {
        self.hand_back();
    }
}

/// What a round came to.
enum Progress {
    /// Something was done: there may be more.
    Some,
    /// Nothing; all wakers are in place.
    None,
    /// The connection is over.
    Over,
}

/// Whether the event, and all behind it, must wait for the journal.
fn must_wait(event: &Event, durable: Lsn) -> bool {
    matches!(event, Event::Reply { after: Some(lsn), .. } if *lsn > durable)
}

/// Closes our direction, then reads until the peer closes too, within bounds.
async fn linger<T: Transport>(socket: &mut T) -> io::Result<()> {
    const DISCARD_MAX: usize = 16 * 1024 * 1024;
    socket.shutdown().await?;
    let (mut sink, mut seen) = (vec![0; 16 * 1024], 0);
    while seen < DISCARD_MAX {
        match socket.read(&mut sink).await? {
            0 => break,
            n => seen += n,
        }
    }
    Ok(())
}

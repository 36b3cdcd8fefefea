//! A generator thread: drives any number of publishing and consuming connections without blocking on any of them.

use super::conn::{Conn, broken};
use super::consumer::Consumer;
use super::fault::Fault;
use super::publisher::{Publisher, Turn};
use super::ready::{Event, Interest, Ready};
use super::times::Times;
use super::usage::thread_cpu_ns;
use std::io::ErrorKind;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// How long a thread sleeps at most, so that it sees the end of the run.
const NAP: Duration = Duration::from_millis(20);
/// How many writes go by between two looks at the sockets while there is always something to write.
const WRITES_PER_LOOK: usize = 16;
/// A block is stamped with the time it was due if it is later than this: queueing in the generator then counts.
const LATENESS_NS: u64 = 1_000_000;

/// What the threads of a run share.
#[derive(Debug)]
pub struct Shared {
    /// Time zero of all stamps.
    pub epoch: Instant,
    /// When publishers stop, nanoseconds since the epoch.
    pub deadline_ns: AtomicU64,
    /// Messages handed to sockets.
    pub published: AtomicU64,
    /// Messages confirmed or refused.
    pub confirmed: AtomicU64,
    /// Messages delivered.
    pub delivered: AtomicU64,
    /// Messages that will not be delivered: refused or returned.
    pub excused: AtomicU64,
    /// Publishers that are not done.
    pub publishing: AtomicUsize,
    /// When the last message was published.
    pub last_publish_ns: AtomicU64,
    /// When the last message was delivered.
    pub last_delivery_ns: AtomicU64,
    /// Everybody go home.
    pub stop: AtomicBool,
}

impl Shared {
    /// Counters for `publishers`, which stop at `deadline_ns`.
    pub fn new(epoch: Instant, publishers: usize, deadline_ns: u64) -> Self {
        Self {
            epoch,
            deadline_ns: AtomicU64::new(deadline_ns),
            published: AtomicU64::new(0),
            confirmed: AtomicU64::new(0),
            delivered: AtomicU64::new(0),
            excused: AtomicU64::new(0),
            publishing: AtomicUsize::new(publishers),
            last_publish_ns: AtomicU64::new(0),
            last_delivery_ns: AtomicU64::new(0),
            stop: AtomicBool::new(false),
        }
    }

    /// Nanoseconds since the epoch.
    pub fn now_ns(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

/// A steady rate.
#[derive(Debug)]
pub struct Pace {
    per_second: f64,
    start_ns: u64,
    sent: u64,
}

impl Pace {
    /// `per_second` messages from `start_ns` on.
    pub fn new(per_second: f64, start_ns: u64) -> Self {
        Self { per_second, start_ns, sent: 0 }
    }

    fn due_ns(&self) -> u64 {
        // Saturating float to integer: a far future is as good as another.
        self.start_ns.saturating_add((self.sent as f64 * 1e9 / self.per_second) as u64)
    }

    fn allowance(&self, now_ns: u64) -> u64 {
        let elapsed = now_ns.saturating_sub(self.start_ns) as f64;
        ((elapsed * self.per_second / 1e9 + 1.0) as u64).saturating_sub(self.sent)
    }
}

/// What a connection is for.
#[derive(Debug)]
pub enum Role {
    /// Publishing.
    Publish(Box<Publisher>),
    /// Consuming.
    Consume(Box<Consumer>),
}

/// A connection of a worker.
#[derive(Debug)]
pub struct Slot {
    /// The connection, non-blocking while the worker has it.
    pub conn: Conn,
    /// What it is for.
    pub role: Role,
    interest: Interest,
}

/// A generator thread before it runs.
#[derive(Debug)]
pub struct Worker<'a> {
    shared: &'a Shared,
    ready: Ready,
    slots: Vec<Slot>,
    publishers: Vec<usize>,
    pace: Option<Pace>,
    /// Per stream: the slot of its publisher, for the closed loop.
    owners: Vec<usize>,
    cursor: usize,
    /// Lent to the connection that is being read: a histogram each would be too much for thousands of them.
    times: Times,
    confirm_times: Times,
}

/// What a thread leaves behind.
#[derive(Debug)]
pub struct Finished {
    /// Its connections, blocking again.
    pub slots: Vec<Slot>,
    /// Processor time that it took, nanoseconds, where the system tells.
    pub cpu_ns: Option<u64>,
    /// From publish to delivery.
    pub times: Times,
    /// From publish to confirm.
    pub confirm_times: Times,
}

enum Round {
    Wrote(usize),
    Idle(Duration),
}

impl<'a> Worker<'a> {
    /// A thread for `conns`. `streams` is the number of streams of the whole run.
    ///
    /// # Errors
    /// The system refuses to watch a socket.
    pub fn new(
        shared: &'a Shared,
        conns: Vec<(Conn, Role)>,
        pace: Option<Pace>,
        streams: usize,
    ) -> Result<Self, Fault> {
        let mut ready = Ready::new()?;
        let mut slots = Vec::with_capacity(conns.len());
        let mut owners = vec![usize::MAX; streams];
        for (key, (conn, role)) in conns.into_iter().enumerate() {
            conn.stream.set_nonblocking(true).map_err(Fault::io("unblock a socket"))?;
            ready.add(key, &conn.stream)?;
            if let Role::Publish(publisher) = &role {
                for (stream, _) in publisher.streams() {
                    owners[*stream] = key;
                }
            }
            slots.push(Slot { conn, role, interest: Interest::Read });
        }
        let publishers = (0..slots.len()).filter(|key| matches!(slots[*key].role, Role::Publish(_))).collect();
        Ok(Self {
            shared,
            ready,
            slots,
            publishers,
            pace,
            owners,
            cursor: 0,
            times: Times::default(),
            confirm_times: Times::default(),
        })
    }

    /// Runs until the run is over.
    ///
    /// # Errors
    /// Whatever the broker does that ends the run.
    pub fn run(mut self) -> Result<Finished, Fault> {
        let cpu_before = thread_cpu_ns();
        for key in 0..self.slots.len() {
            self.flush(key)?;
        }
        let mut events = Vec::new();
        let mut writes = 0;
        while !self.shared.stop.load(Ordering::Relaxed) {
            let wait = match self.publish()? {
                Round::Wrote(count) => {
                    writes += count;
                    if writes < WRITES_PER_LOOK {
                        continue;
                    }
                    Duration::ZERO
                }
                Round::Idle(wait) => wait,
            };
            writes = 0;
            self.ready.wait(wait, &mut events)?;
            for event in &events {
                self.handle(*event)?;
            }
        }
        let cpu_ns = thread_cpu_ns().zip(cpu_before).map(|(after, before)| after - before);
        self.farewell(cpu_ns)
    }

    /// One turn for each publisher that may send.
    fn publish(&mut self) -> Result<Round, Fault> {
        if self.publishers.is_empty() {
            return Ok(Round::Idle(NAP));
        }
        let now_ns = self.shared.now_ns();
        let over = now_ns >= self.shared.deadline_ns.load(Ordering::Relaxed);
        let (mut writes, mut started) = (0, 0);
        for step in 0..self.publishers.len() {
            let key = self.publishers[(self.cursor + step) % self.publishers.len()];
            let (wrote, count) = self.turn(key, now_ns, over)?;
            writes += wrote;
            started += count;
        }
        self.cursor = (self.cursor + 1) % self.publishers.len();
        if started > 0 {
            self.shared.published.fetch_add(started, Ordering::Relaxed);
            self.shared.last_publish_ns.fetch_max(self.shared.now_ns(), Ordering::Relaxed);
        }
        if writes > 0 {
            return Ok(Round::Wrote(writes));
        }
        let due = self.pace.as_ref().map(Pace::due_ns).filter(|due| *due > now_ns);
        Ok(Round::Idle(due.map_or(NAP, |due| NAP.min(Duration::from_nanos(due - now_ns)))))
    }

    /// Lets one publisher send; how many writes and how many new messages that made.
    fn turn(&mut self, key: usize, now_ns: u64, over: bool) -> Result<(usize, u64), Fault> {
        let Slot { conn, role: Role::Publish(publisher), .. } = &mut self.slots[key] else {
            return Ok((0, 0));
        };
        if publisher.finished || !publisher.writable {
            return Ok((0, 0));
        }
        if over {
            publisher.retire();
        }
        let (mut stamp_ns, mut allowance) = (now_ns, u64::MAX);
        if let Some(pace) = &self.pace {
            allowance = pace.allowance(now_ns);
            let due = pace.due_ns();
            if now_ns.saturating_sub(due) > LATENESS_NS {
                stamp_ns = due;
            }
        }
        let turn = publisher.turn(&mut conn.stream, now_ns, stamp_ns, allowance)?;
        if publisher.all_done() {
            publisher.finished = true;
            self.shared.publishing.fetch_sub(1, Ordering::Relaxed);
        }
        let started = match turn {
            Turn::Wrote(count) | Turn::Full(count) => count,
            Turn::Waiting => return Ok((0, 0)),
        };
        if let Some(pace) = &mut self.pace {
            pace.sent += started;
        }
        if matches!(turn, Turn::Full(_)) {
            self.watch(key, Interest::ReadWrite)?;
        }
        Ok((1, started))
    }

    fn watch(&mut self, key: usize, interest: Interest) -> Result<(), Fault> {
        let slot = &mut self.slots[key];
        if slot.interest != interest {
            slot.interest = interest;
            self.ready.change(key, &slot.conn.stream, interest)?;
        }
        Ok(())
    }

    fn handle(&mut self, event: Event) -> Result<(), Fault> {
        if event.readable
            && let Err(fault) = self.read(event.key)
        {
            self.slots[event.key].conn.answer_close(&fault);
            return Err(fault);
        }
        if event.writable {
            self.watch(event.key, Interest::Read)?;
            if let Role::Publish(publisher) = &mut self.slots[event.key].role {
                publisher.writable = true;
            }
        }
        if event.readable || event.writable {
            self.flush(event.key)?;
        }
        Ok(())
    }

    /// Reads once and deals with all that came.
    fn read(&mut self, key: usize) -> Result<(), Fault> {
        let slot = &mut self.slots[key];
        match slot.conn.inbound.fill(&mut slot.conn.stream) {
            Ok(0) => return Err(Fault::Dropped("measuring")),
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                return Ok(());
            }
            Err(error) => return Err(broken(error, "measuring")),
        }
        let now_ns = self.shared.now_ns();
        match &mut slot.role {
            Role::Publish(publisher) => {
                publisher.now_ns = now_ns;
                let excused = |p: &Publisher| p.returned + p.window.as_ref().map_or(0, |w| w.refused);
                let before = excused(publisher);
                publisher.lend(&mut self.confirm_times);
                slot.conn.inbound.drain(publisher.as_mut())?;
                publisher.lend(&mut self.confirm_times);
                self.shared.confirmed.fetch_add(publisher.take_settled()?, Ordering::Relaxed);
                self.shared.excused.fetch_add(excused(publisher) - before, Ordering::Relaxed);
            }
            Role::Consume(consumer) => {
                consumer.now_ns = now_ns;
                let before = consumer.tally.delivered;
                std::mem::swap(&mut self.times, &mut consumer.times);
                slot.conn.inbound.drain(consumer.as_mut())?;
                std::mem::swap(&mut self.times, &mut consumer.times);
                let count = consumer.tally.delivered - before;
                if count > 0 {
                    self.shared.delivered.fetch_add(count, Ordering::Relaxed);
                    self.shared.last_delivery_ns.fetch_max(now_ns, Ordering::Relaxed);
                }
                let credits = std::mem::take(&mut consumer.credits);
                self.credit(key, credits);
            }
        }
        Ok(())
    }

    /// Opens the closed loop for the publishers of what was delivered.
    fn credit(&mut self, key: usize, mut streams: Vec<usize>) {
        for stream in streams.drain(..) {
            let owner = self.owners.get(stream).and_then(|owner| self.slots.get_mut(*owner));
            if let Some(Slot { role: Role::Publish(publisher), .. }) = owner {
                publisher.delivered += 1;
            }
        }
        if let Role::Consume(consumer) = &mut self.slots[key].role {
            consumer.credits = streams;
        }
    }

    fn flush(&mut self, key: usize) -> Result<(), Fault> {
        let slot = &mut self.slots[key];
        if let Role::Consume(consumer) = &mut slot.role
            && !consumer.flush(&mut slot.conn.stream)?
        {
            self.watch(key, Interest::ReadWrite)?;
        }
        Ok(())
    }

    /// Sends the last acknowledgements and makes the sockets blocking again.
    fn farewell(mut self, cpu_ns: Option<u64>) -> Result<Finished, Fault> {
        for slot in &mut self.slots {
            slot.conn.stream.set_nonblocking(false).map_err(Fault::io("block a socket"))?;
            if let Role::Consume(consumer) = &mut slot.role {
                consumer.ack_rest();
                consumer.flush(&mut slot.conn.stream)?;
            }
        }
        let Self { slots, times, confirm_times, .. } = self;
        Ok(Finished { slots, cpu_ns, times, confirm_times })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pace_allows_what_is_due() {
        let mut pace = Pace::new(1000.0, 5_000_000);
        assert_eq!(pace.allowance(5_000_000), 1);
        pace.sent = 1;
        assert_eq!(pace.allowance(5_500_000), 0);
        assert_eq!(pace.due_ns(), 6_000_000);
        assert_eq!(pace.allowance(15_000_000), 10);
        pace.sent = 100;
        assert_eq!(pace.allowance(15_000_000), 0);
    }
}

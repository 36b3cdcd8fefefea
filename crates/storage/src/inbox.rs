//! Appends on their way to the committer.

use std::collections::VecDeque;
use std::mem;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use waypost_model::Lsn;
use waypost_model::journal::{AppendError, Op};

use crate::encoder::Pending;
use crate::patience::{GATHERED_BYTES_MAX, Patience};
use crate::sync::{lock, wait};

/// What an operation is charged beside its bytes: about what it takes on disk and in memory.
const OP_BYTES: u64 = 64;
const TARGET_BYTES: u64 = 24;
const SLOT_BYTES: u64 = 8;

/// What an append asks for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Weight {
    /// About how many bytes it takes.
    pub bytes: u64,
    /// Whether it brings messages: refused while the disk is full.
    pub messages: bool,
    /// Whether somebody waits for it.
    pub urgent: bool,
    /// Whether somebody will in a moment, and says so by [`Inbox::hurry`].
    pub held: bool,
}

impl Weight {
    pub fn of(ops: &[Op]) -> Weight {
        let mut w = Weight::default();
        for op in ops {
            w.bytes += OP_BYTES;
            match op {
                Op::Enqueue(e) => {
                    w.messages = true;
                    w.urgent = true;
                    w.bytes += e.batch.payload_len(e.from, e.to);
                    let route = e.route.exchange.len() + e.route.routing_key.len();
                    let address = e.route.address.as_ref().map_or(0, |a| a.len());
                    // It stands in the frame and in the footer.
                    w.bytes += 2 * (route + address) as u64;
                    w.bytes += SLOT_BYTES * u64::from(e.to - e.from) + TARGET_BYTES * e.targets.len() as u64;
                }
                Op::Define { key, value } => {
                    w.urgent = true;
                    w.bytes += key.len() as u64 + value.as_ref().map_or(0, |v| v.len() as u64);
                }
                Op::Forget(_) => w.urgent = true,
                Op::Settle(_) | Op::Requeued { .. } => {}
            }
        }
        w
    }
}

enum Slot {
    Filled(Pending),
    Reserved,
}

#[derive(Default)]
struct State {
    /// With what each is charged; no operations yet where the ticket was only reserved.
    queue: VecDeque<(Slot, u64)>,
    bytes: u64,
    last: u64,
    /// Tickets whose operations are still to come.
    reserved: u32,
    urgent: bool,
    /// Since when something waits for which nobody asks.
    lazy_since: Option<Instant>,
    /// Whether a thread takes from the queue, so that waiting for it makes sense.
    attached: bool,
    asleep: bool,
    /// It sleeps over something that is due, and only for a moment.
    dozing: bool,
    stopped: bool,
    /// It stopped since another writer owns the log.
    fenced: bool,
    closing: bool,
    /// The log has answers that nobody has looked at.
    answers: bool,
    /// Not even what is kept back has room left.
    stuck: bool,
    /// The committer tells of a commit, and takes nothing until whoever is told is through.
    telling: bool,
    waiting_room: u32,
    waiting_done: u32,
    /// What is due waits for more.
    patience: Patience,
}

impl State {
    /// Why nothing is taken any more.
    fn refusal(&self) -> AppendError {
        if self.fenced { AppendError::Fenced } else { AppendError::Stopped }
    }

    /// Whether the committer is to be woken, since something is due.
    fn is_overslept(&self) -> bool {
        self.asleep && self.urgent && !(self.dozing && self.patience.wants_more(self.bytes))
    }
}

/// The queue between the callers of `append` and the committer.
#[derive(Default)]
pub struct Inbox {
    state: Mutex<State>,
    work: Condvar,
    room: Condvar,
    done: Condvar,
    /// Messages are refused.
    pub full: AtomicBool,
    /// Something was appended that [`Inbox::hurry`] is to follow.
    held: AtomicBool,
    bytes_max: u64,
    lazy_bytes_max: u64,
    lazy: Duration,
}

impl Inbox {
    pub fn new(bytes_max: u64, lazy_bytes_max: u64, lazy_ms: u64) -> Inbox {
        Inbox { bytes_max, lazy_bytes_max, lazy: Duration::from_millis(lazy_ms), ..Inbox::default() }
    }

    /// Takes an append. Blocks while the committer is too far behind.
    pub fn append(&self, ops: Vec<Op>, weight: Weight) -> Result<Lsn, AppendError> {
        let mut s = lock(&self.state);
        // Whoever fills a reserved ticket may need a shard that our caller holds: there is no waiting for him.
        // Nor while the committer tells of a commit: whoever is told may need what our caller holds, or append himself.
        let in_vain = |s: &State| s.stopped || s.stuck || s.reserved > 0 || s.telling;
        while s.bytes >= self.bytes_max && s.attached && !in_vain(&s) {
            s.waiting_room += 1;
            s = wait(&self.room, s, None);
            s.waiting_room -= 1;
        }
        self.admit(&s, &weight)?;
        s.last += 1;
        let lsn = Lsn(s.last);
        s.queue.push_back((Slot::Filled(Pending { lsn, ops }), weight.bytes));
        self.added(s, &weight);
        Ok(lsn)
    }

    /// Takes the next ticket; [`Inbox::fill`] follows.
    pub fn reserve(&self) -> Lsn {
        let mut s = lock(&self.state);
        s.last += 1;
        s.queue.push_back((Slot::Reserved, 0));
        s.reserved += 1;
        let lsn = Lsn(s.last);
        drop(s);
        self.room.notify_all();
        lsn
    }

    /// Whether an append of that weight would be taken.
    pub fn room(&self, weight: &Weight) -> Result<(), AppendError> {
        self.admit(&lock(&self.state), weight)
    }

    /// Hands in the operations of a reserved ticket; none if the log has stopped. A full disk is no reason to refuse
    /// them: whoever reserved has acted already.
    pub fn fill(&self, lsn: Lsn, ops: Vec<Op>, weight: Weight) -> Result<(), AppendError> {
        let mut s = lock(&self.state);
        let (last, len) = (s.last, s.queue.len() as u64);
        // Tickets in the queue are consecutive.
        let index = (lsn.0 + len).checked_sub(last + 1).filter(|i| *i < len);
        let admitted = if s.stopped { Err(s.refusal()) } else { Ok(()) };
        let (ops, weight) = match admitted {
            Ok(()) => (ops, weight),
            Err(_) => (Vec::new(), Weight::default()),
        };
        match index.and_then(|i| s.queue.get_mut(i as usize)) {
            Some((slot @ Slot::Reserved, bytes)) => {
                *slot = Slot::Filled(Pending { lsn, ops });
                *bytes = weight.bytes;
                s.reserved -= 1;
            }
            _ => debug_assert!(false, "ticket {lsn} was not reserved"),
        }
        // Others may have waited behind it.
        self.added(s, &Weight { urgent: true, ..weight });
        admitted
    }

    fn admit(&self, s: &State, weight: &Weight) -> Result<(), AppendError> {
        if s.stopped {
            return Err(s.refusal());
        }
        let full = self.full.load(Ordering::Relaxed) || s.stuck;
        if full && (weight.messages || (s.stuck && s.bytes >= self.bytes_max)) {
            return Err(AppendError::Full);
        }
        Ok(())
    }

    fn added(&self, mut s: MutexGuard<'_, State>, weight: &Weight) {
        s.bytes += weight.bytes;
        s.urgent |= weight.urgent && (!weight.held || s.bytes >= GATHERED_BYTES_MAX);
        let first_lazy = !s.urgent && !weight.held && s.lazy_since.is_none();
        if weight.held {
            self.held.store(true, Ordering::Relaxed);
        }
        if first_lazy {
            s.lazy_since = Some(Instant::now());
        }
        // A sleeper must learn of the first lazy append too: it begins to count the time then.
        let is_much = first_lazy || s.bytes >= self.lazy_bytes_max;
        let wake = if s.urgent { s.is_overslept() } else { s.asleep && is_much };
        drop(s);
        if wake {
            self.work.notify_one();
        }
    }

    /// Somebody waits for what was held.
    pub fn hurry(&self) {
        // Whoever appended before on this thread sees what he stored, or that another has taken it up.
        if !self.held.load(Ordering::Relaxed) || !self.held.swap(false, Ordering::Relaxed) {
            return;
        }
        let mut s = lock(&self.state);
        s.urgent |= !s.queue.is_empty();
        let wake = s.is_overslept();
        drop(s);
        if wake {
            self.work.notify_one();
        }
    }

    /// Moves appends of about `bytes_max` bytes to `out`, at least one if there is any.
    pub fn take(&self, bytes_max: u64, out: &mut Vec<Pending>) {
        let mut s = lock(&self.state);
        let mut taken = 0;
        while let Some((slot, bytes)) = s.queue.pop_front() {
            match slot {
                Slot::Filled(pending) if taken == 0 || taken + bytes <= bytes_max => {
                    taken += bytes;
                    out.push(pending);
                }
                other => {
                    s.queue.push_front((other, bytes));
                    break;
                }
            }
        }
        s.bytes -= taken;
        s.patience.taken(taken, Instant::now());
        if s.queue.is_empty() {
            s.urgent = false;
            s.lazy_since = None;
        }
        let wake = s.waiting_room > 0;
        drop(s);
        if wake {
            self.room.notify_all();
        }
    }

    /// Waits until a commit is due, unless one is `blocked`, or the log has answered; false when it is time to end.
    pub fn wait_work(&self, blocked: bool) -> bool {
        let mut s = lock(&self.state);
        loop {
            if s.closing || s.stopped {
                return false;
            }
            if mem::take(&mut s.answers) {
                return true;
            }
            // What found no room is not in the queue any more: nobody else will say that it is to be tried again.
            if s.stuck && !blocked {
                return true;
            }
            let waited = s.lazy_since.map(|t| t.elapsed());
            let due = waited.is_some_and(|w| w >= self.lazy) || s.bytes >= self.lazy_bytes_max;
            let ready = !blocked && matches!(s.queue.front(), Some((Slot::Filled(_), _)));
            let mut rest = waited.filter(|_| ready).map(|w| self.lazy.saturating_sub(w));
            if ready && (s.urgent || due) {
                let bytes = s.bytes;
                rest = s.patience.rest(bytes, Instant::now());
                if rest.is_none() {
                    return true;
                }
                s.dozing = true;
            }
            s.asleep = true;
            s = wait(&self.work, s, rest);
            (s.asleep, s.dozing) = (false, false);
        }
    }

    /// Notes that the log has answered.
    pub fn answered(&self) {
        let mut s = lock(&self.state);
        s.answers = true;
        if s.asleep {
            self.work.notify_one();
        }
    }

    /// Waits until the log has answered.
    pub fn wait_answer(&self, at_most: Duration) {
        let mut s = lock(&self.state);
        if !mem::take(&mut s.answers) {
            s.asleep = true;
            s = wait(&self.work, s, Some(at_most));
            s.asleep = false;
            s.answers = false;
        }
    }

    /// Waits a moment for room on the disk.
    pub fn wait_moment(&self, at_most: Duration) {
        let s = lock(&self.state);
        if !s.closing && !s.stopped {
            drop(wait(&self.done, s, Some(at_most)));
        }
    }

    /// Waits until all that was appended so far is committed; false if nobody will do that.
    pub fn wait_committed(&self, durable: impl Fn() -> Lsn) -> bool {
        let mut s = lock(&self.state);
        let target = Lsn(s.last);
        s.urgent = true;
        self.work.notify_one();
        self.wait_for(s, target, durable)
    }

    /// Waits until what has been taken up to `target` is committed; false if nobody will do that.
    pub fn wait_durable(&self, target: Lsn, durable: impl Fn() -> Lsn) -> bool {
        self.wait_for(lock(&self.state), target, durable)
    }

    fn wait_for<'a>(&'a self, mut s: MutexGuard<'a, State>, target: Lsn, durable: impl Fn() -> Lsn) -> bool {
        while durable() < target {
            if !s.attached || s.stopped {
                return false;
            }
            s.waiting_done += 1;
            s = wait(&self.done, s, None);
            s.waiting_done -= 1;
        }
        true
    }

    /// Tells those who wait for a commit that there was one.
    pub fn committed(&self) {
        if lock(&self.state).waiting_done > 0 {
            self.done.notify_all();
        }
    }

    /// The last ticket given out.
    pub fn last(&self) -> Lsn {
        Lsn(lock(&self.state).last)
    }

    pub fn bytes(&self) -> u64 {
        lock(&self.state).bytes
    }

    fn update(&self, f: impl FnOnce(&mut MutexGuard<'_, State>)) {
        f(&mut lock(&self.state));
        self.work.notify_all();
        self.room.notify_all();
        self.done.notify_all();
    }

    pub fn set_attached(&self, attached: bool) {
        self.update(|s| s.attached = attached);
    }

    /// Notes that the committer tells of a commit, or is through with it.
    pub fn set_telling(&self, telling: bool) {
        let mut s = lock(&self.state);
        s.telling = telling;
        if !telling {
            let bytes = s.bytes;
            s.patience.told(bytes, Instant::now());
        }
        let wake = telling && s.waiting_room > 0;
        drop(s);
        if wake {
            self.room.notify_all();
        }
    }

    pub fn set_stuck(&self, stuck: bool) {
        let changed = lock(&self.state).stuck != stuck;
        if changed {
            self.update(|s| s.stuck = stuck);
        }
    }

    pub fn stop(&self) {
        self.update(|s| s.stopped = true);
    }

    /// Another writer owns the log: from now on that is what appends are told.
    pub fn fence(&self) {
        self.update(|s| (s.stopped, s.fenced) = (true, true));
    }

    pub fn close(&self) {
        self.update(|s| s.closing = true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn define() -> (Vec<Op>, Weight) {
        (vec![Op::Define { key: Box::default(), value: None }], Weight { bytes: 10, urgent: true, ..Weight::default() })
    }

    /// Whether the committer would take something now.
    fn is_due(inbox: &Inbox) -> bool {
        let s = lock(&inbox.state);
        s.urgent || s.lazy_since.is_some() || s.bytes >= inbox.lazy_bytes_max
    }

    #[test]
    fn what_is_held_is_due_once_somebody_waits_for_it_or_it_is_much() {
        let inbox = Inbox::new(1 << 20, 1 << 20, 10);
        let hold = || {
            let (ops, weight) = define();
            inbox.append(ops, Weight { held: true, bytes: GATHERED_BYTES_MAX / 4, ..weight }).unwrap()
        };
        inbox.hurry();
        assert!(!is_due(&inbox), "nothing is there");
        assert_eq!((hold(), hold()), (Lsn(1), Lsn(2)));
        assert!(!is_due(&inbox));
        inbox.hurry();
        assert!(is_due(&inbox));
        let mut taken = Vec::new();
        inbox.take(1 << 20, &mut taken);
        assert_eq!(taken.len(), 2);
        inbox.hurry();
        assert!(!is_due(&inbox), "all of it was taken");
        (0..3).for_each(|_| _ = hold());
        assert!(!is_due(&inbox));
        hold();
        assert!(is_due(&inbox), "it is much");
    }

    #[test]
    fn what_comes_after_a_large_commit_wakes_the_committer_however_little_it_is() {
        let inbox = Inbox::new(1 << 30, 1 << 20, 10);
        let large = 100 << 10;
        let append = |bytes| {
            let (ops, weight) = define();
            inbox.append(ops, Weight { bytes, ..weight }).unwrap();
        };
        std::thread::scope(|threads| {
            let (due, is_due) = std::sync::mpsc::channel();
            let inbox = &inbox;
            threads.spawn(move || {
                while inbox.wait_work(false) {
                    let mut taken = Vec::new();
                    inbox.take(1 << 20, &mut taken);
                    // Longer than whoever waits for company waits.
                    std::thread::sleep(Duration::from_millis(2));
                    inbox.set_telling(true);
                    inbox.set_telling(false);
                    due.send(taken.len()).unwrap();
                }
            });
            for bytes in [large, 10, 10, large, large, 10] {
                append(bytes);
                let taken = is_due.recv_timeout(Duration::from_secs(20));
                if taken != Ok(1) {
                    inbox.close();
                }
                assert_eq!(taken, Ok(1));
                std::thread::sleep(Duration::from_millis(5));
            }
            inbox.close();
        });
    }

    #[test]
    fn what_is_held_goes_with_what_is_not() {
        let inbox = Inbox::new(1000, 100, 10);
        let (ops, weight) = define();
        inbox.append(ops.clone(), Weight { held: true, ..weight }).unwrap();
        inbox.append(ops, weight).unwrap();
        assert!(is_due(&inbox));
        let mut taken = Vec::new();
        inbox.take(1000, &mut taken);
        assert_eq!(taken.len(), 2);
    }
}

//! A log that is kept elsewhere, as a replicated one is: it answers late and in any order, loses answers, refuses what it
//! cannot take just now, and changes hands.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use waypost_storage::DiskFile;
use waypost_storage::log::{Answer, Frames, Log, LogFrame, Outcome, Position, SEGMENT_HEADER, Waker};

use crate::rng::Rng;

/// How many frames may be under way.
pub const WINDOW: usize = 4;

/// A frame with its bytes in one.
#[derive(Debug, Clone)]
struct Kept {
    epoch: u32,
    at: Position,
    follows: Position,
    end: Position,
    segment_header: [u8; SEGMENT_HEADER],
    bytes: Vec<u8>,
}

#[derive(Default)]
struct State {
    /// What is in the log. Frames that were released are gone.
    frames: Vec<Kept>,
    released: Option<Position>,
    epoch: u32,
    /// On the way there, in order.
    sent: VecDeque<Kept>,
    /// Where its last frame ends, also if that was released.
    end: Option<Position>,
    /// On the way back.
    answers: Vec<Answer>,
    /// How many of them are let through, if not all.
    held_at: Option<usize>,
    waker: Option<Arc<Waker>>,
    /// Where delays and accidents come from; without it everything is answered in order, as soon as it is asked for.
    chance: Option<Rng>,
}

/// The far end: it outlives the processes that write to it.
#[derive(Clone, Default)]
pub struct Far(Arc<Mutex<State>>);

/// What one process has of it.
pub struct FarLog {
    far: Far,
    epoch: AtomicU32,
}

impl State {
    fn take(&mut self, frame: Kept) {
        self.end = Some(frame.end);
        self.frames.push(frame);
    }
}

impl Far {
    /// A far end whose answers come late and in any order.
    #[must_use]
    pub fn with_chance(seed: u64) -> Far {
        let far = Far::default();
        far.state().chance = Some(Rng::new(seed));
        far
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The log for a process that starts.
    #[must_use]
    pub fn log(&self) -> FarLog {
        FarLog { far: self.clone(), epoch: AtomicU32::new(0) }
    }

    /// From now on everything arrives and is answered; what was lost stays lost.
    pub fn calm(&self) {
        self.state().chance = None;
    }

    /// Delays and accidents again.
    pub fn chance(&self, seed: u64) {
        self.state().chance = Some(Rng::new(seed));
    }

    /// How many frames have not arrived.
    #[must_use]
    pub fn sent(&self) -> usize {
        self.state().sent.len()
    }

    /// How many frames the log has.
    #[must_use]
    pub fn frames(&self) -> usize {
        self.state().frames.len()
    }

    /// The oldest frame on its way arrives; its answer goes before (`ahead`) or behind those that are on their way back.
    pub fn arrive(&self, ahead: bool) {
        self.change(|s| {
            let Some(frame) = s.sent.pop_front() else { return };
            let answer = Answer { at: frame.at, outcome: Outcome::Durable };
            s.take(frame);
            let at = if ahead { 0 } else { s.answers.len() };
            s.answers.insert(at, answer);
        });
    }

    /// Only so many more answers are let through.
    pub fn hold(&self, answers: usize) {
        self.change(|s| s.held_at = Some(answers));
    }

    /// Nothing that is on its way is taken, and the log knows it.
    pub fn refuse(&self) {
        self.change(|s| s.answers.extend(s.sent.drain(..).map(refused)));
    }

    /// The answer for the oldest frame on its way is given up; whether it `arrived`, only the log knows.
    pub fn lose(&self, arrived: bool) {
        self.change(|s| {
            let Some(frame) = s.sent.pop_front() else { return };
            let at = frame.at;
            if arrived {
                s.take(frame);
            } else {
                s.answers.extend(s.sent.drain(..).map(refused));
            }
            s.answers.push(Answer { at, outcome: Outcome::Unknown(io::ErrorKind::TimedOut.into()) });
        });
    }

    /// Another writer takes the log over, and then it is gone too.
    pub fn take_over(&self) {
        self.change(|s| {
            s.epoch += 1;
            let epoch = s.epoch;
            s.answers.extend(s.sent.drain(..).map(|f| Answer { at: f.at, outcome: Outcome::Fenced(epoch) }));
        });
    }

    /// Something happens to what is on its way, by chance.
    pub fn step(&self) {
        let choice = self.state().chance.as_mut().map_or(usize::MAX, |rng| rng.below(120));
        match choice {
            0 => self.lose(true),
            1 => self.lose(false),
            2 => self.take_over(),
            3..8 => self.refuse(),
            _ => self.arrive(false),
        }
    }

    fn change(&self, f: impl FnOnce(&mut State)) {
        let mut state = self.state();
        f(&mut state);
        let waker = state.waker.clone();
        drop(state);
        if let Some(wake) = waker {
            wake();
        }
    }
}

fn refused(frame: Kept) -> Answer {
    Answer { at: frame.at, outcome: Outcome::Failed(io::ErrorKind::NotConnected.into()) }
}

impl Log for FarLog {
    fn fence(&self, last: u32) -> io::Result<u32> {
        let mut s = self.far.state();
        // Some of what the writer before us had under way arrives before the fence does.
        while let Some(frame) = s.sent.pop_front() {
            if s.chance.as_mut().is_some_and(|rng| rng.once_in(3)) {
                break;
            }
            s.take(frame);
        }
        s.sent.clear();
        s.answers.clear();
        s.waker = None;
        s.epoch = s.epoch.max(last) + 1;
        self.epoch.store(s.epoch, Ordering::Relaxed);
        Ok(s.epoch)
    }

    fn read(&self, from: Position, found: &mut dyn FnMut(&LogFrame<'_>) -> io::Result<()>) -> io::Result<Frames> {
        let s = self.far.state();
        if s.released.is_some_and(|released| from < released) {
            return Err(io::Error::other("what is asked for was released"));
        }
        for k in s.frames.iter().filter(|k| k.at >= from) {
            let bytes: &[&[u8]] = &[&k.bytes];
            let (epoch, at, follows, segment_header) = (k.epoch, k.at, k.follows, &k.segment_header);
            found(&LogFrame { epoch, at, follows, segment_header, bytes })?;
        }
        Ok(Frames::Read)
    }

    fn window(&self) -> usize {
        WINDOW
    }

    fn append(&self, frame: &LogFrame<'_>, _: &Arc<dyn DiskFile>) {
        self.far.change(|s| {
            assert_eq!(frame.epoch, self.epoch.load(Ordering::Relaxed), "a frame of another process");
            assert!(s.sent.len() + s.answers.len() < WINDOW, "more frames under way than the window allows");
            if frame.epoch < s.epoch {
                s.answers.push(Answer { at: frame.at, outcome: Outcome::Fenced(s.epoch) });
                return;
            }
            let end = s.sent.back().map_or(s.end.unwrap_or(Position::START), |f| f.end);
            let (epoch, at, follows) = (frame.epoch, frame.at, frame.follows);
            let (segment_header, bytes) = (*frame.segment_header, frame.bytes.concat());
            let frame = Kept { epoch, at, follows, end: frame.end(), segment_header, bytes };
            // Compare and append: what does not continue the log is refused.
            if frame.follows == end { s.sent.push_back(frame) } else { s.answers.push(refused(frame)) }
        });
    }

    fn answer(&self) -> Option<Answer> {
        let mut s = self.far.state();
        let s = &mut *s;
        if s.answers.is_empty() || s.held_at == Some(0) {
            return None;
        }
        let at = match &mut s.chance {
            None => 0,
            // It takes its time.
            Some(rng) => Some(rng.below(s.answers.len())).filter(|_| !rng.once_in(3))?,
        };
        s.held_at = s.held_at.map(|n| n - 1);
        Some(s.answers.remove(at))
    }

    fn on_answer(&self, waker: Waker) {
        self.far.state().waker = Some(Arc::new(waker));
    }

    fn release(&self, before: Position) {
        let mut s = self.far.state();
        s.frames.retain(|k| k.at >= before);
        s.released = Some(before);
    }
}

//! Members: those among whom a mailbox shares its messages out, and how good a choice each of them is.

use std::sync::Arc;

use waypost_model::Millis;
use waypost_model::service::{Health, Instance, Standing};

/// A new member reaches its full share after that long, ms.
pub(super) const SLOW_START_MS: u64 = 30_000;

/// The share that a new member begins with.
const SLOW_START_SHARE: f32 = 0.1;

/// So many failed deliveries in a row make a member get single probes only.
const FAILURES_MAX: u8 = 5;

/// How long the first probe waits, and the longest wait, ms.
const PROBE_AFTER_MS: u64 = 1_000;
const PROBE_AFTER_MAX_MS: u64 = 30_000;

/// Weight of a new sample of latency.
const SAMPLE_WEIGHT: f32 = 0.1;

/// What the latency of an idle member that is slower than the others loses of the difference in a second: it is to be
/// tried again some day.
const FORGET_PER_SECOND: f32 = 0.05;

/// Added to every latency, ms: what takes no time at all is still not free.
const LATENCY_FLOOR_MS: f32 = 0.25;

/// A row of bits, one per lane.
#[derive(Debug, Default, Clone)]
pub(super) struct Lanes(Vec<u64>);

impl Lanes {
    pub fn set(&mut self, lane: u16, on: bool) {
        let (word, bit) = (usize::from(lane) / 64, 1u64 << (lane % 64));
        if word >= self.0.len() {
            if !on {
                return;
            }
            self.0.resize(word + 1, 0);
        }
        if let Some(w) = self.0.get_mut(word) {
            *w = if on { *w | bit } else { *w & !bit };
        }
    }

    pub fn has(&self, lane: u16) -> bool {
        self.0.get(usize::from(lane) / 64).is_some_and(|w| w & 1 << (lane % 64) != 0)
    }

    pub fn iter(&self) -> impl Iterator<Item = u16> {
        let words = (0u16..).zip(&self.0);
        words.flat_map(|(i, word)| {
            let mut rest = *word;
            std::iter::from_fn(move || {
                let bit = rest.trailing_zeros();
                rest &= rest.checked_sub(1)?;
                Some(i * 64 + bit as u16)
            })
        })
    }
}

/// An instance that consumes, or has; or a consumer that says nothing of itself.
#[derive(Debug)]
pub(super) struct Member {
    /// `None` for a consumer that says nothing of itself.
    pub instance: Option<Arc<Instance>>,
    pub standing: Standing,
    pub incarnation: u64,
    /// The registry has it no more; its consumer is still there.
    pub gone: bool,
    /// Its consumers that were not cancelled, by their places in the roster.
    pub consumers: Vec<u32>,
    /// How many consumers are part of it, the cancelled ones that hold something included.
    pub seats: u32,
    /// What all of its consumers hold, the cancelled ones included.
    pub in_flight: u32,
    /// Acknowledgement latency, ms; `None` before the first.
    pub latency: Option<f32>,
    /// When it was last acknowledged to, or joined.
    pub heard: Millis,
    /// When it joined.
    pub since: Millis,
    /// Messages that it acknowledged.
    pub acked: u64,
    /// Deliveries that failed since the last that did not.
    pub failures: u8,
    pub ejected: Option<Ejected>,
    /// Its zone, by number; 0 if it has none.
    pub zone: u8,
    /// The lanes whose messages it may take, as far as its selectors and standing say.
    pub lanes: Lanes,
    /// Where it is on the list of those who may have got credit, if it is.
    pub dirty: Option<u32>,
    /// It is among [`super::Mailbox::candidates`].
    pub counted: bool,
    /// Up to where it has looked through the shared lane since it got credit.
    pub scanned: Option<(u64, u16)>,
    /// There is more of it to look through.
    pub unfinished: bool,
}

/// What became of a member that kept failing.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ejected {
    /// When it gets its next probe.
    pub probe_at: Millis,
    /// How long it waits after the one after that, ms.
    after: u64,
}

impl Member {
    pub fn new(instance: Option<Arc<Instance>>, standing: Standing, incarnation: u64, now: Millis) -> Member {
        Member {
            instance,
            standing,
            incarnation,
            gone: false,
            consumers: Vec::new(),
            seats: 0,
            in_flight: 0,
            latency: None,
            heard: now,
            since: now,
            acked: 0,
            failures: 0,
            ejected: None,
            zone: 0,
            lanes: Lanes::default(),
            dirty: None,
            counted: false,
            scanned: None,
            unfinished: false,
        }
    }

    /// Whether it is to be thought of at all.
    pub fn serves(&self) -> bool {
        !self.gone && !self.standing.draining && self.standing.health >= Health::Passing && !self.is_critical()
    }

    fn is_critical(&self) -> bool {
        self.standing.health == Health::Critical
    }

    /// Serves, and has somebody who takes messages.
    pub fn is_candidate(&self) -> bool {
        self.serves() && !self.consumers.is_empty()
    }

    /// Whether it is as good as can be, rather than better than nothing.
    pub fn is_passing(&self) -> bool {
        self.standing.health == Health::Passing
    }

    /// How many more messages it may hold, its consumers' credit aside.
    pub fn room(&self, now: Millis) -> u32 {
        let max = self.instance.as_ref().and_then(|i| i.max_in_flight).unwrap_or(u32::MAX);
        let left = max.saturating_sub(self.in_flight);
        match self.ejected {
            None => left,
            Some(e) if self.in_flight == 0 && e.probe_at <= now => left.min(1),
            Some(_) => 0,
        }
    }

    /// What giving it a message costs: the least is best.
    pub fn cost(&self, usual: f32, now: Millis) -> f32 {
        if self.ejected.is_some() {
            // A probe is for whoever it is due for.
            return 0.0;
        }
        let weight = self.instance.as_ref().map_or(1, |i| i.weight);
        let latency = self.latency.unwrap_or(usual) + LATENCY_FLOOR_MS;
        (self.in_flight as f32 + 1.0) * latency / (f32::from(weight) * self.share(now))
    }

    fn share(&self, now: Millis) -> f32 {
        let age = now.since(self.since);
        if age >= SLOW_START_MS {
            return 1.0;
        }
        (age as f32 / SLOW_START_MS as f32).max(SLOW_START_SHARE)
    }

    /// A delivery was acknowledged after so many milliseconds. Whether that ended its ejection.
    pub fn succeeded(&mut self, count: u32, latency_ms: u64, now: Millis) -> bool {
        let sample = latency_ms as f32;
        self.latency = Some(self.latency.map_or(sample, |l| l + (sample - l) * SAMPLE_WEIGHT));
        self.acked += u64::from(count);
        self.heard = now;
        self.failures = 0;
        self.ejected.take().is_some()
    }

    /// A delivery failed. Whether it is to be ejected, if that is allowed.
    pub fn failed(&mut self, now: Millis) -> bool {
        self.failures = self.failures.saturating_add(1);
        if let Some(e) = &mut self.ejected {
            e.probe_at = now.plus(e.after);
            e.after = (e.after * 2).min(PROBE_AFTER_MAX_MS);
            return false;
        }
        self.failures >= FAILURES_MAX
    }

    pub fn eject(&mut self, now: Millis) {
        self.ejected = Some(Ejected { probe_at: now.plus(PROBE_AFTER_MS), after: PROBE_AFTER_MS * 2 });
    }

    /// Time has passed without anything to do.
    pub fn forget(&mut self, usual: f32, seconds: f32, now: Millis) {
        if let Some(l) = self.latency.as_mut().filter(|l| **l > usual)
            && self.in_flight == 0
            && now.since(self.heard) >= 1000
        {
            *l -= (*l - usual) * (FORGET_PER_SECOND * seconds).min(1.0);
        }
    }
}

/// What bounds what a consumer may hold, beside bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in super::super) enum Bound {
    /// Its prefetch, or nothing: it is no instance.
    #[default]
    Own,
    /// The soft window: it acknowledges, and has no prefetch.
    Soft,
    /// The soft window while there are others: it does not acknowledge, so that what it holds is on its way to it.
    Unsent,
}

/// A consumer's place among members.
#[derive(Debug, Default)]
pub(super) struct Seat {
    pub member: u32,
    pub bound: Bound,
    /// Messages that it may hold where its window is soft.
    pub soft: u32,
    /// It has held that many since it last held nothing.
    pub was_full: bool,
    /// Since when it has held that many.
    pub full_since: Option<Millis>,
    /// Slots of keys that are its own and have messages waiting, the most urgent first: head, lane, slot.
    pub owned: std::collections::BTreeSet<(u64, u16, u16)>,
}

/// What a consumer without prefetch may hold at first.
pub(super) const SOFT_WINDOW: u32 = 32;

/// What it may get to hold that does not acknowledge, by taking all that it is given.
const UNSENT_WINDOW_MAX: u32 = 512;

/// The most that it may get to hold.
const SOFT_WINDOW_MAX: u32 = 1 << 20;

/// How long it must have held that without a word, ms.
pub(super) const SILENT_MS: u64 = 1000;

impl Seat {
    pub fn new(member: u32, bound: Bound) -> Seat {
        Seat { member, bound, soft: SOFT_WINDOW, ..Seat::default() }
    }

    /// The soft window, if it counts. Whoever is alone and does not acknowledge takes nothing away from anybody.
    pub fn window(&self, alone: bool) -> Option<u32> {
        match self.bound {
            Bound::Own => None,
            Bound::Soft => Some(self.soft),
            Bound::Unsent => (!alone).then_some(self.soft),
        }
    }

    pub fn room(&self, held: u64, alone: bool) -> u32 {
        match self.window(alone) {
            Some(soft) => soft.saturating_sub(u32::try_from(held).unwrap_or(u32::MAX)),
            None => u32::MAX,
        }
    }

    /// It holds `held` messages from now on.
    pub fn holds(&mut self, held: u64, alone: bool, now: Millis) {
        if self.window(alone).is_some_and(|soft| held >= u64::from(soft)) {
            self.full_since = Some(now);
            self.was_full = true;
        }
    }

    /// Some of what it held is settled; `rest` tells how much is left.
    pub fn released(&mut self, rest: u32) {
        self.full_since = None;
        if rest == 0 && std::mem::take(&mut self.was_full) && self.bound == Bound::Unsent {
            // It reads as fast as it is written to: larger pieces cost less.
            self.soft = self.soft.max((self.soft * 2).min(UNSENT_WINDOW_MAX));
        }
    }

    /// Whether it may hold more from now on; when to ask again.
    pub fn widen(&mut self, held: u64, now: Millis) -> (bool, Option<Millis>) {
        let Some(since) = self.full_since else {
            return (false, None);
        };
        if since.plus(SILENT_MS) > now {
            return (false, Some(since.plus(SILENT_MS)));
        }
        let full = held >= u64::from(self.soft);
        self.full_since = None;
        if full && self.soft < SOFT_WINDOW_MAX {
            self.soft *= 2;
        }
        (full, None)
    }
}

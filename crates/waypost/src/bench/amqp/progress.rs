//! A progress bar on standard error, when somebody looks.

use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// How far a run is.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
    started: Instant,
    goal: Goal,
}

/// When a run is over.
#[derive(Clone, Copy, Debug)]
pub enum Goal {
    /// After so many steps.
    Count(u64),
    /// After so long.
    Time(Duration),
}

impl Progress {
    /// A bar towards `goal` that says `doing`; nothing at all unless standard error is a terminal.
    pub fn new(doing: &'static str, goal: Goal) -> Self {
        let length = match goal {
            Goal::Count(count) => count,
            Goal::Time(time) => u64::try_from(time.as_millis()).unwrap_or(u64::MAX),
        };
        let bar = if std::io::stderr().is_terminal() {
            let bar = ProgressBar::new(length);
            if let Ok(style) = ProgressStyle::with_template("{prefix} {wide_bar} {percent}% {msg}") {
                bar.set_style(style);
            }
            bar.with_prefix(doing)
        } else {
            ProgressBar::hidden()
        };
        Self { bar, started: Instant::now(), goal }
    }

    /// Shows two message counts.
    pub fn show(&self, published: u64, delivered: u64) {
        if !self.bar.is_hidden() {
            self.bar.set_message(format!("{published} in, {delivered} out"));
            self.step(published.max(delivered));
        }
    }

    /// Shows a count of steps.
    pub fn step(&self, done: u64) {
        self.bar.set_position(match self.goal {
            Goal::Count(_) => done,
            Goal::Time(_) => u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
        });
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

//! Reading the log while it is written, over HTTP. As long as nobody does, it costs nothing: the filter lets nothing through.

use std::io;
use std::sync::{Mutex, OnceLock, PoisonError};

use bytes::Bytes;
use tokio::sync::broadcast;
use tracing::level_filters::LevelFilter;
use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::{self, MakeWriter};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{Layer, reload};

/// Lines that are kept for those who read slowly; who is further behind is told how many it has missed.
const LINES_KEPT: usize = 512;

/// Longest line that is shown, in bytes; the rest is cut off.
const LINE_BYTES_MAX: usize = 16 << 10;

/// Most readers at once.
const READERS_MAX: usize = 16;

/// What is shown: what this program's own crates say. What is told of sending lines would be lines to be sent.
const OURS: &str = "waypost";

static MONITORS: OnceLock<Monitors> = OnceLock::new();

/// How a line is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// For people.
    Text,
    /// An object.
    Json,
}

/// A line of the log.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub level: Level,
    /// With its end.
    pub text: Bytes,
}

/// Why nobody can read now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Closed {
    /// Something else than the server's binary keeps the log.
    NotOurs,
    /// Too many read already.
    Full,
}

/// The log as it goes by, in one form.
struct Tap {
    lines: broadcast::Sender<Line>,
    /// What levels its readers want.
    wanted: Mutex<Vec<LevelFilter>>,
    filter: Box<dyn Fn(Targets) + Send + Sync>,
}

/// The log as it goes by.
#[derive(Default)]
pub(super) struct Monitors {
    text: Option<Tap>,
    json: Option<Tap>,
}

/// From now on the log can be read.
pub(super) fn open(monitors: Monitors) {
    // A second start has failed before it comes here.
    let _ = MONITORS.set(monitors);
}

/// Begins to read: lines of a level or more urgent.
///
/// # Errors
/// [`Closed`].
pub(crate) fn read(form: Form, level: LevelFilter) -> Result<Reader, Closed> {
    let monitors = MONITORS.get().ok_or(Closed::NotOurs)?;
    let tap = monitors.tap(form).ok_or(Closed::NotOurs)?;
    tap.change(|wanted| {
        if wanted.len() >= READERS_MAX {
            return Err(Closed::Full);
        }
        wanted.push(level);
        Ok(())
    })?;
    Ok(Reader { tap, level, lines: tap.lines.subscribe() })
}

/// Somebody who reads.
pub(crate) struct Reader {
    tap: &'static Tap,
    level: LevelFilter,
    lines: broadcast::Receiver<Line>,
}

impl Reader {
    /// The next line; or how many were missed, since they were not read in time. `None` at the end.
    pub(crate) async fn next(&mut self) -> Option<Result<Bytes, u64>> {
        loop {
            match self.lines.recv().await {
                Ok(line) if line.level <= self.level => return Some(Ok(line.text)),
                Ok(_) => {}
                Err(broadcast::error::RecvError::Lagged(missed)) => return Some(Err(missed)),
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.tap.change(|wanted| {
            if let Some(at) = wanted.iter().position(|level| *level == self.level) {
                wanted.swap_remove(at);
            }
        });
    }
}

impl Tap {
    /// Readers come or go: what nobody wants is not written down either.
    fn change<T>(&self, change: impl FnOnce(&mut Vec<LevelFilter>) -> T) -> T {
        let mut wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        let before = wanted.iter().max().copied();
        let result = change(&mut wanted);
        let after = wanted.iter().max().copied();
        if before != after {
            (self.filter)(targets(after.unwrap_or(LevelFilter::OFF)));
        }
        result
    }
}

fn targets(level: LevelFilter) -> Targets {
    Targets::new().with_target(OURS, level)
}

impl Monitors {
    pub(super) fn new() -> Monitors {
        Monitors::default()
    }

    fn tap(&self, form: Form) -> Option<&Tap> {
        match form {
            Form::Text => self.text.as_ref(),
            Form::Json => self.json.as_ref(),
        }
    }

    /// The layer that writes lines in a form for those who read.
    pub(super) fn with_layer<S>(mut self, form: Form) -> (Monitors, Box<dyn Layer<S> + Send + Sync>)
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
    {
        let (lines, _) = broadcast::channel(LINES_KEPT);
        let (filter, handle) = reload::Layer::<Targets, S>::new(targets(LevelFilter::OFF));
        let filtered = move |targets| {
            // It fails when nobody logs any more.
            let _ = handle.reload(targets);
        };
        let layer = fmt::layer().with_writer(Lines(lines.clone())).with_ansi(false);
        let layer = match form {
            Form::Text => layer.with_filter(filter).boxed(),
            Form::Json => layer.json().flatten_event(true).with_filter(filter).boxed(),
        };
        let tap = Some(Tap { lines, wanted: Mutex::default(), filter: Box::new(filtered) });
        *match form {
            Form::Text => &mut self.text,
            Form::Json => &mut self.json,
        } = tap;
        (self, layer)
    }
}

/// Makes lines of what is written.
struct Lines(broadcast::Sender<Line>);

impl<'a> MakeWriter<'a> for Lines {
    type Writer = OneLine<'a>;

    fn make_writer(&'a self) -> OneLine<'a> {
        OneLine { lines: &self.0, level: Level::INFO }
    }

    fn make_writer_for(&'a self, about: &Metadata<'_>) -> OneLine<'a> {
        OneLine { lines: &self.0, level: *about.level() }
    }
}

/// A line is written in one piece.
struct OneLine<'a> {
    lines: &'a broadcast::Sender<Line>,
    level: Level,
}

impl io::Write for OneLine<'_> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let text = match line.get(..LINE_BYTES_MAX) {
            Some(cut) if cut.len() < line.len() => [cut, b"\n"].concat().into(),
            _ => Bytes::copy_from_slice(line),
        };
        // Nobody may be there any more.
        let _ = self.lines.send(Line { level: self.level, text });
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing_subscriber::layer::SubscriberExt;

    /// A log of its own, read by one who sees warnings and one who sees everything.
    #[tokio::test]
    async fn readers_see_what_they_ask_for_and_hear_what_they_miss() {
        let (monitors, layer) = Monitors::new().with_layer(Form::Text);
        let monitors: &'static Monitors = Box::leak(Box::new(monitors));
        let tap = monitors.tap(Form::Text).unwrap();
        let reader = |level| {
            tap.change(|wanted| wanted.push(level));
            Reader { tap, level, lines: tap.lines.subscribe() }
        };
        let subscriber = tracing_subscriber::registry().with(layer);
        let _log = tracing::subscriber::set_default(subscriber);
        tracing::error!(target: "waypost_server", "nobody reads yet");
        let (mut warnings, mut all) = (reader(LevelFilter::WARN), reader(LevelFilter::TRACE));
        tracing::debug!(target: "waypost_server", "small");
        tracing::error!(target: "elsewhere", "not ours");
        tracing::warn!(target: "waypost_server", n = 7, "large");
        let text = |line: Option<Result<Bytes, u64>>| String::from_utf8(line.unwrap().unwrap().to_vec()).unwrap();
        let line = text(warnings.next().await);
        assert!(line.contains("WARN") && line.ends_with("large n=7\n"), "{line}");
        assert!(text(all.next().await).contains("small") && text(all.next().await).contains("large"));
        drop(all);
        for n in 0..LINES_KEPT + 3 {
            tracing::warn!(target: "waypost_server", "{}", "x".repeat(n * 100));
        }
        assert_eq!(warnings.next().await.unwrap(), Err(3));
        assert!(warnings.next().await.unwrap().unwrap().len() <= LINE_BYTES_MAX + 1);
        drop(warnings);
        assert_eq!(tap.lines.receiver_count(), 0);
        tracing::error!(target: "waypost_server", "nobody reads any more");
        assert!(tap.wanted.lock().unwrap().is_empty() && tap.lines.is_empty());
    }
}

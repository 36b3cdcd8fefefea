//! Loading of bodies that do not live in memory, off the async workers.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::task::JoinHandle;
use waypost_model::journal::BodyStore;
use waypost_model::{Body, Delivery, Event, Lsn, Reply};

/// How many bytes one trip off the worker fetches, about: the next trip begins while these are written.
const TRIP_BYTES: u64 = 1024 * 1024;

/// Flat cost of a message beside its payload, as the core counts it.
const MESSAGE_COST: u64 = 64;

/// An event whose bodies were looked for.
#[derive(Debug)]
pub(crate) enum Resolved {
    /// Bodies are in memory.
    Ready(Event),
    /// Bodies could not be read.
    Failed(Delivery, io::Error),
}

/// A trip under way. The order of the events is kept.
#[derive(Debug)]
pub(crate) struct Loading {
    task: JoinHandle<VecDeque<Resolved>>,
}

impl Loading {
    /// Takes those events from the front of `events` that need loading, and starts. `None` if the first does not.
    pub(crate) fn start(events: &mut VecDeque<Event>, durable: Lsn, store: &Arc<dyn BodyStore>) -> Option<Loading> {
        let (mut batch, mut bytes) = (Vec::new(), 0u64);
        while bytes < TRIP_BYTES
            && let Some(delivery) = events.front().and_then(|event| absent(event, durable))
        {
            bytes = bytes.saturating_add(delivery.cost);
            batch.extend(events.pop_front());
        }
        if batch.is_empty() {
            return None;
        }
        let store = Arc::clone(store);
        let task = tokio::task::spawn_blocking(move || {
            let mut out = VecDeque::with_capacity(batch.len());
            batch.into_iter().for_each(|event| resolve(event, &*store, &mut out));
            out
        });
        Some(Loading { task })
    }

    /// The events, once they are there.
    ///
    /// # Errors
    /// If the loading code panicked or the runtime is going down.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<VecDeque<Resolved>>> {
        Pin::new(&mut self.task).poll(cx).map_err(io::Error::other)
    }
}

/// The delivery of an event that may go now, if its bytes are not in memory.
fn absent(event: &Event, durable: Lsn) -> Option<&Delivery> {
    let delivery = match event {
        Event::Deliver(delivery) => delivery,
        Event::Reply { reply: Reply::Got { delivery, .. }, after, .. } if after.is_none_or(|lsn| lsn <= durable) => {
            delivery
        }
        _ => return None,
    };
    (!matches!(delivery.body, Body::Mem { .. })).then_some(delivery)
}

fn resolve(event: Event, store: &dyn BodyStore, out: &mut VecDeque<Resolved>) {
    match event {
        Event::Deliver(delivery) => {
            if let Err((rest, error)) =
                load(delivery, store, |part| out.push_back(Resolved::Ready(Event::Deliver(part))))
            {
                out.push_back(Resolved::Failed(rest, error));
            }
        }
        Event::Reply { channel, token, reply: Reply::Got { delivery, no_ack, remaining }, after } => {
            let mut got = None;
            if let Err((rest, error)) = load(delivery, store, |part| got = Some(part)) {
                out.push_back(Resolved::Failed(rest, error));
            }
            if let Some(delivery) = got {
                let reply = Reply::Got { delivery, no_ack, remaining };
                out.push_back(Resolved::Ready(Event::Reply { channel, token, reply, after }));
            }
        }
        other => out.push_back(Resolved::Ready(other)),
    }
}

/// Loads a delivery, in as many parts as the store gives. On failure the part that is missing comes back.
fn load(
    mut rest: Delivery,
    store: &dyn BodyStore,
    mut each: impl FnMut(Delivery),
) -> Result<(), (Delivery, io::Error)> {
    if let Body::Spilled { at, skip } = rest.body {
        match store.load_spilled(at) {
            Ok(batch) if u64::from(skip) + u64::from(rest.count) <= batch.len() as u64 => {
                each(Delivery { body: Body::Mem { batch, from: skip }, ..rest });
                return Ok(());
            }
            Ok(_) => {
                return Err((rest, io::Error::new(io::ErrorKind::InvalidData, "fewer messages than were spilled")));
            }
            Err(error) => return Err((rest, error)),
        }
    }
    while rest.count > 0 {
        let loaded = match store.load(rest.queue, rest.first, rest.count) {
            Ok(loaded) if loaded.from < loaded.to && loaded.to as usize <= loaded.batch.len() => loaded,
            Ok(_) => return Err((rest, io::Error::new(io::ErrorKind::InvalidData, "the store gave no message"))),
            Err(error) => return Err((rest, error)),
        };
        let count = (loaded.to - loaded.from).min(rest.count);
        let payload = loaded.batch.payload_len(loaded.from, loaded.from + count);
        // The last part carries what is left, so that the sum is what the core took.
        let cost = if count == rest.count {
            rest.cost
        } else {
            payload.saturating_add(u64::from(count) * MESSAGE_COST).min(rest.cost)
        };
        each(Delivery { count, cost, body: Body::Mem { batch: loaded.batch, from: loaded.from }, ..rest.clone() });
        rest.count -= count;
        rest.cost -= cost;
        rest.first = rest.first.plus(u64::from(count));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use waypost_model::journal::{Loaded, SpillRef};
    use waypost_model::{Batch, BatchBuilder, ChannelId, ConsumerId, QueueId, Route, Seq};

    /// Gives at most two messages at a time; knows places below 5.
    struct Pairs;

    impl BodyStore for Pairs {
        fn load(&self, _: QueueId, first: Seq, count: u32) -> io::Result<Loaded> {
            if first.0 >= 5 {
                return Err(io::ErrorKind::NotFound.into());
            }
            let mut b = BatchBuilder::default();
            (0..2).for_each(|i| b.push(&[0, 0], format!("m{}", first.0 + i).as_bytes()));
            Ok(Loaded { batch: Arc::new(b.finish()), from: 0, to: count.min(2) })
        }

        fn load_spilled(&self, _: SpillRef) -> io::Result<Arc<Batch>> {
            Ok(Arc::new(Batch::single(&[0, 0], b"spilled")))
        }
    }

    fn delivery(count: u32, body: Body) -> Delivery {
        Delivery {
            channel: ChannelId(1),
            consumer: ConsumerId(1),
            queue: QueueId(1),
            first: Seq(0),
            count,
            route: Arc::new(Route::default()),
            body,
            redelivered: false,
            delivery_count: 0,
            cost: u64::from(count) * 68,
        }
    }

    #[test]
    fn a_delivery_is_split_without_losing_credit() {
        let mut parts = Vec::new();
        load(delivery(5, Body::Stored), &Pairs, |p| parts.push(p)).unwrap();
        assert_eq!(parts.iter().map(|p| (p.first.0, p.count)).collect::<Vec<_>>(), [(0, 2), (2, 2), (4, 1)]);
        assert_eq!(parts.iter().map(|p| p.cost).sum::<u64>(), 5 * 68);
    }

    #[test]
    fn what_is_missing_comes_back_with_its_credit() {
        let mut parts = Vec::new();
        let (rest, error) = load(delivery(8, Body::Stored), &Pairs, |p| parts.push(p)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert_eq!(parts.iter().map(|p| p.cost).sum::<u64>() + rest.cost, 8 * 68);
        assert_eq!((rest.first, rest.count), (Seq(6), 2));
    }

    #[test]
    fn a_short_spill_is_damage() {
        let at = SpillRef { segment: 0, offset: 0, len: 1 };
        let (_, error) = load(delivery(1, Body::Spilled { at, skip: 1 }), &Pairs, |_| ()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert!(load(delivery(1, Body::Spilled { at, skip: 0 }), &Pairs, |_| ()).is_ok());
    }
}

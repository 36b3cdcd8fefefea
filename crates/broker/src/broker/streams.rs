//! What the broker does with queues that are streams: hands everything on to who keeps them.

use std::sync::Arc;

use waypost_model::command::Consume;
use waypost_model::{ChannelId, ConsumerId, Lsn, Millis, QueueId, Refusal};

use super::peer::Connection;
use super::publish::{Run, Verdict};
use super::{Broker, Work};
use crate::settings::{QueueKind, QueueSettings};
use crate::streams::{StreamArguments, StreamConsumer, Streams};

/// Consumers of streams that a channel may have.
const CONSUMERS_MAX: usize = 256;

fn named(settings: &QueueSettings) -> String {
    format!("queue '{}' in vhost '{}'", settings.name, settings.vhost)
}

impl Broker {
    /// Streams are kept by `streams` from now on: to be called once, before the first connection. Queues whose stream is
    /// gone are deleted.
    pub fn keep_streams(&self, streams: Arc<dyn Streams>, now: Millis) {
        let known = self.topology_read().queue_settings();
        let gone: Vec<QueueId> =
            known.iter().filter(|s| s.kind == QueueKind::Stream && !streams.configure(s)).map(|s| s.id).collect();
        // Said once; whoever comes second changes nothing.
        let _ = self.streams.set(streams);
        for stream in gone {
            self.stream_gone(stream, now);
        }
    }

    /// A stream was deleted by another way than its queue: the queue goes too, with its bindings. What must be durable
    /// for that; `None` if no queue was declared for it.
    pub fn stream_gone(&self, stream: QueueId, now: Millis) -> Option<Lsn> {
        self.topology_read().queue(stream)?;
        let mut w = self.work(now);
        let done = self.remove(&mut w, |t| Ok(((), t.delete_queue_by_id(stream))));
        self.carry_out(&mut w);
        done.ok().and_then(|((), lsn)| lsn)
    }

    /// Whether a queue was declared for a stream.
    #[must_use]
    pub fn is_declared(&self, stream: QueueId) -> bool {
        self.topology_read().queue(stream).is_some()
    }

    /// Who keeps streams, if anybody does.
    pub(super) fn streams(&self) -> Option<&dyn Streams> {
        self.streams.get().map(|s| &**s)
    }

    /// Tells them something.
    pub(super) fn with_streams(&self, tell: impl FnOnce(&dyn Streams)) {
        if let Some(streams) = self.streams() {
            tell(streams);
        }
    }

    /// Hands a run to streams.
    pub(super) fn append_to_streams(&self, streams: &[QueueId], run: &Run<'_>, w: &Work<'_>) -> Verdict {
        let incoming = run.incoming(w.now, None);
        let Some(keeper) = self.streams() else { return Verdict::all(run) };
        let said = streams.iter().map(|stream| keeper.append(*stream, &incoming, w.journal));
        said.map(Verdict::from).fold(Verdict::all(run), Verdict::and)
    }

    /// Starts a consumer of a stream. It needs a prefetch of its own and acknowledges: acknowledgements are what moves it
    /// on.
    pub(super) fn consume_stream(
        &self,
        conn: &mut Connection,
        channel: ChannelId,
        token: u32,
        c: &Consume,
        settings: &QueueSettings,
        now: Millis,
    ) -> Result<(), Refusal> {
        let arguments = StreamArguments::parse(&c.arguments, now)?;
        let (id, outbox) = (conn.id(), Arc::clone(&conn.peer.outbox));
        let Some(state) = conn.live(channel) else { return Ok(()) };
        let what = named(settings);
        if state.prefetch == 0 && !state.credit.is_limited() {
            return Err(Refusal::precondition_failed(format!("consumer prefetch count is not set for '{what}'")));
        }
        if c.no_ack {
            let text = format!("automatic acknowledgement not supported by stream queues {what}");
            return Err(Refusal::not_implemented(text));
        }
        if state.credit.is_limited() {
            return Err(Refusal::not_implemented(format!("{what} does not support global qos")));
        }
        if c.exclusive {
            let text = format!("exclusive consumers are not supported by stream queues {what}");
            return Err(Refusal::not_implemented(text).soft());
        }
        if state.streams.len() >= CONSUMERS_MAX {
            let text = format!("a channel has at most {CONSUMERS_MAX} consumers of streams");
            return Err(Refusal::precondition_failed(text));
        }
        let consumer = StreamConsumer {
            stream: settings.id,
            conn: id,
            channel,
            tag: c.tag.clone(),
            outbox,
            token,
            prefetch: u32::from(state.prefetch),
            window_bytes: c.window_bytes,
            arguments,
        };
        let keeper = self.streams().ok_or_else(|| Refusal::not_found(format!("no {what}")))?;
        state.streams.push(keeper.consume(consumer)?);
        self.note_channels(conn);
        Ok(())
    }

    /// Ends consumers of streams.
    pub(super) fn cancel_streams(&self, consumers: &[ConsumerId]) {
        if let Some(keeper) = self.streams() {
            consumers.iter().for_each(|c| keeper.cancel(*c));
        }
    }
}

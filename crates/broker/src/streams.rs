//! Streams as the broker sees them: queues of type `stream`, which somebody else keeps. To the router such a queue is one
//! more target; to clients it is a queue that is read without taking anything away.
//!
//! The keeper is asked while the topology is held, and asks nothing of the broker then.

use std::sync::Arc;

use waypost_model::journal::Journal;
use waypost_model::table::{Table, Value};
use waypost_model::{ChannelId, ConnId, ConsumerId, Millis, Outbox, QueueId, Refusal};

use crate::settings::QueueSettings;
use crate::shard::{Enqueued, Incoming, QueueInfo};
use crate::topology::age_ms;

/// What a declaration asks of a new stream.
#[derive(Debug, Clone, Copy)]
pub struct StreamSpec<'a> {
    /// The vhost.
    pub vhost: &'a str,
    /// The name.
    pub name: &'a str,
    /// `x-max-age`, ms.
    pub max_age_ms: Option<u64>,
    /// `x-max-length-bytes`.
    pub max_length_bytes: Option<u64>,
    /// `x-stream-max-segment-size-bytes`.
    pub segment_bytes: Option<u64>,
}

/// Who keeps streams.
pub trait Streams: Send + Sync + 'static {
    /// Makes a stream, or finds the one of that name. Its id is that of its first partition.
    ///
    /// # Errors
    /// 406: it is no name for one, there is one that is different, or there are too many.
    fn open(&self, spec: &StreamSpec<'_>) -> Result<QueueId, Refusal>;

    /// Policies say something of a stream: what its settings have of age and bytes limits it beside its own
    /// configuration. False if there is no such stream.
    fn configure(&self, settings: &QueueSettings) -> bool;

    /// A stream is deleted, if it is still there; its consumers are told.
    fn delete(&self, stream: QueueId);

    /// A vhost is gone, with all its streams.
    fn delete_vhost(&self, vhost: &str);

    /// Appends messages. `journal` is where to, which need not be the keeper's own: parts of a transaction go together.
    fn append(&self, stream: QueueId, run: &Incoming, journal: &dyn Journal) -> Enqueued;

    /// Starts a consumer and answers its call, before any of its deliveries.
    ///
    /// # Errors
    /// 404 (the stream is gone), 406.
    fn consume(&self, consumer: StreamConsumer) -> Result<ConsumerId, Refusal>;

    /// A consumer has settled so many messages, one way or the other: all of them give credit.
    fn settled(&self, consumer: ConsumerId, messages: u32);

    /// So many bytes have left for a consumer's socket.
    fn sent(&self, consumer: ConsumerId, bytes: u64);

    /// A consumer gets nothing more.
    fn cancel(&self, consumer: ConsumerId);

    /// How a stream stands.
    fn info(&self, stream: QueueId) -> Option<QueueInfo>;
}

/// What it takes to read a stream.
#[derive(Debug)]
pub struct StreamConsumer {
    /// Which.
    pub stream: QueueId,
    /// Of which connection.
    pub conn: ConnId,
    /// Of which channel.
    pub channel: ChannelId,
    /// Its tag.
    pub tag: Box<str>,
    /// Where its deliveries go.
    pub outbox: Arc<Outbox>,
    /// The token of the call, for the reply.
    pub token: u32,
    /// Unsettled messages at most.
    pub prefetch: u32,
    /// Byte credit.
    pub window_bytes: u64,
    /// Where and what it reads.
    pub arguments: StreamArguments,
}

/// Where a consumer begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StreamOffset {
    /// At the first record that is there.
    First,
    /// At the beginning of the last batch.
    Last,
    /// Behind the last record.
    #[default]
    Next,
    /// At this offset, or the first behind it.
    At(u64),
    /// At the first record of this time or later.
    Since(Millis),
}

/// What consumers of streams ask for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StreamArguments {
    /// `x-stream-offset`.
    pub offset: StreamOffset,
    /// `x-stream-filter`: only messages with one of these as `x-stream-filter-value`.
    pub filter: Option<Vec<Box<[u8]>>>,
    /// `x-stream-match-unfiltered`: and those without any.
    pub match_unfiltered: bool,
}

/// Most values of a filter.
const FILTER_VALUES_MAX: usize = 256;

impl StreamArguments {
    /// Reads the arguments of a consume; `now` is what intervals count back from.
    ///
    /// # Errors
    /// 406 if a value is not what it should be, 540 for what we do not do.
    pub fn parse(arguments: &Table, now: Millis) -> Result<StreamArguments, Refusal> {
        let mut parsed = StreamArguments::default();
        let invalid = |key: &str| Refusal::precondition_failed(format!("invalid arg '{key}' of a stream's consumer"));
        for (key, value) in arguments.iter() {
            match key {
                "x-stream-offset" => parsed.offset = offset_of(value, now).ok_or_else(|| invalid(key))?,
                "x-stream-filter" => parsed.filter = Some(filter_of(value).ok_or_else(|| invalid(key))?),
                "x-stream-match-unfiltered" => {
                    parsed.match_unfiltered = value.as_bool().ok_or_else(|| invalid(key))?;
                }
                key if key.starts_with("x-") => {
                    return Err(Refusal::not_implemented(format!(
                        "consumer argument '{key}' is not supported by stream queues"
                    ))
                    .soft());
                }
                _ => {}
            }
        }
        Ok(parsed)
    }
}

fn offset_of(value: &Value, now: Millis) -> Option<StreamOffset> {
    if let Value::Timestamp(seconds) = value {
        return Some(StreamOffset::Since(Millis(seconds.checked_mul(1000)?)));
    }
    if let Some(n) = value.as_i64() {
        return u64::try_from(n).ok().map(StreamOffset::At);
    }
    Some(match value.as_str()? {
        "first" => StreamOffset::First,
        "last" => StreamOffset::Last,
        "next" => StreamOffset::Next,
        interval => StreamOffset::Since(Millis(now.0.saturating_sub(age_ms(interval)?))),
    })
}

fn filter_of(value: &Value) -> Option<Vec<Box<[u8]>>> {
    let text = |value: &Value| match value {
        Value::LongStr(text) => Some(Box::from(&text[..])),
        _ => None,
    };
    match value {
        Value::Array(all) if all.len() <= FILTER_VALUES_MAX => all.iter().map(text).collect(),
        one => text(one).map(|one| vec![one]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(value: impl Into<Value>) -> Result<StreamOffset, Refusal> {
        let table = Table::new().with("x-stream-offset", value);
        StreamArguments::parse(&table, Millis(100_000_000)).map(|a| a.offset)
    }

    #[test]
    fn where_a_consumer_begins() {
        let text = |t: &str| parsed(Value::LongStr(t.as_bytes().to_vec()));
        assert_eq!(StreamArguments::parse(&Table::new(), Millis(0)).unwrap().offset, StreamOffset::Next);
        assert_eq!(text("first"), Ok(StreamOffset::First));
        assert_eq!(text("last"), Ok(StreamOffset::Last));
        assert_eq!(text("next"), Ok(StreamOffset::Next));
        assert_eq!(text("1h"), Ok(StreamOffset::Since(Millis(96_400_000))));
        assert_eq!(text("7D"), Ok(StreamOffset::Since(Millis(0))));
        assert_eq!(parsed(Value::I32(5)), Ok(StreamOffset::At(5)));
        assert_eq!(parsed(Value::Timestamp(3)), Ok(StreamOffset::Since(Millis(3000))));
        for wrong in [Value::I32(-1), Value::Bool(true), Value::Timestamp(u64::MAX)] {
            assert!(parsed(wrong).is_err());
        }
        for wrong in ["", "h", "1x", "1 h", "-1h", "99999999999999999999Y", "9999999999999999Y"] {
            assert!(text(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_not_done_is_refused() {
        let refusal = StreamArguments::parse(&Table::new().with("x-priority", Value::I32(1)), Millis(0)).unwrap_err();
        assert_eq!((refusal.kind, refusal.hard), (waypost_model::RefusalKind::NotImplemented, false));
    }
}

//! Queues that are streams: which properties go with the type, and what is for the topology to keep.

use waypost_model::command::QueueDeclare;
use waypost_model::{QueueId, Refusal};

use super::arguments::QueueArguments;
use super::policy::PolicyValues;
use super::queue::Declared;
use crate::settings::{Overflow, QueueKind, QueueSettings};
use crate::streams::{StreamSpec, Streams};

/// Whether the type goes with these properties.
pub(super) fn check_properties(d: &QueueDeclare, kind: QueueKind, what: &str) -> Result<(), Refusal> {
    let wrong = match kind {
        QueueKind::Classic => None,
        _ if d.exclusive => Some("exclusive-owner"),
        _ if !d.durable => Some("non-durable"),
        QueueKind::Stream if d.auto_delete => Some("auto-delete"),
        QueueKind::Quorum | QueueKind::Stream => None,
    };
    match wrong {
        Some(property) => Err(Refusal::precondition_failed(format!("invalid property '{property}' for {what}"))),
        None => Ok(()),
    }
}

/// The stream of a declaration: the one that is there, or a new one.
///
/// # Errors
/// 406.
pub(super) fn open_stream(
    streams: Option<&dyn Streams>,
    vhost: &str,
    name: &str,
    parsed: &QueueArguments,
    what: &str,
) -> Result<QueueId, Refusal> {
    let unsupported = || {
        let text = format!("invalid arg 'x-queue-type' for {what}: \"this server keeps no streams\"");
        Refusal::precondition_failed(text)
    };
    let streams = streams.ok_or_else(unsupported)?;
    streams.open(&StreamSpec {
        vhost,
        name,
        max_age_ms: parsed.max_age_ms,
        max_length_bytes: parsed.max_length_bytes,
        segment_bytes: parsed.segment_bytes,
    })
}

/// The same for a stream. What its arguments say is the configuration of its topic; only policies are for us to keep.
pub(super) fn stream_settings(d: Declared, p: &PolicyValues) -> QueueSettings {
    QueueSettings {
        id: d.id,
        vhost: d.vhost,
        name: d.name,
        durable: true,
        exclusive: None,
        auto_delete: false,
        kind: QueueKind::Stream,
        message_ttl_ms: None,
        expires_ms: None,
        max_length: None,
        max_length_bytes: p.max_length_bytes,
        max_age_ms: p.max_age_ms,
        overflow: Overflow::DropHead,
        dead_letter: None,
        max_priority: None,
        single_active_consumer: false,
        delivery_limit: None,
        consumer_timeout_ms: None,
        delay_of: None,
        service: None,
        implicit: false,
    }
}

//! Arguments of queues: which there are, what they may say, and when two declarations say the same.

use std::sync::Arc;

use waypost_model::Refusal;
use waypost_model::service::is_service_name;
use waypost_model::table::{Table, Value};

use super::binding::{type_name, value_text};
use crate::settings::{Overflow, QueueKind};

/// Times to live and expiries may not be longer: ten years, ms.
const EXPIRY_MS_MAX: i64 = 315_360_000_000;

/// What a queue's arguments ask for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct QueueArguments {
    pub message_ttl_ms: Option<u64>,
    pub expires_ms: Option<u64>,
    pub max_length: Option<u64>,
    pub max_length_bytes: Option<u64>,
    pub overflow: Option<Overflow>,
    pub dead_letter_exchange: Option<Arc<str>>,
    pub dead_letter_routing_key: Option<Arc<[u8]>>,
    pub max_priority: Option<u8>,
    pub single_active_consumer: bool,
    pub delivery_limit: Option<i64>,
    pub consumer_timeout_ms: Option<u64>,
    pub service: Option<Arc<str>>,
    pub max_age_ms: Option<u64>,
    pub segment_bytes: Option<u64>,
}

/// What an argument may be.
#[derive(Clone, Copy)]
enum Rule {
    NonNegative,
    Positive,
    Integer,
    Ttl,
    Expires,
    Priority,
    Bool,
    Text,
    NonEmptyText,
    OneOf(&'static [&'static str], &'static str),
    DeadLetterKey,
    Version,
    QueueType,
    Service,
    Age,
}

/// The argument that names the service whose mailbox a queue is to be.
pub(crate) const SERVICE: &str = "x-service";

const OVERFLOWS: [&str; 3] = ["drop-head", "reject-publish", "reject-publish-dlx"];
const LOCATORS: [&str; 4] = ["client-local", "balanced", "random", "least-leaders"];
const STRATEGIES: [&str; 2] = ["at-most-once", "at-least-once"];

/// Every argument that means something to us. The second group concerns where and how a cluster keeps a queue: a server
/// of one node satisfies it whatever it says.
const KNOWN: [(&str, Rule); 28] = [
    ("x-queue-type", Rule::QueueType),
    ("x-message-ttl", Rule::Ttl),
    ("x-expires", Rule::Expires),
    ("x-max-length", Rule::NonNegative),
    ("x-max-length-bytes", Rule::NonNegative),
    ("x-overflow", Rule::OneOf(&OVERFLOWS, "invalid_overflow")),
    ("x-dead-letter-exchange", Rule::Text),
    ("x-dead-letter-routing-key", Rule::DeadLetterKey),
    ("x-dead-letter-strategy", Rule::OneOf(&STRATEGIES, "invalid_dlx_strategy")),
    ("x-max-priority", Rule::Priority),
    ("x-single-active-consumer", Rule::Bool),
    ("x-delivery-limit", Rule::Integer),
    ("x-consumer-timeout", Rule::NonNegative),
    ("x-consumer-disconnected-timeout", Rule::NonNegative),
    (SERVICE, Rule::Service),
    ("x-queue-mode", Rule::OneOf(&["default", "lazy"], "invalid_queue_mode")),
    ("x-queue-version", Rule::Version),
    ("x-queue-leader-locator", Rule::OneOf(&LOCATORS, "invalid_queue_locator_arg")),
    ("x-queue-master-locator", Rule::Text),
    ("x-quorum-initial-group-size", Rule::Positive),
    ("x-quorum-target-group-size", Rule::Positive),
    ("x-initial-cluster-size", Rule::Positive),
    ("x-member-placement-tag", Rule::NonEmptyText),
    ("x-max-in-memory-length", Rule::NonNegative),
    ("x-max-in-memory-bytes", Rule::NonNegative),
    ("x-max-age", Rule::Age),
    ("x-stream-max-segment-size-bytes", Rule::NonNegative),
    ("x-stream-filter-size-bytes", Rule::NonNegative),
];

/// What only streams have.
const OF_STREAMS_ONLY: [&str; 3] = ["x-max-age", "x-stream-max-segment-size-bytes", "x-stream-filter-size-bytes"];

/// What streams have of the others.
const OF_STREAMS_TOO: [&str; 4] =
    ["x-queue-type", "x-max-length-bytes", "x-queue-leader-locator", "x-initial-cluster-size"];

/// Whether a queue of this type may have these arguments, which passed [`QueueArguments::parse`].
///
/// # Errors
/// 406.
pub(crate) fn check_kind(arguments: &Table, kind: QueueKind, queue: &str) -> Result<(), Refusal> {
    let stream = kind == QueueKind::Stream;
    let strange = |key: &str| match OF_STREAMS_ONLY.contains(&key) {
        true => !stream,
        false => stream && key.starts_with("x-") && !OF_STREAMS_TOO.contains(&key),
    };
    match arguments.iter().find(|(key, _)| strange(key)) {
        None => Ok(()),
        Some((key, _)) => {
            let text = format!("invalid arg '{key}' for {queue} of queue type {}", kind_name(kind));
            Err(Refusal::precondition_failed(text))
        }
    }
}

/// A time as streams are told it: a number and `Y`, `M`, `D`, `h`, `m` or `s`. Milliseconds.
#[must_use]
pub fn age_ms(text: &str) -> Option<u64> {
    const SECOND: u64 = 1000;
    const DAY: u64 = 86_400 * SECOND;
    let (unit_at, unit) = text.char_indices().next_back()?;
    let unit_ms = match unit {
        'Y' => 365 * DAY,
        'M' => 30 * DAY,
        'D' => DAY,
        'h' => 3600 * SECOND,
        'm' => 60 * SECOND,
        's' => SECOND,
        _ => return None,
    };
    let digits = text.get(..unit_at).filter(|d| !d.is_empty() && d.bytes().all(|b| b.is_ascii_digit()))?;
    digits.parse::<u64>().ok()?.checked_mul(unit_ms)
}

impl QueueArguments {
    /// Reads the arguments of a declaration. `queue` is how messages name the queue.
    ///
    /// # Errors
    /// 406: an argument has the wrong type or value, or begins with `x-` and is none of ours. Other names are kept for
    /// whoever reads listings.
    pub fn parse(arguments: &Table, queue: &str) -> Result<QueueArguments, Refusal> {
        for (key, value) in arguments.iter() {
            let reason = match KNOWN.iter().find(|(k, _)| *k == key) {
                Some((_, rule)) => rule.violation(value, arguments),
                None if key.starts_with("x-") => Some("\"this server does not have it\"".to_owned()),
                None => None,
            };
            if let Some(reason) = reason {
                return Err(Refusal::precondition_failed(format!("invalid arg '{key}' for {queue}: {reason}")));
            }
        }
        Ok(QueueArguments::read(arguments))
    }

    /// Reads arguments that passed [`QueueArguments::parse`] before.
    pub fn read(arguments: &Table) -> QueueArguments {
        if arguments.is_empty() {
            return QueueArguments::default();
        }
        let number = |key: &str| arguments.get(key).and_then(Value::as_i64).and_then(|n| u64::try_from(n).ok());
        let text = |key: &str| arguments.get(key).and_then(Value::as_str);
        QueueArguments {
            message_ttl_ms: number("x-message-ttl"),
            expires_ms: number("x-expires"),
            max_length: number("x-max-length"),
            max_length_bytes: number("x-max-length-bytes"),
            overflow: text("x-overflow").and_then(parse_overflow),
            dead_letter_exchange: text("x-dead-letter-exchange").map(Arc::from),
            dead_letter_routing_key: match arguments.get("x-dead-letter-routing-key") {
                Some(Value::LongStr(key)) => Some(Arc::from(&key[..])),
                _ => None,
            },
            // As RabbitMQ: whoever asks for priorities gets at least one above 0.
            max_priority: number("x-max-priority").and_then(|n| u8::try_from(n).ok()).map(|n| n.max(1)),
            single_active_consumer: arguments.get("x-single-active-consumer").and_then(Value::as_bool) == Some(true),
            delivery_limit: arguments.get("x-delivery-limit").and_then(Value::as_i64),
            consumer_timeout_ms: number("x-consumer-timeout"),
            service: text(SERVICE).map(Arc::from),
            max_age_ms: text("x-max-age").and_then(age_ms),
            segment_bytes: number("x-stream-max-segment-size-bytes"),
        }
    }
}

impl Rule {
    /// Why the value is not one of these, as RabbitMQ prints it.
    fn violation(self, value: &Value, all: &Table) -> Option<String> {
        match self {
            Rule::Integer => integer(value).err(),
            Rule::NonNegative => non_negative(value).err(),
            Rule::Positive => match non_negative(value) {
                Ok(0) => Some("{value_zero,0}".into()),
                other => other.err(),
            },
            Rule::Ttl => expiry(value).err(),
            Rule::Expires => match integer(value) {
                Ok(0) => Some("{value_zero,0}".into()),
                _ => expiry(value).err(),
            },
            Rule::Priority => match non_negative(value) {
                Ok(n) if n > 255 => Some(format!("{{max_value_exceeded,{n}}}")),
                other => other.err(),
            },
            Rule::Bool => value.as_bool().is_none().then(|| unacceptable(value)),
            Rule::Text => text(value).err(),
            Rule::NonEmptyText => match text(value) {
                Ok("") => Some("invalid_member_placement_tag_arg".into()),
                other => other.err(),
            },
            Rule::OneOf(options, otherwise) => match text(value) {
                Ok(t) if options.contains(&t) => None,
                Ok(_) => Some(otherwise.into()),
                Err(e) => Some(e),
            },
            Rule::DeadLetterKey => match value {
                Value::LongStr(_) if all.get("x-dead-letter-exchange").is_some() => None,
                Value::LongStr(_) => Some("routing_key_but_no_dlx_defined".into()),
                other => Some(unacceptable(other)),
            },
            Rule::Version => match non_negative(value) {
                Ok(1 | 2) => None,
                Ok(n) => Some(format!("\"unsupported queue version '{n}'\"")),
                Err(e) => Some(e),
            },
            Rule::Service => match text(value) {
                Ok(t) if is_service_name(t) => None,
                Ok(t) => Some(format!("\"'{t}' is no service name\"")),
                Err(e) => Some(e),
            },
            Rule::Age => match text(value) {
                Ok(t) if age_ms(t).is_some() => None,
                Ok(_) => Some("invalid_max_age".into()),
                Err(e) => Some(e),
            },
            Rule::QueueType => match text(value) {
                Ok(t) if parse_kind(t).is_some() => None,
                Ok(t) => Some(format!("\"unsupported queue type '{t}'\"")),
                Err(e) => Some(e),
            },
        }
    }
}

fn unacceptable(value: &Value) -> String {
    format!("{{unacceptable_type,{}}}", type_name(value))
}

fn integer(value: &Value) -> Result<i64, String> {
    value.as_i64().ok_or_else(|| format!("\"expected integer, got {}\"", type_name(value)))
}

fn non_negative(value: &Value) -> Result<i64, String> {
    match integer(value)? {
        n @ 0.. => Ok(n),
        n => Err(format!("{{value_negative,{n}}}")),
    }
}

fn expiry(value: &Value) -> Result<i64, String> {
    match non_negative(value)? {
        n if n > EXPIRY_MS_MAX => Err(format!("{{value_too_large,{n}}}")),
        n => Ok(n),
    }
}

fn text(value: &Value) -> Result<&str, String> {
    value.as_str().ok_or_else(|| unacceptable(value))
}

pub(crate) fn parse_overflow(text: &str) -> Option<Overflow> {
    match text {
        "drop-head" => Some(Overflow::DropHead),
        "reject-publish" => Some(Overflow::RejectPublish),
        "reject-publish-dlx" => Some(Overflow::RejectPublishDlx),
        _ => None,
    }
}

/// The type of a name.
#[must_use]
pub fn parse_kind(text: &str) -> Option<QueueKind> {
    match text {
        "classic" => Some(QueueKind::Classic),
        "quorum" => Some(QueueKind::Quorum),
        "stream" => Some(QueueKind::Stream),
        _ => None,
    }
}

/// The name of a type.
#[must_use]
pub const fn kind_name(kind: QueueKind) -> &'static str {
    match kind {
        QueueKind::Classic => "classic",
        QueueKind::Quorum => "quorum",
        QueueKind::Stream => "stream",
    }
}

/// The type that a declaration asks for.
pub(crate) fn kind(arguments: &Table, default: QueueKind) -> QueueKind {
    arguments.get("x-queue-type").and_then(Value::as_str).and_then(parse_kind).unwrap_or(default)
}

/// Whether a queue's arguments are those of a new declaration, the type left to the caller. Only ours are compared.
///
/// # Errors
/// 406.
pub(crate) fn assert_queue_arguments(current: &Table, asked: &Table, queue: &str) -> Result<(), Refusal> {
    if current.is_empty() && asked.is_empty() {
        return Ok(());
    }
    let keys = KNOWN.iter().map(|(k, _)| *k).filter(|k| *k != "x-queue-type");
    keys.into_iter().try_for_each(|key| assert_argument(current, asked, key, queue))
}

/// Whether one argument is the same in both tables.
///
/// # Errors
/// 406.
pub(crate) fn assert_argument(current: &Table, asked: &Table, key: &str, what: &str) -> Result<(), Refusal> {
    match (current.get(key), asked.get(key)) {
        (None, None) => Ok(()),
        (Some(a), Some(b)) if a.equivalent(b) => Ok(()),
        (Some(a), Some(b)) => {
            Err(inequivalent(key, what, &format!("'{}'", value_text(b)), &format!("'{}'", value_text(a))))
        }
        (a, b) => Err(inequivalent(key, what, &described(b), &described(a))),
    }
}

/// Whether a property is the same.
///
/// # Errors
/// 406.
pub(crate) fn assert_field<T: PartialEq + std::fmt::Display>(
    current: T,
    asked: T,
    key: &str,
    what: &str,
) -> Result<(), Refusal> {
    if current == asked {
        return Ok(());
    }
    Err(inequivalent(key, what, &format!("'{asked}'"), &format!("'{current}'")))
}

fn described(value: Option<&Value>) -> String {
    match value {
        None => "none".into(),
        Some(v) => format!("the value '{}' of type '{}'", value_text(v), type_name(v)),
    }
}

fn inequivalent(key: &str, what: &str, asked: &str, current: &str) -> Refusal {
    Refusal::precondition_failed(format!(
        "inequivalent arg '{key}' for {what}: received {asked} but current is {current}"
    ))
}

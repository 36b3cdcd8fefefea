//! Delayed message exchanges: what has a header `x-delay` waits that many milliseconds in a hidden queue of the exchange
//! before it is routed as the exchange's `x-delayed-type` says.

use waypost_model::Refusal;
use waypost_model::table::{Table, Value};

use super::ExchangeKind;

/// The type's name.
pub(crate) const NAME: &str = "x-delayed-message";
/// The exchange argument with the type to route by.
pub(crate) const TYPE_ARGUMENT: &str = "x-delayed-type";
const HEADER: &str = "x-delay";

/// The type that decides once a message is due.
///
/// # Errors
/// 406.
pub(crate) fn inner(arguments: &Table) -> Result<ExchangeKind, Refusal> {
    let named = arguments.get(TYPE_ARGUMENT).and_then(Value::as_str);
    named.and_then(ExchangeKind::parse).filter(|k| *k != ExchangeKind::Service).ok_or_else(|| {
        Refusal::precondition_failed(format!("Invalid argument, '{TYPE_ARGUMENT}' must be an existing exchange type"))
    })
}

/// How long a message is to wait, ms; `None`: not at all. Digits in a text count as an integer, as with RabbitMQ's
/// plugin; anything else that is no positive integer does not delay. What is longer than 2^32 - 1 ms (49 days) waits
/// that long.
pub(crate) fn delay_ms(headers: Option<&Table>) -> Option<u32> {
    let value = headers?.get(HEADER)?;
    let ms = match value {
        Value::LongStr(_) => value.as_str()?.trim().parse::<i64>().ok()?,
        other => other.as_i64()?,
    };
    (ms > 0).then(|| u32::try_from(ms).unwrap_or(u32::MAX))
}

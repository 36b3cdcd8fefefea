//! Messages as local clients make them.

use bytes::Bytes;
use waypost_model::props::PropsOwned;
use waypost_model::{AttrFlags, Attrs, Refusal};

/// A message to publish.
#[derive(Debug, Clone, Default)]
pub(crate) struct Message {
    /// Its properties.
    pub props: PropsOwned,
    /// Its body.
    pub body: Bytes,
}

/// What routing and queues want to know of a message's properties.
///
/// # Errors
/// 406 for an expiration that is no number of milliseconds.
pub(crate) fn attrs(props: &PropsOwned) -> Result<Attrs, Refusal> {
    let mut attrs = Attrs { priority: props.priority.unwrap_or(0), ..Attrs::default() };
    if props.delivery_mode == Some(waypost_model::props::DELIVERY_MODE_PERSISTENT) {
        attrs.flags = attrs.flags.with(AttrFlags::PERSISTENT);
    }
    if let Some(expiration) = &props.expiration {
        let digits = expiration.as_str().filter(|t| !t.is_empty() && t.bytes().all(|b| b.is_ascii_digit()));
        let ms = digits.and_then(|t| t.parse().ok());
        let wrong = || Refusal::precondition_failed(format!("invalid expiration '{}'", expiration.escape_ascii()));
        attrs.expiration = Some(ms.ok_or_else(wrong)?);
    }
    if let Some(headers) = &props.headers {
        attrs.flags = attrs.flags.with(AttrFlags::HEADERS);
        if headers.iter().any(|(key, _)| key == "CC" || key == "BCC") {
            attrs.flags = attrs.flags.with(AttrFlags::SENDER_SELECTED);
        }
    }
    Ok(attrs)
}

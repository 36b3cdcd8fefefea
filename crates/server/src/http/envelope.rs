//! Messages as HTTP has them: properties as headers, both ways. docs/http-api.md has the table.
//!
//! Values are percent-encoded where they have control characters, `%`, or what is no ASCII (as CloudEvents' binding does,
//! HTTP protocol binding §3.1.3.2); names of headers also where HTTP does not allow a character. HTTP does not mind
//! the case of names and this server writes them in lower case: the one thing that is lost on the way.

use std::fmt::Write as _;

use hyper::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use waypost_model::date::rfc3339;
use waypost_model::props::{DELIVERY_MODE_PERSISTENT, Props, PropsOwned, ShortStr};
use waypost_model::table::{Table, Value};

/// Before the name of each entry of the header table.
const ENTRY: &str = "waypost-header-";

/// Entries of the header table that HTTP has headers of the same name for (W3C trace context and baggage).
const SAME: [&str; 3] = ["traceparent", "tracestate", "baggage"];

/// Before CloudEvents' attributes, over HTTP.
const CE_HTTP: &str = "ce-";

/// Before CloudEvents' attributes in the header table. Both are read (AMQP binding §3.1.3.1), the first is written.
const CE_ENTRY: [&str; 2] = ["cloudEvents_", "cloudEvents:"];

/// Headers of a message together; what does not fit is left out, and counted in `waypost-headers-omitted`.
const BYTES_MAX: usize = 24 * 1024;

/// A header table from headers has at most so many entries.
const ENTRIES_MAX: usize = 128;

/// The absolute time after which an answer is of no use, in the header table: milliseconds since the Unix epoch.
pub(crate) const DEADLINE: &str = "x-deadline";

/// The time after which nobody wants the message handled any more, ms since the Unix epoch.
pub(crate) fn deadline_of(headers: Option<&Table>) -> Option<u64> {
    let value = headers?.get(DEADLINE)?;
    value.as_i64().and_then(|ms| u64::try_from(ms).ok()).or_else(|| value.as_str()?.parse().ok())
}

/// Collects headers within bounds.
#[derive(Debug, Default)]
pub(crate) struct Envelope {
    headers: HeaderMap,
    bytes: usize,
    omitted: usize,
}

impl Envelope {
    /// Adds a header with an encoded value.
    pub(crate) fn add(&mut self, name: &str, value: &[u8]) {
        let encoded = encode(value, |b| (b' '..=b'~').contains(&b) && b != b'%');
        let bytes = name.len() + encoded.len() + 4;
        let pair = HeaderName::try_from(name).ok().zip(HeaderValue::try_from(encoded).ok());
        match pair {
            Some((name, value)) if self.bytes + bytes <= BYTES_MAX => {
                self.bytes += bytes;
                self.headers.append(name, value);
            }
            _ => self.omitted += 1,
        }
    }

    /// Adds a header if there is a value.
    pub(crate) fn add_some(&mut self, name: &str, value: Option<&[u8]>) {
        if let Some(value) = value {
            self.add(name, value);
        }
    }

    /// Adds the properties of a message by our names.
    pub(crate) fn message(&mut self, props: Props<'_>) {
        self.content(props);
        for (name, value) in [
            ("waypost-correlation-id", props.correlation_id()),
            ("waypost-reply-to", props.reply_to()),
            ("waypost-message-id", props.message_id()),
            ("waypost-type", props.type_()),
            ("waypost-app-id", props.app_id()),
            ("waypost-user-id", props.user_id()),
            ("waypost-expiration", props.expiration()),
        ] {
            self.add_some(name, value);
        }
        self.number("waypost-priority", props.priority().map(u64::from));
        self.number("waypost-timestamp", props.timestamp());
        if let Ok(Some(table)) = props.headers() {
            self.number("waypost-deadline", deadline_of(Some(&table)));
            table.iter().for_each(|(key, value)| self.entry(key, value));
        }
    }

    /// Adds the properties of a message as CloudEvents' attributes (binary mode). A message that is an event already keeps
    /// its attributes; others get those that an event must have from `source` and `id`.
    pub(crate) fn event(&mut self, props: Props<'_>, source: &str, subject: &[u8], id: &str) {
        self.content(props);
        let table = props.headers().ok().flatten().unwrap_or_default();
        let is_event = table.iter().any(|(key, _)| ce_attribute(key) == Some("specversion"));
        if !is_event {
            self.add("ce-specversion", b"1.0");
            self.add("ce-id", props.message_id().unwrap_or(id.as_bytes()));
            self.add("ce-source", source.as_bytes());
            self.add("ce-type", props.type_().unwrap_or(b"waypost.message"));
            self.add("ce-subject", subject);
            let time = props.timestamp().and_then(rfc3339);
            self.add_some("ce-time", time.as_deref().map(str::as_bytes));
        }
        for (name, value) in [
            ("ce-correlationid", props.correlation_id()),
            ("ce-replyto", props.reply_to()),
            ("ce-appid", props.app_id()),
            ("ce-userid", props.user_id()),
        ] {
            self.add_some(name, value);
        }
        self.number("ce-priority", props.priority().map(u64::from));
        self.number("ce-deadline", deadline_of(Some(&table)));
        table.iter().for_each(|(key, value)| self.entry(key, value));
    }

    /// Adds a number if there is one.
    pub(crate) fn number(&mut self, name: &str, value: Option<u64>) {
        if let Some(value) = value {
            self.add(name, value.to_string().as_bytes());
        }
    }

    fn content(&mut self, props: Props<'_>) {
        self.add_some("content-type", props.content_type());
        self.add_some("content-encoding", props.content_encoding());
    }

    fn entry(&mut self, key: &str, value: &Value) {
        // Told by a name of its own.
        if key == DEADLINE {
            return;
        }
        let name = match ce_attribute(key) {
            Some(attribute) => format!("{CE_HTTP}{}", encode(attribute.as_bytes(), is_name)),
            None if SAME.contains(&key) => key.to_owned(),
            None => format!("{ENTRY}{}", encode(key.as_bytes(), is_name)),
        };
        match value {
            Value::LongStr(bytes) | Value::Bytes(bytes) => self.add(&name, bytes),
            other => match super::json::from_value(other) {
                serde_json::Value::String(text) => self.add(&name, text.as_bytes()),
                json => self.add(&name, json.to_string().as_bytes()),
            },
        }
    }

    /// The headers.
    pub(crate) fn finish(mut self) -> HeaderMap {
        if self.omitted > 0 {
            self.headers.insert("waypost-headers-omitted", HeaderValue::from(self.omitted));
        }
        self.headers
    }
}

fn ce_attribute(key: &str) -> Option<&str> {
    CE_ENTRY.into_iter().find_map(|prefix| key.strip_prefix(prefix))
}

/// What HTTP allows in names (RFC 9110 §5.6.2), but for capital letters, which it does not tell from small ones, and `%`.
fn is_name(b: u8) -> bool {
    b.is_ascii_lowercase() || b.is_ascii_uppercase() || b.is_ascii_digit() || b"!#$&'*+-.^_`|~".contains(&b)
}

fn encode(bytes: &[u8], plain: impl Fn(u8) -> bool) -> String {
    let mut out = String::with_capacity(bytes.len());
    for &b in bytes {
        if plain(b) {
            out.push(char::from(b));
        } else {
            // A string takes everything.
            let _ = write!(out, "%{b:02X}");
        }
    }
    out
}

/// Undoes [`encode`]; a `%` that begins no code stands for itself.
fn decode(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&b, after)) = rest.split_first() {
        let code = (b == b'%').then(|| after.first_chunk::<2>()).flatten();
        let digit = |b: u8| char::from(b).to_digit(16).and_then(|d| u8::try_from(d).ok());
        match code.and_then(|[h, l]| Some(digit(*h)? * 16 + digit(*l)?)) {
            Some(byte) => {
                out.push(byte);
                rest = &after[2..];
            }
            None => {
                out.push(b);
                rest = after;
            }
        }
    }
    out
}

/// The properties that the headers of a request or an answer give its body as a message.
///
/// # Errors
/// Which header is wrong.
pub(crate) fn properties(headers: &HeaderMap) -> Result<PropsOwned, String> {
    let short = |name: &str| -> Result<Option<ShortStr>, String> {
        let Some(value) = headers.get(name) else { return Ok(None) };
        ShortStr::new(decode(value.as_bytes())).map(Some).ok_or_else(|| format!("`{name}` has more than 255 bytes"))
    };
    let number = |name: &str| -> Result<Option<u64>, String> {
        let Some(value) = headers.get(name) else { return Ok(None) };
        let parsed = value.to_str().ok().and_then(|text| text.trim().parse().ok());
        parsed.map(Some).ok_or_else(|| format!("`{name}` must be a whole number"))
    };
    let priority = number("waypost-priority")?.map(u8::try_from).transpose();
    let expiration = number("waypost-expiration")?.map(u32::try_from).transpose();
    let expiration = expiration.map_err(|_| "`waypost-expiration` is too large".to_owned())?;
    let deadline = number("waypost-deadline")?.map(i64::try_from).transpose();
    let deadline = deadline.map_err(|_| "`waypost-deadline` is too large".to_owned())?;
    let persistent = match headers.get("waypost-persistent").map(HeaderValue::as_bytes) {
        None | Some(b"true") => true,
        Some(b"false") => false,
        Some(_) => return Err("`waypost-persistent` must be true or false".to_owned()),
    };
    Ok(PropsOwned {
        content_type: short(CONTENT_TYPE.as_str())?,
        content_encoding: short(CONTENT_ENCODING.as_str())?,
        headers: table(headers, deadline)?,
        delivery_mode: Some(if persistent { DELIVERY_MODE_PERSISTENT } else { 1 }),
        priority: priority.map_err(|_| "`waypost-priority` must be 0 to 255".to_owned())?,
        correlation_id: short("waypost-correlation-id")?,
        reply_to: short("waypost-reply-to")?,
        expiration: expiration.and_then(|ms| ShortStr::new(ms.to_string())),
        message_id: short("waypost-message-id")?,
        timestamp: number("waypost-timestamp")?,
        type_: short("waypost-type")?,
        user_id: None,
        app_id: short("waypost-app-id")?,
        cluster_id: None,
    })
}

fn table(headers: &HeaderMap, deadline: Option<i64>) -> Result<Option<Table>, String> {
    let mut table = Table::new();
    for (name, value) in headers {
        let key = if let Some(key) = name.as_str().strip_prefix(ENTRY) {
            String::from_utf8(decode(key.as_bytes())).map_err(|_| format!("`{name}` is no text"))?
        } else if let Some(attribute) = name.as_str().strip_prefix(CE_HTTP) {
            format!("{}{attribute}", CE_ENTRY[0])
        } else if SAME.contains(&name.as_str()) {
            name.as_str().to_owned()
        } else {
            continue;
        };
        if key.is_empty() || key.len() > waypost_model::table::TABLE_KEY_BYTES_MAX {
            return Err(format!("`{name}` names no header of a message"));
        }
        if table.len() >= ENTRIES_MAX {
            return Err(format!("a message has at most {ENTRIES_MAX} headers"));
        }
        table.set(key, Value::LongStr(decode(value.as_bytes())));
    }
    if let Some(ms) = deadline {
        table.set(DEADLINE, Value::I64(ms));
    }
    Ok((!table.is_empty()).then_some(table))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn there_and_back(props: &PropsOwned) -> PropsOwned {
        let mut envelope = Envelope::default();
        envelope.message(Props(&props.to_bytes()));
        properties(&envelope.finish()).unwrap()
    }

    #[test]
    fn properties_there_and_back() {
        let props = PropsOwned {
            content_type: ShortStr::new("application/json"),
            content_encoding: ShortStr::new("gzip"),
            headers: Some(
                Table::new()
                    .with("a key", Value::from("grüße 100%\n"))
                    .with("traceparent", Value::from("00-0af7-01"))
                    .with("cloudEvents_id", Value::from("7"))
                    .with(DEADLINE, Value::I64(1234)),
            ),
            delivery_mode: Some(2),
            priority: Some(9),
            correlation_id: ShortStr::new([0xff, b'%', b'4', b'1']),
            reply_to: ShortStr::new("amq.rabbitmq.reply-to.x"),
            expiration: ShortStr::new("60000"),
            message_id: ShortStr::new("m"),
            timestamp: Some(5),
            type_: ShortStr::new("order.placed"),
            user_id: None,
            app_id: ShortStr::new("shop"),
            cluster_id: None,
        };
        let back = there_and_back(&props);
        let table = back.headers.clone().unwrap();
        assert_eq!(table.get("a key").unwrap().as_str(), Some("grüße 100%\n"));
        assert_eq!(table.get("cloudEvents_id").unwrap().as_str(), Some("7"));
        assert_eq!(deadline_of(Some(&table)), Some(1234));
        assert_eq!(PropsOwned { headers: None, ..back }, PropsOwned { headers: None, ..props });
    }

    #[test]
    fn values_of_all_kinds_have_a_text() {
        let table = Table::new()
            .with("n", Value::I32(-5))
            .with("b", Value::Bool(true))
            .with("x-death", Value::Array(vec![Value::Table(Table::new().with("count", Value::I64(1)))]));
        let props = PropsOwned { headers: Some(table), ..PropsOwned::default() };
        let mut envelope = Envelope::default();
        envelope.message(Props(&props.to_bytes()));
        let headers = envelope.finish();
        assert_eq!(headers["waypost-header-n"], "-5");
        assert_eq!(headers["waypost-header-b"], "true");
        assert_eq!(headers["waypost-header-x-death"], "[{\"count\":1}]");
    }

    #[test]
    fn what_does_not_fit_is_counted() {
        let large = Value::from("x".repeat(10_000));
        let table = ["a", "b", "c", "d"].iter().fold(Table::new(), |t, key| t.with(*key, large.clone()));
        let props = PropsOwned { headers: Some(table), ..PropsOwned::default() };
        let mut envelope = Envelope::default();
        envelope.message(Props(&props.to_bytes()));
        assert_eq!(envelope.finish()["waypost-headers-omitted"], "2");
    }

    #[test]
    fn events_have_what_they_must() {
        let props =
            PropsOwned { timestamp: Some(1_700_000_000), correlation_id: ShortStr::new("c"), ..PropsOwned::default() };
        let mut envelope = Envelope::default();
        envelope.event(Props(&props.to_bytes()), "/services/cart", b"cart", "7-1");
        let headers = envelope.finish();
        for (name, value) in [
            ("ce-specversion", "1.0"),
            ("ce-id", "7-1"),
            ("ce-source", "/services/cart"),
            ("ce-type", "waypost.message"),
            ("ce-subject", "cart"),
            ("ce-time", "2023-11-14T22:13:20Z"),
            ("ce-correlationid", "c"),
        ] {
            assert_eq!(headers[name], value, "{name}");
        }
        let event =
            Table::new().with("cloudEvents:specversion", Value::from("1.0")).with("cloudEvents:id", Value::from("own"));
        let props = PropsOwned { headers: Some(event), ..PropsOwned::default() };
        let mut envelope = Envelope::default();
        envelope.event(Props(&props.to_bytes()), "/services/cart", b"cart", "7-1");
        let headers = envelope.finish();
        assert_eq!(headers.get_all("ce-id").iter().collect::<Vec<_>>(), ["own"]);
    }

    #[test]
    fn mistakes_are_named() {
        for (name, value) in [
            ("waypost-priority", "256"),
            ("waypost-priority", "x"),
            ("waypost-expiration", "99999999999"),
            ("waypost-persistent", "maybe"),
            ("waypost-header-", "x"),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
            assert!(properties(&headers).is_err(), "{name}: {value}");
        }
    }
}

//! A record becomes a message.

use std::borrow::Cow;
use std::collections::BTreeMap;

use waypost_model::Route;
use waypost_model::props::{DELIVERY_MODE_PERSISTENT, PropsOwned, ShortStr};
use waypost_model::table::{TABLE_KEY_BYTES_MAX, Table, Value};

use super::names::{
    CUT, EXCHANGE, HEADER, HEADERS, LONG_HEADERS, LONG_KEY, OFFSET, PARTITION, PREFIX, TABLE, TOMBSTONE, TYPE,
};
use super::values;
use crate::records::Record;

/// Longest routing key and name of an exchange, bytes.
const SHORT_BYTES_MAX: usize = 255;
/// Longest table of headers that a message gets. What is longer might not fit the one frame that it must fit into.
const HEADERS_BYTES_MAX: usize = 96 * 1024;

/// What a message is told of where its record stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// Nothing.
    Nothing,
    /// Its offset.
    Offset,
    /// Its offset, and the partition.
    Place {
        /// The partition's number.
        partition: i32,
    },
}

/// Makes a message of a record of `stream`: route, properties, body.
#[must_use]
pub fn to_message(record: Record, stream: &str, told: Told) -> (Route, PropsOwned, Vec<u8>) {
    let mut parts = Parts::default();
    for (name, value) in &record.headers {
        parts.take(name, value.as_deref());
    }
    let Parts { mut props, exchange, raw, has_headers, entries, types } = parts;
    let mut table = raw.unwrap_or_default();
    let has_table = has_headers || !table.is_empty();
    let plain = if exchange.is_some() { Value::LongStr } else { text_or_bytes };
    fill(&mut table, entries, &types, plain);
    let fits = |key: &[u8]| key.len() <= SHORT_BYTES_MAX && (exchange.is_some() || std::str::from_utf8(key).is_ok());
    let fitting = record.key.as_deref().is_none_or(fits);
    if exchange.is_none() {
        // No message before: what every record has are properties that most messages have.
        props.delivery_mode.get_or_insert(DELIVERY_MODE_PERSISTENT);
        if let Ok(ms) = u64::try_from(record.timestamp) {
            props.timestamp.get_or_insert(ms / 1000);
        }
    }
    let exchange = exchange.unwrap_or_default();
    let routing_key: Box<[u8]> = match record.key {
        None if exchange.is_empty() => stream.as_bytes().into(),
        None => Box::default(),
        Some(key) if fitting => key.into(),
        Some(key) => {
            table.set(LONG_KEY, Value::Bytes(key));
            Box::default()
        }
    };
    if record.value.is_none() {
        table.set(TOMBSTONE, Value::Bool(true));
    }
    cut(&mut table);
    if told != Told::Nothing {
        table.set(OFFSET, Value::I64(record.offset));
    }
    if let Told::Place { partition } = told {
        table.set(PARTITION, Value::I32(partition));
    }
    props.headers = (has_table || !table.is_empty()).then_some(table);
    (Route { exchange, routing_key, address: None }, props, record.value.unwrap_or_default())
}

/// What record headers say.
#[derive(Default)]
struct Parts<'a> {
    props: PropsOwned,
    exchange: Option<Box<str>>,
    raw: Option<Table>,
    has_headers: bool,
    entries: Vec<(Cow<'a, str>, Option<&'a [u8]>)>,
    types: BTreeMap<&'a str, u8>,
}

impl<'a> Parts<'a> {
    fn take(&mut self, name: &'a str, value: Option<&'a [u8]>) {
        if !name.strip_prefix(PREFIX).is_some_and(|ours| self.take_ours(ours, value)) {
            self.entries.push((name.into(), value));
        }
    }

    /// False if it is not one of ours after all.
    fn take_ours(&mut self, name: &'a str, value: Option<&'a [u8]>) -> bool {
        if let Some(header) = name.strip_prefix(HEADER) {
            self.entries.push((header.into(), value));
            return true;
        }
        let Some(bytes) = value else { return false };
        if let Some(of) = name.strip_prefix(TYPE) {
            return match bytes {
                [letter] => self.types.insert(of, *letter).is_none(),
                _ => false,
            };
        }
        match name {
            EXCHANGE => match std::str::from_utf8(bytes) {
                Ok(text) if text.len() <= SHORT_BYTES_MAX => self.exchange.replace(text.into()).is_none(),
                _ => false,
            },
            HEADERS => {
                self.has_headers = true;
                true
            }
            TABLE => match Table::decode(bytes) {
                Ok((table, used)) if used == bytes.len() => self.raw.replace(table).is_none(),
                _ => false,
            },
            property => set(&mut self.props, property, bytes),
        }
    }
}

/// Sets a property; false if there is none of the name, or it cannot have the value.
fn set(props: &mut PropsOwned, name: &str, bytes: &[u8]) -> bool {
    let number = || std::str::from_utf8(bytes).ok().and_then(|t| t.parse::<u64>().ok());
    let octet = || number().and_then(|n| u8::try_from(n).ok());
    let short = match name {
        "delivery-mode" => {
            props.delivery_mode = octet();
            return props.delivery_mode.is_some();
        }
        "priority" => {
            props.priority = octet();
            return props.priority.is_some();
        }
        "timestamp" => {
            props.timestamp = number();
            return props.timestamp.is_some();
        }
        "content-type" => &mut props.content_type,
        "content-encoding" => &mut props.content_encoding,
        "correlation-id" => &mut props.correlation_id,
        "reply-to" => &mut props.reply_to,
        "expiration" => &mut props.expiration,
        "message-id" => &mut props.message_id,
        "type" => &mut props.type_,
        "user-id" => &mut props.user_id,
        "app-id" => &mut props.app_id,
        "cluster-id" => &mut props.cluster_id,
        _ => return false,
    };
    *short = ShortStr::new(bytes);
    short.is_some()
}

/// A value that was not written as a message's: a string for whoever reads it, if it is text. AMQP's own clients take
/// strings for UTF-8, and some end their connection over one that is not.
#[must_use]
pub fn text_or_bytes(bytes: Vec<u8>) -> Value {
    if std::str::from_utf8(&bytes).is_ok() { Value::LongStr(bytes) } else { Value::Bytes(bytes) }
}

/// Adds headers to a table; a name that comes several times gets an array. `plain` makes values of those without a type.
fn fill(
    table: &mut Table,
    entries: Vec<(Cow<'_, str>, Option<&[u8]>)>,
    types: &BTreeMap<&str, u8>,
    plain: fn(Vec<u8>) -> Value,
) {
    let mut of: BTreeMap<&str, Vec<Option<&[u8]>>> = BTreeMap::new();
    for (name, value) in &entries {
        of.entry(name).or_default().push(*value);
    }
    let mut long = Vec::new();
    for (name, _) in &entries {
        // Taken with its first entry.
        let Some(all) = of.remove(&**name) else { continue };
        let plain = |value: Option<&[u8]>| value.map_or(Value::Void, |bytes| plain(bytes.to_vec()));
        let value = match (&all[..], types.get(&**name)) {
            ([Some(bytes)], Some(letter)) => values::read(*letter, bytes).unwrap_or_else(|| plain(Some(bytes))),
            ([one], _) => plain(*one),
            (several, _) => Value::Array(several.iter().map(|v| plain(*v)).collect()),
        };
        if name.len() <= TABLE_KEY_BYTES_MAX {
            table.set(&**name, value);
        } else {
            let name = Value::LongStr(name.as_bytes().to_vec());
            long.push(Value::Table(Table::new().with("name", name).with("value", value)));
        }
    }
    if !long.is_empty() {
        table.set(LONG_HEADERS, Value::Array(long));
    }
}

/// Leaves out what would not fit a frame, and says so.
fn cut(table: &mut Table) {
    let few = table.iter().map(|(name, value)| name.len() + estimate(value)).sum::<usize>() <= HEADERS_BYTES_MAX;
    if !few {
        *table = Table::new().with(CUT, Value::Bool(true));
    }
}

/// Bytes of a value, about.
fn estimate(value: &Value) -> usize {
    8 + match value {
        Value::LongStr(bytes) | Value::Bytes(bytes) => bytes.len(),
        Value::Array(items) => items.iter().map(estimate).sum(),
        Value::Table(table) => table.iter().map(|(name, value)| name.len() + estimate(value)).sum(),
        _ => 4,
    }
}

//! A message becomes a record.

use waypost_model::Route;
use waypost_model::props::Props;
use waypost_model::table::{Table, Value};

use super::names::{EXCHANGE, HEADER, HEADERS, PREFIX, TABLE, TOMBSTONE, TYPE};
use super::values;
use crate::writer::{BatchWriter, Header};

/// Room for the headers of a record, used again by the next.
#[derive(Debug, Default)]
pub struct Scratch {
    names: String,
    values: Vec<u8>,
    /// Ends in `names` and `values`; no end in `values` for no value.
    ends: Vec<(usize, Option<usize>)>,
}

impl Scratch {
    fn clear(&mut self) {
        self.names.clear();
        self.values.clear();
        self.ends.clear();
    }

    fn header(&mut self, name: &[&str], value: &[u8]) {
        name.iter().for_each(|part| self.names.push_str(part));
        self.values.extend_from_slice(value);
        self.ends.push((self.names.len(), Some(self.values.len())));
    }

    fn ours(&mut self, name: &str, value: Option<&[u8]>) {
        if let Some(value) = value {
            self.header(&[PREFIX, name], value);
        }
    }

    fn all(&self) -> Vec<Header<'_>> {
        let (mut name_at, mut value_at) = (0, 0);
        let headers = self.ends.iter().map(|(name_end, value_end)| {
            let name = self.names.get(name_at..*name_end).unwrap_or_default();
            let value = value_end.map(|end| self.values.get(value_at..end).unwrap_or_default());
            (name_at, value_at) = (*name_end, value_end.unwrap_or(value_at));
            (name, value)
        });
        headers.collect()
    }

    /// Bytes of names and values.
    fn bytes(&self) -> usize {
        self.names.len() + self.values.len()
    }
}

/// The key of a message's record: its routing key, unless that only names the stream.
#[must_use]
pub fn key_of<'a>(route: &'a Route, stream: &str) -> Option<&'a [u8]> {
    let names_it =
        if route.exchange.is_empty() { &*route.routing_key == stream.as_bytes() } else { route.routing_key.is_empty() };
    (!names_it).then_some(&*route.routing_key)
}

/// Adds a message to a batch, unless the batch would become longer than `max` by it: then false, and nothing is added.
/// A batch of one message may be longer than one that has others before it.
pub fn push(
    writer: &mut BatchWriter,
    (route, stream): (&Route, &str),
    props: &[u8],
    body: &[u8],
    scratch: &mut Scratch,
    max: usize,
) -> bool {
    scratch.clear();
    scratch.ours(EXCHANGE, Some(route.exchange.as_bytes()));
    let props = Props(props);
    properties(props, scratch);
    let removes = match props.headers_raw() {
        None => false,
        Some(raw) => headers(raw, body.is_empty(), scratch),
    };
    let key = key_of(route, stream);
    let payload = scratch.bytes() + key.map_or(0, <[u8]>::len) + body.len();
    // The header of the batch is counted with either.
    if writer.bytes() + BatchWriter::bytes_at_most(payload, scratch.ends.len()) > max {
        return false;
    }
    writer.push(key, (!removes).then_some(body), &scratch.all());
    true
}

fn properties(props: Props<'_>, out: &mut Scratch) {
    let number = |n: Option<u64>| n.map(|n| n.to_string());
    out.ours("content-type", props.content_type());
    out.ours("content-encoding", props.content_encoding());
    out.ours("delivery-mode", number(props.delivery_mode().map(u64::from)).as_deref().map(str::as_bytes));
    out.ours("priority", number(props.priority().map(u64::from)).as_deref().map(str::as_bytes));
    out.ours("correlation-id", props.correlation_id());
    out.ours("reply-to", props.reply_to());
    out.ours("expiration", props.expiration());
    out.ours("message-id", props.message_id());
    out.ours("timestamp", number(props.timestamp()).as_deref().map(str::as_bytes));
    out.ours("type", props.type_());
    out.ours("user-id", props.user_id());
    out.ours("app-id", props.app_id());
    out.ours("cluster-id", props.cluster_id());
}

/// Adds a table of headers. Whether they say that the record is to have no value.
fn headers(raw: &[u8], empty_body: bool, out: &mut Scratch) -> bool {
    let Ok((mut table, _)) = Table::decode(raw) else {
        // What was taken in could be read; what cannot be is kept as it is.
        out.ours(TABLE, Some(raw));
        return false;
    };
    let removes = empty_body && table.get(TOMBSTONE) == Some(&Value::Bool(true));
    if removes {
        table.remove(TOMBSTONE);
    }
    let (names, values, ends) = (out.names.len(), out.values.len(), out.ends.len());
    if table.is_empty() && !removes {
        out.ours(HEADERS, Some(b""));
    }
    if !is_told_apart(&table) || !table.iter().all(|(name, value)| header(name, value, out)) {
        out.names.truncate(names);
        out.values.truncate(values);
        out.ends.truncate(ends);
        out.ours(TABLE, Some(&table.to_bytes()));
    }
    removes
}

/// Whether no name comes twice.
fn is_told_apart(table: &Table) -> bool {
    let mut names: Vec<&str> = table.iter().map(|(name, _)| name).collect();
    names.sort_unstable();
    names.windows(2).all(|pair| pair[0] != pair[1])
}

/// Adds a header; false if it could not be read back as it is.
fn header(name: &str, value: &Value, out: &mut Scratch) -> bool {
    let escaped = name.starts_with(PREFIX);
    let named: &[&str] = if escaped { &[PREFIX, HEADER, name] } else { &[name] };
    if let Value::Array(items) = value
        && items.len() > 1
        && items.iter().all(|i| matches!(i, Value::LongStr(_) | Value::Void))
    {
        items.iter().for_each(|item| one(named, item, out));
        return true;
    }
    let at = out.values.len();
    named.iter().for_each(|part| out.names.push_str(part));
    if !values::write(value, &mut out.values) {
        return false;
    }
    debug_assert!(out.values.len() >= at);
    let end = (!matches!(value, Value::Void)).then_some(out.values.len());
    out.ends.push((out.names.len(), end));
    if !matches!(value, Value::LongStr(_) | Value::Void) {
        out.header(&[PREFIX, TYPE, name], &[value.letter()]);
    }
    true
}

/// One of several values of a name: a long string, or none.
fn one(name: &[&str], value: &Value, out: &mut Scratch) {
    match value {
        Value::LongStr(bytes) => out.header(name, bytes),
        _ => {
            name.iter().for_each(|part| out.names.push_str(part));
            out.ends.push((out.names.len(), None));
        }
    }
}

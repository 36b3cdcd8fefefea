//! Headers exchanges: bindings name headers, with or without a value.
//!
//! Values are compared as RabbitMQ compares them: integers (and timestamps) by value whatever their width, the two
//! floating-point types likewise, text and octets by their bytes; an integer never equals a float or a text. A binding
//! header without a value (type void) asks only that the header is there.

use waypost_model::Refusal;
use waypost_model::table::{Table, Value};

use super::{Sink, Target};
use crate::topology::binding::{Bound, type_name};

const MATCH: &str = "x-match";

#[derive(Debug, Default)]
pub(crate) struct Headers {
    bindings: Vec<Matcher>,
}

#[derive(Debug)]
struct Matcher {
    any: bool,
    wanted: Box<[(Box<str>, Value)]>,
    target: Target,
    /// Tells bindings with the same target apart.
    canonical: Box<[u8]>,
}

impl Matcher {
    fn new(b: &Bound) -> Matcher {
        let mode = b.arguments.get(MATCH).and_then(Value::as_str).unwrap_or("all");
        let with_x = mode.ends_with("-with-x");
        let counts = |key: &str| {
            if with_x { key != MATCH } else { !key.starts_with("x-") }
        };
        Matcher {
            any: mode.starts_with("any"),
            wanted: b.arguments.iter().filter(|(k, _)| counts(k)).map(|(k, v)| (k.into(), v.clone())).collect(),
            target: b.target,
            canonical: b.canonical.clone(),
        }
    }

    fn matches(&self, headers: &Table) -> bool {
        let mut has = self.wanted.iter().map(|(key, wanted)| match headers.get(key) {
            Some(value) => matches!(wanted, Value::Void) || same(wanted, value),
            None => false,
        });
        if self.any { has.any(|h| h) } else { has.all(|h| h) }
    }
}

/// Whether a header has the value that a binding wants.
fn same(wanted: &Value, value: &Value) -> bool {
    let integer = |v: &Value| match v {
        Value::Timestamp(t) => Some(i128::from(*t)),
        v => v.as_i64().map(i128::from),
    };
    let float = |v: &Value| match v {
        Value::F32(f) => Some(f64::from(*f)),
        Value::F64(f) => Some(*f),
        _ => None,
    };
    match (wanted, value) {
        (Value::LongStr(a) | Value::Bytes(a), Value::LongStr(b) | Value::Bytes(b)) => a == b,
        (a, b) => match (integer(a), integer(b), float(a), float(b)) {
            (Some(a), Some(b), ..) => a == b,
            (.., Some(a), Some(b)) => a == b,
            _ => a == b,
        },
    }
}

impl Headers {
    pub fn add(&mut self, b: &Bound) {
        let matcher = Matcher::new(b);
        let at = self.place(b).unwrap_or_else(|at| at);
        self.bindings.insert(at, matcher);
    }

    pub fn remove(&mut self, b: &Bound) {
        // Bindings that differ in their key only are the same to this exchange: any of them will do.
        if let Ok(at) = self.place(b) {
            self.bindings.remove(at);
        }
    }

    fn place(&self, b: &Bound) -> Result<usize, usize> {
        self.bindings.binary_search_by(|m| m.target.cmp(&b.target).then_with(|| m.canonical.cmp(&b.canonical)))
    }

    pub fn route(&self, headers: Option<&Table>, out: &mut Sink) {
        let none = Table::new();
        let headers = headers.unwrap_or(&none);
        for m in &self.bindings {
            if m.matches(headers) {
                out.take(m.target);
            }
        }
    }
}

/// Whether `x-match` says something that we know.
///
/// # Errors
/// 406.
pub(crate) fn validate(arguments: &Table) -> Result<(), Refusal> {
    match arguments.get(MATCH) {
        None => Ok(()),
        Some(Value::LongStr(mode)) => match &**mode {
            b"all" | b"any" | b"all-with-x" | b"any-with-x" => Ok(()),
            other => Err(Refusal::precondition_failed(format!(
                "Invalid x-match field value <<\"{}\">>; expected all, any, all-with-x, or any-with-x",
                String::from_utf8_lossy(other)
            ))),
        },
        Some(other) => Err(Refusal::precondition_failed(format!(
            "Invalid x-match field type {} (value {}); expected longstr",
            type_name(other),
            crate::topology::binding::value_text(other)
        ))),
    }
}

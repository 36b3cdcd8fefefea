//! Values of headers: types of AMQP's field tables as bytes that others can read, and back.

use std::fmt::Write as _;

use waypost_model::table::{Table, Value};

/// A value as bytes: long strings as they are, other simple values as text, arrays and tables as AMQP encodes them.
/// `None` for no value. Gives false if it could not be read back as it is.
pub fn write(value: &Value, out: &mut Vec<u8>) -> bool {
    let mut text = String::new();
    let written = match value {
        Value::LongStr(bytes) | Value::Bytes(bytes) => {
            out.extend_from_slice(bytes);
            return true;
        }
        Value::Void => return true,
        Value::Bool(v) => write!(text, "{v}"),
        Value::I8(v) => write!(text, "{v}"),
        Value::U8(v) => write!(text, "{v}"),
        Value::I16(v) => write!(text, "{v}"),
        Value::U16(v) => write!(text, "{v}"),
        Value::I32(v) => write!(text, "{v}"),
        Value::U32(v) => write!(text, "{v}"),
        Value::I64(v) | Value::LongLong(v) => write!(text, "{v}"),
        Value::Timestamp(v) => write!(text, "{v}"),
        Value::F32(v) if !v.is_nan() => write!(text, "{v}"),
        Value::F64(v) if !v.is_nan() => write!(text, "{v}"),
        // Which of the many it is would be lost.
        Value::F32(_) | Value::F64(_) => return false,
        Value::Decimal { scale, value } => write!(text, "{value}e-{scale}"),
        Value::Array(_) | Value::Table(_) => {
            let mut encoded = Vec::new();
            value.encode(&mut encoded);
            // Without the letter, which is told beside it.
            out.extend_from_slice(encoded.get(1..).unwrap_or_default());
            return true;
        }
    };
    out.extend_from_slice(text.as_bytes());
    written.is_ok()
}

/// The value of a type; `None` if the bytes are none.
pub fn read(letter: u8, bytes: &[u8]) -> Option<Value> {
    if let Some(value) = read_composite(letter, bytes) {
        return value;
    }
    let text = std::str::from_utf8(bytes).ok()?;
    Some(match letter {
        b't' => Value::Bool(text.parse().ok()?),
        b'b' => Value::I8(text.parse().ok()?),
        b'B' => Value::U8(text.parse().ok()?),
        b's' => Value::I16(text.parse().ok()?),
        b'u' => Value::U16(text.parse().ok()?),
        b'I' => Value::I32(text.parse().ok()?),
        b'i' => Value::U32(text.parse().ok()?),
        b'l' => Value::I64(text.parse().ok()?),
        b'L' => Value::LongLong(text.parse().ok()?),
        b'T' => Value::Timestamp(text.parse().ok()?),
        b'f' => Value::F32(text.parse().ok()?),
        b'd' => Value::F64(text.parse().ok()?),
        b'D' => {
            let (value, scale) = text.split_once("e-")?;
            Value::Decimal { scale: scale.parse().ok()?, value: value.parse().ok()? }
        }
        _ => return None,
    })
}

/// Those whose bytes are no text.
fn read_composite(letter: u8, bytes: &[u8]) -> Option<Option<Value>> {
    match letter {
        b'S' => Some(Some(Value::LongStr(bytes.to_vec()))),
        b'x' => Some(Some(Value::Bytes(bytes.to_vec()))),
        b'A' | b'F' => Some(decoded(letter, bytes)),
        _ => None,
    }
}

/// A value behind its letter, by way of a table that has nothing else.
fn decoded(letter: u8, bytes: &[u8]) -> Option<Value> {
    let length = u32::try_from(bytes.len()).ok()?.checked_add(2)?;
    let mut table = length.to_be_bytes().to_vec();
    table.extend_from_slice(&[0, letter]);
    table.extend_from_slice(bytes);
    let (mut table, used) = Table::decode(&table).ok().filter(|(_, used)| *used == table.len())?;
    debug_assert_eq!(used, bytes.len() + 6);
    if table.len() == 1 { table.remove("") } else { None }
}

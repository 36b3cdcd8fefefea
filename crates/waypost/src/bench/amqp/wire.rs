//! The little of the AMQP 0-9-1 grammar that a load generator needs: frames, method arguments, tables.

use super::fault::Fault;
use serde_json::Value;

/// Frame types (AMQP 0-9-1 §4.2.3).
pub const FRAME_METHOD: u8 = 1;
pub const FRAME_HEADER: u8 = 2;
pub const FRAME_BODY: u8 = 3;
pub const FRAME_HEARTBEAT: u8 = 8;
/// The octet that ends every frame.
pub const FRAME_END: u8 = 0xCE;
/// Type, channel and size.
pub const FRAME_HEAD_BYTES: usize = 7;
/// What a frame adds to its payload.
pub const FRAME_OVERHEAD_BYTES: usize = FRAME_HEAD_BYTES + 1;

/// Class and method numbers.
pub type MethodId = (u16, u16);

pub const CONNECTION_START: MethodId = (10, 10);
pub const CONNECTION_START_OK: MethodId = (10, 11);
pub const CONNECTION_SECURE: MethodId = (10, 20);
pub const CONNECTION_TUNE: MethodId = (10, 30);
pub const CONNECTION_TUNE_OK: MethodId = (10, 31);
pub const CONNECTION_OPEN: MethodId = (10, 40);
pub const CONNECTION_OPEN_OK: MethodId = (10, 41);
pub const CONNECTION_CLOSE: MethodId = (10, 50);
pub const CONNECTION_CLOSE_OK: MethodId = (10, 51);
pub const CONNECTION_BLOCKED: MethodId = (10, 60);
pub const CONNECTION_UNBLOCKED: MethodId = (10, 61);
pub const CHANNEL_OPEN: MethodId = (20, 10);
pub const CHANNEL_OPEN_OK: MethodId = (20, 11);
pub const CHANNEL_FLOW: MethodId = (20, 20);
pub const CHANNEL_CLOSE: MethodId = (20, 40);
pub const CHANNEL_CLOSE_OK: MethodId = (20, 41);
pub const EXCHANGE_DECLARE: MethodId = (40, 10);
pub const EXCHANGE_DECLARE_OK: MethodId = (40, 11);
pub const EXCHANGE_DELETE: MethodId = (40, 20);
pub const EXCHANGE_DELETE_OK: MethodId = (40, 21);
pub const QUEUE_DECLARE: MethodId = (50, 10);
pub const QUEUE_DECLARE_OK: MethodId = (50, 11);
pub const QUEUE_BIND: MethodId = (50, 20);
pub const QUEUE_BIND_OK: MethodId = (50, 21);
pub const QUEUE_DELETE: MethodId = (50, 40);
pub const QUEUE_DELETE_OK: MethodId = (50, 41);
pub const BASIC_QOS: MethodId = (60, 10);
pub const BASIC_QOS_OK: MethodId = (60, 11);
pub const BASIC_CONSUME: MethodId = (60, 20);
pub const BASIC_CANCEL: MethodId = (60, 30);
pub const BASIC_PUBLISH: MethodId = (60, 40);
pub const BASIC_RETURN: MethodId = (60, 50);
pub const BASIC_DELIVER: MethodId = (60, 60);
pub const BASIC_ACK: MethodId = (60, 80);
pub const BASIC_NACK: MethodId = (60, 120);
pub const CONFIRM_SELECT: MethodId = (85, 10);
pub const CONFIRM_SELECT_OK: MethodId = (85, 11);

/// Appends a frame whose payload `fill` writes.
///
/// # Errors
/// Those of `fill`, and a payload of 4 GiB or more.
pub fn put_frame(
    out: &mut Vec<u8>,
    kind: u8,
    channel: u16,
    fill: impl FnOnce(&mut Vec<u8>) -> Result<(), Fault>,
) -> Result<(), Fault> {
    out.push(kind);
    out.extend_from_slice(&channel.to_be_bytes());
    let size_at = out.len();
    out.extend_from_slice(&[0; 4]);
    fill(out)?;
    let size = length(out.len() - size_at - 4)?;
    out[size_at..size_at + 4].copy_from_slice(&size.to_be_bytes());
    out.push(FRAME_END);
    Ok(())
}

/// Appends a method frame whose arguments `fill` writes.
///
/// # Errors
/// Those of `fill`.
pub fn put_method(
    out: &mut Vec<u8>,
    channel: u16,
    (class, method): MethodId,
    fill: impl FnOnce(&mut Vec<u8>) -> Result<(), Fault>,
) -> Result<(), Fault> {
    put_frame(out, FRAME_METHOD, channel, |out| {
        out.extend_from_slice(&class.to_be_bytes());
        out.extend_from_slice(&method.to_be_bytes());
        fill(out)
    })
}

/// Appends a short string: a length octet and at most 255 octets.
///
/// # Errors
/// A longer text.
pub fn put_short(out: &mut Vec<u8>, text: &str) -> Result<(), Fault> {
    let size = u8::try_from(text.len()).map_err(|_| Fault::Usage(format!("name longer than 255 bytes: {text:.40}")))?;
    out.push(size);
    out.extend_from_slice(text.as_bytes());
    Ok(())
}

/// Appends a long string: four length octets and the bytes.
///
/// # Errors
/// A text of 4 GiB or more.
pub fn put_long(out: &mut Vec<u8>, bytes: &[u8]) -> Result<(), Fault> {
    out.extend_from_slice(&length(bytes.len())?.to_be_bytes());
    out.extend_from_slice(bytes);
    Ok(())
}

/// Appends a field table made from the members of a JSON object.
///
/// Integers become `l` (int64), other numbers `d`, text `S`, objects `F`, arrays `A`.
///
/// # Errors
/// A key longer than 255 bytes, a number beyond int64.
pub fn put_table(out: &mut Vec<u8>, table: &serde_json::Map<String, Value>) -> Result<(), Fault> {
    sized(out, |out| {
        for (key, value) in table {
            put_short(out, key)?;
            put_value(out, value)?;
        }
        Ok(())
    })
}

fn put_value(out: &mut Vec<u8>, value: &Value) -> Result<(), Fault> {
    match value {
        Value::Null => out.push(b'V'),
        Value::Bool(yes) => out.extend_from_slice(&[b't', u8::from(*yes)]),
        Value::Number(number) => {
            if let Some(integer) = number.as_i64() {
                out.push(b'l');
                out.extend_from_slice(&integer.to_be_bytes());
            } else if let (false, Some(float)) = (number.is_u64(), number.as_f64()) {
                out.push(b'd');
                out.extend_from_slice(&float.to_be_bytes());
            } else {
                return Err(Fault::Usage(format!("{number} does not fit a field table")));
            }
        }
        Value::String(text) => {
            out.push(b'S');
            put_long(out, text.as_bytes())?;
        }
        Value::Array(items) => {
            out.push(b'A');
            sized(out, |out| items.iter().try_for_each(|item| put_value(out, item)))?;
        }
        Value::Object(members) => {
            out.push(b'F');
            put_table(out, members)?;
        }
    }
    Ok(())
}

/// Writes a four-octet length before what `fill` appends.
fn sized(out: &mut Vec<u8>, fill: impl FnOnce(&mut Vec<u8>) -> Result<(), Fault>) -> Result<(), Fault> {
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    fill(out)?;
    let size = length(out.len() - at - 4)?;
    out[at..at + 4].copy_from_slice(&size.to_be_bytes());
    Ok(())
}

fn length(bytes: usize) -> Result<u32, Fault> {
    u32::try_from(bytes).map_err(|_| Fault::Usage(format!("{bytes} bytes do not fit a frame")))
}

/// Reads method arguments from the front.
#[derive(Clone, Copy, Debug)]
pub struct Args<'a>(pub &'a [u8]);

impl<'a> Args<'a> {
    /// Takes the next `count` octets.
    ///
    /// # Errors
    /// Fewer are left.
    pub fn take(&mut self, count: usize) -> Result<&'a [u8], Fault> {
        let (front, rest) =
            self.0.split_at_checked(count).ok_or_else(|| Fault::protocol("method arguments end early"))?;
        self.0 = rest;
        Ok(front)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    /// An octet.
    ///
    /// # Errors
    /// None is left.
    pub fn octet(&mut self) -> Result<u8, Fault> {
        Ok(self.array::<1>()?[0])
    }

    /// A 16-bit integer.
    ///
    /// # Errors
    /// Fewer octets are left.
    pub fn short(&mut self) -> Result<u16, Fault> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    /// A 32-bit integer.
    ///
    /// # Errors
    /// Fewer octets are left.
    pub fn long(&mut self) -> Result<u32, Fault> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    /// A 64-bit integer.
    ///
    /// # Errors
    /// Fewer octets are left.
    pub fn longlong(&mut self) -> Result<u64, Fault> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    /// A short string, lossily decoded: it is only shown or compared.
    ///
    /// # Errors
    /// Fewer octets are left than it claims.
    pub fn shortstr(&mut self) -> Result<String, Fault> {
        let size = usize::from(self.octet()?);
        Ok(String::from_utf8_lossy(self.take(size)?).into_owned())
    }

    /// The bytes of a long string or of a table.
    ///
    /// # Errors
    /// Fewer octets are left than it claims.
    pub fn longstr(&mut self) -> Result<&'a [u8], Fault> {
        let size = self.long()?;
        let size = usize::try_from(size).map_err(|_| Fault::protocol("string too long"))?;
        self.take(size)
    }

    /// The text stored under `key` directly in a table, if there is one.
    ///
    /// # Errors
    /// A value of unknown type or size before it.
    pub fn table_text(table: &'a [u8], key: &str) -> Result<Option<String>, Fault> {
        let mut fields = Self(table);
        while !fields.0.is_empty() {
            let name = fields.shortstr()?;
            let kind = fields.octet()?;
            if name == key && kind == b'S' {
                let text = fields.longstr()?;
                return Ok(Some(String::from_utf8_lossy(text).into_owned()));
            }
            fields.skip_value(kind)?;
        }
        Ok(None)
    }

    fn skip_value(&mut self, kind: u8) -> Result<(), Fault> {
        let size = match kind {
            b'V' => 0,
            b't' | b'b' | b'B' => 1,
            b's' | b'u' => 2,
            b'I' | b'i' | b'f' => 4,
            b'D' => 5,
            b'l' | b'L' | b'd' | b'T' => 8,
            b'S' | b'x' | b'F' | b'A' => return self.longstr().map(|_| ()),
            other => return Err(Fault::protocol(format!("field type {other:#04x}"))),
        };
        self.take(size).map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_carries_its_payload_size() {
        let mut out = Vec::new();
        put_method(&mut out, 3, BASIC_ACK, |out| {
            out.extend_from_slice(&[0; 9]);
            Ok(())
        })
        .unwrap();
        assert_eq!(out[..7], [1, 0, 3, 0, 0, 0, 13]);
        assert_eq!(out[7..11], [0, 60, 0, 80]);
        assert_eq!(out.len(), 13 + FRAME_OVERHEAD_BYTES);
        assert_eq!(out.last(), Some(&FRAME_END));
    }

    #[test]
    fn a_table_made_from_json_can_be_searched() {
        let json = serde_json::json!({
            "a": null, "b": true, "c": -5, "d": 1.5, "e": [1, "x"], "f": {"product": "no"}, "product": "P"
        });
        let mut out = Vec::new();
        put_table(&mut out, json.as_object().unwrap()).unwrap();
        let table = Args(&out).longstr().unwrap();
        assert_eq!(Args::table_text(table, "product").unwrap().as_deref(), Some("P"));
        assert_eq!(Args::table_text(table, "absent").unwrap(), None);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let long = "x".repeat(256);
        assert!(put_short(&mut Vec::new(), &long).is_err());
        let json = serde_json::json!({"n": u64::MAX});
        assert!(put_table(&mut Vec::new(), json.as_object().unwrap()).is_err());
    }

    #[test]
    fn truncated_arguments_are_an_error() {
        assert!(Args(&[0, 0, 0, 9, 1]).longstr().is_err());
        assert!(Args(&[5, b'a']).shortstr().is_err());
        assert!(Args::table_text(&[1, b'k', b'?'], "z").is_err());
    }
}

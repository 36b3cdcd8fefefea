//! Commands: frames with a name and data. ZMTP 3.1, "Commands".

use super::frame::{COMMAND, put_header};

/// Octets of a ping's context that a pong gives back.
pub const CONTEXT_BYTES_MAX: usize = 16;

/// A command's name and data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Command<'a> {
    /// The name.
    pub name: &'a [u8],
    /// What comes behind it.
    pub data: &'a [u8],
}

/// Splits a command frame's body. `None` if the name is empty or longer than the body.
#[must_use]
pub fn split(body: &[u8]) -> Option<Command<'_>> {
    let (&len, rest) = body.split_first()?;
    let (name, data) = rest.split_at_checked(usize::from(len))?;
    (!name.is_empty()).then_some(Command { name, data })
}

/// Appends a command frame.
pub fn put(out: &mut Vec<u8>, name: &str, data: &[u8]) {
    put_header(out, COMMAND, 1 + name.len() + data.len());
    put_body(out, name, data);
}

/// Appends a command's body, for where it goes into a box.
pub fn put_body(out: &mut Vec<u8>, name: &str, data: &[u8]) {
    debug_assert!(name.len() <= 255, "our own names are short");
    out.push(name.len() as u8);
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(data);
}

/// The data of an ERROR command. Reasons are cut at 255 octets.
#[must_use]
pub fn error_data(reason: &str) -> Vec<u8> {
    let reason = reason.as_bytes();
    let reason = &reason[..reason.len().min(255)];
    let mut data = vec![reason.len() as u8];
    data.extend_from_slice(reason);
    data
}

/// The reason in an ERROR command's data, for people. What is not printable is replaced, as it ends in logs.
#[must_use]
pub fn error_reason(data: &[u8]) -> String {
    let reason = match data.split_first() {
        Some((&len, rest)) => rest.get(..usize::from(len)).unwrap_or(rest),
        None => data,
    };
    reason.iter().take(255).map(|&b| if (b' '..=b'~').contains(&b) { char::from(b) } else { '?' }).collect()
}

/// A ping: how long we may be considered alive after it, in tenths of a second, and what the pong is to give back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ping<'a> {
    /// Tenths of a second; 0 asks for nothing.
    pub ttl_ds: u16,
    /// At most [`CONTEXT_BYTES_MAX`] octets.
    pub context: &'a [u8],
}

impl<'a> Ping<'a> {
    /// Reads a PING command's data. A context that is too long is cut, as libzmq does. `None` without a time to live.
    #[must_use]
    pub fn parse(data: &'a [u8]) -> Option<Ping<'a>> {
        let (ttl, context) = data.split_first_chunk::<2>()?;
        let context = &context[..context.len().min(CONTEXT_BYTES_MAX)];
        Some(Ping { ttl_ds: u16::from_be_bytes(*ttl), context })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_must_fit_and_not_be_empty() {
        assert_eq!(split(b"\x04PING\0\x05ctx"), Some(Command { name: b"PING", data: b"\0\x05ctx" }));
        assert_eq!(split(b""), None);
        assert_eq!(split(b"\0x"), None);
        assert_eq!(split(b"\x05PING"), None);
    }

    #[test]
    fn a_context_is_cut_at_its_maximum() {
        let ping = Ping::parse(b"\0\x0a0123456789abcdefGHI").unwrap();
        assert_eq!((ping.ttl_ds, ping.context), (10, &b"0123456789abcdef"[..]));
        assert_eq!(Ping::parse(b"\0"), None);
    }

    #[test]
    fn reasons_are_fit_for_a_log() {
        assert_eq!(error_reason(&error_data("no")), "no");
        assert_eq!(error_reason(b"\x09a\nb"), "a?b");
        assert_eq!(error_reason(b""), "");
        assert_eq!(error_data(&"x".repeat(300)).len(), 256);
    }
}

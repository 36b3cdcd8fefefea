//! Frames: a flags octet, a size of one or eight octets, a body. ZMTP 3.1, "Framing".

/// More frames of the message follow.
pub const MORE: u8 = 1;
/// The size has eight octets.
pub const LONG: u8 = 2;
/// A command, not a part of a message.
pub const COMMAND: u8 = 4;

/// Octets of the longest header.
pub const HEADER_BYTES_MAX: usize = 9;

/// A header, with where its frame lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// [`MORE`], [`LONG`], [`COMMAND`].
    pub flags: u8,
    /// Octets of the header itself.
    pub header_len: usize,
    /// Octets of the body, as announced. Not yet held against any limit, and at most 2^63-1.
    pub body_len: u64,
}

/// A header that no frame can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Bits 3 to 7 are reserved, and a command is a single frame.
    #[error("frame with flags {0:#04x}")]
    Flags(u8),
    /// Sizes end at 2^63-1.
    #[error("frame size {0} is out of range")]
    Size(u64),
}

/// Reads the header at the front of `bytes`; `None` while it is incomplete.
///
/// # Errors
/// [`FrameError`].
pub fn header(bytes: &[u8]) -> Result<Option<Header>, FrameError> {
    let Some(&flags) = bytes.first() else { return Ok(None) };
    if flags & !(MORE | LONG | COMMAND) != 0 || flags & (COMMAND | MORE) == COMMAND | MORE {
        return Err(FrameError::Flags(flags));
    }
    if flags & LONG == 0 {
        return Ok(bytes.get(1).map(|&len| Header { flags, header_len: 2, body_len: u64::from(len) }));
    }
    let Some(size) = bytes.get(1..).and_then(|rest| rest.first_chunk::<8>()) else { return Ok(None) };
    let body_len = u64::from_be_bytes(*size);
    if body_len > i64::MAX.unsigned_abs() {
        return Err(FrameError::Size(body_len));
    }
    Ok(Some(Header { flags, header_len: HEADER_BYTES_MAX, body_len }))
}

/// Appends the header of a frame with `len` octets, in its shortest form. [`LONG`] need not be given.
pub fn put_header(out: &mut Vec<u8>, flags: u8, len: usize) {
    match u8::try_from(len) {
        Ok(short) => out.extend_from_slice(&[flags & !LONG, short]),
        Err(_) => {
            out.push(flags | LONG);
            out.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
}

/// Appends a frame.
pub fn put_frame(out: &mut Vec<u8>, flags: u8, body: &[u8]) {
    put_header(out, flags, body.len());
    out.extend_from_slice(body);
}

/// Appends a message of these frames.
pub fn put_message<'a>(out: &mut Vec<u8>, frames: impl IntoIterator<Item = &'a [u8]>) {
    let mut frames = frames.into_iter().peekable();
    while let Some(frame) = frames.next() {
        put_frame(out, if frames.peek().is_some() { MORE } else { 0 }, frame);
    }
}

/// A frame inside bytes that hold whole frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// [`MORE`], [`LONG`], [`COMMAND`].
    pub flags: u8,
    /// The body.
    pub body: &'a [u8],
    /// Octets of header and body.
    pub len: usize,
}

impl Frame<'_> {
    /// Whether more frames of the message follow.
    #[must_use]
    pub const fn more(&self) -> bool {
        self.flags & MORE != 0
    }
}

/// The frame at the front of `bytes`; `None` if it is not whole, or none at all.
#[must_use]
pub fn first(bytes: &[u8]) -> Option<Frame<'_>> {
    // What nearly every frame is, without the checks that only long ones need.
    if let [flags @ (0 | MORE), len, rest @ ..] = bytes {
        let body = rest.get(..usize::from(*len))?;
        return Some(Frame { flags: *flags, body, len: body.len() + 2 });
    }
    let h = header(bytes).ok().flatten()?;
    let end = h.header_len.checked_add(usize::try_from(h.body_len).ok()?)?;
    Some(Frame { flags: h.flags, body: bytes.get(h.header_len..end)?, len: end })
}

/// The frames of `bytes`, up to the first that is not whole.
pub fn frames(mut bytes: &[u8]) -> impl Iterator<Item = Frame<'_>> {
    std::iter::from_fn(move || {
        let frame = first(bytes)?;
        bytes = bytes.get(frame.len..)?;
        Some(frame)
    })
}

/// Octets of the message at the front of `bytes`; `None` if it is not whole.
#[must_use]
pub fn message_len(bytes: &[u8]) -> Option<usize> {
    let mut len = 0;
    loop {
        let frame = first(bytes.get(len..)?)?;
        len += frame.len;
        if !frame.more() {
            return Some(len);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_take_their_shortest_form() {
        for (len, header_len) in [(0, 2), (255, 2), (256, 9), (70_000, 9)] {
            let mut out = Vec::new();
            put_frame(&mut out, MORE, &vec![7; len]);
            assert_eq!(out.len(), len + header_len);
            let frame = first(&out).unwrap();
            assert_eq!((frame.body.len(), frame.len, frame.more()), (len, out.len(), true));
        }
    }

    #[test]
    fn a_long_size_for_a_short_body_is_legal() {
        let wire = [LONG, 0, 0, 0, 0, 0, 0, 0, 1, b'x'];
        assert_eq!(first(&wire).unwrap().body, b"x");
    }

    #[test]
    fn reserved_bits_and_sizes_out_of_range_are_faults() {
        for flags in [8, 16, 0x80, MORE | COMMAND, MORE | COMMAND | LONG] {
            assert_eq!(header(&[flags, 0]), Err(FrameError::Flags(flags)));
        }
        let mut wire = [0xff; 9];
        wire[0] = LONG;
        assert_eq!(header(&wire), Err(FrameError::Size(u64::MAX)));
        wire[1] = 0x7f;
        assert_eq!(header(&wire).unwrap().unwrap().body_len, i64::MAX as u64);
        assert_eq!(first(&wire), None);
    }

    #[test]
    fn incomplete_is_none_at_every_cut() {
        let mut wire = Vec::new();
        put_message(&mut wire, [&[1; 300][..], b"two", b""]);
        assert_eq!(message_len(&wire), Some(wire.len()));
        for cut in 0..wire.len() {
            assert_eq!(message_len(&wire[..cut]), None, "{cut}");
        }
        assert_eq!(frames(&wire).map(|f| f.body.len()).collect::<Vec<_>>(), [300, 3, 0]);
    }
}

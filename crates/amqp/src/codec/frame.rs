//! Frames: type, channel, size, payload, end octet (§4.2.3).

use thiserror::Error;

use super::method::{MethodArgs, encode_args};

/// The octet that ends every frame.
pub const FRAME_END: u8 = 0xCE;

/// Bytes before the payload.
pub const FRAME_HEADER_LEN: usize = 7;

/// Bytes of a frame that are not payload: header and end octet.
pub const FRAME_OVERHEAD: usize = FRAME_HEADER_LEN + 1;

/// What every peer must take (`frame-min-size`).
pub const FRAME_MIN_SIZE: u32 = 4096;

/// A heartbeat, ready to send.
pub const HEARTBEAT_FRAME: [u8; 8] = [8, 0, 0, 0, 0, 0, 0, FRAME_END];

/// What a frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum FrameKind {
    /// A method and its arguments.
    Method = 1,
    /// Class, body size and properties of a content.
    Header = 2,
    /// Some bytes of a content's body.
    Body = 3,
    /// Nothing, to show life.
    Heartbeat = 8,
}

impl FrameKind {
    fn from_octet(octet: u8) -> Option<Self> {
        match octet {
            1 => Some(Self::Method),
            2 => Some(Self::Header),
            3 => Some(Self::Body),
            8 => Some(Self::Heartbeat),
            _ => None,
        }
    }

    /// How the kind is called in reply texts.
    pub fn name(self) -> &'static str {
        match self {
            Self::Method => "method",
            Self::Header => "content header",
            Self::Body => "content body",
            Self::Heartbeat => "heartbeat",
        }
    }
}

/// Bytes that are no frame. All of them are reply code 501, and leave the stream without a known next frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum FrameError {
    /// §4.2.3: the type octet is none of the known ones.
    #[error("unknown frame type {0}")]
    UnknownType(u8),
    /// §2.3.7: larger than negotiated.
    #[error("frame of {size} bytes is larger than the negotiated maximum of {max}")]
    TooLarge {
        /// The whole frame, as announced.
        size: u64,
        /// The negotiated maximum.
        max: u32,
    },
    /// §4.2.3: the octet after the payload is not [`FRAME_END`].
    #[error("invalid frame end marker {0}")]
    End(u8),
}

/// A complete frame, borrowed from the bytes received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// What it carries.
    pub kind: FrameKind,
    /// The channel; 0 is the connection.
    pub channel: u16,
    /// Without header and end octet.
    pub payload: &'a [u8],
}

impl<'a> Frame<'a> {
    /// The frame at the start of `bytes`, or `None` while it is incomplete.
    ///
    /// # Errors
    ///
    /// [`FrameError`], as soon as the bytes at hand show it.
    pub fn parse(bytes: &'a [u8], frame_bytes_max: u32) -> Result<Option<Self>, FrameError> {
        let Some(&octet) = bytes.first() else {
            return Ok(None);
        };
        let kind = FrameKind::from_octet(octet).ok_or(FrameError::UnknownType(octet))?;
        let Some(&[_, c0, c1, s0, s1, s2, s3]) = bytes.first_chunk::<FRAME_HEADER_LEN>() else {
            return Ok(None);
        };
        let size = u32::from_be_bytes([s0, s1, s2, s3]);
        let whole = u64::from(size) + FRAME_OVERHEAD as u64;
        if whole > u64::from(frame_bytes_max) {
            return Err(FrameError::TooLarge { size: whole, max: frame_bytes_max });
        }
        // Fits: at most `frame_bytes_max`, a u32.
        let end = FRAME_HEADER_LEN + size as usize;
        let Some(&marker) = bytes.get(end) else {
            return Ok(None);
        };
        if marker != FRAME_END {
            return Err(FrameError::End(marker));
        }
        let channel = u16::from_be_bytes([c0, c1]);
        Ok(Some(Frame { kind, channel, payload: &bytes[FRAME_HEADER_LEN..end] }))
    }

    /// The whole frame's length in bytes.
    pub fn wire_len(&self) -> usize {
        self.payload.len() + FRAME_OVERHEAD
    }
}

/// Appends a frame whose payload is written by `payload`.
pub fn encode(out: &mut Vec<u8>, kind: FrameKind, channel: u16, payload: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    out.push(kind as u8);
    out.extend_from_slice(&channel.to_be_bytes());
    out.extend_from_slice(&[0; 4]);
    payload(out);
    let size = out.len() - at - FRAME_HEADER_LEN;
    // Cannot truncate: what we write is bounded far below 4 GiB by the negotiated maximum and by what tables can hold.
    out[at + 3..at + 7].copy_from_slice(&(size as u32).to_be_bytes());
    out.push(FRAME_END);
}

/// Appends a method frame.
pub fn encode_method<'a>(out: &mut Vec<u8>, channel: u16, args: &impl MethodArgs<'a>) {
    encode(out, FrameKind::Method, channel, |out| encode_args(out, args));
}

/// Appends `body` as body frames of at most `frame_bytes_max` each; none for an empty body (§4.2.6.2).
pub fn encode_body(out: &mut Vec<u8>, channel: u16, body: &[u8], frame_bytes_max: u32) {
    let payload_max = (frame_bytes_max as usize).saturating_sub(FRAME_OVERHEAD).max(1);
    for chunk in body.chunks(payload_max) {
        encode(out, FrameKind::Body, channel, |out| out.extend_from_slice(chunk));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s4_2_3_a_frame_is_whole_or_not_there() {
        let mut bytes = Vec::new();
        encode(&mut bytes, FrameKind::Body, 0x0102, |out| out.extend_from_slice(b"hello"));
        bytes.extend_from_slice(b"rest");
        let whole = bytes.len() - 4;
        for cut in 0..whole {
            assert_eq!(Frame::parse(&bytes[..cut], 4096), Ok(None));
        }
        let frame = Frame::parse(&bytes, 4096).unwrap().unwrap();
        assert_eq!((frame.kind, frame.channel), (FrameKind::Body, 0x0102));
        assert_eq!((frame.payload, frame.wire_len()), (&b"hello"[..], whole));
    }

    #[test]
    fn s4_2_3_broken_frames() {
        assert_eq!(Frame::parse(b"\x04", 4096), Err(FrameError::UnknownType(4)));
        assert_eq!(Frame::parse(b"\x03\0\x01\0\0\0\x01xy", 4096), Err(FrameError::End(b'y')));
        let too_large = Frame::parse(b"\x03\0\x01\xff\xff\xff\xff", 4096);
        assert_eq!(too_large, Err(FrameError::TooLarge { size: 0x1_0000_0007, max: 4096 }));
        // The size counts the frame's own 8 bytes.
        assert_eq!(Frame::parse(b"\x03\0\x01\0\0\x0f\xf8", 4096), Ok(None));
        assert!(Frame::parse(b"\x03\0\x01\0\0\x0f\xf9", 4096).is_err());
    }

    #[test]
    fn s4_2_6_2_bodies_are_cut_to_the_frame_size() {
        let mut bytes = Vec::new();
        encode_body(&mut bytes, 1, &[7; 10], 12);
        let sizes: Vec<usize> = std::iter::from_fn({
            let mut rest = &bytes[..];
            move || {
                let frame = Frame::parse(rest, 12).unwrap()?;
                rest = &rest[frame.wire_len()..];
                Some(frame.payload.len())
            }
        })
        .collect();
        assert_eq!(sizes, [4, 4, 2]);
        bytes.clear();
        encode_body(&mut bytes, 1, b"", 12);
        assert!(bytes.is_empty());
    }
}

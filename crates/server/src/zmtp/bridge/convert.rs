//! Messages of ZeroMQ as messages of the broker, and back.
//!
//! | ZeroMQ | broker |
//! |---|---|
//! | one frame | the body is the frame |
//! | several frames | the body is the message as ZMTP frames it, content type [`MULTIPART`] |
//! | with an exchange: two frames, topic and rest | routing key and body |
//! | with an exchange: one frame | the routing key is its first word, the body the frame, type [`SINGLE`] |
//! | with an exchange: more frames | the routing key is the first, the body all of it as above |

use waypost_model::props::{DELIVERY_MODE_PERSISTENT, Props, PropsOwned, ShortStr};
use waypost_zmtp::Chunk;
use waypost_zmtp::wire::chunk::frames;
use waypost_zmtp::wire::frame;

/// Content type of messages with several frames.
pub(super) const MULTIPART: &str = "application/x-zmtp";
/// Type of messages that came to an exchange as one frame.
pub(super) const SINGLE: &str = "zmtp.single";
/// Octets of a routing key.
const KEY_BYTES_MAX: usize = 255;

/// Encoded properties, made once.
#[derive(Debug)]
pub(super) struct Forms {
    pub(super) plain: Vec<u8>,
    pub(super) multipart: Vec<u8>,
    pub(super) single: Vec<u8>,
}

impl Forms {
    pub(super) fn persistent() -> Forms {
        Forms::new(Some(DELIVERY_MODE_PERSISTENT))
    }

    pub(super) fn transient() -> Forms {
        Forms::new(None)
    }

    fn new(delivery_mode: Option<u8>) -> Forms {
        let plain = PropsOwned { delivery_mode, ..PropsOwned::default() };
        let multipart = PropsOwned { content_type: ShortStr::new(MULTIPART), ..plain.clone() };
        let single = PropsOwned { type_: ShortStr::new(SINGLE), ..plain.clone() };
        Forms { plain: plain.to_bytes(), multipart: multipart.to_bytes(), single: single.to_bytes() }
    }

    /// Properties and body of a message for a queue.
    pub(super) fn for_queue<'a>(&'a self, message: &'a [u8]) -> (&'a [u8], &'a [u8]) {
        match frame::first(message) {
            Some(only) if !only.more() => (&self.plain, only.body),
            _ => (&self.multipart, message),
        }
    }

    /// Routing key, properties and body of a message for an exchange; `None` if the key would be too long.
    pub(super) fn for_exchange<'a>(&'a self, message: &'a [u8]) -> Option<(&'a [u8], &'a [u8], &'a [u8])> {
        let mut all = frames(message);
        let (first, second, third) = (all.next()?, all.next(), all.next());
        let (key, props, body) = match (second, third) {
            (None, _) => {
                let end = first.body.iter().position(|&b| b == b' ').unwrap_or(first.body.len());
                (first.body.get(..end)?, &self.single, first.body)
            }
            (Some(second), None) => (first.body, &self.plain, second.body),
            _ => (first.body, &self.multipart, message),
        };
        (key.len() <= KEY_BYTES_MAX).then_some((key, props, body))
    }
}

/// Appends a message from a queue.
pub(super) fn from_queue(props: &[u8], body: &[u8], out: &mut Vec<u8>) {
    match is_multipart(props, body) {
        true => out.extend_from_slice(body),
        false => frame::put_frame(out, 0, body),
    }
}

/// Appends a message from an exchange.
pub(super) fn from_exchange(key: &[u8], props: &[u8], body: &[u8], out: &mut Vec<u8>) {
    if is_multipart(props, body) {
        out.extend_from_slice(body);
    } else if Props(props).type_() == Some(SINGLE.as_bytes()) {
        frame::put_frame(out, 0, body);
    } else {
        frame::put_message(out, [key, body]);
    }
}

/// Anybody may write that content type: it is believed only if the body is one message.
fn is_multipart(props: &[u8], body: &[u8]) -> bool {
    Props(props).content_type() == Some(MULTIPART.as_bytes())
        && frame::message_len(body) == Some(body.len())
        && frames(body).all(|f| f.flags & frame::COMMAND == 0)
}

/// A chunk of messages that were appended to `wire`.
pub(super) fn chunk(wire: Vec<u8>) -> Option<Chunk> {
    Chunk::parse(wire)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(parts: &[&str]) -> Vec<u8> {
        let mut out = Vec::new();
        frame::put_message(&mut out, parts.iter().map(|p| p.as_bytes()));
        out
    }

    #[test]
    fn what_goes_into_a_queue_comes_out_the_same() {
        let forms = Forms::persistent();
        for parts in [&["one"][..], &[""], &["a", "", "c"]] {
            let wire = message(parts);
            let (props, body) = forms.for_queue(&wire);
            let mut back = Vec::new();
            from_queue(props, body, &mut back);
            assert_eq!(back, wire, "{parts:?}");
        }
    }

    #[test]
    fn what_goes_through_an_exchange_comes_out_the_same() {
        let forms = Forms::transient();
        for (parts, key) in [
            (&["news.sport hello"][..], "news.sport"),
            (&["news", "body"], "news"),
            (&["news", ""], "news"),
            (&["news", "a", "b"], "news"),
            (&[""], ""),
        ] {
            let wire = message(parts);
            let (found, props, body) = forms.for_exchange(&wire).unwrap();
            assert_eq!(found, key.as_bytes());
            let mut back = Vec::new();
            from_exchange(found, props, body, &mut back);
            assert_eq!(back, wire, "{parts:?}");
        }
        assert!(forms.for_exchange(&message(&[&"x".repeat(256), "b"])).is_none());
    }

    #[test]
    fn a_content_type_alone_makes_no_frames() {
        let forms = Forms::transient();
        for body in [&b"not frames"[..], b"\x01\x01a", b"\x04\x05\x04PING", b"\0\x01a\0\x01b"] {
            let mut back = Vec::new();
            from_queue(&forms.multipart, body, &mut back);
            assert_eq!(frame::first(&back).unwrap().body, body);
        }
    }
}

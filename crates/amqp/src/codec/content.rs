//! Content headers (§4.2.6.1).

use super::field::DecodeError;

/// The payload of a content header frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContentHeader<'a> {
    /// The class of the method that the content belongs to; always 60, `basic`.
    pub class_id: u16,
    /// Bytes of body to come.
    pub body_size: u64,
    /// The property list: flags and values (see [`waypost_model::props`]), not looked into.
    pub props: &'a [u8],
}

/// Bytes of the payload before the property list.
pub const CONTENT_HEADER_LEN: usize = 12;

impl<'a> ContentHeader<'a> {
    /// Reads a header frame's payload. The weight is ignored, as it is by every deployed peer.
    ///
    /// # Errors
    ///
    /// [`DecodeError::Truncated`] if it is shorter than its fixed part.
    pub fn decode(payload: &'a [u8]) -> Result<Self, DecodeError> {
        let (fixed, props) = payload.split_first_chunk::<CONTENT_HEADER_LEN>().ok_or(DecodeError::Truncated)?;
        let [c0, c1, _, _, size @ ..] = *fixed;
        Ok(ContentHeader { class_id: u16::from_be_bytes([c0, c1]), body_size: u64::from_be_bytes(size), props })
    }

    /// Appends the payload, with weight 0.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.class_id.to_be_bytes());
        out.extend_from_slice(&[0; 2]);
        out.extend_from_slice(&self.body_size.to_be_bytes());
        out.extend_from_slice(self.props);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s4_2_6_1_header_comes_back_as_it_went() {
        let header = ContentHeader { class_id: 60, body_size: 1 << 40, props: &[0x10, 0, 2] };
        let mut bytes = Vec::new();
        header.encode(&mut bytes);
        assert_eq!(ContentHeader::decode(&bytes), Ok(header));
        assert_eq!(ContentHeader::decode(&bytes[..11]), Err(DecodeError::Truncated));
        // A weight is ignored.
        bytes[3] = 7;
        assert_eq!(ContentHeader::decode(&bytes), Ok(header));
    }
}

//! Frames: four octets of length, then a header, then the request.

use crate::wire::{Field, Form, Malformed, Reader};

/// What stands before every request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestHeader {
    /// Which API.
    pub api_key: i16,
    /// Which version of it.
    pub api_version: i16,
    /// Given back with the answer.
    pub correlation_id: i32,
    /// What the client calls itself.
    pub client_id: Option<Box<str>>,
}

/// How a header ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderForm {
    /// With the client's id.
    Plain,
    /// With tagged fields behind it.
    Tagged,
}

impl RequestHeader {
    /// Reads a header. `form` says how the header of an API and version ends.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn read(from: &mut Reader<'_>, form: impl Fn(i16, i16) -> HeaderForm) -> Result<RequestHeader, Malformed> {
        // The client's id has the old form of a text in every header.
        let old = Form { version: 0, flexible: false };
        let api_key = i16::get(from, old, "api key")?;
        let api_version = i16::get(from, old, "api version")?;
        let correlation_id = i32::get(from, old, "correlation id")?;
        let client_id = Field::get(from, old, "client id")?;
        if form(api_key, api_version) == HeaderForm::Tagged {
            from.tagged(|_, _| Ok(()))?;
        }
        Ok(RequestHeader { api_key, api_version, correlation_id, client_id })
    }
}

/// The length of the first frame of `bytes`, without its four octets, once these are there.
///
/// # Errors
/// It is negative, or above `max`: nothing that follows can be understood.
pub fn length(bytes: &[u8], max: usize) -> Result<Option<usize>, Malformed> {
    let Some(head) = bytes.first_chunk::<4>() else { return Ok(None) };
    let length = usize::try_from(i32::from_be_bytes(*head)).map_err(|_| Malformed::Value("frame length"))?;
    if length > max { Err(Malformed::Value("frame length")) } else { Ok(Some(length)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_both_forms() {
        let mut bytes = vec![0, 3, 0, 9, 0, 0, 0, 5, 0, 2, b'm', b'e'];
        let plain = RequestHeader::read(&mut Reader::new(&bytes), |_, _| HeaderForm::Plain).unwrap();
        let wanted = RequestHeader { api_key: 3, api_version: 9, correlation_id: 5, client_id: Some("me".into()) };
        assert_eq!(plain, wanted);
        bytes.extend_from_slice(&[1, 7, 2, 0, 0, 42]);
        let mut reader = Reader::new(&bytes);
        assert_eq!(RequestHeader::read(&mut reader, |_, _| HeaderForm::Tagged).unwrap(), wanted);
        assert_eq!(reader.left(), 1);
        for cut in 0..bytes.len() - 1 {
            let mut reader = Reader::new(&bytes[..cut]);
            assert!(RequestHeader::read(&mut reader, |_, _| HeaderForm::Tagged).is_err(), "{cut}");
        }
    }

    #[test]
    fn lengths_beyond_the_bound_are_refused_before_anything_is_read() {
        assert_eq!(length(&[0, 0, 0], 10), Ok(None));
        assert_eq!(length(&[0, 0, 0, 9], 10), Ok(Some(9)));
        assert!(length(&[0, 0, 0, 11], 10).is_err());
        assert!(length(&[0x7f, 0xff, 0xff, 0xff], 1 << 20).is_err());
        assert!(length(&[0xff, 0, 0, 0], 10).is_err());
    }
}

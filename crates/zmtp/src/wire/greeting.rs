//! The greeting: 64 octets that each side sends without waiting for the other's. ZMTP 3.1, "Version Negotiation".

/// Octets of a greeting.
pub const GREETING_BYTES: usize = 64;

const VERSION_AT: usize = 10;
const MECHANISM_AT: usize = 12;
const MECHANISM_BYTES: usize = 20;
const AS_SERVER_AT: usize = 32;

/// What a greeting says. The octet `as-server` is not among it: libzmq sends 0 in either role, so nothing can rest on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Greeting {
    /// The major version; at least 3.
    pub major: u8,
    /// The minor version.
    pub minor: u8,
    /// The mechanism's name, without padding.
    pub mechanism: Box<[u8]>,
}

/// A greeting that we cannot go on from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum GreetingError {
    /// It is not ZMTP, or ZMTP 1.0, which has no signature.
    #[error("no zmtp greeting (octet {at} is {octet:#04x})")]
    Signature {
        /// Which octet.
        at: usize,
        /// What it is.
        octet: u8,
    },
    /// We speak ZMTP 3 and do not downgrade.
    #[error("zmtp version {0}, which is older than 3")]
    Version(u8),
}

/// Our greeting.
#[must_use]
pub fn greeting(mechanism: &str, as_server: bool) -> [u8; GREETING_BYTES] {
    let mut out = [0; GREETING_BYTES];
    out[0] = 0xff;
    out[9] = 0x7f;
    out[VERSION_AT] = 3;
    out[VERSION_AT + 1] = 1;
    for (to, from) in out[MECHANISM_AT..AS_SERVER_AT].iter_mut().zip(mechanism.bytes()) {
        *to = from;
    }
    out[AS_SERVER_AT] = u8::from(as_server);
    out
}

/// Reads as much of a greeting as has come: faults show at the first wrong octet, so that who speaks something else is
/// told apart at once. `None` while it is incomplete.
///
/// # Errors
/// [`GreetingError`].
pub fn parse(bytes: &[u8]) -> Result<Option<Greeting>, GreetingError> {
    // The eight octets between are padding that nobody may look at.
    for (at, wanted) in [(0, 0xff), (9, 0x7f)] {
        match bytes.get(at) {
            // libzmq looks at the lowest bit only.
            Some(&octet) if octet != wanted && (at == 0 || octet & 1 == 0) => {
                return Err(GreetingError::Signature { at, octet });
            }
            _ => {}
        }
    }
    if let Some(&major) = bytes.get(VERSION_AT)
        && major < 3
    {
        return Err(GreetingError::Version(major));
    }
    let Some(whole) = bytes.first_chunk::<GREETING_BYTES>() else { return Ok(None) };
    let name = &whole[MECHANISM_AT..MECHANISM_AT + MECHANISM_BYTES];
    // A null inside the name stays, so that `NULL\0X` is not taken for `NULL`.
    let end = name.iter().rposition(|&octet| octet != 0).map_or(0, |last| last + 1);
    Ok(Some(Greeting {
        major: whole[VERSION_AT],
        minor: whole[VERSION_AT + 1],
        mechanism: name.get(..end).unwrap_or_default().into(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comes_octet_by_octet() {
        let wire = greeting("CURVE", true);
        for cut in 0..GREETING_BYTES {
            assert_eq!(parse(&wire[..cut]), Ok(None), "{cut}");
        }
        assert_eq!(parse(&wire), Ok(Some(Greeting { major: 3, minor: 1, mechanism: (*b"CURVE").into() })));
    }

    #[test]
    fn padding_is_not_looked_at_and_higher_versions_are_taken() {
        let mut wire = greeting("NULL", false);
        wire[1..9].fill(0xee);
        wire[10] = 9;
        assert_eq!(parse(&wire).unwrap().unwrap().major, 9);
    }

    #[test]
    fn old_and_foreign_peers_are_told_apart_early() {
        assert_eq!(parse(b"GET "), Err(GreetingError::Signature { at: 0, octet: b'G' }));
        let mut wire = greeting("NULL", false);
        for major in 0..3 {
            wire[10] = major;
            assert_eq!(parse(&wire[..11]), Err(GreetingError::Version(major)));
        }
        wire[9] = 0;
        assert_eq!(parse(&wire[..10]), Err(GreetingError::Signature { at: 9, octet: 0 }));
    }

    #[test]
    fn a_mechanism_is_compared_with_its_padding() {
        let mut wire = greeting("NULL", false);
        wire[MECHANISM_AT + 5] = b'X';
        assert_eq!(&*parse(&wire).unwrap().unwrap().mechanism, b"NULL\0X");
    }
}

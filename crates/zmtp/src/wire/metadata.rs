//! Connection metadata: what READY and INITIATE carry. ZMTP 3.1, "Connection Metadata".

use crate::socket_type::SocketType;

/// Octets of metadata that a peer may send.
pub const METADATA_BYTES_MAX: usize = 16 * 1024;

/// Octets of an identity.
pub const IDENTITY_BYTES_MAX: usize = 255;

/// What a peer told of itself. Unknown properties are passed over.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Metadata {
    /// Its socket type; `None` if it did not say.
    pub socket_type: Option<SocketType>,
    /// Its identity; empty if it has none.
    pub identity: Box<[u8]>,
}

/// Metadata that break a rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MetadataError {
    /// Lengths that do not fit.
    #[error("malformed metadata")]
    Malformed,
    /// A socket type that no peer of ours can be.
    #[error("unknown socket type {0}")]
    SocketType(String),
    /// Longer than 255 octets, or beginning with 0, which is for invented ones.
    #[error("invalid identity")]
    Identity,
}

/// Appends a property.
pub fn put(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    debug_assert!(name.len() <= 255 && u32::try_from(value.len()).is_ok(), "our own properties are short");
    out.push(name.len() as u8);
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(&(value.len() as u32).to_be_bytes());
    out.extend_from_slice(value);
}

/// Our metadata.
#[must_use]
pub fn encode(socket_type: SocketType, identity: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(64);
    put(&mut out, "Socket-Type", socket_type.name().as_bytes());
    if socket_type.has_identity() {
        put(&mut out, "Identity", identity);
    }
    out
}

/// Reads a peer's metadata.
///
/// # Errors
/// [`MetadataError`].
pub fn parse(mut bytes: &[u8]) -> Result<Metadata, MetadataError> {
    if bytes.len() > METADATA_BYTES_MAX {
        return Err(MetadataError::Malformed);
    }
    let mut found = Metadata::default();
    while !bytes.is_empty() {
        let (name, value, rest) = property(bytes).ok_or(MetadataError::Malformed)?;
        bytes = rest;
        if name.eq_ignore_ascii_case(b"Socket-Type") {
            let known = SocketType::parse(value);
            found.socket_type = Some(known.ok_or_else(|| {
                let shown = value.get(..value.len().min(32)).unwrap_or_default();
                MetadataError::SocketType(shown.escape_ascii().to_string())
            })?);
        } else if name.eq_ignore_ascii_case(b"Identity") {
            if value.len() > IDENTITY_BYTES_MAX || value.first() == Some(&0) {
                return Err(MetadataError::Identity);
            }
            found.identity = value.into();
        }
    }
    Ok(found)
}

/// Name, value, and what comes behind.
fn property(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (&len, rest) = bytes.split_first()?;
    let (name, rest) = rest.split_at_checked(usize::from(len))?;
    let (len, rest) = rest.split_first_chunk::<4>()?;
    let (value, rest) = rest.split_at_checked(usize::try_from(u32::from_be_bytes(*len)).ok()?)?;
    (!name.is_empty()).then_some((name, value, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_case_insensitive_and_unknown_ones_pass() {
        let mut wire = Vec::new();
        put(&mut wire, "SOCKET-TYPE", b"DEALER");
        put(&mut wire, "X-Colour", b"blue");
        put(&mut wire, "identity", b"me");
        let found = parse(&wire).unwrap();
        assert_eq!((found.socket_type, &*found.identity), (Some(SocketType::Dealer), &b"me"[..]));
    }

    #[test]
    fn every_cut_of_a_property_is_malformed() {
        let wire = encode(SocketType::Req, b"id");
        let first = 1 + 11 + 4 + 3;
        for cut in (1..wire.len()).filter(|&cut| cut != first) {
            assert_eq!(parse(&wire[..cut]), Err(MetadataError::Malformed), "{cut}");
        }
        assert!(parse(&wire).is_ok());
        assert_eq!(parse(b"\0\0\0\0\0"), Err(MetadataError::Malformed));
        assert_eq!(parse(b"\x01a\xff\xff\xff\xffxx"), Err(MetadataError::Malformed));
    }

    #[test]
    fn identities_are_short_and_do_not_begin_with_zero() {
        for bad in [&[0u8, 1][..], &[1; 256]] {
            let mut wire = Vec::new();
            put(&mut wire, "Identity", bad);
            assert_eq!(parse(&wire), Err(MetadataError::Identity));
        }
    }
}

//! The name in a peer's certificate.
//!
//! The certificate was verified before; this only finds its subject's common name. DER, RFC 5280 §4.1.

/// Longest common name that is of use: RFC 5280's upper bound is 64, user names end at 255.
const NAME_MAX: usize = 255;

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const INTEGER: u8 = 0x02;
const OBJECT_ID: u8 = 0x06;
const UTF8_STRING: u8 = 0x0c;
const PRINTABLE_STRING: u8 = 0x13;
const IA5_STRING: u8 = 0x16;
/// The explicit tag of the version.
const VERSION: u8 = 0xa0;
/// 2.5.4.3.
const COMMON_NAME: [u8; 3] = [0x55, 0x04, 0x03];

/// The last common name of the certificate's subject, if it has one in a plain encoding.
#[must_use]
pub fn common_name(certificate: &[u8]) -> Option<String> {
    let mut outer = Der(certificate);
    let mut certificate = Der(outer.expect(SEQUENCE)?);
    let mut tbs = Der(certificate.expect(SEQUENCE)?);
    if tbs.peek() == Some(VERSION) {
        tbs.any()?;
    }
    tbs.expect(INTEGER)?;
    // Signature algorithm, issuer, validity.
    for _ in 0..3 {
        tbs.expect(SEQUENCE)?;
    }
    let mut subject = Der(tbs.expect(SEQUENCE)?);
    let mut found = None;
    while subject.peek().is_some() {
        let mut set = Der(subject.expect(SET)?);
        while set.peek().is_some() {
            let mut attribute = Der(set.expect(SEQUENCE)?);
            if attribute.expect(OBJECT_ID)? == COMMON_NAME {
                found = Some(attribute.any()?);
            }
        }
    }
    match found? {
        (UTF8_STRING | PRINTABLE_STRING | IA5_STRING, name) if name.len() <= NAME_MAX => {
            String::from_utf8(name.to_vec()).ok()
        }
        _ => None,
    }
}

/// The rest of a sequence of elements.
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    fn peek(&self) -> Option<u8> {
        self.0.first().copied()
    }

    /// The content of the next element, which must have this tag.
    fn expect(&mut self, tag: u8) -> Option<&'a [u8]> {
        let (found, content) = self.any()?;
        (found == tag).then_some(content)
    }

    /// Tag and content of the next element.
    fn any(&mut self) -> Option<(u8, &'a [u8])> {
        let (&[tag, length], mut rest) = self.0.split_first_chunk::<2>()?;
        let mut length = usize::from(length);
        if length >= 0x80 {
            let digits = length - 0x80;
            if !(1..=3).contains(&digits) {
                return None;
            }
            let (number, after) = rest.split_at_checked(digits)?;
            length = number.iter().fold(0, |n, &b| n << 8 | usize::from(b));
            rest = after;
        }
        let (content, after) = rest.split_at_checked(length)?;
        self.0 = after;
        Some((tag, content))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DnType, KeyPair};

    fn certificate(names: &[(DnType, &str)]) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        for (kind, name) in names {
            params.distinguished_name.push(kind.clone(), *name);
        }
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn the_subject_is_found() {
        let der = certificate(&[(DnType::OrganizationName, "Örg"), (DnType::CommonName, "cart")]);
        assert_eq!(common_name(&der).as_deref(), Some("cart"));
        assert_eq!(common_name(&certificate(&[(DnType::OrganizationName, "x")])), None);
    }

    #[test]
    fn no_cut_is_too_short() {
        let der = certificate(&[(DnType::CommonName, "cart")]);
        for n in 0..der.len() {
            assert_eq!(common_name(&der[..n]), None);
        }
    }
}

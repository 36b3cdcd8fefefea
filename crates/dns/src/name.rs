//! Domain names as they stand in messages. RFC 1035 §3.1, §4.1.4.

use crate::query::Malformed;

/// Longest name, in octets on the wire, its root label included. RFC 1035 §2.3.4.
pub const NAME_BYTES_MAX: usize = 255;

/// Longest label. RFC 1035 §2.3.4.
pub(crate) const LABEL_BYTES_MAX: usize = 63;

/// Most labels: each takes two octets at least.
const LABELS_MAX: usize = NAME_BYTES_MAX / 2;

/// A name in lower case, kept in place.
#[derive(Clone, Debug)]
pub struct Name {
    /// Labels with their lengths, without the root label.
    bytes: [u8; NAME_BYTES_MAX],
    len: usize,
    /// Where each label's length stands in `bytes`.
    starts: [u8; LABELS_MAX],
    count: usize,
    /// Whether no pointer was followed: then a label stands as far into the name on the wire as it does here.
    contiguous: bool,
}

impl Name {
    /// Reads the name at `at`, following pointers, and says where the message goes on behind it.
    ///
    /// # Errors
    /// What breaks RFC 1035. A pointer must point before the place where the name or the last pointer's target began, so
    /// that following them comes to an end.
    pub fn read(message: &[u8], at: usize) -> Result<(Name, usize), Malformed> {
        let mut name = Name { bytes: [0; NAME_BYTES_MAX], len: 0, starts: [0; LABELS_MAX], count: 0, contiguous: true };
        let (mut at, mut from, mut behind) = (at, at, None);
        loop {
            let first = *message.get(at).ok_or(Malformed::Short)?;
            match first >> 6 {
                0b00 if first == 0 => return Ok((name, behind.unwrap_or(at + 1))),
                0b00 => {
                    let len = usize::from(first);
                    name.push(message.get(at + 1..at + 1 + len).ok_or(Malformed::Short)?)?;
                    at += 1 + len;
                }
                0b11 => {
                    let low = *message.get(at + 1).ok_or(Malformed::Short)?;
                    behind.get_or_insert(at + 2);
                    let target = usize::from(first & 0x3f) << 8 | usize::from(low);
                    if target >= from {
                        return Err(Malformed::Pointer);
                    }
                    (at, from) = (target, target);
                    name.contiguous = false;
                }
                _ => return Err(Malformed::Label),
            }
        }
    }

    fn push(&mut self, label: &[u8]) -> Result<(), Malformed> {
        debug_assert!(label.len() <= LABEL_BYTES_MAX);
        let end = self.len + 1 + label.len();
        // One octet stays for the root label.
        let (Some(start), true) = (self.starts.get_mut(self.count), end < NAME_BYTES_MAX) else {
            return Err(Malformed::LongName);
        };
        *start = u8::try_from(self.len).map_err(|_| Malformed::LongName)?;
        self.bytes[self.len] = u8::try_from(label.len()).map_err(|_| Malformed::Label)?;
        for (to, from) in self.bytes[self.len + 1..end].iter_mut().zip(label) {
            *to = from.to_ascii_lowercase();
        }
        self.len = end;
        self.count += 1;
        Ok(())
    }

    /// How many labels it has, the root not counted.
    #[must_use]
    pub fn labels(&self) -> usize {
        self.count
    }

    /// Whether it is the root.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.count == 0
    }

    /// A label, in lower case; nothing past the end.
    #[must_use]
    pub fn label(&self, index: usize) -> &[u8] {
        if index >= self.count {
            return &[];
        }
        let start = usize::from(self.starts[index]);
        let len = usize::from(self.bytes[start]);
        &self.bytes[start + 1..start + 1 + len]
    }

    /// A label as text; nothing if it is none.
    #[must_use]
    pub fn text(&self, index: usize) -> Option<&str> {
        std::str::from_utf8(self.label(index)).ok()
    }

    /// Where a label stands, counted from the name's first octet; the end for a label past the last. Of use only while
    /// [`Name::is_contiguous`].
    #[must_use]
    pub fn offset(&self, index: usize) -> usize {
        if index < self.count { usize::from(self.starts[index]) } else { self.len }
    }

    /// Whether it stood in the message as a whole.
    #[must_use]
    pub fn is_contiguous(&self) -> bool {
        self.contiguous
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s4_1_4_names_with_and_without_pointers() {
        let message = b"\x01A\x03BcD\x00\x02xy\xc0\x02\xc0\x00";
        let (name, next) = Name::read(message, 0).unwrap();
        assert_eq!((name.labels(), name.label(0), name.label(1), next), (2, &b"a"[..], &b"bcd"[..], 7));
        assert!(name.is_contiguous());
        let (name, next) = Name::read(message, 7).unwrap();
        assert_eq!((name.labels(), name.label(0), name.label(1), next), (2, &b"xy"[..], &b"bcd"[..], 12));
        assert!(!name.is_contiguous());
    }

    #[test]
    fn pointers_that_do_not_lead_back_are_refused() {
        for message in [&b"\xc0\x00"[..], b"\xc0\x02\x00", b"\x01a\xc0\x00\xc0\x05\xc0\x04"] {
            for at in 0..message.len() {
                if let Ok((name, _)) = Name::read(message, at) {
                    assert!(name.labels() <= 1, "{message:?} at {at}");
                }
            }
        }
        assert_eq!(Name::read(b"\xc0\x00", 0).unwrap_err(), Malformed::Pointer);
        // A loop by way of a label.
        assert_eq!(Name::read(b"\x01a\xc0\x00", 0).unwrap_err(), Malformed::Pointer);
    }

    #[test]
    fn s2_3_4_lengths() {
        let mut long = Vec::new();
        for _ in 0..3 {
            long.push(63);
            long.extend([b'x'; 63]);
        }
        let mut fits = long.clone();
        fits.push(61);
        fits.extend([b'x'; 61]);
        fits.push(0);
        assert_eq!(fits.len(), NAME_BYTES_MAX);
        assert_eq!(Name::read(&fits, 0).unwrap().0.labels(), 4);
        long.push(62);
        long.extend([b'x'; 62]);
        long.push(0);
        assert_eq!(Name::read(&long, 0).unwrap_err(), Malformed::LongName);
        let mut many = [1, b'a'].repeat(127);
        many.push(0);
        assert_eq!(Name::read(&many, 0).unwrap().0.labels(), 127);
        for bad in [&b"\x03ab"[..], b"", b"\x01a"] {
            assert_eq!(Name::read(bad, 0).unwrap_err(), Malformed::Short);
        }
        assert_eq!(Name::read(b"\x40a\x00", 0).unwrap_err(), Malformed::Label);
    }
}

//! Reading from the front of a request.

use super::Malformed;

/// Most items of all lists of a request together. A node has fewer partitions than half of that; an item of one byte may
/// take a hundred in memory, and its answer as many again.
pub(crate) const ITEMS_MAX: usize = 500_000;

/// See the module.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
    items: usize,
}

impl<'a> Reader<'a> {
    /// Reads `bytes`.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, items: ITEMS_MAX }
    }

    /// How many bytes are left.
    #[must_use]
    pub fn left(&self) -> usize {
        self.rest.len()
    }

    /// Whether nothing is left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Takes note that a list has so many items, of at least so many bytes each.
    ///
    /// # Errors
    /// There are too few bytes for them, or the request has more than [`ITEMS_MAX`].
    pub fn count(&mut self, items: usize, least: usize, what: &'static str) -> Result<(), Malformed> {
        if items > self.left() / least.max(1) {
            return Err(Malformed::Short(what));
        }
        self.items = self.items.checked_sub(items).ok_or(Malformed::Many(what))?;
        Ok(())
    }

    /// The next `n` bytes.
    ///
    /// # Errors
    /// There are fewer.
    pub fn take(&mut self, n: usize, what: &'static str) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.rest.split_at_checked(n).ok_or(Malformed::Short(what))?;
        self.rest = rest;
        Ok(taken)
    }

    /// The next `N` bytes.
    ///
    /// # Errors
    /// There are fewer.
    pub fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], Malformed> {
        let (taken, rest) = self.rest.split_first_chunk().ok_or(Malformed::Short(what))?;
        self.rest = rest;
        Ok(*taken)
    }

    /// An unsigned number of variable length, at most 32 bits.
    ///
    /// # Errors
    /// It does not end in five bytes, or has more bits.
    pub fn uvarint(&mut self, what: &'static str) -> Result<u32, Malformed> {
        let mut value = 0_u64;
        for shift in [0, 7, 14, 21, 28] {
            let [byte] = self.array(what)?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return u32::try_from(value).map_err(|_| Malformed::Value(what));
            }
        }
        Err(Malformed::Value(what))
    }

    /// A length or count: `None` is null. `wide`: four octets where it is not flexible, else two.
    ///
    /// # Errors
    /// It is negative but for null.
    pub fn length(&mut self, flexible: bool, wide: bool, what: &'static str) -> Result<Option<usize>, Malformed> {
        let length = if flexible {
            i64::from(self.uvarint(what)?) - 1
        } else if wide {
            i64::from(i32::from_be_bytes(self.array(what)?))
        } else {
            i64::from(i16::from_be_bytes(self.array(what)?))
        };
        match length {
            -1 => Ok(None),
            n => usize::try_from(n).map(Some).map_err(|_| Malformed::Value(what)),
        }
    }

    /// Calls `each` with the tag and the bytes of every tagged field.
    ///
    /// # Errors
    /// Those of `each`, and [`Malformed`].
    pub fn tagged(
        &mut self,
        mut each: impl FnMut(u32, &mut Reader<'a>) -> Result<(), Malformed>,
    ) -> Result<(), Malformed> {
        for _ in 0..self.uvarint("tagged fields")? {
            let (tag, size) = (self.uvarint("tag")?, self.uvarint("tag size")?);
            let value = self.take(usize::try_from(size).unwrap_or(usize::MAX), "tagged field")?;
            let mut value = Reader { rest: value, items: self.items };
            each(tag, &mut value)?;
            self.items = value.items;
        }
        Ok(())
    }
}

/// Appends an unsigned number of variable length.
pub(crate) fn put_uvarint(out: &mut Vec<u8>, mut value: u32) {
    while value > 0x7f {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a length or count; see [`Reader::length`]. What does not fit is cut by the caller.
pub(super) fn put_length(out: &mut Vec<u8>, length: Option<usize>, flexible: bool, wide: bool) {
    if flexible {
        put_uvarint(out, length.map_or(0, |n| u32::try_from(n).unwrap_or(u32::MAX - 1).saturating_add(1)));
    } else if wide {
        let n = length.map_or(-1, |n| i32::try_from(n).unwrap_or(i32::MAX));
        out.extend_from_slice(&n.to_be_bytes());
    } else {
        let n = length.map_or(-1, |n| i16::try_from(n).unwrap_or(i16::MAX));
        out.extend_from_slice(&n.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_lists_of_a_request_share_one_bound() {
        let bytes = vec![0; 2 * ITEMS_MAX];
        let mut reader = Reader::new(&bytes);
        assert_eq!(reader.count(ITEMS_MAX + 1, 1, "list"), Err(Malformed::Many("list")));
        assert_eq!(reader.count(ITEMS_MAX - 1, 2, "list"), Ok(()));
        assert_eq!(reader.count(1, 1, "list"), Ok(()));
        assert_eq!(reader.count(1, 1, "list"), Err(Malformed::Many("list")));
        assert_eq!(Reader::new(&bytes).count(ITEMS_MAX, 5, "list"), Err(Malformed::Short("list")));
    }

    #[test]
    fn lists_in_tagged_fields_count_as_others_do() {
        let bytes = [2, 0, 1, 9, 1, 1, 9, 9];
        let mut reader = Reader::new(&bytes);
        let count = |_, value: &mut Reader<'_>| value.count(1, 1, "tagged");
        reader.tagged(count).unwrap();
        assert_eq!(reader.count(ITEMS_MAX - 1, 0, "list"), Err(Malformed::Short("list")));
        assert_eq!(reader.items, ITEMS_MAX - 2);
    }
}

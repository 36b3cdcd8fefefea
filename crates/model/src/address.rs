//! What routing to a service chose, as [`crate::message::Route::address`] carries it through storage to the mailbox.
//!
//! ```text
//! version u8 = 1 | flags u8 | slot u16, if keyed | length u16, recipient, if it has one | length u8, zone, if near one | selector
//! ```
//!
//! Numbers are big-endian; the selector is its canonical text and takes what is left. A message that any instance may
//! take, without key and zone, has no address at all.

use std::sync::Arc;

use crate::message::Route;
use crate::selector::SELECTOR_BYTES_MAX;
use crate::service::{INSTANCE_ID_MAX, WORD_MAX};

/// Keys share that many slots per selector; order and ownership go by slot.
pub const KEY_SLOTS: u16 = 4096;

const VERSION: u8 = 1;
const KEYED: u8 = 1;
const RECIPIENT: u8 = 2;
const NEAR: u8 = 4;

const _: () = assert!(2 + 2 + 2 + INSTANCE_ID_MAX + 1 + WORD_MAX + SELECTOR_BYTES_MAX <= Route::ADDRESS_MAX);

/// For which instances of a service a message is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Address<'a> {
    /// The slot of its key: messages of a slot go to one instance at a time, in order.
    pub slot: Option<u16>,
    /// The only instance that this copy is for.
    pub recipient: Option<&'a str>,
    /// The zone that is preferred.
    pub near: Option<&'a str>,
    /// The canonical text of the selector; empty for any.
    pub selector: &'a str,
}

/// The slot of a key. Part of the storage format: it must never change.
#[must_use]
pub fn slot_of(key: &[u8]) -> u16 {
    // FNV-1a, whose low bits are its weakest.
    let hash = key.iter().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3));
    ((hash ^ (hash >> 12) ^ (hash >> 24) ^ (hash >> 36)) & u64::from(KEY_SLOTS - 1)) as u16
}

impl<'a> Address<'a> {
    /// Whether it says nothing.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        *self == Address::default()
    }

    /// As a route carries it; `None` if it says nothing. Parts beyond their limits do not come from checked selectors and
    /// instances, and are left out.
    #[must_use]
    pub fn encode(&self) -> Option<Arc<[u8]>> {
        if self.is_plain() {
            return None;
        }
        let recipient = self.recipient.filter(|r| r.len() <= INSTANCE_ID_MAX);
        let near = self.near.filter(|z| z.len() <= WORD_MAX);
        let mut flags = 0;
        let parts = recipient.map_or(0, str::len) + near.map_or(0, str::len) + self.selector.len();
        // What says which part is how long takes seven bytes at most.
        let mut out = Vec::with_capacity(parts + 7);
        out.extend([VERSION, 0]);
        if let Some(slot) = self.slot {
            flags |= KEYED;
            out.extend(slot.to_be_bytes());
        }
        if let Some(id) = recipient {
            flags |= RECIPIENT;
            out.extend((id.len() as u16).to_be_bytes());
            out.extend(id.as_bytes());
        }
        if let Some(zone) = near {
            flags |= NEAR;
            out.push(zone.len() as u8);
            out.extend(zone.as_bytes());
        }
        out[1] = flags;
        out.extend_from_slice(self.selector.as_bytes().get(..SELECTOR_BYTES_MAX).unwrap_or(self.selector.as_bytes()));
        Some(out.into())
    }

    /// Reads one. `None`: it is none, or of a later version.
    #[must_use]
    pub fn decode(bytes: &'a [u8]) -> Option<Address<'a>> {
        let [VERSION, flags, rest @ ..] = bytes else {
            return None;
        };
        let (flags, mut rest) = (*flags, rest);
        if flags & !(KEYED | RECIPIENT | NEAR) != 0 {
            return None;
        }
        let mut take = |n: usize| {
            let (head, tail) = rest.split_at_checked(n)?;
            rest = tail;
            Some(head)
        };
        let mut address = Address::default();
        if flags & KEYED != 0 {
            let slot = u16::from_be_bytes(take(2)?.try_into().ok()?);
            address.slot = Some(slot).filter(|s| *s < KEY_SLOTS);
            address.slot?;
        }
        if flags & RECIPIENT != 0 {
            let len = u16::from_be_bytes(take(2)?.try_into().ok()?);
            address.recipient = Some(std::str::from_utf8(take(len.into())?).ok()?);
        }
        if flags & NEAR != 0 {
            let len = take(1)?.first().copied()?;
            address.near = Some(std::str::from_utf8(take(len.into())?).ok()?);
        }
        address.selector = std::str::from_utf8(rest).ok()?;
        Some(address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_read_back() {
        let whole = Address { slot: Some(4095), recipient: Some("i-1"), near: Some("eu"), selector: "tag=a" };
        for a in [
            whole,
            Address { slot: None, ..whole },
            Address { recipient: None, ..whole },
            Address { near: None, ..whole },
            Address { selector: "", ..whole },
            Address { slot: Some(0), ..Address::default() },
        ] {
            assert_eq!(Address::decode(&a.encode().unwrap()), Some(a));
        }
        assert_eq!(Address::default().encode(), None);
    }

    #[test]
    fn what_is_no_address_is_none() {
        let good = Address { slot: Some(7), recipient: Some("i-1"), near: Some("eu"), selector: "" }.encode().unwrap();
        for cut in 0..good.len() {
            assert_eq!(Address::decode(&good[..cut]), None, "{cut}");
        }
        for (at, byte) in [(0, 2), (1, 0x80), (2, 0x10)] {
            let mut bad = good.to_vec();
            bad[at] = byte;
            assert_eq!(Address::decode(&bad), None);
        }
    }

    #[test]
    fn slots_are_what_they_have_been_and_spread() {
        assert_eq!([slot_of(b""), slot_of(b"a"), slot_of(b"customer-17")], [3149, 3536, 3241]);
        let mut used = std::collections::BTreeSet::new();
        used.extend((0..4096).map(|i| slot_of(format!("key-{i}").as_bytes())));
        // A perfect hash of as many keys leaves about 1/e of the slots free.
        assert!((2400..2800).contains(&used.len()), "{}", used.len());
    }
}

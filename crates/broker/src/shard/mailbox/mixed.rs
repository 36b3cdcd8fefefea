//! The lane that further selectors share: each of them has a slot of its own there, as long as something of it is left.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Bound;

use waypost_model::address::{Address, slot_of};

use super::lane::Keyed;
use super::{MIXED, Source};

/// Selectors, with keys counted apart, that share the lane without getting into each other's way. What comes beyond that
/// while as many wait shares slots with others by hash, and may wait for them.
pub const MIXED_SLOTS_MAX: u16 = 8192;

/// So many of one selector are looked at before it is taken to be in use.
const LOOK_MAX: usize = 64;

/// So many are remembered for nothing before those are forgotten of which nothing is left.
const IDLE_MAX: usize = 1024;

/// Which slot of the shared lane is whose.
#[derive(Debug, Default)]
pub(super) struct MixedSlots {
    /// By selector or recipient, and behind that the key: see [`name_of`].
    by_text: BTreeMap<Box<str>, u16>,
    /// Numbers of those that were forgotten.
    free: Vec<u16>,
    /// As many were given out.
    next: u16,
    /// When there are so many it is time to forget.
    prune_at: usize,
    /// Some that have no number of their own may be there.
    crowded: bool,
}

/// The selector or recipient of an address; what else it says of the slot follows.
fn name_of<'a>(a: &Address<'a>) -> Cow<'a, str> {
    a.recipient.map_or(Cow::Borrowed(a.selector), |id| format!("\0{id}").into())
}

/// Whether anything waits or is unsettled in a slot. One number may serve for both kinds when it was shared by hash.
fn is_used(slot: u16, lane: Option<&Keyed>) -> bool {
    lane.is_some_and(|keyed| [slot & !1, slot | 1].iter().any(|s| keyed.slots.contains_key(s)))
}

/// Whether a slot of a lane is one of keys: those have owners. In the shared lane the odd ones are.
pub(super) fn has_owners(source: Source) -> bool {
    source.slot.is_some_and(|slot| source.lane != MIXED || slot % 2 == 1)
}

impl MixedSlots {
    /// The slot for a message. `true`: others were forgotten for it, and who remembers their slots must forget them, too.
    pub fn slot(&mut self, a: &Address<'_>, lane: Option<&Keyed>) -> (u16, bool) {
        let name = name_of(a);
        let text = match a.slot.filter(|_| a.recipient.is_none()) {
            Some(key) => format!("{name}\u{1}{key}"),
            None => name.into_owned(),
        };
        let keyed = u16::from(a.recipient.is_none() && a.slot.is_some());
        if let Some(slot) = self.by_text.get(&*text) {
            return (*slot, false);
        }
        let forgot = self.by_text.len() >= self.prune_at.max(IDLE_MAX);
        if forgot {
            self.forget(lane);
        }
        let number = self.free.pop().or_else(|| {
            let fresh = (self.next < MIXED_SLOTS_MAX).then_some(self.next);
            self.next += u16::from(fresh.is_some());
            fresh
        });
        match number {
            Some(number) => {
                self.by_text.insert(text.into(), number * 2 + keyed);
                (number * 2 + keyed, forgot)
            }
            None => {
                self.crowded = true;
                (slot_of(text.as_bytes()) % MIXED_SLOTS_MAX * 2 + keyed, forgot)
            }
        }
    }

    /// Whether messages with this selector, whatever their key, may be left here: then those that come must wait behind them,
    /// even if there is a lane for them now.
    pub fn keeps(&mut self, a: &Address<'_>, lane: Option<&Keyed>) -> bool {
        if self.crowded {
            if lane.is_some_and(|keyed| !keyed.slots.is_empty()) {
                return true;
            }
            self.crowded = false;
        }
        let name = name_of(a);
        let mut looked = 0;
        self.slots_of(&name).any(|(_, slot)| {
            looked += 1;
            looked > LOOK_MAX || is_used(slot, lane)
        })
    }

    /// Forgets the slots of a selector that [`MixedSlots::keeps`] nothing of: it has a lane.
    pub fn leave(&mut self, a: &Address<'_>) {
        let name = name_of(a);
        let left: Vec<(Box<str>, u16)> = self.slots_of(&name).map(|(text, slot)| (text.into(), slot)).collect();
        for (text, slot) in left {
            self.by_text.remove(&text);
            self.free.push(slot / 2);
        }
    }

    fn slots_of(&self, name: &str) -> impl Iterator<Item = (&str, u16)> {
        let from = (Bound::Included(name), Bound::Unbounded);
        let is_of =
            move |text: &str| text.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('\u{1}'));
        self.by_text.range::<str, _>(from).map(|(text, slot)| (&**text, *slot)).take_while(move |(text, _)| is_of(text))
    }

    /// Forgets those of which nothing waits or is unsettled.
    fn forget(&mut self, lane: Option<&Keyed>) {
        let free = &mut self.free;
        self.by_text.retain(|_, slot| {
            let used = is_used(*slot, lane);
            if !used {
                free.push(*slot / 2);
            }
            used
        });
        self.prune_at = self.by_text.len() * 2 + IDLE_MAX;
    }
}

const _: () = assert!(MIXED_SLOTS_MAX <= u16::MAX / 2, "twice as many, and one that is none");

#[cfg(test)]
mod tests {
    use super::super::lane::Slot;
    use super::*;

    #[test]
    fn selectors_have_slots_of_their_own_until_there_are_too_many() {
        let mut slots = MixedSlots::default();
        let mut lane = Keyed::default();
        let texts: Vec<String> = (0..MIXED_SLOTS_MAX).map(|n| format!("tag=t{n}")).collect();
        let of = |text: &'static str| Address { selector: text, ..Address::default() };
        let mut seen = std::collections::BTreeSet::new();
        for text in &texts {
            let a = Address { selector: text, ..Address::default() };
            let (slot, _) = slots.slot(&a, Some(&lane));
            assert!(seen.insert(slot) && !has_owners(Source { lane: MIXED, slot: Some(slot) }), "{text}");
            lane.slots.insert(slot, Slot::default());
        }
        let shared = slots.slot(&of("tag=one-more"), Some(&lane)).0;
        assert!(seen.contains(&shared));
        assert!(slots.keeps(&of("tag=nowhere"), Some(&lane)), "it may be behind any of them");
        // Once something of the others is gone there is room again.
        let gone: Vec<u16> = lane.slots.keys().copied().take(100).collect();
        gone.iter().for_each(|slot| drop(lane.slots.remove(slot)));
        slots.prune_at = 0;
        let (slot, forgot) = slots.slot(&of("tag=another"), Some(&lane));
        assert!(forgot && gone.contains(&slot));
        assert_eq!(slots.slot(&of("tag=another"), Some(&lane)), (slot, false));
    }

    #[test]
    fn keys_have_slots_apart() {
        let mut slots = MixedSlots::default();
        let a = Address { selector: "tag=a", ..Address::default() };
        let plain = slots.slot(&a, None).0;
        let keyed = slots.slot(&Address { slot: Some(7), ..a }, None).0;
        assert!(plain / 2 != keyed / 2 && has_owners(Source { lane: MIXED, slot: Some(keyed) }));
        assert_ne!(keyed, slots.slot(&Address { slot: Some(8), ..a }, None).0);
    }

    #[test]
    fn a_selector_is_kept_until_nothing_of_it_is_left_whatever_the_key() {
        let (mut slots, mut lane) = (MixedSlots::default(), Keyed::default());
        let of = |selector, slot| Address { selector, slot, ..Address::default() };
        let (plain, keyed, longer) = (of("tag=a", None), of("tag=a", Some(7)), of("tag=ab", None));
        assert!(!slots.keeps(&plain, Some(&lane)));
        let places = [plain, keyed, longer].map(|a| slots.slot(&a, None).0);
        lane.slots.insert(places[1], Slot::default());
        lane.slots.insert(places[2], Slot::default());
        assert!(slots.keeps(&plain, Some(&lane)) && slots.keeps(&of("tag=a", Some(8)), Some(&lane)));
        lane.slots.remove(&places[1]);
        assert!(!slots.keeps(&plain, Some(&lane)) && slots.keeps(&longer, Some(&lane)));
        slots.leave(&plain);
        assert_eq!((slots.by_text.len(), slots.free.len()), (1, 2));
        let recipient = Address { recipient: Some("a"), ..Address::default() };
        assert!(!slots.keeps(&recipient, Some(&lane)));
        lane.slots.insert(slots.slot(&recipient, Some(&lane)).0, Slot::default());
        assert!(slots.keeps(&recipient, Some(&lane)) && !slots.keeps(&plain, Some(&lane)));
    }
}

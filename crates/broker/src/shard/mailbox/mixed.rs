//! The lane that further selectors share: each of them has a slot of its own there, as long as something of it is left.

use std::collections::BTreeMap;

use waypost_model::address::{Address, slot_of};

use super::lane::Keyed;
use super::{MIXED, Source};

/// Selectors, with keys counted apart, that share the lane without getting into each other's way. What comes beyond that
/// while as many wait shares slots with others by hash, and may wait for them.
pub const MIXED_SLOTS_MAX: u16 = 8192;

/// So many are remembered for nothing before those are forgotten of which nothing is left.
const IDLE_MAX: usize = 1024;

/// Which slot of the shared lane is whose.
#[derive(Debug, Default)]
pub(super) struct MixedSlots {
    /// By selector or recipient, and key.
    by_text: BTreeMap<Box<str>, u16>,
    /// Numbers of those that were forgotten.
    free: Vec<u16>,
    /// As many were given out.
    next: u16,
    /// When there are so many it is time to forget.
    prune_at: usize,
}

/// Whether a slot of a lane is one of keys: those have owners. In the shared lane the odd ones are.
pub(super) fn has_owners(source: Source) -> bool {
    source.slot.is_some_and(|slot| source.lane != MIXED || slot % 2 == 1)
}

impl MixedSlots {
    /// The slot for a message. `true`: others were forgotten for it, and who remembers their slots must forget them, too.
    pub fn slot(&mut self, a: &Address<'_>, lane: Option<&Keyed>) -> (u16, bool) {
        let text = match (a.recipient, a.slot) {
            (Some(id), _) => format!("\0{id}"),
            (None, None) => a.selector.to_owned(),
            (None, Some(key)) => format!("\u{1}{key}&{}", a.selector),
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
            None => (slot_of(text.as_bytes()) % MIXED_SLOTS_MAX * 2 + keyed, forgot),
        }
    }

    /// Forgets those of which nothing waits or is unsettled.
    fn forget(&mut self, lane: Option<&Keyed>) {
        let free = &mut self.free;
        self.by_text.retain(|_, slot| {
            // One number may serve for both kinds when it was shared by hash.
            let both = [*slot & !1, *slot | 1];
            let used = lane.is_some_and(|keyed| both.iter().any(|s| keyed.slots.contains_key(s)));
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
}

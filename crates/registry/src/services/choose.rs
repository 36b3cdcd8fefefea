//! One instance of several, for those who ask for just one.

use std::sync::atomic::Ordering;

use waypost_model::service::{Health, Instance};

use super::Services;
use super::view::{Listed, ServiceView};

/// How many messages or requests an instance has in hand, where somebody knows.
pub type Load<'a> = &'a dyn Fn(&Instance) -> Option<u32>;

/// Spreads the bits of a number.
const fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

impl ServiceView {
    /// One usable instance with an address. Those that pass before those with a warning; by weight; of two drawn, the
    /// one with less in hand for its weight, if `load` knows. `random` decides.
    #[must_use]
    pub fn choose(&self, random: u64, load: Option<Load<'_>>) -> Option<&Listed> {
        let usable = || self.instances.iter().filter(|i| i.is_usable() && i.address().is_some());
        let best =
            if usable().any(|i| i.standing.health == Health::Passing) { Health::Passing } else { Health::Warning };
        let candidates = || usable().filter(|i| i.standing.health == best);
        let total: u64 = candidates().map(|i| u64::from(i.weight())).sum();
        let draw = |random: u64| {
            let mut point = random % total.max(1);
            candidates().find(|i| {
                let weight = u64::from(i.weight());
                let here = point < weight;
                point = point.saturating_sub(weight);
                here
            })
        };
        let first = draw(mix(random))?;
        let Some(load) = load else { return Some(first) };
        let second = draw(mix(random ^ 0x9e37_79b9_7f4a_7c15))?;
        let cost = |i: &Listed| Some((u64::from(load(&i.instance)?) + 1, u64::from(i.weight().max(1))));
        match (cost(first), cost(second)) {
            (Some((a, a_weight)), Some((b, b_weight))) if b * a_weight < a * b_weight => Some(second),
            _ => Some(first),
        }
    }
}

impl Services {
    /// One usable instance of a service with an address, as [`ServiceView::choose`] has it. Each call draws anew.
    #[must_use]
    pub fn choose(&self, service: &str, load: Option<Load<'_>>) -> Option<Listed> {
        let turn = self.tenant.turn.fetch_add(1, Ordering::Relaxed);
        self.view(service).choose(mix(self.registry.settings.seed ^ mix(turn)), load).cloned()
    }
}

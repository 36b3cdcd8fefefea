//! The order of hosts in an answer: the client's own zone first, weighted at random within.

use crate::directory::Host;

/// A generator of pseudo-random numbers (xorshift64*): spreads load, and is no secret.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// Starts from a seed.
    #[must_use]
    pub fn new(seed: u64) -> Dice {
        Dice(seed | 1)
    }

    fn next(&mut self) -> u32 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        // The upper half is the better one; 32 bits of 64 always fit.
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) as u32
    }

    /// Above 0 and at most 1.
    fn share(&mut self) -> f32 {
        (self.next() >> 8) as f32 / (1 << 24) as f32 + f32::EPSILON
    }
}

/// Fills `order` with the indices of those hosts that `fits` lets through, in the order in which to answer. Only the first
/// `wanted` are in order; so many are enough for the caller.
pub fn draw(
    hosts: &[Host],
    even: bool,
    zone: Option<&str>,
    wanted: usize,
    dice: &mut Dice,
    order: &mut Vec<u64>,
    mut fits: impl FnMut(&Host) -> bool,
) {
    order.clear();
    for (index, host) in (0_u32..).zip(hosts) {
        if !fits(host) {
            continue;
        }
        let elsewhere = u64::from(zone.is_some_and(|zone| *host.zone != *zone)) << 63;
        let key = if even { dice.next() >> 1 } else { exponential(dice, host.weight) };
        order.push(elsewhere | u64::from(key) << 32 | u64::from(index));
    }
    if wanted > 0 && order.len() > wanted {
        order.select_nth_unstable(wanted - 1);
        order.truncate(wanted);
    }
    order.sort_unstable();
}

/// The index in an element of an order.
pub fn index(element: u64) -> usize {
    // The lower half is the index; `draw` made it from 32 bits.
    (element & u64::from(u32::MAX)) as usize
}

/// Efraimidis and Spirakis, "Weighted random sampling with a reservoir" (2006): smallest first of exponentially distributed
/// numbers draws without replacement, each time in proportion to the weights. The bits of a positive float keep its order.
fn exponential(dice: &mut Dice, weight: u16) -> u32 {
    let key = -dice.share().min(1.0).ln() / f32::from(weight.max(1));
    key.max(0.0).to_bits() & (u32::MAX >> 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::directory::Target;
    use std::sync::Arc;

    fn host(weight: u16, zone: &str) -> Host {
        let target = Target::Address([127, 0, 0, 1].into());
        Host { target, port: 1, weight, zone: zone.into(), tags: Arc::default(), meta: Arc::default() }
    }

    fn firsts(hosts: &[Host], even: bool, zone: Option<&str>) -> Vec<u32> {
        let (mut dice, mut order, mut counts) = (Dice::new(7), Vec::new(), vec![0; hosts.len()]);
        for _ in 0..20_000 {
            draw(hosts, even, zone, hosts.len(), &mut dice, &mut order, |_| true);
            assert_eq!(order.len(), hosts.len());
            counts[index(order[0])] += 1;
        }
        counts
    }

    #[test]
    fn each_comes_first_as_often_as_its_weight_says() {
        let counts = firsts(&[host(1, ""), host(2, ""), host(7, "")], false, None);
        for (count, share) in counts.iter().zip([2_000.0, 4_000.0, 14_000.0]) {
            assert!((f64::from(*count) / share - 1.0).abs() < 0.1, "{counts:?}");
        }
        let counts = firsts(&[host(1, ""), host(1, ""), host(1, ""), host(1, "")], true, None);
        assert!(counts.iter().all(|count| count.abs_diff(5_000) < 400), "{counts:?}");
    }

    #[test]
    fn the_own_zone_comes_first() {
        let hosts = [host(9, "b"), host(1, "a"), host(1, "a"), host(9, "c")];
        let counts = firsts(&hosts, false, Some("a"));
        assert_eq!((counts[0], counts[3]), (0, 0));
        assert!(counts[1] > 9_000 && counts[2] > 9_000, "{counts:?}");
    }

    #[test]
    fn a_part_is_as_fair_as_the_whole() {
        let hosts: Vec<_> = (0..50).map(|_| host(1, "")).collect();
        let (mut dice, mut order, mut counts) = (Dice::new(1), Vec::new(), [0_u32; 50]);
        for _ in 0..10_000 {
            draw(&hosts, true, None, 5, &mut dice, &mut order, |_| true);
            assert_eq!(order.len(), 5);
            order.iter().for_each(|element| counts[index(*element)] += 1);
        }
        assert!(counts.iter().all(|count| count.abs_diff(1_000) < 150), "{counts:?}");
    }
}

//! Checksums of what has one already: CRC-32C of two parts from those of each, without reading the second again.

use waypost_model::Batch;

/// The polynomial of CRC-32C, lowest power in the highest bit, as everything here.
const POLYNOMIAL: u32 = 0x82f6_3b78;
const ONE: u32 = 1 << 31;
const X: u32 = 1 << 30;

/// x to the power of 2ⁿ: for 8 times any number of 32 bits.
const POWERS: [u32; 35] = {
    let mut powers = [X; 35];
    let mut n = 1;
    while n < powers.len() {
        powers[n] = product(powers[n - 1], powers[n - 1]);
        n += 1;
    }
    powers
};

/// Of two polynomials, modulo [`POLYNOMIAL`].
const fn product(a: u32, mut b: u32) -> u32 {
    let (mut product, mut bit) = (0, ONE);
    while bit != 0 && a & (bit | (bit - 1)) != 0 {
        if a & bit != 0 {
            product ^= b;
        }
        bit >>= 1;
        b = if b & 1 == 0 { b >> 1 } else { (b >> 1) ^ POLYNOMIAL };
    }
    product
}

/// What `crc32c_append(first, second)` says, if `sum` is the checksum of the second part alone, of `len` bytes.
fn combine(first: u32, sum: u32, len: u32) -> u32 {
    let shift = POWERS[3..].iter().enumerate().filter(|(bit, _)| len >> bit & 1 == 1);
    product(shift.fold(ONE, |by, (_, power)| product(*power, by)), first) ^ sum
}

/// What `crc32c_append` says of a part of a batch's bytes.
pub fn append(crc: u32, batch: &Batch, range: std::ops::Range<usize>) -> u32 {
    let data = &batch.data()[range.clone()];
    let Some(sum) = batch.sum().filter(|s| range.start <= s.from as usize && s.to as usize <= range.end) else {
        return crc32c::crc32c_append(crc, data);
    };
    let (head, rest) = data.split_at(sum.from as usize - range.start);
    let (known, rest) = rest.split_at((sum.to - sum.from) as usize);
    debug_assert_eq!(crc32c::crc32c(known), sum.crc32c, "a checksum that was said to be known");
    let crc = combine(crc32c::crc32c_append(crc, head), sum.crc32c, sum.to - sum.from);
    crc32c::crc32c_append(crc, rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use waypost_model::{Slot, Sum};

    fn bytes(n: usize) -> Vec<u8> {
        (0..n as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
    }

    #[test]
    fn what_is_known_of_a_part_says_the_same_as_reading_it() {
        let data = bytes(300_000);
        for len in [0, 1, 2, 3, 7, 8, 9, 255, 256, 4095, 65_536, 66_112, 299_999] {
            let second = &data[1..=len];
            for first in [0, 1, 0xffff_ffff, 0x1234_5678] {
                let whole = crc32c::crc32c_append(first, second);
                assert_eq!(combine(first, crc32c::crc32c(second), len as u32), whole, "{len} {first:x}");
            }
        }
        // As long as can be: zeros, by halves.
        let zeros = crc32c::crc32c(&vec![0; 1 << 20]);
        let doubled = (20..31).fold(zeros, |crc, bit| combine(crc, crc, 1 << bit));
        let all = (0..1 << 11).fold(0, |crc, _| combine(crc, zeros, 1 << 20));
        assert_eq!(doubled, all);
    }

    #[test]
    fn a_known_part_anywhere_changes_nothing() {
        let data = bytes(10_000);
        let slot = Slot { props: 10, props_len: 2, body: 12, body_len: 9000 };
        for (from, to) in [(10, 9012), (12, 9012), (33, 9012), (33, 8000), (33, 33), (5, 9012), (33, 9500), (0, 10_000)]
        {
            let sum = Sum { from, to, crc32c: crc32c::crc32c(&data[from as usize..to as usize]) };
            let batch = Batch::new(data.clone(), vec![slot]).unwrap().with_sum(sum);
            assert_eq!(append(7, &batch, 10..9012), crc32c::crc32c_append(7, &data[10..9012]), "{from} {to}");
        }
        let outside = Sum { from: 5, to: 10_001, crc32c: 1 };
        assert_eq!(Batch::new(data, vec![slot]).unwrap().with_sum(outside).sum(), None);
    }
}

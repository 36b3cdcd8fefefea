//! Which sequence numbers of a stream arrived: exact, cheap while they come in order, one bit each otherwise.

use std::collections::BTreeMap;

/// Numbers per chunk of the bitmap: 8 KiB.
const CHUNK: u64 = 65_536;
const WORDS: usize = (CHUNK / 64) as usize;

/// How a number compares with those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// Higher than all before it.
    InOrder,
    /// Lower than one before it, and new.
    OutOfOrder,
    /// Seen before.
    Duplicate,
}

/// A set of sequence numbers that one consumer got.
#[derive(Clone, Debug, Default)]
pub struct Sequences {
    /// The present run: `run_start..next` arrived one after the other and is not in `chunks` yet.
    run_start: u64,
    next: u64,
    chunks: BTreeMap<u64, Box<[u64; WORDS]>>,
    /// Numbers in `chunks`.
    stored: u64,
}

impl Sequences {
    /// Takes the next number.
    #[inline]
    pub fn add(&mut self, number: u64) -> Arrival {
        if number == self.next {
            self.next += 1;
            Arrival::InOrder
        } else {
            self.jump(number)
        }
    }

    fn jump(&mut self, number: u64) -> Arrival {
        if number > self.next {
            self.store_run();
            self.run_start = number;
            self.next = number + 1;
            return Arrival::InOrder;
        }
        let in_run = (self.run_start..self.next).contains(&number);
        if in_run || !self.store(number) { Arrival::Duplicate } else { Arrival::OutOfOrder }
    }

    fn store_run(&mut self) {
        let mut number = self.run_start;
        while number < self.next {
            let end = ((number / CHUNK + 1) * CHUNK).min(self.next);
            let chunk = self.chunks.entry(number / CHUNK).or_insert_with(|| Box::new([0; WORDS]));
            for at in number % CHUNK..number % CHUNK + (end - number) {
                let (word, bit) = place(at);
                self.stored += u64::from(chunk[word] & bit == 0);
                chunk[word] |= bit;
            }
            number = end;
        }
        self.run_start = self.next;
    }

    /// False if it was there.
    fn store(&mut self, number: u64) -> bool {
        let chunk = self.chunks.entry(number / CHUNK).or_insert_with(|| Box::new([0; WORDS]));
        let (word, bit) = place(number % CHUNK);
        let new = chunk[word] & bit == 0;
        chunk[word] |= bit;
        self.stored += u64::from(new);
        new
    }

    /// How many different numbers arrived.
    pub fn len(&self) -> u64 {
        self.stored + (self.next - self.run_start)
    }

    /// Takes in what another consumer of the same queue got.
    pub fn merge(&mut self, mut other: Self) {
        if other.len() == 0 {
            return;
        }
        if self.len() == 0 {
            *self = other;
            return;
        }
        self.store_run();
        other.store_run();
        for (index, theirs) in other.chunks {
            let ours = self.chunks.entry(index).or_insert_with(|| Box::new([0; WORDS]));
            for (our, their) in ours.iter_mut().zip(theirs.iter()) {
                self.stored += u64::from((their & !*our).count_ones());
                *our |= their;
            }
        }
    }
}

fn place(at: u64) -> (usize, u64) {
    ((at / 64) as usize, 1 << (at % 64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrivals_are_told_apart() {
        let mut set = Sequences::default();
        let arrivals: Vec<_> = [0, 1, 4, 2, 2, 4, 5, 1].iter().map(|n| set.add(*n)).collect();
        use Arrival::{Duplicate, InOrder, OutOfOrder};
        assert_eq!(arrivals, [InOrder, InOrder, InOrder, OutOfOrder, Duplicate, Duplicate, InOrder, Duplicate]);
        assert_eq!(set.len(), 5);
    }

    #[test]
    fn merging_counts_each_number_once() {
        let (mut even, mut odd) = (Sequences::default(), Sequences::default());
        for number in 0..200_000_u64 {
            let set = if number % 2 == 0 { &mut even } else { &mut odd };
            assert_eq!(set.add(number), Arrival::InOrder);
        }
        odd.add(200_001);
        odd.add(10);
        even.merge(odd);
        assert_eq!(even.len(), 200_001);
        let mut empty = Sequences::default();
        empty.merge(even.clone());
        assert_eq!(empty.len(), 200_001);
        even.merge(Sequences::default());
        assert_eq!(even.len(), 200_001);
    }
}

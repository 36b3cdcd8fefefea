//! The transactions that were aborted in one partition. There may be as many as the partition has markers: they are kept,
//! and written down, in chunks that never change once they are full, so that no note of them grows with their number.

use std::collections::VecDeque;

use crate::codec::{Malformed, Reader, Writer};

/// Transactions of a chunk. As a definition it has 24 bytes for each.
const CHUNK: usize = 1024;
const FORMAT: u64 = 1;

/// A transaction that was aborted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Aborted {
    /// Whose it was.
    pub producer_id: i64,
    /// Its first record.
    pub first: u64,
    /// Its marker.
    pub last: u64,
}

#[derive(Debug)]
struct Chunk {
    all: Vec<Aborted>,
    /// The first record of all of them.
    least: u64,
}

/// See the module. In order of their markers.
#[derive(Debug, Default)]
pub(super) struct AbortedList {
    /// The full ones.
    chunks: VecDeque<Chunk>,
    /// The number of the first of them; each has the number after its predecessor's.
    first: u64,
    /// Those before this number are written down.
    kept: u64,
    /// The latest, fewer than a chunk.
    rest: Vec<Aborted>,
    /// Numbers of chunks that were written down, and of which nothing is left.
    dropped: Vec<u64>,
}

/// A chunk as it is written down: its number, its value.
pub type WrittenChunk = (u64, Box<[u8]>);

fn write(all: &[Aborted], w: Writer) -> Writer {
    let count = w.number(all.len() as u64);
    all.iter().fold(count, |w, a| w.number(a.producer_id as u64).number(a.first).number(a.last))
}

fn read(r: &mut Reader<'_>) -> Result<Vec<Aborted>, Malformed> {
    let one =
        |r: &mut Reader<'_>| Ok(Aborted { producer_id: r.number()? as i64, first: r.number()?, last: r.number()? });
    (0..r.count(24)?).map(|_| one(r)).collect()
}

impl Chunk {
    fn new(all: Vec<Aborted>) -> Chunk {
        let least = all.iter().map(|a| a.first).min().unwrap_or(u64::MAX);
        Chunk { all, least }
    }

    fn last(&self) -> u64 {
        self.all.last().map_or(0, |a| a.last)
    }
}

impl AbortedList {
    /// One more, whose marker comes behind all others.
    pub fn push(&mut self, aborted: Aborted) {
        self.rest.push(aborted);
        if self.rest.len() >= CHUNK {
            self.chunks.push_back(Chunk::new(std::mem::take(&mut self.rest)));
        }
    }

    fn next(&self) -> u64 {
        self.first + self.chunks.len() as u64
    }

    /// Those with records in `from..to`.
    pub fn within(&self, from: u64, to: u64) -> Vec<Aborted> {
        let at = self.chunks.partition_point(|c| c.last() < from);
        let chunks = self.chunks.range(at..).filter(|c| c.least < to).flat_map(|c| &c.all);
        let all = chunks.chain(&self.rest);
        all.filter(|a| a.last >= from && a.first < to).copied().collect()
    }

    /// Forgets those whose markers lie before `start`.
    pub fn forget_before(&mut self, start: u64) {
        while let Some(chunk) = self.chunks.front_mut() {
            if chunk.last() >= start {
                // What was written of it stays as it is: who reads it forgets the same.
                chunk.all.retain(|a| a.last >= start);
                return;
            }
            if self.first < self.kept {
                self.dropped.push(self.first);
            }
            self.chunks.pop_front();
            self.first += 1;
        }
        self.rest.retain(|a| a.last >= start);
    }

    /// Numbers of chunks whose definitions are to be removed, in order.
    pub fn dropped(&self) -> &[u64] {
        &self.dropped
    }

    /// They are. None may be left behind while a later one is removed: that would look like a damage.
    pub fn note_dropped(&mut self) {
        self.dropped = Vec::new();
    }

    /// The numbers of the chunks that are written down.
    pub fn kept(&self) -> impl Iterator<Item = u64> + '_ {
        (self.first..self.kept).chain(self.dropped.iter().copied())
    }

    /// How many chunks there were ever, and the rest.
    pub fn write_rest(&self, w: Writer) -> Writer {
        write(&self.rest, w.number(self.next()))
    }

    /// The chunks that are not written down yet.
    pub fn unkept(&self) -> Vec<WrittenChunk> {
        let numbered = (self.first..).zip(&self.chunks).filter(|(number, _)| *number >= self.kept);
        numbered.map(|(number, chunk)| (number, write(&chunk.all, Writer::default().number(FORMAT)).finish())).collect()
    }

    /// They are.
    pub fn note_kept(&mut self) {
        self.kept = self.next();
    }

    /// What [`AbortedList::write_rest`] has written, with the chunks that go with it, by their numbers.
    pub fn read_rest(r: &mut Reader<'_>, chunks: &[(u64, &[u8])]) -> Result<AbortedList, Malformed> {
        let next = r.number()?;
        let rest = read(r)?;
        // Others are left from a chunk that was dropped, or one whose snapshot never came to be.
        let chunks: Vec<_> = chunks.iter().filter(|(number, _)| *number < next).collect();
        let first = next.checked_sub(chunks.len() as u64).ok_or(Malformed)?;
        let mut list = AbortedList { first, kept: next, rest, ..AbortedList::default() };
        for (expected, (number, value)) in (first..).zip(chunks) {
            let mut r = Reader(value);
            if *number != expected || r.number()? != FORMAT {
                return Err(Malformed);
            }
            list.chunks.push_back(Chunk::new(read(&mut r)?));
            r.end()?;
        }
        Ok(list)
    }

    /// As snapshots of format 1 have them: all in one list.
    pub fn read_all(r: &mut Reader<'_>) -> Result<AbortedList, Malformed> {
        let mut list = AbortedList::default();
        read(r)?.into_iter().for_each(|a| list.push(a));
        Ok(list)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn aborted(n: u64) -> Aborted {
        Aborted { producer_id: n as i64, first: n * 10, last: n * 10 + 5 }
    }

    fn of(count: u64) -> AbortedList {
        let mut list = AbortedList::default();
        (0..count).for_each(|n| list.push(aborted(n)));
        list
    }

    fn restored(list: &mut AbortedList, chunks: &mut Vec<WrittenChunk>) -> AbortedList {
        chunks.extend(list.unkept());
        let rest = list.write_rest(Writer::default()).finish();
        list.note_kept();
        let seen: Vec<(u64, &[u8])> = chunks.iter().map(|(number, value)| (*number, &**value)).collect();
        AbortedList::read_rest(&mut Reader(&rest), &seen).unwrap()
    }

    #[test]
    fn a_million_is_written_in_notes_of_a_bounded_size_and_each_once() {
        let mut list = of(1_000_000);
        let mut chunks = list.unkept();
        assert_eq!(chunks.len(), 1_000_000 / CHUNK);
        let rest = list.write_rest(Writer::default()).finish();
        assert!(chunks.iter().map(|(_, value)| value).chain([&rest]).all(|value| value.len() <= 24 * CHUNK + 16));
        list.note_kept();
        assert!(list.unkept().is_empty());
        (1_000_000..1_001_000).for_each(|n| list.push(aborted(n)));
        assert_eq!(list.unkept().len(), 1);
        let again = restored(&mut list, &mut chunks);
        assert_eq!(again.within(0, u64::MAX), (0..1_001_000).map(aborted).collect::<Vec<_>>());
        assert!(again.unkept().is_empty());
    }

    #[test]
    fn those_of_a_range_are_found_wherever_they_lie() {
        let mut list = of(5000);
        assert_eq!(list.within(20_000, 20_020), vec![aborted(2000), aborted(2001)]);
        assert_eq!(list.within(49_990, u64::MAX), vec![aborted(4999)]);
        // A long one ends behind all others.
        let long = Aborted { producer_id: -5, first: 7, last: 60_000 };
        list.push(long);
        (6001..9000).for_each(|n| list.push(aborted(n)));
        assert_eq!(list.within(20_000, 20_010), vec![aborted(2000), long]);
    }

    #[test]
    fn what_is_dropped_is_told_until_it_is_gone_and_not_read_again() {
        let (mut list, mut chunks) = (of(5 * CHUNK as u64 + 7), Vec::new());
        restored(&mut list, &mut chunks);
        let start = aborted(2 * CHUNK as u64 + 3).first;
        list.forget_before(start);
        assert_eq!(list.kept().collect::<Vec<_>>(), [2, 3, 4, 0, 1]);
        assert_eq!(list.dropped(), [0, 1]);
        list.note_dropped();
        assert!(list.dropped().is_empty());
        // The definitions that are to go may still be there, or not.
        for gone in [0, 1, 2] {
            let mut left: Vec<WrittenChunk> = chunks.iter().filter(|(number, _)| *number >= gone).cloned().collect();
            let mut again = restored(&mut list, &mut left);
            again.forget_before(start);
            assert_eq!(again.within(0, u64::MAX), list.within(0, u64::MAX), "{gone}");
            assert_eq!(again.dropped().len() as u64, 2 - gone);
        }
        // One that is missing in between is a damage.
        let rest = list.write_rest(Writer::default()).finish();
        let holed: Vec<(u64, &[u8])> = chunks.iter().filter(|(n, _)| *n != 3).map(|(n, v)| (*n, &**v)).collect();
        assert!(AbortedList::read_rest(&mut Reader(&rest), &holed).is_err());
        list.forget_before(u64::MAX);
        assert!(list.within(0, u64::MAX).is_empty());
        let mut none = restored(&mut list, &mut Vec::new());
        (0..CHUNK as u64).for_each(|n| none.push(aborted(100_000 + n)));
        assert_eq!(none.unkept()[0].0, 5);
    }
}

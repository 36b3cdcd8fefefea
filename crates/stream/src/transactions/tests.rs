//! One transactional id as scripts.

use waypost_model::QueueId;

use super::*;
use crate::partition::Marker;

const T: Millis = Millis(1_000_000);

fn producer(id: i64, epoch: i16) -> Producer {
    Producer { id, epoch }
}

/// One that producer 7 of epoch 0 has.
fn fresh() -> Transaction {
    Transaction::unborn(T).belongs_to(producer(7, 0), false, 1_000, T)
}

type Parts<'a> = &'a [(Arc<str>, i32, QueueId)];
type Next = Result<Option<Transaction>, TransactionFault>;

impl Transaction {
    fn with_partitions(&self, producer: Producer, partitions: Parts<'_>, now: Millis) -> Next {
        self.check(producer)?;
        Ok(self.adding_partitions(partitions, now)?.map(|addition| self.with(addition)))
    }

    fn with_group(&self, producer: Producer, group: &str, now: Millis) -> Next {
        self.check(producer)?;
        Ok(self.adding_group(group, now)?.map(|addition| self.with(addition)))
    }
}

fn part(number: i32) -> (Arc<str>, i32, QueueId) {
    ("t".into(), number, QueueId(number.unsigned_abs().into()))
}

fn begun() -> Transaction {
    fresh().with_partitions(producer(7, 0), &[part(0)], T).unwrap().unwrap()
}

#[test]
fn only_what_was_added_is_written_to() {
    let (me, t) = (producer(7, 0), begun());
    assert_eq!(t.may_write(me, "t", 0, QueueId(0)), Ok(()));
    assert_eq!(t.may_write(me, "t", 1, QueueId(1)), Err(TransactionFault::State));
    // A topic of the same name, made anew.
    assert_eq!(t.may_write(me, "t", 0, QueueId(9)), Err(TransactionFault::State));
    assert_eq!(t.may_write(producer(7, 1), "t", 0, QueueId(0)), Err(TransactionFault::Fenced));
    assert_eq!(t.may_write(producer(8, 0), "t", 0, QueueId(0)), Err(TransactionFault::UnknownProducer));
    assert_eq!(fresh().may_write(me, "t", 0, QueueId(0)), Err(TransactionFault::State));
    assert_eq!(t.with_partitions(me, &[part(0)], T), Ok(None));
    assert_eq!((t.may_commit(me, "g"), fresh().may_commit(me, "g")), {
        (Err(TransactionFault::State), Err(TransactionFault::State))
    });
    let with = t.with_group(me, "g", T).unwrap().unwrap();
    assert_eq!((with.may_commit(me, "g"), with.with_group(me, "g", T)), (Ok(()), Ok(None)));
}

#[test]
fn it_ends_once_and_one_way() {
    let me = producer(7, 0);
    let end = |t: &Transaction, marker| t.ended(me, marker, T);
    assert_eq!(end(&fresh(), Marker::Commit), Err(TransactionFault::State));
    let committed = end(&begun(), Marker::Commit).unwrap().unwrap();
    assert_eq!((committed.phase, committed.partitions.len()), (Phase::CompleteCommit, 0));
    assert_eq!(end(&committed, Marker::Commit), Ok(None));
    assert_eq!(end(&committed, Marker::Abort), Err(TransactionFault::State));
    let again = committed.with_partitions(me, &[part(3)], T.plus(5)).unwrap().unwrap();
    assert_eq!((again.phase, again.started, again.partitions.len()), (Phase::Ongoing, T.plus(5), 1));
    assert_eq!(end(&again, Marker::Abort).unwrap().unwrap().phase, Phase::CompleteAbort);
}

#[test]
fn who_comes_by_its_old_name_gets_in_and_others_do_not() {
    let t = fresh();
    assert_eq!(t.enter(None, 1_000), Ok(Entry::Next));
    assert_eq!(t.enter(Some(producer(7, 0)), 1_000), Ok(Entry::Next));
    assert_eq!(t.enter(Some(producer(7, 1)), 1_000), Err(TransactionFault::Fenced));
    assert_eq!(t.enter(Some(producer(8, 0)), 1_000), Err(TransactionFault::Fenced));
    // It asked and did not hear the answer.
    let next = t.belongs_to(producer(7, 1), true, 1_000, T);
    assert_eq!(next.enter(Some(producer(7, 0)), 1_000), Ok(Entry::Known));
    // Not if somebody else has gone on since.
    let gone_on = next.with_partitions(producer(7, 1), &[part(0)], T).unwrap().unwrap();
    assert_eq!(gone_on.enter(Some(producer(7, 0)), 1_000), Err(TransactionFault::Fenced));
    let taken = t.belongs_to(producer(7, 1), false, 1_000, T);
    assert_eq!(taken.enter(Some(producer(7, 0)), 1_000), Err(TransactionFault::Fenced));
    for timeout in [0, -1, TRANSACTION_TIMEOUT_MS_MAX + 1] {
        assert_eq!(t.enter(None, timeout), Err(TransactionFault::Timeout));
    }
}

#[test]
fn epochs_that_are_used_up_make_way_for_another_id() {
    let last = fresh().belongs_to(producer(7, i16::MAX - 1), false, 1_000, T);
    assert_eq!(last.enter(Some(producer(7, i16::MAX - 1)), 1_000), Ok(Entry::Renewed));
    let renewed = last.belongs_to(producer(8, 0), true, 1_000, T);
    let old = renewed.with_partitions(producer(7, i16::MAX - 1), &[part(0)], T);
    assert_eq!(old, Err(TransactionFault::Fenced));
    assert_eq!(renewed.enter(Some(producer(7, i16::MAX - 1)), 1_000), Ok(Entry::Known));
}

#[test]
fn what_is_open_for_too_long_is_aborted_and_its_producer_may_come_back() {
    let t = begun();
    assert_eq!((fresh().deadline(), t.deadline()), (None, Some(T.plus(1_000))));
    assert_eq!(t.expired(T.plus(999)), None);
    let late = t.expired(T.plus(1_000)).unwrap();
    assert_eq!((late.phase, late.producer), (Phase::CompleteAbort, producer(7, 1)));
    assert_eq!(late.ended(producer(7, 0), Marker::Commit, T), Err(TransactionFault::Fenced));
    assert_eq!(late.enter(Some(producer(7, 0)), 1_000), Ok(Entry::Known));
    assert!(!t.is_forgotten(T.plus(u64::MAX / 2)));
    assert!(late.is_forgotten(T.plus(1_000 + TRANSACTIONAL_ID_EXPIRATION_MS)));
}

#[test]
fn limits() {
    let all: Vec<_> = (0..=i32::try_from(TRANSACTION_PARTITIONS_MAX).unwrap()).map(part).collect();
    let me = producer(7, 0);
    assert!(fresh().with_partitions(me, &all[1..], T).unwrap().is_some());
    assert!(matches!(fresh().with_partitions(me, &all, T), Err(TransactionFault::Limit(_))));
    let mut t = fresh();
    for n in 0..TRANSACTION_GROUPS_MAX {
        t = t.with_group(me, &format!("g{n}"), T).unwrap().unwrap();
    }
    assert!(matches!(t.with_group(me, "one more", T), Err(TransactionFault::Limit(_))));
}

#[test]
fn it_is_read_as_it_was_written() {
    let full = begun().with_group(producer(7, 0), "g", T).unwrap().unwrap();
    for t in [Transaction::unborn(T), fresh(), full.clone(), full.expired(T.plus(5_000)).unwrap()] {
        let bytes = t.write();
        assert_eq!(Transaction::read(&bytes).unwrap(), t);
        for cut in 0..bytes.len() {
            assert!(Transaction::read(&bytes[..cut]).is_err(), "{cut}");
        }
    }
}

#[test]
fn what_is_added_is_only_what_is_new_and_read_as_it_was_written() {
    let t = begun();
    let addition = t.adding_partitions(&[part(0), part(1), part(1)], T).unwrap().unwrap();
    assert_eq!(addition, t.adding_partitions(&[part(1)], T).unwrap().unwrap());
    assert_eq!(t.with(addition.clone()).bytes(), t.bytes() + t.more_bytes(&addition));
    // A topic of the same name, made anew, takes the place of the other one.
    let anew = t.adding_partitions(&[("t".into(), 0, QueueId(9))], T).unwrap().unwrap();
    assert_eq!((t.more_bytes(&anew), t.with(anew.clone()).partitions.len()), (0, 1));
    for addition in [addition, anew, t.adding_group("g", T).unwrap().unwrap()] {
        let bytes = addition.write();
        assert_eq!(Addition::read(&bytes).unwrap(), addition);
        assert!((0..bytes.len()).all(|cut| Addition::read(&bytes[..cut]).is_err()));
    }
}

#[test]
fn what_stands_beside_a_transaction_is_the_later_word() {
    let all: Vec<_> = (0..16).map(part).collect();
    let whole = fresh().with_partitions(producer(7, 0), &all[..15], T).unwrap().unwrap();
    let one = whole.adding_partitions(&[part(15)], T).unwrap().unwrap();
    assert!(whole.is_whole_with(&one));
    let full = whole.with(one);
    assert!(!full.is_whole_with(&full.adding_group("g", T).unwrap().unwrap()));
    // However small it is: what is written whole must not be overruled by what was written before.
    let beside = Transaction { additions: 1, ..begun() };
    assert!(!beside.is_whole_with(&beside.adding_partitions(&[part(1)], T).unwrap().unwrap()));
    let ended = Transaction { additions: 1, ..full }.ended(producer(7, 0), Marker::Abort, T).unwrap().unwrap();
    assert_eq!((ended.additions, ended.bytes()), (0, 0));
}

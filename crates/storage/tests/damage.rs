//! Every flipped bit of a small directory is detected or harmless; arbitrary bytes do no harm.

#![allow(clippy::unwrap_used)] // Helpers of tests are tests.

use std::sync::Arc;

use proptest::prelude::*;
use waypost_model::journal::{BodyStore, Enqueue, Journal, Op};
use waypost_model::{Attrs, BatchBuilder, Millis, QueueId, Route, Seq, SeqRange};
use waypost_storage::fault::FaultDisk;
use waypost_storage::{CommitOutcome, Engine, EngineConfig, verify};

type Contents = (Vec<(u64, u64, Vec<u8>)>, Vec<(Box<[u8]>, Box<[u8]>)>);

/// Opens and reads everything; `Err` if damage is reported.
fn read(disk: &FaultDisk) -> Result<Contents, String> {
    let (e, r) = Engine::open(Arc::new(disk.clone()), EngineConfig::small()).map_err(|e| e.to_string())?;
    let mut messages = Vec::new();
    for run in &r.runs {
        for i in 0..u64::from(run.range.count) {
            let seq = Seq(run.range.first.0 + i);
            let l = e.load(run.range.queue, seq, 1).map_err(|e| e.to_string())?;
            messages.push((run.range.queue.0, seq.0, l.batch.body(l.from).to_vec()));
        }
    }
    Ok((messages, r.definitions))
}

fn small_directory() -> FaultDisk {
    let disk = FaultDisk::new(11);
    let (e, _) = Engine::open(Arc::new(disk.clone()), EngineConfig::small()).unwrap();
    for round in 0..4u64 {
        let mut b = BatchBuilder::default();
        (0..3).for_each(|i| b.push(&[0, 0], &[round as u8 * 3 + i; 9]));
        let (batch, route) = (Arc::new(b.finish()), Arc::new(Route::new("x", "y")));
        let targets = Box::new([(QueueId(1), Seq(round * 3)), (QueueId(2), Seq(round * 3))]);
        let (attrs, at) = (Attrs::default(), Millis(round));
        e.append(vec![Op::Enqueue(Enqueue { targets, batch, from: 0, to: 3, route, attrs, at })]).unwrap();
        let value = Some(vec![round as u8; 5].into());
        e.append(vec![Op::Define { key: vec![round as u8].into(), value }]).unwrap();
        e.append(vec![Op::Settle(SeqRange { queue: QueueId(1), first: Seq(round * 3), count: 1 })]).unwrap();
        assert!(matches!(e.commit_once(), CommitOutcome::Committed(_)));
    }
    e.close().unwrap();
    disk.kill();
    disk
}

#[test]
fn every_flipped_bit_is_detected_or_harmless() {
    let disk = small_directory();
    let whole = read(&disk.snapshot()).unwrap();
    assert_eq!((whole.0.len(), whole.1.len()), (20, 4));
    let report = verify(&disk.snapshot()).unwrap();
    assert_eq!((report.messages, report.definitions, report.clean), (20, 4, true));
    assert!(report.problems.is_empty(), "{report:?}");
    let mut detected = 0;
    for (name, len) in disk.files() {
        // What lies behind the last frame is zero; a sample of it is enough.
        let used = disk.content(&name).unwrap().iter().rposition(|b| *b != 0).map_or(0, |n| n as u64 + 1);
        for bit in (0..used.min(len) * 8).chain((used * 8..len * 8).step_by(8191)) {
            let flipped = disk.snapshot();
            flipped.flip_bit(&name, bit);
            match read(&flipped) {
                Err(_) => detected += 1,
                Ok(found) => assert_eq!(found, whole, "{name}, bit {bit}"),
            }
        }
    }
    assert!(detected > 5000, "{detected}");
}

#[test]
fn an_open_tells_how_much_of_a_torn_tail_it_cut() {
    let disk = FaultDisk::new(12);
    let (e, _) = Engine::open(Arc::new(disk.clone()), EngineConfig::small()).unwrap();
    for key in 0..2u8 {
        e.append(vec![Op::Define { key: [key].into(), value: Some([1; 9].into()) }]).unwrap();
        assert!(matches!(e.commit_once(), CommitOutcome::Committed(_)));
    }
    assert_eq!(e.cut_bytes(), 0);
    drop(e);
    disk.kill();
    let last = disk.content("seg-00000001").unwrap().iter().rposition(|b| *b != 0).unwrap() as u64;
    disk.flip_bit("seg-00000001", last * 8);
    let report = verify(&disk.snapshot()).unwrap();
    let (e, r) = Engine::open(Arc::new(disk), EngineConfig::small()).unwrap();
    assert_eq!(r.definitions.len(), 1);
    assert!(e.cut_bytes() > 0);
    assert_eq!(e.cut_bytes(), report.cut_bytes);
}

/// Sets a file's format version, with a checksum over the first `len` bytes if they have one behind them.
fn set_version(disk: &FaultDisk, name: &str, version: u32, checked: Option<usize>) {
    let mut bytes = disk.content(name).unwrap();
    bytes[4..8].copy_from_slice(&version.to_le_bytes());
    if let Some(len) = checked {
        let crc = crc32c::crc32c(&bytes[..len]);
        bytes[len..len + 4].copy_from_slice(&crc.to_le_bytes());
    }
    disk.put(name, bytes);
}

#[test]
fn other_versions_of_the_format_are_refused_and_left_as_they_are() {
    for version in [1, 3] {
        for (name, checked) in [("checkpoint", None), ("seg-00000001", Some(60))] {
            for has_checkpoint in [true, false] {
                let disk = small_directory();
                set_version(&disk, name, version, checked);
                if !has_checkpoint {
                    waypost_storage::Disk::remove(&disk, "checkpoint").unwrap();
                    if name == "checkpoint" {
                        continue;
                    }
                }
                let before = disk.files();
                let e = Engine::open(Arc::new(disk.clone()), EngineConfig::small()).map(|_| ()).unwrap_err();
                let expected = format!("{name} has format version {version}; this release reads 2 only");
                assert_eq!(e.to_string(), expected, "with a checkpoint: {has_checkpoint}");
                assert_eq!(disk.files(), before);
                assert_eq!(verify(&disk).unwrap().problems[0], expected);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn arbitrary_bytes_do_no_harm(data in prop::collection::vec(any::<u8>(), 0..400)) {
        waypost_storage::fuzz::fuzz_recover(&data);
    }
}

/// A message of 300 bytes with this place.
fn message(n: u64) -> Op {
    let mut b = BatchBuilder::default();
    b.push(&[0, 0], &[n as u8; 300]);
    let (batch, route) = (Arc::new(b.finish()), Arc::new(Route::new("x", "y")));
    let (targets, attrs, at) = (Box::new([(QueueId(1), Seq(n))]), Attrs::default(), Millis(n));
    Op::Enqueue(Enqueue { targets, batch, from: 0, to: 1, route, attrs, at })
}

/// Segments by name, as they follow each other.
fn segments(disk: &FaultDisk) -> Vec<String> {
    let mut names: Vec<String> = disk.files().into_iter().map(|(n, _)| n).filter(|n| n.starts_with("seg-0")).collect();
    names.sort();
    names
}

#[test]
fn a_kill_before_the_first_frame_of_a_segment_whose_next_is_prepared_loses_nothing() {
    let disk = FaultDisk::new(1);
    let (e, _) = Engine::open(Arc::new(disk.clone()), EngineConfig::small()).unwrap();
    // Until a commit goes on in a segment that nobody had prepared: it holds one frame then.
    let mut messages = 0;
    loop {
        let before = segments(&disk).len();
        e.append(vec![message(messages)]).unwrap();
        assert!(matches!(e.commit_once(), CommitOutcome::Committed(_)));
        messages += 1;
        if segments(&disk).len() > before {
            break;
        }
    }
    let active = segments(&disk).pop().unwrap();
    let checkpoint = disk.content("checkpoint").unwrap();
    e.maintain_once();
    assert_ne!(segments(&disk).pop().unwrap(), active, "the next one is prepared");
    disk.kill();
    drop(e);
    disk.put("checkpoint", checkpoint);
    let frames = 128;
    for kept in [frames, frames + 40, frames + 200] {
        let disk = disk.snapshot();
        let mut bytes = disk.content(&active).unwrap();
        bytes[kept..].fill(0);
        disk.put(&active, bytes);
        // Twice: what is appended to what was found is found as well.
        for more in 0..2 {
            let found = read(&disk.snapshot()).unwrap().0;
            assert_eq!(found.len() as u64, messages - 1 + more, "{kept}");
            let (e, _) = Engine::open(Arc::new(disk.clone()), EngineConfig::small()).unwrap();
            e.append(vec![message(messages + more)]).unwrap();
            assert!(matches!(e.commit_once(), CommitOutcome::Committed(_)));
            disk.kill();
        }
    }
}

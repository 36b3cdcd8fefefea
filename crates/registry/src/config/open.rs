//! After a start: from what recovery found to what is in force.

use std::collections::BTreeMap;
use std::sync::Arc;

use waypost_model::journal::{AppendError, BodyStore, Op, Recovered, RecoveredRun};
use waypost_model::{Lsn, Millis, QueueId};

use super::entry::{Entry, Gray, InForce, Item, Mark, seq};
use super::record::Record;
use super::session::{self, Live};
use super::space::Space;
use waypost_model::record::{Malformed, Reader, Writer};

/// The queues of paths have numbers from here on. The broker's own begin at 0 and do not come this far.
pub(super) const QUEUES_FROM: u64 = 0xc000_0000_0000_0000;
/// And up to here, not included.
const QUEUES_TO: u64 = 0xc100_0000_0000_0000;

/// The first bytes of the keys of the definitions that are ours.
const KEYS: std::ops::RangeInclusive<u8> = 0xc0..=0xcf;
/// The key of the definition that notes which numbers were given out.
const NUMBERS: u8 = 0xc0;
const FORMAT: u8 = 1;

/// What recovery found that belongs to the configuration center.
#[derive(Debug, Default)]
pub struct Share {
    definitions: Vec<(Box<[u8]>, Box<[u8]>)>,
    /// Queue by queue, with the runs of each.
    queues: Vec<(QueueId, Vec<RecoveredRun>)>,
}

impl Share {
    /// Takes it out of what recovery found, so that nobody else sees it: the broker would forget queues that it does
    /// not know.
    #[must_use]
    pub fn split_off(recovered: &mut Recovered) -> Share {
        let is_ours = |queue: QueueId| (QUEUES_FROM..QUEUES_TO).contains(&queue.0);
        let has_our_key = |(key, _): &(Box<[u8]>, Box<[u8]>)| key.first().is_some_and(|b| KEYS.contains(b));
        let mut share = Share::default();
        (share.definitions, recovered.definitions) =
            std::mem::take(&mut recovered.definitions).into_iter().partition(has_our_key);
        let (ours, others): (Vec<_>, Vec<_>) =
            std::mem::take(&mut recovered.next_seq).into_iter().partition(|(queue, _)| is_ours(*queue));
        recovered.next_seq = others;
        share.queues = ours.into_iter().map(|(queue, _)| (queue, recovered.runs.of(queue).to_vec())).collect();
        share
    }
}

/// Why the configuration center cannot be opened. Nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A definition cannot be read.
    #[error("cannot read a definition of the configuration center: {0}")]
    Definition(String),
    /// A path's versions cannot be read back.
    #[error("cannot read version {version} of a configuration key{}: {why}", named(path))]
    Version {
        /// Which path, once that is known.
        path: String,
        /// Which version.
        version: u64,
        /// Why not.
        why: String,
    },
    /// What is left of an interrupted deletion cannot be cleared away.
    #[error("cannot write: {0}")]
    Append(#[from] AppendError),
}

fn named(path: &str) -> String {
    if path.is_empty() { String::new() } else { format!(" ({path:?})") }
}

/// What a start begins with.
#[derive(Debug, Default)]
pub(super) struct Loaded {
    pub spaces: BTreeMap<Arc<str>, Space>,
    pub revision: u64,
    /// How many queue numbers were given out.
    pub queues: u64,
    /// Queues without anything in them.
    pub empty: Vec<Op>,
}

/// Puts together what a share tells.
pub(super) fn load(share: &Share, bodies: &dyn BodyStore, now: Millis) -> Result<Loaded, OpenError> {
    let mut loaded = Loaded::default();
    for (key, value) in &share.definitions {
        let malformed = |e: Malformed| OpenError::Definition(e.to_string());
        match key.first() {
            Some(&NUMBERS) => (loaded.revision, loaded.queues) = read_numbers(value).map_err(malformed)?,
            Some(&session::KEY) => {
                let (vhost, s) = session::Session::read(key, value).map_err(malformed)?;
                loaded.revision = loaded.revision.max(s.created);
                let space = loaded.spaces.entry(vhost).or_default();
                space.sessions_changed = space.sessions_changed.max(s.created);
                space.sessions.insert(Arc::clone(&s.id), Live::new(Arc::new(s), now));
            }
            other => return Err(OpenError::Definition(format!("unknown kind {other:?}"))),
        }
    }
    for (queue, runs) in &share.queues {
        loaded.queues = loaded.queues.max(queue.0 - QUEUES_FROM + 1);
        if runs.is_empty() {
            loaded.empty.push(Op::Forget(*queue));
        } else {
            load_path(&mut loaded, *queue, runs, bodies)?;
        }
    }
    Ok(loaded)
}

fn load_path(
    loaded: &mut Loaded,
    queue: QueueId,
    runs: &[RecoveredRun],
    bodies: &dyn BodyStore,
) -> Result<(), OpenError> {
    let marks: std::collections::VecDeque<Mark> = runs.iter().flat_map(marks).collect();
    let Some(last) = marks.back().map(|m| m.version) else { return Ok(()) };
    let head = read(bodies, queue, last, "")?;
    let at = |version: u64| match version {
        0 => Ok(None),
        v if v == last => Ok(Some(head.clone())),
        v => read(bodies, queue, v, &head.path).map(Some),
    };
    let lost =
        |version: u64| OpenError::Version { path: head.path.to_string(), version, why: "it has no value".into() };
    let mut now = InForce::default();
    if let Some(record) = at(head.stable)? {
        let content = record.content.clone().ok_or_else(|| lost(head.stable))?;
        let mut item = Item::of(&record, head.stable, content);
        (item.revision, item.created) = (head.modified, head.created);
        (item.lock_index, item.session) = (head.lock_index, head.session.clone());
        now.item = Some(Arc::new(item));
    }
    if let Some(record) = at(head.candidate)? {
        let (content, rule) = (record.content.clone(), record.rule.clone());
        let (content, rule) = content.zip(rule).ok_or_else(|| lost(head.candidate))?;
        now.gray = Some(Arc::new(Gray::of(&record, head.candidate, content, rule)));
    }
    loaded.revision = loaded.revision.max(head.revision);
    let space = loaded.spaces.entry(Arc::clone(&head.vhost)).or_default();
    // Who holds a lock came and went in the same append as the lock; still, a lock that nobody could ever give back
    // must not be.
    if let Some(item) = now.item.as_mut().map(Arc::make_mut)
        && item.session.as_ref().is_some_and(|s| !space.sessions.contains_key(s))
    {
        item.session = None;
    }
    let (changed, modified) = (head.revision, head.modified);
    let entry = Entry { queue, marks, now: InForce::default(), changed, modified, lsn: Lsn(0) };
    space.history_bytes += entry.history_bytes();
    space.entries.insert(Arc::clone(&head.path), entry);
    space.set(&head.path, now);
    space.bury(&head.path);
    Ok(())
}

/// The versions of a run. Where it has several, their sizes are taken for equal.
fn marks(run: &RecoveredRun) -> impl Iterator<Item = Mark> {
    let bytes = u32::try_from(run.payload_bytes / u64::from(run.range.count.max(1))).unwrap_or(u32::MAX);
    let (first, at) = (run.range.first.0, run.at.0);
    (0..u64::from(run.range.count)).map(move |n| Mark { version: first + n + 1, at, bytes })
}

/// Reads one version back.
pub(super) fn read(bodies: &dyn BodyStore, queue: QueueId, version: u64, path: &str) -> Result<Record, OpenError> {
    let failed = |why: String| OpenError::Version { path: path.to_owned(), version, why };
    let loaded = bodies.load(queue, seq(version), 1).map_err(|e| failed(e.to_string()))?;
    Record::decode(loaded.batch.body(loaded.from)).map_err(|e| failed(e.to_string()))
}

/// The definition that notes which numbers were given out, for when what shows it goes.
pub(super) fn numbers(revision: u64, queues: u64) -> Op {
    let mut w = Writer::default();
    w.u8(FORMAT);
    w.varint(revision);
    w.varint(queues);
    Op::Define { key: Box::new([NUMBERS]), value: Some(w.finish()) }
}

fn read_numbers(value: &[u8]) -> Result<(u64, u64), Malformed> {
    let mut r = Reader::new(value);
    if r.u8()? != FORMAT {
        return Err(Malformed("format of the numbers"));
    }
    let numbers = (r.varint()?, r.varint()?);
    r.end()?;
    Ok(numbers)
}

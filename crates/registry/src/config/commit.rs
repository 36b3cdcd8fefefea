//! Writing: from drafts to one append, then to memory, then to whoever waits.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use waypost_model::journal::{Enqueue, Op};
use waypost_model::props::PROPS_EMPTY;
use waypost_model::{AttrFlags, Attrs, BatchBuilder, Lsn, Millis, QueueId};

use super::entry::{Entry, Gray, InForce, Item, Mark, seq};
use super::fault::Fault;
use super::limits::TXN_OPS_MAX;
use super::open::{self, QUEUES_FROM};
use super::record::{Kind, Record};
use super::retain::{self, Sweep};
use super::session;
use super::space::Space;
use super::stage::{Draft, Stage};
use super::store::{By, Committed, State, Store};
use super::write::{Answer, Write};

/// How often time is looked at for what it has made superfluous, milliseconds.
const SWEEP_EVERY_MS: u64 = 600_000;

impl Store {
    /// Carries out operations: all of them, or none.
    ///
    /// # Errors
    /// What stands in the way, with the number of the operation.
    pub fn commit(
        &self,
        vhost: &str,
        by: By<'_>,
        writes: &[Write],
        now: Millis,
    ) -> Result<Committed, Vec<(usize, Fault)>> {
        self.commit_with(vhost, by, writes, Vec::new(), now)
    }

    /// Carries out operations together with those of others, in one append: all of them, or none. Without operations of
    /// our own only those of the others are appended.
    ///
    /// # Errors
    /// What stands in the way, with the number of the operation.
    pub fn commit_with(
        &self,
        vhost: &str,
        by: By<'_>,
        writes: &[Write],
        others: Vec<Op>,
        now: Millis,
    ) -> Result<Committed, Vec<(usize, Fault)>> {
        if writes.len() > TXN_OPS_MAX {
            return Err(vec![(TXN_OPS_MAX, Fault::Limit("operations of a transaction"))]);
        }
        let mut state = self.change();
        let state = &mut *state;
        let (drafts, answers) = self.tried(state, vhost, by, writes, now)?;
        let refused = |fault: Fault| vec![(0, fault)];
        if drafts.is_empty() {
            let lsn = match others.is_empty() {
                true => state.lsn,
                false => self.journal.append(others).map_err(|error| refused(error.into()))?.max(state.lsn),
            };
            return Ok(Committed { revision: state.revision, lsn, changed: false, answers });
        }
        let revision = state.revision + 1;
        let lsn = self.write(state, vhost, by.cut(), drafts, others, now).map_err(refused)?;
        Ok(Committed { revision, lsn, changed: true, answers })
    }

    /// What stands in the way of operations, without carrying them out.
    #[must_use]
    pub fn obstacles(&self, vhost: &str, by: By<'_>, writes: &[Write], now: Millis) -> Vec<(usize, Fault)> {
        self.tried(&self.look(), vhost, by, writes, now).err().unwrap_or_default()
    }

    fn tried(&self, state: &State, vhost: &str, by: By<'_>, writes: &[Write], now: Millis) -> Tried {
        let (revision, empty) = (state.revision + 1, Space::default());
        let mut stage = Stage::new(state.spaces.get(vhost).unwrap_or(&empty), by.cut(), revision, now);
        let (mut answers, mut faults) = (Vec::with_capacity(writes.len()), Vec::new());
        for (n, write) in writes.iter().enumerate() {
            match stage.run(write) {
                Ok(answer) => answers.push(answer),
                Err(fault) => faults.push((n, fault)),
            }
        }
        if faults.is_empty()
            && let Err(fault) = stage.check_limits(&self.settings)
        {
            faults.push((writes.len().saturating_sub(1), fault));
        }
        if faults.is_empty() { Ok((stage.drafts, answers)) } else { Err(faults) }
    }

    /// Carries out one operation.
    ///
    /// # Errors
    /// What stands in the way.
    pub fn commit_one(&self, vhost: &str, by: By<'_>, write: Write, now: Millis) -> Result<Committed, Fault> {
        self.commit(vhost, by, &[write], now).map_err(|faults| {
            let first = faults.into_iter().next().map(|(_, fault)| fault);
            first.unwrap_or_else(|| Fault::Bad("refused".into()))
        })
    }

    /// Makes drafts real: one append, then memory, then whoever waits.
    pub(super) fn write(
        &self,
        state: &mut State,
        vhost: &str,
        by: By<'_>,
        drafts: BTreeMap<Arc<str>, Draft>,
        more: Vec<Op>,
        now: Millis,
    ) -> Result<Lsn, Fault> {
        let (name, empty) = (Arc::<str>::from(vhost), Space::default());
        let revision = state.revision + 1;
        let space = state.spaces.get(vhost).unwrap_or(&empty);
        let plan = self.plan(space, &name, by, drafts, revision, state.queues, now);
        let lsn = self.journal.append(plan.ops.into_iter().chain(more).collect())?;
        (state.revision, state.lsn, state.queues) = (revision, lsn, plan.queues);
        let space = state.spaces.entry(Arc::clone(&name)).or_default();
        let mut told = Vec::with_capacity(plan.parts.len());
        for part in plan.parts {
            let (stable, candidate) = apply(space, &part, lsn);
            let key = (Arc::clone(&name), Arc::clone(&part.path));
            told.push(part.path);
            let parts = state.parts.entry(key.clone()).or_insert_with(|| {
                state.untold.push_back(key);
                (false, false)
            });
            *parts = (parts.0 | stable, parts.1 | candidate);
        }
        self.tidy(state, &name);
        self.hub.tell(vhost, told.iter());
        if let Some(teller) = state.teller.take() {
            teller.wake();
        }
        Ok(lsn)
    }

    fn plan(
        &self,
        space: &Space,
        vhost: &Arc<str>,
        by: By<'_>,
        drafts: BTreeMap<Arc<str>, Draft>,
        revision: u64,
        mut queues: u64,
        now: Millis,
    ) -> Plan {
        let (author, comment): (Arc<str>, Arc<str>) = (by.author.into(), by.comment.into());
        let mut batch = BatchBuilder::default();
        let (mut parts, mut settled) = (Vec::with_capacity(drafts.len()), Vec::new());
        for (path, draft) in drafts {
            let entry = space.entries.get(&path);
            let queue = entry.map_or_else(
                || {
                    queues += 1;
                    QueueId(QUEUES_FROM + queues - 1)
                },
                |e| e.queue,
            );
            let version = entry.map_or(0, Entry::version) + 1;
            let mut record = record(vhost, &path, &draft, entry, version, revision);
            (record.at, record.author, record.comment) = (now.0, Arc::clone(&author), Arc::clone(&comment));
            let bytes = record.encode();
            batch.push(PROPS_EMPTY, &bytes);
            let bytes = u32::try_from(bytes.len() + PROPS_EMPTY.len()).unwrap_or(u32::MAX);
            let mark = Mark { version, at: now.0, bytes };
            let marks: Vec<Mark> = entry.iter().flat_map(|e| e.marks.iter()).copied().chain([mark]).collect();
            let needed = [record.stable, record.candidate];
            let gone = retain::superfluous(marks.iter(), needed, &self.settings, now);
            settled.extend(retain::settle(queue, &gone));
            let modified = record.modified;
            parts.push(Part { path, queue, mark, gone, next: draft.next, revision, modified, kind: draft.kind });
        }
        let batch = Arc::new(batch.finish());
        let attrs = Attrs { flags: AttrFlags::PERSISTENT, ..Attrs::default() };
        let enqueue = |(part, from): (&Part, u32)| {
            let targets = Box::new([(part.queue, seq(part.mark.version))]);
            let (batch, route) = (Arc::clone(&batch), Arc::clone(&self.route));
            Op::Enqueue(Enqueue { targets, batch, from, to: from + 1, route, attrs, at: now })
        };
        let mut ops: Vec<Op> = parts.iter().zip(0..).map(enqueue).collect();
        ops.extend(settled);
        Plan { ops, parts, queues }
    }

    /// Keeps graves and history within their bounds. What the journal refuses now is done with the next write.
    fn tidy(&self, state: &mut State, vhost: &Arc<str>) {
        let Some(space) = state.spaces.get(vhost) else { return };
        let mut sweep = Sweep::of_size(space, &self.settings);
        sweep.paths = Sweep::of_graves(space, &self.settings).paths;
        self.sweep(state, vhost, &sweep);
    }

    fn sweep(&self, state: &mut State, vhost: &Arc<str>, sweep: &Sweep) {
        let Some(space) = state.spaces.get_mut(vhost).filter(|_| !sweep.is_empty()) else { return };
        let mut ops = sweep.ops(space);
        if !sweep.paths.is_empty() {
            ops.push(open::numbers(state.revision, state.queues));
        }
        if let Ok(lsn) = self.journal.append(ops) {
            sweep.apply(space);
            state.lsn = lsn;
        }
    }

    /// Forgets everything of a vhost that is no more.
    ///
    /// # Errors
    /// [`Fault::Append`].
    pub fn forget_vhost(&self, vhost: &str) -> Result<(), Fault> {
        let mut state = self.change();
        let state = &mut *state;
        let Some(space) = state.spaces.get(vhost) else { return Ok(()) };
        let mut ops: Vec<Op> = space.entries.values().map(|e| Op::Forget(e.queue)).collect();
        ops.extend(space.sessions.keys().map(|id| session::undefine(vhost, id)));
        ops.push(open::numbers(state.revision, state.queues));
        state.lsn = self.journal.append(ops)?;
        if let Some(gone) = state.spaces.remove(vhost) {
            // Should the vhost come again, no index there goes back.
            let floor = state.revision;
            state.spaces.insert(vhost.into(), Space { floor, sessions_changed: floor, ..Space::default() });
            self.hub.tell(vhost, gone.entries.keys());
            self.hub.tell_sessions(vhost);
        }
        Ok(())
    }

    /// What time brings: sessions that were not renewed end, history that is too old goes. To be called about once a
    /// second.
    pub fn advance(&self, now: Millis) {
        let mut state = self.change();
        let state = &mut *state;
        let mut ended = Vec::new();
        for (vhost, space) in &mut state.spaces {
            space.delays.retain(|_, until| *until > now);
            let over = space.sessions.values().filter(|live| live.deadline.is_some_and(|d| d <= now));
            ended.extend(over.map(|live| (Arc::clone(vhost), Arc::clone(&live.session.id))));
        }
        for (vhost, id) in ended {
            // What the journal does not take now is tried again a second later.
            let _ = self.end_session(state, &vhost, &id, now);
        }
        if now.since(state.swept) >= SWEEP_EVERY_MS {
            state.swept = now;
            let sweep = |(name, s): (&Arc<str>, &Space)| (Arc::clone(name), Sweep::of_age(s, &self.settings, now));
            let sweeps: Vec<(Arc<str>, Sweep)> = state.spaces.iter().map(sweep).collect();
            sweeps.iter().for_each(|(vhost, sweep)| self.sweep(state, vhost, sweep));
        }
    }
}

/// What operations come to, or what stands in their way.
type Tried = Result<(BTreeMap<Arc<str>, Draft>, Vec<Answer>), Vec<(usize, Fault)>>;

/// What a commit does, before it is done.
struct Plan {
    ops: Vec<Op>,
    parts: Vec<Part>,
    queues: u64,
}

struct Part {
    path: Arc<str>,
    queue: QueueId,
    mark: Mark,
    gone: Vec<u64>,
    next: InForce,
    revision: u64,
    modified: u64,
    kind: Kind,
}

fn record(
    vhost: &Arc<str>,
    path: &Arc<str>,
    draft: &Draft,
    entry: Option<&Entry>,
    version: u64,
    revision: u64,
) -> Record {
    let (item, gray) = (draft.next.item.as_deref(), draft.next.gray.as_deref());
    let modified = match draft.kind {
        Kind::Gray | Kind::Abandon => entry.map_or(0, |e| e.modified),
        _ => revision,
    };
    let stable = item.map_or(0, |i| i.version);
    let candidate = gray.map_or(0, |g| g.version);
    let content = item.filter(|_| stable == version).map(Item::content);
    let of_gray = gray.filter(|_| candidate == version);
    Record {
        kind: draft.kind,
        vhost: Arc::clone(vhost),
        path: Arc::clone(path),
        revision,
        modified,
        created: item.map_or(0, |i| i.created),
        lock_index: item.map_or(0, |i| i.lock_index),
        session: item.and_then(|i| i.session.clone()),
        at: 0,
        author: Arc::default(),
        comment: Arc::default(),
        stable,
        candidate,
        from: draft.from,
        content: content.or(of_gray.map(Gray::content)),
        rule: of_gray.map(|g| Arc::clone(&g.rule)),
    }
}

/// Puts a part of a commit in force. Says what has changed: what everybody sees, the candidate.
fn apply(space: &mut Space, part: &Part, lsn: Lsn) -> (bool, bool) {
    let had_gray = space.entries.get(&part.path).and_then(|e| e.now.gray.clone());
    space.entries.entry(Arc::clone(&part.path)).or_insert_with(|| Entry {
        queue: part.queue,
        marks: VecDeque::new(),
        now: InForce::default(),
        changed: 0,
        modified: 0,
        lsn,
    });
    space.set(&part.path, part.next.clone());
    if let Some(entry) = space.entries.get_mut(&part.path) {
        entry.marks.push_back(part.mark);
        space.history_bytes += u64::from(part.mark.bytes);
        space.history_bytes -= retain::drop_marks(entry, &part.gone).min(space.history_bytes);
        (entry.changed, entry.modified, entry.lsn) = (part.revision, part.modified, lsn);
    }
    space.bury(&part.path);
    (!matches!(part.kind, Kind::Gray | Kind::Abandon), had_gray != part.next.gray)
}

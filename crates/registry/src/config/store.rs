//! The store: reading, committing, sessions, and what time does.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use waypost_model::journal::{BodyStore, Enqueue, Journal, Op};
use waypost_model::props::PROPS_EMPTY;
use waypost_model::{AttrFlags, Attrs, BatchBuilder, Lsn, Millis, QueueId, Route};

use super::Subject;
use super::entry::{Entry, Gray, InForce, Item, Mark, seq};
use super::fault::Fault;
use super::limits::{AUTHOR_BYTES_MAX, Settings, TXN_OPS_MAX};
use super::open::{self, OpenError, QUEUES_FROM, Share};
use super::record::{Kind, Record};
use super::retain::{self, Sweep};
use super::session::{self, Behavior, Live, NewSession, Session};
use super::space::Space;
use super::stage::{Answer, Draft, Stage, Write};
use super::watch::{Changed, Hub, Watch, What};

/// How often time is looked at for what it has made superfluous, milliseconds.
const SWEEP_EVERY_MS: u64 = 600_000;

/// Who writes, and why.
#[derive(Debug, Clone, Copy, Default)]
pub struct By<'a> {
    /// A user's name; empty for whoever runs the server.
    pub author: &'a str,
    /// At most [`super::COMMENT_BYTES_MAX`] bytes.
    pub comment: &'a str,
}

impl<'a> By<'a> {
    /// With the author's name cut to what is kept of it.
    fn cut(self) -> By<'a> {
        let mut end = self.author.len().min(AUTHOR_BYTES_MAX);
        while !self.author.is_char_boundary(end) {
            end -= 1;
        }
        By { author: &self.author[..end], ..self }
    }
}

/// What a commit came to.
#[derive(Debug, Clone)]
pub struct Committed {
    /// Its revision; of a commit that changed nothing, the last one.
    pub revision: u64,
    /// When it, and what it has read, is durable. It must not be answered before.
    pub lsn: Lsn,
    /// Whether anything changed.
    pub changed: bool,
    /// One per operation.
    pub answers: Vec<Answer>,
}

/// A path, looked at.
#[derive(Debug, Clone)]
pub struct Look {
    /// The value that everybody gets.
    pub item: Option<Arc<Item>>,
    /// The candidate of a gray release.
    pub gray: Option<Arc<Gray>>,
    /// The revision of the last change of any kind; that of its deletion if it is gone.
    pub changed: u64,
    /// The last version; 0 if there was never one.
    pub version: u64,
    /// The revision at which what everybody gets changed last. At least 1, and never falls while the process lives.
    pub index: u64,
    /// When what was seen is durable; it must not be shown before.
    pub lsn: Lsn,
}

/// Several paths, looked at.
#[derive(Debug, Clone)]
pub struct Listing<T> {
    /// In order of path.
    pub items: Vec<T>,
    /// The revision at which one of them changed last, deletions included. At least 1, and never falls while the
    /// process lives.
    pub index: u64,
    /// When what was seen is durable; it must not be shown before.
    pub lsn: Lsn,
}

/// How much there is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Paths with a value or a candidate.
    pub keys: usize,
    /// Deleted paths with a history.
    pub tombstones: usize,
    /// Bytes of paths and of what is in force.
    pub bytes: u64,
    /// Bytes of all versions.
    pub history_bytes: u64,
    /// Sessions.
    pub sessions: usize,
    /// The last revision.
    pub revision: u64,
}

#[derive(Debug, Default)]
struct State {
    spaces: BTreeMap<Arc<str>, Space>,
    /// The last one that was given out.
    revision: u64,
    /// How many queue numbers were given out.
    queues: u64,
    /// When everything is durable.
    lsn: Lsn,
    swept: Millis,
    /// Paths whose change was not told yet, in order of their first one.
    untold: VecDeque<(Arc<str>, Arc<str>)>,
    /// What of them has changed: what everybody sees, the candidate.
    parts: HashMap<(Arc<str>, Arc<str>), (bool, bool)>,
    /// Whoever tells others of changes, while it waits.
    teller: Option<std::task::Waker>,
}

/// The configuration center of a node.
pub struct Store {
    settings: Settings,
    journal: Arc<dyn Journal>,
    pub(super) bodies: Arc<dyn BodyStore>,
    state: RwLock<State>,
    hub: Arc<Hub>,
    route: Arc<Route>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("totals", &self.totals(None)).finish_non_exhaustive()
    }
}

impl Store {
    /// Opens the store with what recovery found of it.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(
        settings: Settings,
        journal: Arc<dyn Journal>,
        bodies: Arc<dyn BodyStore>,
        share: &Share,
        now: Millis,
    ) -> Result<Store, OpenError> {
        let loaded = open::load(share, &*bodies, now)?;
        let mut state = State { spaces: loaded.spaces, revision: loaded.revision, ..State::default() };
        state.queues = loaded.queues;
        if !loaded.empty.is_empty() {
            let noted = open::numbers(state.revision, state.queues);
            journal.append(loaded.empty.into_iter().chain([noted]).collect())?;
        }
        let route = Arc::new(Route::default());
        Ok(Store { settings, journal, bodies, state: RwLock::new(state), hub: Arc::default(), route })
    }

    fn look(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// One path.
    #[must_use]
    pub fn get(&self, vhost: &str, path: &str) -> Look {
        let state = self.look();
        let space = state.spaces.get(vhost);
        match space.and_then(|s| s.entries.get(path)) {
            Some(e) => look_at(e),
            None => {
                let index = space.map_or(1, |s| s.index(path));
                Look { item: None, gray: None, changed: index, version: 0, index, lsn: state.lsn }
            }
        }
    }

    /// The values of all paths that begin so.
    #[must_use]
    pub fn list(&self, vhost: &str, prefix: &str) -> Listing<Arc<Item>> {
        self.collect(vhost, prefix, |_, e| e.now.item.clone())
    }

    /// All paths that begin so and have a value or a candidate, with both.
    #[must_use]
    pub fn list_all(&self, vhost: &str, prefix: &str) -> Listing<(Arc<str>, Look)> {
        self.collect(vhost, prefix, |path, e| (!e.is_deleted()).then(|| (Arc::clone(path), look_at(e))))
    }

    /// What has changed in any way behind a revision, deletions included. The index is the revision of the last such
    /// change.
    #[must_use]
    pub fn since(&self, vhost: &str, what: &What, revision: u64) -> Listing<(Arc<str>, Look)> {
        let state = self.look();
        let mut found = Listing { items: Vec::new(), index: 1, lsn: state.lsn };
        let Some(space) = state.spaces.get(vhost) else { return found };
        found.index = space.floor.max(1);
        let mut see = |path: &Arc<str>, e: &Entry| {
            found.index = found.index.max(e.changed);
            if e.changed > revision {
                found.items.push((Arc::clone(path), look_at(e)));
            }
        };
        match what {
            What::Path(path) => space.entries.get(path).into_iter().for_each(|e| see(path, e)),
            What::Below(prefix) => space.below(prefix).for_each(|(path, e)| see(path, e)),
            What::Sessions => {}
        }
        found
    }

    /// The paths that begin so and have a value, without the values.
    #[must_use]
    pub fn paths(&self, vhost: &str, prefix: &str) -> Listing<Arc<str>> {
        self.collect(vhost, prefix, |path, e| e.now.item.is_some().then(|| Arc::clone(path)))
    }

    fn collect<T>(&self, vhost: &str, prefix: &str, each: impl Fn(&Arc<str>, &Entry) -> Option<T>) -> Listing<T> {
        let state = self.look();
        let (mut items, mut index) = (Vec::new(), 1);
        if let Some(space) = state.spaces.get(vhost) {
            items.extend(space.below(prefix).filter_map(|(path, e)| each(path, e)));
            index = space.index_below(prefix);
        }
        Listing { items, index, lsn: state.lsn }
    }

    /// Begins to watch. What changes from now on is not missed.
    #[must_use]
    pub fn watch(&self, vhost: &str, what: What) -> Watch {
        self.hub.watch(vhost, what)
    }

    /// How much there is, in one vhost or in all.
    #[must_use]
    pub fn totals(&self, vhost: Option<&str>) -> Totals {
        let state = self.look();
        let mut t = Totals { revision: state.revision, ..Totals::default() };
        for (_, s) in state.spaces.iter().filter(|(name, _)| vhost.is_none_or(|v| v == &***name)) {
            t.keys += s.keys;
            t.tombstones += s.graves.len();
            t.bytes += s.bytes;
            t.history_bytes += s.history_bytes;
            t.sessions += s.sessions.len();
        }
        t
    }

    /// The queue of a path, and its versions that are kept.
    pub(super) fn versions(&self, vhost: &str, path: &str) -> Result<(QueueId, Vec<u64>), Fault> {
        let state = self.look();
        let entry = state.spaces.get(vhost).and_then(|s| s.entries.get(path));
        let entry = entry.ok_or_else(|| Fault::NotFound(path.to_owned()))?;
        Ok((entry.queue, entry.marks.iter().map(|m| m.version).collect()))
    }

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
        if writes.len() > TXN_OPS_MAX {
            return Err(vec![(TXN_OPS_MAX, Fault::Limit("operations of a transaction"))]);
        }
        let mut state = self.change();
        let state = &mut *state;
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
        if !faults.is_empty() {
            return Err(faults);
        }
        let drafts = stage.drafts;
        if drafts.is_empty() {
            return Ok(Committed { revision: state.revision, lsn: state.lsn, changed: false, answers });
        }
        let lsn = self.write(state, vhost, by.cut(), drafts, Vec::new(), now).map_err(|fault| vec![(0, fault)])?;
        Ok(Committed { revision, lsn, changed: true, answers })
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
    fn write(
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

    /// The vhosts that something is kept for.
    #[must_use]
    pub fn vhosts(&self) -> Vec<Arc<str>> {
        let holds = |s: &Space| !s.entries.is_empty() || !s.sessions.is_empty();
        self.look().spaces.iter().filter(|(_, s)| holds(s)).map(|(name, _)| Arc::clone(name)).collect()
    }

    /// What has changed and was not told to others yet, at most `count` paths. Each is told with its present state, so
    /// that whoever is slow misses steps in between, but never the last one.
    #[must_use]
    pub fn untold(&self, count: usize) -> Vec<Changed> {
        let mut state = self.change();
        let state = &mut *state;
        let count = count.min(state.untold.len());
        let mut changes = Vec::with_capacity(count);
        for key in state.untold.drain(..count) {
            let Some((stable, candidate)) = state.parts.remove(&key) else { continue };
            let (vhost, path) = key;
            let entry = state.spaces.get(&vhost).and_then(|s| s.entries.get(&path));
            let now = entry.map(|e| e.now.clone()).unwrap_or_default();
            let (revision, lsn) = entry.map_or((state.revision, state.lsn), |e| (e.changed, e.lsn));
            changes.push(Changed { vhost, path, stable, candidate, revision, item: now.item, gray: now.gray, lsn });
        }
        changes
    }

    /// Completes once there is something to tell. For one task at a time.
    pub async fn something_to_tell(&self) {
        std::future::poll_fn(|cx| {
            let mut state = self.change();
            if state.untold.is_empty() {
                state.teller = Some(cx.waker().clone());
                return std::task::Poll::Pending;
            }
            std::task::Poll::Ready(())
        })
        .await;
    }

    /// A session.
    #[must_use]
    pub fn session(&self, vhost: &str, id: &str) -> Listing<Arc<Session>> {
        self.sessions_where(vhost, |s| *s.id == *id)
    }

    /// All sessions.
    #[must_use]
    pub fn sessions(&self, vhost: &str) -> Listing<Arc<Session>> {
        self.sessions_where(vhost, |_| true)
    }

    /// Those of which something holds.
    pub fn sessions_where(&self, vhost: &str, holds: impl Fn(&Session) -> bool) -> Listing<Arc<Session>> {
        let state = self.look();
        let space = state.spaces.get(vhost);
        let all = space.into_iter().flat_map(|s| s.sessions.values().map(|live| &live.session));
        let items = all.filter(|s| holds(s)).cloned().collect();
        Listing { items, index: space.map_or(1, |s| s.sessions_changed.max(1)), lsn: state.lsn }
    }

    /// Makes a session. `random` makes its id.
    ///
    /// # Errors
    /// [`Fault::Bad`], [`Fault::Limit`], [`Fault::Append`].
    pub fn create_session(
        &self,
        vhost: &str,
        spec: NewSession,
        random: [u8; 16],
        now: Millis,
    ) -> Result<(Arc<Session>, Lsn), Fault> {
        spec.check()?;
        let mut state = self.change();
        let state = &mut *state;
        if state.spaces.get(vhost).map_or(0, |s| s.sessions.len()) >= self.settings.sessions_max {
            return Err(Fault::Limit("sessions per vhost"));
        }
        let created = state.revision + 1;
        let session = Arc::new(Session { id: session::uuid(random), spec, created });
        let lsn = self.journal.append(vec![session.define(vhost)])?;
        (state.revision, state.lsn) = (created, lsn);
        let space = state.spaces.entry(vhost.into()).or_default();
        space.sessions_changed = created;
        space.sessions.insert(Arc::clone(&session.id), Live::new(Arc::clone(&session), now));
        self.hub.tell_sessions(vhost);
        Ok((session, lsn))
    }

    /// Lets a session live on for its time to live. None if there is no such session. Writes nothing.
    pub fn renew_session(&self, vhost: &str, id: &str, now: Millis) -> Option<Arc<Session>> {
        let mut state = self.change();
        let live = state.spaces.get_mut(vhost)?.sessions.get_mut(id)?;
        live.renew(now);
        Some(Arc::clone(&live.session))
    }

    /// Ends a session: what it holds is unlocked or deleted. That there is none is fine.
    ///
    /// # Errors
    /// [`Fault::Append`].
    pub fn destroy_session(&self, vhost: &str, id: &str, now: Millis) -> Result<Lsn, Fault> {
        let mut state = self.change();
        self.end_session(&mut state, vhost, id, now)
    }

    fn end_session(&self, state: &mut State, vhost: &str, id: &str, now: Millis) -> Result<Lsn, Fault> {
        let Some(space) = state.spaces.get(vhost) else { return Ok(state.lsn) };
        let Some(live) = space.sessions.get(id) else { return Ok(state.lsn) };
        let author = format!("session {id}");
        let by = By { author: &author, comment: "" };
        let mut stage = Stage::new(space, by, state.revision + 1, now);
        let (session, held) = (Arc::clone(&live.session), live.held.clone());
        for path in &held {
            match session.spec.behavior {
                Behavior::Release => stage.release(path),
                Behavior::Delete => stage.delete_held(path),
            }
        }
        let (drafts, gone) = (stage.drafts, session::undefine(vhost, id));
        let lsn = self.write(state, vhost, by, drafts, vec![gone], now)?;
        let revision = state.revision;
        if let Some(space) = state.spaces.get_mut(vhost) {
            space.sessions.remove(id);
            space.sessions_changed = revision;
            if session.spec.lock_delay_ms > 0 {
                let until = now.plus(session.spec.lock_delay_ms);
                space.delays.extend(held.into_iter().map(|path| (path, until)));
            }
        }
        self.hub.tell_sessions(vhost);
        Ok(lsn)
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

    /// What somebody gets: the candidate if a gray release chooses it, else the stable value. Value, content type,
    /// flags, version, revision.
    #[must_use]
    pub fn choose<'a>(look: &'a Look, path: &str, subject: &Subject<'_>) -> Option<Chosen<'a>> {
        match &look.gray {
            Some(gray) if gray.rule.chooses(path, subject) => Some(Chosen::Candidate(gray)),
            _ => look.item.as_ref().map(Chosen::Stable),
        }
    }
}

/// What somebody gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chosen<'a> {
    /// What everybody gets.
    Stable(&'a Arc<Item>),
    /// What a gray release chose it for.
    Candidate(&'a Arc<Gray>),
}

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

fn look_at(e: &Entry) -> Look {
    Look {
        item: e.now.item.clone(),
        gray: e.now.gray.clone(),
        changed: e.changed,
        version: e.version(),
        index: e.modified.max(1),
        lsn: e.lsn,
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

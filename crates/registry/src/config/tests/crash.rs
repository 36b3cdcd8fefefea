//! Random histories, with crashes in between, over a disk that tears, reorders and forgets: what is found again is
//! what some commit left, and at least the last one that was durable.
//!
//! `WAYPOST_CONFIG_SEEDS=10000` lengthens it; `WAYPOST_CONFIG_SEED=n` runs one.

use waypost_model::Lsn;
use waypost_model::journal::Journal;

use super::naive::{Condition, Naive, Path, Step, Value, Version};
use super::world::{VHOST, World, delete, gray, lock, put_when, unlock};
use crate::config::*;

struct Rng(u64);

impl Rng {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as usize % n
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn path(&mut self) -> String {
        ["a", "a/b", "a/c", "d/e", "f"][self.below(5)].to_owned()
    }

    fn value(&mut self) -> String {
        let n = self.below(4);
        if n == 3 { "long ".repeat(self.below(400)) } else { format!("v{n}") }
    }
}

struct Game {
    world: World,
    rng: Rng,
    naive: Naive,
    /// What each commit left, and when it is durable.
    states: Vec<(Lsn, Naive)>,
    swept: u64,
}

/// The store in the naive store's words.
fn seen(world: &World) -> Naive {
    let mut all = Naive { revision: world.store.totals(None).revision, ..Naive::default() };
    for session in world.store.sessions(VHOST).items {
        all.sessions.insert(session.id.to_string(), session.spec.behavior == Behavior::Delete);
    }
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    for (path, look) in world.store.since(VHOST, &What::Below("".into()), 0).items {
        let value = look.item.map(|i| Value {
            value: text(&i.value),
            version: i.version,
            revision: i.revision,
            created: i.created,
            lock_index: i.lock_index,
            session: i.session.as_ref().map(|s| s.to_string()),
        });
        let gray = look.gray.map(|g| (text(&g.value), g.version, g.rule.percent.unwrap()));
        let mut versions: Vec<Version> = world
            .store
            .history(VHOST, &path, None, usize::MAX)
            .unwrap()
            .iter()
            .map(|p| Version {
                version: p.version,
                revision: p.revision,
                kind: p.kind,
                at: p.at,
                value: p.content.as_ref().map(|c| text(&c.2)),
                from: p.from.unwrap_or_default(),
            })
            .collect();
        versions.reverse();
        all.paths.insert(path.to_string(), Path { value, gray, versions });
    }
    all
}

/// What both must agree on: a deleted path of which nothing was ever written is none.
fn cleaned(naive: &Naive) -> Naive {
    let mut naive = naive.clone();
    naive.paths.retain(|_, p| !p.versions.is_empty());
    naive
}

impl Game {
    fn new(seed: u64) -> Game {
        let settings = Settings { revisions_max: 4, history_ms: 50_000, ..Settings::default() };
        let world = World::new(seed, settings);
        Game { world, rng: Rng(seed), naive: Naive::new(), states: vec![(Lsn(0), Naive::new())], swept: 0 }
    }

    fn step(&mut self) {
        match self.rng.below(20) {
            0..=11 => self.transact(),
            12 => self.open_session(),
            13 => self.end_session(),
            14 => self.rollback(),
            15 => self.world.now = self.world.now.plus(self.rng.below(30_000) as u64),
            16 => self.sweep(),
            17 => drop(self.world.engine.commit_once()),
            18 => drop(self.world.engine.maintain_once()),
            _ => self.crash(),
        }
    }

    fn note(&mut self, lsn: Lsn) {
        self.states.push((lsn, self.naive.clone()));
    }

    fn transact(&mut self) {
        let count = if self.rng.one_in(3) { 1 + self.rng.below(4) } else { 1 };
        let (mut steps, mut writes) = (Vec::new(), Vec::new());
        for _ in 0..count {
            let (step, write) = self.any_step(count);
            steps.push(step);
            writes.push(write);
        }
        let (now, settings) = (self.world.now, self.world.settings);
        let expected = self.naive.run(&steps, now.0, &settings);
        match self.world.store.commit(VHOST, By::default(), &writes, now) {
            Ok(done) => {
                assert!(expected, "{steps:?} must be refused");
                assert_eq!(done.revision, self.naive.revision, "{steps:?}");
                self.note(done.lsn);
            }
            Err(faults) => assert!(!expected, "{steps:?}: {faults:?}"),
        }
    }

    fn any_step(&mut self, count: usize) -> (Step, Write) {
        let (path, value) = (self.rng.path(), self.rng.value());
        let sessions: Vec<String> = self.naive.sessions.keys().cloned().collect();
        let session = match sessions.len() {
            0 => "none".to_owned(),
            n => sessions[self.rng.below(n)].clone(),
        };
        match self.rng.below(12) {
            0..=3 => {
                let present = self.naive.paths.get(&path).and_then(|p| p.value.as_ref()).map(|v| v.revision);
                let (condition, when) = match (self.rng.below(6), present) {
                    (0, _) => (Condition::Absent, When::Revision(0)),
                    (1, _) => (Condition::Present(false), When::Revision(u64::MAX)),
                    // Not in a transaction: an operation before it may have moved the revision.
                    (2, Some(_)) if count > 1 => (Condition::Always, When::Always),
                    (2, Some(revision)) => (Condition::Present(true), When::Revision(revision)),
                    _ => (Condition::Always, When::Always),
                };
                (Step::Put(path.clone(), value.clone(), condition), put_when(&path, &value, when))
            }
            4 => (Step::Delete(path.clone()), delete(&path)),
            5 => {
                let prefix = if self.rng.one_in(6) { String::new() } else { "a".to_owned() };
                (Step::DeleteBelow(prefix.clone()), Write::DeleteBelow { prefix })
            }
            6 | 7 => (Step::Lock(path.clone(), value.clone(), session.clone()), lock(&path, &value, &session)),
            8 => (Step::Unlock(path.clone(), value.clone(), session.clone()), unlock(&path, &value, &session)),
            9 => {
                let value = if self.rng.one_in(3) { None } else { Some(value) };
                let percent = self.rng.below(101) as u8;
                (Step::Gray(path.clone(), value.clone(), percent), gray(&path, value.as_deref(), percent))
            }
            10 => (Step::Promote(path.clone()), Write::Promote { path }),
            _ => (Step::Abandon(path.clone()), Write::Abandon { path }),
        }
    }

    fn open_session(&mut self) {
        if self.naive.sessions.len() >= 4 {
            return;
        }
        let deletes = self.rng.one_in(2);
        let behavior = if deletes { Behavior::Delete } else { Behavior::Release };
        let spec = NewSession { behavior, lock_delay_ms: 0, ..NewSession::default() };
        let random: [u8; 16] = std::array::from_fn(|_| self.rng.below(256) as u8);
        let (session, lsn) = self.world.store.create_session(VHOST, spec, random, self.world.now).unwrap();
        self.naive.revision += 1;
        self.naive.sessions.insert(session.id.to_string(), deletes);
        self.note(lsn);
    }

    fn end_session(&mut self) {
        let Some(id) = self.naive.sessions.keys().next().cloned() else { return };
        let lsn = self.world.store.destroy_session(VHOST, &id, self.world.now).unwrap();
        self.naive.end_session(&id, self.world.now.0, &self.world.settings);
        self.note(lsn);
    }

    fn rollback(&mut self) {
        self.world.sync();
        let path = self.rng.path();
        let versions = self.naive.paths.get(&path).map(|p| p.versions.clone()).unwrap_or_default();
        let with_value: Vec<&Version> = versions.iter().filter(|v| v.value.is_some()).collect();
        if with_value.is_empty() {
            return;
        }
        let chosen = with_value[self.rng.below(with_value.len())];
        let now = self.world.now;
        let done = self.world.store.rollback(VHOST, By::default(), &path, chosen.version, When::Always, now).unwrap();
        let value = chosen.value.clone().unwrap();
        self.naive.rollback(&path, chosen.version, &value, now.0, &self.world.settings);
        assert_eq!(done.revision, self.naive.revision);
        self.note(done.lsn);
    }

    fn sweep(&mut self) {
        self.world.now = self.world.now.plus(600_000);
        self.world.store.advance(self.world.now);
        self.naive.sweep(self.world.now.0, &self.world.settings);
        self.swept = self.world.now.0;
        // Everything that a sweep has done is durable before the next thing that is compared.
        self.world.sync();
        self.states = vec![(self.world.engine.durable(), self.naive.clone())];
    }

    fn crash(&mut self) {
        let durable = self.world.engine.durable();
        if self.rng.one_in(2) {
            self.world.disk.crash();
        } else {
            self.world.disk.kill();
        }
        self.world.reopen();
        let found = seen(&self.world);
        let first = self.states.iter().rposition(|(lsn, _)| *lsn <= durable).unwrap_or_default();
        // Revisions of sessions that came and went are not kept: nothing remembers them.
        let same = |state: &Naive| {
            let (mut a, b) = (cleaned(state), cleaned(&found));
            a.revision = b.revision;
            a == b
        };
        let at = self.states.iter().skip(first).rposition(|(_, state)| same(state));
        let at = at.unwrap_or_else(|| panic!("found {found:#?}\nbut the last durable was {:#?}", self.states[first].1));
        assert!(found.revision <= self.states[first + at].1.revision);
        self.naive = found;
        self.states = vec![(Lsn(0), self.naive.clone())];
    }

    fn compare(&mut self) {
        self.world.sync();
        assert_eq!(cleaned(&seen(&self.world)), cleaned(&self.naive));
    }
}

fn play(seed: u64) {
    let mut game = Game::new(seed);
    for n in 0..120 {
        game.step();
        if n % 10 == 0 {
            game.compare();
        }
    }
    game.compare();
}

#[test]
fn random_histories_with_crashes_agree_with_a_naive_store() {
    if let Ok(seed) = std::env::var("WAYPOST_CONFIG_SEED") {
        return play(seed.parse().unwrap());
    }
    let seeds = std::env::var("WAYPOST_CONFIG_SEEDS").map_or(25, |n| n.parse().unwrap());
    for seed in 0..seeds {
        if let Err(panic) = std::panic::catch_unwind(|| play(seed)) {
            eprintln!("WAYPOST_CONFIG_SEED={seed}");
            std::panic::resume_unwind(panic);
        }
    }
}

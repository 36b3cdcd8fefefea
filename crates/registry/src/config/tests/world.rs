//! A store over the storage engine over a disk that can fail.

use std::sync::Arc;

use bytes::Bytes;
use waypost_model::Millis;
use waypost_storage::fault::FaultDisk;
use waypost_storage::{CommitOutcome, Engine, EngineConfig};

use crate::config::*;

pub const VHOST: &str = "/";

pub struct World {
    pub disk: FaultDisk,
    pub engine: Arc<Engine>,
    pub store: Store,
    pub settings: Settings,
    pub now: Millis,
    random: u8,
}

fn open(disk: &FaultDisk, settings: Settings, now: Millis) -> (Arc<Engine>, Store) {
    let (engine, mut recovered) = Engine::open(Arc::new(disk.clone()), EngineConfig::small()).unwrap();
    let engine = Arc::new(engine);
    let share = Share::split_off(&mut recovered);
    assert!(recovered.next_seq.is_empty() && recovered.definitions.is_empty(), "all of it is ours");
    let store = Store::open(settings, Arc::clone(&engine) as _, Arc::clone(&engine) as _, &share, now).unwrap();
    (engine, store)
}

impl World {
    pub fn new(seed: u64, settings: Settings) -> World {
        let disk = FaultDisk::new(seed);
        let now = Millis(1_000_000);
        let (engine, store) = open(&disk, settings, now);
        World { disk, engine, store, settings, now, random: 0 }
    }

    /// Opens again what the disk has.
    pub fn reopen(&mut self) {
        let (engine, store) = open(&self.disk, self.settings, self.now);
        (self.engine, self.store) = (engine, store);
    }

    /// Commits all that is queued.
    pub fn sync(&self) {
        while matches!(self.engine.commit_once(), CommitOutcome::Committed(_)) {}
    }

    pub fn one(&self, write: Write) -> Result<Committed, Fault> {
        self.store.commit_one(VHOST, By { author: "anna", comment: "why" }, write, self.now)
    }

    pub fn put(&self, path: &str, value: &str) -> Committed {
        self.one(put(path, value)).unwrap()
    }

    pub fn item(&self, path: &str) -> Option<Arc<Item>> {
        self.store.get(VHOST, path).item
    }

    pub fn value(&self, path: &str) -> Option<String> {
        self.item(path).map(|i| String::from_utf8(i.value.to_vec()).unwrap())
    }

    pub fn session(&mut self, spec: NewSession) -> String {
        self.random += 1;
        let (session, _) = self.store.create_session(VHOST, spec, [self.random; 16], self.now).unwrap();
        session.id.to_string()
    }

    pub fn history(&self, path: &str) -> Vec<Past> {
        self.sync();
        self.store.history(VHOST, path, None, usize::MAX).unwrap()
    }
}

pub fn put(path: &str, value: &str) -> Write {
    put_when(path, value, When::Always)
}

pub fn put_when(path: &str, value: &str, when: When) -> Write {
    let value = Bytes::copy_from_slice(value.as_bytes());
    Write::Put { path: path.into(), value, content_type: None, flags: None, when }
}

pub fn delete(path: &str) -> Write {
    Write::Delete { path: path.into(), when: When::Always }
}

pub fn lock(path: &str, value: &str, session: &str) -> Write {
    let value = Bytes::copy_from_slice(value.as_bytes());
    Write::Lock { path: path.into(), value, flags: 0, session: session.into() }
}

pub fn unlock(path: &str, value: &str, session: &str) -> Write {
    let value = Bytes::copy_from_slice(value.as_bytes());
    Write::Unlock { path: path.into(), value, flags: 0, session: session.into() }
}

pub fn gray(path: &str, value: Option<&str>, percent: u8) -> Write {
    let value = value.map(|v| Bytes::copy_from_slice(v.as_bytes()));
    let rule = Rule { percent: Some(percent), ..Rule::default() };
    Write::Gray { path: path.into(), value, content_type: None, rule, when: When::Always }
}

//! A disk in memory that does everything a real one may do, at its worst: a crash keeps any subset of what was not
//! synced, in any order and torn anywhere, and forgets names that no directory sync covers; writes fail or come out
//! short; syncs fail and lose what they should have kept; the disk fills; bits flip.
//!
//! All of it follows from a seed.

mod file;
#[cfg(test)]
pub mod refusing;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::sync::{Arc, Mutex};

use self::file::FaultFile;
use super::{Disk, DiskFile, LockError};
use crate::sync::lock;

/// What a caller did, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Bytes were written to a file at an offset.
    Write {
        /// Which file.
        file: String,
        /// Where.
        offset: u64,
        /// How many bytes.
        len: usize,
    },
    /// A file was synced; `ok` is false if that failed.
    Sync {
        /// Which file.
        file: String,
        /// Whether it went well.
        ok: bool,
    },
    /// The directory was synced.
    SyncDir,
    /// The test's own remark; see [`FaultDisk::mark`].
    Mark(u64),
}

/// What goes wrong. Counters count down per operation; `None` never fires.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// The n-th write from now (0 is the next) fails.
    pub fail_write: Option<u64>,
    /// The n-th sync from now fails, and what it should have made durable may be lost at the next crash even if a later
    /// sync succeeds.
    pub fail_sync: Option<u64>,
    /// Writes take only a part of what they are given, now and then.
    pub short_writes: bool,
    /// Bytes that files may take together; beyond it, the disk is full.
    pub capacity: Option<u64>,
    /// The power fails at the n-th operation (write, sync, or change of a name) from now: it and all later ones fail.
    pub power_off: Option<u64>,
}

enum Change {
    Bytes(u64, Vec<u8>),
    Size(u64),
    Truncate,
}

#[derive(Default)]
struct Inode {
    durable: Vec<u8>,
    current: Vec<u8>,
    pending: Vec<Change>,
    /// What a failed sync dropped: no later sync saves it.
    limbo: Vec<Change>,
    /// Blocks that a system would have in its cache: all that did not go past it.
    cached: BTreeSet<u64>,
}

#[derive(Clone)]
enum NameChange {
    Link(String, usize),
    Unlink(String),
    Rename(String, String),
}

#[derive(Default)]
struct State {
    inodes: Vec<Inode>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    pending_names: VecDeque<NameChange>,
    events: Vec<Event>,
    faults: Faults,
    random: u64,
    /// Rises with every crash: handles of before it are dead.
    life: u64,
    locked: bool,
}

/// The disk. Clones share it.
#[derive(Clone)]
pub struct FaultDisk {
    state: Arc<Mutex<State>>,
}

impl FaultDisk {
    /// An empty disk; equal seeds and operations give equal faults.
    #[must_use]
    pub fn new(seed: u64) -> FaultDisk {
        let state = State { random: seed.wrapping_mul(2).wrapping_add(1), ..State::default() };
        FaultDisk { state: Arc::new(Mutex::new(state)) }
    }

    /// Says what goes wrong from now on.
    pub fn set_faults(&self, faults: Faults) {
        lock(&self.state).faults = faults;
    }

    /// Puts a remark among the events.
    pub fn mark(&self, what: u64) {
        lock(&self.state).events.push(Event::Mark(what));
    }

    /// Takes the events so far.
    #[must_use]
    pub fn take_events(&self) -> Vec<Event> {
        std::mem::take(&mut lock(&self.state).events)
    }

    /// The power fails and comes back: what is left is what was synced, and any part of the rest. Open handles are dead,
    /// locks are gone, faults are off.
    pub fn crash(&self) {
        let mut s = lock(&self.state);
        s.crash_names();
        let kept: Vec<usize> = s.durable_names.values().copied().collect();
        for i in kept {
            s.crash_inode(i);
        }
        s.names = s.durable_names.clone();
        s.life += 1;
        s.locked = false;
        s.faults = Faults::default();
    }

    /// The process is killed: the system keeps everything. Open handles are dead, locks are gone, faults are off.
    pub fn kill(&self) {
        let mut s = lock(&self.state);
        s.life += 1;
        s.locked = false;
        s.faults = Faults::default();
    }

    /// A copy of what is there now, all of it durable, for tries that may spoil it.
    #[must_use]
    pub fn snapshot(&self) -> FaultDisk {
        let s = lock(&self.state);
        let mut copy = State { random: s.random, ..State::default() };
        for (name, i) in &s.names {
            let bytes = s.inodes[*i].current.clone();
            copy.names.insert(name.clone(), copy.inodes.len());
            copy.inodes.push(Inode { durable: bytes.clone(), current: bytes, ..Inode::default() });
        }
        copy.durable_names = copy.names.clone();
        FaultDisk { state: Arc::new(Mutex::new(copy)) }
    }

    /// Names and lengths of all files.
    #[must_use]
    pub fn files(&self) -> Vec<(String, u64)> {
        let s = lock(&self.state);
        s.names.iter().map(|(n, i)| (n.clone(), s.inodes[*i].current.len() as u64)).collect()
    }

    /// A file's bytes.
    #[must_use]
    pub fn content(&self, name: &str) -> Option<Vec<u8>> {
        let s = lock(&self.state);
        s.names.get(name).map(|i| s.inodes[*i].current.clone())
    }

    /// Puts a file there, durably.
    pub fn put(&self, name: &str, bytes: Vec<u8>) {
        let mut s = lock(&self.state);
        let i = s.inodes.len();
        s.inodes.push(Inode { durable: bytes.clone(), current: bytes, ..Inode::default() });
        s.names.insert(name.to_owned(), i);
        s.durable_names.insert(name.to_owned(), i);
    }

    /// Flips a bit of a file, durably.
    pub fn flip_bit(&self, name: &str, bit: u64) {
        let mut s = lock(&self.state);
        let Some(i) = s.names.get(name).copied() else { return };
        let inode = &mut s.inodes[i];
        for bytes in [&mut inode.current, &mut inode.durable] {
            if let Some(b) = bytes.get_mut((bit / 8) as usize) {
                *b ^= 1 << (bit % 8);
            }
        }
    }

    /// Whether a file has writes that no sync covers.
    #[must_use]
    pub fn has_unsynced(&self, name: &str) -> bool {
        let s = lock(&self.state);
        s.names.get(name).is_some_and(|i| !s.inodes[*i].pending.is_empty())
    }

    fn file(&self, s: &State, inode: usize, name: &str) -> FaultFile {
        FaultFile { disk: self.clone(), inode, name: name.to_owned(), life: s.life, direct: false }
    }
}

/// Counts a fault down and says whether it fires.
fn fires(counter: &mut Option<u64>) -> bool {
    match counter {
        Some(0) => {
            *counter = None;
            true
        }
        Some(n) => {
            *n -= 1;
            false
        }
        None => false,
    }
}

fn apply(bytes: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Truncate => bytes.clear(),
        Change::Size(n) => bytes.resize((*n as usize).max(bytes.len()), 0),
        Change::Bytes(at, data) => {
            let end = *at as usize + data.len();
            if bytes.len() < end {
                bytes.resize(end, 0);
            }
            bytes[*at as usize..end].copy_from_slice(data);
        }
    }
}

/// What is left of a change outside of `start..end`.
fn punch(change: Change, start: u64, end: u64) -> Vec<Change> {
    let Change::Bytes(at, data) = change else { return vec![change] };
    let stop = at + data.len() as u64;
    let mut left = Vec::new();
    if at < start {
        left.push(Change::Bytes(at, data[..(start.min(stop) - at) as usize].to_vec()));
    }
    if stop > end {
        let from = end.max(at);
        left.push(Change::Bytes(from, data[(from - at) as usize..].to_vec()));
    }
    left
}

impl State {
    /// xorshift64*: small, and the same everywhere.
    fn next(&mut self) -> u64 {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        self.random.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 11) % n.max(1)
    }

    /// Fails if the power is off; counts the operation.
    fn operate(&mut self) -> io::Result<()> {
        match &mut self.faults.power_off {
            Some(0) => Err(io::Error::other("the power is off")),
            Some(n) => {
                *n -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn used(&self) -> u64 {
        self.names.values().map(|i| self.inodes[*i].current.len() as u64).sum()
    }

    fn crash_names(&mut self) {
        let changes = std::mem::take(&mut self.pending_names);
        // Half of the time a prefix survives, as with a journal; else any subset.
        let prefix = self.below(2) == 0;
        let cut = self.below(changes.len() as u64 + 1) as usize;
        for (i, change) in changes.into_iter().enumerate() {
            let keep = if prefix { i < cut } else { self.below(2) == 0 };
            if !keep {
                continue;
            }
            match change {
                NameChange::Link(name, inode) => drop(self.durable_names.insert(name, inode)),
                NameChange::Unlink(name) => drop(self.durable_names.remove(&name)),
                NameChange::Rename(from, to) => {
                    if let Some(i) = self.durable_names.remove(&from) {
                        self.durable_names.insert(to, i);
                    }
                }
            }
        }
    }

    fn crash_inode(&mut self, i: usize) {
        let mut changes = std::mem::take(&mut self.inodes[i].limbo);
        changes.append(&mut self.inodes[i].pending);
        // Any order: later writes to the same place do not always win.
        for n in (1..changes.len()).rev() {
            if self.below(4) == 0 {
                let other = self.below(n as u64 + 1) as usize;
                changes.swap(n, other);
            }
        }
        let mut bytes = std::mem::take(&mut self.inodes[i].durable);
        for change in changes {
            match self.below(4) {
                0 => {}
                1 => self.tear(&mut bytes, &change),
                _ => apply(&mut bytes, &change),
            }
        }
        self.inodes[i].current = bytes.clone();
        self.inodes[i].durable = bytes;
        self.inodes[i].cached.clear();
    }

    /// Some sectors of a write arrive; or a prefix, cut anywhere.
    fn tear(&mut self, bytes: &mut Vec<u8>, change: &Change) {
        let Change::Bytes(at, data) = change else { return };
        if self.below(2) == 0 {
            let cut = self.below(data.len() as u64 + 1) as usize;
            return apply(bytes, &Change::Bytes(*at, data[..cut].to_vec()));
        }
        let mut from = 0;
        while from < data.len() {
            let to = (from + 512 - (*at as usize + from) % 512).min(data.len());
            if self.below(2) == 0 {
                apply(bytes, &Change::Bytes(*at + from as u64, data[from..to].to_vec()));
            }
            from = to;
        }
    }
}

impl Disk for FaultDisk {
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let s = lock(&self.state);
        let inode = *s.names.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::new(self.file(&s, inode, name)))
    }

    fn open_direct(&self, name: &str) -> Option<Arc<dyn DiskFile>> {
        let s = lock(&self.state);
        let inode = *s.names.get(name)?;
        Some(Arc::new(FaultFile { direct: true, ..self.file(&s, inode, name) }))
    }

    fn open_read(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.open(name)
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut s = lock(&self.state);
        s.operate()?;
        if let Some(inode) = s.names.get(name).copied() {
            let file = &mut s.inodes[inode];
            file.current.clear();
            file.limbo.clear();
            file.pending.push(Change::Truncate);
            return Ok(Arc::new(self.file(&s, inode, name)));
        }
        let inode = s.inodes.len();
        s.inodes.push(Inode::default());
        s.names.insert(name.to_owned(), inode);
        s.pending_names.push_back(NameChange::Link(name.to_owned(), inode));
        Ok(Arc::new(self.file(&s, inode, name)))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut s = lock(&self.state);
        s.operate()?;
        let inode = s.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        s.names.insert(to.to_owned(), inode);
        s.pending_names.push_back(NameChange::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut s = lock(&self.state);
        s.operate()?;
        s.names.remove(name).ok_or(io::ErrorKind::NotFound)?;
        s.pending_names.push_back(NameChange::Unlink(name.to_owned()));
        Ok(())
    }

    fn list(&self) -> io::Result<Vec<String>> {
        Ok(lock(&self.state).names.keys().cloned().collect())
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut s = lock(&self.state);
        s.operate()?;
        if fires(&mut s.faults.fail_sync) {
            return Err(io::Error::other("injected: directory sync"));
        }
        s.pending_names.clear();
        s.durable_names = s.names.clone();
        s.events.push(Event::SyncDir);
        Ok(())
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let s = lock(&self.state);
        Ok(s.faults.capacity.map_or(u64::MAX, |c| c.saturating_sub(s.used())))
    }

    fn lock(&self) -> Result<Box<dyn Send + Sync>, LockError> {
        let mut s = lock(&self.state);
        if std::mem::replace(&mut s.locked, true) {
            return Err(LockError::Held { holder: None });
        }
        Ok(Box::new(Guard { disk: self.clone(), life: s.life }))
    }
}

struct Guard {
    disk: FaultDisk,
    life: u64,
}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut s = lock(&self.disk.state);
        if s.life == self.life {
            s.locked = false;
        }
    }
}

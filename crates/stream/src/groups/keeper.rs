//! Groups beyond a restart. Who does not hear of it goes on reading and committing after it as before: members would have to
//! join again otherwise, what they have in hand could not be committed, and programs that do not expect that end.
//!
//! A classic group is written whole when its members have been told what to read, before they are: in the journal it then stands
//! before whatever they commit. So after a crash nobody of an earlier generation may commit behind a later one.
//!
//! Of a group of the newer protocol what changes is written when it does, and whoever is to be told of it is told once that is
//! durable: a crash takes back nothing that a member goes by, so no partition has two owners after it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use waypost_model::journal::{AppendError, Journal, Op};
use waypost_model::{Lsn, Millis};

use super::book::Name;
use super::consumer::{ConsumerGroup, Piece, Pieces};
use super::group::Group;
use super::{Groups, name};
use crate::codec::{Malformed, Reader, Writer};

/// The kinds of definitions by which groups are kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kinds {
    /// A classic group.
    pub classic: u8,
    /// The epochs of a group of the newer protocol.
    pub epochs: u8,
    /// What one of its members has said.
    pub said: u8,
    /// What one of its members has.
    pub has: u8,
}

impl Kinds {
    /// What the definition of a piece of a group begins with.
    fn key(&self, name: &Name, piece: &Piece) -> Box<[u8]> {
        match piece {
            Piece::Epochs => key(self.epochs, name, None),
            Piece::Said(id) => key(self.said, name, Some(id)),
            Piece::Has(id) => key(self.has, name, Some(id)),
        }
    }
}

/// The key of a definition of a group, or of one of its members.
fn key(kind: u8, (vhost, group): &Name, member: Option<&str>) -> Box<[u8]> {
    let w = Writer::beginning(&[kind]).bytes(vhost.as_bytes()).bytes(group.as_bytes());
    member.into_iter().fold(w, |w, id| w.bytes(id.as_bytes())).finish()
}

/// The groups that were kept, as they were written.
#[derive(Debug, Default)]
pub(crate) struct Recalled {
    classic: BTreeMap<Name, Box<[u8]>>,
    /// Those of the newer protocol.
    pub(super) pieces: BTreeMap<Name, Pieces>,
}

impl Recalled {
    /// Reads a definition of one of these kinds.
    pub fn read(&mut self, kinds: &Kinds, key: &[u8], value: &[u8]) -> Result<(), Malformed> {
        let (kind, rest) = key.split_first().ok_or(Malformed)?;
        let mut k = Reader(rest);
        let name = name(k.text()?, k.text()?);
        let piece = match *kind {
            kind if kind == kinds.classic => None,
            kind if kind == kinds.epochs => Some(Piece::Epochs),
            kind if kind == kinds.said => Some(Piece::Said(k.text()?.into())),
            kind if kind == kinds.has => Some(Piece::Has(k.text()?.into())),
            _ => return Err(Malformed),
        };
        k.end()?;
        match piece {
            Some(piece) => drop(self.pieces.entry(name).or_default().insert(piece, value.into())),
            None => drop(self.classic.insert(name, value.into())),
        }
        Ok(())
    }
}

/// Writes down what is to be kept.
#[derive(Default)]
pub(super) struct Keeper {
    /// Where to, and as which definitions; without it nothing is kept.
    journal: Option<(Arc<dyn Journal>, Kinds)>,
    /// The classic groups that are.
    names: BTreeSet<Name>,
    unreadable: Vec<Name>,
}

impl fmt::Debug for Keeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keeper").field("names", &self.names.len()).finish_non_exhaustive()
    }
}

impl Keeper {
    /// Keeps a classic group as it is. What the journal does not take is not kept: its members join again.
    pub fn keep(&mut self, name: &Name, group: &Group) {
        let Some(kept) = group.to_keep() else { return self.forget(name) };
        if self.define(name, Some(kept)).is_some() {
            self.names.insert(name.clone());
        }
    }

    /// It has no members any more, or none that are kept.
    pub fn forget(&mut self, name: &Name) {
        if self.names.remove(name) {
            self.define(name, None);
        }
    }

    fn define(&self, name: &Name, value: Option<Box<[u8]>>) -> Option<Lsn> {
        let (journal, kinds) = self.journal.as_ref()?;
        journal.append(vec![Op::Define { key: key(kinds.classic, name, None), value }]).ok()
    }

    /// Keeps what has changed in a group of the newer protocol; what must be durable before anybody is told anything of it.
    ///
    /// # Errors
    /// The journal takes nothing.
    pub fn keep_consumers(&self, name: &Name, group: &mut ConsumerGroup) -> Result<Option<Lsn>, AppendError> {
        if let Some((journal, kinds)) = &self.journal {
            let define = |(piece, value)| Op::Define { key: kinds.key(name, &piece), value };
            let ops: Vec<Op> = group.to_keep().into_iter().map(define).collect();
            if !ops.is_empty() {
                group.lsn = Some(journal.append(ops)?);
            }
        }
        group.kept();
        Ok(group.lsn)
    }
}

impl Groups {
    /// The groups that were kept, which are kept from now on: as definitions of these kinds. `seed`: as for [`Groups::new`].
    ///
    /// A node starts without groups of which no sense can be made: their members join again, which is less than everybody's waiting
    /// for somebody to repair it.
    pub(crate) fn recall(
        seed: u64,
        journal: Arc<dyn Journal>,
        kinds: Kinds,
        recalled: Recalled,
        now: Millis,
    ) -> Groups {
        let groups = Groups::new(seed);
        let mut inner = groups.lock();
        let (mut unreadable, mut gone) = (Vec::new(), Vec::new());
        for (name, kept) in recalled.classic {
            let Ok(group) = Group::recalled(&kept, now) else {
                gone.push(key(kinds.classic, &name, None));
                unreadable.push(name);
                continue;
            };
            inner.groups.change(&name, now, |g| *g = group);
            inner.keeper.names.insert(name);
        }
        for (name, pieces) in recalled.pieces {
            let keys: Vec<Box<[u8]>> = pieces.keys().map(|piece| kinds.key(&name, piece)).collect();
            let Ok(mut group) = ConsumerGroup::recalled(pieces) else {
                gone.extend(keys);
                unreadable.push(name);
                continue;
            };
            group.resume(now);
            inner.consumers.change(&name, now, |g| *g = group);
        }
        if !gone.is_empty() {
            // What the journal does not take now it is told after the next start.
            let _ = journal.append(gone.into_iter().map(|key| Op::Define { key, value: None }).collect());
        }
        inner.keeper.unreadable = unreadable;
        inner.keeper.journal = Some((journal, kinds));
        drop(inner);
        groups
    }

    /// Groups (vhost, name) of which it was kept who their members were, but not so that sense can be made of it: those join again.
    #[must_use]
    pub fn unreadable(&self) -> Vec<(Arc<str>, Arc<str>)> {
        self.lock().keeper.unreadable.clone()
    }
}

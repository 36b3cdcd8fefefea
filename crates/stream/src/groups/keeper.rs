//! Groups beyond a restart. Who does not hear of it goes on reading and committing after it as before: members would have to
//! join again otherwise, what they have in hand could not be committed, and programs that do not expect that end.
//!
//! A group is written when its members have been told what to read, before they are: in the journal it then stands before
//! whatever they commit. So after a crash nobody of an earlier generation may commit behind a later one.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use waypost_model::journal::{Journal, Op};
use waypost_model::{Lsn, Millis};

use super::book::Name;
use super::group::Group;
use super::{Groups, name};
use crate::codec::{Malformed, Reader, Writer};

/// A group that was kept.
#[derive(Debug)]
pub(crate) struct Recalled {
    name: Name,
    kept: Box<[u8]>,
}

/// What the definition of a group's members begins with.
fn key(kind: u8, (vhost, group): &Name) -> Box<[u8]> {
    Writer::beginning(&[kind]).bytes(vhost.as_bytes()).bytes(group.as_bytes()).finish()
}

impl Recalled {
    /// Reads a definition.
    pub fn read(key: &[u8], value: &[u8]) -> Result<Recalled, Malformed> {
        let mut k = Reader(key.get(1..).ok_or(Malformed)?);
        let name = name(k.text()?, k.text()?);
        k.end()?;
        Group::recalled(value, Millis(0))?;
        Ok(Recalled { name, kept: value.into() })
    }
}

/// Writes down what is to be kept.
#[derive(Default)]
pub(super) struct Keeper {
    /// Where to, and as what kind of definition; without it nothing is kept.
    journal: Option<(Arc<dyn Journal>, u8)>,
    names: BTreeSet<Name>,
}

impl fmt::Debug for Keeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keeper").field("names", &self.names.len()).finish_non_exhaustive()
    }
}

impl Keeper {
    /// Keeps a group as it is. What the journal does not take is not kept: its members join again.
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
        let (journal, kind) = self.journal.as_ref()?;
        journal.append(vec![Op::Define { key: key(*kind, name), value }]).ok()
    }
}

impl Groups {
    /// The groups that were kept, which are kept from now on: as definitions of this kind. `seed`: as for [`Groups::new`].
    pub(crate) fn recall(
        seed: u64,
        journal: Arc<dyn Journal>,
        kind: u8,
        kept: Vec<Recalled>,
        now: Millis,
    ) -> Result<Groups, Malformed> {
        let groups = Groups::new(seed);
        let mut inner = groups.lock();
        for Recalled { name, kept } in kept {
            let group = Group::recalled(&kept, now)?;
            inner.groups.change(&name, now, |g| *g = group);
            inner.keeper.names.insert(name);
        }
        inner.keeper.journal = Some((journal, kind));
        drop(inner);
        Ok(groups)
    }
}

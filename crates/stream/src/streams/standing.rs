//! Whether groups that have offsets have members, or since when not: what is kept of a group expires so long after its last
//! member has gone. It is a definition, since not all groups outlive a restart: a node that restarts once a week would keep everything.
//!
//! A group without one never had members: somebody keeps offsets under its name. Where the definition says that there are
//! members, and after a start there are none, they have been gone since that was seen, as far as anybody knows; so a
//! group never expires early, and one that goes down together with the node is not older after that.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use waypost_model::Millis;
use waypost_model::journal::{AppendError, Op};

use super::offsets::Name;
use super::{Streams, keep, lock};
use crate::codec::{Malformed, Reader, Writer};
use crate::groups::{Change, Committer};

/// Most changes of one append.
const TOGETHER_MAX: usize = 1_000;
/// Stands for a time: there are members.
const NOT_GONE: u64 = u64::MAX;

/// What is known of a group's members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// There are some.
    Members,
    /// The last one has gone.
    GoneSince(Millis),
}

impl Standing {
    pub fn op(self, name: &Name) -> Op {
        let since = match self {
            Standing::Members => NOT_GONE,
            Standing::GoneSince(at) => at.0,
        };
        let value = Writer::default().number(keep::FORMAT).number(since).finish();
        Op::Define { key: key(name), value: Some(value) }
    }

    pub fn gone_since(self) -> Option<Millis> {
        match self {
            Standing::Members => None,
            Standing::GoneSince(at) => Some(at),
        }
    }
}

fn key((vhost, group): &Name) -> Box<[u8]> {
    Writer::beginning(&[keep::GROUP]).bytes(vhost.as_bytes()).bytes(group.as_bytes()).finish()
}

/// Those of all groups that have one.
#[derive(Debug, Default)]
pub(super) struct Standings(BTreeMap<Name, Standing>);

impl Standings {
    pub fn recover(&mut self, key: &[u8], value: &[u8]) -> Result<(), Malformed> {
        let mut k = Reader(key.get(1..).ok_or(Malformed)?);
        let name = (k.text()?.into(), k.text()?.into());
        k.end()?;
        let mut v = Reader(value);
        if v.number()? != keep::FORMAT {
            return Err(Malformed);
        }
        let standing = match v.number()? {
            NOT_GONE => Standing::Members,
            at => Standing::GoneSince(Millis(at)),
        };
        self.0.insert(name, standing);
        v.end()
    }

    pub fn of(&self, name: &Name) -> Option<Standing> {
        self.0.get(name).copied()
    }

    /// What a commit changes.
    pub fn after(&self, name: &Name, committer: Committer) -> Option<Standing> {
        let known = self.of(name) == Some(Standing::Members);
        (committer == Committer::Group && !known).then_some(Standing::Members)
    }

    pub fn set(&mut self, name: &Name, standing: Standing) {
        self.0.insert(name.clone(), standing);
    }

    /// What the journal is to be told when one is forgotten.
    pub fn forgetting(&self, name: &Name) -> Option<Op> {
        self.0.contains_key(name).then(|| Op::Define { key: key(name), value: None })
    }

    pub fn forget(&mut self, name: &Name) {
        self.0.remove(name);
    }

    /// Whose they are, behind one.
    pub fn names_behind(&self, from: Option<&Name>) -> impl Iterator<Item = &Name> {
        let from = from.map_or(Bound::Unbounded, Bound::Excluded);
        self.0.range::<Name, _>((from, Bound::Unbounded)).map(|(name, _)| name)
    }
}

impl Streams {
    /// Notes to which groups members have come, and from which all have gone.
    ///
    /// # Errors
    /// [`AppendError`]: the rest was not noted. [`Streams::expire_offsets`] finds it out later.
    pub fn note_members(&self, changes: &[Change], now: Millis) -> Result<(), AppendError> {
        for some in changes.chunks(TOGETHER_MAX) {
            let next = |c: &Change| {
                let standing = if c.has_members { Standing::Members } else { Standing::GoneSince(now) };
                ((Arc::clone(&c.vhost), Arc::clone(&c.group)), standing)
            };
            self.note_standings(some.iter().map(next))?;
        }
        Ok(())
    }

    /// Notes it of those groups that anything is kept of.
    pub(super) fn note_standings(&self, next: impl Iterator<Item = (Name, Standing)>) -> Result<(), AppendError> {
        let mut all = lock(&self.offsets);
        let news = next.filter(|(name, next)| all.knows(name) && all.standings.of(name) != Some(*next));
        let news: Vec<(Name, Standing)> = news.collect();
        if !news.is_empty() {
            self.journal.append(news.iter().map(|(name, standing)| standing.op(name)).collect())?;
        }
        news.iter().for_each(|(name, standing)| all.standings.set(name, *standing));
        Ok(())
    }
}

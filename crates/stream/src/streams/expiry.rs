//! Committed offsets that nobody needs any more.
//!
//! As Kafka has it (KIP-211): what a group has committed expires so long after its last member has gone, what it has committed
//! since included; offsets of a group that never had members expire each so long after it was committed; where there are
//! members, only those expire, so long after they were committed, of whose topics it is known that no member reads them.
//! Nothing expires of a partition for which a transaction has put off an offset.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use waypost_model::Millis;
use waypost_model::journal::AppendError;

use super::offsets::{Committed, Key, Name, Offsets};
use super::standing::Standing;
use super::{Streams, lock};
use crate::groups::Groups;

/// Most offsets that are looked at while others wait.
pub(super) const LOOKED_AT_MAX: usize = 10_000;
/// Most that are forgotten by one append.
pub(super) const TOGETHER_MAX: usize = 1_000;

/// By what offsets expire.
pub struct Expiry<'a> {
    /// Who has members, and what those read.
    pub groups: &'a Groups,
    /// How long offsets are kept that nobody has said anything else of, milliseconds.
    pub retention_ms: u64,
    /// What time it is.
    pub now: Millis,
    /// Whether somebody inside the server keeps its position in a group (vhost, group): that never expires.
    pub is_in_use: &'a dyn Fn(&str, &str) -> bool,
    /// Whether to stop.
    pub stop: &'a dyn Fn() -> bool,
}

impl Committed {
    /// When it expires if nothing changes. `gone_since`: when the last member of its group has gone, if it ever had any.
    #[must_use]
    pub fn expires_at(&self, gone_since: Option<Millis>, retention_ms: u64) -> Millis {
        let since = gone_since.map_or(self.at, |gone| gone.max(self.at));
        self.ends.unwrap_or(Millis(since.0.saturating_add(retention_ms)))
    }
}

impl Expiry<'_> {
    fn is_over(&self, committed: &Committed, standing: Option<Standing>) -> bool {
        let gone_since = standing.and_then(Standing::gone_since);
        committed.expires_at(gone_since, self.retention_ms) <= self.now
    }
}

impl Streams {
    /// Forgets committed offsets whose time is over, in portions; how many. To be called now and then.
    ///
    /// # Errors
    /// [`AppendError`]: what is left is found next time.
    pub fn expire_offsets(&self, by: &Expiry<'_>) -> Result<u64, AppendError> {
        let mut expired = 0;
        let mut at: Option<Name> = None;
        while !(by.stop)() {
            let next = lock(&self.offsets).groups.name_behind(at.as_ref()).cloned();
            let Some(name) = next else { break };
            if !(by.is_in_use)(&name.0, &name.1) {
                expired += self.expire_of_group(&name, by)?;
            }
            at = Some(name);
        }
        self.forget_standings()?;
        Ok(expired)
    }

    fn expire_of_group(&self, name: &Name, by: &Expiry<'_>) -> Result<u64, AppendError> {
        let has_members = by.groups.has_members(&name.0, &name.1);
        // Who was told of a change may have missed it, and after a start nobody has told anything.
        let standing = lock(&self.offsets).standings.of(name);
        match (has_members, standing) {
            (true, _) => self.note_standings([(name.clone(), Standing::Members)].into_iter())?,
            (false, Some(Standing::Members)) => {
                self.note_standings([(name.clone(), Standing::GoneSince(by.now))].into_iter())?;
            }
            (false, _) => {}
        }
        let (mut expired, mut from) = (0, None);
        loop {
            let (mut over, next) = lock(&self.offsets).over(name, from.as_ref(), by);
            if has_members && !over.is_empty() {
                let topics: BTreeSet<Arc<str>> = over.iter().map(|(topic, _)| Arc::clone(topic)).collect();
                let unread = by.groups.unread(&name.0, &name.1, topics);
                over.retain(|(topic, _)| unread.contains(topic));
            }
            expired += self.expire(name, over, has_members, by)?;
            match next {
                Some(key) if !(by.stop)() => from = Some(key),
                _ => return Ok(expired),
            }
        }
    }

    fn expire(&self, name: &Name, mut over: Vec<Key>, had_members: bool, by: &Expiry<'_>) -> Result<u64, AppendError> {
        let mut all = lock(&self.offsets);
        // Members may have come, and somebody may have committed, since it was looked.
        let has_members = all.standings.of(name) == Some(Standing::Members);
        over.retain(|key| has_members == had_members && all.is_over(name, key, by));
        if over.is_empty() {
            return Ok(0);
        }
        self.journal.append(all.taking(name, &over))?;
        all.taken(name, &over);
        let expired = over.len() as u64;
        self.offsets_expired.fetch_add(expired, Ordering::Relaxed);
        Ok(expired)
    }

    /// Forgets what is known of the members of groups of which nothing is left.
    fn forget_standings(&self) -> Result<(), AppendError> {
        let mut from: Option<Name> = None;
        loop {
            let mut all = lock(&self.offsets);
            let some = all.standings.names_behind(from.as_ref()).take(LOOKED_AT_MAX);
            let some: Vec<(Name, bool)> = some.map(|name| (name.clone(), all.knows(name))).collect();
            let Some((last, _)) = some.last() else { return Ok(()) };
            from = Some(last.clone());
            let left: Vec<&Name> = some.iter().filter(|(_, known)| !known).map(|(name, _)| name).collect();
            if !left.is_empty() {
                self.journal.append(left.iter().filter_map(|name| all.standings.forgetting(name)).collect())?;
            }
            left.into_iter().for_each(|name| all.standings.forget(name));
        }
    }

    /// How many offsets have expired since the start.
    #[must_use]
    pub fn offsets_expired(&self) -> u64 {
        self.offsets_expired.load(Ordering::Relaxed)
    }

    /// How many committed offsets are kept, those of open transactions included.
    #[must_use]
    pub fn offsets_kept(&self) -> usize {
        lock(&self.offsets).tally.count
    }

    /// Since when a group that has committed has no members; `None`: it has some, or never had any.
    #[must_use]
    pub fn gone_since(&self, vhost: &str, group: &str) -> Option<Millis> {
        lock(&self.offsets).standings.of(&(vhost.into(), group.into())).and_then(Standing::gone_since)
    }
}

impl Offsets {
    /// Some of a group's offsets behind `from` whose time may be over, and up to where it was looked if there are more.
    fn over(&self, name: &Name, from: Option<&Key>, by: &Expiry<'_>) -> (Vec<Key>, Option<Key>) {
        let from = from.map_or(Bound::Unbounded, Bound::Excluded);
        let all = self.groups.of(name).into_iter().flat_map(|all| all.range::<Key, _>((from, Bound::Unbounded)));
        let standing = self.standings.of(name);
        let (mut over, mut last) = (Vec::new(), None);
        for (looked_at, (key, committed)) in all.enumerate() {
            if looked_at == LOOKED_AT_MAX || over.len() == TOGETHER_MAX {
                return (over, last);
            }
            if by.is_over(committed, standing) {
                over.push(key.clone());
            }
            last = Some(key.clone());
        }
        (over, None)
    }

    fn is_over(&self, name: &Name, key: &Key, by: &Expiry<'_>) -> bool {
        let committed = self.groups.get(name, key);
        let over = committed.is_some_and(|committed| by.is_over(committed, self.standings.of(name)));
        over && !self.pending.has(name, key)
    }
}

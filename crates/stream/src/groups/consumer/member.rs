//! Members of the newer protocol.

use std::collections::BTreeSet;
use std::sync::Arc;

use waypost_model::{Lsn, Millis};

use super::super::{GroupFault, Who, room};
use super::{ASSIGNORS, JOINS, LEAVES, LEAVES_FOR_A_WHILE, MEMBER_ID_BYTES_MAX, Parts, SESSION_TIMEOUT_MS};
use crate::streams::{NAME_MAX, TopicId};

/// What a member says.
#[derive(Clone, Debug, Default)]
pub struct Heartbeat {
    /// Its id; may be empty when it joins.
    pub member_id: Box<str>,
    /// Its epoch; 0 joins, -1 leaves, -2 leaves for a while, which only an instance can.
    pub epoch: i32,
    /// The instance that it is.
    pub instance: Option<Box<str>>,
    /// Where it is.
    pub rack: Option<Box<str>>,
    /// Who it is.
    pub who: Who,
    /// How long it may take to let go of a partition, milliseconds; `None`: as before.
    pub rebalance_timeout_ms: Option<u64>,
    /// The topics that it reads; `None`: as before.
    pub names: Option<Vec<Arc<str>>>,
    /// The pattern of topics that it reads, empty for none; `None`: as before.
    pub pattern: Option<Box<str>>,
    /// How it likes to be dealt out; `None`: as before.
    pub assignor: Option<Box<str>>,
    /// What it has; `None`: as before.
    pub owned: Option<Parts>,
}

impl Heartbeat {
    /// What must hold of it whatever the group is.
    pub(in crate::groups) fn check(&self) -> Result<(), GroupFault> {
        let fail = |what| Err(GroupFault::InvalidRequest(what));
        if self.member_id.len() > MEMBER_ID_BYTES_MAX || self.instance.as_ref().is_some_and(|i| i.is_empty()) {
            return fail("a member's id has at most 256 bytes, an instance's at least one");
        }
        if self.member_id.is_empty() && self.epoch != JOINS {
            return fail("a member that has joined has an id");
        }
        if let Some(name) = &self.assignor
            && !ASSIGNORS.contains(&&**name)
        {
            return Err(GroupFault::UnsupportedAssignor);
        }
        match self.epoch {
            LEAVES_FOR_A_WHILE if self.instance.is_none() => fail("only an instance leaves for a while"),
            epoch if epoch < LEAVES_FOR_A_WHILE => fail("an epoch is at least -2"),
            JOINS if self.rebalance_timeout_ms.is_none() => fail("who joins says how long it may take to let go"),
            JOINS if self.owned.as_ref().is_none_or(|o| !o.is_empty()) => {
                fail("who joins has nothing yet, and says so")
            }
            JOINS if self.names.is_none() && self.pattern.is_none() => fail("who joins says what it reads"),
            _ => Ok(()),
        }
    }
}

/// The answer to a heartbeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beaten {
    /// The member's id.
    pub member_id: Box<str>,
    /// Its epoch.
    pub epoch: i32,
    /// What it is to have now: it lets go of everything else. `None`: as before.
    pub assignment: Option<Parts>,
    /// What must be durable before it is told.
    pub lsn: Option<Lsn>,
}

/// A member, for those who look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumerMemberView {
    /// Its id.
    pub id: Box<str>,
    /// The instance that it is.
    pub instance: Option<Box<str>>,
    /// Where it is.
    pub rack: Option<Box<str>>,
    /// Its epoch.
    pub epoch: i32,
    /// Who it is.
    pub who: Who,
    /// The topics that it reads.
    pub names: Vec<Arc<str>>,
    /// The pattern of topics that it reads; empty for none.
    pub pattern: Box<str>,
    /// What it has.
    pub assigned: Parts,
    /// What it is to have.
    pub target: Parts,
}

/// How far a member has been led.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Phase {
    /// It has all of its epoch's target.
    #[default]
    Stable,
    /// It is to let go of something first.
    Unrevoked,
    /// It waits for others to let go.
    Unreleased,
}

/// What a heartbeat was about.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Taken {
    /// The member says something else of itself than before.
    pub news: bool,
    /// What is to be dealt out may be other for it.
    pub deals: bool,
}

/// How far a member has been led, with what it has.
#[derive(Debug)]
pub(super) struct Led {
    pub epoch: i32,
    pub phase: Phase,
    pub assigned: Parts,
    pub revoking: Parts,
}

/// Puts something in a place, if there is anything; whether something else was there.
fn set<T: PartialEq>(place: &mut T, value: Option<T>) -> bool {
    let Some(value) = value.filter(|value| value != place) else { return false };
    *place = value;
    true
}

#[derive(Debug)]
pub(super) struct Member {
    pub instance: Option<Box<str>>,
    pub rack: Option<Box<str>>,
    pub who: Who,
    pub rebalance_ms: u64,
    pub names: BTreeSet<Arc<str>>,
    pub pattern: Box<str>,
    pub assignor: Option<Box<str>>,
    pub epoch: i32,
    pub previous_epoch: i32,
    pub phase: Phase,
    pub assigned: Parts,
    pub revoking: Parts,
    pub target: Parts,
    /// When its silence is too long.
    pub until: Millis,
    /// When it must have let go.
    pub revoke_until: Option<Millis>,
}

impl Member {
    pub fn new(instance: Option<Box<str>>, now: Millis) -> Member {
        Member {
            instance,
            rack: None,
            who: Who::default(),
            rebalance_ms: 0,
            names: BTreeSet::new(),
            pattern: "".into(),
            assignor: None,
            epoch: JOINS,
            // No member is ever at it: one that was just made has changed.
            previous_epoch: LEAVES,
            phase: Phase::Stable,
            assigned: Parts::new(),
            revoking: Parts::new(),
            target: Parts::new(),
            until: now.plus(SESSION_TIMEOUT_MS),
            revoke_until: None,
        }
    }

    /// What it has said of itself, as [`Heartbeat::bytes`].
    pub fn bytes(&self) -> usize {
        let texts = [self.instance.as_deref(), self.rack.as_deref(), Some(&*self.pattern)];
        room::of_consumer(&self.who, texts, self.names.iter())
    }

    /// Whether what it says of itself may be other than before.
    pub fn is_told_by(&self, beat: &Heartbeat) -> bool {
        beat.names.is_some() || beat.pattern.is_some() || beat.rack.is_some() || beat.who != self.who
    }

    /// The bytes that its view takes in an answer, about: names of topics stand beside what it has and is to have.
    pub fn view_bytes(&self) -> usize {
        let parts =
            |parts: &Parts| parts.values().map(|all| NAME_MAX + size_of::<TopicId>() + 4 * all.len()).sum::<usize>();
        self.bytes() + parts(&self.assigned) + parts(&self.target)
    }

    /// When it is out, unless it speaks or lets go.
    pub fn deadline(&self) -> Millis {
        self.revoke_until.map_or(self.until, |at| at.min(self.until))
    }

    /// The same instance under another id.
    pub fn again(&self) -> Member {
        Member {
            rack: self.rack.clone(),
            names: self.names.clone(),
            pattern: self.pattern.clone(),
            assignor: self.assignor.clone(),
            previous_epoch: JOINS,
            assigned: self.assigned.clone(),
            target: self.target.clone(),
            ..Member::new(self.instance.clone(), self.until)
        }
    }

    pub fn leave_for_a_while(&mut self, now: Millis) {
        self.epoch = LEAVES_FOR_A_WHILE;
        self.phase = Phase::Stable;
        self.revoke_until = None;
        self.until = now.plus(SESSION_TIMEOUT_MS);
    }

    /// Takes over what it says.
    pub fn take_in(&mut self, beat: &Heartbeat, now: Millis) -> Taken {
        self.until = now.plus(SESSION_TIMEOUT_MS);
        let mut deals = set(&mut self.names, beat.names.as_ref().map(|names| names.iter().cloned().collect()));
        deals |= set(&mut self.pattern, beat.pattern.clone());
        deals |= set(&mut self.assignor, beat.assignor.clone().map(Some));
        let mut news = deals | set(&mut self.who, Some(beat.who.clone()));
        news |= set(&mut self.rebalance_ms, beat.rebalance_timeout_ms);
        news |= set(&mut self.rack, beat.rack.clone().map(Some));
        if self.previous_epoch == LEAVES {
            self.previous_epoch = JOINS;
            deals = true;
        }
        Taken { news, deals }
    }

    /// Whether it has all that it is to have by this target.
    pub fn is_led_to(&self, target_epoch: i32) -> bool {
        self.phase == Phase::Stable && self.epoch == target_epoch
    }

    pub fn led(&self) -> Led {
        let Member { epoch, phase, .. } = *self;
        Led { epoch, phase, assigned: self.assigned.clone(), revoking: self.revoking.clone() }
    }

    /// Whether it is still as far.
    pub fn is_led(&self, led: &Led) -> bool {
        (self.epoch, self.phase) == (led.epoch, led.phase)
            && (&self.assigned, &self.revoking) == (&led.assigned, &led.revoking)
    }

    pub fn view(&self, id: &str) -> ConsumerMemberView {
        ConsumerMemberView {
            id: id.into(),
            instance: self.instance.clone(),
            rack: self.rack.clone(),
            epoch: self.epoch,
            who: self.who.clone(),
            names: self.names.iter().cloned().collect(),
            pattern: self.pattern.clone(),
            assigned: self.assigned.clone(),
            target: self.target.clone(),
        }
    }
}

//! Consumers: their credit, and what they hold.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use waypost_model::table::Table;
use waypost_model::{ChannelId, ConnId, ConsumerId, Outbox, Refusal};

use super::mailbox::Claimant;
use super::run::Run;
use super::unsettled::Held;

/// A prefetch limit that the consumers of a channel share (`basic.qos` with `global`). The consumers may belong to
/// several shards.
///
/// After settlements the broker asks [`ChannelCredit::wanted`], and pokes all consumers of the channel if it says yes.
/// Credit that comes back otherwise (a queue was deleted, a consumer held messages for too long) is told by
/// [`crate::effect::Effect::CreditBack`].
#[derive(Debug, Default)]
pub struct ChannelCredit {
    /// The limit in the high half, 0 for none; what is held in the low half.
    state: AtomicU64,
    wanted: AtomicBool,
    members: Mutex<BTreeSet<ConsumerId>>,
}

impl ChannelCredit {
    /// A limit of `prefetch` messages; 0 is no limit.
    #[must_use]
    pub fn new(prefetch: u32) -> ChannelCredit {
        ChannelCredit { state: AtomicU64::new(u64::from(prefetch) << 32), ..ChannelCredit::default() }
    }

    /// Whether there is a limit at all.
    #[must_use]
    pub fn is_limited(&self) -> bool {
        self.state.load(Ordering::SeqCst) >> 32 != 0
    }

    /// Another limit; 0 is none. The broker pokes all consumers of the channel afterwards.
    pub fn limit(&self, prefetch: u32) {
        let _ = self.state.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |s| {
            Some(u64::from(prefetch) << 32 | s & u64::from(u32::MAX))
        });
    }

    /// How many messages the channel holds unsettled.
    #[must_use]
    pub fn held(&self) -> u32 {
        self.state.load(Ordering::SeqCst) as u32
    }

    /// Whether a consumer found no credit since the last call, while there may be some now.
    #[must_use]
    pub fn wanted(&self) -> bool {
        self.wanted.swap(false, Ordering::SeqCst)
    }

    fn room(state: u64) -> u32 {
        match ((state >> 32) as u32, state as u32) {
            (0, held) => u32::MAX - held,
            (limit, held) => limit.saturating_sub(held),
        }
    }

    /// Whether there is credit. If not, that is noted before looking once more, so that what is given back meanwhile is
    /// either seen here or followed by a poke.
    fn available(&self) -> bool {
        if Self::room(self.state.load(Ordering::SeqCst)) > 0 {
            return true;
        }
        self.wanted.store(true, Ordering::SeqCst);
        Self::room(self.state.load(Ordering::SeqCst)) > 0
    }

    /// Takes up to `want`.
    fn take(&self, want: u32) -> u32 {
        let mut got = 0;
        let _ = self.state.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |s| {
            got = Self::room(s).min(want);
            Some(s + u64::from(got))
        });
        got
    }

    /// Takes `n`, whatever the limit: if there is one, it has come this moment.
    fn take_freely(&self, n: u32) {
        self.state.fetch_add(n.into(), Ordering::SeqCst);
    }

    /// The consumers that share it.
    #[must_use]
    pub fn members(&self) -> Vec<ConsumerId> {
        self.members_lock().iter().copied().collect()
    }

    fn members_lock(&self) -> MutexGuard<'_, BTreeSet<ConsumerId>> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn give(&self, n: u32) {
        let _ = self.state.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |s| Some(s - u64::from(n.min(s as u32))));
    }
}

/// What the arguments of a consumer ask for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ConsumerArguments {
    /// `x-priority`: those of a higher one are served first.
    pub priority: i32,
}

impl ConsumerArguments {
    /// Reads the arguments of a consume. `x-cancel-on-ha-failover` asks for what holds anyway; arguments without `x-`
    /// are the client's own.
    ///
    /// # Errors
    /// 406 if a value is not what it should be, 540 for what we do not do.
    pub fn parse(arguments: &Table) -> Result<ConsumerArguments, Refusal> {
        let mut parsed = ConsumerArguments::default();
        for (key, value) in arguments.iter() {
            match key {
                "x-priority" => {
                    let priority = value.as_i64().and_then(|n| i32::try_from(n).ok());
                    let wrong = || Refusal::precondition_failed("invalid arg 'x-priority': not a 32-bit integer");
                    parsed.priority = priority.ok_or_else(wrong)?;
                }
                "x-cancel-on-ha-failover" => {
                    let wrong = || Refusal::precondition_failed("invalid arg 'x-cancel-on-ha-failover': not a boolean");
                    value.as_bool().ok_or_else(wrong)?;
                }
                // Who it is was read before.
                "x-service" => {}
                key if key.starts_with("x-") => {
                    return Err(Refusal::not_implemented(format!("consumer argument '{key}' is not supported")).soft());
                }
                _ => {}
            }
        }
        Ok(parsed)
    }
}

/// What it takes to become a consumer.
#[derive(Debug)]
pub struct NewConsumer {
    /// Of which connection.
    pub conn: ConnId,
    /// Of which channel.
    pub channel: ChannelId,
    /// Its tag.
    pub tag: Box<str>,
    /// Where its deliveries go.
    pub outbox: Arc<Outbox>,
    /// The token of the call, for the reply.
    pub token: u32,
    /// Deliveries are settled by [`waypost_model::command::Sent`].
    pub no_ack: bool,
    /// Nobody else may consume.
    pub exclusive: bool,
    /// Further wishes.
    pub arguments: ConsumerArguments,
    /// Unsettled messages at most. Does not count where `no_ack`.
    pub prefetch: Option<u32>,
    /// A limit shared with the other consumers of the channel. Does not count where `no_ack`.
    pub credit: Arc<ChannelCredit>,
    /// Byte credit.
    pub window_bytes: u64,
    /// The instance that it is (part of), if it said so.
    pub instance: Option<Claimant>,
}

/// A consumer, or the stand-in that holds what a channel got by single requests.
#[derive(Debug)]
pub(super) struct Consumer {
    pub id: ConsumerId,
    pub conn: ConnId,
    pub channel: ChannelId,
    pub tag: Box<str>,
    /// `None` for stand-ins.
    pub outbox: Option<Arc<Outbox>>,
    pub no_ack: bool,
    pub exclusive: bool,
    pub priority: i32,
    pub prefetch: u32,
    pub channel_credit: Option<Arc<ChannelCredit>>,
    pub window: i64,
    pub held: Held,
    /// Gets no more messages: cancelled, or a stand-in.
    pub ended: bool,
    /// Stands in the order of service.
    pub listed: bool,
}

impl Consumer {
    pub fn new(id: ConsumerId, new: NewConsumer) -> Consumer {
        if !new.no_ack {
            new.credit.members_lock().insert(id);
        }
        Consumer {
            id,
            conn: new.conn,
            channel: new.channel,
            tag: new.tag,
            outbox: Some(new.outbox),
            no_ack: new.no_ack,
            exclusive: new.exclusive,
            priority: new.arguments.priority,
            prefetch: new.prefetch.filter(|p| *p > 0 && !new.no_ack).unwrap_or(u32::MAX),
            channel_credit: (!new.no_ack).then_some(new.credit),
            window: i64::try_from(new.window_bytes).unwrap_or(i64::MAX),
            held: if new.no_ack { Held::in_order() } else { Held::by_place() },
            ended: false,
            listed: false,
        }
    }

    /// What holds the messages that a channel got one by one.
    pub fn stand_in(id: ConsumerId, conn: ConnId, channel: ChannelId) -> Consumer {
        Consumer {
            id,
            conn,
            channel,
            tag: "".into(),
            outbox: None,
            no_ack: false,
            exclusive: false,
            priority: 0,
            prefetch: u32::MAX,
            channel_credit: None,
            window: 0,
            held: Held::by_place(),
            ended: true,
            listed: false,
        }
    }

    pub fn is_stand_in(&self) -> bool {
        self.outbox.is_none()
    }

    /// Whether it may be given a message now.
    pub fn has_credit(&self) -> bool {
        !self.ended
            && self.window > 0
            && self.held.messages() < u64::from(self.prefetch)
            && self.channel_credit.as_ref().is_none_or(|c| c.available())
    }

    /// Takes credit for messages from the front of `run`, at most `want`; how many it came to.
    pub fn take_credit(&mut self, run: &Run, want: u32) -> u32 {
        let mut max = want.min(run.count);
        if !self.no_ack {
            let left = u64::from(self.prefetch).saturating_sub(self.held.messages());
            max = max.min(u32::try_from(left).unwrap_or(u32::MAX));
        }
        let n = run.fitting(u64::try_from(self.window).unwrap_or(0), max);
        self.channel_credit.as_ref().map_or(n, |c| c.take(n))
    }

    /// Whether nobody else uses its credit for messages up.
    pub fn counts_alone(&self) -> bool {
        self.channel_credit.as_ref().is_none_or(|c| !c.is_limited())
    }

    /// Takes credit for messages of a consumer that counts alone.
    pub fn take_freely(&self, n: u32) {
        if let Some(c) = &self.channel_credit {
            c.take_freely(n);
        }
    }

    /// Leaves the channel's credit for good; returns it if others wait for what is given back.
    pub fn leave_credit(&self, n: u32) -> Option<Arc<ChannelCredit>> {
        let credit = self.channel_credit.as_ref()?;
        credit.members_lock().remove(&self.id);
        credit.give(n);
        (n > 0 && credit.wanted()).then(|| Arc::clone(credit))
    }

    /// Gives message credit back.
    pub fn give_credit(&self, n: u32) {
        if let Some(c) = &self.channel_credit {
            c.give(n);
        }
    }
}

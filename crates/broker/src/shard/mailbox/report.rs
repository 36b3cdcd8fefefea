//! What is told about a mailbox, and why a message would go where it would.

use std::sync::Arc;

use waypost_model::Route;
use waypost_model::address::Address;
use waypost_model::selector::Selector;
use waypost_model::service::{Health, Instance, Standing};

use super::super::Shard;
use super::super::queue::Queue;
use super::choice::Wish;
use super::lane::{Lane, Serves};
use super::member::Member;
use super::{Mailbox, Source};
use crate::context::Cx;

/// How a mailbox stands.
#[derive(Debug, Clone, Default)]
pub struct MailboxInfo {
    /// Its instances that consume or have consumed, by id.
    pub members: Vec<MemberInfo>,
    /// Its lanes that have messages, waiting or unsettled, by selector. What has neither selector nor key is in the first
    /// one, if at all.
    pub lanes: Vec<LaneInfo>,
    /// Copies that ended with their recipients.
    pub ended: u64,
}

/// How an instance stands.
#[derive(Debug, Clone)]
pub struct MemberInfo {
    /// What it says of itself.
    pub instance: Arc<Instance>,
    /// What the registry says of it.
    pub standing: Standing,
    /// Its consumers.
    pub consumers: u32,
    /// Messages that it holds.
    pub in_flight: u32,
    /// Messages that it acknowledged.
    pub acked: u64,
    /// How long it takes to acknowledge, ms: recent ones count more. `None` before the first.
    pub latency_ms: Option<f32>,
    /// It keeps failing, and gets single probes only.
    pub ejected: bool,
    /// What the next message costs it: the least is chosen. `None` if it can take none now.
    pub cost: Option<f32>,
}

/// How a lane stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaneInfo {
    /// The canonical selector; empty for any instance. `None`: all sorts of selectors share it.
    pub selector: Option<Box<str>>,
    /// The only instance that its messages are for.
    pub recipient: Option<Box<str>>,
    /// Messages that wait, those with keys included.
    pub waiting: u64,
    /// Of those, with keys.
    pub waiting_keyed: u64,
    /// Delivered and not settled.
    pub unsettled: u64,
    /// Instances that may take them now, their credit aside.
    pub candidates: u32,
}

/// Why a message would go where it would.
#[derive(Debug, Clone, Default)]
pub struct MailboxExplanation {
    /// Everybody who was thought of, by id.
    pub candidates: Vec<Candidate>,
    /// Who would get it now.
    pub chosen: Option<Chosen>,
    /// Older messages wait in the same place.
    pub behind: u64,
}

/// Who would get a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Chosen {
    /// This instance.
    Instance(Box<str>),
    /// A consumer that says nothing of itself.
    Anonymous,
}

/// Somebody who was thought of.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// The instance.
    pub instance: Arc<Instance>,
    /// What it would cost, or the condition that failed.
    pub verdict: Result<f32, String>,
}

impl Shard {
    /// How a queue stands as a mailbox. `None`: nobody consumes from it as an instance, and nothing in it is for some.
    #[must_use]
    pub fn mailbox_info(&self, id: waypost_model::QueueId) -> Option<MailboxInfo> {
        let q = self.queue(id)?;
        Some(q.mailbox.as_deref()?.info(q))
    }

    /// How many messages an instance holds; `None` if it does not consume, and has not.
    #[must_use]
    pub fn in_flight(&self, id: waypost_model::QueueId, instance: &str) -> Option<u32> {
        let mailbox = self.queue(id)?.mailbox.as_deref()?;
        let member = mailbox.by_id.get(instance)?;
        mailbox.member(*member).map(|x| x.in_flight)
    }

    /// Where a message with a route would go in a mailbox, and why; nothing happens.
    pub fn mailbox_explain(
        &mut self,
        id: waypost_model::QueueId,
        route: &Arc<Route>,
        cx: &mut Cx<'_>,
    ) -> MailboxExplanation {
        let Some((q, _)) = self.with_core(id) else {
            return MailboxExplanation::default();
        };
        match q.mailbox.take() {
            Some(mut mb) => {
                let explained = mb.explain(q, route, cx);
                q.mailbox = Some(mb);
                explained
            }
            None => {
                let anonymous = q.roster.as_mut().and_then(|r| r.turn(super::super::roster::Sharing::Turns));
                let plain = route.address.is_none();
                let chosen = anonymous.filter(|_| plain).map(|_| Chosen::Anonymous);
                MailboxExplanation { chosen, behind: q.ready.messages(), ..MailboxExplanation::default() }
            }
        }
    }
}

impl Mailbox {
    fn info(&self, q: &Queue) -> MailboxInfo {
        let of = |(m, x): (usize, &Member)| {
            Some(MemberInfo {
                instance: x.instance.clone()?,
                standing: x.standing,
                consumers: x.consumers.len() as u32,
                in_flight: x.in_flight,
                acked: x.acked,
                latency_ms: x.latency,
                ejected: x.ejected.is_some(),
                cost: Some(self.cost(m as u32)).filter(|c| c.is_finite()),
            })
        };
        let known = self.members.iter().enumerate().filter_map(|(m, x)| Some((m, x.as_ref().filter(|x| !x.gone)?)));
        let mut members: Vec<MemberInfo> = known.filter_map(of).collect();
        members.sort_unstable_by(|a, b| a.instance.id.cmp(&b.instance.id));
        let lanes = (0u16..).zip(&self.lanes).map(|(i, l)| lane_info(i, l, q)).filter(|l| l.waiting + l.unsettled > 0);
        MailboxInfo { members, lanes: lanes.collect(), ended: self.ended }
    }

    fn explain(&mut self, q: &mut Queue, route: &Arc<Route>, cx: &Cx<'_>) -> MailboxExplanation {
        let decoded = route.address.as_deref().map_or(Some(Address::default()), Address::decode);
        let (Some(a), Some(roster)) = (decoded, q.roster.as_deref()) else {
            return MailboxExplanation::default();
        };
        let Some(selector) = Selector::parse(a.selector).ok() else {
            return MailboxExplanation::default();
        };
        let only = q.settings.single_active_consumer.then(|| roster.active());
        for m in 0..self.members.len() as u32 {
            self.refresh(m, roster, only, cx.now);
        }
        // A lane that is not there has nothing waiting: asking must not make one.
        let lane = match a.recipient {
            Some(id) => self.by_text.get(&*format!("\0{id}")).copied(),
            None if a.selector.is_empty() => Some(0),
            None => self.by_text.get(a.selector).copied(),
        };
        let source = lane.map(|lane| Source { lane, slot: a.slot });
        let near = a.near.and_then(|z| self.zones.iter().position(|known| **known == *z)).map_or(0, |i| i as u8 + 1);
        let wish = Wish { source: source.unwrap_or(Source::PLAIN), near, route };
        let chosen = match source {
            Some(_) => self.choose(wish),
            None => self.choose_unknown(&a, &selector, wish),
        };
        let owner = source.and_then(|s| s.slot.and_then(|slot| self.slot(s.lane, slot))).and_then(|s| s.owner);
        let owner = owner.and_then(|c| self.seat(c)).map(|s| s.member);
        let behind = match source {
            Some(Source::PLAIN) => q.ready.messages(),
            Some(s) => self.ready(s).map_or(0, super::Ready::messages),
            None => 0,
        };
        let of = |m: u32, x: &Member| {
            let instance = x.instance.clone()?;
            Some(Candidate { verdict: self.verdict(m, x, &instance, &a, &selector, owner), instance })
        };
        let known = (0u32..).zip(&self.members).filter_map(|(m, x)| Some((m, x.as_ref()?)));
        let mut candidates: Vec<Candidate> = known.filter_map(|(m, x)| of(m, x)).collect();
        candidates.sort_unstable_by(|a, b| a.instance.id.cmp(&b.instance.id));
        let chosen = chosen.filter(|_| behind == 0).and_then(|m| self.member(m)).map(|x| match &x.instance {
            Some(i) => Chosen::Instance(i.id.clone()),
            None => Chosen::Anonymous,
        });
        MailboxExplanation { candidates, chosen, behind }
    }

    /// Who is chosen where there is no such lane yet.
    fn choose_unknown(&self, a: &Address<'_>, selector: &Selector, wish: Wish<'_>) -> Option<u32> {
        let fits = |x: &Member| match (&x.instance, a.recipient) {
            (Some(i), Some(id)) => *i.id == *id,
            (Some(i), None) => selector.is_match(i),
            (None, _) => false,
        };
        let of = |passing: bool| {
            let all = (0u32..).zip(&self.members).filter_map(|(m, x)| Some((m, x.as_ref()?)));
            all.filter(move |(_, x)| x.is_candidate() && fits(x) && x.is_passing() == passing).map(|(m, _)| m).collect()
        };
        let (passing, warning): (Vec<u32>, Vec<u32>) = (of(true), of(false));
        self.best_of(&passing, &warning, wish, fits)
    }

    fn verdict(
        &self,
        m: u32,
        x: &Member,
        i: &Instance,
        a: &Address<'_>,
        selector: &Selector,
        owner: Option<u32>,
    ) -> Result<f32, String> {
        let fail = |text: &str| Err(text.to_owned());
        if x.gone {
            return fail("deregistered");
        }
        if x.standing.draining {
            return fail("draining");
        }
        if let Some(id) = a.recipient.filter(|id| **id != *i.id) {
            return fail(&format!("the copy is for {id}"));
        }
        selector.matches(i)?;
        match x.standing.health {
            Health::Passing => {}
            Health::Warning if !self.a_passing_one_fits(a, selector) => {}
            Health::Warning => return fail("warning, and a passing instance matches"),
            other => return fail(&format!("health is {}", other.as_str())),
        }
        if x.consumers.is_empty() {
            return fail("does not consume");
        }
        if owner.is_some_and(|o| o != m) {
            return fail("another instance holds messages of this key");
        }
        if x.ejected.is_some() && !self.cost(m).is_finite() {
            return fail("ejected: it keeps failing, and its next probe is not due");
        }
        let cost = self.cost(m);
        if cost.is_finite() { Ok(cost) } else { fail(&format!("no credit: it holds {}", x.in_flight)) }
    }

    fn a_passing_one_fits(&self, a: &Address<'_>, selector: &Selector) -> bool {
        self.members.iter().flatten().any(|x| {
            let of = |i: &Arc<Instance>| selector.is_match(i) && a.recipient.is_none_or(|id| *id == *i.id);
            x.is_candidate() && x.is_passing() && x.ejected.is_none() && x.instance.as_ref().is_some_and(of)
        })
    }
}

fn lane_info(number: u16, l: &Lane, q: &Queue) -> LaneInfo {
    let slots = l.keyed.iter().flat_map(|k| k.slots.values());
    let waiting_keyed: u64 = slots.filter_map(|s| s.ready.as_deref()).map(super::Ready::messages).sum();
    let plain = if number == 0 { &q.ready } else { &l.ready };
    let (selector, recipient) = match &l.what {
        Serves::Selector(s) => (Some(s.text().into()), None),
        Serves::Recipient(id) => (Some("".into()), Some(id.clone())),
        Serves::Mixed => (None, None),
    };
    LaneInfo {
        selector,
        recipient,
        waiting: plain.messages() + waiting_keyed,
        waiting_keyed,
        unsettled: l.unsettled,
        candidates: (l.passing.len() + l.warning.len()) as u32,
    }
}

//! Calls that the core has not answered yet.

use std::collections::VecDeque;

use waypost_model::{ConsumerId, Event};

use crate::codec::MethodId;

/// What an answer is for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Authenticate,
    OpenVhost,
    UpdateSecret,
    ChannelOpen,
    /// The peer closes the channel.
    ChannelClose,
    /// The core gives up what a refused channel held.
    ChannelRelease,
    ExchangeDeclare,
    ExchangeDelete,
    ExchangeBind,
    ExchangeUnbind,
    QueueDeclare,
    QueueBind,
    QueueUnbind,
    QueuePurge,
    QueueDelete,
    Consume,
    Cancel {
        tag: Box<str>,
        consumer: ConsumerId,
    },
    Get,
    Qos,
    Commit,
    /// No call: an answer of the session's own, which must not overtake those before it on its channel.
    Local(Vec<u8>),
}

/// A call under way.
#[derive(Debug)]
pub(super) struct Pending {
    pub channel: u16,
    /// The method, for the close that a refusal becomes.
    pub id: MethodId,
    pub kind: Kind,
    /// The peer wants no answer.
    pub no_wait: bool,
}

/// Calls in the order of their tokens.
#[derive(Debug, Default)]
pub(super) struct Calls {
    /// `None` is done with.
    queue: VecDeque<Option<Pending>>,
    /// Token of the front.
    base: u32,
}

impl Calls {
    /// Notes a call and gives its token.
    pub fn add(&mut self, pending: Pending) -> u32 {
        let mut token = self.base.wrapping_add(self.queue.len() as u32);
        if token == Event::PUBLISH_TOKEN {
            // That one is taken: leave a hole.
            self.queue.push_back(None);
            token = token.wrapping_add(1);
        }
        self.queue.push_back(Some(pending));
        token
    }

    /// The call of an answer; `None` if it was forgotten.
    pub fn take(&mut self, token: u32) -> Option<Pending> {
        let at = token.wrapping_sub(self.base) as usize;
        let pending = self.queue.get_mut(at)?.take();
        self.trim();
        pending
    }

    /// Takes the session's own answers that no unanswered call of the channel precedes any more.
    pub fn take_locals(&mut self, channel: u16, mut each: impl FnMut(Vec<u8>)) {
        for slot in &mut self.queue {
            match slot {
                Some(Pending { channel: c, kind, .. }) if *c == channel => {
                    if !matches!(kind, Kind::Local(_)) {
                        break;
                    }
                }
                _ => continue,
            }
            if let Some(Pending { kind: Kind::Local(bytes), .. }) = slot.take() {
                each(bytes);
            }
        }
        self.trim();
    }

    /// Forgets the calls of a channel that is closed: their answers mean nothing any more.
    pub fn forget(&mut self, channel: u16) {
        self.drop_those(|p| p.channel == channel);
    }

    /// The same, but the peer's own close is still to be answered.
    pub fn forget_but_close(&mut self, channel: u16) {
        self.drop_those(|p| p.channel == channel && p.kind != Kind::ChannelClose);
    }

    fn drop_those(&mut self, which: impl Fn(&Pending) -> bool) {
        for slot in &mut self.queue {
            if slot.as_ref().is_some_and(&which) {
                *slot = None;
            }
        }
        self.trim();
    }

    fn trim(&mut self) {
        while let Some(None) = self.queue.front() {
            self.queue.pop_front();
            self.base = self.base.wrapping_add(1);
        }
        if self.queue.is_empty() && self.queue.capacity() > 64 {
            self.queue = VecDeque::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(channel: u16, kind: Kind) -> Pending {
        Pending { channel, id: MethodId::default(), kind, no_wait: false }
    }

    #[test]
    fn answers_find_their_calls_in_any_order() {
        let mut calls = Calls::default();
        let a = calls.add(call(1, Kind::Get));
        let b = calls.add(call(2, Kind::Qos));
        assert_eq!(calls.take(b).unwrap().kind, Kind::Qos);
        assert_eq!(calls.take(a).unwrap().kind, Kind::Get);
        assert!(calls.take(a).is_none() && calls.take(b).is_none());
        let c = calls.add(call(1, Kind::Commit));
        calls.forget(1);
        assert!(calls.take(c).is_none());
        assert!(calls.queue.is_empty());
    }

    #[test]
    fn the_token_of_publishes_is_never_given() {
        let mut calls = Calls { base: u32::MAX - 1, ..Calls::default() };
        let tokens: Vec<u32> = (0..3).map(|_| calls.add(call(1, Kind::Get))).collect();
        assert_eq!(tokens, [u32::MAX - 1, 0, 1]);
        assert!(tokens.into_iter().all(|t| calls.take(t).is_some()));
    }

    #[test]
    fn own_answers_wait_for_the_calls_before_them() {
        let mut calls = Calls::default();
        let first = calls.add(call(1, Kind::Get));
        calls.add(call(1, Kind::Local(vec![1])));
        calls.add(call(2, Kind::Get));
        let third = calls.add(call(1, Kind::Get));
        calls.add(call(1, Kind::Local(vec![2])));
        let mut seen = Vec::new();
        calls.take_locals(1, |b| seen.push(b));
        assert!(seen.is_empty());
        calls.take(first);
        calls.take_locals(1, |b| seen.push(b));
        assert_eq!(seen, [[1]]);
        calls.take(third);
        calls.take_locals(1, |b| seen.push(b));
        assert_eq!(seen, [[1], [2]]);
    }
}

//! The core's events: answers to calls, verdicts, and what it does of its own accord.

use waypost_model::{Call, ConsumerId, Event, Refusal, Reply};

use super::calls::{Kind, Pending};
use super::channels::{ChannelState, Consumer, LastQueue, ReplyTo};
use super::confirm::Verdict;
use super::connection::Phase;
use super::consume::forget_reply;
use super::deliver::Template;
use super::fault::{Result, internal};
use super::{AmqpSession, Cx};
use crate::codec::frame::encode_method;
use crate::codec::method::{MethodArgs, MethodId, basic, channel, connection, exchange, queue, tx};
use crate::codec::{Long, Short};

impl AmqpSession {
    /// Handles an event that waits for nothing any more.
    pub(super) fn on_event(&mut self, event: Event, cx: &mut Cx<'_>) {
        if matches!(self.phase, Phase::Closing { .. } | Phase::Deaf { .. } | Phase::Closed) {
            return;
        }
        let (number, result) = match event {
            Event::Deliver(delivery) => (delivery.channel.0, self.deliver(&delivery, cx)),
            Event::Accepted { channel, first, last, lsn } => {
                self.verdict(channel.0, Verdict { first, last, lsn, accepted: true });
                return;
            }
            Event::Rejected { channel, first, last } => {
                self.verdict(channel.0, Verdict { first, last, lsn: None, accepted: false });
                return;
            }
            Event::Returned { channel, route, batch, from, to } => {
                (channel.0, self.returned(channel.0, &route, &batch, from..to, cx))
            }
            Event::Reply { token, reply, .. } => match self.calls.take(token) {
                Some(pending) => (pending.channel, self.on_reply(pending, reply, cx)),
                None => return,
            },
            Event::Refused { channel, token, refusal } => {
                self.on_refused(channel.0, token, refusal, cx);
                return;
            }
            Event::Cancelled { channel, consumer, tag } => {
                self.on_cancelled(channel.0, consumer, &tag, cx);
                return;
            }
            Event::Blocked { reason } => {
                self.on_blocked(Some(reason), cx);
                return;
            }
            Event::Unblocked => {
                self.on_blocked(None, cx);
                return;
            }
            Event::Close { refusal } => {
                self.close_connection(&refusal, MethodId::default(), cx);
                return;
            }
        };
        if let Err(refusal) = result {
            self.raise(refusal, number, MethodId::default(), cx);
        }
    }

    fn verdict(&mut self, number: u16, verdict: Verdict) {
        let Some(channel) = self.channels.get_mut(number).filter(|c| c.hears()) else {
            return;
        };
        let Some(confirms) = &mut channel.confirms else {
            return;
        };
        confirms.note(verdict);
        if !confirms.listed {
            confirms.listed = true;
            self.confirming.push(number);
        }
    }

    fn on_reply(&mut self, pending: Pending, reply: Reply, cx: &mut Cx<'_>) -> Result<()> {
        self.stalled = false;
        let number = pending.channel;
        if number == 0 {
            return self.on_connection_reply(&pending, cx);
        }
        if pending.kind == Kind::ChannelRelease {
            return Ok(());
        }
        let Some(channel) = self.channels.get_mut(number) else {
            return Ok(());
        };
        channel.unanswered = channel.unanswered.saturating_sub(1);
        self.answer_call(pending, reply, cx)?;
        let out = cx.out.buf();
        self.calls.take_locals(number, |bytes| out.extend_from_slice(&bytes));
        Ok(())
    }

    fn answer_call(&mut self, pending: Pending, reply: Reply, cx: &mut Cx<'_>) -> Result<()> {
        let number = pending.channel;
        let wants = !pending.no_wait;
        match (pending.kind, reply) {
            (Kind::ChannelOpen, Reply::Done) => {
                self.channel(number)?.opened = true;
                put(cx, number, true, &channel::OpenOk { reserved_1: Long(b"") });
            }
            (Kind::ChannelClose, Reply::Done) => {
                put(cx, number, true, &channel::CloseOk {});
                self.channels.remove(number);
            }
            (Kind::ExchangeDeclare, Reply::Done) => {
                put(cx, number, wants, &exchange::DeclareOk {});
            }
            (Kind::ExchangeDelete, Reply::Done) => put(cx, number, wants, &exchange::DeleteOk {}),
            (Kind::ExchangeBind, Reply::Done) => put(cx, number, wants, &exchange::BindOk {}),
            (Kind::ExchangeUnbind, Reply::Done) => put(cx, number, wants, &exchange::UnbindOk {}),
            (Kind::QueueBind, Reply::Done) => put(cx, number, wants, &queue::BindOk {}),
            (Kind::QueueUnbind, Reply::Done) => put(cx, number, wants, &queue::UnbindOk {}),
            (Kind::QueuePurge, Reply::Count(n)) => {
                put(cx, number, wants, &queue::PurgeOk { message_count: count(n) });
            }
            (Kind::QueueDelete, Reply::Count(n)) => {
                put(cx, number, wants, &queue::DeleteOk { message_count: count(n) });
            }
            (Kind::QueueDeclare, Reply::QueueDeclared { name, messages, consumers }) => {
                let ok = queue::DeclareOk { queue: &name, message_count: count(messages), consumer_count: consumers };
                put(cx, number, wants, &ok);
                let last = &mut self.channel(number)?.last_queue;
                if *last == LastQueue::Awaited {
                    *last = LastQueue::Name(name);
                }
            }
            (Kind::Cancel { tag, consumer }, Reply::Done) => {
                put(cx, number, wants, &basic::CancelOk { consumer_tag: &tag });
                self.channel(number)?.consumers.by_id.remove(&consumer);
            }
            (Kind::Qos, Reply::Done) => put(cx, number, wants, &basic::QosOk {}),
            (Kind::Commit, Reply::Done) => put(cx, number, wants, &tx::CommitOk {}),
            (Kind::Consume, reply @ Reply::Consuming { .. }) => {
                self.consuming(number, reply, wants, cx)?;
            }
            (Kind::Get, Reply::Got { delivery, no_ack, remaining }) => {
                self.get_ok(&delivery, no_ack, remaining, cx)?;
            }
            (Kind::Get, Reply::Empty) => {
                put(cx, number, wants, &basic::GetEmpty { reserved_1: Short(b"") });
            }
            _ => return Err(internal("answer of another kind than the call")),
        }
        Ok(())
    }

    fn consuming(&mut self, number: u16, reply: Reply, wants: bool, cx: &mut Cx<'_>) -> Result<()> {
        let Reply::Consuming { consumer, tag, no_ack, reply_to } = reply else {
            return Err(internal("answer of another kind than the call"));
        };
        let channel = self.channel(number)?;
        put(cx, number, wants, &basic::ConsumeOk { consumer_tag: &tag });
        if let Some(name) = reply_to {
            channel.reply_to = ReplyTo::Active { consumer, name };
        }
        channel.consumers.by_tag.insert(tag.clone(), Some(consumer));
        let template = Template::default();
        channel.consumers.by_id.insert(consumer, Consumer { tag, no_ack, template });
        Ok(())
    }

    fn on_cancelled(&mut self, number: u16, consumer: ConsumerId, tag: &str, cx: &mut Cx<'_>) {
        let Some(channel) = self.channels.get_mut(number).filter(|c| c.hears()) else {
            return;
        };
        channel.consumers.by_id.remove(&consumer);
        if channel.consumers.by_tag.get(tag) == Some(&Some(consumer)) {
            channel.consumers.by_tag.remove(tag);
        }
        forget_reply(&mut channel.reply_to, consumer);
        if self.client.wants_cancel_notify {
            let cancel = basic::Cancel { consumer_tag: tag, no_wait: true };
            encode_method(cx.out.buf(), number, &cancel);
        }
    }

    fn on_refused(&mut self, number: u16, token: u32, refusal: Refusal, cx: &mut Cx<'_>) {
        let pending = (token != Event::PUBLISH_TOKEN).then(|| self.calls.take(token)).flatten();
        let id = pending.as_ref().map_or(basic::Publish::ID, |p| p.id);
        let asked = pending.is_some();
        if pending.is_some_and(|p| p.kind == Kind::Authenticate) {
            return self.login_refused(cx);
        }
        if number == 0 || refusal.hard {
            return self.close_connection(&refusal, id, cx);
        }
        match self.channels.get_mut(number) {
            // The core has not opened it: this was for an earlier channel.
            Some(channel) if !channel.opened && !asked => {}
            Some(channel) if channel.state == ChannelState::Open => {
                self.close_channel(number, &refusal, id, true, cx);
            }
            Some(channel) if channel.state == ChannelState::Closing => {
                self.refused_while_closing(number, &refusal, id, cx);
            }
            // We have closed it already.
            _ => {}
        }
    }

    /// Ends a channel for a fault: from now on the peer is heard again only once it has answered. `release`: the core
    /// has refused and waits to be told so.
    pub(super) fn close_channel(
        &mut self,
        number: u16,
        refusal: &Refusal,
        id: MethodId,
        release: bool,
        cx: &mut Cx<'_>,
    ) {
        self.drop_content(number);
        self.publisher.forget();
        self.calls.forget(number);
        self.confirming.retain(|&listed| listed != number);
        self.stalled = false;
        put_close(cx, number, refusal, id);
        if let Some(channel) = self.channels.get_mut(number) {
            channel.refuse(release);
        }
        if !release {
            self.release_channel(number, cx);
        }
    }

    /// The peer's `channel.close` was behind what the core refuses, so it is to learn of that first, and gets its
    /// close-ok after it, as in RabbitMQ. The core takes that close for the answer to its refusal.
    fn refused_while_closing(&mut self, number: u16, refusal: &Refusal, id: MethodId, cx: &mut Cx<'_>) {
        put_close(cx, number, refusal, id);
        self.confirming.retain(|&listed| listed != number);
        self.calls.forget_but_close(number);
        if let Some(channel) = self.channels.get_mut(number) {
            channel.unanswered = 1;
        }
    }

    /// Tells the core to give up what a channel held.
    pub(super) fn release_channel(&mut self, number: u16, cx: &mut Cx<'_>) {
        let id = MethodId::default();
        self.call(number, id, Kind::ChannelRelease, true, Call::CloseChannel, cx);
    }

    fn on_blocked(&mut self, reason: Option<Box<str>>, cx: &mut Cx<'_>) {
        let told = self.phase == Phase::Open && self.client.wants_blocked;
        match &reason {
            Some(reason) if told => put(cx, 0, true, &connection::Blocked { reason }),
            None if told && self.blocked.is_some() => put(cx, 0, true, &connection::Unblocked {}),
            _ => {}
        }
        // What the peer sent while it was not read counts from now.
        self.pulse.heard(cx.now);
        self.blocked = reason;
    }
}

fn put_close(cx: &mut Cx<'_>, number: u16, refusal: &Refusal, id: MethodId) {
    let text = refusal.to_string();
    let close = channel::Close {
        reply_code: refusal.kind.code(),
        reply_text: Short(crate::codec::field::short_text(&text).as_bytes()),
        class_id: id.class_id,
        method_id: id.method_id,
    };
    encode_method(cx.out.buf(), number, &close);
}

fn put<'a>(cx: &mut Cx<'_>, number: u16, wants: bool, answer: &impl MethodArgs<'a>) {
    if wants {
        encode_method(cx.out.buf(), number, answer);
    }
}

fn count(n: u64) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

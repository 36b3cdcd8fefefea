//! Consumers, gets, prefetch, and the channel's modes (§1.8, §1.9).

use waypost_model::command::Consume;
use waypost_model::{Call, ConsumerId, Refusal};

use super::attrs::REPLY_QUEUE;
use super::calls::Kind;
use super::channels::ReplyTo;
use super::confirm::Confirms;
use super::fault::Result;
use super::tx::Tx;
use super::{AmqpSession, Cx, Step};
use crate::codec::MethodArgs;
use crate::codec::method::{basic, confirm, tx};

impl AmqpSession {
    pub(super) fn qos(&mut self, number: u16, qos: &basic::Qos, cx: &mut Cx<'_>) -> Result<()> {
        if qos.prefetch_size != 0 {
            let size = qos.prefetch_size;
            return Err(Refusal::not_implemented(format!("prefetch_size!=0 ({size})")));
        }
        let (prefetch_count, global) = (qos.prefetch_count, qos.global);
        self.call(number, basic::Qos::ID, Kind::Qos, false, Call::Qos { prefetch_count, global }, cx);
        Ok(())
    }

    pub(super) fn consume(&mut self, number: u16, consume: basic::Consume<'_>, cx: &mut Cx<'_>) -> Result<Step> {
        let invented;
        let tag = match consume.consumer_tag {
            "" => {
                invented = self.invent_tag();
                &invented[..]
            }
            chosen => chosen,
        };
        let channel = self.channel(number)?;
        let Some(queue) = channel.queue_name(consume.queue)?.map(Box::<str>::from) else {
            return Ok(Step::Stall);
        };
        if channel.consumers.by_tag.contains_key(tag) {
            return Err(Refusal::not_allowed(format!("attempt to reuse consumer tag '{tag}'")));
        }
        let max = self.config.consumers_max;
        if self.channels.consumers() >= max {
            return Err(Refusal::not_allowed(format!("reached maximum ({max}) of consumers per connection")));
        }
        let channel = self.channel(number)?;
        if &*queue == REPLY_QUEUE {
            if !consume.no_ack {
                return Err(Refusal::precondition_failed("reply consumer cannot acknowledge"));
            }
            if channel.reply_to != ReplyTo::None {
                return Err(Refusal::precondition_failed("reply consumer already set"));
            }
            channel.reply_to = ReplyTo::Awaited;
        }
        channel.consumers.by_tag.insert(tag.into(), None);
        let call = Call::Consume(Consume {
            queue,
            tag: tag.into(),
            no_ack: consume.no_ack,
            exclusive: consume.exclusive,
            arguments: consume.arguments,
            window_bytes: 0,
        });
        self.call(number, basic::Consume::ID, Kind::Consume, consume.no_wait, call, cx);
        Ok(Step::Done)
    }

    pub(super) fn cancel(&mut self, number: u16, cancel: &basic::Cancel<'_>, cx: &mut Cx<'_>) -> Result<Step> {
        let tag = cancel.consumer_tag;
        let channel = self.channel(number)?;
        let consumer = match channel.consumers.by_tag.get(tag) {
            Some(Some(consumer)) => *consumer,
            Some(None) => return Ok(Step::Stall),
            None => {
                // §1.8.3.5: cancelling what is not there does no harm.
                if !cancel.no_wait {
                    self.answer(number, &basic::CancelOk { consumer_tag: tag }, cx);
                }
                return Ok(Step::Done);
            }
        };
        channel.consumers.by_tag.remove(tag);
        forget_reply(&mut channel.reply_to, consumer);
        let kind = Kind::Cancel { tag: tag.into(), consumer };
        let call = Call::Cancel { consumer };
        self.call(number, basic::Cancel::ID, kind, cancel.no_wait, call, cx);
        Ok(Step::Done)
    }

    pub(super) fn get(&mut self, number: u16, get: &basic::Get<'_>, cx: &mut Cx<'_>) -> Result<Step> {
        let Some(queue) = self.channel(number)?.queue_name(get.queue)?.map(Into::into) else {
            return Ok(Step::Stall);
        };
        let call = Call::Get { queue, no_ack: get.no_ack };
        self.call(number, basic::Get::ID, Kind::Get, false, call, cx);
        Ok(Step::Done)
    }

    pub(super) fn confirm_select(&mut self, number: u16, select: &confirm::Select, cx: &mut Cx<'_>) -> Result<()> {
        let channel = self.channel(number)?;
        if channel.tx.is_some() {
            return Err(Refusal::precondition_failed("cannot switch from tx to confirm mode"));
        }
        channel.confirms.get_or_insert_with(Confirms::default);
        // A run must not lie on both sides of the switch.
        self.publisher.end_run();
        if !select.nowait {
            self.answer(number, &confirm::SelectOk {}, cx);
        }
        Ok(())
    }

    pub(super) fn tx_select(&mut self, number: u16, cx: &mut Cx<'_>) -> Result<()> {
        let channel = self.channel(number)?;
        if channel.confirms.is_some() {
            return Err(Refusal::precondition_failed("cannot switch from confirm to tx mode"));
        }
        channel.tx.get_or_insert_with(Tx::default);
        self.publisher.forget();
        self.answer(number, &tx::SelectOk {}, cx);
        Ok(())
    }

    pub(super) fn tx_commit(&mut self, number: u16, cx: &mut Cx<'_>) -> Result<()> {
        let call = match &mut self.channel(number)?.tx {
            Some(tx) => Call::Commit(tx.commit()),
            None => return Err(not_transactional()),
        };
        self.call(number, tx::Commit::ID, Kind::Commit, false, call, cx);
        Ok(())
    }

    pub(super) fn tx_rollback(&mut self, number: u16, cx: &mut Cx<'_>) -> Result<()> {
        let channel = self.channel(number)?;
        let Some(tx) = &mut channel.tx else {
            return Err(not_transactional());
        };
        for run in tx.rollback() {
            channel.unsettled.restore(run);
        }
        self.answer(number, &tx::RollbackOk {}, cx);
        Ok(())
    }

    /// A consumer tag that no client would choose and nobody guess.
    fn invent_tag(&mut self) -> String {
        const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        self.tags_invented += 1;
        let high = mix(self.peer.tag_seed ^ self.tags_invented);
        let low = mix(high ^ self.peer.tag_seed.rotate_left(32));
        let mut bits = u128::from(high) << 64 | u128::from(low);
        let mut tag = String::from("amq.ctag-");
        for _ in 0..22 {
            tag.push(char::from(ALPHABET[(bits % 64) as usize]));
            bits /= 64;
        }
        tag
    }
}

/// The channel has no address for answers any more if this was its consumer.
pub(super) fn forget_reply(reply_to: &mut ReplyTo, gone: ConsumerId) {
    if matches!(reply_to, ReplyTo::Active { consumer, .. } if *consumer == gone) {
        *reply_to = ReplyTo::None;
    }
}

fn not_transactional() -> Refusal {
    Refusal::precondition_failed("channel is not transactional")
}

/// The finalizer of SplitMix64: every input bit reaches every output bit.
fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

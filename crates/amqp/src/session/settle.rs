//! Verdicts on deliveries: ack, nack, reject, recover (§1.8.3).

use waypost_model::command::Outcome;
use waypost_model::{ChannelId, Command, Refusal, Settle, Turn};

use super::channels::{Channel, ChannelState, Content};
use super::fault::Result;
use super::unsettled::TagRun;
use super::{AmqpSession, Cx};
use crate::codec::method::basic;
use crate::codec::{Frame, FrameKind};

/// Payload of `basic.ack`: class, method, delivery tag, bits.
const ACK_LEN: usize = 13;

pub(super) fn settle_command(channel: ChannelId, run: TagRun, outcome: Outcome) -> Command {
    Command::Settle(Settle {
        channel,
        queue: run.queue,
        consumer: run.consumer,
        first: run.seq,
        count: run.count(),
        outcome,
    })
}

/// Adds a verdict, prolonging the one before it where they are of one piece.
fn push_settle(turn: &mut Turn, channel: ChannelId, run: TagRun, outcome: Outcome) {
    if let Some(Command::Settle(last)) = turn.commands.last_mut()
        && last.queue == run.queue
        && last.consumer == run.consumer
        && last.outcome == outcome
        && last.channel == channel
        && last.first.plus(last.count.into()) == run.seq
        && let Some(count) = last.count.checked_add(run.count())
    {
        last.count = count;
        return;
    }
    turn.commands.push(settle_command(channel, run, outcome));
}

impl Channel {
    fn settle(&mut self, tag: u64, multiple: bool, outcome: Outcome, turn: &mut Turn) -> Result<()> {
        let id = ChannelId(self.number);
        let Some(mut tx) = self.tx.take() else {
            return self.take_unsettled(tag, multiple, |run| push_settle(turn, id, run, outcome));
        };
        let mut kept = Ok(());
        let found = self.take_unsettled(tag, multiple, |run| {
            if kept.is_ok() {
                kept = tx.settle(id, run, outcome);
            }
        });
        self.tx = Some(tx);
        found.and(kept)
    }
}

impl AmqpSession {
    /// The way of most acks: without a look at the general decoder. `None` if the frame is not one.
    pub(super) fn hot_ack(&mut self, frame: &Frame<'_>, cx: &mut Cx<'_>) -> Option<Result<()>> {
        if frame.kind != FrameKind::Method {
            return None;
        }
        let payload: &[u8; ACK_LEN] = frame.payload.try_into().ok()?;
        let (&[0, 60, 0, 80], rest) = payload.split_first_chunk::<4>()? else {
            return None;
        };
        let (tag, bits) = rest.split_first_chunk::<8>()?;
        let multiple = bits.first()? & 1 != 0;
        let channel = self.channels.get_mut(frame.channel)?;
        if channel.state != ChannelState::Open || !matches!(channel.content, Content::Idle) {
            return None;
        }
        let tag = u64::from_be_bytes(*tag);
        Some(channel.settle(tag, multiple, Outcome::Accepted, cx.turn))
    }

    pub(super) fn ack(&mut self, number: u16, ack: &basic::Ack, cx: &mut Cx<'_>) -> Result<()> {
        self.settle(number, ack.delivery_tag, ack.multiple, Outcome::Accepted, cx)
    }

    pub(super) fn nack(&mut self, number: u16, nack: &basic::Nack, cx: &mut Cx<'_>) -> Result<()> {
        self.settle(number, nack.delivery_tag, nack.multiple, negative(nack.requeue), cx)
    }

    pub(super) fn reject(&mut self, number: u16, reject: &basic::Reject, cx: &mut Cx<'_>) -> Result<()> {
        self.settle(number, reject.delivery_tag, false, negative(reject.requeue), cx)
    }

    /// Gives everything unsettled back to its queues. To the same consumer, as `requeue = false` asks, we cannot.
    pub(super) fn recover(&mut self, number: u16, requeue: bool, cx: &mut Cx<'_>) -> Result<()> {
        if !requeue {
            return Err(Refusal::not_implemented("requeue=false"));
        }
        if let Some(channel) = self.channels.get_mut(number) {
            let id = ChannelId(number);
            channel.unsettled.take_all(|run| push_settle(cx.turn, id, run, Outcome::Released));
        }
        Ok(())
    }

    fn settle(&mut self, number: u16, tag: u64, multiple: bool, outcome: Outcome, cx: &mut Cx<'_>) -> Result<()> {
        match self.channels.get_mut(number) {
            Some(channel) => channel.settle(tag, multiple, outcome, cx.turn),
            None => Ok(()),
        }
    }
}

fn negative(requeue: bool) -> Outcome {
    if requeue { Outcome::Released } else { Outcome::Rejected }
}

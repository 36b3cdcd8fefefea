//! From bytes to frames to methods, and what a peer's faults come to.

use waypost_model::Refusal;

use super::channels::{ChannelState, Content};
use super::connection::Phase;
use super::fault::{Result, channel_error, frame_error, undecodable, unexpected_frame};
use super::{AmqpSession, Cx, Step};
use crate::codec::method::{basic, channel};
use crate::codec::{Frame, FrameError, FrameKind, Method, MethodArgs, MethodId};

impl AmqpSession {
    /// Takes frames from `data`, which begins at offset `base` of the read buffer, and returns how many bytes it took.
    pub(super) fn frames(&mut self, data: &[u8], base: usize, cx: &mut Cx<'_>) -> usize {
        let mut at = 0;
        while let Some(rest) = data.get(at..).filter(|rest| !rest.is_empty()) {
            let step = match &self.phase {
                Phase::Closed => return data.len(),
                Phase::Deaf { .. } => {
                    self.listen_for_close_ok(rest);
                    return data.len();
                }
                Phase::Header => self.protocol_header(rest, cx),
                _ => self.next_frame(rest, base + at, cx),
            };
            match step {
                Step::Took(n) => at += n,
                Step::Done | Step::More => break,
                Step::Stall => {
                    self.stalled = true;
                    break;
                }
            }
        }
        at
    }

    fn next_frame(&mut self, rest: &[u8], base: usize, cx: &mut Cx<'_>) -> Step {
        let hot = self.hot_publishes(rest, base, cx);
        if hot > 0 {
            return Step::Took(hot);
        }
        let frame = match Frame::parse(rest, self.limits.frame_bytes_max) {
            Ok(Some(frame)) => frame,
            Ok(None) => return Step::More,
            Err(error) => {
                self.stream_is_lost(error, cx);
                return Step::Took(rest.len());
            }
        };
        match self.on_frame(&frame, rest, base, cx) {
            Ok(Step::Done) => Step::Took(frame.wire_len()),
            Ok(step) => step,
            Err(refusal) => {
                self.raise(refusal, frame.channel, method_of(&frame), cx);
                Step::Took(frame.wire_len())
            }
        }
    }

    fn on_frame(&mut self, frame: &Frame<'_>, rest: &[u8], base: usize, cx: &mut Cx<'_>) -> Result<Step> {
        if let Some(acked) = self.hot_ack(frame, cx) {
            return acked.map(|()| Step::Done);
        }
        if frame.kind == FrameKind::Heartbeat {
            return heartbeat(frame).map(|()| Step::Done);
        }
        if frame.channel == 0 {
            return match frame.kind {
                FrameKind::Method => self.connection_method(frame.payload, cx),
                _ if matches!(self.phase, Phase::Closing { .. }) => Ok(Step::Done),
                kind => {
                    let text = format!("expected method frame on channel 0, got {} frame", kind.name());
                    Err(unexpected_frame(text))
                }
            };
        }
        match self.phase {
            Phase::Open => self.channel_frame(frame, rest, base, cx),
            Phase::Closing { .. } => Ok(Step::Done),
            // The peer is ahead of our answer.
            Phase::Authenticating | Phase::Entering => Ok(Step::Stall),
            _ => Err(Refusal::command_invalid("frame on a channel before the connection is open")),
        }
    }

    fn channel_frame(&mut self, frame: &Frame<'_>, rest: &[u8], base: usize, cx: &mut Cx<'_>) -> Result<Step> {
        let Some(channel) = self.channels.get_mut(frame.channel) else {
            return self.no_channel(frame, cx);
        };
        match channel.state {
            ChannelState::Open => {}
            ChannelState::Refused { release } => {
                self.refused_channel(frame, release, cx);
                return Ok(Step::Done);
            }
            ChannelState::Closing => return Ok(Step::Stall),
        }
        match (&channel.content, frame.kind) {
            (Content::Idle, FrameKind::Method) => {}
            (Content::Idle, kind) => {
                let text = format!("expected method frame, got {} frame instead", kind.name());
                return Err(unexpected_frame(text));
            }
            (Content::Header, _) => return self.content_header(frame, cx),
            (Content::Body(_), _) => return self.content_body(frame, cx),
        }
        if frame.payload.starts_with(&PUBLISH) {
            return self.publish(frame, rest, base, cx);
        }
        let method = Method::decode(frame.payload).map_err(undecodable)?;
        self.channel_method(frame.channel, method, cx)
    }

    /// A frame for a channel that is not open.
    fn no_channel(&mut self, frame: &Frame<'_>, cx: &mut Cx<'_>) -> Result<Step> {
        let id = method_of(frame);
        if frame.kind == FrameKind::Method && id == channel::Open::ID {
            Method::decode(frame.payload).map_err(undecodable)?;
            return self.open_channel(frame.channel, cx).map(|()| Step::Done);
        }
        if frame.kind == FrameKind::Method && id == channel::CloseOk::ID {
            // Both sides closed at once.
            return Ok(Step::Done);
        }
        Err(channel_error("expected 'channel.open'"))
    }

    /// §1.5.2.5: after `channel.close` everything but its answer, and a close of the peer's own, is discarded.
    fn refused_channel(&mut self, frame: &Frame<'_>, release: bool, cx: &mut Cx<'_>) {
        if frame.kind != FrameKind::Method {
            return;
        }
        let id = method_of(frame);
        if id == channel::Close::ID {
            crate::codec::frame::encode_method(cx.out.buf(), frame.channel, &channel::CloseOk {});
        } else if id != channel::CloseOk::ID {
            return;
        }
        if release {
            self.release_channel(frame.channel, cx);
        }
        self.channels.remove(frame.channel);
    }

    fn channel_method(&mut self, number: u16, method: Method<'_>, cx: &mut Cx<'_>) -> Result<Step> {
        match method {
            Method::BasicAck(ack) => self.ack(number, &ack, cx)?,
            Method::BasicNack(nack) => self.nack(number, &nack, cx)?,
            Method::BasicReject(reject) => self.reject(number, &reject, cx)?,
            Method::BasicQos(qos) => self.qos(number, &qos, cx)?,
            Method::BasicConsume(consume) => return self.consume(number, consume, cx),
            Method::BasicCancel(cancel) => return self.cancel(number, &cancel, cx),
            // The answer to our own cancel, which asked for none.
            Method::BasicCancelOk(_) => {}
            Method::BasicGet(get) => return self.get(number, &get, cx),
            Method::BasicRecover(recover) => {
                self.recover(number, recover.requeue, cx)?;
                self.answer(number, &basic::RecoverOk {}, cx);
            }
            Method::BasicRecoverAsync(recover) => self.recover(number, recover.requeue, cx)?,
            Method::QueueDeclare(declare) => return self.queue_declare(number, declare, cx),
            Method::QueueBind(bind) => return self.queue_bind(number, bind, cx),
            Method::QueueUnbind(unbind) => return self.queue_unbind(number, unbind, cx),
            Method::QueuePurge(purge) => return self.queue_purge(number, &purge, cx),
            Method::QueueDelete(delete) => return self.queue_delete(number, &delete, cx),
            Method::ExchangeDeclare(declare) => self.exchange_declare(number, declare, cx),
            Method::ExchangeDelete(delete) => self.exchange_delete(number, &delete, cx),
            Method::ExchangeBind(bind) => self.exchange_bind(number, bind, cx),
            Method::ExchangeUnbind(unbind) => self.exchange_unbind(number, unbind, cx),
            Method::ConfirmSelect(select) => self.confirm_select(number, &select, cx)?,
            Method::TxSelect(_) => self.tx_select(number, cx)?,
            Method::TxCommit(_) => self.tx_commit(number, cx)?,
            Method::TxRollback(_) => self.tx_rollback(number, cx)?,
            Method::ChannelFlow(flow) => self.flow(number, &flow, cx)?,
            Method::ChannelClose(_) => self.close_by_peer(number, cx)?,
            // A late answer to a close that crossed the peer's own.
            Method::ChannelCloseOk(_) => {}
            Method::ChannelOpen(_) => return Err(channel_error("second 'channel.open' seen")),
            other => {
                let MethodId { class_id, method_id } = other.id();
                let text = format!("method {class_id}.{method_id} is not for a client to send on a channel");
                return Err(Refusal::command_invalid(text));
            }
        }
        Ok(Step::Done)
    }

    /// Ends the channel or the connection for a fault.
    pub(super) fn raise(&mut self, refusal: Refusal, number: u16, id: MethodId, cx: &mut Cx<'_>) {
        if number == 0 || refusal.hard {
            self.close_connection(&refusal, id, cx);
        } else {
            self.close_channel(number, &refusal, id, false, cx);
        }
    }

    /// §4.2.3: after a broken frame nothing says where the next one begins.
    fn stream_is_lost(&mut self, error: FrameError, cx: &mut Cx<'_>) {
        self.close_connection(&frame_error(error.to_string()), MethodId::default(), cx);
        self.go_deaf();
    }
}

/// The first octets of a publish's payload.
const PUBLISH: [u8; 4] = [0, 60, 0, 40];

/// §4.2.7: a heartbeat is empty, and belongs to the connection.
fn heartbeat(frame: &Frame<'_>) -> Result<()> {
    if frame.channel == 0 && frame.payload.is_empty() {
        return Ok(());
    }
    let mut refusal = frame_error("heartbeat on a channel or with a payload");
    refusal.hard = true;
    Err(refusal)
}

/// Which method a fault is blamed on: contents belong to their publish.
fn method_of(frame: &Frame<'_>) -> MethodId {
    match frame.kind {
        FrameKind::Method => MethodId::split(frame.payload).map_or(MethodId::default(), |(id, _)| id),
        FrameKind::Header | FrameKind::Body => basic::Publish::ID,
        FrameKind::Heartbeat => MethodId::default(),
    }
}

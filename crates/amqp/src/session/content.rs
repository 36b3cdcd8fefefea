//! Contents that come frame by frame (§4.2.6): bodies of several frames, and frames of several channels interleaved.

use waypost_model::Refusal;

use super::attrs::{Described, describe};
use super::channels::{Content, ReplyTo};
use super::fault::{Result, frame_error, internal, undecodable, unexpected_frame};
use super::publish::check_size;
use super::{AmqpSession, Cx, Step};
use crate::codec::method::basic;
use crate::codec::{ContentHeader, Frame, FrameKind, MethodArgs};

/// How much room is made for a body on the strength of its announcement alone, bytes.
const TRUSTED_BYTES: usize = 64 * 1024;

/// A message that has not come completely.
#[derive(Debug)]
pub(super) struct Assembly {
    what: Described,
    /// Properties, then what has come of the body.
    data: Vec<u8>,
    props_len: usize,
    /// Bytes of body announced.
    body_size: u64,
}

impl Assembly {
    fn missing(&self) -> u64 {
        self.body_size - (self.data.len() - self.props_len) as u64
    }
}

impl AmqpSession {
    /// A frame on a channel where a content header is due.
    pub(super) fn content_header(&mut self, frame: &Frame<'_>, cx: &mut Cx<'_>) -> Result<Step> {
        if frame.kind != FrameKind::Header {
            return Err(unexpected_frame(format!(
                "expected content header for class 60, got {} frame instead",
                frame.kind.name()
            )));
        }
        let header = ContentHeader::decode(frame.payload).map_err(undecodable)?;
        if header.class_id != basic::Publish::ID.class_id {
            return Err(unexpected_frame(format!(
                "expected content header for class 60, got one for class {} instead",
                header.class_id
            )));
        }
        check_size(header.body_size, self.config.message_bytes_max)?;
        let what = describe(header.props, &self.client.user)?;
        let max = self.config.message_bytes_max.saturating_mul(2);
        let assembling = self.publisher.assembling + header.body_size;
        if assembling > max {
            return Err(Refusal::resource_error(format!(
                "more than {max} bytes of message bodies under way on one connection"
            )));
        }
        let Some(channel) = self.channels.get_mut(frame.channel) else {
            return Err(internal("content without a channel"));
        };
        if what.direct_reply && channel.reply_to == ReplyTo::Awaited {
            return Ok(Step::Stall);
        }
        let room = TRUSTED_BYTES.min(header.body_size as usize);
        let mut data = Vec::with_capacity(header.props.len() + room);
        data.extend_from_slice(header.props);
        if header.body_size == 0 {
            channel.content = Content::Idle;
            self.publish_assembled(frame.channel, what, data, header.props.len(), cx)?;
        } else {
            let (props_len, body_size) = (header.props.len(), header.body_size);
            let assembly = Assembly { what, data, props_len, body_size };
            channel.content = Content::Body(Box::new(assembly));
            self.publisher.assembling = assembling;
        }
        Ok(Step::Took(frame.wire_len()))
    }

    /// A frame on a channel where a body is due.
    pub(super) fn content_body(&mut self, frame: &Frame<'_>, cx: &mut Cx<'_>) -> Result<Step> {
        if frame.kind != FrameKind::Body {
            return Err(unexpected_frame(format!("expected content body, got {} frame instead", frame.kind.name())));
        }
        let Some(channel) = self.channels.get_mut(frame.channel) else {
            return Err(internal("content without a channel"));
        };
        let Content::Body(assembly) = &mut channel.content else {
            return Err(internal("content body without a header"));
        };
        if frame.payload.len() as u64 > assembly.missing() {
            return Err(frame_error(format!("content body is larger than the {} bytes announced", assembly.body_size)));
        }
        assembly.data.extend_from_slice(frame.payload);
        if assembly.missing() == 0
            && let Content::Body(whole) = std::mem::replace(&mut channel.content, Content::Idle)
        {
            let Assembly { what, data, props_len, body_size } = *whole;
            self.publisher.assembling -= body_size;
            self.publish_assembled(frame.channel, what, data, props_len, cx)?;
        }
        Ok(Step::Took(frame.wire_len()))
    }

    /// Drops a content under way.
    pub(super) fn drop_content(&mut self, number: u16) {
        if let Some(channel) = self.channels.get_mut(number)
            && let Content::Body(assembly) = std::mem::replace(&mut channel.content, Content::Idle)
        {
            self.publisher.assembling -= assembly.body_size;
        }
    }
}

//! Messages to the peer: deliveries, answers to gets, returns.

use std::borrow::Cow;
use std::sync::Arc;

use waypost_model::props::PropsOwned;
use waypost_model::table::Value;
use waypost_model::{Batch, Body, Delivery, Route, Transmit};

use super::fault::{Result, internal};
use super::unsettled::TagRun;
use super::{AmqpSession, Cx};
use crate::codec::frame::{FRAME_END, FRAME_OVERHEAD, encode, encode_method};
use crate::codec::method::basic;
use crate::codec::{ContentHeader, FrameKind, MethodArgs, Short};

/// Templates larger than this are not kept.
const TEMPLATE_BYTES_MAX: usize = 4096;

/// Where the delivery tag stands behind the consumer tag in `basic.deliver`: frame header, ids, length octet.
const CONSUMER_TAG_AT: usize = 7 + 4 + 1;

/// Where the properties stand in a header frame: behind its own header, class, weight and size of the body.
const HEADER_PROPS_AT: usize = 7 + 12;

/// The frames of a consumer's last delivery up to its body: the next ones mostly differ in nothing but the tag.
#[derive(Debug, Default)]
pub(super) struct Template {
    /// Method frame, header frame, and the header of the body frame if there is exactly one.
    bytes: Vec<u8>,
    method_len: usize,
    route: Arc<Route>,
    redelivered: bool,
    props_len: usize,
    /// `None`: the header frame is still to be written.
    body_len: Option<usize>,
    tag_at: usize,
}

impl Template {
    /// Makes the method frame right.
    fn set_method(&mut self, channel: u16, tag: &str, route: &Arc<Route>, redelivered: bool) {
        let same = self.redelivered == redelivered && (Arc::ptr_eq(&self.route, route) || self.route == *route);
        if self.method_len > 0 && same {
            return;
        }
        self.bytes.clear();
        let deliver = basic::Deliver {
            consumer_tag: tag,
            delivery_tag: 0,
            redelivered,
            exchange: &route.exchange,
            routing_key: Short(&route.routing_key),
        };
        encode_method(&mut self.bytes, channel, &deliver);
        self.method_len = self.bytes.len();
        self.tag_at = CONSUMER_TAG_AT + tag.len().min(255);
        self.route = Arc::clone(route);
        self.redelivered = redelivered;
        self.body_len = None;
    }

    fn has_content(&self, props: &[u8], body_len: usize) -> bool {
        let at = self.method_len + HEADER_PROPS_AT;
        self.body_len == Some(body_len)
            && self.props_len == props.len()
            && self.bytes.get(at..at + props.len()) == Some(props)
    }

    /// Makes the header frame and the start of the body frame right.
    fn set_content(&mut self, channel: u16, props: &[u8], body_len: usize, one_frame: bool) {
        // Nothing but the properties differs, often in a key or an id: as long as the ones before they take their place.
        let at = self.method_len + HEADER_PROPS_AT;
        if self.body_len == Some(body_len)
            && self.props_len == props.len()
            && let Some(place) = self.bytes.get_mut(at..at + props.len())
        {
            place.copy_from_slice(props);
            return;
        }
        self.bytes.truncate(self.method_len);
        encode_header(&mut self.bytes, channel, props, body_len);
        if body_len > 0 && one_frame {
            body_frame_start(&mut self.bytes, channel, body_len);
        }
        self.props_len = props.len();
        self.body_len = Some(body_len);
    }

    fn set_tag(&mut self, tag: u64) {
        if let Some(place) = self.bytes.get_mut(self.tag_at..self.tag_at + 8) {
            place.copy_from_slice(&tag.to_be_bytes());
        }
    }
}

fn encode_header(out: &mut Vec<u8>, channel: u16, props: &[u8], body_len: usize) {
    let header = ContentHeader { class_id: basic::Deliver::ID.class_id, body_size: body_len as u64, props };
    encode(out, FrameKind::Header, channel, |out| header.encode(out));
}

fn body_frame_start(out: &mut Vec<u8>, channel: u16, len: usize) {
    out.push(FrameKind::Body as u8);
    out.extend_from_slice(&channel.to_be_bytes());
    out.extend_from_slice(&(len as u32).to_be_bytes());
}

/// Writes a body that is not simply copied behind a template: in several frames, or by reference.
fn put_body(out: &mut Transmit, channel: u16, batch: &Arc<Batch>, at: u32, payload_max: usize) {
    let mut range = batch.body_range(at);
    while !range.is_empty() {
        let end = range.end.min(range.start + payload_max);
        body_frame_start(out.buf(), channel, end - range.start);
        if end - range.start >= Transmit::SPLICE_MIN {
            out.splice(batch, range.start..end);
        } else {
            out.buf().extend_from_slice(&batch.data()[range.start..end]);
        }
        out.buf().push(FRAME_END);
        range.start = end;
    }
}

/// The properties as the peer gets them: with header `x-delivery-count` where the core wants it told.
fn props_told(props: &[u8], delivery_count: u32) -> Cow<'_, [u8]> {
    if delivery_count == 0 {
        return Cow::Borrowed(props);
    }
    // What was taken in could be read; what cannot be is passed on rather than lost.
    let Ok(mut list) = PropsOwned::decode(props) else {
        return Cow::Borrowed(props);
    };
    let headers = list.headers.get_or_insert_default();
    headers.set("x-delivery-count", Value::I64(delivery_count.into()));
    Cow::Owned(list.to_bytes())
}

impl AmqpSession {
    /// Writes a run of messages for a consumer.
    pub(super) fn deliver(&mut self, delivery: &Delivery, cx: &mut Cx<'_>) -> Result<()> {
        let payload_max = self.payload_max();
        let number = delivery.channel.0;
        let Some(channel) = self.channels.get_mut(number).filter(|c| c.hears()) else {
            return Ok(());
        };
        let Some(consumer) = channel.consumers.by_id.get_mut(&delivery.consumer) else {
            return Ok(());
        };
        let (batch, from) = in_memory(delivery)?;
        let first_tag = channel.last_tag + 1;
        channel.last_tag += u64::from(delivery.count);
        if !consumer.no_ack {
            channel.unsettled.add(tag_run(delivery, first_tag));
        }
        let template = &mut consumer.template;
        template.set_method(number, &consumer.tag, &delivery.route, delivery.redelivered);
        for (tag, at) in (first_tag..).zip(from..from + delivery.count) {
            let props = props_told(batch.props(at), delivery.delivery_count);
            let body = batch.body(at);
            let copied = body.len() <= payload_max && body.len() < Transmit::SPLICE_MIN;
            if !template.has_content(&props, body.len()) {
                template.set_content(number, &props, body.len(), copied);
            }
            template.set_tag(tag);
            let buf = cx.out.buf();
            if copied && !body.is_empty() {
                // One look at the room for all three.
                buf.reserve(template.bytes.len() + body.len() + 1);
                buf.extend_from_slice(&template.bytes);
                buf.extend_from_slice(body);
                buf.push(FRAME_END);
            } else {
                buf.extend_from_slice(&template.bytes);
                put_body(cx.out, number, batch, at, payload_max);
            }
        }
        if template.bytes.len() > TEMPLATE_BYTES_MAX {
            *template = Template::default();
        }
        Ok(())
    }

    /// Writes the answer to a get.
    pub(super) fn get_ok(&mut self, delivery: &Delivery, no_ack: bool, remaining: u64, cx: &mut Cx<'_>) -> Result<()> {
        let payload_max = self.payload_max();
        let channel = self.channel(delivery.channel.0)?;
        let (batch, from) = in_memory(delivery)?;
        channel.last_tag += 1;
        let delivery_tag = channel.last_tag;
        if !no_ack {
            channel.unsettled.add(tag_run(delivery, delivery_tag));
        }
        let get_ok = basic::GetOk {
            delivery_tag,
            redelivered: delivery.redelivered,
            exchange: &delivery.route.exchange,
            routing_key: Short(&delivery.route.routing_key),
            message_count: u32::try_from(remaining).unwrap_or(u32::MAX),
        };
        encode_method(cx.out.buf(), delivery.channel.0, &get_ok);
        let props = props_told(batch.props(from), delivery.delivery_count);
        encode_header(cx.out.buf(), delivery.channel.0, &props, batch.body(from).len());
        put_body(cx.out, delivery.channel.0, batch, from, payload_max);
        Ok(())
    }

    /// Writes messages back that no queue took.
    pub(super) fn returned(
        &mut self,
        number: u16,
        route: &Route,
        batch: &Arc<Batch>,
        messages: std::ops::Range<u32>,
        cx: &mut Cx<'_>,
    ) -> Result<()> {
        let payload_max = self.payload_max();
        if self.channels.get_mut(number).is_none_or(|c| !c.hears()) {
            return Ok(());
        }
        if messages.end as usize > batch.len() {
            return Err(internal("return of messages that are not there"));
        }
        for at in messages {
            let returned = basic::Return {
                reply_code: 312,
                reply_text: Short(b"NO_ROUTE"),
                exchange: &route.exchange,
                routing_key: Short(&route.routing_key),
            };
            encode_method(cx.out.buf(), number, &returned);
            encode_header(cx.out.buf(), number, batch.props(at), batch.body(at).len());
            put_body(cx.out, number, batch, at, payload_max);
        }
        Ok(())
    }

    /// Largest payload of a frame under the negotiated size.
    fn payload_max(&self) -> usize {
        self.limits.frame_bytes_max as usize - FRAME_OVERHEAD
    }
}

/// The bytes of a delivery, which the driver has loaded by now.
fn in_memory(delivery: &Delivery) -> Result<(&Arc<Batch>, u32)> {
    match &delivery.body {
        Body::Mem { batch, from }
            if delivery.count > 0 && u64::from(*from) + u64::from(delivery.count) <= batch.len() as u64 =>
        {
            Ok((batch, *from))
        }
        _ => Err(internal("delivery of messages that are not in memory")),
    }
}

fn tag_run(delivery: &Delivery, first: u64) -> TagRun {
    TagRun {
        first,
        last: first + u64::from(delivery.count) - 1,
        queue: delivery.queue,
        consumer: delivery.consumer,
        seq: delivery.first,
    }
}

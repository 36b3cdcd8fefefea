//! Publishes: from frames to runs.
//!
//! Three ways lead in, each faster than the next. A message whose frames are, but for the body, byte for byte those of
//! the one before it costs a comparison (`hot_publishes`). One that lies complete in the read buffer, with its body in
//! one frame, is noted where it lies (`publish`); if only its route is another one than that of those before it, what follows
//! the method is compared, too ([`KnownContent`]). Any other is put together frame by frame (`content`).

use std::sync::Arc;

use waypost_model::props::{PropsOwned, ShortStr};
use waypost_model::{AttrFlags, Attrs, Batch, ChannelId, Command, Publish, Refusal, Slot, Turn};

use super::attrs::{Described, describe};
use super::channels::{Channel, Content, Publishing, ReplyTo};
use super::fault::{Result, internal, undecodable};
use super::routes::Routes;
use super::{AmqpSession, Cx, Step};
use crate::codec::content::CONTENT_HEADER_LEN;
use crate::codec::frame::{FRAME_END, FRAME_HEADER_LEN, FRAME_OVERHEAD};
use crate::codec::method::basic;
use crate::codec::{ContentHeader, Frame, FrameKind, Method, MethodArgs};

/// Beginnings of messages longer than this are not remembered, bytes.
const PREFIX_BYTES_MAX: usize = 4096;

/// What publishing remembers from message to message.
#[derive(Debug, Default)]
pub(super) struct Publisher {
    /// The messages of the read buffer, in order.
    pub slots: Vec<Slot>,
    /// Which command the next message may prolong.
    run: Option<usize>,
    hot: Hot,
    described: KnownProps,
    content: KnownContent,
    routes: Routes,
    /// Bytes announced for bodies under assembly.
    pub assembling: u64,
}

/// The last property list, and what it says.
#[derive(Debug, Default)]
struct KnownProps {
    list: Vec<u8>,
    attrs: Attrs,
}

/// What follows the publish method, up to the body, in many messages whatever their routes.
#[derive(Debug, Default)]
struct KnownContent {
    /// Header frame and the body frame's header; empty while nothing is known.
    frames: Vec<u8>,
    channel: u16,
    props_len: usize,
    body_len: usize,
    attrs: Attrs,
    /// The last message began otherwise: a second one takes its place.
    missed: bool,
}

impl KnownContent {
    /// Whether a whole message with it follows a method on `channel`.
    fn is_next(&mut self, rest: &[u8], channel: u16) -> bool {
        let end = rest.get(self.frames.len() + self.body_len);
        let next = !self.frames.is_empty()
            && self.channel == channel
            && rest.starts_with(&self.frames)
            && (self.body_len == 0 || end == Some(&FRAME_END));
        self.missed &= !next;
        next
    }

    /// A message had other frames up to its body.
    fn learn(&mut self, frames: &[u8], channel: u16, header: &ContentHeader<'_>, attrs: Attrs) {
        if frames.len() > PREFIX_BYTES_MAX || (!self.frames.is_empty() && !std::mem::replace(&mut self.missed, true)) {
            return;
        }
        self.frames.clear();
        self.frames.extend_from_slice(frames);
        (self.channel, self.attrs, self.missed) = (channel, attrs, false);
        (self.props_len, self.body_len) = (header.props.len(), header.body_size as usize);
    }
}

/// The frames of the last message up to its body.
#[derive(Debug, Default)]
struct Hot {
    /// Method frame, header frame, and the body frame's header.
    prefix: Vec<u8>,
    /// It is worth comparing with: the method frame is still the last publish of its channel and has come twice, and the
    /// channel takes messages where they lie.
    live: bool,
    channel: u16,
    props_at: usize,
    props_len: usize,
    body_len: usize,
    attrs: Attrs,
}

impl Hot {
    /// The whole message on the wire.
    fn wire_len(&self) -> usize {
        self.prefix.len() + self.body_len + usize::from(self.body_len > 0)
    }
}

/// What follows a publish method in the read buffer.
enum Ahead<'a> {
    /// Header and body, complete, in at most one body frame.
    Whole { header: ContentHeader<'a>, props_at: usize, body_at: usize, wire_len: usize },
    /// So far it looks like that, but it has not all come.
    More,
    /// Something else, to be looked at frame by frame.
    Other,
}

/// Looks at what follows the method frame of `method_len` bytes. Leaves every complaint to the frame by frame way.
fn look_ahead(rest: &[u8], method_len: usize, channel: u16, frame_bytes_max: u32) -> Ahead<'_> {
    let header_frame = match Frame::parse(&rest[method_len..], frame_bytes_max) {
        Ok(Some(frame)) if frame.kind == FrameKind::Header && frame.channel == channel => frame,
        Ok(None) => return Ahead::More,
        _ => return Ahead::Other,
    };
    let Ok(header) = ContentHeader::decode(header_frame.payload) else {
        return Ahead::Other;
    };
    let props_at = method_len + FRAME_HEADER_LEN + CONTENT_HEADER_LEN;
    let body_frame_at = method_len + header_frame.wire_len();
    if header.class_id != basic::Publish::ID.class_id {
        return Ahead::Other;
    }
    if header.body_size == 0 {
        let (body_at, wire_len) = (body_frame_at, body_frame_at);
        return Ahead::Whole { header, props_at, body_at, wire_len };
    }
    if header.body_size.saturating_add(FRAME_OVERHEAD as u64) > u64::from(frame_bytes_max) {
        return Ahead::Other;
    }
    let body_len = header.body_size as usize;
    let Some(start) = rest.get(body_frame_at..body_frame_at + FRAME_HEADER_LEN) else {
        return Ahead::More;
    };
    if start != body_frame_header(channel, body_len as u32) {
        return Ahead::Other;
    }
    let body_at = body_frame_at + FRAME_HEADER_LEN;
    match rest.get(body_at + body_len) {
        None => Ahead::More,
        Some(&FRAME_END) => Ahead::Whole { header, props_at, body_at, wire_len: body_at + body_len + 1 },
        Some(_) => Ahead::Other,
    }
}

fn body_frame_header(channel: u16, len: u32) -> [u8; FRAME_HEADER_LEN] {
    let [c0, c1] = channel.to_be_bytes();
    let [l0, l1, l2, l3] = len.to_be_bytes();
    [FrameKind::Body as u8, c0, c1, l0, l1, l2, l3]
}

impl Publisher {
    /// A fresh read begins: what points into the buffer before it is void.
    pub fn begin(&mut self) {
        self.run = None;
    }

    /// Later messages must not join a run that began before this point.
    pub fn end_run(&mut self) {
        self.run = None;
    }

    /// Gives back memory that only a busy connection is worth.
    pub fn release(&mut self) {
        self.slots = Vec::new();
        self.hot = Hot::default();
        self.described = KnownProps::default();
        self.content = KnownContent::default();
        self.routes = Routes::default();
    }

    /// Nothing that was learned about a channel holds any more.
    pub fn forget(&mut self) {
        self.run = None;
        self.hot.live = false;
    }

    /// Remembers route and flags of a publish method. `true`: they are those of the one before.
    fn note(&mut self, channel: &mut Channel, frame: &Frame<'_>, bytes: &[u8]) -> Result<bool> {
        let publishing = &mut channel.publishing;
        if publishing.frame == bytes {
            return Ok(true);
        }
        self.hot.live = false;
        if let Some((route, mandatory)) = self.routes.known(frame.payload) {
            publishing.route = Arc::clone(route);
            publishing.mandatory = mandatory;
            publishing.remember(bytes);
            return Ok(false);
        }
        let Method::BasicPublish(method) = Method::decode(frame.payload).map_err(undecodable)? else {
            return Err(internal("not a publish"));
        };
        if method.immediate {
            return Err(Refusal::not_implemented("immediate=true"));
        }
        publishing.remember(bytes);
        publishing.mandatory = method.mandatory;
        publishing.route = self.routes.add(method.exchange, method.routing_key.0);
        Ok(false)
    }

    /// What a property list means: looked at if it is not the last one again.
    fn describe(&mut self, list: &[u8], user: &str) -> Result<Described> {
        if self.described.list == list {
            return Ok(Described { attrs: self.described.attrs, direct_reply: false });
        }
        let what = describe(list, user)?;
        if !what.direct_reply && list.len() <= PREFIX_BYTES_MAX {
            self.described.list.clear();
            self.described.list.extend_from_slice(list);
            self.described.attrs = what.attrs;
        }
        Ok(what)
    }

    /// Takes the message whose method of `method_len` bytes lies at `base`, with the content that is known; how long it is.
    fn take_known(&mut self, channel: &mut Channel, method_len: usize, base: usize, turn: &mut Turn) -> usize {
        let KnownContent { props_len, body_len, attrs, .. } = self.content;
        let from = self.slots.len();
        let body_at = method_len + self.content.frames.len();
        self.slots.push(Slot {
            props: (base + method_len + FRAME_HEADER_LEN + CONTENT_HEADER_LEN) as u32,
            props_len: props_len as u32,
            body: (base + body_at) as u32,
            body_len: body_len as u32,
        });
        self.extend(channel, attrs, from, turn);
        body_at + body_len + usize::from(body_len > 0)
    }

    /// Hands on the messages from slot `from` on.
    fn extend(&mut self, channel: &mut Channel, attrs: Attrs, from: usize, turn: &mut Turn) {
        let (from, to) = (from as u32, self.slots.len() as u32);
        let confirm = channel.confirms.as_mut().map(|confirms| {
            confirms.issued += u64::from(to - from);
            confirms.issued
        });
        let Publishing { route, mandatory, .. } = &channel.publishing;
        if let Some(Command::Publish(open)) = self.run.and_then(|at| turn.commands.get_mut(at))
            && open.to == from
            && open.channel.0 == channel.number
            && open.attrs == attrs
            && open.mandatory == *mandatory
            && Arc::ptr_eq(&open.route, route)
            && !attrs.flags.has(AttrFlags::SENDER_SELECTED)
        {
            open.to = to;
            open.confirm = confirm;
            return;
        }
        self.run = Some(turn.commands.len());
        turn.commands.push(Command::Publish(Publish {
            channel: ChannelId(channel.number),
            route: Arc::clone(route),
            batch: None,
            from,
            to,
            attrs,
            mandatory: *mandatory,
            confirm,
        }));
    }

    /// Hands on a message that lies outside the read buffer.
    fn publish_own(&mut self, channel: &mut Channel, attrs: Attrs, own: Batch, turn: &mut Turn) {
        self.run = None;
        let confirm = channel.confirms.as_mut().map(|confirms| {
            confirms.issued += 1;
            confirms.issued
        });
        turn.commands.push(Command::Publish(Publish { batch: Some(Arc::new(own)), confirm, ..single(channel, attrs) }));
    }
}

/// A publish of one message, without its bytes.
fn single(channel: &Channel, attrs: Attrs) -> Publish {
    Publish {
        channel: ChannelId(channel.number),
        route: Arc::clone(&channel.publishing.route),
        batch: None,
        from: 0,
        to: 1,
        attrs,
        mandatory: channel.publishing.mandatory,
        confirm: None,
    }
}

impl AmqpSession {
    /// Takes messages from the front of `rest` as long as they begin with the same bytes as the last one, and returns
    /// how many bytes that were.
    pub(super) fn hot_publishes(&mut self, rest: &[u8], base: usize, cx: &mut Cx<'_>) -> usize {
        let Publisher { slots, hot, .. } = &mut self.publisher;
        if !hot.live || !rest.starts_with(&hot.prefix) {
            return 0;
        }
        let Some(channel) = self.channels.get_mut(hot.channel) else {
            return 0;
        };
        let (from, wire_len) = (slots.len(), hot.wire_len());
        let mut first = Slot {
            props: (base + hot.props_at) as u32,
            props_len: hot.props_len as u32,
            body: (base + hot.prefix.len()) as u32,
            body_len: hot.body_len as u32,
        };
        let mut taken = 0;
        for message in rest.chunks_exact(wire_len) {
            if !message.starts_with(&hot.prefix) || message.last() != Some(&FRAME_END) {
                break;
            }
            slots.push(first);
            first.props += wire_len as u32;
            first.body += wire_len as u32;
            taken += wire_len;
        }
        if taken > 0 {
            let attrs = hot.attrs;
            self.publisher.extend(channel, attrs, from, cx.turn);
        }
        taken
    }

    /// A publish method at the start of `rest`: takes the message with it if it lies there complete.
    pub(super) fn publish(&mut self, frame: &Frame<'_>, rest: &[u8], base: usize, cx: &mut Cx<'_>) -> Result<Step> {
        let method_len = frame.wire_len();
        let Some(channel) = self.channels.get_mut(frame.channel) else {
            return Err(internal("publish without a channel"));
        };
        let again = self.publisher.note(channel, frame, &rest[..method_len])?;
        if !again && channel.tx.is_none() && self.publisher.content.is_next(&rest[method_len..], frame.channel) {
            self.has_published = true;
            return Ok(Step::Took(self.publisher.take_known(channel, method_len, base, cx.turn)));
        }
        let ahead = look_ahead(rest, method_len, frame.channel, self.limits.frame_bytes_max);
        let (header, props_at, body_at, wire_len) = match ahead {
            Ahead::Whole { header, props_at, body_at, wire_len } => (header, props_at, body_at, wire_len),
            Ahead::More => return Ok(Step::More),
            Ahead::Other => {
                self.publisher.hot.live = false;
                channel.content = Content::Header;
                return Ok(Step::Took(method_len));
            }
        };
        check_size(header.body_size, self.config.message_bytes_max)?;
        // Not before the message is whole: a peer that is held back in the middle of its first one would never be told.
        self.has_published = true;
        let what = self.publisher.describe(header.props, &self.client.user)?;
        let hot = &mut self.publisher.hot;
        let body_len = header.body_size as usize;
        if what.direct_reply || channel.tx.is_some() {
            hot.live = false;
            let body = &rest[body_at..body_at + body_len];
            return match self.publish_copied(frame.channel, what, header.props, body, cx)? {
                true => Ok(Step::Took(wire_len)),
                false => Ok(Step::Stall),
            };
        }
        // Senders who take turns with their routes never begin twice with the same bytes.
        hot.live = again && body_at <= PREFIX_BYTES_MAX && !what.attrs.flags.has(AttrFlags::SENDER_SELECTED);
        if hot.live {
            hot.prefix.clear();
            hot.prefix.extend_from_slice(&rest[..body_at]);
            hot.channel = frame.channel;
            (hot.props_at, hot.props_len) = (props_at, header.props.len());
            (hot.body_len, hot.attrs) = (body_len, what.attrs);
        }
        if !again {
            self.publisher.content.learn(&rest[method_len..body_at], frame.channel, &header, what.attrs);
        }
        let from = self.publisher.slots.len();
        self.publisher.slots.push(Slot {
            props: (base + props_at) as u32,
            props_len: header.props.len() as u32,
            body: (base + body_at) as u32,
            body_len: body_len as u32,
        });
        self.publisher.extend(channel, what.attrs, from, cx.turn);
        Ok(Step::Took(wire_len))
    }

    /// Publishes a message that cannot stay where it lies; `false` if an answer must be awaited first.
    fn publish_copied(
        &mut self,
        number: u16,
        what: Described,
        props: &[u8],
        body: &[u8],
        cx: &mut Cx<'_>,
    ) -> Result<bool> {
        self.has_published = true;
        let max = self.config.message_bytes_max.saturating_mul(2);
        let Some(channel) = self.channels.get_mut(number) else {
            return Err(internal("publish without a channel"));
        };
        let replaced;
        let props = match what.direct_reply {
            false => props,
            true => {
                let Some(list) = with_reply_to(props, &channel.reply_to)? else {
                    return Ok(false);
                };
                replaced = list;
                &replaced[..]
            }
        };
        if channel.tx.is_some() {
            let publish = single(channel, what.attrs);
            if let Some(tx) = &mut channel.tx {
                tx.publish(publish, props, body, max)?;
            }
            return Ok(true);
        }
        self.publisher.publish_own(channel, what.attrs, Batch::single(props, body), cx.turn);
        Ok(true)
    }

    /// Publishes a message that was put together: `data` is its properties and its body.
    pub(super) fn publish_assembled(
        &mut self,
        number: u16,
        what: Described,
        data: Vec<u8>,
        props_len: usize,
        cx: &mut Cx<'_>,
    ) -> Result<()> {
        let Some(channel) = self.channels.get_mut(number) else {
            return Err(internal("publish without a channel"));
        };
        if what.direct_reply || channel.tx.is_some() {
            let (props, body) = data.split_at(props_len);
            // Nothing is awaited: the header was taken only once the answer was there.
            return self.publish_copied(number, what, props, body, cx).map(drop);
        }
        let slot = Slot {
            props: 0,
            props_len: props_len as u32,
            body: props_len as u32,
            body_len: (data.len() - props_len) as u32,
        };
        let own = Batch::new(data, vec![slot]).map_err(|e| internal(&e.to_string()))?;
        self.has_published = true;
        self.publisher.publish_own(channel, what.attrs, own, cx.turn);
        Ok(())
    }
}

/// 406 for a body that is larger than configured.
pub(super) fn check_size(body_size: u64, max: u64) -> Result<()> {
    if body_size <= max {
        return Ok(());
    }
    Err(Refusal::precondition_failed(format!("message size {body_size} is larger than configured max size {max}")))
}

/// The property list with the channel's own address for answers; `None` while that is awaited.
pub(super) fn with_reply_to(props: &[u8], reply_to: &ReplyTo) -> Result<Option<Vec<u8>>> {
    let name = match reply_to {
        ReplyTo::Active { name, .. } => name,
        ReplyTo::Awaited => return Ok(None),
        ReplyTo::None => {
            return Err(Refusal::precondition_failed("fast reply consumer does not exist"));
        }
    };
    let mut list = PropsOwned::decode(props).map_err(|e| Refusal::syntax_error(e.to_string()))?;
    list.reply_to = ShortStr::new(&**name);
    Ok(Some(list.to_bytes()))
}

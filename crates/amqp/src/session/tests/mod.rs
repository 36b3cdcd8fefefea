//! Sessions as scripts: frames in, commands and frames out, no sockets.

mod any;
mod channels;
mod consuming;
mod framing;
mod handshake;
mod publishing;

use std::collections::VecDeque;
use std::io::IoSlice;
use std::sync::Arc;

use waypost_model::command::{Outcome, Settle};
use waypost_model::props::PROPS_EMPTY;
use waypost_model::table::Table;
use waypost_model::{Batch, BatchBuilder, Body, ConsumerId, Delivery, Publish, QueueId, Refusal, Reply, Route, Seq};

use super::*;
use crate::codec::frame::{self, encode};
use crate::codec::method::{basic, channel, connection};
use crate::codec::{ContentHeader, Frame, FrameKind, Long, Method, PROTOCOL_HEADER, Short};

/// A frame that the session sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sent {
    pub kind: FrameKind,
    pub channel: u16,
    pub payload: Vec<u8>,
}

/// A session with both of its ends in the test's hands.
pub(super) struct Script {
    pub session: AmqpSession,
    pub input: ReadBuf,
    pub out: Transmit,
    pub now: Millis,
    /// Commands not yet looked at; publishes carry their batch.
    pub commands: VecDeque<Command>,
    frames: VecDeque<Sent>,
    /// Everything ever sent, and how much of it was looked at.
    pub sent: Vec<u8>,
    looked_at: usize,
}

impl Script {
    pub fn new() -> Self {
        Self::with(SessionConfig::default(), Peer::default())
    }

    pub fn with(config: SessionConfig, peer: Peer) -> Self {
        Script {
            session: AmqpSession::new(Arc::new(config), peer, Millis(0)),
            input: ReadBuf::default(),
            out: Transmit::default(),
            now: Millis(0),
            commands: VecDeque::new(),
            frames: VecDeque::new(),
            sent: Vec::new(),
            looked_at: 0,
        }
    }

    /// Past the handshake, heartbeats off.
    pub fn open() -> Self {
        Self::open_with(SessionConfig::default())
    }

    pub fn open_with(config: SessionConfig) -> Self {
        let mut script = Script::with(config, Peer::default());
        script.shake_hands();
        script
    }

    pub fn shake_hands(&mut self) {
        self.bytes(&PROTOCOL_HEADER);
        let capabilities = Table::new()
            .with("authentication_failure_close", true)
            .with("connection.blocked", true)
            .with("consumer_cancel_notify", true);
        self.login("PLAIN", b"\0guest\0guest", capabilities);
        self.done();
        let (channel_max, frame_max) = match self.methods().pop() {
            Some((0, tune)) => match decode(&tune) {
                Method::ConnectionTune(tune) => (tune.channel_max, tune.frame_max),
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        };
        self.method(0, Method::ConnectionTuneOk(connection::TuneOk { channel_max, frame_max, heartbeat: 0 }));
        let open = connection::Open { virtual_host: "/", ..Default::default() };
        self.method(0, Method::ConnectionOpen(open));
        self.done();
        assert_eq!(self.replies(), ["0 ConnectionOpenOk(OpenOk { reserved_1: Short([]) })"]);
    }

    pub fn login(&mut self, mechanism: &str, response: &[u8], capabilities: Table) {
        self.method(
            0,
            Method::ConnectionStartOk(connection::StartOk {
                client_properties: Table::new().with("capabilities", capabilities),
                mechanism,
                response: Long(response),
                locale: Short(b"en_US"),
            }),
        );
    }

    /// With channel 1 open.
    pub fn channel() -> Self {
        let mut script = Script::open();
        script.open_channel(1);
        script
    }

    pub fn open_channel(&mut self, number: u16) {
        self.method(number, Method::ChannelOpen(channel::Open::default()));
        self.done();
        assert_eq!(self.replies(), [format!("{number} ChannelOpenOk(OpenOk {{ reserved_1: Long([]) }})")]);
    }

    pub fn bytes(&mut self, bytes: &[u8]) {
        self.input.vec().extend_from_slice(bytes);
        let mut turn = Turn::default();
        self.session.receive(&mut self.input, self.now, &mut turn, &mut self.out);
        self.collect(turn);
    }

    pub fn method(&mut self, number: u16, method: Method<'_>) {
        let mut bytes = Vec::new();
        method.encode_frame(&mut bytes, number);
        self.bytes(&bytes);
    }

    pub fn event(&mut self, event: Event) {
        let mut turn = Turn::default();
        self.session.handle(event, self.now, &mut turn, &mut self.out);
        self.collect(turn);
    }

    pub fn flush(&mut self) {
        self.session.flush(&mut self.out);
        self.collect(Turn::default());
    }

    pub fn durable(&mut self, lsn: u64) {
        self.session.durable(Lsn(lsn), &mut self.out);
        self.collect(Turn::default());
    }

    pub fn at(&mut self, now: u64) {
        self.now = Millis(now);
        let mut turn = Turn::default();
        self.session.on_deadline(self.now, &mut turn, &mut self.out);
        self.collect(turn);
    }

    fn collect(&mut self, mut turn: Turn) {
        for command in &mut turn.commands {
            if let Command::Publish(publish) = command {
                let batch = publish.batch.get_or_insert_with(|| Arc::clone(turn.batch.as_ref().unwrap()));
                assert!(publish.from < publish.to && publish.to as usize <= batch.len());
            }
        }
        self.commands.extend(turn.commands);
        self.drain();
    }

    /// Takes what is to be sent, as a socket would.
    pub fn drain(&mut self) {
        while !self.out.is_empty() {
            let mut slices = [IoSlice::new(&[]); 4];
            let n = self.out.pieces(&mut slices);
            let len = slices[..n].iter().map(|s| s.len()).sum();
            slices[..n].iter().for_each(|s| self.sent.extend_from_slice(s));
            self.out.advance(len);
        }
        while let Ok(Some(frame)) = Frame::parse(&self.sent[self.looked_at..], 1 << 20) {
            self.frames.push_back(Sent { kind: frame.kind, channel: frame.channel, payload: frame.payload.to_vec() });
            self.looked_at += frame.wire_len();
        }
    }

    /// Frames sent since the last look.
    pub fn frames(&mut self) -> Vec<Sent> {
        self.frames.drain(..).collect()
    }

    fn methods(&mut self) -> Vec<(u16, Vec<u8>)> {
        let methods = |f: Sent| (f.kind == FrameKind::Method).then_some((f.channel, f.payload));
        self.frames().into_iter().filter_map(methods).collect()
    }

    /// Methods sent since the last look, as text.
    pub fn replies(&mut self) -> Vec<String> {
        let text = |(channel, payload): (u16, Vec<u8>)| format!("{channel} {:?}", decode(&payload));
        self.methods().into_iter().map(text).collect()
    }

    /// The only close sent since the last look: channel, code, text, class and method.
    pub fn closed(&mut self) -> (u16, u16, String, (u16, u16)) {
        let methods = self.methods();
        let [(channel, payload)] = &methods[..] else { panic!("{methods:?}") };
        let (code, text, class, method) = match decode(payload) {
            Method::ConnectionClose(c) => (c.reply_code, c.reply_text, c.class_id, c.method_id),
            Method::ChannelClose(c) => (c.reply_code, c.reply_text, c.class_id, c.method_id),
            other => panic!("{other:?}"),
        };
        (*channel, code, String::from_utf8(text.0.to_vec()).unwrap(), (class, method))
    }

    /// The next command, which is a call.
    pub fn call(&mut self) -> (u16, u32, Call) {
        match self.commands.pop_front() {
            Some(Command::Call { channel, token, call }) => (channel.0, token, call),
            other => panic!("{other:?}"),
        }
    }

    pub fn publish(&mut self) -> Publish {
        match self.commands.pop_front() {
            Some(Command::Publish(publish)) => publish,
            other => panic!("{other:?}"),
        }
    }

    /// The next command, which is a settlement: first place, how many, what.
    pub fn settle(&mut self) -> (u64, u32, Outcome) {
        match self.commands.pop_front() {
            Some(Command::Settle(Settle { first, count, outcome, .. })) => (first.0, count, outcome),
            other => panic!("{other:?}"),
        }
    }

    pub fn answer(&mut self, number: u16, token: u32, reply: Reply) {
        self.event(Event::Reply { channel: ChannelId(number), token, reply, after: None });
    }

    /// Answers the next command, a call, with `Done`.
    pub fn done(&mut self) {
        let (number, token, _) = self.call();
        self.answer(number, token, Reply::Done);
    }

    pub fn refuse(&mut self, number: u16, token: u32, refusal: Refusal) {
        self.event(Event::Refused { channel: ChannelId(number), token, refusal });
    }

    /// Starts consumer 7 on channel 1, tag `t`.
    pub fn consume(&mut self, no_ack: bool) {
        let consume = basic::Consume { queue: "q", consumer_tag: "t", no_ack, ..Default::default() };
        self.method(1, Method::BasicConsume(consume));
        let (number, token, _) = self.call();
        let (consumer, tag) = (ConsumerId(7), "t".into());
        self.answer(number, token, Reply::Consuming { consumer, tag, no_ack, reply_to: None });
        assert_eq!(self.replies(), ["1 BasicConsumeOk(ConsumeOk { consumer_tag: \"t\" })"]);
    }
}

pub(super) fn decode(payload: &[u8]) -> Method<'_> {
    Method::decode(payload).unwrap()
}

/// The frames of one publish.
pub(super) fn publish_frames(number: u16, key: &str, props: &[u8], body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let publish = basic::Publish { exchange: "x", routing_key: Short(key.as_bytes()), ..Default::default() };
    frame::encode_method(&mut bytes, number, &publish);
    content_frames(&mut bytes, number, props, body, 4096);
    bytes
}

pub(super) fn content_frames(out: &mut Vec<u8>, number: u16, props: &[u8], body: &[u8], max: u32) {
    let header = ContentHeader { class_id: 60, body_size: body.len() as u64, props };
    encode(out, FrameKind::Header, number, |out| header.encode(out));
    frame::encode_body(out, number, body, max);
}

/// A delivery of these bodies to consumer 7 on channel 1, from place `first` on.
pub(super) fn delivery(first: u64, bodies: &[&[u8]]) -> Delivery {
    let mut builder = BatchBuilder::default();
    bodies.iter().for_each(|body| builder.push(PROPS_EMPTY, body));
    Delivery {
        channel: ChannelId(1),
        consumer: ConsumerId(7),
        queue: QueueId(3),
        first: Seq(first),
        count: bodies.len() as u32,
        route: Arc::new(Route::new("x", "k")),
        body: Body::Mem { batch: Arc::new(builder.finish()), from: 0 },
        redelivered: false,
        delivery_count: 0,
        cost: 0,
    }
}

/// What a publish holds: bodies as text.
pub(super) fn bodies(publish: &Publish) -> Vec<String> {
    let batch: &Batch = publish.batch.as_ref().unwrap();
    let text = |i| String::from_utf8(batch.body(i).to_vec()).unwrap();
    (publish.from..publish.to).map(text).collect()
}

//! What a peer and a core may do to a session, in any order.
#![no_main]

use std::collections::VecDeque;
use std::io::IoSlice;
use std::sync::Arc;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use waypost_amqp::codec::frame::{encode, encode_body, encode_method};
use waypost_amqp::codec::method::{basic, channel, connection};
use waypost_amqp::codec::{ContentHeader, Frame, FrameKind, Long, Method, PROTOCOL_HEADER, Short};
use waypost_amqp::session::Peer;
use waypost_amqp::{AmqpSession, SessionConfig};
use waypost_model::{
    Batch, Body, Call, ChannelId, Command, ConsumerId, Delivery, Event, Lsn, Millis, QueueId,
    ReadBuf, Refusal, Reply, Route, Seq, Session, Transmit, Turn,
};

#[derive(Debug, Arbitrary)]
enum Op {
    Bytes(Vec<u8>),
    /// A well-formed frame around any payload of a method.
    Method { channel: u8, class: u8, method: u8, args: Vec<u8> },
    Publish { channel: u8, key: u8, props: Vec<u8>, body: Vec<u8>, frame_max: u8 },
    Ack { channel: u8, tag: u8, multiple: bool },
    Serve { yes: bool, durable: bool },
    Deliver { channel: u8, count: u8, large: bool, again: bool },
    Return { channel: u8 },
    Refuse { channel: u8, hard: bool },
    Cancelled,
    Blocked(bool),
    Durable,
    Time(u16),
    Flush,
}

struct World {
    session: AmqpSession,
    input: ReadBuf,
    out: Transmit,
    now: Millis,
    commands: VecDeque<Command>,
    sent: Vec<u8>,
    next: u64,
}

impl World {
    fn open() -> Self {
        let config = SessionConfig { message_bytes_max: 4096, ..SessionConfig::default() };
        let mut world = World {
            session: AmqpSession::new(Arc::new(config), Peer::default(), Millis(0)),
            input: ReadBuf::default(),
            out: Transmit::default(),
            now: Millis(0),
            commands: VecDeque::new(),
            sent: Vec::new(),
            next: 1,
        };
        let response = Long(b"\0guest\0guest");
        let start_ok = connection::StartOk { mechanism: "PLAIN", response, ..Default::default() };
        let tune_ok = connection::TuneOk { channel_max: 9, frame_max: 4096, heartbeat: 10 };
        let mut bytes = PROTOCOL_HEADER.to_vec();
        Method::ConnectionStartOk(start_ok).encode_frame(&mut bytes, 0);
        Method::ConnectionTuneOk(tune_ok).encode_frame(&mut bytes, 0);
        Method::ConnectionOpen(connection::Open::default()).encode_frame(&mut bytes, 0);
        Method::ChannelOpen(channel::Open::default()).encode_frame(&mut bytes, 1);
        world.bytes(&bytes);
        (0..3).for_each(|_| world.serve(true, false));
        world
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.input.vec().extend_from_slice(bytes);
        let mut turn = Turn::default();
        self.session.receive(&mut self.input, self.now, &mut turn, &mut self.out);
        self.collect(turn);
    }

    fn event(&mut self, event: Event) {
        let mut turn = Turn::default();
        self.session.handle(event, self.now, &mut turn, &mut self.out);
        self.collect(turn);
    }

    fn collect(&mut self, turn: Turn) {
        for command in &turn.commands {
            if let Command::Publish(p) = command {
                let batch = p.batch.as_ref().or(turn.batch.as_ref()).unwrap();
                assert!(p.from < p.to && p.to as usize <= batch.len());
            }
        }
        self.commands.extend(turn.commands);
        while !self.out.is_empty() {
            let mut slices = [IoSlice::new(&[]); 4];
            let n = self.out.pieces(&mut slices);
            let len = slices[..n].iter().map(|s| s.len()).sum();
            slices[..n].iter().for_each(|s| self.sent.extend_from_slice(s));
            self.out.advance(len);
        }
        let mut done = 0;
        while let Some(frame) = Frame::parse(&self.sent[done..], 131_072).unwrap() {
            if frame.kind == FrameKind::Method {
                Method::decode(frame.payload).unwrap();
            }
            done += frame.wire_len();
        }
        assert_eq!(done, self.sent.len());
        self.sent.clear();
    }

    /// A core answers the next command.
    fn serve(&mut self, yes: bool, durable: bool) {
        self.next += 1;
        let lsn = durable.then_some(Lsn(self.next));
        match self.commands.pop_front() {
            Some(Command::Call { channel, token, call }) => {
                let reply = self.answer(&call, yes);
                self.event(Event::Reply { channel, token, reply, after: lsn });
            }
            Some(Command::Publish(p)) => {
                let Some(last) = p.confirm else { return };
                let (channel, first) = (p.channel, last + 1 - u64::from(p.to - p.from));
                self.event(match yes {
                    true => Event::Accepted { channel, first, last, lsn },
                    false => Event::Rejected { channel, first, last },
                });
            }
            _ => {}
        }
    }

    fn answer(&mut self, call: &Call, yes: bool) -> Reply {
        match call {
            Call::QueueDeclare(d) if d.name.is_empty() => {
                Reply::QueueDeclared { name: "amq.gen".into(), messages: 0, consumers: 0 }
            }
            Call::QueueDeclare(d) => {
                Reply::QueueDeclared { name: d.name.clone(), messages: self.next, consumers: 1 }
            }
            Call::QueuePurge { .. } | Call::QueueDelete { .. } => Reply::Count(self.next),
            Call::Consume(c) => Reply::Consuming {
                consumer: ConsumerId(7),
                tag: c.tag.clone(),
                no_ack: c.no_ack,
                reply_to: yes.then(|| "reply".into()),
            },
            Call::Get { no_ack, .. } if yes => {
                Reply::Got { delivery: self.delivery(1, 1, false, false), no_ack: *no_ack, remaining: 3 }
            }
            Call::Get { .. } => Reply::Empty,
            _ => Reply::Done,
        }
    }

    fn delivery(&mut self, channel: u8, count: u8, large: bool, again: bool) -> Delivery {
        let body = vec![0; if large { 20_000 } else { 3 }];
        let batch = match count {
            1 => Batch::single(&[0, 0], &body),
            _ => {
                let mut builder = waypost_model::BatchBuilder::default();
                (0..count).for_each(|_| builder.push(&[0, 0], &body));
                builder.finish()
            }
        };
        let first = Seq(self.next);
        self.next += u64::from(count);
        Delivery {
            channel: ChannelId(channel.into()),
            consumer: ConsumerId(7),
            queue: QueueId(3),
            first,
            count: count.into(),
            route: Arc::new(Route::new("x", "k")),
            body: Body::Mem { batch: Arc::new(batch), from: 0 },
            redelivered: again,
            delivery_count: again.into(),
            cost: 0,
        }
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Bytes(bytes) => self.bytes(&bytes),
            Op::Method { channel, class, method, args } => {
                let mut bytes = Vec::new();
                encode(&mut bytes, FrameKind::Method, (channel % 4).into(), |out| {
                    out.extend_from_slice(&[0, class, 0, method]);
                    out.extend_from_slice(&args);
                });
                self.bytes(&bytes);
            }
            Op::Publish { channel, key, props, body, frame_max } => {
                let (channel, mut bytes) = ((channel % 4).into(), Vec::new());
                let publish = basic::Publish { routing_key: Short(&[key]), ..Default::default() };
                encode_method(&mut bytes, channel, &publish);
                let props = if props.len() < 2 { &[0, 0] } else { &props[..] };
                let header = ContentHeader { class_id: 60, body_size: body.len() as u64, props };
                encode(&mut bytes, FrameKind::Header, channel, |out| header.encode(out));
                encode_body(&mut bytes, channel, &body, u32::from(frame_max) + 9);
                self.bytes(&bytes);
            }
            Op::Ack { channel, tag, multiple } => {
                let mut bytes = Vec::new();
                let ack = basic::Ack { delivery_tag: tag.into(), multiple };
                encode_method(&mut bytes, (channel % 4).into(), &ack);
                self.bytes(&bytes);
            }
            Op::Serve { yes, durable } => self.serve(yes, durable),
            Op::Deliver { channel, count, large, again } => {
                let delivery = self.delivery(channel % 4, count % 5, large, again);
                self.event(Event::Deliver(delivery));
            }
            Op::Return { channel } => self.event(Event::Returned {
                channel: ChannelId((channel % 4).into()),
                route: Arc::default(),
                batch: Arc::new(Batch::single(&[0, 0], b"back")),
                from: 0,
                to: 1,
            }),
            Op::Refuse { channel, hard } => {
                let mut refusal = Refusal::not_found("no");
                refusal.hard = hard;
                let channel = ChannelId((channel % 4).into());
                self.event(Event::Refused { channel, token: Event::PUBLISH_TOKEN, refusal });
            }
            Op::Cancelled => {
                let (channel, consumer) = (ChannelId(1), ConsumerId(7));
                self.event(Event::Cancelled { channel, consumer, tag: "t".into() });
            }
            Op::Blocked(true) => self.event(Event::Blocked { reason: "low on disk".into() }),
            Op::Blocked(false) => self.event(Event::Unblocked),
            Op::Durable => {
                self.session.durable(Lsn(self.next), &mut self.out);
                self.collect(Turn::default());
            }
            Op::Time(ms) => {
                self.now = self.now.plus(ms.into());
                let mut turn = Turn::default();
                self.session.on_deadline(self.now, &mut turn, &mut self.out);
                self.collect(turn);
            }
            Op::Flush => {
                self.session.flush(&mut self.out);
                self.collect(Turn::default());
            }
        }
    }
}

fuzz_target!(|ops: Vec<Op>| {
    let mut world = World::open();
    ops.into_iter().for_each(|op| world.apply(op));
});

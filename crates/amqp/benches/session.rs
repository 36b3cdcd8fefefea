//! What a message costs in the session, nanoseconds each: run with `cargo bench -p waypost-amqp`.
//!
//! Reads are 64 KiB, as from a busy socket, and end in the middle of a message.

use std::hint::black_box;
use std::io::IoSlice;
use std::sync::Arc;
use std::time::Instant;

use waypost_amqp::AmqpSession;
use waypost_amqp::codec::frame::{encode, encode_body, encode_method};
use waypost_amqp::codec::method::{basic, channel, confirm, connection};
use waypost_amqp::codec::{ContentHeader, FrameKind, Long, Method, PROTOCOL_HEADER, Short};
use waypost_amqp::session::{Peer, SessionConfig};
use waypost_model::props::{PROPS_EMPTY, PropsOwned, ShortStr};
use waypost_model::{
    Batch, BatchBuilder, Body, Call, ChannelId, Command, ConsumerId, Delivery, Event, Millis, QueueId, ReadBuf, Reply,
    Route, Seq, Session, Transmit, Turn,
};

const READ_BYTES: usize = 64 * 1024;
const MESSAGES: usize = 2_000_000;

/// A session past its handshake, with channel 1 open.
struct Driver {
    session: AmqpSession,
    input: ReadBuf,
    out: Transmit,
    turn: Turn,
}

impl Driver {
    fn new() -> Self {
        let session = AmqpSession::new(Arc::new(SessionConfig::default()), Peer::default(), Millis(0));
        let (input, out, turn) = (ReadBuf::default(), Transmit::default(), Turn::default());
        let mut driver = Driver { session, input, out, turn };
        driver.receive(&PROTOCOL_HEADER);
        driver.method(
            0,
            Method::ConnectionStartOk(connection::StartOk {
                mechanism: "PLAIN",
                response: Long(b"\0guest\0guest"),
                ..Default::default()
            }),
        );
        let tune_ok = connection::TuneOk { channel_max: 9, frame_max: 131_072, heartbeat: 0 };
        driver.method(0, Method::ConnectionTuneOk(tune_ok));
        driver.method(0, Method::ConnectionOpen(connection::Open::default()));
        driver.method(1, Method::ChannelOpen(channel::Open::default()));
        driver
    }

    fn receive(&mut self, bytes: &[u8]) {
        self.input.vec().extend_from_slice(bytes);
        self.session.receive(&mut self.input, Millis(0), &mut self.turn, &mut self.out);
    }

    /// Sends a method, and answers what it asks of the core.
    fn method(&mut self, number: u16, method: Method<'_>) {
        let mut bytes = Vec::new();
        method.encode_frame(&mut bytes, number);
        self.receive(&bytes);
        for command in std::mem::take(&mut self.turn.commands) {
            let Command::Call { channel, token, call } = command else {
                continue;
            };
            let reply = match call {
                Call::Consume(consume) => Reply::Consuming {
                    consumer: ConsumerId(1),
                    tag: consume.tag,
                    no_ack: consume.no_ack,
                    reply_to: None,
                },
                _ => Reply::Done,
            };
            self.event(Event::Reply { channel, token, reply, after: None });
        }
        self.write();
    }

    fn event(&mut self, event: Event) {
        self.session.handle(event, Millis(0), &mut self.turn, &mut self.out);
    }

    fn write(&mut self) -> usize {
        let mut written = 0;
        while !self.out.is_empty() {
            let mut slices = [IoSlice::new(&[]); 64];
            let n = self.out.pieces(&mut slices);
            let len = slices[..n].iter().map(|s| s.len()).sum();
            black_box(&slices[..n]);
            self.out.advance(len);
            written += len;
        }
        written
    }

    fn consume(&mut self, no_ack: bool) {
        let consume = basic::Consume { queue: "q", consumer_tag: "bench", no_ack, ..Default::default() };
        self.method(1, Method::BasicConsume(consume));
    }
}

fn publish(out: &mut Vec<u8>, key: &str, props: &[u8], body: &[u8]) {
    let method = basic::Publish { exchange: "", routing_key: Short(key.as_bytes()), ..Default::default() };
    encode_method(out, 1, &method);
    let header = ContentHeader { class_id: 60, body_size: body.len() as u64, props };
    encode(out, FrameKind::Header, 1, |out| header.encode(out));
    encode_body(out, 1, body, 131_072);
}

fn report(name: &str, messages: usize, since: Instant) {
    let ns = since.elapsed().as_nanos() as f64 / messages as f64;
    println!("{name:<44} {ns:>8.1} ns");
}

/// Feeds a stream again and again in reads of 64 KiB.
fn feed(name: &str, messages: usize, stream: &[u8], confirms: bool) {
    let mut driver = Driver::new();
    if confirms {
        driver.method(1, Method::ConfirmSelect(confirm::Select::default()));
    }
    let rounds = (MESSAGES / messages).max(1);
    let started = Instant::now();
    let (mut commands, mut taken) = (0, 0u64);
    for _ in 0..rounds {
        for read in stream.chunks(READ_BYTES) {
            driver.receive(read);
            for command in driver.turn.commands.drain(..) {
                commands += 1;
                if let Command::Publish(p) = command {
                    taken += u64::from(p.to - p.from);
                    if let Some(last) = p.confirm {
                        let (first, channel) = (last + 1 - u64::from(p.to - p.from), p.channel);
                        let accepted = Event::Accepted { channel, first, last, lsn: None };
                        driver.session.handle(accepted, Millis(0), &mut Turn::default(), &mut driver.out);
                    }
                }
            }
            driver.turn.batch = None;
            driver.session.flush(&mut driver.out);
            driver.write();
        }
    }
    assert_eq!(taken as usize, rounds * messages);
    report(name, rounds * messages, started);
    println!("{:<44} {:>8.1} messages per command", "", taken as f64 / commands as f64);
}

fn publishing() {
    let body = |len: usize| vec![b'x'; len];
    let mut stream = Vec::new();
    let many = |stream: &mut Vec<u8>, n: usize, each: &dyn Fn(&mut Vec<u8>, usize)| {
        stream.clear();
        (0..n).for_each(|i| each(stream, i));
    };
    many(&mut stream, 10_000, &|s, _| publish(s, "queue", PROPS_EMPTY, &body(16)));
    feed("publish, 16 B, all equal", 10_000, &stream, false);
    feed("publish, 16 B, all equal, confirms", 10_000, &stream, true);
    many(&mut stream, 10_000, &|s, i| publish(s, "queue", PROPS_EMPTY, &body(8 + i % 16)));
    feed("publish, 8 to 23 B", 10_000, &stream, false);
    many(&mut stream, 10_000, &|s, i| {
        let props = PropsOwned {
            delivery_mode: Some(2),
            message_id: ShortStr::new(format!("message-{i:08}")),
            ..PropsOwned::default()
        };
        publish(s, "queue", &props.to_bytes(), &body(16));
    });
    feed("publish, 16 B, persistent, own message-id", 10_000, &stream, false);
    many(&mut stream, 10_000, &|s, i| publish(s, &format!("key-{i}"), PROPS_EMPTY, &body(16)));
    feed("publish, 16 B, own routing key", 10_000, &stream, false);
    many(&mut stream, 1_000, &|s, _| publish(s, "queue", PROPS_EMPTY, &body(1024)));
    feed("publish, 1 KiB", 1_000, &stream, false);
    many(&mut stream, 20, &|s, _| publish(s, "queue", PROPS_EMPTY, &body(500_000)));
    feed("publish, 500 kB in frames of 128 KiB", 20, &stream, false);
}

fn batch(len: usize, count: usize) -> Arc<Batch> {
    let mut builder = BatchBuilder::default();
    (0..count).for_each(|_| builder.push(PROPS_EMPTY, &vec![b'x'; len]));
    Arc::new(builder.finish())
}

fn delivering(name: &str, len: usize, count: u32, no_ack: bool, ack_every: u64) {
    let mut driver = Driver::new();
    driver.consume(no_ack);
    let (batch, route) = (batch(len, count as usize), Arc::new(Route::new("", "queue")));
    let (mut tag, mut seq) = (0u64, 0u64);
    let mut acks = Vec::new();
    let rounds = MESSAGES / count as usize;
    let started = Instant::now();
    for _ in 0..rounds {
        driver.event(Event::Deliver(Delivery {
            channel: ChannelId(1),
            consumer: ConsumerId(1),
            queue: QueueId(1),
            first: Seq(seq),
            count,
            route: Arc::clone(&route),
            body: Body::Mem { batch: Arc::clone(&batch), from: 0 },
            redelivered: false,
            delivery_count: 0,
            cost: 0,
        }));
        driver.session.flush(&mut driver.out);
        black_box(driver.write());
        seq += u64::from(count);
        if !no_ack {
            acks.clear();
            for _ in 0..u64::from(count) / ack_every {
                tag += ack_every;
                let ack = basic::Ack { delivery_tag: tag, multiple: ack_every > 1 };
                encode_method(&mut acks, 1, &ack);
            }
            driver.receive(&acks);
            driver.turn.commands.clear();
        }
    }
    report(name, rounds * count as usize, started);
}

fn main() {
    publishing();
    delivering("deliver, 16 B, no ack", 16, 800, true, 1);
    delivering("deliver, 16 B, ack every 100", 16, 800, false, 100);
    delivering("deliver, 16 B, ack each (acks encoded too)", 16, 800, false, 1);
    delivering("deliver, 16 B, one per event", 16, 1, true, 1);
    delivering("deliver, 1 KiB, no ack", 1024, 64, true, 1);
    delivering("deliver, 16 KiB, no ack", 16 * 1024, 8, true, 1);
}

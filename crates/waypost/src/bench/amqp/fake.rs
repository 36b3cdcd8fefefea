//! A broker just large enough to test the generator against, with faults on demand.

use super::wire::{self, Args, MethodId, put_frame, put_method, put_short, put_table};
use std::collections::{HashMap, VecDeque};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// What the fake does wrong.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// Forgets every n-th message.
    pub lose: Option<u64>,
    /// Stores every n-th message twice.
    pub duplicate: Option<u64>,
    /// Holds every n-th message back until another has passed it.
    pub overtake: Option<u64>,
    /// Refuses every n-th message in confirm mode.
    pub refuse: Option<u64>,
    /// Closes the channel at the n-th message.
    pub close: Option<u64>,
    /// Drops the connection at the n-th message.
    pub hang_up: Option<u64>,
}

/// A running fake.
#[derive(Debug)]
pub struct Fake {
    address: String,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    faults: Faults,
    queues: HashMap<String, Queue>,
    /// Exchange, binding key, queue.
    bindings: Vec<(String, String, String)>,
    writers: HashMap<usize, TcpStream>,
    outs: HashMap<usize, Vec<u8>>,
    delivery_tags: HashMap<usize, u64>,
    published: u64,
    acked: u64,
    closes_answered: u64,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Arc<Message>>,
    held: Option<Arc<Message>>,
    /// Connection and consumer tag.
    consumers: Vec<(usize, String)>,
    next: usize,
}

#[derive(Debug, Default)]
struct Message {
    exchange: String,
    key: String,
    mandatory: bool,
    size: u64,
    header: Vec<u8>,
    bodies: Vec<Vec<u8>>,
    got: u64,
}

#[derive(Debug, Default)]
struct Session {
    id: usize,
    confirm: bool,
    tags: u64,
    message: Message,
    over: bool,
}

impl Fake {
    /// Starts one on a free port.
    pub fn start(faults: Faults) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let state = Arc::new(Mutex::new(State { faults, ..State::default() }));
        let shared = state.clone();
        std::thread::spawn(move || {
            for (id, stream) in listener.incoming().enumerate() {
                let (state, stream) = (shared.clone(), stream.unwrap());
                std::thread::spawn(move || {
                    // A peer that goes away in the middle is no failure of the fake.
                    let _ = serve(id, &stream, &state);
                    let mut state = state.lock().unwrap();
                    state.writers.remove(&id);
                    for queue in state.queues.values_mut() {
                        queue.consumers.retain(|(owner, _)| *owner != id);
                    }
                    let _ = stream.shutdown(Shutdown::Both);
                });
            }
        });
        Self { address, state }
    }

    /// Where it listens.
    pub fn uri(&self) -> String {
        format!("amqp://guest:guest@{}", self.address)
    }

    /// Names of the queues that exist.
    pub fn queues(&self) -> Vec<String> {
        self.state.lock().unwrap().queues.keys().cloned().collect()
    }

    /// How many closes of a channel were answered.
    pub fn closes_answered(&self) -> u64 {
        self.state.lock().unwrap().closes_answered
    }

    /// How many acknowledgements came.
    pub fn acked(&self) -> u64 {
        self.state.lock().unwrap().acked
    }
}

fn serve(id: usize, stream: &TcpStream, state: &Mutex<State>) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut input = BufReader::with_capacity(1 << 18, stream);
    let mut greeting = [0; 8];
    input.read_exact(&mut greeting)?;
    assert_eq!(greeting, *b"AMQP\x00\x00\x09\x01");
    state.lock().unwrap().writers.insert(id, stream.try_clone()?);
    let mut session = Session { id, ..Session::default() };
    state.lock().unwrap().send(id, 0, wire::CONNECTION_START, |out| {
        out.extend_from_slice(&[0, 9]);
        let properties = serde_json::json!({"product": "Fake", "version": "1"});
        put_table(out, properties.as_object().unwrap())?;
        wire::put_long(out, b"PLAIN")?;
        wire::put_long(out, b"en_US")
    });
    while !session.over {
        if input.buffer().is_empty() {
            state.lock().unwrap().flush();
            input.fill_buf()?;
        }
        let mut head = [0; 7];
        input.read_exact(&mut head)?;
        let channel = u16::from_be_bytes([head[1], head[2]]);
        let size = u32::from_be_bytes([head[3], head[4], head[5], head[6]]) as usize;
        let mut payload = vec![0; size + 1];
        input.read_exact(&mut payload)?;
        assert_eq!(payload.pop(), Some(wire::FRAME_END));
        session.frame(head[0], channel, &payload, &mut state.lock().unwrap());
    }
    state.lock().unwrap().flush();
    Ok(())
}

impl State {
    fn send(
        &mut self,
        id: usize,
        channel: u16,
        method: MethodId,
        fill: impl FnOnce(&mut Vec<u8>) -> Result<(), super::fault::Fault>,
    ) {
        put_method(self.outs.entry(id).or_default(), channel, method, fill).unwrap();
    }

    fn flush(&mut self) {
        for (id, out) in &mut self.outs {
            if let (false, Some(writer)) = (out.is_empty(), self.writers.get_mut(id)) {
                let _ = writer.write_all(out);
            }
            out.clear();
        }
    }

    fn targets(&self, message: &Message) -> Vec<String> {
        if message.exchange.is_empty() {
            return self.queues.contains_key(&message.key).then(|| message.key.clone()).into_iter().collect();
        }
        if message.exchange == "amq.services" {
            // Any consumer of a mailbox stands for an instance that matches.
            let service = message.key.split('?').next().unwrap_or_default();
            let mailbox = format!("{service}-queue");
            return self.queues.contains_key(&mailbox).then_some(mailbox).into_iter().collect();
        }
        let of_exchange = self.bindings.iter().filter(|(name, ..)| *name == message.exchange);
        of_exchange
            .filter(|(_, pattern, _)| match pattern.strip_suffix(['*', '#']) {
                Some(start) => message.key.starts_with(start),
                None => *pattern == message.key,
            })
            .map(|(.., queue)| queue.clone())
            .collect()
    }
}

impl Session {
    fn frame(&mut self, kind: u8, channel: u16, payload: &[u8], state: &mut State) {
        match kind {
            wire::FRAME_METHOD => {
                let mut args = Args(payload);
                let id = (args.short().unwrap(), args.short().unwrap());
                self.method(channel, id, args, state);
            }
            wire::FRAME_HEADER => {
                self.message.size = u64::from_be_bytes(payload[4..12].try_into().unwrap());
                self.message.header = payload.to_vec();
            }
            _ => {
                self.message.got += payload.len() as u64;
                self.message.bodies.push(payload.to_vec());
            }
        }
        let whole = !self.message.header.is_empty() && self.message.got == self.message.size;
        if whole {
            let message = std::mem::take(&mut self.message);
            self.publish(message, state);
        }
    }

    fn method(&mut self, channel: u16, id: MethodId, mut args: Args<'_>, state: &mut State) {
        let nothing = |_: &mut Vec<u8>| Ok(());
        match id {
            wire::CONNECTION_START_OK => {
                state.send(self.id, 0, wire::CONNECTION_TUNE, |out| {
                    out.extend_from_slice(&2047_u16.to_be_bytes());
                    out.extend_from_slice(&8192_u32.to_be_bytes());
                    out.extend_from_slice(&60_u16.to_be_bytes());
                    Ok(())
                });
            }
            wire::CONNECTION_OPEN => state.send(self.id, 0, wire::CONNECTION_OPEN_OK, |out| put_short(out, "")),
            wire::CONNECTION_CLOSE => {
                state.send(self.id, 0, wire::CONNECTION_CLOSE_OK, nothing);
                self.over = true;
            }
            wire::CHANNEL_OPEN => {
                state.send(self.id, channel, wire::CHANNEL_OPEN_OK, |out| wire::put_long(out, b""));
            }
            wire::CONFIRM_SELECT => {
                self.confirm = true;
                state.send(self.id, channel, wire::CONFIRM_SELECT_OK, nothing);
            }
            wire::BASIC_QOS => state.send(self.id, channel, wire::BASIC_QOS_OK, nothing),
            wire::CONNECTION_TUNE_OK => {}
            wire::CHANNEL_CLOSE_OK => state.closes_answered += 1,
            wire::BASIC_ACK => state.acked += 1,
            wire::BASIC_PUBLISH => {
                args.short().unwrap();
                let (exchange, key) = (args.shortstr().unwrap(), args.shortstr().unwrap());
                let mandatory = args.octet().unwrap() & 1 == 1;
                self.message = Message { exchange, key, mandatory, ..Message::default() };
            }
            wire::BASIC_CONSUME => {
                args.short().unwrap();
                let (queue, tag) = (args.shortstr().unwrap(), args.shortstr().unwrap());
                state.queues.get_mut(&queue).unwrap().consumers.push((self.id, tag));
                deliver(&queue, state);
            }
            _ => self.define(channel, id, args, state),
        }
    }

    fn define(&mut self, channel: u16, id: MethodId, mut args: Args<'_>, state: &mut State) {
        args.short().unwrap();
        let name = args.shortstr().unwrap();
        let mut count = 0_u32;
        let answer = match id {
            wire::QUEUE_DECLARE => {
                let queue = state.queues.entry(name.clone()).or_default();
                count = queue.waiting.len() as u32;
                wire::QUEUE_DECLARE_OK
            }
            wire::QUEUE_DELETE => {
                state.queues.remove(&name);
                wire::QUEUE_DELETE_OK
            }
            wire::QUEUE_BIND => {
                let (exchange, key) = (args.shortstr().unwrap(), args.shortstr().unwrap());
                state.bindings.push((exchange, key, name.clone()));
                wire::QUEUE_BIND_OK
            }
            wire::EXCHANGE_DECLARE => wire::EXCHANGE_DECLARE_OK,
            wire::EXCHANGE_DELETE => wire::EXCHANGE_DELETE_OK,
            other => panic!("the fake does not know {other:?}"),
        };
        state.send(self.id, channel, answer, |out| {
            if answer == wire::QUEUE_DECLARE_OK {
                put_short(out, &name)?;
                out.extend_from_slice(&count.to_be_bytes());
            }
            out.extend_from_slice(&0_u32.to_be_bytes());
            Ok(())
        });
    }

    fn publish(&mut self, message: Message, state: &mut State) {
        state.published += 1;
        self.tags += 1;
        let now = |every: Option<u64>, at: u64| every.is_some_and(|every| at.is_multiple_of(every));
        let (faults, at) = (state.faults, state.published);
        self.over |= now(faults.hang_up, at);
        if now(faults.close, at) {
            state.send(self.id, 1, wire::CHANNEL_CLOSE, |out| {
                out.extend_from_slice(&406_u16.to_be_bytes());
                put_short(out, "PRECONDITION_FAILED - as asked")?;
                out.extend_from_slice(&[0, 60, 0, 40]);
                Ok(())
            });
        }
        let refused = self.confirm && now(faults.refuse, at);
        let targets = state.targets(&message);
        let message = Arc::new(message);
        if targets.is_empty() && message.mandatory {
            self.send_back(&message, state);
        }
        for name in targets {
            if refused || now(faults.lose, at) {
                continue;
            }
            let queue = state.queues.get_mut(&name).unwrap();
            if now(faults.overtake, at) {
                queue.held = Some(message.clone());
                continue;
            }
            queue.waiting.push_back(message.clone());
            queue.waiting.extend(queue.held.take());
            if now(faults.duplicate, at) {
                queue.waiting.push_back(message.clone());
            }
            deliver(&name, state);
        }
        if self.confirm {
            let (tag, verdict) = (self.tags, if refused { wire::BASIC_NACK } else { wire::BASIC_ACK });
            state.send(self.id, 1, verdict, |out| {
                out.extend_from_slice(&tag.to_be_bytes());
                out.push(0);
                Ok(())
            });
        }
    }

    fn send_back(&self, message: &Message, state: &mut State) {
        state.send(self.id, 1, wire::BASIC_RETURN, |out| {
            out.extend_from_slice(&312_u16.to_be_bytes());
            put_short(out, "NO_ROUTE")?;
            put_short(out, &message.exchange)?;
            put_short(out, &message.key)
        });
        put_content(state.outs.entry(self.id).or_default(), message);
    }
}

/// Delivers what waits, to the consumers in turn.
fn deliver(name: &str, state: &mut State) {
    let Some(queue) = state.queues.get_mut(name) else {
        return;
    };
    while !queue.waiting.is_empty() && !queue.consumers.is_empty() {
        let Some(message) = queue.waiting.pop_front() else {
            return;
        };
        let (owner, tag) = queue.consumers[queue.next % queue.consumers.len()].clone();
        queue.next += 1;
        let number = state.delivery_tags.entry(owner).or_default();
        *number += 1;
        let out = state.outs.entry(owner).or_default();
        put_method(out, 1, wire::BASIC_DELIVER, |out| {
            put_short(out, &tag)?;
            out.extend_from_slice(&number.to_be_bytes());
            out.push(0);
            put_short(out, &message.exchange)?;
            put_short(out, &message.key)
        })
        .unwrap();
        put_content(out, &message);
    }
}

fn put_content(out: &mut Vec<u8>, message: &Message) {
    let raw = |bytes: &[u8], out: &mut Vec<u8>| {
        out.extend_from_slice(bytes);
        Ok(())
    };
    put_frame(out, wire::FRAME_HEADER, 1, |out| raw(&message.header, out)).unwrap();
    for body in &message.bodies {
        put_frame(out, wire::FRAME_BODY, 1, |out| raw(body, out)).unwrap();
    }
}

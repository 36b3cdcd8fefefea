//! The connection.

use std::io::{self, Read as _, Write as _};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use waypost_amqp::codec::field::{Long, Short};
use waypost_amqp::codec::frame::{self, Frame, FrameKind};
use waypost_amqp::codec::method::{MethodArgs, basic, channel, confirm, connection};
use waypost_amqp::codec::{ContentHeader, Method, PROTOCOL_HEADER};
use waypost_model::table::Table;

use super::content::{Assembly, Content, Envelope, Message};
use super::uri::AmqpUri;
use crate::cli::net::{Security, Stream};
use crate::exit::Failure;

/// The channel that is used for everything.
const CHANNEL: u16 = 1;

/// Largest frame that we want; the server may want smaller ones.
const FRAME_BYTES_MAX: u32 = 128 * 1024;

/// Heartbeat that we want, seconds.
const HEARTBEAT_S: u16 = 30;

/// How long the server may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Written at the latest when that much has gathered.
const WRITE_BYTES: usize = 64 * 1024;

/// What the broker sends on its own.
#[derive(Debug)]
pub enum Incoming {
    /// A message for the consumer.
    Deliver(Message),
    /// A mandatory message that no queue took; why.
    Return(Message, String),
    /// Confirms.
    Ack { delivery_tag: u64, multiple: bool },
    /// Negative confirms.
    Nack { delivery_tag: u64, multiple: bool },
    /// The consumer was ended by the broker.
    Cancelled,
    /// The broker holds publishers back; why.
    Blocked(String),
    /// It does so no more.
    Unblocked,
}

/// What waiting came to.
#[derive(Debug)]
pub enum Step {
    /// Something came.
    Got(Incoming),
    /// Time is up.
    Late,
}

/// A connection with one open channel.
pub struct Client {
    stream: Stream,
    input: Vec<u8>,
    /// How much of the input is used up.
    used: usize,
    output: Vec<u8>,
    frame_bytes_max: u32,
    heartbeat: Option<Duration>,
    last_read: Instant,
    last_write: Instant,
    assembly: Option<Assembly>,
    /// Came while an answer was waited for.
    early: std::collections::VecDeque<Incoming>,
}

/// A frame of ours to deal with.
enum Arrived {
    Event(Incoming),
    /// A method's payload that is no event: the answer to something.
    Answer(Vec<u8>),
    Nothing,
}

impl Client {
    /// Connects, logs in, enters the vhost and opens a channel.
    ///
    /// # Errors
    /// By what went wrong, see [`Failure`].
    pub fn connect(uri: &AmqpUri, ca: Option<PathBuf>) -> Result<Self, Failure> {
        let security = if uri.tls { Security::Tls(ca) } else { Security::Plain };
        let now = Instant::now();
        let mut client = Self {
            stream: Stream::connect(&uri.host, uri.port, &security)?,
            input: Vec::new(),
            used: 0,
            output: PROTOCOL_HEADER.to_vec(),
            frame_bytes_max: FRAME_BYTES_MAX,
            heartbeat: None,
            last_read: now,
            last_write: now,
            assembly: None,
            early: std::collections::VecDeque::new(),
        };
        client.flush()?;
        client.handshake(uri)?;
        client.call(&channel::Open::default(), |m| matches!(m, Method::ChannelOpenOk(_)).then_some(()))?;
        Ok(client)
    }

    fn handshake(&mut self, uri: &AmqpUri) -> Result<(), Failure> {
        self.answer(|m| matches!(m, Method::ConnectionStart(_)).then_some(()))?;
        let response = format!("\0{}\0{}", uri.user, uri.password);
        let capabilities = Table::new()
            .with("basic.nack", true)
            .with("connection.blocked", true)
            .with("consumer_cancel_notify", true)
            .with("authentication_failure_close", true);
        let start = connection::StartOk {
            client_properties: Table::new()
                .with("product", "waypost")
                .with("version", env!("CARGO_PKG_VERSION"))
                .with("capabilities", capabilities),
            mechanism: "PLAIN",
            response: Long(response.as_bytes()),
            locale: Short(b"en_US"),
        };
        self.send_on(0, &start)?;
        let tune = self.answer(|m| match m {
            Method::ConnectionTune(tune) => Some(tune.clone()),
            _ => None,
        })?;
        let least = |ours: u32, theirs: u32| if theirs == 0 { ours } else { ours.min(theirs) };
        self.frame_bytes_max = least(FRAME_BYTES_MAX, tune.frame_max).max(frame::FRAME_MIN_SIZE);
        // Zero from the server means that it wants none.
        let heartbeat = if tune.heartbeat == 0 { 0 } else { tune.heartbeat.min(HEARTBEAT_S) };
        self.heartbeat = (heartbeat > 0).then(|| Duration::from_secs(heartbeat.into()));
        let frame_max = self.frame_bytes_max;
        let channel_max = if tune.channel_max == 0 { 1 } else { tune.channel_max.min(1) };
        self.send_on(0, &connection::TuneOk { channel_max, frame_max, heartbeat })?;
        self.send_on(0, &connection::Open { virtual_host: &uri.vhost, ..Default::default() })?;
        self.answer(|m| matches!(m, Method::ConnectionOpenOk(_)).then_some(()))
    }

    /// Sends a method on the channel and waits for what `pick` recognizes as its answer.
    ///
    /// # Errors
    /// The broker's refusal, or a broken connection.
    pub fn call<'a, R>(
        &mut self,
        args: &impl MethodArgs<'a>,
        pick: impl Fn(&Method<'_>) -> Option<R>,
    ) -> Result<R, Failure> {
        self.send(args)?;
        self.answer(pick)
    }

    /// Puts the channel into confirm mode.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub fn confirm(&mut self) -> Result<(), Failure> {
        self.call(&confirm::Select::default(), |m| matches!(m, Method::ConfirmSelectOk(_)).then_some(()))
    }

    /// Sends a method without waiting; it leaves with the next [`Client::flush`] or wait.
    ///
    /// # Errors
    /// A broken connection.
    pub fn send<'a>(&mut self, args: &impl MethodArgs<'a>) -> Result<(), Failure> {
        self.send_on(CHANNEL, args)
    }

    fn send_on<'a>(&mut self, channel: u16, args: &impl MethodArgs<'a>) -> Result<(), Failure> {
        frame::encode_method(&mut self.output, channel, args);
        if self.output.len() >= WRITE_BYTES { self.flush() } else { Ok(()) }
    }

    /// Publishes a message; it leaves with the next [`Client::flush`] or wait.
    ///
    /// # Errors
    /// A broken connection.
    pub fn publish(&mut self, to: &basic::Publish<'_>, content: &Content) -> Result<(), Failure> {
        frame::encode_method(&mut self.output, CHANNEL, to);
        let header = ContentHeader { class_id: 60, body_size: content.body.len() as u64, props: &content.props };
        frame::encode(&mut self.output, FrameKind::Header, CHANNEL, |out| header.encode(out));
        frame::encode_body(&mut self.output, CHANNEL, &content.body, self.frame_bytes_max);
        if self.output.len() >= WRITE_BYTES { self.flush() } else { Ok(()) }
    }

    /// Writes what has gathered.
    ///
    /// # Errors
    /// A broken connection; if the broker said why it closed, that.
    pub fn flush(&mut self) -> Result<(), Failure> {
        if self.output.is_empty() {
            return Ok(());
        }
        let written = self.stream.write_all(&self.output).and_then(|()| self.stream.flush());
        self.output.clear();
        self.last_write = Instant::now();
        match written {
            Ok(()) => Ok(()),
            // The broker may have said why before it closed.
            Err(error) => Err(self.last_words().unwrap_or_else(|| broken(error))),
        }
    }

    fn last_words(&mut self) -> Option<Failure> {
        let until = Instant::now() + Duration::from_secs(1);
        loop {
            match self.arrive(until) {
                Ok(Some(_)) => {}
                Ok(None) => return None,
                Err(Failure::Unavailable(_)) => return None,
                Err(said) => return Some(said),
            }
        }
    }

    /// The next thing that the broker sends on its own; writes first. `None` waits for ever.
    ///
    /// # Errors
    /// The broker closed the channel or the connection, or the connection broke.
    pub fn wait(&mut self, until: Option<Instant>) -> Result<Step, Failure> {
        if let Some(early) = self.early.pop_front() {
            return Ok(Step::Got(early));
        }
        self.flush()?;
        loop {
            let end = until.unwrap_or_else(|| Instant::now() + Duration::from_secs(3600));
            match self.arrive(end)? {
                Some(Arrived::Event(event)) => return Ok(Step::Got(event)),
                Some(Arrived::Answer(_) | Arrived::Nothing) => {}
                None if until.is_some() => return Ok(Step::Late),
                None => {}
            }
        }
    }

    /// What has come already, without waiting and without writing.
    ///
    /// # Errors
    /// As [`Client::wait`].
    pub fn poll(&mut self) -> Result<Option<Incoming>, Failure> {
        if let Some(early) = self.early.pop_front() {
            return Ok(Some(early));
        }
        loop {
            match self.next_frame()? {
                Some(Arrived::Event(event)) => return Ok(Some(event)),
                Some(_) => {}
                None => return Ok(None),
            }
        }
    }

    fn answer<R>(&mut self, pick: impl Fn(&Method<'_>) -> Option<R>) -> Result<R, Failure> {
        self.flush()?;
        let until = Instant::now() + ANSWER_TIMEOUT;
        loop {
            match self.arrive(until)? {
                Some(Arrived::Event(event)) => self.early.push_back(event),
                Some(Arrived::Answer(payload)) => {
                    let method = Method::decode(&payload).context("cannot read the broker's answer")?;
                    if let Some(found) = pick(&method) {
                        return Ok(found);
                    }
                }
                Some(Arrived::Nothing) => {}
                None => {
                    return Err(Failure::TimedOut(format!(
                        "the broker has not answered within {}s",
                        ANSWER_TIMEOUT.as_secs()
                    )));
                }
            }
        }
    }

    /// The next frame, waited for until `until`.
    fn arrive(&mut self, until: Instant) -> Result<Option<Arrived>, Failure> {
        loop {
            if let Some(arrived) = self.next_frame()? {
                return Ok(Some(arrived));
            }
            let now = Instant::now();
            if now >= until {
                return Ok(None);
            }
            let mut wait = until - now;
            if let Some(interval) = self.heartbeat {
                if self.last_read.elapsed() > 2 * interval {
                    return Err(Failure::Unavailable(anyhow!("the broker is silent")));
                }
                if self.last_write.elapsed() >= interval / 2 {
                    self.output.extend_from_slice(&frame::HEARTBEAT_FRAME);
                    self.stream.write_all(&self.output).map_err(broken)?;
                    self.output.clear();
                    self.last_write = Instant::now();
                }
                wait = wait.min(interval / 2);
            }
            self.read(wait)?;
        }
    }

    /// Reads once, or not at all if nothing comes in time.
    fn read(&mut self, wait: Duration) -> Result<(), Failure> {
        self.input.drain(..self.used);
        self.used = 0;
        self.stream.set_read_timeout(Some(wait)).map_err(broken)?;
        let at = self.input.len();
        self.input.resize(at + WRITE_BYTES, 0);
        let read = self.stream.read(&mut self.input[at..]);
        self.input.truncate(at + read.as_ref().copied().unwrap_or(0));
        match read {
            Ok(0) => Err(Failure::Unavailable(anyhow!("the broker closed the connection"))),
            Ok(_) => {
                self.last_read = Instant::now();
                Ok(())
            }
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted => Ok(()),
                _ => Err(broken(error)),
            },
        }
    }

    fn next_frame(&mut self) -> Result<Option<Arrived>, Failure> {
        let input = &self.input[self.used..];
        if input.starts_with(b"AMQP") && input.len() >= PROTOCOL_HEADER.len() {
            return Err(anyhow!("the server speaks another version of AMQP").into());
        }
        let max = self.frame_bytes_max.max(FRAME_BYTES_MAX);
        let Some(frame) = Frame::parse(input, max).context("the server does not speak AMQP 0-9-1")? else {
            return Ok(None);
        };
        self.used += frame.wire_len();
        match frame.kind {
            FrameKind::Heartbeat => Ok(Some(Arrived::Nothing)),
            FrameKind::Header | FrameKind::Body => {
                let assembly = self.assembly.as_mut().ok_or_else(|| anyhow!("content that nothing announced"))?;
                if frame.kind == FrameKind::Header {
                    assembly.header(frame.payload)
                } else {
                    assembly.body(frame.payload)
                }?;
                Ok(Some(whole(&mut self.assembly)))
            }
            FrameKind::Method => {
                let payload = frame.payload.to_vec();
                self.method(&payload).map(Some)
            }
        }
    }

    fn method(&mut self, payload: &[u8]) -> Result<Arrived, Failure> {
        Ok(match Method::decode(payload).context("cannot read what the broker sent")? {
            Method::BasicDeliver(d) => self.expect(Envelope::deliver(&d)),
            Method::BasicReturn(r) => self.expect(Envelope::returned(&r)),
            Method::BasicAck(basic::Ack { delivery_tag, multiple }) => {
                Arrived::Event(Incoming::Ack { delivery_tag, multiple })
            }
            Method::BasicNack(basic::Nack { delivery_tag, multiple, .. }) => {
                Arrived::Event(Incoming::Nack { delivery_tag, multiple })
            }
            Method::BasicCancel(_) => Arrived::Event(Incoming::Cancelled),
            Method::ConnectionBlocked(b) => Arrived::Event(Incoming::Blocked(b.reason.to_owned())),
            Method::ConnectionUnblocked(_) => Arrived::Event(Incoming::Unblocked),
            Method::ChannelClose(c) => return Err(closed(c.reply_code, c.reply_text.0)),
            Method::ConnectionClose(c) => {
                let why = closed(c.reply_code, c.reply_text.0);
                frame::encode_method(&mut self.output, 0, &connection::CloseOk::default());
                let _ = self.stream.write_all(&self.output);
                return Err(why);
            }
            _ => Arrived::Answer(payload.to_vec()),
        })
    }

    fn expect(&mut self, envelope: Envelope) -> Arrived {
        self.assembly = Some(Assembly::new(envelope));
        Arrived::Nothing
    }

    /// Waits until the broker has dealt with everything sent before; a publish has no answer of its own, only a refusal.
    ///
    /// # Errors
    /// The broker's refusal of something sent before, or a broken connection.
    pub fn settle(&mut self) -> Result<(), Failure> {
        self.call(&basic::Qos::default(), |m| matches!(m, Method::BasicQosOk(_)).then_some(()))
    }

    /// Ends the connection in good order: everything sent before was handled when this returns.
    ///
    /// # Errors
    /// The broker's refusal of something sent before, or a broken connection.
    pub fn close(&mut self) -> Result<(), Failure> {
        // The channel first: its answer comes behind every error that a publish could still cause on it.
        let close = channel::Close { reply_code: 200, ..Default::default() };
        self.call(&close, |m| matches!(m, Method::ChannelCloseOk(_)).then_some(()))?;
        self.send_on(0, &connection::Close { reply_code: 200, ..Default::default() })?;
        self.answer(|m| matches!(m, Method::ConnectionCloseOk(_)).then_some(()))
    }

    /// What came on its own while [`Client::close`] waited.
    pub fn leftovers(&mut self) -> impl Iterator<Item = Incoming> + '_ {
        self.early.drain(..)
    }
}

fn whole(assembly: &mut Option<Assembly>) -> Arrived {
    match assembly.take_if(|a| a.is_whole()).map(Assembly::finish) {
        Some(Envelope::Deliver(message)) => Arrived::Event(Incoming::Deliver(message)),
        Some(Envelope::Return(message, why)) => Arrived::Event(Incoming::Return(message, why)),
        None => Arrived::Nothing,
    }
}

fn broken(error: io::Error) -> Failure {
    Failure::Unavailable(anyhow::Error::new(error).context("the connection to the broker broke"))
}

/// What a reply code means to a script.
fn closed(code: u16, text: &[u8]) -> Failure {
    let text = format!("the broker says {code} {}", String::from_utf8_lossy(text));
    match code {
        403 | 530 => Failure::Denied(text),
        404 => Failure::NotFound(text),
        405 | 406 => Failure::Conflict(text),
        320 => Failure::Unavailable(anyhow!(text)),
        _ => Failure::Failed(anyhow!(text)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reply_codes_become_exit_codes() {
        assert_eq!([311, 320, 403, 404, 405, 406, 530, 541].map(|c| closed(c, b"").code()), [1, 7, 5, 4, 6, 6, 5, 1]);
    }
}

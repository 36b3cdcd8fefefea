//! One connection: the handshake and the synchronous methods, on a blocking socket.

use super::fault::Fault;
use super::inbound::{Confirm, Delivery, FRAME_BYTES_MAX, Inbound, Sink};
use super::run::Table;
use super::uri::Uri;
use super::wire::{self, Args, MethodId, put_long, put_method, put_short, put_table};
use std::io::{ErrorKind, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

/// How long the broker may take over one synchronous method.
const ANSWER_TIME: Duration = Duration::from_secs(60);
/// How long it may take over our farewell.
const FAREWELL_TIME: Duration = Duration::from_secs(2);
/// The smallest frame_max that the specification allows, AMQP 0-9-1 §4.2.3.
const FRAME_BYTES_MIN: usize = 4096;
/// The channel that everything happens on.
const CHANNEL: u16 = 1;

/// What the broker says it is.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Product {
    /// Its name, such as `RabbitMQ`.
    pub product: String,
    /// Its version.
    pub version: String,
}

/// An open connection.
#[derive(Debug)]
pub struct Conn {
    /// The socket, blocking until somebody changes that.
    pub stream: TcpStream,
    /// What was read and not yet parsed.
    pub inbound: Inbound,
    /// Negotiated frame size, overhead included.
    pub frame_bytes_max: usize,
    /// Who answers.
    pub product: Product,
}

/// Names and flags of a queue to declare.
#[derive(Clone, Debug)]
pub struct QueueSpec {
    /// Survives a restart of the broker.
    pub durable: bool,
    /// Optional arguments, a JSON object.
    pub arguments: serde_json::Map<String, serde_json::Value>,
}

impl Conn {
    /// Connects, logs in and opens the virtual host.
    ///
    /// # Errors
    /// [`Fault::Unavailable`] if no TCP connection can be made; a refusal of the broker.
    pub fn open(uri: &Uri) -> Result<Self, Fault> {
        let mut conn = Self {
            stream: connect(uri)?,
            inbound: Inbound::default(),
            frame_bytes_max: FRAME_BYTES_MAX,
            product: Product::default(),
        };
        conn.send(b"AMQP\x00\x00\x09\x01")?;
        conn.login(uri)?;
        conn.tune()?;
        conn.call(0, wire::CONNECTION_OPEN, wire::CONNECTION_OPEN_OK, |out| {
            put_short(out, &uri.vhost)?;
            out.extend_from_slice(&[0, 0]);
            Ok(())
        })?;
        Ok(conn)
    }

    /// [`open`](Self::open), and channel 1 on it.
    ///
    /// # Errors
    /// As `open`.
    pub fn open_channel(uri: &Uri) -> Result<Self, Fault> {
        let mut conn = Self::open(uri)?;
        conn.channel(CHANNEL)?;
        Ok(conn)
    }

    /// Opens a channel.
    ///
    /// # Errors
    /// The broker's refusal.
    pub fn channel(&mut self, number: u16) -> Result<(), Fault> {
        self.call(number, wire::CHANNEL_OPEN, wire::CHANNEL_OPEN_OK, |out| {
            out.push(0);
            Ok(())
        })
        .map(|_| ())
    }

    fn login(&mut self, uri: &Uri) -> Result<(), Fault> {
        let start = self.await_method(wire::CONNECTION_START)?;
        let mut args = Args(&start);
        args.take(2)?;
        let properties = args.longstr()?;
        let text = |key| Ok::<_, Fault>(Args::table_text(properties, key)?.unwrap_or_default());
        self.product = Product { product: text("product")?, version: text("version")? };
        let mut out = Vec::new();
        put_method(&mut out, 0, wire::CONNECTION_START_OK, |out| {
            let properties = serde_json::json!({
                "product": "waypost-bench",
                "version": env!("CARGO_PKG_VERSION"),
                "capabilities": {
                    "authentication_failure_close": true,
                    "basic.nack": true,
                    "connection.blocked": true,
                    "consumer_cancel_notify": true,
                    "publisher_confirms": true
                }
            });
            put_table(out, properties.as_object().unwrap_or(&serde_json::Map::new()))?;
            put_short(out, "PLAIN")?;
            put_long(out, format!("\0{}\0{}", uri.user, uri.password).as_bytes())?;
            put_short(out, "en_US")
        })?;
        self.send(&out)
    }

    fn tune(&mut self) -> Result<(), Fault> {
        let tune = self.await_method(wire::CONNECTION_TUNE)?;
        let mut args = Args(&tune);
        let channels = args.short()?;
        let offered = usize::try_from(args.long()?).unwrap_or(usize::MAX);
        if offered != 0 && offered < FRAME_BYTES_MIN {
            return Err(Fault::protocol(format!("frame_max {offered} is below {FRAME_BYTES_MIN}")));
        }
        let frame = if offered == 0 { FRAME_BYTES_MAX } else { offered.min(FRAME_BYTES_MAX) };
        self.frame_bytes_max = frame;
        let mut out = Vec::new();
        put_method(&mut out, 0, wire::CONNECTION_TUNE_OK, |out| {
            out.extend_from_slice(&channels.to_be_bytes());
            out.extend_from_slice(&u32::try_from(frame).unwrap_or(0).to_be_bytes());
            // No heartbeats: a paused measurement is not a dead client.
            out.extend_from_slice(&[0, 0]);
            Ok(())
        })?;
        self.send(&out)
    }

    /// Writes all of `bytes`.
    ///
    /// # Errors
    /// The broker is gone.
    pub fn send(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        self.stream.write_all(bytes).map_err(|error| broken(error, "writing"))
    }

    /// Sends a method and waits for its answer, whose arguments it returns.
    ///
    /// # Errors
    /// A close by the broker, its silence.
    pub fn call(
        &mut self,
        channel: u16,
        method: MethodId,
        answer: MethodId,
        fill: impl FnOnce(&mut Vec<u8>) -> Result<(), Fault>,
    ) -> Result<Vec<u8>, Fault> {
        let mut out = Vec::new();
        put_method(&mut out, channel, method, fill)?;
        self.send(&out)?;
        self.await_method(answer)
    }

    /// Waits for the method `wanted` and returns its arguments.
    ///
    /// # Errors
    /// A close by the broker, its silence.
    pub fn await_method(&mut self, wanted: MethodId) -> Result<Vec<u8>, Fault> {
        let mut reply = Reply { wanted, found: None };
        self.wait_until(&mut reply, |reply| reply.found.is_some())?;
        Ok(reply.found.unwrap_or_default())
    }

    /// Reads until `done`, handing what comes to `sink`, and leaves the rest unread.
    ///
    /// # Errors
    /// Those of the sink, the end of the stream, silence for a minute.
    pub fn wait_until<S: Sink>(&mut self, sink: &mut S, done: impl Fn(&S) -> bool) -> Result<(), Fault> {
        loop {
            while !done(sink) {
                match self.inbound.next(sink) {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(fault) => {
                        self.answer_close(&fault);
                        return Err(fault);
                    }
                }
            }
            if done(sink) {
                return Ok(());
            }
            match self.inbound.fill(&mut self.stream) {
                Ok(0) => return Err(Fault::Dropped("an answer was awaited")),
                Ok(_) => {}
                Err(error) => return Err(broken(error, "waiting for an answer")),
            }
        }
    }

    /// Answers the close that `fault` is about, so that the broker sees a proper end. What fails here does not matter.
    pub fn answer_close(&mut self, fault: &Fault) {
        let (channel, answer) = match fault {
            Fault::Closed { scope: "connection", .. } => (0, wire::CONNECTION_CLOSE_OK),
            Fault::Closed { .. } => (CHANNEL, wire::CHANNEL_CLOSE_OK),
            _ => return,
        };
        let mut out = Vec::new();
        if put_method(&mut out, channel, answer, |_| Ok(())).is_ok() {
            let _ = self.send(&out);
        }
    }

    /// Declares a queue.
    ///
    /// # Errors
    /// The broker's refusal.
    pub fn declare_queue(&mut self, name: &str, spec: &QueueSpec) -> Result<(), Fault> {
        self.call(CHANNEL, wire::QUEUE_DECLARE, wire::QUEUE_DECLARE_OK, |out| put_declare(out, name, spec)).map(|_| ())
    }

    /// Asks for a queue's message count. The answer also proves that everything sent before on this channel was taken.
    ///
    /// # Errors
    /// The broker's refusal: no such queue.
    pub fn count(&mut self, queue: &str) -> Result<u32, Fault> {
        let ok = self.call(CHANNEL, wire::QUEUE_DECLARE, wire::QUEUE_DECLARE_OK, |out| {
            out.extend_from_slice(&[0, 0]);
            put_short(out, queue)?;
            // Passive.
            out.push(1);
            put_table(out, &serde_json::Map::new())
        })?;
        let mut args = Args(&ok);
        args.shortstr()?;
        args.long()
    }

    /// Deletes a queue and what is in it.
    ///
    /// # Errors
    /// The broker's refusal.
    pub fn delete_queue(&mut self, name: &str) -> Result<(), Fault> {
        self.call(CHANNEL, wire::QUEUE_DELETE, wire::QUEUE_DELETE_OK, |out| put_delete(out, name)).map(|_| ())
    }

    /// Declares an exchange.
    ///
    /// # Errors
    /// The broker's refusal.
    pub fn declare_exchange(&mut self, name: &str, kind: &str, durable: bool) -> Result<(), Fault> {
        self.call(CHANNEL, wire::EXCHANGE_DECLARE, wire::EXCHANGE_DECLARE_OK, |out| {
            out.extend_from_slice(&[0, 0]);
            put_short(out, name)?;
            put_short(out, kind)?;
            out.push(if durable { 2 } else { 0 });
            put_table(out, &serde_json::Map::new())
        })
        .map(|_| ())
    }

    /// Deletes an exchange.
    ///
    /// # Errors
    /// The broker's refusal.
    pub fn delete_exchange(&mut self, name: &str) -> Result<(), Fault> {
        self.call(CHANNEL, wire::EXCHANGE_DELETE, wire::EXCHANGE_DELETE_OK, |out| {
            out.extend_from_slice(&[0, 0]);
            put_short(out, name)?;
            out.push(0);
            Ok(())
        })
        .map(|_| ())
    }

    /// Binds a queue.
    ///
    /// # Errors
    /// The broker's refusal.
    pub fn bind(&mut self, queue: &str, exchange: &str, key: &str) -> Result<(), Fault> {
        self.call(CHANNEL, wire::QUEUE_BIND, wire::QUEUE_BIND_OK, |out| {
            out.extend_from_slice(&[0, 0]);
            put_short(out, queue)?;
            put_short(out, exchange)?;
            put_short(out, key)?;
            out.push(0);
            put_table(out, &serde_json::Map::new())
        })
        .map(|_| ())
    }

    /// Limits what is delivered and not acknowledged, per consumer.
    ///
    /// # Errors
    /// The broker's refusal.
    pub fn prefetch(&mut self, count: u16) -> Result<(), Fault> {
        self.call(CHANNEL, wire::BASIC_QOS, wire::BASIC_QOS_OK, |out| {
            out.extend_from_slice(&[0; 4]);
            out.extend_from_slice(&count.to_be_bytes());
            out.push(0);
            Ok(())
        })
        .map(|_| ())
    }

    /// Asks for publisher confirms.
    ///
    /// # Errors
    /// The broker's refusal.
    pub fn confirm_select(&mut self) -> Result<(), Fault> {
        self.call(CHANNEL, wire::CONFIRM_SELECT, wire::CONFIRM_SELECT_OK, |out| {
            out.push(0);
            Ok(())
        })
        .map(|_| ())
    }

    /// Says goodbye and waits a little for the answer. A broker that is already gone does not matter here.
    pub fn close(mut self) {
        let ready = self.stream.set_nonblocking(false).is_ok()
            && self.stream.set_read_timeout(Some(FAREWELL_TIME)).is_ok()
            && self.stream.set_write_timeout(Some(FAREWELL_TIME)).is_ok();
        let mut out = Vec::new();
        let encoded = put_method(&mut out, 0, wire::CONNECTION_CLOSE, |out| {
            out.extend_from_slice(&200_u16.to_be_bytes());
            put_short(out, "done")?;
            out.extend_from_slice(&[0; 4]);
            Ok(())
        });
        if ready && encoded.is_ok() && self.send(&out).is_ok() {
            let _ = self.await_method(wire::CONNECTION_CLOSE_OK);
        }
    }
}

/// The arguments of `queue.declare`.
///
/// # Errors
/// A name or an argument that does not fit.
pub fn put_declare(out: &mut Vec<u8>, name: &str, spec: &QueueSpec) -> Result<(), Fault> {
    out.extend_from_slice(&[0, 0]);
    put_short(out, name)?;
    out.push(if spec.durable { 2 } else { 0 });
    put_table(out, &spec.arguments)
}

/// The arguments of `queue.delete`.
///
/// # Errors
/// A name that does not fit.
pub fn put_delete(out: &mut Vec<u8>, name: &str) -> Result<(), Fault> {
    out.extend_from_slice(&[0, 0]);
    put_short(out, name)?;
    out.push(0);
    Ok(())
}

/// Appends a `basic.consume` that is not answered, so that no delivery can come before the answer is looked for.
///
/// # Errors
/// A name that does not fit.
pub fn put_consume(out: &mut Vec<u8>, queue: &str, tag: &str, no_ack: bool, arguments: &Table) -> Result<(), Fault> {
    put_method(out, CHANNEL, wire::BASIC_CONSUME, |out| {
        out.extend_from_slice(&[0, 0]);
        put_short(out, queue)?;
        put_short(out, tag)?;
        let no_wait = 8;
        out.push(no_wait | if no_ack { 2 } else { 0 });
        put_table(out, arguments)
    })
}

/// Turns the methods that end everything into errors. True if the method was one that only informs.
///
/// # Errors
/// [`Fault::Closed`] or [`Fault::Cancelled`].
pub fn control(id: MethodId, mut args: Args<'_>) -> Result<bool, Fault> {
    match id {
        wire::CONNECTION_CLOSE | wire::CHANNEL_CLOSE => {
            let scope = if id == wire::CONNECTION_CLOSE { "connection" } else { "channel" };
            let (code, text) = (args.short()?, args.shortstr()?);
            let (class, method) = (args.short()?, args.short()?);
            Err(Fault::Closed { scope, code, text, class, method })
        }
        wire::BASIC_CANCEL => Err(Fault::Cancelled(args.shortstr()?)),
        wire::CONNECTION_SECURE => Err(Fault::protocol("it asks for more than a password")),
        wire::CONNECTION_BLOCKED | wire::CONNECTION_UNBLOCKED => Ok(true),
        wire::CHANNEL_FLOW => Err(Fault::protocol("channel.flow is not supported")),
        _ => Ok(false),
    }
}

struct Reply {
    wanted: MethodId,
    found: Option<Vec<u8>>,
}

impl Sink for Reply {
    fn delivery(&mut self, _: &Delivery) {}
    fn confirm(&mut self, _: Confirm) {}
    fn returned(&mut self) {}

    fn method(&mut self, _: u16, id: MethodId, args: Args<'_>) -> Result<(), Fault> {
        if id == self.wanted {
            self.found = Some(args.0.to_vec());
            return Ok(());
        }
        let (class, method) = id;
        if control(id, args)? {
            return Ok(());
        }
        Err(Fault::protocol(format!("unexpected method {class}.{method}")))
    }
}

fn connect(uri: &Uri) -> Result<TcpStream, Fault> {
    let address = format!("{}:{}", uri.host, uri.port);
    let unavailable = |source| Fault::Unavailable { address: address.clone(), source };
    let mut last = std::io::Error::new(ErrorKind::NotFound, "the name has no address");
    for target in (uri.host.as_str(), uri.port).to_socket_addrs().map_err(unavailable)? {
        match TcpStream::connect_timeout(&target, Duration::from_secs(10)) {
            Ok(stream) => {
                stream.set_nodelay(true).map_err(Fault::io("set TCP_NODELAY"))?;
                stream.set_read_timeout(Some(ANSWER_TIME)).map_err(Fault::io("set a read time-out"))?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(unavailable(last))
}

/// Names what a failed read or write means.
pub fn broken(error: std::io::Error, doing: &'static str) -> Fault {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => Fault::Silent { seconds: ANSWER_TIME.as_secs(), doing },
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => Fault::Dropped(doing),
        _ => Fault::Io { doing: doing.to_owned(), source: error },
    }
}

//! `waypost consume`.

use std::io::{IsTerminal as _, Write};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, ValueEnum};
use serde_json::{Map, Value as Json};
use waypost_amqp::codec::Method;
use waypost_amqp::codec::method::basic;
use waypost_model::props::{Props, PropsOwned};
use waypost_model::table::{Table, Value};

use super::amqp::{Client, Incoming, Message, Step};
use super::present::cell;
use super::publish::BrokerArgs;
use super::time::seconds;
use crate::exit::Failure;

/// Arguments of `waypost consume`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  waypost consume orders                                   print and acknowledge until interrupted
  waypost consume orders --count 10 --timeout 5 -o ndjson
  waypost consume orders --ack requeue --timeout 1         look without taking
  waypost consume jobs -n 1 -o raw > job.json

A message is acknowledged after it was printed. With --count, exit code 3 says that fewer came within --timeout, 8 that
none did. Without --count, the end of --timeout is no failure.")]
pub struct ConsumeArgs {
    /// The queue
    queue: String,
    /// Stop after so many messages
    #[arg(short = 'n', long, value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// What becomes of a message once it was printed
    #[arg(short, long, value_enum, default_value_t)]
    ack: Ack,
    /// Unacknowledged messages at most
    #[arg(short, long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..))]
    prefetch: u16,
    /// Stop when nothing has come for so long, in seconds or with a unit: 500ms, 15s, 2m
    #[arg(short, long, value_name = "TIME", value_parser = seconds)]
    timeout: Option<f64>,
    /// What to print; by default a table on a terminal, else ndjson
    #[arg(short, long, value_enum)]
    output: Option<Form>,
    #[command(flatten)]
    broker: BrokerArgs,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Ack {
    /// Acknowledge it
    #[default]
    Each,
    /// It needs no acknowledgement: it counts as taken when it was sent
    Auto,
    /// Put it back
    Requeue,
    /// Reject it: to the dead-letter exchange, if the queue has one
    Reject,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Form {
    /// A line of text for each
    Table,
    /// One JSON array
    Json,
    /// A JSON object per line
    Ndjson,
    /// The bodies as they are, a line feed after each
    Raw,
}

/// Runs it.
///
/// # Errors
/// By the kind of what went wrong, see [`Failure`].
pub fn run(args: &ConsumeArgs) -> Result<(), Failure> {
    if args.ack == Ack::Auto && args.count.is_some() {
        let why = "--ack auto with --count would lose what the broker sends beyond the count: leave one of them out";
        return Err(Failure::Usage(why.to_owned()));
    }
    let by_default = if std::io::stdout().is_terminal() { Form::Table } else { Form::Ndjson };
    let mut printer = Printer { form: args.output.unwrap_or(by_default), printed: 0, out: std::io::stdout().lock() };
    let mut client = args.broker.connect()?;
    // More than is wanted would only be kept from others.
    let wanted = args.count.map(|n| u16::try_from(n).unwrap_or(0));
    let prefetch_count = match args.ack {
        // All that is printed stays unsettled until the end.
        Ack::Requeue => wanted.unwrap_or(0),
        _ => wanted.filter(|n| *n > 0).unwrap_or(args.prefetch).min(args.prefetch),
    };
    let qos = basic::Qos { prefetch_count, ..Default::default() };
    client.call(&qos, |m| matches!(m, Method::BasicQosOk(_)).then_some(()))?;
    let consume = basic::Consume { queue: &args.queue, no_ack: args.ack == Ack::Auto, ..Default::default() };
    client.call(&consume, |m| matches!(m, Method::BasicConsumeOk(_)).then_some(()))?;
    let outcome = take(args, &mut client, &mut printer);
    printer.end()?;
    outcome?;
    client.close()?;
    let got = printer.printed;
    match args.count {
        Some(wanted) if got == 0 => Err(Failure::TimedOut(format!("no message came, {wanted} were wanted"))),
        Some(wanted) if got < wanted => Err(Failure::Partial(format!("{got} messages came, {wanted} were wanted"))),
        _ => Ok(()),
    }
}

/// Prints messages until there are enough or time is up.
fn take(args: &ConsumeArgs, client: &mut Client, printer: &mut Printer<impl Write>) -> Result<(), Failure> {
    let patience = args.timeout.map(Duration::from_secs_f64);
    let mut unsettled = None;
    while args.count.is_none_or(|n| printer.printed < n) {
        // What has come already first: one acknowledgement then serves for all of it.
        let incoming = match client.poll()? {
            Some(incoming) => incoming,
            None => {
                settle(args.ack, client, printer, &mut unsettled)?;
                match client.wait(patience.map(|p| Instant::now() + p))? {
                    Step::Got(incoming) => incoming,
                    Step::Late => break,
                }
            }
        };
        match incoming {
            Incoming::Deliver(message) => {
                printer.print(&message)?;
                unsettled = Some(message.delivery_tag);
                if args.ack == Ack::Reject {
                    settle(args.ack, client, printer, &mut unsettled)?;
                }
            }
            Incoming::Cancelled => return Err(Failure::NotFound(format!("queue {:?} was deleted", args.queue))),
            _ => {}
        }
    }
    settle(args.ack, client, printer, &mut unsettled)?;
    client.flush()
}

/// Settles what was printed, once it has really left.
fn settle(
    ack: Ack,
    client: &mut Client,
    printer: &mut Printer<impl Write>,
    unsettled: &mut Option<u64>,
) -> Result<(), Failure> {
    printer.out.flush()?;
    let Some(delivery_tag) = unsettled.take() else { return Ok(()) };
    match ack {
        Ack::Each => client.send(&basic::Ack { delivery_tag, multiple: true }),
        Ack::Reject => client.send(&basic::Reject { delivery_tag, requeue: false }),
        // What is held unsettled goes back when the channel closes; before that it would come again at once.
        Ack::Auto | Ack::Requeue => Ok(()),
    }
}

struct Printer<W> {
    form: Form,
    printed: u64,
    out: W,
}

impl<W: Write> Printer<W> {
    fn print(&mut self, message: &Message) -> Result<(), Failure> {
        let first = self.printed == 0;
        self.printed += 1;
        match self.form {
            Form::Raw => {
                self.out.write_all(&message.content.body)?;
                self.out.write_all(b"\n")?;
            }
            Form::Table => {
                let Message { exchange, routing_key, redelivered, content, .. } = message;
                let key = String::from_utf8_lossy(routing_key);
                let mark = if *redelivered { " (redelivered)" } else { "" };
                let body = Json::from(String::from_utf8_lossy(&content.body));
                let (number, from) = (self.printed, cell(&Json::from(format!("{exchange}/{key}"))));
                writeln!(self.out, "{number}  {from}{mark}  {} B  {}", content.body.len(), cell(&body))?;
            }
            Form::Ndjson => writeln!(self.out, "{}", to_json(message))?,
            Form::Json => write!(self.out, "{}{}", if first { "[\n" } else { ",\n" }, to_json(message))?,
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), Failure> {
        if self.form == Form::Json {
            writeln!(self.out, "{}", if self.printed == 0 { "[]" } else { "\n]" })?;
        }
        self.out.flush()?;
        Ok(())
    }
}

fn to_json(message: &Message) -> Json {
    let mut all = Map::new();
    all.insert("exchange".to_owned(), message.exchange.as_str().into());
    all.insert("routing_key".to_owned(), String::from_utf8_lossy(&message.routing_key).into());
    all.insert("redelivered".to_owned(), message.redelivered.into());
    all.insert("properties".to_owned(), properties(&message.content.props));
    match std::str::from_utf8(&message.content.body) {
        Ok(text) => all.insert("body".to_owned(), text.into()),
        Err(_) => all.insert("body_base64".to_owned(), STANDARD.encode(&message.content.body).into()),
    };
    all.into()
}

/// The properties that are set.
fn properties(bytes: &[u8]) -> Json {
    let mut all = Map::new();
    if PropsOwned::decode(bytes).is_err() {
        return all.into();
    }
    let p = Props(bytes);
    let mut put = |name: &str, value: Option<Json>| {
        if let Some(value) = value {
            all.insert(name.to_owned(), value);
        }
    };
    let text = |bytes: Option<&[u8]>| bytes.map(|b| Json::from(String::from_utf8_lossy(b)));
    put("content_type", text(p.content_type()));
    put("content_encoding", text(p.content_encoding()));
    put("headers", p.headers().ok().flatten().map(|t| table(&t)));
    put("delivery_mode", p.delivery_mode().map(Json::from));
    put("priority", p.priority().map(Json::from));
    put("correlation_id", text(p.correlation_id()));
    put("reply_to", text(p.reply_to()));
    put("expiration", text(p.expiration()));
    put("message_id", text(p.message_id()));
    put("timestamp", p.timestamp().map(Json::from));
    put("type", text(p.type_()));
    put("user_id", text(p.user_id()));
    put("app_id", text(p.app_id()));
    put("cluster_id", text(p.cluster_id()));
    all.into()
}

fn table(t: &Table) -> Json {
    t.iter().map(|(key, value)| (key.to_owned(), value_json(value))).collect::<Map<_, _>>().into()
}

fn value_json(value: &Value) -> Json {
    if let Some(n) = value.as_i64() {
        return n.into();
    }
    match value {
        Value::Bool(b) => (*b).into(),
        Value::F32(f) => f64::from(*f).into(),
        Value::F64(f) => (*f).into(),
        Value::Decimal { scale, value } => (f64::from(*value) / 10f64.powi(i32::from(*scale))).into(),
        Value::LongStr(bytes) | Value::Bytes(bytes) => String::from_utf8_lossy(bytes).into(),
        Value::Timestamp(seconds) => (*seconds).into(),
        Value::Array(items) => items.iter().map(value_json).collect(),
        Value::Table(inner) => table(inner),
        _ => Json::Null,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::amqp::Content;

    fn message(body: &[u8]) -> Message {
        let props = PropsOwned {
            delivery_mode: Some(2),
            headers: Some(Table::new().with("n", 1).with("s", "x")),
            ..PropsOwned::default()
        };
        let content = Content { props: props.to_bytes(), body: body.to_vec() };
        Message { delivery_tag: 1, redelivered: true, exchange: "e".into(), routing_key: b"k".to_vec(), content }
    }

    fn printed(form: Form, bodies: &[&[u8]]) -> String {
        let mut p = Printer { form, printed: 0, out: Vec::new() };
        for body in bodies {
            p.print(&message(body)).unwrap();
        }
        p.end().unwrap();
        String::from_utf8(p.out).unwrap()
    }

    #[test]
    fn json_is_whole_however_many_came() {
        for n in 0..3 {
            let all: Json = serde_json::from_str(&printed(Form::Json, &vec![&b"x"[..]; n])).unwrap();
            assert_eq!(all.as_array().unwrap().len(), n);
        }
        let one: Json = serde_json::from_str(&printed(Form::Ndjson, &[b"\xff"])).unwrap();
        assert_eq!(one["body_base64"], "/w==");
        assert_eq!(one["properties"]["headers"], serde_json::json!({"n": 1, "s": "x"}));
        assert_eq!(one["properties"]["delivery_mode"], 2);
    }

    #[test]
    fn raw_is_the_body() {
        assert_eq!(printed(Form::Raw, &[b"a\0", b"b"]), "a\0\nb\n");
        assert_eq!(printed(Form::Table, &[b"a\nb"]), "1  e/k (redelivered)  3 B  a\u{fffd}b\n");
    }
}

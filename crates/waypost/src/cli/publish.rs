//! `waypost publish`.

use std::collections::BTreeSet;
use std::io::{BufRead as _, IsTerminal as _, Read as _};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;
use waypost_amqp::codec::field::Short;
use waypost_amqp::codec::method::basic;
use waypost_model::props::{PropsOwned, ShortStr};
use waypost_model::table::{Table, Value};

use super::amqp::{AmqpUri, Client, Content, Incoming, Step};
use super::pair::pair;
use super::present::OutputArgs;
use super::template::Template;
use super::time::seconds;
use crate::exit::Failure;

/// Unconfirmed messages at most.
const WINDOW: u64 = 1024;

/// Arguments of `waypost publish`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  waypost publish '' orders 'hello'                        to queue orders, by the default exchange
  waypost publish logs app.error 'no {{count}}' --count 100 --confirm --persistent
  waypost publish '' jobs --file job.json --content-type application/json -H attempt=1
  seq 1000 | waypost publish '' numbers --lines --confirm

In BODY, ROUTING_KEY and -H values {{count}} stands for the message's number, from 1, and {{unix_ms}} for the time.

Exit codes: 3 some messages were returned or refused, 4 no such exchange or all were returned, 5 not permitted,
7 no broker, 8 no confirm in time.")]
pub struct PublishArgs {
    /// The exchange; '' is the default exchange, whose routing keys are names of queues
    exchange: String,
    /// The routing key
    routing_key: String,
    /// The body; without it, or with -, standard input
    body: Option<String>,
    /// Take the body from a file
    #[arg(short, long, value_name = "FILE", conflicts_with = "body")]
    file: Option<PathBuf>,
    /// Publish every line of the input as a message of its own
    #[arg(short, long, conflicts_with = "count")]
    lines: bool,
    /// Publish so many times
    #[arg(short = 'n', long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    count: u64,
    /// Keep the messages on disk (delivery mode 2)
    #[arg(short, long)]
    persistent: bool,
    /// Wait for the broker's confirms
    #[arg(short, long)]
    confirm: bool,
    /// Fail for messages that no queue takes
    #[arg(short, long)]
    mandatory: bool,
    /// How long to wait for confirms, in seconds or with a unit: 500ms, 15s, 2m
    #[arg(long, default_value_t = 30.0, value_name = "TIME", value_parser = seconds)]
    timeout: f64,
    #[command(flatten)]
    properties: Properties,
    #[command(flatten)]
    broker: BrokerArgs,
    #[command(flatten)]
    output: OutputArgs,
}

/// Which broker.
#[derive(Clone, Debug, Args)]
pub struct BrokerArgs {
    /// The broker: amqp[s]://USER:PASSWORD@HOST:PORT/VHOST
    #[arg(
        long,
        env = "WAYPOST_AMQP",
        default_value = "amqp://guest:guest@127.0.0.1:5672",
        value_name = "URI",
        hide_env_values = true
    )]
    uri: AmqpUri,
    /// Authorities whose certificates are believed (PEM), by default the system's
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
}

impl BrokerArgs {
    /// Connects.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub fn connect(&self) -> Result<Client, Failure> {
        Client::connect(&self.uri, self.ca.clone())
    }
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Properties")]
struct Properties {
    /// A header; the value is a number, true, false or JSON where it reads as such, else text
    #[arg(short = 'H', long = "header", value_name = "KEY=VALUE", value_parser = header)]
    headers: Vec<(String, String)>,
    #[arg(long, value_name = "TYPE")]
    content_type: Option<String>,
    #[arg(long, value_name = "CODING")]
    content_encoding: Option<String>,
    #[arg(long, value_name = "0..255")]
    priority: Option<u8>,
    #[arg(long, value_name = "ID")]
    correlation_id: Option<String>,
    #[arg(long, value_name = "QUEUE")]
    reply_to: Option<String>,
    /// Time to live, milliseconds
    #[arg(long, value_name = "MS")]
    expiration: Option<u32>,
    #[arg(long, value_name = "ID")]
    message_id: Option<String>,
    /// Seconds since 1970
    #[arg(long, value_name = "SECONDS")]
    timestamp: Option<u64>,
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<String>,
    #[arg(long, value_name = "USER")]
    user_id: Option<String>,
    #[arg(long, value_name = "APP")]
    app_id: Option<String>,
}

fn header(text: &str) -> Result<(String, String), String> {
    let (key, value) = pair(text)?;
    if key.len() > 255 {
        return Err("a key has at most 255 bytes".to_owned());
    }
    Ok((key, value))
}

/// What a header's value reads as.
fn guess(text: &str) -> Value {
    serde_json::from_str(text).map_or_else(|_| Value::from(text), |json| table_value(&json))
}

fn table_value(json: &serde_json::Value) -> Value {
    match json {
        serde_json::Value::Null => Value::Void,
        serde_json::Value::Bool(b) => Value::Bool(*b),
        serde_json::Value::Number(n) => match n.as_i64() {
            Some(n) => i32::try_from(n).map_or(Value::I64(n), Value::I32),
            None => Value::F64(n.as_f64().unwrap_or(0.0)),
        },
        serde_json::Value::String(text) => Value::from(text.as_str()),
        serde_json::Value::Array(items) => Value::Array(items.iter().map(table_value).collect()),
        serde_json::Value::Object(entries) => {
            let mut table = Table::new();
            for (key, value) in entries {
                table.set(key.as_str(), table_value(value));
            }
            Value::Table(table)
        }
    }
}

fn short(text: &Option<String>) -> Result<Option<ShortStr>, Failure> {
    let text = text.as_deref();
    text.map(|t| ShortStr::new(t).ok_or_else(|| Failure::Usage(format!("{t:?} is longer than 255 bytes")))).transpose()
}

impl Properties {
    fn fixed(&self, persistent: bool) -> Result<PropsOwned, Failure> {
        Ok(PropsOwned {
            content_type: short(&self.content_type)?,
            content_encoding: short(&self.content_encoding)?,
            delivery_mode: persistent.then_some(2),
            priority: self.priority,
            correlation_id: short(&self.correlation_id)?,
            reply_to: short(&self.reply_to)?,
            expiration: short(&self.expiration.map(|ms| ms.to_string()))?,
            message_id: short(&self.message_id)?,
            timestamp: self.timestamp,
            type_: short(&self.kind)?,
            user_id: short(&self.user_id)?,
            app_id: short(&self.app_id)?,
            ..PropsOwned::default()
        })
    }
}

/// What changes from message to message.
struct Varying {
    props: PropsOwned,
    headers: Vec<(String, Template)>,
    key: Template,
    body: Body,
}

enum Body {
    Same(Vec<u8>),
    Filled(Template),
    Lines(Box<dyn Iterator<Item = std::io::Result<Vec<u8>>>>),
}

impl Varying {
    fn new(args: &PublishArgs) -> Result<Self, Failure> {
        let headers =
            args.properties.headers.iter().map(|(key, value)| (key.clone(), Template::parse(value))).collect();
        Ok(Self {
            props: args.properties.fixed(args.persistent)?,
            headers,
            key: Template::parse(&args.routing_key),
            body: body(args)?,
        })
    }

    /// The next message; `None` when the input is at its end.
    fn next(&mut self, number: u64) -> Result<Option<(String, Content)>, Failure> {
        let body = match &mut self.body {
            Body::Same(bytes) => bytes.clone(),
            Body::Filled(template) => template.fill(number).into_bytes(),
            Body::Lines(lines) => match lines.next() {
                Some(line) => line.context("cannot read the input")?,
                None => return Ok(None),
            },
        };
        if !self.headers.is_empty() {
            let mut table = Table::new();
            for (key, value) in &self.headers {
                table.set(key.as_str(), guess(&value.fill(number)));
            }
            self.props.headers = Some(table);
        }
        let key = self.key.fill(number);
        if key.len() > 255 {
            return Err(Failure::Usage("a routing key has at most 255 bytes".to_owned()));
        }
        Ok(Some((key, Content { props: self.props.to_bytes(), body })))
    }
}

fn body(args: &PublishArgs) -> Result<Body, Failure> {
    if let Some(text) = args.body.as_deref().filter(|text| *text != "-") {
        let template = Template::parse(text);
        return Ok(match (args.lines, template.is_constant()) {
            (true, _) => return Err(Failure::Usage("--lines needs --file or standard input".to_owned())),
            (false, true) => Body::Same(text.as_bytes().to_vec()),
            (false, false) => Body::Filled(template),
        });
    }
    let input: Box<dyn std::io::Read> = match &args.file {
        Some(path) => Box::new(std::fs::File::open(path).with_context(|| format!("cannot open {}", path.display()))?),
        None => Box::new(std::io::stdin()),
    };
    let mut input = std::io::BufReader::new(input);
    if args.lines {
        return Ok(Body::Lines(Box::new(input.split(b'\n'))));
    }
    let mut bytes = Vec::new();
    input.read_to_end(&mut bytes).context("cannot read the input")?;
    Ok(Body::Same(bytes))
}

/// How the messages fared.
#[derive(Debug, Default)]
struct Tally {
    published: u64,
    confirmed: u64,
    /// Numbers of messages that are not confirmed yet.
    open: BTreeSet<u64>,
    refused: u64,
    returned: u64,
}

impl Tally {
    fn take(&mut self, incoming: Incoming) {
        match incoming {
            Incoming::Ack { delivery_tag, multiple } => self.confirmed += self.settle(delivery_tag, multiple),
            Incoming::Nack { delivery_tag, multiple } => self.refused += self.settle(delivery_tag, multiple),
            Incoming::Return(message, why) => {
                self.returned += 1;
                if self.returned <= 10 {
                    eprintln!("waypost: returned ({why}): key {}", String::from_utf8_lossy(&message.routing_key));
                }
            }
            Incoming::Blocked(why) => eprintln!("waypost: the broker holds publishers back: {why}"),
            Incoming::Unblocked => eprintln!("waypost: the broker takes messages again"),
            Incoming::Deliver(_) | Incoming::Cancelled => {}
        }
    }

    fn settle(&mut self, tag: u64, multiple: bool) -> u64 {
        if !multiple {
            return u64::from(self.open.remove(&tag));
        }
        let above = self.open.split_off(&tag.saturating_add(1));
        std::mem::replace(&mut self.open, above).len() as u64
    }

    fn verdict(&self) -> Result<(), Failure> {
        let failed = self.refused + self.returned;
        let text = format!("{} of {} messages were returned, {} refused", self.returned, self.published, self.refused);
        match failed {
            0 => Ok(()),
            _ if failed < self.published => Err(Failure::Partial(text)),
            _ if self.refused == 0 => Err(Failure::NotFound(text)),
            _ => Err(Failure::Failed(anyhow::anyhow!(text))),
        }
    }
}

/// Runs it.
///
/// # Errors
/// By the kind of what went wrong, see [`Failure`].
pub fn run(args: &PublishArgs) -> Result<(), Failure> {
    let mut varying = Varying::new(args)?;
    let mut client = args.broker.connect()?;
    if args.confirm {
        client.confirm()?;
    }
    let (mut tally, bar, start) = (Tally::default(), bar(args), Instant::now());
    while args.lines || tally.published < args.count {
        let Some((key, content)) = varying.next(tally.published + 1)? else { break };
        let to = basic::Publish {
            exchange: &args.exchange,
            routing_key: Short(key.as_bytes()),
            mandatory: args.mandatory,
            ..Default::default()
        };
        client.publish(&to, &content)?;
        tally.published += 1;
        bar.inc(1);
        if args.confirm {
            tally.open.insert(tally.published);
            await_confirms(&mut client, &mut tally, WINDOW, args.timeout)?;
        }
    }
    await_confirms(&mut client, &mut tally, 1, args.timeout)?;
    client.settle()?;
    client.close()?;
    client.leftovers().for_each(|incoming| tally.take(incoming));
    bar.finish_and_clear();
    let seconds = start.elapsed().as_secs_f64();
    let result = json!({
        "published": tally.published,
        "confirmed": args.confirm.then_some(tally.confirmed),
        "returned": tally.returned,
        "refused": tally.refused,
        "seconds": seconds,
    });
    args.output.done(&result, &format!("published {} in {seconds:.3} s", tally.published))?;
    tally.verdict()
}

/// Waits until fewer than `open` messages are unconfirmed.
fn await_confirms(client: &mut Client, tally: &mut Tally, open: u64, timeout: f64) -> Result<(), Failure> {
    let until = Instant::now() + Duration::from_secs_f64(timeout);
    while tally.open.len() as u64 >= open {
        match client.wait(Some(until))? {
            Step::Got(incoming) => tally.take(incoming),
            Step::Late => {
                return Err(Failure::TimedOut(format!(
                    "{} messages are unconfirmed after {timeout} s",
                    tally.open.len()
                )));
            }
        }
    }
    Ok(())
}

fn bar(args: &PublishArgs) -> ProgressBar {
    if args.count < 1000 || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::with_draw_target(Some(args.count), ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {human_pos}/{human_len} {per_sec} {eta}") {
        bar.set_style(style);
    }
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_values_read_as_what_they_look_like() {
        assert_eq!(guess("5000"), Value::I32(5000));
        assert_eq!(guess("\"5000\""), Value::from("5000"));
        assert_eq!(guess("true"), Value::Bool(true));
        assert_eq!(guess("plain text"), Value::from("plain text"));
        assert_eq!(guess("[1]"), Value::Array(vec![Value::I32(1)]));
        assert!(header("novalue").is_err() && header("=x").is_err());
    }

    #[test]
    fn confirms_with_multiple_reach_down() {
        let mut tally = Tally { published: 5, open: (1..=5).collect(), ..Tally::default() };
        tally.take(Incoming::Ack { delivery_tag: 3, multiple: false });
        tally.take(Incoming::Ack { delivery_tag: 4, multiple: true });
        tally.take(Incoming::Nack { delivery_tag: 5, multiple: false });
        assert_eq!((tally.confirmed, tally.refused, tally.open.len()), (4, 1, 0));
        assert_eq!(tally.verdict().unwrap_err().code(), 3);
    }
}

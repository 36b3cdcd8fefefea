//! `waypost reply`.

use std::time::{Duration, Instant};

use clap::Args;
use waypost_amqp::codec::Method;
use waypost_amqp::codec::field::Short;
use waypost_amqp::codec::method::{basic, queue};
use waypost_model::props::{Props, PropsOwned, ShortStr};
use waypost_model::table::Table;

use super::command::{self, Outcome};
use crate::cli::amqp::{Client, Content, Incoming, Message, Step};
use crate::cli::publish::BrokerArgs;
use crate::cli::time::seconds;
use crate::exit::Failure;

/// Arguments of `waypost reply`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  waypost reply cart --exec jq -c '{total: .price}'
  waypost reply cart --id cart-1 --at-version 2.1.0 --zone eu-1 --exec ./handle

This is an instance of the service for as long as it runs. The program gets the request on standard input, and WAYPOST_SERVICE,
WAYPOST_CONTENT_TYPE, WAYPOST_CORRELATION_ID, WAYPOST_ROUTING_KEY and WAYPOST_REDELIVERED; what it prints is the answer. If it
does not end with 0 the request is rejected: it goes to the dead-letter exchange, if the mailbox has one.")]
pub struct ReplyArgs {
    service: String,
    /// The mailbox, if it has another name than SERVICE-queue
    #[arg(long)]
    queue: Option<String>,
    /// The instance's id
    #[arg(long)]
    id: Option<String>,
    /// Its version, by semver
    #[arg(long, value_name = "VERSION")]
    at_version: Option<String>,
    #[arg(long)]
    zone: Option<String>,
    #[arg(long, value_name = "TAG")]
    tag: Vec<String>,
    /// The answer's content type
    #[arg(short = 't', long = "type", value_name = "TYPE")]
    content_type: Option<String>,
    /// Stop after so many requests
    #[arg(short = 'n', long, value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Stop when nothing has come for so long, in seconds or with a unit: 500ms, 15s, 2m
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    timeout: Option<f64>,
    #[command(flatten)]
    broker: BrokerArgs,
    /// The program, with its arguments
    #[arg(long = "exec", required = true, num_args = 1.., allow_hyphen_values = true, value_name = "PROGRAM")]
    program: Vec<String>,
}

impl ReplyArgs {
    /// Runs it.
    ///
    /// # Errors
    /// See [`Failure`].
    pub fn run(&self) -> Result<(), Failure> {
        let queue = self.queue.clone().unwrap_or_else(|| format!("{}-queue", self.service));
        let mut client = self.mailbox(&queue)?;
        // One at a time: the program runs while nothing else can be answered.
        let qos = basic::Qos { prefetch_count: 1, ..Default::default() };
        client.call(&qos, |m| matches!(m, Method::BasicQosOk(_)).then_some(()))?;
        let arguments = Table::new().with("x-service", self.instance());
        let consume = basic::Consume { queue: &queue, arguments, ..Default::default() };
        client.call(&consume, |m| matches!(m, Method::BasicConsumeOk(_)).then_some(()))?;
        let patience = self.timeout.map(Duration::from_secs_f64);
        let mut left = self.count;
        while left != Some(0) {
            match client.wait(patience.map(|p| Instant::now() + p))? {
                Step::Late => break,
                Step::Got(Incoming::Deliver(message)) => {
                    self.answer(&mut client, &message)?;
                    left = left.map(|n| n - 1);
                }
                Step::Got(Incoming::Cancelled) => {
                    return Err(Failure::NotFound(format!("queue {queue:?} was deleted")));
                }
                Step::Got(_) => {}
            }
        }
        client.close()
    }

    /// A connection, and the mailbox made if there is none yet.
    fn mailbox(&self, name: &str) -> Result<Client, Failure> {
        let mut client = self.broker.connect()?;
        let declare = queue::Declare { queue: name, durable: true, ..Default::default() };
        match client.call(&declare, |m| matches!(m, Method::QueueDeclareOk(_)).then_some(())) {
            Ok(()) => Ok(client),
            // Somebody has made it in another way: then it is there, and only the channel is lost.
            Err(Failure::Conflict(_)) => self.broker.connect(),
            Err(other) => Err(other),
        }
    }

    /// What this instance says of itself.
    fn instance(&self) -> Table {
        let mut table = Table::new();
        for (name, value) in [("id", &self.id), ("version", &self.at_version), ("zone", &self.zone)] {
            if let Some(value) = value {
                table.set(name, value.as_str());
            }
        }
        if !self.tag.is_empty() {
            table.set("tags", self.tag.join(","));
        }
        table
    }

    fn answer(&self, client: &mut Client, message: &Message) -> Result<(), Failure> {
        let text = |bytes: Option<&[u8]>| String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned();
        let is_whole = PropsOwned::decode(&message.content.props).is_ok();
        let empty = PropsOwned::default().to_bytes();
        let props = Props(if is_whole { &message.content.props } else { &empty });
        let variables = [
            ("WAYPOST_SERVICE", self.service.clone()),
            ("WAYPOST_CONTENT_TYPE", text(props.content_type())),
            ("WAYPOST_CORRELATION_ID", text(props.correlation_id())),
            ("WAYPOST_ROUTING_KEY", text(Some(&message.routing_key))),
            ("WAYPOST_REDELIVERED", message.redelivered.to_string()),
        ];
        let delivery_tag = message.delivery_tag;
        match command::run(&self.program, &variables, &message.content.body)? {
            Outcome::Answer(body) => {
                if let Some(reply_to) = props.reply_to() {
                    let answer = PropsOwned {
                        correlation_id: props.correlation_id().and_then(ShortStr::new),
                        content_type: self.content_type.as_ref().and_then(ShortStr::new),
                        ..PropsOwned::default()
                    };
                    let to = basic::Publish { routing_key: Short(reply_to), ..Default::default() };
                    client.publish(&to, &Content { props: answer.to_bytes(), body })?;
                }
                // Behind the answer, so that no request is settled whose answer was not sent.
                client.send(&basic::Ack { delivery_tag, multiple: false })?;
            }
            Outcome::Failed(why) => {
                eprintln!("waypost: a request is rejected: {}: {why}", self.program.join(" "));
                client.send(&basic::Reject { delivery_tag, requeue: false })?;
            }
        }
        client.flush()
    }
}

//! `services balance`: instances that take time for a message, one of them much more than the others. How long messages
//! wait and take shows how well the broker chooses.

use super::args::Target;
use super::conn::{Conn, Product, broken, control, put_consume};
use super::fault::Fault;
use super::inbound::{Confirm, Delivery, Sink, consumer_tag};
use super::outcome::round;
use super::ready::{Event, Ready};
use super::ring::{Properties, Ring, Route, Shape, Stamp};
use super::run::Table;
use super::times::Times;
use super::topology::Topology;
use super::wire::{Args as Arguments, FRAME_END, MethodId};
use super::{Report, ReportFlaw};
use crate::bench::amqp::args::QueueArgs;
use crate::cli::time::whole_seconds;
use clap::Args;
use serde_json::json;
use std::collections::VecDeque;
use std::io::ErrorKind;
use std::time::{Duration, Instant};

/// How long what was sent may take to be finished after the last message.
const PATIENCE: Duration = Duration::from_secs(60);

/// `services balance`.
#[derive(Debug, Args)]
pub struct BalanceArgs {
    #[command(flatten)]
    pub target: Target,
    /// Instances; each works on one message at a time
    #[arg(short = 'y', long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(2..=1000))]
    instances: u32,
    /// Unacknowledged messages per instance
    #[arg(long, default_value_t = 10, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..))]
    prefetch: u16,
    /// What a message takes on average, exponentially distributed
    #[arg(long, default_value_t = 10, value_name = "MILLISECONDS", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    work: u32,
    /// How many times slower the first instance is
    #[arg(long, default_value_t = 10, value_name = "TIMES", value_parser = clap::value_parser!(u32).range(1..=1000))]
    slow: u32,
    /// Per cent of what all instances together can do
    #[arg(long, default_value_t = 70, value_name = "PERCENT", value_parser = clap::value_parser!(u32).range(1..=99))]
    load: u32,
    /// Publish for so many seconds
    #[arg(long, default_value_t = 30, value_name = "TIME", value_parser = whole_seconds::<u32, 1, 3600>)]
    time: u32,
    /// Do not count what is sent in the first seconds
    #[arg(long, default_value_t = 5, value_name = "TIME", value_parser = whole_seconds::<u32, 0, 3600>)]
    warmup: u32,
    /// Start of the random numbers
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

impl BalanceArgs {
    /// Runs the mode.
    ///
    /// # Errors
    /// Whatever kept it from being measured.
    pub fn run(&self) -> Result<Report, Fault> {
        let uri = &self.target.uri;
        let topology = Topology::mailbox(uri, &QueueArgs::of(false, None).spec())?;
        let measured = Run::open(self, &topology.prefix, &topology.queues[0]).and_then(Run::measure);
        topology.remove();
        let (done, product) = measured?;
        let per_instance: Vec<u64> = done.instances.iter().map(|i| i.finished).collect();
        let figures = json!({
            "published": done.sent, "finished": done.finished, "lost": done.sent - done.finished.min(done.sent),
            "completion_us": done.times.percentiles(), "finished_per_instance": per_instance,
        });
        let setup = json!({
            "instances": self.instances, "prefetch": self.prefetch, "work_ms": self.work, "slow_times": self.slow,
            "load_percent": self.load, "rate": round(self.rate(), 1), "seconds": self.time,
        });
        let flaw = (done.finished != done.sent).then_some(ReportFlaw::MESSAGES);
        Report::new("balance", &product, setup, &figures, flaw)
    }

    /// Messages per second.
    fn rate(&self) -> f64 {
        let each = 1000.0 / f64::from(self.work);
        let capacity = each * f64::from(self.instances - 1) + each / f64::from(self.slow);
        capacity * f64::from(self.load) / 100.0
    }
}

/// An instance: what it has been given, and when it will be through with the first of it.
struct Instance {
    conn: Conn,
    inbox: Inbox,
    work_ns: f64,
    /// When the message that it works on is finished.
    done_ns: Option<u64>,
    finished: u64,
}

/// Deliveries that wait for an instance: tag and time of publication.
#[derive(Default)]
struct Inbox(VecDeque<(u64, u64)>);

impl Sink for Inbox {
    fn delivery(&mut self, delivery: &Delivery) {
        self.0.push_back((delivery.tag, Stamp::read(&delivery.head).sent_ns));
    }

    fn confirm(&mut self, _: Confirm) {}

    fn returned(&mut self) {}

    fn method(&mut self, _: u16, id: MethodId, args: Arguments<'_>) -> Result<(), Fault> {
        if control(id, args)? { Ok(()) } else { Err(Fault::protocol(format!("unexpected method {}.{}", id.0, id.1))) }
    }
}

struct Run {
    publisher: Conn,
    ring: Ring,
    instances: Vec<Instance>,
    ready: Ready,
    epoch: Instant,
    random: u64,
    sent: u64,
    finished: u64,
    times: Times,
    /// Nanoseconds between messages on average, and how long messages are sent and not counted.
    gap_ns: f64,
    publish_ns: u64,
    warmup_ns: u64,
}

impl Run {
    fn open(args: &BalanceArgs, service: &str, mailbox: &str) -> Result<Self, Fault> {
        let publisher = Conn::open_channel(&args.target.uri)?;
        let shape = Shape {
            body_bytes: 16,
            persistent: false,
            properties: Properties::None,
            mandatory: true,
            frame_bytes_max: publisher.frame_bytes_max,
        };
        let route = Route { exchange: "amq.services".to_owned(), key: service.to_owned(), ..Route::default() };
        let mut ready = Ready::new()?;
        let mut instances = Vec::new();
        for number in 0..args.instances {
            let mut conn = Conn::open_channel(&args.target.uri)?;
            conn.prefetch(args.prefetch)?;
            let mut out = Vec::new();
            let who = Table::from_iter([("x-service".to_owned(), json!({"id": format!("bench-{number}")}))]);
            put_consume(&mut out, mailbox, &consumer_tag(0), false, &who)?;
            conn.send(&out)?;
            // The answer comes after the consumer has started.
            conn.count(mailbox)?;
            conn.stream.set_nonblocking(true).map_err(Fault::io("make a socket non-blocking"))?;
            ready.add(instances.len(), &conn.stream)?;
            let times = if number == 0 { args.slow } else { 1 };
            let work_ns = f64::from(args.work) * f64::from(times) * 1e6;
            instances.push(Instance { conn, inbox: Inbox::default(), work_ns, done_ns: None, finished: 0 });
        }
        Ok(Self {
            publisher,
            ring: Ring::new(&[route], &shape, 1)?,
            instances,
            ready,
            epoch: Instant::now(),
            random: args.seed | 1,
            sent: 0,
            finished: 0,
            times: Times::default(),
            gap_ns: 1e9 / args.rate(),
            publish_ns: u64::from(args.time) * 1_000_000_000,
            warmup_ns: u64::from(args.warmup.min(args.time / 2)) * 1_000_000_000,
        })
    }

    fn now_ns(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// An exponentially distributed time of that mean.
    fn draw(&mut self, mean_ns: f64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let uniform = ((self.random >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
        (-uniform.ln() * mean_ns) as u64
    }

    fn measure(mut self) -> Result<(Run, Product), Fault> {
        let (mut next_ns, mut events) = (self.draw(self.gap_ns), Vec::new());
        let patience_ns = self.publish_ns + u64::try_from(PATIENCE.as_nanos()).unwrap_or(u64::MAX);
        loop {
            let now_ns = self.now_ns();
            while next_ns <= now_ns && next_ns < self.publish_ns {
                self.publish(next_ns)?;
                next_ns += self.draw(self.gap_ns);
            }
            let publishing = next_ns < self.publish_ns;
            self.work(now_ns)?;
            if !publishing && (self.finished == self.sent || now_ns > patience_ns) {
                let product = self.publisher.product.clone();
                return Ok((self, product));
            }
            let wake_ns = self.instances.iter().filter_map(|i| i.done_ns).chain(publishing.then_some(next_ns)).min();
            let wait_ns = wake_ns.map_or(10_000_000, |at| at.saturating_sub(self.now_ns()));
            self.ready.wait(Duration::from_nanos(wait_ns), &mut events)?;
            self.read(&events)?;
        }
    }

    fn publish(&mut self, due_ns: u64) -> Result<(), Fault> {
        let (range, _) = self.ring.take(1, due_ns);
        self.publisher.send(&self.ring.bytes()[range])?;
        self.sent += 1;
        Ok(())
    }

    fn read(&mut self, events: &[Event]) -> Result<(), Fault> {
        for event in events {
            let Some(instance) = self.instances.get_mut(event.key) else { continue };
            match instance.conn.inbound.fill(&mut instance.conn.stream) {
                Ok(0) => return Err(Fault::Dropped("deliveries were awaited")),
                Ok(_) => instance.conn.inbound.drain(&mut instance.inbox)?,
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                Err(error) => return Err(broken(error, "waiting for deliveries")),
            }
        }
        Ok(())
    }

    /// Instances finish what is due, and take up what waits.
    fn work(&mut self, now_ns: u64) -> Result<(), Fault> {
        for at in 0..self.instances.len() {
            loop {
                let instance = &self.instances[at];
                match instance.done_ns {
                    Some(done_ns) if done_ns <= now_ns => self.finish(at, done_ns)?,
                    None if !instance.inbox.0.is_empty() => {
                        let took_ns = self.draw(self.instances[at].work_ns);
                        self.instances[at].done_ns = Some(now_ns + took_ns);
                    }
                    _ => break,
                }
            }
        }
        Ok(())
    }

    fn finish(&mut self, at: usize, done_ns: u64) -> Result<(), Fault> {
        let instance = &mut self.instances[at];
        instance.done_ns = None;
        let Some((tag, sent_ns)) = instance.inbox.0.pop_front() else { return Ok(()) };
        instance.finished += 1;
        let mut ack = [1, 0, 1, 0, 0, 0, 13, 0, 60, 0, 80, 0, 0, 0, 0, 0, 0, 0, 0, 0, FRAME_END];
        ack[11..19].copy_from_slice(&tag.to_be_bytes());
        instance.conn.send(&ack)?;
        if sent_ns >= self.warmup_ns {
            self.times.record(done_ns.saturating_sub(sent_ns));
        }
        self.finished += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::fake::{Fake, Faults};
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: BalanceArgs,
    }

    #[test]
    fn what_is_sent_is_finished_and_timed() {
        let fake = Fake::start(Faults::default());
        let uri = fake.uri();
        let words = ["bench", "-y", "3", "--work", "2", "--time", "1", "--warmup", "0", "--uri", &uri];
        let report = Line::try_parse_from(words).unwrap().args.run().unwrap();
        assert!(report.flaw.is_none(), "{:#}", report.json);
        assert!(report.json["published"].as_u64().unwrap() > 300, "{:#}", report.json);
        assert!(report.json["completion_us"]["p50"].as_f64().unwrap() > 1000.0, "{:#}", report.json);
    }

    #[test]
    fn the_rate_is_that_share_of_what_all_can_do() {
        let args = Line::try_parse_from(["bench"]).unwrap().args;
        assert!((args.rate() - 637.0).abs() < 0.1, "{}", args.rate());
    }
}

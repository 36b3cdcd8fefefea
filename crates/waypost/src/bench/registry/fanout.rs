//! From a change to those who watch.

use super::client::Client;
use super::http::request;
use super::load::{deregister, register, registration};
use super::{Outcome, Report, Target};
use crate::bench::amqp::fault::Fault;
use crate::bench::amqp::usage::Watch;
use crate::exit::Failure;
use clap::Args;
use serde_json::json;
use std::time::{Duration, Instant};

/// Arguments of `fanout`.
#[derive(Clone, Debug, Args)]
pub struct FanoutArgs {
    #[command(flatten)]
    target: Target,
    /// Connections that watch the service
    #[arg(long, default_value_t = 5000, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=60_000))]
    watchers: u32,
    /// Instances of the service
    #[arg(long, default_value_t = 4, value_name = "COUNT")]
    instances: u64,
    /// How often it changes
    #[arg(long, default_value_t = 5, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
}

const SERVICE: &str = "bench-fanout";

/// How long watchers are given to be waiting when a change comes.
const PARK_TIME: Duration = Duration::from_millis(500);

impl FanoutArgs {
    /// Measures it.
    pub fn run(&self) -> Result<(), Failure> {
        register(&self.target, SERVICE, self.instances, "")?;
        let watchers = usize::try_from(self.watchers).unwrap_or(usize::MAX);
        let mut changer = Client::open(self.target.http, 1)?;
        let mut client = Client::open(self.target.http, watchers)?;
        let watch = Watch::start(self.target.process()?)?;
        let (mut outcome, mut lasts, mut firsts) = (Outcome::default(), Vec::new(), Vec::new());
        for round in 0..self.rounds {
            let (first, last) =
                watch.during(|| self.round(&mut changer, &mut client, watchers, round, &mut outcome))?;
            firsts.push(first.as_secs_f64() * 1e3);
            lasts.push(last.as_secs_f64() * 1e3);
        }
        let used = watch.finish()?;
        outcome.seconds = lasts.iter().sum::<f64>() / 1e3;
        let setup = json!({ "watchers": self.watchers, "instances": self.instances, "rounds": self.rounds });
        let mut report = Report::new("fanout", setup, &outcome, used.map(|used| (used, outcome.done)));
        let shown = |all: &[f64]| all.iter().map(|ms| (ms * 100.0).round() / 100.0).collect::<Vec<_>>();
        let median = {
            lasts.sort_by(f64::total_cmp);
            lasts.get(lasts.len() / 2).copied().unwrap_or(0.0)
        };
        report.more = Some(json!({
            "last_told_ms_median": (median * 100.0).round() / 100.0,
            "last_told_ms": shown(&lasts),
            "first_told_ms": shown(&firsts),
        }));
        deregister(&self.target, SERVICE, self.instances + 1)?;
        self.target.print(report)
    }

    /// When the first and when the last watcher was told, from the moment when the change was sent.
    fn round(
        &self,
        changer: &mut Client,
        client: &mut Client,
        watchers: usize,
        round: u32,
        outcome: &mut Outcome,
    ) -> Result<(Duration, Duration), Fault> {
        let path = format!("/v1/health/service/{SERVICE}?passing");
        let (answer, _) = changer.ask("GET", &path, "")?;
        let index = answer.index.ok_or_else(|| Fault::protocol("an answer without X-Consul-Index"))?;
        for key in 0..watchers {
            client.send(key, |out| request(out, "GET", &format!("{path}&index={index}&wait=60s"), ""))?;
        }
        std::thread::sleep(PARK_TIME);
        let body = registration(SERVICE, &format!("{SERVICE}-{}", self.instances), u64::from(round) + 1_000_000, "");
        let begin = Instant::now();
        // The answer to the change may come after those to the watchers: it is read at the end.
        changer.send(0, |out| request(out, "PUT", "/v1/agent/service/register", &body))?;
        let (mut left, mut first) = (watchers, None);
        while left > 0 {
            client.wait(|_, answer, bytes, _| {
                first.get_or_insert_with(|| begin.elapsed());
                outcome.note(answer, bytes, begin.elapsed());
                left -= 1;
            })?;
        }
        let last = begin.elapsed();
        let mut refused = None;
        changer.wait(|_, answer, _, _| refused = (answer.status != 200).then_some(answer.status))?;
        match refused {
            None => Ok((first.unwrap_or(last), last)),
            Some(status) => Err(Fault::protocol(format!("the change was refused with {status}"))),
        }
    }
}

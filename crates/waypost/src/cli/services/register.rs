//! `waypost services register`, `drain`, `deregister`.

use std::time::{Duration, Instant};

use clap::Args;
use serde_json::{Map, Value, json};

use super::Place;
use crate::cli::pair::pair;
use crate::cli::time::{seconds, span};
use crate::exit::Failure;

/// How long the server waits before it is asked again; less than `--timeout` is by default.
const POLL: Duration = Duration::from_secs(5);

/// Arguments of `services register`.
#[derive(Debug, Args)]
pub struct Register {
    service: String,
    /// Its id, unique within the service
    #[arg(long)]
    id: String,
    /// Host name or IP address
    #[arg(long)]
    address: Option<String>,
    #[arg(long)]
    port: Option<u16>,
    /// Its version, by semver
    #[arg(long, value_name = "VERSION")]
    at_version: Option<String>,
    #[arg(long)]
    zone: Option<String>,
    #[arg(long, value_name = "TAG")]
    tag: Vec<String>,
    /// Metadata
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    meta: Vec<(String, String)>,
    /// Share of the work
    #[arg(long)]
    weight: Option<u16>,
    /// Most messages that it holds at once
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_in_flight: Option<u32>,
    /// Without a sign of life for so long it is critical: 15s, 2m
    #[arg(long, value_name = "TIME", value_parser = span)]
    ttl: Option<String>,
    /// The server looks at this page every 10 s
    #[arg(long, value_name = "URL")]
    http_check: Option<String>,
    /// The server connects there every 10 s
    #[arg(long, value_name = "HOST:PORT")]
    tcp_check: Option<String>,
    /// Messages are sent there as HTTP POSTs
    #[arg(long, value_name = "URL")]
    push: Option<String>,
    /// Signs what is pushed
    #[arg(long, requires = "push", env = "WAYPOST_PUSH_SECRET", hide_env_values = true)]
    push_secret: Option<String>,
    #[command(flatten)]
    place: Place,
}

/// Arguments of `services drain`.
#[derive(Debug, Args)]
pub struct Drain {
    service: String,
    /// Which instance
    id: String,
    /// How long it may take: 30s, 5m
    #[arg(long, value_name = "TIME", value_parser = span, conflicts_with = "undo")]
    deadline: Option<String>,
    /// Give it messages again
    #[arg(long)]
    undo: bool,
    /// End when it holds no message any more, or after so long (60s if nothing is said) with exit code 8
    #[arg(long, value_name = "TIME", num_args = 0..=1, default_missing_value = "60", require_equals = true,
        value_parser = seconds, conflicts_with = "undo")]
    until_empty: Option<f64>,
    #[command(flatten)]
    place: Place,
}

/// Arguments of `services deregister`.
#[derive(Debug, Args)]
pub struct Deregister {
    service: String,
    /// Which instance
    id: String,
    #[command(flatten)]
    place: Place,
}

impl Register {
    /// Runs it.
    ///
    /// # Errors
    /// See [`Failure`].
    pub fn run(&self) -> Result<(), Failure> {
        let path = self.place.of(self.place.instance(&self.service, &self.id));
        let answer = self.place.server.api().put(path, &self.body())?;
        let done = if answer.get("created") == Some(&Value::Bool(true)) { "registered" } else { "is registered" };
        self.place.server.output.done(&answer, &format!("{} of {} {done}", self.id, self.service))
    }

    /// Only what was said: the server knows what else is.
    fn body(&self) -> Value {
        let mut body = Map::new();
        let mut put = |name: &str, value: Option<Value>| {
            if let Some(value) = value {
                body.insert(name.to_owned(), value);
            }
        };
        put("address", self.address.as_ref().map(|v| json!(v)));
        put("port", self.port.map(|v| json!(v)));
        put("version", self.at_version.as_ref().map(|v| json!(v)));
        put("zone", self.zone.as_ref().map(|v| json!(v)));
        put("tags", (!self.tag.is_empty()).then(|| json!(self.tag)));
        let meta: Map<String, Value> = self.meta.iter().map(|(k, v)| (k.clone(), json!(v))).collect();
        put("meta", (!meta.is_empty()).then(|| json!(meta)));
        put("weight", self.weight.map(|v| json!(v)));
        put("max_in_flight", self.max_in_flight.map(|v| json!(v)));
        put("ttl", self.ttl.as_ref().map(|v| json!(v)));
        let http = self.http_check.iter().map(|url| json!({ "http": url }));
        let checks: Vec<Value> = http.chain(self.tcp_check.iter().map(|at| json!({ "tcp": at }))).collect();
        put("checks", (!checks.is_empty()).then(|| json!(checks)));
        put(
            "push",
            self.push.as_ref().map(|url| match &self.push_secret {
                Some(secret) => json!({ "url": url, "secret": secret }),
                None => json!({ "url": url }),
            }),
        );
        Value::Object(body)
    }
}

impl Drain {
    /// Runs it.
    ///
    /// # Errors
    /// See [`Failure`].
    pub fn run(&self) -> Result<(), Failure> {
        let (api, output) = (self.place.server.api(), &self.place.server.output);
        let path = self.place.of(self.place.instance(&self.service, &self.id).at("drain"));
        if self.undo {
            let answer = api.delete(path)?;
            return output.done(&answer, &format!("{} of {} takes messages again", self.id, self.service));
        }
        let body = self.deadline.as_ref().map_or(json!({}), |deadline| json!({ "deadline": deadline }));
        let answer = api.post(path, &body)?;
        match self.until_empty {
            Some(seconds) => self.wait(Duration::from_secs_f64(seconds)),
            None => output.done(&answer, &format!("{} of {} drains", self.id, self.service)),
        }
    }

    fn wait(&self, patience: Duration) -> Result<(), Failure> {
        let (api, began) = (self.place.server.api(), Instant::now());
        loop {
            let left = patience.saturating_sub(began.elapsed());
            let step = format!("{}ms", left.min(POLL).as_millis());
            let path = self.place.of(self.place.instance(&self.service, &self.id).at("drain")).with("wait", &step);
            let is = match api.get(path) {
                // It went before it was looked at again: at its deadline, or by itself.
                Err(Failure::NotFound(_)) => json!({ "in_flight": 0, "empty": true }),
                other => other?,
            };
            if is.get("empty") == Some(&Value::Bool(true)) {
                return self.place.server.output.done(&is, &format!("{} of {} holds nothing", self.id, self.service));
            }
            if left.is_zero() {
                let held = is.get("in_flight").and_then(Value::as_u64).unwrap_or_default();
                let text = format!("{} of {} still holds {held} messages", self.id, self.service);
                return Err(Failure::TimedOut(text));
            }
        }
    }
}

impl Deregister {
    /// Runs it.
    ///
    /// # Errors
    /// See [`Failure`].
    pub fn run(&self) -> Result<(), Failure> {
        let path = self.place.of(self.place.instance(&self.service, &self.id));
        let answer = self.place.server.api().delete(path)?;
        self.place.server.output.done(&answer, &format!("{} of {} is gone", self.id, self.service))
    }
}

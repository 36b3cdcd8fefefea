//! Loads over HTTP.

use super::client::Client;
use super::http::request;
use super::{Goal, LoadArgs, Outcome, Report, Target};
use crate::bench::amqp::fault::Fault;
use crate::bench::amqp::usage::Watch;
use crate::exit::Failure;
use clap::Args;
use serde_json::json;
use std::time::Duration;

/// Connections over which instances are registered before a measurement.
const SETUP_CONNECTIONS: usize = 16;

/// How long a server may take to put its memory in order.
const SETTLE_TIME: Duration = Duration::from_secs(2);

/// The body that registers an instance: `more` are further members, each with a comma before it.
pub fn registration(service: &str, id: &str, number: u64, more: &str) -> String {
    let [_, .., b, c, d] = number.to_be_bytes();
    format!(
        r#"{{"ID":"{id}","Name":"{service}","Address":"10.{b}.{c}.{d}","Port":8080,"Tags":["v1","primary"],"Meta":{{"version":"1.2.3","zone":"eu-1"}}{more}}}"#
    )
}

/// Registers so many instances of a service: ids `<service>-<number>`.
///
/// # Errors
/// A registration is refused.
pub fn register(target: &Target, service: &str, count: u64, more: &str) -> Result<(), Fault> {
    let mut client = Client::open(target.http, SETUP_CONNECTIONS)?;
    let outcome = client.drive(Goal::Count(count), |out, n| {
        let body = registration(service, &format!("{service}-{n}"), n, more);
        request(out, "PUT", "/v1/agent/service/register", &body);
    })?;
    match outcome.first_failure {
        None => Ok(()),
        Some(text) => Err(Fault::protocol(format!("a registration was refused: {text}"))),
    }
}

/// Removes what [`register`] made.
///
/// # Errors
/// Those of the connection; what is gone already is no mistake.
pub fn deregister(target: &Target, service: &str, count: u64) -> Result<(), Fault> {
    let mut client = Client::open(target.http, SETUP_CONNECTIONS)?;
    client.drive(Goal::Count(count), |out, n| {
        request(out, "PUT", &format!("/v1/agent/service/deregister/{service}-{n}"), "");
    })?;
    Ok(())
}

/// Arguments of `lookup`.
#[derive(Clone, Debug, Args)]
pub struct LookupArgs {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    load: LoadArgs,
    /// Instances of the service
    #[arg(long, default_value_t = 4, value_name = "COUNT")]
    instances: u64,
    /// What to add to the query, such as filter=…
    #[arg(long, default_value = "passing", value_name = "QUERY")]
    query: String,
}

impl LookupArgs {
    /// Measures it.
    pub fn run(&self) -> Result<(), Failure> {
        let service = format!("bench-lookup-{}", self.instances);
        register(&self.target, &service, self.instances, "")?;
        let path = format!("/v1/health/service/{service}?{}", self.query);
        let setup = json!({ "instances": self.instances, "connections": self.load.connections, "path": path });
        let mut bytes = Vec::new();
        request(&mut bytes, "GET", &path, "");
        let mut client = Client::open(self.target.http, self.load.connections())?;
        let measured = self
            .target
            .measure("lookup", setup, || client.drive(self.load.goal(), |out, _| out.extend_from_slice(&bytes)));
        deregister(&self.target, &service, self.instances)?;
        measured
    }
}

/// Arguments of `register`.
#[derive(Clone, Debug, Args)]
pub struct RegisterArgs {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    load: LoadArgs,
    /// Services over which the instances are spread
    #[arg(long, default_value_t = 100, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    services: u64,
    /// Register with the catalog instead of the agent
    #[arg(long)]
    catalog: bool,
    /// Leave the instances there
    #[arg(long)]
    keep: bool,
}

impl RegisterArgs {
    /// Measures it.
    pub fn run(&self) -> Result<(), Failure> {
        let path = if self.catalog { "/v1/catalog/register" } else { "/v1/agent/service/register" };
        let setup = json!({ "path": path, "connections": self.load.connections, "services": self.services });
        let mut client = Client::open(self.target.http, self.load.connections())?;
        let mut made = 0;
        let measured = self.target.measure("register", setup, || {
            client.drive(self.load.goal(), |out, n| {
                made = n + 1;
                let body = if self.catalog { self.external(n) } else { self.own(n) };
                request(out, "PUT", path, &body);
            })
        });
        if !self.keep {
            self.clean_up(&mut client, made)?;
        }
        measured
    }

    fn own(&self, n: u64) -> String {
        registration(&format!("bench-register-{}", n % self.services), &format!("bench-register-{n}"), n, "")
    }

    fn external(&self, n: u64) -> String {
        let service = self.own(n).replacen("\"Name\"", "\"Service\"", 1);
        format!(r#"{{"Node":"bench-node","Address":"10.255.0.1","Service":{service}}}"#)
    }

    fn clean_up(&self, client: &mut Client, made: u64) -> Result<Outcome, Fault> {
        client.drive(Goal::Count(made), |out, n| {
            let id = format!("bench-register-{n}");
            if self.catalog {
                let body = format!(r#"{{"Node":"bench-node","ServiceID":"{id}"}}"#);
                request(out, "PUT", "/v1/catalog/deregister", &body);
            } else {
                request(out, "PUT", &format!("/v1/agent/service/deregister/{id}"), "");
            }
        })
    }
}

/// Arguments of `heartbeat`.
#[derive(Clone, Debug, Args)]
pub struct HeartbeatArgs {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    load: LoadArgs,
    /// Instances that beat in turn
    #[arg(long, default_value_t = 1000, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    instances: u64,
}

impl HeartbeatArgs {
    /// Measures it.
    pub fn run(&self) -> Result<(), Failure> {
        let service = "bench-heartbeat";
        register(&self.target, service, self.instances, r#","Check":{"TTL":"60s"}"#)?;
        let setup = json!({ "instances": self.instances, "connections": self.load.connections });
        let mut client = Client::open(self.target.http, self.load.connections())?;
        let measured = self.target.measure("heartbeat", setup, || {
            client.drive(self.load.goal(), |out, n| {
                let path = format!("/v1/agent/check/pass/service:{service}-{}", n % self.instances);
                request(out, "PUT", &path, "");
            })
        });
        deregister(&self.target, service, self.instances)?;
        measured
    }
}

/// Arguments of `memory`.
#[derive(Clone, Debug, Args)]
pub struct MemoryArgs {
    #[command(flatten)]
    target: Target,
    /// Instances to register
    #[arg(long, default_value_t = 100_000, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    instances: u64,
    /// Services over which they are spread
    #[arg(long, default_value_t = 1000, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    services: u64,
    /// Connections over which they are registered
    #[arg(short, long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=1000))]
    connections: u32,
}

impl MemoryArgs {
    /// Measures it.
    pub fn run(&self) -> Result<(), Failure> {
        let load = LoadArgs { connections: self.connections, time: 0, requests: Some(self.instances) };
        let args =
            RegisterArgs { target: self.target.clone(), load, services: self.services, catalog: false, keep: true };
        if self.target.server_pid.is_none() {
            return Err(Failure::Usage("--server-pid is needed to see the server's memory".to_owned()));
        }
        let watch = Watch::start(self.target.process()?)?;
        let mut client = Client::open(self.target.http, args.load.connections())?;
        let outcome = watch.during(|| {
            client.drive(args.load.goal(), |out, n| {
                request(out, "PUT", "/v1/agent/service/register", &args.own(n));
            })
        })?;
        std::thread::sleep(SETTLE_TIME);
        let used = watch.finish()?;
        let setup = json!({ "instances": self.instances, "services": self.services });
        let mut report = Report::new("memory", setup, &outcome, used.map(|used| (used, outcome.done)));
        report.more = used.map(|used| {
            let grown = used.after.rss_kib.saturating_sub(used.before.rss_kib);
            json!({ "rss_kib_after": used.after.rss_kib, "bytes_per_instance": grown * 1024 / self.instances })
        });
        args.clean_up(&mut client, self.instances)?;
        self.target.print(report)
    }
}

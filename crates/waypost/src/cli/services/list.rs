//! `waypost services ls`, `show`, `watch`.

use std::io::Write as _;

use clap::Args;
use serde_json::Value;

use super::Place;
use crate::cli::http::ApiPath;
use crate::cli::present::{Format, cell};
use crate::exit::Failure;

/// How long the server waits for a change before it is asked again; less than `--wait` is by default.
const POLL: &str = "20s";

/// Columns of instances.
const INSTANCES: [(&str, &str); 9] = [
    ("ID", "id"),
    ("HEALTH", "health"),
    ("ADDRESS", "address"),
    ("PORT", "port"),
    ("VERSION", "version"),
    ("ZONE", "zone"),
    ("TAGS", "tags"),
    ("IN FLIGHT", "in_flight"),
    ("WHY", "why"),
];

/// Arguments of `services ls`.
#[derive(Debug, Args)]
pub struct List {
    #[command(flatten)]
    place: Place,
}

/// Arguments of `services show`.
#[derive(Debug, Args)]
pub struct Show {
    service: String,
    #[command(flatten)]
    place: Place,
}

/// Arguments of `services watch`.
#[derive(Debug, Args)]
pub struct Watch {
    service: String,
    /// End after so many changes; what is there at the beginning counts as one
    #[arg(short = 'n', long, value_name = "N")]
    count: Option<u64>,
    #[command(flatten)]
    place: Place,
}

impl List {
    /// Runs it.
    ///
    /// # Errors
    /// See [`Failure`].
    pub fn run(&self) -> Result<(), Failure> {
        let services = self.place.server.api().get(self.place.of(ApiPath::new("services")))?;
        self.place.server.output.list(
            &services,
            &[
                ("SERVICE", "service"),
                ("INSTANCES", "instances"),
                ("PASSING", "passing"),
                ("WARNING", "warning"),
                ("CRITICAL", "critical"),
                ("STARTING", "starting"),
                ("DRAINING", "draining"),
                ("WAITING", "waiting"),
            ],
        )
    }
}

impl Show {
    /// Runs it.
    ///
    /// # Errors
    /// See [`Failure`].
    pub fn run(&self) -> Result<(), Failure> {
        let (api, output) = (self.place.server.api(), &self.place.server.output);
        let mut service = api.get(self.place.of(self.place.service(&self.service)))?;
        let mailbox = match api.get(self.place.of(self.place.service(&self.service).at("mailbox"))) {
            // Nobody has sent to it or consumed from it yet.
            Err(Failure::NotFound(_)) => Value::Null,
            other => other?,
        };
        let mut instances = service.get_mut("instances").map(Value::take).unwrap_or_default();
        instances.as_array_mut().into_iter().flatten().for_each(|instance| join(instance, &mailbox));
        if output.format() == Format::Json {
            service["instances"] = instances;
            service["mailbox"] = mailbox;
            return output.item(&service);
        }
        output.list(&instances, &INSTANCES)?;
        if output.format() == Format::Table && !mailbox.is_null() {
            let of = |name: &str| cell(mailbox.get(name).unwrap_or(&Value::Null));
            eprintln!("{} wait in queue {}, {} in flight", of("waiting"), of("queue"), of("in_flight"));
        }
        Ok(())
    }
}

/// Puts beside an instance what the mailbox knows of it.
fn join(instance: &mut Value, mailbox: &Value) {
    let id = instance.get("id").cloned();
    let known = mailbox.get("instances").and_then(Value::as_array).into_iter().flatten();
    if let Some(member) = known.into_iter().find(|member| member.get("id") == id.as_ref()) {
        for name in ["in_flight", "acked", "latency_ms", "consumers"] {
            if let Some(value) = member.get(name) {
                instance[name] = value.clone();
            }
        }
    }
}

impl Watch {
    /// Runs it.
    ///
    /// # Errors
    /// See [`Failure`].
    pub fn run(&self) -> Result<(), Failure> {
        let api = self.place.server.api();
        let (mut index, mut left) = (0, self.count);
        while left != Some(0) {
            let path = self.place.of(self.place.service(&self.service));
            let path = path.with("index", &index.to_string()).with("wait", POLL);
            let service = api.get(path)?;
            let now = service.get("index").and_then(Value::as_u64).unwrap_or_default();
            if now != index {
                index = now;
                left = left.map(|n| n - 1);
                self.print(&service)?;
            }
        }
        Ok(())
    }

    fn print(&self, service: &Value) -> Result<(), Failure> {
        let output = &self.place.server.output;
        let mut out = std::io::stdout().lock();
        if output.format() == Format::Json {
            writeln!(out, "{service}")?;
        } else {
            for instance in service.get("instances").and_then(Value::as_array).into_iter().flatten() {
                let of = |name: &str| cell(instance.get(name).unwrap_or(&Value::Null));
                let index = cell(service.get("index").unwrap_or(&Value::Null));
                let at = format!("{}:{}", of("address"), of("port"));
                writeln!(out, "{index}\t{}\t{}\t{at}\t{}", of("id"), of("health"), of("version"))?;
            }
        }
        out.flush()?;
        Ok(())
    }
}

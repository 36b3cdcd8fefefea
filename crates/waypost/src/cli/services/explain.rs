//! `waypost route explain`.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::Place;
use super::selector::Selector;
use crate::cli::http::ApiPath;
use crate::cli::pair::pair;
use crate::cli::present::Format;
use crate::exit::Failure;

/// What can be asked of the router.
#[derive(Debug, Subcommand)]
pub enum Route {
    /// Say where a message would go and why, without sending one
    #[command(after_help = "Examples:
  waypost route explain cart --versions '^2' --zone eu-1       to a service
  waypost route explain logs --exchange --routing-key app.error")]
    Explain(Explain),
}

/// Arguments of `route explain`.
#[derive(Debug, Args)]
pub struct Explain {
    /// A service; with --exchange, an exchange
    name: String,
    /// It is an exchange
    #[arg(long, short = 'x')]
    exchange: bool,
    /// A header of the message
    #[arg(short = 'H', long = "header", value_name = "KEY=VALUE", value_parser = pair, requires = "exchange")]
    headers: Vec<(String, String)>,
    /// The routing key
    #[arg(long, value_name = "KEY", requires = "exchange")]
    routing_key: Option<String>,
    #[command(flatten)]
    selector: Selector,
    #[command(flatten)]
    place: Place,
}

impl Route {
    /// Runs it.
    ///
    /// # Errors
    /// See [`Failure`].
    pub fn run(&self) -> Result<(), Failure> {
        let Self::Explain(explain) = self;
        if explain.exchange { explain.exchange() } else { explain.service() }
    }
}

impl Explain {
    /// Columns: the instance, whether it is chosen, and what it would cost or why not.
    fn service(&self) -> Result<(), Failure> {
        let page = self.place.of(self.place.service(&self.name).at("explain"));
        let mut said = self.place.server.api().get(self.selector.on(page))?;
        if self.place.server.output.format() == Format::Json {
            return self.place.server.output.item(&said);
        }
        let chosen: Vec<Value> = list(&said, "chosen").iter().filter_map(|c| c.get("instance").cloned()).collect();
        let mut rows = said.get_mut("candidates").map(Value::take).unwrap_or_default();
        for row in rows.as_array_mut().into_iter().flatten() {
            row["verdict"] = json!(verdict(chosen.contains(&row["instance"]["id"]), row));
        }
        if rows.as_array().is_some_and(Vec::is_empty) {
            eprintln!("the service has no instances: the message would wait in its mailbox");
        }
        let columns = [("INSTANCE", "instance.id"), ("VERDICT", "verdict"), ("COST", "cost"), ("WHY NOT", "rejected")];
        self.place.server.output.list(&rows, &columns)
    }

    /// Columns: the exchange that decided, where to, and why not.
    fn exchange(&self) -> Result<(), Failure> {
        let name = if self.name.is_empty() { "amq.default" } else { &self.name };
        let page = ApiPath::new("exchanges").at(&self.place.vhost.vhost).at(name).at("explain");
        let page = page.with("key", self.routing_key.as_deref().unwrap_or_default());
        let page = self.headers.iter().fold(page, |page, (k, v)| page.with(&format!("header-{k}"), v));
        let said = self.place.server.api().get(page)?;
        if self.place.server.output.format() == Format::Json {
            return self.place.server.output.item(&said);
        }
        let mut rows = Vec::new();
        rows.extend(list(&said, "services").iter().flat_map(service_rows));
        for (part, verdict) in [("hops", "chosen"), ("unmatched", "rejected")] {
            rows.extend(list(&said, part).iter().cloned().map(|mut row| {
                row["verdict"] = json!(verdict);
                row
            }));
        }
        let columns = [
            ("EXCHANGE", "exchange"),
            ("TO", "destination_type"),
            ("NAME", "destination"),
            ("VERDICT", "verdict"),
            ("BINDING KEY", "routing_key"),
            ("WHY NOT", "reason"),
        ];
        self.place.server.output.list(&Value::Array(rows), &columns)
    }
}

/// Which instance of a service would get the message, as rows of an exchange's table.
fn service_rows(service: &Value) -> Vec<Value> {
    let chosen: Vec<&Value> = list(service, "chosen").iter().filter_map(|c| c.get("instance")).collect();
    let instance = |one: &Value| {
        let id = &one["instance"]["id"];
        json!({
            "exchange": service["service"], "destination_type": "instance", "destination": id,
            "verdict": verdict(chosen.contains(&id), one), "reason": one["rejected"],
        })
    };
    let to = if service["mailbox"].is_null() { "service" } else { "queue" };
    let name = if to == "queue" { &service["mailbox"] } else { &service["service"] };
    let mailbox =
        json!({ "exchange": "amq.services", "destination_type": to, "destination": name, "verdict": "chosen" });
    std::iter::once(mailbox).chain(list(service, "candidates").iter().map(instance)).collect()
}

fn verdict(chosen: bool, candidate: &Value) -> &'static str {
    match (chosen, candidate.get("rejected")) {
        (true, _) => "chosen",
        (false, Some(_)) => "rejected",
        (false, None) => "eligible",
    }
}

fn list<'a>(said: &'a Value, name: &str) -> &'a [Value] {
    said.get(name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

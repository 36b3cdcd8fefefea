//! Management of a running server, by its HTTP API under `/api/v1`.

mod access;
mod acls;
mod connections;
mod exchanges;
mod forwarders;
mod groups;
mod policies;
mod queues;
mod topics;
mod vhosts;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Map, Value};

use super::http::{Api, ApiPath, ApiUrl};
use super::pair::pair;
use super::present::OutputArgs;
use super::time::seconds;
use crate::exit::Failure;

/// Subcommands that manage a server.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// The server at a glance
    Status(StatusArgs),
    /// Queues: list (with consumer groups: all that waits), show, declare, delete, purge
    #[command(subcommand, visible_alias = "queue")]
    Queues(queues::Queues),
    /// Exchanges: list, show, declare, delete
    #[command(subcommand, visible_alias = "exchange")]
    Exchanges(exchanges::Exchanges),
    /// Bindings: list, add, remove
    #[command(subcommand, visible_alias = "binding")]
    Bindings(exchanges::Bindings),
    /// Policies and operator policies: list, set, remove
    #[command(subcommand, visible_alias = "policy")]
    Policies(policies::Policies),
    /// Users: list, add, remove, passwords, tags, permissions, limits
    #[command(subcommand, visible_alias = "user")]
    Users(access::Users),
    /// Access control lists of Kafka's clients: list, add, remove
    #[command(subcommand, visible_alias = "acl")]
    Acls(acls::Acls),
    /// Quotas of Kafka's clients: list, set, remove
    #[command(subcommand, visible_alias = "quota")]
    Quotas(acls::Quotas),
    /// Virtual hosts: list, add, remove, limits
    #[command(subcommand, visible_alias = "vhost")]
    Vhosts(vhosts::Vhosts),
    /// Topics: list, show, create, delete, configure, look into
    #[command(subcommand, visible_alias = "topic")]
    Topics(topics::Topics),
    /// Consumer groups: list with lag, show, set anew, delete
    #[command(subcommand, visible_alias = "group")]
    Groups(groups::Groups),
    /// Topics that feed exchanges and services: list, show, add, remove
    #[command(subcommand, visible_alias = "forwarder")]
    Forwarders(forwarders::Forwarders),
    /// Connections: list, close
    #[command(subcommand, visible_alias = "connection")]
    Connections(connections::Connections),
}

/// Which server, and how to print.
#[derive(Debug, Args)]
pub struct ServerArgs {
    /// The server: http[s]://[USER:PASSWORD@]HOST:PORT
    #[arg(
        long,
        env = "WAYPOST_HTTP",
        default_value = "http://127.0.0.1:8500",
        value_name = "URL",
        hide_env_values = true
    )]
    http: ApiUrl,
    /// Authorities whose certificates are believed (PEM), by default the system's
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// How long the server may take, in seconds or with a unit: 500ms, 15s, 2m
    #[arg(long, default_value_t = 30.0, value_name = "TIME", value_parser = seconds)]
    wait: f64,
    #[command(flatten)]
    pub output: OutputArgs,
}

impl ServerArgs {
    /// The server's API.
    pub fn api(&self) -> Api {
        Api::new(self.http.clone(), self.ca.clone(), Duration::from_secs_f64(self.wait))
    }
}

/// Which vhost.
#[derive(Debug, Args)]
pub struct VhostArgs {
    /// The virtual host
    #[arg(short, long, default_value = "/")]
    pub vhost: String,
}

/// Which vhost, or all.
#[derive(Debug, Args)]
pub struct VhostFilter {
    /// Only of this virtual host
    #[arg(short, long)]
    vhost: Option<String>,
}

impl VhostFilter {
    /// The path of a list with this filter.
    pub fn path(&self, list: &str) -> ApiPath {
        let path = ApiPath::new(list);
        match &self.vhost {
            Some(vhost) => path.with("vhost", vhost),
            None => path,
        }
    }
}

/// Arguments of `waypost status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    #[command(flatten)]
    server: ServerArgs,
}

/// Arguments of a definition.
#[derive(Debug, Args)]
pub struct ArgumentArgs {
    /// An argument; the value is a number, true, false or JSON where it reads as such, else text
    #[arg(short, long = "arg", value_name = "KEY=VALUE", value_parser = argument)]
    args: Vec<(String, Value)>,
}

impl ArgumentArgs {
    /// As a JSON object.
    pub fn to_json(&self) -> Value {
        Value::Object(self.args.iter().cloned().collect::<Map<_, _>>())
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.args.is_empty()
    }
}

/// `KEY=VALUE`, the value as the JSON that it reads as, else as text.
pub fn argument(text: &str) -> Result<(String, Value), String> {
    let (key, value) = pair(text)?;
    Ok((key, serde_json::from_str(&value).unwrap_or_else(|_| Value::from(value))))
}

/// A limit: a number or `none`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit(Option<u64>);

impl std::str::FromStr for Limit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Self(None)),
            number => number.parse().map(|n| Self(Some(n))).map_err(|_| "expected a number or none".to_owned()),
        }
    }
}

/// Adds those limits to `now` that were given.
pub fn with_limits(now: &Value, given: &[(&str, Option<Limit>)]) -> Value {
    let mut all = Map::new();
    for (name, limit) in given {
        let value = match limit {
            Some(Limit(number)) => Value::from(*number),
            None => now.get("limits").and_then(|l| l.get(name)).cloned().unwrap_or(Value::Null),
        };
        all.insert((*name).to_owned(), value);
    }
    Value::Object(all)
}

/// Runs one of them.
///
/// # Errors
/// By the kind of what went wrong, see [`Failure`].
pub fn run(command: &Command) -> Result<(), Failure> {
    match command {
        Command::Status(args) => {
            let overview = args.server.api().get(ApiPath::new("overview"))?;
            args.server.output.item(&overview)
        }
        Command::Queues(command) => command.run(),
        Command::Exchanges(command) => command.run(),
        Command::Bindings(command) => command.run(),
        Command::Policies(command) => command.run(),
        Command::Users(command) => command.run(),
        Command::Acls(command) => command.run(),
        Command::Quotas(command) => command.run(),
        Command::Vhosts(command) => command.run(),
        Command::Topics(command) => command.run(),
        Command::Groups(command) => command.run(),
        Command::Forwarders(command) => command.run(),
        Command::Connections(command) => command.run(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn arguments_read_as_what_they_look_like() {
        assert_eq!(argument("x-max-length=5").unwrap(), ("x-max-length".to_owned(), json!(5)));
        assert_eq!(argument("x-overflow=drop-head").unwrap().1, json!("drop-head"));
        assert!(argument("=1").is_err());
    }

    #[test]
    fn limits_that_are_not_named_stay() {
        let now = json!({"limits": {"a": 1, "b": 2}});
        let all = with_limits(&now, &[("a", Some(Limit(None))), ("b", None), ("c", Some("7".parse().unwrap()))]);
        assert_eq!(all, json!({"a": null, "b": 2, "c": 7}));
    }
}

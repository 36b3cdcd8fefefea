//! `waypost topics`.

use clap::Subcommand;
use serde_json::{Map, Value, json};

use super::{ServerArgs, VhostArgs, VhostFilter};
use crate::cli::http::ApiPath;
use crate::cli::pair::pair;
use crate::exit::Failure;

/// What can be done with topics.
#[derive(Debug, Subcommand)]
pub enum Topics {
    /// List topics
    Ls {
        #[command(flatten)]
        filter: VhostFilter,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Show a topic: its partitions, its groups, what is configured
    Show {
        name: String,
        #[command(flatten)]
        vhost: VhostArgs,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Make a topic; one that is there gets more partitions and other settings
    #[command(after_help = "Example: waypost topics create orders --partitions 3 -c retention.ms=86400000")]
    Create {
        name: String,
        /// How many partitions; by default what the server is configured for
        #[arg(short, long)]
        partitions: Option<u32>,
        /// A setting, by Kafka's names
        #[arg(short, long = "config", value_name = "KEY=VALUE", value_parser = pair)]
        configs: Vec<(String, String)>,
        #[command(flatten)]
        vhost: VhostArgs,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Delete a topic with all that is in it
    Delete {
        name: String,
        #[command(flatten)]
        vhost: VhostArgs,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Show what is configured, or change it
    #[command(after_help = "Example: waypost topics config orders --set retention.ms=-1 --unset segment.bytes")]
    Config {
        name: String,
        /// Give a setting a value
        #[arg(short, long = "set", value_name = "KEY=VALUE", value_parser = pair)]
        sets: Vec<(String, String)>,
        /// Take a setting back to its default
        #[arg(short, long = "unset", value_name = "KEY")]
        unsets: Vec<String>,
        #[command(flatten)]
        vhost: VhostArgs,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Print records
    Records {
        name: String,
        /// The partition
        #[arg(short, long, default_value_t = 0)]
        partition: u32,
        /// From this offset on: a number, `earliest`, or `latest` for the last ones
        #[arg(long, default_value = "earliest")]
        offset: String,
        /// How many
        #[arg(short = 'n', long, default_value_t = 20)]
        count: u32,
        #[command(flatten)]
        vhost: VhostArgs,
        #[command(flatten)]
        server: ServerArgs,
    },
}

fn path(vhost: &VhostArgs, name: &str) -> ApiPath {
    ApiPath::new("topics").at(&vhost.vhost).at(name)
}

fn object(settings: &[(String, String)]) -> Map<String, Value> {
    settings.iter().map(|(key, value)| (key.clone(), Value::from(value.as_str()))).collect()
}

impl Topics {
    /// Does it.
    ///
    /// # Errors
    /// By the kind of what went wrong.
    pub fn run(&self) -> Result<(), Failure> {
        match self {
            Self::Ls { filter, server } => {
                let columns = [
                    ("VHOST", "vhost"),
                    ("NAME", "name"),
                    ("PARTITIONS", "partitions"),
                    ("RECORDS", "messages"),
                    ("BYTES", "bytes"),
                    ("QUEUE", "queue"),
                ];
                server.output.list(&server.api().get(filter.path("topics"))?, &columns)
            }
            Self::Show { name, vhost, server } => server.output.item(&server.api().get(path(vhost, name))?),
            Self::Create { name, partitions, configs, vhost, server } => {
                let mut body = json!({ "config": object(configs) });
                if let Some(n) = partitions {
                    body["partitions"] = Value::from(*n);
                }
                let answer = server.api().put(path(vhost, name), &body)?;
                server.output.done(&answer, &format!("topic {name} is there"))
            }
            Self::Delete { name, vhost, server } => {
                let answer = server.api().delete(path(vhost, name))?;
                server.output.done(&answer, &format!("topic {name} is deleted"))
            }
            Self::Config { name, sets, unsets, vhost, server } => {
                let path = path(vhost, name).at("config");
                if sets.is_empty() && unsets.is_empty() {
                    let columns = [("NAME", "name"), ("VALUE", "value"), ("SET", "set"), ("DEFAULT", "default")];
                    return server.output.list(&server.api().get(path)?, &columns);
                }
                let mut body = object(sets);
                body.extend(unsets.iter().map(|key| (key.clone(), Value::Null)));
                let answer = server.api().put(path, &Value::Object(body))?;
                server.output.done(&answer, &format!("topic {name} is configured"))
            }
            Self::Records { name, partition, offset, count, vhost, server } => {
                let path = path(vhost, name).at("records").with("partition", &partition.to_string());
                let path = path.with("offset", offset).with("limit", &count.to_string());
                let columns = [("OFFSET", "offset"), ("TIME", "timestamp"), ("KEY", "key"), ("VALUE", "value")];
                server.output.list(&server.api().get(path)?, &columns)
            }
        }
    }
}

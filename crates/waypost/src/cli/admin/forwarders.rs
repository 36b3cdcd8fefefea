//! `waypost forwarders`.

use clap::Subcommand;
use serde_json::{Value, json};

use super::{ServerArgs, VhostArgs, VhostFilter};
use crate::cli::http::ApiPath;
use crate::exit::Failure;

/// What can be done with forwarders.
#[derive(Debug, Subcommand)]
pub enum Forwarders {
    /// List forwarders, those of topics of services included
    Ls {
        #[command(flatten)]
        filter: VhostFilter,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Show a forwarder
    Show {
        name: String,
        #[command(flatten)]
        vhost: VhostArgs,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Have a topic feed an exchange
    #[command(after_help = "Example: waypost forwarders add orders-out --topic orders --exchange amq.topic")]
    Add {
        name: String,
        /// The topic
        #[arg(long)]
        topic: String,
        /// The exchange; '' is the default exchange, whose routing keys are names of queues
        #[arg(long)]
        exchange: String,
        /// The routing key; by default each record's key
        #[arg(long)]
        routing_key: Option<String>,
        /// Begin with what comes from now on, rather than with what is there
        #[arg(long)]
        from_latest: bool,
        #[command(flatten)]
        vhost: VhostArgs,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// End a forwarder and forget its position
    Rm {
        name: String,
        #[command(flatten)]
        vhost: VhostArgs,
        #[command(flatten)]
        server: ServerArgs,
    },
}

fn path(vhost: &VhostArgs, name: &str) -> ApiPath {
    ApiPath::new("forwarders").at(&vhost.vhost).at(name)
}

impl Forwarders {
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
                    ("TOPIC", "topic"),
                    ("EXCHANGE", "to.exchange"),
                    ("SERVICE", "to.service"),
                    ("FORWARDED", "forwarded"),
                    ("LAG", "lag"),
                    ("WAITS-FOR", "waits_for"),
                ];
                server.output.list(&server.api().get(filter.path("forwarders"))?, &columns)
            }
            Self::Show { name, vhost, server } => server.output.item(&server.api().get(path(vhost, name))?),
            Self::Add { name, topic, exchange, routing_key, from_latest, vhost, server } => {
                let mut body = json!({ "topic": topic, "exchange": exchange });
                body["from"] = Value::from(if *from_latest { "latest" } else { "earliest" });
                if let Some(key) = routing_key {
                    body["routing_key"] = Value::from(key.as_str());
                }
                let answer = server.api().put(path(vhost, name), &body)?;
                server.output.done(&answer, &format!("topic {topic} feeds exchange {exchange}"))
            }
            Self::Rm { name, vhost, server } => {
                let answer = server.api().delete(path(vhost, name))?;
                server.output.done(&answer, &format!("forwarder {name} is removed"))
            }
        }
    }
}

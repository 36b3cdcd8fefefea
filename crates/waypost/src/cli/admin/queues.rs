//! `waypost queues`.

use clap::{Subcommand, ValueEnum};
use serde_json::json;

use super::{ArgumentArgs, ServerArgs, VhostArgs, VhostFilter};
use crate::cli::http::ApiPath;
use crate::exit::Failure;

/// What can be done with queues.
#[derive(Debug, Subcommand)]
pub enum Queues {
    /// List all that waits for somebody: queues, mailboxes of services, topics, and consumer groups with their lag
    #[command(after_help = "Example: waypost queues ls --type group,classic")]
    Ls {
        /// Only of these types
        #[arg(short, long = "type", value_name = "TYPE", value_delimiter = ',')]
        types: Vec<Type>,
        #[command(flatten)]
        filter: VhostFilter,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Show all about a queue
    Show {
        name: String,
        #[command(flatten)]
        vhost: VhostArgs,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Declare a queue; that there is an equal one is fine
    #[command(after_help = "Example: waypost queues declare orders -a x-queue-type=quorum -a x-max-length=100000")]
    Declare {
        name: String,
        /// It does not survive a restart
        #[arg(long)]
        transient: bool,
        /// It goes with its last consumer
        #[arg(long)]
        auto_delete: bool,
        #[command(flatten)]
        arguments: ArgumentArgs,
        #[command(flatten)]
        vhost: VhostArgs,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Delete a queue with all that is in it
    Delete {
        name: String,
        /// Only without consumers
        #[arg(long)]
        if_unused: bool,
        /// Only without ready messages
        #[arg(long)]
        if_empty: bool,
        #[command(flatten)]
        vhost: VhostArgs,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Remove all ready messages of a queue
    Purge {
        name: String,
        #[command(flatten)]
        vhost: VhostArgs,
        #[command(flatten)]
        server: ServerArgs,
    },
}

/// What a row of the listing is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Type {
    /// Classic queues
    Classic,
    /// Quorum queues
    Quorum,
    /// Topics that a queue is declared for
    Stream,
    /// Other topics
    Topic,
    /// Consumer groups; what waits for one is its lag
    Group,
}

impl Type {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Classic => "classic",
            Self::Quorum => "quorum",
            Self::Stream => "stream",
            Self::Topic => "topic",
            Self::Group => "group",
        }
    }
}

fn path(vhost: &VhostArgs, name: &str) -> ApiPath {
    ApiPath::new("queues").at(&vhost.vhost).at(name)
}

impl Queues {
    /// Does it.
    ///
    /// # Errors
    /// By the kind of what went wrong.
    pub fn run(&self) -> Result<(), Failure> {
        match self {
            Self::Ls { types, filter, server } => {
                let columns = [
                    ("VHOST", "vhost"),
                    ("NAME", "name"),
                    ("TYPE", "type"),
                    ("READY", "messages_ready"),
                    ("UNACKED", "messages_unacknowledged"),
                    ("CONSUMERS", "consumers"),
                    ("POLICY", "policy"),
                    ("STATE", "state"),
                    ("SERVICE", "service"),
                    ("TOPICS", "topics"),
                ];
                let mut path = filter.path("backlogs");
                if !types.is_empty() {
                    let types: Vec<&str> = types.iter().map(|t| t.as_str()).collect();
                    path = path.with("type", &types.join(","));
                }
                server.output.list(&server.api().get(path)?, &columns)
            }
            Self::Show { name, vhost, server } => server.output.item(&server.api().get(path(vhost, name))?),
            Self::Declare { name, transient, auto_delete, arguments, vhost, server } => {
                let body = json!({
                    "durable": !transient,
                    "auto_delete": auto_delete,
                    "arguments": arguments.to_json(),
                });
                let answer = server.api().put(path(vhost, name), &body)?;
                server.output.done(&answer, &format!("queue {name} is declared"))
            }
            Self::Delete { name, if_unused, if_empty, vhost, server } => {
                let mut path = path(vhost, name);
                for (given, parameter) in [(if_unused, "if_unused"), (if_empty, "if_empty")] {
                    if *given {
                        path = path.with(parameter, "true");
                    }
                }
                let answer = server.api().delete(path)?;
                server.output.done(&answer, &format!("queue {name} is deleted"))
            }
            Self::Purge { name, vhost, server } => {
                let answer = server.api().post(path(vhost, name).at("purge"), &json!({}))?;
                let count = answer.get("messages").and_then(serde_json::Value::as_u64).unwrap_or(0);
                server.output.done(&answer, &format!("{count} messages removed from queue {name}"))
            }
        }
    }
}

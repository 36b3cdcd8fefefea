//! `waypost vhosts`.

use clap::Subcommand;
use serde_json::json;

use super::{Limit, ServerArgs, with_limits};
use crate::cli::http::ApiPath;
use crate::exit::Failure;

/// What can be done with virtual hosts.
#[derive(Debug, Subcommand)]
pub enum Vhosts {
    /// List virtual hosts
    Ls {
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Create a virtual host, or change what is said of one
    Add {
        name: String,
        /// For people
        #[arg(long, default_value = "")]
        description: String,
        /// For people and tools
        #[arg(long, value_delimiter = ',')]
        tags: Vec<String>,
        /// The type of queues that are declared without one: classic or quorum
        #[arg(long, value_name = "TYPE")]
        default_queue_type: Option<String>,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Delete a virtual host with all that is in it
    Rm {
        name: String,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Show or change the limits of a virtual host
    Limits {
        name: String,
        /// Connections at a time, or none
        #[arg(long, value_name = "COUNT|none")]
        max_connections: Option<Limit>,
        /// Queues, or none
        #[arg(long, value_name = "COUNT|none")]
        max_queues: Option<Limit>,
        #[command(flatten)]
        server: ServerArgs,
    },
}

impl Vhosts {
    /// Does it.
    ///
    /// # Errors
    /// By the kind of what went wrong.
    pub fn run(&self) -> Result<(), Failure> {
        let at = |name: &str| ApiPath::new("vhosts").at(name);
        match self {
            Self::Ls { server } => {
                let columns = [
                    ("NAME", "name"),
                    ("DESCRIPTION", "description"),
                    ("QUEUES", "queues"),
                    ("EXCHANGES", "exchanges"),
                    ("MAX-CONNECTIONS", "limits.max_connections"),
                    ("MAX-QUEUES", "limits.max_queues"),
                ];
                server.output.list(&server.api().get(ApiPath::new("vhosts"))?, &columns)
            }
            Self::Add { name, description, tags, default_queue_type, server } => {
                let body = json!({"description": description, "tags": tags, "default_queue_type": default_queue_type});
                let answer = server.api().put(at(name), &body)?;
                server.output.done(&answer, &format!("virtual host {name} is there"))
            }
            Self::Rm { name, server } => {
                let answer = server.api().delete(at(name))?;
                server.output.done(&answer, &format!("virtual host {name} is deleted"))
            }
            Self::Limits { name, max_connections, max_queues, server } => {
                let now = server.api().get(at(name))?;
                if max_connections.is_none() && max_queues.is_none() {
                    return server.output.item(now.get("limits").unwrap_or(&serde_json::Value::Null));
                }
                let given = [("max_connections", *max_connections), ("max_queues", *max_queues)];
                let answer = server.api().put(at(name).at("limits"), &with_limits(&now, &given))?;
                server.output.done(&answer, &format!("limits of virtual host {name} are set"))
            }
        }
    }
}

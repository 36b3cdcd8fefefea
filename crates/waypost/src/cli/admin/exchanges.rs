//! `waypost exchanges` and `waypost bindings`.

use clap::{Args, Subcommand};
use serde_json::json;

use super::{ArgumentArgs, ServerArgs, VhostArgs, VhostFilter};
use crate::cli::http::ApiPath;
use crate::exit::Failure;

/// What can be done with exchanges.
#[derive(Debug, Subcommand)]
pub enum Exchanges {
    /// List exchanges
    Ls {
        #[command(flatten)]
        filter: VhostFilter,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Show all about an exchange
    Show {
        name: String,
        #[command(flatten)]
        vhost: VhostArgs,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Declare an exchange; that there is an equal one is fine
    #[command(after_help = "Example: waypost exchanges declare logs topic -a alternate-exchange=unrouted")]
    Declare {
        name: String,
        /// direct, fanout, topic, headers, x-consistent-hash or x-delayed-message
        #[arg(value_name = "TYPE")]
        kind: String,
        /// It does not survive a restart
        #[arg(long)]
        transient: bool,
        /// It goes with its last binding
        #[arg(long)]
        auto_delete: bool,
        /// It takes messages from exchanges only
        #[arg(long)]
        internal: bool,
        #[command(flatten)]
        arguments: ArgumentArgs,
        #[command(flatten)]
        vhost: VhostArgs,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Delete an exchange with its bindings
    Delete {
        name: String,
        /// Only if nothing is bound to it
        #[arg(long)]
        if_unused: bool,
        #[command(flatten)]
        vhost: VhostArgs,
        #[command(flatten)]
        server: ServerArgs,
    },
}

impl Exchanges {
    /// Does it.
    ///
    /// # Errors
    /// By the kind of what went wrong.
    pub fn run(&self) -> Result<(), Failure> {
        let at = |vhost: &VhostArgs, name: &str| {
            // A path cannot name the default exchange as it is.
            ApiPath::new("exchanges").at(&vhost.vhost).at(if name.is_empty() { "amq.default" } else { name })
        };
        match self {
            Self::Ls { filter, server } => {
                let columns = [
                    ("VHOST", "vhost"),
                    ("NAME", "name"),
                    ("TYPE", "type"),
                    ("DURABLE", "durable"),
                    ("INTERNAL", "internal"),
                    ("POLICY", "policy"),
                ];
                server.output.list(&server.api().get(filter.path("exchanges"))?, &columns)
            }
            Self::Show { name, vhost, server } => server.output.item(&server.api().get(at(vhost, name))?),
            Self::Declare { name, kind, transient, auto_delete, internal, arguments, vhost, server } => {
                let body = json!({
                    "type": kind,
                    "durable": !transient,
                    "auto_delete": auto_delete,
                    "internal": internal,
                    "arguments": arguments.to_json(),
                });
                let answer = server.api().put(at(vhost, name), &body)?;
                server.output.done(&answer, &format!("exchange {name} is declared"))
            }
            Self::Delete { name, if_unused, vhost, server } => {
                let path = at(vhost, name);
                let path = if *if_unused { path.with("if_unused", "true") } else { path };
                let answer = server.api().delete(path)?;
                server.output.done(&answer, &format!("exchange {name} is deleted"))
            }
        }
    }
}

/// What can be done with bindings.
#[derive(Debug, Subcommand)]
pub enum Bindings {
    /// List bindings
    Ls {
        #[command(flatten)]
        filter: VhostFilter,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Bind a queue or an exchange to an exchange
    #[command(after_help = "Example: waypost bindings add logs errors '#.error'")]
    Add(BindingArgs),
    /// Remove a binding
    Rm(BindingArgs),
}

/// One binding.
#[derive(Debug, Args)]
pub struct BindingArgs {
    /// The exchange that messages come from
    source: String,
    /// The queue (or exchange) that they go to
    destination: String,
    /// The binding key
    #[arg(default_value = "")]
    routing_key: String,
    /// The destination is an exchange
    #[arg(long)]
    to_exchange: bool,
    #[command(flatten)]
    arguments: ArgumentArgs,
    #[command(flatten)]
    vhost: VhostArgs,
    #[command(flatten)]
    server: ServerArgs,
}

impl BindingArgs {
    fn destination_type(&self) -> &'static str {
        if self.to_exchange { "exchange" } else { "queue" }
    }

    fn add(&self) -> Result<(), Failure> {
        let body = json!({
            "source": self.source,
            "destination": self.destination,
            "destination_type": self.destination_type(),
            "routing_key": self.routing_key,
            "arguments": self.arguments.to_json(),
        });
        let answer = self.server.api().post(ApiPath::new("bindings").at(&self.vhost.vhost), &body)?;
        self.server.output.done(&answer, &format!("{} is bound to {}", self.destination, self.source))
    }

    fn remove(&self) -> Result<(), Failure> {
        let mut path = ApiPath::new("bindings")
            .at(&self.vhost.vhost)
            .with("source", &self.source)
            .with("destination", &self.destination)
            .with("destination_type", self.destination_type())
            .with("routing_key", &self.routing_key);
        if !self.arguments.is_empty() {
            path = path.with("arguments", &self.arguments.to_json().to_string());
        }
        let answer = self.server.api().delete(path)?;
        self.server.output.done(&answer, &format!("{} is no longer bound to {} so", self.destination, self.source))
    }
}

impl Bindings {
    /// Does it.
    ///
    /// # Errors
    /// By the kind of what went wrong.
    pub fn run(&self) -> Result<(), Failure> {
        match self {
            Self::Ls { filter, server } => {
                let columns = [
                    ("VHOST", "vhost"),
                    ("SOURCE", "source"),
                    ("TO", "destination_type"),
                    ("DESTINATION", "destination"),
                    ("KEY", "routing_key"),
                    ("ARGUMENTS", "arguments"),
                ];
                server.output.list(&server.api().get(filter.path("bindings"))?, &columns)
            }
            Self::Add(binding) => binding.add(),
            Self::Rm(binding) => binding.remove(),
        }
    }
}

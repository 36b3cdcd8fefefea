//! `waypost policies`.

use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;

use super::{ArgumentArgs, ServerArgs, VhostArgs, VhostFilter};
use crate::cli::http::ApiPath;
use crate::exit::Failure;

/// What can be done with policies.
#[derive(Debug, Subcommand)]
pub enum Policies {
    /// List policies
    Ls {
        #[command(flatten)]
        sort: Sort,
        #[command(flatten)]
        filter: VhostFilter,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Set a policy; it applies at once to all that it matches
    #[command(
        after_help = "Example: waypost policies set capped '^logs\\.' -a max-length=10000 -a overflow=drop-head --apply-to queues"
    )]
    Set {
        name: String,
        /// Regular expression on names
        pattern: String,
        /// Of several that match, the highest counts
        #[arg(long, default_value_t = 0, allow_hyphen_values = true)]
        priority: i64,
        #[arg(long, value_enum, default_value_t)]
        apply_to: ApplyTo,
        /// Settings of the policy
        #[command(flatten)]
        definition: ArgumentArgs,
        #[command(flatten)]
        sort: Sort,
        #[command(flatten)]
        vhost: VhostArgs,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Remove a policy
    Rm {
        name: String,
        #[command(flatten)]
        sort: Sort,
        #[command(flatten)]
        vhost: VhostArgs,
        #[command(flatten)]
        server: ServerArgs,
    },
}

/// Which sort of policies.
#[derive(Debug, Args)]
pub struct Sort {
    /// Operator policies, whose limits users cannot exceed
    #[arg(long)]
    operator: bool,
}

impl Sort {
    fn list(&self) -> &'static str {
        if self.operator { "operator-policies" } else { "policies" }
    }
}

/// What a policy applies to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ApplyTo {
    /// Queues and exchanges
    #[default]
    All,
    /// Queues
    Queues,
    /// Exchanges
    Exchanges,
    /// Queues of type classic
    ClassicQueues,
    /// Queues of type quorum
    QuorumQueues,
}

impl ApplyTo {
    fn as_str(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Queues => "queues",
            Self::Exchanges => "exchanges",
            Self::ClassicQueues => "classic_queues",
            Self::QuorumQueues => "quorum_queues",
        }
    }
}

impl Policies {
    /// Does it.
    ///
    /// # Errors
    /// By the kind of what went wrong.
    pub fn run(&self) -> Result<(), Failure> {
        match self {
            Self::Ls { sort, filter, server } => {
                let columns = [
                    ("VHOST", "vhost"),
                    ("NAME", "name"),
                    ("PATTERN", "pattern"),
                    ("APPLY-TO", "apply_to"),
                    ("PRIORITY", "priority"),
                    ("DEFINITION", "definition"),
                ];
                server.output.list(&server.api().get(filter.path(sort.list()))?, &columns)
            }
            Self::Set { name, pattern, priority, apply_to, definition, sort, vhost, server } => {
                let body = json!({
                    "pattern": pattern,
                    "priority": priority,
                    "apply_to": apply_to.as_str(),
                    "definition": definition.to_json(),
                });
                let answer = server.api().put(ApiPath::new(sort.list()).at(&vhost.vhost).at(name), &body)?;
                server.output.done(&answer, &format!("policy {name} is set"))
            }
            Self::Rm { name, sort, vhost, server } => {
                let answer = server.api().delete(ApiPath::new(sort.list()).at(&vhost.vhost).at(name))?;
                server.output.done(&answer, &format!("policy {name} is removed"))
            }
        }
    }
}

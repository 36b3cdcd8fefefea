//! `waypost connections`.

use clap::Subcommand;

use super::ServerArgs;
use crate::cli::http::ApiPath;
use crate::exit::Failure;

/// What can be done with connections.
#[derive(Debug, Subcommand)]
pub enum Connections {
    /// List connections
    Ls {
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Close a connection
    Close {
        /// Its name, as listed
        name: String,
        /// What its peer is told
        #[arg(long, default_value = "CLOSED_VIA_CLI")]
        reason: String,
        #[command(flatten)]
        server: ServerArgs,
    },
}

impl Connections {
    /// Does it.
    ///
    /// # Errors
    /// By the kind of what went wrong.
    pub fn run(&self) -> Result<(), Failure> {
        match self {
            Self::Ls { server } => {
                let columns = [
                    ("NAME", "name"),
                    ("PROTOCOL", "protocol"),
                    ("USER", "user"),
                    ("VHOST", "vhost"),
                    ("CHANNELS", "channels"),
                    ("CONSUMERS", "consumers"),
                    ("TLS", "tls"),
                ];
                server.output.list(&server.api().get(ApiPath::new("connections"))?, &columns)
            }
            Self::Close { name, reason, server } => {
                let answer = server.api().delete(ApiPath::new("connections").at(name).with("reason", reason))?;
                server.output.done(&answer, &format!("connection {name} is being closed"))
            }
        }
    }
}

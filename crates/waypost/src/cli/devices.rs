//! `waypost devices`.

use clap::Subcommand;
use serde_json::json;

use super::admin::ServerArgs;
use super::http::ApiPath;
use crate::exit::Failure;

/// What can be done with ZeroMQ devices.
#[derive(Debug, Subcommand)]
pub enum Devices {
    /// List devices
    Ls {
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Show a device with its counters
    Show {
        name: String,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Declare a device and print where it listens; it lasts until it is removed or the server stops
    #[command(
        after_help = "Example: waypost devices add streamer,front=bind:tcp://127.0.0.1:5557,back=bind:tcp://127.0.0.1:5558"
    )]
    Add {
        /// The device as `serve --zmtp` takes it: KIND,front=DIRECTION:ENDPOINT,back=DIRECTION:ENDPOINT[,option=value…]
        definition: String,
        /// What it is called; by default its kind with a number
        #[arg(long)]
        name: Option<String>,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Remove a device; what waits for its peers is written first
    Rm {
        name: String,
        #[command(flatten)]
        server: ServerArgs,
    },
}

impl Devices {
    /// Does it.
    ///
    /// # Errors
    /// By the kind of what went wrong.
    pub fn run(&self) -> Result<(), Failure> {
        let all = || ApiPath::new("devices");
        match self {
            Self::Ls { server } => {
                let columns = [
                    ("NAME", "name"),
                    ("KIND", "kind"),
                    ("STATE", "state"),
                    ("ENDPOINTS", "endpoints"),
                    ("PEERS", "peers"),
                    ("RECEIVED", "messages.received"),
                    ("SENT", "messages.sent"),
                    ("BYTES-IN", "bytes.received"),
                    ("BYTES-OUT", "bytes.sent"),
                    ("DROPPED", "messages.dropped"),
                    ("BLOCKED", "blocked"),
                ];
                server.output.list(&server.api().get(all())?, &columns)
            }
            Self::Show { name, server } => server.output.item(&server.api().get(all().at(name))?),
            Self::Add { definition, name, server } => {
                let body = json!({ "definition": definition });
                let api = server.api();
                let device = match name {
                    Some(name) => api.put(all().at(name), &body)?,
                    None => api.post(all(), &body)?,
                };
                server.output.list(&device, &[("NAME", "name"), ("KIND", "kind"), ("ENDPOINTS", "endpoints")])
            }
            Self::Rm { name, server } => {
                let answer = server.api().delete(all().at(name))?;
                let done =
                    if answer.is_null() { "is removed" } else { "is being removed: peers still take what waits" };
                server.output.done(&answer, &format!("device {name} {done}"))
            }
        }
    }
}

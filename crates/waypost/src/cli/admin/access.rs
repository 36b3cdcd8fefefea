//! `waypost users`: who may come in, and what they may do.

use std::io::{BufRead as _, IsTerminal as _};

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::{Limit, ServerArgs, VhostArgs, with_limits};
use crate::cli::http::ApiPath;
use crate::exit::Failure;

/// What can be done with users.
#[derive(Debug, Subcommand)]
pub enum Users {
    /// List users
    Ls {
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Create a user
    #[command(after_help = "Examples:
  printf %s \"$SECRET\" | waypost users add shop --password-stdin
  waypost users permissions set shop '^shop\\.' '^shop\\.' '.*'

A new user may do nothing until it has permissions.")]
    Add {
        name: String,
        #[command(flatten)]
        password: PasswordArgs,
        /// Tags, such as administrator or monitoring
        #[arg(long, value_delimiter = ',')]
        tags: Vec<String>,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Change a user's password
    Passwd {
        name: String,
        #[command(flatten)]
        password: PasswordArgs,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Delete a user; its connections are closed
    Rm {
        name: String,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Replace a user's tags
    Tags {
        name: String,
        tags: Vec<String>,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// What users may do
    #[command(subcommand)]
    Permissions(Permissions),
    /// Show or change a user's limits
    Limits {
        name: String,
        /// Connections at a time, or none
        #[arg(long, value_name = "COUNT|none")]
        max_connections: Option<Limit>,
        /// Channels at a time, or none
        #[arg(long, value_name = "COUNT|none")]
        max_channels: Option<Limit>,
        #[command(flatten)]
        server: ServerArgs,
    },
}

/// Where a password comes from.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct PasswordArgs {
    /// The password; other users of this machine can see it while the command runs
    #[arg(long)]
    password: Option<String>,
    /// Take the password from the first line of standard input
    #[arg(long)]
    password_stdin: bool,
    /// A hash in RabbitMQ's form: base64 of 4 bytes of salt and the SHA-256 of salt and password
    #[arg(long, value_name = "HASH")]
    password_hash: Option<String>,
}

impl PasswordArgs {
    fn put_into(&self, body: &mut Value) -> Result<(), Failure> {
        if let Some(hash) = &self.password_hash {
            body["password_hash"] = hash.as_str().into();
            return Ok(());
        }
        let password = match &self.password {
            Some(password) => password.clone(),
            None => first_line()?,
        };
        if password.is_empty() {
            return Err(Failure::Usage("the password is empty".to_owned()));
        }
        body["password"] = password.into();
        Ok(())
    }
}

fn first_line() -> Result<String, Failure> {
    let stdin = std::io::stdin();
    if stdin.is_terminal() {
        return Err(Failure::Usage("--password-stdin on a terminal would show the password: pipe it in".to_owned()));
    }
    let mut line = String::new();
    stdin.lock().read_line(&mut line)?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

/// What can be done with permissions.
#[derive(Debug, Subcommand)]
pub enum Permissions {
    /// List permissions
    Ls {
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Set a user's permissions in a virtual host: regular expressions on names of queues and exchanges
    Set {
        user: String,
        /// What it may create, alter and delete
        configure: String,
        /// What it may publish to and bind to
        write: String,
        /// What it may consume and bind from
        read: String,
        #[command(flatten)]
        vhost: VhostArgs,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Take a user's permissions in a virtual host away
    Rm {
        user: String,
        #[command(flatten)]
        vhost: VhostArgs,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// List topic permissions
    TopicLs {
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Set a user's permissions on the routing keys of a topic exchange
    TopicSet {
        user: String,
        exchange: String,
        /// Routing keys that it may publish with
        write: String,
        /// Routing keys that it may bind with
        read: String,
        #[command(flatten)]
        vhost: VhostArgs,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Take a user's permissions on a topic exchange away
    TopicRm {
        user: String,
        exchange: String,
        #[command(flatten)]
        vhost: VhostArgs,
        #[command(flatten)]
        server: ServerArgs,
    },
}

fn at(name: &str) -> ApiPath {
    ApiPath::new("users").at(name)
}

impl Users {
    /// Does it.
    ///
    /// # Errors
    /// By the kind of what went wrong.
    pub fn run(&self) -> Result<(), Failure> {
        match self {
            Self::Ls { server } => {
                let columns = [
                    ("NAME", "name"),
                    ("TAGS", "tags"),
                    ("LOOPBACK-ONLY", "loopback_only"),
                    ("MAX-CONNECTIONS", "limits.max_connections"),
                    ("MAX-CHANNELS", "limits.max_channels"),
                ];
                server.output.list(&server.api().get(ApiPath::new("users"))?, &columns)
            }
            Self::Add { name, password, tags, server } => add(name, password, tags, server),
            Self::Passwd { name, password, server } => {
                // Else a mistyped name would make a user.
                server.api().get(at(name))?;
                let mut body = json!({});
                password.put_into(&mut body)?;
                let answer = server.api().put(at(name), &body)?;
                server.output.done(&answer, &format!("user {name} has a new password"))
            }
            Self::Rm { name, server } => {
                let answer = server.api().delete(at(name))?;
                server.output.done(&answer, &format!("user {name} is deleted"))
            }
            Self::Tags { name, tags, server } => {
                server.api().get(at(name))?;
                let answer = server.api().put(at(name), &json!({"tags": tags}))?;
                server.output.done(&answer, &format!("user {name} has the tags {}", tags.join(", ")))
            }
            Self::Permissions(command) => command.run(),
            Self::Limits { name, max_connections, max_channels, server } => {
                let now = server.api().get(at(name))?;
                if max_connections.is_none() && max_channels.is_none() {
                    return server.output.item(now.get("limits").unwrap_or(&Value::Null));
                }
                let given = [("max_connections", *max_connections), ("max_channels", *max_channels)];
                let answer = server.api().put(at(name).at("limits"), &with_limits(&now, &given))?;
                server.output.done(&answer, &format!("limits of user {name} are set"))
            }
        }
    }
}

fn add(name: &str, password: &PasswordArgs, tags: &[String], server: &ServerArgs) -> Result<(), Failure> {
    match server.api().get(at(name)) {
        Err(Failure::NotFound(_)) => {}
        Err(other) => return Err(other),
        Ok(_) => return Err(Failure::Conflict(format!("user {name} is there already: see passwd and tags"))),
    }
    let mut body = json!({"tags": tags});
    password.put_into(&mut body)?;
    let answer = server.api().put(at(name), &body)?;
    server.output.done(&answer, &format!("user {name} is created"))
}

impl Permissions {
    fn run(&self) -> Result<(), Failure> {
        let one = |vhost: &VhostArgs, user: &str| ApiPath::new("permissions").at(&vhost.vhost).at(user);
        let topic = |vhost: &VhostArgs, user: &str, exchange: &str| {
            ApiPath::new("topic-permissions").at(&vhost.vhost).at(user).with("exchange", exchange)
        };
        match self {
            Self::Ls { server } => {
                let columns = [
                    ("USER", "user"),
                    ("VHOST", "vhost"),
                    ("CONFIGURE", "configure"),
                    ("WRITE", "write"),
                    ("READ", "read"),
                ];
                server.output.list(&server.api().get(ApiPath::new("permissions"))?, &columns)
            }
            Self::Set { user, configure, write, read, vhost, server } => {
                let body = json!({"configure": configure, "write": write, "read": read});
                let answer = server.api().put(one(vhost, user), &body)?;
                server.output.done(&answer, &format!("permissions of {user} in {} are set", vhost.vhost))
            }
            Self::Rm { user, vhost, server } => {
                let answer = server.api().delete(one(vhost, user))?;
                server.output.done(&answer, &format!("{user} has no permissions in {} any more", vhost.vhost))
            }
            Self::TopicLs { server } => {
                let columns = [
                    ("USER", "user"),
                    ("VHOST", "vhost"),
                    ("EXCHANGE", "exchange"),
                    ("WRITE", "write"),
                    ("READ", "read"),
                ];
                server.output.list(&server.api().get(ApiPath::new("topic-permissions"))?, &columns)
            }
            Self::TopicSet { user, exchange, write, read, vhost, server } => {
                let body = json!({"write": write, "read": read});
                let answer = server.api().put(topic(vhost, user, exchange), &body)?;
                server.output.done(&answer, &format!("topic permissions of {user} on {exchange} are set"))
            }
            Self::TopicRm { user, exchange, vhost, server } => {
                let answer = server.api().delete(topic(vhost, user, exchange))?;
                server.output.done(&answer, &format!("{user} has no topic permissions on {exchange} any more"))
            }
        }
    }
}

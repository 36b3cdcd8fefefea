//! `waypost acls` and `waypost quotas`: what Kafka's clients may do, and how much.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::{ServerArgs, VhostArgs, VhostFilter};
use crate::cli::http::ApiPath;
use crate::cli::present::Format;
use crate::exit::Failure;

const RESOURCES: [&str; 4] = ["topic", "group", "cluster", "transactional_id"];
const OPERATIONS: [&str; 11] = [
    "all",
    "read",
    "write",
    "create",
    "delete",
    "alter",
    "describe",
    "cluster_action",
    "describe_configs",
    "alter_configs",
    "idempotent_write",
];
const EFFECTS: [&str; 2] = ["allow", "deny"];

/// What can be done with access control lists.
#[derive(Debug, Subcommand)]
pub enum Acls {
    /// List rules
    Ls {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        filter: VhostFilter,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Add a rule
    #[command(after_help = "Examples:
  waypost acls add allow shop read topic orders
  waypost acls add allow shop write topic shop. --prefixed
  waypost acls add deny '*' delete topic '*' --host 10.0.0.7

Once any rule speaks of a name, who is not allowed by one may not; of other names the permissions decide.")]
    Add {
        #[arg(value_parser = EFFECTS)]
        effect: String,
        /// The user; '*' for everybody
        user: String,
        #[arg(value_parser = OPERATIONS)]
        operation: String,
        #[arg(value_parser = RESOURCES)]
        resource: String,
        /// Its name; '*' for all of them; kafka-cluster for the cluster
        name: String,
        /// The name is how names begin
        #[arg(long)]
        prefixed: bool,
        /// The address that the user comes from
        #[arg(long, default_value = "*", value_name = "ADDRESS")]
        host: String,
        #[command(flatten)]
        vhost: VhostArgs,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Remove rules, and show which
    #[command(after_help = "Example: waypost acls rm --user shop --resource topic --name orders")]
    Rm {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        vhost: VhostArgs,
        #[command(flatten)]
        server: ServerArgs,
    },
}

/// Which rules.
#[derive(Debug, Args)]
pub struct Which {
    /// Those of a user; '*' for those of everybody
    #[arg(long)]
    user: Option<String>,
    /// Those about a kind of resource
    #[arg(long, value_parser = RESOURCES)]
    resource: Option<String>,
    /// Those with this name
    #[arg(long)]
    name: Option<String>,
    /// Those with a name, or with how names begin; match: whatever speaks of --name
    #[arg(long, value_parser = ["literal", "prefixed", "match"])]
    pattern: Option<String>,
    /// Those about an operation
    #[arg(long, value_parser = OPERATIONS)]
    operation: Option<String>,
    /// Those that allow, or deny
    #[arg(long, value_parser = EFFECTS)]
    effect: Option<String>,
    /// Those for an address
    #[arg(long, value_name = "ADDRESS")]
    host: Option<String>,
}

impl Which {
    fn put_into(&self, path: ApiPath) -> ApiPath {
        let principal = self.user.as_ref().map(|user| format!("User:{user}"));
        let all = [
            ("principal", &principal),
            ("resource", &self.resource),
            ("name", &self.name),
            ("pattern", &self.pattern),
            ("operation", &self.operation),
            ("effect", &self.effect),
            ("host", &self.host),
        ];
        let given = all.into_iter().filter_map(|(name, value)| Some((name, value.as_ref()?)));
        given.fold(path, |path, (name, value)| path.with(name, value))
    }
}

const COLUMNS: [(&str, &str); 8] = [
    ("VHOST", "vhost"),
    ("EFFECT", "effect"),
    ("PRINCIPAL", "principal"),
    ("HOST", "host"),
    ("OPERATION", "operation"),
    ("RESOURCE", "resource"),
    ("NAME", "name"),
    ("PATTERN", "pattern"),
];

impl Acls {
    /// Does it.
    ///
    /// # Errors
    /// By the kind of what went wrong.
    pub fn run(&self) -> Result<(), Failure> {
        let of = |vhost: &VhostArgs| ApiPath::new("acls").at(&vhost.vhost);
        match self {
            Self::Ls { which, filter, server } => {
                let path = which.put_into(filter.path("acls"));
                server.output.list(&server.api().get(path)?, &COLUMNS)
            }
            Self::Add { effect, user, operation, resource, name, prefixed, host, vhost, server } => {
                let pattern = if *prefixed { "prefixed" } else { "literal" };
                let body = json!({
                    "effect": effect, "principal": format!("User:{user}"), "operation": operation,
                    "resource": resource, "name": name, "pattern": pattern, "host": host,
                });
                let answer = server.api().post(of(vhost), &body)?;
                server.output.done(&answer, &format!("{user}: {effect} {operation} of {resource} {name}"))
            }
            Self::Rm { which, vhost, server } => {
                server.output.list(&server.api().delete(which.put_into(of(vhost)))?, &COLUMNS)
            }
        }
    }
}

/// What can be done with client quotas.
#[derive(Debug, Subcommand)]
pub enum Quotas {
    /// List quotas
    Ls {
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Set a quota, in the place of the one for the same user and client
    #[command(after_help = "Examples:
  waypost quotas set --user shop --produce 1048576
  waypost quotas set --default-user --fetch 10485760

Of several the most particular holds: for a user and a client id, for a user, for a client id, then the defaults.")]
    Set {
        #[command(flatten)]
        whom: Whom,
        /// Bytes per second that may be produced
        #[arg(long, value_name = "BYTES")]
        produce: Option<f64>,
        /// Bytes per second that may be fetched
        #[arg(long, value_name = "BYTES")]
        fetch: Option<f64>,
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Remove a quota
    Rm {
        #[command(flatten)]
        whom: Whom,
        #[command(flatten)]
        server: ServerArgs,
    },
}

/// Whom a quota means.
#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
pub struct Whom {
    /// A user
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Each user without a quota of its own
    #[arg(long, conflicts_with = "user")]
    default_user: bool,
    /// What calls itself so
    #[arg(long, value_name = "ID")]
    client_id: Option<String>,
    /// Each client id without a quota of its own
    #[arg(long, conflicts_with = "client_id")]
    default_client_id: bool,
}

impl Whom {
    fn put_into(&self, body: &mut Value) {
        let parts = [("user", &self.user, self.default_user), ("client_id", &self.client_id, self.default_client_id)];
        for (field, name, default) in parts {
            match name {
                Some(name) => body[field] = name.as_str().into(),
                None if default => body[field] = Value::Null,
                None => {}
            }
        }
    }

    fn path(&self) -> ApiPath {
        let parts = [
            ("user", self.user.as_deref()),
            ("user_default", self.default_user.then_some("true")),
            ("client_id", self.client_id.as_deref()),
            ("client_id_default", self.default_client_id.then_some("true")),
        ];
        let given = parts.into_iter().filter_map(|(name, value)| Some((name, value?)));
        given.fold(ApiPath::new("quotas"), |path, (name, value)| path.with(name, value))
    }
}

impl Quotas {
    /// Does it.
    ///
    /// # Errors
    /// By the kind of what went wrong.
    pub fn run(&self) -> Result<(), Failure> {
        match self {
            Self::Ls { server } => {
                let columns = [
                    ("USER", "user"),
                    ("CLIENT-ID", "client_id"),
                    ("PRODUCE", "producer_byte_rate"),
                    ("FETCH", "consumer_byte_rate"),
                ];
                let mut all = server.api().get(ApiPath::new("quotas"))?;
                if server.output.format() != Format::Json {
                    name_defaults(&mut all);
                }
                server.output.list(&all, &columns)
            }
            Self::Set { whom, produce, fetch, server } => {
                let mut body = json!({ "producer_byte_rate": produce, "consumer_byte_rate": fetch });
                whom.put_into(&mut body);
                let answer = server.api().put(ApiPath::new("quotas"), &body)?;
                server.output.done(&answer, "the quota is set")
            }
            Self::Rm { whom, server } => {
                let answer = server.api().delete(whom.path())?;
                server.output.done(&answer, "the quota is removed")
            }
        }
    }
}

/// For people: null means the default, and must not look like nothing.
fn name_defaults(all: &mut Value) {
    for one in all.as_array_mut().into_iter().flatten() {
        for field in ["user", "client_id"] {
            if one.get(field).is_some_and(Value::is_null) {
                one[field] = "<default>".into();
            }
        }
    }
}

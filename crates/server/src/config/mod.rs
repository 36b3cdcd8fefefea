//! Configuration: one declaration per setting gives the key in the file, the environment variable, the flag, the check
//! and the documentation.
//!
//! Precedence: default, then file, then environment, then flag. A later source replaces a list as a whole.

mod declare;
pub mod docs;
mod listener;
pub(crate) mod nearest;
mod sources;
pub(crate) mod value;

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::time::Duration;

pub use declare::{Key, SectionDoc};
pub use listener::{ListenerSpec, ListenerTls};
pub use sources::{ConfigError, Loaded, Origin, load};
pub use value::{ByteSize, Fraction, HttpAuth, LogFormat, Setting, Unset};

use crate::push::Allowed;
use crate::zmtp::DeviceSpec;
use declare::settings;

settings! {
    /// The process as a whole.
    server: ServerConfig {
        /// Where everything durable lives. Made if absent, locked while in use.
        data_dir: PathBuf = "./waypost-data", flag "data-dir";
        /// Threads that serve connections; 0 stands for the number of cores.
        worker_threads: usize = "0";
        /// Connections at once, over all listeners but HTTP; more are closed at once.
        connections_max: usize = "65536";
        /// How long a stop waits for connections to take their farewell.
        stop_timeout: Duration = "5s";
    }
    /// Where the server listens. Each value is `ADDR:PORT[,option=value…]` or `off`; given at all, a setting replaces
    /// that listener's defaults. Port 0 takes a free one, see `listeners.json` in the data directory. Options:
    /// `tls=CERT:KEY` (PEM files), `client-ca=FILE` (PEM; asks clients for certificates, whose common name is the user
    /// of mechanism EXTERNAL), `vhost=NAME` (for protocols that carry none; there must be
    /// such a vhost), `advertise=HOST[:PORT]`.
    listeners: ListenersConfig {
        /// AMQP 0-9-1.
        amqp: Vec<ListenerSpec> = "127.0.0.1:5672", flag "amqp";
        /// HTTP: metrics, health and the management API.
        http: Vec<ListenerSpec> = "127.0.0.1:8500 127.0.0.1:15672", flag "http";
        /// Kafka's protocol.
        kafka: Vec<ListenerSpec> = "127.0.0.1:9092", flag "kafka";
        /// DNS, over UDP and TCP.
        dns: Vec<ListenerSpec> = "127.0.0.1:8600", flag "dns";
        /// ZeroMQ devices: `KIND,front=bind:ENDPOINT,back=connect:ENDPOINT[,option=value…]`, KIND one of `streamer`,
        /// `forwarder`, `router`, `majordomo`; an ENDPOINT is `tcp://HOST:PORT` or `ipc://PATH`.
        /// `docs/compatibility-zmtp.md` has the options.
        zmtp: Vec<DeviceSpec> = "off", flag "zmtp";
    }
    /// AMQP connections.
    amqp: AmqpConfig {
        /// Heartbeat interval that is offered; 0s offers none.
        heartbeat: Duration = "60s";
        /// Largest frame that is offered.
        frame_max: ByteSize = "128KiB";
        /// Channels per connection.
        channel_max: u16 = "2047";
        /// Largest message that is taken.
        message_bytes_max: ByteSize = "128MiB";
        /// What the server calls itself to clients. Some libraries choose their features by this name.
        product: String = "RabbitMQ";
    }
    /// Kafka connections and topics.
    kafka: KafkaConfig {
        /// `auto`: open on loopback, SASL elsewhere. `always`: SASL everywhere. `never`: open; refused for listeners off
        /// loopback.
        auth: HttpAuth = "auto";
        /// Topics are made when a client first asks for them.
        auto_create_topics: bool = "true";
        /// Partitions of topics whose maker does not say how many.
        default_partitions: u32 = "1";
        /// Largest request.
        request_max: ByteSize = "100MiB";
        /// For so long what a consumer group has committed is kept after its last member has gone; and an offset after it was
        /// committed, of a group that never had members, or of a topic that no member reads. At least `1s`. Kafka's
        /// `offsets.retention.minutes`.
        offsets_retention: Duration = "7d";
        /// After so long a client has to say anew who it is, or its connection ends; `0s`: never.
        session_lifetime: Duration = "0s";
    }
    /// The HTTP listeners.
    http: HttpConfig {
        /// `auto`: open on loopback, credentials elsewhere. `always`: credentials everywhere. `never`: open; refused for
        /// listeners off loopback.
        auth: HttpAuth = "auto";
        /// Further host names under which the server may be addressed. Requests for others are refused, since a hostile
        /// web page can have its own name point here.
        allowed_hosts: Vec<String> = "";
        /// Connections at once, per listener; more are closed at once.
        connections_max: usize = "16384";
        /// Largest request body.
        body_max: ByteSize = "8MiB";
    }
    /// DNS. Names are those of Consul, below `.waypost` and `.consul`.
    dns: DnsConfig {
        /// How long clients may keep an answer.
        ttl: Duration = "0s";
        /// Zones of clients, `SUBNET=ZONE` each, such as `10.1.0.0/16=eu-1`: instances of a client's own zone come first in
        /// its answers. A resolver that tells for whom it asks (EDNS client subnet) is asked for that one.
        zones: Vec<String> = "";
    }
    /// What clients of Consul's API and of DNS are told of this server.
    consul: ConsulConfig {
        /// The name of the data center.
        datacenter: String = "dc1";
    }
    /// Where the server itself connects to, because somebody who registered has it do so: push endpoints and health checks.
    targets: TargetsConfig {
        /// Networks (`10.0.0.0/8`), addresses and host names that may be connected to; empty: all. Link-local addresses are
        /// refused in any case.
        allow: Vec<Allowed> = "";
    }
    /// Memory.
    memory: MemoryConfig {
        /// Share of the machine's (or control group's) memory above which publishers are held back.
        high_watermark: Fraction = "0.6";
        /// Message bytes that queues keep in memory; more live on disk only.
        queue_budget: ByteSize = "256MiB";
    }
    /// The disk under the data directory.
    disk: DiskConfig {
        /// Free space below which publishers are held back. Below half of it (at most 256 MiB), persistent messages are refused.
        free_limit: ByteSize = "256MiB";
        /// Size of the journal's segments.
        segment_bytes: ByteSize = "64MiB";
    }
    /// The log on standard error.
    log: LogConfig {
        /// How much: `error`, `warn`, `info`, `debug` or `trace`, also per module: `info,waypost_server::http=debug`.
        level: String = "info";
        /// `text`, `json`, or `auto`: text on a terminal, JSON elsewhere.
        format: LogFormat = "auto";
    }
}

impl KafkaConfig {
    /// [`KafkaConfig::offsets_retention`], milliseconds.
    #[must_use]
    pub fn offsets_retention_ms(&self) -> u64 {
        u64::try_from(self.offsets_retention.as_millis()).unwrap_or(u64::MAX)
    }
}

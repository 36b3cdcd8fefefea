//! What a session is told before it begins.

use waypost_model::table::Table;

use crate::codec::frame::FRAME_MIN_SIZE;

/// What all connections of a listener have in common.
#[derive(Debug, Clone)]
pub struct SessionConfig {
    /// Server property `product`. Some clients choose their behaviour by it.
    pub product: String,
    /// Server property `version`: the RabbitMQ release whose behaviour clients may expect.
    pub version: String,
    /// Server property `platform`.
    pub platform: String,
    /// Server property `information`.
    pub information: String,
    /// Server property `cluster_name`.
    pub cluster_name: String,
    /// SASL mechanisms offered, of `PLAIN` and `AMQPLAIN`. `EXTERNAL` is offered besides to a peer with a certificate.
    pub mechanisms: Vec<String>,
    /// Most channels of a connection; 0 is no limit but that of the channel number.
    pub channel_max: u16,
    /// Most consumers of a connection, on all its channels.
    pub consumers_max: usize,
    /// Largest frame in bytes, header and end octet counted. Values below 4096 are taken as 4096.
    pub frame_bytes_max: u32,
    /// Heartbeat interval proposed, in seconds; 0 proposes none.
    pub heartbeat_s: u16,
    /// Largest message body in bytes; a larger one is refused with 406. Twice as much may be under assembly, or wait in
    /// transactions, on one connection.
    pub message_bytes_max: u64,
}

impl Default for SessionConfig {
    fn default() -> Self {
        SessionConfig {
            product: "Waypost".into(),
            version: "4.1.0".into(),
            platform: "Rust".into(),
            information: "Licensed under the Apache License, Version 2.0".into(),
            cluster_name: "waypost".into(),
            mechanisms: vec!["PLAIN".into(), "AMQPLAIN".into()],
            channel_max: 2047,
            consumers_max: 16_384,
            frame_bytes_max: 131_072,
            heartbeat_s: 60,
            message_bytes_max: 128 * 1024 * 1024,
        }
    }
}

/// What the listener knows of one peer.
#[derive(Debug, Clone, Default)]
pub struct Peer {
    /// Makes the consumer tags that the server invents hard to guess and different between connections.
    pub tag_seed: u64,
    /// The user named by the peer's verified certificate; allows the mechanism `EXTERNAL`.
    pub certificate_user: Option<Box<str>>,
}

/// What the server can do beyond the specification, by RabbitMQ's names.
const CAPABILITIES: [&str; 9] = [
    "publisher_confirms",
    "exchange_exchange_bindings",
    "basic.nack",
    "consumer_cancel_notify",
    "connection.blocked",
    "consumer_priorities",
    "authentication_failure_close",
    "per_consumer_qos",
    "direct_reply_to",
];

impl SessionConfig {
    /// The largest frame in force before it is negotiated, and the least that can be negotiated.
    pub(super) fn frame_bytes_max(&self) -> u32 {
        self.frame_bytes_max.max(FRAME_MIN_SIZE)
    }

    pub(super) fn server_properties(&self) -> Table {
        let capabilities: Table = CAPABILITIES.iter().map(|&name| (name, true)).collect();
        Table::new()
            .with("capabilities", capabilities)
            .with("cluster_name", self.cluster_name.as_str())
            .with("copyright", "The Waypost authors")
            .with("information", self.information.as_str())
            .with("platform", self.platform.as_str())
            .with("product", self.product.as_str())
            .with("version", self.version.as_str())
    }

    /// The mechanisms as they stand in `connection.start`.
    pub(super) fn mechanisms(&self, peer: &Peer) -> String {
        let mut names = self.mechanisms.join(" ");
        if peer.certificate_user.is_some() {
            names.insert_str(0, "EXTERNAL ");
        }
        names
    }
}

//! Kafka's protocol: from an accepted socket to answers. Requests of a connection are carried out one after the other, as
//! clients expect; what waits for the disk only holds back its own answer and those behind it.

mod acls;
mod answers;
mod cluster;
mod codes;
mod configs;
mod connection;
mod consumer_groups;
mod credentials;
mod describe;
mod fetch;
mod groups;
mod hint;
mod load;
mod lookup;
mod offsets;
mod pipeline;
mod placement;
mod portion;
mod produce;
mod quotas;
mod requests;
pub(crate) mod room;
mod sasl;
mod throttle;
mod topics;
mod transactions;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::net::TcpStream;
use tokio::sync::watch;
use waypost_broker::topology::QuotaKind;
use waypost_kafka::apis::{self, Api};
use waypost_kafka::frame::HeaderForm;
use waypost_kafka::wire::{Malformed, Message};
use waypost_model::Lsn;
use waypost_stream::streams::{Streams, Topic};

use crate::config::HttpAuth;
use crate::listen::Listener;
use crate::listen::certificate::common_name;
use crate::listen::tls::Tls;
use crate::node::{Guard, Node};

use sasl::Sasl;
pub(crate) use throttle::Throttle;

/// How long a handshake may take.
const OPENING: Duration = Duration::from_secs(10);
/// Bytes of buffers that wait for the next long request, of all connections together, until nobody has taken them for a while.
pub(crate) const BUFFER_BYTES_MAX: usize = 32 << 20;
/// The node's number. There is one.
const NODE_ID: i32 = 0;
/// Leaders do not change.
const LEADER_EPOCH: i32 = 0;

/// What the connections of a listener have in common.
pub(crate) struct KafkaListener {
    node: Arc<Node>,
    tls: Option<Arc<Tls>>,
    local: SocketAddr,
    vhost: Arc<str>,
    advertise: Option<String>,
    hints: hint::Hints,
    stop: watch::Receiver<bool>,
}

impl KafkaListener {
    pub(crate) fn new(node: &Arc<Node>, listener: &Listener, stop: watch::Receiver<bool>) -> KafkaListener {
        KafkaListener {
            node: Arc::clone(node),
            tls: listener.tls.clone(),
            local: listener.address,
            vhost: listener.spec.vhost.as_deref().unwrap_or("/").into(),
            advertise: listener.spec.advertise.clone(),
            hints: hint::Hints::default(),
            stop,
        }
    }

    /// Starts the task of a connection, unless there are too many.
    pub(crate) fn take(self: &Arc<Self>, socket: TcpStream, remote: SocketAddr) {
        let Some(guard) = Guard::enter(&self.node) else {
            tracing::warn!(%remote, "closed: there are as many connections as server.connections_max allows");
            return;
        };
        let listener = Arc::clone(self);
        tokio::spawn(async move {
            let mut stop = listener.stop.clone();
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => {}
                end = listener.connection(socket, remote) => match end {
                    Ok(()) => tracing::debug!(%remote, "connection closed"),
                    Err(error) => tracing::info!(%remote, %error, "connection ended"),
                },
            }
            drop(guard);
        });
    }

    async fn connection(&self, socket: TcpStream, remote: SocketAddr) -> std::io::Result<()> {
        socket.set_nodelay(true)?;
        let local = socket.local_addr().unwrap_or(self.local);
        let mut session = self.session(remote, local);
        match &self.tls {
            None => {
                self.look(&session, None);
                connection::run(socket, session).await
            }
            Some(tls) => {
                let handshake = tokio::time::timeout(OPENING, tls.acceptor().accept(socket)).await;
                let timeout = || std::io::Error::new(std::io::ErrorKind::TimedOut, "no handshake in time");
                let socket = handshake.map_err(|_| timeout())??;
                let (_, tls) = socket.get_ref();
                self.look(&session, tls.server_name());
                let certificate = tls.peer_certificates().and_then(|chain| chain.first());
                session.certified(certificate.and_then(|c| common_name(c)));
                connection::run(socket, session).await
            }
        }
    }

    fn look(&self, session: &Session, asked: Option<&str>) {
        let (remote, told, configured) = (session.remote, &*session.host, self.advertise.is_some());
        self.hints.look(hint::Arrival { asked, remote, told, configured });
    }

    fn session(&self, remote: SocketAddr, local: SocketAddr) -> Session {
        let loopback = remote.ip().to_canonical().is_loopback();
        let open = match self.node.config.kafka.auth {
            HttpAuth::Auto => loopback && self.local.ip().is_loopback(),
            HttpAuth::Always => false,
            HttpAuth::Never => true,
        };
        // Whoever reached us by an address reaches us by it again.
        let (host, port) = match self.advertise.as_deref().map(split_address) {
            Some((host, port)) => (host.to_owned(), port.unwrap_or(local.port())),
            None => (local.ip().to_canonical().to_string(), local.port()),
        };
        Session {
            node: Arc::clone(&self.node),
            vhost: Arc::clone(&self.vhost),
            who: if open { Who::Operator } else { Who::Nobody },
            sasl: Sasl::Idle,
            session_until: None,
            muted: Duration::ZERO,
            held: None,
            ahead: load::Ahead::default(),
            loopback,
            remote: remote.ip().to_canonical(),
            host_text: remote.ip().to_canonical().to_string().into(),
            host: host.into(),
            port: i32::from(port),
        }
    }
}

/// `HOST[:PORT]`, where HOST may be an IPv6 address in brackets.
fn split_address(text: &str) -> (&str, Option<u16>) {
    match text.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => match port.parse() {
            Ok(port) => (host.trim_matches(['[', ']']), Some(port)),
            Err(_) => (text, None),
        },
        _ => (text.trim_matches(['[', ']']), None),
    }
}

/// Who is at the other end.
#[derive(Clone, Debug)]
enum Who {
    /// Nobody has said, and it matters.
    Nobody,
    /// Somebody on this machine, where that is enough.
    Operator,
    /// A user.
    User(Box<str>),
}

impl Who {
    /// As an owner of what outlives a connection: marked, so that no user is called like the others.
    fn owner(&self) -> String {
        match self {
            Who::Nobody => String::new(),
            Who::Operator => "operator".to_owned(),
            Who::User(name) => format!("user {name}"),
        }
    }
}

/// What is known of a connection.
struct Session {
    node: Arc<Node>,
    vhost: Arc<str>,
    who: Who,
    /// How far it is with saying who it is.
    sasl: Sasl,
    /// When it has to say so anew, if ever.
    session_until: Option<Instant>,
    /// For how long nothing more is to be read from it, after the next answer.
    muted: Duration,
    /// Of the room for answers, what the next one takes.
    held: Option<room::Held>,
    /// What is read before it is asked for.
    ahead: load::Ahead,
    loopback: bool,
    remote: std::net::IpAddr,
    /// The same as text, as rules have it.
    host_text: Box<str>,
    /// Where clients reach us.
    host: Box<str>,
    port: i32,
}

/// A request.
struct Ask<'a> {
    api: &'static Api,
    version: i16,
    correlation_id: i32,
    /// What the client calls itself.
    client_id: &'a str,
    body: &'a [u8],
}

/// What a request came to.
enum Answer {
    /// The client wants to hear nothing.
    None,
    /// To be sent.
    Now(Vec<Bytes>),
    /// To be sent once the journal is durable so far.
    After(Lsn, Vec<Bytes>),
    /// To be sent, and then the connection ends.
    Last(Vec<Bytes>),
}

impl Ask<'_> {
    fn read<M: Message>(&self) -> Result<M, Malformed> {
        M::decode(self.body, self.version)
    }

    /// The beginning of the answer, without its length.
    fn head(&self) -> Vec<u8> {
        let mut head = self.correlation_id.to_be_bytes().to_vec();
        if apis::answer_form(self.api.key, self.version) == HeaderForm::Tagged {
            head.push(0);
        }
        head
    }

    fn bytes(&self, message: &impl Message) -> Vec<Bytes> {
        let mut out = self.head();
        message.encode(&mut out, self.version);
        vec![out.into()]
    }

    fn now(&self, message: &impl Message) -> Answer {
        Answer::Now(self.bytes(message))
    }

    /// Once what was changed is durable; at once if nothing was.
    fn after(&self, lsn: Option<Lsn>, message: &impl Message) -> Answer {
        match lsn {
            Some(lsn) => Answer::After(lsn, self.bytes(message)),
            None => self.now(message),
        }
    }
}

impl Session {
    fn streams(&self) -> &Arc<Streams> {
        &self.node.streams
    }

    fn topic(&self, name: &str) -> Option<Arc<Topic>> {
        self.streams().topic(&self.vhost, name)
    }

    /// The peer has shown a certificate that was verified: it is the user of that name, if there is one.
    fn certified(&mut self, name: Option<String>) {
        let Some(name) = name else { return };
        match self.node.broker.admit(&name, self.loopback) {
            Ok(_) => self.who = Who::User(name.into()),
            Err(refusal) => tracing::info!(remote = %self.remote, %refusal, "the certificate lets nobody in"),
        }
    }

    /// Notes what was sent or taken: for how long the client is asked to wait, milliseconds. Nothing more is read from it
    /// meanwhile, whether it waits or not.
    fn throttled(&mut self, ask: &Ask<'_>, kind: QuotaKind, bytes: usize) -> i32 {
        let user = match &self.who {
            Who::User(name) => name,
            _ => acls::ANONYMOUS,
        };
        let Some(share) = self.node.broker.quota(user, ask.client_id, kind) else { return 0 };
        let pause = self.node.throttle.note(kind, share, bytes, Instant::now());
        self.muted = self.muted.max(pause);
        i32::try_from(pause.as_millis()).unwrap_or(i32::MAX)
    }

    /// Whether the peer has come far enough for this.
    fn entered(&self, api: &Api) -> Result<(), Malformed> {
        if matches!(self.who, Who::Nobody) && !matches!(api.key, 17 | 18 | 36) {
            // Nothing that a client could read says so in every API; the connection ends, as Kafka ends it.
            return Err(Malformed::Value("a request before authentication"));
        }
        if self.session_is_over() && !matches!(api.key, 17 | 18 | 36) {
            return Err(Malformed::Value("a request after the session's end"));
        }
        Ok(())
    }

    /// Carries out a request other than Produce, which takes its buffer along.
    async fn answer(&mut self, ask: &Ask<'_>) -> Result<Answer, Malformed> {
        self.entered(ask.api)?;
        match ask.api.key {
            1 => return self.fetch(ask).await,
            2 => return self.list_offsets(ask).await,
            11 => return self.join_group(ask).await,
            14 => return self.sync_group(ask).await,
            _ => {}
        }
        match ask.api.key {
            3 => self.metadata(ask),
            8 => self.offset_commit(ask),
            9 => self.offset_fetch(ask),
            10 => self.find_coordinator(ask),
            12 => self.heartbeat(ask),
            13 => self.leave_group(ask),
            15 => self.describe_groups(ask),
            16 => self.list_groups(ask),
            17 => self.sasl_handshake(ask),
            18 => Ok(cluster::versions(ask)),
            19 => self.create_topics(ask),
            20 => self.delete_topics(ask),
            21 => self.delete_records(ask),
            22 => self.init_producer_id(ask),
            23 => self.offset_for_leader_epoch(ask),
            24 => self.add_partitions_to_txn(ask),
            25 => self.add_offsets_to_txn(ask),
            26 => self.end_txn(ask),
            28 => self.txn_offset_commit(ask),
            29 => self.describe_acls(ask),
            30 => self.create_acls(ask),
            31 => self.delete_acls(ask),
            32 => self.describe_configs(ask),
            33 => self.alter_configs(ask),
            35 => self.describe_log_dirs(ask),
            36 => self.sasl_authenticate(ask),
            37 => self.create_partitions(ask),
            42 => self.delete_groups(ask),
            43 => self.elect_leaders(ask),
            44 => self.incremental_alter_configs(ask),
            45 => self.alter_reassignments(ask),
            46 => self.list_reassignments(ask),
            47 => self.offset_delete(ask),
            48 => self.describe_quotas(ask),
            49 => self.alter_quotas(ask),
            50 => self.describe_scram(ask),
            51 => self.alter_scram(ask),
            60 => self.describe_cluster(ask),
            61 => self.describe_producers(ask),
            65 => self.describe_transactions(ask),
            66 => self.list_transactions(ask),
            68 => self.consumer_group_heartbeat(ask),
            69 => self.consumer_group_describe(ask),
            74 => self.list_config_resources(ask),
            75 => self.describe_topic_partitions(ask),
            _ => Err(Malformed::Value("an API that was not advertised")),
        }
    }
}

/// The APIs that are answered.
const ANSWERED: &[i16] = &[
    0, 1, 2, 3, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 28, 29, 30, 31, 32, 33, 35,
    36, 37, 42, 43, 44, 45, 46, 47, 48, 49, 50, 51, 60, 61, 65, 66, 68, 69, 74, 75,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advertised_addresses() {
        for (text, host, port) in [
            ("mq.example", "mq.example", None),
            ("mq.example:9093", "mq.example", Some(9093)),
            ("[::1]:9093", "::1", Some(9093)),
            ("::1", "::1", None),
            ("[::1]", "::1", None),
        ] {
            assert_eq!(split_address(text), (host, port), "{text}");
        }
    }

    #[test]
    fn what_is_answered_is_in_the_table() {
        assert!(ANSWERED.iter().all(|key| apis::find(*key).is_some()));
        assert!(ANSWERED.windows(2).all(|w| w[0] < w[1]));
    }
}

//! ZeroMQ devices: declared by `--zmtp` or at run time, each on a thread of its own.

mod bridge;
mod dial;
mod endpoint;
mod machine;
mod peers;
mod running;
mod secrets;
mod socket;
mod spec;
mod stats;
mod worker;

use std::io;
use std::sync::Arc;

use waypost_model::Refusal;
use waypost_zmtp::device::{Device, End, Forwarder, Router, Streamer};
use waypost_zmtp::engine::{Heartbeat, Limits};
use waypost_zmtp::majordomo::Pace;
use waypost_zmtp::pattern::fanout::Overflow;
use waypost_zmtp::{EngineConfig, SocketType};

use bridge::{Ends, ExchangeBridge, MajordomoBridge, Place, QueueBridge};

pub(crate) use running::{Condition, DeclareError, DeviceView, Devices, Origin, Removed};
use spec::name_is_sound;
pub use spec::{DeviceSpec, Kind};
pub use stats::{DeviceStats, Figures};

use crate::error::ServeError;
use endpoint::{Attachment, Direction, Endpoint};
use machine::Machine;
use running::Running;
use socket::Bound;
use spec::EndSpec;
use worker::{EndConfig, Worker};

/// How long a peer may take for its handshake, ms; as libzmq.
const HANDSHAKE_MS: u64 = 30_000;
/// See [`back_bytes`].
const BLOCKING_BYTES: usize = 1024 * 1024;
/// How long a peer may be silent after a ping, in intervals between pings.
const HEARTBEAT_TIMEOUT_INTERVALS: u64 = 2;

/// A device that has its addresses and keys but does not run yet.
pub(crate) struct ReservedDevice {
    spec: DeviceSpec,
    bound: Vec<(End, Bound)>,
    dials: Vec<(End, Endpoint)>,
    ends: [EndConfig; 2],
    /// What metrics will see of it.
    pub(crate) stats: Arc<DeviceStats>,
}

/// Takes the addresses of all devices and reads their keys, so that mistakes are noticed before anything else is done.
///
/// # Errors
/// [`ServeError::Device`].
pub(crate) fn reserve(specs: &[DeviceSpec]) -> Result<Vec<ReservedDevice>, ServeError> {
    let mut all: Vec<ReservedDevice> = Vec::with_capacity(specs.len());
    for (i, spec) in specs.iter().enumerate() {
        let name = spec.name.clone().unwrap_or_else(|| format!("{}-{}", spec.kind.name(), i + 1));
        if all.iter().any(|other| other.stats.name == name) {
            return Err(ServeError::Device { what: spec.to_string(), why: format!("the name `{name}` is taken") });
        }
        all.push(ReservedDevice::new(spec, name)?);
    }
    Ok(all)
}

impl ReservedDevice {
    fn new(spec: &DeviceSpec, name: String) -> Result<ReservedDevice, ServeError> {
        let (mut bound, mut dials) = (Vec::new(), Vec::new());
        for (end, side) in [(End::Front, &spec.front), (End::Back, &spec.back)] {
            for Attachment { direction, endpoint } in &side.attachments {
                match direction {
                    Direction::Connect => dials.push((end, endpoint.clone())),
                    Direction::Bind => {
                        let failed = |e: io::Error| ServeError::Device {
                            what: format!("cannot listen on {endpoint} for zmtp"),
                            why: e.to_string(),
                        };
                        bound.push((end, Bound::bind(endpoint).map_err(failed)?));
                    }
                }
            }
        }
        let (front, back) = socket_types(spec.kind);
        let ends =
            [end_config(&spec.front, front, Limits::default().bytes)?, end_config(&spec.back, back, back_bytes(spec))?];
        let stats = Arc::new(DeviceStats::new(name, spec.kind.name()));
        Ok(ReservedDevice { spec: spec.clone(), bound, dials, ends, stats })
    }

    /// Where the device really listens: the front's endpoints, then the back's, each as declared.
    pub(crate) fn endpoints(&self) -> Vec<String> {
        self.bound.iter().filter_map(|(_, bound)| bound.endpoint().ok()).map(|e| e.to_string()).collect()
    }

    /// Whose queues, exchanges and services it may have behind it.
    fn vhost(&self) -> &str {
        self.spec.vhost.as_deref().unwrap_or("/")
    }

    /// Starts the device's thread.
    fn start(self, connections_max: usize, place: Place, origin: Origin) -> Result<Running, ServeError> {
        let endpoints = self.endpoints();
        let name = self.stats.name.clone();
        let failed = |e: io::Error| ServeError::Device { what: format!("device {name}"), why: e.to_string() };
        let stats = Arc::clone(&self.stats);
        let mut worker =
            Worker::new(machine(&self.spec, &name, &place)?, self.ends, connections_max, place.clock, stats)
                .map_err(failed)?;
        for (end, bound) in self.bound {
            worker.bind(end, bound).map_err(failed)?;
        }
        for (end, endpoint) in self.dials {
            let mut seed = [0; 8];
            getrandom::fill(&mut seed).map_err(|e| failed(io::Error::other(e)))?;
            worker.dial(end, endpoint, u64::from_ne_bytes(seed));
        }
        let handle = worker.handle();
        let thread = std::thread::Builder::new().name(format!("zmtp-{name}")).spawn(move || worker.run());
        let thread = thread.map_err(failed)?;
        Ok(Running { spec: self.spec, endpoints, stats: self.stats, handle, thread, origin, stopping: false })
    }
}

const fn socket_types(kind: Kind) -> (SocketType, SocketType) {
    match kind {
        Kind::Streamer => (SocketType::Pull, SocketType::Push),
        Kind::Forwarder => (SocketType::Xsub, SocketType::Xpub),
        Kind::Router => (SocketType::Router, SocketType::Dealer),
        Kind::Majordomo => (SocketType::Router, SocketType::Router),
    }
}

/// Bytes that may wait for a peer at the back. Where producers wait for room, no more than keeps sockets busy: what waits
/// then waits with the producers. Where it would be dropped, plenty.
fn back_bytes(spec: &DeviceSpec) -> usize {
    if spec.kind == Kind::Forwarder && spec.overflow == Overflow::Drop {
        return Limits::default().bytes;
    }
    BLOCKING_BYTES
}

fn end_config(spec: &EndSpec, socket_type: SocketType, bytes: usize) -> Result<EndConfig, ServeError> {
    let interval_ms = u64::try_from(spec.heartbeat.as_millis()).unwrap_or(u64::MAX);
    let timeout_ms = interval_ms.saturating_mul(HEARTBEAT_TIMEOUT_INTERVALS);
    let heartbeat = (interval_ms > 0).then(|| Heartbeat {
        interval_ms,
        // In tenths of a second; what does not fit is not promised.
        ttl_ds: u16::try_from(interval_ms.saturating_add(timeout_ms).div_ceil(100)).unwrap_or(0),
        timeout_ms,
    });
    let engine = EngineConfig {
        security: secrets::load(&spec.security)?,
        message_bytes_max: spec.message_bytes_max,
        handshake_ms: HANDSHAKE_MS,
        heartbeat,
        ..EngineConfig::new(socket_type)
    };
    let limits = Limits { messages: spec.hwm, bytes };
    Ok(EndConfig { engine: Arc::new(engine), limits })
}

fn machine(spec: &DeviceSpec, name: &str, place: &Place) -> Result<Box<dyn Machine>, ServeError> {
    let refused = |refusal: Refusal| ServeError::Device { what: spec.to_string(), why: refusal.to_string() };
    let ends = Ends { front: !spec.front.attachments.is_empty(), back: !spec.back.attachments.is_empty() };
    if let Some(queue) = &spec.queue {
        return Ok(Box::new(QueueBridge::open(place, queue, ends).map_err(refused)?));
    }
    if let Some(exchange) = &spec.exchange {
        return Ok(Box::new(ExchangeBridge::open(place, exchange, ends, spec.overflow).map_err(refused)?));
    }
    Ok(Box::new(match spec.kind {
        Kind::Streamer => Device::Streamer(Streamer::default()),
        Kind::Forwarder => Device::Forwarder(Forwarder::new(spec.overflow)),
        Kind::Router => Device::Router(Router::new(spec.duplicate)),
        Kind::Majordomo => {
            let heartbeat_ms = u64::try_from(spec.worker_heartbeat.as_millis()).unwrap_or(u64::MAX);
            let pace = Pace { heartbeat_ms, ..Pace::default() };
            return Ok(Box::new(MajordomoBridge::open(place, name, pace).map_err(refused)?));
        }
    }))
}

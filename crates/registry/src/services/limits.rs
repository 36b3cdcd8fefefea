//! What peers can make grow, and how far.

/// Bounds per vhost, all of them inclusive. Beyond them registrations are refused with 506.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Services with instances.
    pub services_max: usize,
    /// Instances of all services together.
    pub instances_max: usize,
    /// Health checks of all instances and nodes together.
    pub checks_max: usize,
    /// Nodes registered from outside.
    pub nodes_max: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { services_max: 20_000, instances_max: 250_000, checks_max: 500_000, nodes_max: 20_000 }
    }
}

/// Most health checks of one instance or node.
pub const CHECKS_PER_OWNER_MAX: usize = 32;

/// Longest id, name or target of a check, URL, or header of an HTTP check, in bytes.
pub const CHECK_TEXT_MAX: usize = 2048;

/// Longest output of a check that is kept, in bytes.
pub const CHECK_OUTPUT_MAX: usize = 4096;

/// Most headers of an HTTP check.
pub const CHECK_HEADERS_MAX: usize = 16;

/// Shortest time between two runs of a check, ms.
pub const CHECK_INTERVAL_MIN_MS: u64 = 100;

/// The first run of a new check comes within so much time: its instance waits for it, ms.
pub const FIRST_RUN_WITHIN_MS: u64 = 1_000;

/// The first run of a check after a restart comes within so much time: until then its last verdict holds, ms.
pub const RESTART_WITHIN_MS: u64 = 30_000;

/// Shortest lease, ms.
pub const LEASE_MIN_MS: u64 = 500;

/// Longest lease, TTL, interval or timeout, ms: a day.
pub const DURATION_MAX_MS: u64 = 86_400_000;

/// Longest text that an API keeps with an instance or node for itself, in bytes.
pub const EXTRA_MAX: usize = 8192;

/// How long the id of an instance is held for its user after its connection broke, ms.
pub const HOLD_MS: u64 = 2_000;

/// How long after a restart a connection-bound instance of before stays listed without its connection, ms.
pub const RETURN_MS: u64 = 30_000;

/// How long a lease may be over before its instance is forgotten: as long again as the lease, but at least this, ms.
pub const EVICT_MIN_MS: u64 = 5_000;

/// Within how much time losses count as one event, and how long a panic lasts, ms.
pub const PANIC_WINDOW_MS: u64 = 10_000;

/// Fewest instances of a service that can panic.
pub const PANIC_INSTANCES_MIN: usize = 3;

/// How many names without instances are remembered, so that those who wait for them are not woken for nothing.
pub const EMPTY_NAMES_MAX: usize = 10_000;

/// How long a name without instances and without anybody who waits is remembered, ms.
pub const EMPTY_NAME_KEPT_MS: u64 = 900_000;

/// How many instances that are gone are remembered for their flapping.
pub const GHOSTS_MAX: usize = 10_000;

/// How many events of a vhost can be read back.
pub const EVENTS_MAX: usize = 2048;

const _: () = assert!(HOLD_MS < PANIC_WINDOW_MS && EVICT_MIN_MS <= PANIC_WINDOW_MS && LEASE_MIN_MS < DURATION_MAX_MS);

//! What may grow, and how far.

/// Longest path (namespace, slash, key), in bytes. Longer ones are refused.
pub const PATH_BYTES_MAX: usize = 1024;

/// Largest value, in bytes. Larger ones are refused: HTTP says 413.
pub const VALUE_BYTES_MAX: usize = 1 << 20;

/// Longest content type, in bytes: what a short string of AMQP can carry.
pub const CONTENT_TYPE_BYTES_MAX: usize = 255;

/// Longest comment, in bytes.
pub const COMMENT_BYTES_MAX: usize = 1024;

/// Longest name of an author, in bytes; a longer one is cut.
pub const AUTHOR_BYTES_MAX: usize = 255;

/// Most operations of a transaction. Consul's limit too.
pub const TXN_OPS_MAX: usize = 128;

/// Bytes of values in one transaction.
pub const TXN_BYTES_MAX: usize = 16 << 20;

/// Values in each list of a gray release's rule.
pub const RULE_VALUES_MAX: usize = 256;

/// Longest value in a gray release's rule, in bytes.
pub const RULE_VALUE_BYTES_MAX: usize = 255;

/// Longest name, node or id in a session, in bytes.
pub const SESSION_TEXT_BYTES_MAX: usize = 255;

/// Most locks that a session holds at once.
pub const SESSION_LOCKS_MAX: usize = 4096;

/// What can be chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Versions of a path that are kept, the present one included; at least 1.
    pub revisions_max: usize,
    /// How long a version is kept beyond its successor's coming, milliseconds; a deleted path is forgotten after it.
    pub history_ms: u64,
    /// Paths with a value per vhost. Further ones are refused.
    pub keys_max: usize,
    /// Bytes of paths and values in force per vhost, candidates included. What would go beyond is refused.
    pub bytes_max: u64,
    /// Bytes of all versions per vhost. Beyond it the oldest versions go before their time.
    pub history_bytes_max: u64,
    /// Deleted paths whose history is kept per vhost. Beyond it the longest deleted is forgotten.
    pub tombstones_max: usize,
    /// Sessions per vhost. Further ones are refused.
    pub sessions_max: usize,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            revisions_max: 100,
            history_ms: 90 * 24 * 3600 * 1000,
            keys_max: 100_000,
            bytes_max: 256 << 20,
            history_bytes_max: 1 << 30,
            tombstones_max: 10_000,
            sessions_max: 10_000,
        }
    }
}

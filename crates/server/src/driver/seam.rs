//! The seam between drivers and the core.

use std::sync::Arc;

use waypost_model::journal::BodyStore;
use waypost_model::{Lsn, Millis, Turn};

/// What the driver needs of the broker and the store.
pub trait Core: Send + Sync + 'static {
    /// The broker's side of a connection.
    type Conn: Send;

    /// Carries out the commands of a turn and empties it.
    fn execute(&self, conn: &mut Self::Conn, turn: &mut Turn, now: Millis);

    /// The connection is over; what it holds unsettled or unsent goes back.
    fn disconnect(&self, conn: Self::Conn, now: Millis);

    /// The journal's watermark.
    fn durable(&self) -> Lsn;

    /// How much publishers are to be held back.
    fn pressure(&self) -> Pressure;

    /// Whether what the connection published since the last call runs far ahead of those who consume it.
    fn ahead(&self, conn: &mut Self::Conn) -> bool;

    /// Whether what the connection published last went to so many that the more comes at once, the less each costs.
    fn spreads(&self, conn: &Self::Conn) -> bool;

    /// Where bodies are loaded from.
    fn bodies(&self) -> &Arc<dyn BodyStore>;
}

/// How much publishers are to be held back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pressure {
    /// Not at all.
    None,
    /// A little: connections that publish pause between reads.
    Soft,
    /// An alarm is up: connections that publish are not read.
    Hard,
}

//! Ends of connections.

use std::io;

use super::OPENING_MS;

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub enum End {
    /// The session closed it, in the order that the protocol asks for.
    #[error("closed")]
    Closed,
    /// The peer closed the stream without saying so.
    #[error("the peer closed the stream")]
    PeerGone,
    /// The peer did not finish its opening in time.
    #[error("the opening took longer than {} s", OPENING_MS / 1000)]
    OpeningTimeout,
    /// The server stopped before there was a connection.
    #[error("the server stops")]
    Stopped,
    /// The peer did not take the last bytes in time.
    #[error("the peer did not take the closing in time")]
    ClosingTimeout,
    /// The stream failed.
    #[error("i/o error: {0}")]
    Io(#[from] io::Error),
}

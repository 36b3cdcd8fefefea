//! What a session refuses by itself, before the core hears of it.

use waypost_model::{Refusal, RefusalKind};

use crate::codec::DecodeError;

/// The outcome of looking at a peer's bytes.
pub(super) type Result<T> = std::result::Result<T, Refusal>;

pub(super) fn frame_error(text: impl Into<String>) -> Refusal {
    Refusal::new(RefusalKind::FrameError, text)
}

pub(super) fn unexpected_frame(text: impl Into<String>) -> Refusal {
    Refusal::new(RefusalKind::UnexpectedFrame, text)
}

pub(super) fn channel_error(text: impl Into<String>) -> Refusal {
    Refusal::new(RefusalKind::ChannelError, text)
}

/// An unknown method is 540, malformed arguments are 502.
pub(super) fn undecodable(error: DecodeError) -> Refusal {
    match error {
        DecodeError::UnknownMethod { .. } => Refusal::not_implemented(error.to_string()),
        _ => Refusal::syntax_error(error.to_string()),
    }
}

/// The session's own state does not fit what the core answered.
pub(super) fn internal(what: &str) -> Refusal {
    Refusal::internal(what)
}

//! Why the core said no: one vocabulary, which each protocol puts into its own error.

use std::fmt;

/// The kind of a refusal. Named and numbered as AMQP 0-9-1 does, which has the finest set; other protocols map it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum RefusalKind {
    /// 311: content is larger than allowed.
    ContentTooLarge = 311,
    /// 313: no consumer.
    NoConsumers = 313,
    /// 320: an operator closed the connection.
    ConnectionForced = 320,
    /// 402: the vhost path is wrong.
    InvalidPath = 402,
    /// 403: not permitted.
    AccessRefused = 403,
    /// 404: no such thing.
    NotFound = 404,
    /// 405: in use by another connection.
    ResourceLocked = 405,
    /// 406: does not fit what is there.
    PreconditionFailed = 406,
    /// 501: malformed frame.
    FrameError = 501,
    /// 502: malformed content of a frame.
    SyntaxError = 502,
    /// 503: not allowed in this order.
    CommandInvalid = 503,
    /// 504: channel misused.
    ChannelError = 504,
    /// 505: a frame that was not expected here.
    UnexpectedFrame = 505,
    /// 506: a limit or the server's means are exhausted.
    ResourceError = 506,
    /// 530: prohibited in a way that ends the connection.
    NotAllowed = 530,
    /// 540: we do not have it.
    NotImplemented = 540,
    /// 541: our fault.
    InternalError = 541,
}

impl RefusalKind {
    /// AMQP's reply code.
    #[must_use]
    pub const fn code(self) -> u16 {
        self as u16
    }

    /// The name with which RabbitMQ begins the reply text.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ContentTooLarge => "CONTENT_TOO_LARGE",
            Self::NoConsumers => "NO_CONSUMERS",
            Self::ConnectionForced => "CONNECTION_FORCED",
            Self::InvalidPath => "INVALID_PATH",
            Self::AccessRefused => "ACCESS_REFUSED",
            Self::NotFound => "NOT_FOUND",
            Self::ResourceLocked => "RESOURCE_LOCKED",
            Self::PreconditionFailed => "PRECONDITION_FAILED",
            Self::FrameError => "FRAME_ERROR",
            Self::SyntaxError => "SYNTAX_ERROR",
            Self::CommandInvalid => "COMMAND_INVALID",
            Self::ChannelError => "CHANNEL_ERROR",
            Self::UnexpectedFrame => "UNEXPECTED_FRAME",
            Self::ResourceError => "RESOURCE_ERROR",
            Self::NotAllowed => "NOT_ALLOWED",
            Self::NotImplemented => "NOT_IMPLEMENTED",
            Self::InternalError => "INTERNAL_ERROR",
        }
    }

    /// Whether it ends the connection rather than the channel (AMQP 0-9-1 §1.2 "constants").
    #[must_use]
    pub const fn is_hard(self) -> bool {
        !matches!(
            self,
            Self::ContentTooLarge
                | Self::NoConsumers
                | Self::AccessRefused
                | Self::NotFound
                | Self::ResourceLocked
                | Self::PreconditionFailed
        )
    }
}

/// A refusal: kind, text, and whether more than the channel is closed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Refusal {
    /// What kind.
    pub kind: RefusalKind,
    /// In plain words, lower case, naming the object. Without the kind's name, which the protocol puts before it.
    pub text: String,
    /// Whether the connection ends. By default as the kind says; a few rules close only the channel with a hard code.
    pub hard: bool,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} - {}", self.kind.name(), self.text)
    }
}

macro_rules! shorthand {
    ($($(#[$doc:meta])* $fn:ident => $kind:ident;)*) => {
        impl Refusal {
            $($(#[$doc])* #[must_use] pub fn $fn(text: impl Into<String>) -> Refusal { Refusal::new(RefusalKind::$kind, text) })*
        }
    };
}

shorthand! {
    /// 404.
    not_found => NotFound;
    /// 403.
    access_refused => AccessRefused;
    /// 405.
    resource_locked => ResourceLocked;
    /// 406.
    precondition_failed => PreconditionFailed;
    /// 530.
    not_allowed => NotAllowed;
    /// 540.
    not_implemented => NotImplemented;
    /// 541.
    internal => InternalError;
    /// 506.
    resource_error => ResourceError;
    /// 503.
    command_invalid => CommandInvalid;
    /// 502.
    syntax_error => SyntaxError;
}

impl Refusal {
    /// A refusal with the scope that its kind has by default.
    #[must_use]
    pub fn new(kind: RefusalKind, text: impl Into<String>) -> Refusal {
        Refusal { kind, text: text.into(), hard: kind.is_hard() }
    }

    /// The same, closing only the channel.
    #[must_use]
    pub fn soft(mut self) -> Refusal {
        self.hard = false;
        self
    }
}

//! placeholder
pub struct AmqpSession;
pub struct SessionConfig;

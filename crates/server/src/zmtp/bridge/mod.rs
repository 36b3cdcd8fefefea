//! Devices with the broker behind them: a streamer with a durable queue, a forwarder with an exchange.

mod convert;
mod exchange;
mod inlet;
mod link;
mod majordomo;
mod outlet;
mod queue;
mod sides;

pub(super) use exchange::ExchangeBridge;
pub(super) use link::Place;
pub(super) use majordomo::MajordomoBridge;
pub(super) use queue::QueueBridge;
pub(super) use sides::Ends;

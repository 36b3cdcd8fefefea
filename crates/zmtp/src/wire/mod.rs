//! The grammar of the wire: greeting, frames, commands, metadata.

pub mod chunk;
pub mod command;
pub mod frame;
pub mod greeting;
pub mod metadata;
pub mod pool;

//! Class `queue` (§1.7).

use waypost_model::table::Table;

use crate::codec::field::Short;

methods! { 50;
    /// Makes a queue, or checks one.
    Declare['a] = 10 {
        reserved_1: u16,
        queue: &'a str,
        passive: bool,
        durable: bool,
        exclusive: bool,
        auto_delete: bool,
        no_wait: bool,
        arguments: Table,
    }
    /// Done.
    DeclareOk['a] = 11 { queue: &'a str, message_count: u32, consumer_count: u32 }
    /// Binds a queue to an exchange.
    Bind['a] = 20 {
        reserved_1: u16,
        queue: &'a str,
        exchange: &'a str,
        routing_key: Short<'a>,
        no_wait: bool,
        arguments: Table,
    }
    /// Done.
    BindOk[] = 21 {}
    /// Removes all ready messages.
    Purge['a] = 30 { reserved_1: u16, queue: &'a str, no_wait: bool }
    /// Done.
    PurgeOk[] = 31 { message_count: u32 }
    /// Deletes a queue.
    Delete['a] = 40 {
        reserved_1: u16,
        queue: &'a str,
        if_unused: bool,
        if_empty: bool,
        no_wait: bool,
    }
    /// Done.
    DeleteOk[] = 41 { message_count: u32 }
    /// Unbinds a queue from an exchange.
    Unbind['a] = 50 {
        reserved_1: u16,
        queue: &'a str,
        exchange: &'a str,
        routing_key: Short<'a>,
        arguments: Table,
    }
    /// Done.
    UnbindOk[] = 51 {}
}

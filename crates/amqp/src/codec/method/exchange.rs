//! Class `exchange` (§1.6), with RabbitMQ's bindings between exchanges.

use waypost_model::table::Table;

use crate::codec::field::Short;

methods! { 40;
    /// Makes an exchange, or checks one.
    Declare['a] = 10 {
        reserved_1: u16,
        exchange: &'a str,
        r#type: &'a str,
        passive: bool,
        durable: bool,
        auto_delete: bool,
        internal: bool,
        no_wait: bool,
        arguments: Table,
    }
    /// Done.
    DeclareOk[] = 11 {}
    /// Deletes an exchange.
    Delete['a] = 20 { reserved_1: u16, exchange: &'a str, if_unused: bool, no_wait: bool }
    /// Done.
    DeleteOk[] = 21 {}
    /// RabbitMQ: binds an exchange to another.
    Bind['a] = 30 {
        reserved_1: u16,
        destination: &'a str,
        source: &'a str,
        routing_key: Short<'a>,
        no_wait: bool,
        arguments: Table,
    }
    /// Done.
    BindOk[] = 31 {}
    /// RabbitMQ: unbinds an exchange from another.
    Unbind['a] = 40 {
        reserved_1: u16,
        destination: &'a str,
        source: &'a str,
        routing_key: Short<'a>,
        no_wait: bool,
        arguments: Table,
    }
    /// Done. The number is out of line, and has been since the extension was made.
    UnbindOk[] = 51 {}
}

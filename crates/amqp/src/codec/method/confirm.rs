//! Class `confirm`: RabbitMQ's publisher confirms.

methods! { 85;
    /// Asks for an acknowledgement of every publish.
    Select[] = 10 { nowait: bool }
    /// Done.
    SelectOk[] = 11 {}
}

//! Class `basic` (§1.8), with RabbitMQ's negative acknowledgement.

use waypost_model::table::Table;

use crate::codec::field::Short;

methods! { 60;
    /// Sets the prefetch.
    Qos[] = 10 { prefetch_size: u32, prefetch_count: u16, global: bool }
    /// Done.
    QosOk[] = 11 {}
    /// Starts a consumer.
    Consume['a] = 20 {
        reserved_1: u16,
        queue: &'a str,
        consumer_tag: &'a str,
        no_local: bool,
        no_ack: bool,
        exclusive: bool,
        no_wait: bool,
        arguments: Table,
    }
    /// Started.
    ConsumeOk['a] = 21 { consumer_tag: &'a str }
    /// Ends a consumer; RabbitMQ: by either side.
    Cancel['a] = 30 { consumer_tag: &'a str, no_wait: bool }
    /// Ended.
    CancelOk['a] = 31 { consumer_tag: &'a str }
    /// A message for an exchange; content follows.
    Publish['a] = 40 {
        reserved_1: u16,
        exchange: &'a str,
        routing_key: Short<'a>,
        mandatory: bool,
        immediate: bool,
    }
    /// A message that could not be routed; content follows.
    Return['a] = 50 {
        reply_code: u16,
        reply_text: Short<'a>,
        exchange: &'a str,
        routing_key: Short<'a>,
    }
    /// A message for a consumer; content follows.
    Deliver['a] = 60 {
        consumer_tag: &'a str,
        delivery_tag: u64,
        redelivered: bool,
        exchange: &'a str,
        routing_key: Short<'a>,
    }
    /// Asks for one message.
    Get['a] = 70 { reserved_1: u16, queue: &'a str, no_ack: bool }
    /// Here it is; content follows.
    GetOk['a] = 71 {
        delivery_tag: u64,
        redelivered: bool,
        exchange: &'a str,
        routing_key: Short<'a>,
        message_count: u32,
    }
    /// There is none.
    GetEmpty['a] = 72 { reserved_1: Short<'a> }
    /// Positive: of a delivery, or (RabbitMQ, from the server) of a publish.
    Ack[] = 80 { delivery_tag: u64, multiple: bool }
    /// Negative, for one delivery.
    Reject[] = 90 { delivery_tag: u64, requeue: bool }
    /// Asks for redelivery of all that is unsettled, without an answer.
    RecoverAsync[] = 100 { requeue: bool }
    /// Asks for redelivery of all that is unsettled.
    Recover[] = 110 { requeue: bool }
    /// Done.
    RecoverOk[] = 111 {}
    /// RabbitMQ: negative, of a delivery, or (from the server) of a publish.
    Nack[] = 120 { delivery_tag: u64, multiple: bool, requeue: bool }
}

//! What may name a topic, and what a name decides.

use waypost_model::service::is_service_name;

use super::{PARTITIONS_MAX, TopicFault};

/// Longest name of a topic, in bytes: as Kafka's.
pub const NAME_MAX: usize = 249;

/// What the names of topics begin with whose records are messages to a service.
pub const OF_SERVICES: &str = "services.";

/// Whether a text may name a topic.
#[must_use]
pub fn is_topic_name(name: &str) -> bool {
    let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    (1..=NAME_MAX).contains(&name.len()) && name.bytes().all(legal) && name != "." && name != ".."
}

/// The service that a topic's records are messages to, if its name says so.
#[must_use]
pub fn service_of(topic: &str) -> Option<&str> {
    topic.strip_prefix(OF_SERVICES).filter(|service| is_service_name(service))
}

/// How many partitions a new topic has for which nobody says how many: `default`, but one if it is a service's.
#[must_use]
pub fn partitions_or(default: u32, topic: &str) -> u32 {
    if service_of(topic).is_some() { 1 } else { default }
}

/// Whether a topic may be given so many partitions.
///
/// # Errors
/// [`TopicFault::Partitions`].
pub fn check_partitions(topic: &str, asked: u32) -> Result<(), TopicFault> {
    match asked {
        0 => Err(TopicFault::Partitions { asked, why: "a topic has at least one" }),
        n if n > PARTITIONS_MAX => Err(TopicFault::Partitions { asked, why: "a topic has at most 10000" }),
        // A service's messages have one order, and who is to have those of a key is chosen when they are delivered.
        n if n > 1 && service_of(topic).is_some() => {
            Err(TopicFault::Partitions { asked, why: "the topic of a service has one" })
        }
        _ => Ok(()),
    }
}

//! Exchanges of services: the routing key names a service, whose mailbox takes the message. Nothing is bound to them.

use waypost_model::Refusal;

/// The type's name.
pub(crate) const NAME: &str = "x-service";
/// The exchange of that type that every vhost has.
pub const EXCHANGE: &str = "amq.services";
/// Its other name, unless a client has declared an exchange of that name.
pub(crate) const ALIAS: &str = "services";

/// Whether there can be a binding: never.
///
/// # Errors
/// 406.
pub(crate) fn validate() -> Result<(), Refusal> {
    Err(Refusal::precondition_failed(format!(
        "nothing can be bound to an exchange of type '{NAME}': its routing keys name services"
    )))
}

//! Where streams meet the other protocols: the broker's queues of type `stream` are topics, and topics feed exchanges and
//! services.
//!
//! | module | holds |
//! |---|---|
//! | `keeper` | what the broker asks of who keeps its streams |
//! | `append` | messages become records |
//! | `read` | records become messages, batch by batch |
//! | `reader` | a consumer: its credit, and the task that serves it |
//! | `forward` | a topic that feeds an exchange or a service |
//! | `forwarders` | all of them: which there are to be, and which run |

mod append;
pub(crate) mod forward;
pub(crate) mod forwarders;
mod keeper;
mod read;
mod reader;

pub(crate) use keeper::Keeper;
pub(crate) use read::Look;

//! Kafka's error codes.

use waypost_kafka::fetch_sessions::SessionFault;
use waypost_model::journal::AppendError;
use waypost_stream::batch::BatchError;
use waypost_stream::groups::GroupFault;
use waypost_stream::partition::{AppendFault, ProducerError};
use waypost_stream::streams::{OffsetsFault, TopicFault, is_topic_name};
use waypost_stream::transactions::TransactionFault;

pub(super) const NONE: i16 = 0;
pub(super) const OFFSET_OUT_OF_RANGE: i16 = 1;
pub(super) const CORRUPT_MESSAGE: i16 = 2;
pub(super) const UNKNOWN_TOPIC_OR_PARTITION: i16 = 3;
pub(super) const REQUEST_TIMED_OUT: i16 = 7;
pub(super) const MESSAGE_TOO_LARGE: i16 = 10;
pub(super) const OFFSET_METADATA_TOO_LARGE: i16 = 12;
pub(super) const COORDINATOR_LOAD_IN_PROGRESS: i16 = 14;
pub(super) const COORDINATOR_NOT_AVAILABLE: i16 = 15;
pub(super) const INVALID_TOPIC_EXCEPTION: i16 = 17;
pub(super) const INVALID_REQUIRED_ACKS: i16 = 21;
pub(super) const ILLEGAL_GENERATION: i16 = 22;
pub(super) const INCONSISTENT_GROUP_PROTOCOL: i16 = 23;
pub(super) const INVALID_GROUP_ID: i16 = 24;
pub(super) const UNKNOWN_MEMBER_ID: i16 = 25;
pub(super) const INVALID_SESSION_TIMEOUT: i16 = 26;
pub(super) const REBALANCE_IN_PROGRESS: i16 = 27;
pub(super) const TOPIC_AUTHORIZATION_FAILED: i16 = 29;
pub(super) const GROUP_AUTHORIZATION_FAILED: i16 = 30;
pub(super) const CLUSTER_AUTHORIZATION_FAILED: i16 = 31;
pub(super) const INVALID_TIMESTAMP: i16 = 32;
pub(super) const UNSUPPORTED_SASL_MECHANISM: i16 = 33;
pub(super) const ILLEGAL_SASL_STATE: i16 = 34;
pub(super) const UNSUPPORTED_VERSION: i16 = 35;
pub(super) const TOPIC_ALREADY_EXISTS: i16 = 36;
pub(super) const INVALID_PARTITIONS: i16 = 37;
pub(super) const INVALID_REPLICATION_FACTOR: i16 = 38;
pub(super) const INVALID_REPLICA_ASSIGNMENT: i16 = 39;
pub(super) const INVALID_CONFIG: i16 = 40;
pub(super) const INVALID_REQUEST: i16 = 42;
pub(super) const UNSUPPORTED_FOR_MESSAGE_FORMAT: i16 = 43;
pub(super) const POLICY_VIOLATION: i16 = 44;
pub(super) const OUT_OF_ORDER_SEQUENCE_NUMBER: i16 = 45;
pub(super) const INVALID_PRODUCER_EPOCH: i16 = 47;
pub(super) const INVALID_TXN_STATE: i16 = 48;
pub(super) const INVALID_PRODUCER_ID_MAPPING: i16 = 49;
pub(super) const INVALID_TRANSACTION_TIMEOUT: i16 = 50;
pub(super) const CONCURRENT_TRANSACTIONS: i16 = 51;
pub(super) const TRANSACTIONAL_ID_AUTHORIZATION_FAILED: i16 = 53;
pub(super) const OPERATION_NOT_ATTEMPTED: i16 = 55;
pub(super) const KAFKA_STORAGE_ERROR: i16 = 56;
pub(super) const SASL_AUTHENTICATION_FAILED: i16 = 58;
pub(super) const NON_EMPTY_GROUP: i16 = 68;
pub(super) const GROUP_ID_NOT_FOUND: i16 = 69;
pub(super) const FETCH_SESSION_ID_NOT_FOUND: i16 = 70;
pub(super) const INVALID_FETCH_SESSION_EPOCH: i16 = 71;
pub(super) const UNKNOWN_LEADER_EPOCH: i16 = 75;
pub(super) const UNSUPPORTED_COMPRESSION_TYPE: i16 = 76;
pub(super) const MEMBER_ID_REQUIRED: i16 = 79;
pub(super) const GROUP_MAX_SIZE_REACHED: i16 = 81;
pub(super) const FENCED_INSTANCE_ID: i16 = 82;
pub(super) const ELECTION_NOT_NEEDED: i16 = 84;
pub(super) const NO_REASSIGNMENT_IN_PROGRESS: i16 = 85;
pub(super) const GROUP_SUBSCRIBED_TO_TOPIC: i16 = 86;
pub(super) const INVALID_RECORD: i16 = 87;
pub(super) const UNSTABLE_OFFSET_COMMIT: i16 = 88;
pub(super) const PRODUCER_FENCED: i16 = 90;
pub(super) const RESOURCE_NOT_FOUND: i16 = 91;
pub(super) const DUPLICATE_RESOURCE: i16 = 92;
pub(super) const UNACCEPTABLE_CREDENTIAL: i16 = 93;
pub(super) const UNKNOWN_TOPIC_ID: i16 = 100;
pub(super) const TRANSACTIONAL_ID_NOT_FOUND: i16 = 105;
pub(super) const FETCH_SESSION_TOPIC_ID_ERROR: i16 = 106;
pub(super) const FENCED_MEMBER_EPOCH: i16 = 110;
pub(super) const UNRELEASED_INSTANCE_ID: i16 = 111;
pub(super) const UNSUPPORTED_ASSIGNOR: i16 = 112;
pub(super) const STALE_MEMBER_EPOCH: i16 = 113;
pub(super) const INVALID_REGULAR_EXPRESSION: i16 = 128;

/// For a name that no topic has.
pub(super) fn of_no_topic(name: &str) -> i16 {
    if is_topic_name(name) { UNKNOWN_TOPIC_OR_PARTITION } else { INVALID_TOPIC_EXCEPTION }
}

/// Why a batch is not appended.
pub(super) fn of_append(fault: &AppendFault) -> i16 {
    match fault {
        AppendFault::Batch(BatchError::Cut | BatchError::Checksum | BatchError::Records) => CORRUPT_MESSAGE,
        AppendFault::Batch(BatchError::Magic(_)) => UNSUPPORTED_FOR_MESSAGE_FORMAT,
        AppendFault::Batch(BatchError::Codec(_)) => UNSUPPORTED_COMPRESSION_TYPE,
        AppendFault::Batch(BatchError::Counts { .. } | BatchError::Control | BatchError::Key) => INVALID_RECORD,
        AppendFault::TooLarge { .. } => MESSAGE_TOO_LARGE,
        AppendFault::Timestamp => INVALID_TIMESTAMP,
        AppendFault::Deleted => UNKNOWN_TOPIC_OR_PARTITION,
        AppendFault::Producer(ProducerError::Fenced { .. }) => INVALID_PRODUCER_EPOCH,
        AppendFault::Producer(ProducerError::OutOfOrder { .. }) => OUT_OF_ORDER_SEQUENCE_NUMBER,
        // The one word for it that producers know in an answer to their records.
        AppendFault::Transaction(TransactionFault::Fenced) => INVALID_PRODUCER_EPOCH,
        AppendFault::Transaction(fault) => of_transaction(*fault),
        AppendFault::Journal(e) => of_journal(*e),
    }
}

/// Why a transaction does not go on.
pub(super) fn of_transaction(fault: TransactionFault) -> i16 {
    match fault {
        TransactionFault::Name => INVALID_REQUEST,
        TransactionFault::Timeout => INVALID_TRANSACTION_TIMEOUT,
        TransactionFault::UnknownProducer => INVALID_PRODUCER_ID_MAPPING,
        TransactionFault::Fenced => PRODUCER_FENCED,
        TransactionFault::State => INVALID_TXN_STATE,
        TransactionFault::Limit(_) => POLICY_VIOLATION,
        TransactionFault::Metadata => OFFSET_METADATA_TOO_LARGE,
        // Tried again.
        TransactionFault::Journal(_) => COORDINATOR_NOT_AVAILABLE,
    }
}

fn of_journal(_: AppendError) -> i16 {
    KAFKA_STORAGE_ERROR
}

/// Why a fetch session does not go on.
pub(super) fn of_fetch_session(fault: SessionFault) -> i16 {
    match fault {
        SessionFault::Unknown => FETCH_SESSION_ID_NOT_FOUND,
        SessionFault::Epoch => INVALID_FETCH_SESSION_EPOCH,
        SessionFault::TopicIds => FETCH_SESSION_TOPIC_ID_ERROR,
    }
}

/// Why a topic is not made or changed.
pub(super) fn of_topic(fault: &TopicFault) -> i16 {
    match fault {
        TopicFault::Name(_) => INVALID_TOPIC_EXCEPTION,
        TopicFault::Exists(_) => TOPIC_ALREADY_EXISTS,
        TopicFault::Unknown(_) => UNKNOWN_TOPIC_OR_PARTITION,
        TopicFault::Partitions { .. } => INVALID_PARTITIONS,
        TopicFault::Limit(_) => POLICY_VIOLATION,
        TopicFault::Config(_) => INVALID_CONFIG,
        TopicFault::Journal(e) => of_journal(*e),
    }
}

/// Why offsets are not committed.
pub(super) fn of_offsets(fault: &OffsetsFault) -> i16 {
    match fault {
        OffsetsFault::Metadata => OFFSET_METADATA_TOO_LARGE,
        OffsetsFault::Limit => POLICY_VIOLATION,
        OffsetsFault::Journal(e) => of_journal(*e),
    }
}

/// Why a group does not take what a member says.
pub(super) fn of_group(fault: GroupFault) -> i16 {
    match fault {
        GroupFault::InvalidGroup => INVALID_GROUP_ID,
        GroupFault::InvalidSessionTimeout => INVALID_SESSION_TIMEOUT,
        GroupFault::InconsistentProtocol => INCONSISTENT_GROUP_PROTOCOL,
        GroupFault::UnknownMember => UNKNOWN_MEMBER_ID,
        GroupFault::IllegalGeneration => ILLEGAL_GENERATION,
        GroupFault::RebalanceInProgress => REBALANCE_IN_PROGRESS,
        GroupFault::MemberIdRequired => MEMBER_ID_REQUIRED,
        GroupFault::FencedInstance => FENCED_INSTANCE_ID,
        GroupFault::GroupFull => GROUP_MAX_SIZE_REACHED,
        GroupFault::TooManyGroups => POLICY_VIOLATION,
        GroupFault::NotEmpty => NON_EMPTY_GROUP,
        // As Kafka says it of a group that is not of the newer protocol.
        GroupFault::UnknownGroup | GroupFault::ClassicGroup => GROUP_ID_NOT_FOUND,
        GroupFault::InvalidRequest(_) => INVALID_REQUEST,
        GroupFault::FencedEpoch => FENCED_MEMBER_EPOCH,
        GroupFault::StaleEpoch => STALE_MEMBER_EPOCH,
        GroupFault::UnsupportedAssignor => UNSUPPORTED_ASSIGNOR,
        GroupFault::UnreleasedInstance => UNRELEASED_INSTANCE_ID,
        // Tried again.
        GroupFault::Journal(_) => COORDINATOR_NOT_AVAILABLE,
    }
}

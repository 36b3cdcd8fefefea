//! Idempotent producers and transactions.

use crate::wire::message;

message! {
    /// Versions 0 to 5.
    pub struct InitProducerIdRequest: flexible 2 {
        transactional_id: Option<Box<str>>, 0 = Some("".into());
        transaction_timeout_ms: i32, 0;
        producer_id: i64, 3 = -1;
        producer_epoch: i16, 3 = -1;
    }

    /// Versions 0 to 6.
    pub struct InitProducerIdResponse: flexible 2 {
        throttle_time_ms: i32, 0;
        error_code: i16, 0;
        producer_id: i64, 0 = -1;
        producer_epoch: i16, 0;
        ongoing_txn_producer_id: i64, 6 = -1;
        ongoing_txn_producer_epoch: i16, 6 = -1;
    }

    /// Versions 0 to 5.
    pub struct AddPartitionsToTxnRequest: flexible 3 {
        transactions: Vec<AddPartitionsToTxnTransaction>, 4;
        v3_and_below_transactional_id: Box<str>, 0, 3;
        v3_and_below_producer_id: i64, 0, 3;
        v3_and_below_producer_epoch: i16, 0, 3;
        v3_and_below_topics: Vec<AddPartitionsToTxnTopic>, 0, 3;
    }

    /// Versions 0 to 5.
    pub struct AddPartitionsToTxnTopic: flexible 3 {
        name: Box<str>, 0;
        partitions: Vec<i32>, 0;
    }

    /// Versions 0 to 5.
    pub struct AddPartitionsToTxnTransaction: flexible 3 {
        transactional_id: Box<str>, 4;
        producer_id: i64, 4;
        producer_epoch: i16, 4;
        verify_only: bool, 4;
        topics: Vec<AddPartitionsToTxnTopic>, 4;
    }

    /// Versions 0 to 5.
    pub struct AddPartitionsToTxnPartitionResult: flexible 3 {
        partition_index: i32, 0;
        partition_error_code: i16, 0;
    }

    /// Versions 0 to 5.
    pub struct AddPartitionsToTxnResponse: flexible 3 {
        throttle_time_ms: i32, 0;
        error_code: i16, 4;
        results_by_transaction: Vec<AddPartitionsToTxnResult>, 4;
        results_by_topic_v3_and_below: Vec<AddPartitionsToTxnTopicResult>, 0, 3;
    }

    /// Versions 0 to 5.
    pub struct AddPartitionsToTxnResult: flexible 3 {
        transactional_id: Box<str>, 4;
        topic_results: Vec<AddPartitionsToTxnTopicResult>, 4;
    }

    /// Versions 0 to 5.
    pub struct AddPartitionsToTxnTopicResult: flexible 3 {
        name: Box<str>, 0;
        results_by_partition: Vec<AddPartitionsToTxnPartitionResult>, 0;
    }

    /// Versions 0 to 4.
    pub struct AddOffsetsToTxnRequest: flexible 3 {
        transactional_id: Box<str>, 0;
        producer_id: i64, 0;
        producer_epoch: i16, 0;
        group_id: Box<str>, 0;
    }

    /// Versions 0 to 4.
    pub struct AddOffsetsToTxnResponse: flexible 3 {
        throttle_time_ms: i32, 0;
        error_code: i16, 0;
    }

    /// Versions 0 to 5.
    pub struct EndTxnRequest: flexible 3 {
        transactional_id: Box<str>, 0;
        producer_id: i64, 0;
        producer_epoch: i16, 0;
        committed: bool, 0;
    }

    /// Versions 0 to 5.
    pub struct EndTxnResponse: flexible 3 {
        throttle_time_ms: i32, 0;
        error_code: i16, 0;
        producer_id: i64, 5 = -1;
        producer_epoch: i16, 5 = -1;
    }

    /// Versions 0 to 5.
    pub struct TxnOffsetCommitRequest: flexible 3 {
        transactional_id: Box<str>, 0;
        group_id: Box<str>, 0;
        producer_id: i64, 0;
        producer_epoch: i16, 0;
        generation_id: i32, 3 = -1;
        member_id: Box<str>, 3 = "".into();
        group_instance_id: Option<Box<str>>, 3;
        topics: Vec<TxnOffsetCommitRequestTopic>, 0;
    }

    /// Versions 0 to 5.
    pub struct TxnOffsetCommitRequestPartition: flexible 3 {
        partition_index: i32, 0;
        committed_offset: i64, 0;
        committed_leader_epoch: i32, 2 = -1;
        committed_metadata: Option<Box<str>>, 0 = Some("".into());
    }

    /// Versions 0 to 5.
    pub struct TxnOffsetCommitRequestTopic: flexible 3 {
        name: Box<str>, 0;
        partitions: Vec<TxnOffsetCommitRequestPartition>, 0;
    }

    /// Versions 0 to 5.
    pub struct TxnOffsetCommitResponse: flexible 3 {
        throttle_time_ms: i32, 0;
        topics: Vec<TxnOffsetCommitResponseTopic>, 0;
    }

    /// Versions 0 to 5.
    pub struct TxnOffsetCommitResponsePartition: flexible 3 {
        partition_index: i32, 0;
        error_code: i16, 0;
    }

    /// Versions 0 to 5.
    pub struct TxnOffsetCommitResponseTopic: flexible 3 {
        name: Box<str>, 0;
        partitions: Vec<TxnOffsetCommitResponsePartition>, 0;
    }

    /// Version 0.
    pub struct DescribeProducersRequest: flexible 0 {
        topics: Vec<TopicRequest>, 0;
    }

    /// Version 0.
    pub struct TopicRequest: flexible 0 {
        name: Box<str>, 0;
        partition_indexes: Vec<i32>, 0;
    }

    /// Version 0.
    pub struct DescribeProducersResponse: flexible 0 {
        throttle_time_ms: i32, 0;
        topics: Vec<TopicResponse>, 0;
    }

    /// Version 0.
    pub struct PartitionResponse: flexible 0 {
        partition_index: i32, 0;
        error_code: i16, 0;
        error_message: Option<Box<str>>, 0;
        active_producers: Vec<ProducerState>, 0;
    }

    /// Version 0.
    pub struct ProducerState: flexible 0 {
        producer_id: i64, 0;
        producer_epoch: i32, 0;
        last_sequence: i32, 0 = -1;
        last_timestamp: i64, 0 = -1;
        coordinator_epoch: i32, 0;
        current_txn_start_offset: i64, 0 = -1;
    }

    /// Version 0.
    pub struct TopicResponse: flexible 0 {
        name: Box<str>, 0;
        partitions: Vec<PartitionResponse>, 0;
    }

    /// Version 0.
    pub struct DescribeTransactionsRequest: flexible 0 {
        transactional_ids: Vec<Box<str>>, 0;
    }

    /// Version 0.
    pub struct DescribeTransactionsResponse: flexible 0 {
        throttle_time_ms: i32, 0;
        transaction_states: Vec<TransactionState>, 0;
    }

    /// Version 0.
    pub struct TopicData: flexible 0 {
        topic: Box<str>, 0;
        partitions: Vec<i32>, 0;
    }

    /// Version 0.
    pub struct TransactionState: flexible 0 {
        error_code: i16, 0;
        transactional_id: Box<str>, 0;
        transaction_state: Box<str>, 0;
        transaction_timeout_ms: i32, 0;
        transaction_start_time_ms: i64, 0;
        producer_id: i64, 0;
        producer_epoch: i16, 0;
        topics: Vec<TopicData>, 0;
    }

    /// Versions 0 to 2.
    pub struct ListTransactionsRequest: flexible 0 {
        state_filters: Vec<Box<str>>, 0;
        producer_id_filters: Vec<i64>, 0;
        duration_filter: i64, 1 = -1;
        transactional_id_pattern: Option<Box<str>>, 2;
    }

    /// Versions 0 to 2.
    pub struct ListTransactionsResponse: flexible 0 {
        throttle_time_ms: i32, 0;
        error_code: i16, 0;
        unknown_state_filters: Vec<Box<str>>, 0;
        transaction_states: Vec<ListedTransaction>, 0;
    }

    /// Versions 0 to 2.
    pub struct ListedTransaction: flexible 0 {
        transactional_id: Box<str>, 0;
        producer_id: i64, 0;
        transaction_state: Box<str>, 0;
    }
}

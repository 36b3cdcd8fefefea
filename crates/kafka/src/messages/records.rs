//! Around records; those of produce and fetch themselves are read and written by hand.

use crate::wire::{Uuid, message};

message! {
    /// Versions 1 to 10.
    pub struct ListOffsetsPartition: flexible 6 {
        partition_index: i32, 1;
        current_leader_epoch: i32, 4 = -1;
        timestamp: i64, 1;
    }

    /// Versions 1 to 10.
    pub struct ListOffsetsRequest: flexible 6 {
        replica_id: i32, 1;
        isolation_level: i8, 2;
        topics: Vec<ListOffsetsTopic>, 1;
        timeout_ms: i32, 10;
    }

    /// Versions 1 to 10.
    pub struct ListOffsetsTopic: flexible 6 {
        name: Box<str>, 1;
        partitions: Vec<ListOffsetsPartition>, 1;
    }

    /// Versions 1 to 10.
    pub struct ListOffsetsPartitionResponse: flexible 6 {
        partition_index: i32, 1;
        error_code: i16, 1;
        timestamp: i64, 1 = -1;
        offset: i64, 1 = -1;
        leader_epoch: i32, 4 = -1;
    }

    /// Versions 1 to 10.
    pub struct ListOffsetsResponse: flexible 6 {
        throttle_time_ms: i32, 2;
        topics: Vec<ListOffsetsTopicResponse>, 1;
    }

    /// Versions 1 to 10.
    pub struct ListOffsetsTopicResponse: flexible 6 {
        name: Box<str>, 1;
        partitions: Vec<ListOffsetsPartitionResponse>, 1;
    }

    /// Versions 2 to 4.
    pub struct OffsetForLeaderEpochRequest: flexible 4 {
        replica_id: i32, 3 = -2;
        topics: Vec<OffsetForLeaderTopic>, 2;
    }

    /// Versions 2 to 4.
    pub struct OffsetForLeaderPartition: flexible 4 {
        partition: i32, 2;
        current_leader_epoch: i32, 2 = -1;
        leader_epoch: i32, 2;
    }

    /// Versions 2 to 4.
    pub struct OffsetForLeaderTopic: flexible 4 {
        topic: Box<str>, 2;
        partitions: Vec<OffsetForLeaderPartition>, 2;
    }

    /// Versions 2 to 4.
    pub struct EpochEndOffset: flexible 4 {
        error_code: i16, 2;
        partition: i32, 2;
        leader_epoch: i32, 2 = -1;
        end_offset: i64, 2 = -1;
    }

    /// Versions 2 to 4.
    pub struct OffsetForLeaderEpochResponse: flexible 4 {
        throttle_time_ms: i32, 2;
        topics: Vec<OffsetForLeaderTopicResult>, 2;
    }

    /// Versions 2 to 4.
    pub struct OffsetForLeaderTopicResult: flexible 4 {
        topic: Box<str>, 2;
        partitions: Vec<EpochEndOffset>, 2;
    }

    /// Versions 0 to 2.
    pub struct DeleteRecordsPartition: flexible 2 {
        partition_index: i32, 0;
        offset: i64, 0;
    }

    /// Versions 0 to 2.
    pub struct DeleteRecordsRequest: flexible 2 {
        topics: Vec<DeleteRecordsTopic>, 0;
        timeout_ms: i32, 0;
    }

    /// Versions 0 to 2.
    pub struct DeleteRecordsTopic: flexible 2 {
        name: Box<str>, 0;
        partitions: Vec<DeleteRecordsPartition>, 0;
    }

    /// Versions 0 to 2.
    pub struct DeleteRecordsPartitionResult: flexible 2 {
        partition_index: i32, 0;
        low_watermark: i64, 0;
        error_code: i16, 0;
    }

    /// Versions 0 to 2.
    pub struct DeleteRecordsResponse: flexible 2 {
        throttle_time_ms: i32, 0;
        topics: Vec<DeleteRecordsTopicResult>, 0;
    }

    /// Versions 0 to 2.
    pub struct DeleteRecordsTopicResult: flexible 2 {
        name: Box<str>, 0;
        partitions: Vec<DeleteRecordsPartitionResult>, 0;
    }

    /// Versions 4 to 18.
    pub struct FetchPartition: flexible 12 {
        partition: i32, 4;
        current_leader_epoch: i32, 9 = -1;
        fetch_offset: i64, 4;
        last_fetched_epoch: i32, 12 = -1;
        log_start_offset: i64, 5 = -1;
        partition_max_bytes: i32, 4;
        replica_directory_id: Uuid, 17, tag 0;
        high_watermark: i64, 18, tag 1 = 9223372036854775807;
    }

    /// Versions 4 to 18.
    pub struct FetchRequest: flexible 12 {
        cluster_id: Option<Box<str>>, 12, tag 0;
        replica_id: i32, 4, 14 = -1;
        replica_state: ReplicaState, 15, tag 1;
        max_wait_ms: i32, 4;
        min_bytes: i32, 4;
        max_bytes: i32, 4 = 0x7fffffff;
        isolation_level: i8, 4;
        session_id: i32, 7;
        session_epoch: i32, 7 = -1;
        topics: Vec<FetchTopic>, 4;
        forgotten_topics_data: Vec<ForgottenTopic>, 7;
        rack_id: Box<str>, 11 = "".into();
    }

    /// Versions 4 to 18.
    pub struct FetchTopic: flexible 12 {
        topic: Box<str>, 4, 12;
        topic_id: Uuid, 13;
        partitions: Vec<FetchPartition>, 4;
    }

    /// Versions 4 to 18.
    pub struct ForgottenTopic: flexible 12 {
        topic: Box<str>, 7, 12;
        topic_id: Uuid, 13;
        partitions: Vec<i32>, 7;
    }

    /// Versions 4 to 18.
    pub struct ReplicaState: flexible 12 {
        replica_id: i32, 15 = -1;
        replica_epoch: i64, 15 = -1;
    }

    /// Versions 3 to 13.
    pub struct BatchIndexAndErrorMessage: flexible 9 {
        batch_index: i32, 8;
        batch_index_error_message: Option<Box<str>>, 8;
    }

    /// Versions 3 to 13.
    pub struct LeaderIdAndEpoch: flexible 9 {
        leader_id: i32, 10 = -1;
        leader_epoch: i32, 10 = -1;
    }

    /// Versions 3 to 13.
    pub struct NodeEndpoint: flexible 9 {
        node_id: i32, 10;
        host: Box<str>, 10;
        port: i32, 10;
        rack: Option<Box<str>>, 10;
    }

    /// Versions 3 to 13.
    pub struct PartitionProduceResponse: flexible 9 {
        index: i32, 3;
        error_code: i16, 3;
        base_offset: i64, 3;
        log_append_time_ms: i64, 3 = -1;
        log_start_offset: i64, 5 = -1;
        record_errors: Vec<BatchIndexAndErrorMessage>, 8;
        error_message: Option<Box<str>>, 8;
        current_leader: LeaderIdAndEpoch, 10, tag 0;
    }

    /// Versions 3 to 13.
    pub struct ProduceResponse: flexible 9 {
        responses: Vec<TopicProduceResponse>, 3;
        throttle_time_ms: i32, 3;
        node_endpoints: Vec<NodeEndpoint>, 10, tag 0;
    }

    /// Versions 3 to 13.
    pub struct TopicProduceResponse: flexible 9 {
        name: Box<str>, 3, 12;
        topic_id: Uuid, 13;
        partition_responses: Vec<PartitionProduceResponse>, 3;
    }
}

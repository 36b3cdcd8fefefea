//! What a cluster is, and what it is asked first.

use crate::wire::{Uuid, message};

message! {
    /// Versions 0 to 4.
    pub struct ApiVersionsRequest: flexible 3 {
        client_software_name: Box<str>, 3;
        client_software_version: Box<str>, 3;
    }

    /// Versions 0 to 4.
    pub struct ApiVersion: flexible 3 {
        api_key: i16, 0;
        min_version: i16, 0;
        max_version: i16, 0;
    }

    /// Versions 0 to 4.
    pub struct ApiVersionsResponse: flexible 3 {
        error_code: i16, 0;
        api_keys: Vec<ApiVersion>, 0;
        throttle_time_ms: i32, 1;
        supported_features: Vec<SupportedFeatureKey>, 3, tag 0;
        finalized_features_epoch: i64, 3, tag 1 = -1;
        finalized_features: Vec<FinalizedFeatureKey>, 3, tag 2;
        zk_migration_ready: bool, 3, tag 3;
    }

    /// Versions 0 to 4.
    pub struct FinalizedFeatureKey: flexible 3 {
        name: Box<str>, 3;
        max_version_level: i16, 3;
        min_version_level: i16, 3;
    }

    /// Versions 0 to 4.
    pub struct SupportedFeatureKey: flexible 3 {
        name: Box<str>, 3;
        min_version: i16, 3;
        max_version: i16, 3;
    }

    /// Versions 0 to 13.
    pub struct MetadataRequest: flexible 9 {
        topics: Option<Vec<MetadataRequestTopic>>, 0 = Some(Vec::new());
        allow_auto_topic_creation: bool, 4 = true;
        include_cluster_authorized_operations: bool, 8, 10;
        include_topic_authorized_operations: bool, 8;
    }

    /// Versions 0 to 13.
    pub struct MetadataRequestTopic: flexible 9 {
        topic_id: Uuid, 10;
        name: Option<Box<str>>, 0 = Some("".into());
    }

    /// Versions 0 to 13.
    pub struct MetadataResponse: flexible 9 {
        throttle_time_ms: i32, 3;
        brokers: Vec<MetadataResponseBroker>, 0;
        cluster_id: Option<Box<str>>, 2;
        controller_id: i32, 1 = -1;
        topics: Vec<MetadataResponseTopic>, 0;
        cluster_authorized_operations: i32, 8, 10 = -2147483648;
        error_code: i16, 13;
    }

    /// Versions 0 to 13.
    pub struct MetadataResponseBroker: flexible 9 {
        node_id: i32, 0;
        host: Box<str>, 0;
        port: i32, 0;
        rack: Option<Box<str>>, 1;
    }

    /// Versions 0 to 13.
    pub struct MetadataResponsePartition: flexible 9 {
        error_code: i16, 0;
        partition_index: i32, 0;
        leader_id: i32, 0;
        leader_epoch: i32, 7 = -1;
        replica_nodes: Vec<i32>, 0;
        isr_nodes: Vec<i32>, 0;
        offline_replicas: Vec<i32>, 5;
    }

    /// Versions 0 to 13.
    pub struct MetadataResponseTopic: flexible 9 {
        error_code: i16, 0;
        name: Option<Box<str>>, 0 = Some("".into());
        topic_id: Uuid, 10;
        is_internal: bool, 1;
        partitions: Vec<MetadataResponsePartition>, 0;
        topic_authorized_operations: i32, 8 = -2147483648;
    }

    /// Versions 0 to 2.
    pub struct DescribeClusterRequest: flexible 0 {
        include_cluster_authorized_operations: bool, 0;
        endpoint_type: i8, 1 = 1;
        include_fenced_brokers: bool, 2;
    }

    /// Versions 0 to 2.
    pub struct DescribeClusterBroker: flexible 0 {
        broker_id: i32, 0;
        host: Box<str>, 0;
        port: i32, 0;
        rack: Option<Box<str>>, 0;
        is_fenced: bool, 2;
    }

    /// Versions 0 to 2.
    pub struct DescribeClusterResponse: flexible 0 {
        throttle_time_ms: i32, 0;
        error_code: i16, 0;
        error_message: Option<Box<str>>, 0;
        endpoint_type: i8, 1 = 1;
        cluster_id: Box<str>, 0;
        controller_id: i32, 0 = -1;
        brokers: Vec<DescribeClusterBroker>, 0;
        cluster_authorized_operations: i32, 0 = -2147483648;
    }

    /// Version 0.
    pub struct Cursor: flexible 0 {
        topic_name: Box<str>, 0;
        partition_index: i32, 0;
    }

    /// Version 0.
    pub struct DescribeTopicPartitionsRequest: flexible 0 {
        topics: Vec<TopicRequest>, 0;
        response_partition_limit: i32, 0 = 2000;
        cursor: Option<Box<Cursor>>, 0;
    }

    /// Version 0.
    pub struct TopicRequest: flexible 0 {
        name: Box<str>, 0;
    }

    /// Version 0.
    pub struct DescribeTopicPartitionsResponse: flexible 0 {
        throttle_time_ms: i32, 0;
        topics: Vec<DescribeTopicPartitionsResponseTopic>, 0;
        next_cursor: Option<Box<Cursor>>, 0;
    }

    /// Version 0.
    pub struct DescribeTopicPartitionsResponsePartition: flexible 0 {
        error_code: i16, 0;
        partition_index: i32, 0;
        leader_id: i32, 0;
        leader_epoch: i32, 0 = -1;
        replica_nodes: Vec<i32>, 0;
        isr_nodes: Vec<i32>, 0;
        eligible_leader_replicas: Option<Vec<i32>>, 0;
        last_known_elr: Option<Vec<i32>>, 0;
        offline_replicas: Vec<i32>, 0;
    }

    /// Version 0.
    pub struct DescribeTopicPartitionsResponseTopic: flexible 0 {
        error_code: i16, 0;
        name: Option<Box<str>>, 0 = Some("".into());
        topic_id: Uuid, 0;
        is_internal: bool, 0;
        partitions: Vec<DescribeTopicPartitionsResponsePartition>, 0;
        topic_authorized_operations: i32, 0 = -2147483648;
    }

    /// Versions 1 to 4.
    pub struct DescribableLogDirTopic: flexible 2 {
        topic: Box<str>, 1;
        partitions: Vec<i32>, 1;
    }

    /// Versions 1 to 4.
    pub struct DescribeLogDirsRequest: flexible 2 {
        topics: Option<Vec<DescribableLogDirTopic>>, 1 = Some(Vec::new());
    }

    /// Versions 1 to 4.
    pub struct DescribeLogDirsPartition: flexible 2 {
        partition_index: i32, 1;
        partition_size: i64, 1;
        offset_lag: i64, 1;
        is_future_key: bool, 1;
    }

    /// Versions 1 to 4.
    pub struct DescribeLogDirsResponse: flexible 2 {
        throttle_time_ms: i32, 1;
        error_code: i16, 3;
        results: Vec<DescribeLogDirsResult>, 1;
    }

    /// Versions 1 to 4.
    pub struct DescribeLogDirsResult: flexible 2 {
        error_code: i16, 1;
        log_dir: Box<str>, 1;
        topics: Vec<DescribeLogDirsTopic>, 1;
        total_bytes: i64, 4 = -1;
        usable_bytes: i64, 4 = -1;
    }

    /// Versions 1 to 4.
    pub struct DescribeLogDirsTopic: flexible 2 {
        name: Box<str>, 1;
        partitions: Vec<DescribeLogDirsPartition>, 1;
    }

    /// Versions 0 to 2.
    pub struct ElectLeadersRequest: flexible 2 {
        election_type: i8, 1;
        topic_partitions: Option<Vec<TopicPartitions>>, 0 = Some(Vec::new());
        timeout_ms: i32, 0 = 60000;
    }

    /// Versions 0 to 2.
    pub struct TopicPartitions: flexible 2 {
        topic: Box<str>, 0;
        partitions: Vec<i32>, 0;
    }

    /// Versions 0 to 2.
    pub struct ElectLeadersResponse: flexible 2 {
        throttle_time_ms: i32, 0;
        error_code: i16, 1;
        replica_election_results: Vec<ReplicaElectionResult>, 0;
    }

    /// Versions 0 to 2.
    pub struct PartitionResult: flexible 2 {
        partition_id: i32, 0;
        error_code: i16, 0;
        error_message: Option<Box<str>>, 0 = Some("".into());
    }

    /// Versions 0 to 2.
    pub struct ReplicaElectionResult: flexible 2 {
        topic: Box<str>, 0;
        partition_result: Vec<PartitionResult>, 0;
    }

    /// Versions 0 and 1.
    pub struct AlterPartitionReassignmentsRequest: flexible 0 {
        timeout_ms: i32, 0 = 60000;
        allow_replication_factor_change: bool, 1 = true;
        topics: Vec<ReassignableTopic>, 0;
    }

    /// Versions 0 and 1.
    pub struct ReassignableTopic: flexible 0 {
        name: Box<str>, 0;
        partitions: Vec<ReassignablePartition>, 0;
    }

    /// Versions 0 and 1.
    pub struct ReassignablePartition: flexible 0 {
        partition_index: i32, 0;
        replicas: Option<Vec<i32>>, 0;
    }

    /// Versions 0 and 1.
    pub struct AlterPartitionReassignmentsResponse: flexible 0 {
        throttle_time_ms: i32, 0;
        allow_replication_factor_change: bool, 1 = true;
        error_code: i16, 0;
        error_message: Option<Box<str>>, 0 = Some("".into());
        responses: Vec<ReassignableTopicResponse>, 0;
    }

    /// Versions 0 and 1.
    pub struct ReassignablePartitionResponse: flexible 0 {
        partition_index: i32, 0;
        error_code: i16, 0;
        error_message: Option<Box<str>>, 0 = Some("".into());
    }

    /// Versions 0 and 1.
    pub struct ReassignableTopicResponse: flexible 0 {
        name: Box<str>, 0;
        partitions: Vec<ReassignablePartitionResponse>, 0;
    }

    /// Version 0.
    pub struct ListPartitionReassignmentsRequest: flexible 0 {
        timeout_ms: i32, 0 = 60000;
        topics: Option<Vec<ListPartitionReassignmentsTopics>>, 0;
    }

    /// Version 0.
    pub struct ListPartitionReassignmentsTopics: flexible 0 {
        name: Box<str>, 0;
        partition_indexes: Vec<i32>, 0;
    }

    /// Version 0.
    pub struct ListPartitionReassignmentsResponse: flexible 0 {
        throttle_time_ms: i32, 0;
        error_code: i16, 0;
        error_message: Option<Box<str>>, 0 = Some("".into());
        topics: Vec<OngoingTopicReassignment>, 0;
    }

    /// Version 0.
    pub struct OngoingPartitionReassignment: flexible 0 {
        partition_index: i32, 0;
        replicas: Vec<i32>, 0;
        adding_replicas: Vec<i32>, 0;
        removing_replicas: Vec<i32>, 0;
    }

    /// Version 0.
    pub struct OngoingTopicReassignment: flexible 0 {
        name: Box<str>, 0;
        partitions: Vec<OngoingPartitionReassignment>, 0;
    }
}

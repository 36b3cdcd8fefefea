//! Topics made, removed, extended.

use crate::wire::{Uuid, message};

message! {
    /// Versions 2 to 7.
    pub struct CreatableReplicaAssignment: flexible 5 {
        partition_index: i32, 2;
        broker_ids: Vec<i32>, 2;
    }

    /// Versions 2 to 7.
    pub struct CreatableTopic: flexible 5 {
        name: Box<str>, 2;
        num_partitions: i32, 2;
        replication_factor: i16, 2;
        assignments: Vec<CreatableReplicaAssignment>, 2;
        configs: Vec<CreatableTopicConfig>, 2;
    }

    /// Versions 2 to 7.
    pub struct CreatableTopicConfig: flexible 5 {
        name: Box<str>, 2;
        value: Option<Box<str>>, 2 = Some("".into());
    }

    /// Versions 2 to 7.
    pub struct CreateTopicsRequest: flexible 5 {
        topics: Vec<CreatableTopic>, 2;
        timeout_ms: i32, 2 = 60000;
        validate_only: bool, 2;
    }

    /// Versions 2 to 7.
    pub struct CreatableTopicConfigs: flexible 5 {
        name: Box<str>, 5;
        value: Option<Box<str>>, 5 = Some("".into());
        read_only: bool, 5;
        config_source: i8, 5 = -1;
        is_sensitive: bool, 5;
    }

    /// Versions 2 to 7.
    pub struct CreatableTopicResult: flexible 5 {
        name: Box<str>, 2;
        topic_id: Uuid, 7;
        error_code: i16, 2;
        error_message: Option<Box<str>>, 2 = Some("".into());
        topic_config_error_code: i16, 5, tag 0;
        num_partitions: i32, 5 = -1;
        replication_factor: i16, 5 = -1;
        configs: Option<Vec<CreatableTopicConfigs>>, 5 = Some(Vec::new());
    }

    /// Versions 2 to 7.
    pub struct CreateTopicsResponse: flexible 5 {
        throttle_time_ms: i32, 2;
        topics: Vec<CreatableTopicResult>, 2;
    }

    /// Versions 1 to 6.
    pub struct DeleteTopicState: flexible 4 {
        name: Option<Box<str>>, 6;
        topic_id: Uuid, 6;
    }

    /// Versions 1 to 6.
    pub struct DeleteTopicsRequest: flexible 4 {
        topics: Vec<DeleteTopicState>, 6;
        topic_names: Vec<Box<str>>, 1, 5;
        timeout_ms: i32, 1;
    }

    /// Versions 1 to 6.
    pub struct DeletableTopicResult: flexible 4 {
        name: Option<Box<str>>, 1 = Some("".into());
        topic_id: Uuid, 6;
        error_code: i16, 1;
        error_message: Option<Box<str>>, 5;
    }

    /// Versions 1 to 6.
    pub struct DeleteTopicsResponse: flexible 4 {
        throttle_time_ms: i32, 1;
        responses: Vec<DeletableTopicResult>, 1;
    }

    /// Versions 0 to 3.
    pub struct CreatePartitionsAssignment: flexible 2 {
        broker_ids: Vec<i32>, 0;
    }

    /// Versions 0 to 3.
    pub struct CreatePartitionsRequest: flexible 2 {
        topics: Vec<CreatePartitionsTopic>, 0;
        timeout_ms: i32, 0;
        validate_only: bool, 0;
    }

    /// Versions 0 to 3.
    pub struct CreatePartitionsTopic: flexible 2 {
        name: Box<str>, 0;
        count: i32, 0;
        assignments: Option<Vec<CreatePartitionsAssignment>>, 0 = Some(Vec::new());
    }

    /// Versions 0 to 3.
    pub struct CreatePartitionsResponse: flexible 2 {
        throttle_time_ms: i32, 0;
        results: Vec<CreatePartitionsTopicResult>, 0;
    }

    /// Versions 0 to 3.
    pub struct CreatePartitionsTopicResult: flexible 2 {
        name: Box<str>, 0;
        error_code: i16, 0;
        error_message: Option<Box<str>>, 0;
    }
}

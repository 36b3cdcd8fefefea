//! Offsets of groups.

use crate::wire::{Uuid, message};

message! {
    /// Versions 2 to 9.
    pub struct OffsetCommitRequest: flexible 8 {
        group_id: Box<str>, 2;
        generation_id_or_member_epoch: i32, 2 = -1;
        member_id: Box<str>, 2;
        group_instance_id: Option<Box<str>>, 7;
        retention_time_ms: i64, 2, 4 = -1;
        topics: Vec<OffsetCommitRequestTopic>, 2;
    }

    /// Versions 2 to 9.
    pub struct OffsetCommitRequestPartition: flexible 8 {
        partition_index: i32, 2;
        committed_offset: i64, 2;
        committed_leader_epoch: i32, 6 = -1;
        committed_metadata: Option<Box<str>>, 2 = Some("".into());
    }

    /// Versions 2 to 9.
    pub struct OffsetCommitRequestTopic: flexible 8 {
        name: Box<str>, 2;
        partitions: Vec<OffsetCommitRequestPartition>, 2;
    }

    /// Versions 2 to 10.
    pub struct OffsetCommitResponse: flexible 8 {
        throttle_time_ms: i32, 3;
        topics: Vec<OffsetCommitResponseTopic>, 2;
    }

    /// Versions 2 to 10.
    pub struct OffsetCommitResponsePartition: flexible 8 {
        partition_index: i32, 2;
        error_code: i16, 2;
    }

    /// Versions 2 to 10.
    pub struct OffsetCommitResponseTopic: flexible 8 {
        name: Box<str>, 2, 9;
        topic_id: Uuid, 10;
        partitions: Vec<OffsetCommitResponsePartition>, 2;
    }

    /// Versions 1 to 9.
    pub struct OffsetFetchRequest: flexible 6 {
        group_id: Box<str>, 1, 7;
        topics: Option<Vec<OffsetFetchRequestTopic>>, 1, 7 = Some(Vec::new());
        groups: Vec<OffsetFetchRequestGroup>, 8;
        require_stable: bool, 7;
    }

    /// Versions 1 to 9.
    pub struct OffsetFetchRequestGroup: flexible 6 {
        group_id: Box<str>, 8;
        member_id: Option<Box<str>>, 9;
        member_epoch: i32, 9 = -1;
        topics: Option<Vec<OffsetFetchRequestTopics>>, 8 = Some(Vec::new());
    }

    /// Versions 1 to 9.
    pub struct OffsetFetchRequestTopic: flexible 6 {
        name: Box<str>, 1, 7;
        partition_indexes: Vec<i32>, 1, 7;
    }

    /// Versions 1 to 9.
    pub struct OffsetFetchRequestTopics: flexible 6 {
        name: Box<str>, 8;
        partition_indexes: Vec<i32>, 8;
    }

    /// Versions 1 to 10.
    pub struct OffsetFetchResponse: flexible 6 {
        throttle_time_ms: i32, 3;
        topics: Vec<OffsetFetchResponseTopic>, 1, 7;
        error_code: i16, 2, 7;
        groups: Vec<OffsetFetchResponseGroup>, 8;
    }

    /// Versions 1 to 10.
    pub struct OffsetFetchResponseGroup: flexible 6 {
        group_id: Box<str>, 8;
        topics: Vec<OffsetFetchResponseTopics>, 8;
        error_code: i16, 8;
    }

    /// Versions 1 to 10.
    pub struct OffsetFetchResponsePartition: flexible 6 {
        partition_index: i32, 1, 7;
        committed_offset: i64, 1, 7;
        committed_leader_epoch: i32, 5, 7 = -1;
        metadata: Option<Box<str>>, 1, 7 = Some("".into());
        error_code: i16, 1, 7;
    }

    /// Versions 1 to 10.
    pub struct OffsetFetchResponsePartitions: flexible 6 {
        partition_index: i32, 8;
        committed_offset: i64, 8;
        committed_leader_epoch: i32, 8 = -1;
        metadata: Option<Box<str>>, 8 = Some("".into());
        error_code: i16, 8;
    }

    /// Versions 1 to 10.
    pub struct OffsetFetchResponseTopic: flexible 6 {
        name: Box<str>, 1, 7;
        partitions: Vec<OffsetFetchResponsePartition>, 1, 7;
    }

    /// Versions 1 to 10.
    pub struct OffsetFetchResponseTopics: flexible 6 {
        name: Box<str>, 8, 9;
        topic_id: Uuid, 10;
        partitions: Vec<OffsetFetchResponsePartitions>, 8;
    }

    /// Version 0.
    pub struct OffsetDeleteRequest: flexible 32767 {
        group_id: Box<str>, 0;
        topics: Vec<OffsetDeleteRequestTopic>, 0;
    }

    /// Version 0.
    pub struct OffsetDeleteRequestPartition: flexible 32767 {
        partition_index: i32, 0;
    }

    /// Version 0.
    pub struct OffsetDeleteRequestTopic: flexible 32767 {
        name: Box<str>, 0;
        partitions: Vec<OffsetDeleteRequestPartition>, 0;
    }

    /// Version 0.
    pub struct OffsetDeleteResponse: flexible 32767 {
        error_code: i16, 0;
        throttle_time_ms: i32, 0;
        topics: Vec<OffsetDeleteResponseTopic>, 0;
    }

    /// Version 0.
    pub struct OffsetDeleteResponsePartition: flexible 32767 {
        partition_index: i32, 0;
        error_code: i16, 0;
    }

    /// Version 0.
    pub struct OffsetDeleteResponseTopic: flexible 32767 {
        name: Box<str>, 0;
        partitions: Vec<OffsetDeleteResponsePartition>, 0;
    }
}

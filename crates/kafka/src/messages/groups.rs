//! Consumer groups.

use bytes::Bytes;

use crate::wire::{Uuid, message};

message! {
    /// Versions 0 to 6.
    pub struct FindCoordinatorRequest: flexible 3 {
        key: Box<str>, 0, 3;
        key_type: i8, 1;
        coordinator_keys: Vec<Box<str>>, 4;
    }

    /// Versions 0 to 6.
    pub struct Coordinator: flexible 3 {
        key: Box<str>, 4;
        node_id: i32, 4;
        host: Box<str>, 4;
        port: i32, 4;
        error_code: i16, 4;
        error_message: Option<Box<str>>, 4 = Some("".into());
    }

    /// Versions 0 to 6.
    pub struct FindCoordinatorResponse: flexible 3 {
        throttle_time_ms: i32, 1;
        error_code: i16, 0, 3;
        error_message: Option<Box<str>>, 1, 3 = Some("".into());
        node_id: i32, 0, 3;
        host: Box<str>, 0, 3;
        port: i32, 0, 3;
        coordinators: Vec<Coordinator>, 4;
    }

    /// Versions 0 to 9.
    pub struct JoinGroupRequest: flexible 6 {
        group_id: Box<str>, 0;
        session_timeout_ms: i32, 0;
        rebalance_timeout_ms: i32, 1 = -1;
        member_id: Box<str>, 0;
        group_instance_id: Option<Box<str>>, 5;
        protocol_type: Box<str>, 0;
        protocols: Vec<JoinGroupRequestProtocol>, 0;
        reason: Option<Box<str>>, 8;
    }

    /// Versions 0 to 9.
    pub struct JoinGroupRequestProtocol: flexible 6 {
        name: Box<str>, 0;
        metadata: Bytes, 0;
    }

    /// Versions 0 to 9.
    pub struct JoinGroupResponse: flexible 6 {
        throttle_time_ms: i32, 2;
        error_code: i16, 0;
        generation_id: i32, 0 = -1;
        protocol_type: Option<Box<str>>, 7;
        protocol_name: Option<Box<str>>, 0 = Some("".into());
        leader: Box<str>, 0;
        skip_assignment: bool, 9;
        member_id: Box<str>, 0;
        members: Vec<JoinGroupResponseMember>, 0;
    }

    /// Versions 0 to 9.
    pub struct JoinGroupResponseMember: flexible 6 {
        member_id: Box<str>, 0;
        group_instance_id: Option<Box<str>>, 5;
        metadata: Bytes, 0;
    }

    /// Versions 0 to 5.
    pub struct SyncGroupRequest: flexible 4 {
        group_id: Box<str>, 0;
        generation_id: i32, 0;
        member_id: Box<str>, 0;
        group_instance_id: Option<Box<str>>, 3;
        protocol_type: Option<Box<str>>, 5;
        protocol_name: Option<Box<str>>, 5;
        assignments: Vec<SyncGroupRequestAssignment>, 0;
    }

    /// Versions 0 to 5.
    pub struct SyncGroupRequestAssignment: flexible 4 {
        member_id: Box<str>, 0;
        assignment: Bytes, 0;
    }

    /// Versions 0 to 5.
    pub struct SyncGroupResponse: flexible 4 {
        throttle_time_ms: i32, 1;
        error_code: i16, 0;
        protocol_type: Option<Box<str>>, 5;
        protocol_name: Option<Box<str>>, 5;
        assignment: Bytes, 0;
    }

    /// Versions 0 to 4.
    pub struct HeartbeatRequest: flexible 4 {
        group_id: Box<str>, 0;
        generation_id: i32, 0;
        member_id: Box<str>, 0;
        group_instance_id: Option<Box<str>>, 3;
    }

    /// Versions 0 to 4.
    pub struct HeartbeatResponse: flexible 4 {
        throttle_time_ms: i32, 1;
        error_code: i16, 0;
    }

    /// Versions 0 to 5.
    pub struct LeaveGroupRequest: flexible 4 {
        group_id: Box<str>, 0;
        member_id: Box<str>, 0, 2;
        members: Vec<MemberIdentity>, 3;
    }

    /// Versions 0 to 5.
    pub struct MemberIdentity: flexible 4 {
        member_id: Box<str>, 3;
        group_instance_id: Option<Box<str>>, 3;
        reason: Option<Box<str>>, 5;
    }

    /// Versions 0 to 5.
    pub struct LeaveGroupResponse: flexible 4 {
        throttle_time_ms: i32, 1;
        error_code: i16, 0;
        members: Vec<MemberResponse>, 3;
    }

    /// Versions 0 to 5.
    pub struct MemberResponse: flexible 4 {
        member_id: Box<str>, 3;
        group_instance_id: Option<Box<str>>, 3 = Some("".into());
        error_code: i16, 3;
    }

    /// Versions 0 to 6.
    pub struct DescribeGroupsRequest: flexible 5 {
        groups: Vec<Box<str>>, 0;
        include_authorized_operations: bool, 3;
    }

    /// Versions 0 to 6.
    pub struct DescribeGroupsResponse: flexible 5 {
        throttle_time_ms: i32, 1;
        groups: Vec<DescribedGroup>, 0;
    }

    /// Versions 0 to 6.
    pub struct DescribedGroup: flexible 5 {
        error_code: i16, 0;
        error_message: Option<Box<str>>, 6;
        group_id: Box<str>, 0;
        group_state: Box<str>, 0;
        protocol_type: Box<str>, 0;
        protocol_data: Box<str>, 0;
        members: Vec<DescribedGroupMember>, 0;
        authorized_operations: i32, 3 = -2147483648;
    }

    /// Versions 0 to 6.
    pub struct DescribedGroupMember: flexible 5 {
        member_id: Box<str>, 0;
        group_instance_id: Option<Box<str>>, 4;
        client_id: Box<str>, 0;
        client_host: Box<str>, 0;
        member_metadata: Bytes, 0;
        member_assignment: Bytes, 0;
    }

    /// Versions 0 to 5.
    pub struct ListGroupsRequest: flexible 3 {
        states_filter: Vec<Box<str>>, 4;
        types_filter: Vec<Box<str>>, 5;
    }

    /// Versions 0 to 5.
    pub struct ListGroupsResponse: flexible 3 {
        throttle_time_ms: i32, 1;
        error_code: i16, 0;
        groups: Vec<ListedGroup>, 0;
    }

    /// Versions 0 to 5.
    pub struct ListedGroup: flexible 3 {
        group_id: Box<str>, 0;
        protocol_type: Box<str>, 0;
        group_state: Box<str>, 4;
        group_type: Box<str>, 5;
    }

    /// Versions 0 to 2.
    pub struct DeleteGroupsRequest: flexible 2 {
        groups_names: Vec<Box<str>>, 0;
    }

    /// Versions 0 to 2.
    pub struct DeletableGroupResult: flexible 2 {
        group_id: Box<str>, 0;
        error_code: i16, 0;
    }

    /// Versions 0 to 2.
    pub struct DeleteGroupsResponse: flexible 2 {
        throttle_time_ms: i32, 0;
        results: Vec<DeletableGroupResult>, 0;
    }

    /// Versions 0 to 1.
    pub struct ConsumerGroupHeartbeatRequest: flexible 0 {
        group_id: Box<str>, 0;
        member_id: Box<str>, 0;
        member_epoch: i32, 0;
        instance_id: Option<Box<str>>, 0;
        rack_id: Option<Box<str>>, 0;
        rebalance_timeout_ms: i32, 0 = -1;
        subscribed_topic_names: Option<Vec<Box<str>>>, 0;
        subscribed_topic_regex: Option<Box<str>>, 1;
        server_assignor: Option<Box<str>>, 0;
        topic_partitions: Option<Vec<TopicPartitions>>, 0;
    }

    /// Versions 0 to 1.
    pub struct TopicPartitions: flexible 0 {
        topic_id: Uuid, 0;
        partitions: Vec<i32>, 0;
    }

    /// Versions 0 to 1.
    pub struct Assignment: flexible 0 {
        topic_partitions: Vec<TopicPartitions>, 0;
    }

    /// Versions 0 to 1.
    pub struct ConsumerGroupHeartbeatResponse: flexible 0 {
        throttle_time_ms: i32, 0;
        error_code: i16, 0;
        error_message: Option<Box<str>>, 0;
        member_id: Option<Box<str>>, 0;
        member_epoch: i32, 0;
        heartbeat_interval_ms: i32, 0;
        assignment: Option<Box<Assignment>>, 0;
    }

    /// Versions 0 to 1.
    pub struct ConsumerGroupDescribeRequest: flexible 0 {
        group_ids: Vec<Box<str>>, 0;
        include_authorized_operations: bool, 0;
    }

    /// Versions 0 to 1.
    pub struct DescribedAssignment: flexible 0 {
        topic_partitions: Vec<AssignedTopicPartitions>, 0;
    }

    /// Versions 0 to 1.
    pub struct ConsumerGroupDescribeResponse: flexible 0 {
        throttle_time_ms: i32, 0;
        groups: Vec<DescribedConsumerGroup>, 0;
    }

    /// Versions 0 to 1.
    pub struct DescribedConsumerGroup: flexible 0 {
        error_code: i16, 0;
        error_message: Option<Box<str>>, 0;
        group_id: Box<str>, 0;
        group_state: Box<str>, 0;
        group_epoch: i32, 0;
        assignment_epoch: i32, 0;
        assignor_name: Box<str>, 0;
        members: Vec<Member>, 0;
        authorized_operations: i32, 0 = -2147483648;
    }

    /// Versions 0 to 1.
    pub struct Member: flexible 0 {
        member_id: Box<str>, 0;
        instance_id: Option<Box<str>>, 0;
        rack_id: Option<Box<str>>, 0;
        member_epoch: i32, 0;
        client_id: Box<str>, 0;
        client_host: Box<str>, 0;
        subscribed_topic_names: Vec<Box<str>>, 0;
        subscribed_topic_regex: Option<Box<str>>, 0;
        assignment: DescribedAssignment, 0;
        target_assignment: DescribedAssignment, 0;
        member_type: i8, 1 = -1;
    }

    /// Versions 0 to 1.
    pub struct AssignedTopicPartitions: flexible 0 {
        topic_id: Uuid, 0;
        topic_name: Box<str>, 0;
        partitions: Vec<i32>, 0;
    }
}

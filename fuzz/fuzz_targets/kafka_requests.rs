//! Any octets as a request: its header, and its body as each message in each version.
#![no_main]

use libfuzzer_sys::fuzz_target;
use waypost_kafka::apis;
use waypost_kafka::frame::RequestHeader;
use waypost_kafka::messages::cluster::{AlterPartitionReassignmentsRequest, ApiVersionsRequest, MetadataRequest, DescribeClusterRequest, DescribeTopicPartitionsRequest, DescribeLogDirsRequest, ElectLeadersRequest, ListPartitionReassignmentsRequest};
use waypost_kafka::messages::configs::{DescribeConfigsRequest, IncrementalAlterConfigsRequest, AlterConfigsRequest, ListConfigResourcesRequest};
use waypost_kafka::messages::groups::{FindCoordinatorRequest, JoinGroupRequest, SyncGroupRequest, HeartbeatRequest, LeaveGroupRequest, DescribeGroupsRequest, ListGroupsRequest, DeleteGroupsRequest, ConsumerGroupHeartbeatRequest, ConsumerGroupDescribeRequest};
use waypost_kafka::messages::offsets::{OffsetCommitRequest, OffsetFetchRequest, OffsetDeleteRequest};
use waypost_kafka::messages::records::{ListOffsetsRequest, OffsetForLeaderEpochRequest, DeleteRecordsRequest, FetchRequest};
use waypost_kafka::messages::security::{SaslHandshakeRequest, SaslAuthenticateRequest, DescribeAclsRequest, CreateAclsRequest, DeleteAclsRequest, DescribeUserScramCredentialsRequest, AlterUserScramCredentialsRequest, DescribeClientQuotasRequest, AlterClientQuotasRequest};
use waypost_kafka::messages::topics::{CreateTopicsRequest, DeleteTopicsRequest, CreatePartitionsRequest};
use waypost_kafka::messages::transactions::{InitProducerIdRequest, AddPartitionsToTxnRequest, AddOffsetsToTxnRequest, EndTxnRequest, TxnOffsetCommitRequest, DescribeProducersRequest, DescribeTransactionsRequest, ListTransactionsRequest};
use waypost_kafka::produce::ProduceRequest;
use waypost_kafka::wire::{Message, Reader};

/// What is read is written so that it is read as the same again.
fn there_and_back<M: Message>(bytes: &[u8], version: i16) {
    let Ok(message) = M::decode(bytes, version) else { return };
    let (mut written, mut again) = (Vec::new(), Vec::new());
    message.encode(&mut written, version);
    M::decode(&written, version).unwrap().encode(&mut again, version);
    assert_eq!(written, again);
}

macro_rules! message {
    ($which:expr, $bytes:expr, $version:expr; $($name:ident)*) => {
        let all: &[fn(&[u8], i16)] = &[$(there_and_back::<$name>),*];
        all[usize::from($which) % all.len()]($bytes, $version);
    };
}

fuzz_target!(|data: &[u8]| {
    let _ = RequestHeader::read(&mut Reader::new(data), apis::request_form);
    let [which, version, body @ ..] = data else { return };
    let version = i16::from(version % 20);
    let _ = ProduceRequest::read(body, version);
    message!(*which, body, version; AddOffsetsToTxnRequest AddPartitionsToTxnRequest AlterClientQuotasRequest AlterConfigsRequest AlterPartitionReassignmentsRequest AlterUserScramCredentialsRequest ApiVersionsRequest ConsumerGroupDescribeRequest ConsumerGroupHeartbeatRequest CreateAclsRequest CreatePartitionsRequest CreateTopicsRequest DeleteAclsRequest DeleteGroupsRequest DeleteRecordsRequest DeleteTopicsRequest DescribeAclsRequest DescribeClientQuotasRequest DescribeClusterRequest DescribeConfigsRequest DescribeGroupsRequest DescribeLogDirsRequest DescribeProducersRequest DescribeTopicPartitionsRequest DescribeTransactionsRequest DescribeUserScramCredentialsRequest ElectLeadersRequest EndTxnRequest FetchRequest FindCoordinatorRequest HeartbeatRequest IncrementalAlterConfigsRequest InitProducerIdRequest JoinGroupRequest LeaveGroupRequest ListConfigResourcesRequest ListGroupsRequest ListOffsetsRequest ListPartitionReassignmentsRequest ListTransactionsRequest MetadataRequest OffsetCommitRequest OffsetDeleteRequest OffsetFetchRequest OffsetForLeaderEpochRequest SaslAuthenticateRequest SaslHandshakeRequest SyncGroupRequest TxnOffsetCommitRequest);
});

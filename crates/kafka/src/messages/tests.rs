//! Every version of every message against another implementation: what we write it reads, and writes again as we did.

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages as theirs;
use kafka_protocol::protocol::{Decodable, Encodable};

use crate::wire::{Field, Message, Seed};

/// Samples per message and version.
const ROUNDS: u64 = 20;

fn same<O, T>(name: &str, versions: std::ops::RangeInclusive<i16>)
where
    O: Message + Field + PartialEq + std::fmt::Debug,
    T: Encodable + Decodable,
{
    let mut seed = Seed(name.len() as u64);
    for version in versions {
        for _ in 0..ROUNDS {
            let mut ours = Vec::new();
            O::sample(&mut seed).encode(&mut ours, version);
            // What this version does not have is not there any more.
            let read = O::decode(&ours, version).unwrap_or_else(|e| panic!("{name} {version}: {e}"));
            let mut again = Vec::new();
            read.encode(&mut again, version);
            assert_eq!(again, ours, "{name} {version}");
            damaged::<O>(&ours, version, &mut seed);
            let mut bytes = Bytes::from(ours.clone());
            let message = match T::decode(&mut bytes, version) {
                Ok(message) => message,
                // It knows where null is not allowed; our types allow it in every version.
                Err(error) if null_refused(&error.to_string()) => continue,
                Err(error) => panic!("{name} {version}: {error}"),
            };
            assert!(bytes.is_empty(), "{name} {version}: {} bytes left", bytes.len());
            let mut out = BytesMut::new();
            message.encode(&mut out, version).unwrap_or_else(|e| panic!("{name} {version}: {e}"));
            assert_eq!(out, ours, "{name} {version}");
        }
    }
}

/// Whatever is cut off or turned over: an error or another message, never a panic, and never surplus bytes.
fn damaged<O: Message>(good: &[u8], version: i16, seed: &mut Seed) {
    for _ in 0..50 {
        let mut bytes = good.to_vec();
        bytes.truncate(seed.below(good.len() as u64 + 1) as usize);
        for _ in 0..seed.below(4) {
            let at = seed.below(bytes.len() as u64 + 1) as usize;
            if let Some(byte) = bytes.get_mut(at) {
                *byte = if seed.below(2) == 0 { 0xff } else { seed.next() as u8 };
            }
        }
        let _ = O::decode(&bytes, version);
    }
}

fn null_refused(error: &str) -> bool {
    error.contains("null")
}

macro_rules! messages {
    ($($group:ident $name:ident $min:literal $max:literal;)*) => {
        #[test]
        fn all_are_the_same() {
            $(same::<super::$group::$name, theirs::$name>(stringify!($name), $min..=$max);)*
        }
    };
}

messages! {
    cluster ApiVersionsRequest 0 4;
    cluster ApiVersionsResponse 0 4;
    cluster MetadataRequest 0 13;
    cluster MetadataResponse 0 13;
    cluster DescribeClusterRequest 0 2;
    cluster DescribeClusterResponse 0 2;
    cluster DescribeTopicPartitionsRequest 0 0;
    cluster DescribeTopicPartitionsResponse 0 0;
    cluster DescribeLogDirsRequest 1 4;
    cluster DescribeLogDirsResponse 1 4;
    cluster ElectLeadersRequest 0 2;
    cluster ElectLeadersResponse 0 2;
    cluster AlterPartitionReassignmentsRequest 0 1;
    cluster AlterPartitionReassignmentsResponse 0 1;
    cluster ListPartitionReassignmentsRequest 0 0;
    cluster ListPartitionReassignmentsResponse 0 0;
    records ListOffsetsRequest 1 10;
    records ListOffsetsResponse 1 10;
    records OffsetForLeaderEpochRequest 2 4;
    records OffsetForLeaderEpochResponse 2 4;
    records DeleteRecordsRequest 0 2;
    records DeleteRecordsResponse 0 2;
    records FetchRequest 4 18;
    records ProduceResponse 3 13;
    groups FindCoordinatorRequest 0 6;
    groups FindCoordinatorResponse 0 6;
    groups JoinGroupRequest 0 9;
    groups JoinGroupResponse 0 9;
    groups SyncGroupRequest 0 5;
    groups SyncGroupResponse 0 5;
    groups HeartbeatRequest 0 4;
    groups HeartbeatResponse 0 4;
    groups LeaveGroupRequest 0 5;
    groups LeaveGroupResponse 0 5;
    groups DescribeGroupsRequest 0 6;
    groups DescribeGroupsResponse 0 6;
    groups ListGroupsRequest 0 5;
    groups ListGroupsResponse 0 5;
    groups DeleteGroupsRequest 0 2;
    groups DeleteGroupsResponse 0 2;
    groups ConsumerGroupHeartbeatRequest 0 1;
    groups ConsumerGroupHeartbeatResponse 0 1;
    groups ConsumerGroupDescribeRequest 0 1;
    groups ConsumerGroupDescribeResponse 0 1;
    offsets OffsetCommitRequest 2 9;
    offsets OffsetCommitResponse 2 10;
    offsets OffsetFetchRequest 1 9;
    offsets OffsetFetchResponse 1 10;
    offsets OffsetDeleteRequest 0 0;
    offsets OffsetDeleteResponse 0 0;
    transactions InitProducerIdRequest 0 5;
    transactions InitProducerIdResponse 0 6;
    transactions AddPartitionsToTxnRequest 0 5;
    transactions AddPartitionsToTxnResponse 0 5;
    transactions AddOffsetsToTxnRequest 0 4;
    transactions AddOffsetsToTxnResponse 0 4;
    transactions EndTxnRequest 0 5;
    transactions EndTxnResponse 0 5;
    transactions TxnOffsetCommitRequest 0 5;
    transactions TxnOffsetCommitResponse 0 5;
    transactions DescribeProducersRequest 0 0;
    transactions DescribeProducersResponse 0 0;
    transactions DescribeTransactionsRequest 0 0;
    transactions DescribeTransactionsResponse 0 0;
    transactions ListTransactionsRequest 0 2;
    transactions ListTransactionsResponse 0 2;
    topics CreateTopicsRequest 2 7;
    topics CreateTopicsResponse 2 7;
    topics DeleteTopicsRequest 1 6;
    topics DeleteTopicsResponse 1 6;
    topics CreatePartitionsRequest 0 3;
    topics CreatePartitionsResponse 0 3;
    configs DescribeConfigsRequest 1 4;
    configs DescribeConfigsResponse 1 4;
    configs IncrementalAlterConfigsRequest 0 1;
    configs IncrementalAlterConfigsResponse 0 1;
    configs AlterConfigsRequest 0 2;
    configs AlterConfigsResponse 0 2;
    configs ListConfigResourcesRequest 0 1;
    configs ListConfigResourcesResponse 0 1;
    security SaslHandshakeRequest 0 1;
    security SaslHandshakeResponse 0 1;
    security SaslAuthenticateRequest 0 2;
    security SaslAuthenticateResponse 0 2;
    security DescribeAclsRequest 1 3;
    security DescribeAclsResponse 1 3;
    security CreateAclsRequest 1 3;
    security CreateAclsResponse 1 3;
    security DeleteAclsRequest 1 3;
    security DeleteAclsResponse 1 3;
    security DescribeUserScramCredentialsRequest 0 0;
    security DescribeUserScramCredentialsResponse 0 0;
    security AlterUserScramCredentialsRequest 0 0;
    security AlterUserScramCredentialsResponse 0 0;
    security DescribeClientQuotasRequest 0 1;
    security DescribeClientQuotasResponse 0 1;
    security AlterClientQuotasRequest 0 1;
    security AlterClientQuotasResponse 0 1;
}

//! Which APIs and versions the server speaks, and how requests and answers of each begin.

use crate::frame::HeaderForm;

/// One API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Api {
    /// Its key.
    pub key: i16,
    /// Its name, as in the protocol guide.
    pub name: &'static str,
    /// The first version that is advertised.
    pub min: i16,
    /// The first that is answered. Lower ones are advertised because old clients conclude from their absence that codecs
    /// or authentication are missing; nobody sends them, and whoever does gets error 35.
    pub answered: i16,
    /// The last.
    pub max: i16,
    /// The first version with tagged fields.
    pub flexible: i16,
}

impl Api {
    /// Whether requests of this version are answered.
    #[must_use]
    pub fn speaks(&self, version: i16) -> bool {
        (self.answered..=self.max).contains(&version)
    }
}

const fn api(key: i16, name: &'static str, min: i16, answered: i16, max: i16, flexible: i16) -> Api {
    Api { key, name, min, answered, max, flexible }
}

/// Never flexible.
const NEVER: i16 = i16::MAX;

/// The key of Produce.
pub const PRODUCE: i16 = 0;
/// The key of ApiVersions, whose answer never has tagged fields in its header: a client that has not heard yet what we
/// speak must be able to read it.
pub const API_VERSIONS: i16 = 18;

/// All of them, by key.
pub const APIS: &[Api] = &[
    api(PRODUCE, "Produce", 0, 3, 11, 9),
    api(1, "Fetch", 4, 4, 16, 12),
    api(2, "ListOffsets", 0, 1, 10, 6),
    api(3, "Metadata", 0, 0, 13, 9),
    api(8, "OffsetCommit", 0, 2, 9, 8),
    api(9, "OffsetFetch", 0, 1, 9, 6),
    api(10, "FindCoordinator", 0, 0, 6, 3),
    api(11, "JoinGroup", 0, 0, 9, 6),
    api(12, "Heartbeat", 0, 0, 4, 4),
    api(13, "LeaveGroup", 0, 0, 5, 4),
    api(14, "SyncGroup", 0, 0, 5, 4),
    api(15, "DescribeGroups", 0, 0, 6, 5),
    api(16, "ListGroups", 0, 0, 5, 3),
    api(17, "SaslHandshake", 0, 0, 1, NEVER),
    api(API_VERSIONS, "ApiVersions", 0, 0, 4, 3),
    api(19, "CreateTopics", 2, 2, 7, 5),
    api(20, "DeleteTopics", 1, 1, 6, 4),
    api(21, "DeleteRecords", 0, 0, 2, 2),
    api(22, "InitProducerId", 0, 0, 5, 2),
    api(23, "OffsetForLeaderEpoch", 2, 2, 4, 4),
    api(24, "AddPartitionsToTxn", 0, 0, 3, 3),
    api(25, "AddOffsetsToTxn", 0, 0, 3, 3),
    api(26, "EndTxn", 0, 0, 3, 3),
    api(28, "TxnOffsetCommit", 0, 0, 3, 3),
    api(29, "DescribeAcls", 1, 1, 3, 2),
    api(30, "CreateAcls", 1, 1, 3, 2),
    api(31, "DeleteAcls", 1, 1, 3, 2),
    api(32, "DescribeConfigs", 1, 1, 4, 4),
    api(33, "AlterConfigs", 0, 0, 2, 2),
    api(35, "DescribeLogDirs", 1, 1, 4, 2),
    api(36, "SaslAuthenticate", 0, 0, 2, 2),
    api(37, "CreatePartitions", 0, 0, 3, 2),
    api(42, "DeleteGroups", 0, 0, 2, 2),
    api(43, "ElectLeaders", 0, 0, 2, 2),
    api(44, "IncrementalAlterConfigs", 0, 0, 1, 1),
    api(45, "AlterPartitionReassignments", 0, 0, 1, 0),
    api(46, "ListPartitionReassignments", 0, 0, 0, 0),
    api(47, "OffsetDelete", 0, 0, 0, NEVER),
    api(48, "DescribeClientQuotas", 0, 0, 1, 1),
    api(49, "AlterClientQuotas", 0, 0, 1, 1),
    api(50, "DescribeUserScramCredentials", 0, 0, 0, 0),
    api(51, "AlterUserScramCredentials", 0, 0, 0, 0),
    api(60, "DescribeCluster", 0, 0, 2, 0),
    api(61, "DescribeProducers", 0, 0, 0, 0),
    api(65, "DescribeTransactions", 0, 0, 0, 0),
    api(66, "ListTransactions", 0, 0, 2, 0),
    api(68, "ConsumerGroupHeartbeat", 0, 0, 1, 0),
    api(69, "ConsumerGroupDescribe", 0, 0, 1, 0),
    api(74, "ListConfigResources", 0, 0, 1, 0),
    api(75, "DescribeTopicPartitions", 0, 0, 0, 0),
];

/// The API of a key.
#[must_use]
pub fn find(key: i16) -> Option<&'static Api> {
    APIS.binary_search_by_key(&key, |a| a.key).ok().and_then(|at| APIS.get(at))
}

/// How the header of a request ends. What is unknown is taken for the older form: it is refused whatever follows.
#[must_use]
pub fn request_form(key: i16, version: i16) -> HeaderForm {
    match find(key) {
        Some(api) if version >= api.flexible => HeaderForm::Tagged,
        _ => HeaderForm::Plain,
    }
}

/// How the header of an answer ends.
#[must_use]
pub fn answer_form(key: i16, version: i16) -> HeaderForm {
    if key == API_VERSIONS { HeaderForm::Plain } else { request_form(key, version) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kafka_protocol::messages::ApiKey;

    #[test]
    fn headers_have_the_form_that_clients_expect() {
        for api in APIS {
            let theirs = ApiKey::try_from(api.key).unwrap();
            for version in api.answered..=api.max {
                let request =
                    if theirs.request_header_version(version) == 2 { HeaderForm::Tagged } else { HeaderForm::Plain };
                assert_eq!(request_form(api.key, version), request, "{} {version}", api.name);
                let answer =
                    if theirs.response_header_version(version) == 1 { HeaderForm::Tagged } else { HeaderForm::Plain };
                assert_eq!(answer_form(api.key, version), answer, "{} {version}", api.name);
            }
        }
    }

    #[test]
    fn the_table_is_sorted_and_what_old_clients_look_for_is_in_it() {
        assert!(APIS.windows(2).all(|w| w[0].key < w[1].key));
        for (key, min) in [(0, 0), (17, 0), (10, 0), (11, 0)] {
            assert_eq!(find(key).map(|a| a.min), Some(min));
        }
        assert!(!find(0).unwrap().speaks(2) && find(0).unwrap().speaks(3));
        assert_eq!((find(4), find(71)), (None, None));
    }
}

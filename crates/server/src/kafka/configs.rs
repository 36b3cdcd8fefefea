//! Configuration of topics, read and changed. The broker's own is read in part, and changed where it is configured.

use std::collections::{BTreeMap, BTreeSet};

use waypost_broker::topology::AclOperation;
use waypost_kafka::messages::configs::*;
use waypost_kafka::wire::Malformed;
use waypost_model::Lsn;
use waypost_stream::config::{ConfigFault, Kind, SETTINGS, Setting, TopicConfig};
use waypost_stream::streams::TopicFault;

use super::{Answer, Ask, NODE_ID, Session, codes};

/// Kinds of resources.
const TOPIC: i8 = 2;
const BROKER: i8 = 4;
const BROKER_LOGGER: i8 = 8;
const CLIENT_METRICS: i8 = 16;
const GROUP: i8 = 32;
/// Where a value comes from.
const SET_FOR_THE_TOPIC: i8 = 1;
const SET_AT_THE_START: i8 = 4;
const DEFAULT: i8 = 5;
/// What is to be done with a value.
const SET: i8 = 0;
const DELETE: i8 = 1;
const APPEND: i8 = 2;
const SUBTRACT: i8 = 3;

/// How fast a broker may copy what replicas need.
const REPLICATION_THROTTLES: [&str; 3] = [
    "leader.replication.throttled.rate",
    "follower.replication.throttled.rate",
    "replica.alter.log.dirs.io.max.bytes.per.second",
];

type Refused = (i16, String);

pub(super) fn source_of(set: bool) -> i8 {
    if set { SET_FOR_THE_TOPIC } else { DEFAULT }
}

fn kind_of(kind: Kind) -> i8 {
    match kind {
        Kind::Boolean => 1,
        Kind::String => 2,
        Kind::Int => 3,
        Kind::Long => 5,
        Kind::Double => 6,
        Kind::List => 7,
    }
}

impl Session {
    pub(super) fn describe_configs(&self, ask: &Ask<'_>) -> Result<Answer, Malformed> {
        let request: DescribeConfigsRequest = ask.read()?;
        let one = |r: &DescribeConfigsResource| {
            let described = match r.resource_type {
                TOPIC => self.topic_configs(r, &request),
                BROKER => self.broker_configs(r),
                _ => Err((codes::INVALID_REQUEST, "only topics and brokers have a configuration here".to_owned())),
            };
            let mut result = DescribeConfigsResult {
                error_message: None,
                resource_type: r.resource_type,
                resource_name: r.resource_name.clone(),
                ..DescribeConfigsResult::default()
            };
            match described {
                Ok(configs) => result.configs = configs,
                Err((code, message)) => (result.error_code, result.error_message) = (code, Some(message.into())),
            }
            result
        };
        // Each once: what is told is much longer than the question.
        let mut seen = BTreeSet::new();
        let once = request.resources.iter().filter(|r| seen.insert((r.resource_type, &*r.resource_name)));
        let results = once.map(one).collect();
        Ok(ask.now(&DescribeConfigsResponse { results, ..DescribeConfigsResponse::default() }))
    }

    fn topic_configs(
        &self,
        r: &DescribeConfigsResource,
        request: &DescribeConfigsRequest,
    ) -> Result<Vec<DescribeConfigsResourceResult>, Refused> {
        if !self.may(AclOperation::DescribeConfigs, &r.resource_name) {
            return Err((codes::TOPIC_AUTHORIZATION_FAILED, "not permitted".to_owned()));
        }
        let topic = self.topic(&r.resource_name).ok_or_else(|| unknown(&r.resource_name))?;
        let config = topic.config();
        let wanted =
            |s: &&Setting| r.configuration_keys.as_ref().is_none_or(|keys| keys.iter().any(|k| **k == *s.name));
        let shown = |setting: &'static Setting| {
            let (value, set) = config.value(setting);
            let synonym = |value: &str, source| DescribeConfigsSynonym {
                name: setting.name.into(),
                value: Some(value.into()),
                source,
            };
            let mut synonyms = Vec::new();
            if request.include_synonyms {
                synonyms.extend(set.then(|| synonym(value, SET_FOR_THE_TOPIC)));
                synonyms.push(synonym(setting.default, DEFAULT));
            }
            DescribeConfigsResourceResult {
                name: setting.name.into(),
                value: Some(value.into()),
                config_source: source_of(set),
                config_type: kind_of(setting.kind),
                documentation: request.include_documentation.then(|| setting.about.into()),
                synonyms,
                ..DescribeConfigsResourceResult::default()
            }
        };
        Ok(SETTINGS.iter().filter(wanted).map(shown).collect())
    }

    fn broker_configs(&self, r: &DescribeConfigsResource) -> Result<Vec<DescribeConfigsResourceResult>, Refused> {
        if !self.may_cluster(AclOperation::DescribeConfigs) {
            return Err((codes::CLUSTER_AUTHORIZATION_FAILED, "not permitted".to_owned()));
        }
        known_broker(&r.resource_name)?;
        let kafka = &self.node.config.kafka;
        let all = [
            ("auto.create.topics.enable", kafka.auto_create_topics.to_string(), Kind::Boolean),
            ("default.replication.factor", "1".to_owned(), Kind::Int),
            ("num.partitions", kafka.default_partitions.to_string(), Kind::Int),
            // To whole minutes: never less than holds.
            ("offsets.retention.minutes", kafka.offsets_retention.as_secs().div_ceil(60).to_string(), Kind::Int),
            ("socket.request.max.bytes", kafka.request_max.0.to_string(), Kind::Int),
        ];
        let wanted = |name: &str| r.configuration_keys.as_ref().is_none_or(|keys| keys.iter().any(|k| **k == *name));
        let shown = all.into_iter().filter(|(name, ..)| wanted(name)).map(|(name, value, kind)| {
            DescribeConfigsResourceResult {
                name: name.into(),
                value: Some(value.into()),
                read_only: true,
                config_source: SET_AT_THE_START,
                config_type: kind_of(kind),
                documentation: None,
                ..DescribeConfigsResourceResult::default()
            }
        });
        Ok(shown.collect())
    }

    /// What has a configuration: topics and the broker. Groups and the telemetry of clients have none here, so there is none of
    /// them to be listed.
    pub(super) fn list_config_resources(&self, ask: &Ask<'_>) -> Result<Answer, Malformed> {
        let request: ListConfigResourcesRequest = ask.read()?;
        let mut response = ListConfigResourcesResponse::default();
        let known = |kind: &i8| [TOPIC, BROKER, BROKER_LOGGER, CLIENT_METRICS, GROUP].contains(kind);
        if !self.may_cluster(AclOperation::DescribeConfigs) {
            response.error_code = codes::CLUSTER_AUTHORIZATION_FAILED;
        } else if !request.resource_types.iter().all(known) {
            response.error_code = codes::UNSUPPORTED_VERSION;
        } else {
            // The first version lists the telemetry of clients only.
            let all = ask.version > 0 && request.resource_types.is_empty();
            let wanted = |kind: i8| all || request.resource_types.contains(&kind);
            let resource = |name: &str, resource_type| ConfigResource { resource_name: name.into(), resource_type };
            if wanted(TOPIC) {
                let topics = self.streams().topics(&self.vhost);
                response.config_resources.extend(topics.iter().map(|t| resource(&t.name, TOPIC)));
            }
            if wanted(BROKER) {
                response.config_resources.push(resource(&NODE_ID.to_string(), BROKER));
            }
        }
        Ok(ask.now(&response))
    }

    /// The old way: what is not named goes back to its default.
    pub(super) fn alter_configs(&self, ask: &Ask<'_>) -> Result<Answer, Malformed> {
        let request: AlterConfigsRequest = ask.read()?;
        let mut lsn = None;
        let mut one = |r: &ReplaceConfigsResource| {
            let changed = self.change(r.resource_type, &r.resource_name, request.validate_only, &mut lsn, |_| {
                TopicConfig::parse(r.configs.iter().filter_map(|c| Some((&*c.name, c.value.as_deref()?))))
            });
            let (error_code, error_message) = outcome(changed);
            let (resource_type, resource_name) = (r.resource_type, r.resource_name.clone());
            ReplaceConfigsResourceResponse { error_code, error_message, resource_type, resource_name }
        };
        let responses = request.resources.iter().map(&mut one).collect();
        Ok(ask.after(lsn, &AlterConfigsResponse { responses, ..AlterConfigsResponse::default() }))
    }

    pub(super) fn incremental_alter_configs(&self, ask: &Ask<'_>) -> Result<Answer, Malformed> {
        let request: IncrementalAlterConfigsRequest = ask.read()?;
        let mut lsn = None;
        let mut one = |r: &AlterConfigsResource| {
            if r.resource_type == BROKER && r.configs.iter().all(takes_back_throttle) {
                let (error_code, error_message) = outcome(self.may_alter_broker(&r.resource_name));
                let (resource_type, resource_name) = (r.resource_type, r.resource_name.clone());
                return AlterConfigsResourceResponse { error_code, error_message, resource_type, resource_name };
            }
            let changed = self.change(r.resource_type, &r.resource_name, request.validate_only, &mut lsn, |config| {
                let changes = changes(config, &r.configs)?;
                config.with(changes.iter().map(|(name, value)| (&**name, value.as_deref())))
            });
            let (error_code, error_message) = outcome(changed);
            let (resource_type, resource_name) = (r.resource_type, r.resource_name.clone());
            AlterConfigsResourceResponse { error_code, error_message, resource_type, resource_name }
        };
        let responses = request.resources.iter().map(&mut one).collect();
        Ok(ask.after(lsn, &IncrementalAlterConfigsResponse { responses, ..Default::default() }))
    }

    fn may_alter_broker(&self, name: &str) -> Result<(), Refused> {
        if !self.may_cluster(AclOperation::AlterConfigs) {
            return Err((codes::CLUSTER_AUTHORIZATION_FAILED, "not permitted".to_owned()));
        }
        known_broker(name)
    }

    fn change(
        &self,
        kind: i8,
        name: &str,
        only_check: bool,
        lsn: &mut Option<Lsn>,
        change: impl FnOnce(&TopicConfig) -> Result<TopicConfig, ConfigFault>,
    ) -> Result<(), Refused> {
        if kind != TOPIC {
            let why = "only topics are configured this way; the broker by its file, environment and flags";
            return Err((codes::INVALID_REQUEST, why.to_owned()));
        }
        if !self.may(AclOperation::AlterConfigs, name) {
            return Err((codes::TOPIC_AUTHORIZATION_FAILED, "not permitted".to_owned()));
        }
        let topic = self.topic(name).ok_or_else(|| unknown(name))?;
        let refused = |fault: TopicFault| (codes::of_topic(&fault), fault.to_string());
        if only_check {
            return change(&topic.config()).map(drop).map_err(|e| refused(e.into()));
        }
        let written = self.streams().configure(&self.vhost, name, change).map_err(refused)?;
        *lsn = (*lsn).max(Some(written));
        Ok(())
    }
}

/// Whether limits of replication are to go. There are none, so they are gone: the tool that moves replicas takes back at its end
/// what it may have set.
fn takes_back_throttle(c: &AlterableConfig) -> bool {
    c.config_operation == DELETE && REPLICATION_THROTTLES.contains(&&*c.name)
}

/// Without a name, all brokers are meant.
fn known_broker(name: &str) -> Result<(), Refused> {
    if name.is_empty() || *name == *NODE_ID.to_string() {
        return Ok(());
    }
    Err((codes::INVALID_REQUEST, format!("there is no broker `{name}`")))
}

fn unknown(name: &str) -> Refused {
    (codes::UNKNOWN_TOPIC_OR_PARTITION, format!("there is no topic `{name}`"))
}

fn outcome(changed: Result<(), Refused>) -> (i16, Option<Box<str>>) {
    match changed {
        Ok(()) => (codes::NONE, None),
        Err((code, message)) => (code, Some(message.into())),
    }
}

/// What changes come to; lists are added to and taken from.
fn changes(
    config: &TopicConfig,
    configs: &[AlterableConfig],
) -> Result<BTreeMap<Box<str>, Option<Box<str>>>, ConfigFault> {
    let mut changes: BTreeMap<Box<str>, Option<Box<str>>> = BTreeMap::new();
    for c in configs {
        let setting = waypost_stream::config::find(&c.name).ok_or_else(|| ConfigFault::Unknown(c.name.clone()))?;
        let invalid = |why: &str| ConfigFault::Invalid {
            name: setting.name,
            value: c.value.clone().unwrap_or_default(),
            why: why.to_owned(),
        };
        let value = c.value.as_deref();
        let new = match c.config_operation {
            DELETE => None,
            SET => Some(value.ok_or_else(|| invalid("a value is needed"))?.into()),
            APPEND | SUBTRACT if setting.kind == Kind::List => {
                let given: Vec<&str> = value.unwrap_or_default().split(',').map(str::trim).collect();
                let before = config.value(setting).0.split(',').map(str::trim).filter(|w| !w.is_empty());
                let mut words: Vec<&str> = before.filter(|w| !given.contains(w)).collect();
                if c.config_operation == APPEND {
                    words.extend(given);
                }
                Some(words.join(",").into())
            }
            _ => return Err(invalid("this operation is for lists only")),
        };
        changes.insert(c.name.clone(), new);
    }
    Ok(changes)
}

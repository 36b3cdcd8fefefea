//! The configuration of topics, by Kafka's names. A name that is not in the table is refused; so is a value that would
//! change what we do not do.

use std::collections::BTreeMap;

use waypost_model::Millis;

/// What a setting is, for clients that show it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `true` or `false`.
    Boolean,
    /// A whole number of 32 bits.
    Int,
    /// A whole number of 64 bits.
    Long,
    /// A number.
    Double,
    /// A text.
    String,
    /// Texts with commas between them.
    List,
}

/// One setting.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// Its name.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// What it is where nobody sets it.
    pub default: &'static str,
    /// What it does.
    pub about: &'static str,
    rule: Rule,
}

/// Which values a setting may have.
#[derive(Clone, Copy, Debug)]
enum Rule {
    /// A number from here to there.
    Number(i64, i64),
    /// One of these.
    OneOf(&'static [&'static str]),
    /// One or more of these, with commas between them.
    ListOf(&'static [&'static str]),
    /// A number from 0 to 1.
    Ratio,
    /// Only its default: anything else would ask for what is not done here.
    Fixed,
}

const fn setting(name: &'static str, kind: Kind, default: &'static str, rule: Rule, about: &'static str) -> Setting {
    Setting { name, kind, default, about, rule }
}

const BATCHES_STAY: &str = "Batches stay as their producers compressed them.";
const NO_REPLICAS: &str = "There is one replica, and nothing is copied.";
const NO_TIERS: &str = "There is no other place for old records.";

/// All of them, by name.
pub const SETTINGS: &[Setting] = &[
    setting(
        "cleanup.policy",
        Kind::List,
        "delete",
        Rule::ListOf(&["compact", "delete"]),
        "What becomes of old records: `delete` removes what retention does not keep, `compact` what a later record of the same key replaces.",
    ),
    setting("compression.gzip.level", Kind::Int, "-1", Rule::Fixed, BATCHES_STAY),
    setting("compression.lz4.level", Kind::Int, "9", Rule::Fixed, BATCHES_STAY),
    setting("compression.type", Kind::String, "producer", Rule::Fixed, BATCHES_STAY),
    setting("compression.zstd.level", Kind::Int, "3", Rule::Fixed, BATCHES_STAY),
    setting(
        "delete.retention.ms",
        Kind::Long,
        "86400000",
        Rule::Number(0, i64::MAX),
        "How long compaction keeps a record without a value after it has first seen it.",
    ),
    setting(
        "durability",
        Kind::String,
        "disk",
        Rule::OneOf(&["disk", "os"]),
        "When a batch counts as written: on disk, or in the hands of the operating system.",
    ),
    setting(
        "file.delete.delay.ms",
        Kind::Long,
        "60000",
        Rule::Fixed,
        "Files are shared by all topics: they go when nothing in them is needed.",
    ),
    setting(
        "flush.messages",
        Kind::Long,
        "9223372036854775807",
        Rule::Fixed,
        "One sync commits for all topics; see `durability`.",
    ),
    setting(
        "flush.ms",
        Kind::Long,
        "9223372036854775807",
        Rule::Fixed,
        "One sync commits for all topics; see `durability`.",
    ),
    setting("follower.replication.throttled.replicas", Kind::List, "", Rule::Fixed, NO_REPLICAS),
    setting("index.interval.bytes", Kind::Int, "4096", Rule::Fixed, "Every batch is in the index."),
    setting("leader.replication.throttled.replicas", Kind::List, "", Rule::Fixed, NO_REPLICAS),
    setting("local.retention.bytes", Kind::Long, "-2", Rule::Fixed, NO_TIERS),
    setting("local.retention.ms", Kind::Long, "-2", Rule::Fixed, NO_TIERS),
    setting(
        "max.compaction.lag.ms",
        Kind::Long,
        "9223372036854775807",
        Rule::Number(1, i64::MAX),
        "After so long a record is compacted, however little of the partition is dirty.",
    ),
    setting("max.message.bytes", Kind::Int, "1048588", Rule::Number(0, 128 << 20), "The largest batch."),
    setting(
        "message.timestamp.after.max.ms",
        Kind::Long,
        "3600000",
        Rule::Number(0, i64::MAX),
        "How far a timestamp may lie in the future.",
    ),
    setting(
        "message.timestamp.before.max.ms",
        Kind::Long,
        "9223372036854775807",
        Rule::Number(0, i64::MAX),
        "How far a timestamp may lie in the past.",
    ),
    setting(
        "message.timestamp.type",
        Kind::String,
        "CreateTime",
        Rule::OneOf(&["CreateTime", "LogAppendTime"]),
        "Whose time counts: the producer's, or that of the append.",
    ),
    setting(
        "min.cleanable.dirty.ratio",
        Kind::Double,
        "0.5",
        Rule::Ratio,
        "How much of a partition must be uncompacted before it is compacted again.",
    ),
    setting(
        "min.compaction.lag.ms",
        Kind::Long,
        "0",
        Rule::Number(0, i64::MAX),
        "For so long a record is not compacted.",
    ),
    setting(
        "min.insync.replicas",
        Kind::Int,
        "1",
        Rule::Fixed,
        "There is one replica, and what is confirmed is on its disk.",
    ),
    setting(
        "preallocate",
        Kind::Boolean,
        "false",
        Rule::Fixed,
        "Files are shared by all topics, and always preallocated.",
    ),
    setting("remote.log.copy.disable", Kind::Boolean, "false", Rule::Fixed, NO_TIERS),
    setting("remote.log.delete.on.disable", Kind::Boolean, "false", Rule::Fixed, NO_TIERS),
    setting("remote.storage.enable", Kind::Boolean, "false", Rule::Fixed, NO_TIERS),
    setting(
        "retention.bytes",
        Kind::Long,
        "-1",
        Rule::Number(-1, i64::MAX),
        "How large a partition may become before its oldest batches go; -1 for no limit.",
    ),
    setting(
        "retention.ms",
        Kind::Long,
        "604800000",
        Rule::Number(-1, i64::MAX),
        "How long a batch is kept; -1 for ever.",
    ),
    setting(
        "segment.bytes",
        Kind::Int,
        "1073741824",
        Rule::Number(1 << 20, i32::MAX as i64),
        "Of the newest records at most so much is kept from compaction. Retention works batch by batch.",
    ),
    setting("segment.index.bytes", Kind::Int, "10485760", Rule::Fixed, "Every batch is in the index."),
    setting("segment.jitter.ms", Kind::Long, "0", Rule::Fixed, "There are no segments of a partition's own."),
    setting(
        "segment.ms",
        Kind::Long,
        "604800000",
        Rule::Number(1, i64::MAX),
        "How long the newest records are kept from compaction. Retention works batch by batch.",
    ),
    setting(
        "unclean.leader.election.enable",
        Kind::Boolean,
        "false",
        Rule::Fixed,
        "Nobody leads without having everything.",
    ),
];

/// The setting of a name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Setting> {
    SETTINGS.binary_search_by_key(&name, |s| s.name).ok().and_then(|at| SETTINGS.get(at))
}

/// A configuration that is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigFault {
    /// No such setting.
    #[error("unknown topic configuration `{0}`")]
    Unknown(Box<str>),
    /// Not such a value.
    #[error("invalid value `{value}` of `{name}`: {why}")]
    Invalid {
        /// The setting.
        name: &'static str,
        /// What was asked for.
        value: Box<str>,
        /// What it may be.
        why: String,
    },
}

impl Setting {
    fn check(&'static self, value: &str) -> Result<(), ConfigFault> {
        let invalid = |why: String| ConfigFault::Invalid { name: self.name, value: value.into(), why };
        match self.rule {
            Rule::Number(min, max) => match value.trim().parse::<i64>() {
                Ok(n) if (min..=max).contains(&n) => Ok(()),
                _ => Err(invalid(format!("a whole number from {min} to {max}"))),
            },
            Rule::OneOf(all) if all.contains(&value) => Ok(()),
            Rule::OneOf(all) => Err(invalid(format!("one of {}", all.join(", ")))),
            Rule::ListOf(all) if value.split(',').all(|v| all.contains(&v.trim())) => Ok(()),
            Rule::ListOf(all) => Err(invalid(format!("one or more of {}", all.join(", ")))),
            Rule::Ratio => match value.trim().parse::<f64>() {
                Ok(n) if (0.0..=1.0).contains(&n) => Ok(()),
                _ => Err(invalid("a number from 0 to 1".to_owned())),
            },
            Rule::Fixed if value == self.default => Ok(()),
            Rule::Fixed => Err(invalid(format!("only {} is supported: {}", self.default, self.about))),
        }
    }
}

/// When and how a topic is compacted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compaction {
    /// How much must be dirty, in millionths of all.
    pub dirty_millionths: u32,
    /// Younger records are left alone.
    pub min_lag_ms: u64,
    /// Older ones are not, however little is dirty.
    pub max_lag_ms: u64,
    /// How long records without a value are kept.
    pub delete_retention_ms: u64,
    /// How long the newest records are left alone.
    pub segment_ms: u64,
    /// How many bytes of them.
    pub segment_bytes: u64,
}

/// The configuration of a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicConfig {
    set: BTreeMap<&'static str, Box<str>>,
    /// For so long.
    pub retention_ms: Option<u64>,
    /// For so many bytes of a partition.
    pub retention_bytes: Option<u64>,
    /// The largest batch.
    pub max_message_bytes: usize,
    /// The time of the append counts, not the producer's.
    pub log_append_time: bool,
    /// A batch counts as written once the operating system has it.
    pub durable_by_os: bool,
    /// Retention removes what it does not keep.
    pub deletes: bool,
    /// Of every key only the latest record is kept.
    pub compacts: bool,
    /// How it is compacted.
    pub compaction: Compaction,
    after_max_ms: u64,
    before_max_ms: u64,
}

impl Default for TopicConfig {
    fn default() -> TopicConfig {
        TopicConfig::of(BTreeMap::new())
    }
}

impl TopicConfig {
    /// A configuration with these settings; the others have their defaults.
    ///
    /// # Errors
    /// [`ConfigFault`].
    pub fn parse<'a>(settings: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<TopicConfig, ConfigFault> {
        TopicConfig::default().with(settings.into_iter().map(|(name, value)| (name, Some(value))))
    }

    /// The same with other settings; `None` goes back to the default.
    ///
    /// # Errors
    /// [`ConfigFault`].
    pub fn with<'a>(
        &self,
        changes: impl IntoIterator<Item = (&'a str, Option<&'a str>)>,
    ) -> Result<TopicConfig, ConfigFault> {
        let mut set = self.set.clone();
        for (name, value) in changes {
            let setting = find(name).ok_or_else(|| ConfigFault::Unknown(name.into()))?;
            match value {
                None => drop(set.remove(setting.name)),
                Some(value) => {
                    setting.check(value)?;
                    set.insert(setting.name, value.trim().into());
                }
            }
        }
        let config = TopicConfig::of(set);
        let Compaction { min_lag_ms, max_lag_ms, .. } = config.compaction;
        if min_lag_ms > max_lag_ms {
            let why = format!("at least min.compaction.lag.ms, which is {min_lag_ms}");
            return Err(ConfigFault::Invalid {
                name: "max.compaction.lag.ms",
                value: max_lag_ms.to_string().into(),
                why,
            });
        }
        Ok(config)
    }

    fn of(set: BTreeMap<&'static str, Box<str>>) -> TopicConfig {
        let text =
            |name: &'static str| set.get(name).map(|v| &**v).unwrap_or_else(|| find(name).map_or("", |s| s.default));
        let number = |name| text(name).parse::<i64>().unwrap_or(-1);
        let unsigned = |name| u64::try_from(number(name)).unwrap_or(0);
        let policy = |wanted| text("cleanup.policy").split(',').any(|p| p.trim() == wanted);
        let ratio = text("min.cleanable.dirty.ratio").parse::<f64>().unwrap_or(0.5);
        let compaction = Compaction {
            dirty_millionths: (ratio.clamp(0.0, 1.0) * 1e6) as u32,
            min_lag_ms: unsigned("min.compaction.lag.ms"),
            max_lag_ms: unsigned("max.compaction.lag.ms"),
            delete_retention_ms: unsigned("delete.retention.ms"),
            segment_ms: unsigned("segment.ms"),
            segment_bytes: unsigned("segment.bytes"),
        };
        TopicConfig {
            deletes: policy("delete"),
            compacts: policy("compact"),
            compaction,
            retention_ms: u64::try_from(number("retention.ms")).ok(),
            retention_bytes: u64::try_from(number("retention.bytes")).ok(),
            max_message_bytes: usize::try_from(number("max.message.bytes")).unwrap_or(0),
            log_append_time: text("message.timestamp.type") == "LogAppendTime",
            durable_by_os: text("durability") == "os",
            after_max_ms: u64::try_from(number("message.timestamp.after.max.ms")).unwrap_or(u64::MAX),
            before_max_ms: u64::try_from(number("message.timestamp.before.max.ms")).unwrap_or(u64::MAX),
            set,
        }
    }

    /// The value of a setting, and whether somebody has set it.
    #[must_use]
    pub fn value(&self, setting: &'static Setting) -> (&str, bool) {
        self.set.get(setting.name).map_or((setting.default, false), |value| (value, true))
    }

    /// What was set.
    pub fn settings(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.set.iter().map(|(name, value)| (*name, &**value))
    }

    /// Whether a producer's time (milliseconds since 1970) is near enough to now. None at all (-1) is.
    #[must_use]
    pub fn takes_time(&self, time: i64, now: Millis) -> bool {
        let Ok(time) = u64::try_from(time) else { return true };
        time.saturating_sub(now.0) <= self.after_max_ms && now.0.saturating_sub(time) <= self.before_max_ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_its_defaults_are_legal() {
        assert!(SETTINGS.windows(2).all(|w| w[0].name < w[1].name));
        for setting in SETTINGS {
            assert_eq!(setting.check(setting.default), Ok(()), "{}", setting.name);
        }
    }

    #[test]
    fn what_is_set_counts_and_what_is_unset_goes_back() {
        let config = TopicConfig::parse([("durability", "os"), ("retention.ms", "-1")]).unwrap();
        assert!(config.durable_by_os && config.retention_ms.is_none());
        let back = config.with([("retention.ms", None), ("durability", Some("disk"))]).unwrap();
        assert_eq!((back.retention_ms, back.durable_by_os), (Some(604_800_000), false));
        assert_eq!(back.value(find("durability").unwrap()), ("disk", true));
        assert_eq!(back.value(find("retention.ms").unwrap()), ("604800000", false));
    }

    #[test]
    fn what_is_unknown_or_not_done_is_refused_by_name() {
        assert_eq!(TopicConfig::parse([("no.such", "1")]), Err(ConfigFault::Unknown("no.such".into())));
        for (name, value) in [
            ("retention.ms", "soon"),
            ("retention.ms", "-2"),
            ("cleanup.policy", "compact,shred"),
            ("cleanup.policy", ""),
            ("min.insync.replicas", "2"),
            ("compression.type", "gzip"),
            ("message.timestamp.type", "logappendtime"),
            ("min.cleanable.dirty.ratio", "1.1"),
            ("min.compaction.lag.ms", "-1"),
        ] {
            assert!(matches!(TopicConfig::parse([(name, value)]), Err(ConfigFault::Invalid { .. })), "{name}={value}");
        }
    }

    #[test]
    fn times_are_compared_with_now() {
        let config = TopicConfig::parse([("message.timestamp.before.max.ms", "1000")]).unwrap();
        let takes = |time: i64| config.takes_time(time, Millis(10_000_000));
        assert!(takes(9_999_000) && !takes(9_998_999) && takes(13_600_000) && !takes(13_600_001) && takes(-1));
    }
}

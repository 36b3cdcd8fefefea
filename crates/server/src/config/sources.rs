//! Where settings come from: file, environment, flags.

use std::fmt::{self, Write as _};
use std::io;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::nearest::nearest;
use super::value::split;
use super::{Config, KEYS, Key, SECTIONS};

/// What every environment variable of ours begins with.
const ENV_PREFIX: &str = "WAYPOST__";

/// A mistake in the configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {}: {error}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The file is no TOML.
    #[error("{}: {why}", path.display())]
    Syntax {
        /// Which.
        path: PathBuf,
        /// Where and why.
        why: String,
    },
    /// No such setting.
    #[error("unknown setting `{key}` ({origin}){hint}")]
    Unknown {
        /// As it was written.
        key: String,
        /// Where.
        origin: String,
        /// The nearest name.
        hint: String,
    },
    /// A value that does not fit.
    #[error("setting `{key}` ({origin}): {why}")]
    Value {
        /// Which setting.
        key: String,
        /// Where it was given.
        origin: String,
        /// What is wrong.
        why: String,
    },
    /// Settings that do not fit each other.
    #[error("{0}")]
    Conflict(String),
}

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The declaration.
    Default,
    /// The configuration file.
    File(PathBuf),
    /// An environment variable.
    Env(String),
    /// A flag.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Env(name) => write!(f, "environment {name}"),
            Self::Flag(name) => write!(f, "flag --{name}"),
        }
    }
}

/// The configuration, with the origin of each setting.
#[derive(Debug)]
pub struct Loaded {
    /// The settings.
    pub config: Config,
    /// Per entry of [`KEYS`].
    pub origins: Vec<Origin>,
}

/// Puts all sources together. `flags` are names without dashes, each with the values given for it.
///
/// # Errors
/// The first mistake found.
pub fn load(
    file: Option<&Path>,
    env: impl IntoIterator<Item = (String, String)>,
    flags: impl IntoIterator<Item = (String, Vec<String>)>,
) -> Result<Loaded, ConfigError> {
    let mut loaded = Loaded { config: Config::defaults()?, origins: vec![Origin::Default; KEYS.len()] };
    if let Some(path) = file {
        loaded.file(path)?;
    }
    loaded.environment(env)?;
    for (name, values) in flags {
        let Some(index) = KEYS.iter().position(|k| k.flag() == name) else {
            return Err(unknown(&format!("--{name}"), "flag", nearest(&name, KEYS.iter().map(Key::flag))));
        };
        loaded.set(index, &values, Origin::Flag(name))?;
    }
    loaded.config.check()?;
    Ok(loaded)
}

impl Loaded {
    fn set(&mut self, index: usize, values: &[String], origin: Origin) -> Result<(), ConfigError> {
        let key = &KEYS[index];
        (key.set)(&mut self.config, values).map_err(|why| ConfigError::Value {
            key: key.path(),
            origin: origin.to_string(),
            why,
        })?;
        self.origins[index] = origin;
        Ok(())
    }

    fn file(&mut self, path: &Path) -> Result<(), ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|error| ConfigError::File { path: path.into(), error })?;
        let table: toml::Table = text.parse().map_err(|e: toml::de::Error| ConfigError::Syntax {
            path: path.into(),
            why: e.to_string().trim().to_owned(),
        })?;
        let origin = Origin::File(path.into());
        for (section, value) in table {
            let toml::Value::Table(keys) = value else {
                let hint = nearest(&section, SECTIONS.iter().map(|s| format!("[{}]", s.name)));
                return Err(unknown(&section, &origin.to_string(), hint));
            };
            for (name, value) in keys {
                let path = format!("{section}.{name}");
                let Some(index) = KEYS.iter().position(|k| k.section == section && k.name == name) else {
                    return Err(unknown(&path, &origin.to_string(), nearest(&path, KEYS.iter().map(Key::path))));
                };
                let values = toml_values(value).map_err(|why| ConfigError::Value {
                    key: path,
                    origin: origin.to_string(),
                    why,
                })?;
                self.set(index, &values, origin.clone())?;
            }
        }
        Ok(())
    }

    fn environment(&mut self, env: impl IntoIterator<Item = (String, String)>) -> Result<(), ConfigError> {
        for (name, value) in env {
            if !name.starts_with(ENV_PREFIX) {
                continue;
            }
            let Some(index) = KEYS.iter().position(|k| k.env() == name) else {
                return Err(unknown(&name, "environment", nearest(&name, KEYS.iter().map(Key::env))));
            };
            self.set(index, &split(&value, KEYS[index].list), Origin::Env(name))?;
        }
        Ok(())
    }

    /// All settings as a file would hold them, each with its origin.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let mut out = String::new();
        let mut section = "";
        for (key, origin) in KEYS.iter().zip(&self.origins) {
            if key.section != section {
                let gap = if section.is_empty() { "" } else { "\n" };
                let _ = writeln!(out, "{gap}[{}]", key.section);
                section = key.section;
            }
            let values: Vec<_> =
                (key.show)(&self.config).into_iter().map(|v| toml::Value::String(v).to_string()).collect();
            let value = if key.list { format!("[{}]", values.join(", ")) } else { values.join("") };
            let _ = writeln!(out, "{} = {value}  # {origin}", key.name);
        }
        out
    }
}

fn unknown(key: &str, origin: &str, hint: Option<String>) -> ConfigError {
    ConfigError::Unknown {
        key: key.to_owned(),
        origin: origin.to_owned(),
        hint: hint.map(|h| format!(", did you mean `{h}`?")).unwrap_or_default(),
    }
}

fn toml_values(value: toml::Value) -> Result<Vec<String>, String> {
    match value {
        toml::Value::Array(values) => values.into_iter().map(toml_scalar).collect(),
        one => toml_scalar(one).map(|v| vec![v]),
    }
}

fn toml_scalar(value: toml::Value) -> Result<String, String> {
    match value {
        toml::Value::String(s) => Ok(s),
        toml::Value::Integer(i) => Ok(i.to_string()),
        toml::Value::Float(f) => Ok(f.to_string()),
        toml::Value::Boolean(b) => Ok(b.to_string()),
        other => Err(format!("a {} does not fit here", other.type_str())),
    }
}

/// How long committed offsets may be kept: as minutes it is told to clients, who take 32 bits of them.
const OFFSETS_RETENTION: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(36_500 * 86_400);

impl Config {
    /// What no single setting can know.
    fn check(&self) -> Result<(), ConfigError> {
        let conflict = |text: String| Err(ConfigError::Conflict(text));
        crate::dns::zones(self).map_err(ConfigError::Conflict)?;
        let is_label = |text: &str| (1..=63).contains(&text.len()) && !text.contains(['.', ' ', '/']);
        if !is_label(&self.consul.datacenter) {
            return conflict(format!("consul.datacenter = {:?} is no label of a name", self.consul.datacenter));
        }
        if self.http.auth == super::HttpAuth::Never
            && let Some(open) = self.listeners.http.iter().find(|l| !l.is_loopback())
        {
            return conflict(format!("http.auth = \"never\" would leave {} open to other machines", open.address));
        }
        if self.kafka.auth == super::HttpAuth::Never
            && let Some(open) = self.listeners.kafka.iter().find(|l| !l.is_loopback())
        {
            return conflict(format!("kafka.auth = \"never\" would leave {} open to other machines", open.address));
        }
        if self.kafka.default_partitions == 0 || self.kafka.default_partitions > 10_000 {
            return conflict("kafka.default_partitions must be 1 to 10000".to_owned());
        }
        if !OFFSETS_RETENTION.contains(&self.kafka.offsets_retention) {
            return conflict("kafka.offsets_retention must be 1s to 36500d".to_owned());
        }
        if self.kafka.request_max.0 > u64::from(i32::MAX.unsigned_abs()) {
            return conflict("kafka.request_max must be below 2GiB".to_owned());
        }
        if self.amqp.frame_max.0 < 4096 || self.amqp.frame_max.0 > u64::from(u32::MAX) {
            return conflict("amqp.frame_max must be from 4KiB to 4GiB (exclusive)".to_owned());
        }
        if self.amqp.channel_max == 0 {
            return conflict("amqp.channel_max must be at least 1".to_owned());
        }
        if self.amqp.heartbeat.as_secs() > u64::from(u16::MAX) {
            return conflict(format!("amqp.heartbeat must be at most {}s", u16::MAX));
        }
        Ok(())
    }
}

//! How a device is declared: `KIND,front=bind:tcp://…,back=connect:tcp://…[,option=value…]`.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use waypost_zmtp::majordomo::Pace;
use waypost_zmtp::pattern::fanout::Overflow;
use waypost_zmtp::pattern::routes::Duplicate;

use super::endpoint::{Attachment, Direction};
use crate::config::nearest::nearest;
use crate::config::value::{ByteSize, Scalar, Unset};

/// What a device does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// PULL to PUSH.
    Streamer,
    /// XSUB to XPUB.
    Forwarder,
    /// ROUTER to DEALER.
    Router,
    /// Majordomo's broker.
    Majordomo,
}

impl Kind {
    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Streamer => "streamer",
            Self::Forwarder => "forwarder",
            Self::Router => "router",
            Self::Majordomo => "majordomo",
        }
    }

    fn parse(text: &str) -> Option<Kind> {
        [Self::Streamer, Self::Forwarder, Self::Router, Self::Majordomo].into_iter().find(|kind| kind.name() == text)
    }
}

/// A device.
#[derive(Debug, Clone, PartialEq)]
pub struct DeviceSpec {
    /// What it does.
    pub kind: Kind,
    /// What it is called in metrics and logs; by default its kind with a number.
    pub name: Option<String>,
    /// Towards producers.
    pub front: EndSpec,
    /// Towards consumers.
    pub back: EndSpec,
    /// The durable queue behind a streamer.
    pub queue: Option<String>,
    /// The exchange behind a forwarder.
    pub exchange: Option<String>,
    /// Whose queue or exchange that is.
    pub vhost: Option<String>,
    /// What happens to messages for slow subscribers.
    pub overflow: Overflow,
    /// What happens to a client whose identity is taken.
    pub duplicate: Duplicate,
    /// Majordomo: between heartbeats, on which broker and workers agree.
    pub worker_heartbeat: Duration,
    /// As it was written.
    text: String,
}

/// A side of a device.
#[derive(Debug, Clone, PartialEq)]
pub struct EndSpec {
    /// Where it binds and connects.
    pub attachments: Vec<Attachment>,
    /// Messages that may wait for each peer.
    pub hwm: u32,
    /// The largest message that is taken, bytes.
    pub message_bytes_max: u64,
    /// Between pings; zero sends none.
    pub heartbeat: Duration,
    /// The mechanism and its files.
    pub security: SecuritySpec,
}

/// The files and keys that a mechanism needs. Secrets come from files only, so that no listing of processes shows them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SecuritySpec {
    /// PLAIN, as the server: lines `user:password`.
    pub plain_users: Option<PathBuf>,
    /// PLAIN, as the client: a line `user:password`.
    pub plain_login: Option<PathBuf>,
    /// CURVE: our secret key in Z85.
    pub curve_secret: Option<PathBuf>,
    /// CURVE, as the server: public keys of those who may come, a line each.
    pub curve_clients: Option<PathBuf>,
    /// CURVE, as the client: the server's public key in Z85.
    pub curve_server: Option<String>,
}

impl Default for EndSpec {
    fn default() -> EndSpec {
        EndSpec {
            attachments: Vec::new(),
            hwm: 1000,
            message_bytes_max: 64 * 1024 * 1024,
            heartbeat: Duration::ZERO,
            security: SecuritySpec::default(),
        }
    }
}

const OPTIONS: [&str; 17] = [
    "worker-heartbeat",
    "front",
    "back",
    "name",
    "queue",
    "exchange",
    "vhost",
    "overflow",
    "duplicate",
    "hwm",
    "max-message",
    "heartbeat",
    "plain-users",
    "plain-login",
    "curve-secret",
    "curve-clients",
    "curve-server",
];

impl Unset for DeviceSpec {
    const WORD: Option<&'static str> = Some("off");
}

impl Scalar for DeviceSpec {
    const FORM: &'static str = "device";

    fn parse(text: &str) -> Result<Self, String> {
        let mut parts = text.split(',').map(str::trim);
        let kind = parts.next().unwrap_or_default();
        let kind = Kind::parse(kind)
            .ok_or_else(|| format!("`{kind}` is none of the devices streamer, forwarder, router, majordomo"))?;
        let mut spec = DeviceSpec {
            kind,
            name: None,
            front: EndSpec::default(),
            back: EndSpec::default(),
            queue: None,
            exchange: None,
            vhost: None,
            overflow: Overflow::Drop,
            duplicate: Duplicate::Refuse,
            worker_heartbeat: Duration::from_millis(Pace::default().heartbeat_ms),
            text: text.trim().to_owned(),
        };
        for option in parts {
            let (name, value) = option.split_once('=').ok_or_else(|| format!("`{option}` is not option=value"))?;
            if value.is_empty() {
                return Err(format!("option `{name}` has no value"));
            }
            spec.set(name, value)?;
        }
        spec.check()?;
        Ok(spec)
    }

    fn write(&self) -> String {
        self.text.clone()
    }
}

impl fmt::Display for DeviceSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl DeviceSpec {
    /// The vhost of what is behind it; none for a device in memory.
    pub(crate) fn belongs_to(&self) -> Option<&str> {
        let brokered = self.queue.is_some() || self.exchange.is_some() || self.kind == Kind::Majordomo;
        brokered.then(|| self.vhost.as_deref().unwrap_or("/"))
    }

    /// Whether both declare the same, however it was written.
    pub(super) fn is_same(&self, other: &DeviceSpec) -> bool {
        let plain = |spec: &DeviceSpec| DeviceSpec { text: String::new(), ..spec.clone() };
        plain(self) == plain(other)
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        match name {
            "front" => self.front.attachments.push(Attachment::parse(value)?),
            "back" => self.back.attachments.push(Attachment::parse(value)?),
            "name" => self.name = Some(word(name, value)?),
            "queue" => self.queue = Some(value.to_owned()),
            "exchange" => self.exchange = Some(value.to_owned()),
            "vhost" => self.vhost = Some(value.to_owned()),
            "overflow" if self.kind == Kind::Forwarder => {
                self.overflow = match value {
                    "drop" => Overflow::Drop,
                    "block" => Overflow::Block,
                    _ => return Err(format!("`overflow={value}` is neither drop nor block")),
                };
            }
            "duplicate" if self.kind == Kind::Router => {
                self.duplicate = match value {
                    "refuse" => Duplicate::Refuse,
                    "replace" => Duplicate::Replace,
                    _ => return Err(format!("`duplicate={value}` is neither refuse nor replace")),
                };
            }
            "worker-heartbeat" if self.kind == Kind::Majordomo => {
                self.worker_heartbeat = Scalar::parse(value)?;
                if self.worker_heartbeat.is_zero() {
                    return Err("`worker-heartbeat` must be longer than nothing".to_owned());
                }
            }
            "overflow" | "duplicate" | "worker-heartbeat" => {
                return Err(format!("a {} has no option `{name}`", self.kind.name()));
            }
            _ => match (name.strip_prefix("front-"), name.strip_prefix("back-")) {
                (Some(own), _) => self.front.set(own, name, value)?,
                (_, Some(own)) => self.back.set(own, name, value)?,
                _ => {
                    self.front.set(name, name, value)?;
                    self.back.set(name, name, value)?;
                }
            },
        }
        Ok(())
    }

    fn check(&self) -> Result<(), String> {
        let kind = self.kind.name();
        let missing = |end: &str| Err(format!("a {kind} needs {end}=bind:ENDPOINT or {end}=connect:ENDPOINT"));
        if self.queue.is_some() && self.kind != Kind::Streamer {
            return Err(format!("a {kind} has no queue behind it: `queue` is for streamers"));
        }
        if self.exchange.is_some() && self.kind != Kind::Forwarder {
            return Err(format!("a {kind} has no exchange behind it: `exchange` is for forwarders"));
        }
        let brokered = self.queue.is_some() || self.exchange.is_some();
        if self.vhost.is_some() && !brokered && self.kind != Kind::Majordomo {
            return Err("`vhost` needs `queue` or `exchange`: a device in memory belongs to none".to_owned());
        }
        let (front, back) = (&self.front.attachments, &self.back.attachments);
        if self.kind == Kind::Majordomo {
            if !back.is_empty() {
                return Err("majordomo has a front only: workers and clients come to the same socket".to_owned());
            }
            if front.iter().any(|one| one.direction == Direction::Connect) {
                return Err("majordomo binds: its clients and workers connect".to_owned());
            }
        } else if !brokered && back.is_empty() {
            return missing("back");
        }
        // With a queue or an exchange either end alone is a bridge.
        if front.is_empty() && (!brokered || back.is_empty()) {
            return missing("front");
        }
        for (end, spec) in [("front", &self.front), ("back", &self.back)] {
            spec.security.check().map_err(|why| format!("{end}: {why}"))?;
        }
        Ok(())
    }
}

impl EndSpec {
    fn set(&mut self, own: &str, name: &str, value: &str) -> Result<(), String> {
        let security = &mut self.security;
        match own {
            "hwm" => {
                self.hwm =
                    value.parse().ok().filter(|n| *n > 0).ok_or_else(|| {
                        format!("`{name}={value}` is not a number of messages from 1 to {}", u32::MAX)
                    })?;
            }
            "max-message" => {
                let ByteSize(bytes) = ByteSize::parse(value)?;
                if !(MESSAGE_BYTES_FLOOR..=MESSAGE_BYTES_CEILING).contains(&bytes) {
                    return Err(format!("`{name}={value}` is not from 1KiB to 2GiB"));
                }
                self.message_bytes_max = bytes;
            }
            "heartbeat" => self.heartbeat = Scalar::parse(value)?,
            "plain-users" => security.plain_users = Some(value.into()),
            "plain-login" => security.plain_login = Some(value.into()),
            "curve-secret" => security.curve_secret = Some(value.into()),
            "curve-clients" => security.curve_clients = Some(value.into()),
            "curve-server" => security.curve_server = Some(value.to_owned()),
            _ => {
                let hint = nearest(name, OPTIONS).map(|n| format!(", did you mean `{n}`?")).unwrap_or_default();
                return Err(format!("unknown device option `{name}`{hint}"));
            }
        }
        Ok(())
    }
}

const MESSAGE_BYTES_FLOOR: u64 = 1024;
/// Offsets of messages inside a batch have 32 bits.
const MESSAGE_BYTES_CEILING: u64 = 2 << 30;

impl SecuritySpec {
    fn check(&self) -> Result<(), String> {
        let plain = self.plain_users.is_some() || self.plain_login.is_some();
        let curve = self.curve_secret.is_some() || self.curve_clients.is_some() || self.curve_server.is_some();
        if plain && curve {
            return Err("a socket has one mechanism: PLAIN or CURVE".to_owned());
        }
        if self.plain_users.is_some() && self.plain_login.is_some() {
            return Err("`plain-users` makes it the server, `plain-login` the client: it can be one of them".to_owned());
        }
        if self.curve_clients.is_some() && self.curve_server.is_some() {
            return Err(
                "`curve-clients` makes it the server, `curve-server` the client: it can be one of them".to_owned()
            );
        }
        if curve && self.curve_secret.is_none() {
            return Err("CURVE needs `curve-secret`".to_owned());
        }
        Ok(())
    }
}

/// Whether a device may have that name, which ends in metrics.
pub(super) fn name_is_sound(name: &str) -> bool {
    (1..=64).contains(&name.len()) && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

fn word(name: &str, value: &str) -> Result<String, String> {
    name_is_sound(value)
        .then(|| value.to_owned())
        .ok_or_else(|| format!("`{name}={value}`: letters, digits, `-`, `_` and `.` only"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_options() {
        let text = "forwarder,name=news,front=bind:tcp://127.0.0.1:0,front=connect:tcp://b:1,back=bind:ipc:///tmp/x,\
                    overflow=block,hwm=7,back-hwm=9,front-max-message=1MiB,heartbeat=5s,back-plain-users=u.txt,\
                    front-curve-secret=k,front-curve-server=abc,exchange=amq.topic,vhost=shop";
        let spec = DeviceSpec::parse(text).unwrap();
        assert_eq!((spec.front.attachments.len(), spec.front.hwm, spec.back.hwm), (2, 7, 9));
        assert_eq!((spec.front.message_bytes_max, spec.overflow), (1 << 20, Overflow::Block));
        assert_eq!(spec.back.security.plain_users, Some("u.txt".into()));
        assert_eq!(DeviceSpec::parse(&spec.write()).unwrap(), spec);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let ends = "front=bind:tcp://127.0.0.1:0,back=bind:tcp://127.0.0.1:0";
        for (text, want) in [
            ("pipe,front=bind:tcp://127.0.0.1:0", "none of the devices"),
            ("streamer,front=bind:tcp://127.0.0.1:0", "needs back="),
            ("streamer,back=bind:tcp://127.0.0.1:0", "needs front="),
            ("streamer,queue=q", "needs front="),
            (&format!("streamer,{ends},exchange=x"), "for forwarders"),
            (&format!("router,{ends},queue=q"), "for streamers"),
            (&format!("router,{ends},exchange=q"), "for forwarders"),
            (&format!("streamer,{ends},vhost=v"), "needs `queue`"),
            (&format!("streamer,{ends},overflow=drop"), "has no option"),
            (&format!("forwarder,{ends},overflow=maybe"), "neither drop nor block"),
            (&format!("majordomo,{ends}"), "front only"),
            ("majordomo,front=connect:tcp://127.0.0.1:5", "majordomo binds"),
            (&format!("streamer,{ends},hvm=5"), "did you mean `hwm`"),
            (&format!("streamer,{ends},hwm=0"), "from 1 to"),
            (&format!("streamer,{ends},max-message=1B"), "from 1KiB"),
            (&format!("streamer,{ends},plain-users=a,curve-secret=b"), "one mechanism"),
            (&format!("streamer,{ends},plain-users=a,plain-login=b"), "one of them"),
            (&format!("streamer,{ends},curve-server=b"), "needs `curve-secret`"),
            (&format!("streamer,{ends},name=a b"), "letters"),
            (&format!("streamer,{ends},queue"), "option=value"),
        ] {
            let error = DeviceSpec::parse(text).unwrap_err();
            assert!(error.contains(want), "{text}: {error}");
        }
    }

    #[test]
    fn a_queue_or_an_exchange_makes_one_end_enough() {
        for text in [
            "streamer,front=bind:tcp://127.0.0.1:0,queue=q",
            "streamer,back=bind:tcp://127.0.0.1:0,queue=q",
            "forwarder,front=bind:tcp://127.0.0.1:0,exchange=amq.topic",
            "majordomo,front=bind:tcp://127.0.0.1:0,vhost=shop",
        ] {
            DeviceSpec::parse(text).unwrap();
        }
    }
}

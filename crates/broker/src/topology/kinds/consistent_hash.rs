//! Consistent hashing: each message goes to one destination, chosen by a hash of its routing key, of a header or of a
//! property; destinations take shares in proportion to their weights, which are the binding keys.
//!
//! The choice is the weighted rendezvous of Schindler and Schomaker: each destination draws a number from the hash of its
//! name and the message's, scaled by its weight, and the best wins. Shares are exact in the mean, and a destination that
//! comes or goes moves only what it gains or held: no ring of points has to be kept, and weights cost no memory. The hash
//! depends on names only, so that a key finds the same queue after a restart.

use waypost_model::Refusal;
use waypost_model::table::{Table, Value};

use super::{Facts, Sink, Target};
use crate::topology::binding::Bound;

/// As RabbitMQ has it.
const WEIGHT_MAX: u32 = 10_000;

#[derive(Debug)]
pub(crate) struct ConsistentHash {
    on: HashOn,
    members: Vec<Member>,
}

#[derive(Debug)]
struct Member {
    target: Target,
    /// Hash of the destination's kind and name.
    identity: u64,
    /// The weights of its bindings, sorted. The greatest counts: which came first is not known after a restart.
    weights: Vec<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum HashOn {
    RoutingKey,
    Header(Box<str>),
    CorrelationId,
    MessageId,
    Timestamp,
}

impl HashOn {
    /// The exchange's arguments.
    fn parse(arguments: &Table) -> Result<HashOn, Refusal> {
        let text = |name: &str| match arguments.get(name) {
            None => Ok(None),
            Some(v) => match v.as_str() {
                Some(s) => Ok(Some(s)),
                None => Err(Refusal::precondition_failed(format!("{name} must be a string"))),
            },
        };
        match (text("hash-header")?, text("hash-property")?) {
            (None, None) => Ok(HashOn::RoutingKey),
            (Some(header), None) => Ok(HashOn::Header(header.into())),
            (None, Some("correlation_id")) => Ok(HashOn::CorrelationId),
            (None, Some("message_id")) => Ok(HashOn::MessageId),
            (None, Some("timestamp")) => Ok(HashOn::Timestamp),
            (None, Some(other)) => Err(Refusal::precondition_failed(format!("Unsupported property: {other}"))),
            (Some(_), Some(_)) => {
                Err(Refusal::precondition_failed("hash-header and hash-property are mutually exclusive"))
            }
        }
    }
}

/// Whether the arguments of an exchange of this type make sense.
///
/// # Errors
/// 406.
pub(crate) fn validate(arguments: &Table) -> Result<(), Refusal> {
    HashOn::parse(arguments).map(|_| ())
}

/// The weight that a binding key stands for.
///
/// # Errors
/// 406.
pub(crate) fn weight(key: &[u8]) -> Result<u32, Refusal> {
    let text = std::str::from_utf8(key).ok();
    match text.and_then(|t| t.parse::<i64>().ok()) {
        None => Err(Refusal::precondition_failed(format!(
            "The binding key must be an integer: <<\"{}\">>",
            String::from_utf8_lossy(key)
        ))),
        Some(..1) => Err(Refusal::precondition_failed("The binding key must be greater than 0")),
        Some(w) => u32::try_from(w)
            .ok()
            .filter(|w| *w <= WEIGHT_MAX)
            .ok_or_else(|| Refusal::precondition_failed(format!("The binding key must not exceed {WEIGHT_MAX}"))),
    }
}

impl ConsistentHash {
    /// `arguments` passed [`validate`].
    pub fn new(arguments: &Table) -> ConsistentHash {
        ConsistentHash { on: HashOn::parse(arguments).unwrap_or(HashOn::RoutingKey), members: Vec::new() }
    }

    pub fn looks_at_message(&self) -> bool {
        self.on != HashOn::RoutingKey
    }

    pub fn add(&mut self, b: &Bound) {
        let weight = weight(&b.key).unwrap_or(1);
        match self.members.binary_search_by_key(&b.target, |m| m.target) {
            Ok(i) => {
                let weights = &mut self.members[i].weights;
                weights.insert(weights.partition_point(|w| *w < weight), weight);
            }
            Err(i) => {
                let identity = hash(b.destination.name().as_bytes(), b.destination.is_queue().into());
                self.members.insert(i, Member { target: b.target, identity, weights: vec![weight] });
            }
        }
    }

    pub fn remove(&mut self, b: &Bound) {
        let weight = weight(&b.key).unwrap_or(1);
        let Ok(i) = self.members.binary_search_by_key(&b.target, |m| m.target) else {
            return;
        };
        let weights = &mut self.members[i].weights;
        if let Some(at) = weights.iter().position(|w| *w == weight) {
            weights.remove(at);
        }
        if weights.is_empty() {
            self.members.remove(i);
        }
    }

    pub fn route(&self, facts: &Facts<'_>, out: &mut Sink) {
        let key = self.key(facts);
        let best = self
            .members
            .iter()
            .map(|m| (m.score(key), m))
            .max_by(|(a, m), (b, n)| a.total_cmp(b).then_with(|| m.identity.cmp(&n.identity)));
        if let Some((_, member)) = best {
            out.take(member.target);
        }
    }

    fn key(&self, facts: &Facts<'_>) -> u64 {
        let bytes = |b: Option<&[u8]>| hash(b.unwrap_or_default(), u64::from(b.is_some()));
        match &self.on {
            HashOn::RoutingKey => bytes(facts.keys.first().copied()),
            HashOn::CorrelationId => bytes(facts.props.correlation_id()),
            HashOn::MessageId => bytes(facts.props.message_id()),
            HashOn::Timestamp => {
                let text = facts.props.timestamp().map(|t| t.to_string());
                bytes(text.as_deref().map(str::as_bytes))
            }
            HashOn::Header(name) => match facts.headers.and_then(|h| h.get(name)) {
                None => bytes(None),
                Some(Value::LongStr(v) | Value::Bytes(v)) => bytes(Some(v)),
                Some(value) => {
                    let mut encoded = Vec::new();
                    match value.as_i64() {
                        // Equal integers of different width are equal keys.
                        Some(v) => Value::I64(v).encode(&mut encoded),
                        None => value.encode(&mut encoded),
                    }
                    bytes(Some(&encoded))
                }
            },
        }
    }
}

impl Member {
    fn score(&self, key: u64) -> f64 {
        let draw = mix(key ^ self.identity.rotate_left(32));
        // 53 bits, put in the middle of their steps: never 0 and never 1.
        let uniform = ((draw >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
        f64::from(self.weights.last().copied().unwrap_or(0)) / -uniform.ln()
    }
}

/// FNV-1a, finished by [`mix`]. Not keyed: it must say the same after a restart, and whoever knows it can only load one
/// queue more than others, which the routing key of any exchange lets him do.
fn hash(bytes: &[u8], salt: u64) -> u64 {
    let start = 0xcbf2_9ce4_8422_2325 ^ salt;
    mix(bytes.iter().fold(start, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3)))
}

/// The finalizer of splitmix64: every bit of the result depends on every bit of the argument.
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

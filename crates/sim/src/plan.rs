//! What a world declares: queues and exchanges that differ from seed to seed, and where messages with a route must go.

use waypost_model::Call;
use waypost_model::command::{Binding, Destination, ExchangeDeclare, QueueDeclare};
use waypost_model::table::{Table, Value};

use crate::rng::Rng;

/// How a queue is declared, and what a message in it has to expect.
#[derive(Debug, Clone)]
pub struct QueuePlan {
    /// Its name.
    pub name: &'static str,
    /// Survives a restart.
    pub durable: bool,
    /// Its declared arguments.
    pub arguments: Table,
    /// Time to live, ms.
    pub ttl: Option<u64>,
    /// Messages may go because of a limit.
    pub limited: bool,
    /// What goes because of a limit or is refused leaves no dead letter.
    pub leaks: bool,
    /// Failed deliveries are limited.
    pub delivery_limit: Option<u32>,
    /// Dead letters go on.
    pub dead_letters: bool,
    /// First come, first delivered.
    pub ordered: bool,
    /// Only one consumer at a time.
    pub single: bool,
    /// Which bindings lead to it.
    pub bindings: Vec<(&'static str, &'static str)>,
}

/// How long queue `e` may be without use, ms.
pub const EXPIRES_MS: u64 = 90;

/// The exchanges: name, type, further arguments.
const EXCHANGES: [(&str, &str); 6] =
    [("f", "fanout"), ("t", "topic"), ("a", "direct"), ("ae", "fanout"), ("x", "x-delayed-message"), ("dlx", "fanout")];

fn text(s: &str) -> Value {
    Value::LongStr(s.as_bytes().to_vec())
}

/// The queues of a world.
#[must_use]
pub fn queues(rng: &mut Rng) -> Vec<QueuePlan> {
    let plain = |name, bindings: &[(&'static str, &'static str)]| QueuePlan {
        name,
        durable: true,
        arguments: Table::new(),
        ttl: None,
        limited: false,
        leaks: false,
        delivery_limit: None,
        dead_letters: false,
        ordered: true,
        single: false,
        bindings: bindings.to_vec(),
    };
    let q0 = plain("q0", &[("f", ""), ("x", "q0")]);
    let mut q1 = plain("q1", &[("f", ""), ("t", "a.*.c")]);
    q1.ttl = Some([0, 1, 50, 300][rng.below(4)]);
    q1.arguments.set("x-message-ttl", Value::I64(q1.ttl.unwrap_or(0) as i64));
    if rng.once_in(2) {
        q1.dead_letters = true;
        q1.arguments.set("x-dead-letter-exchange", text("dlx"));
    }
    let mut q2 = plain("q2", &[("f", ""), ("x", "q2")]);
    q2.arguments.set("x-queue-type", text("quorum"));
    q2.arguments.set("x-delivery-limit", Value::I64(3));
    q2.delivery_limit = Some(3);
    if rng.once_in(2) {
        q2.dead_letters = true;
        q2.arguments.set("x-dead-letter-exchange", text(""));
        q2.arguments.set("x-dead-letter-routing-key", text("dl"));
    }
    let mut q3 = plain("q3", &[("t", "a.#")]);
    if rng.once_in(2) {
        q3.single = true;
        q3.arguments.set("x-single-active-consumer", Value::Bool(true));
    } else {
        q3.ordered = false;
        q3.arguments.set("x-max-priority", Value::I64(4));
    }
    let mut q4 = plain("q4", &[("t", "#.c")]);
    q4.limited = true;
    let limit = if rng.once_in(2) { "x-max-length" } else { "x-max-length-bytes" };
    q4.arguments.set(limit, Value::I64(if limit == "x-max-length" { 8 } else { 900 }));
    let overflow = ["drop-head", "reject-publish", "reject-publish-dlx"][rng.below(3)];
    q4.arguments.set("x-overflow", text(overflow));
    if rng.once_in(2) {
        q4.dead_letters = true;
        q4.arguments.set("x-dead-letter-exchange", text("dlx"));
    }
    q4.leaks = !q4.dead_letters || overflow != "drop-head";
    let mut q5 = plain("q5", &[("ae", "")]);
    q5.durable = false;
    let mut w = plain("w", &[]);
    w.dead_letters = true;
    w.arguments.set("x-dead-letter-exchange", text(""));
    w.arguments.set("x-dead-letter-routing-key", text("r"));
    let mut r = plain("r", &[]);
    r.dead_letters = true;
    r.ttl = Some(40);
    r.arguments.set("x-message-ttl", Value::I64(40));
    r.arguments.set("x-dead-letter-exchange", text(""));
    r.arguments.set("x-dead-letter-routing-key", text("w"));
    let dl = plain("dl", &[("dlx", "")]);
    let mut e = plain("e", &[("f", "")]);
    e.arguments.set("x-expires", Value::I64(EXPIRES_MS as i64));
    vec![q0, q1, q2, q3, q4, q5, w, r, dl, e]
}

/// The calls that declare the exchanges.
#[must_use]
pub fn exchange_calls() -> Vec<Call> {
    let declare = |(name, kind): (&str, &str)| {
        let mut arguments = Table::new();
        if name == "a" {
            arguments.set("alternate-exchange", text("ae"));
        }
        if name == "x" {
            arguments.set("x-delayed-type", text("direct"));
        }
        Call::ExchangeDeclare(ExchangeDeclare {
            name: name.into(),
            kind: kind.into(),
            passive: false,
            durable: true,
            auto_delete: false,
            internal: false,
            arguments,
        })
    };
    EXCHANGES.into_iter().map(declare).collect()
}

impl QueuePlan {
    /// The calls that declare the queue and bind it.
    #[must_use]
    pub fn calls(&self) -> Vec<Call> {
        let mut calls = vec![Call::QueueDeclare(QueueDeclare {
            name: self.name.into(),
            passive: false,
            durable: self.durable,
            exclusive: false,
            auto_delete: false,
            arguments: self.arguments.clone(),
        })];
        calls.extend(self.bindings.iter().map(|(source, key)| {
            Call::Bind(Binding {
                source: (*source).into(),
                destination: Destination::Queue(self.name.into()),
                routing_key: key.as_bytes().into(),
                arguments: Table::new(),
            })
        }));
        calls
    }
}

fn topic_matches(pattern: &[&str], key: &[&str]) -> bool {
    match pattern.split_first() {
        None => key.is_empty(),
        Some((&"#", rest)) => (0..=key.len()).any(|n| topic_matches(rest, &key[n..])),
        Some((word, rest)) => {
            key.split_first().is_some_and(|(k, more)| (*word == "*" || word == k) && topic_matches(rest, more))
        }
    }
}

/// The names of the queues that a message must reach, of those that exist.
#[must_use]
pub fn route<'a>(queues: impl Iterator<Item = &'a QueuePlan>, exchange: &str, key: &str) -> Vec<&'static str> {
    let wanted = |q: &QueuePlan| match exchange {
        "" => q.name == key,
        "a" => q.bindings.iter().any(|(x, _)| *x == "ae"),
        "t" => q.bindings.iter().any(|(x, pattern)| {
            let words = |s: &'static str| s.split('.').collect::<Vec<_>>();
            *x == "t" && topic_matches(&words(pattern), &key.split('.').collect::<Vec<_>>())
        }),
        "x" => q.bindings.iter().any(|(x, k)| *x == "x" && *k == key),
        _ => q.bindings.iter().any(|(x, _)| *x == exchange),
    };
    queues.filter(|q| wanted(q)).map(|q| q.name).collect()
}

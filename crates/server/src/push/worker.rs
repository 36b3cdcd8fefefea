//! One instance's endpoint: takes the instance's messages and posts them.
//!
//! Messages are held while they are tried again, so their instance has less credit meanwhile. An endpoint that cannot be
//! reached, asks for time, or only fails is *resting*: one message stays as its probe, all others go back to the mailbox,
//! where another instance may take them, until something has come through. If the probe fails too, it goes back like the
//! others, and the instance takes nothing at all for a while: an endpoint that is dead uses up no messages.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinSet;
use waypost_broker::broker::admin::Actor;
use waypost_broker::topology::{Access, Resource};
use waypost_model::command::Outcome;
use waypost_model::service::mailbox_name;
use waypost_model::table::{Table, Value};
use waypost_model::{Millis, Refusal, Route};

use super::client::Client;
use super::post::{Style, Verdict, body, deadline, verdict};
use super::{Shared, backoff, stopped};
use crate::local::{Incoming, Message, Receipt, Received, Subscriber, Terms};

/// A message that was tried so often is given up, and goes where its mailbox sends dead letters.
const ATTEMPTS_MAX: u32 = 8;

/// An endpoint that fails so often in a row rests. Fewer may be the messages' fault.
const FAILURES_TO_REST: u32 = 5;

/// Messages that went back of which one endpoint's worker knows how often it tried them.
const TRIED_MAX: usize = 4096;

/// Bytes of messages under way to one endpoint, about.
const WINDOW_BYTES: u64 = 8 * 1024 * 1024;

/// How long requests under way may take to end when the worker has to.
const FAREWELL: Duration = Duration::from_secs(3);

/// Everything about an instance that its worker needs.
pub(super) struct Worker {
    pub shared: Arc<Shared>,
    pub style: Arc<Style>,
    pub client: Arc<Client>,
    pub concurrency: u16,
    pub timeout: Duration,
    /// Who registered it: may its answers go to any queue?
    pub owner: Arc<str>,
    /// True when the worker is to end.
    pub stop: watch::Receiver<bool>,
}

/// A message in hand.
struct Held {
    received: Received,
    taken: Millis,
    attempts: u32,
    /// Somebody was there and did not take it. An endpoint that is not there uses up no tries.
    answered: bool,
    /// When to try again; `None` while a request is under way.
    due: Option<Instant>,
}

/// How often messages were tried that went back to the mailbox: one that the endpoint never takes would otherwise come
/// again for ever, and keep those behind it from an endpoint that takes one at a time.
#[derive(Debug, Default)]
struct Tried(HashMap<String, u32>);

impl Tried {
    /// A message goes back.
    fn note(&mut self, id: String, attempts: u32) {
        // Those that others have taken are never asked for. What is forgotten is tried more often than it should be.
        if self.0.len() >= TRIED_MAX {
            self.0.clear();
        }
        self.0.insert(id, attempts);
    }

    /// A message comes.
    fn take(&mut self, id: &str) -> u32 {
        self.0.remove(id).unwrap_or(0)
    }
}

struct Round<'a> {
    worker: &'a Worker,
    tried: &'a mut Tried,
    subscriber: Subscriber,
    held: HashMap<u64, Held>,
    posts: JoinSet<(u64, Verdict)>,
    next: u64,
    /// In a row, of whatever message.
    failures: u32,
    resting: bool,
    /// Something came through.
    well: bool,
    /// The probe failed: nothing more is taken for at least so long.
    over: Option<Duration>,
}

/// How a round ended.
struct Ended {
    /// Why, unless it was told to stop.
    refusal: Option<Refusal>,
    well: bool,
    pause: Duration,
}

impl Worker {
    /// Works until it is told to stop.
    pub(super) async fn run(self) {
        let (mut failures, mut tried) = (0, Tried::default());
        while !*self.stop.borrow() {
            let mut pause = Duration::ZERO;
            match self.subscribe(failures > 0) {
                Ok(subscriber) => {
                    let round = Round {
                        worker: &self,
                        tried: &mut tried,
                        subscriber,
                        held: HashMap::new(),
                        posts: JoinSet::new(),
                        next: 0,
                        failures,
                        resting: failures > 0,
                        well: false,
                        over: None,
                    };
                    let ended = round.run().await;
                    pause = ended.pause;
                    if ended.well {
                        failures = 0;
                    }
                    if let Some(refusal) = ended.refusal {
                        tracing::debug!(service = %self.style.service, instance = %self.style.instance, %refusal, "push starts anew");
                    }
                }
                Err(refusal) => {
                    tracing::debug!(service = %self.style.service, instance = %self.style.instance, %refusal, "push cannot take messages yet");
                }
            }
            failures = failures.saturating_add(1);
            let mut stop = self.stop.clone();
            let pause = backoff::after(failures, backoff::random()).max(pause);
            let _ = tokio::time::timeout(pause, stopped(&mut stop)).await;
        }
    }

    /// `careful`: one message at a time, until something has come through.
    fn subscribe(&self, careful: bool) -> Result<Subscriber, Refusal> {
        let id = Table::new().with("id", Value::from(&*self.style.instance));
        let terms = Terms {
            queue: mailbox_name(&self.style.service).into(),
            tag: format!("push-{}", self.style.instance).into(),
            no_ack: false,
            // The channel's limit, which can be changed, is the one that counts.
            prefetch: if careful { 1 } else { self.concurrency },
            window_bytes: WINDOW_BYTES,
            arguments: Table::new().with("x-service", Value::Table(id)),
        };
        let mut subscriber = Subscriber::start(&self.shared.local, Actor::Operator, &self.style.vhost, &terms)?;
        subscriber.limit(if careful { 1 } else { self.concurrency });
        Ok(subscriber)
    }

    /// Publishes an answer to who asked. A direct reply goes to nobody else; for other queues the one who registered the
    /// endpoint must be allowed to write there.
    fn reply(&self, asked: &Received, message: &Message) {
        let Some(to) = asked.props().reply_to() else { return };
        let broker = self.shared.local.broker();
        let direct = waypost_broker::broker::replies::token_of(to).is_some();
        let actor = if self.owner.is_empty() { Actor::Operator } else { Actor::User(&self.owner) };
        let allowed = || broker.check_permission(actor, &self.style.vhost, Access::Write, Resource::Exchange, "");
        let sent = if direct { Ok(()) } else { allowed() }.and_then(|()| {
            self.shared.publishers.publish(&self.style.vhost, &Arc::new(Route::new("", to)), message, false)
        });
        if let Err(refusal) = sent {
            tracing::info!(service = %self.style.service, instance = %self.style.instance, %refusal, "an answer is lost");
        }
    }
}

impl Round<'_> {
    /// Until the subscription ends, the endpoint is given up for now, or the worker is to stop.
    async fn run(mut self) -> Ended {
        let refusal = self.work().await;
        self.farewell().await;
        Ended { refusal, well: self.well, pause: self.over.unwrap_or_default() }
    }

    async fn work(&mut self) -> Option<Refusal> {
        let mut stop = self.worker.stop.clone();
        loop {
            let due = self.held.values().filter_map(|held| held.due).min();
            let wake = async {
                match due {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stopped(&mut stop) => return None,
                Some(done) = self.posts.join_next() => {
                    // One that panicked leaves its message to the end of the subscription.
                    if let Ok((number, verdict)) = done {
                        self.settle(number, verdict);
                    }
                    if self.over.is_some() {
                        return Some(Refusal::not_found("the endpoint does not answer"));
                    }
                }
                incoming = self.subscriber.next() => match incoming {
                    Incoming::Message(received) => self.take(received),
                    Incoming::Over(refusal) => return Some(refusal),
                },
                () = wake => self.try_due(),
            }
        }
    }

    fn take(&mut self, received: Received) {
        if self.resting && !self.held.is_empty() {
            // It was on its way when the endpoint began to rest.
            self.subscriber.settle(received.receipt, Outcome::Released);
            return;
        }
        let number = self.next;
        self.next += 1;
        let taken = self.worker.shared.clock.now();
        // Tries in other hands, and before a restart, count where the queue counts them.
        let attempts = self.tried.take(&received.receipt.id()).max(received.delivery_count);
        self.held.insert(number, Held { received, taken, attempts, answered: attempts > 0, due: None });
        self.attempt(number);
    }

    fn try_due(&mut self) {
        let now = Instant::now();
        let due: Vec<u64> =
            self.held.iter().filter(|(_, h)| h.due.is_some_and(|at| at <= now)).map(|(number, _)| *number).collect();
        due.into_iter().for_each(|number| self.attempt(number));
    }

    /// Posts a message, unless nobody wants it any more.
    fn attempt(&mut self, number: u64) {
        let Some(held) = self.held.get_mut(&number) else { return };
        let now = self.worker.shared.clock.now();
        let mut timeout = self.worker.timeout;
        if let Some(deadline) = deadline(&held.received, held.taken.0) {
            if deadline <= now.0 {
                let receipt = held.received.receipt;
                return self.give_up(number, receipt, "its time is over");
            }
            timeout = timeout.min(Duration::from_millis(deadline - now.0));
        }
        held.due = None;
        // Whoever was sent it once may have it.
        held.received.redelivered |= held.attempts > 0;
        held.attempts = held.attempts.saturating_add(1);
        let (received, client) = (held.received.clone(), Arc::clone(&self.worker.client));
        let style = Arc::clone(&self.worker.style);
        self.posts.spawn(async move {
            let headers = style.headers(&received, now.0 / 1000);
            let wanted = received.props().reply_to().is_some();
            let posted = tokio::time::timeout(timeout, client.post(headers, body(&received), wanted)).await;
            let verdict = match posted {
                Ok(Ok(answered)) => verdict(answered, &received),
                Ok(Err(error)) => Verdict::Unreachable(error.to_string()),
                Err(_) => Verdict::Later { after: None, why: "no answer in time".to_owned() },
            };
            (number, verdict)
        });
    }

    fn settle(&mut self, number: u64, verdict: Verdict) {
        let Some(held) = self.held.get_mut(&number) else { return };
        let receipt = held.received.receipt;
        match verdict {
            Verdict::Done(reply) => {
                // Before the acknowledgement: a crash in between asks again, and no answer is lost.
                if let Some(message) = reply {
                    self.worker.reply(&held.received, &message);
                }
                self.held.remove(&number);
                self.subscriber.settle(receipt, Outcome::Accepted);
                self.wake();
            }
            Verdict::Refused(why) => {
                // It answers: that it does not want this one says nothing about the others.
                self.wake();
                self.give_up(number, receipt, &why);
            }
            Verdict::Later { after, why } => {
                held.answered = true;
                self.failed(number, after, &why, after.is_some());
            }
            Verdict::Unreachable(why) => self.failed(number, None, &why, true),
        }
    }

    /// A message is tried again, if it was not too often already.
    fn failed(&mut self, number: u64, after: Option<Duration>, why: &str, rest: bool) {
        self.failures = self.failures.saturating_add(1);
        let rest = rest || self.failures >= FAILURES_TO_REST;
        let Some(held) = self.held.get_mut(&number) else { return };
        if held.attempts >= ATTEMPTS_MAX {
            let receipt = held.received.receipt;
            self.give_up(number, receipt, why);
        } else if rest && self.resting {
            // Even the probe: another instance may do better. Here it is tried again no sooner than if it had stayed.
            let wait = if held.answered { backoff::after(held.attempts, backoff::random()) } else { Duration::ZERO };
            self.over = Some(wait.max(after.unwrap_or_default()));
            self.release(number);
            tracing::debug!(service = %self.worker.style.service, instance = %self.worker.style.instance, why, "push takes nothing for a while");
            return;
        } else {
            let failures = if rest { held.attempts.max(self.failures) } else { held.attempts };
            let wait = backoff::after(failures, backoff::random()).max(after.unwrap_or_default());
            held.due = Some(Instant::now() + wait);
            tracing::debug!(service = %self.worker.style.service, instance = %self.worker.style.instance, why, ?wait, "push is tried again later");
        }
        if rest {
            self.rest(number);
        }
    }

    fn give_up(&mut self, number: u64, receipt: Receipt, why: &str) {
        tracing::info!(service = %self.worker.style.service, instance = %self.worker.style.instance, why, "a message is given up");
        self.held.remove(&number);
        self.subscriber.settle(receipt, Outcome::Rejected);
    }

    /// The endpoint is well.
    fn wake(&mut self) {
        (self.failures, self.well) = (0, true);
        if std::mem::take(&mut self.resting) {
            self.subscriber.limit(self.worker.concurrency);
        }
    }

    /// The endpoint is not well: `probe` stays, what only waits besides goes back.
    fn rest(&mut self, probe: u64) {
        if !std::mem::replace(&mut self.resting, true) {
            self.subscriber.limit(1);
        }
        let waiting = self.held.iter().filter(|(number, held)| held.due.is_some() && **number != probe);
        let waiting: Vec<u64> = waiting.map(|(number, _)| *number).collect();
        waiting.into_iter().for_each(|number| self.release(number));
    }

    /// Back to the mailbox.
    fn release(&mut self, number: u64) {
        let Some(held) = self.held.remove(&number) else { return };
        let receipt = held.received.receipt;
        if held.answered {
            self.tried.note(receipt.id(), held.attempts);
        }
        self.subscriber.settle(receipt, Outcome::Released);
    }

    /// Lets requests under way come to their end, for a moment.
    async fn farewell(&mut self) {
        let all = async {
            while let Some(done) = self.posts.join_next().await {
                if let Ok((number, verdict)) = done {
                    self.settle(number, verdict);
                }
            }
        };
        let _ = tokio::time::timeout(FAREWELL, all).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tries_are_known_when_a_message_comes_back_and_bounded() {
        let mut tried = Tried::default();
        tried.note("a".into(), 6);
        assert_eq!((tried.take("a"), tried.take("a"), tried.take("b")), (6, 0, 0));
        (0..=TRIED_MAX).for_each(|n| tried.note(n.to_string(), 1));
        assert_eq!(tried.0.len(), 1);
    }
}

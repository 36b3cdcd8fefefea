//! Asking and waiting for the answer, by direct reply-to.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::oneshot;
use waypost_broker::broker::admin::Actor;
use waypost_broker::shard::Placed;
use waypost_model::props::ShortStr;
use waypost_model::{Refusal, Route};

use super::{Incoming, Local, Message, Posted, Publishers, Received, Subscriber, Terms};

/// The pseudo-queue of direct reply-to.
const PSEUDO_QUEUE: &str = waypost_broker::broker::replies::PSEUDO_QUEUE;

/// Bytes of answers on their way to us; what comes beyond is dropped. They are taken in at once.
const WINDOW_BYTES: u64 = 64 * 1024 * 1024;

/// Requests that wait for answers at a time, per vhost.
pub(crate) const WAITING_MAX: usize = 65_536;

/// Asks on behalf of all vhosts.
pub(crate) struct Requests {
    local: Local,
    publishers: Arc<Publishers>,
    hubs: Mutex<HashMap<Box<str>, Arc<Hub>>>,
}

/// Where the answers of a vhost come in.
#[derive(Debug)]
struct Hub {
    reply_to: ShortStr,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    askers: HashMap<ShortStr, Asker>,
    /// Of the next asker.
    number: u64,
    /// No answers come in any more.
    over: bool,
}

#[derive(Debug)]
struct Asker {
    /// Correlation ids may come again; this does not.
    number: u64,
    sender: oneshot::Sender<Received>,
}

/// A request that has been sent.
pub(crate) struct Asked {
    hub: Arc<Hub>,
    publishers: Arc<Publishers>,
    /// Where the request waits, or has waited.
    placed: Option<Placed>,
    correlation: ShortStr,
    number: u64,
    answer: oneshot::Receiver<Received>,
}

/// Why a request was not sent.
#[derive(Debug)]
pub(crate) enum AskError {
    /// The broker refused it.
    Refused(Refusal),
    /// Nobody is there for it.
    Unroutable,
    /// There is no room for it.
    Full,
    /// Its correlation id is that of another one that waits.
    Twice,
    /// Too many wait.
    TooMany,
}

impl From<Refusal> for AskError {
    fn from(refusal: Refusal) -> AskError {
        AskError::Refused(refusal)
    }
}

impl Requests {
    pub(crate) fn new(local: Local, publishers: Arc<Publishers>) -> Requests {
        Requests { local, publishers, hubs: Mutex::default() }
    }

    /// Sends a request. Its `reply-to` is set, and its correlation id where it has none. Must run inside the runtime.
    ///
    /// # Errors
    /// [`AskError`].
    pub(crate) fn ask(
        &self,
        vhost: &str,
        route: &Arc<Route>,
        mut message: Message,
        mandatory: bool,
    ) -> Result<Asked, AskError> {
        let hub = self.hub(vhost)?;
        let correlation = match message.props.correlation_id.take() {
            Some(given) => given,
            None => random_id()?,
        };
        message.props.correlation_id = Some(correlation.clone());
        message.props.reply_to = Some(hub.reply_to.clone());
        let (number, answer) = hub.expect(&correlation)?;
        // From here on the entry goes when this does.
        let publishers = Arc::clone(&self.publishers);
        let mut asked = Asked { hub, publishers, placed: None, correlation, number, answer };
        let (posted, placed) = self.publishers.publish_to_keep(vhost, route, &message, mandatory)?;
        match posted {
            Posted::Taken(_) => {
                asked.placed = placed;
                Ok(asked)
            }
            Posted::Unroutable => Err(AskError::Unroutable),
            Posted::Full => Err(AskError::Full),
        }
    }

    fn hub(&self, vhost: &str) -> Result<Arc<Hub>, Refusal> {
        let mut hubs = self.hubs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(hub) = hubs.get(vhost).filter(|hub| !hub.lock().over) {
            return Ok(Arc::clone(hub));
        }
        hubs.retain(|vhost, _| self.local.core.broker().vhost(vhost).is_ok());
        let terms = Terms {
            queue: PSEUDO_QUEUE.into(),
            tag: "requests".into(),
            no_ack: true,
            prefetch: 0,
            window_bytes: WINDOW_BYTES,
            arguments: waypost_model::table::Table::new(),
        };
        let subscriber = Subscriber::start(&self.local, Actor::Operator, vhost, &terms)?;
        let reply_to = subscriber.reply_to.as_deref().and_then(ShortStr::new);
        let reply_to = reply_to.ok_or_else(|| Refusal::internal("the broker gave no address for answers"))?;
        let hub = Arc::new(Hub { reply_to, waiting: Mutex::default() });
        hubs.insert(vhost.into(), Arc::clone(&hub));
        tokio::spawn(take_answers(subscriber, Arc::downgrade(&hub)));
        Ok(hub)
    }

    /// Ends all hubs: who still waits is told so.
    pub(crate) fn close(&self) {
        let hubs = std::mem::take(&mut *self.hubs.lock().unwrap_or_else(PoisonError::into_inner));
        hubs.values().for_each(|hub| hub.end());
    }
}

/// Hands answers to those who wait for them. Ends with the hub.
async fn take_answers(mut subscriber: Subscriber, hub: Weak<Hub>) {
    loop {
        // Looks up now and then, so that the task does not outlive its hub.
        let next = tokio::time::timeout(Duration::from_secs(1), subscriber.next()).await;
        let Some(hub) = hub.upgrade() else { return };
        match next {
            Err(_) => {}
            Ok(Incoming::Message(answer)) => hub.deliver(answer),
            Ok(Incoming::Over(refusal)) => {
                tracing::warn!(%refusal, "answers to requests come in no more");
                hub.end();
                return;
            }
        }
    }
}

impl Hub {
    fn lock(&self) -> std::sync::MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn expect(&self, correlation: &ShortStr) -> Result<(u64, oneshot::Receiver<Received>), AskError> {
        let mut waiting = self.lock();
        if waiting.askers.len() >= WAITING_MAX {
            return Err(AskError::TooMany);
        }
        if waiting.askers.contains_key(correlation) {
            return Err(AskError::Twice);
        }
        let (sender, receiver) = oneshot::channel();
        waiting.number += 1;
        let number = waiting.number;
        waiting.askers.insert(correlation.clone(), Asker { number, sender });
        Ok((number, receiver))
    }

    fn deliver(&self, answer: Received) {
        let correlation = answer.props().correlation_id().and_then(ShortStr::new);
        let asker = correlation.and_then(|c| self.lock().askers.remove(&c));
        match asker {
            // It may have gone in this moment.
            Some(asker) => drop(asker.sender.send(answer)),
            None => tracing::debug!("an answer that nobody waits for, or no more"),
        }
    }

    fn end(&self) {
        let mut waiting = self.lock();
        waiting.over = true;
        waiting.askers.clear();
    }
}

impl Asked {
    /// The answer; `None` if none came in time, or the server stops.
    ///
    /// # Cancel safety
    /// When dropped, the answer is not waited for any more, and the request is taken back if nobody was given it yet.
    pub(crate) async fn answer(mut self, timeout: Duration) -> Option<Received> {
        let answer = tokio::time::timeout(timeout, &mut self.answer).await;
        // A request whose time is over dies of that by itself, where it can be seen.
        self.placed = None;
        answer.ok()?.ok()
    }

    /// Its correlation id.
    pub(crate) fn correlation(&self) -> &ShortStr {
        &self.correlation
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        let mut waiting = self.hub.lock();
        if waiting.askers.get(&self.correlation).is_some_and(|asker| asker.number == self.number) {
            waiting.askers.remove(&self.correlation);
            drop(waiting);
            // Nobody waits for the answer: nobody is to work on it, unless somebody does already.
            if let Some(placed) = self.placed.take() {
                self.publishers.withdraw(&placed);
            }
        }
    }
}

/// An id that nobody can guess: whoever knows it can answer.
fn random_id() -> Result<ShortStr, Refusal> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|e| Refusal::internal(format!("the system gives no random bytes: {e}")))?;
    let text = format!("{:032x}", u128::from_be_bytes(bytes));
    ShortStr::new(text).ok_or_else(|| Refusal::internal("an id is too long"))
}

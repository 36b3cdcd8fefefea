//! Where a message goes: exchanges, those bound to them, alternate exchanges, and the queues at the end.
//!
//! Each exchange is asked once per message, so that circles of bindings end. The result has each queue once, in order of
//! its id, however many ways lead to it.

use std::collections::BTreeSet;
use std::sync::Arc;

use waypost_model::event::Hop;
use waypost_model::props::{Props, PropsOwned};
use waypost_model::table::{Table, Value};
use waypost_model::{QueueId, Refusal, Route};

use super::binding::{BindingView, Bound, no_such, object, type_name};
use super::exchange::Exchange;
use super::kinds::{ExchangeId, ExchangeKind, Facts, Index, Sink, Target, delayed};
use super::permission::{Access, Resource};
use super::vhost::Vhost;
use super::{Topology, no_vhost};
use crate::settings::QueueSettings;

/// Headers whose entries are further routing keys; the second is removed from the message.
const CC: &str = "CC";
const BCC: &str = "BCC";

/// Where messages with some exchange and routing key go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Routed {
    /// To these, in order of id; to nobody if it is empty.
    Queues(Vec<QueueId>),
    /// An exchange on the way looks at more than the routing key: ask [`Topology::route_message`] for each.
    PerMessage,
    /// To the service that the routing key names.
    Service,
}

/// Where one message goes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MessageRoute {
    /// To these queues, in order of id.
    pub queues: Vec<QueueId>,
    /// And into these, to wait: one per delayed exchange on its way.
    pub delayed: Vec<Delayed>,
    /// And to the services that these keys name: an exchange of services was met.
    pub services: Vec<Box<[u8]>>,
    /// Its properties without header `BCC`, if it had one: what consumers may see.
    pub strip_bcc: Option<Vec<u8>>,
}

/// A place to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delayed {
    /// The hidden queue of the delayed exchange.
    pub queue: QueueId,
    /// How long, ms.
    pub delay_ms: u32,
}

/// Why a message would go where it would.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Explanation {
    /// Each choice of each exchange, in the order in which they are made.
    pub hops: Vec<Hop>,
    /// The queues at the end.
    pub queues: Vec<QueueId>,
    /// And the services, each as the routing key that an exchange of services was given.
    pub services: Vec<Box<[u8]>>,
    /// Where it would wait first.
    pub delayed: Vec<Delayed>,
    /// Bindings on the way that do not match.
    pub unmatched: Vec<Unmatched>,
}

/// A binding that does not match.
#[derive(Debug, Clone, PartialEq)]
pub struct Unmatched {
    /// The binding.
    pub binding: BindingView,
    /// Why not.
    pub reason: &'static str,
}

/// Told of every choice: the exchange, and what it chose beside its bindings' targets, if that is an alternate exchange.
type Visit<'v> = &'v mut dyn FnMut(&Exchange, &[Target]);

/// Whether header `x-delay` counts.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Delays {
    Count,
    /// The message has waited already.
    Over,
}

/// One message's way through a vhost.
struct Walk<'t> {
    vhost: &'t Vhost,
    delays: Delays,
    /// Exchanges that were found; each is asked once.
    seen: BTreeSet<ExchangeId>,
    todo: Vec<ExchangeId>,
    out: MessageRoute,
}

impl<'t> Walk<'t> {
    fn new(vhost: &'t Vhost, delays: Delays) -> Walk<'t> {
        Walk { vhost, delays, seen: BTreeSet::new(), todo: Vec::new(), out: MessageRoute::default() }
    }

    /// Follows the message from an exchange to all queues.
    fn run(&mut self, start: &'t Exchange, facts: &Facts<'_>, visit: Option<Visit<'_>>) {
        let mut nobody = |_: &Exchange, _: &[Target]| {};
        let visit = visit.unwrap_or(&mut nobody);
        let mut sink = Sink::default();
        self.ask(start, facts, &mut sink, visit);
        while let Some(id) = self.todo.pop() {
            if let Some(x) = self.vhost.exchange_by_id(id) {
                self.ask(x, facts, &mut sink, visit);
            }
        }
        self.out.queues.append(&mut sink.queues);
        sort_unique(&mut self.out.queues);
    }

    fn ask(&mut self, x: &'t Exchange, facts: &Facts<'_>, sink: &mut Sink, visit: Visit<'_>) {
        if let Some(queue) = x.delay_queue.filter(|_| self.delays == Delays::Count)
            && let Some(delay_ms) = delayed::delay_ms(facts.headers)
        {
            self.out.delayed.push(Delayed { queue, delay_ms });
            visit(x, &[Target::Queue(queue)]);
            return;
        }
        let before = sink.queues.len();
        if x.kind == ExchangeKind::Service {
            self.out.services.extend(facts.keys.iter().map(|k| Box::from(*k)));
        } else if x.is_default() {
            for key in facts.keys {
                let named = std::str::from_utf8(key).ok().and_then(|name| self.vhost.queues.get(name));
                sink.queues.extend(named.map(|q| q.settings.id));
            }
        } else {
            x.index.route(facts, sink);
        }
        // An exchange that chose only exchanges has chosen, even if they come to nothing.
        if sink.queues.len() == before
            && sink.exchanges.is_empty()
            && x.kind != ExchangeKind::Service
            && let Some(alternate) = x.alternate.as_ref().and_then(|name| self.vhost.exchange(name))
        {
            sink.exchanges.push(alternate.id);
        }
        let chosen: Vec<Target> = sink.queues[before..]
            .iter()
            .map(|q| Target::Queue(*q))
            .chain(sink.exchanges.iter().map(|x| Target::Exchange(*x)))
            .collect();
        visit(x, &chosen);
        self.seen.insert(x.id);
        for id in sink.exchanges.drain(..) {
            if self.seen.insert(id) {
                self.todo.push(id);
            }
        }
    }
}

fn sort_unique(queues: &mut Vec<QueueId>) {
    if queues.len() > 1 {
        queues.sort_unstable();
        queues.dedup();
    }
}

impl Topology {
    /// Where messages that a user publishes go. Clients may not publish to internal exchanges: those take messages from
    /// exchanges only.
    ///
    /// # Errors
    /// 403, 404.
    pub fn route_publish(&self, user: &str, vhost: &str, route: &Route) -> Result<Routed, Refusal> {
        let exchange = self.exchange_meant(vhost, &route.exchange);
        self.check(user, vhost, Access::Write, Resource::Exchange, exchange)?;
        let (v, x) = self.exchange_for_routing(vhost, exchange)?;
        if x.internal {
            let what = object("exchange", exchange, vhost);
            return Err(Refusal::access_refused(format!("cannot publish to internal {what}")));
        }
        self.check_topic(user, vhost, Access::Write, exchange, &route.routing_key)?;
        Ok(route_by_key(v, x, &route.routing_key))
    }

    /// Where messages with this exchange and routing key go. Internal exchanges are routed through: whether a client may
    /// publish is for [`Topology::route_publish`] to say.
    ///
    /// # Errors
    /// 404.
    pub fn route(&self, vhost: &str, exchange: &str, key: &[u8]) -> Result<Routed, Refusal> {
        let (v, start) = self.exchange_for_routing(vhost, exchange)?;
        Ok(route_by_key(v, start, key))
    }

    /// Where one message goes. `selected`: its headers may have `CC` or `BCC`.
    ///
    /// # Errors
    /// 404; 406 if `CC` or `BCC` is no array, or the headers are no table.
    pub fn route_message(
        &self,
        vhost: &str,
        route: &Route,
        props: &[u8],
        selected: bool,
    ) -> Result<MessageRoute, Refusal> {
        let (v, start) = self.exchange_for_routing(vhost, &route.exchange)?;
        walk_message(v, start, route, props, selected, Delays::Count)
    }

    /// Where a message goes that has waited in the hidden queue `from` of a delayed exchange, by what is bound to that
    /// exchange. It waits no second time, whatever it meets.
    ///
    /// # Errors
    /// 404: the exchange is gone. 406 as [`Topology::route_message`].
    pub fn route_due(
        &self,
        from: &QueueSettings,
        route: &Route,
        props: &[u8],
        selected: bool,
    ) -> Result<MessageRoute, Refusal> {
        let v = self.vhost(&from.vhost)?;
        let start = from.delay_of.and_then(|id| v.exchange_by_id(id));
        let start = start.ok_or_else(|| Refusal::not_found("the delayed exchange is gone"))?;
        walk_message(v, start, route, props, selected, Delays::Over)
    }

    /// Where a message would go and why; nothing happens. `props` may be empty for none.
    ///
    /// # Errors
    /// As [`Topology::route_message`].
    pub fn route_explain(&self, vhost: &str, route: &Route, props: &[u8]) -> Result<Explanation, Refusal> {
        let (v, start) = self.exchange_for_routing(vhost, &route.exchange)?;
        let message = Message::read(route, props, true)?;
        let (keys, mut explained) = (message.keys(), Explanation::default());
        let facts = message.facts(&keys);
        let mut walk = Walk::new(v, Delays::Count);
        let mut asked = Vec::new();
        walk.run(
            start,
            &facts,
            Some(&mut |x: &Exchange, chosen: &[Target]| {
                asked.push(x.id);
                explained.hops.extend(chosen.iter().filter_map(|t| self.hop(v, x, *t)));
            }),
        );
        for x in asked.iter().filter_map(|id| v.exchange_by_id(*id)) {
            let mut sink = Sink::default();
            x.index.route(&facts, &mut sink);
            let missed = x.outgoing.iter().filter(|b| !matches_alone(x, b, &facts, &sink));
            explained
                .unmatched
                .extend(missed.map(|b| Unmatched { binding: BindingView::of(b), reason: reason(x.kind) }));
        }
        explained.queues = walk.out.queues;
        explained.services = walk.out.services;
        explained.delayed = walk.out.delayed;
        Ok(explained)
    }

    fn hop(&self, v: &Vhost, x: &Exchange, chosen: Target) -> Option<Hop> {
        use waypost_model::command::Destination;
        let destination = match chosen {
            Target::Queue(id) => Destination::Queue((*self.queue_name(id)?).into()),
            Target::Exchange(id) => Destination::Exchange((*v.exchange_by_id(id)?.name).into()),
        };
        Some(Hop { exchange: (*x.name).into(), destination })
    }

    fn exchange_for_routing(&self, vhost: &str, exchange: &str) -> Result<(&Vhost, &Exchange), Refusal> {
        let v = self.vhosts.get(vhost).ok_or_else(|| no_vhost(vhost))?;
        let x = v.exchange_or_alias(exchange).ok_or_else(|| no_such("exchange", exchange, vhost))?;
        Ok((v, x))
    }
}

fn route_by_key(v: &Vhost, start: &Exchange, key: &[u8]) -> Routed {
    if start.kind == ExchangeKind::Service {
        return Routed::Service;
    }
    if start.is_default() {
        let named = std::str::from_utf8(key).ok().and_then(|name| v.queues.get(name));
        return Routed::Queues(named.map(|q| q.settings.id).into_iter().collect());
    }
    let facts = Facts { keys: &[key], headers: None, props: Props(waypost_model::props::PROPS_EMPTY) };
    // The usual case, an exchange that chooses queues only, needs no memory of where it has been.
    if start.index.looks_at_message() || start.delay_queue.is_some() {
        return Routed::PerMessage;
    }
    let mut sink = Sink::default();
    start.index.route(&facts, &mut sink);
    if sink.exchanges.is_empty() && (!sink.queues.is_empty() || start.alternate.is_none()) {
        sort_unique(&mut sink.queues);
        return Routed::Queues(sink.queues);
    }
    let mut per_message = false;
    let mut walk = Walk::new(v, Delays::Over);
    walk.run(
        start,
        &facts,
        Some(&mut |x: &Exchange, _: &[Target]| {
            per_message |= x.index.looks_at_message() || x.delay_queue.is_some();
        }),
    );
    if per_message { Routed::PerMessage } else { Routed::Queues(walk.out.queues) }
}

/// Whether a binding matches, taken for itself; where destinations compete, whether it won.
fn matches_alone(x: &Exchange, b: &Arc<Bound>, facts: &Facts<'_>, all: &Sink) -> bool {
    if x.kind == ExchangeKind::ConsistentHash {
        return match b.target {
            Target::Queue(q) => all.queues.contains(&q),
            Target::Exchange(x) => all.exchanges.contains(&x),
        };
    }
    let mut alone = Index::new(x.kind, &x.arguments, waypost_model::Seeded(0));
    alone.add(b);
    let mut sink = Sink::default();
    alone.route(facts, &mut sink);
    sink.len() > 0
}

const fn reason(kind: ExchangeKind) -> &'static str {
    match kind {
        ExchangeKind::Direct => "the routing key is not equal to the binding key",
        ExchangeKind::Fanout => "a fanout binding matches always",
        ExchangeKind::Topic => "the routing key does not fit the pattern",
        ExchangeKind::Headers => "the headers do not have what the binding asks for",
        ExchangeKind::ConsistentHash => "the hash chose another destination",
        ExchangeKind::Service => "nothing is bound to services",
    }
}

fn walk_message(
    v: &Vhost,
    start: &Exchange,
    route: &Route,
    props: &[u8],
    selected: bool,
    delays: Delays,
) -> Result<MessageRoute, Refusal> {
    let message = Message::read(route, props, selected)?;
    let keys = message.keys();
    let mut walk = Walk::new(v, delays);
    walk.run(start, &message.facts(&keys), None);
    let mut out = walk.out;
    // What waits keeps its BCC: it is needed again when it is due.
    if message.has_bcc() && !(out.queues.is_empty() && out.services.is_empty()) {
        out.strip_bcc = Some(without_bcc(props)?);
    }
    Ok(out)
}

/// A message as routing sees it.
struct Message<'a> {
    key: &'a [u8],
    props: Props<'a>,
    headers: Option<Table>,
    selected: bool,
}

impl<'a> Message<'a> {
    fn read(route: &'a Route, props: &'a [u8], selected: bool) -> Result<Message<'a>, Refusal> {
        let props = Props(props);
        let headers = props.headers().map_err(|e| Refusal::precondition_failed(format!("headers: {e}")))?;
        if selected {
            for name in [CC, BCC] {
                match headers.as_ref().and_then(|h| h.get(name)) {
                    None | Some(Value::Array(_)) => {}
                    Some(other) => {
                        let text =
                            format!("invalid message: {{unacceptable_type_in_header,\"{name}\",{}}}", type_name(other));
                        return Err(Refusal::precondition_failed(text));
                    }
                }
            }
        }
        Ok(Message { key: &route.routing_key, props, headers, selected })
    }

    /// The routing key, and those of `CC` and `BCC` that are texts.
    fn keys(&self) -> Vec<&[u8]> {
        let mut keys: Vec<&[u8]> = vec![self.key];
        if !self.selected {
            return keys;
        }
        for name in [CC, BCC] {
            let listed = self.headers.as_ref().and_then(|h| h.get(name)).and_then(Value::as_array);
            keys.extend(listed.unwrap_or_default().iter().filter_map(|v| match v {
                Value::LongStr(key) => Some(&key[..]),
                _ => None,
            }));
        }
        keys
    }

    fn facts<'k>(&'k self, keys: &'k [&'k [u8]]) -> Facts<'k> {
        Facts { keys, headers: self.headers.as_ref(), props: self.props }
    }

    fn has_bcc(&self) -> bool {
        self.selected && self.headers.as_ref().is_some_and(|h| h.get(BCC).is_some())
    }
}

fn without_bcc(props: &[u8]) -> Result<Vec<u8>, Refusal> {
    let mut owned = PropsOwned::decode(props).map_err(|e| Refusal::precondition_failed(format!("properties: {e}")))?;
    if let Some(headers) = &mut owned.headers {
        headers.remove(BCC);
    }
    Ok(owned.to_bytes())
}

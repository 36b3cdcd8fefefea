//! Exchanges and bindings.

use waypost_model::command::{Binding, Destination, ExchangeDeclare};
use waypost_model::{Lsn, Millis, Refusal, Route};

use super::{Actor, InVhost, NOBODY, no_such};
use crate::broker::Broker;
use crate::topology::{BindingView, ExchangeView, Explanation};

impl Broker {
    /// The exchanges of a vhost, or of all.
    ///
    /// # Errors
    /// 404 (no such vhost).
    pub fn exchanges(&self, vhost: Option<&str>) -> Result<Vec<InVhost<ExchangeView>>, Refusal> {
        self.in_vhosts(vhost, |t, v| t.exchanges(v))
    }

    /// One exchange.
    ///
    /// # Errors
    /// 404.
    pub fn exchange(&self, vhost: &str, name: &str) -> Result<ExchangeView, Refusal> {
        self.topology_read().exchange_view(vhost, name).ok_or_else(|| no_such("exchange", name, vhost))
    }

    /// Where a message would go and why; nothing happens. `props` may be empty for none.
    ///
    /// # Errors
    /// 404, 406.
    pub fn route_explain(&self, vhost: &str, route: &Route, props: &[u8]) -> Result<Explanation, Refusal> {
        self.topology_read().route_explain(vhost, route, props)
    }

    /// Declares an exchange, as clients do.
    ///
    /// # Errors
    /// As for clients: 403, 406, 530 (no such vhost) and others.
    pub fn put_exchange(
        &self,
        actor: Actor<'_>,
        vhost: &str,
        declare: &ExchangeDeclare,
        now: Millis,
    ) -> Result<Option<Lsn>, Refusal> {
        self.set(now, |t| t.declare_exchange(actor.name(), vhost, declare))
    }

    /// Deletes an exchange.
    ///
    /// # Errors
    /// 404, 403, or 406 with `if_unused` while something is bound to it.
    pub fn delete_exchange(
        &self,
        actor: Actor<'_>,
        vhost: &str,
        name: &str,
        if_unused: bool,
        now: Millis,
    ) -> Result<Option<Lsn>, Refusal> {
        self.set(now, |t| {
            if t.exchange_view(vhost, name).is_none() {
                return Err(no_such("exchange", name, vhost));
            }
            t.delete_exchange(actor.name(), vhost, name, if_unused)
        })
    }

    /// The bindings of a vhost, or of all; those of the default exchange included.
    ///
    /// # Errors
    /// 404 (no such vhost).
    pub fn bindings(&self, vhost: Option<&str>) -> Result<Vec<InVhost<BindingView>>, Refusal> {
        self.in_vhosts(vhost, |t, v| t.bindings(v))
    }

    /// The bindings that lead out of an exchange.
    ///
    /// # Errors
    /// 404.
    pub fn bindings_from(&self, vhost: &str, exchange: &str) -> Result<Vec<BindingView>, Refusal> {
        let t = self.topology_read();
        if t.exchange_view(vhost, exchange).is_none() {
            return Err(no_such("exchange", exchange, vhost));
        }
        Ok(t.bindings(vhost).into_iter().filter(|b| &*b.source == exchange).collect())
    }

    /// The bindings that lead to a queue or an exchange.
    ///
    /// # Errors
    /// 404.
    pub fn bindings_to(&self, vhost: &str, to: &Destination) -> Result<Vec<BindingView>, Refusal> {
        let t = self.topology_read();
        match to {
            Destination::Queue(q) if !t.has_queue(vhost, q) => return Err(no_such("queue", q, vhost)),
            Destination::Exchange(x) if t.exchange_view(vhost, x).is_none() => {
                return Err(no_such("exchange", x, vhost));
            }
            _ => {}
        }
        Ok(t.bindings(vhost).into_iter().filter(|b| b.destination == *to).collect())
    }

    /// Binds; that it is bound already is fine.
    ///
    /// # Errors
    /// As for clients: 403, 404, 406, 530 (no such vhost).
    pub fn put_binding(
        &self,
        actor: Actor<'_>,
        vhost: &str,
        binding: &Binding,
        now: Millis,
    ) -> Result<Option<Lsn>, Refusal> {
        self.set(now, |t| t.bind(actor.name(), vhost, binding, NOBODY))
    }

    /// Unbinds.
    ///
    /// # Errors
    /// 404 if there is no such binding; else as for clients.
    pub fn delete_binding(
        &self,
        actor: Actor<'_>,
        vhost: &str,
        binding: &Binding,
        now: Millis,
    ) -> Result<Option<Lsn>, Refusal> {
        self.set(now, |t| {
            let there = t.bindings(vhost).into_iter().any(|b| {
                *b.source == *binding.source
                    && b.destination == binding.destination
                    && *b.routing_key == *binding.routing_key
                    && b.arguments.equivalent(&binding.arguments)
            });
            if !there {
                return Err(Refusal::not_found(format!(
                    "no such binding of exchange '{}' in vhost '{vhost}'",
                    binding.source
                )));
            }
            t.unbind(actor.name(), vhost, binding, NOBODY)
        })
    }
}

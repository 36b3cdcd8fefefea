//! Exchanges, queues and bindings (§1.6, §1.7): methods to calls. The rules about them are the core's.

use waypost_model::Call;
use waypost_model::command::{Binding, Destination, ExchangeDeclare, QueueDeclare};

use super::calls::Kind;
use super::channels::{Channel, LastQueue};
use super::fault::{Result, internal};
use super::{AmqpSession, Cx, Step};
use crate::codec::MethodArgs;
use crate::codec::method::{exchange, queue};

impl AmqpSession {
    pub(super) fn exchange_declare(&mut self, number: u16, declare: exchange::Declare<'_>, cx: &mut Cx<'_>) {
        let call = Call::ExchangeDeclare(ExchangeDeclare {
            name: declare.exchange.into(),
            kind: declare.r#type.into(),
            passive: declare.passive,
            durable: declare.durable,
            auto_delete: declare.auto_delete,
            internal: declare.internal,
            arguments: declare.arguments,
        });
        let id = exchange::Declare::ID;
        self.call(number, id, Kind::ExchangeDeclare, declare.no_wait, call, cx);
    }

    pub(super) fn exchange_delete(&mut self, number: u16, delete: &exchange::Delete<'_>, cx: &mut Cx<'_>) {
        let (name, if_unused) = (delete.exchange.into(), delete.if_unused);
        let call = Call::ExchangeDelete { name, if_unused };
        self.call(number, exchange::Delete::ID, Kind::ExchangeDelete, delete.no_wait, call, cx);
    }

    pub(super) fn exchange_bind(&mut self, number: u16, bind: exchange::Bind<'_>, cx: &mut Cx<'_>) {
        let call = Call::Bind(Binding {
            source: bind.source.into(),
            destination: Destination::Exchange(bind.destination.into()),
            routing_key: bind.routing_key.0.into(),
            arguments: bind.arguments,
        });
        self.call(number, exchange::Bind::ID, Kind::ExchangeBind, bind.no_wait, call, cx);
    }

    pub(super) fn exchange_unbind(&mut self, number: u16, unbind: exchange::Unbind<'_>, cx: &mut Cx<'_>) {
        let call = Call::Unbind(Binding {
            source: unbind.source.into(),
            destination: Destination::Exchange(unbind.destination.into()),
            routing_key: unbind.routing_key.0.into(),
            arguments: unbind.arguments,
        });
        self.call(number, exchange::Unbind::ID, Kind::ExchangeUnbind, unbind.no_wait, call, cx);
    }

    pub(super) fn queue_declare(&mut self, number: u16, declare: queue::Declare<'_>, cx: &mut Cx<'_>) -> Result<Step> {
        let channel = self.channel(number)?;
        let mut name: Box<str> = declare.queue.into();
        if declare.passive {
            // There is no asking for a name that is still to be chosen.
            match channel.queue_name(declare.queue)? {
                Some(resolved) => name = resolved.into(),
                None => return Ok(Step::Stall),
            }
        }
        channel.last_queue = match name.is_empty() {
            true => LastQueue::Awaited,
            false => LastQueue::Name(name.clone()),
        };
        let call = Call::QueueDeclare(QueueDeclare {
            name,
            passive: declare.passive,
            durable: declare.durable,
            exclusive: declare.exclusive,
            auto_delete: declare.auto_delete,
            arguments: declare.arguments,
        });
        self.call(number, queue::Declare::ID, Kind::QueueDeclare, declare.no_wait, call, cx);
        Ok(Step::Done)
    }

    pub(super) fn queue_bind(&mut self, number: u16, bind: queue::Bind<'_>, cx: &mut Cx<'_>) -> Result<Step> {
        let channel = self.channel(number)?;
        let Some((queue, key)) = queue_and_key(channel, bind.queue, bind.routing_key.0)? else {
            return Ok(Step::Stall);
        };
        let call = Call::Bind(Binding {
            source: bind.exchange.into(),
            destination: Destination::Queue(queue),
            routing_key: key,
            arguments: bind.arguments,
        });
        self.call(number, queue::Bind::ID, Kind::QueueBind, bind.no_wait, call, cx);
        Ok(Step::Done)
    }

    pub(super) fn queue_unbind(&mut self, number: u16, unbind: queue::Unbind<'_>, cx: &mut Cx<'_>) -> Result<Step> {
        let channel = self.channel(number)?;
        let Some((queue, key)) = queue_and_key(channel, unbind.queue, unbind.routing_key.0)? else {
            return Ok(Step::Stall);
        };
        let call = Call::Unbind(Binding {
            source: unbind.exchange.into(),
            destination: Destination::Queue(queue),
            routing_key: key,
            arguments: unbind.arguments,
        });
        self.call(number, queue::Unbind::ID, Kind::QueueUnbind, false, call, cx);
        Ok(Step::Done)
    }

    pub(super) fn queue_purge(&mut self, number: u16, purge: &queue::Purge<'_>, cx: &mut Cx<'_>) -> Result<Step> {
        let Some(queue) = self.channel(number)?.queue_name(purge.queue)?.map(Into::into) else {
            return Ok(Step::Stall);
        };
        let call = Call::QueuePurge { queue };
        self.call(number, queue::Purge::ID, Kind::QueuePurge, purge.no_wait, call, cx);
        Ok(Step::Done)
    }

    pub(super) fn queue_delete(&mut self, number: u16, delete: &queue::Delete<'_>, cx: &mut Cx<'_>) -> Result<Step> {
        let Some(queue) = self.channel(number)?.queue_name(delete.queue)?.map(Into::into) else {
            return Ok(Step::Stall);
        };
        let (if_unused, if_empty) = (delete.if_unused, delete.if_empty);
        let call = Call::QueueDelete { queue, if_unused, if_empty };
        self.call(number, queue::Delete::ID, Kind::QueueDelete, delete.no_wait, call, cx);
        Ok(Step::Done)
    }

    pub(super) fn channel(&mut self, number: u16) -> Result<&mut Channel> {
        self.channels.get_mut(number).ok_or_else(|| internal("method without a channel"))
    }
}

/// §1.7.2.3: with both empty, the binding key is the name of the queue declared last as well.
fn queue_and_key(channel: &Channel, queue: &str, routing_key: &[u8]) -> Result<Option<(Box<str>, Box<[u8]>)>> {
    let Some(name) = channel.queue_name(queue)? else {
        return Ok(None);
    };
    let key = if queue.is_empty() && routing_key.is_empty() { name.as_bytes() } else { routing_key };
    Ok(Some((name.into(), key.into())))
}

//! Connections and consumers as instances.

use std::collections::BTreeMap;
use std::sync::Arc;

use waypost_model::command::Consume;
use waypost_model::service::{Claim, ClaimId, Ending, Instance, InstanceChange, Parting, ServiceName};
use waypost_model::table::{Table, Value};
use waypost_model::{ConsumerId, Refusal};

use super::identity::Identity;
use crate::broker::peer::Connection;
use crate::broker::publish::identity;
use crate::broker::{Broker, Work};
use crate::settings::QueueSettings;
use crate::shard::Claimant;
use crate::topology::{Access, Resource};

/// What a connection is.
#[derive(Debug, Default)]
pub(in crate::broker) struct Claims {
    /// What it says of itself for all of its consumers.
    said: Option<Identity>,
    /// It is an instance without consuming.
    own: Option<Held>,
    /// Its consumers that are instances.
    consumers: BTreeMap<ConsumerId, Held>,
    /// Its zone, once it is an instance somewhere: what it sends prefers that.
    pub zone: Option<Arc<str>>,
    /// It has said goodbye.
    pub left: bool,
    /// It is gone without.
    pub lost: bool,
}

impl Claims {
    /// A consumer that is an instance has started.
    pub fn hold(&mut self, consumer: ConsumerId, held: Held) {
        self.consumers.insert(consumer, held);
    }

    fn ending(&self) -> Ending {
        if self.lost { Ending::Broken } else { Ending::Left }
    }
}

/// A claim that is held.
#[derive(Debug, Clone)]
pub(in crate::broker) struct Held {
    claim: ClaimId,
    pub name: ServiceName,
}

impl Broker {
    /// What a connection says of itself when it enters a vhost; with a name it is an instance from now on.
    pub(in crate::broker) fn introduce(
        &self,
        conn: &mut Connection,
        properties: &Table,
        w: &mut Work<'_>,
    ) -> Result<(), Refusal> {
        let Some(said) = properties.get("service") else {
            return Ok(());
        };
        // Libraries may have a property of that name for themselves; only what can be meant for us is read.
        if !matches!(said, Value::Table(_) | Value::LongStr(_)) {
            return Ok(());
        }
        let said = Identity::read(said)?;
        if let Some(service) = &said.name {
            let (_, vhost) = identity(conn)?;
            let name = ServiceName { vhost: vhost.into(), service: (**service).into() };
            let (held, claimed) = self.claim(conn, &name, &said, w)?;
            conn.claims.own = Some(held);
            let change = InstanceChange::Is {
                instance: claimed.instance,
                standing: claimed.standing,
                incarnation: claimed.incarnation,
            };
            self.instance_changed(&name, &change, w.now);
        }
        conn.claims.said = Some(said);
        Ok(())
    }

    /// Who a new consumer is, if it says so; claimed with the registry.
    ///
    /// # Errors
    /// 406 (invalid, or the queue is no mailbox), 405 (another connection is that instance), 403.
    pub(in crate::broker) fn claim_for(
        &self,
        conn: &mut Connection,
        c: &Consume,
        settings: &QueueSettings,
        w: &mut Work<'_>,
    ) -> Result<Option<(Held, Claimant)>, Refusal> {
        let argument = c.arguments.get("x-service");
        let Some(service) = &settings.service else {
            return match argument {
                Some(_) => Err(Refusal::precondition_failed(format!(
                    "invalid arg 'x-service': queue '{}' in vhost '{}' is no mailbox of a service",
                    settings.name, settings.vhost
                ))),
                None => Ok(None),
            };
        };
        let mut said = conn.claims.said.clone();
        if let Some(argument) = argument {
            let own = Identity::read(argument)?;
            if let Some(other) = own.name.as_deref().filter(|n| **n != **service) {
                return Err(Refusal::precondition_failed(format!(
                    "invalid 'name' in 'x-service': queue '{}' is the mailbox of '{service}', not of '{other}'",
                    settings.name
                )));
            }
            said = Some(over(said, own));
        }
        let Some(said) = said else {
            return Ok(None);
        };
        let name = ServiceName { vhost: Arc::clone(&settings.vhost), service: Arc::clone(service) };
        self.claim(conn, &name, &said, w).map(Some)
    }

    fn claim(
        &self,
        conn: &mut Connection,
        name: &ServiceName,
        said: &Identity,
        w: &Work<'_>,
    ) -> Result<(Held, Claimant), Refusal> {
        let (user, vhost) = identity(conn)?;
        let mut instance = said.instance.clone().unwrap_or_else(|| Instance::new(""));
        match &said.id {
            Some(id) => {
                self.topology_read().check(user, vhost, Access::Configure, Resource::Instance, id)?;
                instance.id = id.clone();
            }
            None => instance.id = self.made_up_id(conn).into(),
        }
        let claim =
            Claim { name, conn: conn.id(), user, instance, described: said.described, named: said.id.is_some() };
        let claimed = self.registrar.claim(claim, w.now)?;
        let zone = Some(&*claimed.instance.zone).filter(|z| !z.is_empty());
        if zone != conn.claims.zone.as_deref() && zone.is_some() {
            conn.claims.zone = zone.map(Arc::from);
            // What is known of routes prefers no zone, or another one.
            conn.forget_routes();
        }
        let held = Held { claim: claimed.claim, name: name.clone() };
        let claimant =
            Claimant { instance: claimed.instance, standing: claimed.standing, incarnation: claimed.incarnation };
        Ok((held, claimant))
    }

    /// The same for all consumers of a connection, and nobody else's.
    fn made_up_id(&self, conn: &Connection) -> String {
        let secret = self.topology_read().unguessable(conn.id().0 | 1 << 63);
        format!("c{}-{}", conn.id().0, secret.get(..8).unwrap_or_default())
    }

    /// A claim is over.
    pub(in crate::broker) fn leave(&self, held: &Held, ending: Ending, w: &Work<'_>) {
        if let Some((id, incarnation)) = self.registrar.leave(held.claim, ending, w.now) {
            self.instance_changed(&held.name, &InstanceChange::Gone { id, incarnation, why: Parting::Ended }, w.now);
        }
    }

    /// A consumer has ended; its instance goes with its last one.
    pub(in crate::broker) fn leave_consumer(&self, conn: &mut Connection, consumer: ConsumerId, w: &Work<'_>) {
        let ending = conn.claims.ending();
        if let Some(held) = conn.claims.consumers.remove(&consumer) {
            self.leave(&held, ending, w);
        }
    }

    /// A connection is gone, its consumers before it.
    pub(in crate::broker) fn leave_connection(&self, conn: &mut Connection, w: &Work<'_>) {
        let ending = conn.claims.ending();
        let rest = std::mem::take(&mut conn.claims.consumers);
        for held in rest.values().chain(conn.claims.own.take().as_ref()) {
            self.leave(held, ending, w);
        }
    }
}

/// What a consumer says beside, or in place of, what its connection says.
fn over(base: Option<Identity>, own: Identity) -> Identity {
    match base {
        Some(base) if !own.described => {
            let id = own.id.or(base.id);
            Identity { id, ..base }
        }
        Some(base) => Identity { id: own.id.clone().or(base.id), ..own },
        None => own,
    }
}

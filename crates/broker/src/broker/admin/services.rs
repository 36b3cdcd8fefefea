//! Services: their mailboxes, their instances as the broker sees them, and why a message would go where it would.

use std::sync::Arc;

use waypost_model::service::ServiceName;
use waypost_model::{Millis, Refusal, Route};

use super::{Actor, QueueReport};
use crate::broker::Broker;
use crate::broker::services::explain_route;
use crate::settings::QueueSettings;
use crate::shard::{Candidate, Chosen, Claimant, MailboxExplanation, MailboxInfo};
use crate::topology::{Access, Resource};

/// A service, as the broker knows it.
#[derive(Debug, Clone)]
pub struct ServiceReport {
    /// Its vhost and name.
    pub name: ServiceName,
    /// Its mailbox, if it has one.
    pub mailbox: Option<Arc<QueueSettings>>,
    /// Its instances, by id.
    pub instances: Vec<Claimant>,
    /// How the mailbox stands: instances that consume, lanes. Empty while nobody consumes as an instance and no message
    /// is for some of them.
    pub state: MailboxInfo,
    /// Messages that wait in the mailbox.
    pub waiting: u64,
}

/// Why a message would go where it would.
#[derive(Debug, Clone)]
pub struct ServiceExplanation {
    /// The service that the routing key names.
    pub service: Arc<str>,
    /// The rule: how many instances get it, and which.
    pub rule: String,
    /// The mailbox; `None` if it would have to be made.
    pub mailbox: Option<Arc<QueueSettings>>,
    /// Everybody who was thought of, by id, with what it costs or the condition that failed.
    pub candidates: Vec<Candidate>,
    /// Who would get it now; several if it is for all. Nobody: it waits.
    pub chosen: Vec<Chosen>,
    /// Messages that wait in the same place, before it.
    pub behind: u64,
}

impl Broker {
    /// The services of a vhost that have a mailbox or an instance, in order of name.
    ///
    /// # Errors
    /// 404 (no such vhost).
    pub fn services(&self, vhost: &str) -> Result<Vec<ServiceReport>, Refusal> {
        let vhost: Arc<str> = self.vhost_names(Some(vhost))?.pop().unwrap_or_else(|| vhost.into());
        let mailboxes = self.topology_read().mailboxes(&vhost);
        let with_mailbox = mailboxes.iter().filter_map(|s| s.service.clone());
        let mut names: Vec<Arc<str>> = with_mailbox.chain(self.directory().services(&vhost)).collect();
        names.sort_unstable();
        names.dedup();
        let name = |service| ServiceName { vhost: Arc::clone(&vhost), service };
        Ok(names.into_iter().map(|service| self.service_report(name(service))).collect())
    }

    /// One service.
    ///
    /// # Errors
    /// 404.
    pub fn service(&self, name: &ServiceName) -> Result<ServiceReport, Refusal> {
        let report = self.service_report(name.clone());
        if report.mailbox.is_none() && report.instances.is_empty() {
            return Err(super::no_such("service", &name.service, &name.vhost));
        }
        Ok(report)
    }

    /// The services of a vhost that have a mailbox, each with how many messages wait there, in order of name.
    #[must_use]
    pub fn waiting(&self, vhost: &str) -> Vec<(Arc<str>, u64)> {
        let mailboxes = self.topology_read().mailboxes(vhost);
        let of = |s: &Arc<QueueSettings>| {
            let waiting = self.lock(s.id.shard()).counts(s.id).map_or(0, |c| c.ready);
            Some((s.service.clone()?, waiting))
        };
        let mut all: Vec<(Arc<str>, u64)> = mailboxes.iter().filter_map(of).collect();
        all.sort_unstable();
        all
    }

    /// How many messages an instance holds; `None` if it has never consumed.
    #[must_use]
    pub fn in_flight(&self, vhost: &str, service: &str, id: &str) -> Option<u32> {
        let mailbox = self.topology_read().mailbox(vhost, service)?;
        self.lock(mailbox.id.shard()).in_flight(mailbox.id, id)
    }

    /// The queue that is a service's mailbox, as queues are reported.
    ///
    /// # Errors
    /// 404.
    pub fn mailbox(&self, vhost: &str, service: &str) -> Result<QueueReport, Refusal> {
        let found = self.topology_read().mailbox(vhost, service);
        let settings = found.ok_or_else(|| super::no_such("mailbox of service", service, vhost))?;
        self.queue(vhost, &settings.name)
    }

    fn service_report(&self, name: ServiceName) -> ServiceReport {
        let mailbox = self.topology_read().mailbox(&name.vhost, &name.service);
        let instances = self.directory().instances(&name);
        let (mut state, mut waiting) = (MailboxInfo::default(), 0);
        if let Some(id) = mailbox.as_ref().map(|s| s.id) {
            let shard = self.lock(id.shard());
            state = shard.mailbox_info(id).unwrap_or_default();
            waiting = shard.counts(id).map_or(0, |c| c.ready);
        }
        ServiceReport { name, mailbox, instances, state, waiting }
    }

    /// Where a message to the exchange of services would go and why, by the code that routes; nothing happens. `props` are
    /// the message's properties, or empty.
    ///
    /// # Errors
    /// As for the message: 403, 404 (no such exchange, or it is none of services), 406 (no selector, no service's name).
    pub fn service_explain(
        &self,
        actor: Actor<'_>,
        vhost: &str,
        route: &Route,
        props: &[u8],
        now: Millis,
    ) -> Result<ServiceExplanation, Refusal> {
        let t = self.topology_read();
        t.route_publish(actor.name(), vhost, route)?;
        if !t.routes_to_services(vhost, &route.exchange) {
            return Err(super::no_such("exchange of services", &route.exchange, vhost));
        }
        drop(t);
        let said = explain_route(route, props)?;
        let name = ServiceName { vhost: vhost.into(), service: said.service };
        let mailbox = self.topology_read().mailbox(vhost, &name.service);
        let known = self.directory().instances(&name);
        let mut explained = match &mailbox {
            Some(settings) => {
                let mut w = self.work(now);
                let id = settings.id;
                self.with_shard(id.shard(), &mut w, |s, cx| s.mailbox_explain(id, &said.wish.route, cx))
            }
            None => MailboxExplanation::default(),
        };
        // Instances that have never consumed are not known to the mailbox.
        for i in known {
            if !explained.candidates.iter().any(|c| c.instance.id == i.instance.id) {
                let verdict = said.selector.matches(&i.instance).and_then(|()| Err("does not consume".to_owned()));
                explained.candidates.push(Candidate { instance: i.instance, verdict });
            }
        }
        explained.candidates.sort_by(|a, b| a.instance.id.cmp(&b.instance.id));
        let chosen = match &said.wish.all {
            None => explained.chosen.into_iter().collect(),
            Some(selector) => match &mailbox {
                Some(s) => {
                    self.lock(s.id.shard()).recipients(s.id, selector).into_iter().map(Chosen::Instance).collect()
                }
                None => Vec::new(),
            },
        };
        Ok(ServiceExplanation {
            service: name.service,
            rule: said.rule,
            mailbox,
            candidates: explained.candidates,
            chosen,
            behind: explained.behind,
        })
    }

    /// Whether somebody may claim an instance id: that takes the permission to configure it.
    ///
    /// # Errors
    /// 403.
    pub fn check_claim(&self, actor: Actor<'_>, vhost: &str, id: &str) -> Result<(), Refusal> {
        self.topology_read().check(actor.name(), vhost, Access::Configure, Resource::Instance, id)
    }

    /// Whether somebody may send to a service, or ask about it: like a routing key of the exchange of services.
    ///
    /// # Errors
    /// 403.
    pub fn check_service(&self, actor: Actor<'_>, vhost: &str, service: &str) -> Result<(), Refusal> {
        self.topology_read().check_service_write(actor.name(), vhost, service)
    }
}

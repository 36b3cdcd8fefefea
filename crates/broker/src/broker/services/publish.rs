//! Messages to services.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use waypost_model::service::ServiceName;
use waypost_model::{AttrFlags, Attrs, Event, Publish, Refusal, Route};

use super::addressing::{ServiceRoute, Variants, Wish};
use crate::broker::peer::Connection;
use crate::broker::publish::{Run, Verdict, identity};
use crate::broker::{Broker, Work};
use crate::settings::QueueSettings;
use crate::shard::Placed;

/// Who sends, where messages reach services through other exchanges or queues.
#[derive(Debug, Clone, Copy)]
pub(in crate::broker) struct Origin<'a> {
    /// In which vhost.
    pub vhost: &'a str,
    /// On whose behalf; nobody's if a queue sends.
    pub user: Option<&'a str>,
    /// The preferred zone.
    pub near: Option<&'a Arc<str>>,
    /// Whether a service that nobody knows is to have a mailbox from now on.
    pub make: bool,
}

/// Neighbours in a run that ask for the same.
struct Part {
    from: u32,
    to: u32,
    wish: Wish,
}

impl Broker {
    /// Where messages with a route to the exchange of services go.
    pub(in crate::broker) fn resolve_service(
        &self,
        conn: &Connection,
        route: &Arc<Route>,
    ) -> Result<ServiceRoute, Refusal> {
        let (_, vhost) = identity(conn)?;
        let mut read = ServiceRoute::read(route, &route.routing_key, conn.claims.zone.as_ref())?;
        read.mailbox = self.topology_read().mailbox(vhost, &read.service);
        Ok(read)
    }

    /// A run of messages to a service. What is gathered of it is to be handed over by whoever calls.
    pub(in crate::broker) fn publish_service(
        &self,
        conn: &mut Connection,
        p: &Publish,
        run: &Run<'_>,
        base: &Arc<ServiceRoute>,
        w: &mut Work<'_>,
    ) {
        if p.attrs.flags.has(AttrFlags::SENDER_SELECTED) {
            self.note_publish(conn, p);
            self.hand_gathered(conn, w);
            return self.publish_each(conn, p, run, w);
        }
        let (taken, wrong) = self.gather(conn, p, run, base, w);
        if taken == run.to {
            return;
        }
        self.hand_gathered(conn, w);
        match wrong {
            Some(refusal) => self.refuse(conn, p.channel, Event::PUBLISH_TOKEN, refusal.soft()),
            None => self.publish_apart(conn, p, &Run { from: taken, ..*run }, base, w),
        }
    }

    /// The same for what cannot be gathered.
    fn publish_apart(
        &self,
        conn: &mut Connection,
        p: &Publish,
        run: &Run<'_>,
        base: &Arc<ServiceRoute>,
        w: &mut Work<'_>,
    ) {
        let (parts, wrong) = wishes(&mut conn.variants, base, run);
        let taken = parts.last().map_or(run.from, |last| last.to);
        if !parts.is_empty() {
            match self.mailbox_for(conn, p, base, &parts, w) {
                Ok(Some(mailbox)) => self.publish_parts(conn, p, run, &mailbox, &parts, w),
                Ok(None) => self.nobody(conn, p, &Run { to: taken, ..*run }),
                Err(refusal) => return self.refuse(conn, p.channel, Event::PUBLISH_TOKEN, refusal.soft()),
            }
        }
        if let Some(refusal) = wrong {
            self.refuse(conn, p.channel, Event::PUBLISH_TOKEN, refusal.soft());
        }
    }

    /// Whether messages to a service would be refused, before anything is done.
    pub(in crate::broker) fn try_service(
        &self,
        conn: &mut Connection,
        base: &Arc<ServiceRoute>,
        run: &Run<'_>,
    ) -> Result<(), Refusal> {
        let (_, wrong) = wishes(&mut conn.variants, base, run);
        if base.mailbox.is_none() {
            let (user, vhost) = identity(conn)?;
            self.topology_read().check_mailbox(user, vhost, &base.service)?;
        }
        wrong.map_or(Ok(()), |refusal| Err(refusal.soft()))
    }

    fn nobody(&self, conn: &mut Connection, p: &Publish, run: &Run<'_>) {
        self.unroutable(conn, p, run);
        self.confirm(conn, p, run, Verdict::all(run));
    }

    /// The mailbox that takes the messages; `None` if there is none, and none is to be made.
    fn mailbox_for(
        &self,
        conn: &Connection,
        p: &Publish,
        base: &ServiceRoute,
        parts: &[Part],
        w: &mut Work<'_>,
    ) -> Result<Option<Arc<QueueSettings>>, Refusal> {
        if let Some(mailbox) = &base.mailbox {
            return Ok(Some(Arc::clone(mailbox)));
        }
        let (user, vhost) = identity(conn)?;
        let name = ServiceName { vhost: vhost.into(), service: Arc::clone(&base.service) };
        let known = self.directory().has_instances(&name);
        // What is for all instances of a service that nobody knows is for nobody.
        if !known && (p.mandatory || parts.iter().all(|p| p.wish.all.is_some())) {
            return Ok(None);
        }
        self.topology_read().check_mailbox(user, vhost, &base.service)?;
        self.make_mailbox(&name, w).map(|(made, _)| Some(made))
    }

    fn publish_parts(
        &self,
        conn: &mut Connection,
        p: &Publish,
        run: &Run<'_>,
        mailbox: &QueueSettings,
        parts: &[Part],
        w: &mut Work<'_>,
    ) {
        let verdicts = self.enqueue_parts(mailbox, run, parts, w);
        if conn.keeps_place {
            let last = verdicts.last().zip(parts.last());
            conn.placed = last.and_then(|(v, part)| {
                Some(Placed { queue: mailbox.id, seq: v.as_ref()?.first, route: Arc::clone(&part.wish.route) })
            });
        }
        let routed = |v: &Option<Verdict>, part: &Part| if v.is_some() { part.to - part.from } else { 0 };
        let count: u32 = verdicts.iter().zip(parts).map(|(v, part)| routed(v, part)).sum();
        self.counters.routed.fetch_add(u64::from(count), Ordering::Relaxed);
        let whole = |(v, part): (&Option<Verdict>, &Part)| {
            v.is_some_and(|v| v.accepted == part.to - part.from && v.error.is_none())
        };
        if verdicts.iter().zip(parts).all(whole) {
            // The usual end: one word for all of them.
            let to = parts.last().map_or(run.from, |last| last.to);
            let all = Run { to, ..*run };
            let verdict = verdicts.into_iter().flatten().reduce(Verdict::then);
            return self.confirm(conn, p, &all, verdict.unwrap_or_else(|| Verdict::all(&all)));
        }
        for (verdict, part) in verdicts.into_iter().zip(parts) {
            let part = Run { from: part.from, to: part.to, ..*run };
            match verdict {
                Some(verdict) => self.confirm(conn, p, &part, verdict),
                None => self.nobody(conn, p, &part),
            }
        }
    }

    /// Hands parts to their mailbox. `None` for what is for all of nobody.
    fn enqueue_parts(
        &self,
        mailbox: &QueueSettings,
        run: &Run<'_>,
        parts: &[Part],
        w: &mut Work<'_>,
    ) -> Vec<Option<Verdict>> {
        let at = w.now;
        self.with_shard(mailbox.id.shard(), w, |s, cx| {
            let one = |part: &Part| {
                let attrs = waiting(run.attrs, part.wish.wait_ms);
                let own = Run { route: &part.wish.route, from: part.from, to: part.to, attrs, ..*run };
                let incoming = own.incoming(at, None);
                let said = match &part.wish.all {
                    None => s.enqueue(&[mailbox.id], incoming, cx),
                    Some(selector) => s.enqueue_all(mailbox.id, &incoming, selector, cx)?,
                };
                Some(said.into())
            };
            parts.iter().map(one).collect()
        })
    }

    /// Messages that reach services by way of other exchanges, or of queues: each goes to the services that `keys` name.
    /// `None` if none of them takes them.
    pub(in crate::broker) fn follow_services(
        &self,
        keys: &[Box<[u8]>],
        run: &Run<'_>,
        origin: Origin<'_>,
        w: &mut Work<'_>,
    ) -> Option<Verdict> {
        let mut all: Option<Verdict> = None;
        for key in keys {
            if let Ok(Some(verdict)) = self.follow_service(key, run, origin, w) {
                all = Some(all.map_or(verdict, |v| v.and(verdict)));
            }
        }
        all
    }

    fn follow_service(
        &self,
        key: &[u8],
        run: &Run<'_>,
        origin: Origin<'_>,
        w: &mut Work<'_>,
    ) -> Result<Option<Verdict>, Refusal> {
        let base = Arc::new(ServiceRoute::read(run.route, key, origin.near)?);
        let (parts, wrong) = wishes(&mut Variants::default(), &base, run);
        if let Some(refusal) = wrong {
            return Err(refusal);
        }
        let name = ServiceName { vhost: origin.vhost.into(), service: Arc::clone(&base.service) };
        let found = self.topology_read().mailbox(&name.vhost, &name.service);
        let mailbox = match found {
            Some(mailbox) => mailbox,
            None if !origin.make && !self.directory().has_instances(&name) => return Ok(None),
            None => {
                if let Some(user) = origin.user {
                    self.topology_read().check_mailbox(user, origin.vhost, &name.service)?;
                }
                self.make_mailbox(&name, w)?.0
            }
        };
        let verdicts = self.enqueue_parts(&mailbox, run, &parts, w);
        let taken = verdicts.into_iter().flatten();
        Ok(taken.reduce(Verdict::then))
    }
}

/// What the messages of a run ask for, and why the first that does not make sense does not.
fn wishes(variants: &mut Variants, base: &Arc<ServiceRoute>, run: &Run<'_>) -> (Vec<Part>, Option<Refusal>) {
    if !run.attrs.flags.has(AttrFlags::HEADERS) {
        return (vec![Part { from: run.from, to: run.to, wish: base.plain() }], None);
    }
    let mut parts: Vec<Part> = Vec::new();
    for i in run.from..run.to {
        match variants.wish(base, run.batch.props(i)) {
            Ok(wish) => match parts.last_mut() {
                Some(last) if last.wish.is_like(&wish) => last.to = i + 1,
                _ => parts.push(Part { from: i, to: i + 1, wish }),
            },
            Err(refusal) => return (parts, Some(refusal)),
        }
    }
    (parts, None)
}

/// Who waits too long is dead: `x-wait` is a time to live of its own.
pub(super) fn waiting(attrs: Attrs, wait_ms: Option<u32>) -> Attrs {
    let expiration = match (attrs.expiration, wait_ms) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    };
    Attrs { expiration, ..attrs }
}

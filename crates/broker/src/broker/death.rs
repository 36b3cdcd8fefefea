//! What a dead letter carries: header `x-death` and its companions, and when a cycle is cut.
//!
//! As RabbitMQ 4 has it: one entry per (queue, reason) with a count, the newest first; `x-first-death-*` and
//! `x-last-death-*`; `expiration` is taken off (and remembered in the entry), `CC` goes when a dead-letter routing key is
//! set, `BCC` always. What a client put into `x-death` itself is not believed: see [`AttrFlags::DEAD_LETTERED`].

use waypost_model::props::PropsOwned;
use waypost_model::table::{Table, Value};
use waypost_model::{AttrFlags, Attrs, Millis, Route};

use crate::effect::DeathReason;

/// Entries that `x-death` can grow to; further ones push out the oldest.
pub const DEATHS_MAX: usize = 128;

/// The facts of one death.
#[derive(Debug, Clone, Copy)]
pub struct Death<'a> {
    /// Where it died.
    pub queue: &'a str,
    /// Why.
    pub reason: DeathReason,
    /// When.
    pub at: Millis,
    /// Where it had been published to.
    pub route: &'a Route,
    /// Whether a dead-letter routing key replaces the message's own.
    pub rekeyed: bool,
}

/// Properties of a dead letter that died once more.
///
/// `props` is the encoded list of the message; when it cannot be read the message keeps its bytes' meaning as far as
/// known: an unreadable headers table is replaced.
#[must_use]
pub fn record(props: &[u8], attrs: Attrs, death: &Death<'_>) -> (Vec<u8>, Attrs) {
    let mut p = PropsOwned::decode(props).unwrap_or_default();
    let mut headers = p.headers.take().unwrap_or_default();
    if !attrs.flags.has(AttrFlags::DEAD_LETTERED) {
        headers.remove("x-death");
        for what in ["queue", "reason", "exchange"] {
            headers.remove(&format!("x-first-death-{what}"));
            headers.remove(&format!("x-last-death-{what}"));
        }
    }
    let mut keys = vec![Value::LongStr(death.route.routing_key.to_vec())];
    if let Some(Value::Array(cc)) = headers.get("CC") {
        keys.extend(cc.iter().filter(|v| matches!(v, Value::LongStr(_))).cloned());
    }
    if death.rekeyed {
        headers.remove("CC");
    }
    headers.remove("BCC");
    let expiration = p.expiration.take();
    let mut deaths = match headers.remove("x-death") {
        Some(Value::Array(a)) => a,
        _ => Vec::new(),
    };
    let entry = match position(&deaths, death) {
        Some(i) => again(deaths.remove(i)),
        None => first(death, keys, expiration.as_ref().map(|e| e.as_ref())),
    };
    deaths.insert(0, entry);
    deaths.truncate(DEATHS_MAX);
    let exchange = &*death.route.exchange;
    if headers.get("x-first-death-reason").is_none() {
        mark(&mut headers, "first", death, exchange);
    }
    mark(&mut headers, "last", death, exchange);
    headers.set("x-death", Value::Array(deaths));
    let selected = headers.get("CC").is_some();
    p.headers = Some(headers);
    let mut flags = attrs.flags.with(AttrFlags::HEADERS).with(AttrFlags::DEAD_LETTERED);
    if !selected {
        flags.0 &= !AttrFlags::SENDER_SELECTED.0;
    }
    (p.to_bytes(), Attrs { flags, expiration: None, ..attrs })
}

fn position(deaths: &[Value], death: &Death<'_>) -> Option<usize> {
    deaths
        .iter()
        .position(|d| field(d, "queue") == Some(death.queue) && field(d, "reason") == Some(death.reason.as_str()))
}

fn field<'a>(entry: &'a Value, name: &str) -> Option<&'a str> {
    entry.as_table()?.get(name)?.as_str()
}

fn again(entry: Value) -> Value {
    let Value::Table(mut t) = entry else { return entry };
    let count = t.get("count").and_then(Value::as_i64).unwrap_or(0);
    t.set("count", Value::I64(count.saturating_add(1)));
    Value::Table(t)
}

fn first(death: &Death<'_>, keys: Vec<Value>, expiration: Option<&[u8]>) -> Value {
    let mut t = Table::new();
    t.set("count", Value::I64(1));
    t.set("reason", text(death.reason.as_str()));
    t.set("queue", text(death.queue));
    t.set("time", Value::Timestamp(death.at.0 / 1000));
    t.set("exchange", text(&death.route.exchange));
    t.set("routing-keys", Value::Array(keys));
    if let Some(e) = expiration {
        t.set("original-expiration", Value::LongStr(e.to_vec()));
    }
    Value::Table(t)
}

fn mark(headers: &mut Table, which: &str, death: &Death<'_>, exchange: &str) {
    headers.set(format!("x-{which}-death-queue"), text(death.queue));
    headers.set(format!("x-{which}-death-reason"), text(death.reason.as_str()));
    headers.set(format!("x-{which}-death-exchange"), text(exchange));
}

fn text(s: &str) -> Value {
    Value::LongStr(s.as_bytes().to_vec())
}

/// Whether putting the dead letter into `target` would go round in a circle that no consumer had a part in: it died in
/// that queue before, and in no place since then (that one included) by a rejection.
#[must_use]
pub fn is_cycle(props: &[u8], target: &str) -> bool {
    let Ok(Some(headers)) = waypost_model::props::Props(props).headers() else { return false };
    let Some(deaths) = headers.get("x-death").and_then(Value::as_array) else { return false };
    let Some(at) = deaths.iter().position(|d| field(d, "queue") == Some(target)) else { return false };
    // Newest first: everything up to the death in the target lies on the circle.
    deaths[..=at].iter().all(|d| field(d, "reason") != Some(DeathReason::Rejected.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn death<'a>(queue: &'a str, reason: DeathReason, route: &'a Route) -> Death<'a> {
        Death { queue, reason, at: Millis(5_000), route, rekeyed: false }
    }

    fn headers(props: &[u8]) -> Table {
        waypost_model::props::Props(props).headers().unwrap().unwrap()
    }

    #[test]
    fn counts_per_queue_and_reason_newest_first() {
        let route = Route::new("ex", "key");
        let (p, a) = record(&[0, 0], Attrs::default(), &death("q1", DeathReason::Expired, &route));
        let (p, a) = record(&p, a, &death("q2", DeathReason::Rejected, &route));
        let (p, _) = record(&p, a, &death("q1", DeathReason::Expired, &route));
        let h = headers(&p);
        let deaths = h.get("x-death").unwrap().as_array().unwrap();
        assert_eq!(deaths.len(), 2);
        assert_eq!(field(&deaths[0], "queue"), Some("q1"));
        assert_eq!(deaths[0].as_table().unwrap().get("count"), Some(&Value::I64(2)));
        assert_eq!(h.get("x-first-death-queue").unwrap().as_str(), Some("q1"));
        assert_eq!(h.get("x-last-death-queue").unwrap().as_str(), Some("q1"));
        assert_eq!(h.get("x-first-death-reason").unwrap().as_str(), Some("expired"));
    }

    #[test]
    fn a_forged_history_is_not_believed() {
        let route = Route::new("", "q");
        let (forged, _) = record(&[0, 0], Attrs::default(), &death("elsewhere", DeathReason::Expired, &route));
        let (p, _) = record(&forged, Attrs::default(), &death("q", DeathReason::MaxLen, &route));
        let h = headers(&p);
        assert_eq!(h.get("x-death").unwrap().as_array().unwrap().len(), 1);
        assert_eq!(h.get("x-first-death-queue").unwrap().as_str(), Some("q"));
    }

    #[test]
    fn expiration_moves_into_the_entry() {
        let route = Route::new("", "q");
        let props = PropsOwned { expiration: waypost_model::props::ShortStr::new("60"), ..PropsOwned::default() };
        let attrs = Attrs { expiration: Some(60), ..Attrs::default() };
        let (p, a) = record(&props.to_bytes(), attrs, &death("q", DeathReason::Expired, &route));
        assert_eq!(a.expiration, None);
        assert_eq!(PropsOwned::decode(&p).unwrap().expiration, None);
        let h = headers(&p);
        let entry = h.get("x-death").unwrap().as_array().unwrap()[0].as_table().unwrap().clone();
        assert_eq!(entry.get("original-expiration").unwrap().as_str(), Some("60"));
    }

    #[test]
    fn a_circle_without_rejection_is_cut() {
        let route = Route::new("", "a");
        let (p, attrs) = record(&[0, 0], Attrs::default(), &death("a", DeathReason::Expired, &route));
        assert!(is_cycle(&p, "a"));
        assert!(!is_cycle(&p, "b"));
        let (p, _) = record(&p, attrs, &death("b", DeathReason::Rejected, &route));
        assert!(!is_cycle(&p, "a"));
    }

    #[test]
    fn cc_goes_with_a_new_key_and_bcc_always() {
        let mut h = Table::new();
        h.set("CC", Value::Array(vec![text("other")]));
        h.set("BCC", Value::Array(vec![text("secret")]));
        let props = PropsOwned { headers: Some(h), ..PropsOwned::default() }.to_bytes();
        let route = Route::new("ex", "key");
        let attrs = Attrs { flags: AttrFlags::HEADERS.with(AttrFlags::SENDER_SELECTED), ..Attrs::default() };
        let kept = record(&props, attrs, &death("q", DeathReason::Rejected, &route));
        assert!(headers(&kept.0).get("CC").is_some() && kept.1.flags.has(AttrFlags::SENDER_SELECTED));
        let gone = record(&props, attrs, &Death { rekeyed: true, ..death("q", DeathReason::Rejected, &route) });
        assert!(headers(&gone.0).get("CC").is_none() && !gone.1.flags.has(AttrFlags::SENDER_SELECTED));
        assert!(headers(&gone.0).get("BCC").is_none());
        let keys = headers(&gone.0).get("x-death").unwrap().as_array().unwrap()[0]
            .as_table()
            .unwrap()
            .get("routing-keys")
            .unwrap()
            .clone();
        assert_eq!(keys.as_array().unwrap().len(), 2);
    }
}

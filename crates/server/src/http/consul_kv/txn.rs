//! `/v1/txn`: verbs of the key-value store, and those of the catalog beside them.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use hyper::body::Incoming;
use hyper::{Request, StatusCode};
use serde_json::{Map, Value as Json, json};
use waypost_broker::topology::Access;
use waypost_model::Millis;
use waypost_registry::config::{
    Answer as Outcome, By, Committed, Fault, Store, TXN_BYTES_MAX, TXN_OPS_MAX, When, Write,
};
use waypost_registry::services::{Change, Failed, Outcome as CatalogOutcome, Services, Transacted};

use super::super::body::Answer;
use super::super::config::is_permitted;
use super::super::consul::Catalog;
use super::super::request::{self, Failure};
use super::ask::Ask;
use super::json;
use super::kv::{Value, entry, put};

/// Largest body: its values in base64, and what is around them.
const BODY_MAX: u64 = TXN_BYTES_MAX as u64 / 3 * 4 + (1 << 20);

/// One operation on keys, and how its outcome is shown.
struct Operation {
    write: Write,
    shows: Shows,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shows {
    Nothing,
    Entry(Value),
}

/// What is asked for, sorted by whom it concerns, each with its place in the transaction.
#[derive(Default)]
struct Sorted {
    writes: Vec<Write>,
    write_places: Vec<usize>,
    shows: Vec<Shows>,
    changes: Vec<Change>,
    change_places: Vec<usize>,
}

/// What stands in the way of operations, with their places in the transaction.
type Obstacles = Vec<(usize, String)>;

/// Why a transaction was not carried out.
enum Refused {
    Obstacles(Obstacles),
    /// It is nobody's fault: the journal does not take it.
    Journal(Fault),
}

impl Ask<'_> {
    /// Operations on keys and on the catalog: all of them, or none.
    pub async fn txn(&self, request: Request<Incoming>) -> Result<Answer, Failure> {
        let body = request::bytes(request, BODY_MAX).await?;
        let failed = |what: String| Failure::bad(format!("Request decode failed: {what}"));
        let operations: Vec<Json> = serde_json::from_slice(&body).map_err(|e| failed(e.to_string()))?;
        if operations.len() > TXN_OPS_MAX {
            let text = format!("Transaction contains too many operations ({} > {TXN_OPS_MAX})", operations.len());
            return Err(Failure::new(StatusCode::PAYLOAD_TOO_LARGE, text));
        }
        let catalog = Catalog::new(self.cx);
        let sorted = self.sorted(&catalog, &operations)?;
        let (services, vhost) = (self.cx.node.registry.services(self.cx.vhost()), self.vhost.clone());
        let (author, now) = (self.cx.who.name().to_owned(), self.cx.node.clock.now());
        let done = self.aside(move |store| {
            let carried_out = sorted.carry_out(store, &services, &vhost, By { author: &author, comment: "" }, now);
            (carried_out, sorted)
        });
        match done.await? {
            (Ok((committed, outcomes)), sorted) => {
                self.durable(committed.lsn).await?;
                let results = self.results(&catalog, &sorted, &committed.answers, &outcomes);
                Ok(json(StatusCode::OK, &json!({ "Results": results, "Errors": null })))
            }
            (Err(Refused::Obstacles(obstacles)), _) => {
                let errors: Vec<Json> =
                    obstacles.iter().map(|(n, what)| json!({ "OpIndex": n, "What": what })).collect();
                Ok(json(StatusCode::CONFLICT, &json!({ "Results": null, "Errors": errors })))
            }
            (Err(Refused::Journal(fault)), _) => Err(super::kv::failure(&fault)),
        }
    }

    fn sorted(&self, catalog: &Catalog<'_>, operations: &[Json]) -> Result<Sorted, Failure> {
        let mut sorted = Sorted::default();
        for (place, operation) in operations.iter().enumerate() {
            if let Some(kv) = operation.as_object().and_then(|o| field(o, "kv")).and_then(Json::as_object) {
                let Operation { write, shows } = self.operation(kv)?;
                sorted.writes.push(write);
                sorted.shows.push(shows);
                sorted.write_places.push(place);
            } else if let Some(change) = catalog.change(operation)? {
                sorted.changes.push(change);
                sorted.change_places.push(place);
            } else {
                return Err(Failure::bad(format!("operation {place} is none of KV, Node, Service and Check")));
            }
        }
        Ok(sorted)
    }

    /// What there is to show, in the order of the operations.
    fn results(
        &self,
        catalog: &Catalog<'_>,
        sorted: &Sorted,
        answers: &[Outcome],
        outcomes: &[CatalogOutcome],
    ) -> Vec<Json> {
        let mut results: Vec<(usize, Json)> = Vec::new();
        for ((outcome, shows), place) in answers.iter().zip(&sorted.shows).zip(&sorted.write_places) {
            let mut shown = Vec::new();
            self.show(outcome, *shows, &mut shown);
            results.extend(shown.into_iter().map(|one| (*place, one)));
        }
        let shown = outcomes.iter().zip(&sorted.change_places);
        results.extend(shown.filter_map(|(outcome, place)| Some((*place, catalog.show(outcome)?))));
        results.sort_by_key(|(place, _)| *place);
        results.into_iter().map(|(_, shown)| shown).collect()
    }

    fn show(&self, outcome: &Outcome, shows: Shows, results: &mut Vec<Json>) {
        let Shows::Entry(value) = shows else { return };
        match outcome {
            Outcome::Item(item) => results.push(json!({ "KV": entry(item, value) })),
            Outcome::Items(items) => {
                let may = |path: &str| is_permitted(self.cx.node, &self.cx.who, &self.vhost, Access::Read, path);
                let readable = items.iter().filter(|item| may(&item.path));
                results.extend(readable.map(|item| json!({ "KV": entry(item, value) })));
            }
            Outcome::Done | Outcome::Gray(_) => {}
        }
    }

    fn operation(&self, kv: &Map<String, Json>) -> Result<Operation, Failure> {
        let bad = |what: &str| Failure::bad(format!("Request decode failed: KV.{what}"));
        let text = |name: &str| match field(kv, name) {
            None | Some(Json::Null) => Ok(String::new()),
            Some(Json::String(text)) => Ok(text.clone()),
            Some(_) => Err(bad(name)),
        };
        let number = |name: &str| match field(kv, name) {
            None | Some(Json::Null) => Ok(0),
            Some(n) => n.as_u64().ok_or_else(|| bad(name)),
        };
        let value = || STANDARD.decode(text("value")?).map(Bytes::from).map_err(|_| bad("Value is no base64"));
        let (verb, path, index, session) = (text("verb")?, text("key")?, number("index")?, text("session")?);
        let flags = number("flags")?;
        let reads = matches!(&*verb, "get" | "get-tree" | "check-index" | "check-session" | "check-not-exists");
        if !verb.ends_with("-tree") {
            self.may(if reads { Access::Read } else { Access::Write }, &path)?;
        }
        let (seen, changed) = (Shows::Entry(Value::Shown), Shows::Entry(Value::Null));
        let (write, shows) = match &*verb {
            "set" => (put(path, value()?, flags, When::Always), changed),
            "cas" => (put(path, value()?, flags, When::Revision(index)), changed),
            "lock" => (Write::Lock { path, value: value()?, flags, session }, changed),
            "unlock" => (Write::Unlock { path, value: value()?, flags, session }, changed),
            "get" => (Write::Get { path }, seen),
            "get-tree" => (Write::GetBelow { prefix: path }, seen),
            "check-index" => (Write::Check { path, when: When::Revision(index) }, changed),
            "check-session" => (Write::CheckSession { path, session }, changed),
            "check-not-exists" => (Write::Check { path, when: When::Revision(0) }, Shows::Nothing),
            "delete" => (Write::Delete { path, when: When::Always }, Shows::Nothing),
            "delete-tree" => (self.delete_below(&path)?, Shows::Nothing),
            "delete-cas" => (Write::Delete { path, when: When::RevisionOrGone(index) }, Shows::Nothing),
            other => return Err(Failure::bad(format!("unknown KV verb {other:?}"))),
        };
        Ok(Operation { write, shows })
    }
}

impl Sorted {
    /// Carries out everything or nothing: one append.
    fn carry_out(
        &self,
        store: &Store,
        services: &Services,
        vhost: &str,
        by: By<'_>,
        now: Millis,
    ) -> Result<(Committed, Vec<CatalogOutcome>), Refused> {
        if self.changes.is_empty() {
            let committed = store.commit(vhost, by, &self.writes, now).map_err(|faults| self.refused(faults))?;
            return Ok((committed, Vec::new()));
        }
        let done = services.transact(&self.changes, now, |ops| {
            let committed = store.commit_with(vhost, by, &self.writes, ops, now)?;
            Ok((committed.lsn, committed))
        });
        match done {
            Ok(Transacted { outcomes, lsn, committed }) => Ok((Committed { lsn, ..committed }, outcomes)),
            Err(Failed::Commit(faults)) => Err(self.refused(faults)),
            Err(Failed::Changes(faults)) => {
                let of_catalog = faults.iter().map(|(n, fault)| (place(&self.change_places, *n), fault.to_string()));
                // Whoever asks is told of everything at once.
                let mut all: Obstacles = of_catalog.collect();
                all.extend(self.of_keys(&store.obstacles(vhost, by, &self.writes, now)));
                all.sort_by_key(|(place, _)| *place);
                Err(Refused::Obstacles(all))
            }
        }
    }

    fn refused(&self, faults: Vec<(usize, Fault)>) -> Refused {
        match faults.iter().find(|(_, fault)| matches!(fault, Fault::Append(_))) {
            Some((_, fault)) => Refused::Journal(fault.clone()),
            None => Refused::Obstacles(self.of_keys(&faults).collect()),
        }
    }

    fn of_keys<'a>(&'a self, faults: &'a [(usize, Fault)]) -> impl Iterator<Item = (usize, String)> + 'a {
        faults.iter().map(|(n, fault)| (place(&self.write_places, *n), fault.to_string()))
    }
}

/// The place in the transaction of the `n`th operation of a kind.
fn place(places: &[usize], n: usize) -> usize {
    places.get(n).copied().unwrap_or_default()
}

/// A field by its name, in any case.
fn field<'a>(object: &'a Map<String, Json>, name: &str) -> Option<&'a Json> {
    object.get(name).or_else(|| object.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value))
}

//! `/v1/txn`: verbs of the key-value store.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use hyper::body::Incoming;
use hyper::{Request, StatusCode};
use serde_json::{Map, Value as Json, json};
use waypost_broker::topology::Access;
use waypost_registry::config::{Answer as Outcome, By, TXN_BYTES_MAX, TXN_OPS_MAX, When, Write};

use super::super::body::Answer;
use super::super::config::is_permitted;
use super::super::request::{self, Failure};
use super::ask::Ask;
use super::json;
use super::kv::{Value, entry, put};

/// Largest body: its values in base64, and what is around them.
const BODY_MAX: u64 = TXN_BYTES_MAX as u64 / 3 * 4 + (1 << 20);

/// One operation, and how its outcome is shown.
struct Operation {
    write: Write,
    shows: Shows,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shows {
    Nothing,
    Entry(Value),
}

impl Ask<'_> {
    pub async fn txn(&self, request: Request<Incoming>) -> Result<Answer, Failure> {
        let body = request::bytes(request, BODY_MAX).await?;
        let failed = |what: String| Failure::bad(format!("Request decode failed: {what}"));
        let operations: Vec<Map<String, Json>> = serde_json::from_slice(&body).map_err(|e| failed(e.to_string()))?;
        if operations.len() > TXN_OPS_MAX {
            let text = format!("Transaction contains too many operations ({} > {TXN_OPS_MAX})", operations.len());
            return Err(Failure::new(StatusCode::PAYLOAD_TOO_LARGE, text));
        }
        let operations: Vec<Operation> = operations.iter().map(|o| self.operation(o)).collect::<Result<_, _>>()?;
        let (writes, shows): (Vec<Write>, Vec<Shows>) = operations.into_iter().map(|o| (o.write, o.shows)).unzip();
        let (vhost, author, now) = (self.vhost.clone(), self.cx.who.name().to_owned(), self.cx.node.clock.now());
        let done = self.aside(move |store| store.commit(&vhost, By { author: &author, comment: "" }, &writes, now));
        match done.await? {
            Ok(committed) => {
                self.durable(committed.lsn).await?;
                let mut results = Vec::new();
                for (outcome, shows) in committed.answers.iter().zip(shows) {
                    self.show(outcome, shows, &mut results);
                }
                Ok(json(StatusCode::OK, &json!({ "Results": results, "Errors": null })))
            }
            Err(faults) => {
                let errors: Vec<Json> =
                    faults.iter().map(|(n, fault)| json!({ "OpIndex": n, "What": fault.to_string() })).collect();
                Ok(json(StatusCode::CONFLICT, &json!({ "Results": null, "Errors": errors })))
            }
        }
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

    fn operation(&self, o: &Map<String, Json>) -> Result<Operation, Failure> {
        let Some(kv) = field(o, "kv").and_then(Json::as_object) else {
            let kind = o.keys().next().map_or("nothing", |k| k);
            let text = format!("Transactions here take KV operations, not {kind}");
            return Err(Failure::new(StatusCode::NOT_IMPLEMENTED, text));
        };
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

/// A field by its name, in any case.
fn field<'a>(object: &'a Map<String, Json>, name: &str) -> Option<&'a Json> {
    object.get(name).or_else(|| object.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value))
}

//! ZeroMQ devices: listed, declared and removed while the node runs.

use hyper::StatusCode;
use serde_json::{Map, Value as Json, json};

use super::super::request::Failure;
use super::{Ask, Done, nothing_there, show, wrong_method};
use crate::config::value::Scalar;
use crate::zmtp::{Condition, DeclareError, DeviceSpec, DeviceView, Origin, Removed};

impl Ask {
    pub(super) fn devices(&self, path: &[&str]) -> Result<Done, Failure> {
        match (self.method(), path) {
            ("GET", ["devices"]) => {
                let seen = self.node.devices.views().into_iter().filter(|view| self.may_see(view));
                show(seen.map(|view| device(&view)).collect::<Vec<_>>())
            }
            ("GET", ["devices", name]) => {
                let mut seen = self.node.devices.views().into_iter().filter(|view| self.may_see(view));
                let found = seen.find(|view| view.name == *name).ok_or_else(|| no_device(name))?;
                show(device(&found))
            }
            ("PUT" | "POST", ["devices"]) => self.declare_device(None),
            ("PUT", ["devices", name]) => self.declare_device(Some(name)),
            ("DELETE", ["devices", name]) => {
                self.who.must_administrate()?;
                match self.node.devices.remove(name).ok_or_else(|| no_device(name))? {
                    Removed::Gone => Ok(Done::Changed(None)),
                    Removed::Draining => show(json!({ "name": name, "state": state(Condition::Stopping) })),
                }
            }
            (_, ["devices"] | ["devices", _]) => Err(wrong_method()),
            _ => Err(nothing_there()),
        }
    }

    /// Devices in memory belong to no vhost; everybody who manages may see them.
    fn may_see(&self, view: &DeviceView) -> bool {
        view.spec.belongs_to().is_none_or(|vhost| self.must_see(vhost).is_ok())
    }

    /// A device reaches files and networks in the node's name: that is for administrators.
    fn declare_device(&self, name: Option<&str>) -> Result<Done, Failure> {
        self.who.must_administrate()?;
        let mut spec = DeviceSpec::parse(&definition(&self.body)?).map_err(Failure::bad)?;
        match (name, &spec.name) {
            (Some(path), Some(own)) if path != own => {
                return Err(Failure::bad(format!("the path names `{path}`, the definition `{own}`")));
            }
            (Some(path), _) => spec.name = Some(path.to_owned()),
            (None, _) => {}
        }
        show(device(&self.node.devices.declare(spec, &self.node)?))
    }
}

impl From<DeclareError> for Failure {
    fn from(error: DeclareError) -> Failure {
        let status = match &error {
            DeclareError::Taken(_) => StatusCode::CONFLICT,
            DeclareError::Unfit(_) | DeclareError::Name(_) => StatusCode::BAD_REQUEST,
            DeclareError::TooMany => StatusCode::INSUFFICIENT_STORAGE,
            DeclareError::Stopping => StatusCode::SERVICE_UNAVAILABLE,
        };
        Failure::new(status, error.to_string())
    }
}

fn no_device(name: &str) -> Failure {
    Failure::new(StatusCode::NOT_FOUND, format!("there is no device `{name}`"))
}

/// A body's device as the text that `--zmtp` takes: `definition` as it stands, or `kind` and a field per option.
fn definition(body: &Json) -> Result<String, Failure> {
    let map = body.as_object().ok_or_else(|| Failure::bad("the body must be an object"))?;
    match (map.get("definition"), map.len()) {
        (Some(Json::String(text)), 1) => Ok(text.clone()),
        (Some(Json::String(_)), _) => Err(Failure::bad("beside `definition` there can be no other field")),
        (Some(_), _) => Err(Failure::bad("`definition` must be text")),
        (None, _) => written(map),
    }
}

fn written(map: &Map<String, Json>) -> Result<String, Failure> {
    let mut text = match map.get("kind") {
        Some(Json::String(kind)) => part("kind", kind)?.to_owned(),
        Some(_) => return Err(Failure::bad("`kind` must be text")),
        None => return Err(Failure::bad("`kind` or `definition` is missing")),
    };
    for (option, value) in map.iter().filter(|(option, _)| *option != "kind") {
        let values = match value {
            Json::Array(several) => several.as_slice(),
            one => std::slice::from_ref(one),
        };
        for value in values {
            let value = match value {
                Json::String(value) => part(option, value)?.to_owned(),
                Json::Number(value) => value.to_string(),
                _ => return Err(Failure::bad(format!("`{option}` must be text, a number or a list of texts"))),
            };
            text.push_str(&format!(",{}={value}", part("option", option)?));
        }
    }
    Ok(text)
}

/// A comma would begin another option.
fn part<'a>(what: &str, text: &'a str) -> Result<&'a str, Failure> {
    if text.contains(',') {
        return Err(Failure::bad(format!("`{what}` cannot have a comma in it")));
    }
    Ok(text)
}

fn state(condition: Condition) -> &'static str {
    match condition {
        Condition::Running => "running",
        Condition::Stopping => "stopping",
        Condition::Failed => "failed",
    }
}

fn device(view: &DeviceView) -> Json {
    let (figures, counters) = (&view.figures, &view.figures.counters);
    json!({
        "name": view.name, "kind": view.spec.kind.name(), "definition": view.spec.to_string(),
        "declared_by": match view.origin { Origin::Configuration => "configuration", Origin::Request => "request" },
        "state": state(view.condition), "vhost": view.spec.belongs_to(), "endpoints": view.endpoints,
        "peers": figures.connections, "peers_refused": figures.refused, "blocked": counters.blocked,
        "messages": {
            "received": counters.received, "sent": counters.sent, "dropped": counters.dropped,
            "unroutable": counters.unroutable, "discarded": figures.discarded,
        },
        "bytes": { "received": figures.received_bytes, "sent": figures.sent_bytes },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_become_the_text_of_the_option() {
        let body = json!({
            "kind": "streamer", "front": ["bind:tcp://127.0.0.1:0", "connect:tcp://a:1"], "hwm": 5, "queue": "jobs",
        });
        let spec = DeviceSpec::parse(&definition(&body).unwrap()).unwrap();
        assert_eq!((spec.front.attachments.len(), spec.front.hwm, spec.queue.as_deref()), (2, 5, Some("jobs")));
        let text = json!({ "definition": "streamer,front=bind:tcp://127.0.0.1:0,queue=q" });
        assert_eq!(definition(&text).unwrap(), text["definition"]);
    }

    #[test]
    fn what_is_no_definition_is_refused() {
        for (body, want) in [
            (json!([]), "must be an object"),
            (json!({}), "is missing"),
            (json!({ "kind": 1 }), "must be text"),
            (json!({ "definition": 1 }), "must be text"),
            (json!({ "definition": "streamer", "hwm": 1 }), "no other field"),
            (json!({ "kind": "streamer", "queue": "a,vhost=b" }), "comma"),
            (json!({ "kind": "streamer", "a,b": 1 }), "comma"),
            (json!({ "kind": "streamer", "front": {} }), "list of texts"),
            (json!({ "kind": "streamer", "front": [null] }), "list of texts"),
        ] {
            let reason = definition(&body).unwrap_err().reason;
            assert!(reason.contains(want), "{body}: {reason}");
        }
    }
}

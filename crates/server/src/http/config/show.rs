//! How values and versions look as JSON.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value as Json, json};
use waypost_registry::config::{Gray, Item, Look, Past, Rule, split};

/// Whether values are shown, or only told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Values {
    Shown,
    Left,
}

fn put(object: &mut Map<String, Json>, more: Json) {
    if let Json::Object(more) = more {
        object.extend(more);
    }
}

/// A value: as text where it is text, else as base64.
fn value(object: &mut Map<String, Json>, bytes: &[u8]) {
    match std::str::from_utf8(bytes) {
        Ok(text) => object.insert("value".into(), json!(text)),
        Err(_) => object.insert("value_base64".into(), json!(STANDARD.encode(bytes))),
    };
}

fn names(path: &str) -> Json {
    let (namespace, key) = split(path);
    json!({ "path": path, "namespace": namespace, "key": key })
}

/// A path with all that is in force.
pub(super) fn entry(path: &str, look: &Look, values: Values) -> Json {
    let mut object = Map::new();
    put(&mut object, names(path));
    match &look.item {
        Some(i) => item(&mut object, i, values),
        None => put(&mut object, json!({ "deleted": true, "revision": look.index })),
    }
    object.insert("changed".into(), json!(look.changed));
    object.insert("last_version".into(), json!(look.version));
    if let Some(g) = &look.gray {
        object.insert("gray".into(), gray(g, values));
    }
    Json::Object(object)
}

fn item(object: &mut Map<String, Json>, i: &Item, values: Values) {
    put(
        object,
        json!({
            "version": i.version, "revision": i.revision, "created_revision": i.created, "content_type": &*i.content_type,
            "flags": i.flags, "bytes": i.value.len(), "at": i.at, "author": &*i.author, "comment": &*i.comment,
        }),
    );
    if i.lock_index > 0 {
        put(object, json!({ "lock_index": i.lock_index, "session": i.session.as_deref() }));
    }
    if values == Values::Shown {
        value(object, &i.value);
    }
}

/// What one asker gets of a path: nothing of whom else a candidate is for.
pub(super) fn candidate(path: &str, g: &Gray) -> Json {
    let mut object = Map::new();
    put(&mut object, names(path));
    put(&mut object, gray(g, Values::Shown));
    object.remove("rule");
    object.insert("candidate".into(), json!(true));
    Json::Object(object)
}

/// A candidate.
pub(super) fn gray(g: &Gray, values: Values) -> Json {
    let mut object = Map::new();
    put(
        &mut object,
        json!({
            "rule": rule(&g.rule), "version": g.version, "revision": g.revision, "content_type": &*g.content_type,
            "flags": g.flags, "bytes": g.value.len(), "at": g.at, "author": &*g.author, "comment": &*g.comment,
        }),
    );
    if values == Values::Shown {
        value(&mut object, &g.value);
    }
    Json::Object(object)
}

fn rule(r: &Rule) -> Json {
    let mut object = Map::new();
    for (name, list) in [("ids", &r.ids), ("zones", &r.zones), ("tags", &r.tags)] {
        if !list.is_empty() {
            object.insert(name.into(), json!(list));
        }
    }
    if let Some(version) = &r.version {
        object.insert("version".into(), json!(version.to_string()));
    }
    if let Some(percent) = r.percent {
        object.insert("percent".into(), json!(percent));
    }
    Json::Object(object)
}

/// A version of the history.
pub(super) fn past(p: &Past, values: Values) -> Json {
    let mut object = Map::new();
    put(
        &mut object,
        json!({
            "version": p.version, "revision": p.revision, "kind": p.kind.as_str(), "at": p.at, "author": &*p.author,
            "comment": &*p.comment,
        }),
    );
    if let Some((content_type, flags, bytes)) = &p.content {
        put(&mut object, json!({ "content_type": &**content_type, "flags": flags, "bytes": bytes.len() }));
        if values == Values::Shown {
            value(&mut object, bytes);
        }
    }
    if let Some(from) = p.from {
        object.insert("from_version".into(), json!(from));
    }
    if let Some(r) = &p.rule {
        object.insert("rule".into(), rule(r));
    }
    Json::Object(object)
}

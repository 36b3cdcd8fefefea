//! JSON as Consul takes it: names of members whatever their case, with underscores or without; `null` for what is not there;
//! durations as texts or as nanoseconds; members that are not known are passed over, since clients of newer versions send
//! some.

use bytes::Bytes;
use serde_json::{Map, Value};

use super::super::request::Failure;
use super::params::duration;

/// An object.
#[derive(Clone, Copy, Debug)]
pub(super) struct Object<'a>(&'a Map<String, Value>);

fn failed(what: impl std::fmt::Display) -> Failure {
    Failure::bad(format!("Request decode failed: {what}"))
}

/// The body as JSON.
///
/// # Errors
/// 400 as Consul says it.
pub(super) fn decode(body: &Bytes) -> Result<Value, Failure> {
    serde_json::from_slice(body).map_err(failed)
}

fn is_named(key: &str, name: &str) -> bool {
    let mut letters = key.bytes().filter(|b| *b != b'_');
    name.bytes().all(|b| letters.next().is_some_and(|k| k.eq_ignore_ascii_case(&b))) && letters.next().is_none()
}

impl<'a> Object<'a> {
    /// A value that is to be an object.
    ///
    /// # Errors
    /// 400.
    pub(super) fn of(value: &'a Value, what: &str) -> Result<Object<'a>, Failure> {
        value.as_object().map(Object).ok_or_else(|| failed(format_args!("{what} must be an object")))
    }

    /// A member that is there and not null.
    pub(super) fn get(self, name: &str) -> Option<&'a Value> {
        let found = self.0.get(name).or_else(|| self.0.iter().find(|(key, _)| is_named(key, name)).map(|(_, v)| v));
        found.filter(|value| !value.is_null())
    }

    /// A text; empty if it is not there.
    pub(super) fn text(self, name: &str) -> Result<&'a str, Failure> {
        match self.get(name) {
            None => Ok(""),
            Some(Value::String(text)) => Ok(text),
            Some(_) => Err(failed(format_args!("{name} must be a string"))),
        }
    }

    pub(super) fn flag(self, name: &str) -> Result<bool, Failure> {
        match self.get(name) {
            None => Ok(false),
            Some(Value::Bool(yes)) => Ok(*yes),
            Some(_) => Err(failed(format_args!("{name} must be a bool"))),
        }
    }

    /// A whole number from 0 to `max`. Clients of languages without integers write `80.0`, too.
    pub(super) fn number(self, name: &str, max: u64) -> Result<Option<u64>, Failure> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let whole = value.as_f64().filter(|f| f.fract() == 0.0 && *f >= 0.0 && *f <= max as f64).map(|f| f as u64);
        let number = value.as_u64().filter(|n| *n <= max).or(whole);
        number.map(Some).ok_or_else(|| failed(format_args!("{name} must be a number from 0 to {max}")))
    }

    /// A duration, in ms; nothing for none and for an empty text.
    pub(super) fn duration_ms(self, name: &str) -> Result<Option<u64>, Failure> {
        let wrong = || failed(format_args!("{name} must be a duration such as \"10s\""));
        match self.get(name) {
            None => Ok(None),
            Some(Value::String(text)) if text.is_empty() => Ok(None),
            Some(Value::String(text)) => {
                let ms = duration(text).ok_or_else(wrong)?.as_millis();
                u64::try_from(ms).map(Some).map_err(|_| wrong())
            }
            Some(number) => Ok(Some(number.as_u64().ok_or_else(wrong)? / 1_000_000).filter(|ms| *ms > 0)),
        }
    }

    /// Texts; none if it is not there.
    pub(super) fn texts(self, name: &str) -> Result<Vec<&'a str>, Failure> {
        let wrong = || failed(format_args!("{name} must be an array of strings"));
        match self.get(name) {
            None => Ok(Vec::new()),
            Some(Value::Array(items)) => items.iter().map(|item| item.as_str().ok_or_else(wrong)).collect(),
            Some(_) => Err(wrong()),
        }
    }

    /// Texts by key.
    pub(super) fn pairs(self, name: &str) -> Result<Vec<(&'a str, &'a str)>, Failure> {
        let wrong = || failed(format_args!("{name} must be an object of strings"));
        match self.get(name) {
            None => Ok(Vec::new()),
            Some(Value::Object(map)) => {
                map.iter().map(|(key, value)| Ok((&**key, value.as_str().ok_or_else(wrong)?))).collect()
            }
            Some(_) => Err(wrong()),
        }
    }

    /// Objects.
    pub(super) fn objects(self, name: &str) -> Result<Vec<Object<'a>>, Failure> {
        match self.get(name) {
            None => Ok(Vec::new()),
            Some(Value::Array(items)) => {
                items.iter().filter(|item| !item.is_null()).map(|item| Object::of(item, name)).collect()
            }
            Some(_) => Err(failed(format_args!("{name} must be an array"))),
        }
    }

    /// An object.
    pub(super) fn object(self, name: &str) -> Result<Option<Object<'a>>, Failure> {
        self.get(name).map(|value| Object::of(value, name)).transpose()
    }

    pub(super) fn is_empty(self) -> bool {
        self.0.values().all(Value::is_null)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn names_and_values_as_clients_write_them() {
        let value = json!({
            "name": "a", "TTL": "15s", "interval": 10_000_000_000_u64, "deregister_critical_service_after": "1m",
            "Tags": null, "port": 80.0, "Unknown": {},
        });
        let object = Object::of(&value, "the body").unwrap();
        assert_eq!(object.text("Name").unwrap(), "a");
        assert_eq!(object.duration_ms("TTL").unwrap(), Some(15_000));
        assert_eq!(object.duration_ms("Interval").unwrap(), Some(10_000));
        assert_eq!(object.duration_ms("DeregisterCriticalServiceAfter").unwrap(), Some(60_000));
        assert_eq!(object.number("Port", 65_535).unwrap(), Some(80));
        assert!(object.texts("Tags").unwrap().is_empty());
        assert!(object.text("Port").is_err() && object.number("Port", 79).is_err());
        let error = decode(&Bytes::from_static(b"{")).unwrap_err();
        assert!(error.reason.starts_with("Request decode failed: "), "{}", error.reason);
    }
}

//! JSON as Consul takes it: names of members whatever their case, with underscores or without; `null` for what is not there;
//! durations as texts or as nanoseconds; members that are not known are passed over, since clients of newer versions send
//! some.
//!
//! What is read is looked at once and thrown away, so it borrows its texts, and objects are lists.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Number, Value};

use super::super::request::Failure;
use super::params::duration;

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Json<'a> {
    Null,
    Flag(bool),
    Number(Number),
    Text(Cow<'a, str>),
    List(Vec<Json<'a>>),
    /// In the order in which they were written; of those with the same name the last counts.
    Members(Vec<(Cow<'a, str>, Json<'a>)>),
}

/// An object.
#[derive(Clone, Copy, Debug)]
pub(super) struct Object<'a>(&'a [(Cow<'a, str>, Json<'a>)]);

fn failed(what: impl std::fmt::Display) -> Failure {
    Failure::bad(format!("Request decode failed: {what}"))
}

/// The body as JSON.
///
/// # Errors
/// 400 as Consul says it.
pub(super) fn decode(body: &[u8]) -> Result<Json<'_>, Failure> {
    serde_json::from_slice(body).map_err(failed)
}

impl<'de: 'a, 'a> Deserialize<'de> for Json<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Json<'a>, D::Error> {
        from.deserialize_any(Reader)
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Json<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any valid JSON value")
    }

    fn visit_unit<E>(self) -> Result<Json<'de>, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, flag: bool) -> Result<Json<'de>, E> {
        Ok(Json::Flag(flag))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Json<'de>, E> {
        Ok(Json::Number(number.into()))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Json<'de>, E> {
        Ok(Json::Number(number.into()))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Json<'de>, E> {
        Number::from_f64(number).map(Json::Number).ok_or_else(|| E::custom("a number beyond all limits"))
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Json<'de>, E> {
        Ok(Json::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Json<'de>, E> {
        Ok(Json::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Json<'de>, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Json::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut from: A) -> Result<Json<'de>, A::Error> {
        let mut members = Vec::new();
        while let Some((Name(name), value)) = from.next_entry()? {
            if members.is_empty() {
                // What is registered has a few. Room for those that never come would be a hundred times what is sent.
                members.reserve(8);
            }
            members.push((name, value));
        }
        Ok(Json::Members(members))
    }
}

/// The name of a member.
struct Name<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Name<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Name<'a>, D::Error> {
        match Json::deserialize(from)? {
            Json::Text(name) => Ok(Name(name)),
            _ => Err(D::Error::custom("a name that is no text")),
        }
    }
}

impl<'a> From<&'a Value> for Json<'a> {
    fn from(value: &'a Value) -> Json<'a> {
        match value {
            Value::Null => Json::Null,
            Value::Bool(flag) => Json::Flag(*flag),
            Value::Number(number) => Json::Number(number.clone()),
            Value::String(text) => Json::Text(Cow::Borrowed(text)),
            Value::Array(items) => Json::List(items.iter().map(Json::from).collect()),
            Value::Object(map) => {
                Json::Members(map.iter().map(|(name, value)| (Cow::Borrowed(&**name), value.into())).collect())
            }
        }
    }
}

impl Json<'_> {
    pub(super) fn is_null(&self) -> bool {
        *self == Json::Null
    }

    /// A text.
    pub(super) fn as_text(&self) -> Option<&str> {
        if let Json::Text(text) = self { Some(text) } else { None }
    }

    /// What is in an array.
    pub(super) fn as_list(&self) -> Option<&[Json<'_>]> {
        if let Json::List(items) = self { Some(items) } else { None }
    }
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
    pub(super) fn of(value: &'a Json<'a>, what: &str) -> Result<Object<'a>, Failure> {
        match value {
            Json::Members(members) => Ok(Object(members)),
            _ => Err(failed(format_args!("{what} must be an object"))),
        }
    }

    /// A member that is there and not null.
    pub(super) fn get(self, name: &str) -> Option<&'a Json<'a>> {
        let last = |name: &str| self.0.iter().rev().find(|(key, _)| key == name);
        let similar = || self.0.iter().find(|(key, _)| is_named(key, name)).and_then(|(key, _)| last(key));
        last(name).or_else(similar).map(|(_, value)| value).filter(|value| !value.is_null())
    }

    /// All members, in order of their names.
    pub(super) fn members(self) -> Vec<(&'a str, &'a Json<'a>)> {
        let mut all: Vec<_> = self.0.iter().rev().map(|(name, value)| (&**name, value)).collect();
        // The order of equals stays: the last of them is in front.
        all.sort_by_key(|(name, _)| *name);
        all.dedup_by_key(|(name, _)| *name);
        all
    }

    /// A text; empty if it is not there.
    pub(super) fn text(self, name: &str) -> Result<&'a str, Failure> {
        match self.get(name) {
            None => Ok(""),
            Some(Json::Text(text)) => Ok(text),
            Some(_) => Err(failed(format_args!("{name} must be a string"))),
        }
    }

    pub(super) fn flag(self, name: &str) -> Result<bool, Failure> {
        match self.get(name) {
            None => Ok(false),
            Some(Json::Flag(yes)) => Ok(*yes),
            Some(_) => Err(failed(format_args!("{name} must be a bool"))),
        }
    }

    /// A whole number from 0 to `max`. Clients of languages without integers write `80.0`, too.
    pub(super) fn number(self, name: &str, max: u64) -> Result<Option<u64>, Failure> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let number = if let Json::Number(number) = value { Some(number) } else { None };
        let is_whole = |f: &f64| f.fract() == 0.0 && *f >= 0.0 && *f <= max as f64;
        let whole = || number?.as_f64().filter(is_whole).map(|f| f as u64);
        number
            .and_then(Number::as_u64)
            .filter(|n| *n <= max)
            .or_else(whole)
            .map(Some)
            .ok_or_else(|| failed(format_args!("{name} must be a number from 0 to {max}")))
    }

    /// A duration, in ms; nothing for none and for an empty text.
    pub(super) fn duration_ms(self, name: &str) -> Result<Option<u64>, Failure> {
        let wrong = || failed(format_args!("{name} must be a duration such as \"10s\""));
        match self.get(name) {
            None => Ok(None),
            Some(Json::Text(text)) if text.is_empty() => Ok(None),
            Some(Json::Text(text)) => {
                let ms = duration(text).ok_or_else(wrong)?.as_millis();
                u64::try_from(ms).map(Some).map_err(|_| wrong())
            }
            Some(Json::Number(number)) => Ok(Some(number.as_u64().ok_or_else(wrong)? / 1_000_000).filter(|ms| *ms > 0)),
            Some(_) => Err(wrong()),
        }
    }

    /// Texts; none if it is not there.
    pub(super) fn texts(self, name: &str) -> Result<Vec<&'a str>, Failure> {
        let wrong = || failed(format_args!("{name} must be an array of strings"));
        match self.get(name) {
            None => Ok(Vec::new()),
            Some(value) => {
                value.as_list().ok_or_else(wrong)?.iter().map(|item| item.as_text().ok_or_else(wrong)).collect()
            }
        }
    }

    /// Texts by key.
    pub(super) fn pairs(self, name: &str) -> Result<Vec<(&'a str, &'a str)>, Failure> {
        let wrong = || failed(format_args!("{name} must be an object of strings"));
        match self.get(name) {
            None => Ok(Vec::new()),
            Some(value) => {
                let members = Object::of(value, name).map_err(|_| wrong())?.members();
                members.into_iter().map(|(key, value)| Ok((key, value.as_text().ok_or_else(wrong)?))).collect()
            }
        }
    }

    /// Objects.
    pub(super) fn objects(self, name: &str) -> Result<Vec<Object<'a>>, Failure> {
        match self.get(name) {
            None => Ok(Vec::new()),
            Some(Json::List(items)) => {
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
        self.members().into_iter().all(|(_, value)| value.is_null())
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
        let value = Json::from(&value);
        let object = Object::of(&value, "the body").unwrap();
        assert_eq!(object.text("Name").unwrap(), "a");
        assert_eq!(object.duration_ms("TTL").unwrap(), Some(15_000));
        assert_eq!(object.duration_ms("Interval").unwrap(), Some(10_000));
        assert_eq!(object.duration_ms("DeregisterCriticalServiceAfter").unwrap(), Some(60_000));
        assert_eq!(object.number("Port", 65_535).unwrap(), Some(80));
        assert!(object.texts("Tags").unwrap().is_empty());
        assert!(object.text("Port").is_err() && object.number("Port", 79).is_err());
        let error = decode(b"{").unwrap_err();
        assert!(error.reason.starts_with("Request decode failed: "), "{}", error.reason);
    }

    #[test]
    fn objects_without_members_take_no_room() {
        let Ok(Json::List(objects)) = decode(b"[{},{}]") else { panic!("no list") };
        assert!(objects.iter().all(|object| matches!(object, Json::Members(none) if none.capacity() == 0)));
    }

    #[test]
    fn texts_are_read_as_they_are_meant_and_the_last_of_a_name_counts() {
        let body = br#"{"a":"\u00e4\n","name":"1","Name":"2","NAME":"3","Name":"4","m":{"b":"1","a":"2","b":"3"},"f":-1.5,"l":[null,true]}"#;
        let value = decode(body).unwrap();
        let object = Object::of(&value, "the body").unwrap();
        assert_eq!(object.text("A").unwrap(), "\u{e4}\n");
        assert_eq!(object.text("Name").unwrap(), "4");
        assert_eq!(object.text("NAme").unwrap(), "1", "the first that is similar");
        assert_eq!(object.pairs("M").unwrap(), [("a", "2"), ("b", "3")]);
        assert_eq!(Object::of(object.get("M").unwrap(), "m").unwrap().text("B").unwrap(), "3");
        assert!(object.number("f", 9).is_err() && object.objects("l").is_err() && object.duration_ms("f").is_err());
        let same: Value = serde_json::from_slice(br#"{"x":[1,-2,3.5,"t",{"y":null}],"z":true}"#).unwrap();
        assert_eq!(Json::from(&same), decode(same.to_string().as_bytes()).unwrap());
        assert!(decode("[".repeat(100_000).as_bytes()).is_err(), "no deeper than the stack");
        assert!(decode(b"{} x").is_err() && decode(b"1e999").is_err() && decode(b"{1:2}").is_err());
    }
}

//! What a client says of itself: the table `x-service` of a consumer, or `service` of its connection.

use std::sync::Arc;

use waypost_model::Refusal;
use waypost_model::service::{Instance, Version, is_service_name};
use waypost_model::table::{Table, Value};

/// What was said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Identity {
    /// The service, where that is not decided otherwise.
    pub name: Option<Box<str>>,
    /// The instance's id, if one was given.
    pub id: Option<Box<str>>,
    /// Everything; the id is empty if none was given.
    pub instance: Option<Instance>,
    /// Whether it says more than name and id.
    pub described: bool,
}

/// What one of the tables is called in messages.
const WHERE: &str = "x-service";

fn wrong<T>(key: &str, what: &str) -> Result<T, Refusal> {
    Err(Refusal::precondition_failed(format!("invalid '{key}' in '{WHERE}': {what}")))
}

impl Identity {
    /// Reads what was said: a table, or only the service's name.
    ///
    /// # Errors
    /// 406 with the key that is wrong.
    pub fn read(said: &Value) -> Result<Identity, Refusal> {
        match said {
            Value::Table(table) => Identity::of(table),
            Value::LongStr(_) => Ok(Identity { name: Some(name(said)?), ..Identity::default() }),
            _ => Err(Refusal::precondition_failed(format!("invalid '{WHERE}': neither a table nor a text"))),
        }
    }

    fn of(table: &Table) -> Result<Identity, Refusal> {
        let mut i = Instance::new("");
        let mut identity = Identity::default();
        for (key, value) in table.iter() {
            let own = matches!(key, "name" | "id");
            identity.described |= !own;
            match key {
                "name" => identity.name = Some(name(value)?),
                "id" => identity.id = Some(text(key, value)?),
                "version" => i.version = Some(Arc::new(version(&text(key, value)?)?)),
                "zone" => i.zone = text(key, value)?.into(),
                "tags" => i.tags = tags(value)?.into(),
                "meta" => i.meta = meta(value)?.into(),
                "weight" => i.weight = number(key, value)?,
                "max_in_flight" => i.max_in_flight = Some(positive(key, value)?),
                "address" => i.address = Some(text(key, value)?).filter(|a| !a.is_empty()),
                "port" => i.port = number(key, value)?,
                _ => return wrong(key, "no such key"),
            }
        }
        i.id = identity.id.clone().unwrap_or_default();
        identity.instance = Some(i);
        Ok(identity)
    }
}

fn name(value: &Value) -> Result<Box<str>, Refusal> {
    match value.as_str() {
        Some(name) if is_service_name(name) => Ok(name.into()),
        _ => wrong("name", "a service's name has 1 to 63 of a-z, 0-9 and -"),
    }
}

fn text(key: &str, value: &Value) -> Result<Box<str>, Refusal> {
    match value {
        Value::LongStr(_) => value.as_str().map_or_else(|| wrong(key, "no UTF-8"), |t| Ok(t.into())),
        other => match other.as_i64() {
            Some(n) => Ok(n.to_string().into()),
            None => wrong(key, "not a text"),
        },
    }
}

fn number<T: TryFrom<i64>>(key: &str, value: &Value) -> Result<T, Refusal> {
    let n = value.as_i64().or_else(|| value.as_str()?.trim().parse().ok());
    n.and_then(|n| T::try_from(n).ok()).map_or_else(|| wrong(key, "not a number in range"), Ok)
}

/// Who would take nothing is no consumer, and who means no limit says nothing.
fn positive(key: &str, value: &Value) -> Result<u32, Refusal> {
    match number(key, value)? {
        0 => wrong(key, "at least 1; leave it out for no limit"),
        n => Ok(n),
    }
}

/// Also `2`, `2.1` and `v2.1.0` are versions.
fn version(text: &str) -> Result<Version, Refusal> {
    let bare = text.strip_prefix('v').unwrap_or(text);
    let end = bare.find(['-', '+']).unwrap_or(bare.len());
    let (core, rest) = bare.split_at(end);
    let missing = 2usize.saturating_sub(core.matches('.').count());
    let whole = format!("{core}{}{rest}", ".0".repeat(missing));
    Version::parse(&whole).map_or_else(|e| wrong("version", &e.to_string()), Ok)
}

fn tags(value: &Value) -> Result<Vec<Box<str>>, Refusal> {
    match value {
        Value::Array(items) => items.iter().map(|item| text("tags", item)).collect(),
        // A number is a tag in an array, but no list of them.
        Value::LongStr(_) => {
            let list = text("tags", value)?;
            Ok(list.split(',').map(str::trim).filter(|t| !t.is_empty()).map(Into::into).collect())
        }
        _ => wrong("tags", "neither an array nor a text"),
    }
}

fn meta(value: &Value) -> Result<Vec<(Box<str>, Box<str>)>, Refusal> {
    let Some(table) = value.as_table() else {
        return wrong("meta", "not a table");
    };
    table
        .iter()
        .map(|(key, value)| match value.as_bool() {
            Some(b) => Ok((key.into(), b.to_string().into())),
            None => Ok((key.into(), text("meta", value)?)),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(entries: &[(&str, Value)]) -> Value {
        let with = |t: Table, (k, v): &(&str, Value)| t.with(*k, v.clone());
        Value::Table(entries.iter().fold(Table::new(), with))
    }

    fn said(text: &str) -> Value {
        Value::LongStr(text.into())
    }

    #[test]
    fn every_key_is_read() {
        let meta = table(&[("gpu", Value::Bool(true)), ("rank", Value::I32(3))]);
        let entries = [
            ("id", said("cart-1")),
            ("name", said("cart")),
            ("version", said("v2.1")),
            ("zone", said("eu-1")),
            ("tags", said("b, a,,b")),
            ("meta", meta),
            ("weight", Value::U8(7)),
            ("max_in_flight", said("12")),
            ("address", said("10.0.0.1")),
            ("port", Value::I64(8080)),
        ];
        let identity = Identity::read(&table(&entries)).unwrap();
        let i = identity.instance.unwrap().checked().unwrap();
        assert_eq!((&*identity.name.unwrap(), &*i.id, &*i.zone), ("cart", "cart-1", "eu-1"));
        assert_eq!((i.version.unwrap().to_string(), i.weight, i.port), ("2.1.0".to_owned(), 7, 8080));
        assert_eq!((i.max_in_flight, i.address.as_deref(), i.tags.len()), (Some(12), Some("10.0.0.1"), 2));
        assert_eq!(i.meta.to_vec(), [("gpu".into(), "true".into()), ("rank".into(), "3".into())]);
        assert!(identity.described);
    }

    #[test]
    fn a_bare_id_describes_nothing() {
        let identity = Identity::read(&table(&[("id", said("cart-1"))])).unwrap();
        assert!(!identity.described && identity.id.as_deref() == Some("cart-1"));
        assert_eq!(Identity::read(&said("cart")).unwrap().name.as_deref(), Some("cart"));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (key, value) in [
            ("name", said("Cart")),
            ("version", said("two")),
            ("weight", Value::I32(-1)),
            ("port", Value::I32(70_000)),
            ("tags", Value::Bool(true)),
            ("tags", Value::I32(5)),
            ("max_in_flight", Value::I32(0)),
            ("meta", said("x")),
            ("colour", said("red")),
        ] {
            let text = Identity::read(&table(&[(key, value)])).unwrap_err().text;
            assert!(text.contains(&format!("'{key}'")), "{text}");
        }
        assert!(Identity::read(&Value::I32(1)).is_err());
    }
}

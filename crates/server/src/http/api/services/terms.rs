//! For whom a message is, as the query says it.

use hyper::Uri;
use waypost_model::props::{PropsOwned, ShortStr};
use waypost_model::table::{Table, Value};

use super::super::super::request::{self, Failure};
use super::{duration, millis};

/// Conditions of a selector; `meta-<key>` beside.
const CONDITIONS: [&str; 5] = ["version", "zone", "tag", "instance", "select"];

/// What a query says of a message beside its selector.
#[derive(Debug, Default)]
pub(super) struct Terms {
    /// Whether a message that nobody can take comes back.
    pub mandatory: bool,
    /// How long an asker waits.
    pub timeout: Option<std::time::Duration>,
    /// How long an answer is kept.
    pub keep: Option<std::time::Duration>,
    /// Whether the answer is to be fetched later.
    pub is_async: bool,
}

/// Reads the query of a page that sends: the selector and the delivery go into the message's headers, where routing reads
/// them. `more` are the parameters that only this page has.
pub(super) fn read(uri: &Uri, props: &mut PropsOwned, more: &[&str]) -> Result<Terms, Failure> {
    let mut headers = props.headers.take().unwrap_or_default();
    let (mut terms, mut tags) = (Terms::default(), Vec::new());
    for (name, value) in request::pairs(uri) {
        match name.as_str() {
            "vhost" => {}
            "tag" => tags.push(value),
            name if CONDITIONS.contains(&name) || name.strip_prefix("meta-").is_some_and(|key| !key.is_empty()) => {
                set(&mut headers, &format!("x-{name}"), Value::from(value))?;
            }
            "deliver" if ["one", "all", "key"].contains(&value.as_str()) => {
                set(&mut headers, "x-deliver", Value::from(value))?;
            }
            "deliver" => return Err(Failure::bad("`deliver` must be one, all or key")),
            "key" => set(&mut headers, "x-key", Value::from(value))?,
            "wait" => {
                let wait = i64::try_from(millis(duration("wait", &value)?)).unwrap_or(i64::MAX);
                set(&mut headers, "x-wait", Value::I64(wait))?;
            }
            "ttl" => props.expiration = Some(expiration("ttl", &value)?),
            "persistent" if value == "true" => props.delivery_mode = Some(2),
            "persistent" if value == "false" => props.delivery_mode = Some(1),
            "priority" => {
                let priority = value.parse().map_err(|_| Failure::bad("`priority` must be 0 to 255"))?;
                props.priority = Some(priority);
            }
            name if !more.contains(&name) => return Err(Failure::bad(format!("unknown parameter `{name}`"))),
            "mandatory" => terms.mandatory = yes("mandatory", &value)?,
            "async" => terms.is_async = yes("async", &value)?,
            "timeout" => terms.timeout = Some(duration("timeout", &value)?),
            "keep" => terms.keep = Some(duration("keep", &value)?),
            name => return Err(Failure::bad(format!("`{name}` has no such value"))),
        }
    }
    if !tags.is_empty() {
        set(&mut headers, "x-tag", Value::from(tags.join(",")))?;
    }
    props.headers = (!headers.is_empty()).then_some(headers);
    Ok(terms)
}

fn set(headers: &mut Table, name: &str, value: Value) -> Result<(), Failure> {
    if headers.get(name).is_some() {
        return Err(Failure::bad(format!("`{name}` is given twice")));
    }
    headers.set(name, value);
    Ok(())
}

/// A length of time as property `expiration` has it.
pub(super) fn expiration(name: &str, value: &str) -> Result<ShortStr, Failure> {
    let ms = u32::try_from(millis(duration(name, value)?));
    let ms = ms.map_err(|_| Failure::bad(format!("`{name}` is more than 49 days")))?;
    ShortStr::new(ms.to_string()).ok_or_else(|| Failure::bad(format!("`{name}` is too long")))
}

fn yes(name: &str, value: &str) -> Result<bool, Failure> {
    match value {
        "true" | "" => Ok(true),
        "false" => Ok(false),
        _ => Err(Failure::bad(format!("`{name}` must be true or false"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(query: &str) -> Result<(PropsOwned, Terms), Failure> {
        let mut props = PropsOwned::default();
        let uri: Uri = format!("/x?{query}").parse().unwrap();
        let terms = read(&uri, &mut props, &["mandatory", "timeout"])?;
        Ok((props, terms))
    }

    #[test]
    fn what_a_query_says() {
        let query =
            "version=%5E2&tag=gpu&tag=fast&meta-team=a%20b&deliver=key&key=k&wait=5s&ttl=1m&mandatory&timeout=2s";
        let (props, terms) = given(query).unwrap();
        let headers = props.headers.unwrap();
        let text = |name: &str| headers.get(name).unwrap().as_str().unwrap().to_owned();
        assert_eq!(
            (text("x-version"), text("x-tag"), text("x-meta-team")),
            ("^2".into(), "gpu,fast".into(), "a b".into())
        );
        assert_eq!((text("x-deliver"), text("x-key")), ("key".into(), "k".into()));
        assert_eq!(headers.get("x-wait").unwrap().as_i64(), Some(5000));
        assert_eq!(props.expiration.unwrap().as_str(), Some("60000"));
        assert!(terms.mandatory);
        assert_eq!(terms.timeout, Some(std::time::Duration::from_secs(2)));
    }

    #[test]
    fn nothing_is_ignored() {
        for bad in
            ["verzion=1", "deliver=some", "wait=5", "ttl=60d", "async", "priority=300", "zone=a&zone=b", "meta-=x"]
        {
            assert!(given(bad).is_err(), "{bad}");
        }
    }
}

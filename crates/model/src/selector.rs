//! Selectors: which instances of a service may take a message.
//!
//! A selector is a set of conditions that must all hold: a version requirement, a zone, tags, metadata, one instance, and
//! one filter expression. Its *canonical text* is the query form with the conditions in order and their values in one
//! spelling, so that equal selectors have equal texts; the text is a selector again, equal to the first.

use std::fmt;

use semver::VersionReq;

use crate::filter::{Fields, Filter, Kind, Path, Value as Field};
use crate::refusal::Refusal;
use crate::service::{INSTANCE_ID_MAX, Instance, META_VALUE_MAX, WORD_MAX};

/// Longest selector, in bytes of its canonical text, and of what it was read from.
pub const SELECTOR_BYTES_MAX: usize = 2048;

/// Most conditions of a selector.
pub const SELECTOR_TERMS_MAX: usize = 32;

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Selector {
    version: Option<VersionReq>,
    zone: Option<Box<str>>,
    /// Sorted, each once.
    tags: Vec<Box<str>>,
    /// Sorted by key, each once.
    meta: Vec<(Box<str>, Box<str>)>,
    instance: Option<Box<str>>,
    filter: Option<Box<Filter>>,
    text: Box<str>,
}

/// Why something is no selector.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid selector: {0}")]
pub struct SelectorError(String);

impl From<SelectorError> for Refusal {
    fn from(e: SelectorError) -> Refusal {
        Refusal::precondition_failed(e.to_string())
    }
}

fn wrong<T>(what: impl Into<String>) -> Result<T, SelectorError> {
    Err(SelectorError(what.into()))
}

/// Two selectors are equal if their texts are.
impl PartialEq for Selector {
    fn eq(&self, other: &Selector) -> bool {
        self.text == other.text
    }
}

impl Eq for Selector {}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Selector {
    /// Reads the query form: `version=^2&zone=eu-1&tag=gpu&meta-x=y&instance=id&select=…`, values percent-encoded. An
    /// empty text selects every instance.
    ///
    /// # Errors
    /// [`SelectorError`].
    pub fn parse(query: &str) -> Result<Selector, SelectorError> {
        let mut b = SelectorBuilder::default();
        b.query(query)?;
        b.finish()
    }

    /// Whether every instance matches.
    #[must_use]
    pub fn is_any(&self) -> bool {
        self.text.is_empty()
    }

    /// The canonical text.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether it holds compiled regular expressions, which take memory of another order.
    #[must_use]
    pub fn is_heavy(&self) -> bool {
        self.filter.as_ref().is_some_and(|f| f.to_string().contains(" matches "))
    }

    /// Whether an instance may take messages with this selector.
    #[must_use]
    pub fn is_match(&self, i: &Instance) -> bool {
        self.instance.as_ref().is_none_or(|id| *id == i.id)
            && self.zone.as_ref().is_none_or(|z| **z == *i.zone)
            && self.version.as_ref().is_none_or(|v| i.version.as_ref().is_some_and(|own| v.matches(own)))
            && self.tags.iter().all(|t| i.has_tag(t))
            && self.meta.iter().all(|(k, v)| i.meta(k) == Some(v))
            && self.filter.as_ref().is_none_or(|f| f.matches(i))
    }

    /// The same, with the first condition that does not hold.
    ///
    /// # Errors
    /// That condition, with what the instance has instead.
    pub fn matches(&self, i: &Instance) -> Result<(), String> {
        let fail = |text: String| Err(text);
        if let Some(id) = self.instance.as_ref().filter(|id| **id != i.id) {
            return fail(format!("instance = {id}"));
        }
        if let Some(z) = self.zone.as_ref().filter(|z| ***z != *i.zone) {
            return fail(format!("zone = {z}, it has {}", or_none(&i.zone)));
        }
        if let Some(v) = &self.version {
            match &i.version {
                None => return fail(format!("version {v}, it has none")),
                Some(own) if !v.matches(own) => return fail(format!("version {v}, it has {own}")),
                Some(_) => {}
            }
        }
        if let Some(t) = self.tags.iter().find(|t| !i.has_tag(t)) {
            return fail(format!("tag = {t}"));
        }
        if let Some((k, v)) = self.meta.iter().find(|(k, v)| i.meta(k) != Some(v)) {
            return fail(format!("meta {k} = {v}, it has {}", or_none(i.meta(k).unwrap_or_default())));
        }
        match self.filter.as_ref().and_then(|f| f.failing(i)) {
            Some(part) => fail(part),
            None => Ok(()),
        }
    }
}

fn or_none(text: &str) -> &str {
    if text.is_empty() { "none" } else { text }
}

/// Gathers the conditions of a selector from wherever they stand. Those given twice must say the same; tags add up.
#[derive(Debug, Default)]
pub struct SelectorBuilder {
    version: Option<VersionReq>,
    zone: Option<Box<str>>,
    tags: Vec<Box<str>>,
    meta: Vec<(Box<str>, Box<str>)>,
    instance: Option<Box<str>>,
    filter: Option<(Box<str>, Box<Filter>)>,
    terms: usize,
    bytes: usize,
}

impl SelectorBuilder {
    /// Adds the conditions of a query form.
    ///
    /// # Errors
    /// [`SelectorError`].
    pub fn query(&mut self, query: &str) -> Result<(), SelectorError> {
        if query.len() > SELECTOR_BYTES_MAX {
            return too_long();
        }
        for term in query.split('&').filter(|t| !t.is_empty()) {
            let Some((name, value)) = term.split_once('=') else {
                return wrong(format!("`{term}` has no value"));
            };
            self.add(&decoded(name)?, &decoded(value)?)?;
        }
        Ok(())
    }

    /// Adds a condition: `version`, `zone`, `tag` (several may be separated by commas), `instance`, `select` or
    /// `meta-<key>`.
    ///
    /// # Errors
    /// [`SelectorError`].
    pub fn add(&mut self, name: &str, value: &str) -> Result<(), SelectorError> {
        self.one_more()?;
        self.bytes += name.len() + value.len() + 2;
        if self.bytes > SELECTOR_BYTES_MAX {
            return too_long();
        }
        match name {
            "version" => once(&mut self.version, requirement(value)?, name),
            "zone" => once(&mut self.zone, word(name, value, WORD_MAX)?, name),
            "instance" => once(&mut self.instance, word(name, value, INSTANCE_ID_MAX)?, name),
            "tag" => self.tags(value),
            "select" => self.select(value),
            _ => match name.strip_prefix("meta-") {
                Some(key) if (1..=WORD_MAX).contains(&key.len()) => self.meta(key, value),
                Some(_) => wrong(format!("a key of `meta` has 1 to {WORD_MAX} bytes")),
                None => wrong(format!("`{}` is no condition", name.escape_debug())),
            },
        }
    }

    /// Counts a condition.
    fn one_more(&mut self) -> Result<(), SelectorError> {
        self.terms += 1;
        if self.terms > SELECTOR_TERMS_MAX {
            return wrong(format!("more than {SELECTOR_TERMS_MAX} conditions"));
        }
        Ok(())
    }

    /// Each tag is a condition of its own, whether it comes alone or in a list.
    fn tags(&mut self, value: &str) -> Result<(), SelectorError> {
        for (at, tag) in value.split(',').map(str::trim).enumerate() {
            if at > 0 {
                self.one_more()?;
            }
            self.tags.push(word("tag", tag, WORD_MAX)?);
        }
        Ok(())
    }

    fn select(&mut self, value: &str) -> Result<(), SelectorError> {
        let filter = Filter::parse(value, kind).map_err(|e| SelectorError(e.to_string()))?;
        let text = filter.to_string().into();
        match &self.filter {
            Some((known, _)) if *known != text => wrong("two different values for `select`"),
            Some(_) => Ok(()),
            None => {
                self.filter = Some((text, Box::new(filter)));
                Ok(())
            }
        }
    }

    fn meta(&mut self, key: &str, value: &str) -> Result<(), SelectorError> {
        if value.len() > META_VALUE_MAX {
            return wrong(format!("values of `meta` have at most {META_VALUE_MAX} bytes"));
        }
        match self.meta.iter().find(|(k, _)| **k == *key) {
            Some((_, v)) if **v != *value => wrong(format!("two different values for `meta-{key}`")),
            Some(_) => Ok(()),
            None => {
                self.meta.push((key.into(), value.into()));
                Ok(())
            }
        }
    }

    /// The selector.
    ///
    /// # Errors
    /// It is too long.
    pub fn finish(mut self) -> Result<Selector, SelectorError> {
        self.tags.sort_unstable();
        self.tags.dedup();
        self.meta.sort_unstable();
        let text = self.text();
        if text.len() > SELECTOR_BYTES_MAX {
            return too_long();
        }
        Ok(Selector {
            version: self.version,
            zone: self.zone,
            tags: self.tags,
            meta: self.meta,
            instance: self.instance,
            filter: self.filter.map(|(_, f)| f),
            text: text.into(),
        })
    }

    fn text(&self) -> String {
        let mut text = String::new();
        let mut put = |name: &str, key: &str, value: &str| {
            if !text.is_empty() {
                text.push('&');
            }
            text.push_str(name);
            encode_into(key, &mut text);
            text.push('=');
            encode_into(value, &mut text);
        };
        if let Some(id) = &self.instance {
            put("instance", "", id);
        }
        self.meta.iter().for_each(|(k, v)| put("meta-", k, v));
        if let Some((filter, _)) = &self.filter {
            put("select", "", filter);
        }
        self.tags.iter().for_each(|t| put("tag", "", t));
        if let Some(v) = &self.version {
            put("version", "", &v.to_string());
        }
        if let Some(z) = &self.zone {
            put("zone", "", z);
        }
        text
    }
}

fn too_long<T>() -> Result<T, SelectorError> {
    wrong(format!("longer than {SELECTOR_BYTES_MAX} bytes"))
}

fn once<T: PartialEq>(place: &mut Option<T>, value: T, name: &str) -> Result<(), SelectorError> {
    match place {
        Some(known) if *known != value => wrong(format!("two different values for `{name}`")),
        Some(_) => Ok(()),
        None => {
            *place = Some(value);
            Ok(())
        }
    }
}

fn word(name: &str, value: &str, max: usize) -> Result<Box<str>, SelectorError> {
    if (1..=max).contains(&value.len()) {
        return Ok(value.into());
    }
    wrong(format!("`{name}` must have 1 to {max} bytes"))
}

/// A version requirement. A version without an operator means just that version, or those that begin like it.
fn requirement(text: &str) -> Result<VersionReq, SelectorError> {
    let part = |part: &str| {
        let part = part.trim();
        if part.starts_with(|c: char| c.is_ascii_digit()) { format!("={part}") } else { part.to_owned() }
    };
    let text = text.split(',').map(part).collect::<Vec<_>>().join(",");
    VersionReq::parse(&text).map_err(|e| SelectorError(format!("`version`: {e}")))
}

/// Takes percent-encoding away.
fn decoded(text: &str) -> Result<String, SelectorError> {
    if !text.contains('%') {
        return Ok(text.to_owned());
    }
    let digit = |b: Option<u8>| b.and_then(|b| char::from(b).to_digit(16)).and_then(|d| u8::try_from(d).ok());
    let (mut out, mut bytes) = (Vec::with_capacity(text.len()), text.bytes());
    while let Some(b) = bytes.next() {
        if b != b'%' {
            out.push(b);
            continue;
        }
        match (digit(bytes.next()), digit(bytes.next())) {
            (Some(high), Some(low)) => out.push(high << 4 | low),
            _ => return wrong("a percent sign without two hexadecimal digits"),
        }
    }
    String::from_utf8(out).or_else(|_| wrong("percent-encoded bytes are no UTF-8"))
}

/// Percent-encodes what would end a value.
fn encode_into(text: &str, out: &mut String) {
    use fmt::Write as _;
    for c in text.chars() {
        match c {
            '%' | '&' | '=' | '?' | '#' | '+' => {
                // Writing to a string cannot fail.
                let _ = write!(out, "%{:02X}", u32::from(c));
            }
            c if c.is_control() => {
                let mut buffer = [0; 4];
                c.encode_utf8(&mut buffer).bytes().for_each(|b| {
                    let _ = write!(out, "%{b:02X}");
                });
            }
            c => out.push(c),
        }
    }
}

/// The fields of an instance that a filter may name.
#[must_use]
pub fn kind(path: &Path) -> Option<Kind> {
    match path {
        [field] => match &**field {
            "id" | "address" | "version" | "zone" => Some(Kind::Text),
            "port" | "weight" => Some(Kind::Number),
            "tags" => Some(Kind::List),
            "meta" => Some(Kind::Map),
            _ => None,
        },
        [meta, _] if &**meta == "meta" => Some(Kind::Text),
        _ => None,
    }
}

impl Fields for Instance {
    fn look(&self, path: &Path, see: &mut dyn FnMut(Field<'_>) -> bool) -> bool {
        let text = |text: Option<&str>, see: &mut dyn FnMut(Field<'_>) -> bool| {
            see(text.filter(|t| !t.is_empty()).map_or(Field::Absent, Field::Text))
        };
        match path {
            [field] => match &**field {
                "id" => see(Field::Text(&self.id)),
                "address" => text(self.address.as_deref(), see),
                "version" => match &self.version {
                    Some(v) => see(Field::Text(&v.to_string())),
                    None => see(Field::Absent),
                },
                "zone" => text(Some(&self.zone), see),
                "port" => see(Field::Number(self.port.into())),
                "weight" => see(Field::Number(self.weight.into())),
                "tags" => see(Field::List(&self.tags)),
                "meta" => see(Field::Map(&self.meta)),
                _ => false,
            },
            [meta, key] if &**meta == "meta" => see(self.meta(key).map_or(Field::Absent, Field::Text)),
            _ => false,
        }
    }
}

#[cfg(test)]
#[path = "selector_tests.rs"]
mod tests;

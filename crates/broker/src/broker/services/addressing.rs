//! What a message to a service asks for: its routing key, and headers that mean the same or more.

use std::collections::BTreeMap;
use std::sync::Arc;

use waypost_model::address::{Address, slot_of};
use waypost_model::props::{PROPS_EMPTY, Props};
use waypost_model::selector::{Selector, SelectorBuilder};
use waypost_model::service::is_service_name;
use waypost_model::table::{self, Table, Value};
use waypost_model::{Refusal, Route};

use crate::settings::QueueSettings;

/// Selectors of headers that a connection remembers.
const VARIANTS_MAX: usize = 4096;

/// Of those the last ones, found again without a search.
const LATELY: usize = 64;

/// Routes with keys that it remembers.
const KEYED: usize = 4096;

/// Where messages with some exchange and routing key go, as long as the topology does not change.
#[derive(Debug)]
pub(in crate::broker) struct ServiceRoute {
    /// The service.
    pub service: Arc<str>,
    /// Its mailbox, if there is one.
    pub mailbox: Option<Arc<QueueSettings>>,
    /// What the routing key says after the name.
    query: Box<str>,
    /// The zone that is preferred.
    near: Option<Arc<str>>,
    /// The message's route.
    route: Arc<Route>,
    /// For messages without headers of ours.
    plain: Arc<Route>,
}

/// How many instances get a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Deliver {
    One,
    All,
    Key,
}

/// What a message asks for.
#[derive(Debug, Clone)]
pub(in crate::broker) struct Wish {
    /// With the address that the mailbox reads.
    pub route: Arc<Route>,
    /// Every instance that matches gets one.
    pub all: Option<Arc<Selector>>,
    /// How long it may wait, ms.
    pub wait_ms: Option<u32>,
}

/// The same while it is looked at: nothing is counted or made for it.
#[derive(Debug, Clone, Copy)]
pub(in crate::broker) struct Asked<'a> {
    /// With the address that the mailbox reads, but for the slot.
    pub route: &'a Arc<Route>,
    /// Of its key.
    pub slot: Option<u16>,
    pub all: Option<&'a Arc<Selector>>,
    pub wait_ms: Option<u32>,
}

impl Wish {
    /// Whether both go the same way.
    pub fn is_like(&self, other: &Wish) -> bool {
        Arc::ptr_eq(&self.route, &other.route) && self.wait_ms == other.wait_ms && self.all == other.all
    }
}

/// What headers say, put together with a routing key.
#[derive(Debug)]
struct Variant {
    /// Keeps the address apart from those of later routes.
    _base: Arc<ServiceRoute>,
    selector: Arc<Selector>,
    deliver: Deliver,
    /// Without a key.
    route: Arc<Route>,
}

impl Variant {
    fn asked(&self, key: Option<(u8, &[u8])>, wait_ms: Option<u32>) -> Result<Asked<'_>, Refusal> {
        let one = Asked { route: &self.route, slot: None, all: None, wait_ms };
        let wrong = |text: &str| Err(Refusal::precondition_failed(text));
        match (self.deliver, key) {
            (Deliver::One, None) => Ok(one),
            (Deliver::All, None) => Ok(Asked { all: Some(&self.selector), ..one }),
            (Deliver::Key, Some((letter, value))) => {
                Ok(Asked { slot: Some(slot_of(&key_bytes(letter, value)?)), ..one })
            }
            (Deliver::Key, None) => wrong("header 'x-deliver' is 'key', and there is no 'x-key'"),
            (_, Some(_)) => wrong("header 'x-key' goes with 'x-deliver' = 'key' only"),
        }
    }
}

/// A connection's memory of what its headers said.
#[derive(Debug, Default)]
pub(in crate::broker) struct Variants {
    known: BTreeMap<Box<[u8]>, Arc<Variant>>,
    /// The last that was asked for of each route, in places by their pointers.
    lately: Vec<Option<Lately>>,
    /// In places by route and slot.
    keyed: Vec<Option<Keyed>>,
    scratch: Vec<u8>,
}

/// What headers said the last time.
#[derive(Debug, Clone)]
struct Lately {
    said: Box<[u8]>,
    variant: Arc<Variant>,
}

/// The route of messages with a key.
#[derive(Debug, Clone)]
struct Keyed {
    /// The same without its slot.
    bare: Arc<Route>,
    slot: u16,
    route: Arc<Route>,
}

/// A place for a pointer, and something beside.
fn place(pointer: usize, beside: u16, size: usize) -> usize {
    // Allocations lie apart by 16 bytes at least.
    let x = ((pointer >> 4) as u64 ^ u64::from(beside) << 40).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (x >> 32) as usize % size
}

impl ServiceRoute {
    /// Reads a routing key.
    ///
    /// # Errors
    /// 406.
    pub fn read(route: &Arc<Route>, key: &[u8], near: Option<&Arc<str>>) -> Result<ServiceRoute, Refusal> {
        let key = std::str::from_utf8(key).map_err(|_| no_service(key))?;
        let (service, query) = key.split_once('?').unwrap_or((key, ""));
        if !is_service_name(service) {
            return Err(no_service(key.as_bytes()));
        }
        let selector = Selector::parse(query)?;
        let near = near.cloned();
        let a = Address { near: near.as_deref(), selector: selector.text(), ..Address::default() };
        let plain = with_address(route, &a);
        Ok(ServiceRoute {
            service: service.into(),
            mailbox: None,
            query: selector.text().into(),
            near,
            route: Arc::clone(route),
            plain,
        })
    }

    /// What a message without headers asks for.
    pub fn plain(&self) -> Wish {
        Wish { route: Arc::clone(&self.plain), all: None, wait_ms: None }
    }

    /// The same, to be looked at.
    pub fn asked(&self) -> Asked<'_> {
        Asked { route: &self.plain, slot: None, all: None, wait_ms: None }
    }

    fn address<'a>(&'a self, selector: &'a str) -> Address<'a> {
        Address { near: self.near.as_deref(), selector, ..Address::default() }
    }
}

fn no_service(key: &[u8]) -> Refusal {
    Refusal::precondition_failed(format!(
        "'{}' names no service: a service's name has 1 to 63 of a-z, 0-9 and -",
        String::from_utf8_lossy(key.get(..key.len().min(80)).unwrap_or_default())
    ))
}

/// The same route with an address. One that says nothing leaves it as it is.
pub(in crate::broker) fn with_address(route: &Arc<Route>, a: &Address<'_>) -> Arc<Route> {
    match a.encode() {
        None => Arc::clone(route),
        address => {
            Arc::new(Route { exchange: route.exchange.clone(), routing_key: route.routing_key.clone(), address })
        }
    }
}

/// Whether a header is one of those that select.
fn selects(name: &str) -> bool {
    matches!(name, "x-version" | "x-zone" | "x-tag" | "x-instance" | "x-select" | "x-deliver")
        || name.starts_with("x-meta-")
}

/// What differs from message to message.
#[derive(Default)]
struct Own<'a> {
    key: Option<(u8, &'a [u8])>,
    wait: Option<(u8, &'a [u8])>,
}

impl Variants {
    /// What a message asks for.
    ///
    /// # Errors
    /// 406.
    pub fn wish(&mut self, base: &Arc<ServiceRoute>, props: &[u8]) -> Result<Wish, Refusal> {
        let asked = self.asked(base, props)?;
        let (slot, all, wait_ms) = (asked.slot, asked.all.cloned(), asked.wait_ms);
        let bare = Arc::clone(asked.route);
        let route = match slot {
            Some(slot) => self.with_slot(&bare, slot),
            None => bare,
        };
        Ok(Wish { route, all, wait_ms })
    }

    /// The same, to be looked at.
    ///
    /// # Errors
    /// 406.
    pub fn asked<'a>(&'a mut self, base: &'a Arc<ServiceRoute>, props: &[u8]) -> Result<Asked<'a>, Refusal> {
        let Some(raw) = Props(props).headers_raw() else {
            return Ok(base.asked());
        };
        let mut own = Own::default();
        let scratch = &mut self.scratch;
        scratch.clear();
        scratch.extend((Arc::as_ptr(base) as usize).to_ne_bytes());
        let bare = scratch.len();
        let walked = table::walk(raw, |name, letter, value| {
            if !name.starts_with("x-") {
                return;
            }
            match name {
                "x-key" => own.key = Some((letter, value)),
                "x-wait" => own.wait = Some((letter, value)),
                name if selects(name) => {
                    scratch.push(name.len() as u8);
                    scratch.extend(name.as_bytes());
                    scratch.push(letter);
                    scratch.extend((value.len() as u32).to_be_bytes());
                    scratch.extend(value);
                }
                _ => {}
            }
        });
        let said = scratch.len() > bare;
        // Whether there is a key decides what is meant where nothing else says so.
        scratch.push(u8::from(own.key.is_some()));
        walked.map_err(|e| Refusal::precondition_failed(format!("headers: {e}")))?;
        let wait_ms = own.wait.map(|(letter, value)| wait_ms(letter, value)).transpose()?;
        if !said && own.key.is_none() {
            return Ok(Asked { wait_ms, ..base.asked() });
        }
        let variant = self.variant(base, raw)?;
        variant.asked(own.key, wait_ms)
    }

    fn variant(&mut self, base: &Arc<ServiceRoute>, raw: &[u8]) -> Result<&Variant, Refusal> {
        let at = place(Arc::as_ptr(base) as usize, 0, LATELY);
        let known = self.lately.get(at).is_some_and(|l| l.as_ref().is_some_and(|l| *l.said == *self.scratch));
        if !known {
            let variant = self.search(base, raw)?;
            if self.lately.is_empty() {
                self.lately.resize(LATELY, None);
            }
            if let Some(lately) = self.lately.get_mut(at) {
                *lately = Some(Lately { said: self.scratch.as_slice().into(), variant });
            }
        }
        let found = self.lately.get(at).and_then(|l| l.as_ref());
        found.map(|l| &*l.variant).ok_or_else(|| Refusal::internal("headers were forgotten at once"))
    }

    fn search(&mut self, base: &Arc<ServiceRoute>, raw: &[u8]) -> Result<Arc<Variant>, Refusal> {
        if let Some(known) = self.known.get(&*self.scratch) {
            return Ok(Arc::clone(known));
        }
        let headers = Table::decode(raw).map_err(|e| Refusal::precondition_failed(format!("headers: {e}")))?.0;
        let (selector, deliver) = read_headers(&base.query, &headers)?;
        let route = if selector.text() == &*base.query {
            Arc::clone(&base.plain)
        } else {
            with_address(&base.route, &base.address(selector.text()))
        };
        let variant = Arc::new(Variant { _base: Arc::clone(base), selector: Arc::new(selector), deliver, route });
        if self.known.len() >= VARIANTS_MAX {
            self.forget();
        }
        self.known.insert(self.scratch.as_slice().into(), Arc::clone(&variant));
        Ok(variant)
    }

    /// A route with the slot of a key.
    pub fn with_slot(&mut self, bare: &Arc<Route>, slot: u16) -> Arc<Route> {
        let at = place(Arc::as_ptr(bare) as usize, slot, KEYED);
        if let Some(Some(known)) = self.keyed.get(at)
            && known.slot == slot
            && Arc::ptr_eq(&known.bare, bare)
        {
            return Arc::clone(&known.route);
        }
        let address = bare.address.as_deref().and_then(Address::decode).unwrap_or_default();
        let route = with_address(bare, &Address { slot: Some(slot), ..address });
        if self.keyed.is_empty() {
            self.keyed.resize(KEYED, None);
        }
        if let Some(place) = self.keyed.get_mut(at) {
            *place = Some(Keyed { bare: Arc::clone(bare), slot, route: Arc::clone(&route) });
        }
        route
    }

    /// Routes lead elsewhere from now on.
    pub fn forget(&mut self) {
        self.known.clear();
        self.lately.clear();
        self.keyed.clear();
    }
}

/// What a message asks for, in words.
pub(in crate::broker) struct Said {
    pub service: Arc<str>,
    pub selector: Arc<Selector>,
    pub wish: Wish,
    pub rule: String,
}

/// Reads what a message asks for, to explain it.
///
/// # Errors
/// 406.
pub(in crate::broker) fn explain_route(route: &Route, props: &[u8]) -> Result<Said, Refusal> {
    let route = Arc::new(Route { address: None, ..route.clone() });
    let base = Arc::new(ServiceRoute::read(&route, &route.routing_key, None)?);
    let mut variants = Variants::default();
    let wish = variants.wish(&base, if props.is_empty() { PROPS_EMPTY } else { props })?;
    let known = variants.known.values().next();
    let selector = match known {
        Some(v) => Arc::clone(&v.selector),
        None => Arc::new(Selector::parse(&base.query)?),
    };
    let how = match known.map_or(Deliver::One, |v| v.deliver) {
        Deliver::One => "one",
        Deliver::All => "all",
        Deliver::Key => "one per key",
    };
    let which = if selector.is_any() { "any instance".to_owned() } else { format!("instances with {selector}") };
    let service = Arc::clone(&base.service);
    Ok(Said { rule: format!("deliver {how} of service '{service}': {which}"), service, selector, wish })
}

/// A number of milliseconds, or digits that are one.
fn wait_ms(letter: u8, value: &[u8]) -> Result<u32, Refusal> {
    let wrong = || Refusal::precondition_failed("header 'x-wait' is no number of milliseconds");
    let n = match letter {
        b'S' => std::str::from_utf8(value).ok().and_then(|t| t.trim().parse::<i64>().ok()),
        _ => integer(letter, value),
    };
    n.and_then(|n| u32::try_from(n).ok()).ok_or_else(wrong)
}

fn integer(letter: u8, value: &[u8]) -> Option<i64> {
    let signed = !matches!(letter, b'B' | b'u' | b'i');
    if !matches!(letter, b'b' | b'B' | b's' | b'u' | b'I' | b'i' | b'l' | b'L') {
        return None;
    }
    let start: i64 = if signed && value.first().is_some_and(|b| *b >= 0x80) { -1 } else { 0 };
    Some(value.iter().fold(start, |n, b| n << 8 | i64::from(*b)))
}

/// The bytes of a key: a number counts as its digits.
fn key_bytes(letter: u8, value: &[u8]) -> Result<std::borrow::Cow<'_, [u8]>, Refusal> {
    match letter {
        b'S' | b'x' => Ok(value.into()),
        _ => match integer(letter, value) {
            Some(n) => Ok(n.to_string().into_bytes().into()),
            None => Err(Refusal::precondition_failed("header 'x-key' is neither a text nor a number")),
        },
    }
}

/// Routing key and headers together.
fn read_headers(query: &str, headers: &Table) -> Result<(Selector, Deliver), Refusal> {
    let mut b = SelectorBuilder::default();
    b.query(query)?;
    let mut deliver = None;
    for (name, value) in headers.iter().filter(|(name, _)| selects(name)) {
        let condition = name.strip_prefix("x-").unwrap_or(name);
        match (condition, value) {
            ("deliver", _) => deliver = Some(read_deliver(value)?),
            ("tag", Value::Array(tags)) => {
                tags.iter().try_for_each(|tag| Ok::<_, Refusal>(b.add(condition, &header_text(name, tag)?)?))?;
            }
            _ => b.add(condition, &header_text(name, value)?)?,
        }
    }
    let default = if headers.get("x-key").is_some() { Deliver::Key } else { Deliver::One };
    Ok((b.finish()?, deliver.unwrap_or(default)))
}

fn read_deliver(value: &Value) -> Result<Deliver, Refusal> {
    match value.as_str() {
        Some("one") => Ok(Deliver::One),
        Some("all") => Ok(Deliver::All),
        Some("key") => Ok(Deliver::Key),
        _ => Err(Refusal::precondition_failed("header 'x-deliver' is none of 'one', 'all' and 'key'")),
    }
}

fn header_text<'a>(name: &str, value: &'a Value) -> Result<std::borrow::Cow<'a, str>, Refusal> {
    match (value.as_str(), value.as_i64(), value.as_bool()) {
        (Some(text), ..) => Ok(text.into()),
        (_, Some(n), _) => Ok(n.to_string().into()),
        (.., Some(b)) => Ok(b.to_string().into()),
        _ => Err(Refusal::precondition_failed(format!("header '{name}' is no text"))),
    }
}

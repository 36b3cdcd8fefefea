//! What Consul's clients say in the query of a request.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hyper::StatusCode;

use super::super::request::{self, Failure};

/// How long a blocking query waits unless it says so.
const WAIT_DEFAULT: Duration = Duration::from_secs(300);

/// The longest that it may ask for; more is taken as this.
const WAIT_MAX: Duration = Duration::from_secs(600);

/// Most parameters of a query.
const PARAMETERS_MAX: usize = 256;

/// How up to date an answer must be. There is one server, so that every answer is: this is only said back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Consistency {
    #[default]
    Default,
    Stale,
    Consistent,
}

impl Consistency {
    /// As it is told in `X-Consul-Effective-Consistency`.
    pub(super) const fn effective(self) -> &'static str {
        match self {
            Self::Default => "leader",
            Self::Stale => "stale",
            Self::Consistent => "consistent",
        }
    }
}

/// The parameters of a read.
#[derive(Clone, Debug, Default)]
pub(super) struct Params {
    /// The index that the client has seen; 0 for none.
    pub index: u64,
    wait: Option<Duration>,
    pub consistency: Consistency,
    /// Only what passes.
    pub passing: bool,
    /// All of these, whatever their case.
    pub tags: Vec<String>,
    /// All of these.
    pub node_meta: Vec<(String, String)>,
    pub filter: Option<String>,
    /// All others.
    others: Vec<(String, String)>,
}

impl Params {
    /// Reads a query.
    ///
    /// # Errors
    /// 400 for what Consul refuses too, 500 for a data center that is not ours.
    pub(super) fn read(query: &str, datacenter: &str) -> Result<Params, Failure> {
        let mut params = Params::default();
        for (count, (key, value)) in request::form(query).enumerate() {
            if count >= PARAMETERS_MAX {
                return Err(Failure::bad("too many parameters"));
            }
            params.set(key, value, datacenter)?;
        }
        Ok(params)
    }

    fn set(&mut self, key: String, value: String, datacenter: &str) -> Result<(), Failure> {
        match &*key {
            "index" => self.index = index(&value)?,
            "wait" => self.wait = Some(duration(&value).ok_or_else(|| Failure::bad("Invalid wait time"))?),
            "stale" => self.set_consistency(Consistency::Stale)?,
            "consistent" => self.set_consistency(Consistency::Consistent)?,
            "passing" => self.passing = flag(&value)?,
            "tag" => self.tags.push(value),
            "node-meta" => {
                let (key, value) = value.split_once(':').unwrap_or((&value, ""));
                self.node_meta.push((key.to_owned(), value.to_owned()));
            }
            "filter" => self.filter = Some(value).filter(|filter| !filter.is_empty()),
            "dc" if value != "true" => is_here(&value, datacenter)?,
            _ => self.others.push((key, value)),
        }
        Ok(())
    }

    fn set_consistency(&mut self, asked: Consistency) -> Result<(), Failure> {
        if self.consistency != Consistency::Default && self.consistency != asked {
            return Err(Failure::bad("Cannot specify ?stale with ?consistent, conflicting semantics."));
        }
        self.consistency = asked;
        Ok(())
    }

    /// How long to wait for a change, spread so that those who came together do not go together.
    pub(super) fn patience(&self) -> Duration {
        static TURN: AtomicU64 = AtomicU64::new(0);
        let wait = self.wait.filter(|wait| !wait.is_zero()).unwrap_or(WAIT_DEFAULT).min(WAIT_MAX);
        let turn = TURN.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56;
        wait + wait / 16 * u32::try_from(turn).unwrap_or(0) / 256
    }

    /// Another parameter.
    pub(super) fn other(&self, name: &str) -> Option<&str> {
        self.others.iter().find(|(key, _)| key == name).map(|(_, value)| &**value)
    }

    /// Another parameter that is there and true.
    ///
    /// # Errors
    /// 400.
    pub(super) fn flag(&self, name: &str) -> Result<bool, Failure> {
        self.other(name).map_or(Ok(false), flag)
    }

    /// Everything on which the choice of instances depends, for remembering answers.
    pub(super) fn key(&self, kind: &str) -> String {
        let mut key = String::with_capacity(64);
        key.push_str(kind);
        key.push(if self.passing { '+' } else { '-' });
        for tag in &self.tags {
            put(&mut key, 't', tag);
        }
        for (name, value) in &self.node_meta {
            put(&mut key, 'n', name);
            put(&mut key, 'v', value);
        }
        if let Some(filter) = &self.filter {
            put(&mut key, 'f', filter);
        }
        key
    }
}

/// Refuses data centers that are not ours; none is ours.
///
/// # Errors
/// 500, as Consul has it.
pub(in crate::http) fn is_here(asked: &str, datacenter: &str) -> Result<(), Failure> {
    if asked.is_empty() || asked.eq_ignore_ascii_case(datacenter) {
        return Ok(());
    }
    Err(Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "No path to datacenter"))
}

/// Adds a part to a key. Its length comes first: whatever is in it, one part is never taken for two.
fn put(key: &mut String, kind: char, text: &str) {
    // A string takes everything.
    let _ = write!(key, "{kind}{}:{text}", text.len());
}

/// Spring's clients send -1 for what they have not looked at yet.
fn index(text: &str) -> Result<u64, Failure> {
    if text == "-1" {
        return Ok(0);
    }
    text.parse().map_err(|_| Failure::bad("Invalid index"))
}

/// A flag: its name alone says yes.
fn flag(value: &str) -> Result<bool, Failure> {
    let value = if value.is_empty() { "true" } else { value };
    truth(value).ok_or_else(|| Failure::bad(format!("Invalid value {value:?}: it must be true or false")))
}

/// Yes or no as Go reads it.
pub(super) fn truth(text: &str) -> Option<bool> {
    match text {
        "true" | "1" | "t" | "T" | "TRUE" | "True" => Some(true),
        "false" | "0" | "f" | "F" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// A duration as Go writes it: `10s`, `1h2m`, `1.5s`, `300ms`.
pub(in crate::http) fn duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut sum = 0.0_f64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, more) = rest.split_at(digits);
        let unit = more.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(more.len());
        let (unit, more) = more.split_at(unit);
        let seconds = match unit {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        sum += number.parse::<f64>().ok()? * seconds;
        rest = more;
    }
    if text.is_empty() { None } else { Duration::try_from_secs_f64(sum).ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(query: &str) -> Result<Params, (u16, String)> {
        Params::read(query, "dc1").map_err(|f| (f.status.as_u16(), f.reason))
    }

    #[test]
    fn what_stock_clients_send() {
        let prometheus = read("stale=&wait=120000ms&index=7&tag=a&tag=b&node-meta=rack:2").unwrap();
        assert_eq!((prometheus.index, prometheus.consistency), (7, Consistency::Stale));
        assert_eq!(prometheus.tags, ["a", "b"]);
        assert_eq!(prometheus.node_meta, [("rack".to_owned(), "2".to_owned())]);
        assert!((Duration::from_secs(120)..=Duration::from_millis(127_500)).contains(&prometheus.patience()));
        let spring = read("passing=true&tag=&dc=&near=&index=-1&wait=2s").unwrap();
        assert!(spring.passing && spring.index == 0);
        assert!(read("passing").unwrap().passing);
        assert!(!read("passing=false").unwrap().passing);
        assert_eq!(read("").unwrap().key("x"), "x-");
    }

    /// Who is answered from memory gets what others have asked for under the same key.
    #[test]
    fn different_queries_have_different_keys() {
        let queries = [
            "",
            "passing",
            "tag=a&tag=b",
            "tag=b&tag=a",
            "tag=a%00tb",
            "tag=at1:b",
            "tag=a&node-meta=b",
            "tag=a%00nb:",
            "node-meta=a:b",
            "node-meta=a&node-meta=b",
            "filter=a",
            "tag=&filter=a",
            "tag=%00fa",
        ];
        let keys: std::collections::HashSet<String> = queries.iter().map(|q| read(q).unwrap().key("x")).collect();
        assert_eq!(keys.len(), queries.len(), "{keys:?}");
    }

    #[test]
    fn what_consul_refuses() {
        for (query, status, text) in [
            ("wait=55", 400, "Invalid wait time"),
            ("wait=x", 400, "Invalid wait time"),
            ("index=-2", 400, "Invalid index"),
            ("index=a", 400, "Invalid index"),
            ("stale&consistent", 400, "conflicting"),
            ("dc=dc2", 500, "No path to datacenter"),
        ] {
            let (code, reason) = read(query).unwrap_err();
            assert!(code == status && reason.contains(text), "{query}: {code} {reason}");
        }
        assert!(read("dc=DC1&consistent").is_ok());
    }

    #[test]
    fn durations_as_go_writes_them() {
        for (text, ms) in [("10s", 10_000), ("5m", 300_000), ("120000ms", 120_000), ("1h2m3.5s", 3_723_500), ("0", 0)] {
            assert_eq!(duration(text), Some(Duration::from_millis(ms)), "{text}");
        }
        for bad in ["", "10", "s", "1x", "-1s", "1..s", "1e400s"] {
            assert_eq!(duration(bad), None, "{bad}");
        }
        assert_eq!(read("wait=99h").unwrap().wait, Some(Duration::from_secs(99 * 3600)));
        assert!(read("wait=99h").unwrap().patience() <= WAIT_MAX + WAIT_MAX / 16);
    }
}

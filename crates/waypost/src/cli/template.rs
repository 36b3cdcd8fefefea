//! Placeholders in what is published: `{{count}}` and `{{unix_ms}}`.

use std::time::{SystemTime, UNIX_EPOCH};

/// A text with placeholders. What stands in braces and is no placeholder stays as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Count,
    UnixMs,
}

impl Template {
    /// Reads a text.
    pub fn parse(mut text: &str) -> Self {
        let mut parts = Vec::new();
        let mut plain = String::new();
        while let Some(open) = text.find("{{") {
            let (before, rest) = text.split_at(open);
            plain.push_str(before);
            let inner = rest.get(2..).unwrap_or_default();
            let end = inner.find("}}");
            let part = match end.and_then(|end| inner.get(..end)).map(str::trim) {
                Some("count") => Some(Part::Count),
                Some("unix_ms") => Some(Part::UnixMs),
                _ => None,
            };
            match (part, end) {
                (Some(part), Some(end)) => {
                    if !plain.is_empty() {
                        parts.push(Part::Text(std::mem::take(&mut plain)));
                    }
                    parts.push(part);
                    text = inner.get(end + 2..).unwrap_or_default();
                }
                _ => {
                    plain.push_str("{{");
                    text = inner;
                }
            }
        }
        plain.push_str(text);
        if !plain.is_empty() {
            parts.push(Part::Text(plain));
        }
        Self { parts }
    }

    /// Whether every message gets the same.
    pub fn is_constant(&self) -> bool {
        self.parts.iter().all(|part| matches!(part, Part::Text(_)))
    }

    /// The text for the `count`th message, counted from 1.
    pub fn fill(&self, count: u64) -> String {
        let mut out = String::new();
        for part in &self.parts {
            match part {
                Part::Text(text) => out.push_str(text),
                Part::Count => out.push_str(&count.to_string()),
                Part::UnixMs => out.push_str(&unix_ms().to_string()),
            }
        }
        out
    }
}

/// Milliseconds since 1970.
pub fn unix_ms() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_filled_and_the_rest_stays() {
        let t = Template::parse("a{{count}}-{{ count }} {{x}} {{{count}} {{");
        assert_eq!(t.fill(7), "a7-7 {{x}} {{{count}} {{");
        assert!(!t.is_constant());
        assert!(Template::parse("{{").is_constant());
        assert!(Template::parse("{{unix_ms}}").fill(1).parse::<u128>().unwrap() > 1_600_000_000_000);
    }
}

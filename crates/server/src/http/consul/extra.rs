//! What Consul's API keeps with an instance or a node that nobody else has a use for.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// An address and a port.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Tagged {
    #[serde(rename = "Address", default)]
    pub address: String,
    #[serde(rename = "Port", default)]
    pub port: u16,
}

/// Kept as JSON with short names, where there is anything to keep.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Extra {
    /// The tags, if they are not sorted and each once.
    #[serde(rename = "t", default, skip_serializing_if = "Option::is_none")]
    pub tags: Option<Vec<String>>,
    /// Further addresses of a service.
    #[serde(rename = "a", default, skip_serializing_if = "BTreeMap::is_empty")]
    pub addresses: BTreeMap<String, Tagged>,
    /// Further addresses of a node.
    #[serde(rename = "n", default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_addresses: BTreeMap<String, String>,
    /// Others may change the tags.
    #[serde(rename = "o", default, skip_serializing_if = "is_false")]
    pub enable_tag_override: bool,
}

fn is_false(flag: &bool) -> bool {
    !flag
}

impl Extra {
    /// As it is kept.
    pub(super) fn text(&self) -> Option<Arc<str>> {
        if *self == Extra::default() {
            return None;
        }
        serde_json::to_string(self).ok().map(Into::into)
    }

    /// From what is kept.
    pub(super) fn of(text: Option<&str>) -> Extra {
        text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_takes_no_room() {
        assert_eq!(Extra::default().text(), None);
        let extra = Extra { tags: Some(vec!["b".into(), "a".into()]), enable_tag_override: true, ..Extra::default() };
        assert_eq!(extra.text().as_deref(), Some(r#"{"t":["b","a"],"o":true}"#));
        assert_eq!(Extra::of(extra.text().as_deref()), extra);
        assert_eq!(Extra::of(Some("?")), Extra::default());
    }
}

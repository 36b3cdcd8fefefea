//! All that waits for somebody, in one list: queues, mailboxes of services, topics, and consumer groups with their lag.
//!
//! It is no part of `/queues`: a group and a queue may have the same name, and whoever goes through that list to empty or
//! delete what is in it must not meet the name of one and do it to the other.

use serde_json::{Value as Json, json};

use super::super::request::Failure;
use super::{Ask, Done, nothing_there, show, wrong_method};

/// What the rows are of, as their `type` says.
const TYPES: [&str; 5] = ["classic", "quorum", "stream", "topic", GROUP];
/// The type of rows that are consumer groups.
const GROUP: &str = "group";

impl Ask {
    pub(super) fn backlogs(&self, path: &[&str]) -> Result<Done, Failure> {
        match (self.method(), path) {
            ("GET", ["backlogs"]) => self.list_backlogs(self.parameter("vhost").as_deref()),
            ("GET", ["backlogs", vhost]) => self.list_backlogs(Some(vhost)),
            (_, ["backlogs"] | ["backlogs", _]) => Err(wrong_method()),
            _ => Err(nothing_there()),
        }
    }

    fn list_backlogs(&self, vhost: Option<&str>) -> Result<Done, Failure> {
        let wanted = self.wanted_types()?;
        let is_wanted = |kind: &str| wanted.as_ref().is_none_or(|all| all.iter().any(|one| one == kind));
        let mut rows = self.queue_rows(vhost)?;
        rows.retain(|row| row["type"].as_str().is_some_and(is_wanted));
        if is_wanted(GROUP) {
            let groups = self.groups_seen(&self.vhosts_asked(vhost))?;
            rows.extend(groups.iter().map(|(vhost, group)| group_row(&self.group_view(vhost, group))));
        }
        show(rows)
    }

    /// The types asked for, with commas between them; `None`: all.
    fn wanted_types(&self) -> Result<Option<Vec<String>>, Failure> {
        let Some(text) = self.parameter("type") else { return Ok(None) };
        let wanted: Vec<String> = text.split(',').map(str::to_owned).collect();
        match wanted.iter().find(|one| !TYPES.contains(&one.as_str())) {
            Some(other) => Err(Failure::bad(format!("`type` `{other}` is none of {}", TYPES.join(", ")))),
            None => Ok(Some(wanted)),
        }
    }
}

/// A group as a row beside queues: what waits for it is its lag, and its consumers are its members.
fn group_row(group: &Json) -> Json {
    json!({
        "name": group["name"], "vhost": group["vhost"], "type": GROUP, "durable": true, "auto_delete": false,
        "exclusive": false, "arguments": {}, "policy": null, "operator_policy": null,
        "messages": group["lag"], "messages_ready": group["lag"], "messages_unacknowledged": 0,
        "consumers": group["members"], "state": group["state"], "topics": group["topics"],
        "partitions": group["partitions"],
    })
}

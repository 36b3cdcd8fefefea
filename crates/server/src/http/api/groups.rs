//! Consumer groups: where they are, how far behind, and set anew.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use hyper::StatusCode;
use serde_json::{Value as Json, json};
use waypost_broker::topology::{Access, Resource};
use waypost_model::Millis;
use waypost_stream::groups::{Committer, GroupFault, MemberSeen, State, Summary};
use waypost_stream::streams::{Committed, Topic};

use super::super::json::{flag, number, only, text};
use super::super::request::Failure;
use super::{Ask, Done, changed, list, nothing_there, show, wrong_method};
use crate::node::Node;
use crate::streams::Look;

/// A group's place in a partition.
pub(in crate::http) struct Place {
    pub topic: Arc<str>,
    partition: i32,
    committed: Option<i64>,
    /// When that was committed, and when it expires if its group has no members.
    committed_at: Option<Millis>,
    expires_at: Option<Millis>,
    start: u64,
    end: u64,
}

impl Place {
    /// Records that the group has not done yet.
    pub fn lag(&self) -> u64 {
        let at = self.committed.and_then(|at| u64::try_from(at).ok()).unwrap_or(self.start);
        self.end.saturating_sub(at.max(self.start))
    }
}

/// Where a group is to be set.
enum To {
    Earliest,
    Latest,
    Offset(u64),
    /// The first record of that time or later, ms.
    Time(u64),
    /// So many records further, or back.
    Shift(i64),
}

impl Ask {
    pub(super) fn groups(&self, path: &[&str]) -> Result<Done, Failure> {
        match (self.method(), path) {
            ("GET", ["groups"]) => self.list_groups(&self.vhosts_asked(self.parameter("vhost").as_deref())),
            ("GET", ["groups", vhost]) => self.list_groups(&[Arc::from(*vhost)]),
            ("GET", ["groups", vhost, group]) => {
                self.may(vhost, Access::Read, Resource::Queue, group)?;
                show(self.group_detail(vhost, group)?)
            }
            ("POST", ["groups", vhost, group, "reset"]) => {
                self.may(vhost, Access::Configure, Resource::Queue, group)?;
                self.reset(vhost, group)
            }
            ("DELETE", ["groups", vhost, group]) => {
                self.may(vhost, Access::Configure, Resource::Queue, group)?;
                self.delete_group(vhost, group)
            }
            (_, ["groups"] | ["groups", _] | ["groups", _, _] | ["groups", _, _, "reset"]) => Err(wrong_method()),
            _ => Err(nothing_there()),
        }
    }

    /// The vhost that is asked for, else all that may be seen.
    pub(super) fn vhosts_asked(&self, vhost: Option<&str>) -> Vec<Arc<str>> {
        match vhost {
            Some(vhost) => vec![vhost.into()],
            None => self.seen(self.node.broker.vhosts(), |v| &v.name).into_iter().map(|v| v.name).collect(),
        }
    }

    fn list_groups(&self, vhosts: &[Arc<str>]) -> Result<Done, Failure> {
        list(self.groups_seen(vhosts)?, |(vhost, group)| self.group_view(vhost, group))
    }

    /// The groups of these vhosts that may be read.
    pub(super) fn groups_seen(&self, vhosts: &[Arc<str>]) -> Result<Vec<(Arc<str>, Arc<str>)>, Failure> {
        let mut all = Vec::new();
        for vhost in vhosts {
            self.must_see(vhost)?;
            let seen = |group: &Arc<str>| self.may(vhost, Access::Read, Resource::Queue, group).is_ok();
            all.extend(self.group_names(vhost).into_iter().filter(seen).map(|group| (Arc::clone(vhost), group)));
        }
        Ok(all)
    }

    fn group_names(&self, vhost: &str) -> BTreeSet<Arc<str>> {
        let mut names: BTreeSet<Arc<str>> = self.node.streams.groups_with_offsets(vhost).into_iter().collect();
        names.extend(self.node.groups.list(vhost).into_iter().map(|g| g.id));
        names
    }

    pub(super) fn group_view(&self, vhost: &str, group: &str) -> Json {
        let places = self.places(vhost, group);
        let seen = self.group_seen(vhost, group);
        let empty_since = self.node.streams.gone_since(vhost, group).filter(|_| seen.members == 0);
        let topics: BTreeSet<&str> = places.iter().map(|p| &*p.topic).collect();
        json!({
            "vhost": vhost, "name": group,
            "state": seen.state, "protocol": seen.protocol, "members": seen.members, "empty_since": empty_since.map(|at| at.0),
            "topics": topics, "partitions": places.len(),
            "lag": places.iter().map(Place::lag).sum::<u64>(),
        })
    }

    /// A group of either protocol; one of which nothing is known but what it has committed is empty.
    fn group_seen(&self, vhost: &str, group: &str) -> Summary {
        let empty = Summary { state: State::Empty.as_str(), protocol: None, members: 0 };
        self.node.groups.summary(vhost, group).unwrap_or(empty)
    }

    fn group_detail(&self, vhost: &str, group: &str) -> Result<Json, Failure> {
        if !self.group_names(vhost).contains(group) {
            return Err(no_group(group));
        }
        let mut view = self.group_view(vhost, group);
        let in_use = view["members"] != json!(0) || self.node.forwarders.keeps(vhost, group);
        let place = |p: &Place| {
            json!({
                "topic": &*p.topic, "partition": p.partition, "committed": p.committed, "start": p.start, "end": p.end,
                "lag": p.lag(), "committed_at": p.committed_at.map(|at| at.0),
                "expires_at": p.expires_at.filter(|_| !in_use).map(|at| at.0),
            })
        };
        view["offsets"] = self.places(vhost, group).iter().map(place).collect();
        let member = |m: MemberSeen| json!({ "id": m.id, "instance": m.instance, "client_id": m.who.client_id, "host": m.who.host });
        view["member_list"] = self.node.groups.members(vhost, group).into_iter().map(member).collect();
        Ok(view)
    }

    fn places(&self, vhost: &str, group: &str) -> Vec<Place> {
        places(&self.node, vhost, group)
    }

    /// How many records a group has not done yet.
    pub(super) fn lag(&self, vhost: &str, group: &str) -> u64 {
        self.places(vhost, group).iter().map(Place::lag).sum()
    }

    /// The groups that have committed in a topic.
    pub(super) fn groups_of(&self, topic: &Topic) -> Json {
        let mut lags: BTreeMap<Arc<str>, u64> = BTreeMap::new();
        for (group, partition, committed) in self.node.streams.positions_in(&topic.vhost, &topic.name) {
            if let Some(place) = place(topic, partition, &committed, |_| None) {
                *lags.entry(group).or_default() += place.lag();
            }
        }
        lags.into_iter().map(|(group, lag)| json!({ "group": &*group, "lag": lag })).collect()
    }

    fn delete_group(&self, vhost: &str, group: &str) -> Result<Done, Failure> {
        if !self.group_names(vhost).contains(group) {
            return Err(no_group(group));
        }
        match self.node.groups.forget(vhost, group) {
            Ok(()) | Err(GroupFault::UnknownGroup) => {}
            Err(fault) => return Err(Failure::new(StatusCode::CONFLICT, fault.to_string())),
        }
        changed(Ok(self.node.streams.forget_offsets(vhost, group, None)?))
    }

    /// Sets a group without members somewhere else, or tells where it would be.
    fn reset(&self, vhost: &str, group: &str) -> Result<Done, Failure> {
        const FIELDS: [&str; 8] =
            ["to", "offset", "timestamp", "by_duration", "shift_by", "topic", "partitions", "dry_run"];
        only(&self.body, &FIELDS)?;
        let (to, dry_run) = (self.destination()?, flag(&self.body, "dry_run", false)?);
        if !dry_run && self.group_seen(vhost, group).state != State::Empty.as_str() {
            let text = format!("group `{group}` has members: it can be set when they are gone");
            return Err(Failure::new(StatusCode::CONFLICT, text));
        }
        let mut plan = Vec::new();
        for place in self.chosen(vhost, group)? {
            let next = self.moved(vhost, &place, &to)?;
            plan.push((place, next));
        }
        if plan.is_empty() {
            return Err(no_group(group));
        }
        let told = plan.iter().map(|(p, next)| {
            json!({
                "topic": &*p.topic, "partition": p.partition, "from": p.committed, "to": next,
                "start": p.start, "end": p.end,
            })
        });
        let told: Json = told.collect();
        if dry_run {
            return show(told);
        }
        let committed = |offset: u64| Committed {
            offset: i64::try_from(offset).unwrap_or(i64::MAX),
            leader_epoch: -1,
            metadata: Box::default(),
            at: self.now,
            ends: None,
        };
        let offsets = plan.iter().map(|(p, next)| (Arc::clone(&p.topic), p.partition, committed(*next))).collect();
        let lsn = self.node.streams.commit(vhost, group, offsets, Committer::Standalone)?;
        Ok(Done::Told(told, lsn))
    }

    fn destination(&self) -> Result<To, Failure> {
        let body = &self.body;
        let shift = match body.get("shift_by") {
            None | Some(Json::Null) => None,
            Some(n) => Some(n.as_i64().ok_or_else(|| Failure::bad("`shift_by` must be a whole number"))?),
        };
        let to = match text(body, "to")? {
            None => None,
            Some("earliest") => Some(To::Earliest),
            Some("latest") => Some(To::Latest),
            Some(_) => return Err(Failure::bad("`to` must be earliest or latest")),
        };
        let back = match text(body, "by_duration")? {
            None => None,
            Some(text) => {
                let ms = super::services::duration("by_duration", text)?.as_millis();
                Some(To::Time(self.now.0.saturating_sub(u64::try_from(ms).unwrap_or(u64::MAX))))
            }
        };
        let given: Vec<To> = [
            to,
            number(body, "offset")?.map(To::Offset),
            number(body, "timestamp")?.map(To::Time),
            back,
            shift.map(To::Shift),
        ]
        .into_iter()
        .flatten()
        .collect();
        match <[To; 1]>::try_from(given) {
            Ok([to]) => Ok(to),
            Err(_) => Err(Failure::bad("exactly one of to, offset, timestamp, by_duration and shift_by is needed")),
        }
    }

    /// The partitions that are meant: those of a topic, or all where the group has committed.
    fn chosen(&self, vhost: &str, group: &str) -> Result<Vec<Place>, Failure> {
        let mut known = self.places(vhost, group);
        if let Some(name) = text(&self.body, "topic")? {
            self.may(vhost, Access::Read, Resource::Queue, name)?;
            let topic = self.known_topic(vhost, name)?;
            let committed: BTreeMap<i32, Option<i64>> =
                known.iter().filter(|p| *p.topic == *name).map(|p| (p.partition, p.committed)).collect();
            let place = |(cell, partition): (&Arc<waypost_stream::streams::Cell>, i32)| {
                let offsets = cell.with(|p| p.offsets());
                Place {
                    topic: Arc::clone(&topic.name),
                    partition,
                    committed: committed.get(&partition).copied().flatten(),
                    committed_at: None,
                    expires_at: None,
                    start: offsets.start,
                    end: offsets.high_watermark,
                }
            };
            known = topic.partitions().iter().zip(0..).map(place).collect();
        }
        let only = match self.body.get("partitions") {
            None | Some(Json::Null) => return Ok(known),
            Some(Json::Array(numbers)) => numbers.iter().map(Json::as_i64).collect::<Option<BTreeSet<i64>>>(),
            Some(_) => None,
        };
        let only = only.ok_or_else(|| Failure::bad("`partitions` must be an array of numbers"))?;
        known.retain(|p| only.contains(&i64::from(p.partition)));
        Ok(known)
    }

    fn moved(&self, vhost: &str, place: &Place, to: &To) -> Result<u64, Failure> {
        let (start, end) = (place.start, place.end);
        Ok(match to {
            To::Earliest => start,
            To::Latest => end,
            To::Offset(n) => (*n).clamp(start, end),
            To::Shift(by) => {
                let at = place.committed.and_then(|at| u64::try_from(at).ok()).unwrap_or(start);
                at.saturating_add_signed(*by).clamp(start, end)
            }
            To::Time(ms) => {
                let topic = self.known_topic(vhost, &place.topic)?;
                let cell = topic.partition(place.partition).ok_or_else(nothing_there)?;
                let look = Look { cell: &cell, streams: &self.node.streams, now: self.now };
                look.first_since(*ms)
                    .map_err(|e| Failure::bad(format!("the topic cannot be read: {e}")))?
                    .map_or(end, |(offset, _)| offset.unsigned_abs())
            }
        })
    }
}

/// Where a group has committed, in topics that there are.
pub(in crate::http) fn places(node: &Node, vhost: &str, group: &str) -> Vec<Place> {
    let (gone_since, kept_ms) = (node.streams.gone_since(vhost, group), node.config.kafka.offsets_retention_ms());
    // They come by topic.
    let mut last: Option<Arc<Topic>> = None;
    let one = |(name, partition, committed): (Arc<str>, i32, Committed)| {
        if last.as_ref().is_none_or(|topic| topic.name != name) {
            last = node.streams.topic(vhost, &name);
        }
        place(last.as_ref()?, partition, &committed, |c| Some(c.expires_at(gone_since, kept_ms)))
    };
    node.streams.positions(vhost, group).into_iter().filter_map(one).collect()
}

fn place(
    topic: &Topic,
    partition: i32,
    committed: &Committed,
    expires_at: impl FnOnce(&Committed) -> Option<Millis>,
) -> Option<Place> {
    let offsets = topic.partition(partition)?.with(|p| p.offsets());
    Some(Place {
        topic: Arc::clone(&topic.name),
        partition,
        committed: Some(committed.offset),
        committed_at: Some(committed.at),
        expires_at: expires_at(committed),
        start: offsets.start,
        end: offsets.high_watermark,
    })
}

fn no_group(group: &str) -> Failure {
    Failure::new(StatusCode::NOT_FOUND, format!("no group `{group}`, or it has committed nothing"))
}

impl From<waypost_stream::streams::OffsetsFault> for Failure {
    fn from(fault: waypost_stream::streams::OffsetsFault) -> Failure {
        Failure::new(StatusCode::SERVICE_UNAVAILABLE, fault.to_string())
    }
}

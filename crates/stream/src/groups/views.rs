//! Groups for those who look.

use std::sync::Arc;

use super::book::Kept;
use super::consumer::ConsumerGroupView;
use super::group::Group;
use super::{GroupView, Groups, MemberView, Who, name};

/// The protocol of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Members join, one of them deals out.
    Classic,
    /// The server deals out.
    Consumer,
}

impl Kind {
    /// As the protocol writes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Kind::Classic => "classic",
            Kind::Consumer => "consumer",
        }
    }
}

/// A group in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its name.
    pub id: Arc<str>,
    /// Its protocol.
    pub kind: Kind,
    /// The type of what it is for: `consumer`, `connect`, …
    pub protocol_type: Box<str>,
    /// What it is at, as the protocol writes it.
    pub state: &'static str,
}

/// What a group is at, in short.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// As the protocol writes it.
    pub state: &'static str,
    /// How partitions are dealt out.
    pub protocol: Option<Box<str>>,
    /// How many members it has.
    pub members: usize,
}

/// A member of either protocol, without what it says of topics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberSeen {
    /// Its id.
    pub id: Box<str>,
    /// The instance that it is.
    pub instance: Option<Box<str>>,
    /// Who it is.
    pub who: Who,
}

/// A group with what it takes in an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Described<T> {
    /// It.
    pub view: T,
    /// Bytes, about.
    pub bytes: usize,
}

/// A description would be longer than it may be: it has about so many bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLong(pub usize);

/// The type of what groups of the newer protocol are for: there is one.
const CONSUMER: &str = "consumer";

impl Groups {
    /// A group as it is, if that has at most so many bytes.
    ///
    /// # Errors
    /// [`TooLong`].
    pub fn describe(
        &self,
        vhost: &str,
        group: &str,
        bytes_max: usize,
    ) -> Result<Option<Described<GroupView>>, TooLong> {
        let (inner, name) = (self.lock(), name(vhost, group));
        let known = inner.groups.get(&name);
        match known.map_or(0, Group::view_bytes) {
            bytes if bytes > bytes_max => Err(TooLong(bytes)),
            bytes => Ok(known.map(|g| Described { view: view(&name.1, g), bytes })),
        }
    }

    /// A group of the newer protocol as it is, if that has at most so many bytes.
    ///
    /// # Errors
    /// [`TooLong`].
    pub fn describe_consumers(
        &self,
        vhost: &str,
        group: &str,
        bytes_max: usize,
    ) -> Result<Option<Described<ConsumerGroupView>>, TooLong> {
        let described = self.with_consumers(vhost, group, |g| match g.view_bytes() {
            bytes if bytes > bytes_max => Err(TooLong(bytes)),
            bytes => Ok(Described { view: g.view(), bytes }),
        });
        described.transpose()
    }

    /// What a group is at, if there is one.
    #[must_use]
    pub fn summary(&self, vhost: &str, group: &str) -> Option<Summary> {
        let (inner, name) = (self.lock(), name(vhost, group));
        if let Some(g) = inner.consumers.get(&name).filter(|g| g.has_members()) {
            return Some(Summary { state: g.state(), protocol: Some(g.assignor().into()), members: g.len() });
        }
        let summary = |g: &Group| Summary {
            state: g.state().as_str(),
            protocol: g.chosen().map(Into::into),
            members: g.members().count(),
        };
        inner.groups.get(&name).map(summary)
    }

    /// The members of a group.
    #[must_use]
    pub fn members(&self, vhost: &str, group: &str) -> Vec<MemberSeen> {
        let (inner, name) = (self.lock(), name(vhost, group));
        let seen = |id: &str, instance: &Option<Box<str>>, who: &Who| MemberSeen {
            id: id.into(),
            instance: instance.clone(),
            who: who.clone(),
        };
        let classic = inner.groups.get(&name).into_iter().flat_map(Group::members);
        let classic = classic.map(|(id, m, _)| seen(id, &m.instance, &m.who));
        let consumers = inner.consumers.get(&name).into_iter().flat_map(|g| g.members());
        classic.chain(consumers.map(|(id, instance, who)| seen(id, instance, who))).collect()
    }

    /// All groups of a vhost.
    #[must_use]
    pub fn list(&self, vhost: &str) -> Vec<Listed> {
        let inner = self.lock();
        let classic = inner.groups.of(vhost).map(|(id, g)| Listed {
            id: Arc::clone(id),
            kind: Kind::Classic,
            protocol_type: g.protocol_type.clone(),
            state: g.state().as_str(),
        });
        let consumers = inner.consumers.of(vhost).filter(|(_, g)| g.has_members()).map(|(id, g)| Listed {
            id: Arc::clone(id),
            kind: Kind::Consumer,
            protocol_type: CONSUMER.into(),
            state: g.state(),
        });
        classic.chain(consumers).collect()
    }
}

fn view(id: &Arc<str>, group: &Group) -> GroupView {
    let chosen = group.chosen();
    let members = group.members().map(|(id, m, said)| MemberView {
        id: id.clone(),
        instance: m.instance.clone(),
        who: m.who.clone(),
        metadata: if chosen.is_some() { said.to_vec() } else { Vec::new() },
        assignment: m.assignment.clone(),
    });
    GroupView {
        id: Arc::clone(id),
        state: group.state(),
        protocol_type: group.protocol_type.clone(),
        protocol: chosen.map(Into::into),
        generation: group.generation(),
        members: members.collect(),
    }
}

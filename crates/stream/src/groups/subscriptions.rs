//! What members of groups read, as far as they say so.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::book::Kept;
use super::group::Group;
use super::{Groups, State, name};

/// The type of protocol whose members say which topics they read.
const CONSUMER: &str = "consumer";
/// What members of a group may have said together to be looked through, bytes: everybody waits meanwhile.
const LOOKED_THROUGH_BYTES_MAX: usize = 16 << 20;

impl Groups {
    /// Those of some topics that no member of a group reads. None of them, as long as that is not known: while members
    /// join, where they are no consumers of topics, or have said too much to be looked through.
    #[must_use]
    pub fn unread(&self, vhost: &str, group: &str, topics: BTreeSet<Arc<str>>) -> BTreeSet<Arc<str>> {
        let (inner, name) = (self.lock(), name(vhost, group));
        let mut left = topics;
        if let Some(group) = inner.consumers.get(&name).filter(|g| g.has_members()) {
            group.leave_unread(&mut left);
        } else if let Some(group) = inner.groups.get(&name).filter(|g| g.has_members())
            && leave_unread(group, &mut left).is_none()
        {
            left.clear();
        }
        left
    }
}

/// `None`: it is not known what is read.
fn leave_unread(group: &Group, topics: &mut BTreeSet<Arc<str>>) -> Option<()> {
    let known = group.state() == State::Stable && *group.protocol_type == *CONSUMER;
    if !known || group.view_bytes() > LOOKED_THROUGH_BYTES_MAX {
        return None;
    }
    for (_, _, said) in group.members() {
        each_topic(said, |topic| {
            topics.remove(topic);
        })?;
    }
    Some(())
}

/// The topics of what consumers say when they join (`ConsumerProtocolSubscription`, any version): a version, then the names
/// of topics, then what newer versions add. `None`: it is none.
fn each_topic(said: &[u8], mut topic: impl FnMut(&str)) -> Option<()> {
    let (_version, rest) = said.split_first_chunk::<2>()?;
    let (count, mut rest) = rest.split_first_chunk::<4>()?;
    for _ in 0..u32::try_from(i32::from_be_bytes(*count)).ok()? {
        let (length, behind) = rest.split_first_chunk::<2>()?;
        let length = usize::try_from(i16::from_be_bytes(*length)).ok()?;
        let (name, behind) = behind.split_at_checked(length)?;
        topic(std::str::from_utf8(name).ok()?);
        rest = behind;
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(topics: &[&str]) -> Vec<u8> {
        let mut said = vec![0, 3];
        said.extend((topics.len() as i32).to_be_bytes());
        for topic in topics {
            said.extend((topic.len() as i16).to_be_bytes());
            said.extend(topic.as_bytes());
        }
        said
    }

    fn topics(said: &[u8]) -> Option<Vec<String>> {
        let mut topics = Vec::new();
        each_topic(said, |topic| topics.push(topic.to_owned()))?;
        Some(topics)
    }

    #[test]
    fn topics_are_read_out_of_what_consumers_say_and_out_of_nothing_else() {
        let whole = said(&["a", "topic"]);
        assert_eq!(topics(&whole), Some(vec!["a".to_owned(), "topic".to_owned()]));
        assert_eq!(topics(&said(&[])), Some(vec![]));
        // What newer versions add.
        assert_eq!(topics(&[&whole[..], &[0, 0, 0, 0, 7]].concat()).map(|t| t.len()), Some(2));
        assert!((0..whole.len()).all(|cut| topics(&whole[..cut]).is_none()));
        for negative in [[0xff, 0xff, 0xff, 0xff], [0x7f, 0xff, 0xff, 0xff]] {
            assert_eq!(topics(&[&[0, 0][..], &negative, &[0, 1, b'a']].concat()), None);
        }
        assert_eq!(topics(b"\x00\x00\x00\x00\x00\x01\xff\xffa"), None);
        assert_eq!(topics(b"\x00\x00\x00\x00\x00\x01\x00\x01\xff"), None);
    }
}

//! The channels of a connection.

use std::collections::BTreeMap;
use std::sync::Arc;

use waypost_model::{ConsumerId, Refusal, Route};

use super::confirm::Confirms;
use super::content::Assembly;
use super::deliver::Template;
use super::fault::Result;
use super::tx::Tx;
use super::unsettled::{TagRun, Unsettled};

/// How a channel stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ChannelState {
    /// In use.
    Open,
    /// We sent `channel.close`: everything but the answer is discarded. `release`: the core is still to be told.
    Refused { release: bool },
    /// The peer sent `channel.close`: the core has not answered yet.
    Closing,
}

/// Which content is under way on a channel.
#[derive(Debug)]
pub(super) enum Content {
    /// None: methods may come.
    Idle,
    /// A publish came, its header has not.
    Header,
    /// The body has not come completely.
    Body(Box<Assembly>),
}

/// The publish method that came last.
#[derive(Debug, Default)]
pub(super) struct Publishing {
    /// Its whole frame: an equal one means the same.
    pub frame: Vec<u8>,
    pub route: Arc<Route>,
    pub mandatory: bool,
}

impl Publishing {
    pub fn remember(&mut self, frame: &[u8]) {
        self.frame.clear();
        self.frame.extend_from_slice(frame);
    }
}

/// What an empty queue name stands for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum LastQueue {
    None,
    /// The server is still to choose the name.
    Awaited,
    Name(Box<str>),
}

/// Direct reply-to of a channel.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ReplyTo {
    None,
    Awaited,
    Active { consumer: ConsumerId, name: Box<str> },
}

/// One consumer, for encoding what it gets.
#[derive(Debug)]
pub(super) struct Consumer {
    pub tag: Box<str>,
    pub no_ack: bool,
    pub template: Template,
}

/// The consumers of a channel.
#[derive(Debug, Default)]
pub(super) struct Consumers {
    /// `None`: asked for, not answered.
    pub by_tag: BTreeMap<Box<str>, Option<ConsumerId>>,
    pub by_id: BTreeMap<ConsumerId, Consumer>,
}

/// One channel.
#[derive(Debug)]
pub(super) struct Channel {
    pub number: u16,
    pub state: ChannelState,
    /// The core has opened it: what it said of this number before was for an earlier channel.
    pub opened: bool,
    pub content: Content,
    pub publishing: Publishing,
    /// The last delivery tag given.
    pub last_tag: u64,
    pub unsettled: Unsettled,
    pub consumers: Consumers,
    pub confirms: Option<Confirms>,
    pub tx: Option<Tx>,
    pub last_queue: LastQueue,
    pub reply_to: ReplyTo,
    /// Calls that the core has not answered.
    pub unanswered: u32,
}

impl Channel {
    fn new(number: u16) -> Self {
        Channel {
            number,
            state: ChannelState::Open,
            opened: false,
            content: Content::Idle,
            publishing: Publishing::default(),
            last_tag: 0,
            unsettled: Unsettled::default(),
            consumers: Consumers::default(),
            confirms: None,
            tx: None,
            last_queue: LastQueue::None,
            reply_to: ReplyTo::None,
            unanswered: 0,
        }
    }

    /// Drops what a refused channel does not need any more.
    pub fn refuse(&mut self, release: bool) {
        let number = self.number;
        *self = Channel { state: ChannelState::Refused { release }, ..Channel::new(number) };
    }

    /// Whether events of the core are for this channel as the peer knows it.
    pub fn hears(&self) -> bool {
        self.opened && self.state == ChannelState::Open
    }

    /// What an empty queue name stands for: `None` while the answer that tells is awaited.
    pub fn queue_name<'a>(&'a self, name: &'a str) -> Result<Option<&'a str>> {
        match &self.last_queue {
            _ if !name.is_empty() => Ok(Some(name)),
            LastQueue::Name(last) => Ok(Some(last)),
            LastQueue::Awaited => Ok(None),
            LastQueue::None => Err(Refusal::not_found("no previously declared queue")),
        }
    }

    /// Takes what is unsettled under `tag`, or with `multiple` through it; tag 0 is then all.
    pub fn take_unsettled(&mut self, tag: u64, multiple: bool, mut each: impl FnMut(TagRun)) -> Result<()> {
        let found = match (multiple, tag) {
            (true, 0) => {
                self.unsettled.take_all(each);
                true
            }
            (true, _) => self.unsettled.take_through(tag, each),
            (false, _) => self.unsettled.take_one(tag).map(&mut each).is_some(),
        };
        match found {
            true => Ok(()),
            false => Err(Refusal::precondition_failed(format!("unknown delivery tag {tag}"))),
        }
    }
}

/// All channels, by number.
#[derive(Debug, Default)]
pub(super) struct Channels {
    #[expect(clippy::vec_box, reason = "a channel is large, and most connections have one")]
    sorted: Vec<Box<Channel>>,
    /// Where the last look-up ended.
    last: usize,
}

impl Channels {
    pub fn get_mut(&mut self, number: u16) -> Option<&mut Channel> {
        if self.sorted.get(self.last).is_none_or(|c| c.number != number) {
            self.last = self.sorted.binary_search_by_key(&number, |c| c.number).ok()?;
        }
        self.sorted.get_mut(self.last).map(|c| &mut **c)
    }

    /// Adds a channel; the number must be free.
    pub fn insert(&mut self, number: u16) {
        if let Err(at) = self.sorted.binary_search_by_key(&number, |c| c.number) {
            self.sorted.insert(at, Box::new(Channel::new(number)));
        }
    }

    pub fn remove(&mut self, number: u16) {
        if let Ok(at) = self.sorted.binary_search_by_key(&number, |c| c.number) {
            self.sorted.remove(at);
        }
    }

    pub fn len(&self) -> usize {
        self.sorted.len()
    }

    /// Consumers on all channels, those asked for included.
    pub fn consumers(&self) -> usize {
        self.sorted.iter().map(|c| c.consumers.by_tag.len()).sum()
    }

    pub fn clear(&mut self) {
        self.sorted = Vec::new();
    }
}

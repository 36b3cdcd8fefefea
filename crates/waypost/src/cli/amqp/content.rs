//! Messages, put together from their frames.

use anyhow::{anyhow, ensure};
use waypost_amqp::codec::ContentHeader;
use waypost_amqp::codec::method::basic;

/// Largest body that is taken.
const BODY_BYTES_MAX: u64 = 1 << 30;

/// Properties and body.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Content {
    /// The property list as on the wire.
    pub props: Vec<u8>,
    /// The body.
    pub body: Vec<u8>,
}

/// A message that the broker sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// What acknowledges it.
    pub delivery_tag: u64,
    /// Whether it may have been delivered before.
    pub redelivered: bool,
    /// Where it was published to.
    pub exchange: String,
    /// With which routing key.
    pub routing_key: Vec<u8>,
    /// What it is.
    pub content: Content,
}

/// What a content belongs to.
#[derive(Debug)]
pub enum Envelope {
    /// A delivery to a consumer.
    Deliver(Message),
    /// A publish that no queue took; why.
    Return(Message, String),
}

impl Envelope {
    /// The envelope of a delivery.
    pub fn deliver(d: &basic::Deliver<'_>) -> Self {
        Self::Deliver(Message {
            delivery_tag: d.delivery_tag,
            redelivered: d.redelivered,
            exchange: d.exchange.to_owned(),
            routing_key: d.routing_key.0.to_vec(),
            content: Content::default(),
        })
    }

    /// The envelope of a returned message.
    pub fn returned(r: &basic::Return<'_>) -> Self {
        let why = format!("{} {}", r.reply_code, String::from_utf8_lossy(r.reply_text.0));
        let message = Message {
            delivery_tag: 0,
            redelivered: false,
            exchange: r.exchange.to_owned(),
            routing_key: r.routing_key.0.to_vec(),
            content: Content::default(),
        };
        Self::Return(message, why)
    }

    fn content(&mut self) -> &mut Content {
        match self {
            Self::Deliver(m) | Self::Return(m, _) => &mut m.content,
        }
    }
}

/// A message whose frames are still coming.
#[derive(Debug)]
pub struct Assembly {
    envelope: Envelope,
    /// Bytes of body to come; `None` before the header.
    left: Option<u64>,
}

impl Assembly {
    /// The header comes next.
    pub fn new(envelope: Envelope) -> Self {
        Self { envelope, left: None }
    }

    /// Takes the header frame.
    ///
    /// # Errors
    /// It is none, or announces a body that is too large.
    pub fn header(&mut self, payload: &[u8]) -> anyhow::Result<()> {
        let header = ContentHeader::decode(payload)?;
        ensure!(self.left.is_none(), "a second content header");
        ensure!(header.body_size <= BODY_BYTES_MAX, "a message of {} bytes is too large", header.body_size);
        self.left = Some(header.body_size);
        self.envelope.content().props = header.props.to_vec();
        Ok(())
    }

    /// Takes a body frame.
    ///
    /// # Errors
    /// It comes too early, or brings more than was announced.
    pub fn body(&mut self, payload: &[u8]) -> anyhow::Result<()> {
        let left = self.left.ok_or_else(|| anyhow!("a body before its header"))?;
        let rest = left.checked_sub(payload.len() as u64).ok_or_else(|| anyhow!("a body longer than announced"))?;
        self.left = Some(rest);
        self.envelope.content().body.extend_from_slice(payload);
        Ok(())
    }

    /// Whether all of it is there.
    pub fn is_whole(&self) -> bool {
        self.left == Some(0)
    }

    /// What was put together.
    pub fn finish(self) -> Envelope {
        self.envelope
    }
}

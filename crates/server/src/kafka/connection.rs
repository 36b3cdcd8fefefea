//! Bytes in, bytes out: one task reads and carries out, another writes what is ready, in order.

use std::future::{Future, poll_fn};
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use waypost_kafka::apis;
use waypost_kafka::frame::RequestHeader;
use waypost_kafka::wire::{Malformed, Reader};
use waypost_model::Lsn;
use waypost_model::journal::Journal;

use super::answers::Answers;
use super::pipeline::Pipeline;
use super::requests::Requests;
use super::room::Held;
use super::throttle::held_back;
use super::{ANSWERED, Answer, Ask, Session, Who, cluster};
use crate::node::Node;

/// How long an answer may take to be taken.
const STALL: Duration = Duration::from_secs(120);
/// Answers that may wait for the disk or for the peer; then no more is read.
const PIPELINE: usize = 64;
/// Room for a request that is kept for the next one.
const KEPT_BYTES_MAX: usize = 256 * 1024;
/// Bytes of answers that wait for the peer; a longer one waits alone.
const PENDING_BYTES_MAX: u32 = 16 << 20;
/// Answers are written together up to so many bytes, and one more.
const TOGETHER_BYTES_MAX: usize = 256 << 10;
/// Longest request of whoever has not said yet who it is, bytes: as Kafka's `sasl.server.max.receive.size`.
const STRANGER_BYTES_MAX: usize = 512 * 1024;

/// How long a peer that was refused has to read that it was: clients that find the end of the connection together with
/// the answer (kafka-python) never look at the answer, and try again for as long as they live.
const LAST_WORD: Duration = Duration::from_secs(1);

/// An answer on its way.
struct Out {
    /// Its share of [`PENDING_BYTES_MAX`], until it is written.
    _room: Option<OwnedSemaphorePermit>,
    /// The same of the room of all connections.
    _held: Option<Held>,
    after: Option<Lsn>,
    pieces: Vec<Bytes>,
}

/// Serves a connection until either side ends it.
pub(super) async fn run<S: AsyncRead + AsyncWrite + Unpin + Send>(socket: S, session: Session) -> io::Result<()> {
    let (reader, writer) = tokio::io::split(socket);
    let out = Pipeline::new(PIPELINE);
    let node = Arc::clone(&session.node);
    let reading = hurrying(Arc::clone(&node.journal), read_all(reader, &out, session));
    out.drive(reading, write_all(writer, &out, node)).await
}

/// Requests that have come together are carried out together: what they append is waited for once there is no other to read,
/// or one that waits for something.
async fn hurrying<F: Future>(journal: Arc<dyn Journal>, work: F) -> F::Output {
    tokio::pin!(work);
    poll_fn(|cx| {
        let polled = work.as_mut().poll(cx);
        journal.hurry();
        polled
    })
    .await
}

async fn read_all(socket: impl AsyncRead + Unpin, out: &Pipeline<Out>, mut session: Session) -> io::Result<()> {
    let max = usize::try_from(session.node.config.kafka.request_max.0).unwrap_or(usize::MAX);
    let Node { kafka_requests: room, kafka_buffers: buffers, .. } = &*session.node;
    let (mut requests, mut frame) = (Requests::new(socket, room.clone(), Arc::clone(buffers)), Vec::new());
    let room = Arc::new(Semaphore::new(PENDING_BYTES_MAX as usize));
    loop {
        let more = if matches!(session.who, Who::Nobody) {
            requests.next_of_stranger(&mut frame, max.min(STRANGER_BYTES_MAX)).await?
        } else {
            requests.next(&mut frame, max).await?
        };
        if !more {
            return Ok(());
        }
        let answer = one(&mut session, &mut frame).await.map_err(|e| io::Error::new(ErrorKind::InvalidData, e))?;
        // A large request is not remembered by its room.
        if frame.capacity() > KEPT_BYTES_MAX {
            session.node.kafka_buffers.give(std::mem::take(&mut frame));
        }
        let (muted, held) = (std::mem::take(&mut session.muted), session.held.take());
        let (after, pieces, last) = match answer {
            Answer::None => {
                held_back(muted).await;
                continue;
            }
            Answer::Now(pieces) => (None, pieces, false),
            Answer::After(lsn, pieces) => (Some(lsn), pieces, false),
            Answer::Last(pieces) => (None, pieces, true),
        };
        let length = pieces.iter().map(Bytes::len).sum::<usize>();
        let share = u32::try_from(length).unwrap_or(u32::MAX).min(PENDING_BYTES_MAX);
        let room = Arc::clone(&room).acquire_many_owned(share).await.ok();
        out.send(Out { _room: room, _held: held, after, pieces }).await;
        if last {
            // Whatever it says to that, or that it goes, ends the wait.
            let _ = tokio::time::timeout(LAST_WORD, requests.next(&mut frame, STRANGER_BYTES_MAX)).await;
            return Ok(());
        }
        // Over its quota: what it sends waits in its own buffers.
        held_back(muted).await;
    }
}

/// Carries out one request. Its buffer is taken where what it holds is kept.
async fn one(session: &mut Session, frame: &mut Vec<u8>) -> Result<Answer, Malformed> {
    let mut reader = Reader::new(frame);
    let header = RequestHeader::read(&mut reader, apis::request_form)?;
    let at = frame.len() - reader.left();
    let api = apis::find(header.api_key).filter(|api| ANSWERED.contains(&api.key));
    let Some(api) = api else { return Err(Malformed::Value("an API that was not advertised")) };
    let ask = Ask {
        api,
        version: header.api_version,
        correlation_id: header.correlation_id,
        client_id: header.client_id.as_deref().unwrap_or_default(),
        body: &[],
    };
    if api.key == apis::PRODUCE && api.speaks(ask.version) {
        session.entered(api)?;
        return session.produce(&ask, frame, at).await;
    }
    let ask = Ask { body: frame.get(at..).unwrap_or_default(), ..ask };
    if !api.speaks(ask.version) {
        // The one answer that clients of any version can read.
        return if api.key == apis::API_VERSIONS {
            Ok(cluster::other_versions(&ask))
        } else {
            Err(Malformed::Value("api version"))
        };
    }
    session.answer(&ask).await
}

async fn write_all(mut socket: impl AsyncWrite + Unpin, ready: &Pipeline<Out>, node: Arc<Node>) -> io::Result<()> {
    let (mut answers, mut rooms, mut next) = (Answers::default(), Vec::new(), None);
    loop {
        let Some(first) = (if next.is_some() { next.take() } else { ready.receive().await }) else { break };
        if !node.reached(first.after).await {
            return Err(io::Error::new(ErrorKind::TimedOut, "the disk has not confirmed a write in time"));
        }
        // One commit makes many answers ready.
        let durable = node.journal.durable();
        next = Some(first);
        while let Some(Out { _room, _held, pieces, .. }) =
            next.take_if(|out| out.after.is_none_or(|lsn| lsn <= durable))
        {
            rooms.push((_room, _held));
            answers.add(pieces)?;
            if answers.bytes() < TOGETHER_BYTES_MAX {
                next = ready.next();
            }
        }
        let written = tokio::time::timeout(STALL, answers.write(&mut socket)).await;
        written.map_err(|_| io::Error::new(ErrorKind::TimedOut, "the peer takes no answers"))??;
        rooms.clear();
    }
    tokio::time::timeout(STALL, socket.shutdown()).await?
}

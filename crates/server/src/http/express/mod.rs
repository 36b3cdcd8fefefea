//! The few requests of which there are very many, answered before hyper sees them.
//!
//! A lookup, a heartbeat or a registration costs less than what a general HTTP server does around it. So what hyper reads
//! from is an [`Express`]: where a request begins, it looks whether it knows the whole of it, and if so answers by itself;
//! hyper goes on waiting for a request to come. Everything else passes through untouched.
//!
//! What is answered here and what is hyper's must never be mistaken for one another. So a connection is in one of three
//! states ([`Whose`]): at the beginning of a request; inside of one that is hyper's, whose length is beyond doubt (see
//! [`Head::read`]); or hyper's for good, as soon as anything is unusual: a head in pieces, chunks, an upgrade, requests in
//! advance of hyper's answers. From the second it returns to the first only when hyper has sent its answer as a whole.

mod head;
pub(super) mod wire;

use std::cell::RefCell;
use std::future::Future;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::HttpListener;
use super::body::Answer;
use super::idle::{Activity, UnderWay};
use super::request::Peer;
pub(super) use head::Head;

/// An answer.
pub(super) enum Reply {
    /// Encoded before, but for what [`wire::finish`] adds.
    Known { head: Bytes, body: Bytes },
    /// Of its own.
    New(Answer),
}

/// What becomes of a request that is answered here.
pub(super) enum Verdict {
    Now(Reply),
    Later(Later),
}

/// An answer to come.
pub(super) type Later = Pin<Box<dyn Future<Output = Reply> + Send>>;

/// Who reads next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whose {
    /// We: a request is to begin.
    Ours,
    /// Hyper, which has a request of which so many octets are to come.
    Hypers { owed: usize },
    /// Hyper, to the end of the connection.
    HypersForGood,
}

/// What is to be sent of answers that were given here.
#[derive(Debug, Default)]
struct Out {
    head: Vec<u8>,
    sent: usize,
    body: Bytes,
    unflushed: bool,
}

impl Out {
    fn is_empty(&self) -> bool {
        self.sent == self.head.len() && self.body.is_empty()
    }
}

/// Bodies up to this size are written with their head, bytes: a copy costs less than a second piece.
const COPIED_MAX: usize = 16 * 1024;

thread_local! {
    /// Where answers are put together, so that no connection needs room for that.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A connection as hyper sees it.
pub(super) struct Express<S> {
    inner: S,
    listener: Arc<HttpListener>,
    peer: Peer,
    activity: Arc<Activity>,
    whose: Whose,
    out: Out,
    /// The answer that is awaited.
    later: Option<(Later, UnderWay)>,
    /// What came after a request that is not answered yet: at most one read.
    early: Vec<u8>,
}

/// Octets that are read at once of a connection that hyper has not seen yet.
const READ_BYTES: usize = 8 * 1024;

/// What a look at the beginning of a request came to.
enum Step {
    /// It is answered or going to be, and was so long.
    Taken(usize),
    /// It is hyper's.
    Passed,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Express<S> {
    pub(super) fn new(inner: S, listener: Arc<HttpListener>, peer: Peer, activity: Arc<Activity>) -> Express<S> {
        let (out, early) = (Out::default(), Vec::new());
        Express { inner, listener, peer, activity, whose: Whose::Ours, out, later: None, early }
    }

    /// Answers requests as long as they are known here. True when one has come that is not, which hyper is to read from
    /// this; false at the end of the connection. A connection on which nothing else comes needs neither hyper nor a buffer.
    ///
    /// # Errors
    /// Those of the connection.
    pub(super) async fn run(&mut self) -> io::Result<bool> {
        std::future::poll_fn(|cx| {
            let mut room = [const { MaybeUninit::uninit() }; READ_BYTES];
            let mut buf = ReadBuf::uninit(&mut room);
            ready!(self.poll_ours(cx, &mut buf))?;
            self.early.splice(..0, buf.filled().iter().copied());
            Poll::Ready(Ok(!buf.filled().is_empty()))
        })
        .await
    }

    /// Reads at the beginning of a request: answers those that it knows, and completes with the octets of one that it does
    /// not, or with none at the end of the connection.
    fn poll_ours(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let start = buf.filled().len();
        loop {
            ready!(self.poll_out(cx))?;
            if let Some((later, _)) = &mut self.later {
                match later.as_mut().poll(cx) {
                    Poll::Ready(reply) => {
                        self.later = None;
                        self.put(cx, reply)?;
                        continue;
                    }
                    Poll::Pending => return self.poll_while_waiting(cx, buf),
                }
            }
            if self.early.is_empty() {
                ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
            } else if !self.take_early(buf) {
                self.whose = Whose::HypersForGood;
                return Poll::Ready(Ok(()));
            }
            let came = buf.filled().get(start..).unwrap_or_default();
            if came.is_empty() {
                return Poll::Ready(Ok(()));
            }
            match self.look(cx, came)? {
                Step::Passed => return Poll::Ready(Ok(())),
                Step::Taken(len) => {
                    let rest = buf.filled().get(start.saturating_add(len)..).unwrap_or_default();
                    self.early.extend_from_slice(rest);
                    buf.set_filled(start);
                }
            }
        }
    }

    /// Moves what came early to where it is read. False if there is no room for all of it: the rest follows.
    fn take_early(&mut self, buf: &mut ReadBuf<'_>) -> bool {
        let len = self.early.len().min(buf.remaining());
        buf.put_slice(self.early.get(..len).unwrap_or_default());
        self.early.drain(..len);
        self.early.is_empty()
    }

    /// Somebody waits for an answer: if the client goes, this ends.
    fn poll_while_waiting(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if !self.early.is_empty() {
            return Poll::Pending;
        }
        let start = buf.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
        let came = buf.filled().get(start..).unwrap_or_default();
        if came.is_empty() {
            // Hyper takes this for the end between two requests, and closes.
            self.later = None;
            return Poll::Ready(Ok(()));
        }
        self.early.extend_from_slice(came);
        buf.set_filled(start);
        Poll::Pending
    }

    /// Looks at the beginning of a request.
    fn look(&mut self, cx: &mut Context<'_>, came: &[u8]) -> io::Result<Step> {
        let Some(head) = Head::read(came) else {
            self.whose = Whose::HypersForGood;
            return Ok(Step::Passed);
        };
        let len = head.len.saturating_add(head.body_len);
        if head.is_known
            && let Some(body) = came.get(head.len..len)
        {
            let under_way = self.activity.begin();
            match self.listener.express(&head, body, self.peer) {
                Some(Verdict::Now(reply)) => {
                    self.put(cx, reply)?;
                    return Ok(Step::Taken(len));
                }
                Some(Verdict::Later(later)) => {
                    self.later = Some((later, under_way));
                    return Ok(Step::Taken(len));
                }
                None => {}
            }
        }
        self.whose = match len.checked_sub(came.len()) {
            Some(owed) => Whose::Hypers { owed },
            // It has the beginning of the next one, too.
            None => Whose::HypersForGood,
        };
        Ok(Step::Passed)
    }

    /// Writes an answer as far as there is room for it; [`Express::poll_out`] sends the rest.
    fn put(&mut self, cx: &mut Context<'_>, reply: Reply) -> io::Result<()> {
        let last = *self.listener.stop.borrow();
        // Answers in a row are written one by one.
        debug_assert!(self.out.is_empty());
        SCRATCH.with_borrow_mut(|scratch| {
            scratch.clear();
            let mut body = match reply {
                Reply::Known { head, body } => {
                    scratch.extend_from_slice(&head);
                    body
                }
                Reply::New(answer) => {
                    let parts = wire::parts(super::held::with_room(answer));
                    let (head, body) = parts.ok_or_else(|| io::Error::other("an answer without an end"))?;
                    scratch.extend_from_slice(&head);
                    body
                }
            };
            wire::finish(scratch, last);
            if body.len() <= COPIED_MAX {
                scratch.extend_from_slice(&body);
                body = Bytes::new();
            }
            let sent = match poll_write_both(&mut self.inner, cx, scratch, &body) {
                Poll::Ready(sent) => sent?,
                Poll::Pending => 0,
            };
            let rest = scratch.get(sent..).unwrap_or_default();
            body.advance((sent - (scratch.len() - rest.len())).min(body.len()));
            self.out = Out { head: rest.to_vec(), sent: 0, body, unflushed: true };
            Ok(())
        })
    }

    /// Sends what is to be sent.
    fn poll_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Out { head, sent, body, unflushed } = &mut self.out;
        while *sent < head.len() || body.has_remaining() {
            let rest = head.get(*sent..).unwrap_or_default();
            let wrote = ready!(poll_write_both(&mut self.inner, cx, rest, body))?;
            if wrote == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            let of_head = wrote.min(rest.len());
            *sent += of_head;
            body.advance((wrote - of_head).min(body.len()));
        }
        if *unflushed {
            ready!(Pin::new(&mut self.inner).poll_flush(cx))?;
            self.out = Out::default();
        }
        Poll::Ready(Ok(()))
    }

    /// Reads what is hyper's.
    fn poll_hypers(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>, owed: usize) -> Poll<io::Result<()>> {
        let start = buf.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
        let came = buf.filled().len().saturating_sub(start);
        // More than is owed came in advance of the answer: hyper keeps it.
        self.whose = owed.checked_sub(came).map_or(Whose::HypersForGood, |owed| Whose::Hypers { owed });
        Poll::Ready(Ok(()))
    }

    /// Hyper has nothing left to send.
    fn sent_by_hyper(&mut self) {
        if self.whose == (Whose::Hypers { owed: 0 }) && self.activity.is_answered() {
            self.whose = Whose::Ours;
        }
    }
}

fn poll_write_both<S: AsyncWrite + Unpin>(
    to: &mut S,
    cx: &mut Context<'_>,
    head: &[u8],
    body: &[u8],
) -> Poll<io::Result<usize>> {
    if body.is_empty() {
        return Pin::new(to).poll_write(cx, head);
    }
    Pin::new(to).poll_write_vectored(cx, &[IoSlice::new(head), IoSlice::new(body)])
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Express<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        match this.whose {
            Whose::Ours => this.poll_ours(cx, buf),
            _ if !this.early.is_empty() => {
                this.take_early(buf);
                Poll::Ready(Ok(()))
            }
            Whose::Hypers { owed } => this.poll_hypers(cx, buf, owed),
            Whose::HypersForGood => Pin::new(&mut this.inner).poll_read(cx, buf),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Express<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    /// Hyper comes here only when it has written everything that it has.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(Pin::new(&mut this.inner).poll_flush(cx))?;
        this.sent_by_hyper();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // Hyper knows nothing of an answer that is to come. Nobody waits long once the node stops.
        if let Some((later, _)) = &mut this.later {
            let reply = ready!(later.as_mut().poll(cx));
            this.later = None;
            this.put(cx, reply)?;
        }
        ready!(this.poll_out(cx))?;
        Pin::new(&mut this.inner).poll_shutdown(cx)
    }
}

//! Answers that may take a while.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use super::GroupFault;

/// An answer to a join.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joined {
    /// Why not.
    pub fault: Option<GroupFault>,
    /// The member's id, also one that is yet to be used.
    pub member_id: Box<str>,
    /// The generation.
    pub generation: i32,
    /// The type of the protocol.
    pub protocol_type: Box<str>,
    /// The chosen protocol.
    pub protocol: Box<str>,
    /// Who leads.
    pub leader: Box<str>,
    /// For the leader: everybody, with what they said about the chosen protocol: id, instance, metadata.
    pub members: Vec<(Box<str>, Option<Box<str>>, Vec<u8>)>,
    /// The leader need not deal out anything: what was dealt out still holds.
    pub skip_assignment: bool,
}

impl Joined {
    pub(super) fn failed(fault: GroupFault, member_id: Box<str>) -> Joined {
        Joined {
            fault: Some(fault),
            member_id,
            generation: -1,
            protocol_type: "".into(),
            protocol: "".into(),
            leader: "".into(),
            members: Vec::new(),
            skip_assignment: false,
        }
    }
}

/// An answer to a sync.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Synced {
    /// Why not.
    pub fault: Option<GroupFault>,
    /// The type of the protocol.
    pub protocol_type: Box<str>,
    /// The chosen protocol.
    pub protocol: Box<str>,
    /// What the member is to read, as the leader wrote it.
    pub assignment: Vec<u8>,
}

impl Synced {
    pub(super) fn failed(fault: GroupFault) -> Synced {
        Synced { fault: Some(fault), protocol_type: "".into(), protocol: "".into(), assignment: Vec::new() }
    }
}

#[derive(Debug)]
struct Inner<T> {
    answer: Option<T>,
    waker: Option<Waker>,
}

/// Where an answer is put.
#[derive(Debug)]
pub(super) struct Slot<T>(Arc<Mutex<Inner<T>>>);

/// A future of an answer.
#[derive(Debug)]
pub struct Awaited<T>(Arc<Mutex<Inner<T>>>);

/// A slot and its future.
pub(super) fn pair<T>() -> (Slot<T>, Awaited<T>) {
    let inner = Arc::new(Mutex::new(Inner { answer: None, waker: None }));
    (Slot(Arc::clone(&inner)), Awaited(inner))
}

impl<T> Slot<T> {
    pub fn answer(self, answer: T) {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        inner.answer = Some(answer);
        let waker = inner.waker.take();
        drop(inner);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl<T> Awaited<T> {
    pub(super) fn ready(answer: T) -> Awaited<T> {
        Awaited(Arc::new(Mutex::new(Inner { answer: Some(answer), waker: None })))
    }

    /// The answer, if it is there.
    pub fn take(&self) -> Option<T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).answer.take()
    }
}

impl<T> Future for Awaited<T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(answer) = inner.answer.take() {
            return Poll::Ready(answer);
        }
        inner.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

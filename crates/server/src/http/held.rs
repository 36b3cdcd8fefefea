//! Large answers that were made for one client: all that are on their way together take no more than so much memory.
//!
//! What is rendered once and shared by all who ask (services, lists) needs no room of its own. What walks a store for one client
//! (all keys with their values, all instances) does, until the client has read it.

use bytes::Bytes;
use hyper::StatusCode;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::body::{Answer, Body};
use super::request::Failure;

/// Answers up to this size need no room, bytes: there are at most as many as connections.
const SMALL: usize = 64 * 1024;

/// Room for larger ones, KiB.
const ROOM_KIB: u32 = 256 * 1024;
static ROOM: Semaphore = Semaphore::const_new(ROOM_KIB as usize);

/// A body and its room.
struct Held {
    bytes: Bytes,
    _room: SemaphorePermit<'static>,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// An answer with room for it, if it needs that; 503 if there is none. Nobody waits for room: an answer that waits is in
/// memory already.
pub(super) fn with_room(answer: Answer) -> Answer {
    with_room_of(&ROOM, ROOM_KIB, answer)
}

fn with_room_of(room: &'static Semaphore, all_kib: u32, mut answer: Answer) -> Answer {
    let Body::Whole(bytes) = answer.body_mut() else { return answer };
    // What others hold, too, is shared.
    if bytes.len() <= SMALL || !bytes.is_unique() {
        return answer;
    }
    let kib = u32::try_from(bytes.len().div_ceil(1024)).unwrap_or(u32::MAX).min(all_kib);
    match room.try_acquire_many(kib) {
        Ok(permit) => {
            *bytes = Bytes::from_owner(Held { bytes: std::mem::take(bytes), _room: permit });
            answer
        }
        Err(_) => {
            let why = "too many large answers are on their way; ask for less, or later";
            Failure::new(StatusCode::SERVICE_UNAVAILABLE, why).retry_after(1).into_answer()
        }
    }
}

#[cfg(test)]
mod tests {
    use hyper::Response;

    use super::*;

    const KIB: u32 = 300;
    static LITTLE: Semaphore = Semaphore::const_new(KIB as usize);

    fn answer(bytes: &Bytes) -> Answer {
        with_room_of(&LITTLE, KIB, Response::new(Body::Whole(bytes.slice(..))))
    }

    fn own(len: usize) -> Answer {
        with_room_of(&LITTLE, KIB, Response::new(Body::Whole(vec![b'x'; len].into())))
    }

    #[test]
    fn large_answers_of_ones_own_take_room_until_they_are_gone() {
        let first = own(200 << 10);
        assert_eq!((first.status(), LITTLE.available_permits()), (StatusCode::OK, 100));
        assert_eq!(own(200 << 10).status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(own(SMALL).status(), StatusCode::OK);
        let shared = Bytes::from(vec![b'x'; 200 << 10]);
        assert_eq!(answer(&shared).status(), StatusCode::OK);
        drop(first);
        assert_eq!(LITTLE.available_permits(), 300);
        let larger_than_all = own(1 << 20);
        assert_eq!((larger_than_all.status(), LITTLE.available_permits()), (StatusCode::OK, 0));
    }
}

//! How far clients are over their quotas: each has a bucket that fills with what it sends or takes, and drains at its rate.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use waypost_broker::topology::{QuotaKind, QuotaShare};

/// What a client may send or take at once, in seconds of its rate, before it is held back.
const BURST_S: f64 = 1.0;
/// Longest that a client is held back at a time.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// Most buckets. Whoever finds no room shares one with all others like him.
const BUCKETS_MAX: usize = 100_000;

type Key = (QuotaKind, Option<Arc<str>>, Option<Arc<str>>);

#[derive(Debug)]
struct Bucket {
    /// Bytes that the rate has not yet allowed for.
    level: f64,
    rate: f64,
    at: Instant,
}

impl Bucket {
    fn drain(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.level = (self.level - passed * self.rate).max(0.0);
        self.at = now;
    }
}

/// All buckets of a node.
#[derive(Debug, Default)]
pub(crate) struct Throttle(Mutex<BTreeMap<Key, Bucket>>);

impl Throttle {
    /// Notes that bytes were sent or taken under a quota: for how long the client is to be held back.
    pub(super) fn note(&self, kind: QuotaKind, share: QuotaShare, bytes: usize, now: Instant) -> Duration {
        let mut buckets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut key = (kind, share.user, share.client_id);
        if buckets.len() >= BUCKETS_MAX && !buckets.contains_key(&key) {
            buckets.retain(|_, bucket| {
                bucket.drain(now);
                bucket.level > 0.0
            });
            if buckets.len() >= BUCKETS_MAX {
                key = (kind, None, None);
            }
        }
        let bucket = buckets.entry(key).or_insert(Bucket { level: 0.0, rate: share.rate, at: now });
        bucket.drain(now);
        bucket.rate = share.rate;
        bucket.level += bytes as f64;
        let over = bucket.level / bucket.rate - BURST_S;
        Duration::try_from_secs_f64(over.max(0.0)).unwrap_or(PAUSE_MAX).min(PAUSE_MAX)
    }
}

/// Waits for as long as a client is to be held back. Who is not, does not wait at all: the runtime's timers are no finer than a millisecond,
/// which a sleep of no length takes as well.
pub(super) async fn held_back(time: Duration) {
    if !time.is_zero() {
        tokio::time::sleep(time).await;
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    #[tokio::test]
    async fn who_is_not_held_back_goes_on_at_once() {
        let mut cx = Context::from_waker(Waker::noop());
        assert_eq!(pin!(held_back(Duration::ZERO)).poll(&mut cx), Poll::Ready(()));
        assert_eq!(pin!(held_back(Duration::from_secs(9))).poll(&mut cx), Poll::Pending);
    }

    fn share(user: &str, client_id: Option<&str>, rate: f64) -> QuotaShare {
        QuotaShare { rate, user: Some(user.into()), client_id: client_id.map(Into::into) }
    }

    #[test]
    fn who_keeps_to_his_rate_is_never_held_back() {
        let (throttle, begun) = (Throttle::default(), Instant::now());
        for second in 0..100 {
            let now = begun + Duration::from_secs(second);
            assert_eq!(throttle.note(QuotaKind::Producer, share("ann", None, 1000.0), 1000, now), Duration::ZERO);
        }
    }

    #[test]
    fn what_is_over_is_waited_for() {
        let (throttle, now) = (Throttle::default(), Instant::now());
        let note = |kind, share, after| throttle.note(kind, share, 3000, now + Duration::from_secs(after));
        assert_eq!(note(QuotaKind::Producer, share("ann", None, 1000.0), 0), Duration::from_secs(2));
        assert_eq!(note(QuotaKind::Producer, share("ann", None, 1000.0), 2), Duration::from_secs(3));
        // The other direction, another user, another client: buckets of their own.
        assert_eq!(note(QuotaKind::Consumer, share("ann", None, 1000.0), 2), Duration::from_secs(2));
        assert_eq!(note(QuotaKind::Producer, share("bob", None, 3000.0), 2), Duration::ZERO);
        assert_eq!(note(QuotaKind::Producer, share("ann", Some("app"), 3000.0), 2), Duration::ZERO);
        // A higher rate holds at once; and never longer than the longest.
        assert_eq!(note(QuotaKind::Producer, share("ann", None, 1e9), 2), Duration::ZERO);
        assert_eq!(note(QuotaKind::Producer, share("eve", None, 1e-9), 2), PAUSE_MAX);
    }

    #[test]
    fn buckets_are_bounded() {
        let (throttle, now) = (Throttle::default(), Instant::now());
        for n in 0..=BUCKETS_MAX + 10 {
            throttle.note(QuotaKind::Producer, share(&n.to_string(), None, 1.0), 1000, now);
        }
        assert!(throttle.0.lock().unwrap().len() <= BUCKETS_MAX + 1);
        let later = now + Duration::from_secs(20_000);
        throttle.note(QuotaKind::Producer, share("late", None, 1.0), 1, later);
        assert_eq!(throttle.0.lock().unwrap().len(), 1);
    }
}
